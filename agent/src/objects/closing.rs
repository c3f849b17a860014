//! The agent's own look, at the moment it is to be stopped for another release: whether nothing is left here that a stop could
//! hurt. Once it has said so, nothing new begins.
//!
//! Specification: DESIGN.md section 13 (empty, stopping a server).

use super::local::Local;
use crate::migration::guard::{Guard, stands};

/// What is left on a server that is to be stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotClear {
    /// It owns objects: drain it.
    #[error("{objects} objects are still this server's: drain it first")]
    Owned {
        /// How many.
        objects: u64,
    },
    /// Something is under way: it ends by itself.
    #[error("{rows} entries of its journal are open: wait until they are settled")]
    Open {
        /// How many.
        rows: u64,
    },
    /// It holds copies of objects that others own: these put them elsewhere.
    #[error(
        "{copies} copies of other servers' objects are still here: wait until their owners have put them elsewhere"
    )]
    Held {
        /// How many.
        copies: u64,
    },
    /// Copies are on its disk: retired ones go when its role is empty.
    #[error("{copies} copies are still on its disk: wait until they are removed")]
    Copies {
        /// How many.
        copies: u64,
    },
    /// Room is set aside for what arrives.
    #[error("{octets} octets are set aside for copies to come: wait until their moves have ended")]
    Reserved {
        /// How much.
        octets: u64,
    },
    /// Clients are being answered.
    #[error("{requests} requests of clients run: wait until they have ended")]
    Requests {
        /// How many.
        requests: u64,
    },
}

impl Local {
    /// Whether nothing is left here: no object, no open row, no copy of any kind, also none of another server's object, no
    /// request of a client (of which `running` are under way). What is true now may not be so in a moment: to stop a server,
    /// [`Local::close_for_install`].
    ///
    /// # Errors
    ///
    /// [`NotClear`], the first thing that is left.
    pub fn is_clear(&self, running: u64) -> Result<(), NotClear> {
        if !stands(Guard::ClearAtStop) {
            return Ok(());
        }
        let totals = self.table.totals();
        if totals.objects > 0 {
            let objects = totals.objects;
            return Err(NotClear::Owned { objects });
        }
        if totals.open > 0 {
            return Err(NotClear::Open { rows: totals.open });
        }
        if totals.held > 0 {
            return Err(NotClear::Held { copies: totals.held });
        }
        // The listing of the disk itself: the store's own, of what the index names.
        let copies = totals.copies.max(self.store.copies());
        if copies > 0 {
            return Err(NotClear::Copies { copies });
        }
        let octets = self.store.usage().reserved;
        if octets > 0 {
            return Err(NotClear::Reserved { octets });
        }
        match running {
            0 => Ok(()),
            requests => Err(NotClear::Requests { requests }),
        }
    }

    /// Lets nothing new begin from now on, no creation, no reservation, no move, if nothing is left here; a caller that is told
    /// so may stop this agent. `running` says how many requests of clients run, and is asked once nothing new can begin.
    ///
    /// Waits for commits that are under way; blocks as long as they do.
    ///
    /// # Errors
    ///
    /// [`NotClear`]; then everything goes on as before.
    pub fn close_for_install(&self, running: impl FnOnce() -> u64) -> Result<(), NotClear> {
        // Every commit that adds a row reads this until the row is in the table: none is under way now.
        let mut closed = self.closed.write();
        self.is_clear(running())?;
        *closed = true;
        Ok(())
    }

    /// Lets everything begin again: the installing was refused.
    pub fn reopen(&self) {
        *self.closed.write() = false;
    }

    /// Whether nothing new begins here, or that is being looked at now. Never blocks.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.try_read().is_none_or(|closed| *closed)
    }
}
