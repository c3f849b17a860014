//! Who was revoked, and whose grants have changed, in a file that commands write and the join port publishes.

use std::fs::File;
use std::path::{Path, PathBuf};

use certs::revocation::DOCUMENT_OCTETS_MAX;
use certs::{Grants, RevocationError, Revocations, UnixTime, Who};
use rustix::fs::{FlockOperation, flock};

use crate::files::{self, FileError, Readable};

/// Name of the file in the librarian's directory.
const FILE: &str = "revocations.json";
/// Held by the command that changes it.
const LOCK: &str = "revocations.lock";

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no such list.
    #[error("{path} cannot be read: restore it from a backup; without it everybody who was revoked would be let in")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the reader saw.
        source: RevocationError,
    },
}

/// Reads the list; an empty one if nothing was ever revoked.
///
/// # Errors
///
/// [`RevokeError`].
pub fn read(dir: &Path) -> Result<Revocations, RevokeError> {
    let path = dir.join(FILE);
    match files::read(&path, DOCUMENT_OCTETS_MAX as u64) {
        Ok(text) => Revocations::read(text.as_bytes()).map_err(|source| RevokeError::Malformed { path, source }),
        Err(error) if error.is_absent() => Ok(Revocations::default()),
        Err(error) => Err(error.into()),
    }
}

/// Makes void what somebody was issued so far, or gives it other grants; durable when this returns.
///
/// # Errors
///
/// [`RevokeError`].
pub fn change(dir: &Path, who: &Who, grants: Option<Grants>, now: UnixTime) -> Result<Revocations, RevokeError> {
    let path = dir.join(LOCK);
    let lock = File::create(&path).map_err(FileError::new("lock", &path))?;
    files::belong(&lock, &path).map_err(FileError::new("lock", &path))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| FileError::new("lock", &path)(error.into()))?;
    let mut list = read(dir)?;
    list.change(who, grants, now);
    files::write(&dir.join(FILE), list.to_json().as_bytes(), Readable::Owner)?;
    Ok(list)
}

/// The moment from which a certificate for `who` is to be issued: now, or as soon as it is not void at once.
///
/// # Errors
///
/// [`RevokeError`].
pub fn issue_from(dir: &Path, who: &Who, now: UnixTime) -> Result<UnixTime, RevokeError> {
    Ok(read(dir)?.free_from(who).max(now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(name: &str) -> Who {
        Who::Server(name.parse().unwrap())
    }

    #[test]
    fn changes_of_two_commands_at_once_are_both_kept() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let dir = dir.path();
                scope.spawn(move || change(dir, &server(&format!("s{number}")), None, now).unwrap());
            }
        });
        let list = read(dir.path()).unwrap();
        assert_eq!(list.number, 1_780_000_007);
        let free = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_001));
        for number in 0..8 {
            assert_eq!(
                issue_from(dir.path(), &server(&format!("s{number}")), now).unwrap(),
                free
            );
        }
        assert_eq!(issue_from(dir.path(), &server("s9"), now).unwrap(), now);
    }

    #[test]
    fn damaged_list_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Revocations::default());
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(matches!(read(dir.path()), Err(RevokeError::Malformed { .. })));
    }
}
