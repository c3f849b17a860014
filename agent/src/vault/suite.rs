//! Named ways to encrypt a stream.
//!
//! A suite turns (data key, nonce prefix, the stream's associated data) into the keys of one stream, and (chunk number,
//! last flag, plaintext) into a sealed chunk. It says how long chunks and wrapped keys become, how far a stream is padded,
//! and whether the stream commits to its key.
//!
//! | level | suite | adds |
//! | --- | --- | --- |
//! | 1 | XChaCha20-Poly1305 | secrecy and integrity against who holds the disk without the keyring |
//! | 2 | the same under a committed key, padded | a stream opens under one key only; its length tells little |
//! | 3 | AES-256-GCM-SIV inside, XChaCha20-Poly1305 outside | secret and whole while one of the two ciphers stands |
//!
//! Specification: STORE.md section 4. Sources: draft-irtf-cfrg-xchacha-03, RFC 8452 (AES-GCM-SIV), Hoang, Reyhanitabar, Rogaway
//! and Vizár 2015 (STREAM), Albertini, Duong, Gueron, Kölbl, Luykx and Schmieg 2022 (commitment by the key derivation), Nikitin,
//! Barman, Lueks, Underwood, Hubaux and Ford 2019 (Padmé).

use std::fmt;

use aes_gcm_siv::Aes256GcmSiv;
use chacha20::{R20, hchacha};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};
use zones::Level;

use super::VaultError;
use super::envelope::{CHUNK_OCTETS, Dek, PREFIX_OCTETS, chunks_of};

/// Octets of the tag of one cipher.
pub const TAG_OCTETS: usize = 16;

/// Octets of a chunk's nonce: prefix, chunk number (4), last flag (1).
pub(crate) const NONCE_OCTETS: usize = PREFIX_OCTETS + 5;

/// Octets of a cipher's key.
const KEY_OCTETS: usize = 32;

/// Octets of a [`Commitment`].
const COMMITMENT_OCTETS: usize = 32;

/// What the keys of a level-2 stream are derived for (BLAKE3 `derive_key`).
const KEYS_2: &str = "hypernet agent suite 2: commitment and key of one stream";
/// What the keys of a level-3 stream are derived for.
const KEYS_3: &str = "hypernet agent suite 3: commitment and keys of one stream";
/// What the keys that wrap a level-3 data key are derived for.
const WRAP_3: &str = "hypernet agent suite 3: keys that wrap a data key";

/// A way to encrypt streams. The number is what index entries say.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Suite {
    /// Number 1, level 1: XChaCha20-Poly1305 in the STREAM construction. Secrecy and integrity against whoever holds the
    /// disk but not the keyring.
    XChaCha20Poly1305,
    /// Number 2, level 2: the same cipher under a key that is derived together with a [`Commitment`], over a stream padded by
    /// [`padme`].
    Committed,
    /// Number 3, level 3: as level 2, and each chunk is sealed by AES-256-GCM-SIV first, under a key of its own. So is the
    /// wrapped data key.
    Cascade,
    /// Number 0: no encryption, a keyed BLAKE3 tag. Only for the control run that shows that a search of the disk finds
    /// what is not encrypted. No release has it; a development build knows it only in a process that [`is_control_run`],
    /// and refuses its data in every other.
    #[cfg(debug_assertions)]
    PlaintextControl,
}

