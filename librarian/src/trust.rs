//! The authority in a librarian's directory, and the librarian's own identity.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certs::{Authority, AuthorityError, Identity, Serial, UnixTime, Who};
use zeroize::Zeroizing;
use zones::Domain;

use crate::files::{self, FileError};
use crate::random;

/// Longest file that is read.
const FILE_OCTETS_MAX: u64 = 64 * 1024;
/// Octets of the key of all digests.
pub const POOL_KEY_OCTETS: usize = 32;

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authority's files do not work.
    #[error("the pool's authority in {path} cannot be used: restore it from a backup")]
    Authority {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        source: AuthorityError,
    },
    /// The key of all digests is malformed.
    #[error("{path} is malformed: it holds 64 hexadecimal digits; restore it from a backup")]
    PoolKey {
        /// Where it lies.
        path: PathBuf,
    },
}

/// Where the authority's certificate lies.
#[must_use]
pub fn certificate_path(dir: &Path) -> PathBuf {
    dir.join("ca").join("ca.pem")
}

/// Where the authority's private key lies.
#[must_use]
pub fn key_path(dir: &Path) -> PathBuf {
    dir.join("ca").join("ca.key")
}

/// Where the key of all digests lies.
#[must_use]
pub fn pool_key_path(dir: &Path) -> PathBuf {
    dir.join("pool.key")
}

/// Reads the authority of a pool.
///
/// # Errors
///
/// [`TrustError`] names the file at fault.
pub fn authority(dir: &Path, domain: &Domain) -> Result<Authority, TrustError> {
    let certificate = files::read(&certificate_path(dir), FILE_OCTETS_MAX)?;
    let key = Zeroizing::new(files::read(&key_path(dir), FILE_OCTETS_MAX)?);
    Authority::load(domain, &certificate, &key).map_err(|source| TrustError::Authority {
        path: dir.join("ca"),
        source,
    })
}

/// Reads the key of all digests, as text.
///
/// # Errors
///
/// [`TrustError`] names the file at fault.
pub fn pool_key(dir: &Path) -> Result<Zeroizing<String>, TrustError> {
    let path = pool_key_path(dir);
    let text = Zeroizing::new(files::read(&path, FILE_OCTETS_MAX)?);
    let text = Zeroizing::new(text.trim().to_owned());
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
    match octets {
        Ok(octets) if octets.len() == POOL_KEY_OCTETS => Ok(text),
        Ok(_) | Err(_) => Err(TrustError::PoolKey { path }),
    }
}

/// A fresh identity of the librarian itself.
///
/// # Errors
///
/// [`AuthorityError`] when nothing can be signed.
pub fn librarian_identity(authority: &Authority, now: UnixTime) -> Result<Identity, AuthorityError> {
    authority.issue(&Who::Librarian, new_serial(), now)
}

/// A number for a certificate.
#[must_use]
pub fn new_serial() -> Serial {
    Serial::new(random::octets())
}

/// The time by the machine's clock.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime::now()
}

/// How long the librarian uses one certificate of its own: well below its life.
pub const RENEW_AFTER: Duration = Duration::from_secs(24 * 3600);
