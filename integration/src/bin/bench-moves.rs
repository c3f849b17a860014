//! `bench-moves`: how fast objects move, against ceilings.

use std::process::ExitCode;

use clap::Parser;
use integration::bench::{MoveOptions, run_moves};

fn main() -> ExitCode {
    if let Some(status) = integration::one_of_the_pool(std::env::args_os()) {
        return status;
    }
    let options = MoveOptions::parse();
    let done = std::env::current_exe()
        .map_err(anyhow::Error::from)
        .and_then(|program| run_moves(&options, &program));
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
