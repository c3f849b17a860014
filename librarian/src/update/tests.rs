//! Updates as RFC 2136 has them, zone by zone.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode::{self, FormErr, NXDomain, NXRRSet, NoError, NotAuth, Refused, YXDomain, YXRRSet};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use zones::{Change, Epoch, Prerequisite, Register, Role, State, Want, Wish};

use super::*;
use crate::registry::{By, Proposal, SubmitError, WantsChange};
use crate::testing::{Pool, address, received, server};

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.hypernet.internal.")).unwrap()
}

fn text(register: &Register) -> RData {
    RData::TXT(TXT::new(register.strings()))
}

fn code(result: &Result<(), SubmitError>) -> ResponseCode {
    result.as_ref().map_or_else(SubmitError::rcode, |()| NoError)
}

fn why(result: Result<(), SubmitError>) -> String {
    result.unwrap_err().to_string()
}

async fn send(
    pool: &Pool,
    by: By,
    zone: &str,
    prerequisites: Vec<Prerequisite>,
    changes: Vec<Change>,
) -> Result<(), SubmitError> {
    let update = Update {
        zone: if zone.ends_with('.') {
            Name::from_ascii(zone).unwrap()
        } else {
            name(zone)
        },
        prerequisites,
        changes,
    };
    let proposal = Proposal::Update {
        by,
        update,
        malformed: None,
        received: received(),
    };
    pool.registry.submit(proposal).await
}

fn agent(number: u8) -> By {
    By::Agent(server(&format!("s{number}")))
}

fn add(owner: &str, data: RData) -> Change {
    Change::Add(Record::from_rdata(name(owner), 5, data))
}

#[tokio::test]
async fn every_form_of_prerequisite_holds_or_ends_with_its_rcode() {
    let pool = Pool::new().await;
    let register = pool.create("s1", &["3.1"]).await.remove(0);
    let other = pool.first("3.1", "s1");
    pool.nsupdate(
        "hypernet.internal.",
        &[
            "www.hypernet.internal. 60 A 192.0.2.1",
            "www.hypernet.internal. 60 A 192.0.2.2",
        ],
    )
    .await
    .unwrap();
    let exists = |owner: &str, kind| Prerequisite::RrsetExists {
        name: name(owner),
        kind,
    };
    let absent = |owner: &str, kind| Prerequisite::RrsetAbsent {
        name: name(owner),
        kind,
    };
    let equals = |owner: &str, kind, data| Prerequisite::RrsetEquals {
        name: name(owner),
        kind,
        data,
    };
    let in_use = |owner: &str| Prerequisite::NameInUse { name: name(owner) };
    let not_in_use = |owner: &str| Prerequisite::NameNotInUse { name: name(owner) };
    let (one, two) = (RData::A(A::new(192, 0, 2, 1)), RData::A(A::new(192, 0, 2, 2)));
    let table = [
        ("obj", exists("3.1.obj", RecordType::TXT), NoError),
        ("obj", exists("3.1.obj", RecordType::SRV), NXRRSet),
        ("obj", exists("3.2.obj", RecordType::TXT), NXRRSet),
        ("obj", absent("3.2.obj", RecordType::TXT), NoError),
        ("obj", absent("3.1.obj", RecordType::TXT), YXRRSet),
        (
            "obj",
            equals("3.1.OBJ", RecordType::TXT, vec![text(&register)]),
            NoError,
        ),
        ("obj", equals("3.1.obj", RecordType::TXT, vec![text(&other)]), NXRRSet),
        (
            "obj",
            equals("3.1.obj", RecordType::TXT, vec![text(&register), text(&other)]),
            NXRRSet,
        ),
        ("obj", in_use("3.1.obj"), NoError),
        ("obj", in_use("1.obj"), NXDomain),
        ("obj", not_in_use("1.obj"), NoError),
        ("obj", not_in_use("3.1.obj"), YXDomain),
        ("obj", exists("obj", RecordType::SOA), NoError),
        ("pool", exists("s1.pool", RecordType::A), NoError),
        ("pool", exists("s1.pool", RecordType::AAAA), NXRRSet),
        ("pool", in_use("s9.pool"), NXDomain),
        ("pool", exists("_want.s1.pool", RecordType::TXT), NoError),
    ];
    for (zone, prerequisite, expected) in table {
        let result = send(&pool, agent(1), zone, vec![prerequisite.clone()], Vec::new()).await;
        assert_eq!(code(&result), expected, "{prerequisite:?}");
    }
    let table = [
        (equals("www", RecordType::A, vec![two.clone(), one.clone()]), NoError),
        // The set, not some of it: membership would make no compare-and-swap.
        (equals("www", RecordType::A, vec![one.clone()]), NXRRSet),
        (exists("hypernet.internal", RecordType::A), NXRRSet),
    ];
    for (prerequisite, expected) in table {
        let result = send(
            &pool,
            By::Admin,
            "hypernet.internal.",
            vec![prerequisite.clone()],
            Vec::new(),
        )
        .await;
        assert_eq!(code(&result), expected, "{prerequisite:?}");
    }
    let elsewhere = send(&pool, By::Admin, "example.com.", Vec::new(), Vec::new()).await;
    assert_eq!(code(&elsewhere), NotAuth);
}

