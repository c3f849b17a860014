//! How much one key may change.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use parking_lot::Mutex;
use serde::Deserialize;

/// Changes that one key may make: so many a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Changed records a second. Too low slows drains; a stolen key can fill the registry's disk at this rate.
    pub changes_per_second: u32,
    /// Changed records at once.
    pub burst: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        RateLimit {
            changes_per_second: 50_000,
            burst: 200_000,
        }
    }
}

/// What is left to each key. Only keys that are known and whose signature held get here, so there are few.
pub(super) struct Rates {
    limit: RateLimit,
    buckets: Mutex<HashMap<Name, (f64, Instant)>>,
}

impl Rates {
    pub(super) fn new(limit: RateLimit) -> Rates {
        Rates {
            limit,
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// Takes as many changes as are made, or says how long to wait.
    pub(super) fn take(&self, key: &Name, changes: usize, now: Instant) -> Result<(), Duration> {
        let burst = f64::from(self.limit.burst);
        let per_second = f64::from(self.limit.changes_per_second.max(1));
        let mut buckets = self.buckets.lock();
        let (left, at) = buckets.entry(key.to_lowercase()).or_insert((burst, now));
        *left = burst.min(*left + now.saturating_duration_since(*at).as_secs_f64() * per_second);
        *at = now;
        // A message costs at least 1, and a full bucket lets any message pass, so that none is refused for ever.
        let cost = f64::from(u32::try_from(changes.max(1)).unwrap_or(u32::MAX)).min(burst);
        if *left >= cost {
            *left -= cost;
            return Ok(());
        }
        Err(Duration::from_secs_f64((cost - *left) / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_over_its_rate_waits_and_others_do_not() {
        let rates = Rates::new(RateLimit {
            changes_per_second: 10,
            burst: 20,
        });
        let (one, other) = (Name::from_ascii("s1.").unwrap(), Name::from_ascii("s2.").unwrap());
        let start = Instant::now();
        assert!(rates.take(&one, 15, start).is_ok());
        assert_eq!(rates.take(&one, 10, start), Err(Duration::from_millis(500)));
        assert!(rates.take(&other, 20, start).is_ok());
        assert!(rates.take(&one, 10, start + Duration::from_millis(501)).is_ok());
        // Larger than the burst: passes when the bucket is full.
        assert!(rates.take(&other, 1000, start).is_err());
        assert!(rates.take(&other, 1000, start + Duration::from_secs(3)).is_ok());
    }
}
