//! What a server tells a registry that is being reconciled: everything it durably knows of registers.
//!
//! A report is cut into update messages of the zone `pool.<domain>`, all at `_report.s2.pool.<domain>`. Each is whole by
//! itself: repeated or overtaken, it says the same.
//!
//! Specification: DESIGN.md section 6, PROTOCOL.md section 13.

use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record};

use crate::address::Address;
use crate::incarnation::Incarnation;
use crate::name::{Domain, Zone};
use crate::register::{Epoch, HOLDERS_MAX, Level, ObjectType, Register, State, Tx};
use crate::server::{Role, ServerName};
use crate::strings::{Strings, StringsError, illegal};
use crate::update::{BuildError, Change, RECORD_TTL_S, REGISTER_UPDATE_OCTETS_MAX, Update, encode, update};
use crate::want::PoolName;

/// Most claims in one message.
pub const CLAIMS_MAX: usize = 512;
/// Octets of a message besides its claims: header, zone section, head, and a little to spare.
const FRAME_OCTETS: usize = 1024;

/// What a server says of one register.
///
/// Text, as character-strings of one TXT record, in this order: `claim=` `address=` `epoch=` `server=` (of `gone`, `heard` and
/// `arriving` alone) `tx=` `type=` `schema=` `level=`, then `others=` where there are some.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The object.
    pub address: Address,
    /// The epoch that the claim is about.
    pub epoch: Epoch,
    /// What is claimed.
    pub what: Claimed,
    /// The register's tx as last known, zero where it is not.
    pub tx: Tx,
    /// The object's type.
    pub kind: ObjectType,
    /// Schema version of its properties.
    pub schema: u32,
    /// Its level.
    pub level: Level,
}

/// What a server claims to know of an object.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Claimed {
    /// `owned`: it owns the object in this epoch, whatever it has sent for it since.
    Owned {
        /// Other servers that surely have all that was shown, at most 13.
        others: Vec<ServerName>,
    },
    /// `made`: it made the object; whether it was ever registered is not known.
    Made,
    /// `arriving`: it holds a whole copy for this epoch; whether its commit landed is not known.
    Arriving {
        /// Who owns the object if it did not.
        from: ServerName,
    },
    /// `gone`: it gave the object to another server, which became the owner with this epoch.
    Gone {
        /// Who.
        to: ServerName,
    },
    /// `heard`: it read in a register that another server was the owner in this epoch. A registry that was restored may have
    /// undone that.
    Heard {
        /// Who.
        to: ServerName,
    },
    /// `deleted`: it was deleted with this epoch.
    Deleted,
}

impl Claim {
    /// The register that this claim is, if it is one: that of an owner, stable, or of a deletion.
    ///
    /// `None` for a claim that says what may be, not what is.
    #[must_use]
    pub fn register(&self, reporter: &ServerName) -> Option<Register> {
        let holders = |owner: &ServerName, others: &[ServerName]| {
            let others = others.iter().filter(|other| *other != owner);
            std::iter::once(owner).chain(others).cloned().collect()
        };
        let (owner, state, holders) = match &self.what {
            Claimed::Owned { others } => (reporter, State::Stable, holders(reporter, others)),
            Claimed::Gone { to } => (to, State::Stable, holders(to, &[])),
            Claimed::Deleted => (reporter, State::Deleted, Vec::new()),
            Claimed::Made | Claimed::Arriving { .. } | Claimed::Heard { .. } => return None,
        };
        Some(Register {
            address: self.address.clone(),
            epoch: self.epoch,
            owner: owner.clone(),
            holders,
            state,
            tx: self.tx,
            kind: self.kind.clone(),
            schema: self.schema,
            level: self.level,
        })
    }

