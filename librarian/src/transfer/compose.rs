//! The records of objects as they lie in the registry, written straight into messages.
//!
//! A whole zone is millions of records, nearly all of objects that nobody changes meanwhile. [`Form::register`] says what
//! an object's records are and makes them one by one, for differences; here the same octets come about without a copy
//! of the register, and with what servers add to every record made once for a transfer.
//!
//! Specifications: RFC 1035 section 3.2, RFC 2782 (SRV), PROTOCOL.md section 17.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use zones::Zone;
use zones::name::canonical;

use super::content::Form;
use super::message::Packer;
use crate::answer::common::values;
use crate::answer::{FORWARDS, HOLDS, WEIGHT_MAX};
use crate::place::weight;
use crate::registry::journal::{Place, Places};
use crate::registry::registers::Registers;
use crate::registry::table::Stored;

/// Class IN (RFC 1035 section 3.2.4).
const IN: u16 = 1;

/// Composes the records of objects, for one transfer.
pub(super) struct Composer {
    zone: Zone,
    form: Form,
    places: Arc<Places>,
    /// TXT record up to its RDATA.
    text: Vec<u8>,
    /// By the servers' numbers, as far as they were looked up; `None` for a server that did not say where it is.
    targets: Vec<Option<Target>>,
    /// Addresses that the object has already.
    seen: Vec<IpAddr>,
}

/// What a server adds to the records of an object. Records are what follows the owner.
struct Target {
    capacity: u64,
    /// Port and name of the SRV record.
    port_and_name: Vec<u8>,
    /// Its A and AAAA records.
    addresses: Vec<(IpAddr, Vec<u8>)>,
}

