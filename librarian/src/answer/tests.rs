//! Answers as tables: name, type and asker on the left, what comes back on the right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certs::Grants;
use hickory_proto::op::ResponseCode::{self, NXDomain, NoError, Refused};
use zones::{Register, Role, State, Want};

use super::*;
use crate::place::ServerTerms;
use crate::registry::{Proposal, Received, WantsChange};
use crate::testing::{Pool, address, server};

fn settings() -> Settings {
    Settings {
        ns_addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        ..Settings::default()
    }
}

/// The settings, with something said of one server.
fn with_terms(name: &str, said: ServerTerms) -> Settings {
    Settings {
        terms: Terms {
            servers: [(server(name), said)].into(),
            ..Terms::default()
        },
        ..settings()
    }
}

fn client(grants: &str) -> Asker {
    let grants = grants.split_whitespace().map(|grant| grant.parse().unwrap());
    Asker::Client(Arc::new(Grants::new(grants).unwrap()))
}

fn agent() -> Asker {
    Asker::Agent(server("s1"))
}

/// Types by name, also those that hickory-proto has no name for.
fn kind_of(text: &str) -> RecordType {
    match text.strip_prefix("TYPE").map(str::parse::<u16>) {
        Some(Ok(number)) => RecordType::from(number),
        Some(Err(_)) | None if text == "IXFR" => RecordType::IXFR,
        Some(Err(_)) | None if text == "DS" => RecordType::DS,
        Some(Err(_)) | None if text == "TSIG" => RecordType::TSIG,
        Some(Err(_)) | None => text.parse().unwrap(),
    }
}

/// Asks below the domain, or as written behind a final dot.
fn ask_with(settings: &Settings, pool: &Pool, name: &str, kind: &str, asker: &Asker) -> Response {
    let name = if name.ends_with('.') {
        name.to_owned()
    } else {
        format!("{name}.hypernet.internal.")
    };
    let question = Query::query(Name::from_ascii(name).unwrap(), kind_of(kind));
    answer(&pool.registry.view(), settings, &question, asker, 0)
}

fn ask(pool: &Pool, name: &str, kind: &str, asker: &Asker) -> Response {
    ask_with(&settings(), pool, name, kind, asker)
}

