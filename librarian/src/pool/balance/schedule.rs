//! Which objects move because of their age: each once in a given time, at a steady rate.
//!
//! Registers are numbered in the order in which they were made, and a number is never used again. The clock says how far through
//! them the schedule is: after a whole period it has passed every one. So nothing has to be remembered of an object, and a
//! librarian that starts anew goes on from the present moment; what was due while it was away is passed over until the next
//! period, so an object is never older than two of them.

use std::time::Duration;

/// Objects that are due at once, at most: what a long pause left comes bit by bit.
const DUE_MAX: u64 = 256;

/// Where the schedule is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule {
    /// How many registers it has passed since 1970, counted with the number of them that there are now.
    passed: Option<Passed>,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    period: u64,
    next: u64,
}

impl Schedule {
    /// The numbers of the registers whose time has come since the last call; none at the first. `rows` is how many there are.
    pub(super) fn due(&mut self, unix_ms: u64, every: Duration, rows: usize) -> Vec<u32> {
        let every_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
        let rows = rows as u64;
        let period = unix_ms / every_ms;
        let goal = u64::try_from(u128::from(unix_ms % every_ms) * u128::from(rows) / u128::from(every_ms))
            .expect("less than the number of rows");
        let Some(passed) = &mut self.passed else {
            self.passed = Some(Passed { period, next: goal });
            return Vec::new();
        };
        let mut due = Vec::new();
        while (passed.period, passed.next) < (period, goal) && (due.len() as u64) < DUE_MAX {
            if passed.next >= rows {
                *passed = Passed {
                    period: passed.period + 1,
                    next: 0,
                };
                continue;
            }
            due.extend(u32::try_from(passed.next));
            passed.next += 1;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn every_object_is_due_once_in_a_period_at_a_steady_rate() {
        let mut schedule = Schedule::default();
        let begin = 1_000 * 3_600_000 + 1_234_567;
        assert!(schedule.due(begin, HOUR, 7_200).is_empty());
        let mut due = vec![0; 7_200];
        for second in 1..=3_600 {
            let now = schedule.due(begin + second * 1000, HOUR, 7_200);
            assert!((1..=3).contains(&now.len()), "{second}: {}", now.len());
            now.into_iter().for_each(|id| due[id as usize] += 1);
        }
        assert!(due.iter().all(|times| *times == 1));
    }

    #[test]
    fn objects_made_meanwhile_have_their_turn_in_the_same_period() {
        let mut schedule = Schedule::default();
        let begin = 1_000 * 3_600_000;
        schedule.due(begin, HOUR, 100);
        let mut due = std::collections::BTreeSet::new();
        for second in 1..3_600 {
            let rows = 100 + usize::try_from(second / 36).unwrap();
            due.extend(schedule.due(begin + second * 1000, HOUR, rows));
        }
        assert!((0..190).all(|id| due.contains(&id)), "{due:?}");
    }

    #[test]
    fn what_a_pause_left_comes_bit_by_bit() {
        let mut schedule = Schedule::default();
        let begin = 1_000 * 3_600_000;
        schedule.due(begin, HOUR, 10_000);
        let mut sizes = Vec::new();
        for second in 0..40 {
            sizes.push(schedule.due(begin + 1_800_000 + second, HOUR, 10_000).len());
        }
        assert!(sizes.iter().all(|size| *size <= 256));
        assert_eq!(sizes.iter().sum::<usize>(), 5_000);
    }

    #[test]
    fn a_pool_without_objects_has_nothing_due() {
        let mut schedule = Schedule::default();
        for hour in 0..3 {
            assert!(schedule.due(hour * 3_600_000, HOUR, 0).is_empty());
        }
    }
}
