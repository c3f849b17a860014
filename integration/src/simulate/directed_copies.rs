//! Runs that lead to where a guard of copies matters: without it the run breaks.
//!
//! One object on S, held by H as well; the writer finds the owner by asking, the reader asks S, or H where a run says so.

use super::clock::{MS, S as SECOND, Time};
use super::directed::{LIBRARIAN, READER, WRITER, agent, cut};
use super::script::{After, Deed, Script};

/// The owner, and the other holder.
const S: usize = 0;
const H: usize = 1;

/// When the object is on both and at rest.
const BEGINS: Time = 6 * SECOND;
const READ_EVERY: Time = 40 * MS;

/// Runs by name.
pub(super) fn runs(seed: u64) -> Vec<(&'static str, Script)> {
    vec![
        ("lost owner serves on", lost_owner_serves_on(seed)),
        ("lost owner is cut off", lost_owner_is_cut_off(seed)),
        ("lost owner is gone", lost_owner_is_gone(seed)),
        ("holder is cut off and dropped", holder_is_cut_off(seed)),
        ("owner restarts with a write that nobody has", owner_restarts(seed)),
    ]
}

fn shared(seed: u64, asked: usize, deeds: Vec<(Time, Deed)>, after: Vec<After>) -> Script {
    let mut all = vec![(3 * SECOND, Deed::Put(WRITER, 0)), (4 * SECOND, Deed::Put(WRITER, 0))];
    all.extend(deeds);
    all.sort_by_key(|(at, _)| *at);
    Script {
        agents: 2,
        copies: Some(2),
        tells: true,
        clients: 3,
        knows: vec![(WRITER, S), (READER, asked), (2, H)],
        deeds: all,
        after,
        ends: BEGINS + 14 * SECOND,
        ..Script::quiet(seed, 1, &[])
    }
}

fn reads(seconds: Time) -> impl Iterator<Item = (Time, Deed)> {
    (0..seconds * SECOND / READ_EVERY).map(|number| (BEGINS + number * READ_EVERY, Deed::Read(READER, 0)))
}

/// Writes at H, whenever that has become the owner.
fn writes(seconds: Time) -> impl Iterator<Item = (Time, Deed)> {
    (0..seconds * 5).map(|number| (BEGINS + number * 200 * MS, Deed::Put(2, 0)))
}

/// S reaches H and clients, and not the librarian, and is taken for lost.
fn lost_owner_serves_on(seed: u64) -> Script {
    let mut deeds = vec![
        (BEGINS, cut(agent(S), LIBRARIAN, 9_000)),
        (BEGINS, cut(LIBRARIAN, agent(S), 9_000)),
        (BEGINS, Deed::Mark(S, true)),
    ];
    deeds.extend(reads(8));
    deeds.extend(writes(8));
    shared(seed, S, deeds, Vec::new())
}

/// S reaches clients alone, and has been taken for lost right before: H may take over while S has its permission.
fn lost_owner_is_cut_off(seed: u64) -> Script {
    let mut deeds = vec![(BEGINS - 500 * MS, Deed::Mark(S, true))];
    for (one, other) in [
        (agent(S), agent(H)),
        (agent(H), agent(S)),
        (agent(S), LIBRARIAN),
        (LIBRARIAN, agent(S)),
    ] {
        deeds.push((BEGINS + 700 * MS, cut(one, other, 8_000)));
    }
    deeds.extend(reads(8));
    deeds.extend(writes(8));
    shared(seed, S, deeds, Vec::new())
}

/// S is lost with its disk; two others are left to hold what it had.
fn lost_owner_is_gone(seed: u64) -> Script {
    let mut deeds = vec![(BEGINS + 500 * MS, Deed::Lose(S))];
    deeds.extend(reads(8));
    deeds.extend(writes(8));
    Script {
        agents: 3,
        // Everybody else asks the librarian.
        knows: vec![(WRITER, S)],
        ..shared(seed, S, deeds, Vec::new())
    }
}

/// H reaches clients alone; S lets it go, and goes on.
fn holder_is_cut_off(seed: u64) -> Script {
    let mut deeds = Vec::new();
    for (one, other) in [
        (agent(S), agent(H)),
        (agent(H), agent(S)),
        (agent(H), LIBRARIAN),
        (LIBRARIAN, agent(H)),
    ] {
        deeds.push((BEGINS + 500 * MS, cut(one, other, 8_000)));
    }
    deeds.extend(reads(8));
    deeds.extend((0..40).map(|number| (BEGINS + number * 200 * MS, Deed::Put(WRITER, 0))));
    shared(seed, H, deeds, Vec::new())
}

/// S has written what H does not have, and restarts; H does not hear of it for a while.
fn owner_restarts(seed: u64) -> Script {
    let deeds = vec![
        (BEGINS, cut(agent(S), agent(H), 1_200)),
        (BEGINS + 50 * MS, Deed::Put(WRITER, 0)),
        (BEGINS + 400 * MS, Deed::Befall(super::faults::Fate::Crash(S))),
        (BEGINS + 500 * MS, cut(agent(S), agent(H), 3_200)),
        (BEGINS + 500 * MS, cut(agent(H), agent(S), 3_200)),
    ];
    let mut all = deeds;
    all.extend(reads(5));
    shared(seed, S, all, Vec::new())
}