/// The data of the answer's records, or the rcode and whose SOA comes with it.
fn brief(response: &Response) -> String {
    if response.answers.is_empty() {
        let rcode = match response.rcode {
            NoError => "NODATA".to_owned(),
            NXDomain => "NXDOMAIN".to_owned(),
            other => format!("{other:?}").to_uppercase(),
        };
        let soa = response.authorities.first().map(|record| record.name.to_string());
        let soa = soa.as_deref().and_then(|name| name.strip_suffix("hypernet.internal."));
        return match soa {
            Some("") => format!("{rcode} @"),
            Some(zone) => format!("{rcode} {}", zone.trim_end_matches('.')),
            None => rcode,
        };
    }
    assert!(response.authoritative && response.rcode == NoError, "{response:?}");
    let data = response.answers.iter().map(|record| record.data.to_string());
    data.map(|data| data.replace("hypernet.internal.", "~"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn check(pool: &Pool, asker: &Asker, table: &[(&str, &str, &str)]) {
    for (name, kind, expected) in table {
        let found = brief(&ask(pool, name, kind, asker));
        assert_eq!(found, *expected, "{name} {kind} {asker:?}");
    }
}

#[tokio::test]
async fn object_is_found_in_its_three_forms() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1.2.1.023"]).await;
    let srv = "0 1000 9002 s2.pool.~";
    let table = [
        ("3.1.2.1.023.obj", "SRV", srv),
        ("023.1.2.1.3.tree", "SRV", srv),
        ("3.1.2.1.023.", "SRV", srv),
        ("3.1.2.1.023.obj", "A", "192.0.2.2"),
        ("3.1.2.1.023.", "A", "192.0.2.2"),
        ("3.1.2.1.023.obj", "AAAA", "NODATA obj"),
        ("023.1.2.1.3.tree", "AAAA", "NODATA tree"),
        ("3.1.2.1.023.", "AAAA", "NODATA"),
        ("3.1.2.1.023.obj", "MX", "NODATA obj"),
        ("3.1.2.1.023.obj", "ANY", srv),
        ("3.1.2.1.23.obj", "SRV", "NXDOMAIN obj"),
        ("3.1.2.1.23.", "SRV", "REFUSED"),
    ];
    check(&pool, &agent(), &table);
    let response = ask(&pool, "3.1.2.1.023.obj", "SRV", &agent());
    let glue = &response.additionals[0];
    assert_eq!(
        (glue.name.to_string(), glue.ttl),
        ("s2.pool.hypernet.internal.".to_owned(), 5)
    );
    assert_eq!(response.answers[0].ttl, 5);
}

#[tokio::test]
async fn answer_repeats_the_spelling_of_the_question_and_the_text_that_of_the_register() {
    let pool = Pool::new().await;
    let register = pool.create("s2", &["3.Photo.1"]).await.remove(0);
    let response = ask(&pool, "3.pHOTO.1.oBj", "TXT", &agent());
    assert_eq!(response.answers[0].name.to_string(), "3.pHOTO.1.oBj.hypernet.internal.");
    let RData::TXT(text) = &response.answers[0].data else {
        panic!()
    };
    assert_eq!(Register::from_strings(&text.txt_data), Ok(register));
}

#[tokio::test]
async fn empty_non_terminals_are_those_of_each_tree() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1.2", "7"]).await;
    let table = [
        // In obj, above 3.1.2 lie the names that it ends in.
        ("1.2.obj", "A", "NODATA obj"),
        ("2.obj", "A", "NODATA obj"),
        ("3.1.obj", "A", "NXDOMAIN obj"),
        ("3.obj", "A", "NXDOMAIN obj"),
        // In tree, those that it begins with.
        ("1.3.tree", "A", "NODATA tree"),
        ("3.tree", "A", "NODATA tree"),
        ("2.1.tree", "A", "NXDOMAIN tree"),
        ("2.tree", "A", "NXDOMAIN tree"),
        // Of the bare form nothing is told but what exists.
        ("1.2.", "A", "REFUSED"),
        ("2.", "A", "REFUSED"),
        (".", "NS", "REFUSED"),
        ("example.com.", "A", "REFUSED"),
        ("x\\.y.obj", "A", "NXDOMAIN obj"),
    ];
    check(&pool, &agent(), &table);
}

#[tokio::test]
async fn what_is_forbidden_looks_like_what_is_absent() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1.2", "3.1.9", "4.1.2", "4.1", "5.7"]).await;
    let asker = client("read:3 none:3.1.9 read:5.7");
    let table = [
        ("3.1.2.obj", "A", "192.0.2.2"),
        ("3.1.2.", "A", "192.0.2.2"),
        ("3.1.2.obj", "TXT", "NODATA obj"),
        ("4.1.2.obj", "A", "NXDOMAIN obj"),
        ("4.1.2.", "A", "REFUSED"),
        ("3.1.9.obj", "A", "NXDOMAIN obj"),
        ("9.1.3.tree", "A", "NXDOMAIN tree"),
        ("1.9.obj", "A", "NXDOMAIN obj"),
        ("1.2.obj", "A", "NODATA obj"),
        ("4.1.obj", "A", "NXDOMAIN obj"),
        ("1.4.tree", "A", "NXDOMAIN tree"),
        ("4.tree", "A", "NXDOMAIN tree"),
        ("3.tree", "A", "NODATA tree"),
        ("5.tree", "A", "NODATA tree"),
        ("7.5.tree", "A", "192.0.2.2"),
    ];
    check(&pool, &asker, &table);
    // To the last field: forbidden, absent, and never heard of.
    for kind in ["A", "SRV", "TXT", "ANY", "SOA"] {
        let without_name = |name: &str| ask(&pool, name, kind, &asker);
        assert_eq!(without_name("4.1.2.obj"), without_name("4.1.77.obj"), "{kind}");
        assert_eq!(without_name("4.1.2."), without_name("4.1.77."), "{kind}");
        assert_eq!(without_name("2.1.4.tree"), without_name("77.1.4.tree"), "{kind}");
    }
}

