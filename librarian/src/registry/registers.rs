//! Every register, in memory, compact enough for millions.
//!
//! A row holds one register; names of servers and types are kept once and numbered. Rows are never removed, since a
//! deleted object's address is not used again. Three ways lead to a row: a hash of its key, and two orders of the live
//! ones, by the key from its first label on (what lies below a name in `tree`) and from its last label backwards (what
//! lies below a name in `obj`). So whether anything lies below a name is a search, never a scan.
//!
//! Rows and the ways to them are read without a lock, too ([`super::table`]); what is counted, under it only.

mod saved;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;

use zones::register::HOLDERS_MAX;
use zones::{Address, Domain, Epoch, Level, Register, ServerName, State, Tx, Zone};

use super::bytes::Damaged;
use super::entry::{RegisterFields, StateField};
use super::glance::Glance;
use super::key::{is_its_own_key, key_of};
use super::sorting::{Direction, by_key};
use super::table::{
    Called, Interned, KeyHash, KeyWriter, Kind, Mark, OrderWriter, Row, RowWriter, Rows, Stored, Table, TextWriter,
    Texts, backward,
};

/// Keys that are looked for together.
pub(crate) const TOGETHER: usize = 32;
/// Where more than one row in so many changed its place in the orders, these are made anew: sorting takes a fraction of what as many
/// insertions do.
const SORT_AGAIN: usize = 16;
/// Longest name in wire form (RFC 1035 section 2.3.4).
const NAME_OCTETS_MAX: usize = 255;

/// All registers of the pool.
pub(crate) struct Registers {
    domain: Domain,
    rows: RowWriter,
    texts: TextWriter,
    keys: KeyWriter,
    servers: Interned<ServerName>,
    kinds: Interned<Kind>,
    /// Where all of these lie.
    table: Arc<Table>,
    /// Who is told of it.
    glance: Arc<Glance>,
    /// Live rows by key.
    forward: OrderWriter,
    /// Live rows by key, last octet first.
    backward: OrderWriter,
    /// Registers that name a server in any field, by the server's number.
    naming: Vec<u64>,
    /// Registers that a server owns, by the server's number.
    owned: Vec<u64>,
    /// Registers that name a server as a holder that is not the owner, by the server's number.
    held: Vec<u64>,
    /// While loading the orders are not kept and nobody is told; [`Registers::finish_loading`] makes up for both.
    loading: bool,
    /// While loading on top of a checkpoint, which has the orders: rows whose place in them changed.
    disordered: Option<Vec<u32>>,
}

impl Registers {
    /// An empty table that is being filled with at most so many registers; end with [`Registers::finish_loading`].
    pub(crate) fn loading(domain: Domain, most: u64, glance: Arc<Glance>) -> Registers {
        let (rows, texts) = (RowWriter::new(), TextWriter::default());
        let keys = KeyWriter::with_room(usize::try_from(most).unwrap_or(0));
        let (forward, backward) = (OrderWriter::default(), OrderWriter::default());
        let (servers, kinds) = (Interned::default(), Interned::default());
        let table = Table {
            hasher: RandomState::new(),
            rows: rows.rows().clone(),
            texts: texts.texts().clone(),
            keys: keys.keys().clone(),
            forward: forward.order().clone(),
            backward: backward.order().clone(),
            servers: Arc::clone(servers.list()),
            kinds: Arc::clone(kinds.list()),
        };
        Registers {
            domain,
            rows,
            texts,
            keys,
            servers,
            kinds,
            table: Arc::new(table),
            glance,
            forward,
            backward,
            naming: Vec::new(),
            owned: Vec::new(),
            held: Vec::new(),
            loading: true,
            disordered: None,
        }
    }

    /// Makes the two orders and tells where everything is.
    pub(crate) fn finish_loading(&mut self) {
        // A log may hold as many entries that do not count as those that do.
        let table = Arc::clone(&self.table);
        self.keys
            .shrink(|id| hash_of(&table.rows, &table.texts, &table.hasher, id));
        self.look_around();
        let disordered = self.disordered.take();
        match disordered.filter(|rows| rows.len() <= self.len() / SORT_AGAIN) {
            Some(rows) => rows.into_iter().for_each(|id| self.reorder(id)),
            None => self.sort(),
        }
        self.look_around();
        self.loading = false;
        self.glance.tell(Arc::clone(&self.table));
    }

