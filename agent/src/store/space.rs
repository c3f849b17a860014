//! The agent's disk space: volumes, free blocks, reservations and the capacity bound.
//!
//! Volumes are files of random octets, grown in steps; what is grown is durable before it is used. Blocks are held by
//! [`Extents`]: when the last holder of a copy drops it (the index, a reader, a table), its blocks are free again.
//!
//! Accounting: `used + reserved` never exceeds the capacity; it is checked under one lock at every change.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::extent::{BLOCK_OCTETS, ClaimError, Extent, FreeMap, REGION_BLOCKS, blocks_of};
use super::io::{Disk, DiskFile, VOLUMES};
use crate::vault::Entropy;
use crate::vault::Suite;
use crate::vault::entropy::Noise;

/// Disk space left alone when volumes grow, beside half the index's size, so that the index can always be written:
/// without it a full disk could not even delete.
const HEADROOM_OCTETS: u64 = 8 * 1024 * 1024;

/// Octets written at once while a volume is filled.
const FILL_OCTETS: usize = 1024 * 1024;

/// No room: the capacity is reached, or the disk is full.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Full {
    /// The setting is reached.
    #[error(
        "{wanted} octets do not fit: {used} of {capacity} are used and {reserved} reserved; raise store.capacity or drain objects"
    )]
    Capacity {
        /// What was wanted.
        wanted: u64,
        /// What copies take.
        used: u64,
        /// What is set aside.
        reserved: u64,
        /// The setting.
        capacity: u64,
    },
    /// The file system is full before the capacity is reached.
    #[error("the disk is full: {available} octets are left and {needed} needed; free some or lower store.capacity")]
    Disk {
        /// What the file system has.
        available: u64,
        /// What is needed, the index's headroom included.
        needed: u64,
    },
    /// A volume could not be grown.
    #[error("grow a volume")]
    Io(#[from] io::Error),
}

/// What is used of how much, in octets of whole blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// The bound.
    pub capacity: u64,
    /// Taken by copies, staged ones and ones still read included.
    pub used: u64,
    /// Set aside for copies that are coming.
    pub reserved: u64,
}

/// Sizes, in blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) capacity: u64,
    pub(crate) volume: u32,
    pub(crate) step: u32,
}

/// One volume's file.
#[derive(Debug)]
pub(crate) struct Volume {
    file: Arc<dyn DiskFile>,
    /// Written since the last sync began.
    dirty: AtomicBool,
}

#[derive(Debug)]
struct State {
    map: FreeMap,
    reserved: u64,
}

/// All volumes of one agent.
#[derive(Debug)]
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    entropy: Arc<dyn Entropy>,
    sizes: Sizes,
    state: Mutex<State>,
    volumes: RwLock<Vec<Arc<Volume>>>,
    /// Blocks of each volume that are filled and durable; the lock is held while one grows.
    growth: Mutex<Vec<u32>>,
    /// Held while the volumes are synced; whether that ever failed.
    sync: Mutex<bool>,
    /// The index's length, for the headroom.
    index_octets: AtomicU64,
}

