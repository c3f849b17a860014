//! The log in a database of redb, and the commits beside it.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format` | u32, big-endian: 1; 2 while there may be commits beside it |
//! | `meta` | `domain` | the pool's domain as text |
//! | `meta` | `incarnation` | 16 random octets |
//! | `log` | u64, rising | an entry, see [`crate::registry::entry`] |
//!
//! Quick repair stays off: it costs every commit 12 to 53 % and saves 0.2 s of repair per million entries after a crash, where
//! loading takes longer than that anyway.

use std::path::Path;
use std::sync::{Arc, Weak, mpsc};

use parking_lot::{Mutex, MutexGuard};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};

use super::wal::{self, Commits, Wal};
use super::{Batch, EachChunk, EachEntry, Storage, StorageError, damaged};
use crate::registry::bytes::Damaged;
use crate::registry::chunk::Chunk;

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Pages that redb keeps in memory.
const CACHE_OCTETS: usize = 32 << 20;
/// While the log is loaded: chunks that are read before they are taken in.
const CHUNKS_AHEAD: usize = 16;
/// Layout of the file when nothing lies beside it.
pub(super) const FORMAT: u32 = 1;
/// The same while a librarian has it open, or was killed: without the write-ahead log it may lack the last commits, so that a
/// release that knows none must not open it.
const FORMAT_WITH_WAL: u32 = 2;

/// A database, and the commits after its last one, which are durable beside it.
pub(crate) struct Store {
    database: Database,
    ahead: Mutex<Batch>,
}

impl Store {
    /// Makes the database hold everything by itself, and more that `with` writes.
    fn take_in(&self, with: impl FnOnce(&WriteTransaction) -> Result<(), StorageError>) -> Result<(), StorageError> {
        // Whoever takes a snapshot waits, and sees each commit once.
        let mut ahead = self.ahead.lock();
        let write = self.database.begin_write()?;
        put(&ahead, &write)?;
        with(&write)?;
        write.commit()?;
        ahead.clear();
        Ok(())
    }

    /// The last number that the database has, 0 if it has none.
    fn last(&self) -> Result<u64, StorageError> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        Ok(log.last()?.map_or(0, |(number, _)| number.value()))
    }

    /// What the database holds at one moment, and what is beside it at the same.
    pub(super) fn read(&self) -> Result<(redb::ReadTransaction, MutexGuard<'_, Batch>), StorageError> {
        let ahead = self.ahead.lock();
        Ok((self.database.begin_read()?, ahead))
    }
}

/// Puts all of a commit into the database.
fn put(batch: &Batch, write: &WriteTransaction) -> Result<(), StorageError> {
    let mut log = write.open_table(LOG)?;
    for (number, entry) in batch.entries.iter() {
        log.insert(number, entry)?;
    }
    if let Some(below) = batch.forget_below {
        log.retain_in(..below, |_, _| false)?;
    }
    Ok(())
}

