//! What moves ask of objects: their entries, their turns, their gates.
//!
//! A move changes entries in the object's turn, past the line of writes, and holds turns back from its seal on. Everything
//! here is about one address; the order of the steps is that of the machines in [`crate::migration`].

use std::sync::Arc;

use zones::{Address, Epoch, ServerName};

use super::Objects;
use super::batch::StepChange;
use super::local::{Local, Open};
use super::table::{Slot, State};
use super::words::{Busy, ReadGate, WriteGate};
use crate::clock::BootInstant;
use crate::migration::guard::{Guard, stands};
use crate::store::{Change, CommitError, Entry, Journal, NewEntry};

/// A move of one object is open; dropping this ends it.
#[derive(Debug)]
pub struct MoveGuard {
    local: Arc<Local>,
    address: Address,
    slot: Option<Arc<Slot>>,
}

/// This agent does not own the object any more, or it is being deleted: the register says what became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this server does not own the object, or it is being deleted")]
pub struct NotOwned;

/// Why a step of a move is not in the index.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The object is not the move's any more.
    #[error(transparent)]
    NotOwned(#[from] NotOwned),
    /// The disk failed; nothing has changed.
    #[error("commit a step of a move")]
    Commit(#[from] CommitError),
    /// The disk failed for a whole batch; nothing has changed.
    #[error("commit a batch of steps: {why}")]
    Together {
        /// Why.
        why: String,
    },
    /// The row of the object is being changed at this moment: take the step again a little later.
    #[error("the row of the object is being changed")]
    Visited,
    /// The object is being written at this moment: take the step alone, with [`Objects::step`].
    #[error("the object is being written")]
    Taken {
        /// The change that was not made.
        change: StepChange,
    },
}

impl std::fmt::Debug for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl MoveGuard {
    /// Resolves when the object was written, or its gates changed, or the move is no longer wanted: look again.
    pub async fn changed(&self) {
        self.slot().with(|state| state.gate().changed()).await;
    }

    /// Resolves when a deletion has taken the object over.
    pub async fn cancelled(&self) {
        loop {
            let changed = self.slot().with(|state| {
                let gate = state.gate();
                (!gate.is_cancelled()).then(|| gate.changed())
            });
            match changed {
                Some(changed) => changed.await,
                None => return,
            }
        }
    }

    fn slot(&self) -> &Arc<Slot> {
        self.slot.as_ref().expect("taken only by drop")
    }
}

impl Drop for MoveGuard {
    fn drop(&mut self) {
        self.slot().with(|state| state.gate().end_move());
        self.slot = None;
        self.local.table.forget(&self.address);
    }
}

impl Local {
    /// Objects that may be moved now, in the order of addresses, with their octets: owned, stable, behind `after`.
    #[must_use]
    pub fn candidates(&self, after: Option<&Address>, limit: usize) -> Vec<(Address, u64)> {
        self.table
            .scan(None, after, limit, |address, entry| match &entry.journal {
                Journal::Active { wait: None } => Some((address.clone(), entry.plain_octets())),
                Journal::Active { wait: Some(_) }
                | Journal::CreateSent { .. }
                | Journal::Moving { .. }
                | Journal::Sealed { .. }
                | Journal::Moved { .. }
                | Journal::Forward { .. }
                | Journal::DeleteSent { .. }
                | Journal::Tombstone { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. }
                | Journal::Held { .. } => None,
            })
    }

    /// The copy of an object that requests see.
    #[must_use]
    pub fn entry(&self, address: &Address) -> Option<Arc<Entry>> {
        self.current(address)
    }

    /// The copy of an object on its way in.
    #[must_use]
    pub fn incoming(&self, address: &Address) -> Option<Arc<Entry>> {
        let slot = self.table.get(address)?;
        slot.with(|state| state.incoming().cloned())
    }

    /// The copy that this server had, has or is about to have at an epoch; `None` once nothing is left of it but the way to it.
    #[must_use]
    pub fn copy_of(&self, address: &Address, epoch: Epoch) -> Option<Arc<Entry>> {
        let slot = self.table.get(address)?;
        slot.with(|state| {
            let is = |entry: &&Arc<Entry>| entry.epoch == epoch && (entry.journal.is_arriving() || has_streams(entry));
            state.rows().find(is).cloned()
        })
    }

    /// Addresses whose copy here counts or may count, in their order, behind `after`; of one that arrives as soon as its commit was
    /// sent.
    #[must_use]
    pub fn owned_addresses(&self, after: Option<&Address>, limit: usize) -> Vec<Address> {
        self.table
            .scan_rows(None, after, limit, State::owned_row, |address, _| Some(address.clone()))
    }

    /// The copy of one of these.
    #[must_use]
    pub fn owned_row(&self, address: &Address) -> Option<Arc<Entry>> {
        let slot = self.table.get(address)?;
        slot.with(|state| state.owned_row())
    }

    /// Every entry, for a restart and for checks.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.table.entries()
    }

    /// Who handed the object to this agent: requests for it that this server forwards are taken.
    #[must_use]
    pub fn source_of(&self, address: &Address) -> Option<ServerName> {
        self.current(address)?.from.clone()
    }

    /// Whether a server handed the object to this agent, or is doing so: only then does it forward requests for it. The
    /// source may learn of the commit before this agent does, so a copy on its way in counts.
    #[must_use]
    pub fn came_from(&self, address: &Address, server: &ServerName) -> bool {
        let Some(slot) = self.table.get(address) else {
            return false;
        };
        slot.with(|state| {
            // Also one below a copy that is held since: the forward entry there leads here still.
            let mut here = state.current().into_iter().chain(state.retired());
            let handed = here.any(|entry| entry.from.as_ref() == Some(server));
            let arriving = state.incoming().and_then(|entry| match &entry.journal {
                Journal::Reserved { from, .. }
                | Journal::Staged { from, .. }
                | Journal::Prepared { from, .. }
                | Journal::CommitSent { from, .. } => Some(from),
                Journal::CreateSent { .. }
                | Journal::Active { .. }
                | Journal::Moving { .. }
                | Journal::Sealed { .. }
                | Journal::Moved { .. }
                | Journal::Forward { .. }
                | Journal::DeleteSent { .. }
                | Journal::Tombstone { .. }
                | Journal::Held { .. } => None,
            });
            handed || arriving == Some(server)
        })
    }

    /// Begins a move.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub fn begin_move(self: &Arc<Self>, address: &Address) -> Result<MoveGuard, Busy> {
        let slot = self.table.get(address).ok_or(Busy::NotOwned)?;
        slot.with(|state| {
            let Some(entry) = state.current() else {
                return Err(Busy::NotOwned);
            };
            match &entry.journal {
                Journal::Active { wait: None } | Journal::Moving { .. } | Journal::Sealed { .. } => {}
                Journal::Active { wait: Some(_) } if !stands(Guard::OnwardMove) => {}
                // A moved copy has still to be retired.
                Journal::Moved { .. } => {}
                Journal::Active { wait: Some(_) } | Journal::CreateSent { .. } | Journal::DeleteSent { .. } => {
                    return Err(Busy::Opening);
                }
                Journal::Forward { .. }
                | Journal::Tombstone { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. }
                | Journal::Held { .. } => return Err(Busy::NotOwned),
            }
            match state.gate().begin_move() {
                true => Ok(()),
                false => Err(Busy::Moving),
            }
        })?;
        Ok(MoveGuard {
            local: Arc::clone(self),
            address: address.clone(),
            slot: Some(slot),
        })
    }

    /// Queues new writes from now on.
    ///
    /// # Errors
    ///
    /// [`NotOwned`].
    pub fn hold(&self, address: &Address) -> Result<(), NotOwned> {
        let slot = self.table.get(address).ok_or(NotOwned)?;
        slot.with(|state| state.gate().hold());
        Ok(())
    }

    /// What a hold found once the open write has ended; `None` until then. The entry is then the last one before the seal.
    #[must_use]
    pub fn held(&self, address: &Address) -> Option<Result<Arc<Entry>, NotOwned>> {
        let Some(slot) = self.table.get(address) else {
            return Some(Err(NotOwned));
        };
        let taken = slot.with(|state| state.gate().is_taken());
        (!taken).then(|| sealed(&slot))
    }

    /// Queues new writes and waits until the open one has ended.
    ///
    /// # Errors
    ///
    /// [`NotOwned`]; writes go on then.
    pub async fn seal(&self, address: &Address) -> Result<Arc<Entry>, NotOwned> {
        let slot = self.table.get(address).ok_or(NotOwned)?;
        slot.hold().await;
        sealed(&slot)
    }

    /// Since when the first write has waited for this object, if one does.
    #[must_use]
    pub fn writes_wait_since(&self, address: &Address) -> Option<BootInstant> {
        let slot = self.table.get(address)?;
        slot.with(|state| state.gate().waits_since())
    }

    /// Lets queued and new writes go on: here, or passed on, as the entry says by now. Reads pass freely again.
    pub fn unseal(&self, address: &Address) {
        if let Some(slot) = self.table.get(address) {
            slot.with(|state| state.gate().set_reads(ReadGate::Open));
            slot.release();
        }
    }

    /// Sets who may read.
    pub fn set_reads(&self, address: &Address, reads: ReadGate) {
        if let Some(slot) = self.table.get(address) {
            slot.with(|state| state.gate().set_reads(reads));
        }
    }

    /// Lets the writes of a new owner go on.
    pub fn release_writes(&self, address: &Address) {
        if let Some(slot) = self.table.get(address) {
            slot.release();
        }
    }
}

