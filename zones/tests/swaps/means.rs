//! What swaps say, compared with the general reading of the same message.

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use zones::update::Swaps;
use zones::{Change, Domain, Prerequisite, Register, Zone, read_update};

/// Panics if the general reading of the message that was read as swaps says anything else.
pub(crate) fn the_same(domain: &Domain, swaps: &Swaps, frame: &Message) {
    let message = Message::from_vec(swaps.message()).expect("hickory reads what was read as swaps");
    assert_eq!(frame.metadata, message.metadata);
    assert_eq!((&frame.queries, &frame.edns), (&message.queries, &message.edns));
    assert!(message.additionals.is_empty());
    let update = read_update(&message).expect("swaps are an update");
    assert_eq!(update.zone, *domain.zone(Zone::Obj));
    assert_eq!(swaps.changes(), update.changes.len());
    let mut prerequisites = Vec::new();
    let mut changes = update.changes.iter();
    for (old, new) in swaps.iter() {
        let name = domain.obj_name(&new.address).expect("its address has a name");
        assert_eq!(domain.address_of(&name), Ok(Some(new.address.folded())));
        match old {
            Some(old) => {
                let text = text(old);
                // Two on one name are one set of two, which a single register cannot equal.
                match prerequisites.iter_mut().find_map(|found| match found {
                    Prerequisite::RrsetEquals { name: other, data, .. } if *other == name => Some(data),
                    _ => None,
                }) {
                    Some(data) if data.contains(&text) => {}
                    Some(data) => data.push(text),
                    None => prerequisites.push(Prerequisite::RrsetEquals {
                        name: name.clone(),
                        kind: RecordType::TXT,
                        data: vec![text],
                    }),
                }
                let delete = Change::DeleteRrset {
                    name: name.clone(),
                    kind: RecordType::TXT,
                };
                assert_eq!(changes.next(), Some(&delete));
            }
            None => prerequisites.push(Prerequisite::RrsetAbsent {
                name: name.clone(),
                kind: RecordType::TXT,
            }),
        }
        match changes.next() {
            Some(Change::Add(record)) => {
                assert_eq!(record.name, name);
                assert_eq!(register(&record.data), Some(new.clone()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(changes.next().is_none());
    assert_eq!(prerequisites, update.prerequisites);
}

/// RDATA of a TXT record.
fn text(rdata: &[u8]) -> RData {
    let mut strings = Vec::new();
    let mut rest = rdata;
    while let Some((length, after)) = rest.split_first() {
        let (string, after) = after.split_at(usize::from(*length));
        strings.push(string);
        rest = after;
    }
    RData::TXT(hickory_proto::rr::rdata::TXT::from_bytes(strings))
}

fn register(data: &RData) -> Option<Register> {
    match data {
        RData::TXT(text) => Register::from_strings(&text.txt_data).ok(),
        _ => None,
    }
}
