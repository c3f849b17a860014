//! A registry that is lost, or that comes back old, in a running pool: what was acknowledged is there afterwards, and what
//! was deleted is not.

mod dns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::client::{Client, ClientError, PutObject, Settings, WriteOptions};
use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use integration::harness::{Pool, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use zones::report::build_report;
use zones::update::build_register_update;
use zones::{Claim, Claimed, Epoch, Incarnation, Level, Register, Report};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// How long a reconcile of a few objects may take on a busy machine.
const WAIT: Duration = Duration::from_secs(60);

/// A pool, one client of it, and what the client was told is done.
struct World {
    pool: Pool,
    client: Client,
    runtime: Runtime,
    /// What was acknowledged: the property of each object, `None` for a deleted one.
    acknowledged: BTreeMap<String, Option<u64>>,
    written: u64,
}

impl World {
    fn start() -> Result<World> {
        let pool = Pool::builder(DEMO).servers(3).free(1).start()?;
        let dir = pool.add_client("alice", &["read:*", "write:*"])?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Ok(World {
            client: Client::new(Settings::read(&dir)?)?,
            runtime: builder.worker_threads(2).enable_all().build()?,
            pool,
            acknowledged: BTreeMap::new(),
            written: 0,
        })
    }

    fn put(&mut self, address: &str) -> Result<()> {
        self.written += 1;
        let object = PutObject {
            kind: Some("photo".parse()?),
            schema: None,
            properties: Some(json!({ "written": self.written })),
        };
        let (at, options) = (address.parse()?, WriteOptions::default());
        let put = self.client.put(&at, &object, &options);
        // The client repeats by itself for a while; a pool that has just been reconciled may take longer.
        self.runtime
            .block_on(put_within(put))
            .with_context(|| format!("put {address}"))?;
        self.acknowledged.insert(address.to_owned(), Some(self.written));
        Ok(())
    }

    fn delete(&mut self, address: &str) -> Result<()> {
        let (at, options) = (address.parse()?, WriteOptions::default());
        let delete = self.client.delete(&at, &options);
        self.runtime
            .block_on(put_within(delete))
            .with_context(|| format!("delete {address}"))?;
        self.acknowledged.insert(address.to_owned(), None);
        Ok(())
    }

    /// Everything that was acknowledged is so, and nothing that was deleted can be made again.
    fn check(&self) -> Result<()> {
        self.runtime.block_on(async {
            for (address, expected) in &self.acknowledged {
                let at = address.parse()?;
                let read = self.client.get(&at).await;
                match (expected, &read) {
                    (Some(written), Ok(read)) => ensure!(
                        read.properties["written"] == *written,
                        "{address} holds {:?}, acknowledged was {written}",
                        read.properties
                    ),
                    (None, Err(ClientError::Deleted { .. } | ClientError::Absent { .. })) => {
                        let object = PutObject {
                            kind: None,
                            schema: None,
                            properties: Some(json!({})),
                        };
                        let again = self.client.put(&at, &object, &WriteOptions::default()).await;
                        ensure!(again.is_err(), "{address} was deleted and is there again");
                    }
                    (_, read) => bail!("{address}: {expected:?} was acknowledged, but {read:?}"),
                }
            }
            Ok(())
        })
    }

    /// The registers of objects that a server owns: of those that were put, at least one.
    fn owned_by(&self, server: &str) -> Result<Vec<Register>> {
        let admin = dns::Client::new(&self.pool, "admin");
        let mut owned = Vec::new();
        for address in self.acknowledged.keys() {
            if let Some(register) = admin.register(address)?.filter(|known| known.owner.as_str() == server) {
                owned.push(register);
            }
        }
        ensure!(!owned.is_empty(), "no object is on {server}");
        Ok(owned)
    }

    fn backup(&self) -> Result<PathBuf> {
        let path = self.pool.dir().join("saved.backup");
        let told = self
            .pool
            .librarian(&["backup", path.to_str().context("a path")?, "--json"])?;
        let told: Value = serde_json::from_str(&told.stdout)?;
        ensure!(told["entries"].as_u64() > Some(0), "{told}");
        Ok(path)
    }

    fn restore(&mut self, backup: &Path) -> Result<()> {
        let path = backup.to_str().context("a path")?;
        let asked = self.pool.librarian_any(&["restore", path])?;
        ensure!(
            asked.status.code() == Some(1) && asked.stderr.contains("--yes"),
            "a registry was replaced unasked: {}",
            asked.stderr
        );
        self.pool.librarian(&["restore", path, "--yes"])?;
        self.pool.start_librarian()
    }

    fn status(&self) -> Result<Value> {
        let told = self.pool.librarian(&["reconcile", "--json"])?;
        serde_json::from_str(&told.stdout).with_context(|| told.stdout.clone())
    }

    /// Waits until the reconcile is so.
    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + WAIT;
        loop {
            let status = self.status()?;
            if is_so(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "{what} did not happen: {status:#}");
            std::thread::yield_now();
        }
    }

    fn until_open(&self) -> Result<Value> {
        self.pool.librarian_within(WAIT, &["reconcile", "--watch"])?;
        self.until("the registry opens", |status| status["reconciling"] == false)
    }
}

