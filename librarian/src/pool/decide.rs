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
//! moves until the plan says so. Between draining and empty stands the gate (`super::gate`).
//!
//! Under the plans of an upgrade a server has its whole turn (`super::roll`), and what is over leads to the next plan
//! (`super::advance`).
//!
//! What servers are told of copies (`super::keep`) is in every want, and no step of any plan: it is written with whatever a plan
//! writes, and by itself while a plan rests or waits.

use std::fmt;

use zones::upkeep::Arrivals;
use zones::{Errand, Role, ServerName, Want};

use super::advance;
use super::gate::{self, Gate};
use super::keep;
use super::plan::{Goal, Plan};
use super::roll::{self, Change, Turn};
use super::sight::{Seen, Sight};
use super::upgrade::{Halt, Phase, Roll, Upgrade};

/// How long a gate of a plan by hand waits for two counts to be equal.
const GATE_WAIT: std::time::Duration = std::time::Duration::from_secs(300);

/// What the controller does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// There is no plan, or it is done.
    Rest,
    /// Nothing can be done until these have happened.
    Wait(Vec<Wait>),
    /// These wants, in one transaction that checks the plan and the wants they were decided from.
    Write(Vec<(ServerName, Want)>),
    /// The plan has done its part of an upgrade: this one follows.
    Next(Box<Plan>),
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
        /// How many of these as the holder of a copy.
        held: u64,
    },
    /// A server still says that it holds copies of objects that others own.
    Copies {
        /// Which.
        server: ServerName,
        /// How many.
        copies: u64,
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
    /// A server's journal has rows that are not settled.
    Open {
        /// Which.
        server: ServerName,
        /// How many.
        rows: u64,
    },
    /// A server still has copies of objects that it gave away.
    Retired {
        /// Which.
        server: ServerName,
        /// How many.
        copies: u64,
    },
    /// A server has not told what it took from another, or another number than that one gave.
    Counts {
        /// Which.
        server: ServerName,
        /// From whom.
        from: ServerName,
    },
    /// A server still reads back what it took.
    ReadsBack {
        /// Which.
        server: ServerName,
        /// Copies left.
        left: u64,
    },
    /// Answers that name a server may still be cached.
    Cached {
        /// Which.
        server: ServerName,
        /// For how long, in seconds.
        left_s: u64,
    },
    /// A secondary may still tell of a server.
    Secondary {
        /// Which server.
        server: ServerName,
        /// Which secondary.
        secondary: String,
        /// For how long at most, in seconds.
        left_s: u64,
    },
    /// Requests of clients still run.
    Requests {
        /// On which server.
        server: ServerName,
        /// How many.
        running: u64,
    },
    /// A server installs a release and comes back.
    Installs {
        /// Which.
        server: ServerName,
        /// The release.
        release: String,
        /// Whether its lease runs.
        alive: bool,
    },
    /// A person has to install a release.
    ByHand {
        /// On which server.
        server: ServerName,
        /// The release.
        release: String,
    },
    /// A server tests itself.
    Tests {
        /// Which.
        server: ServerName,
    },
    /// Clients wait longer than before.
    Slow {
        /// For which server.
        server: ServerName,
        /// The 99th percentile now, in microseconds.
        p99_us: u64,
        /// What it may be.
        limit_us: u64,
    },
    /// The upgrade stands still until a person decides.
    Halted {
        /// Why.
        halt: Halt,
    },
    /// The upgraded pool is watched.
    Soaks {
        /// For how long still, in seconds.
        left_s: u64,
    },
    /// Nothing is left to be done but to finalize.
    Finalize,
    /// Objects that rest are not yet what is asked for.
    Resting {
        /// On which server.
        server: ServerName,
        /// How many.
        objects: u64,
    },
}

impl Wait {
    /// For a server that has not said that it knows a plan.
    pub(super) fn unseen(server: &ServerName, seen: &Seen, plan: &Plan) -> Wait {
        Wait::Unseen {
            server: server.clone(),
            plan: plan.number,
            alive: seen.alive,
        }
    }

