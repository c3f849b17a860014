//! What follows from the librarian's answers.

use zones::Register;

use super::super::guard::{Guard, stands};
use super::super::{Question, Verdict, judge};
use super::{BootInstant, Destination, Reading, Settling, State, Step};

impl Destination {
    /// Takes an answer, if it was asked after our last durable step and update.
    pub(super) fn answered(&mut self, now: BootInstant, question: Question, register: Option<Register>) {
        if question != self.question && stands(Guard::OldAnswers) {
            return;
        }
        let verdict = judge(register.as_ref(), self.epoch, &self.from, &self.me, self.tx);
        let Some(register) = register.filter(|_| verdict != Verdict::Older) else {
            match &self.state {
                // Nothing is here but the peer's word, and the register does not bear it out. To wait until it does would
                // let any agent keep an address for ever by an epoch that never comes.
                State::Checking {
                    copy: None,
                    reading: Reading::Open,
                    ..
                } => self.drop_copy(),
                State::Checking { .. }
                | State::Staging { .. }
                | State::CommitSent { .. }
                | State::Returning { .. }
                | State::Reserving
                | State::NotingReserved
                | State::Reserved { .. }
                | State::NotingPrepared { .. }
                | State::NotingCommit { .. }
                | State::NotingActive { .. }
                | State::Waiting { .. }
                | State::NotingOpen { .. }
                | State::NotingMoved { .. }
                | State::NotingDrop { .. }
                | State::Ended(_) => self.unanswered(now, question),
            }
            return;
        };
        match std::mem::replace(&mut self.state, State::Reserving) {
            State::Checking {
                copy,
                prepared,
                reading: Reading::Open,
                backoff,
            } => match verdict {
                Verdict::Open => match (copy, prepared) {
                    (Some(copy), true) => self.note_commit(register, copy),
                    (copy @ (Some(_) | None), _) => self.stage(now, register, copy),
                },
                Verdict::Stable | Verdict::OtherMove | Verdict::Committed | Verdict::Elsewhere | Verdict::Deleted => {
                    self.drop_copy()
                }
                Verdict::Older => {
                    self.state = State::Checking {
                        copy,
                        prepared,
                        reading: Reading::At(now + self.settings.retry_after),
                        backoff,
                    };
                }
            },
            State::Staging {
                moving,
                copy,
                busy,
                noting,
                reading: _,
            } => match verdict {
                Verdict::Open | Verdict::Older => {
                    self.state = State::Staging {
                        moving,
                        copy,
                        busy,
                        noting,
                        reading: Reading::At(now + self.settings.idle_check),
                    };
                }
                // While it is being noted it cannot be dropped; the next check finds the same.
                Verdict::Stable | Verdict::OtherMove | Verdict::Committed | Verdict::Elsewhere | Verdict::Deleted
                    if noting =>
                {
                    self.state = State::Staging {
                        moving,
                        copy,
                        busy,
                        noting,
                        reading: Reading::At(now + self.settings.idle_check),
                    };
                }
                Verdict::Stable | Verdict::OtherMove | Verdict::Committed | Verdict::Elsewhere | Verdict::Deleted => {
                    self.drop_copy()
                }
            },
            State::CommitSent {
                moving,
                copy,
                settling: Settling::Reading,
                mut backoff,
            } => match verdict {
                Verdict::Committed => self.learn(now, register.tx),
                // Not yet: it is sent again, newly signed.
                Verdict::Open => {
                    let first = moving.is_none();
                    let settling = Settling::ChangeAt(if first { now } else { now + backoff.pause() });
                    self.state = State::CommitSent {
                        moving: Some(register),
                        copy,
                        settling,
                        backoff,
                    };
                }
                Verdict::Stable | Verdict::OtherMove | Verdict::Elsewhere | Verdict::Deleted => self.drop_copy(),
                Verdict::Older => {
                    self.state = State::CommitSent {
                        moving,
                        copy,
                        settling: Settling::ReadAt(now + backoff.pause()),
                        backoff,
                    };
                }
            },
            State::Returning {
                tx,
                since,
                reading: Reading::Open,
                backoff,
            } => match verdict {
                Verdict::Committed => {
                    self.own_again(now, register.tx, since);
                }
                Verdict::Elsewhere | Verdict::Deleted => {
                    self.state = State::NotingMoved {
                        owner: register.owner.clone(),
                        epoch: register.epoch,
                        retry_at: None,
                    };
                    self.persist(Step::Moved {
                        owner: register.owner,
                        epoch: register.epoch,
                    });
                }
                // Below the epoch that we own: an old registry.
                Verdict::Older | Verdict::Open | Verdict::Stable | Verdict::OtherMove => {
                    self.state = State::Returning {
                        tx,
                        since,
                        reading: Reading::At(now + self.settings.retry_after),
                        backoff,
                    };
                }
            },
            // No question of these is open.
            state @ (State::Checking {
                reading: Reading::At(_),
                ..
            }
            | State::CommitSent {
                settling: Settling::Changing | Settling::ReadAt(_) | Settling::ChangeAt(_),
                ..
            }
            | State::Returning {
                reading: Reading::At(_),
                ..
            }
            | State::Reserving
            | State::NotingReserved
            | State::Reserved { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::NotingActive { .. }
            | State::Waiting { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_)) => self.state = state,
        }
    }

    /// No answer, or one that says nothing: ask again after a pause.
    pub(super) fn unanswered(&mut self, now: BootInstant, question: Question) {
        if question != self.question {
            return;
        }
        match &mut self.state {
            State::Checking { reading, backoff, .. } | State::Returning { reading, backoff, .. }
                if *reading == Reading::Open =>
            {
                *reading = Reading::At(now + backoff.pause());
            }
            State::Staging { reading, .. } if *reading == Reading::Open => {
                *reading = Reading::At(now + self.settings.idle_check);
            }
            State::CommitSent { settling, backoff, .. } if *settling == Settling::Reading => {
                *settling = Settling::ReadAt(now + backoff.pause());
            }
            State::Checking { .. }
            | State::Returning { .. }
            | State::Staging { .. }
            | State::CommitSent { .. }
            | State::Reserving
            | State::NotingReserved
            | State::Reserved { .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. }
            | State::NotingActive { .. }
            | State::Waiting { .. }
            | State::NotingOpen { .. }
            | State::NotingMoved { .. }
            | State::NotingDrop { .. }
            | State::Ended(_) => {}
        }
    }
}
