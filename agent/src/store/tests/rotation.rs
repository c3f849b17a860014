//! Generations of keys end: nothing acknowledged is lost, and what is left behind opens nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::store::commit::Prepared;
use crate::store::rotation::{BATCH_ROWS, GENERATIONS_MAX, Rotation, RotationError, Step};
use crate::store::simulated::SimulatedDisk;
use crate::vault::{Generation, WrappedDek};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Steps until nothing is left to do; the first begins a generation.
fn rotate(store: &Store, rotation: &mut Rotation) -> Result<Vec<Step>, RotationError> {
    let mut steps = vec![rotation.step(store, now(), true)?];
    loop {
        match rotation.step(store, now(), false)? {
            Step::Idle => return Ok(steps),
            step => steps.push(step),
        }
        assert!(steps.len() < 100, "{steps:?}");
    }
}

fn alive(store: &Store) -> Vec<u32> {
    let known = store.vault().provider().generations().unwrap();
    known.iter().map(|known| known.generation.0).collect()
}

fn open(disk: &SimulatedDisk, seed: u64) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let vault = vault(&disk, seed);
    Store::open(disk, vault, &settings(64)).unwrap().0
}

/// A store on a blank disk with a few copies of levels 1 and 2.
fn filled(disk: &SimulatedDisk) -> Store {
    let store = open(disk, 1);
    for number in 0..5 {
        put(&store, &address(&format!("1.{number}")), 1, &octets(number, 9_000));
    }
    let padded = StreamSpec {
        level: Level(2),
        ..spec(&address("2.1"), Part::Body)
    };
    let mut staged = store.write_small(vec![(padded, Bytes::from(octets(9, 777)))]).unwrap();
    let entry = NewEntry {
        level: Level(2),
        ..new_entry(&address("2.1"), 1, Content::Staged(staged.pop().unwrap()))
    };
    store.commit(vec![Change::Insert(entry)]).unwrap();
    store
}

fn bodies(store: &Store) -> Vec<(String, u64, Bytes)> {
    let entries = store.entries();
    (entries.iter())
        .map(|entry| (entry.address.to_string(), entry.seq, body(store, entry)))
        .collect()
}

#[test]
fn rotation_ends_the_old_generation_and_moves_no_data() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let (before, content) = (store.entries(), bodies(&store));
    let steps = rotate(&store, &mut Rotation::new(DAY)).unwrap();
    assert!(steps.contains(&Step::Begun(Generation(2))));
    assert!(steps.contains(&Step::Destroyed(vec![Generation(1)])), "{steps:?}");
    assert_eq!(alive(&store), [2]);
    assert_eq!(bodies(&store), content);
    for (old, new) in before.iter().zip(store.entries()) {
        assert_eq!((old.seq, old.epoch, old.revision), (new.seq, new.epoch, new.revision));
        let (old, new) = (old.body.as_ref().unwrap(), new.body.as_ref().unwrap());
        assert_eq!((old.id, &old.extents), (new.id, &new.extents));
        assert_eq!(new.kek_generation, Generation(2));
        assert_ne!(old.wrapped_dek, new.wrapped_dek);
    }
    // Whoever looked at the copies before reads them still.
    for old in &before {
        assert!(!body(&store, old).is_empty());
    }
    drop(store);
    let disk = disk.restart(3);
    assert_eq!(bodies(&open(&disk, 2)), content);
}

#[test]
fn generation_is_begun_at_its_age_and_not_before() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let mut rotation = Rotation::new(DAY);
    let made = store.vault().provider().generations().unwrap()[0].made_unix_s;
    assert_eq!(
        rotation.step(&store, made + DAY.as_secs() - 1, false).unwrap(),
        Step::Idle
    );
    assert_eq!(
        rotation.step(&store, made + DAY.as_secs(), false).unwrap(),
        Step::Begun(Generation(2))
    );
}

/// The commit holds its page from before it wraps until it is answered.
#[test]
fn nothing_is_destroyed_while_a_commit_may_still_wrap_under_it() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let mut rotation = Rotation::new(DAY);
    let commit = store.shared.pages.lock().last().cloned();
    rotation.step(&store, now(), true).unwrap();
    for _ in 0..3 {
        assert_eq!(rotation.step(&store, now(), false).unwrap(), Step::Waiting);
    }
    // Another rotation of the same store waits for it too.
    assert_eq!(Rotation::new(DAY).step(&store, now(), false).unwrap(), Step::Waiting);
    assert_eq!(alive(&store), [1, 2]);
    drop(commit);
    while rotation.step(&store, now(), false).unwrap() != Step::Idle {}
    assert_eq!(alive(&store), [2]);
}

