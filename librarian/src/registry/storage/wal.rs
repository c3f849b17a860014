//! Small commits, durable before the database is: a write-ahead log beside it.
//!
//! A durable commit of redb writes pages in several places of a file that grows, and waits for all of it. A change of one
//! register is a few hundred octets: appended to a file that has its full length from the beginning, it is durable after one
//! write. So a small commit goes here, and is kept in memory; when this file is full, or a commit is large, the database takes in
//! all of them and this one, durably, and the file begins anew.
//!
//! | field of a record | octets |
//! |---|---|
//! | length of what follows the digest | u32 |
//! | round, the same in all records since the file began anew: the database's last number then u64, 8 random octets | 16 |
//! | first half of SHA-256 over incarnation, round and what follows | 16 |
//! | entries below this number are dropped, 0 for none | u64 |
//! | entries to the record's end: number u64, length u32, octets | |
//!
//! Numbers are big-endian. Records follow each other from the beginning; the first that is not whole, or of another round,
//! ends them. Those of a round that the database covers are older than what it holds and change nothing. A registry that was
//! put in this one's place has another incarnation, for which no record is whole; an older copy of the same one has not come to the
//! round's first number, and must not be given what follows it.
//!
//! The file is there while a librarian runs. One that stops in order leaves the database alone to be read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Batch;
use crate::files;
use crate::registry::bytes::{Damaged, Reader, Writer};

/// Length of the file.
const FILE_OCTETS: usize = 1 << 20;
/// Largest commit that goes here first: of a larger one the waiting is the lesser part.
const RECORD_OCTETS_MAX: usize = 64 << 10;
const ROUND_OCTETS: usize = 16;
const DIGEST_OCTETS: usize = 16;
const HEAD_OCTETS: usize = 4 + ROUND_OCTETS + DIGEST_OCTETS;

type Round = [u8; ROUND_OCTETS];

/// What a file holds.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Commits {
    /// The last number in the database when the file began anew; 0 if there are no commits.
    pub(super) after: u64,
    /// Oldest first.
    pub(super) batches: Vec<Batch>,
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Wal {
    file: File,
    path: PathBuf,
    incarnation: [u8; 16],
    round: Round,
    /// Where the next record goes.
    end: usize,
    /// A write failed: what the disk holds is not known any more.
    is_broken: bool,
    /// The record in the making.
    record: Writer,
}

/// The commits in a file, none if it is of another registry; `None` if there is no file.
pub(super) fn read(path: &Path, incarnation: [u8; 16]) -> io::Result<Option<Commits>> {
    let octets = match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() <= FILE_OCTETS as u64 => std::fs::read(path)?,
        // Nothing of ours: no file that we made is longer.
        Ok(_) => return Ok(Some(Commits::default())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(read_octets(&octets, incarnation)))
}

fn read_octets(mut octets: &[u8], incarnation: [u8; 16]) -> Commits {
    let mut commits = Commits::default();
    let mut of = None;
    while let Ok((round, batch, rest)) = read_record(octets, incarnation) {
        if *of.get_or_insert(round) != round {
            break;
        }
        let [after, _] = round.as_chunks().0 else {
            unreachable!("a round has 16 octets")
        };
        commits.after = u64::from_be_bytes(*after);
        commits.batches.push(batch);
        octets = rest;
    }
    commits
}

/// Reads octets as they are, and as the body of a record that is whole.
pub(crate) fn read_whole(octets: &[u8]) {
    let (incarnation, round) = ([7; 16], [8; ROUND_OCTETS]);
    read_octets(octets, incarnation);
    let mut record = Writer::default();
    record.u32(u32::try_from(octets.len()).unwrap_or(u32::MAX));
    for head in [round, digest(incarnation, round, octets)] {
        record.0.extend(head);
    }
    record.0.extend(octets);
    for batch in read_octets(&record.0, incarnation).batches {
        let octets_in = body_octets(&batch);
        assert_eq!(octets_in, octets.len(), "a record is read whole");
    }
}

fn read_record(octets: &[u8], incarnation: [u8; 16]) -> Result<(Round, Batch, &[u8]), Damaged> {
    let mut from = Reader(octets);
    let length = from.u32()? as usize;
    let round = from.octets16()?;
    let expected = from.octets16()?;
    let (body, rest) = from.0.split_at_checked(length).ok_or(Damaged("a record ends early"))?;
    if digest(incarnation, round, body) != expected {
        return Err(Damaged("a record is not whole"));
    }
    let mut from = Reader(body);
    let below = from.u64()?;
    let mut batch = Batch {
        forget_below: (below > 0).then_some(below),
        ..Batch::default()
    };
    while !from.is_empty() {
        batch.entries.push(from.u64()?, from.long()?);
    }
    Ok((round, batch, rest))
}

/// Octets of a record behind its digest.
fn body_octets(batch: &Batch) -> usize {
    8 + 12 * batch.entries.len() + batch.entries.octets()
}

fn digest(incarnation: [u8; 16], round: Round, body: &[u8]) -> [u8; DIGEST_OCTETS] {
    let mut digest = Sha256::new();
    digest.update(incarnation);
    digest.update(round);
    digest.update(body);
    let whole: [u8; 32] = digest.finalize().into();
    whole[..DIGEST_OCTETS].try_into().expect("half of it")
}

