//! Which pairs of state and event the machines of a move can meet, which cannot be met and why, and which were met.
//!
//! Besides, what loads and servers were like.
//!
//! "Cannot" is a claim about the engine, which feeds the machines: a run that meets such a pair all the same refutes it.

use std::collections::{BTreeMap, BTreeSet};

use agent::transfer::engine::Side;

use super::agent::Pair;
use super::campaign::Outcome;
use super::cli::side;
use super::world::World;

/// States of a source.
const SOURCE: [&str; 15] = [
    "reserving",
    "noting the move",
    "opening",
    "copying",
    "closing",
    "noting the seal",
    "sealed",
    "aborting",
    "noting the return",
    "noting the loss",
    "noting the deletion",
    "moved",
    "reclaiming",
    "recovering",
    "ended",
];
/// States of a destination.
const DESTINATION: [&str; 15] = [
    "reserving",
    "noting the reservation",
    "reserved",
    "checking",
    "staging",
    "noting the preparation",
    "noting the commit",
    "commit sent",
    "noting the taking",
    "returning",
    "waiting",
    "opening",
    "noting the loss",
    "dropping",
    "ended",
];

/// In which states an event can be met.
#[derive(Clone, Copy)]
enum In {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// Events that are met in the same states, and why they are met in no other.
struct Rule {
    events: &'static [&'static str],
    states: In,
    elsewhere: &'static str,
}

const fn rule(events: &'static [&'static str], states: In, elsewhere: &'static str) -> Rule {
    Rule {
        events,
        states,
        elsewhere,
    }
}

const SOURCE_RULES: [Rule; 11] = [
    rule(
        &["Cancel"],
        In::Only(&["closing"]),
        "the engine takes a move back only where holders do not confirm what is about to be sealed",
    ),
    rule(
        &["Durable", "NotDurable"],
        In::Only(&[
            "noting the move",
            "noting the seal",
            "noting the return",
            "noting the loss",
            "noting the deletion",
            "reclaiming",
        ]),
        "no step is being noted",
    ),
    rule(
        &["Changed(Done", "Changed(Refused", "Changed(Unknown"],
        // A return that is still being sent when the register settles it ends later.
        In::Only(&[
            "opening",
            "aborting",
            "noting the return",
            "noting the loss",
            "noting the deletion",
        ]),
        "no change of the register is under way",
    ),
    rule(
        &["Register", "NoAnswer"],
        In::AllBut(&["noting the move", "reclaiming", "ended"]),
        "the one question was answered before",
    ),
    rule(
        &[
            "Peer(Reserved",
            "Peer(Refused",
            "Peer(Ready",
            "Peer(Staged",
            "Peer(Damaged",
            "Peer(NotCommitted",
            "Peer(Fenced",
            "Peer(Dropped",
        ],
        In::AllBut(&["moved", "reclaiming", "ended"]),
        "once the object is let go the journal answers, not the machine",
    ),
    rule(
        &["PeerLost"],
        In::AllBut(&["ended"]),
        "an ended machine is removed at once",
    ),
    rule(
        &["Shipped", "ShipFailed", "Unreadable"],
        In::AllBut(&[
            "reserving",
            "noting the move",
            "opening",
            "moved",
            "reclaiming",
            "recovering",
            "ended",
        ]),
        "nothing was shipped yet, or by an earlier life",
    ),
    rule(&["Holding"], In::Only(&["closing"]), "no gate is to be closed"),
    rule(
        &["Closed"],
        In::Only(&[
            // Another round of copying may come between the closing and its end, and the next closing may be heard first.
            "copying",
            "closing",
            "noting the seal",
            "aborting",
            "noting the return",
        ]),
        // Losing an object, and learning that it was deleted elsewhere, need a seal; a deletion here takes the move over.
        "no gate is being closed: a seal waits for every closing",
    ),
    rule(
        &["Writers"],
        In::Only(&["closing", "sealed"]),
        "only a closed gate is asked who waits, and answers at once",
    ),
    rule(
        &["TakenOver"],
        In::AllBut(&["reserving", "opening", "moved", "reclaiming", "recovering", "ended"]),
        "a deletion is noticed at the next step, copy or closing",
    ),
];