#[test]
fn copies_that_go_or_change_meanwhile_stay_as_they_became() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let mut rotation = Rotation::new(DAY);
    rotation.step(&store, now(), true).unwrap();
    let entries = store.entries();
    store.commit(vec![Change::Remove { seq: entries[0].seq }]).unwrap();
    let (seq, entry) = (
        entries[1].seq,
        NewEntry {
            revision: 7,
            ..entries[1].keep()
        },
    );
    store.commit(vec![Change::Replace { seq, entry }]).unwrap();
    while rotation.step(&store, now(), false).unwrap() != Step::Idle {}
    drop(store);
    let store = open(&disk.restart(1), 2);
    assert_eq!(store.entries().len(), entries.len() - 1);
    assert_eq!(store.entries().last().unwrap().revision, 7);
    assert_eq!(bodies(&store).len(), entries.len() - 1);
}

/// Both where the removal was durable before, and where it shares the transaction.
#[test]
fn rewrapping_brings_no_removed_copy_back() {
    for together in [false, true] {
        let disk = SimulatedDisk::default();
        let store = filled(&disk);
        let count = store.entries().len();
        let gone = store.entries()[0].clone();
        let rewrapped = Prepared::rewrapped((*gone).clone());
        let remove = Change::Remove { seq: gone.seq };
        match together {
            false => {
                store.commit(vec![remove]).unwrap();
                store.apply(vec![rewrapped]).unwrap();
            }
            true => {
                let mut changes = vec![rewrapped];
                changes.extend(commit::prepare_all(&store.shared, vec![remove]).unwrap());
                store.apply(changes).unwrap();
            }
        }
        assert_eq!(store.entries().len(), count - 1, "{together}");
        drop(store);
        assert_eq!(open(&disk.restart(1), 2).entries().len(), count - 1, "{together}");
    }
}

#[test]
fn many_rows_go_in_bounded_batches() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 1);
    let many: Vec<_> = (0..BATCH_ROWS + 10)
        .map(|number| {
            (
                spec(&address(&format!("1.{number}")), Part::Body),
                Bytes::from_static(b"small"),
            )
        })
        .collect();
    let staged = store.write_small(many.clone()).unwrap();
    let changes = (many.iter().zip(staged))
        .map(|((spec, _), staged)| Change::Insert(new_entry(&spec.address, 1, Content::Staged(staged))));
    store.commit(changes.collect()).unwrap();
    let steps = rotate(&store, &mut Rotation::new(DAY)).unwrap();
    let rows = |rows, left| Step::Rewrapped { rows, left };
    assert_eq!(steps[1..3], [rows(BATCH_ROWS as u64, 10), rows(10, 0)]);
}

#[test]
fn key_that_does_not_open_holds_its_generation_and_their_number_is_bounded() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let victim = store.entries()[0].clone();
    {
        // Damage in the index: the wrapped key is another one.
        let mut damaged = (*victim).clone();
        damaged.body.as_mut().unwrap().wrapped_dek.0[30] ^= 1;
        store.shared.live.write().insert(victim.seq, Arc::new(damaged));
    }
    let mut rotation = Rotation::new(DAY);
    for _ in 0..2 * GENERATIONS_MAX {
        rotation.step(&store, now(), true).unwrap();
        for _ in 0..4 {
            rotation.step(&store, now(), false).unwrap();
        }
    }
    assert_eq!(alive(&store).len(), 2, "only the generation of the damaged key stays");
    assert_eq!(
        rotation.step(&store, now(), false).unwrap(),
        Step::Held(vec![victim.address.clone()])
    );
    let most = (0..3 * GENERATIONS_MAX).map(|_| {
        rotation.step(&store, now(), true).unwrap();
        alive(&store).len()
    });
    assert_eq!(most.max(), Some(GENERATIONS_MAX));
    store.commit(vec![Change::Remove { seq: victim.seq }]).unwrap();
    while rotation.step(&store, now(), false).unwrap() != Step::Idle {}
    assert_eq!(alive(&store).len(), 1);
}

/// A commit whose outcome is unknown may have left a row that names the older generation.
#[test]
fn store_that_has_failed_destroys_nothing() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let mut rotation = Rotation::new(DAY);
    rotation.step(&store, now(), true).unwrap();
    while matches!(
        rotation.step(&store, now(), false).unwrap(),
        Step::Rewrapped { left: 1.., .. }
    ) {}
    disk.fail_syncs();
    assert!(rotation.step(&store, now(), false).is_err());
    assert_eq!(alive(&store), [1, 2]);
}

