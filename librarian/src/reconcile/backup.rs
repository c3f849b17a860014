//! The file that a registry is saved in.
//!
//! ```text
//! file    = magic domain incarnation saved *entry end count digest
//! magic   = "hypernet registry backup 1" %x0A
//! domain  = length (u16) octets
//! incarnation = 16 octets ; of the registry that was saved
//! saved   = u64             ; seconds since 1970
//! entry   = length (u32) octets      ; as in the registry's log, in its order
//! end     = %xFF.FF.FF.FF
//! count   = u64             ; entries
//! digest  = 32 octets       ; SHA-256 of everything before
//! ```
//!
//! Numbers are big-endian. A file is read only if its end is there and its digest holds, so a torn or changed one is noticed
//! before anything is replaced by it. It holds no secret.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use zones::Incarnation;

use crate::registry::{Snapshot, StorageError, check_entry};

const MAGIC: &[u8] = b"hypernet registry backup 1\n";
const END: u32 = u32::MAX;
/// Longest entry: a plan's document and what is around it.
const ENTRY_OCTETS_MAX: u32 = 4 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// The pool's domain.
    pub domain: String,
    /// The registry that was saved.
    pub incarnation: Incarnation,
    /// When, in seconds since 1970.
    pub saved_unix_s: u64,
    /// Entries in it.
    pub entries: u64,
}

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is such a file.
    #[error("{path} is there already: choose another name, backups are not written over")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The registry cannot be read.
    #[error("the registry cannot be read")]
    Registry(#[from] StorageError),
    /// It is no backup, or it is damaged.
    #[error("{path} is no whole backup of a registry ({what}): use another one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// Saves a registry and reads the file back. On return it is durable and whole.
///
/// # Errors
///
/// [`BackupError`]; what was written of a broken file is removed.
pub fn write(path: &Path, snapshot: &Snapshot) -> Result<Head, BackupError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| BackupError::File { what, path, source }
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Exists { path: path.to_owned() });
        }
        Err(error) => return Err(failed("write")(error)),
    };
    let written = save(file, snapshot).map_err(|error| match error {
        SaveError::Io(source) => failed("write")(source),
        SaveError::Storage(error) => error.into(),
    });
    let verified = written.and_then(|()| {
        crate::files::sync_dir_of(path).map_err(failed("write"))?;
        read(path, &mut |_| Ok(()))
    });
    if verified.is_err() {
        // Half a backup is none; the error says why.
        let _ = std::fs::remove_file(path);
    }
    verified
}

enum SaveError {
    Io(io::Error),
    Storage(StorageError),
}

impl From<io::Error> for SaveError {
    fn from(error: io::Error) -> Self {
        SaveError::Io(error)
    }
}

fn save(file: File, snapshot: &Snapshot) -> Result<(), SaveError> {
    let mut out = Hashing {
        inner: BufWriter::new(file),
        digest: Sha256::new(),
    };
    let domain = snapshot.domain().as_bytes();
    let length = u16::try_from(domain.len()).expect("a domain has at most 63 octets");
    let saved = SystemTime::now().duration_since(UNIX_EPOCH);
    out.write_all(MAGIC)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(domain)?;
    out.write_all(&snapshot.incarnation())?;
    out.write_all(&saved.map_or(0, |saved| saved.as_secs()).to_be_bytes())?;
    let mut count: u64 = 0;
    let mut broken = None;
    let each = |octets: &[u8]| {
        count += 1;
        let length = u32::try_from(octets.len()).expect("an entry is far below 4 GiB");
        let wrote = out
            .write_all(&length.to_be_bytes())
            .and_then(|()| out.write_all(octets));
        broken = wrote.err();
        broken.is_none()
    };
    snapshot.read(each).map_err(SaveError::Storage)?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    out.write_all(&END.to_be_bytes())?;
    out.write_all(&count.to_be_bytes())?;
    let digest = out.digest.finalize_reset();
    out.inner.write_all(&digest)?;
    out.inner.flush()?;
    out.inner.get_ref().sync_all()?;
    Ok(())
}

