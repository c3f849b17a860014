//! Power loss: what was acknowledged is there, what was not is there whole or not at all.

use std::collections::BTreeMap;

use super::*;
use crate::store::simulated::SimulatedDisk;

/// Address to (revision, body).
type Model = BTreeMap<String, (u64, Vec<u8>)>;

fn model(store: &Store) -> Model {
    let entries = store.entries();
    (entries.iter())
        .map(|entry| {
            let body = store
                .read_all(entry, Part::Body)
                .unwrap_or_else(|error| panic!("{error}"));
            (entry.address.to_string(), (entry.revision, body.to_vec()))
        })
        .collect()
}

fn entry(store: &Store, address: &Address) -> Option<Arc<Entry>> {
    store.entries().into_iter().find(|entry| entry.address == *address)
}

/// One step of the story: the changes, and what they make of the model.
fn steps(store: &Store, number: u64, model: &mut Model) -> Result<Vec<Change>, StreamError> {
    let (a, b) = (address("1.1"), address("1.2"));
    let mut change = |address: &Address, revision: u64, content: Vec<u8>| {
        let staged = write(store, address, Part::Body, &content)?;
        let new = new_entry(address, revision, Content::Staged(staged));
        model.insert(address.to_string(), (revision, content));
        Ok::<_, StreamError>(match entry(store, address) {
            Some(old) => Change::Replace {
                seq: old.seq,
                entry: new,
            },
            None => Change::Insert(new),
        })
    };
    Ok(match number {
        0 => vec![change(&a, 1, octets(1, 5_000))?],
        1 => vec![change(&b, 1, octets(2, 150_000))?],
        2 => vec![change(&a, 2, octets(3, 70_000))?],
        // Two objects in one commit: both or none.
        3 => vec![change(&a, 3, octets(4, 9_000))?, change(&b, 2, octets(5, 9_000))?],
        4 => {
            let old = entry(store, &a).expect("step 0 made it");
            model.get_mut("1.1").expect("step 0 made it").0 = 4;
            vec![Change::Replace {
                seq: old.seq,
                entry: NewEntry {
                    revision: 4,
                    epoch: Epoch(2),
                    ..old.keep()
                },
            }]
        }
        5 => {
            let many: Vec<_> = (0..20_u64)
                .map(|number| {
                    let address = address(&format!("2.{number}"));
                    let content = octets(number, 3_000);
                    model.insert(address.to_string(), (1, content.clone()));
                    (spec(&address, Part::Body), Bytes::from(content))
                })
                .collect();
            let staged = store.write_small(many.clone())?;
            (many.iter().zip(staged))
                .map(|((spec, _), staged)| Change::Insert(new_entry(&spec.address, 1, Content::Staged(staged))))
                .collect()
        }
        6 => {
            model.remove("1.2");
            let old = entry(store, &b).expect("step 1 made it");
            vec![Change::Remove { seq: old.seq }]
        }
        _ => unreachable!("the story has seven steps"),
    })
}

/// Plays the story until the power goes: what was acknowledged, and what was under way.
fn play(disk: &SimulatedDisk) -> (Model, Model) {
    let mut acknowledged = Model::new();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let Ok((store, _)) = Store::open(disk.clone(), vault(&disk, 1), &settings(64)) else {
        return (acknowledged.clone(), acknowledged);
    };
    for number in 0..7 {
        let mut next = acknowledged.clone();
        let done = steps(&store, number, &mut next).is_ok_and(|changes| store.commit(changes).is_ok());
        if !done {
            return (acknowledged, next);
        }
        acknowledged = next;
    }
    (acknowledged.clone(), acknowledged)
}

#[test]
fn crash_at_every_durable_step_keeps_exactly_the_acknowledged() {
    let blank = SimulatedDisk::default();
    let as_disk: Arc<dyn Disk> = Arc::new(blank.clone());
    vault(&as_disk, 1);
    let blank = blank.restart(0);
    let whole = blank.restart(0);
    let (all, _) = play(&whole);
    assert_eq!(all.len(), 21);
    let steps = whole.steps();
    assert!(steps > 60, "{steps}");
    for fuse in 0..steps {
        let disk = blank.restart(0);
        disk.cut_power_after(fuse);
        let (acknowledged, under_way) = play(&disk);
        let disk: Arc<dyn Disk> = Arc::new(disk.restart(fuse));
        let (store, _) = Store::open(disk.clone(), vault(&disk, 2), &settings(64))
            .unwrap_or_else(|error| panic!("power cut at step {fuse}: {error:?}"));
        let found = model(&store);
        assert!(
            found == acknowledged || found == under_way,
            "power cut at step {fuse}: found {:?}",
            found.keys()
        );
        // And it works on.
        put(&store, &address("9.9"), 1, b"after the crash");
    }
}

#[test]
fn power_loss_between_data_and_index_keeps_the_old_version() {
    let disk = SimulatedDisk::default();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, _) = Store::open(as_disk.clone(), vault(&as_disk, 1), &settings(64)).unwrap();
    let address = address("1.1");
    let old = put(&store, &address, 1, &octets(1, 100_000));
    let staged = write(&store, &address, Part::Body, &octets(2, 100_000)).unwrap();
    store.verify(std::slice::from_ref(&staged)).unwrap();
    disk.cut_power_after(0);
    let entry = new_entry(&address, 2, Content::Staged(staged));
    assert!(store.commit(vec![Change::Replace { seq: old.seq, entry }]).is_err());
    let disk: Arc<dyn Disk> = Arc::new(disk.restart(5));
    let (store, entries) = Store::open(disk.clone(), vault(&disk, 2), &settings(64)).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].revision, 1);
    assert_eq!(body(&store, &entries[0]), octets(1, 100_000));
}

#[test]
fn failed_sync_is_never_followed_by_an_acknowledgement() {
    let disk = SimulatedDisk::default();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, _) = Store::open(as_disk.clone(), vault(&as_disk, 1), &settings(64)).unwrap();
    put(&store, &address("1.1"), 1, b"one");
    disk.fail_syncs();
    for number in 0..3 {
        let address = address(&format!("2.{number}"));
        let staged = write(&store, &address, Part::Body, b"two").unwrap();
        let change = Change::Insert(new_entry(&address, 1, Content::Staged(staged)));
        assert!(matches!(store.commit(vec![change]), Err(CommitError::Failed(_))));
    }
}

#[test]
fn numbers_are_never_given_twice_and_commits_are_counted() {
    let disk = SimulatedDisk::default();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, _) = Store::open(as_disk.clone(), vault(&as_disk, 1), &settings(64)).unwrap();
    let first = put(&store, &address("1.1"), 1, b"one").seq;
    store.commit(vec![Change::Remove { seq: first }]).unwrap();
    assert_eq!(store.commits(), 2);
    drop(store);
    let disk: Arc<dyn Disk> = Arc::new(disk.restart(1));
    let (store, _) = Store::open(disk.clone(), vault(&disk, 2), &settings(64)).unwrap();
    assert_eq!(store.commits(), 2);
    assert!(put(&store, &address("1.1"), 1, b"one").seq > first);
}
