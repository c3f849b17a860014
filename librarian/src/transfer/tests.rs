//! Transfers as a secondary sees them, from questions to records, while the registry goes on.

mod condense;

use std::collections::BTreeSet;
use std::time::SystemTime;

use hickory_proto::op::{Edns, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, Record};
use zones::tsig::{SequenceVerifier, sign_request, verify_request};
use zones::{Epoch, Register, State, TsigKey};

use super::*;
use crate::answer;
use crate::keys::{Key, Keys};
use crate::registry::wire;
use crate::testing::{Pool, server};

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// What OPT records say of datagrams, as configured: not what is usual.
const UDP_OCTETS_MAX: u16 = 1400;

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn key(name: &str) -> TsigKey {
    TsigKey::new(name, &[9; 32]).unwrap()
}

fn holder(name: &str, zones: &[TransferredZone]) -> Holder {
    Holder::Secondary(Arc::new(Secondary {
        name: name.parse().unwrap(),
        zones: zones.into(),
        notify: Vec::new(),
    }))
}

/// A pool and what it transfers: everything to `ns2`, `obj` alone to `ns3`.
struct Primary {
    pool: Pool,
    transfers: Transfers,
}

impl Primary {
    async fn new(journal: JournalBounds) -> Primary {
        Primary::of(Pool::with_journal(journal).await)
    }

    fn of(pool: Pool) -> Primary {
        let mut keys = Keys::default();
        for (name, zones) in [("ns2", &TransferredZone::ALL[..]), ("ns3", &[TransferredZone::Obj])] {
            keys.insert(Key {
                tsig: key(name),
                holder: holder(name, zones),
            });
        }
        let answers = answer::Settings {
            ns_addresses: vec![LOCAL],
            udp_octets_max: UDP_OCTETS_MAX,
            ..answer::Settings::default()
        };
        let settings = Settings {
            at_once: 4,
            at_once_each: 3,
            ..Settings::default()
        };
        let ring = Arc::new(KeyRing::fixed(keys));
        let transfers = Transfers::new(None, pool.registry.clone(), ring, &answers, settings);
        Primary { pool, transfers }
    }

    /// Asks as a holder, over TCP unless said; the key is `ns2`'s in any case.
    fn ask(&self, holder: Option<&Holder>, request: &Message, transport: Transport) -> (Outcome, Signed) {
        let mut octets = request.to_vec().unwrap();
        sign_request(&mut octets, &key("ns2"), now_s());
        let signed = verify_request(&octets, |_| Some(key("ns2")), now_s()).unwrap().unwrap();
        let asked = Asked {
            from: LOCAL,
            transport,
            octets_max: 1232 - 100,
            now: Instant::now(),
            unix_s: now_s(),
        };
        let outcome = self.transfers.ask(request, (holder, Some(&signed)), asked);
        (outcome, signed)
    }

    fn open(&self, zone: &str, from: Option<u32>) -> (Box<Transfer>, SequenceVerifier) {
        let holder = holder("ns2", &TransferredZone::ALL);
        match self.ask(Some(&holder), &request(zone, from), Transport::Tcp) {
            (Outcome::Messages(transfer), signed) => (transfer, SequenceVerifier::new(signed.key, signed.mac)),
            (Outcome::Reply(response), _) => panic!("{response:?}"),
            (Outcome::Octets(_), _) => panic!("one message over TCP"),
        }
    }

    /// A whole transfer at one go.
    fn take(&self, zone: &str, from: Option<u32>) -> Vec<Record> {
        let (mut transfer, mut verifier) = self.open(zone, from);
        let mut records = Vec::new();
        while let Some(octets) = transfer.next(now_s()).unwrap() {
            read(&octets, &mut verifier, &mut records);
        }
        transfer.finish(Instant::now());
        records
    }

    fn rcode(&self, holder: Option<&Holder>, request: &Message, transport: Transport) -> (ResponseCode, u16) {
        match self.ask(holder, request, transport).0 {
            Outcome::Reply(response) => (response.rcode, response.error.map_or(0, |error| error.code)),
            Outcome::Octets(_) | Outcome::Messages(_) => (ResponseCode::NoError, 0),
        }
    }
}

fn request(zone: &str, from: Option<u32>) -> Message {
    let zone = Name::from_ascii(zone).unwrap();
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    let kind = if from.is_some() {
        RecordType::IXFR
    } else {
        RecordType::AXFR
    };
    message.add_query(Query::query(zone.clone(), kind));
    message.edns = Some(Edns::new());
    if let Some(serial) = from {
        let soa = crate::registry::index::soa(&crate::testing::domain(), serial);
        message.add_authority(Record::from_rdata(zone, 0, RData::SOA(soa)));
    }
    message
}

