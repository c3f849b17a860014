//! Creations and deletions: what is known when.

use super::*;
use crate::store::Change;
use crate::store::tests::new_entry;

#[tokio::test]
async fn deleted_object_stays_deleted_and_its_deletion_repeats() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let delete = delete();
    let ended = place.objects.delete(&address("1"), delete.clone()).await.unwrap();
    assert_eq!((ended.epoch, ended.revision), (Epoch(2), 2));
    assert_eq!(place.stub.register(&address("1")).unwrap().state, State::Deleted);
    let place = place.restart();
    assert_eq!(place.objects.delete(&address("1"), delete).await, Ok(ended));
    assert_eq!(
        place.objects.delete(&address("1"), super::delete()).await,
        Err(WriteError::Deleted)
    );
    assert_eq!(place.put("1", put(1)).await, Err(WriteError::Deleted));
    let read = place.objects.read(&address("1")).await.map(|_| ());
    assert_eq!(read, Err(Miss::Deleted));
    assert_eq!(place.objects.figures().objects, 0);
    assert_eq!(place.objects.store().usage().used, 0, "its blocks are free");
}

#[tokio::test]
async fn deletion_without_an_object_says_so() {
    let place = Place::new().await;
    assert_eq!(
        place.objects.delete(&address("1"), delete()).await,
        Err(WriteError::Absent)
    );
}

#[tokio::test]
async fn creation_whose_reply_is_lost_ends_as_the_register_says() {
    let place = Place::new().await;
    place.stub.pool.lock().lose_replies = 1;
    let made = place.put("1", put(1)).await.unwrap();
    assert!(made.created);
    assert_eq!(place.properties("1").await, json!({"n": 1}));
}

#[tokio::test]
async fn loser_of_two_creations_names_the_winner_and_drops_its_copy() {
    let place = Place::new().await;
    // The update is lost once; meanwhile another server makes the object.
    place.stub.pool.lock().lose_updates = 1;
    let objects = Arc::clone(&place.objects);
    let losing = tokio::spawn(async move { objects.put(&address("1"), put(1)).await });
    while place.stub.pool.lock().lose_updates > 0 {
        tokio::task::yield_now().await;
    }
    place.register("1", "s2", 1, State::Stable);
    let elsewhere = WriteError::Elsewhere {
        owner: "s2".parse().unwrap(),
        epoch: Epoch(1),
    };
    assert_eq!(losing.await.unwrap(), Err(elsewhere));
    assert!(place.objects.entries().is_empty());
    assert_eq!(place.objects.store().usage().used, 0);
}

#[tokio::test]
async fn creation_that_the_librarian_refuses_leaves_nothing() {
    let place = Place::new().await;
    place
        .stub
        .pool
        .lock()
        .roles
        .insert("s1".parse().unwrap(), Role::Reserve);
    let refused = place.put("1", put(1)).await;
    assert!(matches!(refused, Err(WriteError::NotServing { .. })), "{refused:?}");
    assert!(place.objects.entries().is_empty());
}

#[tokio::test]
async fn creation_goes_on_when_its_client_is_gone() {
    let place = Place::new().await;
    let objects = Arc::clone(&place.objects);
    place.stub.pool.lock().lose_updates = 1;
    let gone = tokio::spawn(async move { objects.put(&address("1"), put(1)).await });
    while place.stub.pool.lock().lose_updates > 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    // The read waits until the creation has settled.
    assert_eq!(place.properties("1").await, json!({"n": 1}));
}

/// An entry as a crash left it.
fn crashed(at: &str, journal: Journal) -> Change {
    Change::Insert(NewEntry {
        journal,
        tx: None,
        ..new_entry(&address(at), 1, Content::Absent)
    })
}

#[tokio::test]
async fn open_creation_is_settled_after_a_restart_by_its_register() {
    let tx = Tx([3; 16]);
    for (registered, owner) in [(None, Some("s1")), (Some("s1"), Some("s1")), (Some("s2"), Some("s2"))] {
        let place = Place::new().await;
        let change = crashed("1", Journal::CreateSent { tx });
        place.objects.commit(vec![(address("1"), change)]).await.unwrap();
        if let Some(owner) = registered {
            place.register("1", owner, 1, State::Stable);
        }
        let place = place.restart();
        assert!(place.objects.recover().is_empty());
        let read = place.objects.read(&address("1")).await.map(|_| ());
        match owner {
            Some("s1") => assert_eq!(read, Ok(())),
            _ => assert!(matches!(read, Err(Miss::Elsewhere { .. })), "{read:?}"),
        }
        let register = place.stub.register(&address("1")).unwrap();
        assert_eq!(Some(register.owner.as_str()), owner);
    }
}

#[tokio::test]
async fn open_deletion_is_finished_after_a_restart() {
    for already in [false, true] {
        let place = Place::new().await;
        let change = crashed("1", Journal::DeleteSent { tx: Tx([3; 16]) });
        place.objects.commit(vec![(address("1"), change)]).await.unwrap();
        match already {
            true => place.register("1", "s1", 2, State::Deleted),
            false => place.register("1", "s1", 1, State::Stable),
        }
        let place = place.restart();
        assert!(place.objects.recover().is_empty());
        let read = place.objects.read(&address("1")).await.map(|_| ());
        assert_eq!(read, Err(Miss::Deleted), "held until it is settled");
        let register = place.stub.register(&address("1")).unwrap();
        assert_eq!((register.state, register.epoch), (State::Deleted, Epoch(2)));
    }
}
