//! Writes of objects that are here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;
use zones::{Address, Epoch, Keep, Level, ObjectType};

use super::forwards::{gone_to, held_for};
use super::ids::WriteId;
use super::sharing::Confirmation;
use super::steps::{self, Step};
use super::table::{Slot, owned};
use super::turn::{Turn, Visit};
use super::words::{Condition, Put, WriteError, Written};
use super::{Objects, StagedBody};
use crate::clock::{self, BootInstant};
use crate::store::{CommitError, Entry, Journal, StagedStream, WriteRecord};
use crate::vault::Part;

/// Pause before a turn that came too early is asked for again.
const SETTLING_PAUSE: Duration = Duration::from_millis(2);
/// How long a write waits for the servers that are to have it too. Who does not answer is dropped before, so it ends sooner unless
/// something is wrong here.
const HELD_WITHIN: Duration = Duration::from_secs(60);

/// A write whose parts are all on disk.
#[derive(Debug)]
pub struct Prepared {
    /// Who writes.
    pub client: String,
    /// The client's own number of this write.
    pub write_id: Option<Uuid>,
    /// Keyed hash of verb and content.
    pub request_hash: [u8; 32],
    /// When it may happen.
    pub condition: Condition,
    /// Its type, if it changes.
    pub kind: Option<ObjectType>,
    /// Its schema version, if it changes.
    pub schema: Option<u32>,
    /// Its properties, if they change.
    pub properties: Option<StagedStream>,
    /// The same as octets, as long as it is open in which version they are kept.
    pub octets: Option<Bytes>,
    /// Its body, if it changes.
    pub body: Option<StagedStream>,
}

impl Prepared {
    /// What its parts are sealed at.
    pub(super) fn level(&self) -> Option<Level> {
        let part = self.body.as_ref().or(self.properties.as_ref());
        part.map(StagedStream::level)
    }

    pub(super) fn id(&self) -> Option<WriteId<'_>> {
        self.write_id.map(|id| WriteId {
            client: &self.client,
            id,
            request_hash: self.request_hash,
        })
    }

    pub(super) fn record(&self, revision: u64, now_ms: u64) -> Option<WriteRecord> {
        self.write_id.map(|id| WriteRecord {
            client: self.client.clone(),
            id,
            request_hash: self.request_hash,
            unix_ms: now_ms,
            revision,
        })
    }
}

impl Put {
    /// Whether a row was changed under this write id, by this client.
    pub(super) fn is_known_to(&self, entry: &Entry) -> bool {
        let known = |id: Uuid| {
            entry
                .writes
                .iter()
                .any(|record| record.id == id && record.client == self.client)
        };
        self.write_id.is_some_and(known)
    }
}

impl Objects {
    /// Writes an object, or makes it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]. After `Unavailable` the outcome is open: repeat the write under the same write id.
    pub async fn put(self: &Arc<Self>, address: &Address, put: Put) -> Result<Written, WriteError> {
        let until = Instant::now() + self.settings.queue_wait;
        let prepared = self.prepare(address, put).await?;
        self.in_turn(address, until, |objects, address, turn| async move {
            objects.write(&address, &turn, prepared).await
        })
        .await
    }

