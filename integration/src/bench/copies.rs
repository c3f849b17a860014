//! What the copies of an object cost whoever writes it, in a pool of real agents.
//!
//! Objects with one to five holders are written in turn, while clients read them all, so that holders have leave to serve reads
//! when a write comes. No reader may see less than what was acknowledged before it asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::client::{Client, PutObject, Settings, WriteOptions};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::task::JoinSet;
use zones::Address;

use super::figure::{Figure, median, write_figures};
use crate::harness::{Pool, until};

/// Servers of the pool, and most holders of an object.
const SERVERS: usize = 5;
/// Numbers of holders that are compared.
const HOLDERS: [usize; 4] = [1, 2, 3, 5];
/// Objects of each.
const OBJECTS: usize = 8;
/// Longest wait until copies are where they are to be.
const COPIED: Duration = Duration::from_secs(60);
/// How often a reader reads, at most.
const READ_EVERY: Duration = Duration::from_millis(4);

/// Measures what one write takes by the number of its object's holders, while all are read.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench-copies",
    after_help = "Example:\n  cargo run --release --bin bench-copies -- --writes 1000 --json copies.json"
)]
pub struct CopiesOptions {
    /// Writes of objects with each number of holders.
    #[arg(long, default_value_t = 400)]
    writes: usize,
    /// Clients that read meanwhile.
    #[arg(long, default_value_t = 4)]
    readers: usize,
    /// Where the pool lies; the system's temporary directory if absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Objects, and the last revision of each that was acknowledged.
type Acknowledged = BTreeMap<Address, AtomicU64>;

/// Runs all of it.
///
/// # Errors
///
/// When a pool does not start, an operation fails, or a reader sees an older object than it may.
pub fn run_copies(options: &CopiesOptions, program: &Path) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let under = HOLDERS.map(|holders| (format!("7.{holders}"), toml::Value::from(holders as i64)));
    let pool = Pool::builder(program)
        .servers(SERVERS)
        .free(0)
        .log("warn")
        .temporary_in(&parent)
        .copies(Some(1))
        .librarian_setting("copies.hot_percent", 0_i64)
        .librarian_setting("copies.under", toml::Table::from_iter(under))
        .start()?;
    until("copies have begun", COPIED, || Ok(copies(&pool)?.0))?;
    let files = pool.add_client("bench", &["read:*", "write:*"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let mut acknowledged = Acknowledged::new();
    for holders in HOLDERS {
        for object in 0..OBJECTS {
            acknowledged.insert(address(holders, object)?, AtomicU64::new(0));
        }
    }
    let acknowledged = Arc::new(acknowledged);
    let client = Client::new(Settings::read(&files)?)?;
    runtime.block_on(async {
        for (address, revision) in acknowledged.iter() {
            let written = write(&client, address, 0).await?;
            revision.store(written, Ordering::Release);
        }
        anyhow::Ok(())
    })?;
    let held: usize = HOLDERS.iter().map(|holders| (holders - 1) * OBJECTS).sum();
    until("every object has its copies", COPIED, || {
        Ok(copies(&pool)?.1 == held as u64)
    })?;

    let over = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for number in 0..options.readers {
        let client = Client::new(Settings::read(&files)?)?;
        let reading = read_all(client, Arc::clone(&acknowledged), Arc::clone(&over), number);
        readers.spawn_on(reading, runtime.handle());
    }
    let mut took: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let written = runtime.block_on(async {
        for turn in 0..options.writes {
            for holders in HOLDERS {
                let address = address(holders, turn % OBJECTS)?;
                let begun = Instant::now();
                let revision = write(&client, &address, turn as u64 + 1).await?;
                took.entry(holders)
                    .or_default()
                    .push(begun.elapsed().as_secs_f64() * 1000.0);
                acknowledged[&address].store(revision, Ordering::Release);
            }
        }
        anyhow::Ok(())
    });
    over.store(true, Ordering::Release);
    let reads = runtime.block_on(async {
        let mut reads = 0;
        while let Some(reader) = readers.join_next().await {
            reads += reader.context("run a reader")??;
        }
        anyhow::Ok(reads)
    })?;
    written?;
    println!(
        "{reads} reads beside {} writes, none saw less than was acknowledged",
        HOLDERS.len() * options.writes
    );
    let figures = figures(&took);
    for figure in &figures {
        figure.print();
    }
    if let Some(path) = &options.json {
        write_figures(path, &figures)?;
    }
    Ok(())
}

/// What writes took in milliseconds, against those of objects that one server alone has.
fn figures(took: &BTreeMap<usize, Vec<f64>>) -> Vec<Figure> {
    let late = |took: &[f64]| {
        let mut sorted = took.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() * 99 / 100).copied().unwrap_or_default()
    };
    let Some(alone) = took.get(&1) else { return Vec::new() };
    let of = |holders: &usize| {
        let copied = &took[holders];
        let figure = |what: &str, ours, theirs| {
            let figure = format!("write, ms, {what}, {holders} holders");
            Figure::new(&figure, "1 holder", ours, theirs)
        };
        [
            figure("median", median(copied), median(alone)),
            figure("p99", late(copied), late(alone)),
        ]
    };
    took.keys().flat_map(of).collect()
}

fn address(holders: usize, object: usize) -> Result<Address> {
    format!("7.{holders}.{object}").parse().context("spell an address")
}

/// Writes an object; the revision that this made.
async fn write(client: &Client, address: &Address, turn: u64) -> Result<u64> {
    let object = PutObject {
        properties: Some(serde_json::json!({ "turn": turn, "text": "as long as many are".repeat(8) })),
        ..PutObject::default()
    };
    let written = client.put(address, &object, &WriteOptions::default()).await;
    Ok(written.with_context(|| format!("write {address}"))?.revision)
}

/// Reads all objects in turn until it is over; how often.
async fn read_all(
    client: Client,
    acknowledged: Arc<Acknowledged>,
    over: Arc<AtomicBool>,
    number: usize,
) -> Result<u64> {
    let mut reads = 0;
    let mut ticks = tokio::time::interval(READ_EVERY);
    for (address, revision) in acknowledged.iter().cycle().skip(number * OBJECTS) {
        if over.load(Ordering::Acquire) {
            break;
        }
        ticks.tick().await;
        let least = revision.load(Ordering::Acquire);
        let object = client.get(address).await.with_context(|| format!("read {address}"))?;
        ensure!(
            object.revision >= least,
            "{address} was read at revision {}, and {least} was acknowledged before",
            object.revision
        );
        reads += 1;
    }
    Ok(reads)
}

/// Whether the pool makes copies, and how many there are besides the owners'.
fn copies(pool: &Pool) -> Result<(bool, u64)> {
    let told = pool.librarian(&["pool", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&told.stdout).context("read the status")?;
    let servers = status["servers"].as_array().context("a list of servers")?;
    let held = servers.iter().filter_map(|server| server["held"].as_u64());
    Ok((status["copies"]["begun"] == true, held.sum()))
}