#[tokio::test]
async fn stranger_sees_public_prefixes_and_nothing_else() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1", "4.1"]).await;
    let table = [
        ("3.1.obj", "A", "NXDOMAIN obj"),
        ("1.obj", "A", "NXDOMAIN obj"),
        ("s2.pool", "A", "NXDOMAIN pool"),
        ("any.pool", "A", "NXDOMAIN pool"),
        ("_place.pool", "SRV", "NXDOMAIN pool"),
        ("ns.pool", "A", "127.0.0.1"),
        ("ns.pool", "AAAA", "::1"),
    ];
    check(&pool, &Asker::Stranger, &table);
    let public = Settings {
        public: vec!["read:3".parse::<certs::Grant>().unwrap().prefix],
        ..settings()
    };
    let table = [
        ("3.1.obj", "A", "192.0.2.2"),
        ("3.1.obj", "TXT", "NODATA obj"),
        ("4.1.obj", "A", "NXDOMAIN obj"),
        ("s2.pool", "A", "192.0.2.2"),
        ("s2.pool", "TXT", "NODATA pool"),
        ("_want.s2.pool", "TXT", "NXDOMAIN pool"),
    ];
    for (name, kind, expected) in table {
        let found = ask_with(&public, &pool, name, kind, &Asker::Stranger);
        assert_eq!(brief(&found), expected, "{name} {kind}");
    }
}

#[tokio::test]
async fn deleted_object_is_answered_as_absent() {
    let pool = Pool::new().await;
    let old = pool.create("s2", &["3.1"]).await.remove(0);
    let new = Register {
        epoch: old.epoch.next(),
        state: State::Deleted,
        holders: Vec::new(),
        tx: pool.tx(),
        ..old.clone()
    };
    pool.change(Some(&old), &new).await.unwrap();
    let table = [
        ("3.1.obj", "TXT", "NXDOMAIN obj"),
        ("1.obj", "A", "NXDOMAIN obj"),
        ("3.tree", "A", "NXDOMAIN tree"),
        ("3.1.", "SRV", "REFUSED"),
    ];
    check(&pool, &Asker::Admin, &table);
    check(&pool, &Asker::Network, &table);
    // An agent has to learn how its deletion ended.
    let text = brief(&ask(&pool, "3.1.obj", "TXT", &agent()));
    assert!(text.contains("epoch=2") && text.contains("state=deleted"), "{text}");
    let table = [
        ("3.1.obj", "A", "NODATA obj"),
        ("1.obj", "A", "NXDOMAIN obj"),
        ("1.3.tree", "TXT", "NXDOMAIN tree"),
        ("3.1.", "SRV", "REFUSED"),
    ];
    check(&pool, &agent(), &table);
}

