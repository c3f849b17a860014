//! The agent's store: copies of objects, sealed, at random places on disk, and the index that names them.
//!
//! ```text
//!  writer / write_small --seal, random places--> volumes
//!  commit --> committer: sync volumes, then one index transaction for all that wait --> entries
//!  reader <-- open chunks <-- volumes
//! ```
//!
//! The index is the truth. Data is durable before the index names it; blocks that no entry names are free; so a crash
//! leaks nothing and loses nothing acknowledged. The API blocks; it may be called from many threads.
//!
//! Specification: DESIGN.md section 9, STORE.md.

mod aside;
mod audit;
mod cbor;
pub mod check;
mod commit;
pub mod entry;
pub mod extent;
pub mod index;
pub mod io;
mod pledges;
pub mod rotation;
pub mod scrub;
#[cfg(test)]
pub(crate) mod simulated;
pub mod space;
pub mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use zones::ServerName;
use zones::audit::Head;

pub use aside::Damage;
pub use audit::{AuditNote, AuditPage, Auditor, SignedHead};
pub use commit::CommitError;
pub use entry::{
    Change, Content, Digests, Entry, HolderChange, Journal, Keeping, Leaving, NewEntry, OpenWait, Received, Refusal,
    Stream, WriteRecord,
};
pub use extent::Extent;
pub use io::{Disk, DiskFile, RealDisk};
pub use space::{Extents, Full, Reservation, Usage};
pub use stream::{ReadError, StagedStream, StreamError, StreamReader, StreamSpec, StreamWriter};

use crate::vault::envelope::Sealed;
use crate::vault::{Dek, Opener, Part, ProviderError, StreamKey, Suite, Vault, VaultError};
use aside::Aside;
use extent::{BLOCK_OCTETS, REGION_BLOCKS};
use index::{BadRow, Index, IndexError};
use space::{Sizes, Space};

/// Commits that may wait for the committer at once; more wait before they are taken in.
const COMMITS_WAITING_MAX: usize = 1024;

/// Octets read at once while a batch is read back.
const READ_BACK_OCTETS: u64 = 1024 * 1024;

/// How large things may become.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most octets of copies, reserved ones included; rounded down to blocks of 4 KiB.
    pub capacity: u64,
    /// Octets by which volumes grow; rounded up to 1 MiB. A larger step makes better random places and longer waits.
    pub step: u64,
    /// Largest volume file; rounded up to 1 MiB.
    pub volume: u64,
    /// Memory of the index's page cache.
    pub cache: usize,
    /// Who commits and grows volumes.
    pub work: Work,
    /// Whose log of moves is kept, and how.
    pub auditor: Arc<Auditor>,
}

/// Who does the store's work that others wait for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Work {
    /// Two threads of its own: commits that wait at one moment share their syncs, and volumes grow before they are full.
    #[default]
    Threads,
    /// Whoever calls. One caller then makes the same disk of the same calls and the same randomness, every time.
    Caller,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            capacity: 16 << 30,
            step: 64 << 20,
            volume: 64 << 30,
            cache: 16 << 20,
            work: Work::Threads,
            auditor: Arc::new(Auditor::new(
                "unnamed".parse().expect("a legal name"),
                None,
                Duration::MAX,
            )),
        }
    }
}

