//! Runs of whole upgrades: random ones, for the campaign, and directed ones, for the guards that upgrades bring.

use std::collections::BTreeSet;
use std::time::Duration;

use zones::Role;

use super::clock::{MS, S, Time};
use super::dice;
use super::faults::{Fate, KEYS, Source};
use super::operator::Steer;
use super::script::{After, Deed, Script};

/// One of so many seeds is a whole upgrade.
pub(super) const UPGRADES_OF: u64 = 16;
/// In one of so many nothing goes wrong.
const CALM_OF: u64 = 5;

/// The upgrade of a seed: a pool of any size, what a person says in its midst, and faults of these kinds.
#[must_use]
pub fn upgrade(seed: u64, kinds: &BTreeSet<&'static str>) -> Script {
    let roll = |number: u64, purpose: u64, below: u64| dice(seed, number, purpose) % below;
    let pick = |number, purpose, below: usize| usize::try_from(dice(seed, number, purpose)).unwrap_or(0) % below;
    let agents = 2 + pick(0, 320, 5);
    let free = 1 + if agents > 3 { pick(1, 320, 2) } else { 0 };
    let reserves = if agents > free + 1 { pick(2, 320, 2) } else { 0 };
    let serving = agents - free - reserves;
    let mut roles = vec![Role::Serving; serving];
    roles.extend(vec![Role::Reserve; reserves]);
    roles.extend(vec![Role::Free; free]);
    let capacities = match roll(3, 320, 3) {
        0 => (0..agents)
            .map(|agent| (2 + roll(agent as u64, 321, 6)) << 20)
            .collect(),
        _ => Vec::new(),
    };
    let (clients, objects) = (1 + pick(4, 320, 3), 1 + pick(5, 320, 10));
    let is_calm = roll(6, 320, CALM_OF) == 0;
    let ends = (60 + roll(7, 320, 90)) * S;
    let mut deeds: Vec<(Time, Deed)> = Vec::new();
    for object in 0..objects {
        deeds.push((
            300 * MS + roll(object as u64, 322, 3 * S),
            Deed::Put(object % clients, object),
        ));
    }
    for number in 0..20 + roll(8, 320, 60) {
        let at = roll(number, 323, ends);
        let (client, object) = (pick(number, 324, clients), pick(number, 325, objects));
        deeds.push((
            at,
            match roll(number, 326, 20) {
                0..=8 => Deed::Put(client, object),
                9..=18 => Deed::Read(client, object),
                _ => Deed::Delete(client, object),
            },
        ));
    }
    let first = u8::try_from(roll(9, 320, 2)).expect("below 2");
    let home = roll(10, 320, 4) == 0;
    let level = (roll(11, 320, 2) == 0).then_some(2);
    deeds.push((4 * S, Deed::Steer(Steer::Start(first + 1, home, level))));
    // Another one follows, where there is one.
    if first == 0 && roll(12, 320, 4) == 0 {
        deeds.push((ends / 2, Deed::Steer(Steer::Start(2, false, Some(3)))));
    }
    let within = |number: u64, purpose| 5 * S + roll(number, purpose, ends - 5 * S);
    for number in 0..roll(13, 320, 4) {
        let said = match roll(number, 327, 4) {
            0 => Steer::Abort,
            1 => Steer::Resume,
            _ => Steer::Pause,
        };
        deeds.push((within(number, 328), Deed::Steer(said)));
    }
    // What is done by hand is refused meanwhile.
    deeds.push((within(0, 329), Deed::Drain(pick(14, 320, agents))));
    if !is_calm {
        for number in 0..roll(15, 320, 4) {
            let server = pick(number, 330, agents);
            let pause = 200 * MS + roll(number, 331, 20 * S);
            let deed = match roll(number, 332, 6) {
                0 => Deed::Late(super::second::Late::Wants(pause)),
                1 => Deed::Late(super::second::Late::Drain(server, pause)),
                2 => Deed::Handover(server),
                3 if kinds.contains(KEYS) => Deed::Befall(Fate::Silent(server, Duration::from_micros(pause))),
                4 => Deed::Move(pick(number, 333, objects), server),
                _ => Deed::HearLate(server, pause),
            };
            deeds.push((within(number, 334), deed));
        }
        if roll(16, 320, 5) == 0 {
            let (one, other) = (within(0, 335), within(1, 335));
            deeds.push((one.min(other), Deed::Backup));
            let restored = if roll(17, 320, 3) == 0 {
                Deed::Rebuild
            } else {
                Deed::Restore
            };
            deeds.push((one.max(other), restored));
        }
    }
    deeds.sort_by_key(|(at, _)| *at);
    let rates = [0, 2, 5, 15];
    let faults = match is_calm {
        true => Source::Script(std::collections::BTreeMap::new()),
        false => Source::Random {
            rate: rates[pick(18, 320, 4)],
            kinds: kinds.clone(),
            often: None,
        },
    };
    Script {
        agents,
        releases: vec![first; agents],
        roles,
        capacities,
        copies: (roll(19, 320, 2) == 0).then_some(2),
        tells: true,
        is_calm,
        clients,
        deeds,
        ends,
        faults,
        ..Script::quiet(seed, objects, &[])
    }
}

