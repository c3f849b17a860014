//! Writing one stream to free places, and reading one back.
//!
//! A stream's chunks lie one after the other, without gaps, over its extents in order; what is left of the last block is
//! random. Neither side holds more than about a megabyte of a stream at a time, whatever its size.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use zeroize::Zeroizing;
use zones::{Address, Level};

use super::aside::{Aside, Damage};
use super::entry::Entry;
use super::extent::{BLOCK_OCTETS, Extent, REGION_BLOCKS, RUN_BLOCKS_MAX, blocks_of};
use super::scrub::GoOn;
use super::space::{Extents, Full, Reservation, Space};
use crate::vault::entropy::{Noise, below};
use crate::vault::envelope::{CHUNK_OCTETS, STREAM_OCTETS_MAX, Sealed};
use crate::vault::{Digest, Opener, Part, Sealer, StreamId, Suite, Vault, VaultError};

/// Octets that are sealed before they are written.
const WRITE_OCTETS: usize = 256 * 1024;

/// Octets written between two early syncs of a large stream.
const EARLY_SYNC_OCTETS: u64 = 32 * 1024 * 1024;

/// Chunks opened at once while reading.
const READ_CHUNKS_MAX: u64 = 8;

/// What is to be written.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// The object; bound to every chunk.
    pub address: Address,
    /// Which part of it; bound to every chunk.
    pub part: Part,
    /// Level of the suite; bound to every chunk.
    pub level: Level,
    /// Octets that will come, if known: the room for them is set aside first.
    pub octets_hint: Option<u64>,
    /// Room set aside before, which this stream uses up.
    pub reservation: Option<Arc<Reservation>>,
}

/// Why a stream could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// No room; nothing of it is left behind.
    #[error("no room for the object")]
    Full(#[from] Full),
    /// The disk failed.
    #[error("write a stream")]
    Io(#[from] io::Error),
    /// No key, or no such level.
    #[error("encrypt a stream")]
    Vault(#[from] VaultError),
    /// Over 2^48 octets.
    #[error("a stream has at most {STREAM_OCTETS_MAX} octets: split the object")]
    TooLong,
}

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The entry has no such part.
    #[error("the object has no {part}")]
    NoPart {
        /// The part asked for.
        part: Part,
    },
    /// A chunk failed its tag, or the whole its digest; the copy must not be served: ask another holder.
    #[error("{part} of {address} is damaged at chunk {chunk}")]
    Damaged {
        /// The object.
        address: Address,
        /// The part.
        part: Part,
        /// The first damaged chunk; the number past the last one when only the digest differs.
        chunk: u64,
    },
    /// The copy was found damaged before, here or in its other part, and is set aside until it is written anew or repaired.
    #[error("the copy of {address} is set aside: {what}")]
    SetAside {
        /// The object.
        address: Address,
        /// What was found.
        what: String,
    },
    /// The disk failed.
    #[error("read {part} of {address}")]
    Io {
        /// The object.
        address: Address,
        /// The part.
        part: Part,
        /// Why.
        source: io::Error,
    },
    /// The data key does not open.
    #[error("decrypt a stream")]
    Vault(#[from] VaultError),
}

/// A stream on disk that no entry names yet. Dropping the last clone frees its blocks; naming it in a commit keeps it.
#[derive(Clone)]
pub struct StagedStream {
    pub(crate) inner: Arc<Staged>,
}

pub(crate) struct Staged {
    pub(crate) address: Address,
    pub(crate) part: Part,
    pub(crate) level: Level,
    pub(crate) sealed: Sealed,
    pub(crate) extents: Arc<Extents>,
}

impl StagedStream {
    pub(crate) fn new(spec: StreamSpec, sealed: Sealed, extents: Extents) -> Self {
        StagedStream {
            inner: Arc::new(Staged {
                address: spec.address,
                part: spec.part,
                level: spec.level,
                sealed,
                extents: Arc::new(extents),
            }),
        }
    }

    /// Octets of its plaintext.
    #[must_use]
    pub fn plain_octets(&self) -> u64 {
        self.inner.sealed.key.plain_octets
    }

    /// Digest of its plaintext.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.sealed.digest
    }

    /// Which part it is.
    #[must_use]
    pub fn part(&self) -> Part {
        self.inner.part
    }

    /// The level that it is sealed at.
    #[must_use]
    pub fn level(&self) -> Level {
        self.inner.level
    }

    /// Its random name.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.inner.sealed.id
    }
}

