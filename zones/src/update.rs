//! Dynamic updates: reading any, building those of the pool.
//!
//! Reading gives a generic model, for object names and ordinary zones alike; what a change means and who may make it is
//! decided elsewhere ([`crate::transition`]).
//!
//! Specification: RFC 2136 (sections in the text), PROTOCOL.md section 5.

mod build;
mod swaps;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

pub use build::{
    BuildError, HasUpdate, HasUpdateError, RECORD_TTL_S, REGISTER_UPDATE_OCTETS_MAX, RegisterChange, build_has_update,
    build_register_update, changes_that_fit, read_has_update,
};
pub(crate) use build::{encode, update};
pub use swaps::Swaps;

/// What has to hold before anything is changed (RFC 2136 section 2.4).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Prerequisite {
    /// 2.4.1: an RRset of this type exists, whatever it holds. Else NXRRSET.
    RrsetExists {
        /// Its owner.
        name: Name,
        /// Its type.
        kind: RecordType,
    },
    /// 2.4.2: the RRset of this type is exactly this set, TTLs aside. Else NXRRSET.
    RrsetEquals {
        /// Its owner.
        name: Name,
        /// Its type.
        kind: RecordType,
        /// Its members, each once.
        data: Vec<RData>,
    },
    /// 2.4.3: no RRset of this type. Else YXRRSET.
    RrsetAbsent {
        /// The owner.
        name: Name,
        /// The type.
        kind: RecordType,
    },
    /// 2.4.4: some RRset has this owner. Else NXDOMAIN.
    NameInUse {
        /// The owner.
        name: Name,
    },
    /// 2.4.5: no RRset has this owner. Else YXDOMAIN.
    NameNotInUse {
        /// The owner.
        name: Name,
    },
}

impl Prerequisite {
    /// The name it is about.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Prerequisite::RrsetExists { name, .. }
            | Prerequisite::RrsetEquals { name, .. }
            | Prerequisite::RrsetAbsent { name, .. }
            | Prerequisite::NameInUse { name }
            | Prerequisite::NameNotInUse { name } => name,
        }
    }

    /// The rcode where it does not hold.
    #[must_use]
    pub fn unmet(&self) -> ResponseCode {
        match self {
            Prerequisite::RrsetExists { .. } | Prerequisite::RrsetEquals { .. } => ResponseCode::NXRRSet,
            Prerequisite::RrsetAbsent { .. } => ResponseCode::YXRRSet,
            Prerequisite::NameInUse { .. } => ResponseCode::NXDomain,
            Prerequisite::NameNotInUse { .. } => ResponseCode::YXDomain,
        }
    }
}

/// One change (RFC 2136 section 2.5), to be applied in the order of the message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// 2.5.1: add this record to its RRset.
    Add(Record),
    /// 2.5.2: delete the RRset of this type.
    DeleteRrset {
        /// Its owner.
        name: Name,
        /// Its type.
        kind: RecordType,
    },
    /// 2.5.3: delete all RRsets of a name.
    DeleteName {
        /// The owner.
        name: Name,
    },
    /// 2.5.4: delete this record from its RRset.
    DeleteRecord {
        /// Its owner.
        name: Name,
        /// What it holds.
        data: RData,
    },
}

impl Change {
    /// The name it is about.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Change::Add(record) => &record.name,
            Change::DeleteRrset { name, .. } | Change::DeleteName { name } | Change::DeleteRecord { name, .. } => name,
        }
    }

    /// The type of the RRset it changes; `None` for all types.
    #[must_use]
    pub fn kind(&self) -> Option<RecordType> {
        match self {
            Change::Add(record) => Some(record.record_type()),
            Change::DeleteRrset { kind, .. } => Some(*kind),
            Change::DeleteName { .. } => None,
            Change::DeleteRecord { data, .. } => Some(data.record_type()),
        }
    }
}

/// A whole update message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Update {
    /// The zone it names.
    pub zone: Name,
    /// Prerequisites, those on one RRset joined into one.
    pub prerequisites: Vec<Prerequisite>,
    /// Changes in their order.
    pub changes: Vec<Change>,
}

