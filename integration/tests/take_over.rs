//! A new librarian takes over in the midst of the main job, and no client notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::client::{Client, ClientError, PutObject, Settings, Upload, WriteOptions};
use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, until};
use tokio::task::JoinSet;
use zones::Address;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const OBJECTS: u64 = 120;
/// Clients that read and write at once.
const CLIENTS: u64 = 4;
const TAKE_OVERS: usize = 3;
const WAIT: Duration = Duration::from_secs(120);

fn address(number: u64) -> Address {
    format!("3.1.{number}").parse().expect("an address")
}

/// Reads and writes one object after the other until told; an error is a client that noticed.
async fn work(
    client: Arc<Client>,
    mut number: u64,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<(), ClientError> {
    while !stop.load(Ordering::Relaxed) {
        number = (number + 7) % OBJECTS;
        let at = address(number);
        client.get_body(&at, None).await?.read_all().await?;
        client
            .put_body(&at, Upload::from("new"), &WriteOptions::default())
            .await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until a count has grown by `more`.
fn wait_for(count: &AtomicU64, more: u64) -> Result<()> {
    let begin = count.load(Ordering::Relaxed);
    until("more work of the clients", WAIT, || {
        Ok(count.load(Ordering::Relaxed) >= begin + more)
    })
}

#[test]
fn drain_goes_on_while_librarians_take_over_and_no_client_notices() -> Result<()> {
    let mut pool = Pool::builder(DEMO).servers(3).free(1).start()?;
    pool.wait_for_servers()?;
    let dir = pool.add_client("shop", &["read:3", "write:3"])?;
    let client = Arc::new(Client::new(Settings::read(&dir)?)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for number in 0..OBJECTS {
            let object = PutObject {
                kind: Some("photo".parse()?),
                ..PutObject::default()
            };
            let options = WriteOptions::default();
            client
                .put_both(&address(number), &object, "old".into(), &options)
                .await?;
        }
        anyhow::Ok(())
    })?;

    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let working = work(Arc::clone(&client), number * 31, Arc::clone(&done), Arc::clone(&stop));
        clients.spawn_on(working, runtime.handle());
    }
    wait_for(&done, 20)?;
    let drained = pool.server("s1")?.name.clone();
    pool.librarian(&["drain", &drained, "--detach"])?;
    for _ in 0..TAKE_OVERS {
        pool.take_over_librarian()?;
        wait_for(&done, 20)?;
    }
    let until = Instant::now() + WAIT;
    loop {
        let status = pool.pool_status()?;
        let server = status
            .servers
            .iter()
            .find(|server| server.name == drained)
            .context("s1 is listed")?;
        if server.role == "free" && server.objects == Some(0) {
            break;
        }
        ensure!(Instant::now() < until, "the drain did not end: {server:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for(&done, 20)?;
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        while let Some(ended) = clients.join_next().await {
            ended?.context("a client noticed")?;
        }
        anyhow::Ok(())
    })
}
