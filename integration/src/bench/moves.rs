//! How fast a drain moves objects between two real agents, against ceilings measured in the same run.
//!
//! Each set of objects moves twice: into a server that never held any, whose volumes are made and filled with random octets
//! on the way, and back into the first one, whose volumes are there: what a server drained and refilled in an upgrade is.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::client::{Client, PutObject, Settings, Upload, WriteOptions};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::task::JoinSet;
use zones::Address;

use super::ceilings::Ceilings;
use super::cpu::cpu_seconds;
use super::figure::{Figure, write_figures};
use crate::harness::{Pool, peak_memory};

/// Longest drain.
const DRAIN_WAIT: Duration = Duration::from_secs(1800);
/// How often the destination is asked how many objects it has.
const WATCH_EVERY: Duration = Duration::from_millis(20);
/// How long a server may keep what it gave away: the grace period of these runs is a second.
const RETIRE_WAIT: Duration = Duration::from_secs(60);
/// Puts on their way while a pool is filled.
const FILL_WINDOW: usize = 64;

/// Measures drains between two agents: many small objects, 1 MiB objects, one large object.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench-moves",
    after_help = "Example:\n  cargo run --release --bin bench-moves -- --json moves.json"
)]
pub struct MoveOptions {
    /// Objects of 4 KiB.
    #[arg(long, default_value_t = 20_000)]
    small: usize,
    /// Objects of 1 MiB.
    #[arg(long, default_value_t = 1_000)]
    medium: usize,
    /// Mebibytes of the one large object.
    #[arg(long, default_value_t = 1_024)]
    large: usize,
    /// How often each drain is measured, each time in a fresh pool; the median counts.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Level that objects rise to as they move the first time; those of 1 were put at it.
    #[arg(long, default_value_t = 1)]
    level: u8,
    /// Run a schema step on every object as it moves the first time.
    #[arg(long)]
    steps: bool,
    /// Where the pools lie; the system's temporary directory if absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs all drains.
///
/// # Errors
///
/// When a pool does not start or a drain fails.
pub fn run_moves(options: &MoveOptions, program: &Path) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::tempdir_in(&parent).context("make a temporary directory")?;
    let ceilings = Ceilings::measure(scratch.path())?;
    ceilings.print();
    drop(scratch);

    let runs = [
        ("4 KiB", options.small, 4 << 10),
        ("1 MiB", options.medium, 1 << 20),
        ("one object", 1, options.large << 20),
    ];
    let mut figures = Vec::new();
    for (what, count, octets) in runs.into_iter().filter(|(_, count, octets)| *count > 0 && *octets > 0) {
        let (mut puts, mut new, mut used) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds.max(1) {
            let run = run(options, program, &parent, (count, octets))?;
            println!(
                "\n{count} objects ({what}): put in {:.1} s ({:.0}/s)",
                run.put.as_secs_f64(),
                count as f64 / run.put.as_secs_f64()
            );
            run.new.print("into new volumes", count, octets);
            run.used.print("back into used ones", count, octets);
            let rate = |moving: Duration| count as f64 / moving.as_secs_f64();
            puts.push(rate(run.put));
            new.push(rate(run.new.moving));
            used.push(rate(run.used.moving));
        }
        for (volumes, rates) in [("new volumes", new), ("used volumes", used)] {
            let rate = super::figure::median(&rates);
            let mut against = |figure: String, peer: &str, ours: f64, theirs: f64| {
                figures.push(Figure::new(&figure, peer, ours, theirs));
            };
            if octets < 1 << 16 {
                let figure = || format!("objects moved per second, 4 KiB, {volumes}");
                against(figure(), "ceiling: crypto, QUIC, disk, index", rate, ceilings.small());
                against(figure(), "ceiling: disk and index alone", rate, ceilings.disk_small);
            } else {
                let figure = || format!("GB moved per second, {what} of {} MiB, {volumes}", octets >> 20);
                let rate = rate * octets as f64 / 1e9;
                against(figure(), "ceiling: crypto, QUIC, disk", rate, ceilings.large() / 1e9);
                against(
                    figure(),
                    "ceiling: one QUIC stream alone",
                    rate,
                    ceilings.transport_rate / 1e9,
                );
            }
        }
        if octets < 1 << 16 {
            figures.push(Figure::new(
                "objects put per second, 4 KiB, over HTTPS",
                "ceiling: disk and index alone",
                super::figure::median(&puts),
                ceilings.disk_small,
            ));
        }
    }
    println!();
    for figure in &figures {
        figure.print();
    }
    if let Some(path) = &options.json {
        write_figures(path, &figures)?;
    }
    Ok(())
}

