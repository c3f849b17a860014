//! Every register, in memory, compact enough for millions.
//!
//! A row holds one register; names of servers and types are kept once and numbered. Rows are never removed, since a
//! deleted object's address is not used again. Three ways lead to a row: a hash of its key, and two orders of the live
//! ones, by the key from its first label on (what lies below a name in `tree`) and from its last label backwards (what
//! lies below a name in `obj`). So whether anything lies below a name is a search, never a scan.
//!
//! The key of an object is the text of its DNS labels in written order, lower case, joined by dots. For nearly every
//! address that is the folded address; parts that DNS cannot carry differ (PROTOCOL.md section 2).

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use hashbrown::HashTable;
use hickory_proto::rr::Name;
use zones::name::label_count;
use zones::{Address, Domain, Epoch, Level, ObjectType, Register, ServerName, State, Tx, Zone};

use super::ordered::Ordered;

/// Rows in one piece of the table, so that growing never copies the rows.
const PIECE: usize = 4096;
/// Holders that a row keeps in place; more go to the heap.
const HOLDERS_INLINE: usize = 3;

/// The key of an address: its labels in written order, lower case, joined by dots.
///
/// `None` for an address that has no name in this pool and so can have no register.
pub(crate) fn key_of(domain: &Domain, address: &Address) -> Option<String> {
    let plain = address.parts().all(|part| {
        part.len() <= 63
            && !part
                .as_bytes()
                .get(..4)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"xh--"))
    });
    if plain {
        return Some(address.folded().as_str().to_owned());
    }
    let name = domain.bare_name(address).ok()?;
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    Some(labels.join("."))
}

/// The key that labels in written order spell; `None` where no address has such labels.
pub(crate) fn key_of_labels<'l>(labels: impl Iterator<Item = &'l [u8]>) -> Option<String> {
    let mut key = String::new();
    for label in labels {
        if !key.is_empty() {
            key.push('.');
        }
        for octet in label {
            match octet.to_ascii_lowercase() {
                octet @ (b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-') => key.push(char::from(octet)),
                _ => return None,
            }
        }
    }
    Some(key)
}

/// The key that a name in `obj` or `tree`, or a bare name, stands for. It is empty at the apex of a zone and for the
/// root. `None` where no address has such labels, and in the other zones.
pub(crate) fn key_of_name(domain: &Domain, name: &Name) -> Option<String> {
    let own = |zone| label_count(name) - label_count(domain.zone(zone));
    match domain.zone_of(name) {
        Some(Zone::Obj) => key_of_labels(name.iter().take(own(Zone::Obj))),
        Some(Zone::Tree) => {
            let labels: Vec<&[u8]> = name.iter().take(own(Zone::Tree)).collect();
            key_of_labels(labels.into_iter().rev())
        }
        Some(Zone::Pool | Zone::Apex) => None,
        None => key_of_labels(name.iter()),
    }
}

/// One register.
struct Row {
    /// The address as spelled, then the key if that is not the same text.
    text: Box<str>,
    epoch: u64,
    tx: [u8; 16],
    /// Where the log holds it.
    seq: u64,
    // A thin pointer: few rows need it, all rows pay for it.
    #[expect(clippy::box_collection)]
    holders_more: Option<Box<Vec<u16>>>,
    kind: u32,
    schema: u32,
    holders: [u16; HOLDERS_INLINE],
    holder_count: u8,
    /// Octets of the spelling.
    spelled: u8,
    owner: u16,
    /// The destination, while moving.
    to: u16,
    state: Mark,
    level: u8,
}

/// The state without its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mark {
    Stable,
    Moving,
    Deleted,
}

impl Row {
    fn spelling(&self) -> &str {
        &self.text[..usize::from(self.spelled)]
    }

    fn key(&self) -> &str {
        match &self.text[usize::from(self.spelled)..] {
            "" => &self.text,
            key => key,
        }
    }

