//! A disk in memory: what is written and what is durable are two images, and a cut of the power keeps what chance lets it.
//!
//! A sector is written whole or not at all. Which of the unsynced sectors survive depends on the seed of the cut and on
//! their places alone, so that the order in which a database happens to write its pages changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use agent::control;
use agent::register::Trust;
use agent::schema::finals::{self, Finals};
use agent::store::{Disk, DiskFile};
use parking_lot::Mutex;
use zones::Policy;

use super::dice;

/// Where it is kept which registry is believed.
const TRUST: &str = "incarnation";
/// Octets that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// The folder of the files that hold objects.
const VOLUMES: &str = "volumes/";

#[derive(Clone, Debug, Default)]
struct File {
    octets: Vec<u8>,
    /// Sectors that were written since the last sync, as they are on the platter.
    before: BTreeMap<usize, Vec<u8>>,
    durable_octets: usize,
    name_is_durable: bool,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    /// Durable steps until the power goes.
    fuse: Option<u32>,
    lost: bool,
    /// Nothing can be written, as on a full disk.
    full: bool,
    /// What is written to volumes is not what was given.
    miswrites: bool,
    /// Durable steps so far.
    steps: u64,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Platter(Arc<Mutex<State>>);

impl State {
    fn powered(&self) -> io::Result<()> {
        match self.lost {
            true => Err(io::Error::other("the power is gone")),
            false => Ok(()),
        }
    }

    /// One durable step, or the end.
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

    fn room(&self) -> io::Result<()> {
        self.powered()?;
        match self.full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        self.files.get_mut(name).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl File {
    fn write(&mut self, offset: usize, octets: &[u8]) {
        let end = offset + octets.len();
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let at = sector * SECTOR;
            let kept = self.durable_octets.min(self.octets.len()).min(at + SECTOR);
            self.before
                .entry(sector)
                .or_insert_with(|| self.octets.get(at..kept).unwrap_or_default().to_vec());
        }
        if self.octets.len() < end {
            self.octets.resize(end, 0);
        }
        self.octets[offset..end].copy_from_slice(octets);
    }

    fn sync(&mut self) {
        self.before.clear();
        self.durable_octets = self.octets.len();
    }

    /// What a cut of the power leaves.
    fn cut(&mut self, seed: u64) {
        let keeps_length = dice(seed, 1, 0).is_multiple_of(2);
        if !keeps_length {
            self.octets.resize(self.durable_octets, 0);
        }
        for (sector, before) in std::mem::take(&mut self.before) {
            let survives = dice(seed, sector as u64, 1).is_multiple_of(2);
            if survives {
                continue;
            }
            let at = sector * SECTOR;
            let end = (at + SECTOR).min(self.octets.len());
            if at < end {
                let mut old = before;
                old.resize(end - at, 0);
                self.octets[at..end].copy_from_slice(&old);
            }
        }
        self.sync();
        self.name_is_durable = true;
    }
}

impl Platter {
    /// Cuts the power in the midst of the durable step that comes after so many more.
    pub(super) fn cut_after(&self, steps: u32) {
        self.0.lock().fuse = Some(steps);
    }

    /// Whether the power is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.0.lock().lost
    }

    /// Lets every write fail, or no more.
    pub(super) fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Lets every write to a volume go wrong without a word, or no more.
    pub(super) fn miswrite(&self, wrong: bool) {
        self.0.lock().miswrites = wrong;
    }

    /// The disk after the power came back. The old one does nothing any more.
    pub(super) fn cut(&self, seed: u64) -> Platter {
        let mut state = self.0.lock();
        state.lost = true;
        let mut files = std::mem::take(&mut state.files);
        files.retain(|name, file| file.name_is_durable || dice(seed, name.len() as u64, 2).is_multiple_of(2));
        for (number, file) in files.values_mut().enumerate() {
            file.cut(dice(seed, number as u64, 3));
        }
        Platter(Arc::new(Mutex::new(State {
            files,
            ..State::default()
        })))
    }

    /// Another disk on which the same is written, and with which nothing is wrong.
    pub(super) fn copy(&self) -> Platter {
        let files = self.0.lock().files.clone();
        Platter(Arc::new(Mutex::new(State {
            files,
            ..State::default()
        })))
    }

    /// The plan number that was made durable, and what that plan asks.
    pub(super) fn read_plan(&self) -> Option<(u64, Policy)> {
        let octets = Disk::read(self, "plan").ok()?;
        control::read_plan(&String::from_utf8(octets).ok()?)
    }

    pub(super) fn write_plan(&self, plan: u64, policy: &Policy) -> io::Result<()> {
        self.replace("plan", control::plan_text(plan, policy).as_bytes())
    }

    /// Versions that are final.
    pub(super) fn read_finals(&self) -> Finals {
        let octets = Disk::read(self, finals::FILE).unwrap_or_default();
        let text = String::from_utf8(octets).expect("it was text");
        finals::of_text(&text).expect("a file is replaced whole or not at all")
    }

