//! Group commit: one thread makes data durable, then the index, for everybody who waits.
//!
//! Callers wrap keys and encode rows on their own threads; the committer only numbers, writes and publishes. A change
//! that names a vanished entry fails alone and leaves the others of its group alone.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use zones::ServerName;

use super::Shared;
use super::audit;
use super::entry::{Change, Content, Entry, NewEntry, Stream};
use super::index::{Applied, Group, Index, IndexError};
use crate::vault::{Generation, Part, VaultError, WrappedDek};

/// Changes of one group: bounds the transaction's memory.
const GROUP_CHANGES_MAX: usize = 16 * 1024;

/// Why changes were not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The entry was replaced or removed before: look at what the object has become, and decide anew.
    #[error("no entry has number {seq}: it was replaced or removed")]
    NoSuchEntry {
        /// The number given.
        seq: u64,
    },
    /// The entry to be contradicts its streams.
    #[error("entry of {address}: {what}")]
    Contradiction {
        /// The object.
        address: zones::Address,
        /// How.
        what: &'static str,
    },
    /// Nothing new begins on this server: it is about to be stopped for another release.
    #[error("this server is about to be stopped for another release, and takes nothing new")]
    Closed,
    /// A data key could not be wrapped.
    #[error("wrap a data key")]
    Vault(#[from] VaultError),
    /// Nothing was changed: the index could not be written, mostly for want of disk space. Trying again is safe.
    #[error("write the index")]
    Index(#[source] Arc<IndexError>),
    /// Data or index could not be made durable, and what is on disk is unknown: stop the agent; its next start reads it.
    #[error("the store has failed and must be opened anew: restart the agent")]
    Failed(#[source] Arc<io::Error>),
}

type Reply = Result<Vec<Arc<Entry>>, CommitError>;

/// Changes ready for the index.
#[derive(Debug)]
pub(crate) struct Request {
    changes: Vec<Prepared>,
    reply: SyncSender<Reply>,
}

/// One change, its keys wrapped and its row encoded.
#[derive(Debug)]
pub(super) struct Prepared {
    removes: Option<u64>,
    adds: Option<(Box<Entry>, Vec<u8>)>,
    /// The same copy under the same number, its data keys wrapped anew; left out if the copy is gone by then.
    rewraps: Option<(Box<Entry>, Vec<u8>)>,
    /// Its entry of the audit log.
    line: Option<String>,
    /// What another server is promised from now on.
    pledge: Option<(ServerName, u64)>,
}

impl Prepared {
    /// Another pledge to a server.
    pub(super) fn pledged(peer: ServerName, pledge: u64) -> Prepared {
        Prepared {
            removes: None,
            adds: None,
            rewraps: None,
            line: None,
            pledge: Some((peer, pledge)),
        }
    }

    /// An entry whose data keys were wrapped anew and in which nothing else differs.
    pub(super) fn rewrapped(entry: Entry) -> Prepared {
        let row = entry.encode_row();
        Prepared {
            removes: None,
            adds: None,
            rewraps: Some((Box::new(entry), row)),
            line: None,
            pledge: None,
        }
    }
}

/// Prepares changes on the caller's thread.
pub(super) fn prepare_all(shared: &Shared, changes: Vec<Change>) -> Result<Vec<Prepared>, CommitError> {
    changes.into_iter().map(|change| prepare(shared, change)).collect()
}

/// Hands changes to the committer and waits for its answer.
pub(super) fn submit(queue: &SyncSender<Request>, changes: Vec<Prepared>) -> Reply {
    let (reply, answer) = sync_channel(1);
    let gone = || CommitError::Failed(Arc::new(io::Error::other("the committer is gone")));
    queue.send(Request { changes, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// Commits changes on the caller's thread.
pub(super) fn here(shared: &Shared, index: &mut Index, changes: Vec<Prepared>) -> Reply {
    let (reply, answer) = sync_channel(1);
    commit_group(shared, index, vec![Request { changes, reply }]);
    answer.recv().expect("every request of a group is answered")
}

fn prepare(shared: &Shared, change: Change) -> Result<Prepared, CommitError> {
    let (old, entry) = match change {
        Change::Remove { seq } => {
            return Ok(Prepared {
                removes: Some(seq),
                adds: None,
                rewraps: None,
                line: None,
                pledge: None,
            });
        }
        Change::Insert(entry) => (None, entry),
        Change::Replace { seq, entry } => {
            let old = shared.live.read().get(&seq).cloned();
            (Some(old.ok_or(CommitError::NoSuchEntry { seq })?), entry)
        }
    };
    let note = entry.audit;
    let entry = wrap(shared, old.as_deref(), entry)?;
    let line = match &old {
        Some(old) => {
            audit::line(shared.auditor.me(), old, &entry, note).map_err(|what| CommitError::Contradiction {
                address: entry.address.clone(),
                what,
            })?
        }
        None => None,
    };
    let row = entry.encode_row();
    Ok(Prepared {
        removes: old.map(|old| old.seq),
        adds: Some((Box::new(entry), row)),
        rewraps: None,
        line,
        pledge: None,
    })
}

/// Builds the entry, with every data key wrapped and bound to what the entry says.
fn wrap(shared: &Shared, old: Option<&Entry>, new: NewEntry) -> Result<Entry, CommitError> {
    let contradiction = |what| CommitError::Contradiction {
        address: new.address.clone(),
        what,
    };
    let stream = |part: Part, content: &Content| -> Result<Option<Stream>, CommitError> {
        match content {
            Content::Absent => Ok(None),
            Content::Kept => {
                let old = old.ok_or_else(|| contradiction("a new copy has no stream to keep"))?;
                if old.address != new.address || old.level != new.level {
                    // Both are bound to every chunk.
                    return Err(contradiction("a kept stream cannot change its address or level"));
                }
                let kept = old.stream(part);
                Ok(Some(
                    kept.ok_or_else(|| contradiction("the entry has no such stream to keep"))?
                        .clone(),
                ))
            }
            Content::Staged(staged) => {
                let inner = &staged.inner;
                if inner.address != new.address || inner.part != part || inner.level != new.level {
                    return Err(contradiction("a stream was written for another object, part or level"));
                }
                Ok(Some(Stream {
                    id: inner.sealed.id,
                    suite: inner.sealed.suite.number(),
                    nonce_prefix: inner.sealed.prefix,
                    // Both are set below, once the whole binding is known.
                    kek_generation: Generation(0),
                    wrapped_dek: WrappedDek(Vec::new()),
                    extents: inner.extents.clone(),
                    padded_octets: inner.sealed.suite.padded_octets(inner.sealed.key.plain_octets),
                    plain_octets: inner.sealed.key.plain_octets,
                    commitment: inner.sealed.commitment,
                    digest: inner.sealed.digest,
                }))
            }
        }
    };
    let properties = stream(Part::Properties, &new.properties)?;
    let body = stream(Part::Body, &new.body)?;
    let mut entry = Entry {
        seq: 0,
        address: new.address,
        epoch: new.epoch,
        revision: new.revision,
        kind: new.kind,
        schema: new.schema,
        level: new.level,
        journal: new.journal,
        properties,
        body,
        writes: new.writes,
        tx: new.tx,
        from: new.from,
        received: new.received,
        quarantined: new.quarantined,
        migrated_from: new.migrated_from,
        leaving: new.leaving,
        keeping: new.keeping,
    };
    for (part, content) in [(Part::Properties, &new.properties), (Part::Body, &new.body)] {
        let Some(stream) = entry.stream(part) else { continue };
        let binding = entry.binding(part, stream.suite)?;
        let wrapped = match content {
            Content::Absent => continue,
            Content::Staged(staged) => shared.vault.wrap(&staged.inner.sealed.key, &binding)?,
            Content::Kept => {
                let old = old.expect("checked when the stream was kept");
                let old_binding = old.binding(part, stream.suite)?;
                let current = shared.vault.provider().current().map_err(VaultError::from)?.0;
                if old_binding == binding && stream.kek_generation == current {
                    continue;
                }
                let key = shared.stream_key(old, part)?;
                shared.vault.wrap(&key, &binding)?
            }
        };
        let stream = match part {
            Part::Properties => &mut entry.properties,
            Part::Body => &mut entry.body,
        };
        let stream = stream.as_mut().expect("it was there above");
        (stream.kek_generation, stream.wrapped_dek) = wrapped;
    }
    Ok(entry)
}

/// The committer's loop; ends when the store is dropped.
pub(crate) fn run(shared: &Shared, mut index: Index, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let mut count = first.changes.len();
        let mut group = vec![first];
        while count < GROUP_CHANGES_MAX
            && let Ok(next) = requests.try_recv()
        {
            count += next.changes.len();
            group.push(next);
        }
        commit_group(shared, &mut index, group);
    }
}

fn commit_group(shared: &Shared, index: &mut Index, group: Vec<Request>) {
    let mut removed: Vec<u64> = Vec::new();
    let mut gone: HashSet<u64> = HashSet::new();
    let mut added: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut rewrapped: Vec<(Arc<Entry>, Vec<u8>)> = Vec::new();
    let mut answers: Vec<(SyncSender<Reply>, Vec<Arc<Entry>>)> = Vec::new();
    let mut next_seq = index.next_seq;
    let mut lines = Vec::new();
    let mut pledges = Vec::new();
    {
        let live = shared.live.read();
        for Request { changes, reply } in group {
            let mut own = HashSet::new();
            let missing = (changes.iter().filter_map(|change| change.removes))
                .find(|seq| !live.contains_key(seq) || gone.contains(seq) || !own.insert(*seq));
            if let Some(seq) = missing {
                let _ = reply.send(Err(CommitError::NoSuchEntry { seq }));
                continue;
            }
            gone.extend(&own);
            let mut entries = Vec::new();
            for Prepared {
                removes,
                adds,
                rewraps,
                line,
                pledge,
            } in changes
            {
                lines.extend(line);
                pledges.extend(pledge);
                removed.extend(removes);
                if let Some((mut entry, row)) = adds {
                    entry.seq = next_seq;
                    added.push((next_seq, row));
                    next_seq += 1;
                    entries.push(Arc::from(entry));
                }
                rewrapped.extend(rewraps.map(|(entry, row)| (Arc::from(entry), row)));
            }
            answers.push((reply, entries));
        }
        rewrapped.retain(|(entry, _)| live.contains_key(&entry.seq) && !gone.contains(&entry.seq));
    }
    if answers.is_empty() {
        return;
    }
    added.extend(
        rewrapped
            .iter_mut()
            .map(|(entry, row)| (entry.seq, std::mem::take(row))),
    );
    // Data first: a durable row never names blocks that are not.
    let outcome = match shared.space.sync() {
        Ok(()) => index.apply(&Group {
            removed: &removed,
            added: &added,
            next_seq,
            grown: &shared.space.grown(),
            lines: &lines,
            pledges: &pledges,
        }),
        Err(error) => Applied::Failed(IndexError::Io(error)),
    };
    match outcome {
        Applied::Done => {
            shared.space.set_index_octets(index.octets());
            *shared.audit_head.write() = index.ends.head;
            shared.pledges.write().extend(pledges);
            let old: Vec<Option<Arc<Entry>>> = {
                let mut live = shared.live.write();
                let fresh = answers.iter().flat_map(|(_, entries)| entries);
                for entry in fresh.chain(rewrapped.iter().map(|(entry, _)| entry)) {
                    live.insert(entry.seq, entry.clone());
                }
                removed.iter().map(|seq| live.remove(seq)).collect()
            };
            // Frees the blocks of copies that nobody reads, now that no durable row names them.
            drop(old);
            shared.commits.store(index.commits, Ordering::Release);
            for (reply, entries) in answers {
                // A caller that is gone has its answer in the index.
                let _ = reply.send(Ok(entries));
            }
        }
        Applied::Refused(error) => {
            let error = Arc::new(error);
            for (reply, _) in answers {
                let _ = reply.send(Err(CommitError::Index(error.clone())));
            }
        }
        Applied::Failed(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the store has failed; restart the agent"
            );
            let error = Arc::new(match error {
                IndexError::Io(error) => error,
                other @ (IndexError::Redb(_) | IndexError::Format { .. } | IndexError::Missing) => {
                    io::Error::other(other)
                }
            });
            // Whether the rows are durable is unknown: what they name must not be written over.
            for (reply, entries) in answers {
                std::mem::forget(entries);
                let _ = reply.send(Err(CommitError::Failed(error.clone())));
            }
        }
    }
}
