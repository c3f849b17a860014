//! How long clients waited lately: the 99th percentile that moves slow down for, and that gates are judged by.
//!
//! What counts is what a client waits for: from the request to the head of the answer, for reads, small writes and deletions of
//! objects. What is left out says more of the client than of this server: listings, the streaming of bodies, uploads that take as long
//! as the client takes. Requests that another server passes on count where the client asked.
//!
//! Two halves of a few seconds each: the present one and the one before. Bounded memory, nothing allocated for a request, and no
//! lock: a request that ends just as a half begins anew may be lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Length of one half, in milliseconds.
const HALF_MS: u64 = 2_000;
/// Fewest requests of which a 99th percentile says something.
const REQUESTS_MIN: u64 = 50;
/// Steps of the scale for each doubling.
const STEPS: usize = 4;
/// Doublings of a microsecond: over an hour.
const DOUBLINGS: usize = 32;

/// Times of one half.
#[derive(Debug)]
struct Half {
    /// Which one since the clock began.
    number: AtomicU64,
    counts: [AtomicU64; STEPS * DOUBLINGS],
}

/// Times of the last seconds.
#[derive(Debug)]
pub struct Latency {
    halves: [Half; 2],
}

impl Default for Latency {
    fn default() -> Self {
        let half = || Half {
            number: AtomicU64::new(u64::MAX),
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Latency {
            halves: [half(), half()],
        }
    }
}

impl Latency {
    /// A client waited so long; `now_ms` is the time of any clock that does not go back.
    pub fn note(&self, now_ms: u64, took: Duration) {
        let number = now_ms / HALF_MS;
        let half = &self.halves[usize::from(number % 2 == 1)];
        let known = half.number.load(Ordering::Relaxed);
        if known != number
            && half
                .number
                .compare_exchange(known, number, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            half.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        }
        half.counts[place(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// The 99th percentile of the last seconds, a quarter of a doubling exact; `None` with too few requests to say.
    #[must_use]
    pub fn p99(&self, now_ms: u64) -> Option<Duration> {
        let number = now_ms / HALF_MS;
        let fresh = |half: &&Half| {
            let known = half.number.load(Ordering::Relaxed);
            known == number || known.checked_add(1) == Some(number)
        };
        let mut counts = [0; STEPS * DOUBLINGS];
        for half in self.halves.iter().filter(fresh) {
            for (sum, count) in counts.iter_mut().zip(&half.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        let all: u64 = counts.iter().sum();
        if all < REQUESTS_MIN {
            return None;
        }
        let mut above = all;
        let at = counts.iter().position(|count| {
            above -= count;
            above * 100 <= all
        })?;
        Some(upper(at))
    }
}

/// Where a time lies on the scale.
fn place(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = us.ilog2() as usize;
    // The two bits below the highest one.
    let step = if doubling >= 2 {
        (us >> (doubling - 2)) as usize & 3
    } else {
        0
    };
    (doubling * STEPS + step).min(STEPS * DOUBLINGS - 1)
}

/// The longest time at a place of the scale.
fn upper(place: usize) -> Duration {
    let (doubling, step) = (place / STEPS, place % STEPS);
    let us = (1_u64 << doubling) * (STEPS as u64 + step as u64 + 1) / STEPS as u64;
    Duration::from_micros(us)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p99_is_that_of_the_last_seconds() {
        let latency = Latency::default();
        assert_eq!(latency.p99(0), None);
        for number in 0..100 {
            latency.note(1_000, Duration::from_millis(if number < 98 { 1 } else { 300 }));
        }
        let slow = latency.p99(1_500).unwrap();
        assert!(
            slow >= Duration::from_millis(300) && slow < Duration::from_millis(380),
            "{slow:?}"
        );
        assert_eq!(latency.p99(3_900), Some(slow), "the half before counts");
        assert_eq!(latency.p99(4_000), None, "what is older does not");
        for _ in 0..100 {
            latency.note(5_000, Duration::from_millis(1));
        }
        assert!(latency.p99(5_000).unwrap() < Duration::from_millis(2));
    }

    #[test]
    fn few_requests_say_nothing() {
        let latency = Latency::default();
        for _ in 1..REQUESTS_MIN {
            latency.note(0, Duration::from_secs(1));
        }
        assert_eq!(latency.p99(0), None);
        latency.note(0, Duration::from_secs(1));
        assert!(latency.p99(0).is_some());
    }

    proptest! {
        #[test]
        fn time_lies_at_most_a_quarter_below_the_end_of_its_place(us in 4_u64..1 << 31) {
            let end = u64::try_from(upper(place(Duration::from_micros(us))).as_micros()).unwrap();
            prop_assert!(us < end && end <= us + us / 4 + 1, "{us} of {end}");
        }
    }
}