#[tokio::test]
async fn other_party_of_an_open_move_comes_second_and_gives_no_address() {
    let pool = Pool::new().await;
    let old = pool.create("s2", &["3.1"]).await.remove(0);
    let want = Want {
        role: Role::Draining,
        targets: vec![server("s5")],
        plan: 0,
        step: 1,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let wants = WantsChange {
        wants: [(server("s2"), want)].into(),
        ..WantsChange::default()
    };
    pool.registry.submit(Proposal::Wants(wants)).await.unwrap();
    let moving = Register {
        state: State::Moving { to: server("s5") },
        tx: pool.tx(),
        ..old.clone()
    };
    pool.change(Some(&old), &moving).await.unwrap();
    let table = [
        ("3.1.obj", "SRV", "0 1000 9002 s2.pool.~, 10 1000 9005 s5.pool.~"),
        ("3.1.obj", "A", "192.0.2.2"),
    ];
    check(&pool, &agent(), &table);
}

#[tokio::test]
async fn server_whose_lease_is_over_leaves_only_while_another_holder_lives() {
    let pool = Pool::new().await;
    let one = pool.create("s2", &["3.1"]).await.remove(0);
    let two = Register {
        holders: vec![server("s2"), server("s3")],
        tx: pool.tx(),
        ..one.clone()
    };
    pool.change(Some(&one), &two).await.unwrap();
    let brief_at = |after_s| {
        let question = Query::query(Name::from_ascii("3.1.obj.hypernet.internal.").unwrap(), RecordType::SRV);
        let view = pool.registry.view();
        let now = view.now();
        let view = view.at(now + Duration::from_secs(after_s));
        brief(&answer(&view, &settings(), &question, &agent(), 0))
    };
    let both = "0 1000 9002 s2.pool.~, 0 1000 9003 s3.pool.~";
    assert_eq!(brief_at(0), both);
    assert_eq!(brief_at(4000), both, "none lives, so both may be tried");
    // s3 speaks again, an hour later.
    let message = zones::update::build_has_update(
        &crate::testing::domain(),
        1,
        &server("s3"),
        &crate::testing::has(),
        9003,
        &["192.0.2.3".parse().unwrap()],
    )
    .unwrap();
    let later = Proposal::Update {
        by: crate::registry::By::Agent(server("s3")),
        update: crate::testing::read(&message),
        malformed: None,
        received: Received {
            at: Instant::now() + Duration::from_secs(3900),
            ahead_s: 0,
        },
    };
    pool.registry.submit(later).await.unwrap();
    assert_eq!(brief_at(4000), "0 1000 9003 s3.pool.~");
}

#[tokio::test]
async fn lost_server_that_is_heard_again_is_answered_only_where_nobody_else_serves() {
    let pool = Pool::new().await;
    let one = pool.create("s1", &["3.1"]).await.remove(0);
    let both = Register {
        holders: vec![server("s1"), server("s2")],
        tx: pool.tx(),
        ..one.clone()
    };
    pool.change(Some(&one), &both).await.unwrap();
    let mark = |name, lost| {
        let change = crate::registry::ServerChange::Lost {
            name: server(name),
            lost,
            decided: None,
        };
        pool.registry.submit(Proposal::Server(change))
    };
    let targets = || brief(&ask(&pool, "3.1.obj", "SRV", &agent()));
    mark("s1", true).await.unwrap();
    assert_eq!(targets(), "0 1000 9002 s2.pool.~");
    mark("s2", true).await.unwrap();
    assert_eq!(targets(), "0 1000 9001 s1.pool.~, 0 1000 9002 s2.pool.~");
}

#[tokio::test]
async fn free_and_cordoned_servers_are_no_place_for_new_objects() {
    let pool = Pool::new().await;
    let cordoned = Want {
        role: Role::Cordoned,
        targets: Vec::new(),
        plan: 0,
        step: 1,
        policy: zones::Policy::default(),
        errand: zones::Errand::default(),
    };
    let wants = WantsChange {
        wants: [(server("s1"), cordoned)].into(),
        ..WantsChange::default()
    };
    pool.registry.submit(Proposal::Wants(wants)).await.unwrap();
    let places = ask(&pool, "_place.pool", "SRV", &client("read:*"));
    let targets = |response: &Response| -> Vec<String> {
        let mut targets: Vec<String> = response
            .answers
            .iter()
            .map(|record| match &record.data {
                RData::SRV(srv) => String::from_utf8_lossy(srv.target.iter().next().unwrap()).into_owned(),
                other => panic!("{other}"),
            })
            .collect();
        targets.sort();
        targets
    };
    assert_eq!(targets(&places), ["s2", "s3", "s4"]);
    assert_eq!(
        targets(&ask(&pool, "any.pool", "SRV", &client("read:*"))),
        ["s2", "s3", "s4"]
    );
    assert_eq!(ask(&pool, "any.pool", "A", &client("read:*")).answers.len(), 3);
}

#[tokio::test]
async fn dearer_and_busier_servers_are_asked_less() {
    let pool = Pool::new().await;
    let one = pool.create("s1", &["3.1"]).await.remove(0);
    let all = Register {
        holders: vec![server("s1"), server("s2"), server("s3")],
        tx: pool.tx(),
        ..one.clone()
    };
    pool.change(Some(&one), &all).await.unwrap();
    let busy = zones::Has {
        load: 900,
        ..crate::testing::has()
    };
    let addresses = ["192.0.2.3".parse().unwrap()];
    let message =
        zones::update::build_has_update(&crate::testing::domain(), 1, &server("s3"), &busy, 9003, &addresses).unwrap();
    let by = crate::registry::By::Agent(server("s3"));
    let said = crate::testing::proposal(by, &message);
    pool.registry.submit(said).await.unwrap();
    let settings = with_terms(
        "s2",
        ServerTerms {
            price_percent: 200,
            ..ServerTerms::default()
        },
    );
    let brief = |name| brief(&ask_with(&settings, &pool, name, "SRV", &agent()));
    // s3: (10 + 1) / 2 of what an idle server costs.
    assert_eq!(
        brief("any.pool"),
        "0 1000 9001 s1.pool.~, 0 500 9002 s2.pool.~, 0 182 9003 s3.pool.~, 0 1000 9004 s4.pool.~"
    );
    // Its price has decided already of how many objects it has a copy.
    assert_eq!(
        brief("3.1.obj"),
        "0 1000 9001 s1.pool.~, 0 1000 9002 s2.pool.~, 0 182 9003 s3.pool.~"
    );
    // Placements count storage besides: (10 + 1 + 1) / 3.
    assert_eq!(
        brief("_place.pool"),
        "0 60000 9001 s1.pool.~, 0 60000 9004 s4.pool.~, 0 30000 9002 s2.pool.~, 0 15000 9003 s3.pool.~"
    );
}

#[tokio::test]
async fn server_that_the_operator_keeps_new_objects_off_is_still_asked_for_those_it_has() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1"]).await;
    let settings = with_terms(
        "s2",
        ServerTerms {
            new_objects: false,
            ..ServerTerms::default()
        },
    );
    let targets = |name| brief(&ask_with(&settings, &pool, name, "SRV", &agent()));
    assert!(!targets("_place.pool").contains("s2.") && targets("_place.pool").contains("s1."));
    assert!(targets("any.pool").contains("s2."));
    assert_eq!(targets("3.1.obj"), "0 1000 9002 s2.pool.~");
}