impl Composer {
    /// For a zone in which servers are at these places.
    pub(super) fn new(zone: Zone, form: &Form, places: Arc<Places>) -> Composer {
        Composer {
            zone,
            places,
            text: begun(RecordType::TXT, form.ttl_s),
            form: form.clone(),
            targets: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Writes the records of an object that is there.
    pub(super) fn row(&mut self, registers: &Registers, row: u32, packer: &mut Packer) {
        let stored = registers.stored(row);
        self.look_up(registers);
        packer.owner(|out| write_labels(out, registers.key(row).as_bytes(), self.zone));
        packer.record(|out| {
            out.extend_from_slice(&self.text);
            with_length(out, |out| values(&stored).write_rdata(out));
        });
        let best = self.choices(&stored).map(|(target, _)| target.capacity).max();
        let best = best.unwrap_or(0).max(1);
        for (target, priority) in self.choices(&stored) {
            // Capacities are far below 2^52 octets times the precision that a weight has.
            #[expect(clippy::cast_precision_loss, reason = "a weight has three digits")]
            let weight = weight(target.capacity as f64, best as f64, WEIGHT_MAX);
            packer.record(|out| {
                write_fixed(out, RecordType::SRV, self.form.ttl_s);
                with_length(out, |out| {
                    out.extend_from_slice(&priority.to_be_bytes());
                    out.extend_from_slice(&weight.to_be_bytes());
                    out.extend_from_slice(&target.port_and_name);
                });
            });
        }
        // Several servers may share an address; an RRset holds no record twice.
        let mut seen = std::mem::take(&mut self.seen);
        seen.clear();
        for number in stored.holders() {
            let target = self.targets[usize::from(*number)].as_ref();
            for (address, record) in target.into_iter().flat_map(|target| &target.addresses) {
                if !seen.contains(address) {
                    seen.push(*address);
                    packer.record(|out| out.extend_from_slice(record));
                }
            }
        }
        self.seen = seen;
    }

    /// The servers that an object's SRV records name, with their priorities.
    fn choices<'s>(&'s self, stored: &'s Stored<'_>) -> impl Iterator<Item = (&'s Target, u16)> {
        let holders = stored.holders().iter().map(|number| (*number, HOLDS));
        let numbers = holders.chain(stored.to().map(|to| (to, FORWARDS)));
        numbers.filter_map(|(number, priority)| Some((self.targets[usize::from(number)].as_ref()?, priority)))
    }

    /// Servers that were named by a register since the last look have numbers after all others.
    fn look_up(&mut self, registers: &Registers) {
        for number in self.targets.len()..registers.server_count() {
            let number = u16::try_from(number).expect("servers are numbered by u16");
            let name = registers.server(number);
            let target = self
                .places
                .get(name)
                .map(|place| Target::new(&self.form, name.as_str(), place));
            self.targets.push(target);
        }
    }
}

impl Target {
    fn new(form: &Form, name: &str, place: &Place) -> Target {
        let mut port_and_name = place.port.to_be_bytes().to_vec();
        port_and_name.extend(canonical(&form.domain.in_pool(name)));
        let record = |address: &IpAddr| {
            let (kind, octets) = match address {
                IpAddr::V4(address) => (RecordType::A, address.octets().to_vec()),
                IpAddr::V6(address) => (RecordType::AAAA, address.octets().to_vec()),
            };
            let mut record = begun(kind, form.ttl_s);
            with_length(&mut record, |out| out.extend(octets));
            (*address, record)
        };
        Target {
            capacity: place.capacity,
            port_and_name,
            addresses: place.addresses.iter().map(record).collect(),
        }
    }
}

fn begun(kind: RecordType, ttl_s: u32) -> Vec<u8> {
    let mut record = Vec::new();
    write_fixed(&mut record, kind, ttl_s);
    record
}

/// Type, class and TTL.
fn write_fixed(out: &mut Vec<u8>, kind: RecordType, ttl_s: u32) {
    out.extend_from_slice(&u16::from(kind).to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    out.extend_from_slice(&ttl_s.to_be_bytes());
}

/// RDATA behind its length.
fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    write(out);
    let length = u16::try_from(out.len() - at - 2).expect("RDATA has at most 65535 octets");
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// The labels of a key, which has them in written order, joined by dots.
fn write_labels(out: &mut Vec<u8>, key: &[u8], zone: Zone) {
    let mut write = |label: &[u8]| {
        out.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        out.extend_from_slice(label);
    };
    let labels = key.split(|octet| *octet == b'.');
    match zone {
        Zone::Tree => labels.rev().for_each(&mut write),
        Zone::Obj | Zone::Pool | Zone::Apex => labels.for_each(&mut write),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::Name;
    use zones::{Domain, Epoch, Level, Register, ServerName, State, Tx};

    use super::*;
    use crate::registry::wire;
    use crate::testing::{address, domain, server};

    /// Seventeen servers, two of them at the same addresses; `s17` did not say where it is.
    fn places() -> Arc<Places> {
        let place = |number: u8| Place {
            port: 9000 + u16::from(number),
            addresses: match number {
                5 => vec![],
                6 | 7 => vec![IpAddr::from([192, 0, 2, 6]), "2001:db8::6".parse().unwrap()],
                number => vec![IpAddr::from([192, 0, 2, number])],
            },
            // The last of them gave nothing at all.
            capacity: 1000 * u64::from(16 - number),
        };
        let all = (1..=16).map(|number| (server(&format!("s{number}")), place(number)));
        Arc::new(all.collect())
    }

    /// Objects with every number of holders, moving and not, some deleted, of every kind of address.
    fn registers() -> Vec<Register> {
        let name = |number: usize| -> ServerName { server(&format!("s{}", 1 + number % 17)) };
        let long = "L".repeat(100);
        let all = (0..600).map(|number| {
            let address = address(&match number % 7 {
                0 => format!("3.{number}"),
                1 => format!("Photo.A-b_C.{number}"),
                2 => format!("{long}.{number}"),
                3 => format!("xh--01.{number}"),
                4 => format!("{number}"),
                5 => format!("{}.{number}", "9.".repeat(40) + "9"),
                _ => format!("0{number}.x"),
            });
            let holders: Vec<ServerName> = (0..=number % 14).map(|step| name(number + step)).collect();
            let state = match number % 5 {
                0 => State::Moving { to: name(number + 14) },
                1 if number % 3 == 0 => State::Deleted,
                _ => State::Stable,
            };
            Register {
                address,
                epoch: Epoch(1 + number as u64 * 12_345_678_901),
                owner: holders[0].clone(),
                tx: Tx((number as u128).wrapping_mul(u128::MAX / 601).to_be_bytes()),
                holders: if state == State::Deleted { Vec::new() } else { holders },
                state,
                kind: ["photo", "t"][number % 2].parse().unwrap(),
                schema: number as u32 * 7_000_000,
                level: Level(1 + (number % 200) as u8),
            }
        });
        all.collect()
    }

    fn packer(domain: &Domain, zone: Zone) -> Packer {
        let mut request = hickory_proto::op::Message::new(7, MessageType::Query, OpCode::Query);
        request.add_query(Query::query(domain.zone(zone).clone(), RecordType::AXFR));
        Packer::new(&request, canonical(domain.zone(zone)), 1232)
    }

    #[test]
    fn composed_records_of_every_object_are_those_that_its_register_has() {
        let form = Form {
            domain: domain(),
            ttl_s: 5,
            ns_addresses: vec![],
        };
        let (registers, places) = (registers(), places());
        let mut table = Registers::loading(domain(), 0, Arc::default());
        table.finish_loading();
        for zone in [Zone::Obj, Zone::Tree] {
            let mut composer = Composer::new(zone, &form, Arc::clone(&places));
            let mut packer = packer(&form.domain, zone);
            let mut expected = Vec::new();
            for register in &registers {
                register.check().unwrap();
                table.put(register);
                let row = table
                    .find(&crate::registry::key::key_of(&form.domain, &register.address).unwrap())
                    .unwrap();
                let block = form.register(zone, &places, register).unwrap();
                assert_eq!(table.is_live(row), !block.records.is_empty());
                if table.is_live(row) {
                    composer.row(&table, row, &mut packer);
                }
                for rec in block.records {
                    expected.push((block.owner.clone(), rec.kind, rec.ttl_s, rec.data));
                }
            }
            let messages = packer.finish();
            assert!(messages.len() > 3, "{}", messages.len());
            let answers = messages.iter().flat_map(|octets| {
                let message = hickory_proto::op::Message::from_vec(octets).unwrap();
                message.answers
            });
            let found: Vec<_> = answers
                .map(|record| {
                    let name: &Name = &record.name;
                    (
                        canonical(name),
                        u16::from(record.record_type()),
                        record.ttl,
                        wire(&record.data),
                    )
                })
                .collect();
            assert!(found == expected, "{zone:?}");
        }
    }
}
