//! Real agents on loopback: certificates, QUIC, disk, and a librarian that keeps registers.

mod copies;
mod gates;
mod held;
mod pace;
mod reconcile;
mod schema;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certs::{Anchor, Authority, ClientName, Grants, Identity, Serial, UnixTime, Who};
use futures_util::TryStreamExt;
use quinn::Connection;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;
use zeroize::Zeroizing;
use zones::{Address, Epoch, Level, Role, ServerName, State, Tx, Want};

use super::*;
use crate::clock::BootInstant;
use crate::migration::wire::{Copy, Either, LANE, Reply, Request, Unwilling, read_frame, take_frame, write_frame};
use crate::objects::{Condition, Delete, Miss, Put, WriteError};
use crate::register::stub::Stub;
use crate::schema::Stepper;
use crate::store::{Journal, RealDisk};
use crate::testing::{PATIENCE, comes, until};
use crate::vault::{Keyring, Levels, PoolKey, Secret, SystemEntropy, Vault};

/// How long copies stay that were given away.
const GRACE: Duration = Duration::from_millis(300);

/// A pool's authority.
pub(super) struct Pool {
    authority: Authority,
}

pub(super) fn pool() -> Pool {
    let domain = "hypernet.internal".parse().unwrap();
    Pool {
        authority: Authority::create(&domain, Serial::new(rand::random()), UnixTime::now()).unwrap(),
    }
}

impl Pool {
    pub(super) fn identity(&self, server: &str) -> Identity {
        self.issue(&Who::Server(server.parse().unwrap()))
    }

    fn issue(&self, who: &Who) -> Identity {
        self.authority
            .issue(who, Serial::new(rand::random()), UnixTime::now())
            .unwrap()
    }

    pub(super) fn anchor(&self) -> Anchor {
        self.authority.anchor().clone()
    }
}

/// One agent without its HTTPS side.
struct Agent {
    name: &'static str,
    dir: tempfile::TempDir,
    capacity: u64,
    objects: Arc<Objects>,
    wanted: watch::Sender<Wanted>,
    transfer: Transfer,
    stepper: Arc<Stepper>,
}

impl Agent {
    async fn start(pool: &Pool, stub: &Stub, name: &'static str, capacity: u64) -> Agent {
        Agent::on(pool, stub, name, capacity, tempfile::tempdir().unwrap()).await
    }

    async fn on(pool: &Pool, stub: &Stub, name: &'static str, capacity: u64, dir: tempfile::TempDir) -> Agent {
        Agent::forgetful(pool, stub, name, capacity, dir, Duration::from_secs(600)).await
    }

    /// One of a release with these schemas.
    async fn of_release(pool: &Pool, stub: &Stub, name: &'static str, stepper: Arc<Stepper>) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::begin(pool, stub, name, OCTETS, dir, (Duration::from_secs(600), stepper)).await;
        agent.want(Role::Serving, &[]);
        agent
    }

    /// One that forgets where objects went after so long.
    async fn forgetful(
        pool: &Pool,
        stub: &Stub,
        name: &'static str,
        capacity: u64,
        dir: tempfile::TempDir,
        forward_for: Duration,
    ) -> Agent {
        let agent = Agent::begin(pool, stub, name, capacity, dir, (forward_for, Arc::default())).await;
        agent.want(Role::Serving, &[]);
        agent
    }

