//! The system as a whole: real processes on loopback, objects that look like real ones, the demo, whole-system tests
//! and measurements against peers.
//!
//! Nothing here is used by the agent or the librarian.

pub mod bench;
pub mod chaos;
pub mod demo;
pub mod harness;
pub mod objects;
pub mod simulate;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the librarian's or the agent's command line if that is what the first word asks for: every binary of this crate
/// can be the whole pool. `args` begin with the program's name.
#[must_use]
pub fn one_of_the_pool(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    match args.next()?.to_str()? {
        "librarian" => Some(librarian::commands::run(args)),
        "agent" => Some(agent::commands::run(args)),
        // What an agent starts its own program with.
        agent::schema::child::COMMAND => {
            let command = std::iter::once(OsString::from(agent::schema::child::COMMAND));
            Some(agent::commands::run(command.chain(args)))
        }
        _ => None,
    }
}
