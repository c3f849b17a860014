//! A pool that balances itself: real agents, clients that go on meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agent::client::{Client, PutObject, Settings, Upload, WriteOptions};
use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, until};
use serde_json::Value;
use zones::Address;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Objects of a pool.
const OBJECTS: usize = 120;
/// Longest time until disks are even.
const OCTETS_WAIT: Duration = Duration::from_secs(90);
/// Longest time until requests are: what is uneven is looked at for 15 s, and for 30 s after each round of moves.
const REQUESTS_WAIT: Duration = Duration::from_secs(240);
/// Within so much of its part a server is left alone.
const TOLERANCE: f64 = 0.05;

fn address(object: usize) -> Result<Address> {
    format!("0.8.{object}").parse().context("spell an address")
}

fn body(object: usize, revision: usize) -> Vec<u8> {
    format!("object {object}, written {revision} times").into_bytes()
}

/// A pool of three servers that serve, with all objects on s1.
fn pool(settings: &[(&str, toml::Value)]) -> Result<Pool> {
    let mut builder = Pool::builder(DEMO)
        .servers(3)
        .free(0)
        .librarian_setting("servers.s2.new_objects", false)
        .librarian_setting("servers.s3.new_objects", false);
    for (key, value) in settings {
        builder = builder.librarian_setting(key, value.clone());
    }
    builder.start()
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().context("start a runtime")
}

async fn put(client: &Client, object: usize, revision: usize) -> Result<()> {
    let properties = PutObject {
        kind: Some("file".parse().context("spell a type")?),
        schema: None,
        properties: Some(serde_json::json!({ "revision": revision })),
    };
    let upload = Upload::from(body(object, revision));
    let options = WriteOptions::default();
    client
        .put_both(&address(object)?, &properties, upload, &options)
        .await?;
    Ok(())
}

fn fill(runtime: &tokio::runtime::Runtime, client: &Client) -> Result<()> {
    runtime.block_on(async {
        for object in 0..OBJECTS {
            put(client, object, 0)
                .await
                .with_context(|| format!("put object {object}"))?;
        }
        Ok(())
    })
}

async fn read_and_compare(client: &Client, object: usize, revision: usize) -> Result<()> {
    let found = client.get_body(&address(object)?, None).await?.read_all().await?;
    ensure!(
        found == body(object, revision),
        "object {object} is not as it was written"
    );
    Ok(())
}

fn status(pool: &Pool) -> Result<Value> {
    let told = pool.librarian(&["rebalance", "status", "--json"])?;
    serde_json::from_str(&told.stdout).context("read the status")
}

fn heat(pool: &Pool) -> Result<Value> {
    let told = pool.librarian(&["heat", "--json"])?;
    serde_json::from_str(&told.stdout).context("read the heat")
}

fn objects(standing: &Value) -> Vec<u64> {
    let servers = standing["servers"].as_array().into_iter().flatten();
    servers.filter_map(|server| server["objects"].as_u64()).collect()
}

/// Clients that write and read one object after another, and remember what they wrote.
struct Load {
    over: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    running: tokio::task::JoinHandle<Result<Vec<usize>>>,
}

