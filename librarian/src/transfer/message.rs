//! Packs records into the messages of a transfer.
//!
//! Each message repeats the question, so that the zone's name has a fixed place that owners point to. Names in RDATA are
//! not compressed: RFC 3597 section 4 forbids it for all but the oldest types, and a pointer saves little there.
//!
//! Specifications: RFC 1035 section 4.1, RFC 5936 section 2.2, RFC 6891.

use hickory_proto::op::{Message, ResponseCode};

use super::content::Rec;
use crate::answer::reply::UDP_OCTETS_MAX;

/// Octets of a message after which the next one begins: pointers reach all of it, and one read takes it.
const FULL_OCTETS: usize = 16_000;
/// Octets of a header.
const HEADER_OCTETS: usize = 12;
/// Where an owner name that a pointer can reach begins at the latest (RFC 1035 section 4.1.4).
const POINTER_MAX: usize = 0x3fff;
/// An OPT record without options.
const OPT_OCTETS: usize = 11;

/// Makes messages of a zone's records.
pub(super) struct Packer {
    /// Header and question.
    head: Vec<u8>,
    /// Whether the request has an OPT record; then each answer has one (RFC 6891 section 6.1.1).
    edns: bool,
    /// The zone's name, which the question holds.
    zone: Vec<u8>,
    octets: Vec<u8>,
    records: u16,
    /// The last owner, and where it is written.
    owner: Option<(Vec<u8>, usize)>,
}

impl Packer {
    /// For the answer to a request with one question, for the zone of this name in wire form.
    pub(super) fn new(request: &Message, zone: Vec<u8>) -> Packer {
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
            edns: request.edns.is_some(),
            zone,
            records: 0,
            owner: None,
        }
    }

    /// Adds a record; gives the message before it, if that is full.
    pub(super) fn push(&mut self, owner: &[u8], rec: &Rec) -> Option<Vec<u8>> {
        let most = owner.len() + 10 + rec.data.len();
        let full = self.records > 0 && self.octets.len() + most > FULL_OCTETS;
        let before = full.then(|| self.finish());
        self.write_owner(owner);
        self.octets.extend(rec.kind.to_be_bytes());
        self.octets.extend(1_u16.to_be_bytes());
        self.octets.extend(rec.ttl_s.to_be_bytes());
        let length = u16::try_from(rec.data.len()).expect("RDATA has at most 65535 octets");
        self.octets.extend(length.to_be_bytes());
        self.octets.extend(&rec.data);
        self.records += 1;
        before
    }

    fn write_owner(&mut self, owner: &[u8]) {
        let pointer = |at: usize| (0xc000 | u16::try_from(at).expect("below 2^14")).to_be_bytes();
        if let Some((_, at)) = self.owner.as_ref().filter(|(last, _)| last == owner) {
            let octets = pointer(*at);
            self.octets.extend(octets);
            return;
        }
        let at = self.octets.len();
        match owner.strip_suffix(&self.zone[..]) {
            // The zone's own name: in the question.
            Some([]) => return self.octets.extend(pointer(HEADER_OCTETS)),
            Some(own) => {
                self.octets.extend(own);
                self.octets.extend(pointer(HEADER_OCTETS));
            }
            None => self.octets.extend(owner),
        }
        self.owner = (at <= POINTER_MAX).then(|| (owner.to_vec(), at));
    }

    /// Gives the message so far, and begins the next.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut octets = std::mem::replace(&mut self.octets, self.head.clone());
        octets[6..8].copy_from_slice(&self.records.to_be_bytes());
        if self.edns {
            octets[11] = 1;
            let mut opt = [0; OPT_OCTETS];
            opt[2] = 41;
            opt[3..5].copy_from_slice(&UDP_OCTETS_MAX.to_be_bytes());
            octets.extend(opt);
        }
        self.records = 0;
        self.owner = None;
        octets
    }

    /// Octets that the message so far would have.
    pub(super) fn len(&self) -> usize {
        self.octets.len() + if self.edns { OPT_OCTETS } else { 0 }
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
        let mut packer = Packer::new(&request(), canonical(&zone));
        let mut messages = Vec::new();
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
            messages.extend(packer.push(&canonical(&owner), &rec));
            sent.push((owner, rec));
        }
        messages.push(packer.finish());
        let mut found = Vec::new();
        for octets in &messages {
            assert!(octets.len() <= 65_535 - 128, "room for a signature");
            let message = Message::from_vec(octets).unwrap();
            assert_eq!((message.metadata.id, message.metadata.authoritative), (77, true));
            assert!(message.edns.is_some() && message.queries == request().queries);
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
