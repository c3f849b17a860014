//! Capacity, a full disk, and accounting.

use super::*;
use crate::store::simulated::SimulatedDisk;
use proptest::prelude::*;

fn open(disk: &SimulatedDisk, capacity_mib: u64) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let vault = vault(&disk, 1);
    Store::open(disk, vault, &settings(capacity_mib)).unwrap().0
}

fn fill(store: &Store) -> (Vec<Arc<Entry>>, StreamError) {
    let mut entries = Vec::new();
    loop {
        let number = entries.len() as u64;
        let address = address(&format!("1.{number}"));
        match write(store, &address, Part::Body, &octets(number, 200_000)) {
            Ok(staged) => {
                let change = Change::Insert(new_entry(&address, 1, Content::Staged(staged)));
                entries.extend(store.commit(vec![change]).unwrap());
            }
            Err(error) => return (entries, error),
        }
    }
}

fn all_there(store: &Store, entries: &[Arc<Entry>]) {
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(body(store, entry), octets(number as u64, 200_000));
    }
}

#[test]
fn reached_capacity_is_a_clean_refusal_and_a_removal_makes_room() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 5);
    let (mut entries, error) = fill(&store);
    assert!(matches!(error, StreamError::Full(Full::Capacity { .. })), "{error:?}");
    // 1280 blocks of capacity, 49 for each.
    assert_eq!(entries.len(), 26);
    assert!(matches!(
        store.reserve(1 << 20, Suite::XChaCha20Poly1305),
        Err(Full::Capacity { .. })
    ));
    all_there(&store, &entries);
    let last = entries.pop().unwrap();
    store.commit(vec![Change::Remove { seq: last.seq }]).unwrap();
    drop(last);
    put(&store, &address("2.1"), 1, &octets(1, 190_000));
    all_there(&store, &entries);
}

#[test]
fn full_disk_refuses_writes_loses_nothing_and_still_deletes() {
    let disk = SimulatedDisk::default();
    disk.set_capacity(Some(24 << 20));
    let store = open(&disk, 1024);
    let (mut entries, error) = fill(&store);
    assert!(matches!(error, StreamError::Full(Full::Disk { .. })), "{error:?}");
    assert!(entries.len() > 20, "{}", entries.len());
    assert!(matches!(
        store.reserve(500 << 20, Suite::XChaCha20Poly1305),
        Err(Full::Disk { .. })
    ));
    all_there(&store, &entries);
    let last = entries.pop().unwrap();
    store.commit(vec![Change::Remove { seq: last.seq }]).unwrap();
    drop(last);
    put(&store, &address("2.1"), 1, &octets(1, 190_000));
    drop(store);
    let store = open(&disk.restart(1), 1024);
    all_there(&store, &entries);
}

#[test]
fn disk_that_fills_while_a_volume_grows_leaves_the_volume_as_it_was() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 1024);
    let kept = put(&store, &address("1.0"), 1, &octets(0, 200_000));
    // Somebody else took the room, and the system does not say so beforehand.
    let used: usize = disk.everything().iter().map(|(_, content)| content.len()).sum();
    disk.set_capacity(Some(used + (1 << 19)));
    disk.claim_available(Some(u64::MAX));
    let mut writer = store.writer(spec(&address("1.1"), Part::Body)).unwrap();
    let mut result = Ok(());
    for _ in 0..100 {
        result = writer.write(&octets(1, 100_000));
        if result.is_err() {
            break;
        }
    }
    assert!(matches!(result, Err(StreamError::Full(Full::Io(_)))), "{result:?}");
    drop(writer);
    let used = store.usage().used;
    assert_eq!(used, 49 * 4096);
    all_there(&store, &[kept]);
    disk.set_capacity(None);
    put(&store, &address("1.2"), 1, &octets(2, 4_000_000));
}

#[test]
fn index_that_cannot_grow_refuses_the_commit_and_works_on() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 1024);
    put(&store, &address("1.0"), 1, &octets(0, 200_000));
    let used: usize = disk.everything().iter().map(|(_, content)| content.len()).sum();
    disk.set_capacity(Some(used));
    let mut refused = 0;
    let mut added = Vec::new();
    for number in 0..2000 {
        // Rows without streams, but long ones.
        let mut entry = new_entry(&address(&format!("3.{number}")), 1, Content::Absent);
        entry.writes = vec![
            WriteRecord {
                client: "c".repeat(4000),
                id: uuid::Uuid::nil(),
                request_hash: [1; 32],
                unix_ms: 1,
                revision: 1,
            };
            64
        ];
        match store.commit(vec![Change::Insert(entry)]) {
            Ok(entries) => added.extend(entries),
            Err(CommitError::Index(_)) => {
                refused += 1;
                if refused == 3 {
                    break;
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(refused, 3);
    let commits = store.commits();
    disk.set_capacity(None);
    put(&store, &address("1.1"), 1, &octets(1, 200_000));
    assert_eq!(store.commits(), commits + 1);
    let before = store.entries();
    drop(store);
    let store = open(&disk.restart(3), 1024);
    assert_eq!(store.entries(), before);
    assert_eq!(before.len(), added.len() + 2);
}

#[test]
fn reserved_room_is_there_for_who_reserved_it_only() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 4);
    let reservation = Arc::new(store.reserve(2_500_000, Suite::XChaCha20Poly1305).unwrap());
    let (entries, error) = fill(&store);
    assert!(matches!(error, StreamError::Full(Full::Capacity { .. })));
    assert!(!entries.is_empty());
    let address = address("9.9");
    let mut writer = store
        .writer(StreamSpec {
            reservation: Some(reservation.clone()),
            octets_hint: Some(2_500_000),
            ..spec(&address, Part::Body)
        })
        .unwrap();
    writer.write(&octets(1, 2_500_000)).unwrap();
    let staged = writer.finish().unwrap();
    assert_eq!(staged.plain_octets(), 2_500_000);
    drop((staged, reservation));
    assert_eq!(store.usage().reserved, 0);
}

#[derive(Clone, Debug)]
enum Op {
    Put(u32),
    Batch(u8, u16),
    Abandon(u32),
    Replace(u8, u32),
    Remove(u8),
    Reserve(u32),
    UseReservation(u32),
    DropReservation,
    Read(u8),
    DropReaders,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..900_000_u32).prop_map(Op::Put),
        (1..40_u8, 0..9000_u16).prop_map(|(count, octets)| Op::Batch(count, octets)),
        (0..900_000_u32).prop_map(Op::Abandon),
        (any::<u8>(), 0..900_000_u32).prop_map(|(which, octets)| Op::Replace(which, octets)),
        any::<u8>().prop_map(Op::Remove),
        (0..3_000_000_u32).prop_map(Op::Reserve),
        (0..900_000_u32).prop_map(Op::UseReservation),
        Just(Op::DropReservation),
        any::<u8>().prop_map(Op::Read),
        Just(Op::DropReaders),
    ]
}

