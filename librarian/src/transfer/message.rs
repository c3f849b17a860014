//! Packs records into the messages of a transfer.
//!
//! Each message repeats the question, so that the zone's name has a fixed place that owners point to. Names in RDATA are
//! not compressed: RFC 3597 section 4 forbids it for all but the oldest types, and a pointer saves little there.
//!
//! A record is written where it is sent from. Where it turns out not to fit, all of it but the owner moves to the next
//! message: nothing in it says where it lies.
//!
//! Specifications: RFC 1035 section 4.1, RFC 5936 section 2.2, RFC 6891.

use std::collections::VecDeque;

use hickory_proto::op::{Message, ResponseCode};

use super::content::Rec;

/// Octets of a message after which the next one begins: pointers reach all of it, and one read takes it.
const FULL_OCTETS: usize = 16_000;
/// Octets that a message is likely to need besides: the record that did not fit, the signature.
const SPARE_OCTETS: usize = 1024;
/// Octets of a header.
const HEADER_OCTETS: usize = 12;
/// Where an owner name that a pointer can reach begins at the latest (RFC 1035 section 4.1.4).
const POINTER_MAX: usize = 0x3fff;
/// The zone's name, which the question holds.
const ZONE_POINTER: [u8; 2] = [0xc0, HEADER_OCTETS as u8];
/// An OPT record without options.
const OPT_OCTETS: usize = 11;

/// Makes messages of a zone's records.
pub(super) struct Packer {
    /// Header and question.
    head: Vec<u8>,
    /// What the OPT record of each answer says, where the request has one (RFC 6891 section 6.1.1).
    udp_octets_max: Option<u16>,
    /// The zone's name in wire form.
    zone: Vec<u8>,
    octets: Vec<u8>,
    records: u16,
    owner: Owner,
    /// The record that moves to the next message.
    moved: Vec<u8>,
    full: VecDeque<Vec<u8>>,
}

/// The owner of the records that are written.
#[derive(Default)]
struct Owner {
    /// Its labels before the zone's name.
    own: Vec<u8>,
    /// Where this message has it.
    at: Option<u16>,
}

impl Packer {
    /// For the answer to a request with one question, for the zone of this name in wire form. `udp_octets_max` is what the answer
    /// says of datagrams (RFC 6891 section 6.2.3).
    pub(super) fn new(request: &Message, zone: Vec<u8>, udp_octets_max: u16) -> Packer {
        let mut head = vec![0; HEADER_OCTETS];
        head[..2].copy_from_slice(&request.metadata.id.to_be_bytes());
        // An answer with authority; recursion desired as asked.
        head[2] = 0x84 | u8::from(request.metadata.recursion_desired);
        head[3] = ResponseCode::NoError.low();
        head[5] = 1;
        if let Some(question) = request.queries.first() {
            // In the spelling of the question: who mixes case looks for it.
            for label in question.name().iter() {
                head.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
                head.extend(label);
            }
            head.push(0);
            head.extend(u16::from(question.query_type()).to_be_bytes());
            head.extend(u16::from(question.query_class()).to_be_bytes());
        }
        Packer {
            octets: head.clone(),
            head,
            udp_octets_max: request.edns.is_some().then_some(udp_octets_max),
            zone,
            records: 0,
            owner: Owner::default(),
            moved: Vec::new(),
            full: VecDeque::new(),
        }
    }

    /// Adds a record of an owner in wire form, which lies in the zone.
    pub(super) fn push(&mut self, owner: &[u8], rec: &Rec) {
        let own = owner
            .strip_suffix(&self.zone[..])
            .expect("a zone holds what lies in it");
        if own != self.owner.own {
            self.owner(|octets| octets.extend_from_slice(own));
        }
        self.record(|octets| {
            octets.extend_from_slice(&rec.kind.to_be_bytes());
            octets.extend_from_slice(&1_u16.to_be_bytes());
            octets.extend_from_slice(&rec.ttl_s.to_be_bytes());
            let length = u16::try_from(rec.data.len()).expect("RDATA has at most 65535 octets");
            octets.extend_from_slice(&length.to_be_bytes());
            octets.extend_from_slice(&rec.data);
        });
    }

    /// Says whose the next records are: `own` writes the labels before the zone's name.
    pub(super) fn owner(&mut self, own: impl FnOnce(&mut Vec<u8>)) {
        self.owner.own.clear();
        own(&mut self.owner.own);
        self.owner.at = None;
    }

