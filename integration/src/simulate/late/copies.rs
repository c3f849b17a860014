//! A copy travels twice, and the end of one comes when the move is further.

use super::super::clock::MS;
use super::super::directed::{D, S, WRITER, after, agent, cut, late as slow, moves};
use super::super::faults::{Fate, Site};
use super::super::script::{After, Deed, Script};
use super::super::tricks::Which;
use super::{LARGE, LOCAL, SMALL, again, arm, mute, of, one_move, slowly, with_local};

/// How the writing of a copy ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Written {
    Well,
    Damaged,
    NoRoom,
}

/// How the sending of a copy ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sent {
    Well,
    Unreadable,
    Broken,
}

pub(super) fn runs(seed: u64) -> Vec<(String, Script)> {
    let mut runs = vec![("stream of a copy breaks".to_owned(), stream_breaks(seed))];
    for at in [
        "prepared",
        "noting the commit",
        "commit sent",
        "taken",
        "waiting",
        "open",
    ] {
        for how in [Written::Well, Written::Damaged, Written::NoRoom] {
            runs.push((format!("copy is written at {at}, {how:?}"), written(seed, at, how)));
        }
    }
    for how in [Written::Well, Written::Damaged, Written::NoRoom] {
        runs.push((
            format!("copy is written at dropped, {how:?}"),
            written_at_drop(seed, how),
        ));
    }
    for at in ["closing", "sealed", "sent", "aborting", "active", "moved", "deleted"] {
        for how in [Sent::Well, Sent::Unreadable, Sent::Broken] {
            runs.push((format!("copy is sent at {at}, {how:?}"), sent(seed, at, how)));
        }
    }
    runs
}

fn stream_breaks(seed: u64) -> Script {
    let deeds = vec![after("moving", 1, 0, arm(Site::Staging, Fate::Lost))];
    one_move(seed, LARGE, 10, deeds)
}

/// The first copy is damaged; the second is held where it begins; S is told once more that one was damaged, and sends a third.
fn sent_twice(object: usize) -> [After; 3] {
    let damaged = after("moving", 1, 0, arm(Site::Copy, Fate::Damaged));
    let told = again(S, Which::Kind("Damaged"));
    match object {
        LARGE => [
            damaged,
            after("write large copy", 1, 0, arm(Site::Copy, Fate::Held)),
            after("write large copy", 1, 300 * MS, told),
        ],
        _ => [
            damaged,
            after("open copies", 2, 0, arm(Site::Disk, Fate::Held)),
            after("open copies", 2, 100 * MS, told),
        ],
    }
}

/// D has one copy whole, and begins to write another before it hears of the seal.
fn written(seed: u64, at: &'static str, how: Written) -> Script {
    let object = if at == "prepared" { LARGE } else { SMALL };
    let mut deeds = vec![slowly("sealed", 1, 300)];
    let (step, pause) = match at {
        "commit sent" => {
            deeds.push(after("commit sent", 1, 0, arm(Site::Update, slow(400))));
            ("commit sent", 200 * MS)
        }
        "waiting" => {
            deeds.push(after("taken", 1, 0, cut(agent(S), agent(D), 1_500)));
            ("taken", 300 * MS)
        }
        at => {
            let step = if at == "noting the commit" { "commit sent" } else { at };
            deeds.push(slowly(step, 1, 300));
            (step, 50 * MS)
        }
    };
    let end = match how {
        Written::Well => None,
        Written::Damaged => Some(arm(Site::Staging, Fate::Miswritten)),
        Written::NoRoom if object == LARGE => Some(arm(Site::Staging, Fate::Full)),
        Written::NoRoom => Some(arm(Site::Disk, Fate::Full)),
    };
    if object == LARGE {
        deeds.extend(sent_twice(LARGE));
        deeds.extend(end.map(|end| after("sealed", 1, 50 * MS, end)));
        deeds.push(after("sealed", 1, 50 * MS, Deed::Release));
        deeds.push(after("write large copy", 3, 0, arm(Site::Disk, Fate::Held)));
    } else {
        deeds.push(after("sealed", 1, 50 * MS, again(D, Which::Kind("Copy"))));
        deeds.push(after("write copies", 2, 0, arm(Site::Disk, Fate::Held)));
        deeds.extend(end.map(|end| after(step, 1, pause, end)));
    }
    deeds.push(after(step, 1, pause, Deed::Release));
    one_move(seed, object, 12, deeds)
}

