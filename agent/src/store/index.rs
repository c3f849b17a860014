//! The index: a redb database of entries, keyed by sequence number.
//!
//! | table     | key    | value                                                            |
//! |-----------|--------|------------------------------------------------------------------|
//! | `entries` | seq    | row (STORE.md section 3)                                         |
//! | `meta`    | name   | `format`, `commits` (+1 a transaction), `next_seq` (never falls), |
//! |           |        | `pledge:` and the name of another server (`pledges.rs`)          |
//! | `grown`   | volume | its blocks that are filled and durable                           |
//! | `audit`, `audit_head` |  | the log of moves (`audit.rs`)                          |
//!
//! Every transaction is durable on return. redb's quick repair stays off: it makes every commit 12 to 53 % slower to
//! save 0.2 s per million rows at a start after a crash, and the start reads every row anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use zones::ServerName;

use super::audit::{self, Auditor, Ends};
use super::entry::Entry;
use super::io::{Disk, DiskFile, VOLUMES};
use crate::vault::Generation;

/// Name of the file in an agent's directory.
pub const FILE: &str = "index.redb";

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const GROWN: TableDefinition<'_, u32, u32> = TableDefinition::new("grown");

/// Before the name of the server that something is promised to.
const PLEDGE: &str = "pledge:";

/// Memory of the page cache where the index is only looked at.
const CACHE_OCTETS: usize = 16 << 20;

/// This release's format of rows and volumes.
const FORMAT: u64 = 1;

/// Why the index cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file cannot be reached.
    #[error("access {FILE}")]
    Io(#[from] io::Error),
    /// The database is damaged or in a state that redb refuses.
    #[error("use {FILE}")]
    Redb(#[source] Box<redb::Error>),
    /// There is no index, but there are volumes.
    #[error("{FILE} is missing, but the volumes are here: bring it back, or remove the volumes to begin empty")]
    Missing,
    /// A later release wrote it.
    #[error("{FILE} has format {found}, this release knows {FORMAT}: run the release that wrote it, or a later one")]
    Format {
        /// What it says.
        found: u64,
    },
}

impl<E: Into<redb::Error>> From<E> for IndexError
where
    E: IsRedb,
{
    fn from(error: E) -> Self {
        IndexError::Redb(Box::new(error.into()))
    }
}

/// Errors of redb's single steps.
trait IsRedb {}
impl IsRedb for redb::DatabaseError {}
impl IsRedb for redb::TransactionError {}
impl IsRedb for redb::TableError {}
impl IsRedb for redb::StorageError {}
impl IsRedb for redb::CommitError {}
impl IsRedb for redb::SetDurabilityError {}

/// A row that is no entry.
#[derive(Debug)]
pub struct BadRow {
    /// Its key.
    pub seq: u64,
    /// Why.
    pub source: minicbor::decode::Error,
}

/// What the index held when it was opened.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    pub(crate) bad: Vec<BadRow>,
    pub(crate) grown: Vec<u32>,
    pub(crate) pledges: HashMap<ServerName, u64>,
}

/// How many rows name each generation of keys; none where there is no index yet. Opens no key.
///
/// # Errors
///
/// [`IndexError`].
pub fn named_generations(disk: &Arc<dyn Disk>) -> Result<BTreeMap<Generation, u64>, IndexError> {
    let mut named = BTreeMap::new();
    if !disk.list("")?.iter().any(|name| name == FILE) {
        return Ok(named);
    }
    let database = prepare(database(disk.open(FILE)?, CACHE_OCTETS)?)?;
    let transaction = database.begin_read()?;
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (seq, row) = row?;
        // A row that is no entry names nothing; the start refuses it.
        let Ok(entry) = Entry::decode_row(seq.value(), row.value()) else {
            continue;
        };
        let own: BTreeSet<Generation> = entry.streams().map(|(_, stream)| stream.kek_generation).collect();
        for generation in own {
            *named.entry(generation).or_insert(0) += 1;
        }
    }
    Ok(named)
}

