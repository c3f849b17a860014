//! How whoever reads without a lock knows that nothing changed meanwhile (a "seqlock").

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};

/// The version of some atomic words that one thread changes while others read: odd while they change.
#[derive(Default)]
pub(crate) struct Version(AtomicU32);

/// A moment at which nothing was being changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rest(u32);

impl Version {
    /// Changes the words so that no reading meanwhile counts. One thread at a time may do this.
    pub(crate) fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        self.begin();
        let changed = change();
        self.end();
        changed
    }

    /// From here on words change, if they do not already; until [`Version::end`].
    pub(crate) fn begin(&self) {
        let before = self.0.load(Relaxed);
        if before.is_multiple_of(2) {
            self.0.store(before.wrapping_add(1), Relaxed);
            // Whoever reads anything that is written from here on finds the version changed.
            fence(Release);
        }
    }

    /// Ends what [`Version::begin`] began, if it did.
    pub(crate) fn end(&self) {
        let before = self.0.load(Relaxed);
        if !before.is_multiple_of(2) {
            self.0.store(before.wrapping_add(1), Release);
        }
    }

    /// What a reading comes to that no change came between; `None` after so many that do not count.
    ///
    /// `read` sees words of different times together, and must bear with any of them.
    pub(super) fn read<T>(&self, most: usize, read: impl Fn() -> T) -> Option<T> {
        for _ in 0..most {
            if let Some(rest) = self.rest() {
                let found = read();
                if self.has_rested_since(rest) {
                    return Some(found);
                }
            }
            std::hint::spin_loop();
        }
        None
    }

    /// This moment, unless something is being changed.
    pub(crate) fn rest(&self) -> Option<Rest> {
        let version = self.0.load(Acquire);
        version.is_multiple_of(2).then_some(Rest(version))
    }

    /// Whether no change came since: whatever was read meanwhile was there at once.
    pub(crate) fn has_rested_since(&self, rest: Rest) -> bool {
        // The version is not read before what was read until now.
        fence(Acquire);
        self.0.load(Relaxed) == rest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_counts_unless_a_change_came_between() {
        let version = Version::default();
        let readings = AtomicU32::new(0);
        let read_and = |meanwhile: &dyn Fn()| {
            version.read(3, || {
                if readings.fetch_add(1, Relaxed) == 0 {
                    meanwhile();
                }
                readings.load(Relaxed)
            })
        };
        assert_eq!(read_and(&|| ()), Some(1));
        readings.store(0, Relaxed);
        assert_eq!(read_and(&|| version.change(|| ())), Some(2), "the first does not count");
        readings.store(0, Relaxed);
        assert_eq!(version.change(|| read_and(&|| ())), None);
        assert_eq!(readings.load(Relaxed), 0, "nothing is read while words change");
    }
}
