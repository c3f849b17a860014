//! The destination's side of one object migration: what the agent D does that takes the object.

mod answers;
mod recover;
mod requests;
mod steps;
mod timeouts;

use std::collections::VecDeque;

use zones::{Address, Epoch, Register, ServerName, Tx};

use super::wire::{Reply, Request};
use super::{Backoff, ChangeOutcome, CopyFacts, FreshTx, Question, Settings, UnexpectedInput};
use crate::clock::BootInstant;

pub use recover::{DestinationJournal, Recovered};

/// The destination's side of one object migration (DESIGN.md section 11).
///
/// Holds no socket, clock, task or randomness: feed it [`Destination::handle_input`] and [`Destination::handle_timeout`],
/// drain [`Destination::poll_action`], sleep until [`Destination::poll_timeout`].
///
/// ```text
///  Reserving -> NotingReserved -> Reserved -> Checking -> Staging -> NotingPrepared -> NotingCommit -> CommitSent
///                     |              |           |           |             |                              |
///                     `--------------`-----------`-----------`-------------`------> NotingDrop <---refused|
///                                                                                       |       committed v
///                                                                                     Ended       NotingActive
///                                                                                       ^               |
///                                                                                       `- NotingOpen <- Waiting
/// ```
///
/// Invariants:
/// - a staged or prepared copy is shown to nobody, and may be dropped at any time; from commit-sent on it is kept until a
///   register read that was asked after the last sending, or a reply that says done, settles it;
/// - "not committed" is said only for a tx in the open entry, and never after this agent has learned of the commit;
/// - no write is applied until the source has answered the fence of this very epoch or 2.2 s have passed since the commit
///   was learned of, counted anew after a restart.
#[derive(Clone, Debug)]
pub struct Destination {
    settings: Settings,
    me: ServerName,
    from: ServerName,
    address: Address,
    epoch: Epoch,
    tx: Tx,
    /// What the register gets at the commit.
    commit_tx: Tx,
    /// Whether reservation, staging and preparation are written to the journal. Small objects do without: a crash then
    /// costs no more than copying them again, and the rules let a copy go at any time before commit-sent.
    journaled_staging: bool,
    /// Whether the journal holds a row of this move.
    journaled: bool,
    question: Question,
    state: State,
    actions: VecDeque<Action>,
}

/// What a destination is begun with: the source's [`Request::Reserve`].
#[derive(Clone, Debug)]
pub struct Begin {
    /// This agent.
    pub me: ServerName,
    /// The source, as its certificate names it.
    pub from: ServerName,
    /// The object.
    pub address: Address,
    /// The source's epoch.
    pub epoch: Epoch,
    /// Names the move.
    pub tx: Tx,
    /// Octets of both parts.
    pub octets: u64,
    /// Whether the steps before the commit are written to the journal.
    pub journaled_staging: bool,
    /// 256 random bits for this machine alone.
    pub seed: [u8; 32],
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// Whether the space asked for with [`Action::Reserve`] is there.
    Space(bool),
    /// The librarian answered `question`.
    Register {
        /// The number given with [`Action::Read`].
        question: Question,
        /// The register; `None` if there is none at that name.
        register: Option<Register>,
    },
    /// The librarian did not answer `question`.
    NoAnswer {
        /// The number given with [`Action::Read`].
        question: Question,
    },
    /// The register change sent last came to an end.
    Changed(ChangeOutcome),
    /// The step given with [`Action::Persist`] is durable.
    Durable,
    /// It is not; nothing of it will become durable.
    NotDurable,
    /// The source says. [`Request::Copy`] comes as [`Input::CopyBegan`] and what follows it.
    Peer(Request),
    /// A copy is being received.
    CopyBegan,
    /// A copy was written in new streams at new places, and read back; it takes the place of the one before.
    Copied(CopyFacts),
    /// The copy that was being received broke off.
    CopyFailed,
    /// There is no room for the copy.
    NoRoom,
    /// The copy arrived whole and is not what the source says it is.
    CopyDamaged,
    /// The source begins another move of the same address.
    Superseded,
    /// The connection to the source broke; what was sent may be lost.
    PeerLost,
}