/// Why a message is no update that can be looked at.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateFormatError {
    /// Not opcode UPDATE, or an answer.
    #[error("the message is no update")]
    NotAnUpdate,
    /// The zone section is not one SOA.
    #[error("the zone section must name one zone, type SOA")]
    Zone,
    /// A zone of another class than IN.
    #[error("zones of class IN only are served")]
    ZoneClass,
    /// A prerequisite of none of the forms of section 2.4.
    #[error("the prerequisite on {name} is malformed: {what}")]
    Prerequisite {
        /// Its owner.
        name: Name,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A change of none of the forms of section 2.5.
    #[error("the change of {name} is malformed: {what}")]
    Change {
        /// Its owner.
        name: Name,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A prerequisite or a change outside the zone.
    #[error("{name} is not in the zone {zone}")]
    OutsideZone {
        /// The name.
        name: Box<Name>,
        /// The zone that the message names.
        zone: Box<Name>,
    },
}

impl UpdateFormatError {
    /// The rcode of the answer.
    #[must_use]
    pub fn response_code(&self) -> ResponseCode {
        match self {
            UpdateFormatError::NotAnUpdate
            | UpdateFormatError::Zone
            | UpdateFormatError::Prerequisite { .. }
            | UpdateFormatError::Change { .. } => ResponseCode::FormErr,
            UpdateFormatError::ZoneClass => ResponseCode::NotAuth,
            UpdateFormatError::OutsideZone { .. } => ResponseCode::NotZone,
        }
    }
}

/// Reads a whole update with the format checks of sections 3.1 to 3.4.1.
///
/// The RFC wants an unmet prerequisite told before a malformed change: a server that keeps to that order reads zone,
/// prerequisites and changes one after the other by the functions below.
///
/// # Errors
///
/// [`UpdateFormatError`]. Names in a zone of their own below the zone of the message are for the caller to refuse, who
/// knows the cuts: see [`Update::names`].
pub fn read_update(message: &Message) -> Result<Update, UpdateFormatError> {
    let zone = read_zone(message)?;
    let prerequisites = read_prerequisites(message, &zone)?;
    let changes = read_changes(message, &zone)?;
    Ok(Update {
        zone,
        prerequisites,
        changes,
    })
}

impl Update {
    /// Every name of the message but that of its zone.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let prerequisites = self.prerequisites.iter().map(Prerequisite::name);
        prerequisites.chain(self.changes.iter().map(Change::name))
    }
}

/// Reads the zone section (section 3.1.1).
///
/// # Errors
///
/// [`UpdateFormatError::NotAnUpdate`], [`UpdateFormatError::Zone`], [`UpdateFormatError::ZoneClass`].
pub fn read_zone(message: &Message) -> Result<Name, UpdateFormatError> {
    if message.metadata.op_code != OpCode::Update || message.metadata.message_type != MessageType::Query {
        return Err(UpdateFormatError::NotAnUpdate);
    }
    match &message.queries[..] {
        [zone] if zone.query_type() != RecordType::SOA => Err(UpdateFormatError::Zone),
        [zone] if zone.query_class() != DNSClass::IN => Err(UpdateFormatError::ZoneClass),
        [zone] => Ok(zone.name().clone()),
        [] | [_, _, ..] => Err(UpdateFormatError::Zone),
    }
}

