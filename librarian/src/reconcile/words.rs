//! What people and programs are told of a reconcile.

use serde::{Deserialize, Serialize};

/// Most lines of a list that are told; its whole length is told beside it.
pub const LISTED_MAX: usize = 1_000;

/// How far a reconcile is, or how the last one ended.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// Whether the registry is being reconciled: no register changes until it ends.
    pub reconciling: bool,
    /// The registry's incarnation.
    pub incarnation: String,
    /// Objects that are registered now.
    pub objects: u64,
    /// Every server, by name.
    pub servers: Vec<Server>,
    /// Servers that are waited for.
    pub waits_for: Vec<String>,
    /// Claims that contradict a register, at most 1000.
    pub conflicts: Vec<Conflict>,
    /// How many there are.
    pub conflicts_count: u64,
    /// Registers whose owner did not report the object, at most 1000; known when the registry opens.
    pub claimless: Vec<Claimless>,
    /// How many there are.
    pub claimless_count: u64,
    /// Objects that were on their way from a server that was written off or has them no more: who had a whole copy owns them
    /// now, at most 1000.
    pub rescued: Vec<Rescued>,
    /// How many there are.
    pub rescued_count: u64,
    /// When the last reconcile ended, in seconds since 1970.
    pub ended_unix_s: Option<u64>,
}

/// One server in a reconcile.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// `silent`, `reporting`, `reported` or `written-off`.
    pub state: String,
    /// Claims that were taken so far.
    pub claims: u64,
    /// Whether its lease runs.
    pub alive: bool,
}

/// A claim that contradicts a register.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conflict {
    /// The object.
    pub address: String,
    /// Who claims.
    pub server: String,
    /// What it claims.
    pub claim: String,
    /// In which epoch.
    pub epoch: u64,
    /// What the register says; it stands.
    pub register: String,
}

/// A register whose owner did not report the object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Claimless {
    /// The object.
    pub address: String,
    /// Its owner by the register.
    pub owner: String,
    /// The epoch.
    pub epoch: u64,
    /// Whether the owner was written off; if not, it reported without naming the object.
    pub written_off: bool,
}

/// An object whose whole copy was on its way from a server that was written off, or that has it no more.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rescued {
    /// The object.
    pub address: String,
    /// Who owns it now.
    pub owner: String,
    /// Who owned it.
    pub from: String,
    /// The epoch.
    pub epoch: u64,
}