impl Settings {
    fn sizes(&self) -> Sizes {
        let regions = |octets: u64| {
            let blocks = octets
                .div_ceil(BLOCK_OCTETS)
                .next_multiple_of(u64::from(REGION_BLOCKS))
                .max(u64::from(REGION_BLOCKS));
            // A volume has fewer than 2^32 blocks: 16 TiB.
            u32::try_from(blocks).unwrap_or(u32::MAX - u32::MAX % REGION_BLOCKS)
        };
        Sizes {
            capacity: self.capacity / BLOCK_OCTETS,
            volume: regions(self.volume),
            step: regions(self.step),
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The index.
    #[error("open the index")]
    Index(#[from] IndexError),
    /// A volume.
    #[error("open the volumes")]
    Volume(#[source] std::io::Error),
    /// The guardian of keys does not answer, so how long padded streams are is not known: start again when it does.
    #[error("open data keys to learn the lengths of objects")]
    Keys(#[source] ProviderError),
    /// Rows of the index are no entries, or contradict each other. Restore the index, or let the objects be repaired
    /// from their other holders.
    #[error("the index is damaged in {} rows, first: {}", .0.len(), .0[0])]
    Rows(Vec<RowFault>),
}

/// What is wrong with one row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// Its octets are no entry.
    #[error("row {seq} cannot be read: {source}")]
    Unreadable {
        /// Its key.
        seq: u64,
        /// Why.
        source: minicbor::decode::Error,
    },
    /// Its places are another copy's, or nowhere.
    #[error("row {seq} of object {address}: {source}")]
    Place {
        /// Its key.
        seq: u64,
        /// The object.
        address: zones::Address,
        /// Why.
        source: extent::ClaimError,
    },
    /// Its key was not given out yet.
    #[error("row {seq} of object {address} is ahead of the index's counter")]
    Number {
        /// Its key.
        seq: u64,
        /// The object.
        address: zones::Address,
    },
}

/// What committer, readers and writers share.
#[derive(Debug)]
struct Shared {
    space: Arc<Space>,
    vault: Arc<Vault>,
    /// Every entry of the index.
    live: RwLock<HashMap<u64, Arc<Entry>>>,
    commits: AtomicU64,
    /// The last is held by every commit from before it wraps keys until it is answered; a rotation adds one to learn when
    /// those that may still wrap under an older generation have ended.
    pages: Mutex<Vec<Arc<()>>>,
    auditor: Arc<Auditor>,
    audit_head: RwLock<Head>,
    database: index::Opened,
    aside: Arc<Aside>,
    /// What is promised to each other server.
    pledges: RwLock<HashMap<ServerName, u64>>,
}

impl Shared {
    /// The data key of one part of an entry, as it is wrapped now: its generation may have ended since `entry` was read.
    fn stream_key(&self, entry: &Entry, part: Part) -> Result<StreamKey, VaultError> {
        let find = || {
            let live = self.live.read().get(&entry.seq).cloned();
            let generation = |entry: &Entry| entry.stream(part).map(|stream| stream.kek_generation);
            let newer = live.filter(|live| generation(live) != generation(entry));
            let entry = newer.as_deref().unwrap_or(entry);
            let stream = entry.stream(part).expect("a number names one copy with the same parts");
            stream_key(&self.vault, entry, part, stream)
        };
        match find() {
            // It was wrapped anew between the look at it and the question for its key.
            Err(VaultError::Provider(ProviderError::NoGeneration { .. })) => find(),
            found => found,
        }
    }
}

/// The store of one agent.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    worker: Worker,
}

/// Who commits and grows.
#[derive(Debug)]
enum Worker {
    Threads {
        /// `None` only while the store is dropped.
        queue: Option<SyncSender<commit::Request>>,
        growing: Option<SyncSender<()>>,
        threads: Vec<JoinHandle<()>>,
    },
    Caller(Mutex<Index>),
}

impl Store {
    /// Opens the store of a directory, making an empty one where there is none, and returns every entry by rising number.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; damaged rows are all listed.
    pub fn open(
        disk: Arc<dyn Disk>,
        vault: Arc<Vault>,
        settings: &Settings,
    ) -> Result<(Store, Vec<Arc<Entry>>), OpenError> {
        let (index, found) = Index::open(disk.clone(), settings.cache, Arc::clone(&settings.auditor))?;
        let space =
            Space::open(disk, vault.entropy().clone(), settings.sizes(), found.grown).map_err(OpenError::Volume)?;
        space.set_index_octets(index.octets());
        let mut faults: Vec<RowFault> = found
            .bad
            .into_iter()
            .map(|BadRow { seq, source }| RowFault::Unreadable { seq, source })
            .collect();
        let mut entries = Vec::with_capacity(found.entries.len());
        for entry in found.entries {
            let (seq, address) = (entry.seq, entry.address.clone());
            if seq >= index.next_seq {
                faults.push(RowFault::Number { seq, address });
                continue;
            }
            let entry = reveal(&vault, entry)?;
            match hold(&space, entry) {
                Ok(entry) => entries.push(Arc::new(entry)),
                Err(source) => faults.push(RowFault::Place { seq, address, source }),
            }
        }
        if !faults.is_empty() {
            return Err(OpenError::Rows(faults));
        }
        let shared = Arc::new(Shared {
            space,
            vault,
            live: RwLock::new(entries.iter().map(|entry| (entry.seq, entry.clone())).collect()),
            commits: AtomicU64::new(index.commits),
            pages: Mutex::new(vec![Arc::default()]),
            auditor: Arc::clone(&settings.auditor),
            audit_head: RwLock::new(index.ends.head),
            database: index.opened(),
            aside: Arc::default(),
            pledges: RwLock::new(found.pledges),
        });
        let worker = match settings.work {
            Work::Threads => Worker::start(&shared, index).map_err(OpenError::Volume)?,
            Work::Caller => Worker::Caller(Mutex::new(index)),
        };
        let store = Store { shared, worker };
        Ok((store, entries))
    }

    /// Sets room aside for a copy of this much plaintext, properties and body together, sealed by `suite`.
    ///
    /// # Errors
    ///
    /// [`Full`].
    pub fn reserve(&self, octets: u64, suite: Suite) -> Result<Reservation, Full> {
        self.shared.space.reserve(octets, suite)
    }

    /// Begins a stream of any length.
    ///
    /// # Errors
    ///
    /// [`StreamError::Full`] at once when the hinted length does not fit.
    pub fn writer(&self, spec: StreamSpec) -> Result<StreamWriter, StreamError> {
        self.grow_ahead();
        StreamWriter::new(self.shared.space.clone(), &self.shared.vault, spec)
    }

    /// Writes many small streams at once: shuffled within randomly chosen longer runs, so that one system call writes
    /// many. Answers are in the order of the wishes.
    ///
    /// # Errors
    ///
    /// [`StreamError`]; then none of them is written.
    pub fn write_small(&self, many: Vec<(StreamSpec, Bytes)>) -> Result<Vec<StagedStream>, StreamError> {
        self.grow_ahead();
        stream::write_small(&self.shared.space, &self.shared.vault, many)
    }

    fn grow_ahead(&self) {
        if !self.shared.space.wants_growth() {
            return;
        }
        match &self.worker {
            Worker::Threads { growing, .. } => {
                if let Some(growing) = growing {
                    // A full channel means that it is told already.
                    let _ = growing.try_send(());
                }
            }
            Worker::Caller(_) => grow(&self.shared.space),
        }
    }

    /// A reader of one part of an entry.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoPart`]; [`ReadError::SetAside`] for a copy that is known to be damaged; [`ReadError::Vault`] when the data
    /// key does not open, or is not the one of the stream.
    pub fn reader(&self, entry: &Entry, part: Part) -> Result<StreamReader, ReadError> {
        if let Some(damage) = self.set_aside(entry) {
            return Err(ReadError::SetAside {
                address: entry.address.clone(),
                what: damage.what,
            });
        }
        self.reader_anyway(entry, part)
    }

    /// A reader, whether the copy is set aside or not: for those who look whether it is good.
    fn reader_anyway(&self, entry: &Entry, part: Part) -> Result<StreamReader, ReadError> {
        let stream = entry.stream(part).ok_or(ReadError::NoPart { part })?;
        let sealed = Sealed {
            id: stream.id,
            prefix: stream.nonce_prefix,
            suite: Suite::from_number(stream.suite)?,
            key: self.shared.stream_key(entry, part)?,
            commitment: stream.commitment,
            digest: stream.digest,
        };
        Ok(StreamReader::new(
            self.shared.space.clone(),
            entry.address.clone(),
            part,
            Opener::new(&sealed, &entry.address, part, entry.level)?,
            stream.digest,
            stream.extents.clone(),
        )
        .watched(&self.shared.aside, entry, part))
    }

    /// The data key of one part of an entry, unwrapped.
    ///
    /// # Errors
    ///
    /// As [`Store::reader`].
    pub fn data_key(&self, entry: &Entry, part: Part) -> Result<Dek, ReadError> {
        entry.stream(part).ok_or(ReadError::NoPart { part })?;
        Ok(self.shared.stream_key(entry, part)?.dek)
    }

    /// A reader of a stream that no entry names yet.
    #[must_use]
    pub fn staged_reader(&self, staged: &StagedStream) -> StreamReader {
        let inner = &staged.inner;
        StreamReader::new(
            self.shared.space.clone(),
            inner.address.clone(),
            inner.part,
            Opener::new(&inner.sealed, &inner.address, inner.part, inner.level)
                .expect("the sealer made the commitment of this key"),
            inner.sealed.digest,
            inner.extents.clone(),
        )
    }

    /// One part of an entry, whole, its digest checked; for properties and other small streams.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read_all(&self, entry: &Entry, part: Part) -> Result<Bytes, ReadError> {
        self.reader(entry, part)?.read_all(&self.shared.vault)
    }

    /// Reads streams back from the disk, past the system's cache, and checks tags and digests. They are durable
    /// afterwards, but no entry names them yet.
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] for the first that is not as it was written.
    pub fn verify(&self, staged: &[StagedStream]) -> Result<(), ReadError> {
        let space = &self.shared.space;
        let Some(first) = staged.first() else {
            return Ok(());
        };
        let failed = |source| ReadError::Io {
            address: first.inner.address.clone(),
            part: first.inner.part,
            source,
        };
        space.sync().map_err(failed)?;
        let mut extents: Vec<Extent> = staged
            .iter()
            .flat_map(|staged| staged.inner.extents.iter().copied())
            .collect();
        extents.sort_unstable();
        // Small streams of one batch lie side by side: one read brings back many.
        let mut scratch = Vec::new();
        let mut at = 0;
        while at < extents.len() {
            let mut run = extents[at];
            let alone = at;
            while let Some(next) = extents.get(at + 1)
                && next.volume == run.volume
                && next.block == run.block + run.blocks
                && run.octets() + next.octets() <= READ_BACK_OCTETS
            {
                run.blocks += next.blocks;
                at += 1;
            }
            space.forget_cached(run);
            if at > alone {
                scratch.resize(usize::try_from(run.octets()).expect("at most a megabyte"), 0);
                space.read(run, 0, &mut scratch).map_err(failed)?;
            }
            at += 1;
        }
        staged
            .iter()
            .try_for_each(|staged| self.staged_reader(staged).verify(&self.shared.vault))
    }

    /// Applies all `changes`, or none, durably; returns the entries that came, in order. Waiting commits of other threads
    /// share the syncs.
    ///
    /// # Errors
    ///
    /// [`CommitError`].
    pub fn commit(&self, changes: Vec<Change>) -> Result<Vec<Arc<Entry>>, CommitError> {
        let _page = self.shared.pages.lock().last().cloned();
        let changes = commit::prepare_all(&self.shared, changes)?;
        self.apply(changes)
    }

    /// Hands prepared changes to whoever commits, and waits.
    fn apply(&self, changes: Vec<commit::Prepared>) -> Result<Vec<Arc<Entry>>, CommitError> {
        match &self.worker {
            Worker::Threads { queue, .. } => commit::submit(queue.as_ref().expect("the store lives"), changes),
            Worker::Caller(index) => commit::here(&self.shared, &mut index.lock(), changes),
        }
    }

    /// Number of transactions that the index has ever had. An agent that finds fewer than it last reported has an old
    /// index and must not serve.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Acquire)
    }

