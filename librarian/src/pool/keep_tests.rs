//! Facts about what servers are told of copies, and that it comes to rest.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use zones::Kept;

use super::*;
use crate::place::ServerTerms;
use crate::pool::decide::{Decision, decide};
use crate::pool::testing::{knows_copies, name, sight};
use crate::pool::{Plan, drain, steer};

/// Servers of a release that knows copies.
fn pool(servers: &[(&str, Role)]) -> Sight {
    let servers: Vec<(&str, Role, u64)> = servers.iter().map(|(server, role)| (*server, *role, 0)).collect();
    let mut sight = sight(&servers);
    knows_copies(&mut sight);
    sight
}

fn three() -> Sight {
    pool(&[("s1", Role::Serving), ("s2", Role::Serving), ("s3", Role::Serving)])
}

fn four() -> Sight {
    pool(&[
        ("s1", Role::Serving),
        ("s2", Role::Serving),
        ("s3", Role::Serving),
        ("s4", Role::Serving),
    ])
}

/// Four servers, three of them in one rack.
fn s3_alone_in_its_rack() -> Sight {
    let mut sight = four();
    with(&mut sight, |settings| {
        let racks = [("s1", "r1"), ("s2", "r1"), ("s3", "r2"), ("s4", "r1")];
        settings.terms.servers = racks.map(|(server, rack)| (name(server), label(rack))).into();
    });
    sight
}

fn seen<'a>(sight: &'a mut Sight, server: &str) -> &'a mut Seen {
    sight.servers.get_mut(&name(server)).unwrap()
}

fn with(sight: &mut Sight, change: impl FnOnce(&mut Settings)) {
    let mut settings = (*sight.copies).clone();
    change(&mut settings);
    sight.copies = Arc::new(settings);
}

/// Writes what is decided until nothing more is; how many wants were written.
fn settle(sight: &mut Sight) -> usize {
    let mut written = 0;
    for _ in 0..10 {
        let Decision::Write(wants) = decide(sight) else {
            return written;
        };
        written += wants.len();
        for (server, want) in wants {
            sight.write(&server, want);
        }
    }
    panic!("wants are written again and again: {sight:?}");
}

/// What a server is told once all is written.
fn told(sight: &mut Sight, server: &str) -> Keep {
    settle(sight);
    sight.servers[&name(server)].want.errand.keep.clone()
}

fn spread(sight: &mut Sight, server: &str) -> Vec<(String, u16)> {
    let keep = told(sight, server);
    keep.spread
        .iter()
        .map(|(name, weight)| (name.to_string(), *weight))
        .collect()
}

fn names(keep: &[ServerName]) -> Vec<&str> {
    keep.iter().map(ServerName::as_str).collect()
}

fn label(text: &str) -> ServerTerms {
    ServerTerms {
        rack: Some(text.parse().unwrap()),
        ..ServerTerms::default()
    }
}

#[test]
fn pool_of_fewer_than_three_servers_that_count_keeps_one_copy_and_a_larger_one_two() {
    assert_eq!(
        told(&mut pool(&[("s1", Role::Serving), ("s2", Role::Free)]), "s1").copies,
        1
    );
    assert_eq!(told(&mut three(), "s1").copies, 2);
    for role in [Role::Failed, Role::Quarantined] {
        let mut pool = pool(&[("s1", Role::Serving), ("s2", Role::Serving), ("s3", role)]);
        assert_eq!(told(&mut pool, "s1").copies, 1, "{role}");
    }
    let mut sight = three();
    seen(&mut sight, "s3").lost = true;
    assert_eq!(told(&mut sight, "s1").copies, 1);
    // One that is upgraded comes back.
    let mut upgrading = pool(&[("s1", Role::Serving), ("s2", Role::Serving), ("s3", Role::Upgrading)]);
    assert_eq!(told(&mut upgrading, "s1").copies, 2);
    let mut sight = three();
    with(&mut sight, |settings| {
        settings.copies.wanted = Some(3);
        settings.copies.under = [("3.1".parse().unwrap(), 1), ("3".parse().unwrap(), 2)].into();
    });
    let keep = told(&mut sight, "s1");
    assert_eq!(keep.copies, 3);
    assert_eq!(keep.under, [("3".parse().unwrap(), 2), ("3.1".parse().unwrap(), 1)]);
}

