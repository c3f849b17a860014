//! The simulator's command line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::transfer::engine::Side;
use clap::Parser;
use clap::builder::TypedValueParser;

use super::Pair;
use super::campaign::{Outcome, Violation, enumerate, run, run_scripts, shrink};
use super::coverage::{Loads, coverage};
use super::directed::directed;
use super::faults::KINDS;
use super::operator::Upgraded;
use super::script::{Deed, Script, all_kinds};
use super::upgrades::upgrade;
use super::workload::load;

/// Runs whole pools in virtual time: librarian, agents, clients, network and disks, with everything that can go wrong.
///
/// Exit status: 0 when no invariant was broken, 1 otherwise, 2 for a wrong command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "simulate",
    version,
    after_help = "Examples:\n  simulate --seeds 1000\n  simulate --copies --seeds 500\n  simulate --loads --seeds 500\n  simulate --seeds 100000 --minutes 60 --json summary.json\n  simulate --seed 4711 --trace\n  simulate --enumerate --pairs 500"
)]
pub struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub seeds: u64,
    /// Ends after so many minutes, whatever seeds are left.
    #[arg(long, value_name = "M")]
    pub minutes: Option<u64>,
    /// Runs this one seed, or begins with it.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Prints everything that happens; with --seed.
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// What may go wrong, separated by commas; without it, everything.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(KINDS).map(|kind| known(&kind)))]
    pub faults: Vec<&'static str>,
    /// Writes the summary as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Instead of seeds: moves, a batch, a creation, a deletion and directed runs, with a fault at every single point.
    #[arg(long)]
    pub enumerate: bool,
    /// Only whole upgrades, one for each seed.
    #[arg(long, conflicts_with = "enumerate")]
    pub upgrades: bool,
    /// Only runs with a load for so long that objects move for it, one for each seed.
    #[arg(long, conflicts_with_all = ["enumerate", "upgrades"])]
    pub loads: bool,
    /// Only runs with two copies of each object, one for each seed.
    #[arg(long, conflicts_with_all = ["enumerate", "upgrades", "loads"])]
    pub copies: bool,
    /// With --enumerate: every N-th pair of faults, too.
    #[arg(long, value_name = "N", requires = "enumerate")]
    pub pairs: Option<usize>,
}

fn known(kind: &str) -> &'static str {
    KINDS.into_iter().find(|known| *known == kind).expect("one of them")
}

/// What all runs came to.
#[derive(Debug, Default)]
struct Summary {
    seeds: u64,
    events: u64,
    operations: u64,
    violations: u64,
    faults: BTreeMap<&'static str, u64>,
    pairs: BTreeSet<Pair>,
    steps: BTreeMap<&'static str, u64>,
    ends: BTreeMap<&'static str, u64>,
    upgraded: Upgraded,
    wished: u64,
    loads: Loads,
}

impl Summary {
    fn take(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.operations += outcome.operations;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (step, count) in &outcome.steps {
            *self.steps.entry(step).or_default() += count;
        }
        self.pairs.extend(outcome.pairs.iter().cloned());
        for end in &outcome.upgraded.ends {
            *self.ends.entry(end).or_default() += 1;
        }
        self.upgraded.take(&outcome.upgraded);
        self.wished += outcome.wished;
        self.loads.take(outcome);
    }

    /// How upgrades went, if there were any.
    fn upgrades(&self, began: Instant) -> Option<String> {
        let minutes = began.elapsed().as_secs_f64().max(0.001) / 60.0;
        let count: u64 = self.ends.values().sum();
        let ends: Vec<String> = self.ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
        let upgraded = &self.upgraded;
        (count > 0).then(|| {
            format!(
                "{count} upgrades, {:.0} a minute: {}; {} halts, {} times resumed, {} servers repaired\n  states: {}\n  controller \
                 killed in: {}\n  faults in their midst: {}",
                count as f64 / minutes,
                ends.join(", "),
                upgraded.halts,
                upgraded.resumes,
                upgraded.lost,
                texts(upgraded.states.iter()),
                texts(upgraded.killed.iter()),
                texts(upgraded.faults.iter()),
            )
        })
    }

    fn line(&self, began: Instant) -> String {
        let seconds = began.elapsed().as_secs_f64().max(0.001);
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        format!(
            "{} runs, {:.0} a minute, {:.0} events/s; faults: {}; {} of {} pairs of state and event, {} journal steps; {} objects wished \
             elsewhere; loads: {}",
            self.seeds,
            self.seeds as f64 / seconds * 60.0,
            self.events as f64 / seconds,
            faults.join(", "),
            self.pairs.len(),
            coverage(&self.pairs).possible,
            self.steps.len(),
            self.wished,
            texts(
                self.loads
                    .counts()
                    .iter()
                    .map(|(load, count)| format!("{load} {count}"))
            ),
        )
    }

