//! Copies of objects that other servers own: what is answered for them, and what they are counted as.

use std::os::unix::fs::FileExt;

use super::*;
use crate::store::tests::new_entry;
use crate::store::{AuditNote, Change, Entry, HolderChange, Keeping, OpenWait, Refusal, WriteRecord};

fn s2() -> ServerName {
    "s2".parse().unwrap()
}

/// A row with a body.
async fn row(place: &Place, at: &str, epoch: u64, journal: Journal, body: &[u8]) -> Arc<Entry> {
    let body = place.body(at, body).await;
    let new = NewEntry {
        epoch: Epoch(epoch),
        journal,
        tx: None,
        ..new_entry(&address(at), 7, Content::Staged(body.staged))
    };
    let mut made = place
        .objects
        .commit(vec![(address(at), Change::Insert(new))])
        .await
        .unwrap();
    made.pop().unwrap()
}

fn held(owner: &str, refused: Option<Epoch>) -> Journal {
    Journal::Held {
        owner: owner.parse().unwrap(),
        tx: Tx([4; 16]),
        refused: refused.map(|epoch| Refusal { epoch, tx: Tx([7; 16]) }),
    }
}

async fn replace(place: &Place, old: &Entry, entry: NewEntry) -> Arc<Entry> {
    place.objects.replace(old, entry).await.unwrap()
}

async fn read(place: &Place, at: &str) -> Result<(), Miss> {
    place.objects.read(&address(at)).await.map(|_| ())
}

#[tokio::test]
async fn requests_for_a_held_copy_are_sent_to_its_owner_without_a_question_to_the_librarian() {
    let place = Place::new().await;
    place.stub.pool.lock().silent = true;
    for refused in [None, Some(Epoch(4))] {
        let held = row(&place, "1", 4, held("s2", refused), b"theirs").await;
        let elsewhere = Miss::Elsewhere {
            owner: s2(),
            epoch: Epoch(4),
        };
        assert_eq!(read(&place, "1").await, Err(elsewhere.clone()));
        let refused: WriteError = elsewhere.into();
        assert_eq!(place.objects.admit(&address("1"), &put(1)).await, Err(refused.clone()));
        assert_eq!(place.put("1", put(1)).await, Err(refused.clone()));
        assert_eq!(place.objects.delete(&address("1"), delete()).await, Err(refused));
        assert_eq!(place.objects.begin_move(&address("1")).unwrap_err(), Busy::NotOwned);
        assert_eq!(place.objects.entry(&address("1")), Some(Arc::clone(&held)), "as it was");
        let remove = Change::Remove { seq: held.seq };
        place.objects.commit(vec![(address("1"), remove)]).await.unwrap();
    }
}

/// The write may be in this copy and not yet in that of another holder: then it is not acknowledged, and may still get lost.
#[tokio::test]
async fn write_that_a_held_copy_knows_of_is_acknowledged_by_its_owner_alone() {
    let place = Place::new().await;
    let (write_id, delete) = (Some(Uuid::now_v7()), delete());
    let first = place.put("1", Put { write_id, ..put(1) }).await.unwrap();
    assert_eq!(first.revision, 1);
    let entry = place.objects.entry(&address("1")).unwrap();
    let deletion = WriteRecord {
        client: delete.client.clone(),
        id: delete.write_id.unwrap(),
        request_hash: place.objects.request_hash("delete", &[]),
        ..entry.writes[0].clone()
    };
    let known = |journal| NewEntry {
        journal,
        writes: vec![entry.writes[0].clone(), deletion.clone()],
        ..entry.keep()
    };
    let entry = replace(&place, &entry, known(Journal::Active { wait: None })).await;
    assert_eq!(place.put("1", Put { write_id, ..put(1) }).await, Ok(first));
    assert!(place.objects.delete(&address("1"), delete.clone()).await.is_ok());

    let copy = NewEntry {
        journal: held("s2", None),
        ..entry.keep()
    };
    replace(&place, &entry, copy).await;
    let elsewhere = WriteError::Elsewhere {
        owner: s2(),
        epoch: Epoch(1),
    };
    let again = Put { write_id, ..put(1) };
    assert_eq!(place.objects.admit(&address("1"), &again).await, Err(elsewhere.clone()));
    assert_eq!(place.put("1", again).await, Err(elsewhere.clone()));
    assert_eq!(place.objects.delete(&address("1"), delete).await, Err(elsewhere));
}

