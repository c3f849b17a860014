//! The protocol that moves one object from its owner S to another agent D, as two machines.
//!
//! Pure: no socket, clock, task, disk or randomness. A shell ([`crate::transfer`]) hands in what happened and the time,
//! carries out the actions, and wakes a machine at its next timeout. There is one machine for each side of each object; a
//! batch is many machines whose actions the shell groups.
//!
//! | file | holds |
//! | --- | --- |
//! | `source` | what the owner does: reserve, open, copy, seal, let go or abort, reclaim |
//! | `destination` | what the other does: reserve, stage, prepare, commit, fence, wait |
//! | `wire` | the messages between them and their bytes |
//! | `guard` | the rules that carry correctness, by name |
//! | `pace` | what share of full speed moves have while clients wait |
//! | `budget` | how many come in a second at such a share |
//! | `window` | how many objects and bytes are open at a time, and how many sealed |
//!
//! Specification: DESIGN.md section 11, PROTOCOL.md section "Moving an object".

pub mod budget;
pub mod destination;
pub mod guard;
pub mod pace;
pub mod source;
pub mod window;
pub mod wire;

#[cfg(test)]
mod rules;
#[cfg(test)]
mod walk;

use std::time::Duration;

use zones::{Epoch, Level, ObjectType, Register, ServerName, State, Tx};

/// Times and bounds of a move, each with its default from DESIGN.md section 11.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Longest time that writes to one object may wait while its move commits, such as `"100ms"`.
    /// Longer values ride out a slow librarian; writers feel all of it.
    pub seal_budget: Duration,
    /// Age beyond which the librarian's last answer is too old to begin a seal, such as `"1s"`.
    /// Longer values begin seals that a dead librarian will keep closed.
    pub librarian_age_max: Duration,
    /// How long a message may stay unanswered before it is sent again, such as `"1s"`.
    pub resend_after: Duration,
    /// Pause before a register change is sent again or a register is read again, such as `"100ms"`; doubled up to 5 s.
    pub retry_after: Duration,
    /// How long a move that is not sealed waits for a silent peer before it is aborted, such as `"10s"`.
    pub peer_patience: Duration,
    /// How long a moved copy is kept before it is removed, such as `"5s"`.
    /// Shorter values give space back sooner; the copy is of no use to anybody once the destination is active.
    pub grace: Duration,
    /// How long a destination keeps space for a move that does not begin, such as `"30s"`.
    pub reservation: Duration,
    /// How often a destination that hears nothing of a staged copy reads the register, such as `"10s"`.
    pub idle_check: Duration,
    /// How many catch-up rounds run before the seal closes on whatever difference is left.
    pub catch_up_rounds_max: u8,
    /// Largest difference that is sent under the seal, in octets; a larger one gets another catch-up round first.
    pub sealed_difference_octets_max: u64,
    /// How many times one object is copied again after a broken stream or damage before its move is aborted.
    pub copies_max: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seal_budget: Duration::from_millis(100),
            librarian_age_max: Duration::from_secs(1),
            resend_after: Duration::from_secs(1),
            retry_after: Duration::from_millis(100),
            peer_patience: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            reservation: Duration::from_secs(30),
            idle_check: Duration::from_secs(10),
            catch_up_rounds_max: 4,
            sealed_difference_octets_max: 1 << 20,
            copies_max: 3,
        }
    }
}

/// For so long after it *sent* a question that was answered "not committed" may a sealed source answer reads.
///
/// Not a setting: together with [`WRITE_WAIT`] it carries correctness, and both agents must agree.
pub const READ_AFTER_QUESTION: Duration = Duration::from_secs(2);
/// How often a sealed source asks.
pub const ASK_EVERY: Duration = Duration::from_millis(500);
/// For so long after it learned of the commit does a destination hold writes when the fence stays unanswered.
///
/// Longer than [`READ_AFTER_QUESTION`] by more than two clocks drift apart within it (DESIGN.md section 15).
pub const WRITE_WAIT: Duration = Duration::from_millis(2200);
/// Longest pause between two tries of the same register change or read.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// Pause before a step that did not become durable is written again.
const NOTE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Keyed BLAKE3 of one part of an object.
pub type Digest = [u8; 32];

