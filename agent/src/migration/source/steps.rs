//! What follows from this agent's own disk, gates and register changes.

use zones::{Epoch, Register, ServerName, State as RegisterState, Tx};

use super::super::guard::{Guard, stands};
use super::super::wire::Request;
use super::super::{Backoff, ChangeOutcome, NOTE_AGAIN_AFTER, UnexpectedInput};
use super::{
    Action, Asking, BootInstant, Budget, Outcome, Phase, ReadGate, Reading, Seal, Settling, Source, State, Step, Why,
};

impl Source {
    /// Notes the move once the destination has the space and the register is known.
    pub(super) fn note_move_if_ready(&mut self) {
        let State::Reserving {
            register: Some(register),
            reserved: true,
            ..
        } = &self.state
        else {
            return;
        };
        let old = register.clone();
        self.state = State::NotingMove { old, cancelled: None };
        self.persist(self.moving_step());
    }

    pub(super) fn moving_step(&self) -> Step {
        Step::Moving {
            to: self.to.clone(),
            tx: self.tx,
        }
    }

    pub(super) fn sealed_step(&self, seal: Seal) -> Step {
        Step::Sealed {
            to: self.to.clone(),
            tx: self.tx,
            revision: seal.revision,
            digests: seal.digests,
        }
    }

    /// The step is durable: whatever was asked before says nothing any more.
    pub(super) fn durable(&mut self, now: BootInstant) -> Result<(), UnexpectedInput> {
        self.question.raise();
        match std::mem::replace(&mut self.state, State::Ended) {
            State::NotingMove { old, cancelled } => match cancelled {
                // Nothing was sent: the entry alone has to be put back.
                Some(why) => self.stay(old.tx, why),
                None => {
                    let new = self.moving_text(&old);
                    self.state = State::Opening {
                        old: old.clone(),
                        settling: Settling::Changing,
                        backoff: Backoff::new(&self.settings),
                        tries: 1,
                        cancelled: None,
                    };
                    self.change(old, new);
                }
            },
            State::NotingSeal {
                moving,
                staged,
                seal,
                budget,
                cancelled,
                retry_at: _,
            } => {
                // Until the seal message leaves nobody can commit, so S is its own answer at this moment.
                let mut asking = Asking::new(now, None);
                self.allow_reads(&mut asking, now);
                match cancelled {
                    Some(why) => self.abort_from(now, moving, true, Some(asking), why),
                    None => {
                        let told = staged == seal.revision;
                        self.state = State::Sealed {
                            moving,
                            told,
                            seal,
                            asking,
                            budget,
                            resend_at: now + self.settings.resend_after,
                        };
                        if told {
                            self.send_seal(seal);
                        } else {
                            self.actions.push_back(Action::Ship { staged: Some(staged) });
                        }
                    }
                }
            }
            State::NotingStable { why, .. } => {
                self.actions.push_back(Action::Unseal);
                self.send(Request::Abort { tx: self.tx });
                self.end(Outcome::Stayed(why));
            }
            State::NotingMoved {
                owner, epoch, fence, ..
            } => {
                if let Some(epoch) = fence {
                    self.send(Request::FenceAnswered { epoch });
                }
                self.actions.push_back(Action::LetGo {
                    owner: owner.clone(),
                    epoch,
                });
                self.state = State::Moved {
                    owner,
                    epoch,
                    reading: Reading::At(now + self.settings.grace),
                    backoff: Backoff::new(&self.settings),
                };
            }
            State::NotingDeleted { .. } => {
                // Whoever waits at the gate hears now that it is deleted.
                self.actions.push_back(Action::Unseal);
                self.end(Outcome::Superseded);
            }
            State::NotingForward { .. } => self.end(Outcome::Moved),
            state @ (State::Reserving { .. }
            | State::Opening { .. }
            | State::Copying { .. }
            | State::Closing { .. }
            | State::Sealed { .. }
            | State::Aborting { .. }
            | State::Moved { .. }
            | State::Recovering { .. }
            | State::Ended) => {
                self.state = state;
                return Err(self.unexpected("durable"));
            }
        }
        Ok(())
    }