#[tokio::test]
async fn held_copies_are_no_objects_of_this_server_and_are_counted_apart() {
    let place = Place::new().await;
    place.put("2", put(2)).await.unwrap();
    let own = place.objects.totals();
    row(&place, "1", 4, held("s2", None), &[7; 9_000]).await;
    row(&place, "3", 9, held("s3", Some(Epoch(9))), &[7; 100]).await;
    let expected = crate::objects::table::Totals {
        open: 1,
        copies: own.copies + 2,
        held: 2,
        held_octets: 4 * 4096,
        ..own
    };
    assert_eq!(place.objects.totals(), expected);
    let only_own = |addresses: Vec<Address>| assert_eq!(addresses, [address("2")]);
    let listed = place.objects.list(None, None, 9);
    only_own(listed.into_iter().map(|summary| summary.address).collect());
    let drained = place.objects.candidates(None, 9);
    only_own(drained.into_iter().map(|(address, _)| address).collect());
    only_own(place.objects.owned_addresses(None, 9));
    assert_eq!(place.objects.figures().objects, 1);
    // A level that only own objects are brought to.
    place
        .objects
        .set_levels(Levels::new(zones::Level(1), zones::Level(2)).unwrap());
    while place.objects.recount() {}
    let swept = place.objects.resting(None, 9);
    only_own(swept.into_iter().map(|entry| entry.address.clone()).collect());
    assert_eq!(place.objects.standing().resting, 1);

    // A restart counts the same, and finds nothing of them to settle.
    let place = place.restart();
    assert_eq!(place.objects.totals(), expected);
    assert!(place.objects.recover().is_empty());
}

#[tokio::test]
async fn server_that_holds_copies_of_others_objects_is_not_clear() {
    let place = Place::new().await;
    let first = row(&place, "1", 4, held("s2", None), b"theirs").await;
    let second = row(&place, "2", 4, held("s2", Some(Epoch(4))), b"theirs").await;
    assert_eq!(
        place.objects.close_for_install(|| 0),
        Err(NotClear::Open { rows: 1 }),
        "it is about to take one"
    );
    let no_more = NewEntry {
        journal: held("s2", None),
        ..second.keep()
    };
    let second = replace(&place, &second, no_more).await;
    let not_clear = place.objects.close_for_install(|| 0).unwrap_err();
    assert_eq!(not_clear, NotClear::Held { copies: 2 });
    assert!(
        not_clear
            .to_string()
            .starts_with("2 copies of other servers' objects are still here"),
        "{not_clear}"
    );
    for held in [first, second] {
        let remove = Change::Remove { seq: held.seq };
        place
            .objects
            .commit(vec![(held.address.clone(), remove)])
            .await
            .unwrap();
    }
    assert_eq!(place.objects.close_for_install(|| 0), Ok(()));
}

/// Turns an octet of the body of a copy on disk.
fn turn(place: &Place, entry: &Entry) {
    let extent = entry.body.as_ref().unwrap().extents[0];
    let path = place.dir.path().join(format!("volumes/{:04}", extent.volume));
    let volume = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut found = [0];
    volume.read_exact_at(&mut found, extent.offset()).unwrap();
    volume.write_all_at(&[found[0] ^ 1], extent.offset()).unwrap();
}