impl Wal {
    /// Makes the file anew, in its full length; what it held must be in the database, whose last number is `after`.
    pub(super) fn begin(path: &Path, incarnation: [u8; 16], after: u64) -> io::Result<Wal> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path)?;
        // Written, not only reserved: to reserve leaves the disk's map to be changed at each write.
        file.write_all_at(&vec![0; FILE_OCTETS], 0)?;
        file.sync_all()?;
        files::belong(&file, path)?;
        files::sync_dir_of(path)?;
        Ok(Wal {
            file,
            path: path.to_owned(),
            incarnation,
            round: new_round(after),
            end: 0,
            is_broken: false,
            record: Writer::default(),
        })
    }

    /// Appends a commit; it is durable on return. `false`: nothing was written, since it is large or the file is full.
    pub(super) fn append(&mut self, batch: &Batch) -> io::Result<bool> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write failed: restart the librarian"));
        }
        let octets = HEAD_OCTETS + body_octets(batch);
        if octets > RECORD_OCTETS_MAX || self.end + octets > FILE_OCTETS {
            return Ok(false);
        }
        let record = &mut self.record;
        record.0.clear();
        record.0.resize(HEAD_OCTETS, 0);
        record.u64(batch.forget_below.unwrap_or(0));
        for (number, entry) in batch.entries.iter() {
            record.u64(number);
            record.long(entry);
        }
        let (head, body) = record.0.split_at_mut(HEAD_OCTETS);
        let length = u32::try_from(body.len()).expect("a record is short");
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4..4 + ROUND_OCTETS].copy_from_slice(&self.round);
        head[4 + ROUND_OCTETS..].copy_from_slice(&digest(self.incarnation, self.round, body));
        let written = self.file.write_all_at(&record.0, self.end as u64);
        // What failed once may have been dropped from memory: to try again would say that it is there.
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            self.is_broken = true;
            return Err(error);
        }
        self.end += record.0.len();
        Ok(true)
    }

    /// Begins anew: what was appended is durable in the database, whose last number is `after`.
    pub(super) fn reset(&mut self, after: u64) {
        self.round = new_round(after);
        self.end = 0;
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn new_round(after: u64) -> Round {
    let mut round = [0; ROUND_OCTETS];
    let (number, random) = round.split_at_mut(size_of_val(&after));
    number.copy_from_slice(&after.to_be_bytes());
    getrandom::fill(random).expect("the system gives random octets");
    round
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INCARNATION: [u8; 16] = [7; 16];

    fn batch(first: u64, sizes: &[usize]) -> Batch {
        let mut batch = Batch {
            forget_below: first.checked_sub(3).filter(|below| *below > 0),
            ..Batch::default()
        };
        for (size, number) in sizes.iter().zip(first..) {
            batch.entries.push(number, &vec![number as u8; *size]);
        }
        batch
    }

    fn commits(after: u64, batches: &[Batch]) -> Commits {
        Commits {
            after,
            batches: batches.to_vec(),
        }
    }

    #[test]
    fn what_was_appended_is_read_and_nothing_of_an_earlier_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal");
        assert_eq!(read(&path, INCARNATION).unwrap(), None);
        let mut wal = Wal::begin(&path, INCARNATION, 0).unwrap();
        let first = [batch(1, &[10, 0, 300]), batch(4, &[5]), batch(5, &[5])];
        for one in &first {
            assert!(wal.append(one).unwrap());
        }
        let held = |incarnation| read(&path, incarnation).unwrap().unwrap();
        assert_eq!(held(INCARNATION), commits(0, &first));
        assert_eq!(held([8; 16]), Commits::default(), "of another registry");
        wal.reset(5);
        // As long as the first of before: the ones behind it are whole, and of another round.
        let second = batch(6, &[10, 0, 300]);
        assert!(wal.append(&second).unwrap());
        assert_eq!(held(INCARNATION), commits(5, &[second]));
    }

    #[test]
    fn full_file_and_large_commits_take_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = Wal::begin(&dir.path().join("wal"), INCARNATION, 0).unwrap();
        assert!(!wal.append(&batch(1, &[RECORD_OCTETS_MAX])).unwrap());
        let mut number = 1;
        while wal.append(&batch(number, &[60_000])).unwrap() {
            number += 1;
        }
        assert_eq!(number as usize - 1, FILE_OCTETS / 60_100);
        let held = read(wal.path(), INCARNATION).unwrap().unwrap();
        assert_eq!(held.batches.len(), number as usize - 1);
        wal.reset(number - 1);
        assert!(wal.append(&batch(number, &[60_000])).unwrap());
    }

    proptest! {
        /// A write that was cut off leaves the records before it.
        #[test]
        fn records_before_a_damaged_one_are_read(
            sizes in proptest::collection::vec(0..40_usize, 1..6),
            at in any::<proptest::sample::Index>(),
            with in 1..=255_u8,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("wal");
            let mut wal = Wal::begin(&path, INCARNATION, 0).unwrap();
            let batches: Vec<Batch> = sizes.iter().zip(1..).map(|(size, number)| batch(number, &[*size])).collect();
            let mut ends = vec![0];
            for one in &batches {
                prop_assert!(wal.append(one).unwrap());
                ends.push(wal.end);
            }
            let mut octets = std::fs::read(&path).unwrap();
            let at = at.index(wal.end);
            octets[at] ^= with;
            let whole = ends.iter().filter(|end| **end <= at).count() - 1;
            prop_assert_eq!(&read_octets(&octets, INCARNATION).batches[..], &batches[..whole]);
        }

        #[test]
        fn any_octets_are_no_commits(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read_octets(&octets, INCARNATION).batches.is_empty());
        }
    }
}