#[test]
fn where_one_copy_is_enough_nobody_is_named_to_hold_more() {
    let mut pool = pool(&[("s1", Role::Serving), ("s2", Role::Serving)]);
    assert_eq!(
        told(&mut pool, "s1"),
        Keep {
            copies: 1,
            ..Keep::default()
        }
    );
    with(&mut pool, |settings| {
        settings.copies.under = [("3.1".parse().unwrap(), 2)].into();
    });
    assert_eq!(spread(&mut pool, "s1"), [("s2".to_owned(), 999)]);
}

#[test]
fn only_servers_that_may_own_objects_are_told_of_copies() {
    for role in [
        Role::Serving,
        Role::Refilling,
        Role::Cordoned,
        Role::Draining,
        Role::Free,
        Role::Reserve,
        Role::Empty,
        Role::Upgrading,
        Role::Validating,
        Role::Failed,
        Role::Quarantined,
    ] {
        let owns = matches!(role, Role::Serving | Role::Refilling | Role::Cordoned | Role::Draining);
        let mut pool = pool(&[
            ("s1", role),
            ("s2", Role::Serving),
            ("s3", Role::Serving),
            ("s4", Role::Serving),
        ]);
        let keep = told(&mut pool, "s1");
        assert_eq!(keep.copies, if owns { 2 } else { 0 }, "{role}");
        assert_eq!(keep == Keep::default(), !owns, "{role}");
    }
}

#[test]
fn living_servers_that_take_new_objects_may_hold_copies_of_all_but_their_own() {
    let mut sight = pool(&[
        ("s1", Role::Serving),
        ("s2", Role::Serving),
        ("s3", Role::Refilling),
        ("s4", Role::Free),
        ("s5", Role::Reserve),
        ("s6", Role::Cordoned),
        ("s7", Role::Failed),
        ("s8", Role::Serving),
        ("s9", Role::Serving),
        ("t1", Role::Serving),
        ("t2", Role::Serving),
    ]);
    seen(&mut sight, "s8").alive = false;
    seen(&mut sight, "s9").lost = true;
    let said = ServerTerms {
        new_objects: false,
        ..ServerTerms::default()
    };
    with(&mut sight, |settings| {
        drop(settings.terms.servers.insert(name("t2"), said))
    });
    let all = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 999)).collect::<Vec<_>>();
    assert_eq!(spread(&mut sight, "s1"), all(&["s2", "s3", "t1"]));
    assert_eq!(spread(&mut sight, "s2"), all(&["s1", "s3", "t1"]));
    // It drains nowhere by this, but its copies do.
    assert_eq!(spread(&mut sight, "s6"), all(&["s1", "s2", "s3", "t1"]));
}

#[test]
fn copies_go_as_far_as_there_are_servers_and_nearer_only_where_these_are_too_few() {
    let mut sight = s3_alone_in_its_rack();
    assert_eq!(spread(&mut sight, "s1"), [("s3".to_owned(), 999)]);
    assert_eq!(spread(&mut sight, "s3").len(), 3);
    // A third copy has no other rack to go to: it goes near rather than nowhere, and the far one is filled first.
    with(&mut sight, |settings| settings.copies.wanted = Some(3));
    assert_eq!(
        spread(&mut sight, "s1"),
        [("s3".to_owned(), 999), ("s2".to_owned(), 1), ("s4".to_owned(), 1)]
    );
    // The only far one is gone.
    with(&mut sight, |settings| settings.copies.wanted = Some(2));
    seen(&mut sight, "s3").want.role = Role::Cordoned;
    assert_eq!(
        spread(&mut sight, "s1"),
        [("s2".to_owned(), 999), ("s4".to_owned(), 999)]
    );
}

