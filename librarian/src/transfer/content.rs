//! What a transferred zone holds: a function of registers and where servers are, and nothing else.
//!
//! | zone | holds |
//! |---|---|
//! | `obj` | SOA, NS; for each object TXT, SRV, A, AAAA |
//! | `tree` | the same under reversed names; delegations (NS) with their glue |
//! | the domain | what is stored; NS of the three cuts, and the addresses of `ns.pool` as glue |
//!
//! Unlike an answer of the librarian it knows neither who lives nor who is busy: SRV of priority 0 for every holder, its
//! weight by the capacity that its operator gave it, priority 10 for the other party of an open move. What lies below a
//! delegated prefix has no name in `obj`: a zone cannot say "everything that begins with these labels" (RFC 4592 puts the
//! wildcard at the other end). It is found in `tree`.
//!
//! Records are octets as they are sent, uncompressed.
//!
//! Specifications: RFC 1035 section 3.2, RFC 2782 (SRV), PROTOCOL.md section 17.

use std::net::IpAddr;

use hickory_proto::rr::{RData, RecordType};
use zones::name::canonical;
use zones::{Domain, Register, ServerName, State, Zone};

use crate::answer::{FORWARDS, HOLDS, WEIGHT_MAX};
use crate::place::weight;
use crate::registry::index::soa;
use crate::registry::journal::{Place, Places};
use crate::registry::wire;
use crate::registry::zone::Node;

/// One record without its owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rec {
    pub(super) kind: u16,
    pub(super) ttl_s: u32,
    /// RDATA.
    pub(super) data: Vec<u8>,
}

/// All records of one name, but a SOA record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Block {
    /// The owner in wire form, lower case.
    pub(super) owner: Vec<u8>,
    pub(super) records: Vec<Rec>,
}

/// What zones are made of besides the registry.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) domain: Domain,
    /// TTL of composed records.
    pub(crate) ttl_s: u32,
    /// Addresses of `ns.pool.<domain>`.
    pub(crate) ns_addresses: Vec<IpAddr>,
}

impl Form {
    /// What tells this form from another: where it differs, zones differ at the same serial.
    pub(super) fn mark(&self) -> String {
        format!("1 {} {:?}", self.ttl_s, self.ns_addresses)
    }

    /// The name of a zone in wire form.
    pub(super) fn zone(&self, zone: Zone) -> Vec<u8> {
        canonical(self.domain.zone(zone))
    }

    /// The records that a zone has whatever is registered.
    pub(super) fn fixed(&self, zone: Zone) -> Vec<Block> {
        let ns = self.domain.in_pool("ns");
        let cut = |zone| Block {
            owner: self.zone(zone),
            records: vec![self.rec(RecordType::NS, canonical(&ns))],
        };
        match zone {
            Zone::Obj | Zone::Tree | Zone::Pool => vec![cut(zone)],
            Zone::Apex => {
                let mut blocks: Vec<Block> = [Zone::Obj, Zone::Pool, Zone::Tree].map(cut).into();
                let glue = self.ns_addresses.iter().map(|address| self.address(*address));
                blocks.push(Block {
                    owner: canonical(&ns),
                    records: glue.collect(),
                });
                blocks
            }
        }
    }

    /// The SOA record of a zone that is composed.
    pub(super) fn soa(&self, serial: u32) -> Rec {
        self.rec(RecordType::SOA, wire(&RData::SOA(soa(&self.domain, serial))))
    }

    /// An object's records, empty for a deleted one.
    pub(super) fn register(&self, zone: Zone, places: &Places, register: &Register) -> Option<Block> {
        let name = match zone {
            Zone::Obj => self.domain.obj_name(&register.address),
            Zone::Tree => self.domain.tree_name(&register.address),
            Zone::Pool | Zone::Apex => return None,
        };
        let owner = canonical(&name.expect("the address was checked when it was registered"));
        let to = match &register.state {
            State::Deleted => return Some(Block { owner, records: vec![] }),
            State::Stable => None,
            State::Moving { to } => Some(to),
        };
        let mut records = vec![self.rec(RecordType::TXT, register.rdata())];
        let holders = register.holders.iter().map(|name| (name, HOLDS));
        let choices = holders.chain(to.map(|to| (to, FORWARDS)));
        let choices: Vec<(&ServerName, u16, &Place)> = choices
            .filter_map(|(name, priority)| Some((name, priority, places.get(name)?)))
            .collect();
        let best = choices.iter().map(|(.., place)| place.capacity).max().unwrap_or(0);
        for (name, priority, place) in &choices {
            // Capacities are far below 2^52 octets times the precision that a weight has.
            #[expect(clippy::cast_precision_loss, reason = "a weight has three digits")]
            let weight = weight(place.capacity as f64, best.max(1) as f64, WEIGHT_MAX);
            let mut data = Vec::new();
            for number in [*priority, weight, place.port] {
                data.extend(number.to_be_bytes());
            }
            data.extend(canonical(&self.domain.in_pool(name.as_str())));
            records.push(self.rec(RecordType::SRV, data));
        }
        for (_, _, place) in choices.iter().filter(|(_, priority, _)| *priority == HOLDS) {
            for address in &place.addresses {
                let rec = self.address(*address);
                // Several servers may share an address; an RRset holds no record twice.
                if !records.contains(&rec) {
                    records.push(rec);
                }
            }
        }
        Some(Block { owner, records })
    }

