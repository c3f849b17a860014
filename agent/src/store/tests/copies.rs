//! Rows of copies that are held for other servers, and of owners whose objects others hold: kept like every row.

use std::time::Duration;

use super::*;
use crate::store::check::{CheckReport, check};
use crate::store::rotation::{Rotation, Step};
use crate::store::scrub::{GoOn, ScrubReport, scrub};
use crate::store::simulated::SimulatedDisk;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn open(disk: &SimulatedDisk, seed: u64) -> (Store, Vec<Arc<Entry>>) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let vault = vault(&disk, seed);
    Store::open(disk, vault, &settings(64)).unwrap()
}

/// A copy of an object of s2, as it was at this revision.
fn held(store: &Store, at: &str, revision: u64, content: &[u8]) -> NewEntry {
    let at = address(at);
    NewEntry {
        epoch: Epoch(4),
        journal: Journal::Held {
            owner: "s2".parse().unwrap(),
            tx: Tx([1; 16]),
            refused: None,
        },
        ..new_entry(
            &at,
            revision,
            Content::Staged(write(store, &at, Part::Body, content).unwrap()),
        )
    }
}

/// An object of this server that s2 holds too, and that s3 is about to.
fn shared(store: &Store, at: &str, content: &[u8]) -> NewEntry {
    let at = address(at);
    let change = HolderChange {
        server: "s3".parse().unwrap(),
        adds: true,
        tx: Tx([5; 16]),
        old: Tx([3; 16]),
    };
    NewEntry {
        keeping: Some(Keeping {
            others: vec!["s2".parse().unwrap()],
            change: Some(change),
        }),
        ..new_entry(&at, 1, Content::Staged(write(store, &at, Part::Body, content).unwrap()))
    }
}

fn replace(store: &Store, old: &Entry, entry: NewEntry) -> Arc<Entry> {
    let change = Change::Replace { seq: old.seq, entry };
    store.commit(vec![change]).unwrap().pop().unwrap()
}

fn insert(store: &Store, entry: NewEntry) -> Arc<Entry> {
    store.commit(vec![Change::Insert(entry)]).unwrap().pop().unwrap()
}

fn refusing(entry: &Entry) -> NewEntry {
    let Journal::Held { owner, tx, .. } = &entry.journal else {
        panic!("{:?}", entry.journal)
    };
    NewEntry {
        journal: Journal::Held {
            owner: owner.clone(),
            tx: *tx,
            refused: Some(crate::store::Refusal {
                epoch: entry.epoch,
                tx: Tx([7; 16]),
            }),
        },
        ..entry.keep()
    }
}

#[test]
fn copies_of_others_objects_and_notes_of_other_holders_are_there_after_a_restart() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 1);
    let first = insert(&store, held(&store, "1.1", 7, b"seven"));
    let second = replace(&store, &first, held(&store, "1.1", 8, b"eight"));
    let refuses = replace(&store, &second, refusing(&second));
    let shared = insert(&store, shared(&store, "1.2", b"ours"));
    // A write keeps who else holds the object.
    let staged = write(&store, &address("1.2"), Part::Body, b"written").unwrap();
    let written = NewEntry {
        revision: 2,
        body: Content::Staged(staged),
        ..shared.keep()
    };
    let written = replace(&store, &shared, written);
    assert_eq!(written.keeping, shared.keeping);
    assert!(written.keeping.is_some());
    drop((store, first, second, shared));

    let (store, entries) = open(&disk.restart(3), 2);
    let [held, owned] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!((held, owned), (&refuses, &written));
    assert_eq!((held.revision, held.journal.is_open()), (8, true));
    assert_eq!(body(&store, held), b"eight"[..]);
    assert_eq!(body(&store, owned), b"written"[..]);
}

/// A newer content takes the place of an older one whole, and what is refused is durable with it or not at all.
#[test]
fn power_loss_leaves_the_copy_that_was_or_the_one_that_came() {
    let (mut before, mut after) = (0, 0);
    for fuse in 0..200 {
        let disk = SimulatedDisk::default();
        let (store, _) = open(&disk, 1);
        let first = insert(&store, held(&store, "1.1", 7, &octets(7, 9_000)));
        disk.cut_power_after(fuse);
        let at = address("1.1");
        let done = write(&store, &at, Part::Body, &octets(8, 9_000)).map(|staged| {
            let newer = NewEntry {
                revision: 8,
                body: Content::Staged(staged),
                ..refusing(&first)
            };
            let change = Change::Replace {
                seq: first.seq,
                entry: newer,
            };
            store.commit(vec![change]).is_ok()
        });
        drop((store, first));
        let (store, entries) = open(&disk.restart(fuse), 2);
        let [row] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(body(&store, row), octets(row.revision, 9_000));
        assert_eq!(row.journal.is_open(), row.revision == 8);
        match row.revision {
            7 => before += 1,
            8 => after += 1,
            other => panic!("revision {other}"),
        }
        if done.unwrap_or(false) {
            assert_eq!(row.revision, 8, "what was said to be durable is");
            break;
        }
    }
    assert!(before > 0 && after > 0, "{before} and {after}");
}

#[test]
fn copies_of_others_objects_are_scrubbed_checked_and_set_aside_like_others() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 1);
    let good = insert(&store, held(&store, "1.1", 7, &octets(1, 300_000)));
    let bad = insert(&store, held(&store, "1.2", 7, &octets(2, 300_000)));
    let extent = bad.body.as_ref().unwrap().extents[0];
    disk.rot(&format!("volumes/{:04}", extent.volume), extent.offset() + 70_000);
    let mut report = ScrubReport::default();
    scrub(&store, &mut report, |_, _| GoOn::Yes);
    let found: Vec<_> = report.damaged.iter().map(|damage| damage.address.as_str()).collect();
    assert_eq!((report.copies, &found[..]), (2, &["1.2"][..]));
    assert!(store.set_aside(&bad).is_some());
    assert!(store.set_aside(&good).is_none());
    assert_eq!(store.damaged_count(), 1);
    drop((store, good, bad));

    let disk: Arc<dyn Disk> = Arc::new(disk);
    let checked = check(disk.clone(), vault(&disk, 2), &settings(64), None, |_, _, _| GoOn::Yes);
    let CheckReport { copies, damaged, .. } = checked.unwrap();
    assert_eq!((copies, damaged.len()), (2, 1));
    assert_eq!((damaged[0].address.as_str(), damaged[0].revision), ("1.2", 7));
}

#[test]
fn keys_of_others_objects_are_wrapped_anew_and_rows_say_what_they_said() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 1);
    let held = insert(&store, held(&store, "1.1", 7, b"theirs"));
    let shared = insert(&store, shared(&store, "1.2", b"ours"));
    let mut rotation = Rotation::new(DAY);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mut steps = vec![rotation.step(&store, now, true).unwrap()];
    while steps.last() != Some(&Step::Idle) {
        steps.push(rotation.step(&store, now, false).unwrap());
    }
    assert!(
        steps.contains(&Step::Destroyed(vec![crate::vault::Generation(1)])),
        "{steps:?}"
    );
    for (old, new) in [held, shared].iter().zip(store.entries()) {
        assert_eq!((&old.journal, &old.keeping), (&new.journal, &new.keeping));
        let generation = |entry: &Entry| entry.body.as_ref().unwrap().kek_generation.0;
        assert_eq!((generation(old), generation(&new)), (1, 2));
        assert!(!body(&store, &new).is_empty());
    }
}
