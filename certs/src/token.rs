//! Join tokens: what a person carries from the librarian to a new server.
//!
//! A token names the server it is for, where to join, the authority to expect there (by fingerprint, so that nobody in
//! between can pose as the librarian) and a secret of 256 bits. The librarian keeps only the secret's hash, lets it be used
//! once and not after it expires.
//!
//! Text form, one line: `hnjoin1/<server>/<domain>/<ip:port>/<expiry, unix seconds>/<CA fingerprint>/<secret>`, the last two
//! in base64url.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use rustls_pki_types::UnixTime;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};
use zones::{Domain, ServerName};

use crate::fingerprint::{Fingerprint, decode_32};

/// What the text form begins with; another form gets another number.
const FORM: &str = "hnjoin1";
/// Longest text: a domain has at most 255 characters, the rest is short.
const TEXT_OCTETS_MAX: usize = 600;

/// The secret of a token: 32 octets from the operating system's generator, handed in.
#[derive(Clone, Eq, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

/// What the librarian keeps of a secret: its SHA-256. A secret of 256 random bits needs no slow hash.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct SecretHash(pub [u8; 32]);

/// One invitation, as the new server holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinToken {
    /// The name that the server will have.
    pub server: ServerName,
    /// The pool's domain.
    pub domain: Domain,
    /// Where the librarian serves `/join`.
    pub join: SocketAddr,
    /// When it ends.
    pub expires: UnixTime,
    /// The pool's authority.
    pub authority: Fingerprint,
    /// What proves the invitation.
    pub secret: Secret,
}

/// Why a text is no join token, or a token cannot be used any more.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not of this form at all.
    #[error(
        "this is no join token: it begins with {FORM}/ and is one line; copy it whole, or ask for a new one with `librarian invite`"
    )]
    Form,
    /// One field is wrong: the text was damaged on its way.
    #[error("the join token's {field} is damaged: copy it whole, or ask for a new one with `librarian invite`")]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// Its time is over.
    #[error("the join token expired: ask for a new one with `librarian invite`")]
    Expired,
}

impl Secret {
    /// Wraps 32 octets from the operating system's generator.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Secret {
        Secret(random)
    }

    /// What to keep of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }

    /// The text that goes over the wire, inside TLS.
    #[must_use]
    pub fn expose(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }
}

impl FromStr for Secret {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode_32(text).map(Secret).ok_or(TokenError::Field { field: "secret" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl SecretHash {
    /// Whether the secret is the one that was hashed. Comparing hashes tells a timing attacker nothing of use.
    #[must_use]
    pub fn admits(&self, secret: &Secret) -> bool {
        *self == secret.hash()
    }
}

impl FromStr for SecretHash {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode_32(text)
            .map(SecretHash)
            .ok_or(TokenError::Field { field: "secret hash" })
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl JoinToken {
    /// The text form. It is a secret: whoever has it can join in the server's place.
    #[must_use]
    pub fn expose(&self) -> String {
        format!(
            "{FORM}/{}/{}/{}/{}/{}/{}",
            self.server,
            self.domain,
            self.join,
            self.expires.as_secs(),
            self.authority,
            self.secret.expose()
        )
    }

    /// Whether the token may still be tried.
    ///
    /// # Errors
    ///
    /// [`TokenError::Expired`] from its expiry on.
    pub fn check(&self, now: UnixTime) -> Result<(), TokenError> {
        if now >= self.expires {
            return Err(TokenError::Expired);
        }
        Ok(())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads the text form; white space around it is cut off.
    ///
    /// # Errors
    ///
    /// [`TokenError::Form`] for what is no token, [`TokenError::Field`] for one that was damaged.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > TEXT_OCTETS_MAX {
            return Err(TokenError::Form);
        }
        let mut fields = text.split('/');
        if fields.next() != Some(FORM) {
            return Err(TokenError::Form);
        }
        let mut next = || fields.next().ok_or(TokenError::Form);
        let (server, domain, join, expires, authority, secret) = (next()?, next()?, next()?, next()?, next()?, next()?);
        if fields.next().is_some() {
            return Err(TokenError::Form);
        }
        let field = |field| TokenError::Field { field };
        Ok(JoinToken {
            server: server.parse().map_err(|_| field("server name"))?,
            domain: domain.parse().map_err(|_| field("domain"))?,
            join: join.parse().map_err(|_| field("join address"))?,
            expires: UnixTime::since_unix_epoch(Duration::from_secs(expires.parse().map_err(|_| field("expiry"))?)),
            authority: authority.parse().map_err(|_| field("fingerprint"))?,
            secret: secret.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(random: [u8; 32], expires_s: u64) -> JoinToken {
        JoinToken {
            server: "s2".parse().expect("legal"),
            domain: "hypernet.internal".parse().expect("legal"),
            join: "[::1]:8443".parse().expect("legal"),
            expires: UnixTime::since_unix_epoch(Duration::from_secs(expires_s)),
            authority: Fingerprint::of(&random),
            secret: Secret::new(random),
        }
    }

    #[test]
    fn secret_stays_out_of_debug_output() {
        let token = token([7; 32], 0);
        assert!(!format!("{token:?}").contains(&token.secret.expose()));
        assert!(!format!("{:?}", token.secret.hash()).contains(&token.secret.expose()));
    }

    #[test]
    fn only_the_same_secret_is_admitted() {
        let hash = Secret::new([1; 32]).hash();
        assert!(hash.admits(&Secret::new([1; 32])));
        assert!(!hash.admits(&Secret::new([2; 32])));
    }

    #[test]
    fn token_ends_at_its_expiry() {
        let token = token([1; 32], 100);
        let at = |seconds| token.check(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(at(99), Ok(()));
        assert_eq!(at(100), Err(TokenError::Expired));
    }

    #[test]
    fn damaged_tokens_say_what_is_damaged() {
        let text = token([1; 32], 100).expose();
        assert_eq!("".parse::<JoinToken>(), Err(TokenError::Form));
        assert_eq!(format!("{text}/").parse::<JoinToken>(), Err(TokenError::Form));
        assert_eq!(
            text[..text.len() - 1].parse::<JoinToken>(),
            Err(TokenError::Field { field: "secret" })
        );
        assert_eq!(
            text.replace("/s2/", "/S2/").parse::<JoinToken>(),
            Err(TokenError::Field { field: "server name" })
        );
    }

    proptest! {
        #[test]
        fn token_text_comes_back(random: [u8; 32], expires_s in 0..u64::MAX / 2) {
            let token = token(random, expires_s);
            prop_assert_eq!(&token.expose().parse::<JoinToken>().expect("own text"), &token);
            prop_assert_eq!(&format!(" {}\n", token.expose()).parse::<JoinToken>().expect("own text"), &token);
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "(hnjoin1/)?.{0,200}") {
            let _ = text.parse::<JoinToken>();
        }
    }
}