    /// The end of the log of moves.
    #[must_use]
    pub fn audit_head(&self) -> Head {
        *self.shared.audit_head.read()
    }

    /// Who signs that log.
    #[must_use]
    pub fn auditor(&self) -> &Arc<Auditor> {
        &self.shared.auditor
    }

    /// Entries of that log behind a number, at most so many, with the head of the same moment. Blocks.
    ///
    /// # Errors
    ///
    /// [`IndexError`] when the index cannot be read.
    pub fn audit(&self, after: u64, limit: usize) -> Result<AuditPage, IndexError> {
        match &*self.shared.database.read() {
            Some(database) => audit::page(database, after, limit),
            None => Err(IndexError::Io(std::io::Error::other(
                "the index failed before: restart the agent",
            ))),
        }
    }

    /// Entries of that log before a number, the last ones, at most so many, the newest first. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Store::audit`].
    pub fn audit_before(&self, before: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, IndexError> {
        match &*self.shared.database.read() {
            Some(database) => audit::page_before(database, before, limit),
            None => Err(IndexError::Io(std::io::Error::other(
                "the index failed before: restart the agent",
            ))),
        }
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared.space.usage()
    }

    /// Every entry, by rising number.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.shared.live.read().values().cloned().collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries
    }

    /// How many copies the index names: rows with a stream.
    #[must_use]
    pub fn copies(&self) -> u64 {
        let live = self.shared.live.read();
        live.values().filter(|entry| entry.streams().next().is_some()).count() as u64
    }

