//! The sweep of a running agent: a thread that brings resting objects to what the plan asks for, in place.
//!
//! ```text
//!  new policy --> look at every object anew, some at a time
//!  want says sweep=, role is serving, something rests --> groups in the order of addresses, paced --> until nothing rests
//!        `-- left for later (written, full, unreadable): the next pass
//! ```
//!
//! It runs only while a want says so, which is after finalize, so there is nothing to undo. How far it has come is in the rows
//! alone: an object that is what the plan asks for is passed over, after a restart too.
//!
//! Specification: DESIGN.md sections 10 and 13.

pub mod rewrite;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zones::{Address, Role};

use crate::access::metrics::{head, line};
use crate::background::{Background, Stopped, stopped};
use crate::clock::BootInstant;
use crate::control::Wanted;
use crate::objects::Local;
use crate::scrub::Pace;
use crate::store::CommitError;
use crate::store::scrub::GoOn;
use rewrite::{GROUP_OBJECTS, Tally, group, rewrite};

/// Time between two looks at what is wanted.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two passes when the one before left something that time alone does not mend.
const AGAIN_EVERY: Duration = Duration::from_secs(10);
/// Octets that an object counts at least, for its row and its blocks: many small objects are no burst.
const OBJECT_OCTETS: u64 = 4096;

/// What was done since the start.
#[derive(Debug, Default)]
struct Counters {
    rewritten: AtomicU64,
    quarantined: AtomicU64,
    changed: AtomicU64,
    full: AtomicU64,
    unreadable: AtomicU64,
    failed: AtomicU64,
    octets: AtomicU64,
}

