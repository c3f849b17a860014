//! Which blocks are free, and random choice among them.
//!
//! Pure: a bitmap for each volume, with a count of free blocks for each region of 256 blocks (1 MiB). Places are chosen
//! by a CSPRNG: a random start is tried several times, so that every free place has the same chance; only on a crowded
//! disk does a scan from a random region on find what is left, and a wish for a long run falls back to shorter ones.
//!
//! Specification: DESIGN.md section 9, STORE.md section 2.

use std::fmt;

use crate::vault::entropy::{Entropy, below};

/// Octets of a block.
pub const BLOCK_OCTETS: u64 = 4096;

/// Blocks of a region: the unit of volume sizes, and of the place of long runs.
pub const REGION_BLOCKS: u32 = 256;

/// Longest run that is given at once: 4 MiB.
pub const RUN_BLOCKS_MAX: u32 = 1024;

/// Random starts tried before a scan.
const PROBES: u32 = 24;

const WORDS_PER_REGION: usize = REGION_BLOCKS as usize / 64;

/// Blocks that take this many octets.
#[must_use]
pub fn blocks_of(octets: u64) -> u64 {
    octets.div_ceil(BLOCK_OCTETS)
}

/// A run of blocks in one volume.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Extent {
    /// Which volume.
    pub volume: u32,
    /// Its first block there.
    pub block: u32,
    /// How many, at least 1.
    pub blocks: u32,
}

impl Extent {
    /// Where it begins in its volume's file, in octets.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.block) * BLOCK_OCTETS
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_OCTETS
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = u64::from(self.block) + u64::from(self.blocks);
        write!(f, "volume {} blocks {}..{end}", self.volume, self.block)
    }
}

/// Two index rows, or one twice, claim the same block; or a row claims what no volume has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimError {
    /// A block of the extent is already claimed.
    #[error("{0} overlaps another copy")]
    Overlap(Extent),
    /// The extent is empty or ends past its volume.
    #[error("{0} lies outside the volumes")]
    Outside(Extent),
}

/// Free blocks of all volumes.
#[derive(Debug, Default)]
pub struct FreeMap {
    volumes: Vec<VolumeMap>,
    blocks: u64,
    free: u64,
}

#[derive(Debug, Default)]
struct VolumeMap {
    /// One bit a block, set when free.
    words: Vec<u64>,
    /// Free blocks of each region.
    regions: Vec<u16>,
}

