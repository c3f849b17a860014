//! Keys of a server, from the command line and at a drain: they end while it serves, and a lost keyring comes back from a backup.

use std::time::{Duration, Instant};

use agent::keys::KeysStatus;
use anyhow::{Context, Result, ensure};
use integration::harness::Pool;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Far above the second between two looks of the agent.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

fn dir(pool: &Pool, server: &str) -> Result<String> {
    Ok(pool
        .server(server)?
        .dir
        .to_str()
        .context("server's directory")?
        .to_owned())
}

fn status(pool: &Pool, server: &str) -> Result<KeysStatus> {
    let told = pool.agent(&["keys", "status", "--json", "--dir", &dir(pool, server)?], b"")?;
    serde_json::from_str(&told.stdout).context("read the status of keys")
}

/// Waits until the generations of a server are these, and nothing is left to be done.
fn wait_for(pool: &Pool, server: &str, fits: impl Fn(&[u32]) -> bool) -> Result<KeysStatus> {
    let until = Instant::now() + PATIENCE;
    loop {
        let last = status(pool, server);
        if let Ok(status) = &last {
            let alive: Vec<u32> = status.generations.iter().map(|known| known.generation).collect();
            if fits(&alive) && status.rows_left == 0 {
                return last;
            }
        }
        ensure!(Instant::now() < until, "keys of {server} stay {last:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

#[test]
fn keys_end_while_the_server_serves_and_a_lost_keyring_comes_back() -> Result<()> {
    let mut pool = Pool::builder(DEMO)
        .servers(2)
        .agent_setting("store.capacity", "16MiB")
        .agent_setting("store.volume_step", "1MiB")
        .agent_setting("moves.retire_after", "1s")
        .start()?;
    let client = pool.add_client("app", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?.to_owned();
    let body = "kept over every end of a key ".repeat(1_000);
    for number in 0..20 {
        pool.agent(
            &["put", &format!("3.{number}"), "--client", &client, "-"],
            body.as_bytes(),
        )?;
    }
    let read = |pool: &Pool| -> Result<()> {
        for number in 0..20 {
            let got = pool.agent(&["get", &format!("3.{number}"), "--client", &client], b"")?;
            ensure!(got.stdout == body, "3.{number} differs");
        }
        Ok(())
    };
    let home = dir(&pool, "s1")?;

    // The process that holds the keys leaves no core.
    let pid = pool.server("s1")?.process()?.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let core = core.context("a limit of core files")?;
    ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");

    // Asked for while it serves.
    let first = wait_for(&pool, "s1", |alive| alive.len() == 1)?.generations[0].generation;
    pool.agent(&["keys", "rotate", "--dir", &home], b"")?;
    let rotated = wait_for(&pool, "s1", |alive| alive == [first + 1])?;
    ensure!(rotated.generations[0].rows == 20, "{rotated:?}");
    read(&pool)?;

    // A backup, the loss of the keyring, and the way back.
    let saved = pool.dir().join("s1.keys");
    let saved = saved.to_str().context("name of the backup")?;
    pool.agent(&["keys", "backup", "--dir", &home, saved], b"")?;
    pool.stop_server("s1")?;
    let refused = pool.agent_any(&["keys", "restore", "--dir", &home, saved], b"")?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("never overwritten"),
        "{}",
        refused.stderr
    );
    std::fs::remove_file(pool.server("s1")?.dir.join("keyring"))?;
    ensure!(pool.start_server("s1").is_err(), "it started without its keys");
    pool.agent(&["keys", "restore", "--dir", &home, saved], b"")?;
    pool.start_server("s1")?;
    wait_for(&pool, "s1", |alive| alive == [first + 2])?;
    read(&pool)?;

    // Stopped.
    pool.stop_server("s1")?;
    pool.agent(&["keys", "rotate", "--dir", &home], b"")?;
    let rotated = status(&pool, "s1")?;
    ensure!(rotated.generations[0].generation == first + 3, "{rotated:?}");
    ensure!(rotated.generations[0].rows == 20, "{rotated:?}");
    pool.start_server("s1")?;
    read(&pool)?;

    // Drained: what wrapped the keys of the objects is gone once their copies are.
    pool.librarian(&["drain", "s1"])?;
    let free = wait_for(&pool, "s1", |alive| alive.len() == 1 && alive[0] > first + 3)?;
    ensure!(free.generations[0].rows == 0, "{free:?}");
    read(&pool)
}
