//! The registry's durable side: a log of entries under rising numbers, behind a narrow trait, kept by redb.
//!
//! redb writes rising keys 26 times faster than random ones, so things are not kept under their own keys: every change
//! appends the whole new value, and the writer drops old entries from the low end while it copies the few that still
//! count to the high end. The log is its own snapshot: there is never a long pause for compaction.
//!
//! Commits are durable when they return: large ones in the database itself, small ones in the file beside it, see [`wal`].
//! Those are kept in memory, too, until the database takes them in together, which costs it a fraction of what each alone would.

mod creation;
mod database;
mod snapshot;
pub(super) mod wal;

use std::path::PathBuf;

pub(crate) use self::creation::Creation;
use self::database::FORMAT;
pub(crate) use self::database::{RedbStorage, Store};
pub use self::snapshot::Snapshot;
use super::bytes::Damaged;
use super::chunk::Chunk;
use super::entry::Entry;

/// Why the registry could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process holds the file; stop it first.
    #[error("registry {path} is in use by another process: only one librarian may run on it")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("open registry {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::DatabaseError>,
    },
    /// The file belongs to a pool of another name.
    #[error("registry {path} belongs to the pool {found}, not to {expected}: correct the domain in the configuration")]
    Domain {
        /// The file.
        path: PathBuf,
        /// The domain in the file.
        found: String,
        /// The domain in the configuration.
        expected: String,
    },
    /// The file is of a later release.
    #[error("registry {path} has format {found}, this release knows {FORMAT}: run the release that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format in the file.
        found: u32,
    },
    /// The file is older than what lies beside it.
    #[error(
        "registry {path} is older than the write-ahead log beside it ({}): put the newer registry back, or move that file away to go on \
         from what this one holds",
        .path.with_extension("wal").display()
    )]
    Older {
        /// The file.
        path: PathBuf,
    },
    /// An entry cannot be read.
    #[error("registry entry {seq} cannot be read ({reason}): restore the registry from a backup")]
    Damaged {
        /// Its number.
        seq: u64,
        /// What is wrong.
        reason: String,
    },
    /// Reading or writing failed; the state on disk is the last acknowledged one, or a later one.
    #[error("read or write the registry")]
    Database(#[source] Box<redb::Error>),
    /// Reading or writing the file of commits beside it failed; as [`StorageError::Database`].
    #[error("read or write the registry's write-ahead log {path}")]
    Wal {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl<E: Into<redb::Error>> From<E> for StorageError {
    fn from(source: E) -> Self {
        StorageError::Database(Box::new(source.into()))
    }
}

/// What one commit writes, all or nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Batch {
    /// New entries under their numbers, rising, all above every number used before.
    pub(crate) entries: Chunk,
    /// Entries below this number are dropped.
    pub(crate) forget_below: Option<u64>,
}

impl Batch {
    /// Takes in what comes after it.
    fn append(&mut self, later: &Batch) {
        self.entries.append(&later.entries);
        self.forget_below = later.forget_below.or(self.forget_below);
    }

    /// The entries from a number on that are not dropped.
    fn from(&self, from: u64) -> impl Iterator<Item = (u64, &[u8])> {
        self.entries.from(from.max(self.forget_below.unwrap_or(0)))
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.forget_below = None;
    }
}

/// Takes the number and the octets of an entry in.
pub(crate) type EachEntry<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Damaged> + 'a;

/// Takes some entries in, those after the ones before.
pub(crate) type EachChunk<'a> = dyn FnMut(&Chunk) -> Result<(), StorageError> + 'a;

/// The durable side of the registry, so that another store can stand behind it later.
pub(crate) trait Storage: Send {
    /// How many entries there are.
    fn entries(&self) -> Result<u64, StorageError>;
    /// Hands over every entry from the number `from` on, in order.
    fn load(&mut self, from: u64, each: &mut EachChunk<'_>) -> Result<(), StorageError>;
    /// Writes a batch; it is durable when this returns.
    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError>;
    /// Hands over the octets of at most `most` entries from the number `from` on.
    fn read_log(&self, from: u64, most: usize, each: &mut EachEntry<'_>) -> Result<(), StorageError>;
}

/// Whether these octets are an entry that this release knows.
pub(crate) fn check_entry(octets: &[u8]) -> Result<(), Damaged> {
    Entry::from_bytes(octets).map(|_| ())
}

pub(crate) fn damaged(seq: u64, reason: Damaged) -> StorageError {
    StorageError::Damaged {
        seq,
        reason: reason.to_string(),
    }
}
