//! Where the TSIG record lies in a message, and its fields.

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::key::ALGORITHM;

/// Octets of a message header (RFC 1035 section 4.1.1).
pub(super) const HEADER_OCTETS: usize = 12;
/// Where ARCOUNT lies in it.
const ARCOUNT_AT: usize = 10;
const TYPE_TSIG: u16 = 250;
const CLASS_ANY: u16 = 255;

/// The fields of a TSIG record (RFC 8945 section 4.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fields {
    /// Name of the key in lower case.
    pub key: Name,
    /// The same, as it is digested.
    pub key_wire: Vec<u8>,
    /// Name of the algorithm in wire form and lower case.
    pub algorithm: Vec<u8>,
    pub time_s: u64,
    pub fudge_s: u16,
    pub mac: Vec<u8>,
    pub original_id: u16,
    pub error: u16,
    pub other: Vec<u8>,
}

/// A message is not of the form that lets a signature be looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// A message cut at its TSIG record.
pub(super) struct Cut<'a> {
    /// Everything before the record. The header still counts it.
    pub before: &'a [u8],
    pub fields: Fields,
}

/// Finds the TSIG record: `None` for an unsigned message.
///
/// The record must be the last, the only one, of class ANY and TTL 0, and nothing may follow it: what lies behind it
/// would not be covered by the MAC (RFC 8945 section 5.1).
pub(super) fn cut(message: &[u8]) -> Result<Option<Cut<'_>>, Malformed> {
    let mut reader = Reader { message, at: 0 };
    reader.skip(4)?;
    let questions = reader.u16()?;
    let records: u32 = [reader.u16()?, reader.u16()?].into_iter().map(u32::from).sum();
    let additional = u32::from(reader.u16()?);
    for _ in 0..questions {
        reader.skip_name()?;
        reader.skip(4)?;
    }
    let all = records + additional;
    for index in 1..=all {
        let start = reader.at;
        reader.skip_name()?;
        let kind = reader.u16()?;
        if kind == TYPE_TSIG {
            let fields = reader.tsig(start)?;
            let last = index == all && additional > 0 && reader.at == message.len();
            return if last {
                Ok(Some(Cut {
                    before: &message[..start],
                    fields,
                }))
            } else {
                Err(Malformed)
            };
        }
        reader.skip(6)?;
        let octets = usize::from(reader.u16()?);
        reader.skip(octets)?;
    }
    if reader.at == message.len() {
        Ok(None)
    } else {
        Err(Malformed)
    }
}

/// Appends a TSIG record and counts it in the header.
pub(super) fn append(message: &mut Vec<u8>, fields: &Fields) {
    assert!(message.len() >= HEADER_OCTETS, "a message to sign has a header");
    let length = |octets: &[u8]| {
        u16::try_from(octets.len())
            .expect("MAC, names and other data are short")
            .to_be_bytes()
    };
    message.extend_from_slice(&fields.key_wire);
    message.extend_from_slice(&TYPE_TSIG.to_be_bytes());
    message.extend_from_slice(&CLASS_ANY.to_be_bytes());
    message.extend_from_slice(&0u32.to_be_bytes());
    let rdata = fields.algorithm.len() + 16 + fields.mac.len() + fields.other.len();
    message.extend_from_slice(&u16::try_from(rdata).expect("as above").to_be_bytes());
    message.extend_from_slice(&fields.algorithm);
    message.extend_from_slice(&timers(fields.time_s, fields.fudge_s));
    message.extend_from_slice(&length(&fields.mac));
    message.extend_from_slice(&fields.mac);
    message.extend_from_slice(&fields.original_id.to_be_bytes());
    message.extend_from_slice(&fields.error.to_be_bytes());
    message.extend_from_slice(&length(&fields.other));
    message.extend_from_slice(&fields.other);
    let count = u16::from_be_bytes([message[ARCOUNT_AT], message[ARCOUNT_AT + 1]]);
    let count = count.checked_add(1).expect("an additional section we made is small");
    message[ARCOUNT_AT..ARCOUNT_AT + 2].copy_from_slice(&count.to_be_bytes());
}

