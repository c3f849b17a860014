//! The log of moves: an entry is there if and only if the object is this server's.

use std::time::Duration;

use redb::ReadableTable;
use zones::audit::{Head, Verifier};

use super::*;
use crate::store::audit::{HEAD, HEADS};
use crate::store::simulated::SimulatedDisk;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn audited(keep: Duration) -> Settings {
    Settings {
        auditor: Arc::new(Auditor::new("s2".parse().unwrap(), None, keep)),
        ..settings(64)
    }
}

pub(crate) fn open(disk: &SimulatedDisk, seed: u64, keep: Duration) -> Option<Store> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open(disk.clone(), vault(&disk, seed), &audited(keep))
        .ok()
        .map(|(store, _)| store)
}

/// A copy that waits for its commit.
fn arriving(store: &Store, at: &Address) -> Result<Arc<Entry>, CommitError> {
    let staged = write(store, at, Part::Properties, b"{}").map_err(|_| CommitError::NoSuchEntry { seq: 0 })?;
    let entry = NewEntry {
        journal: Journal::CommitSent {
            from: "s1".parse().unwrap(),
            tx: Tx([1; 16]),
            commit_tx: Tx([2; 16]),
        },
        epoch: Epoch(2),
        properties: Content::Staged(staged),
        from: Some("s1".parse().unwrap()),
        received: Some(Received {
            schema: 1,
            properties: None,
            schema_before: 3,
            level: 1,
            key: Some(4),
            actor: "drain, plan 7".to_owned(),
        }),
        ..new_entry(at, 1, Content::Absent)
    };
    Ok(store.commit(vec![Change::Insert(entry)])?.remove(0))
}

fn taken(entry: &Entry, at: Duration) -> Change {
    Change::Replace {
        seq: entry.seq,
        entry: NewEntry {
            journal: Journal::Active {
                wait: Some(OpenWait {
                    from: "s1".parse().unwrap(),
                }),
            },
            received: None,
            audit: Some(AuditNote {
                unix_ms: u64::try_from(at.as_millis()).unwrap(),
            }),
            ..entry.keep()
        },
    }
}

/// A move that has ended, as the log is to have it.
pub(crate) fn arrived_by(store: &Store, at: &str, from: &str, actor: &str) {
    let staged = write(store, &address(at), Part::Properties, b"{}").unwrap();
    let from: zones::ServerName = from.parse().unwrap();
    let tx = Tx([1; 16]);
    let entry = NewEntry {
        journal: Journal::CommitSent {
            from: from.clone(),
            tx,
            commit_tx: tx,
        },
        epoch: Epoch(2),
        properties: Content::Staged(staged),
        from: Some(from.clone()),
        received: Some(Received {
            schema: 1,
            properties: None,
            schema_before: 1,
            level: 1,
            key: None,
            actor: actor.to_owned(),
        }),
        ..new_entry(&address(at), 1, Content::Absent)
    };
    let entry = store.commit(vec![Change::Insert(entry)]).unwrap().remove(0);
    let owned = NewEntry {
        journal: Journal::Active {
            wait: Some(OpenWait { from }),
        },
        received: None,
        audit: Some(AuditNote { unix_ms: 1 }),
        ..entry.keep()
    };
    let change = Change::Replace {
        seq: entry.seq,
        entry: owned,
    };
    store.commit(vec![change]).unwrap();
}

/// The addresses in the log; panics if it is not whole.
fn logged(store: &Store) -> Vec<String> {
    let page = store.audit(0, 1000).unwrap();
    let Some(signed) = page.head else {
        assert_eq!(store.audit_head(), Head::first(&"s2".parse().unwrap()));
        return Vec::new();
    };
    assert_eq!(signed.head, store.audit_head().to_string());
    let mut verifier = Verifier::new(signed.anchor.parse().unwrap(), None);
    let mut addresses = Vec::new();
    for (number, line) in &page.entries {
        verifier.line(*number, line);
        addresses.push(zones::audit::Entry::read(line).unwrap().address.to_string());
    }
    verifier.end(store.audit_head()).unwrap();
    addresses
}

