//! Real processes killed, paused, cut off, left without room or registry and drained at random moments, while clients work:
//! what they saw must have an explanation. Needs root, for network namespaces and small disks.
//!
//! Every kind of fault once here; `HYPERNET_CHAOS_SECONDS=600` for a longer run, `HYPERNET_CHAOS_SEED` for other moments,
//! `HYPERNET_CHAOS_JSON=FILE` for the figures.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::chaos::{self, Chaos};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(default),
    }
}

#[test]
fn nothing_is_lost_and_every_history_has_an_explanation() -> Result<()> {
    let chaos = Chaos {
        seed: number("HYPERNET_CHAOS_SEED", 1)?,
        lasts: Duration::from_secs(number("HYPERNET_CHAOS_SECONDS", 6)?),
        servers: 4,
        objects: 60,
        clients: 8,
    };
    let outcome = chaos::run(&chaos, DEMO.as_ref())?;
    println!("seed {}: {outcome:?}", chaos.seed);
    if let Some(path) = std::env::var_os("HYPERNET_CHAOS_JSON") {
        let told = serde_json::json!({ "seed": chaos.seed, "seconds": chaos.lasts.as_secs(), "outcome": outcome });
        std::fs::write(&path, serde_json::to_vec_pretty(&told)?).context("write the figures")?;
    }
    ensure!(
        outcome.injected.restored_before_a_drain > 0,
        "no registry was older than a drain: {outcome:?}"
    );
    ensure!(outcome.no_room > 0, "no full disk was felt: {outcome:?}");
    ensure!(outcome.known > 200, "the clients did too little: {outcome:?}");
    Ok(())
}
