//! Sorts rows by their keys when millions were loaded.
//!
//! Comparing keys in place costs several cache misses a comparison. Here 18 symbols of each key are read, one key after the other
//! as they lie in memory, and sorted as one number with the row in its low end; only keys that have those in common are looked at
//! again for the next ones.

/// What a key may be made of, in the order of octets; with the end, 40 symbols.
const ALPHABET: &[u8; 39] = b"-.0123456789_abcdefghijklmnopqrstuvwxyz";
const RADIX: u64 = ALPHABET.len() as u64 + 1;
/// Symbols in each half of a number.
const HALF: usize = 9;
const HALF_BITS: u32 = 48;
/// Symbols that are sorted together.
const TOGETHER: usize = 2 * HALF;

const _: () = assert!(
    RADIX.pow(HALF as u32) <= 1 << HALF_BITS && 2 * HALF_BITS + u32::BITS == u128::BITS,
    "two halves and a row fill a number"
);

/// The number of each symbol; zero is the end of a key.
const NUMBERS: [u8; 256] = {
    let mut numbers = [0; 256];
    let mut at = 0;
    while at < ALPHABET.len() {
        numbers[ALPHABET[at] as usize] = at as u8 + 1;
        at += 1;
    }
    numbers
};

/// Which end of a key counts first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// Sorts rows so that their keys rise, which are read forward or backward.
pub(super) fn by_key<'k>(
    rows: impl Iterator<Item = u32>,
    direction: Direction,
    key: &impl Fn(u32) -> &'k [u8],
) -> Vec<u32> {
    let mut sorting: Vec<u128> = rows.map(|row| number(row, direction, key, 0)).collect();
    sort_from(&mut sorting, direction, key, 0);
    sorting.into_iter().map(row_of).collect()
}

fn sort_from<'k>(rows: &mut [u128], direction: Direction, key: &impl Fn(u32) -> &'k [u8], from: usize) {
    rows.sort_unstable();
    let symbols = |number: &u128| number >> u32::BITS;
    for alike in rows.chunk_by_mut(|one, other| symbols(one) == symbols(other)) {
        if alike.len() > 1 && !ends(symbols(&alike[0])) {
            for one in alike.iter_mut() {
                *one = number(row_of(*one), direction, key, from + TOGETHER);
            }
            sort_from(alike, direction, key, from + TOGETHER);
        }
    }
}

/// The symbols of a row's key from one of them on, and the row.
fn number<'k>(row: u32, direction: Direction, key: &impl Fn(u32) -> &'k [u8], from: usize) -> u128 {
    let key = key(row);
    let symbols = match direction {
        Direction::Forward => pack(key.get(from..).unwrap_or_default().iter()),
        Direction::Backward => pack(key[..key.len().saturating_sub(from)].iter().rev()),
    };
    symbols << u32::BITS | u128::from(row)
}

/// Whether a key ends among these symbols: its last one is no symbol.
fn ends(symbols: u128) -> bool {
    (symbols as u64 & ((1 << HALF_BITS) - 1)).is_multiple_of(RADIX)
}

fn pack<'k>(mut octets: impl Iterator<Item = &'k u8>) -> u128 {
    let mut half = || {
        (0..HALF).fold(0, |number, _| {
            let symbol = octets.next().map_or(0, |octet| NUMBERS[usize::from(*octet)]);
            number * RADIX + u64::from(symbol)
        })
    };
    u128::from(half()) << HALF_BITS | u128::from(half())
}

fn row_of(number: u128) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn symbols_are_all_that_a_key_is_made_of_and_rise_as_octets_do() {
        assert!(ALPHABET.is_sorted());
        for octet in 0..=u8::MAX {
            let is_in_keys = matches!(octet, b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-' | b'.');
            assert_eq!(NUMBERS[usize::from(octet)] != 0, is_in_keys);
        }
    }

    proptest! {
        #[test]
        fn rows_come_in_the_order_of_their_keys(
            keys in proptest::collection::vec("[az.]{1,60}|[-.0-9_a-z]{1,20}|a{17,19}", 0..200)
        ) {
            let mut keys = keys;
            keys.sort();
            let rows = || (0..keys.len()).rev().map(|row| u32::try_from(row).unwrap());
            let key = |row: u32| keys[row as usize].as_bytes();
            // Those of one key in the order of their numbers.
            prop_assert!(by_key(rows(), Direction::Forward, &key).into_iter().eq(rows().rev()));
            let reversed = |row: u32| key(row).iter().rev().copied().collect::<Vec<u8>>();
            let expected: BTreeSet<(Vec<u8>, u32)> = rows().map(|row| (reversed(row), row)).collect();
            let backward = by_key(rows(), Direction::Backward, &key);
            prop_assert!(backward.into_iter().eq(expected.into_iter().map(|(_, row)| row)));
        }
    }
}
