//! The Rust client against real agents: found by DNS, redirected, repeated, taken up again.

mod web;

use std::path::Path;
use std::time::Duration;

use agent::client::{Client, ClientError, Expect, PutObject, Settings, Upload, WriteOptions};
use anyhow::{Context, Result, ensure};
use integration::harness::Pool;
use serde_json::json;
use tokio::runtime::Runtime;
use web::{DEMO, host};
use zones::Address;

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")
}

fn client(dir: &Path) -> Result<Client> {
    Ok(Client::new(Settings::read(dir)?)?)
}

fn address(text: &str) -> Result<Address> {
    Ok(text.parse()?)
}

fn octets(length: u32) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

#[test]
fn object_is_made_read_changed_listed_and_deleted() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(3).free(1).start()?;
    let dir = pool.add_client("alice", &["read:1", "write:1"])?;
    let client = client(&dir)?;
    runtime()?.block_on(async {
        let at = address("1.2.3")?;
        // Asked for before it exists: the absence that DNS lets be remembered must not hide it afterwards.
        let absent = client.get(&at).await;
        ensure!(matches!(absent, Err(ClientError::Absent { .. })), "{absent:?}");
        let object = PutObject {
            kind: Some("photo".parse()?),
            schema: None,
            properties: Some(json!({"title": "Sea"})),
        };
        let body = octets(300_000);
        let absent = WriteOptions {
            expect: Expect::Absent,
            ..WriteOptions::default()
        };
        let made = client.put_both(&at, &object, body.clone().into(), &absent).await?;
        ensure!(made.created && made.revision == 1, "{made:?}");
        ensure!(made.server != host(&pool, "s3"), "made on the free server");
        let read = client.get(&at).await?;
        ensure!(read.properties["title"] == "Sea" && read.size == 300_000, "{read:?}");
        ensure!(
            client.get_body(&at, None).await?.read_all().await? == body,
            "the body differs"
        );
        let range = "65530-65540".parse::<agent::access::range::RangeText>()?.0;
        let part = client.get_body(&at, Some(range)).await?.read_all().await?;
        ensure!(part == body[65_530..=65_540], "the range differs");
        let again = client.put(&at, &object, &absent).await;
        ensure!(
            matches!(again, Err(ClientError::Precondition { revision: Some(1), .. })),
            "{again:?}"
        );
        let at_one = WriteOptions {
            expect: Expect::Revision(1),
            ..WriteOptions::default()
        };
        let written = client.put_body(&at, Upload::from("short"), &at_one).await?;
        ensure!(written.revision == 2 && !written.created, "{written:?}");
        let stat = client.stat(&at).await?;
        ensure!(
            (stat.revision, stat.size, stat.kind.as_str()) == (2, 5, "photo"),
            "{stat:?}"
        );
        let all = client.list(None).await?;
        ensure!(all.len() == 1 && all[0].address == at, "{all:?}");
        client.delete(&at, &WriteOptions::default()).await?;
        let gone = client.get(&at).await;
        ensure!(
            matches!(gone, Err(ClientError::Deleted { .. } | ClientError::Absent { .. })),
            "{gone:?}"
        );
        ensure!(client.list(None).await?.is_empty(), "a deleted object is listed");
        // Outside the grants nothing is done, and that is said.
        let outside = client.put(&address("2.1")?, &object, &WriteOptions::default()).await;
        ensure!(
            matches!(outside, Err(ClientError::Refused { status: 403, .. })),
            "{outside:?}"
        );
        anyhow::Ok(())
    })
}