fn owned(store: &Store) -> Vec<String> {
    let mut entries = store.entries();
    entries.retain(|entry| matches!(entry.journal, Journal::Active { .. }));
    entries.iter().map(|entry| entry.address.to_string()).collect()
}

/// Six objects arrive, two of them in one commit, until the power goes.
fn play(disk: &SimulatedDisk) {
    let Some(store) = open(disk, 1, DAY) else { return };
    let arrive = |names: &[&str]| {
        let copies: Result<Vec<_>, _> = names.iter().map(|name| arriving(&store, &address(name))).collect();
        let changes = copies?.iter().map(|copy| taken(copy, DAY)).collect();
        store.commit(changes)
    };
    for names in [&["1.1"][..], &["1.2", "1.3"], &["1.4"], &["1.5"], &["1.6"]] {
        if arrive(names).is_err() {
            return;
        }
    }
}

#[test]
fn crash_at_every_durable_step_leaves_object_and_entry_together() {
    let blank = SimulatedDisk::default();
    let as_disk: Arc<dyn Disk> = Arc::new(blank.clone());
    vault(&as_disk, 1);
    let blank = blank.restart(0);
    let whole = blank.restart(0);
    play(&whole);
    let steps = whole.steps();
    for fuse in 0..=steps {
        let disk = blank.restart(0);
        disk.cut_power_after(fuse);
        play(&disk);
        let store = open(&disk.restart(fuse), 2, DAY).unwrap_or_else(|| panic!("power cut at step {fuse}"));
        assert_eq!(logged(&store), owned(&store), "power cut at step {fuse}");
        if fuse == steps {
            assert_eq!(owned(&store).len(), 6);
        }
    }
}

#[test]
fn copy_that_arrived_becomes_the_object_only_with_an_entry() {
    let store = open(&SimulatedDisk::default(), 1, DAY).unwrap();
    let copy = arriving(&store, &address("1.1")).unwrap();
    let Change::Replace { seq, entry } = taken(&copy, DAY) else {
        unreachable!("it replaces")
    };
    let silent = NewEntry {
        audit: None,
        ..entry.clone()
    };
    let refused = store.commit(vec![Change::Replace { seq, entry: silent }]);
    assert!(matches!(refused, Err(CommitError::Contradiction { .. })), "{refused:?}");
    assert_eq!((logged(&store).len(), owned(&store).len()), (0, 0));
    let active = store.commit(vec![Change::Replace { seq, entry }]).unwrap().remove(0);
    let line = store.audit(0, 10).unwrap().entries.remove(0).1;
    let entry = zones::audit::Entry::read(&line).unwrap();
    assert_eq!((entry.from.as_str(), entry.to.as_str(), entry.epoch), ("s1", "s2", 2));
    assert_eq!((entry.schema_from, entry.schema_to), (3, 1));
    assert_eq!((entry.key_from, entry.key_to), (Some(4), Some(1)));
    assert_eq!(
        (entry.actor.as_str(), entry.result.as_str()),
        ("drain, plan 7", "moved")
    );
    // What it does later is no move.
    let later = NewEntry {
        journal: Journal::Active { wait: None },
        ..active.keep()
    };
    let seq = active.seq;
    store.commit(vec![Change::Replace { seq, entry: later }]).unwrap();
    assert_eq!(logged(&store), ["1.1"]);
}

#[test]
fn old_entries_are_cut_off_and_the_chain_goes_on_from_there() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 1, 3 * DAY).unwrap();
    for day in 1..=9_u32 {
        let copy = arriving(&store, &address(&format!("1.{day}"))).unwrap();
        store.commit(vec![taken(&copy, DAY * day)]).unwrap();
    }
    // Those of three days ago and later.
    assert_eq!(logged(&store), ["1.6", "1.7", "1.8", "1.9"]);
    assert_eq!(store.audit_head().count, 9);
    assert_eq!(store.audit(7, 1).unwrap().entries[0].0, 8);
    drop(store);
    let store = open(&disk.restart(1), 2, 3 * DAY).unwrap();
    assert_eq!(logged(&store), ["1.6", "1.7", "1.8", "1.9"]);
    let copy = arriving(&store, &address("2.1")).unwrap();
    store.commit(vec![taken(&copy, DAY * 10)]).unwrap();
    assert_eq!(logged(&store), ["1.7", "1.8", "1.9", "2.1"]);
}