#[tokio::test]
async fn register_is_created_changed_and_never_removed() {
    let pool = Pool::new().await;
    let register = pool.first("3.1", "s1");
    pool.change(None, &register).await.unwrap();
    let delete = Change::DeleteRecord {
        name: name("3.1.obj"),
        data: text(&register),
    };
    let delete_set = Change::DeleteRrset {
        name: name("3.1.obj"),
        kind: RecordType::TXT,
    };
    let delete_name = Change::DeleteName { name: name("3.1.obj") };
    for by in [agent(1), By::Admin] {
        for delete in [&delete, &delete_set, &delete_name] {
            let result = send(&pool, by.clone(), "obj", Vec::new(), vec![delete.clone()]).await;
            assert_eq!(code(&result), Refused, "{delete:?}");
            assert!(why(result).contains("cannot be removed"));
        }
    }
    let next = Register {
        tx: pool.tx(),
        ..register.clone()
    };
    let add_only = send(&pool, agent(1), "obj", Vec::new(), vec![add("3.1.obj", text(&next))]).await;
    assert_eq!(code(&add_only), Refused);
    // Deletion and addition in either form, and with nothing to delete, make the one register.
    let other = Change::DeleteRecord {
        name: name("3.1.obj"),
        data: text(&next),
    };
    send(
        &pool,
        agent(1),
        "obj",
        Vec::new(),
        vec![other, delete_set, add("3.1.obj", text(&next))],
    )
    .await
    .unwrap();
    assert_eq!(pool.registry.view().register(&address("3.1")), Some(next.clone()));
    // The same again changes nothing, not even the serial.
    let serials = pool.registry.view().serials();
    send(&pool, agent(1), "obj", Vec::new(), vec![add("3.1.obj", text(&next))])
        .await
        .unwrap();
    assert_eq!(pool.registry.view().serials(), serials);
}

#[tokio::test]
async fn what_is_no_register_or_of_another_object_is_refused() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.A"]).await;
    let register = pool.first("3.1", "s1");
    let other_case = pool.first("3.a", "s1");
    let inside = pool.first("x.hypernet.internal", "s1");
    let rows = [
        (
            add("3.1.obj", RData::TXT(TXT::new(vec!["v=hn1".to_owned()]))),
            FormErr,
            "address",
        ),
        (add("3.2.obj", text(&register)), FormErr, "address=3.1"),
        (
            add("3.1.obj", RData::A(A::new(1, 2, 3, 4))),
            Refused,
            "only the TXT record",
        ),
        (add("obj", text(&register)), Refused, "apex"),
        (add("x\\.y.obj", text(&register)), Refused, "no address"),
        (add("x.hypernet.internal.obj", text(&inside)), Refused, "served zone"),
        (
            Change::DeleteRrset {
                name: name("3.A.obj"),
                kind: RecordType::SRV,
            },
            Refused,
            "only the TXT record",
        ),
    ];
    for (change, expected, reason) in rows {
        let result = send(&pool, agent(1), "obj", Vec::new(), vec![change.clone()]).await;
        assert_eq!(code(&result), expected, "{change:?}");
        let why = why(result);
        assert!(why.contains(reason), "{why}");
    }
    let clear = Change::DeleteName { name: name("3.a.obj") };
    let clash = send(
        &pool,
        agent(1),
        "obj",
        Vec::new(),
        vec![clear, add("3.a.obj", text(&other_case))],
    )
    .await;
    assert_eq!(code(&clash), Refused);
    assert!(why(clash).contains("3.A"));
}

