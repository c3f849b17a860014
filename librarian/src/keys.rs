//! The TSIG keys that the librarian knows, and who holds each.
//!
//! Keys are files, `keys/<name>.key`; who holds one is told by its name: `admin`, a server that joined, a secondary or a client
//! that was added. Readers take a snapshot; a changed directory is read anew as a whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use certs::{ClientName, Grants};
use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};
use zones::tsig::KeyError;
use zones::{ServerName, TsigKey};

use crate::files::{self, FileError, Readable};
use crate::transfer::secondary::{self, Secondary, SecondaryError};

/// Name of the key that may do everything.
pub const ADMIN: &str = "admin";
/// Octets of the secret of a new key, as many as the digest has.
pub const SECRET_OCTETS: usize = 32;
/// Longest key or grants file.
const FILE_OCTETS_MAX: u64 = 64 * 1024;

/// In whose name something signed with a key is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Holder {
    /// The operator.
    Admin,
    /// An agent.
    Agent(ServerName),
    /// An application.
    Client {
        /// Its name.
        name: ClientName,
        /// What it may see and do.
        grants: Arc<Grants>,
    },
    /// A name server that takes zones.
    Secondary(Arc<Secondary>),
}

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key.
    pub tsig: TsigKey,
    /// Who holds it.
    pub holder: Holder,
}

/// All keys, by name.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    by_name: HashMap<Name, Key>,
}

/// The keys of a directory; clones of the snapshot stay as they were.
#[derive(Debug)]
pub struct KeyRing {
    dir: PathBuf,
    keys: ArcSwap<Keys>,
}

/// What `clients/<name>/grants.toml` holds.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct GrantsFile {
    grants: Vec<String>,
}

