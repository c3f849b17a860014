//! Moves of objects that the destination holds a copy of already.

use super::*;
use crate::store::{Change, Content, NewEntry};

fn s2() -> ServerName {
    "s2".parse().unwrap()
}

/// A copy that nobody counts is in no move's way, and goes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn object_moves_to_a_server_that_holds_an_old_copy() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    s1.put(&address(1), 1, Some(b"the body")).await.unwrap();
    let copy = NewEntry {
        journal: Journal::Held {
            owner: "s1".parse().unwrap(),
            tx: Tx([1; 16]),
            refused: None,
        },
        properties: Content::Absent,
        body: Content::Absent,
        keeping: None,
        ..s1.objects.entry(&address(1)).unwrap().keep()
    };
    let insert = (address(1), Change::Insert(copy));
    s2.objects.commit(vec![insert]).await.unwrap();
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(1).await;
    s1.until_owned(0).await;
    assert_eq!(
        s2.read(&address(1)).await.unwrap(),
        (json!({"n": 1}), b"the body".to_vec())
    );
    until("the old copy is gone", || s2.objects.totals().held == 0).await;
    assert!(s2.read(&address(1)).await.is_ok());
}

/// The new owner waits for this answer before it writes; a server that holds a copy for it has stopped long ago.
#[tokio::test(flavor = "multi_thread")]
async fn former_owner_that_holds_a_copy_since_answers_the_fence_of_its_owner_and_of_no_later_one() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    s1.put(&address(1), 1, None).await.unwrap();
    let entry = s1.objects.entry(&address(1)).unwrap();
    let moved = Journal::Moved {
        to: s2(),
        epoch: Epoch(2),
    };
    let held = Journal::Held {
        owner: s2(),
        tx: Tx([1; 16]),
        refused: None,
    };
    let moved = NewEntry {
        journal: moved,
        ..entry.keep()
    };
    let held = NewEntry {
        epoch: Epoch(2),
        journal: held,
        properties: Content::Absent,
        ..entry.keep()
    };
    let seq = entry.seq;
    let changes = [Change::Replace { seq, entry: moved }, Change::Insert(held)];
    let changes = changes.map(|change| (address(1), change)).to_vec();
    s1.objects.commit(changes).await.unwrap();
    let s2 = dial(&pool, &pool.identity("s2"), &s1).await;
    let mut lane = s2.open_uni().await.unwrap();
    let mut octets = bytes::BytesMut::from(&[LANE][..]);
    for epoch in [Epoch(3), Epoch(2)] {
        let fenced = Either::Reply(Reply::Fenced { epoch });
        write_frame(&mut octets, &address(1), &fenced, &[]);
    }
    lane.write_all(&octets).await.unwrap();
    let answer = timeout(PATIENCE, first_message(s2)).await.unwrap();
    assert_eq!(answer, Either::Request(Request::FenceAnswered { epoch: Epoch(2) }));
}

/// The first message on any lane of the other side: which of them comes first is chance.
async fn first_message(connection: Connection) -> Either {
    let (messages, mut first) = tokio::sync::mpsc::channel(1);
    loop {
        let mut stream = tokio::select! {
            stream = connection.accept_uni() => stream.unwrap(),
            Some(message) = first.recv() => return message,
        };
        let messages = messages.clone();
        tokio::spawn(async move {
            let mut received = bytes::BytesMut::new();
            while let Ok(Some(chunk)) = stream.read_chunk(65_536, true).await {
                received.extend_from_slice(&chunk.bytes);
                let mut frames = received.clone();
                drop(frames.split_to(1));
                if let Some(frame) = take_frame(&mut frames).unwrap() {
                    let message = read_frame::<Either>(&frame).unwrap().1;
                    // Another one was the first.
                    let _ = messages.send(message).await;
                    return;
                }
            }
        });
    }
}
