//! The envelope: one data key and nonce prefix for each stream, chunks of 64 KiB, and the wrapped data key.
//!
//! A [`Sealer`] is used once, front to back, and gone; there is no way to seal a second stream with its key. An
//! [`Opener`] opens chunks in any order.
//!
//! Specification: STORE.md sections 4 to 6 (octets of nonce, associated data and wrapped key).

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};
use zones::{Address, Epoch, Level};

use super::entropy::{Entropy, array};
use super::provider::{Generation, Kek};
use super::suite::{Cascade, Cipher, Commitment, Suite, TAG_OCTETS};
use super::{Digest, Hasher, VaultError};

/// Octets of plaintext in every chunk but the last, which may have fewer (none in an empty stream).
pub const CHUNK_OCTETS: usize = 64 * 1024;

/// Octets of the nonce prefix; chunk number (4) and last flag (1) make up the rest of the 24.
pub const PREFIX_OCTETS: usize = 19;

/// First octets of a chunk's associated data: which format this is.
const CHUNK_FORMAT: &[u8] = b"hn-chunk-1";

/// First octets of a wrapped data key's associated data.
const WRAP_FORMAT: &[u8] = b"hn-dek-1";

/// Octets of the nonce of a wrapped data key.
const WRAP_NONCE_OCTETS: usize = 24;

/// Chunks of a stream of this many octets, padding included.
#[must_use]
pub fn chunks_of(padded_octets: u64) -> u64 {
    padded_octets.div_ceil(CHUNK_OCTETS as u64).max(1)
}

/// Most plaintext of one stream: chunk numbers have 32 bits.
pub const STREAM_OCTETS_MAX: u64 = (1 << 32) * CHUNK_OCTETS as u64;

/// Which of an object's two streams.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Part {
    /// The properties, canonical JSON.
    #[n(0)]
    Properties,
    /// The body.
    #[n(1)]
    Body,
}

impl Part {
    fn octet(self) -> u8 {
        match self {
            Part::Properties => 0,
            Part::Body => 1,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Properties => "properties",
            Part::Body => "body",
        })
    }
}

/// Random name of one stream.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct StreamId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Data key of one stream of one copy. Lives in memory only while it is used.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Dek(Box<[u8; 32]>);

impl Dek {
    #[cfg(test)]
    pub(crate) fn from_octets(octets: [u8; 32]) -> Self {
        Dek(Box::new(octets))
    }

    /// The 32 octets: for a cipher, and for a search that shows where they do *not* lie. They go nowhere else.
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek(..)")
    }
}

/// What is wrapped: a stream's data key and, where the suite pads, how long the stream truly is.
#[derive(Clone, Debug)]
pub struct StreamKey {
    /// The data key.
    pub dek: Dek,
    /// Octets of the plaintext.
    pub plain_octets: u64,
}

/// A [`StreamKey`], wrapped by a KEK: nonce (24 octets), sealed key and length, tags of the suite.
#[derive(Clone, Eq, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct WrappedDek(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

impl fmt::Debug for WrappedDek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedDek({} octets)", self.0.len())
    }
}

/// What identifies a stream to its chunks and to its wrapped key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamBinding {
    /// The stream.
    pub id: StreamId,
    /// Octets of its chunks' content: the plaintext, and padding where the suite pads.
    pub padded_octets: u64,
    /// Digest of its plaintext.
    pub digest: Digest,
}

/// What a wrapped data key is bound to: everything an entry says of the object that must not be changed behind its
/// back. Chunks are not bound to it, so a promotion wraps the key anew and leaves them alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding<'a> {
    /// Whose stream.
    pub address: &'a Address,
    /// Which stream of the two the key belongs to.
    pub part: Part,
    /// How it is encrypted.
    pub suite: Suite,
    /// The object's level.
    pub level: Level,
    /// The epoch of the entry.
    pub epoch: Epoch,
    /// The revision of the entry.
    pub revision: u64,
    /// The schema version of the entry.
    pub schema: u32,
    /// The properties, if the entry has some.
    pub properties: Option<StreamBinding>,
    /// The body, if the entry has one.
    pub body: Option<StreamBinding>,
}

impl Binding<'_> {
    /// Associated data of the wrapped key: fixed-width fields, so no two bindings have the same octets.
    fn associated(&self, generation: Generation) -> Vec<u8> {
        let address = self.address.as_str().as_bytes();
        let mut out = Vec::with_capacity(WRAP_FORMAT.len() + 32 + address.len() + 2 * 57);
        out.extend_from_slice(WRAP_FORMAT);
        out.extend_from_slice(&generation.0.to_be_bytes());
        out.push(self.suite.number());
        out.push(self.level.0);
        out.push(self.part.octet());
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.extend_from_slice(&self.schema.to_be_bytes());
        push_address(&mut out, address);
        for stream in [&self.properties, &self.body] {
            match stream {
                None => out.push(0),
                Some(stream) => {
                    out.push(1);
                    out.extend_from_slice(&stream.id.0);
                    out.extend_from_slice(&stream.padded_octets.to_be_bytes());
                    out.extend_from_slice(&stream.digest.0);
                }
            }
        }
        out
    }

    /// The stream that the key belongs to.
    fn stream(&self) -> Option<StreamBinding> {
        match self.part {
            Part::Properties => self.properties,
            Part::Body => self.body,
        }
    }
}