    /// Rows up to a number that say only where an object went, at most so many, by rising number; and the highest number of
    /// any row.
    #[must_use]
    pub(crate) fn forwards(&self, up_to: u64, limit: usize) -> (Vec<Arc<Entry>>, u64) {
        let live = self.shared.live.read();
        let mut forwards: Vec<_> = live
            .values()
            .filter(|entry| entry.seq <= up_to && matches!(entry.journal, Journal::Forward { .. }))
            .take(limit)
            .cloned()
            .collect();
        forwards.sort_unstable_by_key(|entry| entry.seq);
        (forwards, live.keys().copied().max().unwrap_or(0))
    }

    /// What is wrong with an entry, if one of its streams is set aside: then it is neither served nor moved.
    #[must_use]
    pub fn set_aside(&self, entry: &Entry) -> Option<Damage> {
        self.shared.aside.of(entry)
    }

    /// Every stream that is set aside.
    #[must_use]
    pub fn damaged(&self) -> Vec<Damage> {
        self.shared.aside.all()
    }

    /// How many streams are set aside.
    #[must_use]
    pub fn damaged_count(&self) -> u64 {
        self.shared.aside.count()
    }

    /// Sets aside again what was so before a restart, as far as it is still here.
    pub fn set_aside_again(&self, known: &[Damage]) {
        if known.is_empty() {
            return;
        }
        let known: HashMap<(&str, &str), &Damage> = known
            .iter()
            .map(|damage| ((damage.address.as_str(), damage.stream.as_str()), damage))
            .collect();
        for entry in self.shared.live.read().values() {
            for (_, stream) in entry.streams() {
                if let Some(damage) = known.get(&(entry.address.as_str(), stream.id.to_string().as_str())) {
                    self.shared.aside.set(&stream.extents, (*damage).clone());
                }
            }
        }
    }

