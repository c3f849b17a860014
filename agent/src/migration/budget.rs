//! How many objects may come in a second while this server's clients wait.
//!
//! A destination has no window: each source has its own. So it counts what begins: at a share of full speed, that share of
//! `WINDOWS_A_SECOND` windows of its own settings a second. At full speed nothing is counted.

use super::pace::WHOLE;
use super::window::WindowSettings;
use crate::clock::BootInstant;

/// Windows that come in a second, at a share just below the whole.
const WINDOWS_A_SECOND: f64 = 8.0;
/// Seconds' worth that may come at once; longer than the engine sleeps at most.
const BURST_SECONDS: f64 = 0.25;

/// What may come now.
///
/// An object may exceed what is there, by one window at most, and is waited for afterwards: none is too large to come.
#[derive(Clone, Debug)]
pub struct Budget {
    objects_a_second: f64,
    octets_a_second: f64,
    octets_owed_max: f64,
    objects: f64,
    octets: f64,
    at: BootInstant,
}

impl Budget {
    /// Of so large a window.
    #[must_use]
    pub fn new(window: &WindowSettings) -> Budget {
        Budget {
            objects_a_second: window.objects_max as f64 * WINDOWS_A_SECOND,
            octets_a_second: window.octets_max as f64 * WINDOWS_A_SECOND,
            octets_owed_max: window.octets_max as f64,
            objects: 0.0,
            octets: 0.0,
            at: BootInstant::ZERO,
        }
    }

    /// Whether an object may come now, at a share of full speed in thousandths.
    pub fn admits(&mut self, now: BootInstant, share: u32) -> bool {
        let seconds = (now - self.at).as_secs_f64();
        self.at = self.at.max(now);
        if share >= WHOLE {
            (self.objects, self.octets) = (0.0, 0.0);
            return true;
        }
        let more = |has: f64, a_second: f64| {
            let a_second = a_second * f64::from(share) / f64::from(WHOLE);
            (has + seconds * a_second).min(a_second * BURST_SECONDS)
        };
        self.objects = more(self.objects, self.objects_a_second);
        self.octets = more(self.octets, self.octets_a_second);
        self.objects > 0.0 && self.octets > 0.0
    }

    /// An object comes.
    pub fn take(&mut self, octets: u64) {
        self.objects -= 1.0;
        self.octets = (self.octets - octets as f64).max(-self.octets_owed_max);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_secs(1000) + Duration::from_millis(ms))
    }

    fn budget(objects_max: usize) -> Budget {
        Budget::new(&WindowSettings {
            objects_max,
            octets_max: 1 << 20,
            sealed_max: 1,
            seal_target: Duration::ZERO,
        })
    }

    #[test]
    fn share_of_eight_windows_comes_in_a_second_and_never_nothing() {
        for (objects, share, least) in [(64, 500, 2560), (64, 50, 256), (1, 50, 4)] {
            let mut budget = budget(objects);
            let mut come = 0;
            for ms in 0..10_000 {
                while budget.admits(at(ms), share) {
                    budget.take(10);
                    come += 1;
                }
            }
            let burst = least / 40 + 1;
            assert!((least..=least + burst).contains(&come), "{objects} at {share}: {come}");
        }
    }

    #[test]
    fn large_object_comes_and_is_waited_for_afterwards() {
        let mut budget = budget(64);
        assert!(!budget.admits(BootInstant::ZERO, 125), "nothing has gathered yet");
        assert!(budget.admits(at(0), 125));
        budget.take(1 << 40);
        assert!(!budget.admits(at(999), 125));
        assert!(budget.admits(at(1001), 125), "it owes one window at most");
    }

    #[test]
    fn full_speed_is_not_counted() {
        let mut budget = budget(1);
        for _ in 0..1000 {
            assert!(budget.admits(at(0), WHOLE));
            budget.take(1 << 30);
        }
    }
}
