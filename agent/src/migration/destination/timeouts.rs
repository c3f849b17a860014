//! What follows from time passing.

use super::super::wire::Reply;
use super::{BootInstant, Destination, Reading, Settling, State, Step};

impl Destination {
    /// The moment at which [`Destination::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootInstant> {
        match &self.state {
            State::Reserved { expires_at } => Some(*expires_at),
            State::Checking { reading, .. } | State::Staging { reading, .. } | State::Returning { reading, .. } => {
                match reading {
                    Reading::At(at) => Some(*at),
                    Reading::Open => None,
                }
            }
            State::CommitSent { settling, .. } => match settling {
                Settling::ReadAt(at) | Settling::ChangeAt(at) => Some(*at),
                Settling::Changing | Settling::Reading => None,
            },
            State::Waiting { ends_at, fence_at, .. } => Some(*ends_at.min(fence_at)),
            State::NotingActive { retry_at, .. }
            | State::NotingOpen { retry_at, .. }
            | State::NotingMoved { retry_at, .. }
            | State::NotingDrop { retry_at } => *retry_at,
            State::Reserving
            | State::NotingReserved
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::Ended(_) => None,
        }
    }

    /// Does what is due. Called early it changes nothing.
    pub fn handle_timeout(&mut self, now: BootInstant) {
        let due = |at: BootInstant| at <= now;
        match &mut self.state {
            State::Reserved { expires_at } => {
                if due(*expires_at) {
                    self.drop_copy();
                }
            }
            State::Checking { reading, .. } | State::Staging { reading, .. } | State::Returning { reading, .. } => {
                match reading {
                    Reading::At(at) if due(*at) => {
                        *reading = Reading::Open;
                        self.read();
                    }
                    Reading::At(_) | Reading::Open => {}
                }
            }
            State::CommitSent {
                moving, copy, settling, ..
            } => match (*settling, moving) {
                (Settling::ReadAt(at), _) if due(at) => {
                    *settling = Settling::Reading;
                    self.read();
                }
                (Settling::ChangeAt(at), Some(moving)) if due(at) => {
                    *settling = Settling::Changing;
                    let (moving, copy) = (moving.clone(), copy.clone());
                    let new = self.committed_text(&moving, &copy);
                    self.change(moving, new);
                }
                (Settling::Changing | Settling::Reading | Settling::ReadAt(_) | Settling::ChangeAt(_), _) => {}
            },
            State::Waiting { tx, ends_at, fence_at } => {
                if due(*ends_at) {
                    let tx = *tx;
                    self.open_writes(tx);
                } else if due(*fence_at) {
                    *fence_at = now + self.settings.resend_after;
                    let epoch = self.epoch.next();
                    self.send(Reply::Fenced { epoch });
                }
            }
            State::NotingActive { tx, retry_at, .. } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let tx = *tx;
                    self.persist(self.active_step(tx, true));
                }
            }
            State::NotingOpen { tx, retry_at } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let tx = *tx;
                    self.persist(self.active_step(tx, false));
                }
            }
            State::NotingMoved { owner, epoch, retry_at } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    let (owner, epoch) = (owner.clone(), *epoch);
                    self.persist(Step::Moved { owner, epoch });
                }
            }
            State::NotingDrop { retry_at } => {
                if retry_at.is_some_and(due) {
                    *retry_at = None;
                    self.persist(Step::Removed);
                }
            }
            State::Reserving
            | State::NotingReserved
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::Ended(_) => {}
        }
    }
}
