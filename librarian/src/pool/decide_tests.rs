use zones::Kept;

use super::*;
use crate::pool::propose::{drain, refill};
use crate::pool::testing::{knows_copies, name, sight};

fn pool() -> Sight {
    sight(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s4", Role::Free, 0),
    ])
}

/// Writes what is decided; answers with whether anything was.
fn act(sight: &mut Sight) -> bool {
    match decide(sight) {
        Decision::Write(wants) => {
            assert!(!wants.is_empty(), "a decision to write writes something");
            for (server, want) in wants {
                sight.write(&server, want);
            }
            true
        }
        Decision::Rest | Decision::Wait(_) | Decision::Next(_) => false,
    }
}

fn move_objects(sight: &mut Sight, from: &str, into: &str, objects: u64) {
    let source = sight.servers.get_mut(&name(from)).unwrap();
    source.named -= objects;
    source.owned -= objects;
    let target = sight.servers.get_mut(&name(into)).unwrap();
    target.named += objects;
    target.owned += objects;
}

#[test]
fn a_pool_without_a_plan_rests() {
    assert_eq!(decide(&pool()), Decision::Rest);
}

#[test]
fn the_plan_after_a_reconcile_moves_nothing_and_is_no_obstacle_to_the_next() {
    let mut sight = pool();
    let settle = Plan {
        number: 9,
        parent: 0,
        goal: Goal::Settle,
        homes: std::collections::BTreeMap::new(),
        open: std::collections::BTreeMap::new(),
        policy: zones::Policy::default(),
        upgrade: None,
    };
    sight.apply_plan(settle);
    // A server that joined since has an older want.
    while act(&mut sight) {}
    assert_eq!(decide(&sight), Decision::Rest);
    assert!(sight.servers.values().all(|seen| seen.want.targets.is_empty()));
    assert_eq!(drain(&sight, &name("s2"), None).unwrap().number, 10);
}

#[test]
fn a_new_plan_freezes_every_want_first() {
    let mut sight = pool();
    let moving = sight.servers.get_mut(&name("s1")).unwrap();
    moving.want.role = Role::Draining;
    moving.want.targets = vec![name("s4")];
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    assert!(act(&mut sight));
    let wants: Vec<&Want> = sight.servers.values().map(|seen| &seen.want).collect();
    assert!(
        wants
            .iter()
            .all(|want| want.plan == 1 && want.step == 0 && want.targets.is_empty())
    );
    assert_eq!(sight.role("s1"), Role::Cordoned);
}

#[test]
fn a_drain_goes_step_by_step_and_ends_with_the_source_free() {
    let mut sight = pool();
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    assert!(act(&mut sight));
    // Nothing happens before both have said that they know the plan.
    assert!(matches!(decide(&sight), Decision::Wait(waits) if waits.len() == 2));
    sight.report("s4", 1, 0);
    assert!(matches!(decide(&sight), Decision::Wait(waits) if waits.len() == 1));
    sight.report("s2", 1, 7);
    assert!(act(&mut sight));
    assert_eq!((sight.role("s2"), sight.role("s4")), (Role::Cordoned, Role::Free));
    assert!(act(&mut sight));
    assert_eq!((sight.role("s2"), sight.role("s4")), (Role::Draining, Role::Serving));
    assert_eq!(sight.servers[&name("s2")].want.targets, [name("s4")]);
    assert_eq!(
        decide(&sight),
        Decision::Wait(vec![
            Wait::Named {
                server: name("s2"),
                registers: 7,
                held: 0,
            },
            Wait::Holds {
                server: name("s2"),
                objects: 7
            },
        ])
    );
    move_objects(&mut sight, "s2", "s4", 7);
    assert_eq!(
        decide(&sight),
        Decision::Wait(vec![Wait::Holds {
            server: name("s2"),
            objects: 7
        }])
    );
    sight.report("s2", 1, 0);
    sight.report("s4", 1, 7);
    assert!(act(&mut sight));
    assert_eq!(sight.role("s2"), Role::Empty);
    assert!(act(&mut sight));
    assert_eq!((sight.role("s2"), sight.role("s4")), (Role::Free, Role::Serving));
    assert_eq!(decide(&sight), Decision::Rest);
    // And back.
    let new = refill(&sight, &name("s2")).unwrap();
    assert_eq!(new.goal.to_string(), "refill s2 from s4");
    sight.apply_plan(new);
    assert!(act(&mut sight));
    sight.report("s2", 2, 0);
    sight.report("s4", 2, 7);
    assert!(act(&mut sight) && act(&mut sight));
    assert_eq!((sight.role("s4"), sight.role("s2")), (Role::Draining, Role::Refilling));
    move_objects(&mut sight, "s4", "s2", 7);
    sight.report("s4", 2, 0);
    assert!(act(&mut sight) && act(&mut sight));
    assert_eq!((sight.role("s4"), sight.role("s2")), (Role::Free, Role::Serving));
    assert_eq!(decide(&sight), Decision::Rest);
    assert!(refill(&sight, &name("s2")).is_err());
}

