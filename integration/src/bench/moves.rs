//! How fast a drain moves objects between two real agents, against ceilings measured in the same run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
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
        let (mut rates, mut puts) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds.max(1) {
            let drained = drain(program, &parent, count, octets)?;
            drained.print(what, count, octets);
            rates.push(count as f64 / drained.moving.as_secs_f64());
            puts.push(count as f64 / drained.put.as_secs_f64());
        }
        let (rate, put) = (super::figure::median(&rates), super::figure::median(&puts));
        if octets < 1 << 16 {
            let ceiling = "ceiling: crypto, QUIC, disk, index";
            figures.push(Figure::new(
                "objects moved per second, 4 KiB",
                ceiling,
                rate,
                ceilings.small(),
            ));
            let disk = "ceiling: disk and index alone";
            figures.push(Figure::new(
                "objects moved per second, 4 KiB",
                disk,
                rate,
                ceilings.disk_small,
            ));
            figures.push(Figure::new(
                "objects put per second, 4 KiB, over HTTPS",
                disk,
                put,
                ceilings.disk_small,
            ));
        } else {
            let figure = format!("GB moved per second, {what} of {} MiB", octets >> 20);
            let rate = rate * octets as f64 / 1e9;
            figures.push(Figure::new(
                &figure,
                "ceiling: crypto, QUIC, disk",
                rate,
                ceilings.large() / 1e9,
            ));
            figures.push(Figure::new(
                &figure,
                "ceiling: one QUIC stream alone",
                rate,
                ceilings.transport_rate / 1e9,
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

/// One measured drain.
struct Drained {
    put: Duration,
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
    fn print(&self, what: &str, count: usize, octets: usize) {
        let total = (count * octets) as f64;
        let seconds = self.moving.as_secs_f64();
        println!(
            "\n{count} objects ({what}): put in {:.1} s ({:.0}/s); moved in {seconds:.2} s ({:.0}/s, {:.3} GB/s), the command took {:.2} s",
            self.put.as_secs_f64(),
            count as f64 / self.put.as_secs_f64(),
            count as f64 / seconds,
            total / seconds / 1e9,
            self.whole.as_secs_f64()
        );
        for (name, used) in &self.processor {
            println!(
                "  {name:<10} {used:.2} s of processor, {:.2} us an object, {:.2} s a GB",
                used * 1e6 / count as f64,
                used * 1e9 / total
            );
        }
        for (name, peak) in &self.memory {
            println!("  {name:<10} at most {} MB", peak / 1_000_000);
        }
    }
}

fn drain(program: &Path, parent: &Path, count: usize, octets: usize) -> Result<Drained> {
    let capacity = (count * octets / (1 << 20)) * 5 / 4 + count / 64 + 512;
    let pool = Pool::builder(program)
        .servers(2)
        .log("warn")
        .temporary_in(parent)
        .agent_setting("store.capacity", format!("{capacity}MiB"))
        .agent_setting("listen.metrics", "127.0.0.1:0")
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

    let before = processor_times(&pool)?;
    let destination = pool.server("s2")?.ready.metrics.context("the port of s2's metrics")?;
    let watch = Watch::start(destination)?;
    let start = Instant::now();
    pool.librarian_within(DRAIN_WAIT, &["drain", "s1"]).context("drain")?;
    let whole = start.elapsed();
    let moving = watch.finish()?;
    let processor = processor_times(&pool)?
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
    ensure!(at("s1") == Some(0), "s1 is not empty after its drain: {status:?}");
    Ok(Drained {
        put,
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
            let (mut last, mut began, mut ended) = (0, None, None);
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

/// Objects on their way to an agent, and objects that it has taken, by its metrics.
fn arrivals(metrics: SocketAddr) -> Result<(u64, u64)> {
    let mut stream = TcpStream::connect(metrics).context("connect to the metrics")?;
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .context("set a socket")?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )
    .context("ask for the metrics")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read the metrics")?;
    let count = |series: &str| -> Result<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        let value = value.with_context(|| format!("the metrics have no {series}"))?;
        value.trim().parse().context("read a count")
    };
    Ok((
        count("agent_moves_open{side=\"destination\"}")?,
        count("agent_moves_taken_total")?,
    ))
}
