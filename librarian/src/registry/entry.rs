//! Entries of the log: the whole new value of one thing, in bytes.
//!
//! | tag | entry | fields |
//! |---|---|---|
//! | 1 | register | address, epoch u64, tx 16 octets, state u8 (0 stable, 1 moving, 2 deleted), owner, `to` if moving, holders, type, schema u32, level u8 |
//! | 2 | node | zone u8 (0 apex, 1 tree), owner name in wire form, RRsets: type u16, TTL u32, list of RDATA uncompressed; no RRset: the name is gone |
//! | 3 | server | name, lost u8, want strings, then u8 1 and HTTPS port u16, addresses as text, has strings, or u8 0; head of its log of moves, or nothing |
//! | 4 | plan | number u64, parent u64, document behind u32 |
//! | 5 | serials | obj, tree, pool, each u32 |
//! | 6 | reconcile | open u8, names of servers that were written off |
//!
//! Numbers are big-endian, a text has its length before it as u16, a list its count as u16. An entry replaces every
//! earlier one of the same thing, so the log read in order gives the state, whatever earlier entries were dropped.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding, Restrict};
use zones::register::HOLDERS_MAX;
use zones::{Epoch, Has, Level, Register, ServerName, State, Tx, Want};

use super::bytes::{Damaged, Reader, Writer};
use super::server::{Host, Server};
use super::zone::{Node, RrSet};

/// Serials of the zones that are composed (RFC 1982); that of the operator's zone lies in its SOA record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Serials {
    /// Of `obj.<domain>`.
    pub obj: u32,
    /// Of `tree.<domain>`.
    pub tree: u32,
    /// Of `pool.<domain>`.
    pub pool: u32,
}

/// A numbered document that says what the pool is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Its number; higher than its parent's.
    pub number: u64,
    /// The plan before, 0 for none.
    pub parent: u64,
    /// What it says; the controller's own words.
    pub document: String,
}

/// Whether registers may change, and which servers were written off to get there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reconcile {
    /// Registers may change; if not, what servers know of them is being collected.
    pub open: bool,
    /// Servers that were written off by name: until they join anew they may change nothing.
    pub written_off: BTreeSet<ServerName>,
}

impl Default for Reconcile {
    /// A registry that was never restored.
    fn default() -> Self {
        Reconcile {
            open: true,
            written_off: BTreeSet::new(),
        }
    }
}

/// Which ordinary zone a node lies in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum RecordZone {
    /// The operator's own.
    Apex,
    /// Delegations in `tree`.
    Tree,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    Register(Register),
    Node(RecordZone, Arc<Node>),
    Server(Box<Server>),
    Plan(Arc<Plan>),
    Serials(Serials),
    Reconcile(Arc<Reconcile>),
}

impl Entry {
    /// The bytes of an entry.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Most are registers, most of these shorter.
        let mut out = Writer(Vec::with_capacity(160));
        self.write(&mut out);
        out.0
    }

    /// Writes the same behind what is there.
    pub(super) fn write(&self, out: &mut Writer) {
        match self {
            Entry::Register(register) => write_register(out, register),
            Entry::Node(zone, node) => write_node(out, *zone, node),
            Entry::Server(server) => write_server(out, server),
            Entry::Plan(plan) => {
                out.u8(4);
                out.u64(plan.number);
                out.u64(plan.parent);
                out.long(plan.document.as_bytes());
            }
            Entry::Serials(serials) => {
                out.u8(5);
                [serials.obj, serials.tree, serials.pool]
                    .iter()
                    .for_each(|serial| out.u32(*serial));
            }
            Entry::Reconcile(reconcile) => {
                out.u8(6);
                out.u8(u8::from(reconcile.open));
                out.list(reconcile.written_off.iter(), |out, server| {
                    out.octets(server.as_str().as_bytes());
                });
            }
        }
    }

    /// Reads the bytes of an entry.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Entry, Damaged> {
        let mut from = Reader(bytes);
        let entry = match from.u8()? {
            1 => Entry::Register(RegisterFields::read(&mut from)?.to_register()?),
            2 => {
                let (zone, node) = read_node(&mut from)?;
                Entry::Node(zone, Arc::new(node))
            }
            3 => Entry::Server(Box::new(read_server(&mut from)?)),
            4 => Entry::Plan(Arc::new(Plan {
                number: from.u64()?,
                parent: from.u64()?,
                document: String::from_utf8(from.long()?.to_vec()).map_err(|_| Damaged("a plan is not UTF-8"))?,
            })),
            5 => Entry::Serials(Serials {
                obj: from.u32()?,
                tree: from.u32()?,
                pool: from.u32()?,
            }),
            6 => Entry::Reconcile(Arc::new(Reconcile {
                open: from.u8()? != 0,
                written_off: from.list(Reader::parsed)?.into_iter().collect(),
            })),
            _ => return Err(Damaged("an unknown tag")),
        };
        from.end()?;
        Ok(entry)
    }
}

