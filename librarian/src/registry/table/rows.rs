//! What registers say, in rows of 44 octets that one thread writes while others read.
//!
//! A row is read without a lock, and again if it was written meanwhile (see [`super::version`]). Rows share versions, so that these
//! cost no memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zones::register::HOLDERS_MAX;

use super::version::Version;
use super::zeroed::zeroed;

/// Rows in one piece: growing never copies rows.
const PIECE: usize = 16_384;
/// Words of a row: tx, epoch, text, kind, three holders and the owner, the destination with count of holders and state.
pub(crate) const WORDS: usize = 11;
const EPOCH: usize = 4;
const TEXT: usize = 6;
const KIND: usize = 7;
const HOLDERS: usize = 8;
const REST: usize = 10;
/// Holders that a row keeps in place; the lists of those with more lie elsewhere.
const HOLDERS_INLINE: usize = 3;
/// Lists in one piece.
const LISTS: usize = 1024;
/// Words of a list.
pub(crate) const LIST_WORDS: usize = HOLDERS_MAX / 2;
/// Rows that are this many apart share a version.
const VERSIONS: usize = 4096;
/// How often a row that is being written is read again before the reader is sent away: the writer may have lost its processor.
const READINGS_MAX: usize = 100;

const _: () = assert!(size_of::<Cell>() == 44, "ten million rows are what memory is spent on");

/// What a register says, in numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) tx: [u8; 16],
    pub(crate) epoch: u64,
    /// Where the address lies.
    pub(crate) text: u32,
    /// Which type, schema and level.
    pub(crate) kind: u32,
    /// Servers; only as many as `holder_count` says count.
    pub(crate) holders: [u16; HOLDERS_MAX],
    pub(crate) holder_count: u8,
    pub(crate) owner: u16,
    /// The destination, while moving.
    pub(crate) to: u16,
    pub(crate) state: Mark,
}

/// The state without its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mark {
    Stable,
    Moving,
    Deleted,
}

impl Row {
    pub(crate) fn is_live(&self) -> bool {
        self.state != Mark::Deleted
    }

    pub(crate) fn holders(&self) -> &[u16] {
        &self.holders[..usize::from(self.holder_count)]
    }

    /// The row in words, and its list if it has more holders than fit.
    pub(crate) fn to_words(&self) -> ([u32; WORDS], Option<[u32; LIST_WORDS]>) {
        let has_list = usize::from(self.holder_count) > HOLDERS_INLINE;
        (words(self, None), has_list.then(|| list_words(self)))
    }

    /// The row that words say, and a list if it needs one; `None` if it has more holders than a register names, or no state.
    pub(crate) fn from_words<E>(
        words: [u32; WORDS],
        list: impl FnOnce() -> Result<[u32; LIST_WORDS], E>,
    ) -> Result<Option<Row>, E> {
        let list = list_in(&words).map(|_| list()).transpose()?;
        let [_, _, holder_count, state] = words[REST].to_le_bytes();
        let is_one = usize::from(holder_count) <= HOLDERS_MAX && state <= Mark::Deleted.octet();
        Ok(is_one.then(|| row(&words, list)))
    }
}

impl Mark {
    fn of_octet(octet: u8) -> Mark {
        match octet {
            0 => Mark::Stable,
            1 => Mark::Moving,
            2 => Mark::Deleted,
            _ => unreachable!("only the octets of states are written, and read in one piece"),
        }
    }

    fn octet(self) -> u8 {
        match self {
            Mark::Stable => 0,
            Mark::Moving => 1,
            Mark::Deleted => 2,
        }
    }
}

/// One row as it lies in memory.
struct Cell([AtomicU32; WORDS]);

/// The holders of an object that has more than fit into its row.
struct List([AtomicU32; LIST_WORDS]);

