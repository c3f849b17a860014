//! A second controller beside the librarian's own: it looks in time and writes late what it decided.
//!
//! Both run the production core; what one of them keeps back is judged by the registry when it comes. What a person wishes
//! while plans run is here, too.

use librarian::pool::{self, Decision};
use librarian::registry::Proposal;

use super::clock::Time;
use super::librarian::kept;
use super::world::{Event, World};

/// What the second controller does in the midst of others' plans.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Late {
    /// The next time that there are wants to write it decides the same as the first, and writes them so much later.
    Wants(Time),
    /// It makes a plan that drains a server, and lets it become current so much later.
    Drain(usize, Time),
    /// It makes a plan that brings the objects of the last drain back, and lets it become current so much later.
    Refill(Time),
}

/// The second controller.
#[derive(Debug, Default)]
pub(super) struct Second {
    /// It waits for wants to write, to write them so much later.
    waits: Option<Time>,
    /// What it keeps back.
    kept: Vec<Proposal>,
}

impl World {
    pub(super) fn late(&mut self, late: Late) {
        match late {
            Late::Wants(pause) => self.second.waits = Some(pause),
            Late::Drain(server, pause) => {
                let server = self.machines[server].name.clone();
                self.plans_late(pause, |sight| pool::drain(sight, &server, None).ok());
            }
            Late::Refill(pause) => {
                if let Some(server) = self.last_drain {
                    let server = self.machines[server].name.clone();
                    self.plans_late(pause, |sight| pool::refill(sight, &server).ok());
                }
            }
        }
    }

    fn plans_late(&mut self, pause: Time, make: impl FnOnce(&pool::Sight) -> Option<pool::Plan>) {
        let plan = self.librarian.sight().ok().and_then(|sight| make(&sight));
        if let Some(plan) = plan {
            self.keep(pause, Proposal::Plan(kept(&plan)));
        }
    }

    /// The second controller looks, right before the first.
    pub(super) fn second_looks(&mut self) {
        let Some(pause) = self.second.waits else { return };
        let Ok(sight) = self.librarian.sight() else {
            return;
        };
        if let Decision::Write(wants) = pool::decide(&sight) {
            self.second.waits = None;
            let change = self
                .librarian
                .wants(&sight, wants.into_iter().collect(), Default::default());
            self.keep(pause, Proposal::Wants(change));
        }
    }

    fn keep(&mut self, pause: Time, proposal: Proposal) {
        self.note(|| format!("a second controller decides, and keeps back {proposal:?}"));
        self.second.kept.push(proposal);
        self.push(self.now + pause, Event::Second(self.second.kept.len() - 1));
    }

    /// What was kept back comes to the registry.
    pub(super) fn second_writes(&mut self, number: usize) {
        if !self.librarian.up {
            return;
        }
        let proposal = self.second.kept[number].clone();
        let done = self.librarian.submit(proposal.clone());
        self.note(|| format!("a second controller writes what it kept back: {done:?}"));
        if let (Ok(()), Proposal::Wants(change)) = (done, proposal) {
            self.pool.written(change);
        }
    }
}