#[test]
fn a_report_of_another_plan_or_of_a_server_whose_lease_is_over_does_not_count() {
    let mut sight = pool();
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    assert!(act(&mut sight));
    sight.report("s2", 1, 7);
    for plan in [0, 2] {
        sight.report("s4", plan, 0);
        assert!(matches!(decide(&sight), Decision::Wait(_)), "plan {plan}");
    }
    sight.report("s4", 1, 0);
    sight.servers.get_mut(&name("s4")).unwrap().alive = false;
    assert!(matches!(decide(&sight), Decision::Wait(_)));
}

#[test]
fn a_server_that_left_stops_the_plan_with_its_name() {
    let mut sight = pool();
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    assert!(act(&mut sight));
    sight.servers.remove(&name("s4"));
    assert_eq!(
        decide(&sight),
        Decision::Wait(vec![Wait::Missing { server: name("s4") }])
    );
}

#[test]
fn a_drain_that_waits_for_unreadable_objects_says_so() {
    let mut sight = pool();
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    while act(&mut sight) {
        sight.report("s2", 1, 3);
        sight.report("s4", 1, 0);
    }
    sight
        .servers
        .get_mut(&name("s2"))
        .unwrap()
        .has
        .as_mut()
        .unwrap()
        .unreadable = 2;
    let Decision::Wait(waits) = decide(&sight) else {
        panic!("{:?}", decide(&sight));
    };
    let said = waits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    assert!(
        said.contains("s2 still reports 3 objects; 2 of them cannot be read and stay: `agent check` on s2"),
        "{said}"
    );
}

/// A pool that keeps copies: s2 owns 7 objects and holds copies of the 5 of s1.
fn pool_with_copies() -> Sight {
    let mut sight = pool();
    knows_copies(&mut sight);
    let s2 = sight.servers.get_mut(&name("s2")).unwrap();
    (s2.named, s2.held) = (12, 5);
    s2.has.as_mut().unwrap().kept.as_mut().unwrap().held = 5;
    while act(&mut sight) {}
    sight
}

fn report(sight: &mut Sight, server: &str, plan: u64, objects: u64, held: u64) {
    sight.report(server, plan, objects);
    let has = sight.servers.get_mut(&name(server)).unwrap().has.as_mut().unwrap();
    has.kept = Some(Kept {
        held,
        ..Kept::default()
    });
}

fn waits(sight: &Sight) -> Vec<String> {
    match decide(sight) {
        Decision::Wait(waits) => waits.iter().map(ToString::to_string).collect(),
        decision => panic!("{decision:?}"),
    }
}

