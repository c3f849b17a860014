//! The scrub of a running agent: a thread that reads every copy once in an interval, at a bounded rate.
//!
//! ```text
//!  wait until due --> slices of a pass, paced --> finished --> wait
//!        |                     `-- stop, restart: goes on at its slice
//!        `-- each hour: what is set aside is read again
//! ```
//!
//! How far a pass has come, when the last one ended and what is set aside lies in a file, `scrub.json`, which is a hint and no
//! truth: without it, or with a wrong one, a pass begins anew. The file is what `agent check` shows of a running agent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::access::metrics::{head, line};
use crate::background::{Background, Stopped, stopped};
use crate::config;
use crate::store::scrub::{GoOn, SLICES, ScrubReport, again, slice};
use crate::store::{Damage, Store};

/// Name of the file inside an agent's directory.
pub const FILE: &str = "scrub.json";
/// How long a piece of half a megabyte waits while others use the store. So a scrub under steady load still reads 5 MiB/s at
/// most, and ends.
const YIELD: Duration = Duration::from_millis(100);
/// Time between two looks at what is set aside.
const AGAIN_EVERY: Duration = Duration::from_secs(3600);
/// How long a pass waits for a key provider that does not answer.
const KEYS_WAIT: Duration = Duration::from_secs(60);
/// Time between two notes of how far a pass has come: what a kill makes be read twice.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// What a scrub leaves behind for its next start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct State {
    /// When the last whole pass ended, in Unix seconds; 0: none has.
    pub finished: u64,
    /// The slice at which a pass goes on; 0: none is under way.
    pub slice: u32,
    /// Copies read in the pass under way, or in the last one.
    pub copies: u64,
    /// Plaintext octets of these.
    pub octets: u64,
    /// What is set aside.
    pub damaged: Vec<Damage>,
}

impl State {
    /// Reads what the last scrub left behind; `None` if there is nothing that can be read.
    #[must_use]
    pub fn read(dir: &Path) -> Option<State> {
        let text = fs::read_to_string(dir.join(FILE)).ok()?;
        serde_json::from_str::<State>(&text)
            .inspect_err(|error| tracing::warn!(%error, "{FILE} is not understood: a pass begins anew"))
            .ok()
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let fresh = dir.join("scrub.new");
        let mut new = File::create(&fresh)?;
        new.write_all(&serde_json::to_vec(self)?)?;
        new.sync_all()?;
        fs::rename(&fresh, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }
}

/// What the scrub has done since the agent's start.
#[derive(Debug, Default)]
struct Counters {
    copies: AtomicU64,
    octets: AtomicU64,
    finished: AtomicU64,
}

/// The scrub of a running agent. It ends when this is dropped.
#[derive(Debug)]
pub struct Scrubber {
    counters: Arc<Counters>,
    store: Arc<Store>,
    _thread: Background,
}

impl Scrubber {
    /// Starts it. `used` rises whenever somebody else uses the store: the scrub then makes way.
    ///
    /// # Errors
    ///
    /// The system's, when it gives no thread.
    pub fn start(
        dir: &Path,
        store: Arc<Store>,
        settings: &config::Scrub,
        used: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Scrubber> {
        let state = State::read(dir).unwrap_or_default();
        store.set_aside_again(&state.damaged);
        let counters = Arc::new(Counters::default());
        counters.finished.store(state.finished, Ordering::Relaxed);
        let (stop, stopped) = stopped();
        let work = Work {
            dir: dir.to_owned(),
            store: Arc::clone(&store),
            interval: settings.interval,
            counters: Arc::clone(&counters),
            pace: Pace::new(settings.rate.0, used),
            stopped,
            saved_at: Instant::now(),
            saved: state.clone(),
            state,
        };
        let thread = Background::start("scrub", stop, move || work.run())?;
        Ok(Scrubber {
            counters,
            store,
            _thread: thread,
        })
    }

    /// What tells when the last whole pass ended, in Unix seconds; 0 before the first.
    pub fn finished(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let counters = Arc::clone(&self.counters);
        move || counters.finished.load(Ordering::Relaxed)
    }

    /// What writes its metrics.
    pub fn metrics(&self) -> impl Fn(&mut String) + Send + Sync + use<> {
        let (counters, store) = (Arc::clone(&self.counters), Arc::clone(&self.store));
        move |out| {
            let mut sample = |name: &str, kind: &str, help: &str, value: u64| {
                head(out, name, kind, help);
                line(out, name, value);
            };
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            sample(
                "agent_scrub_copies_total",
                "counter",
                "Copies of objects that the scrub has read.",
                count(&counters.copies),
            );
            sample(
                "agent_scrub_octets_total",
                "counter",
                "Plaintext octets that the scrub has read.",
                count(&counters.octets),
            );
            sample(
                "agent_scrub_damaged",
                "gauge",
                "Parts of objects that are damaged and set aside: neither served nor moved.",
                store.damaged_count(),
            );
            sample(
                "agent_scrub_last_finished_seconds",
                "gauge",
                "Unix time at which the last whole pass ended; 0 before the first.",
                count(&counters.finished),
            );
        }
    }
}

/// The thread's.
struct Work<U> {
    dir: PathBuf,
    store: Arc<Store>,
    interval: Duration,
    counters: Arc<Counters>,
    pace: Pace<U>,
    stopped: Stopped,
    state: State,
    saved: State,
    saved_at: Instant,
}

/// How a pass ended.
enum Ended {
    Whole,
    Stopped,
    /// Some copies could not be read for want of keys.
    Keyless,
}

impl<U: Fn() -> u64> Work<U> {
    fn run(mut self) {
        loop {
            let wait = match self.due_in(SystemTime::now()) {
                Duration::ZERO => match self.pass() {
                    Ended::Whole => continue,
                    Ended::Stopped => return self.save(),
                    Ended::Keyless => KEYS_WAIT,
                },
                wait => wait.min(AGAIN_EVERY),
            };
            if self.stopped.sleep(wait) == GoOn::Stop {
                return self.save();
            }
            if self.store.damaged_count() > 0 {
                let (pace, stopped) = (&mut self.pace, &self.stopped);
                if again(&self.store, |_, octets| {
                    stopped.sleep(pace.wait(Instant::now(), octets))
                }) == GoOn::Stop
                {
                    return self.save();
                }
            }
            self.save();
        }
    }