/// The layout that a database says it has; 0 if what it says is no number.
fn format_of(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Option<u32>, StorageError> {
    let format = meta.get("format")?;
    Ok(format.map(|format| format.value().try_into().map_or(0, u32::from_be_bytes)))
}

/// The log in a redb file.
pub(crate) struct RedbStorage {
    store: Arc<Store>,
    /// Random, made with the file.
    pub(crate) incarnation: [u8; 16],
    /// Where small commits go. None while a registry is being made: nobody waits for small ones then.
    wal: Option<Wal>,
    /// Whether the database says that there may be commits beside it.
    is_marked: bool,
}

impl RedbStorage {
    /// Opens the file, or makes it, and takes in what a librarian that was killed had written beside it.
    pub(crate) fn open(path: &Path, domain: &str) -> Result<RedbStorage, StorageError> {
        let mut storage = RedbStorage::make(path, domain)?;
        let wal = path.with_extension("wal");
        let failed = |source| StorageError::Wal {
            path: wal.clone(),
            source,
        };
        let commits = wal::read(&wal, storage.incarnation).map_err(failed)?;
        storage.recover(path, commits.as_ref())?;
        match Wal::begin(&wal, storage.incarnation, storage.store.last()?) {
            Ok(wal) => storage.wal = Some(wal),
            // A full disk, say: names are answered all the same, and commits are the database's own.
            Err(error) => tracing::warn!(
                path = %wal.display(), %error,
                "write-ahead log cannot be made: changes are slower until the librarian is started anew"
            ),
        }
        Ok(storage)
    }

    /// Puts commits into the database that it does not have yet, and marks it as one with commits beside it.
    fn recover(&mut self, path: &Path, commits: Option<&Commits>) -> Result<(), StorageError> {
        let write = self.store.database.begin_write()?;
        if commits.is_none() && format_of(&write.open_table(META)?)? == Some(FORMAT_WITH_WAL) {
            tracing::warn!(
                registry = %path.display(),
                "the librarian was killed, and the write-ahead log beside the registry is gone: its last changes are lost"
            );
        }
        if let Some(commits) = commits {
            let mut log = write.open_table(LOG)?;
            let last = log.last()?.map_or(0, |(number, _)| number.value());
            if last < commits.after {
                return Err(StorageError::Older { path: path.to_owned() });
            }
            let mut entries = 0;
            for commit in &commits.batches {
                for (number, entry) in commit.entries.iter().filter(|(number, _)| *number > last) {
                    log.insert(number, entry)?;
                    entries += 1;
                }
                if let Some(below) = commit.forget_below {
                    log.retain_in(..below, |_, _| false)?;
                }
            }
            if entries > 0 {
                tracing::info!(
                    entries,
                    "registry takes in what was written before the librarian was killed"
                );
            }
        }
        write
            .open_table(META)?
            .insert("format", FORMAT_WITH_WAL.to_be_bytes().as_slice())?;
        write.commit()?;
        self.is_marked = true;
        Ok(())
    }

    /// Makes the database hold everything by itself, and takes away what lay beside it.
    fn settle(&self) -> Result<(), StorageError> {
        self.store.take_in(|write| {
            let mut meta = write.open_table(META)?;
            meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
            Ok(())
        })?;
        let Some(wal) = &self.wal else { return Ok(()) };
        std::fs::remove_file(wal.path()).map_err(|source| StorageError::Wal {
            path: wal.path().to_owned(),
            source,
        })
    }

    /// Opens the database alone, or makes it.
    pub(super) fn make(path: &Path, domain: &str) -> Result<RedbStorage, StorageError> {
        // Answers come from memory and the log is written in order: redb's default of 1 GiB would only be memory lost.
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_OCTETS);
        let database = builder.create(path).map_err(|source| match source {
            DatabaseError::DatabaseAlreadyOpen => StorageError::InUse { path: path.to_owned() },
            source => StorageError::Open {
                path: path.to_owned(),
                source: Box::new(source),
            },
        })?;
        let write = database.begin_write()?;
        let incarnation = {
            let mut meta = write.open_table(META)?;
            write.open_table(LOG)?;
            let found = |key: &str| Ok::<_, StorageError>(meta.get(key)?.map(|value| value.value().to_vec()));
            match (format_of(&meta)?, found("domain")?, found("incarnation")?) {
                (None, None, None) => {
                    let mut incarnation = [0; 16];
                    getrandom::fill(&mut incarnation).expect("the system gives random octets");
                    meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
                    meta.insert("domain", domain.as_bytes())?;
                    meta.insert("incarnation", incarnation.as_slice())?;
                    incarnation
                }
                (Some(format), Some(found), Some(incarnation)) => {
                    if format != FORMAT && format != FORMAT_WITH_WAL {
                        return Err(StorageError::Format {
                            path: path.to_owned(),
                            found: format,
                        });
                    }
                    if found != domain.as_bytes() {
                        return Err(StorageError::Domain {
                            path: path.to_owned(),
                            found: String::from_utf8_lossy(&found).into_owned(),
                            expected: domain.to_owned(),
                        });
                    }
                    incarnation
                        .try_into()
                        .map_err(|_| damaged(0, Damaged("the incarnation")))?
                }
                _ => return Err(damaged(0, Damaged("the file lacks a part of its head"))),
            }
        };
        write.commit()?;
        Ok(RedbStorage {
            store: Arc::new(Store {
                database,
                ahead: Mutex::default(),
            }),
            incarnation,
            wal: None,
            is_marked: false,
        })
    }

    /// Where snapshots come from as long as this storage is open.
    pub(crate) fn source(&self) -> Weak<Store> {
        Arc::downgrade(&self.store)
    }
}

