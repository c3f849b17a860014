//! Why a client could not do what it was asked.

use std::time::Duration;

use zones::Address;

use crate::access::target::TargetError;
use crate::client::stub::StubError;

/// Why an operation of a client failed, after all repetitions that could help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The identity cannot be used for TLS: look at the files of this client.
    #[error("make a TLS client of this identity")]
    Setup {
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The address has no name in this pool.
    #[error(transparent)]
    Name(#[from] zones::NameError),
    /// DNS does not say where to ask: check the `dns` setting, and that the librarian runs.
    #[error("find the servers of object {address} in DNS")]
    Locate {
        /// The object.
        address: Address,
        /// What went wrong.
        source: StubError,
    },
    /// DNS names no server at all: no agent serves now.
    #[error("no server of the pool is in DNS now: are the agents running?")]
    NoServer,
    /// There is no such object, or no grant to read it.
    #[error("there is no object {address}, or this client has no grant to read it")]
    Absent {
        /// The object.
        address: Address,
    },
    /// It was deleted, and its address is not used again.
    #[error("object {address} was deleted: addresses are not used again")]
    Deleted {
        /// The object.
        address: Address,
    },
    /// The condition of the write or read does not hold: read the object again.
    #[error("{detail}")]
    Precondition {
        /// The object.
        address: Address,
        /// Its present revision; `None` if it does not exist or the agent did not say.
        revision: Option<u64>,
        /// The agent's sentence.
        detail: String,
    },
    /// No octet of the range exists.
    #[error("the body of {address} has {total} octets, none in the range")]
    Range {
        /// The object.
        address: Address,
        /// Octets of its body.
        total: u64,
    },
    /// The object changed while its body was read: read it again from the start.
    #[error("object {address} changed from revision {was} to {is} while it was read: read it again")]
    Changed {
        /// The object.
        address: Address,
        /// The revision at the start.
        was: u64,
        /// The revision now.
        is: u64,
    },
    /// An agent refuses the request; repeating it helps nothing.
    #[error("{server} refuses with status {status}: {detail}")]
    Refused {
        /// Who.
        server: String,
        /// HTTP status.
        status: u16,
        /// Its sentence.
        detail: String,
    },
    /// It did not succeed in time; a write may or may not have been applied, so repeat it under the same write id.
    #[error("object {address}: no success within {patience:?}; last: {last}")]
    Exhausted {
        /// The object.
        address: Address,
        /// How long it was tried.
        patience: Duration,
        /// What went wrong the last time.
        last: String,
    },
    /// The body that was to be sent cannot be read, or cannot be read a second time for a repetition.
    #[error("send the body of {address}: {why}")]
    Upload {
        /// The object.
        address: Address,
        /// Why.
        why: String,
    },
    /// An agent's answer breaks the protocol.
    #[error("{server} answered what this client does not understand: {what}")]
    Answer {
        /// Who.
        server: String,
        /// What was wrong with it.
        what: String,
    },
}
