//! Copies of objects on several servers: servers that are lost, and what must hold of holders (DESIGN.md section 14).

use std::collections::BTreeSet;
use std::sync::Arc;

use agent::store::Entry;
use zones::{Address, Register, ServerName, State};

use super::agent::Machine;
use super::clock::{S, Time};
use super::dice;
use super::script::address;
use super::world::{Event, World};

/// Longest time until a person says that a server is lost.
const SAID_WITHIN: Time = 4 * S;
/// How long a server that was taken for lost has been back before a person says so.
const BACK_FOR: Time = 3 * S;

impl World {
    /// A server is lost, and all that it had.
    pub(super) fn lose(&mut self, agent: usize) {
        if self.machines[agent].gone {
            return;
        }
        self.crash(agent);
        self.note(|| format!("s{} is lost for good", agent + 1));
        *self.steps.entry("server lost").or_default() += 1;
        self.machines[agent].lose();
        self.check.touched(agent);
        let pause = dice(self.script.seed, agent as u64, 410) % SAID_WITHIN;
        self.push(self.now + pause, Event::Mark(agent, true));
    }

    /// A server reaches nobody but clients for so long, and is taken for lost meanwhile.
    pub(super) fn cut_off(&mut self, agent: usize, pause: Time) {
        self.note(|| format!("s{} is cut off", agent + 1));
        *self.steps.entry("server cut off").or_default() += 1;
        self.isolate(agent, pause);
        let said = dice(self.script.seed, agent as u64, 411) % pause.max(1);
        self.push(self.now + said, Event::Mark(agent, true));
        self.push(self.now + pause + BACK_FOR, Event::Mark(agent, false));
    }

    /// A person says that a server is lost, or that it is not.
    pub(super) fn mark(&mut self, agent: usize, lost: bool) {
        let name = self.machines[agent].name.clone();
        if lost && self.is_settling() && !self.machines[agent].gone {
            return;
        }
        let said = self.librarian.up && self.librarian.is_open() && self.librarian.mark(&name, lost);
        match said {
            true => self.note(|| {
                format!(
                    "a person says that s{} is {}lost",
                    agent + 1,
                    if lost { "" } else { "not " }
                )
            }),
            false => self.push(self.now + S, Event::Mark(agent, lost)),
        }
    }

    /// Whoever only seemed to be lost is there when faults stop.
    pub(super) fn find_again(&mut self) {
        for agent in 0..self.machines.len() {
            let name = &self.machines[agent].name;
            let is_lost = self
                .librarian
                .process
                .registry
                .view()
                .server(name)
                .is_some_and(|server| server.lost);
            if is_lost && !self.machines[agent].gone {
                self.push(self.now, Event::Mark(agent, false));
            }
        }
    }

    /// I1, and that what is acknowledged survives the loss of any one server.
    pub(super) fn may_acknowledge(&mut self, agent: usize, entry: &Entry, revision: u64) -> Result<(), String> {
        let machine = &mut self.machines[agent];
        let (name, keep) = (machine.name.clone(), machine.process.keep());
        let Some(row) = machine.process.local.entry(&entry.address) else {
            return Err(format!(
                "I1: {name} acknowledges a write of {}, which it does not have",
                entry.address
            ));
        };
        if row.is_shared() {
            self.check.write_applied(&name, &row)?;
        }
        let register = self.librarian.process.registry.view().register(&entry.address);
        let Some(register) = register.filter(|_| self.script.copies.is_some()) else {
            return Ok(());
        };
        let places = keep.spread.iter().filter(|(other, _)| *other != name).count();
        let needed = places.min(keep.wanted(&entry.address).saturating_sub(1));
        if revision == 1 && row.revision == 1 && register.holders.len() < needed + 1 {
            return Err(format!(
                "I5: {} is made and acknowledged on {:?}, with {needed} others to hold it",
                entry.address, register.holders
            ));
        }
        self.holders_have(&name, &row, revision)
    }

    /// What is shown or acknowledged of an object every other server has that its register names.
    pub(super) fn holders_have(&self, name: &ServerName, row: &Entry, revision: u64) -> Result<(), String> {
        let register = self.librarian.process.registry.view().register(&row.address);
        let is_known = |register: &Register| self.script.copies.is_some() && register.epoch == row.epoch;
        let Some(register) = register.filter(is_known) else {
            return Ok(());
        };
        for holder in register.holders.iter().filter(|holder| *holder != name) {
            let has = self
                .machines
                .iter()
                .filter(|machine| machine.name == *holder)
                .any(|machine| {
                    machine.gone
                        || machine.name == register.owner
                        || held(machine, &row.address).is_some_and(|held| is_of(&held, row, revision))
                });
            if !has && !self.check.is_rotten(&row.address) {
                return Err(format!(
                    "I5: revision {revision} of {} counts at {name}, and {holder}, which the register names, does not have it",
                    row.address
                ));
            }
        }
        Ok(())
    }