    /// Numbers of the entries that a filter takes, rising.
    fn numbers(&self, filter: impl Fn(&Entry) -> bool) -> Vec<u64> {
        let live = self.shared.live.read();
        let mut numbers: Vec<u64> = live
            .values()
            .filter(|entry| filter(entry))
            .map(|entry| entry.seq)
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn entry(&self, seq: u64) -> Option<Arc<Entry>> {
        self.shared.live.read().get(&seq).cloned()
    }

    fn read_well(&self, entry: &Entry, part: Part) {
        if entry
            .stream(part)
            .is_some_and(|stream| self.shared.aside.clear(&stream.extents))
        {
            tracing::warn!(object = %entry.address, %part, seq = entry.seq, "copy reads well again and is served: watch this disk");
        }
    }

    fn read_badly(&self, entry: &Entry, part: Part, error: &ReadError) -> Damage {
        let stream = entry.stream(part).expect("it was read");
        let damage = Damage::of(entry, part, stream, chain(error));
        tracing::error!(object = %entry.address, %part, seq = entry.seq, what = damage.what, "copy is damaged and set aside");
        self.shared.aside.set(&stream.extents, damage.clone());
        damage
    }

    /// The vault that it seals with.
    #[must_use]
    pub fn vault(&self) -> &Arc<Vault> {
        &self.shared.vault
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        match &mut self.worker {
            Worker::Threads {
                queue,
                growing,
                threads,
            } => {
                (*queue, *growing) = (None, None);
                for thread in threads.drain(..) {
                    if thread.join().is_err() {
                        tracing::error!("a thread of the store panicked");
                    }
                }
            }
            Worker::Caller(_) => {}
        }
    }
}

impl Worker {
    fn start(shared: &Arc<Shared>, index: Index) -> std::io::Result<Worker> {
        let (queue, requests) = sync_channel(COMMITS_WAITING_MAX);
        let (growing, to_grow) = sync_channel(1);
        let committer = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("store-commit".to_owned())
                .spawn(move || commit::run(&shared, index, &requests))
        };
        let grower = {
            let space = shared.space.clone();
            std::thread::Builder::new()
                .name("store-grow".to_owned())
                .spawn(move || {
                    while let Ok(()) = to_grow.recv() {
                        if space.wants_growth() {
                            grow(&space);
                        }
                    }
                })
        };
        Ok(Worker::Threads {
            queue: Some(queue),
            growing: Some(growing),
            threads: vec![committer?, grower?],
        })
    }
}

