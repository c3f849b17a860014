//! Facts about the sweep, on a real disk and on one that loses power.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};
use zones::{Errand, Level, Policy, Steps, Want};

use super::*;
use crate::objects::Settings;
use crate::schema::{InProcess, RunStep, Schemas, Step, StepError, Stepper};
use crate::store::simulated::SimulatedDisk;
use crate::store::tests::{address, new_entry, octets, vault};
use crate::store::{Change, Content, Disk, Entry, Journal, NewEntry, RealDisk, Store, StreamSpec, Work as StoreWork};
use crate::testing::block_until;
use crate::vault::{Levels, Part};

mod live;

/// The object whose step fails.
const UNLUCKY: u64 = 13;

/// Versions of type `file`: 2 says the number in another word as well, 3 in that word alone.
fn schemas() -> Schemas {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::create_dir(&file).unwrap();
    let write = |name: &str, text: &str| std::fs::write(file.join(name), text).unwrap();
    for (version, required) in [(1, r#"["n"]"#), (2, r#"["n", "number"]"#), (3, r#"["number"]"#)] {
        write(
            &format!("{version}.schema.json"),
            &format!(
                r#"{{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": {required}}}"#
            ),
        );
    }
    let forward = format!("# expand\nif .n == {UNLUCKY} then error(\"unlucky\") else .number = .n end");
    write("1-to-2.jq", &forward);
    write("2-to-1.jq", "del(.number)");
    write("2-to-3.jq", "# contract\ndel(.n)");
    write("3-to-2.jq", ".n = .number");
    Schemas::load(dir.path()).unwrap()
}

/// The steps above without a process or a program: what jq makes of them is tested elsewhere.
struct Native;

impl RunStep for Native {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        InProcess::default().run(step, properties)
    }

    fn compile(&self, _: &Step) -> Result<(), StepError> {
        Ok(())
    }
}

fn settings(capacity_mib: u64, work: StoreWork) -> crate::store::Settings {
    crate::store::Settings {
        work,
        ..crate::store::tests::settings(capacity_mib)
    }
}

fn local_on(disk: Arc<dyn Disk>, seed: u64, settings: &crate::store::Settings) -> Arc<Local> {
    let vault = vault(&disk, seed);
    let (store, entries) = Store::open(disk, vault, settings).unwrap();
    let stepper = Stepper::new(schemas(), Box::new(Native));
    Local::new(Arc::new(store), entries, Arc::new(stepper), Settings::default())
}

fn local(dir: &Path, capacity_mib: u64) -> Arc<Local> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir).unwrap());
    local_on(disk, 1, &settings(capacity_mib, StoreWork::Threads))
}

fn policy(level: u8, steps: Steps) -> Policy {
    Policy {
        level: Level(level),
        floor: Level(1),
        steps,
    }
}

fn obey(local: &Local, level: u8, steps: Steps) {
    local.obey(&policy(level, steps));
    while local.recount() {}
}

fn staged(store: &Store, at: &Address, part: Part, level: u8, content: &[u8]) -> Content {
    let spec = StreamSpec {
        address: at.clone(),
        part,
        level: Level(level),
        octets_hint: Some(content.len() as u64),
        reservation: None,
    };
    let mut writer = store.writer(spec).unwrap();
    writer.write(content).unwrap();
    Content::Staged(writer.finish().unwrap())
}

/// Makes an object with properties in a version, and a body.
fn make(local: &Local, at: &str, (schema, level): (u32, u8), properties: &Value, body: &[u8]) -> Arc<Entry> {
    let at = address(at);
    let entry = NewEntry {
        schema,
        level: Level(level),
        properties: staged(
            local.store(),
            &at,
            Part::Properties,
            level,
            properties.to_string().as_bytes(),
        ),
        body: staged(local.store(), &at, Part::Body, level, body),
        ..new_entry(&at, 1, Content::Absent)
    };
    local
        .commit_now(vec![(at, Change::Insert(entry))])
        .unwrap()
        .pop()
        .unwrap()
}

fn fill(local: &Local, count: u64) {
    for n in 0..count {
        make(local, &format!("1.{n}"), (1, 1), &json!({"n": n}), &octets(n, 3_000));
    }
}

