//! A pool whose servers install by themselves: the controller wants a release, the agent asks, its supervisor installs. A release
//! here is a line of the agent's settings.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::harness::Pool;
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(240);
const SERVERS: usize = 3;

fn follow(pool: &Pool, ends: &[&str]) -> Result<Value> {
    let until = Instant::now() + WAIT;
    loop {
        let told = pool.librarian(&["upgrade", "status", "--json"])?;
        let now: Value = serde_json::from_str(&told.stdout).context("read the status")?;
        let state = now["state"].as_str().context("a state")?;
        if ends.contains(&state) {
            return Ok(now);
        }
        ensure!(
            state != "halted" && Instant::now() < until,
            "the upgrade does not end: {now:#}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn releases(status: &Value) -> Result<Vec<&str>> {
    let servers = status["servers"].as_array().context("servers")?;
    let release = |server: &'_ Value| server["release"].as_str().map(str::to_owned);
    ensure!(servers.iter().all(|server| release(server).is_some()), "{status:#}");
    Ok(servers.iter().filter_map(|server| server["release"].as_str()).collect())
}

#[test]
fn pool_installs_by_itself_also_where_an_install_fails_once_and_goes_back_by_itself() -> Result<()> {
    let pool = Pool::builder(env!("CARGO_BIN_EXE_demo"))
        .servers(SERVERS)
        .agent_setting("release", "1")
        .releases(&["2"])
        // A server is stopped when answers that name it are cached nowhere any more.
        .librarian_setting("ttl", "1s")
        .start()?;
    let ran = |server: &str| -> Result<String> {
        let log = pool.server(server)?.dir.join("installs.log");
        std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))
    };
    std::fs::write(pool.server("s1")?.dir.join("fail.install"), "1")?;
    pool.librarian(&["upgrade", "start", "--to", "2", "--soak", "1s", "--detach"])?;
    let upgraded = follow(&pool, &["soaked"])?;
    ensure!(releases(&upgraded)? == ["2"; SERVERS], "{upgraded:#}");
    ensure!(ran("s1")? == "install 2\nrollback 1\ninstall 2\n", "{}", ran("s1")?);
    ensure!(ran("s2")? == "install 2\n", "{}", ran("s2")?);
    pool.librarian(&["upgrade", "abort"])?;
    let back = follow(&pool, &["rolled-back"])?;
    ensure!(releases(&back)? == ["1"; SERVERS], "{back:#}");
    ensure!(ran("s2")? == "install 2\nrollback 1\n", "{}", ran("s2")?);
    Ok(())
}
