//! `bench-heat`: what counting requests costs, and how far it is from exact counts.

use std::process::ExitCode;

use clap::Parser;
use integration::bench::{HeatOptions, run_heat};

fn main() -> ExitCode {
    run_heat(&HeatOptions::parse()).map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
