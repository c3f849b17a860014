//! Which objects are looked up most: the librarian's part of the heat of objects.
//!
//! Of the questions that name an object, one of [`SAMPLED`] is counted and stands for all of them, so that counting costs the
//! answer path next to nothing; a rate of 16 questions a second is told to about a tenth. Counts decay as those of agents do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use zones::Address;
use zones::heat::Recent;

/// One of so many questions is counted.
const SAMPLED: u32 = 16;
/// Objects that are told apart at a time.
const COUNTED: usize = 4096;

/// Whether the question of this number is counted. Not each sixteenth: a client that asks for eight names in turn, A and AAAA, would
/// always be counted for the same one. The number is mixed as SplitMix64 does (G. Steele and others, Fast Splittable Pseudorandom Number
/// Generators, OOPSLA 2014).
pub(super) fn is_counted(number: u64) -> bool {
    let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31).is_multiple_of(u64::from(SAMPLED))
}

/// Counts questions for objects.
#[derive(Debug)]
pub struct Questions {
    /// From when on moments are counted.
    begin: Instant,
    recent: Mutex<Recent>,
}

impl Default for Questions {
    fn default() -> Self {
        Questions {
            begin: Instant::now(),
            recent: Mutex::new(Recent::new(COUNTED, Duration::ZERO)),
        }
    }
}

impl Questions {
    /// A question that is counted: it stands for [`SAMPLED`]. Where another one is being counted just now, it is left out rather
    /// than waited for.
    pub fn note(&self, address: &Address, now: Instant) {
        if let Some(mut recent) = self.recent.try_lock() {
            recent.count(address, SAMPLED, self.since(now));
        }
    }

    /// Questions in thousandths a second, of the `most` objects that are asked for most.
    #[must_use]
    pub fn hottest(&self, most: usize, now: Instant) -> HashMap<Address, u64> {
        let now = self.since(now);
        let mut recent = self.recent.lock();
        recent.roll(now);
        let seconds = recent.seconds(now);
        let hottest = recent.hottest(most).into_iter();
        hottest
            .map(|counted| (counted.address, (counted.requests / seconds * 1000.0) as u64))
            .collect()
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_in_turn_is_counted_for_all_alike() {
        for stride in 1..=256 {
            for begin in [0, 1, stride / 2, stride - 1] {
                let counted = (0..4_096).filter(|turn| is_counted(begin + turn * stride)).count();
                // A sixteenth of them is 256.
                assert!((180..=340).contains(&counted), "{counted} by {stride} from {begin}");
            }
        }
    }

    #[test]
    fn a_steady_rate_of_questions_shows_and_fades() {
        let questions = Questions::default();
        let begin = Instant::now();
        let address: Address = "3.1".parse().unwrap();
        // 160 a second, of which ten are counted.
        for tenth in 0..600 {
            questions.note(&address, begin + Duration::from_millis(tenth * 100));
        }
        let rate = questions.hottest(4, begin + Duration::from_secs(60))[&address];
        assert!((150_000..=170_000).contains(&rate), "{rate}");
        let later = questions.hottest(4, begin + Duration::from_secs(120));
        assert!(later.get(&address).is_none_or(|rate| *rate < 100), "{later:?}");
        assert!(questions.hottest(4, begin + Duration::from_secs(7200)).is_empty());
    }
}
