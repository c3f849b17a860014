//! Many steps of many moves in one commit: what [`Objects::step`] and [`Objects::became_owner`] do for one object each.
//!
//! A move of small objects takes a handful of steps for each of them, so they share syncs, transactions and wake-ups. A step
//! whose object is being written at this moment does not hold up the others: it is handed back to be taken alone.

use std::sync::Arc;

use zones::{Address, Epoch};

use super::body::blocking;
use super::moving::{StepError, given_away, moves_own};
use super::table::owned;
use super::turn::{RowVisit, Turn};
use super::words::{ReadGate, WriteGate};
use super::{Local, Objects};
use crate::store::{Change, CommitError, Entry, Keeping, NewEntry};

/// What an entry becomes, made from the entry as it is when the step has its turn.
pub type StepChange = Box<dyn FnOnce(&Entry) -> NewEntry + Send>;

/// One step of one move.
pub enum BatchStep {
    /// An owned or moved object changes, in its turn.
    Owned {
        /// The object.
        address: Address,
        /// What it becomes.
        change: StepChange,
    },
    /// A copy that was given away changes or goes, named by its sequence number. One that is gone already is no error.
    Row {
        /// The object.
        address: Address,
        /// The copy.
        seq: u64,
        /// What it becomes; `None` removes it.
        change: Option<NewEntry>,
    },
    /// The copy on its way in comes, changes or goes.
    Arriving {
        /// The object.
        address: Address,
        /// The change.
        change: Change,
    },
    /// The copy on its way in becomes the object, in the place of older copies.
    Arrived {
        /// The object.
        address: Address,
        /// Whether its writes wait.
        writes: WriteGate,
        /// What it becomes.
        change: StepChange,
    },
    /// Who holds copies of an owned object is noted in its row.
    Keeping {
        /// The object.
        address: Address,
        /// The epoch at which it is owned.
        epoch: Epoch,
        /// Who does.
        keeping: Option<Keeping>,
    },
    /// The row that is held for another server changes, beside whatever else is at its address.
    Held {
        /// The object.
        address: Address,
        /// What becomes of it, if it is there, or comes.
        change: HeldChange,
    },
}

/// What becomes of a row that is held for another server; `None` if nothing does.
pub(super) type HeldChange = Box<dyn FnOnce(Option<&Entry>) -> Option<Change> + Send>;

/// A step that is ready for the index.
struct Ready {
    /// Its changes, and which of them gives the entry to return.
    changes: Vec<(Address, Change)>,
    gives: bool,
    /// Held until the commit is over.
    _turn: Option<Turn>,
    _visit: Option<RowVisit>,
    /// Writes are held already, and go on if the commit fails.
    held: Option<Address>,
}

impl Ready {
    /// A change that needs no turn.
    fn plain(address: Address, change: Change, gives: bool) -> Ready {
        Ready {
            changes: vec![(address, change)],
            gives,
            _turn: None,
            _visit: None,
            held: None,
        }
    }
}

/// How a step ended: the entry that it gave, if it gives one.
pub type BatchOutcome = Result<Option<Arc<Entry>>, StepError>;

impl Objects {
    /// Takes steps together. The answers are in the order of the steps; each step stands or falls alone.
    pub async fn batch(self: &Arc<Self>, steps: Vec<BatchStep>) -> Vec<BatchOutcome> {
        let local = Arc::clone(self.local());
        blocking(move || local.batch_now(steps)).await
    }
}

impl Local {
    /// The same; blocks.
    pub fn batch_now(&self, steps: Vec<BatchStep>) -> Vec<BatchOutcome> {
        let mut outcomes: Vec<Option<BatchOutcome>> = Vec::with_capacity(steps.len());
        let mut ready: Vec<(usize, Ready)> = Vec::with_capacity(steps.len());
        for (at, step) in steps.into_iter().enumerate() {
            match self.ready(step) {
                Ok(Some(step)) => {
                    outcomes.push(None);
                    ready.push((at, step));
                }
                Ok(None) => outcomes.push(Some(Ok(None))),
                Err(error) => outcomes.push(Some(Err(error))),
            }
        }
        if ready.is_empty() {
            return settled(outcomes);
        }
        let together: Vec<_> = ready.iter().flat_map(|(_, step)| step.changes.clone()).collect();
        match self.commit_now(together) {
            Ok(entries) => {
                let mut entries = entries.into_iter();
                for (at, step) in &ready {
                    outcomes[*at] = Some(Ok(self.done(step, &mut entries)));
                }
            }
            // One of them names a copy that is gone, contradicts itself, or would begin something while nothing may: the others
            // are not to suffer.
            Err(CommitError::NoSuchEntry { .. } | CommitError::Contradiction { .. } | CommitError::Closed)
                if ready.len() > 1 =>
            {
                for (at, step) in &ready {
                    let outcome = match self.commit_now(step.changes.clone()) {
                        Ok(entries) => Ok(self.done(step, &mut entries.into_iter())),
                        Err(error) => Err(self.undone(step, error)),
                    };
                    outcomes[*at] = Some(outcome);
                }
            }
            Err(error) => {
                let why = error.to_string();
                let mut first = Some(error);
                for (at, step) in &ready {
                    let error = first
                        .take()
                        .map_or_else(|| StepError::Together { why: why.clone() }, StepError::Commit);
                    self.let_go(step);
                    outcomes[*at] = Some(Err(error));
                }
            }
        }
        settled(outcomes)
    }

