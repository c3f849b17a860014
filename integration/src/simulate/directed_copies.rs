//! Runs that lead to where a guard of copies matters: without it the run breaks.
//!
//! One object on S, held by another server as well. Each client asks the server that its run says first, and goes on from there;
//! those of which nothing is said ask the librarian.

use super::clock::{MS, S as SECOND, Time};
use super::directed::{self, LIBRARIAN, READER, WRITER, agent, cut};
use super::faults::Fate;
use super::network::Party;
use super::script::{After, Deed, Script};

/// The owner, and the other holder.
const S: usize = 0;
const H: usize = 1;
/// The client that asks H first.
const WRITER_AT_H: usize = 2;

/// When the object is on both and at rest.
const BEGINS: Time = 6 * SECOND;
const READ_EVERY: Time = 40 * MS;

/// Runs by name.
pub(super) fn runs(seed: u64) -> Vec<(&'static str, Script)> {
    vec![
        ("lost owner serves on", lost_owner_serves_on(seed)),
        ("lost owner is cut off", lost_owner_is_cut_off(seed)),
        ("lost owner is gone", lost_owner_is_gone(seed)),
        ("owner restarts with a write that nobody has", owner_restarts(seed)),
        ("lost owner hears nothing of it", lost_owner_hears_nothing(seed)),
        ("holder is cut off and dropped", holder_is_cut_off(seed)),
        (
            "holder is added and the answer is lost",
            answer_to_addition_is_lost(seed),
        ),
        ("holder is lost while the object moves", holder_is_lost_in_a_move(seed)),
        ("holder leaves and does not hear that it may", holder_leaves(seed)),
    ]
}

/// A run in which the reader asks this server.
fn shared(seed: u64, asked: usize, deeds: Vec<(Time, Deed)>) -> Script {
    let mut deeds = deeds;
    deeds.extend([(3 * SECOND, Deed::Put(WRITER, 0)), (4 * SECOND, Deed::Put(WRITER, 0))]);
    deeds.sort_by_key(|(at, _)| *at);
    Script {
        agents: 2,
        copies: Some(2),
        tells: true,
        clients: 3,
        knows: vec![(WRITER, S), (READER, asked), (WRITER_AT_H, H)],
        deeds,
        ends: BEGINS + 14 * SECOND,
        ..Script::quiet(seed, 1, &[])
    }
}

/// What follows a step once the object is at rest.
fn after(step: &'static str, nth: u64, pause: Time, deed: Deed) -> After {
    After {
        from: BEGINS,
        ..directed::after(step, nth, pause, deed)
    }
}

/// Reads from a moment on.
fn reads(from: Time, seconds: Time) -> impl Iterator<Item = (Time, Deed)> {
    (0..seconds * SECOND / READ_EVERY).map(move |number| (from + number * READ_EVERY, Deed::Read(READER, 0)))
}

/// Writes of one client from a moment on.
fn writes(client: usize, from: Time, seconds: Time) -> impl Iterator<Item = (Time, Deed)> {
    (0..seconds * 5).map(move |number| (from + number * 200 * MS, Deed::Put(client, 0)))
}

/// Nothing passes between one server and these parties, either way.
fn cut_off(at: Time, server: usize, parties: &[Party], milliseconds: u64) -> impl Iterator<Item = (Time, Deed)> {
    let both = move |party: &Party| {
        let ways = [(agent(server), *party), (*party, agent(server))];
        ways.map(|(from, to)| (at, cut(from, to, milliseconds)))
    };
    parties.iter().flat_map(both)
}

/// S reaches H and clients, and not the librarian, and is taken for lost.
fn lost_owner_serves_on(seed: u64) -> Script {
    let mut deeds = vec![(BEGINS, Deed::Mark(S, true))];
    deeds.extend(cut_off(BEGINS, S, &[LIBRARIAN], 9_000));
    deeds.extend(reads(BEGINS, 8));
    // At H, whenever that has become the owner.
    deeds.extend(writes(WRITER_AT_H, BEGINS, 8));
    shared(seed, S, deeds)
}

/// S reaches clients alone, and has been taken for lost right before: H may take over while S has its permission.
fn lost_owner_is_cut_off(seed: u64) -> Script {
    let mut deeds = vec![(BEGINS - 500 * MS, Deed::Mark(S, true))];
    deeds.extend(cut_off(BEGINS + 700 * MS, S, &[agent(H), LIBRARIAN], 8_000));
    deeds.extend(reads(BEGINS, 8));
    deeds.extend(writes(WRITER_AT_H, BEGINS, 8));
    shared(seed, S, deeds)
}

