//! Runs that lead a move step by step to where one guard of the protocol (DESIGN.md section 15) matters.
//!
//! What happens in them is rare among random runs: a message comes late by seconds and still over the same connection, an
//! agent is cut off from all but its clients, and a client reads there while another writes at the new owner. Each begins
//! with an object on server S; without a guard the calm run breaks, with it every run of the enumeration holds.

use std::time::Duration;

use super::clock::{MS, S as SECOND, Time};
use super::directed_copies;
use super::directed_pool;
use super::faults::{Fate, Site};
use super::script::{After, Deed, Script};

/// The owner, and the server that it moves the object to.
pub(super) const S: usize = 0;
pub(super) const D: usize = 1;
/// Where the object goes on to.
const E: usize = 2;
/// The librarian among the parties; an agent is one more than its number.
pub(super) const LIBRARIAN: usize = 0;

/// Who writes, and who reads at the old owner.
pub(super) const WRITER: usize = 0;
pub(super) const READER: usize = 1;

/// When the object rests on S and nothing of its way there is left: what is done before is no concern of a run.
pub(super) const BEGINS: Time = 6 * SECOND;

/// Reads between the commit and the end of what S may show: 2 s, and a little.
const READS: u64 = 50;
const READ_EVERY: Time = 60 * MS;

/// Runs by name, for a seed that decides latencies, clocks and when the servers hear what is wished.
#[must_use]
pub fn directed(seed: u64) -> Vec<(&'static str, Script)> {
    let mut runs = of_moves(seed);
    runs.extend(directed_pool::runs(seed));
    runs.extend(directed_copies::runs(seed));
    runs
}

/// Those about a move.
pub(super) fn of_moves(seed: u64) -> Vec<(&'static str, Script)> {
    vec![
        ("source is cut off", source_is_cut_off(seed)),
        (
            "source does not reach the librarian",
            source_does_not_reach_librarian(seed),
        ),
        (
            "destination restarts in its wait",
            destination_restarts_in_its_wait(seed),
        ),
        ("not committed comes late", not_committed_comes_late(seed)),
        ("first answer comes late", first_answer_comes_late(seed)),
        ("reply to the opening is lost", reply_to_opening_is_lost(seed)),
        ("reply to the commit is lost", reply_is_lost(seed, "commit sent")),
        ("commit is not answered", commit_is_not_answered(seed)),
        ("commit overtakes the return", commit_overtakes_return(seed)),
        ("fence is answered two moves late", fence_is_answered_late(seed)),
        ("fence comes two moves late", fence_comes_late(seed)),
        ("sealed source restarts", sealed_source_restarts(seed)),
        ("move is aborted and begun again", move_is_begun_again(seed)),
        ("copy is overtaken", copy_is_overtaken(seed)),
        ("copy is written wrongly", copy_is_written_wrongly(seed)),
        ("object returns in the grace period", object_returns(seed)),
        ("object is wished on at once", object_is_wished_on(seed)),
        ("write is repeated after the move", write_is_repeated(seed)),
        ("registry is restored in a move", registry_is_restored(seed)),
        ("registry is lost in a move", registry_is_lost(seed)),
        ("updates of before come after the opening", updates_of_before(seed)),
        ("old librarian answers on", old_librarian_answers_on(seed)),
    ]
}

/// An object on S, made at `home`, which the writer asks first; the reader asks S. D is wished to have it.
pub(super) fn moves(seed: u64, home: usize, after: Vec<After>) -> Script {
    let deeds = vec![
        (SECOND, Deed::Put(WRITER, 0)),
        (1_400 * MS, Deed::Move(0, S)),
        (3 * SECOND, Deed::Put(WRITER, 0)),
        (BEGINS, Deed::Move(0, D)),
    ];
    Script {
        deeds,
        clients: 2,
        knows: vec![(WRITER, home), (READER, S)],
        after,
        ends: BEGINS + 10 * SECOND,
        ..Script::quiet(seed, 1, &[])
    }
}

/// A deed at the n-th such step, or so long after it began.
pub(super) fn after(step: &'static str, nth: u64, pause: Time, deed: Deed) -> After {
    After {
        from: BEGINS,
        step,
        nth,
        pause,
        deed,
    }
}

