//! `bench-dns`: our librarian against Knot and BIND.

use std::process::ExitCode;

use clap::Parser;
use integration::bench::{DnsOptions, run_dns};

fn main() -> ExitCode {
    if let Some(status) = integration::one_of_the_pool(std::env::args_os()) {
        return status;
    }
    let options = DnsOptions::parse();
    let done = std::env::current_exe()
        .map_err(anyhow::Error::from)
        .and_then(|program| run_dns(&options, &program));
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
