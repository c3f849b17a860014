//! Shorter ways: a forward entry that led astray is replaced by what the register says now.
//!
//! The entry's server may have given the object on itself. Whoever is sent here next is then sent to the owner in one step.

use std::sync::Arc;

use zones::{Address, Epoch, Register, ServerName};

use super::{BatchStep, Local, Miss, Objects};
use crate::store::{Entry, Journal, NewEntry};

/// What a copy that was given away says to a request. Whoever took the object from here takes requests from here; a later
/// owner does not know this server, so the client goes there itself.
pub(super) fn gone_to(entry: &Entry, to: &ServerName, epoch: Epoch) -> Miss {
    match epoch == entry.epoch.next() {
        true => Miss::Party { to: to.clone() },
        false => Miss::Elsewhere {
            owner: to.clone(),
            epoch,
        },
    }
}

/// What a copy that is held for another server says to a request: its owner answers.
pub(super) fn held_for(entry: &Entry, owner: &ServerName) -> Miss {
    Miss::Elsewhere {
        owner: owner.clone(),
        epoch: entry.epoch,
    }
}

impl Local {
    /// Whom to ask instead, where what is here is a copy for another server: that one takes writes.
    #[must_use]
    pub fn owner_of_copy(&self, address: &Address) -> Option<Miss> {
        let entry = self.entry(address)?;
        match &entry.journal {
            Journal::Held { owner, .. } => Some(held_for(&entry, owner)),
            Journal::Active { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::CreateSent { .. }
            | Journal::DeleteSent { .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. } => None,
        }
    }

    /// The step that makes the forward entry of an object tell what its register tells, at agent `me`; `None` if there is no
    /// such entry, or it is as new. Epochs never fall.
    #[must_use]
    pub fn shorter_way(&self, me: &ServerName, register: &Register) -> Option<BatchStep> {
        if register.owner == *me {
            return None;
        }
        let entry = self.entry(&register.address)?;
        let is_older = matches!(&entry.journal, Journal::Forward { epoch, .. } if *epoch < register.owned());
        is_older.then(|| BatchStep::Row {
            address: register.address.clone(),
            seq: entry.seq,
            change: Some(NewEntry {
                journal: Journal::Forward {
                    to: register.owner.clone(),
                    epoch: register.owned(),
                },
                ..entry.keep()
            }),
        })
    }
}

impl Objects {
    /// Shortens the way to an object, in the background: nobody waits for it, and if many do it at once some are left out.
    pub(crate) fn shorten_way(self: &Arc<Self>, register: &Register) {
        let Some(step) = self.local().shorter_way(self.registers().me(), register) else {
            return;
        };
        let Ok(place) = Arc::clone(&self.shortenings).try_acquire_owned() else {
            return;
        };
        let objects = Arc::clone(self);
        tokio::spawn(async move {
            let outcomes = objects.batch(vec![step]).await;
            if let Some(Err(error)) = outcomes.into_iter().next() {
                tracing::debug!(%error, "a forward entry stays as it was");
            }
            drop(place);
        });
    }
}