/// Rows as they are read.
#[derive(Clone)]
pub(crate) struct Rows {
    pieces: Arc<Vec<Arc<[Cell]>>>,
    lists: Arc<Vec<Arc<[List]>>>,
    versions: Arc<[Version]>,
}

/// Rows as they are written: by one thread.
pub(crate) struct RowWriter {
    rows: Rows,
    len: u32,
    /// Lists that were ever given to a row.
    lists: u32,
    /// Those of them that no row has any more.
    free_lists: Vec<u32>,
}

impl RowWriter {
    pub(crate) fn new() -> RowWriter {
        let rows = Rows {
            pieces: Arc::default(),
            lists: Arc::default(),
            versions: (0..VERSIONS).map(|_| Version::default()).collect(),
        };
        RowWriter {
            rows,
            len: 0,
            lists: 0,
            free_lists: Vec::new(),
        }
    }

    /// As they are read.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Adds a row, and says which one it is.
    ///
    /// # Panics
    ///
    /// At 2^32 rows, which do not fit in memory.
    pub(crate) fn push(&mut self, row: &Row) -> u32 {
        let id = self.len;
        self.len = id.checked_add(1).expect("rows are numbered by u32");
        if id as usize / PIECE == self.rows.pieces.len() {
            // SAFETY: a cell is atomic words, of which zero is a value.
            Arc::make_mut(&mut self.rows.pieces).push(unsafe { zeroed(PIECE) });
        }
        self.write(id, row, None);
        id
    }

    /// Writes a row that is there anew.
    pub(crate) fn replace(&mut self, id: u32, row: &Row) {
        assert!(id < self.len, "row {id} is not there");
        let had = list_of(&self.rows.cell(id).expect("all pieces are there").0);
        self.write(id, row, had);
    }

    /// `had` is the list that the row has.
    fn write(&mut self, id: u32, row: &Row, had: Option<u32>) {
        let needs = usize::from(row.holder_count) > HOLDERS_INLINE;
        let list = needs.then(|| had.unwrap_or_else(|| self.list()));
        let rows = &self.rows;
        let words = words(row, list);
        let cell = rows.cell(id).expect("all pieces are there");
        rows.version(id).change(|| {
            for (place, (to, word)) in cell.0.iter().zip(words).enumerate() {
                // The place of a text is read alone, too: the text itself must be there by then.
                let order = if place == TEXT {
                    Ordering::Release
                } else {
                    Ordering::Relaxed
                };
                to.store(word, order);
            }
            if let Some(list) = list {
                let to = rows.list(list).expect("all lists are there");
                for (to, word) in to.0.iter().zip(list_words(row)) {
                    to.store(word, Ordering::Relaxed);
                }
            }
        });
        // Whoever reads the list for the row that had it finds that row's version changed.
        self.free_lists.extend(had.filter(|_| list.is_none()));
    }

    /// A list that no row has.
    fn list(&mut self) -> u32 {
        if let Some(free) = self.free_lists.pop() {
            return free;
        }
        let list = self.lists;
        self.lists += 1;
        if list as usize / LISTS == self.rows.lists.len() {
            // SAFETY: a list is atomic words, of which zero is a value.
            Arc::make_mut(&mut self.rows.lists).push(unsafe { zeroed(LISTS) });
        }
        list
    }
}

impl Rows {
    /// A row; `None` if it lies in a piece that came later, or if it is written again and again or for long: take the lock.
    pub(crate) fn read(&self, id: u32) -> Option<Row> {
        let cell = self.cell(id)?;
        let (words, list) = self.version(id).read(READINGS_MAX, || {
            let words = std::array::from_fn(|place| cell.0[place].load(Ordering::Relaxed));
            let list = list_in(&words).map(|list| {
                let list = self.list(list)?;
                Some(std::array::from_fn(|place| list.0[place].load(Ordering::Relaxed)))
            });
            (words, list)
        })?;
        let list = match list {
            Some(list) => Some(list?),
            None => None,
        };
        Some(row(&words, list))
    }

