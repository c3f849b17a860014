use super::*;
use crate::pool::decide;
use crate::pool::testing::{name, sight};

fn pool() -> Sight {
    sight(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s3", Role::Free, 0),
        ("s4", Role::Free, 0),
    ])
}

#[test]
fn a_drain_goes_into_the_roomiest_free_server() {
    let mut sight = pool();
    sight
        .servers
        .get_mut(&name("s4"))
        .unwrap()
        .has
        .as_mut()
        .unwrap()
        .capacity = 20_000;
    let new = drain(&sight, &name("s2"), None).unwrap();
    assert_eq!((new.number, new.parent), (1, 0));
    assert_eq!(new.goal.to_string(), "drain s2 into s4");
    assert_eq!(
        drain(&sight, &name("s2"), Some(&name("s3")))
            .unwrap()
            .goal
            .parties()
            .unwrap()
            .1,
        &name("s3")
    );
}

/// What a reconcile in the midst of a drain leaves: both servers hold objects and serve.
#[test]
fn without_any_free_server_a_serving_one_with_room_is_drained_into_if_it_is_named() {
    let sight = sight(&[("s1", Role::Serving, 5), ("s2", Role::Serving, 7)]);
    assert_eq!(drain(&sight, &name("s1"), None), Err(PlanRefusal::NoFree));
    assert_eq!(
        drain(&sight, &name("s1"), Some(&name("s2"))).unwrap().goal.to_string(),
        "drain s1 into s2"
    );
    assert!(matches!(
        drain(&sight, &name("s1"), Some(&name("s1"))),
        Err(PlanRefusal::Role { .. })
    ));
}

#[test]
fn drains_that_cannot_work_are_refused_with_the_reason() {
    let sight = pool();
    let refused = |server: &str, into: Option<&str>, sight: &Sight| {
        drain(sight, &name(server), into.map(name).as_ref()).unwrap_err()
    };
    assert!(matches!(refused("s9", None, &sight), PlanRefusal::Unknown { .. }));
    assert!(matches!(
        refused("s3", None, &sight),
        PlanRefusal::Role { role: Role::Free, .. }
    ));
    assert!(matches!(
        refused("s2", Some("s1"), &sight),
        PlanRefusal::Role {
            role: Role::Serving,
            ..
        }
    ));
    let mut small = pool();
    for server in ["s3", "s4"] {
        small
            .servers
            .get_mut(&name(server))
            .unwrap()
            .has
            .as_mut()
            .unwrap()
            .capacity = 800;
    }
    assert!(matches!(
        refused("s2", None, &small),
        PlanRefusal::Room {
            needed: 910,
            room: 800,
            ..
        }
    ));
    let mut none = pool();
    for server in ["s3", "s4"] {
        none.servers.get_mut(&name(server)).unwrap().alive = false;
    }
    assert_eq!(refused("s2", None, &none), PlanRefusal::NoFree);
    assert!(matches!(refused("s2", Some("s3"), &none), PlanRefusal::Silent { .. }));
    let mut silent = pool();
    silent.servers.get_mut(&name("s2")).unwrap().has = None;
    assert!(matches!(refused("s2", None, &silent), PlanRefusal::Silent { .. }));
}

#[test]
fn only_the_reverse_may_replace_a_plan_that_runs() {
    let mut sight = pool();
    let new = drain(&sight, &name("s2"), Some(&name("s3"))).unwrap();
    sight.apply_plan(new);
    assert!(matches!(
        drain(&sight, &name("s2"), None),
        Err(PlanRefusal::Busy { .. })
    ));
    assert!(matches!(
        drain(&sight, &name("s1"), None),
        Err(PlanRefusal::Busy { .. })
    ));
    assert!(matches!(
        drain(&sight, &name("s3"), None),
        Err(PlanRefusal::Busy { .. })
    ));
    assert!(matches!(refill(&sight, &name("s1")), Err(PlanRefusal::Busy { .. })));
    let back = refill(&sight, &name("s2")).unwrap();
    assert_eq!(back.goal.to_string(), "refill s2 from s3");
    assert_eq!((back.number, back.parent), (2, 1));
    assert!(back.homes.is_empty());
    sight.apply_plan(back);
    let again = drain(&sight, &name("s2"), None).unwrap();
    assert_eq!(again.goal.to_string(), "drain s2 into s3");
}

