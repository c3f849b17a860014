//! `bench-copies`: what copies cost whoever writes an object.

use std::process::ExitCode;

use clap::Parser;
use integration::bench::{CopiesOptions, run_copies};

fn main() -> ExitCode {
    if let Some(status) = integration::one_of_the_pool(std::env::args_os()) {
        return status;
    }
    let options = CopiesOptions::parse();
    let done = std::env::current_exe()
        .map_err(anyhow::Error::from)
        .and_then(|program| run_copies(&options, &program));
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