    /// The character-strings of the TXT record.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        let (word, server) = match &self.what {
            Claimed::Owned { .. } => ("owned", None),
            Claimed::Made => ("made", None),
            Claimed::Arriving { from } => ("arriving", Some(from)),
            Claimed::Gone { to } => ("gone", Some(to)),
            Claimed::Heard { to } => ("heard", Some(to)),
            Claimed::Deleted => ("deleted", None),
        };
        let mut strings = vec![
            format!("claim={word}"),
            format!("address={}", self.address),
            format!("epoch={}", self.epoch),
        ];
        strings.extend(server.map(|server| format!("server={server}")));
        strings.extend([
            format!("tx={}", self.tx),
            format!("type={}", self.kind),
            format!("schema={}", self.schema),
            format!("level={}", self.level.0),
        ]);
        if let Claimed::Owned { others } = &self.what
            && !others.is_empty()
        {
            let others: Vec<&str> = others.iter().map(ServerName::as_str).collect();
            strings.push(format!("others={}", others.join(",")));
        }
        strings
    }

    /// Reads the character-strings of a TXT record. Reading accepts exactly what [`Claim::strings`] makes.
    ///
    /// # Errors
    ///
    /// [`StringsError`].
    pub fn from_strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Claim, StringsError> {
        let mut strings = Strings::new(strings);
        let word = strings.take("claim")?;
        let address = strings.parse("address")?;
        let epoch = Epoch(strings.number("epoch")?);
        if epoch < Epoch::FIRST {
            return Err(illegal("epoch", "0"));
        }
        let what = match word {
            "owned" => Claimed::Owned { others: Vec::new() },
            "made" => Claimed::Made,
            "arriving" => Claimed::Arriving {
                from: strings.parse("server")?,
            },
            "gone" => Claimed::Gone {
                to: strings.parse("server")?,
            },
            "heard" => Claimed::Heard {
                to: strings.parse("server")?,
            },
            "deleted" => Claimed::Deleted,
            other => return Err(illegal("claim", other)),
        };
        let mut claim = Claim {
            address,
            epoch,
            what,
            tx: strings.parse("tx")?,
            kind: strings.parse("type")?,
            schema: strings.number("schema")?,
            level: Level(strings.number("level")?),
        };
        if claim.level.0 == 0 {
            return Err(illegal("level", "0"));
        }
        if let Claimed::Owned { others } = &mut claim.what
            && !strings.is_empty()
        {
            *others = strings.servers("others", HOLDERS_MAX - 1)?;
            if others.is_empty() {
                return Err(illegal("others", ""));
            }
        }
        strings.end()?;
        Ok(claim)
    }
}

/// One message of a report.
///
/// Its first record is its head: `v=hn1` `incarnation=` `from=` `plan=` `role=` `end=`; one record a claim follows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// Who reports.
    pub server: ServerName,
    /// The registry that it reports to.
    pub incarnation: Incarnation,
    /// How many claims the messages before it had; 0 begins the report anew.
    pub from: u64,
    /// The highest plan that the server has seen.
    pub plan: u64,
    /// The role that the server was last told to act in; `None`, and empty in the text, where it does not know.
    pub role: Option<Role>,
    /// Whether the report is complete with this message.
    pub end: bool,
    /// Claims, at most 512.
    pub claims: Vec<Claim>,
}

impl Report {
    fn head(&self) -> Vec<String> {
        vec![
            "v=hn1".to_owned(),
            format!("incarnation={}", self.incarnation),
            format!("from={}", self.from),
            format!("plan={}", self.plan),
            format!("role={}", self.role.map(|role| role.to_string()).unwrap_or_default()),
            format!("end={}", u8::from(self.end)),
        ]
    }
}

/// Builds an unsigned message of a report.
///
/// # Errors
///
/// [`BuildError::TooLarge`] past 65,000 octets: see [`claims_that_fit`].
pub fn build_report(domain: &Domain, id: u16, report: &Report) -> Result<Vec<u8>, BuildError> {
    let mut message = update(domain, id, Zone::Pool);
    let name = PoolName::Report(report.server.clone()).name(domain);
    let add = |strings| Record::from_rdata(name.clone(), RECORD_TTL_S, RData::TXT(TXT::new(strings)));
    message.add_authority(add(report.head()));
    for claim in &report.claims {
        message.add_authority(add(claim.strings()));
    }
    encode(&message, report.claims.len())
}

/// How many of the first claims surely fit one message, at least 1 if there are any.
#[must_use]
pub fn claims_that_fit(domain: &Domain, claims: &[Claim]) -> usize {
    // The name of the record, whole: 8 octets and those of the server beside the domain's; then 10 of fixed fields.
    let record = 64 + domain.apex().len();
    let mut octets = FRAME_OCTETS;
    let fits = |claim: &&Claim| {
        octets += record + claim.strings().iter().map(|string| string.len() + 1).sum::<usize>();
        octets <= REGISTER_UPDATE_OCTETS_MAX
    };
    let fitting = claims.iter().take(CLAIMS_MAX).take_while(fits).count();
    fitting.max(1).min(claims.len())
}

/// Why an update is no message of a report.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It has prerequisites, deletions, other types, other names or too many records.
    #[error("a report only adds TXT records at the name of one server: {what}")]
    Form {
        /// What is wrong.
        what: &'static str,
    },
    /// The first record breaks its grammar.
    #[error("the head of the report is malformed")]
    Head(#[source] StringsError),
    /// A claim breaks its grammar.
    #[error("claim {number} of the message is malformed")]
    Claim {
        /// Which, from 0.
        number: usize,
        /// What is wrong.
        source: StringsError,
    },
}

