//! A registry that was lost or restored: what the operator does, what agents tell it, and how it opens (DESIGN.md section 6).

use std::sync::Arc;

use agent::reconcile::{Duty, Messages, duty};
use hickory_proto::op::ResponseCode;
use librarian::registry::Cut;
use zones::query::Answer;

use super::clock::{MS, S};
use super::desk::Stage;
use super::faults::{Fate, Site};
use super::line::What;
use super::script::Deed;
use super::world::{Event, World};

/// How long the old process would answer on, if it were let.
const HANDOVER: u64 = 6 * S;

/// How long a complete report waits for the librarian's word, as that of `agent::reconcile`.
const WORD_WAIT: u64 = 5 * S;

impl World {
    /// What an operator does to the registry.
    pub(super) fn registry_deed(&mut self, deed: Deed) {
        match deed {
            Deed::Backup => self.librarian.back_up(),
            Deed::Restore | Deed::Rebuild => {
                self.librarian.restore(deed == Deed::Rebuild);
                self.check.registers_changed = true;
                self.push(self.now + 300 * MS, Event::StartLibrarian(self.librarian.life));
            }
            Deed::Handover(agent) => {
                if self.librarian.up {
                    self.upgraded.killed.extend(self.pool_state());
                    self.librarian.hand_over(agent, self.now + HANDOVER);
                }
            }
            _ => unreachable!("deeds of others"),
        }
    }

    /// An agent does what it owes the registry that answers it.
    pub(super) fn owe(&mut self, agent: usize) {
        let trust = Arc::clone(&self.machines[agent].process.trust);
        match duty(&trust) {
            Duty::Nothing => self.machines[agent].process.line.report = None,
            // A disk that refuses is tried again at the next round.
            Duty::Believe(incarnation) => drop(trust.believe(incarnation)),
            Duty::Report(incarnation) => {
                let machine = &mut self.machines[agent];
                // What follows from an answer of before is to be durable first.
                let settles = |stage: &Stage| matches!(stage, Stage::Committing { .. } | Stage::Quieting { .. });
                let settled = !machine.process.requests.values().any(|request| settles(&request.stage));
                let durable = settled && machine.process.engine.is_durable();
                let line = &machine.process.line;
                if line.report.is_some()
                    || self.now < line.reported
                    || !durable
                    || trust.report_to(incarnation).is_err()
                {
                    return;
                }
                let wanted = machine.process.engine.outside().wanted.clone();
                let entries = machine.process.local.store().entries();
                let messages = Messages::new(&self.domain, machine.name.clone(), incarnation, &wanted, entries);
                machine.process.line.report = Some(messages.collect());
                self.report_on(agent);
            }
            Duty::Stranger(_) => self.fail(format!("s{} hears of an open registry that never asked it", agent + 1)),
            Duty::Leave => self.fail(format!("s{} is written off", agent + 1)),
        }
    }

    /// Sends the next part of a report.
    fn report_on(&mut self, agent: usize) {
        let line = &mut self.machines[agent].process.line;
        match line.report.as_mut().and_then(std::collections::VecDeque::pop_front) {
            Some(message) => {
                let message = Box::new(message);
                self.line_send(agent, What::Report { message, tries: 0 });
            }
            None => (line.report, line.reported) = (None, self.now + WORD_WAIT),
        }
    }

    /// A part of a report was answered. One that is refused is begun anew.
    pub(super) fn reported(&mut self, agent: usize, answer: &Answer) {
        self.note(|| format!("librarian -> s{}: report {} {:?}", agent + 1, answer.code, answer.why()));
        match answer.code {
            ResponseCode::NoError => self.report_on(agent),
            _ => self.machines[agent].process.line.report = None,
        }
    }

    /// When all have reported, the registry opens, step by step.
    pub(super) fn open_registry(&mut self) {
        if !self.librarian.may_open() {
            return;
        }
        let cut = match self.decide(Site::Commit) {
            Fate::CrashBefore => Some(Cut::Before),
            Fate::CrashAfter => Some(Cut::After),
            _ => None,
        };
        if let Err(why) = self.librarian.open_step(cut) {
            return self.fail(why);
        }
        self.check.registers_changed = true;
        if cut.is_some() {
            self.crash_librarian(300 * MS);
        }
        if self.librarian.is_open() {
            *self.steps.entry("registry opened").or_default() += 1;
            self.note(|| "the registry is open".to_owned());
        }
    }
}