impl Load {
    fn start(runtime: &tokio::runtime::Runtime, client: &Path) -> Result<Load> {
        let client = Client::new(Settings::read(client)?)?;
        let (over, operations) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (Arc::clone(&over), Arc::clone(&operations));
        let running = runtime.spawn(async move {
            let mut revisions = vec![0; OBJECTS];
            for turn in 0.. {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let object = turn * 7 % OBJECTS;
                if turn % 3 == 0 {
                    revisions[object] += 1;
                    put(&client, object, revisions[object]).await?;
                }
                read_and_compare(&client, object, revisions[object]).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(revisions)
        });
        Ok(Load {
            over,
            operations,
            running,
        })
    }

    fn finish(self, runtime: &tokio::runtime::Runtime) -> Result<Vec<usize>> {
        self.over.store(true, Ordering::Release);
        let revisions = runtime.block_on(self.running).context("run the clients")?;
        ensure!(self.operations.load(Ordering::Relaxed) > 0, "the clients did nothing");
        revisions.context("an operation failed while the pool was balanced")
    }
}

#[test]
fn disks_of_a_pool_become_even_and_no_client_notices() -> Result<()> {
    let pool = pool(&[])?;
    let files = pool.add_client("shop", &["read:*", "write:*"])?;
    let runtime = runtime()?;
    let client = Client::new(Settings::read(&files)?)?;
    fill(&runtime, &client)?;
    // Registers say at once how many objects it has; how large they are it says itself.
    until("the report of s1", OCTETS_WAIT, || {
        let standing = status(&pool)?;
        let told = standing["servers"][0]["used"].as_u64().is_some_and(|used| used > 0);
        Ok(told && objects(&standing) == [120, 0, 0])
    })?;

    let preview: Value = serde_json::from_str(&pool.librarian(&["rebalance", "--dry-run", "--json"])?.stdout)?;
    let flows = preview["flows"].as_array().context("flows")?;
    let count: u64 = flows.iter().filter_map(|flow| flow["objects"].as_u64()).sum();
    ensure!((76..=80).contains(&count), "{preview}");
    assert_eq!(objects(&status(&pool)?), [120, 0, 0], "a dry run moves nothing");

    let load = Load::start(&runtime, &files)?;
    pool.librarian(&["rebalance", "start"])?;
    until("even disks", OCTETS_WAIT, || {
        let standing = status(&pool)?;
        let near = |key: &str| {
            standing[key]
                .as_f64()
                .is_some_and(|part| (part - 1.0).abs() <= TOLERANCE)
        };
        Ok(near("fullest") && near("emptiest") && standing["wished"] == 0)
    })?;
    let revisions = load.finish(&runtime)?;

    // It is even, so nothing more moves, and every object is as it was last written.
    let moved = status(&pool)?["moved"].clone();
    runtime.block_on(async {
        for (object, revision) in revisions.iter().enumerate() {
            read_and_compare(&client, object, *revision).await?;
        }
        anyhow::Ok(())
    })?;
    let standing = status(&pool)?;
    assert_eq!(standing["moved"], moved, "{standing}");
    ensure!(
        objects(&standing).iter().all(|objects| (37..=43).contains(objects)),
        "{standing}"
    );
    // Until every server has said that it has the plan, that is what it waits for.
    until("a second start is refused as needless", OCTETS_WAIT, || {
        let again = pool.librarian_any(&["rebalance", "start"])?;
        ensure!(!again.status.success(), "{}", again.stdout);
        Ok(again.stderr.contains("balanced already"))
    })?;
    pool.librarian(&["rebalance", "stop"])?;
    assert_eq!(status(&pool)?["on"], false);
    Ok(())
}

#[test]
fn objects_that_are_asked_for_most_are_found_and_spread() -> Result<()> {
    // Disks are left as they are: what moves, moves for its heat.
    let pool = pool(&[("placement.storage", 0.into()), ("copies.hot_percent", 0.into())])?;
    let files = pool.add_client("shop", &["read:*", "write:*"])?;
    let runtime = runtime()?;
    let client = Client::new(Settings::read(&files)?)?;
    fill(&runtime, &client)?;
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let asking = runtime.spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        // Six objects of s1, a hundred requests a second.
        for turn in 0.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            ticks.tick().await;
            read_and_compare(&client, turn % 6, 0).await?;
        }
        anyhow::Ok(())
    });
    let hottest = |told: &Value| -> Vec<String> {
        let objects = told["objects"].as_array().into_iter().flatten();
        let named = objects.filter_map(|object| object["address"].as_str());
        named.take(6).map(str::to_owned).collect()
    };
    until("the heat of six objects", REQUESTS_WAIT, || {
        let mut found = hottest(&heat(&pool)?);
        found.sort();
        Ok(found == ["0.8.0", "0.8.1", "0.8.2", "0.8.3", "0.8.4", "0.8.5"])
    })?;
    let before = heat(&pool)?["hottest_over_mean"].as_f64().context("a number")?;
    ensure!(before > 2.5, "all of it is on one of three servers: {before}");
    pool.librarian(&["rebalance", "start"])?;
    until("requests that are spread", REQUESTS_WAIT, || {
        Ok(heat(&pool)?["hottest_over_mean"]
            .as_f64()
            .is_some_and(|over| over < 1.3))
    })?;
    let standing = status(&pool)?;
    over.store(true, Ordering::Release);
    runtime.block_on(asking)??;
    ensure!(
        standing["moved"].as_u64().is_some_and(|moved| (2..=6).contains(&moved)),
        "{standing}"
    );
    let explained = pool.librarian(&["explain", "0.8.0"])?.stdout;
    ensure!(explained.contains("0.8.0 is on s"), "{explained}");
    Ok(())
}

#[test]
fn objects_move_by_the_schedule_without_being_asked_for() -> Result<()> {
    let pool = pool(&[("placement.move_after", "1min".into())])?;
    let files = pool.add_client("shop", &["read:*", "write:*"])?;
    let runtime = runtime()?;
    let client = Client::new(Settings::read(&files)?)?;
    fill(&runtime, &client)?;
    // Two a second.
    until("moves by the schedule", OCTETS_WAIT, || {
        Ok(status(&pool)?["moved"].as_u64().is_some_and(|moved| moved >= 20))
    })?;
    runtime.block_on(async {
        for object in 0..OBJECTS {
            read_and_compare(&client, object, 0).await?;
        }
        anyhow::Ok(())
    })
}
