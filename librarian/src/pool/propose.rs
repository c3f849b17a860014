//! New plans, and why one is refused.
//!
//! A new plan becomes current only as the child of the plan that it was made from. The first decision under it freezes all
//! wants ([`super::decide()`]): from then on no server is told to move anything until it has said that it knows the new plan.

use zones::policy::LEVEL_MAX;
use zones::{Level, Policy, Role, ServerName, Steps};

use super::advance;
use super::decide::{Decision, course};
use super::plan::{Goal, Plan};
use super::sight::{Seen, Sight};

/// Room that a target must have, in percent of what comes.
const ROOM_PERCENT: u64 = 130;

/// Why a plan is not made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanRefusal {
    /// No such server.
    #[error("there is no server {server} in this pool: `librarian pool` lists them")]
    Unknown {
        /// What was asked for.
        server: ServerName,
    },
    /// Another plan is not done.
    #[error("plan {number} ({goal}) is not done: wait for it, or turn it round with `librarian {reverse}`")]
    Busy {
        /// Its number.
        number: u64,
        /// What it does.
        goal: String,
        /// The command that turns it round.
        reverse: String,
    },
    /// The server is not in a role in which this makes sense.
    #[error("{server} is {role}: {advice}")]
    Role {
        /// Which server.
        server: ServerName,
        /// Its role.
        role: Role,
        /// What to do.
        advice: &'static str,
    },
    /// Nothing to drain into.
    #[error(
        "no free server is alive to take the objects: invite one with `librarian invite s9 --role free` and start its agent; \
         if the pool has none at all, name a serving server that has room with `--into`"
    )]
    NoFree,
    /// The free server is too small.
    #[error(
        "{server} has room for {room} bytes, but {needed} are needed ({ROOM_PERCENT} % of what {from} holds): use a larger server"
    )]
    Room {
        /// The free server.
        server: ServerName,
        /// Its room, in octets.
        room: u64,
        /// What it would need.
        needed: u64,
        /// The server to be drained.
        from: ServerName,
    },
    /// The server was never drained, or its objects are back already.
    #[error("{server} was not drained by a plan, or it has its objects back: there is nothing to refill it from")]
    NoHome {
        /// Which server.
        server: ServerName,
    },
    /// Nothing would change.
    #[error("that is what is asked of objects already: `librarian policy` shows it")]
    SamePolicy,
    /// No agent could obey it.
    #[error(
        "level {level} with floor {floor} cannot be: levels are 1 to {LEVEL_MAX}, and the floor is not above the level"
    )]
    Policy {
        /// What was asked for.
        level: Level,
        /// What was asked for.
        floor: Level,
    },
    /// Objects could not move any more.
    #[error(
        "objects at level {lowest} could not move with floor {floor}: raise the level first, and move every object once; \
         `librarian policy` counts them"
    )]
    BelowFloor {
        /// What was asked for.
        floor: Level,
        /// The lowest level of an object.
        lowest: Level,
    },
    /// An agent could not read its wants any more, and so would neither move anything nor take this plan.
    #[error(
        "{server} runs a release that knows no policies, and could not read the wants that say one: put the new release on every \
         server first"
    )]
    OldRelease {
        /// Which server.
        server: ServerName,
    },
    /// What was once asked of objects is asked for ever.
    #[error("the pool is at level {level}, floor {floor}, steps {steps}: a policy only rises")]
    LowerPolicy {
        /// The level now.
        level: Level,
        /// The floor now.
        floor: Level,
        /// The steps that run now.
        steps: Steps,
    },
    /// The current plan is one that balances.
    #[error("the pool is being balanced already: `librarian rebalance status` shows how far it is")]
    Balances,
    /// There is nothing to stop.
    #[error("the pool is not being balanced: `librarian pool` shows its plan")]
    BalancesNot,
    /// Objects have nowhere to go.
    #[error("{serving} servers serve: balancing takes two or more")]
    NoOther {
        /// How many serve.
        serving: usize,
    },
    /// A person has marked it.
    #[error("{server} is marked lost for good: `librarian lost {server} --undo` takes that back")]
    Lost {
        /// Which server.
        server: ServerName,
    },
    /// The agent does not report.
    #[error("{server} is not heard: start its agent with `agent run` first")]
    Silent {
        /// Which server.
        server: ServerName,
    },
}