/// Notes that s2 holds an object too.
fn held_elsewhere(local: &Local, at: &str) {
    let entry = local.entry(&address(at)).unwrap();
    let noted = NewEntry {
        keeping: Some(crate::store::Keeping {
            others: vec!["s2".parse().unwrap()],
            change: None,
        }),
        ..entry.keep()
    };
    let change = Change::Replace {
        seq: entry.seq,
        entry: noted,
    };
    local.commit_now(vec![(address(at), change)]).unwrap();
}

/// Properties, and the body.
fn read(local: &Local, at: &str) -> (Value, Bytes) {
    let entry = local.entry(&address(at)).unwrap();
    let all = |part| local.store().read_all(&entry, part).unwrap();
    (serde_json::from_slice(&all(Part::Properties)).unwrap(), all(Part::Body))
}

/// Sweeps once through everything.
fn pass(local: &Arc<Local>) -> Tally {
    let mut tally = Tally::default();
    let mut after: Option<Address> = None;
    loop {
        let resting = local.resting(after.as_ref(), GROUP_OBJECTS);
        let count = group(&resting);
        let Some(last) = resting[..count].last() else {
            return tally;
        };
        after = Some(last.address.clone());
        let (done, _) = rewrite(local, &resting[..count], BootInstant::ZERO, |_| GoOn::Yes).unwrap();
        tally.add(done);
    }
}

fn standing(local: &Local) -> (u64, u64) {
    let standing = local.standing();
    (standing.newer, standing.resting)
}

#[test]
fn sweep_brings_every_object_to_the_level_and_version_of_the_plan_at_another_place() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    fill(&local, 100);
    make(&local, "2.1", (1, 1), &json!({"n": 200}), &octets(7, 3_000_000));
    held_elsewhere(&local, "1.7");
    let before: BTreeMap<Address, Arc<Entry>> = (local.entries().into_iter())
        .map(|entry| (entry.address.clone(), entry))
        .collect();
    obey(&local, 2, Steps::All);
    assert_eq!(standing(&local), (0, 101));
    let done = pass(&local);
    assert_eq!((done.rewritten, done.quarantined, done.stuck()), (100, 1, 0));
    assert_eq!(
        standing(&local),
        (0, 0),
        "the unlucky one is at its level, and rests no more"
    );
    for (at, old) in &before {
        let new = local.entry(at).unwrap();
        let unlucky = at.as_str() == format!("1.{UNLUCKY}");
        assert_eq!((new.level, new.schema), (Level(2), if unlucky { 1 } else { 3 }), "{at}");
        assert_eq!(new.quarantined.is_some(), unlucky, "{at}");
        assert_eq!(new.migrated_from, (!unlucky).then_some(1), "{at}");
        assert_eq!((new.epoch, new.revision, new.tx), (old.epoch, old.revision, old.tx));
        assert_eq!((&new.writes, &new.journal), (&old.writes, &old.journal));
        assert_eq!(new.keeping, old.keeping);
        assert_eq!(new.is_shared(), at.as_str() == "1.7");
        assert_eq!(new.digests().body, old.digests().body, "digests survive");
        assert_eq!(new.digests().properties == old.digests().properties, unlucky);
        for (part, stream) in new.streams() {
            let old = old.stream(part).unwrap();
            assert_ne!((stream.id, stream.nonce_prefix), (old.id, old.nonce_prefix));
            for extent in stream.extents.iter() {
                let meets = |other: &crate::store::Extent| {
                    other.volume == extent.volume
                        && other.block < extent.block + extent.blocks
                        && extent.block < other.block + other.blocks
                };
                assert!(!old.extents.iter().any(meets), "{at} is written where it was");
            }
        }
    }
    drop(before);
    assert_eq!(
        read(&local, "1.7"),
        (json!({"number": 7}), Bytes::from(octets(7, 3_000)))
    );
    assert_eq!(read(&local, "2.1").1, octets(7, 3_000_000));
    assert_eq!(pass(&local), Tally::default(), "a second sweep has nothing to do");
    assert_eq!(local.store().audit_head().count, 0, "the log of moves has moves alone");
}

