//! Waiting for a fact in tests: with a bound, and never for a time that might be enough.

use std::time::{Duration, Instant};

/// How long anything in a test may take, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until it is so.
pub(crate) async fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(comes(is_so).await, "waited in vain: {what}");
}

/// Whether it comes to be so; for who can say more than [`until`] about why not.
pub(crate) async fn comes(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// [`until`] outside of a runtime.
pub(crate) fn block_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
