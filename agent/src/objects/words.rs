//! What is asked of the objects of this agent, and what it answers.

use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;
use zones::{Address, Epoch, Level, ObjectType, ServerName};

use crate::clock::BootInstant;
use crate::objects::body::StagedBody;

/// When a write may happen (RFC 9110 section 13.1). An entity tag is `"revision.schema"`; only its revision counts, since
/// a schema step is no write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Condition {
    /// Always.
    #[default]
    Any,
    /// `If-Match: "7.3"`: only if the object is at this revision.
    IfRevision(u64),
    /// `If-Match: *`: only if the object exists.
    IfExists,
    /// `If-None-Match: *`: only if it does not exist yet.
    IfAbsent,
}

/// One write of an object: what is given replaces what was there, what is absent stays.
#[derive(Debug)]
pub struct Put {
    /// Who writes: the name in the client's certificate.
    pub client: String,
    /// The client's own number of this write, so that a repetition is applied once.
    pub write_id: Option<Uuid>,
    /// When it may happen.
    pub condition: Condition,
    /// Its type; a new object without one is a `file`.
    pub kind: Option<ObjectType>,
    /// The version that its properties are in. Without one it is the version that the object is in; a new object has 1. An older
    /// one is stepped forward to that of the object.
    pub schema: Option<u32>,
    /// All its properties.
    pub properties: Option<Map<String, Value>>,
    /// Its body, already on disk.
    pub body: Option<StagedBody>,
}

/// The end of an object. Its address is never used again.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Who deletes: the name in the client's certificate.
    pub client: String,
    /// The client's own number of this deletion; the tombstone keeps it, so that a repetition succeeds.
    pub write_id: Option<Uuid>,
    /// When it may happen.
    pub condition: Condition,
}

/// What a write led to; a repetition under the same write id gets the same again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Written {
    /// Number of the ownership.
    pub epoch: Epoch,
    /// Number of client writes, this one included.
    pub revision: u64,
    /// Its schema version after the write.
    pub schema: u32,
    /// Whether this write made the object.
    pub created: bool,
}

/// What a listing says of one object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Its address.
    pub address: Address,
    /// Its type.
    pub kind: ObjectType,
    /// Its schema version.
    pub schema: u32,
    /// Level of its encryption.
    pub level: Level,
    /// Number of the ownership.
    pub epoch: Epoch,
    /// Number of client writes.
    pub revision: u64,
    /// Octets of its body.
    pub size: u64,
    /// Why its properties are not in a later version: a schema step failed.
    pub quarantined: Option<String>,
}

/// Why this agent does not show an object.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Miss {
    /// Another agent owns it, as the register says that was just read: ask that one.
    #[error("the object is on {owner} since epoch {epoch}")]
    Elsewhere {
        /// Its owner.
        owner: ServerName,
        /// The epoch at which it owns it.
        epoch: Epoch,
    },
    /// This agent gave it to `to`: hand the request on.
    #[error("the object has moved to {to}")]
    Party {
        /// Who serves it now.
        to: ServerName,
    },
    /// No such object exists, as the librarian just said.
    #[error("there is no such object")]
    Absent,
    /// It was deleted, for ever.
    #[error("the object was deleted and its address is not used again")]
    Deleted,
    /// It cannot be told now whether or how it may be shown: ask again.
    #[error("the object cannot be read at this moment: {why}; ask again")]
    Unavailable {
        /// What is being waited for.
        why: &'static str,
        /// When asking again makes sense.
        retry_after: Duration,
    },
    /// The copy on disk is damaged and no other one is known.
    #[error(
        "the copy of the object on this server is damaged and is not served until it is repaired or the whole object is written \
         anew: {what}"
    )]
    Damaged {
        /// What was found.
        what: String,
    },
}

impl Miss {
    /// Nothing can be told because the librarian does not answer.
    #[must_use]
    pub fn unreachable() -> Miss {
        Miss::Unavailable {
            why: "the librarian does not answer",
            retry_after: Duration::from_secs(2),
        }
    }
}