    /// The server that it speaks of, if it speaks of one.
    #[must_use]
    pub fn server(&self) -> Option<&ServerName> {
        match self {
            Wait::Missing { server }
            | Wait::Unseen { server, .. }
            | Wait::Named { server, .. }
            | Wait::Copies { server, .. }
            | Wait::Holds { server, .. }
            | Wait::Unreadable { server, .. }
            | Wait::Person { server, .. }
            | Wait::Open { server, .. }
            | Wait::Retired { server, .. }
            | Wait::Counts { server, .. }
            | Wait::ReadsBack { server, .. }
            | Wait::Cached { server, .. }
            | Wait::Secondary { server, .. }
            | Wait::Requests { server, .. }
            | Wait::Installs { server, .. }
            | Wait::ByHand { server, .. }
            | Wait::Tests { server }
            | Wait::Slow { server, .. }
            | Wait::Resting { server, .. } => Some(server),
            Wait::Halted { .. } | Wait::Soaks { .. } | Wait::Finalize => None,
        }
    }
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
            Wait::Named {
                server,
                registers,
                held,
            } => {
                let verb = if *registers == 1 {
                    " still names"
                } else {
                    "s still name"
                };
                write!(f, "{registers} register{verb} {server}")?;
                match (*held, *registers) {
                    (0, _) => Ok(()),
                    (held, all) if held == all => write!(f, " as holder of a copy"),
                    (held, _) => write!(f, ", {held} of them as holder of a copy"),
                }
            }
            Wait::Copies { server, copies } => write!(f, "{server} still reports {copies} copies of what others own"),
            Wait::Holds { server, objects: 1 } => write!(f, "{server} still reports 1 object"),
            Wait::Holds { server, objects } => write!(f, "{server} still reports {objects} objects"),
            Wait::Unreadable { server, objects } => write!(
                f,
                "{objects} of them cannot be read and stay: `agent check` on {server} says which; write them anew, delete them, \
                 or repair its disk"
            ),
            Wait::Person { server, role } => write!(f, "{server} is {role}: look after it first"),
            Wait::Open { server, rows } => write!(f, "{rows} rows of {server}'s journal are not settled"),
            Wait::Retired { server, copies } => write!(f, "{server} still removes {copies} copies that it gave away"),
            Wait::Counts { server, from } => write!(f, "{server} has not yet counted what it took from {from}"),
            Wait::ReadsBack { server, left } => write!(f, "{server} reads back what it took: {left} copies left"),
            Wait::Cached { server, left_s } => {
                write!(f, "answers that name {server} may be cached for {left_s} s more")
            }
            Wait::Secondary {
                server,
                secondary,
                left_s,
            } => write!(
                f,
                "secondary {secondary} may still name {server}: it is not known to have taken the zone since; for {left_s} s at most, \
                 until what it has expires"
            ),
            Wait::Requests { server, running } => write!(f, "{running} requests of clients still run on {server}"),
            Wait::Installs {
                server,
                release,
                alive: true,
            } => write!(f, "{server} is to install {release}"),
            Wait::Installs {
                server,
                release,
                alive: false,
            } => write!(f, "{server} installs {release} and comes back"),
            Wait::ByHand { server, release } => write!(
                f,
                "install {release} on {server} by hand: stop its agent, replace the program, start it"
            ),
            Wait::Tests { server } => write!(f, "{server} tests itself"),
            Wait::Slow {
                server,
                p99_us,
                limit_us,
            } => write!(
                f,
                "clients of {server} wait {} ms at the 99th percentile, and {} ms is the most that goes on",
                p99_us / 1000,
                limit_us / 1000
            ),
            Wait::Halted { halt: Halt::Paused } => {
                write!(f, "paused: `librarian upgrade resume` goes on, `abort` goes back")
            }
            Wait::Halted { halt: Halt::Gate(why) } => write!(f, "halted: {why}"),
            Wait::Soaks { left_s } => write!(f, "every server is upgraded; watched for {left_s} s more"),
            Wait::Finalize => write!(
                f,
                "every server is upgraded: `librarian upgrade finalize` makes it final, `abort` goes back"
            ),
            Wait::Resting { server, objects } => {
                write!(
                    f,
                    "{objects} objects on {server} are still to be brought to what is asked for"
                )
            }
        }
    }
}

/// What to do next. Pure: the same sight gives the same decision.
#[must_use]
pub fn decide(sight: &Sight) -> Decision {
    let wants = match course(sight) {
        Decision::Write(wants) => wants,
        // The first thing that it does is to write every want.
        next @ Decision::Next(_) => return next,
        idle @ (Decision::Rest | Decision::Wait(_)) => match keep::add_to(sight, Vec::new()) {
            wants if wants.is_empty() => return idle,
            wants => return Decision::Write(wants),
        },
    };
    Decision::Write(keep::add_to(sight, wants))
}

/// What the plan does next, whatever is to be said of copies meanwhile: what people are told, and whether it is done. Its wants
/// say nothing new of copies; those of [`decide`] do.
pub(super) fn course(sight: &Sight) -> Decision {
    let Some(plan) = &sight.plan else {
        return Decision::Rest;
    };
    let frozen = freeze(sight, plan);
    if !frozen.is_empty() {
        return Decision::Write(frozen);
    }
    let reached = match (&plan.goal, &plan.upgrade) {
        (Goal::Roll(rolls), Some(upgrade)) => turns(sight, plan, upgrade, rolls),
        (Goal::Roll(_), None) => Decision::Rest,
        (Goal::Drain { .. } | Goal::Refill { .. }, _) => one_move(sight, plan),
        (Goal::Settle | Goal::Policy | Goal::Hold | Goal::Balance, _) => heard_by_all(sight, plan),
    };
    match (&plan.upgrade, reached) {
        (Some(upgrade), Decision::Rest) => advance::advance(sight, plan, upgrade),
        (_, decision) => decision,
    }
}

