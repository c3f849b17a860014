//! The source's side of one object migration: what the owner S does.

mod answers;
mod recover;
mod replies;
mod steps;
mod timeouts;

use std::collections::VecDeque;

use zones::{Address, Epoch, Level, ObjectType, Register, ServerName, Tx};

use super::guard::{Guard, stands};
use super::wire::{Reply, Request};
use super::{Backoff, ChangeOutcome, Digests, FreshTx, Question, Settings, UnexpectedInput};
use crate::clock::BootInstant;
use crate::objects::ReadGate;

pub use recover::{Recovered, SourceJournal};

/// The source's side of one object migration (DESIGN.md section 11).
///
/// Holds no socket, clock, task or randomness: feed it [`Source::handle_input`] and [`Source::handle_timeout`], drain
/// [`Source::poll_action`], sleep until [`Source::poll_timeout`].
///
/// ```text
///  Reserving -> NotingMove -> Opening -> Copying -> Closing -> NotingSeal -> Sealed --fence or register--> NotingMoved
///      |                         |          |          |                       |                               |
///      v                         `----------`-----> Aborting <--budget---------´                             Moved
///    Ended                                             |                                                       | grace
///                                            NotingStable -> Ended                                     NotingForward -> Ended
/// ```
///
/// Invariants:
/// - a write is applied only where the gates are open, and they are closed from `Closing` until the register shows
///   stable(e, S) by our own reply or by an answer to a question asked after the seal was durable;
/// - the seal message leaves after the seal is durable, and only if the librarian answered within the last second;
/// - a register change that was sent is settled by a reply that says done or by such an answer, never by a refusal;
/// - the moved copy is removed only after the register was read again and shows a higher epoch.
#[derive(Clone, Debug)]
pub struct Source {
    settings: Settings,
    me: ServerName,
    to: ServerName,
    address: Address,
    epoch: Epoch,
    tx: Tx,
    fresh: FreshTx,
    /// What to offer the destination.
    offer: Offer,
    question: Question,
    /// Number of the last closing of the gate.
    closings: u32,
    state: State,
    actions: VecDeque<Action>,
}

/// What a move is begun with.
#[derive(Clone, Debug)]
pub struct Begin {
    /// This agent, the owner.
    pub me: ServerName,
    /// The destination.
    pub to: ServerName,
    /// The object.
    pub address: Address,
    /// The epoch of the owner's entry.
    pub epoch: Epoch,
    /// What the destination reserves for.
    pub offer: Offer,
    /// Whether the owner is still within the wait that followed its own taking of the object. It begins no move then.
    pub in_wait: bool,
    /// 256 random bits for this machine alone.
    pub seed: [u8; 32],
}

/// What the destination is told before anything moves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offer {
    /// The object's type.
    pub kind: ObjectType,
    /// Version of its properties.
    pub schema: u32,
    /// Suite of its streams.
    pub level: Level,
    /// Number of client writes so far.
    pub revision: u64,
    /// Octets of both parts.
    pub octets: u64,
}

/// The owner took this object less than 2.2 s ago and seals no onward move yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the object has just arrived; move it on when its wait is over")]
pub struct InWait;

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// The librarian answered `question`, which was sent at `asked_at`.
    Register {
        /// The number given with [`Action::Read`].
        question: Question,
        /// When the question left.
        asked_at: BootInstant,
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
    /// The destination says.
    Peer(Reply),
    /// The connection to the destination broke; what was sent may be lost.
    PeerLost,
    /// A copy of `revision` was handed to the transport whole.
    Shipped {
        /// The revision.
        revision: u64,
    },
    /// Its stream broke.
    ShipFailed,
    /// The owner's own copy does not open: no other try will do better.
    Unreadable,
    /// The gate has begun to close: from now on new writes wait.
    Holding {
        /// The number given with [`Action::Close`].
        number: u32,
    },
    /// Who waits at the gate now: the answer to [`Action::AskWriters`].
    Writers {
        /// Since when the first of them has waited; `None` if nobody does.
        since: Option<BootInstant>,
    },
    /// The gate is closed and no write is open.
    Closed {
        /// The number given with [`Action::Close`].
        number: u32,
        /// The last write's number.
        revision: u64,
        /// Digests of the owner's copy.
        digests: Digests,
        /// Octets in which it differs from what the destination has staged.
        difference_octets: u64,
        /// When the librarian was last asked a question that it answered.
        librarian_answered: Option<BootInstant>,
    },
    /// The owner wants its object for itself.
    Cancel,
    /// A deletion has taken the object over: it changes the register from here on, and this move is nothing any more.
    TakenOver,
}

