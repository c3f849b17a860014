//! Octets in blocks, each behind its digest: what is read is what was written, or an error.
//!
//! | field | |
//! |---|---|
//! | length u32, big-endian | of the octets, at most [`OCTETS_MAX`]; 0 in the block that ends the file |
//! | digest | SHA-256 of the block's number, u64, and its octets |
//! | octets | |

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest, Sha256};

/// Most octets of a block.
const OCTETS_MAX: usize = 1 << 20;
/// Blocks that are read before they are asked for.
const AHEAD: usize = 4;
/// Length and digest.
const HEAD: usize = 4 + 32;

fn digest(number: u64, octets: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(number.to_be_bytes())
        .chain_update(octets)
        .finalize()
        .into()
}

/// Writes blocks; end with [`BlockWriter::finish`].
pub(super) struct BlockWriter<W> {
    to: W,
    block: Vec<u8>,
    number: u64,
}

impl<W: Write> BlockWriter<W> {
    pub(super) fn new(to: W) -> BlockWriter<W> {
        BlockWriter {
            to,
            block: Vec::with_capacity(OCTETS_MAX),
            number: 0,
        }
    }

    /// Writes the last block, and the one that ends the file.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        self.write_block()
    }

    fn write_block(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.block.len()).expect("a block is at most 1 MiB");
        self.to.write_all(&length.to_be_bytes())?;
        self.to.write_all(&digest(self.number, &self.block))?;
        self.to.write_all(&self.block)?;
        self.number += 1;
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let taken = octets.len().min(OCTETS_MAX - self.block.len());
        self.block.extend_from_slice(&octets[..taken]);
        if self.block.len() == OCTETS_MAX {
            self.write_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what a [`BlockWriter`] wrote: a thread reads and checks blocks ahead of whoever takes their octets.
pub(super) struct BlockReader {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl BlockReader {
    pub(super) fn new(from: impl Read + Send + 'static) -> io::Result<BlockReader> {
        let (tell, blocks) = sync_channel(AHEAD);
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || read_blocks(from, &tell))?;
        Ok(BlockReader {
            blocks,
            block: Vec::new(),
            taken: 0,
            ended: false,
        })
    }
}

impl Read for BlockReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.block.len() && !self.ended {
            self.block = self.blocks.recv().map_err(|_| bad("it ends early"))??;
            self.taken = 0;
            self.ended = self.block.is_empty();
        }
        let rest = &self.block[self.taken..];
        let count = rest.len().min(to.len());
        to[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

/// Reads blocks until the last one, the first one that is damaged, or nobody wants more.
fn read_blocks(mut from: impl Read, tell: &SyncSender<io::Result<Vec<u8>>>) {
    for number in 0.. {
        let block = read_block(&mut from, number);
        let is_last = block.as_ref().map_or(true, Vec::is_empty);
        if tell.send(block).is_err() || is_last {
            return;
        }
    }
}

fn read_block(from: &mut impl Read, number: u64) -> io::Result<Vec<u8>> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let (length, told) = head.split_first_chunk().expect("a head begins with four octets");
    let length = u32::from_be_bytes(*length) as usize;
    if length > OCTETS_MAX {
        return Err(bad("a block is too long"));
    }
    let mut block = vec![0; length];
    from.read_exact(&mut block)?;
    if digest(number, &block) != told {
        return Err(bad("a block is damaged"));
    }
    Ok(block)
}

/// A file is not what was written.
pub(crate) fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(octets: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = BlockWriter::new(&mut file);
        writer.write_all(octets).unwrap();
        writer.finish().unwrap();
        file
    }

    fn read(file: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        BlockReader::new(io::Cursor::new(file))?.read_to_end(&mut octets)?;
        Ok(octets)
    }

    #[test]
    fn octets_come_back_however_long() {
        for length in [0, 1, OCTETS_MAX - 1, OCTETS_MAX, OCTETS_MAX + 1, 3 * OCTETS_MAX + 7] {
            let octets: Vec<u8> = (0..length).map(|at| (at * at / 7) as u8).collect();
            assert_eq!(read(written(&octets)).unwrap(), octets, "{length}");
        }
    }

    #[test]
    fn blocks_in_another_order_are_refused() {
        let file = written(&vec![7; 2 * OCTETS_MAX]);
        let (first, rest) = file.split_at(HEAD + OCTETS_MAX);
        let (second, end) = rest.split_at(HEAD + OCTETS_MAX);
        assert!(read([first, second, end].concat()).is_ok());
        for other in [
            [second, first, end].concat(),
            [second, end].concat(),
            [first, end].concat(),
        ] {
            assert!(read(other).is_err());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_changed_or_cut_is_refused(
            octets in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            by in 1..=u8::MAX,
            cut in any::<bool>(),
        ) {
            let mut file = written(&octets);
            let at = at.index(file.len());
            if cut {
                file.truncate(at);
            } else {
                file[at] ^= by;
            }
            prop_assert!(read(file).is_err());
        }
    }
}
