//! `demo`: the main job on one machine. Also `demo librarian ...` and `demo agent ...`, so that this one binary is the
//! whole pool.

use std::process::ExitCode;

use clap::Parser;
use integration::demo::{Options, run};

fn main() -> ExitCode {
    if let Some(status) = integration::one_of_the_pool(std::env::args_os()) {
        return status;
    }
    let options = Options::parse();
    let done = std::env::current_exe()
        .map_err(anyhow::Error::from)
        .and_then(|program| run(&options, &program));
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