    /// Runs a change of one object in its turn. Once it has the turn it runs to its end, also when nobody waits for it
    /// any more.
    pub(super) async fn in_turn<F>(
        self: &Arc<Self>,
        address: &Address,
        until: Instant,
        change: impl FnOnce(Arc<Objects>, Address, Turn) -> F,
    ) -> Result<Written, WriteError>
    where
        F: Future<Output = Result<Written, WriteError>> + Send + 'static,
    {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let visit = Visit::new(&self.table, address);
        let turn = self.open_turn(visit.slot(), until).await;
        let written = match turn {
            Ok(turn) => {
                let change = change(Arc::clone(self), address.clone(), turn);
                let objects = Arc::clone(self);
                let place = address.clone();
                let task = tokio::spawn(async move {
                    let written = change.await;
                    objects.table.forget(&place);
                    written
                });
                match timeout_at(until, task).await {
                    Ok(Ok(written)) => written,
                    Ok(Err(failed)) => Err(WriteError::Failed {
                        what: failed.to_string(),
                    }),
                    Err(_) => Err(WriteError::Unavailable {
                        why: "the librarian has not settled it yet",
                        retry_after: Duration::from_secs(1),
                    }),
                }
            }
            Err(error) => Err(error),
        };
        match &written {
            Ok(_) => self.meter.note(address, BootInstant::now()),
            Err(WriteError::Unavailable { .. } | WriteError::Failed { .. }) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        written
    }

    /// Waits for the turn of an object that takes writes, or passes them on. An object may become a held one between the
    /// turn and the look at it, when it has just arrived: then the turn is given back, and waited for anew.
    async fn open_turn(&self, slot: &Arc<Slot>, until: Instant) -> Result<Turn, WriteError> {
        loop {
            let turn = slot.turn(self.settings.queued_writes_max, until).await?;
            if turn.is_open() {
                return Ok(turn);
            }
            drop(turn);
            tokio::time::sleep(SETTLING_PAUSE).await;
        }
    }

    /// Takes the properties to disk and hashes what is asked for.
    async fn prepare(&self, address: &Address, put: Put) -> Result<Prepared, WriteError> {
        let Put {
            client,
            write_id,
            condition,
            kind,
            schema,
            properties,
            body,
        } = put;
        let mut octets = None;
        let properties = match properties {
            None if schema.is_some() => {
                return Err(WriteError::Schema {
                    why: "schema says which version the properties are in: send them with it".to_owned(),
                });
            }
            None => None,
            Some(properties) => {
                let json = serde_json_canonicalizer::to_vec(&properties).map_err(|error| WriteError::Address {
                    why: format!("the properties are no I-JSON (RFC 7493): {error}"),
                })?;
                if json.len() as u64 > self.settings.properties_max {
                    return Err(WriteError::TooLarge {
                        what: "properties",
                        octets: json.len() as u64,
                        allowed: self.settings.properties_max,
                    });
                }
                let json = Bytes::from(json);
                octets = Some(json.clone());
                // A body may have been taken for long: what is asked of new objects may have risen meanwhile.
                let level = body.as_ref().map(|body| body.staged.level());
                Some(self.stage_small(address, Part::Properties, level, json).await?)
            }
        };
        let body = body.map(|StagedBody { staged }| staged);
        let request_hash = self.request_hash(
            "put",
            &[
                kind.as_ref().map(|kind| kind.as_str().as_bytes()),
                schema.map(u32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice),
                properties
                    .as_ref()
                    .map(|staged| staged.digest().0)
                    .as_ref()
                    .map(<[u8; 32]>::as_slice),
                body.as_ref()
                    .map(|staged| staged.digest().0)
                    .as_ref()
                    .map(<[u8; 32]>::as_slice),
            ],
        );
        Ok(Prepared {
            client,
            write_id,
            request_hash,
            condition,
            kind,
            schema,
            properties,
            octets,
            body,
        })
    }

    async fn write(self: Arc<Self>, address: &Address, turn: &Turn, put: Prepared) -> Result<Written, WriteError> {
        self.permitted(turn).await?;
        let Some(entry) = turn.current() else {
            let made = Arc::clone(&self).make(address, put).await?;
            turn.rest();
            held_within(self.made_safe(address, made.epoch, made.revision)).await?;
            return Ok(made);
        };
        let may_be_repeated = put.id().is_some();
        let put = self.fit(address, Some(&entry), put).await?;
        match steps::write(&entry, put, clock::unix_ms()) {
            // A former owner has a tombstone too, without the write ids of those after it.
            Err(WriteError::Deleted) if may_be_repeated => Err(self.deleted_by(address).await?),
            Err(error) => Err(error),
            Ok(Step::Known(written)) => {
                turn.rest();
                match written.created {
                    true => held_within(self.made_safe(address, entry.epoch, written.revision)).await?,
                    false => held_within(self.confirmed(address, entry.epoch, written.revision)).await?,
                }
                Ok(written)
            }
            Ok(Step::Row(new)) => {
                if !self.is_permitted(&entry, BootInstant::now()) {
                    return Err(not_permitted());
                }
                let entry = self.replace(&entry, *new).await.map_err(|error| uncommitted(&error))?;
                turn.rest();
                held_within(self.confirmed(address, entry.epoch, entry.revision)).await?;
                Ok(written(&entry, entry.revision))
            }
        }
    }

    /// Waits until every other holder of the object permits that it is changed. Who holds it may change meanwhile.
    pub(super) async fn permitted(&self, turn: &Turn) -> Result<(), WriteError> {
        let until = Instant::now() + self.settings.queue_wait;
        loop {
            let Some(entry) = turn.current().filter(|entry| owned(entry)) else {
                return Ok(());
            };
            let Err(changed) = self.may_write(&entry, BootInstant::now()) else {
                return Ok(());
            };
            turn.rest();
            let waited = timeout_at(until, changed).await;
            turn.resume().await;
            waited.map_err(|_| not_permitted())?;
        }
    }

    /// Waits until every in-sync holder has what is durable here. A holder that does not answer is dropped meanwhile, so this ends
    /// as long as the librarian answers; who waits for the write gives up before.
    async fn confirmed(&self, address: &Address, epoch: Epoch, revision: u64) -> Result<(), WriteError> {
        loop {
            match self.confirmation(address, epoch, revision, BootInstant::now()) {
                Confirmation::Given => return Ok(()),
                Confirmation::Wait(changed) => changed.await,
                Confirmation::Lost => {
                    return Err(WriteError::Unavailable {
                        why: "another server has taken the object over",
                        retry_after: Duration::from_secs(1),
                    });
                }
            }
        }
    }

    /// How many copies objects are to have, and where, as this server was told last.
    pub(crate) fn keep(&self) -> Keep {
        let wanted = self.wanted.borrow();
        wanted
            .want
            .as_ref()
            .map(|want| want.errand.keep.clone())
            .unwrap_or_default()
    }

    /// Waits until a new object may be acknowledged: it has its copies, and they are confirmed. A holder may be dropped while it is
    /// waited for, so both are to be so at one time.
    async fn made_safe(&self, address: &Address, epoch: Epoch, revision: u64) -> Result<(), WriteError> {
        loop {
            self.copied(address, epoch).await;
            self.confirmed(address, epoch, revision).await?;
            if self
                .has_copies(address, epoch, &self.keep(), self.registers.me())
                .is_ok()
            {
                return Ok(());
            }
        }
    }

    /// Waits until a new object has as many copies as it is to have, or as there are servers for: so what was acknowledged
    /// survives the loss of one.
    async fn copied(&self, address: &Address, epoch: Epoch) {
        let mut wanted = self.wanted.clone();
        loop {
            wanted.mark_unchanged();
            let Err(changed) = self.has_copies(address, epoch, &self.keep(), self.registers.me()) else {
                return;
            };
            self.ask_for(address);
            tokio::select! {
                () = changed => {}
                news = wanted.changed() => if news.is_err() { return },
            }
        }
    }
}

/// Waits for other servers, but not for ever: an object whose copy here rots as soon as it is made can be sent to nobody, and a
/// turn that is never given back would keep every later write from it.
async fn held_within(wait: impl Future<Output = Result<(), WriteError>>) -> Result<(), WriteError> {
    let unheld = || WriteError::Unavailable {
        why: "other servers did not take a copy of it in time",
        retry_after: Duration::from_secs(1),
    };
    timeout(HELD_WITHIN, wait).await.unwrap_or_else(|_| Err(unheld()))
}

fn not_permitted() -> WriteError {
    WriteError::Unavailable {
        why: "another server that holds a copy of it does not answer",
        retry_after: Duration::from_secs(1),
    }
}

/// What was written, now and at its repetition.
pub(super) fn written(entry: &Entry, revision: u64) -> Written {
    Written {
        epoch: entry.epoch,
        revision,
        schema: entry.schema,
        created: revision == 1,
    }
}

/// Whether writes of the copy wait for a move. The end of a new owner's wait opens its gate at once, and is noted in the
/// journal after that: the gate decides.
pub(super) fn waits(entry: &Entry, held: bool) -> bool {
    match &entry.journal {
        Journal::Active { wait: Some(_) } => held,
        Journal::Sealed { .. } => true,
        Journal::Active { wait: None }
        | Journal::Moving { .. }
        | Journal::Moved { .. }
        | Journal::Forward { .. }
        | Journal::Tombstone { .. }
        | Journal::CreateSent { .. }
        | Journal::DeleteSent { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. }
        | Journal::Held { .. } => false,
    }
}

/// Whether the copy takes writes; if not, who does.
pub(super) fn writable(entry: &Entry) -> Result<(), WriteError> {
    match &entry.journal {
        Journal::Active { .. } | Journal::Moving { .. } => Ok(()),
        Journal::Moved { to, epoch } | Journal::Forward { to, epoch } => Err(gone_to(entry, to, *epoch).into()),
        Journal::Tombstone { .. } => Err(WriteError::Deleted),
        Journal::Held { owner, .. } => Err(held_for(entry, owner).into()),
        // Turns are held back or taken in these states.
        Journal::Sealed { .. }
        | Journal::CreateSent { .. }
        | Journal::DeleteSent { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. } => Err(WriteError::Unavailable {
            why: "its owner is being settled",
            retry_after: Duration::from_secs(1),
        }),
    }
}

/// Whether the condition of a write holds at the present revision; `None` for an object that does not exist.
pub(super) fn holds(condition: Condition, revision: Option<u64>) -> Result<(), WriteError> {
    let holds = match condition {
        Condition::Any => true,
        Condition::IfRevision(expected) => revision == Some(expected),
        Condition::IfExists => revision.is_some(),
        Condition::IfAbsent => revision.is_none(),
    };
    match holds {
        true => Ok(()),
        false => Err(WriteError::Precondition { revision }),
    }
}

/// When asking again makes sense while the key provider is away.
pub(crate) const KEYS_RETRY: Duration = Duration::from_secs(5);

/// What a client is told when the index does not take a change.
pub(super) fn uncommitted(error: &CommitError) -> WriteError {
    if let CommitError::Vault(vault) = error
        && let Some(why) = vault.outage()
    {
        return WriteError::Unavailable {
            why,
            retry_after: KEYS_RETRY,
        };
    }
    if let CommitError::Closed = error {
        return WriteError::NotServing { why: error.to_string() };
    }
    tracing::error!(error = error as &dyn std::error::Error, "a change cannot be committed");
    WriteError::Failed {
        what: error.to_string(),
    }
}