    /// What a step changes now; `None` if there is nothing left to change.
    fn ready(&self, step: BatchStep) -> Result<Option<Ready>, StepError> {
        match step {
            BatchStep::Owned { address, change } => {
                let slot = self.table.get(&address).ok_or(super::NotOwned)?;
                // A write that waits for other holders lets the move go on: what it waits for may be the end of the move.
                let turn = slot.try_turn_of_move()?;
                let visit = if turn.is_none() { slot.visit() } else { None };
                if turn.is_none() && visit.is_none() {
                    return Err(StepError::Taken { change });
                }
                let entry = slot.with(|state| state.answering().cloned());
                let entry = entry.filter(|entry| moves_own(entry)).ok_or(super::NotOwned)?;
                let change = Change::Replace {
                    seq: entry.seq,
                    entry: change(&entry),
                };
                Ok(Some(Ready {
                    changes: vec![(address, change)],
                    gives: true,
                    _turn: turn,
                    _visit: visit,
                    held: None,
                }))
            }
            BatchStep::Row { address, seq, change } => {
                let there = self
                    .table
                    .get(&address)
                    .is_some_and(|slot| slot.with(|state| state.has(seq)));
                if !there {
                    return Ok(None);
                }
                let gives = change.is_some();
                let change = match change {
                    Some(entry) => Change::Replace { seq, entry },
                    None => Change::Remove { seq },
                };
                Ok(Some(Ready::plain(address, change, gives)))
            }
            BatchStep::Arriving { address, change } => {
                let gives = match &change {
                    Change::Insert(_) | Change::Replace { .. } => true,
                    Change::Remove { .. } => false,
                };
                Ok(Some(Ready::plain(address, change, gives)))
            }
            BatchStep::Keeping {
                address,
                epoch,
                keeping,
            } => {
                let slot = self.table.get(&address).ok_or(super::NotOwned)?;
                let Some(visit) = slot.visit() else {
                    return Err(StepError::Visited);
                };
                let entry = slot.with(|state| state.current().cloned());
                let is_ours = |entry: &Arc<Entry>| entry.epoch == epoch && owned(entry) && moves_own(entry);
                let entry = entry.filter(is_ours).ok_or(super::NotOwned)?;
                let change = Change::Replace {
                    seq: entry.seq,
                    entry: NewEntry {
                        keeping,
                        ..entry.keep()
                    },
                };
                Ok(Some(Ready {
                    changes: vec![(address, change)],
                    gives: true,
                    _turn: None,
                    _visit: Some(visit),
                    held: None,
                }))
            }
            BatchStep::Held { address, change } => {
                let row = self.held_row(&address);
                let Some(change) = change(row.as_deref()) else {
                    return Ok(None);
                };
                let gives = !matches!(change, Change::Remove { .. });
                Ok(Some(Ready::plain(address, change, gives)))
            }
            BatchStep::Arrived {
                address,
                writes,
                change,
            } => {
                let slot = self.table.get(&address).ok_or(super::NotOwned)?;
                let (incoming, older) = slot.with(|state| (state.incoming().cloned(), given_away(state)));
                let incoming = incoming.ok_or(super::NotOwned)?;
                let mut changes = vec![(
                    address.clone(),
                    Change::Replace {
                        seq: incoming.seq,
                        entry: change(&incoming),
                    },
                )];
                // The register names this agent at an epoch above that of every copy it gave away.
                changes.extend(older.into_iter().map(|seq| (address.clone(), Change::Remove { seq })));
                let held = match writes {
                    WriteGate::Held => {
                        slot.with(|state| state.gate().hold());
                        Some(address)
                    }
                    WriteGate::Open => None,
                };
                Ok(Some(Ready {
                    changes,
                    gives: true,
                    _turn: None,
                    _visit: None,
                    held,
                }))
            }
        }
    }

    /// The step is durable: its entry, if it gives one.
    fn done(&self, step: &Ready, entries: &mut impl Iterator<Item = Arc<Entry>>) -> Option<Arc<Entry>> {
        let entry = step
            .gives
            .then(|| entries.next().expect("a replacement gives one entry"));
        if let Some(address) = &step.held {
            self.set_reads(address, ReadGate::Open);
        }
        entry
    }

    fn undone(&self, step: &Ready, error: CommitError) -> StepError {
        self.let_go(step);
        StepError::Commit(error)
    }

    fn let_go(&self, step: &Ready) {
        if let Some(address) = &step.held {
            self.release_writes(address);
        }
    }
}

fn settled(outcomes: Vec<Option<BatchOutcome>>) -> Vec<BatchOutcome> {
    outcomes
        .into_iter()
        .map(|outcome| outcome.expect("every step was decided"))
        .collect()
}
