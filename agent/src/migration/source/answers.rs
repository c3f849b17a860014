//! What follows from the librarian's answers.

use zones::Register;

use super::super::guard::{Guard, stands};
use super::super::{Question, Verdict, judge};
use super::{Action, BootInstant, ReadGate, Reading, Settling, Source, State, Step, Why, after};

/// How many times the opening is sent before its refusal is believed enough to end it by a fresh text.
const OPENINGS_MAX: u8 = 3;

impl Source {
    /// Takes an answer. What it says of the register counts only if it was asked after our last durable step and update;
    /// that the move was open when it was asked allows a sealed source to answer reads in any case.
    pub(super) fn answered(
        &mut self,
        now: BootInstant,
        question: Question,
        asked_at: BootInstant,
        register: Option<Register>,
    ) {
        let verdict = judge(register.as_ref(), self.epoch, &self.me, &self.to, self.tx);
        if verdict == Verdict::Open {
            self.not_committed(counted_from(asked_at, now));
        }
        if question != self.question && stands(Guard::OldAnswers) {
            return;
        }
        let Some(register) = register.filter(|_| verdict != Verdict::Older) else {
            self.unanswered(now, question);
            return;
        };
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Reserving {
                register: known,
                reading: Reading::Open,
                reserved,
                resend_at,
                give_up_at,
            } => match verdict {
                Verdict::Stable => {
                    self.state = State::Reserving {
                        register: Some(register),
                        reading: Reading::Idle,
                        reserved,
                        resend_at,
                        give_up_at,
                    };
                    self.note_move_if_ready();
                }
                // Left open by a life of this agent that did not note it.
                Verdict::Open | Verdict::OtherMove => self.abort_from(now, register, true, None, Why::Register),
                Verdict::Committed | Verdict::Elsewhere => self.lose(register.owner, register.epoch, None),
                Verdict::Deleted => self.deleted(register.epoch, register.tx),
                Verdict::Older => {
                    self.state = State::Reserving {
                        register: known,
                        reading: Reading::At(now + self.settings.retry_after),
                        reserved,
                        resend_at,
                        give_up_at,
                    };
                }
            },
            State::Opening {
                old,
                settling: Settling::Reading,
                mut backoff,
                tries,
                cancelled,
            } => match verdict {
                Verdict::Open => self.opened(now, register, cancelled),
                Verdict::Stable if register == old => {
                    if cancelled.is_some() || tries >= OPENINGS_MAX {
                        // It may land yet: only a fresh text ends it.
                        self.abort_from(now, old, false, None, cancelled.unwrap_or(Why::Register));
                    } else {
                        let settling = Settling::ChangeAt(after(now, &mut backoff));
                        self.state = State::Opening {
                            old,
                            settling,
                            backoff,
                            tries: tries + 1,
                            cancelled,
                        };
                    }
                }
                // The text that our opening names is gone for ever.
                Verdict::Stable => self.stay(register.tx, cancelled.unwrap_or(Why::Register)),
                Verdict::OtherMove => {
                    self.abort_from(now, register, true, None, cancelled.unwrap_or(Why::Register));
                }
                Verdict::Committed | Verdict::Elsewhere => self.lose(register.owner, register.epoch, None),
                Verdict::Deleted => self.deleted(register.epoch, register.tx),
                Verdict::Older => {
                    self.state = State::Opening {
                        old,
                        settling: Settling::ReadAt(after(now, &mut backoff)),
                        backoff,
                        tries,
                        cancelled,
                    };
                }
            },
            state @ State::Copying { .. } => match verdict {
                Verdict::Open | Verdict::Older => self.state = state,
                Verdict::Stable => self.stay(register.tx, Why::Register),
                Verdict::OtherMove => self.abort_from(now, register, true, None, Why::Register),
                Verdict::Committed | Verdict::Elsewhere => self.lose(register.owner, register.epoch, None),
                Verdict::Deleted => self.deleted(register.epoch, register.tx),
            },
            State::Sealed {
                moving,
                told,
                seal,
                asking,
                budget,
                resend_at,
            } => match verdict {
                Verdict::Open | Verdict::Older => {
                    self.state = State::Sealed {
                        moving,
                        told,
                        seal,
                        asking,
                        budget,
                        resend_at,
                    };
                }
                Verdict::Stable => self.stay(register.tx, Why::Register),
                Verdict::OtherMove => self.abort_from(now, register, true, Some(asking), Why::Register),
                Verdict::Committed | Verdict::Elsewhere => self.lose(register.owner, register.epoch, None),
                Verdict::Deleted => self.deleted_under_seal(register.epoch, register.tx),
            },
            State::Aborting {
                old,
                tx,
                opened,
                settling,
                mut backoff,
                sealed,
                why,
            } => match verdict {
                Verdict::Stable if opened || register.tx == tx => self.stay(register.tx, why),
                Verdict::Stable | Verdict::Open | Verdict::OtherMove => {
                    // Not yet. A change that is still being sent is not overtaken by another, and one whose time is set
                    // keeps it: the questions of a sealed source come more often than that, and would put it off for ever.
                    let (old, settling) = match settling {
                        Settling::Changing => (old, settling),
                        Settling::ChangeAt(_) => (register, settling),
                        Settling::Reading | Settling::ReadAt(_) => {
                            (register, Settling::ChangeAt(after(now, &mut backoff)))
                        }
                    };
                    self.state = State::Aborting {
                        opened: opened || verdict != Verdict::Stable,
                        old,
                        tx,
                        settling,
                        backoff,
                        sealed,
                        why,
                    };
                }
                Verdict::Committed | Verdict::Elsewhere => self.lose(register.owner, register.epoch, None),
                Verdict::Deleted if sealed.is_some() => self.deleted_under_seal(register.epoch, register.tx),
                Verdict::Deleted => self.deleted(register.epoch, register.tx),
                Verdict::Older => {
                    self.state = State::Aborting {
                        old,
                        tx,
                        opened,
                        settling,
                        backoff,
                        sealed,
                        why,
                    };
                }
            },
            State::Moved {
                owner,
                epoch,
                reading: Reading::Open,
                mut backoff,
            } => {
                if register.owned() > self.epoch {
                    // Of a deleted object, too, the entry says who had it: that it is gone is another's to tell a new registry.
                    let epoch = register.owned();
                    self.state = State::NotingForward {
                        owner: register.owner.clone(),
                        epoch,
                        retry_at: None,
                    };
                    self.persist(Step::Forward {
                        owner: register.owner,
                        epoch,
                    });
                } else {
                    // An old registry: the copy may be the only one.
                    let reading = Reading::At(after(now, &mut backoff));
                    self.state = State::Moved {
                        owner,
                        epoch,
                        reading,
                        backoff,
                    };
                }
            }
            State::Recovering {
                journal,
                reading: Reading::Open,
                backoff,
            } => self.recovered(now, journal, backoff, asked_at, Some(register)),
            // No question of these is open.
            state @ (State::Reserving {
                reading: Reading::Idle | Reading::At(_),
                ..
            }
            | State::Opening {
                settling: Settling::Changing | Settling::ReadAt(_) | Settling::ChangeAt(_),
                ..
            }
            | State::Moved {
                reading: Reading::Idle | Reading::At(_),
                ..
            }
            | State::Recovering {
                reading: Reading::Idle | Reading::At(_),
                ..
            }
            | State::NotingMove { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::NotingForward { .. }
            | State::Ended) => self.state = state,
        }
    }

