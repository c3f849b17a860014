//! What this server has promised each of the others: a random number that stays until it is drawn anew ([`crate::copies::permits`]).
//!
//! Kept with the rows that it is about: a disk that is lost takes both.

use zones::ServerName;

use super::Store;
use super::commit::{CommitError, Prepared};
use crate::copies::permits::Pledge;

impl Store {
    /// What is promised to a server; `None` before anything was.
    #[must_use]
    pub fn pledge(&self, peer: &ServerName) -> Option<Pledge> {
        self.shared.pledges.read().get(peer).copied()
    }

    /// Promises anew: what the server was told before does not count any more. Durable on return; blocks.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; the promise of before stands then, or the store has failed.
    pub fn pledge_anew(&self, peer: &ServerName) -> Result<(), CommitError> {
        let mut random = [0; 8];
        self.shared.vault.entropy().fill(&mut random);
        let pledged = Prepared::pledged(peer.clone(), Pledge::from_be_bytes(random));
        self.apply(vec![pledged]).map(drop)
    }
}
