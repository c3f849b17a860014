//! Encryption of what the store keeps: keys, envelope, suites and the keyring.
//!
//! ```text
//!  keyring file --passphrase or key--> KEK of a generation --unwraps--> DEK of one stream --opens--> 64 KiB chunks
//! ```
//!
//! This module knows neither disk blocks nor the index: it turns plaintext into sealed chunks and back, wraps data keys
//! with what an entry says bound to them, and digests plaintext under the pool's key. Keys are wiped when dropped and
//! never printed.
//!
//! Specification: DESIGN.md section 9, STORE.md sections 4 to 7.

pub mod conformance;
pub mod entropy;
pub mod envelope;
pub mod guarded;
pub mod harden;
pub mod keyring;
pub mod pkcs11;
pub mod properties;
pub mod provider;
pub mod suite;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};
use zones::{Address, Given, Level};

pub use entropy::{Entropy, SystemEntropy};
pub use envelope::{Binding, Dek, Opener, Part, Sealer, StreamId, StreamKey, WrappedDek};
pub use guarded::Guarded;
pub use keyring::{Keyring, KeyringError, Secret};
pub use provider::{Generation, Kek, KeyProvider, Known, ProviderError};
pub use suite::{Commitment, Suite};

/// Key of all digests of the pool (BLAKE3 keyed mode), so that digests confirm no guesses. Equal on every server.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PoolKey([u8; 32]);

impl PoolKey {
    /// Takes the 32 octets.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Self {
        PoolKey(octets)
    }

    /// Reads the text form: 64 hexadecimal digits, as in the file `pool.key`.
    ///
    /// # Errors
    ///
    /// [`VaultError::PoolKey`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, VaultError> {
        let octets = Zeroizing::new(
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(text.trim().as_bytes())
                .map_err(|_| VaultError::PoolKey)?,
        );
        Ok(PoolKey(octets.as_slice().try_into().map_err(|_| VaultError::PoolKey)?))
    }

    /// Reads the file `pool.key`.
    ///
    /// # Errors
    ///
    /// [`VaultError::PoolKeyFile`], [`VaultError::PoolKey`].
    pub fn from_file(path: &Path) -> Result<Self, VaultError> {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|source| VaultError::PoolKeyFile {
            path: path.to_owned(),
            source,
        })?);
        PoolKey::from_hex(&text)
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolKey(..)")
    }
}

/// BLAKE3 digest of one part of an object, keyed by the pool's key. It survives re-encryption.
#[derive(Clone, Copy, Eq, Hash, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Digest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Adds plaintext.
    pub fn update(&mut self, plaintext: &[u8]) {
        self.0.update(plaintext);
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        // Its state holds the pool's key and the last plaintext.
        self.0.zeroize();
    }
}

/// Why the vault could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The text is not 64 hexadecimal digits.
    #[error("pool key is not 64 hexadecimal digits: copy pool.key from the librarian again (agent join does it)")]
    PoolKey,
    /// The file cannot be read.
    #[error("read pool key {path}")]
    PoolKeyFile {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key provider does not answer, or does not know a generation.
    #[error("get a key-encryption key")]
    Provider(#[from] ProviderError),
    /// A wrapped data key does not open: it was changed, belongs to another entry, or to another generation.
    #[error("data key of stream {stream} does not open under generation {generation}: the index entry is damaged")]
    Wrapped {
        /// The stream.
        stream: StreamId,
        /// The KEK's generation.
        generation: Generation,
    },
    /// The data key is not the one that the stream was sealed under, though it may open it: the row was put together from two.
    #[error(
        "stream {stream} is committed to another data key: the index entry is forged or damaged; ask another holder"
    )]
    Commitment {
        /// The stream.
        stream: StreamId,
    },
    /// This build does not know the suite.
    #[error(
        "suite {suite} needs a release that knows it; this one, {RELEASE}, knows suites 1 to 3: run the release that wrote it, \
         or a later one"
    )]
    Suite {
        /// Its number.
        suite: u8,
    },
    /// No suite has this level.
    #[error(
        "level {level} needs a release that knows it; this one, {RELEASE}, knows levels 1 to 3: upgrade this server before its \
         pool asks for that level"
    )]
    Level {
        /// The level asked for.
        level: Level,
    },
    /// The pool asks for more.
    #[error(
        "level {level} is below the pool's floor, level {floor}: move the object from a server that keeps it at that level, or \
         write it anew"
    )]
    BelowFloor {
        /// The level of what came.
        level: Level,
        /// The lowest that is taken.
        floor: Level,
    },
}

impl VaultError {
    /// What a client is told, where the key provider does not answer and asking again later helps.
    #[must_use]
    pub fn outage(&self) -> Option<&'static str> {
        match self {
            VaultError::Provider(error) => error.outage(),
            VaultError::PoolKey
            | VaultError::PoolKeyFile { .. }
            | VaultError::Wrapped { .. }
            | VaultError::Commitment { .. }
            | VaultError::Suite { .. }
            | VaultError::Level { .. }
            | VaultError::BelowFloor { .. } => None,
        }
    }
}

