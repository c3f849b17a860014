//! The registry as a whole: atomic, durable, grouped, compacted.

mod checkpoint;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hickory_proto::op::ResponseCode;
use zones::update::build_register_update;
use zones::{Register, RegisterChange, Role, State, Want, Wish};

use super::*;
use crate::testing::{Pool, address, domain, proposal, server, settings};

fn rcode(result: &Result<(), SubmitError>) -> ResponseCode {
    match result {
        Ok(()) => ResponseCode::NoError,
        Err(error) => error.rcode(),
    }
}

/// What a crash would leave: the files as they are now, opened by a new process.
fn after_crash(pool: &Pool) -> (tempfile::TempDir, Registry) {
    let (dir, path) = crashed(pool, &["redb", "wal"]);
    let registry = Registry::open(&path, &domain(), settings()).unwrap();
    (dir, registry)
}

/// A copy of some of a registry's files.
fn crashed(pool: &Pool, extensions: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.redb");
    for extension in extensions {
        std::fs::copy(pool.path().with_extension(extension), path.with_extension(extension)).unwrap();
    }
    (dir, path)
}

/// What the file says of its own layout.
fn format(path: &Path) -> u32 {
    use redb::ReadableDatabase;

    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let database = redb::Database::open(path).unwrap();
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    let format = meta.get("format").unwrap().unwrap().value().try_into();
    u32::from_be_bytes(format.unwrap())
}

#[tokio::test]
async fn last_commits_lie_beside_the_file_until_the_librarian_stops_in_order() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1"]).await;
    // The file alone lacks it, and says so to a release that does not know of the other.
    let (dir, path) = crashed(&pool, &["redb"]);
    assert_eq!(format(&path), 2);
    let alone = Registry::open(&path, &domain(), settings()).unwrap();
    assert_eq!(alone.view().register(&address("3.1")), None);
    alone.close().await;
    drop(dir);
    let (_dir, both) = after_crash(&pool);
    assert!(both.view().register(&address("3.1")).is_some());
    pool.registry.close().await;
    assert!(!pool.path().with_extension("wal").exists());
    assert_eq!(format(&pool.path()), 1);
    let (_dir, path) = crashed(&pool, &["redb"]);
    let stopped = Registry::open(&path, &domain(), settings()).unwrap();
    assert!(stopped.view().register(&address("3.1")).is_some());
}

#[tokio::test]
async fn registry_opens_and_takes_changes_where_the_file_beside_it_cannot_be_made() {
    let pool = Pool::new().await;
    pool.registry.close().await;
    let wal = pool.path().with_extension("wal");
    std::fs::create_dir(&wal).unwrap();
    let pool = pool.opened_again(JournalBounds::default());
    pool.create("s1", &["3.1"]).await;
    let (_dir, path) = crashed(&pool, &["redb"]);
    let registry = Registry::open(&path, &domain(), settings()).unwrap();
    assert!(registry.view().register(&address("3.1")).is_some());
    pool.registry.close().await;
    assert_eq!(format(&pool.path()), 1);
}

#[tokio::test]
async fn commits_beside_another_registry_are_left_alone() {
    let (pool, other) = (Pool::new().await, Pool::new().await);
    pool.create("s1", &["3.1"]).await;
    let (_dir, path) = crashed(&pool, &["redb", "wal"]);
    // A registry that was restored lies there now.
    other.registry.close().await;
    std::fs::copy(other.path(), &path).unwrap();
    let registry = Registry::open(&path, &domain(), settings()).unwrap();
    assert_eq!(registry.view().objects(), 0);
}

