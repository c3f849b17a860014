//! What came from a server that is to be stopped: counted from the log of moves, and read back.
//!
//! ```text
//!  want says arrivals=s2:7 --> log, backwards --> sum --> told each second
//!                                   `--> each copy read back, in the order of the log --> verified, bad
//! ```
//!
//! The sum is exact at every moment at which it is told: it is made of the log alone, which is durable in the commit that makes
//! an object this server's. Copies are read one at a time, and while others use the store half of the time at most, so that
//! foreground work is not held up. How far the reading has come lies in a file, `arrivals.json`: to lose it costs a second
//! reading. A copy that cannot be read is tried again.
//!
//! Specification: DESIGN.md section 13 (gate after every step), PROTOCOL.md section 4.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zones::upkeep::{Arrivals, Sum, Taken};
use zones::{Address, Epoch, audit};

use crate::background::{Background, Stopped, stopped};
use crate::control::Wanted;
use crate::objects::Local;
use crate::scrub::Pace;
use crate::store::index::IndexError;
use crate::store::scrub::{GoOn, ScrubReport, one};
use crate::store::{Damage, Entry, Store};
use crate::upkeep::Board;

/// Name of the file inside an agent's directory.
pub const FILE: &str = "arrivals.json";
/// Entries of the log read at once.
const PAGE: usize = 256;
/// So many entries in a row of older plans end the way back through the log. Moves that were open when a plan began are
/// entered behind its first ones; far fewer are open at a time.
const OLDER_MAX: usize = 65_536;
/// Longest pause after a piece while others use the store.
const YIELD_MAX: Duration = Duration::from_millis(100);
/// Time between two notes of how far the reading has come: what a kill makes be read twice.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// Looks at one copy that is replaced while it is read.
const LOOKS_MAX: usize = 8;

/// How often is looked.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Time between two looks at want and log.
    pub look: Duration,
    /// Time between two readings of what could not be read.
    pub again: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses {
            look: Duration::from_secs(1),
            again: Duration::from_secs(60),
        }
    }
}

/// What counts of a log of moves. Made of the log alone, so it is the same after a restart.
#[derive(Clone, Debug)]
pub struct Count {
    arrivals: Arrivals,
    sum: Sum,
    /// The last entry that was looked at.
    to: u64,
    /// An entry that counts is at or behind this one.
    first: u64,
}

/// One copy that came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Came {
    address: String,
    epoch: u64,
}

/// How far the reading has come: what the file holds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    /// Of what.
    arrivals: String,
    /// Every entry of the log up to this one was looked at.
    to: u64,
    /// Copies that were read well, or are gone.
    verified: u64,
    /// Those that were not, by the number of their entry.
    bad: BTreeMap<u64, Came>,
}

/// What became of one copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Looked {
    /// It was read whole, or is gone: deleted, moved on.
    Verified,
    /// It cannot be read.
    Bad,
    /// Nothing is known: it is about to come, or its keys are away.
    NotYet,
    /// Whoever reads was told to stop.
    Stopped,
}

impl Count {
    /// The entry that a line of the log is, if it counts; and whether it is of these plans.
    #[must_use]
    pub fn counts(arrivals: &Arrivals, line: &[u8]) -> (Option<audit::Entry>, bool) {
        let Ok(entry) = audit::Entry::read(line) else {
            return (None, false);
        };
        let is_of_plan = entry.plan().is_some_and(|plan| plan >= arrivals.since);
        let counts = is_of_plan && entry.from == arrivals.from;
        (Some(entry).filter(|_| counts), is_of_plan)
    }

    /// Goes back from the log's end. Blocks.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub fn begin(store: &Store, arrivals: Arrivals) -> Result<Count, IndexError> {
        let end = store.audit_head().count;
        let mut count = Count {
            arrivals,
            sum: Sum::default(),
            to: end,
            first: end + 1,
        };
        let (mut before, mut older) = (end + 1, 0);
        while older < OLDER_MAX {
            let page = store.audit_before(before, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            before = *last;
            for (number, line) in &page {
                let (entry, is_of_plan) = Count::counts(&count.arrivals, line);
                older = if is_of_plan { 0 } else { older + 1 };
                if let Some(entry) = entry {
                    count.add(store, &entry);
                    count.first = *number;
                }
            }
        }
        Ok(count)
    }

