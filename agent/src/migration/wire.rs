//! The messages of a move and their bytes.
//!
//! A frame is a big-endian `u32` with the octets that follow, a header, and a payload up to the end of the frame. The header is
//! one CBOR array (RFC 8949): tag, address, then the fields of that message in the order below. A reader skips fields beyond
//! those that it knows, so that a later release can add some; it refuses everything else.
//!
//! Specification: PROTOCOL.md section "Moving an object".

use bytes::{Bytes, BytesMut};
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use zones::{Address, AddressError, Epoch, Level, ObjectType, Tx};

use super::{Digest, Digests};
use crate::copies::wire::Word;

/// ALPN of a connection between two agents.
pub const ALPN: &[u8] = b"hn-move/1";
/// First octet of a stream of frames.
pub const LANE: u8 = 1;
/// First octet of the stream of one large copy: a frame, then the parts.
pub const LARGE: u8 = 2;
/// Largest frame after its length, in octets.
pub const FRAME_OCTETS_MAX: usize = 256 << 10;
/// A copy whose parts are together no larger than this travels in one frame; another has a stream of its own.
pub const INLINE_OCTETS_MAX: u64 = 64 << 10;
/// Most octets of one part: chunks of 64 KiB with numbers of 32 bits (STORE.md section 4).
pub const PART_OCTETS_MAX: u64 = 1 << 48;
/// Largest epoch and revision: integers that JSON carries (RFC 7493 section 2.2). At one write in a microsecond it takes 285
/// years to get there, so a larger one is no message, and nothing that counts on from it overflows.
pub const COUNTED_MAX: u64 = (1 << 53) - 1;
/// Most write ids of one object (DESIGN.md section 11).
pub const WRITES_MAX: usize = 64;
/// Longest text of what asked for a move, in octets.
pub const ACTOR_OCTETS_MAX: usize = 64;
/// Longest name of a client, in octets.
pub const CLIENT_OCTETS_MAX: usize = 64;

/// What a source says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Keep space for this object.
    Reserve {
        /// The source's epoch.
        epoch: Epoch,
        /// Names the move.
        tx: Tx,
        /// The object's type.
        kind: ObjectType,
        /// Version of its properties.
        schema: u32,
        /// Suite of its streams.
        level: Level,
        /// Number of client writes so far.
        revision: u64,
        /// Octets of both parts.
        octets: u64,
    },
    /// The register names you now: read it, and say what you have.
    Open {
        /// The source's epoch.
        epoch: Epoch,
        /// Names the move.
        tx: Tx,
    },
    /// What follows is the object at one revision.
    Copy(Copy),
    /// Writes are closed at `revision`.
    Seal {
        /// Names the move.
        tx: Tx,
        /// The last write's number.
        revision: u64,
        /// Digests in the source's form.
        digests: Digests,
    },
    /// Have you learned of a commit? Asks also what is staged.
    Ask {
        /// Names the move.
        tx: Tx,
        /// Number of the question; 0 if its answer allows nothing.
        ask: u32,
    },
    /// The source has stopped, durably, for the owner of `epoch`.
    FenceAnswered {
        /// The epoch of the fence.
        epoch: Epoch,
    },
    /// The move is over; drop what is staged.
    Abort {
        /// Names the move.
        tx: Tx,
    },
}

/// What a destination says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// Space is kept.
    Reserved {
        /// Names the move.
        tx: Tx,
    },
    /// No.
    Refused {
        /// Names the move.
        tx: Tx,
        /// Why not.
        why: Unwilling,
    },
    /// The register names us: send a copy, but for what is staged already.
    Ready {
        /// Names the move.
        tx: Tx,
        /// The revision that is staged.
        staged: Option<u64>,
        /// The newest version of the object's type that is read here; `None` if the type is kept as it is. Properties of a
        /// later version are stepped back by the source before they are sent.
        newest: Option<u32>,
    },
    /// A copy is whole, written and read back.
    Staged {
        /// Names the move.
        tx: Tx,
        /// Its revision.
        revision: u64,
    },
    /// What arrived is not what the source says it is.
    Damaged {
        /// Names the move.
        tx: Tx,
    },
    /// We have not learned of a commit.
    NotCommitted {
        /// Names the move.
        tx: Tx,
        /// Number of the question.
        ask: u32,
        /// The revision that is staged.
        staged: Option<u64>,
        /// Whether a copy is being received.
        busy: bool,
    },
    /// We own the object in `epoch`: stop, and say so.
    Fenced {
        /// The epoch.
        epoch: Epoch,
    },
    /// Nothing of this move is here.
    Dropped {
        /// Names the move.
        tx: Tx,
    },
}