#[test]
fn server_that_is_nearly_full_alone_in_the_farthest_rack_is_not_given_all_copies() {
    let mut sight = s3_alone_in_its_rack();
    let fill = |sight: &mut Sight, octets| seen(sight, "s3").has.as_mut().unwrap().bytes = octets;
    let named = |sight: &mut Sight| {
        let named: Vec<(String, bool)> = spread(sight, "s1")
            .into_iter()
            .map(|(server, weight)| (server, weight > 1))
            .collect();
        named
    };
    let of = |names: &[(&str, bool)]| {
        names
            .iter()
            .map(|(name, is)| ((*name).to_owned(), *is))
            .collect::<Vec<_>>()
    };
    fill(&mut sight, 9_400);
    assert_eq!(named(&mut sight), of(&[("s3", true)]));
    fill(&mut sight, 9_600);
    assert_eq!(named(&mut sight), of(&[("s2", true), ("s4", true), ("s3", false)]));
    // It has room again, by so little that the next object would fill it.
    fill(&mut sight, 9_400);
    assert_eq!(spread(&mut sight, "s1").len(), 3);
    fill(&mut sight, 8_900);
    assert_eq!(spread(&mut sight, "s1").len(), 1);
}

#[test]
fn most_copies_that_may_be_asked_for_can_be_reached() {
    let names: Vec<String> = (10..30).map(|number| format!("s{number}")).collect();
    let servers: Vec<(&str, Role)> = names.iter().map(|name| (name.as_str(), Role::Serving)).collect();
    let mut sight = pool(&servers);
    let wanted = |wanted| Copies {
        wanted: Some(wanted),
        ..Copies::default()
    };
    with(&mut sight, |settings| settings.copies = wanted(13));
    assert_eq!(spread(&mut sight, "s10").len(), 12);
    assert_eq!(wanted(13).out_of_range(), None);
    assert!(wanted(14).out_of_range().is_some());
}

#[test]
fn fuller_servers_get_fewer_copies_and_copies_that_they_hold_count() {
    let mut sight = four();
    with(&mut sight, |settings| {
        settings.terms.placement.cpu = 0;
        settings.terms.placement.bandwidth = 0;
    });
    seen(&mut sight, "s3").has.as_mut().unwrap().bytes = 5_000;
    seen(&mut sight, "s4").has.as_mut().unwrap().kept = Some(Kept {
        octets: 9_000,
        ..Kept::default()
    });
    let spread = spread(&mut sight, "s1");
    // Half the room, and a tenth of it: the nearest steps of 999.
    assert_eq!(
        spread,
        [("s2".to_owned(), 999), ("s3".to_owned(), 511), ("s4".to_owned(), 107)]
    );
}

#[test]
fn large_pool_names_twelve_servers_to_each_and_every_server_to_somebody() {
    let all: Vec<String> = (10..50).map(|number| format!("s{number}")).collect();
    let servers: Vec<(&str, Role)> = all.iter().map(|server| (server.as_str(), Role::Serving)).collect();
    let mut sight = pool(&servers);
    settle(&mut sight);
    let mut named: BTreeMap<ServerName, usize> = BTreeMap::new();
    for seen in sight.servers.values() {
        assert_eq!(seen.want.errand.keep.spread.len(), 12);
        for (server, _) in &seen.want.errand.keep.spread {
            *named.entry(server.clone()).or_default() += 1;
        }
    }
    assert_eq!(named.len(), 40);
    assert!(named.values().all(|times| *times == 12), "{named:?}");
}

#[test]
fn server_that_joins_a_large_pool_is_named_by_twelve_after_a_minute() {
    let all: Vec<String> = (10..40).map(|number| format!("s{number}")).collect();
    let servers: Vec<(&str, Role)> = all.iter().map(|server| (server.as_str(), Role::Serving)).collect();
    let mut sight = pool(&servers);
    seen(&mut sight, "s25").want.role = Role::Reserve;
    settle(&mut sight);
    seen(&mut sight, "s25").want.role = Role::Serving;
    let mut naming = |stood_s| {
        for seen in sight.servers.values_mut() {
            seen.keep_for = Duration::from_secs(stood_s);
        }
        settle(&mut sight);
        let names = |seen: &&Seen| {
            seen.want
                .errand
                .keep
                .spread
                .iter()
                .any(|(named, _)| named.as_str() == "s25")
        };
        sight.servers.values().filter(names).count()
    };
    assert_eq!(naming(59), 0);
    assert_eq!(naming(60), 12);
    assert_eq!(naming(3_600), 12);
}