/// A plan that empties `server` into `into`, or into the roomiest free server.
///
/// # Errors
///
/// [`PlanRefusal`] says why not, and what would help.
pub fn drain(sight: &Sight, server: &ServerName, into: Option<&ServerName>) -> Result<Plan, PlanRefusal> {
    let source = find(sight, server)?;
    if let Some(plan) = running(sight) {
        return match &plan.goal {
            _ if plan.upgrade.is_some() => Err(busy(plan)),
            Goal::Refill { server: filled, from } if filled == server && into.is_none_or(|into| into == from) => {
                let goal = Goal::Drain {
                    server: filled.clone(),
                    into: from.clone(),
                };
                Ok(make(sight, goal))
            }
            Goal::Refill { .. }
            | Goal::Drain { .. }
            | Goal::Settle
            | Goal::Policy
            | Goal::Roll(_)
            | Goal::Hold
            | Goal::Balance => Err(busy(plan)),
        };
    }
    match source.want.role {
        Role::Serving => {}
        role @ (Role::Free | Role::Reserve) => {
            return Err(PlanRefusal::Role {
                server: server.clone(),
                role,
                advice: "it holds no object, there is nothing to drain",
            });
        }
        role @ (Role::Cordoned
        | Role::Draining
        | Role::Empty
        | Role::Upgrading
        | Role::Validating
        | Role::Refilling
        | Role::Failed
        | Role::Quarantined) => {
            return Err(PlanRefusal::Role {
                server: server.clone(),
                role,
                advice: "only a serving server is drained",
            });
        }
    }
    alive(server, source)?;
    let target = match into {
        Some(into) => {
            let seen = find(sight, into)?;
            // After a reconcile in the midst of a drain both its servers hold objects and serve. Then nothing but a drain
            // of one serving server into another makes a server free again.
            let none_is_free = || sight.servers.values().all(|seen| seen.want.role != Role::Free);
            let is_taker = match seen.want.role {
                Role::Free | Role::Reserve => true,
                Role::Serving => into != server && none_is_free(),
                Role::Cordoned
                | Role::Draining
                | Role::Empty
                | Role::Upgrading
                | Role::Validating
                | Role::Refilling
                | Role::Failed
                | Role::Quarantined => false,
            };
            if !is_taker {
                return Err(PlanRefusal::Role {
                    server: into.clone(),
                    role: seen.want.role,
                    advice: "objects are drained into a free server or a reserve, or into a serving server if none is free",
                });
            }
            alive(into, seen)?;
            (into, seen)
        }
        None => sight
            .servers
            .iter()
            .filter(|(_, seen)| seen.want.role == Role::Free && seen.alive && !seen.lost)
            .max_by_key(|(name, seen)| (seen.room(), std::cmp::Reverse((*name).clone())))
            .ok_or(PlanRefusal::NoFree)?,
    };
    room(server, source, target)?;
    Ok(make(
        sight,
        Goal::Drain {
            server: server.clone(),
            into: target.0.clone(),
        },
    ))
}

/// A plan that gives `server` its objects back.
///
/// # Errors
///
/// [`PlanRefusal`] says why not, and what would help.
pub fn refill(sight: &Sight, server: &ServerName) -> Result<Plan, PlanRefusal> {
    let target = find(sight, server)?;
    if let Some(plan) = running(sight) {
        return match &plan.goal {
            _ if plan.upgrade.is_some() => Err(busy(plan)),
            Goal::Drain { server: drained, into } if drained == server => {
                let goal = Goal::Refill {
                    server: drained.clone(),
                    from: into.clone(),
                };
                Ok(make(sight, goal))
            }
            Goal::Refill { .. }
            | Goal::Drain { .. }
            | Goal::Settle
            | Goal::Policy
            | Goal::Roll(_)
            | Goal::Hold
            | Goal::Balance => Err(busy(plan)),
        };
    }
    let no_home = || PlanRefusal::NoHome { server: server.clone() };
    let from = sight
        .plan
        .as_ref()
        .and_then(|plan| plan.homes.get(server))
        .ok_or_else(no_home)?;
    let source = sight.servers.get(from).ok_or_else(no_home)?;
    if target.want.role != Role::Free {
        return Err(PlanRefusal::Role {
            server: server.clone(),
            role: target.want.role,
            advice: "only a free server is refilled",
        });
    }
    if source.want.role != Role::Serving {
        return Err(no_home());
    }
    alive(server, target)?;
    alive(from, source)?;
    room(from, source, (server, target))?;
    Ok(make(
        sight,
        Goal::Refill {
            server: server.clone(),
            from: from.clone(),
        },
    ))
}

/// A plan under which more is asked of objects; they come to it as they move. `lowest` is the lowest level that one has.
///
/// # Errors
///
/// [`PlanRefusal`] says why not, and what would help.
pub fn ask_more(sight: &Sight, policy: Policy, lowest: Option<Level>) -> Result<Plan, PlanRefusal> {
    if let Some(plan) = running(sight) {
        return Err(busy(plan));
    }
    let now = sight.policy();
    if policy == now {
        return Err(PlanRefusal::SamePolicy);
    }
    if !policy.is_sound() || policy.level > LEVEL_MAX {
        return Err(PlanRefusal::Policy {
            level: policy.level,
            floor: policy.floor,
        });
    }
    if !policy.follows(&now) {
        return Err(PlanRefusal::LowerPolicy {
            level: now.level,
            floor: now.floor,
            steps: now.steps,
        });
    }
    // Releases that know policies have a log of moves, too, and tell its end from their first round on.
    let old = |seen: &Seen| seen.alive && seen.has.as_ref().is_some_and(|has| has.audit.is_none());
    if let Some((server, _)) = sight.servers.iter().find(|(_, seen)| old(seen)) {
        return Err(PlanRefusal::OldRelease { server: server.clone() });
    }
    // New objects are made at the level of the plan before until every server has heard of this one.
    let lowest = lowest.map_or(now.level, |lowest| lowest.min(now.level));
    if lowest < policy.floor {
        return Err(PlanRefusal::BelowFloor {
            floor: policy.floor,
            lowest,
        });
    }
    Ok(Plan {
        policy,
        ..make(sight, Goal::Policy)
    })
}