    /// Makes the two orders, side by side.
    fn sort(&mut self) {
        let this = &*self;
        let live = || (0..this.row_count()).filter(|id| this.is_live(*id));
        let (forward, backward) = std::thread::scope(|scope| {
            let key = |id| this.key_octets(id);
            let backward = scope.spawn(move || by_key(live(), Direction::Backward, &key));
            let forward = by_key(live(), Direction::Forward, &key);
            (forward, backward.join().expect("sorting does not panic"))
        });
        self.forward = OrderWriter::from_sorted(&forward);
        self.backward = OrderWriter::from_sorted(&backward);
    }

    /// Takes note of where everything is, after each change.
    fn look_around(&mut self) {
        let (rows, texts, keys) = (self.rows.rows(), self.texts.texts(), self.keys.keys());
        let (servers, kinds) = (self.servers.list(), self.kinds.list());
        let (forward, backward) = (self.forward.order(), self.backward.order());
        if self.table.is(rows, texts, keys, [forward, backward], servers, kinds) {
            return;
        }
        self.table = Arc::new(Table {
            hasher: self.table.hasher.clone(),
            rows: rows.clone(),
            texts: texts.clone(),
            keys: keys.clone(),
            forward: forward.clone(),
            backward: backward.clone(),
            servers: Arc::clone(servers),
            kinds: Arc::clone(kinds),
        });
        if !self.loading {
            self.glance.tell(Arc::clone(&self.table));
        }
    }

