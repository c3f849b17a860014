//! Which objects are looked up most: the librarian's part of the heat of objects.
//!
//! Of the questions that name an object, every [`SAMPLED`]th is counted and stands for all of them, so that counting costs the
//! answer path next to nothing; a rate of 16 questions a second is told to about a tenth. Counts decay as those of agents do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use zones::Address;
use zones::heat::Counters;

/// One of so many questions is counted.
pub(super) const SAMPLED: u32 = 16;
/// Time between two halvings of the counts.
const WINDOW: Duration = Duration::from_secs(5);
/// Halvings after which nothing is left of a count.
const WINDOWS_MAX: u32 = 64;
/// Objects that are told apart at a time.
const COUNTED: usize = 4096;

/// Counts questions for objects.
#[derive(Debug)]
pub struct Questions {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    /// When the present window began; `None` before the first question.
    began: Option<Instant>,
}

impl Default for Questions {
    fn default() -> Self {
        Questions {
            state: Mutex::new(State {
                counters: Counters::new(COUNTED),
                began: None,
            }),
        }
    }
}

impl Questions {
    /// A question that is counted: it stands for [`SAMPLED`]. Where another one is being counted just now, it is left out rather
    /// than waited for.
    pub fn note(&self, address: &Address, now: Instant) {
        if let Some(mut state) = self.state.try_lock() {
            state.roll(now);
            state.counters.count(address, SAMPLED);
        }
    }

    /// Questions in thousandths a second, of the `most` objects that are asked for most.
    #[must_use]
    pub fn hottest(&self, most: usize, now: Instant) -> HashMap<Address, u64> {
        let mut state = self.state.lock();
        state.roll(now);
        let began = state.began.unwrap_or(now);
        let seconds = (WINDOW + now.saturating_duration_since(began)).as_secs_f64();
        let hottest = state.counters.hottest(most).into_iter();
        hottest
            .map(|counted| (counted.address, (counted.requests / seconds * 1000.0) as u64))
            .collect()
    }
}

impl State {
    /// Ends the windows that are over.
    fn roll(&mut self, now: Instant) {
        let began = self.began.get_or_insert(now);
        for _ in 0..WINDOWS_MAX {
            if now.saturating_duration_since(*began) < WINDOW {
                return;
            }
            self.counters.halve();
            *began += WINDOW;
        }
        *began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