/// A plan under which single objects move until the pool is even. It is over at once as far as other plans are concerned: any of
/// them takes its place.
///
/// # Errors
///
/// [`PlanRefusal`]: another plan is not done, or there is nothing to balance between.
pub fn balance(sight: &Sight) -> Result<Plan, PlanRefusal> {
    if let Some(plan) = running(sight) {
        return Err(busy(plan));
    }
    if sight.plan.as_ref().is_some_and(|plan| plan.goal == Goal::Balance) {
        return Err(PlanRefusal::Balances);
    }
    let serving = sight
        .servers
        .values()
        .filter(|seen| seen.want.role == Role::Serving)
        .count();
    if serving < 2 {
        return Err(PlanRefusal::NoOther { serving });
    }
    Ok(make(sight, Goal::Balance))
}

/// A plan under which nothing moves, in the place of one that balances.
///
/// # Errors
///
/// [`PlanRefusal`]: the pool is not being balanced.
pub fn stop_balancing(sight: &Sight) -> Result<Plan, PlanRefusal> {
    let balances = sight.plan.as_ref().is_some_and(|plan| plan.goal == Goal::Balance);
    match balances {
        true => Ok(make(sight, Goal::Hold)),
        false => Err(PlanRefusal::BalancesNot),
    }
}

/// The plan that is not done yet.
fn running(sight: &Sight) -> Option<&Plan> {
    sight.plan.as_ref().filter(|_| course(sight) != Decision::Rest)
}

fn busy(plan: &Plan) -> PlanRefusal {
    PlanRefusal::Busy {
        number: plan.number,
        goal: plan.goal.to_string(),
        reverse: match &plan.goal {
            _ if plan.upgrade.is_some() => "upgrade abort".to_owned(),
            Goal::Drain { server, .. } => format!("refill {server}"),
            Goal::Refill { server, .. } => format!("drain {server}"),
            // Over as soon as its wants are written.
            Goal::Settle | Goal::Policy | Goal::Balance => "pool".to_owned(),
            Goal::Roll(_) | Goal::Hold => "upgrade abort".to_owned(),
        },
    }
}

/// The plan with its number and parent.
fn make(sight: &Sight, goal: Goal) -> Plan {
    let parent = sight.number();
    let mut homes = sight.plan.as_ref().map(|plan| plan.homes.clone()).unwrap_or_default();
    match &goal {
        Goal::Drain { server, into } => {
            homes.insert(server.clone(), into.clone());
        }
        Goal::Refill { server, .. } => {
            homes.remove(server);
        }
        Goal::Settle | Goal::Policy | Goal::Roll(_) | Goal::Hold | Goal::Balance => {}
    }
    Plan {
        number: parent + 1,
        parent,
        goal,
        homes,
        open: sight
            .plan
            .as_ref()
            .map(|plan| advance::still_open(sight, plan))
            .unwrap_or_default(),
        policy: sight.policy(),
        upgrade: None,
    }
}

fn find<'a>(sight: &'a Sight, server: &ServerName) -> Result<&'a Seen, PlanRefusal> {
    sight
        .servers
        .get(server)
        .ok_or_else(|| PlanRefusal::Unknown { server: server.clone() })
}

fn alive(server: &ServerName, seen: &Seen) -> Result<(), PlanRefusal> {
    if seen.lost {
        Err(PlanRefusal::Lost { server: server.clone() })
    } else if seen.alive && seen.has.is_some() {
        Ok(())
    } else {
        Err(PlanRefusal::Silent { server: server.clone() })
    }
}

/// Whether a target has room for all that is on a server. Copies of what others own may go elsewhere, and then leave the more room
/// there; in a pool of few servers the target is the only one that can take them.
fn room(from: &ServerName, source: &Seen, (server, target): (&ServerName, &Seen)) -> Result<(), PlanRefusal> {
    let needed = source.bytes().saturating_mul(ROOM_PERCENT) / 100;
    if target.room() < needed {
        return Err(PlanRefusal::Room {
            server: server.clone(),
            room: target.room(),
            needed,
            from: from.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "propose_tests.rs"]
mod tests;