fn read(octets: &[u8], verifier: &mut SequenceVerifier, records: &mut Vec<Record>) {
    verifier.verify(octets, now_s()).unwrap();
    let message = Message::from_vec(octets).unwrap();
    assert_eq!(
        (message.metadata.id, message.metadata.response_code),
        (99, ResponseCode::NoError)
    );
    assert!(message.metadata.authoritative && message.queries.len() == 1);
    assert_eq!(message.edns.map(|edns| edns.max_payload()), Some(UDP_OCTETS_MAX));
    records.extend(message.answers);
}

/// A zone as a secondary keeps it: strict, so that a difference that does not fit is found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Copy {
    soa: String,
    records: BTreeSet<(String, u16, u32, Vec<u8>)>,
}

fn is_soa(record: &Record) -> bool {
    record.record_type() == RecordType::SOA
}

fn serial(record: &Record) -> u32 {
    match &record.data {
        RData::SOA(soa) => soa.serial,
        other => panic!("{other:?} is no SOA record"),
    }
}

impl Copy {
    fn add(&mut self, record: &Record) {
        let kept = (
            record.name.to_lowercase().to_string(),
            record.record_type().into(),
            record.ttl,
            wire(&record.data),
        );
        assert!(self.records.insert(kept), "{record} is there");
    }

    fn remove(&mut self, record: &Record) {
        let kept = (
            record.name.to_lowercase().to_string(),
            record.record_type().into(),
            record.ttl,
            wire(&record.data),
        );
        assert!(self.records.remove(&kept), "{record} is not there");
    }

    /// Takes an answer to AXFR or IXFR.
    fn take(&mut self, answer: &[Record]) {
        let (first, last) = (answer.first().unwrap(), answer.last().unwrap());
        assert!(is_soa(first), "an answer begins with the SOA record");
        if answer.len() == 1 {
            return;
        }
        assert_eq!(first, last, "it ends with the same");
        let inner = &answer[1..answer.len() - 1];
        if !is_soa(&inner[0]) {
            *self = Copy::default();
            for record in inner {
                assert!(!is_soa(record));
                self.add(record);
            }
        } else {
            let mut adds = true;
            for record in inner {
                if is_soa(record) {
                    adds = !adds;
                    if !adds {
                        assert_eq!(self.soa, record.to_string(), "differences follow each other");
                    }
                    self.soa = record.to_string();
                } else if adds {
                    self.add(record);
                } else {
                    self.remove(record);
                }
            }
            assert!(adds);
            assert_eq!(self.soa, first.to_string());
        }
        self.soa = first.to_string();
    }
}

const ZONES: [&str; 3] = [
    "obj.hypernet.internal.",
    "tree.hypernet.internal.",
    "hypernet.internal.",
];

/// A small generator, so that a failure names its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Changes something: creates, changes, moves or deletes an object, delegates a prefix, or changes the operator's zone.
async fn change(pool: &Pool, objects: &mut Vec<Register>, dice: &mut Dice) {
    let number = dice.roll(30);
    match dice.roll(10) {
        0..=2 => {
            let address = format!("5.{}.{number}", dice.roll(100_000));
            objects.extend(pool.create("s1", &[&address]).await);
        }
        3..=6 if !objects.is_empty() => {
            let at = usize::try_from(dice.roll(objects.len() as u64)).unwrap();
            let old = objects[at].clone();
            let deletes = dice.roll(4) == 0;
            let holders = if deletes {
                Vec::new()
            } else if old.holders.len() == 1 {
                vec![server("s1"), server("s2")]
            } else {
                vec![server("s1")]
            };
            let new = Register {
                state: if deletes { State::Deleted } else { State::Stable },
                epoch: Epoch(old.epoch.0 + u64::from(deletes)),
                holders,
                tx: pool.tx(),
                ..old.clone()
            };
            pool.change(Some(&old), &new).await.unwrap();
            if deletes {
                objects.swap_remove(at);
            } else {
                objects[at] = new;
            }
        }
        7 => {
            let add = format!("{number}.9.tree.hypernet.internal. 60 NS ns.elsewhere.");
            let glue = format!("ns.{number}.9.tree.hypernet.internal. 60 A 192.0.2.9");
            pool.nsupdate(ZONES[1], &[&add, &glue]).await.unwrap();
        }
        8 => {
            let names = [
                format!("- ns.{number}.9.tree.hypernet.internal."),
                format!("- {number}.9.tree.hypernet.internal."),
            ];
            pool.nsupdate(ZONES[1], &[&names[0], &names[1]]).await.unwrap();
        }
        _ => {
            let name = format!("n{number}.hypernet.internal.");
            let line = if dice.roll(3) == 0 {
                format!("- {name}")
            } else {
                format!("{name} 60 A 192.0.2.{}", dice.roll(250))
            };
            pool.nsupdate(ZONES[2], &[&line]).await.unwrap();
        }
    }
}