/// Why a destination does not take an object.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Unwilling {
    /// The disk has no room.
    Full,
    /// Another move of the address is open here.
    Busy,
    /// This agent takes nothing now: it is stopping.
    Closed,
    /// The object's level is below the pool's floor, or this agent's release does not know it.
    Level,
}

/// The head of a copy; the octets of the parts that follow come after it, properties first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Copy {
    /// The source's epoch.
    pub epoch: Epoch,
    /// Names the move.
    pub tx: Tx,
    /// Number of client writes in it.
    pub revision: u64,
    /// The object's type.
    pub kind: ObjectType,
    /// Version of its properties.
    pub schema: u32,
    /// Suite of its streams at the source.
    pub level: Level,
    /// Its properties.
    pub properties: Option<Part>,
    /// Its body.
    pub body: Option<Part>,
    /// The write ids that the object remembers.
    pub writes: Vec<WriteId>,
    /// Where it comes from, for the audit log; `None` from a release before it.
    pub origin: Option<Origin>,
}

/// What the destination's audit log says of the source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// The version that the properties were in, before the source stepped them back.
    pub schema: u32,
    /// Generation of the key-encryption key of its streams; `None` for an object without streams.
    pub key: Option<u64>,
    /// What asked for the move, at most [`ACTOR_OCTETS_MAX`] octets.
    pub actor: String,
}

impl Copy {
    /// Whether a part of it is the one of the copy before.
    #[must_use]
    pub fn keeps_parts(&self) -> bool {
        [self.properties, self.body]
            .into_iter()
            .flatten()
            .any(|part| !part.follows)
    }
}

/// One part of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Its plaintext's length.
    pub octets: u64,
    /// Its digest.
    pub digest: Digest,
    /// Whether its octets follow; if not, the destination has them staged.
    pub follows: bool,
}