/// What the shell does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
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
    /// Tell the destination.
    Send(Request),
    /// Copy the owner's present revision to the destination, but for the parts that it has at revision `staged`.
    Ship {
        /// What the destination has.
        staged: Option<u64>,
    },
    /// Queue new writes, wait for the open one, then tell [`Input::Closed`].
    Close {
        /// To be given back, so that a closing that was undone is not taken for a later one.
        number: u32,
        /// What the destination has.
        staged: u64,
    },
    /// Tell at once who waits at the gate: [`Input::Writers`].
    AskWriters,
    /// Let queued and new writes go on here, and reads too.
    Unseal,
    /// Who may read.
    Reads(ReadGate),
    /// Make the step durable in the entry, then tell [`Input::Durable`].
    Persist(Step),
    /// Pass queued writes on to `owner`.
    LetGo {
        /// The new owner.
        owner: ServerName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The move is over; the machine may be dropped once its actions are done.
    Ended(Outcome),
}

/// What the entry is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// A move to the destination is open.
    Moving {
        /// The destination.
        to: ServerName,
        /// Names the move.
        tx: Tx,
    },
    /// Writes are closed at `revision`.
    Sealed {
        /// The destination.
        to: ServerName,
        /// Names the move.
        tx: Tx,
        /// The last write's number.
        revision: u64,
        /// Digests of the owner's copy at that revision.
        digests: Digests,
    },
    /// The object stays here.
    Active {
        /// The register's tx as just learned.
        tx: Tx,
    },
    /// Another agent owns the object; this copy is kept for now.
    Moved {
        /// The owner.
        owner: ServerName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The object was deleted.
    Deleted {
        /// The epoch of the deletion.
        epoch: Epoch,
        /// The register's tx.
        tx: Tx,
    },
    /// The copy is removed, named by its index sequence number; what still comes for it is forwarded.
    Forward {
        /// The owner at the time of the last reading.
        owner: ServerName,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// How a move ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The destination owns the object and the copy here is gone.
    Moved,
    /// The object stays; why it did not move.
    Stayed(Why),
    /// The object has gone elsewhere or was deleted, by no doing of this move.
    Superseded,
}

/// Why an object stays.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// The destination has no room, another move of this address open, or does not take the object's level.
    Refused,
    /// The destination does not answer.
    Silent,
    /// The register is not as it should be, or the librarian refuses the move.
    Register,
    /// The copy arrived damaged or not at all, too many times.
    Copy,
    /// The owner's own copy does not open.
    Unreadable,
    /// The destination dropped its copy.
    Dropped,
    /// The seal lasted too long.
    SealBudget,
    /// The owner changed its mind.
    Cancelled,
    /// The move was open when this agent was restarted, and was sealed.
    Restarted,
    /// This agent's own disk failed to note the move.
    Disk,
}

