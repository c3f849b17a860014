//! Every form of RFC 2136 sections 2.4 and 2.5, and every format check of section 3, octet by octet: messages are
//! written here by hand, so that the reading does not lean on the same encoder.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use zones::{Change, Prerequisite, UpdateFormatError, read_update};

const IN: u16 = 1;
const NONE: u16 = 254;
const ANY: u16 = 255;
const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_TXT: u16 = 16;
const TYPE_ANY: u16 = 255;
const TYPE_AXFR: u16 = 252;
const ADDRESS: &[u8] = &[192, 0, 2, 1];

fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn record(name: &str, kind: u16, class: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let mut octets = wire(name);
    octets.extend_from_slice(&kind.to_be_bytes());
    octets.extend_from_slice(&class.to_be_bytes());
    octets.extend_from_slice(&ttl.to_be_bytes());
    octets.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
    octets.extend_from_slice(rdata);
    octets
}

fn zone(name: &str, kind: u16, class: u16) -> Vec<u8> {
    let mut octets = wire(name);
    octets.extend_from_slice(&kind.to_be_bytes());
    octets.extend_from_slice(&class.to_be_bytes());
    octets
}

fn message(zones: &[Vec<u8>], prerequisites: &[Vec<u8>], changes: &[Vec<u8>]) -> Message {
    let mut octets = vec![0, 7, 0x28, 0];
    for section in [zones.len(), prerequisites.len(), changes.len(), 0] {
        octets.extend_from_slice(&u16::try_from(section).unwrap().to_be_bytes());
    }
    for record in zones.iter().chain(prerequisites).chain(changes) {
        octets.extend_from_slice(record);
    }
    Message::from_vec(&octets).unwrap()
}

fn example() -> Vec<Vec<u8>> {
    vec![zone("example.", TYPE_SOA, IN)]
}

fn prerequisite(record: Vec<u8>) -> Result<Prerequisite, UpdateFormatError> {
    read_update(&message(&example(), &[record], &[])).map(|mut update| {
        assert_eq!(update.prerequisites.len(), 1);
        update.prerequisites.remove(0)
    })
}

