//! Where copies lie: evenly, and independently of where their former ones lay, as the store itself writes them.
//!
//! Every copy here goes the store's way: written while the former one still holds its blocks, which are free when it is dropped
//! (only octets on a disk are left out). For one block what chance gives is known exactly; for large objects on a crowded disk,
//! where long runs are sought first, it is known by symmetry.

use std::io;

use super::chance::{DEVIATION_MAX, counts, deviation};
use super::*;
use crate::store::simulated::SimulatedDisk;
use crate::store::space::Space;
use crate::vault::entropy::below;

/// Regions of the two volumes.
const REGIONS: [u32; 2] = [10, 6];
const BLOCKS: usize = 16 * REGION_BLOCKS as usize;

/// A disk that keeps nothing.
#[derive(Debug)]
struct NoDisk;

impl DiskFile for NoDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn set_len(&self, _octets: u64) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, _offset: u64, _octets: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _offset: u64, _octets: u64) -> io::Result<()> {
        Ok(())
    }

    fn forget_cached(&self, _offset: u64, _octets: u64) {}
}

impl Disk for NoDisk {
    fn open(&self, _name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NoDisk))
    }

    fn list(&self, _folder: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, _name: &str) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn replace(&self, _name: &str, _content: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn available(&self, _folder: &str) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

/// A disk of which some blocks are taken by others.
struct Ground {
    space: Arc<Space>,
    vault: Arc<Vault>,
    entropy: Arc<SeededEntropy>,
    /// Number of each block among those that are not; the taken ones have none.
    free: Vec<Option<usize>>,
    _taken: Extents,
}

impl Ground {
    fn new(vault: &Arc<Vault>, seed: u64, percent: usize) -> Ground {
        let entropy = Arc::new(SeededEntropy::new(seed));
        let sizes = settings(16).sizes();
        let grown = REGIONS.map(|regions| regions * REGION_BLOCKS).to_vec();
        let space = Space::open(Arc::new(NoDisk), entropy.clone(), sizes, grown).unwrap();
        let mut order: Vec<usize> = (0..BLOCKS).collect();
        let taken = BLOCKS * percent / 100;
        for at in 0..taken {
            let pick = at + usize::try_from(below(entropy.as_ref(), (BLOCKS - at) as u64)).unwrap();
            order.swap(at, pick);
        }
        let mut free: Vec<Option<usize>> = vec![Some(0); BLOCKS];
        order[..taken].iter().for_each(|&block| free[block] = None);
        (free.iter_mut().flatten().enumerate()).for_each(|(number, block)| *block = number);
        let list = order[..taken].iter().map(|&number| Ground::extent(number)).collect();
        Ground {
            _taken: space.claim(list).unwrap(),
            space,
            vault: vault.clone(),
            entropy,
            free,
        }
    }

    fn extent(number: usize) -> Extent {
        let first = REGIONS[0] as usize * REGION_BLOCKS as usize;
        let (volume, block) = if number < first {
            (0, number)
        } else {
            (1, number - first)
        };
        Extent {
            volume,
            block: u32::try_from(block).unwrap(),
            blocks: 1,
        }
    }

    /// Numbers of a copy's blocks on the whole disk, in its order.
    fn blocks(copy: &StagedStream) -> Vec<usize> {
        (copy.inner.extents.iter())
            .flat_map(|extent| {
                let volume = extent.volume as usize * REGIONS[0] as usize * REGION_BLOCKS as usize;
                (extent.block..extent.block + extent.blocks).map(move |block| volume + block as usize)
            })
            .collect()
    }

    fn write(&self, blocks: usize) -> StagedStream {
        let spec = StreamSpec {
            octets_hint: Some(blocks as u64 * 4000),
            ..spec(&address("3.1"), Part::Body)
        };
        let mut writer = StreamWriter::new(self.space.clone(), &self.vault, spec).unwrap();
        writer.write(&vec![1; blocks * 4000]).unwrap();
        writer.finish().unwrap()
    }

    fn write_small(&self, objects: usize) -> Vec<StagedStream> {
        let many = (0..objects).map(|_| (spec(&address("3.1"), Part::Body), Bytes::from_static(b"small")));
        stream::write_small(&self.space, &self.vault, many.collect()).unwrap()
    }
}

fn keys() -> Arc<Vault> {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
    vault(&disk, 1)
}

/// An object of one block, written again and again. Never where it is; otherwise each free block has the same chance, wherever the
/// object was before and before that.
#[test]
fn rewritten_block_lands_evenly_and_independently_of_its_two_former_places() {
    const CELLS: usize = 16;
    let vault = keys();
    for (percent, seeds) in [(0, 1..=1), (50, 2..=2), (90, 3..=5)] {
        for seed in seeds {
            let ground = Ground::new(&vault, seed, percent);
            let free = ground.free.iter().flatten().count();
            let mut places = Vec::new();
            let mut former = ground.write(1);
            for _ in 0..10_000 {
                let copy = ground.write(1);
                places.push(ground.free[Ground::blocks(&copy)[0]].expect("it was free"));
                former = copy;
            }
            drop(former);
            let cell = |place: usize| place * CELLS / free;
            let weights = counts(CELLS, (0..free).map(cell));
            let (free, total) = (free as f64, places.len() as f64);
            let even = counts(CELLS, places.iter().map(|&place| cell(place)));
            let even = deviation(
                (even.into_iter().zip(&weights)).map(|(count, &weight)| (count, total * f64::from(weight) / free)),
            );
            assert!(even.abs() < DEVIATION_MAX, "{percent} % taken, seed {seed}: {even}");
            // Chances of the same block again, and of each other one, 1 and 2 writes later. By block, then summed by cell.
            for (apart, same, other) in [
                (1, 0.0, 1.0 / (free - 1.0)),
                (2, 1.0 / (free - 1.0), (free - 2.0) / (free - 1.0).powi(2)),
            ] {
                let pairs = places.iter().zip(&places[apart..]);
                let again = pairs.clone().filter(|(one, two)| one == two).count() as f64;
                let expected = (total - apart as f64) * same;
                assert!(
                    (again - expected).abs() <= DEVIATION_MAX * expected.sqrt(),
                    "{percent} % taken, {apart} apart, seed {seed}: {again} times the same place, {expected} expected"
                );
                let table = counts(CELLS * CELLS, pairs.map(|(&one, &two)| cell(one) * CELLS + cell(two)));
                let table = deviation(table.into_iter().enumerate().map(|(at, count)| {
                    let (one, two) = (f64::from(weights[at / CELLS]), f64::from(weights[at % CELLS]));
                    let chance = if at / CELLS == at % CELLS {
                        same + (two - 1.0) * other
                    } else {
                        two * other
                    };
                    (count, (total - apart as f64) * one / free * chance)
                }));
                assert!(
                    table.abs() < DEVIATION_MAX,
                    "{percent} % taken, {apart} apart, seed {seed}: {table}"
                );
            }
        }
    }
}

/// Small objects that are written together lie side by side, in an order that says nothing of theirs nor of the batch before.
#[test]
fn place_within_a_batch_is_even_and_independent_of_the_former_one() {
    const OBJECTS: usize = 16;
    let vault = keys();
    for (percent, seed) in [(0, 21), (50, 22), (90, 23)] {
        let ground = Ground::new(&vault, seed, percent);
        let mut former = Vec::new();
        let mut ranks: Vec<Vec<usize>> = Vec::new();
        for _ in 0..2_500 {
            let batch = ground.write_small(OBJECTS);
            let places: Vec<usize> = batch.iter().map(|copy| Ground::blocks(copy)[0]).collect();
            ranks.push(
                places
                    .iter()
                    .map(|place| places.iter().filter(|other| *other < place).count())
                    .collect(),
            );
            former = batch;
        }
        drop(former);
        let of = |table: Vec<u32>| {
            let expected = f64::from(table.iter().sum::<u32>()) / table.len() as f64;
            deviation(table.into_iter().map(|count| (count, expected)))
        };
        // The first object and its neighbour in the batch, and the same object a batch later.
        let pair = |(one, two): (usize, usize)| one * OBJECTS + two;
        let first = of(counts(OBJECTS, ranks.iter().map(|ranks| ranks[0])));
        let next = of(counts(
            OBJECTS * OBJECTS,
            ranks.windows(2).map(|pairs| pair((pairs[0][0], pairs[1][0]))),
        ));
        assert!(first.abs() < DEVIATION_MAX, "{percent} % taken: {first}");
        assert!(next.abs() < DEVIATION_MAX, "{percent} % taken, former place: {next}");
        let gaps = counts(
            OBJECTS - 1,
            ranks.iter().map(|ranks| (ranks[1] + OBJECTS - ranks[0]) % OBJECTS - 1),
        );
        let gaps = of(gaps);
        assert!(gaps.abs() < DEVIATION_MAX, "{percent} % taken, neighbour: {gaps}");
    }
}

/// An object of many extents. All regions are filled alike, by chance, so that none of them may be likelier than another, be it
/// for the first of the object's blocks, for one amid or for the last.
#[test]
fn blocks_of_a_large_object_lie_in_every_region_alike() {
    let vault = keys();
    let regions = BLOCKS / REGION_BLOCKS as usize;
    for (percent, seed) in [(0, 31), (50, 32), (90, 33)] {
        let mut seen: [Vec<usize>; 3] = Default::default();
        let mut extents = 0;
        for trial in 0..500 {
            let ground = Ground::new(&vault, seed * 1000 + trial, percent);
            // Rewritten once: the first copy is in the way of the second, and gone for the third.
            let first = ground.write(40);
            let second = ground.write(40);
            drop(first);
            let third = ground.write(40);
            drop(second);
            extents += third.inner.extents.len();
            let blocks = Ground::blocks(&third);
            for (seen, at) in seen.iter_mut().zip([0, 20, blocks.len() - 1]) {
                seen.push(blocks[at] / REGION_BLOCKS as usize);
            }
        }
        assert_eq!(extents > 500 * 4, percent >= 50, "{extents} extents at {percent} %");
        for (which, seen) in seen.into_iter().enumerate() {
            let total = seen.len() as f64 / regions as f64;
            let deviation = deviation(
                counts(regions, seen.into_iter())
                    .into_iter()
                    .map(|count| (count, total)),
            );
            assert!(
                deviation.abs() < DEVIATION_MAX,
                "{percent} % taken, block {which}: {deviation}"
            );
        }
    }
}

/// Two copies of one size go, one after the other, and a third comes: it lies on the places of the one that went last as often as on
/// those of the one that went first. A coin says which goes first, so that nothing else tells them apart.
#[test]
fn place_that_became_free_last_is_no_likelier_than_one_before_it() {
    let vault = keys();
    for (percent, seed) in [(50, 41), (90, 42)] {
        let (mut last_more, mut first_more) = (0_i32, 0_i32);
        for trial in 0..400 {
            let ground = Ground::new(&vault, seed * 1000 + trial, percent);
            let (mut one, mut two) = (ground.write(60), ground.write(60));
            if below(ground.entropy.as_ref(), 2) == 1 {
                std::mem::swap(&mut one, &mut two);
            }
            let (first, last) = (Ground::blocks(&one), Ground::blocks(&two));
            drop(one);
            drop(two);
            let new = Ground::blocks(&ground.write(60));
            let shared = |old: &[usize]| new.iter().filter(|block| old.contains(block)).count();
            match shared(&last).cmp(&shared(&first)) {
                std::cmp::Ordering::Greater => last_more += 1,
                std::cmp::Ordering::Less => first_more += 1,
                std::cmp::Ordering::Equal => {}
            }
        }
        let told = f64::from(last_more + first_more);
        assert!(
            told > 100.0,
            "{percent} %: the copies seldom meet, so this tells nothing: {told}"
        );
        let deviation = f64::from(last_more - first_more) / told.sqrt();
        assert!(
            deviation.abs() < DEVIATION_MAX,
            "{percent} % taken: {last_more} and {first_more}"
        );
    }
}

/// What the tests above stand on: neither places that are always the same nor such that take turns pass for chance.
#[test]
fn chance_is_what_the_statistic_asks_for() {
    let entropy = SeededEntropy::new(51);
    let even = counts(16, (0..1600).map(|_| usize::try_from(below(&entropy, 16)).unwrap()));
    assert!(deviation(even.into_iter().map(|count| (count, 100.0))).abs() < DEVIATION_MAX);
    let first_fit = counts(16, (0..1600).map(|_| 0));
    assert!(deviation(first_fit.into_iter().map(|count| (count, 100.0))) > 50.0);
    let round_robin = counts(16, (0..1600).map(|at| at % 16));
    assert!(deviation(round_robin.into_iter().map(|count| (count, 100.0))) < -DEVIATION_MAX);
}