#[derive(Clone, Debug)]
enum State {
    /// Step 0: the destination is asked for space, the librarian for the register.
    Reserving {
        register: Option<Register>,
        reading: Reading,
        reserved: bool,
        resend_at: BootInstant,
        give_up_at: BootInstant,
    },
    /// The move is being noted, so that a restart finds it.
    NotingMove { old: Register, cancelled: Option<Why> },
    /// Step 1: the register is being changed to moving.
    Opening {
        old: Register,
        settling: Settling,
        backoff: Backoff,
        tries: u8,
        cancelled: Option<Why>,
    },
    /// Steps 2 and 3.
    Copying {
        moving: Register,
        phase: Phase,
        staged: Option<u64>,
        rounds: u8,
        copies: u8,
        give_up_at: BootInstant,
    },
    /// Step 4: the gate is closing.
    Closing {
        moving: Register,
        staged: u64,
        rounds: u8,
        copies: u8,
        /// Set once new writes wait.
        budget: Option<Budget>,
    },
    /// The seal is being noted.
    NotingSeal {
        moving: Register,
        staged: u64,
        seal: Seal,
        budget: Budget,
        cancelled: Option<Why>,
        retry_at: Option<BootInstant>,
    },
    /// Sealed: the destination may commit.
    Sealed {
        moving: Register,
        /// Whether the destination has the sealed revision, so that the seal message was sent.
        told: bool,
        seal: Seal,
        asking: Asking,
        budget: Budget,
        resend_at: BootInstant,
    },
    /// The register is being changed back to stable.
    Aborting {
        /// The text last known; the next change names it.
        old: Register,
        /// What the register gets.
        tx: Tx,
        /// Whether the change that opened the move is known to have landed, so that any stable text is the end.
        opened: bool,
        settling: Settling,
        backoff: Backoff,
        sealed: Option<Asking>,
        why: Why,
    },
    /// The return is being noted.
    NotingStable {
        tx: Tx,
        why: Why,
        retry_at: Option<BootInstant>,
    },
    /// Step 7: the loss is being noted.
    NotingMoved {
        owner: ServerName,
        epoch: Epoch,
        /// The fence that is to be answered once this is durable.
        fence: Option<Epoch>,
        retry_at: Option<BootInstant>,
    },
    /// The deletion is being noted.
    NotingDeleted {
        epoch: Epoch,
        tx: Tx,
        retry_at: Option<BootInstant>,
    },
    /// Step 8, until the grace period ends and the register was read again.
    Moved {
        owner: ServerName,
        epoch: Epoch,
        reading: Reading,
        backoff: Backoff,
    },
    /// Step 9.
    NotingForward {
        owner: ServerName,
        epoch: Epoch,
        retry_at: Option<BootInstant>,
    },
    /// After a restart, until the register was read.
    Recovering {
        journal: SourceJournal,
        reading: Reading,
        backoff: Backoff,
    },
    /// Over.
    Ended,
}

/// What was sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seal {
    revision: u64,
    digests: Digests,
}

/// How long the gate may stay closed.
///
/// What is bounded is the time that a write waits. A seal that keeps nobody waiting goes on past its budget, since to abort it
/// would cost a move and help nobody; a destination's patience bounds it all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Budget {
    began: BootInstant,
    /// When it is asked next who waits.
    look_at: BootInstant,
}

impl Budget {
    fn new(now: BootInstant, settings: &Settings) -> Budget {
        Budget {
            began: now,
            look_at: now + settings.seal_budget,
        }
    }

    /// Whether it is over for everybody.
    fn is_over(&self, now: BootInstant, settings: &Settings) -> bool {
        now >= self.began + settings.peer_patience
    }

    /// The first write has waited since then; true if that is too long.
    fn waited(&mut self, now: BootInstant, since: BootInstant, settings: &Settings) -> bool {
        let end = since.max(self.began) + settings.seal_budget;
        self.look_at = end;
        now >= end
    }
}

/// Where the reading of a register stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    /// No question is open, and none is due.
    Idle,
    /// A question is open.
    Open,
    /// The next question is due then.
    At(BootInstant),
}

/// Where the settling of a register change stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Settling {
    /// It was sent and has not come to an end.
    Changing,
    /// Its end settled nothing: the register is being read.
    Reading,
    /// No answer, or not yet: the register is read again then.
    ReadAt(BootInstant),
    /// The old text is still there: the change is sent again then.
    ChangeAt(BootInstant),
}

