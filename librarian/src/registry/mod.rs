//! The registry: every register, server, want, plan and ordinary record; durable, and answered from memory.
//!
//! | file | what |
//! |---|---|
//! | `registers`, `table` | registers in memory, compact; what of them is read without a lock |
//! | `key` | what a name or an address is found by |
//! | `sorting` | how the orders of rows are made, which tell what lies below a name |
//! | `zone` | ordinary records in memory |
//! | `index`, `view`, `glance` | all of it together / how it is read / and without a lock |
//! | `proposal`, `draft` | what can be changed / changes that are judged but not yet durable |
//! | `commit` | the one writer and its groups |
//! | `publish`, `journal` | a message becomes visible / what changed lately in zones that are transferred |
//! | `kept` | that over a restart |
//! | `storage`, `chunk`, `entry`, `bytes` | the log on disk |
//! | `checkpoint` | memory on disk, so that a start need not read the whole log |
//! | `wal` | small commits, durable before the database is |
//!
//! Nothing here knows sockets or keys; what an update may change is decided in `crate::update`.

mod bytes;
mod checkpoint;
mod chunk;
mod commit;
pub(crate) mod draft;
mod entry;
pub(crate) mod glance;
pub(crate) mod index;
pub(crate) mod journal;
mod kept;
pub(crate) mod key;
mod memory;
pub(crate) mod proposal;
pub(crate) mod publish;
pub(crate) mod registers;
mod server;
mod sorting;
mod storage;
pub(crate) mod table;
mod view;
pub(crate) mod zone;

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hickory_proto::op::ResponseCode;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use zones::Domain;

pub use commit::Writer;
use commit::{Beside, Envelope};
pub(crate) use entry::{Entry, RecordZone, wire};
pub use entry::{Plan, Reconcile, Serials};
use glance::Glance;
use index::Index;
pub use journal::JournalBounds;
pub use memory::{Cut, MemoryLog};
pub use proposal::{By, Decided, PLAN_OCTETS_MAX, Proposal, Received, Refused, Renumber, ServerChange, WantsChange};
pub use server::{ADDRESSES_MAX, Host, Server};
pub(crate) use storage::{Creation, check_entry};
use storage::{RedbStorage, Storage};
pub use storage::{Snapshot, StorageError};
pub use view::View;

/// How the registry works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a server counts as alive after it last said what it has.
    pub lease: Duration,
    /// Proposals that wait for the writer; who comes later waits to get in.
    pub queue_max: usize,
    /// Proposals in one commit.
    pub group_max: usize,
    /// TTL of the first records of the operator's zone, in seconds.
    pub ttl_s: u32,
    /// Most that is kept of changes for secondaries.
    pub journal: JournalBounds,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lease: Duration::from_secs(10),
            queue_max: 4096,
            group_max: 4096,
            ttl_s: 5,
            journal: JournalBounds::default(),
        }
    }
}

/// What readers and the writer share.
struct Shared {
    index: RwLock<Index>,
    glance: Arc<Glance>,
    lease: Duration,
    journal: JournalBounds,
    incarnation: [u8; 16],
}

/// The registry of one pool. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Envelope>,
    /// Of snapshots; gone when the file is let go of.
    source: Weak<storage::Store>,
}

/// Proposals that wait for a writer run by hand.
pub struct Waiting(mpsc::Receiver<Envelope>);

/// A change that the writer has.
#[derive(Debug)]
pub struct Proposed {
    verdict: oneshot::Receiver<Result<(), SubmitError>>,
}

impl Proposed {
    /// Waits until the change is durable and published, or refused. Going away instead does not take it back.
    ///
    /// # Errors
    ///
    /// [`SubmitError`].
    pub async fn verdict(self) -> Result<(), SubmitError> {
        self.verdict.await.map_err(|_| SubmitError::Closed)?
    }
}

/// Why a proposal changed nothing, or may have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Judged and not allowed; nothing was changed.
    #[error(transparent)]
    Refused(Refused),
    /// The registry could not be written. Whether the change is on disk shows after a restart: ask again then.
    #[error("the registry cannot be written: see the librarian's log")]
    Storage,
    /// The librarian is stopping; ask again.
    #[error("the registry is closed: the librarian is stopping")]
    Closed,
}

