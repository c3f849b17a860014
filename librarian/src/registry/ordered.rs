//! A sorted list of row numbers, compact enough for millions.
//!
//! The list knows no keys: whoever asks compares. Numbers lie in blocks of at most [`BLOCK_MAX`], so an insertion moves
//! one block's tail and a search is two binary searches; an entry costs four to eight octets.

use std::cmp::Ordering;

/// Most numbers in one block: 2 KiB to move at worst.
const BLOCK_MAX: usize = 512;

/// Row numbers in an order that the caller's comparisons define; no two of them are equal in it.
#[derive(Debug, Default)]
pub(crate) struct Ordered {
    /// No block is empty.
    blocks: Vec<Vec<u32>>,
    len: usize,
}

impl Ordered {
    /// Takes numbers that are sorted already.
    pub(crate) fn from_sorted(sorted: &[u32]) -> Ordered {
        Ordered {
            // Filled to three quarters, so that the first insertions split nothing.
            blocks: sorted.chunks(BLOCK_MAX * 3 / 4).map(<[u32]>::to_vec).collect(),
            len: sorted.len(),
        }
    }

    /// How many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a number; `compare` says how a listed one sorts against it. Nothing happens if it is there.
    pub(crate) fn insert(&mut self, number: u32, compare: impl Fn(u32) -> Ordering) {
        let Some(at) = self.block_of(&compare) else {
            self.blocks.push(vec![number]);
            self.len = 1;
            return;
        };
        let block = &mut self.blocks[at];
        let Err(place) = block.binary_search_by(|listed| compare(*listed)) else {
            return;
        };
        block.insert(place, number);
        self.len += 1;
        if block.len() > BLOCK_MAX {
            let tail = block.split_off(BLOCK_MAX / 2);
            self.blocks.insert(at + 1, tail);
        }
    }

    /// Takes a number out; `compare` says how a listed one sorts against it.
    pub(crate) fn remove(&mut self, compare: impl Fn(u32) -> Ordering) {
        let Some(at) = self.block_of(&compare) else { return };
        let block = &mut self.blocks[at];
        if let Ok(place) = block.binary_search_by(|listed| compare(*listed)) {
            block.remove(place);
            self.len -= 1;
            if block.is_empty() {
                self.blocks.remove(at);
            }
        }
    }

    /// The numbers from the first on that `before` does not hold for. `before` holds for a beginning of the list only.
    pub(crate) fn from(&self, before: impl Fn(u32) -> bool) -> impl Iterator<Item = u32> + '_ {
        let at = self
            .blocks
            .partition_point(|block| block.last().is_some_and(|last| before(*last)));
        let place = self
            .blocks
            .get(at)
            .map_or(0, |block| block.partition_point(|listed| before(*listed)));
        self.blocks
            .get(at..)
            .unwrap_or_default()
            .iter()
            .flatten()
            .copied()
            .skip(place)
    }

    /// The block that holds a number, or that it belongs into; `None` if there is no block at all.
    fn block_of(&self, compare: &impl Fn(u32) -> Ordering) -> Option<usize> {
        let at = self
            .blocks
            .partition_point(|block| block.last().is_some_and(|last| compare(*last) == Ordering::Less));
        self.blocks.len().checked_sub(1).map(|last| at.min(last))
    }
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
            let mut list = Ordered::from_sorted(&set.iter().copied().collect::<Vec<_>>());
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
            prop_assert!(list.from(|_| false).eq(set.iter().copied()));
            prop_assert!(list.from(|listed| listed < from).eq(set.range(from..).copied()));
        }
    }
}