/// Of a pool whose servers hold as many objects each: large ones, half as large again, stand together by name.
#[test]
fn large_pool_gives_each_server_copies_by_its_size() {
    let all: Vec<String> = (10..110).map(|number| format!("s{number:03}")).collect();
    let servers: Vec<(&str, Role)> = all.iter().map(|server| (server.as_str(), Role::Serving)).collect();
    let mut sight = pool(&servers);
    for server in &all[..10] {
        seen(&mut sight, server).has.as_mut().unwrap().capacity = 15_000;
    }
    settle(&mut sight);
    let mut given: BTreeMap<ServerName, f64> = BTreeMap::new();
    for seen in sight.servers.values() {
        let spread = &seen.want.errand.keep.spread;
        let whole: f64 = spread.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for (server, weight) in spread {
            *given.entry(server.clone()).or_default() += f64::from(*weight) / whole;
        }
    }
    let mean = |of: &[String]| of.iter().map(|server| given[&name(server)]).sum::<f64>() / of.len() as f64;
    let (large, usual) = (mean(&all[..10]), mean(&all[10..]));
    // Weights are told in steps of a quarter.
    assert!((1.25..1.75).contains(&(large / usual)), "{large} {usual}");
    let most = given.values().copied().fold(0.0, f64::max);
    assert!(most < 2.0, "{most} {given:?}");
}

#[test]
fn copies_leave_servers_that_are_emptied_or_out_and_lost_ones_are_told_by_name() {
    let mut sight = pool(&[
        ("s1", Role::Serving),
        ("s2", Role::Cordoned),
        ("s3", Role::Failed),
        ("s4", Role::Free),
        ("s5", Role::Serving),
        ("s6", Role::Serving),
    ]);
    seen(&mut sight, "s5").lost = true;
    let keep = told(&mut sight, "s1");
    assert_eq!(
        (names(&keep.leave), names(&keep.lost)),
        (vec!["s2", "s3", "s5"], vec!["s5"])
    );
    // Nobody is told so of itself.
    let keep = told(&mut sight, "s2");
    assert_eq!((names(&keep.leave), names(&keep.lost)), (vec!["s3", "s5"], vec!["s5"]));
    let keep = told(&mut sight, "s5");
    assert_eq!((names(&keep.leave), names(&keep.lost)), (vec!["s2", "s3"], vec![]));
    // It was found again.
    seen(&mut sight, "s5").lost = false;
    let keep = told(&mut sight, "s1");
    assert_eq!((names(&keep.leave), names(&keep.lost)), (vec!["s2", "s3"], vec![]));
}

/// Two servers that are left serving after a reconcile in the midst of a drain, and a third one.
#[test]
fn server_that_drains_leaves_those_that_take_its_objects() {
    let mut sight = three();
    settle(&mut sight);
    let plan = drain(&sight, &name("s1"), Some(&name("s2"))).unwrap();
    sight.apply_plan(plan);
    while sight.role("s1") != Role::Draining {
        settle(&mut sight);
        for server in ["s1", "s2", "s3"] {
            sight.report(server, 1, 3);
        }
        knows_copies(&mut sight);
    }
    let keep = told(&mut sight, "s1");
    assert_eq!((names(&keep.leave), keep.spread), (vec!["s2"], vec![(name("s3"), 999)]));
    let keep = told(&mut sight, "s3");
    assert_eq!((names(&keep.leave), keep.spread), (vec!["s1"], vec![(name("s2"), 999)]));
}

#[test]
fn of_more_lost_servers_than_a_want_names_those_come_first_that_registers_name() {
    let all: Vec<String> = (10..40).map(|number| format!("s{number}")).collect();
    let servers: Vec<(&str, Role)> = all.iter().map(|server| (server.as_str(), Role::Serving)).collect();
    let mut sight = pool(&servers);
    for server in &all[10..] {
        seen(&mut sight, server).lost = true;
        seen(&mut sight, server).named = u64::from(server.as_str() > "s35");
    }
    let keep = told(&mut sight, "s10");
    assert_eq!(keep.lost.len(), 14);
    assert_eq!(keep.lost, keep.leave);
    assert!(
        ["s36", "s37", "s38", "s39"]
            .map(name)
            .iter()
            .all(|named| keep.lost.contains(named))
    );
}

