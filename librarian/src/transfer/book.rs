//! What each secondary is known to have of each zone, and since when.
//!
//! A transfer that was written to its end proves nothing: the secondary may fail to take it. What counts as known is
//!
//! - the serial in its own question for differences (RFC 1995 section 3), and
//! - the serial that it was shown and did nothing about: of three signs in a row (a finished transfer, SOA questions)
//!   without a question for a transfer between them, the first one's serial. A secondary that was shown a later serial
//!   than its own asks for a transfer before it asks for the SOA record again, unless the answer was lost; two in a row
//!   seldom are, and then its old records still expire.
//!
//! **Expiry.** A secondary with an old serial lives on by an answer that shows the same serial, or a transfer (RFC 1034
//! section 4.3.5). So once ours is later, nothing but a transfer that began before prolongs what it has: its old records
//! end at the latest [`EXPIRE`] after our serial left them behind.
//!
//! Time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use certs::ClientName;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::secondary::{Secondary, TransferredZone};
use super::stream::Kind;
use crate::registry::index::EXPIRE_S;
use crate::update::is_later;

/// How long a secondary answers from a zone that it could not refresh.
pub(crate) const EXPIRE: Duration = Duration::from_secs(EXPIRE_S.unsigned_abs() as u64);
/// Signs in a row that show what a secondary has.
const SIGNS: u8 = 3;
/// Finished transfers that are remembered: more than end between two looks of the controller.
const FINISHED_MAX: usize = 16;

/// All secondaries that are configured.
#[derive(Debug, Default)]
pub struct Book {
    known: Mutex<BTreeMap<ClientName, Standing>>,
}

/// One secondary.
#[derive(Debug)]
struct Standing {
    secondary: Arc<Secondary>,
    tracks: BTreeMap<TransferredZone, Track>,
    running: usize,
}

/// One secondary and zone.
#[derive(Debug, Default)]
struct Track {
    /// The serial that it is known to have.
    has: Option<u32>,
    /// The first of the signs in a row, and how many there are.
    signs: (u32, u8),
    finished: VecDeque<(u32, Instant)>,
    /// Serials of transfers that run.
    running: Vec<u32>,
    /// When it last got an answer of any kind; at first, when it was known: it may have been told anything before.
    told: Option<Instant>,
    counts: Counts,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Whole zones sent to their end.
    pub whole: u64,
    /// Differences sent to their end.
    pub difference: u64,
    /// Questions for differences where nothing had changed, or over UDP, where they did not fit.
    pub current: u64,
    /// Transfers that ended early.
    pub failed: u64,
    /// Transfers refused, since too many ran.
    pub refused: u64,
    /// NOTIFY messages sent.
    pub notifies: u64,
    /// NOTIFY messages that were given up without an answer.
    pub unheard: u64,
}

/// How a secondary stands with one zone, for people and metrics.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ZoneStatus {
    /// `obj`, `tree` or `domain`.
    pub zone: String,
    /// Our serial.
    pub ours: u32,
    /// The serial that it is known to have; absent if nothing is known.
    pub has: Option<u32>,
    /// How far that is behind ours.
    pub behind: Option<u32>,
    /// Seconds since it was last answered; absent if it never was.
    pub seen_s: Option<u64>,
    /// `current`, `behind`, `expired` (not answered for as long as its records live), `unknown` (nothing is known yet).
    pub state: String,
    /// How often what happened.
    pub counts: Counts,
}

/// How a secondary stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Where it is told of changes.
    pub notify: Vec<String>,
    /// Each of its zones.
    pub zones: Vec<ZoneStatus>,
}

/// What is to be known of one secondary and zone where a server is to be stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reached {
    /// Which secondary.
    pub name: String,
    /// Which zone.
    pub zone: TransferredZone,
    /// Whether it has the serial, or a later one.
    pub taken: bool,
    /// Whether an older one is on its way there.
    pub older_runs: bool,
    /// When it was last sent an older one, of those remembered.
    pub older_sent: Option<Instant>,
    /// When it was last answered anything.
    pub told: Option<Instant>,
}

impl Book {
    /// Takes the secondaries that are configured; `from_start`: they were so before this process began, and may have been
    /// told anything.
    pub(super) fn set(&self, secondaries: Vec<Arc<Secondary>>, now: Instant, from_start: bool) {
        let mut known = self.known.lock();
        known.retain(|name, _| secondaries.iter().any(|one| one.name == *name));
        for secondary in secondaries {
            let standing = known.entry(secondary.name.clone()).or_insert_with(|| Standing {
                secondary: Arc::clone(&secondary),
                tracks: BTreeMap::new(),
                running: 0,
            });
            standing.tracks.retain(|zone, _| secondary.zones.contains(zone));
            for zone in &secondary.zones {
                standing.tracks.entry(*zone).or_insert_with(|| Track {
                    told: from_start.then_some(now),
                    ..Track::default()
                });
            }
            standing.secondary = secondary;
        }
    }