/// Whose report a name in an update is for, if it is one.
#[must_use]
pub fn reporter(domain: &Domain, name: &Name) -> Option<ServerName> {
    match PoolName::of(domain, name) {
        Some(PoolName::Report(server)) => Some(server),
        Some(
            PoolName::Apex
            | PoolName::Server(_)
            | PoolName::Want(_)
            | PoolName::Todo(_)
            | PoolName::Any
            | PoolName::Ns
            | PoolName::Place,
        )
        | None => None,
    }
}

/// Reads an update as [`build_report`] makes it.
///
/// # Errors
///
/// [`ReportError`].
pub fn read_report(domain: &Domain, update: &Update) -> Result<Report, ReportError> {
    let form = |what| ReportError::Form { what };
    if !update.prerequisites.is_empty() {
        return Err(form("it has a prerequisite"));
    }
    let first = update.changes.first().ok_or(form("it is empty"))?.name();
    let server = reporter(domain, first).ok_or(form("it is at another name"))?;
    if update.changes.len() > CLAIMS_MAX + 1 {
        return Err(form("it has more than 512 claims"));
    }
    let mut texts = Vec::with_capacity(update.changes.len());
    for change in &update.changes {
        match change {
            Change::Add(record) if record.name == *first => match &record.data {
                RData::TXT(txt) => texts.push(&txt.txt_data),
                _ => return Err(form("it has a record of another type")),
            },
            Change::Add(_) => return Err(form("it has two names")),
            Change::DeleteRrset { .. } | Change::DeleteName { .. } | Change::DeleteRecord { .. } => {
                return Err(form("it deletes"));
            }
        }
    }
    let (head, claims) = texts.split_first().expect("there is a first change");
    let mut report = read_head(server, head).map_err(ReportError::Head)?;
    for (number, text) in claims.iter().enumerate() {
        let claim = Claim::from_strings(text).map_err(|source| ReportError::Claim { number, source })?;
        report.claims.push(claim);
    }
    Ok(report)
}

fn read_head<S: AsRef<[u8]>>(server: ServerName, strings: &[S]) -> Result<Report, StringsError> {
    let mut strings = Strings::new(strings);
    strings.version()?;
    let report = Report {
        server,
        incarnation: strings.parse("incarnation")?,
        from: strings.number("from")?,
        plan: strings.number("plan")?,
        role: match strings.take("role")? {
            "" => None,
            role => Some(role.parse().map_err(|_| illegal("role", role))?),
        },
        end: match strings.take("end")? {
            "0" => false,
            "1" => true,
            other => return Err(illegal("end", other)),
        },
        claims: Vec::new(),
    };
    strings.end()?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(what: Claimed) -> Claim {
        Claim {
            address: "3.1.2".parse().unwrap(),
            epoch: Epoch(7),
            what,
            tx: Tx([0xab; 16]),
            kind: "photo".parse().unwrap(),
            schema: 3,
            level: Level(1),
        }
    }

    #[test]
    fn claim_reads_back_as_it_was_written() {
        let s4 = || "s4".parse().unwrap();
        for what in [
            Claimed::Owned { others: Vec::new() },
            Claimed::Owned {
                others: vec![s4(), "s5".parse().unwrap()],
            },
            Claimed::Made,
            Claimed::Arriving { from: s4() },
            Claimed::Gone { to: s4() },
            Claimed::Heard { to: s4() },
            Claimed::Deleted,
        ] {
            let claim = claim(what);
            assert_eq!(Claim::from_strings(&claim.strings()).unwrap(), claim);
        }
        for (good, bad) in [
            ("claim=owned", "claim=lost"),
            ("epoch=7", "epoch=0"),
            ("epoch=7", "epoch=07"),
            ("level=1", "level=0"),
            ("schema=3", "server=s4"),
            ("others=s4", "others="),
            ("others=s4", "others=s4,s4"),
        ] {
            let owned = Claimed::Owned { others: vec![s4()] };
            let strings = claim(owned).strings();
            let changed: Vec<String> = strings.iter().map(|text| text.replace(good, bad)).collect();
            assert!(Claim::from_strings(&changed).is_err(), "{bad}");
        }
    }

    #[test]
    fn claim_of_what_may_be_is_no_register() {
        let s2 = "s2".parse().unwrap();
        let owner = |what| claim(what).register(&s2).map(|register| register.owner.to_string());
        assert_eq!(owner(Claimed::Owned { others: Vec::new() }).as_deref(), Some("s2"));
        let to = "s4".parse().unwrap();
        assert_eq!(owner(Claimed::Gone { to }).as_deref(), Some("s4"));
        let deleted = claim(Claimed::Deleted).register(&s2).unwrap();
        assert!(deleted.check().is_ok() && deleted.state == State::Deleted);
        let s4 = || "s4".parse().unwrap();
        for what in [
            Claimed::Made,
            Claimed::Arriving { from: s4() },
            Claimed::Heard { to: s4() },
        ] {
            assert_eq!(owner(what), None);
        }
    }
}