const DESTINATION_RULES: [Rule; 8] = [
    rule(
        &["Space(true", "Space(false"],
        In::Only(&["reserving"]),
        "space is asked for once, and answered at once",
    ),
    rule(
        &["Durable", "NotDurable"],
        In::Only(&[
            "noting the reservation",
            "staging",
            "noting the preparation",
            "noting the commit",
            "noting the taking",
            "opening",
            "noting the loss",
            "dropping",
        ]),
        "no step is being noted",
    ),
    rule(
        &["Changed(Done", "Changed(Refused", "Changed(Unknown"],
        In::Only(&["commit sent"]),
        "the end of the one change is waited for",
    ),
    rule(
        &["Register", "NoAnswer"],
        In::AllBut(&[
            "reserving",
            "noting the reservation",
            "reserved",
            "noting the loss",
            "ended",
        ]),
        "no question is open",
    ),
    rule(
        // A late one of a move that a restart forgot comes in any state of the same move, offered anew.
        &["Peer(Reserve", "Peer(Open", "Peer(Seal", "Peer(Ask"],
        In::AllBut(&["reserving", "returning", "noting the loss", "ended"]),
        "space is answered at once; after a restart within the wait the move is another's to name",
    ),
    rule(
        &["Peer(FenceAnswered", "Peer(Abort", "PeerLost", "Superseded"],
        In::AllBut(&["reserving", "ended"]),
        "space is answered at once, and an ended machine is removed at once",
    ),
    rule(
        &["CopyBegan", "Copied(CopyFacts"],
        In::Only(&["staging"]),
        "no copy is taken",
    ),
    rule(
        &["CopyFailed", "CopyDamaged", "NoRoom"],
        In::Only(&[
            "staging",
            "noting the preparation",
            "noting the commit",
            "commit sent",
            "noting the taking",
            "waiting",
            "opening",
            "dropping",
        ]),
        "no copy was begun in this life",
    ),
];

/// Pairs that the rules let be met, and why they cannot be met all the same.
type But = (Side, &'static [&'static str], &'static [&'static str], &'static str);

const BUT: [But; 5] = [
    (
        Side::Source,
        &["noting the loss"],
        // The change names the text that the commit replaces: one of them lands.
        &["Changed(Done"],
        "a return that was done leaves nothing to commit",
    ),
    (
        Side::Source,
        &["noting the seal", "sealed", "noting the loss"],
        &["TakenOver"],
        "no deletion begins behind a closed gate, and no gate closes before one has ended",
    ),
    (
        Side::Source,
        &["recovering"],
        &["Peer(NotCommitted"],
        "a new life has asked nothing yet, and the connection of the old one is gone",
    ),
    (
        Side::Destination,
        &["returning"],
        // The source is sealed or has lost the object: it aborts nothing and offers nothing over the new connection.
        &["Peer(Abort", "Superseded"],
        "who has given an object away neither keeps nor offers it",
    ),
    (
        Side::Destination,
        &["noting the loss"],
        // Only a registry that is changed by hand could tell of another owner.
        &[
            "Durable",
            "NotDurable",
            "Peer(FenceAnswered",
            "Peer(Abort",
            "PeerLost",
            "Superseded",
        ],
        "an owner that waits passes nothing on, and a deletion ends the wait in the same row",
    ),
];

/// All pairs: those that can be met, and those that cannot with the reason.
fn all() -> BTreeMap<Pair, Option<&'static str>> {
    let mut pairs = BTreeMap::new();
    let of = |of: Side, rules: &'static [Rule]| rules.iter().map(move |rule| (of, rule));
    let rules = of(Side::Source, &SOURCE_RULES).chain(of(Side::Destination, &DESTINATION_RULES));
    for (of, rule) in rules {
        let states: &[&'static str] = match of {
            Side::Source => &SOURCE,
            Side::Destination => &DESTINATION,
            // Machines of copies have a walk of every order instead (`agent::copies`).
            Side::Owner | Side::Holder => &[],
        };
        for state in states {
            let can = match rule.states {
                In::Only(states) => states.contains(state),
                In::AllBut(states) => !states.contains(state),
            };
            for event in rule.events {
                pairs.insert((of, *state, (*event).to_owned()), (!can).then_some(rule.elsewhere));
            }
        }
    }
    for (of, states, events, reason) in BUT {
        for state in states {
            for event in events {
                pairs.insert((of, *state, (*event).to_owned()), Some(reason));
            }
        }
    }
    pairs
}