    /// Objects that were on lost servers alone: nobody promises them.
    pub(super) fn excuse(&mut self) {
        if !self.machines.iter().any(|machine| machine.gone) {
            return;
        }
        let view = self.librarian.process.registry.view();
        let gone: BTreeSet<&ServerName> = self
            .machines
            .iter()
            .filter(|machine| machine.gone)
            .map(|machine| &machine.name)
            .collect();
        let objects = (0..self.script.objects).map(address);
        let beyond: Vec<Address> = objects
            .filter(|address| {
                view.register(address)
                    .is_some_and(|register| is_beyond(&register, &gone))
            })
            .collect();
        drop(view);
        for address in beyond {
            if self.check.beyond(&address) {
                *self.steps.entry("object lost").or_default() += 1;
                self.note(|| format!("{address} was on a lost server alone"));
            }
        }
    }

    /// What has still to be done for copies: at the end none is missing, none is where the register names none, and nobody's
    /// holders change.
    pub(super) fn copies_wait(&self) -> Option<String> {
        self.script.copies?;
        let view = self.librarian.process.registry.view();
        for address in (0..self.script.objects).map(address) {
            if self.check.is_rotten(&address) {
                continue;
            }
            let register = view
                .register(&address)
                .filter(|register| register.state != State::Deleted);
            if let Some(why) = self.holders_wait(&address, register.as_ref()) {
                return Some(format!("{address}: {why}"));
            }
        }
        None
    }

    fn holders_wait(&self, address: &Address, register: Option<&Register>) -> Option<String> {
        for machine in &self.machines {
            let is_named = register.is_some_and(|register| register.holders.contains(&machine.name));
            if held(machine, address).is_some()
                && (!is_named || register.is_some_and(|register| register.owner == machine.name))
            {
                return Some(format!("{} holds a copy that no register names", machine.name));
            }
        }
        let register = register?;
        let owner = self.machines.iter().find(|machine| machine.name == register.owner)?;
        if owner.gone {
            return Some(format!("{} is lost and owns it", owner.name));
        }
        let row = owner.process.local.entry(address)?;
        let noted = row.keeping.clone().unwrap_or_default();
        if let Some(change) = &noted.change {
            return Some(format!("its holders change: {change:?}"));
        }
        let others: BTreeSet<&ServerName> = register
            .holders
            .iter()
            .filter(|holder| **holder != owner.name)
            .collect();
        if noted.others.iter().collect::<BTreeSet<_>>() != others {
            return Some(format!(
                "{} notes {:?} and the register {others:?}",
                owner.name, noted.others
            ));
        }
        for holder in &others {
            let machine = self.machines.iter().find(|machine| machine.name == **holder)?;
            if machine.gone {
                return Some(format!("{holder} is lost and holds it"));
            }
            let has = held(machine, address)
                .is_some_and(|held| is_of(&held, &row, row.revision) && held.revision == row.revision);
            if !has {
                return Some(format!(
                    "{holder} does not have revision {} of epoch {}",
                    row.revision, row.epoch
                ));
            }
        }
        let view = self.librarian.process.registry.view();
        let keep = &view.server(&owner.name)?.want.errand.keep;
        let places = keep.spread.iter().filter(|(other, _)| *other != owner.name).count();
        let needed = places.min(keep.wanted(address).saturating_sub(1));
        (others.len() < needed).then(|| format!("{} holders of {needed}", others.len()))
    }
}

/// Whether an object is on lost servers alone.
fn is_beyond(register: &Register, gone: &BTreeSet<&ServerName>) -> bool {
    gone.contains(&register.owner) && register.holders.iter().all(|holder| gone.contains(holder))
}

/// The row that a server holds for another one.
pub(super) fn held(machine: &Machine, address: &Address) -> Option<Arc<Entry>> {
    let rows = machine.process.local.store().entries();
    rows.into_iter()
        .find(|row| row.address == *address && row.journal.is_held())
}

/// Whether a held row is a copy of this one, at this revision or later.
fn is_of(held: &Entry, row: &Entry, revision: u64) -> bool {
    held.epoch == row.epoch && held.revision >= revision && held.properties.is_some()
}
