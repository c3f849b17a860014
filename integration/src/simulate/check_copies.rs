//! What must hold of copies on several servers (DESIGN.md section 14): when something is shown or acknowledged, and at the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent::store::Entry;
use zones::{Address, Register, ServerName, State};

use super::agent::Machine;
use super::script::address;
use super::world::World;

impl World {
    /// I1, and that what is acknowledged survives the loss of any one server. `entry` is the row as it was written, and `makes`
    /// whether that made the object.
    pub(super) fn may_acknowledge(
        &mut self,
        agent: usize,
        entry: &Entry,
        revision: u64,
        makes: bool,
    ) -> Result<(), String> {
        let machine = &mut self.machines[agent];
        let (name, keep) = (machine.name.clone(), machine.process.keep());
        let Some(row) = machine.process.local.entry(&entry.address) else {
            return Err(format!(
                "I1: {name} acknowledges a write of {}, which it does not have",
                entry.address
            ));
        };
        // One that nobody else held was looked at when it was applied.
        if entry.is_shared() || row.is_shared() {
            self.check.write_applied(&name, &row)?;
        }
        let register = self.librarian.process.registry.view().register(&entry.address);
        let Some(register) = register.filter(|_| self.script.copies.is_some() && self.librarian.is_open()) else {
            return Ok(());
        };
        let needed = keep.others_needed(&entry.address, &name);
        // One that was given away or deleted meanwhile was made before.
        if makes && row.journal.may_own() && register.holders.len() < needed + 1 {
            return Err(format!(
                "I5: {} is made and acknowledged on {:?}, with {needed} others to hold it",
                entry.address, register.holders
            ));
        }
        self.holders_have(&name, &row, revision)
    }

    /// What is shown or acknowledged of an object every other server has that its register names. One that is lost had it.
    pub(super) fn holders_have(&self, name: &ServerName, row: &Entry, revision: u64) -> Result<(), String> {
        let register = self.librarian.process.registry.view().register(&row.address);
        // One that was put back and is not reconciled yet names holders of its day: none of them may take over.
        let is_known = |register: &Register| self.script.copies.is_some() && register.epoch == row.epoch;
        let Some(register) = register.filter(is_known).filter(|_| self.librarian.is_open()) else {
            return Ok(());
        };
        for holder in register.holders.iter().filter(|holder| *holder != name) {
            let mut machines = self.machines.iter().filter(|machine| machine.name == *holder);
            let has = machines.any(|machine| match machine.gone {
                true => {
                    (machine.had.get(&row.address)).is_some_and(|(epoch, had)| *epoch == row.epoch && *had >= revision)
                }
                false if machine.name == register.owner => {
                    let rows = machine.process.local.store().entries();
                    let mut rows = rows.iter().filter(|owned| owned.address == row.address);
                    rows.any(|owned| !owned.journal.is_held() && is_of(owned, row, revision))
                }
                false => held(machine, &row.address).is_some_and(|held| is_of(&held, row, revision)),
            });
            if !has && !self.is_spoilt(&row.address) {
                return Err(format!(
                    "I5: revision {revision} of {} counts at {name}, and {holder}, which the register names, does not have it",
                    row.address
                ));
            }
        }
        Ok(())
    }

    /// What has still to be done for copies: at the end none is missing, none is where the register names none, and nobody's
    /// holders change.
    pub(super) fn copies_wait(&self) -> Option<String> {
        self.script.copies?;
        let view = self.librarian.process.registry.view();
        for address in (0..self.script.objects).map(address) {
            // What its owner cannot read it sends to nobody.
            if self.is_stuck(&address) {
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
        let Some(row) = owner.process.local.entry(address) else {
            return Some(format!("{} owns it and has no row of it", owner.name));
        };
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
        self.count_waits(address, owner, &others)
    }

    /// How many holders an object is to have does not rest on what the librarian says: it is as many as the script wants, or as
    /// there are servers for. Which ones have it besides, and which are not to, the librarian alone knows.
    fn count_waits(&self, address: &Address, owner: &Machine, others: &BTreeSet<&ServerName>) -> Option<String> {
        let view = self.librarian.process.registry.view();
        let takes = |machine: &&Machine| {
            let server = view.server(&machine.name);
            let serves = server.is_some_and(|server| !server.lost && server.want.role.takes_new_objects());
            machine.name != owner.name && !machine.gone && serves && self.script.terms.of(&machine.name).new_objects
        };
        let places = self.machines.iter().filter(takes).count();
        let wanted = usize::from(self.script.copies.unwrap_or(1).saturating_sub(1));
        let needed = places.min(wanted);
        if others.len() < needed {
            return Some(format!("{} holders of {needed}", others.len()));
        }
        let keep = &view.server(&owner.name)?.want.errand.keep;
        if let Some(leaving) = others.iter().find(|other| keep.leave.contains(other)) {
            return Some(format!("{leaving} holds it, and copies leave that server"));
        }
        let hot = keep.hot_on(address);
        if let Some(missing) = hot.iter().find(|hot| **hot != owner.name && !others.contains(hot)) {
            return Some(format!("{missing} does not hold it, and it is hot there"));
        }
        let cool = others.iter().filter(|other| !hot.contains(other)).count();
        (cool > wanted).then(|| format!("{cool} holders of {wanted} that are not for its heat"))
    }
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
