//! Facts about objects on a real store and real sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;
use zones::{Address, Epoch, Register, Role, ServerName, State, Tx, Want};

use super::*;
use crate::register::stub::Stub;
use crate::store::{Content, NewEntry, RealDisk};
use crate::vault::{Keyring, PoolKey, Secret, SystemEntropy, Vault, VaultError};

mod damaged;
mod ends;
mod held;
mod moves;
mod outage;

/// One agent's objects on a disk of their own, and its librarian.
pub(super) struct Place {
    dir: tempfile::TempDir,
    pub(super) stub: Stub,
    pub(super) objects: Arc<Objects>,
    wanted: watch::Sender<Wanted>,
}

impl Place {
    pub(super) async fn new() -> Place {
        Place::with(Stub::start().await, tempfile::tempdir().unwrap())
    }

    fn with(stub: Stub, dir: tempfile::TempDir) -> Place {
        let disk: Arc<dyn crate::store::Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
        let secret = Secret::Key(Zeroizing::new([7; 32]));
        let entropy = Arc::new(SystemEntropy);
        let keyring = Keyring::open(disk.clone(), &secret, entropy.clone())
            .or_else(|_| Keyring::create(disk.clone(), &secret, entropy.clone()))
            .unwrap();
        Place::with_keys(stub, dir, disk, Box::new(keyring))
    }

    fn with_keys(
        stub: Stub,
        dir: tempfile::TempDir,
        disk: Arc<dyn crate::store::Disk>,
        provider: Box<dyn crate::vault::KeyProvider>,
    ) -> Place {
        let vault = Arc::new(Vault::new(provider, PoolKey::new([9; 32])));
        let settings = crate::store::Settings {
            capacity: 32 << 20,
            step: 1 << 20,
            volume: 32 << 20,
            cache: 1 << 20,
            ..crate::store::Settings::default()
        };
        let (store, entries) = Store::open(disk, vault, &settings).unwrap();
        let (wanted, receiver) = watch::channel(Wanted::default());
        let settings = Settings {
            queued_writes_max: 64,
            queue_wait: Duration::from_secs(5),
            ..Settings::default()
        };
        let objects = Objects::new(
            Arc::new(store),
            entries,
            Arc::new(stub.registers()),
            receiver,
            Arc::default(),
            settings,
        );
        Place {
            dir,
            stub,
            objects,
            wanted,
        }
    }

    /// The same disk and librarian after a restart of the agent.
    pub(super) fn restart(self) -> Place {
        let Place { dir, stub, objects, .. } = self;
        let objects = Arc::into_inner(objects).expect("nothing runs any more");
        drop(objects);
        Place::with(stub, dir)
    }

    pub(super) async fn put(&self, at: &str, put: Put) -> Result<Written, WriteError> {
        self.objects.put(&address(at), put).await
    }

    pub(super) async fn properties(&self, at: &str) -> serde_json::Value {
        let reading = self.objects.read(&address(at)).await.unwrap();
        serde_json::from_slice(&reading.properties().await.unwrap()).unwrap()
    }

