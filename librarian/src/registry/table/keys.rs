//! Which row a key has: a hash table that one thread adds to while others look up.
//!
//! Nothing is ever taken out, so that a slot that was filled stays as it is. Keys are spread over many small segments; one that
//! has no room left is made anew, larger, and the old one lives as long as somebody looks into it: so no addition takes long, and
//! nothing is copied but a few keys at a time.
//!
//! ```text
//!  hash: 6 bits branch | 6 bits segment | ... | 7 bits tag | 32 bits group
//!  group (64 octets, what a processor fetches at once): 12 tags | passed | 12 rows
//! ```

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::zeroed::zeroed;

/// Branches, and segments of each.
const FAN: usize = 64;
const FAN_BITS: u32 = 6;
/// Words of tags in a group.
const TAG_WORDS: usize = 3;
/// Slots of a group.
const SLOTS: usize = 4 * TAG_WORDS;
/// Keys of a segment for each of its groups, at most: five of six slots.
const FILL: usize = 10;

/// Slots that are fetched together. A tag of zero is a slot that is free.
#[repr(align(64))]
struct Group {
    tags: [AtomicU32; TAG_WORDS],
    /// Not zero if some key that belongs here found no room and lies in a group behind.
    passed: AtomicU32,
    rows: [AtomicU32; SLOTS],
}

const _: () = assert!(size_of::<Group>() == 64, "one fetch finds a key");

type Segment = Arc<[Group]>;
type Branch = Arc<[Segment; FAN]>;

/// The table as it is looked into.
#[derive(Clone)]
pub(crate) struct Keys {
    branches: Arc<[Branch; FAN]>,
}

/// The table as it is added to: by one thread.
pub(crate) struct KeyWriter {
    keys: Keys,
    /// Keys in each segment.
    counts: Box<[u32]>,
}

/// Where in the table a hash belongs.
#[derive(Clone, Copy)]
struct Place {
    branch: usize,
    segment: usize,
    /// Never zero.
    tag: u8,
    /// Which part of the segment, of 2^32.
    part: u32,
}

impl Place {
    fn of(hash: u64) -> Place {
        Place {
            branch: (hash >> (u64::BITS - FAN_BITS)) as usize,
            segment: (hash >> (u64::BITS - 2 * FAN_BITS)) as usize % FAN,
            tag: (hash >> 32) as u8 | 0x80,
            part: hash as u32,
        }
    }

    /// The groups in which a key is looked for, in that order.
    fn groups(self, count: usize) -> impl Iterator<Item = usize> {
        let first = ((u64::from(self.part) * count as u64) >> 32) as usize;
        (first..count).chain(0..first)
    }

    fn number(self) -> usize {
        self.branch * FAN + self.segment
    }
}

impl Keys {
    /// The row of a hash that `is_it` holds for.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let place = Place::of(hash);
        let segment = &self.branches[place.branch][place.segment];
        for number in place.groups(segment.len()) {
            let group = &segment[number];
            for (word, tags) in group.tags.iter().enumerate() {
                let mut alike = octets_that_are(tags.load(Ordering::Acquire), place.tag);
                while alike != 0 {
                    let slot = 4 * word + alike.trailing_zeros() as usize / 8;
                    let row = group.rows[slot].load(Ordering::Relaxed);
                    if is_it(row) {
                        return Some(row);
                    }
                    alike &= alike - 1;
                }
            }
            if group.passed.load(Ordering::Acquire) == 0 {
                return None;
            }
        }
        None
    }

    /// Fetches what is looked into first to find a hash.
    pub(crate) fn approach(&self, hash: u64) {
        let place = Place::of(hash);
        let segment = &self.branches[place.branch][place.segment];
        if let Some(first) = place.groups(segment.len()).next() {
            std::hint::black_box(segment[first].passed.load(Ordering::Relaxed));
        }
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Keys) -> bool {
        Arc::ptr_eq(&self.branches, &other.branches)
    }
}

impl KeyWriter {
    /// A table that so many keys fit into before it grows.
    pub(crate) fn with_room(keys: usize) -> KeyWriter {
        // Segments get unlike numbers of keys: by chance, the square root of what is in the middle, and seldom thrice that.
        let middle = keys.div_ceil(FAN * FAN);
        let groups = match keys {
            0 => 0,
            _ => (middle + 3 * middle.isqrt()).div_ceil(FILL),
        };
        let branch = || Arc::new(std::array::from_fn(|_| empty(groups)));
        let branches = if groups == 0 {
            // An empty table is small.
            let branch = branch();
            std::array::from_fn(|_| Arc::clone(&branch))
        } else {
            std::array::from_fn(|_| branch())
        };
        KeyWriter {
            keys: Keys {
                branches: Arc::new(branches),
            },
            counts: vec![0; FAN * FAN].into(),
        }
    }