impl Storage for RedbStorage {
    fn entries(&self) -> Result<u64, StorageError> {
        let (read, ahead) = self.store.read()?;
        let log = read.open_table(LOG)?;
        let dropped = log.range(..ahead.forget_below.unwrap_or(0))?.count();
        Ok(log.len()? - dropped as u64 + ahead.from(0).count() as u64)
    }

    fn load(&mut self, from: u64, each: &mut EachChunk<'_>) -> Result<(), StorageError> {
        let (log, ahead) = {
            let (read, ahead) = self.store.read()?;
            (read.open_table(LOG)?, ahead.clone())
        };
        let from = from.max(ahead.forget_below.unwrap_or(0));
        let (chunks, waiting) = mpsc::sync_channel::<Chunk>(CHUNKS_AHEAD);
        // Pages are read and checked on one processor while entries are taken in on another.
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || -> Result<(), StorageError> {
                let mut chunk = Chunk::with_room();
                for item in log.range(from..)? {
                    let (seq, octets) = item?;
                    let is_full = chunk.push(seq.value(), octets.value());
                    // Nobody takes any more: an entry was not read.
                    if is_full && chunks.send(std::mem::replace(&mut chunk, Chunk::with_room())).is_err() {
                        return Ok(());
                    }
                }
                // As above.
                let _ = chunks.send(chunk);
                Ok(())
            });
            // Ends with the thread, or at the first error; then the thread ends, since nobody takes any more.
            let taken = waiting.into_iter().try_for_each(|chunk| each(&chunk));
            let read = reading.join().expect("reading the log does not panic");
            taken.and(read)
        })?;
        let mut chunk = Chunk::default();
        for (seq, octets) in ahead.from(from) {
            chunk.push(seq, octets);
        }
        each(&chunk)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StorageError> {
        if let Some(wal) = &mut self.wal {
            let is_durable = wal.append(batch).map_err(|source| StorageError::Wal {
                path: wal.path().to_owned(),
                source,
            })?;
            if is_durable {
                self.store.ahead.lock().append(batch);
                return Ok(());
            }
        }
        self.store.take_in(|write| put(batch, write))?;
        if let Some(wal) = &mut self.wal {
            wal.reset(self.store.last()?);
        }
        Ok(())
    }

    fn read_log(&self, from: u64, most: usize, each: &mut EachEntry<'_>) -> Result<(), StorageError> {
        let (read, ahead) = self.store.read()?;
        let mut left = most;
        for item in read.open_table(LOG)?.range(from..)?.take(most) {
            let (seq, bytes) = item?;
            let seq = seq.value();
            each(seq, bytes.value()).map_err(|reason| damaged(seq, reason))?;
            left -= 1;
        }
        for (seq, bytes) in ahead.from(from).take(left) {
            each(seq, bytes).map_err(|reason| damaged(seq, reason))?;
        }
        Ok(())
    }
}

