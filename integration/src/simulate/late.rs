//! Runs in which messages, answers and copies come when they are rare: while one step is being made durable.
//!
//! A step takes a millisecond or two, so that a random run hardly ever has a late message arrive in it. Here steps are slow,
//! and what was said before comes again just then. Each run is one move of an object from server S to D with few things done
//! to it, or moves to and fro. What a guard is for is shown elsewhere (`directed`); these runs meet every pair of state and
//! event that can be met.
//!
//! | file | what comes late |
//! |---|---|
//! | this one | what a peer said |
//! | `answers` | what the librarian says |
//! | `copies` | the end of a copy, at who sends and at who takes it |
//! | `lives` | anything, when the object is deleted or a server has restarted |

mod answers;
mod copies;
mod lives;

use std::time::Duration;

use super::clock::{MS, S as SECOND, Time};
use super::dice;
use super::directed::{BEGINS, D, S, WRITER, after, late as slow, moves};
use super::faults::{Fate, Site};
use super::script::{After, Deed, Script};
use super::tricks::{HERE, Trick, Which};

/// Steps of both sides.
const STEPS: [&str; 12] = [
    "moving",
    "sealed",
    "active",
    "moved",
    "deleted",
    "reserved",
    "staged",
    "prepared",
    "commit sent",
    "taken",
    "open",
    "dropped",
];

/// The object whose copy goes in a frame, and the one whose copy goes on a stream of its own.
const SMALL: usize = 0;
const LARGE: usize = 1;
/// A client whose resolver knows S.
const LOCAL: usize = 2;

/// Runs by name, for a seed that decides what the scripts leave open.
#[must_use]
pub fn late(seed: u64) -> Vec<(String, Script)> {
    let mut runs = vec![
        ("all is said again".to_owned(), said_again(seed, SMALL)),
        (
            "all is said again of a large object".to_owned(),
            said_again(seed, LARGE),
        ),
        ("something is said again".to_owned(), something_again(seed, SMALL)),
        (
            "something is said again of a large object".to_owned(),
            something_again(seed, LARGE),
        ),
        ("no space is left".to_owned(), no_space(seed)),
        ("forgotten move is offered again".to_owned(), offered_again(seed, SMALL)),
        (
            "forgotten move of a large object is offered again".to_owned(),
            offered_again(seed, LARGE),
        ),
    ];
    for step in ["prepared", "commit sent", "taken", "open"] {
        runs.push((format!("connection breaks at {step}"), breaks(seed, step)));
    }
    runs.extend(answers::runs(seed));
    runs.extend(copies::runs(seed));
    runs.extend(lives::runs(seed));
    runs
}

/// The same with this object in the place of the first.
fn of(object: usize, mut script: Script) -> Script {
    let instead = |deed: Deed| match deed {
        Deed::Put(client, 0) => Deed::Put(client, object),
        Deed::Read(client, 0) => Deed::Read(client, object),
        Deed::Delete(client, 0) => Deed::Delete(client, object),
        Deed::Move(0, to) => Deed::Move(object, to),
        deed => deed,
    };
    for (_, deed) in &mut script.deeds {
        *deed = instead(*deed);
    }
    for after in &mut script.after {
        after.deed = instead(after.deed);
    }
    script.objects = object + 1;
    script
}

/// A move of an object from S to D; deeds go on for so many seconds.
fn one_move(seed: u64, object: usize, seconds: Time, deeds: Vec<After>) -> Script {
    with_local(of(object, moves(seed, S, deeds)), seconds)
}

fn with_local(mut script: Script, seconds: Time) -> Script {
    script.clients = LOCAL + 1;
    script.knows.push((LOCAL, S));
    script.ends = BEGINS + seconds * SECOND;
    script
}

fn again(agent: usize, which: Which) -> Deed {
    Deed::Trick(Trick::Repeat(agent, which))
}

fn mute(agent: usize, milliseconds: u64) -> Deed {
    Deed::Trick(Trick::Mute(agent, Duration::from_millis(milliseconds)))
}

fn arm(site: Site, fate: Fate) -> Deed {
    Deed::Arm(site, fate)
}

/// The n-th such step takes so long.
fn slowly(step: &'static str, nth: u64, milliseconds: u64) -> After {
    after(step, nth, 0, arm(Site::Disk, slow(milliseconds)))
}