/// The turns of several servers at once.
fn turns(sight: &Sight, plan: &Plan, upgrade: &Upgrade, rolls: &[Roll]) -> Decision {
    // Whoever obeys an older plan may still move objects into a server that this one relies on.
    let unseen: Vec<Wait> = sight
        .servers
        .iter()
        .filter(|(_, seen)| !seen.is_out() && !seen.has_taken(plan.number))
        .map(|(server, seen)| Wait::unseen(server, seen, plan))
        .collect();
    if !unseen.is_empty() {
        return Decision::Wait(unseen);
    }
    let (mut changes, mut waits, mut lost) = (Vec::new(), Vec::new(), false);
    for roll in rolls {
        match roll::turn(sight, plan, upgrade, roll) {
            Turn::Over => {}
            Turn::Waits(more) => waits.extend(more),
            Turn::Writes(more) => changes.extend(more),
            Turn::Halts(why) => return advance::halts(sight, plan, upgrade, why),
            Turn::Failed(why) => return advance::after_failure(sight, plan, upgrade, &roll.server, why),
            Turn::Lost => lost = true,
        }
    }
    if !changes.is_empty() {
        return Decision::Write(wants_of(sight, plan, &changes));
    }
    match (waits.is_empty(), lost) {
        (false, _) => Decision::Wait(waits),
        // The others have had their turn; what the pool can do without the lost server is decided next.
        (true, _) => Decision::Rest,
    }
}

/// The changes as wants, each one step after the server's last; what is so already is left out.
fn wants_of(sight: &Sight, plan: &Plan, changes: &[Change]) -> Vec<(ServerName, Want)> {
    changes
        .iter()
        .filter_map(|change| {
            let now = &sight.servers.get(&change.server)?.want;
            let errand = Errand {
                keep: now.errand.keep.clone(),
                ..change.errand.clone()
            };
            let same = now.role == change.role && now.targets == change.targets && now.errand == errand;
            let want = Want {
                role: change.role,
                targets: change.targets.clone(),
                plan: plan.number,
                step: now.step + 1,
                policy: plan.policy,
                errand,
            };
            (!same).then(|| (change.server.clone(), want))
        })
        .collect()
}

/// A drain or a refill.
fn one_move(sight: &Sight, plan: &Plan) -> Decision {
    let Some((source_name, target_name)) = plan.goal.parties() else {
        return Decision::Rest;
    };
    let (source, target) = match (sight.servers.get(source_name), sight.servers.get(target_name)) {
        (Some(source), Some(target)) => (source, target),
        (None, _) => return missing(source_name),
        (_, None) => return missing(target_name),
    };
    if is_done(source, target) {
        return Decision::Rest;
    }
    if source.lost || target.lost {
        return without_lost(sight, plan, [(source_name, source), (target_name, target)]);
    }
    let arrivals = Arrivals {
        from: source_name.clone(),
        since: plan.open.get(source_name).map_or(plan.number, |open| open.since),
    };
    let unseen: Vec<Wait> = [(source_name, source), (target_name, target)]
        .into_iter()
        .filter(|(_, seen)| !seen.knows(plan.number))
        .map(|(server, seen)| Wait::unseen(server, seen, plan))
        .collect();
    if !unseen.is_empty() {
        return Decision::Wait(unseen);
    }
    let write = |changes: &[(&ServerName, Role, &[ServerName])]| {
        let changes: Vec<Change> = changes
            .iter()
            .map(|(server, role, targets)| Change {
                server: (*server).clone(),
                role: *role,
                targets: targets.to_vec(),
                // What the target takes is counted from the moment it takes anything.
                errand: Errand {
                    arrivals: (*server == target_name && role.takes_new_objects() && target.upkeep().is_some())
                        .then(|| arrivals.clone()),
                    ..Errand::default()
                },
            })
            .collect();
        Decision::Write(wants_of(sight, plan, &changes))
    };
    let target_role = match plan.goal {
        Goal::Drain { .. } | Goal::Settle | Goal::Policy | Goal::Roll(_) | Goal::Hold | Goal::Balance => Role::Serving,
        Goal::Refill { .. } => Role::Refilling,
    };
    if matches!(source.want.role, Role::Serving | Role::Refilling)
        && let Some(wait @ Wait::Retired { .. }) = gate::left(source_name, source.upkeep())
    {
        // What it gave away before is not to be counted with what it gives now.
        return Decision::Wait(vec![wait]);
    }
    match source.want.role {
        Role::Serving | Role::Refilling => match target.want.role {
            // Left by a plan that was turned round: it takes objects again before the other stops.
            Role::Cordoned | Role::Empty => {
                write(&[(target_name, target_role, &[]), (source_name, Role::Cordoned, &[])])
            }
            Role::Serving | Role::Free | Role::Reserve | Role::Refilling => {
                write(&[(source_name, Role::Cordoned, &[])])
            }
            role @ (Role::Draining | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined) => {
                person(target_name, role)
            }
        },
        Role::Cordoned => match target.want.role {
            Role::Serving | Role::Free | Role::Reserve | Role::Refilling | Role::Cordoned | Role::Empty => write(&[
                (target_name, target_role, &[]),
                (source_name, Role::Draining, std::slice::from_ref(target_name)),
            ]),
            role @ (Role::Draining | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined) => {
                person(target_name, role)
            }
        },
        Role::Draining => {
            let waits = roll::drains(source_name, source);
            if !waits.is_empty() {
                return Decision::Wait(waits);
            }
            match gate::evidence((source_name, source), (target_name, target), &arrivals, GATE_WAIT) {
                Gate::Passed => write(&[(source_name, Role::Empty, &[])]),
                Gate::Waits(wait) => Decision::Wait(vec![wait]),
                Gate::Failed(why) => match &plan.upgrade {
                    Some(upgrade) => advance::halts(sight, plan, upgrade, why),
                    None => Decision::Wait(vec![Wait::Halted { halt: Halt::Gate(why) }]),
                },
            }
        }
        Role::Empty => match gate::left(source_name, source.upkeep()) {
            Some(wait) => Decision::Wait(vec![wait]),
            None => write(&[(target_name, Role::Serving, &[]), (source_name, Role::Free, &[])]),
        },
        Role::Free => write(&[(target_name, Role::Serving, &[])]),
        role @ (Role::Reserve | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined) => {
            person(source_name, role)
        }
    }
}

