//! What lies on the disks of a pool: no plaintext, no name of an object in the clear inside an agent's store, no key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::harness::Pool;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Seen nowhere but in what the client puts.
const CANARY: &str = "canary-7f3a-sings-in-the-dark";

/// Files below `dir` that hold `needle`.
fn holding(dir: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let item = item?;
            let kind = item.file_type()?;
            if kind.is_dir() {
                folders.push(item.path());
            } else if kind.is_file() {
                let octets = std::fs::read(item.path()).with_context(|| format!("read {}", item.path().display()))?;
                if contains(&octets, needle) {
                    found.push(item.path());
                }
            }
        }
    }
    Ok(found)
}

fn contains(octets: &[u8], needle: &[u8]) -> bool {
    let mut rest = octets;
    while let Some(place) = rest.iter().position(|octet| *octet == needle[0]) {
        if rest[place..].starts_with(needle) {
            return true;
        }
        rest = &rest[place + 1..];
    }
    false
}

/// Forms in which text could lie on a disk: as it is, in hexadecimal, in base64 at each of three offsets.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let hex = |upper: bool| -> Vec<u8> {
        text.bytes()
            .flat_map(|octet| {
                if upper {
                    format!("{octet:02X}")
                } else {
                    format!("{octet:02x}")
                }
                .into_bytes()
            })
            .collect()
    };
    vec![text.as_bytes().to_vec(), hex(false), hex(true)]
}

#[test]
fn canary_in_object_lies_on_no_disk_after_it_was_written_read_and_moved() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut pool = Pool::builder(DEMO)
        .servers(2)
        .dir(&home.path().join("pool"))
        .log("debug")
        .agent_setting("store.capacity", "64MiB")
        .agent_setting("store.volume_step", "16MiB")
        .start()?;
    let client = pool.add_client("canary", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?;
    let body = format!("{CANARY} ").repeat(5_000);
    let properties = format!("{{\"note\":\"{CANARY}\"}}");
    for number in 0..8 {
        let address = format!("7.{number}");
        pool.agent(
            &[
                "put",
                &address,
                "--client",
                client,
                "--type",
                "note",
                "--properties",
                &properties,
                "-",
            ],
            body.as_bytes(),
        )?;
        let read = pool.agent(&["get", &address, "--client", client], b"")?;
        ensure!(read.stdout == body, "the body read back differs");
    }
    pool.librarian(&["drain", "s1"])?;
    let read = pool.agent(&["get", "7.3", "--client", client], b"")?;
    ensure!(read.stdout == body, "the body differs after the move");
    // Both while the processes run, with whatever they keep open, and after they ended.
    for stopped in [false, true] {
        if stopped {
            pool.stop_server("s1")?;
            pool.stop_server("s2")?;
            pool.stop_librarian()?;
        }
        for form in forms(CANARY) {
            let found = holding(home.path(), &form)?;
            ensure!(found.is_empty(), "the canary lies in {found:?}");
        }
    }
    // The search itself works: it finds what is there.
    std::fs::write(home.path().join("control"), &body)?;
    assert_eq!(holding(home.path(), CANARY.as_bytes())?, [home.path().join("control")]);
    Ok(())
}
