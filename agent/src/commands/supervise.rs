//! `agent supervise`: a parent for `agent run` where there is no systemd.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;

use super::log;
use crate::install::Settings;
use crate::install::supervise::{Supervised, supervise};

/// The word of this command.
const WORD: &str = "supervise";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "For containers and tests. Runs `agent run --dir DIR` as its child, installs what that one asks for, and \
ends with its status. Without --config nothing is installed.

Example:
  agent supervise --dir /var/lib/hypernet/s2 --config /etc/hypernet/agent-install.toml"
)]
pub(super) struct Supervise {
    /// The agent's directory
    #[arg(long)]
    dir: PathBuf,
    /// What may be installed, and by which commands
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Supervise {
    pub(super) fn run(self, format: log::Format) -> anyhow::Result<ExitCode> {
        let settings = self.config.as_deref().map(Settings::read).transpose()?;
        let format = format.to_possible_value().expect("no form is hidden");
        supervise(Supervised {
            dir: self.dir,
            settings,
            program: own_program()?,
            rest: vec!["--log-format".into(), format.get_name().into()],
        })
    }
}

/// This program with the words before its command: another program may have `agent` among its own commands.
fn own_program() -> anyhow::Result<Vec<OsString>> {
    // Asked for once: when another file has taken this one's place, its path leads to that.
    let program = std::env::current_exe().context("find this program")?;
    let words = std::env::args_os().skip(1);
    let words = words.take_while(|word| word != WORD && !word.to_string_lossy().starts_with('-'));
    Ok(std::iter::once(program.into_os_string()).chain(words).collect())
}