#[test]
fn counts_follow_every_change_and_every_policy() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    fill(&local, 10);
    // Expand steps are allowed from the beginning.
    assert_eq!(standing(&local), (0, 10));
    let beyond = make(&local, "2.1", (3, 1), &json!({"number": 1}), b"");
    let unknown = make(&local, "2.2", (9, 1), &json!({"number": 1}), b"");
    let above = make(&local, "2.3", (2, 3), &json!({"n": 1, "number": 1}), b"");
    assert_eq!(standing(&local), (3, 11), "a version that is not known is looked at");
    obey(&local, 3, Steps::Expand);
    assert_eq!(standing(&local), (2, 12), "the level is the plan's now");
    local
        .commit_now(vec![(above.address.clone(), Change::Remove { seq: above.seq })])
        .unwrap();
    local
        .commit_now(vec![(beyond.address.clone(), Change::Remove { seq: beyond.seq })])
        .unwrap();
    assert_eq!(standing(&local), (1, 11));
    obey(&local, 3, Steps::All);
    assert_eq!(standing(&local), (0, 11));
    drop((above, beyond));
    let done = pass(&local);
    assert_eq!((done.rewritten, done.quarantined), (10, 1));
    assert!(local.entry(&unknown.address).unwrap().quarantined.is_some());
    assert_eq!(standing(&local), (0, 0));
    drop(unknown);
    // A restart counts the same.
    drop(local);
    let local = self::local(dir.path(), 64);
    assert_eq!(standing(&local).1, 0, "nothing is below the first policy");
    local.obey(&policy(3, Steps::All));
    assert_eq!(standing(&local), (0, 11), "until all are looked at, all rest");
    while local.recount() {}
    assert_eq!(standing(&local), (0, 0));
}

#[test]
fn type_without_schemas_is_never_newer_and_never_stepped() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    let at = address("1.1");
    let entry = NewEntry {
        kind: "poem".parse().unwrap(),
        schema: 40,
        properties: staged(local.store(), &at, Part::Properties, 1, b"{}"),
        ..new_entry(&at, 1, Content::Absent)
    };
    local.commit_now(vec![(at, Change::Insert(entry))]).unwrap();
    assert_eq!(standing(&local), (0, 0));
}

#[test]
fn write_that_comes_in_between_wins_and_the_sweep_comes_back_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    fill(&local, 2);
    obey(&local, 2, Steps::Expand);
    let resting = local.resting(None, GROUP_OBJECTS);
    // A client writes after the sweep has read the copy.
    let at = address("1.1");
    let entry = NewEntry {
        revision: 2,
        body: staged(local.store(), &at, Part::Body, 1, b"later"),
        ..resting[1].keep()
    };
    let change = Change::Replace {
        seq: resting[1].seq,
        entry,
    };
    local.commit_now(vec![(at, change)]).unwrap();
    let (done, _) = rewrite(&local, &resting, BootInstant::ZERO, |_| GoOn::Yes).unwrap();
    assert_eq!((done.rewritten, done.changed), (1, 1));
    assert_eq!(read(&local, "1.1").1, "later");
    assert_eq!(pass(&local).rewritten, 1);
    let entry = local.entry(&address("1.1")).unwrap();
    assert_eq!((entry.revision, entry.level, entry.schema), (2, Level(2), 2));
    assert_eq!(read(&local, "1.1").1, "later");
}

#[test]
fn object_that_is_written_moves_or_is_sealed_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    fill(&local, 4);
    obey(&local, 2, Steps::Expand);
    let resting = local.resting(None, GROUP_OBJECTS);
    let crate::objects::AskedTurn::Taken(turn) = local.ask_turn(&address("1.0"), BootInstant::ZERO) else {
        panic!("nobody has it")
    };
    let guard = local.begin_move(&address("1.1")).unwrap();
    let moving = NewEntry {
        journal: Journal::Moving {
            to: "s2".parse().unwrap(),
            tx: zones::Tx([1; 16]),
        },
        ..resting[2].keep()
    };
    let change = Change::Replace {
        seq: resting[2].seq,
        entry: moving,
    };
    local.commit_now(vec![(address("1.2"), change)]).unwrap();
    let (done, _) = rewrite(&local, &resting, BootInstant::ZERO, |_| GoOn::Yes).unwrap();
    assert_eq!((done.rewritten, done.changed), (1, 3));
    assert_eq!(
        standing(&local),
        (0, 3),
        "the one that moves is still not what the plan asks for"
    );
    assert_eq!(local.resting(None, 9).len(), 2);
    drop((turn, guard));
    assert_eq!(pass(&local).rewritten, 2);
}