#[test]
fn a_server_that_holds_copies_of_what_others_own_is_not_empty() {
    let mut sight = pool_with_copies();
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    while act(&mut sight) {
        report(&mut sight, "s2", 1, 7, 5);
        report(&mut sight, "s4", 1, 0, 0);
    }
    assert_eq!(
        waits(&sight),
        [
            "12 registers still name s2, 5 of them as holder of a copy",
            "s2 still reports 5 copies of what others own",
            "s2 still reports 7 objects",
        ]
    );
    move_objects(&mut sight, "s2", "s4", 7);
    report(&mut sight, "s2", 1, 0, 5);
    report(&mut sight, "s4", 1, 7, 0);
    assert_eq!(
        waits(&sight),
        [
            "5 registers still name s2 as holder of a copy",
            "s2 still reports 5 copies of what others own",
        ]
    );
    // Their owner has copies elsewhere, and its registers say so; the agent has yet to read them.
    let s2 = sight.servers.get_mut(&name("s2")).unwrap();
    (s2.named, s2.held) = (0, 0);
    assert_eq!(waits(&sight), ["s2 still reports 5 copies of what others own"]);
    report(&mut sight, "s2", 1, 0, 0);
    assert!(act(&mut sight));
    assert_eq!(sight.role("s2"), Role::Empty);
}

#[test]
fn what_is_new_of_copies_is_the_next_step_of_a_plan_that_waits_and_changes_nothing_else() {
    let mut sight = pool_with_copies();
    let upkeep = Some(zones::Upkeep::default());
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    while act(&mut sight) {
        report(&mut sight, "s2", 1, 7, 5);
        report(&mut sight, "s4", 1, 0, 0);
        let s4 = sight.servers.get_mut(&name("s4")).unwrap();
        s4.has.as_mut().unwrap().upkeep.clone_from(&upkeep);
    }
    let before = sight.clone();
    assert!(before.servers[&name("s4")].want.errand.arrivals.is_some());
    assert!(matches!(decide(&sight), Decision::Wait(_)));
    // s1 is marked lost: what it owned goes to who has copies.
    sight.servers.get_mut(&name("s1")).unwrap().lost = true;
    // People are told what the plan waits for, not that wants are about to be written.
    assert_eq!(course(&sight), course(&before));
    assert!(act(&mut sight));
    for (server, seen) in &sight.servers {
        let old = &before.servers[server].want;
        let errand = Errand {
            keep: seen.want.errand.keep.clone(),
            ..old.errand.clone()
        };
        let step = old.step + u64::from(seen.want != *old);
        assert_eq!(
            seen.want,
            Want {
                step,
                errand,
                ..old.clone()
            }
        );
    }
    let told = |server: &str| &sight.servers[&name(server)].want.errand.keep;
    assert_eq!(
        (&told("s2").lost, &told("s4").lost),
        (&vec![name("s1")], &vec![name("s1")])
    );
    assert_eq!(decide(&sight), decide(&before), "it is written once");
    // And back.
    sight.servers.get_mut(&name("s1")).unwrap().lost = false;
    assert!(act(&mut sight));
    assert!(told_as(&before, &sight));
    assert!(matches!(decide(&sight), Decision::Wait(_)));
}

/// Whether both say the same, in whatever step.
fn told_as(a: &Sight, b: &Sight) -> bool {
    let said = |sight: &Sight| {
        let wants = sight
            .servers
            .values()
            .map(|seen| (seen.want.role, seen.want.errand.clone()));
        wants.collect::<Vec<_>>()
    };
    said(a) == said(b)
}

#[test]
fn a_want_that_says_the_same_already_is_not_written_again_beside_others() {
    let mut sight = sight(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s3", Role::Serving, 1),
    ]);
    knows_copies(&mut sight);
    while act(&mut sight) {}
    // What a reconcile in the midst of a drain leaves: the target serves already.
    let new = drain(&sight, &name("s1"), Some(&name("s2"))).unwrap();
    sight.apply_plan(new);
    assert!(act(&mut sight));
    for (server, objects) in [("s1", 5), ("s2", 7), ("s3", 1)] {
        report(&mut sight, server, 1, objects, 0);
    }
    assert!(act(&mut sight));
    assert_eq!(sight.role("s1"), Role::Cordoned);
    let Decision::Write(wants) = decide(&sight) else {
        panic!("s1 drains")
    };
    assert_eq!(wants.len(), 1, "{wants:?}");
}

