//! Every register, in memory, compact enough for millions.
//!
//! A row holds one register; names of servers and types are kept once and numbered. Rows are never removed, since a
//! deleted object's address is not used again. Three ways lead to a row: a hash of its key, and two orders of the live
//! ones, by the key from its first label on (what lies below a name in `tree`) and from its last label backwards (what
//! lies below a name in `obj`). So whether anything lies below a name is a search, never a scan.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use hashbrown::HashTable;
use zones::register::HOLDERS_MAX;
use zones::{Address, Domain, Epoch, Level, ObjectType, Register, ServerName, State, Tx, Zone};

use super::bytes::Damaged;
use super::entry::{RegisterFields, StateField};
use super::interned::{Called, Interned};
use super::key::{is_its_own_key, key_of};
use super::ordered::Ordered;
use super::sorting::{backward_word, by_words, forward_word};
use super::texts::Texts;

/// Rows in one piece of the table, so that growing never copies the rows.
const PIECE: usize = 4096;
/// Holders that a row keeps in place; the lists of those with more lie elsewhere.
const HOLDERS_INLINE: usize = 3;
/// Keys that are looked for together.
pub(crate) const TOGETHER: usize = 32;
/// Longest name in wire form (RFC 1035 section 2.3.4).
const NAME_OCTETS_MAX: usize = 255;

/// One register in 44 octets.
#[derive(Clone)]
struct Row {
    tx: [u8; 16],
    /// In octets, since a number of eight would want a multiple of eight.
    epoch: [u8; 8],
    /// Where the address lies.
    text: u32,
    /// Which type, schema and level.
    kind: u32,
    /// Servers; of more than fit, the first two are the number of their list.
    holders: [u16; HOLDERS_INLINE],
    owner: u16,
    /// The destination, while moving.
    to: u16,
    holder_count: u8,
    state: Mark,
}

const _: () = assert!(size_of::<Row>() == 44, "ten million rows are what memory is spent on");

/// The state without its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mark {
    Stable,
    Moving,
    Deleted,
}

impl Row {
    fn is_live(&self) -> bool {
        self.state != Mark::Deleted
    }

    /// Where the list of the holders lies, if there are too many to be kept in place.
    fn list(&self) -> Option<usize> {
        let [high, low, _] = self.holders;
        (usize::from(self.holder_count) > HOLDERS_INLINE).then_some(usize::from(high) << 16 | usize::from(low))
    }
}

/// What registers say of objects, a few words for millions.
#[derive(Debug)]
struct Kind {
    kind: ObjectType,
    schema: u32,
    level: Level,
}

impl Called for Kind {
    type Name<'a> = (&'a str, u32, u8);

    fn called(&self) -> (&str, u32, u8) {
        (self.kind.as_str(), self.schema, self.level.0)
    }

    fn is_called(&self, name: (&str, u32, u8)) -> bool {
        self.called() == name
    }
}

impl Called for ServerName {
    type Name<'a> = &'a str;

    fn called(&self) -> &str {
        self.as_str()
    }

    fn is_called(&self, name: &str) -> bool {
        self.as_str() == name
    }
}

/// What a register says, in numbers.
struct Numbers {
    owner: u16,
    to: u16,
    state: Mark,
    holders: [u16; HOLDERS_MAX],
    holder_count: usize,
    kind: u32,
}

impl Numbers {
    fn holders(&self) -> &[u16] {
        &self.holders[..self.holder_count]
    }
}

/// A register as it lies in the table: nothing is copied to read it.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'t> {
    table: &'t Registers,
    row: &'t Row,
}

impl<'t> Stored<'t> {
    /// The address as spelled.
    pub(crate) fn spelling(self) -> &'t [u8] {
        self.table.texts.spelling(self.row.text)
    }

    pub(crate) fn epoch(self) -> u64 {
        u64::from_ne_bytes(self.row.epoch)
    }

    pub(crate) fn tx(self) -> &'t [u8; 16] {
        &self.row.tx
    }

    pub(crate) fn owner(self) -> &'t ServerName {
        self.table.server(self.row.owner)
    }

    /// Numbers of the servers that hold it; see [`Registers::server`].
    pub(crate) fn holders(self) -> &'t [u16] {
        self.table.holders(self.row)
    }

    /// The number of the destination, while it moves.
    pub(crate) fn to(self) -> Option<u16> {
        (self.row.state == Mark::Moving).then_some(self.row.to)
    }

    /// Type, schema and level.
    pub(crate) fn kind(self) -> (&'t str, u32, u8) {
        self.table.kinds.get(self.row.kind).called()
    }
}

