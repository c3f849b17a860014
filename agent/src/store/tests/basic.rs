//! Writing, reading, replacing, removing, opening again.

use super::*;
use zones::ServerName;

struct Place {
    _dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    Place { _dir: dir, disk }
}

fn open(place: &Place, seed: u64) -> (Store, Vec<Arc<Entry>>) {
    Store::open(place.disk.clone(), vault(&place.disk, seed), &settings(64)).unwrap()
}

#[test]
fn streams_of_every_length_come_back_also_after_a_restart() {
    let place = place();
    let lengths = [0, 1, 4080, 4096, 65_535, 65_536, 65_537, 131_072, 1_000_000, 3_000_001];
    let (store, entries) = open(&place, 1);
    assert!(entries.is_empty());
    for (number, &length) in lengths.iter().enumerate() {
        let address = address(&format!("1.{number}"));
        let entry = put(&store, &address, 1, &octets(number as u64, length));
        assert_eq!(body(&store, &entry), octets(number as u64, length));
    }
    let usage = store.usage();
    drop(store);
    let (store, entries) = open(&place, 2);
    assert_eq!(store.usage(), usage);
    assert_eq!(entries.len(), lengths.len());
    for (number, entry) in entries.iter().enumerate() {
        let content = octets(number as u64, lengths[number]);
        assert_eq!(body(&store, entry), content);
        let reader = store.reader(entry, Part::Body).unwrap();
        for offset in [0, 1, 65_535, 65_536, 70_000, 999_999] {
            let expected = content
                .get(offset..(offset + 100_000).min(content.len()))
                .unwrap_or(&[]);
            let found = reader.read_at(offset as u64, 100_000).unwrap();
            assert_eq!(found, expected, "offset {offset} of {}", content.len());
        }
    }
}

#[test]
fn batch_of_small_objects_comes_back_and_lies_shuffled() {
    let place = place();
    let (store, _) = open(&place, 3);
    let many: Vec<_> = (0..400_usize)
        .map(|number| {
            let address = address(&format!("2.{number}"));
            (
                spec(&address, Part::Body),
                Bytes::from(octets(number as u64, number * 37)),
            )
        })
        .collect();
    let staged = store.write_small(many.clone()).unwrap();
    store.verify(&staged).unwrap();
    let changes = many
        .iter()
        .zip(&staged)
        .map(|((spec, _), staged)| Change::Insert(new_entry(&spec.address, 1, Content::Staged(staged.clone()))))
        .collect();
    let entries = store.commit(changes).unwrap();
    for (entry, (spec, content)) in entries.iter().zip(&many) {
        assert_eq!(entry.address, spec.address);
        assert_eq!(body(&store, entry), *content);
    }
    let places: Vec<_> = staged.iter().map(|staged| staged.inner.extents[0]).collect();
    let rising = places.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(
        (120..280).contains(&rising),
        "places follow the order of the batch: {rising}"
    );
}

#[test]
fn promotion_wraps_the_key_anew_and_leaves_the_chunks_alone() {
    let place = place();
    let (store, _) = open(&place, 4);
    let address = address("3.1");
    let content = octets(1, 200_000);
    let staged = write(&store, &address, Part::Body, &content).unwrap();
    let from: ServerName = "s2".parse().unwrap();
    let mut new = new_entry(&address, 5, Content::Staged(staged));
    new.journal = Journal::Staged { from, tx: Tx([1; 16]) };
    let first = store.commit(vec![Change::Insert(new)]).unwrap().pop().unwrap();
    let promoted = NewEntry {
        epoch: Epoch(2),
        journal: Journal::Active { wait: None },
        ..first.keep()
    };
    let second = store
        .commit(vec![Change::Replace {
            seq: first.seq,
            entry: promoted,
        }])
        .unwrap()
        .pop()
        .unwrap();
    let (old, new) = (first.body.as_ref().unwrap(), second.body.as_ref().unwrap());
    assert_eq!(old.extents, new.extents);
    assert_eq!(old.id, new.id);
    assert_ne!(old.wrapped_dek, new.wrapped_dek);
    assert!(second.seq > first.seq);
    assert_eq!(body(&store, &second), content);
    drop((first, store));
    let (store, entries) = open(&place, 5);
    assert_eq!(entries.len(), 1);
    assert_eq!(*entries[0], *second);
    assert_eq!(body(&store, &entries[0]), content);
}