/// One group of changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    /// Rows that go.
    pub(crate) removed: &'a [u64],
    /// Rows that come, by numbers from the index's next one on; one with a number that is there has its row replaced.
    pub(crate) added: &'a [(u64, Vec<u8>)],
    /// The number after them.
    pub(crate) next_seq: u64,
    /// Blocks of each volume that are filled.
    pub(crate) grown: &'a [u32],
    /// Entries of the audit log.
    pub(crate) lines: &'a [String],
    /// What is promised to other servers from now on.
    pub(crate) pledges: &'a [(ServerName, u64)],
}

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It is durable.
    Done,
    /// Nothing of it is there; the index works on.
    Refused(IndexError),
    /// Nobody knows, and the index does not work.
    Failed(IndexError),
}

/// The database; `None` after a failure that reopening did not heal. Only the committer writes, and puts another one in its place.
pub(crate) type Opened = Arc<RwLock<Option<Database>>>;

/// The open index, used by the committer alone.
#[derive(Debug)]
pub(crate) struct Index {
    disk: Arc<dyn Disk>,
    cache_octets: usize,
    /// Readers of the audit log share it.
    database: Opened,
    auditor: Arc<Auditor>,
    pub(super) ends: Ends,
    file: Arc<dyn DiskFile>,
    pub(crate) commits: u64,
    pub(crate) next_seq: u64,
}

impl Index {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        cache_octets: usize,
        auditor: Arc<Auditor>,
    ) -> Result<(Index, Found), IndexError> {
        if !disk.list("")?.iter().any(|name| name == FILE) {
            if !disk.list(VOLUMES)?.is_empty() {
                return Err(IndexError::Missing);
            }
            // Made in memory and put in place in one step: a crash in the midst would leave what redb cannot open.
            let blank = Arc::new(Memory::default());
            drop(prepare(database(blank.clone(), cache_octets)?)?);
            disk.replace(FILE, &blank.0.lock())?;
        }
        let file = disk.open(FILE)?;
        let database = prepare(database(file.clone(), cache_octets)?)?;
        let mut index = Index {
            disk,
            cache_octets,
            database: Arc::default(),
            ends: audit::ends(&database, auditor.me())?,
            auditor,
            file,
            commits: 0,
            next_seq: 1,
        };
        let found = index.load(&database)?;
        *index.database.write() = Some(database);
        Ok((index, found))
    }

    fn load(&mut self, database: &Database) -> Result<Found, IndexError> {
        let transaction = database.begin_read()?;
        let meta = transaction.open_table(META)?;
        self.commits = meta.get("commits")?.map_or(0, |value| value.value());
        self.next_seq = meta.get("next_seq")?.map_or(1, |value| value.value());
        let mut grown = Vec::new();
        for row in transaction.open_table(GROWN)?.iter()? {
            // Volumes come one after the other, so the key is the place.
            grown.push(row?.1.value());
        }
        let mut pledges = HashMap::new();
        for row in meta.iter()? {
            let (name, value) = row?;
            let peer = name.value().strip_prefix(PLEDGE).and_then(|peer| peer.parse().ok());
            pledges.extend(peer.map(|peer| (peer, value.value())));
        }
        let mut found = Found {
            entries: Vec::new(),
            bad: Vec::new(),
            grown,
            pledges,
        };
        for row in transaction.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let seq = key.value();
            match Entry::decode_row(seq, value.value()) {
                Ok(entry) => found.entries.push(entry),
                Err(source) => found.bad.push(BadRow { seq, source }),
            }
        }
        Ok(found)
    }

    /// The database, for readers of the audit log.
    pub(super) fn opened(&self) -> Opened {
        Arc::clone(&self.database)
    }

    /// The file's length.
    pub(crate) fn octets(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Applies one group of changes in one transaction.
    pub(crate) fn apply(&mut self, group: &Group<'_>) -> Applied {
        let next_seq = group.next_seq;
        let opened = Arc::clone(&self.database);
        let reading = opened.read();
        let Some(database) = &*reading else {
            return Applied::Failed(IndexError::Io(io::Error::other(
                "the index failed before: restart the agent",
            )));
        };
        let commits = self.commits + 1;
        let written = write(database, group, commits, (&self.auditor, self.ends));
        match written {
            Ok(ends) => {
                self.commits = commits;
                self.next_seq = next_seq;
                self.ends = ends;
                Applied::Done
            }
            Err(error) => {
                drop(reading);
                self.reopen(error, commits, next_seq)
            }
        }
    }

    /// After a failed transaction redb wants to be opened anew. Its counter then says whether the transaction is there.
    fn reopen(&mut self, cause: IndexError, commits: u64, next_seq: u64) -> Applied {
        tracing::warn!(
            error = &cause as &dyn std::error::Error,
            "index commit failed, opening the index anew"
        );
        let opened = Arc::clone(&self.database);
        let mut opened = opened.write();
        *opened = None;
        let attempt = (|| {
            self.file = self.disk.open(FILE)?;
            let database = database(self.file.clone(), self.cache_octets)?;
            let found = {
                let transaction = database.begin_read()?;
                let meta = transaction.open_table(META)?;
                meta.get("commits")?.map_or(0, |value| value.value())
            };
            let ends = audit::ends(&database, self.auditor.me())?;
            Ok::<_, IndexError>((database, found, ends))
        })();
        match attempt {
            Ok((database, found, ends)) => {
                *opened = Some(database);
                self.ends = ends;
                if found == commits {
                    self.commits = commits;
                    self.next_seq = next_seq;
                    Applied::Done
                } else {
                    Applied::Refused(cause)
                }
            }
            Err(error) => Applied::Failed(error),
        }
    }
}