    /// Forgets everything but who there is: another process answered until now.
    pub(crate) fn begin_anew(&self, now: Instant) {
        for track in self.known.lock().values_mut().flat_map(|one| one.tracks.values_mut()) {
            *track = Track {
                told: Some(now),
                counts: track.counts,
                ..Track::default()
            };
        }
    }

    /// All of them.
    pub(super) fn secondaries(&self) -> Vec<Arc<Secondary>> {
        let known = self.known.lock();
        known.values().map(|standing| Arc::clone(&standing.secondary)).collect()
    }

    fn with<T>(&self, name: &ClientName, zone: TransferredZone, change: impl FnOnce(&mut Track) -> T) -> Option<T> {
        let mut known = self.known.lock();
        known.get_mut(name)?.tracks.get_mut(&zone).map(change)
    }

    /// It asked for the SOA record, signed, and was shown this serial.
    pub(crate) fn asked_soa(&self, name: &ClientName, zone: TransferredZone, serial: u32, now: Instant) {
        self.with(name, zone, |track| {
            track.told = Some(now);
            track.sign(serial);
        });
    }

    /// It asks for a transfer; `has` is the serial that it says it has.
    pub(crate) fn asked(&self, name: &ClientName, zone: TransferredZone, has: Option<u32>) {
        self.with(name, zone, |track| {
            track.signs = (0, 0);
            // Its own word, be it less than what was known: its disk may have been lost.
            track.has = has.or(track.has);
        });
    }

    /// It was told that nothing changed, or to come back over TCP.
    pub(super) fn told_current(&self, name: &ClientName, zone: TransferredZone, now: Instant) {
        self.with(name, zone, |track| {
            track.told = Some(now);
            track.counts.current += 1;
        });
    }

    /// A place among its transfers, if fewer than `most` run.
    pub(crate) fn begin(
        self: &Arc<Self>,
        name: &ClientName,
        zone: TransferredZone,
        serial: u32,
        most: usize,
    ) -> Option<Running> {
        let mut known = self.known.lock();
        let standing = known.get_mut(name)?;
        let track = standing.tracks.get_mut(&zone)?;
        if standing.running >= most {
            track.counts.refused += 1;
            return None;
        }
        standing.running += 1;
        track.running.push(serial);
        Some(Running {
            book: Arc::clone(self),
            name: name.clone(),
            zone,
            serial,
            ended: None,
        })
    }

    /// A NOTIFY message was sent, or given up.
    pub(super) fn notified(&self, name: &ClientName, zone: TransferredZone, heard: bool) {
        self.with(name, zone, |track| {
            if heard {
                track.counts.notifies += 1;
            } else {
                track.counts.unheard += 1;
            }
        });
    }

    /// What is known of every secondary of a zone in which a server was named until this serial.
    pub(crate) fn reached(&self, serial: impl Fn(TransferredZone) -> Option<u32>) -> Vec<Reached> {
        let mut all = Vec::new();
        for (name, standing) in &*self.known.lock() {
            for (zone, track) in &standing.tracks {
                let Some(serial) = serial(*zone) else { continue };
                let older = track.finished.iter().filter(|(sent, _)| is_later(serial, *sent));
                all.push(Reached {
                    name: name.to_string(),
                    zone: *zone,
                    taken: track.has.is_some_and(|has| !is_later(serial, has)),
                    older_runs: track.running.iter().any(|running| is_later(serial, *running)),
                    older_sent: older.map(|(_, at)| *at).max(),
                    told: track.told,
                });
            }
        }
        all
    }

    /// How all of them stand.
    pub(crate) fn status(&self, now: Instant, ours: impl Fn(TransferredZone) -> u32) -> Vec<Status> {
        let known = self.known.lock();
        let one = |(name, standing): (&ClientName, &Standing)| Status {
            name: name.to_string(),
            notify: standing.secondary.notify.iter().map(ToString::to_string).collect(),
            zones: standing
                .tracks
                .iter()
                .map(|(zone, track)| track.status(*zone, ours(*zone), now))
                .collect(),
        };
        known.iter().map(one).collect()
    }
}

impl Track {
    fn sign(&mut self, serial: u32) {
        let (first, count) = self.signs;
        self.signs = match count {
            0 => (serial, 1),
            count if count + 1 < SIGNS => (first, count + 1),
            _ => {
                if self.has.is_none_or(|has| is_later(first, has)) {
                    self.has = Some(first);
                }
                (serial, 1)
            }
        };
    }

    fn status(&self, zone: TransferredZone, ours: u32, now: Instant) -> ZoneStatus {
        let since = self.told.map(|told| now.saturating_duration_since(told));
        let state = match (self.has, since) {
            (_, Some(since)) if since >= EXPIRE => "expired",
            (None, _) => "unknown",
            (Some(has), _) if has == ours => "current",
            (Some(_), _) => "behind",
        };
        ZoneStatus {
            zone: zone.word().to_owned(),
            ours,
            has: self.has,
            behind: self.has.map(|has| ours.wrapping_sub(has)),
            seen_s: since.map(|since| since.as_secs()),
            state: state.to_owned(),
            counts: self.counts,
        }
    }
}

