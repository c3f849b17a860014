//! `demo --hot`: some objects are asked for far more often than others; the pool finds them, and makes copies of them for readers.
//!
//! How evenly servers are asked is counted by what each agent answered itself, as its metrics say. The mean is that of the servers
//! that serve: a free one holds neither objects nor copies, so counting it would show a burden that nobody can take away.
//!
//! At first the librarian makes no copies for heat (`hot_percent = 0`), so that what was before is measured for as long as one likes. Then
//! another librarian with the default takes over, under load; from then on heat is watched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use librarian::control::{self, words};
use serde::Serialize;

use super::book::Book;
use super::drain::{Moved, Until};
use super::load::{self, Mix};
use super::options::Options;
use super::registers::Registers;
use super::store::Store;
use crate::harness::{Pool, PoolBuilder, metrics};

/// Copies of an object that is not hot: so every other one is there for heat.
const WANTED: u8 = 1;
/// The setting that turns copies for heat on.
const HOT_PERCENT: &str = "copies.hot_percent";
/// The hottest server is to be asked less than so many times the mean.
const EVEN: f64 = 1.3;
/// Time between two looks at what servers answered.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks back over which the load of servers is compared while copies are made: single seconds waver.
const LOOKS: usize = 4;
/// Every so many looks a line is printed.
const TELL_EVERY: u32 = 3;
/// Copies that have not changed for so long will do: twice what clients remember of where objects are.
const SETTLED_FOR: Duration = Duration::from_secs(10);

/// What happened.
pub(super) struct Spread {
    pub(super) moved: Moved,
    pub(super) facts: Facts,
}

/// The spreading in figures; the names are those of the summary.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    hottest_over_mean: Evenness,
    /// Objects with more holders than the wanted number in the end.
    replicated_objects: u64,
    /// From when heat could be followed until there were copies for it and the hottest server was asked less than 1.3 times the
    /// mean; absent if that never was.
    seconds_to_spread: Option<f64>,
}

/// What the hottest server answered over the mean of those that serve.
#[derive(Debug, Serialize)]
struct Evenness {
    /// Without copies for heat.
    before: f64,
    /// With all of them.
    after: f64,
}

impl Facts {
    /// Counts the objects that have copies in the end.
    pub(super) fn count_replicated(&mut self, registers: &Registers) {
        let more = registers
            .values()
            .filter(|register| register.holders.len() > usize::from(WANTED));
        self.replicated_objects = more.count() as u64;
    }

    pub(super) fn print(&self) {
        let Evenness { before, after } = self.hottest_over_mean;
        println!("  hottest     {before:.2} times the mean of servers before, {after:.2} after");
        println!(
            "  copies      of {} objects for their heat; {}",
            self.replicated_objects,
            match self.seconds_to_spread {
                Some(seconds) => format!("below {EVEN} after {seconds:.1} s"),
                None => format!("never below {EVEN}"),
            }
        );
    }
}

/// A pool that can be told to follow heat.
pub(super) fn builder(builder: PoolBuilder, options: &Options) -> Result<PoolBuilder> {
    ensure!(
        options.servers > 2,
        "--hot needs --servers 3 at least: one is free, and one alone cannot share what it is asked"
    );
    Ok(builder
        .librarian_setting("copies.wanted", i64::from(WANTED))
        .librarian_setting(HOT_PERCENT, 0)
        .agent_setting("listen.metrics", "127.0.0.1:0"))
}