#[tokio::test]
async fn of_two_hundred_updates_with_one_prerequisite_in_one_group_exactly_one_wins() {
    let pool = Pool::new().await;
    let old = pool.create("s1", &["3.1"]).await.remove(0);
    let change = |old: Option<&Register>, new: Register| {
        let change = RegisterChange { old: old.cloned(), new };
        let message = build_register_update(&domain(), 1, &[change]).unwrap();
        proposal(By::Agent(server("s1")), &message)
    };
    let mut proposed = Vec::new();
    {
        // The writer cannot publish while a view is held: once it wants to, all that comes makes the next group.
        let view = pool.registry.view();
        let first = change(None, pool.first("9", "s1"));
        proposed.push(pool.registry.propose(first).await.unwrap());
        while !pool.registry.shared.index.is_locked_exclusive() {
            tokio::task::yield_now().await;
        }
        for _ in 0..200 {
            let new = Register {
                tx: pool.tx(),
                ..old.clone()
            };
            proposed.push(pool.registry.propose(change(Some(&old), new)).await.unwrap());
        }
        assert_eq!(pool.registry.waiting(), 200);
        drop(view);
    }
    let mut results = Vec::new();
    for one in proposed {
        results.push(rcode(&one.verdict().await));
    }
    let count = |rcode| results.iter().filter(|found| **found == rcode).count();
    assert_eq!((count(ResponseCode::NoError), count(ResponseCode::NXRRSet)), (2, 199));
}

#[tokio::test]
async fn message_with_one_bad_change_changes_nothing() {
    let pool = Pool::new().await;
    let old = pool.create("s1", &["1.1"]).await.remove(0);
    let good = pool.first("1.2", "s1");
    let not_ours = pool.first("1.3", "s2");
    let stale = RegisterChange {
        old: Some(old.clone()),
        new: old.clone(),
    };
    let create = |new: &Register| RegisterChange {
        old: None,
        new: new.clone(),
    };
    let message = build_register_update(&domain(), 1, &[create(&good), stale, create(&not_ours)]).unwrap();
    let result = pool.registry.submit(proposal(By::Agent(server("s1")), &message)).await;
    assert_eq!(rcode(&result), ResponseCode::Refused);
    assert_eq!(pool.registry.view().register(&address("1.2")), None);
    assert_eq!(pool.registry.view().objects(), 1);
}

#[tokio::test]
async fn later_member_of_a_group_sees_what_an_earlier_one_changes() {
    let pool = Pool::new().await;
    let first = pool.first("5", "s1");
    let second = Register {
        tx: pool.tx(),
        ..first.clone()
    };
    let message = |old: Option<&Register>, new: &Register| {
        let change = RegisterChange {
            old: old.cloned(),
            new: new.clone(),
        };
        proposal(
            By::Agent(server("s1")),
            &build_register_update(&domain(), 1, &[change]).unwrap(),
        )
    };
    let one = pool.registry.propose(message(None, &first)).await.unwrap();
    let two = pool.registry.propose(message(Some(&first), &second)).await.unwrap();
    let again = pool.registry.propose(message(Some(&first), &second)).await.unwrap();
    assert_eq!(rcode(&one.verdict().await), ResponseCode::NoError);
    assert_eq!(rcode(&two.verdict().await), ResponseCode::NoError);
    assert_eq!(rcode(&again.verdict().await), ResponseCode::NXRRSet);
    assert_eq!(pool.registry.view().register(&address("5")), Some(second));
}