impl Objects {
    /// Begins a move.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub fn begin_move(&self, address: &Address) -> Result<MoveGuard, Busy> {
        self.local.begin_move(address)
    }

    /// Changes the entry of an owned or moved object in its turn, past the line of writes. The change is made from the
    /// entry as it is then.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing has changed then.
    pub async fn step(
        self: &Arc<Self>,
        address: &Address,
        change: impl FnOnce(&Entry) -> NewEntry + Send,
    ) -> Result<Arc<Entry>, StepError> {
        let slot = self.table.get(address).ok_or(NotOwned)?;
        let turn = slot.turn_of_move().await?;
        let entry = turn.current().filter(|entry| moves_own(entry)).ok_or(NotOwned)?;
        let new = change(&entry);
        // The turn goes with the commit, so that it is not passed on in the middle when the caller is gone.
        let objects = Arc::clone(self);
        let task = tokio::spawn(async move {
            let entry = objects.replace(&entry, new).await;
            drop(turn);
            entry
        });
        match task.await {
            Ok(entry) => Ok(entry?),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    /// Makes the copy on its way in the object, in the place of whatever older copies are here. With `WriteGate::Held`
    /// writes queue until [`Local::release_writes`].
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing has changed then.
    pub async fn became_owner(
        self: &Arc<Self>,
        address: &Address,
        writes: WriteGate,
        change: impl FnOnce(&Entry) -> NewEntry + Send,
    ) -> Result<Arc<Entry>, StepError> {
        let slot = self.table.get(address).ok_or(NotOwned)?;
        let (incoming, older) = slot.with(|state| (state.incoming().cloned(), given_away(state)));
        let incoming = incoming.ok_or(NotOwned)?;
        let entry = NewEntry {
            from: source(&incoming),
            ..change(&incoming)
        };
        let seq = incoming.seq;
        let mut changes = vec![(address.clone(), Change::Replace { seq, entry })];
        // The register names this agent at an epoch above that of every copy it gave away.
        changes.extend(older.into_iter().map(|seq| (address.clone(), Change::Remove { seq })));
        match writes {
            WriteGate::Held => slot.with(|state| state.gate().hold()),
            WriteGate::Open => {}
        }
        let entry = match self.commit(changes).await {
            Ok(mut entries) => entries.pop().expect("a replacement gives one entry"),
            Err(error) => {
                slot.release();
                return Err(error.into());
            }
        };
        slot.with(|state| state.gate().set_reads(ReadGate::Open));
        Ok(entry)
    }

    /// Closes what a restart found open, and ends open creations and deletions in the background. Returns the entries
    /// of open moves, whose machines are then to be started: until they say so, their writes are held, and reads of
    /// sealed copies, too.
    #[must_use]
    pub fn recover(self: &Arc<Self>) -> Vec<Arc<Entry>> {
        let mut moves = Vec::new();
        for open in self.take_up() {
            let objects = Arc::clone(self);
            match open {
                Open::Move(entry) => moves.push(entry),
                Open::Create(entry, tx, turn) => {
                    tokio::spawn(async move {
                        let address = entry.address.clone();
                        Arc::clone(&objects).recover_create(entry, tx).await;
                        drop(turn);
                        objects.table.forget(&address);
                    });
                }
                Open::Delete(entry, tx, turn) => {
                    tokio::spawn(async move {
                        objects.recover_delete(entry, tx).await;
                        drop(turn);
                    });
                }
            }
        }
        moves
    }
}

/// The copy behind a closed gate; one that is no move's opens the gate again.
fn sealed(slot: &Arc<Slot>) -> Result<Arc<Entry>, NotOwned> {
    let entry = slot.with(|state| state.current().cloned());
    match entry.filter(|entry| moves_own(entry)) {
        Some(entry) => Ok(entry),
        None => {
            slot.release();
            Err(NotOwned)
        }
    }
}

/// Whether a move may change this entry: a deletion that has begun, or has ended, is not a move's any more.
pub(super) fn moves_own(entry: &Entry) -> bool {
    match &entry.journal {
        Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } | Journal::Moved { .. } => true,
        Journal::CreateSent { .. }
        | Journal::Forward { .. }
        | Journal::DeleteSent { .. }
        | Journal::Tombstone { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. }
        | Journal::Held { .. } => false,
    }
}

