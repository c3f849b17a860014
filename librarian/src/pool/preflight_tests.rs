//! Facts about what a preflight says of clocks and of dry runs.

use zones::Upkeep;
use zones::upkeep::{SchemaSet, Tried};

use super::*;
use crate::pool::testing::{name, sight};
use crate::pool::{Ask, steer};

const NEXT: SchemaSet = SchemaSet(0xfe);

/// Two servers with objects and a free one; what the first two found.
fn pool(found: [Option<Tried>; 2]) -> Sight {
    let mut sight = sight(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s3", Role::Free, 0),
    ]);
    for (server, dry) in ["s1", "s2", "s3"].into_iter().zip(found.into_iter().chain([None])) {
        let has = sight.servers.get_mut(&name(server)).unwrap().has.as_mut().unwrap();
        has.upkeep = Some(Upkeep {
            suite: 3,
            dry,
            ..Upkeep::default()
        });
    }
    sight
}

fn tried(objects: u64, quarantined: u64, stuck: u64) -> Option<Tried> {
    Some(Tried {
        set: NEXT,
        objects,
        quarantined,
        stuck,
    })
}

/// What the preflight says of dry runs: whether it is a fault, and the words. A start refuses exactly the faults.
fn said(sight: &Sight) -> Vec<(bool, String)> {
    let findings = steer::check(sight, "2", &Ask::default(), 0, 0).unwrap();
    let said: Vec<_> = (findings.into_iter())
        .filter(|finding| finding.what == "dry run")
        .map(|finding| (finding.is_fault, finding.says))
        .collect();
    let is_refused = steer::start(sight, "2", &Ask::default(), 0, 0).is_err();
    assert_eq!(is_refused, said.iter().any(|(is_fault, _)| *is_fault));
    said
}

#[test]
fn clean_dry_runs_are_told_with_what_was_tried() {
    let said = said(&pool([tried(5, 0, 0), tried(7, 0, 0)]));
    let [(false, says)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(says, "the next schemas, 00000000000000fe, were tried on 12 objects");
}

#[test]
fn object_that_does_not_come_to_the_next_schemas_and_back_is_a_fault() {
    let said = said(&pool([tried(5, 0, 2), tried(7, 0, 0)]));
    let [(true, says)] = &said[..] else { panic!("{said:?}") };
    assert!(
        says.starts_with("2 objects on s1 could not be brought to the next schemas and back: `dry-run.json` there"),
        "{says}"
    );
}

#[test]
fn servers_that_tried_different_schemas_are_a_fault() {
    let other = tried(7, 0, 0).map(|tried| Tried {
        set: SchemaSet(0xff),
        ..tried
    });
    let said = said(&pool([tried(5, 0, 0), other]));
    let [(true, says)] = &said[..] else { panic!("{said:?}") };
    assert!(
        says.contains("00000000000000fe on s1; 00000000000000ff on s2"),
        "{says}"
    );
}

#[test]
fn objects_whose_steps_fail_are_told_and_are_no_fault() {
    let said = said(&pool([tried(5, 3, 0), tried(7, 0, 0)]));
    let [(false, says)] = &said[..] else { panic!("{said:?}") };
    assert!(says.contains("steps fail for 3 objects on s1"), "{says}");
}

#[test]
fn server_without_a_dry_run_is_named_if_it_holds_objects_and_is_no_fault() {
    let said_of = |found| said(&pool(found));
    let said = said_of([tried(5, 0, 0), None]);
    let [(false, says)] = &said[..] else { panic!("{said:?}") };
    assert!(
        says.contains("; no dry run was made on s2: set `next_schemas` in agent.toml there"),
        "{says}"
    );
    let said = said_of([None, None]);
    let [(false, says)] = &said[..] else { panic!("{said:?}") };
    assert!(says.starts_with("no dry run was made on s1, s2: "), "{says}");
    let said = said_of([tried(5, 0, 1), None]);
    let [(false, note), (true, fault)] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(note.contains("on s2") && fault.contains("on s1"), "{said:?}");
}

#[test]
fn schemas_of_the_old_release_that_were_tried_are_told() {
    let mut sight = pool([tried(5, 0, 0), tried(7, 0, 0)]);
    for seen in sight.servers.values_mut() {
        seen.has.as_mut().unwrap().upkeep.as_mut().unwrap().schemas = NEXT;
    }
    let said = said(&sight);
    let [(false, says)] = &said[..] else { panic!("{said:?}") };
    assert!(says.contains("these are the schemas of the old release"), "{says}");
}

#[test]
fn server_of_the_new_release_is_not_asked_for_a_dry_run() {
    let mut sight = pool([tried(5, 0, 0), tried(7, 1, 1)]);
    let has = sight.servers.get_mut(&name("s2")).unwrap().has.as_mut().unwrap();
    has.release = "2".to_owned();
    let said = said(&sight);
    let [(false, says)] = &said[..] else { panic!("{said:?}") };
    assert!(says.ends_with("were tried on 5 objects"), "{says}");
}

#[test]
fn clock_that_is_off_by_more_than_the_margin_is_a_fault_both_ways() {
    let mut pool = pool([None, None]);
    for (ahead, says) in [
        (0, None),
        (60, None),
        (-60, None),
        (61, Some("the clock of s1 is 61 s ahead")),
        (-299, Some("the clock of s1 is 299 s behind")),
    ] {
        pool.servers.get_mut(&name("s1")).unwrap().clock_ahead_s = ahead;
        let findings = steer::check(&pool, "2", &Ask::default(), 0, 0).unwrap();
        let found = findings.iter().find(|finding| finding.what == "clocks").unwrap();
        match says {
            None => assert!(!found.is_fault, "{ahead}: {found}"),
            Some(begins) => assert!(found.is_fault && found.says.starts_with(begins), "{ahead}: {found}"),
        }
    }
}

#[test]
fn server_that_failed_and_is_marked_lost_is_no_room_for_an_upgrade() {
    let mut pool = pool([None, None]);
    pool.servers.get_mut(&name("s3")).unwrap().want.role = Role::Failed;
    let capacity = |pool: &Sight| {
        let findings = steer::check(pool, "2", &Ask::default(), 0, 0).unwrap();
        findings.into_iter().find(|finding| finding.what == "capacity").unwrap()
    };
    assert!(!capacity(&pool).is_fault, "it is heard, and has its turn first");
    pool.servers.get_mut(&name("s3")).unwrap().lost = true;
    assert!(capacity(&pool).is_fault);
}