    /// Adds a record of the owner that was said last: `rest` writes what comes after its owner.
    pub(super) fn record(&mut self, rest: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.octets.len();
        self.write_owner();
        let rest_at = self.octets.len();
        rest(&mut self.octets);
        if self.octets.len() > FULL_OCTETS && self.records > 0 {
            self.moved.clear();
            self.moved.extend_from_slice(&self.octets[rest_at..]);
            self.octets.truncate(begin);
            self.end_message();
            self.write_owner();
            self.octets.extend_from_slice(&self.moved);
        }
        self.records += 1;
    }

    fn write_owner(&mut self) {
        if let Some(at) = self.owner.at {
            let pointer = (0xc000 | at).to_be_bytes();
            return self.octets.extend_from_slice(&pointer);
        }
        let at = self.octets.len();
        self.octets.extend_from_slice(&self.owner.own);
        self.octets.extend_from_slice(&ZONE_POINTER);
        // The zone's own name is no longer than a pointer to it.
        if !self.owner.own.is_empty() && at <= POINTER_MAX {
            self.owner.at = u16::try_from(at).ok();
        }
    }

    /// Sets the message so far aside, and begins the next.
    fn end_message(&mut self) {
        // All but the last message are as long as this.
        let mut next = Vec::with_capacity(FULL_OCTETS + SPARE_OCTETS);
        next.extend_from_slice(&self.head);
        let mut octets = std::mem::replace(&mut self.octets, next);
        octets[6..8].copy_from_slice(&self.records.to_be_bytes());
        if let Some(udp_octets_max) = self.udp_octets_max {
            octets[11] = 1;
            let mut opt = [0; OPT_OCTETS];
            opt[2] = 41;
            opt[3..5].copy_from_slice(&udp_octets_max.to_be_bytes());
            octets.extend_from_slice(&opt);
        }
        self.records = 0;
        self.owner.at = None;
        self.full.push_back(octets);
    }

    /// The first message that is full.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.full.pop_front()
    }

    /// All messages that are left, the last one too.
    pub(super) fn finish(mut self) -> VecDeque<Vec<u8>> {
        self.end_message();
        self.full
    }

    /// Octets that the message would have that holds all so far; `None` if there are several.
    pub(super) fn len(&self) -> Option<usize> {
        let opt = self.udp_octets_max.map_or(0, |_| OPT_OCTETS);
        self.full.is_empty().then_some(self.octets.len() + opt)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;
    use zones::name::canonical;

    fn request() -> Message {
        let mut request = Message::new(77, MessageType::Query, OpCode::Query);
        let zone = Name::from_ascii("OBJ.example.").unwrap();
        request.add_query(Query::query(zone, RecordType::AXFR));
        request.edns = Some(Edns::new());
        request
    }

    #[test]
    fn every_record_comes_back_and_no_message_is_larger_than_it_may_be() {
        let zone = Name::from_ascii("obj.example.").unwrap();
        let mut packer = Packer::new(&request(), canonical(&zone), 1400);
        let mut sent = Vec::new();
        for number in 0..3000_usize {
            // Small ones, some of a kilobyte, and a few as large as a record can be.
            let length = match number {
                1500 => 60_000,
                number if number % 50 == 0 => 1000,
                _ => 10,
            };
            let owner = if number == 0 {
                zone.clone()
            } else {
                zone.prepend_label(format!("n{}", number / 3)).unwrap()
            };
            let rec = Rec {
                kind: 65_400,
                ttl_s: 5,
                data: vec![u8::try_from(number % 251).unwrap(); length],
            };
            packer.push(&canonical(&owner), &rec);
            sent.push((owner, rec));
        }
        let mut found = Vec::new();
        for octets in &packer.finish() {
            assert!(octets.len() <= 65_535 - 128, "room for a signature");
            let message = Message::from_vec(octets).unwrap();
            assert_eq!((message.metadata.id, message.metadata.authoritative), (77, true));
            assert_eq!(message.queries, request().queries);
            assert_eq!(message.edns.map(|edns| edns.max_payload()), Some(1400));
            assert!(message.answers.len() == 1 || octets.len() <= FULL_OCTETS + OPT_OCTETS);
            found.extend(message.answers);
        }
        assert_eq!(found.len(), sent.len());
        for (record, (owner, rec)) in found.iter().zip(&sent) {
            assert_eq!(record.name, *owner);
            assert_eq!(crate::registry::wire(&record.data), rec.data);
        }
    }
}
