//! The clock of every promise that must end: CLOCK_BOOTTIME, which goes on while the machine is suspended.
//!
//! An agent that slept must not believe that its 2 seconds are still running (DESIGN.md section 11, reads), so neither
//! `std::time::Instant` (CLOCK_MONOTONIC) nor the tokio clock decides there; they may only wake a task that then looks here.

use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A moment on CLOCK_BOOTTIME. Means nothing after a restart of the machine, and nothing on another machine.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// Before every other moment: an answer to a question that was never asked.
    pub const ZERO: BootInstant = BootInstant(Duration::ZERO);

    /// The present moment.
    #[must_use]
    pub fn now() -> BootInstant {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).expect("CLOCK_BOOTTIME counts up from 0");
        let nanoseconds = u32::try_from(time.tv_nsec).expect("nanoseconds stay below 10^9");
        BootInstant(Duration::new(seconds, nanoseconds))
    }

    /// A moment so long after the start of the machine: for virtual time.
    #[must_use]
    pub const fn since_boot(since: Duration) -> BootInstant {
        BootInstant(since)
    }

    /// Time from `earlier` until this moment; zero if `earlier` is later.
    #[must_use]
    pub fn saturating_since(self, earlier: BootInstant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = BootInstant;

    fn add(self, duration: Duration) -> BootInstant {
        BootInstant(self.0.saturating_add(duration))
    }
}

impl Sub<BootInstant> for BootInstant {
    type Output = Duration;

    fn sub(self, earlier: BootInstant) -> Duration {
        self.saturating_since(earlier)
    }
}

/// Longest single sleep of [`sleep_until`]: the runtime's timer stands still while the machine is suspended.
const NAP: Duration = Duration::from_millis(500);

/// Sleeps until a moment on the boot clock, and notices the end of a suspension within half a second.
pub async fn sleep_until(moment: BootInstant) {
    loop {
        let rest = moment - BootInstant::now();
        if rest.is_zero() {
            return;
        }
        tokio::time::sleep(rest.min(NAP)).await;
    }
}

/// Calendar time in milliseconds since 1970, as write ids carry it; 0 for a clock set before that.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Calendar time in seconds since 1970, as signatures carry it (RFC 8945 section 4.2).
#[must_use]
pub fn unix_s() -> u64 {
    unix_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_readings_are_not_earlier() {
        let first = BootInstant::now();
        let second = BootInstant::now();
        assert!(second >= first);
        assert_eq!(first - second, Duration::ZERO);
        assert_eq!((first + Duration::from_secs(2)) - first, Duration::from_secs(2));
    }
}