impl Space {
    /// Opens the volumes that the index says are grown.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
        sizes: Sizes,
        grown: Vec<u32>,
    ) -> Result<Arc<Space>, io::Error> {
        let mut map = FreeMap::default();
        let mut volumes = Vec::new();
        for (number, &blocks) in (0..).zip(&grown) {
            let file = disk.open(&name(number))?;
            let needed = u64::from(blocks) * BLOCK_OCTETS;
            let found = file.len()?;
            if found < needed {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} has {found} octets where the index knows {needed}: it was cut or replaced",
                        name(number)
                    ),
                ));
            }
            map.grow(number, blocks);
            volumes.push(Arc::new(Volume {
                file,
                dirty: AtomicBool::new(false),
            }));
        }
        Ok(Arc::new(Space {
            disk,
            entropy,
            sizes,
            state: Mutex::new(State { map, reserved: 0 }),
            volumes: RwLock::new(volumes),
            growth: Mutex::new(grown),
            sync: Mutex::new(false),
            index_octets: AtomicU64::new(0),
        }))
    }

    /// Blocks of each volume that are durable, to be written in the index with the next commit.
    pub(crate) fn grown(&self) -> Vec<u32> {
        self.growth.lock().clone()
    }

    pub(crate) fn set_index_octets(&self, octets: u64) {
        self.index_octets.store(octets, Ordering::Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.state.lock();
        Usage {
            capacity: self.sizes.capacity * BLOCK_OCTETS,
            used: (state.map.blocks() - state.map.free()) * BLOCK_OCTETS,
            reserved: state.reserved * BLOCK_OCTETS,
        }
    }

    /// Takes the extents of a copy that the index names.
    pub(crate) fn claim(self: &Arc<Self>, list: Box<[Extent]>) -> Result<Extents, ClaimError> {
        let mut state = self.state.lock();
        for (done, &extent) in list.iter().enumerate() {
            if let Err(error) = state.map.claim(extent) {
                for &extent in &list[..done] {
                    state.map.release(extent);
                }
                return Err(error);
            }
        }
        Ok(Extents {
            list,
            space: Some(self.clone()),
        })
    }

    /// Sets blocks aside for a copy of this much plaintext, sealed by `suite`.
    pub(crate) fn reserve(self: &Arc<Self>, plain_octets: u64, suite: Suite) -> Result<Reservation, Full> {
        // Two streams round up to blocks of their own.
        let blocks = blocks_of(suite.sealed_octets_max(plain_octets)) + 2;
        let wanted = {
            let mut state = self.state.lock();
            let used = state.map.blocks() - state.map.free();
            if used + state.reserved + blocks > self.sizes.capacity {
                return Err(self.over_capacity(&state, blocks));
            }
            state.reserved += blocks;
            // What must still be grown for all that is reserved.
            state.reserved.saturating_sub(state.map.free()) * BLOCK_OCTETS
        };
        let reservation = Reservation {
            space: self.clone(),
            blocks: AtomicU64::new(blocks),
        };
        let available = self.disk.available(VOLUMES)?;
        let needed = wanted + self.headroom();
        if wanted > 0 && available < needed {
            return Err(Full::Disk { available, needed });
        }
        Ok(reservation)
    }

    fn over_capacity(&self, state: &State, blocks: u64) -> Full {
        Full::Capacity {
            wanted: blocks * BLOCK_OCTETS,
            used: (state.map.blocks() - state.map.free()) * BLOCK_OCTETS,
            reserved: state.reserved * BLOCK_OCTETS,
            capacity: self.sizes.capacity * BLOCK_OCTETS,
        }
    }

    fn headroom(&self) -> u64 {
        HEADROOM_OCTETS + self.index_octets.load(Ordering::Relaxed) / 2
    }

    /// Takes a run of up to `wish` blocks at a random place, growing the volumes when needed. Blocks come out of
    /// `reservations`, one after the other, as far as they go.
    pub(crate) fn take(&self, wish: u32, reservations: &[&Reservation]) -> Result<Extent, Full> {
        loop {
            let grown_before = {
                let mut state = self.state.lock();
                let state = &mut *state;
                let mine = mine(reservations);
                // Blocks reserved for others stay theirs, in the capacity and among the free ones.
                let others = state.reserved - mine;
                let used = state.map.blocks() - state.map.free();
                let allowed = self.sizes.capacity.saturating_sub(used + others);
                if allowed == 0 {
                    return Err(self.over_capacity(state, u64::from(wish)));
                }
                let within = state.map.free().saturating_sub(others).min(allowed);
                if within > 0 {
                    let wish = u64::from(wish).min(within);
                    let wish = u32::try_from(wish).expect("at most the wish");
                    if let Some(extent) = state.map.take(self.entropy.as_ref(), wish) {
                        let mut left = u64::from(extent.blocks);
                        for reservation in reservations {
                            let own = left.min(reservation.blocks.load(Ordering::Relaxed));
                            reservation.blocks.fetch_sub(own, Ordering::Relaxed);
                            state.reserved -= own;
                            left -= own;
                        }
                        return Ok(extent);
                    }
                }
                state.map.blocks()
            };
            self.grow(grown_before)?;
        }
    }

    /// Whether growing ahead of need is worth it: little is free, and there is room to grow.
    pub(crate) fn wants_growth(&self) -> bool {
        let state = self.state.lock();
        let spare = state.map.free().saturating_sub(state.reserved);
        spare < u64::from(self.sizes.step) / 2 && state.map.blocks() < self.sizes.capacity
    }

    /// Grows by one step before anybody waits for it.
    pub(crate) fn grow_ahead(&self) -> Result<(), Full> {
        let blocks = self.state.lock().map.blocks();
        self.grow(blocks)
    }

    /// Grows by one step, or less where the capacity, the volume or the disk ends; nothing if somebody else grew since
    /// `blocks_before` was read.
    fn grow(&self, blocks_before: u64) -> Result<(), Full> {
        let mut growth = self.growth.lock();
        let blocks = self.state.lock().map.blocks();
        if blocks > blocks_before {
            return Ok(());
        }
        let region = u64::from(REGION_BLOCKS);
        let room = (self.sizes.capacity.next_multiple_of(region)).saturating_sub(blocks);
        if room == 0 {
            return Err(self.over_capacity(&self.state.lock(), 1));
        }
        let fresh = growth.last().is_none_or(|&last| last >= self.sizes.volume);
        let (number, at) = if fresh {
            (growth.len(), 0)
        } else {
            (growth.len() - 1, growth[growth.len() - 1])
        };
        let number = u32::try_from(number).expect("volumes are numbered by u32");
        let mut step = u64::from(self.sizes.step)
            .min(room)
            .min(u64::from(self.sizes.volume - at));
        let headroom = self.headroom();
        let available = self.disk.available(VOLUMES)?;
        step = step.min(available.saturating_sub(headroom) / BLOCK_OCTETS);
        step -= step % region;
        if step == 0 {
            return Err(Full::Disk {
                available,
                needed: region * BLOCK_OCTETS + headroom,
            });
        }
        let step = u32::try_from(step).expect("at most a volume");
        let volume = if fresh {
            let file = self.disk.open(&name(number))?;
            self.disk.sync_folder(VOLUMES)?;
            Arc::new(Volume {
                file,
                dirty: AtomicBool::new(false),
            })
        } else {
            self.volumes.read()[number as usize].clone()
        };
        self.fill(&volume, u64::from(at) * BLOCK_OCTETS, u64::from(step) * BLOCK_OCTETS)?;
        let mut volumes = self.volumes.write();
        if fresh {
            volumes.push(volume);
            growth.push(step);
        } else {
            growth[number as usize] += step;
        }
        drop(volumes);
        self.state.lock().map.grow(number, step);
        tracing::debug!(volume = number, blocks = step, "volume grown");
        Ok(())
    }

    /// Fills a range with random octets, durably. On failure the file is cut back to what it was.
    fn fill(&self, volume: &Volume, from: u64, octets: u64) -> io::Result<()> {
        let attempt = || {
            volume.file.allocate(from, octets)?;
            let mut noise = Noise::new(self.entropy.as_ref());
            let mut buffer = vec![0; FILL_OCTETS];
            let mut at = from;
            while at < from + octets {
                noise.fill(&mut buffer);
                volume.file.write_at(at, &buffer)?;
                at += FILL_OCTETS as u64;
            }
            volume.file.sync_data()
        };
        attempt().inspect_err(|_| {
            if let Err(error) = volume.file.set_len(from) {
                tracing::warn!(%error, "a volume that could not be grown keeps its unused end");
            }
        })
    }

    pub(crate) fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// Gives blocks back that a stream took and that no entry names.
    pub(crate) fn give_back(&self, extent: Extent) {
        self.state.lock().map.release(extent);
    }

    fn volume(&self, number: u32) -> Arc<Volume> {
        self.volumes.read()[number as usize].clone()
    }

    /// Writes at an offset of an extent.
    pub(crate) fn write(&self, extent: Extent, offset: u64, octets: &[u8]) -> io::Result<()> {
        assert!(
            offset + octets.len() as u64 <= extent.octets(),
            "writes stay inside their extent"
        );
        let volume = self.volume(extent.volume);
        volume.file.write_at(extent.offset() + offset, octets)?;
        volume.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Reads from an offset of an extent.
    pub(crate) fn read(&self, extent: Extent, offset: u64, out: &mut [u8]) -> io::Result<()> {
        assert!(
            offset + out.len() as u64 <= extent.octets(),
            "reads stay inside their extent"
        );
        self.volume(extent.volume).file.read_at(extent.offset() + offset, out)
    }

    /// Drops the system's cached copy of an extent.
    pub(crate) fn forget_cached(&self, extent: Extent) {
        self.volume(extent.volume)
            .file
            .forget_cached(extent.offset(), extent.octets());
    }

    /// Makes everything written so far durable. One failure is for ever: the system reports it once and forgets what it
    /// could not write, so no later success would say anything of it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // Whoever comes while another syncs must wait for its end: the octets it cares for may be that one's.
        let mut failed = self.sync.lock();
        let volumes: Vec<_> = self.volumes.read().clone();
        for volume in volumes {
            // Cleared first: a write that comes while the sync runs is not covered by it.
            if !*failed && volume.dirty.swap(false, Ordering::AcqRel) {
                volume.file.sync_data().inspect_err(|_| *failed = true)?;
            }
        }
        if *failed {
            return Err(io::Error::other(
                "an earlier sync of the volumes failed: restart the agent",
            ));
        }
        Ok(())
    }

    /// Starts bringing one volume to disk, so that no commit pays for a large stream's octets. Says nothing of what
    /// others wrote: the next [`Space::sync`] still covers it.
    pub(crate) fn sync_early(&self, volume: u32) -> io::Result<()> {
        let result = self.volume(volume).file.sync_data();
        if result.is_err() {
            *self.sync.lock() = true;
        }
        result
    }
}

