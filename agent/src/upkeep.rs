//! The board on which the parts of an agent note what gates of an upgrade are judged by; each round of control reads it.
//!
//! What the objects know is not here: it is counted with them ([`crate::objects::Objects::figures`]). How the installing of
//! another release stands is told by [`crate::install::InstallView`].

use parking_lot::Mutex;
use zones::Upkeep;
use zones::upkeep::{Taken, Tried};

/// What was noted last.
#[derive(Debug, Default)]
pub struct Board(Mutex<Notes>);

#[derive(Clone, Debug, Default)]
struct Notes {
    taken: Option<Taken>,
    dry: Option<Tried>,
}

impl Board {
    /// What was taken of what is to be counted; none while nothing is, or while it is not counted yet.
    pub fn set_taken(&self, taken: Option<Taken>) {
        self.0.lock().taken = taken;
    }

    /// What trying the schemas of the next release found; none while they are not tried.
    pub fn set_dry(&self, dry: Option<Tried>) {
        self.0.lock().dry = dry;
    }

    /// Adds to what the objects know, and the `running` requests of clients.
    #[must_use]
    pub fn over(&self, objects: Upkeep, running: u64) -> Upkeep {
        let Notes { taken, dry } = self.0.lock().clone();
        Upkeep {
            running,
            taken,
            dry,
            ..objects
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn board_keeps_what_the_objects_know() {
        let board = Board::default();
        let objects = Upkeep {
            suite: 3,
            open: 5,
            retired: 6,
            p99_us: 4500,
            resting: 2,
            ..Upkeep::default()
        };
        let told = board.over(objects, 9);
        assert_eq!((told.suite, told.open, told.retired, told.p99_us), (3, 5, 6, 4500));
        assert_eq!((told.running, told.resting, told.taken, told.dry), (9, 2, None, None));
    }
}
