//! Who is on the other side: what a certificate of the pool says.
//!
//! A certificate carries its owner as URIs among its alternative names: `hypernet:librarian`, `hypernet:server:s2`, or
//! `hypernet:client:shop` followed by one `hypernet:grant:read:3.1` for each grant. A URI that this release does not know
//! makes the certificate worthless: it may be a restriction.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zones::ServerName;

use crate::grant::{Grant, GrantError, Grants};
use crate::name::ClientName;
use crate::revocation::{Revocations, Standing};

/// What all our URIs begin with.
const SCHEME: &str = "hypernet:";
/// Longest certificate that is looked at: 64 grants of the longest addresses, a key and a signature fit.
pub const CERTIFICATE_OCTETS_MAX: usize = 24 * 1024;
/// Octets of a serial number.
const SERIAL_OCTETS: usize = 16;

/// Who a certificate is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Who {
    /// The librarian.
    Librarian,
    /// An agent.
    Server(ServerName),
    /// An application.
    Client {
        /// Its name.
        name: ClientName,
        /// What it may do.
        grants: Grants,
    },
}

/// The owner of a certificate that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Who it is.
    pub who: Who,
    /// The certificate's number, by which it is revoked.
    pub serial: Serial,
    /// Last second of the certificate.
    pub not_after: UnixTime,
}

/// Number of a certificate: 16 octets, random but for the first two bits, which are 0 and 1 so that the DER form is always
/// as long.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Serial([u8; SERIAL_OCTETS]);

/// Why a certificate is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// More octets than any of ours has.
    #[error("certificate of {octets} octets: at most {CERTIFICATE_OCTETS_MAX} are looked at")]
    TooLong {
        /// Its length.
        octets: usize,
    },
    /// Not signed by the pool's authority, or not for this use.
    #[error("certificate is not good in this pool")]
    Untrusted {
        /// What rustls said.
        source: rustls::Error,
    },
    /// Not a certificate at all.
    #[error("not a certificate")]
    Form,
    /// A certificate, but none that our authority makes.
    #[error("certificate says not who it is for: {reason}")]
    Shape {
        /// What is missing or too much.
        reason: &'static str,
    },
    /// One of its grants cannot be read.
    #[error("certificate carries a grant that this release cannot read")]
    Grant {
        /// Which, and why.
        source: GrantError,
    },
    /// Its time has not begun; one of the two clocks is wrong.
    #[error("certificate is not valid yet: compare the clocks")]
    NotYet,
    /// Its time is over; get a new one.
    #[error("certificate expired: get a new one")]
    Expired,
    /// It was revoked; get a new one, if that was a mistake.
    #[error("certificate {serial} is revoked")]
    Revoked {
        /// Its number.
        serial: Serial,
    },
}

impl Peer {
    /// Reads whom a certificate is for, and checks its time and number.
    ///
    /// This checks no signature: a handshake has done that, or [`crate::Anchor::verify`] does.
    ///
    /// # Errors
    ///
    /// [`PeerError`] says what the certificate lacks.
    pub fn read(certificate_der: &[u8], now: UnixTime, revoked: &Revocations) -> Result<Peer, PeerError> {
        if certificate_der.len() > CERTIFICATE_OCTETS_MAX {
            return Err(PeerError::TooLong {
                octets: certificate_der.len(),
            });
        }
        let (rest, certificate) = X509Certificate::from_der(certificate_der).map_err(|_| PeerError::Form)?;
        if !rest.is_empty() {
            return Err(PeerError::Form);
        }
        let second = |time: x509_parser::time::ASN1Time| {
            u64::try_from(time.timestamp()).map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        };
        let not_after = second(certificate.validity().not_after).map_err(|_| PeerError::Form)?;
        let not_before = second(certificate.validity().not_before).map_err(|_| PeerError::Form)?;
        if now < not_before {
            return Err(PeerError::NotYet);
        }
        let peer = Peer {
            who: who(&certificate)?,
            serial: Serial::read(certificate.raw_serial())?,
            not_after,
        };
        peer.check(now, revoked)?;
        Ok(peer)
    }

    /// Whether the certificate is still good: to be asked at every request, also on connections that were opened before.
    ///
    /// # Errors
    ///
    /// [`PeerError::Expired`] or [`PeerError::Revoked`].
    pub fn check(&self, now: UnixTime, revoked: &Revocations) -> Result<(), PeerError> {
        if now > self.not_after {
            return Err(PeerError::Expired);
        }
        match revoked.standing(self) {
            Standing::Good | Standing::Granted(_) => Ok(()),
            Standing::Revoked => Err(PeerError::Revoked { serial: self.serial }),
        }
    }
}

impl Who {
    /// The URIs that say so in a certificate.
    pub(crate) fn uris(&self) -> Vec<String> {
        match self {
            Who::Librarian => vec![format!("{SCHEME}librarian")],
            Who::Server(name) => vec![format!("{SCHEME}server:{name}")],
            Who::Client { name, grants } => std::iter::once(format!("{SCHEME}client:{name}"))
                .chain(grants.iter().map(|grant| format!("{SCHEME}grant:{grant}")))
                .collect(),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Librarian => f.write_str("librarian"),
            Who::Server(name) => write!(f, "server {name}"),
            Who::Client { name, .. } => write!(f, "client {name}"),
        }
    }
}

