//! The next plan of an upgrade: what is to be done once the present plan has nothing more to do.
//!
//! Level-triggered: decided from who runs what and who holds what, never from a list made earlier. So an upgrade goes on from any
//! state, and an abort is the same with the releases exchanged.

use std::collections::BTreeMap;

use zones::{Level, Policy, Role, ServerName, Steps};

use super::decide::{Decision, Wait};
use super::gate::{self, Gate};
use super::plan::{Goal, Plan};
use super::rotation::{self, Host, Part, Refill, Topology};
use super::sight::{Seen, Sight};
use super::upgrade::{Baseline, Halt, Open, Phase, Roll, Upgrade};

/// What is to be done now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// This.
    Goal(Goal),
    /// Nothing before these.
    Waits(Vec<Wait>),
    /// Nothing can be done: why.
    Halts(String),
    /// Every server runs what it should.
    Over,
}

/// What follows when the goal of a plan is reached.
pub(super) fn advance(sight: &Sight, plan: &Plan, upgrade: &Upgrade) -> Decision {
    if let Some(halt) = &upgrade.halt {
        return Decision::Wait(vec![Wait::Halted { halt: halt.clone() }]);
    }
    match upgrade.phase {
        Phase::Rolling | Phase::Aborting => {
            if upgrade.phase == Phase::Rolling {
                match gate::clients(sight, upgrade) {
                    Gate::Passed => {}
                    Gate::Waits(wait) if sight.plan_for.as_secs() < upgrade.ask.gate_s => {
                        return Decision::Wait(vec![wait]);
                    }
                    Gate::Waits(wait) => return halts(sight, plan, upgrade, wait.to_string()),
                    Gate::Failed(why) => return halts(sight, plan, upgrade, why),
                }
            }
            match next(sight, plan, upgrade, false) {
                Next::Goal(goal) => Decision::Next(Box::new(child(sight, plan, goal, upgrade.clone()))),
                Next::Waits(waits) => Decision::Wait(waits),
                Next::Halts(why) => halts(sight, plan, upgrade, why),
                Next::Over => {
                    let phase = match upgrade.phase {
                        Phase::Aborting => Phase::RolledBack,
                        _ => Phase::Soak,
                    };
                    let upgrade = Upgrade {
                        phase,
                        ..upgrade.clone()
                    };
                    let mut next = child(sight, plan, Goal::Hold, upgrade);
                    if let Some(Upgrade {
                        phase: Phase::RolledBack,
                        contracted: true,
                        ..
                    }) = next.upgrade
                    {
                        next.policy.steps = Steps::All;
                    }
                    Decision::Next(Box::new(next))
                }
            }
        }
        Phase::Soak => match gate::clients(sight, upgrade) {
            Gate::Failed(why) => halts(sight, plan, upgrade, why),
            Gate::Passed | Gate::Waits(_) => {
                let watched = sight.plan_for.as_secs();
                Decision::Wait(vec![match upgrade.ask.soak_s.checked_sub(watched) {
                    Some(left_s) if left_s > 0 => Wait::Soaks { left_s },
                    Some(_) | None => Wait::Finalize,
                }])
            }
        },
        Phase::Finalizing => {
            let phase = match upgrade.ask.sweep {
                Some(_) => Phase::Sweeping,
                None => Phase::Done,
            };
            let upgrade = Upgrade {
                phase,
                ..upgrade.clone()
            };
            Decision::Next(Box::new(child(sight, plan, Goal::Hold, upgrade)))
        }
        Phase::Sweeping => {
            let waits = resting(sight, plan);
            if waits.is_empty() {
                let upgrade = Upgrade {
                    phase: Phase::Done,
                    ..upgrade.clone()
                };
                return Decision::Next(Box::new(child(sight, plan, Goal::Hold, upgrade)));
            }
            Decision::Wait(waits)
        }
        Phase::Done | Phase::RolledBack => Decision::Rest,
    }
}

/// Servers whose resting objects are not yet what is asked for, or that have not told.
fn resting(sight: &Sight, plan: &Plan) -> Vec<Wait> {
    sight
        .servers
        .iter()
        .filter(|(_, seen)| !seen.is_out())
        .filter_map(|(server, seen)| {
            if !seen.knows(plan.number) {
                return Some(Wait::unseen(server, seen, plan));
            }
            let objects = seen.upkeep().map_or(0, |upkeep| upkeep.resting);
            (objects > 0).then(|| Wait::Resting {
                server: server.clone(),
                objects,
            })
        })
        .collect()
}