impl fmt::Debug for StagedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedStream")
            .field("address", &self.inner.address)
            .field("part", &self.inner.part)
            .field("plain_octets", &self.plain_octets())
            .field("extents", &self.inner.extents)
            .finish_non_exhaustive()
    }
}

/// Writes one stream, front to back. Dropped unfinished, its blocks are free again.
pub struct StreamWriter {
    space: Arc<Space>,
    spec: StreamSpec,
    /// Room set aside because of the hint.
    own: Option<Reservation>,
    suite: Suite,
    /// Gone once the stream has ended.
    sealer: Option<Sealer>,
    /// Plaintext of the chunk in the making.
    plain: Zeroizing<Vec<u8>>,
    /// Sealed octets that wait to be written.
    sealed: Vec<u8>,
    /// Places taken; the last one may have room left.
    extents: Vec<Extent>,
    /// Octets written into the last extent.
    last_filled: u64,
    written: u64,
    synced: u64,
}

impl StreamWriter {
    pub(crate) fn new(space: Arc<Space>, vault: &Vault, spec: StreamSpec) -> Result<Self, StreamError> {
        if spec.octets_hint.is_some_and(|octets| octets > STREAM_OCTETS_MAX) {
            return Err(StreamError::TooLong);
        }
        let sealer = vault.seal(&spec.address, spec.part, spec.level)?;
        let suite = sealer.suite();
        let own = match (&spec.reservation, spec.octets_hint) {
            (None, Some(octets)) => Some(space.reserve(octets, suite)?),
            (Some(_), _) | (None, None) => None,
        };
        // Never grown past its first size: growing would leave plaintext behind in memory that nobody wipes.
        let chunk = spec.octets_hint.map_or(CHUNK_OCTETS, |octets| {
            usize::try_from(octets).unwrap_or(CHUNK_OCTETS).min(CHUNK_OCTETS)
        });
        Ok(StreamWriter {
            space,
            suite,
            sealer: Some(sealer),
            own,
            plain: Zeroizing::new(Vec::with_capacity(chunk)),
            sealed: Vec::new(),
            extents: Vec::new(),
            last_filled: 0,
            written: 0,
            synced: 0,
            spec,
        })
    }

    /// Appends plaintext.
    ///
    /// # Errors
    ///
    /// [`StreamError`]; the writer must then be dropped.
    pub fn write(&mut self, mut octets: &[u8]) -> Result<(), StreamError> {
        while !octets.is_empty() {
            // A full chunk is sealed only when more comes: the last one carries a flag.
            if self.plain.len() == CHUNK_OCTETS {
                self.seal_full()?;
            }
            let count = octets.len().min(CHUNK_OCTETS - self.plain.len());
            if self.plain.capacity() < self.plain.len() + count {
                self.widen();
            }
            self.plain.extend_from_slice(&octets[..count]);
            octets.advance(count);
        }
        Ok(())
    }

    /// More comes than was hinted at: moves the chunk to memory for a whole one and wipes the old.
    fn widen(&mut self) {
        let mut wide = Zeroizing::new(Vec::with_capacity(CHUNK_OCTETS));
        wide.extend_from_slice(&self.plain);
        self.plain = wide;
    }

    fn seal_full(&mut self) -> Result<(), StreamError> {
        if self.written / self.suite.sealed_chunk_octets() as u64 >= u64::from(u32::MAX) - 1 {
            return Err(StreamError::TooLong);
        }
        let sealer = self.sealer.as_mut().expect("only finish takes it");
        sealer.seal_chunk(&self.plain, &mut self.sealed);
        self.plain.clear();
        self.flush_some()
    }