/// A write that was applied, so that its repetition is not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WriteId {
    /// Who wrote.
    pub client: String,
    /// The client's number of the write: a UUIDv7.
    pub id: [u8; 16],
    /// Hash of verb and content.
    pub request_hash: [u8; 32],
    /// When it was applied, milliseconds since 1970.
    pub unix_ms: u64,
    /// The revision that it made.
    pub revision: u64,
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The frame is larger than any message.
    #[error("a frame of {octets} octets is announced where at most {FRAME_OCTETS_MAX} are allowed")]
    FrameTooLong {
        /// Octets announced.
        octets: usize,
    },
    /// The header is no such CBOR.
    #[error("the header is malformed")]
    Cbor(#[from] minicbor::decode::Error),
    /// The address breaks its grammar.
    #[error("the header names an illegal address")]
    Address(#[from] AddressError),
    /// A value is outside its bounds.
    #[error("the header has an illegal {0}")]
    Value(&'static str),
    /// No message has this tag.
    #[error("no message has tag {0}")]
    Tag(u8),
    /// The header has fewer fields than its message.
    #[error("the header has {found} fields where {expected} belong")]
    Fields {
        /// Fields expected.
        expected: u64,
        /// Fields found.
        found: u64,
    },
}

/// A message that has a frame of its own.
pub trait Message: Sized {
    /// Writes the header.
    fn encode(&self, address: &Address, header: &mut Header<'_>);

    /// Reads the header whose tag was read.
    ///
    /// # Errors
    ///
    /// [`WireError`] for a tag or a field that is not one.
    fn decode(tag: u8, fields: &mut Fields<'_, '_>) -> Result<Self, WireError>;
}

/// Appends one frame: the message about `address`, then `payload`.
///
/// # Panics
///
/// If the frame is longer than [`FRAME_OCTETS_MAX`]: the caller sends a large copy in a stream of its own.
pub fn write_frame<M: Message>(out: &mut BytesMut, address: &Address, message: &M, payload: &[&[u8]]) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut header = Header {
        encoder: Encoder::new(Sink(out)),
    };
    message.encode(address, &mut header);
    for piece in payload {
        out.extend_from_slice(piece);
    }
    let octets = out.len() - begin - 4;
    assert!(octets <= FRAME_OCTETS_MAX, "a frame is bounded by who fills it");
    let length = u32::try_from(octets).expect("FRAME_OCTETS_MAX fits");
    out[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes one whole frame off the front of what was received; `None` if more has to come first.
///
/// # Errors
///
/// [`WireError::FrameTooLong`].
pub fn take_frame(received: &mut BytesMut) -> Result<Option<Bytes>, WireError> {
    let Some(length) = received.first_chunk::<4>() else {
        return Ok(None);
    };
    let octets = u32::from_be_bytes(*length) as usize;
    if octets > FRAME_OCTETS_MAX {
        return Err(WireError::FrameTooLong { octets });
    }
    if received.len() < 4 + octets {
        return Ok(None);
    }
    let mut frame = received.split_to(4 + octets).freeze();
    Ok(Some(frame.split_off(4)))
}

/// Reads a frame: the message, what it is about, and its payload.
///
/// # Errors
///
/// [`WireError`] for bytes that are no such message.
pub fn read_frame<M: Message>(frame: &Bytes) -> Result<(Address, M, Bytes), WireError> {
    let mut decoder = Decoder::new(frame);
    let count = decoder
        .array()?
        .ok_or(WireError::Value("header: its length must be known"))?;
    if count < 2 {
        return Err(WireError::Fields {
            expected: 2,
            found: count,
        });
    }
    let tag = decoder.u8()?;
    let address = decoder.str()?.parse::<Address>()?;
    let mut fields = Fields {
        decoder: &mut decoder,
        left: count - 2,
        count,
    };
    let message = M::decode(tag, &mut fields)?;
    let left = fields.left;
    for _ in 0..left {
        decoder.skip()?;
    }
    let payload = frame.slice(decoder.position()..);
    Ok((address, message, payload))
}

impl Message for Request {
    fn encode(&self, address: &Address, header: &mut Header<'_>) {
        match self {
            Request::Reserve {
                epoch,
                tx,
                kind,
                schema,
                level,
                revision,
                octets,
            } => {
                header.begin(1, address, 7);
                header.number(epoch.0);
                header.octets(&tx.0);
                header.text(kind.as_str());
                header.number((*schema).into());
                header.number(level.0.into());
                header.number(*revision);
                header.number(*octets);
            }
            Request::Open { epoch, tx } => {
                header.begin(2, address, 2);
                header.number(epoch.0);
                header.octets(&tx.0);
            }
            Request::Copy(copy) => header.copy(3, address, copy),
            Request::Seal { tx, revision, digests } => {
                header.begin(4, address, 4);
                header.octets(&tx.0);
                header.number(*revision);
                header.digest(digests.properties.as_ref());
                header.digest(digests.body.as_ref());
            }
            Request::Ask { tx, ask } => {
                header.begin(5, address, 2);
                header.octets(&tx.0);
                header.number((*ask).into());
            }
            Request::FenceAnswered { epoch } => {
                header.begin(6, address, 1);
                header.number(epoch.0);
            }
            Request::Abort { tx } => {
                header.begin(7, address, 1);
                header.octets(&tx.0);
            }
        }
    }

    fn decode(tag: u8, fields: &mut Fields<'_, '_>) -> Result<Self, WireError> {
        Ok(match tag {
            1 => {
                fields.expect(7)?;
                Request::Reserve {
                    epoch: fields.epoch()?,
                    tx: fields.tx()?,
                    kind: fields.kind()?,
                    schema: fields.number_u32("schema")?,
                    level: fields.level()?,
                    revision: fields.counted("revision")?,
                    octets: fields.octets_up_to(2 * PART_OCTETS_MAX)?,
                }
            }
            2 => {
                fields.expect(2)?;
                Request::Open {
                    epoch: fields.epoch()?,
                    tx: fields.tx()?,
                }
            }
            3 => Request::Copy(fields.copy()?),
            4 => {
                fields.expect(4)?;
                Request::Seal {
                    tx: fields.tx()?,
                    revision: fields.counted("revision")?,
                    digests: Digests {
                        properties: fields.digest()?,
                        body: fields.digest()?,
                    },
                }
            }
            5 => {
                fields.expect(2)?;
                Request::Ask {
                    tx: fields.tx()?,
                    ask: fields.number_u32("number of a question")?,
                }
            }
            6 => {
                fields.expect(1)?;
                Request::FenceAnswered { epoch: fields.epoch()? }
            }
            7 => {
                fields.expect(1)?;
                Request::Abort { tx: fields.tx()? }
            }
            0 | 8.. => return Err(WireError::Tag(tag)),
        })
    }
}

impl Message for Reply {
    fn encode(&self, address: &Address, header: &mut Header<'_>) {
        match self {
            Reply::Reserved { tx } => {
                header.begin(65, address, 1);
                header.octets(&tx.0);
            }
            Reply::Refused { tx, why } => {
                header.begin(66, address, 2);
                header.octets(&tx.0);
                header.number(why.number());
            }
            Reply::Ready { tx, staged, newest } => {
                header.begin(67, address, 3);
                header.octets(&tx.0);
                header.optional(*staged);
                header.optional(newest.map(u64::from));
            }
            Reply::Staged { tx, revision } => {
                header.begin(68, address, 2);
                header.octets(&tx.0);
                header.number(*revision);
            }
            Reply::Damaged { tx } => {
                header.begin(69, address, 1);
                header.octets(&tx.0);
            }
            Reply::NotCommitted { tx, ask, staged, busy } => {
                header.begin(70, address, 4);
                header.octets(&tx.0);
                header.number((*ask).into());
                header.optional(*staged);
                header.flag(*busy);
            }
            Reply::Fenced { epoch } => {
                header.begin(71, address, 1);
                header.number(epoch.0);
            }
            Reply::Dropped { tx } => {
                header.begin(72, address, 1);
                header.octets(&tx.0);
            }
        }
    }

    fn decode(tag: u8, fields: &mut Fields<'_, '_>) -> Result<Self, WireError> {
        Ok(match tag {
            65 => {
                fields.expect(1)?;
                Reply::Reserved { tx: fields.tx()? }
            }
            66 => {
                fields.expect(2)?;
                Reply::Refused {
                    tx: fields.tx()?,
                    why: Unwilling::from_number(fields.number()?)?,
                }
            }
            67 => {
                fields.expect(2)?;
                Reply::Ready {
                    tx: fields.tx()?,
                    staged: fields.optional()?,
                    // A release before schemas says nothing of them.
                    newest: match fields.has_more() {
                        true => fields.optional_u32("schema")?,
                        false => None,
                    },
                }
            }
            68 => {
                fields.expect(2)?;
                Reply::Staged {
                    tx: fields.tx()?,
                    revision: fields.counted("revision")?,
                }
            }
            69 => {
                fields.expect(1)?;
                Reply::Damaged { tx: fields.tx()? }
            }
            70 => {
                fields.expect(4)?;
                Reply::NotCommitted {
                    tx: fields.tx()?,
                    ask: fields.number_u32("number of a question")?,
                    staged: fields.optional()?,
                    busy: fields.flag()?,
                }
            }
            71 => {
                fields.expect(1)?;
                Reply::Fenced { epoch: fields.epoch()? }
            }
            72 => {
                fields.expect(1)?;
                Reply::Dropped { tx: fields.tx()? }
            }
            0..=64 | 73.. => return Err(WireError::Tag(tag)),
        })
    }
}

/// Either: each agent of a pair may be the source of some objects and the destination of others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Either {
    /// To a destination.
    Request(Request),
    /// To a source.
    Reply(Reply),
    /// Of copies that stay beside their owner's.
    Copies(Word),
}

impl Message for Either {
    fn encode(&self, address: &Address, header: &mut Header<'_>) {
        match self {
            Either::Request(request) => request.encode(address, header),
            Either::Reply(reply) => reply.encode(address, header),
            Either::Copies(word) => word.encode(address, header),
        }
    }

    fn decode(tag: u8, fields: &mut Fields<'_, '_>) -> Result<Self, WireError> {
        match tag {
            0..REPLIES_FROM => Request::decode(tag, fields).map(Either::Request),
            REPLIES_FROM..WORDS_FROM => Reply::decode(tag, fields).map(Either::Reply),
            WORDS_FROM.. => Word::decode(tag, fields).map(Either::Copies),
        }
    }
}

/// Smallest tag of a reply.
const REPLIES_FROM: u8 = 65;
/// Smallest tag of a word about copies.
const WORDS_FROM: u8 = 128;

impl Unwilling {
    fn number(self) -> u64 {
        match self {
            Unwilling::Full => 1,
            Unwilling::Busy => 2,
            Unwilling::Closed => 3,
            Unwilling::Level => 4,
        }
    }

    fn from_number(number: u64) -> Result<Unwilling, WireError> {
        match number {
            1 => Ok(Unwilling::Full),
            2 => Ok(Unwilling::Busy),
            3 => Ok(Unwilling::Closed),
            4 => Ok(Unwilling::Level),
            0 | 5.. => Err(WireError::Value("reason")),
        }
    }
}

struct Sink<'a>(&'a mut BytesMut);

impl minicbor::encode::Write for Sink<'_> {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, octets: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(octets);
        Ok(())
    }
}