#[test]
fn a_server_that_was_not_drained_cannot_be_refilled() {
    let sight = pool();
    assert!(matches!(refill(&sight, &name("s3")), Err(PlanRefusal::NoHome { .. })));
    assert!(matches!(refill(&sight, &name("s1")), Err(PlanRefusal::NoHome { .. })));
}

fn policy(level: u8, floor: u8, steps: Steps) -> Policy {
    Policy {
        level: Level(level),
        floor: Level(floor),
        steps,
    }
}

/// What a server gave under the first of these plans lies there until it serves again, and is what the taker is to count.
#[test]
fn refill_that_is_turned_round_twice_is_counted_from_its_beginning() {
    let mut sight = pool();
    let be = |sight: &mut Sight, server: &str, role| sight.servers.get_mut(&name(server)).unwrap().want.role = role;
    sight.apply_plan(Plan {
        number: 1,
        parent: 0,
        goal: Goal::Refill {
            server: name("s3"),
            from: name("s1"),
        },
        homes: std::collections::BTreeMap::new(),
        open: std::collections::BTreeMap::new(),
        policy: zones::Policy::default(),
        upgrade: None,
    });
    be(&mut sight, "s1", Role::Draining);
    be(&mut sight, "s3", Role::Refilling);
    let back = drain(&sight, &name("s3"), None).unwrap();
    let begun = &back.open[&name("s1")];
    assert_eq!((&begun.into, begun.since), (&name("s3"), 1));
    sight.apply_plan(back);
    be(&mut sight, "s1", Role::Cordoned);
    let forth = refill(&sight, &name("s3")).unwrap();
    assert_eq!(forth.open[&name("s1")].since, 1);
    // Once it serves, nothing of that time is left there.
    be(&mut sight, "s1", Role::Serving);
    let forth = refill(&sight, &name("s3")).unwrap();
    assert!(!forth.open.contains_key(&name("s1")), "{:?}", forth.open);
}

#[test]
fn policy_rises_step_by_step_and_stays_with_every_later_plan() {
    let mut sight = pool();
    let write = |sight: &mut Sight, plan: Plan| {
        sight.apply_plan(plan);
        while let Decision::Write(wants) = decide(sight) {
            for (server, want) in wants {
                sight.write(&server, want);
            }
        }
    };
    let asked = policy(2, 1, Steps::Expand);
    let plan = ask_more(&sight, asked, Some(Level(1))).unwrap();
    write(&mut sight, plan);
    assert!(sight.servers.values().all(|seen| seen.want.policy == asked));
    // Every server that is heard takes it before the next plan is made.
    assert!(matches!(decide(&sight), Decision::Wait(waits) if waits.len() == 4));
    assert!(matches!(
        drain(&sight, &name("s1"), None),
        Err(PlanRefusal::Busy { .. })
    ));
    for (server, objects) in [("s1", 5), ("s2", 7), ("s3", 0)] {
        sight.report(server, 1, objects);
    }
    sight.servers.get_mut(&name("s4")).unwrap().alive = false;
    assert_eq!(decide(&sight), Decision::Rest);
    let plan = drain(&sight, &name("s1"), None).unwrap();
    assert_eq!(plan.policy, asked);
    sight.apply_plan(plan);
    let Decision::Write(frozen) = decide(&sight) else {
        panic!("a new plan freezes");
    };
    assert!(frozen.iter().all(|(_, want)| want.policy == asked));
}