    pub(super) async fn body(&self, at: &str, content: &[u8]) -> StagedBody {
        let pieces: Vec<Result<Bytes, std::io::Error>> = content
            .chunks(60_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let stream = futures_util::stream::iter(pieces);
        self.objects.stage_body(&address(at), None, stream).await.unwrap()
    }

    /// What the librarian says of an object of another server.
    pub(super) fn register(&self, at: &str, owner: &str, epoch: u64, state: State) {
        let owner: ServerName = owner.parse().unwrap();
        let holders = match &state {
            State::Deleted => Vec::new(),
            State::Stable | State::Moving { .. } => vec![owner.clone()],
        };
        let register = Register {
            address: address(at),
            epoch: Epoch(epoch),
            owner,
            state,
            tx: Tx(rand::random()),
            holders,
            kind: "file".parse().unwrap(),
            schema: 1,
            level: zones::Level(1),
        };
        let key = register.address.folded();
        self.stub.pool.lock().registers.insert(key, register);
    }
}

pub(super) fn address(text: &str) -> Address {
    text.parse().unwrap()
}

pub(super) fn put(n: u64) -> Put {
    Put {
        client: "app".to_owned(),
        write_id: None,
        condition: Condition::Any,
        kind: None,
        schema: None,
        properties: Some(json!({"n": n}).as_object().unwrap().clone()),
        body: None,
    }
}

pub(super) fn delete() -> Delete {
    Delete {
        client: "app".to_owned(),
        write_id: Some(Uuid::now_v7()),
        condition: Condition::Any,
    }
}

/// New objects are made at what the pool wants, and a part written alone fits the other one after it has changed.
#[tokio::test]
async fn wanted_level_is_for_new_objects_and_a_rewrite_keeps_its_own() {
    let place = Place::new().await;
    let level = |at: &str| place.objects.entry(&address(at)).unwrap().level.0;
    for wanted in [1, 2, 3, 2] {
        place
            .objects
            .set_levels(Levels::new(zones::Level(1), zones::Level(wanted)).unwrap());
        let at = format!("1.{wanted}");
        if place.objects.entry(&address(&at)).is_none() {
            let body = place.body(&at, &[7; 100_001]).await;
            let made = Put {
                body: Some(body),
                ..put(1)
            };
            place.put(&at, made).await.unwrap();
        }
        for made in (1..=3_u8).map(|made| format!("1.{made}")) {
            if place.objects.entry(&address(&made)).is_some() {
                // The properties alone.
                place.put(&made, put(u64::from(wanted))).await.unwrap();
                assert_eq!(place.properties(&made).await, json!({"n": wanted}));
                assert_eq!(format!("1.{}", level(&made)), made);
                let reading = place.objects.read(&address(&made)).await.unwrap();
                assert_eq!(reading.size(), 100_001, "the padding does not count");
            }
        }
        assert_eq!(place.stub.register(&address(&at)).unwrap().level.0, wanted);
    }
    let place = place.restart();
    for at in ["1.1", "1.2", "1.3"] {
        let reading = place.objects.read(&address(at)).await.unwrap();
        let pieces: Vec<Bytes> = reading.body(0..100_001).await.unwrap().try_collect().await.unwrap();
        assert_eq!(pieces.concat(), [7; 100_001]);
    }
}

#[tokio::test]
async fn object_is_made_though_the_pool_asks_for_more_while_its_body_is_taken() {
    let place = Place::new().await;
    let want = |wanted| {
        let levels = Levels::new(zones::Level(1), zones::Level(wanted)).unwrap();
        place.objects.set_levels(levels);
    };
    want(1);
    let body = Some(place.body("1.2", &[7; 100_001]).await);
    want(2);
    place.put("1.2", Put { body, ..put(1) }).await.unwrap();
    assert_eq!(place.objects.entry(&address("1.2")).unwrap().level.0, 1);
    assert_eq!(place.properties("1.2").await, json!({"n": 1}));
    assert_eq!(place.stub.register(&address("1.2")).unwrap().level.0, 1);
}

#[test]
fn levels_that_cannot_be_kept_are_refused() {
    use zones::Level;
    assert!(Levels::new(Level(2), Level(3)).is_ok());
    assert!(matches!(
        Levels::new(Level(1), Level(4)),
        Err(VaultError::Level { level: Level(4) })
    ));
    assert!(matches!(
        Levels::new(Level(0), Level(1)),
        Err(VaultError::Level { level: Level(0) })
    ));
    let low = Levels::new(Level(3), Level(2)).unwrap_err();
    assert!(
        low.to_string().contains("level 2 is below the pool's floor, level 3"),
        "{low}"
    );
    let levels = Levels::new(Level(2), Level(2)).unwrap();
    assert_eq!(levels.admit(Level(2)).unwrap(), Level(2));
    assert_eq!(levels.admit(Level(3)).unwrap(), Level(3), "never below its own");
    assert!(matches!(levels.admit(Level(1)), Err(VaultError::BelowFloor { .. })));
    assert!(matches!(levels.admit(Level(4)), Err(VaultError::Level { .. })));
}

#[tokio::test]
async fn object_reads_back_as_it_was_written_part_by_part() {
    let place = Place::new().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7 % 251) as u8).collect();
    let body = place.body("1.2", &content).await;
    let made = place
        .put(
            "1.2",
            Put {
                kind: Some("photo".parse().unwrap()),
                schema: Some(3),
                body: Some(body),
                ..put(5)
            },
        )
        .await
        .unwrap();
    assert!(made.created);
    assert_eq!((made.epoch, made.revision, made.schema), (Epoch(1), 1, 3));
    assert_eq!(place.properties("1.2").await, json!({"n": 5}));
    let reading = place.objects.read(&address("1.2")).await.unwrap();
    for range in [
        0..3_000_000,
        0..0,
        1..2,
        262_143..262_145,
        2_999_999..3_000_000,
        70_000..1_500_001,
    ] {
        let pieces: Vec<Bytes> = reading.body(range.clone()).await.unwrap().try_collect().await.unwrap();
        assert_eq!(
            pieces.concat(),
            content[range.start as usize..range.end as usize],
            "{range:?}"
        );
    }
    // A write of the properties alone keeps the body.
    let written = place.put("1.2", put(6)).await.unwrap();
    assert_eq!((written.revision, written.created), (2, false));
    let later = place.objects.read(&address("1.2")).await.unwrap();
    assert_eq!(later.size(), 3_000_000);
    assert_eq!(later.entry().kind.as_str(), "photo");
    assert_eq!(place.stub.register(&address("1.2")).unwrap().owner.as_str(), "s1");
}

