//! `agent check`: verifies every copy of a stopped agent's directory.

use std::sync::Arc;

use serde::Serialize;
use zones::Address;

use super::io::Disk;
use super::scrub::{GoOn, ScrubReport, object, scrub};
use super::{Damage, OpenError, Settings, Store};
use crate::vault::Vault;

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Copies read.
    pub copies: u64,
    /// Plaintext octets read.
    pub octets: u64,
    /// Copies that are not as they were written.
    pub damaged: Vec<Damage>,
    /// Copies of which nothing is known, since the key provider did not answer.
    pub unread: u64,
    /// Rows of the index that cannot be used; nothing else is checked while there are any.
    pub rows: Vec<String>,
}

impl CheckReport {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.unread == 0 && self.rows.is_empty()
    }
}

/// Why a directory cannot be checked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The index or a volume cannot be opened.
    #[error("open the store")]
    Open(#[source] OpenError),
}

/// Reads every copy on `disk` with the keys of `vault`, or those of one object. `go_on` is asked after each piece, with its octets,
/// and told how many copies and octets there are.
///
/// # Errors
///
/// [`CheckError`] when nothing could be read. Damage is no error: it is in the report.
pub fn check(
    disk: Arc<dyn Disk>,
    vault: Arc<Vault>,
    settings: &Settings,
    only: Option<&Address>,
    mut go_on: impl FnMut(&ScrubReport, u64, (u64, u64)) -> GoOn,
) -> Result<CheckReport, CheckError> {
    let (store, entries) = match Store::open(disk, vault, settings) {
        Ok(opened) => opened,
        Err(OpenError::Rows(faults)) => {
            return Ok(CheckReport {
                rows: faults.iter().map(ToString::to_string).collect(),
                ..CheckReport::default()
            });
        }
        Err(error @ (OpenError::Index(_) | OpenError::Volume(_) | OpenError::Keys(_))) => {
            return Err(CheckError::Open(error));
        }
    };
    let wanted = entries
        .iter()
        .filter(|entry| entry.streams().next().is_some() && only.is_none_or(|only| entry.address == *only));
    let total = wanted.fold((0, 0), |(copies, octets), entry| {
        (copies + 1, octets + entry.plain_octets())
    });
    drop(entries);
    let mut report = ScrubReport::default();
    let mut go_on = |report: &ScrubReport, octets| go_on(report, octets, total);
    match only {
        Some(address) => object(&store, address, &mut report, &mut go_on),
        None => scrub(&store, &mut report, &mut go_on),
    };
    Ok(CheckReport {
        copies: report.copies,
        octets: report.octets,
        damaged: report.damaged,
        unread: report.unread,
        rows: Vec::new(),
    })
}
