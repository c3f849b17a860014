//! The common question, answered straight from the table into octets.
//!
//! No lock is taken, neither for an object that is there nor for a name at which there is none.
//!
//! A plain query with one question for the SRV, TXT, A or AAAA records at an object's name, with one OPT record or none and
//! without a signature. Nothing is allocated and no message is taken apart; anything that is not just so is left to the general
//! path ([`super::answer`], [`super::reply::encode`]), whose octets these answers equal for the same view, asker and seed: a
//! test and a fuzz target compare them.

use std::net::IpAddr;

use certs::Prefix;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use zones::Zone;
use zones::name::canonical;
use zones::register::{StateValue, Values};

use super::faces::{Face, Faces};
use super::reply::udp_octets;
use super::wire::Wire;
use super::{Asker, FORWARDS, HOLDS, Settings, WEIGHT_MAX, rotate};
use crate::place::weight;
use crate::registry::index::{EXPIRE_S, MINIMUM_S, REFRESH_S, RETRY_S};
use crate::registry::table::{KeyHash, Stored, Table};
use crate::registry::{ADDRESSES_MAX, Registry};

/// Class IN.
const IN: u16 = 1;
/// Octets of a header.
const HEADER: usize = 12;
/// Longest name in wire form (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;
/// Holders of one object and the destination of a move.
const CHOICES_MAX: usize = zones::register::HOLDERS_MAX + 1;
/// The option that resolvers and `dig` send with each question (RFC 7873); it is not looked at.
const COOKIE: u16 = 10;

/// Names that every answer may need, in wire form.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    domain: Vec<u8>,
    obj: Vec<u8>,
    tree: Vec<u8>,
    ns: Vec<u8>,
    mailbox: Vec<u8>,
}

impl Names {
    /// The names of a pool.
    pub(crate) fn new(domain: &zones::Domain) -> Names {
        let mailbox = domain.apex().prepend_label("hostmaster");
        Names {
            domain: canonical(domain.apex()),
            obj: canonical(domain.zone(Zone::Obj)),
            tree: canonical(domain.zone(Zone::Tree)),
            ns: canonical(&domain.in_pool("ns")),
            mailbox: canonical(&mailbox.expect("a domain leaves room for short labels")),
        }
    }

    fn zone(&self, zone: Zone) -> &[u8] {
        match zone {
            Zone::Obj => &self.obj,
            Zone::Tree => &self.tree,
            Zone::Pool | Zone::Apex => unreachable!("no object lies there"),
        }
    }
}

/// A question that may be common.
struct Asked<'q> {
    id: [u8; 2],
    /// The octet of the header with RD, and the one with CD.
    flags: [u8; 2],
    /// In wire form.
    name: &'q [u8],
    kind: RecordType,
    edns: Option<Edns>,
}

struct Edns {
    octets_max: u16,
    dnssec_ok: bool,
}