    fn json(&self, began: Instant) -> serde_json::Value {
        let coverage = coverage(&self.pairs);
        serde_json::json!({
            "seeds": self.seeds,
            "violations": self.violations,
            "events": self.events,
            "operations": self.operations,
            "seconds": began.elapsed().as_secs_f64(),
            "faults": self.faults,
            "steps": self.steps,
            "upgrades": self.ends,
            "wished": self.wished,
            "loads": self.loads.counts(),
            "upgrade_states": self.upgraded.states,
            "killed_in": self.upgraded.killed,
            "upgrade_faults": self.upgraded.faults,
            "reached": self.pairs.len(),
            "possible": coverage.possible,
            "unreached": coverage.unreached,
            "excluded": coverage.excluded,
            "refuted": coverage.refuted,
        })
    }
}

fn texts(texts: impl Iterator<Item = impl ToString>) -> String {
    texts.map(|text| text.to_string()).collect::<Vec<_>>().join(", ")
}

/// Runs the command.
#[must_use]
pub fn simulate(options: &Options) -> ExitCode {
    let began = Instant::now();
    let kinds: BTreeSet<&'static str> = match options.faults.is_empty() {
        true => all_kinds(),
        false => options.faults.iter().copied().collect(),
    };
    let mut summary = Summary::default();
    let violation = if options.enumerate {
        enumerated(options, &mut summary)
    } else if options.trace {
        traced(options, &kinds, &mut summary)
    } else {
        seeds(options, &kinds, &mut summary, began)
    };
    println!("{}", summary.line(began));
    if let Some(upgrades) = summary.upgrades(began) {
        println!("{upgrades}");
    }
    if let Some(violation) = &violation {
        summary.violations = 1;
        print(violation, &replay(options, violation.script.seed));
    }
    let refuted = coverage(&summary.pairs).refuted;
    if !refuted.is_empty() {
        println!(
            "met although coverage.rs says that they cannot be: {}",
            refuted.join(", ")
        );
    }
    if let Some(path) = &options.json
        && let Err(error) = std::fs::write(path, format!("{:#}\n", summary.json(began)))
    {
        eprintln!("error: write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    match (violation, refuted.is_empty()) {
        (None, true) => ExitCode::SUCCESS,
        (Some(_), _) | (_, false) => ExitCode::FAILURE,
    }
}

/// The run of a seed, of those that are asked for.
fn script(options: &Options, seed: u64, kinds: &BTreeSet<&'static str>) -> Script {
    match (options.upgrades, options.loads, options.copies) {
        (true, ..) => upgrade(seed, kinds),
        (false, true, _) => load(seed, kinds),
        (false, false, true) => Script::with_copies(seed, kinds),
        (false, false, false) => Script::random(seed, kinds),
    }
}

fn traced(options: &Options, kinds: &BTreeSet<&'static str>, summary: &mut Summary) -> Option<Violation> {
    let seed = options.seed.unwrap_or(0);
    let script = script(options, seed, kinds);
    let outcome = run(&script, true);
    summary.take(&outcome);
    for line in &outcome.trace {
        println!("{line}");
    }
    outcome.broken.is_some().then_some(Violation { script, outcome })
}

/// Runs seeds on every processor.
fn seeds(
    options: &Options,
    kinds: &BTreeSet<&'static str>,
    summary: &mut Summary,
    began: Instant,
) -> Option<Violation> {
    let first = options.seed.unwrap_or(0);
    let last = match options.seed {
        Some(seed) if options.seeds == 1000 => seed + 1,
        _ => first + options.seeds,
    };
    let deadline = options.minutes.map(|minutes| began + Duration::from_secs(minutes * 60));
    let mut shown = Instant::now();
    let pause = Duration::from_secs(if std::io::stdout().is_terminal() { 1 } else { 10 });
    let violation = run_scripts(
        (first..last).take_while(|_| deadline.is_none_or(|deadline| Instant::now() < deadline)),
        |seed| script(options, seed, kinds),
        |outcome| {
            summary.take(outcome);
            if shown.elapsed() >= pause {
                shown = Instant::now();
                println!("{}", summary.line(began));
            }
        },
    );
    let (script, outcome) = violation?;
    println!(
        "seed {} breaks an invariant; looking for the shortest run that shows it",
        script.seed
    );
    Some(shrink(&script, &outcome))
}