fn push_address(out: &mut Vec<u8>, address: &[u8]) {
    out.push(u8::try_from(address.len()).expect("an address has at most 247 octets"));
    out.extend_from_slice(address);
}

/// Wraps `key` under `kek`.
pub(crate) fn wrap(
    entropy: &dyn Entropy,
    kek: &Kek,
    generation: Generation,
    key: &StreamKey,
    binding: &Binding<'_>,
) -> WrappedDek {
    let nonce: [u8; WRAP_NONCE_OCTETS] = array(entropy);
    let associated = binding.associated(generation);
    let suite = binding.suite;
    let mut wrapped = Vec::with_capacity(WRAP_NONCE_OCTETS + secret_octets(suite) + suite.tag_octets());
    wrapped.extend_from_slice(&nonce);
    wrapped.extend_from_slice(key.dek.octets());
    if suite.pads() {
        wrapped.extend_from_slice(&key.plain_octets.to_be_bytes());
    }
    match suite {
        Suite::Cascade => {
            Cascade::of_wrap(kek.octets(), &nonce).seal(&nonce, &associated, &mut wrapped, WRAP_NONCE_OCTETS);
        }
        Suite::XChaCha20Poly1305 | Suite::Committed => wrap_once(kek, &nonce, &associated, &mut wrapped),
        #[cfg(debug_assertions)]
        Suite::PlaintextControl => wrap_once(kek, &nonce, &associated, &mut wrapped),
    }
    WrappedDek(wrapped)
}

fn wrap_once(kek: &Kek, nonce: &[u8; WRAP_NONCE_OCTETS], associated: &[u8], wrapped: &mut Vec<u8>) {
    let tag = XChaCha20Poly1305::new(kek.octets().into())
        .encrypt_inout_detached(
            &XNonce::from(*nonce),
            associated,
            (&mut wrapped[WRAP_NONCE_OCTETS..]).into(),
        )
        .expect("a key is far below the limit of 256 GiB");
    wrapped.extend_from_slice(&tag);
}

/// Octets that are sealed in a wrapped data key: the key and, where the suite pads, the true length.
fn secret_octets(suite: Suite) -> usize {
    if suite.pads() { 32 + 8 } else { 32 }
}

/// Opens what [`wrap`] made.
pub(crate) fn unwrap(
    kek: &Kek,
    generation: Generation,
    wrapped: &WrappedDek,
    binding: &Binding<'_>,
) -> Result<StreamKey, VaultError> {
    let stream = binding.stream();
    let failed = || VaultError::Wrapped {
        stream: stream.map_or(StreamId([0; 16]), |stream| stream.id),
        generation,
    };
    let suite = binding.suite;
    let associated = binding.associated(generation);
    let (nonce, sealed) = wrapped.0.split_first_chunk::<WRAP_NONCE_OCTETS>().ok_or_else(failed)?;
    let secret_octets = secret_octets(suite);
    if sealed.len() != secret_octets + suite.tag_octets() {
        return Err(failed());
    }
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let opened = match suite {
        Suite::Cascade => Cascade::of_wrap(kek.octets(), nonce).open(nonce, &associated, &mut sealed),
        Suite::XChaCha20Poly1305 | Suite::Committed => unwrap_once(kek, nonce, &associated, &mut sealed),
        #[cfg(debug_assertions)]
        Suite::PlaintextControl => unwrap_once(kek, nonce, &associated, &mut sealed),
    };
    if !opened {
        return Err(failed());
    }
    let (dek, length) = sealed[..secret_octets]
        .split_first_chunk::<32>()
        .expect("a key has 32 octets");
    let padded_octets = stream.map_or(0, |stream| stream.padded_octets);
    let plain_octets = match length.first_chunk() {
        Some(length) => u64::from_be_bytes(*length),
        None => padded_octets,
    };
    // Whoever could seal this could also seal a right length, so another one is a defect: it must not become a short read.
    if plain_octets > STREAM_OCTETS_MAX && suite.pads() || suite.padded_octets(plain_octets) != padded_octets {
        return Err(failed());
    }
    // Copied from place to place: a value on its way would lie on the stack, too.
    let mut boxed = Dek(Box::new([0; 32]));
    boxed.0.copy_from_slice(dek);
    Ok(StreamKey {
        dek: boxed,
        plain_octets,
    })
}

fn unwrap_once(kek: &Kek, nonce: &[u8; WRAP_NONCE_OCTETS], associated: &[u8], sealed: &mut [u8]) -> bool {
    sealed
        .split_last_chunk_mut::<TAG_OCTETS>()
        .is_some_and(|(secret, tag)| {
            XChaCha20Poly1305::new(kek.octets().into())
                .decrypt_inout_detached(&XNonce::from(*nonce), associated, secret.into(), &Tag::from(*tag))
                .is_ok()
        })
}

