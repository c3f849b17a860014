//! `simulate`: runs whole pools in virtual time, each from one seed, and looks for a broken invariant.

use std::process::ExitCode;

use clap::Parser;
use integration::simulate::cli::{Options, simulate};

fn main() -> ExitCode {
    simulate(&Options::parse())
}
