//! The directory of one agent: what is in it, and the opening of it.
//!
//! | file                                   | holds                                                   |
//! |----------------------------------------|---------------------------------------------------------|
//! | `agent.toml`                           | settings                                                |
//! | `identity/{server.pem,server.key,ca.pem}` | who this server is, and whom it trusts               |
//! | `keys/<server>.key`                    | the key that signs its DNS messages                     |
//! | `keys/keyring.key`                     | what opens the keyring, unless settings say otherwise   |
//! | `pool.key`                             | the pool's key of digests                               |
//! | `keyring`, `index.redb`, `volumes/`    | the store (STORE.md)                                    |
//! | `kek.<generation>`                     | instead of `keyring`: keys that a PKCS#11 token opens   |
//! | `keys.status`, `keys.rotate`           | how key generations stand; asks for a new one           |
//! | `schemas.final`                        | versions that contract steps have led to for good       |
//! | `dry-run.json`                         | what the schemas of the next release would make of objects |
//! | `plan`                                 | the highest plan number seen                            |
//! | `upgrade/`                             | another release: what is asked for, and what became of it |
//! | `incarnation`                          | the registry that is believed, and those before it      |

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certs::{Anchor, Identity, IdentityError, Peer, PeerError, Revocations, SignError, Signer, Who};
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;
use zones::TsigKey;
use zones::tsig::KeyError;

use crate::config::{Config, ConfigError, KeyringSecret};
use crate::membership;
use crate::schema::{LoadError, Schemas};
use crate::store::{Auditor, Disk, Entry, OpenError, RealDisk, Settings, Store};
use crate::vault::guarded::Bounds;
use crate::vault::keyring::credential;
use crate::vault::pkcs11::{Token, TokenError, TokenSettings};
use crate::vault::{
    Entropy, Guarded, KeyProvider, Keyring, KeyringError, PoolKey, ProviderError, Secret, SystemEntropy, Vault,
    VaultError,
};

/// Name of the keyring's file.
const KEYRING: &str = "keyring";
/// Largest volume file.
const VOLUME_OCTETS: u64 = 64 << 30;
/// Memory of the index's page cache.
const INDEX_CACHE_OCTETS: usize = 32 << 20;

/// An agent's directory, read.
#[derive(Debug)]
pub struct Home {
    /// Where it is.
    pub dir: PathBuf,
    /// `agent.toml`.
    pub config: Config,
    /// Who this server is.
    pub identity: Identity,
    /// Whom it trusts.
    pub anchor: Anchor,
    /// What signs its DNS messages.
    pub key: TsigKey,
    /// What keeps and signs its log of moves.
    pub auditor: Arc<Auditor>,
}

