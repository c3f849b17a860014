//! Which objects to open now: how many objects and octets are on their way, and how many are sealed at a time.
//!
//! Writers of a sealed object wait, so the seal must be short: the fewer objects are sealed at a time, the sooner each one's
//! commit comes back. How many are right depends on disks and librarian, so it is found out: more while seals stay well
//! within their budget, half as many as soon as one breaks it.

use std::time::Duration;

use super::pace::WHOLE;

/// Bounds of what is on its way at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowSettings {
    /// Most objects.
    pub objects_max: usize,
    /// Most octets; one object that is larger goes alone.
    pub octets_max: u64,
    /// Most objects sealed at a time.
    pub sealed_max: usize,
    /// Length of a seal that is short enough to let more be sealed at a time.
    pub seal_target: Duration,
}

/// What is on its way.
///
/// Once full, it takes nothing more until half of it has left, and then as much as there is room for: objects that are
/// opened or sealed together stay together, and so share commits, update messages and packets. One new object for each
/// that leaves would make every step of every object a batch of its own.
#[derive(Clone, Debug)]
pub struct Window {
    settings: WindowSettings,
    objects: usize,
    octets: u64,
    /// Whether it was full and has not emptied by half since.
    full: bool,
    sealed: usize,
    /// The same for the sealed.
    sealed_full: bool,
    /// How many may be sealed now.
    sealed_now_max: usize,
    /// Share of the bounds that counts now, in thousandths.
    share: u32,
    /// Short seals since the bound was last changed.
    short: usize,
    /// Long ones.
    long: usize,
}

/// Fewest objects that may be sealed at a time.
const SEALED_MIN: usize = 8;

impl Window {
    /// An empty window.
    #[must_use]
    pub fn new(settings: WindowSettings) -> Window {
        Window {
            settings,
            objects: 0,
            octets: 0,
            full: false,
            sealed: 0,
            sealed_full: false,
            sealed_now_max: settings.sealed_max.min(SEALED_MIN * 8),
            share: WHOLE,
            short: 0,
            long: 0,
        }
    }

    /// Whether an object of so many octets may be opened now.
    pub fn admits(&mut self, octets: u64) -> bool {
        let objects_max = (self.settings.objects_max * self.share as usize / WHOLE as usize).max(1);
        let octets_max = self.settings.octets_max / u64::from(WHOLE) * u64::from(self.share);
        let room =
            self.objects == 0 || (self.objects < objects_max && self.octets.saturating_add(octets) <= octets_max);
        let half = self.objects <= objects_max / 2 && self.octets <= octets_max / 2;
        self.full = !room || (self.full && !half);
        !self.full
    }

    /// Lets so many thousandths of the bounds be used from now on; what is on its way arrives.
    pub fn share(&mut self, thousandths: u32) {
        self.share = thousandths.min(WHOLE);
    }

    /// An object is on its way.
    pub fn open(&mut self, octets: u64) {
        self.objects += 1;
        self.octets = self.octets.saturating_add(octets);
    }

    /// It has arrived, or stays.
    ///
    /// # Panics
    ///
    /// If more are closed than were opened.
    pub fn close(&mut self, octets: u64) {
        self.objects = self.objects.checked_sub(1).expect("closed once each");
        self.octets = self.octets.saturating_sub(octets);
    }

    /// Objects on their way.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// Whether one more object may be sealed now; if so it is counted.
    pub fn seal(&mut self) -> bool {
        let room = self.sealed < self.sealed_now_max;
        let half = self.sealed <= self.sealed_now_max / 2;
        self.sealed_full = !room || (self.sealed_full && !half);
        if !self.sealed_full {
            self.sealed += 1;
        }
        !self.sealed_full
    }

    /// A seal ended after `lasted`; `broken` if it was ended for its length.
    ///
    /// # Panics
    ///
    /// If more seals end than began.
    pub fn unseal(&mut self, lasted: Duration, broken: bool) {
        self.sealed = self.sealed.checked_sub(1).expect("ended once each");
        let now = self.sealed_now_max;
        if broken {
            self.allow(now / 2);
        } else if lasted <= self.settings.seal_target {
            self.short += 1;
            // A quarter more after as many short seals as are allowed at a time.
            if self.short >= now {
                self.allow(now + (now / 4).max(1));
            }
        } else if lasted > self.settings.seal_target * 2 {
            // Nobody waited, this time.
            self.long += 1;
            if self.long >= now {
                self.allow(now - now / 4);
            }
        } else {
            self.short = 0;
        }
    }

    fn allow(&mut self, sealed: usize) {
        self.sealed_now_max = sealed.max(SEALED_MIN).min(self.settings.sealed_max);
        (self.short, self.long) = (0, 0);
    }

    /// How many may be sealed at a time, at present.
    #[must_use]
    pub fn sealed_now_max(&self) -> usize {
        self.sealed_now_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(WindowSettings {
            objects_max: 4,
            octets_max: 1000,
            sealed_max: 1000,
            seal_target: Duration::from_millis(50),
        })
    }

    #[test]
    fn objects_and_octets_on_their_way_are_bounded() {
        let mut window = window();
        for _ in 0..4 {
            assert!(window.admits(200));
            window.open(200);
        }
        assert!(!window.admits(0), "a fifth object");
        window.close(200);
        window.close(200);
        assert!(window.admits(600));
        assert!(!window.admits(601));
    }

    #[test]
    fn full_window_takes_nothing_more_until_half_of_it_has_left() {
        let mut window = window();
        for _ in 0..4 {
            assert!(window.admits(0));
            window.open(0);
        }
        assert!(!window.admits(0));
        window.close(0);
        assert!(!window.admits(0), "three of four are still on their way");
        window.close(0);
        assert!(window.admits(0));
        window.open(0);
        assert!(window.admits(0), "it fills up again");
    }

    #[test]
    fn part_of_a_window_is_as_much_smaller_and_never_nothing() {
        let mut window = window();
        window.share(500);
        for _ in 0..2 {
            assert!(window.admits(200));
            window.open(200);
        }
        assert!(!window.admits(0), "a third of four halved");
        window.close(200);
        window.close(200);
        window.share(1);
        assert!(window.admits(5000), "one object always goes");
    }

    #[test]
    fn sealed_objects_leave_by_half_before_more_are_sealed() {
        let mut window = window();
        let max = window.sealed_now_max();
        assert_eq!((0..max + 1).filter(|_| window.seal()).count(), max);
        for left in 1..=max {
            window.unseal(Duration::from_millis(60), false);
            assert_eq!(window.clone().seal(), left >= max / 2, "{left} of {max} have left");
        }
    }

    #[test]
    fn object_larger_than_the_window_goes_alone() {
        let mut window = window();
        assert!(window.admits(5000));
        window.open(5000);
        assert!(!window.admits(1));
        window.close(5000);
        window.open(1);
        assert!(!window.admits(5000));
    }

    #[test]
    fn short_seals_allow_more_and_a_broken_one_halves() {
        let mut window = window();
        let begun = window.sealed_now_max();
        for _ in 0..10_000 {
            assert!(window.seal());
            window.unseal(Duration::from_millis(5), false);
        }
        assert_eq!(window.sealed_now_max(), 1000);
        assert!(window.sealed_now_max() > begun);
        assert!(window.seal());
        window.unseal(Duration::from_millis(100), true);
        assert_eq!(window.sealed_now_max(), 500);
        for _ in 0..500 {
            assert!(window.seal());
            window.unseal(Duration::from_millis(200), false);
        }
        assert_eq!(window.sealed_now_max(), 375, "long seals that nobody waited for");
    }
}
