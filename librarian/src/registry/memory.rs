//! A log in memory that outlives the process it stands for: simulations restart a librarian on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::Chunk;
use super::entry::{Entry, Reconcile};
use super::storage::{Batch, EachChunk, EachEntry, Storage, StorageError, damaged};

/// What becomes of the next commit when the power goes in the midst of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// All of it is there.
    After,
    /// Nothing of it is there.
    Before,
}

/// The log; clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    entries: BTreeMap<u64, Vec<u8>>,
    cut: Option<Cut>,
}

impl MemoryLog {
    /// Lets the next commit fail, as a cut of the power does.
    pub fn cut(&self, cut: Option<Cut>) {
        self.0.lock().cut = cut;
    }

    /// A copy as it is now, which does not change any more: a backup.
    #[must_use]
    pub fn copy(&self) -> MemoryLog {
        let entries = self.0.lock().entries.clone();
        MemoryLog(Arc::new(Mutex::new(Log { entries, cut: None })))
    }

    /// A copy with the order to reconcile at its end: what `librarian restore` makes of a backup, and `rebuild` of nothing.
    ///
    /// # Errors
    ///
    /// [`StorageError::Damaged`].
    pub fn restored(&self) -> Result<MemoryLog, StorageError> {
        let (mut copy, mut closed, mut next) = (self.copy(), Reconcile::default(), 1);
        copy.load(0, &mut |chunk| {
            chunk.each(|seq, octets| {
                next = seq + 1;
                if let Entry::Reconcile(last) = Entry::from_bytes(octets)? {
                    closed = (*last).clone();
                }
                Ok(())
            })
        })?;
        closed.open = false;
        let closed = Entry::Reconcile(Arc::new(closed)).to_bytes();
        copy.0.lock().entries.insert(next, closed);
        Ok(copy)
    }
}

impl Storage for MemoryLog {
    fn entries(&self) -> Result<u64, StorageError> {
        Ok(self.0.lock().entries.len() as u64)
    }

    fn load(&mut self, from: u64, each: &mut EachChunk<'_>) -> Result<(), StorageError> {
        let mut chunk = Chunk::default();
        for (seq, octets) in self.0.lock().entries.range(from..) {
            if chunk.push(*seq, octets) {
                each(&std::mem::take(&mut chunk))?;
            }
        }
        each(&chunk)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let mut log = self.0.lock();
        let cut = log.cut;
        if cut != Some(Cut::Before) {
            let entries = batch.entries.iter();
            log.entries.extend(entries.map(|(seq, octets)| (seq, octets.to_vec())));
            if let Some(below) = batch.forget_below {
                log.entries = log.entries.split_off(&below);
            }
        }
        match cut {
            Some(_) => Err(StorageError::from(redb::StorageError::Io(std::io::Error::other(
                "the power is gone",
            )))),
            None => Ok(()),
        }
    }

    fn read_log(&self, from: u64, most: usize, each: &mut EachEntry<'_>) -> Result<(), StorageError> {
        let log = self.0.lock();
        let mut range = log.entries.range(from..).take(most);
        range.try_for_each(|(seq, octets)| each(*seq, octets).map_err(|reason| damaged(*seq, reason)))
    }
}
