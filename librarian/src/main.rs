//! The librarian's program; [`librarian::commands`] is the whole of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    librarian::commands::run(std::env::args_os().skip(1))
}
