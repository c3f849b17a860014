//! The network: who reaches whom, and connections between agents.

use std::collections::BTreeMap;

use super::clock::{MS, S, Time};

/// A party: the librarian is 0, agents follow, all clients together come last.
pub(super) type Party = usize;

/// A connection between two agents, seen by each side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// Counts the connections of the pair.
    pub(super) number: u64,
    pub(super) up: bool,
    pub(super) dialing: bool,
}

/// How long a connection lives when nothing passes.
pub(super) const IDLE: Time = 3 * S;

#[derive(Debug, Default)]
pub(super) struct Network {
    /// Nothing passes from one to the other before then.
    cut: BTreeMap<(Party, Party), Time>,
    pub(super) links: BTreeMap<(usize, usize), Link>,
    /// When the last frame of one agent to another arrives: a lane keeps its order.
    last: BTreeMap<(usize, usize), Time>,
}

impl Network {
    pub(super) fn cut(&mut self, from: Party, to: Party, until: Time) {
        let known = self.cut.entry((from, to)).or_default();
        *known = until.max(*known);
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn passes(&self, from: Party, to: Party, now: Time) -> bool {
        self.cut.get(&(from, to)).is_none_or(|until| *until <= now)
    }

    /// When a way that is cut is whole again.
    pub(super) fn whole_at(&self, from: Party, to: Party, now: Time) -> Time {
        self.cut.get(&(from, to)).map_or(now, |until| *until).max(now)
    }

    pub(super) fn link(&mut self, one: usize, other: usize) -> &mut Link {
        self.links.entry((one.min(other), one.max(other))).or_default()
    }

    /// When a frame that would come at `at` comes, behind those before it.
    pub(super) fn in_order(&mut self, from: usize, to: usize, at: Time) -> Time {
        let last = self.last.entry((from, to)).or_default();
        *last = at.max(*last + 1);
        *last
    }

    /// How long a message takes: mostly a millisecond or two.
    pub(super) fn latency(roll: u64) -> Time {
        MS / 5 + roll % (2 * MS)
    }
}