/// Associated data of the chunks of one stream; the chunk number comes last.
#[derive(Clone)]
struct ChunkBinding(Vec<u8>);

impl ChunkBinding {
    fn new(address: &Address, id: StreamId, part: Part, level: Level) -> Self {
        let address = address.as_str().as_bytes();
        let mut out = Vec::with_capacity(CHUNK_FORMAT.len() + address.len() + 24);
        out.extend_from_slice(CHUNK_FORMAT);
        push_address(&mut out, address);
        out.extend_from_slice(&id.0);
        out.push(part.octet());
        out.push(level.0);
        out.extend_from_slice(&[0; 4]);
        ChunkBinding(out)
    }

    /// What all chunks of the stream share.
    fn of_stream(&self) -> &[u8] {
        &self.0[..self.0.len() - 4]
    }

    fn of_chunk(&self, chunk: u32) -> Vec<u8> {
        let mut out = self.0.clone();
        let number_at = out.len() - 4;
        out[number_at..].copy_from_slice(&chunk.to_be_bytes());
        out
    }
}

/// Seals one stream, front to back, once.
pub struct Sealer {
    id: StreamId,
    prefix: [u8; PREFIX_OCTETS],
    suite: Suite,
    dek: Dek,
    cipher: Cipher,
    binding: ChunkBinding,
    hasher: Hasher,
    next_chunk: u64,
    plain_octets: u64,
}

/// A sealed stream's facts.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its random name.
    pub id: StreamId,
    /// Its nonce prefix.
    pub prefix: [u8; PREFIX_OCTETS],
    /// How it was encrypted.
    pub suite: Suite,
    /// Its data key and length, not yet wrapped.
    pub key: StreamKey,
    /// What it commits to its key by, from level 2 on.
    pub commitment: Option<Commitment>,
    /// Digest of its plaintext.
    pub digest: Digest,
}

impl Sealer {
    pub(crate) fn new(
        entropy: &dyn Entropy,
        suite: Suite,
        address: &Address,
        part: Part,
        level: Level,
        hasher: Hasher,
    ) -> Self {
        let mut dek = Dek(Box::new([0; 32]));
        entropy.fill_key(dek.0.as_mut_slice());
        let id = StreamId(array(entropy));
        let prefix = array(entropy);
        let binding = ChunkBinding::new(address, id, part, level);
        Sealer {
            id,
            prefix,
            suite,
            cipher: Cipher::new(suite, &dek, prefix, binding.of_stream()),
            dek,
            binding,
            hasher,
            next_chunk: 0,
            plain_octets: 0,
        }
    }

    /// How the stream is encrypted.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Seals the next chunk, full but not the last of the plaintext, and appends it to `out`.
    ///
    /// # Panics
    ///
    /// If `plaintext` is no full chunk, or past 2^32 - 1 chunks: the store bounds streams at [`STREAM_OCTETS_MAX`].
    pub fn seal_chunk(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        assert_eq!(plaintext.len(), CHUNK_OCTETS, "only the last chunk may be short");
        self.append(plaintext, 0, false, out);
    }

    /// Ends the plaintext with a piece that may be short or empty. The padding comes behind it.
    ///
    /// # Panics
    ///
    /// If `plaintext` is longer than a chunk.
    #[must_use]
    pub fn end(self, plaintext: &[u8]) -> Tail<'_> {
        assert!(plaintext.len() <= CHUNK_OCTETS, "a chunk has at most 64 KiB");
        let plain_octets = self.plain_octets + plaintext.len() as u64;
        Tail {
            left: self.suite.padded_octets(plain_octets) - self.plain_octets,
            plaintext,
            ended: false,
            sealer: self,
        }
    }

    /// Seals the last of the plaintext and all padding at once: for small streams.
    ///
    /// # Panics
    ///
    /// As [`Sealer::end`].
    pub fn seal_last(self, plaintext: &[u8], out: &mut Vec<u8>) -> Sealed {
        let mut tail = self.end(plaintext);
        while tail.seal_next(out) {}
        tail.finish()
    }

    fn append(&mut self, plaintext: &[u8], padding: usize, last: bool, out: &mut Vec<u8>) {
        let chunk = u32::try_from(self.next_chunk).expect("streams are bounded at 2^32 chunks");
        self.hasher.update(plaintext);
        let from = out.len();
        // Once, before plaintext is in it: growing would leave it behind in memory that nobody wipes.
        out.reserve(plaintext.len() + padding + self.suite.tag_octets());
        out.extend_from_slice(plaintext);
        out.resize(out.len() + padding, 0);
        self.cipher.seal(chunk, last, &self.binding.of_chunk(chunk), out, from);
        self.next_chunk += 1;
        self.plain_octets += plaintext.len() as u64;
    }
}

/// The end of a stream: the last of the plaintext and the padding, chunk by chunk, so that the padding of a large stream need
/// not be in memory at once.
pub struct Tail<'a> {
    sealer: Sealer,
    plaintext: &'a [u8],
    /// Octets that are still to be sealed, padding included.
    left: u64,
    /// Whether the last chunk is sealed.
    ended: bool,
}

