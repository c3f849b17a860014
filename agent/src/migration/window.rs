//! Which objects to open now: how many objects and octets are on their way, and how many are sealed at a time.
//!
//! Writers of a sealed object wait, so the seal must be short: the fewer objects are sealed at a time, the sooner each one's
//! commit comes back. How many are right depends on disks and librarian, so it is found out: more while seals stay well
//! within their budget, half as many as soon as one breaks it.

use std::time::Duration;

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
#[derive(Clone, Debug)]
pub struct Window {
    settings: WindowSettings,
    objects: usize,
    octets: u64,
    sealed: usize,
    /// How many may be sealed now.
    sealed_now_max: usize,
    /// Short seals since the bound was last raised.
    short: usize,
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
            sealed: 0,
            sealed_now_max: settings.sealed_max.min(SEALED_MIN * 8),
            short: 0,
        }
    }

    /// Whether an object of so many octets may be opened now.
    #[must_use]
    pub fn admits(&self, octets: u64) -> bool {
        self.objects == 0
            || (self.objects < self.settings.objects_max
                && self.octets.saturating_add(octets) <= self.settings.octets_max)
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
        let free = self.sealed < self.sealed_now_max;
        if free {
            self.sealed += 1;
        }
        free
    }

    /// A seal ended after `lasted`; `broken` if it was ended for its length.
    ///
    /// # Panics
    ///
    /// If more seals end than began.
    pub fn unseal(&mut self, lasted: Duration, broken: bool) {
        self.sealed = self.sealed.checked_sub(1).expect("ended once each");
        if broken {
            self.sealed_now_max = (self.sealed_now_max / 2).max(SEALED_MIN).min(self.settings.sealed_max);
            self.short = 0;
        } else if lasted <= self.settings.seal_target {
            self.short += 1;
            // A quarter more after as many short seals as are allowed at a time.
            if self.short >= self.sealed_now_max {
                self.short = 0;
                let more = self.sealed_now_max + (self.sealed_now_max / 4).max(1);
                self.sealed_now_max = more.min(self.settings.sealed_max);
            }
        } else {
            self.short = 0;
        }
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
        assert!(window.admits(400));
        assert!(!window.admits(401));
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
    }
}
