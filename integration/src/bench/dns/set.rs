//! The names that every server in a DNS benchmark holds, and what is asked of them.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zones::{Address, Domain, Epoch, Level, ObjectType, Register, ServerName, State, Tx, Zone};

use super::flood::{Expected, Questions};
use super::names::Names;

/// Where servers listen and clients ask from.
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Objects `0 .. count` of one pool, owned by one server; the same in every server measured.
#[derive(Clone, Debug)]
pub(super) struct DnsSet {
    /// The pool's domain.
    pub(super) domain: Domain,
    /// How many objects.
    pub(super) count: usize,
    /// Who owns them all.
    pub(super) owner: ServerName,
    /// Port in every SRV record.
    pub(super) port: u16,
    names: Names,
}

impl DnsSet {
    /// A set of `count` objects under `hypernet.internal.`, owned by `s1`; their addresses are drawn from a file, if one
    /// is named.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn new(count: usize, port: u16, addresses: Option<&Path>) -> Result<DnsSet> {
        let domain: Domain = "hypernet.internal.".parse().context("read domain")?;
        let names = addresses.map_or(Ok(Names::Built), |path| Names::read(path, &domain))?;
        Ok(DnsSet {
            domain,
            count,
            owner: "s1".parse().context("read server name")?,
            port,
            names,
        })
    }

    /// The same pool with its first `count` objects only.
    #[must_use]
    pub(super) fn first(&self, count: usize) -> DnsSet {
        DnsSet { count, ..self.clone() }
    }

    /// Object number `index`.
    #[must_use]
    pub(super) fn address(&self, index: usize) -> Address {
        self.names.address(index)
    }

    /// The register of object `index` after `version` changes.
    #[must_use]
    pub(super) fn register(&self, index: usize, version: u32) -> Register {
        let mut tx = [0_u8; 16];
        tx[..8].copy_from_slice(&(index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        tx[8..].copy_from_slice(&u64::from(version).to_be_bytes());
        Register {
            address: self.address(index),
            epoch: Epoch::FIRST,
            owner: self.owner.clone(),
            state: State::Stable,
            tx: Tx(tx),
            holders: vec![self.owner.clone()],
            kind: ObjectType::from_str("file").expect("a legal type"),
            schema: 1,
            level: Level(1),
        }
    }

    /// Writes the `obj` zone as a zone file, for servers that read one: each object's TXT and SRV.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn write_zone(&self, path: &Path) -> Result<()> {
        let file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
        let pool = self.domain.zone(Zone::Pool);
        writeln!(out, "$ORIGIN {}\n$TTL 5", self.domain.zone(Zone::Obj))?;
        writeln!(
            out,
            "@ IN SOA ns.{pool} hostmaster.{pool} 1 5 5 60 2\n@ IN NS ns.{pool}"
        )?;
        for index in 0..self.count {
            let name = self.name(index)?;
            write!(out, "{name} IN TXT")?;
            for string in self.register(index, 0).strings() {
                write!(out, " \"{string}\"")?;
            }
            writeln!(out, "\n{name} IN SRV 0 100 {} {}.{pool}", self.port, self.owner)?;
        }
        out.flush().context("write the zone file")
    }

    /// The name of object `index` in `obj`.
    fn name(&self, index: usize) -> Result<Name> {
        let name = self.domain.obj_name(&self.address(index));
        name.context("spell an address in DNS")
    }

    /// Questions in a random order: SRV and TXT in turn, one in twenty for a name that is not there.
    ///
    /// # Errors
    ///
    /// When a name cannot be spelled in DNS.
    pub(super) fn questions(&self, count: usize, seed: u64) -> Result<Questions> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut questions = Questions::default();
        for number in 0..count {
            let index = rng.random_range(0..self.count);
            let kind = if number % 2 == 0 {
                RecordType::SRV
            } else {
                RecordType::TXT
            };
            if rng.random_ratio(1, 20) {
                let name = self.domain.obj_name(&self.names.absent(index));
                let name = name.context("spell an address in DNS")?;
                questions.push(&question(name, kind)?, Expected::NoName);
            } else {
                questions.push(&question(self.name(index)?, kind)?, Expected::Records);
            }
        }
        Ok(questions)
    }

    /// Asks for the register of object `index`.
    ///
    /// # Errors
    ///
    /// When its name cannot be spelled in DNS.
    pub(super) fn register_question(&self, index: usize) -> Result<Vec<u8>> {
        question(self.name(index)?, RecordType::TXT)
    }

    /// A question that only a server with the whole set answers with records: for the register of the last object, or the
    /// zone's SOA where there is no object.
    ///
    /// # Errors
    ///
    /// When its name cannot be spelled in DNS.
    pub(super) fn ready_question(&self) -> Result<Vec<u8>> {
        match self.count {
            0 => question(self.domain.zone(Zone::Obj).clone(), RecordType::SOA),
            count => self.register_question(count - 1),
        }
    }
}

/// One question with EDNS, as `dig +norecurse` asks it; its id is 0.
pub(super) fn question(name: Name, kind: RecordType) -> Result<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_version(0);
    message.set_edns(edns);
    message.to_vec().context("write a question")
}
