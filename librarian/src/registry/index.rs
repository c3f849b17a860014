//! The registry in memory: what answers are made of.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData, RecordType};
use zones::{Domain, ServerName, Zone};

use super::bytes::Damaged;
use super::chunk::Chunk;
use super::entry::{Entry, Plan, Reconcile, RecordZone, RegisterFields, Serials};
use super::glance::Glance;
use super::journal::{JournalBounds, Places};
use super::publish::{Journals, place_of};
use super::registers::{Registers, TOGETHER};
use super::server::Server;
use super::storage::{StorageError, damaged};
use super::table::KeyHash;
use super::zone::{Node, Records, RrSet};

/// Seconds of a new zone's SOA record (DESIGN.md section 4).
pub(crate) const REFRESH_S: i32 = 5;
pub(crate) const RETRY_S: i32 = 5;
pub(crate) const EXPIRE_S: i32 = 60;
pub(crate) const MINIMUM_S: u32 = 2;

/// An entry of the log, and where its register is looked for.
struct Approached<'c> {
    seq: u64,
    octets: &'c [u8],
    /// With the hash of its address.
    register: Option<(RegisterFields<'c>, KeyHash)>,
}

/// Everything that is durable and published, and the soft state of servers.
pub(crate) struct Index {
    pub(crate) domain: Domain,
    pub(crate) registers: Registers,
    /// The operator's zone.
    pub(crate) apex: Records,
    /// Delegations in `tree`.
    pub(crate) tree: Records,
    servers: BTreeMap<ServerName, (Server, u64)>,
    /// What of it is read without the lock.
    glance: Arc<Glance>,
    plans: BTreeMap<u64, (Arc<Plan>, u64)>,
    serials: (Serials, u64),
    reconcile: (Arc<Reconcile>, u64),
    places: Arc<Places>,
    /// `None` while no zone is transferred to anybody: keeping them costs time and memory.
    journals: Option<Journals>,
}

impl Index {
    /// An empty registry that is being filled with at most so many entries; end with [`Index::finish_loading`].
    pub(crate) fn loading(domain: &Domain, entries: u64) -> Index {
        let first = Serials {
            obj: 1,
            tree: 1,
            pool: 1,
        };
        let glance = Arc::<Glance>::default();
        glance.set_serials(first);
        Index {
            domain: domain.clone(),
            registers: Registers::loading(domain.clone(), entries, Arc::clone(&glance)),
            apex: Records::default(),
            tree: Records::default(),
            servers: BTreeMap::new(),
            glance,
            plans: BTreeMap::new(),
            serials: (first, 0),
            reconcile: (Arc::default(), 0),
            places: Arc::default(),
            journals: None,
        }
    }

    /// What a checkpoint says of registers, and nothing else yet; end with [`Index::finish_loading`].
    pub(super) fn from_checkpoint(domain: &Domain, from: &mut impl Read) -> io::Result<Index> {
        let mut index = Index::loading(domain, 0);
        let glance = Arc::clone(&index.glance);
        index.registers = Registers::from_saved(domain.clone(), glance, from)?;
        Ok(index)
    }