/// Takes zones while the registry changes after every message and every chunk, and differences afterwards.
#[tokio::test]
async fn whole_zone_is_that_of_one_serial_while_changes_go_on_and_differences_lead_from_it_to_the_end() {
    for seed in 1_u64..=8 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let primary = Primary::new(JournalBounds::default()).await;
        let pool = &primary.pool;
        let mut objects = Vec::new();
        for _ in 0..60 {
            change(pool, &mut objects, &mut dice).await;
        }
        for zone in ZONES {
            let mut expected = Copy::default();
            expected.take(&primary.take(zone, None));
            // The same zone once more, a chunk at a time, with changes between them.
            let (mut transfer, _) = primary.open(zone, None);
            let mut copy = Copy::default();
            let mut soas = Vec::new();
            loop {
                let name = zones::name::canonical(&Name::from_ascii(zone).unwrap());
                let mut packer = Packer::new(&request(zone, None), name, 1232);
                if !transfer
                    .stream
                    .next(&pool.registry, &transfer.form, &mut packer)
                    .unwrap()
                {
                    break;
                }
                assert!(packer.len().is_some(), "a chunk of few records is one message");
                for record in Message::from_vec(&one(packer)).unwrap().answers {
                    if is_soa(&record) {
                        soas.push(record.to_string());
                    } else {
                        copy.add(&record);
                    }
                }
                for _ in 0..dice.roll(3) {
                    change(pool, &mut objects, &mut dice).await;
                }
            }
            assert_eq!(soas, [&expected.soa[..]; 2], "seed {seed}");
            let differ: Vec<_> = copy.records.symmetric_difference(&expected.records).collect();
            assert!(differ.is_empty(), "seed {seed}, zone {zone}: {differ:?}");
            // And from there on by a difference.
            copy.soa = expected.soa;
            let from = copy.soa.split_whitespace().nth(6).unwrap().parse().unwrap();
            let difference = primary.take(zone, Some(from));
            assert!(
                difference.len() == 1 || is_soa(&difference[1]),
                "seed {seed}: a difference"
            );
            copy.take(&difference);
            let mut end = Copy::default();
            end.take(&primary.take(zone, None));
            assert!(copy == end, "seed {seed}, zone {zone}: after the difference");
        }
    }
}

#[tokio::test]
async fn role_changes_are_a_difference_of_the_soa_record_alone_and_a_server_with_objects_elsewhere_is_none() {
    let primary = Primary::new(JournalBounds::default()).await;
    primary.pool.create("s1", &["3.1"]).await;
    let before = serial(&primary.take(ZONES[0], None)[0]);
    // Nothing is at s4: where it is changes no record.
    primary.pool.speak(&server("s4"), 44).await.unwrap();
    let difference = primary.take(ZONES[0], Some(before));
    assert_eq!(
        difference.iter().map(serial).collect::<Vec<_>>(),
        [before + 1, before, before + 1, before + 1]
    );
    primary.pool.speak(&server("s1"), 41).await.unwrap();
    let whole = primary.take(ZONES[0], Some(before + 1));
    assert!(!is_soa(&whole[1]), "the whole zone");
    // A difference that begins after it leads on.
    let mut copy = Copy::default();
    copy.take(&whole);
    primary.pool.create("s1", &["3.2"]).await;
    let difference = primary.take(ZONES[0], Some(before + 2));
    assert!(is_soa(&difference[1]));
    copy.take(&difference);
    let mut end = Copy::default();
    end.take(&primary.take(ZONES[0], None));
    assert_eq!(copy, end);
}

