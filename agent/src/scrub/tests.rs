//! Facts about the scrub of a running agent, on a real disk.

use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::store::tests::{address, new_entry, octets, put, settings, vault, write};
use crate::store::{Change, Content, Disk, Entry, ReadError, RealDisk};
use crate::testing::block_until;
use crate::vault::Part;

fn open(dir: &Path) -> Arc<Store> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir).unwrap());
    let vault = vault(&disk, 1);
    Arc::new(Store::open(disk, vault, &settings(64)).unwrap().0)
}

fn often() -> config::Scrub {
    config::Scrub {
        rate: config::Octets(0),
        interval: Duration::from_secs(3600),
        arrivals_rate: crate::config::Octets(0),
    }
}

/// Turns an octet of a body around on disk.
fn turn(dir: &Path, entry: &Entry, at: u64) {
    let extent = entry.body.as_ref().unwrap().extents[0];
    let path = dir.join(format!("volumes/{:04}", extent.volume));
    let volume = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut octet = [0];
    volume.read_exact_at(&mut octet, extent.offset() + at).unwrap();
    volume.write_all_at(&[octet[0] ^ 1], extent.offset() + at).unwrap();
    volume.sync_all().unwrap();
}

/// Waits until a pass has ended.
fn until_finished(scrubber: &Scrubber) {
    block_until("a pass ends", || scrubber.counters.finished.load(Ordering::Relaxed) > 0);
}

fn metric(scrubber: &Scrubber, name: &str) -> u64 {
    let mut text = String::new();
    scrubber.metrics()(&mut text);
    let sample = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    sample.unwrap().parse().unwrap()
}

#[test]
fn damaged_copy_is_set_aside_told_and_remembered_over_a_restart_until_it_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let good = put(&store, &address("1.1"), 1, &octets(1, 300_000));
    let bad = put(&store, &address("1.2"), 1, &octets(2, 300_000));
    turn(dir.path(), &bad, 70_000);

    let scrubber = Scrubber::start(dir.path(), store.clone(), &often(), || 0).unwrap();
    until_finished(&scrubber);
    assert_eq!(metric(&scrubber, "agent_scrub_copies_total"), 2);
    assert_eq!(metric(&scrubber, "agent_scrub_damaged"), 1);
    assert!(metric(&scrubber, "agent_scrub_octets_total") >= 300_000);
    drop(scrubber);
    // Not even the chunk before the damage.
    let refused = store.reader(&bad, Part::Body).unwrap_err();
    assert!(matches!(refused, ReadError::SetAside { .. }), "{refused:?}");
    assert!(store.reader(&good, Part::Body).is_ok());
    let told = State::read(dir.path()).unwrap();
    assert_eq!((told.damaged.len(), told.copies), (1, 2));
    assert_eq!(
        (told.damaged[0].address.as_str(), told.damaged[0].part.as_str()),
        ("1.2", "body")
    );
    assert!(told.damaged[0].what.contains("chunk 1"), "{}", told.damaged[0].what);
    let digest = data_encoding::HEXLOWER.encode(&bad.body.as_ref().unwrap().digest.0);
    assert_eq!((&told.damaged[0].digest, told.damaged[0].octets), (&digest, 300_000));
    drop((good, bad, store));

    let store = open(dir.path());
    let finished = told.finished;
    let scrubber = Scrubber::start(dir.path(), store.clone(), &often(), || 0).unwrap();
    // Known at once, before any pass.
    assert_eq!(metric(&scrubber, "agent_scrub_last_finished_seconds"), finished);
    assert_eq!(store.damaged(), told.damaged);
    let bad = store
        .entries()
        .into_iter()
        .find(|entry| entry.address == address("1.2"))
        .unwrap();
    let staged = write(&store, &address("1.2"), Part::Body, &octets(3, 1000)).unwrap();
    let entry = new_entry(&address("1.2"), 2, Content::Staged(staged));
    let new = store.commit(vec![Change::Replace { seq: bad.seq, entry }]).unwrap();
    drop(bad);
    assert_eq!(store.damaged(), []);
    assert_eq!(store.read_all(&new[0], Part::Body).unwrap(), octets(3, 1000));
}

#[test]
fn mark_follows_its_stream_through_a_new_journal_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bad = put(&store, &address("1.2"), 1, &octets(2, 1000));
    turn(dir.path(), &bad, 10);
    assert!(matches!(
        store.read_all(&bad, Part::Body),
        Err(ReadError::Damaged { .. })
    ));
    let change = Change::Replace {
        seq: bad.seq,
        entry: bad.keep(),
    };
    let renumbered = store.commit(vec![change]).unwrap().remove(0);
    assert!(store.set_aside(&renumbered).is_some());
    store.commit(vec![Change::Remove { seq: renumbered.seq }]).unwrap();
    drop((bad, renumbered));
    assert_eq!(store.damaged_count(), 0);
}

