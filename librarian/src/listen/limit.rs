//! Response rate limiting: the librarian is no amplifier.
//!
//! Over UDP a sender's address may be forged, and then the answers go to a victim. So one network gets only so many answers of one
//! kind a second; of those beyond, every second one is cut down to a header and its question with TC set, so that whoever did ask
//! comes again by TCP, and the others are dropped. What is counted is the network (24 bits of IPv4, 56 of IPv6) with the name,
//! for answers that have records, or with the rcode alone, since names that are not there are without number.
//!
//! Listed networks and whoever signs are not limited: a signature is not forged, and for its own networks the operator answers.
//!
//! As BIND, Knot and NSD do it (P. Vixie and V. Schryver, DNS Response Rate Limiting, ISC-TN-2012-1).

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Networks and kinds told apart at a time; where two meet, the later one takes the place.
const SLOTS: usize = SHARDS * SHARD_SLOTS;
/// Parts that are locked one by one, so that threads seldom meet.
const SHARDS: usize = 64;
const SHARD_SLOTS: usize = 1024;
/// How long a network may answer for what it did not use.
const WINDOW: Duration = Duration::from_secs(1);
/// Octets of a header.
const HEADER: usize = 12;

/// What is to be done with an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Send,
    /// As its header and question, with TC.
    Slip,
    Drop,
}

/// How much one kind of answer was given to one network.
#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u32,
    /// Answers beyond the limit in a row.
    over: u32,
    /// When all that was given is forgotten, in microseconds from the beginning.
    free_us: u64,
}

/// Counts answers, those of all sockets together.
pub(super) struct ResponseLimit {
    /// What one answer costs, in microseconds; `None` if nothing is limited.
    cost_us: Option<u64>,
    shards: Box<[Mutex<Box<[Slot]>>]>,
    hasher: RandomState,
    begin: Instant,
}

impl ResponseLimit {
    /// At most so many answers a second; 0: any number.
    pub(super) fn new(per_second: u32, now: Instant) -> ResponseLimit {
        let cost_us = (per_second > 0).then(|| (1_000_000 / u64::from(per_second)).max(1));
        ResponseLimit {
            cost_us,
            shards: (0..if cost_us.is_some() { SHARDS } else { 0 })
                .map(|_| Mutex::new(vec![Slot::default(); SHARD_SLOTS].into()))
                .collect(),
            hasher: RandomState::new(),
            begin: now,
        }
    }

    /// Judges an answer in wire form that goes to an address.
    pub(super) fn judge(&self, to: IpAddr, answer: &[u8], now: Instant) -> Verdict {
        let Some(cost_us) = self.cost_us else {
            return Verdict::Send;
        };
        let hash = self.hasher.hash_one((network(to), kind(answer)));
        let now_us = u64::try_from(now.saturating_duration_since(self.begin).as_micros()).unwrap_or(u64::MAX);
        let place = hash as usize % SLOTS;
        let mut shard = self.shards[place / SHARD_SLOTS].lock();
        let slot = &mut shard[place % SHARD_SLOTS];
        let tag = (hash >> 32) as u32;
        if slot.tag != tag {
            *slot = Slot { tag, ..Slot::default() };
        }
        let free_us = slot.free_us.max(now_us) + cost_us;
        if free_us - now_us <= WINDOW.as_micros() as u64 {
            slot.free_us = free_us;
            slot.over = 0;
            return Verdict::Send;
        }
        slot.over = slot.over.wrapping_add(1);
        if slot.over % 2 == 1 {
            Verdict::Slip
        } else {
            Verdict::Drop
        }
    }
}

/// The network of an address, of which a forger may take any address.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address) >> 8),
        IpAddr::V6(address) => 1 << 127 | u128::from(address) >> 72,
    }
}

/// Rcode and, where there are records, the name in lower case.
fn kind(answer: &[u8]) -> (u8, [u8; 32]) {
    let mut name = [0; 32];
    let (Some(rcode), Some([high, low])) = (answer.get(3).map(|octet| octet & 0x0f), answer.get(6..8)) else {
        return (0, name);
    };
    if [*high, *low] != [0, 0] {
        // Names that agree in their first octets, and in all others mixed together, are counted as one.
        for (at, octet) in question(answer).iter().enumerate() {
            let place = &mut name[at % 32];
            *place = place.rotate_left(3) ^ octet.to_ascii_lowercase();
        }
    }
    (rcode, name)
}

