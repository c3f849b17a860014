//! `agent`: the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::commands::run(std::env::args_os().skip(1))
}
