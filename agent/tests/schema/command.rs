//! `agent schema`: what it prints and how it ends.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agent"))
        .arg("schema")
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn check_ends_with_0_without_faults_1_with_them_and_2_for_wrong_usage() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let sound = agent(&["check", ours.to_str().unwrap(), "--json"]);
    assert_eq!(
        sound.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&sound.stderr)
    );
    let report: Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!(report["types"][1]["type"], "file");
    assert!(
        report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| finding["class"] == "unjudged")
    );

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("photo")).unwrap();
    std::fs::write(dir.path().join("photo/1.schema.json"), "{").unwrap();
    let faulty = agent(&["check", dir.path().to_str().unwrap()]);
    assert_eq!(faulty.status.code(), Some(1));
    let text = String::from_utf8_lossy(&faulty.stdout);
    assert!(text.starts_with("fault, file: photo/1.schema.json"), "{text}");

    assert_eq!(agent(&["check", "/nowhere/at/all"]).status.code(), Some(1));
    assert_eq!(agent(&["check"]).status.code(), Some(2));
    assert_eq!(agent(&["check", "a", "--jsn"]).status.code(), Some(2));
}

#[test]
fn new_version_is_written_beside_the_old_one_and_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    for files in [2, 4] {
        let written = agent(&["new", "photo", "--dir", place]);
        assert_eq!(written.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&written.stdout).lines().count(), files);
    }
    assert!(dir.path().join("photo/1-to-2.jq").exists());
    assert_eq!(agent(&["check", place]).status.code(), Some(0));
    assert_eq!(agent(&["new", "../photo", "--dir", place]).status.code(), Some(1));
}

#[test]
fn dry_run_of_a_directory_without_agent_says_so_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let run = agent(&[
        "dry-run",
        "--dir",
        dir.path().to_str().unwrap(),
        "--schemas",
        ours.to_str().unwrap(),
    ]);
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