impl FreeMap {
    /// Blocks of all volumes, free or not.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Free blocks.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.free
    }

    /// Adds blocks, free, at the end of a volume. Volumes come one after the other.
    ///
    /// # Panics
    ///
    /// If `blocks` is no whole number of regions, or the volume is not there and not the next.
    pub fn grow(&mut self, volume: u32, blocks: u32) {
        assert_eq!(blocks % REGION_BLOCKS, 0, "volumes grow by whole regions");
        let index = volume as usize;
        assert!(index <= self.volumes.len(), "volumes come one after the other");
        if index == self.volumes.len() {
            self.volumes.push(VolumeMap::default());
        }
        let map = &mut self.volumes[index];
        map.words.resize(map.words.len() + blocks as usize / 64, u64::MAX);
        map.regions.resize(
            map.regions.len() + (blocks / REGION_BLOCKS) as usize,
            u16::try_from(REGION_BLOCKS).expect("256 fits"),
        );
        self.blocks += u64::from(blocks);
        self.free += u64::from(blocks);
    }

    /// Takes one given extent; how the map is rebuilt from the index.
    ///
    /// # Errors
    ///
    /// [`ClaimError`]; the map is then unchanged.
    pub fn claim(&mut self, extent: Extent) -> Result<(), ClaimError> {
        let end = u64::from(extent.block) + u64::from(extent.blocks);
        let map = self
            .volumes
            .get_mut(extent.volume as usize)
            .filter(|map| extent.blocks > 0 && end <= map.words.len() as u64 * 64)
            .ok_or(ClaimError::Outside(extent))?;
        if !map.is_free(extent.block, extent.blocks) {
            return Err(ClaimError::Overlap(extent));
        }
        map.set(extent.block, extent.blocks, false);
        self.free -= u64::from(extent.blocks);
        Ok(())
    }

    /// Gives an extent back.
    ///
    /// # Panics
    ///
    /// If any block of it is free already: two copies would have shared it.
    pub fn release(&mut self, extent: Extent) {
        let map = &mut self.volumes[extent.volume as usize];
        assert!(map.is_taken(extent.block, extent.blocks), "{extent} is freed twice");
        map.set(extent.block, extent.blocks, true);
        self.free += u64::from(extent.blocks);
    }

    /// Takes a run of `wish` blocks at a random place, or a shorter one when no run is as long; `None` only when nothing
    /// is free. Wishes of a region or more begin at a region's start, which keeps room for the next.
    pub fn take(&mut self, entropy: &dyn Entropy, wish: u32) -> Option<Extent> {
        let mut blocks = wish.clamp(1, RUN_BLOCKS_MAX);
        if blocks > REGION_BLOCKS {
            blocks -= blocks % REGION_BLOCKS;
        }
        while self.free > 0 {
            if let Some(extent) = self.probe(entropy, blocks).or_else(|| self.scan(entropy, blocks)) {
                self.volumes[extent.volume as usize].set(extent.block, extent.blocks, false);
                self.free -= u64::from(extent.blocks);
                return Some(extent);
            }
            blocks = (blocks / 2).max(1);
        }
        None
    }

    /// A random start, tried several times.
    fn probe(&self, entropy: &dyn Entropy, blocks: u32) -> Option<Extent> {
        for _ in 0..PROBES {
            let (volume, mut block) = self.locate(below(entropy, self.blocks));
            if blocks >= REGION_BLOCKS {
                block -= block % REGION_BLOCKS;
            }
            if self.volumes[volume as usize].is_free(block, blocks) {
                return Some(Extent { volume, block, blocks });
            }
        }
        None
    }

    /// The volume and block of the n-th block of all.
    fn locate(&self, mut number: u64) -> (u32, u32) {
        for (volume, map) in (0..).zip(&self.volumes) {
            let blocks = map.words.len() as u64 * 64;
            if number < blocks {
                return (
                    volume,
                    u32::try_from(number).expect("a volume has fewer than 2^32 blocks"),
                );
            }
            number -= blocks;
        }
        unreachable!("numbers are drawn below the sum of all volumes")
    }

    /// Every region, from a random one on, once.
    fn scan(&self, entropy: &dyn Entropy, blocks: u32) -> Option<Extent> {
        let (from_volume, from_block) = self.locate(below(entropy, self.blocks));
        let from = (from_volume as usize, (from_block / REGION_BLOCKS) as usize);
        let count = self.volumes.len();
        // The volume begun in comes twice: from the chosen region on, and at last up to it.
        for step in 0..=count {
            let volume = (from.0 + step) % count;
            let map = &self.volumes[volume];
            let range = match step {
                0 => from.1..map.regions.len(),
                last if last == count => 0..from.1,
                _between => 0..map.regions.len(),
            };
            if let Some(block) = map.find(entropy, blocks, range) {
                return Some(Extent {
                    volume: u32::try_from(volume).expect("volumes are numbered by u32"),
                    block,
                    blocks,
                });
            }
        }
        None
    }
}

impl VolumeMap {
    /// A free run that begins in one of these regions: at a region's start for long runs, at a random one of the
    /// possible places within the first region that has any for short runs.
    fn find(&self, entropy: &dyn Entropy, blocks: u32, regions: std::ops::Range<usize>) -> Option<u32> {
        let start_of =
            |region: usize| u32::try_from(region).expect("a volume has fewer than 2^24 regions") * REGION_BLOCKS;
        if blocks >= REGION_BLOCKS {
            let whole = u16::try_from(REGION_BLOCKS).expect("256 fits");
            return regions
                .into_iter()
                .filter(|&region| self.regions[region] == whole)
                .map(start_of)
                .find(|&block| self.is_free(block, blocks));
        }
        for region in regions {
            if u32::from(self.regions[region]) < blocks {
                continue;
            }
            let mut starts = [0_u32; REGION_BLOCKS as usize];
            let mut found = 0;
            let mut run = 0;
            for bit in 0..REGION_BLOCKS {
                let word = self.words[region * WORDS_PER_REGION + bit as usize / 64];
                run = if word >> (bit % 64) & 1 == 1 { run + 1 } else { 0 };
                if run >= blocks {
                    starts[found] = start_of(region) + bit + 1 - blocks;
                    found += 1;
                }
            }
            if found > 0 {
                let pick = usize::try_from(below(entropy, found as u64)).expect("below 256");
                return Some(starts[pick]);
            }
        }
        None
    }