/// A write that the pool cannot take yet says so and is tried again.
async fn put_within<T, F: Future<Output = Result<T, ClientError>>>(attempt: F) -> Result<T> {
    Ok(tokio::time::timeout(WAIT, attempt)
        .await
        .context("no answer in time")??)
}

fn state_of<'a>(status: &'a Value, server: &str) -> &'a str {
    let servers = status["servers"].as_array().map_or(&[][..], Vec::as_slice);
    let found = servers.iter().find(|known| known["name"] == server);
    found.and_then(|known| known["state"].as_str()).unwrap_or("absent")
}

#[test]
fn old_backup_is_reconciled_with_what_happened_since() -> Result<()> {
    let mut world = World::start()?;
    for number in 0..24 {
        world.put(&format!("1.{number}"))?;
    }
    world.delete("1.0")?;
    let backup = world.backup()?;
    // An update that is under way for long: signed by the owner, of the text that the backup has.
    let owner = dns::Client::new(&world.pool, "s2");
    let kept = world.owned_by("s2")?.remove(0);
    let late = build_register_update(&owner.domain, dns::fresh_id(), &[dns::touched(&kept)])?;

    for number in 24..40 {
        world.put(&format!("1.{number}"))?;
    }
    for number in 4..12 {
        world.put(&format!("1.{number}"))?;
    }
    world.delete("1.2")?;
    world.delete("1.30")?;
    // Three plans that the backup knows nothing of.
    for command in ["drain", "refill", "drain"] {
        world.pool.librarian_within(WAIT, &[command, "s1"])?;
    }
    world.put("1.40")?;
    world.pool.kill_librarian()?;
    world.restore(&backup)?;
    let status = world.until_open()?;
    assert_eq!(status["conflicts_count"], 0, "{status:#}");
    assert_eq!(status["claimless_count"], 0, "{status:#}");

    world.check()?;
    let refused = owner.exchange_tcp(late)?;
    assert_eq!(refused.code, ResponseCode::NXRRSet, "{:?}", refused.why());
    let fresh = owner.register(kept.address.as_str())?.context("a register")?;
    assert_eq!((fresh.epoch, &fresh.owner), (kept.epoch, &kept.owner));
    assert_ne!(fresh.tx, kept.tx);

    // The pool works on: writes, moves under a plan that every server takes for new, and another backup.
    for number in 4..8 {
        world.put(&format!("1.{number}"))?;
    }
    world.put("1.50")?;
    world.delete("1.40")?;
    let pool: Value = serde_json::from_str(&world.pool.librarian(&["pool", "--json"])?.stdout)?;
    assert_eq!(pool["reconcile"], Value::Null);
    let role = |server: usize| pool["servers"][server]["role"].as_str();
    assert_eq!([role(0), role(1), role(2)], ["free", "serving", "serving"].map(Some));
    world.pool.librarian_within(WAIT, &["drain", "s3"])?;
    world.check()
}