/// A transfer that runs. Dropped without [`Running::finish`] it has failed.
#[derive(Debug)]
pub(crate) struct Running {
    book: Arc<Book>,
    name: ClientName,
    zone: TransferredZone,
    serial: u32,
    ended: Option<(Kind, Instant)>,
}

impl Running {
    /// All of it was written.
    pub(crate) fn finish(mut self, kind: Kind, now: Instant) {
        self.ended = Some((kind, now));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut known = self.book.known.lock();
        let Some(standing) = known.get_mut(&self.name) else {
            return;
        };
        standing.running = standing.running.saturating_sub(1);
        let Some(track) = standing.tracks.get_mut(&self.zone) else {
            return;
        };
        if let Some(place) = track.running.iter().position(|serial| *serial == self.serial) {
            track.running.swap_remove(place);
        }
        match self.ended {
            None => track.counts.failed += 1,
            Some((kind, now)) => {
                match kind {
                    Kind::Whole => track.counts.whole += 1,
                    Kind::Difference => track.counts.difference += 1,
                    Kind::Current => track.counts.current += 1,
                }
                track.told = Some(now);
                track.signs = (self.serial, 1);
                if track.finished.len() == FINISHED_MAX {
                    track.finished.pop_front();
                }
                track.finished.push_back((self.serial, now));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) const WHOLE: Kind = Kind::Whole;

    /// A book of one secondary, `ns2`, that takes `obj`.
    pub(crate) struct BookOf {
        pub(crate) book: Arc<Book>,
        pub(crate) name: ClientName,
        pub(crate) began: Instant,
    }

    pub(crate) fn book(from_start: bool) -> BookOf {
        let book = Arc::new(Book::default());
        let name: ClientName = "ns2".parse().unwrap();
        let secondary = Secondary {
            name: name.clone(),
            zones: vec![TransferredZone::Obj],
            notify: Vec::new(),
        };
        let began = Instant::now();
        book.set(vec![Arc::new(secondary)], began, from_start);
        BookOf { book, name, began }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJ: TransferredZone = TransferredZone::Obj;

    fn book(from_start: bool) -> (Arc<Book>, ClientName, Instant) {
        let testing::BookOf { book, name, began } = testing::book(from_start);
        (book, name, began)
    }

    fn taken(book: &Book, serial: u32) -> bool {
        book.reached(|_| Some(serial))[0].taken
    }

    #[test]
    fn written_transfer_alone_proves_nothing_and_the_serial_in_a_question_does() {
        let (book, name, now) = book(false);
        let running = book.begin(&name, OBJ, 7, 4).unwrap();
        running.finish(Kind::Whole, now);
        assert!(!taken(&book, 7));
        book.asked_soa(&name, OBJ, 7, now);
        assert!(!taken(&book, 7));
        book.asked(&name, OBJ, Some(7));
        assert!(taken(&book, 7) && taken(&book, 6) && !taken(&book, 8));
        // It lost its disk, and says so.
        book.asked(&name, OBJ, Some(5));
        assert!(!taken(&book, 7));
    }

    #[test]
    fn three_signs_in_a_row_show_the_first_ones_serial_and_a_question_for_a_transfer_breaks_the_row() {
        let (book, name, now) = book(false);
        book.asked_soa(&name, OBJ, 7, now);
        book.asked_soa(&name, OBJ, 8, now);
        book.asked(&name, OBJ, None);
        book.begin(&name, OBJ, 9, 4).unwrap().finish(Kind::Whole, now);
        book.asked_soa(&name, OBJ, 9, now);
        assert!(!taken(&book, 7));
        book.asked_soa(&name, OBJ, 10, now);
        assert!(taken(&book, 9) && !taken(&book, 10));
    }

    #[test]
    fn places_are_bounded_and_given_back_and_what_ends_early_has_failed() {
        let (book, name, now) = book(true);
        let first = book.begin(&name, OBJ, 3, 2).unwrap();
        let second = book.begin(&name, OBJ, 5, 2).unwrap();
        assert!(book.begin(&name, OBJ, 5, 2).is_none());
        assert!(book.reached(|_| Some(4))[0].older_runs);
        drop(first);
        assert!(!book.reached(|_| Some(4))[0].older_runs);
        second.finish(Kind::Difference, now);
        let status = &book.status(now, |_| 6)[0].zones[0];
        let Counts {
            difference,
            failed,
            refused,
            ..
        } = status.counts;
        assert_eq!((difference, failed, refused), (1, 1, 1));
        assert!(book.begin(&name, OBJ, 6, 1).is_some());
    }

    #[test]
    fn state_says_what_is_known() {
        let (book, name, now) = book(false);
        let state = |at: Instant| book.status(at, |_| 9)[0].zones[0].state.clone();
        assert_eq!(state(now), "unknown");
        book.asked(&name, OBJ, Some(7));
        book.told_current(&name, OBJ, now);
        assert_eq!(state(now), "behind");
        book.asked(&name, OBJ, Some(9));
        assert_eq!(state(now), "current");
        assert_eq!(state(now + EXPIRE), "expired");
        book.begin_anew(now);
        assert_eq!(state(now), "unknown");
    }
}