    fn holders(&self) -> &[u16] {
        match &self.holders_more {
            Some(more) => more,
            None => &self.holders[..usize::from(self.holder_count)],
        }
    }

    fn is_live(&self) -> bool {
        self.state != Mark::Deleted
    }
}

/// Texts kept once, by number.
struct Interned<T> {
    list: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    fn number(&mut self, value: &T) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).expect("fewer than 2^32 texts fit in memory");
        self.list.push(value.clone());
        self.numbers.insert(value.clone(), number);
        number
    }
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Interned {
            list: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

/// All registers of the pool.
pub(crate) struct Registers {
    domain: Domain,
    rows: Vec<Vec<Row>>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    /// Live rows by key.
    forward: Ordered,
    /// Live rows by key, last octet first.
    backward: Ordered,
    servers: Interned<ServerName>,
    kinds: Interned<ObjectType>,
    /// Registers that name a server in any field, by the server's number.
    naming: Vec<u64>,
    /// Registers that a server owns, by the server's number.
    owned: Vec<u64>,
    /// Registers that name a server as a holder that is not the owner, by the server's number.
    held: Vec<u64>,
    /// While loading the orders are not kept; [`Registers::finish_loading`] makes them in one sort.
    loading: bool,
}

impl Registers {
    /// An empty table that is being filled; end with [`Registers::finish_loading`].
    pub(crate) fn loading(domain: Domain) -> Registers {
        Registers {
            domain,
            rows: Vec::new(),
            by_key: HashTable::new(),
            hasher: RandomState::new(),
            forward: Ordered::default(),
            backward: Ordered::default(),
            servers: Interned::default(),
            kinds: Interned::default(),
            naming: Vec::new(),
            owned: Vec::new(),
            held: Vec::new(),
            loading: true,
        }
    }

    /// Makes the two orders.
    pub(crate) fn finish_loading(&mut self) {
        self.loading = false;
        let mut live: Vec<u32> = (0..self.len())
            .map(|id| u32::try_from(id).expect("rows are numbered by u32"))
            .filter(|id| self.row(*id).is_live())
            .collect();
        live.sort_unstable_by(|a, b| self.key(*a).cmp(self.key(*b)));
        self.forward = Ordered::from_sorted(&live);
        live.sort_unstable_by(|a, b| backward(self.key(*a), self.key(*b)));
        self.backward = Ordered::from_sorted(&live);
    }

    /// Registers, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        match self.rows.split_last() {
            Some((last, full)) => full.len() * PIECE + last.len(),
            None => 0,
        }
    }

    /// Registers that are not deleted.
    pub(crate) fn live(&self) -> usize {
        self.forward.len()
    }

    /// The row of a key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.by_key
            .find(self.hasher.hash_one(key), |id| self.key(*id) == key)
            .copied()
    }

    /// The register in a row.
    pub(crate) fn register(&self, id: u32) -> Register {
        let row = self.row(id);
        let server = |number: u16| self.servers.list[usize::from(number)].clone();
        Register {
            address: self.address(id),
            epoch: Epoch(row.epoch),
            owner: server(row.owner),
            state: match row.state {
                Mark::Stable => State::Stable,
                Mark::Moving => State::Moving { to: server(row.to) },
                Mark::Deleted => State::Deleted,
            },
            tx: Tx(row.tx),
            holders: row.holders().iter().copied().map(server).collect(),
            kind: self.kinds.list[row.kind as usize].clone(),
            schema: row.schema,
            level: Level(row.level),
        }
    }

    /// The address in a row, as spelled.
    pub(crate) fn address(&self, id: u32) -> Address {
        self.row(id).spelling().parse().expect("a row was made from an address")
    }

    /// The level of every object that is there.
    pub(crate) fn levels(&self) -> impl Iterator<Item = Level> + '_ {
        self.from("").map(|id| Level(self.row(id).level))
    }

    /// How many objects are on their way to another server.
    pub(crate) fn moving(&self) -> u64 {
        self.from("").filter(|id| self.row(*id).state == Mark::Moving).count() as u64
    }

    /// Whether a server owns the object in a row, and it is not moving.
    pub(crate) fn rests_on(&self, id: u32, server: &ServerName) -> bool {
        let row = self.row(id);
        row.state == Mark::Stable && self.servers.list[usize::from(row.owner)] == *server
    }

    /// Whether the object in a row is there: not deleted.
    pub(crate) fn is_live(&self, id: u32) -> bool {
        self.row(id).is_live()
    }

    /// Where the log holds the register in a row.
    pub(crate) fn seq(&self, id: u32) -> u64 {
        self.row(id).seq
    }

    /// Says where the log holds the register in a row now.
    pub(crate) fn set_seq(&mut self, id: u32, seq: u64) {
        self.rows[id as usize / PIECE][id as usize % PIECE].seq = seq;
    }

    /// The key of a row.
    pub(crate) fn key(&self, id: u32) -> &str {
        self.row(id).key()
    }

    /// Live rows whose key is `key` followed by more labels, in order; all live rows for an empty key.
    pub(crate) fn below(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let start = if key.is_empty() {
            String::new()
        } else {
            format!("{key}.")
        };
        let from = start.clone();
        self.forward
            .from(move |id| self.key(id) < from.as_str())
            .take_while(move |id| self.key(*id).starts_with(&start))
    }

    /// Live rows from the first on whose key is not before `key`.
    pub(crate) fn from(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let key = key.to_owned();
        self.forward.from(move |id| self.key(id) < key.as_str())
    }

    /// Live rows whose key is more labels followed by `key`; all live rows for an empty key.
    pub(crate) fn ending(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let end = if key.is_empty() {
            String::new()
        } else {
            format!(".{key}")
        };
        let from = end.clone();
        self.backward
            .from(move |id| backward(self.key(id), &from) == Ordering::Less)
            .take_while(move |id| self.key(*id).ends_with(&end))
    }

    /// How many registers name a server in any field.
    pub(crate) fn naming(&self, server: &ServerName) -> u64 {
        self.count(&self.naming, server)
    }

    /// How many registers a server owns.
    pub(crate) fn owned(&self, server: &ServerName) -> u64 {
        self.count(&self.owned, server)
    }

    /// How many registers name a server as a holder that is not the owner.
    pub(crate) fn held(&self, server: &ServerName) -> u64 {
        self.count(&self.held, server)
    }

    /// Objects in some rows whose holders are all such servers, by owner.
    pub(crate) fn held_only_by(
        &self,
        rows: Range<usize>,
        is_such: impl Fn(&ServerName) -> bool,
    ) -> BTreeMap<ServerName, u64> {
        let such: Vec<bool> = self.servers.list.iter().map(is_such).collect();
        let mut counts = BTreeMap::new();
        for row in self.live_in(rows) {
            if row.holders().iter().all(|holder| such[usize::from(*holder)]) {
                let owner = &self.servers.list[usize::from(row.owner)];
                *counts.entry(owner.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Objects in some rows whose holders are all such servers, or this one, which is among them.
    pub(crate) fn held_only_with(
        &self,
        rows: Range<usize>,
        server: &ServerName,
        is_such: impl Fn(&ServerName) -> bool,
    ) -> u64 {
        let such: Vec<bool> = self.servers.list.iter().map(is_such).collect();
        let with = |holder: &u16| self.servers.list[usize::from(*holder)] == *server;
        let lost = self.live_in(rows).filter(|row| {
            let holders = row.holders();
            let all = holders.iter().all(|holder| such[usize::from(*holder)] || with(holder));
            all && holders.iter().any(with)
        });
        lost.count() as u64
    }

    fn live_in(&self, rows: Range<usize>) -> impl Iterator<Item = &Row> {
        let rows = rows.map(|at| &self.rows[at / PIECE][at % PIECE]);
        rows.filter(|row| row.is_live())
    }

    fn count(&self, counts: &[u64], server: &ServerName) -> u64 {
        let number = self.servers.numbers.get(server);
        number
            .and_then(|number| counts.get(*number as usize))
            .copied()
            .unwrap_or(0)
    }

    /// Sets an object's register, a new one or a changed one.
    ///
    /// # Panics
    ///
    /// If the address has no name in this pool: such a register is refused before.
    pub(crate) fn put(&mut self, register: &Register, seq: u64) {
        let key = key_of(&self.domain, &register.address).expect("the address was checked when it was registered");
        let row = self.make_row(register, &key, seq);
        match self.find(&key) {
            Some(id) => self.replace(id, row),
            None => self.add(&key, row),
        }
    }

    fn replace(&mut self, id: u32, row: Row) {
        let was_live = self.row(id).is_live();
        self.count_row(id, false);
        self.rows[id as usize / PIECE][id as usize % PIECE] = row;
        self.count_row(id, true);
        if self.loading || was_live == self.row(id).is_live() {
            return;
        }
        if was_live {
            let mut forward = std::mem::take(&mut self.forward);
            let mut reverse = std::mem::take(&mut self.backward);
            forward.remove(|other| self.key(other).cmp(self.key(id)));
            reverse.remove(|other| backward(self.key(other), self.key(id)));
            (self.forward, self.backward) = (forward, reverse);
        } else {
            self.order(id);
        }
    }

    fn add(&mut self, key: &str, row: Row) {
        let id = u32::try_from(self.len()).expect("fewer than 2^32 registers fit in memory");
        match self.rows.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(row),
            Some(_) | None => {
                // The first piece grows as it fills, so that an empty pool is small.
                let mut piece = Vec::with_capacity(if self.rows.is_empty() { 0 } else { PIECE });
                piece.push(row);
                self.rows.push(piece);
            }
        }
        let hash = self.hasher.hash_one(key);
        let (rows, hasher) = (&self.rows, &self.hasher);
        let rehash = |id: &u32| hasher.hash_one(rows[*id as usize / PIECE][*id as usize % PIECE].key());
        self.by_key.insert_unique(hash, id, rehash);
        self.count_row(id, true);
        if !self.loading && self.row(id).is_live() {
            self.order(id);
        }
    }

    fn order(&mut self, id: u32) {
        let mut forward = std::mem::take(&mut self.forward);
        let mut reverse = std::mem::take(&mut self.backward);
        forward.insert(id, |other| self.key(other).cmp(self.key(id)));
        reverse.insert(id, |other| backward(self.key(other), self.key(id)));
        (self.forward, self.backward) = (forward, reverse);
    }

    fn make_row(&mut self, register: &Register, key: &str, seq: u64) -> Row {
        let mut server =
            |name: &ServerName| u16::try_from(self.servers.number(name)).expect("a pool has fewer than 65536 servers");
        let owner = server(&register.owner);
        let (state, to) = match &register.state {
            State::Stable => (Mark::Stable, owner),
            State::Moving { to } => (Mark::Moving, server(to)),
            State::Deleted => (Mark::Deleted, owner),
        };
        let all: Vec<u16> = register.holders.iter().map(server).collect();
        let mut holders = [0; HOLDERS_INLINE];
        let holders_more = if all.len() <= HOLDERS_INLINE {
            holders[..all.len()].copy_from_slice(&all);
            None
        } else {
            Some(Box::new(all.clone()))
        };
        let spelling = register.address.as_str();
        let text = if key == spelling {
            spelling.to_owned()
        } else {
            format!("{spelling}{key}")
        };
        Row {
            text: text.into(),
            epoch: register.epoch.0,
            tx: register.tx.0,
            seq,
            holders_more,
            kind: self.kinds.number(&register.kind),
            schema: register.schema,
            holders,
            holder_count: u8::try_from(all.len()).expect("a register names at most 14 holders"),
            spelled: u8::try_from(spelling.len()).expect("an address has at most 247 octets"),
            owner,
            to,
            state,
            level: register.level.0,
        }
    }

    /// Counts a row in or out at the servers it names.
    fn count_row(&mut self, id: u32, add: bool) {
        self.naming.resize(self.servers.list.len(), 0);
        self.owned.resize(self.servers.list.len(), 0);
        self.held.resize(self.servers.list.len(), 0);
        let row = &self.rows[id as usize / PIECE][id as usize % PIECE];
        if !row.is_live() {
            return;
        }
        let step = |count: &mut u64| *count = if add { *count + 1 } else { *count - 1 };
        step(&mut self.owned[usize::from(row.owner)]);
        // The owner is among the holders; the destination never is.
        for server in row.holders() {
            step(&mut self.naming[usize::from(*server)]);
            if *server != row.owner {
                step(&mut self.held[usize::from(*server)]);
            }
        }
        if row.state == Mark::Moving {
            step(&mut self.naming[usize::from(row.to)]);
        }
    }

    fn row(&self, id: u32) -> &Row {
        &self.rows[id as usize / PIECE][id as usize % PIECE]
    }
}

/// Compares two keys from their last octet on.
fn backward(a: &str, b: &str) -> Ordering {
    a.bytes().rev().cmp(b.bytes().rev())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        "hypernet.internal".parse().unwrap()
    }

    fn register(address: &str, state: State, holders: &[&str]) -> Register {
        Register {
            address: address.parse().unwrap(),
            epoch: Epoch(3),
            owner: "s2".parse().unwrap(),
            state,
            tx: Tx([7; 16]),
            holders: holders.iter().map(|name| name.parse().unwrap()).collect(),
            kind: "photo".parse().unwrap(),
            schema: 4,
            level: Level(1),
        }
    }

    fn table(addresses: &[&str]) -> Registers {
        let mut table = Registers::loading(domain());
        table.finish_loading();
        for (seq, address) in addresses.iter().enumerate() {
            table.put(&register(address, State::Stable, &["s2"]), seq as u64);
        }
        table
    }

    fn keys(table: &Registers, rows: impl Iterator<Item = u32>) -> Vec<&str> {
        rows.map(|id| table.key(id)).collect()
    }

    #[test]
    fn register_comes_back_as_it_was_put() {
        let mut table = table(&["1.2"]);
        let long = format!("7.{}.Q", "Long-".repeat(20));
        for register in [
            register("1.A-b", State::Stable, &["s2", "s1"]),
            register(
                &long,
                State::Moving {
                    to: "s9".parse().unwrap(),
                },
                &["s2"],
            ),
            register("xh--00.1", State::Deleted, &[]),
            register("5", State::Stable, &["s5", "s4", "s3", "s2", "s1"]),
        ] {
            table.put(&register, 9);
            let key = key_of(&domain(), &register.address).unwrap();
            assert_eq!(table.register(table.find(&key).unwrap()), register);
        }
    }

    #[test]
    fn below_a_name_in_tree_lie_longer_addresses_and_in_obj_those_that_end_alike() {
        let table = table(&["1", "1.1", "1.1.5", "1.10", "1.1-a", "2.1", "2.1.5"]);
        assert_eq!(keys(&table, table.below("1")), ["1.1", "1.1-a", "1.1.5", "1.10"]);
        assert_eq!(keys(&table, table.below("1.1")), ["1.1.5"]);
        assert_eq!(keys(&table, table.ending("1.5")), ["1.1.5", "2.1.5"]);
        assert_eq!(keys(&table, table.ending("1")), ["1.1", "2.1"]);
        assert!(table.below("1.1.5").next().is_none());
        assert!(table.ending("1.1.5").next().is_none());
        assert_eq!(table.below("").count(), 7);
        assert_eq!(table.ending("").count(), 7);
    }

    #[test]
    fn deleted_object_lies_below_nothing_and_stays_found() {
        let mut table = table(&["1.1", "1.2"]);
        table.put(&register("1.2", State::Deleted, &[]), 5);
        assert_eq!(keys(&table, table.below("1")), ["1.1"]);
        assert!(table.ending("2").next().is_none());
        assert!(!table.is_live(table.find("1.2").unwrap()));
        assert_eq!((table.len(), table.live()), (2, 1));
    }

    #[test]
    fn servers_are_counted_in_every_field_that_names_them() {
        let mut table = table(&["1", "2"]);
        let count = |table: &Registers, name: &str| {
            let name = name.parse().unwrap();
            (table.owned(&name), table.naming(&name), table.held(&name))
        };
        table.put(
            &register(
                "1",
                State::Moving {
                    to: "s4".parse().unwrap(),
                },
                &["s2", "s3"],
            ),
            1,
        );
        assert_eq!(
            ["s2", "s3", "s4", "s5"].map(|name| count(&table, name)),
            [(2, 2, 0), (0, 1, 1), (0, 1, 0), (0, 0, 0)]
        );
        table.put(&register("1", State::Deleted, &[]), 2);
        assert_eq!(
            ["s2", "s3", "s4"].map(|name| count(&table, name)),
            [(1, 1, 0), (0, 0, 0), (0, 0, 0)]
        );
    }

    #[test]
    fn object_is_lost_with_a_server_that_alone_has_it_beside_lost_ones() {
        let mut table = table(&[]);
        for (address, holders) in [("1", &["s2"][..]), ("2", &["s2", "s3"]), ("3", &["s4", "s2"])] {
            table.put(&register(address, State::Stable, holders), 1);
        }
        let with = |lost: &[&str], server: &str| {
            table.held_only_with(0..table.len(), &server.parse().unwrap(), |server| {
                lost.contains(&server.as_str())
            })
        };
        assert_eq!([with(&[], "s2"), with(&[], "s3"), with(&[], "s9")], [1, 0, 0]);
        // What s2 owns is lost with whoever holds the last copy of it.
        assert_eq!([with(&["s2"], "s3"), with(&["s2"], "s4")], [1, 1]);
        assert_eq!([with(&["s2"], "s2"), with(&["s2", "s3", "s4"], "s2")], [1, 3]);
    }

    #[test]
    fn object_is_lost_when_each_of_its_holders_is() {
        let mut table = table(&["1"]);
        for (address, holders) in [
            ("2", &["s2", "s3"][..]),
            ("3", &["s4", "s2"]),
            ("4", &["s2", "s3", "s4", "s5"]),
        ] {
            table.put(&register(address, State::Stable, holders), 1);
        }
        table.put(&register("5", State::Stable, &["s2"]), 2);
        table.put(&register("5", State::Deleted, &[]), 3);
        let lost = |servers: &[&str]| {
            let is_lost = |server: &ServerName| servers.contains(&server.as_str());
            table
                .held_only_by(0..table.len(), is_lost)
                .get(&"s2".parse().unwrap())
                .copied()
                .unwrap_or(0)
        };
        assert_eq!(
            [
                lost(&[]),
                lost(&["s3"]),
                lost(&["s2"]),
                lost(&["s2", "s3"]),
                lost(&["s2", "s3", "s4", "s5"])
            ],
            [0, 0, 1, 2, 4]
        );
    }

    #[test]
    fn loaded_table_equals_one_filled_while_running() {
        let addresses = ["3.1", "1.A", "2.023", "1.a.5", "9", "1"];
        let running = table(&addresses);
        let mut loaded = Registers::loading(domain());
        for address in addresses {
            loaded.put(&register(address, State::Stable, &["s2"]), 0);
        }
        loaded.finish_loading();
        assert_eq!(keys(&loaded, loaded.below("")), keys(&running, running.below("")));
        assert_eq!(keys(&loaded, loaded.ending("")), keys(&running, running.ending("")));
    }
}
