//! Clients read and write while a librarian's want has everything swept.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::TryStreamExt;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::*;
use crate::control::{Control, Figures, Told};
use crate::objects::{Condition, Objects, Put};
use crate::register::stub::Stub;
use crate::testing::until;

/// Objects that are there before the plan changes.
const OBJECTS: u64 = 120;
/// Octets a second that the want gives.
const RATE: u64 = 2 << 20;

/// One agent without its sockets, and its librarian.
struct Place {
    stub: Stub,
    objects: Arc<Objects>,
    _dir: tempfile::TempDir,
    _tasks: Vec<AbortOnDropHandle<()>>,
    _sweeper: Sweeper,
}

impl Place {
    async fn new() -> Place {
        let stub = Stub::start().await;
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
        let vault = vault(&disk, 1);
        let (store, entries) = Store::open(disk, vault, &settings(128, StoreWork::Threads)).unwrap();
        let registers = Arc::new(stub.registers());
        let (control, wanted) = Control::open(dir.path(), Arc::clone(&registers)).unwrap();
        let stepper = Arc::new(Stepper::new(schemas(), Box::new(Native)));
        let objects = Objects::new(
            Arc::new(store),
            entries,
            registers,
            wanted.clone(),
            stepper,
            Settings::default(),
        );
        let told = Told {
            release: "0.1.0".to_owned(),
            https_port: 9001,
            peer_port: 9101,
            addresses: vec!["127.0.0.1".parse().unwrap()],
            install: Arc::default(),
        };
        let (obeying, mut policies) = (Arc::clone(&objects), wanted.clone());
        let obey = async move {
            while policies.changed().await.is_ok() {
                let policy = policies.borrow_and_update().policy;
                obeying.obey(&policy);
            }
        };
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(control.run(told, Figures::default))),
            AbortOnDropHandle::new(tokio::spawn(obey)),
        ];
        let sweeper = Sweeper::start(Arc::clone(objects.local()), wanted, || 0).unwrap();
        Place {
            stub,
            objects,
            _dir: dir,
            _tasks: tasks,
            _sweeper: sweeper,
        }
    }

    /// What the controller says from now on.
    fn want(&self, plan: u64, policy: Policy, sweep: Option<u64>) {
        self.stub.pool.lock().want = Some(Want {
            role: Role::Serving,
            targets: Vec::new(),
            plan,
            step: 1,
            policy,
            errand: Errand {
                sweep,
                ..Errand::default()
            },
        });
    }

    /// Writes properties and, for every other object, a body that is taken some time before.
    async fn put(&self, at: &Address, n: u64) {
        let body = match n % 2 {
            0 => {
                let content = octets(n, length(n));
                let pieces = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from(content))]);
                Some(self.objects.stage_body(at, None, pieces).await.unwrap())
            }
            _ => None,
        };
        // The sweep comes through between the body and the write.
        tokio::task::yield_now().await;
        let put = Put {
            client: "app".to_owned(),
            write_id: Some(Uuid::now_v7()),
            condition: Condition::Any,
            kind: None,
            schema: Some(1),
            properties: Some(json!({"n": n}).as_object().unwrap().clone()),
            body,
        };
        self.objects
            .put(at, put)
            .await
            .unwrap_or_else(|error| panic!("write {n} of {at}: {error}"));
    }

    /// The number of the last write, and the body.
    async fn read(&self, at: &Address) -> (u64, Vec<u8>) {
        let reading = self
            .objects
            .read(at)
            .await
            .unwrap_or_else(|miss| panic!("{at}: {miss:?}"));
        let properties: Value = serde_json::from_slice(&reading.properties().await.unwrap()).unwrap();
        let pieces: Vec<Bytes> = reading
            .body(0..reading.size())
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let word = if reading.entry().schema == 3 { "number" } else { "n" };
        (properties[word].as_u64().unwrap(), pieces.concat())
    }
}

/// Some bodies are longer than what is swept in groups.
fn length(n: u64) -> usize {
    match n % 10 {
        0 => 300_000,
        _ => 2_000,
    }
}

fn at(n: u64) -> Address {
    address(&format!("3.{n}"))
}