impl<'q> Asked<'q> {
    /// Reads a message that is nothing but a common question.
    fn read(octets: &'q [u8]) -> Option<Asked<'q>> {
        let (header, rest) = octets.split_at_checked(HEADER)?;
        // No answer, opcode QUERY, neither AA nor TC; of the other octet AD and CD may be set.
        let plain = header[2] & !0x01 == 0 && header[3] & !0x30 == 0;
        let &[0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = &header[4..] else {
            return None;
        };
        if !plain {
            return None;
        }
        let mut label = 0;
        loop {
            match *rest.get(label)? {
                0 => break,
                octets @ 1..=63 => label += 1 + usize::from(octets),
                _ => return None,
            }
        }
        let (name, after) = rest.split_at(label + 1);
        let (&[high, low, 0, 1], rest) = after.split_first_chunk()? else {
            return None;
        };
        let kind = match u16::from_be_bytes([high, low]).into() {
            kind @ (RecordType::SRV | RecordType::TXT | RecordType::A | RecordType::AAAA) => kind,
            _ => return None,
        };
        let edns = if additional == 1 {
            Some(Edns::read(rest)?)
        } else if rest.is_empty() {
            None
        } else {
            return None;
        };
        (name.len() <= NAME_MAX).then_some(Asked {
            id: [header[0], header[1]],
            flags: [header[2], header[3]],
            name,
            kind,
            edns,
        })
    }

    fn octets_max(&self, most: u16) -> usize {
        usize::from(udp_octets(self.edns.as_ref().map(|edns| edns.octets_max), most))
    }
}

impl Edns {
    /// Reads an OPT record of version 0 that ends the message and has no option but a cookie (RFC 6891 section 6.1.2).
    fn read(octets: &[u8]) -> Option<Edns> {
        let (&[0, 0, 41, high, low, 0, 0, flags, _, data_high, data_low], data) = octets.split_first_chunk()? else {
            return None;
        };
        if data.len() != usize::from(u16::from_be_bytes([data_high, data_low])) {
            return None;
        }
        if let Some((&[code_high, code_low, high, low], option)) = data.split_first_chunk() {
            let is_cookie = u16::from_be_bytes([code_high, code_low]) == COOKIE;
            if !is_cookie || option.len() != usize::from(u16::from_be_bytes([high, low])) {
                return None;
            }
        } else if !data.is_empty() {
            return None;
        }
        Some(Edns {
            octets_max: u16::from_be_bytes([high, low]),
            dnssec_ok: flags & 0x80 != 0,
        })
    }
}

/// Where a name lies.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    Below(Zone),
    /// Outside the domain: an object's address alone.
    Bare,
}

/// The key of the object that a common question is about, and the place of its name.
pub(crate) struct Key {
    octets: [u8; NAME_MAX],
    length: usize,
    place: Place,
}

impl Key {
    /// The key that a name stands for; `None` where it lies in another zone or no address has such labels.
    fn of(name: &[u8], names: &Names) -> Option<Key> {
        let mut starts = [0_u8; NAME_MAX / 2];
        let (mut count, mut at) = (0, 0);
        let mut place = Place::Bare;
        loop {
            let rest = &name[at..];
            let is = |zone: &[u8]| rest.len() == zone.len() && rest.eq_ignore_ascii_case(zone);
            if is(&names.obj) {
                place = Place::Below(Zone::Obj);
                break;
            }
            if is(&names.tree) {
                place = Place::Below(Zone::Tree);
                break;
            }
            if is(&names.domain) {
                return None;
            }
            if rest[0] == 0 {
                break;
            }
            *starts.get_mut(count)? = at as u8;
            count += 1;
            at += 1 + usize::from(rest[0]);
        }
        let mut key = Key {
            octets: [0; NAME_MAX],
            length: 0,
            place,
        };
        let is_reversed = place == Place::Below(Zone::Tree);
        for number in 0..count {
            let start = starts[if is_reversed { count - 1 - number } else { number }];
            let (octets, label) = name[usize::from(start)..].split_first()?;
            if number > 0 {
                key.push(b'.');
            }
            for octet in &label[..usize::from(*octets)] {
                match octet.to_ascii_lowercase() {
                    octet @ (b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-') => key.push(octet),
                    _ => return None,
                }
            }
        }
        // The apex of a zone, or the root, is no object.
        (count > 0).then_some(key)
    }

    fn push(&mut self, octet: u8) {
        self.octets[self.length] = octet;
        self.length += 1;
    }

    /// The key alone.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// A server that a client may ask, and how gladly.
#[derive(Clone, Copy)]
struct Choice<'f> {
    face: &'f Face,
    priority: u16,
    weight: u16,
}

/// What came of a common question.
pub(crate) struct Answered {
    pub(crate) rcode: ResponseCode,
    /// The row of the object that was asked for and is there, if the question shows that somebody wants it.
    pub(crate) object: Option<u32>,
}

/// What an answer is made of besides the question.
pub(crate) struct Common<'a> {
    pub(crate) registry: &'a Registry,
    /// Where registers lie.
    pub(crate) table: &'a Table,
    pub(crate) settings: &'a Settings,
    pub(crate) names: &'a Names,
    pub(crate) faces: &'a Faces,
}

impl Common<'_> {
    /// The key of the object that a message over UDP asks for, if it is a common question.
    pub(crate) fn key(&self, octets: &[u8]) -> Option<Key> {
        Key::of(Asked::read(octets)?.name, self.names)
    }

