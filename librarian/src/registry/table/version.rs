//! How whoever reads without a lock knows that nothing changed meanwhile (a "seqlock").

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};

/// The version of some atomic words that one thread changes while others read: odd while they change.
#[derive(Default)]
pub(crate) struct Version(AtomicU32);

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
    pub(crate) fn read<T>(&self, most: usize, read: impl Fn() -> T) -> Option<T> {
        for _ in 0..most {
            let before = self.0.load(Acquire);
            if before.is_multiple_of(2) {
                let found = read();
                // The version is not read before what was read above.
                fence(Acquire);
                if self.0.load(Relaxed) == before {
                    return Some(found);
                }
            }
            std::hint::spin_loop();
        }
        None
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