    /// Takes in what was added since. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Count::begin`].
    pub fn catch_up(&mut self, store: &Store) -> Result<(), IndexError> {
        while self.to < store.audit_head().count {
            let page = store.audit(self.to, PAGE)?;
            let Some((last, _)) = page.entries.last() else { break };
            self.to = *last;
            for (_, line) in &page.entries {
                if let (Some(entry), _) = Count::counts(&self.arrivals, line) {
                    self.add(store, &entry);
                }
            }
        }
        Ok(())
    }

    /// What counts so far.
    #[must_use]
    pub fn sum(&self) -> Sum {
        self.sum
    }

    fn add(&mut self, store: &Store, entry: &audit::Entry) {
        if let Some(given) = entry.given() {
            self.sum = self.sum.with(store.vault().element(&given));
        }
    }
}

impl Reading {
    /// What the last life of this agent left behind, if it is of the same count.
    fn read(dir: &Path, count: &Count) -> Reading {
        let fresh = Reading {
            arrivals: count.arrivals.to_string(),
            to: count.first - 1,
            ..Reading::default()
        };
        let Ok(text) = fs::read_to_string(dir.join(FILE)) else {
            return fresh;
        };
        match serde_json::from_str::<Reading>(&text) {
            Ok(known) if known.arrivals == fresh.arrivals && (fresh.to..=count.to).contains(&known.to) => known,
            Ok(_) => fresh,
            Err(error) => {
                tracing::warn!(%error, "{FILE} is not understood: what arrived is read again");
                fresh
            }
        }
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let fresh = dir.join("arrivals.new");
        let mut new = File::create(&fresh)?;
        new.write_all(&serde_json::to_vec(self)?)?;
        new.sync_all()?;
        fs::rename(&fresh, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }
}

/// Counts and reads back what arrives. It ends when this is dropped.
#[derive(Debug)]
pub struct Checker {
    _thread: Background,
}

impl Checker {
    /// Starts it. It reads `rate` octets a second at most, 0: as fast as it goes; `used` rises whenever somebody else uses the
    /// store. What it finds is on the board.
    ///
    /// # Errors
    ///
    /// The system's, when it gives no thread.
    pub fn start(
        dir: &Path,
        local: Arc<Local>,
        wanted: watch::Receiver<Wanted>,
        board: Arc<Board>,
        rate: u64,
        pauses: Pauses,
        used: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Checker> {
        let (stop, stopped) = stopped();
        let work = Work {
            dir: dir.to_owned(),
            local,
            wanted,
            board,
            share: Share::new(rate, used),
            pauses,
            stopped,
            open: None,
        };
        let thread = Background::start("arrivals", stop, move || work.run())?;
        Ok(Checker { _thread: thread })
    }
}

/// The thread's.
struct Work<U> {
    dir: PathBuf,
    local: Arc<Local>,
    wanted: watch::Receiver<Wanted>,
    board: Arc<Board>,
    share: Share<U>,
    pauses: Pauses,
    stopped: Stopped,
    open: Option<Open>,
}

/// A count that is wanted.
struct Open {
    count: Count,
    reading: Reading,
    saved: Reading,
    saved_at: Instant,
    again_at: Instant,
}

impl<U: Fn() -> u64> Work<U> {
    fn run(mut self) {
        loop {
            let wait = match self.look() {
                Ok(true) => Duration::ZERO,
                Ok(false) => self.pauses.look,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the log of moves cannot be read: what arrived is not counted"
                    );
                    self.pauses.look
                }
            };
            if self.stopped.sleep(wait) == GoOn::Stop {
                self.save(true);
                return;
            }
        }
    }

