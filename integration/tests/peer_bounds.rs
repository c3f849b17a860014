//! What strangers and odd agents cost at the peer port: garbage, handshakes that stop halfway, malformed messages, streams that
//! are opened and left. Everything else goes on, and nothing that was acknowledged is lost.

mod dns;
mod identity;
mod peer;
mod web;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::migration::Digests;
use agent::migration::wire::{
    COUNTED_MAX, Copy, Either, FRAME_OCTETS_MAX, LANE, LARGE, PART_OCTETS_MAX, Part, Reply, Request, Unwilling,
    write_frame,
};
use agent::transfer::quic;
use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use certs::{Anchor, Authority, Identity};
use futures_util::FutureExt;
use identity::{authority, issue, now_s, server};
use integration::harness::{Pool, peak_memory};
use peer::{Call, Caller, PATIENCE, call, endpoint};
use quinn::Connection;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::timeout;
use web::{Asker, DEMO, ask};
use zones::{Address, Epoch, Level, Tx};

const OBJECTS: usize = 24;
/// Most memory that an agent may take beyond what it had, whatever is thrown at it.
const GROWTH_MAX: u64 = 64 << 20;

/// Three servers, objects on s1, and somebody who reads them. s3 is free: the drain at the end goes through its peer port.
struct Stage {
    pool: Pool,
    root: Asker,
    root_dir: String,
    anchor: Anchor,
    authority: Authority,
    memory: Vec<u64>,
}

fn address(number: usize) -> String {
    format!("5.{number}")
}

/// Every fourth is large enough for a stream of its own.
fn body(number: usize) -> Vec<u8> {
    let octets = if number.is_multiple_of(4) { 200_000 } else { 900 };
    (0..octets).map(|at| ((at / 3 + number * 31) % 251) as u8).collect()
}

impl Stage {
    fn start() -> Result<Stage> {
        // An agent that has a certificate may keep an address for as long as it may keep space: no longer.
        let builder = Pool::builder(DEMO).servers(3).agent_setting("moves.reserve_for", "2s");
        let pool = builder.start()?;
        let root = pool.add_client("root", &["read:*", "write:*"])?;
        let mut stage = Stage {
            root: Asker::client(&root),
            root_dir: root.display().to_string(),
            authority: authority(&pool)?,
            anchor: authority(&pool)?.anchor().clone(),
            memory: Vec::new(),
            pool,
        };
        for number in 0..OBJECTS {
            stage.put(number)?;
        }
        stage.memory = stage.peaks()?;
        Ok(stage)
    }

    fn put(&self, number: usize) -> Result<()> {
        let put = ["put", &address(number), "-", "--client", &self.root_dir];
        self.pool.agent(&put, &body(number))?;
        Ok(())
    }

    fn peaks(&self) -> Result<Vec<u64>> {
        let servers = self.pool.servers().iter();
        servers.map(|server| peak_memory(server.process()?.pid())).collect()
    }

    /// Every agent answers HTTPS.
    fn serves(&self) -> Result<()> {
        for server in self.pool.servers() {
            ask(&self.pool, &self.root, &server.name, "/objects?limit=1", &[])?
                .expect(200)
                .with_context(|| server.name.clone())?;
        }
        Ok(())
    }

    fn identity(&self, name: &str) -> Result<Identity> {
        issue(&self.authority, &server(name)?, now_s())
    }