/// Load before copies are made, while they are, and afterwards.
pub(super) fn under_load(
    options: &Options,
    pool: &mut Pool,
    book: &Arc<Book>,
    stores: &[Store],
    mix: Mix,
    runtime: &tokio::runtime::Runtime,
) -> Result<Spread> {
    println!(
        "\n{} clients read, and write now and then, {} operations a second, every one located by DNS",
        stores.len(),
        options.rate
    );
    let mut load = load::Load::new(stores.to_vec(), Arc::clone(book), options.rate, mix);
    let time = || Until::Time(Duration::from_secs(options.before));

    let began = Answered::now(pool)?;
    let before = runtime.block_on(load.run(time()))?;
    let before_over_mean = Answered::now(pool)?.since(&began).hottest_over_mean();
    println!(
        "  for {} s, no copies for heat: hottest server {before_over_mean:.2} times the mean; {}",
        options.before,
        before.words()
    );

    println!("Follows heat from now on (librarian.toml: hot_percent; librarian run --take-over), clients go on");
    let over = Arc::new(AtomicBool::new(false));
    // Nobody says anything there: it is closed when the load is over.
    let (loads, load_ends) = mpsc::sync_channel(0);
    let (during, watched) = std::thread::scope(|scope| {
        let watch = {
            let over = Arc::clone(&over);
            let pool = &mut *pool;
            scope.spawn(move || {
                let spread = spread(pool, Duration::from_secs(options.hot_seconds), &load_ends);
                over.store(true, Ordering::Release);
                spread
            })
        };
        let during = runtime.block_on(load.run(Until::Flag(Arc::clone(&over))));
        drop(loads);
        (during, watch.join())
    });
    let seconds_to_spread = watched.map_err(|_| anyhow::anyhow!("the watch panicked"))??;
    let during = during?;
    println!("  {:.1} s later: {}", during.elapsed.as_secs_f64(), during.words());

    let began = Answered::now(pool)?;
    let after = runtime.block_on(load.run(time()))?;
    let answered = Answered::now(pool)?.since(&began);
    let after_over_mean = answered.hottest_over_mean();
    println!(
        "  for {} s, copies as they are now: hottest server {after_over_mean:.2} times the mean; {}",
        options.before,
        after.words()
    );
    let elapsed = during.elapsed;
    Ok(Spread {
        moved: Moved {
            before,
            during,
            after,
            elapsed,
        },
        facts: Facts {
            hottest_over_mean: Evenness {
                before: before_over_mean,
                after: after_over_mean,
            },
            replicated_objects: 0,
            seconds_to_spread,
        },
    })
}

/// Has heat followed, and waits until its copies are there; what happens is told. The seconds until servers were asked evenly.
fn spread(pool: &mut Pool, longest: Duration, load_ends: &mpsc::Receiver<()>) -> Result<Option<f64>> {
    pool.set_librarian(HOT_PERCENT, i64::from(librarian::pool::Copies::default().hot_percent()))?;
    let start = Instant::now();
    pool.take_over_librarian().context("have a librarian take over")?;
    let mut looks = VecDeque::from([Answered::now(pool)?]);
    let mut copies = (Copies::default(), start);
    let mut seconds_to_spread = None;
    for look in 1_u32.. {
        if load_ends.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Disconnected) {
            break;
        }
        let now = Answered::now(pool)?;
        if looks.len() > LOOKS {
            looks.pop_front();
        }
        let answered = now.since(&looks[0]);
        looks.push_back(now);
        let seen = Copies::now(pool)?;
        if copies.0 != seen {
            copies = (seen, Instant::now());
        }
        let over_mean = answered.hottest_over_mean();
        if seen.made > 0 && over_mean < EVEN && seconds_to_spread.is_none() {
            seconds_to_spread = Some(start.elapsed().as_secs_f64());
        }
        if look.is_multiple_of(TELL_EVERY) {
            println!(
                "  {:6.1} s  hottest server {over_mean:.2} times the mean ({}), {} copies of {} hot objects, {} to come",
                start.elapsed().as_secs_f64(),
                answered.words(),
                seen.made,
                seen.objects,
                seen.told.saturating_sub(seen.made)
            );
        }
        let is_settled = seen.made > 0 && seen.made == seen.told && copies.1.elapsed() >= SETTLED_FOR;
        if is_settled || start.elapsed() >= longest {
            break;
        }
    }
    Ok(seconds_to_spread)
}