/// All registers of the pool.
pub(crate) struct Registers {
    domain: Domain,
    rows: Vec<Vec<Row>>,
    texts: Texts,
    /// Lists of holders that are too long for a row; an empty one is free.
    lists: Vec<Box<[u16]>>,
    free_lists: Vec<usize>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    /// Live rows by key.
    forward: Ordered,
    /// Live rows by key, last octet first.
    backward: Ordered,
    servers: Interned<ServerName>,
    kinds: Interned<Kind>,
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
    /// An empty table that is being filled with at most so many registers; end with [`Registers::finish_loading`].
    pub(crate) fn loading(domain: Domain, most: u64) -> Registers {
        Registers {
            domain,
            rows: Vec::new(),
            texts: Texts::default(),
            lists: Vec::new(),
            free_lists: Vec::new(),
            // Growing would move everything again and again.
            by_key: HashTable::with_capacity(usize::try_from(most).unwrap_or(0)),
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

    /// Makes the two orders, side by side.
    pub(crate) fn finish_loading(&mut self) {
        self.loading = false;
        // A log may hold as many entries that do not count as those that do.
        if self.len() < self.by_key.capacity() / 2 {
            let (rows, texts, hasher) = (&self.rows, &self.texts, &self.hasher);
            let rehash = |id: &u32| hasher.hash_one(texts.key(row_of(rows, *id).text));
            self.by_key.shrink_to_fit(rehash);
        }
        let this = &*self;
        let live = || (0..this.row_count()).filter(|id| this.row(*id).is_live());
        let (forward, backward) = std::thread::scope(|scope| {
            let backward = scope.spawn(|| by_words(live(), &|id, octet| backward_word(this.key_octets(id), octet)));
            let forward = by_words(live(), &|id, octet| forward_word(this.key_octets(id), octet));
            (forward, backward.join().expect("sorting does not panic"))
        });
        self.forward = Ordered::from_sorted(&forward);
        self.backward = Ordered::from_sorted(&backward);
    }

    /// Registers, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        match self.rows.split_last() {
            Some((last, full)) => full.len() * PIECE + last.len(),
            None => 0,
        }
    }

    fn row_count(&self) -> u32 {
        u32::try_from(self.len()).expect("rows are numbered by u32")
    }

    /// Registers that are not deleted.
    pub(crate) fn live(&self) -> usize {
        self.forward.len()
    }