#[tokio::test]
async fn crash_keeps_all_that_was_acknowledged() {
    let pool = Pool::new().await;
    let mut registers = pool.create("s1", &["1", "1.A", "2.023"]).await;
    let deleted = Register {
        epoch: registers[2].epoch.next(),
        state: State::Deleted,
        holders: Vec::new(),
        tx: pool.tx(),
        ..registers[2].clone()
    };
    pool.change(Some(&registers[2]), &deleted).await.unwrap();
    registers[2] = deleted;
    let plan = Plan {
        number: 4,
        parent: 0,
        document: "drain s1".to_owned(),
    };
    pool.registry.submit(Proposal::Plan(plan.clone())).await.unwrap();
    let want = Want {
        role: Role::Draining,
        targets: vec![server("s5")],
        plan: 4,
        step: 1,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let wants = WantsChange {
        plan: 4,
        wants: BTreeMap::from([(server("s1"), want.clone())]),
        ..WantsChange::default()
    };
    pool.registry.submit(Proposal::Wants(wants)).await.unwrap();
    let lost = ServerChange::Lost {
        name: server("s4"),
        lost: true,
        decided: None,
    };
    pool.registry.submit(Proposal::Server(lost)).await.unwrap();
    let (_dir, registry) = after_crash(&pool);
    let (view, before) = (registry.view(), pool.registry.view());
    for register in registers {
        assert_eq!(view.register(&register.address), Some(register));
    }
    assert_eq!(view.serials(), before.serials());
    assert_eq!(view.plan().map(|plan| (**plan).clone()), Some(plan));
    assert_eq!(view.server(&server("s1")).unwrap().want, want);
    assert!(view.server(&server("s4")).unwrap().lost);
    assert_eq!(view.server(&server("s1")).unwrap().has().unwrap().commits, 7);
    assert_eq!(view.server(&server("s1")).unwrap().seen, None);
    assert_eq!(
        view.index().apex.node(domain().apex()),
        before.index().apex.node(domain().apex())
    );
    assert_eq!(registry.incarnation(), pool.registry.incarnation());
    assert_eq!((view.objects(), view.objects_owned(&server("s1"))), (2, 2));
}

#[tokio::test]
async fn only_one_process_may_hold_the_file() {
    let pool = Pool::empty();
    let second = Registry::open(&pool.path(), &domain(), settings());
    assert!(matches!(second, Err(StorageError::InUse { .. })));
    pool.registry.close().await;
    assert!(Registry::open(&pool.path(), &domain(), settings()).is_ok());
}

#[tokio::test]
async fn registry_of_another_pool_is_not_opened() {
    let pool = Pool::empty();
    pool.registry.close().await;
    let other = Registry::open(&pool.path(), &"other.internal".parse().unwrap(), settings());
    assert!(matches!(other, Err(StorageError::Domain { .. })));
}

#[tokio::test]
async fn closed_registry_has_finished_what_was_proposed_and_takes_no_more() {
    let pool = Pool::new().await;
    let register = pool.first("7", "s1");
    let change = RegisterChange {
        old: None,
        new: register.clone(),
    };
    let message = build_register_update(&domain(), 1, &[change]).unwrap();
    let proposed = pool
        .registry
        .propose(proposal(By::Agent(server("s1")), &message))
        .await
        .unwrap();
    pool.registry.close().await;
    assert_eq!(proposed.verdict().await, Ok(()));
    assert_eq!(pool.registry.view().register(&address("7")), Some(register.clone()));
    let late = pool.registry.submit(proposal(By::Agent(server("s1")), &message)).await;
    assert_eq!(late, Err(SubmitError::Closed));
    let reopened = Registry::open(&pool.path(), &domain(), settings()).unwrap();
    assert_eq!(reopened.view().register(&address("7")), Some(register));
}

/// Entries in the log of a closed registry.
fn log_entries(path: &Path) -> (usize, usize) {
    let mut storage = RedbStorage::open(path, &domain().to_string()).unwrap();
    let (mut all, mut index) = (chunk::Chunk::default(), Index::loading(&domain(), 0));
    storage
        .load(0, &mut |chunk| {
            index.load(chunk)?;
            for (seq, octets) in chunk.iter() {
                all.push(seq, octets);
            }
            Ok(())
        })
        .unwrap();
    index.finish_loading();
    (all.len(), index.counting(&all).unwrap().len())
}

#[tokio::test]
async fn log_stays_below_twice_what_counts_and_loses_nothing() {
    let pool = Pool::new().await;
    let stay = pool.create("s2", &["1", "2", "3"]).await;
    let names: Vec<String> = (0..400).map(|n| format!("8.{n}")).collect();
    let mut registers = pool
        .create("s1", &names.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    for _ in 0..40 {
        let changes: Vec<RegisterChange> = registers
            .iter()
            .map(|old| RegisterChange {
                old: Some(old.clone()),
                new: Register {
                    tx: pool.tx(),
                    ..old.clone()
                },
            })
            .collect();
        for part in changes.chunks(80) {
            let message = build_register_update(&domain(), 1, part).unwrap();
            pool.registry
                .submit(proposal(By::Agent(server("s1")), &message))
                .await
                .unwrap();
        }
        registers = changes.into_iter().map(|change| change.new).collect();
    }
    pool.registry.close().await;
    let (all, counting) = log_entries(&pool.path());
    assert!(
        all > 400 && all < 2 * counting + 6000,
        "{all} entries, {counting} count"
    );
    let reopened = Registry::open(&pool.path(), &domain(), settings()).unwrap();
    for register in registers.iter().chain(&stay) {
        assert_eq!(reopened.view().register(&register.address).as_ref(), Some(register));
    }
    assert_eq!(reopened.view().servers().len(), 5);
    assert_eq!(reopened.view().serials(), pool.registry.view().serials());
}

/// A store whose disk fails when told to.
struct FailingStorage {
    inner: RedbStorage,
    fails: Arc<std::sync::atomic::AtomicBool>,
}

impl Storage for FailingStorage {
    fn entries(&self) -> Result<u64, StorageError> {
        self.inner.entries()
    }

    fn load(&mut self, from: u64, each: &mut storage::EachChunk<'_>) -> Result<(), StorageError> {
        self.inner.load(from, each)
    }

    fn commit(&mut self, batch: &storage::Batch) -> Result<(), StorageError> {
        if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(redb::Error::Io(std::io::Error::other("no space left")).into());
        }
        self.inner.commit(batch)
    }

    fn read_log(&self, from: u64, most: usize, each: &mut storage::EachEntry<'_>) -> Result<(), StorageError> {
        self.inner.read_log(from, most, each)
    }
}

#[tokio::test]
async fn what_is_not_durable_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let inner = RedbStorage::open(&dir.path().join("registry.redb"), &domain().to_string()).unwrap();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let storage = FailingStorage {
        inner,
        fails: Arc::clone(&fails),
    };
    let registry = Registry::load(Box::new(storage), [0; 16], &domain(), settings(), None).unwrap();
    let add = |name: &str| {
        Proposal::Server(ServerChange::Add {
            name: server(name),
            role: Role::Serving,
        })
    };
    registry.submit(add("s1")).await.unwrap();
    fails.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(registry.submit(add("s2")).await, Err(SubmitError::Storage));
    assert_eq!(registry.view().servers().len(), 1);
    fails.store(false, std::sync::atomic::Ordering::Relaxed);
    registry.submit(add("s3")).await.unwrap();
    assert_eq!(registry.view().servers().len(), 2);
}