/// The digests of an object's two parts, each in the form of the agent that states them; `None` where a part is absent.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Digests {
    /// Of the canonical properties.
    pub properties: Option<Digest>,
    /// Of the body.
    pub body: Option<Digest>,
}

/// Number of a question to the librarian, raised by every durable step and every update sent.
///
/// An answer to a question with another number was asked before the last such event, so it says nothing (DESIGN.md
/// section 7) and is dropped.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Question(pub u32);

impl Question {
    pub(crate) fn raise(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }
}

/// What became of a register change that was sent, resendings included.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ChangeOutcome {
    /// The librarian said done: it is durable there.
    Done,
    /// The librarian refused a sending. An earlier sending may have landed, so this settles nothing.
    Refused,
    /// No reply came. It may land yet.
    Unknown,
}

/// What a copy is: what the register and the entry say of it beside its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CopyFacts {
    /// Number of client writes in it.
    pub revision: u64,
    /// Digests of what was written and read back.
    pub digests: Digests,
    /// The object's type.
    pub kind: ObjectType,
    /// Version of its properties.
    pub schema: u32,
    /// Suite of its streams.
    pub level: Level,
}

/// An input that no peer, disk or librarian can cause: the shell is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{input} is impossible in state {state}")]
pub struct UnexpectedInput {
    /// The input, without its data.
    pub input: &'static str,
    /// The state, without its data.
    pub state: &'static str,
}

/// Fresh transaction numbers from one random seed, so that a machine needs no randomness.
#[derive(Clone, Debug)]
pub struct FreshTx {
    seed: [u8; 32],
    made: u32,
}

impl FreshTx {
    /// Numbers of this seed, which must be 256 random bits used for one machine only.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> FreshTx {
        FreshTx { seed, made: 0 }
    }

    /// The next one.
    pub fn next_tx(&mut self) -> Tx {
        self.made += 1;
        let hash = blake3::keyed_hash(&self.seed, &self.made.to_be_bytes());
        let mut tx = [0; 16];
        tx.copy_from_slice(&hash.as_bytes()[..16]);
        Tx(tx)
    }
}

/// What a register says to one party of the move (epoch, S to D, tx).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// Nothing: it is absent or of an epoch below the one known, so it was answered by an old or empty registry.
    Older,
    /// The move is open under our tx.
    Open,
    /// S owns it in this epoch and no move is open.
    Stable,
    /// S owns it in this epoch and another move, or this one under another tx, is open.
    OtherMove,
    /// D owns it in the next epoch: committed.
    Committed,
    /// Another agent, or another epoch above ours.
    Elsewhere,
    /// It was deleted.
    Deleted,
}

/// Judges by epoch and owner, by tx only within the epoch (DESIGN.md section 7).
fn judge(register: Option<&Register>, epoch: Epoch, source: &ServerName, destination: &ServerName, tx: Tx) -> Verdict {
    let Some(register) = register else {
        return Verdict::Older;
    };
    if register.epoch < epoch {
        return Verdict::Older;
    }
    match &register.state {
        State::Deleted => Verdict::Deleted,
        State::Stable if register.epoch == epoch && register.owner == *source => Verdict::Stable,
        State::Stable if register.epoch == epoch.next() && register.owner == *destination => Verdict::Committed,
        State::Moving { to } if register.epoch == epoch && register.owner == *source => {
            if to == destination && register.tx == tx {
                Verdict::Open
            } else {
                Verdict::OtherMove
            }
        }
        // The destination may have begun a move of its own: it owns the object all the same.
        State::Moving { .. } if register.epoch == epoch.next() && register.owner == *destination => Verdict::Committed,
        State::Stable | State::Moving { .. } => Verdict::Elsewhere,
    }
}

/// A pause that doubles, up to [`RETRY_AFTER_MAX`].
#[derive(Clone, Copy, Debug)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn new(settings: &Settings) -> Backoff {
        Backoff {
            next: settings.retry_after,
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(RETRY_AFTER_MAX);
        pause
    }
}