/// The drains of this plan, and of those before it, that are not over: their servers were told to give and serve no new objects.
pub(super) fn still_open(sight: &Sight, plan: &Plan) -> BTreeMap<ServerName, Open> {
    let mut open = plan.open.clone();
    if let Some((server, into)) = plan.goal.parties() {
        open.entry(server.clone()).or_insert_with(|| Open {
            into: into.clone(),
            since: plan.number,
            home: matches!(plan.goal, Goal::Refill { .. }),
        });
    }
    open.retain(|server, _| {
        let seen = sight.servers.get(server);
        seen.is_some_and(|seen| matches!(seen.want.role, Role::Cordoned | Role::Draining))
    });
    open
}

/// The plan after this one.
pub(super) fn child(sight: &Sight, plan: &Plan, goal: Goal, mut upgrade: Upgrade) -> Plan {
    let mut homes = plan.homes.clone();
    let mut open = still_open(sight, plan);
    match &goal {
        Goal::Roll(rolls) => {
            for roll in rolls {
                if let Some(into) = &roll.into {
                    // Objects that come back have no other home.
                    if homes.get(into) == Some(&roll.server) {
                        homes.remove(into);
                    } else {
                        homes.insert(roll.server.clone(), into.clone());
                    }
                    let begun = Open {
                        into: into.clone(),
                        since: roll.since,
                        home: false,
                    };
                    open.insert(roll.server.clone(), begun);
                }
            }
        }
        Goal::Refill { server, from } => {
            homes.remove(server);
            let begun = Open {
                into: server.clone(),
                since: plan.number + 1,
                home: true,
            };
            open.entry(from.clone()).or_insert(begun);
        }
        Goal::Drain { .. } | Goal::Settle | Goal::Policy | Goal::Hold | Goal::Balance => {}
    }
    upgrade.baseline = Baseline {
        errors: gate::errors(sight),
        ..upgrade.baseline
    };
    Plan {
        number: plan.number + 1,
        parent: plan.number,
        goal,
        homes,
        open,
        policy: plan.policy,
        upgrade: Some(upgrade),
    }
}

/// The plan under which nothing goes on until a person decides.
pub(super) fn halts(sight: &Sight, plan: &Plan, upgrade: &Upgrade, why: String) -> Decision {
    let upgrade = Upgrade {
        halt: Some(Halt::Gate(why)),
        ..upgrade.clone()
    };
    Decision::Next(Box::new(child(sight, plan, Goal::Hold, upgrade)))
}

/// The plan after a failed install: the same server once more, or a halt.
pub(super) fn after_failure(
    sight: &Sight,
    plan: &Plan,
    upgrade: &Upgrade,
    server: &ServerName,
    why: String,
) -> Decision {
    let mut upgrade = upgrade.clone();
    let times = upgrade.failed.entry(server.clone()).or_insert(0);
    *times += 1;
    if *times >= upgrade.ask.attempts {
        let why = format!("{why} ({times} times); resume tries again, abort goes back");
        return halts(sight, plan, &upgrade, why);
    }
    match next(sight, plan, &upgrade, false) {
        Next::Goal(goal) => Decision::Next(Box::new(child(sight, plan, goal, upgrade))),
        Next::Waits(waits) => Decision::Wait(waits),
        Next::Halts(why) => halts(sight, plan, &upgrade, why),
        Next::Over => Decision::Next(Box::new(child(sight, plan, Goal::Hold, upgrade))),
    }
}

