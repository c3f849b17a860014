//! Which objects of this server are asked for most.
//!
//! Every read and write that was answered here is counted, whatever it costs: what is rare is sorted out by the counters
//! themselves ([`zones::heat::Recent`]), in bounded memory. Counts are halved every few seconds, so a rate is of the last
//! seconds: an object that suddenly is asked for shows within one window, one that no longer is fades in a few.

use std::time::Duration;

use parking_lot::Mutex;
use zones::heat::{HOTTEST_MAX, Recent};
use zones::{Address, Heat, Hot};

use crate::clock::BootInstant;

/// Objects that are looked at to find those that are still here.
const LOOK_AT: usize = 4 * HOTTEST_MAX;

/// Counts requests. Cheap enough for every one of them: a hash, and a few steps in a heap.
#[derive(Debug)]
pub struct Meter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    recent: Recent,
    /// Octets carried until the last report.
    carried: u64,
    /// Octets of the present window, and of those before, halved with each.
    lately: f64,
}

impl Meter {
    /// Nothing was asked for yet; so many objects are told apart at a time.
    #[must_use]
    pub fn new(counters: usize, now: BootInstant) -> Meter {
        Meter {
            state: Mutex::new(State {
                recent: Recent::new(counters, now - BootInstant::ZERO),
                carried: 0,
                lately: 0.0,
            }),
        }
    }

    /// A request for an object was answered.
    pub fn note(&self, address: &Address, now: BootInstant) {
        let mut state = self.state.lock();
        let now = now - BootInstant::ZERO;
        state.roll(now);
        state.recent.count(address, 1, now);
    }

    /// What to tell the librarian: the hottest of the objects that are here, and the octets that clients were sent and sent.
    /// `carried` counts these since the start.
    pub fn report(&self, now: BootInstant, carried: u64, is_here: impl Fn(&Address) -> bool) -> Heat {
        let (asked, hottest, doubt, lately, seconds) = {
            let mut state = self.state.lock();
            // What came since the last report belongs to the time before now, and so to a window that ends now.
            state.lately += carried.saturating_sub(state.carried) as f64;
            state.carried = carried;
            let now = now - BootInstant::ZERO;
            state.roll(now);
            let recent = &state.recent;
            let (asked, hottest, doubt) = (recent.total(), recent.hottest(LOOK_AT), recent.doubt());
            (asked, hottest, doubt, state.lately, recent.seconds(now))
        };
        let milli = |requests: f64| (requests / seconds * 1000.0) as u64;
        let mut hottest: Vec<Hot> = hottest
            .into_iter()
            .filter(|counted| is_here(&counted.address))
            .map(|counted| Hot {
                rate_milli: milli(counted.requests),
                address: counted.address,
            })
            .collect();
        hottest.truncate(HOTTEST_MAX);
        Heat {
            asked_milli: milli(asked),
            served: (lately / seconds) as u64,
            doubt_milli: milli(doubt),
            hottest,
        }
    }
}

impl State {
    /// Ends the windows that are over.
    fn roll(&mut self, now: Duration) {
        let ended = self.recent.roll(now);
        self.lately /= 2.0_f64.powi(i32::try_from(ended).expect("few windows"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_secs(1000) + Duration::from_millis(ms))
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_steady_load_shows_as_its_rate_whenever_it_is_looked_at() {
        for end in [60_000, 61_300, 64_999] {
            let meter = Meter::new(100, at(0));
            for ms in (0..end).step_by(10) {
                meter.note(&address("3.1"), at(ms));
                if ms % 100 == 0 {
                    meter.note(&address("3.2"), at(ms));
                }
            }
            let heat = meter.report(at(end), 0, |_| true);
            assert!((108_000..=112_000).contains(&heat.asked_milli), "{heat:?}");
            assert_eq!(heat.hottest[0].address, address("3.1"));
            assert!((98_000..=102_000).contains(&heat.hottest[0].rate_milli), "{heat:?}");
            assert!((9_800..=10_200).contains(&heat.hottest[1].rate_milli), "{heat:?}");
        }
    }

    #[test]
    fn a_crowd_shows_within_a_window_and_is_forgotten_in_a_few() {
        let meter = Meter::new(100, at(0));
        for ms in 60_000..65_000 {
            meter.note(&address("3.9"), at(ms));
        }
        let hot = |ms| {
            meter
                .report(at(ms), 0, |_| true)
                .hottest
                .first()
                .map(|hot| hot.rate_milli)
        };
        assert!(hot(65_000) >= Some(500_000));
        assert!(hot(90_000) < Some(20_000));
        assert_eq!(hot(400_000), None);
    }

    #[test]
    fn only_objects_that_are_here_are_told() {
        let meter = Meter::new(100, at(0));
        for object in 0..40 {
            for _ in 0..object {
                meter.note(&address(&format!("3.{object}")), at(0));
            }
        }
        let heat = meter.report(at(0), 0, |address| address.as_str().ends_with('1'));
        let told: Vec<_> = heat.hottest.iter().map(|hot| hot.address.as_str()).collect();
        assert_eq!(told, ["3.31", "3.21", "3.11", "3.1"]);
        assert_eq!(meter.report(at(0), 0, |_| true).hottest.len(), HOTTEST_MAX);
    }

    #[test]
    fn octets_that_are_carried_show_as_a_rate() {
        let meter = Meter::new(1, at(0));
        let mut served = 0;
        for second in 0..60 {
            served = meter.report(at(second * 1000), second * 1_000_000, |_| true).served;
        }
        assert!((980_000..=1_020_000).contains(&served), "{served}");
    }

    #[test]
    fn sleep_of_a_machine_ends_all_heat() {
        let meter = Meter::new(10, at(0));
        meter.note(&address("3.1"), at(0));
        let heat = meter.report(at(30 * 86_400_000), 0, |_| true);
        assert!(heat.hottest.is_empty());
        meter.note(&address("3.2"), at(30 * 86_400_000));
        assert_eq!(meter.report(at(30 * 86_400_000), 0, |_| true).hottest.len(), 1);
    }
}
