//! Client access: HTTPS on this agent, as applications use it.
//!
//! ```text
//!  listen (TLS, who is there) --> serve (routes, grants, conditions) --> objects
//!                                    |  not here: forward (307 to the owner, or handed on as a party of the move)
//! ```
//!
//! What a request may say is in small modules that know nothing of connections: address, range, condition, JSON. Absent here
//! on purpose: who owns what (that is [`crate::objects`] and the register), and where octets lie.

mod audit;
mod caller;
pub mod condition;
mod counted;
mod forward;
pub mod ijson;
pub mod latency;
mod list;
mod listen;
pub mod metrics;
pub mod problem;
mod quarantine;
pub mod range;
mod serve;
pub mod target;
mod wire;
mod write;

use std::sync::Arc;

use certs::tls::Current;
use certs::{Anchor, TlsError};
use http::HeaderName;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::membership::Revoked;
use crate::objects::Objects;
use metrics::Metrics;

pub use caller::byte_sequence;
pub use list::{ListQuery, ListQueryError};
pub use write::{ObjectWrite, ObjectWriteError, read_write_id};

/// The write id of a request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Type of an object that a body creates, and of the object answered.
pub const HYPERNET_TYPE: HeaderName = HeaderName::from_static("hypernet-type");
/// Epoch of the object answered.
pub const HYPERNET_EPOCH: HeaderName = HeaderName::from_static("hypernet-epoch");
/// Octets of the body of the object answered.
pub const HYPERNET_SIZE: HeaderName = HeaderName::from_static("hypernet-size");

/// Client access of one agent.
pub struct Access {
    objects: Arc<Objects>,
    anchor: Anchor,
    revoked: Revoked,
    bounds: config::Access,
    requests: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    parties: forward::Parties,
    tls: TlsAcceptor,
}

/// Why client access cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The identity cannot be used.
    #[error("use this server's identity for TLS: join the pool again if its files are damaged")]
    Tls(#[from] TlsError),
    /// The client that hands requests on cannot be made.
    #[error("make the client that hands requests on")]
    Forward(#[from] reqwest::Error),
}

impl Access {
    /// Client access to these objects, as the server of this identity.
    ///
    /// # Errors
    ///
    /// [`AccessError`].
    pub fn new(
        objects: Arc<Objects>,
        current: &Arc<Current>,
        anchor: &Anchor,
        revoked: Revoked,
        bounds: config::Access,
    ) -> Result<Access, AccessError> {
        let protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut server = certs::tls::renewed_server_config(current, anchor)?;
        server.alpn_protocols.clone_from(&protocols);
        let mut client = certs::tls::renewed_client_config(current, anchor)?;
        client.alpn_protocols = protocols;
        Ok(Access {
            objects,
            anchor: anchor.clone(),
            revoked,
            requests: Arc::new(Semaphore::new(bounds.requests_max)),
            bounds,
            metrics: Arc::default(),
            parties: forward::Parties::new(client)?,
            tls: TlsAcceptor::from(Arc::new(server)),
        })
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Serves the port until `stop`; then running requests end, within 10 seconds.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let port = listen::Port {
            tls: self.tls.clone(),
            metrics: Arc::clone(&self.metrics),
            connections_max: self.bounds.connections_max,
            idle_timeout: self.bounds.idle_timeout,
            revoked: Arc::clone(&self.revoked),
            router: serve::router(self),
        };
        listen::serve(listener, port, stop).await;
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
