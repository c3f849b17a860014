//! What must hold of an upgrade, beside what holds always: when a server is stopped, what may be written before finalize, what
//! is kept until the gate, and how it ends.
//!
//! The judge looks at registers, rows and what resolvers remember; it asks neither the controller nor an agent whether
//! something was allowed.
//!
//! Specification: DESIGN.md sections 13 and 15 (I11, I12, I13).

use std::collections::{BTreeMap, BTreeSet};

use agent::store::{Entry, Journal};
use librarian::pool::{Phase, Upgrade};
use zones::{Address, Level, Role, ServerName};

use super::agent::Machine;
use super::clock::{S, Time};
use super::install::name_of;
use super::releases::NEWEST;
use super::script::address;
use super::world::World;

/// Longest time that an answer that names a server may be cached, with the answer that has its address: 5 s each.
pub(super) const CACHED: Time = 10 * S;

/// What was seen of the present upgrade.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The upgrade that the current plan is a part of.
    pub(super) upgrade: Option<Upgrade>,
    /// The level that objects might have when it began.
    level: Option<Level>,
    /// Until when an answer that names a server may still be cached with that server's address.
    named: BTreeMap<usize, Time>,
    /// By server, at the last look: which of its lives it was in, and its copies that are to be kept until the gate is through, each
    /// with the number of its row.
    kept: BTreeMap<usize, (u32, BTreeSet<(u64, Address)>)>,
}

impl Watched {
    /// Somebody was told of a server.
    pub(super) fn named(&mut self, server: usize, until: Time) {
        let known = self.named.entry(server).or_default();
        *known = until.max(*known);
    }

    /// Another plan is current.
    pub(super) fn plan(&mut self, upgrade: Option<Upgrade>, level: Level) {
        let is_new = |known: &Upgrade| {
            !upgrade
                .as_ref()
                .is_some_and(|new| new.began_unix_s == known.began_unix_s && new.to == known.to)
        };
        if self.upgrade.as_ref().is_none_or(is_new) {
            self.level = upgrade.is_some().then_some(level);
        }
        self.upgrade = upgrade;
    }

    /// I13: the pool has two releases at most. A server that has failed is not of it, until it has its turn.
    pub(super) fn releases(&self, machines: &[Machine], failed: impl Fn(&ServerName) -> bool) -> Result<(), String> {
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| !upgrade.is_over()) else {
            return Ok(());
        };
        let other = machines.iter().find(|machine| {
            let release = name_of(machine.release);
            release != upgrade.from && release != upgrade.to && !failed(&machine.name)
        });
        match other {
            None => Ok(()),
            Some(machine) => Err(format!(
                "I13: {} runs {} in an upgrade from {} to {}",
                machine.name,
                name_of(machine.release),
                upgrade.from,
                upgrade.to
            )),
        }
    }

    /// I13: before finalize nothing is written that the old release cannot read. What an expand step made it reads.
    pub(super) fn readable(&self, machine: &Machine, entry: &Entry) -> Result<(), String> {
        let Some(upgrade) = &self.upgrade else { return Ok(()) };
        let before = match upgrade.phase {
            Phase::Rolling | Phase::Soak | Phase::Aborting | Phase::RolledBack => true,
            Phase::Finalizing | Phase::Sweeping | Phase::Done => false,
        };
        let old = (0..NEWEST.len()).find(|release| name_of(u8::try_from(*release).expect("few")) == upgrade.from);
        let Some(old) = old.filter(|_| before && entry.properties.is_some()) else {
            return Ok(());
        };
        // The step to version 2 expands, the one to version 3 contracts.
        let reads = NEWEST[old].max(2);
        let level = self.level.unwrap_or(Level(u8::MAX));
        match entry.schema <= reads && entry.level <= level {
            true => Ok(()),
            false => Err(format!(
                "I13: before finalize {} is at {} in schema {} and level {}, and release {} reads up to {reads} and {level}",
                entry.address, machine.name, entry.schema, entry.level, upgrade.from
            )),
        }
    }

    /// Copies that a server gave away while it was emptied stay until it has heard that it is empty.
    pub(super) fn retired(
        &mut self,
        (agent, life): (usize, u32),
        role: Option<Role>,
        rows: &[std::sync::Arc<Entry>],
    ) -> Result<(), String> {
        let gated = |entry: &&std::sync::Arc<Entry>| {
            matches!(entry.journal, Journal::Moved { .. }) && entry.leaving.is_some_and(|leaving| leaving.gated)
        };
        let now: BTreeSet<_> = (rows.iter().filter(gated))
            .map(|entry| (entry.seq, entry.address.clone()))
            .collect();
        let (before_life, before) = self.kept.insert(agent, (life, now)).unwrap_or_default();
        // What it did in the moment in which it crashed it did in a role that is not known any more.
        if before_life != life || !matches!(role, None | Some(Role::Cordoned | Role::Draining)) {
            return Ok(());
        }
        let (_, now) = &self.kept[&agent];
        let gone = before.iter().find(|(seq, address)| {
            // A copy that comes back takes its place.
            let comes = || {
                rows.iter()
                    .any(|entry| entry.address == *address && !matches!(entry.journal, Journal::Forward { .. }))
            };
            !now.contains(&(*seq, address.clone())) && !comes()
        });
        match gone {
            None => Ok(()),
            Some((_, address)) => Err(format!(
                "gate: s{} removes its copy of {address} while it is {role:?}",
                agent + 1
            )),
        }
    }
}

impl World {
    /// A server is about to be stopped for another release: nobody may miss it.
    pub(super) fn check_stop(&self, agent: usize) -> Result<(), String> {
        let machine = &self.machines[agent];
        let me: &ServerName = &machine.name;
        let view = self.librarian.process.registry.view();
        if view.reconcile().open {
            let names = (0..self.script.objects)
                .filter_map(|object| view.register(&address(object)))
                .find(|register| register.names(me));
            if let Some(register) = names {
                return Err(format!("stop: {me} is stopped and {} names it", register.address));
            }
        }
        for entry in machine.process.local.store().entries() {
            let is_gone = matches!(entry.journal, Journal::Forward { .. } | Journal::Tombstone { .. });
            if !is_gone || entry.streams().next().is_some() {
                return Err(format!(
                    "stop: {me} is stopped and has {} {:?}",
                    entry.address, entry.journal
                ));
            }
        }
        match self.watched.named.get(&agent) {
            Some(until) if *until > self.now => Err(format!(
                "stop: {me} is stopped and an answer that names it may be cached for {} ms more",
                (until - self.now) / 1000
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// An upgrade has ended: every server that is of the pool runs what it should.
    pub(super) fn check_upgraded(&self, upgrade: &Upgrade) -> Result<(), String> {
        let view = self.librarian.process.registry.view();
        for machine in &self.machines {
            let role = view.server(&machine.name).map(|server| server.want.role);
            let is_out = matches!(role, None | Some(Role::Failed | Role::Quarantined));
            if !is_out && name_of(machine.release) != upgrade.goal() {
                return Err(format!(
                    "I12: the upgrade is {} and {}, which is {role:?}, runs {}",
                    upgrade.phase,
                    machine.name,
                    name_of(machine.release)
                ));
            }
        }
        Ok(())
    }
}