    /// The step did not become durable. Whatever is owed to others is written again; a move that only begins is given up.
    pub(super) fn not_durable(&mut self, now: BootInstant) -> Result<(), UnexpectedInput> {
        let again = Some(now + NOTE_AGAIN_AFTER);
        match &mut self.state {
            State::NotingMove { .. } => self.end(Outcome::Stayed(Why::Disk)),
            State::NotingSeal {
                retry_at, cancelled, ..
            } => {
                *retry_at = again;
                *cancelled = cancelled.or(Some(Why::Disk));
            }
            State::NotingStable { retry_at, .. }
            | State::NotingMoved { retry_at, .. }
            | State::NotingDeleted { retry_at, .. }
            | State::NotingForward { retry_at, .. } => *retry_at = again,
            State::Reserving { .. }
            | State::Opening { .. }
            | State::Copying { .. }
            | State::Closing { .. }
            | State::Sealed { .. }
            | State::Aborting { .. }
            | State::Moved { .. }
            | State::Recovering { .. }
            | State::Ended => return Err(self.unexpected("not durable")),
        }
        Ok(())
    }

    /// The end of a register change. Only "done" settles it.
    pub(super) fn changed(&mut self, now: BootInstant, outcome: ChangeOutcome) -> Result<(), UnexpectedInput> {
        match (&mut self.state, outcome) {
            (
                State::Opening {
                    old,
                    settling: Settling::Changing,
                    cancelled,
                    ..
                },
                ChangeOutcome::Done,
            ) => {
                let (old, cancelled) = (old.clone(), *cancelled);
                let moving = self.moving_text(&old);
                self.opened(now, moving, cancelled);
            }
            (
                State::Aborting {
                    tx,
                    why,
                    settling: Settling::Changing,
                    ..
                },
                ChangeOutcome::Done,
            ) => {
                let (tx, why) = (*tx, *why);
                self.stay(tx, why);
            }
            (
                State::Opening {
                    old,
                    settling: Settling::Changing,
                    ..
                },
                ChangeOutcome::Refused,
            ) if !stands(Guard::RefusedOpening) => {
                let tx = old.tx;
                self.stay(tx, Why::Register);
            }
            (
                State::Aborting {
                    tx,
                    why,
                    settling: Settling::Changing,
                    ..
                },
                ChangeOutcome::Refused,
            ) if !stands(Guard::RefusedReturn) => {
                let (tx, why) = (*tx, *why);
                self.stay(tx, why);
            }
            (
                State::Opening { settling, .. } | State::Aborting { settling, .. },
                ChangeOutcome::Refused | ChangeOutcome::Unknown,
            ) if *settling == Settling::Changing => {
                *settling = Settling::Reading;
                self.read();
            }
            // The register settled it before the reply came.
            (
                State::NotingStable { .. }
                | State::NotingMoved { .. }
                | State::NotingDeleted { .. }
                | State::Moved { .. }
                | State::NotingForward { .. }
                | State::Ended,
                ChangeOutcome::Done | ChangeOutcome::Refused | ChangeOutcome::Unknown,
            ) => {}
            (
                State::Reserving { .. }
                | State::NotingMove { .. }
                | State::Opening { .. }
                | State::Copying { .. }
                | State::Closing { .. }
                | State::NotingSeal { .. }
                | State::Sealed { .. }
                | State::Aborting { .. }
                | State::Recovering { .. },
                ChangeOutcome::Done | ChangeOutcome::Refused | ChangeOutcome::Unknown,
            ) => return Err(self.unexpected("changed")),
        }
        Ok(())
    }