#[test]
fn copy_that_reads_well_at_a_later_look_is_served_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let flaky = put(&store, &address("1.1"), 1, &octets(1, 1000));
    turn(dir.path(), &flaky, 10);
    assert!(store.read_all(&flaky, Part::Body).is_err());
    turn(dir.path(), &flaky, 10);
    // Still set aside: nobody has looked.
    assert!(matches!(
        store.read_all(&flaky, Part::Body),
        Err(ReadError::SetAside { .. })
    ));
    assert_eq!(again(&store, |_, _| GoOn::Yes), GoOn::Yes);
    assert_eq!(store.read_all(&flaky, Part::Body).unwrap(), octets(1, 1000));
}

#[test]
fn pass_that_was_stopped_goes_on_at_its_slice_and_reads_the_rest_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 0..200 {
        put(&store, &address(&format!("2.{number}")), 1, &octets(number, 100));
    }
    // Stopped by its own hand after about half.
    let reached = Arc::new(AtomicBool::new(false));
    let mut report = ScrubReport::default();
    let mut slices = 0;
    while report.copies < 100 {
        assert_eq!(slice(&store, slices, &mut report, |_, _| GoOn::Yes), GoOn::Yes);
        slices += 1;
    }
    let half = State {
        slice: slices,
        copies: report.copies,
        ..State::default()
    };
    half.write(dir.path()).unwrap();
    let flag = reached.clone();
    let scrubber = Scrubber::start(dir.path(), store, &often(), move || {
        flag.store(true, Ordering::Relaxed);
        0
    })
    .unwrap();
    until_finished(&scrubber);
    assert!(reached.load(Ordering::Relaxed));
    assert_eq!(metric(&scrubber, "agent_scrub_copies_total"), 200 - half.copies);
    drop(scrubber);
    let state = State::read(dir.path()).unwrap();
    assert_eq!((state.slice, state.copies), (0, 200));
}

#[test]
fn pass_reads_what_changes_its_number_meanwhile_and_holds_no_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut entries: Vec<_> = (0..64)
        .map(|number| put(&store, &address(&format!("2.{number}")), 1, &octets(number, 100)))
        .collect();
    let mut report = ScrubReport::default();
    let mut renumbered = 0;
    for number in 0..SLICES {
        slice(&store, number, &mut report, |_, octets| {
            // Each object once, whenever its turn is.
            if octets > 0 && renumbered < entries.len() {
                let old = &entries[renumbered];
                let change = Change::Replace {
                    seq: old.seq,
                    entry: old.keep(),
                };
                entries[renumbered] = store.commit(vec![change]).unwrap().remove(0);
                renumbered += 1;
            }
            GoOn::Yes
        });
    }
    assert_eq!((renumbered, report.octets), (64, 6400));
    for entry in entries.drain(..) {
        store.commit(vec![Change::Remove { seq: entry.seq }]).unwrap();
    }
    assert_eq!(store.usage().used, 0);
}

#[test]
fn file_that_is_not_understood_begins_a_pass_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), b"{\"slice\": \"many\"").unwrap();
    assert_eq!(State::read(dir.path()), None);
    let store = open(dir.path());
    put(&store, &address("1.1"), 1, b"here");
    let wild = State {
        slice: 4_000_000_000,
        finished: u64::MAX / 4,
        ..State::default()
    };
    wild.write(dir.path()).unwrap();
    let scrubber = Scrubber::start(dir.path(), store, &often(), || 0).unwrap();
    block_until("a pass ends", || {
        scrubber.counters.finished.load(Ordering::Relaxed) != wild.finished
    });
}

#[test]
fn pace_follows_the_rate_makes_way_and_catches_up_with_nothing() {
    let now = Instant::now();
    let used = std::cell::Cell::new(0);
    let mut pace = Pace::new(1_000_000, || used.get());
    assert_eq!(pace.wait(now, 500_000), Duration::from_millis(500));
    assert_eq!(pace.wait(now, 500_000), Duration::from_secs(1));
    // Nothing was read for an hour: the next piece is not a burst.
    let later = now + Duration::from_secs(3600);
    assert_eq!(pace.wait(later, 500_000), Duration::from_millis(500));
    let mut free = Pace::new(0, || used.get());
    assert_eq!(free.wait(now, 500_000), Duration::ZERO);
    used.set(1);
    assert_eq!(free.wait(now, 500_000), YIELD);
    assert_eq!(free.wait(now, 500_000), Duration::ZERO);
}
