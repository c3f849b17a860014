//! What a move sees of an object, and what clients see of a move.

use zones::Tx;

use super::*;
use crate::clock::BootInstant;
use crate::store::tests::new_entry;
use crate::store::{Change, Entry, OpenWait};
use crate::testing::until;

fn s2() -> ServerName {
    "s2".parse().unwrap()
}

fn journal(journal: Journal) -> impl FnOnce(&Entry) -> NewEntry + Send {
    move |entry| NewEntry {
        journal,
        ..entry.keep()
    }
}

/// Waits until a write stands in line.
async fn line(place: &Place) {
    let slot = place.objects.table.get(&address("1")).unwrap();
    until("a write stands in line", || slot.with(|state| state.gate().has_line())).await;
}

async fn waiting_put(place: &Place, n: u64) -> tokio::task::JoinHandle<Result<Written, WriteError>> {
    let objects = Arc::clone(&place.objects);
    let task = tokio::spawn(async move { objects.put(&address("1"), put(n)).await });
    line(place).await;
    task
}

#[tokio::test]
async fn sealed_object_queues_writes_until_it_is_unsealed() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let _guard = place.objects.begin_move(&address("1")).unwrap();
    assert_eq!(place.objects.begin_move(&address("1")).unwrap_err(), Busy::Moving);
    let sealed = place.objects.seal(&address("1")).await.unwrap();
    assert_eq!(sealed.revision, 1);
    let write = waiting_put(&place, 2).await;
    assert_eq!(place.properties("1").await, json!({"n": 1}), "reads go on");
    place.objects.unseal(&address("1"));
    assert_eq!(write.await.unwrap().unwrap().revision, 2);
}

#[tokio::test]
async fn queued_write_leaves_with_its_object() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let _guard = place.objects.begin_move(&address("1")).unwrap();
    place.objects.seal(&address("1")).await.unwrap();
    let write = waiting_put(&place, 2).await;
    let moved = Journal::Moved {
        to: s2(),
        epoch: Epoch(2),
    };
    place.objects.step(&address("1"), journal(moved)).await.unwrap();
    place.objects.unseal(&address("1"));
    let party = WriteError::Party { to: s2() };
    assert_eq!(write.await.unwrap(), Err(party.clone()));
    assert_eq!(place.put("1", put(3)).await, Err(party));
    let read = place.objects.read(&address("1")).await.map(|_| ());
    assert_eq!(read, Err(Miss::Party { to: s2() }));
    assert_eq!(place.objects.figures().objects, 0);
}

#[tokio::test]
async fn step_of_a_move_keeps_the_last_write() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let moving = Journal::Moving {
        to: s2(),
        tx: Tx([1; 16]),
    };
    let guard = place.objects.begin_move(&address("1")).unwrap();
    place
        .objects
        .step(&address("1"), journal(moving.clone()))
        .await
        .unwrap();
    let changed = guard.changed();
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    assert_eq!(place.put("1", put(2)).await.unwrap().revision, 2);
    changed.await;
    let entry = place.objects.entry(&address("1")).unwrap();
    assert_eq!((entry.revision, &entry.journal), (2, &moving));
}

#[tokio::test]
async fn read_waits_at_a_closed_gate_and_passes_when_it_opens() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    place
        .objects
        .set_reads(&address("1"), ReadGate::Until(BootInstant::now()));
    let objects = Arc::clone(&place.objects);
    let read = tokio::spawn(async move { objects.read(&address("1")).await.map(|reading| reading.entry.revision) });
    tokio::task::yield_now().await;
    assert!(!read.is_finished());
    let end = BootInstant::now() + Duration::from_secs(60);
    place.objects.set_reads(&address("1"), ReadGate::Until(end));
    assert_eq!(read.await.unwrap(), Ok(1));
    place.objects.set_reads(&address("1"), ReadGate::Open);
    assert!(place.objects.read(&address("1")).await.is_ok());
}

#[tokio::test]
async fn deletion_before_the_seal_cancels_the_move_and_is_not_undone_by_it() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let guard = place.objects.begin_move(&address("1")).unwrap();
    let moving = Journal::Moving {
        to: s2(),
        tx: Tx([1; 16]),
    };
    place.objects.step(&address("1"), journal(moving)).await.unwrap();
    place.register("1", "s1", 1, State::Moving { to: s2() });
    place.objects.delete(&address("1"), delete()).await.unwrap();
    guard.cancelled().await;
    let active = Journal::Active { wait: None };
    let late = place.objects.step(&address("1"), journal(active)).await;
    assert!(late.is_err(), "the tombstone stays");
    assert!(place.objects.seal(&address("1")).await.is_err());
    let read = place.objects.read(&address("1")).await.map(|_| ());
    assert_eq!(read, Err(Miss::Deleted));
}

#[tokio::test]
async fn deletion_under_the_seal_queues_like_a_write() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let _guard = place.objects.begin_move(&address("1")).unwrap();
    place.objects.seal(&address("1")).await.unwrap();
    let objects = Arc::clone(&place.objects);
    let deletion = tokio::spawn(async move { objects.delete(&address("1"), delete()).await });
    tokio::task::yield_now().await;
    assert_eq!(place.stub.register(&address("1")).unwrap().state, State::Stable);
    place.objects.unseal(&address("1"));
    assert!(deletion.await.unwrap().is_ok());
}