fn has_streams(entry: &Entry) -> bool {
    entry.streams().next().is_some()
}

/// Copies of an address whose place an arrival of the object takes. Not one that is held: whoever holds it removes it, by its
/// number.
pub(super) fn given_away(state: &State) -> Vec<u64> {
    let retired = state.retired().iter().filter(|entry| !entry.journal.is_held());
    let current = state.current().filter(|entry| gone(entry));
    retired.chain(current).map(|entry| entry.seq).collect()
}

/// Whether a copy was given away, so that a later arrival of the object takes its place.
fn gone(entry: &Entry) -> bool {
    match &entry.journal {
        Journal::Moved { .. } | Journal::Forward { .. } => true,
        Journal::Active { .. }
        | Journal::Moving { .. }
        | Journal::Sealed { .. }
        | Journal::CreateSent { .. }
        | Journal::DeleteSent { .. }
        | Journal::Tombstone { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. }
        | Journal::Held { .. } => false,
    }
}

/// Who sends a copy that is on its way in.
fn source(entry: &Entry) -> Option<ServerName> {
    match &entry.journal {
        Journal::Reserved { from, .. }
        | Journal::Staged { from, .. }
        | Journal::Prepared { from, .. }
        | Journal::CommitSent { from, .. } => Some(from.clone()),
        Journal::Active { .. }
        | Journal::Moving { .. }
        | Journal::Sealed { .. }
        | Journal::Moved { .. }
        | Journal::Forward { .. }
        | Journal::CreateSent { .. }
        | Journal::DeleteSent { .. }
        | Journal::Tombstone { .. }
        | Journal::Held { .. } => None,
    }
}
