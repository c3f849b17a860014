//! What the controller sees: one consistent look at the plan, the wants and what servers say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use zones::{Address, Has, Kept, Policy, Role, ServerName, Upkeep, Want};

use super::keep;
use super::plan::Plan;
use super::secondaries::Lagging;
use super::spread::Spread;
use crate::guard::{Guard, stands};

/// One look at the pool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sight {
    /// The current plan; `None` when there never was one.
    pub plan: Option<Plan>,
    /// Every server that joined.
    pub servers: BTreeMap<ServerName, Seen>,
    /// How long this plan has been the current one, as far as this process knows.
    pub plan_for: Duration,
    /// How long an answer that names a server may be cached, with that server's address.
    pub linger: Duration,
    /// Serials of `obj` and `tree`.
    pub serials: (u32, u32),
    /// What the operator says of copies.
    pub copies: Arc<keep::Settings>,
    /// Objects that a server names as asked for most, or a want as one with copies for its heat.
    pub registers: BTreeMap<Address, Named>,
    /// Which objects are to have copies for their heat; `None` where nobody has thought about it: then as wants say.
    pub spread: Option<Spread>,
}

/// What the register of an object says that is not deleted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Named {
    /// Its owner.
    pub owner: ServerName,
    /// Where it moves.
    pub to: Option<ServerName>,
    /// Who has a copy, the owner among them.
    pub holders: Vec<ServerName>,
}

/// What is known of one server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// What it should do.
    pub want: Want,
    /// What it last said of itself; after a restart of the librarian, what that kept of it: release, plan and commit counter are as it
    /// said them last, the rest as they were when one of these last changed.
    pub has: Option<Has>,
    /// Whether its lease runs.
    pub alive: bool,
    /// Whether it is marked lost for good.
    pub lost: bool,
    /// How far its clock was ahead of the librarian's when it last spoke, in seconds; below 0 it was behind.
    pub clock_ahead_s: i64,
    /// Registers that name it in any field.
    pub named: u64,
    /// Registers that name it as the owner.
    pub owned: u64,
    /// Registers that name it as the holder of a copy, and another server as the owner.
    pub held: u64,
    /// The operator's price for it, in percent of the usual.
    pub price_percent: u32,
    /// For how long no answer has named it for an object or a placement.
    pub quiet_for: Option<Duration>,
    /// Secondaries that may still tell of it, while no register names it.
    pub lagging: Vec<Lagging>,
    /// For how long none has; `None` also where nobody has looked.
    pub told_for: Option<Duration>,
    /// For how long a draining server has owned nothing, held no copy, and been named by no register.
    pub emptied_for: Option<Duration>,
    /// For how long its want has been as it is.
    pub step_for: Duration,
    /// For how long its want has said of copies what it says now.
    pub keep_for: Duration,
    /// For how long its lease has not run.
    pub silent_for: Option<Duration>,
}

impl Named {
    /// Whether a server has the object, or it comes there.
    #[must_use]
    pub fn is_at(&self, server: &ServerName) -> bool {
        self.holders.contains(server) || self.to.as_ref() == Some(server)
    }
}

/// Whether a server in this role is given up until a person has looked after it.
#[must_use]
pub fn is_given_up(role: Role) -> bool {
    matches!(role, Role::Failed | Role::Quarantined)
}

impl Sight {
    /// The number of the current plan, 0 for none.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.plan.as_ref().map_or(0, |plan| plan.number)
    }

    /// What the current plan asks of objects.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.plan.as_ref().map_or_else(Policy::default, |plan| plan.policy)
    }
}

impl Seen {
    /// Whether the server said, within its lease, that it knows this plan. Only then may anything rely on it: until it does,
    /// it may still obey an older one.
    #[must_use]
    pub fn knows(&self, plan: u64) -> bool {
        !stands(Guard::PlanSeen) || self.alive && self.has.as_ref().is_some_and(|has| has.plan == plan)
    }

    /// Whether the server has said, at whatever time, that it knows this plan or a later one: it has it on disk.
    #[must_use]
    pub fn has_taken(&self, plan: u64) -> bool {
        !stands(Guard::PlanSeen) || self.has.as_ref().is_some_and(|has| has.plan >= plan)
    }

    /// The release that it runs, as it last said.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.has.as_ref().map(|has| has.release.as_str())
    }

    /// Objects that it owns, as it last said.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.has.as_ref().map_or(0, |has| has.objects)
    }

    /// What a server says that a pool can upgrade.
    #[must_use]
    pub fn upkeep(&self) -> Option<&Upkeep> {
        self.has.as_ref().and_then(|has| has.upkeep.as_ref())
    }

    /// Whether it takes part in nothing until a person has looked after it.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.lost || is_given_up(self.want.role)
    }

    /// Whether its lease runs, and nobody has said that it is lost for good.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.alive && !self.lost
    }

    /// What it says of copies; `None` from a release before them.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.has.as_ref().and_then(|has| has.kept.as_ref())
    }

    /// Octets that its own objects take on disk, as it last said; a release that does not say it tells their plaintext.
    #[must_use]
    pub fn owned_bytes(&self) -> u64 {
        let plain = self.has.as_ref().map_or(0, |has| has.bytes);
        self.upkeep().map_or(plain, |upkeep| upkeep.used.max(plain))
    }

    /// Octets that are taken on its disk, as it last said: by its own objects, and by copies of others'.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let copies = self.kept().map_or(0, |kept| kept.octets);
        self.owned_bytes().saturating_add(copies)
    }

    /// Octets that it has room for, as it last said.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.has
            .as_ref()
            .map_or(0, |has| has.capacity.saturating_sub(self.bytes()))
    }
}
