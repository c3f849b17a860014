//! The right to change one object, held by one at a time and passed on when dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};
use zones::Address;

use super::gate::Asked;
use super::moving::{NotOwned, moves_own};
use super::table::{Slot, Table};
use super::words::WriteError;
use crate::clock::BootInstant;
use crate::store::Entry;

/// The right to change one object. Dropping it lets the next in line go on.
#[derive(Debug)]
pub struct Turn {
    slot: Arc<Slot>,
}

impl Turn {
    pub(crate) fn new(slot: Arc<Slot>) -> Turn {
        Turn { slot }
    }

    /// The object's current copy; `None` where the register decides what a change of it finds.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Entry>> {
        self.slot.with(|state| state.answering().cloned())
    }

    /// Tells the open move, if there is one, that a deletion has begun: that changes the register from here on.
    pub fn cancel_move(&self) {
        self.slot.with(|state| state.gate().cancel_move());
    }

    /// Lets others note in the row who holds copies, from now on until [`Turn::resume`] or the turn's end.
    pub fn rest(&self) {
        self.slot.with(|state| state.gate().rest());
    }

    /// Whether the row is this turn's alone again; if not, when to look again.
    ///
    /// # Errors
    ///
    /// What to wait for.
    pub fn resume_now(&self) -> Result<(), OwnedNotified> {
        self.slot.with(|state| match state.gate().resume() {
            true => Ok(()),
            false => Err(state.gate().changed()),
        })
    }

    /// Waits until the row is this turn's alone again.
    pub(crate) async fn resume(&self) {
        while let Err(changed) = self.resume_now() {
            changed.await;
        }
    }

    /// The slot.
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.slot.with(|state| state.gate().end_turn());
        if let Some(next) = next {
            next.hand_over(Turn {
                slot: Arc::clone(&self.slot),
            });
        }
    }
}

/// Who holds copies is being noted in a row. Dropping it lets the next in line go on.
#[derive(Debug)]
pub(crate) struct RowVisit {
    slot: Arc<Slot>,
}

impl Drop for RowVisit {
    fn drop(&mut self) {
        let next = self.slot.with(|state| state.gate().end_visit());
        if let Some(next) = next {
            next.hand_over(Turn {
                slot: Arc::clone(&self.slot),
            });
        }
    }
}

impl Slot {
    /// Begins to note in the row who holds copies; `None` while somebody else may change it.
    pub(crate) fn visit(self: &Arc<Self>) -> Option<RowVisit> {
        let free = self.with(|state| state.gate().visit());
        free.then(|| RowVisit { slot: Arc::clone(self) })
    }

    /// Waits for the turn, behind everyone who asked before.
    pub(crate) async fn turn(self: &Arc<Self>, line_max: usize, until: Instant) -> Result<Turn, WriteError> {
        let unavailable = |why| WriteError::Unavailable {
            why,
            retry_after: Duration::from_secs(1),
        };
        let receiver = match self.with(|state| state.gate().ask(BootInstant::now(), line_max)) {
            Asked::Taken => {
                return Ok(Turn { slot: Arc::clone(self) });
            }
            Asked::Full => return Err(unavailable("too many writes wait for it")),
            Asked::InLine(receiver) => receiver,
        };
        match timeout_at(until, receiver).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => unreachable!("a sender in line is only dropped with its turn"),
            Err(_) => Err(unavailable("earlier writes or a move of it are not finished")),
        }
    }

    /// Waits for the turn ahead of the line, also while turns are held back: for a step of the object's move.
    ///
    /// # Errors
    ///
    /// As [`Slot::try_turn_of_move`].
    pub(crate) async fn turn_of_move(self: &Arc<Self>) -> Result<Turn, NotOwned> {
        loop {
            // Before the look, so that no change comes in between.
            let changed = self.with(|state| state.gate().changed());
            match self.try_turn_of_move()? {
                Some(turn) => return Ok(turn),
                None => changed.await,
            }
        }
    }

    /// Takes the turn ahead of the line, also while turns are held back; `None` if a write has it.
    ///
    /// # Errors
    ///
    /// [`NotOwned`] if a creation or deletion has it. It keeps it until the register has settled, and a registry that is
    /// reconciled waits for the steps of moves: neither must wait for the other.
    pub(crate) fn try_turn_of_move(self: &Arc<Self>) -> Result<Option<Turn>, NotOwned> {
        let free = self.with(|state| {
            let free = state.gate().take_now();
            match free || state.current().is_some_and(|entry| moves_own(entry)) {
                true => Ok(free),
                false => Err(NotOwned),
            }
        })?;
        Ok(free.then(|| Turn { slot: Arc::clone(self) }))
    }

    /// Takes the turn before anybody can have it: for what a restart found open.
    pub(crate) fn turn_at_start(self: &Arc<Self>) -> Turn {
        let free = self.with(|state| state.gate().take_now());
        assert!(free, "nobody takes turns before the recovery");
        Turn { slot: Arc::clone(self) }
    }

    /// Keeps turns back from now on and waits until the open one has ended.
    pub(crate) async fn hold(&self) {
        self.with(|state| state.gate().hold());
        loop {
            let changed = self.with(|state| {
                let gate = state.gate();
                gate.is_taken().then(|| gate.changed())
            });
            match changed {
                None => return,
                Some(changed) => changed.await,
            }
        }
    }

    /// Lets turns go on.
    pub(crate) fn release(self: &Arc<Self>) {
        let next = self.with(|state| state.gate().release());
        if let Some(next) = next {
            next.hand_over(Turn { slot: Arc::clone(self) });
        }
    }
}

/// A slot in use that may turn out to be empty: it is forgotten then.
#[derive(Debug)]
pub(crate) struct Visit<'a> {
    table: &'a Table,
    address: &'a Address,
    slot: Option<Arc<Slot>>,
}

impl<'a> Visit<'a> {
    pub(crate) fn new(table: &'a Table, address: &'a Address) -> Visit<'a> {
        Visit {
            table,
            address,
            slot: Some(table.get_or_make(address)),
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        self.slot.as_ref().expect("taken only by drop")
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.slot = None;
        self.table.forget(self.address);
    }
}
