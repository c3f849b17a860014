//! How free space falls apart: copies written and removed at random on a full disk, and the length of their lists of places.
//!
//! `cargo run -p agent --example fragmentation`: 128 MiB of blocks are filled to a share with objects, then as many are
//! replaced as make the disk's octets several times. Every row is what the copies of that moment have.

use std::collections::BTreeMap;

use agent::store::extent::{BLOCK_OCTETS, Extent, FreeMap, REGION_BLOCKS, RUN_BLOCKS_MAX, blocks_of};
use agent::vault::{Entropy, SystemEntropy};

const REGIONS: u32 = 128;
/// Times that the disk is written anew.
const ROUNDS: [u64; 3] = [0, 2, 8];

/// A number below another; the bias of a remainder of 64 bits is of no matter here.
fn below(bound: u64) -> u64 {
    let mut octets = [0; 8];
    SystemEntropy.fill(&mut octets);
    u64::from_le_bytes(octets) % bound
}

/// Sizes of a pool of files: most are small, most octets are in large ones. As many in each power of two from 1 KiB to 8 MiB.
fn mixed() -> u64 {
    let least = 1024_u64 << below(13);
    least + below(least)
}

fn large() -> u64 {
    (8 << 20) + below(8 << 20)
}

fn small() -> u64 {
    1 + below(16 << 10)
}

/// Takes places as a stream of known length does.
fn write(map: &mut FreeMap, octets: u64) -> Option<Vec<Extent>> {
    let mut left = blocks_of(octets + 16);
    if left > map.free() {
        return None;
    }
    let mut extents = Vec::new();
    while left > 0 {
        let wish = u32::try_from(left.min(u64::from(RUN_BLOCKS_MAX))).ok()?;
        let extent = map.take(&SystemEntropy, wish)?;
        left -= u64::from(extent.blocks);
        extents.push(extent);
    }
    Some(extents)
}

/// Octets of a list of places in a row: three numbers of CBOR each.
fn row_octets(extents: &[Extent]) -> u64 {
    let number = |number: u32| match number {
        0..24 => 1,
        24..256 => 2,
        256..65_536 => 3,
        _ => 5,
    };
    (extents.iter())
        .map(|extent| number(extent.volume) + number(extent.block) + number(extent.blocks))
        .sum()
}

fn main() {
    println!(
        "| sizes | full | written anew | extents a copy | extents a MiB | row octets a MiB | copies in one piece |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (name, size) in [
        ("1 B to 16 KiB", small as fn() -> u64),
        ("1 KiB to 8 MiB", mixed),
        ("8 to 16 MiB", large),
    ] {
        for percent in [50, 90, 97] {
            let mut map = FreeMap::default();
            map.grow(0, REGIONS * REGION_BLOCKS);
            let mut copies: BTreeMap<u64, Vec<Extent>> = BTreeMap::new();
            let mut next = 0;
            let (total, mut written) = (map.blocks(), 0);
            let mut full = false;
            for rounds in ROUNDS {
                while !full || written < total * rounds {
                    // A new copy comes before an old one goes.
                    if let Some(extents) = write(&mut map, size()) {
                        written += extents.iter().map(|extent| u64::from(extent.blocks)).sum::<u64>();
                        copies.insert(next, extents);
                        next += 1;
                    }
                    while map.blocks() - map.free() > total * percent / 100 {
                        if !full {
                            (full, written) = (true, 0);
                        }
                        let from = below(next);
                        let oldest = copies.keys().next().copied().unwrap_or_default();
                        let key = copies.range(from..).next().map_or(oldest, |(key, _)| *key);
                        for extent in copies.remove(&key).unwrap_or_default() {
                            map.release(extent);
                        }
                    }
                }
                let extents: usize = copies.values().map(Vec::len).sum();
                let mib = ((map.blocks() - map.free()) * BLOCK_OCTETS) as f64 / f64::from(1 << 20);
                let rows: u64 = copies.values().map(|extents| row_octets(extents)).sum();
                let whole = copies.values().filter(|extents| extents.len() == 1).count();
                println!(
                    "| {name} | {percent} % | {rounds} times | {:.1} | {:.1} | {:.0} | {:.0} % |",
                    extents as f64 / copies.len() as f64,
                    extents as f64 / mib,
                    rows as f64 / mib,
                    100.0 * whole as f64 / copies.len() as f64,
                );
            }
        }
    }
}
