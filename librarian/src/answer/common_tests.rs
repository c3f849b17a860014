//! The common question's answers against those of the general path, octet by octet.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use proptest::prelude::*;
use zones::update::build_has_update;
use zones::{Register, Role, State, Want};

use super::common::{Answered, Common, Names};
use super::faces::Faces;
use super::reply::{Transport, encode};
use super::*;

use crate::registry::table::Table;
use crate::registry::{By, Proposal, Registry, ServerChange, WantsChange};
use crate::testing::{Pool, domain, has, proposal, server};

/// Objects in every state, on servers of every kind: alive and not, lost, unknown, with several and shared addresses.
async fn world() -> Pool {
    let pool = Pool::new().await;
    let addresses: [IpAddr; 3] = [
        "192.0.2.3".parse().unwrap(),
        "2001:db8::3".parse().unwrap(),
        "192.0.2.2".parse().unwrap(),
    ];
    let says = build_has_update(&domain(), 1, &server("s3"), &has(), 9003, &addresses).unwrap();
    pool.registry
        .submit(proposal(By::Agent(server("s3")), &says))
        .await
        .unwrap();
    // Known, but it never said where it is.
    let add = ServerChange::Add {
        name: server("s6"),
        role: Role::Serving,
    };
    pool.registry.submit(Proposal::Server(add)).await.unwrap();
    let mut made = Vec::new();
    for text in [
        "3.1.2.1.023",
        "3.1.2.1.024",
        "3.1",
        "9",
        "B.Capital.x",
        "7.xh--q.1",
        "4.2",
        "4.3",
        "4.4",
        "4.5",
    ] {
        made.extend(pool.create("s2", &[text]).await);
    }
    let long = format!("8.{}.5", "y".repeat(100));
    made.extend(pool.create("s1", &[&long]).await);
    for (text, old) in made.iter().map(|register| (register.address.as_str(), register)) {
        let holders: &[&str] = match text {
            "3.1.2.1.024" => &["s2", "s3"],
            "4.2" => &["s2", "s3", "s1", "s4"],
            "4.4" => &["s2", "s6"],
            _ => continue,
        };
        let new = Register {
            holders: holders.iter().map(|name| server(name)).collect(),
            tx: pool.tx(),
            ..old.clone()
        };
        pool.change(Some(old), &new).await.unwrap();
    }
    let drains = Want {
        role: Role::Draining,
        targets: vec![server("s5")],
        plan: 0,
        step: 1,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let wants = WantsChange {
        wants: [(server("s2"), drains)].into(),
        ..WantsChange::default()
    };
    pool.registry.submit(Proposal::Wants(wants)).await.unwrap();
    let named = |text: &str| made.iter().find(|register| register.address.as_str() == text).unwrap();
    let moving = Register {
        state: State::Moving { to: server("s5") },
        tx: pool.tx(),
        ..named("4.3").clone()
    };
    pool.change(Some(named("4.3")), &moving).await.unwrap();
    let deleted = Register {
        epoch: named("4.5").epoch.next(),
        state: State::Deleted,
        holders: Vec::new(),
        tx: pool.tx(),
        ..named("4.5").clone()
    };
    pool.change(Some(named("4.5")), &deleted).await.unwrap();
    pool
}

/// A question in octets.
fn question(name: &str, kind: RecordType, edns: &[u8], flags: [u8; 2]) -> Vec<u8> {
    let mut octets = vec![
        0x12,
        0x34,
        flags[0],
        flags[1],
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        u8::from(!edns.is_empty()),
    ];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets.extend(u16::from(kind).to_be_bytes());
    octets.extend([0, 1]);
    octets.extend(edns);
    octets
}

/// OPT with so many octets, flags and options.
fn opt(octets_max: u16, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut octets = vec![0, 0, 41];
    octets.extend(octets_max.to_be_bytes());
    octets.extend([0, 0, flags, 0]);
    octets.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    octets.extend(options);
    octets
}

/// The answer to a common question, by whoever knows servers so; `None` where it is not common.
fn common(
    registry: &Registry,
    settings: &Settings,
    faces: &Faces,
    octets: &[u8],
    asker: &Asker,
    seed: u64,
) -> Option<(Answered, Vec<u8>)> {
    let table = registry.glance().table();
    let table = table.as_deref().expect("the registry is loaded");
    common_in(table, registry, settings, faces, octets, asker, seed)
}

/// As [`common`], by whoever has this table.
fn common_in(
    table: &Table,
    registry: &Registry,
    settings: &Settings,
    faces: &Faces,
    octets: &[u8],
    asker: &Asker,
    seed: u64,
) -> Option<(Answered, Vec<u8>)> {
    let names = Names::new(&domain());
    let common = Common {
        registry,
        table,
        settings,
        names: &names,
        faces,
    };
    let key = common.key(octets)?;
    let hash = common.table.hash(key.octets());
    let mut out = vec![9; 40];
    let answered = common.answer((octets, &key, hash), asker, seed, &mut out)?;
    Some((answered, out))
}

/// Both answers at one moment; the first is `None` where the question is not common.
fn both(
    (registry, now): (&Registry, Instant),
    settings: &Settings,
    octets: &[u8],
    asker: &Asker,
    seed: u64,
) -> (Option<Vec<u8>>, Vec<u8>) {
    let mut faces = Faces::default();
    faces.refresh(&registry.view().at(now), settings);
    let answered = common(registry, settings, &faces, octets, asker, seed);
    let view = registry.view().at(now);
    let general = match Message::from_vec(octets) {
        Ok(request) => {
            let [asked] = &request.queries[..] else {
                return (answered.map(|(_, out)| out), Vec::new());
            };
            let response = answer(&view, settings, asked, asker, seed);
            if let Some((answered, _)) = &answered {
                assert_eq!(answered.rcode, response.rcode);
            }
            let room = Transport::Udp.room(request.edns.as_ref(), settings.udp_octets_max);
            encode(&request, response, room)
        }
        Err(_) => Vec::new(),
    };
    (answered.map(|(_, out)| out), general)
}

const KINDS: [RecordType; 4] = [RecordType::SRV, RecordType::TXT, RecordType::A, RecordType::AAAA];

/// Names that are there, that lie between, and that are not there; without the domain where `~` is not written.
const NAMES: [&str; 28] = [
    "3.1.2.1.023.obj.~",
    "3.1.2.1.024.obj.~",
    "3.1.OBJ.~",
    "9.obj.~",
    "b.CAPITAL.x.obj.~",
    "7.xh--q.1.obj.~",
    "4.2.obj.~",
    "4.3.obj.~",
    "4.4.obj.~",
    "4.5.obj.~",
    "1.023.obj.~",
    "2.obj.~",
    "absent.obj.~",
    "a+b.obj.~",
    "023.1.2.1.3.tree.~",
    "1.3.tree.~",
    "2.1.3.tree.~",
    "x.capital.B.Tree.~",
    "3.tree.~",
    "absent.tree.~",
    "4.tree.~",
    "3.1.2.1.023",
    "4.2",
    "absent.bare",
    "obj.~",
    "s2.pool.~",
    "www.~",
    "",
];

#[tokio::test]
async fn common_answers_have_the_octets_of_general_ones() {
    let pool = world().await;
    let settings = Settings {
        public: vec!["3.1.2".parse().unwrap()],
        ..Settings::default()
    };
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let forms = [
        Vec::new(),
        opt(1232, 0, &[]),
        opt(4096, 0x80, &cookie),
        opt(0, 0x80, &[]),
        opt(600, 0, &[]),
    ];
    let late = Instant::now() + Duration::from_secs(7200);
    let (mut common, mut general) = (0, 0);
    for asker in [Asker::Network, Asker::Stranger] {
        for (name, kind) in NAMES.iter().flat_map(|name| KINDS.map(|kind| (name, kind))) {
            for (form, flags) in forms
                .iter()
                .flat_map(|form| [[0, 0], [1, 0x20], [1, 0x30]].map(|flags| (form, flags)))
            {
                for suffix in ["hypernet.internal", "hyperNET.internal", "hypernet.INTERNAL"] {
                    let octets = question(&name.replace('~', suffix), kind, form, flags);
                    for seed in 0..3 {
                        let now = if seed == 2 { late } else { Instant::now() };
                        let (ours, theirs) = both((&pool.registry, now), &settings, &octets, &asker, seed);
                        match ours {
                            Some(ours) => {
                                assert_eq!(
                                    ours, theirs,
                                    "{name} {kind} {asker:?} {form:?} {flags:?} {suffix} {seed}"
                                );
                                common += 1;
                            }
                            None => general += 1,
                        }
                    }
                }
            }
        }
    }
    // The listed network is nearly always answered so; of what a stranger asks, what is public.
    assert!(
        common > 12_000 && general > 12_000,
        "{common} common, {general} general"
    );
}

#[tokio::test]
async fn lost_server_is_answered_alike() {
    let pool = world().await;
    let lost = ServerChange::Lost {
        name: server("s2"),
        lost: true,
        decided: None,
    };
    pool.registry.submit(Proposal::Server(lost)).await.unwrap();
    let settings = Settings::default();
    for (name, kind) in NAMES.iter().flat_map(|name| KINDS.map(|kind| (name, kind))) {
        let octets = question(
            &name.replace('~', "hypernet.internal"),
            kind,
            &opt(1232, 0, &[]),
            [0, 0],
        );
        let (ours, theirs) = both((&pool.registry, Instant::now()), &settings, &octets, &Asker::Network, 5);
        assert!(ours.is_none_or(|ours| ours == theirs), "{name} {kind}");
    }
}

#[tokio::test]
async fn names_with_an_object_or_without_are_answered_while_changes_are_published() {
    let pool = world().await;
    let settings = Settings::default();
    let (registry, now) = (pool.registry.clone(), Instant::now());
    let mut faces = Faces::default();
    faces.refresh(&registry.view().at(now), &settings);
    // Objects, names between, and what is not there.
    const ASKED: [&str; 8] = [
        "3.1.2.1.023.obj.~",
        "3.1.2.1.024.obj.~",
        "4.2.obj.~",
        "4.3.obj.~",
        "1.023.obj.~",
        "1.3.tree.~",
        "absent.obj.~",
        "absent.tree.~",
    ];
    let publishing = pool.registry.publishing();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for name in ASKED {
            for kind in KINDS {
                let octets = question(&name.replace('~', "hypernet.internal"), kind, &[], [0, 0]);
                let answered = common(&registry, &settings, &faces, &octets, &Asker::Network, 1);
                tell.send((name, kind, answered.is_some())).unwrap();
            }
        }
    });
    // Who waited for the lock would wait for this test.
    for _ in 0..ASKED.len() * KINDS.len() {
        let (name, kind, answered) = told.recv_timeout(Duration::from_secs(60)).expect("it waits for nobody");
        assert!(answered, "{name} {kind}");
    }
    drop(publishing);
}

