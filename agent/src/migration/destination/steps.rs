//! What follows from this agent's own disk, copies and register changes.

use zones::{Register, State as RegisterState, Tx};

use super::super::guard::{Guard, stands};
use super::super::wire::{Reply, Unwilling};
use super::super::{Backoff, ChangeOutcome, CopyFacts, NOTE_AGAIN_AFTER, UnexpectedInput, WRITE_WAIT};
use super::{Action, BootInstant, Destination, Outcome, Reading, Settling, State, Step};

impl Destination {
    /// The disk has the space, or not.
    pub(super) fn space(&mut self, now: BootInstant, enough: bool) -> Result<(), UnexpectedInput> {
        match &self.state {
            State::Reserving if enough && self.journaled_staging => {
                self.state = State::NotingReserved;
                self.persist(Step::Reserved);
            }
            State::Reserving if enough => self.reserved(now),
            State::Reserving => {
                self.send(Reply::Refused {
                    tx: self.tx,
                    why: Unwilling::Full,
                });
                self.end(Outcome::Dropped);
            }
            // The offer was withdrawn meanwhile.
            State::Ended(_) => {}
            State::NotingReserved
            | State::Reserved { .. }
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
            | State::NotingDrop { .. } => return Err(self.unexpected("space")),
        }
        Ok(())
    }

    fn reserved(&mut self, now: BootInstant) {
        self.state = State::Reserved {
            expires_at: now + self.settings.reservation,
        };
        self.send(Reply::Reserved { tx: self.tx });
    }

    /// The step is durable: whatever was asked before says nothing any more.
    pub(super) fn durable(&mut self, now: BootInstant) -> Result<(), UnexpectedInput> {
        self.question.raise();
        match std::mem::replace(&mut self.state, State::Reserving) {
            State::NotingReserved => {
                self.journaled = true;
                self.reserved(now);
            }
            State::Staging {
                moving,
                copy,
                busy,
                noting: true,
                reading: _,
            } => {
                self.journaled = true;
                let revision = copy.as_ref().map(|copy| copy.revision);
                self.state = State::Staging {
                    moving,
                    copy,
                    busy,
                    noting: false,
                    // A question that was open is void now.
                    reading: Reading::At(now + self.settings.idle_check),
                };
                if let Some(revision) = revision {
                    self.send(Reply::Staged { tx: self.tx, revision });
                }
            }
            State::NotingPrepared { moving, copy } => {
                self.journaled = true;
                self.note_commit(moving, copy);
            }
            State::NotingCommit { moving, copy } => {
                self.journaled = true;
                let new = self.committed_text(&moving, &copy);
                self.state = State::CommitSent {
                    moving: Some(moving.clone()),
                    copy,
                    settling: Settling::Changing,
                    backoff: Backoff::new(&self.settings),
                };
                self.change(moving, new);
            }
            State::NotingActive { tx, learned_at, .. } => {
                self.actions.push_back(Action::Own {
                    epoch: self.epoch.next(),
                    tx,
                });
                self.wait(now, tx, learned_at);
            }
            State::NotingOpen { .. } => self.end(Outcome::Owner),
            State::NotingMoved { .. } => self.end(Outcome::Dropped),
            State::NotingDrop { .. } => {
                self.send(Reply::Dropped { tx: self.tx });
                self.end(Outcome::Dropped);
            }
            state @ (State::Reserving
            | State::Reserved { .. }
            | State::Checking { .. }
            | State::Staging { noting: false, .. }
            | State::CommitSent { .. }
            | State::Returning { .. }
            | State::Waiting { .. }
            | State::Ended(_)) => {
                self.state = state;
                return Err(self.unexpected("durable"));
            }
        }
        Ok(())
    }

    /// The step did not become durable. Before commit-sent the copy is let go; afterwards the step is written again.
    pub(super) fn not_durable(&mut self, now: BootInstant) -> Result<(), UnexpectedInput> {
        let again = Some(now + NOTE_AGAIN_AFTER);
        match &mut self.state {
            State::NotingReserved
            | State::Staging { noting: true, .. }
            | State::NotingPrepared { .. }
            | State::NotingCommit { .. } => {
                self.send(Reply::Refused {
                    tx: self.tx,
                    why: Unwilling::Full,
                });
                self.drop_copy();
            }
            State::NotingActive { retry_at, .. }
            | State::NotingOpen { retry_at, .. }
            | State::NotingMoved { retry_at, .. }
            | State::NotingDrop { retry_at } => *retry_at = again,
            State::Reserving
            | State::Reserved { .. }
            | State::Checking { .. }
            | State::Staging { noting: false, .. }
            | State::CommitSent { .. }
            | State::Returning { .. }
            | State::Waiting { .. }
            | State::Ended(_) => return Err(self.unexpected("not durable")),
        }
        Ok(())
    }

