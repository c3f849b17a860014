//! What a person says to an upgrade: start, pause, resume, abort, finalize. Each is a plan.

use zones::policy::LEVEL_MAX;
use zones::{Level, Policy, Role, ServerName, Steps};

use super::advance::{self, Next, child, final_policy};
use super::decide::{Decision, Wait, course};
use super::gate;
use super::plan::{Goal, Plan};
use super::preflight::{self, Finding};
use super::sight::Sight;
use super::upgrade::{Ask, Baseline, Halt, Phase, Upgrade};

/// Why what a person says is not done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SteerRefusal {
    /// There is no upgrade.
    #[error("no upgrade is under way: `librarian upgrade start --to RELEASE` begins one")]
    None,
    /// It is over.
    #[error("the upgrade to {to} is {phase}: there is nothing to do")]
    Over {
        /// The release.
        to: String,
        /// How it ended.
        phase: Phase,
    },
    /// Another plan is not done.
    #[error("plan {number} ({goal}) is not done: wait for it, `librarian pool` shows it")]
    Busy {
        /// Its number.
        number: u64,
        /// What it does.
        goal: String,
    },
    /// An upgrade is under way.
    #[error("an upgrade to {to} is under way: `librarian upgrade status` shows it, `abort` turns it round")]
    UnderWay {
        /// The release.
        to: String,
    },
    /// The text names no release.
    #[error("{release:?} is no name of a release: use 1 to 32 of 0-9, A-Z, a-z, '.', '+' and '-'")]
    Release {
        /// What was given.
        release: String,
    },
    /// A check failed.
    #[error("the pool is not ready:\n{}", findings.iter().map(|finding| format!("  {finding}")).collect::<Vec<_>>().join("\n"))]
    NotReady {
        /// What is wrong.
        findings: Vec<Finding>,
    },
    /// It stands still already.
    #[error("the upgrade stands still already: `librarian upgrade resume` goes on")]
    Halted,
    /// It does not stand still.
    #[error("the upgrade is going on: there is nothing to resume")]
    NotHalted,
    /// What was finalized stays so.
    #[error("the upgrade is {phase}: the old release cannot read what may have been written since it was finalized")]
    TooLate {
        /// How far it is.
        phase: Phase,
    },
    /// It goes back already.
    #[error("the upgrade is being aborted already")]
    Aborting,
    /// Not every server is upgraded and watched.
    #[error("the upgrade cannot be finalized yet: {waits}")]
    NotSoaked {
        /// What is waited for.
        waits: String,
    },
    /// Objects could not be upgraded.
    #[error(
        "{objects} objects are on the quarantine list, which is to be empty or waived by name before finalize: \
         `librarian upgrade quarantine` shows them and why; mend or delete them, or name each with `--waive ADDRESS`"
    )]
    Quarantined {
        /// How many.
        objects: u64,
    },
    /// Servers are silent, so what they hold is not known.
    #[error("{server} is not heard: start its agent with `agent run` first")]
    Silent {
        /// Which.
        server: ServerName,
    },
    /// Nothing can be done now.
    #[error("{why}")]
    Stuck {
        /// Why, and what to do.
        why: String,
    },
    /// The level asked for does not exist.
    #[error("level {level} cannot be: levels are 1 to {LEVEL_MAX}, and the pool is at {now}")]
    Level {
        /// What was asked for.
        level: u8,
        /// The level now.
        now: Level,
    },
}

/// The upgrade that is under way.
fn under_way(sight: &Sight) -> Result<(&Plan, &Upgrade), SteerRefusal> {
    let plan = sight.plan.as_ref().ok_or(SteerRefusal::None)?;
    let upgrade = plan.upgrade.as_ref().ok_or(SteerRefusal::None)?;
    if upgrade.is_over() {
        return Err(SteerRefusal::Over {
            to: upgrade.to.clone(),
            phase: upgrade.phase,
        });
    }
    Ok((plan, upgrade))
}