impl Drop for RedbStorage {
    fn drop(&mut self) {
        if self.is_marked
            && let Err(error) = self.settle()
        {
            // Both files stay, and the next librarian reads both.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "registry is left as after a crash"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Snapshot;
    use super::*;

    type Entries = BTreeMap<u64, Vec<u8>>;

    /// What a reading of so many entries from a number on comes to.
    fn read(storage: &RedbStorage, from: u64, most: usize) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let read = storage.read_log(from, most, &mut |number, octets| {
            found.push((number, octets.to_vec()));
            Ok(())
        });
        read.unwrap();
        found
    }

    fn loaded(storage: &mut RedbStorage) -> Entries {
        let mut found = Entries::new();
        let load = storage.load(0, &mut |chunk| {
            found.extend(chunk.iter().map(|(number, octets)| (number, octets.to_vec())));
            Ok(())
        });
        load.unwrap();
        found
    }

    /// Whoever puts back only one of two files that belong together is told so, and loses nothing.
    #[test]
    fn older_copy_is_not_given_what_follows_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let [path, copy] = ["registry", "copy"].map(|name| dir.path().join(name).with_extension("redb"));
        let commit = |number: u64, size: usize| {
            let mut batch = Batch::default();
            batch.entries.push(number, &vec![number as u8; size]);
            batch
        };
        let open = |path: &Path| RedbStorage::open(path, "hypernet.internal.");
        let mut storage = open(&path).unwrap();
        storage.commit(&commit(1, 10)).unwrap();
        drop(storage);
        std::fs::copy(&path, &copy).unwrap();
        let mut storage = open(&path).unwrap();
        // The first is in the database, and what the second says is true after it only.
        storage.commit(&commit(2, 100_000)).unwrap();
        let mut dropping = commit(3, 10);
        dropping.forget_below = Some(2);
        storage.commit(&dropping).unwrap();
        let wal = copy.with_extension("wal");
        std::fs::copy(path.with_extension("wal"), &wal).unwrap();
        let error = open(&copy).err().unwrap();
        assert!(matches!(error, StorageError::Older { .. }), "{error}");
        assert!(error.to_string().contains("copy.wal"), "{error}");
        std::fs::rename(&wal, dir.path().join("away")).unwrap();
        assert_eq!(loaded(&mut open(&copy).unwrap()), [(1, vec![1; 10])].into());
        assert_eq!(loaded(&mut storage).into_keys().collect::<Vec<_>>(), [2, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whether commits lie in the database or beside it: at every moment, after a crash and after an orderly end.
        #[test]
        fn log_is_what_was_committed_wherever_it_lies(
            commits in proptest::collection::vec(
                // Some go past what fits beside the database, alone or together.
                (proptest::collection::vec(prop_oneof![9 => 0..300_usize, 1 => 20_000..70_000_usize], 1..9), 0..4_u64),
                1..60,
            ),
            from in 0..300_u64,
            most in 1..100_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("registry.redb");
            let mut storage = RedbStorage::open(&path, "hypernet.internal.").unwrap();
            let (mut log, mut next) = (Entries::new(), 1);
            for (sizes, dropped) in commits {
                let mut batch = Batch::default();
                for size in sizes {
                    batch.entries.push(next, &vec![next as u8; size]);
                    next += 1;
                }
                log.extend(batch.entries.iter().map(|(number, octets)| (number, octets.to_vec())));
                if let Some(below) = log.keys().nth(dropped as usize).copied().filter(|_| dropped > 0) {
                    batch.forget_below = Some(below);
                    log = log.split_off(&below);
                }
                storage.commit(&batch).unwrap();
            }
            prop_assert_eq!(storage.entries().unwrap(), log.len() as u64);
            prop_assert_eq!(&loaded(&mut storage), &log);
            // Nobody reads what was dropped.
            let from = from.max(log.keys().next().copied().unwrap_or(0));
            let part: Vec<_> = log.range(from..).take(most).map(|(number, octets)| (*number, octets.clone())).collect();
            prop_assert_eq!(read(&storage, from, most), part);
            let mut all = Vec::new();
            let snapshot = Snapshot::take(&storage.source()).unwrap().unwrap();
            snapshot.read(|octets| {
                all.push(octets.to_vec());
                true
            }).unwrap();
            prop_assert_eq!(all, log.values().cloned().collect::<Vec<_>>());
            drop(snapshot);
            let crashed = dir.path().join("crashed.redb");
            for file in ["redb", "wal"] {
                std::fs::copy(path.with_extension(file), crashed.with_extension(file)).unwrap();
            }
            prop_assert_eq!(&loaded(&mut RedbStorage::open(&crashed, "hypernet.internal.").unwrap()), &log);
            drop(storage);
            prop_assert!(!path.with_extension("wal").exists());
            prop_assert_eq!(&loaded(&mut RedbStorage::open(&path, "hypernet.internal.").unwrap()), &log);
        }
    }
}
