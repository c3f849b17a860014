//! Copies between disk and frames: what a source ships, what a destination has in hand.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tracing::warn;
use uuid::Uuid;
use zones::{Address, Level, Tx};

use super::engine::{Done, Id};
use crate::copies::wire::{NO_TX, Word};
use crate::migration::guard::{Guard, stands};
use crate::migration::wire::{
    Copy, Either, INLINE_OCTETS_MAX, Origin, PART_OCTETS_MAX, Part as WirePart, Request, WriteId, write_frame,
};
use crate::migration::{CopyFacts, Digest, Digests};
use crate::objects::Local;
use crate::schema::Form;
use crate::store::{
    Content, Entry, ReadError, Received, Reservation, StagedStream, Store, StreamError, StreamSpec, WriteRecord,
};
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

/// Which parts of an object are meant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parts {
    pub(crate) properties: bool,
    pub(crate) body: bool,
}

impl Parts {
    pub(crate) const ALL: Parts = Parts {
        properties: true,
        body: true,
    };

    /// Those in which an entry differs from what was shipped.
    pub(crate) fn changed(entry: &Entry, had: &Shipped) -> Parts {
        let now = Shipped::of(entry);
        Parts {
            properties: now.properties != had.properties,
            body: now.body != had.body,
        }
    }

    pub(crate) fn any(self) -> bool {
        self.properties || self.body
    }
}

/// One copy on its way to a destination.
#[derive(Clone, Debug)]
pub struct Shipment {
    pub(crate) entry: Arc<Entry>,
    pub(crate) copy: Copy,
    pub(crate) shipped: Shipped,
    /// The properties as they are sent, where these are not those of the entry.
    pub(crate) back: Option<Back>,
    /// Whether it is to be held beside the owner's copy, and not to be moved.
    kept: bool,
}

/// Properties that were stepped back for a destination of an older release.
#[derive(Clone, Debug)]
pub(crate) struct Back {
    /// The stream that they were made of.
    pub(crate) of: StreamId,
    schema: u32,
    octets: Bytes,
    digest: Digest,
}

impl Back {
    /// Steps an entry's properties back to `newest`; `None` where they go as they are. Blocks.
    pub(crate) fn make(entry: &Entry, newest: u32, objects: &Local) -> Result<Option<Back>, ReadError> {
        let Some(stream) = entry.properties.as_ref().filter(|_| entry.schema > newest) else {
            return Ok(None);
        };
        let read = objects.store().read_all(entry, Part::Properties)?;
        let octets = match objects.stepper().bring(&entry.kind, entry.schema, newest, &read) {
            Ok(octets) => octets,
            Err(error) => {
                // It must not hold up the others: it goes as it is, and the destination says that it cannot read it.
                warn!(object = %entry.address, reason = error.reason(), "properties cannot be stepped back: they go as they are");
                return Ok(None);
            }
        };
        let mut hasher = objects.store().vault().hasher();
        hasher.update(&octets);
        Ok(Some(Back {
            of: stream.id,
            schema: newest,
            digest: hasher.finish().0,
            octets,
        }))
    }

    /// Digests of an entry whose properties are sent so.
    pub(crate) fn over(&self, digests: Digests) -> Digests {
        Digests {
            properties: Some(self.digest),
            ..digests
        }
    }
}

