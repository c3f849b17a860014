//! How evenly a pool is asked when copies follow heat and objects move for evenness, and how quickly it answers a crowd.
//!
//! A pool in virtual time (`world`) is asked for its objects by Zipf's law, first until it has settled, then under the same load for an
//! hour; then one object that nobody knew gets a part of all requests, and loses it again.

mod world;

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::objects::Zipf;
use world::{Done, World};

/// Loads are looked at so often, in seconds.
const LOOK_EVERY_S: u64 = 10;
/// A crowd is waited for so long, in seconds, before and after it goes.
const CROWD_MAX_S: u64 = 600;
/// How long a crowd stays at least.
const CROWD_S: u64 = 300;

/// Simulates how copies and moves follow the heat of objects, with the librarian's decisions and the agents' counters.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench-spread",
    after_help = "Examples:\n  cargo run --release --bin bench-spread -- --json spread.json\n  \
                  cargo run --release --bin bench-spread -- --zipf 0.99 --no-balance"
)]
pub struct SpreadOptions {
    /// Servers.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(3..))]
    servers: u8,
    /// Objects.
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    /// Requests a second, on all servers together.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Exponents of Zipf's law; may be given more than once.
    #[arg(long, default_values_t = [0.6, 0.99, 1.2])]
    zipf: Vec<f64>,
    /// Copies of each object, as in [copies] wanted: 1 or 2.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    copies: u8,
    /// As in [copies] hot_percent.
    #[arg(long, default_value_t = pool_default())]
    hot_percent: u32,
    /// No copies for heat.
    #[arg(long)]
    no_spread: bool,
    /// No moves: no plan balances the pool.
    #[arg(long)]
    no_balance: bool,
    /// Some servers are larger, smaller or dearer than the others.
    #[arg(long)]
    unequal: bool,
    /// Seconds that a copy or a move takes.
    #[arg(long, default_value_t = 3)]
    takes_s: u64,
    /// Minutes in which the pool settles.
    #[arg(long, default_value_t = 60)]
    settle_min: u64,
    /// Minutes of steady load that are looked at then.
    #[arg(long, default_value_t = 60)]
    steady_min: u64,
    /// Prints how it stands every ten seconds.
    #[arg(long)]
    trace: bool,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn pool_default() -> u32 {
    librarian::pool::Copies::default().hot_percent()
}

/// What came of one exponent.
#[derive(Clone, Debug, Serialize)]
struct Report {
    zipf: f64,
    /// Requests for the hottest object, over the mean of a server.
    hottest_object: f64,
    before: Loads,
    after: Loads,
    /// The worst moment of the steady time.
    worst: f64,
    /// When the last move or copy was made, in seconds from the begin.
    settled_s: u64,
    settling: Counts,
    /// In the steady time, an hour's part.
    steady_per_hour: Counts,
    spread_objects: usize,
    spread_copies: usize,
    crowd: Crowd,
}

/// How a pool is asked.
#[derive(Clone, Copy, Debug, Serialize)]
struct Loads {
    /// The hottest server over the mean.
    hottest: f64,
    /// The same by size: the most used over the mean, of servers that are not of one size.
    most_used: f64,
    /// The calmest server over the mean.
    calmest: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Counts {
    moves: f64,
    copies: f64,
    drops: f64,
}

/// What became of an object that suddenly got 5 % of all requests, in seconds; `None`: not within ten minutes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Crowd {
    /// The hottest server over the mean when it came.
    hottest: f64,
    /// Until its owner was told to make copies.
    told_s: Option<u64>,
    /// Until all were made.
    made_s: Option<u64>,
    /// Until the hottest server was below 1.3 times the mean, or a twentieth above where it was before.
    even_s: Option<u64>,
    /// The hottest server over the mean at the end.
    hottest_after: f64,
    /// From its end until all copies were gone.
    cool_s: Option<u64>,
    /// Copies and moves of other objects meanwhile.
    others: u64,
}

/// Part of all requests that a crowd makes.
const CROWD_PART: f64 = 0.05;

/// Runs all of it.
///
/// # Errors
///
/// When the registry refuses what servers do, or the file cannot be written.
pub fn run_spread(options: &SpreadOptions) -> Result<()> {
    let loaded = World::load(options).context("load the pool")?;
    println!("{} objects on {} servers are loaded", options.objects, options.servers);
    let mut reports = Vec::new();
    for exponent in &options.zipf {
        let mut world = World::from(options, &loaded).context("open the pool")?;
        let report = run_one(options, &mut world, *exponent)?;
        report.print();
        reports.push(report);
    }
    if let Some(path) = &options.json {
        let mut text = serde_json::to_string_pretty(&reports).context("write figures as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// What is asked for: by Zipf's law, besides a crowd.
struct Law {
    zipf: Zipf,
    /// An object that is asked for seldom, until the crowd comes.
    crowd: usize,
    comes: Cell<bool>,
}

impl Law {
    fn draw(&self, uniform: f64) -> usize {
        match self.comes.get() {
            true if uniform < CROWD_PART => self.crowd,
            true => self.zipf.sample((uniform - CROWD_PART) / (1.0 - CROWD_PART)),
            false => self.zipf.sample(uniform),
        }
    }

    fn part(&self, object: usize) -> f64 {
        let part = self.zipf.part(object);
        match (self.comes.get(), object == self.crowd) {
            (false, _) => part,
            (true, is_it) => part * (1.0 - CROWD_PART) + if is_it { CROWD_PART } else { 0.0 },
        }
    }
}

struct Run<'a> {
    options: &'a SpreadOptions,
    world: &'a mut World,
    law: Law,
    random: StdRng,
}

impl Run<'_> {
    fn second(&mut self) -> Result<()> {
        let law = &self.law;
        self.world
            .second(self.options.requests, &mut self.random, |uniform| law.draw(uniform))
    }

    fn loads(&self) -> Loads {
        let loads = self.world.loads(|object| self.law.part(object));
        let sizes = self.world.sizes();
        let mean = loads.iter().sum::<f64>() / loads.len() as f64;
        let mean_used = loads.iter().sum::<f64>() / sizes.iter().sum::<f64>();
        let used = loads.iter().zip(&sizes).map(|(load, size)| load / size);
        Loads {
            hottest: loads.iter().copied().fold(0.0, f64::max) / mean,
            most_used: used.fold(0.0, f64::max) / mean_used,
            calmest: loads.iter().copied().fold(f64::INFINITY, f64::min) / mean,
        }
    }

    /// The worst load of so many seconds, and when the last change was made.
    fn seconds(&mut self, seconds: u64) -> Result<(f64, u64)> {
        let (mut worst, mut last) = (0.0_f64, 0);
        let mut seen = all(self.world.done);
        for second in 0..seconds {
            self.second()?;
            if all(self.world.done) != seen {
                (seen, last) = (all(self.world.done), self.world.now_s);
            }
            if second % LOOK_EVERY_S == 0 {
                let loads = self.loads();
                worst = worst.max(loads.hottest);
                if self.options.trace {
                    let (seconds, done) = (self.world.now_s, self.world.done);
                    let standing = self.world.standing()?;
                    println!(
                        "{seconds:>6} s {loads:?} {done:?}, octets from {:.3} to {:.3} of a fair part, {} wished",
                        standing.emptiest, standing.fullest, standing.wished
                    );
                }
            }
        }
        Ok((worst, last))
    }

    fn crowd(&mut self, even: f64) -> Result<Crowd> {
        let before = self.world.done;
        self.law.comes.set(true);
        let (came_s, hottest) = (self.world.now_s, self.loads().hottest);
        let (mut told_s, mut made_s, mut even_s) = (None, None, None);
        let mut most = 0;
        while self.world.now_s < came_s + CROWD_S || even_s.is_none() && self.world.now_s < came_s + CROWD_MAX_S {
            self.second()?;
            let since = self.world.now_s - came_s;
            let (told, made) = self.world.spread_of(self.law.crowd);
            most = most.max(made);
            if told > 0 {
                told_s.get_or_insert(since);
            }
            if told > 0 && made == told {
                made_s.get_or_insert(since);
            }
            if even_s.is_none() && self.loads().hottest < f64::max(1.3, even * 1.05) {
                even_s = Some(since);
            }
        }
        let hottest_after = self.loads().hottest;
        self.law.comes.set(false);
        let went_s = self.world.now_s;
        let mut cool_s = None;
        while cool_s.is_none() && self.world.now_s < went_s + CROWD_MAX_S {
            self.second()?;
            if self.world.spread_of(self.law.crowd) == (0, 0) {
                cool_s = Some(self.world.now_s - went_s);
            }
        }
        let Done { moves, copies, drops } = self.world.done;
        let others = (moves - before.moves) + (copies - before.copies) + (drops - before.drops);
        Ok(Crowd {
            hottest,
            told_s,
            made_s,
            even_s,
            hottest_after,
            cool_s: cool_s.filter(|_| most > 0),
            others: others.saturating_sub(2 * most as u64),
        })
    }
}

fn all(done: Done) -> u64 {
    done.moves + done.copies + done.drops
}

fn run_one(options: &SpreadOptions, world: &mut World, exponent: f64) -> Result<Report> {
    ensure!(options.objects > 2, "there are too few objects");
    let law = Law {
        zipf: Zipf::new(options.objects, exponent),
        crowd: options.objects / 2,
        comes: Cell::new(false),
    };
    let hottest_object = law.zipf.part(0) * f64::from(options.servers);
    let mut run = Run {
        options,
        world,
        law,
        random: StdRng::seed_from_u64(1),
    };
    let before = run.loads();
    let (_, settled_s) = run.seconds(options.settle_min * 60)?;
    let settling = counts(Done::default(), run.world.done, 1.0);
    let done = run.world.done;
    let (worst, _) = run.seconds(options.steady_min * 60)?;
    let hours = options.steady_min.max(1) as f64 / 60.0;
    let steady_per_hour = counts(done, run.world.done, hours);
    let after = run.loads();
    let (spread_objects, spread_copies) = run.world.spread();
    let crowd = run.crowd(after.hottest)?;
    Ok(Report {
        zipf: exponent,
        hottest_object,
        before,
        after,
        worst,
        settled_s,
        settling,
        steady_per_hour,
        spread_objects,
        spread_copies,
        crowd,
    })
}

fn counts(from: Done, to: Done, hours: f64) -> Counts {
    let each = |from: u64, to: u64| (to - from) as f64 / hours;
    Counts {
        moves: each(from.moves, to.moves),
        copies: each(from.copies, to.copies),
        drops: each(from.drops, to.drops),
    }
}

impl Report {
    fn print(&self) {
        let Report {
            before,
            after,
            settling,
            steady_per_hour: steady,
            crowd,
            ..
        } = self;
        let seconds = |time: Option<u64>| time.map_or("never".to_owned(), |time| format!("{time} s"));
        println!(
            "Zipf {}: the hottest object is {:.2} times the mean of a server",
            self.zipf, self.hottest_object
        );
        for (when, loads) in [("before", before), ("settled", after)] {
            println!(
                "  {when:<8} hottest {:.3} of the mean, calmest {:.3}; by size the most used {:.3}",
                loads.hottest, loads.calmest, loads.most_used
            );
        }
        println!(
            "  settling: {} moves, {} copies, {} drops, the last at {} s; {} objects have {} copies for their heat",
            settling.moves, settling.copies, settling.drops, self.settled_s, self.spread_objects, self.spread_copies
        );
        println!(
            "  steady, an hour: {:.1} moves, {:.1} copies, {:.1} drops; at worst {:.3}",
            steady.moves, steady.copies, steady.drops, self.worst
        );
        println!(
            "  crowd: hottest {:.2}, told after {}, made after {}, even after {} ({:.3} in the end), gone after {}; {} other changes",
            crowd.hottest,
            seconds(crowd.told_s),
            seconds(crowd.made_s),
            seconds(crowd.even_s),
            crowd.hottest_after,
            seconds(crowd.cool_s),
            crowd.others
        );
    }
}
