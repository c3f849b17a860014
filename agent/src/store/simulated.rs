//! A disk in memory that loses, tears and runs full.
//!
//! What is not synced is at the mercy of [`SimulatedDisk::restart`]: each sector of each unsynced write survives or not,
//! by the seed. A fuse cuts the power at a chosen step; from then on every call fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::io::{Disk, DiskFile};

/// Octets that a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Unsynced {
    Write { offset: usize, octets: Vec<u8> },
    Length(usize),
}

impl Unsynced {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Unsynced::Write { offset, octets } => {
                let end = offset + octets.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(octets);
            }
            Unsynced::Length(octets) => content.resize(*octets, 0),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct FileState {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<String, FileState>,
    durable_names: BTreeSet<String>,
    /// Steps until the power goes.
    fuse: Option<u64>,
    lost: bool,
    steps: u64,
    capacity: Option<usize>,
    /// What `available` answers instead of the truth.
    claimed: Option<u64>,
    syncs_fail: bool,
}

impl World {
    /// Counts one step that changes something durable, or fails once the power is gone.
    fn step(&mut self) -> io::Result<()> {
        self.powered()?;
        if self.fuse == Some(0) {
            self.lost = true;
            return self.powered();
        }
        self.fuse = self.fuse.map(|fuse| fuse - 1);
        self.steps += 1;
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        if self.lost {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    fn used(&self) -> usize {
        self.files.values().map(|file| file.current.len()).sum()
    }

    fn change(&mut self, name: &str, change: Unsynced) -> io::Result<()> {
        self.step()?;
        let before = self.used();
        let capacity = self.capacity.unwrap_or(usize::MAX);
        let file = self.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let grown = match &change {
            Unsynced::Write { offset, octets } => (offset + octets.len()).saturating_sub(file.current.len()),
            Unsynced::Length(octets) => octets.saturating_sub(file.current.len()),
        };
        if grown > 0 && before + grown > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut file.current);
        file.unsynced.push(change);
        Ok(())
    }
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<World>>);

impl SimulatedDisk {
    /// Cuts the power after this many more steps.
    pub(crate) fn cut_power_after(&self, steps: u64) {
        self.0.lock().fuse = Some(steps);
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    pub(crate) fn set_capacity(&self, octets: Option<usize>) {
        self.0.lock().capacity = octets;
    }

    /// Lets `available` answer this, whatever is true.
    pub(crate) fn claim_available(&self, octets: Option<u64>) {
        self.0.lock().claimed = octets;
    }

    /// Lets every sync fail from now on.
    pub(crate) fn fail_syncs(&self) {
        self.0.lock().syncs_fail = true;
    }

    /// Changes one octet behind everybody's back.
    pub(crate) fn rot(&self, name: &str, offset: u64) {
        let mut world = self.0.lock();
        let file = world.files.get_mut(name).expect("the file is there");
        file.current[usize::try_from(offset).unwrap()] ^= 0x10;
        file.durable.clone_from(&file.current);
        file.unsynced.clear();
    }

    /// Every octet of every file, as a thief would find them.
    pub(crate) fn everything(&self) -> Vec<(String, Vec<u8>)> {
        let world = self.0.lock();
        (world.files.iter())
            .map(|(name, file)| (name.clone(), file.current.clone()))
            .collect()
    }

    /// The disk after the power came back: what was synced, and of the rest what chance left.
    pub(crate) fn restart(&self, seed: u64) -> SimulatedDisk {
        let mut random = StdRng::seed_from_u64(seed);
        let world = self.0.lock();
        let mut files = BTreeMap::new();
        for (name, file) in &world.files {
            if !world.durable_names.contains(name) && random.random_bool(0.5) {
                continue;
            }
            let mut content = file.durable.clone();
            for change in &file.unsynced {
                match change {
                    Unsynced::Length(_) => {
                        if random.random_bool(0.5) {
                            change.apply(&mut content);
                        }
                    }
                    Unsynced::Write { offset, octets } => {
                        let whole = random.random_bool(0.3);
                        for (number, sector) in octets.chunks(SECTOR).enumerate() {
                            if whole || random.random_bool(0.5) {
                                Unsynced::Write {
                                    offset: offset + number * SECTOR,
                                    octets: sector.to_vec(),
                                }
                                .apply(&mut content);
                            }
                        }
                    }
                }
            }
            files.insert(
                name.clone(),
                FileState {
                    durable: content.clone(),
                    current: content,
                    unsynced: Vec::new(),
                },
            );
        }
        let durable_names = files.keys().cloned().collect();
        SimulatedDisk(Arc::new(Mutex::new(World {
            files,
            durable_names,
            ..World::default()
        })))
    }
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk for SimulatedDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.powered()?;
        world.files.entry(name.to_owned()).or_default();
        Ok(Arc::new(SimulatedFile {
            disk: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let world = self.0.lock();
        world.powered()?;
        let within = |name: &&String| self::folder(name) == folder;
        let last = |name: &String| name.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(world.files.keys().filter(within).map(last).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        world.files.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let world = self.0.lock();
        world.powered()?;
        let file = world.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.current.clone())
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        world.files.insert(
            name.to_owned(),
            FileState {
                durable: content.to_vec(),
                current: content.to_vec(),
                unsynced: Vec::new(),
            },
        );
        world.durable_names.insert(name.to_owned());
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        let names: Vec<_> = (world.files.keys())
            .filter(|name| self::folder(name) == folder)
            .cloned()
            .collect();
        world.durable_names.extend(names);
        Ok(())
    }

    fn available(&self, _: &str) -> io::Result<u64> {
        let world = self.0.lock();
        world.powered()?;
        let free = world
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(world.used()) as u64);
        Ok(world.claimed.unwrap_or(free))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    name: String,
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        let world = self.disk.0.lock();
        world.powered()?;
        Ok(world
            .files
            .get(&self.name)
            .ok_or(io::ErrorKind::NotFound)?
            .current
            .len() as u64)
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        let octets = usize::try_from(octets).unwrap();
        self.disk.0.lock().change(&self.name, Unsynced::Length(octets))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let world = self.disk.0.lock();
        world.powered()?;
        let file = world.files.get(&self.name).ok_or(io::ErrorKind::NotFound)?;
        let offset = usize::try_from(offset).unwrap();
        let found = file.current.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let change = Unsynced::Write {
            offset: usize::try_from(offset).unwrap(),
            octets: octets.to_vec(),
        };
        self.disk.0.lock().change(&self.name, change)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        world.step()?;
        if world.syncs_fail {
            return Err(io::Error::other("the disk lost what it was to keep"));
        }
        let file = world.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?;
        for change in file.unsynced.drain(..) {
            change.apply(&mut file.durable);
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, octets: u64) -> io::Result<()> {
        let end = usize::try_from(offset + octets).unwrap();
        let mut world = self.disk.0.lock();
        world.powered()?;
        let length = world
            .files
            .get(&self.name)
            .ok_or(io::ErrorKind::NotFound)?
            .current
            .len();
        if end > length {
            world.change(&self.name, Unsynced::Length(end))?;
        }
        Ok(())
    }

    fn forget_cached(&self, _: u64, _: u64) {}
}