#[test]
fn a_pool_that_rests_or_never_had_a_plan_is_told_of_copies_too() {
    let mut sight = pool();
    knows_copies(&mut sight);
    assert!(act(&mut sight));
    assert!(sight.servers.values().all(|seen| seen.want.plan == 0));
    assert_eq!(decide(&sight), Decision::Rest);
    let new = drain(&sight, &name("s2"), None).unwrap();
    sight.apply_plan(new);
    for _ in 0..9 {
        while act(&mut sight) {}
        let owned = sight.servers[&name("s2")].owned;
        move_objects(&mut sight, "s2", "s4", owned);
        for server in ["s1", "s2", "s4"] {
            let owned = sight.servers[&name(server)].owned;
            report(&mut sight, server, 1, owned, 0);
        }
    }
    assert_eq!(decide(&sight), Decision::Rest);
    sight.servers.get_mut(&name("s1")).unwrap().lost = true;
    assert!(act(&mut sight));
    assert_eq!(decide(&sight), Decision::Rest);
}

#[test]
fn a_drain_is_over_when_one_of_its_servers_is_lost_for_good_and_the_other_serves() {
    for (lost, left) in [("s4", "s2"), ("s2", "s4")] {
        let mut sight = pool_with_copies();
        let new = drain(&sight, &name("s2"), None).unwrap();
        sight.apply_plan(new);
        while act(&mut sight) {
            report(&mut sight, "s2", 1, 7, 5);
            report(&mut sight, "s4", 1, 0, 0);
        }
        move_objects(&mut sight, "s2", "s4", 3);
        assert_eq!(sight.role("s2"), Role::Draining);
        let seen = sight.servers.get_mut(&name(lost)).unwrap();
        (seen.lost, seen.alive) = (true, false);
        while act(&mut sight) {}
        assert_eq!(decide(&sight), Decision::Rest, "{lost} is lost");
        assert_eq!(sight.role(left), Role::Serving, "{lost} is lost");
        assert!(sight.servers[&name(left)].want.targets.is_empty());
        assert!(matches!(
            drain(&sight, &name(left), Some(&name(lost))),
            Err(crate::pool::PlanRefusal::Role { .. } | crate::pool::PlanRefusal::Lost { .. })
        ));
    }
}

#[test]
fn source_of_a_drain_whose_target_is_lost_is_left_in_no_role_that_nobody_ends() {
    let upkeep = |retired| zones::Upkeep {
        retired,
        ..zones::Upkeep::default()
    };
    for (role, retired, ends) in [
        (Role::Serving, 0, Role::Serving),
        (Role::Refilling, 0, Role::Serving),
        (Role::Cordoned, 0, Role::Serving),
        (Role::Draining, 0, Role::Serving),
        (Role::Empty, 0, Role::Free),
        (Role::Empty, 3, Role::Empty),
        (Role::Free, 0, Role::Free),
        (Role::Reserve, 0, Role::Reserve),
        (Role::Upgrading, 0, Role::Upgrading),
        (Role::Validating, 0, Role::Validating),
        (Role::Failed, 0, Role::Failed),
        (Role::Quarantined, 0, Role::Quarantined),
    ] {
        let mut sight = pool_with_copies();
        let new = drain(&sight, &name("s2"), None).unwrap();
        sight.apply_plan(new);
        assert!(act(&mut sight), "wants are frozen");
        let source = sight.servers.get_mut(&name("s2")).unwrap();
        source.want.role = role;
        source.has.as_mut().unwrap().upkeep = Some(upkeep(retired));
        sight.servers.get_mut(&name("s4")).unwrap().lost = true;
        while act(&mut sight) {}
        assert_eq!(sight.role("s2"), ends, "{role} {retired}");
        let waits =
            matches!(decide(&sight), Decision::Wait(waits) if matches!(waits[..], [Wait::Retired { copies: 3, .. }]));
        assert_eq!(waits, retired > 0, "{role} {retired}");
    }
}