#[test]
fn restart_of_an_agent_or_of_the_librarian_changes_no_want_and_a_server_that_stays_away_is_named_no_more() {
    let mut sight = three();
    settle(&mut sight);
    // A librarian that was just started has heard nobody yet.
    for seen in sight.servers.values_mut() {
        (seen.alive, seen.silent_for) = (false, Some(Duration::from_secs(9)));
    }
    assert_eq!(settle(&mut sight), 0);
    for server in ["s1", "s2"] {
        (seen(&mut sight, server).alive, seen(&mut sight, server).silent_for) = (true, None);
    }
    seen(&mut sight, "s3").silent_for = Some(Duration::from_secs(10));
    assert_eq!(spread(&mut sight, "s1"), [("s2".to_owned(), 999)]);
    // It is named again when it is heard again, and not before.
    seen(&mut sight, "s3").silent_for = Some(Duration::ZERO);
    assert_eq!(settle(&mut sight), 0);
    seen(&mut sight, "s3").alive = true;
    assert_eq!(spread(&mut sight, "s1").len(), 2);
}

#[test]
fn weights_stand_until_one_is_a_third_off_and_all_have_stood_for_a_minute() {
    let mut sight = three();
    with(&mut sight, |settings| {
        settings.terms.placement.cpu = 0;
        settings.terms.placement.bandwidth = 0;
    });
    settle(&mut sight);
    let mut fills = |octets: u64, stood_s: u64| {
        seen(&mut sight, "s2").has.as_mut().unwrap().bytes = octets;
        for seen in sight.servers.values_mut() {
            seen.keep_for = Duration::from_secs(stood_s);
        }
        settle(&mut sight)
    };
    assert_eq!(fills(2_000, 3_600), 0, "a fifth less room");
    assert_eq!(fills(5_000, 59), 0, "half the room, for a moment");
    assert_eq!(fills(5_000, 60), 2, "half the room: s1 and s3 are told");
    assert_eq!(fills(5_000, 3_600), 0);
    assert_eq!(fills(4_500, 3_600), 0);
    assert_eq!(
        spread(&mut sight, "s1"),
        [("s3".to_owned(), 999), ("s2".to_owned(), 511)]
    );
}

#[test]
fn server_that_is_passed_over_is_named_when_one_that_is_has_no_room() {
    let all: Vec<String> = (10..24).map(|number| format!("s{number}")).collect();
    let servers: Vec<(&str, Role)> = all.iter().map(|server| (server.as_str(), Role::Serving)).collect();
    let mut sight = pool(&servers);
    let named = |sight: &mut Sight, stood_s| {
        for seen in sight.servers.values_mut() {
            seen.keep_for = Duration::from_secs(stood_s);
        }
        let spread = spread(sight, "s10").into_iter();
        spread.map(|(server, _)| server).collect::<BTreeSet<_>>()
    };
    let before = named(&mut sight, 0);
    let passed_over = all.iter().find(|server| *server != "s10" && !before.contains(*server));
    let (passed_over, full) = (passed_over.unwrap(), before.first().unwrap().clone());
    seen(&mut sight, passed_over).has.as_mut().unwrap().capacity = 50_000;
    assert_eq!(named(&mut sight, 3_600), before, "a larger one is not named for that");
    seen(&mut sight, &full).has.as_mut().unwrap().bytes = 9_900;
    assert_eq!(named(&mut sight, 59), before, "for a moment");
    let after = named(&mut sight, 60);
    assert_eq!(after.len(), 12);
    assert!(after.contains(passed_over) && !after.contains(&full), "{after:?}");
}

#[test]
fn server_that_is_given_no_copies_is_told_why_and_each_other_one_takes_some() {
    type Change = fn(&mut Sight);
    let changes: [(Change, Option<&str>); 7] = [
        (|_| (), None),
        (|sight| seen(sight, "s3").lost = true, Some("marked lost")),
        (|sight| seen(sight, "s3").want.role = Role::Free, Some("role")),
        (
            |sight| seen(sight, "s3").has.as_mut().unwrap().kept = None,
            Some("release"),
        ),
        (
            |sight| {
                let said = ServerTerms {
                    new_objects: false,
                    ..ServerTerms::default()
                };
                with(sight, |settings| drop(settings.terms.servers.insert(name("s3"), said)));
            },
            Some("new_objects"),
        ),
        (|sight| seen(sight, "s3").alive = false, Some("not heard")),
        (
            |sight| seen(sight, "s3").has.as_mut().unwrap().bytes = 9_900,
            Some("nearly full"),
        ),
    ];
    for (change, says) in changes {
        let mut sight = three();
        change(&mut sight);
        let why = takes_none(&sight, &name("s3"));
        assert_eq!(why.is_some(), says.is_some(), "{why:?}");
        assert!(says.is_none_or(|says| why.unwrap().contains(says)), "{why:?}");
        assert_eq!(takes_none(&sight, &name("s2")), None);
    }
}