    /// Counts what is wanted, and reads a few copies back; whether there are more.
    fn look(&mut self) -> Result<bool, IndexError> {
        let wanted = (self.wanted.borrow().want.as_ref()).and_then(|want| want.errand.arrivals.clone());
        if wanted.as_ref() != self.open.as_ref().map(|open| &open.count.arrivals) {
            self.open = None;
            // Nothing is told until the sum is whole.
            self.board.set_taken(None);
            if let Some(arrivals) = wanted {
                let count = Count::begin(self.local.store(), arrivals)?;
                let reading = Reading::read(&self.dir, &count);
                tracing::info!(
                    arrivals = reading.arrivals,
                    objects = count.sum.count,
                    "arrivals are counted"
                );
                self.open = Some(Open {
                    count,
                    saved: reading.clone(),
                    reading,
                    saved_at: Instant::now(),
                    again_at: Instant::now() + self.pauses.again,
                });
            }
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        open.count.catch_up(self.local.store())?;
        self.tell();
        let more = self.read_on()?;
        self.read_again();
        self.tell();
        self.save(!more);
        Ok(more)
    }

    /// Reads the copies of the next entries; whether there are more.
    fn read_on(&mut self) -> Result<bool, IndexError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        // No further than is counted: what is verified is always of the sum.
        let page = self.local.store().audit(open.reading.to, PAGE)?;
        let to = open.count.to;
        for (number, line) in page.entries.into_iter().take_while(|(number, _)| *number <= to) {
            if let (Some(entry), _) = Count::counts(&open.count.arrivals, &line)
                && entry.given().is_some()
            {
                let (share, stopped) = (&mut self.share, &self.stopped);
                let epoch = Epoch(entry.epoch);
                let looked = look_at(&self.local, &entry.address, epoch, |octets| {
                    stopped.sleep(share.wait(Instant::now(), octets))
                });
                match looked {
                    Looked::Verified => open.reading.verified += 1,
                    Looked::Bad => {
                        let came = Came {
                            address: entry.address.to_string(),
                            epoch: entry.epoch,
                        };
                        open.reading.bad.insert(number, came);
                    }
                    Looked::NotYet | Looked::Stopped => return Ok(false),
                }
            }
            open.reading.to = number;
        }
        Ok(open.reading.to < open.count.to)
    }

    /// Reads again what could not be read: it may have been repaired, written anew or deleted.
    fn read_again(&mut self) {
        let Some(open) = &mut self.open else { return };
        if Instant::now() < open.again_at {
            return;
        }
        open.again_at = Instant::now() + self.pauses.again;
        for (number, came) in open.reading.bad.clone() {
            let (share, stopped) = (&mut self.share, &self.stopped);
            let looked = match came.address.parse() {
                Ok(address) => look_at(&self.local, &address, Epoch(came.epoch), |octets| {
                    stopped.sleep(share.wait(Instant::now(), octets))
                }),
                Err(_) => Looked::NotYet,
            };
            match looked {
                Looked::Verified => {
                    open.reading.bad.remove(&number);
                    open.reading.verified += 1;
                }
                Looked::Bad | Looked::NotYet => {}
                Looked::Stopped => return,
            }
        }
    }

    fn tell(&self) {
        let taken = self.open.as_ref().map(|open| Taken {
            arrivals: open.count.arrivals.clone(),
            sum: open.count.sum,
            verified: open.reading.verified,
            bad: open.reading.bad.len() as u64,
        });
        self.board.set_taken(taken);
    }

    /// Notes how far it is, if that is news.
    fn save(&mut self, now: bool) {
        let Some(open) = &mut self.open else { return };
        if open.reading == open.saved || !(now || open.saved_at.elapsed() >= SAVE_EVERY) {
            return;
        }
        open.saved_at = Instant::now();
        match open.reading.write(&self.dir) {
            Ok(()) => open.saved = open.reading.clone(),
            Err(error) => tracing::warn!(%error, "{FILE} cannot be written: a restart reads again what arrived"),
        }
    }
}

/// Reads the copy that came at `epoch` whole, as it is by now. `go_on` is asked after each piece, with its octets.
pub fn look_at(local: &Local, address: &Address, epoch: Epoch, mut go_on: impl FnMut(u64) -> GoOn) -> Looked {
    let mut looked = Looked::Verified;
    for _ in 0..LOOKS_MAX {
        let Some(entry) = local.copy_of(address, epoch) else {
            return Looked::Verified;
        };
        if entry.journal.is_arriving() {
            // The log has it a moment before the table.
            return Looked::NotYet;
        }
        if entry.journal.is_retired() {
            // Who took it from here answers for it.
            return Looked::Verified;
        }
        looked = read(local, &entry, &mut go_on);
        match looked {
            Looked::Verified | Looked::Stopped | Looked::NotYet => return looked,
            // Replaced or removed meanwhile: what was read is no copy any more.
            Looked::Bad if local.copy_of(address, epoch).is_some_and(|now| now.seq == entry.seq) => return looked,
            Looked::Bad => {}
        }
    }
    looked
}