/// There and back, and there again. On the first way D says all that it can say, but for a refusal.
fn there_and_back() -> [After; 4] {
    [
        after("moving", 1, 0, arm(Site::Copy, Fate::Damaged)),
        after("commit sent", 1, 0, arm(Site::Update, slow(700))),
        after("open", 1, 100 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Move(0, D)),
    ]
}

/// There and back, many times; a later copy finds no room.
fn to_and_fro(seed: u64, object: usize, mut deeds: Vec<After>) -> Script {
    deeds.extend(there_and_back());
    for (open, to) in (3..10).zip([S, D].into_iter().cycle()) {
        deeds.push(after("open", open, 100 * MS, Deed::Move(0, to)));
    }
    let full = if object == LARGE { "reserved" } else { "write copies" };
    deeds.push(after(full, 4, 0, arm(Site::Disk, Fate::Full)));
    one_move(seed, object, 24, deeds)
}

/// Every step is slow, and while it lasts everything comes again that its agent was ever told.
fn said_again(seed: u64, object: usize) -> Script {
    let mut deeds = Vec::new();
    for (number, step) in (0..).zip(STEPS) {
        let pause = 100 + dice(seed, number, 80) % 300;
        deeds.push(slowly(step, 0, pause));
        deeds.push(after(step, 0, 60 * MS, again(HERE, Which::All)));
    }
    to_and_fro(seed, object, deeds)
}

/// Now and then something comes again, and what settles a state is slow.
fn something_again(seed: u64, object: usize) -> Script {
    let mut script = to_and_fro(seed, object, Vec::new());
    let someone = |roll: u64| if roll.is_multiple_of(2) { S } else { D };
    let sometime = |roll: u64| BEGINS + 2 * SECOND + roll % (20 * SECOND);
    for number in 0..160 {
        let at = sometime(dice(seed, number, 81));
        script
            .deeds
            .push((at, again(someone(dice(seed, number, 82)), Which::Any)));
    }
    for (number, site) in (0..60).zip([Site::Peer, Site::Answer, Site::Update].into_iter().cycle()) {
        let at = sometime(dice(seed, number, 83));
        script.deeds.push((at, arm(site, slow(dice(seed, number, 84) % 300))));
        let then = at + dice(seed, number, 86) % (150 * MS);
        script
            .deeds
            .push((then, again(someone(dice(seed, number, 85)), Which::All)));
    }
    script
}

/// D has no room for what S offers.
fn no_space(seed: u64) -> Script {
    let mut script = one_move(seed, SMALL, 4, Vec::new());
    script.deeds.push((BEGINS - SECOND, Deed::Trick(Trick::Fill(D))));
    script
}

/// D drops a move, is offered it anew by what S said before, and told what followed in any order.
fn offered_again(seed: u64, object: usize) -> Script {
    let mut deeds = vec![
        // A first move gives another offer, which makes D drop this one.
        after("moving", 1, 0, arm(Site::Copy, Fate::Damaged)),
        after("open", 1, 100 * MS, Deed::Move(0, S)),
        after("open", 2, 100 * MS, Deed::Move(0, D)),
        // This one is sealed and asked about, and given up since a writer waits.
        after("commit sent", 3, 0, arm(Site::Update, Fate::Lost)),
        after("commit sent", 3, 1_200 * MS, Deed::Put(WRITER, 0)),
        slowly("reserved", 0, 150),
    ];
    let kinds = ["Reserve", "Open", "Seal", "Ask", "FenceAnswered", "Abort"];
    for number in 0..40 {
        let kind = match number % 4 {
            0 => kinds[0],
            _ => kinds[usize::try_from(dice(seed, number, 87) % 6).expect("small")],
        };
        let pause = 1_500 * MS + 400 * MS * (number / 4) + (number % 4) * (MS + dice(seed, number, 88) % (3 * MS));
        deeds.push(after("commit sent", 3, pause, again(D, Which::Kind(kind))));
    }
    one_move(seed, object, 20, deeds)
}

/// The connection breaks while D notes this.
fn breaks(seed: u64, step: &'static str) -> Script {
    let deeds = vec![
        slowly(step, 1, 400),
        after(step, 1, 50 * MS, Deed::Trick(Trick::Break(S, D))),
    ];
    one_move(seed, LARGE, 10, deeds)
}
