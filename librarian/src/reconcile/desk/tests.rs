//! A reconcile from the first report to the open registry, on real files.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode;
use zones::{Epoch, Level, Register, Role};

use super::*;
use crate::reconcile::{backup, restore};
use crate::registry::{By, Plan, ServerChange, WantsChange};
use crate::testing::{Pool, domain, proposal, server, settings};

/// A restored registry, its desk, and where it lies.
struct Restored {
    registry: Registry,
    desk: Arc<Desk>,
    dir: tempfile::TempDir,
}

impl Restored {
    /// What a librarian finds that was started after `librarian restore` of this backup, or after `rebuild`.
    async fn new(from: Option<&Path>) -> Restored {
        let dir = tempfile::tempdir().unwrap();
        restore::make(dir.path(), &domain(), from).unwrap();
        Restored::open(dir).await
    }

    async fn open(dir: tempfile::TempDir) -> Restored {
        let registry = Registry::open(&dir.path().join("registry.redb"), &domain(), settings()).unwrap();
        for name in ["s1", "s2", "s3"] {
            let (name, role) = (server(name), Role::Serving);
            let add = ServerChange::Add { name, role };
            registry.submit(Proposal::Server(add)).await.unwrap();
        }
        let desk = Arc::new(Desk::new(registry.clone()));
        Restored { registry, desk, dir }
    }

    /// The librarian is killed and started again.
    async fn again(self) -> Restored {
        self.registry.close().await;
        Restored::open(self.dir).await
    }

    async fn report(&self, name: &str, from: u64, end: bool, claims: Vec<Claim>) -> Result<(), SubmitError> {
        self.report_as(name, (9, None), from, end, claims).await
    }

    /// The same by a server that knows its role, of that plan.
    async fn report_as(
        &self,
        name: &str,
        (plan, role): (u64, Option<Role>),
        from: u64,
        end: bool,
        claims: Vec<Claim>,
    ) -> Result<(), SubmitError> {
        let report = Box::new(Report {
            server: server(name),
            incarnation: Incarnation(self.registry.incarnation()),
            from,
            plan,
            role,
            end,
            claims,
        });
        self.desk.admit(&report).map_err(SubmitError::Refused)?;
        let findings = Findings::default();
        let step = Step::Merge {
            report: report.clone(),
            findings: Arc::clone(&findings),
        };
        self.registry.submit(Proposal::Reconcile(step)).await?;
        self.desk.took(&report, &findings);
        Ok(())
    }

    async fn run(&self) -> bool {
        let run = self.desk.run(self.dir.path(), CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(20), run).await.is_ok()
    }

    fn register(&self, address: &str) -> Option<Register> {
        self.registry.view().register(&address.parse().unwrap())
    }

    fn said(&self, address: &str) -> Option<(u64, String, State)> {
        let register = self.register(address)?;
        Some((register.epoch.0, register.owner.to_string(), register.state))
    }

    fn standing(&self, name: &str) -> Standing {
        self.desk.told(Some(&server(name))).standing
    }
}

fn owned(address: &str, epoch: u64) -> Claim {
    claim(address, epoch, Claimed::Owned { others: Vec::new() })
}

fn claim(address: &str, epoch: u64, what: Claimed) -> Claim {
    Claim {
        address: address.parse().unwrap(),
        epoch: Epoch(epoch),
        what,
        tx: Tx([7; 16]),
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
    }
}

/// The owner gives its register a fresh tx.
fn touched(old: &Register) -> Proposal {
    let change = zones::RegisterChange {
        old: Some(old.clone()),
        new: Register {
            tx: Tx([1; 16]),
            ..old.clone()
        },
    };
    let message = zones::update::build_register_update(&domain(), 1, &[change]).unwrap();
    proposal(By::Agent(old.owner.clone()), &message)
}

async fn saved(addresses: &[&str]) -> (Pool, std::path::PathBuf, Vec<Register>) {
    let pool = Pool::new().await;
    let registers = pool.create("s1", addresses).await;
    let path = pool.dir.path().join("a.backup");
    backup::write(&path, &pool.registry.snapshot().unwrap()).unwrap();
    (pool, path, registers)
}