/// What is to be done now. `with_failed` takes a server up again that had failed: a person has looked after it.
pub(super) fn next(sight: &Sight, plan: &Plan, upgrade: &Upgrade, with_failed: bool) -> Next {
    let goal = upgrade.goal();
    let number = plan.number + 1;
    let silent: Vec<Wait> = sight
        .servers
        .iter()
        .filter(|(_, seen)| !seen.is_out() && (!seen.alive || seen.has.is_none()))
        .map(|(server, seen)| Wait::unseen(server, seen, plan))
        .collect();
    if !silent.is_empty() {
        return Next::Waits(silent);
    }
    // Nothing is done to one that is lost for good, nor by it.
    let servers: BTreeMap<&ServerName, &Seen> = sight.servers.iter().filter(|(_, seen)| !seen.lost).collect();
    let alone = |server: &ServerName, reserve| Roll {
        server: server.clone(),
        into: None,
        since: number,
        reserve,
    };
    let runs_goal = |seen: &Seen| seen.release() == Some(goal);
    // What was begun comes first.
    let mut begun: Vec<Roll> = Vec::new();
    for (&server, seen) in &servers {
        match seen.want.role {
            Role::Cordoned | Role::Draining => {
                let Some(open) = plan.open.get(server) else {
                    return Next::Halts(format!(
                        "{server} is {} by no plan of this upgrade: let it serve again with `librarian refill`, then resume",
                        seen.want.role
                    ));
                };
                let partner = servers.get(&open.into);
                let partner_in = |roles: &[Role]| partner.is_some_and(|seen| roles.contains(&seen.want.role));
                let holds = [Role::Serving, Role::Refilling, Role::Cordoned, Role::Draining];
                let takes = [Role::Serving, Role::Refilling, Role::Free, Role::Reserve];
                match (runs_goal(seen), partner.is_some_and(|seen| runs_goal(seen))) {
                    (true, _) if open.home => {
                        return Next::Goal(Goal::Refill {
                            server: open.into.clone(),
                            from: server.clone(),
                        });
                    }
                    // Turned round: what it gave comes back, and the other one is brought to the goal.
                    (true, false) if partner_in(&holds) => begun.push(Roll {
                        into: Some(server.clone()),
                        ..alone(&open.into, false)
                    }),
                    (false, _) if partner_in(&takes) => begun.push(Roll {
                        into: Some(open.into.clone()),
                        since: open.since,
                        ..alone(server, false)
                    }),
                    // The one that was to take its objects has none of them: it serves again.
                    (_, _) => begun.push(alone(server, false)),
                }
            }
            Role::Empty | Role::Upgrading | Role::Validating => begun.push(alone(server, false)),
            Role::Serving | Role::Free | Role::Reserve | Role::Refilling | Role::Failed | Role::Quarantined => {}
        }
    }
    // A refill whose source is empty already, and that another plan ended: nobody feeds this one any more.
    for (&server, seen) in &servers {
        let has_part = |roll: &Roll| roll.server == *server || roll.into.as_ref() == Some(server);
        if seen.want.role == Role::Refilling && !begun.iter().any(has_part) {
            begun.push(alone(server, false));
        }
    }
    // One at a time, and after what was begun: no more servers are out than there are free ones. One that is at another release
    // still takes no part: never are three releases in one upgrade.
    let failed = servers.iter().find(|(_, seen)| comes_back(seen, upgrade));
    if let Some((server, _)) = failed.filter(|_| with_failed && begun.is_empty()) {
        begun.push(alone(server, false));
    }
    if !begun.is_empty() {
        return Next::Goal(Goal::Roll(begun));
    }
    let of_role = |role: Role| {
        servers
            .iter()
            .filter(move |(_, seen)| seen.want.role == role)
            .map(|(name, seen)| (*name, *seen))
    };
    // Free servers hold nothing: the first one shows whether the release works at all, the others follow together.
    let free: Vec<&ServerName> = of_role(Role::Free)
        .filter(|(_, seen)| !runs_goal(seen))
        .map(|(name, _)| name)
        .collect();
    if !free.is_empty() {
        let canary = !servers.values().any(|seen| !seen.is_out() && runs_goal(seen));
        let many = if canary { 1 } else { free.len() };
        let rolls = free.iter().take(many).map(|server| alone(server, false)).collect();
        return Next::Goal(Goal::Roll(rolls));
    }
    if upgrade.ask.refill_home {
        let drained = of_role(Role::Free).find_map(|(server, _)| {
            let now = plan.homes.get(server)?;
            let holder = servers.get(now)?;
            (holder.want.role == Role::Serving).then_some((server, now))
        });
        if let Some((server, from)) = drained {
            return Next::Goal(Goal::Refill {
                server: server.clone(),
                from: from.clone(),
            });
        }
    }
    let waiting = of_role(Role::Serving).any(|(_, seen)| !runs_goal(seen));
    let reserve = of_role(Role::Reserve).find(|(_, seen)| !runs_goal(seen));
    if waiting {
        if of_role(Role::Free).next().is_none() {
            // The free server was lost: a reserve takes its place.
            let reserve = reserve.or_else(|| of_role(Role::Reserve).next());
            return match reserve {
                Some((server, seen)) if !runs_goal(seen) => Next::Goal(Goal::Roll(vec![alone(server, false)])),
                Some((server, _)) => rotate(sight, upgrade, number, Some(server)),
                None => Next::Halts(no_free(sight)),
            };
        }
        return rotate(sight, upgrade, number, None);
    }
    match reserve {
        Some((server, _)) => Next::Goal(Goal::Roll(vec![alone(server, true)])),
        None => Next::Over,
    }
}