    /// The drain of s1 goes through as ever, all objects are read back equal, nobody panicked, and memory stayed.
    fn goes_on(&self, objects: usize) -> Result<()> {
        self.serves()?;
        self.pool.librarian(&["drain", "s1"])?;
        for number in 0..objects {
            let url = format!("/objects/{}/body", address(number));
            let read = ask(&self.pool, &self.root, "s1", &url, &["-L"])?.expect(200)?;
            ensure!(read.body == body(number), "{} differs", address(number));
        }
        let left = ask(&self.pool, &self.root, "s1", "/objects", &[])?
            .expect(200)?
            .json()?;
        ensure!(
            left["objects"].as_array().is_some_and(Vec::is_empty),
            "s1 is not empty: {left}"
        );
        for (server, (before, after)) in self.pool.servers().iter().zip(self.memory.iter().zip(self.peaks()?)) {
            println!(
                "{}: {} KiB before, {} KiB at most since",
                server.name,
                before / 1024,
                after / 1024
            );
            ensure!(
                after < before + GROWTH_MAX,
                "memory of {} grew to {after} octets",
                server.name
            );
            let log = std::fs::read_to_string(server.process()?.log())?;
            ensure!(
                !log.contains("panicked"),
                "{}:\n{}",
                server.name,
                server.process()?.log_end()
            );
        }
        Ok(())
    }
}

/// Randomness that a failure can be repeated with.
fn random() -> Result<SmallRng> {
    let seed = std::env::var("HYPERNET_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("seed {seed}: set HYPERNET_SEED to repeat it");
    Ok(SmallRng::seed_from_u64(seed))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

fn trap() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr)> {
    let mut octets = vec![0; 65_535];
    let (length, from) = socket.recv_from(&mut octets)?;
    octets.truncate(length);
    Ok((octets, from))
}

/// Changes octets here and there.
fn spoil(octets: &mut Vec<u8>, random: &mut SmallRng) {
    for _ in 0..random.random_range(1..4) {
        if octets.is_empty() {
            return;
        }
        let at = random.random_range(0..octets.len());
        match random.random_range(0..7) {
            0 => octets[at] = random.random(),
            1 => octets[at] ^= 1 << random.random_range(0..8),
            2 => octets.truncate(at),
            3 => octets.insert(at, random.random()),
            4 => octets.extend_from_within(at..),
            // What CBOR begins strings and arrays of any length with.
            5 => {
                octets[at] = *[0x5b, 0x7b, 0x9b, 0x5f, 0x9f, 0xbf, 0xff]
                    .get(random.random_range(0..7))
                    .unwrap_or(&0)
            }
            _ => octets.splice(at..at, [0xff; 8]).for_each(drop),
        }
        octets.truncate(8192);
    }
}

/// One datagram that is no good, most of them like one that is.
fn garbage(initials: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut datagram = match random.random_range(0..8) {
        0 => vec![0; random.random_range(0..64)],
        1 => vec![0; random.random_range(0..1500)],
        2 => vec![0; random.random_range(1500..9000)],
        _ => initials[random.random_range(0..initials.len())].clone(),
    };
    if datagram.iter().all(|octet| *octet == 0) {
        random.fill_bytes(&mut datagram);
        if let Some(first) = datagram.first_mut() {
            // Half of them with the fixed bit, short and long headers.
            *first |= 0x40;
            *first ^= u8::from(random.random::<bool>()) << 7;
        }
        return datagram;
    }
    match random.random_range(0..6) {
        // The type in a long header: 0-RTT, Handshake, Retry.
        0 => datagram[0] = datagram[0] & 0xcf | random.random_range(1..4) << 4,
        // The version: 0 is negotiation, others are unknown.
        1 => random.fill_bytes(&mut datagram[1..5]),
        2 => datagram[1..5].fill(0),
        // The length of a connection id.
        3 => datagram[5] = random.random(),
        // The token's length, the packet's length.
        4 => {
            let end = datagram.len().min(64);
            let at = random.random_range(6..end);
            datagram[at] = random.random();
        }
        _ => spoil(&mut datagram, random),
    }
    datagram
}

/// The first flights of clients that are good: what they sent to somebody else.
async fn initials(stage: &Stage, count: usize) -> Result<Vec<Vec<u8>>> {
    let identity = stage.identity("s9")?;
    let name = certs::tls_name(&stage.pool.domain().parse()?, "s3");
    let mut initials = Vec::new();
    for _ in 0..count {
        // Both for each: what an old attempt still sends must not be taken for a new one's.
        let (trap, caller) = (trap()?, endpoint(Some(&identity), &stage.anchor)?);
        let connecting = caller.connect(trap.local_addr()?, &name)?;
        initials.push(receive(&trap)?.0);
        drop(connecting);
    }
    Ok(initials)
}

#[test]
fn garbage_on_the_peer_port_keeps_nobody_from_a_move() -> Result<()> {
    const DATAGRAMS: usize = 20_000;
    let stage = Stage::start()?;
    let mut random = random()?;
    let runtime = runtime()?;
    let initials = runtime.block_on(initials(&stage, 8))?;
    let ports = [stage.pool.server("s1")?.ready.peer, stage.pool.server("s3")?.ready.peer];
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    let (mut sent, mut replies, mut buffer) = (0, 0, [0; 65_535]);
    let mut throw = |random: &mut SmallRng| {
        // The system drops what the agent has no room for; what counts is what arrives.
        sent += usize::from(
            socket
                .send_to(&garbage(&initials, random), ports[random.random_range(0..2)])
                .is_ok(),
        );
        while socket.recv(&mut buffer).is_ok() {
            replies += 1;
        }
    };
    for number in 0..DATAGRAMS {
        throw(&mut random);
        if number % 5_000 == 0 {
            stage.serves()?;
            stage.put(OBJECTS + number / 5_000)?;
        }
    }
    // More of it while the objects move.
    let moved = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let noise = scope.spawn(|| {
            let mut during = 0;
            while !moved.load(Ordering::Relaxed) {
                throw(&mut random);
                during += 1;
                // Some pace: this machine has other work too.
                if during % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            during
        });
        let done = stage.goes_on(OBJECTS + DATAGRAMS / 5_000);
        moved.store(true, Ordering::Relaxed);
        println!("{} datagrams during the drain", noise.join().expect("no panic"));
        done
    })?;
    println!("{sent} datagrams sent, {replies} answered");
    Ok(())
}