#[tokio::test]
async fn damaged_copy_of_anothers_object_is_told_but_keeps_no_object_from_moving() {
    let place = Place::new().await;
    let theirs = row(&place, "1", 4, held("s2", None), b"theirs").await;
    let ours = row(&place, "2", 4, Journal::Active { wait: None }, b"ours").await;
    turn(&place, &theirs);
    let store = Arc::clone(place.objects.store());
    assert!(store.read_all(&theirs, crate::vault::Part::Body).is_err());
    assert_eq!((store.damaged_count(), place.objects.figures().unreadable), (1, 0));
    turn(&place, &ours);
    assert!(store.read_all(&ours, crate::vault::Part::Body).is_err());
    assert_eq!((store.damaged_count(), place.objects.figures().unreadable), (2, 1));
    // Its holder becomes the owner: now it would have to be moved.
    let promoted = NewEntry {
        epoch: Epoch(5),
        journal: Journal::Active { wait: None },
        ..theirs.keep()
    };
    replace(&place, &theirs, promoted).await;
    assert_eq!(place.objects.figures().unreadable, 2);
}

/// The object moves to a server that holds a copy of it.
#[tokio::test]
async fn move_to_a_holder_takes_the_object_and_leaves_its_held_copy_to_whoever_holds_it() {
    for in_batch in [false, true] {
        let place = Place::new().await;
        // It was here once, went to s2, and is held for s2 since.
        let moved = Journal::Moved {
            to: s2(),
            epoch: Epoch(3),
        };
        row(&place, "1", 2, moved, b"once").await;
        let copy = row(&place, "1", 4, held("s2", None), b"theirs").await.seq;
        assert_eq!(place.objects.totals().retired, 1);
        let (tx, commit_tx) = (Tx([1; 16]), Tx([2; 16]));
        let staged = row(&place, "1", 5, Journal::Staged { from: s2(), tx }, b"new").await;
        let elsewhere = Err(Miss::Elsewhere {
            owner: s2(),
            epoch: Epoch(4),
        });
        assert_eq!(read(&place, "1").await, elsewhere, "a staged copy is never served");
        assert_eq!(place.objects.incoming(&address("1")), Some(Arc::clone(&staged)));

        // From here on the register decides: the source may know of the commit first, and sends its requests here.
        let sent = NewEntry {
            journal: Journal::CommitSent {
                from: s2(),
                tx,
                commit_tx,
            },
            ..staged.keep()
        };
        replace(&place, &staged, sent).await;
        drop(staged);
        place.register(
            "1",
            "s2",
            4,
            State::Moving {
                to: "s1".parse().unwrap(),
            },
        );
        assert_eq!(read(&place, "1").await, elsewhere);
        place.register("1", "s1", 5, State::Stable);
        let change = place.objects.arriving(&address("1"));
        assert!(change.is_some(), "a read waits for it, and asks no more");
        let objects = Arc::clone(&place.objects);
        let waiting = tokio::spawn(async move { objects.read(&address("1")).await.map(|_| ()) });
        assert_eq!(place.objects.admit(&address("1"), &put(1)).await, Ok(()));
        let early = place.put("1", put(1)).await;
        assert!(matches!(early, Err(WriteError::Unavailable { .. })), "{early:?}");
        let early = place.objects.delete(&address("1"), delete()).await;
        assert!(matches!(early, Err(WriteError::Unavailable { .. })), "{early:?}");
        assert!(!waiting.is_finished());

        let takes = |entry: &Entry| NewEntry {
            audit: Some(AuditNote { unix_ms: 1 }),
            journal: Journal::Active {
                wait: Some(OpenWait { from: s2() }),
            },
            ..entry.keep()
        };
        match in_batch {
            false => {
                let taken = place.objects.became_owner(&address("1"), WriteGate::Open, takes).await;
                taken.unwrap();
            }
            true => {
                let step = BatchStep::Arrived {
                    address: address("1"),
                    writes: WriteGate::Open,
                    change: Box::new(takes),
                };
                assert!(place.objects.batch(vec![step]).await.iter().all(Result::is_ok));
            }
        }
        assert_eq!(waiting.await.unwrap(), Ok(()));
        // The copy that was given away is gone, the one that is held is not.
        let rows = |place: &Place| {
            let mut epochs: Vec<u64> = place.objects.entries().iter().map(|entry| entry.epoch.0).collect();
            epochs.sort_unstable();
            epochs
        };
        assert_eq!(rows(&place), [4, 5]);
        assert_eq!(place.objects.entry(&address("1")).unwrap().epoch, Epoch(5));
        let held: Vec<u64> = place
            .objects
            .held_by(&s2(), None, 9)
            .iter()
            .map(|row| row.seq)
            .collect();
        assert_eq!(held, [copy]);
        assert_eq!((place.objects.totals().held, place.objects.totals().objects), (1, 1));

        let place = place.restart();
        assert_eq!(rows(&place), [4, 5]);
        assert_eq!(place.objects.entry(&address("1")).unwrap().epoch, Epoch(5));
        let drop_it = BatchStep::Row {
            address: address("1"),
            seq: copy,
            change: None,
        };
        assert!(place.objects.batch(vec![drop_it]).await.iter().all(Result::is_ok));
        assert_eq!(rows(&place), [5]);
        assert_eq!(place.objects.totals().held, 0);
    }
}