/// Upgrades that lead to where a guard matters, by name.
#[must_use]
pub fn upgrades(seed: u64) -> Vec<(&'static str, Script)> {
    vec![
        ("upgrade while clients read", small(seed, Vec::new(), Vec::new())),
        ("room is kept at the canary", room_is_kept_at_the_canary(seed)),
    ]
}

/// Drains that lead to such a place, by name: `empty` is theirs, too.
#[must_use]
pub fn empties(seed: u64) -> Vec<(&'static str, Script)> {
    vec![
        (
            "object is made before the cordon",
            object_is_made_before_the_cordon(seed, 5_620 * MS),
        ),
        (
            "object is made before a late cordon",
            object_is_made_before_the_cordon(seed, 6_620 * MS),
        ),
    ]
}

/// When the upgrade begins.
const BEGINS: Time = 5 * S;
/// When the first server may be stopped: no answer that named it is cached any more.
const CANARY_STOPS: Time = 12 * S;

/// A server with four objects, another with one, and a free one, upgraded while clients read.
fn small(seed: u64, more: Vec<(Time, Deed)>, after: Vec<After>) -> Script {
    let mut deeds: Vec<(Time, Deed)> = (0..4)
        .map(|object| (S + object as Time * 200 * MS, Deed::Put(0, object)))
        .collect();
    deeds.push((S, Deed::Put(1, 4)));
    deeds.push((BEGINS, Deed::Steer(Steer::Start(1, false, None))));
    deeds.extend((0..200).map(|number| (2 * S + number * 400 * MS, Deed::Read(2, number as usize % 5))));
    deeds.extend(more);
    deeds.sort_by_key(|(at, _)| *at);
    Script {
        agents: 3,
        roles: vec![Role::Serving, Role::Serving, Role::Free],
        tells: true,
        is_calm: true,
        clients: 3,
        knows: vec![(0, 0), (1, 1)],
        deeds,
        after,
        ends: 90 * S,
        ..Script::quiet(seed, 6, &[])
    }
}

/// An object is made on a server that has just said that it holds none, right before it is cordoned, and what it says afterwards
/// is lost: only the register knows.
fn object_is_made_before_the_cordon(seed: u64, at: Time) -> Script {
    // An odd number of milliseconds cuts one way.
    let cut = Fate::Partition(1, 0, Duration::from_millis(3_901));
    Script {
        agents: 3,
        roles: vec![Role::Serving, Role::Serving, Role::Free],
        tells: true,
        clients: 2,
        knows: vec![(0, 0), (1, 1)],
        deeds: vec![
            (S, Deed::Put(1, 1)),
            (4 * S, Deed::Drain(0)),
            (at, Deed::Put(0, 0)),
            (at + 200 * MS, Deed::Befall(cut)),
        ],
        ends: 20 * S,
        ..Script::quiet(seed, 2, &[])
    }
}

/// An object is wished onto the free server right before that is stopped, and the one that offers it is cut off: room is kept
/// for it until it is not heard of any more.
fn room_is_kept_at_the_canary(seed: u64) -> Script {
    let cut = Fate::Partition(1, 3, Duration::from_millis(6_000));
    let after = vec![After {
        from: BEGINS,
        step: "reserved",
        nth: 1,
        pause: 5 * MS,
        deed: Deed::Befall(cut),
    }];
    Script {
        is_calm: false,
        ..small(seed, vec![(CANARY_STOPS - 400 * MS, Deed::Move(1, 2))], after)
    }
}