/// S is lost with its disk; two others are left to hold what it had.
fn lost_owner_is_gone(seed: u64) -> Script {
    let mut deeds = vec![(BEGINS + 500 * MS, Deed::Lose(S))];
    // A client waits for the lost server for long: with more reads beside it the history would be full.
    deeds.extend(reads(BEGINS, 8).step_by(5));
    deeds.extend(writes(WRITER_AT_H, BEGINS, 8));
    Script {
        agents: 3,
        knows: vec![(WRITER, S)],
        ..shared(seed, S, deeds)
    }
}

/// S is taken for lost when it reaches clients alone, so that H cannot tell it that it is refused. Nobody asks it for anything
/// before H has taken over and a client has written there: a write that came to S would keep it from showing what it has.
fn lost_owner_hears_nothing(seed: u64) -> Script {
    let mut deeds = vec![(BEGINS + 200 * MS, Deed::Mark(S, true))];
    deeds.extend(cut_off(BEGINS, S, &[agent(H), LIBRARIAN], 9_500));
    deeds.extend(writes(WRITER_AT_H, BEGINS + 6 * SECOND, 3));
    deeds.extend(reads(BEGINS + 6 * SECOND + 500 * MS, 3));
    shared(seed, S, deeds)
}

/// H reaches clients alone; S lets it go, and goes on.
fn holder_is_cut_off(seed: u64) -> Script {
    let mut deeds: Vec<_> = cut_off(BEGINS + 500 * MS, H, &[agent(S), LIBRARIAN], 8_000).collect();
    deeds.extend(reads(BEGINS, 8));
    deeds.extend(writes(WRITER, BEGINS, 8));
    shared(seed, H, deeds)
}

/// S has written what H does not have, and restarts; H does not hear of it for a while. Each read is another client's: one that
/// asks a server which is down, or that waits for H, asks for nothing else meanwhile.
fn owner_restarts(seed: u64) -> Script {
    const FIRST: usize = 3;
    const READERS: usize = 30;
    let mut deeds = vec![
        (BEGINS, cut(agent(S), agent(H), 1_200)),
        (BEGINS + 50 * MS, Deed::Put(WRITER, 0)),
        (BEGINS + 400 * MS, Deed::Befall(Fate::Crash(S))),
    ];
    deeds.extend(cut_off(BEGINS + 500 * MS, S, &[agent(H)], 3_200));
    deeds.extend((0..READERS).map(|number| {
        let at = BEGINS + 600 * MS + number as Time * 100 * MS;
        (at, Deed::Read(FIRST + number, 0))
    }));
    let script = shared(seed, S, deeds);
    let knows = (0..READERS).map(|number| (FIRST + number, S));
    Script {
        clients: FIRST + READERS,
        knows: script.knows.iter().copied().chain(knows).collect(),
        ..script
    }
}

/// H drains into a third server, so S lets H go and makes that one a holder. Whenever S has noted a change of its holders, it hears
/// nothing of what became of it for a while, and writes meanwhile.
fn answer_to_addition_is_lost(seed: u64) -> Script {
    let noted = |pause, deed| after("holders", 0, pause, deed);
    Script {
        agents: 3,
        one_is_free: true,
        after: vec![
            noted(0, cut(LIBRARIAN, agent(S), 1_500)),
            noted(100 * MS, Deed::Put(WRITER, 0)),
            noted(500 * MS, Deed::Put(WRITER, 0)),
        ],
        ..shared(seed, S, vec![(BEGINS, Deed::Drain(H))])
    }
}

/// S drains into a third server. As soon as the move has begun H is gone for good, and S is written: the writer waits for H, the seal
/// for the writer, and H cannot be let go while the object moves.
fn holder_is_lost_in_a_move(seed: u64) -> Script {
    let moving = |pause, deed| after("moving", 1, pause, deed);
    Script {
        agents: 3,
        one_is_free: true,
        after: vec![moving(0, Deed::Lose(H)), moving(MS, Deed::Put(WRITER, 0))],
        ..shared(seed, S, vec![(BEGINS, Deed::Drain(S))])
    }
}

/// H drains into a third server, so that S lets it go; as soon as S begins with that, H hears nothing. What it was granted it may read
/// until that ends.
fn holder_leaves(seed: u64) -> Script {
    let dropping = |deed| after("holders", 1, 0, deed);
    let others = [agent(S), LIBRARIAN];
    let cuts = cut_off(0, H, &others, 2_500).map(|(_, deed)| dropping(deed));
    let mut deeds = vec![(BEGINS, Deed::Drain(H))];
    deeds.extend(reads(BEGINS, 10));
    deeds.extend(writes(WRITER, BEGINS, 10));
    Script {
        agents: 3,
        one_is_free: true,
        after: cuts.collect(),
        ..shared(seed, H, deeds)
    }
}
