//! Addresses like real ones, each made from its index alone: ten million need no memory.
//!
//! Fitted once to the 23,728 addresses of a real pool; at that count, and at a million:
//!
//! | measure                                      | real               | here, 23,728      | here, 1,000,000   |
//! | -------------------------------------------- | ------------------ | ----------------- | ----------------- |
//! | parts, mean                                  | 5.46               | 5.46              | 5.46              |
//! | share of 1-3, 4, 5, 6, 7 parts, %            | 2, 46, 17, 12, 5   | 2, 46, 17, 12, 5  | the same          |
//! | share of 8, 9, 10 parts, %                   | 3, 8, 6            | 3, 8, 6           | the same          |
//! | octets of an address, mean, p50, p90, p99    | 20.4, 12, 52, 61   | 20.9, 12, 52, 55  | 21.7, 13, 52, 55  |
//! | octets of a part, mean, p50, p75, p90, p99   | 2.9, 1, 3, 9, 15   | 3.0, 1, 3, 9, 15  | 3.2, 1, 4, 9, 15  |
//! | empty non-terminals per object in `obj`      | 3.66               | 3.78              | 3.71              |
//! | the same in `tree` (shared prefixes)         | 0.02               | 0.01              | 0.00              |
//!
//! Half of all objects are children of one parent, as there. What counts up is spelled with more digits in a larger pool.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use zones::{Address, Domain};

/// Indices that hold every shape in its exact share.
const BLOCK: usize = 10_000;
/// Coprime to [`BLOCK`]: neighbours in index have different shapes.
const STEP: usize = 7_919;

/// How many of [`BLOCK`] addresses have which shape. A shape counts up on its own: each `~` is one low digit of its
/// counter, `@3` the rest of it with at least three digits. Shapes differ in their other letters, so no two meet.
const SHAPES: [(usize, &str); 20] = [
    (4430, "0.7.1.@5"),
    (100, "2.1.17.note-@4"),
    (120, "0.6.~.@1"),
    (690, "0.1.11.~.@3"),
    (520, "0.1.12.~.@3"),
    (296, "2.1.instances.north.session-note-2026-03-~~-on-@6"),
    (200, "2.1.instances.west.session-note-2026-04-~~-on-@6"),
    (390, "2.1.instances.North.daily-summary.202603~~-@6"),
    (300, "2.1.instances.west.daily-summary.202604~~-@6"),
    (486, "2.2.instances.southern.daily-summary.202605~~-@6"),
    (180, "2.1.north.instances.north.daily-summary.202603~~-@6"),
    (100, "2.1.west.instances.west.daily-summary.202604~~-@6"),
    (187, "0.1.12.4.~.0.@2"),
    (306, "0.1.12.4.1.~.2.@2"),
    (530, "0.1.11.4.0.1.11.3.@3"),
    (315, "0.1.12.~.0.1.2.3.@2"),
    (449, "0.1.11.4.0.1.11.3.@3.1"),
    (200, "0.1.12.~.0.1.2.3.@2.1"),
    (188, "3.1.section-@4"),
    (13, "2.@1"),
];

/// What is put after the last part of an address that is not in the set.
const ABSENT: &str = "-none";

/// Where addresses come from.
#[derive(Clone, Debug)]
pub(super) enum Names {
    /// The built-in shapes.
    Built,
    /// Lines of a file; past its end again from its start, marked with the number of the turn.
    Drawn(Arc<Drawn>),
}

/// Addresses of a file.
#[derive(Debug)]
pub(super) struct Drawn {
    lines: Vec<Box<str>>,
    /// Stands in none of the lines, so that what follows it cannot be part of one.
    mark: String,
}

impl Names {
    /// Reads a file of one address a line. Those that have no DNS name in `domain`, or differ from another only by case,
    /// are left out.
    ///
    /// # Errors
    ///
    /// When it cannot be read or holds no address.
    pub(super) fn read(path: &Path, domain: &Domain) -> Result<Names> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let drawn = Drawn::new(text.lines(), domain);
        ensure!(!drawn.lines.is_empty(), "{} holds no address", path.display());
        Ok(Names::Drawn(Arc::new(drawn)))
    }

    /// Address number `index`; no two are equal, whatever the case.
    #[must_use]
    pub(super) fn address(&self, index: usize) -> Address {
        let text = match self {
            Names::Built => built(index),
            Names::Drawn(drawn) => drawn.text(index),
        };
        text.parse().expect("shapes and lines are addresses")
    }

    /// An address that no index has, with that of `index` beside it.
    #[must_use]
    pub(super) fn absent(&self, index: usize) -> Address {
        let text = match self {
            Names::Built => built(index) + ABSENT,
            Names::Drawn(drawn) => format!("{}{}{ABSENT}", drawn.lines[index % drawn.lines.len()], drawn.mark),
        };
        text.parse()
            .expect("shapes and lines are addresses, a few letters longer too")
    }
}

