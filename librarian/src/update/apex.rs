//! Changes of the operator's own zone, as RFC 2136 section 3.4.2 says.

use std::collections::BTreeSet;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use zones::{Change, Domain, Update, Zone};

use crate::registry::draft::{Draft, next_serial};
use crate::registry::zone::{Node, RrSet};
use crate::registry::{RecordZone, Refused};

/// Most records in one RRset: as many as an answer of 64 KiB surely holds, if they are small.
const RRSET_MAX: usize = 1000;
/// Most octets of RDATA in one RRset, so that it fits an answer.
const RRSET_OCTETS_MAX: usize = 48 * 1024;
/// Highest TTL (RFC 2181 section 8).
const TTL_MAX: u32 = 0x7fff_ffff;
/// DNAME, which hickory-proto has no name for.
const DNAME: RecordType = RecordType::Unknown(39);

/// Makes the changes of an update of the domain itself.
pub(super) fn apply(draft: &mut Draft<'_>, update: &Update) -> Result<(), Refused> {
    let apex = draft.domain().apex().clone();
    let old_serial = serial(draft, &apex);
    let mut changed = BTreeSet::new();
    for change in &update.changes {
        let name = change.name();
        outside_cuts(draft.domain(), name)?;
        let old = draft.node(RecordZone::Apex, name);
        let mut node = (*old).clone();
        change_node(&mut node, change, *name == apex)?;
        if node != *old {
            changed.insert(name.to_lowercase());
            draft.put_node(RecordZone::Apex, node);
        }
    }
    // Section 3.6: the serial rises, unless the message raised it itself.
    if !changed.is_empty() && serial(draft, &apex) == old_serial {
        let mut node = (*draft.node(RecordZone::Apex, &apex)).clone();
        if let Some(soa) = soa_mut(&mut node) {
            soa.serial = next_serial(soa.serial);
        }
        draft.put_node(RecordZone::Apex, node);
    }
    Ok(())
}

/// Names of the zones below, and what lies in them, are not this zone's to change.
fn outside_cuts(domain: &Domain, name: &Name) -> Result<(), Refused> {
    match domain.zone_of(name) {
        Some(Zone::Apex) | None => Ok(()),
        Some(zone @ (Zone::Obj | Zone::Tree | Zone::Pool)) => Err(Refused::prohibited(format!(
            "{name} belongs to the zone {}, whose cut is the librarian's own",
            domain.zone(zone)
        ))),
    }
}

/// Makes one change at one name.
pub(super) fn change_node(node: &mut Node, change: &Change, is_apex: bool) -> Result<(), Refused> {
    match change {
        Change::Add(record) => add(node, record, is_apex),
        Change::DeleteName { .. } => {
            node.sets.retain(|set| is_apex && is_kept(set.kind));
            Ok(())
        }
        Change::DeleteRrset { kind, .. } => {
            node.sets
                .retain(|set| set.kind != *kind || (is_apex && is_kept(set.kind)));
            Ok(())
        }
        Change::DeleteRecord { data, .. } => {
            delete_record(node, data, is_apex);
            Ok(())
        }
    }
}

/// The types whose last record stays at the apex (sections 3.4.2.3 and 3.4.2.4).
fn is_kept(kind: RecordType) -> bool {
    kind == RecordType::SOA || kind == RecordType::NS
}

fn add(node: &mut Node, record: &Record, is_apex: bool) -> Result<(), Refused> {
    let kind = record.record_type();
    let ttl = if record.ttl > TTL_MAX { 0 } else { record.ttl };
    if kind == DNAME {
        return Err(Refused::with(
            ResponseCode::NotImp,
            "DNAME records are not kept here: use CNAME records, or delegate the name",
        ));
    }
    // A CNAME stands alone, and nothing joins one (section 3.4.2.2).
    let clashes = |set: &RrSet| (set.kind == RecordType::CNAME) != (kind == RecordType::CNAME);
    if node.sets.iter().any(clashes) {
        return Ok(());
    }
    if let RData::SOA(new) = &record.data {
        return add_soa(node, new, ttl, is_apex);
    }
    let Some(set) = node.set_mut(kind) else {
        node.sets.push(RrSet {
            kind,
            ttl,
            records: vec![record.data.clone()],
        });
        return Ok(());
    };
    // One TTL for all of an RRset (RFC 2181 section 5.2): the last one given.
    set.ttl = ttl;
    if kind == RecordType::CNAME {
        set.records = vec![record.data.clone()];
    } else if !set.records.contains(&record.data) {
        set.records.push(record.data.clone());
    }
    let octets: usize = set.records.iter().map(|data| crate::registry::wire(data).len()).sum();
    if set.records.len() > RRSET_MAX || octets > RRSET_OCTETS_MAX {
        let why = format!("{} {kind} would have more records than fit an answer", record.name);
        return Err(Refused::prohibited(why));
    }
    Ok(())
}

fn add_soa(node: &mut Node, new: &SOA, ttl: u32, is_apex: bool) -> Result<(), Refused> {
    // Section 3.4.2.2: ignored where there is no SOA, and where the serial does not rise.
    let rises = soa_mut(node).is_some_and(|old| is_later(new.serial, old.serial));
    if is_apex
        && rises
        && let Some(set) = node.set_mut(RecordType::SOA)
    {
        set.ttl = ttl;
        set.records = vec![RData::SOA(new.clone())];
    }
    Ok(())
}

fn delete_record(node: &mut Node, data: &RData, is_apex: bool) {
    let kind = data.record_type();
    if kind == RecordType::SOA {
        return;
    }
    let Some(set) = node.set_mut(kind) else { return };
    if is_apex && kind == RecordType::NS && set.records.len() == 1 {
        return;
    }
    set.records.retain(|kept| kept != data);
    node.sets.retain(|set| !set.records.is_empty());
}

/// Whether a serial is later than another (RFC 1982 section 3.2).
pub(crate) fn is_later(new: u32, old: u32) -> bool {
    let ahead = new.wrapping_sub(old);
    ahead != 0 && ahead < 0x8000_0000
}

fn serial(draft: &Draft<'_>, apex: &Name) -> Option<u32> {
    let node = draft.node(RecordZone::Apex, apex);
    match node.set(RecordType::SOA)?.records.first()? {
        RData::SOA(soa) => Some(soa.serial),
        _ => None,
    }
}

/// Sets the serial of the operator's zone.
pub(crate) fn set_apex_serial(draft: &mut Draft<'_>, serial: u32) {
    let apex = draft.domain().apex().clone();
    let mut node = (*draft.node(RecordZone::Apex, &apex)).clone();
    if let Some(soa) = soa_mut(&mut node) {
        soa.serial = serial;
    }
    draft.put_node(RecordZone::Apex, node);
}

fn soa_mut(node: &mut Node) -> Option<&mut SOA> {
    match node.set_mut(RecordType::SOA)?.records.first_mut()? {
        RData::SOA(soa) => Some(soa),
        _ => None,
    }
}