/// Leaves an agent with a handshake that has begun: it has shown its certificate, and hears nothing more. True if it took it
/// that far, false if it refused.
fn half_a_handshake(caller: &quinn::Endpoint, trap: &UdpSocket, agent: SocketAddr, name: &str) -> Result<bool> {
    let connecting = caller.connect(trap.local_addr()?, name)?;
    let upstream = self::trap()?;
    let mut answered = false;
    // The client's first flight; with a Retry in between, its second.
    for _ in 0..2 {
        let (first, client) = receive(trap)?;
        upstream.send_to(&first, agent)?;
        let (said, _) = receive(&upstream)?;
        // A long header's type: 3 is Retry.
        if said[0] & 0xb0 == 0xb0 {
            trap.send_to(&said, client)?;
            continue;
        }
        answered = said.len() >= 1200;
        break;
    }
    drop(connecting);
    Ok(answered)
}

/// First packets in the names of addresses that are not the sender's: nothing that is said there is heard.
#[test]
fn first_packets_from_nowhere_take_no_place_of_an_agent() -> Result<()> {
    const PACKETS: usize = 300;
    let stage = Stage::start()?;
    let runtime = runtime()?;
    let packets = runtime.block_on(initials(&stage, PACKETS))?;
    let agent = stage.pool.server("s3")?.ready.peer;
    let socket = trap()?;
    for packet in &packets {
        socket.send_to(packet, agent)?;
        // It was taken in: what comes back, comes back to nobody.
        receive(&socket)?;
    }
    // At once, without dialing again.
    let identity = stage.identity("s9")?;
    runtime.block_on(async {
        for _ in 0..4 {
            stage.call_s3(&identity).await?;
        }
        anyhow::Ok(())
    })?;
    stage.goes_on(OBJECTS)
}