impl Drawn {
    fn new<'a>(lines: impl Iterator<Item = &'a str>, domain: &Domain) -> Drawn {
        let lines: Vec<&str> = lines.map(str::trim).collect();
        let mut mark = "-r".to_owned();
        while lines.iter().any(|line| line.to_ascii_lowercase().contains(&mark)) {
            mark.push('r');
        }
        let mut seen = HashSet::new();
        let lines = lines.into_iter().filter(|line| {
            let longest: Option<Address> = format!("{line}{mark}000000000").parse().ok();
            longest.is_some_and(|address| domain.check(&address).is_ok()) && seen.insert(line.to_ascii_lowercase())
        });
        Drawn {
            lines: lines.map(Box::from).collect(),
            mark,
        }
    }

    fn text(&self, index: usize) -> String {
        let (turn, line) = (index / self.lines.len(), &self.lines[index % self.lines.len()]);
        match turn {
            0 => line.to_string(),
            _ => format!("{line}{}{turn}", self.mark),
        }
    }
}

fn built(index: usize) -> String {
    let mut place = index % BLOCK * STEP % BLOCK;
    for (share, shape) in SHAPES {
        if place < share {
            return spell(shape, index / BLOCK * share + place);
        }
        place -= share;
    }
    unreachable!("the shares of all shapes make a block")
}

fn spell(shape: &str, counter: usize) -> String {
    let digits = shape.bytes().filter(|&octet| octet == b'~').count();
    let rest = counter / 10_usize.pow(digits as u32);
    let mut low = counter;
    let mut text = String::with_capacity(shape.len() + 8);
    let mut symbols = shape.chars();
    while let Some(symbol) = symbols.next() {
        match symbol {
            '~' => {
                text.push(char::from(b'0' + (low % 10) as u8));
                low /= 10;
            }
            '@' => {
                let width = symbols.next().and_then(|width| width.to_digit(10));
                let width = width.expect("a shape says how many digits") as usize;
                write!(text, "{rest:0width$}").expect("a string takes all");
            }
            _ => text.push(symbol),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_make_a_whole_block() {
        assert_eq!(SHAPES.iter().map(|(share, _)| share).sum::<usize>(), BLOCK);
    }

    #[test]
    fn no_two_built_addresses_are_equal_in_any_case_and_absent_ones_are_not_among_them() {
        let near = 0..60_000;
        let far = 9_950_000..10_000_000;
        let all: Vec<Address> = near.chain(far).map(|index| Names::Built.address(index)).collect();
        let names: HashSet<Address> = all.iter().map(Address::folded).collect();
        assert_eq!(names.len(), all.len());
        assert!((0..60_000).all(|index| !names.contains(&Names::Built.absent(index).folded())));
    }

    #[test]
    fn built_addresses_are_as_deep_and_as_long_as_real_ones() {
        let count = 23_728;
        let all: Vec<String> = (0..count).map(built).collect();
        let share = |depth: usize| {
            let such = all.iter().filter(|text| text.split('.').count() == depth).count();
            such as f64 / count as f64
        };
        for (depth, real) in [
            (4, 0.465),
            (5, 0.171),
            (6, 0.118),
            (7, 0.047),
            (8, 0.031),
            (9, 0.085),
            (10, 0.065),
        ] {
            assert!((share(depth) - real).abs() < 0.005, "{depth}: {}", share(depth));
        }
        let octets = all.iter().map(String::len).sum::<usize>() as f64 / count as f64;
        assert!((octets - 20.4).abs() < 1.0, "{octets}");
    }

    #[test]
    fn built_addresses_leave_as_many_empty_non_terminals_as_real_ones() {
        let count = 23_728;
        let all: Vec<String> = (0..count).map(built).collect();
        let there: HashSet<&str> = all.iter().map(String::as_str).collect();
        let mut empty = HashSet::new();
        for text in &all {
            let mut rest = text.as_str();
            while let Some((_, shorter)) = rest.split_once('.') {
                if !there.contains(shorter) {
                    empty.insert(shorter);
                }
                rest = shorter;
            }
        }
        let each = empty.len() as f64 / count as f64;
        assert!((each - 3.66).abs() < 0.2, "{each}");
    }

    #[test]
    fn drawn_addresses_differ_past_the_end_of_the_file_too() -> Result<()> {
        let domain: Domain = "hypernet.internal.".parse()?;
        let drawn = Drawn::new(
            ["0.1", "0.1-r1", "0.A", "0.a", "no good", "0.1-rr"].into_iter(),
            &domain,
        );
        assert_eq!((drawn.lines.len(), drawn.mark.as_str()), (4, "-rrr"));
        let names = Names::Drawn(Arc::new(drawn));
        let all: HashSet<Address> = (0..400).map(|index| names.address(index).folded()).collect();
        assert_eq!(all.len(), 400);
        assert!((0..4).all(|index| !all.contains(&names.absent(index).folded())));
        Ok(())
    }
}