fn write_register(out: &mut Writer, register: &Register) {
    out.u8(1);
    out.octets(register.address.as_str().as_bytes());
    out.u64(register.epoch.0);
    out.0.extend(register.tx.0);
    let (state, to) = match &register.state {
        State::Stable => (0, None),
        State::Moving { to } => (1, Some(to)),
        State::Deleted => (2, None),
    };
    out.u8(state);
    out.octets(register.owner.as_str().as_bytes());
    if let Some(to) = to {
        out.octets(to.as_str().as_bytes());
    }
    out.list(register.holders.iter(), |out, holder| {
        out.octets(holder.as_str().as_bytes())
    });
    out.octets(register.kind.as_str().as_bytes());
    out.u32(register.schema);
    out.u8(register.level.0);
}

/// Whether the octets of an entry are a register's.
pub(super) fn is_register(octets: &[u8]) -> bool {
    octets.first() == Some(&1)
}

/// A register as the log holds it, not yet judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegisterFields<'a> {
    pub(crate) address: &'a str,
    pub(crate) epoch: u64,
    pub(crate) tx: [u8; 16],
    pub(crate) owner: &'a str,
    pub(crate) state: StateField<'a>,
    holders: [&'a str; HOLDERS_MAX],
    holder_count: usize,
    pub(crate) kind: &'a str,
    pub(crate) schema: u32,
    pub(crate) level: u8,
}

/// The state in [`RegisterFields`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum StateField<'a> {
    Stable,
    /// To this server.
    Moving(&'a str),
    Deleted,
}

