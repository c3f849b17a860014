//! Making objects: the copy first, then the register (DESIGN.md section 11, creating).

use std::sync::Arc;
use std::time::Duration;

use zones::{Address, Epoch, Register, RegisterChange, State, Tx};

use super::create::{Action, Create, Created};
use super::words::{WriteError, Written};
use super::writing::{Prepared, holds, uncommitted, written};
use super::{Asked, Objects, ids};
use crate::clock::{self, BootInstant, sleep_until};
use crate::store::{Change, Content, Entry, Journal, NewEntry};

/// Type of a new object that came without one.
const KIND: &str = "file";
/// Pause before the end of a settled change is committed again, after the disk refused it.
const DISK_PAUSE: Duration = Duration::from_secs(1);

impl Objects {
    /// Makes an object, in its turn.
    pub(super) async fn make(self: Arc<Self>, address: &Address, put: Prepared) -> Result<Written, WriteError> {
        match self.ask(address).await? {
            Asked::Free => {}
            Asked::Clash(registered) => return Err(WriteError::CaseClash { registered }),
            Asked::Here => return Err(settling()),
        }
        self.takes_new(address)?;
        holds(put.condition, None)?;
        let now_ms = clock::unix_ms();
        if let Some(id) = put.id() {
            ids::look_up(&[], &id, now_ms)?;
        }
        let _open = self.openings.try_acquire().map_err(|_| settling())?;
        let tx = Tx(rand::random());
        let writes = ids::remember(&[], put.record(1, now_ms), now_ms);
        let new = NewEntry {
            address: address.clone(),
            epoch: Epoch::FIRST,
            revision: 1,
            kind: put.kind.unwrap_or_else(|| KIND.parse().expect("a legal type")),
            schema: put.schema.unwrap_or(1),
            level: self.settings.level,
            journal: Journal::CreateSent { tx },
            properties: put.properties.map_or(Content::Absent, Content::Staged),
            body: put.body.map_or(Content::Absent, Content::Staged),
            writes,
            tx: Some(tx),
            from: None,
        };
        let mut made = self
            .commit(vec![(address.clone(), Change::Insert(new))])
            .await
            .map_err(|error| uncommitted(&error))?;
        let entry = made.pop().expect("an insertion gives one entry");
        let create = Create::new(self.register_of(&entry, tx));
        self.settle_create(entry, create).await
    }

    /// Ends a creation that a restart found in the journal.
    pub(super) async fn recover_create(self: Arc<Self>, entry: Arc<Entry>, tx: Tx) {
        let create = Create::recover(BootInstant::now(), self.register_of(&entry, tx));
        let address = entry.address.clone();
        match self.settle_create(entry, create).await {
            Ok(_) => tracing::info!(%address, "an open creation ended: created"),
            Err(error) => tracing::info!(%address, %error, "an open creation ended"),
        }
    }

    fn register_of(&self, entry: &Entry, tx: Tx) -> Register {
        let me = self.registers.me().clone();
        Register {
            address: entry.address.clone(),
            epoch: entry.epoch,
            owner: me.clone(),
            state: State::Stable,
            tx,
            holders: vec![me],
            kind: entry.kind.clone(),
            schema: entry.schema,
            level: entry.level,
        }
    }

    /// Sends and reads until the register has settled, then commits what it says.
    async fn settle_create(self: &Arc<Self>, entry: Arc<Entry>, mut create: Create) -> Result<Written, WriteError> {
        let mut settling = self.registers.trust().settling().await;
        let created = loop {
            match create.action() {
                Action::Send(new) => {
                    let changed = self.registers.change(RegisterChange { old: None, new }).await;
                    create.changed(BootInstant::now(), changed);
                }
                Action::Ask => match self.registers.read(&entry.address).await {
                    Ok(read) => create.read(BootInstant::now(), &read),
                    Err(_) => create.unreachable(BootInstant::now()),
                },
                Action::Sleep(until) => {
                    drop(settling);
                    sleep_until(until).await;
                    settling = self.registers.trust().settling().await;
                    create.timeout(BootInstant::now());
                }
                Action::End(created) => break created,
            }
        };
        let gone = Change::Remove { seq: entry.seq };
        let settled = match created {
            Created::Made => {
                let active = NewEntry {
                    journal: Journal::Active { wait: None },
                    ..entry.keep()
                };
                let change = Change::Replace {
                    seq: entry.seq,
                    entry: active,
                };
                self.commit_surely(&entry.address, change).await;
                Ok(written(&entry, 1))
            }
            Created::Lost(register) => {
                self.commit_surely(&entry.address, gone).await;
                match register.state {
                    _ if register.address != entry.address => Err(WriteError::CaseClash {
                        registered: register.address,
                    }),
                    State::Deleted => Err(WriteError::Deleted),
                    State::Stable | State::Moving { .. } => Err(WriteError::Elsewhere {
                        owner: register.owner,
                        epoch: register.epoch,
                    }),
                }
            }
            Created::Refused(why) => {
                self.commit_surely(&entry.address, gone).await;
                Err(WriteError::NotServing { why })
            }
        };
        // Only now: a report tells what is durable, and nothing of this may become so behind it.
        drop(settling);
        settled
    }

    /// Commits what the register has settled. A disk that refuses is tried again: the register stands.
    pub(super) async fn commit_surely(self: &Arc<Self>, address: &Address, change: Change) {
        loop {
            match self.commit(vec![(address.clone(), change.clone())]).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(%address, error = &error as &dyn std::error::Error, "a settled change waits for the disk");
                    tokio::time::sleep(DISK_PAUSE).await;
                }
            }
        }
    }
}

pub(super) fn settling() -> WriteError {
    WriteError::Unavailable {
        why: "its register is being settled",
        retry_after: Duration::from_secs(1),
    }
}
