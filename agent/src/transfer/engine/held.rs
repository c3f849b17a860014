//! Offers that wait while this server's clients do.
//!
//! The peers' protocol has no word for "slower", and needs none: an offer is answered later. What a source has offered keeps its
//! place in the source's window, so the source slows down by itself. No offer waits longer than [`HELD_MAX`], half of a source's
//! patience: what is slowed down still comes, and no move is given up for it.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Engine, Id, Outside};
use crate::clock::BootInstant;
use crate::migration::budget::Budget;
use crate::migration::window::WindowSettings;

/// Longest time that an offer waits for the pace; a source is patient for 10 s.
const HELD_MAX: Duration = Duration::from_secs(5);

/// What may come now, and what waits.
#[derive(Debug)]
pub(super) struct Door {
    budget: Budget,
    /// The earliest first. Each is a machine, so they are as many as those at most.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    id: Id,
    octets: u64,
    until: BootInstant,
}

impl Door {
    pub(super) fn new(window: &WindowSettings) -> Door {
        Door {
            budget: Budget::new(window),
            held: VecDeque::new(),
        }
    }

    /// Whether an object that is offered is let in now; else it waits, and [`Door::next`] gives it later.
    pub(super) fn lets_in(&mut self, now: BootInstant, share: u32, id: Id, octets: u64) -> bool {
        let now_or_later = self.held.is_empty() && self.budget.admits(now, share);
        match now_or_later {
            true => self.budget.take(octets),
            false => self.held.push_back(Held {
                id,
                octets,
                until: now + HELD_MAX,
            }),
        }
        now_or_later
    }

    /// The next offer that has waited long enough.
    fn next(&mut self, now: BootInstant, share: u32) -> Option<(Id, u64)> {
        let first = self.held.front()?;
        if !self.budget.admits(now, share) && first.until > now {
            return None;
        }
        let Held { id, octets, .. } = self.held.pop_front()?;
        self.budget.take(octets);
        Some((id, octets))
    }
}

impl<O: Outside> Engine<O> {
    /// Answers the offers that have waited long enough.
    pub(super) fn let_in(&mut self) {
        let now = self.outside.now();
        while let Some((id, octets)) = self.door.next(now, self.pace.share()) {
            // Its move may have ended meanwhile.
            self.reserve(id, octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::pace::WHOLE;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_secs(1000) + Duration::from_millis(ms))
    }

    fn door() -> Door {
        Door::new(&WindowSettings {
            objects_max: 10,
            octets_max: 1 << 20,
            sealed_max: 10,
            seal_target: Duration::ZERO,
        })
    }

    #[test]
    fn offers_beyond_the_pace_wait_in_turn() {
        let mut door = door();
        // At a tenth of eight windows of ten, 8 a second; 2 at once.
        let let_in: Vec<_> = (0..6).filter(|id| door.lets_in(at(0), 100, *id, 1)).collect();
        assert_eq!(let_in, [0, 1]);
        let mut later = Vec::new();
        for ms in (0..=1000).step_by(10) {
            while let Some((id, _)) = door.next(at(ms), 100) {
                later.push((id, ms));
            }
        }
        assert_eq!(later.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(later[0].1 <= 10 && later[3].1 >= 375, "{later:?}");
    }

    #[test]
    fn no_offer_waits_longer_than_five_seconds() {
        let mut door = door();
        assert!(door.lets_in(at(0), 1, 0, 1 << 30), "and now it owes a whole window");
        for id in 1..100 {
            assert!(!door.lets_in(at(id), 1, id, 1));
        }
        assert_eq!(door.next(at(5000), 1), None);
        for id in 1..100 {
            assert_eq!(door.next(at(5000 + id), 1), Some((id, 1)));
        }
        assert_eq!(door.next(at(10_000), 1), None);
    }

    #[test]
    fn all_that_wait_come_as_soon_as_moves_are_at_full_speed() {
        let mut door = door();
        let held = (0..50).filter(|id| !door.lets_in(at(0), 100, *id, 1)).count();
        assert_eq!(held, 48);
        assert!((0..held).all(|_| door.next(at(1), WHOLE).is_some()));
        assert!(door.lets_in(at(1), WHOLE, 50, 1));
    }
}