/// Whether a server that failed can be brought along: it is heard, and at a release of this upgrade.
pub(super) fn comes_back(seen: &Seen, upgrade: &Upgrade) -> bool {
    seen.want.role == Role::Failed && !seen.lost && seen.alive && runs_one_of(seen, upgrade)
}

/// Whether a server runs one of the two releases of an upgrade, as far as it has said.
pub(super) fn runs_one_of(seen: &Seen, upgrade: &Upgrade) -> bool {
    let release = seen.release();
    release == Some(&upgrade.from) || release == Some(&upgrade.to)
}

fn no_free(sight: &Sight) -> String {
    let failed: Vec<&str> = sight
        .servers
        .iter()
        .filter(|(_, seen)| seen.want.role == Role::Failed)
        .map(|(name, _)| name.as_str())
        .collect();
    match failed[..] {
        [] => {
            "no server is free to take the next drain: invite one with `librarian invite s9 --role free`, then resume"
                .to_owned()
        }
        [..] => format!(
            "{} did not come back and no reserve is left: repair it (its agent must be heard), or invite a server with \
             `librarian invite s9 --role free`; then resume, or abort",
            failed.join(", ")
        ),
    }
}

/// The next drains.
fn rotate(sight: &Sight, upgrade: &Upgrade, number: u64, reserve: Option<&ServerName>) -> Next {
    match rotation::search(&topology(sight, upgrade.goal(), upgrade, reserve)) {
        Ok(rotation) => {
            let rolls: Vec<Roll> = rotation
                .rounds
                .into_iter()
                .next()
                .unwrap_or_default()
                .into_iter()
                .map(|step| Roll {
                    server: step.server,
                    into: step.into,
                    since: number,
                    reserve: false,
                })
                .collect();
            match rolls.is_empty() {
                true => Next::Over,
                false => Next::Goal(Goal::Roll(rolls)),
            }
        }
        Err(refusal) => Next::Halts(refusal.to_string()),
    }
}

/// The pool as the search for an order sees it.
pub(super) fn topology(sight: &Sight, goal: &str, upgrade: &Upgrade, reserve: Option<&ServerName>) -> Topology {
    Topology {
        hosts: sight
            .servers
            .iter()
            .map(|(name, seen)| Host {
                name: name.clone(),
                capacity: seen.has.as_ref().map_or(0, |has| has.capacity),
                used: seen.bytes(),
                part: match seen.want.role {
                    _ if seen.lost => Part::Failed,
                    Role::Free => Part::Free,
                    Role::Reserve if Some(name) == reserve => Part::Free,
                    Role::Reserve => Part::Reserve,
                    Role::Failed | Role::Quarantined => Part::Failed,
                    Role::Serving
                    | Role::Cordoned
                    | Role::Draining
                    | Role::Empty
                    | Role::Upgrading
                    | Role::Validating
                    | Role::Refilling => Part::Serving,
                },
                price_percent: seen.price_percent,
                done: seen.release() == Some(goal),
            })
            .collect(),
        room_percent: upgrade.ask.room_percent,
        refill: if upgrade.ask.refill_home {
            Refill::Home
        } else {
            Refill::Rotate
        },
    }
}

/// What is asked of objects once the upgrade is finalized.
pub(super) fn final_policy(now: Policy, upgrade: &Upgrade) -> Policy {
    Policy {
        level: upgrade.ask.level.map_or(now.level, Level).max(now.level),
        floor: now.floor,
        steps: Steps::All,
    }
}