    /// Where the text of a row lies; `None` if the row lies in a piece that came later.
    pub(crate) fn text(&self, id: u32) -> Option<u32> {
        Some(self.cell(id)?.0[TEXT].load(Ordering::Acquire))
    }

    /// The state of a row; `None` if it lies in a piece that came later.
    pub(crate) fn state(&self, id: u32) -> Option<Mark> {
        let rest = self.cell(id)?.0[REST].load(Ordering::Relaxed);
        Some(Mark::of_octet(rest.to_le_bytes()[3]))
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Rows) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces) && Arc::ptr_eq(&self.lists, &other.lists)
    }

    fn cell(&self, id: u32) -> Option<&Cell> {
        let piece = self.pieces.get(id as usize / PIECE)?;
        Some(&piece[id as usize % PIECE])
    }

    fn list(&self, list: u32) -> Option<&List> {
        let piece = self.lists.get(list as usize / LISTS)?;
        Some(&piece[list as usize % LISTS])
    }

    fn version(&self, id: u32) -> &Version {
        &self.versions[id as usize % VERSIONS]
    }
}

fn pack(one: u16, other: u16) -> u32 {
    u32::from(one) | u32::from(other) << 16
}

fn unpack(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

/// A row in words. Of more holders than fit the number of their list is there.
fn words(row: &Row, list: Option<u32>) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, octets) in words.iter_mut().zip(row.tx.as_chunks().0) {
        *word = u32::from_le_bytes(*octets);
    }
    words[EPOCH] = row.epoch as u32;
    words[EPOCH + 1] = (row.epoch >> 32) as u32;
    words[TEXT] = row.text;
    words[KIND] = row.kind;
    words[HOLDERS] = list.unwrap_or_else(|| pack(row.holders[0], row.holders[1]));
    words[HOLDERS + 1] = pack(row.holders[2], row.owner);
    let [low, high] = row.to.to_le_bytes();
    words[REST] = u32::from_le_bytes([low, high, row.holder_count, row.state.octet()]);
    words
}

fn list_words(row: &Row) -> [u32; LIST_WORDS] {
    std::array::from_fn(|place| pack(row.holders[2 * place], row.holders[2 * place + 1]))
}

/// The row that words say, and a list if it has one.
fn row(words: &[u32; WORDS], list: Option<[u32; LIST_WORDS]>) -> Row {
    let mut tx = [0; 16];
    for (octets, word) in tx.as_chunks_mut().0.iter_mut().zip(words) {
        *octets = word.to_le_bytes();
    }
    let [third, owner] = unpack(words[HOLDERS + 1]);
    let mut holders = [0; HOLDERS_MAX];
    match list {
        Some(list) => {
            for (pair, word) in holders.as_chunks_mut().0.iter_mut().zip(list) {
                *pair = unpack(word);
            }
        }
        None => {
            let [first, second] = unpack(words[HOLDERS]);
            holders[..HOLDERS_INLINE].copy_from_slice(&[first, second, third]);
        }
    }
    let [low, high, holder_count, state] = words[REST].to_le_bytes();
    Row {
        tx,
        epoch: u64::from(words[EPOCH]) | u64::from(words[EPOCH + 1]) << 32,
        text: words[TEXT],
        kind: words[KIND],
        holders,
        holder_count,
        owner,
        to: u16::from_le_bytes([low, high]),
        state: Mark::of_octet(state),
    }
}

/// The list that a row has, whatever its words say while they are written.
fn list_in(words: &[u32; WORDS]) -> Option<u32> {
    let [_, _, holder_count, _] = words[REST].to_le_bytes();
    (usize::from(holder_count) > HOLDERS_INLINE).then_some(words[HOLDERS])
}