#[tokio::test]
async fn failed_commit_in_the_midst_of_cleaning_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.redb");
    let inner = RedbStorage::open(&path, &domain().to_string()).unwrap();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let storage = FailingStorage {
        inner,
        fails: Arc::clone(&fails),
    };
    let registry = Registry::load(Box::new(storage), [0; 16], &domain(), settings(), None).unwrap();
    for name in ["s1", "s2"] {
        let add = ServerChange::Add {
            name: server(name),
            role: Role::Serving,
        };
        registry.submit(Proposal::Server(add)).await.unwrap();
    }
    // Enough entries of s2 that cleaning begins; those of the zone and of s1 are the oldest that count.
    for round in 0..6 {
        fails.store(round == 3, std::sync::atomic::Ordering::Relaxed);
        let mut proposed = Vec::new();
        for n in 0..2000 {
            let lost = ServerChange::Lost {
                name: server("s2"),
                lost: n % 2 == 0,
                decided: None,
            };
            proposed.push(registry.propose(Proposal::Server(lost)).await.unwrap());
        }
        let mut failed = 0;
        for one in proposed {
            failed += usize::from(one.verdict().await.is_err());
        }
        assert_eq!(failed > 0, round == 3);
    }
    registry.close().await;
    let (all, counting) = log_entries(&path);
    assert!(all < 6000, "{all} entries: nothing was cleaned");
    assert_eq!(counting, 4, "the zone, two servers, the serials");
    let reopened = Registry::open(&path, &domain(), settings()).unwrap();
    assert_eq!(reopened.view().servers().len(), 2);
    assert!(reopened.view().index().apex.node(domain().apex()).is_some());
}