/// What these reservations still set aside, each counted once.
fn mine(reservations: &[&Reservation]) -> u64 {
    let mut distinct: Vec<_> = reservations.to_vec();
    distinct.sort_by_key(|reservation| std::ptr::from_ref(*reservation));
    distinct.dedup_by_key(|reservation| std::ptr::from_ref(*reservation));
    distinct
        .iter()
        .map(|reservation| reservation.blocks.load(Ordering::Relaxed))
        .sum()
}

fn name(volume: u32) -> String {
    format!("{VOLUMES}/{volume:04}")
}

/// Disk space set aside; what is left of it is free again when this is dropped.
pub struct Reservation {
    space: Arc<Space>,
    /// Changed only under the lock of the space's state, and never above what `State::reserved` counts for it.
    blocks: AtomicU64,
}

impl Reservation {
    /// Octets still set aside.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed) * BLOCK_OCTETS
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("octets", &self.octets()).finish()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.state.lock().reserved -= *self.blocks.get_mut();
    }
}

/// The places of one stream, in order. While any clone of the `Arc` around it lives, nothing else is written there;
/// then its blocks are free.
pub struct Extents {
    list: Box<[Extent]>,
    space: Option<Arc<Space>>,
}

impl Extents {
    /// Places that are only told, not held: what a row says before its volumes are known.
    #[must_use]
    pub fn told(list: Box<[Extent]>) -> Self {
        Extents { list, space: None }
    }

    /// Places that were taken for a stream.
    pub(crate) fn held(list: Box<[Extent]>, space: &Arc<Space>) -> Self {
        Extents {
            list,
            space: Some(space.clone()),
        }
    }
}

impl std::ops::Deref for Extents {
    type Target = [Extent];

    fn deref(&self) -> &[Extent] {
        &self.list
    }
}

impl fmt::Debug for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter()).finish()
    }
}

impl PartialEq for Extents {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Extents {}

impl Drop for Extents {
    fn drop(&mut self) {
        if let Some(space) = &self.space {
            let mut state = space.state.lock();
            for &extent in &self.list {
                state.map.release(extent);
            }
        }
    }
}
