//! What follows from the source's messages.

use zones::{Register, Tx};

use super::super::guard::{Guard, stands};
use super::super::wire::{Reply, Request};
use super::super::{Backoff, CopyFacts, Digests};
use super::{BootInstant, Destination, Outcome, Reading, Settling, State};

impl Destination {
    /// Takes a message. One that names another move says nothing and is dropped.
    pub(super) fn requested(&mut self, request: Request) {
        match request {
            Request::Reserve { tx, .. } if tx == self.tx => self.offered_again(),
            Request::Open { tx, epoch: _ } if tx == self.tx => self.opened(),
            Request::Seal { tx, revision, digests } if tx == self.tx => self.sealed(revision, digests),
            Request::Ask { tx, ask } if tx == self.tx => self.asked(ask),
            Request::Abort { tx } if tx == self.tx => self.give_up(),
            Request::FenceAnswered { epoch } => {
                self.fence_answered(epoch == self.epoch.next() || !stands(Guard::FenceEpoch));
            }
            Request::Reserve { .. }
            | Request::Open { .. }
            | Request::Copy(_)
            | Request::Seal { .. }
            | Request::Ask { .. }
            | Request::Abort { .. } => {}
        }
    }

    fn offered_again(&mut self) {
        match &self.state {
            State::Reserved { .. } => self.send(Reply::Reserved { tx: self.tx }),
            State::Reserving
            | State::NotingReserved
            | State::Checking { .. }
            | State::Staging { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::CommitSent { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::Waiting { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => {}
        }
    }

    /// The source says that the register names us: read it ourselves.
    fn opened(&mut self) {
        match &self.state {
            State::Reserved { .. } => {
                self.state = State::Checking {
                    copy: None,
                    prepared: false,
                    reading: Reading::Open,
                    backoff: Backoff::new(&self.settings),
                };
                self.read();
            }
            State::Staging { copy, noting, .. } => {
                // While the copy is being noted, its confirmation follows.
                if !noting {
                    let staged = copy.as_ref().map(|copy| copy.revision);
                    self.send(ready(self.tx, staged));
                }
            }
            State::Reserving
            | State::NotingReserved
            | State::Checking { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::CommitSent { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::Waiting { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => {}
        }
    }

    /// The register names us and the source under our tx: the copy may come.
    pub(super) fn stage(&mut self, now: BootInstant, moving: Register, copy: Option<CopyFacts>) {
        let staged = copy.as_ref().map(|copy| copy.revision);
        self.state = State::Staging {
            moving,
            copy,
            busy: false,
            noting: false,
            reading: Reading::At(now + self.settings.idle_check),
        };
        self.send(ready(self.tx, staged));
    }

    /// The source has sealed: its digests must be those of what we wrote and read back.
    fn sealed(&mut self, revision: u64, digests: Digests) {
        match &self.state {
            State::Staging {
                moving,
                copy: Some(copy),
                noting: false,
                ..
            } if (copy.revision == revision && copy.digests == digests) || !stands(Guard::SealedRevision) => {
                let (moving, copy) = (moving.clone(), copy.clone());
                self.prepare(moving, copy);
            }
            State::Staging { noting: false, .. } => self.send(Reply::Damaged { tx: self.tx }),
            // Repeated, or too early: the source sends it again.
            State::Staging { noting: true, .. }
            | State::Reserving
            | State::NotingReserved
            | State::Reserved { .. }
            | State::Checking { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::CommitSent { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::Waiting { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => {}
        }
    }

    /// Has this agent learned of the commit?
    fn asked(&mut self, ask: u32) {
        let (tx, epoch) = (self.tx, self.epoch.next());
        match &self.state {
            State::Staging { copy, busy, noting, .. } => {
                let staged = copy.as_ref().filter(|_| !noting).map(|copy| copy.revision);
                let busy = *busy || *noting;
                self.send(Reply::NotCommitted { tx, ask, staged, busy });
            }
            State::NotingPrepared { copy, .. }
            | State::NotingCommit { copy, .. }
            | State::CommitSent {
                copy, moving: Some(_), ..
            } => {
                let staged = Some(copy.revision);
                self.send(Reply::NotCommitted {
                    tx,
                    ask,
                    staged,
                    busy: false,
                });
            }
            State::Waiting { .. } | State::NotingOpen { .. } | State::Ended(Outcome::Owner) => {
                self.send(Reply::Fenced { epoch });
            }
            State::Ended(Outcome::Dropped) => self.send(Reply::Dropped { tx }),
            // Not known: after a restart the register may say "committed"; or nothing is open for which it matters.
            State::CommitSent { moving: None, .. }
            | State::Checking { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::Reserving
            | State::NotingReserved
            | State::Reserved { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. } => {}
        }
    }

    /// The source has aborted, or begins another move. Before commit-sent the copy goes; afterwards the register decides.
    pub(super) fn give_up(&mut self) {
        match &mut self.state {
            State::Reserving
            | State::Reserved { .. }
            | State::Checking { .. }
            | State::Staging { noting: false, .. } => {
                self.drop_copy();
            }
            State::CommitSent { .. } if !stands(Guard::CommitSentKept) => self.drop_copy(),
            State::CommitSent { settling, .. } => match settling {
                Settling::ReadAt(_) | Settling::ChangeAt(_) => {
                    *settling = Settling::Reading;
                    self.read();
                }
                Settling::Changing | Settling::Reading => {}
            },
            // A step is being noted: its end finds the same in the register.
            State::NotingReserved
            | State::Staging { noting: true, .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::Waiting { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => {}
        }
    }

    /// What was sent may be lost: the fence is sent again soon. Everything else the source asks for again.
    pub(super) fn peer_lost(&mut self, now: BootInstant) {
        let again = now + self.settings.retry_after;
        match &mut self.state {
            State::Waiting { fence_at, .. } => *fence_at = again.min(*fence_at),
            State::Reserving
            | State::NotingReserved
            | State::Reserved { .. }
            | State::Checking { .. }
            | State::Staging { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::CommitSent { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => {}
        }
    }

    /// The source has stopped, durably; only the answer to the fence of this epoch counts.
    fn fence_answered(&mut self, of_this_epoch: bool) {
        if !of_this_epoch {
            return;
        }
        let tx: Tx = match &self.state {
            State::Waiting { tx, .. } => *tx,
            State::Reserving
            | State::NotingReserved
            | State::Reserved { .. }
            | State::Checking { .. }
            | State::Staging { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::CommitSent { .. }
            | State::NotingActive { .. }
            | State::Returning { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => return,
        };
        self.open_writes(tx);
    }
}

/// What the newest version is, who sends this knows.
fn ready(tx: Tx, staged: Option<u64>) -> Reply {
    Reply::Ready {
        tx,
        staged,
        newest: None,
    }
}
