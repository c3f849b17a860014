//! The two messages of joining: what a new server sends to the librarian, and what comes back.
//!
//! `POST /join` over TLS that knows the authority by its fingerprint; JSON both ways. The secret of the token proves the
//! invitation, the request carries the public key, and the answer is everything that an agent needs to work in the pool.
//!
//! Specification: PROTOCOL.md, section "Joining".

use std::net::SocketAddr;

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};
use zones::{Domain, ServerName};

use crate::authority::REQUEST_OCTETS_MAX;
use crate::identity::{Anchor, Identity, IdentityError, Request};
use crate::peer::{PeerError, Who};
use crate::revocation::Revocations;
use crate::token::{JoinToken, Secret, TokenError};

/// Where a server joins.
pub const JOIN_PATH: &str = "/join";
/// Where certificates are renewed.
pub const RENEW_PATH: &str = "/renew";
/// Where servers ask who was revoked.
pub const REVOCATIONS_PATH: &str = "/revocations";
/// Longest message either way.
pub const MESSAGE_OCTETS_MAX: usize = 32 * 1024;

/// What a new server sends.
#[derive(Clone, Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The server's name, as in the token.
    pub server: String,
    /// The token's secret, base64url.
    pub secret: String,
    /// The certificate request, PEM.
    pub request: String,
}

/// What the librarian answers.
#[derive(Clone, Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
pub struct JoinAnswer {
    /// The server's name.
    pub server: String,
    /// The pool's domain.
    pub domain: String,
    /// Address of the librarian's DNS.
    #[zeroize(skip)]
    pub dns: SocketAddr,
    /// Address of the librarian's HTTPS, for renewals.
    #[zeroize(skip)]
    pub https: SocketAddr,
    /// The server's certificate, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The server's TSIG key as a BIND key file.
    pub tsig_key: String,
    /// The key of all digests in the pool, 64 hexadecimal digits.
    pub pool_key: String,
}

/// What somebody sends whose certificate is to be renewed; it shows the old one in the handshake.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// A certificate request with a fresh key, PEM.
    pub request: String,
}

/// What the librarian answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RenewAnswer {
    /// The certificate, PEM.
    pub certificate: String,
}

impl RenewRequest {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// [`JoinError::TooLong`], [`JoinError::Form`].
    pub fn from_json(text: &[u8]) -> Result<RenewRequest, JoinError> {
        if text.len() > MESSAGE_OCTETS_MAX {
            return Err(JoinError::TooLong { octets: text.len() });
        }
        serde_json::from_slice(text).map_err(|source| JoinError::Form { source })
    }
}

/// A join request whose fields were read.
pub struct Joining<'a> {
    /// The server's name.
    pub server: ServerName,
    /// What proves the invitation.
    pub secret: Secret,
    /// The certificate request, PEM, not checked yet.
    pub request: &'a str,
}

/// What a new server has after joining.
pub struct Joined {
    /// Who it is now.
    pub identity: Identity,
    /// Whom it trusts.
    pub anchor: Anchor,
    /// Its name.
    pub server: ServerName,
    /// The pool's domain.
    pub domain: Domain,
    /// Everything else, as answered.
    pub answer: JoinAnswer,
}

/// Why a message of joining is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// More octets than any message has.
    #[error("a message of joining has {octets} octets: at most {MESSAGE_OCTETS_MAX} are read")]
    TooLong {
        /// Its length.
        octets: usize,
    },
    /// Not the JSON of this message.
    #[error("a message of joining is malformed: use agent and librarian of releases that fit")]
    Form {
        /// What the reader saw.
        source: serde_json::Error,
    },
    /// One field cannot be read.
    #[error("a message of joining has a bad {field}")]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// The secret is malformed.
    #[error("a message of joining has a bad secret")]
    Secret {
        /// What is wrong with it.
        source: TokenError,
    },
    /// The certificate or the authority in the answer cannot be used.
    #[error("the librarian answered with a certificate that does not fit")]
    Identity {
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The certificate in the answer is not good, or not for this server.
    #[error("the librarian answered with a certificate that is not good")]
    Peer {
        /// What is wrong with it.
        source: PeerError,
    },
    /// The answer is for another server, pool or authority than the token.
    #[error("the librarian's answer does not fit the join token: its {field} is another")]
    Other {
        /// What differs.
        field: &'static str,
    },
}

impl JoinRequest {
    /// What a server with this token sends.
    #[must_use]
    pub fn new(token: &JoinToken, request: &Request) -> JoinRequest {
        JoinRequest {
            server: token.server.to_string(),
            secret: token.secret.expose(),
            request: request.pem().to_owned(),
        }
    }

    /// Reads JSON.
    ///
    /// # Errors
    ///
    /// [`JoinError::TooLong`] or [`JoinError::Form`].
    pub fn from_json(json: &[u8]) -> Result<JoinRequest, JoinError> {
        read(json)
    }

    /// Reads the fields.
    ///
    /// # Errors
    ///
    /// [`JoinError::Field`] or [`JoinError::Secret`] for a malformed one.
    pub fn fields(&self) -> Result<Joining<'_>, JoinError> {
        if self.request.len() > REQUEST_OCTETS_MAX {
            return Err(JoinError::Field { field: "request" });
        }
        Ok(Joining {
            server: self.server.parse().map_err(|_| JoinError::Field { field: "server" })?,
            secret: self.secret.parse().map_err(|source| JoinError::Secret { source })?,
            request: &self.request,
        })
    }
}

