//! What strangers and odd clients cost: malformed HTTP, slow clients, many connections. Everything else goes on.

mod web;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use certs::{Anchor, Identity};
use integration::harness::{Pool, resident_memory, until};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use web::{Asker, DEMO, ask, host};

/// Longest wait for what must come.
const WAIT: Duration = Duration::from_secs(20);

/// One server, one object `1.1`, and the TLS of a client that may do everything.
struct Stage {
    pool: Pool,
    alice: Asker,
    tls: Arc<ClientConfig>,
    address: SocketAddr,
}

fn stage(settings: &[(&str, &str)]) -> Result<Stage> {
    let mut builder = Pool::builder(DEMO).servers(1).free(0);
    for (key, value) in settings {
        let value = match value.parse::<i64>() {
            Ok(number) => toml::Value::from(number),
            Err(_) => toml::Value::from(*value),
        };
        builder = builder.agent_setting(key, value);
    }
    let pool = builder.start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).with_context(|| format!("read {name}"));
    let identity = Identity::from_pem(&read("client.pem")?, &read("client.key")?)?;
    let tls = certs::tls::client_config(&identity, &Anchor::from_pem(&read("ca.pem")?)?)?;
    let alice = Asker::client(&dir);
    ask(&pool, &alice, "s1", "/objects/1.1/body", &["-X", "PUT", "-d", "octets"])?.expect(201)?;
    let address = pool.server("s1")?.ready.https;
    Ok(Stage {
        pool,
        alice,
        tls: Arc::new(tls),
        address,
    })
}

type Line = StreamOwned<ClientConnection, TcpStream>;

impl Stage {
    fn tcp(&self) -> Result<TcpStream> {
        let tcp = TcpStream::connect(self.address)?;
        tcp.set_read_timeout(Some(WAIT))?;
        tcp.set_write_timeout(Some(WAIT))?;
        Ok(tcp)
    }

    /// A connection of HTTP/1.1 after its handshake.
    fn line(&self, protocol: &[u8]) -> Result<Line> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(host(&self.pool, "s1"))?;
        let mut line = StreamOwned::new(ClientConnection::new(Arc::new(tls), name)?, self.tcp()?);
        line.flush()?;
        Ok(line)
    }

    /// What comes back until the server closes or has said all; `None` when it closed without a word.
    /// With `ends`, nothing more is said than `octets`, and the server knows.
    fn say(&self, octets: &[u8], ends: bool) -> Result<Option<String>> {
        let mut line = self.line(b"http/1.1")?;
        // The server may close before all of it was sent.
        drop(line.write_all(octets));
        drop(line.flush());
        if ends {
            line.conn.send_close_notify();
            drop(line.flush());
        }
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match line.read(&mut piece) {
                Ok(0) => break,
                Ok(octets) => answer.extend_from_slice(&piece[..octets]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => anyhow::bail!("neither answer nor end"),
                Err(_) => break,
            }
        }
        Ok((!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned()))
    }

    fn still_serves(&self) -> Result<()> {
        let read = ask(&self.pool, &self.alice, "s1", "/objects/1.1/body", &[])?.expect(200)?;
        ensure!(read.text() == "octets", "{read:?}");
        Ok(())
    }
}