    /// The register says moving under our tx: copying begins, or the return if the owner has changed its mind.
    pub(super) fn opened(&mut self, now: BootInstant, moving: Register, cancelled: Option<Why>) {
        match cancelled {
            Some(why) => self.abort_from(now, moving, true, None, why),
            None => {
                self.state = State::Copying {
                    moving,
                    phase: Phase::Asking {
                        resend_at: now + self.settings.resend_after,
                    },
                    staged: None,
                    rounds: 0,
                    copies: 0,
                    give_up_at: now + self.settings.peer_patience,
                };
                self.send_open();
            }
        }
    }

    pub(super) fn shipped(&mut self, now: BootInstant, _revision: u64) {
        let (resend_after, patience) = (self.settings.resend_after, self.settings.peer_patience);
        match &mut self.state {
            State::Copying {
                phase: phase @ Phase::Shipping,
                give_up_at,
                ..
            } => {
                *phase = Phase::Shipped {
                    ask_at: now + resend_after,
                };
                *give_up_at = now + patience;
            }
            // A copy of a round that is over.
            State::Copying {
                phase: Phase::Asking { .. } | Phase::Shipped { .. } | Phase::Pausing { .. },
                ..
            }
            | State::Reserving { .. }
            | State::NotingMove { .. }
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

    /// A copy failed: another try, then the return.
    pub(super) fn ship_failed(&mut self, now: BootInstant) {
        match &mut self.state {
            State::Copying { phase, copies, .. } => {
                *copies += 1;
                if *copies >= self.settings.copies_max {
                    self.cancel(now, Why::Copy);
                } else {
                    *phase = Phase::Asking {
                        resend_at: now + self.settings.retry_after,
                    };
                }
            }
            // The properties as the destination is to get them cannot be made, and writers wait.
            State::Closing { .. } | State::Sealed { .. } => self.cancel(now, Why::Copy),
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
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

    /// Our own copy does not open: the object stays, and the rest goes on.
    pub(super) fn unreadable(&mut self, now: BootInstant) {
        match &self.state {
            State::Copying { .. } | State::Closing { .. } | State::Sealed { .. } => {
                self.cancel(now, Why::Unreadable);
            }
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
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

    /// The destination has `staged` whole: close the gate.
    pub(super) fn close(&mut self, staged: u64) {
        let State::Copying {
            moving, rounds, copies, ..
        } = &self.state
        else {
            return;
        };
        self.closings = self.closings.wrapping_add(1);
        self.state = State::Closing {
            moving: moving.clone(),
            staged,
            rounds: *rounds,
            copies: *copies,
            budget: None,
        };
        self.actions.push_back(Action::Close {
            number: self.closings,
            staged,
        });
    }

    /// New writes wait from now on.
    pub(super) fn holding(&mut self, now: BootInstant, number: u32) {
        if let State::Closing { budget, .. } = &mut self.state
            && number == self.closings
        {
            *budget = Some(Budget::new(now, &self.settings));
        }
    }

    /// It is time to look whether anybody waits for the gate to open.
    pub(super) fn look_at_writers(&mut self, now: BootInstant) {
        let again = now + self.settings.seal_budget;
        let (State::Closing {
            budget: Some(budget), ..
        }
        | State::Sealed { budget, .. }) = &mut self.state
        else {
            return;
        };
        if budget.is_over(now, &self.settings) {
            self.open_for_writers(now);
        } else {
            budget.look_at = again;
            self.actions.push_back(Action::AskWriters);
        }
    }

    /// Since when the first write has waited, if one does.
    pub(super) fn writers(&mut self, now: BootInstant, since: Option<BootInstant>) {
        let (State::Closing {
            budget: Some(budget), ..
        }
        | State::Sealed { budget, .. }) = &mut self.state
        else {
            // The gate is open, or opening.
            return;
        };
        if since.is_some_and(|since| budget.waited(now, since, &self.settings)) {
            self.open_for_writers(now);
        }
    }

    /// The gate has been closed for too long.
    fn open_for_writers(&mut self, now: BootInstant) {
        if let State::Closing {
            moving,
            staged,
            rounds,
            copies,
            ..
        } = &self.state
        {
            let (moving, staged, rounds, copies) = (moving.clone(), *staged, *rounds, *copies);
            self.reopen(now, moving, staged, rounds, copies);
        } else {
            self.cancel(now, Why::SealBudget);
        }
    }

    /// A deletion has begun: what was sent for this move may land or not, the deletion settles the register in any case.
    pub(super) fn taken_over(&mut self) {
        match &self.state {
            State::Closing { .. } => self.actions.push_back(Action::Unseal),
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Copying { .. }
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
        self.send(Request::Abort { tx: self.tx });
        self.end(Outcome::Superseded);
    }

    /// The gate is closed at `seal`.
    pub(super) fn closed(
        &mut self,
        now: BootInstant,
        number: u32,
        seal: Seal,
        difference_octets: u64,
        librarian_answered: Option<BootInstant>,
    ) {
        if number != self.closings {
            return;
        }
        let State::Closing {
            moving,
            staged,
            rounds,
            copies,
            budget,
        } = &self.state
        else {
            // That closing was undone.
            return;
        };
        let budget = budget.unwrap_or(Budget::new(now, &self.settings));
        let (moving, staged, rounds, copies) = (moving.clone(), *staged, *rounds, *copies);
        let heard = librarian_answered.is_some_and(|at| now.saturating_since(at) <= self.settings.librarian_age_max);
        if !heard {
            self.reopen(now, moving, staged, rounds, copies);
            return;
        }
        let too_much = difference_octets > self.settings.sealed_difference_octets_max;
        if staged != seal.revision && too_much && rounds < self.settings.catch_up_rounds_max {
            self.actions.push_back(Action::Unseal);
            self.state = State::Copying {
                moving,
                phase: Phase::Shipping,
                staged: Some(staged),
                rounds: rounds + 1,
                copies,
                give_up_at: now + self.settings.peer_patience,
            };
            self.actions.push_back(Action::Ship { staged: Some(staged) });
            return;
        }
        self.state = State::NotingSeal {
            moving,
            staged,
            seal,
            budget,
            cancelled: None,
            retry_at: None,
        };
        if stands(Guard::SealDurable) {
            self.persist(self.sealed_step(seal));
        } else if let Err(unexpected) = self.durable(now) {
            unreachable!("{unexpected}");
        }
    }

    /// Opens the gate again and pauses before the next closing.
    pub(super) fn reopen(&mut self, now: BootInstant, moving: Register, staged: u64, rounds: u8, copies: u8) {
        self.actions.push_back(Action::Unseal);
        let mut pause = Backoff::new(&self.settings);
        self.state = State::Copying {
            moving,
            phase: Phase::Pausing {
                until: now + pause.pause(),
                staged,
            },
            staged: Some(staged),
            rounds,
            copies,
            give_up_at: now + self.settings.peer_patience,
        };
    }

    /// Ends the move before its commit, as far as that is still in our hands.
    pub(super) fn cancel(&mut self, now: BootInstant, why: Why) {
        match std::mem::replace(&mut self.state, State::Ended) {
            // Nothing was noted or changed.
            State::Reserving { .. } => {
                self.send(Request::Abort { tx: self.tx });
                self.end(Outcome::Stayed(why));
            }
            State::NotingMove { old, cancelled } => {
                self.state = State::NotingMove {
                    old,
                    cancelled: cancelled.or(Some(why)),
                };
            }
            // What was sent has to be settled first.
            State::Opening {
                old,
                settling,
                backoff,
                tries,
                cancelled,
            } => {
                self.state = State::Opening {
                    old,
                    settling,
                    backoff,
                    tries,
                    cancelled: cancelled.or(Some(why)),
                };
            }
            State::Copying { moving, .. } => self.abort_from(now, moving, true, None, why),
            State::Closing { moving, .. } => {
                self.actions.push_back(Action::Unseal);
                self.abort_from(now, moving, true, None, why);
            }
            State::NotingSeal {
                moving,
                staged,
                seal,
                budget,
                cancelled,
                retry_at,
            } => {
                self.state = State::NotingSeal {
                    moving,
                    staged,
                    seal,
                    budget,
                    cancelled: cancelled.or(Some(why)),
                    retry_at,
                };
            }
            State::Sealed { moving, asking, .. } => {
                if !stands(Guard::UnsealWhenShown) {
                    self.actions.push_back(Action::Unseal);
                }
                self.abort_from(now, moving, true, Some(asking), why);
            }
            state @ (State::Aborting { .. }
            | State::NotingStable { .. }
            | State::NotingMoved { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended) => self.state = state,
        }
    }

    /// Sends the change back to stable, under a fresh tx.
    pub(super) fn abort_from(
        &mut self,
        _now: BootInstant,
        old: Register,
        opened: bool,
        sealed: Option<Asking>,
        why: Why,
    ) {
        let tx = match stands(Guard::FreshTxOnAbort) {
            true => self.fresh.next_tx(),
            false => old.tx,
        };
        let new = self.stable_text(&old, tx);
        self.state = State::Aborting {
            old: old.clone(),
            tx,
            opened,
            settling: Settling::Changing,
            backoff: Backoff::new(&self.settings),
            sealed,
            why,
        };
        self.change(old, new);
    }

    /// The register shows that the object is ours and no move is open.
    pub(super) fn stay(&mut self, tx: Tx, why: Why) {
        self.state = State::NotingStable {
            tx,
            why,
            retry_at: None,
        };
        self.persist(Step::Active { tx });
    }

    /// The register, or the destination's fence, shows that another agent owns the object: stop first, note it, tell then.
    pub(super) fn lose(&mut self, owner: ServerName, epoch: Epoch, fence: Option<Epoch>) {
        self.actions.push_back(Action::Reads(ReadGate::Held));
        self.state = State::NotingMoved {
            owner: owner.clone(),
            epoch,
            fence,
            retry_at: None,
        };
        self.persist(Step::Moved { owner, epoch });
    }

    /// The register shows that the object is deleted, and this agent had sealed it. Where its epoch tells that it was the
    /// destination's first, the copy here was given away like any other: a gate compares it with what was taken.
    pub(super) fn deleted_under_seal(&mut self, epoch: Epoch, tx: Tx) {
        match epoch > self.epoch.next() {
            true => self.lose(self.to.clone(), self.epoch.next(), None),
            false => self.deleted(epoch, tx),
        }
    }

    pub(super) fn deleted(&mut self, epoch: Epoch, tx: Tx) {
        self.actions.push_back(Action::Reads(ReadGate::Held));
        self.state = State::NotingDeleted {
            epoch,
            tx,
            retry_at: None,
        };
        self.persist(Step::Deleted { epoch, tx });
    }

    pub(super) fn send_seal(&mut self, seal: Seal) {
        self.send(Request::Seal {
            tx: self.tx,
            revision: seal.revision,
            digests: seal.digests,
        });
    }

    pub(super) fn allow_reads(&mut self, asking: &mut Asking, asked_at: BootInstant) {
        if let Some(until) = asking.allow(asked_at) {
            let gate = if stands(Guard::ReadRule) {
                ReadGate::Until(until)
            } else {
                ReadGate::Open
            };
            self.actions.push_back(Action::Reads(gate));
        }
    }

    pub(super) fn moving_text(&self, old: &Register) -> Register {
        Register {
            state: RegisterState::Moving { to: self.to.clone() },
            tx: self.tx,
            ..old.clone()
        }
    }

    pub(super) fn stable_text(&self, old: &Register, tx: Tx) -> Register {
        Register {
            state: RegisterState::Stable,
            tx,
            ..old.clone()
        }
    }
}