/// Who can write the disk, and has no key, changes the log: the entries no longer lead to the signed head, or that head is not
/// the one that the librarian keeps.
#[test]
fn change_of_the_log_on_disk_is_found() {
    use crate::store::audit::LINES;
    type Tamper = fn(&mut redb::Table<'_, u64, &'static [u8]>);
    let tampers: [(&str, Tamper); 7] = [
        ("removed", |log| drop(log.remove(3).unwrap())),
        ("removed at the end", |log| drop(log.remove(6).unwrap())),
        ("removed at the beginning", |log| drop(log.remove(1).unwrap())),
        ("emptied", |log| log.retain(|_, _| false).unwrap()),
        ("changed", |log| {
            let mut line = log.get(2).unwrap().unwrap().value().to_vec();
            let at = line.windows(2).position(|two| two == b"s1").unwrap();
            line[at + 1] = b'9';
            log.insert(2, line.as_slice()).unwrap();
        }),
        ("swapped", |log| {
            let [one, other] = [2, 3].map(|number| log.get(number).unwrap().unwrap().value().to_vec());
            log.insert(2, other.as_slice()).unwrap();
            log.insert(3, one.as_slice()).unwrap();
        }),
        ("added", |log| {
            let line = log.get(6).unwrap().unwrap().value().to_vec();
            log.insert(7, line.as_slice()).unwrap();
        }),
    ];
    let examine = |store: &Store, kept: Option<Head>| {
        let page = store.audit(0, 1000).unwrap();
        let signed = page.head.unwrap();
        let mut verifier = Verifier::new(signed.anchor.parse().unwrap(), kept);
        for (number, line) in &page.entries {
            verifier.line(*number, line);
        }
        verifier.end(signed.head.parse().unwrap())
    };
    for (name, tamper) in tampers {
        let disk = SimulatedDisk::default();
        play(&disk);
        let store = open(&disk, 2, DAY).unwrap();
        assert_eq!(examine(&store, Some(store.audit_head())), Ok(()));
        {
            let database = store.shared.database.read();
            let transaction = database.as_ref().unwrap().begin_write().unwrap();
            tamper(&mut transaction.open_table(LINES).unwrap());
            transaction.commit().unwrap();
        }
        assert!(examine(&store, None).is_err(), "{name}");
    }
    // A whole older log, head and all, in the place of the newer one.
    let disk = SimulatedDisk::default();
    play(&disk);
    let kept = open(&disk, 2, DAY).unwrap().audit_head();
    let older = SimulatedDisk::default();
    let store = open(&older, 1, DAY).unwrap();
    let copy = arriving(&store, &address("1.1")).unwrap();
    store.commit(vec![taken(&copy, DAY)]).unwrap();
    assert_eq!(examine(&store, None), Ok(()));
    assert!(examine(&store, Some(kept)).is_err());
}

/// As if no entry had been made: the next one would be written over the first.
#[test]
fn head_that_cannot_be_read_is_not_taken_for_an_empty_log() {
    let disk = SimulatedDisk::default();
    play(&disk);
    let store = open(&disk, 2, DAY).unwrap();
    {
        let database = store.shared.database.read();
        let transaction = database.as_ref().unwrap().begin_write().unwrap();
        let mut heads = transaction.open_table(HEADS).unwrap();
        heads.insert(HEAD, &b"{"[..]).unwrap();
        drop(heads);
        transaction.commit().unwrap();
    }
    assert!(store.audit(0, 10).is_err());
    drop(store);
    let disk: Arc<dyn Disk> = Arc::new(disk.restart(1));
    let opened = Store::open(disk.clone(), vault(&disk, 3), &audited(DAY));
    let why = format!("{:#}", anyhow::Error::from(opened.expect_err("the index is refused")));
    assert!(why.contains("the head of the audit log"), "{why}");
}
