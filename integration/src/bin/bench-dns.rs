//! `bench-dns`: our librarian against Knot, NSD and BIND.

use std::process::ExitCode;

use clap::Parser;
use integration::bench::{DnsOptions, dns_helper, run_dns};

fn main() -> ExitCode {
    if let Some(status) = integration::one_of_the_pool(std::env::args_os()) {
        return status;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = dns_helper(&words).unwrap_or_else(|| {
        let options = DnsOptions::parse();
        let program = std::env::current_exe().map_err(anyhow::Error::from);
        program.and_then(|program| run_dns(&options, &program))
    });
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
