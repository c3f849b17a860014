//! What follows from the destination's messages.

use zones::{Epoch, Tx};

use super::super::guard::{Guard, stands};
use super::super::wire::{Reply, Request};
use super::answers::counted_from;
use super::{Action, BootInstant, Phase, ReadGate, Source, SourceJournal, State, Why};

impl Source {
    /// Takes a message. One that names another move, or comes too late, says nothing and is dropped.
    pub(super) fn replied(&mut self, now: BootInstant, reply: Reply) {
        if let State::Copying { give_up_at, .. } = &mut self.state {
            *give_up_at = now + self.settings.peer_patience;
        }
        match reply {
            Reply::Reserved { tx } if tx == self.tx => self.reserved(),
            Reply::Refused { tx, why: _ } if tx == self.tx => self.turned_down(now, Why::Refused),
            Reply::Dropped { tx } if tx == self.tx => self.turned_down(now, Why::Dropped),
            Reply::Ready { tx, staged, newest: _ } if tx == self.tx => self.ready(staged),
            Reply::Staged { tx, revision } if tx == self.tx => self.staged(now, revision),
            Reply::Damaged { tx } if tx == self.tx => self.damaged(now),
            Reply::NotCommitted { tx, ask, staged, busy } if tx == self.tx => self.still_open(now, ask, staged, busy),
            Reply::Fenced { epoch } => self.fenced(epoch),
            Reply::Reserved { tx: _ }
            | Reply::Refused { tx: _, why: _ }
            | Reply::Dropped { tx: _ }
            | Reply::Ready { .. }
            | Reply::Staged { tx: _, revision: _ }
            | Reply::Damaged { tx: _ }
            | Reply::NotCommitted {
                tx: _,
                ask: _,
                staged: _,
                busy: _,
            } => {}
        }
    }

    fn reserved(&mut self) {
        match &mut self.state {
            State::Reserving { reserved, .. } => {
                *reserved = true;
                self.note_move_if_ready();
            }
            State::NotingMove { .. }
            | State::Opening { .. }
            | State::Copying { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Sealed { .. }
            | State::Aborting { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }

    /// The destination does not take the object, or no longer has what it took. Whether it may have committed is for the
    /// register to say.
    fn turned_down(&mut self, now: BootInstant, why: Why) {
        match &self.state {
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Copying { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Sealed { .. } => self.cancel(now, why),
            State::Aborting { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }

    /// The destination has read the register and takes a copy; it may have one from before.
    fn ready(&mut self, has: Option<u64>) {
        let State::Copying {
            phase: phase @ Phase::Asking { .. },
            staged,
            ..
        } = &mut self.state
        else {
            return;
        };
        *staged = has;
        match has {
            Some(revision) => self.close(revision),
            None => {
                *phase = Phase::Shipping;
                self.actions.push_back(Action::Ship { staged: None });
            }
        }
    }

    /// The destination has this revision whole, written and read back.
    fn staged(&mut self, now: BootInstant, revision: u64) {
        match &mut self.state {
            State::Copying {
                phase: Phase::Shipping | Phase::Shipped { .. },
                staged,
                ..
            } => {
                *staged = Some(revision);
                self.close(revision);
            }
            State::Sealed {
                told: told @ false,
                seal,
                asking,
                resend_at,
                ..
            } if seal.revision == revision => {
                *told = true;
                *resend_at = now + self.settings.resend_after;
                let seal = *seal;
                // The seal message leaves now, so nobody can have committed before.
                if let Some(until) = asking.allow(now) {
                    self.actions.push_back(Action::Reads(ReadGate::Until(until)));
                }
                self.send_seal(seal);
            }
            State::Copying {
                phase: Phase::Asking { .. } | Phase::Pausing { .. },
                ..
            }
            | State::Sealed { .. }
            | State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Aborting { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }

    /// What the destination received is not what we have.
    fn damaged(&mut self, now: BootInstant) {
        match &self.state {
            State::Copying { .. } => self.ship_failed(now),
            State::Sealed { .. } => self.cancel(now, Why::Copy),
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Aborting { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }

    /// The answer to one of our questions: the destination has not learned of a commit.
    fn still_open(&mut self, now: BootInstant, ask: u32, has: Option<u64>, busy: bool) {
        let asked_at = match &self.state {
            State::Sealed { asking, .. }
            | State::Aborting {
                sealed: Some(asking), ..
            } => asking.sent_at(ask),
            State::Copying {
                phase: Phase::Shipped { .. },
                ..
            } => {
                match has {
                    // The confirmation was lost.
                    Some(revision) => self.staged(now, revision),
                    None if busy => {}
                    None => self.ship_failed(now),
                }
                None
            }
            State::Copying {
                phase: Phase::Asking { .. } | Phase::Shipping | Phase::Pausing { .. },
                ..
            }
            | State::Aborting { sealed: None, .. }
            | State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => None,
        };
        if let Some(asked_at) = asked_at {
            self.not_committed(counted_from(asked_at, now));
        }
    }

    /// The destination says that it owns the object in `epoch` and wants our word that we have stopped.
    fn fenced(&mut self, epoch: Epoch) {
        let expected = epoch == self.epoch.next() || !stands(Guard::FenceOfSealed);
        match &mut self.state {
            State::Sealed { .. } | State::Aborting { sealed: Some(_), .. }
                if expected && !stands(Guard::StopBeforeAnswer) =>
            {
                self.send(Request::FenceAnswered { epoch });
            }
            // Sealed for this very peer: only a commit lets it say so.
            State::Sealed { .. }
            | State::Aborting { sealed: Some(_), .. }
            | State::Recovering {
                journal: SourceJournal::Sealed,
                ..
            } if expected => self.lose(self.to.clone(), epoch, Some(epoch)),
            State::NotingMoved {
                epoch: known, fence, ..
            } if epoch <= *known => *fence = Some(epoch),
            State::Moved { epoch: known, .. } | State::NotingForward { epoch: known, .. } if epoch <= *known => {
                self.send(Request::FenceAnswered { epoch });
            }
            State::Copying { .. } if !stands(Guard::FenceOfSealed) => self.lose(self.to.clone(), epoch, Some(epoch)),
            // Not ours to believe: the register says who owns the object.
            State::Copying { .. } | State::Sealed { .. } | State::Aborting { .. } => self.read(),
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }

    /// Whatever was under way is lost; a sealed source goes on asking by its timers.
    pub(super) fn peer_lost(&mut self, now: BootInstant) {
        let retry_at = now + self.settings.retry_after;
        match &mut self.state {
            State::Reserving { resend_at, .. } => *resend_at = retry_at,
            State::Copying { phase, .. } => match phase {
                Phase::Asking { resend_at } => *resend_at = retry_at,
                Phase::Shipping | Phase::Shipped { .. } => *phase = Phase::Asking { resend_at: retry_at },
                Phase::Pausing { .. } => {}
            },
            State::NotingMove { .. }
            | State::Opening { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Sealed { .. }
            | State::Aborting { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }

    /// Whether a message that names `tx` is about this move.
    #[must_use]
    pub fn is_of(&self, tx: Tx) -> bool {
        self.tx == tx
    }
}
