//! Damage is found, told and never served; a thief finds nothing.

use super::*;
use crate::store::index::{Group, Index};
use crate::store::scrub::{GoOn, ScrubReport, scrub};
use crate::store::simulated::SimulatedDisk;

fn open(disk: &SimulatedDisk) -> Result<(Store, Vec<Arc<Entry>>), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let vault = vault(&disk, 1);
    Store::open(disk, vault, &settings(64))
}

#[test]
fn rotten_octet_is_reported_by_the_scrub_and_never_served() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    let good = put(&store, &address("1.1"), 1, &octets(1, 300_000));
    let bad = put(&store, &address("1.2"), 1, &octets(2, 300_000));
    let extent = bad.body.as_ref().unwrap().extents[0];
    // The second chunk begins 16 octets after 64 KiB.
    disk.rot(&format!("volumes/{:04}", extent.volume), extent.offset() + 70_000);
    let reader = store.reader(&bad, Part::Body).unwrap();
    assert_eq!(reader.read_at(0, 65_536).unwrap(), octets(2, 300_000)[..65_536]);
    let error = reader.read_at(65_536, 100).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { chunk: 1, .. }), "{error:?}");
    assert_eq!(body(&store, &good), octets(1, 300_000));
    let mut report = ScrubReport::default();
    scrub(&store, &mut report, |_, _| GoOn::Yes);
    assert_eq!(report.copies, 2);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].address, "1.2");
    assert!(report.damaged[0].what.contains("chunk 1"), "{:?}", report.damaged);
}

#[test]
fn copy_that_went_bad_before_its_commit_is_found_by_the_read_back() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    let staged = write(&store, &address("1.1"), Part::Body, &octets(1, 100_000)).unwrap();
    store.verify(std::slice::from_ref(&staged)).unwrap();
    let extent = staged.inner.extents[0];
    disk.rot(&format!("volumes/{:04}", extent.volume), extent.offset() + 5);
    let error = store.verify(&[staged]).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { chunk: 0, .. }), "{error:?}");
}

#[test]
fn swapped_places_of_two_objects_are_detected() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    let one = put(&store, &address("1.1"), 1, &octets(1, 4_000));
    let two = put(&store, &address("1.2"), 1, &octets(2, 4_000));
    let mut swapped = (*one).clone();
    swapped.body = two.body.clone();
    // The wrapped key is bound to its own object.
    assert!(matches!(store.reader(&swapped, Part::Body), Err(ReadError::Vault(_))));
    let mut moved = (*one).clone();
    moved.body.as_mut().unwrap().extents = two.body.as_ref().unwrap().extents.clone();
    let reader = store.reader(&moved, Part::Body).unwrap();
    assert!(matches!(
        reader.read_at(0, 10),
        Err(ReadError::Damaged { chunk: 0, .. })
    ));
    let mut other_revision = (*one).clone();
    other_revision.revision += 1;
    assert!(matches!(
        store.reader_anyway(&other_revision, Part::Body),
        Err(ReadError::Vault(_))
    ));
}

/// Puts rows into the index that the store itself would never write.
fn forge(disk: &SimulatedDisk, rows: &[(u64, Vec<u8>)], next_seq: u64) {
    let (mut index, found) = Index::open(Arc::new(disk.clone()), 1 << 20, settings(1).auditor).unwrap();
    let applied = index.apply(&Group {
        removed: &[],
        added: rows,
        next_seq,
        grown: &found.grown,
        lines: &[],
        pledges: &[],
    });
    assert!(matches!(applied, crate::store::index::Applied::Done));
}

#[test]
fn contradicting_rows_are_told_with_number_and_address() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    let first = put(&store, &address("1.1"), 1, &octets(1, 4_000));
    drop(store);
    let mut outside = (*first).clone();
    outside.address = address("1.9");
    outside.body.as_mut().unwrap().extents = Arc::new(Extents::told(Box::new([Extent {
        volume: 3,
        block: 0,
        blocks: 2,
    }])));
    forge(
        &disk,
        &[
            (2, first.encode_row()),
            (3, b"no entry".to_vec()),
            (4, outside.encode_row()),
            (9, first.encode_row()),
        ],
        6,
    );
    let Err(OpenError::Rows(faults)) = open(&disk) else {
        panic!("a damaged index was opened");
    };
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].starts_with("row 3 cannot be read"), "{told:?}");
    assert!(told[1].starts_with("row 2 of object 1.1: volume 0"), "{told:?}");
    assert!(told[1].ends_with("overlaps another copy"), "{told:?}");
    assert_eq!(
        told[2],
        "row 4 of object 1.9: volume 3 blocks 0..2 lies outside the volumes"
    );
    assert_eq!(told[3], "row 9 of object 1.1 is ahead of the index's counter");
}

#[test]
fn cut_volume_is_told_by_name() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    put(&store, &address("1.1"), 1, &octets(1, 4_000));
    drop(store);
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    as_disk.open("volumes/0000").unwrap().set_len(4096).unwrap();
    let error = open(&disk).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("volumes/0000 has 4096 octets"), "{cause}");
}

#[test]
fn no_plaintext_and_no_key_is_on_any_disk() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    let canary = b"CANARY-4f1d-in-the-coal-mine-77aa".repeat(200);
    let entry = put(&store, &address("1.1"), 1, &canary);
    let many = (0..50)
        .map(|number| {
            let address = address(&format!("2.{number}"));
            (spec(&address, Part::Body), Bytes::from(canary.clone()))
        })
        .collect();
    let staged = store.write_small(many).unwrap();
    let mut keys: Vec<Vec<u8>> = (staged.iter())
        .map(|staged| staged.inner.sealed.key.dek.octets().to_vec())
        .collect();
    let (_, kek) = store.vault().provider().current().unwrap();
    keys.push(kek.octets().to_vec());
    keys.push(canary[..33].to_vec());
    for (name, content) in disk.everything() {
        for key in &keys {
            assert!(!content.windows(key.len()).any(|window| window == key), "{name}");
        }
    }
    assert_eq!(body(&store, &entry), canary);
}

#[test]
fn free_blocks_look_like_used_ones() {
    let disk = SimulatedDisk::default();
    let (store, _) = open(&disk).unwrap();
    put(&store, &address("1.1"), 1, &[0; 100_000]);
    let (_, content) = (disk.everything().into_iter())
        .find(|(name, _)| name == "volumes/0000")
        .unwrap();
    for block in content.chunks(4096) {
        let ones: u32 = block.iter().map(|octet| octet.count_ones()).sum();
        // 32,768 bits; nine standard deviations are 815.
        assert!(ones.abs_diff(16_384) < 815, "{ones}");
    }
}
