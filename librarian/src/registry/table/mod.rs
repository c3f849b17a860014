//! Registers as they lie in memory, read without a lock while one thread writes.
//!
//! | file | what |
//! |---|---|
//! | `rows` | what registers say, 44 octets each |
//! | `texts` | their addresses |
//! | `keys` | which row a key has |
//! | `order` | rows of objects that are there, sorted: what lies below a name |
//! | `interned` | what millions of rows name: servers, types |
//!
//! A [`Table`] is what lies where, at one moment. Rows change in place, and rows, texts and keys are added, without its knowing; where
//! room for them is made there is a new table, and what came there is not found in the old one: it came after that was taken. What
//! cannot be read beside the writing is `None`, and has to be read under the lock (`super::Registry::view`). One row is read whole; what
//! is told from several holds if no object came or went meanwhile (`super::glance`).

mod interned;
mod keys;
mod order;
mod rows;
mod texts;
mod version;
mod zeroed;

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use zones::{Address, Level, ObjectType, ServerName};

use super::registers::TOGETHER;

pub(crate) use interned::{Called, Interned};
pub(crate) use keys::KeyWriter;
use keys::Keys;
use order::Order;
pub(crate) use order::OrderWriter;
pub(crate) use rows::{LIST_WORDS, Mark, Row, RowWriter, Rows, WORDS};
pub(crate) use texts::{TextWriter, Texts};
pub(crate) use version::Version;

/// Hash of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct KeyHash(pub(crate) u64);

/// What registers say of objects, a few words for millions.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) kind: ObjectType,
    pub(crate) schema: u32,
    pub(crate) level: Level,
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

/// Where everything lies.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) hasher: RandomState,
    pub(crate) rows: Rows,
    pub(crate) texts: Texts,
    pub(crate) keys: Keys,
    /// Live rows by key.
    pub(crate) forward: Order,
    /// Live rows by key, last octet first.
    pub(crate) backward: Order,
    pub(crate) servers: Arc<Vec<Arc<ServerName>>>,
    pub(crate) kinds: Arc<Vec<Arc<Kind>>>,
}

impl Table {
    /// The row of a key that is in octets; `None` if it came too late for this table.
    pub(crate) fn find(&self, key: &[u8]) -> Option<u32> {
        self.find_hashed(key, self.hash(key))
    }

    /// The same by the key's hash, too.
    pub(crate) fn find_hashed(&self, key: &[u8], KeyHash(hash): KeyHash) -> Option<u32> {
        self.keys.find(hash, |id| self.key(id) == Some(key))
    }