/// One set of objects, put once and moved twice.
struct Run {
    put: Duration,
    /// From s1 into s2, which never held any.
    new: Drained,
    /// Back into s1.
    used: Drained,
}

/// One measured drain.
struct Drained {
    /// From the moment at which the first object was on its way to the arrival of the last.
    moving: Duration,
    /// From the command to its end.
    whole: Duration,
    /// Processor time of each process during the drain.
    processor: Vec<(String, f64)>,
    /// Most memory each process held.
    memory: Vec<(String, u64)>,
}

impl Drained {
    fn print(&self, where_to: &str, count: usize, octets: usize) {
        let total = (count * octets) as f64;
        let seconds = self.moving.as_secs_f64();
        println!(
            "  {where_to}: moved in {seconds:.2} s ({:.0}/s, {:.3} GB/s), the command took {:.2} s",
            count as f64 / seconds,
            total / seconds / 1e9,
            self.whole.as_secs_f64()
        );
        for (name, used) in &self.processor {
            println!(
                "    {name:<10} {used:.2} s of processor, {:.2} us an object, {:.2} s a GB",
                used * 1e6 / count as f64,
                used * 1e9 / total
            );
        }
        for (name, peak) in &self.memory {
            println!("    {name:<10} at most {} MB", peak / 1_000_000);
        }
    }
}

/// A type with one contract step, so that objects are put in its first version and come to the second by a move.
fn write_schemas(dir: &Path) -> Result<()> {
    let folder = dir.join("file");
    std::fs::create_dir(&folder).context("make a directory of schemas")?;
    let schema = |name: &str| {
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "required": [name],
        })
        .to_string()
    };
    for (file, text) in [
        ("1.schema.json", schema("name")),
        ("2.schema.json", schema("number")),
        ("1-to-2.jq", "# contract\n.number = .name | del(.name)".to_owned()),
        ("2-to-1.jq", "# exact\n.name = .number | del(.number)".to_owned()),
    ] {
        std::fs::write(folder.join(file), text).context("write a schema")?;
    }
    Ok(())
}

