//! Runs in which the simulator found a bug, made short: each holds now.
//!
//! A seed means another run as soon as scripts are made in another way; these stay what they are.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clock::Time;
use super::faults::{Fate, Source};
use super::script::{Deed, Script};

/// Runs by the seed that found them.
#[must_use]
pub fn found() -> Vec<(u64, Script)> {
    vec![
        (1_321, step_waits_for_deletion()),
        (1_496, refused_step_outlives_its_move()),
        (1_957, deleted_object_comes_back()),
        (209_492, only_copy_is_on_its_way()),
    ]
}

fn script(seed: u64, agents: usize, objects: usize, deeds: &[(Time, Deed)], faults: &[(u64, Fate)]) -> Script {
    let clients = deeds.iter().filter_map(|(_, deed)| Some(deed.of_client()?.0 + 1)).max();
    Script {
        agents,
        clients: clients.unwrap_or(1),
        deeds: deeds.to_vec(),
        faults: Source::Script(faults.iter().copied().collect::<BTreeMap<_, _>>()),
        ends: deeds.last().map_or(0, |(at, _)| at + 1_500_000),
        ..Script::quiet(seed, objects, &[])
    }
}

/// A deletion keeps its object until the register has settled, so it waits for the registry to open; a move's first step waited
/// for the deletion, and the report for the step.
fn step_waits_for_deletion() -> Script {
    let deeds = [
        (68_052, Deed::Put(0, 0)),
        (553_431, Deed::Put(0, 0)),
        (1_319_431, Deed::Put(0, 0)),
        (1_747_575, Deed::Put(0, 0)),
        (1_794_154, Deed::Put(0, 0)),
        (1_802_289, Deed::Put(0, 1)),
        (2_378_229, Deed::Put(0, 0)),
        (2_391_717, Deed::Read(0, 1)),
        (2_546_076, Deed::Move(0, 1)),
        (2_605_073, Deed::Put(0, 0)),
        (2_627_679, Deed::Put(0, 2)),
        (2_759_197, Deed::Read(0, 1)),
        (3_178_449, Deed::Put(0, 1)),
        (3_965_227, Deed::Read(0, 0)),
        (4_914_749, Deed::Put(0, 1)),
        (5_187_233, Deed::Put(0, 2)),
        (5_273_820, Deed::Put(0, 1)),
        (5_424_363, Deed::Read(0, 2)),
        (5_434_924, Deed::Read(0, 0)),
        (5_613_519, Deed::Read(0, 1)),
        (5_778_218, Deed::Move(2, 1)),
        (6_025_593, Deed::Move(0, 2)),
        (6_393_112, Deed::Delete(0, 0)),
        (6_411_133, Deed::Move(1, 1)),
        (10_542_384, Deed::Rebuild),
    ];
    let faults = [
        (268, Fate::SenderCrashes),
        (336, Fate::Suspend(2, Duration::from_millis(1_812))),
    ];
    script(1_321, 3, 3, &deeds, &faults)
}

/// The source's keys were away when it wrote that it moves the object, and the move ended; that step was waited for ever after, and
/// so was the report to the new registry.
fn refused_step_outlives_its_move() -> Script {
    let deeds = [
        (2_626_050, Deed::Put(0, 2)),
        (3_980_678, Deed::Move(2, 2)),
        (4_444_289, Deed::Befall(Fate::Silent(0, Duration::from_millis(1_449)))),
        (12_979_126, Deed::Rebuild),
    ];
    script(1_496, 4, 3, &deeds, &[])
}

/// A former owner told a new registry that the object was the deleter's, in the epoch of the deletion.
fn deleted_object_comes_back() -> Script {
    let deeds = [
        (4_275_771, Deed::Put(0, 1)),
        (4_663_610, Deed::Put(0, 0)),
        (5_871_907, Deed::Put(0, 1)),
        (8_710_503, Deed::Put(0, 1)),
        (10_111_890, Deed::Move(0, 0)),
        (13_617_354, Deed::Read(0, 1)),
        (13_829_838, Deed::Move(0, 2)),
        (15_127_715, Deed::Delete(0, 0)),
        (18_451_847, Deed::Rebuild),
    ];
    script(1_957, 3, 4, &deeds, &[])
}

/// The source heard of the commit, removed its copy and forgot where it went; the destination heard nothing, and the registry
/// was restored from before.
fn only_copy_is_on_its_way() -> Script {
    let deeds = [
        (77_095, Deed::Read(0, 9)),
        (346_815, Deed::Put(1, 5)),
        (770_699, Deed::Put(0, 8)),
        (1_056_955, Deed::Read(0, 10)),
        (1_838_086, Deed::Put(1, 3)),
        (2_544_526, Deed::Read(1, 0)),
        (2_585_969, Deed::Put(1, 9)),
        (2_664_533, Deed::Put(0, 10)),
        (2_864_225, Deed::Read(0, 4)),
        (3_098_493, Deed::Put(1, 7)),
        (3_256_595, Deed::Put(0, 6)),
        (3_311_437, Deed::Put(0, 2)),
        (3_421_396, Deed::Backup),
        (3_804_816, Deed::Put(0, 0)),
        (4_065_922, Deed::Put(0, 4)),
        (4_828_511, Deed::Put(0, 4)),
        (4_901_686, Deed::Put(1, 1)),
        (5_441_896, Deed::Put(0, 1)),
        (6_943_555, Deed::Move(3, 0)),
        (15_323_482, Deed::Restore),
    ];
    let faults = [
        (25, Fate::Lost),
        (36, Fate::Lost),
        (85, Fate::Lost),
        (94, Fate::Lost),
        (112, Fate::Lost),
        (162, Fate::Lost),
        (215, Fate::Lost),
        (224, Fate::Crash(0)),
        (227, Fate::Lost),
        (257, Fate::Lost),
        (263, Fate::Lost),
        (326, Fate::Miswritten),
        (340, Fate::Lost),
        (364, Fate::Isolate(0, Duration::from_millis(9000))),
    ];
    script(209_492, 3, 11, &deeds, &faults)
}