/// What the shell does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Keep so much space free for this object, then tell [`Input::Space`].
    Reserve {
        /// Octets of both parts.
        octets: u64,
    },
    /// Ask the librarian for the register, now.
    Read {
        /// To be given back with the answer.
        question: Question,
    },
    /// Change the register from exactly `old` to `new`.
    Change {
        /// The text it must have.
        old: Box<Register>,
        /// The text it gets.
        new: Box<Register>,
    },
    /// Tell the source.
    Send(Reply),
    /// Make the step durable, then tell [`Input::Durable`].
    Persist(Step),
    /// The object is ours in `epoch`: show it, hold its writes.
    Own {
        /// The epoch.
        epoch: Epoch,
        /// The register's tx.
        tx: Tx,
    },
    /// Let writes go on.
    OpenWrites,
    /// The move is over; what is staged and reserved is given back unless the object is ours.
    Ended(Outcome),
}

/// What the entry is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Space is kept.
    Reserved,
    /// The copy last told of is whole.
    Staged,
    /// It is what the source has sealed.
    Prepared,
    /// The commit is about to be sent.
    CommitSent {
        /// What the register gets.
        commit_tx: Tx,
    },
    /// The object is ours.
    Active {
        /// The epoch.
        epoch: Epoch,
        /// The register's tx.
        tx: Tx,
        /// Whether writes still wait.
        wait: bool,
    },
    /// After a restart within the wait: another agent owns the object.
    Moved {
        /// The owner.
        owner: ServerName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The row is removed, and the copy with it.
    Removed,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The object is ours.
    Owner,
    /// It is not; nothing of it is left here.
    Dropped,
}

#[derive(Clone, Debug)]
enum State {
    /// Step 0: the disk is asked for space.
    Reserving,
    /// The reservation is being noted.
    NotingReserved,
    /// Space is kept until the source opens the move.
    Reserved { expires_at: BootInstant },
    /// The register is being read: does it name us?
    Checking {
        /// What was staged before a restart.
        copy: Option<CopyFacts>,
        /// Whether that was already found to be what the source has sealed.
        prepared: bool,
        reading: Reading,
        backoff: Backoff,
    },
    /// Steps 2 and 3.
    Staging {
        moving: Register,
        copy: Option<CopyFacts>,
        busy: bool,
        /// The copy is being noted.
        noting: bool,
        reading: Reading,
    },
    /// Step 5.
    NotingPrepared { moving: Register, copy: CopyFacts },
    /// Step 5, its second half.
    NotingCommit { moving: Register, copy: CopyFacts },
    /// Step 6: the commit was sent. Only the register ends this.
    CommitSent {
        /// The text that the commit names; unknown after a restart until the register was read.
        moving: Option<Register>,
        copy: CopyFacts,
        settling: Settling,
        backoff: Backoff,
    },
    /// Step 7: the taking is being noted.
    NotingActive {
        tx: Tx,
        learned_at: BootInstant,
        retry_at: Option<BootInstant>,
    },
    /// After a restart within the wait, until the register was read.
    Returning {
        tx: Tx,
        since: BootInstant,
        reading: Reading,
        backoff: Backoff,
    },
    /// Writes wait for the fence.
    Waiting {
        tx: Tx,
        ends_at: BootInstant,
        fence_at: BootInstant,
    },
    /// Writes go on; the end of the wait is being noted.
    NotingOpen { tx: Tx, retry_at: Option<BootInstant> },
    /// After a restart within the wait: the loss is being noted.
    NotingMoved {
        owner: ServerName,
        epoch: Epoch,
        retry_at: Option<BootInstant>,
    },
    /// The row is being removed.
    NotingDrop { retry_at: Option<BootInstant> },
    /// Over.
    Ended(Outcome),
}

/// Where the reading of a register stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    /// A question is open.
    Open,
    /// The next question is due then.
    At(BootInstant),
}

/// Where the settling of the commit stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Settling {
    /// It was sent and has not come to an end.
    Changing,
    /// Its end settled nothing: the register is being read.
    Reading,
    /// The register is read again then.
    ReadAt(BootInstant),
    /// The commit is sent again then.
    ChangeAt(BootInstant),
}

