//! How an upgrade stands, and why something has not happened yet: for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zones::upkeep::Install;
use zones::{Role, ServerName};

use super::decide::{Decision, course};
use super::keep;
use super::plan::Goal;
use super::sight::{Seen, Sight};
use super::upgrade::{Halt, Phase, Upgrade};

/// How the upgrade stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// `idle`, `canary`, `rolling`, `soak`, `finalizing`, `sweeping`, `done`, `paused`, `halted`, `aborting`, `rolled-back`.
    pub state: String,
    /// The current plan, 0 for none.
    pub plan: u64,
    /// What it does.
    pub goal: String,
    /// The release that the pool had.
    pub from: String,
    /// The one that it is to have.
    pub to: String,
    /// When the upgrade began, seconds since 1970; 0 without one.
    pub began_unix_s: u64,
    /// Why a person has to decide.
    pub halted: Option<String>,
    /// What is waited for.
    pub waits: Vec<String>,
    /// Every server by name.
    pub servers: Vec<ServerStatus>,
    /// Servers by release.
    pub releases: BTreeMap<String, u64>,
    /// Objects that the old release could not read, were it put back now; 0 until finalize.
    pub unreadable_by_old_release: u64,
    /// Objects that rest and are not yet what is asked for.
    pub resting: u64,
    /// Objects that a schema step failed on.
    pub quarantined: u64,
    /// Installs that failed, by server.
    pub failed_installs: BTreeMap<String, u32>,
}

/// How one server stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// What it is in.
    pub role: String,
    /// For how long its want has been so, in seconds, as far as this process knows.
    pub since_s: u64,
    /// The release that it runs.
    pub release: Option<String>,
    /// Whether that is the one that the upgrade wants now.
    pub at_goal: bool,
    /// Whether its lease runs.
    pub alive: bool,
    /// Where its objects go.
    pub into: Option<String>,
    /// Objects that registers say it owns.
    pub objects: u64,
    /// Octets of its objects, as it last said.
    pub bytes: u64,
    /// Copies that it keeps of objects that it gave away.
    pub retired: u64,
    /// Copies that it took in this step and read back, of how many.
    pub read_back: Option<(u64, u64)>,
    /// How the install of another release stands: `by-hand`, `ready`, `asked:2.0`, ...; absent if it does not say.
    pub install: Option<String>,
    /// The 99th percentile of the time that clients wait, in microseconds; 0 when there are too few.
    pub p99_us: u64,
    /// What is waited for there.
    pub waits: Vec<String>,
}

impl Status {
    /// What a sight tells.
    #[must_use]
    pub fn of(sight: &Sight) -> Status {
        let plan = sight.plan.as_ref();
        let upgrade = plan.and_then(|plan| plan.upgrade.as_ref());
        let waits = match course(sight) {
            Decision::Wait(waits) => waits,
            Decision::Rest | Decision::Write(_) | Decision::Next(_) => Vec::new(),
        };
        let goal = upgrade.map(Upgrade::goal);
        let servers = sight
            .servers
            .iter()
            .map(|(name, seen)| {
                let about = waits.iter().filter(|wait| wait.server() == Some(name));
                let into = match plan.map(|plan| &plan.goal) {
                    Some(Goal::Roll(rolls)) => rolls
                        .iter()
                        .find(|roll| roll.server == *name)
                        .and_then(|roll| roll.into.clone()),
                    Some(goal) => goal
                        .parties()
                        .filter(|(source, _)| *source == name)
                        .map(|(_, target)| target.clone()),
                    None => None,
                };
                server(
                    name,
                    seen,
                    goal,
                    into.as_ref(),
                    about.map(ToString::to_string).collect(),
                )
            })
            .collect();
        let sum = |of: fn(&Seen) -> u64| sight.servers.values().map(of).sum();
        let mut releases = BTreeMap::new();
        for release in sight.servers.values().filter_map(Seen::release) {
            *releases.entry(release.to_owned()).or_default() += 1;
        }
        Status {
            state: state(sight, upgrade).to_owned(),
            plan: sight.number(),
            goal: plan.map(|plan| plan.goal.to_string()).unwrap_or_default(),
            from: upgrade.map(|upgrade| upgrade.from.clone()).unwrap_or_default(),
            to: upgrade.map(|upgrade| upgrade.to.clone()).unwrap_or_default(),
            began_unix_s: upgrade.map_or(0, |upgrade| upgrade.began_unix_s),
            halted: upgrade.and_then(|upgrade| match &upgrade.halt {
                Some(Halt::Gate(why)) => Some(why.clone()),
                Some(Halt::Paused) | None => None,
            }),
            waits: waits.iter().map(ToString::to_string).collect(),
            servers,
            releases,
            unreadable_by_old_release: sum(|seen| seen.upkeep().map_or(0, |upkeep| upkeep.newer)),
            resting: sum(|seen| seen.upkeep().map_or(0, |upkeep| upkeep.resting)),
            quarantined: sum(|seen| seen.has.as_ref().map_or(0, |has| has.quarantined)),
            failed_installs: upgrade
                .iter()
                .flat_map(|upgrade| &upgrade.failed)
                .map(|(server, times)| (server.to_string(), *times))
                .collect(),
        }
    }

    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_still(&self) -> bool {
        matches!(
            self.state.as_str(),
            "idle" | "done" | "rolled-back" | "paused" | "halted" | "soaked"
        )
    }
}