    async fn begin(
        pool: &Pool,
        stub: &Stub,
        name: &'static str,
        capacity: u64,
        dir: tempfile::TempDir,
        (forward_for, stepper): (Duration, Arc<Stepper>),
    ) -> Agent {
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let secret = Secret::Key(Zeroizing::new([7; 32]));
        let entropy = Arc::new(SystemEntropy);
        let keyring = Keyring::open(disk.clone(), &secret, entropy.clone())
            .or_else(|_| Keyring::create(disk.clone(), &secret, entropy.clone()))
            .unwrap();
        let vault = Arc::new(Vault::new(Box::new(keyring), PoolKey::new([9; 32])));
        let settings = crate::store::Settings {
            capacity,
            step: 1 << 20,
            volume: 64 << 20,
            cache: 1 << 20,
            ..crate::store::Settings::default()
        };
        let (store, entries) = Store::open(disk, vault, &settings).unwrap();
        let store = Arc::new(store);
        let registers = Arc::new(stub.registers_of(name));
        let (wanted, receiver) = watch::channel(Wanted::default());
        let objects = Objects::new(
            Arc::clone(&store),
            entries,
            Arc::clone(&registers),
            receiver.clone(),
            Arc::clone(&stepper),
            crate::objects::Settings::default(),
        );
        let open = objects.recover();
        let settings = TransferSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            mtu: quic::MTU_DEFAULT,
            window: WindowSettings {
                objects_max: 64,
                octets_max: 8 << 20,
                sealed_max: 64,
                seal_target: Duration::from_millis(50),
            },
            forward_for,
            pace: crate::migration::pace::PaceSettings {
                target: Duration::from_millis(50),
                floor: 250,
            },
            machine: Settings {
                // This machine may be busy.
                seal_budget: Duration::from_secs(1),
                grace: GRACE,
                ..Settings::default()
            },
        };
        let room = Room {
            current: certs::tls::Current::new(&pool.identity(name)).unwrap(),
            revoked: Arc::default(),
            anchor: pool.anchor(),
            objects: Arc::clone(&objects),
            store,
            registers,
            wanted: receiver,
            open,
        };
        let transfer = Transfer::start(settings, room).unwrap();
        let port = transfer.local_addr().unwrap().port();
        stub.pool.lock().peers.insert(name.parse().unwrap(), port);
        Agent {
            name,
            dir,
            capacity,
            objects,
            wanted,
            transfer,
            stepper,
        }
    }

    /// What the controller says, now.
    fn want(&self, role: Role, targets: &[&str]) {
        self.want_kept(role, targets, zones::Keep::default());
    }

    /// The same, and what it says of copies.
    fn want_kept(&self, role: Role, targets: &[&str], keep: zones::Keep) {
        self.wanted.send_replace(Wanted {
            want: Some(Want {
                role,
                targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
                plan: 1,
                step: 1,
                policy: zones::Policy::default(),
                errand: zones::Errand {
                    keep,
                    ..zones::Errand::default()
                },
            }),
            answered_at: Some(BootInstant::now() + Duration::from_secs(3600)),
            ..Wanted::default()
        });
    }

    /// Stops as by SIGTERM, and starts again on the same disk.
    async fn restart(self, pool: &Pool, stub: &Stub) -> Agent {
        self.restart_as(pool, stub, Role::Serving, &[]).await
    }

    /// The same, and the controller says so from the start.
    async fn restart_as(self, pool: &Pool, stub: &Stub, role: Role, targets: &[&str]) -> Agent {
        let Agent {
            name,
            dir,
            capacity,
            objects,
            transfer,
            stepper,
            ..
        } = self;
        transfer.stop().await;
        let mut objects = Some(objects);
        // Jobs that were under way end by themselves; the index is free when the last one has.
        timeout(PATIENCE, async {
            while let Err(shared) = Arc::try_unwrap(objects.take().unwrap()) {
                objects = Some(shared);
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let rest = (Duration::from_secs(600), stepper);
        let agent = Agent::begin(pool, stub, name, capacity, dir, rest).await;
        agent.want(role, targets);
        agent
    }

    async fn put(&self, at: &Address, n: usize, body: Option<&[u8]>) -> Result<u64, WriteError> {
        self.put_in(None, at, n, body).await
    }

    /// Writes properties that are said to be in a version.
    async fn put_in(
        &self,
        schema: Option<u32>,
        at: &Address,
        n: usize,
        body: Option<&[u8]>,
    ) -> Result<u64, WriteError> {
        let body = match body {
            Some(content) => {
                let pieces: Vec<Result<Bytes, std::io::Error>> = content
                    .chunks(60_000)
                    .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                    .collect();
                let stream = futures_util::stream::iter(pieces);
                Some(self.objects.stage_body(at, None, stream).await?)
            }
            None => None,
        };
        let put = Put {
            client: "app".to_owned(),
            write_id: None,
            condition: Condition::Any,
            kind: None,
            schema,
            properties: Some(json!({"n": n}).as_object().unwrap().clone()),
            body,
        };
        self.objects.put(at, put).await.map(|written| written.revision)
    }

    async fn read(&self, at: &Address) -> Result<(serde_json::Value, Vec<u8>), Miss> {
        let reading = self.objects.read(at).await?;
        let properties = serde_json::from_slice(&reading.properties().await.unwrap()).unwrap();
        let body = reading.body(0..reading.size()).await.unwrap();
        let body: Vec<Bytes> = body.try_collect().await.unwrap();
        Ok((properties, body.concat()))
    }

    fn owned(&self) -> u64 {
        self.objects.figures().objects
    }

    async fn until_owned(&self, objects: u64) {
        let reached = comes(|| self.owned() == objects).await;
        assert!(reached, "{} owns {} objects, not {objects}", self.name, self.owned());
    }
}

fn delete() -> Delete {
    Delete {
        client: "app".to_owned(),
        write_id: None,
        condition: Condition::Any,
    }
}

fn address(n: usize) -> Address {
    format!("7.{}.{n:03}", n % 5).parse().unwrap()
}

fn content(n: usize, octets: usize) -> Vec<u8> {
    (0..octets).map(|at| ((at / 3 + n * 31) % 251) as u8).collect()
}

const OCTETS: u64 = 64 << 20;

/// Small objects, some with a body, and two large ones.
async fn fill(agent: &Agent, count: usize) {
    for n in 0..count {
        let body = body(n);
        agent.put(&address(n), n, body.as_deref()).await.unwrap();
    }
}

fn body(n: usize) -> Option<Vec<u8>> {
    match n % 20 {
        0 => Some(content(n, 700_000 + n)),
        even if even % 2 == 0 => Some(content(n, 37 * n)),
        _ => None,
    }
}

async fn assert_all(agent: &Agent, stub: &Stub, count: usize) {
    for n in 0..count {
        let (properties, found) = agent.read(&address(n)).await.unwrap();
        assert_eq!(properties, json!({"n": n}));
        assert!(found == body(n).unwrap_or_default(), "{}", address(n));
        let register = stub.register(&address(n)).unwrap();
        assert_eq!((register.owner.as_str(), &register.state), (agent.name, &State::Stable));
        assert_eq!(register.holders, std::slice::from_ref(&register.owner));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_agent_gives_every_object_away_and_keeps_no_copy() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 60).await;
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(60).await;
    s1.until_owned(0).await;
    assert_all(&s2, &stub, 60).await;
    for n in 0..60 {
        let register = stub.register(&address(n)).unwrap();
        assert_eq!(register.epoch, Epoch(2));
        // The source says where it went.
        assert!(matches!(s1.read(&address(n)).await, Err(Miss::Party { to }) if to == register.owner));
    }
    s1.want(Role::Empty, &[]);
    let forward = |entry: &Arc<Entry>| matches!(entry.journal, Journal::Forward { .. });
    until("moved copies are removed", || s1.objects.entries().iter().all(forward)).await;
    // A forward entry has no streams: a few may still be named by jobs that end now.
    let has_streams = |entry: &Arc<Entry>| entry.plain_octets() > 0;
    until("their streams are removed", || {
        !s1.objects.entries().iter().any(has_streams)
    })
    .await;
    let moves = s1.transfer.counters().moves();
    assert_eq!((moves.moved_out, moves.open_out), (60, 0));
    // And back again.
    s1.want(Role::Serving, &[]);
    s2.want(Role::Draining, &["s1"]);
    s1.until_owned(60).await;
    s2.until_owned(0).await;
    assert_all(&s1, &stub, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_during_a_drain_are_all_there_afterwards() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Arc::new(Agent::start(&pool, &stub, "s1", OCTETS).await);
    let s2 = Arc::new(Agent::start(&pool, &stub, "s2", OCTETS).await);
    const OBJECTS: usize = 24;
    for n in 0..OBJECTS {
        s1.put(&address(n), 0, None).await.unwrap();
    }
    let writers: Vec<_> = (0..OBJECTS)
        .map(|n| {
            let (s1, s2) = (Arc::clone(&s1), Arc::clone(&s2));
            tokio::spawn(async move {
                // A client that follows its object, as the HTTPS side would.
                for write in 1..=40 {
                    loop {
                        match s1.put(&address(n), write, None).await {
                            Ok(_) => break,
                            Err(WriteError::Party { .. }) => match s2.put(&address(n), write, None).await {
                                Ok(_) => break,
                                Err(WriteError::Unavailable { .. }) => {}
                                Err(error) => panic!("{error}"),
                            },
                            Err(WriteError::Unavailable { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    // What was acknowledged is what is read, wherever the object is.
                    let read = match s1.read(&address(n)).await {
                        Err(Miss::Party { .. }) => s2.read(&address(n)).await,
                        read => read,
                    };
                    assert_eq!(read.unwrap().0, json!({"n": write}));
                }
            })
        })
        .collect();
    s1.want(Role::Draining, &["s2"]);
    for writer in writers {
        timeout(PATIENCE, writer).await.unwrap().unwrap();
    }
    s1.until_owned(0).await;
    for n in 0..OBJECTS {
        assert_eq!(s2.read(&address(n)).await.unwrap().0, json!({"n": 40}));
        let entry = s2.objects.entry(&address(n)).unwrap();
        assert_eq!(entry.revision, 41, "every write was applied once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_goes_on_when_either_agent_was_restarted_in_the_middle() {
    let (pool, stub) = (pool(), Stub::start().await);
    let mut s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let mut s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 80).await;
    s1.want(Role::Draining, &["s2"]);
    for round in 0..4 {
        until("objects arrive", || s2.owned() >= 8 * (round + 1)).await;
        if round % 2 == 0 {
            s2 = s2.restart(&pool, &stub).await;
        } else {
            s1 = s1.restart(&pool, &stub).await;
            s1.want(Role::Draining, &["s2"]);
        }
    }
    s2.until_owned(80).await;
    s1.until_owned(0).await;
    assert_all(&s2, &stub, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_updates_and_replies_of_the_librarian_cost_time_only() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 15).await;
    {
        let mut faults = stub.pool.lock();
        faults.lose_updates = 2;
        faults.lose_replies = 3;
        faults.lose_questions = 5;
    }
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(15).await;
    s1.until_owned(0).await;
    assert_all(&s2, &stub, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destination_without_room_takes_what_fits_and_the_rest_stays() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", 4 << 20).await;
    for n in 0..12 {
        s1.put(&address(n), n, Some(&content(n, 900_000))).await.unwrap();
    }
    s1.want(Role::Draining, &["s2"]);
    until("the destination is full", || s1.transfer.counters().moves().stayed > 0).await;
    s1.want(Role::Serving, &[]);
    let is_quiet = || s1.transfer.counters().moves().open_out == 0 && s1.owned() + s2.owned() == 12;
    until("open moves end", is_quiet).await;
    assert!(s1.owned() > 0 && s2.owned() > 0, "{} and {}", s1.owned(), s2.owned());
    for n in 0..12 {
        let owner = stub.register(&address(n)).unwrap().owner;
        let agent = if owner.as_str() == "s1" { &s1 } else { &s2 };
        assert_eq!(agent.read(&address(n)).await.unwrap().1, content(n, 900_000));
        // It takes writes as before.
        agent.put(&address(n), n + 100, None).await.unwrap();
    }
}

/// Turns one octet of an object's body on disk.
fn damage(agent: &Agent, at: &Address) {
    let entry = agent
        .objects
        .entries()
        .into_iter()
        .find(|entry| entry.address == *at)
        .unwrap();
    let extent = entry.body.as_ref().unwrap().extents[0];
    let path = agent.dir.path().join(format!("volumes/{:04}", extent.volume));
    let volume = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut octet = [0];
    volume.read_exact_at(&mut octet, extent.offset() + 50).unwrap();
    volume.write_all_at(&[octet[0] ^ 1], extent.offset() + 50).unwrap();
}

/// A small copy and one that travels on a stream of its own.
#[tokio::test(flavor = "multi_thread")]
async fn object_whose_copy_is_damaged_stays_and_is_told_and_the_rest_of_the_drain_goes_on() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 30).await;
    for n in [0, 6] {
        damage(&s1, &address(n));
    }
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(28).await;
    let are_told = || s1.objects.figures().unreadable == 2 && s1.transfer.counters().moves().open_out == 0;
    until("both are told of", are_told).await;
    for n in [0, 6] {
        let register = stub.register(&address(n)).unwrap();
        assert_eq!((register.owner.as_str(), &register.state), ("s1", &State::Stable));
    }
    assert_eq!((s1.owned(), s2.owned()), (2, 28));
}

/// Then the agent knows of the object what it knows of any other: the register.
#[tokio::test(flavor = "multi_thread")]
async fn forward_entries_end_and_the_register_says_where_the_object_is() {
    let (pool, stub) = (pool(), Stub::start().await);
    let dir = tempfile::tempdir().unwrap();
    let s1 = Agent::forgetful(&pool, &stub, "s1", OCTETS, dir, Duration::from_millis(400)).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    for n in 1..6 {
        s1.put(&address(n), n, None).await.unwrap();
    }
    s1.objects.delete(&address(5), delete()).await.unwrap();
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(4).await;
    s1.until_owned(0).await;
    s1.want(Role::Empty, &[]);
    let forward = |entry: &Arc<Entry>| matches!(entry.journal, Journal::Moved { .. } | Journal::Forward { .. });
    until("forward entries end", || !s1.objects.entries().iter().any(forward)).await;
    let elsewhere = Miss::Elsewhere {
        owner: "s2".parse().unwrap(),
        epoch: Epoch(2),
    };
    assert_eq!(s1.read(&address(1)).await.unwrap_err(), elsewhere);
    // A tombstone stays for ever.
    assert!(matches!(s1.objects.entries()[..], [ref entry] if matches!(entry.journal, Journal::Tombstone { .. })));
}

/// Somebody with a certificate of the pool dials an agent.
async fn dial(pool: &Pool, identity: &Identity, agent: &Agent) -> Connection {
    let endpoint = quic::open(
        "127.0.0.1:0".parse().unwrap(),
        quic::MTU_DEFAULT,
        &certs::tls::Current::new(identity).unwrap(),
        &pool.anchor(),
    )
    .unwrap();
    let name = certs::tls_name(&"hypernet.internal".parse().unwrap(), agent.name);
    let connection = endpoint.connect(agent.transfer.local_addr().unwrap(), &name).unwrap();
    let connection = connection.await.unwrap();
    // The endpoint lives as long as somebody waits for it.
    tokio::spawn(async move { endpoint.wait_idle().await });
    connection
}

/// Says something on a lane, and reads the first replies.
async fn say(connection: &Connection, address: &Address, requests: &[Request]) -> Vec<Reply> {
    let mut lane = connection.open_uni().await.unwrap();
    let mut octets = bytes::BytesMut::from(&[LANE][..]);
    for request in requests {
        write_frame(&mut octets, address, &Either::Request(request.clone()), &[]);
    }
    lane.write_all(&octets).await.unwrap();
    let mut replies = Vec::new();
    while replies.len() < requests.len() {
        let mut stream = timeout(PATIENCE, connection.accept_uni()).await.unwrap().unwrap();
        let mut received = bytes::BytesMut::new();
        let mut kind = false;
        while let Ok(Ok(Some(chunk))) = timeout(Duration::from_millis(700), stream.read_chunk(65_536, true)).await {
            received.extend_from_slice(&chunk.bytes);
            if !std::mem::replace(&mut kind, true) {
                drop(received.split_to(1));
            }
            while let Some(frame) = take_frame(&mut received).unwrap() {
                match read_frame::<Either>(&frame).unwrap().1 {
                    Either::Reply(reply) => replies.push(reply),
                    Either::Request(request) => panic!("{request:?}"),
                    Either::Copies(word) => panic!("{word:?}"),
                }
            }
        }
    }
    replies
}

fn reserve(tx: Tx) -> Request {
    Request::Reserve {
        epoch: Epoch(1),
        tx,
        kind: "file".parse().unwrap(),
        schema: 1,
        level: Level(1),
        revision: 1,
        octets: 10,
    }
}

fn levels(floor: u8, wanted: u8) -> Levels {
    Levels::new(Level(floor), Level(wanted)).unwrap()
}

fn assert_level(agent: &Agent, stub: &Stub, at: &Address, level: Level) {
    let entry = agent.objects.entry(at).unwrap();
    assert_eq!((entry.level, stub.register(at).unwrap().level), (level, level), "{at}");
    for (_, stream) in entry.streams() {
        assert_eq!(stream.suite, level.0, "{at}");
    }
}

/// Small copies, those with a body, and large ones on streams of their own; then back to a server that wants less.
#[tokio::test(flavor = "multi_thread")]
async fn move_raises_the_level_to_what_the_pool_wants_and_never_lowers_it() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 21).await;
    for wanted in [2, 3] {
        s2.objects.set_levels(levels(1, wanted));
        s1.want(Role::Draining, &["s2"]);
        s2.want(Role::Serving, &[]);
        s2.until_owned(21).await;
        s1.until_owned(0).await;
        assert_all(&s2, &stub, 21).await;
        for n in 0..21 {
            assert_level(&s2, &stub, &address(n), Level(wanted));
        }
        s2.want(Role::Draining, &["s1"]);
        s1.want(Role::Serving, &[]);
        s1.until_owned(21).await;
        s2.until_owned(0).await;
        assert_all(&s1, &stub, 21).await;
        for n in 0..21 {
            // s1 wants level 1.
            assert_level(&s1, &stub, &address(n), Level(wanted));
        }
    }
    // A rewrite in place keeps it: the register changes it only with the epoch.
    s1.put(&address(2), 2, Some(&content(3, 5000))).await.unwrap();
    assert_level(&s1, &stub, &address(2), Level(3));
    assert_eq!(s1.read(&address(2)).await.unwrap().1, content(3, 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn object_below_the_floor_is_refused_and_stays_whole_where_it_is() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    s1.put(&address(1), 1, None).await.unwrap();
    s1.objects.set_levels(levels(1, 2));
    s1.put(&address(2), 2, None).await.unwrap();
    s1.put(&address(20), 20, body(20).as_deref()).await.unwrap();
    assert_level(&s1, &stub, &address(1), Level(1));
    assert_level(&s1, &stub, &address(2), Level(2));
    s2.objects.set_levels(levels(2, 2));
    s1.want(Role::Draining, &["s2"]);
    let has_moved = || s1.transfer.counters().moves().stayed > 0 && s2.owned() >= 2;
    until("what is at the floor moves", has_moved).await;
    s1.want(Role::Serving, &[]);
    assert_eq!(s1.read(&address(1)).await.unwrap().0, json!({"n": 1}));
    assert!(s2.objects.entry(&address(1)).is_none());
    for n in [2, 20] {
        assert_level(&s2, &stub, &address(n), Level(2));
        assert_eq!(
            s2.read(&address(n)).await.unwrap().1,
            body(n).filter(|_| n == 20).unwrap_or_default()
        );
    }
}

/// The offer says one level and the copy another: each is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn copy_below_the_floor_or_of_an_unknown_level_is_refused_whatever_was_offered() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    s2.objects.set_levels(levels(2, 2));
    // Answers come on one lane a connection, so each question has its own.
    let say =
        async |requests: &[Request]| say(&dial(&pool, &pool.identity("s1"), &s2).await, &address(1), requests).await;
    let tx = Tx([5; 16]);
    let offer = |level| match reserve(tx) {
        Request::Reserve {
            epoch,
            tx,
            kind,
            schema,
            level: _,
            revision,
            octets,
        } => Request::Reserve {
            epoch,
            tx,
            kind,
            schema,
            level: Level(level),
            revision,
            octets,
        },
        other => panic!("{other:?}"),
    };
    let refused = Reply::Refused {
        tx,
        why: Unwilling::Level,
    };
    for level in [1, 4] {
        assert_eq!(say(&[offer(level)]).await, std::slice::from_ref(&refused));
        assert!(s2.objects.entry(&address(1)).is_none());
    }
    let owner: ServerName = "s1".parse().unwrap();
    let register = zones::Register {
        address: address(1),
        epoch: Epoch(1),
        owner: owner.clone(),
        state: State::Moving {
            to: "s2".parse().unwrap(),
        },
        tx,
        holders: vec![owner],
        kind: "file".parse().unwrap(),
        schema: 1,
        level: Level(1),
    };
    stub.pool.lock().registers.insert(address(1).folded(), register);
    let epoch = Epoch(1);
    let replies = say(&[offer(2), Request::Open { epoch, tx }]).await;
    assert_eq!(
        replies,
        [
            Reply::Reserved { tx },
            Reply::Ready {
                tx,
                staged: None,
                newest: None
            }
        ]
    );
    for level in [1, 4] {
        let copy = Copy {
            origin: None,
            epoch,
            tx,
            revision: 1,
            kind: "file".parse().unwrap(),
            schema: 1,
            level: Level(level),
            properties: None,
            body: None,
            writes: Vec::new(),
        };
        let replies = say(&[Request::Copy(copy)]).await;
        assert_eq!(replies, std::slice::from_ref(&refused), "level {level}");
    }
}

/// The register names s1 as the source; s3 has a good certificate and knows the tx.
#[tokio::test(flavor = "multi_thread")]
async fn copy_is_taken_only_from_the_source_that_the_register_names() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    let (at, tx) = (address(1), Tx([5; 16]));
    let s1: ServerName = "s1".parse().unwrap();
    let register = zones::Register {
        address: at.clone(),
        epoch: Epoch(1),
        owner: s1.clone(),
        state: State::Moving {
            to: "s2".parse().unwrap(),
        },
        tx,
        holders: vec![s1],
        kind: "file".parse().unwrap(),
        schema: 1,
        level: Level(1),
    };
    stub.pool.lock().registers.insert(at.folded(), register);
    let s3 = dial(&pool, &pool.identity("s3"), &s2).await;
    let epoch = Epoch(1);
    let replies = say(&s3, &at, &[reserve(tx), Request::Open { epoch, tx }]).await;
    assert_eq!(replies, [Reply::Reserved { tx }, Reply::Dropped { tx }]);
    assert!(s2.objects.incoming(&at).is_none());
    // The true source gets on.
    let s1 = dial(&pool, &pool.identity("s1"), &s2).await;
    let replies = say(&s1, &at, &[reserve(tx), Request::Open { epoch, tx }]).await;
    assert_eq!(
        replies,
        [
            Reply::Reserved { tx },
            Reply::Ready {
                tx,
                staged: None,
                newest: None
            }
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_agents_of_this_pool_are_talked_to() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    let client = Who::Client {
        name: "app".parse::<ClientName>().unwrap(),
        grants: Grants::default(),
    };
    for who in [client, Who::Librarian] {
        let connection = dial(&pool, &pool.issue(&who), &s2).await;
        match timeout(PATIENCE, connection.closed()).await.unwrap() {
            quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 2_u8.into()),
            other => panic!("{other}"),
        }
    }
    // Its self-test is told apart from strangers.
    let own = dial(&pool, &pool.identity("s2"), &s2).await;
    match timeout(PATIENCE, own.closed()).await.unwrap() {
        quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 6_u8.into()),
        other => panic!("{other}"),
    }
    // A server of another pool does not get that far: neither side trusts the other.
    let foreign = super::tests::pool();
    let endpoint = quic::open(
        "127.0.0.1:0".parse().unwrap(),
        quic::MTU_DEFAULT,
        &certs::tls::Current::new(&foreign.identity("s1")).unwrap(),
        &foreign.anchor(),
    )
    .unwrap();
    let name = certs::tls_name(&"hypernet.internal".parse().unwrap(), "s2");
    let refused = endpoint
        .connect(s2.transfer.local_addr().unwrap(), &name)
        .unwrap()
        .await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_closes_the_connection_and_nothing_else() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    for octets in [
        &[9_u8][..],
        &[1, 0xFF, 0xFF, 0xFF, 0xFF],
        &[1, 0, 0, 0, 3, 0x80, 1, 2],
        &[2, 0, 0, 0, 1, 0],
    ] {
        let s3 = dial(&pool, &pool.identity("s3"), &s2).await;
        let mut stream = s3.open_uni().await.unwrap();
        stream.write_all(octets).await.unwrap();
        match timeout(PATIENCE, s3.closed()).await.unwrap() {
            quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 3_u8.into()),
            other => panic!("{other}"),
        }
    }
    s2.put(&address(1), 1, None).await.unwrap();
}