/// All runs of an enumeration, by name: the quiet ones, then the directed ones.
#[must_use]
pub fn enumerated_runs() -> Vec<(&'static str, Script)> {
    let mut runs = quiet_runs();
    runs.extend(directed(9));
    runs
}

/// The quiet runs of an enumeration, by name.
#[must_use]
pub fn quiet_runs() -> Vec<(&'static str, Script)> {
    let put = |object| Deed::Put(0, object);
    let read = |object| Deed::Read(0, object);
    vec![
        ("creation", Script::quiet(1, 1, &[put(0), read(0)])),
        ("deletion", Script::quiet(2, 1, &[put(0), Deed::Delete(0, 0), read(0)])),
        (
            "move of a small object",
            Script::quiet(3, 1, &[put(0), Deed::Move(0, 1), put(0), read(0)]),
        ),
        (
            "move of a large object",
            Script::quiet(4, 2, &[put(1), Deed::Move(1, 1), put(1), read(1)]),
        ),
        (
            "move back",
            Script::quiet(
                5,
                1,
                &[
                    put(0),
                    Deed::Move(0, 0),
                    put(0),
                    Deed::Move(0, 1),
                    put(0),
                    Deed::Move(0, 0),
                    put(0),
                    read(0),
                ],
            ),
        ),
        ("contended move", Script::contended(7, 0)),
        ("contended move the other way", Script::contended(8, 1)),
        (
            "batch",
            Script::quiet(
                6,
                4,
                &[
                    put(0),
                    put(1),
                    put(2),
                    put(3),
                    Deed::Move(0, 0),
                    Deed::Move(1, 0),
                    Deed::Move(2, 0),
                    Deed::Move(3, 0),
                    read(0),
                    Deed::Move(0, 1),
                    Deed::Move(1, 1),
                    Deed::Move(2, 1),
                    Deed::Move(3, 1),
                    put(2),
                    read(3),
                ],
            ),
        ),
    ]
}

fn enumerated(options: &Options, summary: &mut Summary) -> Option<Violation> {
    for (name, script) in enumerated_runs() {
        let before = summary.seeds;
        let ended = enumerate(&script, options.pairs, |outcome| summary.take(outcome));
        println!("{name}: {} runs", summary.seeds - before);
        if let Err(violation) = ended {
            return Some(*violation);
        }
    }
    None
}

/// The command that shows a run again.
fn replay(options: &Options, seed: u64) -> String {
    let modes = [
        (options.enumerate, "--enumerate"),
        (options.upgrades, "--upgrades"),
        (options.loads, "--loads"),
        (options.copies, "--copies"),
    ];
    let mut words = vec!["simulate".to_owned()];
    words.extend(
        modes
            .iter()
            .filter(|(is_on, _)| *is_on)
            .map(|(_, mode)| (*mode).to_owned()),
    );
    words.extend(options.pairs.map(|pairs| format!("--pairs {pairs}")));
    if !options.faults.is_empty() && !options.enumerate {
        words.push(format!("--faults {}", options.faults.join(",")));
    }
    // The runs of an enumeration are no seed's.
    if !options.enumerate {
        words.push(format!("--seed {seed} --trace"));
    }
    words.join(" ")
}

fn print(violation: &Violation, replay: &str) {
    let Violation { script, outcome } = violation;
    println!("--- the run");
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("--- the parties");
    print!("{}", outcome.states);
    println!("--- the script");
    println!(
        "seed {}, {} servers, {} clients, {} objects",
        script.seed, script.agents, script.clients, script.objects
    );
    println!("deeds {:?}", script.deeds);
    if !script.after.is_empty() {
        println!("deeds behind steps {:?}", script.after);
    }
    println!("faults {:?}", outcome.fired);
    println!("--- broken");
    println!("{}", outcome.broken.as_deref().unwrap_or("nothing"));
    println!("seed {}: {replay}", script.seed);
}

/// The side of a machine, for people.
#[must_use]
pub fn side(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Destination => "destination",
        Side::Owner => "owner",
        Side::Holder => "holder",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_names_the_mode_and_the_faults() {
        let replay = |words: &[&str]| {
            let words = ["simulate"].iter().chain(words);
            replay(&Options::try_parse_from(words).expect("legal words"), 7)
        };
        assert_eq!(replay(&[]), "simulate --seed 7 --trace");
        assert_eq!(
            replay(&["--copies", "--faults", "crash,torn"]),
            "simulate --copies --faults crash,torn --seed 7 --trace"
        );
        assert_eq!(
            replay(&["--enumerate", "--pairs", "9"]),
            "simulate --enumerate --pairs 9"
        );
    }
}
