//! How fast objects move while clients wait: slower as soon as they suffer, faster when they do not.
//!
//! ```text
//! 99th percentile of clients     share of the window
//!   above the target               half of it, never below the floor
//!   between half and the target    as it is
//!   below half the target          a half more, up to the whole
//!   too few clients to say         twice as much, up to the whole
//! nothing moves                    an eighth beside clients, the whole beside none: the next move begins with it
//! ```
//!
//! The target is three times what clients waited while nothing moved, but at least [`LEAST`] and at most what is set. So moves are felt
//! little where clients are served fast, and go on where clients wait long anyhow.
//!
//! It is looked at once in [`LOOK_EVERY`], longer than the time that the percentile is taken over: so each step is judged by what came after it, and not by what
//! the step before has ended. The band in which nothing changes keeps a steady load from swinging. The floor is not zero: a drain
//! ends, however slow the clients are.

use std::time::Duration;

use crate::clock::BootInstant;

/// Time between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(4);
/// The whole window, in thousandths.
pub const WHOLE: u32 = 1000;
/// What moves begin with beside clients, in thousandths: a drain is over before many looks, and is not to begin at full speed.
const BEGIN: u32 = 125;
/// How much longer clients may wait beside moves than without.
const TIMES: u32 = 3;
/// Shortest target: nobody notices less.
pub const LEAST: Duration = Duration::from_millis(10);

/// What the pace is judged by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PaceSettings {
    /// Longest that clients should wait, at the 99th percentile.
    pub target: Duration,
    /// Smallest share of the window, in thousandths; at least 1.
    pub floor: u32,
}

/// How fast objects move now.
#[derive(Clone, Debug)]
pub struct Pace {
    settings: PaceSettings,
    share: u32,
    looked: Option<BootInstant>,
    /// What clients waited when nothing moved.
    quiet: Option<Duration>,
    slowed: u64,
}

impl Pace {
    /// The whole window.
    #[must_use]
    pub fn new(settings: PaceSettings) -> Pace {
        Pace {
            settings,
            share: WHOLE,
            looked: None,
            quiet: None,
            slowed: 0,
        }
    }

    /// Share of the window that may be used, in thousandths.
    #[must_use]
    pub fn share(&self) -> u32 {
        self.share
    }

    /// How often it was made less.
    #[must_use]
    pub fn slowed(&self) -> u64 {
        self.slowed
    }

    /// Whether it is time to look.
    #[must_use]
    pub fn is_due(&self, now: BootInstant) -> bool {
        self.looked.is_none_or(|looked| now - looked >= LOOK_EVERY)
    }

    /// Looks how long clients wait, if it is time; `None` for too few to say. `moves` says whether anything moves.
    pub fn look(&mut self, now: BootInstant, p99: Option<Duration>, moves: bool) {
        if !self.is_due(now) {
            return;
        }
        self.looked = Some(now);
        let PaceSettings { target, floor } = self.settings;
        if !moves {
            self.quiet = p99;
            self.share = p99.map_or(WHOLE, |_| floor.max(BEGIN));
            return;
        }
        let target = match self.quiet {
            Some(quiet) => target.min((quiet * TIMES).max(LEAST)),
            None => target,
        };
        match p99 {
            Some(p99) if p99 > target => {
                self.slowed += u64::from(self.share > floor);
                self.share = (self.share / 2).max(floor);
            }
            Some(p99) if p99 > target / 2 => {}
            Some(_) => self.share = (self.share + (self.share / 2).max(1)).min(WHOLE),
            None => self.share = (self.share * 2).min(WHOLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(50);

    fn pace() -> Pace {
        Pace::new(PaceSettings {
            target: TARGET,
            floor: 20,
        })
    }

    /// Lets it look so often, at clients that wait as the share makes them.
    fn run(pace: &mut Pace, looks: u64, p99: impl Fn(u32) -> Option<Duration>) -> Vec<u32> {
        let start = pace.looked.map_or(BootInstant::ZERO, |looked| looked + LOOK_EVERY);
        (0..looks)
            .map(|look| {
                let waits = p99(pace.share());
                pace.look(start + LOOK_EVERY * u32::try_from(look).unwrap(), waits, true);
                pace.share()
            })
            .collect()
    }

    #[test]
    fn moves_slow_down_to_the_floor_and_no_further_while_clients_suffer() {
        let mut pace = pace();
        let shares = run(&mut pace, 10, |_| Some(Duration::from_secs(1)));
        assert_eq!(shares, [500, 250, 125, 62, 31, 20, 20, 20, 20, 20]);
        assert_eq!(pace.slowed(), 6);
    }

    #[test]
    fn without_clients_moves_are_at_full_speed_soon() {
        let mut pace = pace();
        run(&mut pace, 10, |_| Some(Duration::from_secs(1)));
        let shares = run(&mut pace, 6, |_| None);
        assert_eq!(shares.last(), Some(&WHOLE));
    }

    #[test]
    fn steady_load_finds_a_share_and_stays_there() {
        // Clients wait 10 ms alone, and up to 190 ms under moves at full speed.
        let waits = |share: u32| Some(Duration::from_micros(10_000 + 180 * u64::from(share)));
        let mut pace = pace();
        let shares = run(&mut pace, 100, waits);
        let last = &shares[20..];
        assert!(last.iter().all(|share| waits(*share) <= Some(TARGET)), "{last:?}");
        assert!(last.windows(2).all(|two| two[0] == two[1]), "it swings: {last:?}");
    }

    #[test]
    fn looks_in_between_change_nothing() {
        let mut pace = pace();
        pace.look(BootInstant::ZERO, Some(Duration::from_secs(1)), true);
        for look in 1..40_u64 {
            pace.look(
                BootInstant::ZERO + Duration::from_millis(look * 100),
                Some(Duration::from_secs(1)),
                true,
            );
        }
        assert_eq!(pace.share(), 500);
    }

    #[test]
    fn moves_begin_slowly_beside_clients_and_at_full_speed_beside_none() {
        for (waits, begins) in [(None, WHOLE), (Some(Duration::from_millis(2)), BEGIN)] {
            let mut pace = pace();
            pace.look(BootInstant::ZERO, waits, false);
            assert_eq!(pace.share(), begins);
        }
    }

    #[test]
    fn clients_wait_at_most_three_times_as_long_as_before() {
        for (quiet_ms, target_ms) in [(1, 10), (4, 12), (10, 30), (40, 50)] {
            let share_after = |p99_ms| {
                let mut pace = pace();
                pace.look(BootInstant::ZERO, Some(Duration::from_millis(quiet_ms)), false);
                pace.look(
                    BootInstant::ZERO + LOOK_EVERY,
                    Some(Duration::from_millis(p99_ms)),
                    true,
                );
                pace.share()
            };
            assert_eq!(
                (share_after(target_ms), share_after(target_ms + 1)),
                (BEGIN, BEGIN / 2),
                "{quiet_ms}"
            );
        }
    }
}