    /// Writes what is sealed once it is much.
    fn flush_some(&mut self) -> Result<(), StreamError> {
        if self.sealed.len() >= WRITE_OCTETS {
            // Whole blocks only; the rest waits for more.
            let whole = self.sealed.len() - self.sealed.len() % BLOCK_OCTETS as usize;
            self.flush(whole)?;
            if self.written - self.synced >= EARLY_SYNC_OCTETS {
                self.sync_early()?;
            }
        }
        Ok(())
    }

    fn sync_early(&mut self) -> Result<(), StreamError> {
        let mut volumes: Vec<u32> = self.extents.iter().map(|extent| extent.volume).collect();
        volumes.sort_unstable();
        volumes.dedup();
        for volume in volumes {
            self.space.sync_early(volume)?;
        }
        self.synced = self.written;
        Ok(())
    }

    /// Writes the first `count` sealed octets.
    fn flush(&mut self, count: usize) -> Result<(), StreamError> {
        let mut done = 0;
        while done < count {
            let room = self.extents.last().map_or(0, |last| last.octets() - self.last_filled);
            if room == 0 {
                let wish = self.wish(count - done);
                let reservation = self.spec.reservation.as_deref().or(self.own.as_ref());
                self.extents.push(self.space.take(wish, reservation.as_slice())?);
                self.last_filled = 0;
                continue;
            }
            let octets = usize::try_from(room).unwrap_or(usize::MAX).min(count - done);
            let last = *self.extents.last().expect("taken above");
            self.space
                .write(last, self.last_filled, &self.sealed[done..done + octets])?;
            self.last_filled += octets as u64;
            self.written += octets as u64;
            done += octets;
        }
        self.sealed.drain(..count);
        Ok(())
    }

    /// How long a run to ask for: what is known to come, else longer with every run.
    fn wish(&self, waiting: usize) -> u32 {
        let total =
            (self.spec.octets_hint).map_or(0, |octets| self.suite.sealed_octets(self.suite.padded_octets(octets)));
        let known = blocks_of(total.saturating_sub(self.written).max(waiting as u64));
        let wish = if self.written >= u64::from(REGION_BLOCKS) * BLOCK_OCTETS * 8 {
            known.max(u64::from(RUN_BLOCKS_MAX))
        } else {
            known
        };
        u32::try_from(wish).unwrap_or(u32::MAX).min(RUN_BLOCKS_MAX)
    }

    /// Ends the stream. It is on disk, but durable only with the commit that names it.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    pub fn finish(mut self) -> Result<StagedStream, StreamError> {
        let sealer = self.sealer.take().expect("only this takes it");
        let plain = std::mem::take(&mut self.plain);
        let mut tail = sealer.end(&plain);
        while tail.seal_next(&mut self.sealed) {
            self.flush_some()?;
        }
        let sealed = tail.finish();
        drop(plain);
        let large = self.synced > 0;
        pad(&mut Noise::new(self.space.entropy().as_ref()), &mut self.sealed);
        self.flush(self.sealed.len())?;
        if let Some(last) = self.extents.last_mut() {
            let used = u32::try_from(self.last_filled / BLOCK_OCTETS).expect("at most the extent");
            if used < last.blocks {
                let rest = Extent {
                    block: last.block + used,
                    blocks: last.blocks - used,
                    volume: last.volume,
                };
                last.blocks = used;
                self.space.give_back(rest);
            }
        }
        if large {
            self.sync_early()?;
        }
        let list = std::mem::take(&mut self.extents).into_boxed_slice();
        let extents = Extents::held(list, &self.space);
        Ok(StagedStream::new(self.spec.clone(), sealed, extents))
    }
}

/// Lengthens `sealed` to whole blocks by random octets.
fn pad(noise: &mut Noise, sealed: &mut Vec<u8>) {
    let from = sealed.len();
    sealed.resize(from.next_multiple_of(BLOCK_OCTETS as usize), 0);
    noise.fill(&mut sealed[from..]);
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter")
            .field("spec", &self.spec)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        for extent in self.extents.drain(..) {
            self.space.give_back(extent);
        }
    }
}