#[tokio::test]
async fn reading_stays_of_one_revision_while_the_object_is_rewritten() {
    let place = Place::new().await;
    let body = place.body("1", &vec![1; 800_000]).await;
    place
        .put(
            "1",
            Put {
                body: Some(body),
                ..put(1)
            },
        )
        .await
        .unwrap();
    let reading = place.objects.read(&address("1")).await.unwrap();
    let mut stream = std::pin::pin!(reading.body(0..800_000).await.unwrap());
    assert!(stream.next().await.unwrap().unwrap().iter().all(|octet| *octet == 1));
    for n in 2..6 {
        let body = place.body("1", &vec![n; 800_000]).await;
        place
            .put(
                "1",
                Put {
                    body: Some(body),
                    ..put(1)
                },
            )
            .await
            .unwrap();
    }
    let rest: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(rest.concat().iter().all(|octet| *octet == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_of_one_object_are_applied_one_by_one() {
    let place = Place::new().await;
    place.put("1", put(0)).await.unwrap();
    let mut tasks = Vec::new();
    for n in 1..=50 {
        let objects = Arc::clone(&place.objects);
        tasks.push(tokio::spawn(async move { objects.put(&address("1"), put(n)).await }));
    }
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.push(task.await.unwrap().unwrap().revision);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn conditions_compare_revisions() {
    let place = Place::new().await;
    let with = |condition| Put { condition, ..put(1) };
    let absent = place.put("1", with(Condition::IfRevision(1))).await;
    assert_eq!(absent, Err(WriteError::Precondition { revision: None }));
    place.put("1", with(Condition::IfAbsent)).await.unwrap();
    let there = place.put("1", with(Condition::IfAbsent)).await;
    assert_eq!(there, Err(WriteError::Precondition { revision: Some(1) }));
    place.put("1", with(Condition::IfRevision(1))).await.unwrap();
    let stale = place.put("1", with(Condition::IfRevision(1))).await;
    assert_eq!(stale, Err(WriteError::Precondition { revision: Some(2) }));
    place.put("1", with(Condition::IfExists)).await.unwrap();
}

#[tokio::test]
async fn write_id_is_applied_once_and_repeats_its_result() {
    let place = Place::new().await;
    let id = Some(Uuid::now_v7());
    let first = place.put("1", Put { write_id: id, ..put(1) }).await.unwrap();
    place.put("1", put(2)).await.unwrap();
    let again = place.put("1", Put { write_id: id, ..put(1) }).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(place.properties("1").await, json!({"n": 2}));
    let other = place.put("1", Put { write_id: id, ..put(3) }).await;
    assert_eq!(other, Err(WriteError::WriteIdReused));
    let place = place.restart();
    let after = place.put("1", Put { write_id: id, ..put(1) }).await.unwrap();
    assert_eq!(after, first, "remembered on disk");
}

#[tokio::test]
async fn write_that_is_repeated_after_a_deletion_is_answered_as_it_was() {
    let place = Place::new().await;
    let write = |id| Put {
        write_id: Some(id),
        ..put(1)
    };
    let (known, fresh) = (Uuid::now_v7(), Uuid::now_v7());
    let first = place.put("1", write(known)).await.unwrap();
    place.objects.delete(&address("1"), delete()).await.unwrap();
    let place = place.restart();
    place.objects.admit(&address("1"), &write(known)).await.unwrap();
    let again = place.put("1", write(known)).await.unwrap();
    assert_eq!((again.revision, again.created), (first.revision, true));
    let refused = place.objects.admit(&address("1"), &write(fresh)).await;
    assert_eq!(refused, Err(WriteError::Deleted));
    assert_eq!(place.put("1", write(fresh)).await, Err(WriteError::Deleted));
    let of_another = Put {
        client: "other".to_owned(),
        ..write(known)
    };
    assert_eq!(place.put("1", of_another).await, Err(WriteError::Deleted));
}

/// The object went to s2, which gave it on: who is asked for it here takes requests of this server only if it took the object
/// from here.
#[tokio::test]
async fn forward_entry_tells_the_latest_owner_that_is_known() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let entry = place.objects.local().entry(&address("1")).unwrap();
    let forward = NewEntry {
        journal: Journal::Forward {
            to: "s2".parse().unwrap(),
            epoch: Epoch(2),
        },
        properties: Content::Absent,
        ..entry.keep()
    };
    let change = Change::Replace {
        seq: entry.seq,
        entry: forward,
    };
    place.objects.commit(vec![(address("1"), change)]).await.unwrap();
    let read = async || place.objects.read(&address("1")).await.map(|_| ()).unwrap_err();
    let party = Miss::Party {
        to: "s2".parse().unwrap(),
    };
    assert_eq!(read().await, party);
    let latest = Miss::Elsewhere {
        owner: "s3".parse().unwrap(),
        epoch: Epoch(4),
    };
    // The older one comes second, and says nothing any more.
    for (owner, epoch) in [("s3", 4), ("s4", 3)] {
        place.register("1", owner, epoch, State::Stable);
        let register = place.stub.register(&address("1")).unwrap();
        place.objects.shorten_way(&register);
        let shortened = async {
            while read().await != latest {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), shortened)
            .await
            .expect("the way is shortened");
    }
    assert!(
        place
            .objects
            .local()
            .shorter_way(&"s1".parse().unwrap(), &place.stub.register(&address("1")).unwrap())
            .is_none()
    );
    let rows = place.objects.store().entries();
    assert!(
        matches!(&rows[..], [row] if matches!(&row.journal, Journal::Forward { epoch: Epoch(4), .. })),
        "one row"
    );
}

/// Another server deleted the object: only its tombstone knows the write ids.
#[tokio::test]
async fn write_that_is_repeated_after_a_deletion_elsewhere_is_sent_there() {
    let place = Place::new().await;
    place.register("9", "s2", 5, State::Deleted);
    let repeated = Put {
        write_id: Some(Uuid::now_v7()),
        ..put(1)
    };
    let elsewhere = WriteError::Elsewhere {
        owner: "s2".parse().unwrap(),
        epoch: Epoch(5),
    };
    assert_eq!(
        place.objects.admit(&address("9"), &repeated).await,
        Err(elsewhere.clone())
    );
    assert_eq!(place.put("9", repeated).await, Err(elsewhere));
}

/// This server gave the object away and noted its deletion by another.
#[tokio::test]
async fn tombstone_of_a_former_owner_sends_repeated_changes_to_who_deleted_the_object() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    place.objects.delete(&address("1"), delete()).await.unwrap();
    place.register("1", "s2", 9, State::Deleted);
    let elsewhere = WriteError::Elsewhere {
        owner: "s2".parse().unwrap(),
        epoch: Epoch(9),
    };
    let repeated = Put {
        write_id: Some(Uuid::now_v7()),
        ..put(1)
    };
    assert_eq!(
        place.objects.admit(&address("1"), &repeated).await,
        Err(elsewhere.clone())
    );
    assert_eq!(place.put("1", repeated).await, Err(elsewhere.clone()));
    assert_eq!(place.objects.delete(&address("1"), delete()).await, Err(elsewhere));
    assert_eq!(place.put("1", put(1)).await, Err(WriteError::Deleted));
}

#[tokio::test]
async fn address_outside_the_table_is_decided_by_its_register() {
    let place = Place::new().await;
    let read = async |at: &str| place.objects.read(&address(at)).await.map(|_| ());
    assert_eq!(read("9").await, Err(Miss::Absent));
    place.register("9", "s2", 4, State::Stable);
    let elsewhere = Miss::Elsewhere {
        owner: "s2".parse().unwrap(),
        epoch: Epoch(4),
    };
    assert_eq!(read("9").await, Err(elsewhere.clone()));
    assert_eq!(place.put("9", put(1)).await, Err(elsewhere.into()));
    place.register("9", "s2", 5, State::Deleted);
    assert_eq!(read("9").await, Err(Miss::Deleted));
    assert_eq!(place.put("9", put(1)).await, Err(WriteError::Deleted));
    place.register("8.A", "s2", 1, State::Stable);
    assert_eq!(read("8.a").await, Err(Miss::Absent));
    let clash = place.put("8.a", put(1)).await;
    assert_eq!(
        clash,
        Err(WriteError::CaseClash {
            registered: address("8.A")
        })
    );
    assert!(
        place.objects.table.get(&address("9")).is_none(),
        "nothing is left behind"
    );
}

#[tokio::test]
async fn unreachable_librarian_allows_no_404() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    place.stub.pool.lock().silent = true;
    assert!(
        place.objects.read(&address("1")).await.is_ok(),
        "what is here is served"
    );
    let unknown = place.objects.read(&address("2")).await.map(|_| ());
    assert!(matches!(unknown, Err(Miss::Unavailable { .. })), "{unknown:?}");
}

#[tokio::test]
async fn server_that_is_not_serving_takes_no_new_object_but_writes() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    place.wanted.send_modify(|wanted| {
        wanted.want = Some(Want {
            role: Role::Draining,
            targets: Vec::new(),
            plan: 1,
            step: 1,
            policy: zones::Policy::default(),
            errand: zones::Errand::default(),
        });
    });
    let refused = place.put("2", put(1)).await;
    assert!(matches!(refused, Err(WriteError::NotServing { .. })), "{refused:?}");
    assert!(place.objects.admit(&address("2"), &put(1)).await.is_err());
    assert_eq!(place.put("1", put(2)).await.unwrap().revision, 2);
}

