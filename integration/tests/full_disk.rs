//! A disk that fills up, while objects are put and while they move: clear errors, nothing acknowledged is lost, and
//! everything serves on.
//!
//! The full disk is a small tmpfs of its own, which only root may mount; elsewhere these tests say so and do nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, run};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// A file system of a few mebibytes.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where one may not be mounted.
    fn mount(path: &Path, mebibytes: u32) -> Result<Option<SmallDisk>> {
        std::fs::create_dir_all(path)?;
        let target = path.to_str().context("name the mount point")?;
        let mounted = run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m"),
                "hypernet-test",
                target,
            ],
        )?;
        if mounted.status.success() {
            return Ok(Some(SmallDisk { path: path.to_owned() }));
        }
        println!(
            "skipped: a small tmpfs cannot be mounted here ({})",
            mounted.stderr.trim()
        );
        Ok(None)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a killed agent may still be on its way out.
        let _ = run("umount", &["-l", &self.path.display().to_string()]);
    }
}

fn body(number: usize) -> Vec<u8> {
    let seed = u8::try_from(number % 251).unwrap_or_default();
    (0..700_000_u32)
        .map(|place| seed.wrapping_add((place % 253) as u8))
        .collect()
}

fn put(pool: &Pool, client: &str, number: usize) -> Result<std::result::Result<(), String>> {
    let done = pool.agent_any(&["put", &format!("5.{number}"), "--client", client, "-"], &body(number))?;
    Ok(if done.status.success() {
        Ok(())
    } else {
        Err(done.stderr)
    })
}

fn assert_reads_back(pool: &Pool, client: &str, numbers: &[usize], home: &Path) -> Result<()> {
    for number in numbers {
        let file = home.join("read");
        let name = file.to_str().context("name a file")?;
        pool.agent(
            &["get", &format!("5.{number}"), "--client", client, "--output", name],
            b"",
        )?;
        ensure!(
            std::fs::read(&file)? == body(*number),
            "object 5.{number} is not what was acknowledged"
        );
    }
    Ok(())
}

#[test]
fn put_into_a_full_disk_is_refused_and_what_was_acknowledged_stays() -> Result<()> {
    let home = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&home.path().join("s1"), 48)? else {
        return Ok(());
    };
    // The setting promises more than the disk has.
    let mut pool = Pool::builder(DEMO)
        .servers(1)
        .free(0)
        .agent_dir("s1", &disk.path)
        .agent_setting("store.capacity", "1GiB")
        .agent_setting("store.volume_step", "4MiB")
        .start()?;
    let client = pool.add_client("filler", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?.to_owned();
    let mut kept = Vec::new();
    let mut refused = None;
    for number in 0..100 {
        match put(&pool, &client, number)? {
            Ok(()) => kept.push(number),
            Err(why) => {
                refused = Some(why);
                break;
            }
        }
    }
    let refused = refused.context("a disk of 48 MiB took 70 MB")?;
    ensure!(kept.len() > 10, "only {} objects fitted", kept.len());
    let clear = ["space", "full", "507"]
        .iter()
        .any(|word| refused.to_lowercase().contains(word));
    ensure!(clear, "the error does not say that the disk is full: {refused}");
    assert_reads_back(&pool, &client, &kept, home.path())?;

    // Room again: an object goes, and another one fits.
    let gone = kept.remove(0);
    pool.agent(&["rm", &format!("5.{gone}"), "--client", &client], b"")?;
    ensure!(
        put(&pool, &client, 900)?.is_ok(),
        "room was made and a put is still refused"
    );
    kept.push(900);

    pool.kill_server("s1")?;
    pool.start_server("s1")?;
    pool.wait_for_servers()?;
    assert_reads_back(&pool, &client, &kept, home.path())
}

#[test]
fn move_into_a_full_disk_stops_and_loses_nothing() -> Result<()> {
    let home = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&home.path().join("s2"), 24)? else {
        return Ok(());
    };
    let pool = Pool::builder(DEMO)
        .servers(2)
        .agent_dir("s2", &disk.path)
        .agent_setting("store.capacity", "1GiB")
        .agent_setting("store.volume_step", "4MiB")
        .start()?;
    let client = pool.add_client("filler", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?.to_owned();
    let all: Vec<usize> = (0..40).collect();
    for number in &all {
        put(&pool, &client, *number)?.map_err(anyhow::Error::msg)?;
    }
    // 28 MB do not fit 24 MiB: the drain cannot end. It is given time to try.
    let drained = pool.librarian_within(Duration::from_secs(15), &["drain", "s1"]);
    ensure!(drained.is_err(), "28 MB were drained into a disk of 24 MiB");
    assert_reads_back(&pool, &client, &all, home.path())?;
    // Objects that stayed on the server with room take writes as before.
    let mut stayed = None;
    for number in &all {
        let found = pool.librarian(&["where", &format!("5.{number}"), "--json"])?;
        let found: serde_json::Value = serde_json::from_str(&found.stdout).context("read where an object is")?;
        if found["owner"] == "s1" {
            stayed = Some(*number);
        }
    }
    let stayed = stayed.context("every object moved into a disk that cannot hold them")?;
    put(&pool, &client, stayed)?.map_err(anyhow::Error::msg)?;
    assert_reads_back(&pool, &client, &all, home.path())
}
