//! Addresses and keys of registers, one after the other, so that a text costs its octets and two more.
//!
//! One thread writes, behind all that was written before; others read what they were told of. A text stays as it is for ever.

use std::cell::UnsafeCell;
use std::sync::Arc;

use super::zeroed::zeroed;

/// Octets of one piece: a text never lies in two.
const PIECE_OCTETS: usize = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 20;

/// An octet that is written once, before anybody is told where it is.
#[repr(transparent)]
struct Octet(UnsafeCell<u8>);

// SAFETY: the one writer writes an octet before it gives away the place of its text, and never again (`TextWriter::push`); who
// has the place reads only what lies in that text (`Texts::text`). Places go from thread to thread by Release and Acquire.
unsafe impl Sync for Octet {}

/// Texts as they are read. A text is a spelling and a key, and the key is not kept where it is the same.
#[derive(Clone, Default)]
pub(crate) struct Texts {
    pieces: Arc<Vec<Arc<[Octet]>>>,
}

/// Texts as they are written.
#[derive(Default)]
pub(crate) struct TextWriter {
    texts: Texts,
    /// Octets of the last piece that are written.
    filled: usize,
}

impl TextWriter {
    /// Keeps a spelling and its key, and says where they are.
    ///
    /// # Panics
    ///
    /// If one of them has more than 255 octets, or all of them more than 4 GiB.
    pub(crate) fn push(&mut self, spelling: &[u8], key: &[u8]) -> u32 {
        let octet = |text: &[u8]| u8::try_from(text.len()).expect("addresses and names are bounded below 256 octets");
        let key = if key == spelling { &[][..] } else { key };
        let lengths = [octet(spelling), octet(key)];
        let needed = lengths.len() + spelling.len() + key.len();
        if self.texts.pieces.is_empty() || self.filled + needed > PIECE_OCTETS {
            // SAFETY: zero is an octet.
            Arc::make_mut(&mut self.texts.pieces).push(unsafe { zeroed(PIECE_OCTETS) });
            self.filled = 0;
        }
        let number = self.texts.pieces.len() - 1;
        let at = number << PIECE_BITS | self.filled;
        let room = &self.texts.pieces[number][self.filled..self.filled + needed];
        for (octet, text) in room.iter().zip(lengths.iter().chain(spelling).chain(key)) {
            // SAFETY: nobody knows of this place yet, and nobody else writes.
            unsafe { *octet.0.get() = *text };
        }
        self.filled += needed;
        u32::try_from(at).expect("4 GiB of addresses do not fit in memory")
    }

    /// As they are read.
    pub(crate) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// What is written of each piece.
    pub(crate) fn pieces(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let last = self.texts.pieces.len().wrapping_sub(1);
        self.texts.pieces.iter().enumerate().map(move |(number, piece)| {
            let filled = if number == last { self.filled } else { PIECE_OCTETS };
            // SAFETY: an octet is a `u8`; nothing is written meanwhile, since that takes this writer alone.
            unsafe { std::slice::from_raw_parts(piece[..filled].as_ptr().cast(), filled) }
        })
    }

    /// Adds a piece that [`TextWriter::pieces`] gave; `false` if it is not one.
    pub(crate) fn push_piece(&mut self, octets: &[u8]) -> bool {
        let is_first = self.texts.pieces.is_empty();
        if octets.len() > PIECE_OCTETS || !(is_first || self.filled == PIECE_OCTETS) {
            return false;
        }
        // SAFETY: zero is an octet.
        let piece = unsafe { zeroed::<Octet>(PIECE_OCTETS) };
        for (to, octet) in piece.iter().zip(octets) {
            // SAFETY: nobody knows of this piece yet.
            unsafe { *to.0.get() = *octet };
        }
        Arc::make_mut(&mut self.texts.pieces).push(piece);
        self.filled = octets.len();
        true
    }
}

impl Texts {
    /// The spelling at a place that [`TextWriter::push`] gave; `None` if it lies in a piece that came later.
    pub(crate) fn spelling(&self, at: u32) -> Option<&[u8]> {
        let (spelled, _) = self.lengths(at)?;
        self.octets(at, 2..2 + spelled)
    }

    /// The key at a place that [`TextWriter::push`] gave; `None` if it lies in a piece that came later.
    pub(crate) fn key(&self, at: u32) -> Option<&[u8]> {
        let (spelled, key) = self.lengths(at)?;
        match key {
            0 => self.octets(at, 2..2 + spelled),
            _ => self.octets(at, 2 + spelled..2 + spelled + key),
        }
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Texts) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces)
    }

    fn lengths(&self, at: u32) -> Option<(usize, usize)> {
        let lengths = self.octets(at, 0..2)?;
        Some((lengths[0].into(), lengths[1].into()))
    }

    /// Octets of one text. Who asks was given `at` and stays within what its lengths say; a file that says something else of a row
    /// gets other octets, or `None`.
    fn octets(&self, at: u32, range: std::ops::Range<usize>) -> Option<&[u8]> {
        let piece = self.pieces.get((at >> PIECE_BITS) as usize)?;
        let octets = piece.get(at as usize % PIECE_OCTETS..)?.get(range)?;
        // SAFETY: an octet is a `u8`; these were written before their place was given away and are never written again.
        Some(unsafe { std::slice::from_raw_parts(octets.as_ptr().cast(), octets.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: usize) -> (String, String) {
        let spelling = format!("{}.{number}", "A".repeat(number % 200));
        let key = if number.is_multiple_of(3) {
            spelling.to_lowercase()
        } else {
            spelling.clone()
        };
        (spelling, key)
    }

    #[test]
    fn texts_come_back_from_every_piece() {
        let mut writer = TextWriter::default();
        // Three pieces and more.
        let places: Vec<u32> = (0..30_000)
            .map(|number| {
                let (spelling, key) = text(number);
                writer.push(spelling.as_bytes(), key.as_bytes())
            })
            .collect();
        let texts = writer.texts();
        assert!(texts.pieces.len() > 2);
        for (number, at) in places.into_iter().enumerate() {
            let (spelling, key) = text(number);
            assert_eq!(texts.spelling(at), Some(spelling.as_bytes()));
            assert_eq!(texts.key(at), Some(key.as_bytes()));
        }
    }

    #[test]
    fn whoever_looked_before_a_piece_came_does_not_find_its_texts() {
        let mut writer = TextWriter::default();
        let first = writer.push(b"1.A", b"1.a");
        let before = writer.texts().clone();
        let mut last = first;
        while last >> PIECE_BITS == 0 {
            last = writer.push(&[b'x'; 200], &[b'x'; 200]);
        }
        assert_eq!(before.key(first), Some(&b"1.a"[..]));
        assert_eq!((before.spelling(last), before.key(last)), (None, None));
        assert!(!before.is(writer.texts()));
    }

    #[test]
    fn places_that_were_never_given_have_no_text() {
        let mut writer = TextWriter::default();
        writer.push(b"1.A", b"1.a");
        let last = (1 << PIECE_BITS) - 1;
        for at in [last - 1, last, last + 1, u32::MAX] {
            assert_eq!(writer.texts().key(at).filter(|key| !key.is_empty()), None, "{at}");
        }
    }
}
