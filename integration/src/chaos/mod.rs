//! A pool of real processes that are killed, paused, cut off, drained and left without room or registry while clients read and
//! write; what the clients saw is judged.
//!
//! | file | holds |
//! | --- | --- |
//! | `history` | what each client did and saw of an object, and whether one order of events explains it all |
//! | `clients` | the clients: reads, writes, creations, deletions, each noted with its begin and its end |
//! | `faults` | SIGKILL, SIGSTOP, one-way cuts, full disks, lost registries and drains at random moments |
//! | `disk` | small disks that can be filled |
//! | `power` | power cuts: a disk that forgets what was not synced |
//!
//! The simulator tries more orders than real processes ever will; this is the proof that the shell around the cores (sockets,
//! disks, tasks, processes) keeps what the cores promise.

pub mod clients;
pub mod disk;
pub mod faults;
pub mod history;
pub mod power;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;

use crate::harness::{NETWORK, Network, Pool, Process};
use clients::{Clients, Workload};
use disk::SmallDisk;
use faults::{CAPACITY, Disks, Faults, Injected};
use history::History;

/// How long the pool may take to come to rest once the faults have stopped.
const REST_WAIT: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Decides which faults come when, and what the clients do. Real processes do not repeat themselves all the same.
    pub seed: u64,
    /// How long faults are injected.
    pub lasts: Duration,
    /// Servers, one of them free.
    pub servers: usize,
    /// Objects there at the beginning.
    pub objects: usize,
    /// Clients at work at the same time.
    pub clients: usize,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Faults by kind.
    pub injected: Injected,
    /// Operations with a known end.
    pub known: usize,
    /// Operations whose end no client knows.
    pub unknown: usize,
    /// Drains that the librarian took up, as it logs it; it refused the others, `logs/drains.log` says why.
    pub taken_up: usize,
    /// Writes and moves that agents refused for want of room, as they log it: the full disks were felt.
    pub no_room: usize,
    /// Acknowledged writes that were not there: none, or the run ends with what contradicts what.
    pub lost: u32,
    /// Objects whose clients saw what no order of events explains: none, likewise.
    pub out_of_order: u32,
}

/// Runs a pool through faults and judges what its clients saw. Every process is on a host of its own, every agent on a disk of
/// its own. Needs root.
///
/// # Errors
///
/// A violation, with the history of the object concerned; a pool that does not come to rest; or a machine that has no network
/// namespaces or mounts for it.
pub fn run(chaos: &Chaos, program: &Path) -> Result<Outcome> {
    let servers: Vec<String> = (1..=chaos.servers).map(|number| format!("s{number}")).collect();
    let mut hosts = vec!["librarian", "client"];
    hosts.extend(servers.iter().map(String::as_str));
    let network = Arc::new(Network::new(&hosts)?);
    // The clients' host: this thread's, and so that of every thread of theirs.
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            network.enter("client")?;
            run_on(chaos, program, &network, &servers)
        });
        running.join().map_err(|_| anyhow!("the run panicked"))?
    })
}

fn run_on(chaos: &Chaos, program: &Path, network: &Arc<Network>, servers: &[String]) -> Result<Outcome> {
    // Dropped, and so unmounted and removed, after the pool.
    let home = tempfile::Builder::new().prefix("hypernet-chaos-").tempdir()?;
    let mut disks = Disks::new();
    let mut builder = Pool::builder(program)
        .servers(chaos.servers)
        .log("info")
        .network(Arc::clone(network))
        .librarian_setting("networks", vec![NETWORK])
        .agent_setting("store.capacity", format!("{}MiB", CAPACITY >> 20))
        .agent_setting("store.volume_step", "1MiB");
    for name in servers {
        let disk = Arc::new(SmallDisk::mount(&home.path().join(name))?);
        builder = builder.agent_dir(name, &disk.agent_dir());
        disks.push((name.clone(), disk));
    }
    let mut pool = builder.start()?;
    let dir = pool.add_client("chaos", &["read:*", "write:*"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime")?;
    let clients = Arc::new(Clients::new(&dir, History::new())?);
    runtime.block_on(clients.create(chaos.objects))?;

    let stop = Arc::new(AtomicBool::new(false));
    let workload = Workload {
        seed: chaos.seed,
        clients: chaos.clients,
        objects: chaos.objects,
    };
    let working = runtime.spawn(Arc::clone(&clients).work(workload, Arc::clone(&stop)));
    let mut faults = Faults::new(SmallRng::seed_from_u64(chaos.seed), Arc::clone(network), disks);
    let injected = faults.inject(&mut pool, chaos.lasts);
    stop.store(true, Ordering::Release);
    let healed = faults.heal(&mut pool);
    let worked = runtime.block_on(working).context("the clients' task");
    // In this order, so that what went wrong first is told.
    let told = |pool: &Pool, what: &str| format!("{what}; the logs lie in {}", pool.dir().display());
    let keep = |pool: &mut Pool, result: Result<()>, what: &str| -> Result<()> {
        result
            .inspect_err(|_| pool.keep_dir())
            .with_context(|| told(pool, what))
    };
    keep(&mut pool, injected, "inject faults")?;
    keep(&mut pool, healed, "bring every process back")?;
    keep(&mut pool, worked.and_then(|worked| worked), "clients at work")?;
    let rested = rest(&pool);
    keep(&mut pool, rested, "come to rest after the faults")?;
    let read = runtime.block_on(clients.read_all());
    keep(&mut pool, read, "read every object at the end")?;
    let judged = clients.history().judge().map_err(anyhow::Error::from);
    keep(&mut pool, judged, "judge what the clients saw")?;
    let (known, unknown) = clients.history().counts();
    Ok(Outcome {
        injected: faults.injected(),
        known,
        unknown,
        taken_up: logged(pool.librarian_process()?, "plan became current")?,
        no_room: no_room(&pool)?,
        lost: 0,
        out_of_order: 0,
    })
}

/// What an agent says of a write or a move for which there is no room.
const NO_ROOM: &str = "no room for";

fn no_room(pool: &Pool) -> Result<usize> {
    let mut lines = 0;
    for server in pool.servers() {
        lines += logged(server.process()?, NO_ROOM)?;
    }
    Ok(lines)
}

/// How many lines of a process's log hold a text.
fn logged(process: &Process, text: &str) -> Result<usize> {
    let log = std::fs::read_to_string(process.log()).context("read a log")?;
    Ok(log.lines().filter(|line| line.contains(text)).count())
}

/// Waits until no move is open and no server is on its way from one role to another.
fn rest(pool: &Pool) -> Result<()> {
    let start = Instant::now();
    pool.wait_for_servers()?;
    loop {
        let status = pool.pool_status()?;
        let at_rest = status
            .servers
            .iter()
            .all(|server| server.alive && ["serving", "free"].contains(&server.role.as_str()));
        if at_rest {
            return Ok(());
        }
        ensure!(
            start.elapsed() < REST_WAIT,
            "the pool does not come to rest: {status:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
