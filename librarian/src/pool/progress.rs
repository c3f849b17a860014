//! How far the current plan is, for people.

use serde::{Deserialize, Serialize};

use super::decide::{Decision, course};
use super::sight::Sight;

/// How far the current plan is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// The plan's number.
    pub plan: u64,
    /// What it does, such as `drain s2 into s4`.
    pub goal: String,
    /// Whether it has ended.
    pub done: bool,
    /// The server that is emptied.
    pub from: String,
    /// Its role now.
    pub role: String,
    /// The server that takes its objects.
    pub into: String,
    /// Objects that the source still owns.
    pub objects_left: u64,
    /// Octets of these, as the source last said.
    pub bytes_left: u64,
    /// What is waited for, in words.
    pub waits: Vec<String>,
}

impl Progress {
    /// What a sight tells; `None` when there never was a plan.
    #[must_use]
    pub fn of(sight: &Sight) -> Option<Progress> {
        let plan = sight.plan.as_ref()?;
        let decision = course(sight);
        let parties = plan.goal.parties();
        let source = parties.and_then(|(source, _)| sight.servers.get(source));
        Some(Progress {
            plan: plan.number,
            goal: plan.goal.to_string(),
            done: decision == Decision::Rest,
            from: parties.map_or_else(String::new, |(source, _)| source.to_string()),
            role: source.map_or_else(String::new, |source| source.want.role.to_string()),
            into: parties.map_or_else(String::new, |(_, target)| target.to_string()),
            objects_left: source.map_or(0, |source| source.owned),
            bytes_left: source.map_or(0, |source| if source.owned == 0 { 0 } else { source.owned_bytes() }),
            waits: match decision {
                Decision::Wait(waits) => waits.iter().map(ToString::to_string).collect(),
                Decision::Rest | Decision::Write(_) | Decision::Next(_) => Vec::new(),
            },
        })
    }
}