/// Writes the header of one message.
pub struct Header<'a> {
    encoder: Encoder<Sink<'a>>,
}

/// Why no error can come: the sink grows.
const GROWS: &str = "a growing buffer takes everything";

impl Header<'_> {
    pub(crate) fn begin(&mut self, tag: u8, address: &Address, fields: u64) {
        let encoder = self.encoder.array(fields + 2).expect(GROWS);
        encoder.u8(tag).expect(GROWS).str(address.as_str()).expect(GROWS);
    }

    pub(crate) fn copy(&mut self, tag: u8, address: &Address, copy: &Copy) {
        self.begin(tag, address, if copy.origin.is_some() { 12 } else { 9 });
        self.number(copy.epoch.0);
        self.octets(&copy.tx.0);
        self.number(copy.revision);
        self.text(copy.kind.as_str());
        self.number(copy.schema.into());
        self.number(copy.level.0.into());
        self.part(copy.properties.as_ref());
        self.part(copy.body.as_ref());
        self.writes(&copy.writes);
        if let Some(origin) = &copy.origin {
            self.number(origin.schema.into());
            self.optional(origin.key);
            self.text(&origin.actor);
        }
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.encoder.u64(number).expect(GROWS);
    }

    fn optional(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => {
                self.encoder.null().expect(GROWS);
            }
        }
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.encoder.bool(flag).expect(GROWS);
    }

    fn text(&mut self, text: &str) {
        self.encoder.str(text).expect(GROWS);
    }

    pub(crate) fn octets(&mut self, octets: &[u8]) {
        self.encoder.bytes(octets).expect(GROWS);
    }

    fn digest(&mut self, digest: Option<&Digest>) {
        match digest {
            Some(digest) => self.octets(digest),
            None => {
                self.encoder.null().expect(GROWS);
            }
        }
    }

    fn part(&mut self, part: Option<&Part>) {
        match part {
            Some(part) => {
                self.encoder.array(3).expect(GROWS);
                self.number(part.octets);
                self.octets(&part.digest);
                self.flag(part.follows);
            }
            None => {
                self.encoder.null().expect(GROWS);
            }
        }
    }

    fn writes(&mut self, writes: &[WriteId]) {
        self.encoder.array(writes.len() as u64).expect(GROWS);
        for write in writes {
            self.encoder.array(5).expect(GROWS);
            self.text(&write.client);
            self.octets(&write.id);
            self.octets(&write.request_hash);
            self.number(write.unix_ms);
            self.number(write.revision);
        }
    }
}