    /// The stored records of a name, and the SOA record besides, if there is one.
    pub(super) fn node(&self, node: &Node) -> (Block, Option<Rec>) {
        let mut soa = None;
        let mut records = Vec::new();
        for set in &node.sets {
            for data in &set.records {
                let rec = Rec {
                    kind: set.kind.into(),
                    ttl_s: set.ttl,
                    data: wire(data),
                };
                if set.kind == RecordType::SOA {
                    soa = Some(rec);
                } else {
                    records.push(rec);
                }
            }
        }
        let owner = canonical(&node.name);
        (Block { owner, records }, soa)
    }

    fn rec(&self, kind: RecordType, data: Vec<u8>) -> Rec {
        Rec {
            kind: kind.into(),
            ttl_s: self.ttl_s,
            data,
        }
    }

    fn address(&self, address: IpAddr) -> Rec {
        match address {
            IpAddr::V4(address) => self.rec(RecordType::A, address.octets().into()),
            IpAddr::V6(address) => self.rec(RecordType::AAAA, address.octets().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::{address, domain, server};
    use zones::{Epoch, Level, Tx};

    fn form() -> Form {
        Form {
            domain: domain(),
            ttl_s: 5,
            ns_addresses: vec![IpAddr::from([192, 0, 2, 53])],
        }
    }

    fn places() -> Places {
        let place = |number: u8, capacity| Place {
            port: 9000 + u16::from(number),
            addresses: vec![IpAddr::from([192, 0, 2, number])],
            capacity,
        };
        BTreeMap::from([
            (server("s1"), place(1, 4000)),
            (server("s2"), place(2, 1000)),
            (server("s3"), place(3, 2000)),
        ])
    }

    fn register(state: State, holders: &[&str]) -> Register {
        Register {
            address: address("3.1.A"),
            epoch: Epoch(2),
            owner: server("s1"),
            state,
            tx: Tx([1; 16]),
            holders: holders.iter().map(|name| server(name)).collect(),
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    fn kinds(block: &Block) -> Vec<u16> {
        block.records.iter().map(|rec| rec.kind).collect()
    }

    #[test]
    fn object_has_its_text_its_holders_by_capacity_and_the_other_party_of_its_move() {
        let moving = register(State::Moving { to: server("s3") }, &["s1", "s2"]);
        let block = form().register(Zone::Obj, &places(), &moving).unwrap();
        assert_eq!(block.owner, b"\x013\x011\x01a\x03obj\x08hypernet\x08internal\0");
        assert_eq!(kinds(&block), [16, 33, 33, 33, 1, 1]);
        let numbers = |rec: &Rec| -> Vec<u16> {
            let pairs = rec.data[..6].chunks(2);
            pairs.map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
        };
        assert_eq!(numbers(&block.records[1]), [0, 1000, 9001]);
        assert_eq!(numbers(&block.records[2]), [0, 250, 9002]);
        assert_eq!(numbers(&block.records[3]), [10, 500, 9003]);
        assert!(
            block.records[3]
                .data
                .ends_with(b"\x02s3\x04pool\x08hypernet\x08internal\0")
        );
        let tree = form().register(Zone::Tree, &places(), &moving).unwrap();
        assert!(tree.owner.starts_with(b"\x01a\x011\x013\x04tree"));
        assert_eq!(tree.records, block.records);
    }

    #[test]
    fn deleted_object_has_no_record_and_an_unknown_holder_none_but_in_the_text() {
        let deleted = register(State::Deleted, &[]);
        let block = form().register(Zone::Obj, &places(), &deleted).unwrap();
        assert!(block.records.is_empty());
        let unknown = register(State::Stable, &["s1", "s9"]);
        let block = form().register(Zone::Obj, &places(), &unknown).unwrap();
        assert_eq!(kinds(&block), [16, 33, 1]);
    }

    #[test]
    fn cuts_lie_in_the_operators_zone_with_glue() {
        let blocks = form().fixed(Zone::Apex);
        assert_eq!(blocks.len(), 4);
        assert!(blocks[3].owner.starts_with(b"\x02ns\x04pool"));
        assert_eq!(blocks[3].records[0].data, [192, 0, 2, 53]);
        assert_eq!(form().fixed(Zone::Obj).len(), 1);
    }
}