/// Lowest and highest level that this release knows.
pub const LEVELS: std::ops::RangeInclusive<Level> = Level(1)..=Level(3);

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
    ///
    /// # Errors
    ///
    /// [`VaultError::Level`] for a level that this release does not know.
    pub fn of_level(level: Level) -> Result<Suite, VaultError> {
        let suite = match level {
            Level(1) => Suite::XChaCha20Poly1305,
            Level(2) => Suite::Committed,
            Level(3) => Suite::Cascade,
            level => return Err(VaultError::Level { level }),
        };
        #[cfg(debug_assertions)]
        if is_control_run() {
            return Ok(Suite::PlaintextControl);
        }
        Ok(suite)
    }

    /// Its number in an index entry.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Suite::XChaCha20Poly1305 => 1,
            Suite::Committed => 2,
            Suite::Cascade => 3,
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
            2 => Ok(Suite::Committed),
            3 => Ok(Suite::Cascade),
            #[cfg(debug_assertions)]
            0 if is_control_run() => Ok(Suite::PlaintextControl),
            suite => Err(VaultError::Suite { suite }),
        }
    }

    /// Octets that a chunk, or a wrapped data key, is longer than its plaintext.
    pub(crate) fn tag_octets(self) -> usize {
        match self {
            Suite::XChaCha20Poly1305 | Suite::Committed => TAG_OCTETS,
            Suite::Cascade => 2 * TAG_OCTETS,
            #[cfg(debug_assertions)]
            Suite::PlaintextControl => TAG_OCTETS,
        }
    }

    /// Octets of a full chunk on disk: chunk `n` of a stream begins at `n` times this.
    pub(crate) fn sealed_chunk_octets(self) -> usize {
        CHUNK_OCTETS + self.tag_octets()
    }

    /// Whether streams are padded, so that their true length is a secret that lies with the wrapped data key.
    pub(crate) fn pads(self) -> bool {
        match self {
            Suite::XChaCha20Poly1305 => false,
            Suite::Committed | Suite::Cascade => true,
            #[cfg(debug_assertions)]
            Suite::PlaintextControl => false,
        }
    }

    /// Octets that a stream's chunks hold: its plaintext, and padding where the suite pads.
    #[must_use]
    pub fn padded_octets(self, plain_octets: u64) -> u64 {
        if self.pads() { padme(plain_octets) } else { plain_octets }
    }

    /// Octets that a stream takes on disk whose chunks hold so many, padding included.
    #[must_use]
    pub fn sealed_octets(self, padded_octets: u64) -> u64 {
        padded_octets + chunks_of(padded_octets) * self.tag_octets() as u64
    }

    /// Octets that one or two streams of so much plaintext together take on disk at most, but for what the second rounds up.
    pub(crate) fn sealed_octets_max(self, plain_octets: u64) -> u64 {
        let padding = if self.pads() { plain_octets.div_ceil(8) } else { 0 };
        self.sealed_octets(plain_octets + padding)
    }
}

/// The length that a length is padded to (PURBs, algorithm Padmé): a length of `n` bits keeps as many leading bits as `n` has
/// bits, so it tells about log log instead of log of itself. At most an eighth longer (129 octets become 144), and less the
/// longer it is.
#[must_use]
pub fn padme(octets: u64) -> u64 {
    if octets < 2 {
        return octets;
    }
    let exponent = octets.ilog2();
    let kept = exponent.ilog2() + 1;
    let step = 1 << (exponent - kept);
    octets.next_multiple_of(step)
}

/// What the key derivation gives out openly beside a stream's secret keys: there is no second data key, nor other associated data
/// or prefix, with the same one (that would be a collision of BLAKE3), so a stream whose row names it opens under one key
/// only.
#[derive(Clone, Copy, Eq, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Commitment(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; COMMITMENT_OCTETS]);

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// A suite with its keys, for the chunks of one stream.
pub(crate) struct Cipher {
    prefix: [u8; PREFIX_OCTETS],
    commitment: Option<Commitment>,
    keyed: Keyed,
}

enum Keyed {
    XChaCha(XChaCha),
    Cascade(Cascade),
    #[cfg(debug_assertions)]
    Plaintext(Box<Dek>),
}

/// XChaCha20-Poly1305 for nonces that share their first 16 octets.
///
/// HChaCha20 makes a subkey of key and these octets (draft-irtf-cfrg-xchacha section 2.3). All chunks of a stream share
/// them, so it is made once; ring's ChaCha20-Poly1305 under it then gives the very octets of XChaCha20-Poly1305, faster than
/// the generic crate (`cargo run --release -p agent --example suites` shows the ratio).
struct XChaCha(Box<LessSafeKey>);

impl XChaCha {
    fn new(key: &[u8; KEY_OCTETS], first: &[u8; 16]) -> Self {
        let mut subkey = hchacha::<R20>(key.into(), first.into());
        let key = XChaCha(Box::new(ring_key(&subkey)));
        subkey.as_mut_slice().zeroize();
        key
    }

