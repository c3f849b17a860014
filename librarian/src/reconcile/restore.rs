//! A registry made from a backup, or from nothing but authority, keys and settings. It begins in a reconcile.
//!
//! The new registry is made beside the old one and takes its name when it is whole and durable; the old one is kept under
//! another name. Nothing of this touches authority, keys, settings or the list of servers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use zones::{Domain, Incarnation};

use super::backup::{self, BackupError, Head};
use crate::daemon::REGISTRY_FILE;
use crate::files;
use crate::registry::{Creation, StorageError};

/// Why there is no new registry. The old one is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A librarian runs.
    #[error("the librarian of {dir} is running: stop it first")]
    Running {
        /// Its directory.
        dir: PathBuf,
    },
    /// The backup is of another pool.
    #[error("the backup is of the pool {found}, this is {expected}: use another one, or correct the settings")]
    Domain {
        /// Of the backup.
        found: String,
        /// Of the settings.
        expected: String,
    },
    /// The backup is of a registry that was replaced, and registers have changed under the next one.
    #[error(
        "the backup is of registry {found}, which {present} has replaced since: servers may have been told otherwise under it, so \
         make the registry from what they know with `librarian rebuild`, or take a backup of {present}"
    )]
    Replaced {
        /// Of the backup.
        found: Incarnation,
        /// That of the directory.
        present: Incarnation,
    },
    /// The backup cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The registry cannot be written.
    #[error("the new registry cannot be written")]
    Storage(#[from] StorageError),
    /// A file cannot be put in its place.
    #[error("cannot put {path} in its place")]
    Place {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// What was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Made {
    /// Of the new registry.
    pub incarnation: Incarnation,
    /// What it was made from, if from a backup.
    pub backup: Option<Head>,
    /// Where the registry before it is now, if there was one.
    pub old: Option<PathBuf>,
}

/// Makes the registry of a directory from a backup, or from nothing.
///
/// A backup of a registry that was replaced is refused: what its successor decided anew, an epoch that it gave to another server
/// even, would be contradicted by it, where servers contradict themselves in nothing.
///
/// # Errors
///
/// [`RestoreError`].
pub fn make(dir: &Path, domain: &Domain, from: Option<&Path>) -> Result<Made, RestoreError> {
    let path = dir.join(REGISTRY_FILE);
    if Creation::is_in_use(&path) {
        return Err(RestoreError::Running { dir: dir.to_owned() });
    }
    let beside = dir.join(format!("{REGISTRY_FILE}.new"));
    remove(&beside)?;
    // One that cannot be read any more says nothing against a backup.
    let opened = path
        .exists()
        .then(|| Creation::opened(&path, domain))
        .and_then(Result::ok);
    let filled = fill(&beside, domain, from, opened.flatten().map(Incarnation));
    if filled.is_err() {
        // Half a registry is none; the error says why.
        let _ = remove(&beside);
    }
    let (incarnation, backup) = filled?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let old = dir.join(format!(
        "{REGISTRY_FILE}.old-{}",
        since.map_or(0, |since| since.as_secs())
    ));
    let old = match std::fs::rename(&path, &old) {
        Ok(()) => Some(old),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(RestoreError::Place { path, source }),
    };
    let place = || {
        // What a killed librarian wrote last stays with the registry that it belongs to. It is gone where that could be read.
        let wal = path.with_extension("wal");
        if let (Some(old), true) = (&old, wal.exists()) {
            std::fs::rename(&wal, format!("{}.wal", old.display()))?;
        }
        files::belong(&File::open(&beside)?, &beside)?;
        std::fs::rename(&beside, &path)?;
        files::sync_dir_of(&path)
    };
    let placed = place();
    placed.map_err(|source| RestoreError::Place { path, source })?;
    Ok(Made {
        incarnation,
        backup,
        old,
    })
}

fn remove(path: &Path) -> Result<(), RestoreError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RestoreError::Place {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes a registry file, whole and durable on return.
fn fill(
    path: &Path,
    domain: &Domain,
    from: Option<&Path>,
    opened: Option<Incarnation>,
) -> Result<(Incarnation, Option<Head>), RestoreError> {
    let mut creation = Creation::begin(path, &domain.to_string())?;
    let incarnation = Incarnation(creation.incarnation());
    let backup = match from {
        Some(file) => {
            let head = backup::read(file, &mut |entry| creation.add(&entry))?;
            if head.domain != domain.to_string() {
                return Err(RestoreError::Domain {
                    found: head.domain,
                    expected: domain.to_string(),
                });
            }
            match opened {
                Some(present) if present != head.incarnation => {
                    let found = head.incarnation;
                    return Err(RestoreError::Replaced { found, present });
                }
                Some(_) | None => Some(head),
            }
        }
        None => None,
    };
    creation.finish()?;
    Ok((incarnation, backup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Registry, Settings};
    use crate::testing::{Pool, domain};

    #[tokio::test]
    async fn what_cannot_be_restored_leaves_the_registry_as_it_was() {
        let pool = Pool::new().await;
        pool.create("s1", &["3.1"]).await;
        let file = pool.dir.path().join("a.backup");
        backup::write(&file, &pool.registry.snapshot().unwrap()).unwrap();
        let running = make(pool.dir.path(), &domain(), Some(&file));
        assert!(matches!(running, Err(RestoreError::Running { .. })), "{running:?}");
        pool.registry.close().await;

        let other = make(pool.dir.path(), &"other.internal".parse().unwrap(), Some(&file));
        assert!(matches!(other, Err(RestoreError::Domain { .. })), "{other:?}");
        let mut octets = std::fs::read(&file).unwrap();
        octets.pop();
        let torn = pool.dir.path().join("b.backup");
        std::fs::write(&torn, octets).unwrap();
        let torn = make(pool.dir.path(), &domain(), Some(&torn));
        assert!(matches!(torn, Err(RestoreError::Backup(_))), "{torn:?}");
        let same = Registry::open(&pool.path(), &domain(), Settings::default()).unwrap();
        assert_eq!(same.incarnation(), pool.registry.incarnation());
        assert!(same.view().reconcile().open);
        same.close().await;
        assert!(!pool.dir.path().join("registry.redb.new").exists());

        let made = make(pool.dir.path(), &domain(), Some(&file)).unwrap();
        let old = Registry::open(&made.old.unwrap(), &domain(), Settings::default()).unwrap();
        assert_eq!(old.incarnation(), pool.registry.incarnation());
        let registry = Registry::open(&pool.path(), &domain(), Settings::default()).unwrap();
        assert_eq!(registry.incarnation(), made.incarnation.0);
        assert_ne!(registry.incarnation(), pool.registry.incarnation());
        assert!(!registry.view().reconcile().open);
        assert!(registry.view().register(&"3.1".parse().unwrap()).is_some());
        assert_eq!(registry.view().servers().len(), 5);
        registry.close().await;
        // It is not open yet, so that a second thought is free.
        assert!(make(pool.dir.path(), &domain(), Some(&file)).is_ok());
    }

    #[tokio::test]
    async fn backup_of_a_registry_that_was_replaced_is_refused() {
        let pool = Pool::new().await;
        pool.create("s1", &["3.1"]).await;
        let file = pool.dir.path().join("a.backup");
        backup::write(&file, &pool.registry.snapshot().unwrap()).unwrap();
        pool.registry.close().await;
        let path = pool.path();
        std::fs::remove_file(&path).unwrap();
        // Another one that is open lies there.
        let next = Registry::open(&path, &domain(), Settings::default()).unwrap();
        let present = Incarnation(next.incarnation());
        next.close().await;
        let refused = make(pool.dir.path(), &domain(), Some(&file)).unwrap_err();
        let expected = Incarnation(pool.registry.incarnation());
        assert!(
            matches!(&refused, RestoreError::Replaced { found, present: there } if *found == expected && *there == present),
            "{refused}"
        );
        let same = Registry::open(&path, &domain(), Settings::default()).unwrap();
        assert_eq!(same.incarnation(), present.0);
        same.close().await;
        make(pool.dir.path(), &domain(), None).unwrap();
    }
}