impl fmt::Debug for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail")
            .field("sealer", &self.sealer)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Tail<'_> {
    /// Seals one more chunk and appends it to `out`. Says whether another is to come; the first always is.
    pub fn seal_next(&mut self, out: &mut Vec<u8>) -> bool {
        let count = usize::try_from(self.left).unwrap_or(CHUNK_OCTETS).min(CHUNK_OCTETS);
        self.left -= count as u64;
        let padding = count - self.plaintext.len();
        let last = self.left == 0;
        self.sealer.append(self.plaintext, padding, last, out);
        self.plaintext = &[];
        self.ended = last;
        !last
    }

    /// The sealed stream's facts.
    ///
    /// # Panics
    ///
    /// If a chunk is still to be sealed.
    #[must_use]
    pub fn finish(self) -> Sealed {
        assert!(self.ended, "the last chunk is sealed first");
        let sealer = self.sealer;
        Sealed {
            id: sealer.id,
            prefix: sealer.prefix,
            suite: sealer.suite,
            commitment: sealer.cipher.commitment(),
            digest: sealer.hasher.finish(),
            key: StreamKey {
                dek: sealer.dek,
                plain_octets: sealer.plain_octets,
            },
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("id", &self.id)
            .field("plain_octets", &self.plain_octets)
            .finish_non_exhaustive()
    }
}

/// Opens chunks of one stream, in any order.
pub struct Opener {
    cipher: Cipher,
    suite: Suite,
    binding: ChunkBinding,
    plain_octets: u64,
    chunks: u64,
}

/// A chunk was changed, cut, swapped or replayed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("chunk {chunk} fails its tag")]
pub struct DamagedChunk {
    /// Its number in the stream.
    pub chunk: u64,
}

impl Opener {
    /// An opener of the stream that was sealed as `sealed` says, for an object's part.
    ///
    /// # Errors
    ///
    /// [`VaultError::Commitment`] if the stream was not sealed under this key.
    pub fn new(sealed: &Sealed, address: &Address, part: Part, level: Level) -> Result<Self, VaultError> {
        let binding = ChunkBinding::new(address, sealed.id, part, level);
        let cipher = Cipher::new(sealed.suite, &sealed.key.dek, sealed.prefix, binding.of_stream());
        if cipher.commitment() != sealed.commitment {
            return Err(VaultError::Commitment { stream: sealed.id });
        }
        let plain_octets = sealed.key.plain_octets;
        Ok(Opener {
            cipher,
            suite: sealed.suite,
            binding,
            plain_octets,
            chunks: chunks_of(sealed.suite.padded_octets(plain_octets)),
        })
    }

    /// How the stream is encrypted.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Chunks of the stream, those of padding included.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Octets of the stream's plaintext.
    #[must_use]
    pub fn plain_octets(&self) -> u64 {
        self.plain_octets
    }

    /// Opens one chunk in place: `sealed` is ciphertext and tag, and is cut to the plaintext.
    ///
    /// # Errors
    ///
    /// [`DamagedChunk`] if it is not exactly the chunk of that number of this stream; `sealed` is then emptied.
    pub fn open_chunk(&self, chunk: u64, sealed: &mut Vec<u8>) -> Result<(), DamagedChunk> {
        match self.open_in_place(chunk, sealed) {
            Ok(plain) => {
                sealed.truncate(plain);
                Ok(())
            }
            Err(damaged) => {
                sealed.clear();
                Err(damaged)
            }
        }
    }

