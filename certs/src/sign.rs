//! Signatures over octets, made with the key of an identity and checked against a certificate.
//!
//! ECDSA P-256 with SHA-256, in the ASN.1 form of X.509 (RFC 5480, FIPS 186-5). What is signed begins with what it is for, so
//! that no signature serves for anything else: TLS signs 64 spaces and a label of its own first (RFC 8446 section 4.4.3).

use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use zones::ServerName;

use crate::identity::{Anchor, Identity};
use crate::peer::{Revoked, Who};

/// Signs in the name of one identity.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    certificate_pem: String,
}

/// Why nothing can be signed, or a signature does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// Identities of this pool have such keys.
    #[error("the identity's key is no ECDSA P-256 key in PKCS #8")]
    Key,
    /// The system has no randomness to give.
    #[error("the system gives no randomness")]
    Random,
    /// Not a certificate.
    #[error("this is no certificate")]
    Certificate,
    /// Another key, or other octets.
    #[error("the signature is not of this certificate's key over these octets")]
    Signature,
}

impl Signer {
    /// Signs with an identity's key.
    ///
    /// # Errors
    ///
    /// [`SignError::Key`].
    pub fn new(identity: &Identity) -> Result<Signer, SignError> {
        let PrivateKeyDer::Pkcs8(key) = identity.key() else {
            return Err(SignError::Key);
        };
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der(), &random);
        Ok(Signer {
            key: key.map_err(|_| SignError::Key)?,
            random,
            certificate_pem: identity.certificate_pem().to_owned(),
        })
    }

    /// The signature over octets.
    ///
    /// # Errors
    ///
    /// [`SignError::Random`].
    pub fn sign(&self, octets: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.key.sign(&self.random, octets).map_err(|_| SignError::Random)?;
        Ok(signature.as_ref().to_vec())
    }

    /// The certificate whose key signs, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(..)")
    }
}

/// Checks a signature against a certificate. Whose that is, and whether it was good, is to be asked apart
/// ([`crate::Anchor::verify`]).
///
/// # Errors
///
/// [`SignError::Certificate`], [`SignError::Signature`].
pub fn verify(certificate_der: &[u8], octets: &[u8], signature: &[u8]) -> Result<(), SignError> {
    let (_, certificate) = X509Certificate::from_der(certificate_der).map_err(|_| SignError::Certificate)?;
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(octets, signature)
        .map_err(|_| SignError::Signature)
}

/// Checks that a server of the pool signed: its certificate, which may have expired since, and the signature.
///
/// # Errors
///
/// [`SignError`]; [`SignError::Certificate`] also for one of another pool, or of somebody else.
pub fn verify_of_server(
    anchor: &Anchor,
    certificate_pem: &str,
    server: &ServerName,
    octets: &[u8],
    signature: &[u8],
) -> Result<(), SignError> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| SignError::Certificate)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| SignError::Certificate)?;
    let begins = u64::try_from(certificate.validity().not_before.timestamp()).map_err(|_| SignError::Certificate)?;
    let then = UnixTime::since_unix_epoch(Duration::from_secs(begins));
    let peer = anchor
        .verify(&der, then, &Revoked::default())
        .map_err(|_| SignError::Certificate)?;
    match peer.who {
        Who::Server(name) if name == *server => verify(&der, octets, signature),
        Who::Server(_) | Who::Librarian | Who::Client { .. } => Err(SignError::Certificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pool, server};

    #[test]
    fn signature_counts_for_its_certificate_and_octets_alone() {
        let pool = Pool::new(1);
        let (one, other) = (pool.issue(&server("s1")), pool.issue(&server("s2")));
        let signature = Signer::new(&one).unwrap().sign(b"head 7").unwrap();
        assert_eq!(verify(one.certificate(), b"head 7", &signature), Ok(()));
        assert_eq!(
            verify(other.certificate(), b"head 7", &signature),
            Err(SignError::Signature)
        );
        assert_eq!(
            verify(one.certificate(), b"head 8", &signature),
            Err(SignError::Signature)
        );
        assert_eq!(
            verify(one.certificate(), b"head 7", &signature[1..]),
            Err(SignError::Signature)
        );
        assert_eq!(
            verify(b"no certificate", b"head 7", &signature),
            Err(SignError::Certificate)
        );
    }
}
