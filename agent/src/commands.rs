//! The command line: `agent join|run|supervise|install|get|put|stat|rm|ls|renew|check|keys|schema`.
//!
//! Exit status 0 done, 1 failed, 2 wrong usage. What a command is asked for goes to standard output, everything else to
//! standard error. Long work shows its progress on a terminal and stays silent in a pipe.

mod address;
mod check;
pub(crate) mod files;
mod install;
mod join;
mod keys;
mod log;
mod objects;
mod progress;
mod put;
mod renew;
mod schema;
mod schema_step;
mod supervise;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::client::{Client, Settings};

/// Keeps objects on this server, serves them and moves them; and reads and writes objects as an application.
#[derive(Debug, Parser)]
#[command(name = "agent", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Form of the log on standard error; RUST_LOG says how much of it
    #[arg(long, global = true, value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring this server into a pool
    Join(join::Join),
    /// Keep, serve and move objects until SIGTERM
    Run(Run),
    /// Run the agent as a child, and install what it asks for
    Supervise(supervise::Supervise),
    /// Install the release that the agent has asked for
    Install(install::Install),
    /// Read an object
    Get(objects::Get),
    /// Write an object, or make it
    Put(put::Put),
    /// Show what an object is, without reading it
    Stat(objects::Stat),
    /// Delete an object, for ever: its address is not used again
    Rm(objects::Rm),
    /// List objects
    Ls(objects::Ls),
    /// Renew the certificate of an application
    Renew(renew::Renew),
    /// Verify every copy on this server; beside a running agent, tell what its scrub has found
    Check(check::Check),
    /// The generations of keys on this server: how they stand, new ones, backups
    Keys(keys::Keys),
    /// Check schemas, write the next one, try its steps on the objects here
    Schema(schema::Schema),
    /// Run schema steps for the agent that starts this
    #[command(name = crate::schema::child::COMMAND)]
    SchemaStep(schema_step::SchemaStep),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent run --dir /var/lib/hypernet/s2")]
struct Run {
    /// Directory that `agent join` made
    #[arg(long)]
    dir: PathBuf,
}

/// Who asks: the files of a client.
#[derive(Debug, clap::Args)]
struct As {
    /// Directory of the client's files, as `librarian client add` wrote them
    #[arg(long = "client", value_name = "DIR", env = "HYPERNET_CLIENT")]
    dir: PathBuf,
}

impl As {
    fn client(&self) -> anyhow::Result<Client> {
        let settings = Settings::read(&self.dir).context("read the client's files")?;
        Ok(Client::new(settings)?)
    }
}

/// Runs one command line. `args` has no name of a program in front.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(std::iter::once(OsString::from("agent")).chain(args)) {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let serves = matches!(
        cli.command,
        Command::Run(_) | Command::Supervise(_) | Command::Install(_)
    );
    log::begin(cli.log_format, serves);
    // One provider of primitives in the whole process. It may be there already.
    drop(rustls::crypto::ring::default_provider().install_default());
    match cli.command.run(cli.log_format) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self, format: log::Format) -> anyhow::Result<ExitCode> {
        let done = match self {
            Command::Supervise(supervise) => return supervise.run(format),
            Command::Install(install) => return install.run(),
            Command::Join(join) => asynchronous(join.run()),
            Command::Run(run) => crate::daemon::run(&run.dir),
            Command::Get(get) => asynchronous(get.run()),
            Command::Put(put) => asynchronous(put.run()),
            Command::Stat(stat) => asynchronous(stat.run()),
            Command::Rm(rm) => asynchronous(rm.run()),
            Command::Ls(ls) => asynchronous(ls.run()),
            Command::Renew(renew) => asynchronous(renew.run()),
            Command::Check(check) => hardened(|| check.run()),
            Command::Keys(keys) => hardened(|| keys.run()),
            Command::Schema(schema) => schema.run(),
            Command::SchemaStep(step) => step.run(),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Runs what opens the keys of a server: like the agent, it leaves no core.
fn hardened(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    crate::vault::harden::forbid_core_dumps().context("forbid core dumps")?;
    work()
}

fn asynchronous(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let done = runtime.block_on(work);
    // A read of standard input may never end.
    runtime.shutdown_background();
    done
}

/// An error with its causes, each said once.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let more = cause.to_string();
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains(&format!("agent {}", command.get_name())),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn wrong_usage_ends_with_2_and_help_with_0() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from));
        assert_eq!(format!("{:?}", run(&["get"])), format!("{:?}", ExitCode::from(2)));
        assert_eq!(
            format!("{:?}", run(&["ls", "3..1"])),
            format!("{:?}", ExitCode::from(2))
        );
        assert_eq!(format!("{:?}", run(&["--help"])), format!("{:?}", ExitCode::SUCCESS));
    }
}
