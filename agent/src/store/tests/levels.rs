//! Copies of every level on disk: what comes back, what is refused, and what a row says.

use super::*;
use crate::store::simulated::SimulatedDisk;
use crate::vault::VaultError;

const LEVELS: [Level; 3] = [Level(1), Level(2), Level(3)];

fn open(disk: &SimulatedDisk, seed: u64) -> (Store, Vec<Arc<Entry>>) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let vault = vault(&disk, seed);
    Store::open(disk, vault, &settings(64)).unwrap()
}

fn entry_at(address: &Address, level: Level, content: Content) -> NewEntry {
    NewEntry {
        level,
        ..new_entry(address, 1, content)
    }
}

fn put_at(store: &Store, address: &Address, level: Level, content: &[u8]) -> Arc<Entry> {
    let mut writer = store
        .writer(StreamSpec {
            level,
            octets_hint: Some(content.len() as u64),
            ..spec(address, Part::Body)
        })
        .unwrap();
    for piece in content.chunks(10_000) {
        writer.write(piece).unwrap();
    }
    let staged = writer.finish().unwrap();
    store.verify(std::slice::from_ref(&staged)).unwrap();
    let entry = entry_at(address, level, Content::Staged(staged));
    store.commit(vec![Change::Insert(entry)]).unwrap().pop().unwrap()
}

/// 3,000,001 octets are padded by a whole chunk and more: the padding is written as the rest is.
#[test]
fn streams_of_every_level_and_length_come_back_also_after_a_restart() {
    const LENGTHS: [usize; 10] = [0, 1, 9, 65_535, 65_536, 65_537, 131_072, 196_607, 1_000_000, 3_000_001];
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 1);
    for level in LEVELS {
        for (number, length) in LENGTHS.into_iter().enumerate() {
            let address = address(&format!("{level}.{number}"));
            let entry = put_at(&store, &address, level, &octets(number as u64, length));
            assert_eq!(
                store.usage().reserved,
                0,
                "what was set aside was enough, and is given back"
            );
            assert_eq!(entry.plain_octets(), length as u64);
        }
    }
    let usage = store.usage();
    drop(store);
    let (store, entries) = open(&disk, 2);
    assert_eq!(store.usage(), usage);
    assert_eq!(entries.len(), 3 * LENGTHS.len());
    for (at, entry) in entries.iter().enumerate() {
        let number = at % LENGTHS.len();
        let content = octets(number as u64, LENGTHS[number]);
        assert_eq!(entry.level, LEVELS[at / LENGTHS.len()]);
        assert_eq!(entry.plain_octets(), content.len() as u64);
        assert_eq!(body(&store, entry), content);
        let reader = store.reader(entry, Part::Body).unwrap();
        for offset in [0, 1, 65_535, 65_536, 70_000, 999_999, 3_000_000] {
            let expected = content
                .get(offset..(offset + 100_000).min(content.len()))
                .unwrap_or(&[]);
            assert_eq!(
                reader.read_at(offset as u64, 100_000).unwrap(),
                expected,
                "offset {offset}"
            );
        }
    }
}

/// The batch path seals as the other one does.
#[test]
fn batch_of_mixed_levels_comes_back() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 3);
    let many: Vec<_> = (0..90_usize)
        .map(|number| {
            let level = LEVELS[number % 3];
            let spec = StreamSpec {
                level,
                ..spec(&address(&format!("2.{number}")), Part::Body)
            };
            (spec, Bytes::from(octets(number as u64, number * 1500)))
        })
        .collect();
    let staged = store.write_small(many).unwrap();
    store.verify(&staged).unwrap();
    for (number, staged) in staged.into_iter().enumerate() {
        let entry = entry_at(
            &address(&format!("2.{number}")),
            LEVELS[number % 3],
            Content::Staged(staged),
        );
        let entry = store.commit(vec![Change::Insert(entry)]).unwrap().pop().unwrap();
        assert_eq!(body(&store, &entry), octets(number as u64, number * 1500));
    }
}

/// Who has the disk has the rows: two objects whose lengths are padded to the same one differ in none of their numbers.
#[test]
fn row_and_places_say_the_padded_length_only() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 4);
    for level in [Level(2), Level(3)] {
        let [short, long] = [98_305, 100_000].map(|length| {
            let entry = put_at(
                &store,
                &address(&format!("{level}.{length}")),
                level,
                &octets(1, length),
            );
            assert_eq!(entry.plain_octets(), length as u64);
            let row = Entry::decode_row(entry.seq, &entry.encode_row()).unwrap();
            let stream = row.body.unwrap();
            let octets: u64 = stream.extents.iter().map(Extent::octets).sum();
            (stream.plain_octets, octets, stream.wrapped_dek.0.len())
        });
        assert_eq!(short, long);
        assert_eq!(short.0, 100_352);
    }
}

