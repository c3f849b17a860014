//! What a plan says of the upgrade that it is a part of (UPGRADE.md).
//!
//! An upgrade is a chain of plans: each does one thing and carries all that the next one needs to know. So the controller
//! may be killed anywhere, and whoever looks at the current plan knows as much as it did.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zones::ServerName;

/// The upgrade that a plan is a part of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// The release that the pool had.
    pub from: String,
    /// The one that it is to have.
    pub to: String,
    /// How far it is.
    pub phase: Phase,
    /// Why nothing goes on until a person says so; absent: it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// What the operator asked for.
    pub ask: Ask,
    /// When it began, seconds since 1970.
    pub began_unix_s: u64,
    /// Installs that failed, by server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<ServerName, u32>,
    /// How the pool did before.
    pub baseline: Baseline,
    /// Whether contract steps ran before: those of the old release, which the upgrade lets no more of run until it is final.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contracted: bool,
}

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Server after server goes to the new release.
    Rolling,
    /// All run it; it is watched for a while, then waits for a person to finalize it.
    Soak,
    /// Every server is told that the old release does not come back.
    Finalizing,
    /// Objects that rest are brought to what is asked for.
    Sweeping,
    /// Over.
    Done,
    /// Server after server goes back to the old release.
    Aborting,
    /// Over, at the old release.
    RolledBack,
}

/// Why an upgrade stands still.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Halt {
    /// A person paused it.
    Paused,
    /// A gate failed, or a server: the reason says what to do.
    Gate(String),
}

/// What the operator asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Level of objects after finalize; absent: as before.
    pub level: Option<u8>,
    /// Whether objects go back to the server that they came from.
    pub refill_home: bool,
    /// Room that a server must have for what comes, in percent of it; at least 100.
    pub room_percent: u64,
    /// How long the upgraded pool is watched before it may be finalized.
    pub soak_s: u64,
    /// How often the install on one server may fail before the pool halts; at least 1.
    pub attempts: u32,
    /// How long a server may take to install and come back.
    pub install_s: u64,
    /// How long a gate may wait for what should be there at once.
    pub gate_s: u64,
    /// Failed requests of all servers together that a step may add.
    pub errors_max: u64,
    /// How slow clients may be served, in percent of the time before.
    pub slow_percent: u64,
    /// Octets a second that each server writes anew after finalize to bring resting objects to what is asked for; absent: they
    /// come to it as they move.
    pub sweep: Option<u64>,
}

impl Default for Ask {
    fn default() -> Self {
        Ask {
            level: None,
            refill_home: false,
            room_percent: 130,
            soak_s: 600,
            attempts: 2,
            install_s: 900,
            gate_s: 300,
            errors_max: 100,
            slow_percent: 300,
            sweep: Some(20 << 20),
        }
    }
}

/// A drain that was begun and is not over.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The server that takes the objects.
    pub into: ServerName,
    /// The plan under which it began.
    pub since: u64,
    /// Whether objects go home by it, so that nothing is installed on the server that gives them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub home: bool,
}

/// How the pool did when this plan was made.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The slowest server's 99th percentile before the upgrade began, in microseconds; 0 if no server told one.
    pub p99_us: u64,
    /// Requests that had failed, by server, when this plan was made.
    pub errors: BTreeMap<ServerName, u64>,
}

/// One server's turn under a plan: it is emptied, is given the release of the plan, and is free.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// Which.
    pub server: ServerName,
    /// Where its objects go; absent: it holds none, or takes objects again after a drain that does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<ServerName>,
    /// The plan under which its drain began.
    pub since: u64,
    /// Whether it is a reserve afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reserve: bool,
}

impl Upgrade {
    /// The release that servers are brought to now.
    #[must_use]
    pub fn goal(&self) -> &str {
        match self.phase {
            Phase::Rolling | Phase::Soak | Phase::Finalizing | Phase::Sweeping | Phase::Done => &self.to,
            Phase::Aborting | Phase::RolledBack => &self.from,
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::RolledBack)
    }

    /// Whether the old release may come back.
    #[must_use]
    pub fn can_be_aborted(&self) -> bool {
        matches!(self.phase, Phase::Rolling | Phase::Soak)
    }
}

impl Phase {
    /// Its name in documents and for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Rolling => "rolling",
            Phase::Soak => "soak",
            Phase::Finalizing => "finalizing",
            Phase::Sweeping => "sweeping",
            Phase::Done => "done",
            Phase::Aborting => "aborting",
            Phase::RolledBack => "rolled-back",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.into {
            Some(into) => write!(f, "{} (its objects into {into})", self.server),
            None => write!(f, "{}", self.server),
        }
    }
}