#[tokio::test]
async fn who_knows_servers_as_they_were_before_leaves_the_answer_to_others() {
    let pool = world().await;
    let settings = Settings::default();
    let (registry, now) = (&pool.registry, Instant::now());
    let mut faces = Faces::default();
    faces.refresh(&registry.view().at(now), &settings);
    let octets = question("3.1.2.1.023.obj.hypernet.internal", RecordType::SRV, &[], [0, 0]);
    let ask = || common(registry, &settings, &faces, &octets, &Asker::Network, 1).is_some();
    assert!(ask());
    let lost = ServerChange::Lost {
        name: server("s2"),
        lost: true,
        decided: None,
    };
    registry.submit(Proposal::Server(lost)).await.unwrap();
    assert!(!ask());
}

/// What a name without an object is told rests on several registers: no answer mixes those of before and after.
#[tokio::test]
async fn while_objects_come_or_go_what_is_not_there_is_left_to_others() {
    let pool = world().await;
    let (registry, settings) = (&pool.registry, Settings::default());
    let mut faces = Faces::default();
    faces.refresh(&registry.view().at(Instant::now()), &settings);
    let ask = |name: &&str| {
        let octets = question(&name.replace('~', "hypernet.internal"), RecordType::SRV, &[], [0, 0]);
        common(registry, &settings, &faces, &octets, &Asker::Network, 1).is_some()
    };
    let told = || {
        let there = ["3.1.2.1.023.obj.~", "4.2.obj.~"];
        let absent = ["1.023.obj.~", "absent.obj.~", "2.1.3.tree.~"];
        (there.iter().all(ask), absent.iter().all(ask), absent.iter().any(ask))
    };
    assert_eq!(told(), (true, true, true));
    registry.glance().objects_change();
    assert_eq!(told(), (true, false, false), "amid a message");
    registry.glance().message_ends();
    assert_eq!(told(), (true, true, true));
}

