//! Runs: one, many, one for every point at which something can go wrong; and how a failing one is made shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;

use super::agent::Pair;
use super::coverage::loads;
use super::faults::{Fate, Site, Source};
use super::operator::Upgraded;
use super::script::Script;
use super::world::World;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first invariant that was broken.
    pub broken: Option<String>,
    /// Events.
    pub events: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Equal for equal runs.
    pub digest: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Transitions of machines that were seen.
    pub pairs: BTreeSet<Pair>,
    /// Steps of journals that were noted.
    pub steps: BTreeMap<&'static str, u64>,
    /// The faults by the number of their site.
    pub fired: BTreeMap<u64, Fate>,
    /// Every site that was met while faults could happen.
    pub sites: Vec<Site>,
    /// How upgrades went.
    pub upgraded: Upgraded,
    /// Objects that were wished elsewhere to balance the pool, or by the schedule.
    pub wished: u64,
    /// What the load and the servers were like, of [`super::LOADS`].
    pub loads: BTreeSet<&'static str>,
    /// What happened, if it was written down.
    pub trace: Vec<String>,
    /// The states of all parties at the end, if it was written down.
    pub states: String,
}

/// A broken invariant and the shortest run that still shows it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The run.
    pub script: Script,
    /// What it came to.
    pub outcome: Outcome,
}

/// Runs a script; `traced` writes down what happens.
#[must_use]
pub fn run(script: &Script, traced: bool) -> Outcome {
    let mut world = World::new(script.clone(), traced);
    world.run();
    let mut pairs = BTreeSet::new();
    for machine in &mut world.machines {
        pairs.append(&mut machine.process.engine.outside().seen);
    }
    let states = if traced { world.states() } else { String::new() };
    Outcome {
        broken: world.broken.clone(),
        events: world.events,
        operations: world.operations(),
        digest: world.digest,
        faults: world.faults.counts.clone(),
        pairs,
        steps: world.steps.clone(),
        fired: world.faults.fired.clone(),
        sites: std::mem::take(&mut world.faults.sites),
        upgraded: std::mem::take(&mut world.upgraded),
        wished: world.librarian.wished,
        loads: loads(&world),
        trace: world.trace.take().unwrap_or_default(),
        states,
    }
}

/// Runs a seed with faults of these kinds.
#[must_use]
pub fn run_seed(seed: u64, kinds: &BTreeSet<&'static str>) -> (Script, Outcome) {
    let script = Script::random(seed, kinds);
    let outcome = run(&script, false);
    (script, outcome)
}

/// Runs seeds on every processor and tells each outcome; ends at the first that breaks an invariant, which it returns.
pub fn run_seeds(
    seeds: impl Iterator<Item = u64> + Send,
    kinds: &BTreeSet<&'static str>,
    each: impl FnMut(&Outcome),
) -> Option<(Script, Outcome)> {
    run_scripts(seeds, |seed| Script::random(seed, kinds), each)
}

/// The same with the scripts that are made of the seeds.
pub fn run_scripts(
    seeds: impl Iterator<Item = u64> + Send,
    make: impl Fn(u64) -> Script + Sync,
    each: impl FnMut(&Outcome),
) -> Option<(Script, Outcome)> {
    let one = |seed| {
        let script = make(seed);
        let outcome = run(&script, false);
        (script, outcome)
    };
    on_every_processor(seeds, one, each)
}

/// Most runs that shrinking takes.
const SHRINK_RUNS_MAX: u32 = 600;