/// A client's writes of its own objects, one after the other; it knows what it wrote last.
async fn write_and_read(place: Arc<Place>, client: u64, ended: Arc<AtomicBool>, operations: Arc<AtomicU64>) {
    let own: Vec<u64> = (0..OBJECTS).filter(|n| n % 8 == client).collect();
    let mut last = BTreeMap::new();
    let mut round = 0;
    while !ended.load(Ordering::Relaxed) {
        for n in &own {
            let number = n + OBJECTS * (1 + round % 1000);
            place.put(&at(*n), number).await;
            // A write of an odd number has no body of its own.
            let body = match number.is_multiple_of(2) {
                true => number,
                false => last.get(n).map_or(*n, |(_, body)| *body),
            };
            last.insert(*n, (number, body));
            let (number, body) = last[n];
            let read = place.read(&at(*n)).await;
            let expected = if body.is_multiple_of(2) {
                octets(body, length(body))
            } else {
                Vec::new()
            };
            assert_eq!(read.0, number, "object {n} has lost a write");
            assert!(read.1 == expected, "object {n}: its body is another one");
            operations.fetch_add(2, Ordering::Relaxed);
            if ended.load(Ordering::Relaxed) {
                return;
            }
        }
        round += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn want_has_every_object_swept_while_clients_lose_no_write_and_no_read_fails() {
    let place = Arc::new(Place::new().await);
    place.want(1, Policy::default(), None);
    for n in 0..OBJECTS {
        place.put(&at(n), n).await;
    }
    let before: BTreeMap<Address, Arc<Entry>> = (place.objects.entries().into_iter())
        .map(|entry| (entry.address.clone(), entry))
        .collect();
    let is = |level: u8, schema: u32| move |entry: &Arc<Entry>| (entry.level.0, entry.schema) == (level, schema);
    assert_eq!(
        before.values().filter(|entry| is(1, 2)(entry)).count() as u64,
        OBJECTS - 1
    );
    let standing = place.objects.standing();
    assert_eq!((standing.newer, standing.resting), (0, 1), "the step of one fails");

    // Finalized: every object rests until the want gives octets.
    place.want(2, policy(2, Steps::All), None);
    until("every object is found to rest", || {
        place.objects.stepper().runs_all() && place.objects.standing().resting == OBJECTS
    })
    .await;
    assert!(place.objects.entries().iter().all(|entry| entry.level == Level(1)));
    let (ended, operations) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            tokio::spawn(write_and_read(
                Arc::clone(&place),
                client,
                Arc::clone(&ended),
                Arc::clone(&operations),
            ))
        })
        .collect();
    place.want(3, policy(2, Steps::All), Some(RATE));
    until("every object is swept", || {
        place.objects.standing().resting == 0 || clients.iter().any(tokio::task::JoinHandle::is_finished)
    })
    .await;
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client's operation failed");
    }
    assert!(operations.load(Ordering::Relaxed) > 0);

    let quarantined: BTreeSet<Address> = (place.objects.entries().iter())
        .filter(|entry| entry.quarantined.is_some())
        .map(|entry| entry.address.clone())
        .collect();
    assert!(quarantined.is_subset(&BTreeSet::from([at(UNLUCKY)])), "{quarantined:?}");
    for n in 0..OBJECTS {
        let entry = place.objects.entry(&at(n)).unwrap();
        let schema = if quarantined.contains(&at(n)) { 1 } else { 3 };
        assert_eq!((entry.level, entry.schema), (Level(2), schema), "{n}");
        let old = &before[&at(n)];
        if entry.revision == old.revision {
            assert_eq!(entry.digests().body, old.digests().body, "{n}");
            assert_eq!(entry.writes, old.writes, "{n}");
            let (number, body) = place.read(&at(n)).await;
            let expected = if n.is_multiple_of(2) {
                octets(n, length(n))
            } else {
                Vec::new()
            };
            assert!(number == n && body == expected, "object {n} is as it was written");
        }
    }
    assert_eq!(place.objects.store().audit_head().count, 0);
    assert_eq!(place.objects.figures().errors, 0);
}