#[test]
fn body_that_was_taken_before_the_sweep_is_written_at_the_level_of_the_object() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    fill(&local, 1);
    let at = address("1.0");
    let body = |content: &[u8]| match staged(local.store(), &at, Part::Body, 1, content) {
        Content::Staged(staged) => staged,
        other => panic!("{other:?}"),
    };
    let content = octets(5, 700_000);
    let put = crate::objects::Prepared {
        client: "app".to_owned(),
        write_id: None,
        request_hash: [0; 32],
        condition: crate::objects::Condition::Any,
        kind: None,
        schema: None,
        properties: None,
        octets: None,
        body: Some(body(&content)),
    };
    obey(&local, 2, Steps::Expand);
    assert_eq!(pass(&local).rewritten, 1);
    let entry = local.entry(&at).unwrap();
    assert!(!local.fits(Some(&entry), &put), "its level is another one now");
    let put = local.fit(&at, Some(&entry), put).unwrap();
    let crate::objects::steps::Step::Row(row) = crate::objects::steps::write(&entry, put, 0).unwrap() else {
        panic!("it was not written before")
    };
    let change = Change::Replace {
        seq: entry.seq,
        entry: *row,
    };
    let new = local.commit_now(vec![(at.clone(), change)]).unwrap().pop().unwrap();
    assert_eq!((new.revision, new.level), (2, Level(2)));
    assert_eq!(
        read(&local, "1.0"),
        (json!({"n": 0, "number": 0}), Bytes::from(content))
    );
}

#[test]
fn object_waits_while_the_disk_is_full_and_the_free_part_stays_free() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 8);
    make(&local, "1.1", (1, 1), &json!({"n": 1}), &octets(1, 5 << 20));
    make(&local, "1.2", (1, 1), &json!({"n": 2}), &octets(2, 1 << 20));
    obey(&local, 2, Steps::Expand);
    let done = pass(&local);
    assert_eq!((done.rewritten, done.full), (1, 1), "the smaller one finds room");
    let usage = local.store().usage();
    assert!(usage.capacity - usage.used >= usage.capacity / 32, "{usage:?}");
    assert_eq!(standing(&local), (0, 1));
    assert_eq!(read(&local, "1.1").1, octets(1, 5 << 20));
}

#[test]
fn damaged_copy_is_not_swept_and_still_counts() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    let bad = make(&local, "1.1", (1, 1), &json!({"n": 1}), &octets(1, 300_000));
    fill(&local, 1);
    let extent = bad.body.as_ref().unwrap().extents[0];
    drop(bad);
    let path = dir.path().join(format!("volumes/{:04}", extent.volume));
    let volume = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    volume.write_all_at(&[0; 64], extent.offset() + 70_000).unwrap();
    obey(&local, 2, Steps::Expand);
    let done = pass(&local);
    assert_eq!((done.rewritten, done.unreadable), (1, 1));
    assert_eq!(standing(&local), (0, 1));
    assert_eq!(local.entry(&address("1.1")).unwrap().level, Level(1));
}

/// What is here: address, level, version, properties, body.
fn model(local: &Local) -> Vec<(String, u8, u32, String, Bytes)> {
    let mut all: Vec<_> = local.entries();
    all.sort_by_key(|entry| entry.address.clone());
    (all.iter())
        .map(|entry| {
            let (properties, body) = read(local, entry.address.as_str());
            (
                entry.address.to_string(),
                entry.level.0,
                entry.schema,
                properties.to_string(),
                body,
            )
        })
        .collect()
}