impl Shipped {
    pub(crate) fn of(entry: &Entry) -> Shipped {
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
    pub(crate) fn new(
        entry: Arc<Entry>,
        tx: Tx,
        staged: Option<u64>,
        before: Option<Shipped>,
        back: Option<Back>,
    ) -> Shipment {
        let shipped = Shipped::of(&entry);
        let before = before.filter(|before| staged == Some(before.revision));
        let part = |stream: &Option<crate::store::Stream>, had: Option<StreamId>| {
            stream.as_ref().map(|stream| WirePart {
                octets: stream.plain_octets,
                digest: stream.digest.0,
                follows: had != Some(stream.id),
            })
        };
        let back = back.filter(|back| shipped.properties == Some(back.of));
        let properties = part(&entry.properties, before.and_then(|before| before.properties));
        let properties = match &back {
            Some(back) => properties.map(|part| WirePart {
                octets: back.octets.len() as u64,
                digest: back.digest,
                ..part
            }),
            None => properties,
        };
        let copy = Copy {
            epoch: entry.epoch,
            tx,
            revision: entry.revision,
            kind: entry.kind.clone(),
            schema: back.as_ref().map_or(entry.schema, |back| back.schema),
            level: entry.level,
            properties,
            body: part(&entry.body, before.and_then(|before| before.body)),
            writes: entry.writes.iter().map(write_id).collect(),
            origin: Some(Origin {
                schema: entry.schema,
                key: entry
                    .streams()
                    .map(|(_, stream)| u64::from(stream.kek_generation.0))
                    .min(),
                actor: String::new(),
            }),
        };
        Shipment {
            entry,
            copy,
            shipped,
            back,
            kept: false,
        }
    }

    /// The present revision of an entry for a holder, of whose parts those follow that it lacks.
    pub(crate) fn kept(entry: Arc<Entry>, tx: Option<Tx>, lacks: Parts) -> Shipment {
        let mut shipment = Shipment::new(entry, tx.unwrap_or(NO_TX), None, None, None);
        shipment.kept = true;
        shipment.copy.origin = None;
        for (part, follows) in [
            (&mut shipment.copy.properties, lacks.properties),
            (&mut shipment.copy.body, lacks.body),
        ] {
            if let Some(part) = part {
                part.follows = follows;
            }
        }
        shipment
    }

    /// Whether it is to be held beside the owner's copy.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether nothing follows the head.
    pub(crate) fn is_head(&self) -> bool {
        follows(&self.copy).next().is_none()
    }

    /// The head as a message.
    pub(crate) fn message(&self) -> Either {
        match self.kept {
            true => Either::Copies(Word::Keep(self.copy.clone())),
            false => Either::Request(Request::Copy(self.copy.clone())),
        }
    }

    /// Says what asked for the move.
    pub(crate) fn asked_by(mut self, actor: &str) -> Shipment {
        if let Some(origin) = &mut self.copy.origin {
            actor.clone_into(&mut origin.actor);
        }
        self
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
        follows(&self.copy).map(|(part, _)| self.part(store, part)).collect()
    }

    /// One part as it is sent.
    fn part(&self, store: &Store, part: Part) -> Result<Bytes, ReadError> {
        match (part, &self.back) {
            (Part::Properties, Some(back)) => Ok(back.octets.clone()),
            (Part::Properties, None) | (Part::Body, _) => store.read_all(&self.entry, part),
        }
    }

    /// The properties, where they are sent in another form than that of the entry.
    pub(crate) fn stepped_back(&self) -> Option<Bytes> {
        self.back.as_ref().map(|back| back.octets.clone())
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
            payload.push(self.part(store, part)?);
        }
        let pieces: Vec<&[u8]> = payload.iter().map(|piece| &piece[..]).collect();
        let mut frame = BytesMut::new();
        write_frame(&mut frame, &self.entry.address, &self.message(), &pieces);
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
    /// How the properties are kept, if they came with this copy.
    form: Option<Form>,
}

/// A whole copy in the hands of the destination.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    pieces: Pieces,
    /// Its head as the source sent it, but for the level.
    pub(crate) copy: Copy,
    /// How its properties are kept here.
    pub(crate) form: Form,
    /// Its level at the source.
    level_from: Level,
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
            form: None,
        }
    }

    /// Properties that came, in the form in which they are kept.
    pub(crate) fn set_properties(&mut self, fresh: Fresh, form: Form) {
        self.properties = Piece::Fresh(fresh);
        self.form = Some(form);
    }

    pub(crate) fn set_body(&mut self, fresh: Fresh) {
        self.body = Piece::Fresh(fresh);
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
    pub(crate) fn new(copy: Copy, level_from: Level, mut pieces: Pieces, before: Option<&InHand>) -> Option<InHand> {
        let same = |part: Option<WirePart>, before: Option<WirePart>| match part {
            Some(part) if !part.follows => before.is_some_and(|before| before.digest == part.digest),
            Some(_) | None => true,
        };
        let before_copy = before.map(|before| &before.copy);
        let fits = same(copy.properties, before_copy.and_then(|before| before.properties))
            && same(copy.body, before_copy.and_then(|before| before.body))
            && (!copy.keeps_parts() || before_copy.is_none_or(|before| before.level == copy.level));
        let form = match (pieces.form.take(), before) {
            (Some(form), _) => form,
            (None, Some(before)) if copy.properties.is_some() => before.form.clone(),
            (None, _) => Form::as_it_is(copy.schema),
        };
        (fits && pieces.over(before)).then_some(InHand {
            pieces,
            copy,
            form,
            level_from,
        })
    }

    /// What a row says, after a restart.
    pub(crate) fn of_row(entry: &Entry, tx: Tx) -> InHand {
        let mut copy = Shipment::new(Arc::new(entry.clone()), tx, None, None, None).copy;
        let mut level_from = entry.level;
        if let Some(received) = &entry.received {
            copy.schema = received.schema;
            if let (Some(part), Some(digest)) = (&mut copy.properties, received.properties) {
                part.digest = digest.0;
            }
            level_from = Level(received.level);
            copy.origin = Some(Origin {
                schema: received.schema_before,
                key: received.key,
                actor: received.actor.clone(),
            });
        }
        let form = Form {
            schema: entry.schema,
            quarantined: entry.quarantined.clone(),
        };
        let pieces = Pieces::kept(&copy);
        InHand {
            pieces,
            copy,
            form,
            level_from,
        }
    }

    /// What the row keeps of the copy as it came: the seal's digests are compared with it after a restart, too.
    pub(crate) fn received(&self) -> Received {
        let origin = self.copy.origin.as_ref();
        Received {
            schema: self.copy.schema,
            properties: self.copy.properties.map(|part| crate::vault::Digest(part.digest)),
            schema_before: origin.map_or(self.copy.schema, |origin| origin.schema),
            level: self.level_from.0,
            key: origin.and_then(|origin| origin.key),
            actor: origin.map(|origin| origin.actor.clone()).unwrap_or_default(),
        }
    }

    /// The version that its properties were in, if they were stepped.
    pub(crate) fn migrated_from(&self) -> Option<u32> {
        (self.copy.schema != self.form.schema).then_some(self.copy.schema)
    }

    /// Whether a part of it is that of the row before.
    pub(crate) fn keeps_parts(&self) -> bool {
        [&self.pieces.properties, &self.pieces.body]
            .into_iter()
            .any(|piece| matches!(piece, Piece::Kept))
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
            schema: self.form.schema,
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
    pub(crate) objects: Arc<Local>,
    pub(crate) reservation: Option<Arc<Reservation>>,
    /// Whether it is written as it comes: it stays beside its owner's.
    pub(crate) as_it_is: bool,
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
        let mut pieces = Pieces::kept(copy);
        for ((part, head), octets) in follows(copy).zip(payload) {
            match part {
                Part::Properties => self.write_properties(address, copy, octets.clone(), &mut pieces)?,
                Part::Body => {
                    let spec = StreamSpec {
                        reservation: self.reservation.clone(),
                        ..spec(address, part, self.level, head.octets)
                    };
                    let mut writer = self.objects.store().writer(spec)?;
                    writer.write(octets)?;
                    let staged = writer.finish()?;
                    if staged.digest().0 != head.digest {
                        return Err(CopyFault::Damaged);
                    }
                    pieces.set_body(Fresh(staged));
                }
            }
        }
        read_back(self.objects.store(), &pieces.fresh())?;
        Ok(pieces)
    }

    /// Writes the properties of a large copy in the form in which they are kept here; blocks.
    pub(crate) fn write_properties(
        &self,
        address: &Address,
        copy: &Copy,
        octets: Bytes,
        pieces: &mut Pieces,
    ) -> Result<(), CopyFault> {
        let head = copy.properties.ok_or(CopyFault::Damaged)?;
        let (octets, form) = arrived(&self.objects, address, copy, head, octets, self.as_it_is)?;
        let spec = StreamSpec {
            reservation: self.reservation.clone(),
            ..spec(address, Part::Properties, self.level, octets.len() as u64)
        };
        let staged = self.objects.store().write_small(vec![(spec, octets)])?;
        let staged = staged.into_iter().next().expect("one stream for each wish");
        pieces.set_properties(Fresh(staged), form);
        Ok(())
    }
}