impl Counters {
    fn add(&self, tally: &Tally) {
        for (count, more) in [
            (&self.rewritten, tally.rewritten),
            (&self.quarantined, tally.quarantined),
            (&self.changed, tally.changed),
            (&self.full, tally.full),
            (&self.unreadable, tally.unreadable),
            (&self.failed, tally.failed),
        ] {
            count.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// The sweep of a running agent. It ends when this is dropped.
#[derive(Debug)]
pub struct Sweeper {
    counters: Arc<Counters>,
    local: Arc<Local>,
    _thread: Background,
}

impl Sweeper {
    /// Starts it. `used` rises whenever somebody else uses the store: the sweep then makes way.
    ///
    /// # Errors
    ///
    /// The system's, when it gives no thread.
    pub fn start(
        local: Arc<Local>,
        wanted: watch::Receiver<Wanted>,
        used: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> io::Result<Sweeper> {
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = stopped();
        let work = Work {
            local: Arc::clone(&local),
            wanted,
            counters: Arc::clone(&counters),
            used: Arc::new(used),
            stopped,
        };
        let thread = Background::start("sweep", stop, move || work.run())?;
        Ok(Sweeper {
            counters,
            local,
            _thread: thread,
        })
    }

    /// What writes its metrics.
    pub fn metrics(&self) -> impl Fn(&mut String) + Send + Sync + use<> {
        let (counters, local) = (Arc::clone(&self.counters), Arc::clone(&self.local));
        move |out| show(&counters, &local, out)
    }
}

fn show(counters: &Counters, local: &Local, out: &mut String) {
    let total = "agent_sweep_objects_total";
    head(
        out,
        total,
        "counter",
        "Objects that a sweep took in hand, by what became of them.",
    );
    for (outcome, count) in [
        ("rewritten", &counters.rewritten),
        ("quarantined", &counters.quarantined),
        ("changed", &counters.changed),
        ("full", &counters.full),
        ("unreadable", &counters.unreadable),
        ("failed", &counters.failed),
    ] {
        line(
            out,
            &format!("{total}{{outcome=\"{outcome}\"}}"),
            count.load(Ordering::Relaxed),
        );
    }
    let octets = "agent_sweep_octets_total";
    head(
        out,
        octets,
        "counter",
        "Octets that sweeps have paced their writing by.",
    );
    line(out, octets, counters.octets.load(Ordering::Relaxed));
    let standing = local.standing();
    let resting = "agent_sweep_resting";
    head(
        out,
        resting,
        "gauge",
        "Objects that a sweep would bring to what the plan asks for; all of them while they are counted after a new plan.",
    );
    line(out, resting, standing.resting);
    let newer = "agent_objects_newer";
    head(
        out,
        newer,
        "gauge",
        "Objects that the release before could not read, until an upgrade is finalized.",
    );
    line(out, newer, standing.newer);
}

/// The thread's.
struct Work<U> {
    local: Arc<Local>,
    wanted: watch::Receiver<Wanted>,
    counters: Arc<Counters>,
    used: Arc<U>,
    stopped: Stopped,
}

impl<U: Fn() -> u64> Work<U> {
    fn run(self) {
        loop {
            while self.local.recount() {
                if self.stopped.sleep(Duration::ZERO) == GoOn::Stop {
                    return;
                }
            }
            let wait = match self.rate() {
                Some(rate) if self.local.standing().resting > 0 => match self.pass(rate) {
                    (GoOn::Stop, _) if self.stopped.sleep(Duration::ZERO) == GoOn::Stop => return,
                    (_, true) => AGAIN_EVERY,
                    (_, false) => LOOK_EVERY,
                },
                Some(_) | None => LOOK_EVERY,
            };
            if self.stopped.sleep(wait) == GoOn::Stop {
                return;
            }
        }
    }

    /// Goes through all objects once; whether it was ended early, and whether something is left that is
    /// not tried again at once.
    fn pass(&self, rate: u64) -> (GoOn, bool) {
        let started = Instant::now();
        let used = Arc::clone(&self.used);
        let mut pace = Pace::new(rate, move || used());
        let mut tally = Tally::default();
        let ended = self.groups(rate, &mut tally, &mut pace);
        let (end, failed) = match ended {
            Ok(end) => (end, false),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a sweep cannot be committed");
                (GoOn::Yes, true)
            }
        };
        let Tally {
            rewritten,
            quarantined,
            changed,
            full,
            unreadable,
            failed: unable,
        } = tally;
        let resting = self.local.standing().resting;
        let seconds = started.elapsed().as_secs();
        tracing::info!(
            rewritten,
            quarantined,
            changed,
            full,
            unreadable,
            failed = unable,
            resting,
            seconds,
            "sweep"
        );
        if full > 0 {
            tracing::warn!(
                objects = full,
                "no room to write objects anew beside their old copies: raise store.capacity, or move objects away"
            );
        }
        (end, failed || tally.stuck() > 0)
    }

    fn groups(&self, rate: u64, tally: &mut Tally, pace: &mut Pace<impl Fn() -> u64>) -> Result<GoOn, CommitError> {
        let mut after: Option<Address> = None;
        loop {
            let resting = self.local.resting(after.as_ref(), GROUP_OBJECTS);
            let count = group(&resting);
            let Some(last) = resting[..count].last() else {
                return Ok(GoOn::Yes);
            };
            after = Some(last.address.clone());
            let counters = &self.counters;
            let (done, more) = rewrite(&self.local, &resting[..count], BootInstant::now(), |octets| {
                counters.octets.fetch_add(octets, Ordering::Relaxed);
                self.go_on(rate, pace.wait(Instant::now(), octets))
            })?;
            counters.add(&done);
            tally.add(done);
            // Their rows cost something too.
            let rows = pace.wait(Instant::now(), OBJECT_OCTETS * count as u64);
            if more == GoOn::Stop || self.go_on(rate, rows) == GoOn::Stop {
                return Ok(GoOn::Stop);
            }
        }
    }

    /// What the present want says. Nothing is waited for while it is looked at: whoever writes wants waits for that look.
    fn rate(&self) -> Option<u64> {
        let wanted = self.wanted.borrow();
        rate(&wanted)
    }

    /// Waits, unless told to stop, or another thing is wanted.
    fn go_on(&self, rate: u64, wait: Duration) -> GoOn {
        match self.rate() {
            Some(now) if now == rate => self.stopped.sleep(wait),
            Some(_) | None => GoOn::Stop,
        }
    }
}

/// How many octets a second the present want lets a sweep write.
fn rate(wanted: &Wanted) -> Option<u64> {
    let want = wanted.want.as_ref().filter(|want| want.role == Role::Serving)?;
    want.errand.sweep.filter(|rate| *rate > 0)
}

#[cfg(test)]
mod tests;
