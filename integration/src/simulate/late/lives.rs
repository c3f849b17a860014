//! An object is deleted while it moves, or a server restarts, and what comes then was meant for the time before.

use super::super::clock::{MS, S as SECOND, Time};
use super::super::dice;
use super::super::directed::{D, LIBRARIAN, READER, S, WRITER, after, agent, cut, late as slow, moves};
use super::super::faults::{Fate, Site};
use super::super::script::{After, Deed, Script};
use super::super::tricks::{HERE, Trick, Which};
use super::{LARGE, LOCAL, SMALL, again, arm, mute, one_move, slowly, there_and_back, with_local};

/// Another small object.
const OTHER: usize = 2;

pub(super) fn runs(seed: u64) -> Vec<(String, Script)> {
    let mut runs = vec![
        ("object is deleted elsewhere", deleted_elsewhere(seed, Returns::Not)),
        (
            "object is deleted elsewhere and its return refused",
            deleted_elsewhere(seed, Returns::Refused),
        ),
        (
            "object is deleted elsewhere and its return never answered",
            deleted_elsewhere(seed, Returns::Unanswered),
        ),
        (
            "object is deleted elsewhere and the disk is full",
            deleted_on_full_disk(seed),
        ),
        ("object is deleted in its return", deleted_in_return(seed)),
        ("write ends in the return", given_up(seed, Deed::Put(LOCAL, 0), false)),
        (
            "write ends at the noting of the return",
            given_up(seed, Deed::Put(LOCAL, 0), true),
        ),
        (
            "deletion ends in the return",
            given_up(seed, Deed::Delete(LOCAL, 0), false),
        ),
        (
            "fence is answered to who has restarted",
            fence_answered_after_restart(seed),
        ),
    ]
    .into_iter()
    .map(|(name, script)| (name.to_owned(), script))
    .collect::<Vec<_>>();
    for what in ["Staged", "Damaged", "Refused", "Ready", "Reserved"] {
        runs.push((
            format!("source has restarted and hears {what}"),
            source_restarts(seed, what),
        ));
    }
    runs
}

/// What becomes of a return that S has sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Returns {
    /// None was sent.
    Not,
    Refused,
    Unanswered,
}

/// On the third move D takes the object and deletes it, and S hears of the deletion first, by its own question.
fn elsewhere() -> Vec<After> {
    let mut deeds = there_and_back().to_vec();
    deeds.extend([
        after("commit sent", 3, 0, arm(Site::Update, slow(50))),
        // D refuses the offer of the first move, which comes again.
        after("commit sent", 3, 5 * MS, again(D, Which::Kind("Reserve"))),
        after("commit sent", 3, 10 * MS, cut(agent(D), agent(S), 2_900)),
        after("commit sent", 3, 10 * MS, mute(S, 2_420)),
        after("open", 3, MS, Deed::Delete(WRITER, 0)),
    ]);
    deeds
}

fn deletion(seed: u64, deeds: Vec<After>) -> Script {
    with_local(moves(seed, D, deeds), 20)
}

/// Everything comes again while S notes that.
fn deleted_elsewhere(seed: u64, returns: Returns) -> Script {
    let mut deeds = elsewhere();
    deeds.extend([
        slowly("deleted", 1, 9_500),
        after("deleted", 1, 600 * MS, again(HERE, Which::All)),
        after("deleted", 1, 9 * SECOND, Deed::Trick(Trick::Break(S, D))),
    ]);
    match returns {
        Returns::Not => deeds.push(after("deleted", 1, 10 * MS, mute(HERE, 5_000))),
        Returns::Refused | Returns::Unanswered => deeds.extend([
            after("commit sent", 3, 20 * MS, Deed::Put(LOCAL, 0)),
            after("commit sent", 3, 40 * MS, arm(Site::Update, Fate::Lost)),
            after("commit sent", 3, 40 * MS, arm(Site::Update, Fate::Lost)),
        ]),
    }
    if returns == Returns::Unanswered {
        deeds.push(after("deleted", 1, 0, cut(agent(S), LIBRARIAN, 10_000)));
    }
    deletion(seed, deeds)
}

fn deleted_on_full_disk(seed: u64) -> Script {
    let mut deeds = elsewhere();
    deeds.push(after("deleted", 1, 0, arm(Site::Disk, Fate::Full)));
    deletion(seed, deeds)
}

