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

use super::flood::Questions;

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
}

impl DnsSet {
    /// A set of `count` objects under `hypernet.internal.`, owned by `s1`.
    ///
    /// # Errors
    ///
    /// Never in practice: the words are legal.
    pub(super) fn new(count: usize, port: u16) -> Result<DnsSet> {
        Ok(DnsSet {
            domain: "hypernet.internal.".parse().context("read domain")?,
            count,
            owner: "s1".parse().context("read server name")?,
            port,
        })
    }

    /// Object number `index`.
    #[must_use]
    pub(super) fn address(&self, index: usize) -> Address {
        let text = format!("0.7.{}.{:03}", index / 1000, index % 1000);
        text.parse().expect("numbers joined by dots are an address")
    }

    /// An address that is not in the set, with others around it.
    fn absent(&self, index: usize) -> Address {
        let text = format!("0.7.{}.{:03}x", index / 1000, index % 1000);
        text.parse().expect("numbers joined by dots are an address")
    }

    /// The register of object `index` after `version` changes.
    #[must_use]
    pub(super) fn register(&self, index: usize, version: u64) -> Register {
        let mut tx = [0_u8; 16];
        tx[..8].copy_from_slice(&(index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        tx[8..].copy_from_slice(&version.to_be_bytes());
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
            let address = self.address(index);
            write!(out, "{address} IN TXT")?;
            for string in self.register(index, 0).strings() {
                write!(out, " \"{string}\"")?;
            }
            writeln!(out, "\n{address} IN SRV 0 100 {} {}.{pool}", self.port, self.owner)?;
        }
        out.flush().context("write the zone file")
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
            let there = !rng.random_ratio(1, 20);
            let address = if there { self.address(index) } else { self.absent(index) };
            let kind = if number % 2 == 0 {
                RecordType::SRV
            } else {
                RecordType::TXT
            };
            let name = self.domain.obj_name(&address).context("spell an address in DNS")?;
            questions.push(&question(name, kind)?, there);
        }
        Ok(questions)
    }
}

/// One question with EDNS, as `dig +norecurse` asks it; its id is 0.
fn question(name: Name, kind: RecordType) -> Result<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_version(0);
    message.set_edns(edns);
    message.to_vec().context("write a question")
}

/// Where peers listen.
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
