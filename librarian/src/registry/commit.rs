//! The one writer: judges what is proposed, makes it durable in groups, then publishes it.
//!
//! ```text
//!  queue --all that wait--> judged one after the other --one transaction--> durable --> published --> replied to
//! ```
//!
//! A reply, a refusal too, leaves only after the commit of its group: a refusal may rest on an earlier member. When a
//! commit fails nothing of the group is published and nobody is told that it was refused, since it may be on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use tokio::sync::{mpsc, oneshot};

use super::chunk::Chunk;
use super::draft::{Changes, Draft, Overlay};
use super::entry::{Entry, is_register};
use super::index::Index;
use super::proposal::{self, Proposal, Refused};
use super::storage::{Batch, Storage, StorageError, damaged};
use super::{Shared, SubmitError, Waiting, checkpoint, kept};

/// Entries that do not count before cleaning begins, besides as many as count. Two old entries for each of them are looked at in
/// the commit that cleans: that keeps the log below twice what counts, and most commits have nothing to do with it.
const CLEAN_SLACK: usize = 4096;
/// Entries published under one hold of the lock, so that a large group does not hold answers up.
const PUBLISH_STEP: usize = 256;

type Reply = oneshot::Sender<Result<(), SubmitError>>;

/// What waits for the writer.
pub(super) enum Envelope {
    Propose(Box<Proposal>, Reply),
    /// Finish what came before and let go of the file.
    Close(oneshot::Sender<()>),
}

/// The writer and what it alone knows.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) storage: Box<dyn Storage>,
    pub(super) next_seq: u64,
    /// No entry has a number below this.
    pub(super) first_seq: u64,
    /// Entries in the log.
    pub(super) log_entries: u64,
    pub(super) group_max: usize,
    /// What was last read of the low end of the log.
    pub(super) low_end: Chunk,
    /// The commit in the making.
    pub(super) batch: Batch,
    /// Where journals and a checkpoint are written at the end.
    pub(super) beside: Option<Beside>,
    /// The number of the next entry when the checkpoint that there is was written.
    pub(super) checkpoint_seq: Option<u64>,
    /// Whether a commit failed. It may be in the log all the same, and is not in memory.
    pub(super) has_failed: bool,
}

/// Files beside the registry's own, which the next process may do without.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    pub(super) journal: PathBuf,
    pub(super) checkpoint: PathBuf,
}

impl Beside {
    pub(super) fn of(registry: &Path) -> Beside {
        Beside {
            journal: registry.with_extension("journal"),
            checkpoint: registry.with_extension("checkpoint"),
        }
    }
}