    /// Where the log holds entries that count and are no registers.
    pub(super) fn other_entries(&self) -> Vec<u64> {
        let nodes = self.apex.seqs().chain(self.tree.seqs());
        let servers = self.servers.values().map(|(_, seq)| *seq);
        let plans = self.plans.values().map(|(_, seq)| *seq);
        let all = nodes
            .chain(servers)
            .chain(plans)
            .chain([self.serials.1, self.reconcile.1]);
        // Zero is what was never written down.
        let mut all: Vec<u64> = all.filter(|seq| *seq != 0).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn finish_loading(&mut self) {
        self.registers.finish_loading();
        let placed = self
            .servers()
            .filter_map(|server| Some((server.name.clone(), place_of(server)?)));
        self.places = Arc::new(placed.collect());
    }

    /// Takes entries of the log in.
    pub(crate) fn load(&mut self, chunk: &Chunk) -> Result<(), StorageError> {
        let mut entries = chunk.iter();
        loop {
            let group = self.approach(entries.by_ref().take(TOGETHER))?;
            if group.is_empty() {
                return Ok(());
            }
            for one in &group {
                match &one.register {
                    Some((register, hash)) => self.registers.load(register, *hash),
                    None => Entry::from_bytes(one.octets).map(|entry| self.apply(entry, one.seq)),
                }
                .map_err(|reason| damaged(one.seq, reason))?;
            }
        }
    }

    /// Reads entries so far that registers can be looked for, and goes near to where these are.
    fn approach<'c>(
        &self,
        entries: impl Iterator<Item = (u64, &'c [u8])>,
    ) -> Result<Vec<Approached<'c>>, StorageError> {
        let read = |(seq, octets)| {
            let register = RegisterFields::of_entry(octets).map_err(|reason| damaged(seq, reason))?;
            let register = register.map(|register| (register, KeyHash(0)));
            Ok(Approached { seq, octets, register })
        };
        let mut group = entries.map(read).collect::<Result<Vec<_>, StorageError>>()?;
        let registers = group.iter().filter_map(|one| one.register.as_ref());
        let hashes = self.registers.approach(registers.map(|(register, _)| register.address));
        let registers = group.iter_mut().filter_map(|one| one.register.as_mut());
        for ((_, hash), found) in registers.zip(hashes) {
            *hash = found;
        }
        Ok(group)
    }

    /// Takes one entry of the log in.
    pub(crate) fn apply(&mut self, entry: Entry, seq: u64) {
        match entry {
            Entry::Register(register) => self.registers.put(&register),
            Entry::Node(RecordZone::Apex, node) => self.apex.put(node, seq),
            Entry::Node(RecordZone::Tree, node) => {
                self.tree.put(node, seq);
                self.glance.set_delegated(self.tree.len() > 0);
            }
            Entry::Server(server) => {
                self.servers.insert(server.name.clone(), (*server, seq));
                self.glance.servers_changed();
            }
            Entry::Plan(plan) => {
                self.plans.insert(plan.number, (plan, seq));
            }
            Entry::Serials(serials) => {
                self.serials.1 = seq;
                self.set_serials(serials);
            }
            Entry::Reconcile(reconcile) => self.reconcile = (reconcile, seq),
        }
    }

    /// Takes a server's soft state in; where the log holds the server does not change.
    pub(crate) fn apply_soft(&mut self, server: Server) {
        if let Some((kept, _)) = self.servers.get_mut(&server.name) {
            *kept = server;
            self.glance.servers_changed();
        }
    }