#[tokio::test]
async fn object_that_came_too_late_for_a_table_is_not_said_to_be_absent() {
    let pool = world().await;
    let (registry, settings) = (&pool.registry, Settings::default());
    let before = registry.glance().table();
    let before = before.as_deref().expect("it is loaded");
    // Until room for more is made.
    let many: Vec<String> = (0..17_000).map(|number| format!("5.{number}.late")).collect();
    pool.create("s1", &many.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let mut faces = Faces::default();
    faces.refresh(&registry.view().at(Instant::now()), &settings);
    let mut late = 0;
    for address in &many {
        let octets = question(
            &format!("{address}.obj.hypernet.internal"),
            RecordType::SRV,
            &[],
            [0, 0],
        );
        match common_in(before, registry, &settings, &faces, &octets, &Asker::Network, 1) {
            Some((answered, _)) => assert_eq!(answered.rcode, ResponseCode::NoError, "{address}"),
            None => late += 1,
        }
    }
    assert!(late > 0, "all were found in the table of before");
}

#[tokio::test]
async fn everyday_questions_are_common() {
    let pool = world().await;
    let settings = Settings::default();
    for name in [
        "3.1.2.1.023.obj.~",
        "absent.obj.~",
        "023.1.2.1.3.tree.~",
        "3.1.2.1.023",
        "2.obj.~",
    ] {
        for kind in KINDS {
            for form in [Vec::new(), opt(1232, 0, &[])] {
                let octets = question(&name.replace('~', "hypernet.internal"), kind, &form, [1, 0x20]);
                let (ours, _) = both((&pool.registry, Instant::now()), &settings, &octets, &Asker::Network, 1);
                assert!(ours.is_some(), "{name} {kind}");
            }
        }
    }
}

proptest! {
    /// Whatever octets are changed, cut off or added: nothing that is answered so is answered otherwise by the general path.
    #[test]
    fn changed_questions_are_answered_alike_or_left_alone(
        name in 0..NAMES.len(),
        kind in 0..KINDS.len(),
        edns in 0..3_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0..6_usize,
        more in proptest::collection::vec(any::<u8>(), 0..3),
    ) {
        let form = [Vec::new(), opt(1232, 0, &[]), opt(4096, 0x80, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])];
        let mut octets = question(&NAMES[name].replace('~', "hypernet.internal"), KINDS[kind], &form[edns], [1, 0x20]);
        for (at, octet) in changes {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        if more.is_empty() && cut > 3 {
            octets.truncate(octets.len() - (cut - 3));
        }
        octets.extend(more);
        let (ours, theirs) = both((&WORLD, Instant::now()), &Settings::default(), &octets, &Asker::Network, 3);
        if let Some(ours) = ours {
            prop_assert_eq!(ours, theirs);
        }
    }
}

/// A static is never dropped: its directory goes at once, which an open registry does not mind as long as it is only read.
static WORLD: LazyLock<Registry> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(world()).registry
});
