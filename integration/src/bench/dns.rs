//! Our librarian against Knot and BIND: queries, memory, signed updates.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use zones::{Has, Role, TsigKey, tsig};

use super::cpu::{cpu_seconds, odd_threads, pin_this_thread};
use super::dns_set::DnsSet;
use super::figure::{Figure, median, write_figures};
use super::flood::{Questions, flood};
use super::peers::{Peer, PeerKind};
use super::updates::{Versions, load_registers, now_s, update_flood};
use crate::harness::{Pool, resident_memory};

/// Processor of every server, and of the one who asks.
const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// Questions that are made beforehand and asked over and over.
const QUESTIONS: usize = 200_000;
/// Updates outstanding.
const OUTSTANDING: [usize; 3] = [1, 16, 256];

/// Compares the librarian with Knot and BIND on the same names: answers a second, memory, signed updates a second.
///
/// Every server runs on processor 0 with one worker, the one who asks on processor 1; servers take turns in one run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench-dns",
    after_help = "Example:\n  cargo run --release --bin bench-dns -- --objects 1000000 --json dns.json"
)]
pub struct DnsOptions {
    /// How many objects every server holds.
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    /// How often servers take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each turn of questions.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Seconds of each run of updates; 0 leaves updates out.
    #[arg(long, default_value_t = 8)]
    update_seconds: u64,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the whole comparison.
///
/// # Errors
///
/// When a server does not start or answers wrongly.
pub fn run_dns(options: &DnsOptions, program: &Path) -> Result<()> {
    ensure!(
        std::thread::available_parallelism()?.get() > 1,
        "two processors are needed: one to ask, one to answer"
    );
    pin_this_thread(CLIENT_CPU)?;
    let set = DnsSet::new(options.objects.max(1), 8443)?;
    let questions = set.questions(QUESTIONS, 1)?;
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let mut figures = Vec::new();

    println!("Ours: loads {} registers by signed updates", set.count);
    let mut ours = Ours::start(program, &set)?;
    let empty = resident_memory(ours.pid()?)?;
    let took = load_registers(ours.address(), &set, &ours.key, |done| {
        if done % 100_000 < 200 {
            println!("  {done}");
        }
    })?;
    println!(
        "  in {:.1} s: {:.0} a second",
        took.as_secs_f64(),
        set.count as f64 / took.as_secs_f64()
    );
    let loaded = resident_memory(ours.pid()?)?;
    let took = ours.restart()?;
    let reopened = resident_memory(ours.pid()?)?;
    println!(
        "  memory: {} MB empty, {} MB after the load, {} MB after a restart, which took {:.1} s",
        empty / 1_000_000,
        loaded / 1_000_000,
        reopened / 1_000_000,
        took.as_secs_f64()
    );

    let knot_name = PeerKind::Knot.version()?;
    println!("{knot_name}: loads the same names from a zone file");
    let few = DnsSet::new(1, 8443)?;
    let secret = ours.secret.clone();
    let key = ("s1", secret.as_str());
    let knot_empty = {
        let knot = Peer::start(PeerKind::Knot, &dir.path().join("knot-empty"), &few, key, SERVER_CPU)?;
        resident_memory(knot.pid())?
    };
    let start = Instant::now();
    let knot = Peer::start(PeerKind::Knot, &dir.path().join("knot"), &set, key, SERVER_CPU)?;
    println!(
        "  in {:.1} s, the writing of the file included",
        start.elapsed().as_secs_f64()
    );
    let knot_loaded = resident_memory(knot.pid())?;
    let each = |full: u64, empty: u64| full.saturating_sub(empty) as f64 / set.count as f64;
    figures.push(Figure::new(
        "memory per object, octets, after a restart",
        &knot_name,
        each(reopened, empty),
        each(knot_loaded, knot_empty),
    ));
    figures.push(Figure::new(
        "memory per object, octets, after loading by updates",
        &knot_name,
        each(loaded, empty),
        each(knot_loaded, knot_empty),
    ));
    for (name, pid) in [("ours", ours.pid()?), (knot_name.as_str(), knot.pid())] {
        let odd = odd_threads(pid, SERVER_CPU)?;
        if odd > 0 {
            println!("  {name} has {odd} threads that are not on processor {SERVER_CPU}");
        }
    }
    figures.extend(queries(options, &ours, &knot, &knot_name, &questions)?);
    if options.update_seconds > 0 {
        drop(knot);
        figures.extend(updates(options, &ours, &set, key, dir.path())?);
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

/// Both servers in turn.
fn queries(
    options: &DnsOptions,
    ours: &Ours,
    knot: &Peer,
    knot_name: &str,
    questions: &Questions,
) -> Result<Vec<Figure>> {
    println!("Asks both in turn: SRV and TXT, one name in twenty is not there");
    let time = Duration::from_secs(options.seconds);
    let (mut rates, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=options.rounds {
        for (place, (name, address, pid)) in [
            ("ours", ours.address(), ours.pid()?),
            (knot_name, knot.address(), knot.pid()),
        ]
        .into_iter()
        .enumerate()
        {
            let before = cpu_seconds(pid)?;
            let report = flood(address, questions, time)?;
            let cost = (cpu_seconds(pid)? - before) * 1e6 / report.answered.max(1) as f64;
            ensure!(
                report.wrong == 0,
                "{name} gave {} wrong answers: {report:?}",
                report.wrong
            );
            println!(
                "  {name:<12} {:>8.0}/s, {cost:.2} us of processor each, {} lost, {} octets each",
                report.rate(),
                report.lost,
                report.octets / report.answered.max(1)
            );
            // The first round warms caches.
            if round > 0 {
                rates[place].push(report.rate());
                costs[place].push(cost);
            }
        }
    }
    Ok(vec![
        Figure::new(
            "questions answered per second",
            knot_name,
            median(&rates[0]),
            median(&rates[1]),
        ),
        Figure::new(
            "processor time per question, us",
            knot_name,
            median(&costs[0]),
            median(&costs[1]),
        ),
    ])
}

/// Signed updates, the same messages to every server.
fn updates(options: &DnsOptions, ours: &Ours, set: &DnsSet, key: (&str, &str), dir: &Path) -> Result<Vec<Figure>> {
    let time = Duration::from_secs(options.update_seconds);
    let mut figures = Vec::new();
    let run = |name: &str, address: SocketAddr, versions: &mut Versions| -> Result<Vec<f64>> {
        OUTSTANDING
            .into_iter()
            .map(|outstanding| {
                let outstanding = outstanding.min(set.count);
                let report = update_flood(address, set, &ours.key, versions, outstanding, time)?;
                println!(
                    "  {name:<12} {outstanding:>3} outstanding: {:>8.1}/s, p50 {:.2} ms, p99 {:.2} ms, {} sent again",
                    report.rate(),
                    report.latency_ms(50.0),
                    report.latency_ms(99.0),
                    report.resent
                );
                Ok(report.rate())
            })
            .collect()
    };
    println!("Signed updates: one prerequisite, one deletion, one addition, durable before the answer");
    let mut our_versions = Versions::new(set);
    for kind in [PeerKind::Knot, PeerKind::Bind] {
        let name = kind.version()?;
        let peer = Peer::start(kind, &dir.join(format!("updates-{kind:?}")), set, key, SERVER_CPU)?;
        let mine = run("ours", ours.address(), &mut our_versions)?;
        let theirs = run(&name, peer.address(), &mut Versions::new(set))?;
        for (place, outstanding) in OUTSTANDING.into_iter().enumerate() {
            let figure = format!("signed updates per second, {outstanding} outstanding");
            figures.push(Figure::new(&figure, &name, mine[place], theirs[place]));
        }
    }
    Ok(figures)
}

/// Our librarian with one server that has joined, whose reports are sent here: no agent runs.
struct Ours {
    pool: Pool,
    key: TsigKey,
    secret: String,
    over: Arc<AtomicBool>,
    reporter: Option<JoinHandle<()>>,
}

impl Ours {
    fn start(program: &Path, set: &DnsSet) -> Result<Ours> {
        let mut pool = Pool::builder(program)
            .servers(0)
            .free(0)
            .log("warn")
            .librarian_cpu(SERVER_CPU)
            .librarian_setting("changes_per_second", 100_000_000_i64)
            .start()?;
        pool.join("s1", "serving")?;
        let text = std::fs::read_to_string(pool.key("s1")).context("read the server's key")?;
        let key = TsigKey::from_bind_file(&text).context("read the server's key")?;
        let secret = text.split("secret \"").nth(1).and_then(|rest| rest.split('"').next());
        let secret = secret.context("find the secret")?.to_owned();
        let over = Arc::new(AtomicBool::new(false));
        let mut ours = Ours {
            pool,
            key,
            secret,
            over,
            reporter: None,
        };
        ours.report_once(set)?;
        ours.keep_reporting(set)?;
        Ok(ours)
    }

    fn address(&self) -> SocketAddr {
        self.pool.dns()
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.pool.librarian_process()?.pid())
    }

    fn restart(&mut self) -> Result<Duration> {
        self.pool.stop_librarian()?;
        let start = Instant::now();
        self.pool.start_librarian()?;
        let took = start.elapsed();
        // Its server's report comes again within two seconds; then all is as before.
        std::thread::sleep(Duration::from_secs(3));
        Ok(took)
    }

    /// Says once what the server has, as its agent would.
    fn report_once(&self, set: &DnsSet) -> Result<()> {
        let accepted = report(self.address(), set, &self.key)?;
        ensure!(accepted, "the librarian does not take the server's report");
        Ok(())
    }

    /// Renews the lease until this is dropped.
    fn keep_reporting(&mut self, set: &DnsSet) -> Result<()> {
        let (address, set, key, over) = (self.address(), set.clone(), self.key.clone(), Arc::clone(&self.over));
        let reporter = std::thread::Builder::new().name("reporter".to_owned()).spawn(move || {
            while !over.load(Ordering::Acquire) {
                // The librarian may be restarting; the next one comes soon.
                let _ = report(address, &set, &key);
                std::thread::park_timeout(Duration::from_secs(2));
            }
        });
        self.reporter = Some(reporter.context("start a thread")?);
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(reporter) = self.reporter.take() {
            reporter.thread().unpark();
            let _ = reporter.join();
        }
    }
}

/// Sends a server's report; whether it was accepted.
fn report(librarian: SocketAddr, set: &DnsSet, key: &TsigKey) -> Result<bool> {
    let has = Has {
        release: "0.1.0".to_owned(),
        role: Role::Serving,
        objects: 0,
        bytes: 0,
        capacity: 1 << 40,
        load: 0,
        heat: 0,
        errors: 0,
        unreadable: 0,
        plan: 0,
        commits: 0,
        peer_port: 9101,
        quarantined: 0,
        audit: None,
        upkeep: None,
        hot: None,
        kept: None,
    };
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut message = zones::update::build_has_update(&set.domain, 1, &set.owner, &has, set.port, &[host])?;
    let mac = tsig::sign_request(&mut message, key, now_s());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a socket")?;
    socket.connect(librarian).context("connect a socket")?;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .context("set a socket")?;
    socket.send(&message).context("send a report")?;
    let mut answer = [0; 1500];
    let octets = socket.recv(&mut answer).context("hear of a report")?;
    tsig::verify_response(&answer[..octets], key, &mac, now_s()).context("verify an answer")?;
    Ok(octets >= 4 && answer[3] & 0x0f == 0)
}
