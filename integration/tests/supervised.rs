//! Agents under `agent supervise`: the same pool, and a parent between each agent and whoever started it.

use std::time::Duration;

use anyhow::{Context, Result};
use integration::harness::{Pool, until};

/// The processes that a process started and that still run.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children"))?;
        children.extend(
            text.split_whitespace()
                .map(|child| child.parse::<u32>().expect("a number")),
        );
    }
    Ok(children)
}

#[test]
fn supervised_pool_serves_and_every_agent_ends_with_its_supervisor() -> Result<()> {
    let mut pool = Pool::builder(env!("CARGO_BIN_EXE_demo"))
        .servers(2)
        .releases(&["2.0"])
        .start()?;
    let alice = pool.add_client("alice", &["read:1", "write:1"])?;
    let alice = alice.to_str().context("a path of text")?;
    pool.agent(&["put", "1.2.3", "-", "--client", alice], b"content")?;
    let read = pool.agent(&["get", "1.2.3", "--client", alice], b"")?;
    assert_eq!(read.stdout, "content");
    let supervisor = pool.server("s1")?.process()?.pid();
    let agents = children(supervisor)?;
    assert_eq!(agents.len(), 1);
    pool.kill_server("s1")?;
    let is_over = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    until(
        "the end of the agent, whose supervisor is dead",
        Duration::from_secs(10),
        || Ok(agents.iter().all(is_over)),
    )?;
    pool.start_server("s1")?;
    let read = pool.agent(&["get", "1.2.3", "--client", alice], b"")?;
    assert_eq!(read.stdout, "content");
    pool.stop_server("s1")?;
    pool.stop_server("s2")
}