/// The pool's state in one word.
fn state(sight: &Sight, upgrade: Option<&Upgrade>) -> &'static str {
    let Some(upgrade) = upgrade else { return "idle" };
    match (&upgrade.halt, upgrade.phase) {
        (Some(Halt::Paused), _) => "paused",
        (Some(Halt::Gate(_)), _) => "halted",
        (None, Phase::Rolling) => {
            let at_goal = |seen: &Seen| seen.release() == Some(upgrade.goal());
            let holds = |seen: &Seen| matches!(seen.want.role, Role::Serving | Role::Cordoned | Role::Draining);
            let opened = sight.plan.as_ref().is_some_and(|plan| !plan.open.is_empty());
            let begun = opened || sight.servers.values().any(|seen| at_goal(seen) && holds(seen));
            if begun { "rolling" } else { "canary" }
        }
        (None, Phase::Soak) if sight.plan_for.as_secs() >= upgrade.ask.soak_s => "soaked",
        (None, phase) => phase.as_str(),
    }
}

fn server(
    name: &ServerName,
    seen: &Seen,
    goal: Option<&str>,
    into: Option<&ServerName>,
    waits: Vec<String>,
) -> ServerStatus {
    let upkeep = seen.upkeep();
    ServerStatus {
        name: name.to_string(),
        role: seen.want.role.to_string(),
        since_s: seen.step_for.as_secs(),
        release: seen.release().map(str::to_owned),
        at_goal: goal.is_some() && seen.release() == goal,
        alive: seen.alive,
        into: into.map(ToString::to_string),
        objects: seen.owned,
        bytes: seen.owned_bytes(),
        retired: upkeep.map_or(0, |upkeep| upkeep.retired),
        read_back: upkeep
            .and_then(|upkeep| upkeep.taken.as_ref())
            .map(|taken| (taken.verified, taken.sum.count)),
        install: upkeep.map(|upkeep| upkeep.install.to_string()),
        p99_us: upkeep.map_or(0, |upkeep| upkeep.p99_us),
        waits,
    }
}

/// Why something is as it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explained {
    /// What was asked about.
    pub what: String,
    /// How it is.
    pub is: String,
    /// Why it has not moved or been upgraded, what blocks it and since when; the nearest reason first.
    pub because: Vec<String>,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.is)?;
        self.because.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Why a server is as it is; `None` for one that is not of the pool.
#[must_use]
pub fn explain(sight: &Sight, server: &ServerName) -> Option<Explained> {
    let seen = sight.servers.get(server)?;
    let upgrade = sight.plan.as_ref().and_then(|plan| plan.upgrade.as_ref());
    let mut because = Vec::new();
    let waits = match course(sight) {
        Decision::Wait(waits) => waits,
        Decision::Rest | Decision::Write(_) | Decision::Next(_) => Vec::new(),
    };
    let since = |seen: &Seen| format!("for {} s now", seen.step_for.as_secs());
    because.extend(
        waits
            .iter()
            .filter(|wait| wait.server() == Some(server))
            .map(|wait| format!("{wait} ({})", since(seen))),
    );
    let others: Vec<String> = waits
        .iter()
        .filter(|wait| wait.server() != Some(server))
        .map(ToString::to_string)
        .collect();
    match upgrade {
        Some(upgrade) if !upgrade.is_over() => {
            if seen.release() == Some(upgrade.goal()) {
                because.push(format!("it runs {}, as the upgrade wants", upgrade.goal()));
            } else if because.is_empty() {
                because.push(format!(
                    "it runs {} and is to run {}: its turn comes after {}",
                    seen.release().unwrap_or("a release that it has not told"),
                    upgrade.goal(),
                    sight
                        .plan
                        .as_ref()
                        .map(|plan| plan.goal.to_string())
                        .unwrap_or_default()
                ));
            }
            if let Some(times) = upgrade.failed.get(server) {
                because.push(format!("the install there has failed {times} times"));
            }
            because.extend(others);
        }
        Some(_) | None if because.is_empty() => because.push("no plan waits for it".to_owned()),
        Some(_) | None => {}
    }
    if let Some(Install::Failed(release) | Install::Refused(release)) = seen.upkeep().map(|upkeep| &upkeep.install) {
        because.push(format!("it did not install {release}: its agent's log says why"));
    }
    if seen.lost {
        because.push("it is marked lost for good: servers that hold copies take what it owned".to_owned());
    }
    if !seen.alive {
        because.push("it is not heard".to_owned());
    }
    if keep::has_begun(sight)
        && let Some(why) = keep::takes_none(sight, server)
    {
        because.push(format!("it takes no copies of what others own: {why}"));
    }
    Some(Explained {
        what: server.to_string(),
        is: format!(
            "{server} is {}, runs {}, owns {} objects, holds copies of {}, {} registers name it",
            seen.want.role,
            seen.release().unwrap_or("a release that it has not told"),
            seen.owned,
            seen.held,
            seen.named
        ),
        because,
    })
}
