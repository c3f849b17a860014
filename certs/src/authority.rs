//! The pool's certificate authority.
//!
//! The librarian keeps it. A certificate's names, owner and grants come from the authority's caller alone; of a request only
//! the public key is used.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
    SerialNumber,
};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;
use zeroize::Zeroizing;
use zones::{Domain, Zone};

use crate::identity::{Anchor, Identity, IdentityError, Request};
use crate::peer::{Serial, Who};

/// How long a certificate is good: a stolen one ends by itself within a week.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the authority itself is good.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How far the clock of whoever checks may lag behind the authority's.
const BACKDATED: Duration = Duration::from_secs(10 * 60);
/// Longest request that is looked at, PEM.
pub const REQUEST_OCTETS_MAX: usize = 8 * 1024;

/// The authority: its certificate, its private key and the domain it speaks for.
pub struct Authority {
    anchor: Anchor,
    issuer: Issuer<'static, KeyPair>,
    domain: Domain,
}

/// Why an authority or a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The authority's own files do not fit.
    #[error("read the authority's certificate and key")]
    Own {
        /// What is wrong.
        source: IdentityError,
    },
    /// The authority's key or certificate cannot be used for signing.
    #[error("use the authority's certificate and key")]
    Use {
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The request cannot be read, or is not signed by its own key: make a new one.
    #[error("the certificate request is malformed or not signed by its own key")]
    Request {
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The request is longer than any of ours.
    #[error("the certificate request has {octets} octets: at most {REQUEST_OCTETS_MAX} are looked at")]
    RequestTooLong {
        /// Its length.
        octets: usize,
    },
    /// The certificate could not be signed.
    #[error("sign a certificate")]
    Sign {
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The clock shows a time that no certificate can hold.
    #[error("the clock shows a time that certificates cannot hold: set it")]
    Time,
    /// A key could not be made.
    #[error("make a key")]
    Key {
        /// What went wrong.
        source: IdentityError,
    },
}

impl Authority {
    /// Makes a new authority for a pool, with a fresh key.
    ///
    /// Its certificate is constrained to names below `pool.<domain>`: who trusts it for this pool trusts it for nothing else.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Sign`] when no key or certificate can be made, [`AuthorityError::Time`] for an impossible clock.
    pub fn create(domain: &Domain, serial: Serial, now: UnixTime) -> Result<Authority, AuthorityError> {
        let sign = |source| AuthorityError::Sign { source };
        let key = KeyPair::generate().map_err(sign)?;
        let mut params = params(serial, now, AUTHORITY_LIFETIME)?;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("pool authority of {}", absolute(domain)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(pool_name(domain))],
            excluded_subtrees: Vec::new(),
        });
        let pem = params.self_signed(&key).map_err(sign)?.pem();
        Authority::load(domain, &pem, &key.serialize_pem())
    }

    /// Reads an authority that was made before.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Own`] or [`AuthorityError::Use`] for files that do not fit.
    pub fn load(domain: &Domain, certificate_pem: &str, key_pem: &str) -> Result<Authority, AuthorityError> {
        Identity::from_pem(certificate_pem, key_pem).map_err(|source| AuthorityError::Own { source })?;
        let anchor = Anchor::from_pem(certificate_pem).map_err(|source| AuthorityError::Own { source })?;
        let issuer = KeyPair::from_pem(key_pem)
            .and_then(|key| Issuer::from_ca_cert_der(anchor.certificate(), key))
            .map_err(|source| AuthorityError::Use { source })?;
        Ok(Authority {
            anchor,
            issuer,
            domain: domain.clone(),
        })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The authority's private key, PEM: whoever has it is the pool's authority.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Signs a certificate for `who` over the public key of a request; answers with PEM.
    ///
    /// Servers get the names `<server>.pool.<domain>` and `any.pool.<domain>`, the librarian `ns.pool.<domain>`, both for either
    /// end of a connection; clients get no name, and can never act as a server.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Request`] or [`AuthorityError::RequestTooLong`] for a bad request, otherwise as [`Authority::create`].
    pub fn sign(&self, who: &Who, request_pem: &str, serial: Serial, now: UnixTime) -> Result<String, AuthorityError> {
        if request_pem.len() > REQUEST_OCTETS_MAX {
            return Err(AuthorityError::RequestTooLong {
                octets: request_pem.len(),
            });
        }
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|source| AuthorityError::Request { source })?;
        let mut params = params(serial, now, LIFETIME)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let (common_name, labels) = match who {
            Who::Librarian => ("librarian".to_owned(), vec!["ns"]),
            Who::Server(name) => (name.to_string(), vec![name.as_str(), "any"]),
            Who::Client { name, .. } => (name.to_string(), Vec::new()),
        };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = if labels.is_empty() {
            vec![ExtendedKeyUsagePurpose::ClientAuth]
        } else {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        };
        let names = labels.into_iter().map(|label| {
            format!("{label}.{}", pool_name(&self.domain))
                .try_into()
                .map(SanType::DnsName)
        });
        let uris = who.uris().into_iter().map(|uri| uri.try_into().map(SanType::URI));
        params.subject_alt_names = names
            .chain(uris)
            .collect::<Result<_, _>>()
            .map_err(|source| AuthorityError::Sign { source })?;
        params
            .signed_by(&request.public_key, &self.issuer)
            .map(|certificate| certificate.pem())
            .map_err(|source| AuthorityError::Sign { source })
    }

    /// Makes a key here and signs its certificate: for the librarian itself, and for clients that are handed their files.
    ///
    /// # Errors
    ///
    /// As [`Authority::sign`], and [`AuthorityError::Key`] when no key can be made.
    pub fn issue(&self, who: &Who, serial: Serial, now: UnixTime) -> Result<Identity, AuthorityError> {
        let request = Request::new().map_err(|source| AuthorityError::Key { source })?;
        let certificate_pem = self.sign(who, request.pem(), serial, now)?;
        request
            .complete(&certificate_pem)
            .map_err(|source| AuthorityError::Key { source })
    }
}