#[test]
fn registry_is_rebuilt_from_nothing_through_kills_of_everybody() -> Result<()> {
    let mut world = World::start()?;
    for number in 0..24 {
        world.put(&format!("2.{number}"))?;
    }
    world.delete("2.7")?;
    world.pool.librarian_within(WAIT, &["drain", "s1"])?;
    world.put("2.3")?;
    world.delete("2.4")?;
    let held_by_s2 = world.owned_by("s2")?;

    world.pool.kill_librarian()?;
    world.pool.kill_server("s2")?;
    std::fs::remove_file(world.pool.dir().join("registry.redb"))?;
    world.pool.librarian(&["rebuild"])?;
    world.pool.start_librarian()?;

    // Those that run report; the one that is down is waited for by name, and nothing changes meanwhile.
    let waits = |status: &Value| status["waits_for"] == json!(["s2"]);
    world.until("s1 and s3 report", waits)?;
    let owner = dns::Client::new(&world.pool, "s3");
    let refused = owner.update(&[dns::creation("2.99", "s3")])?;
    assert_eq!(refused.code, ResponseCode::Refused);
    assert!(refused.why().is_some_and(|why| why.contains("being reconciled")));
    assert_eq!(refused.extended_errors[0].code, zones::ExtendedError::NOT_READY);
    assert!(
        world.pool.librarian(&["pool"])?.stdout.contains("waits for s2"),
        "the pool does not say who is waited for"
    );
    let known = world.status()?["objects"].clone();

    // SIGKILL in the midst of it: what was told is told again, and comes to the same.
    world.pool.kill_librarian()?;
    world.pool.start_librarian()?;
    let status = world.until("s1 and s3 report again", waits)?;
    assert_eq!(status["objects"], known);
    assert_eq!(state_of(&status, "s3"), "reported");

    // An agent that died while it reported: the beginning of its report came, and no more.
    let s2 = dns::Client::new(&world.pool, "s2");
    let told = s2.ask(&s2.domain.in_pool("s2"), RecordType::TXT)?;
    let told = told.told.context("which registry answers")?;
    assert_eq!(told.standing, zones::Standing::Report);
    let begun = Report {
        server: dns::server("s2"),
        incarnation: told.incarnation,
        from: 0,
        plan: 0,
        role: None,
        end: false,
        claims: vec![Claim {
            address: held_by_s2[0].address.clone(),
            epoch: held_by_s2[0].epoch,
            what: Claimed::Owned { others: Vec::new() },
            tx: held_by_s2[0].tx,
            kind: held_by_s2[0].kind.clone(),
            schema: held_by_s2[0].schema,
            level: held_by_s2[0].level,
        }],
    };
    let taken = s2.exchange_tcp(build_report(&s2.domain, dns::fresh_id(), &begun)?)?;
    assert_eq!(taken.code, ResponseCode::NoError, "{:?}", taken.why());
    assert_eq!(state_of(&world.status()?, "s2"), "reporting");
    // One that is killed after its report need not tell it again.
    world.pool.kill_server("s3")?;
    world.pool.start_server("s3")?;
    assert_eq!(state_of(&world.status()?, "s3"), "reported");

    world.pool.start_server("s2")?;
    let status = world.until_open()?;
    assert_eq!(status["conflicts_count"], 0, "{status:#}");
    assert_eq!(status["claimless_count"], 0, "{status:#}");
    world.check()?;
    world.put("2.1")?;
    world.put("2.60")?;
    // What every agent believes is durable.
    for name in ["s1", "s2", "s3"] {
        world.pool.kill_server(name)?;
        world.pool.start_server(name)?;
    }
    world.put("2.2")?;
    world.check()
}

#[test]
fn server_that_is_lost_is_written_off_by_name_and_stays_away() -> Result<()> {
    let mut world = World::start()?;
    for number in 0..24 {
        world.put(&format!("3.{number}"))?;
    }
    let lost: Vec<String> = world
        .owned_by("s2")?
        .iter()
        .map(|register| register.address.to_string())
        .collect();
    ensure!(lost.len() < 24, "all objects are on s2");
    // It hangs, and so hears nothing of all that follows.
    world.pool.server("s2")?.process()?.signal(Signal::STOP)?;
    world.pool.kill_librarian()?;
    // Nobody runs: the command opens the registry itself, and leaves it as one that was stopped in order.
    let backup = world.backup()?;
    ensure!(!world.pool.dir().join("registry.wal").exists(), "left as after a kill");
    world.restore(&backup)?;

    world.until("s1 and s3 report", |status| status["waits_for"] == json!(["s2"]))?;
    let asked = world.pool.librarian_any(&["reconcile", "--write-off", "s2"])?;
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert_eq!(world.status()?["reconciling"], true);
    world.pool.librarian(&["reconcile", "--write-off", "s2", "--yes"])?;
    let status = world.until_open()?;
    let listed: Vec<&str> = status["claimless"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|object| object["address"].as_str())
        .collect();
    let mut expected: Vec<&str> = lost.iter().map(String::as_str).collect();
    expected.sort_unstable();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected, "{status:#}");
    let all = std::fs::read_to_string(world.pool.dir().join("reconcile-claimless.txt"))?;
    assert_eq!(all.lines().count(), lost.len());
    world.acknowledged.retain(|address, _| !lost.contains(address));
    world.check()?;
    world.put("3.77")?;

    // Its key changes nothing, and its agent serves nothing.
    let s2 = dns::Client::new(&world.pool, "s2");
    let refused = s2.update(&[dns::creation("3.88", "s2")])?;
    assert!(
        refused.why().is_some_and(|why| why.contains("written off")),
        "{:?}",
        refused.why()
    );
    let process = world.pool.server("s2")?.process()?;
    process.signal(Signal::CONT)?;
    until("the end of a server that was written off", WAIT, || {
        Ok(process.log_end().contains("written off"))
    })?;
    let ended = world.pool.stop_server("s2");
    ensure!(ended.is_err(), "a server that was written off ends as if all were well");
    let started = world.pool.start_server("s2");
    let why = format!("{:?}", started.err().context("a server that was written off serves")?);
    assert!(why.contains("written off"), "{why}");

    // Emptied and invited anew, it is a server as any other.
    let dir = world.pool.server("s2")?.dir.clone();
    let settings = std::fs::read_to_string(dir.join("agent.toml"))?;
    std::fs::remove_dir_all(&dir)?;
    let token = world.pool.dir().join("s2.token");
    let file = token.to_str().context("a path")?;
    world
        .pool
        .librarian(&["invite", "s2", "--again", "--role", "free", "--out", file])?;
    let home = dir.to_str().context("a path")?;
    world.pool.agent(&["join", "--token-file", file, "--dir", home], b"")?;
    std::fs::write(dir.join("agent.toml"), settings)?;
    world.pool.start_server("s2")?;
    world.pool.wait_for_servers()?;
    world.pool.librarian_within(WAIT, &["drain", "s1"])?;
    ensure!(!world.owned_by("s2")?.is_empty(), "nothing moved to s2");
    world.check()
}