#[tokio::test]
async fn new_owner_shows_the_object_at_once_and_writes_it_after_the_wait() {
    let place = Place::new().await;
    // It was here before, and moved away.
    place.put("1", put(1)).await.unwrap();
    let moved = Journal::Moved {
        to: s2(),
        epoch: Epoch(2),
    };
    place.objects.step(&address("1"), journal(moved)).await.unwrap();
    let body = place.body("1", b"from s2").await;
    let arriving = NewEntry {
        epoch: Epoch(2),
        journal: Journal::CommitSent {
            from: s2(),
            tx: Tx([1; 16]),
            commit_tx: Tx([2; 16]),
        },
        tx: None,
        ..new_entry(&address("1"), 7, Content::Staged(body.staged))
    };
    let insert = (address("1"), Change::Insert(arriving));
    place.objects.commit(vec![insert]).await.unwrap();
    let read = place.objects.read(&address("1")).await.map(|_| ());
    assert_eq!(read, Err(Miss::Party { to: s2() }), "a staged copy is never served");
    let wait = Some(OpenWait { from: s2() });
    place
        .objects
        .became_owner(&address("1"), WriteGate::Held, |entry| NewEntry {
            audit: Some(crate::store::AuditNote { unix_ms: 1 }),
            epoch: Epoch(3),
            journal: Journal::Active { wait },
            ..entry.keep()
        })
        .await
        .unwrap();
    let reading = place.objects.read(&address("1")).await.unwrap();
    assert_eq!((reading.entry.revision, reading.entry.epoch), (7, Epoch(3)));
    assert_eq!(place.objects.source_of(&address("1")), Some(s2()));
    assert_eq!(place.objects.entries().len(), 1, "the copy that moved away is gone");
    assert_eq!(place.objects.begin_move(&address("1")).unwrap_err(), Busy::Opening);
    let write = waiting_put(&place, 8).await;
    // The end of the wait opens the gate first and is noted afterwards.
    place.objects.release_writes(&address("1"));
    assert_eq!(write.await.unwrap().unwrap().revision, 8);
    let over = Journal::Active { wait: None };
    place.objects.step(&address("1"), journal(over)).await.unwrap();
    assert_eq!(place.put("1", put(9)).await.unwrap().revision, 9);
}

#[tokio::test]
async fn turn_from_before_the_arrival_does_not_write_within_the_wait() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let slot = place.objects.table.get(&address("1")).unwrap();
    let turn = slot.try_turn_of_move().unwrap().unwrap();
    let write = waiting_put(&place, 2).await;
    // The turn is the write's already; before it looks, the object becomes one that has just arrived.
    let next = slot.with(|state| state.gate().end_turn()).unwrap();
    slot.with(|state| state.gate().hold());
    let entry = place.objects.entry(&address("1")).unwrap();
    let wait = Some(OpenWait { from: s2() });
    let arrived = NewEntry {
        journal: Journal::Active { wait },
        ..entry.keep()
    };
    place.objects.replace(&entry, arrived).await.unwrap();
    next.hand_over(turn);
    line(&place).await;
    assert_eq!(place.objects.entry(&address("1")).unwrap().revision, 1);
    place.objects.release_writes(&address("1"));
    assert_eq!(write.await.unwrap().unwrap().revision, 2);
}

/// A registry that is reconciled waits for the steps of moves, and a deletion for the registry.
#[tokio::test]
async fn step_of_a_move_does_not_wait_for_a_deletion_to_settle() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    place.stub.pool.lock().lose_updates = u32::MAX;
    let objects = Arc::clone(&place.objects);
    let deletion = tokio::spawn(async move { objects.delete(&address("1"), delete()).await });
    let sent = |entry: &Entry| matches!(entry.journal, Journal::DeleteSent { .. });
    while !place.objects.entry(&address("1")).is_some_and(|entry| sent(&entry)) {
        tokio::task::yield_now().await;
    }
    let moving = || Journal::Moving {
        to: s2(),
        tx: Tx([1; 16]),
    };
    let step = place.objects.step(&address("1"), journal(moving())).await;
    assert!(matches!(step, Err(StepError::NotOwned(_))), "{step:?}");
    let owned = BatchStep::Owned {
        address: address("1"),
        change: Box::new(journal(moving())),
    };
    let together = place.objects.batch(vec![owned]).await;
    assert!(matches!(together[..], [Err(StepError::NotOwned(_))]), "{together:?}");
    assert!(!deletion.is_finished());
    deletion.abort();
}

#[tokio::test]
async fn restart_keeps_sealed_objects_closed_until_their_move_opens_them() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let sealed = Journal::Sealed {
        to: s2(),
        tx: Tx([1; 16]),
        revision: 1,
        digests: place.objects.entry(&address("1")).unwrap().digests(),
    };
    place.objects.step(&address("1"), journal(sealed)).await.unwrap();
    let place = place.restart();
    let open = place.objects.recover();
    assert_eq!(open.len(), 1);
    let objects = Arc::clone(&place.objects);
    let read = tokio::spawn(async move { objects.read(&address("1")).await.map(|_| ()) });
    let write = waiting_put(&place, 2).await;
    assert!(!read.is_finished());
    let active = Journal::Active { wait: None };
    place.objects.step(&address("1"), journal(active)).await.unwrap();
    place.objects.unseal(&address("1"));
    assert_eq!(read.await.unwrap(), Ok(()));
    assert_eq!(write.await.unwrap().unwrap().revision, 2);
}