/// Writes many small streams: shuffled within randomly chosen longer runs, one system call a run.
pub(crate) fn write_small(
    space: &Arc<Space>,
    vault: &Vault,
    many: Vec<(StreamSpec, Bytes)>,
) -> Result<Vec<StagedStream>, StreamError> {
    struct Item {
        spec: StreamSpec,
        sealed: Sealed,
        octets: Vec<u8>,
        extents: Vec<Extent>,
    }
    /// Gives blocks back when an error ends the batch early.
    struct Held<'a>(&'a Arc<Space>, Vec<Item>);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            for extent in self.1.iter().flat_map(|item| &item.extents) {
                self.0.give_back(*extent);
            }
        }
    }
    let mut noise = Noise::new(space.entropy().as_ref());
    let mut held = Held(space, Vec::with_capacity(many.len()));
    for (spec, plain) in many {
        let mut sealer = vault.seal(&spec.address, spec.part, spec.level)?;
        let suite = sealer.suite();
        let blocks = blocks_of(suite.sealed_octets(suite.padded_octets(plain.len() as u64)));
        let mut octets = Vec::with_capacity(usize::try_from(blocks * BLOCK_OCTETS).expect("it is in memory"));
        let mut rest = &plain[..];
        while rest.len() > CHUNK_OCTETS {
            let (chunk, after) = rest.split_at(CHUNK_OCTETS);
            sealer.seal_chunk(chunk, &mut octets);
            rest = after;
        }
        let sealed = sealer.seal_last(rest, &mut octets);
        pad(&mut noise, &mut octets);
        held.1.push(Item {
            spec,
            sealed,
            octets,
            extents: Vec::new(),
        });
    }
    let mut order: Vec<usize> = (0..held.1.len()).collect();
    for last in (1..order.len()).rev() {
        let pick = below(space.entropy().as_ref(), last as u64 + 1);
        order.swap(last, usize::try_from(pick).expect("below a length"));
    }
    let mut waiting: u64 = held.1.iter().map(|item| item.octets.len() as u64 / BLOCK_OCTETS).sum();
    let mut order = order.into_iter();
    // The item being placed, and its blocks that are.
    let mut current = order.next().map(|index| (index, 0_u64));
    let mut buffer = Vec::new();
    while let Some((first, _)) = current {
        let wish = u32::try_from(waiting).unwrap_or(u32::MAX).min(REGION_BLOCKS);
        let run = {
            let reservations: Vec<_> = (held.1.iter())
                .filter(|item| item.extents.is_empty() || std::ptr::eq(*item, &held.1[first]))
                .filter_map(|item| item.spec.reservation.as_deref())
                .collect();
            space.take(wish, &reservations)?
        };
        buffer.clear();
        let mut used = 0_u32;
        while let Some((index, done)) = current {
            if used == run.blocks {
                break;
            }
            let item = &mut held.1[index];
            let total = item.octets.len() as u64 / BLOCK_OCTETS;
            let count = (total - done).min(u64::from(run.blocks - used));
            let count = u32::try_from(count).expect("at most a run");
            item.extents.push(Extent {
                volume: run.volume,
                block: run.block + used,
                blocks: count,
            });
            let from = usize::try_from(done * BLOCK_OCTETS).expect("it is in memory");
            buffer.extend_from_slice(&item.octets[from..from + count as usize * BLOCK_OCTETS as usize]);
            used += count;
            waiting -= u64::from(count);
            let done = done + u64::from(count);
            current = if done == total {
                order.next().map(|index| (index, 0))
            } else {
                Some((index, done))
            };
        }
        space.write(run, 0, &buffer)?;
    }
    let items = std::mem::take(&mut held.1);
    Ok(items
        .into_iter()
        .map(|item| {
            let extents = Extents::held(item.extents.into_boxed_slice(), space);
            StagedStream::new(item.spec, item.sealed, extents)
        })
        .collect())
}

