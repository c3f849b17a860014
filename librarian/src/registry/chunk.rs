//! Entries of the log by the hundred, on their way into it or out of it.

use super::bytes::{Damaged, Writer};
use super::entry::Entry;
use super::storage::{StorageError, damaged};

/// Octets of entries that go together.
const OCTETS: usize = 64 << 10;

/// Some entries of the log, one after the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Chunk {
    octets: Vec<u8>,
    /// Numbers of entries, and where each ends.
    ends: Vec<(u64, usize)>,
}

impl Chunk {
    /// One that has room for what goes together.
    pub(super) fn with_room() -> Chunk {
        Chunk {
            octets: Vec::with_capacity(OCTETS + OCTETS / 8),
            ends: Vec::new(),
        }
    }

    /// Adds an entry; whether the chunk is to be handed on before the next.
    pub(super) fn push(&mut self, seq: u64, octets: &[u8]) -> bool {
        self.octets.extend_from_slice(octets);
        self.ends.push((seq, self.octets.len()));
        self.octets.len() >= OCTETS
    }

    /// Adds an entry that is written for it.
    pub(super) fn push_entry(&mut self, seq: u64, entry: &Entry) {
        let mut writer = Writer(std::mem::take(&mut self.octets));
        entry.write(&mut writer);
        self.octets = writer.0;
        self.ends.push((seq, self.octets.len()));
    }

    /// Adds what another one holds.
    pub(super) fn append(&mut self, later: &Chunk) {
        let before = self.octets.len();
        self.octets.extend_from_slice(&later.octets);
        self.ends
            .extend(later.ends.iter().map(|(seq, end)| (*seq, before + end)));
    }

    /// Takes all entries out.
    pub(super) fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Octets of all entries.
    pub(super) fn octets(&self) -> usize {
        self.octets.len()
    }

    /// The number of the last one.
    pub(super) fn last(&self) -> Option<u64> {
        self.ends.last().map(|(seq, _)| *seq)
    }

    /// The entries in their order: number and octets.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.from(0)
    }

    /// Those from a number on, if numbers rise.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let at = self.ends.partition_point(|(number, _)| *number < seq);
        let mut start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        self.ends[at..].iter().map(move |(seq, end)| {
            let octets = &self.octets[start..*end];
            start = *end;
            (*seq, octets)
        })
    }

    /// Calls `each` for the entries in their order, until one cannot be read.
    pub(super) fn each(&self, mut each: impl FnMut(u64, &[u8]) -> Result<(), Damaged>) -> Result<(), StorageError> {
        let mut entries = self.iter();
        entries.try_for_each(|(seq, octets)| each(seq, octets).map_err(|reason| damaged(seq, reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_a_full_chunk_says_so() {
        let mut chunk = Chunk::default();
        let entries: Vec<(u64, Vec<u8>)> = (5..)
            .map(|seq| (seq, vec![seq as u8; (seq % 7) as usize]))
            .take(9)
            .collect();
        for (seq, octets) in &entries {
            assert!(!chunk.push(*seq, octets));
        }
        assert!(chunk.push(14, &[0; OCTETS]));
        let read: Vec<(u64, Vec<u8>)> = chunk.iter().map(|(seq, octets)| (seq, octets.to_vec())).collect();
        assert_eq!(read[..9], entries);
        assert_eq!((read[9].0, read[9].1.len()), (14, OCTETS));
        let mut twice = Chunk::default();
        twice.append(&chunk);
        let serials = Entry::Serials(super::super::Serials {
            obj: 1,
            tree: 2,
            pool: 3,
        });
        twice.push_entry(15, &serials);
        twice.append(&chunk);
        assert!(twice.iter().take(10).eq(chunk.iter()));
        assert_eq!(twice.iter().nth(10), Some((15, &serials.to_bytes()[..])));
        assert!(twice.iter().skip(11).eq(chunk.iter()));
        assert_eq!(chunk.from(13).map(|(seq, _)| seq).collect::<Vec<_>>(), [13, 14]);
        assert!(chunk.from(13).eq(chunk.iter().skip(8)));
        let refused = chunk.each(|seq, _| {
            if seq < 7 {
                Ok(())
            } else {
                Err(Damaged("it is the seventh"))
            }
        });
        assert!(matches!(refused, Err(StorageError::Damaged { seq: 7, .. })));
    }
}
