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
    /// The object is another pool's, and that is not configured: set its authority and what its operator gave this client.
    #[error(
        "object {address} lies in {zone}, which is delegated to pool {pool}, whose authority this client does not know: set ca, \
         certificate, key and dns in [pools.\"{pool}\"] of client.toml"
    )]
    UnknownPool {
        /// The object.
        address: Address,
        /// What is delegated.
        zone: String,
        /// Domain of the pool that has it.
        pool: String,
    },
    /// The librarian of another pool has no address: set it.
    #[error(
        "object {address} lies in {zone}, which is delegated to pool {pool}, and no address of its librarian is known: set dns in \
         [pools.\"{pool}\"] of client.toml"
    )]
    NoLibrarian {
        /// The object.
        address: Address,
        /// What is delegated.
        zone: String,
        /// Domain of the pool that has it.
        pool: String,
    },
    /// The object is another pool's, and which one does not show: ask the operator of its name servers.
    #[error(
        "object {address} lies in {zone}, which is delegated to another pool (name servers: {servers}) that does not say which one it \
         is: set dns, ca, certificate and key in [pools.\"DOMAIN OF THAT POOL\"] of client.toml, and let its librarian serve the zone"
    )]
    NamelessPool {
        /// The object.
        address: Address,
        /// What is delegated.
        zone: String,
        /// Names of its name servers.
        servers: String,
    },
    /// The librarian of another pool does not say what pool it is: check that it runs and serves the zone.
    #[error("ask the librarian of {zone} ({servers}), which object {address} is delegated to")]
    OtherLibrarian {
        /// The object.
        address: Address,
        /// What is delegated.
        zone: String,
        /// Names of its name servers.
        servers: String,
        /// What went wrong.
        source: StubError,
    },
    /// Pools delegate to each other in a circle: their operators must end it.
    #[error("object {address} is delegated in a circle, back to pool {pool}: ask the operators of the pools to end it")]
    Circle {
        /// The object.
        address: Address,
        /// The pool that was asked before.
        pool: String,
    },
    /// More pools delegate the address on, one to the next, than are followed.
    #[error("object {address} is delegated on by too many pools, at last to {pool}")]
    TooFar {
        /// The object.
        address: Address,
        /// The first pool that was not asked.
        pool: String,
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
