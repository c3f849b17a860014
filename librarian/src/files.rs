//! Files of the librarian's directory: written whole or not at all, secrets readable by their owner only.
//!
//! The librarian may run as a user of its own while root gives the commands. What root makes therefore belongs to the owner of
//! the directory that it lies in; it would be unreadable there otherwise.
//!
//! | in the directory        | is                                                              |
//! |-------------------------|-----------------------------------------------------------------|
//! | `librarian.toml`        | settings                                                        |
//! | `registry.redb`         | the registry; `.old-<time>` behind it: one before a restore     |
//! | `registry.wal`          | its last small commits, while a librarian runs                  |
//! | `registry.checkpoint`, `registry.journal` | its memory, and what changed lately, at the last stop in order |
//! | `reconcile.json`, `reconcile-claimless.txt` | what the last reconcile found               |
//! | `ca/ca.pem`, `ca/ca.key`| the pool's authority                                            |
//! | `keys/<name>.key`       | TSIG keys of admin, servers and clients, as BIND key files      |
//! | `pool.key`              | key of all digests in the pool, 64 hexadecimal digits           |
//! | `invites/<server>.toml` | an invitation that was not used yet: hash of its secret, expiry |
//! | `servers/<server>.toml` | a server that joined: its first role, when, its certificate     |
//! | `clients/<name>/`       | an application: grants, certificate, key, and what it needs     |
//! | `control.sock`          | where commands speak to the running librarian                   |

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readable {
    /// Its owner.
    Owner,
    /// Everybody.
    All,
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub struct FileError {
    /// What was tried.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = path.to_owned();
        move |source| FileError { what, path, source }
    }

    /// Whether the file does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Makes a directory, and those above it, for its owner only.
///
/// # Errors
///
/// [`FileError`] with the reason.
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    let attempt = || {
        let is_new = !path.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if is_new {
            belong(&File::open(path)?, path)?;
        }
        Ok(())
    };
    attempt().map_err(FileError::new("make the directory", path))
}

/// Gives what root made to the owner of the directory that it lies in.
///
/// # Errors
///
/// What the system says.
pub(crate) fn belong(file: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = dir_of(path).metadata()?;
    if file.metadata()?.uid() == owner.uid() {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Writes a file so that a crash leaves the old text or the new one, and the new one is durable on return.
///
/// # Errors
///
/// [`FileError`] with the reason.
pub fn write(path: &Path, octets: &[u8], readable: Readable) -> Result<(), FileError> {
    let beside = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        match std::fs::remove_file(&beside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(match readable {
                Readable::Owner => 0o600,
                Readable::All => 0o644,
            })
            .open(&beside)?;
        belong(&file, &beside)?;
        file.write_all(octets)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        sync_dir_of(path)
    };
    attempt().map_err(FileError::new("write", path))
}

/// Removes a file durably.
///
/// # Errors
///
/// [`FileError`] with the reason; a file that is not there is one.
pub fn remove(path: &Path) -> Result<(), FileError> {
    std::fs::remove_file(path)
        .and_then(|()| sync_dir_of(path))
        .map_err(FileError::new("remove", path))
}

/// Reads a text of at most `octets_max` octets.
///
/// # Errors
///
/// [`FileError`] with the reason; a longer file is one.
pub fn read(path: &Path, octets_max: u64) -> Result<String, FileError> {
    let attempt = || {
        let mut text = String::new();
        File::open(path)?.take(octets_max + 1).read_to_string(&mut text)?;
        if text.len() as u64 > octets_max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("over {octets_max} octets"),
            ));
        }
        Ok(text)
    };
    attempt().map_err(FileError::new("read", path))
}

/// Makes the names in a file's directory durable.
pub(crate) fn sync_dir_of(path: &Path) -> io::Result<()> {
    File::open(dir_of(path))?.sync_all()
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_for_their_owner_only_and_files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.key");
        make_dir(path.parent().unwrap()).unwrap();
        write(&path, b"one", Readable::Owner).unwrap();
        write(&path, b"two", Readable::Owner).unwrap();
        assert_eq!(read(&path, 3).unwrap(), "two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn long_and_absent_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(read(&path, 3).unwrap_err().is_absent());
        assert!(remove(&path).unwrap_err().is_absent());
        write(&path, b"four", Readable::All).unwrap();
        assert!(!read(&path, 3).unwrap_err().is_absent());
    }
    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let owner = if rustix::process::geteuid().is_root() {
            4711
        } else {
            dir.path().metadata().unwrap().uid()
        };
        std::os::unix::fs::chown(dir.path(), Some(owner), None).unwrap();
        make_dir(&dir.path().join("clients")).unwrap();
        write(&dir.path().join("clients/a.key"), b"one", Readable::Owner).unwrap();
        for made in ["clients", "clients/a.key"] {
            assert_eq!(dir.path().join(made).metadata().unwrap().uid(), owner, "{made}");
        }
        // A directory that was there stays whose it is, whoever owns the one above.
        make_dir(dir.path()).unwrap();
        assert_eq!(dir.path().metadata().unwrap().uid(), owner);
    }
}