/// An error with its causes.
fn chain(error: &ReadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Grows before anybody waits for it. A failure here is told to whoever next needs the room.
fn grow(space: &Arc<Space>) {
    if let Err(error) = space.grow_ahead() {
        tracing::debug!(%error, "volumes do not grow ahead");
    }
}

/// The key of one stream of an entry, unwrapped.
fn stream_key(vault: &Vault, entry: &Entry, part: Part, stream: &Stream) -> Result<StreamKey, VaultError> {
    let binding = entry.binding(part, stream.suite)?;
    vault.unwrap(stream.kek_generation, &stream.wrapped_dek, &binding)
}

/// Learns how long the plaintext of padded streams is: the row says only to what length it is padded. A stream whose key does
/// not open keeps that length; it cannot be read anyway, and says why.
fn reveal(vault: &Vault, mut entry: Entry) -> Result<Entry, OpenError> {
    for part in [Part::Properties, Part::Body] {
        let Some(stream) = entry.stream(part) else { continue };
        if !Suite::from_number(stream.suite).is_ok_and(Suite::pads) {
            continue;
        }
        let key = match stream_key(vault, &entry, part, stream) {
            Ok(key) => key,
            Err(VaultError::Provider(source @ ProviderError::Unavailable { .. })) => {
                return Err(OpenError::Keys(source));
            }
            Err(error) => {
                tracing::debug!(object = %entry.address, %part, error = &error as &dyn std::error::Error, "a data key does not open");
                continue;
            }
        };
        let stream = match part {
            Part::Properties => &mut entry.properties,
            Part::Body => &mut entry.body,
        };
        stream.as_mut().expect("it was there above").plain_octets = key.plain_octets;
    }
    Ok(entry)
}

/// Takes the places of an entry that was read from the index.
fn hold(space: &Arc<Space>, mut entry: Entry) -> Result<Entry, extent::ClaimError> {
    for stream in [&mut entry.properties, &mut entry.body].into_iter().flatten() {
        stream.extents = Arc::new(space.claim(stream.extents.to_vec().into_boxed_slice())?);
    }
    Ok(entry)
}

#[cfg(test)]
pub(crate) mod tests;