    /// Opens one chunk in place and says how many of its first octets are plaintext: the rest of it, if any, is padding.
    pub(crate) fn open_in_place(&self, chunk: u64, sealed: &mut [u8]) -> Result<usize, DamagedChunk> {
        let damaged = DamagedChunk { chunk };
        let number = u32::try_from(chunk).map_err(|_| damaged)?;
        let last = chunk + 1 == self.chunks;
        let content = sealed.len().checked_sub(self.suite.tag_octets()).ok_or(damaged)?;
        let associated = self.binding.of_chunk(number);
        if !self.cipher.open(number, last, &associated, sealed) {
            return Err(damaged);
        }
        let before = chunk.saturating_mul(CHUNK_OCTETS as u64);
        let plain = usize::try_from(self.plain_octets.saturating_sub(before)).unwrap_or(content);
        let plain = plain.min(content);
        // One plaintext has one sealed form: padding that says something is none.
        if sealed[plain..content].iter().any(|&octet| octet != 0) {
            return Err(damaged);
        }
        Ok(plain)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("plain_octets", &self.plain_octets)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::vault::entropy::tests::SeededEntropy;
    use crate::vault::{PoolKey, Vault, provider::tests::OneKey};

    fn vault(seed: u64) -> Vault {
        let entropy = std::sync::Arc::new(SeededEntropy::new(seed));
        Vault::with_entropy(Box::new(OneKey), PoolKey::new([9; 32]), entropy)
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    const LEVELS: [Level; 3] = [Level(1), Level(2), Level(3)];

    /// A sealed stream and its chunks.
    fn seal(vault: &Vault, address: &Address, part: Part, level: Level, plain: &[u8]) -> (Sealed, Vec<Vec<u8>>) {
        let mut sealer = vault.seal(address, part, level).unwrap();
        let sealed_chunk = sealer.suite().sealed_chunk_octets();
        let mut out = Vec::new();
        let mut rest = plain;
        while rest.len() > CHUNK_OCTETS {
            sealer.seal_chunk(&rest[..CHUNK_OCTETS], &mut out);
            rest = &rest[CHUNK_OCTETS..];
        }
        let sealed = sealer.seal_last(rest, &mut out);
        (sealed, out.chunks(sealed_chunk).map(<[u8]>::to_vec).collect())
    }

    fn opener(sealed: &Sealed, level: Level) -> Opener {
        Opener::new(sealed, &address("1.2"), Part::Body, level).unwrap()
    }

    fn opens(sealed: &Sealed, level: Level, number: u64, chunk: &[u8]) -> bool {
        opener(sealed, level).open_chunk(number, &mut chunk.to_vec()).is_ok()
    }

    fn with_length(sealed: &Sealed, plain_octets: u64) -> Sealed {
        let dek = sealed.key.dek.clone();
        Sealed {
            key: StreamKey { dek, plain_octets },
            ..sealed.clone()
        }
    }

    /// Octets made by another implementation (Python: HChaCha20 by hand, ChaCha20-Poly1305 and AES-256-GCM-SIV of OpenSSL, BLAKE3
    /// of its authors), from STORE.md sections 4 and 5. If this test fails, the format has changed: what is on disk no longer opens.
    #[test]
    fn octets_of_streams_and_wrapped_keys_are_those_of_the_document() {
        #[derive(Debug)]
        struct Told(parking_lot::Mutex<std::collections::VecDeque<Vec<u8>>>);
        impl Entropy for Told {
            fn fill(&self, octets: &mut [u8]) {
                octets.copy_from_slice(&self.0.lock().pop_front().expect("no more is asked for"));
            }
        }
        let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
        let told = [0..0x20, 0x60..0x70, 0x40..0x53, 0x80..0x98].map(|range| range.collect::<Vec<u8>>());
        let document = [
            (
                Level(1),
                None,
                "0bc1ea18b706d3afc7338160aca3a2ce3e612588ea2cf7faaf",
                "808182838485868788898a8b8c8d8e8f90919293949596979ccf8433325ac0201cd6c284963b01132287842b58190901\
                 9949737787aeec8a9948ec7d4638aa70a5f11e8d2159817c",
            ),
            (
                Level(2),
                Some("e6cff04d1d1ff0676dd1bee2e550730f49a80f5362186d43c37bc0108eee590e"),
                "d68d4187588293fa947716ee0e3de7f53bbd934c8e9596c7dbb4",
                "808182838485868788898a8b8c8d8e8f90919293949596979ccf8433325ac0201cd6c284963b01132287842b58190901\
                 9949737787aeec8a561654905c365b1b42cb66ec16637d2a22bbe351516fc7d3",
            ),
            (
                Level(3),
                Some("cdda0182a39d367c701e74f6e2b799fd4073a44878144dca9b1b290cab6de866"),
                "6379d6b39841c4d61855e3b2ff51c3c453e0a379b440592bc3b5fd15ef8134a2214c6cabc83cd942b7ef",
                "808182838485868788898a8b8c8d8e8f90919293949596974cef64d839d92efdcba126a4559cb02c9c273746df2dce81\
                 aae877b9b88a0308d80ae2ed4712686f1d07b0f861e3f9184c990720b3ea2480a1063fcfcbe785bb1709a12ab4728788",
            ),
        ];
        for (level, commitment, chunk, wrapped) in document {
            let entropy = Told(parking_lot::Mutex::new(told.clone().into()));
            let vault = Vault::with_entropy(Box::new(OneKey), PoolKey::new([9; 32]), std::sync::Arc::new(entropy));
            let address = address("3.1");
            let mut out = Vec::new();
            let sealed = vault
                .seal(&address, Part::Body, level)
                .unwrap()
                .seal_last(b"object 9!", &mut out);
            assert_eq!(hex(&out), chunk, "level {level}");
            assert_eq!(
                sealed.commitment.map(|commitment| hex(&commitment.0)).as_deref(),
                commitment
            );
            let binding = Binding {
                address: &address,
                part: Part::Body,
                suite: sealed.suite,
                level,
                epoch: Epoch(4),
                revision: 5,
                schema: 6,
                properties: None,
                body: Some(StreamBinding {
                    id: sealed.id,
                    padded_octets: if level == Level(1) { 9 } else { 10 },
                    digest: Digest([7; 32]),
                }),
            };
            let (generation, dek) = vault.wrap(&sealed.key, &binding).unwrap();
            assert_eq!(hex(&dek.0), wrapped, "level {level}");
            let key = vault.unwrap(generation, &dek, &binding).unwrap();
            assert_eq!((key.dek.octets(), key.plain_octets), (sealed.key.dek.octets(), 9));
        }
    }

    /// Lengths around every border: of chunks, and of padding that fills a chunk or begins another.
    #[test]
    fn stream_of_any_length_opens_chunk_by_chunk_in_any_order() {
        let vault = vault(4);
        let chunk = CHUNK_OCTETS;
        for level in LEVELS {
            for length in [
                0,
                1,
                2,
                9,
                4095,
                chunk - 1,
                chunk,
                chunk + 1,
                2 * chunk,
                3 * chunk - 1,
                20 * chunk + 1,
            ] {
                let plain: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
                let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &plain);
                let suite = sealed.suite;
                let padded = suite.padded_octets(length as u64);
                assert_eq!(chunks.len() as u64, chunks_of(padded));
                let octets: usize = chunks.iter().map(Vec::len).sum();
                assert_eq!(
                    octets as u64,
                    suite.sealed_octets(padded),
                    "level {level}, {length} octets"
                );
                assert_eq!(sealed.digest, vault.digest(&plain));
                let opener = opener(&sealed, level);
                assert_eq!(
                    (opener.plain_octets(), opener.chunks()),
                    (length as u64, chunks.len() as u64)
                );
                let mut back = vec![Vec::new(); chunks.len()];
                for number in (0..chunks.len()).rev() {
                    back[number] = chunks[number].clone();
                    opener.open_chunk(number as u64, &mut back[number]).unwrap();
                }
                assert_eq!(back.concat(), plain, "level {level}");
            }
        }
    }

    /// Every octet of a sealed stream: text, padding, and the tags of both ciphers.
    #[test]
    fn change_of_any_octet_is_detected() {
        let vault = vault(5);
        for level in LEVELS {
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &[0x5a; 1001]);
            assert!(opens(&sealed, level, 0, &chunks[0]));
            for place in 0..chunks[0].len() {
                let mut changed = chunks[0].clone();
                changed[place] ^= 1;
                assert!(!opens(&sealed, level, 0, &changed), "level {level}, octet {place}");
            }
        }
    }