    /// The hash of a key, as [`Table::approach`] gives it.
    pub(crate) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash_one(key))
    }

    /// Goes near to what is read to find some keys, as far as it is there, and gives their hashes: of [`TOGETHER`] at a time.
    ///
    /// The table is far larger than what a processor keeps near. One key after the other, each of several places would be waited for
    /// alone; place by place for all keys, they are waited for together.
    pub(crate) fn approach<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, hashes: &mut Vec<KeyHash>) {
        hashes.clear();
        hashes.extend(keys.map(|key| self.hash(key)));
        debug_assert!(hashes.len() <= TOGETHER, "of more, the last would not be near");
        for KeyHash(hash) in &*hashes {
            self.keys.approach(*hash);
        }
        // What hashes alike is nearly always the key itself.
        let mut texts = [None; TOGETHER];
        for (KeyHash(hash), text) in hashes.iter().zip(&mut texts) {
            *text = self.keys.find(*hash, |_| true).and_then(|id| self.rows.text(id));
        }
        for text in texts.into_iter().flatten() {
            std::hint::black_box(self.texts.key(text).and_then(<[u8]>::first));
        }
    }

    /// The register in a row; `None` if it came, or names what came, too late for this table, or is being written.
    pub(crate) fn stored(&self, id: u32) -> Option<Stored<'_>> {
        let row = self.rows.read(id)?;
        self.knows(&row).then_some(Stored { table: self, row })
    }

    /// Whether all is there that a row names.
    pub(super) fn knows(&self, row: &Row) -> bool {
        let is_known = |number: &u16| usize::from(*number) < self.servers.len();
        let servers = row.holders().iter().chain([&row.owner, &row.to]).all(is_known);
        servers && (row.kind as usize) < self.kinds.len() && self.texts.key(row.text).is_some()
    }

    /// Whether the key of a live row is `key` followed by more labels; `None` if a row came too late for this table. Beside the writing
    /// it counts only if no object came or went meanwhile.
    pub(crate) fn any_below(&self, key: &[u8]) -> Option<bool> {
        debug_assert!(!key.is_empty(), "everything lies below the apex");
        let is_before = |found: &[u8]| {
            // '.' ends the key: what goes on otherwise sorts before or after all that lies below.
            match found.strip_prefix(key) {
                Some([]) => true,
                Some([next, ..]) => *next < b'.',
                None => found < key,
            }
        };
        let lies_there = |found: &[u8]| found.strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b'.'));
        self.any(&self.forward, is_before, lies_there)
    }

    /// Whether the key of a live row is more labels followed by `key`; as [`Table::any_below`].
    pub(crate) fn any_ending(&self, key: &[u8]) -> Option<bool> {
        debug_assert!(!key.is_empty(), "everything lies below the apex");
        let is_before = |found: &[u8]| match found.strip_suffix(key) {
            Some([]) => true,
            Some([.., next]) => *next < b'.',
            None => backward(found, key) == Ordering::Less,
        };
        let lies_there = |found: &[u8]| found.strip_suffix(key).is_some_and(|rest| rest.last() == Some(&b'.'));
        self.any(&self.backward, is_before, lies_there)
    }

    /// Whether `is_it` holds for the first key of an order that `is_before` does not hold for.
    fn any(&self, order: &Order, is_before: impl Fn(&[u8]) -> bool, is_it: impl Fn(&[u8]) -> bool) -> Option<bool> {
        // A row that came too late for this table is before nothing, so that a search ends at it or at what it would end at
        // anyway: it is where some row is not before, and the one in front of it is.
        let first = order.from(|id| self.key(id).is_some_and(&is_before)).next();
        first.map_or(Some(false), |id| self.key(id).map(&is_it))
    }

    /// The address in a row, as spelled.
    pub(crate) fn address(&self, id: u32) -> Option<Address> {
        let spelling = self.texts.spelling(self.rows.text(id)?)?;
        let spelling = std::str::from_utf8(spelling).ok();
        let address = spelling.and_then(|spelling| spelling.parse().ok());
        Some(address.expect("a row was made from an address"))
    }

    /// How many servers have numbers; none is taken away again.
    pub(crate) fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// Whether it says that everything lies where it does.
    pub(super) fn is(
        &self,
        rows: &Rows,
        texts: &Texts,
        keys: &Keys,
        [forward, backward]: [&Order; 2],
        servers: &Arc<Vec<Arc<ServerName>>>,
        kinds: &Arc<Vec<Arc<Kind>>>,
    ) -> bool {
        self.rows.is(rows)
            && self.texts.is(texts)
            && self.keys.is(keys)
            && self.forward.is(forward)
            && self.backward.is(backward)
            && Arc::ptr_eq(&self.servers, servers)
            && Arc::ptr_eq(&self.kinds, kinds)
    }

    /// The key of a row.
    pub(super) fn key(&self, id: u32) -> Option<&[u8]> {
        self.texts.key(self.rows.text(id)?)
    }
}

/// Compares two keys from their last octet on.
pub(crate) fn backward(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().rev().cmp(b.iter().rev())
}

/// A register as it is in a table: only what a row says is copied to read it.
pub(crate) struct Stored<'t> {
    table: &'t Table,
    row: Row,
}

impl<'t> Stored<'t> {
    /// The address as spelled.
    pub(crate) fn spelling(&self) -> &'t [u8] {
        let spelling = self.table.texts.spelling(self.row.text);
        spelling.expect("`Table::stored` looked")
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.row.epoch
    }

    pub(crate) fn tx(&self) -> &[u8; 16] {
        &self.row.tx
    }

    pub(crate) fn owner(&self) -> &'t ServerName {
        self.server(self.row.owner)
    }

    /// Numbers of the servers that hold it; see [`Stored::server`].
    pub(crate) fn holders(&self) -> &[u16] {
        self.row.holders()
    }

    /// The number of the destination, while it moves.
    pub(crate) fn to(&self) -> Option<u16> {
        (self.row.state == Mark::Moving).then_some(self.row.to)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.row.is_live()
    }

    /// Type, schema and level.
    pub(crate) fn kind(&self) -> (&'t str, u32, u8) {
        self.table.kinds[self.row.kind as usize].called()
    }

    /// The server of a number that the register names.
    pub(crate) fn server(&self, number: u16) -> &'t ServerName {
        &self.table.servers[usize::from(number)]
    }

    pub(crate) fn row(&self) -> &Row {
        &self.row
    }
}