/// Nothing passes from one party to the other for so long, but the other way it does.
pub(super) fn cut(from: usize, to: usize, milliseconds: u64) -> Deed {
    // An even number of milliseconds cuts both ways.
    Deed::Befall(Fate::Partition(from, to, Duration::from_millis(milliseconds | 1)))
}

pub(super) fn agent(number: usize) -> usize {
    number + 1
}

pub(super) fn late(milliseconds: u64) -> Fate {
    Fate::Late(Duration::from_millis(milliseconds))
}

/// From the n-th commit on the reader reads at S, which hears nothing of it but from D, if at all; as soon as the new owner
/// opens its writes the writer writes there.
fn reads_at_source(commit: u64, opening: u64) -> Vec<After> {
    let mut deeds = vec![
        after("commit sent", commit, 0, cut(agent(S), LIBRARIAN, 6_000)),
        after("open", opening, MS, Deed::Put(WRITER, 0)),
    ];
    deeds.extend(reads(0, commit));
    deeds
}

/// Reads at S, from so long after the n-th commit was sent on.
fn reads(pause: Time, commit: u64) -> impl Iterator<Item = After> {
    (0..READS).map(move |number| {
        let pause = pause + number * READ_EVERY;
        after("commit sent", commit, pause, Deed::Read(READER, 0))
    })
}

/// S learns of the commit from nobody, and shows the object until the 2 s are over.
fn source_is_cut_off(seed: u64) -> Script {
    let mut deeds = reads_at_source(1, 1);
    deeds.push(after("commit sent", 1, 0, cut(agent(D), agent(S), 6_000)));
    moves(seed, D, deeds)
}

/// S learns of the commit by the fence alone.
fn source_does_not_reach_librarian(seed: u64) -> Script {
    moves(seed, D, reads_at_source(1, 1))
}

/// D crashes right after it has taken the object, and comes back while S may still show it.
fn destination_restarts_in_its_wait(seed: u64) -> Script {
    let mut deeds = reads_at_source(1, 1);
    deeds.push(after("commit sent", 1, 0, cut(agent(D), agent(S), 6_000)));
    deeds.push(after("taken", 1, 10 * MS, Deed::Befall(Fate::Crash(D))));
    moves(seed, D, deeds)
}

/// The commit lands right after the librarian has answered S "not committed", and that answer takes most of a second.
fn not_committed_comes_late(seed: u64) -> Script {
    let mut deeds = vec![
        after("commit sent", 1, 0, Deed::Arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 100 * MS, cut(agent(D), agent(S), 9_000)),
        after("commit sent", 1, 300 * MS, Deed::Arm(Site::Answer, late(900))),
        after("commit sent", 1, 600 * MS, Deed::Release),
        after("commit sent", 1, 700 * MS, cut(agent(S), LIBRARIAN, 6_000)),
        after("open", 1, MS, Deed::Put(WRITER, 0)),
    ];
    deeds.extend(reads(700 * MS, 1));
    moves(seed, D, deeds)
}

/// What the librarian said before the move was opened arrives when S is sealed and the commit is on its way.
fn first_answer_comes_late(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, Deed::Arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 0, cut(agent(D), LIBRARIAN, 2_500)),
        after("active", 1, 20 * MS, Deed::Put(WRITER, 0)),
        after("active", 1, 60 * MS, Deed::Release),
    ];
    let mut script = moves(seed, S, deeds);
    script.deeds.push((BEGINS, Deed::Arm(Site::Answer, late(4_000))));
    script.ends = BEGINS + 16 * SECOND;
    script
}

/// The update behind this step lands, and its reply is lost: sent again, it is refused.
fn reply_is_lost(seed: u64, step: &'static str) -> Script {
    let deeds = vec![
        after(step, 1, 0, Deed::Arm(Site::Answer, Fate::Lost)),
        after("open", 1, 100 * MS, Deed::Put(WRITER, 0)),
    ];
    moves(seed, S, deeds)
}