/// The question of an answer of ours: name, type and class; empty if there is none.
fn question(answer: &[u8]) -> &[u8] {
    let rest = answer.get(HEADER..).unwrap_or_default();
    if answer.get(4..6) != Some(&[0, 1]) {
        return &[];
    }
    let mut at = 0;
    while let Some(octets) = rest.get(at).filter(|octets| **octets > 0) {
        at += 1 + usize::from(*octets);
    }
    rest.get(..at + 5).unwrap_or_default()
}

/// Cuts an answer down to what sends whoever did ask to TCP.
pub(super) fn cut_down(answer: &mut Vec<u8>) {
    let question = question(answer).len();
    answer.truncate(HEADER + question);
    if let Some(header) = answer.first_chunk_mut::<HEADER>() {
        header[2] |= 0x02;
        header[4] = 0;
        header[5] = u8::from(question > 0);
        header[6..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};

    use super::*;

    fn answer(name: &str, rcode: ResponseCode, records: usize) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.metadata.response_code = rcode;
        let name = Name::from_ascii(name).unwrap();
        message.add_query(Query::query(name.clone(), RecordType::A));
        for number in 0..records {
            let data = RData::A(rdata::A::new(192, 0, 2, number as u8));
            message.add_answer(Record::from_rdata(name.clone(), 5, data));
        }
        message.to_vec().unwrap()
    }

    #[test]
    fn one_network_gets_its_share_of_one_answer_and_half_of_the_rest_cut_down() {
        let start = Instant::now();
        let limit = ResponseLimit::new(100, start);
        let positive = answer("3.1.obj.example.", ResponseCode::NoError, 2);
        let given = |to: &str, answer: &[u8], after_ms: u64| {
            let now = start + Duration::from_millis(after_ms);
            let verdicts: Vec<Verdict> = (0..300)
                .map(|_| limit.judge(to.parse().unwrap(), answer, now))
                .collect();
            [Verdict::Send, Verdict::Slip, Verdict::Drop]
                .map(|kind| verdicts.iter().filter(|verdict| **verdict == kind).count())
        };
        assert_eq!(given("192.0.2.1", &positive, 0), [100, 100, 100]);
        // The same network, the same network by way of IPv6, another spelling.
        assert_eq!(given("192.0.2.200", &positive, 0), [0, 150, 150]);
        assert_eq!(given("::ffff:192.0.2.9", &positive, 0), [0, 150, 150]);
        let other_case = answer("3.1.OBJ.example.", ResponseCode::NoError, 2);
        assert_eq!(given("192.0.2.1", &other_case, 0), [0, 150, 150]);
        // Another network, another name, another second.
        assert_eq!(given("192.0.3.1", &positive, 0), [100, 100, 100]);
        assert_eq!(given("2001:db8::1", &positive, 0), [100, 100, 100]);
        let other = answer("3.2.obj.example.", ResponseCode::NoError, 2);
        assert_eq!(given("192.0.2.1", &other, 0), [100, 100, 100]);
        assert_eq!(given("192.0.2.1", &positive, 500)[0], 50);
        assert_eq!(given("192.0.2.1", &positive, 5000)[0], 100);
    }

    #[test]
    fn names_that_are_not_there_count_as_one() {
        let start = Instant::now();
        let limit = ResponseLimit::new(100, start);
        let sent = (0..1000)
            .filter(|number| {
                let answer = answer(&format!("{number}.obj.example."), ResponseCode::NXDomain, 0);
                limit.judge("192.0.2.1".parse().unwrap(), &answer, start) == Verdict::Send
            })
            .count();
        assert_eq!(sent, 100);
    }

    #[test]
    fn without_a_limit_everything_is_sent() {
        let start = Instant::now();
        let limit = ResponseLimit::new(0, start);
        let answer = answer("3.1.obj.example.", ResponseCode::NoError, 1);
        for _ in 0..10_000 {
            assert_eq!(limit.judge("192.0.2.1".parse().unwrap(), &answer, start), Verdict::Send);
        }
        assert_eq!(limit.shards.len(), 0);
    }

    #[test]
    fn answer_that_is_cut_down_is_its_question_with_tc() {
        let mut octets = answer("3.1.obj.example.", ResponseCode::NoError, 3);
        cut_down(&mut octets);
        let message = Message::from_vec(&octets).unwrap();
        assert!(message.metadata.truncation && message.answers.is_empty());
        assert_eq!(message.queries[0].name().to_string(), "3.1.obj.example.");
        // A header alone stays one.
        let mut header = vec![0, 7, 0x84, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        cut_down(&mut header);
        assert_eq!(header.len(), HEADER);
    }
}
