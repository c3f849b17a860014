//! Copies between disk and frames: what a source ships, what a destination has in hand.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;
use zones::{Address, Level, Tx};

use super::engine::{Done, Id};
use crate::migration::guard::{Guard, stands};
use crate::migration::wire::{
    Copy, Either, INLINE_OCTETS_MAX, PART_OCTETS_MAX, Part as WirePart, Request, WriteId, write_frame,
};
use crate::migration::{CopyFacts, Digests};
use crate::store::{Content, Entry, ReadError, Reservation, StagedStream, Store, StreamError, StreamSpec, WriteRecord};
use crate::vault::envelope::STREAM_OCTETS_MAX;
use crate::vault::{Part, ProviderError, StreamId, VaultError};

const _: () = assert!(PART_OCTETS_MAX == STREAM_OCTETS_MAX, "a part is a stream of the store");

/// What was shipped last, so that a later copy sends only what changed, and the seal knows how much that is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shipped {
    pub(crate) revision: u64,
    properties: Option<StreamId>,
    body: Option<StreamId>,
}

/// Why a copy did not leave whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShipFault {
    /// The way to the destination broke.
    Broken,
    /// The copy does not open on this server.
    Unreadable,
}

impl From<&ReadError> for ShipFault {
    fn from(error: &ReadError) -> ShipFault {
        match error {
            // The key provider may answer again.
            ReadError::Vault(VaultError::Provider(ProviderError::Unavailable { .. })) | ReadError::NoPart { .. } => {
                ShipFault::Broken
            }
            ReadError::Damaged { .. } | ReadError::SetAside { .. } | ReadError::Io { .. } | ReadError::Vault(_) => {
                ShipFault::Unreadable
            }
        }
    }
}

/// One copy on its way to a destination.
#[derive(Clone, Debug)]
pub struct Shipment {
    pub(crate) entry: Arc<Entry>,
    pub(crate) copy: Copy,
    pub(crate) shipped: Shipped,
}

impl Shipped {
    fn of(entry: &Entry) -> Shipped {
        Shipped {
            revision: entry.revision,
            properties: entry.properties.as_ref().map(|stream| stream.id),
            body: entry.body.as_ref().map(|stream| stream.id),
        }
    }

    /// Octets in which an entry differs.
    pub(crate) fn difference_octets(&self, entry: &Entry) -> u64 {
        let now = Shipped::of(entry);
        let properties = if self.properties == now.properties {
            None
        } else {
            entry.properties.as_ref()
        };
        let body = if self.body == now.body {
            None
        } else {
            entry.body.as_ref()
        };
        [properties, body]
            .into_iter()
            .flatten()
            .map(|stream| stream.plain_octets)
            .sum()
    }
}

impl Shipment {
    /// The present revision of an entry, but for what the destination has: `before`, if its revision is `staged`.
    pub(crate) fn new(entry: Arc<Entry>, tx: Tx, staged: Option<u64>, before: Option<Shipped>) -> Shipment {
        let shipped = Shipped::of(&entry);
        let before = before.filter(|before| staged == Some(before.revision));
        let part = |stream: &Option<crate::store::Stream>, had: Option<StreamId>| {
            stream.as_ref().map(|stream| WirePart {
                octets: stream.plain_octets,
                digest: stream.digest.0,
                follows: had != Some(stream.id),
            })
        };
        let copy = Copy {
            epoch: entry.epoch,
            tx,
            revision: entry.revision,
            kind: entry.kind.clone(),
            schema: entry.schema,
            level: entry.level,
            properties: part(&entry.properties, before.and_then(|before| before.properties)),
            body: part(&entry.body, before.and_then(|before| before.body)),
            writes: entry.writes.iter().map(write_id).collect(),
        };
        Shipment { entry, copy, shipped }
    }

