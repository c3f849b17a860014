//! `bench-spread`: how evenly servers are asked when copies and moves follow the heat of objects.

use std::process::ExitCode;

use clap::Parser;
use integration::bench::{SpreadOptions, run_spread};

fn main() -> ExitCode {
    run_spread(&SpreadOptions::parse()).map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