/// D drops the copy that it writes; while S returns, its gate open, a client deletes the object there, and S is told of an old
/// fence, so that it asks. Its return is answered late, or refused, or not at all.
fn deleted_in_return(seed: u64) -> Script {
    let (answer, noting_ms) = match dice(seed, 1, 90) % 3 {
        0 => (slow(1_900), 3_000),
        1 => (Fate::Lost, 3_000),
        _ => (Fate::Lost, 10_000),
    };
    let mut deeds = vec![
        after("open", 1, 100 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Move(0, D)),
        slowly("write copies", 3, 200),
        after("write copies", 3, 20 * MS, arm(Site::Answer, answer)),
        after("write copies", 3, 20 * MS, again(D, Which::Kind("Reserve"))),
        after("write copies", 3, 60 * MS, Deed::Delete(LOCAL, 0)),
        after("write copies", 3, 200 * MS, again(S, Which::Kind("Fenced"))),
        slowly("deleted", 1, noting_ms),
    ];
    if noting_ms > 9_900 {
        deeds.push(after("deleted", 1, 0, cut(LIBRARIAN, agent(S), 9_900)));
    }
    one_move(seed, SMALL, 20, deeds)
}

/// The gate does not close since a write or a deletion is slow; D drops the move, and then that ends.
fn given_up(seed: u64, deed: Deed, noted: bool) -> Script {
    // A deletion has two commits: before and behind the change of the register.
    let last = if matches!(deed, Deed::Delete(..)) { 2 } else { 1 };
    let mut deeds = vec![
        after("open", 1, 100 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Move(0, D)),
        slowly("write copies", 3, 40),
        after("write copies", 3, 5 * MS, deed),
        after("commit", last, 0, arm(Site::Disk, Fate::Held)),
        after("write copies", 3, 100 * MS, arm(Site::Update, slow(400))),
        after("write copies", 3, 150 * MS, again(D, Which::Kind("Reserve"))),
    ];
    match noted {
        true => deeds.extend([slowly("active", 1, 300), after("active", 1, 60 * MS, Deed::Release)]),
        false => deeds.push(after("write copies", 3, 300 * MS, Deed::Release)),
    }
    one_move(seed, SMALL, 12, deeds)
}

/// S is slow to note that it has stopped, and D restarts before it hears so.
fn fence_answered_after_restart(seed: u64) -> Script {
    let deeds = vec![
        slowly("moved", 1, 5_000),
        after("moved", 1, 20 * MS, Deed::Befall(Fate::Crash(D))),
        after("moved", 1, 30 * MS, mute(D, 9_000)),
        after("moved", 1, 2_300 * MS, Deed::Move(OTHER, D)),
    ];
    connected(one_move(seed, SMALL, 16, deeds))
}

/// Another object on S, whose move makes a connection after a restart.
fn connected(mut script: Script) -> Script {
    script.objects = OTHER + 1;
    script.deeds.push((SECOND, Deed::Put(READER, OTHER)));
    script.deeds.push((1_500 * MS, Deed::Move(OTHER, S)));
    script
}

/// S restarts and does not reach the register; D is slow, and says only then what the life before has asked for.
fn source_restarts(seed: u64, what: &'static str) -> Script {
    // S is back after 2.1 s at the latest.
    let crash = |step, pause: Time| {
        vec![
            after(step, 1, pause, Deed::Befall(Fate::Crash(S))),
            after(step, 1, pause + MS, mute(S, 12_000)),
            after(step, 1, pause + 2_300 * MS, Deed::Move(OTHER, D)),
        ]
    };
    let mut object = SMALL;
    let deeds = match what {
        "Ready" => {
            let mut deeds = crash("moving", 40 * MS);
            deeds.push(after("moving", 1, 0, mute(D, 5_000)));
            deeds
        }
        "Reserved" => {
            // The reservation runs out while S notes the move; the offer comes once more, and is noted for long.
            object = LARGE;
            let mut deeds = crash("active", 50 * MS);
            deeds.extend([
                slowly("moving", 1, 11_500),
                slowly("active", 1, 300),
                after("moving", 1, 10_700 * MS, again(D, Which::Kind("Reserve"))),
                slowly("reserved", 2, 7_000),
            ]);
            deeds
        }
        what => {
            let mut deeds = crash("write copies", 50 * MS);
            match what {
                // It says, too, that it has dropped the copy.
                "Refused" => deeds.extend([
                    after("write copies", 1, 0, arm(Site::Disk, Fate::Held)),
                    after("write copies", 1, 6_000 * MS, arm(Site::Disk, Fate::Full)),
                    after("write copies", 1, 6_000 * MS, Deed::Release),
                ]),
                _ => deeds.push(slowly("write copies", 1, 6_000)),
            }
            if what == "Damaged" {
                deeds.push(after("write copies", 1, 0, arm(Site::Staging, Fate::Miswritten)));
            }
            deeds
        }
    };
    connected(one_move(seed, object, 24, deeds))
}
