//! Counters whose windows end by time.

use std::time::Duration;

use super::counters::{Counted, Counters};
use crate::address::Address;

/// Time between two halvings.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Halvings after which nothing is left of a count.
const WINDOWS_MAX: u32 = 64;

/// Requests of the last seconds. Moments are counted from any one on that all callers share.
#[derive(Debug)]
pub struct Recent {
    counters: Counters,
    /// When the present window began.
    began: Duration,
}

impl Recent {
    /// No request yet. `capacity` is the number of counters.
    ///
    /// # Panics
    ///
    /// As [`Counters::new`].
    #[must_use]
    pub fn new(capacity: usize, now: Duration) -> Recent {
        Recent {
            counters: Counters::new(capacity),
            began: now,
        }
    }

    /// Counts a request for an object, as `times` of them.
    pub fn count(&mut self, address: &Address, times: u32, now: Duration) {
        self.roll(now);
        self.counters.count(address, times);
    }

    /// Ends the windows that are over; how many, and so how often everything was halved.
    pub fn roll(&mut self, now: Duration) -> u32 {
        for ended in 0..WINDOWS_MAX {
            if now.saturating_sub(self.began) < WINDOW {
                return ended;
            }
            self.counters.halve();
            self.began += WINDOW;
        }
        // The machine slept.
        self.began = now;
        WINDOWS_MAX
    }

    /// Seconds that counts are of: what is left of the windows before counts as much as one whole window, if they were like
    /// this one.
    #[must_use]
    pub fn seconds(&self, now: Duration) -> f64 {
        (WINDOW + now.saturating_sub(self.began)).as_secs_f64()
    }

    /// Requests for all objects.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.counters.total()
    }

    /// As [`Counters::doubt`].
    #[must_use]
    pub fn doubt(&self) -> f64 {
        self.counters.doubt()
    }

    /// As [`Counters::hottest`].
    #[must_use]
    pub fn hottest(&self, most: usize) -> Vec<Counted> {
        self.counters.hottest(most)
    }
}