#[tokio::test]
async fn old_registry_takes_what_servers_know_and_opens_with_fresh_numbers() {
    let (pool, path, before) = saved(&["3.1", "3.2", "3.3"]).await;
    let restored = Restored::new(Some(&path)).await;
    assert_ne!(restored.registry.incarnation(), pool.registry.incarnation());
    assert_eq!(restored.standing("s1"), Standing::Report);

    // No register changes, and whoever asks is told why.
    let refused = touched(&before[0]);
    let refused = restored.registry.submit(refused).await.unwrap_err();
    assert!(refused.to_string().contains("being reconciled"), "{refused}");
    assert!(matches!(&refused, SubmitError::Refused(r) if r.info_code == zones::ExtendedError::NOT_READY));
    let plan = Plan {
        number: 1,
        parent: 0,
        document: String::new(),
    };
    assert!(restored.registry.submit(Proposal::Plan(plan)).await.is_err());

    // 3.1 stayed, 3.2 moved to s2, 3.3 was deleted, 3.4 was made.
    let s1 = vec![
        owned("3.1", 1),
        claim("3.2", 2, Claimed::Gone { to: server("s2") }),
        claim("3.3", 2, Claimed::Deleted),
    ];
    restored.report("s1", 0, true, s1).await.unwrap();
    assert_eq!(restored.standing("s1"), Standing::Reported);
    let s2 = vec![owned("3.2", 2), owned("3.4", 1)];
    restored.report("s2", 0, true, s2).await.unwrap();
    let waits = restored.desk.waits_for(&restored.registry.view()).unwrap();
    assert_eq!(waits, [server("s3"), server("s4"), server("s5")]);
    for silent in ["s3", "s4", "s5"] {
        restored.report(silent, 0, true, Vec::new()).await.unwrap();
    }
    assert!(restored.run().await);

    assert_eq!(restored.standing("s1"), Standing::Open);
    assert_eq!(restored.said("3.1"), Some((1, "s1".to_owned(), State::Stable)));
    assert_eq!(restored.said("3.2"), Some((2, "s2".to_owned(), State::Stable)));
    assert_eq!(restored.said("3.3"), Some((2, "s1".to_owned(), State::Deleted)));
    assert_eq!(restored.said("3.4"), Some((1, "s2".to_owned(), State::Stable)));
    // An update from before the restore names a text that is gone.
    let late = touched(&before[0]);
    let late = restored.registry.submit(late).await.unwrap_err();
    assert_eq!(late.rcode(), ResponseCode::NXRRSet);
    // Servers that have seen plan 9 take the wants for new.
    let view = restored.registry.view();
    assert_eq!(view.plan().unwrap().number, 10);
    assert!(view.servers().all(|server| server.want.plan == 10));
    let status = restored.desk.status(&view, restored.dir.path());
    assert_eq!((status.conflicts_count, status.claimless_count), (0, 0));
}

#[tokio::test]
async fn killed_librarian_collects_anew_and_ends_the_same() {
    let restored = Restored::new(None).await;
    restored.report("s1", 0, true, vec![owned("3.1", 4)]).await.unwrap();
    restored.report("s2", 0, false, vec![owned("3.2", 1)]).await.unwrap();
    let incarnation = restored.registry.incarnation();
    let restored = restored.again().await;
    assert_eq!(restored.registry.incarnation(), incarnation);
    assert_eq!(restored.standing("s1"), Standing::Report);
    // What the process before had is missing here, so that report begins anew.
    let gap = restored.report("s2", 1, true, Vec::new()).await.unwrap_err();
    assert!(gap.to_string().contains("begin the report anew"), "{gap}");
    for (name, claims) in [
        ("s1", vec![owned("3.1", 4)]),
        ("s2", vec![owned("3.2", 1)]),
        ("s3", vec![owned("3.1", 3)]),
    ] {
        restored.report(name, 0, true, claims).await.unwrap();
    }
    assert!(restored.run().await);
    assert_eq!(restored.said("3.1"), Some((4, "s1".to_owned(), State::Stable)));
    let restored = restored.again().await;
    assert_eq!(restored.standing("s1"), Standing::Open);
    assert_eq!(restored.said("3.2"), Some((1, "s2".to_owned(), State::Stable)));
}

#[tokio::test]
async fn open_move_goes_to_its_source_unless_its_commit_is_known() {
    let restored = Restored::new(None).await;
    let arriving = || Claimed::Arriving { from: server("s1") };
    let s1 = vec![owned("3.1", 1), claim("3.2", 2, Claimed::Gone { to: server("s2") })];
    restored.report("s1", 0, true, s1).await.unwrap();
    let s2 = vec![claim("3.1", 2, arriving()), claim("3.2", 2, arriving())];
    restored.report("s2", 0, true, s2).await.unwrap();
    restored.report("s3", 0, true, Vec::new()).await.unwrap();
    assert!(restored.run().await);
    assert_eq!(restored.said("3.1"), Some((1, "s1".to_owned(), State::Stable)));
    assert_eq!(restored.said("3.2"), Some((2, "s2".to_owned(), State::Stable)));
    let status = restored.desk.status(&restored.registry.view(), restored.dir.path());
    assert_eq!(status.claimless_count, 0);
}

