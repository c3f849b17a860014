//! A whole pool on a disk whose power is cut: what was acknowledged is there afterwards. Needs root, as `full_disk.rs` does.
//!
//! Two cuts here; `HYPERNET_CUTS=50` for more, `HYPERNET_CUTS_SEED` for other moments.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::chaos::power::{Cuts, LoopDisk, cut_power};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Makes fsync and its like do nothing (Debian's libeatmydata1).
const NO_FSYNC: &str = "/usr/lib/x86_64-linux-gnu/libeatmydata.so";

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(default),
    }
}

fn cuts(environment: Vec<(String, String)>, pool_is_synced: bool) -> Result<Cuts> {
    Ok(Cuts {
        seed: number("HYPERNET_CUTS_SEED", 1)?,
        cuts: u32::try_from(number("HYPERNET_CUTS", 2)?)?,
        environment,
        pool_is_synced,
    })
}

#[test]
fn power_cut_loses_nothing_that_was_acknowledged() -> Result<()> {
    let home = tempfile::tempdir()?;
    let Some(disk) = LoopDisk::mount(home.path())? else {
        return Ok(());
    };
    let cuts = cuts(Vec::new(), false)?;
    let operations = cut_power(&cuts, &disk, DEMO.as_ref())?;
    println!("{} cuts, {operations} operations, nothing lost", cuts.cuts);
    ensure!(operations > 100, "the clients did too little");
    Ok(())
}

/// The control: the same cuts find what is not synced.
#[test]
fn power_cut_without_fsync_loses_data() -> Result<()> {
    let home = tempfile::tempdir()?;
    let Some(disk) = LoopDisk::mount(home.path())? else {
        return Ok(());
    };
    if !Path::new(NO_FSYNC).exists() {
        println!("skipped: {NO_FSYNC} is not installed");
        return Ok(());
    }
    let preload = vec![("LD_PRELOAD".to_owned(), NO_FSYNC.to_owned())];
    match cut_power(&cuts(preload, true)?, &disk, DEMO.as_ref()) {
        Ok(_) => anyhow::bail!("power cuts without fsync lose nothing: the test proves nothing"),
        Err(lost) => println!("as it should be: {lost:#}"),
    }
    Ok(())
}
