//! Entries of the log by the hundred, on their way out of it.

use super::bytes::Damaged;
use super::storage::{StorageError, damaged};

/// Octets of entries that go together.
const OCTETS: usize = 64 << 10;

/// Some entries of the log, one after the other.
#[derive(Default)]
pub(crate) struct Chunk {
    octets: Vec<u8>,
    /// Numbers of entries, and where each ends.
    ends: Vec<(u64, usize)>,
}

impl Chunk {
    /// Adds an entry; whether the chunk is to be handed on before the next.
    pub(super) fn push(&mut self, seq: u64, octets: &[u8]) -> bool {
        if self.octets.capacity() == 0 {
            self.octets.reserve(OCTETS + OCTETS / 8);
        }
        self.octets.extend_from_slice(octets);
        self.ends.push((seq, self.octets.len()));
        self.octets.len() >= OCTETS
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

    /// The number of the last one.
    pub(super) fn last(&self) -> Option<u64> {
        self.ends.last().map(|(seq, _)| *seq)
    }

    /// The entries in their order: number and octets.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let places = self.ends.iter().zip(starts);
        places.map(|((seq, end), start)| (*seq, &self.octets[start..*end]))
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