/// Why a write was not applied, as far as this agent knows.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Another agent owns it, as the register says that was just read: write there, under the same write id.
    #[error("the object is on {owner} since epoch {epoch}")]
    Elsewhere {
        /// Its owner.
        owner: ServerName,
        /// The epoch at which it owns it.
        epoch: Epoch,
    },
    /// This agent gave it to `to`: hand the request on, under the same write id.
    #[error("the object has moved to {to}")]
    Party {
        /// Who serves it now.
        to: ServerName,
    },
    /// There is nothing to delete.
    #[error("there is no such object")]
    Absent,
    /// It was deleted, for ever.
    #[error(
        "this address was used: the object there was deleted, and addresses are not used again; choose another one"
    )]
    Deleted,
    /// The outcome is open or the write had to wait too long: repeat it, under the same write id.
    #[error("the object cannot be written at this moment: {why}; repeat the write with the same Idempotency-Key")]
    Unavailable {
        /// What is being waited for.
        why: &'static str,
        /// When repeating makes sense.
        retry_after: Duration,
    },
    /// The object is at another revision than the condition names.
    #[error("the condition does not hold: {}", at(*revision))]
    Precondition {
        /// Its revision; `None` if it does not exist.
        revision: Option<u64>,
    },
    /// The same write id came with other content before.
    #[error("this Idempotency-Key came with other content before: use a new UUIDv7 for each write")]
    WriteIdReused,
    /// The write id is older than what is remembered, or no UUIDv7 of the present.
    #[error("this Idempotency-Key is refused: {why}; use a fresh UUIDv7 for each write")]
    WriteIdRefused {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk is full.
    #[error("no space is left on this server: {why}")]
    Full {
        /// Which bound is reached, and what to do.
        why: String,
    },
    /// This server takes no new objects.
    #[error("this server takes no new objects ({why}): create the object on a server that `_place` names")]
    NotServing {
        /// Its role, or the librarian's words.
        why: String,
    },
    /// An address that differs only by case is registered.
    #[error(
        "address {registered} is registered and differs only by case: names in DNS know no case, so choose another"
    )]
    CaseClash {
        /// The registered spelling.
        registered: Address,
    },
    /// The address cannot be registered in this pool.
    #[error("{why}")]
    Address {
        /// What is wrong and what to do.
        why: String,
    },
    /// The properties are in a version that cannot be kept here now.
    #[error("{why}")]
    Schema {
        /// Why not, and what to do.
        why: String,
    },
    /// The properties or the body break a bound.
    #[error("{what} of {octets} octets: at most {allowed} are allowed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its octets.
        octets: u64,
        /// The bound.
        allowed: u64,
    },
    /// The client's body broke off.
    #[error("the body broke off: {why}")]
    Body {
        /// How.
        why: String,
    },
    /// Something in this server failed; it is in the log.
    #[error("this server failed to keep the write: {what}")]
    Failed {
        /// What failed.
        what: String,
    },
}

/// How a failed condition tells the present revision.
fn at(revision: Option<u64>) -> String {
    match revision {
        Some(revision) => format!("the object is at revision {revision}; read it again"),
        None => "the object does not exist".to_owned(),
    }
}

impl From<Miss> for WriteError {
    fn from(miss: Miss) -> WriteError {
        match miss {
            Miss::Elsewhere { owner, epoch } => WriteError::Elsewhere { owner, epoch },
            Miss::Party { to } => WriteError::Party { to },
            Miss::Absent => WriteError::Absent,
            Miss::Deleted => WriteError::Deleted,
            Miss::Unavailable { why, retry_after } => WriteError::Unavailable { why, retry_after },
            Miss::Damaged { what } => WriteError::Failed { what },
        }
    }
}

/// Whether a copy may be read (DESIGN.md section 11, reads).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ReadGate {
    /// Freely.
    #[default]
    Open,
    /// Before this moment; later reads wait.
    Until(BootInstant),
    /// Reads wait.
    Held,
}

/// Whether a new owner applies writes already (DESIGN.md section 11, reads of D).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteGate {
    /// Yes.
    Open,
    /// Writes queue until [`crate::objects::Local::release_writes`].
    Held,
}

/// Why a move of an object cannot begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Busy {
    /// This agent does not own it.
    #[error("this server does not own the object")]
    NotOwned,
    /// Another move of it is open.
    #[error("a move of the object is open")]
    Moving,
    /// It is being created or deleted, or its register is being settled.
    #[error("the object is being created, deleted or settled")]
    Opening,
}