#[tokio::test]
async fn control_records_answer_agents_and_admin_alone() {
    let pool = Pool::new().await;
    let want = "\"v=hn1\" \"role=serving\" \"targets=\" \"plan=0\" \"step=0\"";
    for asker in [agent(), Asker::Admin] {
        let found = ask(&pool, "_want.s1.pool", "TXT", &asker);
        assert_eq!(found.answers.len(), 1);
        let RData::TXT(text) = &found.answers[0].data else {
            panic!()
        };
        let strings: Vec<String> = text
            .txt_data
            .iter()
            .map(|s| format!("{:?}", String::from_utf8_lossy(s)))
            .collect();
        assert_eq!(strings.join(" "), want);
        assert_eq!(ask(&pool, "s1.pool", "TXT", &asker).answers.len(), 1);
        check(
            &pool,
            &asker,
            &[
                ("_todo.s1.pool", "TXT", "NODATA pool"),
                ("_want.s9.pool", "TXT", "NXDOMAIN pool"),
            ],
        );
    }
    for asker in [Asker::Network, client("read:* write:*"), Asker::Stranger] {
        check(
            &pool,
            &asker,
            &[
                ("_want.s1.pool", "TXT", "NXDOMAIN pool"),
                ("_todo.s1.pool", "TXT", "NXDOMAIN pool"),
            ],
        );
        assert!(ask(&pool, "s1.pool", "TXT", &asker).answers.is_empty());
    }
    check(
        &pool,
        &Asker::Network,
        &[
            ("s1.pool", "SRV", "0 0 9001 s1.pool.~"),
            ("s1.pool", "TXT", "NODATA pool"),
            ("s9.pool", "A", "NXDOMAIN pool"),
        ],
    );
}