fn text((of, state, event): &Pair) -> String {
    format!("{}/{state}/{event}", side(*of))
}

/// What loads and servers are like in some runs.
pub const LOADS: [&str; 16] = [
    "uniform",
    "zipf",
    "flash crowd",
    "waves",
    "steady",
    "unequal sizes",
    "unequal prices",
    "moves for requests",
    "copies",
    "reads at holders",
    "holders added",
    "holders dropped",
    "taken over",
    "servers lost",
    "servers cut off",
    "objects lost",
];

/// Which of [`LOADS`] a run had.
pub(super) fn loads(world: &World) -> BTreeSet<&'static str> {
    let script = &world.script;
    let is_unequal = |capacities: &[u64]| capacities.windows(2).any(|pair| pair[0] != pair[1]);
    let prices: BTreeSet<u32> = script.terms.prices().into_values().collect();
    let has = [
        ("steady", script.rests_from.is_some()),
        ("unequal sizes", is_unequal(&script.capacities)),
        ("unequal prices", prices.len() > 1),
        ("moves for requests", world.librarian.wished_for_requests > 0),
        ("copies", script.copies == Some(2)),
        ("reads at holders", world.steps.contains_key("read at a holder")),
        ("holders added", world.steps.contains_key("holder added")),
        ("holders dropped", world.steps.contains_key("holder dropped")),
        ("taken over", world.steps.contains_key("taken over from a lost server")),
        ("servers lost", world.steps.contains_key("server lost")),
        ("servers cut off", world.steps.contains_key("server cut off")),
        ("objects lost", world.steps.contains_key("object lost")),
    ];
    let others = has.into_iter().filter(|(_, is_so)| *is_so).map(|(name, _)| name);
    others.chain([script.workload.name()]).collect()
}

/// How many runs had which loads and servers.
#[derive(Clone, Debug)]
pub struct Loads(BTreeMap<&'static str, u64>);

impl Default for Loads {
    fn default() -> Self {
        Loads(LOADS.into_iter().map(|load| (load, 0)).collect())
    }
}

impl Loads {
    /// Counts one run.
    pub fn take(&mut self, outcome: &Outcome) {
        for load in &outcome.loads {
            *self.0.entry(load).or_default() += 1;
        }
    }

    /// How many runs had each.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.0
    }

    /// What no run had.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let none = self.0.iter().filter(|(_, count)| **count == 0);
        none.map(|(load, _)| *load).collect()
    }
}

/// What was met of all that can be.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// How many pairs can be met.
    pub possible: usize,
    /// Those of them that were not, as `side/state/event`.
    pub unreached: Vec<String>,
    /// How many pairs cannot be met, by reason.
    pub excluded: BTreeMap<&'static str, usize>,
    /// Pairs that were met although they cannot be, or that nobody knows: what is said here is wrong.
    pub refuted: Vec<String>,
}

impl Coverage {
    /// How many pairs were met of those that can be.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.possible - self.unreached.len()
    }
}

/// Compares what was met with what can be.
#[must_use]
pub fn coverage(met: &BTreeSet<Pair>) -> Coverage {
    let all = all();
    let mut coverage = Coverage::default();
    for (pair, reason) in &all {
        match reason {
            None => {
                coverage.possible += 1;
                if !met.contains(pair) {
                    coverage.unreached.push(text(pair));
                }
            }
            Some(reason) => *coverage.excluded.entry(reason).or_default() += 1,
        }
    }
    let refuted = met.iter().filter(|pair| !matches!(all.get(*pair), Some(None)));
    coverage.refuted = refuted.map(text).collect();
    coverage
}