/// Reads the fields of one message.
pub struct Fields<'a, 'b> {
    decoder: &'a mut Decoder<'b>,
    left: u64,
    count: u64,
}

impl Fields<'_, '_> {
    pub(crate) fn expect(&mut self, fields: u64) -> Result<(), WireError> {
        match self.left.checked_sub(fields) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(WireError::Fields {
                expected: fields + 2,
                found: self.count,
            }),
        }
    }

    pub(crate) fn copy(&mut self) -> Result<Copy, WireError> {
        self.expect(9)?;
        Ok(Copy {
            epoch: self.epoch()?,
            tx: self.tx()?,
            revision: self.counted("revision")?,
            kind: self.kind()?,
            schema: self.number_u32("schema")?,
            level: self.level()?,
            properties: self.part()?,
            body: self.part()?,
            writes: self.writes()?,
            origin: self.origin()?,
        })
    }

    pub(crate) fn number(&mut self) -> Result<u64, WireError> {
        Ok(self.decoder.u64()?)
    }

    /// A number that others count up and that JSON must carry.
    pub(crate) fn counted(&mut self, what: &'static str) -> Result<u64, WireError> {
        match self.number()? {
            number if number <= COUNTED_MAX => Ok(number),
            _ => Err(WireError::Value(what)),
        }
    }

    fn octets_up_to(&mut self, most: u64) -> Result<u64, WireError> {
        match self.number()? {
            octets if octets <= most => Ok(octets),
            _ => Err(WireError::Value("number of octets")),
        }
    }

    pub(crate) fn number_u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        u32::try_from(self.number()?).map_err(|_| WireError::Value(what))
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, WireError> {
        match self.counted("epoch")? {
            0 => Err(WireError::Value("epoch")),
            epoch => Ok(Epoch(epoch)),
        }
    }

    fn level(&mut self) -> Result<Level, WireError> {
        match u8::try_from(self.number()?) {
            Ok(level) if level > 0 => Ok(Level(level)),
            Ok(_) | Err(_) => Err(WireError::Value("level")),
        }
    }

    fn kind(&mut self) -> Result<ObjectType, WireError> {
        self.decoder.str()?.parse().map_err(|_| WireError::Value("type"))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, WireError> {
        Ok(self.decoder.bool()?)
    }

    fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        self.decoder.bytes()?.try_into().map_err(|_| WireError::Value(what))
    }

    pub(crate) fn tx(&mut self) -> Result<Tx, WireError> {
        Ok(Tx(self.fixed("tx")?))
    }

    fn is_null(&mut self) -> Result<bool, WireError> {
        if self.decoder.datatype()? == Type::Null {
            self.decoder.null()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn optional(&mut self) -> Result<Option<u64>, WireError> {
        if self.is_null()? {
            return Ok(None);
        }
        self.number().map(Some)
    }

    fn origin(&mut self) -> Result<Option<Origin>, WireError> {
        if self.left < 3 {
            return Ok(None);
        }
        self.left -= 3;
        let (schema, key) = (self.number_u32("schema")?, self.optional()?);
        let actor = self.decoder.str()?;
        if actor.len() > ACTOR_OCTETS_MAX {
            return Err(WireError::Value("actor"));
        }
        Ok(Some(Origin {
            schema,
            key,
            actor: actor.to_owned(),
        }))
    }

    /// Whether this message has a field beyond those that were read, which a later release added; it is to be read next.
    fn has_more(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn optional_u32(&mut self, what: &'static str) -> Result<Option<u32>, WireError> {
        let number = self.optional()?;
        number
            .map(|number| u32::try_from(number).map_err(|_| WireError::Value(what)))
            .transpose()
    }

    fn digest(&mut self) -> Result<Option<Digest>, WireError> {
        if self.is_null()? {
            return Ok(None);
        }
        self.fixed("digest").map(Some)
    }

    fn part(&mut self) -> Result<Option<Part>, WireError> {
        if self.is_null()? {
            return Ok(None);
        }
        if self.decoder.array()? != Some(3) {
            return Err(WireError::Value("part"));
        }
        Ok(Some(Part {
            octets: self.octets_up_to(PART_OCTETS_MAX)?,
            digest: self.fixed("digest")?,
            follows: self.flag()?,
        }))
    }

    fn writes(&mut self) -> Result<Vec<WriteId>, WireError> {
        let count = self.decoder.array()?.unwrap_or(u64::MAX);
        if count > WRITES_MAX as u64 {
            return Err(WireError::Value("number of write ids"));
        }
        (0..count)
            .map(|_| {
                if self.decoder.array()? != Some(5) {
                    return Err(WireError::Value("write id"));
                }
                let client = self.decoder.str()?.to_owned();
                if client.len() > CLIENT_OCTETS_MAX {
                    return Err(WireError::Value("name of a client"));
                }
                Ok(WriteId {
                    client,
                    id: self.fixed("write id")?,
                    request_hash: self.fixed("hash")?,
                    unix_ms: self.number()?,
                    revision: self.counted("revision")?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tx() -> impl Strategy<Value = Tx> {
        any::<[u8; 16]>().prop_map(Tx)
    }

    fn epoch() -> impl Strategy<Value = Epoch> {
        (1..=COUNTED_MAX).prop_map(Epoch)
    }

    fn part() -> impl Strategy<Value = Option<Part>> {
        proptest::option::of((0..=PART_OCTETS_MAX, any::<[u8; 32]>(), any::<bool>()).prop_map(
            |(octets, digest, follows)| Part {
                octets,
                digest,
                follows,
            },
        ))
    }

    fn write() -> impl Strategy<Value = WriteId> {
        (
            "[a-z]{1,64}",
            any::<[u8; 16]>(),
            any::<[u8; 32]>(),
            any::<u64>(),
            0..=COUNTED_MAX,
        )
            .prop_map(|(client, id, request_hash, unix_ms, revision)| WriteId {
                client,
                id,
                request_hash,
                unix_ms,
                revision,
            })
    }

    fn kind() -> impl Strategy<Value = ObjectType> {
        "[!-~]{1,64}".prop_map(|text| text.parse().unwrap())
    }

    fn level() -> impl Strategy<Value = Level> {
        (1..=u8::MAX).prop_map(Level)
    }

    fn digests() -> impl Strategy<Value = Digests> {
        any::<(Option<[u8; 32]>, Option<[u8; 32]>)>().prop_map(|(properties, body)| Digests { properties, body })
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (
                epoch(),
                tx(),
                kind(),
                any::<u32>(),
                level(),
                0..=COUNTED_MAX,
                0..=2 * PART_OCTETS_MAX
            )
                .prop_map(|(epoch, tx, kind, schema, level, revision, octets)| Request::Reserve {
                    epoch,
                    tx,
                    kind,
                    schema,
                    level,
                    revision,
                    octets
                }),
            (epoch(), tx()).prop_map(|(epoch, tx)| Request::Open { epoch, tx }),
            copy().prop_map(Request::Copy),
            (tx(), 0..=COUNTED_MAX, digests()).prop_map(|(tx, revision, digests)| Request::Seal {
                tx,
                revision,
                digests
            }),
            (tx(), any::<u32>()).prop_map(|(tx, ask)| Request::Ask { tx, ask }),
            epoch().prop_map(|epoch| Request::FenceAnswered { epoch }),
            tx().prop_map(|tx| Request::Abort { tx }),
        ]
    }

    pub(crate) fn copy() -> impl Strategy<Value = Copy> {
        (
            (epoch(), tx(), 0..=COUNTED_MAX, kind(), any::<u32>(), level()),
            (part(), part(), proptest::collection::vec(write(), 0..=64)),
            proptest::option::of((any::<u32>(), any::<Option<u64>>(), "[a-z0-9 ,]{0,64}")),
        )
            .prop_map(
                |((epoch, tx, revision, kind, schema, level), (properties, body, writes), origin)| Copy {
                    origin: origin.map(|(schema, key, actor)| Origin { schema, key, actor }),
                    epoch,
                    tx,
                    revision,
                    kind,
                    schema,
                    level,
                    properties,
                    body,
                    writes,
                },
            )
    }

    fn reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            tx().prop_map(|tx| Reply::Reserved { tx }),
            (tx(), 1..=4u64).prop_map(|(tx, why)| Reply::Refused {
                tx,
                why: Unwilling::from_number(why).unwrap()
            }),
            (tx(), any::<Option<u64>>(), any::<Option<u32>>()).prop_map(|(tx, staged, newest)| Reply::Ready {
                tx,
                staged,
                newest,
            }),
            (tx(), 0..=COUNTED_MAX).prop_map(|(tx, revision)| Reply::Staged { tx, revision }),
            tx().prop_map(|tx| Reply::Damaged { tx }),
            (tx(), any::<u32>(), any::<Option<u64>>(), any::<bool>())
                .prop_map(|(tx, ask, staged, busy)| { Reply::NotCommitted { tx, ask, staged, busy } }),
            epoch().prop_map(|epoch| Reply::Fenced { epoch }),
            tx().prop_map(|tx| Reply::Dropped { tx }),
        ]
    }

    fn address() -> impl Strategy<Value = Address> {
        "[0-9A-Za-z_-]{1,9}(\\.[0-9A-Za-z_-]{1,9}){0,4}".prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        #[test]
        fn request_is_read_back_with_its_payload(address in address(), request in request(), payload: Vec<u8>) {
            let mut out = BytesMut::new();
            write_frame(&mut out, &address, &request, &[&payload]);
            let frame = take_frame(&mut out).unwrap().unwrap();
            prop_assert!(out.is_empty());
            let (read_address, read, read_payload) = read_frame::<Request>(&frame).unwrap();
            prop_assert_eq!((read_address, read, &read_payload[..]), (address, request, &payload[..]));
        }

        #[test]
        fn reply_is_read_back(address in address(), reply in reply()) {
            let mut out = BytesMut::new();
            write_frame(&mut out, &address, &reply, &[]);
            let frame = take_frame(&mut out).unwrap().unwrap();
            let (read_address, read, payload) = read_frame::<Reply>(&frame).unwrap();
            prop_assert_eq!((read_address, read, payload.len()), (address, reply, 0));
        }

        #[test]
        fn cut_frame_waits_for_the_rest(address in address(), request in request(), cut in any::<prop::sample::Index>()) {
            let mut whole = BytesMut::new();
            write_frame(&mut whole, &address, &request, &[]);
            let mut front = BytesMut::from(&whole[..cut.index(whole.len())]);
            prop_assert!(take_frame(&mut front).unwrap().is_none());
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            drop(read_frame::<Request>(&bytes));
            drop(read_frame::<Reply>(&bytes));
            drop(take_frame(&mut BytesMut::from(&bytes[..])));
        }

        /// One flipped octet either changes the message or is refused; it never panics.
        #[test]
        fn changed_frame_is_another_message_or_an_error(request in request(), at in any::<prop::sample::Index>(), flip in 1..=u8::MAX) {
            let mut out = BytesMut::new();
            write_frame(&mut out, &"1.2".parse().unwrap(), &request, &[]);
            let at = at.index(out.len() - 4) + 4;
            out[at] ^= flip;
            if let Ok(Some(frame)) = take_frame(&mut out) {
                drop(read_frame::<Request>(&frame));
            }
        }
    }

    #[test]
    fn frame_larger_than_any_message_is_refused_before_it_is_received() {
        let mut received = BytesMut::from(&[0xFF, 0, 0, 0][..]);
        assert!(matches!(take_frame(&mut received), Err(WireError::FrameTooLong { .. })));
    }

    /// Sums and roundings of what is let in stay far from the end of `u64`.
    #[test]
    fn more_octets_than_an_object_can_have_are_refused() {
        let reserve = |octets| Request::Reserve {
            epoch: Epoch(1),
            tx: Tx([1; 16]),
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
            revision: 1,
            octets,
        };
        let copy = |octets| {
            Request::Copy(Copy {
                origin: None,
                epoch: Epoch(1),
                tx: Tx([1; 16]),
                revision: 1,
                kind: "photo".parse().unwrap(),
                schema: 1,
                level: Level(1),
                properties: None,
                body: Some(Part {
                    octets,
                    digest: [2; 32],
                    follows: true,
                }),
                writes: Vec::new(),
            })
        };
        let read = |request: Request| {
            let mut out = BytesMut::new();
            write_frame(&mut out, &"1".parse().unwrap(), &request, &[]);
            read_frame::<Request>(&out.freeze().slice(4..))
        };
        for (most, above) in [
            (reserve(1 << 49), reserve((1 << 49) + 1)),
            (copy(1 << 48), copy((1 << 48) + 1)),
            (reserve(0), reserve(u64::MAX)),
        ] {
            assert!(read(most).is_ok());
            assert!(matches!(read(above), Err(WireError::Value("number of octets"))));
        }
    }

    #[test]
    fn fields_of_a_later_release_are_skipped() {
        let mut header = Vec::new();
        let mut encoder = Encoder::new(&mut header);
        encoder.array(4).unwrap().u8(7).unwrap().str("1.2").unwrap();
        encoder
            .bytes(&[7; 16])
            .unwrap()
            .map(1)
            .unwrap()
            .u8(1)
            .unwrap()
            .str("new")
            .unwrap();
        header.extend_from_slice(b"payload");
        let (_, request, payload) = read_frame::<Request>(&Bytes::from(header)).unwrap();
        assert_eq!(request, Request::Abort { tx: Tx([7; 16]) });
        assert_eq!(&payload[..], b"payload");
    }

    #[test]
    fn bytes_of_a_message_are_as_documented() {
        let mut out = BytesMut::new();
        write_frame(
            &mut out,
            &"1.2".parse().unwrap(),
            &Request::Open {
                epoch: Epoch(7),
                tx: Tx([0xAB; 16]),
            },
            &[],
        );
        let mut expected = vec![0, 0, 0, 24, 0x84, 0x02, 0x63, b'1', b'.', b'2', 0x07, 0x50];
        expected.extend_from_slice(&[0xAB; 16]);
        assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn revision_from_which_nobody_could_count_on_is_no_message() {
        let at: Address = "1.2".parse().unwrap();
        let sent = |revision| {
            let mut out = BytesMut::new();
            let seal = Request::Seal {
                tx: Tx([1; 16]),
                revision,
                digests: Digests::default(),
            };
            write_frame(&mut out, &at, &Either::Request(seal), &[]);
            let frame = take_frame(&mut out).unwrap().unwrap();
            read_frame::<Either>(&frame).map(drop)
        };
        assert!(sent(COUNTED_MAX).is_ok());
        assert!(matches!(sent(COUNTED_MAX + 1), Err(WireError::Value("revision"))));
        assert!(sent(u64::MAX).is_err());
    }
}