/// Reads our URIs among the alternative names.
fn who(certificate: &X509Certificate<'_>) -> Result<Who, PeerError> {
    let shape = |reason| PeerError::Shape { reason };
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerError::Form)?
        .ok_or_else(|| shape("it has no alternative names"))?;
    let mut owner = None;
    let mut grants: Vec<Grant> = Vec::new();
    for name in &names.value.general_names {
        let uri = match name {
            GeneralName::URI(uri) => uri,
            GeneralName::DNSName(_) => continue,
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => return Err(shape("it has an alternative name of a kind we do not use")),
        };
        let ours = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| shape("it has a URI that is not ours"))?;
        let found = match ours.split_once(':') {
            None if ours == "librarian" => Who::Librarian,
            Some(("server", name)) => Who::Server(name.parse().map_err(|_| shape("its server name is malformed"))?),
            Some(("client", name)) => Who::Client {
                name: name.parse().map_err(|_| shape("its client name is malformed"))?,
                grants: Grants::default(),
            },
            Some(("grant", grant)) => {
                grants.push(grant.parse().map_err(|source| PeerError::Grant { source })?);
                continue;
            }
            None | Some(_) => return Err(shape("it has a URI that this release does not know")),
        };
        if owner.replace(found).is_some() {
            return Err(shape("it has two owners"));
        }
    }
    match owner.ok_or_else(|| shape("it has no owner"))? {
        Who::Client { name, .. } => Ok(Who::Client {
            name,
            grants: Grants::new(grants).map_err(|source| PeerError::Grant { source })?,
        }),
        owner @ (Who::Librarian | Who::Server(_)) if grants.is_empty() => Ok(owner),
        Who::Librarian | Who::Server(_) => Err(shape("only clients have grants")),
    }
}

impl Serial {
    /// Makes a number from 16 random octets.
    #[must_use]
    pub fn new(mut random: [u8; SERIAL_OCTETS]) -> Serial {
        random[0] = (random[0] & 0x7f) | 0x40;
        Serial(random)
    }

    /// The octets, most significant first.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    fn read(raw: &[u8]) -> Result<Serial, PeerError> {
        raw.try_into()
            .ok()
            .filter(|octets: &[u8; SERIAL_OCTETS]| octets[0] & 0xc0 == 0x40)
            .map(Serial)
            .ok_or(PeerError::Shape {
                reason: "its serial number is not one of ours",
            })
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Serial {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Serial::read(&data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::LIFETIME;
    use crate::testing::{NOW_S, Pool, at, client, server};
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_owner_comes_back() {
        let pool = Pool::new(1);
        for who in [
            Who::Librarian,
            server("s2"),
            client("shop", &["read:3.1", "write:3.1.2", "none:*"]),
            client("idle", &[]),
        ] {
            let identity = pool.issue(&who);
            let peer = Peer::read(identity.certificate(), at(NOW_S), &Revocations::default()).expect("ours");
            assert_eq!(peer.who, who);
            assert_eq!(peer.not_after, at(NOW_S + LIFETIME.as_secs()));
        }
    }

    #[test]
    fn certificates_end_and_begin() {
        let identity = Pool::new(1).issue(&server("s2"));
        let read = |second| Peer::read(identity.certificate(), at(second), &Revocations::default());
        assert!(read(NOW_S + LIFETIME.as_secs()).is_ok());
        assert!(matches!(read(NOW_S + LIFETIME.as_secs() + 1), Err(PeerError::Expired)));
        assert!(matches!(read(NOW_S - 24 * 3600), Err(PeerError::NotYet)));
    }

    #[test]
    fn revoked_certificates_are_refused_also_when_read_before() {
        let identity = Pool::new(1).issue(&server("s2"));
        let peer = Peer::read(identity.certificate(), at(NOW_S), &Revocations::default()).expect("ours");
        let mut revoked = Revocations::default();
        revoked.change(&peer.who, None, at(NOW_S));
        assert!(matches!(
            peer.check(at(NOW_S), &revoked),
            Err(PeerError::Revoked { .. })
        ));
        assert!(matches!(
            Peer::read(identity.certificate(), at(NOW_S), &revoked),
            Err(PeerError::Revoked { .. })
        ));
    }

    #[test]
    fn trailing_octets_and_overlong_certificates_are_refused() {
        let identity = Pool::new(1).issue(&server("s2"));
        let mut longer = identity.certificate().to_vec();
        longer.push(0);
        assert!(matches!(
            Peer::read(&longer, at(NOW_S), &Revocations::default()),
            Err(PeerError::Form)
        ));
        longer.resize(CERTIFICATE_OCTETS_MAX + 1, 0);
        assert!(matches!(
            Peer::read(&longer, at(NOW_S), &Revocations::default()),
            Err(PeerError::TooLong { .. })
        ));
    }

    #[test]
    fn serial_text_comes_back() {
        let serial = Serial::new([0xff; 16]);
        assert_eq!(serial.to_string().parse::<Serial>().expect("own text"), serial);
        assert!("00".parse::<Serial>().is_err());
    }

    proptest! {
        #[test]
        fn mutated_certificates_never_panic(at_octet in 0usize..2000, octet: u8, cut in 0usize..2000) {
            let mut der = Pool::shared().shop.certificate().to_vec();
            let at_octet = at_octet % der.len();
            der[at_octet] = octet;
            let _ = Peer::read(&der, at(NOW_S), &Revocations::default());
            der.truncate(cut);
            let _ = Peer::read(&der, at(NOW_S), &Revocations::default());
        }
    }
}