impl Writer {
    /// Runs until closed, or until nobody can propose any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Envelope>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = queue.blocking_recv() else { break };
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(envelope) = next.take() {
                match envelope {
                    Envelope::Propose(proposal, reply) => group.push((proposal, reply)),
                    Envelope::Close(done) => {
                        closing = Some(done);
                        break;
                    }
                }
                if group.len() < self.group_max {
                    next = queue.try_recv().ok();
                }
            }
            if !group.is_empty() {
                self.commit(group);
            }
        }
        queue.close();
        if closing.is_some() {
            self.keep_journals();
            self.keep_memory();
        }
        drop(self.storage);
        if let Some(done) = closing {
            // Whoever waits may have gone.
            let _ = done.send(());
        }
    }

    /// Writes down what changed lately, for the next process. Without it secondaries take whole zones.
    fn keep_journals(&self) {
        let Some(beside) = &self.beside else { return };
        let index = self.shared.index.read();
        let Some(journals) = index.journals() else { return };
        let of = kept::Of {
            incarnation: self.shared.incarnation,
            next_seq: self.next_seq,
        };
        if let Err(error) = kept::write(&beside.journal, of, journals) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "changes are not kept: secondaries take whole zones"
            );
        }
    }

    /// Writes down what is in memory, for the next process. Without it that one reads the whole log.
    pub(super) fn keep_memory(&self) {
        let Some(beside) = &self.beside else { return };
        if self.has_failed || self.checkpoint_seq == Some(self.next_seq) {
            return;
        }
        let started = Instant::now();
        let (path, incarnation) = (&beside.checkpoint, self.shared.incarnation);
        let index = self.shared.index.read();
        match checkpoint::write(path, incarnation, self.next_seq, &index, &*self.storage) {
            Ok(()) => {
                let write_ms = started.elapsed().as_millis();
                tracing::info!(objects = index.registers.live(), write_ms, "checkpoint written");
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no checkpoint is written: the next start reads the whole log"
            ),
        }
    }

    /// Commits all that waits now, as one group.
    pub fn step(&mut self, waiting: &mut Waiting) {
        let mut group = Vec::new();
        while let Ok(envelope) = waiting.0.try_recv() {
            match envelope {
                Envelope::Propose(proposal, reply) => group.push((proposal, reply)),
                // Nothing is held that could be let go of.
                Envelope::Close(done) => drop(done.send(())),
            }
        }
        if !group.is_empty() {
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<(Box<Proposal>, Reply)>) {
        let shared = Arc::clone(&self.shared);
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let mut cleaned = None;
        let mut allowed: Vec<(Vec<(u64, Entry)>, Changes)> = Vec::new();
        let mut replies = Vec::with_capacity(group.len());
        {
            let index = shared.index.read();
            let (changes, judged) = judge_all(&index, group);
            replies.extend(judged);
            let new = changes.iter().map(|changes| changes.entries.len()).sum::<usize>();
            let serials = changes.iter().rev().find_map(|changes| changes.serials);
            if new > 0 {
                match self.clean(&index, 2 * (new + CLEAN_SLACK), &mut batch) {
                    Ok(low_end) => cleaned = low_end,
                    Err(error) => return fail_all(replies, &error),
                }
            }
            for mut changes in changes {
                let entries = std::mem::take(&mut changes.entries);
                let numbered = entries
                    .into_iter()
                    .map(|entry| (self.append(&mut batch, &entry), entry));
                allowed.push((numbered.collect(), changes));
            }
            if let Some(serials) = serials {
                let entry = Entry::Serials(serials);
                let seq = self.append(&mut batch, &entry);
                allowed.push((vec![(seq, entry)], Changes::default()));
            }
        }
        let new = batch.entries.len() as u64;
        if new > 0
            && let Err(error) = self.storage.commit(&batch)
        {
            self.has_failed = true;
            return fail_all(replies, &error);
        }
        self.batch = batch;
        self.log_entries += new;
        // Not before the commit: what a failed one would have dropped is still needed.
        let mut moved = Vec::new();
        if let Some(low_end) = cleaned {
            self.first_seq = low_end.first_seq;
            self.log_entries -= low_end.dropped;
            moved = low_end.moved;
        }
        publish(&shared, moved, allowed);
        for (reply, result) in replies {
            // Whoever asked may have gone; the change stands.
            let _ = reply.send(result.map_err(SubmitError::Refused));
        }
    }

    fn append(&mut self, batch: &mut Batch, entry: &Entry) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        batch.entries.push_entry(seq, entry);
        seq
    }

    /// Has the batch drop entries from the low end of the log and copy those that still count to its high end.
    fn clean(&mut self, index: &Index, most: usize, batch: &mut Batch) -> Result<Option<LowEnd>, StorageError> {
        if self.log_entries <= 2 * index.entries() + CLEAN_SLACK as u64 {
            return Ok(None);
        }
        let old = &mut self.low_end;
        old.clear();
        self.storage.read_log(self.first_seq, most, &mut |seq, octets| {
            old.push(seq, octets);
            Ok(())
        })?;
        let Some(last) = old.last() else { return Ok(None) };
        batch.forget_below = Some(last + 1);
        let mut moved = Vec::new();
        for octets in index.counting(old)? {
            // Where the log holds a register is not known, so that nothing of it moves.
            if !is_register(octets) {
                let entry = Entry::from_bytes(octets).map_err(|reason| damaged(last, reason))?;
                moved.push((self.next_seq, entry));
            }
            batch.entries.push(self.next_seq, octets);
            self.next_seq += 1;
        }
        Ok(Some(LowEnd {
            first_seq: last + 1,
            dropped: old.len() as u64,
            moved,
        }))
    }
}

/// Where the log begins after a commit that cleans.
struct LowEnd {
    first_seq: u64,
    /// Entries that are gone from the low end.
    dropped: u64,
    /// Those of them that count and are no registers, under their new numbers.
    moved: Vec<(u64, Entry)>,
}

type Judged = Vec<(Reply, Result<(), Refused>)>;

/// Judges a group in its order, each on what is published and what earlier members change.
fn judge_all(index: &Index, group: Vec<(Box<Proposal>, Reply)>) -> (Vec<Changes>, Judged) {
    let mut earlier = Overlay::default();
    let mut allowed = Vec::new();
    let mut judged = Vec::with_capacity(group.len());
    for (proposal, reply) in group {
        let mut draft = Draft::new(index, &earlier);
        let verdict = proposal::draft(&mut draft, &proposal);
        if verdict.is_ok() {
            let (own, changes) = draft.finish();
            earlier.absorb(own);
            allowed.push(changes);
        }
        judged.push((reply, verdict));
    }
    (allowed, judged)
}

fn publish(shared: &Shared, moved: Vec<(u64, Entry)>, allowed: Vec<(Vec<(u64, Entry)>, Changes)>) {
    let mut index = shared.index.write();
    let mut held = moved.len();
    for (seq, entry) in &moved {
        index.moved(entry, *seq);
    }
    for (entries, changes) in allowed {
        // Only between messages, so that no answer sees half of one.
        if held > PUBLISH_STEP {
            parking_lot::RwLockWriteGuard::bump(&mut index);
            held = 0;
        }
        held += entries.len() + changes.soft.len();
        index.publish(entries, changes);
    }
}

fn fail_all(replies: Judged, error: &StorageError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        proposals = replies.len(),
        "registry cannot be written: correct what the disk lacks, then restart the librarian"
    );
    for (reply, _) in replies {
        let _ = reply.send(Err(SubmitError::Storage));
    }
}

impl SubmitError {
    /// The rcode of the answer to an update that ended so.
    #[must_use]
    pub fn rcode(&self) -> ResponseCode {
        match self {
            SubmitError::Refused(refused) => refused.rcode,
            SubmitError::Storage | SubmitError::Closed => ResponseCode::ServFail,
        }
    }
}