/// Properties as they came, checked, and brought to the form in which they are kept here.
fn arrived(
    objects: &Local,
    address: &Address,
    copy: &Copy,
    head: WirePart,
    octets: Bytes,
    as_it_is: bool,
) -> Result<(Bytes, Form), CopyFault> {
    let mut hasher = objects.store().vault().hasher();
    hasher.update(&octets);
    if octets.len() as u64 != head.octets || hasher.finish().0 != head.digest {
        return Err(CopyFault::Damaged);
    }
    if as_it_is {
        return Ok((octets, Form::as_it_is(copy.schema)));
    }
    Ok(objects.stepper().arrive(address, &copy.kind, copy.schema, &octets))
}

/// A small copy as it arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: Id,
    pub(crate) number: u64,
    pub(crate) address: Address,
    pub(crate) copy: Copy,
    pub(crate) payload: Bytes,
    /// Whether it is written as it comes: it stays beside its owner's.
    pub(crate) as_it_is: bool,
}

/// How the writing of a copy ended.
pub(crate) type Written = (Id, u64, Result<Pieces, CopyFault>);

/// Writes many small copies at once, each in the form in which it is kept here, and reads them back.
pub(crate) fn write_small(objects: &Local, arrivals: Vec<Arrival>) -> Vec<Written> {
    let store = objects.store();
    let mut outcomes = Vec::with_capacity(arrivals.len());
    let mut wishes = Vec::with_capacity(arrivals.len() * 2);
    let mut whole = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        match specs(objects, &arrival) {
            Ok((parts, form)) => {
                wishes.extend(parts);
                whole.push((arrival, form));
            }
            Err(fault) => outcomes.push((arrival.id, arrival.number, Err(fault))),
        }
    }
    let written = store.write_small(wishes).map_err(CopyFault::from).and_then(|staged| {
        read_back(store, &staged)?;
        Ok(staged)
    });
    match written {
        Ok(staged) => {
            let mut staged = staged.into_iter();
            for (arrival, form) in whole {
                let pieces = pieces(&arrival.copy, form, &mut staged);
                outcomes.push((arrival.id, arrival.number, pieces));
            }
        }
        // One copy without room, or damaged, is not to stop the others.
        Err(_) if whole.len() > 1 => {
            for (arrival, _) in whole {
                outcomes.extend(write_small(objects, vec![arrival]));
            }
        }
        Err(fault) => {
            let mut fault = Some(fault);
            for (arrival, _) in whole {
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

/// What to write for an arrival, and the form of its properties if they are not as they came.
type Specs = (Vec<(StreamSpec, Bytes)>, Option<Form>);

/// What to write for an arrival; damaged if its payload is not as long as its head says.
fn specs(objects: &Local, arrival: &Arrival) -> Result<Specs, CopyFault> {
    let mut rest = arrival.payload.clone();
    let mut specs = Vec::with_capacity(2);
    let mut form = None;
    let (address, copy) = (&arrival.address, &arrival.copy);
    for (part, head) in follows(copy) {
        let octets = usize::try_from(head.octets)
            .ok()
            .filter(|octets| *octets <= rest.len())
            .ok_or(CopyFault::Damaged)?;
        let mut octets = rest.split_to(octets);
        if part == Part::Properties && !arrival.as_it_is && objects.stepper().touches(&copy.kind, copy.schema) {
            let kept;
            (octets, kept) = arrived(objects, address, copy, head, octets, false)?;
            form = Some(kept);
        }
        specs.push((spec(address, part, copy.level, octets.len() as u64), octets));
    }
    match rest.is_empty() {
        true => Ok((specs, form)),
        false => Err(CopyFault::Damaged),
    }
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

/// The parts that were written. Those whose form was changed were checked before; the others have the digest of what came.
fn pieces(
    copy: &Copy,
    form: Option<Form>,
    staged: &mut impl Iterator<Item = StagedStream>,
) -> Result<Pieces, CopyFault> {
    let mut pieces = Pieces::kept(copy);
    let mut good = true;
    for (part, head) in follows(copy) {
        let staged = staged.next().expect("one stream for each wish");
        match (part, &form) {
            (Part::Properties, Some(form)) => pieces.set_properties(Fresh(staged), form.clone()),
            (Part::Properties, None) => {
                good &= staged.digest().0 == head.digest;
                pieces.set_properties(Fresh(staged), Form::as_it_is(copy.schema));
            }
            (Part::Body, _) => {
                good &= staged.digest().0 == head.digest;
                pieces.set_body(Fresh(staged));
            }
        }
    }
    if good { Ok(pieces) } else { Err(CopyFault::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only an answer that may come later is waited for: whatever else was tried again would be so for ever.
    #[test]
    fn copy_whose_data_key_does_not_open_ends_its_move_and_a_silent_key_provider_does_not() {
        let wrapped = VaultError::Wrapped {
            stream: StreamId([1; 16]),
            generation: crate::vault::Generation(1),
        };
        assert_eq!(ShipFault::from(&ReadError::Vault(wrapped)), ShipFault::Unreadable);
        let silent = ProviderError::Unavailable {
            provider: "pkcs11",
            source: "no answer".into(),
        };
        let silent = ReadError::Vault(VaultError::Provider(silent));
        assert_eq!(ShipFault::from(&silent), ShipFault::Broken);
        let aside = ReadError::SetAside {
            address: "3.1".parse().unwrap(),
            what: "found before".to_owned(),
        };
        assert_eq!(ShipFault::from(&aside), ShipFault::Unreadable);
    }
}