#[test]
fn server_that_knows_no_copies_is_told_of_none_and_holds_none() {
    let mut sight = three();
    settle(&mut sight);
    // Somebody brought the release before back by hand.
    seen(&mut sight, "s3").has.as_mut().unwrap().kept = None;
    assert_eq!(told(&mut sight, "s3"), Keep::default());
    assert_eq!(spread(&mut sight, "s1"), [("s2".to_owned(), 999)]);
}

#[test]
fn copies_begin_when_every_server_that_takes_part_knows_them() {
    let mut sight = three();
    seen(&mut sight, "s3").has.as_mut().unwrap().kept = None;
    assert_eq!(settle(&mut sight), 0);
    assert_eq!(knows_no_copies(&sight), [&name("s3")]);
    // One that was given up does not hold the others back, nor does one that was only invited.
    for change in [
        (|seen| seen.lost = true) as fn(&mut Seen),
        |seen| seen.want.role = Role::Failed,
        |seen| seen.has = None,
        |seen| seen.has.as_mut().unwrap().kept = Some(Kept::default()),
    ] {
        let mut sight = sight.clone();
        change(seen(&mut sight, "s3"));
        assert!(told(&mut sight, "s1").copies > 0);
        assert!(has_begun(&sight));
    }
}

#[test]
fn prefixes_that_go_into_no_want_are_refused() {
    let copies = |prefixes: &[String]| Copies {
        wanted: None,
        under: prefixes.iter().map(|prefix| (prefix.parse().unwrap(), 2)).collect(),
        ..Copies::default()
    };
    let refused = |prefixes: &[String]| copies(prefixes).out_of_range().map(|(key, _)| key);
    let many: Vec<String> = (0..17).map(|number| format!("3.{number}")).collect();
    assert_eq!(refused(&many[..16]), None);
    assert_eq!(refused(&many), Some("under".to_owned()));
    let long = |octets| format!("{}.{}", "a".repeat(120), "b".repeat(octets - 121));
    assert_eq!(refused(&[long(PREFIX_OCTETS_MAX)]), None);
    let over = long(PREFIX_OCTETS_MAX + 1);
    assert_eq!(refused(std::slice::from_ref(&over)), Some(format!("under.\"{over}\"")));
}

/// A pool whose servers have just been brought to the first release that knows copies.
#[test]
fn copies_do_not_begin_in_an_upgrade_that_can_still_go_back_and_go_on_in_one_once_they_have_begun() {
    let upgraded = |phase: Phase, begins_before: bool| {
        let mut sight = pool(&[("s1", Role::Serving), ("s2", Role::Serving), ("s3", Role::Free)]);
        if begins_before {
            settle(&mut sight);
        }
        let mut plan = steer::start(&sight, "2", &crate::pool::Ask::default(), 0, 0).unwrap();
        plan.upgrade.as_mut().unwrap().phase = phase;
        sight.apply_plan(Plan {
            goal: crate::pool::Goal::Hold,
            ..plan
        });
        told(&mut sight, "s1").copies > 0
    };
    for phase in [Phase::Rolling, Phase::Soak, Phase::Aborting] {
        assert!(!upgraded(phase, false), "{phase}");
        assert!(upgraded(phase, true), "{phase}");
    }
    for phase in [Phase::Finalizing, Phase::Sweeping, Phase::Done, Phase::RolledBack] {
        assert!(upgraded(phase, false), "{phase}");
    }
}

