//! How busy the machine is.

use std::fs;

/// Share of the processors in use between two looks, from `/proc/stat`.
#[derive(Debug, Default)]
pub(crate) struct Load {
    busy: u64,
    all: u64,
}

impl Load {
    /// In thousandths, since the look before; 0 where the system does not tell.
    pub(crate) fn permille(&mut self) -> u32 {
        let Some((busy, all)) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(times) else {
            return 0;
        };
        let (busy_since, all_since) = (busy.saturating_sub(self.busy), all.saturating_sub(self.all));
        (self.busy, self.all) = (busy, all);
        match all_since {
            0 => 0,
            all => u32::try_from(busy_since * 1000 / all).unwrap_or(1000).min(1000),
        }
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
    fn guest_time_is_not_counted_twice() {
        assert_eq!(times("cpu  10 0 20 60 5 1 2 2 8 0\ncpu0 1 2"), Some((35, 100)));
        assert_eq!(times("intr 5"), None);
    }
}