#[tokio::test]
async fn server_that_is_written_off_is_not_waited_for_and_its_objects_are_listed() {
    let (_pool, path, _) = saved(&["3.1", "3.2"]).await;
    let restored = Restored::new(Some(&path)).await;
    for name in ["s3", "s4", "s5"] {
        restored.report(name, 0, true, Vec::new()).await.unwrap();
    }
    // 3.2 was on its way to s2, and 3.9 was made at s1 and on its way as well.
    let arriving = |address| claim(address, 2, Claimed::Arriving { from: server("s1") });
    let s2 = vec![arriving("3.2"), arriving("3.9")];
    restored.report("s2", 0, true, s2).await.unwrap();
    assert_eq!(
        restored.desk.waits_for(&restored.registry.view()),
        Some(vec![server("s1")])
    );
    assert!(restored.desk.write_off(&server("s9")).await.is_err());
    restored.desk.write_off(&server("s1")).await.unwrap();
    assert!(restored.run().await);
    assert_eq!(restored.standing("s1"), Standing::WrittenOff);
    let status = restored.desk.status(&restored.registry.view(), restored.dir.path());
    assert_eq!((status.claimless_count, status.rescued_count), (1, 2), "{status:?}");
    assert_eq!(status.claimless[0].address, "3.1");
    assert!(status.claimless[0].written_off);
    assert_eq!(restored.said("3.2"), Some((2, "s2".to_owned(), State::Stable)));
    assert_eq!(restored.said("3.9"), Some((2, "s2".to_owned(), State::Stable)));

    // It changes nothing any more, until it joins anew with nothing.
    let restored = restored.again().await;
    assert_eq!(restored.standing("s1"), Standing::WrittenOff);
    let (name, role) = (server("s1"), Role::Free);
    let joined = Step::Joined { server: name, role };
    restored.registry.submit(Proposal::Reconcile(joined)).await.unwrap();
    assert_eq!(restored.standing("s1"), Standing::Open);
    assert_eq!(
        restored.registry.view().server(&server("s1")).unwrap().role(),
        Role::Free
    );
}

#[tokio::test]
async fn server_that_is_lost_after_its_report_has_nothing_any_more() {
    let restored = Restored::new(None).await;
    let s1 = vec![owned("3.1", 1), owned("3.2", 1)];
    restored.report("s1", 0, true, s1).await.unwrap();
    restored.report("s2", 0, true, vec![owned("3.2", 2)]).await.unwrap();
    restored.desk.write_off(&server("s1")).await.unwrap();
    restored.report("s3", 0, true, Vec::new()).await.unwrap();
    assert!(restored.run().await);
    let status = restored.desk.status(&restored.registry.view(), restored.dir.path());
    let listed: Vec<&str> = status.claimless.iter().map(|object| object.address.as_str()).collect();
    assert_eq!((listed, status.claimless_count), (vec!["3.1"], 1));
}

#[tokio::test]
async fn contradiction_is_listed_and_what_was_known_stands() {
    let restored = Restored::new(None).await;
    for name in ["s1", "s2", "s3"] {
        let claims = match name {
            "s3" => Vec::new(),
            _ => vec![owned("3.1", 5)],
        };
        restored.report(name, 0, true, claims).await.unwrap();
    }
    assert!(restored.run().await);
    assert_eq!(restored.said("3.1"), Some((5, "s1".to_owned(), State::Stable)));
    let status = restored.desk.status(&restored.registry.view(), restored.dir.path());
    assert_eq!(status.conflicts_count, 1);
    assert_eq!(status.conflicts[0].server, "s2");
}

#[tokio::test]
async fn report_to_another_registry_or_to_an_open_one_is_refused() {
    let pool = Pool::new().await;
    let desk = Desk::new(pool.registry.clone());
    let mut report = Report {
        server: server("s1"),
        incarnation: Incarnation([9; 16]),
        from: 0,
        plan: 0,
        role: None,
        end: true,
        claims: vec![owned("3.1", 1)],
    };
    assert!(desk.admit(&report).is_err());
    report.incarnation = Incarnation(pool.registry.incarnation());
    desk.admit(&report).unwrap();
    let step = Step::Merge {
        report: Box::new(report),
        findings: Findings::default(),
    };
    let refused = pool.registry.submit(Proposal::Reconcile(step)).await.unwrap_err();
    assert!(refused.to_string().contains("not being reconciled"), "{refused}");
    assert!(pool.registry.view().register(&"3.1".parse().unwrap()).is_none());
}

