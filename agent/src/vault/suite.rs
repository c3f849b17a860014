//! Named ways to encrypt a chunk.
//!
//! A suite turns (key, nonce prefix, chunk number, last flag, associated data, plaintext) into ciphertext and a tag.
//! Levels 2 (key commitment, Padmé padding) and 3 (cascade with AES-256-GCM-SIV) become further variants here; an old
//! release meets their numbers as [`VaultError::Suite`].

use chacha20::{R20, hchacha};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;
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
    /// what is not encrypted. No release has it; a development build knows it only in a process that [`is_control_run`],
    /// and refuses its data in every other.
    #[cfg(debug_assertions)]
    PlaintextControl,
}

/// Set to `1`, it makes a process of a development build write without encryption.
#[cfg(debug_assertions)]
const CONTROL: &str = "HYPERNET_PLAINTEXT_CONTROL";

/// Whether this process writes without encryption, so that a search for plaintext on its disk has something to find. Always
/// `false` in a release, whatever the environment says.
#[must_use]
pub fn is_control_run() -> bool {
    #[cfg(debug_assertions)]
    {
        static SET: std::sync::LazyLock<bool> =
            std::sync::LazyLock::new(|| std::env::var_os(CONTROL).is_some_and(|value| value == "1"));
        *SET
    }
    #[cfg(not(debug_assertions))]
    false
}

impl Suite {
    /// The suite that new streams of this level use.
    pub(crate) fn of_level(level: Level) -> Result<Suite, VaultError> {
        #[cfg(debug_assertions)]
        if is_control_run() {
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
            #[cfg(debug_assertions)]
            Suite::PlaintextControl => 0,
        }
    }

    /// The suite of a number.
    ///
    /// # Errors
    ///
    /// [`VaultError::Suite`] for a number this process does not know.
    pub fn from_number(suite: u8) -> Result<Suite, VaultError> {
        match suite {
            1 => Ok(Suite::XChaCha20Poly1305),
            #[cfg(debug_assertions)]
            0 if is_control_run() => Ok(Suite::PlaintextControl),
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
    XChaCha(Box<Subkey>),
    #[cfg(debug_assertions)]
    Plaintext(Box<Dek>),
}

/// What XChaCha20 makes of key and the first 16 octets of the nonce (draft-irtf-cfrg-xchacha section 2.3). All chunks of
/// a stream share these octets, so it is made once; ring's ChaCha20-Poly1305 under it then gives the very octets of
/// XChaCha20-Poly1305, 1.7 times as fast as the generic crate.
struct Subkey(LessSafeKey);

impl Subkey {
    fn new(dek: &Dek, prefix: &[u8; PREFIX_OCTETS]) -> Self {
        let input: [u8; 16] = prefix[..16].try_into().expect("16 octets");
        let mut subkey = hchacha::<R20>(dek.octets().into(), &input.into());
        let key = Subkey::from_octets(&subkey);
        subkey.as_mut_slice().zeroize();
        key
    }

    fn from_octets(octets: &[u8]) -> Self {
        Subkey(LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, octets).expect("a key has 32 octets"),
        ))
    }
}

impl Drop for Subkey {
    fn drop(&mut self) {
        // ring does not wipe its keys: put another in the same place, and let the compiler believe that it is looked at.
        self.0 = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[0; 32]).expect("a key has 32 octets"));
        std::hint::black_box(&self.0);
    }
}

impl Cipher {
    pub(crate) fn new(suite: Suite, dek: &Dek, prefix: [u8; PREFIX_OCTETS]) -> Self {
        let keyed = match suite {
            Suite::XChaCha20Poly1305 => Keyed::XChaCha(Box::new(Subkey::new(dek, &prefix))),
            #[cfg(debug_assertions)]
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
            Keyed::XChaCha(subkey) => (subkey.0)
                .seal_in_place_separate_tag(short(&nonce), Aad::from(associated), text)
                .expect("a chunk is far below the limit of 256 GiB")
                .as_ref()
                .try_into()
                .expect("a tag has 16 octets"),
            #[cfg(debug_assertions)]
            Keyed::Plaintext(dek) => control_tag(dek, &nonce, associated, text),
        }
    }

    /// Opens `sealed`, text and tag, in place; the octets before the tag are then plaintext. `false` if they, the tag, the
    /// number or the associated data were changed; `sealed` is then worthless.
    pub(crate) fn open(&self, chunk: u32, last: bool, associated: &[u8], sealed: &mut [u8]) -> bool {
        let nonce = self.nonce(chunk, last);
        match &self.keyed {
            Keyed::XChaCha(subkey) => (subkey.0)
                .open_in_place(short(&nonce), Aad::from(associated), sealed)
                .is_ok(),
            #[cfg(debug_assertions)]
            Keyed::Plaintext(dek) => sealed
                .split_last_chunk::<TAG_OCTETS>()
                .is_some_and(|(text, tag)| control_tag(dek, &nonce, associated, text) == *tag),
        }
    }
}

/// The nonce under the subkey: four zeros, then the last eight octets.
fn short(nonce: &[u8; PREFIX_OCTETS + 5]) -> Nonce {
    let mut short = [0; 12];
    short[4..].copy_from_slice(&nonce[16..]);
    Nonce::assume_unique_for_key(short)
}

#[cfg(debug_assertions)]
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

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{AeadInOut, KeyInit};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn octets_are_those_of_xchacha20_poly1305(
            key: [u8; 32],
            prefix: [u8; PREFIX_OCTETS],
            chunk: u32,
            last: bool,
            associated in prop::collection::vec(any::<u8>(), 0..80),
            text in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let cipher = Cipher::new(Suite::XChaCha20Poly1305, &Dek::from_octets(key), prefix);
            let mut ours = text.clone();
            let tag = cipher.seal(chunk, last, &associated, &mut ours);
            let mut theirs = text.clone();
            let nonce = XNonce::from(cipher.nonce(chunk, last));
            let reference = XChaCha20Poly1305::new(&key.into())
                .encrypt_inout_detached(&nonce, &associated, theirs.as_mut_slice().into())
                .unwrap();
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(&tag[..], reference.as_slice());
            ours.extend_from_slice(&tag);
            prop_assert!(cipher.open(chunk, last, &associated, &mut ours));
            prop_assert_eq!(&ours[..text.len()], &text[..]);
        }
    }

    #[test]
    fn unknown_suites_and_levels_are_refused() {
        assert!(matches!(Suite::from_number(2), Err(VaultError::Suite { suite: 2 })));
        assert!(matches!(
            Suite::of_level(Level(2)),
            Err(VaultError::Level { level: Level(2) })
        ));
    }

    /// Tests run without the variable, as every agent does outside the control run.
    #[test]
    fn without_the_variable_nothing_is_written_in_the_clear_and_nothing_in_the_clear_is_taken() {
        assert!(!is_control_run());
        assert!(matches!(Suite::of_level(Level(1)), Ok(Suite::XChaCha20Poly1305)));
        assert!(matches!(Suite::from_number(0), Err(VaultError::Suite { suite: 0 })));
    }
}
