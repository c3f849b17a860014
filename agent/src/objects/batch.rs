//! Many steps of many moves in one commit: what [`Objects::step`] and [`Objects::became_owner`] do for one object each.
//!
//! A move of small objects takes a handful of steps for each of them, so they share syncs, transactions and wake-ups. A step
//! whose object is being written at this moment does not hold up the others: it is handed back to be taken alone.

use std::sync::Arc;

use zones::Address;

use super::body::blocking;
use super::moving::{StepError, gone, moves_own};
use super::turn::Turn;
use super::words::{ReadGate, WriteGate};
use super::{Local, Objects};
use crate::store::{Change, CommitError, Entry, NewEntry};

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
}

/// A step that is ready for the index.
struct Ready {
    /// Its changes, and which of them gives the entry to return.
    changes: Vec<(Address, Change)>,
    gives: bool,
    /// Held until the commit is over.
    _turn: Option<Turn>,
    /// Writes are held already, and go on if the commit fails.
    held: Option<Address>,
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
                let Some(turn) = slot.try_turn_of_move()? else {
                    return Err(StepError::Taken { change });
                };
                let entry = turn.current().filter(|entry| moves_own(entry)).ok_or(super::NotOwned)?;
                let change = Change::Replace {
                    seq: entry.seq,
                    entry: change(&entry),
                };
                Ok(Some(Ready {
                    changes: vec![(address, change)],
                    gives: true,
                    _turn: Some(turn),
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
                Ok(Some(Ready {
                    changes: vec![(address, change)],
                    gives,
                    _turn: None,
                    held: None,
                }))
            }
            BatchStep::Arriving { address, change } => {
                let gives = match &change {
                    Change::Insert(_) | Change::Replace { .. } => true,
                    Change::Remove { .. } => false,
                };
                Ok(Some(Ready {
                    changes: vec![(address, change)],
                    gives,
                    _turn: None,
                    held: None,
                }))
            }
            BatchStep::Arrived {
                address,
                writes,
                change,
            } => {
                let slot = self.table.get(&address).ok_or(super::NotOwned)?;
                let (incoming, older) = slot.with(|state| {
                    let mut older: Vec<u64> = state.retired().iter().map(|entry| entry.seq).collect();
                    older.extend(state.current().filter(|entry| gone(entry)).map(|entry| entry.seq));
                    (state.incoming().cloned(), older)
                });
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