/// The release that errors name.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// What the pool asks of an object's encryption.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Levels {
    /// Below it no data is taken in from others.
    floor: Level,
    /// What new objects, and objects that arrive by a move, are sealed at; never below their own.
    wanted: Level,
}

impl Default for Levels {
    fn default() -> Self {
        let lowest = *suite::LEVELS.start();
        Levels {
            floor: lowest,
            wanted: lowest,
        }
    }
}

impl Levels {
    /// New streams at `wanted`, nothing below `floor` taken.
    ///
    /// # Errors
    ///
    /// [`VaultError::Level`] for a level that this release does not know; [`VaultError::BelowFloor`] where the floor is above
    /// what is wanted.
    pub fn new(floor: Level, wanted: Level) -> Result<Self, VaultError> {
        Suite::of_level(floor)?;
        Suite::of_level(wanted)?;
        if wanted < floor {
            return Err(VaultError::BelowFloor { level: wanted, floor });
        }
        Ok(Levels { floor, wanted })
    }

    /// What new streams are sealed at.
    #[must_use]
    pub fn wanted(self) -> Level {
        self.wanted
    }

    /// The level that data of `level` is sealed at here: its own, or the higher one that is wanted.
    ///
    /// # Errors
    ///
    /// [`VaultError::BelowFloor`], [`VaultError::Level`]: such data is not to be taken.
    pub fn admit(self, level: Level) -> Result<Level, VaultError> {
        if level < self.floor {
            return Err(VaultError::BelowFloor {
                level,
                floor: self.floor,
            });
        }
        Suite::of_level(level)?;
        Ok(level.max(self.wanted))
    }
}

/// Keys of one agent, ready for use.
#[derive(Debug)]
pub struct Vault {
    provider: Box<dyn KeyProvider>,
    pool_key: PoolKey,
    entropy: Arc<dyn Entropy>,
}

impl Vault {
    /// A vault over a key provider and the pool's digest key, with the system's randomness.
    #[must_use]
    pub fn new(provider: Box<dyn KeyProvider>, pool_key: PoolKey) -> Self {
        Vault::with_entropy(provider, pool_key, Arc::new(SystemEntropy))
    }

    /// The same with another source of randomness, for simulation.
    #[must_use]
    pub fn with_entropy(provider: Box<dyn KeyProvider>, pool_key: PoolKey, entropy: Arc<dyn Entropy>) -> Self {
        Vault {
            provider,
            pool_key,
            entropy,
        }
    }

    /// Where random octets come from.
    #[must_use]
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// The provider of key-encryption keys.
    #[must_use]
    pub fn provider(&self) -> &dyn KeyProvider {
        self.provider.as_ref()
    }

    /// A fresh digest.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        Hasher(blake3::Hasher::new_keyed(&self.pool_key.0))
    }

    /// The digest of `plaintext`.
    #[must_use]
    pub fn digest(&self, plaintext: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.pool_key.0, plaintext).as_bytes())
    }

    /// What stands for a move in a sum of moves (PROTOCOL.md section 4).
    #[must_use]
    pub fn element(&self, given: &Given) -> u128 {
        Given::element(&self.digest(&given.octets()).0)
    }

    /// Begins a stream: new id, new data key, new nonce prefix, never used for another.
    ///
    /// # Errors
    ///
    /// [`VaultError::Level`] when this release has no suite of that level.
    pub fn seal(&self, address: &Address, part: Part, level: Level) -> Result<Sealer, VaultError> {
        let suite = Suite::of_level(level)?;
        Ok(Sealer::new(
            self.entropy.as_ref(),
            suite,
            address,
            part,
            level,
            self.hasher(),
        ))
    }

    /// Wraps a stream's key under the current generation, bound to what `binding` says.
    ///
    /// # Errors
    ///
    /// [`VaultError::Provider`].
    pub fn wrap(&self, key: &StreamKey, binding: &Binding<'_>) -> Result<(Generation, WrappedDek), VaultError> {
        let (generation, kek) = self.provider.current()?;
        Ok((
            generation,
            envelope::wrap(self.entropy.as_ref(), &kek, generation, key, binding),
        ))
    }

    /// Opens a wrapped data key.
    ///
    /// # Errors
    ///
    /// [`VaultError::Provider`], [`VaultError::Wrapped`].
    pub fn unwrap(
        &self,
        generation: Generation,
        wrapped: &WrappedDek,
        binding: &Binding<'_>,
    ) -> Result<StreamKey, VaultError> {
        let kek = self.provider.kek(generation)?;
        envelope::unwrap(&kek, generation, wrapped, binding)
    }
}
