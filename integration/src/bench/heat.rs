//! What counting requests costs, and how far it is from exact counts.
//!
//! Requests for many objects, some of them asked for far more often than others (Zipf), are counted twice: by the counters of
//! an agent, in bounded memory, and exactly, by a hash map of all objects.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zones::Address;
use zones::heat::Counters;

use super::figure::{Figure, median, write_figures};
use crate::objects::Zipf;

/// Objects whose rates are compared: as many as an agent names.
const COMPARED: usize = zones::heat::HOTTEST_MAX;

/// Measures the counters of heat: nanoseconds for a request, error and memory, against exact counts.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench-heat",
    after_help = "Example:\n  cargo run --release --bin bench-heat -- --json heat.json"
)]
pub struct HeatOptions {
    /// Objects that are asked for.
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    /// Requests in one round.
    #[arg(long, default_value_t = 2_000_000)]
    requests: usize,
    /// Counters, as in the setting access.heat_counters of an agent.
    #[arg(long, default_value_t = 4096)]
    counters: usize,
    /// Rounds of each, alternately; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs all of it.
///
/// # Errors
///
/// When memory cannot be looked at, or the file cannot be written.
pub fn run_heat(options: &HeatOptions) -> Result<()> {
    let addresses: Vec<Address> = (0..options.objects)
        .map(|object| format!("3.1.{}.{}", object % 1000, object / 1000).parse())
        .collect::<Result<_, _>>()
        .context("make addresses")?;
    let mut figures = Vec::new();
    for exponent in [0.0, 0.6, 0.99, 1.2] {
        let before_these = figures.len();
        let zipf = Zipf::new(options.objects, exponent);
        let mut rng = StdRng::seed_from_u64(1);
        let asked: Vec<&Address> = (0..options.requests)
            .map(|_| &addresses[zipf.sample(rng.random())])
            .collect();
        let (mut ours, mut exactly) = (Vec::new(), Vec::new());
        let (mut our_memory, mut exact_memory) = (0, 0);
        let mut errors = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..options.rounds.max(1) {
            let before = resident()?;
            let start = Instant::now();
            let mut counters = Counters::new(options.counters);
            asked.iter().for_each(|address| counters.count(address, 1));
            ours.push(start.elapsed().as_nanos() as f64 / options.requests as f64);
            our_memory = our_memory.max(resident()?.saturating_sub(before));
            let before = resident()?;
            let start = Instant::now();
            let mut exact: HashMap<Address, u64> = HashMap::new();
            for address in &asked {
                match exact.get_mut(*address) {
                    Some(count) => *count += 1,
                    None => drop(exact.insert((*address).clone(), 1)),
                }
            }
            exactly.push(start.elapsed().as_nanos() as f64 / options.requests as f64);
            exact_memory = exact_memory.max(resident()?.saturating_sub(before));
            errors = compare(&counters, &exact);
        }
        let (worst, named, doubt) = errors;
        let what = |figure: &str| format!("{figure}, Zipf {exponent}");
        let bound = options.requests as f64 / options.counters as f64;
        figures.extend([
            Figure::new(
                &what("ns to count a request"),
                "exact: hash map of all",
                median(&ours),
                median(&exactly),
            ),
            Figure::new(&what("worst count too high by"), "proven bound n/k", worst, bound),
            Figure::new(&what("said to be at most"), "proven bound n/k", doubt, bound),
            Figure::new(&what("of the hottest 16, named"), "exact", named, COMPARED as f64),
        ]);
        if exponent == 0.0 {
            // Later the allocator has what was given back.
            let kib = |octets: u64| octets as f64 / 1024.0;
            figures.push(Figure::new(
                &what("memory, KiB"),
                "exact: hash map of all",
                kib(our_memory),
                kib(exact_memory),
            ));
        }
        figures[before_these..].iter().for_each(Figure::print);
    }
    if let Some(path) = &options.json {
        write_figures(path, &figures)?;
    }
    Ok(())
}

/// By how much the worst of all counts is too high; how many of the hottest are named; by how much they say a count may be too high.
fn compare(counters: &Counters, exact: &HashMap<Address, u64>) -> (f64, f64, f64) {
    let over = |counted: &zones::heat::Counted| {
        counted.requests - exact.get(&counted.address).copied().unwrap_or_default() as f64
    };
    let worst = counters.hottest(usize::MAX).iter().map(over).fold(0.0, f64::max);
    let mut hottest: Vec<(&Address, &u64)> = exact.iter().collect();
    hottest.sort_unstable_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let named = counters.hottest(COMPARED);
    let found = hottest
        .iter()
        .take(COMPARED)
        .filter(|(address, _)| named.iter().any(|counted| counted.address == **address));
    (worst, found.count() as f64, counters.doubt())
}

/// Octets of memory that this process has now.
fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").context("read /proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .context("understand /proc/self/statm")?;
    Ok(pages * rustix::param::page_size() as u64)
}
