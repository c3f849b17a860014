//! `agent check`: verifies every copy of a stopped agent's directory.

use std::sync::Arc;

use serde::Serialize;

use super::io::Disk;
use super::scrub::{Damage, GoOn, ScrubReport, scrub};
use super::{OpenError, Settings, Store};
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
    /// Rows of the index that cannot be used; nothing else is checked while there are any.
    pub rows: Vec<String>,
}

impl CheckReport {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.rows.is_empty()
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

/// Reads every copy on `disk`, with the keys of `vault`. `progress` is told after every copy how many there are.
///
/// # Errors
///
/// [`CheckError`] when nothing could be read. Damage is no error: it is in the report.
pub fn check(
    disk: Arc<dyn Disk>,
    vault: Arc<Vault>,
    settings: &Settings,
    mut progress: impl FnMut(&ScrubReport, u64) -> GoOn,
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
    let total = entries.len() as u64;
    let report = scrub(&store, 0, |report| progress(report, total));
    Ok(CheckReport {
        copies: report.copies,
        octets: report.octets,
        damaged: report.damaged,
        rows: Vec::new(),
    })
}