/// Reads the prerequisite section (section 3.2.5), the value-dependent ones on one RRset joined.
///
/// # Errors
///
/// [`UpdateFormatError::Prerequisite`], [`UpdateFormatError::OutsideZone`].
pub fn read_prerequisites(message: &Message, zone: &Name) -> Result<Vec<Prerequisite>, UpdateFormatError> {
    let mut prerequisites: Vec<Prerequisite> = Vec::new();
    // Position of each RRset's entry, so that a message full of records is read in one pass.
    let mut equals = std::collections::HashMap::new();
    for record in &message.answers {
        let malformed = |what| UpdateFormatError::Prerequisite {
            name: record.name.clone(),
            what,
        };
        if record.ttl != 0 {
            return Err(malformed("its TTL is not 0"));
        }
        inside(&record.name, zone)?;
        let (name, kind) = (record.name.clone(), record.record_type());
        let empty = record.data == RData::Update0(kind);
        match record.dns_class {
            DNSClass::ANY | DNSClass::NONE if !empty => return Err(malformed("class ANY or NONE with data")),
            DNSClass::ANY if kind == RecordType::ANY => prerequisites.push(Prerequisite::NameInUse { name }),
            DNSClass::ANY => prerequisites.push(Prerequisite::RrsetExists { name, kind }),
            DNSClass::NONE if kind == RecordType::ANY => prerequisites.push(Prerequisite::NameNotInUse { name }),
            DNSClass::NONE => prerequisites.push(Prerequisite::RrsetAbsent { name, kind }),
            DNSClass::IN if empty => return Err(malformed("class IN without data")),
            DNSClass::IN => {
                let data = record.data.clone();
                let next = prerequisites.len();
                let at = *equals.entry((name.to_lowercase(), kind)).or_insert(next);
                match prerequisites.get_mut(at) {
                    Some(Prerequisite::RrsetEquals { data: members, .. }) => {
                        if !members.contains(&data) {
                            members.push(data);
                        }
                    }
                    Some(_) => unreachable!("the map holds positions of RrsetEquals alone"),
                    None => prerequisites.push(Prerequisite::RrsetEquals {
                        name,
                        kind,
                        data: vec![data],
                    }),
                }
            }
            DNSClass::CH | DNSClass::HS | DNSClass::OPT(_) | DNSClass::Unknown(_) => {
                return Err(malformed("its class is none of IN, ANY, NONE"));
            }
        }
    }
    Ok(prerequisites)
}

/// Reads the update section (section 3.4.1.3).
///
/// # Errors
///
/// [`UpdateFormatError::Change`], [`UpdateFormatError::OutsideZone`].
pub fn read_changes(message: &Message, zone: &Name) -> Result<Vec<Change>, UpdateFormatError> {
    let mut changes = Vec::with_capacity(message.authorities.len());
    for record in &message.authorities {
        let malformed = |what| UpdateFormatError::Change {
            name: record.name.clone(),
            what,
        };
        inside(&record.name, zone)?;
        let (name, kind) = (record.name.clone(), record.record_type());
        let empty = record.data == RData::Update0(kind);
        if is_meta(kind) && kind != RecordType::ANY {
            return Err(malformed("records of its type cannot be kept"));
        }
        match record.dns_class {
            DNSClass::IN if empty || kind == RecordType::ANY => return Err(malformed("class IN without data")),
            DNSClass::IN => changes.push(Change::Add(record.clone())),
            DNSClass::ANY | DNSClass::NONE if record.ttl != 0 => return Err(malformed("its TTL is not 0")),
            DNSClass::ANY if !empty => return Err(malformed("class ANY with data")),
            DNSClass::ANY if kind == RecordType::ANY => changes.push(Change::DeleteName { name }),
            DNSClass::ANY => changes.push(Change::DeleteRrset { name, kind }),
            DNSClass::NONE if empty || kind == RecordType::ANY => return Err(malformed("class NONE without data")),
            DNSClass::NONE => changes.push(Change::DeleteRecord {
                name,
                data: record.data.clone(),
            }),
            DNSClass::CH | DNSClass::HS | DNSClass::OPT(_) | DNSClass::Unknown(_) => {
                return Err(malformed("its class is none of IN, ANY, NONE"));
            }
        }
    }
    Ok(changes)
}

fn inside(name: &Name, zone: &Name) -> Result<(), UpdateFormatError> {
    if zone.zone_of(name) {
        return Ok(());
    }
    Err(UpdateFormatError::OutsideZone {
        name: Box::new(name.clone()),
        zone: Box::new(zone.clone()),
    })
}

/// Types that stand for no record (RFC 6895 section 3.1): OPT and 128 to 255.
fn is_meta(kind: RecordType) -> bool {
    kind == RecordType::OPT || (128..=255).contains(&u16::from(kind))
}