/// Why an agent's directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that joining writes is not there.
    #[error("read {path}: join the pool again if it is lost")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The identity's key signs nothing.
    #[error("use this server's identity")]
    Sign(#[from] SignError),
    /// The identity's files do not fit each other.
    #[error("read this server's identity")]
    Identity(#[from] IdentityError),
    /// The certificate is not one of a pool.
    #[error("read this server's certificate: join the pool again if it has expired")]
    Certificate(#[from] PeerError),
    /// The certificate is another server's.
    #[error("the certificate is of {found}, the settings say {expected}: restore the right one")]
    AnotherServer {
        /// Whose it is.
        found: String,
        /// What the settings say.
        expected: String,
    },
    /// The key that signs DNS messages.
    #[error("read the key {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The directory, or another agent has it.
    #[error("open {path}: does another agent use it?")]
    Disk {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There are objects, and no keyring to open them.
    #[error("{path} has an index and no keyring: restore the keyring, without it nothing can be read")]
    KeyringLost {
        /// The directory.
        path: PathBuf,
    },
    /// The keyring does not open.
    #[error("open the keyring")]
    Keyring(#[from] KeyringError),
    /// The PKCS#11 token does not take this server.
    #[error("open the PKCS#11 token")]
    Token(#[from] TokenError),
    /// The key provider does not answer.
    #[error("get this server's keys")]
    Provider(#[from] ProviderError),
    /// The pool's key of digests.
    #[error("read the pool key")]
    PoolKey(#[from] VaultError),
    /// The schemas.
    #[error("read the schemas that `schemas` in the settings names")]
    Schemas(#[from] LoadError),
    /// The store.
    #[error("open the store")]
    Store(#[from] OpenError),
}

impl Home {
    /// Reads settings, identity and keys.
    ///
    /// # Errors
    ///
    /// [`HomeError`].
    pub fn open(dir: &Path) -> Result<Home, HomeError> {
        let config = Config::read(dir)?;
        let identity_dir = dir.join("identity");
        membership::settle(&identity_dir, "server").map_err(|source| HomeError::Disk {
            path: identity_dir.clone(),
            source,
        })?;
        let certificate = read(&identity_dir.join("server.pem"))?;
        let key = Zeroizing::new(read(&identity_dir.join("server.key"))?);
        let anchor = Anchor::from_pem(&read(&identity_dir.join("ca.pem"))?)?;
        let identity = Identity::from_pem(&certificate, &key)?;
        let peer = Peer::read(identity.certificate(), UnixTime::now(), &Revocations::default())?;
        match &peer.who {
            Who::Server(name) if *name == config.name => {}
            other => {
                return Err(HomeError::AnotherServer {
                    found: format!("{other:?}"),
                    expected: config.name.to_string(),
                });
            }
        }
        let path = dir.join("keys").join(format!("{}.key", config.name));
        let text = Zeroizing::new(read(&path)?);
        let key = TsigKey::from_bind_file(&text).map_err(|source| HomeError::Key { path, source })?;
        let signer = Signer::new(&identity)?;
        let auditor = Arc::new(Auditor::new(config.name.clone(), Some(signer), config.audit.keep));
        Ok(Home {
            dir: dir.to_owned(),
            auditor,
            config,
            identity,
            anchor,
            key,
        })
    }

    /// Opens the store with all its entries; makes keyring and index at the first start. Blocks.
    ///
    /// # Errors
    ///
    /// [`HomeError`].
    pub fn open_store(&self) -> Result<(Store, Vec<Arc<Entry>>), HomeError> {
        let disk = self.disk()?;
        let vault = self.vault(&disk)?;
        Ok(Store::open(disk, vault, &self.store_settings())?)
    }

    /// The keys of this server, made at the first start.
    ///
    /// # Errors
    ///
    /// [`HomeError`] where they are lost or do not open.
    pub fn vault(&self, disk: &Arc<dyn Disk>) -> Result<Arc<Vault>, HomeError> {
        let fresh = self.is_fresh();
        if fresh && self.dir.join("index.redb").exists() {
            return Err(HomeError::KeyringLost { path: self.dir.clone() });
        }
        let provider = self.provider(disk, fresh)?;
        let pool_key = PoolKey::from_file(&self.dir.join("pool.key"))?;
        Ok(Arc::new(Vault::new(provider, pool_key)))
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    ///
    /// [`HomeError::Disk`] where another agent has it.
    pub fn disk(&self) -> Result<Arc<dyn Disk>, HomeError> {
        let disk = RealDisk::with_volumes(&self.dir, &self.config.volumes(&self.dir));
        Ok(Arc::new(disk.map_err(|source| HomeError::Disk {
            path: self.dir.clone(),
            source,
        })?))
    }

    /// The keys of this server, guarded against a provider that hangs; made at the first start.
    fn provider(&self, disk: &Arc<dyn Disk>, fresh: bool) -> Result<Box<dyn KeyProvider>, HomeError> {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let keys = &self.config.keys;
        let inner: Box<dyn KeyProvider> = match &keys.pkcs11 {
            None => {
                let secret = self.secret(fresh)?;
                Box::new(match fresh {
                    true => Keyring::create(Arc::clone(disk), &secret, entropy)?,
                    false => Keyring::open(Arc::clone(disk), &secret, entropy)?,
                })
            }
            Some(token) => Box::new(Token::open(
                Arc::clone(disk),
                entropy,
                TokenSettings {
                    module: token.module.clone(),
                    token: token.token.clone(),
                    pin: self.pin(&token.pin)?,
                    server: self.config.name.to_string(),
                },
                fresh,
            )?),
        };
        let bounds = Bounds {
            cache_for: keys.cache_for,
            ..Bounds::default()
        };
        Ok(Box::new(Guarded::start(inner, bounds)?))
    }

    /// Whether this directory has no keys yet.
    fn is_fresh(&self) -> bool {
        let names = |name: &str| name == KEYRING || crate::vault::pkcs11::is_key_file(name);
        let found = fs::read_dir(&self.dir)
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().to_str().is_some_and(names)));
        !found
    }

    fn pin(&self, from: &KeyringSecret) -> Result<Zeroizing<String>, HomeError> {
        let path = match from {
            KeyringSecret::File(path) | KeyringSecret::Passphrase(path) => self.dir.join(path),
            KeyringSecret::Credential(name) => credential(name)?,
        };
        match Secret::from_passphrase_file(&path)? {
            Secret::Passphrase(pin) => Ok(pin),
            Secret::Key(_) => unreachable!("a passphrase was asked for"),
        }
    }

    /// The schemas and steps that this server works with; without the setting there are none, and every object is kept as it is.
    ///
    /// # Errors
    ///
    /// [`HomeError::Schemas`] if any file is at fault.
    pub fn schemas(&self) -> Result<Schemas, HomeError> {
        match &self.config.schemas {
            Some(path) => Ok(Schemas::load(&self.dir.join(path))?),
            None => Ok(Schemas::default()),
        }
    }

    /// Where the schemas of the next release are, if they are to be tried.
    #[must_use]
    pub fn next_schemas(&self) -> Option<PathBuf> {
        let path = self.config.next_schemas.as_ref()?;
        Some(self.dir.join(path))
    }

    /// What opens the keyring.
    ///
    /// # Errors
    ///
    /// [`HomeError::Keyring`] where it cannot be read.
    pub fn keyring_secret(&self) -> Result<Secret, HomeError> {
        self.secret(false)
    }

    /// Bounds of the store.
    #[must_use]
    pub fn store_settings(&self) -> Settings {
        let config = &self.config.store;
        Settings {
            capacity: config.capacity.0,
            step: config.volume_step.0,
            volume: VOLUME_OCTETS,
            cache: INDEX_CACHE_OCTETS,
            auditor: Arc::clone(&self.auditor),
            ..Settings::default()
        }
    }

    fn secret(&self, fresh: bool) -> Result<Secret, HomeError> {
        match &self.config.keyring.secret {
            KeyringSecret::File(path) => {
                let path = self.dir.join(path);
                if fresh && !path.exists() {
                    make_key(&path).map_err(|source| HomeError::Disk {
                        path: path.clone(),
                        source,
                    })?;
                }
                Ok(Secret::from_key_file(&path)?)
            }
            KeyringSecret::Passphrase(path) => Ok(Secret::from_passphrase_file(&self.dir.join(path))?),
            KeyringSecret::Credential(name) => Ok(Secret::from_credential(name)?),
        }
    }
}

/// Writes a fresh key that only this user may read, durable on return.
fn make_key(path: &Path) -> io::Result<()> {
    let mut octets = Zeroizing::new([0; 32]);
    SystemEntropy.fill(octets.as_mut_slice());
    let text = Zeroizing::new(data_encoding::HEXLOWER.encode(octets.as_slice()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", *text)?;
    file.sync_all()?;
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, HomeError> {
    fs::read_to_string(path).map_err(|source| HomeError::Read {
        path: path.to_owned(),
        source,
    })
}
