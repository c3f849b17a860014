//! The join service: HTTPS on a port of its own, where a server with a token becomes a member of the pool.
//!
//! | file | what |
//! |---|---|
//! | `admit` | who is let in, and what is written down then |
//! | `service` | requests and answers |
//! | `listen` | connections, their bounds, TLS |
//!
//! Whoever shows a certificate of the pool in the handshake gets a fresh one at `/renew`; servers ask at `/revocations` who was
//! revoked.

mod admit;
mod listen;
mod service;

pub use admit::{AdmitError, Desk};
pub use listen::{Bounds, ListenError, Listener};
