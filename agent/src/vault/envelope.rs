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
use super::suite::{Cipher, Suite, TAG_OCTETS};
use super::{Digest, Hasher, VaultError};

/// Octets of plaintext in every chunk but the last, which may have fewer (none in an empty stream).
pub const CHUNK_OCTETS: usize = 64 * 1024;

/// Octets of a full chunk on disk.
pub const SEALED_CHUNK_OCTETS: usize = CHUNK_OCTETS + TAG_OCTETS;

/// Octets of the nonce prefix; chunk number (4) and last flag (1) make up the rest of the 24.
pub const PREFIX_OCTETS: usize = 19;

/// First octets of a chunk's associated data: which format this is.
const CHUNK_FORMAT: &[u8] = b"hn-chunk-1";

/// First octets of a wrapped data key's associated data.
const WRAP_FORMAT: &[u8] = b"hn-dek-1";

const WRAPPED_OCTETS: usize = 24 + 32 + TAG_OCTETS;

/// Chunks of a stream of this much plaintext.
#[must_use]
pub fn chunks_of(plain_octets: u64) -> u64 {
    plain_octets.div_ceil(CHUNK_OCTETS as u64).max(1)
}

/// Octets that a stream of this much plaintext takes once sealed.
#[must_use]
pub fn sealed_octets(plain_octets: u64) -> u64 {
    plain_octets + chunks_of(plain_octets) * TAG_OCTETS as u64
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

/// A data key, wrapped by a KEK: nonce (24 octets), sealed key (32), tag (16).
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
    /// Octets of its plaintext.
    pub plain_octets: u64,
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
                    out.extend_from_slice(&stream.plain_octets.to_be_bytes());
                    out.extend_from_slice(&stream.digest.0);
                }
            }
        }
        out
    }

    fn stream(&self) -> StreamId {
        let stream = match self.part {
            Part::Properties => self.properties,
            Part::Body => self.body,
        };
        stream.map_or(StreamId([0; 16]), |stream| stream.id)
    }
}

fn push_address(out: &mut Vec<u8>, address: &[u8]) {
    out.push(u8::try_from(address.len()).expect("an address has at most 247 octets"));
    out.extend_from_slice(address);
}

/// Wraps `dek` under `kek`.
pub(crate) fn wrap(
    entropy: &dyn Entropy,
    kek: &Kek,
    generation: Generation,
    dek: &Dek,
    binding: &Binding<'_>,
) -> WrappedDek {
    let nonce: [u8; 24] = array(entropy);
    let mut sealed = Zeroizing::new(*dek.octets());
    let tag = XChaCha20Poly1305::new(kek.octets().into())
        .encrypt_inout_detached(
            &XNonce::from(nonce),
            &binding.associated(generation),
            sealed.as_mut_slice().into(),
        )
        .expect("a key is far below the limit of 256 GiB");
    let mut wrapped = Vec::with_capacity(WRAPPED_OCTETS);
    wrapped.extend_from_slice(&nonce);
    wrapped.extend_from_slice(sealed.as_slice());
    wrapped.extend_from_slice(&tag);
    WrappedDek(wrapped)
}

