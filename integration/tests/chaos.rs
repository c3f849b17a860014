//! Real processes killed, paused and drained at random moments, while clients work: what they saw must have an explanation.
//!
//! 12 s here; `HYPERNET_CHAOS_SECONDS=600` for a longer run, `HYPERNET_CHAOS_SEED` for other moments.

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
        lasts: Duration::from_secs(number("HYPERNET_CHAOS_SECONDS", 12)?),
        servers: 4,
        objects: 60,
        clients: 8,
    };
    let outcome = chaos::run(&chaos, DEMO.as_ref())?;
    println!("seed {}: {outcome:?}", chaos.seed);
    let injected = outcome.injected;
    ensure!(
        injected.agents_killed > 0 && injected.paused > 0,
        "too few faults: {outcome:?}"
    );
    ensure!(outcome.known > 200, "the clients did too little: {outcome:?}");
    Ok(())
}