    /// The object.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.entry.address
    }

    /// Its head.
    #[must_use]
    pub fn copy(&self) -> &Copy {
        &self.copy
    }

    /// What the engine is told when it was handed over whole.
    #[must_use]
    pub fn shipped(&self) -> Shipped {
        self.shipped
    }

    /// The parts that follow the head, opened, for an outside that does not take them piece by piece.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn payload(&self, store: &Store) -> Result<Vec<Bytes>, ReadError> {
        follows(&self.copy)
            .map(|(part, _)| store.read_all(&self.entry, part))
            .collect()
    }

    /// Whether it fits a frame.
    pub(crate) fn is_small(&self) -> bool {
        let octets: u64 = follows(&self.copy).map(|(_, part)| part.octets).sum();
        octets <= INLINE_OCTETS_MAX
    }

    /// Its frame: opens the parts and puts them behind the head.
    pub(crate) fn frame(&self, store: &Store) -> Result<BytesMut, ReadError> {
        let mut payload: Vec<Bytes> = Vec::with_capacity(2);
        for (part, _) in follows(&self.copy) {
            payload.push(store.read_all(&self.entry, part)?);
        }
        let pieces: Vec<&[u8]> = payload.iter().map(|piece| &piece[..]).collect();
        let mut frame = BytesMut::new();
        let message = Either::Request(Request::Copy(self.copy.clone()));
        write_frame(&mut frame, &self.entry.address, &message, &pieces);
        Ok(frame)
    }
}

fn follows(copy: &Copy) -> impl Iterator<Item = (Part, WirePart)> {
    [(Part::Properties, copy.properties), (Part::Body, copy.body)]
        .into_iter()
        .filter_map(|(part, head)| head.filter(|head| head.follows).map(|head| (part, head)))
}

/// A part that was written for this move and is named by no row yet.
#[derive(Clone, Debug)]
pub(crate) struct Fresh(pub(crate) StagedStream);

/// Where one part of an arriving copy is.
#[derive(Clone, Debug)]
enum Piece {
    Absent,
    /// As in the copy before it.
    Kept,
    Fresh(Fresh),
}

/// The parts of an arriving copy.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    properties: Piece,
    body: Piece,
}

/// A whole copy in the hands of the destination.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    pieces: Pieces,
    pub(crate) copy: Copy,
}

/// Why a copy did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyFault {
    #[error("it broke off")]
    Broken,
    #[error("it is not what the source says it is")]
    Damaged,
    #[error("it cannot be written")]
    Write(#[from] StreamError),
    #[error("it cannot be read back")]
    ReadBack(#[from] ReadError),
}

impl Pieces {
    /// Nothing but what the source says is there already.
    pub(crate) fn kept(copy: &Copy) -> Pieces {
        let piece = |part: Option<WirePart>| if part.is_some() { Piece::Kept } else { Piece::Absent };
        Pieces {
            properties: piece(copy.properties),
            body: piece(copy.body),
        }
    }

    pub(crate) fn set(&mut self, part: Part, fresh: Fresh) {
        match part {
            Part::Properties => self.properties = Piece::Fresh(fresh),
            Part::Body => self.body = Piece::Fresh(fresh),
        }
    }

    /// What was written anew.
    pub(crate) fn fresh(&self) -> Vec<StagedStream> {
        [&self.properties, &self.body]
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Fresh(Fresh(staged)) => Some(staged.clone()),
                Piece::Absent | Piece::Kept => None,
            })
            .collect()
    }

    /// Takes over what is kept from the copy before it; false if there is nothing to keep.
    fn over(&mut self, before: Option<&InHand>) -> bool {
        let take = |piece: &mut Piece, before: Option<&Piece>| match (&piece, before) {
            (Piece::Kept, Some(before @ (Piece::Kept | Piece::Fresh(_)))) => {
                *piece = before.clone();
                true
            }
            (Piece::Kept, Some(Piece::Absent) | None) => false,
            (Piece::Absent | Piece::Fresh(_), Some(_) | None) => true,
        };
        take(&mut self.properties, before.map(|before| &before.pieces.properties))
            & take(&mut self.body, before.map(|before| &before.pieces.body))
    }
}