    fn is_free(&self, block: u32, blocks: u32) -> bool {
        self.all(block, blocks, |word, mask| word & mask == mask)
    }

    fn is_taken(&self, block: u32, blocks: u32) -> bool {
        self.all(block, blocks, |word, mask| word & mask == 0)
    }

    fn all(&self, block: u32, blocks: u32, holds: impl Fn(u64, u64) -> bool) -> bool {
        masks(block, blocks).all(|(index, mask)| self.words.get(index).is_some_and(|&word| holds(word, mask)))
    }

    fn set(&mut self, block: u32, blocks: u32, free: bool) {
        for (index, mask) in masks(block, blocks) {
            let region = &mut self.regions[index / WORDS_PER_REGION];
            let bits = u16::try_from(mask.count_ones()).expect("at most 64");
            if free {
                self.words[index] |= mask;
                *region += bits;
            } else {
                self.words[index] &= !mask;
                *region -= bits;
            }
        }
    }
}

/// The words that a run of blocks touches, each with the mask of its bits.
fn masks(block: u32, blocks: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = u64::from(block) + u64::from(blocks);
    let mut at = u64::from(block);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let bit = at % 64;
        let bits = (64 - bit).min(end - at);
        let mask = if bits == 64 { u64::MAX } else { ((1 << bits) - 1) << bit };
        let index = usize::try_from(at / 64).expect("a volume's map is in memory");
        at += bits;
        Some((index, mask))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::chance::{DEVIATION_MAX, counts, deviation};
    use crate::vault::entropy::tests::SeededEntropy;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn map(regions: &[u32]) -> FreeMap {
        let mut map = FreeMap::default();
        for (volume, regions) in (0..).zip(regions) {
            map.grow(volume, regions * REGION_BLOCKS);
        }
        map
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_block_is_given_twice_and_none_is_lost(seed: u64, steps in prop::collection::vec((1_u32..1500, any::<bool>()), 1..200)) {
            let entropy = SeededEntropy::new(seed);
            let mut map = map(&[3, 5]);
            let mut held: Vec<Extent> = Vec::new();
            let mut taken: HashSet<(u32, u32)> = HashSet::new();
            for (wish, give_back) in steps {
                if give_back && !held.is_empty() {
                    let extent = held.swap_remove(wish as usize % held.len());
                    map.release(extent);
                    for block in extent.block..extent.block + extent.blocks {
                        taken.remove(&(extent.volume, block));
                    }
                } else if let Some(extent) = map.take(&entropy, wish) {
                    prop_assert!(extent.blocks >= 1 && extent.blocks <= wish);
                    for block in extent.block..extent.block + extent.blocks {
                        prop_assert!(taken.insert((extent.volume, block)));
                    }
                    held.push(extent);
                } else {
                    prop_assert_eq!(map.free(), 0);
                }
                prop_assert_eq!(map.free() + taken.len() as u64, map.blocks());
            }
            let mut again = self::map(&[3, 5]);
            for &extent in &held {
                prop_assert_eq!(again.claim(extent), Ok(()));
                prop_assert_eq!(again.claim(extent), Err(ClaimError::Overlap(extent)));
            }
            prop_assert_eq!(again.free(), map.free());
        }
    }

    #[test]
    fn every_free_place_has_the_same_chance() {
        let entropy = SeededEntropy::new(7);
        let mut map = map(&[2, 2]);
        let mut seen = vec![0_u32; 4];
        for _ in 0..4000 {
            let extent = map.take(&entropy, 1).unwrap();
            seen[(extent.volume * 2 + extent.block / REGION_BLOCKS) as usize] += 1;
            map.release(extent);
        }
        assert!(seen.iter().all(|&count| (880..1120).contains(&count)), "{seen:?}");
    }

    /// A disk of 16 regions on two volumes of which `percent` is taken at random, with its free blocks.
    fn filled(seed: u64, percent: u64) -> (SeededEntropy, FreeMap, Vec<(u32, u32)>) {
        let entropy = SeededEntropy::new(seed);
        let mut map = map(&[10, 6]);
        let taken: HashSet<_> = (0..map.blocks() * percent / 100)
            .map(|_| map.take(&entropy, 1).unwrap())
            .map(|extent| (extent.volume, extent.block))
            .collect();
        let all = [(0, 10), (1, 6)]
            .into_iter()
            .flat_map(|(volume, regions)| (0..regions * REGION_BLOCKS).map(move |block| (volume, block)));
        let free = all.filter(|place| !taken.contains(place)).collect();
        (entropy, map, free)
    }

    /// Draws places for one block, each given back before the next, and counts them by their number among the free ones.
    fn drawn(seed: u64, percent: u64, each: usize) -> (usize, Vec<usize>) {
        let (entropy, mut map, free) = filled(seed, percent);
        let number: std::collections::HashMap<_, _> = free.iter().enumerate().map(|(at, place)| (*place, at)).collect();
        let places = (0..free.len() * each)
            .map(|_| {
                let extent = map.take(&entropy, 1).unwrap();
                map.release(extent);
                number[&(extent.volume, extent.block)]
            })
            .collect();
        (free.len(), places)
    }

    #[test]
    fn places_are_uniform_among_the_free_blocks_however_full_the_disk_is() {
        for percent in [0, 50, 90] {
            for seed in 1..=8 {
                let (free, places) = drawn(seed, percent, 20);
                let counts = counts(free, places.into_iter());
                let deviation = deviation(counts.into_iter().map(|count| (count, 20.0)));
                assert!(
                    deviation.abs() < DEVIATION_MAX,
                    "{percent} % taken, seed {seed}: {deviation}"
                );
            }
        }
    }

    /// Where a copy was says nothing of where the next one lies: the table of pairs is flat, for neighbours in time and for those
    /// two apart.
    #[test]
    fn place_is_independent_of_the_former_ones_however_full_the_disk_is() {
        const CELLS: usize = 20;
        for percent in [0, 50, 90] {
            for seed in 11..=18 {
                let (free, places) = drawn(seed, percent, 40);
                let cell = |place: usize| place * CELLS / free;
                for apart in [1, 2] {
                    let pairs = places.iter().zip(&places[apart..]);
                    let pairs = pairs.map(|(&former, &next)| cell(former) * CELLS + cell(next));
                    // Cells differ by a block at most.
                    let weights = counts(CELLS, (0..free).map(cell));
                    let table = counts(CELLS * CELLS, pairs);
                    let share = |cell: usize| f64::from(weights[cell]) / free as f64;
                    let total = (places.len() - apart) as f64;
                    let deviation = deviation(
                        (table.into_iter().enumerate())
                            .map(|(at, count)| (count, total * share(at / CELLS) * share(at % CELLS))),
                    );
                    assert!(
                        deviation.abs() < DEVIATION_MAX,
                        "{percent} % taken, {apart} apart, seed {seed}: {deviation}"
                    );
                }
            }
        }
    }

    #[test]
    fn fragmented_disk_gives_shorter_runs_until_nothing_is_left() {
        let entropy = SeededEntropy::new(3);
        let mut map = map(&[1]);
        let all: Vec<_> = (0..256).map(|_| map.take(&entropy, 1).unwrap()).collect();
        for extent in all.iter().filter(|extent| extent.block % 2 == 0) {
            map.release(*extent);
        }
        for _ in 0..128 {
            assert_eq!(map.take(&entropy, 200).unwrap().blocks, 1);
        }
        assert_eq!(map.take(&entropy, 200), None);
    }

    #[test]
    fn claim_outside_the_volumes_is_refused() {
        let mut map = map(&[1]);
        for (volume, block, blocks) in [(1, 0, 1), (0, 255, 2), (0, 0, 0), (0, u32::MAX, u32::MAX)] {
            let extent = Extent { volume, block, blocks };
            assert_eq!(map.claim(extent), Err(ClaimError::Outside(extent)));
        }
    }
}
