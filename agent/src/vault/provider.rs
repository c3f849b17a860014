//! Who keeps the key-encryption keys.
//!
//! [`KeyProvider`] is the place where a guardian of keys plugs in. The keyring file ([`crate::vault::Keyring`]) is one;
//! an HSM behind PKCS#11, or Cerberus (the Hypernet's guardian of keys), is another: it keeps each generation's KEK
//! wrapped under a key that never leaves it, and unwraps it into this agent's memory when asked. No provider sees a
//! data key or plaintext.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Number of a server's key-encryption key, rising from 1. A generation ends when its key is destroyed; what was wrapped
/// under it alone cannot be opened any more.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Generation(#[n(0)] pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Key-encryption key of one generation: wraps data keys.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Kek([u8; 32]);

impl Kek {
    /// Takes the 32 octets.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Self {
        Kek(octets)
    }

    /// The 32 octets: for a cipher, and for a search that shows where they do *not* lie. They go nowhere else.
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(..)")
    }
}

/// Why a provider gave no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// This generation was destroyed, or never was here.
    #[error("no key of generation {generation}: it was destroyed, or the keyring is older than the index")]
    NoGeneration {
        /// The one asked for.
        generation: Generation,
    },
    /// The current generation cannot be destroyed: begin another first.
    #[error("generation {generation} is the current one: begin another before destroying it")]
    Current {
        /// The one that was to be destroyed.
        generation: Generation,
    },
    /// The guardian does not answer; ask again.
    #[error("key provider does not answer")]
    Unavailable {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Keeps the key-encryption keys of one server. Calls may block; they come from blocking threads.
pub trait KeyProvider: fmt::Debug + Send + Sync {
    /// The generation that wraps new data keys, with its key.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unavailable`].
    fn current(&self) -> Result<(Generation, Kek), ProviderError>;

    /// The key of one generation.
    ///
    /// # Errors
    ///
    /// [`ProviderError::NoGeneration`], [`ProviderError::Unavailable`].
    fn kek(&self, generation: Generation) -> Result<Kek, ProviderError>;

    /// Generations whose key still exists, rising.
    fn generations(&self) -> Vec<Generation>;

    /// Makes a new generation the current one; durable on return.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unavailable`].
    fn begin_generation(&self) -> Result<Generation, ProviderError>;

    /// Destroys a generation's key for ever; durable on return. What it alone wrapped is gone.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Current`], [`ProviderError::NoGeneration`], [`ProviderError::Unavailable`].
    fn destroy(&self, generation: Generation) -> Result<(), ProviderError>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A provider of one key that everybody knows.
    #[derive(Debug)]
    pub(crate) struct OneKey;

    impl KeyProvider for OneKey {
        fn current(&self) -> Result<(Generation, Kek), ProviderError> {
            Ok((Generation(1), Kek::new([3; 32])))
        }

        fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
            if generation == Generation(1) {
                Ok(Kek::new([3; 32]))
            } else {
                Err(ProviderError::NoGeneration { generation })
            }
        }

        fn generations(&self) -> Vec<Generation> {
            vec![Generation(1)]
        }

        fn begin_generation(&self) -> Result<Generation, ProviderError> {
            Err(ProviderError::Unavailable {
                source: "there is one key only".into(),
            })
        }

        fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
            Err(ProviderError::Current { generation })
        }
    }
}