#[test]
fn crash_at_every_durable_step_loses_no_object_and_the_rotation_goes_on() {
    let blank = SimulatedDisk::default();
    let store = filled(&blank);
    let content = bodies(&store);
    drop(store);
    let blank = blank.restart(0);
    let whole = blank.restart(0);
    let before = whole.steps();
    rotate(&open(&whole, 2), &mut Rotation::new(DAY)).unwrap();
    let steps = whole.steps() - before;
    assert!(steps > 10, "{steps}");
    let mut found = BTreeSet::new();
    for fuse in 0..=steps {
        let disk = blank.restart(0);
        disk.cut_power_after(fuse);
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        if let Ok((store, _)) = Store::open(as_disk.clone(), vault(&as_disk, 2), &settings(64)) {
            drop(rotate(&store, &mut Rotation::new(DAY)));
        }
        let disk = disk.restart(fuse);
        let store = open(&disk, 3);
        assert_eq!(bodies(&store), content, "power cut at step {fuse}");
        found.insert(alive(&store));
        let mut rotation = Rotation::new(DAY);
        while rotation.step(&store, now(), false).unwrap() != Step::Idle {}
        assert_eq!(alive(&store).len(), 1, "power cut at step {fuse}");
        assert_eq!(bodies(&store), content, "power cut at step {fuse}");
    }
    assert_eq!(
        found,
        BTreeSet::from([vec![1], vec![1, 2], vec![2]]),
        "every stage was met"
    );
}

/// STORE.md section 8: what an old image opens, and with which keyring.
#[test]
fn old_image_opens_with_the_old_keyring_only() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let gone = store.entries()[0].clone();
    drop(store);
    let image = disk.restart(0);
    let store = open(&disk, 2);
    store.commit(vec![Change::Remove { seq: gone.seq }]).unwrap();
    rotate(&store, &mut Rotation::new(DAY)).unwrap();
    let keyring = disk.read("keyring").unwrap();
    drop(store);

    let old = open(&image.restart(0), 3);
    assert_eq!(
        body(&old, &gone),
        octets(0, 9_000),
        "with the keyring of its time it opens"
    );
    drop(old);

    image.replace("keyring", &keyring).unwrap();
    let with_new_keys = open(&image, 4);
    let entries = with_new_keys.entries();
    assert_eq!(entries.len(), 6);
    for entry in &entries {
        assert!(matches!(
            with_new_keys.reader(entry, Part::Body).unwrap_err(),
            ReadError::Vault(VaultError::Provider(ProviderError::NoGeneration { .. }))
        ));
    }
}

/// Whether the raw octets of the index hold the wrapped key of a copy's body, as a generation that lives opens it.
fn index_holds_key(disk: &SimulatedDisk, store: &Store, copy: &Entry) -> bool {
    let stream = copy.body.as_ref().unwrap();
    let binding = copy.binding(Part::Body, stream.suite).unwrap();
    let length = stream.wrapped_dek.0.len();
    let opens = |wrapped: &[u8]| {
        let wrapped = WrappedDek(wrapped.to_vec());
        (alive(store).into_iter()).any(|alive| store.vault().unwrap(Generation(alive), &wrapped, &binding).is_ok())
    };
    // A row is CBOR: the key stands behind the head of a byte string of its length.
    let head = [0x58, u8::try_from(length).unwrap()];
    let raw = disk.read(index::FILE).unwrap();
    raw.windows(2 + length)
        .any(|window| window.starts_with(&head) && opens(&window[2..]))
}

/// STORE.md section 8: old pages of the index may go on holding what was removed, until the generation ends.
#[test]
fn raw_index_holds_no_key_that_opens_a_copy_removed_a_rotation_ago() {
    let disk = SimulatedDisk::default();
    let store = filled(&disk);
    let mut rotation = Rotation::new(DAY);
    let copies = store.entries();
    let remove = |copy: &Entry| store.commit(vec![Change::Remove { seq: copy.seq }]).unwrap();
    let assert_kept = |copies: &[Arc<Entry>]| {
        for copy in copies {
            assert!(
                index_holds_key(&disk, &store, copy),
                "the search finds the key of {}",
                copy.address
            );
        }
    };
    assert_kept(&copies);
    // Removed before a rotation, in its midst, and after it, when the newest generation has wrapped their keys.
    remove(&copies[0]);
    rotation.step(&store, now(), true).unwrap();
    remove(&copies[1]);
    while rotation.step(&store, now(), false).unwrap() != Step::Idle {}
    assert_kept(&store.entries());
    remove(&copies[2]);
    // The longest of the levels is the last.
    remove(&copies[5]);
    rotate(&store, &mut rotation).unwrap();
    for gone in [0, 1, 2, 5].map(|number| &copies[number]) {
        assert!(
            !index_holds_key(&disk, &store, gone),
            "{} can be opened yet",
            gone.address
        );
    }
    assert_kept(&store.entries());
}