/// What becomes of a drain when one of its servers is lost for good: it is over, and the other server serves what it has.
fn without_lost(sight: &Sight, plan: &Plan, parties: [(&ServerName, &Seen); 2]) -> Decision {
    let (mut changes, mut waits) = (Vec::new(), Vec::new());
    for (server, seen) in parties.into_iter().filter(|(_, seen)| !seen.lost) {
        let role = match seen.want.role {
            Role::Cordoned | Role::Draining | Role::Refilling => Role::Serving,
            // It gave all that it had, and is what the drain made of it once its retired copies are gone.
            Role::Empty => match gate::left(server, seen.upkeep()) {
                Some(wait) => {
                    waits.push(wait);
                    continue;
                }
                None => Role::Free,
            },
            Role::Serving
            | Role::Free
            | Role::Reserve
            | Role::Upgrading
            | Role::Validating
            | Role::Failed
            | Role::Quarantined => continue,
        };
        changes.push(Change {
            server: server.clone(),
            role,
            targets: Vec::new(),
            errand: Errand::default(),
        });
    }
    match (changes.is_empty(), waits.is_empty()) {
        (true, true) => Decision::Rest,
        (true, false) => Decision::Wait(waits),
        (false, _) => Decision::Write(wants_of(sight, plan, &changes)),
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
                errand: frozen_errand(seen, plan),
            };
            (name.clone(), want)
        })
        .collect()
}

/// What a server goes on with under a new plan: nothing, but for the sweep of a plan that sweeps.
fn frozen_errand(seen: &Seen, plan: &Plan) -> Errand {
    let sweeps = plan.upgrade.as_ref().filter(|upgrade| upgrade.phase == Phase::Sweeping);
    Errand {
        sweep: sweeps
            .filter(|_| seen.want.role.takes_new_objects() && seen.upkeep().is_some())
            .and_then(|upgrade| upgrade.ask.sweep),
        ..Errand::default()
    }
}

/// A plan under which nothing moves is done when its wants are written; one that asks more of objects, when every server that is
/// heard has taken it. Who comes back later takes it then.
fn heard_by_all(sight: &Sight, plan: &Plan) -> Decision {
    let waits: Vec<Wait> = match plan.goal {
        Goal::Policy => sight
            .servers
            .iter()
            .filter(|(_, seen)| seen.alive && !seen.knows(plan.number))
            .map(|(server, seen)| Wait::unseen(server, seen, plan))
            .collect(),
        // Only servers that have taken the plan give or take anything under it.
        Goal::Settle | Goal::Drain { .. } | Goal::Refill { .. } | Goal::Roll(_) | Goal::Hold | Goal::Balance => {
            Vec::new()
        }
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