#[tokio::test]
async fn policy_is_the_transition_table_on_the_pool_as_it_is() {
    let pool = Pool::new().await;
    let old = pool.create("s1", &["3.1"]).await.remove(0);
    let with = |change: &dyn Fn(&mut Register)| {
        let mut new = Register {
            tx: pool.tx(),
            ..old.clone()
        };
        change(&mut new);
        new
    };
    let to_s2 = with(&|new| new.state = State::Moving { to: server("s2") });
    // Nobody wants it, and it is not s3's to move.
    assert_eq!(code(&pool.change(Some(&old), &to_s2).await), Refused);
    assert_eq!(
        code(&pool.change_by(agent(3), Some(&old), &with(&|_| {})).await),
        Refused
    );
    assert_eq!(
        code(&pool.change(Some(&old), &with(&|new| new.epoch = Epoch(3))).await),
        Refused
    );
    // Creation on a free server is refused; a drain into it is allowed.
    assert_eq!(code(&pool.change(None, &pool.first("9", "s5")).await), Refused);
    let wished = |to: &str| WantsChange {
        todos: BTreeMap::from([(
            server("s1"),
            vec![Wish::Move {
                address: address("3.1"),
                server: server(to),
            }],
        )]),
        ..WantsChange::default()
    };
    // A wish brings nothing to a free server, which would stay free; only a drain does, which makes it serve.
    pool.registry.submit(Proposal::Wants(wished("s5"))).await.unwrap();
    let to_s5 = with(&|new| new.state = State::Moving { to: server("s5") });
    assert_eq!(code(&pool.change(Some(&old), &to_s5).await), Refused);
    pool.registry.submit(Proposal::Wants(wished("s2"))).await.unwrap();
    pool.change(Some(&old), &to_s2).await.unwrap();
    let committed = Register {
        epoch: old.epoch.next(),
        owner: server("s2"),
        holders: vec![server("s2")],
        state: State::Stable,
        tx: pool.tx(),
        ..old.clone()
    };
    assert_eq!(code(&pool.change_by(agent(1), Some(&to_s2), &committed).await), Refused);
    pool.change(Some(&to_s2), &committed).await.unwrap();
    assert_eq!(pool.registry.view().objects_owned(&server("s2")), 1);
    // From cordoned on nothing may newly name s2.
    let cordon = Want {
        role: Role::Cordoned,
        targets: Vec::new(),
        plan: 0,
        step: 1,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let wants = WantsChange {
        wants: BTreeMap::from([(server("s2"), cordon)]),
        ..WantsChange::default()
    };
    pool.registry.submit(Proposal::Wants(wants)).await.unwrap();
    assert_eq!(code(&pool.change(None, &pool.first("10", "s2")).await), Refused);
    assert_eq!(code(&pool.change(None, &pool.first("11", "s9")).await), Refused);
}

#[tokio::test]
async fn server_speaks_for_itself_alone() {
    let pool = Pool::new().await;
    let message = zones::update::build_has_update(
        &crate::testing::domain(),
        1,
        &server("s1"),
        &crate::testing::has(),
        9001,
        &["192.0.2.77".parse().unwrap()],
    )
    .unwrap();
    for by in [agent(2), By::Admin] {
        let result = pool.registry.submit(crate::testing::proposal(by, &message)).await;
        assert_eq!(code(&result), Refused);
    }
    pool.registry
        .submit(crate::testing::proposal(agent(1), &message))
        .await
        .unwrap();
    let view = pool.registry.view();
    assert_eq!(
        view.server(&server("s1"))
            .unwrap()
            .host
            .as_ref()
            .unwrap()
            .addresses
            .len(),
        1
    );
    drop(view);
    for owner in ["_want.s1.pool", "any.pool", "pool", "s1.pool"] {
        let change = Change::DeleteName { name: name(owner) };
        let result = send(&pool, agent(1), "pool", Vec::new(), vec![change]).await;
        assert_eq!(code(&result), Refused, "{owner}");
    }
}

#[tokio::test]
async fn operators_zone_keeps_to_rfc_2136() {
    let pool = Pool::new().await;
    let zone = "hypernet.internal.";
    let records = |owner: &str, kind| -> Vec<String> {
        let view = pool.registry.view();
        let node = view.index().apex.node(&if owner.is_empty() {
            Name::from_ascii(zone).unwrap()
        } else {
            name(owner)
        });
        let set = node.and_then(|node| node.set(kind)).cloned();
        set.map(|set| set.records.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    };
    let serial = || -> u32 {
        let soa = records("", RecordType::SOA).remove(0);
        soa.split(' ').nth(2).unwrap().parse().unwrap()
    };
    let start = serial();
    // Only the admin key.
    let stranger = send(
        &pool,
        agent(1),
        zone,
        Vec::new(),
        vec![add("www", RData::A(A::new(1, 2, 3, 4)))],
    )
    .await;
    assert_eq!(code(&stranger), Refused);
    // One message, one serial; a duplicate changes nothing, a TTL does.
    let line = "www.hypernet.internal. 60 A 192.0.2.1";
    pool.nsupdate(zone, &[line, "www.hypernet.internal. 60 A 192.0.2.2", line])
        .await
        .unwrap();
    assert_eq!((records("www", RecordType::A).len(), serial()), (2, start + 1));
    pool.nsupdate(zone, &[line]).await.unwrap();
    assert_eq!(serial(), start + 1);
    pool.nsupdate(zone, &["www.hypernet.internal. 61 A 192.0.2.1"])
        .await
        .unwrap();
    assert_eq!((records("www", RecordType::A).len(), serial()), (2, start + 2));
    // 3.4.2.2: nothing joins a CNAME, a CNAME joins nothing, and a second replaces the first.
    pool.nsupdate(zone, &["www.hypernet.internal. 60 CNAME a.example."])
        .await
        .unwrap();
    assert!(records("www", RecordType::CNAME).is_empty());
    pool.nsupdate(
        zone,
        &[
            "c.hypernet.internal. 60 CNAME a.example.",
            "c.hypernet.internal. 60 CNAME b.example.",
        ],
    )
    .await
    .unwrap();
    pool.nsupdate(zone, &["c.hypernet.internal. 60 A 192.0.2.1"])
        .await
        .unwrap();
    assert_eq!(records("c", RecordType::CNAME), ["b.example."]);
    assert!(records("c", RecordType::A).is_empty());
    // 3.4.2.3 and 3.4.2.4: the apex keeps SOA and NS, and the last NS.
    let apex = |rest: &str| format!("- hypernet.internal.{rest}");
    let before = serial();
    for line in [
        apex(""),
        apex(" NS"),
        apex(" SOA"),
        apex(" NS ns.pool.hypernet.internal."),
        apex(" SOA 1"),
    ] {
        pool.nsupdate(zone, &[&line]).await.unwrap();
    }
    assert_eq!((records("", RecordType::NS).len(), serial()), (1, before));
    pool.nsupdate(
        zone,
        &[
            "hypernet.internal. 60 NS ns2.example.",
            &apex(" NS ns.pool.hypernet.internal."),
        ],
    )
    .await
    .unwrap();
    assert_eq!(records("", RecordType::NS), ["ns2.example."]);
    // A SOA with a serial that does not rise is passed over (RFC 1982); one that does is taken as it is.
    let before = serial();
    pool.nsupdate(zone, &[&format!("hypernet.internal. 60 SOA {}", before - 1)])
        .await
        .unwrap();
    assert_eq!(serial(), before);
    pool.nsupdate(
        zone,
        &["hypernet.internal. 60 SOA 2147483650", "x.hypernet.internal. 1 TXT a"],
    )
    .await
    .unwrap();
    assert_eq!(serial(), 2_147_483_650);
    pool.nsupdate(zone, &["hypernet.internal. 60 SOA 4294967295"])
        .await
        .unwrap();
    pool.nsupdate(zone, &["x.hypernet.internal. 1 TXT b"]).await.unwrap();
    assert_eq!(serial(), 1, "after the highest serial comes 1");
    // Deletions.
    pool.nsupdate(
        zone,
        &[
            "- www.hypernet.internal. A 192.0.2.1",
            "- x.hypernet.internal. TXT",
            "- c.hypernet.internal.",
        ],
    )
    .await
    .unwrap();
    assert_eq!(records("www", RecordType::A), ["192.0.2.2"]);
    assert!(records("x", RecordType::TXT).is_empty() && records("c", RecordType::CNAME).is_empty());
    // The cuts are not this zone's to change.
    for owner in ["obj", "tree", "pool", "ns.pool", "3.1.obj"] {
        let result = pool
            .nsupdate(zone, &[&format!("{owner}.hypernet.internal. 60 NS ns.example.")])
            .await;
        assert_eq!(code(&result), Refused, "{owner}");
    }
}

#[tokio::test]
async fn only_prefixes_without_objects_are_delegated_and_nothing_is_created_below() {
    let pool = Pool::new().await;
    pool.create("s1", &["3.1.2"]).await;
    let zone = "tree.hypernet.internal.";
    let rows = [
        ("1.3.tree.hypernet.internal. 60 NS ns.example.", Refused),
        ("3.tree.hypernet.internal. 60 NS ns.example.", Refused),
        ("8.tree.hypernet.internal. 60 A 192.0.2.1", Refused),
        ("8.tree.hypernet.internal. 60 TXT x", Refused),
        ("tree.hypernet.internal. 60 NS ns.example.", Refused),
        ("8.tree.hypernet.internal. 60 NS ns.8.tree.hypernet.internal.", NoError),
        ("ns.8.tree.hypernet.internal. 60 A 192.0.2.1", NoError),
    ];
    let serials = pool.registry.view().serials();
    for (line, expected) in rows {
        assert_eq!(code(&pool.nsupdate(zone, &[line]).await), expected, "{line}");
    }
    assert_eq!(pool.registry.view().serials().tree, serials.tree + 2);
    let below = pool.change(None, &pool.first("8.1", "s1")).await;
    assert_eq!(code(&below), Refused);
    assert!(why(below).contains("delegated"));
    pool.nsupdate(zone, &["- 8.tree.hypernet.internal. NS"]).await.unwrap();
    pool.create("s1", &["8.1"]).await;
}