fn read(local: &Local, entry: &Arc<Entry>, go_on: &mut impl FnMut(u64) -> GoOn) -> Looked {
    let mut report = ScrubReport::default();
    let end = one(local.store(), entry, &mut report, |_, octets| go_on(octets));
    let damaged: &[Damage] = &report.damaged;
    match end {
        GoOn::Stop => Looked::Stopped,
        GoOn::Yes if !damaged.is_empty() => Looked::Bad,
        GoOn::Yes if report.unread > 0 => Looked::NotYet,
        GoOn::Yes => Looked::Verified,
    }
}

/// How fast is read: at most so many octets a second, and while others use the store at most half of the time. An upgrade waits
/// for this, so it does not stand still for them as a scrub does.
struct Share<U> {
    rate: Pace<fn() -> u64>,
    used: U,
    used_before: u64,
    since: Option<Instant>,
}

impl<U: Fn() -> u64> Share<U> {
    fn new(octets_per_second: u64, used: U) -> Share<U> {
        Share {
            rate: Pace::new(octets_per_second, || 0),
            used_before: used(),
            used,
            since: None,
        }
    }

    /// How long to wait after these octets were read.
    fn wait(&mut self, now: Instant, octets: u64) -> Duration {
        let used = (self.used)();
        let worked = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let others = match used == self.used_before {
            true => Duration::ZERO,
            false => worked.min(YIELD_MAX),
        };
        self.used_before = used;
        let wait = self.rate.wait(now, octets).max(others);
        self.since = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::simulated::SimulatedDisk;
    use crate::store::tests::audit::{arrived_by, open};

    const KEPT: Duration = Duration::MAX;

    fn arrivals(since: u64) -> Arrivals {
        Arrivals {
            from: "s1".parse().unwrap(),
            since,
        }
    }

    #[test]
    fn moves_of_older_plans_and_of_other_servers_do_not_count() {
        let disk = SimulatedDisk::default();
        let store = open(&disk, 1, KEPT).unwrap();
        let mut later = Count::begin(&store, arrivals(7)).unwrap();
        for (at, from, actor) in [
            ("1.1", "s1", "drain, plan 5"),
            ("1.2", "s1", "drain, plan 7"),
            ("1.3", "s3", "drain, plan 7"),
            // It was open when plan 7 began.
            ("1.4", "s1", "drain, plan 6"),
            ("1.5", "s1", "taken up after a restart, plan 8"),
            ("1.6", "s1", "wish, plan 10"),
            ("1.7", "s1", "somebody"),
        ] {
            arrived_by(&store, at, from, actor);
        }
        let count = |since| Count::begin(&store, arrivals(since)).unwrap().sum();
        let counts: Vec<u64> = [5, 6, 7, 8, 10, 11].map(|since| count(since).count).to_vec();
        assert_eq!(counts, [5, 4, 3, 2, 1, 0]);
        later.catch_up(&store).unwrap();
        assert_eq!(later.sum(), count(7), "from the front and from the back it is the same");
        drop(store);
        let again = open(&disk, 2, KEPT).unwrap();
        assert_eq!(Count::begin(&again, arrivals(7)).unwrap().sum(), later.sum());
    }

    #[test]
    fn reading_back_leaves_others_half_of_the_time_and_nobody_else_waits() {
        let used = std::cell::Cell::new(0);
        let begin = Instant::now();
        let mut share = Share::new(0, || used.get());
        let ms = Duration::from_millis;
        assert_eq!(share.wait(begin, 1000), Duration::ZERO);
        assert_eq!(share.wait(begin + ms(30), 1000), Duration::ZERO);
        used.set(1);
        assert_eq!(share.wait(begin + ms(50), 1000), ms(20));
        used.set(2);
        // Twenty of these it waited.
        assert_eq!(share.wait(begin + ms(80), 1000), ms(10));
        used.set(3);
        assert_eq!(share.wait(begin + ms(1000), 1000), YIELD_MAX);
        let mut bounded = Share::new(1 << 20, || 0);
        assert_eq!(bounded.wait(begin, 1 << 20), ms(1000));
    }
}