    /// Writes the answer to a common question over UDP, whose object has this key; `None` if the general path is to answer, whatever
    /// was written. Who asks for it holds no view.
    pub(crate) fn answer(
        &self,
        (octets, key, hash): (&[u8], &Key, KeyHash),
        asker: &Asker,
        seed: u64,
        out: &mut Vec<u8>,
    ) -> Option<Answered> {
        let asked = Asked::read(octets)?;
        let glance = self.registry.glance();
        // A delegated prefix may hide any name.
        if glance.is_delegated() {
            return None;
        }
        if key.place == Place::Bare && !self.settings.serves.is_empty() {
            // It may lie in a part of another pool's tree.
            return None;
        }
        let (sees_all, texts) = match asker {
            Asker::Network => (true, true),
            Asker::Stranger => (self.settings.public.contains(&Prefix::Everything), false),
            Asker::Client(_) | Asker::Agent(_) | Asker::Admin => return None,
        };
        let row = self.table.find_hashed(key.octets(), hash);
        let stored = match row {
            // Without it, what is there could not be read beside its writing.
            Some(row) => Some(self.table.stored(row)?).filter(Stored::is_live),
            None => None,
        };
        let visible = match &stored {
            Some(stored) => sees_all || self.is_public(stored),
            None => sees_all,
        };
        // A register that names a server was written after all that is known of that server: it is asked for after the register.
        if !visible || !self.faces.are_of(glance.servers_version()) {
            return None;
        }
        let mut answer = Answer::begin(self, &asked, out);
        match &stored {
            Some(stored) => answer.compose(stored, key.place, texts, seed),
            None => answer.absent(key, hash)?,
        }
        let counts = asked.kind != RecordType::TXT && answer.counts[0] > 0;
        Some(Answered {
            rcode: answer.finish()?,
            object: row.filter(|_| counts),
        })
    }

    fn is_public(&self, stored: &Stored<'_>) -> bool {
        let spelling = stored.spelling();
        self.settings.public.iter().any(|prefix| match prefix {
            Prefix::Everything => true,
            Prefix::Under(prefix) => spelling
                .strip_prefix(prefix.as_str().as_bytes())
                .is_some_and(|rest| matches!(rest, [] | [b'.', ..])),
        })
    }

    /// The servers that a client may ask for an object, as [`super::Question`] chooses them.
    fn choices(&self, stored: &Stored<'_>) -> Choices<'_> {
        let mut choices = Choices::default();
        for number in stored.holders() {
            choices.push(self.faces.get(*number), HOLDS);
        }
        let serves = |choice: &Choice<'_>| choice.face.lives && !choice.face.lost;
        let (one_lives, one_serves) = {
            let mut all = choices.iter();
            (all.clone().any(|choice| choice.face.lives), all.any(serves))
        };
        if let Some(to) = stored.to() {
            choices.push(self.faces.get(to), FORWARDS);
        }
        if one_serves {
            choices.retain(serves);
        } else if one_lives {
            choices.retain(|choice| choice.face.lives);
        }
        let best = choices.iter().map(|choice| choice.face.worth).fold(0.0, f64::max);
        for choice in choices.iter_mut() {
            choice.weight = weight(choice.face.worth, best, WEIGHT_MAX);
        }
        choices
    }
}

/// What the register of an object that is there says, to be spelled.
pub(crate) fn values<'t>(stored: &'t Stored<'t>) -> Values<'t, impl Iterator<Item = &'t str>> {
    let (kind, schema, level) = stored.kind();
    let to = stored.to().map(|to| stored.server(to).as_str());
    Values {
        address: std::str::from_utf8(stored.spelling()).expect("an address is ASCII"),
        epoch: stored.epoch(),
        owner: stored.owner().as_str(),
        state: to.map_or(StateValue::Stable, |to| StateValue::Moving { to }),
        tx: stored.tx(),
        holders: stored.holders().iter().map(|holder| stored.server(*holder).as_str()),
        kind,
        schema,
        level,
    }
}