    /// How long until a pass begins or goes on. A clock that was set back is no reason to wait.
    fn due_in(&self, now: SystemTime) -> Duration {
        let finished = UNIX_EPOCH.checked_add(Duration::from_secs(self.state.finished));
        match finished.and_then(|finished| now.duration_since(finished).ok()) {
            Some(since) if self.state.slice == 0 => self.interval.saturating_sub(since),
            Some(_) | None => Duration::ZERO,
        }
    }

    fn pass(&mut self) -> Ended {
        if self.state.slice == 0 {
            (self.state.copies, self.state.octets) = (0, 0);
        }
        for number in self.state.slice.min(SLICES)..SLICES {
            let mut report = ScrubReport::default();
            let (pace, stopped, counters) = (&mut self.pace, &self.stopped, &self.counters);
            let end = slice(&self.store, number, &mut report, |_, octets| {
                counters.octets.fetch_add(octets, Ordering::Relaxed);
                stopped.sleep(pace.wait(Instant::now(), octets))
            });
            self.counters.copies.fetch_add(report.copies, Ordering::Relaxed);
            if end == GoOn::Stop {
                return Ended::Stopped;
            }
            if report.unread > 0 {
                tracing::warn!(copies = report.unread, "the scrub waits for the key provider");
                return Ended::Keyless;
            }
            self.state.copies += report.copies;
            self.state.octets += report.octets;
            self.state.slice = number + 1;
            if !report.damaged.is_empty() || self.saved_at.elapsed() >= SAVE_EVERY {
                self.save();
            }
        }
        self.state.slice = 0;
        self.state.finished = (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs());
        self.counters.finished.store(self.state.finished, Ordering::Relaxed);
        self.save();
        let State { copies, octets, .. } = self.state;
        tracing::info!(copies, octets, damaged = self.state.damaged.len(), "scrub finished");
        Ended::Whole
    }

    /// Notes how far it is, if that is news.
    fn save(&mut self) {
        self.state.damaged = self.store.damaged();
        self.saved_at = Instant::now();
        if self.state == self.saved {
            return;
        }
        match self.state.write(&self.dir) {
            Ok(()) => self.saved = self.state.clone(),
            Err(error) => tracing::warn!(%error, "{FILE} cannot be written: a restart begins the scrub anew"),
        }
    }
}

/// How fast is read: at most so many octets a second, and less while others use the store. What is not read in time is not
/// caught up with.
#[derive(Debug)]
pub struct Pace<U> {
    octets_per_second: u64,
    used: U,
    used_before: u64,
    next: Option<Instant>,
}

impl<U: Fn() -> u64> Pace<U> {
    /// A rate of 0 is as fast as it goes.
    pub fn new(octets_per_second: u64, used: U) -> Pace<U> {
        Pace {
            octets_per_second,
            used_before: used(),
            used,
            next: None,
        }
    }

    /// How long to wait after these octets were read.
    pub fn wait(&mut self, now: Instant, octets: u64) -> Duration {
        let used = (self.used)();
        let others = if used == self.used_before || octets == 0 {
            Duration::ZERO
        } else {
            YIELD
        };
        if octets > 0 {
            self.used_before = used;
        }
        let own = match self.octets_per_second {
            0 => Duration::ZERO,
            rate => {
                let next = self.next.unwrap_or(now).max(now) + Duration::from_secs_f64(octets as f64 / rate as f64);
                self.next = Some(next);
                next - now
            }
        };
        own.max(others)
    }
}

#[cfg(test)]
mod tests;