#[tokio::test]
async fn wants_are_written_only_under_the_current_plan_and_from_wants_that_stand() {
    let pool = Pool::new().await;
    let before = pool.registry.view().server(&server("s1")).unwrap().want.clone();
    let want = |step| Want {
        role: Role::Draining,
        targets: vec![server("s5")],
        plan: 1,
        step,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let change = |plan, from: &Want, step| WantsChange {
        plan,
        decided_from: BTreeMap::from([(server("s1"), from.clone())]),
        wants: BTreeMap::from([(server("s1"), want(step))]),
        todos: BTreeMap::from([(
            server("s2"),
            vec![Wish::Move {
                address: address("1"),
                server: server("s3"),
            }],
        )]),
    };
    let plan = |number, parent| {
        Proposal::Plan(Plan {
            number,
            parent,
            document: String::new(),
        })
    };
    let submit = |change| pool.registry.submit(Proposal::Wants(change));
    assert!(
        submit(change(1, &before, 1)).await.is_err(),
        "plan 1 is not current yet"
    );
    pool.registry.submit(plan(1, 0)).await.unwrap();
    assert!(
        pool.registry.submit(plan(2, 0)).await.is_err(),
        "its parent is not current"
    );
    submit(change(1, &before, 1)).await.unwrap();
    assert!(submit(change(1, &before, 2)).await.is_err(), "the want has changed");
    assert!(submit(change(1, &want(1), 0)).await.is_err(), "the step falls");
    submit(change(1, &want(1), 2)).await.unwrap();
    pool.registry.submit(plan(2, 1)).await.unwrap();
    assert!(
        submit(change(1, &want(2), 3)).await.is_err(),
        "plan 1 is current no more"
    );
    let view = pool.registry.view();
    assert_eq!(view.server(&server("s1")).unwrap().want, want(2));
    assert_eq!(view.server(&server("s2")).unwrap().todos.len(), 1);
}

#[tokio::test]
async fn serials_rise_with_registers_roles_and_addresses_only() {
    let pool = Pool::new().await;
    let serials = || pool.registry.view().serials();
    let mut before = serials();
    pool.speak(&server("s1"), 1).await.unwrap();
    assert_eq!(serials(), before, "the same address again");
    pool.create("s1", &["1"]).await;
    assert_eq!(
        (serials().obj, serials().tree, serials().pool),
        (before.obj + 1, before.tree + 1, before.pool)
    );
    before = serials();
    pool.speak(&server("s1"), 9).await.unwrap();
    assert_eq!(
        (serials().obj, serials().tree, serials().pool),
        (before.obj + 1, before.tree + 1, before.pool + 1)
    );
}

#[tokio::test]
async fn server_that_was_heard_meanwhile_or_under_another_plan_is_not_marked() {
    let pool = Pool::new().await;
    let name = server("s2");
    let seen = || pool.registry.view().server(&name).unwrap().seen;
    let mark = |lost, decided| {
        let change = ServerChange::Lost {
            name: name.clone(),
            lost,
            decided: Some(decided),
        };
        pool.registry.submit(Proposal::Server(change))
    };
    let decided = Decided {
        seen: seen(),
        plan: 0,
        role: None,
    };
    pool.speak(&name, 2).await.unwrap();
    assert!(mark(true, decided).await.is_err(), "it has been heard");
    let decided = Decided {
        seen: seen(),
        ..decided
    };
    assert!(mark(true, Decided { plan: 1, ..decided }).await.is_err());
    mark(true, decided).await.unwrap();
    assert!(pool.registry.view().server(&name).unwrap().lost);
    // To take it back nobody has to be silent.
    let back = Decided {
        seen: None,
        role: Some(Role::Failed),
        ..decided
    };
    let step = pool.registry.view().server(&name).unwrap().want.step;
    mark(false, back).await.unwrap();
    let view = pool.registry.view();
    let server = view.server(&name).unwrap();
    assert_eq!(
        (server.lost, server.role(), server.want.step),
        (false, Role::Failed, step + 1)
    );
}