    pub(super) fn write_finals(&self, finals: &Finals) -> io::Result<()> {
        self.replace(finals::FILE, finals::text_of(finals).as_bytes())
    }

    /// Which registry is believed, as far as that is durable.
    pub(super) fn trust(&self) -> Trust {
        let text = Disk::read(self, TRUST).ok().map(String::from_utf8);
        let text = text.transpose().expect("it was text");
        let disk = self.clone();
        let keep = Box::new(move |text: &str| disk.replace(TRUST, text.as_bytes()));
        Trust::kept(text.as_deref(), keep).expect("a file is replaced whole or not at all")
    }

    /// Changes an octet of a file behind everybody's back.
    pub(super) fn rot(&self, name: &str, offset: u64) {
        let mut state = self.0.lock();
        if let Ok(file) = state.file(name)
            && let Some(octet) = file.octets.get_mut(usize::try_from(offset).expect("files fit memory"))
        {
            *octet ^= 0x10;
        }
    }
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk for Platter {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.powered()?;
        state.files.entry(name.to_owned()).or_default();
        Ok(Arc::new(Open {
            disk: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.powered()?;
        let within = |name: &&String| self::folder(name) == folder;
        let last = |name: &String| name.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(state.files.keys().filter(within).map(last).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step()?;
        state.files.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        state.powered()?;
        Ok(state.file(name)?.octets.clone())
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.room()?;
        state.step()?;
        let file = File {
            octets: content.to_vec(),
            before: BTreeMap::new(),
            durable_octets: content.len(),
            name_is_durable: true,
        };
        state.files.insert(name.to_owned(), file);
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step()?;
        for (name, file) in &mut state.files {
            file.name_is_durable |= self::folder(name) == folder;
        }
        Ok(())
    }

    fn available(&self, _: &str) -> io::Result<u64> {
        let state = self.0.lock();
        state.powered()?;
        Ok(if state.full { 0 } else { u64::MAX })
    }
}

#[derive(Debug)]
struct Open {
    disk: Platter,
    name: String,
}

impl DiskFile for Open {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock();
        state.powered()?;
        Ok(state.file(&self.name)?.octets.len() as u64)
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        let octets = usize::try_from(octets).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut state = self.disk.0.lock();
        state.powered()?;
        let full = state.room();
        let file = state.file(&self.name)?;
        if octets > file.octets.len() {
            full?;
        }
        // What is cut off is gone at once: nobody relies on its coming back.
        file.octets.resize(octets, 0);
        file.durable_octets = file.durable_octets.min(octets);
        Ok(())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.powered()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let found = state.file(&self.name)?.octets.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.room()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if self.name.starts_with(VOLUMES) && state.miswrites {
            let mut wrong = octets.to_vec();
            if let Some(octet) = wrong.first_mut() {
                *octet ^= 0x10;
            }
            state.file(&self.name)?.write(offset, &wrong);
        } else {
            state.file(&self.name)?.write(offset, octets);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.step()?;
        state.file(&self.name)?.sync();
        Ok(())
    }

    fn allocate(&self, offset: u64, octets: u64) -> io::Result<()> {
        let end = offset + octets;
        if self.len()? < end {
            self.set_len(end)?;
        }
        Ok(())
    }

    fn forget_cached(&self, _: u64, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_octets_survive_a_cut_and_unsynced_ones_may_not() {
        let mut lost = 0;
        for seed in 0..64 {
            let disk = Platter::default();
            let file = disk.open("a").unwrap();
            file.write_at(0, &[1; 2048]).unwrap();
            file.sync_data().unwrap();
            disk.sync_folder("").unwrap();
            file.write_at(512, &[2; 1024]).unwrap();
            let disk = disk.cut(seed);
            assert!(file.read_at(0, &mut [0]).is_err(), "the old disk is gone");
            let octets = disk.read("a").unwrap();
            assert_eq!(octets.len(), 2048);
            assert!(octets[..512].iter().chain(&octets[1536..]).all(|octet| *octet == 1));
            lost += usize::from(octets[512..1536].contains(&1));
        }
        assert!((20..64).contains(&lost), "{lost}");
    }

    #[test]
    fn disk_that_writes_wrongly_says_nothing_and_spares_what_is_no_volume() {
        let disk = Platter::default();
        let volume = disk.open("volumes/0000").unwrap();
        let index = disk.open("index").unwrap();
        disk.miswrite(true);
        for file in [&volume, &index] {
            file.write_at(0, &[1; 4]).unwrap();
        }
        disk.miswrite(false);
        volume.write_at(4, &[1; 4]).unwrap();
        assert_eq!(disk.read("volumes/0000").unwrap(), [0x11, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(disk.read("index").unwrap(), [1; 4]);
    }
}