impl InHand {
    /// A copy that takes the place of `before`; `None` if it keeps what is not there, or keeps something else.
    pub(crate) fn new(copy: Copy, mut pieces: Pieces, before: Option<&InHand>) -> Option<InHand> {
        let same = |part: Option<WirePart>, before: Option<WirePart>| match part {
            Some(part) if !part.follows => before.is_some_and(|before| before.digest == part.digest),
            Some(_) | None => true,
        };
        let before_copy = before.map(|before| &before.copy);
        let fits = same(copy.properties, before_copy.and_then(|before| before.properties))
            && same(copy.body, before_copy.and_then(|before| before.body))
            && (!copy.keeps_parts() || before_copy.is_none_or(|before| before.level == copy.level));
        (fits && pieces.over(before)).then_some(InHand { pieces, copy })
    }

    /// What a row says, after a restart.
    pub(crate) fn of_row(entry: &Entry, tx: Tx) -> InHand {
        let shipment = Shipment::new(Arc::new(entry.clone()), tx, None, None);
        InHand {
            pieces: Pieces::kept(&shipment.copy),
            copy: shipment.copy,
        }
    }

    /// The row names all of it now.
    pub(crate) fn noted(&mut self) {
        for piece in [&mut self.pieces.properties, &mut self.pieces.body] {
            match piece {
                Piece::Fresh(_) => *piece = Piece::Kept,
                Piece::Absent | Piece::Kept => {}
            }
        }
    }

    /// What the machine is told.
    pub(crate) fn facts(&self) -> CopyFacts {
        CopyFacts {
            revision: self.copy.revision,
            digests: Digests {
                properties: self.copy.properties.map(|part| part.digest),
                body: self.copy.body.map(|part| part.digest),
            },
            kind: self.copy.kind.clone(),
            schema: self.copy.schema,
            level: self.copy.level,
        }
    }

    /// Its properties in an entry to be.
    pub(crate) fn properties(&self) -> Content {
        content(&self.pieces.properties)
    }

    /// Its body in an entry to be.
    pub(crate) fn body(&self) -> Content {
        content(&self.pieces.body)
    }

    /// The write ids that come with it.
    pub(crate) fn writes(&self) -> Vec<WriteRecord> {
        match stands(Guard::WriteIds) {
            true => self.copy.writes.iter().map(write_record).collect(),
            false => Vec::new(),
        }
    }
}

fn content(piece: &Piece) -> Content {
    match piece {
        Piece::Absent => Content::Absent,
        Piece::Kept => Content::Kept,
        Piece::Fresh(Fresh(staged)) => Content::Staged(staged.clone()),
    }
}

fn write_id(record: &WriteRecord) -> WriteId {
    WriteId {
        client: record.client.clone(),
        id: *record.id.as_bytes(),
        request_hash: record.request_hash,
        unix_ms: record.unix_ms,
        revision: record.revision,
    }
}

fn write_record(id: &WriteId) -> WriteRecord {
    WriteRecord {
        client: id.client.clone(),
        id: Uuid::from_bytes(id.id),
        request_hash: id.request_hash,
        unix_ms: id.unix_ms,
        revision: id.revision,
    }
}

/// A destination's leave to receive a large copy.
#[derive(Debug)]
pub struct Leave {
    pub(crate) id: Id,
    pub(crate) number: u64,
    /// What it is to be sealed at.
    pub(crate) level: Level,
    pub(crate) store: Arc<Store>,
    pub(crate) reservation: Option<Arc<Reservation>>,
}

impl Leave {
    /// Writes a large copy whose parts are all here and reads it back; blocks.
    #[must_use]
    pub fn write(self, address: &Address, copy: &Copy, payload: &[Bytes]) -> Done {
        let written = self.write_parts(address, copy, payload);
        Done::written_large((self.id, self.number, written))
    }

    /// The copy broke off.
    #[must_use]
    pub fn broken(self) -> Done {
        Done::written_large((self.id, self.number, Err(CopyFault::Broken)))
    }