/// Why the keys cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key file is malformed.
    #[error("key file {path} is malformed")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The key in a file has another name than the file.
    #[error("key file {path} holds a key named {name}: file and key have one name")]
    Name {
        /// The file.
        path: PathBuf,
        /// The name in it.
        name: Name,
    },
    /// A file of grants is malformed.
    #[error("{path} is malformed: {reason}")]
    Grants {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A secondary's file cannot be used.
    #[error(transparent)]
    Secondary(#[from] SecondaryError),
    /// The admin key is missing.
    #[error("{path} is missing: restore it from a backup, or make a pool with `librarian init`")]
    NoAdmin {
        /// Where it should be.
        path: PathBuf,
    },
}

impl Keys {
    /// The key with a name.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<&Key> {
        self.by_name
            .get(name)
            .or_else(|| self.by_name.get(&name.to_lowercase()))
    }

    /// The key of a secondary.
    #[must_use]
    pub fn secondary_key(&self, name: &ClientName) -> Option<&Key> {
        let is_its = |key: &&Key| matches!(&key.holder, Holder::Secondary(secondary) if secondary.name == *name);
        self.by_name.values().find(is_its)
    }

    /// Every secondary.
    pub fn secondaries(&self) -> impl Iterator<Item = &Arc<Secondary>> {
        self.by_name.values().filter_map(|key| match &key.holder {
            Holder::Secondary(secondary) => Some(secondary),
            Holder::Admin | Holder::Agent(_) | Holder::Client { .. } => None,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Adds a key, or replaces the one of its name.
    pub fn insert(&mut self, key: Key) {
        self.by_name.insert(key.tsig.name().to_lowercase(), key);
    }

    fn read(dir: &Path) -> Result<Keys, KeysError> {
        let folder = dir.join("keys");
        let listing = std::fs::read_dir(&folder).map_err(FileError::new("list", &folder))?;
        let mut keys = Keys::default();
        for entry in listing {
            let path = entry.map_err(FileError::new("list", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                continue;
            }
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
                continue;
            };
            let tsig = read_key(&path, name)?;
            match holder(dir, name)? {
                Some(holder) => keys.insert(Key { tsig, holder }),
                None => tracing::warn!(
                    key = name,
                    "key of neither a server, a secondary nor a client is not used"
                ),
            }
        }
        if keys.by_name.values().any(|key| key.holder == Holder::Admin) {
            Ok(keys)
        } else {
            Err(KeysError::NoAdmin {
                path: path_of(dir, ADMIN),
            })
        }
    }
}

impl KeyRing {
    /// Reads all keys of a librarian's directory.
    ///
    /// # Errors
    ///
    /// [`KeysError`] names the file at fault.
    pub fn open(dir: &Path) -> Result<KeyRing, KeysError> {
        Ok(KeyRing {
            dir: dir.to_owned(),
            keys: ArcSwap::from_pointee(Keys::read(dir)?),
        })
    }

    /// Keys that lie in no directory; [`KeyRing::reload`] finds none.
    #[must_use]
    pub fn fixed(keys: Keys) -> KeyRing {
        KeyRing {
            dir: PathBuf::new(),
            keys: ArcSwap::from_pointee(keys),
        }
    }

    /// The keys as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// Reads the directory anew. After an error the keys are as they were.
    ///
    /// # Errors
    ///
    /// As [`KeyRing::open`].
    pub fn reload(&self) -> Result<(), KeysError> {
        self.keys.store(Arc::new(Keys::read(&self.dir)?));
        Ok(())
    }
}

/// Where the key with a name lies.
#[must_use]
pub fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join("keys").join(format!("{name}.key"))
}

/// Where the grants of a client lie.
#[must_use]
pub fn grants_path(dir: &Path, client: &ClientName) -> PathBuf {
    dir.join("clients").join(client.as_str()).join("grants.toml")
}

/// Writes the grants of a client.
///
/// # Errors
///
/// [`KeysError::File`].
pub fn write_grants(dir: &Path, client: &ClientName, grants: &Grants) -> Result<(), KeysError> {
    let file = GrantsFile {
        grants: grants.iter().map(ToString::to_string).collect(),
    };
    let text = toml::to_string(&file).expect("a list of texts is TOML");
    Ok(files::write(
        &grants_path(dir, client),
        text.as_bytes(),
        Readable::Owner,
    )?)
}

/// Makes a key from fresh random octets and writes its file.
///
/// # Errors
///
/// [`KeysError`].
pub fn create(dir: &Path, name: &str, secret: &[u8; SECRET_OCTETS]) -> Result<TsigKey, KeysError> {
    let path = path_of(dir, name);
    let tsig = TsigKey::new(name, secret).map_err(|source| KeysError::Key {
        path: path.clone(),
        source,
    })?;
    files::write(&path, tsig.to_bind_file().as_bytes(), Readable::Owner)?;
    Ok(tsig)
}

/// Reads the key with a name.
///
/// # Errors
///
/// [`KeysError`] names the file at fault.
pub fn read_key(path: &Path, name: &str) -> Result<TsigKey, KeysError> {
    let text = files::read(path, FILE_OCTETS_MAX)?;
    let tsig = TsigKey::from_bind_file(&text).map_err(|source| KeysError::Key {
        path: path.to_owned(),
        source,
    })?;
    if tsig.name().to_ascii().trim_end_matches('.') == name {
        Ok(tsig)
    } else {
        Err(KeysError::Name {
            path: path.to_owned(),
            name: tsig.name().clone(),
        })
    }
}

/// Reads the grants of a client; `None` if there is no such client.
///
/// # Errors
///
/// [`KeysError`] names the file at fault.
pub fn read_grants(dir: &Path, client: &ClientName) -> Result<Option<Grants>, KeysError> {
    let path = grants_path(dir, client);
    let text = match files::read(&path, FILE_OCTETS_MAX) {
        Ok(text) => text,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let malformed = |reason: String| KeysError::Grants {
        path: path.clone(),
        reason,
    };
    let file: GrantsFile = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    file.grants
        .iter()
        .map(|grant| grant.parse())
        .collect::<Result<Vec<_>, _>>()
        .and_then(Grants::new)
        .map(Some)
        .map_err(|error| malformed(error.to_string()))
}

/// Who holds the key with a name. A server's name comes first, then a secondary's: no client can be added under it.
fn holder(dir: &Path, name: &str) -> Result<Option<Holder>, KeysError> {
    if name == ADMIN {
        return Ok(Some(Holder::Admin));
    }
    if let Ok(server) = name.parse::<ServerName>()
        && dir.join("servers").join(format!("{server}.toml")).exists()
    {
        return Ok(Some(Holder::Agent(server)));
    }
    let Ok(client) = name.parse::<ClientName>() else {
        return Ok(None);
    };
    if let Some(secondary) = secondary::read(dir, &client)? {
        return Ok(Some(Holder::Secondary(Arc::new(secondary))));
    }
    Ok(read_grants(dir, &client)?.map(|grants| Holder::Client {
        name: client,
        grants: Arc::new(grants),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["keys", "servers", "clients/shop"] {
            files::make_dir(&dir.path().join(folder)).unwrap();
        }
        create(dir.path(), ADMIN, &[1; 32]).unwrap();
        dir
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn every_key_is_its_holders_and_found_in_any_case() {
        let dir = pool();
        create(dir.path(), "s2", &[2; 32]).unwrap();
        create(dir.path(), "shop", &[3; 32]).unwrap();
        create(dir.path(), "nobody", &[4; 32]).unwrap();
        files::write(&dir.path().join("servers/s2.toml"), b"", Readable::Owner).unwrap();
        let grants = Grants::new(["read:3.1".parse().unwrap()]).unwrap();
        write_grants(dir.path(), &"shop".parse().unwrap(), &grants).unwrap();
        let keys = KeyRing::open(dir.path()).unwrap().current();
        assert_eq!(keys.len(), 3);
        assert_eq!(keys.find(&name("ADMIN.")).unwrap().holder, Holder::Admin);
        assert_eq!(
            keys.find(&name("s2.")).unwrap().holder,
            Holder::Agent("s2".parse().unwrap())
        );
        let shop = Holder::Client {
            name: "shop".parse().unwrap(),
            grants: Arc::new(grants),
        };
        assert_eq!(keys.find(&name("shop.")).unwrap().holder, shop);
        assert!(keys.find(&name("nobody.")).is_none());
    }

    #[test]
    fn a_new_key_is_known_after_a_reload_and_old_snapshots_stay() {
        let dir = pool();
        let ring = KeyRing::open(dir.path()).unwrap();
        let before = ring.current();
        files::write(&dir.path().join("servers/s2.toml"), b"", Readable::Owner).unwrap();
        create(dir.path(), "s2", &[2; 32]).unwrap();
        ring.reload().unwrap();
        assert_eq!((before.len(), ring.current().len()), (1, 2));
    }

    #[test]
    fn a_damaged_directory_leaves_the_keys_as_they_were() {
        let dir = pool();
        let ring = KeyRing::open(dir.path()).unwrap();
        files::write(&path_of(dir.path(), "s3"), b"nonsense", Readable::Owner).unwrap();
        assert!(matches!(ring.reload(), Err(KeysError::Key { .. })));
        assert_eq!(ring.current().len(), 1);
        std::fs::remove_file(path_of(dir.path(), "s3")).unwrap();
        std::fs::rename(path_of(dir.path(), ADMIN), path_of(dir.path(), "other")).unwrap();
        assert!(matches!(ring.reload(), Err(KeysError::Name { .. })));
        std::fs::remove_file(path_of(dir.path(), "other")).unwrap();
        assert!(matches!(ring.reload(), Err(KeysError::NoAdmin { .. })));
        assert_eq!(ring.current().len(), 1);
    }
}