/// A small deterministic generator: a failure prints the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Walks many orders of reports, moves, lost leases, creations and plans turned round, with agents that obey the newest
/// want they have seen, and checks the invariants of this module at every step; then lets faults stop and the plan end.
#[test]
fn a_server_is_never_emptied_unsafely_whatever_the_order() {
    for seed in 1..400_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut sight = pool();
        // In half of the runs servers are told of copies all the while.
        let copies = seed % 2 == 0;
        let report = |sight: &mut Sight, server: &str, plan, objects| match copies {
            true => report(sight, server, plan, objects, 0),
            false => sight.report(server, plan, objects),
        };
        // What each agent has seen: plan and want.
        let mut known: std::collections::BTreeMap<ServerName, Want> = sight
            .servers
            .iter()
            .map(|(name, seen)| (name.clone(), seen.want.clone()))
            .collect();
        let new = drain(&sight, &name("s2"), None).unwrap();
        sight.apply_plan(new);
        for turn in 0..400 {
            let calm = turn > 200;
            let names: Vec<ServerName> = sight.servers.keys().cloned().collect();
            let picked = names[dice.roll(names.len() as u64) as usize].clone();
            match dice.roll(if calm { 5 } else { 8 }) {
                0 | 1 => {
                    let before = sight.clone();
                    if act(&mut sight) {
                        for (server, seen) in &sight.servers {
                            let old = &before.servers[server];
                            if seen.want.role == Role::Draining && old.want.role != Role::Draining {
                                assert_eq!(old.want.role, Role::Cordoned, "seed {seed}: drains only when cordoned");
                                assert!(
                                    seen.want
                                        .targets
                                        .iter()
                                        .all(|target| before.servers[target].knows(before.number()))
                                );
                            }
                            if seen.want.role == Role::Empty && old.want.role != Role::Empty {
                                assert_eq!(seen.named, 0, "seed {seed}: empty only when no register names it");
                            }
                            if seen.want.role == Role::Free && old.want.role != Role::Free {
                                assert_eq!(seen.named, 0, "seed {seed}: free only when no register names it");
                            }
                        }
                    }
                }
                // An agent reads its want.
                2 => {
                    let want = sight.servers[&picked].want.clone();
                    let old = known.get_mut(&picked).unwrap();
                    if want.supersedes(old) {
                        *old = want;
                    }
                }
                // It reports.
                3 => {
                    let (plan, objects) = (known[&picked].plan, sight.servers[&picked].owned);
                    sight.servers.get_mut(&picked).unwrap().alive = true;
                    report(&mut sight, picked.as_str(), plan, objects);
                }
                // It moves an object, as it knows; the registry judges by the want in force.
                4 => {
                    let want = &known[&picked];
                    let current = &sight.servers[&picked].want;
                    if let (Role::Draining, Some(target)) = (want.role, want.targets.first().cloned()) {
                        let allowed = current.role == Role::Draining && current.targets.contains(&target);
                        if allowed && sight.servers[&picked].owned > 0 {
                            move_objects(&mut sight, picked.as_str(), target.as_str(), 1);
                        }
                    }
                }
                // A creation; the registry refuses it where the role does.
                5 => {
                    let seen = sight.servers.get_mut(&picked).unwrap();
                    if seen.want.role.takes_new_objects() && seen.owned < 20 {
                        seen.owned += 1;
                        seen.named += 1;
                    }
                }
                6 => sight.servers.get_mut(&picked).unwrap().alive = false,
                _ => {
                    let turned = refill(&sight, &name("s2")).or_else(|_| drain(&sight, &name("s2"), None));
                    if let Ok(new) = turned {
                        sight.apply_plan(new);
                    }
                }
            }
        }
        // No more faults: everybody reads, moves and reports until the plan ends.
        for _ in 0..200 {
            act(&mut sight);
            for server in ["s1", "s2", "s4"].map(name) {
                let want = sight.servers[&server].want.clone();
                let owned = sight.servers[&server].owned;
                if let (Role::Draining, Some(target), 1..) = (want.role, want.targets.first(), owned) {
                    move_objects(&mut sight, server.as_str(), target.as_str(), 1);
                }
                sight.servers.get_mut(&server).unwrap().alive = true;
                let owned = sight.servers[&server].owned;
                report(&mut sight, server.as_str(), want.plan, owned);
            }
        }
        assert_eq!(decide(&sight), Decision::Rest, "seed {seed}: {sight:?}");
        assert!(
            sight.servers.values().any(|seen| seen.want.role == Role::Free),
            "seed {seed}"
        );
    }
}