impl JoinAnswer {
    /// Reads JSON. Fields that this release does not know are left out, so that later librarians can say more.
    ///
    /// # Errors
    ///
    /// [`JoinError::TooLong`] or [`JoinError::Form`].
    pub fn from_json(json: &[u8]) -> Result<JoinAnswer, JoinError> {
        read(json)
    }

    /// Checks the answer against the token and completes the identity.
    ///
    /// # Errors
    ///
    /// [`JoinError`] names what does not fit; nothing of the answer may be used then.
    pub fn accept(self, token: &JoinToken, request: Request, now: UnixTime) -> Result<Joined, JoinError> {
        let anchor = Anchor::from_pem(&self.authority).map_err(|source| JoinError::Identity { source })?;
        if anchor.fingerprint() != token.authority {
            return Err(JoinError::Other { field: "authority" });
        }
        let server: ServerName = self.server.parse().map_err(|_| JoinError::Field { field: "server" })?;
        let domain: Domain = self.domain.parse().map_err(|_| JoinError::Field { field: "domain" })?;
        if server != token.server {
            return Err(JoinError::Other { field: "server" });
        }
        if domain != token.domain {
            return Err(JoinError::Other { field: "domain" });
        }
        let identity = request
            .complete(&self.certificate)
            .map_err(|source| JoinError::Identity { source })?;
        let peer = anchor
            .verify(identity.certificate(), now, &Revocations::default())
            .map_err(|source| JoinError::Peer { source })?;
        if peer.who != Who::Server(server.clone()) {
            return Err(JoinError::Other { field: "certificate" });
        }
        if self.pool_key().is_none() {
            return Err(JoinError::Field { field: "pool_key" });
        }
        Ok(Joined {
            identity,
            anchor,
            server,
            domain,
            answer: self,
        })
    }

    /// The key of all digests in the pool.
    #[must_use]
    pub fn pool_key(&self) -> Option<[u8; 32]> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(self.pool_key.as_bytes())
            .ok()?
            .try_into()
            .ok()
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, JoinError> {
    if json.len() > MESSAGE_OCTETS_MAX {
        return Err(JoinError::TooLong { octets: json.len() });
    }
    serde_json::from_slice(json).map_err(|source| JoinError::Form { source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::peer::Serial;
    use crate::testing::{NOW_S, Pool, at, server};
    use proptest::prelude::*;

    fn token(pool: &Pool) -> JoinToken {
        JoinToken {
            server: "s2".parse().expect("legal"),
            domain: pool.domain.clone(),
            join: "127.0.0.1:8443".parse().expect("legal"),
            expires: at(NOW_S + 60),
            authority: pool.authority.anchor().fingerprint(),
            secret: Secret::new([4; 32]),
        }
    }

    fn answer(pool: &Pool, who: &Who, request: &str) -> JoinAnswer {
        JoinAnswer {
            server: "s2".to_owned(),
            domain: "hypernet.internal".to_owned(),
            dns: "127.0.0.1:53".parse().expect("legal"),
            https: "127.0.0.1:8443".parse().expect("legal"),
            certificate: pool
                .authority
                .sign(who, request, Serial::new([7; 16]), at(NOW_S))
                .expect("signed"),
            authority: pool.authority.anchor().pem().to_owned(),
            tsig_key: String::new(),
            pool_key: "ab".repeat(32),
        }
    }

    #[test]
    fn joining_comes_back_with_an_identity() {
        let pool = Pool::new(1);
        let (token, request) = (token(&pool), Request::new().expect("request"));
        let sent = serde_json::to_vec(&JoinRequest::new(&token, &request)).expect("JSON");
        let received = JoinRequest::from_json(&sent).expect("own JSON");
        let fields = received.fields().expect("own fields");
        assert!(token.secret.hash().admits(&fields.secret));
        let answer = serde_json::to_vec(&answer(&pool, &Who::Server(fields.server), fields.request)).expect("JSON");
        let joined = JoinAnswer::from_json(&answer)
            .expect("own JSON")
            .accept(&token, request, at(NOW_S));
        assert_eq!(joined.expect("fits").server, token.server);
    }

    #[test]
    fn answers_that_do_not_fit_the_token_are_refused() {
        let (pool, foreign) = (Pool::new(1), Pool::new(2));
        let token = token(&pool);
        let accept = |change: &dyn Fn(&mut JoinAnswer), who: &Who| {
            let request = Request::new().expect("request");
            let mut answer = answer(&pool, who, request.pem());
            change(&mut answer);
            answer.accept(&token, request, at(NOW_S)).map(|_| ())
        };
        let s2 = server("s2");
        assert!(accept(&|_| (), &s2).is_ok());
        assert!(accept(&|_| (), &server("s3")).is_err(), "certificate of another server");
        assert!(
            accept(&|_| (), &Who::Librarian).is_err(),
            "certificate of the librarian"
        );
        assert!(accept(&|answer| answer.server = "s3".to_owned(), &s2).is_err());
        assert!(accept(&|answer| answer.domain = "other.internal".to_owned(), &s2).is_err());
        assert!(accept(&|answer| answer.pool_key = "ab".to_owned(), &s2).is_err());
        assert!(
            accept(
                &|answer| answer.authority = foreign.authority.anchor().pem().to_owned(),
                &s2
            )
            .is_err()
        );
        let another = pool.issue(&s2);
        assert!(accept(&|answer| answer.certificate = another.certificate_pem().to_owned(), &s2).is_err());
        assert_ne!(foreign.authority.anchor().fingerprint(), Fingerprint([0; 32]));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = JoinRequest::from_json(&octets).map(|request| request.fields().map(|_| ()));
            let _ = JoinAnswer::from_json(&octets);
        }
    }
}