    fn seal(&self, nonce: &[u8; NONCE_OCTETS], associated: &[u8], text: &mut [u8]) -> [u8; TAG_OCTETS] {
        (self.0)
            .seal_in_place_separate_tag(short(nonce), Aad::from(associated), text)
            .expect("a chunk is far below the limit of 256 GiB")
            .as_ref()
            .try_into()
            .expect("a tag has 16 octets")
    }

    /// Opens text and tag.
    fn open(&self, nonce: &[u8; NONCE_OCTETS], associated: &[u8], sealed: &mut [u8]) -> bool {
        (self.0)
            .open_in_place(short(nonce), Aad::from(associated), sealed)
            .is_ok()
    }
}

impl Drop for XChaCha {
    fn drop(&mut self) {
        // ring does not wipe its keys: put another in the same place, and let the compiler believe that it is looked at.
        *self.0 = ring_key(&[0; KEY_OCTETS]);
        std::hint::black_box(&self.0);
    }
}

fn ring_key(octets: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, octets).expect("a key has 32 octets"))
}

/// The nonce under the subkey: four zeros, then the last eight octets.
fn short(nonce: &[u8; NONCE_OCTETS]) -> Nonce {
    let mut short = [0; 12];
    short[4..].copy_from_slice(&nonce[16..]);
    Nonce::assume_unique_for_key(short)
}

/// Two ciphers of different make, one around the other, each with its own key and tag: text and tag of AES-256-GCM-SIV are the
/// text of XChaCha20-Poly1305.
pub(crate) struct Cascade {
    inner: Box<Aes256GcmSiv>,
    outer: XChaCha,
}

impl Cascade {
    fn new(inner: &[u8; KEY_OCTETS], outer: &[u8; KEY_OCTETS], first: &[u8; 16]) -> Self {
        Cascade {
            inner: Box::new(Aes256GcmSiv::new(inner.into())),
            outer: XChaCha::new(outer, first),
        }
    }

    /// The ciphers that wrap one level-3 data key: their keys serve this nonce only.
    pub(crate) fn of_wrap(kek: &[u8; KEY_OCTETS], nonce: &[u8; NONCE_OCTETS]) -> Self {
        let mut keys = Zeroizing::new([0; 2 * KEY_OCTETS]);
        derive(WRAP_3, &[kek, nonce], keys.as_mut_slice());
        let (inner, outer) = halves(&keys);
        Cascade::new(inner, outer, nonce.first_chunk().expect("24 octets"))
    }

    /// Seals what `out` has from `from` on, and appends both tags.
    pub(crate) fn seal(&self, nonce: &[u8; NONCE_OCTETS], associated: &[u8], out: &mut Vec<u8>, from: usize) {
        let tag = (self.inner)
            .encrypt_inout_detached(inner_nonce(nonce).into(), associated, (&mut out[from..]).into())
            .expect("a chunk is far below the limit of 64 GiB");
        out.extend_from_slice(&tag);
        let tag = self.outer.seal(nonce, associated, &mut out[from..]);
        out.extend_from_slice(&tag);
    }

    /// Opens text and both tags; `false` if anything was changed.
    pub(crate) fn open(&self, nonce: &[u8; NONCE_OCTETS], associated: &[u8], sealed: &mut [u8]) -> bool {
        if !self.outer.open(nonce, associated, sealed) {
            return false;
        }
        let within = sealed.len() - TAG_OCTETS;
        (sealed[..within].split_last_chunk_mut::<TAG_OCTETS>()).is_some_and(|(text, tag)| {
            let tag = &aes_gcm_siv::Tag::from(*tag);
            (self.inner)
                .decrypt_inout_detached(inner_nonce(nonce).into(), associated, text.into(), tag)
                .is_ok()
        })
    }
}

/// The nonce of the inner cipher: the last 12 octets, chunk number and last flag among them. Its key serves one prefix only.
fn inner_nonce(nonce: &[u8; NONCE_OCTETS]) -> &[u8; 12] {
    nonce.last_chunk().expect("24 octets")
}

/// Fills `out` with octets that follow from `context` and `inputs`, each of a length fixed by the context but the last.
fn derive(context: &str, inputs: &[&[u8]], out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for input in inputs {
        hasher.update(input);
    }
    let mut reader = hasher.finalize_xof();
    reader.fill(out);
    reader.zeroize();
    hasher.zeroize();
}

