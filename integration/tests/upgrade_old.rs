//! Two releases in one pool: the program of the last release before pools upgraded themselves, and today's.
//!
//! The old program is built from this project's history (or named by `HYPERNET_OLD_DEMO`); without history there is nothing to
//! test, and the test says so. It cannot install another release by itself: a person does it when the status says so, and that is
//! this test.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};
use integration::chaos::clients::{Clients, Workload};
use integration::chaos::history::History;
use integration::harness::{Pool, UpgradeStatus, old_program};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const SERVERS: usize = 4;

/// Installs by hand what the status asks for, until the upgrade is in this state.
fn follow(pool: &mut Pool, program: &Path, release: &str, end: &str) -> Result<UpgradeStatus> {
    pool.follow_upgrade(end, |pool, now| {
        let asked = now.waits.iter().find_map(|wait| {
            let server = wait.strip_prefix(&format!("install {release} on "))?;
            server.split(' ').next()
        });
        asked.map_or(Ok(()), |server| pool.install_by_hand(server, program, release))
    })
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
    let upgraded = follow(&mut pool, DEMO.as_ref(), "2", "soaked")?;
    upgraded.all_run(SERVERS, "2")?;
    ensure!(upgraded.unreadable_by_old_release == 0, "{upgraded:#?}");
    pool.librarian(&["upgrade", "abort"])?;
    let back = follow(&mut pool, &old, "1", "rolled-back")?;
    back.all_run(SERVERS, "1")?;

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