/// The choices of one object.
#[derive(Default)]
struct Choices<'f> {
    list: [Option<Choice<'f>>; CHOICES_MAX],
    count: usize,
}

impl<'f> Choices<'f> {
    fn push(&mut self, face: Option<&'f Face>, priority: u16) {
        if let Some(face) = face {
            self.list[self.count] = Some(Choice {
                face,
                priority,
                weight: 0,
            });
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Choice<'f>> + Clone {
        self.list[..self.count].iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Choice<'f>> {
        self.list[..self.count].iter_mut().flatten()
    }

    fn retain(&mut self, keep: impl Fn(&Choice<'f>) -> bool) {
        let all = std::mem::take(self);
        for choice in all.iter().filter(|choice| keep(choice)) {
            self.list[self.count] = Some(*choice);
            self.count += 1;
        }
    }
}

/// An answer being written.
struct Answer<'a, 'o> {
    common: &'a Common<'a>,
    asked: &'a Asked<'a>,
    wire: Wire<'a, 'o>,
    /// Records of answer, authority and additional section.
    counts: [u16; 3],
    rcode: ResponseCode,
}

impl<'a, 'o> Answer<'a, 'o> {
    fn begin(common: &'a Common<'a>, asked: &'a Asked<'a>, out: &'o mut Vec<u8>) -> Self {
        let mut wire = Wire::new(out);
        wire.name(asked.name);
        wire.u16(asked.kind.into());
        wire.u16(IN);
        Answer {
            common,
            asked,
            wire,
            counts: [0; 3],
            rcode: ResponseCode::NoError,
        }
    }

    /// Answers about an object that is there.
    fn compose(&mut self, stored: &Stored<'_>, place: Place, texts: bool, seed: u64) {
        match self.asked.kind {
            RecordType::TXT if texts => self.text(stored),
            RecordType::SRV => self.services(stored),
            RecordType::A | RecordType::AAAA => self.addresses(stored, seed),
            _ => {}
        }
        if self.counts[0] == 0 {
            self.no_records(place, self.common.registry.glance().serials());
        }
    }

    /// Says that there is no object of this key; `None` if it cannot be told beside the writing.
    fn absent(&mut self, key: &Key, hash: KeyHash) -> Option<()> {
        let Place::Below(zone) = key.place else { return None };
        let glance = self.common.registry.glance();
        let (below, serials) = glance.read(|table| {
            // It may have come since it was not found.
            let row = table.find_hashed(key.octets(), hash);
            if row.is_some_and(|row| table.stored(row).is_none_or(|stored| stored.is_live())) {
                return None;
            }
            let below = match zone {
                Zone::Obj => table.any_ending(key.octets()),
                Zone::Tree | Zone::Pool | Zone::Apex => table.any_below(key.octets()),
            };
            Some((below?, glance.serials()))
        })?;
        if !below {
            self.rcode = ResponseCode::NXDomain;
        }
        self.no_records(key.place, serials);
        Some(())
    }

    fn text(&mut self, stored: &Stored<'_>) {
        let values = values(stored);
        let (name, ttl_s) = (self.asked.name, self.common.settings.ttl_s);
        self.wire
            .record(name, RecordType::TXT, ttl_s, |wire| values.write_rdata(wire.octets()));
        self.counts[0] += 1;
    }

    fn services(&mut self, stored: &Stored<'_>) {
        let choices = self.common.choices(stored);
        let (name, ttl_s) = (self.asked.name, self.common.settings.ttl_s);
        for choice in choices.iter() {
            self.wire.record(name, RecordType::SRV, ttl_s, |wire| {
                wire.u16(choice.priority);
                wire.u16(choice.weight);
                wire.u16(choice.face.https_port);
                wire.whole_name(&choice.face.name);
            });
            self.counts[0] += 1;
        }
        for choice in choices.iter() {
            for address in &choice.face.addresses {
                self.address(&choice.face.name, *address);
                self.counts[2] += 1;
            }
        }
    }

    fn addresses(&mut self, stored: &Stored<'_>, seed: u64) {
        let choices = self.common.choices(stored);
        let is_asked = |address: &IpAddr| address.is_ipv4() == (self.asked.kind == RecordType::A);
        let mut addresses = [None; CHOICES_MAX * ADDRESSES_MAX];
        let mut count = 0;
        let first = choices.iter().filter(|choice| choice.priority == HOLDS);
        for address in first
            .flat_map(|choice| &choice.face.addresses)
            .filter(|at| is_asked(at))
        {
            if !addresses[..count].contains(&Some(*address)) {
                addresses[count] = Some(*address);
                count += 1;
            }
        }
        let addresses = &mut addresses[..count];
        rotate(addresses, seed);
        for address in addresses.iter().flatten() {
            self.address(self.asked.name, *address);
            self.counts[0] += 1;
        }
    }

    fn address(&mut self, name: &'a [u8], address: IpAddr) {
        let ttl_s = self.common.settings.ttl_s;
        match address {
            IpAddr::V4(address) => self.wire.record(name, RecordType::A, ttl_s, |wire| {
                wire.octets().extend_from_slice(&address.octets());
            }),
            IpAddr::V6(address) => self.wire.record(name, RecordType::AAAA, ttl_s, |wire| {
                wire.octets().extend_from_slice(&address.octets());
            }),
        }
    }

    /// A negative answer: with the SOA record of its zone, but for a bare name, which lies in none.
    fn no_records(&mut self, place: Place, [obj, tree]: [u32; 2]) {
        let Place::Below(zone) = place else { return };
        let names = self.common.names;
        let serial = if zone == Zone::Tree { tree } else { obj };
        let ttl_s = MINIMUM_S.min(self.common.settings.ttl_s);
        self.wire.record(names.zone(zone), RecordType::SOA, ttl_s, |wire| {
            wire.name(&names.ns);
            wire.name(&names.mailbox);
            for value in [serial, REFRESH_S as u32, RETRY_S as u32, EXPIRE_S as u32, MINIMUM_S] {
                wire.u32(value);
            }
        });
        self.counts[1] += 1;
    }

    /// Writes OPT and header; `None` if it is too large.
    fn finish(mut self) -> Option<ResponseCode> {
        let udp_octets_max = self.common.settings.udp_octets_max;
        if let Some(edns) = &self.asked.edns {
            let flags = if edns.dnssec_ok { 0x8000 } else { 0 };
            self.wire.octets().push(0);
            for value in [RecordType::OPT.into(), udp_octets_max, 0, flags, 0] {
                self.wire.u16(value);
            }
            self.counts[2] += 1;
        }
        let octets = self.wire.octets();
        if octets.len() > self.asked.octets_max(udp_octets_max) {
            return None;
        }
        let [recursion, checking] = self.asked.flags;
        octets[..2].copy_from_slice(&self.asked.id);
        // An answer with AA, and RD and CD as they were asked.
        octets[2] = 0x84 | recursion & 0x01;
        octets[3] = checking & 0x10 | self.rcode.low();
        octets[5] = 1;
        for (count, at) in self.counts.into_iter().zip([6, 8, 10]) {
            octets[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        Some(self.rcode)
    }
}