    fn write_parts(&self, address: &Address, copy: &Copy, payload: &[Bytes]) -> Result<Pieces, CopyFault> {
        let mut staged = Vec::with_capacity(2);
        for ((part, head), octets) in follows(copy).zip(payload) {
            let spec = StreamSpec {
                reservation: self.reservation.clone(),
                ..spec(address, part, self.level, head.octets)
            };
            let mut writer = self.store.writer(spec)?;
            writer.write(octets)?;
            staged.push(writer.finish()?);
        }
        read_back(&self.store, &staged)?;
        pieces(copy, &mut staged.into_iter())
    }
}

/// A small copy as it arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: Id,
    pub(crate) number: u64,
    pub(crate) address: Address,
    pub(crate) copy: Copy,
    pub(crate) payload: Bytes,
}

/// How the writing of a copy ended.
pub(crate) type Written = (Id, u64, Result<Pieces, CopyFault>);

/// Writes many small copies at once and reads them back.
pub(crate) fn write_small(store: &Store, arrivals: Vec<Arrival>) -> Vec<Written> {
    let mut outcomes = Vec::with_capacity(arrivals.len());
    let mut wishes = Vec::with_capacity(arrivals.len() * 2);
    let mut whole = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        match specs(&arrival) {
            Some(parts) => {
                wishes.extend(parts);
                whole.push(arrival);
            }
            None => outcomes.push((arrival.id, arrival.number, Err(CopyFault::Damaged))),
        }
    }
    let written = store.write_small(wishes).map_err(CopyFault::from).and_then(|staged| {
        read_back(store, &staged)?;
        Ok(staged)
    });
    match written {
        Ok(staged) => {
            let mut staged = staged.into_iter();
            for arrival in whole {
                let pieces = pieces(&arrival.copy, &mut staged);
                outcomes.push((arrival.id, arrival.number, pieces));
            }
        }
        // One copy without room, or damaged, is not to stop the others.
        Err(_) if whole.len() > 1 => {
            for arrival in whole {
                outcomes.extend(write_small(store, vec![arrival]));
            }
        }
        Err(fault) => {
            let mut fault = Some(fault);
            for arrival in whole {
                let fault = fault.take().unwrap_or(CopyFault::Broken);
                outcomes.push((arrival.id, arrival.number, Err(fault)));
            }
        }
    }
    outcomes
}

/// Compares what is on disk with what was written.
fn read_back(store: &Store, staged: &[StagedStream]) -> Result<(), ReadError> {
    match stands(Guard::ReadBack) {
        true => store.verify(staged),
        false => Ok(()),
    }
}

/// What to write for an arrival; `None` if its payload is not as long as its head says.
fn specs(arrival: &Arrival) -> Option<Vec<(StreamSpec, Bytes)>> {
    let mut rest = arrival.payload.clone();
    let mut specs = Vec::with_capacity(2);
    for (part, head) in follows(&arrival.copy) {
        let octets = usize::try_from(head.octets)
            .ok()
            .filter(|octets| *octets <= rest.len())?;
        specs.push((
            spec(&arrival.address, part, arrival.copy.level, head.octets),
            rest.split_to(octets),
        ));
    }
    rest.is_empty().then_some(specs)
}

fn spec(address: &Address, part: Part, level: Level, octets: u64) -> StreamSpec {
    StreamSpec {
        address: address.clone(),
        part,
        level,
        octets_hint: Some(octets),
        reservation: None,
    }
}

fn pieces(copy: &Copy, staged: &mut impl Iterator<Item = StagedStream>) -> Result<Pieces, CopyFault> {
    let mut pieces = Pieces::kept(copy);
    let mut good = true;
    for (part, head) in follows(copy) {
        let staged = staged.next().expect("one stream for each wish");
        good &= staged.digest().0 == head.digest;
        pieces.set(part, Fresh(staged));
    }
    if good { Ok(pieces) } else { Err(CopyFault::Damaged) }
}