/// The first plan of an upgrade to a release. `moving` is how many objects are on their way now.
///
/// # Errors
///
/// [`SteerRefusal`] says why not, and what would help.
pub fn start(sight: &Sight, to: &str, ask: &Ask, moving: u64, now_unix_s: u64) -> Result<Plan, SteerRefusal> {
    let upgrade = prepare(sight, to, ask, now_unix_s)?;
    let findings: Vec<Finding> = preflight::check(sight, &upgrade, moving, now_unix_s)
        .into_iter()
        .filter(|finding| finding.is_fault)
        .collect();
    if !findings.is_empty() {
        return Err(SteerRefusal::NotReady { findings });
    }
    let mut before = root(sight);
    // What the new release cannot undo waits for its finalize; what was final before goes on (agents know which).
    before.policy = Policy {
        steps: Steps::Expand,
        ..before.policy
    };
    match advance::next(sight, &before, &upgrade, true) {
        Next::Goal(goal) => Ok(child(sight, &before, goal, upgrade)),
        Next::Waits(waits) => Err(SteerRefusal::Stuck { why: join(&waits) }),
        Next::Halts(why) => Err(SteerRefusal::Stuck { why }),
        // Every server runs it: watched and finalized, so that contract steps come.
        Next::Over => {
            let upgrade = Upgrade {
                phase: Phase::Soak,
                ..upgrade
            };
            Ok(child(sight, &before, Goal::Hold, upgrade))
        }
    }
}

/// What a start would find, whether or not it would go on.
///
/// # Errors
///
/// [`SteerRefusal`] where nothing can be judged.
pub fn check(sight: &Sight, to: &str, ask: &Ask, moving: u64, now_unix_s: u64) -> Result<Vec<Finding>, SteerRefusal> {
    let upgrade = prepare(sight, to, ask, now_unix_s)?;
    Ok(preflight::check(sight, &upgrade, moving, now_unix_s))
}

/// The upgrade as it would begin.
fn prepare(sight: &Sight, to: &str, ask: &Ask, now_unix_s: u64) -> Result<Upgrade, SteerRefusal> {
    if !zones::has::is_release(to) {
        return Err(SteerRefusal::Release { release: to.to_owned() });
    }
    let level_now = sight.policy().level;
    if let Some(level) = ask.level
        && (Level(level) > LEVEL_MAX || Level(level) < level_now)
    {
        return Err(SteerRefusal::Level { level, now: level_now });
    }
    if let Some(plan) = &sight.plan {
        if let Some(upgrade) = plan.upgrade.as_ref().filter(|upgrade| !upgrade.is_over()) {
            return Err(SteerRefusal::UnderWay { to: upgrade.to.clone() });
        }
        if course(sight) != Decision::Rest {
            return Err(SteerRefusal::Busy {
                number: plan.number,
                goal: plan.goal.to_string(),
            });
        }
    }
    let p99_us = sight
        .servers
        .values()
        .filter_map(|seen| Some(seen.upkeep()?.p99_us))
        .max();
    Ok(Upgrade {
        from: preflight::old_release(sight, to).unwrap_or_else(|| to.to_owned()),
        to: to.to_owned(),
        phase: Phase::Rolling,
        halt: None,
        ask: ask.clone(),
        began_unix_s: now_unix_s,
        failed: std::collections::BTreeMap::new(),
        baseline: Baseline {
            p99_us: p99_us.unwrap_or(0),
            errors: gate::errors(sight),
        },
        contracted: sight.policy().steps == Steps::All,
    })
}

/// The plan that the next one is a child of, where there may be none.
fn root(sight: &Sight) -> Plan {
    sight.plan.clone().unwrap_or_else(|| Plan {
        number: 0,
        parent: 0,
        goal: Goal::Settle,
        homes: std::collections::BTreeMap::new(),
        open: std::collections::BTreeMap::new(),
        policy: sight.policy(),
        upgrade: None,
    })
}

/// The plan under which nothing moves until [`resume`].
///
/// # Errors
///
/// [`SteerRefusal`].
pub fn pause(sight: &Sight) -> Result<Plan, SteerRefusal> {
    let (plan, upgrade) = under_way(sight)?;
    match (&upgrade.halt, upgrade.phase) {
        (Some(_), _) => Err(SteerRefusal::Halted),
        (None, phase @ (Phase::Finalizing | Phase::Sweeping)) => Err(SteerRefusal::TooLate { phase }),
        (None, Phase::Rolling | Phase::Soak | Phase::Aborting | Phase::Done | Phase::RolledBack) => {
            let upgrade = Upgrade {
                halt: Some(Halt::Paused),
                ..upgrade.clone()
            };
            Ok(child(sight, plan, Goal::Hold, upgrade))
        }
    }
}

/// The plan with which an upgrade that stood still goes on.
///
/// # Errors
///
/// [`SteerRefusal`].
pub fn resume(sight: &Sight) -> Result<Plan, SteerRefusal> {
    let (plan, upgrade) = under_way(sight)?;
    if upgrade.halt.is_none() {
        return Err(SteerRefusal::NotHalted);
    }
    let upgrade = Upgrade {
        halt: None,
        // A person has looked after what failed.
        failed: std::collections::BTreeMap::new(),
        ..upgrade.clone()
    };
    goes_on(sight, plan, upgrade)
}