#[test]
fn stolen_agent_key_reports_for_its_own_server_alone() -> Result<()> {
    let mut pool = Pool::builder(DEMO).servers(2).free(1).start()?;
    for name in ["s1", "s2"] {
        pool.kill_server(name)?;
    }
    pool.kill_librarian()?;
    pool.librarian(&["rebuild", "--yes"])?;
    pool.start_librarian()?;
    let s2 = dns::Client::new(&pool, "s2");
    let told = s2.ask(&s2.domain.in_pool("s2"), RecordType::TXT)?.told;
    let told = told.context("which registry answers")?;
    let claim = Claim {
        address: "4.1".parse()?,
        epoch: Epoch(3),
        what: Claimed::Owned { others: Vec::new() },
        tx: dns::fresh_tx(),
        kind: "photo".parse()?,
        schema: 1,
        level: Level(1),
    };
    let good = Report {
        server: dns::server("s2"),
        incarnation: told.incarnation,
        from: 0,
        plan: 0,
        role: None,
        end: false,
        claims: vec![claim],
    };
    let send = |by: &dns::Client, report: &Report| -> Result<(ResponseCode, String)> {
        let answer = by.exchange_tcp(build_report(&by.domain, dns::fresh_id(), report)?)?;
        Ok((answer.code, answer.why().unwrap_or_default().to_owned()))
    };
    let other = Report {
        server: dns::server("s1"),
        ..good.clone()
    };
    let gap = Report {
        from: 7,
        ..good.clone()
    };
    let elsewhere = Report {
        incarnation: Incarnation([0; 16]),
        ..good.clone()
    };
    for (report, why) in [
        (&other, "only server s1 reports"),
        (&gap, "begin the report anew"),
        (&elsewhere, "the report is to registry"),
    ] {
        let (code, said) = send(&s2, report)?;
        ensure!(code == ResponseCode::Refused && said.contains(why), "{code} {said}");
    }
    for by in [dns::Client::new(&pool, "admin"), dns::Client::stranger(&pool)] {
        assert_eq!(send(&by, &good)?.0, ResponseCode::Refused);
    }
    let mut broken = build_report(&s2.domain, dns::fresh_id(), &good)?;
    let at = broken
        .windows(7)
        .position(|octets| octets == b"epoch=3")
        .context("the claim")?;
    broken[at + 6] = b'0';
    let answer = s2.exchange_tcp(broken)?;
    assert_eq!(answer.code, ResponseCode::FormErr);
    ensure!(
        answer.why().is_some_and(|why| why.contains("claim 0")),
        "{:?}",
        answer.why()
    );
    // None of it did anything; the good one does.
    let status = || -> Result<Value> { Ok(serde_json::from_str(&pool.librarian(&["reconcile", "--json"])?.stdout)?) };
    assert_eq!(
        (&status()?["objects"], state_of(&status()?, "s2")),
        (&json!(0), "silent")
    );
    assert_eq!(send(&s2, &good)?.0, ResponseCode::NoError);
    assert_eq!(
        (&status()?["objects"], state_of(&status()?, "s2")),
        (&json!(1), "reporting")
    );
    Ok(())
}
