//! Servers that are lost for good, or taken for lost, and objects that go with them.

use std::collections::BTreeSet;

use zones::{Address, Register, ServerName, State};

use super::agent::Machine;
use super::clock::{S, Time};
use super::dice;
use super::script::Deed;
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

    /// Objects that are on lost servers alone: nobody promises them, unless nothing else went wrong.
    pub(super) fn excuse(&mut self) -> Result<(), String> {
        let gone: BTreeSet<ServerName> = self
            .machines
            .iter()
            .filter(|machine| machine.gone)
            .map(|machine| machine.name.clone())
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        for (address, shown) in self.check.mark_beyond(|register| is_beyond(register, &gone)) {
            *self.steps.entry("object lost").or_default() += 1;
            self.note(|| format!("{address} was on a lost server alone"));
            if shown > 0 && self.script.copies == Some(2) && self.is_undisturbed() {
                return Err(format!(
                    "I5: {address} was shown at revision {shown}, and is lost with one server"
                ));
            }
        }
        Ok(())
    }

    /// Whether an object was deleted at a server that is lost by now, or was taken for lost: nobody knows any more which writes were
    /// applied before that (README.md, Limits).
    pub(super) fn is_deleted_at_lost(&self, address: &Address) -> bool {
        let register = self.check.register(address);
        let deleted = register.filter(|register| register.state == State::Deleted);
        let is_owner = |machine: &Machine| deleted.is_some_and(|register| register.owner == machine.name);
        let Some(owner) = self.machines.iter().position(is_owner) else {
            return false;
        };
        // Who was told that it is lost says so until told otherwise.
        let marks = |deed: &Deed| matches!(deed, Deed::CutOff(agent, _) | Deed::Mark(agent, true) if *agent == owner);
        self.machines[owner].gone || self.script.deeds.iter().any(|(_, deed)| marks(deed))
    }

    /// Whether nothing went wrong so far but that a server was lost.
    fn is_undisturbed(&self) -> bool {
        let disturbs = |deed: &Deed| match deed {
            Deed::Late(_)
            | Deed::HearLate(..)
            | Deed::Befall(_)
            | Deed::Arm(..)
            | Deed::Restore
            | Deed::Rebuild
            | Deed::Handover(_)
            | Deed::Trick(_)
            | Deed::Steer(_)
            | Deed::Mark(..)
            | Deed::CutOff(..) => true,
            Deed::Put(..)
            | Deed::Read(..)
            | Deed::Delete(..)
            | Deed::Move(..)
            | Deed::Drain(_)
            | Deed::Refill
            | Deed::Policy(..)
            | Deed::Release
            | Deed::Backup
            | Deed::Rotate(_)
            | Deed::Lose(_) => false,
        };
        let lost = self.machines.iter().filter(|machine| machine.gone).count();
        let mut deeds = self.script.deeds.iter().map(|(_, deed)| deed);
        lost == 1
            && self.faults.counts.is_empty()
            && !deeds.any(disturbs)
            && !self.script.after.iter().any(|after| disturbs(&after.deed))
    }
}

/// Whether an object is on lost servers alone.
fn is_beyond(register: &Register, gone: &BTreeSet<ServerName>) -> bool {
    gone.contains(&register.owner) && register.holders.iter().all(|holder| gone.contains(holder))
}