#[test]
fn handshakes_that_stop_halfway_keep_nobody_from_a_move() -> Result<()> {
    const HANDSHAKES: usize = 500;
    let stage = Stage::start()?;
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let name = certs::tls_name(&stage.pool.domain().parse()?, "s3");
    let agent = stage.pool.server("s3")?.ready.peer;
    let mut taken = 0;
    for number in 0..HANDSHAKES {
        let caller = endpoint(None, &stage.anchor)?;
        taken += usize::from(half_a_handshake(&caller, &trap()?, agent, &name)?);
        if number % 100 == 0 {
            stage.serves()?;
        }
    }
    println!("{taken} of {HANDSHAKES} handshakes were begun, the others refused at once");
    ensure!(taken > 0, "none got as far as the agent's certificate");
    // Some are refused while so many are open, and dial again: agents do so by themselves.
    stage.goes_on(OBJECTS)
}

/// Every message of a move, with this tx, epoch and number wherever one belongs.
fn messages(tx: Tx, epoch: Epoch, number: u64) -> Vec<Either> {
    let digest = [7; 32];
    let part = Some(Part {
        octets: number.min(PART_OCTETS_MAX),
        digest,
        follows: true,
    });
    let digests = Digests {
        properties: Some(digest),
        body: None,
    };
    let requests = [
        reserve(tx, epoch, number.min(PART_OCTETS_MAX)),
        Request::Open { epoch, tx },
        Request::Copy(Copy {
            origin: None,
            epoch,
            tx,
            revision: number,
            kind: "photo".parse().expect("a type"),
            schema: 1,
            level: Level(1),
            properties: part,
            body: None,
            writes: Vec::new(),
        }),
        Request::Seal {
            tx,
            revision: number,
            digests,
        },
        Request::Ask { tx, ask: number as u32 },
        Request::FenceAnswered { epoch },
        Request::Abort { tx },
    ];
    let replies = [
        Reply::Reserved { tx },
        Reply::Refused {
            tx,
            why: Unwilling::Full,
        },
        Reply::Ready {
            tx,
            staged: Some(number),
            newest: Some(number as u32),
        },
        Reply::Staged { tx, revision: number },
        Reply::Damaged { tx },
        Reply::NotCommitted {
            tx,
            ask: number as u32,
            staged: Some(number),
            busy: false,
        },
        Reply::Fenced { epoch },
        Reply::Dropped { tx },
    ];
    let requests = requests.into_iter().map(Either::Request);
    requests.chain(replies.into_iter().map(Either::Reply)).collect()
}

fn reserve(tx: Tx, epoch: Epoch, octets: u64) -> Request {
    Request::Reserve {
        epoch,
        tx,
        kind: "photo".parse().expect("a type"),
        schema: 1,
        level: Level(1),
        revision: 1,
        octets,
    }
}

/// A number at which something could go wrong, of those that a message may say.
fn odd(random: &mut SmallRng) -> u64 {
    let power = 1_u64 << random.random_range(0..64);
    let number = match random.random_range(0..4) {
        0 => power,
        1 => power - 1,
        2 => power.wrapping_neg(),
        _ => random.random_range(0..4),
    };
    number.min(COUNTED_MAX)
}

fn framed(about: &str, message: &Either, payload: &[u8]) -> Result<Vec<u8>> {
    let mut octets = BytesMut::new();
    write_frame(&mut octets, &about.parse()?, message, &[payload]);
    Ok(octets.to_vec())
}

/// A frame of these octets, with the length that belongs before them.
fn lengthened(octets: &[u8]) -> Result<Vec<u8>> {
    Ok([&u32::try_from(octets.len())?.to_be_bytes()[..], octets].concat())
}

impl Stage {
    async fn call_s3(&self, identity: &Identity) -> Result<Caller> {
        match call(&self.pool, "s3", Some(identity), &self.anchor, &[]).await? {
            Call::Open(caller) => Ok(caller),
            Call::Handshake | Call::Closed(_) => anyhow::bail!("an agent of the pool is not talked to"),
        }
    }
}