    /// Registers, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.row_count() as usize
    }

    fn row_count(&self) -> u32 {
        self.rows.len()
    }

    /// Registers that are not deleted.
    pub(crate) fn live(&self) -> usize {
        self.forward.len()
    }

    /// The row of a key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.find_octets(key.as_bytes())
    }

    /// The same by the key's hash, too.
    pub(crate) fn find_hashed(&self, key: &str, hash: KeyHash) -> Option<u32> {
        self.table.find_hashed(key.as_bytes(), hash)
    }

    /// The row of a key that is in octets.
    pub(crate) fn find_octets(&self, key: &[u8]) -> Option<u32> {
        self.table.find(key)
    }

    /// Goes near to where some registers are, see [`Table::approach`], and gives the hashes of their keys: of [`TOGETHER`] at a
    /// time.
    pub(crate) fn approach<'k>(&self, keys: impl Iterator<Item = &'k str>) -> Vec<KeyHash> {
        let mut hashes = Vec::new();
        self.table.approach(keys.map(str::as_bytes), &mut hashes);
        hashes
    }

    /// Whether a register of the log is the one that is kept. `hash` is its address's, as [`Registers::approach`] gave it.
    pub(crate) fn has(&self, fields: &RegisterFields<'_>, hash: KeyHash) -> bool {
        let found = if is_its_own_key(fields.address) {
            self.table.find_hashed(fields.address.as_bytes(), hash)
        } else {
            let address = fields.address.parse().ok();
            let key = address.and_then(|address| key_of(&self.domain, &address));
            key.and_then(|key| self.find(&key))
        };
        found.is_some_and(|id| self.is_as(id, fields))
    }

    fn is_as(&self, id: u32, fields: &RegisterFields<'_>) -> bool {
        let stored = self.stored(id);
        let row = stored.row();
        let is_server = |number: u16, name: &str| stored.server(number).as_str() == name;
        let state = match (row.state, fields.state) {
            (Mark::Stable, StateField::Stable) | (Mark::Deleted, StateField::Deleted) => true,
            (Mark::Moving, StateField::Moving(to)) => is_server(row.to, to),
            (Mark::Stable | Mark::Moving | Mark::Deleted, _) => false,
        };
        let holders = row.holders();
        // What differs first comes first.
        row.tx == fields.tx
            && row.epoch == fields.epoch
            && state
            && is_server(row.owner, fields.owner)
            && holders.len() == fields.holders().len()
            && holders
                .iter()
                .zip(fields.holders())
                .all(|(number, name)| is_server(*number, name))
            && stored.kind() == (fields.kind, fields.schema, fields.level)
            && stored.spelling() == fields.address.as_bytes()
    }

    /// The register in a row, as it lies there.
    pub(crate) fn stored(&self, id: u32) -> Stored<'_> {
        self.table.stored(id).expect("it is there, and nobody writes meanwhile")
    }

    /// The register in a row.
    pub(crate) fn register(&self, id: u32) -> Register {
        let row = self.row(id);
        let kind = self.kinds.get(row.kind);
        Register {
            address: self.address(id),
            epoch: Epoch(row.epoch),
            owner: self.server(row.owner).clone(),
            state: match row.state {
                Mark::Stable => State::Stable,
                Mark::Moving => State::Moving {
                    to: self.server(row.to).clone(),
                },
                Mark::Deleted => State::Deleted,
            },
            tx: Tx(row.tx),
            holders: row
                .holders()
                .iter()
                .map(|server| self.server(*server).clone())
                .collect(),
            kind: kind.kind.clone(),
            schema: kind.schema,
            level: kind.level,
        }
    }

    /// The address in a row, as spelled.
    pub(crate) fn address(&self, id: u32) -> Address {
        self.table.address(id).expect("it is there")
    }

    /// The server of a number.
    pub(crate) fn server(&self, number: u16) -> &ServerName {
        self.servers.get(number.into())
    }

    /// How many servers have numbers; none is taken away again.
    pub(crate) fn server_count(&self) -> usize {
        self.table.server_count()
    }

    /// The level of every object that is there.
    pub(crate) fn levels(&self) -> impl Iterator<Item = Level> + '_ {
        self.from("").map(|id| self.kinds.get(self.row(id).kind).level)
    }

    /// How many objects are on their way to another server.
    pub(crate) fn moving(&self) -> u64 {
        self.from("").filter(|id| self.state(*id) == Mark::Moving).count() as u64
    }

    /// Whether a server owns the object in a row, and it is not moving.
    pub(crate) fn rests_on(&self, id: u32, server: &ServerName) -> bool {
        let row = self.row(id);
        row.state == Mark::Stable && self.server(row.owner) == server
    }

    /// Whether the object in a row is there: not deleted.
    pub(crate) fn is_live(&self, id: u32) -> bool {
        self.state(id) != Mark::Deleted
    }

    fn state(&self, id: u32) -> Mark {
        self.table.rows.state(id).expect("it is there")
    }

    /// The key of a row.
    pub(crate) fn key(&self, id: u32) -> &str {
        std::str::from_utf8(self.key_octets(id)).expect("a key is made of labels' letters and digits")
    }

    fn key_octets(&self, id: u32) -> &[u8] {
        self.table.key(id).expect("it is there")
    }

    /// Live rows whose key is `key` followed by more labels, in order; all live rows for an empty key.
    pub(crate) fn below(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let start = if key.is_empty() {
            String::new()
        } else {
            format!("{key}.")
        };
        let from = start.clone();
        let forward = self.forward.order();
        forward
            .from(move |id| self.key_octets(id) < from.as_bytes())
            .take_while(move |id| self.key_octets(*id).starts_with(start.as_bytes()))
    }

    /// Live rows from the first on whose key is not before `key`.
    pub(crate) fn from(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let key = key.to_owned();
        let forward = self.forward.order();
        forward.from(move |id| self.key_octets(id) < key.as_bytes())
    }

    /// Live rows whose key is more labels followed by `key`; all live rows for an empty key.
    pub(crate) fn ending(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let end = if key.is_empty() {
            String::new()
        } else {
            format!(".{key}")
        };
        let from = end.clone();
        let reverse = self.backward.order();
        reverse
            .from(move |id| backward(self.key_octets(id), from.as_bytes()) == Ordering::Less)
            .take_while(move |id| self.key_octets(*id).ends_with(end.as_bytes()))
    }

    /// Whether the key of a live row is `key` followed by more labels.
    pub(crate) fn any_below(&self, key: &[u8]) -> bool {
        self.table.any_below(key).expect("nobody writes meanwhile")
    }

    /// Whether the key of a live row is more labels followed by `key`.
    pub(crate) fn any_ending(&self, key: &[u8]) -> bool {
        self.table.any_ending(key).expect("nobody writes meanwhile")
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
        let such: Vec<bool> = self.servers.list().iter().map(|server| is_such(server)).collect();
        let mut counts = BTreeMap::new();
        for row in self.live_in(rows) {
            if row.holders().iter().all(|holder| such[usize::from(*holder)]) {
                *counts.entry(self.server(row.owner).clone()).or_default() += 1;
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
        let such: Vec<bool> = self.servers.list().iter().map(|server| is_such(server)).collect();
        let with = |holder: &u16| self.server(*holder) == server;
        let lost = self.live_in(rows).filter(|row| {
            let holders = row.holders();
            let all = holders.iter().all(|holder| such[usize::from(*holder)] || with(holder));
            all && holders.iter().any(with)
        });
        lost.count() as u64
    }

    fn live_in(&self, rows: Range<usize>) -> impl Iterator<Item = Row> {
        let rows = rows.map(|at| self.row(u32::try_from(at).expect("rows are numbered by u32")));
        rows.filter(Row::is_live)
    }

    fn count(&self, counts: &[u64], server: &ServerName) -> u64 {
        let number = self.servers.find(server.as_str());
        let count = number.and_then(|number| counts.get(number as usize));
        count.copied().unwrap_or(0)
    }

    /// Sets an object's register, a new one or a changed one.
    ///
    /// # Panics
    ///
    /// If the address has no name in this pool: such a register is refused before.
    pub(crate) fn put(&mut self, register: &Register) {
        let key = self.key_of(register);
        let hash = self.table.hash(key.as_bytes());
        self.put_at(register, &key, hash);
    }

    /// The key of a register.
    ///
    /// # Panics
    ///
    /// As [`Registers::put`].
    pub(crate) fn key_of(&self, register: &Register) -> String {
        key_of(&self.domain, &register.address).expect("the address was checked when it was registered")
    }

    /// As [`Registers::put`], with the register's key and that one's hash.
    pub(crate) fn put_at(&mut self, register: &Register, key: &str, hash: KeyHash) {
        let kind = Kind {
            kind: register.kind.clone(),
            schema: register.schema,
            level: register.level,
        };
        let mut holders = [0; HOLDERS_MAX];
        for (place, holder) in holders.iter_mut().zip(&register.holders) {
            *place = self.number(holder);
        }
        let owner = self.number(&register.owner);
        let (state, to) = match &register.state {
            State::Stable => (Mark::Stable, owner),
            State::Moving { to } => (Mark::Moving, self.number(to)),
            State::Deleted => (Mark::Deleted, owner),
        };
        let row = Row {
            tx: register.tx.0,
            epoch: register.epoch.0,
            text: 0,
            kind: self.kinds.find(kind.called()).unwrap_or_else(|| self.kinds.add(kind)),
            holders,
            holder_count: count_of(register.holders.len()),
            owner,
            to,
            state,
        };
        self.set((register.address.as_str(), key, hash), row);
    }

    /// Takes in a register as the log holds it. The same as to read it and to [`Registers::put`] it, for millions: nothing is
    /// allocated but what stays.
    /// `hash` is what [`Registers::approach`] gave.
    pub(crate) fn load(&mut self, fields: &RegisterFields<'_>, hash: KeyHash) -> Result<(), Damaged> {
        let spelling = fields.address;
        if !self.is_key(spelling) {
            let register = fields.to_register()?;
            key_of(&self.domain, &register.address).ok_or(Damaged("an address has no name in this pool"))?;
            self.put(&register);
            return Ok(());
        }
        let mut holders = [0; HOLDERS_MAX];
        for (place, holder) in holders.iter_mut().zip(fields.holders()) {
            *place = self.number_of(holder)?;
        }
        let owner = self.number_of(fields.owner)?;
        let (state, to) = match fields.state {
            StateField::Stable => (Mark::Stable, owner),
            StateField::Moving(to) => (Mark::Moving, self.number_of(to)?),
            StateField::Deleted => (Mark::Deleted, owner),
        };
        let kind = (fields.kind, fields.schema, fields.level);
        let kind = match self.kinds.find(kind) {
            Some(kind) => kind,
            None => self.kinds.add(Kind {
                kind: fields.kind.parse().map_err(|_| Damaged("a type breaks its grammar"))?,
                schema: fields.schema,
                level: Level(fields.level),
            }),
        };
        let row = Row {
            tx: fields.tx,
            epoch: fields.epoch,
            text: 0,
            kind,
            holders,
            holder_count: count_of(fields.holders().len()),
            owner,
            to,
            state,
        };
        if !is_sound(&row, fields.level) {
            return Err(Damaged("a register contradicts itself"));
        }
        self.set((spelling, spelling, hash), row);
        Ok(())
    }

    /// Whether a text is an address that has a name in this pool and is its own key: no parts in capitals or too long for DNS.
    fn is_key(&self, text: &str) -> bool {
        let fits = text.len() + 1 + self.domain.zone(Zone::Obj).len() <= NAME_OCTETS_MAX;
        fits && is_its_own_key(text)
    }

    /// Sets what is registered at an address, given with its key and that one's hash: a row, but for where its text lies.
    fn set(&mut self, (spelling, key, hash): (&str, &str, KeyHash), row: Row) {
        let found = self.table.find_hashed(key.as_bytes(), hash);
        let old = found.map(|id| self.row(id));
        let was_live = old.as_ref().is_some_and(Row::is_live);
        if was_live != row.is_live() && !self.loading {
            self.glance.objects_change();
        }
        let text = match &old {
            Some(old) if self.table.texts.spelling(old.text) == Some(spelling.as_bytes()) => old.text,
            // New; or in another spelling, as only the log of a registry that was put back may tell.
            Some(_) | None => self.texts.push(spelling.as_bytes(), key.as_bytes()),
        };
        let row = Row { text, ..row };
        let id = match found {
            Some(id) => {
                self.rows.replace(id, &row);
                id
            }
            None => {
                let id = self.rows.push(&row);
                let (rows, texts, hasher) = (self.rows.rows(), self.texts.texts(), &self.table.hasher);
                self.keys.add(hash.0, id, |id| hash_of(rows, texts, hasher, id));
                id
            }
        };
        self.look_around();
        if let Some(old) = &old {
            self.count_row(old, false);
        }
        self.count_row(&row, true);
        if was_live != row.is_live() {
            if !self.loading {
                self.reorder(id);
            } else if let Some(rows) = &mut self.disordered {
                rows.push(id);
            }
            self.look_around();
        }
    }

    /// Puts a row that became live or is no more where it belongs, if it is not there yet.
    fn reorder(&mut self, id: u32) {
        if self.is_live(id) {
            self.order(id);
        } else {
            self.unorder(id);
        }
    }

    fn unorder(&mut self, id: u32) {
        let key = |id| self.table.key(id).expect("it is there");
        self.forward.remove(|other| key(other).cmp(key(id)));
        self.backward.remove(|other| backward(key(other), key(id)));
    }

    fn order(&mut self, id: u32) {
        let key = |id| self.table.key(id).expect("it is there");
        self.forward.insert(id, |other| key(other).cmp(key(id)));
        self.backward.insert(id, |other| backward(key(other), key(id)));
    }

    /// The number of a server.
    fn number(&mut self, server: &ServerName) -> u16 {
        let found = self.servers.find(server.as_str());
        number_of_server(found.unwrap_or_else(|| self.servers.add(server.clone())))
    }

    /// The number of a server by its name as text.
    fn number_of(&mut self, server: &str) -> Result<u16, Damaged> {
        if let Some(number) = self.servers.find(server) {
            return Ok(number_of_server(number));
        }
        let server: ServerName = server
            .parse()
            .map_err(|_| Damaged("a server's name breaks its grammar"))?;
        Ok(self.number(&server))
    }

    /// Counts a row in or out at the servers it names.
    fn count_row(&mut self, row: &Row, add: bool) {
        let servers = self.server_count();
        if self.naming.len() < servers {
            for counts in [&mut self.naming, &mut self.owned, &mut self.held] {
                counts.resize(servers, 0);
            }
        }
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

    fn row(&self, id: u32) -> Row {
        let row = self.table.rows.read(id);
        row.expect("it is there, and nobody writes meanwhile")
    }
}

fn hash_of(rows: &Rows, texts: &Texts, hasher: &RandomState, id: u32) -> u64 {
    let key = rows.text(id).and_then(|text| texts.key(text));
    hasher.hash_one(key.expect("it is there"))
}

/// As [`Register::check`], whose bounds on lengths follow from those of names and addresses.
fn is_sound(row: &Row, level: u8) -> bool {
    let named = row.holders();
    let twice = (1..named.len()).any(|place| named[..place].contains(&named[place]));
    let fit = match row.state {
        Mark::Stable => named.contains(&row.owner),
        Mark::Moving => named.contains(&row.owner) && !named.contains(&row.to),
        Mark::Deleted => named.is_empty(),
    };
    !twice && fit && row.epoch >= Epoch::FIRST.0 && level >= 1
}

fn count_of(holders: usize) -> u8 {
    u8::try_from(holders).expect("a register names at most 14 holders")
}

fn number_of_server(number: u32) -> u16 {
    u16::try_from(number).expect("a pool has fewer than 65536 servers")
}

#[cfg(test)]
mod tests;
