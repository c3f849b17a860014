//! A server that is killed and whose disk is gone, in a pool with two copies: what was acknowledged is all there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::client::{Client, PutObject, Settings, Upload, WriteOptions};
use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, until};
use serde_json::Value;
use tokio::sync::Mutex;
use zones::Address;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Objects of the pool.
const OBJECTS: usize = 200;
/// Clients that write them, each its own.
const CLIENTS: usize = 4;
/// Longest time until every object has two copies.
const COPIED: Duration = Duration::from_secs(60);
/// Longest time until they have again, after a loss.
const COPIED_AGAIN: Duration = Duration::from_secs(120);
/// An operation that a client tries for so long fails.
const TRIED: Duration = Duration::from_secs(60);

fn address(object: usize) -> Result<Address> {
    format!("0.9.{object}").parse().context("spell an address")
}

fn body(object: usize, revision: u64) -> Vec<u8> {
    format!("object {object}, written {revision} times").into_bytes()
}

async fn put(client: &Client, object: usize, revision: u64) -> Result<()> {
    let properties = PutObject {
        kind: Some("file".parse().context("spell a type")?),
        schema: None,
        properties: Some(serde_json::json!({ "revision": revision })),
    };
    let upload = Upload::from(body(object, revision));
    client
        .put_both(&address(object)?, &properties, upload, &WriteOptions::default())
        .await?;
    Ok(())
}

async fn read(client: &Client, object: usize) -> Result<Vec<u8>> {
    Ok(client.get_body(&address(object)?, None).await?.read_all().await?)
}

/// What a client has of an object: the last revision that was acknowledged, and the last one that was sent.
type Written = BTreeMap<usize, (u64, u64)>;

/// Clients that write and read their objects in turn. An operation that does not succeed is tried again, and counted as failed if it
/// does not in [`TRIED`].
struct Load {
    over: Arc<AtomicBool>,
    running: Vec<tokio::task::JoinHandle<Result<(Written, u64)>>>,
}

impl Load {
    fn start(runtime: &tokio::runtime::Runtime, files: &Path) -> Result<Load> {
        let over = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for number in 0..CLIENTS {
            let client = Client::new(Settings::read(files)?)?;
            let over = Arc::clone(&over);
            running.push(runtime.spawn(async move {
                let mut written: Written = (number..OBJECTS).step_by(CLIENTS).map(|at| (at, (0, 0))).collect();
                let mine: Vec<usize> = written.keys().copied().collect();
                let mut operations = 0;
                for turn in 0.. {
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    let object = mine[turn * 7 % mine.len()];
                    let (acknowledged, sent) = written[&object];
                    if turn % 2 == 0 {
                        let revision = sent + 1;
                        written.insert(object, (acknowledged, revision));
                        let put = put(&client, object, revision);
                        let put = tokio::time::timeout(TRIED, put)
                            .await
                            .context("a write took too long")?;
                        put.with_context(|| format!("write object {object}"))?;
                        written.insert(object, (revision, revision));
                    } else {
                        let read = read(&client, object);
                        let read = tokio::time::timeout(TRIED, read)
                            .await
                            .context("a read took too long")?;
                        let read = read.with_context(|| format!("read object {object}"))?;
                        ensure!(
                            read == body(object, acknowledged),
                            "object {object} is not as it was written"
                        );
                    }
                    operations += 1;
                }
                Ok((written, operations))
            }));
        }
        Ok(Load { over, running })
    }

    fn finish(self, runtime: &tokio::runtime::Runtime) -> Result<(Written, u64)> {
        self.over.store(true, Ordering::Release);
        let (mut all, mut operations) = (Written::new(), 0);
        for client in self.running {
            let (written, count) = runtime.block_on(client).context("run a client")??;
            all.extend(written);
            operations += count;
        }
        Ok((all, operations))
    }
}

fn pool_status(pool: &Pool) -> Result<Value> {
    let told = pool.librarian(&["pool", "--json"])?;
    serde_json::from_str(&told.stdout).context("read the status")
}

/// Whether every object is on two servers, as the registry has it, none of which is `lost`.
fn is_copied(pool: &Pool, lost: Option<&str>) -> Result<bool> {
    let status = pool_status(pool)?;
    let servers = status["servers"].as_array().context("a list of servers")?;
    let sum = |key: &str| -> u64 {
        let lives = servers.iter().filter(|server| server["name"].as_str() != lost);
        lives.filter_map(|server| server[key].as_u64()).sum()
    };
    Ok(sum("owned") == OBJECTS as u64 && sum("held") == OBJECTS as u64)
}

#[test]
fn server_that_is_killed_and_whose_disk_is_gone_costs_no_acknowledged_write() -> Result<()> {
    let mut pool = Pool::builder(DEMO).servers(4).free(0).copies(Some(2)).start()?;
    let files = pool.add_client("shop", &["read:*", "write:*"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = Client::new(Settings::read(&files)?)?;
    // Copies begin when every server has said that it knows of them.
    until("copies have begun", COPIED, || {
        Ok(pool_status(&pool)?["copies"]["begun"] == true)
    })?;
    runtime.block_on(async {
        for object in 0..OBJECTS {
            put(&client, object, 0)
                .await
                .with_context(|| format!("put object {object}"))?;
        }
        anyhow::Ok(())
    })?;
    until("every object has two copies", COPIED, || is_copied(&pool, None))?;

    let load = Load::start(&runtime, &files)?;
    let dir = pool.server("s2")?.dir.clone();
    pool.kill_server("s2")?;
    let killed = Instant::now();
    std::fs::remove_dir_all(&dir).context("remove the disk of s2")?;
    // A person says so as soon as its lease is over.
    until("s2 is marked lost", COPIED, || {
        Ok(pool.librarian_any(&["lost", "s2", "--yes"])?.status.success())
    })?;
    let marked = killed.elapsed();
    until("every object has two copies again", COPIED_AGAIN, || {
        is_copied(&pool, Some("s2"))
    })?;
    let copied = killed.elapsed();
    let (written, operations) = load.finish(&runtime)?;
    println!(
        "{operations} operations, none failed; marked lost {marked:?} and two copies again {copied:?} after the kill"
    );
    let differ = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        for (object, (acknowledged, _)) in &written {
            let found = read(&client, *object)
                .await
                .with_context(|| format!("read object {object}"))?;
            if found != body(*object, *acknowledged) {
                differ.lock().await.push(*object);
            }
        }
        ensure!(
            differ.lock().await.is_empty(),
            "objects are not as they were acknowledged: {differ:?}"
        );
        anyhow::Ok(())
    })
}
