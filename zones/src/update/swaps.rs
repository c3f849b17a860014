//! The usual update of registers, read from its octets: what agents send all day.
//!
//! Each object's register is swapped for another: a prerequisite that the TXT RRset is the old text, or is not there; the
//! deletion of that RRset, if there was one; the addition of the new text. Order as [`super::build_register_update`] has it,
//! and as `nsupdate` sends it for one object. To read such a message as records costs several times what judging it costs.
//!
//! Nothing here decides what is legal: a message of any other form is [`super::read_update`]'s, and one that is not allowed
//! is to be read there once more, so that every refusal has its one origin. What is read here is read there to the same
//! effect.

use std::ops::Range;

use hickory_proto::op::Message;

use crate::name::{Domain, NAME_OCTETS_MAX, Zone, canonical};
use crate::register::Register;

/// Octets of a header (RFC 1035 section 4.1.1).
const HEADER_OCTETS: usize = 12;
/// Second word of an update's header: QR 0, opcode 5, no flags, rcode 0 (RFC 2136 section 2.2).
const UPDATE: u16 = 0x2800;
const SOA: u16 = 6;
const TXT: u16 = 16;
const IN: u16 = 1;
const NONE: u16 = 254;
const ANY: u16 = 255;
/// Fewest octets of a swap: two records, their names compressed, and the text of a register.
const SWAP_OCTETS_MIN: usize = 100;

/// An update that swaps registers and does nothing else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Swaps {
    /// The message without its signature.
    message: Vec<u8>,
    swaps: Vec<Swap>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Swap {
    /// Where the old text lies.
    old: Option<Range<usize>>,
    new: Register,
}

impl Swaps {
    /// Reads the octets of a signed message that lie before its signature, which its header still counts. With it comes the
    /// message's frame: header, zone and EDNS, without records.
    ///
    /// `None` if the message has another form, or if it names an address with a part that is no label (PROTOCOL.md section 2).
    #[must_use]
    pub fn read(domain: &Domain, before_signature: &[u8]) -> Option<(Swaps, Message)> {
        let mut message = before_signature.to_vec();
        let additional = u16_at(&message, 10)?.checked_sub(1)?;
        message[10..HEADER_OCTETS].copy_from_slice(&additional.to_be_bytes());
        let zone = canonical(domain.zone(Zone::Obj));
        let mut reader = Reader {
            domain,
            zone: &zone,
            message: &message,
        };
        let (swaps, frame) = reader.read(additional)?;
        let frame = Message::from_vec(&frame).ok()?;
        let framed = frame.additionals.is_empty() && frame.edns.is_some() == (additional == 1);
        framed.then_some((Swaps { message, swaps }, frame))
    }

    /// The registers: for each the RDATA of the TXT record that has to be there, `None` if none may be; and the new one. The
    /// labels of its name are the parts of its address in lower case.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Option<&[u8]>, &Register)> {
        self.swaps.iter().map(|swap| {
            let old = swap.old.clone().map(|old| &self.message[old]);
            (old, &swap.new)
        })
    }

    /// How many changes the message makes as RFC 2136 counts them: deletions and additions.
    #[must_use]
    pub fn changes(&self) -> usize {
        usize::from(u16_at(&self.message, 8).unwrap_or(0))
    }

    /// The message without its signature, to be read in general.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }
}

/// A record's fixed fields, and where it lies.
struct Head {
    /// Where its name begins.
    name_at: usize,
    kind: u16,
    class: u16,
    ttl: u32,
    rdata: Range<usize>,
}

struct Reader<'m> {
    domain: &'m Domain,
    /// Apex of `obj` in canonical form.
    zone: &'m [u8],
    message: &'m [u8],
}