/// Reads a backup, entry by entry. The caller keeps what it is given aside until this returns well.
///
/// # Errors
///
/// [`BackupError`]; also whatever `each` says.
pub fn read(path: &Path, each: &mut dyn FnMut(Vec<u8>) -> Result<(), StorageError>) -> Result<Head, BackupError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Damaged {
            path: path.to_owned(),
            what: "it ends early",
        },
        _ => BackupError::File {
            what: "read",
            path: path.to_owned(),
            source,
        },
    };
    let damaged = |what| BackupError::Damaged {
        path: path.to_owned(),
        what,
    };
    let mut from = Hashing {
        inner: BufReader::new(File::open(path).map_err(failed)?),
        digest: Sha256::new(),
    };
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).map_err(failed)?;
    if magic != MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    let length = from.array::<2>().map(u16::from_be_bytes).map_err(failed)?;
    let mut domain = vec![0; usize::from(length)];
    from.read_exact(&mut domain).map_err(failed)?;
    let domain = String::from_utf8(domain).map_err(|_| damaged("its domain is no text"))?;
    let incarnation = Incarnation(from.array().map_err(failed)?);
    let saved_unix_s = from.array().map(u64::from_be_bytes).map_err(failed)?;
    let mut entries = 0;
    loop {
        let length = from.array().map(u32::from_be_bytes).map_err(failed)?;
        if length == END {
            break;
        }
        if length > ENTRY_OCTETS_MAX {
            return Err(damaged("an entry is too long"));
        }
        let mut octets = vec![0; length as usize];
        from.read_exact(&mut octets).map_err(failed)?;
        check_entry(&octets).map_err(|_| damaged("an entry cannot be read"))?;
        each(octets)?;
        entries += 1;
    }
    if from.array().map(u64::from_be_bytes).map_err(failed)? != entries {
        return Err(damaged("entries are missing"));
    }
    let digest = from.digest.finalize_reset();
    if from.array::<32>().map_err(failed)? != digest.as_slice() {
        return Err(damaged("its digest does not hold"));
    }
    if from.inner.read(&mut [0]).map_err(failed)? != 0 {
        return Err(damaged("there is something behind its end"));
    }
    Ok(Head {
        domain,
        incarnation,
        saved_unix_s,
        entries,
    })
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    digest: Sha256,
}

impl<T: Write> Hashing<T> {
    fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        self.digest.update(octets);
        self.inner.write_all(octets)
    }
}

impl<T: Read> Hashing<T> {
    fn read_exact(&mut self, octets: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(octets)?;
        self.digest.update(octets);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut octets = [0; N];
        self.read_exact(&mut octets)?;
        Ok(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pool;

    #[tokio::test]
    async fn backup_holds_all_that_was_durable_and_goes_on_beside_changes() {
        let pool = Pool::new().await;
        pool.create("s1", &["3.1", "3.2"]).await;
        let snapshot = pool.registry.snapshot().unwrap();
        // What comes later is not in it.
        pool.create("s1", &["3.3"]).await;
        let path = pool.dir.path().join("a.backup");
        let head = write(&path, &snapshot).unwrap();
        assert_eq!(head.incarnation.0, pool.registry.incarnation());
        let mut texts = Vec::new();
        let read_back = read(&path, &mut |octets| {
            texts.push(String::from_utf8_lossy(&octets).into_owned());
            Ok(())
        });
        assert_eq!(read_back.unwrap(), head);
        assert_eq!(texts.len() as u64, head.entries);
        let has = |address: &str| texts.iter().any(|text| text.contains(address));
        assert!(has("3.1") && has("3.2") && !has("3.3"));
        assert!(matches!(write(&path, &snapshot), Err(BackupError::Exists { .. })));
    }

    #[tokio::test]
    async fn any_changed_or_missing_octet_of_a_backup_is_noticed() {
        let pool = Pool::empty();
        let path = pool.dir.path().join("a.backup");
        write(&path, &pool.registry.snapshot().unwrap()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let other = pool.dir.path().join("b.backup");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            for bad in [&changed[..], &whole[..at]] {
                std::fs::write(&other, bad).unwrap();
                let read = read(&other, &mut |_| Ok(()));
                assert!(matches!(read, Err(BackupError::Damaged { .. })), "octet {at}: {read:?}");
            }
        }
        std::fs::write(&other, [&whole[..], b"x"].concat()).unwrap();
        assert!(read(&other, &mut |_| Ok(())).is_err());
    }
}