/// The same, and the wish is taken back before S hears of the refusal: nothing but this move brings the register to rest.
fn reply_to_opening_is_lost(seed: u64) -> Script {
    let mut script = reply_is_lost(seed, "moving");
    script.after.push(after("moving", 1, 500 * MS, Deed::Move(0, S)));
    script
}

/// The commit lands, and D hears nothing of the librarian for longer than it sends it again.
fn commit_is_not_answered(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, cut(LIBRARIAN, agent(D), 10_000)),
        after("open", 1, 100 * MS, Deed::Put(WRITER, 0)),
    ];
    Script {
        ends: BEGINS + 16 * SECOND,
        ..moves(seed, S, deeds)
    }
}

/// A writer waits, so S takes the move back; that change does not get through, and the commit does. S hears nothing of it.
fn commit_overtakes_return(seed: u64) -> Script {
    let other = READER + 1;
    let mut deeds = vec![
        after("commit sent", 1, 0, Deed::Arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 20 * MS, Deed::Put(WRITER, 0)),
        after("commit sent", 1, 50 * MS, cut(agent(S), LIBRARIAN, 6_000)),
        after("commit sent", 1, 400 * MS, cut(agent(D), agent(S), 6_000)),
        after("commit sent", 1, 500 * MS, Deed::Release),
        after("open", 1, MS, Deed::Put(other, 0)),
    ];
    deeds.extend(reads(500 * MS, 1));
    Script {
        clients: 3,
        knows: vec![(WRITER, S), (READER, S), (other, D)],
        ..moves(seed, S, deeds)
    }
}

/// There, back and there again; before the last move is fenced, D hears that S has answered the fence of the first.
fn fence_is_answered_late(seed: u64) -> Script {
    let mut deeds = reads_at_source(3, 3);
    deeds.extend([
        after("moved", 1, 0, Deed::Arm(Site::Peer, Fate::Held)),
        after("open", 1, 100 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Move(0, D)),
        after("commit sent", 3, 0, cut(agent(D), agent(S), 6_000)),
        after("taken", 3, 100 * MS, Deed::Release),
    ]);
    Script {
        ends: BEGINS + 18 * SECOND,
        ..moves(seed, D, deeds)
    }
}

/// There, back and there again; while S copies for the last move, the fence of the first reaches it.
fn fence_comes_late(seed: u64) -> Script {
    let deeds = vec![
        after("taken", 1, 0, Deed::Arm(Site::Peer, Fate::Held)),
        after("open", 1, 100 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Move(0, D)),
        after("moving", 3, 0, cut(agent(D), LIBRARIAN, 3_000)),
        after("moving", 3, 300 * MS, Deed::Release),
    ];
    Script {
        ends: BEGINS + 18 * SECOND,
        ..moves(seed, S, deeds)
    }
}

/// S crashes while the commit is on its way, and is asked to write when it is back.
fn sealed_source_restarts(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, cut(agent(D), LIBRARIAN, 3_500)),
        after("commit sent", 1, 50 * MS, Deed::Befall(Fate::Crash(S))),
        after("commit sent", 1, 2_500 * MS, Deed::Put(WRITER, 0)),
    ];
    moves(seed, S, deeds)
}

/// A writer waits while the commit does not get through: the move is taken back, begun again, and then the commit lands.
fn move_is_begun_again(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, Deed::Arm(Site::Update, Fate::Held)),
        after("commit sent", 1, 20 * MS, Deed::Put(WRITER, 0)),
        after("commit sent", 2, 0, Deed::Release),
        after("open", 1, 100 * MS, Deed::Put(WRITER, 0)),
    ];
    moves(seed, S, deeds)
}

/// The first copy is overtaken by a later one, and arrives while S makes its seal durable.
fn copy_is_overtaken(seed: u64) -> Script {
    let deeds = vec![
        after("moving", 1, 0, Deed::Arm(Site::Copy, Fate::Held)),
        after("moving", 1, 300 * MS, Deed::Put(WRITER, 0)),
        after("sealed", 1, 0, Deed::Arm(Site::Disk, late(300))),
        after("sealed", 1, 0, Deed::Release),
    ];
    moves(seed, S, deeds)
}

