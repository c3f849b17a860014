//! How a registry is made from a backup.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, DatabaseError};
use zones::Domain;

use super::{Batch, RedbStorage, Storage, StorageError};
use crate::registry::entry::{Entry, Reconcile};

/// A registry in the making, of a new incarnation and to be reconciled.
pub(crate) struct Creation {
    storage: RedbStorage,
    batch: Batch,
    next_seq: u64,
    written_off: Reconcile,
}

impl Creation {
    /// Entries in one commit.
    const STEP: usize = 16_384;

    /// Whether a process holds the file.
    pub(crate) fn is_in_use(path: &Path) -> bool {
        path.exists() && matches!(Database::builder().open(path), Err(DatabaseError::DatabaseAlreadyOpen))
    }

    /// The incarnation of the registry in a file, if registers may change in it.
    pub(crate) fn opened(path: &Path, domain: &Domain) -> Result<Option<[u8; 16]>, StorageError> {
        let mut storage = RedbStorage::open(path, &domain.to_string())?;
        let mut open = true;
        storage.load(0, &mut |chunk| {
            chunk.each(|_, octets| {
                if let Entry::Reconcile(reconcile) = Entry::from_bytes(octets)? {
                    open = reconcile.open;
                }
                Ok(())
            })
        })?;
        Ok(open.then_some(storage.incarnation))
    }

    pub(crate) fn begin(path: &Path, domain: &str) -> Result<Creation, StorageError> {
        Ok(Creation {
            storage: RedbStorage::make(path, domain)?,
            batch: Batch::default(),
            next_seq: 1,
            written_off: Reconcile::default(),
        })
    }

    pub(crate) fn incarnation(&self) -> [u8; 16] {
        self.storage.incarnation
    }

    /// Adds an entry of a backup.
    pub(crate) fn add(&mut self, octets: &[u8]) -> Result<(), StorageError> {
        if let Ok(Entry::Reconcile(reconcile)) = Entry::from_bytes(octets) {
            self.written_off = (*reconcile).clone();
            return Ok(());
        }
        self.push(octets)
    }

    fn push(&mut self, octets: &[u8]) -> Result<(), StorageError> {
        self.batch.entries.push(self.next_seq, octets);
        self.next_seq += 1;
        if self.batch.entries.len() >= Creation::STEP {
            self.storage.commit(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Ends with the order to reconcile; all of it is durable on return.
    pub(crate) fn finish(mut self) -> Result<(), StorageError> {
        let closed = Reconcile {
            open: false,
            ..self.written_off.clone()
        };
        self.push(&Entry::Reconcile(Arc::new(closed)).to_bytes())?;
        self.storage.commit(&self.batch)
    }
}