/// The code with which the agent closed.
async fn closed(connection: &Connection) -> Result<u64> {
    match timeout(PATIENCE, connection.closed())
        .await
        .context("wait for the end")?
    {
        quinn::ConnectionError::ApplicationClosed(close) => Ok(close.error_code.into_inner()),
        error => Err(error.into()),
    }
}

#[test]
fn spoiled_messages_of_an_agent_close_its_connection_and_nothing_else() -> Result<()> {
    const ROUNDS: usize = 400;
    /// Messages that are sent together.
    const TOGETHER: usize = 8;
    let stage = Stage::start()?;
    let mut random = random()?;
    let identity = stage.identity("s9")?;
    let (mut closed_by_it, mut survived) = (0, 0);
    runtime()?.block_on(async {
        let mut caller: Option<Caller> = None;
        for round in 0..ROUNDS {
            let mut open = match caller.take() {
                Some(caller) => caller,
                None => stage.call_s3(&identity).await?,
            };
            // Whole messages that say odd things, or messages that are none any more: these cost a connection, and the
            // handshake takes most of the time here.
            let whole = round % 3 != 0;
            let mut octets = Vec::new();
            for _ in 0..TOGETHER {
                let tx = Tx([random.random_range(0..4); 16]);
                let all = messages(tx, Epoch(odd(&mut random).max(1)), odd(&mut random));
                // Objects that are there, and one that is not.
                let about = address(random.random_range(0..OBJECTS + 1));
                let mut frame = framed(&about, &all[random.random_range(0..all.len())], &[1; 5])?;
                if !whole {
                    frame.drain(..4);
                    spoil(&mut frame, &mut random);
                    frame = lengthened(&frame)?;
                }
                octets.extend(frame);
            }
            // At times the last one is cut.
            if round % 10 == 0 {
                octets.truncate(octets.len() - octets.len().min(3));
            }
            // The connection may end at any moment: each stream is read for itself.
            let sent = async {
                let mut lane = open.connection.open_uni().await?;
                lane.write_all(&[LANE]).await?;
                lane.write_all(&octets).await?;
                lane.finish()?;
                open.answers_so_far(&"none".parse()?).await
            };
            match sent.await {
                Ok(_) => {
                    survived += 1;
                    caller = Some(open);
                }
                Err(_) => {
                    let code = closed(&open.connection).await?;
                    ensure!(code == 3, "closed with {code}");
                    closed_by_it += 1;
                }
            }
        }
        anyhow::Ok(())
    })?;
    println!("{ROUNDS} rounds of {TOGETHER} messages: {closed_by_it} closed the connection, {survived} passed");
    ensure!(closed_by_it > ROUNDS / 8, "the messages are spoiled too little");
    ensure!(survived > ROUNDS / 4, "whole messages close the connection");
    stage.goes_on(OBJECTS)
}

