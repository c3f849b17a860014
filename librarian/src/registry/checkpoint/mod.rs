//! The registry's memory in a file, so that the next start need not read the whole log.
//!
//! Written when the librarian lets go of the registry in order. The next one takes it and reads only what the log holds behind it,
//! also when librarians were killed in between; where the file is missing, damaged, or not of this log, the log is read from its
//! beginning, as if there were none. The log stays the one truth: what a checkpoint says is what the log said up to an entry, of
//! which the checkpoint holds the digest. It may be deleted at any time, and is not synced: after a cut of the power it may be
//! damaged, which shows.
//!
//! In blocks ([`blocks`]):
//!
//! | field | |
//! |---|---|
//! | format u8, incarnation 16 octets, number of the next log entry u64, SHA-256 of the entry before it | whether it fits |
//! | count u32, each: number u64 | entries that count and are no registers: the log is asked for them |
//! | registers | see [`super::registers`] |
//!
//! Numbers are big-endian, those of registers little-endian.

mod blocks;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use zones::Domain;

pub(crate) use self::blocks::bad;
use self::blocks::{BlockReader, BlockWriter};
use super::entry::{Entry, is_register};
use super::index::Index;
use super::storage::Storage;
use crate::files::{self, FileError};

const FORMAT: u8 = 1;

/// Writes what is in memory: all that the log holds before `next_seq`, and nothing else.
pub(super) fn write(
    path: &Path,
    incarnation: [u8; 16],
    next_seq: u64,
    index: &Index,
    log: &dyn Storage,
) -> Result<(), FileError> {
    let beside = path.with_extension("checkpoint-new");
    let attempt = || -> io::Result<()> {
        let Some(last) = digest_of(log, next_seq - 1) else {
            return Err(io::Error::other("the log lacks its last entry"));
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        files::belong(&file, &beside)?;
        let mut out = BlockWriter::new(BufWriter::new(file));
        out.write_all(&[FORMAT])?;
        out.write_all(&incarnation)?;
        out.write_all(&next_seq.to_be_bytes())?;
        out.write_all(&last)?;
        let others = index.other_entries();
        let count = u32::try_from(others.len()).map_err(io::Error::other)?;
        out.write_all(&count.to_be_bytes())?;
        for seq in others {
            out.write_all(&seq.to_be_bytes())?;
        }
        index.registers.save(&mut out)?;
        out.finish()?;
        std::fs::rename(&beside, path)
    };
    attempt().map_err(|source| {
        // Half of one is none; that it cannot be removed is what the first error is about.
        let _ = std::fs::remove_file(&beside);
        FileError::new("write", path)(source)
    })
}

/// The registry as a checkpoint has it, still loading, and the number of the first log entry that it does not have; `None` if there
/// is none that fits.
pub(super) fn read(path: &Path, incarnation: [u8; 16], domain: &Domain, log: &dyn Storage) -> Option<(Index, u64)> {
    match attempt(path, incarnation, domain, log) {
        Ok(found) => Some(found),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::info!(path = %path.display(), %error, "checkpoint is not used: the log is read from its beginning");
            }
            None
        }
    }
}

fn attempt(path: &Path, incarnation: [u8; 16], domain: &Domain, log: &dyn Storage) -> io::Result<(Index, u64)> {
    let mut from = BlockReader::new(File::open(path)?)?;
    let [format] = octets(&mut from)?;
    if format != FORMAT {
        return Err(bad("it has the format of another release"));
    }
    if octets(&mut from)? != incarnation {
        return Err(bad("it is of another registry"));
    }
    let next_seq = u64::from_be_bytes(octets(&mut from)?);
    let last: [u8; 32] = octets(&mut from)?;
    if next_seq.checked_sub(1).and_then(|seq| digest_of(log, seq)) != Some(last) {
        return Err(bad("it is of another log, or the log has gone far beyond it"));
    }
    let others = u32::from_be_bytes(octets(&mut from)?);
    let mut entries = Vec::new();
    for _ in 0..others {
        let seq = u64::from_be_bytes(octets(&mut from)?);
        let octets = entry(log, seq).ok_or(bad("the log lacks an entry"))?;
        if is_register(&octets) || seq >= next_seq {
            return Err(bad("it names an entry that is no other"));
        }
        let entry = Entry::from_bytes(&octets).map_err(|_| bad("an entry cannot be read"))?;
        entries.push((seq, entry));
    }
    let mut index = Index::from_checkpoint(domain, &mut from)?;
    let mut rest = [0];
    if from.read(&mut rest)? != 0 {
        return Err(bad("it goes on behind its end"));
    }
    for (seq, entry) in entries {
        index.apply(entry, seq);
    }
    Ok((index, next_seq))
}

/// So many octets.
pub(super) fn octets<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    from.read_exact(&mut octets)?;
    Ok(octets)
}

/// The octets of the log's entry of this number.
fn entry(log: &dyn Storage, seq: u64) -> Option<Vec<u8>> {
    let mut found = None;
    let read = log.read_log(seq, 1, &mut |number, octets| {
        found = (number == seq).then(|| octets.to_vec());
        Ok(())
    });
    read.ok().and(found)
}

fn digest_of(log: &dyn Storage, seq: u64) -> Option<[u8; 32]> {
    Some(Sha256::digest(entry(log, seq)?).into())
}