    /// The row of a key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.find_octets(key.as_bytes())
    }

    /// The row of a key that is in octets.
    pub(crate) fn find_octets(&self, key: &[u8]) -> Option<u32> {
        self.find_hashed(key, self.hasher.hash_one(key))
    }

    fn find_hashed(&self, key: &[u8], hash: u64) -> Option<u32> {
        let is_it = |id: &u32| self.key_octets(*id) == key;
        self.by_key.find(hash, is_it).copied()
    }

    /// Touches what is read to find some keys, as far as it is there, and gives their hashes: of [`TOGETHER`] at a time.
    ///
    /// The table is far larger than what a processor keeps near. One key after the other, each of four places would be waited
    /// for alone; place by place for all keys, they are waited for together.
    pub(crate) fn approach<'k>(&self, keys: impl Iterator<Item = &'k str>) -> Vec<u64> {
        let touch = |hash: &u64| {
            std::hint::black_box(self.by_key.find(*hash, |id| std::hint::black_box(*id) == u32::MAX));
        };
        let hashes = keys.map(|key| self.hasher.hash_one(key.as_bytes()));
        let hashes: Vec<u64> = hashes.inspect(touch).collect();
        // What hashes alike is nearly always the key itself.
        let rows = hashes.iter().filter_map(|hash| self.by_key.find(*hash, |_| true));
        let texts: Vec<u32> = rows.map(|id| self.row(*id).text).collect();
        for text in texts {
            std::hint::black_box(self.texts.key(text).first());
        }
        hashes
    }

    /// Whether a register of the log is the one that is kept. `hash` is its address's, as [`Registers::approach`] gave it.
    pub(crate) fn has(&self, fields: &RegisterFields<'_>, hash: u64) -> bool {
        let found = if is_its_own_key(fields.address) {
            self.find_hashed(fields.address.as_bytes(), hash)
        } else {
            let address = fields.address.parse().ok();
            let key = address.and_then(|address| key_of(&self.domain, &address));
            key.and_then(|key| self.find(&key))
        };
        found.is_some_and(|id| self.is_as(id, fields))
    }

    fn is_as(&self, id: u32, fields: &RegisterFields<'_>) -> bool {
        let (row, stored) = (self.row(id), self.stored(id));
        let is_server = |number: u16, name: &str| self.server(number).as_str() == name;
        let state = match (row.state, fields.state) {
            (Mark::Stable, StateField::Stable) | (Mark::Deleted, StateField::Deleted) => true,
            (Mark::Moving, StateField::Moving(to)) => is_server(row.to, to),
            (Mark::Stable | Mark::Moving | Mark::Deleted, _) => false,
        };
        let holders = stored.holders();
        // What differs first comes first.
        row.tx == fields.tx
            && stored.epoch() == fields.epoch
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
        Stored {
            table: self,
            row: self.row(id),
        }
    }

    /// The register in a row.
    pub(crate) fn register(&self, id: u32) -> Register {
        let row = self.row(id);
        let kind = self.kinds.get(row.kind);
        Register {
            address: self.address(id),
            epoch: Epoch(self.stored(id).epoch()),
            owner: self.server(row.owner).clone(),
            state: match row.state {
                Mark::Stable => State::Stable,
                Mark::Moving => State::Moving {
                    to: self.server(row.to).clone(),
                },
                Mark::Deleted => State::Deleted,
            },
            tx: Tx(row.tx),
            holders: self
                .holders(row)
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
        let spelling = std::str::from_utf8(self.stored(id).spelling());
        let address = spelling.ok().and_then(|spelling| spelling.parse().ok());
        address.expect("a row was made from an address")
    }

    /// The server of a number.
    pub(crate) fn server(&self, number: u16) -> &ServerName {
        self.servers.get(number.into())
    }

    /// How many servers have numbers; none is taken away again.
    pub(crate) fn server_count(&self) -> usize {
        self.servers.list().len()
    }

    /// The level of every object that is there.
    pub(crate) fn levels(&self) -> impl Iterator<Item = Level> + '_ {
        self.from("").map(|id| self.kinds.get(self.row(id).kind).level)
    }

    /// How many objects are on their way to another server.
    pub(crate) fn moving(&self) -> u64 {
        self.from("").filter(|id| self.row(*id).state == Mark::Moving).count() as u64
    }

    /// Whether a server owns the object in a row, and it is not moving.
    pub(crate) fn rests_on(&self, id: u32, server: &ServerName) -> bool {
        let row = self.row(id);
        row.state == Mark::Stable && self.server(row.owner) == server
    }

    /// Whether the object in a row is there: not deleted.
    pub(crate) fn is_live(&self, id: u32) -> bool {
        self.row(id).is_live()
    }

    /// The key of a row.
    pub(crate) fn key(&self, id: u32) -> &str {
        std::str::from_utf8(self.key_octets(id)).expect("a key is made of labels' letters and digits")
    }

    fn key_octets(&self, id: u32) -> &[u8] {
        self.texts.key(self.row(id).text)
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
            .from(move |id| self.key_octets(id) < from.as_bytes())
            .take_while(move |id| self.key_octets(*id).starts_with(start.as_bytes()))
    }

    /// Live rows from the first on whose key is not before `key`.
    pub(crate) fn from(&self, key: &str) -> impl Iterator<Item = u32> + '_ {
        let key = key.to_owned();
        self.forward.from(move |id| self.key_octets(id) < key.as_bytes())
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
            .from(move |id| backward(self.key_octets(id), from.as_bytes()) == Ordering::Less)
            .take_while(move |id| self.key_octets(*id).ends_with(end.as_bytes()))
    }

    /// Whether the key of a live row is `key` followed by more labels.
    pub(crate) fn any_below(&self, key: &[u8]) -> bool {
        debug_assert!(!key.is_empty(), "everything lies below the apex");
        let is_before = |id| {
            let found = self.key_octets(id);
            // '.' ends the key: what goes on otherwise sorts before or after all that lies below.
            match found.strip_prefix(key) {
                Some([]) => true,
                Some([next, ..]) => *next < b'.',
                None => found < key,
            }
        };
        let first = self.forward.from(is_before).next();
        first.is_some_and(|id| {
            self.key_octets(id)
                .strip_prefix(key)
                .is_some_and(|rest| rest[0] == b'.')
        })
    }

    /// Whether the key of a live row is more labels followed by `key`.
    pub(crate) fn any_ending(&self, key: &[u8]) -> bool {
        debug_assert!(!key.is_empty(), "everything lies below the apex");
        let is_before = |id| {
            let found = self.key_octets(id);
            match found.strip_suffix(key) {
                Some([]) => true,
                Some([.., next]) => *next < b'.',
                None => backward(found, key) == Ordering::Less,
            }
        };
        let first = self.backward.from(is_before).next();
        first.is_some_and(|id| {
            let rest = self.key_octets(id).strip_suffix(key);
            rest.is_some_and(|rest| rest.last() == Some(&b'.'))
        })
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
        let such: Vec<bool> = self.servers.list().iter().map(is_such).collect();
        let mut counts = BTreeMap::new();
        for row in self.live_in(rows) {
            if self.holders(row).iter().all(|holder| such[usize::from(*holder)]) {
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
        let such: Vec<bool> = self.servers.list().iter().map(is_such).collect();
        let with = |holder: &u16| self.server(*holder) == server;
        let lost = self.live_in(rows).filter(|row| {
            let holders = self.holders(row);
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
        let key = key_of(&self.domain, &register.address).expect("the address was checked when it was registered");
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
        let numbers = Numbers {
            owner,
            to,
            state,
            holders,
            holder_count: register.holders.len(),
            kind: self.kinds.find(kind.called()).unwrap_or_else(|| self.kinds.add(kind)),
        };
        let hash = self.hasher.hash_one(key.as_bytes());
        self.set(
            (register.address.as_str(), &key, hash),
            register.epoch.0,
            register.tx.0,
            &numbers,
        );
    }

    /// Takes in a register as the log holds it. The same as to read it and to [`Registers::put`] it, for millions: nothing is
    /// allocated but what stays.
    /// `hash` is what [`Registers::approach`] gave.
    pub(crate) fn load(&mut self, fields: &RegisterFields<'_>, hash: u64) -> Result<(), Damaged> {
        let spelling = fields.address;
        let zone_octets = self.domain.zone(Zone::Obj).len();
        let fits = spelling.len() + 1 + zone_octets <= NAME_OCTETS_MAX;
        if !(fits && is_its_own_key(spelling)) {
            // Parts in capitals or too long for DNS.
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
        let numbers = Numbers {
            owner,
            to,
            state,
            holders,
            holder_count: fields.holders().len(),
            kind,
        };
        // As `Register::check`; its bounds on lengths follow from those of names and addresses.
        let named = numbers.holders();
        let twice = (1..named.len()).any(|place| named[..place].contains(&named[place]));
        let fit = match state {
            Mark::Stable => named.contains(&owner),
            Mark::Moving => named.contains(&owner) && !named.contains(&to),
            Mark::Deleted => named.is_empty(),
        };
        if twice || !fit || fields.epoch < Epoch::FIRST.0 || fields.level < 1 {
            return Err(Damaged("a register contradicts itself"));
        }
        self.set((spelling, spelling, hash), fields.epoch, fields.tx, &numbers);
        Ok(())
    }

    /// Sets what is registered at an address, given with its key and that one's hash.
    fn set(&mut self, (spelling, key, hash): (&str, &str, u64), epoch: u64, tx: [u8; 16], numbers: &Numbers) {
        let found = self.find_hashed(key.as_bytes(), hash);
        let text = match found.map(|id| self.row(id).text) {
            Some(text) if self.texts.spelling(text) == spelling.as_bytes() => text,
            // New; or in another spelling, as only the log of a registry that was put back may tell.
            Some(_) | None => self.texts.push(spelling.as_bytes(), key.as_bytes()),
        };
        let free = found.and_then(|id| self.row(id).list());
        let row = Row {
            tx,
            epoch: epoch.to_ne_bytes(),
            text,
            kind: numbers.kind,
            holders: [0; HOLDERS_INLINE],
            owner: numbers.owner,
            to: numbers.to,
            holder_count: u8::try_from(numbers.holder_count).expect("a register names at most 14 holders"),
            state: numbers.state,
        };
        match found {
            Some(id) => self.replace(id, row, numbers.holders()),
            None => self.add(hash, row, numbers.holders()),
        }
        if let Some(list) = free {
            self.lists[list] = Box::default();
            self.free_lists.push(list);
        }
    }

    /// Writes a row's holders into it, or down in a list that it names.
    fn note_holders(&mut self, row: &mut Row, holders: &[u16]) {
        if holders.len() <= HOLDERS_INLINE {
            row.holders[..holders.len()].copy_from_slice(holders);
            return;
        }
        let list = self.free_lists.pop().unwrap_or_else(|| {
            self.lists.push(Box::default());
            self.lists.len() - 1
        });
        self.lists[list] = holders.into();
        let number = u32::try_from(list).expect("fewer lists than rows");
        row.holders = [(number >> 16) as u16, number as u16, 0];
    }

    fn replace(&mut self, id: u32, mut row: Row, holders: &[u16]) {
        let was_live = self.row(id).is_live();
        self.count_row(id, false);
        self.note_holders(&mut row, holders);
        self.rows[id as usize / PIECE][id as usize % PIECE] = row;
        self.count_row(id, true);
        if self.loading || was_live == self.row(id).is_live() {
            return;
        }
        if was_live {
            let mut forward = std::mem::take(&mut self.forward);
            let mut reverse = std::mem::take(&mut self.backward);
            forward.remove(|other| self.key_octets(other).cmp(self.key_octets(id)));
            reverse.remove(|other| backward(self.key_octets(other), self.key_octets(id)));
            (self.forward, self.backward) = (forward, reverse);
        } else {
            self.order(id);
        }
    }

    fn add(&mut self, hash: u64, mut row: Row, holders: &[u16]) {
        let id = self.row_count();
        self.note_holders(&mut row, holders);
        match self.rows.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(row),
            Some(_) | None => {
                // The first piece grows as it fills, so that an empty pool is small.
                let mut piece = Vec::with_capacity(if self.rows.is_empty() { 0 } else { PIECE });
                piece.push(row);
                self.rows.push(piece);
            }
        }
        let (rows, texts, hasher) = (&self.rows, &self.texts, &self.hasher);
        let rehash = |id: &u32| hasher.hash_one(texts.key(row_of(rows, *id).text));
        self.by_key.insert_unique(hash, id, rehash);
        self.count_row(id, true);
        if !self.loading && self.row(id).is_live() {
            self.order(id);
        }
    }

    fn order(&mut self, id: u32) {
        let mut forward = std::mem::take(&mut self.forward);
        let mut reverse = std::mem::take(&mut self.backward);
        forward.insert(id, |other| self.key_octets(other).cmp(self.key_octets(id)));
        reverse.insert(id, |other| backward(self.key_octets(other), self.key_octets(id)));
        (self.forward, self.backward) = (forward, reverse);
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
    fn count_row(&mut self, id: u32, add: bool) {
        let servers = self.server_count();
        if self.naming.len() < servers {
            for counts in [&mut self.naming, &mut self.owned, &mut self.held] {
                counts.resize(servers, 0);
            }
        }
        let row = row_of(&self.rows, id);
        if !row.is_live() {
            return;
        }
        let step = |count: &mut u64| *count = if add { *count + 1 } else { *count - 1 };
        step(&mut self.owned[usize::from(row.owner)]);
        // The owner is among the holders; the destination never is.
        for server in holders_of(&self.lists, row) {
            step(&mut self.naming[usize::from(*server)]);
            if *server != row.owner {
                step(&mut self.held[usize::from(*server)]);
            }
        }
        if row.state == Mark::Moving {
            step(&mut self.naming[usize::from(row.to)]);
        }
    }

    fn holders<'t>(&'t self, row: &'t Row) -> &'t [u16] {
        holders_of(&self.lists, row)
    }

    fn row(&self, id: u32) -> &Row {
        row_of(&self.rows, id)
    }
}

fn row_of(rows: &[Vec<Row>], id: u32) -> &Row {
    &rows[id as usize / PIECE][id as usize % PIECE]
}

fn holders_of<'t>(lists: &'t [Box<[u16]>], row: &'t Row) -> &'t [u16] {
    match row.list() {
        Some(list) => &lists[list],
        None => &row.holders[..usize::from(row.holder_count)],
    }
}

fn number_of_server(number: u32) -> u16 {
    u16::try_from(number).expect("a pool has fewer than 65536 servers")
}

/// Compares two keys from their last octet on.
fn backward(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().rev().cmp(b.iter().rev())
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
        let mut table = Registers::loading(domain(), 0);
        table.finish_loading();
        for address in addresses {
            table.put(&register(address, State::Stable, &["s2"]));
        }
        table
    }

    fn keys(table: &Registers, rows: impl Iterator<Item = u32>) -> Vec<&str> {
        rows.map(|id| table.key(id)).collect()
    }

    #[test]
    fn only_the_register_that_is_kept_counts() {
        let moving = |to: &str| State::Moving {
            to: to.parse().unwrap(),
        };
        let long = format!("7.{}.Q", "Long-".repeat(20));
        let kept = [
            register("1.A-b", State::Stable, &["s2", "s1"]),
            register(&long, moving("s4"), &["s2", "s1", "s3", "s5"]),
            register("1.3", State::Deleted, &[]),
        ];
        let mut table = table(&[]);
        kept.iter().for_each(|register| table.put(register));
        let counts = |register: &Register| {
            let octets = super::super::Entry::Register(register.clone()).to_bytes();
            let fields = RegisterFields::of_entry(&octets).unwrap().unwrap();
            table.has(&fields, table.approach(std::iter::once(fields.address))[0])
        };
        let differing: [fn(&mut Register); 9] = [
            |register| register.address = register.address.as_str().replace(['1', '7'], "2").parse().unwrap(),
            |register| register.address = format!("{}.9", register.address).parse().unwrap(),
            |register| register.epoch = Epoch(4),
            |register| register.owner = "s1".parse().unwrap(),
            |register| {
                register.state = State::Moving {
                    to: "s9".parse().unwrap(),
                }
            },
            |register| register.tx = Tx([8; 16]),
            |register| register.holders.push("s7".parse().unwrap()),
            |register| register.kind = "text".parse().unwrap(),
            |register| (register.schema, register.level) = (5, Level(2)),
        ];
        for register in &kept {
            assert!(counts(register), "{register:?}");
            for (place, change) in differing.iter().enumerate() {
                let mut other = register.clone();
                change(&mut other);
                assert!(!counts(&other), "{place}: {other:?}");
            }
        }
        let other_spelling = Register {
            address: "1.a-B".parse().unwrap(),
            ..kept[0].clone()
        };
        assert!(!counts(&other_spelling));
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
            table.put(&register);
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
        table.put(&register("1.2", State::Deleted, &[]));
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
        table.put(&register(
            "1",
            State::Moving {
                to: "s4".parse().unwrap(),
            },
            &["s2", "s3"],
        ));
        assert_eq!(
            ["s2", "s3", "s4", "s5"].map(|name| count(&table, name)),
            [(2, 2, 0), (0, 1, 1), (0, 1, 0), (0, 0, 0)]
        );
        table.put(&register("1", State::Deleted, &[]));
        assert_eq!(
            ["s2", "s3", "s4"].map(|name| count(&table, name)),
            [(1, 1, 0), (0, 0, 0), (0, 0, 0)]
        );
    }

    #[test]
    fn object_is_lost_with_a_server_that_alone_has_it_beside_lost_ones() {
        let mut table = table(&[]);
        for (address, holders) in [("1", &["s2"][..]), ("2", &["s2", "s3"]), ("3", &["s4", "s2"])] {
            table.put(&register(address, State::Stable, holders));
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
            table.put(&register(address, State::Stable, holders));
        }
        table.put(&register("5", State::Stable, &["s2"]));
        table.put(&register("5", State::Deleted, &[]));
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
        let mut loaded = Registers::loading(domain(), 0);
        for address in addresses {
            loaded.put(&register(address, State::Stable, &["s2"]));
        }
        loaded.finish_loading();
        assert_eq!(keys(&loaded, loaded.below("")), keys(&running, running.below("")));
        assert_eq!(keys(&loaded, loaded.ending("")), keys(&running, running.ending("")));
    }
}