    #[test]
    fn change_of_what_the_row_says_of_a_stream_is_detected() {
        let vault = vault(6);
        for level in LEVELS {
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, b"text");
            let opens = |changed: &Sealed| {
                let opener = Opener::new(changed, &address("1.2"), Part::Body, level);
                opener.is_ok_and(|opener| opener.open_chunk(0, &mut chunks[0].clone()).is_ok())
            };
            assert!(opens(&sealed));
            for place in 0..PREFIX_OCTETS {
                let mut changed = sealed.clone();
                changed.prefix[place] ^= 1;
                assert!(!opens(&changed));
            }
            for place in 0..16 {
                let mut changed = sealed.clone();
                changed.id.0[place] ^= 1;
                assert!(!opens(&changed));
            }
            for suite in LEVELS.map(|level| Suite::of_level(level).unwrap()) {
                assert_eq!(
                    opens(&Sealed {
                        suite,
                        ..sealed.clone()
                    }),
                    suite == sealed.suite
                );
            }
            let commitments = (0..32).map(|place| {
                let mut commitment = sealed.commitment.unwrap_or(Commitment([0; 32]));
                commitment.0[place] ^= 1;
                Some(commitment)
            });
            for commitment in commitments.chain(sealed.commitment.is_some().then_some(None)) {
                let changed = Sealed {
                    commitment,
                    ..sealed.clone()
                };
                assert!(!opens(&changed));
                let refused = Opener::new(&changed, &address("1.2"), Part::Body, level);
                assert!(matches!(refused, Err(VaultError::Commitment { stream }) if stream == sealed.id));
            }
        }
    }

    /// One chunk that two data keys open to two contents, with the same id, prefix and address: its two blocks solve the equations that
    /// make the tags of both keys one (Albertini et al. 2022, section 3). Level 1 opens it under both. At level 2, where the forger
    /// solves them for the keys derived, the ciphers open it, too: the commitment lets through one key, whichever the row names.
    #[test]
    fn ciphertext_that_opens_under_two_keys_is_refused_from_level_2_on() {
        let keys = [0, 0x20].map(|first| Dek::from_octets(std::array::from_fn(|at| first + u8::try_from(at).unwrap())));
        let sealed = |level, key: &Dek| Sealed {
            id: StreamId(std::array::from_fn(|at| 0x60 + u8::try_from(at).unwrap())),
            prefix: std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap()),
            suite: Suite::of_level(level).unwrap(),
            key: StreamKey {
                dek: key.clone(),
                plain_octets: 32,
            },
            commitment: None,
            digest: Digest([0; 32]),
        };
        let cases = [
            (
                Level(1),
                "d038aac066634c662054479b83fff0c563cbab16a2800ed0ba0c7ae260ceded014366f8f654a63fe0afb59fe6a1ac636",
            ),
            (
                Level(2),
                "6844ae6e3cfffe2c528c262f3187d05703ad69c6c35d2bf911bf23631b77f3cbe91ec359e183337871c393b5e7cb3291",
            ),
        ];
        for (level, chunk) in cases {
            let chunk = data_encoding::HEXLOWER.decode(chunk.as_bytes()).unwrap();
            let address = address("3.1");
            let contents = keys.each_ref().map(|key| {
                let sealed = sealed(level, key);
                let binding = ChunkBinding::new(&address, sealed.id, Part::Body, level);
                let cipher = Cipher::new(sealed.suite, key, sealed.prefix, binding.of_stream());
                let mut text = chunk.clone();
                assert!(
                    cipher.open(0, true, &binding.of_chunk(0), &mut text),
                    "the forgery is one"
                );
                (text[..32].to_vec(), cipher.commitment())
            });
            assert_ne!(contents[0].0, contents[1].0);
            for (named, (_, commitment)) in contents.iter().enumerate() {
                let opened = keys.each_ref().map(|key| {
                    let row = Sealed {
                        commitment: *commitment,
                        ..sealed(level, key)
                    };
                    Opener::new(&row, &address, Part::Body, level).is_ok()
                });
                let both = level == Level(1);
                assert_eq!(opened, [both || named == 0, both || named == 1], "level {level}");
            }
        }
    }

    #[test]
    fn padding_that_says_something_is_refused() {
        let vault = vault(8);
        for level in [Level(2), Level(3)] {
            // 1,001 octets are padded to 1,024: said to be 1,000 long, the last octet counts as padding.
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &[0x5a; 1001]);
            assert_eq!(chunks[0].len(), 1024 + sealed.suite.tag_octets());
            assert!(!opens(&with_length(&sealed, 1000), level, 0, &chunks[0]));
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &[0; 1001]);
            assert!(opens(&with_length(&sealed, 1000), level, 0, &chunks[0]));
        }
    }

    /// Who holds the disk sees where a stream lies and what its row says.
    #[test]
    fn lengths_of_one_padding_class_look_alike_in_row_and_chunks() {
        let vault = vault(9);
        for level in [Level(2), Level(3)] {
            let seen = |length: usize| {
                let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &vec![1; length]);
                let octets: usize = chunks.iter().map(Vec::len).sum();
                let padded = sealed.suite.padded_octets(length as u64);
                let here = address("1.2");
                let mut bound = binding(&here, sealed.suite, level);
                bound.body.as_mut().unwrap().padded_octets = padded;
                (octets, padded, vault.wrap(&sealed.key, &bound).unwrap().1.0.len())
            };
            assert_eq!(seen(100_000), seen(98_305));
            assert_ne!(seen(100_000), seen(98_304));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn changed_cut_swapped_or_replayed_chunk_is_detected(
            level in 1_u8..=3,
            length in 0_usize..200_000,
            flip: prop::sample::Index,
            bit in 0_u8..8,
            cut: prop::sample::Index,
        ) {
            let level = Level(level);
            let vault = vault(1);
            let plain = vec![0x5a; length];
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &plain);
            for (number, chunk) in (0..).zip(&chunks) {
                prop_assert!(opens(&sealed, level, number, chunk));
                // Changed in one bit; cut; lengthened.
                let mut changed = chunk.clone();
                changed[flip.index(chunk.len())] ^= 1 << bit;
                prop_assert!(!opens(&sealed, level, number, &changed));
                prop_assert!(!opens(&sealed, level, number, &chunk[..cut.index(chunk.len())]));
                prop_assert!(!opens(&sealed, level, number, &[chunk.as_slice(), &[0]].concat()));
                // In another chunk's place.
                for other in (0..chunks.len() as u64 + 2).filter(|&other| other != number) {
                    prop_assert!(!opens(&sealed, level, other, chunk));
                }
                // As another object's, part's or level's, under the same key.
                for opener in [
                    Opener::new(&sealed, &address("1.3"), Part::Body, level),
                    Opener::new(&sealed, &address("1.2"), Part::Properties, level),
                    Opener::new(&sealed, &address("1.2"), Part::Body, Level(level.0 + 1)),
                ] {
                    prop_assert!(!opener.is_ok_and(|opener| opener.open_chunk(number, &mut chunk.clone()).is_ok()));
                }
            }
            // The stream cut or lengthened at a chunk's border: the last flag is in the nonce.
            let last = chunks.len() as u64 - 1;
            let longer = with_length(&sealed, (last + 2) * CHUNK_OCTETS as u64);
            prop_assert!(!opens(&longer, level, last, &chunks[chunks.len() - 1]));
            if last > 0 {
                let shorter = with_length(&sealed, CHUNK_OCTETS as u64);
                prop_assert!(!opens(&shorter, level, 0, &chunks[0]));
            }
            // An earlier copy's chunk, of the same object and part, played again.
            let (_, old) = seal(&vault, &address("1.2"), Part::Body, level, &plain);
            prop_assert!(!opens(&sealed, level, 0, &old[0]));
        }
    }

    fn binding(address: &Address, suite: Suite, level: Level) -> Binding<'_> {
        let stream = |octet| StreamBinding {
            id: StreamId([octet; 16]),
            padded_octets: 7,
            digest: Digest([octet; 32]),
        };
        Binding {
            address,
            part: Part::Body,
            suite,
            level,
            epoch: Epoch(4),
            revision: 5,
            schema: 6,
            properties: Some(stream(1)),
            body: Some(stream(2)),
        }
    }

    #[test]
    fn wrapped_key_opens_only_under_what_it_was_bound_to() {
        let vault = vault(2);
        let (here, there) = (address("1.2"), address("1.3"));
        let key = StreamKey {
            dek: Dek::from_octets([5; 32]),
            plain_octets: 7,
        };
        type Change = fn(&mut Binding<'_>);
        let changes: [Change; 11] = [
            |binding| binding.part = Part::Properties,
            |binding| binding.level = Level(binding.level.0 + 1),
            |binding| binding.suite = Suite::from_number(binding.suite.number() % 3 + 1).unwrap(),
            |binding| binding.epoch = Epoch(5),
            |binding| binding.revision += 1,
            |binding| binding.schema += 1,
            |binding| binding.properties = None,
            |binding| binding.properties = binding.body,
            |binding| binding.body.as_mut().unwrap().padded_octets += 1,
            |binding| binding.body.as_mut().unwrap().id.0[3] ^= 1,
            |binding| binding.body.as_mut().unwrap().digest.0[3] ^= 1,
        ];
        for level in LEVELS {
            let right = binding(&here, Suite::of_level(level).unwrap(), level);
            let (generation, wrapped) = vault.wrap(&key, &right).unwrap();
            let opened = vault.unwrap(generation, &wrapped, &right).unwrap();
            assert_eq!((*opened.dek.octets(), opened.plain_octets), ([5; 32], 7));
            for (number, change) in changes.iter().enumerate() {
                let mut wrong = right.clone();
                change(&mut wrong);
                assert!(vault.unwrap(generation, &wrapped, &wrong).is_err(), "change {number}");
            }
            let wrong = Binding {
                address: &there,
                ..right.clone()
            };
            assert!(vault.unwrap(generation, &wrapped, &wrong).is_err());
            for place in 0..wrapped.0.len() {
                let mut changed = wrapped.clone();
                changed.0[place] ^= 1;
                assert!(vault.unwrap(generation, &changed, &right).is_err());
            }
            for cut in 0..wrapped.0.len() {
                assert!(
                    vault
                        .unwrap(generation, &WrappedDek(wrapped.0[cut + 1..].to_vec()), &right)
                        .is_err()
                );
                assert!(
                    vault
                        .unwrap(generation, &WrappedDek(wrapped.0[..cut].to_vec()), &right)
                        .is_err()
                );
            }
        }
    }

    /// A length that is not padded to what the row says is never taken: a read would end early, or go on past the end.
    #[test]
    fn wrapped_length_that_contradicts_the_row_is_refused() {
        let vault = vault(2);
        let here = address("1.2");
        for level in [Level(2), Level(3)] {
            let right = binding(&here, Suite::of_level(level).unwrap(), level);
            for plain_octets in [0, 6, 8, u64::MAX] {
                let dek = Dek::from_octets([5; 32]);
                let (generation, wrapped) = vault.wrap(&StreamKey { dek, plain_octets }, &right).unwrap();
                assert!(vault.unwrap(generation, &wrapped, &right).is_err(), "{plain_octets}");
            }
        }
    }

    #[test]
    fn no_key_and_nonce_pair_comes_twice() {
        let vault = Vault::new(Box::new(OneKey), PoolKey::new([9; 32]));
        let mut pairs = HashSet::new();
        let mut ids = HashSet::new();
        for number in 0..2000_usize {
            let plain = vec![0; if number % 100 == 0 { 3 * CHUNK_OCTETS } else { 10 }];
            let level = LEVELS[number % 3];
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, level, &plain);
            assert!(ids.insert(sealed.id));
            for chunk in 0..chunks.len() {
                assert!(pairs.insert((*sealed.key.dek.octets(), sealed.prefix, chunk)));
            }
        }
    }

    #[test]
    fn keys_are_never_printed() {
        let vault = vault(3);
        let (sealed, _) = seal(&vault, &address("1.2"), Part::Body, Level(2), b"text");
        let kek = vault.provider().current().unwrap().1;
        let printed = format!("{:?} {:?} {kek:?} {:?}", sealed, vault, PoolKey::new([0xab; 32]));
        assert!(printed.contains("Dek(..)") && printed.contains("Kek(..)") && printed.contains("PoolKey(..)"));
        for secret in [sealed.key.dek.octets(), kek.octets(), &[0xab; 32]] {
            let decimal = format!("{:?}", &secret[..4]);
            assert!(!printed.contains(decimal.trim_matches(['[', ']'])));
            assert!(!printed.contains(&data_encoding::HEXLOWER.encode(&secret[..4])));
        }
    }
}