/// The name that certificates of a server carry, without the dot at the end, as TLS wants it (RFC 6066 section 3).
#[must_use]
pub fn tls_name(domain: &Domain, label: &str) -> String {
    format!("{label}.{}", pool_name(domain))
}

/// `pool.<domain>` without the dot at the end.
fn pool_name(domain: &Domain) -> String {
    domain.zone(Zone::Pool).to_string().trim_end_matches('.').to_owned()
}

/// `<domain>` without the dot at the end.
fn absolute(domain: &Domain) -> String {
    domain.to_string().trim_end_matches('.').to_owned()
}

/// What all our certificates have in common.
fn params(serial: Serial, now: UnixTime, lifetime: Duration) -> Result<CertificateParams, AuthorityError> {
    let moment = |seconds: u64| {
        i64::try_from(seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or(AuthorityError::Time)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(serial.octets()));
    params.not_before = moment(now.as_secs().saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = moment(now.as_secs().saturating_add(lifetime.as_secs()))?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerError;
    use crate::revocation::Revocations;
    use crate::testing::{NOW_S, Pool, at, client, server};

    #[test]
    fn an_authority_comes_back_from_its_files_and_signs_the_same_pool() {
        let pool = Pool::new(1);
        let again =
            Authority::load(&pool.domain, pool.authority.anchor().pem(), &pool.authority.key_pem()).expect("own");
        let identity = again
            .issue(&server("s2"), Serial::new([9; 16]), at(NOW_S))
            .expect("issued");
        let peer = pool
            .authority
            .anchor()
            .verify(identity.certificate(), at(NOW_S), &Revocations::default());
        assert_eq!(peer.expect("trusted").who, server("s2"));
    }

    #[test]
    fn a_foreign_authority_is_refused_whatever_its_certificate_says() {
        let (pool, foreign) = (Pool::new(1), Pool::new(2));
        let identity = foreign.issue(&server("s2"));
        assert!(matches!(
            pool.authority
                .anchor()
                .verify(identity.certificate(), at(NOW_S), &Revocations::default()),
            Err(PeerError::Untrusted { .. })
        ));
    }

    #[test]
    fn a_certificate_of_a_client_signs_nothing() {
        let pool = Pool::new(1);
        let shop = pool.issue(&client("shop", &["write:*"]));
        let false_authority = Authority::load(&pool.domain, shop.certificate_pem(), shop.key_pem()).expect("loads");
        let forged = false_authority
            .issue(&server("s2"), Serial::new([9; 16]), at(NOW_S))
            .expect("signs");
        assert!(matches!(
            pool.authority
                .anchor()
                .verify(forged.certificate(), at(NOW_S), &Revocations::default()),
            Err(PeerError::Untrusted { .. })
        ));
    }

    #[test]
    fn a_request_gives_its_public_key_and_nothing_else() {
        let pool = Pool::new(1);
        let key = KeyPair::generate().expect("key");
        let mut wishes = CertificateParams::new(["s9.pool.hypernet.internal".to_owned()]).expect("params");
        wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wishes
            .subject_alt_names
            .push(SanType::URI("hypernet:librarian".try_into().expect("ascii")));
        let request = wishes
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .expect("request");
        let pem = pool
            .authority
            .sign(&server("s2"), &request, Serial::new([9; 16]), at(NOW_S))
            .expect("signed");
        let identity = Identity::from_pem(&pem, &key.serialize_pem()).expect("for this key");
        let text = String::from_utf8_lossy(identity.certificate()).into_owned();
        assert!(text.contains("s2.pool.hypernet.internal") && !text.contains("s9.pool") && !text.contains("librarian"));
    }

    #[test]
    fn malformed_requests_are_refused() {
        let pool = Pool::new(1);
        let sign = |request: &str| {
            pool.authority
                .sign(&server("s2"), request, Serial::new([9; 16]), at(NOW_S))
        };
        assert!(matches!(sign(""), Err(AuthorityError::Request { .. })));
        assert!(matches!(
            sign(pool.authority.anchor().pem()),
            Err(AuthorityError::Request { .. })
        ));
        assert!(matches!(
            sign(&"x".repeat(REQUEST_OCTETS_MAX + 1)),
            Err(AuthorityError::RequestTooLong { .. })
        ));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let pool = Pool::new(1);
        let good = Request::new().expect("request");
        let mut lines: Vec<String> = good.pem().lines().map(str::to_owned).collect();
        let last = lines.len() - 2;
        let flipped: String = lines[last].chars().rev().collect();
        lines[last] = flipped;
        assert!(
            pool.authority
                .sign(&server("s2"), &lines.join("\n"), Serial::new([9; 16]), at(NOW_S))
                .is_err()
        );
    }
}
