//! Waiting for a fact.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until it is so, for no longer than `wait`.
///
/// # Errors
///
/// When it is not so in time, or a look fails.
pub fn until(what: &str, wait: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + wait;
    while !is_so()? {
        ensure!(Instant::now() < end, "waited {wait:?} in vain for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
