//! What of an agent can be seen beside its disks: in core files, and in its memory when it is stopped.
//!
//! Each search has its control: something that it must find, in the same place and by the same means. Needs root: it reads another
//! process's memory.

#[allow(dead_code, reason = "places of keys are for other tests")]
mod disk;
#[allow(dead_code, reason = "keys with files are for other tests")]
mod secrets;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disk::search;
use integration::harness::Process;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use secrets::{CANARY, OBJECTS, canary, fill, keys_of_objects, pool, there};

/// Files of a directory that are not there in `before`.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for item in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        names.push(item?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn agent_that_crashes_leaves_no_core() -> Result<()> {
    // What is started from here may write cores of any size, as the system is set.
    let limits = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Core, limits).context("allow cores: this needs root")?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let dir = tempfile::tempdir()?;
    let control = Command::new("sh")
        .args(["-c", "kill -SEGV $$"])
        .current_dir(dir.path())
        .status()?;
    ensure!(
        control.core_dumped(),
        "the control left no core ({control}, core_pattern {}): this machine writes none, so nothing can be told",
        pattern.trim()
    );
    if pattern.trim() == "core" {
        ensure!(
            names(dir.path())?.iter().any(|name| name.starts_with("core")),
            "the control's core is not where it was sought"
        );
    }

    let mut pool = pool()?;
    fill(&mut pool)?;
    for signal in [Signal::ABORT, Signal::SEGV] {
        let process = pool.server("s1")?.process()?;
        let (pid, folder) = (process.pid(), fs::read_link(format!("/proc/{}/cwd", process.pid()))?);
        let before = names(&folder)?;
        // Until it is over: Rust's own handler takes the first SIGSEGV for a stack overflow, sees that it is none, and leaves the next
        // to the system.
        let until = Instant::now() + Duration::from_secs(30);
        while !fs::read_to_string(format!("/proc/{pid}/stat"))?.contains(") Z ") {
            ensure!(Instant::now() < until, "it lives on after {signal:?}");
            process.signal(signal)?;
            std::thread::yield_now();
        }
        let ended = pool.stop_server("s1").err().context("it ended well")?.to_string();
        let name = if signal == Signal::ABORT { "SIGABRT" } else { "SIGSEGV" };
        ensure!(ended.contains(name) && !ended.contains("core dumped"), "{ended}");
        let new: Vec<_> = names(&folder)?
            .into_iter()
            .filter(|name| !before.contains(name))
            .collect();
        let cores: Vec<_> = new
            .iter()
            .filter(|name| name.contains("core") || name.contains(&pid.to_string()))
            .collect();
        ensure!(cores.is_empty(), "{cores:?} in {}", folder.display());
        pool.start_server("s1")?;
    }
    pool.stop_server("s1")?;
    let mut secrets = keys_of_objects(&pool, "s1")?;
    secrets.push(canary());
    let (found, _) = search(pool.dir(), &secrets)?;
    let found: Vec<_> = (found.iter())
        .map(|found| (&secrets[found.secret].what, &found.file, found.form))
        .collect();
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// All memory of a process that is stopped.
fn memory(process: &Process) -> Result<Vec<u8>> {
    let pid = process.pid();
    process.signal(Signal::STOP)?;
    let dump = || -> Result<Vec<u8>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem")).context("open an agent's memory: this needs root")?;
        let mut all = Vec::new();
        for map in maps.lines() {
            let mut words = map.split_whitespace();
            let (range, rights) = (words.next().context("a range")?, words.next().context("rights")?);
            // What cannot be written is the program and its libraries.
            if !rights.starts_with("rw") {
                continue;
            }
            let (from, to) = range.split_once('-').context("two ends")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            let at = all.len();
            all.resize(at + usize::try_from(to - from)?, 0);
            memory
                .read_exact_at(&mut all[at..], from)
                .with_context(|| format!("read {map}"))?;
        }
        Ok(all)
    };
    let dumped = dump();
    process.signal(Signal::CONT)?;
    dumped
}

#[test]
fn memory_of_an_idle_agent_has_no_key_of_an_object_and_no_content_that_it_did_not_serve() -> Result<()> {
    let mut pool = pool()?;
    fill(&mut pool)?;
    let served = memory(pool.server("s1")?.process()?)?;
    pool.stop_server("s1")?;
    let keys = keys_of_objects(&pool, "s1")?;
    ensure!(
        keys.len() == 1 + 2 * OBJECTS,
        "a KEK, and two streams of each object: {}",
        keys.len()
    );
    pool.start_server("s1")?;
    let fresh = memory(pool.server("s1")?.process()?)?;

    let (kek, data_keys) = keys.split_first().context("a KEK")?;
    for (when, octets) in [("after it served", &served), ("after a start", &fresh)] {
        // The control: what is in use is there, and the search sees it.
        let kek = there(octets, std::slice::from_ref(kek));
        ensure!(
            kek.len() == 1,
            "{when} the KEK was not found in {} octets",
            octets.len()
        );
        let data_keys = there(octets, data_keys);
        ensure!(data_keys.is_empty(), "{when} memory has {data_keys:?}");
    }
    let content = there(&fresh, &[canary()]);
    ensure!(
        content.is_empty(),
        "content that was not read since the start: {content:?}"
    );
    let times = |octets: &[u8]| {
        octets
            .windows(CANARY.len())
            .filter(|window| *window == CANARY.as_bytes())
            .count()
    };
    println!(
        "content that was served: {} of {} canaries left",
        times(&served),
        4_000 * OBJECTS * 2
    );
    Ok(())
}
