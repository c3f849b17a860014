//! Sorted lists of row numbers, compact enough for millions, which one thread changes while others search.
//!
//! A list knows no keys: whoever asks compares. Numbers lie in blocks of at most [`BLOCK_MAX`], so an insertion moves
//! one block's tail and a search is two binary searches; an entry costs four to eight octets.
//!
//! A search without a lock sees numbers on their way from one place to another, and whoever compares keys must bear with any of them.
//! What it comes to counts only if no change came between, which whoever searches has to know (`super::super::glance`). Where room is
//! made for more blocks there is a new list; the old one is of no use any more.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::zeroed::zeroed;

/// Most numbers in one block: 2 KiB to move at worst.
const BLOCK_MAX: usize = 511;
/// Numbers in a block of a new list: its first insertions split few.
const BLOCK_NEW: usize = BLOCK_MAX * 15 / 16;
/// Blocks in one piece.
const PIECE: usize = 64;

/// Numbers that lie together.
struct Block {
    len: AtomicU32,
    numbers: [AtomicU32; BLOCK_MAX],
}

const _: () = assert!(
    size_of::<Block>() == 2048,
    "two orders of ten million rows are what memory is spent on"
);

/// The blocks, and which of them are in the list.
struct Top {
    pieces: Vec<Arc<[Block]>>,
    /// Numbers of blocks in their order: as many as `count` says count, there is room for all.
    list: Box<[AtomicU32]>,
    count: AtomicU32,
}

/// Row numbers in an order that the caller's comparisons define, as they are searched; no two of them are equal in it.
#[derive(Clone)]
pub(crate) struct Order {
    top: Arc<Top>,
}

/// The same as they are changed: by one thread.
pub(crate) struct OrderWriter {
    order: Order,
    len: usize,
    /// Blocks that were ever used.
    blocks: u32,
    /// Those of them that are in no list.
    free: Vec<u32>,
}

impl Default for OrderWriter {
    fn default() -> Self {
        OrderWriter::from_sorted(&[])
    }
}

impl OrderWriter {
    /// Takes numbers that are sorted already.
    pub(crate) fn from_sorted(sorted: &[u32]) -> OrderWriter {
        let blocks = sorted.chunks(BLOCK_NEW);
        let pieces = blocks.len().div_ceil(PIECE).max(1);
        let top = Top::of((0..pieces).map(|_| piece()).collect());
        for (number, numbers) in (0..).zip(blocks) {
            top.insert(number as usize, number);
            top.block(number).fill(numbers.iter().copied());
        }
        OrderWriter {
            len: sorted.len(),
            blocks: top.count.load(Relaxed),
            order: Order { top: Arc::new(top) },
            free: Vec::new(),
        }
    }

    /// As they are searched.
    pub(crate) fn order(&self) -> &Order {
        &self.order
    }

    /// How many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a number; `compare` says how a listed one sorts against it. Nothing happens if it is there.
    pub(crate) fn insert(&mut self, number: u32, compare: impl Fn(u32) -> Ordering) {
        let Some(at) = self.block_of(&compare) else {
            let first = self.new_block();
            let top = &self.order.top;
            top.block(first).fill([number]);
            top.insert(0, first);
            self.len = 1;
            return;
        };
        let block = self.order.top.block_at(at);
        let Err(place) = block.place(&compare) else { return };
        self.len += 1;
        if block.len() < BLOCK_MAX {
            block.insert(place, number);
            return;
        }
        let after = self.new_block();
        let top = &self.order.top;
        let (block, tail) = (top.block_at(at), top.block(after));
        let kept = BLOCK_MAX / 2;
        tail.fill(block.numbers().skip(kept));
        block.cut(kept);
        top.insert(at + 1, after);
        match place.checked_sub(kept) {
            Some(place) => tail.insert(place, number),
            None => block.insert(place, number),
        }
    }

    /// Takes a number out; `compare` says how a listed one sorts against it.
    pub(crate) fn remove(&mut self, compare: impl Fn(u32) -> Ordering) {
        let Some(at) = self.block_of(&compare) else { return };
        let block = self.order.top.block_at(at);
        let Ok(place) = block.place(&compare) else { return };
        self.len -= 1;
        block.remove(place);
        if block.len() == 0 {
            self.free.push(self.order.top.remove(at));
        }
    }

    /// The place of the block that holds a number, or that it belongs into; `None` if there is no block at all.
    fn block_of(&self, compare: &impl Fn(u32) -> Ordering) -> Option<usize> {
        let top = &self.order.top;
        let at = top.partition_point(|last| compare(last) == Ordering::Less);
        top.count().checked_sub(1).map(|last| at.min(last))
    }

    /// A block that is not in the list.
    fn new_block(&mut self) -> u32 {
        if let Some(free) = self.free.pop() {
            return free;
        }
        if self.blocks as usize == self.order.top.list.len() {
            self.grow();
        }
        self.blocks += 1;
        self.blocks - 1
    }

    /// Makes room for another piece of blocks.
    fn grow(&mut self) {
        let old = &self.order.top;
        let new = Top::of(old.pieces.iter().cloned().chain([piece()]).collect());
        for (to, block) in new.list.iter().zip(&old.list) {
            to.store(block.load(Relaxed), Relaxed);
        }
        new.count.store(old.count.load(Relaxed), Relaxed);
        self.order.top = Arc::new(new);
    }
}

/// Blocks that nothing is in.
fn piece() -> Arc<[Block]> {
    // SAFETY: a block is atomic words, of which zero is a value.
    unsafe { zeroed(PIECE) }
}

