//! The update messages of the pool: changes of registers, and what a server has.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{Change, Update};
use crate::address::Address;
use crate::has::Has;
use crate::name::{Domain, NameError, Zone, canonical, wire_labels};
use crate::query::UDP_PAYLOAD_OCTETS;
use crate::register::{Register, RegisterError};
use crate::server::ServerName;
use crate::strings::StringsError;
use crate::want::PoolName;

/// TTL of an object's and a server's records, in seconds. The librarian answers with its own setting.
pub const RECORD_TTL_S: u32 = 5;
/// Largest update message before it is signed: a DNS message over TCP has 65,535 octets, a signature under 400.
pub const REGISTER_UPDATE_OCTETS_MAX: usize = 65_000;
/// Where the zone's name lies: behind the header.
const ZONE_AT: usize = 12;
/// Where a pointer does not reach any more, and the bits that mark one.
const POINTER_REACH: usize = 0x4000;
const POINTER_MARK: usize = 0xc000;
/// Octets of an update besides its changes: header, zone section, and a little to spare.
const FRAME_OCTETS: usize = 512;

/// One register's change, as a compare-and-swap of its text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegisterChange {
    /// The text that has to be there; `None`: nothing may be there.
    pub old: Option<Register>,
    /// What is to be there.
    pub new: Register,
}

