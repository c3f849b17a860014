//! Runs that lead the pool to where one guard of plans, wants and roles (DESIGN.md section 15) matters.
//!
//! Two servers serve, the third is free. Each run holds with all guards; without one of them it breaks.

use std::time::Duration;

use super::clock::{MS, S as SECOND, Time};
use super::faults::Fate;
use super::script::{After, Deed, Script};
use super::second::Late;

/// The server that is drained, the other one with objects, and the free one.
const DRAINED: usize = 0;
const OTHER: usize = 1;
const FREE: usize = 2;

/// Who makes objects on which of them.
const AT_DRAINED: usize = 0;
const AT_OTHER: usize = 1;
const AT_FREE: usize = 2;

/// When the objects are made and nothing is under way.
const BEGINS: Time = 4 * SECOND;

/// Runs by name, for a seed that decides latencies, clocks and when the servers hear what is wished.
pub(super) fn runs(seed: u64) -> Vec<(&'static str, Script)> {
    vec![
        ("wish names a server that drains", wish_names_draining_server(seed)),
        ("object is made on the free server", object_is_made_on_free_server(seed)),
        ("two plans have one parent", two_plans_have_one_parent(seed)),
        ("freeze is written late", freeze_is_written_late(seed)),
        ("want is written late", want_is_written_late(seed)),
        ("drained server misses a plan", drained_server_misses_a_plan(seed)),
        (
            "drained server hears an old plan",
            drained_server_hears_an_old_plan(seed),
        ),
        ("drain is turned round twice", drain_is_turned_round_twice(seed)),
    ]
}

/// Four objects on the server that is drained, one on the other; then these deeds.
fn drain(seed: u64, deeds: Vec<(Time, Deed)>, after: Vec<After>) -> Script {
    let mut all: Vec<(Time, Deed)> = (0..4)
        .map(|object| (SECOND + object as Time * 200 * MS, Deed::Put(AT_DRAINED, object)))
        .collect();
    all.push((SECOND, Deed::Put(AT_OTHER, 4)));
    all.extend(deeds);
    Script {
        agents: 3,
        one_is_free: true,
        clients: 3,
        knows: vec![(AT_DRAINED, DRAINED), (AT_OTHER, OTHER), (AT_FREE, FREE)],
        deeds: all,
        after,
        ends: BEGINS + 14 * SECOND,
        ..Script::quiet(seed, 5, &[])
    }
}

/// A deed so long after the first move of the drain has begun.
fn in_drain(pause: Time, deed: Deed) -> After {
    After {
        from: BEGINS,
        step: "moving",
        nth: 1,
        pause,
        deed,
    }
}

/// An object of the other server is wished onto the one that drains.
fn wish_names_draining_server(seed: u64) -> Script {
    let wish = in_drain(10 * MS, Deed::Move(4, DRAINED));
    drain(seed, vec![(BEGINS, Deed::Drain(DRAINED))], vec![wish])
}

/// The free server is asked to make an object before it has heard that it is free.
fn object_is_made_on_free_server(seed: u64) -> Script {
    Script {
        objects: 6,
        ..drain(
            seed,
            vec![(MS, Deed::Put(AT_FREE, 5)), (BEGINS, Deed::Drain(DRAINED))],
            Vec::new(),
        )
    }
}

/// A second controller wants the other server drained into the same free one.
fn two_plans_have_one_parent(seed: u64) -> Script {
    let late = Deed::Late(Late::Drain(OTHER, 2_500 * MS));
    drain(
        seed,
        vec![(BEGINS, late), (BEGINS + MS, Deed::Drain(DRAINED))],
        Vec::new(),
    )
}

/// A second controller begins the plan anew when its objects have moved.
fn freeze_is_written_late(seed: u64) -> Script {
    let late = Deed::Late(Late::Wants(5_000 * MS));
    drain(
        seed,
        vec![(BEGINS, late), (BEGINS + MS, Deed::Drain(DRAINED))],
        Vec::new(),
    )
}

/// A second controller writes a step in the midst of the plan when others have followed it.
fn want_is_written_late(seed: u64) -> Script {
    let late = Deed::Late(Late::Wants(4_000 * MS));
    let deeds = vec![(BEGINS, Deed::Drain(DRAINED)), (BEGINS + 1_500 * MS, late)];
    drain(seed, deeds, Vec::new())
}

/// The drained server does not hear that its drain is turned round when its objects have moved.
fn drained_server_misses_a_plan(seed: u64) -> Script {
    // An even number of milliseconds cuts both ways.
    let cut = Fate::Partition(0, DRAINED + 1, Duration::from_millis(4_000));
    let after = vec![in_drain(400 * MS, Deed::Befall(cut)), in_drain(500 * MS, Deed::Refill)];
    drain(seed, vec![(BEGINS, Deed::Drain(DRAINED))], after)
}

/// What the drained server was told of its drain comes when it knows that the drain is turned round.
fn drained_server_hears_an_old_plan(seed: u64) -> Script {
    let after = vec![
        in_drain(0, Deed::HearLate(DRAINED, 2_200 * MS)),
        in_drain(2_300 * MS, Deed::Refill),
        in_drain(6_500 * MS, Deed::Release),
    ];
    drain(seed, vec![(BEGINS, Deed::Drain(DRAINED))], after)
}

/// The drain is turned round while objects move, and so is that.
fn drain_is_turned_round_twice(seed: u64) -> Script {
    let after = vec![
        in_drain(10 * MS, Deed::Refill),
        in_drain(2_600 * MS, Deed::Drain(DRAINED)),
    ];
    drain(seed, vec![(BEGINS, Deed::Drain(DRAINED))], after)
}
