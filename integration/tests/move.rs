//! The main job as a person runs it: the demo's own binary, its summary and its ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::harness::{dig, run, until};
use serde_json::Value;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// Longest time for a small demo on a busy machine.
const DEMO_WAIT: Duration = Duration::from_secs(300);

fn small(json: &Path) -> Vec<String> {
    let json = json.display().to_string();
    [
        "--count",
        "300",
        "--rate",
        "100",
        "--before",
        "1",
        "--servers",
        "3",
        "--json",
        &json,
    ]
    .map(str::to_owned)
    .into()
}

/// Processes that have `dir` in their command line.
fn processes_of(dir: &str) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let lines = processes
        .flatten()
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(dir)).count()
}

/// Whether a line is an SRV record as dig prints it.
fn is_srv(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    fields.get(2..4) == Some(&["IN", "SRV"])
}

#[test]
fn drained_server_is_empty_and_no_client_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("summary.json");
    let done = run(DEMO, &small(&json))?.success()?;
    let summary: Value = serde_json::from_slice(&std::fs::read(&json).context("read the summary")?)?;
    for key in [
        "domain",
        "dns",
        "dir",
        "servers",
        "objects",
        "objects_moved",
        "bytes_moved",
        "move_seconds",
        "operations",
        "failed_operations",
        "mismatched_objects",
        "read_p50_ms",
        "read_p99_ms",
        "write_p99_ms",
    ] {
        ensure!(!summary[key].is_null(), "the summary has no {key}: {summary}");
    }
    assert_eq!(summary["failed_operations"], 0, "{}", done.stderr);
    assert_eq!(summary["mismatched_objects"], 0, "{}", done.stderr);
    assert!(summary["objects_moved"].as_u64() > Some(0), "{summary}");
    assert!(summary["read_p99_ms"]["before"].is_number() && summary["read_p99_ms"]["during"].is_number());
    assert_eq!(summary["drained_left"], 0);
    ensure!(
        !Path::new(summary["dir"].as_str().context("dir")?).exists(),
        "the temporary directory stayed"
    );

    // The same question was asked before and after: its answer changed.
    let answers: Vec<&str> = done.stdout.lines().filter(|line| is_srv(line)).collect();
    assert!(answers.len() >= 6, "{}", done.stdout);
    let (before, after) = answers.split_at(answers.len() / 2);
    assert_ne!(before, after, "{answers:?}");
    Ok(())
}

#[test]
fn pool_is_upgraded_and_no_client_that_knows_the_first_version_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("summary.json");
    let mut words = small(&json);
    words.extend(["--upgrade", "--soak", "1"].map(str::to_owned));
    let done = run(DEMO, &words)?;
    ensure!(done.status.success(), "{}{}", done.stdout, done.stderr);
    let summary: Value = serde_json::from_slice(&std::fs::read(&json).context("read the summary")?)?;
    for key in ["longest_write_stall_ms", "upgrade_seconds"] {
        ensure!(summary[key].is_number(), "the summary has no {key}: {summary}");
    }
    for none in [
        "failed_operations",
        "mismatched_objects",
        "unreadable_by_old_release",
        "quarantined",
    ] {
        assert_eq!(summary[none], 0, "{none}: {summary}");
    }
    assert_eq!(summary["rolled_back_installs"], 1, "{summary}");
    for of_a_drain in ["drained", "drained_left"] {
        ensure!(summary.get(of_a_drain).is_none(), "{of_a_drain}: {summary}");
    }
    let objects = &summary["objects"];
    assert_eq!(
        summary["schema_counts"],
        serde_json::json!({ "3": objects }),
        "{summary}"
    );
    assert_eq!(
        summary["level_counts"],
        serde_json::json!({ "2": objects }),
        "{summary}"
    );
    let releases = summary["releases"].as_object().context("releases")?;
    assert!(
        releases.len() == 3 && releases.values().all(|release| release == "2"),
        "{summary}"
    );
    Ok(())
}

#[test]
fn hot_objects_have_copies_in_the_end_and_servers_are_asked_more_evenly() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("summary.json");
    // Most of what is asked for is one object, so that neither chance nor where the objects came to be decides.
    let load = "--hot --zipf 3 --count 100 --rate 200 --before 2 --servers 3 --hot-seconds 60 --json";
    let mut words: Vec<String> = load.split(' ').map(str::to_owned).collect();
    words.push(json.display().to_string());
    let done = run(DEMO, &words)?;
    ensure!(done.status.success(), "{}{}", done.stdout, done.stderr);
    let summary: Value = serde_json::from_slice(&std::fs::read(&json).context("read the summary")?)?;
    for none in ["failed_operations", "mismatched_objects", "unsettled_registers"] {
        assert_eq!(summary[none], 0, "{none}: {summary}");
    }
    assert!(summary["replicated_objects"].as_u64() > Some(0), "{summary}");
    let [before, after] = ["before", "after"].map(|when| summary["hottest_over_mean"][when].as_f64());
    assert!(
        after.is_some() && after < before && after < Some(1.3),
        "{summary}{}",
        done.stdout
    );
    assert!(summary["seconds_to_spread"].is_number(), "{summary}{}", done.stdout);
    Ok(())
}

#[test]
fn kept_pool_answers_until_it_is_told_to_stop() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("summary.json");
    let home = dir.path().join("pool");
    let mut child = Command::new(DEMO)
        .args(small(&json))
        .args(["--keep", "--dir"])
        .arg(&home)
        .stdout(std::process::Stdio::null())
        .spawn()
        .context("start the demo")?;
    let complete = || {
        std::fs::read_to_string(&json)
            .ok()
            .and_then(|text| serde_json::from_str::<Value>(&text).ok())
    };
    until("the summary", DEMO_WAIT, || {
        Ok(complete().is_some() || child.try_wait()?.is_some())
    })?;
    let summary = complete().context("the demo ended without a summary")?;

    let server = summary["dns"].as_str().context("dns")?.parse()?;
    let domain = summary["domain"].as_str().context("domain")?;
    let key = home.join("keys/admin.key");
    let key = key.to_str().context("key")?;
    let answer = dig(
        server,
        &["-k", key, &format!("3.1.2.1.023.obj.{domain}"), "TXT", "+short"],
    )?
    .success()?;
    assert!(answer.stdout.contains("\"address=3.1.2.1.023\""), "{}", answer.stdout);

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    until("the end of the demo", DEMO_WAIT, || Ok(child.try_wait()?.is_some()))?;
    ensure!(child.wait()?.success(), "the demo ended with {}", child.wait()?);
    assert_eq!(processes_of(home.to_str().context("directory")?), 0);
    assert!(
        home.join("keys/admin.key").exists(),
        "a directory that was asked for stays"
    );
    Ok(())
}

#[test]
fn interrupted_demo_leaves_no_process_behind() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("pool");
    let mut child = Command::new(DEMO)
        .args(small(&dir.path().join("summary.json")))
        .arg("--dir")
        .arg(&home)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .context("start the demo")?;
    // A librarian and two agents at least are up.
    let inside = home.to_str().context("directory")?.to_owned();
    until("the start of the pool", DEMO_WAIT, || {
        Ok(processes_of(&inside) >= 4 || child.try_wait()?.is_some())
    })?;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)?;
    until("the end of the demo", DEMO_WAIT, || Ok(child.try_wait()?.is_some()))?;
    assert_eq!(child.wait()?.code(), Some(130));
    until("the end of all processes", DEMO_WAIT, || Ok(processes_of(&inside) == 0))
}