#[test]
fn crash_at_every_durable_step_of_a_sweep_keeps_each_object_whole_in_one_form_and_leaks_nothing() {
    let blank = SimulatedDisk::default();
    let on = |disk: &SimulatedDisk, seed| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        local_on(disk, seed, &settings(64, StoreWork::Caller))
    };
    {
        let local = on(&blank, 1);
        fill(&local, 5);
        make(&local, "2.1", (1, 1), &json!({"n": UNLUCKY}), &octets(9, 200_000));
    }
    let play = |disk: &SimulatedDisk| -> Result<(), CommitError> {
        let local = on(disk, 2);
        obey(&local, 2, Steps::All);
        for _ in 0..2 {
            let resting = local.resting(None, GROUP_OBJECTS);
            let count = group(&resting);
            rewrite(&local, &resting[..count], BootInstant::ZERO, |_| GoOn::Yes)?;
        }
        Ok(())
    };
    let before = model(&on(&blank.restart(0), 3));
    let whole = blank.restart(0);
    let opening = {
        drop(on(&whole, 2));
        whole.steps()
    };
    play(&whole).unwrap();
    let steps = whole.steps();
    let after = model(&on(&whole.restart(0), 3));
    assert!(before.iter().zip(&after).all(|(old, new)| old.1 == 1 && new.1 == 2));
    let used = |local: &Local| local.store().usage().used;
    assert!(steps > opening + 10, "{steps}");
    for fuse in 0..steps - opening {
        let disk = blank.restart(0);
        let local = on(&disk, 2);
        drop(local);
        disk.cut_power_after(fuse);
        // What was under way fails, or the power goes after the end.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(&disk)));
        let local = on(&disk.restart(fuse), 4);
        for (found, (old, new)) in model(&local).iter().zip(before.iter().zip(&after)) {
            assert!(found == old || found == new, "power cut at step {fuse}: {found:?}");
        }
        let named: u64 = (local.entries().iter())
            .flat_map(|entry| {
                entry
                    .streams()
                    .map(|(_, stream)| stream.extents.iter().map(|e| e.octets()).sum::<u64>())
                    .collect::<Vec<_>>()
            })
            .sum();
        assert_eq!(
            used(&local),
            named,
            "power cut at step {fuse}: blocks are free that no row names"
        );
        obey(&local, 2, Steps::All);
        pass(&local);
        assert_eq!(model(&local), after, "the sweep goes on after step {fuse}");
    }
}

fn wanted(sweep: Option<u64>, role: Role) -> Wanted {
    Wanted {
        want: Some(Want {
            role,
            targets: Vec::new(),
            plan: 1,
            step: 1,
            policy: policy(2, Steps::All),
            errand: Errand {
                sweep,
                ..Errand::default()
            },
        }),
        ..Wanted::default()
    }
}

#[test]
fn sweep_is_asked_for_by_a_want_with_octets_of_a_server_that_serves() {
    assert_eq!(rate(&Wanted::default()), None);
    assert_eq!(rate(&wanted(None, Role::Serving)), None);
    assert_eq!(rate(&wanted(Some(0), Role::Serving)), None);
    assert_eq!(rate(&wanted(Some(9), Role::Draining)), None);
    assert_eq!(rate(&wanted(Some(9), Role::Serving)), Some(9));
}

#[test]
fn sweeper_writes_no_faster_than_it_is_let() {
    let mut pace = Pace::new(1 << 20, || 0);
    let start = Instant::now();
    let waited = pace.wait(start, 1 << 20) + pace.wait(start, 1 << 20);
    assert_eq!(waited, Duration::from_secs(3), "the second waits behind the first");
}

#[test]
fn sweeper_runs_when_it_is_wanted_and_shows_what_rests() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), 64);
    fill(&local, 80);
    let (sender, receiver) = watch::channel(wanted(None, Role::Serving));
    let sweeper = Sweeper::start(Arc::clone(&local), receiver, || 0).unwrap();
    local.obey(&policy(2, Steps::All));
    let metrics = sweeper.metrics();
    let text = || {
        let mut text = String::new();
        metrics(&mut text);
        text
    };
    sender.send_replace(wanted(Some(1 << 30), Role::Serving));
    block_until("nothing rests", || text().contains("agent_sweep_resting 0\n"));
    // It counts a group behind its commit.
    drop(sweeper);
    let text = text();
    assert!(
        text.contains("agent_sweep_objects_total{outcome=\"rewritten\"} 79\n"),
        "{text}"
    );
    assert!(
        text.contains("agent_sweep_objects_total{outcome=\"quarantined\"} 1\n"),
        "{text}"
    );
    assert!(text.contains("agent_objects_newer 0\n"), "{text}");
    assert_eq!(local.levels(), Levels::new(Level(1), Level(2)).unwrap());
}