    /// The end of the commit's sending. Only "done" settles it.
    pub(super) fn changed(&mut self, now: BootInstant, outcome: ChangeOutcome) -> Result<(), UnexpectedInput> {
        match (&mut self.state, outcome) {
            (
                State::CommitSent {
                    settling: Settling::Changing,
                    ..
                },
                ChangeOutcome::Done,
            ) => self.learn(now, self.commit_tx),
            (State::CommitSent { .. }, ChangeOutcome::Refused) if !stands(Guard::RefusedCommit) => self.drop_copy(),
            (State::CommitSent { .. }, ChangeOutcome::Unknown) if !stands(Guard::CommitSentKept) => self.drop_copy(),
            // It was dropped before the reply came.
            (State::NotingDrop { .. }, _) if !stands(Guard::CommitSentKept) => {}
            (State::CommitSent { settling, .. }, ChangeOutcome::Refused | ChangeOutcome::Unknown)
                if *settling == Settling::Changing =>
            {
                *settling = Settling::Reading;
                self.read();
            }
            (
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
                | State::Waiting { .. }
                | State::NotingOpen { .. }
                | State::NotingMoved { .. }
                | State::NotingDrop { .. }
                | State::Ended(_),
                ChangeOutcome::Done | ChangeOutcome::Refused | ChangeOutcome::Unknown,
            ) => return Err(self.unexpected("changed")),
        }
        Ok(())
    }

    pub(super) fn copy_began(&mut self) {
        match &mut self.state {
            State::Staging { busy, .. } => *busy = true,
            State::Reserving
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

    /// A copy is whole, and takes the place of the one before. A copy that comes in any other state is let go by the shell.
    pub(super) fn copied(&mut self, now: BootInstant, facts: CopyFacts) {
        let journaled_staging = self.journaled_staging;
        match &mut self.state {
            State::Staging {
                copy,
                busy,
                noting: noting @ false,
                reading,
                ..
            } => {
                *busy = false;
                let revision = facts.revision;
                *copy = Some(facts);
                if journaled_staging {
                    *noting = true;
                    self.persist(Step::Staged);
                } else {
                    if *reading != Reading::Open {
                        *reading = Reading::At(now + self.settings.idle_check);
                    }
                    self.send(Reply::Staged { tx: self.tx, revision });
                }
            }
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

    pub(super) fn copy_failed(&mut self, damaged: bool) {
        match &mut self.state {
            State::Staging { busy, .. } => {
                *busy = false;
                if damaged {
                    self.send(Reply::Damaged { tx: self.tx });
                }
            }
            State::Reserving
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

    /// There is no room for a copy: the source hears so, and nothing is kept.
    pub(super) fn no_room(&mut self) {
        match &self.state {
            State::Staging { noting: false, .. } => {
                self.send(Reply::Refused {
                    tx: self.tx,
                    why: Unwilling::Full,
                });
                self.drop_copy();
            }
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

    /// Notes that the copy is what the source has sealed.
    pub(super) fn prepare(&mut self, moving: Register, copy: CopyFacts) {
        if self.journaled_staging {
            self.state = State::NotingPrepared { moving, copy };
            self.persist(Step::Prepared);
        } else {
            // The row of commit-sent says both.
            self.note_commit(moving, copy);
        }
    }

    pub(super) fn note_commit(&mut self, moving: Register, copy: CopyFacts) {
        self.state = State::NotingCommit { moving, copy };
        self.persist(Step::CommitSent {
            commit_tx: self.commit_tx,
        });
    }

    /// The commit is in the register: from here on nobody hears "not committed", and the wait is counted.
    pub(super) fn learn(&mut self, now: BootInstant, tx: Tx) {
        self.state = State::NotingActive {
            tx,
            learned_at: now,
            retry_at: None,
        };
        self.persist(self.active_step(tx, true));
    }

    /// Fences the source and holds writes until it has answered, or 2.2 s from `learned_at`.
    pub(super) fn wait(&mut self, now: BootInstant, tx: Tx, learned_at: BootInstant) {
        self.state = State::Waiting {
            tx,
            ends_at: match stands(Guard::WaitForFence) {
                true => learned_at + WRITE_WAIT,
                false => now,
            },
            fence_at: now + self.settings.resend_after,
        };
        self.send(Reply::Fenced {
            epoch: self.epoch.next(),
        });
    }

    /// The wait is over.
    pub(super) fn open_writes(&mut self, tx: Tx) {
        self.actions.push_back(Action::OpenWrites);
        self.state = State::NotingOpen { tx, retry_at: None };
        self.persist(self.active_step(tx, false));
    }

    pub(super) fn active_step(&self, tx: Tx, wait: bool) -> Step {
        Step::Active {
            epoch: self.epoch.next(),
            tx,
            wait,
        }
    }

    pub(super) fn change(&mut self, old: Register, new: Register) {
        self.question.raise();
        let (old, new) = (Box::new(old), Box::new(new));
        self.actions.push_back(Action::Change { old, new });
    }

    /// stable(e+1, D): the source's place among the holders is ours.
    pub(super) fn committed_text(&self, moving: &Register, copy: &CopyFacts) -> Register {
        let mut holders = moving.holders.clone();
        for holder in &mut holders {
            if *holder == moving.owner {
                *holder = self.me.clone();
            }
        }
        Register {
            address: moving.address.clone(),
            epoch: self.epoch.next(),
            owner: self.me.clone(),
            state: RegisterState::Stable,
            tx: self.commit_tx,
            holders,
            kind: copy.kind.clone(),
            schema: copy.schema,
            level: copy.level.max(moving.level),
        }
    }
}
