//! The registry as it was durable at one moment.

use std::sync::{Arc, Weak};

use super::database::{LOG, META, Store};
use super::{Batch, StorageError, damaged};
use crate::registry::bytes::Damaged;

/// The registry as it was durable at one moment; the writer goes on beside it.
pub struct Snapshot {
    read: redb::ReadTransaction,
    /// After what is read from the database.
    ahead: Batch,
    incarnation: [u8; 16],
    domain: String,
    /// The file stays open as long as it is read.
    _store: Arc<Store>,
}

impl Snapshot {
    pub(crate) fn take(source: &Weak<Store>) -> Result<Option<Snapshot>, StorageError> {
        let Some(store) = source.upgrade() else {
            return Ok(None);
        };
        let (read, ahead) = {
            let (read, ahead) = store.read()?;
            (read, ahead.clone())
        };
        let meta = read.open_table(META)?;
        let value = |key: &str| Ok::<_, StorageError>(meta.get(key)?.map(|value| value.value().to_vec()));
        let incarnation = value("incarnation")?.and_then(|octets| octets.try_into().ok());
        let domain = value("domain")?.and_then(|octets| String::from_utf8(octets).ok());
        let lacks = || damaged(0, Damaged("the file lacks a part of its head"));
        Ok(Some(Snapshot {
            incarnation: incarnation.ok_or_else(lacks)?,
            domain: domain.ok_or_else(lacks)?,
            read,
            ahead,
            _store: store,
        }))
    }

    /// Of the registry.
    pub(crate) fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// Of the pool.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// Hands over every entry in order, until told that it is enough.
    pub(crate) fn read(&self, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), StorageError> {
        // What says that something is gone may have been dropped since, and what is gone with it: neither may be handed over alone.
        let from = self.ahead.forget_below.unwrap_or(0);
        for item in self.read.open_table(LOG)?.range(from..)? {
            if !each(item?.1.value()) {
                return Ok(());
            }
        }
        self.ahead.from(0).all(|(_, octets)| each(octets));
        Ok(())
    }
}
