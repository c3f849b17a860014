//! How busy the machine is.

use std::collections::VecDeque;
use std::fs;

/// Readings that are kept, one a round: ten seconds. Over a shorter time chance decides which server seems idle, and all new objects
/// of a moment go there.
const READINGS: usize = 10;

/// Share of the processors in use over the last looks, from `/proc/stat`.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Busy time and all time, the oldest first.
    readings: VecDeque<(u64, u64)>,
}

impl Load {
    /// In thousandths, over the looks of the last ten seconds, and since the machine started at the first; 0 where the system does
    /// not tell.
    pub(crate) fn permille(&mut self) -> u32 {
        let reading = fs::read_to_string("/proc/stat").ok().as_deref().and_then(times);
        reading.map_or(0, |reading| self.take(reading))
    }

    fn take(&mut self, (busy, all): (u64, u64)) -> u32 {
        let (busy_then, all_then) = self.readings.front().copied().unwrap_or_default();
        if self.readings.len() == READINGS {
            self.readings.pop_front();
        }
        self.readings.push_back((busy, all));
        let busy = u128::from(busy.saturating_sub(busy_then));
        let share = (busy * 1000).checked_div(u128::from(all.saturating_sub(all_then)));
        share.map_or(0, |share| u32::try_from(share).unwrap_or(1000).min(1000))
    }
}

/// Busy time and all time of the first line: `cpu user nice system idle iowait irq softirq steal guest guest_nice`.
fn times(stat: &str) -> Option<(u64, u64)> {
    let times: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8) // Guest time is part of user time.
        .map(|time| time.parse().ok())
        .collect::<Option<_>>()?;
    let idle = times.get(3)? + times.get(4)?;
    let all: u64 = times.iter().sum();
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_busy_second_is_a_tenth_of_what_is_told_and_forgotten_after_ten() {
        let mut load = Load::default();
        assert_eq!(load.take((300, 1000)), 300, "since the machine started");
        let idle = |load: &mut Load, second: u64, busy: u64| load.take((300 + busy, 1000 + 100 * second));
        for second in 1..=20 {
            assert_eq!(idle(&mut load, second, 0), 0);
        }
        for second in 21..=30 {
            assert_eq!(idle(&mut load, second, 100), 100, "second {second}");
        }
        assert_eq!(idle(&mut load, 31, 100), 0);
    }

    #[test]
    fn guest_time_is_not_counted_twice() {
        assert_eq!(times("cpu  10 0 20 60 5 1 2 2 8 0\ncpu0 1 2"), Some((35, 100)));
        assert_eq!(times("intr 5"), None);
    }
}