fn list_of(cell: &[AtomicU32; WORDS]) -> Option<u32> {
    list_in(&std::array::from_fn(|place| cell[place].load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A row all of whose fields say the same number.
    fn telling(number: u16, holder_count: u8) -> Row {
        let mut holders = [0; HOLDERS_MAX];
        holders[..usize::from(holder_count)].fill(number);
        Row {
            tx: std::array::from_fn(|place| number.to_be_bytes()[place % 2]),
            epoch: number.into(),
            text: number.into(),
            kind: number.into(),
            holders,
            holder_count,
            owner: number,
            to: number,
            state: Mark::of_octet((number % 3) as u8),
        }
    }

    proptest! {
        #[test]
        fn a_row_is_read_as_it_was_last_written(
            writings in proptest::collection::vec((0_u32..40, any::<u16>(), 0..=HOLDERS_MAX as u8), 1..200)
        ) {
            let mut writer = RowWriter::new();
            let mut expected: Vec<Row> = Vec::new();
            for (id, number, holder_count) in writings {
                let row = telling(number, holder_count);
                match expected.get_mut(id as usize) {
                    Some(known) => {
                        writer.replace(id, &row);
                        *known = row;
                    }
                    None => {
                        prop_assert_eq!(writer.push(&row) as usize, expected.len());
                        expected.push(row);
                    }
                }
            }
            for (id, row) in (0..).zip(&expected) {
                let read = writer.rows().read(id);
                prop_assert_eq!(read.as_ref(), Some(row));
                prop_assert_eq!(writer.rows().text(id), Some(row.text));
                prop_assert_eq!(writer.rows().state(id), Some(row.state));
            }
            let lists = expected.iter().filter(|row| row.holders().len() > HOLDERS_INLINE).count();
            prop_assert_eq!(writer.lists as usize, lists + writer.free_lists.len());
        }
    }

    #[test]
    fn whoever_reads_while_a_row_is_written_finds_one_or_the_other_whole() {
        let mut writer = RowWriter::new();
        // Two rows that hand lists on to each other.
        for id in 0..2 {
            assert_eq!(writer.push(&telling(1, 5)), id);
        }
        let rows = writer.rows().clone();
        let reader = std::thread::spawn(move || {
            let (mut seen, mut last) = (0, 0);
            while seen < 100_000 {
                for id in 0..2 {
                    let Some(row) = rows.read(id) else { continue };
                    assert_eq!(row, telling(row.owner, row.holder_count), "after {seen}");
                    seen += u32::from(row.owner != last);
                    last = row.owner;
                }
            }
        });
        for number in (0_u32..).take_while(|_| !reader.is_finished()) {
            let holder_count = if number % 3 == 0 { 14 } else { (number % 5) as u8 };
            writer.replace(number % 2, &telling(number as u16, holder_count));
        }
        reader.join().unwrap();
    }

    #[test]
    fn words_of_no_state_or_too_many_holders_are_no_row() {
        for (place, octet, is_row) in [(3, 2, true), (3, 3, false), (2, 14, true), (2, 15, false)] {
            let (mut words, list) = telling(7, 5).to_words();
            let mut rest = words[REST].to_le_bytes();
            rest[place] = octet;
            words[REST] = u32::from_le_bytes(rest);
            let row = Row::from_words(words, || Ok::<_, ()>(list.unwrap()));
            assert_eq!(row.unwrap().is_some(), is_row, "{octet} at {place}");
        }
    }

    #[test]
    fn row_that_came_in_a_later_piece_is_not_there_for_whoever_looked_before() {
        let mut writer = RowWriter::new();
        writer.push(&telling(7, 1));
        let before = writer.rows().clone();
        while writer.len() as usize <= PIECE {
            writer.push(&telling(8, 1));
        }
        let last = writer.len() - 1;
        assert_eq!(before.read(0), Some(telling(7, 1)));
        assert_eq!(
            (before.read(last), before.text(last), before.state(last)),
            (None, None, None)
        );
        assert_eq!(writer.rows().read(last), Some(telling(8, 1)));
        assert!(!before.is(writer.rows()));
    }
}