#[tokio::test]
async fn every_zone_has_soa_and_ns() {
    let pool = Pool::new().await;
    for zone in ["obj", "tree", "pool"] {
        let soa = ask(&pool, zone, "SOA", &Asker::Stranger);
        let RData::SOA(data) = &soa.answers[0].data else {
            panic!()
        };
        assert_eq!(data.mname.to_string(), "ns.pool.hypernet.internal.");
        assert_eq!((data.refresh, data.retry, data.expire, data.minimum), (5, 5, 60, 2));
        let ns = ask(&pool, zone, "NS", &Asker::Stranger);
        assert_eq!((brief(&ns).as_str(), ns.additionals.len()), ("ns.pool.~", 2));
        check(
            &pool,
            &Asker::Stranger,
            &[(zone, "A", &format!("NODATA {zone}")), (zone, "DS", "NODATA @")],
        );
    }
    let table = [
        ("hypernet.internal.", "NS", "ns.pool.~"),
        ("hypernet.internal.", "A", "NODATA @"),
    ];
    check(&pool, &Asker::Stranger, &table);
    let negative = ask(&pool, "nothing.obj", "A", &Asker::Stranger);
    assert_eq!(negative.authorities[0].ttl, 2);
}

#[tokio::test]
async fn operators_zone_answers_as_any_authoritative_server_does() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1"]).await;
    let lines = [
        "www.hypernet.internal. 300 A 192.0.2.80",
        "www.hypernet.internal. 300 A 192.0.2.81",
        "alias.hypernet.internal. 60 CNAME www.hypernet.internal.",
        "away.hypernet.internal. 60 CNAME www.example.com.",
        "photo.hypernet.internal. 60 CNAME 3.1.obj.hypernet.internal.",
        "loop1.hypernet.internal. 60 CNAME loop2.hypernet.internal.",
        "loop2.hypernet.internal. 60 CNAME loop1.hypernet.internal.",
        "a.b.hypernet.internal. 60 TXT deep",
        "*.w.hypernet.internal. 60 TXT wild",
        "*.w.hypernet.internal. 60 MX 10 www.hypernet.internal.",
        "sub.w.hypernet.internal. 60 TXT sub",
        "cut.hypernet.internal. 60 NS ns.cut.hypernet.internal.",
        "ns.cut.hypernet.internal. 60 A 192.0.2.53",
        "odd.hypernet.internal. 60 TYPE65400 abc",
    ];
    pool.nsupdate("hypernet.internal.", &lines).await.unwrap();
    let table = [
        ("www", "A", "192.0.2.80, 192.0.2.81"),
        ("WWW", "AAAA", "NODATA @"),
        ("alias", "A", "www.~, 192.0.2.80, 192.0.2.81"),
        ("alias", "CNAME", "www.~"),
        ("away", "A", "www.example.com."),
        ("photo", "A", "3.1.obj.~, 192.0.2.2"),
        ("b", "TXT", "NODATA @"),
        ("a.b", "TXT", "deep"),
        ("x.w", "TXT", "wild"),
        ("x.y.w", "TXT", "wild"),
        ("x.w", "A", "NODATA @"),
        ("w", "TXT", "NODATA @"),
        ("sub.w", "TXT", "sub"),
        ("x.sub.w", "TXT", "NXDOMAIN @"),
        ("nothing", "A", "NXDOMAIN @"),
    ];
    check(&pool, &agent(), &table);
    let wild = ask(&pool, "x.w", "MX", &agent());
    assert_eq!(
        (wild.answers[0].name.to_string().as_str(), wild.additionals.len()),
        ("x.w.hypernet.internal.", 2)
    );
    assert_eq!(ask(&pool, "loop1", "A", &agent()).rcode, ResponseCode::ServFail);
    assert_eq!(ask(&pool, "odd", "TYPE65400", &agent()).answers.len(), 1);
    for name in ["cut", "x.cut", "ns.cut"] {
        let referral = ask(&pool, name, "A", &agent());
        assert!(!referral.authoritative && referral.answers.is_empty(), "{name}");
        assert_eq!(
            (referral.authorities.len(), referral.additionals.len()),
            (1, 1),
            "{name}"
        );
    }
    check(&pool, &agent(), &[("cut", "DS", "NODATA @")]);
}

