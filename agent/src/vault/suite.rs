//! Named ways to encrypt a chunk.
//!
//! A suite turns (key, nonce prefix, chunk number, last flag, associated data, plaintext) into ciphertext and a tag.
//! Levels 2 (key commitment, Padmé padding) and 3 (cascade with AES-256-GCM-SIV) become further variants here; an old
//! release meets their numbers as [`VaultError::Suite`].

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zones::Level;

use super::VaultError;
use super::envelope::{Dek, PREFIX_OCTETS};

/// Octets of a chunk's tag.
pub const TAG_OCTETS: usize = 16;

/// A way to encrypt chunks. The number is what index entries say.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Suite {
    /// Number 1, level 1: XChaCha20-Poly1305 in the STREAM construction. Secrecy and integrity against whoever holds the
    /// disk but not the keyring.
    XChaCha20Poly1305,
    /// Number 0: no encryption, a keyed BLAKE3 tag. Only for the control run that shows that a search of the disk finds
    /// what is not encrypted; builds without the feature `plaintext-control` do not know it and refuse its data.
    #[cfg(feature = "plaintext-control")]
    PlaintextControl,
}

impl Suite {
    /// The suite that new streams of this level use.
    pub(crate) fn of_level(level: Level) -> Result<Suite, VaultError> {
        #[cfg(feature = "plaintext-control")]
        if std::env::var_os("HYPERNET_PLAINTEXT_CONTROL").is_some_and(|value| value == "1") {
            return Ok(Suite::PlaintextControl);
        }
        match level {
            Level(1) => Ok(Suite::XChaCha20Poly1305),
            level => Err(VaultError::Level { level }),
        }
    }

    /// Its number in an index entry.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Suite::XChaCha20Poly1305 => 1,
            #[cfg(feature = "plaintext-control")]
            Suite::PlaintextControl => 0,
        }
    }

    /// The suite of a number.
    ///
    /// # Errors
    ///
    /// [`VaultError::Suite`] for a number this build does not know.
    pub fn from_number(suite: u8) -> Result<Suite, VaultError> {
        match suite {
            1 => Ok(Suite::XChaCha20Poly1305),
            #[cfg(feature = "plaintext-control")]
            0 => Ok(Suite::PlaintextControl),
            suite => Err(VaultError::Suite { suite }),
        }
    }
}

/// A suite with its key, for the chunks of one stream.
pub(crate) struct Cipher {
    prefix: [u8; PREFIX_OCTETS],
    keyed: Keyed,
}

enum Keyed {
    // The crate wipes its key when dropped. HChaCha20 makes the same subkey for every chunk of a stream, so a faster
    // path (one subkey, then any ChaCha20-Poly1305) gives the same octets and fits behind this variant.
    XChaCha(Box<XChaCha20Poly1305>),
    #[cfg(feature = "plaintext-control")]
    Plaintext(Box<Dek>),
}

impl Cipher {
    pub(crate) fn new(suite: Suite, dek: &Dek, prefix: [u8; PREFIX_OCTETS]) -> Self {
        let keyed = match suite {
            Suite::XChaCha20Poly1305 => Keyed::XChaCha(Box::new(XChaCha20Poly1305::new(dek.octets().into()))),
            #[cfg(feature = "plaintext-control")]
            Suite::PlaintextControl => Keyed::Plaintext(Box::new(dek.clone())),
        };
        Cipher { prefix, keyed }
    }

    /// Nonce of the STREAM construction (BE32): prefix, chunk number, last flag.
    fn nonce(&self, chunk: u32, last: bool) -> [u8; PREFIX_OCTETS + 5] {
        let mut nonce = [0; PREFIX_OCTETS + 5];
        nonce[..PREFIX_OCTETS].copy_from_slice(&self.prefix);
        nonce[PREFIX_OCTETS..PREFIX_OCTETS + 4].copy_from_slice(&chunk.to_be_bytes());
        nonce[PREFIX_OCTETS + 4] = u8::from(last);
        nonce
    }

    /// Seals `text` in place.
    pub(crate) fn seal(&self, chunk: u32, last: bool, associated: &[u8], text: &mut [u8]) -> [u8; TAG_OCTETS] {
        let nonce = self.nonce(chunk, last);
        match &self.keyed {
            Keyed::XChaCha(cipher) => cipher
                .encrypt_inout_detached(&XNonce::from(nonce), associated, text.into())
                .expect("a chunk is far below the limit of 256 GiB")
                .into(),
            #[cfg(feature = "plaintext-control")]
            Keyed::Plaintext(dek) => control_tag(dek, &nonce, associated, text),
        }
    }

    /// Opens `text` in place; `false` if it, its tag, its number or its associated data was changed. `text` is then
    /// worthless.
    pub(crate) fn open(
        &self,
        chunk: u32,
        last: bool,
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_OCTETS],
    ) -> bool {
        let nonce = self.nonce(chunk, last);
        match &self.keyed {
            Keyed::XChaCha(cipher) => cipher
                .decrypt_inout_detached(&XNonce::from(nonce), associated, text.into(), &Tag::from(*tag))
                .is_ok(),
            #[cfg(feature = "plaintext-control")]
            Keyed::Plaintext(dek) => control_tag(dek, &nonce, associated, text) == *tag,
        }
    }
}

#[cfg(feature = "plaintext-control")]
fn control_tag(dek: &Dek, nonce: &[u8], associated: &[u8], text: &[u8]) -> [u8; TAG_OCTETS] {
    let mut hasher = blake3::Hasher::new_keyed(dek.octets());
    hasher.update(nonce);
    hasher.update(&(associated.len() as u64).to_be_bytes());
    hasher.update(associated);
    hasher.update(text);
    let mut tag = [0; TAG_OCTETS];
    hasher.finalize_xof().fill(&mut tag);
    tag
}