/// Where the copying stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The destination was asked what it has.
    Asking { resend_at: BootInstant },
    /// The shell is copying.
    Shipping,
    /// The copy was handed over; the destination is to confirm it.
    Shipped { ask_at: BootInstant },
    /// A pause before the gate is closed again.
    Pausing { until: BootInstant, staged: u64 },
}

/// The questions of a sealed source and what they allow.
#[derive(Clone, Debug)]
struct Asking {
    /// When the questions that may still be answered left, by number modulo the length.
    sent: [(u32, BootInstant); 8],
    next: u32,
    ask_at: BootInstant,
    /// Reads are answered until then; `None`: held.
    reads_until: Option<BootInstant>,
}

impl Source {
    /// Begins a move: asks the destination for space and the librarian for the register.
    ///
    /// # Errors
    ///
    /// [`InWait`] within 2.2 s of the object's arrival: such a move could commit while the agent before this one still
    /// answers reads.
    pub fn begin(now: BootInstant, begin: Begin, settings: Settings) -> Result<Source, InWait> {
        if begin.in_wait && stands(Guard::OnwardMove) {
            return Err(InWait);
        }
        let mut fresh = FreshTx::new(begin.seed);
        let tx = match stands(Guard::FreshTxOnMove) {
            true => fresh.next_tx(),
            false => Tx([1; 16]),
        };
        let mut source = Source {
            state: State::Reserving {
                register: None,
                reading: Reading::Open,
                reserved: false,
                resend_at: now + settings.resend_after,
                give_up_at: now + settings.peer_patience,
            },
            settings,
            me: begin.me,
            to: begin.to,
            address: begin.address,
            epoch: begin.epoch,
            tx,
            fresh,
            offer: begin.offer,
            question: Question::default(),
            closings: 0,
            actions: VecDeque::new(),
        };
        source.read();
        source.send_reserve();
        Ok(source)
    }

    /// The object.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The epoch of the owner's copy.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Names the move.
    #[must_use]
    pub fn tx(&self) -> Tx {
        self.tx
    }

    /// The destination.
    #[must_use]
    pub fn destination(&self) -> &ServerName {
        &self.to
    }

    /// Whether this closing of the gate is still wanted.
    #[must_use]
    pub fn is_closing(&self, number: u32) -> bool {
        matches!(&self.state, State::Closing { .. }) && self.closings == number
    }