/// Reads one stream, at any offset. Its copy stays where it is while this lives, whatever the index says by then.
pub struct StreamReader {
    space: Arc<Space>,
    address: Address,
    part: Part,
    opener: Opener,
    digest: Digest,
    extents: Arc<Extents>,
    /// Offset of each extent's end in the sealed stream.
    ends: Vec<u64>,
    /// Where damage is noted; nowhere for a stream that no entry names.
    watch: Option<Box<Watch>>,
}

struct Watch {
    aside: Arc<Aside>,
    id: StreamId,
    seq: u64,
    revision: u64,
}

impl StreamReader {
    pub(crate) fn new(
        space: Arc<Space>,
        address: Address,
        part: Part,
        opener: Opener,
        digest: Digest,
        extents: Arc<Extents>,
    ) -> Self {
        let mut end = 0;
        let ends = extents
            .iter()
            .map(|extent| {
                end += extent.octets();
                end
            })
            .collect();
        StreamReader {
            space,
            address,
            part,
            opener,
            digest,
            extents,
            ends,
            watch: None,
        }
    }

    /// The same reader, which sets the stream aside at the first damage that it meets.
    pub(super) fn watched(mut self, aside: &Arc<Aside>, entry: &Entry, part: Part) -> Self {
        self.watch = entry.stream(part).map(|stream| {
            Box::new(Watch {
                aside: aside.clone(),
                id: stream.id,
                seq: entry.seq,
                revision: entry.revision,
            })
        });
        self
    }

    /// Octets of its plaintext.
    #[must_use]
    pub fn plain_octets(&self) -> u64 {
        self.opener.plain_octets()
    }

