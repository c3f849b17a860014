//! The next step of a plan.
//!
//! ```text
//! source:  serving --cordon--> cordoned --drain--> draining --no register, no object--> empty --> free
//! target:  free ----------------------------------> serving (refilling, then serving, when it is a refill)
//! ```
//!
//! Invariants: a server drains only after the refusal of new names for it is durable; it is empty only when no register
//! names it and it has said itself, knowing this plan, that it holds no object; a target is named only after it has said
//! that it knows this plan. The first thing a new plan does is to freeze all wants: what drained is cordoned, and nothing
//! moves until the plan says so.

use std::fmt;

use zones::{Role, ServerName, Want};

use super::plan::{Goal, Plan};
use super::sight::{Seen, Sight};

/// What the controller does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// There is no plan, or it is done.
    Rest,
    /// Nothing can be done until these have happened.
    Wait(Vec<Wait>),
    /// These wants, in one transaction that checks the plan and the wants they were decided from.
    Write(Vec<(ServerName, Want)>),
}

/// Something that is waited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wait {
    /// A server of the plan never joined, or was taken out.
    Missing {
        /// Which.
        server: ServerName,
    },
    /// A server has not said that it knows the plan.
    Unseen {
        /// Which.
        server: ServerName,
        /// The plan.
        plan: u64,
        /// Whether its lease runs.
        alive: bool,
    },
    /// Registers still name a server.
    Named {
        /// Which.
        server: ServerName,
        /// How many.
        registers: u64,
    },
    /// A server still says that it holds objects.
    Holds {
        /// Which.
        server: ServerName,
        /// How many.
        objects: u64,
    },
    /// Some of these cannot be read, so nothing moves them.
    Unreadable {
        /// Which server.
        server: ServerName,
        /// How many.
        objects: u64,
    },
    /// A person has to look after a server first.
    Person {
        /// Which.
        server: ServerName,
        /// Its role.
        role: Role,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Missing { server } => write!(f, "{server} is not in the pool any more"),
            Wait::Unseen {
                server,
                plan,
                alive: true,
            } => write!(f, "{server} has not reported plan {plan} yet"),
            Wait::Unseen {
                server, alive: false, ..
            } => {
                write!(
                    f,
                    "{server} is not heard: start its agent with `agent run`, or look at its log"
                )
            }
            Wait::Named { server, registers: 1 } => write!(f, "1 register still names {server}"),
            Wait::Named { server, registers } => write!(f, "{registers} registers still name {server}"),
            Wait::Holds { server, objects: 1 } => write!(f, "{server} still reports 1 object"),
            Wait::Holds { server, objects } => write!(f, "{server} still reports {objects} objects"),
            Wait::Unreadable { server, objects } => write!(
                f,
                "{objects} of them cannot be read and stay: `agent check` on {server} says which; write them anew, delete them, \
                 or repair its disk"
            ),
            Wait::Person { server, role } => write!(f, "{server} is {role}: look after it first"),
        }
    }
}

