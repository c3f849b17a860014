//! Making objects: the copy first, then the register (DESIGN.md section 11, creating).

use std::sync::Arc;
use std::time::Duration;

use zones::{Address, RegisterChange, Tx};

use super::create::{Action, Create};
use super::words::{Miss, WriteError, Written};
use super::writing::{Prepared, uncommitted};
use super::{Asked, Objects, steps};
use crate::clock::{self, BootInstant, sleep_until};
use crate::store::{Change, Entry};

/// Pause before the end of a settled change is committed again, after the disk refused it.
const DISK_PAUSE: Duration = Duration::from_secs(1);

impl Objects {
    /// Makes an object, in its turn.
    pub(super) async fn make(self: Arc<Self>, address: &Address, put: Prepared) -> Result<Written, WriteError> {
        match self.ask(address).await {
            Ok(Asked::Free) => {}
            Ok(Asked::Clash(registered)) => return Err(WriteError::CaseClash { registered }),
            Ok(Asked::Here) => return Err(settling()),
            // It may have been applied before the deletion.
            Err(Miss::Deleted) if put.id().is_some() => return Err(self.deleted_by(address).await?),
            Err(miss) => return Err(miss.into()),
        }
        self.takes_new(address)?;
        let now_ms = clock::unix_ms();
        steps::may_make(&put, now_ms)?;
        // Only now: an object that is elsewhere has a type and version of its own, and its owner other schemas perhaps.
        let put = self.fit(address, None, put).await?;
        let _open = self.openings.try_acquire().map_err(|_| settling())?;
        let tx = Tx(rand::random());
        let new = steps::make(address, put, self.level_of(address), tx, now_ms);
        let mut made = self
            .commit(vec![(address.clone(), Change::Insert(new))])
            .await
            .map_err(|error| uncommitted(&error))?;
        let entry = made.pop().expect("an insertion gives one entry");
        let create = Create::new(steps::register_of(self.registers.me(), &entry, tx));
        self.settle_create(entry, create).await
    }

    /// Ends a creation that a restart found in the journal.
    pub(super) async fn recover_create(self: Arc<Self>, entry: Arc<Entry>, tx: Tx) {
        let create = Create::recover(BootInstant::now(), steps::register_of(self.registers.me(), &entry, tx));
        let address = entry.address.clone();
        match self.settle_create(entry, create).await {
            Ok(_) => tracing::info!(%address, "an open creation ended: created"),
            Err(error) => tracing::info!(%address, %error, "an open creation ended"),
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
        let (change, told) = steps::created(&entry, created);
        self.commit_surely(&entry.address, change).await;
        // Only now: a report tells what is durable, and nothing of this may become so behind it.
        drop(settling);
        told
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