#[test]
fn reader_keeps_its_copy_until_it_is_dropped() {
    let place = place();
    let (store, _) = open(&place, 6);
    let address = address("4.1");
    let content = octets(2, 300_000);
    let entry = put(&store, &address, 1, &content);
    let used = store.usage().used;
    let reader = store.reader(&entry, Part::Body).unwrap();
    store.commit(vec![Change::Remove { seq: entry.seq }]).unwrap();
    drop(entry);
    assert_eq!(store.usage().used, used);
    for number in 0..50 {
        put(
            &store,
            &super::address(&format!("4.2.{number}")),
            1,
            &octets(3, 100_000),
        );
    }
    assert_eq!(reader.read_all(store.vault()).unwrap(), content);
    let used = store.usage().used;
    drop(reader);
    assert!(store.usage().used < used);
}

#[test]
fn change_that_names_a_vanished_entry_changes_nothing() {
    let place = place();
    let (store, _) = open(&place, 7);
    let address = address("5.1");
    let entry = put(&store, &address, 1, b"one");
    let commits = store.commits();
    let result = store.commit(vec![
        Change::Remove { seq: entry.seq },
        Change::Insert(new_entry(&address, 2, Content::Absent)),
        Change::Remove { seq: 999 },
    ]);
    assert!(matches!(result, Err(CommitError::NoSuchEntry { seq: 999 })));
    assert_eq!(store.commits(), commits);
    assert_eq!(store.entries(), [entry]);
}

#[test]
fn replacing_an_entry_by_itself_brings_its_keys_under_the_current_generation() {
    let place = place();
    let (store, _) = open(&place, 8);
    let address = address("6.1");
    let old = put(&store, &address, 1, b"content");
    let provider = store.vault().provider();
    let (first, _) = provider.current().unwrap();
    let second = provider.begin_generation().unwrap();
    let entry = old.keep();
    let new = store
        .commit(vec![Change::Replace { seq: old.seq, entry }])
        .unwrap()
        .remove(0);
    assert_eq!(old.body.as_ref().unwrap().kek_generation, first);
    assert_eq!(new.body.as_ref().unwrap().kek_generation, second);
    provider.destroy(first).unwrap();
    assert_eq!(body(&store, &new), &b"content"[..]);
    assert!(matches!(store.reader(&old, Part::Body), Err(ReadError::Vault(_))));
}

#[test]
fn many_threads_share_commits_and_lose_nothing() {
    let place = place();
    let (store, _) = open(&place, 9);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                let address = address(&format!("7.{thread}"));
                let mut entry = put(store, &address, 0, &octets(thread, 10_000));
                for revision in 1..=20_u64 {
                    let content = octets(thread * 100 + revision, 10_000);
                    let staged = write(store, &address, Part::Body, &content).unwrap();
                    let new = new_entry(&address, revision, Content::Staged(staged));
                    let seq = entry.seq;
                    entry = store
                        .commit(vec![Change::Replace { seq, entry: new }])
                        .unwrap()
                        .remove(0);
                    assert_eq!(body(store, &entry), content);
                }
            });
        }
    });
    // Eight threads that wait together share their transactions: 168 alone.
    assert!(store.commits() < 150, "{}", store.commits());
    drop(store);
    let (store, entries) = open(&place, 10);
    assert_eq!(entries.len(), 8);
    for entry in &entries {
        let thread: u64 = entry.address.as_str()[2..].parse().unwrap();
        assert_eq!(entry.revision, 20);
        assert_eq!(body(&store, entry), octets(thread * 100 + 20, 10_000));
    }
    assert_eq!(store.usage().used, 8 * 3 * 4096);
}

#[test]
fn length_that_was_hinted_wrongly_changes_nothing() {
    let place = place();
    let (store, _) = open(&place, 11);
    let content = octets(4, 200_001);
    for hint in [0, 1, 100, 65_536, 200_001, 5_000_000] {
        let spec = StreamSpec {
            octets_hint: Some(hint),
            ..spec(&address("8.1"), Part::Body)
        };
        let mut writer = store.writer(spec).unwrap();
        for piece in content.chunks(777) {
            writer.write(piece).unwrap();
        }
        let staged = writer.finish().unwrap();
        let read = store.staged_reader(&staged).read_all(store.vault()).unwrap();
        assert_eq!(read, content, "hint {hint}");
        assert_eq!(store.usage().reserved, 0);
    }
    assert_eq!(store.usage().used, 0);
}
