//! Who is who in a pool: the authority, identities, grants, TLS configurations and join tokens.
//!
//! Pure over bytes and a `now` argument: this crate reads no file, opens no socket and asks no clock of its own, but for the
//! moment of a TLS handshake, where rustls asks one. Serial numbers and secrets are handed in by the caller; keys are made by
//! ring. What is absent on purpose: renewal and revocation lists (a peer carries its serial, and every check takes a
//! [`Revoked`] set), and any notion of where an object is.
//!
//! Specifications: RFC 5280 (certificates), RFC 8446 (TLS 1.3), RFC 9440 (certificates in a header), PROTOCOL.md.

pub mod authority;
pub mod fingerprint;
pub mod grant;
pub mod identity;
pub mod join;
pub mod name;
pub mod peer;
pub mod sign;
pub mod tls;
pub mod token;

#[cfg(test)]
mod testing;

pub use authority::{Authority, AuthorityError, tls_name};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use grant::{Grant, GrantError, Grants, Prefix, Verb};
pub use identity::{Anchor, Identity, IdentityError, Request};
pub use join::{JoinAnswer, JoinError, JoinRequest, Joined};
pub use name::{ClientName, ClientNameError};
pub use peer::{Peer, PeerError, Revoked, Serial, Who};
pub use rustls_pki_types::UnixTime;
pub use sign::{SignError, Signer};
pub use tls::TlsError;
pub use token::{JoinToken, Secret, SecretHash, TokenError};