#[tokio::test]
async fn many_registers_get_their_fresh_number_each() {
    let (_pool, path, _) = saved(&[]).await;
    let restored = Restored::new(Some(&path)).await;
    let count = FRESHEN_STEP + 3;
    let all: Vec<Claim> = (0..count).map(|number| owned(&format!("4.{number}"), 1)).collect();
    let mut from = 0;
    for some in all.chunks(500) {
        restored.report("s1", from, false, some.to_vec()).await.unwrap();
        from += some.len() as u64;
    }
    restored.report("s1", from, true, Vec::new()).await.unwrap();
    for name in ["s2", "s3", "s4", "s5"] {
        restored.report(name, 0, true, Vec::new()).await.unwrap();
    }
    assert!(restored.run().await);
    let view = restored.registry.view();
    let registers = view.registers_from(None, count + 1);
    let fresh: std::collections::HashSet<Tx> = registers.iter().map(|register| register.tx).collect();
    assert_eq!((registers.len(), fresh.len()), (count, count));
    assert!(!fresh.contains(&Tx([7; 16])));
}

/// A drain that had ended, and a server that had not heard yet that it serves: of what they say, all are free.
#[tokio::test]
async fn after_a_reconcile_somebody_serves_and_somebody_is_free() {
    for (said, serves) in [
        ([Role::Free, Role::Free, Role::Free], "s1"),
        ([Role::Free, Role::Empty, Role::Free], "s2"),
        ([Role::Free, Role::Free, Role::Serving], "s3"),
    ] {
        let restored = Restored::new(None).await;
        for (name, role) in ["s1", "s2", "s3"].into_iter().zip(said) {
            let known = (3, Some(role));
            restored.report_as(name, known, 0, true, vec![]).await.unwrap();
        }
        assert!(restored.run().await);
        let view = restored.registry.view();
        let serving = view.servers().filter(|server| server.role() == Role::Serving);
        let serving: Vec<String> = serving.map(|server| server.name.to_string()).collect();
        assert_eq!(serving, [serves], "{said:?}");
        assert!(
            view.servers()
                .all(|server| [Role::Serving, Role::Free].contains(&server.role()))
        );
    }
}

#[tokio::test]
async fn backup_that_knows_a_later_plan_than_a_server_knows_its_role_better() {
    let pool = Pool::new().await;
    let plan = pool::Plan {
        number: 5,
        parent: 0,
        goal: Goal::Settle,
        homes: BTreeMap::new(),
        open: BTreeMap::new(),
        policy: zones::Policy::default(),
        upgrade: None,
    };
    let plan = Plan {
        number: plan.number,
        parent: plan.parent,
        document: plan.document(),
    };
    pool.registry.submit(Proposal::Plan(plan)).await.unwrap();
    let want = zones::Want {
        role: Role::Quarantined,
        targets: Vec::new(),
        plan: 5,
        step: 1,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let wants = WantsChange {
        plan: 5,
        decided_from: BTreeMap::new(),
        wants: BTreeMap::from([(server("s2"), want)]),
        todos: BTreeMap::new(),
    };
    pool.registry.submit(Proposal::Wants(wants)).await.unwrap();
    let path = pool.dir.path().join("a.backup");
    backup::write(&path, &pool.registry.snapshot().unwrap()).unwrap();
    for (seen, expected) in [(4, Role::Quarantined), (5, Role::Serving)] {
        let restored = Restored::new(Some(&path)).await;
        for name in ["s1", "s2", "s3", "s4", "s5"] {
            let known = (seen, Some(Role::Serving));
            restored.report_as(name, known, 0, true, vec![]).await.unwrap();
        }
        assert!(restored.run().await);
        let role = restored
            .registry
            .view()
            .server(&server("s2"))
            .map(registry::Server::role);
        assert_eq!(role, Some(expected), "seen {seen}");
    }
}

/// The source learned of the commit, removed its copy and forgot where it went, while the destination heard nothing of it.
#[tokio::test]
async fn copy_on_its_way_from_who_has_the_object_no_more_is_the_object() {
    let (_pool, path, _) = saved(&["3.1", "3.2"]).await;
    for backup in [Some(path.as_path()), None] {
        let restored = Restored::new(backup).await;
        let arriving = |address| claim(address, 2, Claimed::Arriving { from: server("s1") });
        let s1 = vec![owned("3.2", 1)];
        restored.report("s1", 0, true, s1).await.unwrap();
        let s2 = vec![arriving("3.1"), arriving("3.2")];
        restored.report("s2", 0, true, s2).await.unwrap();
        for name in ["s3", "s4", "s5"] {
            // Those of the backup beside the three.
            drop(restored.report(name, 0, true, vec![]).await);
        }
        assert!(restored.run().await);
        assert_eq!(restored.said("3.1"), Some((2, "s2".to_owned(), State::Stable)));
        assert_eq!(restored.said("3.2"), Some((1, "s1".to_owned(), State::Stable)));
        let view = restored.registry.view();
        let status = restored.desk.status(&view, restored.dir.path());
        assert_eq!((status.rescued_count, status.claimless_count), (1, 0));
    }
}