/// The header as it was before the record was added: ARCOUNT one lower, and the original id.
pub(super) fn header_before(before: &[u8], original_id: u16) -> [u8; HEADER_OCTETS] {
    let mut header: [u8; HEADER_OCTETS] = before[..HEADER_OCTETS].try_into().expect("the header was read");
    header[..2].copy_from_slice(&original_id.to_be_bytes());
    let count = u16::from_be_bytes([header[ARCOUNT_AT], header[ARCOUNT_AT + 1]]);
    header[ARCOUNT_AT..].copy_from_slice(&(count - 1).to_be_bytes());
    header
}

/// The id of a message.
pub(super) fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

/// Time in 48 bits and fudge, as they are written and digested.
pub(super) fn timers(time_s: u64, fudge_s: u16) -> [u8; 8] {
    let mut octets = [0; 8];
    octets[..6].copy_from_slice(&time_s.to_be_bytes()[2..]);
    octets[6..].copy_from_slice(&fudge_s.to_be_bytes());
    octets
}

/// Octets of a record with a whole MAC and no other data.
pub(super) fn record_octets(key_wire: &[u8]) -> usize {
    key_wire.len() + 10 + algorithm_wire().len() + 16 + super::MAC_OCTETS
}

/// `hmac-sha256.` in wire form.
pub(super) fn algorithm_wire() -> Vec<u8> {
    let mut wire = vec![u8::try_from(ALGORITHM.len()).expect("a label")];
    wire.extend_from_slice(ALGORITHM.as_bytes());
    wire.push(0);
    wire
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Result<&'a [u8], Malformed> {
        let taken = self.message.get(self.at..self.at + octets).ok_or(Malformed)?;
        self.at += octets;
        Ok(taken)
    }

    fn skip(&mut self, octets: usize) -> Result<(), Malformed> {
        self.take(octets).map(|_| ())
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let octets = self.take(2)?;
        Ok(u16::from_be_bytes([octets[0], octets[1]]))
    }

    /// Goes behind a name, compressed or not, without following it.
    fn skip_name(&mut self) -> Result<(), Malformed> {
        loop {
            let length = self.take(1)?[0];
            match length {
                0 => return Ok(()),
                1..=63 => self.skip(usize::from(length))?,
                192.. => return self.skip(1),
                64..=191 => return Err(Malformed),
            }
        }
    }

    /// A name that may not be compressed, in wire form and lower case.
    fn plain_name(&mut self) -> Result<Vec<u8>, Malformed> {
        let start = self.at;
        loop {
            let length = self.take(1)?[0];
            match length {
                0 => break,
                1..=63 => self.skip(usize::from(length))?,
                64.. => return Err(Malformed),
            }
        }
        let wire = &self.message[start..self.at];
        if wire.len() > 255 {
            return Err(Malformed);
        }
        // Lengths are below 64, so lower-casing touches letters alone.
        Ok(wire.to_ascii_lowercase())
    }

    /// The record from its class on; its name begins at `start`.
    fn tsig(&mut self, start: usize) -> Result<Fields, Malformed> {
        let mut decoder = BinDecoder::new(self.message).clone(u16::try_from(start).map_err(|_| Malformed)?);
        let key = Name::read(&mut decoder).map_err(|_| Malformed)?.to_lowercase();
        let mut key_wire = Vec::with_capacity(key.len() + 1);
        for label in key.iter() {
            key_wire.push(u8::try_from(label.len()).map_err(|_| Malformed)?);
            key_wire.extend_from_slice(label);
        }
        key_wire.push(0);
        if self.u16()? != CLASS_ANY || self.take(4)? != [0; 4] {
            return Err(Malformed);
        }
        let octets = usize::from(self.u16()?);
        let end = self.at + octets;
        let algorithm = self.plain_name()?;
        let time = self.take(6)?;
        let time_s = time.iter().fold(0, |acc, octet| acc << 8 | u64::from(*octet));
        let fudge_s = self.u16()?;
        let mac_octets = usize::from(self.u16()?);
        let mac = self.take(mac_octets)?.to_vec();
        let original_id = self.u16()?;
        let error = self.u16()?;
        let other_octets = usize::from(self.u16()?);
        let other = self.take(other_octets)?.to_vec();
        if self.at != end {
            return Err(Malformed);
        }
        Ok(Fields {
            key,
            key_wire,
            algorithm,
            time_s,
            fudge_s,
            mac,
            original_id,
            error,
            other,
        })
    }
}