/// D's disk writes something else than it was given.
fn copy_is_written_wrongly(seed: u64) -> Script {
    let deeds = vec![
        after("moving", 1, 0, Deed::Arm(Site::Staging, Fate::Miswritten)),
        after("open", 1, 100 * MS, Deed::Read(READER, 0)),
    ];
    moves(seed, S, deeds)
}

/// The object is back on S before the copy that S gave away is removed.
fn object_returns(seed: u64) -> Script {
    let deeds = vec![
        after("open", 1, 20 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Put(WRITER, 0)),
    ];
    moves(seed, S, deeds)
}

/// D is wished to pass the object on to E while S may still show it.
fn object_is_wished_on(seed: u64) -> Script {
    let mut deeds = reads_at_source(1, 2);
    deeds.extend([
        after("commit sent", 1, 0, cut(agent(D), agent(S), 6_000)),
        after("taken", 1, 0, Deed::Move(0, E)),
        after("taken", 2, 5 * MS, Deed::Put(WRITER, 0)),
    ]);
    Script {
        agents: 3,
        ..moves(seed, E, deeds)
    }
}

/// The answer to a write is lost, so it is repeated, at the new owner.
fn write_is_repeated(seed: u64) -> Script {
    let mut script = moves(seed, S, Vec::new());
    script.deeds.extend([
        (BEGINS, Deed::Arm(Site::Reply, Fate::Lost)),
        (BEGINS, Deed::Put(WRITER, 0)),
    ]);
    script.ends = BEGINS + 14 * SECOND;
    script
}

/// The registry is older than the move when S is sealed and the commit is about to land.
fn registry_is_restored(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, Deed::Restore),
        after("commit sent", 1, 50 * MS, Deed::Put(WRITER, 0)),
        after("commit sent", 1, 8_000 * MS, Deed::Move(0, D)),
        after("open", 1, 100 * MS, Deed::Put(WRITER, 0)),
    ];
    let mut script = moves(seed, S, deeds);
    script.deeds.push((BEGINS - SECOND, Deed::Backup));
    script.ends = BEGINS + 16 * SECOND;
    script
}

/// The commit has landed and D does not know it when the registry is lost; S is deleted from while it is made anew.
fn registry_is_lost(seed: u64) -> Script {
    let deeds = vec![
        after("commit sent", 1, 0, Deed::Arm(Site::Answer, Fate::Lost)),
        after("commit sent", 1, 20 * MS, Deed::Rebuild),
        after("commit sent", 1, 1_000 * MS, Deed::Delete(WRITER, 0)),
        after("commit sent", 1, 6_000 * MS, Deed::Read(READER, 0)),
    ];
    let mut script = moves(seed, S, deeds);
    script.ends = BEGINS + 16 * SECOND;
    script
}

/// What opened and committed a move comes once more, when that move is undone by a restored registry.
fn updates_of_before(seed: u64) -> Script {
    let deeds = vec![
        after("moving", 1, 0, Deed::Arm(Site::Update, Fate::Kept)),
        after("commit sent", 1, 0, Deed::Arm(Site::Update, Fate::Kept)),
        after("commit sent", 1, 0, cut(LIBRARIAN, agent(D), 400)),
        after("commit sent", 1, 50 * MS, Deed::Restore),
        after("commit sent", 1, 10_000 * MS, Deed::Release),
        after("commit sent", 1, 11_000 * MS, Deed::Put(WRITER, 0)),
    ];
    let mut script = moves(seed, S, deeds);
    script.deeds.push((BEGINS - SECOND, Deed::Backup));
    script.ends = BEGINS + 20 * SECOND;
    script
}

/// The librarian hands over to a new process, which takes the commit; S goes on asking the old one, if it answers.
fn old_librarian_answers_on(seed: u64) -> Script {
    let mut deeds = vec![
        after("commit sent", 1, 0, Deed::Handover(S)),
        after("commit sent", 1, 0, cut(agent(D), agent(S), 6_000)),
        after("open", 1, MS, Deed::Put(WRITER, 0)),
    ];
    deeds.extend(reads(0, 1));
    moves(seed, D, deeds)
}