    /// As it is looked into.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Adds a row whose key is not there; `hash_of` gives the hash of a row that is.
    pub(crate) fn add(&mut self, hash: u64, row: u32, hash_of: impl Fn(u32) -> u64) {
        let place = Place::of(hash);
        let count = &mut self.counts[place.number()];
        let groups = self.keys.branches[place.branch][place.segment].len();
        if *count as usize >= groups * FILL {
            let branches = Arc::make_mut(&mut self.keys.branches);
            grow(&mut Arc::make_mut(&mut branches[place.branch])[place.segment], hash_of);
        }
        put(&self.keys.branches[place.branch][place.segment], place, row);
        *count += 1;
    }

    /// Adds all these rows to a table that has none, several threads side by side.
    pub(crate) fn add_all(&mut self, rows: u32, hash_of: impl Fn(u32) -> u64 + Sync) {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(FAN);
        let share = FAN.div_ceil(threads);
        let branches = Arc::make_mut(&mut self.keys.branches);
        let shares = branches.chunks_mut(share).zip(self.counts.chunks_mut(share * FAN));
        std::thread::scope(|scope| {
            for (number, (branches, counts)) in shares.enumerate() {
                let (first, hash_of) = (number * share, &hash_of);
                scope.spawn(move || {
                    for row in 0..rows {
                        let place = Place::of(hash_of(row));
                        let Some(at) = place.branch.checked_sub(first).filter(|at| *at < branches.len()) else {
                            continue;
                        };
                        let count = &mut counts[at * FAN + place.segment];
                        let segment = &mut Arc::make_mut(&mut branches[at])[place.segment];
                        if *count as usize >= segment.len() * FILL {
                            grow(segment, hash_of);
                        }
                        put(segment, place, row);
                        *count += 1;
                    }
                });
            }
        });
    }

    /// Gives back what much more room takes than is needed.
    pub(crate) fn shrink(&mut self, hash_of: impl Fn(u32) -> u64) {
        for (number, count) in self.counts.iter().enumerate() {
            let (branch, segment) = (number / FAN, number % FAN);
            let needed = (*count as usize).div_ceil(FILL);
            let groups = self.keys.branches[branch][segment].len();
            if groups > needed + needed / 2 + 1 {
                let branches = Arc::make_mut(&mut self.keys.branches);
                let segment = &mut Arc::make_mut(&mut branches[branch])[segment];
                resize(segment, needed + needed / 8, &hash_of);
            }
        }
    }
}

/// Makes room in a segment that is full.
fn grow(segment: &mut Segment, hash_of: impl Fn(u32) -> u64) {
    resize(segment, segment.len() + segment.len() / 4 + 1, hash_of);
}

/// Makes a segment anew, with so many groups.
fn resize(segment: &mut Segment, groups: usize, hash_of: impl Fn(u32) -> u64) {
    let new = empty(groups);
    for group in segment.iter() {
        for (slot, row) in group.rows.iter().enumerate() {
            if group.tags[slot / 4].load(Ordering::Relaxed).to_le_bytes()[slot % 4] != 0 {
                let row = row.load(Ordering::Relaxed);
                put(&new, Place::of(hash_of(row)), row);
            }
        }
    }
    *segment = new;
}

fn empty(groups: usize) -> Segment {
    // SAFETY: a group is atomic words, of which zero is a value.
    unsafe { zeroed(groups) }
}

/// Puts a row into a segment that has room. Only one thread does.
fn put(segment: &[Group], place: Place, row: u32) {
    for number in place.groups(segment.len()) {
        let group = &segment[number];
        for (word, tags) in group.tags.iter().enumerate() {
            let before = tags.load(Ordering::Relaxed).to_le_bytes();
            if let Some(free) = before.iter().position(|tag| *tag == 0) {
                group.rows[4 * word + free].store(row, Ordering::Relaxed);
                let mut after = before;
                after[free] = place.tag;
                // Whoever finds the tag finds the row, and what was written of it before.
                tags.store(u32::from_le_bytes(after), Ordering::Release);
                return;
            }
        }
        group.passed.store(1, Ordering::Release);
    }
    unreachable!("a segment that is full was made anew");
}

