//! Reading the registry.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use parking_lot::RwLockReadGuard;
use zones::{Address, Domain, Level, Register, ServerName};

use super::entry::{Plan, Reconcile, Serials};
use super::index::Index;
use super::key::{key_of, key_of_name};
use super::server::Server;

/// The registry at one moment: what is durable, and which leases run.
pub struct View<'a> {
    index: RwLockReadGuard<'a, Index>,
    now: Instant,
    lease: Duration,
}

impl<'a> View<'a> {
    pub(super) fn new(index: RwLockReadGuard<'a, Index>, now: Instant, lease: Duration) -> View<'a> {
        View { index, now, lease }
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// The same view with leases judged at another moment.
    #[must_use]
    pub fn at(self, now: Instant) -> View<'a> {
        View { now, ..self }
    }

    /// The moment that leases are judged at.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The pool's domain.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.index.domain
    }

    /// The register of an address in any spelling, a deleted one too.
    #[must_use]
    pub fn register(&self, address: &Address) -> Option<Register> {
        let key = key_of(&self.index.domain, address)?;
        let id = self.index.registers.find(&key)?;
        Some(self.index.registers.register(id))
    }

    /// The address of the object that a name of `obj` or `tree`, or a bare name, stands for.
    #[must_use]
    pub fn object_named(&self, name: &Name) -> Option<Address> {
        let key = key_of_name(&self.index.domain, name)?;
        let registers = &self.index.registers;
        registers.find(&key).map(|id| registers.address(id))
    }

    /// Objects that are not deleted.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.index.registers.live()
    }

    /// Registers that a server owns.
    #[must_use]
    pub fn objects_owned(&self, server: &ServerName) -> u64 {
        self.index.registers.owned(server)
    }

    /// Registers that name a server as the holder of a copy, and another one as the owner.
    #[must_use]
    pub fn objects_held(&self, server: &ServerName) -> u64 {
        self.index.registers.held(server)
    }

    /// Objects among some rows, by owner, of which nobody has a copy but such servers.
    #[must_use]
    pub fn objects_held_only_by(
        &self,
        rows: Range<usize>,
        is_such: impl Fn(&ServerName) -> bool,
    ) -> BTreeMap<ServerName, u64> {
        self.index.registers.held_only_by(rows, is_such)
    }

    /// Objects among some rows that are lost with a server: it has a copy, and nobody else but servers that are lost.
    #[must_use]
    pub fn objects_lost_with(
        &self,
        rows: Range<usize>,
        server: &ServerName,
        is_lost: impl Fn(&ServerName) -> bool,
    ) -> u64 {
        self.index.registers.held_only_with(rows, server, is_lost)
    }

    /// Registers that name a server in any field: as owner, holder or destination.
    #[must_use]
    pub fn objects_naming(&self, server: &ServerName) -> u64 {
        self.index.registers.naming(server)
    }

    /// At most `most` registers that are not deleted, in the order of their names from `from` on (it included).
    #[must_use]
    pub fn registers_from(&self, from: Option<&Address>, most: usize) -> Vec<Register> {
        let key = from
            .and_then(|from| key_of(&self.index.domain, from))
            .unwrap_or_default();
        let rows = self.index.registers.from(&key).take(most);
        rows.map(|id| self.index.registers.register(id)).collect()
    }

    /// At most `most` objects that a server owns, that are not moving and that `may`, found in the order of their names from
    /// `from` on (it included) among at most `scan` registers; and where to look next, `None` for from the beginning.
    #[must_use]
    pub fn owned_by(
        &self,
        server: &ServerName,
        from: Option<&Address>,
        (scan, most): (usize, usize),
        mut may: impl FnMut(&Address) -> bool,
    ) -> (Vec<Address>, Option<Address>) {
        let registers = &self.index.registers;
        let key = from
            .and_then(|from| key_of(&self.index.domain, from))
            .unwrap_or_default();
        let mut found = Vec::new();
        for (looked_at, id) in registers.from(&key).enumerate() {
            if looked_at == scan || found.len() == most {
                return (found, Some(registers.address(id)));
            }
            if registers.rests_on(id, server) {
                found.extend(Some(registers.address(id)).filter(&mut may));
            }
        }
        (found, None)
    }

    /// How many registers there are, deleted ones included; they are numbered in the order in which they were made.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.index.registers.len()
    }

    /// The register of a number, if the object is not deleted.
    #[must_use]
    pub fn row(&self, number: u32) -> Option<Register> {
        let registers = &self.index.registers;
        let is_there = (number as usize) < registers.len() && registers.is_live(number);
        is_there.then(|| registers.register(number))
    }

    /// Objects that are not deleted, by the level that their registers say.
    #[must_use]
    pub fn objects_by_level(&self) -> BTreeMap<Level, u64> {
        let mut counts = BTreeMap::new();
        for level in self.index.registers.levels() {
            *counts.entry(level).or_default() += 1;
        }
        counts
    }

    /// Objects that are on their way to another server.
    #[must_use]
    pub fn objects_moving(&self) -> u64 {
        self.index.registers.moving()
    }

    /// The servers of the pool by name.
    pub fn servers(&self) -> impl ExactSizeIterator<Item = &Server> {
        self.index.servers()
    }

    /// One server.
    #[must_use]
    pub fn server(&self, name: &ServerName) -> Option<&Server> {
        self.index.server(name)
    }

    /// Whether a server's lease runs.
    #[must_use]
    pub fn is_alive(&self, server: &Server) -> bool {
        server.is_alive(self.now, self.lease)
    }

    /// How long a lease is.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The current plan; `None` before the first.
    #[must_use]
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.index.plan()
    }

    /// A plan by number.
    #[must_use]
    pub fn plan_numbered(&self, number: u64) -> Option<&Arc<Plan>> {
        self.index.plan_numbered(number)
    }

    /// Whether registers may change, and who was written off.
    #[must_use]
    pub fn reconcile(&self) -> &Arc<Reconcile> {
        self.index.reconcile()
    }

    /// Serials of the composed zones.
    #[must_use]
    pub fn serials(&self) -> Serials {
        self.index.serials()
    }
}