/// Opens what [`wrap`] made.
pub(crate) fn unwrap(
    kek: &Kek,
    generation: Generation,
    wrapped: &WrappedDek,
    binding: &Binding<'_>,
) -> Result<Dek, VaultError> {
    let failed = || VaultError::Wrapped {
        stream: binding.stream(),
        generation,
    };
    let octets: &[u8; WRAPPED_OCTETS] = wrapped.0.as_slice().try_into().map_err(|_| failed())?;
    let nonce: [u8; 24] = octets[..24].try_into().expect("24 octets");
    let tag: [u8; TAG_OCTETS] = octets[56..].try_into().expect("16 octets");
    let mut dek = Dek(Box::new(octets[24..56].try_into().expect("32 octets")));
    XChaCha20Poly1305::new(kek.octets().into())
        .decrypt_inout_detached(
            &XNonce::from(nonce),
            &binding.associated(generation),
            dek.0.as_mut_slice().into(),
            &Tag::from(tag),
        )
        .map_err(|_| failed())?;
    Ok(dek)
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
    /// Its data key, not yet wrapped.
    pub dek: Dek,
    /// Octets of its plaintext.
    pub plain_octets: u64,
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
        entropy.fill(dek.0.as_mut_slice());
        let id = StreamId(array(entropy));
        let prefix = array(entropy);
        Sealer {
            id,
            prefix,
            suite,
            cipher: Cipher::new(suite, &dek, prefix),
            dek,
            binding: ChunkBinding::new(address, id, part, level),
            hasher,
            next_chunk: 0,
            plain_octets: 0,
        }
    }

    /// Seals the next chunk, full but not the last, and appends it to `out`.
    ///
    /// # Panics
    ///
    /// If `plaintext` is no full chunk, or past 2^32 - 1 chunks: the store bounds streams at [`STREAM_OCTETS_MAX`].
    pub fn seal_chunk(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        assert_eq!(plaintext.len(), CHUNK_OCTETS, "only the last chunk may be short");
        self.append(plaintext, false, out);
    }

    /// Seals the last chunk, which may be short or empty, and ends the stream.
    ///
    /// # Panics
    ///
    /// If `plaintext` is longer than a chunk.
    pub fn seal_last(mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Sealed {
        assert!(plaintext.len() <= CHUNK_OCTETS, "a chunk has at most 64 KiB");
        self.append(plaintext, true, out);
        Sealed {
            id: self.id,
            prefix: self.prefix,
            suite: self.suite,
            plain_octets: self.plain_octets,
            digest: self.hasher.finish(),
            dek: self.dek,
        }
    }

    fn append(&mut self, plaintext: &[u8], last: bool, out: &mut Vec<u8>) {
        let chunk = u32::try_from(self.next_chunk).expect("streams are bounded at 2^32 chunks");
        self.hasher.update(plaintext);
        let from = out.len();
        out.extend_from_slice(plaintext);
        let tag = self
            .cipher
            .seal(chunk, last, &self.binding.of_chunk(chunk), &mut out[from..]);
        out.extend_from_slice(&tag);
        self.next_chunk += 1;
        self.plain_octets += plaintext.len() as u64;
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
    binding: ChunkBinding,
    plain_octets: u64,
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
    #[must_use]
    pub fn new(sealed: &Sealed, address: &Address, part: Part, level: Level) -> Self {
        Opener {
            cipher: Cipher::new(sealed.suite, &sealed.dek, sealed.prefix),
            binding: ChunkBinding::new(address, sealed.id, part, level),
            plain_octets: sealed.plain_octets,
        }
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

    /// Opens one chunk in place and says how many of its first octets are plaintext.
    pub(crate) fn open_in_place(&self, chunk: u64, sealed: &mut [u8]) -> Result<usize, DamagedChunk> {
        let damaged = DamagedChunk { chunk };
        let number = u32::try_from(chunk).map_err(|_| damaged)?;
        let last = chunk + 1 == chunks_of(self.plain_octets);
        let plain = sealed.len().checked_sub(TAG_OCTETS).ok_or(damaged)?;
        let associated = self.binding.of_chunk(number);
        if self.cipher.open(number, last, &associated, sealed) {
            Ok(plain)
        } else {
            Err(damaged)
        }
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

    /// A sealed stream and its chunks.
    fn seal(vault: &Vault, address: &Address, part: Part, plain: &[u8]) -> (Sealed, Vec<Vec<u8>>) {
        let mut sealer = vault.seal(address, part, Level(1)).unwrap();
        let mut chunks = Vec::new();
        let mut rest = plain;
        while rest.len() > CHUNK_OCTETS {
            let mut out = Vec::new();
            sealer.seal_chunk(&rest[..CHUNK_OCTETS], &mut out);
            chunks.push(out);
            rest = &rest[CHUNK_OCTETS..];
        }
        let mut out = Vec::new();
        let sealed = sealer.seal_last(rest, &mut out);
        chunks.push(out);
        (sealed, chunks)
    }

    fn opens(sealed: &Sealed, number: u64, chunk: &[u8]) -> bool {
        let opener = Opener::new(sealed, &address("1.2"), Part::Body, Level(1));
        opener.open_chunk(number, &mut chunk.to_vec()).is_ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn changed_cut_swapped_or_replayed_chunk_is_detected(
            length in 0_usize..200_000,
            flip: prop::sample::Index,
            bit in 0_u8..8,
            cut: prop::sample::Index,
        ) {
            let vault = vault(1);
            let plain = vec![0x5a; length];
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, &plain);
            prop_assert_eq!(chunks.len() as u64, chunks_of(length as u64));
            prop_assert_eq!(chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>(), sealed_octets(length as u64));
            let opener = Opener::new(&sealed, &address("1.2"), Part::Body, Level(1));
            let mut back = Vec::new();
            for (number, chunk) in (0..).zip(&chunks) {
                let mut chunk = chunk.clone();
                opener.open_chunk(number, &mut chunk).unwrap();
                back.extend_from_slice(&chunk);
            }
            prop_assert_eq!(&back, &plain);
            prop_assert_eq!(sealed.digest, vault.digest(&plain));
            for (number, chunk) in (0..).zip(&chunks) {
                // Changed in one bit; cut; lengthened.
                let mut changed = chunk.clone();
                changed[flip.index(chunk.len())] ^= 1 << bit;
                prop_assert!(!opens(&sealed, number, &changed));
                prop_assert!(!opens(&sealed, number, &chunk[..cut.index(chunk.len())]));
                prop_assert!(!opens(&sealed, number, &[chunk.as_slice(), &[0]].concat()));
                // In another chunk's place.
                for other in (0..chunks.len() as u64 + 2).filter(|&other| other != number) {
                    prop_assert!(!opens(&sealed, other, chunk));
                }
                // As another object's, part's or level's, under the same key.
                for opener in [
                    Opener::new(&sealed, &address("1.3"), Part::Body, Level(1)),
                    Opener::new(&sealed, &address("1.2"), Part::Properties, Level(1)),
                    Opener::new(&sealed, &address("1.2"), Part::Body, Level(2)),
                ] {
                    prop_assert!(opener.open_chunk(number, &mut chunk.clone()).is_err());
                }
            }
            // The stream cut or lengthened at a chunk's border: the last flag is in the nonce.
            let last = chunks.len() as u64 - 1;
            let longer = Sealed { plain_octets: sealed.plain_octets + CHUNK_OCTETS as u64, ..sealed.clone() };
            prop_assert!(!opens(&longer, last, &chunks[chunks.len() - 1]));
            if last > 0 {
                let shorter = Sealed { plain_octets: last * CHUNK_OCTETS as u64, ..sealed.clone() };
                prop_assert!(!opens(&shorter, last - 1, &chunks[chunks.len() - 2]));
            }
            // An earlier copy's chunk, of the same object and part, played again.
            let (_, old) = seal(&vault, &address("1.2"), Part::Body, &plain);
            prop_assert!(!opens(&sealed, 0, &old[0]));
        }
    }

    fn binding(address: &Address) -> Binding<'_> {
        let stream = |octet| StreamBinding {
            id: StreamId([octet; 16]),
            plain_octets: 7,
            digest: Digest([octet; 32]),
        };
        Binding {
            address,
            part: Part::Body,
            suite: Suite::XChaCha20Poly1305,
            level: Level(1),
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
        let here = address("1.2");
        let there = address("1.3");
        let dek = Dek::from_octets([5; 32]);
        let right = binding(&here);
        let (generation, wrapped) = vault.wrap(&dek, &right).unwrap();
        assert_eq!(*vault.unwrap(generation, &wrapped, &right).unwrap().octets(), [5; 32]);
        type Change = fn(&mut Binding<'_>);
        let changes: [Change; 10] = [
            |binding| binding.part = Part::Properties,
            |binding| binding.level = Level(2),
            |binding| binding.epoch = Epoch(5),
            |binding| binding.revision += 1,
            |binding| binding.schema += 1,
            |binding| binding.properties = None,
            |binding| binding.properties = binding.body,
            |binding| binding.body.as_mut().unwrap().plain_octets += 1,
            |binding| binding.body.as_mut().unwrap().id.0[3] ^= 1,
            |binding| binding.body.as_mut().unwrap().digest.0[3] ^= 1,
        ];
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
        let cut = WrappedDek(wrapped.0[1..].to_vec());
        assert!(vault.unwrap(generation, &cut, &right).is_err());
    }

    #[test]
    fn no_key_and_nonce_pair_comes_twice() {
        let vault = Vault::new(Box::new(OneKey), PoolKey::new([9; 32]));
        let mut pairs = HashSet::new();
        let mut ids = HashSet::new();
        for number in 0..2000_usize {
            let plain = vec![0; if number % 100 == 0 { 3 * CHUNK_OCTETS } else { 10 }];
            let (sealed, chunks) = seal(&vault, &address("1.2"), Part::Body, &plain);
            assert!(ids.insert(sealed.id));
            for chunk in 0..chunks.len() {
                assert!(pairs.insert((*sealed.dek.octets(), sealed.prefix, chunk)));
            }
        }
    }

    #[test]
    fn keys_are_never_printed() {
        let vault = vault(3);
        let (sealed, _) = seal(&vault, &address("1.2"), Part::Body, b"text");
        let kek = vault.provider().current().unwrap().1;
        let printed = format!("{:?} {:?} {kek:?} {:?}", sealed, vault, PoolKey::new([0xab; 32]));
        assert!(printed.contains("Dek(..)") && printed.contains("Kek(..)") && printed.contains("PoolKey(..)"));
        for secret in [sealed.dek.octets(), kek.octets(), &[0xab; 32]] {
            let decimal = format!("{:?}", &secret[..4]);
            assert!(!printed.contains(decimal.trim_matches(['[', ']'])));
            assert!(!printed.contains(&data_encoding::HEXLOWER.encode(&secret[..4])));
        }
    }
}