/// Copies for heat, as the librarian says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Copies {
    objects: u64,
    /// How many there are to be.
    told: u64,
    /// How many registers name.
    made: u64,
}

impl Copies {
    fn now(pool: &Pool) -> Result<Copies> {
        // As `librarian pool --json` asks, without a process for each look.
        let status: words::Pool = control::ask(pool.dir(), &words::Request::Pool).context("ask for the pool")?;
        let copies = status.copies.unwrap_or_default();
        Ok(Copies {
            objects: copies.hot,
            told: copies.hot_copies,
            // No others: one copy of each object is wanted, its owner's.
            made: status.servers.iter().map(|server| server.held).sum(),
        })
    }
}

/// Requests that each server answered which serves.
#[derive(Clone, Debug, Default)]
struct Answered(BTreeMap<String, u64>);

impl Answered {
    /// Since the agents' starts.
    fn now(pool: &Pool) -> Result<Answered> {
        let status: words::Pool = control::ask(pool.dir(), &words::Request::Pool).context("ask for the pool")?;
        let serving = status.servers.into_iter().filter(|server| server.role == "serving");
        serving
            .map(|server| {
                let of = pool.server(&server.name)?.ready.metrics;
                let text = metrics(of.context("the agent tells no metrics")?)?;
                Ok((server.name, requests(&text)?))
            })
            .collect::<Result<_>>()
            .map(Answered)
    }

    fn since(&self, before: &Answered) -> Answered {
        let all = self.0.iter();
        Answered(
            all.map(|(server, requests)| {
                let before = before.0.get(server).copied().unwrap_or(0);
                (server.clone(), requests.saturating_sub(before))
            })
            .collect(),
        )
    }

    /// 1 where nothing was asked for.
    fn hottest_over_mean(&self) -> f64 {
        let all: u64 = self.0.values().sum();
        let hottest = self.0.values().max().copied().unwrap_or(0);
        match all {
            0 => 1.0,
            all => hottest as f64 * self.0.len() as f64 / all as f64,
        }
    }

    fn words(&self) -> String {
        let all = self.0.values().sum::<u64>().max(1) as f64;
        let parts = self
            .0
            .iter()
            .map(|(server, requests)| format!("{server} {:.0} %", *requests as f64 / all * 100.0));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// Requests that a server answered itself: a redirect costs it next to nothing.
fn requests(metrics: &str) -> Result<u64> {
    let series = metrics
        .lines()
        .filter(|line| line.starts_with("agent_http_requests_total{") && line.contains("status=\"2xx\""));
    series
        .map(|line| {
            let (_, count) = line.rsplit_once(' ').context("a count follows its name")?;
            count.trim().parse::<u64>().context("read a count")
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_answered_itself_counts() -> Result<()> {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE agent_http_requests_total counter\n\
            agent_http_requests_total{verb=\"get\",status=\"2xx\"} 40\n\
            agent_http_requests_total{verb=\"get\",status=\"3xx\"} 500\n\
            agent_http_requests_total{verb=\"put\",status=\"2xx\"} 2\n\
            agent_http_requests_total{verb=\"put\",status=\"5xx\"} 9\n\
            agent_requests_total 700\n";
        assert_eq!(requests(text)?, 42);
        Ok(())
    }

    #[test]
    fn hottest_is_told_over_the_mean_of_the_time_between() {
        let answered = |counts: [u64; 3]| {
            let names = ["s1", "s2", "s3"].map(str::to_owned);
            Answered(names.into_iter().zip(counts).collect())
        };
        let between = answered([160, 220, 320]).since(&answered([100, 200, 300]));
        assert!((between.hottest_over_mean() - 1.8).abs() < 1e-9, "{between:?}");
        assert!((answered([0; 3]).hottest_over_mean() - 1.0).abs() < 1e-9);
    }
}
