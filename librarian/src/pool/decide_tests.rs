use super::*;
use crate::pool::propose::{drain, refill};
use crate::pool::testing::{name, sight};

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
                registers: 7
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
                    sight.report(picked.as_str(), plan, objects);
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
                sight.report(server.as_str(), want.plan, owned);
            }
        }
        assert_eq!(decide(&sight), Decision::Rest, "seed {seed}: {sight:?}");
        assert!(
            sight.servers.values().any(|seen| seen.want.role == Role::Free),
            "seed {seed}"
        );
    }
}