fn blocks(entry: &Entry) -> u64 {
    entry
        .streams()
        .flat_map(|(_, stream)| stream.extents.iter())
        .map(|extent| extent.octets())
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn accounting_holds_after_every_operation(ops in prop::collection::vec(op(), 1..60)) {
        let disk = SimulatedDisk::default();
        let store = open(&disk, 6);
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut reservation: Option<Arc<Reservation>> = None;
        let mut readers = Vec::new();
        for (number, op) in ops.into_iter().enumerate() {
            let address = address(&format!("1.{number}"));
            let insert = |staged: StagedStream| {
                let new = new_entry(&staged.inner.address.clone(), 1, Content::Staged(staged));
                store.commit(vec![Change::Insert(new)]).unwrap()
            };
            match op {
                Op::Put(octets) => {
                    if let Ok(staged) = write(&store, &address, Part::Body, &vec![1; octets as usize]) {
                        entries.extend(insert(staged));
                    }
                }
                Op::Batch(count, octets) => {
                    let many = (0..count)
                        .map(|item| {
                            let address = super::address(&format!("1.{number}.{item}"));
                            let spec = StreamSpec { reservation: reservation.clone(), ..spec(&address, Part::Body) };
                            (spec, Bytes::from(vec![2; usize::from(octets)]))
                        })
                        .collect();
                    if let Ok(staged) = store.write_small(many) {
                        entries.extend(staged.into_iter().flat_map(insert));
                    }
                }
                Op::Abandon(octets) => {
                    let spec = StreamSpec { octets_hint: Some(octets.into()), ..spec(&address, Part::Body) };
                    if let Ok(mut writer) = store.writer(spec) {
                        let _ = writer.write(&vec![3; octets as usize]);
                    }
                }
                Op::Replace(which, octets) if !entries.is_empty() => {
                    let which = usize::from(which) % entries.len();
                    let old = entries[which].clone();
                    if let Ok(staged) = write(&store, &old.address, Part::Body, &vec![4; octets as usize]) {
                        let overlap = staged.inner.extents.iter().any(|new| {
                            old.streams().flat_map(|(_, stream)| stream.extents.iter()).any(|old| {
                                new.volume == old.volume
                                    && new.block < old.block + old.blocks
                                    && old.block < new.block + new.blocks
                            })
                        });
                        prop_assert!(!overlap, "the new copy lies where the old one does");
                        let entry = new_entry(&old.address, 2, Content::Staged(staged));
                        entries[which] = store
                            .commit(vec![Change::Replace { seq: old.seq, entry }])
                            .unwrap()
                            .remove(0);
                    }
                }
                Op::Remove(which) if !entries.is_empty() => {
                    let old = entries.swap_remove(usize::from(which) % entries.len());
                    store.commit(vec![Change::Remove { seq: old.seq }]).unwrap();
                }
                Op::Reserve(octets) => reservation = store.reserve(octets.into(), Suite::XChaCha20Poly1305).ok().map(Arc::new),
                Op::UseReservation(octets) => {
                    let spec = StreamSpec { reservation: reservation.clone(), ..spec(&address, Part::Body) };
                    let mut writer = store.writer(spec).unwrap();
                    if writer.write(&vec![5; octets as usize]).is_ok() && let Ok(staged) = writer.finish() {
                        entries.extend(insert(staged));
                    }
                }
                Op::DropReservation => reservation = None,
                Op::Read(which) if !entries.is_empty() => {
                    let entry = &entries[usize::from(which) % entries.len()];
                    readers.push(store.reader(entry, Part::Body).unwrap());
                }
                Op::DropReaders => {
                    for reader in readers.drain(..) {
                        reader.verify(store.vault()).unwrap();
                    }
                }
                Op::Replace(..) | Op::Remove(_) | Op::Read(_) => {}
            }
            let usage = store.usage();
            prop_assert!(usage.used + usage.reserved <= usage.capacity, "{usage:?}");
            prop_assert_eq!(usage.reserved, reservation.as_ref().map_or(0, |reservation| reservation.octets()));
        }
        drop((readers, reservation));
        let used: u64 = entries.iter().map(|entry| blocks(entry)).sum();
        prop_assert_eq!(store.usage(), Usage { capacity: 6 << 20, used, reserved: 0 });
        drop(store);
        let store = open(&disk.restart(1), 6);
        prop_assert_eq!(store.usage().used, used);
        prop_assert_eq!(store.entries().len(), entries.len());
    }
}
