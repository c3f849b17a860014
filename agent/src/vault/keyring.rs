//! Key provider `keyring`: a file that holds every live generation's KEK, sealed under a passphrase or a key.
//!
//! The secret that opens it comes from outside: a systemd credential, a file on other storage, or a passphrase. Writing
//! replaces the file in one step, so a crash leaves the old or the new one. Octets: STORE.md section 7.

pub mod backup;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use zeroize::{Zeroize, Zeroizing};

use super::entropy::{Entropy, array};
use super::provider::{Generation, Kek, KeyProvider, Known, ProviderError};
use super::suite::TAG_OCTETS;
use crate::store::io::Disk;

/// Name of the file in an agent's directory.
pub const FILE: &str = "keyring";

/// What the file begins with.
const FORMAT: &str = "hn-keyring-1";

/// What the provider is called.
const NAME: &str = "keyring";

/// Longest file that is read: far above what 2^10 generations need.
const FILE_OCTETS_MAX: u64 = 128 * 1024;

/// Memory of Argon2id in KiB, passes, lanes: the second recommended choice of RFC 9106 section 4 on one lane.
const ARGON: ArgonCost = ArgonCost {
    memory_kib: 64 * 1024,
    passes: 3,
    lanes: 1,
};

/// What opens a keyring.
pub enum Secret {
    /// A text that a person keeps; stretched by Argon2id.
    Passphrase(Zeroizing<String>),
    /// 32 random octets, used as they are.
    Key(Zeroizing<[u8; 32]>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Passphrase(_) => "Passphrase(..)",
            Secret::Key(_) => "Key(..)",
        })
    }
}

impl Secret {
    /// Reads a key from a file: 32 octets, or 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Secret`], [`KeyringError::KeyShape`].
    pub fn from_key_file(path: &Path) -> Result<Secret, KeyringError> {
        let octets = read_secret(path)?;
        let shape = || KeyringError::KeyShape { path: path.to_owned() };
        if let Ok(key) = <[u8; 32]>::try_from(octets.as_slice()) {
            return Ok(Secret::Key(Zeroizing::new(key)));
        }
        let decoded = Zeroizing::new(
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(octets.trim_ascii())
                .map_err(|_| shape())?,
        );
        let key = decoded.as_slice().try_into().map_err(|_| shape())?;
        Ok(Secret::Key(Zeroizing::new(key)))
    }

    /// Reads a passphrase from the first line of a file.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Secret`]; [`KeyringError::EmptyPassphrase`].
    pub fn from_passphrase_file(path: &Path) -> Result<Secret, KeyringError> {
        let octets = read_secret(path)?;
        let line = octets.split(|&octet| octet == b'\n').next().unwrap_or_default();
        let text = Zeroizing::new(String::from_utf8_lossy(line).trim_end_matches('\r').to_owned());
        if text.is_empty() {
            return Err(KeyringError::EmptyPassphrase { path: path.to_owned() });
        }
        Ok(Secret::Passphrase(text))
    }

    /// Reads a key from a systemd credential (`LoadCredentialEncrypted=NAME`), which systemd puts in a directory that
    /// only this service sees.
    ///
    /// # Errors
    ///
    /// [`KeyringError::NoCredentials`] outside such a service, and as [`Secret::from_key_file`].
    pub fn from_credential(name: &str) -> Result<Secret, KeyringError> {
        Secret::from_key_file(&credential(name)?)
    }
}

/// Where systemd has put a credential of this service.
///
/// # Errors
///
/// [`KeyringError::NoCredentials`] outside a service that has credentials.
pub fn credential(name: &str) -> Result<PathBuf, KeyringError> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
        .ok_or_else(|| KeyringError::NoCredentials { name: name.to_owned() })?;
    Ok(PathBuf::from(directory).join(name))
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|source| KeyringError::Secret {
            path: path.to_owned(),
            source,
        })
}

