//! Certificates as they are kept: the pool's anchor, one's own identity, and the request that leads to one.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;
use crate::peer::{CERTIFICATE_OCTETS_MAX, Peer, PeerError};
use crate::revocation::Revocations;
use crate::tls;

/// The certificate of the pool's authority: what everybody checks the others against.
#[derive(Clone)]
pub struct Anchor {
    certificate: CertificateDer<'static>,
    pem: Arc<str>,
    roots: Arc<RootCertStore>,
}

/// Who we are: our certificate and its private key.
#[derive(Clone)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    certificate_pem: Arc<str>,
    key_pem: Arc<Zeroizing<String>>,
}

/// A fresh private key and the request (PKCS #10) to certify it. Who the certificate is for is not in it: the authority
/// decides that from the join token.
pub struct Request {
    key: KeyPair,
    pem: String,
}

/// Why certificates or keys could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The text holds no certificate.
    #[error("no PEM certificate found")]
    Certificate {
        /// What the reader saw.
        source: rustls_pki_types::pem::Error,
    },
    /// The text holds no private key.
    #[error("no PEM private key found")]
    Key {
        /// What the reader saw.
        source: rustls_pki_types::pem::Error,
    },
    /// The certificate of the authority cannot be an anchor.
    #[error("the certificate is no authority's")]
    Anchor {
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is not the certificate's.
    #[error("private key and certificate do not belong together")]
    Mismatch {
        /// What the check said.
        source: rustls::Error,
    },
    /// No key or request could be made.
    #[error("make a private key and its certificate request")]
    Generate {
        /// What ring or rcgen said.
        source: rcgen::Error,
    },
}

impl Anchor {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Certificate`] without a certificate, [`IdentityError::Anchor`] for one that cannot be an anchor.
    pub fn from_pem(pem: &str) -> Result<Anchor, IdentityError> {
        let certificate = certificate_of(pem)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate.clone())
            .map_err(|source| IdentityError::Anchor { source })?;
        Ok(Anchor {
            certificate,
            pem: pem.into(),
            roots: Arc::new(roots),
        })
    }

    /// The PEM text.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its fingerprint, as join tokens carry it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The anchor as rustls wants it.
    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Checks a certificate that came outside a handshake, such as in a `Client-Cert` header (RFC 9440): signed by this
    /// authority, for use as a client, valid now, not revoked.
    ///
    /// The certificate alone proves nothing about who carries it: whoever forwards it must be known to have checked that.
    ///
    /// # Errors
    ///
    /// [`PeerError::Untrusted`] when the authority did not sign it or its time is not now, otherwise as [`Peer::read`].
    pub fn verify(&self, certificate_der: &[u8], now: UnixTime, revoked: &Revocations) -> Result<Peer, PeerError> {
        if certificate_der.len() > CERTIFICATE_OCTETS_MAX {
            return Err(PeerError::TooLong {
                octets: certificate_der.len(),
            });
        }
        tls::client_verifier(self, false)
            .and_then(|verifier| verifier.verify_client_cert(&CertificateDer::from(certificate_der), &[], now))
            .map_err(|source| PeerError::Untrusted { source })?;
        Peer::read(certificate_der, now, revoked)
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchor({})", self.fingerprint())
    }
}

impl Identity {
    /// Reads a certificate and its private key (PKCS #8), both PEM.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Certificate`] or [`IdentityError::Key`] for a text without one, [`IdentityError::Mismatch`] when they
    /// do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Identity, IdentityError> {
        let certificate = certificate_of(certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| IdentityError::Key { source })?;
        CertifiedKey::from_der(vec![certificate.clone()], key, &tls::provider())
            .map_err(|source| IdentityError::Mismatch { source })?;
        Ok(Identity {
            certificate,
            certificate_pem: certificate_pem.into(),
            key_pem: Arc::new(Zeroizing::new(key_pem.to_owned())),
        })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key as PEM: keep it in files that only their owner may read.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The private key as rustls wants it.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("the constructor read it")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", Fingerprint::of(&self.certificate))
    }
}

impl Request {
    /// Makes a fresh private key (ECDSA P-256) and a request for it.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Generate`] when the system has no randomness to give.
    pub fn new() -> Result<Request, IdentityError> {
        let generate = |source| IdentityError::Generate { source };
        let key = KeyPair::generate().map_err(generate)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let pem = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(generate)?;
        Ok(Request { key, pem })
    }

    /// The request, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The identity, once the authority has answered with a certificate.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Certificate`] without a certificate, [`IdentityError::Mismatch`] when it is for another key.
    pub fn complete(self, certificate_pem: &str) -> Result<Identity, IdentityError> {
        let key_pem = Zeroizing::new(self.key.serialize_pem());
        Identity::from_pem(certificate_pem, &key_pem)
    }
}

/// The first certificate of a PEM text.
fn certificate_of(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| IdentityError::Certificate { source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pool, server};

    #[test]
    fn an_identity_comes_back_from_its_files() {
        let pool = Pool::new(1);
        let identity = pool.issue(&server("s2"));
        let again = Identity::from_pem(identity.certificate_pem(), identity.key_pem()).expect("own text");
        assert_eq!(again.certificate(), identity.certificate());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let pool = Pool::new(1);
        let (one, other) = (pool.issue(&server("s2")), pool.issue(&server("s2")));
        assert!(matches!(
            Identity::from_pem(one.certificate_pem(), other.key_pem()),
            Err(IdentityError::Mismatch { .. })
        ));
    }

    #[test]
    fn keys_stay_out_of_debug_output() {
        let identity = Pool::new(1).issue(&server("s2"));
        assert!(!format!("{identity:?}").contains("KEY"));
    }

    #[test]
    fn texts_without_pem_are_refused() {
        assert!(matches!(Anchor::from_pem("x"), Err(IdentityError::Certificate { .. })));
        let identity = Pool::new(1).issue(&server("s2"));
        assert!(matches!(
            Identity::from_pem(identity.certificate_pem(), "x"),
            Err(IdentityError::Key { .. })
        ));
    }
}