/// What to do next. Pure: the same sight gives the same decision.
#[must_use]
pub fn decide(sight: &Sight) -> Decision {
    let Some(plan) = &sight.plan else {
        return Decision::Rest;
    };
    let frozen = freeze(sight, plan);
    if !frozen.is_empty() {
        return Decision::Write(frozen);
    }
    let Some((source_name, target_name)) = plan.goal.parties() else {
        return heard_by_all(sight, plan);
    };
    let (source, target) = match (sight.servers.get(source_name), sight.servers.get(target_name)) {
        (Some(source), Some(target)) => (source, target),
        (None, _) => return missing(source_name),
        (_, None) => return missing(target_name),
    };
    if is_done(source, target) {
        return Decision::Rest;
    }
    let unseen: Vec<Wait> = [(source_name, source), (target_name, target)]
        .into_iter()
        .filter(|(_, seen)| !seen.knows(plan.number))
        .map(|(server, seen)| Wait::Unseen {
            server: server.clone(),
            plan: plan.number,
            alive: seen.alive,
        })
        .collect();
    if !unseen.is_empty() {
        return Decision::Wait(unseen);
    }
    let write = |changes: &[(&ServerName, &Seen, Role, &[ServerName])]| Decision::Write(wants(plan, changes));
    let target_role = match plan.goal {
        Goal::Drain { .. } | Goal::Settle | Goal::Policy => Role::Serving,
        Goal::Refill { .. } => Role::Refilling,
    };
    match source.want.role {
        Role::Serving | Role::Refilling => match target.want.role {
            // Left by a plan that was turned round: it takes objects again before the other stops.
            Role::Cordoned | Role::Empty => write(&[
                (target_name, target, target_role, &[]),
                (source_name, source, Role::Cordoned, &[]),
            ]),
            Role::Serving | Role::Free | Role::Reserve | Role::Refilling => {
                write(&[(source_name, source, Role::Cordoned, &[])])
            }
            role @ (Role::Draining | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined) => {
                person(target_name, role)
            }
        },
        Role::Cordoned => match target.want.role {
            Role::Serving | Role::Free | Role::Reserve | Role::Refilling | Role::Cordoned | Role::Empty => write(&[
                (target_name, target, target_role, &[]),
                (source_name, source, Role::Draining, std::slice::from_ref(target_name)),
            ]),
            role @ (Role::Draining | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined) => {
                person(target_name, role)
            }
        },
        Role::Draining => {
            let mut waits = Vec::new();
            if source.named > 0 {
                waits.push(Wait::Named {
                    server: source_name.clone(),
                    registers: source.named,
                });
            }
            let (objects, unreadable) = source.has.as_ref().map_or((0, 0), |has| (has.objects, has.unreadable));
            if objects > 0 {
                waits.push(Wait::Holds {
                    server: source_name.clone(),
                    objects,
                });
                if unreadable > 0 {
                    waits.push(Wait::Unreadable {
                        server: source_name.clone(),
                        objects: unreadable,
                    });
                }
            }
            if waits.is_empty() {
                write(&[(source_name, source, Role::Empty, &[])])
            } else {
                Decision::Wait(waits)
            }
        }
        Role::Empty => write(&[
            (target_name, target, Role::Serving, &[]),
            (source_name, source, Role::Free, &[]),
        ]),
        Role::Free => write(&[(target_name, target, Role::Serving, &[])]),
        role @ (Role::Reserve | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined) => {
            person(source_name, role)
        }
    }
}

/// The wants that are still of an older plan, as they begin under this one.
fn freeze(sight: &Sight, plan: &Plan) -> Vec<(ServerName, Want)> {
    sight
        .servers
        .iter()
        .filter(|(_, seen)| seen.want.plan < plan.number)
        .map(|(name, seen)| {
            let role = match seen.want.role {
                Role::Draining => Role::Cordoned,
                role @ (Role::Serving
                | Role::Free
                | Role::Reserve
                | Role::Cordoned
                | Role::Empty
                | Role::Upgrading
                | Role::Validating
                | Role::Refilling
                | Role::Failed
                | Role::Quarantined) => role,
            };
            let want = Want {
                role,
                targets: Vec::new(),
                plan: plan.number,
                step: 0,
                policy: plan.policy,
                errand: zones::Errand::default(),
            };
            (name.clone(), want)
        })
        .collect()
}

/// A plan under which nothing moves is done when its wants are written; one that asks more of objects, when every server that is
/// heard has taken it. Who comes back later takes it then.
fn heard_by_all(sight: &Sight, plan: &Plan) -> Decision {
    let waits: Vec<Wait> = match plan.goal {
        Goal::Policy => sight
            .servers
            .iter()
            .filter(|(_, seen)| seen.alive && !seen.knows(plan.number))
            .map(|(server, seen)| Wait::Unseen {
                server: server.clone(),
                plan: plan.number,
                alive: seen.alive,
            })
            .collect(),
        Goal::Settle | Goal::Drain { .. } | Goal::Refill { .. } => Vec::new(),
    };
    match waits.is_empty() {
        true => Decision::Rest,
        false => Decision::Wait(waits),
    }
}

/// Whether the plan of these two has ended: the source free again, the target at work.
fn is_done(source: &Seen, target: &Seen) -> bool {
    source.want.role == Role::Free && target.want.role == Role::Serving
}

/// The wants that change something; each is one step after the server's last.
fn wants(plan: &Plan, changes: &[(&ServerName, &Seen, Role, &[ServerName])]) -> Vec<(ServerName, Want)> {
    changes
        .iter()
        .filter(|(_, seen, role, targets)| seen.want.role != *role || seen.want.targets != *targets)
        .map(|(name, seen, role, targets)| {
            let want = Want {
                role: *role,
                targets: targets.to_vec(),
                plan: plan.number,
                step: seen.want.step + 1,
                policy: plan.policy,
                errand: zones::Errand::default(),
            };
            ((*name).clone(), want)
        })
        .collect()
}

fn missing(server: &ServerName) -> Decision {
    Decision::Wait(vec![Wait::Missing { server: server.clone() }])
}

fn person(server: &ServerName, role: Role) -> Decision {
    Decision::Wait(vec![Wait::Person {
        server: server.clone(),
        role,
    }])
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
