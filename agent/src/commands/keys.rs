//! `agent keys status|rotate|backup|restore`: the key generations of this server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Subcommand;

use super::objects::{print, print_json};
use super::progress;
use crate::home::{Home, HomeError};
use crate::keys::{self, KeysStatus};
use crate::store::index;
use crate::store::rotation::Step;
use crate::vault::SystemEntropy;
use crate::vault::keyring::{FILE, backup};

/// Longest backup that is read.
const BACKUP_OCTETS_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agent keys status --dir /var/lib/hypernet/s2
  agent keys rotate --dir /var/lib/hypernet/s2
  agent keys backup --dir /var/lib/hypernet/s2 s2.keys
  agent keys restore --dir /var/lib/hypernet/s2 s2.keys")]
pub(super) struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the generations of keys, their ages, and how many rows of the index name each
    Status(Place),
    /// Begin a new generation and end the older ones: what was removed opens no more
    Rotate(Place),
    /// Save the live generations, sealed under the keyring's secret; the file ends after keys.max_age
    Backup(Saved),
    /// Bring a lost keyring back from a backup; the agent must not run
    Restore(Saved),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The agent's directory
    #[arg(long)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Saved {
    #[command(flatten)]
    place: Place,
    /// The backup
    file: PathBuf,
}

impl Keys {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::Status(place) => place.status(),
            Verb::Rotate(place) => place.rotate(),
            Verb::Backup(saved) => saved.backup(),
            Verb::Restore(saved) => saved.restore(),
        }
    }
}

/// Whether the directory is in use, by an agent that runs.
fn runs(error: &HomeError) -> bool {
    matches!(error, HomeError::Disk { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
}

impl Place {
    fn status(&self) -> anyhow::Result<()> {
        let home = Home::open(&self.dir)?;
        let status = match home.open_store() {
            Ok((store, _)) => keys::status(&store, home.config.keys.max_age, "the agent is stopped")?,
            Err(error) if runs(&error) => {
                let path = self.dir.join(keys::STATUS);
                let text = std::fs::read(&path)
                    .with_context(|| format!("read {}: has the agent just started? ask again", path.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?
            }
            Err(error) => return Err(error.into()),
        };
        match self.json {
            true => print_json(&status),
            false => show(&status),
        }
    }

    fn rotate(&self) -> anyhow::Result<()> {
        let home = Home::open(&self.dir)?;
        let max_age = home.config.keys.max_age;
        let (store, _) = match home.open_store() {
            Ok(opened) => opened,
            Err(error) if runs(&error) => return self.ask(),
            Err(error) => return Err(error.into()),
        };
        let bar = progress::things(0, "{bar:30} {pos} rows left {eta}");
        let step = keys::rotate_now(&store, max_age, |left| bar.set_position(left)).context("end key generations")?;
        bar.finish_and_clear();
        if let Step::Held(by) = &step {
            let by: Vec<String> = by.iter().map(ToString::to_string).collect();
            bail!(
                "an older generation stays: data keys of {} do not open; repair or delete these copies, and rotate again",
                by.join(", ")
            );
        }
        let status = keys::status(&store, max_age, "rotated")?;
        match self.json {
            true => print_json(&status),
            false => show(&status),
        }
    }

    /// The agent runs: it is asked by a file.
    fn ask(&self) -> anyhow::Result<()> {
        let path = self.dir.join(keys::REQUEST);
        std::fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
        match self.json {
            true => print_json(&serde_json::json!({ "asked": true })),
            false => print(format_args!(
                "the running agent is asked for a new generation: `agent keys status --dir {}` shows it\n",
                self.dir.display()
            )),
        }
    }
}

impl Saved {
    fn backup(&self) -> anyhow::Result<()> {
        let home = Home::open(&self.place.dir)?;
        refuse_token(&home)?;
        let secret = home.keyring_secret()?;
        // The file is replaced in one step, so it is whole also while the agent runs.
        let octets = std::fs::read(self.place.dir.join(FILE)).context("read the keyring")?;
        let expires = now_s().saturating_add(home.config.keys.max_age.as_secs());
        let backup = backup::make(&octets, &secret, home.config.name.as_str(), expires, &SystemEntropy)?;
        write_private(&self.file, &backup).with_context(|| format!("write {}", self.file.display()))?;
        let age = humantime_serde::re::humantime::format_duration(home.config.keys.max_age);
        match self.place.json {
            true => print_json(&serde_json::json!({ "expires_unix_s": expires })),
            false => print(format_args!(
                "saved; it can be restored for {age}. Destroy the file by then: whoever has it and the keyring's secret can \
                 open what was removed since\n"
            )),
        }
    }

    fn restore(&self) -> anyhow::Result<()> {
        let home = Home::open(&self.place.dir)?;
        refuse_token(&home)?;
        let secret = home.keyring_secret()?;
        let length = std::fs::metadata(&self.file)
            .with_context(|| format!("read {}", self.file.display()))?
            .len();
        if length > BACKUP_OCTETS_MAX {
            bail!("{} is no backup of a keyring: it is too long", self.file.display());
        }
        let octets = std::fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        let disk = home.disk()?;
        let named = index::named_generations(&disk).context("read which generations the index names")?;
        let server = home.config.name.as_str();
        let restored = backup::restore(disk.as_ref(), &octets, &secret, server, &named, &SystemEntropy)?;
        if self.place.json {
            return print_json(&restored);
        }
        print(format_args!(
            "restored generations: {}; the new current one is {}\n",
            list(&restored.generations),
            restored.current
        ))?;
        if !restored.left_out.is_empty() {
            print(format_args!(
                "not brought back, because nothing in the index is under them: {}\n",
                list(&restored.left_out)
            ))?;
        }
        for (generation, rows) in &restored.missing {
            print(format_args!(
                "{rows} copies are under generation {generation}, which began after the backup: they cannot be read here\n"
            ))?;
        }
        Ok(())
    }
}

fn refuse_token(home: &Home) -> anyhow::Result<()> {
    if home.config.keys.pkcs11.is_some() {
        bail!("the keys of this server are in a PKCS#11 token: use the token's own backup, and copy the files kek.N");
    }
    Ok(())
}

fn write_private(path: &Path, octets: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

fn list(generations: &[u32]) -> String {
    match generations {
        [] => "none".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

fn show(status: &KeysStatus) -> anyhow::Result<()> {
    let time = |seconds| humantime_serde::re::humantime::format_duration(Duration::from_secs(seconds));
    print(format_args!(
        "provider {}, {}; a generation ends after {}\n",
        status.provider,
        if status.up { "answers" } else { "does not answer" },
        time(status.max_age_s)
    ))?;
    for known in &status.generations {
        print(format_args!(
            "generation {}: {} old, {} rows\n",
            known.generation,
            time(known.age_s),
            known.rows
        ))?;
    }
    print(format_args!(
        "{} rows are to be wrapped anew; {} ({} ago)\n",
        status.rows_left,
        if status.step.is_empty() {
            "nothing to do"
        } else {
            &status.step
        },
        time(now_s().saturating_sub(status.unix_s))
    ))
}