impl Registry {
    /// Opens the registry file, or makes it, and reads all of it into memory.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; [`StorageError::InUse`] if another process holds the file.
    pub fn open(path: &Path, domain: &Domain, settings: Settings) -> Result<Registry, StorageError> {
        let storage = RedbStorage::open(path, &domain.to_string())?;
        let incarnation = storage.incarnation;
        let source = storage.source();
        let beside = Some(Beside::of(path));
        let registry = Registry::load(Box::new(storage), incarnation, domain, settings, beside)?;
        Ok(Registry { source, ..registry })
    }

    /// A registry on a log in memory, whose writer is run by hand with [`Writer::step`]: for simulations.
    ///
    /// # Errors
    ///
    /// [`StorageError::Damaged`].
    pub fn by_hand(
        log: &MemoryLog,
        incarnation: [u8; 16],
        domain: &Domain,
        settings: Settings,
    ) -> Result<(Registry, Writer, Waiting), StorageError> {
        let (registry, writer, waiting) =
            Registry::prepare(Box::new(log.clone()), incarnation, domain, settings, None)?;
        Ok((registry, writer, Waiting(waiting)))
    }

    fn load(
        storage: Box<dyn Storage>,
        incarnation: [u8; 16],
        domain: &Domain,
        settings: Settings,
        beside: Option<Beside>,
    ) -> Result<Registry, StorageError> {
        let (registry, writer, waiting) = Registry::prepare(storage, incarnation, domain, settings, beside)?;
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || writer.run(waiting))
            .expect("the system gives one more thread at start");
        Ok(registry)
    }

    fn prepare(
        mut storage: Box<dyn Storage>,
        incarnation: [u8; 16],
        domain: &Domain,
        settings: Settings,
        beside: Option<Beside>,
    ) -> Result<(Registry, Writer, mpsc::Receiver<Envelope>), StorageError> {
        let started = Instant::now();
        let mut log_entries = storage.entries()?;
        tracing::debug!(log_entries, "registry loads");
        let checkpoint = beside
            .as_ref()
            .and_then(|beside| checkpoint::read(&beside.checkpoint, incarnation, domain, &*storage));
        let checkpoint_seq = checkpoint.as_ref().map(|(_, seq)| *seq);
        let (mut index, mut next_seq) = checkpoint.unwrap_or_else(|| (Index::loading(domain, log_entries), 1));
        let mut first_seq = None;
        storage.read_log(0, 1, &mut |seq, _| {
            first_seq = Some(seq);
            Ok(())
        })?;
        let mut entries_read = 0;
        storage.load(next_seq, &mut |chunk| {
            if let Some(last) = chunk.last() {
                next_seq = last + 1;
                entries_read += chunk.len();
            }
            index.load(chunk)
        })?;
        if index.apex.node(domain.apex()).is_none() {
            let apex = entry::Entry::Node(RecordZone::Apex, Arc::new(index::first_apex(domain, settings.ttl_s)));
            let mut batch = storage::Batch::default();
            batch.entries.push_entry(next_seq, &apex);
            storage.commit(&batch)?;
            index.apply(apex, next_seq);
            (next_seq, log_entries) = (next_seq + 1, log_entries + 1);
        }
        index.finish_loading();
        let of = kept::Of { incarnation, next_seq };
        let journals = beside
            .as_ref()
            .and_then(|beside| kept::read(&beside.journal, of, settings.journal, &index));
        index.set_journals(journals);
        tracing::info!(
            objects = index.registers.live(),
            log_entries,
            entries_read,
            load_ms = started.elapsed().as_millis(),
            "registry loaded"
        );
        let shared = Arc::new(Shared {
            glance: Arc::clone(index.glance()),
            index: RwLock::new(index),
            lease: settings.lease,
            journal: settings.journal,
            incarnation,
        });
        let (queue, waiting) = mpsc::channel(settings.queue_max.max(1));
        let writer = Writer {
            shared: Arc::clone(&shared),
            storage,
            next_seq,
            first_seq: first_seq.unwrap_or(1),
            log_entries,
            group_max: settings.group_max.max(1),
            low_end: chunk::Chunk::default(),
            batch: storage::Batch::default(),
            beside,
            checkpoint_seq,
            has_failed: false,
        };
        let registry = Registry {
            shared,
            queue,
            source: Weak::new(),
        };
        Ok((registry, writer, waiting))
    }

    /// A consistent view of what is durable, as of now. It holds publishing up: take it, read, let it go; never hold it
    /// across an await.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self.shared.index.read(), Instant::now(), self.shared.lease)
    }

    /// Its registers as a checkpoint has them, for [`read_files`].
    #[doc(hidden)]
    #[must_use]
    pub fn saved(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        let saved = self.view().index().registers.save(&mut octets);
        saved.expect("memory takes everything");
        octets
    }

    /// Holds the lock as publishing does.
    #[cfg(test)]
    pub(crate) fn publishing(&self) -> impl Drop + '_ {
        self.shared.index.write()
    }

    /// What is read without waiting for publishing, or for anybody.
    pub(crate) fn glance(&self) -> &Glance {
        &self.shared.glance
    }

    /// Proposes a change and waits until it is durable and published. Going away meanwhile does not take it back.
    ///
    /// # Errors
    ///
    /// [`SubmitError`].
    pub async fn submit(&self, proposal: Proposal) -> Result<(), SubmitError> {
        self.propose(proposal).await?.verdict().await
    }

    /// Puts a change into the queue, waiting only for a place there. Changes proposed one after the other are judged in
    /// that order.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Closed`].
    pub async fn propose(&self, proposal: Proposal) -> Result<Proposed, SubmitError> {
        let (reply, verdict) = oneshot::channel();
        let envelope = Envelope::Propose(Box::new(proposal), reply);
        self.queue.send(envelope).await.map_err(|_| SubmitError::Closed)?;
        Ok(Proposed { verdict })
    }

    /// Proposes a change to a writer run by hand.
    ///
    /// # Errors
    ///
    /// [`SubmitError`].
    pub fn submit_by_hand(
        &self,
        proposal: Proposal,
        writer: &mut Writer,
        waiting: &mut Waiting,
    ) -> Result<(), SubmitError> {
        let mut submitting = std::pin::pin!(self.submit(proposal));
        if let Some(ended) = submitting.as_mut().now_or_never() {
            return ended;
        }
        writer.step(waiting);
        submitting.now_or_never().unwrap_or(Err(SubmitError::Closed))
    }

    /// Finishes what was proposed and lets go of the file. Views still work; proposals end with
    /// [`SubmitError::Closed`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Envelope::Close(done)).await.is_ok() {
            // An error says that the writer is gone already.
            let _ = closed.await;
        }
    }

    /// The registry as it is durable now, to be read beside its writer.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        Snapshot::take(&self.source)?.ok_or(SnapshotError::Closed)
    }

    /// Begins to keep what changes, so that zones can be transferred. Costs time and memory at each change.
    pub fn keep_journals(&self) {
        if self.view().index().journals().is_none() {
            self.shared.index.write().keep_journals(self.shared.journal);
        }
    }

    /// Keeps them no longer: nobody takes zones.
    pub fn drop_journals(&self) {
        if self.view().index().journals().is_some() {
            self.shared.index.write().set_journals(None);
        }
    }

    /// Proposals that wait in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Random octets made with the registry; others after a restore.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.shared.incarnation
    }
}

/// Reads octets as what lies beside the registry, behind digests that fit: commits, and a checkpoint's registers. Whatever they are,
/// they are refused or make whole registers. For fuzzing.
#[doc(hidden)]
pub fn read_files(octets: &[u8], domain: &Domain) {
    storage::wal::read_whole(octets);
    let Ok(mut index) = Index::from_checkpoint(domain, &mut &*octets) else {
        return;
    };
    index.finish_loading();
    let registers = &index.registers;
    for row in 0..u32::try_from(registers.len()).expect("rows are numbered by u32") {
        let register = registers.register(row);
        assert!(
            register.check().is_ok() && registers.find(registers.key(row)).is_some(),
            "{register:?}"
        );
    }
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file is not held any more.
    #[error("the registry is closed: the librarian is stopping")]
    Closed,
    /// The file cannot be read.
    #[error("the registry cannot be read")]
    Storage(#[from] StorageError),
}

impl From<SubmitError> for ResponseCode {
    fn from(error: SubmitError) -> Self {
        error.rcode()
    }
}

#[cfg(test)]
mod tests;
