//! Scrub: reads every copy, checks tags and digests, and reports.
//!
//! Reading is paced, so that clients keep the disk. A damaged copy is never served anyway: every read checks its tags.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Store;
use super::entry::Entry;
use super::stream::ReadError;

/// What a scrub found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScrubReport {
    /// Copies read.
    pub copies: u64,
    /// Plaintext octets read.
    pub octets: u64,
    /// Copies that are not as they were written.
    pub damaged: Vec<Damage>,
}

/// One damaged copy.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// The object.
    pub address: String,
    /// Number of its entry.
    pub seq: u64,
    /// Which part.
    pub part: String,
    /// What is wrong, for people.
    pub what: String,
}

/// How a scrub goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GoOn {
    /// Read the next copy.
    Yes,
    /// End now; the report says how far it came.
    Stop,
}

/// Reads every copy that the store holds at this moment. `octets_per_second` of 0 means as fast as it goes; `progress` is
/// told after every copy how many octets are read, and says whether to go on.
pub fn scrub(store: &Store, octets_per_second: u64, mut progress: impl FnMut(&ScrubReport) -> GoOn) -> ScrubReport {
    let mut report = ScrubReport::default();
    let begun = Instant::now();
    for entry in store.entries() {
        copy(store, &entry, &mut report, |octets| {
            pace(begun, octets, octets_per_second)
        });
        report.copies += 1;
        if progress(&report) == GoOn::Stop {
            break;
        }
    }
    report
}

fn copy(store: &Store, entry: &Arc<Entry>, report: &mut ScrubReport, mut pace: impl FnMut(u64)) {
    for (part, _) in entry.streams() {
        let result = store.reader(entry, part).and_then(|reader| {
            let mut hasher = store.vault().hasher();
            reader.each(|octets| {
                hasher.update(&octets);
                report.octets += octets.len() as u64;
                pace(report.octets);
            })?;
            reader.compare(hasher.finish())
        });
        if let Err(error) = result {
            tracing::error!(object = %entry.address, %part, seq = entry.seq, %error, "copy is damaged");
            report.damaged.push(Damage {
                address: entry.address.to_string(),
                seq: entry.seq,
                part: part.to_string(),
                what: chain(&error),
            });
        }
    }
}

/// The error with its causes.
fn chain(error: &ReadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Waits until this many octets may have been read.
fn pace(begun: Instant, octets: u64, octets_per_second: u64) {
    if let Some(due) = due(octets, octets_per_second)
        && let Some(wait) = due.checked_sub(begun.elapsed())
    {
        std::thread::sleep(wait);
    }
}

/// When this many octets may have been read, counted from the begin.
fn due(octets: u64, octets_per_second: u64) -> Option<Duration> {
    (octets_per_second > 0).then(|| Duration::from_secs_f64(octets as f64 / octets_per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_follows_the_rate() {
        assert_eq!(due(10, 0), None);
        assert_eq!(due(3_000_000, 1_000_000), Some(Duration::from_secs(3)));
    }
}