    /// The entries that count: those that no later entry replaced.
    ///
    /// No register text occurs twice (DESIGN.md section 5), so that a register counts if it is the one that is kept: where the
    /// log holds it need not be known.
    pub(crate) fn counting<'c>(&self, chunk: &'c Chunk) -> Result<Vec<&'c [u8]>, StorageError> {
        let mut counting = Vec::new();
        let mut entries = chunk.iter();
        loop {
            let group = self.approach(entries.by_ref().take(TOGETHER))?;
            if group.is_empty() {
                return Ok(counting);
            }
            for one in &group {
                let counts = match &one.register {
                    Some((register, hash)) => Ok(self.registers.has(register, *hash)),
                    None => self.counts(one.octets, one.seq),
                };
                if counts.map_err(|reason| damaged(one.seq, reason))? {
                    counting.push(one.octets);
                }
            }
        }
    }

    /// Whether an entry counts that is no register.
    fn counts(&self, octets: &[u8], seq: u64) -> Result<bool, Damaged> {
        let kept = match &Entry::from_bytes(octets)? {
            Entry::Register(_) => None,
            Entry::Node(zone, node) => self.records(*zone).seq(&node.name),
            Entry::Server(server) => self.servers.get(&server.name).map(|(_, seq)| *seq),
            Entry::Plan(plan) => self.plans.get(&plan.number).map(|(_, seq)| *seq),
            Entry::Serials(_) => Some(self.serials.1),
            Entry::Reconcile(_) => Some(self.reconcile.1),
        };
        Ok(kept == Some(seq))
    }

    /// Says where the log holds an entry now; nothing else changes.
    pub(crate) fn moved(&mut self, entry: &Entry, seq: u64) {
        match entry {
            Entry::Register(_) => {}
            Entry::Node(RecordZone::Apex, node) => self.apex.put(Arc::clone(node), seq),
            Entry::Node(RecordZone::Tree, node) => self.tree.put(Arc::clone(node), seq),
            // The soft half stays as it is.
            Entry::Server(server) => {
                if let Some((_, kept)) = self.servers.get_mut(&server.name) {
                    *kept = seq;
                }
            }
            Entry::Plan(plan) => {
                self.plans.insert(plan.number, (Arc::clone(plan), seq));
            }
            Entry::Serials(_) => self.serials.1 = seq,
            Entry::Reconcile(_) => self.reconcile.1 = seq,
        }
    }

    /// Entries that count.
    pub(crate) fn entries(&self) -> u64 {
        let things =
            self.registers.len() + self.apex.len() + self.tree.len() + self.servers.len() + self.plans.len() + 2;
        things as u64
    }

    pub(crate) fn records(&self, zone: RecordZone) -> &Records {
        match zone {
            RecordZone::Apex => &self.apex,
            RecordZone::Tree => &self.tree,
        }
    }

    pub(crate) fn server(&self, name: &ServerName) -> Option<&Server> {
        self.servers.get(name).map(|(server, _)| server)
    }

    pub(crate) fn servers(&self) -> impl ExactSizeIterator<Item = &Server> {
        self.servers.values().map(|(server, _)| server)
    }

    /// What of it is read without the lock.
    pub(crate) fn glance(&self) -> &Arc<Glance> {
        &self.glance
    }

    /// The current plan: the one with the highest number.
    pub(crate) fn plan(&self) -> Option<&Arc<Plan>> {
        self.plans.last_key_value().map(|(_, (plan, _))| plan)
    }

    pub(crate) fn plan_numbered(&self, number: u64) -> Option<&Arc<Plan>> {
        self.plans.get(&number).map(|(plan, _)| plan)
    }

    pub(crate) fn serials(&self) -> Serials {
        self.serials.0
    }

    /// Sets the serials that are told; where the log holds them does not change.
    pub(super) fn set_serials(&mut self, serials: Serials) {
        self.serials.0 = serials;
        self.glance.set_serials(serials);
    }

    /// Where servers are, as transferred records tell it.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    pub(super) fn set_places(&mut self, places: Arc<Places>) {
        self.places = places;
    }

    /// What changed in zones that are transferred.
    pub(crate) fn journals(&self) -> Option<&Journals> {
        self.journals.as_ref()
    }

    pub(super) fn journals_mut(&mut self) -> Option<&mut Journals> {
        self.journals.as_mut()
    }

    /// Takes the journals of the process before, or keeps none any more.
    pub(super) fn set_journals(&mut self, journals: Option<Journals>) {
        self.journals = journals;
    }

    /// Begins to keep journals, if they are not kept yet.
    pub(super) fn keep_journals(&mut self, bounds: JournalBounds) {
        self.journals.get_or_insert_with(|| Journals::new(bounds));
    }

    pub(crate) fn reconcile(&self) -> &Arc<Reconcile> {
        &self.reconcile.0
    }
}

/// The records at the apex of a new operator's zone.
pub(crate) fn first_apex(domain: &Domain, ttl: u32) -> Node {
    let set = |kind, record| RrSet {
        kind,
        ttl,
        records: vec![record],
    };
    Node {
        name: domain.apex().clone(),
        sets: vec![
            set(RecordType::SOA, RData::SOA(soa(domain, 1))),
            set(RecordType::NS, RData::NS(NS(domain.in_pool("ns")))),
        ],
    }
}

/// A zone's SOA record with the pool's own times.
pub(crate) fn soa(domain: &Domain, serial: u32) -> SOA {
    let mailbox: Name = domain
        .zone(Zone::Apex)
        .prepend_label("hostmaster")
        .expect("a domain leaves room for short labels");
    SOA::new(
        domain.in_pool("ns"),
        mailbox,
        serial,
        REFRESH_S,
        RETRY_S,
        EXPIRE_S,
        MINIMUM_S,
    )
}
