//! Without any one of its guards the pool breaks, and the simulator finds it: in the crash enumeration of one object, or
//! within so many seeds.
//!
//! `cargo test --release -p integration --features mutations --test mutations -- --nocapture`

use std::sync::atomic::{AtomicUsize, Ordering};

use agent::migration::guard::{GUARDS, Guard, remove};
use integration::simulate::cli::quiet_runs;
use integration::simulate::{all_kinds, enumerate_until, run_seed};

/// Seeds within which a violation must be found where the enumeration finds none.
const SEEDS: u64 = 2_000;

/// How a guard's absence was found.
fn found(guard: Guard) -> Option<String> {
    remove(Some(guard));
    let mut runs = 0;
    for (name, script) in quiet_runs() {
        if let Some((count, broken)) = enumerate_until(&script) {
            remove(None);
            return Some(format!("{} runs of the enumeration ({name}): {broken}", runs + count));
        } else {
            runs += 1;
        }
    }
    for seed in 0..SEEDS {
        let (_, outcome) = run_seed(seed, &all_kinds());
        if let Some(broken) = outcome.broken {
            remove(None);
            return Some(format!("seed {seed}: {broken}"));
        }
    }
    remove(None);
    None
}

#[test]
fn every_guard_that_is_taken_away_is_missed() {
    let next = AtomicUsize::new(0);
    let missing: Vec<Guard> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut missing = Vec::new();
                    while let Some(guard) = GUARDS.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match found(*guard) {
                            Some(how) => println!("{guard:?}: {}", how.lines().next().unwrap_or_default()),
                            None => {
                                println!("{guard:?}: NOT FOUND");
                                missing.push(*guard);
                            }
                        }
                    }
                    missing
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker does not panic"))
            .collect()
    });
    assert_eq!(missing, [], "the simulator does not miss these guards");
}