/// Makes the tables where they are not there yet, and checks the format.
fn prepare(database: Database) -> Result<Database, IndexError> {
    let format = {
        let transaction = database.begin_read()?;
        match transaction.open_table(META) {
            Ok(meta) => meta.get("format")?.map(|value| value.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        }
    };
    match format {
        Some(FORMAT) => {}
        Some(found) => return Err(IndexError::Format { found }),
        None => {
            let transaction = database.begin_write()?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(GROWN)?;
            transaction.open_table(META)?.insert("format", FORMAT)?;
            transaction.commit()?;
        }
    }
    Ok(database)
}

fn database(file: Arc<dyn DiskFile>, cache_octets: usize) -> Result<Database, IndexError> {
    Ok(Database::builder()
        .set_cache_size(cache_octets)
        .create_with_backend(Backend(file))?)
}

fn write(
    database: &Database,
    group: &Group<'_>,
    commits: u64,
    (auditor, mut ends): (&Auditor, Ends),
) -> Result<Ends, IndexError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for seq in group.removed {
            entries.remove(seq)?;
        }
        for (seq, row) in group.added {
            entries.insert(seq, row.as_slice())?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert("commits", commits)?;
        meta.insert("next_seq", group.next_seq)?;
        for (peer, pledge) in group.pledges {
            meta.insert(format!("{PLEDGE}{peer}").as_str(), pledge)?;
        }
        let mut table = transaction.open_table(GROWN)?;
        for (volume, &blocks) in (0_u32..).zip(group.grown) {
            if table.get(volume)?.is_none_or(|known| known.value() != blocks) {
                table.insert(volume, blocks)?;
            }
        }
    }
    if !group.lines.is_empty() {
        ends = audit::append(&transaction, auditor, ends, group.lines)?;
    }
    transaction.commit()?;
    Ok(ends)
}

/// redb over the store's seam.
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        let before = self.0.len()?;
        self.0.set_len(octets)?;
        if octets > before {
            // A full disk shows here, before any page is written.
            if let Err(error) = self.0.allocate(before, octets - before) {
                self.0.set_len(before)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, octets)
    }
}

/// A file in memory, for a database in the making.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<u8>>);

impl DiskFile for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        let octets = usize::try_from(octets).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.0.lock().resize(octets, 0);
        Ok(())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.0.lock();
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let found = content.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let mut content = self.0.lock();
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let end = from + octets.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[from..end].copy_from_slice(octets);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn forget_cached(&self, _: u64, _: u64) {}
}
