//! A pool whose servers install by themselves: the controller wants a release, the agent asks, its supervisor installs. A release
//! here is a line of the agent's settings.

use anyhow::{Context, Result, ensure};
use integration::harness::Pool;

const SERVERS: usize = 3;

/// What the installer of a server has run.
fn ran(pool: &Pool, server: &str) -> Result<String> {
    let log = pool.server(server)?.dir.join("installs.log");
    std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))
}

#[test]
fn pool_installs_by_itself_also_where_an_install_fails_once_and_goes_back_by_itself() -> Result<()> {
    let mut pool = Pool::builder(env!("CARGO_BIN_EXE_demo"))
        .servers(SERVERS)
        .agent_setting("release", "1")
        .releases(&["2"])
        // A server is stopped when answers that name it are cached nowhere any more.
        .librarian_setting("ttl", "1s")
        .start()?;
    std::fs::write(pool.server("s1")?.dir.join("fail.install"), "1")?;
    pool.librarian(&["upgrade", "start", "--to", "2", "--soak", "1s", "--detach"])?;
    let upgraded = pool.follow_upgrade("soaked", |_, _| Ok(()))?;
    upgraded.all_run(SERVERS, "2")?;
    ensure!(
        ran(&pool, "s1")? == "install 2\nrollback 1\ninstall 2\n",
        "{}",
        ran(&pool, "s1")?
    );
    ensure!(ran(&pool, "s2")? == "install 2\n", "{}", ran(&pool, "s2")?);
    pool.librarian(&["upgrade", "abort"])?;
    let back = pool.follow_upgrade("rolled-back", |_, _| Ok(()))?;
    back.all_run(SERVERS, "1")?;
    ensure!(ran(&pool, "s2")? == "install 2\nrollback 1\n", "{}", ran(&pool, "s2")?);
    Ok(())
}