    /// Digest of its plaintext, as the index says.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Plaintext from `offset` on: at least one octet and at most `octets_max`, empty only at the end (or when nothing
    /// is asked for). Sequential reads are cheapest in multiples of 64 KiB.
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] when a chunk fails its tag, [`ReadError::Io`].
    pub fn read_at(&self, offset: u64, octets_max: usize) -> Result<Bytes, ReadError> {
        let total = self.plain_octets();
        if offset >= total || octets_max == 0 {
            return Ok(Bytes::new());
        }
        let chunk_octets = CHUNK_OCTETS as u64;
        let first = offset / chunk_octets;
        let end = total.min(offset.saturating_add(octets_max as u64));
        let last = ((end - 1) / chunk_octets).min(first + READ_CHUNKS_MAX - 1);
        let mut plain = self.open(first, last)?;
        let skip = usize::try_from(offset - first * chunk_octets).expect("below a chunk");
        plain.advance(skip);
        plain.truncate(octets_max);
        Ok(plain)
    }

    /// All of it; for properties and other small streams.
    ///
    /// # Errors
    ///
    /// As [`StreamReader::read_at`]; [`ReadError::Damaged`] also when the digest differs.
    pub fn read_all(&self, vault: &Vault) -> Result<Bytes, ReadError> {
        let mut all = Vec::new();
        let mut hasher = vault.hasher();
        self.each(|octets| {
            hasher.update(&octets);
            all.extend_from_slice(&octets);
        })?;
        self.compare(hasher.finish())?;
        Ok(all.into())
    }

    /// Reads everything and checks tags and digest.
    ///
    /// # Errors
    ///
    /// As [`StreamReader::read_all`].
    pub fn verify(&self, vault: &Vault) -> Result<(), ReadError> {
        let mut hasher = vault.hasher();
        self.each(|octets| hasher.update(&octets))?;
        self.compare(hasher.finish())
    }

    /// As [`StreamReader::verify`], from the disk itself, past the system's cache; asks after each piece whether to go on.
    pub(super) fn verify_from_disk(
        &self,
        vault: &Vault,
        mut go_on: impl FnMut(u64) -> GoOn,
    ) -> Result<GoOn, ReadError> {
        let mut hasher = vault.hasher();
        let chunks = self.opener.chunks();
        let mut first = 0;
        for extent in self.extents.iter() {
            self.space.forget_cached(*extent);
        }
        while first < chunks {
            let last = (first + READ_CHUNKS_MAX).min(chunks) - 1;
            let octets = self.open(first, last)?;
            hasher.update(&octets);
            if go_on(octets.len() as u64) == GoOn::Stop {
                return Ok(GoOn::Stop);
            }
            first = last + 1;
        }
        self.compare(hasher.finish()).map(|()| GoOn::Yes)
    }

    /// Opens every chunk, in order, those of padding included. An empty stream has one, too.
    pub(crate) fn each(&self, mut take: impl FnMut(Bytes)) -> Result<(), ReadError> {
        let chunks = self.opener.chunks();
        let mut first = 0;
        while first < chunks {
            let last = (first + READ_CHUNKS_MAX).min(chunks) - 1;
            take(self.open(first, last)?);
            first = last + 1;
        }
        Ok(())
    }

    pub(crate) fn compare(&self, found: Digest) -> Result<(), ReadError> {
        if found == self.digest {
            Ok(())
        } else {
            Err(self.damaged(self.opener.chunks()))
        }
    }

    /// The error for a damaged chunk. The stream is set aside: nothing more of it is served.
    fn damaged(&self, chunk: u64) -> ReadError {
        let error = ReadError::Damaged {
            address: self.address.clone(),
            part: self.part,
            chunk,
        };
        if let Some(watch) = &self.watch {
            let damage = Damage {
                address: self.address.to_string(),
                seq: watch.seq,
                revision: watch.revision,
                part: self.part.to_string(),
                stream: watch.id.to_string(),
                octets: self.plain_octets(),
                digest: data_encoding::HEXLOWER.encode(&self.digest.0),
                what: error.to_string(),
            };
            if watch.aside.set(&self.extents, damage) {
                tracing::error!(object = %self.address, part = %self.part, seq = watch.seq, chunk, "copy is damaged and set aside");
            }
        }
        error
    }

    /// Reads and opens the chunks `first..=last`.
    fn open(&self, first: u64, last: u64) -> Result<Bytes, ReadError> {
        let suite = self.opener.suite();
        let sealed_chunk = suite.sealed_chunk_octets() as u64;
        let from = first * sealed_chunk;
        let to = ((last + 1) * sealed_chunk).min(suite.sealed_octets(suite.padded_octets(self.plain_octets())));
        let length = to.checked_sub(from).ok_or_else(|| self.damaged(first))?;
        let mut octets = vec![0; usize::try_from(length).expect("a few chunks")];
        self.read_sealed(from, &mut octets)?;
        // Plaintext is packed to the front of the same buffer, chunk by chunk.
        let mut packed = 0;
        let mut at = 0;
        for chunk in first..=last {
            let end = (at + suite.sealed_chunk_octets()).min(octets.len());
            let plain = self
                .opener
                .open_in_place(chunk, &mut octets[at..end])
                .map_err(|damaged| self.damaged(damaged.chunk))?;
            octets.copy_within(at..at + plain, packed);
            packed += plain;
            at = end;
        }
        octets.truncate(packed);
        Ok(octets.into())
    }

    fn read_sealed(&self, mut from: u64, mut out: &mut [u8]) -> Result<(), ReadError> {
        let mut index = self.ends.partition_point(|&end| end <= from);
        while !out.is_empty() {
            let (Some(&extent), Some(&end)) = (self.extents.get(index), self.ends.get(index)) else {
                // The row names fewer blocks than its length needs.
                return Err(self.damaged(from / self.opener.suite().sealed_chunk_octets() as u64));
            };
            let within = extent.octets() - (end - from);
            let count = usize::try_from(end - from).unwrap_or(usize::MAX).min(out.len());
            let (now, later) = out.split_at_mut(count);
            self.space.read(extent, within, now).map_err(|source| ReadError::Io {
                address: self.address.clone(),
                part: self.part,
                source,
            })?;
            out = later;
            from += count as u64;
            index += 1;
        }
        Ok(())
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader")
            .field("address", &self.address)
            .field("part", &self.part)
            .field("plain_octets", &self.plain_octets())
            .finish_non_exhaustive()
    }
}