/// Why a keyring cannot be made, opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The file with the secret cannot be read.
    #[error("read the keyring's secret from {path}")]
    Secret {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The secret is no key.
    #[error("{path} holds no key: it must be 32 octets or 64 hexadecimal digits")]
    KeyShape {
        /// Where.
        path: PathBuf,
    },
    /// The first line is empty.
    #[error("{path} holds no passphrase: write one on its first line")]
    EmptyPassphrase {
        /// Where.
        path: PathBuf,
    },
    /// Not started by systemd with credentials.
    #[error("no credential {name}: start the agent as a systemd service with LoadCredential={name}:FILE")]
    NoCredentials {
        /// The one wanted.
        name: String,
    },
    /// There is a keyring already.
    #[error("a keyring is here already: it is never overwritten, because its keys open the objects of this directory")]
    Exists,
    /// The file cannot be read or written.
    #[error("access the file {FILE}")]
    File(#[source] io::Error),
    /// The file is no keyring, or a later release's.
    #[error("the file {FILE} is no keyring of this release: {what}")]
    Format {
        /// What is wrong.
        what: &'static str,
    },
    /// The secret is not the one, or the file was changed.
    #[error("the keyring does not open: the passphrase or key is another one, or the file was changed")]
    Wrong,
}

/// Cost of stretching a passphrase.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode)]
struct ArgonCost {
    #[n(0)]
    memory_kib: u32,
    #[n(1)]
    passes: u32,
    #[n(2)]
    lanes: u32,
}

/// How the file is protected.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
enum Protector {
    #[n(1)]
    Passphrase {
        #[cbor(n(0), with = "minicbor::bytes")]
        salt: [u8; 16],
        #[n(1)]
        cost: ArgonCost,
    },
    #[n(2)]
    Key,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct File {
    #[n(0)]
    format: String,
    #[n(1)]
    protector: Protector,
    #[cbor(n(2), with = "minicbor::bytes")]
    nonce: [u8; 24],
    #[cbor(n(3), with = "minicbor::bytes")]
    sealed: Vec<u8>,
}

#[derive(Clone, Encode, Decode)]
#[cbor(map)]
struct Content {
    #[n(0)]
    current: Generation,
    #[n(1)]
    keys: Vec<Key>,
}

#[derive(Clone, Encode, Decode)]
#[cbor(map)]
struct Key {
    #[n(0)]
    generation: Generation,
    #[n(1)]
    created_unix_s: u64,
    #[cbor(n(2), with = "minicbor::bytes")]
    octets: [u8; 32],
}

impl Drop for Key {
    fn drop(&mut self) {
        self.octets.zeroize();
    }
}

/// The keyring, open.
pub struct Keyring {
    disk: Arc<dyn Disk>,
    entropy: Arc<dyn Entropy>,
    protector: Protector,
    seal_key: Zeroizing<[u8; 32]>,
    content: Mutex<Content>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("current", &self.content.lock().current)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// Makes a keyring with one generation and writes it.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Exists`], [`KeyringError::File`].
    pub fn create(disk: Arc<dyn Disk>, secret: &Secret, entropy: Arc<dyn Entropy>) -> Result<Keyring, KeyringError> {
        match disk.read(FILE) {
            Ok(_) => return Err(KeyringError::Exists),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(KeyringError::File(error)),
        }
        let protector = match secret {
            Secret::Passphrase(_) => Protector::Passphrase {
                salt: array(entropy.as_ref()),
                cost: ARGON,
            },
            Secret::Key(_) => Protector::Key,
        };
        let keyring = Keyring {
            seal_key: seal_key(&protector, secret)?,
            protector,
            content: Mutex::new(Content {
                current: Generation(1),
                keys: vec![Key {
                    generation: Generation(1),
                    created_unix_s: unix_s(),
                    octets: array(entropy.as_ref()),
                }],
            }),
            disk,
            entropy,
        };
        let content = keyring.content.lock().clone();
        keyring.write(&content).map_err(KeyringError::File)?;
        Ok(keyring)
    }

    /// Opens the keyring of a directory.
    ///
    /// # Errors
    ///
    /// [`KeyringError::File`], [`KeyringError::Format`], [`KeyringError::Wrong`].
    pub fn open(disk: Arc<dyn Disk>, secret: &Secret, entropy: Arc<dyn Entropy>) -> Result<Keyring, KeyringError> {
        let octets = disk.read(FILE).map_err(KeyringError::File)?;
        let (protector, seal_key, content) = open_octets(&octets, secret)?;
        Ok(Keyring {
            disk,
            entropy,
            protector,
            seal_key,
            content: Mutex::new(content),
        })
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let octets = seal_octets(self.entropy.as_ref(), &self.protector, &self.seal_key, content);
        self.disk.replace(FILE, &octets)
    }

    /// Writes the changed content first and shows it then, so that no key is used that a crash would take away.
    fn change(
        &self,
        change: impl FnOnce(&mut Content) -> Result<Generation, ProviderError>,
    ) -> Result<Generation, ProviderError> {
        let mut shown = self.content.lock();
        let mut content = shown.clone();
        let generation = change(&mut content)?;
        self.write(&content).map_err(|source| ProviderError::Unavailable {
            provider: NAME,
            source: Box::new(KeyringError::File(source)),
        })?;
        *shown = content;
        Ok(generation)
    }
}

/// Reads and opens the octets of a keyring file; the fuzz target's way in.
#[doc(hidden)]
pub fn check_octets(octets: &[u8], secret: &Secret) -> Result<(), KeyringError> {
    open_octets(octets, secret).map(drop)
}

/// Reads a file of CBOR that is spelled the one way in which it is written; `Err` says what is wrong.
///
/// CBOR spells one thing in several ways (an array for a map, long forms of a number): by another one a changed file could open.
fn read_spelled<T: Encode<()> + for<'b> Decode<'b, ()>>(
    octets: &[u8],
    is_of_this_format: impl FnOnce(&T) -> bool,
) -> Result<T, &'static str> {
    if octets.len() as u64 > FILE_OCTETS_MAX {
        return Err("it is too long");
    }
    let file: T = minicbor::decode(octets).map_err(|_| "it is not CBOR of the right shape")?;
    // A later format may be spelled otherwise: it is to be told as what it is.
    if !is_of_this_format(&file) {
        return Err("it names another format; run the release that wrote it, or a later one");
    }
    match minicbor::to_vec(&file).expect("a vector takes every octet") == octets {
        true => Ok(file),
        false => Err("it was changed: it is not spelled the way it is written"),
    }
}

/// Opens what was sealed, the tag behind it; `None` where it does not open.
fn unseal(key: &[u8; 32], nonce: [u8; 24], associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (text, tag) = sealed.split_last_chunk::<TAG_OCTETS>()?;
    let mut text = Zeroizing::new(text.to_vec());
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(
            &XNonce::from(nonce),
            associated,
            text.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .ok()?;
    Some(text)
}

fn open_octets(octets: &[u8], secret: &Secret) -> Result<(Protector, Zeroizing<[u8; 32]>, Content), KeyringError> {
    let format = |what| KeyringError::Format { what };
    let file: File = read_spelled(octets, |file: &File| file.format == FORMAT).map_err(format)?;
    if file.sealed.len() < TAG_OCTETS {
        return Err(format("it was cut"));
    }
    let seal_key = seal_key(&file.protector, secret)?;
    let text = unseal(&seal_key, file.nonce, &associated(&file.protector), &file.sealed).ok_or(KeyringError::Wrong)?;
    let content: Content = minicbor::decode(&text).map_err(|_| format("its content is not CBOR of the right shape"))?;
    let rising = content
        .keys
        .windows(2)
        .all(|pair| pair[0].generation < pair[1].generation);
    if !rising || !content.keys.iter().any(|key| key.generation == content.current) {
        return Err(format("its generations contradict each other"));
    }
    Ok((file.protector, seal_key, content))
}

fn seal_octets(entropy: &dyn Entropy, protector: &Protector, seal_key: &[u8; 32], content: &Content) -> Vec<u8> {
    let nonce: [u8; 24] = array(entropy);
    // One allocation of the final size, so that growing leaves no copy of the keys behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 + content.keys.len() * 64));
    minicbor::encode(content, &mut *text).expect("memory takes all");
    let tag = XChaCha20Poly1305::new(seal_key.into())
        .encrypt_inout_detached(&XNonce::from(nonce), &associated(protector), text.as_mut_slice().into())
        .expect("a keyring is far below the limit of 256 GiB");
    let mut sealed = text.to_vec();
    sealed.extend_from_slice(&tag);
    let file = File {
        format: FORMAT.to_owned(),
        protector: protector.clone(),
        nonce,
        sealed,
    };
    minicbor::to_vec(&file).expect("memory takes all")
}

/// What the seal is bound to: format and protector, encoded as in the file.
fn associated(protector: &Protector) -> Vec<u8> {
    minicbor::to_vec((FORMAT, protector)).expect("memory takes all")
}

fn seal_key(protector: &Protector, secret: &Secret) -> Result<Zeroizing<[u8; 32]>, KeyringError> {
    match (protector, secret) {
        (Protector::Key, Secret::Key(key)) => Ok(Zeroizing::new(blake3::derive_key(
            "hypernet agent keyring 1: key that seals the file",
            key.as_slice(),
        ))),
        (Protector::Passphrase { salt, cost }, Secret::Passphrase(passphrase)) => {
            // The file is outside input: a changed cost must not take the machine's memory before the tag is checked.
            if cost.memory_kib > 1024 * 1024 || cost.passes > 16 || cost.lanes > 16 {
                return Err(KeyringError::Format {
                    what: "its passphrase cost is beyond all reason",
                });
            }
            let params =
                Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| KeyringError::Format {
                    what: "its passphrase cost is no legal one",
                })?;
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
                .map_err(|_| KeyringError::Format {
                    what: "its passphrase cost is no legal one",
                })?;
            Ok(key)
        }
        (Protector::Key, Secret::Passphrase(_)) => Err(KeyringError::Format {
            what: "it opens by a key, and a passphrase was given",
        }),
        (Protector::Passphrase { .. }, Secret::Key(_)) => Err(KeyringError::Format {
            what: "it opens by a passphrase, and a key was given",
        }),
    }
}

pub(super) fn unix_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

impl KeyProvider for Keyring {
    fn name(&self) -> &'static str {
        NAME
    }

    fn current(&self) -> Result<(Generation, Kek), ProviderError> {
        let generation = self.content.lock().current;
        Ok((generation, self.kek(generation)?))
    }

    fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
        self.content
            .lock()
            .keys
            .iter()
            .find(|key| key.generation == generation)
            .map(|key| Kek::new(key.octets))
            .ok_or(ProviderError::NoGeneration { generation })
    }

    fn generations(&self) -> Result<Vec<Known>, ProviderError> {
        let known = |key: &Key| Known {
            generation: key.generation,
            made_unix_s: key.created_unix_s,
        };
        Ok(self.content.lock().keys.iter().map(known).collect())
    }

    fn begin_generation(&self) -> Result<Generation, ProviderError> {
        self.change(|content| {
            // Numbers are never used again, so the current one is always the highest.
            let generation = Generation(content.current.0 + 1);
            content.keys.push(Key {
                generation,
                created_unix_s: unix_s(),
                octets: array(self.entropy.as_ref()),
            });
            content.current = generation;
            Ok(generation)
        })
    }

    fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
        self.change(|content| {
            if content.current == generation {
                return Err(ProviderError::Current { generation });
            }
            let before = content.keys.len();
            content.keys.retain(|key| key.generation != generation);
            if content.keys.len() == before {
                return Err(ProviderError::NoGeneration { generation });
            }
            Ok(generation)
        })
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::simulated::SimulatedDisk;
    use crate::vault::entropy::tests::SeededEntropy;

    fn key(octet: u8) -> Secret {
        Secret::Key(Zeroizing::new([octet; 32]))
    }

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.to_owned()))
    }

    fn numbers(keyring: &Keyring) -> Vec<u32> {
        let known = keyring.generations().unwrap();
        known.iter().map(|known| known.generation.0).collect()
    }

    fn entropy() -> Arc<dyn Entropy> {
        Arc::new(SeededEntropy::new(1))
    }

    fn create(disk: &SimulatedDisk, secret: &Secret) -> Result<Keyring, KeyringError> {
        Keyring::create(Arc::new(disk.clone()), secret, entropy())
    }

    fn open(disk: &SimulatedDisk, secret: &Secret) -> Result<Keyring, KeyringError> {
        Keyring::open(Arc::new(disk.clone()), secret, entropy())
    }

    #[test]
    fn keys_come_back_under_the_right_secret_only() {
        let disk = SimulatedDisk::default();
        let first = create(&disk, &key(1)).unwrap().current().unwrap();
        let again = open(&disk, &key(1)).unwrap().current().unwrap();
        assert_eq!((first.0, first.1.octets()), (again.0, again.1.octets()));
        assert!(matches!(open(&disk, &key(2)), Err(KeyringError::Wrong)));
        assert!(matches!(
            open(&disk, &passphrase("x")),
            Err(KeyringError::Format { .. })
        ));
        assert!(matches!(create(&disk, &key(1)), Err(KeyringError::Exists)));
    }

    #[test]
    fn passphrase_opens_what_it_closed() {
        let disk = SimulatedDisk::default();
        let first = create(&disk, &passphrase("correct horse")).unwrap().current().unwrap();
        let again = open(&disk, &passphrase("correct horse")).unwrap().current().unwrap();
        assert_eq!(first.1.octets(), again.1.octets());
        assert!(matches!(
            open(&disk, &passphrase("correct horsf")),
            Err(KeyringError::Wrong)
        ));
    }

    #[test]
    fn destroyed_generation_is_gone_from_memory_and_file() {
        let disk = SimulatedDisk::default();
        let keyring = create(&disk, &key(1)).unwrap();
        let first = Generation(1);
        assert!(matches!(keyring.destroy(first), Err(ProviderError::Current { .. })));
        assert_eq!(keyring.begin_generation().unwrap(), Generation(2));
        assert_eq!(keyring.current().unwrap().0, Generation(2));
        assert!(keyring.kek(first).is_ok());
        keyring.destroy(first).unwrap();
        assert!(matches!(keyring.kek(first), Err(ProviderError::NoGeneration { .. })));
        assert!(matches!(
            keyring.destroy(first),
            Err(ProviderError::NoGeneration { .. })
        ));
        let again = open(&disk, &key(1)).unwrap();
        assert_eq!(numbers(&again), [2]);
        assert_eq!(again.begin_generation().unwrap(), Generation(3));
    }

    #[test]
    fn key_that_is_not_durable_is_never_used() {
        let disk = SimulatedDisk::default();
        let keyring = create(&disk, &key(1)).unwrap();
        disk.cut_power_after(0);
        assert!(keyring.begin_generation().is_err());
        assert_eq!(keyring.current().unwrap().0, Generation(1));
        assert_eq!(numbers(&open(&disk.restart(1), &key(1)).unwrap()), [1]);
    }

    #[test]
    fn cost_beyond_reason_is_refused_before_it_is_paid() {
        let file = File {
            format: FORMAT.to_owned(),
            protector: Protector::Passphrase {
                salt: [0; 16],
                cost: ArgonCost {
                    memory_kib: u32::MAX,
                    passes: 3,
                    lanes: 1,
                },
            },
            nonce: [0; 24],
            sealed: vec![0; 100],
        };
        let octets = minicbor::to_vec(&file).unwrap();
        assert!(matches!(
            check_octets(&octets, &passphrase("x")),
            Err(KeyringError::Format { .. })
        ));
    }

    /// Every bit of the file and every length of it, the octet that makes its map an array among them.
    #[test]
    fn changed_file_never_opens() {
        let disk = SimulatedDisk::default();
        drop(create(&disk, &key(1)).unwrap());
        let octets = disk.read(FILE).unwrap();
        assert!(check_octets(&octets, &key(1)).is_ok());
        for place in 0..octets.len() {
            for bit in 0..8 {
                let mut changed = octets.clone();
                changed[place] ^= 1 << bit;
                assert!(check_octets(&changed, &key(1)).is_err(), "octet {place} bit {bit}");
            }
            assert!(
                check_octets(&octets[..place], &key(1)).is_err(),
                "cut to {place} octets"
            );
        }
    }

    #[test]
    fn keyring_keeps_the_rules_of_providers() {
        let disk = SimulatedDisk::default();
        crate::vault::conformance::check(|| match open(&disk, &key(1)) {
            Ok(keyring) => Box::new(keyring),
            Err(_) => Box::new(create(&disk, &key(1)).unwrap()),
        });
    }

    proptest! {
        #[test]
        fn any_octets_are_refused_without_a_panic(octets: Vec<u8>) {
            prop_assert!(check_octets(&octets, &key(1)).is_err());
        }
    }

    /// The environment is the process's, so the test runs itself in one of its own, as systemd starts a service.
    #[test]
    fn credential_of_systemd_opens_the_keyring() {
        if std::env::var_os("CREDENTIALS_DIRECTORY").is_some() {
            let secret = Secret::from_credential("keyring").unwrap();
            let disk = SimulatedDisk::default();
            drop(create(&disk, &secret).unwrap());
            assert!(open(&disk, &key(5)).is_ok());
            assert!(matches!(
                Secret::from_credential("another"),
                Err(KeyringError::Secret { .. })
            ));
            return;
        }
        assert!(matches!(
            Secret::from_credential("keyring"),
            Err(KeyringError::NoCredentials { .. })
        ));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("keyring"), [5; 32]).unwrap();
        let inside = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "vault::keyring::tests::credential_of_systemd_opens_the_keyring",
            ])
            .env("CREDENTIALS_DIRECTORY", dir.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&inside.stdout);
        assert!(inside.status.success() && told.contains("1 passed"), "{told}");
    }

    #[test]
    fn secrets_are_read_in_both_shapes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, [5; 32]).unwrap();
        assert!(matches!(Secret::from_key_file(&path), Ok(Secret::Key(key)) if *key == [5; 32]));
        std::fs::write(&path, format!("{}\n", "05".repeat(32))).unwrap();
        assert!(matches!(Secret::from_key_file(&path), Ok(Secret::Key(key)) if *key == [5; 32]));
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(
            Secret::from_key_file(&path),
            Err(KeyringError::KeyShape { .. })
        ));
        assert!(matches!(Secret::from_passphrase_file(&path), Ok(Secret::Passphrase(text)) if *text == "short"));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(
            Secret::from_passphrase_file(&path),
            Err(KeyringError::EmptyPassphrase { .. })
        ));
    }
}