/// S has asked what became of its copy, is told again and again that it was damaged, and gives the move up while D writes it.
fn written_at_drop(seed: u64, how: Written) -> Script {
    let end = match how {
        Written::Well => None,
        Written::Damaged => Some(Fate::Miswritten),
        Written::NoRoom => Some(Fate::Full),
    };
    let mut deeds = vec![
        after("moving", 1, 0, arm(Site::Copy, Fate::Damaged)),
        after("write large copy", 2, 0, arm(Site::Disk, Fate::Held)),
        after("write large copy", 2, 1_210 * MS, again(S, Which::Kind("Damaged"))),
        after("write large copy", 2, 1_220 * MS, again(S, Which::Kind("Damaged"))),
        slowly("dropped", 1, 300),
        after("dropped", 1, 20 * MS, again(D, Which::All)),
        after("dropped", 1, 50 * MS, Deed::Release),
    ];
    deeds.extend(end.map(|fate| after("write large copy", 1, MS, arm(Site::Staging, fate))));
    one_move(seed, LARGE, 12, deeds)
}

/// D has the third copy whole, and S hears now how the second ended.
fn sent(seed: u64, at: &'static str, how: Sent) -> Script {
    let (object, written) = match how {
        Sent::Well | Sent::Unreadable => (SMALL, "write copies"),
        Sent::Broken => (LARGE, "write large copy"),
    };
    let mut deeds = sent_twice(object).to_vec();
    let (step, nth, pause) = match at {
        "closing" => {
            // A slow write keeps the gate from closing.
            deeds.extend([
                slowly(written, 2, 40),
                after(written, 2, 5 * MS, Deed::Put(LOCAL, 0)),
                slowly("commit", 1, 400),
            ]);
            (written, 2, 200 * MS)
        }
        "sent" => {
            deeds.push(after("commit sent", 1, 0, arm(Site::Update, slow(600))));
            ("commit sent", 1, 200 * MS)
        }
        "aborting" | "active" => {
            // A writer waits, and the commit does not get through.
            deeds.push(after("commit sent", 1, 0, arm(Site::Update, Fate::Lost)));
            deeds.push(after("commit sent", 1, 20 * MS, Deed::Put(LOCAL, 0)));
            if at == "aborting" {
                deeds.push(after("commit sent", 1, 40 * MS, arm(Site::Update, slow(900))));
                ("commit sent", 1, 700 * MS)
            } else {
                deeds.push(slowly("active", 1, 300));
                ("active", 1, 50 * MS)
            }
        }
        "deleted" => {
            deeds.extend([
                after("commit sent", 1, 0, cut(agent(D), agent(S), 2_900)),
                after("commit sent", 1, 0, mute(S, 2_420)),
                after("open", 1, MS, Deed::Delete(WRITER, 0)),
                slowly("deleted", 1, 300),
            ]);
            ("deleted", 1, 50 * MS)
        }
        step => {
            deeds.push(slowly(step, 1, 300));
            (step, 1, 50 * MS)
        }
    };
    match how {
        Sent::Well => {}
        Sent::Unreadable => deeds.push(after(step, nth, pause, Deed::Befall(Fate::Rot(S)))),
        // D would take it.
        Sent::Broken if at == "closing" || at == "sealed" => {
            deeds.push(after(step, nth, pause, arm(Site::Staging, Fate::Lost)));
        }
        Sent::Broken => {}
    }
    deeds.push(after(step, nth, pause, Deed::Release));
    let home = if at == "deleted" { D } else { S };
    with_local(of(object, moves(seed, home, deeds)), 14)
}