#[test]
fn body_is_read_on_after_its_server_was_killed() -> Result<()> {
    let mut pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let client = client(&dir)?;
    let runtime = runtime()?;
    let (at, body) = (address("1.1")?, octets(48 << 20));
    runtime.block_on(client.put_body(&at, body.clone().into(), &WriteOptions::default()))?;
    let mut reader = runtime.block_on(client.get_body(&at, None))?;
    let mut read = Vec::new();
    while read.len() < 4 << 20 {
        read.extend_from_slice(&runtime.block_on(reader.next())?.context("the body ended early")?);
    }
    pool.kill_server("s1")?;
    pool.start_server("s1")?;
    while let Some(piece) = runtime.block_on(reader.next())? {
        read.extend_from_slice(&piece);
    }
    ensure!(read == body, "what was read differs");
    ensure!(
        client.counts().resumes > 0,
        "the body was not taken up again: {:?}",
        client.counts()
    );
    Ok(())
}

#[test]
fn reader_is_told_when_the_object_changed_under_it() -> Result<()> {
    let mut pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let client = client(&dir)?;
    let runtime = runtime()?;
    let at = address("1.1")?;
    runtime.block_on(client.put_body(&at, octets(48 << 20).into(), &WriteOptions::default()))?;
    let mut reader = runtime.block_on(client.get_body(&at, None))?;
    runtime.block_on(reader.next())?.context("the body ended early")?;
    runtime.block_on(client.put_body(&at, octets(48 << 20).into(), &WriteOptions::default()))?;
    pool.kill_server("s1")?;
    pool.start_server("s1")?;
    let ended = loop {
        match runtime.block_on(reader.next()) {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("a body of two revisions was read"),
            Err(error) => break error,
        }
    };
    ensure!(matches!(ended, ClientError::Changed { was: 1, is: 2, .. }), "{ended:?}");
    Ok(())
}

#[test]
fn write_outlives_a_restart_of_its_server_and_is_applied_once() -> Result<()> {
    let mut pool = Pool::builder(DEMO).servers(1).free(0).start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let client = client(&dir)?;
    let runtime = runtime()?;
    let at = address("1.1")?;
    runtime.block_on(client.put_body(&at, Upload::from("first"), &WriteOptions::default()))?;
    pool.kill_server("s1")?;
    let writing = {
        let (client, at) = (client.clone(), at.clone());
        runtime.spawn(async move {
            client
                .put_body(&at, Upload::from("second"), &WriteOptions::default())
                .await
        })
    };
    pool.start_server("s1")?;
    let written = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), writing).await })???;
    ensure!(written.revision == 2, "{written:?}");
    ensure!(client.counts().retries > 0, "{:?}", client.counts());
    let read = runtime.block_on(async { client.get_body(&at, None).await?.read_all().await })?;
    ensure!(read == b"second", "{read:?}");
    Ok(())
}

#[test]
fn client_keeps_working_while_its_object_moves() -> Result<()> {
    let pool = Pool::builder(DEMO).servers(2).free(1).start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let client = client(&dir)?;
    let runtime = runtime()?;
    let at = address("1.1")?;
    runtime.block_on(client.put_body(&at, Upload::from("0"), &WriteOptions::default()))?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let work = {
        let (client, at, stop) = (client.clone(), at.clone(), stop.clone());
        runtime.spawn(async move {
            let mut number = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                number += 1;
                let text = number.to_string();
                client
                    .put_body(&at, text.clone().into_bytes().into(), &WriteOptions::default())
                    .await?;
                let read = client.get_body(&at, None).await?.read_all().await?;
                ensure!(read == text.as_bytes(), "wrote {text}, read {read:?}");
            }
            anyhow::Ok(number)
        })
    };
    pool.librarian(&["drain", "s1"])?;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let writes = runtime.block_on(work)??;
    let stat = runtime.block_on(client.stat(&at))?;
    println!("{writes} writes while the object moved, {:?}", client.counts());
    ensure!(
        stat.revision == writes + 1,
        "{writes} writes and {stat:?}: one was lost or applied twice"
    );
    // Whoever answers: the source does so through the destination.
    ensure!(stat.epoch == 2, "the object did not move: {stat:?}");
    Ok(())
}