impl Destination {
    /// Takes an offer: asks for space.
    #[must_use]
    pub fn begin(begin: Begin, settings: Settings) -> Destination {
        let mut actions = VecDeque::new();
        actions.push_back(Action::Reserve { octets: begin.octets });
        Destination {
            settings,
            me: begin.me,
            from: begin.from,
            address: begin.address,
            epoch: begin.epoch,
            tx: begin.tx,
            commit_tx: FreshTx::new(begin.seed).next_tx(),
            journaled_staging: begin.journaled_staging,
            journaled: false,
            question: Question::default(),
            state: State::Reserving,
            actions,
        }
    }

    /// The object.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Names the move.
    #[must_use]
    pub fn tx(&self) -> Tx {
        self.tx
    }

    /// The source's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> &ServerName {
        &self.from
    }

    /// Whether a copy may be received now: the register that this agent read itself names it and the source.
    #[must_use]
    pub fn takes_copy(&self) -> bool {
        match &self.state {
            State::Staging { noting, .. } => !noting,
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
            | State::Ended(_) => false,
        }
    }

    /// Whether writes of the object wait for the fence.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes what happened.
    ///
    /// # Errors
    ///
    /// [`UnexpectedInput`] if no peer or librarian could cause it: the shell answers something that it was not asked.
    pub fn handle_input(&mut self, now: BootInstant, input: Input) -> Result<(), UnexpectedInput> {
        match input {
            Input::Space(enough) => self.space(now, enough),
            Input::Register { question, register } => {
                self.answered(now, question, register);
                Ok(())
            }
            Input::NoAnswer { question } => {
                self.unanswered(now, question);
                Ok(())
            }
            Input::Changed(outcome) => self.changed(now, outcome),
            Input::Durable => self.durable(now),
            Input::NotDurable => self.not_durable(now),
            Input::Peer(request) => {
                self.requested(request);
                Ok(())
            }
            Input::CopyBegan => {
                self.copy_began();
                Ok(())
            }
            Input::Copied(copy) => {
                self.copied(now, copy);
                Ok(())
            }
            Input::CopyFailed => {
                self.copy_failed(false);
                Ok(())
            }
            Input::CopyDamaged => {
                self.copy_failed(true);
                Ok(())
            }
            Input::NoRoom => {
                self.no_room();
                Ok(())
            }
            Input::Superseded => {
                self.give_up();
                Ok(())
            }
            Input::PeerLost => {
                self.peer_lost(now);
                Ok(())
            }
        }
    }

    fn unexpected(&self, input: &'static str) -> UnexpectedInput {
        UnexpectedInput {
            input,
            state: self.state_name(),
        }
    }

    /// The state's name, for logs.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Reserving => "reserving",
            State::NotingReserved => "noting the reservation",
            State::Reserved { .. } => "reserved",
            State::Checking { .. } => "checking",
            State::Staging { .. } => "staging",
            State::NotingPrepared { .. } => "noting the preparation",
            State::NotingCommit { .. } => "noting the commit",
            State::CommitSent { .. } => "commit sent",
            State::NotingActive { .. } => "noting the taking",
            State::Returning { .. } => "returning",
            State::Waiting { .. } => "waiting",
            State::NotingOpen { .. } => "opening",
            State::NotingMoved { .. } => "noting the loss",
            State::NotingDrop { .. } => "dropping",
            State::Ended(_) => "ended",
        }
    }

    fn read(&mut self) {
        self.actions.push_back(Action::Read {
            question: self.question,
        });
    }

    fn persist(&mut self, step: Step) {
        self.actions.push_back(Action::Persist(step));
    }

    fn send(&mut self, reply: Reply) {
        self.actions.push_back(Action::Send(reply));
    }

    fn end(&mut self, outcome: Outcome) {
        self.state = State::Ended(outcome);
        self.actions.push_back(Action::Ended(outcome));
    }

    /// Lets the copy go, from the journal too if it is there.
    fn drop_copy(&mut self) {
        if self.journaled {
            self.state = State::NotingDrop { retry_at: None };
            self.persist(Step::Removed);
        } else {
            self.send(Reply::Dropped { tx: self.tx });
            self.end(Outcome::Dropped);
        }
    }
}