fn run(options: &MoveOptions, program: &Path, parent: &Path, (count, octets): (usize, usize)) -> Result<Run> {
    let schemas = tempfile::tempdir_in(parent).context("make a directory of schemas")?;
    write_schemas(schemas.path())?;
    let capacity = (count * octets / (1 << 20)) * 5 / 4 + count / 64 + 512;
    let mut builder = Pool::builder(program);
    if options.steps {
        builder = builder.agent_setting("schemas", schemas.path().display().to_string());
    }
    let pool = builder
        .servers(2)
        .log("warn")
        .temporary_in(parent)
        .agent_setting("store.capacity", format!("{capacity}MiB"))
        .agent_setting("listen.metrics", "127.0.0.1:0")
        .agent_setting("moves.retire_after", "1s")
        .librarian_setting("changes_per_second", 100_000_000_i64)
        .start()?;
    let client = pool.add_client("bench", &["read:*", "write:*"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let start = Instant::now();
    runtime
        .block_on(fill(&client, count, octets))
        .context("fill the pool")?;
    let put = start.elapsed();
    if options.level > 1 || options.steps {
        let level = options.level.to_string();
        let mut policy = vec!["policy", "--level", &level];
        policy.extend(options.steps.then_some("--contract-steps"));
        pool.librarian(&policy).context("ask more of objects")?;
    }
    let new = drain(&pool, "s1", "s2")?;
    let start = Instant::now();
    while metric(metrics_of(&pool, "s1")?, "agent_store_used_octets")? > 0 {
        ensure!(start.elapsed() < RETIRE_WAIT, "s1 keeps copies of what it gave away");
        std::thread::sleep(WATCH_EVERY);
    }
    let used = drain(&pool, "s2", "s1")?;
    Ok(Run { put, new, used })
}

fn metrics_of(pool: &Pool, server: &str) -> Result<SocketAddr> {
    let metrics = pool.server(server)?.ready.metrics;
    metrics.with_context(|| format!("the port of {server}'s metrics"))
}

fn drain(pool: &Pool, from: &str, to: &str) -> Result<Drained> {
    let before = processor_times(pool)?;
    let watch = Watch::start(metrics_of(pool, to)?)?;
    let start = Instant::now();
    pool.librarian_within(DRAIN_WAIT, &["drain", from]).context("drain")?;
    let whole = start.elapsed();
    let moving = watch.finish()?;
    let processor = processor_times(pool)?
        .into_iter()
        .zip(before)
        .map(|((name, after), (_, before))| (name, after - before))
        .collect();
    let memory = pool
        .processes()
        .map(|process| Ok((process.name().to_owned(), peak_memory(process.pid())?)))
        .collect::<Result<_>>()?;
    let status = pool.pool_status()?;
    let at = |name: &str| {
        status
            .servers
            .iter()
            .find(|server| server.name == name)
            .and_then(|server| server.objects)
    };
    ensure!(at(from) == Some(0), "{from} is not empty after its drain: {status:?}");
    Ok(Drained {
        moving,
        whole,
        processor,
        memory,
    })
}

fn processor_times(pool: &Pool) -> Result<Vec<(String, f64)>> {
    pool.processes()
        .map(|process| Ok((process.name().to_owned(), cpu_seconds(process.pid())?)))
        .collect()
}

fn address(number: usize) -> Result<Address> {
    format!("0.7.{}.{:03}", number / 1000, number % 1000)
        .parse()
        .context("spell an address")
}

async fn fill(client_dir: &Path, count: usize, octets: usize) -> Result<()> {
    let clients = (0..4)
        .map(|_| Client::new(Settings::read(client_dir)?).context("make a client"))
        .collect::<Result<Vec<_>>>()?;
    // A large body is streamed from a file, so that this process stays small.
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    if octets > 8 << 20 {
        let piece: Vec<u8> = (0..1_u32 << 20).map(|place| (place % 251) as u8).collect();
        for _ in 0..octets >> 20 {
            file.as_file().write_all(&piece).context("write a file")?;
        }
    }
    let mut running: JoinSet<Result<()>> = JoinSet::new();
    for number in 0..count {
        if running.len() >= FILL_WINDOW {
            running
                .join_next()
                .await
                .context("wait for a put")?
                .context("run a put")??;
        }
        let client = clients[number % clients.len()].clone();
        let path = file.path().to_owned();
        running.spawn(async move {
            let address = address(number)?;
            let object = PutObject {
                kind: Some("file".parse().context("spell a type")?),
                schema: None,
                properties: Some(serde_json::json!({ "name": number })),
            };
            let body = if octets > 8 << 20 {
                Upload::file(&path)
            } else {
                Upload::from(
                    (0..octets)
                        .map(|place| ((place + number) % 251) as u8)
                        .collect::<Vec<u8>>(),
                )
            };
            client
                .put_both(&address, &object, body, &WriteOptions::default())
                .await?;
            Ok(())
        });
    }
    while let Some(joined) = running.join_next().await {
        joined.context("run a put")??;
    }
    Ok(())
}

/// Watches what the destination takes: from the first object on its way to the arrival of the last is how long objects moved,
/// without the controller's rounds before and after.
struct Watch {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Duration>>,
}

impl Watch {
    fn start(destination: SocketAddr) -> Result<Watch> {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let (before, mut last) = arrivals(destination)?;
            ensure!(before == 0, "objects move already");
            let (mut began, mut ended) = (None, None);
            while !stop.load(Ordering::Acquire) {
                let (open, taken) = arrivals(destination)?;
                if open > 0 || taken != last {
                    began.get_or_insert_with(Instant::now);
                }
                if taken != last {
                    last = taken;
                    ended = Some(Instant::now());
                }
                std::thread::sleep(WATCH_EVERY);
            }
            let (began, ended) = (began.context("no object moved")?, ended.context("no object moved")?);
            Ok((ended - began).max(WATCH_EVERY))
        });
        Ok(Watch {
            over,
            thread: thread.context("start a thread")?,
        })
    }

    fn finish(self) -> Result<Duration> {
        self.over.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?
    }
}

/// Objects on their way to an agent, and objects that it has taken.
fn arrivals(metrics: SocketAddr) -> Result<(u64, u64)> {
    let text = crate::harness::metrics(metrics)?;
    Ok((
        count(&text, "agent_moves_open{side=\"destination\"}")?,
        count(&text, "agent_moves_taken_total")?,
    ))
}

fn metric(metrics: SocketAddr, series: &str) -> Result<u64> {
    count(&crate::harness::metrics(metrics)?, series)
}

fn count(metrics: &str, series: &str) -> Result<u64> {
    let line = |line: &str| {
        line.strip_prefix(series)
            .and_then(|rest| rest.strip_prefix(' '))
            .map(str::to_owned)
    };
    let value = metrics.lines().find_map(line);
    let value = value.with_context(|| format!("the metrics have no {series}"))?;
    value.trim().parse().context("read a count")
}