/// It went away and came back before whoever holds the older copy has removed it.
#[tokio::test]
async fn arrival_takes_the_place_of_what_was_given_away_and_of_no_held_copy_below_it() {
    let place = Place::new().await;
    let copy = row(&place, "1", 4, held("s2", None), b"theirs").await;
    let moved = Journal::Moved {
        to: s2(),
        epoch: Epoch(6),
    };
    row(&place, "1", 5, moved, b"once").await;
    let tx = Tx([1; 16]);
    let sent = Journal::CommitSent {
        from: s2(),
        tx,
        commit_tx: tx,
    };
    row(&place, "1", 7, sent, b"new").await;
    let takes = |entry: &Entry| NewEntry {
        audit: Some(AuditNote { unix_ms: 1 }),
        journal: Journal::Active {
            wait: Some(OpenWait { from: s2() }),
        },
        ..entry.keep()
    };
    let taken = place
        .objects
        .became_owner(&address("1"), WriteGate::Open, takes)
        .await
        .unwrap();
    assert_eq!(place.objects.entries(), [taken, copy]);
}

/// Whoever was sent here by a forward entry that leads here still is answered, and not refused.
#[tokio::test]
async fn former_source_of_an_object_may_still_forward_while_a_copy_of_it_is_held() {
    let place = Place::new().await;
    let moved = Journal::Moved {
        to: s2(),
        epoch: Epoch(3),
    };
    let moved = row(&place, "1", 2, moved, b"once").await;
    let s3: ServerName = "s3".parse().unwrap();
    let from_s3 = NewEntry {
        from: Some(s3.clone()),
        ..moved.keep()
    };
    replace(&place, &moved, from_s3).await;
    row(&place, "1", 3, held("s2", None), b"theirs").await;
    assert!(place.objects.came_from(&address("1"), &s3));
    assert!(!place.objects.came_from(&address("1"), &s2()));
}

fn addresses(entries: Vec<Arc<Entry>>) -> Vec<String> {
    entries.iter().map(|entry| entry.address.to_string()).collect()
}

#[tokio::test]
async fn held_copies_are_found_by_their_owner_in_order_and_some_at_a_time() {
    let place = Place::new().await;
    for at in ["2", "1.10", "1.9", "1"] {
        row(&place, at, 4, held("s2", None), b"theirs").await;
    }
    row(&place, "1.1", 4, held("s3", None), b"theirs").await;
    place.put("1.2", put(1)).await.unwrap();
    let found = |owner: &str, after: Option<&str>, most| {
        let after = after.map(address);
        addresses(place.objects.held_by(&owner.parse().unwrap(), after.as_ref(), most))
    };
    assert_eq!(found("s2", None, 9), ["1", "1.10", "1.9", "2"]);
    assert_eq!(found("s2", None, 2), ["1", "1.10"]);
    assert_eq!(found("s2", Some("1.10"), 2), ["1.9", "2"]);
    assert_eq!(found("s2", Some("1.10"), 1), ["1.9"]);
    assert_eq!(found("s3", None, 9), ["1.1"]);
    assert_eq!(found("s1", None, 9), Vec::<String>::new());
}