    /// Whether writers wait for this move: from the closing of the gate until the object is let go or kept.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.state {
            State::Closing { .. }
            | State::NotingSeal { .. }
            | State::Sealed { .. }
            | State::Aborting { sealed: Some(_), .. }
            | State::NotingMoved { .. } => true,
            State::Reserving { .. }
            | State::NotingMove { .. }
            | State::Opening { .. }
            | State::Copying { .. }
            | State::Aborting { sealed: None, .. }
            | State::NotingStable { .. }
            | State::NotingDeleted { .. }
            | State::Moved { .. }
            | State::NotingForward { .. }
            | State::Recovering { .. }
            | State::Ended => false,
        }
    }

    /// Whether the object is still this agent's, as far as the machine knows: it counts as open in the window.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.state {
            State::Moved { .. } | State::NotingForward { .. } | State::Ended => false,
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
            | State::Recovering { .. } => true,
        }
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
            Input::Register {
                question,
                asked_at,
                register,
            } => {
                self.answered(now, question, asked_at, register);
                Ok(())
            }
            Input::NoAnswer { question } => {
                self.unanswered(now, question);
                Ok(())
            }
            Input::Changed(outcome) => self.changed(now, outcome),
            Input::Durable => self.durable(now),
            Input::NotDurable => self.not_durable(now),
            Input::Peer(reply) => {
                self.replied(now, reply);
                Ok(())
            }
            Input::PeerLost => {
                self.peer_lost(now);
                Ok(())
            }
            Input::Shipped { revision } => {
                self.shipped(now, revision);
                Ok(())
            }
            Input::ShipFailed => {
                self.ship_failed(now);
                Ok(())
            }
            Input::Unreadable => {
                self.unreadable(now);
                Ok(())
            }
            Input::Closed {
                number,
                revision,
                digests,
                difference_octets,
                librarian_answered,
            } => {
                let seal = Seal { revision, digests };
                self.closed(now, number, seal, difference_octets, librarian_answered);
                Ok(())
            }
            Input::Holding { number } => {
                self.holding(now, number);
                Ok(())
            }
            Input::Writers { since } => {
                self.writers(now, since);
                Ok(())
            }
            Input::Cancel => {
                self.cancel(now, Why::Cancelled);
                Ok(())
            }
            Input::TakenOver => {
                self.taken_over();
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
            State::Reserving { .. } => "reserving",
            State::NotingMove { .. } => "noting the move",
            State::Opening { .. } => "opening",
            State::Copying { .. } => "copying",
            State::Closing { .. } => "closing",
            State::NotingSeal { .. } => "noting the seal",
            State::Sealed { .. } => "sealed",
            State::Aborting { .. } => "aborting",
            State::NotingStable { .. } => "noting the return",
            State::NotingMoved { .. } => "noting the loss",
            State::NotingDeleted { .. } => "noting the deletion",
            State::Moved { .. } => "moved",
            State::NotingForward { .. } => "reclaiming",
            State::Recovering { .. } => "recovering",
            State::Ended => "ended",
        }
    }

    fn read(&mut self) {
        self.actions.push_back(Action::Read {
            question: self.question,
        });
    }

    fn change(&mut self, old: Register, new: Register) {
        self.question.raise();
        let (old, new) = (Box::new(old), Box::new(new));
        self.actions.push_back(Action::Change { old, new });
    }

    fn persist(&mut self, step: Step) {
        self.actions.push_back(Action::Persist(step));
    }

    fn send(&mut self, request: Request) {
        self.actions.push_back(Action::Send(request));
    }

    fn send_reserve(&mut self) {
        let offer = self.offer.clone();
        self.send(Request::Reserve {
            epoch: self.epoch,
            tx: self.tx,
            kind: offer.kind,
            schema: offer.schema,
            level: offer.level,
            revision: offer.revision,
            octets: offer.octets,
        });
    }

    fn send_open(&mut self) {
        self.send(Request::Open {
            epoch: self.epoch,
            tx: self.tx,
        });
    }

    fn end(&mut self, outcome: Outcome) {
        self.state = State::Ended;
        self.actions.push_back(Action::Ended(outcome));
    }
}

impl Asking {
    /// The questions of a source that was sealed at `now`, or restarted. At the moment of sealing, before the seal message
    /// leaves, S itself is the answer: nobody can have committed.
    fn new(now: BootInstant, reads_until: Option<BootInstant>) -> Asking {
        Asking {
            sent: [(0, BootInstant::ZERO); 8],
            next: 1,
            ask_at: now + super::ASK_EVERY,
            reads_until,
        }
    }

    /// Numbers a question that leaves now.
    fn ask(&mut self, now: BootInstant) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        self.sent[number as usize % self.sent.len()] = (number, now);
        self.ask_at = now + super::ASK_EVERY;
        number
    }

    /// When question `number` left.
    fn sent_at(&self, number: u32) -> Option<BootInstant> {
        let (sent, at) = self.sent[number as usize % self.sent.len()];
        (sent == number && number != 0).then_some(at)
    }

    /// "Not committed" to a question that left at `asked_at`: reads go on until 2 s after *that*. True if they did not.
    fn allow(&mut self, asked_at: BootInstant) -> Option<BootInstant> {
        let until = asked_at + super::READ_AFTER_QUESTION;
        if self.reads_until.is_some_and(|known| known >= until) {
            return None;
        }
        self.reads_until = Some(until);
        Some(until)
    }
}

/// The next moment of a pause that doubles.
fn after(now: BootInstant, backoff: &mut Backoff) -> BootInstant {
    now + backoff.pause()
}