impl<'a> RegisterFields<'a> {
    /// Reads the octets of an entry that is a register; `None` for other entries.
    pub(crate) fn of_entry(octets: &'a [u8]) -> Result<Option<RegisterFields<'a>>, Damaged> {
        let Some((1, octets)) = octets.split_first() else {
            return Ok(None);
        };
        let mut from = Reader(octets);
        let fields = RegisterFields::read(&mut from)?;
        from.end()?;
        Ok(Some(fields))
    }

    fn read(from: &mut Reader<'a>) -> Result<RegisterFields<'a>, Damaged> {
        let address = from.text()?;
        let epoch = from.u64()?;
        let tx = from.octets16()?;
        let state = from.u8()?;
        let owner = from.text()?;
        let state = match state {
            0 => StateField::Stable,
            1 => StateField::Moving(from.text()?),
            2 => StateField::Deleted,
            _ => return Err(Damaged("an unknown state")),
        };
        let holder_count = usize::from(from.u16()?);
        let mut holders = [""; HOLDERS_MAX];
        let places = holders.get_mut(..holder_count);
        for place in places.ok_or(Damaged("a register contradicts itself"))? {
            *place = from.text()?;
        }
        Ok(RegisterFields {
            address,
            epoch,
            tx,
            owner,
            state,
            holders,
            holder_count,
            kind: from.text()?,
            schema: from.u32()?,
            level: from.u8()?,
        })
    }

    /// Servers with a copy.
    pub(crate) fn holders(&self) -> &[&'a str] {
        &self.holders[..self.holder_count]
    }

    /// The register, if it is one.
    pub(crate) fn to_register(self) -> Result<Register, Damaged> {
        fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Damaged> {
            text.parse().map_err(|_| Damaged("a text breaks its grammar"))
        }
        let register = Register {
            address: parsed(self.address)?,
            epoch: Epoch(self.epoch),
            owner: parsed(self.owner)?,
            state: match self.state {
                StateField::Stable => State::Stable,
                StateField::Moving(to) => State::Moving { to: parsed(to)? },
                StateField::Deleted => State::Deleted,
            },
            tx: Tx(self.tx),
            holders: self.holders().iter().copied().map(parsed).collect::<Result<_, _>>()?,
            kind: parsed(self.kind)?,
            schema: self.schema,
            level: Level(self.level),
        };
        register.check().map_err(|_| Damaged("a register contradicts itself"))?;
        Ok(register)
    }
}

fn write_node(out: &mut Writer, zone: RecordZone, node: &Node) {
    out.u8(2);
    out.u8(match zone {
        RecordZone::Apex => 0,
        RecordZone::Tree => 1,
    });
    out.octets(&wire(&node.name));
    out.list(node.sets.iter(), |out, set| {
        out.u16(set.kind.into());
        out.u32(set.ttl);
        out.list(set.records.iter(), |out, record| out.octets(&wire(record)));
    });
}

fn read_node(from: &mut Reader<'_>) -> Result<(RecordZone, Node), Damaged> {
    let zone = match from.u8()? {
        0 => RecordZone::Apex,
        1 => RecordZone::Tree,
        _ => return Err(Damaged("an unknown zone")),
    };
    let name = Name::from_bytes(from.octets()?).map_err(|_| Damaged("a name breaks its grammar"))?;
    let sets = from.list(|from| {
        let kind = RecordType::from(from.u16()?);
        Ok(RrSet {
            kind,
            ttl: from.u32()?,
            records: from.list(|from| read_rdata(kind, from.octets()?))?,
        })
    })?;
    Ok((zone, Node { name, sets }))
}

/// Names and RDATA as DNS writes them, uncompressed.
pub(crate) fn wire(value: &impl BinEncodable) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    value
        .emit(&mut encoder)
        .expect("what came in one DNS message fits 65535 octets");
    octets
}

fn read_rdata(kind: RecordType, octets: &[u8]) -> Result<RData, Damaged> {
    let length = u16::try_from(octets.len()).map_err(|_| Damaged("a record is too long"))?;
    RData::read(&mut BinDecoder::new(octets), kind, Restrict::new(length))
        .map_err(|_| Damaged("a record breaks its grammar"))
}

fn write_server(out: &mut Writer, server: &Server) {
    let string = |out: &mut Writer, text: String| out.octets(text.as_bytes());
    out.u8(3);
    out.octets(server.name.as_str().as_bytes());
    out.u8(u8::from(server.lost));
    out.list(server.want.strings().into_iter(), string);
    match &server.host {
        Some(host) => {
            out.u8(1);
            out.u16(host.https_port);
            out.list(host.addresses.iter(), |out, address| string(out, address.to_string()));
            out.list(host.has.strings().into_iter(), string);
        }
        None => out.u8(0),
    }
    if let Some(audit) = &server.audit {
        string(out, audit.to_string());
    }
}

fn read_server(from: &mut Reader<'_>) -> Result<Server, Damaged> {
    let name = from.parsed()?;
    let lost = from.u8()? != 0;
    let want = Want::from_strings(&from.list(Reader::octets)?).map_err(|_| Damaged("a want breaks its grammar"))?;
    let mut server = Server::new(name, want);
    server.lost = lost;
    if from.u8()? == 1 {
        let https_port = from.u16()?;
        let addresses = from.list(Reader::parsed::<IpAddr>)?;
        let has =
            Has::from_strings(&from.list(Reader::octets)?).map_err(|_| Damaged("a has record breaks its grammar"))?;
        server.host = Some(Host {
            https_port,
            addresses,
            has,
        });
    }
    // A release before logs of moves ended here.
    if !from.is_empty() {
        server.audit = Some(from.parsed()?);
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{MX, NULL, SOA, TXT};
    use proptest::prelude::*;
    use zones::{Role, ServerName};

    use super::*;

    fn server_names() -> impl Strategy<Value = ServerName> {
        "[a-z][a-z0-9]{0,10}".prop_filter_map("reserved", |text| text.parse().ok())
    }

    fn registers() -> impl Strategy<Value = Register> {
        let holders = proptest::collection::btree_set(server_names(), 1..5);
        let fields = (
            any::<u8>(),
            1_u64..,
            any::<[u8; 16]>(),
            any::<u32>(),
            1_u8..,
            "[!-~]{1,64}",
        );
        ("[0-9A-Za-z_-]{1,9}(\\.[0-9A-Za-z_-]{1,9}){0,5}", holders, fields).prop_map(
            |(address, holders, (state, epoch, tx, schema, level, kind))| {
                let mut holders: Vec<ServerName> = holders.into_iter().collect();
                let owner = holders[0].clone();
                let state = match state % 3 {
                    0 => State::Stable,
                    1 if holders.len() > 1 => State::Moving {
                        to: holders.pop().unwrap(),
                    },
                    _ => {
                        holders.clear();
                        State::Deleted
                    }
                };
                Register {
                    address: address.parse().unwrap(),
                    epoch: Epoch(epoch),
                    owner,
                    state,
                    tx: Tx(tx),
                    holders,
                    kind: kind.parse().unwrap(),
                    schema,
                    level: Level(level),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn register_comes_back_from_its_bytes(register in registers()) {
            let entry = Entry::Register(register);
            prop_assert_eq!(Entry::from_bytes(&entry.to_bytes()), Ok(entry));
        }

        #[test]
        fn damaged_bytes_are_refused_and_never_panic(
            register in registers(),
            cut in any::<prop::sample::Index>(),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = Entry::Register(register).to_bytes();
            prop_assert!(Entry::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
            let _ = Entry::from_bytes(&noise);
        }
    }

    #[test]
    fn every_other_entry_comes_back_from_its_bytes() {
        let name = Name::from_ascii("www.hypernet.internal.").unwrap();
        let sets = vec![
            RrSet {
                kind: RecordType::MX,
                ttl: 300,
                records: vec![
                    RData::MX(MX::new(10, name.clone())),
                    RData::MX(MX::new(20, Name::root())),
                ],
            },
            RrSet {
                kind: RecordType::TXT,
                ttl: 1,
                records: vec![RData::TXT(TXT::from_bytes(vec![b"a\xff\0", b""]))],
            },
            RrSet {
                kind: RecordType::SOA,
                ttl: 5,
                records: vec![RData::SOA(SOA::new(name.clone(), name.clone(), u32::MAX, 5, 5, 60, 2))],
            },
            RrSet {
                kind: RecordType::Unknown(65400),
                ttl: 5,
                records: vec![RData::Unknown {
                    code: RecordType::Unknown(65400),
                    rdata: NULL::with(vec![0, 1, 255]),
                }],
            },
        ];
        let mut server = Server::new(
            "s2".parse().unwrap(),
            Want {
                role: Role::Draining,
                targets: vec!["s4".parse().unwrap()],
                plan: 7,
                step: 1,
                policy: zones::Policy::default(),
                errand: zones::Errand::default(),
            },
        );
        server.lost = true;
        let bare = server.clone();
        server.host = Some(Host {
            https_port: 9001,
            addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            has: crate::registry::server::tests::has(),
        });
        for entry in [
            Entry::Node(
                RecordZone::Apex,
                Arc::new(Node {
                    name: name.clone(),
                    sets,
                }),
            ),
            Entry::Node(RecordZone::Tree, Arc::new(Node::empty(&name))),
            Entry::Server(Box::new(server)),
            Entry::Server(Box::new(bare)),
            Entry::Plan(Arc::new(Plan {
                number: 3,
                parent: 2,
                document: "{}".repeat(70_000),
            })),
            Entry::Serials(Serials {
                obj: 1,
                tree: 2,
                pool: 3,
            }),
            Entry::Reconcile(Arc::new(Reconcile::default())),
            Entry::Reconcile(Arc::new(Reconcile {
                open: false,
                written_off: ["s3".parse().unwrap(), "s9".parse().unwrap()].into(),
            })),
        ] {
            assert_eq!(Entry::from_bytes(&entry.to_bytes()), Ok(entry));
        }
    }
}