#[tokio::test]
async fn delegated_prefix_is_a_referral_in_tree_a_cname_in_obj_and_refused_when_bare() {
    let pool = Pool::new().await;
    pool.create("s2", &["3.1"]).await;
    let lines = [
        "8.3.tree.hypernet.internal. 60 NS ns.other.example.",
        "9.tree.hypernet.internal. 60 NS ns.9.tree.hypernet.internal.",
        "ns.9.tree.hypernet.internal. 60 A 192.0.2.53",
    ];
    pool.nsupdate("tree.hypernet.internal.", &lines).await.unwrap();
    let referral = ask(&pool, "1.5.9.tree", "SRV", &agent());
    assert_eq!((referral.authorities.len(), referral.additionals.len()), (1, 1));
    assert!(!referral.authoritative && referral.rcode == NoError);
    let table = [
        ("3.8.5.obj", "A", "5.8.3.tree.~"),
        ("3.8.5.obj", "CNAME", "5.8.3.tree.~"),
        ("3.8.obj", "SRV", "8.3.tree.~"),
        ("9.5.1.obj", "A", "1.5.9.tree.~"),
        ("3.1.obj", "A", "192.0.2.2"),
        ("3.tree", "A", "NODATA tree"),
        ("3.8.5.", "A", "REFUSED"),
        // Any name in obj may lie above one that has a CNAME.
        ("5.obj", "A", "NODATA obj"),
    ];
    check(&pool, &agent(), &table);
    // The alias and where it leads come in one answer (RFC 1034 section 4.3.2 step 3a), glue included.
    let behind_alias = ask(&pool, "9.5.1.obj", "SRV", &agent());
    assert_eq!(behind_alias.authorities, referral.authorities);
    assert_eq!(behind_alias.additionals, referral.additionals);
    assert_eq!(ask(&pool, "9.5.1.obj", "CNAME", &agent()).authorities, []);
    // Who may not see the prefix learns nothing of its delegation.
    let table = [("3.8.5.obj", "A", "NXDOMAIN obj"), ("5.8.3.tree", "A", "NXDOMAIN tree")];
    check(&pool, &client("read:4"), &table);
    assert_eq!(pool.registry.view().register(&address("9.1")), None);
}

#[tokio::test]
async fn transfers_classes_and_meta_types_are_refused_with_a_reason() {
    let pool = Pool::new().await;
    let table = [
        ("obj", "AXFR", Refused),
        ("obj", "IXFR", Refused),
        ("obj", "TSIG", ResponseCode::NotImp),
    ];
    for (name, kind, rcode) in table {
        let response = ask(&pool, name, kind, &Asker::Admin);
        assert_eq!(response.rcode, rcode, "{kind}");
        assert!(response.error.is_some(), "{kind}");
    }
    let mut question = Query::query(Name::from_ascii("version.bind.").unwrap(), RecordType::TXT);
    question.set_query_class(DNSClass::CH);
    let response = answer(&pool.registry.view(), &settings(), &question, &Asker::Admin, 0);
    assert_eq!(response.rcode, Refused);
}

#[tokio::test]
async fn limited_asker_gets_exact_answers_beside_thousands_of_hidden_objects() {
    let pool = Pool::new().await;
    let hidden: Vec<String> = (0..3000).map(|n| format!("4.{n}.7")).collect();
    pool.create("s2", &hidden.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    pool.create("s2", &["3.1.8", "3.2"]).await;
    let table = [
        ("7.obj", "A", "NXDOMAIN obj"),
        ("8.obj", "A", "NODATA obj"),
        ("4.tree", "A", "NXDOMAIN tree"),
        ("3.tree", "A", "NODATA tree"),
    ];
    check(&pool, &client("read:3"), &table);
    // A cut of thousands is passed over as a whole.
    check(
        &pool,
        &client("read:* none:4"),
        &[("4.tree", "A", "NXDOMAIN tree"), ("1.3.tree", "A", "NODATA tree")],
    );
}
