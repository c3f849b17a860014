//! Prerequisites on a draft (RFC 2136 section 3.2).
//!
//! At object names they see the register's TXT RRset alone, a deleted object's too.

use hickory_proto::rr::rdata::{NS, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use zones::want::PoolName;
use zones::{Prerequisite, Zone};

use crate::registry::draft::Draft;
use crate::registry::index::soa;
use crate::registry::key::key_of_name;
use crate::registry::{RecordZone, Refused, Server};

/// Checks one prerequisite.
pub(super) fn check(draft: &Draft<'_>, zone: Zone, prerequisite: &Prerequisite) -> Result<(), Refused> {
    let sets = sets(draft, zone, prerequisite.name());
    let set = |kind: &RecordType| sets.iter().find(|(found, _)| found == kind).map(|(_, data)| data);
    let holds = match prerequisite {
        Prerequisite::RrsetExists { kind, .. } => set(kind).is_some(),
        Prerequisite::RrsetEquals { kind, data, .. } => set(kind).is_some_and(|found| same(found, data)),
        Prerequisite::RrsetAbsent { kind, .. } => set(kind).is_none(),
        Prerequisite::NameInUse { .. } => !sets.is_empty(),
        Prerequisite::NameNotInUse { .. } => sets.is_empty(),
    };
    if holds {
        return Ok(());
    }
    let why = format!("a prerequisite on {} does not hold", prerequisite.name());
    Err(Refused::with(prerequisite.unmet(), why))
}

/// Whether two RRsets have the same members. Neither holds one twice.
fn same(a: &[RData], b: &[RData]) -> bool {
    a.len() == b.len() && a.iter().all(|data| b.contains(data))
}

/// The RRsets of a name as updates see them.
pub(super) fn sets(draft: &Draft<'_>, zone: Zone, name: &Name) -> Vec<(RecordType, Vec<RData>)> {
    let domain = draft.domain();
    if name == domain.zone(zone) && zone != Zone::Apex {
        let serials = draft.serials();
        let serial = match zone {
            Zone::Obj => serials.obj,
            Zone::Tree => serials.tree,
            Zone::Pool | Zone::Apex => serials.pool,
        };
        return vec![
            (RecordType::SOA, vec![RData::SOA(soa(domain, serial))]),
            (RecordType::NS, vec![RData::NS(NS(domain.in_pool("ns")))]),
        ];
    }
    match zone {
        Zone::Obj => {
            let register = key_of_name(domain, name).and_then(|key| draft.register(&key));
            register
                .map(|register| (RecordType::TXT, vec![text(&register.strings())]))
                .into_iter()
                .collect()
        }
        Zone::Pool => match PoolName::of(domain, name) {
            Some(PoolName::Server(server)) => draft
                .server(&server)
                .map(|server| host(name, server))
                .unwrap_or_default(),
            Some(PoolName::Want(server)) => draft
                .server(&server)
                .map(|server| vec![(RecordType::TXT, vec![text(&server.want.strings())])])
                .unwrap_or_default(),
            Some(
                PoolName::Todo(_)
                | PoolName::Report(_)
                | PoolName::Apex
                | PoolName::Any
                | PoolName::Ns
                | PoolName::Place,
            )
            | None => Vec::new(),
        },
        Zone::Tree => records(draft, RecordZone::Tree, name),
        Zone::Apex => records(draft, RecordZone::Apex, name),
    }
}

fn records(draft: &Draft<'_>, zone: RecordZone, name: &Name) -> Vec<(RecordType, Vec<RData>)> {
    let node = draft.node(zone, name);
    node.sets.iter().map(|set| (set.kind, set.records.clone())).collect()
}

fn host(name: &Name, server: &Server) -> Vec<(RecordType, Vec<RData>)> {
    let Some(host) = &server.host else { return Vec::new() };
    let addresses = |kind| -> Vec<RData> {
        let all = host.addresses.iter().copied().map(RData::from);
        all.filter(|data| data.record_type() == kind).collect()
    };
    let sets = [
        (RecordType::TXT, vec![text(&host.has.answered())]),
        (
            RecordType::SRV,
            vec![RData::SRV(SRV::new(0, 0, host.https_port, name.clone()))],
        ),
        (RecordType::A, addresses(RecordType::A)),
        (RecordType::AAAA, addresses(RecordType::AAAA)),
    ];
    sets.into_iter().filter(|(_, data)| !data.is_empty()).collect()
}

fn text(strings: &[String]) -> RData {
    RData::TXT(TXT::from_bytes(strings.iter().map(String::as_bytes).collect()))
}
