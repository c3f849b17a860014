//! What lies on the disks of a pool: no plaintext, and no key but in the file that is made to hold it.
//!
//! One pool is run twice: as it is, and as a control with encryption off (`HYPERNET_PLAINTEXT_CONTROL`, which only development
//! builds know). The search that finds nothing in the first finds the canary in the second.

mod disk;
#[allow(dead_code, reason = "pools of other tests")]
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use disk::{Found, Secret, search};
use integration::harness::{Pool, run};
use secrets::{CANARY, canary, keys_of_objects, keys_with_a_file};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// What makes agents of a development build write in the clear.
const CONTROL: &str = "HYPERNET_PLAINTEXT_CONTROL";
const OBJECTS: usize = 8;

/// Puts objects, reads them, moves them from s1 to s2 and reads one again, with every log at its most talkative. `look` is
/// called while the processes run, with whatever they keep open, and after they have ended; it is given the keys that the
/// objects had before the move and, at the end, those that they have then.
fn with_a_pool(control: bool, mut look: impl FnMut(&Pool, Vec<Secret>, &str) -> Result<()>) -> Result<Pool> {
    let mut builder = Pool::builder(DEMO)
        .servers(2)
        .log("trace")
        .agent_setting("store.capacity", "16MiB")
        .agent_setting("store.volume_step", "1MiB");
    if control {
        builder = builder.environment(CONTROL, "1");
    }
    let mut pool = builder.start()?;
    let client = pool.add_client("canary", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?;
    let body = format!("{CANARY} ").repeat(4_000);
    let properties = format!("{{\"note\":\"{CANARY}\"}}");
    for number in 0..OBJECTS {
        let address = format!("7.{number}");
        let put = ["put", &address, "--client", client, "--type", "note"];
        pool.agent(
            &[&put[..], &["--properties", &properties, "-"]].concat(),
            body.as_bytes(),
        )?;
        let read = pool.agent(&["get", &address, "--client", client], b"")?;
        ensure!(read.stdout == body, "the body read back differs");
    }
    // The index belongs to one process at a time.
    let keys = |pool: &Pool, server: &str| match control {
        true => Ok(Vec::new()),
        false => keys_of_objects(pool, server),
    };
    pool.stop_server("s1")?;
    let mut secrets = keys(&pool, "s1")?;
    ensure!(
        control || secrets.len() == 1 + 2 * OBJECTS,
        "a KEK, and two streams of each object: {}",
        secrets.len()
    );
    pool.start_server("s1")?;
    pool.librarian(&["drain", "s1"])?;
    let read = pool.agent(&["get", "7.3", "--client", client], b"")?;
    ensure!(read.stdout == body, "the body differs after the move");
    look(&pool, secrets.clone(), "while the processes run")?;
    for server in ["s1", "s2"] {
        pool.stop_server(server)?;
    }
    pool.stop_librarian()?;
    for server in ["s1", "s2"] {
        secrets.extend(keys(&pool, server)?);
    }
    look(&pool, secrets, "after the processes have ended")?;
    Ok(pool)
}

/// Every place at which a secret lies is one that it may lie at, and it does lie there: the search sees what is there.
fn check(secrets: &[Secret], found: &[Found], when: &str) -> Result<()> {
    for (number, secret) in secrets.iter().enumerate() {
        let of_it = found.iter().filter(|found| found.secret == number);
        let places: BTreeSet<&Path> = of_it.clone().map(|found| found.file.as_path()).collect();
        let allowed: BTreeSet<&Path> = secret.lies_in.iter().map(Path::new).collect();
        let forms: BTreeMap<&Path, &str> = of_it.map(|found| (found.file.as_path(), found.form)).collect();
        ensure!(
            places == allowed,
            "{when}, {} lies in {forms:?} where it belongs in {allowed:?}",
            secret.what
        );
    }
    Ok(())
}

#[test]
fn plaintext_and_keys_of_objects_lie_on_no_disk_and_other_keys_in_their_own_files_alone() -> Result<()> {
    let pool = with_a_pool(false, |pool, mut secrets, when| {
        secrets.push(canary());
        secrets.extend(keys_with_a_file(pool)?);
        let (found, octets) = search(pool.dir(), &secrets)?;
        println!("{when}: {} secrets sought in {octets} octets", secrets.len());
        check(&secrets, &found, when)
    })?;
    // The logs were among what was searched, and they tell much.
    for log in ["librarian", "s1", "s2"] {
        let log = std::fs::read_to_string(pool.dir().join("logs").join(format!("{log}.log")))?;
        ensure!(log.contains("TRACE") && log.contains("DEBUG"), "{log}");
    }
    Ok(())
}

#[test]
fn the_same_search_finds_plaintext_in_a_run_without_encryption() -> Result<()> {
    let secrets = [canary()];
    let pool = with_a_pool(true, |pool, _, when| {
        let (found, _) = search(pool.dir(), &secrets)?;
        if cfg!(not(debug_assertions)) {
            // A release does not know the variable.
            return check(&secrets, &found, when);
        }
        let places: BTreeSet<&Path> = found.iter().map(|found| found.file.as_path()).collect();
        let volumes = ["agents/s1/volumes/0000", "agents/s2/volumes/0000"].map(Path::new);
        // In the volumes of both, and even then nowhere else.
        ensure!(places == BTreeSet::from(volumes), "{when}: {places:?}");
        Ok(())
    })?;
    if cfg!(not(debug_assertions)) {
        return Ok(());
    }
    for server in ["s1", "s2"] {
        let log = std::fs::read_to_string(pool.dir().join("logs").join(format!("{server}.log")))?;
        let warned = log
            .lines()
            .any(|line| line.contains("WARN") && line.contains("CONTROL RUN"));
        ensure!(warned, "{server} did not warn");
    }
    // An agent that is no control run does not take such data for its own.
    let dir = pool.server("s2")?.dir.display().to_string();
    let checked = run(DEMO, &["agent", "check", "--dir", &dir])?;
    let said = format!("{}{}", checked.stdout, checked.stderr);
    ensure!(
        !checked.status.success() && said.contains("suite 0 needs a release that knows it"),
        "{said}"
    );
    Ok(())
}