#[test]
fn malformed_requests_are_refused_and_the_rest_is_served() -> Result<()> {
    let stage = stage(&[])?;
    let get = "GET /objects/1.1 HTTP/1.1\r\nHost: s1\r\n";
    let many: String = (0..100).map(|number| format!("X-{number}: 1\r\n")).collect();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("garbage", b"\0\x01\x02 what\r\n\r\n".to_vec(), &["400"]),
        ("no version", b"GET /objects/1.1\r\n\r\n".to_vec(), &["400"]),
        ("HTTP/3.0", b"GET / HTTP/3.0\r\n\r\n".to_vec(), &["400", "505"]),
        ("64 KiB of one header", format!("{get}X: {}\r\n\r\n", "x".repeat(65_536)).into(), &["431"]),
        ("64 KiB of path", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(65_536)).into(), &["414", "431"]),
        ("100 headers", format!("{get}{many}\r\n").into(), &["431"]),
        ("header without colon", format!("{get}nonsense\r\n\r\n").into(), &["400"]),
        ("NUL in a header", format!("{get}X: a\0b\r\n\r\n").into(), &["400"]),
        ("two lengths", b"PUT /objects/1.1/body HTTP/1.1\r\nHost: s1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec(), &["400"]),
        ("length and chunks", b"PUT /objects/1.1/body HTTP/1.1\r\nHost: s1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), &["400"]),
        ("negative length", b"PUT /objects/1.1/body HTTP/1.1\r\nHost: s1\r\nContent-Length: -1\r\n\r\n".to_vec(), &["400"]),
        ("bad chunk", b"PUT /objects/1.1/body HTTP/1.1\r\nHost: s1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), &["400"]),
        ("path with NUL", b"GET /objects/%00 HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n".to_vec(), &["400"]),
        ("path that is no UTF-8", b"GET /objects/%ff HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n".to_vec(), &["400"]),
        ("path that climbs", b"GET /objects/../agent.toml HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n".to_vec(), &["404"]),
        ("path that climbs in code", b"GET /objects/..%2f..%2fagent.toml HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n".to_vec(), &["400"]),
    ];
    for (what, octets, expected) in cases {
        let answer = stage
            .say(&octets, false)?
            .with_context(|| format!("{what}: no answer"))?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        println!("{what:28} {status}");
        ensure!(expected.contains(&status), "{what}: {answer}");
    }
    // A body that breaks off is no write.
    stage.say(
        b"PUT /objects/1.1/body HTTP/1.1\r\nHost: s1\r\nContent-Length: 100\r\n\r\nabc",
        true,
    )?;
    stage.still_serves()?;
    // HTTP/2: a false preface, and frames that are none.
    for octets in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 4096],
    ] {
        let mut line = stage.line(b"h2")?;
        drop(line.write_all(octets));
        let mut answer = Vec::new();
        // Until its end, however it ends: there is one.
        let ended = line.read_to_end(&mut answer);
        ensure!(
            ended.map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true),
            "no end"
        );
    }
    stage.still_serves()
}