impl Reader<'_> {
    /// The swaps, and the octets of the message's frame.
    fn read(&mut self, additional: u16) -> Option<(Vec<Swap>, Vec<u8>)> {
        let counts = [4, 6, 8].map(|at| u16_at(self.message, at));
        let [Some(1), Some(prerequisites), Some(changes)] = counts else {
            return None;
        };
        if u16_at(self.message, 2)? != UPDATE || prerequisites == 0 || additional > 1 {
            return None;
        }
        let (zone, zone_end) = self.name(HEADER_OCTETS)?;
        let records = zone_end + 4;
        if zone.octets() != self.zone || self.u16(zone_end)? != SOA || self.u16(zone_end + 2)? != IN {
            return None;
        }
        // The header may lie: what is allocated is bounded by what there is.
        let most = self.message.len() / SWAP_OCTETS_MIN + 1;
        let mut expected = Vec::with_capacity(usize::from(prerequisites).min(most));
        let mut at = records;
        for _ in 0..prerequisites {
            let head = self.head(&mut at)?;
            let old = match (head.kind, head.class, head.ttl) {
                (TXT, IN, 0) if is_text(&self.message[head.rdata.clone()]) => Some(head.rdata),
                (TXT, NONE, 0) if head.rdata.is_empty() => None,
                _ => return None,
            };
            expected.push((head.name_at, old));
        }
        let mut left = changes;
        let mut swaps = Vec::with_capacity(expected.len());
        for (name_at, old) in expected {
            let (name, _) = self.name(name_at)?;
            if old.is_some() {
                left = left.checked_sub(1)?;
                let delete = self.head(&mut at)?;
                let deletes = delete.kind == TXT && delete.class == ANY && delete.ttl == 0 && delete.rdata.is_empty();
                if !deletes || !self.is_name(delete.name_at, name_at, &name)? {
                    return None;
                }
            }
            left = left.checked_sub(1)?;
            let add = self.head(&mut at)?;
            if add.kind != TXT || add.class != IN || !self.is_name(add.name_at, name_at, &name)? {
                return None;
            }
            let new = Register::from_rdata(&self.message[add.rdata]).ok()?;
            self.is_named(&new, &name)?;
            swaps.push(Swap { old, new });
        }
        let rest = at;
        if additional == 1 {
            self.head(&mut at)?;
        }
        if left > 0 || at != self.message.len() {
            return None;
        }
        let mut frame = self.message[..records].to_vec();
        // Neither prerequisites nor changes.
        frame[6..10].fill(0);
        frame.extend_from_slice(&self.message[rest..]);
        Some((swaps, frame))
    }

    fn u16(&self, at: usize) -> Option<u16> {
        u16_at(self.message, at)
    }

    /// A record's fields; `at` goes behind it.
    fn head(&self, at: &mut usize) -> Option<Head> {
        let name_at = *at;
        let fields = self.name_end(name_at)?;
        let ttl = self.message.get(fields + 4..fields + 8)?;
        let length = usize::from(self.u16(fields + 8)?);
        let rdata = fields + 10..fields + 10 + length;
        self.message.get(rdata.clone())?;
        *at = rdata.end;
        Some(Head {
            name_at,
            kind: self.u16(fields)?,
            class: self.u16(fields + 2)?,
            ttl: u32::from_be_bytes(ttl.try_into().ok()?),
            rdata,
        })
    }

    /// What follows the name at `at`, compressed or not.
    fn name_end(&self, mut at: usize) -> Option<usize> {
        loop {
            match *self.message.get(at)? {
                0 => return Some(at + 1),
                length @ 1..=63 => at += usize::from(length) + 1,
                192.. => return Some(at + 2),
                64..=191 => return None,
            }
        }
    }

    /// The name at `at` in canonical form, and what follows it there.
    fn name(&self, start: usize) -> Option<(Wire, usize)> {
        let mut wire = Wire::default();
        let (mut at, mut end) = (start, None);
        // A pointer leads to what lies before all that was read of the name so far (RFC 1035 section 4.1.4).
        let mut before = start;
        loop {
            match *self.message.get(at)? {
                0 => {
                    wire.push(&[0])?;
                    return Some((wire, end.unwrap_or(at + 1)));
                }
                length @ 1..=63 => {
                    let label = self.message.get(at..at + 1 + usize::from(length))?;
                    wire.push(label)?;
                    at += label.len();
                }
                high @ 192.. => {
                    let low = *self.message.get(at + 1)?;
                    end.get_or_insert(at + 2);
                    at = usize::from(high & 0x3f) << 8 | usize::from(low);
                    if at >= before {
                        return None;
                    }
                    before = at;
                }
                64..=191 => return None,
            }
        }
    }

    /// Whether the name at `at` is another one, which lies at `other_at`.
    fn is_name(&self, at: usize, other_at: usize, other: &Wire) -> Option<bool> {
        // As writers compress it.
        let pointer = u16::try_from(other_at).ok().filter(|other| *other < 0x4000);
        if pointer.is_some_and(|other| self.u16(at) == Some(0xc000 | other)) {
            return Some(true);
        }
        let (name, _) = self.name(at)?;
        Some(name.octets() == other.octets())
    }

    /// Whether a name is that of a register's address, part by part.
    fn is_named(&self, register: &Register, name: &Wire) -> Option<()> {
        let labels = name.octets().strip_suffix(self.zone)?;
        self.domain.check_labels(&register.address, labels).ok()?;
        let mut rest = labels;
        let mut parts = register.address.parts();
        while let Some((length, more)) = rest.split_first() {
            let (label, more) = more.split_at_checked(usize::from(*length))?;
            let is_part = parts.next()?.as_bytes().eq_ignore_ascii_case(label) && !label.starts_with(b"xh--");
            is_part.then_some(())?;
            rest = more;
        }
        parts.next().is_none().then_some(())
    }
}

/// A name in canonical form.
struct Wire {
    octets: [u8; NAME_OCTETS_MAX],
    length: usize,
}

impl Default for Wire {
    fn default() -> Self {
        Wire {
            octets: [0; NAME_OCTETS_MAX],
            length: 0,
        }
    }
}

impl Wire {
    fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    /// Adds a label behind its length, or the root.
    fn push(&mut self, label: &[u8]) -> Option<()> {
        let place = self.octets.get_mut(self.length..self.length + label.len())?;
        place.copy_from_slice(label);
        // Lengths are below 64, so that this touches letters alone.
        place.make_ascii_lowercase();
        self.length += label.len();
        Some(())
    }
}

/// Whether octets are the RDATA of a TXT record (RFC 1035 section 3.3.14).
fn is_text(mut rdata: &[u8]) -> bool {
    if rdata.is_empty() {
        return false;
    }
    while let Some((length, after)) = rdata.split_first() {
        let Some(rest) = after.get(usize::from(*length)..) else {
            return false;
        };
        rdata = rest;
    }
    true
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let octets = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([octets[0], octets[1]]))
}