/// Makes a failing run shorter: fewer faults, then fewer deeds, as long as the same invariant breaks.
#[must_use]
pub fn shrink(script: &Script, outcome: &Outcome) -> Violation {
    let mut runs = 0;
    let kind = |outcome: &Outcome| {
        let broken = outcome.broken.clone().unwrap_or_default();
        broken.split(':').next().unwrap_or_default().to_owned()
    };
    let wanted = kind(outcome);
    let mut fails = |script: &Script| {
        runs += 1;
        runs <= SHRINK_RUNS_MAX && {
            let outcome = run(script, false);
            outcome.broken.is_some() && kind(&outcome) == wanted
        }
    };
    let mut best = Script {
        faults: Source::Script(outcome.fired.clone()),
        ..script.clone()
    };
    // The list of a random run's faults is the same run.
    let mut size = outcome.fired.len().max(1);
    while size > 0 {
        let Source::Script(faults) = best.faults.clone() else {
            break;
        };
        let keys: Vec<u64> = faults.keys().copied().collect();
        let mut shorter = false;
        for chunk in keys.chunks(size) {
            let Source::Script(mut faults) = best.faults.clone() else {
                break;
            };
            faults.retain(|number, _| !chunk.contains(number));
            let smaller = Script {
                faults: Source::Script(faults),
                ..best.clone()
            };
            if fails(&smaller) {
                best = smaller;
                shorter = true;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    let mut size = (best.deeds.len() / 2).max(1);
    while size > 0 {
        let mut shorter = false;
        let mut from = 0;
        while from < best.deeds.len() {
            let mut deeds = best.deeds.clone();
            deeds.drain(from..(from + size).min(deeds.len()));
            let smaller = Script { deeds, ..best.clone() };
            if fails(&smaller) {
                best = smaller;
                shorter = true;
            } else {
                from += size;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    let outcome = run(&best, true);
    Violation { script: best, outcome }
}

/// Runs a quiet script once for every site and everything that can go wrong there, on every processor; with `second`, with
/// every `second`-th pair of them too. Tells each run, and returns how many there were; ends at the first violation.
///
/// # Errors
///
/// The violation.
pub fn enumerate(
    script: &Script,
    second: Option<usize>,
    mut each: impl FnMut(&Outcome),
) -> Result<u64, Box<Violation>> {
    let calm = run(script, false);
    if calm.broken.is_some() {
        return Err(Box::new(Violation {
            script: script.clone(),
            outcome: run(script, true),
        }));
    }
    let points: Vec<(u64, Fate)> = (1..)
        .zip(&calm.sites)
        .flat_map(|(number, site)| site.fates().into_iter().map(move |fate| (number, fate)))
        .collect();
    let singles = points.iter().map(|point| BTreeMap::from([*point]));
    let pairs = second.into_iter().flat_map(|every| {
        let pairs = points
            .iter()
            .enumerate()
            .flat_map(|(at, first)| points[at..].iter().map(move |second| (first, second)))
            .filter(|(first, second)| first.0 != second.0);
        pairs
            .step_by(every.max(1))
            .map(|(first, second)| BTreeMap::from([*first, *second]))
    });
    let mut runs = 0;
    let broken = on_every_processor(
        singles.chain(pairs),
        |faults| {
            let script = Script {
                faults: Source::Script(faults),
                ..script.clone()
            };
            let outcome = run(&script, false);
            (script, outcome)
        },
        |outcome| {
            runs += 1;
            each(outcome);
        },
    );
    match broken {
        None => Ok(runs),
        Some((script, outcome)) => Err(Box::new(shrink(&script, &outcome))),
    }
}

/// Does all of this work on every processor and tells each outcome; ends at the first broken one, which it returns.
fn on_every_processor<T>(
    work: impl Iterator<Item = T> + Send,
    one: impl Fn(T) -> (Script, Outcome) + Sync,
    mut each: impl FnMut(&Outcome),
) -> Option<(Script, Outcome)> {
    let work = Mutex::new(work);
    let stop = AtomicBool::new(false);
    let (sender, outcomes) = mpsc::sync_channel(64);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut broken = None;
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, work, stop, one) = (sender.clone(), &work, &stop, &one);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(next) = work.lock().next() else { return };
                    if sender.send(one(next)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (script, outcome) in outcomes {
            each(&outcome);
            if outcome.broken.is_some() && broken.is_none() {
                stop.store(true, Ordering::Relaxed);
                broken = Some((script, outcome));
            }
        }
    });
    broken
}

/// Runs a quiet script once for every site and everything that can go wrong there, until something breaks: after how many
/// runs, and what.
#[must_use]
pub fn enumerate_until(script: &Script) -> (u64, Option<String>) {
    let calm = run(script, false);
    if let Some(broken) = calm.broken {
        return (1, Some(broken));
    }
    let mut runs = 1;
    for (number, site) in (1..).zip(&calm.sites) {
        for fate in site.fates() {
            runs += 1;
            let script = Script {
                faults: Source::Script(BTreeMap::from([(number, fate)])),
                ..script.clone()
            };
            if let Some(broken) = run(&script, false).broken {
                return (runs, Some(broken));
            }
        }
    }
    (runs, None)
}
