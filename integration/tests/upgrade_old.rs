//! Two releases in one pool: the program of the last release before pools upgraded themselves, and today's.
//!
//! The old program is built from this project's history (or named by `HYPERNET_OLD_DEMO`); without history there is nothing to
//! test, and the test says so. It cannot install another release by itself: a person does it when the status says so, and that is
//! this test.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::chaos::clients::{Clients, Workload};
use integration::chaos::history::History;
use integration::harness::{Pool, old_program};
use serde_json::Value;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const WAIT: Duration = Duration::from_secs(240);
const SERVERS: usize = 4;

fn status(pool: &Pool) -> Result<Value> {
    let told = pool.librarian(&["upgrade", "status", "--json"])?;
    serde_json::from_str(&told.stdout).context("read the status")
}

/// Installs by hand what the status asks for, until the upgrade is in one of these states.
fn follow(pool: &mut Pool, program: &Path, release: &str, ends: &[&str]) -> Result<Value> {
    let until = Instant::now() + WAIT;
    loop {
        let now = status(pool)?;
        let state = now["state"].as_str().context("a state")?;
        if ends.contains(&state) {
            return Ok(now);
        }
        ensure!(state != "halted", "{now:#}");
        ensure!(Instant::now() < until, "the upgrade does not end: {now:#}");
        let waits = now["waits"].as_array().context("waits")?;
        let asked = waits.iter().filter_map(Value::as_str).find_map(|wait| {
            let server = wait.strip_prefix(&format!("install {release} on "))?;
            Some(server.split(' ').next()?.to_owned())
        });
        match asked {
            Some(server) => pool.install_by_hand(&server, program, release)?,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn releases(status: &Value) -> Result<Vec<&str>> {
    let servers = status["servers"].as_array().context("servers")?;
    servers
        .iter()
        .map(|server| server["release"].as_str().context("a release"))
        .collect()
}

#[test]
fn pool_goes_from_the_old_program_to_todays_and_back_while_clients_work() -> Result<()> {
    let Some(old) = old_program()? else {
        println!("skipped: the old release is not in this checkout's history; HYPERNET_OLD_DEMO names its program");
        return Ok(());
    };
    let mut pool = Pool::builder(DEMO)
        .servers(SERVERS)
        .agent_program(&old)
        .agent_setting("release", "1")
        // A server is stopped when answers that name it are cached nowhere any more.
        .librarian_setting("ttl", "1s")
        .start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let runtime = tokio::runtime::Runtime::new()?;
    let clients = Arc::new(Clients::new(&dir, History::new())?);
    let workload = Workload {
        seed: 5,
        clients: 4,
        objects: 40,
    };
    runtime.block_on(clients.create(workload.objects))?;
    let stop = Arc::new(AtomicBool::new(false));
    let working = runtime.spawn(Arc::clone(&clients).work(workload, Arc::clone(&stop)));

    // What clients see is judged here; a server that is busy may answer 503 once, and the client asks again.
    let ask = [
        "upgrade",
        "start",
        "--to",
        "2",
        "--soak",
        "1s",
        "--errors-max",
        "1000",
        "--detach",
    ];
    pool.librarian(&ask)?;
    let upgraded = follow(&mut pool, DEMO.as_ref(), "2", &["soaked"])?;
    ensure!(releases(&upgraded)? == ["2"; SERVERS], "{upgraded:#}");
    ensure!(upgraded["unreadable_by_old_release"] == 0, "{upgraded:#}");
    pool.librarian(&["upgrade", "abort"])?;
    let back = follow(&mut pool, &old, "1", &["rolled-back"])?;
    ensure!(releases(&back)? == ["1"; SERVERS], "{back:#}");

    stop.store(true, Ordering::Release);
    runtime.block_on(working)??;
    let (known, unknown) = clients.history().counts();
    runtime.block_on(clients.read_all())?;
    if let Err(violation) = clients.history().judge() {
        bail!("{violation}");
    }
    println!("{known} operations, {unknown} without an answer");
    ensure!(unknown == 0, "{unknown} of {known} operations got no answer");
    ensure!(known > 200, "the clients did too little: {known}");
    Ok(())
}