fn halves(keys: &[u8; 2 * KEY_OCTETS]) -> (&[u8; KEY_OCTETS], &[u8; KEY_OCTETS]) {
    (
        keys.first_chunk().expect("64 octets"),
        keys.last_chunk().expect("64 octets"),
    )
}

impl Cipher {
    /// The keys of a stream. `stream` is what its chunks are bound to, but for their numbers.
    pub(crate) fn new(suite: Suite, dek: &Dek, prefix: [u8; PREFIX_OCTETS], stream: &[u8]) -> Self {
        let first = prefix.first_chunk().expect("19 octets");
        let (commitment, keyed) = match suite {
            Suite::XChaCha20Poly1305 => (None, Keyed::XChaCha(XChaCha::new(dek.octets(), first))),
            Suite::Committed => {
                let mut out = Zeroizing::new([0; COMMITMENT_OCTETS + KEY_OCTETS]);
                derive(KEYS_2, &[dek.octets(), &prefix, stream], out.as_mut_slice());
                let (commitment, key) = halves(&out);
                (Some(Commitment(*commitment)), Keyed::XChaCha(XChaCha::new(key, first)))
            }
            Suite::Cascade => {
                let mut out = Zeroizing::new([0; COMMITMENT_OCTETS + 2 * KEY_OCTETS]);
                derive(KEYS_3, &[dek.octets(), &prefix, stream], out.as_mut_slice());
                let commitment = *out.first_chunk().expect("96 octets");
                let (outer, inner) = halves(out.last_chunk().expect("96 octets"));
                (
                    Some(Commitment(commitment)),
                    Keyed::Cascade(Cascade::new(inner, outer, first)),
                )
            }
            #[cfg(debug_assertions)]
            Suite::PlaintextControl => (None, Keyed::Plaintext(Box::new(dek.clone()))),
        };
        Cipher {
            prefix,
            commitment,
            keyed,
        }
    }

    /// What the row has to say of the key; nothing at level 1.
    pub(crate) fn commitment(&self) -> Option<Commitment> {
        self.commitment
    }

    /// Nonce of the STREAM construction (BE32): prefix, chunk number, last flag.
    fn nonce(&self, chunk: u32, last: bool) -> [u8; NONCE_OCTETS] {
        let mut nonce = [0; NONCE_OCTETS];
        nonce[..PREFIX_OCTETS].copy_from_slice(&self.prefix);
        nonce[PREFIX_OCTETS..PREFIX_OCTETS + 4].copy_from_slice(&chunk.to_be_bytes());
        nonce[PREFIX_OCTETS + 4] = u8::from(last);
        nonce
    }

    /// Seals in place what `out` has from `from` on, and appends what belongs behind it.
    pub(crate) fn seal(&self, chunk: u32, last: bool, associated: &[u8], out: &mut Vec<u8>, from: usize) {
        let nonce = self.nonce(chunk, last);
        match &self.keyed {
            Keyed::XChaCha(cipher) => {
                let tag = cipher.seal(&nonce, associated, &mut out[from..]);
                out.extend_from_slice(&tag);
            }
            Keyed::Cascade(cascade) => cascade.seal(&nonce, associated, out, from),
            #[cfg(debug_assertions)]
            Keyed::Plaintext(dek) => {
                let tag = control_tag(dek, &nonce, associated, &out[from..]);
                out.extend_from_slice(&tag);
            }
        }
    }

    /// Opens a sealed chunk in place; its first octets are then plaintext, all but those of the tags. `false` if they, the
    /// tags, the number or the associated data were changed; `sealed` is then worthless.
    pub(crate) fn open(&self, chunk: u32, last: bool, associated: &[u8], sealed: &mut [u8]) -> bool {
        let nonce = self.nonce(chunk, last);
        match &self.keyed {
            Keyed::XChaCha(cipher) => cipher.open(&nonce, associated, sealed),
            Keyed::Cascade(cascade) => cascade.open(&nonce, associated, sealed),
            #[cfg(debug_assertions)]
            Keyed::Plaintext(dek) => sealed
                .split_last_chunk::<TAG_OCTETS>()
                .is_some_and(|(text, tag)| control_tag(dek, &nonce, associated, text) == *tag),
        }
    }
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
mod tests;
