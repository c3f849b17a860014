//! `agent check`: verifies every copy on this server, or tells what the scrub of a running agent has found.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use super::address::Target;
use super::objects::{print, print_json};
use super::progress;
use crate::config::Octets;
use crate::home::{Home, HomeError};
use crate::scrub::{Pace, State};
use crate::store::Damage;
use crate::store::check::check;
use crate::store::scrub::GoOn;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with 0 if every copy is as it was written, 1 if not, or if it could not be told.\n\
                  Beside a running agent, which reads its copies by itself, it tells what that one has found.\n\n\
                  Examples:\n  agent check --dir /var/lib/hypernet/s2\n  \
                  agent check --dir /var/lib/hypernet/s2 --rate 50MiB\n  \
                  agent check --dir /var/lib/hypernet/s2 --address 3.1.2.1.023"
)]
pub(super) struct Check {
    /// The agent's directory
    #[arg(long)]
    dir: PathBuf,
    /// Read the copies of this object alone
    #[arg(long)]
    address: Option<Target>,
    /// Read at most so much a second, such as 50MiB; as fast as it goes without it
    #[arg(long)]
    rate: Option<Octets>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let home = Home::open(&self.dir)?;
        let disk = match home.disk() {
            Err(HomeError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {
                return self.running();
            }
            disk => disk?,
        };
        let vault = home.vault(&disk)?;
        let bar = progress::things(
            0,
            "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}",
        );
        let mut pace = Pace::new(self.rate.map_or(0, |rate| rate.0), || 0);
        let report = check(
            disk,
            vault,
            &home.store_settings(),
            self.address.as_ref().map(|target| &target.0),
            |report, octets, (copies_total, octets_total)| {
                bar.set_length(octets_total);
                bar.set_position(report.octets);
                bar.set_message(format!("{}/{copies_total} copies", report.copies));
                std::thread::sleep(pace.wait(Instant::now(), octets));
                GoOn::Yes
            },
        );
        bar.finish_and_clear();
        let report = report.context("check the copies on this server")?;
        if self.json {
            print_json(&report)?;
        } else {
            for row in &report.rows {
                print(format_args!("index: {row}\n"))?;
            }
            tell(&report.damaged)?;
            print(format_args!(
                "{} copies read, {} octets, {} damaged\n",
                report.copies,
                report.octets,
                report.damaged.len()
            ))?;
        }
        if let Some(Target(address)) = self.address.filter(|_| report.copies == 0 && report.is_sound()) {
            bail!("no copy of {address} is on this server: `dig TXT {address}.obj.DOMAIN` tells who owns it");
        }
        if report.unread > 0 {
            bail!(
                "the key provider does not answer: {} parts were not read",
                report.unread
            );
        }
        if !report.is_sound() {
            bail!("copies on this server are damaged: the report names them, and other holders may have good ones");
        }
        Ok(())
    }

    /// Tells what the running agent's own scrub has found.
    fn running(self) -> anyhow::Result<()> {
        let state = State::read(&self.dir).unwrap_or_default();
        if self.json {
            print_json(&state)?;
        } else {
            tell(&state.damaged)?;
            print(format_args!("{}\n", story(&state, SystemTime::now())))?;
        }
        let dir = Path::display(&self.dir);
        if !state.damaged.is_empty() {
            bail!(
                "copies on this server are set aside as damaged: write these objects anew, or restore them; to read all copies \
                 now, stop the agent and run `agent check --dir {dir}` again"
            );
        }
        if state.finished == 0 || self.address.is_some() || self.rate.is_some() {
            bail!(
                "an agent runs in {dir} and reads its copies by itself (scrub.interval in agent.toml): to read them now, stop it \
                 and run `agent check` again"
            );
        }
        Ok(())
    }
}

fn tell(damaged: &[Damage]) -> anyhow::Result<()> {
    for damage in damaged {
        let Damage {
            address,
            seq,
            part,
            what,
            ..
        } = damage;
        print(format_args!("{address}, {part} of entry {seq}: {what}\n"))?;
    }
    Ok(())
}

/// What a running agent has read so far.
fn story(state: &State, now: SystemTime) -> String {
    let finished = UNIX_EPOCH.checked_add(Duration::from_secs(state.finished));
    let last = match finished.and_then(|finished| now.duration_since(finished).ok()) {
        Some(ago) if state.finished > 0 => {
            let ago = Duration::from_secs(ago.as_secs());
            let ago = humantime_serde::re::humantime::format_duration(ago);
            format!("its last whole pass ended {ago} ago")
        }
        Some(_) | None => "it has ended no pass yet".to_owned(),
    };
    let done = u64::from(state.slice) * 100 / u64::from(crate::store::scrub::SLICES);
    let under_way = match state.slice {
        0 => String::new(),
        _ => format!(", one is under way and has come to about {done} %"),
    };
    format!(
        "the running agent reads its copies by itself: {last}{under_way}; {} copies read, {} octets, {} damaged",
        state.copies,
        state.octets,
        state.damaged.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn story_tells_how_old_the_last_pass_is_and_how_far_the_next_one_has_come() {
        let mut state = State::default();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(story(&state, now).contains("no pass yet; 0 copies"));
        state.finished = 1_000_000 - 3600;
        state.slice = 128;
        let told = story(&state, now);
        assert!(
            told.contains("ended 1h ago, one is under way and has come to about 50 %"),
            "{told}"
        );
    }
}