/// One octet turned in each kind of place of a two-chunk stream: text, tags, text of the padded chunk, padding, last tag.
#[test]
fn octet_turned_in_text_tag_or_padding_is_found() {
    for level in LEVELS {
        let tags = 16 * u64::from(level.0.max(2) - 1);
        let chunk = 65_536 + tags;
        let padded = if level == Level(1) { 70_000 } else { 71_680 };
        for (place, damaged) in [
            (5, 0),
            (65_536, 0),
            (chunk - 1, 0),
            (chunk, 1),
            (padded + tags - 1, 1),
            (padded + tags, 1),
            (padded + 2 * tags - 1, 1),
        ] {
            let disk = SimulatedDisk::default();
            let (store, _) = open(&disk, 5);
            let entry = put_at(&store, &address("1.1"), level, &octets(1, 70_000));
            let extents = &entry.body.as_ref().unwrap().extents;
            let mut rest = place;
            let extent = extents
                .iter()
                .find(|extent| {
                    let here = rest < extent.octets();
                    rest -= if here { 0 } else { extent.octets() };
                    here
                })
                .unwrap();
            disk.rot(&format!("volumes/{:04}", extent.volume), extent.offset() + rest);
            let error = store.read_all(&entry, Part::Body).unwrap_err();
            assert!(
                matches!(error, ReadError::Damaged { chunk, .. } if chunk == damaged),
                "level {level}, octet {place}: {error:?}"
            );
        }
    }
}

#[test]
fn row_with_a_changed_commitment_suite_or_length_is_not_read() {
    for level in [Level(2), Level(3)] {
        let disk = SimulatedDisk::default();
        let (store, _) = open(&disk, 6);
        let entry = put_at(&store, &address("1.1"), level, &octets(1, 70_000));
        let with = |change: fn(&mut Stream)| {
            let mut changed = (*entry).clone();
            change(changed.body.as_mut().unwrap());
            store.reader(&changed, Part::Body).map(|_| ()).unwrap_err()
        };
        let commitment = |error: ReadError| matches!(error, ReadError::Vault(VaultError::Commitment { .. }));
        assert!(commitment(
            with(|stream| stream.commitment.as_mut().unwrap().0[31] ^= 1)
        ));
        assert!(commitment(with(|stream| stream.commitment = None)));
        assert!(commitment(with(|stream| stream.nonce_prefix[0] ^= 1)));
        let wrapped = |error: ReadError| matches!(error, ReadError::Vault(VaultError::Wrapped { .. }));
        assert!(wrapped(with(|stream| stream.suite = 1)));
        assert!(wrapped(with(|stream| stream.suite = 5 - stream.suite)));
        assert!(wrapped(with(|stream| stream.padded_octets -= 1024)));
        let unknown = with(|stream| stream.suite = 4);
        assert!(matches!(unknown, ReadError::Vault(VaultError::Suite { suite: 4 })));
    }
}

/// A kept stream is bound to its level in every chunk: a row cannot say another one.
#[test]
fn level_of_a_kept_stream_cannot_change() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 7);
    let entry = put_at(&store, &address("1.1"), Level(2), &octets(1, 1000));
    for level in [Level(1), Level(3)] {
        let changed = NewEntry { level, ..entry.keep() };
        let refused = store.commit(vec![Change::Replace {
            seq: entry.seq,
            entry: changed,
        }]);
        assert!(matches!(refused, Err(CommitError::Contradiction { .. })), "{refused:?}");
    }
    // A commit of the same level wraps the key anew, and the length with it.
    let promoted = NewEntry {
        epoch: Epoch(2),
        ..entry.keep()
    };
    let change = Change::Replace {
        seq: entry.seq,
        entry: promoted,
    };
    store.commit(vec![change]).unwrap();
    drop((store, entry));
    let (store, entries) = open(&disk, 8);
    assert_eq!((entries[0].epoch, entries[0].plain_octets()), (Epoch(2), 1000));
    assert_eq!(body(&store, &entries[0]), octets(1, 1000));
}

#[test]
fn unknown_level_is_refused_before_anything_is_written() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk, 9);
    let spec = StreamSpec {
        level: Level(4),
        octets_hint: Some(1 << 20),
        ..spec(&address("1.1"), Part::Body)
    };
    let refused = store.writer(spec).map(|_| ()).unwrap_err();
    assert!(matches!(
        refused,
        StreamError::Vault(VaultError::Level { level: Level(4) })
    ));
    assert_eq!((store.usage().used, store.usage().reserved), (0, 0));
}

/// A padded stream of the largest overhead for its size fits what is set aside for it, in a store with no block more.
#[test]
fn padding_fits_what_was_set_aside() {
    for level in LEVELS {
        let suite = Suite::of_level(level).unwrap();
        let disk = SimulatedDisk::default();
        let (store, _) = open(&disk, 10);
        let octets_of_both = 2 * ((1 << 20) + 1);
        let reservation = Arc::new(store.reserve(octets_of_both, suite).unwrap());
        let before = reservation.octets();
        for (number, part) in [Part::Properties, Part::Body].into_iter().enumerate() {
            let spec = StreamSpec {
                level,
                octets_hint: Some((1 << 20) + 1),
                reservation: Some(reservation.clone()),
                ..spec(&address("1.1"), part)
            };
            let mut writer = store.writer(spec).unwrap();
            writer.write(&octets(number as u64, (1 << 20) + 1)).unwrap();
            let staged = writer.finish().unwrap();
            std::mem::forget(staged);
        }
        assert!(store.usage().used <= before, "level {level}");
        assert!(reservation.octets() + store.usage().used >= before);
    }
}