#[tokio::test]
async fn objects_that_others_hold_or_are_about_to_are_found_in_order_and_some_at_a_time() {
    let place = Place::new().await;
    let change = || HolderChange {
        server: s2(),
        adds: true,
        tx: Tx([5; 16]),
        old: Tx([4; 16]),
    };
    let noted = |others: &[&str], change| Keeping {
        others: others.iter().map(|other| other.parse().unwrap()).collect(),
        change,
    };
    for (at, keeping) in [
        ("3", Some(noted(&["s2"], None))),
        ("2", Some(noted(&[], Some(change())))),
        ("1.1", Some(noted(&["s2", "s3"], Some(change())))),
        // Nobody but this server.
        ("1.2", Some(noted(&[], None))),
        ("1.3", None),
    ] {
        place.put(at, put(1)).await.unwrap();
        let set = move |entry: &Entry| NewEntry {
            keeping,
            ..entry.keep()
        };
        place.objects.step(&address(at), set).await.unwrap();
    }
    // It is s2's to say who holds it.
    let theirs = row(&place, "1.4", 4, held("s2", None), b"theirs").await;
    let with_holders = NewEntry {
        keeping: Some(noted(&["s1"], None)),
        ..theirs.keep()
    };
    replace(&place, &theirs, with_holders).await;
    let found = |after: Option<&str>, most| addresses(place.objects.shared(after.map(address).as_ref(), most));
    assert_eq!(found(None, 9), ["1.1", "2", "3"]);
    assert_eq!(found(None, 2), ["1.1", "2"]);
    assert_eq!(found(Some("1.1"), 1), ["2"]);
}

#[tokio::test]
async fn notes_of_other_holders_stay_with_the_object_and_go_with_its_end() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let keeping = Some(Keeping {
        others: vec![s2()],
        change: None,
    });
    let noted = keeping.clone();
    let note = move |entry: &Entry| NewEntry {
        keeping: noted,
        ..entry.keep()
    };
    place.objects.step(&address("1"), note).await.unwrap();
    let now = |place: &Place| place.objects.entry(&address("1")).unwrap();
    // As if every holder had confirmed it; nobody says so of the next revision.
    let share = |place: &Place| {
        let confirmed = crate::objects::Share::Confirmed {
            epoch: Epoch(1),
            revision: now(place).revision,
            under: Vec::new(),
            quiet_at: BootInstant::ZERO,
        };
        place.objects.set_share(&address("1"), Some(confirmed));
    };
    share(&place);
    assert!(matches!(
        place.put("1", put(2)).await,
        Err(WriteError::Unavailable { .. })
    ));
    assert_eq!((now(&place).revision, &now(&place).keeping), (2, &keeping));
    share(&place);
    let (to, tx) = (s2(), Tx([1; 16]));
    for journal in [
        Journal::Moving { to: to.clone(), tx },
        Journal::Sealed {
            to,
            tx,
            revision: 2,
            digests: now(&place).digests(),
        },
        Journal::Active { wait: None },
    ] {
        let step = |entry: &Entry| NewEntry {
            journal,
            ..entry.keep()
        };
        place.objects.step(&address("1"), step).await.unwrap();
        assert_eq!(now(&place).keeping, keeping);
    }
    let place = place.restart();
    assert_eq!(now(&place).keeping, keeping);

    // Its deletion is s1's to send until it is settled; then nobody holds it any more.
    let request = delete();
    let sent = steps::delete(&now(&place), &request, [0; 32], tx, crate::clock::unix_ms()).map(|step| match step {
        steps::Step::Row(row) => row.keeping,
        steps::Step::Known(written) => panic!("{written:?}"),
    });
    assert_eq!(sent, Ok(keeping));
    share(&place);
    place.objects.delete(&address("1"), request).await.unwrap();
    assert_eq!(now(&place).keeping, None);
}
