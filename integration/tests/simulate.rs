//! Some hundreds of seeds of the simulator, the crash enumeration of quiet runs, and that a seed is a run.
//!
//! `simulate --enumerate` takes the directed runs, too: they are five of six of its runs.
//! `HYPERNET_SEEDS=N` runs as many seeds; the command `simulate` is the faster way to run very many.

use std::collections::BTreeSet;

use integration::simulate::cli::{enumerated_runs, quiet_runs};
use integration::simulate::{
    Loads, Script, all_kinds, coverage, directed, empties, enumerate, found, late, load, run, run_scripts, run_seed,
    run_seeds, steady, upgrade, upgrades,
};

/// Seeds of a test run.
const SEEDS: u64 = 300;

/// Runs with two copies of each object.
const COPIES: u64 = 30;

/// Seeds beyond these that broke something once: a refused creation that never ended; a sealed source that heard of a deletion
/// elsewhere and left writers waiting; a former owner that told who repeated a deletion that somebody else had done it.
const FOUND: [u64; 3] = [12_259, 73_298, 95_070];

/// A seed whose pool moves objects for requests, which one in hundreds of random runs does.
const MOVES_FOR_REQUESTS: u64 = 1_215;

/// Whole upgrades of a test run.
const UPGRADES: u64 = 32;

/// Seeds of upgrades that broke something once: contract steps of a second upgrade ran before it was finalized; a server was
/// upgrading when the registry was lost, and stayed so; a drain was turned round.
const UPGRADES_FOUND: [u64; 3] = [0, 2, 162];

