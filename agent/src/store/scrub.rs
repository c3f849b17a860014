//! Scrub: reads every copy from the disk itself, checks tags and digests, sets aside what is damaged, and reports.
//!
//! A pass goes through [`SLICES`] slices: an object is in the slice of its address's hash, whatever becomes of its entry
//! meanwhile. So every copy that is there from the begin to the end of a pass is read in it, what comes and goes meanwhile is no
//! matter, and one number says how far a pass has come. Nothing is held between two copies: blocks of deleted ones become free.
//!
//! The caller paces: it is asked after each half megabyte whether to go on.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use zones::Address;

use super::Store;
use super::aside::Damage;
use super::entry::Entry;
use super::stream::ReadError;
use crate::vault::{Part, ProviderError, StreamId, VaultError};

/// Slices of a pass.
pub const SLICES: u32 = 256;

/// Looks at one slice: an entry that gets a new number before its turn is found in the next.
const LOOKS_MAX: usize = 4;

/// What a scrub found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScrubReport {
    /// Copies read.
    pub copies: u64,
    /// Plaintext octets read.
    pub octets: u64,
    /// Copies that are not as they were written.
    pub damaged: Vec<Damage>,
    /// Copies that could not be read now because the key provider does not answer; nothing is known of them.
    pub unread: u64,
}

/// How a scrub goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GoOn {
    /// Read on.
    Yes,
    /// End now; the report says how far it came.
    Stop,
}

/// The slice of an object: the first octet of FNV-1a of its address.
fn slice_of(address: &Address) -> u32 {
    let hash = (address.as_str().bytes()).fold(0x811c_9dc5_u32, |hash, octet| {
        (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193)
    });
    // The upper bits of a product depend on all of its factors' bits.
    hash >> 24
}

/// Reads every copy that the store holds. `go_on` is asked after each piece, with its octets.
pub fn scrub(store: &Store, report: &mut ScrubReport, mut go_on: impl FnMut(&ScrubReport, u64) -> GoOn) -> GoOn {
    for slice in 0..SLICES {
        if self::slice(store, slice, report, &mut go_on) == GoOn::Stop {
            return GoOn::Stop;
        }
    }
    GoOn::Yes
}

/// Reads every copy of one object; there may be one that it left behind and one that is on its way.
pub fn object(
    store: &Store,
    address: &Address,
    report: &mut ScrubReport,
    mut go_on: impl FnMut(&ScrubReport, u64) -> GoOn,
) -> GoOn {
    let mut done = HashSet::new();
    for entry in store
        .numbers(|entry| entry.address == *address)
        .into_iter()
        .filter_map(|seq| store.entry(seq))
    {
        if entry.streams().next().is_some() && copy(store, &entry, report, &mut done, &mut go_on) == GoOn::Stop {
            return GoOn::Stop;
        }
    }
    GoOn::Yes
}

/// Reads every copy of one slice.
pub fn slice(
    store: &Store,
    number: u32,
    report: &mut ScrubReport,
    mut go_on: impl FnMut(&ScrubReport, u64) -> GoOn,
) -> GoOn {
    let mut done: HashSet<StreamId> = HashSet::new();
    for _ in 0..LOOKS_MAX {
        // Numbers only: to hold entries would hold their blocks.
        let todo: Vec<u64> = store.numbers(|entry| {
            slice_of(&entry.address) == number && entry.streams().any(|(_, stream)| !done.contains(&stream.id))
        });
        if todo.is_empty() {
            break;
        }
        for entry in todo.into_iter().filter_map(|seq| store.entry(seq)) {
            if copy(store, &entry, report, &mut done, &mut go_on) == GoOn::Stop {
                return GoOn::Stop;
            }
        }
    }
    GoOn::Yes
}

/// Reads one copy.
pub fn one(
    store: &Store,
    entry: &Arc<Entry>,
    report: &mut ScrubReport,
    mut go_on: impl FnMut(&ScrubReport, u64) -> GoOn,
) -> GoOn {
    copy(store, entry, report, &mut HashSet::new(), &mut go_on)
}

fn copy(
    store: &Store,
    entry: &Arc<Entry>,
    report: &mut ScrubReport,
    done: &mut HashSet<StreamId>,
    go_on: &mut impl FnMut(&ScrubReport, u64) -> GoOn,
) -> GoOn {
    for (part, stream) in entry.streams() {
        if !done.insert(stream.id) {
            continue;
        }
        match check(store, entry, part, report, go_on) {
            Checked::Good => {}
            Checked::Damaged(damage) => report.damaged.push(damage),
            Checked::Unread => report.unread += 1,
            Checked::Stopped => return GoOn::Stop,
        }
    }
    report.copies += 1;
    go_on(report, 0)
}

/// Reads again what is set aside: what reads well by now is served again.
pub fn again(store: &Store, mut go_on: impl FnMut(&ScrubReport, u64) -> GoOn) -> GoOn {
    let mut report = ScrubReport::default();
    for seq in store.numbers(|entry| store.set_aside(entry).is_some()) {
        let Some(entry) = store.entry(seq) else { continue };
        if copy(store, &entry, &mut report, &mut HashSet::new(), &mut go_on) == GoOn::Stop {
            return GoOn::Stop;
        }
    }
    GoOn::Yes
}

enum Checked {
    Good,
    Damaged(Damage),
    Unread,
    Stopped,
}

/// Reads one stream, and once more if it does not read well, so that one bad transfer is no damage; marks what is bad and
/// unmarks what is good.
fn check(
    store: &Store,
    entry: &Arc<Entry>,
    part: Part,
    report: &mut ScrubReport,
    go_on: &mut impl FnMut(&ScrubReport, u64) -> GoOn,
) -> Checked {
    let mut read = || {
        let reader = store.reader_anyway(entry, part)?;
        reader.verify_from_disk(store.vault(), |octets| {
            report.octets += octets;
            go_on(report, octets)
        })
    };
    let error = match read().or_else(|_| read()) {
        Ok(GoOn::Yes) => {
            store.read_well(entry, part);
            return Checked::Good;
        }
        Ok(GoOn::Stop) => return Checked::Stopped,
        Err(ReadError::Vault(VaultError::Provider(ProviderError::Unavailable { .. }))) => return Checked::Unread,
        Err(error) => error,
    };
    Checked::Damaged(store.read_badly(entry, part, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_spread_over_all_slices() {
        let mut seen = [0_u32; SLICES as usize];
        for number in 0..SLICES * 64 {
            let address = format!("3.{}.{}", number / 500, number % 500).parse().unwrap();
            seen[slice_of(&address) as usize] += 1;
        }
        // 64 each; six standard deviations of a fair hash are 48.
        assert!(seen.iter().all(|count| (16..112).contains(count)), "{seen:?}");
    }
}
