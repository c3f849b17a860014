//! Virtual time, and what each machine's clocks make of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::clock::BootInstant;
use librarian::listen::{Clock, Moment};

/// Microseconds since the run began.
pub(super) type Time = u64;

pub(super) const MS: Time = 1_000;
pub(super) const S: Time = 1_000_000;

/// Calendar time at the beginning, in milliseconds since 1970.
const BEGAN_UNIX_MS: u64 = 1_900_000_000_000;
/// What a machine's boot clock shows at the beginning.
const BEGAN_BOOT: Duration = Duration::from_secs(1000);

pub(super) fn micros(duration: Duration) -> Time {
    Time::try_from(duration.as_micros()).unwrap_or(Time::MAX)
}

/// Calendar time that nobody's clock distorts.
pub(super) fn true_unix_ms(now: Time) -> u64 {
    BEGAN_UNIX_MS + now / MS
}

/// The clocks of one machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clocks {
    /// By how many millionths its boot clock is fast.
    pub(super) drift_ppm: i64,
    /// By how much its calendar is wrong.
    pub(super) calendar_ms: i64,
}

impl Clocks {
    pub(super) fn boot(self, now: Time) -> BootInstant {
        BootInstant::since_boot(BEGAN_BOOT + Duration::from_micros(self.stretch(now)))
    }

    fn stretch(self, now: Time) -> u64 {
        let shift = i128::from(now) * i128::from(self.drift_ppm) / 1_000_000;
        u64::try_from(i128::from(now) + shift).unwrap_or(0)
    }

    /// The first moment at which the boot clock shows at least this.
    pub(super) fn when(self, at: BootInstant) -> Time {
        let shown = micros(at.saturating_since(BootInstant::since_boot(BEGAN_BOOT)));
        let guess = i128::from(shown) * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        let mut time = u64::try_from(guess).unwrap_or(0);
        while self.boot(time) < at {
            time += 1;
        }
        time
    }

    pub(super) fn unix_ms(self, now: Time) -> u64 {
        true_unix_ms(now).saturating_add_signed(self.calendar_ms)
    }
}

/// The librarian's clock.
#[derive(Debug)]
pub(super) struct Shown {
    began: Instant,
    now: AtomicU64,
}

impl Shown {
    pub(super) fn new() -> Arc<Shown> {
        Arc::new(Shown {
            began: Instant::now(),
            now: AtomicU64::new(0),
        })
    }

    pub(super) fn set(&self, now: Time) {
        self.now.store(now, Ordering::Relaxed);
    }
}

impl Clock for Shown {
    fn now(&self) -> Moment {
        let now = self.now.load(Ordering::Relaxed);
        Moment {
            instant: self.began + Duration::from_micros(now),
            unix_s: true_unix_ms(now) / 1000,
        }
    }
}