/// The plan with which the rotation runs backwards.
///
/// # Errors
///
/// [`SteerRefusal`].
pub fn abort(sight: &Sight) -> Result<Plan, SteerRefusal> {
    let (plan, upgrade) = under_way(sight)?;
    if upgrade.phase == Phase::Aborting && upgrade.halt.is_none() {
        return Err(SteerRefusal::Aborting);
    }
    if upgrade.phase != Phase::Aborting && !upgrade.can_be_aborted() {
        return Err(SteerRefusal::TooLate { phase: upgrade.phase });
    }
    let upgrade = Upgrade {
        phase: Phase::Aborting,
        halt: None,
        failed: std::collections::BTreeMap::new(),
        ..upgrade.clone()
    };
    goes_on(sight, plan, upgrade)
}

fn goes_on(sight: &Sight, plan: &Plan, upgrade: Upgrade) -> Result<Plan, SteerRefusal> {
    let hold = |upgrade| Ok(child(sight, plan, Goal::Hold, upgrade));
    if !matches!(upgrade.phase, Phase::Rolling | Phase::Aborting) {
        return hold(upgrade);
    }
    match advance::next(sight, plan, &upgrade, true) {
        Next::Goal(goal) => Ok(child(sight, plan, goal, upgrade)),
        // The plan itself waits for them, or ends at once.
        Next::Waits(_) | Next::Over => hold(upgrade),
        Next::Halts(why) => Err(SteerRefusal::Stuck { why }),
    }
}

/// The plan after which the old release cannot come back: contract steps and the new level begin. `waived` objects of the
/// quarantine list do not hinder it.
///
/// # Errors
///
/// [`SteerRefusal`].
pub fn finalize(sight: &Sight, waived: u64) -> Result<Plan, SteerRefusal> {
    let (plan, upgrade) = under_way(sight)?;
    if !matches!(upgrade.phase, Phase::Rolling | Phase::Soak) {
        return Err(SteerRefusal::TooLate { phase: upgrade.phase });
    }
    match course(sight) {
        Decision::Wait(waits) if waits == [Wait::Finalize] => {}
        Decision::Wait(waits) => return Err(SteerRefusal::NotSoaked { waits: join(&waits) }),
        Decision::Rest | Decision::Write(_) | Decision::Next(_) => {
            return Err(SteerRefusal::NotSoaked {
                waits: "servers are still being upgraded".to_owned(),
            });
        }
    }
    for (server, seen) in &sight.servers {
        // One that was given up is not of the pool any more: it comes back with the new release or not at all.
        if !seen.is_out() && (!seen.alive || seen.release() != Some(&upgrade.to)) {
            return Err(SteerRefusal::Silent { server: server.clone() });
        }
    }
    let objects: u64 = sight
        .servers
        .values()
        .filter_map(|seen| Some(seen.has.as_ref()?.quarantined))
        .sum();
    if objects > waived {
        return Err(SteerRefusal::Quarantined {
            objects: objects - waived,
        });
    }
    let policy = final_policy(plan.policy, upgrade);
    let upgrade = Upgrade {
        phase: Phase::Finalizing,
        ..upgrade.clone()
    };
    Ok(Plan {
        policy,
        ..child(sight, plan, Goal::Policy, upgrade)
    })
}

/// The role in which a server serves no more that was marked lost, when that is taken back; `None`: it goes on in its own.
///
/// The pool may have gone to another release without it. One that comes back at a release that has no place there any more is brought
/// along as servers are that failed. What it still owns nobody else has: then it serves, so that its objects can be drained off it.
#[must_use]
pub fn returns_as(sight: &Sight, server: &ServerName) -> Option<Role> {
    let seen = sight.servers.get(server)?;
    // One that has never spoken has no release that is too old.
    seen.release()?;
    let others = || {
        sight
            .servers
            .iter()
            .filter(|(name, seen)| *name != server && !seen.is_out())
    };
    let upgrade = sight.plan.as_ref().and_then(|plan| plan.upgrade.as_ref());
    let has_a_place = match upgrade.map(|upgrade| (upgrade, upgrade.phase)) {
        // Its turn comes, or came.
        Some((upgrade, Phase::Rolling | Phase::Aborting)) => advance::runs_one_of(seen, upgrade),
        Some((upgrade, Phase::Soak | Phase::Finalizing | Phase::Sweeping | Phase::Done | Phase::RolledBack)) => {
            seen.release() == Some(upgrade.goal())
        }
        None => others().count() == 0 || others().any(|(_, other)| other.release() == seen.release()),
    };
    (!has_a_place && seen.owned == 0).then_some(Role::Failed)
}

fn join(waits: &[Wait]) -> String {
    waits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