/// Why an update cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The address has no name in this pool.
    #[error("the address has no name in this pool")]
    Name(#[from] NameError),
    /// The register is not one.
    #[error("the register of {address} cannot be written")]
    Register {
        /// Its address.
        address: crate::Address,
        /// What is wrong with it.
        source: RegisterError,
    },
    /// Old and new are registers of two objects.
    #[error("a change may not turn the register of {old} into that of {new}")]
    TwoObjects {
        /// Address of the old one.
        old: crate::Address,
        /// Address of the new one.
        new: crate::Address,
    },
    /// What is said of a server breaks the grammar.
    #[error("what server {server} has cannot be written")]
    Has {
        /// The server.
        server: ServerName,
        /// What is wrong.
        source: StringsError,
    },
    /// The message passes 65,000 octets; send the changes in several: see [`changes_that_fit`].
    #[error("an update of {changes} changes does not fit a message: send fewer")]
    TooLarge {
        /// How many were given.
        changes: usize,
    },
    /// The message cannot be encoded.
    #[error("encode the update")]
    Encode(#[from] ProtoError),
}

/// Builds an unsigned update of registers: for each the prerequisite that its TXT RRset is the old text (or is not
/// there), the deletion of that RRset, the addition of the new text.
///
/// # Errors
///
/// [`BuildError`].
pub fn build_register_update(domain: &Domain, id: u16, changes: &[RegisterChange]) -> Result<Vec<u8>, BuildError> {
    let zone = canonical(domain.zone(Zone::Obj));
    let mut out = Writer::new(id, changes, &zone)?;
    // Where each object's name lies: the second section names them again.
    let mut names = Vec::with_capacity(changes.len());
    for change in changes {
        let address = &change.new.address;
        let check = |register: &Register| {
            register.check().map_err(|source| BuildError::Register {
                address: address.clone(),
                source,
            })
        };
        check(&change.new)?;
        let labels = wire_labels(address);
        domain.check_labels(address, &labels)?;
        names.push(out.octets.len());
        out.labels(&labels);
        match &change.old {
            Some(old) => {
                if old.address.folded() != address.folded() {
                    return Err(BuildError::TwoObjects {
                        old: old.address.clone(),
                        new: address.clone(),
                    });
                }
                check(old)?;
                out.text(DNSClass::IN, 0, Some(old));
            }
            None => out.text(DNSClass::NONE, 0, None),
        }
    }
    for (change, name) in changes.iter().zip(names) {
        if change.old.is_some() {
            // The whole RRset: the prerequisite says what it is, repeating that would take a third more room.
            out.name_again(name, &change.new.address);
            out.text(DNSClass::ANY, 0, None);
        }
        out.name_again(name, &change.new.address);
        out.text(DNSClass::IN, RECORD_TTL_S, Some(&change.new));
    }
    out.opt();
    if out.octets.len() > REGISTER_UPDATE_OCTETS_MAX {
        return Err(BuildError::TooLarge { changes: changes.len() });
    }
    Ok(out.octets)
}

/// An update of registers in the making, as octets: agents build them all day.
struct Writer {
    octets: Vec<u8>,
}

impl Writer {
    /// Header and zone section.
    fn new(id: u16, changes: &[RegisterChange], zone: &[u8]) -> Result<Writer, BuildError> {
        let too_large = |_| BuildError::TooLarge { changes: changes.len() };
        let deletions = changes.iter().filter(|change| change.old.is_some()).count();
        let prerequisites = u16::try_from(changes.len()).map_err(too_large)?;
        let updates = u16::try_from(changes.len() + deletions).map_err(too_large)?;
        let mut out = Writer {
            octets: Vec::with_capacity(FRAME_OCTETS + changes.len().min(200) * 400),
        };
        // QR 0, opcode 5, no flags; one zone, the two sections, an OPT record.
        [
            id,
            u16::from(u8::from(OpCode::Update)) << 11,
            1,
            prerequisites,
            updates,
            1,
        ]
        .iter()
        .for_each(|word| out.u16(*word));
        debug_assert_eq!(out.octets.len(), ZONE_AT);
        out.octets.extend_from_slice(zone);
        out.u16(RecordType::SOA.into());
        out.u16(DNSClass::IN.into());
        Ok(out)
    }

    fn u16(&mut self, word: u16) {
        self.octets.extend_from_slice(&word.to_be_bytes());
    }

    /// A name in the zone.
    fn labels(&mut self, labels: &[u8]) {
        self.octets.extend_from_slice(labels);
        self.pointer(ZONE_AT);
    }

    /// The name of an object once more, which lies at `at`: as a pointer there, where one reaches (RFC 1035 section 4.1.4).
    fn name_again(&mut self, at: usize, address: &Address) {
        if at < POINTER_REACH {
            self.pointer(at);
        } else {
            self.labels(&wire_labels(address));
        }
    }

    fn pointer(&mut self, at: usize) {
        let at = u16::try_from(POINTER_MARK | at).expect("a pointer has 14 bits");
        self.u16(at);
    }

    /// The rest of a TXT record: a register's, or one without data.
    fn text(&mut self, class: DNSClass, ttl: u32, register: Option<&Register>) {
        self.u16(RecordType::TXT.into());
        self.u16(class.into());
        self.octets.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.octets.len();
        self.u16(0);
        if let Some(register) = register {
            register.write_rdata(&mut self.octets);
            let length = u16::try_from(self.octets.len() - length_at - 2).expect("a register has at most 1,000 octets");
            self.octets[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// An OPT record (RFC 6891 section 6.1.2): only who speaks EDNS is told why an update was refused.
    fn opt(&mut self) {
        self.octets.push(0);
        self.u16(RecordType::OPT.into());
        self.u16(UDP_PAYLOAD_OCTETS);
        self.octets.extend_from_slice(&[0; 6]);
    }
}

/// How many of the first changes surely fit one message, at least 1 if there are any.
#[must_use]
pub fn changes_that_fit(domain: &Domain, changes: &[RegisterChange]) -> usize {
    let mut octets = FRAME_OCTETS;
    for (index, change) in changes.iter().enumerate() {
        // An address of n octets has labels of at most 8/5 n and some; 10 octets of fixed fields behind each name.
        let name = change.new.address.as_str().len() * 2 + domain.apex().len() + 8;
        let record = name.min(255) + 10;
        octets += 3 * record + change.new.text_octets() + change.old.as_ref().map_or(0, Register::text_octets);
        if octets > REGISTER_UPDATE_OCTETS_MAX {
            return index.max(1);
        }
    }
    changes.len()
}

/// Builds an unsigned update of what a server has: its TXT, SRV, A and AAAA records are replaced in one message, which
/// renews its lease.
///
/// # Errors
///
/// [`BuildError::Has`], [`BuildError::Encode`].
pub fn build_has_update(
    domain: &Domain,
    id: u16,
    server: &ServerName,
    has: &Has,
    https_port: u16,
    addresses: &[IpAddr],
) -> Result<Vec<u8>, BuildError> {
    let strings = has.strings();
    Has::from_strings(&strings).map_err(|source| BuildError::Has {
        server: server.clone(),
        source,
    })?;
    let mut message = update(domain, id, Zone::Pool);
    let name = domain.in_pool(server.as_str());
    for kind in [RecordType::TXT, RecordType::SRV, RecordType::A, RecordType::AAAA] {
        let record = Record::update0(name.clone(), 0, kind);
        message.add_authority(of_class(DNSClass::ANY, record));
    }
    let add = |data| Record::from_rdata(name.clone(), RECORD_TTL_S, data);
    message.add_authority(add(RData::TXT(TXT::new(strings))));
    message.add_authority(add(RData::SRV(SRV::new(0, 0, https_port, name.clone()))));
    for address in addresses {
        message.add_authority(add(RData::from(*address)));
    }
    encode(&message, 1)
}

/// What one server says of itself in an update.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HasUpdate {
    /// The server.
    pub server: ServerName,
    /// What it has.
    pub has: Has,
    /// TCP port where it serves clients.
    pub https_port: u16,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
}

/// Why an update of the zone `pool` is not what a server says of itself.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HasUpdateError {
    /// It changes another name than one server's.
    #[error("{name} cannot be changed by an update: a server writes the records at its own name")]
    Name {
        /// The name.
        name: Name,
    },
    /// It leaves other records than one TXT, one SRV and addresses.
    #[error("a server's update replaces its TXT, SRV, A and AAAA records together: {what}")]
    Form {
        /// What is wrong.
        what: &'static str,
    },
    /// The TXT record breaks its grammar.
    #[error("the TXT record of server {server} is malformed")]
    Has {
        /// The server.
        server: ServerName,
        /// What is wrong.
        source: StringsError,
    },
}

/// Reads the changes of an update as [`build_has_update`] makes it: deletions of RRsets first, then one TXT, one SRV
/// and the addresses, all at one server's name.
///
/// # Errors
///
/// [`HasUpdateError`].
pub fn read_has_update(domain: &Domain, update: &Update) -> Result<HasUpdate, HasUpdateError> {
    let form = |what| HasUpdateError::Form { what };
    let first = update.changes.first().ok_or(form("it is empty"))?.name();
    let not_a_server = |name: &Name| HasUpdateError::Name { name: name.clone() };
    let Some(PoolName::Server(server)) = PoolName::of(domain, first) else {
        return Err(not_a_server(first));
    };
    if let Some(other) = update.changes.iter().find(|change| change.name() != first) {
        return Err(not_a_server(other.name()));
    }
    let (mut has, mut https_port, mut addresses) = (None, None, Vec::new());
    let mut deleted = Vec::new();
    for change in &update.changes {
        match change {
            Change::DeleteRrset { kind, .. } if has.is_none() && https_port.is_none() && addresses.is_empty() => {
                deleted.push(*kind);
            }
            Change::DeleteRrset { .. } | Change::DeleteName { .. } | Change::DeleteRecord { .. } => {
                return Err(form("it may delete only these whole RRsets, first"));
            }
            Change::Add(record) => match &record.data {
                RData::TXT(txt) if has.is_none() => {
                    let read = Has::from_strings(&txt.txt_data);
                    has = Some(read.map_err(|source| HasUpdateError::Has {
                        server: server.clone(),
                        source,
                    })?);
                }
                RData::SRV(srv) if https_port.is_none() => {
                    if srv.target != *first || srv.priority != 0 || srv.weight != 0 || srv.port == 0 {
                        return Err(form("its SRV must be 0 0 PORT of its own name"));
                    }
                    https_port = Some(srv.port);
                }
                data => match data.ip_addr() {
                    Some(address) if !addresses.contains(&address) => addresses.push(address),
                    Some(_) => return Err(form("it has an address twice")),
                    None => return Err(form("it adds another record")),
                },
            },
        }
    }
    let replaced = [RecordType::TXT, RecordType::SRV, RecordType::A, RecordType::AAAA];
    if deleted.len() != 4 || !replaced.iter().all(|kind| deleted.contains(kind)) {
        return Err(form("it must delete the four RRsets that it replaces"));
    }
    match (has, https_port) {
        (Some(has), Some(https_port)) if !addresses.is_empty() => Ok(HasUpdate {
            server,
            has,
            https_port,
            addresses,
        }),
        (Some(_) | None, Some(_) | None) => Err(form("one of TXT, SRV and addresses is missing")),
    }
}

/// An update of a zone without anything in it.
pub(crate) fn update(domain: &Domain, id: u16, zone: Zone) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(domain.zone(zone).clone(), RecordType::SOA));
    // Only who speaks EDNS is told why an update was refused (RFC 8914 section 3).
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_OCTETS);
    message.set_edns(edns);
    message
}

fn of_class(class: DNSClass, mut record: Record) -> Record {
    record.dns_class = class;
    record
}

/// Encodes a message whole: hickory would cut one that is too large and set TC.
pub(crate) fn encode(message: &Message, changes: usize) -> Result<Vec<u8>, BuildError> {
    let octets = message.to_vec()?;
    let truncated = octets[2] & 0x02 != 0;
    if truncated || octets.len() > REGISTER_UPDATE_OCTETS_MAX {
        return Err(BuildError::TooLarge { changes });
    }
    Ok(octets)
}