fn seeds() -> u64 {
    match std::env::var("HYPERNET_SEEDS") {
        Ok(text) => text.parse().expect("HYPERNET_SEEDS is a number"),
        Err(_) => SEEDS,
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let mut pairs = BTreeSet::new();
    let (mut steps, mut kinds, mut wished) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut loads = Loads::default();
    let broken = run_seeds(
        (0..seeds()).chain(FOUND).chain([MOVES_FOR_REQUESTS]),
        &all_kinds(),
        |outcome| {
            pairs.extend(outcome.pairs.iter().cloned());
            steps.extend(outcome.steps.keys().copied());
            kinds.extend(outcome.faults.keys().copied());
            wished += outcome.wished;
            loads.take(outcome);
        },
    );
    if let Some((script, outcome)) = broken {
        panic!(
            "seed {}: {:?}: replay it with simulate --seed {0} --trace",
            script.seed, outcome.broken
        );
    }
    let coverage = coverage(&pairs);
    assert_eq!(coverage.refuted, Vec::<String>::new(), "met, and said to be impossible");
    assert!(
        coverage.reached() > 80,
        "a move's usual ways are met: {}",
        coverage.reached()
    );
    for step in ["keys begun", "keys rewrapped", "keys destroyed", "keys refused"] {
        assert!(steps.contains(step), "{step} is not among {steps:?}");
    }
    assert!(kinds.contains("keys"), "guardians of keys do not answer: {kinds:?}");
    assert!(wished > 100, "pools are balanced: {wished}");
    assert_eq!(loads.missing(), Vec::<&str>::new(), "{loads:?}");
}

#[test]
fn same_seed_is_the_same_run() {
    let kinds = all_kinds();
    let random = |seed| run(&Script::random(seed, &kinds), true);
    let loaded = |seed| run(&load(seed, &kinds), true);
    let runs = [2, 3, 10].map(|seed| (seed, random(seed), random(seed)));
    for (seed, first, second) in runs.into_iter().chain([(1, loaded(1), loaded(1))]) {
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert!(first.events > 100);
    }
}

/// I12: what balancing does ends where nothing changes any more, whether it is for octets or for requests.
#[test]
fn pool_under_a_steady_load_comes_to_rest() {
    let (mut loads, mut wished) = (Loads::default(), 0);
    for seed in 0..4 {
        let outcome = run(&steady(seed), false);
        assert_eq!(outcome.broken, None, "seed {seed}");
        wished += outcome.wished;
        loads.take(&outcome);
    }
    let requests = loads.counts()["moves for requests"];
    assert!(wished > 0 && requests > 0, "{wished} wishes: {loads:?}");
}

/// The faults of a random run, written down, are the same run: what shrinking rests on.
#[test]
fn list_of_a_runs_faults_is_the_same_run() {
    let (script, random) = run_seed(10, &all_kinds());
    let listed = Script {
        faults: integration::simulate::Source::Script(random.fired.clone()),
        ..script
    };
    assert_eq!(run(&listed, false).digest, random.digest);
}

#[test]
fn undisturbed_runs_of_the_enumeration_do_what_they_are_for() {
    for (name, script) in enumerated_runs() {
        let outcome = run(&script, false);
        assert_eq!(outcome.broken, None, "{name}");
        let taken = outcome.steps.get("taken").copied().unwrap_or(0);
        let expected = match name {
            "creation" | "deletion" => 0,
            // They are about copies that stay where they are.
            _ if script.copies.is_some() => 0,
            // Where a registry comes back from before the move, it is undone.
            "registry is lost in a move" | "updates of before come after the opening" => 0,
            "move back" => 2,
            "batch" => 4,
            _ => 1,
        };
        assert!(taken >= expected, "{name}: {taken} of {expected}");
        assert!(outcome.sites.len() > 20, "{name}");
    }
}

/// Runs about copies come to what they are led to, and no object is lost in them.
#[test]
fn directed_runs_of_copies_do_what_they_are_for() {
    let mut runs = 0;
    for (name, script) in directed(0).into_iter().filter(|(_, script)| script.copies.is_some()) {
        let outcome = run(&script, true);
        assert_eq!(outcome.broken, None, "{name}:\n{}", outcome.trace.join("\n"));
        let count = |step| outcome.steps.get(step).copied().unwrap_or(0);
        assert!(count("holder added") >= 1, "{name}: {:?}", outcome.steps);
        assert_eq!(count("object lost"), 0, "{name}");
        if name.starts_with("lost owner") {
            assert!(
                count("taken over from a lost server") >= 1,
                "{name}: {:?}\n{}",
                outcome.steps,
                outcome.trace.join("\n")
            );
        }
        if name == "holder is cut off and dropped" {
            assert!(count("holder dropped") >= 1, "{name}: {:?}", outcome.steps);
        }
        runs += 1;
    }
    assert!(runs >= 9, "{runs} runs are about copies");
}

/// What removes a guard must break a run; with all guards the same runs hold.
#[test]
fn directed_runs_hold_for_every_seed_with_all_guards() {
    for seed in 0..4 {
        for (name, script) in directed(seed).into_iter().chain(empties(seed)) {
            assert_eq!(run(&script, false).broken, None, "{name}, seed {seed}");
        }
    }
}

#[test]
fn runs_that_broke_once_hold() {
    let broken = |(seed, script): (u64, Script)| Some((seed, run(&script, false).broken?));
    let broken: Vec<_> = found().into_iter().filter_map(broken).collect();
    assert_eq!(broken, [], "by the seed that found it");
}

/// Most pairs of state and event that can be met, from the runs that are made for the rare ones, and those that only copies bring.
#[test]
fn late_runs_hold_and_meet_what_is_rare() {
    let mut pairs = BTreeSet::new();
    for seed in 0..2 {
        let of_copies = directed(seed).into_iter().filter(|(_, script)| script.copies.is_some());
        let of_copies = of_copies.map(|(name, script)| (name.to_owned(), script));
        for (name, script) in late(seed).into_iter().chain(of_copies) {
            let outcome = run(&script, false);
            assert_eq!(outcome.broken, None, "{name}, seed {seed}");
            pairs.extend(outcome.pairs);
        }
    }
    let coverage = coverage(&pairs);
    assert_eq!(coverage.refuted, Vec::<String>::new(), "met, and said to be impossible");
    assert!(
        coverage.unreached.len() < 60,
        "{} of {} are met, not {:?}",
        coverage.reached(),
        coverage.possible,
        coverage.unreached
    );
}

/// One fault of every kind at every message and every durable step of a creation, a deletion, moves and a batch.
#[test]
fn fault_at_any_point_ends_legally() {
    let mut kinds = BTreeSet::new();
    for (name, script) in quiet_runs() {
        match enumerate(&script, None, |outcome| kinds.extend(outcome.faults.keys().copied())) {
            Ok(runs) => assert!(runs > 100, "{name}: {runs}"),
            Err(violation) => panic!(
                "{name}: {:?}\n{}",
                violation.outcome.broken,
                violation.outcome.trace.join("\n")
            ),
        }
    }
    assert!(
        kinds.contains("crash") && kinds.contains("torn") && kinds.contains("librarian"),
        "{kinds:?}"
    );
}

/// Whole upgrades with everything that goes wrong in their midst; `simulate --upgrades` runs very many.
#[test]
fn upgrades_end_with_every_server_at_one_release_whatever_goes_wrong() {
    let (mut ends, mut states, mut halts) = (BTreeSet::new(), BTreeSet::new(), 0);
    let kinds = all_kinds();
    let seeds = (0..UPGRADES).chain(UPGRADES_FOUND);
    let broken = run_scripts(
        seeds,
        |seed| upgrade(seed, &kinds),
        |outcome| {
            ends.extend(outcome.upgraded.ends.iter().copied());
            states.extend(outcome.upgraded.states.iter().cloned());
            halts += outcome.upgraded.halts;
        },
    );
    if let Some((script, outcome)) = broken {
        panic!(
            "seed {}: {:?}: replay it with simulate --upgrades --seed {0} --trace",
            script.seed, outcome.broken
        );
    }
    assert_eq!(ends, BTreeSet::from(["done", "rolled-back"]), "how upgrades end");
    assert!(halts > 0, "no gate halts");
    for state in [
        "canary",
        "rolling",
        "soak",
        "finalizing",
        "sweeping",
        "paused",
        "halted",
        "aborting",
        "cordoned",
        "draining",
        "empty",
        "upgrading",
        "validating",
        "free",
        "reserve",
        "refilling",
        "failed",
    ] {
        assert!(states.contains(state), "{state} is not among {states:?}");
    }
}

/// Copies of every object, and servers that are lost; `simulate --copies` runs very many.
#[test]
fn copies_survive_whatever_goes_wrong_and_the_loss_of_a_server() {
    let (mut loads, kinds) = (Loads::default(), all_kinds());
    let broken = run_scripts(
        0..COPIES,
        |seed| Script::with_copies(seed, &kinds),
        |outcome| loads.take(outcome),
    );
    if let Some((script, outcome)) = broken {
        panic!(
            "seed {}: {:?}: replay it with simulate --copies --seed {0} --trace",
            script.seed, outcome.broken
        );
    }
    for load in [
        "holders added",
        "holders dropped",
        "taken over",
        "servers lost",
        "servers cut off",
    ] {
        assert!(loads.counts()[load] > 0, "no run has {load}: {loads:?}");
    }
}

/// I11, and that the runs which lead to the guards of upgrades are whole upgrades.
#[test]
fn undisturbed_upgrade_is_done_and_no_operation_fails() {
    for seed in 0..2 {
        for (name, script) in upgrades(seed) {
            let outcome = run(&script, false);
            assert_eq!(outcome.broken, None, "{name}, seed {seed}");
            assert_eq!(outcome.upgraded.ends, ["done"], "{name}, seed {seed}");
        }
    }
}

#[test]
fn same_seed_is_the_same_upgrade() {
    for seed in [1, 4] {
        let script = upgrade(seed, &all_kinds());
        let (first, second) = (run(&script, true), run(&script, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}