fn change(record: Vec<u8>) -> Result<Change, UpdateFormatError> {
    read_update(&message(&example(), &[], &[record])).map(|mut update| {
        assert_eq!(update.changes.len(), 1);
        update.changes.remove(0)
    })
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn every_form_of_prerequisite_is_read() {
    let a = name("a.example.");
    assert_eq!(
        prerequisite(record("a.example.", TYPE_A, ANY, 0, &[])),
        Ok(Prerequisite::RrsetExists {
            name: a.clone(),
            kind: RecordType::A
        })
    );
    assert_eq!(
        prerequisite(record("a.example.", TYPE_A, IN, 0, ADDRESS)),
        Ok(Prerequisite::RrsetEquals {
            name: a.clone(),
            kind: RecordType::A,
            data: vec![RData::A(A::new(192, 0, 2, 1))]
        })
    );
    assert_eq!(
        prerequisite(record("a.example.", TYPE_A, NONE, 0, &[])),
        Ok(Prerequisite::RrsetAbsent {
            name: a.clone(),
            kind: RecordType::A
        })
    );
    assert_eq!(
        prerequisite(record("a.example.", TYPE_ANY, ANY, 0, &[])),
        Ok(Prerequisite::NameInUse { name: a.clone() })
    );
    assert_eq!(
        prerequisite(record("a.example.", TYPE_ANY, NONE, 0, &[])),
        Ok(Prerequisite::NameNotInUse { name: a })
    );
}

#[test]
fn unmet_prerequisite_has_the_rcode_of_its_form() {
    let unmet = |kind, class, rdata: &[u8]| {
        prerequisite(record("a.example.", kind, class, 0, rdata))
            .unwrap()
            .unmet()
    };
    assert_eq!(unmet(TYPE_A, ANY, &[]), ResponseCode::NXRRSet);
    assert_eq!(unmet(TYPE_A, IN, ADDRESS), ResponseCode::NXRRSet);
    assert_eq!(unmet(TYPE_A, NONE, &[]), ResponseCode::YXRRSet);
    assert_eq!(unmet(TYPE_ANY, ANY, &[]), ResponseCode::NXDomain);
    assert_eq!(unmet(TYPE_ANY, NONE, &[]), ResponseCode::YXDomain);
}

/// Section 3.2.3: records of one RRset are compared as one set, whatever their order, case and repetition.
#[test]
fn records_of_one_rrset_are_one_prerequisite() {
    let other = [192, 0, 2, 2];
    let records = [
        record("a.example.", TYPE_A, IN, 0, ADDRESS),
        record("b.example.", TYPE_A, IN, 0, ADDRESS),
        record("A.Example.", TYPE_A, IN, 0, &other),
        record("a.example.", TYPE_A, IN, 0, ADDRESS),
        record("a.example.", TYPE_TXT, IN, 0, b"\x01x"),
    ];
    let update = read_update(&message(&example(), &records, &[])).unwrap();
    assert_eq!(
        update.prerequisites,
        [
            Prerequisite::RrsetEquals {
                name: name("a.example."),
                kind: RecordType::A,
                data: vec![RData::A(A::new(192, 0, 2, 1)), RData::A(A::new(192, 0, 2, 2))],
            },
            Prerequisite::RrsetEquals {
                name: name("b.example."),
                kind: RecordType::A,
                data: vec![RData::A(A::new(192, 0, 2, 1))],
            },
            Prerequisite::RrsetEquals {
                name: name("a.example."),
                kind: RecordType::TXT,
                data: vec![RData::TXT(TXT::new(vec!["x".to_owned()]))],
            },
        ]
    );
}

#[test]
fn every_form_of_change_is_read() {
    let a = name("a.example.");
    match change(record("a.example.", TYPE_A, IN, 60, ADDRESS)) {
        Ok(Change::Add(record)) => {
            assert_eq!((&record.name, record.ttl), (&a, 60));
            assert_eq!(record.data, RData::A(A::new(192, 0, 2, 1)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        change(record("a.example.", TYPE_A, ANY, 0, &[])),
        Ok(Change::DeleteRrset {
            name: a.clone(),
            kind: RecordType::A
        })
    );
    assert_eq!(
        change(record("a.example.", TYPE_ANY, ANY, 0, &[])),
        Ok(Change::DeleteName { name: a.clone() })
    );
    assert_eq!(
        change(record("a.example.", TYPE_A, NONE, 0, ADDRESS)),
        Ok(Change::DeleteRecord {
            name: a,
            data: RData::A(A::new(192, 0, 2, 1))
        })
    );
}

#[test]
fn zone_section_that_is_not_one_soa_is_a_format_error() {
    let code = |zones: &[Vec<u8>]| read_update(&message(zones, &[], &[])).unwrap_err().response_code();
    let soa = zone("example.", TYPE_SOA, IN);
    assert_eq!(code(&[]), ResponseCode::FormErr);
    assert_eq!(code(&[soa.clone(), soa]), ResponseCode::FormErr);
    assert_eq!(code(&[zone("example.", TYPE_A, IN)]), ResponseCode::FormErr);
    assert_eq!(code(&[zone("example.", TYPE_SOA, 3)]), ResponseCode::NotAuth);
}

#[test]
fn malformed_prerequisite_is_a_format_error() {
    for (what, octets) in [
        ("TTL", record("a.example.", TYPE_A, ANY, 1, &[])),
        ("TTL of a value", record("a.example.", TYPE_A, IN, 1, ADDRESS)),
        ("ANY with data", record("a.example.", TYPE_A, ANY, 0, ADDRESS)),
        ("NONE with data", record("a.example.", TYPE_A, NONE, 0, ADDRESS)),
        ("IN without data", record("a.example.", TYPE_A, IN, 0, &[])),
        ("IN ANY", record("a.example.", TYPE_ANY, IN, 0, &[])),
        ("another class", record("a.example.", TYPE_A, 3, 0, ADDRESS)),
    ] {
        let code = prerequisite(octets).unwrap_err().response_code();
        assert_eq!(code, ResponseCode::FormErr, "{what}");
    }
}

#[test]
fn malformed_change_is_a_format_error() {
    for (what, octets) in [
        ("IN ANY", record("a.example.", TYPE_ANY, IN, 0, &[])),
        ("IN without data", record("a.example.", TYPE_A, IN, 0, &[])),
        ("ANY with TTL", record("a.example.", TYPE_A, ANY, 1, &[])),
        ("ANY with data", record("a.example.", TYPE_A, ANY, 0, ADDRESS)),
        ("ANY AXFR", record("a.example.", TYPE_AXFR, ANY, 0, &[])),
        ("ANY MAILB", record("a.example.", 253, ANY, 0, &[])),
        ("NONE with TTL", record("a.example.", TYPE_A, NONE, 1, ADDRESS)),
        ("NONE ANY", record("a.example.", TYPE_ANY, NONE, 0, &[])),
        ("NONE without data", record("a.example.", TYPE_A, NONE, 0, &[])),
        ("NONE TSIG", record("a.example.", 249, NONE, 0, b"x")),
        ("another class", record("a.example.", TYPE_A, 4, 0, ADDRESS)),
    ] {
        let code = change(octets).unwrap_err().response_code();
        assert_eq!(code, ResponseCode::FormErr, "{what}");
    }
}

#[test]
fn name_outside_the_zone_is_notzone_wherever_it_stands() {
    for other in ["example2.", "aexample.", "."] {
        for result in [
            prerequisite(record(other, TYPE_A, ANY, 0, &[])).map(|_| ()),
            change(record(other, TYPE_A, ANY, 0, &[])).map(|_| ()),
        ] {
            assert_eq!(result.unwrap_err().response_code(), ResponseCode::NotZone, "{other}");
        }
    }
    assert!(change(record("EXAMPLE.", TYPE_A, ANY, 0, &[])).is_ok());
}

#[test]
fn query_and_answer_are_no_update() {
    let mut query = message(&example(), &[], &[]);
    query.metadata.op_code = hickory_proto::op::OpCode::Query;
    assert_eq!(read_update(&query), Err(UpdateFormatError::NotAnUpdate));
    let answer = message(&example(), &[], &[]).into_response();
    assert_eq!(read_update(&answer), Err(UpdateFormatError::NotAnUpdate));
}