impl Order {
    /// The numbers from the first on that `before` does not hold for. `before` holds for a beginning of the list only.
    pub(crate) fn from(&self, before: impl Fn(u32) -> bool) -> impl Iterator<Item = u32> + '_ {
        let top = &self.top;
        let at = top.partition_point(&before);
        let count = top.count();
        let place = if at < count {
            top.block_at(at).partition_point(&before)
        } else {
            0
        };
        (at..count).flat_map(|at| top.block_at(at).numbers()).skip(place)
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Order) -> bool {
        Arc::ptr_eq(&self.top, &other.top)
    }
}

impl Top {
    fn of(pieces: Vec<Arc<[Block]>>) -> Top {
        Top {
            list: (0..pieces.len() * PIECE).map(|_| AtomicU32::new(0)).collect(),
            pieces,
            count: AtomicU32::new(0),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Acquire) as usize
    }

    fn block(&self, number: u32) -> &Block {
        &self.pieces[number as usize / PIECE][number as usize % PIECE]
    }

    /// The block at a place of the list.
    fn block_at(&self, at: usize) -> &Block {
        self.block(self.list[at].load(Acquire))
    }

    /// The first block whose last number `before` does not hold for.
    fn partition_point(&self, before: impl Fn(u32) -> bool) -> usize {
        first_not(self.count(), |at| self.block_at(at).last().is_some_and(&before))
    }

    fn insert(&self, at: usize, block: u32) {
        insert(&self.list[..=self.count()], at, block);
        self.count.fetch_add(1, Release);
    }

    fn remove(&self, at: usize) -> u32 {
        let removed = remove(&self.list[..self.count()], at);
        self.count.fetch_sub(1, Release);
        removed
    }
}

impl Block {
    fn len(&self) -> usize {
        self.len.load(Acquire) as usize
    }

    fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers[..self.len()].iter().map(|number| number.load(Acquire))
    }

    fn last(&self) -> Option<u32> {
        let last = self.len().checked_sub(1)?;
        Some(self.numbers[last].load(Acquire))
    }

    /// Where a number is, or belongs.
    fn place(&self, compare: impl Fn(u32) -> Ordering) -> Result<usize, usize> {
        let place = self.partition_point(|listed| compare(listed) == Ordering::Less);
        let found = self.numbers[..self.len()].get(place);
        match found.map(|found| compare(found.load(Acquire))) {
            Some(Ordering::Equal) => Ok(place),
            Some(Ordering::Less | Ordering::Greater) | None => Err(place),
        }
    }

    /// The first number that `before` does not hold for.
    fn partition_point(&self, before: impl Fn(u32) -> bool) -> usize {
        first_not(self.len(), |place| before(self.numbers[place].load(Acquire)))
    }

    /// Takes numbers in place of those that it has.
    fn fill(&self, numbers: impl IntoIterator<Item = u32>) {
        let mut len = 0;
        for (to, number) in self.numbers.iter().zip(numbers) {
            to.store(number, Release);
            len += 1;
        }
        self.len.store(len, Release);
    }

    fn cut(&self, len: usize) {
        self.len.store(u32::try_from(len).expect("a block is small"), Release);
    }

    fn insert(&self, place: usize, number: u32) {
        let len = self.len();
        insert(&self.numbers[..=len], place, number);
        self.cut(len + 1);
    }

    fn remove(&self, place: usize) {
        let len = self.len();
        remove(&self.numbers[..len], place);
        self.cut(len - 1);
    }
}

/// The first of so many places that `before` does not hold for.
fn first_not(places: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, places);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Puts a word at a place, and those from there on one further; the last word is lost.
///
/// Who sees a word sees all that was there when it came.
fn insert(words: &[AtomicU32], at: usize, word: u32) {
    for place in (at + 1..words.len()).rev() {
        words[place].store(words[place - 1].load(Relaxed), Release);
    }
    words[at].store(word, Release);
}

/// Takes the word at a place out, and those behind it one nearer.
fn remove(words: &[AtomicU32], at: usize) -> u32 {
    let removed = words[at].load(Relaxed);
    for place in at + 1..words.len() {
        words[place - 1].store(words[place].load(Relaxed), Release);
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn list_is_the_sorted_set_after_any_changes(
            start in proptest::collection::btree_set(0_u32..4000, 0..1500),
            changes in proptest::collection::vec((any::<bool>(), 0_u32..4000), 0..1500),
            from in 0_u32..4000,
        ) {
            let mut set: BTreeSet<u32> = start;
            let mut list = OrderWriter::from_sorted(&set.iter().copied().collect::<Vec<_>>());
            for (add, number) in changes {
                if add {
                    set.insert(number);
                    list.insert(number, |listed| listed.cmp(&number));
                } else {
                    set.remove(&number);
                    list.remove(|listed| listed.cmp(&number));
                }
            }
            prop_assert_eq!(list.len(), set.len());
            prop_assert!(list.order().from(|_| false).eq(set.iter().copied()));
            prop_assert!(list.order().from(|listed| listed < from).eq(set.range(from..).copied()));
        }
    }

    /// Blocks that a list has no more are used again: what comes and goes takes no room.
    #[test]
    fn emptied_blocks_are_used_again() {
        let mut list = OrderWriter::default();
        for round in 0..20 {
            for number in 0..5_000 {
                list.insert(round * 5_000 + number, |listed| listed.cmp(&(round * 5_000 + number)));
            }
            for number in 0..5_000 {
                list.remove(|listed| listed.cmp(&(round * 5_000 + number)));
            }
        }
        assert_eq!(list.len(), 0);
        assert!(list.blocks < 30, "{} blocks", list.blocks);
    }
}
