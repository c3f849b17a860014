//! Serials that are later than any that a secondary may have.
//!
//! A secondary keeps what it has as long as its serial is the later one. So a registry that was restored from an old
//! backup, or made anew, must not begin with the serials that it finds; and where zones are composed otherwise than
//! before (another TTL, another address of the librarian), the same serial must not mean other records. The file
//! `serials.toml` beside the registry tells what was told by whom.
//!
//! | found | serials |
//! |---|---|
//! | the same registry, the same composition | go on |
//! | the same registry, another composition | one more |
//! | another registry (its incarnation differs), or no file | 2^20 above those of the file, or the time in seconds since 1970 if that is later |
//!
//! The file is written when serials have moved, every ten seconds at most, so that what it tells is behind by less than
//! 2^20. Specification: RFC 1982.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Readable};
use crate::registry::Renumber;
use crate::update::is_later;

/// Longest file that is read.
const FILE_OCTETS_MAX: u64 = 64 * 1024;
/// More changes than are made between two writings of the file.
const AHEAD: u32 = 1 << 20;

/// What the file holds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    /// Which registry: 32 hexadecimal digits.
    pub(super) incarnation: String,
    /// What zones are composed with.
    pub(super) form: String,
    pub(super) obj: u32,
    pub(super) tree: u32,
    pub(super) domain: u32,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("serials.toml")
}

/// Reads the file; one that cannot be read is as good as none.
pub(super) fn read(dir: &Path) -> Option<Told> {
    let text = match files::read(&path(dir), FILE_OCTETS_MAX) {
        Ok(text) => text,
        Err(error) => {
            if !error.is_absent() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "serials that were told are not known"
                );
            }
            return None;
        }
    };
    toml::from_str(&text).ok()
}

/// Writes the file.
pub(super) fn write(dir: &Path, told: &Told) -> Result<(), FileError> {
    let text = toml::to_string(told).expect("texts and numbers are TOML");
    files::write(&path(dir), text.as_bytes(), Readable::Owner)
}

/// Other serials than a registry has, where these may not be told.
pub(super) fn renumbered(now: &Told, before: Option<&Told>, unix_s: u64) -> Option<Renumber> {
    let each = |next: &dyn Fn(u32) -> u32, of: &Told| Renumber {
        obj: next(of.obj),
        tree: next(of.tree),
        apex: next(of.domain),
    };
    match before {
        Some(before) if before.incarnation == now.incarnation => {
            (before.form != now.form).then(|| each(&|serial| after(serial, 1), now))
        }
        Some(_) | None => {
            // Whatever the registry has now may be far behind what it had.
            let ahead = |serial: u32| {
                let next = after(serial, AHEAD);
                // Wraps in the year 2106, as serials do.
                let time = u32::try_from(unix_s & u64::from(u32::MAX)).expect("32 bits");
                if is_later(time, next) { time } else { next }
            };
            Some(each(&ahead, before.unwrap_or(now)))
        }
    }
}

/// A serial that is later by so much; zero is passed over.
fn after(serial: u32, by: u32) -> u32 {
    serial.wrapping_add(by).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(incarnation: &str, form: &str, serial: u32) -> Told {
        Told {
            incarnation: incarnation.to_owned(),
            form: form.to_owned(),
            obj: serial,
            tree: serial + 1,
            domain: serial + 2,
        }
    }

    #[test]
    fn the_same_registry_goes_on_and_another_composition_is_one_more() {
        let before = told("a", "5", 7);
        assert_eq!(renumbered(&told("a", "5", 9), Some(&before), 1_800_000_000), None);
        let next = renumbered(&told("a", "6", 9), Some(&before), 1_800_000_000).unwrap();
        assert_eq!((next.obj, next.tree, next.apex), (10, 11, 12));
    }

    #[test]
    fn another_registry_begins_later_than_whatever_was_told() {
        let now = told("b", "5", 1);
        let next = |before: Option<&Told>| renumbered(&now, before, 1_800_000_000).unwrap().obj;
        assert_eq!(next(None), 1_800_000_000);
        assert_eq!(next(Some(&told("a", "5", 7))), 1_800_000_000);
        let late = told("a", "5", 1_900_000_000);
        assert_eq!(next(Some(&late)), 1_900_000_000 + AHEAD);
        let wraps = told("a", "5", u32::MAX - AHEAD);
        assert!(is_later(next(Some(&wraps)), wraps.obj));
    }

    #[test]
    fn what_is_written_is_read_back_and_nonsense_is_as_good_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        write(dir.path(), &told("a", "5 [1.2.3.4]", 7)).unwrap();
        assert_eq!(read(dir.path()), Some(told("a", "5 [1.2.3.4]", 7)));
        files::write(&path(dir.path()), b"nonsense", Readable::Owner).unwrap();
        assert_eq!(read(dir.path()), None);
    }
}
