//! `agent check`: verifies every copy on this server.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::objects::{print, print_json};
use super::progress;
use crate::home::Home;
use crate::store::check::check;
use crate::store::scrub::{Damage, GoOn};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent check --dir /var/lib/hypernet/s2")]
pub(super) struct Check {
    /// The agent's directory; no agent may be running in it
    #[arg(long)]
    dir: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let home = Home::open(&self.dir)?;
        let disk = home.disk()?;
        let vault = home.vault(&disk)?;
        let bar = progress::things(0, "{bar:30} {pos}/{len} copies {eta}");
        let report = check(disk, vault, &home.store_settings(), |report, total| {
            bar.set_length(total);
            bar.set_position(report.copies);
            GoOn::Yes
        })
        .context("check the copies on this server")?;
        bar.finish_and_clear();
        if self.json {
            print_json(&report)?;
        } else {
            for row in &report.rows {
                print(format_args!("index: {row}\n"))?;
            }
            for damage in &report.damaged {
                let Damage {
                    address,
                    seq,
                    part,
                    what,
                } = damage;
                print(format_args!("{address}, {part} of entry {seq}: {what}\n"))?;
            }
            print(format_args!(
                "{} copies read, {} octets, {} damaged\n",
                report.copies,
                report.octets,
                report.damaged.len()
            ))?;
        }
        if report.is_sound() {
            Ok(())
        } else {
            bail!("copies on this server are damaged: the report names them, and other holders may have good ones")
        }
    }
}
