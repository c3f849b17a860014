//! Addresses and keys of registers, one after the other, so that a text costs its octets and two more.

/// Octets of one piece: a text never lies in two.
const PIECE_OCTETS: usize = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 20;

/// Texts that stay for ever. A text is a spelling and a key, and the key is not kept where it is the same.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pieces: Vec<Vec<u8>>,
}

impl Texts {
    /// Keeps a spelling and its key, and says where they are.
    ///
    /// # Panics
    ///
    /// If one of them has more than 255 octets, or all of them more than 4 GiB.
    pub(super) fn push(&mut self, spelling: &[u8], key: &[u8]) -> u32 {
        let octet = |text: &[u8]| u8::try_from(text.len()).expect("addresses and names are bounded below 256 octets");
        let key = if key == spelling { &[][..] } else { key };
        let needed = 2 + spelling.len() + key.len();
        if self.pieces.last().is_none_or(|last| last.len() + needed > PIECE_OCTETS) {
            // The first piece grows as it fills, so that an empty pool is small.
            let capacity = if self.pieces.is_empty() { 0 } else { PIECE_OCTETS };
            self.pieces.push(Vec::with_capacity(capacity));
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        let at = number << PIECE_BITS | piece.len();
        piece.extend([octet(spelling), octet(key)]);
        piece.extend(spelling);
        piece.extend(key);
        u32::try_from(at).expect("4 GiB of addresses do not fit in memory")
    }

    /// The spelling at a place that [`Texts::push`] gave.
    pub(super) fn spelling(&self, at: u32) -> &[u8] {
        let text = self.text(at);
        &text[2..2 + usize::from(text[0])]
    }

    /// The key at a place that [`Texts::push`] gave.
    pub(super) fn key(&self, at: u32) -> &[u8] {
        let text = self.text(at);
        let (spelled, key) = (usize::from(text[0]), usize::from(text[1]));
        match key {
            0 => &text[2..2 + spelled],
            _ => &text[2 + spelled..2 + spelled + key],
        }
    }

    fn text(&self, at: u32) -> &[u8] {
        &self.pieces[(at >> PIECE_BITS) as usize][at as usize % PIECE_OCTETS..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_every_piece() {
        let mut texts = Texts::default();
        let text = |number: usize| format!("{}.{number}", "A".repeat(number % 200));
        // Three pieces and more.
        let places: Vec<u32> = (0..30_000)
            .map(|number| {
                let spelling = text(number);
                let key = if number % 3 == 0 {
                    spelling.to_lowercase()
                } else {
                    spelling.clone()
                };
                texts.push(spelling.as_bytes(), key.as_bytes())
            })
            .collect();
        assert!(texts.pieces.len() > 2);
        for (number, at) in places.into_iter().enumerate() {
            let spelling = text(number);
            assert_eq!(texts.spelling(at), spelling.as_bytes());
            let key = if number % 3 == 0 {
                spelling.to_lowercase()
            } else {
                spelling
            };
            assert_eq!(texts.key(at), key.as_bytes());
        }
    }
}
