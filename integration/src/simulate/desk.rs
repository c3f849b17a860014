//! Clients' requests at an agent: what `agent::objects` does with tasks, step by step on virtual time.
//!
//! Every decision is the production code's (`Local::look`, `objects::steps`, `Create`, `Delete`); here is only the order in
//! which they are taken, and what is waited for between them.

use agent::clock::BootInstant;
use agent::objects::create::Create;
use agent::objects::delete::Delete;
use agent::objects::{Prepared, Turn};
use agent::store::{Change, Entry};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::oneshot;
use uuid::Uuid;
use zones::{Address, ServerName, Tx};

use super::clock::Time;
use super::linear::Object;

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Read,
    Put(u64),
    Delete,
}

/// Who gets the answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReplyTo {
    Client { client: usize, attempt: u64 },
    Agent { agent: usize, life: u32, request: u64 },
}

/// A request as it travels.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) address: Address,
    pub(super) verb: Verb,
    pub(super) client: usize,
    pub(super) write_id: Uuid,
    pub(super) hops: u8,
    /// The agent that hands it on.
    pub(super) via: Option<usize>,
    pub(super) reply_to: ReplyTo,
}

impl Call {
    /// Whether nobody asked in this life: a restart found it half done.
    pub(super) fn is_of_restart(&self) -> bool {
        matches!(self.reply_to, ReplyTo::Client { client: usize::MAX, .. })
    }
}

/// An answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reply {
    Seen(Object),
    Written(u64),
    Deleted,
    Absent,
    Gone,
    /// Another agent owns it.
    Elsewhere(ServerName),
    /// Ask again later.
    Unavailable(&'static str),
    /// Another server takes new objects.
    NotServing,
    /// The copy does not open.
    Damaged,
    /// The server that handed it on is not where the object came from.
    Misdirected,
    /// It will never be done.
    Refused(String),
}

/// What a request waits for: it looks again when this has come.
pub(super) struct Changed(Pin<Box<OwnedNotified>>);

impl From<OwnedNotified> for Changed {
    fn from(notified: OwnedNotified) -> Changed {
        Changed(Box::pin(notified))
    }
}

impl Changed {
    /// Whether it has come. Nobody is woken for it: requests are looked at whenever their agent has done something.
    pub(super) fn has_come(&mut self) -> bool {
        self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

/// Where a request stands.
pub(super) enum Stage {
    /// Looks at the slot.
    Looking,
    /// Has looked, and looks again when something has changed.
    Waiting(Changed),
    /// The register is read, for a read.
    AskedForRead,
    /// The register says that the object is here, and its copy is about to be taken over.
    Arriving,
    /// The turn is asked for again at the next poll.
    AskTurn,
    InLine(oneshot::Receiver<Turn>),
    /// Another holder does not permit yet that the object is changed.
    Permitting {
        turn: Turn,
        changed: Changed,
        /// The row is about to be the turn's alone again.
        resumes: bool,
        until: Time,
    },
    /// The register is read before the object is made.
    AskedForMake(Turn),
    /// The register is read to find who deleted the object.
    AskedForDelete(Turn, bool),
    /// A row is on its way to disk.
    Committing {
        turn: Turn,
        change: Box<Change>,
        then: Then,
    },
    Creating {
        turn: Turn,
        entry: Arc<Entry>,
        machine: Box<Create>,
        /// An answer, or a moment, is waited for.
        waits: bool,
    },
    Deleting {
        turn: Turn,
        entry: Arc<Entry>,
        tx: Tx,
        machine: Box<Delete>,
        waits: bool,
    },
    /// The write is durable here; other holders do not have it yet.
    Confirming {
        turn: Turn,
        entry: Arc<Entry>,
        /// What is acknowledged.
        revision: u64,
        /// The object is new: it has first to get its copies.
        copies: bool,
        changed: Option<Changed>,
    },
    /// The object is deleted; other holders may still show it.
    Quieting {
        turn: Turn,
        entry: Arc<Entry>,
        change: Box<Change>,
        reply: Reply,
        until: BootInstant,
    },
    /// It was handed on.
    HandedOn,
    /// It was handed on in vain: the register is read to find the owner.
    AskedForOwner,
    /// Its answer was given.
    Over,
}

/// What follows a commit.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// The write is acknowledged, once other holders have it.
    Acknowledge,
    /// The register is made.
    Create(Tx),
    /// The register is marked as deleted.
    Delete(Tx),
    /// This is told; a disk that refuses is tried again.
    Tell(Reply),
    /// The write that made the object is acknowledged once it has its copies; a disk that refuses is tried again.
    Made(u64),
    /// This is told, and those that held copies are; a disk that refuses is tried again.
    Ended(Reply, Arc<Entry>),
}

/// One request at one agent.
pub(super) struct Request {
    pub(super) call: Call,
    /// Whether the client still waits.
    pub(super) waited_for: bool,
    pub(super) until: Time,
    pub(super) prepared: Option<Prepared>,
    pub(super) stage: Stage,
}
