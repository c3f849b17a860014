//! Which secondaries may still tell of a server that is to be stopped (DESIGN.md section 13, "Stopping a server").
//!
//! A server is out of the zones from the serial on at which no register names it any more. A secondary tells of it until it
//! is known to have that serial, or until what it has has expired: counted from the moment that our serial left it behind,
//! since a later one than its own prolongs nothing, or from the end of an older transfer that still ran then. Only then
//! the TTLs of its answers begin to run. Without a secondary, or when all of them are silent, nothing is waited for in vain
//! for longer than that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zones::ServerName;

use crate::transfer::book::{Book, EXPIRE};
use crate::transfer::secondary::TransferredZone;

/// For answers that were on their way: a secondary counts from when it took them.
const MARGIN: Duration = Duration::from_secs(2);

/// A secondary that is waited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lagging {
    /// Its name.
    pub secondary: String,
    /// How long at most.
    pub left: Duration,
}

/// What is remembered of servers that no register names.
#[derive(Debug, Default)]
pub(super) struct Secondaries {
    book: Option<Arc<Book>>,
    quiet: BTreeMap<ServerName, Quiet>,
}

#[derive(Debug)]
struct Quiet {
    /// Since when no register names it, and the serials then, of `obj` and `tree`.
    since: Instant,
    serials: (u32, u32),
    /// From when on what a secondary has expires, where that is not `since`.
    behind_since: BTreeMap<(String, TransferredZone), Instant>,
    /// Since when no secondary tells of it.
    told: Option<Instant>,
}

impl Secondaries {
    pub(super) fn new(book: Arc<Book>) -> Secondaries {
        Secondaries {
            book: Some(book),
            quiet: BTreeMap::new(),
        }
    }

    /// Who is waited for, and for how long nobody has been.
    pub(super) fn see(
        &mut self,
        server: &ServerName,
        is_quiet: bool,
        serials: (u32, u32),
        now: Instant,
    ) -> (Vec<Lagging>, Option<Duration>) {
        if !is_quiet {
            self.quiet.remove(server);
            return (Vec::new(), None);
        }
        let quiet = self.quiet.entry(server.clone()).or_insert_with(|| Quiet {
            since: now,
            serials,
            behind_since: BTreeMap::new(),
            told: None,
        });
        let lagging = self
            .book
            .as_ref()
            .map(|book| quiet.lagging(book, now))
            .unwrap_or_default();
        if lagging.is_empty() {
            let since = *quiet.told.get_or_insert(now);
            return (lagging, Some(now.saturating_duration_since(since)));
        }
        quiet.told = None;
        (lagging, None)
    }

    pub(super) fn retain(&mut self, is_there: impl Fn(&ServerName) -> bool) {
        self.quiet.retain(|server, _| is_there(server));
    }
}

impl Quiet {
    fn lagging(&mut self, book: &Book, now: Instant) -> Vec<Lagging> {
        let (obj, tree) = self.serials;
        let reached = book.reached(|zone| match zone {
            TransferredZone::Obj => Some(obj),
            TransferredZone::Tree => Some(tree),
            // It names no server.
            TransferredZone::Domain => None,
        });
        let mut lagging: BTreeMap<String, Duration> = BTreeMap::new();
        for one in reached {
            if one.taken {
                continue;
            }
            let key = (one.name.clone(), one.zone);
            if !self.behind_since.contains_key(&key) && !one.older_runs {
                let ended = |told: Instant| told + EXPIRE + MARGIN <= self.since;
                // It never had anything of this process or the one before, or that is over.
                if one.told.is_none_or(ended) {
                    continue;
                }
            }
            let behind = self.behind_since.entry(key).or_insert(self.since);
            if let Some(sent) = one.older_sent {
                *behind = sent.max(*behind);
            }
            if one.older_runs {
                *behind = now;
            }
            let left = (*behind + EXPIRE + MARGIN).saturating_duration_since(now);
            if !left.is_zero() {
                let longest = lagging.entry(one.name).or_default();
                *longest = left.max(*longest);
            }
        }
        lagging
            .into_iter()
            .map(|(secondary, left)| Lagging { secondary, left })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::book::testing::{BookOf, book};

    fn names(lagging: &[Lagging]) -> Vec<&str> {
        lagging.iter().map(|one| one.secondary.as_str()).collect()
    }

    fn server() -> ServerName {
        "s2".parse().unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn secondary_is_waited_for_by_name_until_it_has_the_serial_and_ttls_run_from_then() {
        let BookOf { book, name, began } = book(true);
        let mut secondaries = Secondaries::new(Arc::clone(&book));
        let mut see = |at: u64| secondaries.see(&server(), true, (7, 7), began + seconds(at));
        assert_eq!(names(&see(1).0), ["ns2"]);
        book.asked(&name, TransferredZone::Obj, Some(6));
        assert_eq!(names(&see(2).0), ["ns2"]);
        book.asked(&name, TransferredZone::Obj, Some(8));
        assert_eq!(see(5), (Vec::new(), Some(seconds(0))));
        assert_eq!(see(9).1, Some(seconds(4)));
    }

    #[test]
    fn silent_secondary_is_waited_for_no_longer_than_its_records_live_whatever_it_was_told_since() {
        let BookOf { book, name, began } = book(true);
        let mut secondaries = Secondaries::new(Arc::clone(&book));
        let mut see = |at: u64| secondaries.see(&server(), true, (7, 7), began + seconds(at));
        let (lagging, _) = see(0);
        assert_eq!(lagging[0].left, EXPIRE + MARGIN);
        // It asks, is told of a later serial, and takes nothing.
        book.asked_soa(&name, TransferredZone::Obj, 7, began + seconds(50));
        assert_eq!(see(50).0[0].left, seconds(12));
        assert_eq!(see(62), (Vec::new(), Some(seconds(0))));
    }

    #[test]
    fn older_transfer_that_ends_late_prolongs_the_wait() {
        let BookOf { book, name, began } = book(true);
        let running = book.begin(&name, TransferredZone::Obj, 6, 4).unwrap();
        let mut secondaries = Secondaries::new(Arc::clone(&book));
        let mut see = |at: u64| secondaries.see(&server(), true, (7, 7), began + seconds(at));
        see(0);
        assert_eq!(see(100).0[0].left, EXPIRE + MARGIN);
        running.finish(crate::transfer::book::testing::WHOLE, began + seconds(110));
        assert_eq!(see(120).0[0].left, seconds(52));
        assert_eq!(see(172).0, []);
    }

    #[test]
    fn secondary_that_was_added_just_now_or_is_long_silent_is_not_waited_for() {
        for (from_start, at) in [(false, 0), (true, 63)] {
            let BookOf { book, began, .. } = book(from_start);
            let mut secondaries = Secondaries::new(book);
            let (lagging, told) = secondaries.see(&server(), true, (7, 7), began + seconds(at));
            assert_eq!((lagging, told), (Vec::new(), Some(seconds(0))));
        }
    }

    #[test]
    fn server_that_is_named_again_is_waited_for_anew() {
        let BookOf { book, name, began } = book(true);
        let mut secondaries = Secondaries::new(Arc::clone(&book));
        book.asked(&name, TransferredZone::Obj, Some(7));
        assert_eq!(secondaries.see(&server(), true, (7, 7), began).0, []);
        assert_eq!(secondaries.see(&server(), false, (8, 8), began), (Vec::new(), None));
        assert_eq!(names(&secondaries.see(&server(), true, (9, 9), began).0), ["ns2"]);
    }
}