#[test]
fn roles_that_are_about_to_be_written_count_at_once() {
    let mut sight = sight(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s3", Role::Free, 0),
    ]);
    knows_copies(&mut sight);
    settle(&mut sight);
    assert_eq!(spread(&mut sight, "s1"), [("s2".to_owned(), 999)]);
    let plan = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(plan);
    for _ in 0..3 {
        let Decision::Write(wants) = decide(&sight) else {
            break;
        };
        for (server, want) in wants {
            sight.write(&server, want);
        }
        for server in ["s1", "s2", "s3"] {
            let objects = sight.servers[&name(server)].owned;
            sight.report(server, 1, objects);
        }
        knows_copies(&mut sight);
        // Nothing was written that the next decision says otherwise: a second controller has nothing to add.
        let wants = add_to(&sight, Vec::new());
        assert!(wants.is_empty(), "{wants:?}");
    }
    assert_eq!(sight.role("s2"), Role::Draining);
    let keep = &sight.servers[&name("s1")].want.errand.keep;
    assert_eq!(
        (names(&keep.leave), keep.spread.clone()),
        (vec!["s2"], vec![(name("s3"), 999)])
    );
}

fn pools() -> impl Strategy<Value = Sight> {
    let role = prop::sample::select(vec![
        Role::Serving,
        Role::Serving,
        Role::Serving,
        Role::Refilling,
        Role::Draining,
        Role::Free,
        Role::Failed,
    ]);
    let server = (
        role,
        0..10_000_u64,
        0..20_000_u64,
        0..1000_u32,
        any::<(bool, bool, bool)>(),
        0..3_usize,
    );
    (
        proptest::collection::vec(server, 1..30),
        proptest::option::of(1..=13_u8),
    )
        .prop_map(|(servers, wanted)| {
            let names: Vec<String> = (0..servers.len()).map(|number| format!("s{number}")).collect();
            let listed: Vec<(&str, Role)> = names
                .iter()
                .zip(&servers)
                .map(|(name, (role, ..))| (name.as_str(), *role))
                .collect();
            let mut sight = pool(&listed);
            let mut settings = Settings::default();
            settings.copies.wanted = wanted;
            for (server, (_, bytes, capacity, load, (alive, lost, hears), rack)) in names.iter().zip(servers) {
                let seen = seen(&mut sight, server);
                (seen.alive, seen.lost) = (alive || hears, lost && !alive);
                let has = seen.has.as_mut().unwrap();
                (has.bytes, has.capacity, has.load) = (bytes, capacity, load);
                if rack > 0 {
                    settings.terms.servers.insert(name(server), label(&format!("r{rack}")));
                }
            }
            sight.copies = Arc::new(settings);
            sight
        })
}

proptest! {
    /// However long what is told has stood: the same sight gives nothing new to say.
    #[test]
    fn what_was_written_is_not_written_again(mut sight in pools(), stood_s in prop::sample::select(vec![0, 3_600])) {
        settle(&mut sight);
        for seen in sight.servers.values_mut() {
            seen.keep_for = Duration::from_secs(stood_s);
        }
        prop_assert_eq!(settle(&mut sight), 0);
        for (server, seen) in &sight.servers {
            let keep = &seen.want.errand.keep;
            prop_assert!(keep.spread.len() <= 12 && keep.leave.len() <= 14 && keep.lost.len() <= 14);
            prop_assert!(keep.spread.iter().all(|(name, weight)| (1..=999).contains(weight) && name != server));
            prop_assert!(keep.spread.is_sorted_by(|(_, a), (_, b)| a >= b));
            prop_assert!(keep.spread.iter().all(|(name, _)| !keep.leave.contains(name) && !keep.lost.contains(name)));
            prop_assert!(!keep.lost.contains(server) && !keep.leave.contains(server));
            prop_assert_eq!(zones::Want::from_strings(&seen.want.strings()).unwrap(), seen.want.clone());
        }
    }

    /// A load that comes and goes within a few percent is told to nobody.
    #[test]
    fn few_percent_of_change_are_told_to_nobody(mut sight in pools(), percent in 97..=103_u64) {
        for seen in sight.servers.values_mut() {
            let has = seen.has.as_mut().unwrap();
            // The worth of a full server changes much with little; so does that of a tiny one, in whole octets.
            has.capacity += 1_000;
            has.bytes = has.bytes.min(has.capacity / 2);
        }
        settle(&mut sight);
        for (at, seen) in sight.servers.values_mut().enumerate() {
            seen.keep_for = Duration::from_secs(3_600);
            let has = seen.has.as_mut().unwrap();
            if at % 2 == 0 {
                has.capacity = has.capacity * percent / 100;
            }
        }
        prop_assert_eq!(settle(&mut sight), 0);
    }
}