    /// No answer, or one that says nothing: ask again after a pause.
    pub(super) fn unanswered(&mut self, now: BootInstant, question: Question) {
        if question != self.question {
            return;
        }
        let retry_at = now + self.settings.retry_after;
        match &mut self.state {
            State::Reserving { reading, .. } if *reading == Reading::Open => *reading = Reading::At(retry_at),
            State::Opening { settling, backoff, .. } | State::Aborting { settling, backoff, .. }
                if *settling == Settling::Reading =>
            {
                *settling = Settling::ReadAt(after(now, backoff));
            }
            State::Moved { reading, backoff, .. } | State::Recovering { reading, backoff, .. }
                if *reading == Reading::Open =>
            {
                *reading = Reading::At(after(now, backoff));
            }
            State::Reserving { .. }
            | State::NotingMove { .. }
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

    /// A question that left at `asked_at` was answered "not committed".
    pub(super) fn not_committed(&mut self, asked_at: BootInstant) {
        match &mut self.state {
            State::Sealed { asking, .. }
            | State::Aborting {
                sealed: Some(asking), ..
            } => {
                if let Some(until) = asking.allow(asked_at)
                    && stands(Guard::ReadRule)
                {
                    self.actions.push_back(Action::Reads(ReadGate::Until(until)));
                }
            }
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Copying { .. }
            | State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Aborting { sealed: None, .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => {}
        }
    }
}

/// The moment from which "not committed" allows reads.
pub(super) fn counted_from(asked_at: BootInstant, now: BootInstant) -> BootInstant {
    match stands(Guard::CountedFromQuestion) {
        true => asked_at,
        false => now,
    }
}
