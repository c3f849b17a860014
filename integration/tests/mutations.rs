//! Without one of its guards the pool breaks, and the simulator finds it: in few runs that are directed to where guards
//! matter or in the crash enumeration, and among random seeds.
//!
//! `cargo test --release -p integration --features mutations --test mutations -- --nocapture`
//!
//! `HYPERNET_GUARDS=PlanSeen,LowerPlan` takes away only these.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::migration::guard as moves;
use integration::simulate::cli::quiet_runs;
use integration::simulate::{all_kinds, directed, empties, enumerate_until, run, run_seed, upgrades};
use librarian::guard as pool;

/// Seeds of the directed runs.
const DIRECTED_SEEDS: u64 = 4;
/// Runs of the enumeration, from its beginning on: what is found by no directed run is about creations and deletions.
const ENUMERATED_MAX: u64 = 600;
/// Random seeds within which a violation must be found.
const SEEDS: u64 = 1_500;

/// A guard that can be taken away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Guard {
    /// An agent's.
    Agent(moves::Guard),
    /// The librarian's.
    Librarian(pool::Guard),
}

/// Guards whose places are so narrow that directed runs alone come to them.
const RARE: [Guard; 2] = [
    Guard::Agent(moves::Guard::ClearAtStop),
    Guard::Agent(moves::Guard::GrantsEnd),
];

/// All of them; those of the librarian are few and first.
fn guards() -> Vec<Guard> {
    let librarian = pool::GUARDS.into_iter().map(Guard::Librarian);
    let all = librarian.chain(moves::GUARDS.into_iter().map(Guard::Agent));
    let wanted = std::env::var("HYPERNET_GUARDS").ok();
    let names: Option<Vec<&str>> = wanted.as_deref().map(|names| names.split(',').collect());
    all.filter(|guard| {
        names
            .as_ref()
            .is_none_or(|names| names.contains(&guard.to_string().as_str()))
    })
    .collect()
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guard::Agent(guard) => write!(f, "{guard:?}"),
            Guard::Librarian(guard) => write!(f, "{guard:?}"),
        }
    }
}

/// Takes one guard away on this thread, or gives it back.
fn remove(guard: Option<Guard>) {
    moves::remove(guard.and_then(|guard| match guard {
        Guard::Agent(guard) => Some(guard),
        Guard::Librarian(_) => None,
    }));
    pool::remove(guard.and_then(|guard| match guard {
        Guard::Librarian(guard) => Some(guard),
        Guard::Agent(_) => None,
    }));
}

/// After how many runs something broke, and what.
type Found = Option<(u64, String)>;

fn in_directed_runs() -> Found {
    // What upgrades bring is led to last: these runs are long.
    let runs = (0..DIRECTED_SEEDS)
        .flat_map(directed)
        .chain((0..DIRECTED_SEEDS).flat_map(empties))
        .chain((0..DIRECTED_SEEDS).flat_map(upgrades));
    (1..).zip(runs).find_map(|(count, (name, script))| {
        let broken = run(&script, false).broken?;
        Some((count, format!("directed, {name}: {broken}")))
    })
}

fn in_enumeration() -> Found {
    let mut runs = 0;
    for (name, script) in quiet_runs() {
        if runs >= ENUMERATED_MAX {
            break;
        }
        let (count, broken) = enumerate_until(&script);
        runs += count;
        if let Some(broken) = broken {
            return Some((runs, format!("enumeration, {name}: {broken}")));
        }
    }
    None
}

fn in_seeds() -> Found {
    (0..SEEDS).find_map(|seed| {
        let (_, outcome) = run_seed(seed, &all_kinds());
        Some((seed + 1, format!("seed {seed}: {}", outcome.broken?)))
    })
}

#[test]
fn guard_that_is_taken_away_is_missed_in_directed_runs_or_the_enumeration() {
    let missing = not_found(|| in_directed_runs().or_else(in_enumeration));
    assert_eq!(missing, [], "the simulator does not miss these guards");
}

#[test]
fn guard_that_is_taken_away_is_missed_among_random_seeds() {
    let mut missing = not_found(in_seeds);
    missing.retain(|guard| !RARE.contains(guard));
    assert_eq!(missing, [], "the simulator does not miss these guards");
}

/// The guards whose absence is not found; prints how the others' was.
fn not_found(find: impl Fn() -> Found + Sync) -> Vec<Guard> {
    let (guards, next) = (guards(), AtomicUsize::new(0));
    let work = || {
        let mut missing = Vec::new();
        let mut report = String::new();
        while let Some(guard) = guards.get(next.fetch_add(1, Ordering::Relaxed)) {
            remove(Some(*guard));
            let found = find();
            remove(None);
            let how = match &found {
                Some((runs, how)) => format!("{runs} runs: {}", how.lines().next().unwrap_or_default()),
                None => "NOT FOUND".to_owned(),
            };
            writeln!(report, "{guard}: {how}").expect("a string grows");
            missing.extend(found.is_none().then_some(*guard));
        }
        (missing, report)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        let mut missing = Vec::new();
        for worker in workers {
            let (some, report) = worker.join().expect("a worker does not panic");
            print!("{report}");
            missing.extend(some);
        }
        missing
    })
}
