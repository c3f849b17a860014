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

/// A generation whose key exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Known {
    /// Its number.
    pub generation: Generation,
    /// When its key was made.
    pub made_unix_s: u64,
}

/// Why a provider gave no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// This generation was destroyed, or never was here.
    #[error("no key of generation {generation}: it was destroyed, or the keys are older than the index")]
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
    #[error("key provider {provider} does not answer")]
    Unavailable {
        /// Its name in the settings.
        provider: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ProviderError {
    /// What a client is told, where asking again later helps.
    #[must_use]
    pub fn outage(&self) -> Option<&'static str> {
        match self {
            ProviderError::NoGeneration { .. } | ProviderError::Current { .. } => None,
            ProviderError::Unavailable {
                provider: "keyring", ..
            } => Some("this server's key provider, keyring, does not answer"),
            ProviderError::Unavailable { provider: "pkcs11", .. } => {
                Some("this server's key provider, pkcs11, does not answer")
            }
            ProviderError::Unavailable { .. } => Some("this server's key provider does not answer"),
        }
    }
}

/// Keeps the key-encryption keys of one server: where an HSM, or Cerberus, plugs in.
///
/// A provider of another make keeps these rules, which [`super::conformance`] tests:
///
/// - Numbers of generations rise from 1 by 1 or more and are never given again, not even after a crash or reopening.
/// - The current generation is the highest. There always is one.
/// - A generation's KEK is 32 octets, the same at every call, after reopening too, and that of no other generation.
/// - What [`KeyProvider::begin_generation`] returns is durable; a crash before leaves the generation before as the current
///   one.
/// - What [`KeyProvider::destroy`] has answered never comes back. A crash in the midst leaves it whole or gone.
/// - "No such key" and "no answer" are different errors: the agent retries the second, and takes the first as final.
///
/// Calls may block and even hang: the agent makes them on a thread of their own and gives up waiting
/// ([`super::guarded::Guarded`]). The provider keeps KEKs wrapped under a key that never leaves it, and unwraps one into the
/// agent's memory when asked; it sees neither data keys nor plaintext.
pub trait KeyProvider: fmt::Debug + Send + Sync {
    /// What it is called in settings, errors and the status.
    fn name(&self) -> &'static str;

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

    /// Generations whose key still exists, rising; the last is the current one.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unavailable`].
    fn generations(&self) -> Result<Vec<Known>, ProviderError>;

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

    /// Whether it answers; `false` where writes are to be refused.
    fn is_up(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A provider of one key that everybody knows.
    #[derive(Debug)]
    pub(crate) struct OneKey;

    impl KeyProvider for OneKey {
        fn name(&self) -> &'static str {
            "one key"
        }

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

        fn generations(&self) -> Result<Vec<Known>, ProviderError> {
            Ok(vec![Known {
                generation: Generation(1),
                made_unix_s: 0,
            }])
        }

        fn begin_generation(&self) -> Result<Generation, ProviderError> {
            Err(ProviderError::Unavailable {
                provider: self.name(),
                source: "there is one key only".into(),
            })
        }

        fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
            Err(ProviderError::Current { generation })
        }
    }
}