#[tokio::test]
async fn transfer_that_the_journal_does_not_reach_back_to_ends_early_and_counts_as_failed() {
    let primary = Primary::new(JournalBounds {
        changes: 20,
        octets: 1 << 20,
    })
    .await;
    let addresses: Vec<String> = (0..100).map(|number| format!("3.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    primary.pool.create("s1", &addresses[..50]).await;
    let before = serial(&primary.take(ZONES[0], None)[0]);
    let (mut transfer, _) = primary.open(ZONES[0], None);
    for address in &addresses[50..] {
        primary.pool.create("s1", &[address]).await;
    }
    assert!(transfer.next(now_s()).is_err());
    drop(transfer);
    let counts = primary.transfers.status()[0].zones[0].counts;
    assert_eq!((counts.whole, counts.failed), (1, 1));
    // Nor is there a difference from so long ago.
    assert!(!is_soa(&primary.take(ZONES[0], Some(before))[1]));
    let late = serial(&primary.take(ZONES[0], None)[0]) - 3;
    assert!(is_soa(&primary.take(ZONES[0], Some(late))[1]));
}

#[tokio::test]
async fn serial_that_is_ours_or_later_gets_the_soa_record_alone() {
    let primary = Primary::new(JournalBounds::default()).await;
    primary.pool.create("s1", &["3.1"]).await;
    let now = serial(&primary.take(ZONES[0], None)[0]);
    for has in [now, now + 1, now.wrapping_add(0x7fff_ffff)] {
        let answer = primary.take(ZONES[0], Some(has));
        assert_eq!(answer.iter().map(serial).collect::<Vec<_>>(), [now], "{has}");
    }
    // Later by half the range or more is earlier (RFC 1982), and unknown here.
    assert!(primary.take(ZONES[0], Some(now.wrapping_add(0x8000_0001))).len() > 2);
}

#[tokio::test]
async fn over_udp_a_difference_is_whole_or_it_is_the_soa_record_alone() {
    let primary = Primary::new(JournalBounds::default()).await;
    let before = serial(&primary.take(ZONES[0], None)[0]);
    let ask = |from| {
        let holder = holder("ns2", &TransferredZone::ALL);
        let (Outcome::Octets(octets), signed) =
            primary.ask(Some(&holder), &request(ZONES[0], Some(from)), Transport::Udp)
        else {
            panic!("one message")
        };
        assert!(octets.len() <= 1232);
        let mut records = Vec::new();
        read(
            &octets,
            &mut SequenceVerifier::new(signed.key, signed.mac),
            &mut records,
        );
        records
    };
    primary.pool.create("s1", &["3.1"]).await;
    assert_eq!(ask(before), primary.take(ZONES[0], Some(before)));
    assert!(ask(before).len() > 4);
    for number in 0..10 {
        primary.pool.create("s1", &[&format!("4.{number}")]).await;
    }
    assert_eq!(ask(before).iter().map(serial).collect::<Vec<_>>(), [before + 11]);
    assert_eq!(ask(before + 11).len(), 1);
    assert_eq!(ask(before.wrapping_sub(5)).len(), 1, "no whole zone over UDP");
}

#[tokio::test]
async fn zones_are_given_to_secondaries_alone_each_its_own_and_pool_to_nobody() {
    use ResponseCode::{FormErr, NoError, NotAuth, Refused, ServFail};
    let primary = Primary::new(JournalBounds::default()).await;
    let (all, one) = (
        holder("ns2", &TransferredZone::ALL),
        holder("ns3", &[TransferredZone::Obj]),
    );
    let rcode =
        |holder: Option<&Holder>, zone: &str, from, transport| primary.rcode(holder, &request(zone, from), transport);
    let tcp = Transport::Tcp;
    for holder in [None, Some(&Holder::Admin), Some(&Holder::Agent(server("s1")))] {
        for zone in ZONES {
            assert_eq!(rcode(holder, zone, None, tcp), (Refused, ExtendedError::PROHIBITED));
            assert_eq!(rcode(holder, zone, Some(1), Transport::Udp).0, Refused);
        }
    }
    for zone in ZONES {
        assert_eq!(rcode(Some(&all), zone, None, tcp).0, NoError);
    }
    assert_eq!(rcode(Some(&one), ZONES[0], Some(1), tcp).0, NoError);
    assert_eq!(rcode(Some(&one), ZONES[1], None, tcp).0, Refused);
    assert_eq!(rcode(Some(&one), ZONES[2], None, tcp).0, Refused);
    let pool = "pool.hypernet.internal.";
    assert_eq!(rcode(Some(&all), pool, None, tcp), (Refused, ExtendedError::PROHIBITED));
    for no_zone in ["3.obj.hypernet.internal.", "example.", "www.hypernet.internal."] {
        assert_eq!(rcode(Some(&all), no_zone, None, tcp).0, NotAuth);
    }
    assert_eq!(rcode(Some(&all), ZONES[0], None, Transport::Udp).0, FormErr);
    let mut without = request(ZONES[0], Some(1));
    without.authorities.clear();
    assert_eq!(primary.rcode(Some(&all), &without, tcp).0, FormErr);
    // A stuck secondary keeps its own places and no more.
    let _stuck: Vec<_> = ZONES.map(|zone| primary.open(zone, None)).into();
    assert_eq!(
        rcode(Some(&all), ZONES[0], None, tcp),
        (ServFail, ExtendedError::NOT_READY)
    );
    assert_eq!(rcode(Some(&one), ZONES[0], None, tcp).0, NoError);
    let _last = primary.ask(Some(&one), &request(ZONES[0], None), tcp);
    assert_eq!(
        rcode(Some(&one), ZONES[0], None, tcp).0,
        ServFail,
        "all places are taken"
    );
}

#[tokio::test]
async fn zones_hold_their_apex_cuts_and_glue() {
    let primary = Primary::new(JournalBounds::default()).await;
    let named = |zone: &str, kind: RecordType| -> Vec<String> {
        let records = primary.take(zone, None);
        let found = records.iter().filter(|record| record.record_type() == kind);
        found.map(|record| record.name.to_string()).collect()
    };
    assert_eq!(named(ZONES[0], RecordType::NS), [ZONES[0]]);
    let mut cuts = named(ZONES[2], RecordType::NS);
    cuts.sort();
    let expected = [ZONES[2], ZONES[0], "pool.hypernet.internal.", ZONES[1]];
    assert_eq!(cuts, expected);
    assert_eq!(named(ZONES[2], RecordType::A), ["ns.pool.hypernet.internal."]);
    assert_eq!(named(ZONES[2], RecordType::SOA).len(), 2);
}

/// Stops the registry and opens it again.
async fn restart(primary: Primary, registry: Registry, journal: JournalBounds) -> Primary {
    let Primary { pool, .. } = primary;
    registry.close().await;
    let pool = pool.opened_again(journal);
    Primary::of(pool)
}

#[tokio::test]
async fn difference_leads_across_a_restart_in_order_and_not_across_a_change_that_the_file_does_not_know() {
    let bounds = JournalBounds::default();
    let primary = Primary::new(bounds).await;
    let mut dice = Dice(77);
    let mut objects = Vec::new();
    let mut copies = Vec::new();
    for _ in 0..40 {
        change(&primary.pool, &mut objects, &mut dice).await;
    }
    for zone in ZONES {
        let mut copy = Copy::default();
        copy.take(&primary.take(zone, None));
        copies.push(copy);
    }
    for _ in 0..40 {
        change(&primary.pool, &mut objects, &mut dice).await;
    }
    let path = primary.pool.path().with_extension("journal");
    let registry = primary.pool.registry.clone();
    let primary = restart(primary, registry, bounds).await;
    let kept = std::fs::read(&path).unwrap();
    for _ in 0..40 {
        change(&primary.pool, &mut objects, &mut dice).await;
    }
    for (zone, copy) in ZONES.iter().zip(&mut copies) {
        let from = copy.soa.split_whitespace().nth(6).unwrap().parse().unwrap();
        let difference = primary.take(zone, Some(from));
        assert!(is_soa(&difference[1]), "{zone}");
        copy.take(&difference);
        let mut end = Copy::default();
        end.take(&primary.take(zone, None));
        assert!(*copy == end, "{zone}");
    }
    // A crash: the file is of before.
    let registry = primary.pool.registry.clone();
    registry.close().await;
    std::fs::write(&path, &kept).unwrap();
    let primary = restart(primary, registry.clone(), bounds).await;
    let from = copies[0].soa.split_whitespace().nth(6).unwrap().parse::<u32>().unwrap() - 1;
    assert!(!is_soa(&primary.take(ZONES[0], Some(from))[1]), "the whole zone");
    // A commit that failed and is on disk all the same: the file fits the log by its number, and lacks what was done.
    let registry = primary.pool.registry.clone();
    primary.pool.create("s1", &["6.1"]).await;
    let ahead = registry.view().serials().obj;
    registry.close().await;
    let mut lacks = std::fs::read(&path).unwrap();
    let at = lacks
        .windows(8)
        .rposition(|octets| octets == [ahead.to_be_bytes(), ahead.to_be_bytes()].concat())
        .unwrap();
    lacks[at..at + 8].fill(0xee);
    std::fs::write(&path, &lacks).unwrap();
    let primary = restart(primary, registry.clone(), bounds).await;
    assert!(!is_soa(&primary.take(ZONES[0], Some(ahead - 1))[1]), "the whole zone");
    // Nonsense is as good as nothing.
    let registry = primary.pool.registry.clone();
    registry.close().await;
    for cut in [0, 1, 30, kept.len() / 2] {
        std::fs::write(&path, &kept[..cut]).unwrap();
        let again = Registry::open(
            &primary.pool.path(),
            &crate::testing::domain(),
            crate::testing::settings(),
        );
        again.unwrap().close().await;
    }
}