#[test]
fn oversized_messages_and_streams_left_open_cost_little_and_stop_nothing() -> Result<()> {
    const CALLERS: usize = 40;
    let stage = Stage::start()?;
    let about: Address = "5.0".parse()?;
    let tx = Tx([5; 16]);
    let whole = u32::try_from(FRAME_OCTETS_MAX)?;
    let _kept = runtime()?.block_on(async {
        let identity = stage.identity("s9")?;
        // What is too long, or says so.
        for (what, kind, octets) in [
            ("the greatest length", LANE, u32::MAX.to_be_bytes().to_vec()),
            ("one octet too long", LANE, (whole + 1).to_be_bytes().to_vec()),
            (
                "as long as allowed, of zeros",
                LANE,
                lengthened(&vec![0; FRAME_OCTETS_MAX])?,
            ),
            ("an empty frame", LANE, vec![0; 4]),
            (
                "an array without end",
                LANE,
                lengthened(&[0x9f, 1, 0x63, 0x35, 0x2e, 0x30])?,
            ),
            (
                "an address of 4 GiB",
                LANE,
                lengthened(&[0x84, 2, 0x7a, 0xff, 0xff, 0xff, 0xff])?,
            ),
            (
                "a hundred nested arrays",
                LANE,
                lengthened(
                    &[
                        &[0x98, 200, 2, 0x63, 0x35, 0x2e, 0x30, 1, 0x50],
                        &[5; 16][..],
                        &[0x81; 200_000],
                    ]
                    .concat(),
                )?,
            ),
            (
                "a large copy that is no copy",
                LARGE,
                framed("5.0", &Either::Request(Request::Abort { tx }), &[])?,
            ),
            ("a stream of no kind", 0, vec![1, 2, 3]),
            ("a stream of a kind to come", 3, vec![1, 2, 3]),
            (
                "more than any object has",
                LANE,
                framed("5.0", &Either::Request(reserve(tx, Epoch::FIRST, u64::MAX)), &[])?,
            ),
        ] {
            let open = stage.call_s3(&identity).await?;
            let mut stream = open.connection.open_uni().await?;
            // It may be closed before all of it is sent.
            drop(stream.write_all(&[&[kind], &octets[..]].concat()).await);
            let code = closed(&open.connection).await.context(what)?;
            ensure!(code == 3, "{what}: closed with {code}");
        }
        // A copy without a move: the agent does not read it.
        let mut open = stage.call_s3(&identity).await?;
        let Either::Request(Request::Copy(mut copy)) = messages(tx, Epoch::FIRST, 5).swap_remove(2) else {
            anyhow::bail!("the third message is a copy");
        };
        copy.properties = Some(Part {
            octets: 1 << 40,
            digest: [7; 32],
            follows: true,
        });
        let mut large = open.connection.open_uni().await?;
        large
            .write_all(
                &[
                    &[LARGE],
                    &framed("5.0", &Either::Request(Request::Copy(copy)), &[])?[..],
                ]
                .concat(),
            )
            .await?;
        let stopped = timeout(PATIENCE, large.stopped())
            .await
            .context("wait for the stop")??;
        ensure!(stopped.is_some(), "the agent waits for a copy that it does not want");
        // As large as the disk cannot be: refused, and the connection stays.
        open.send(&about, &reserve(tx, Epoch::FIRST, 1 << 44), &[]).await?;
        let refused = Reply::Refused {
            tx,
            why: Unwilling::Full,
        };
        ensure!(open.answer(&about).await? == refused);
        // Many agents, each with all the streams that it may open, some with all of a frame but its last octet.
        let mut kept = Vec::new();
        for number in 0..CALLERS {
            let caller = stage.call_s3(&stage.identity(&format!("x{number}"))?).await?;
            let mut streams = Vec::new();
            // One is in use already.
            for stream in 1..quic::STREAMS_MAX {
                let mut left = caller.connection.open_uni().await?;
                match stream % 4 {
                    0 => left.write_all(&[LANE]).await?,
                    1 => left.write_all(&[LARGE, 0, 0, 1, 0]).await?,
                    2 if number % 10 == 0 => {
                        left.write_all(&[&[LANE], &whole.to_be_bytes()[..], &vec![0; FRAME_OCTETS_MAX - 1]].concat())
                            .await?;
                    }
                    _ => left.write_all(&[LANE, 0, 0]).await?,
                }
                streams.push(left);
            }
            ensure!(
                caller.connection.open_uni().now_or_never().is_none(),
                "a stream too many"
            );
            ensure!(
                caller.connection.open_bi().now_or_never().is_none(),
                "a stream in both directions"
            );
            ensure!(caller.connection.close_reason().is_none(), "x{number} was cut off");
            kept.push((caller, streams));
        }
        stage.goes_on(OBJECTS)?;
        // They are still there: what they did cost nobody anything.
        for (caller, _) in &mut kept {
            caller.answers_so_far(&about).await?;
        }
        anyhow::Ok(kept)
    })?;
    Ok(())
}