#[tokio::test]
async fn listing_is_in_order_below_a_prefix_and_resumes() {
    let place = Place::new().await;
    for at in ["1.10", "1.1.5", "1.1", "1", "1.1.10", "2"] {
        place.put(at, put(1)).await.unwrap();
    }
    let list = |under: Option<&str>, after: Option<&str>, limit| -> Vec<String> {
        let (under, after) = (under.map(address), after.map(address));
        let found = place.objects.list(under.as_ref(), after.as_ref(), limit);
        found.iter().map(|summary| summary.address.to_string()).collect()
    };
    assert_eq!(list(None, None, 10), ["1", "1.1", "1.1.10", "1.1.5", "1.10", "2"]);
    assert_eq!(list(Some("1.1"), None, 10), ["1.1", "1.1.10", "1.1.5"]);
    assert_eq!(list(Some("1.1"), Some("1.1.10"), 10), ["1.1.5"]);
    assert_eq!(list(Some("1.1"), Some("0"), 1), ["1.1"]);
    assert_eq!(list(None, Some("1.10"), 10), ["2"]);
    assert_eq!(place.objects.figures().objects, 6);
}

#[tokio::test]
async fn full_store_refuses_a_write_and_keeps_serving() {
    let place = Place::new().await;
    place.put("1", put(1)).await.unwrap();
    let big = futures_util::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![7; 1 << 20]))));
    let full = place.objects.stage_body(&address("1"), None, big).await;
    assert!(matches!(full, Err(WriteError::Full { .. })), "{full:?}");
    assert_eq!(place.put("1", put(2)).await.unwrap().revision, 2);
}

#[tokio::test]
async fn body_that_breaks_off_changes_nothing() {
    let place = Place::new().await;
    let broken = futures_util::stream::iter([
        Ok(Bytes::from(vec![1; 2 << 20])),
        Err(std::io::Error::other("the client is gone")),
    ]);
    let staged = place.objects.stage_body(&address("1"), Some(3 << 20), broken).await;
    assert!(matches!(staged, Err(WriteError::Body { .. })));
    assert_eq!(place.objects.store().usage().used, 0);
}