#[test]
fn mutated_requests_never_stop_the_server() -> Result<()> {
    let stage = stage(&[])?;
    let seed: u64 = std::env::var("HYPERNET_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    println!("HYPERNET_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let requests = [
        "GET /objects/1.2/body HTTP/1.1\r\nHost: s1\r\nRange: bytes=0-1\r\nIf-Range: \"1.1\"\r\nConnection: close\r\n\r\n",
        "PUT /objects/1.2 HTTP/1.1\r\nHost: s1\r\nContent-Type: application/json\r\nIf-Match: \"1.1\"\r\nIdempotency-Key: 018f3c1e-5b7a-7c3d-9a4e-1f2b3c4d5e6f\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{\"properties\":{\"a\":1}}",
        "PUT /objects/1.2 HTTP/1.1\r\nHost: s1\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n42\r\n--b\r\nContent-Disposition: form-data; name=\"object\"\r\n\r\n{}\r\n--b--\r\n\r\n0\r\n\r\n",
        "GET /objects?under=1&after=1.1&limit=3 HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n",
    ];
    let process = stage.pool.server("s1")?.process()?;
    let before = resident_memory(process.pid())?;
    for _ in 0..1500 {
        let mut octets = requests[random.random_range(0..requests.len())].as_bytes().to_vec();
        for _ in 0..random.random_range(1..6) {
            let place = random.random_range(0..octets.len().max(1)).min(octets.len() - 1);
            match random.random_range(0..4) {
                0 => octets[place] = random.next_u32().to_le_bytes()[0],
                1 if octets.len() > 1 => drop(octets.remove(place)),
                2 => octets.insert(place, random.next_u32().to_le_bytes()[0]),
                _ => octets.truncate(place.max(1)),
            }
        }
        stage.say(&octets, true)?;
    }
    stage.still_serves()?;
    let after = resident_memory(process.pid())?;
    ensure!(after < before + (64 << 20), "memory grew from {before} to {after}");
    Ok(())
}

#[test]
fn slow_clients_are_cut_and_cost_the_others_nothing() -> Result<()> {
    let stage = stage(&[("access.idle_timeout", "2s")])?;
    let mut strangers: Vec<TcpStream> = (0..40).map(|_| stage.tcp()).collect::<Result<_>>()?;
    let mut headers = stage.line(b"http/1.1")?;
    headers.write_all(b"GET /objects/1.1 HTTP/1.1\r\nHo")?;
    let mut idle = stage.line(b"http/1.1")?;
    let mut body = stage.line(b"http/1.1")?;
    body.write_all(b"PUT /objects/1.1/body HTTP/1.1\r\nHost: s1\r\nContent-Length: 100\r\n\r\nabc")?;
    stage.still_serves()?;
    let start = Instant::now();
    let mut answer = String::new();
    // Each ends by itself: with an answer, or without.
    drop(body.read_to_string(&mut answer));
    ensure!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("4096 octets"),
        "{answer}"
    );
    for line in [&mut headers, &mut idle] {
        let mut rest = Vec::new();
        let ended = line.read_to_end(&mut rest);
        ensure!(
            ended.map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true),
            "no end"
        );
    }
    for stranger in &mut strangers {
        let mut rest = Vec::new();
        let ended = stranger.read_to_end(&mut rest);
        ensure!(
            ended.map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true),
            "no end"
        );
    }
    ensure!(
        start.elapsed() < Duration::from_secs(15),
        "the last was cut after {:?}",
        start.elapsed()
    );
    stage.still_serves()
}

#[test]
fn reader_that_takes_nothing_is_cut() -> Result<()> {
    let stage = stage(&[("access.idle_timeout", "2s")])?;
    let home = tempfile::tempdir()?;
    let file = home.path().join("large");
    std::fs::write(&file, vec![7; 32 << 20])?;
    let upload = ["-T", file.to_str().context("name the file")?];
    ask(&stage.pool, &stage.alice, "s1", "/objects/1.9/body", &upload)?.expect(201)?;
    let mut line = stage.line(b"http/1.1")?;
    line.write_all(b"GET /objects/1.9/body HTTP/1.1\r\nHost: s1\r\n\r\n")?;
    let metrics = || -> Result<usize> {
        let status = std::fs::read_dir(format!("/proc/{}/fd", stage.pool.server("s1")?.process()?.pid()))?;
        Ok(status.count())
    };
    let with = metrics()?;
    // The server closes its end: one descriptor less.
    until("the cut of a reader that takes nothing", WAIT, || Ok(metrics()? < with))?;
    stage.still_serves()
}

#[test]
fn one_client_cannot_take_every_connection() -> Result<()> {
    let stage = stage(&[("access.connections_max", "8")])?;
    let mut lines: Vec<Line> = (0..12).map(|_| stage.line(b"http/1.1")).collect::<Result<_>>()?;
    let mut served = 0;
    for line in &mut lines {
        let request = b"GET /healthz HTTP/1.1\r\nHost: s1\r\n\r\n";
        let mut answer = [0; 12];
        if line.write_all(request).is_ok() && line.flush().is_ok() && line.read_exact(&mut answer).is_ok() {
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
            served += 1;
        }
    }
    ensure!(
        served == 4,
        "half of 8 places are one client's, and {served} were served"
    );
    let other = Asker::client(&stage.pool.add_client("other", &["read:*"])?);
    ask(&stage.pool, &other, "s1", "/objects/1.1/body", &[])?.expect(200)?;
    drop(lines);
    Ok(())
}
