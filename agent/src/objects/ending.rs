//! Ending objects: what was sent first, then the register, then the tombstone (DESIGN.md section 11, deleting).

use std::sync::Arc;

use tokio::time::Instant;
use zones::{Address, RegisterChange, Tx};

use super::delete::{Action, Delete as Deletion};
use super::making::settling;
use super::steps::{self, Step};
use super::turn::Turn;
use super::words::{Condition, Delete, Miss, WriteError, Written};
use super::writing::uncommitted;
use super::{Asked, Objects};
use crate::clock::{self, BootInstant, sleep_until};
use crate::copies::WAIT;
use crate::store::Entry;

impl Objects {
    /// Deletes an object for ever.
    ///
    /// # Errors
    ///
    /// [`WriteError`]. After `Unavailable` the outcome is open: repeat the deletion under the same write id.
    pub async fn delete(self: &Arc<Self>, address: &Address, delete: Delete) -> Result<Written, WriteError> {
        let until = Instant::now() + self.settings.queue_wait;
        self.in_turn(address, until, |objects, address, turn| async move {
            objects.end(&address, &turn, delete).await
        })
        .await
    }

    async fn end(self: Arc<Self>, address: &Address, turn: &Turn, delete: Delete) -> Result<Written, WriteError> {
        self.permitted(turn).await?;
        let Some(entry) = turn.current() else {
            return match self.ask(address).await {
                // Who deleted it knows under which write id: a repeated deletion succeeds there.
                Err(Miss::Deleted) if delete.write_id.is_some() => Err(self.deleted_by(address).await?),
                Err(miss) => Err(miss.into()),
                Ok(Asked::Here) => Err(settling()),
                Ok(Asked::Free | Asked::Clash(_)) => Err(match delete.condition {
                    Condition::IfRevision(_) | Condition::IfExists => WriteError::Precondition { revision: None },
                    Condition::Any | Condition::IfAbsent => WriteError::Absent,
                }),
            };
        };
        let request_hash = self.request_hash("delete", &[]);
        let tx = Tx(rand::random());
        let new = match steps::delete(&entry, &delete, request_hash, tx, clock::unix_ms()) {
            Ok(Step::Known(written)) => return Ok(written),
            Ok(Step::Row(new)) => *new,
            // A former owner has a tombstone too, without the write ids of those after it.
            Err(WriteError::Deleted) if delete.write_id.is_some() => return Err(self.deleted_by(address).await?),
            Err(error) => return Err(error),
        };
        let _open = self.openings.try_acquire().map_err(|_| settling())?;
        if !self.is_permitted(&entry, BootInstant::now()) {
            return Err(settling());
        }
        let entry = self.replace(&entry, new).await.map_err(|error| uncommitted(&error))?;
        // An open move learns of it; from here on the deletion changes the register.
        turn.cancel_move();
        self.settle_delete(entry, tx).await
    }

    /// Where the tombstone of a deleted object is: it knows under which write ids the object was changed.
    pub(super) async fn deleted_by(&self, address: &Address) -> Result<WriteError, Miss> {
        let read = self.registers.read(address).await.map_err(|_| Miss::unreachable())?;
        let elsewhere = steps::elsewhere(self.registers.me(), &self.keep().lost, address, read.register);
        Ok(
            elsewhere.map_or(WriteError::Deleted, |(owner, epoch)| WriteError::Elsewhere {
                owner,
                epoch,
            }),
        )
    }

    /// Ends a deletion that a restart found in the journal.
    pub(super) async fn recover_delete(self: Arc<Self>, entry: Arc<Entry>, tx: Tx) {
        let address = entry.address.clone();
        match self.settle_delete(entry, tx).await {
            Ok(_) => tracing::info!(%address, "an open deletion ended: deleted"),
            Err(error) => tracing::info!(%address, %error, "an open deletion ended"),
        }
    }

    /// Reads and sends until the register has settled, then commits what it says.
    async fn settle_delete(self: &Arc<Self>, entry: Arc<Entry>, tx: Tx) -> Result<Written, WriteError> {
        let me = self.registers.me().clone();
        let mut deletion = Deletion::new(BootInstant::now(), me, entry.epoch, tx);
        let mut settling = self.registers.trust().settling().await;
        let deleted = loop {
            match deletion.action() {
                Action::Ask => match self.registers.read(&entry.address).await {
                    Ok(read) => deletion.read(BootInstant::now(), &read),
                    Err(_) => deletion.unreachable(BootInstant::now()),
                },
                Action::Send { old, new } => {
                    let change = RegisterChange {
                        old: Some(*old),
                        new: *new,
                    };
                    let changed = self.registers.change(change).await;
                    deletion.changed(BootInstant::now(), &changed);
                }
                Action::Sleep(until) => {
                    drop(settling);
                    sleep_until(until).await;
                    settling = self.registers.trust().settling().await;
                    deletion.timeout(BootInstant::now());
                }
                Action::End(deleted) => break deleted,
            }
        };
        let (change, told) = steps::deleted(&entry, tx, deleted);
        if entry.is_shared() {
            // A holder may show it as long as it was granted to. After a restart nobody knows what was.
            let restarted = || BootInstant::now() + WAIT;
            sleep_until(self.quiet_at(&entry.address).unwrap_or_else(restarted)).await;
        }
        self.commit_surely(&entry.address, change).await;
        self.released(&entry);
        // Only now: a report tells what is durable, and nothing of this may become so behind it.
        drop(settling);
        told
    }
}