#[test]
fn policy_that_falls_or_that_objects_could_not_follow_is_refused() {
    let mut sight = pool();
    sight.plan = Some(Plan {
        number: 0,
        parent: 0,
        goal: Goal::Settle,
        homes: std::collections::BTreeMap::new(),
        open: std::collections::BTreeMap::new(),
        policy: policy(2, 1, Steps::All),
        upgrade: None,
    });
    let refused = |level, floor, steps, lowest| ask_more(&sight, policy(level, floor, steps), lowest).unwrap_err();
    let lowest = Some(Level(2));
    assert_eq!(refused(2, 1, Steps::All, lowest), PlanRefusal::SamePolicy);
    for (level, floor) in [(4, 1), (2, 3), (2, 0)] {
        let refused = refused(level, floor, Steps::All, lowest);
        assert!(matches!(refused, PlanRefusal::Policy { .. }), "{refused}");
    }
    for (level, floor, steps) in [(1, 1, Steps::All), (2, 1, Steps::Expand), (3, 1, Steps::Expand)] {
        let refused = refused(level, floor, steps, lowest);
        assert!(matches!(refused, PlanRefusal::LowerPolicy { .. }), "{refused}");
    }
    for (level, floor, lowest) in [(2, 2, Some(Level(1))), (3, 3, Some(Level(3))), (3, 3, None)] {
        let refused = refused(level, floor, Steps::All, lowest);
        assert!(matches!(refused, PlanRefusal::BelowFloor { .. }), "{refused}");
    }
    let risen = ask_more(&sight, policy(3, 2, Steps::All), lowest).unwrap();
    assert_eq!(risen.policy, policy(3, 2, Steps::All));
}

#[test]
fn policy_waits_until_no_agent_that_is_heard_is_of_a_release_that_cannot_read_it() {
    let mut sight = pool();
    let asked = policy(2, 1, Steps::Expand);
    let old = sight.servers.get_mut(&name("s2")).unwrap();
    old.has.as_mut().unwrap().audit = None;
    assert_eq!(
        ask_more(&sight, asked, None),
        Err(PlanRefusal::OldRelease { server: name("s2") })
    );
    sight.servers.get_mut(&name("s2")).unwrap().alive = false;
    assert!(ask_more(&sight, asked, None).is_ok());
}

#[test]
fn target_has_room_for_the_copies_that_are_on_the_server_and_for_its_own() {
    let mut sight = pool();
    let mut kept = |server: &str, octets| {
        let has = sight.servers.get_mut(&name(server)).unwrap().has.as_mut().unwrap();
        has.kept = Some(zones::Kept {
            octets,
            ..zones::Kept::default()
        });
        drain(&sight, &name("s2"), Some(&name("s3")))
    };
    // 1.3 times 700 and 6900, of 10000.
    assert!(kept("s2", 6_900).is_ok());
    assert!(matches!(
        kept("s2", 7_000),
        Err(PlanRefusal::Room { needed: 10_010, .. })
    ));
    assert!(kept("s2", 6_000).is_ok());
    assert!(matches!(kept("s3", 6_000), Err(PlanRefusal::Room { room: 4_000, .. })));
}

#[test]
fn nothing_is_drained_into_or_off_a_server_that_is_marked_lost() {
    let mut sight = pool();
    // It is heard again, and a person has not said that it is back.
    for server in ["s2", "s4"] {
        sight.servers.get_mut(&name(server)).unwrap().lost = true;
    }
    let s4 = sight.servers.get_mut(&name("s4")).unwrap();
    s4.has.as_mut().unwrap().capacity = 20_000;
    let lost = |server| Err(PlanRefusal::Lost { server: name(server) });
    assert_eq!(drain(&sight, &name("s2"), None), lost("s2"));
    assert_eq!(drain(&sight, &name("s1"), Some(&name("s4"))), lost("s4"));
    assert_eq!(
        drain(&sight, &name("s1"), None).unwrap().goal.to_string(),
        "drain s1 into s3",
        "also where the lost one is the roomier"
    );
}