/// The highest bit of each octet of a word that is `octet`, which has its own highest bit set. (An octet that differs from it in
/// the lowest bit may count, too, above one that is it: who looks there finds another key.)
fn octets_that_are(word: u32, octet: u8) -> u32 {
    const LOW: u32 = 0x0101_0101;
    let differs = word ^ (LOW * u32::from(octet));
    differs.wrapping_sub(LOW) & !differs & (LOW << 7)
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Hashes that collide much: few segments, few parts, two tags.
        #[test]
        fn every_key_finds_its_row_and_no_other_however_hashes_collide(
            room in 0_usize..20_000,
            hashes in proptest::collection::vec((0_u64..3, 0_u64..2, 0_u64..4), 0..300),
            absent in (0_u64..3, 0_u64..2, 0_u64..4),
        ) {
            let hash = |(segment, tag, part): (u64, u64, u64)| segment << 52 | tag << 32 | part << 30;
            let hashes: Vec<u64> = hashes.into_iter().map(hash).collect();
            let hash_of = |row: u32| hashes[row as usize];
            let mut writer = KeyWriter::with_room(room);
            for (row, hash) in (0..).zip(&hashes) {
                writer.add(*hash, row, hash_of);
                let is_it = |found| found == row;
                prop_assert_eq!(writer.keys().find(*hash, is_it), Some(row));
            }
            for shrunk in [false, true] {
                if shrunk {
                    writer.shrink(hash_of);
                }
                for (row, hash) in (0..).zip(&hashes) {
                    prop_assert_eq!(writer.keys().find(*hash, |found| found == row), Some(row));
                }
                // All that hash alike are looked at, and none twice.
                let mut looked_at = Vec::new();
                prop_assert_eq!(writer.keys().find(hash(absent), |found| { looked_at.push(found); false }), None);
                let alike = |row: &u32| hash_of(*row) == hash(absent);
                looked_at.retain(alike);
                looked_at.sort_unstable();
                let expected: Vec<u32> = (0..hashes.len() as u32).filter(alike).collect();
                prop_assert_eq!(looked_at, expected);
            }
        }
    }

    #[test]
    fn a_million_keys_take_less_than_nine_octets_each_and_are_all_found() {
        let hasher = RandomState::new();
        let hash_of = |row: u32| hasher.hash_one(row);
        let mut grown = KeyWriter::with_room(0);
        let mut loaded = KeyWriter::with_room(2_000_000);
        let rows = 1_000_000;
        for row in 0..rows {
            grown.add(hash_of(row), row, hash_of);
            loaded.add(hash_of(row), row, hash_of);
        }
        loaded.shrink(hash_of);
        let mut together = KeyWriter::with_room(rows as usize);
        together.add_all(rows, hash_of);
        for writer in [grown, loaded, together] {
            let segments = writer.keys().branches.iter().flat_map(|branch| branch.iter());
            let octets = segments.map(|segment| size_of_val(&**segment)).sum::<usize>();
            assert!(octets < 9 * rows as usize, "{octets} octets");
            let found = |row: &u32| writer.keys().find(hash_of(*row), |found| found == *row) == Some(*row);
            assert!((0..rows).all(|row| found(&row)));
            assert!(!(rows..2 * rows).any(|row| found(&row)));
        }
    }

    #[test]
    fn whoever_looks_while_keys_are_added_finds_all_that_were_there_and_no_other() {
        let hasher = RandomState::new();
        let hash_of = |row: u32| hasher.hash_one(row);
        let mut writer = KeyWriter::with_room(0);
        // The table as it is looked into, and how many keys it has at least.
        let told = arc_swap::ArcSwap::from_pointee(writer.keys().clone());
        let added = AtomicU32::new(0);
        let rows = 200_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0.. {
                    let there = added.load(Ordering::Acquire);
                    let keys = told.load();
                    let row = hash_of(turn) as u32 % rows;
                    match keys.find(hash_of(row), |found| found == row) {
                        Some(found) => assert_eq!(found, row),
                        None => assert!(row >= there, "{row} of {there} is not found"),
                    }
                    if there == rows {
                        return;
                    }
                }
            });
            for row in 0..rows {
                writer.add(hash_of(row), row, hash_of);
                if !told.load().is(writer.keys()) {
                    told.store(Arc::new(writer.keys().clone()));
                }
                added.store(row + 1, Ordering::Release);
            }
        });
    }
}
