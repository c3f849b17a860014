//! `agent schema`: versions of properties, before objects meet them.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use zones::ObjectType;

use super::objects::{print, print_json};
use super::progress;
use crate::dry_run;
use crate::home::Home;
use crate::schema::check::{Class, Finding};
use crate::schema::dry_run::{DryRun, DryRunner};
use crate::schema::{Children, Limits, Schemas, Through, check, finals, skeleton};

/// Children of one command: it asks one thing at a time.
const CHILDREN: usize = 1;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agent schema check schemas
  agent schema new photo --dir schemas
  agent schema dry-run --dir /var/lib/hypernet/s2 --schemas schemas --expand-only")]
pub(super) struct Schema {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check schemas and steps: form, chains, ways back, compatibility, examples
    Check(Check),
    /// Write the files of a type's first or next version, to be filled in
    New(New),
    /// Try the steps on every object of this server and change none; the agent must not run (a running one tries `next_schemas`)
    DryRun(Dry),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent schema check schemas --json")]
struct Check {
    /// Directory of all types
    dir: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent schema new photo --dir schemas")]
struct New {
    /// The type
    #[arg(value_name = "TYPE")]
    kind: ObjectType,
    /// Directory of all types
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent schema dry-run --dir /var/lib/hypernet/s2 --schemas schemas")]
struct Dry {
    /// The agent's directory; no agent may be running in it
    #[arg(long)]
    dir: PathBuf,
    /// Directory of all types; without it, what `schemas` in agent.toml names
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
    /// Stop at contract steps, as an upgrade does before finalize
    #[arg(long)]
    expand_only: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Schema {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Check(check) => check.run(),
            Command::New(new) => new.run(),
            Command::DryRun(dry) => dry.run(),
        }
    }
}

impl Check {
    fn run(self) -> anyhow::Result<()> {
        let report = check(&self.dir, &Children::new(CHILDREN, Limits::default()))?;
        if self.json {
            print_json(&report)?;
        } else {
            for Finding {
                class,
                about,
                file,
                property,
                what,
            } in &report.findings
            {
                let class = match class {
                    Class::Fault => "fault",
                    Class::Unjudged => "unjudged",
                    Class::Note => "note",
                };
                let place = if property.is_empty() {
                    String::new()
                } else {
                    format!(" at {property}")
                };
                print(format_args!("{class}, {about}: {}{place}: {what}\n", file.display()))?;
            }
            for one in &report.types {
                print(format_args!(
                    "{}: {} versions; compatible over all of them: backward {:?}, forward {:?}, full {:?}\n",
                    one.kind,
                    one.versions.len(),
                    one.backward_transitive,
                    one.forward_transitive,
                    one.full_transitive
                ))?;
            }
        }
        if !report.is_sound() {
            bail!("schemas in {} have faults: the report names them", self.dir.display());
        }
        Ok(())
    }
}

impl New {
    fn run(self) -> anyhow::Result<()> {
        for path in skeleton::write(&self.dir, &self.kind)? {
            print(format_args!("{}\n", path.display()))?;
        }
        Ok(())
    }
}

impl Dry {
    fn run(self) -> anyhow::Result<()> {
        let report = self.report()?;
        if self.json {
            print_json(&report)?;
        } else {
            let DryRun {
                objects,
                upgraded,
                unchanged,
                by_versions,
                counts,
                quarantined,
                no_way_back,
                misfits,
                unreadable,
            } = &report;
            for (what, all) in [
                ("quarantined", quarantined),
                ("no way back", no_way_back),
                ("misfit", misfits),
                ("unreadable", unreadable),
            ] {
                for one in all {
                    print(format_args!(
                        "{what}: {} ({} {}): {}\n",
                        one.address, one.kind, one.schema, one.reason
                    ))?;
                }
            }
            for (way, count) in by_versions {
                print(format_args!("{way}: {count}\n"))?;
            }
            print(format_args!(
                "{objects} objects, {upgraded} upgraded, {unchanged} unchanged, {} quarantined, {} without way back, {} unreadable; {} misfits\n",
                counts.quarantined, counts.no_way_back, counts.unreadable, counts.misfits
            ))?;
        }
        if !report.is_clear() {
            bail!(
                "objects stand in an upgrade's way: the report names them; mend the steps, or waive the objects by name"
            );
        }
        Ok(())
    }

    fn report(&self) -> anyhow::Result<DryRun> {
        let home = Home::open(&self.dir)?;
        let schemas = match &self.schemas {
            Some(dir) => Schemas::load(dir)?,
            None if home.config.schemas.is_none() => {
                bail!("there are no schemas to try: name their directory by --schemas, or by `schemas` in agent.toml")
            }
            None => home.schemas()?,
        };
        if !self.dir.join("index.redb").exists() {
            bail!("{} has no index: there are no objects to try", self.dir.display());
        }
        let finals = finals::read(&self.dir).context("read which versions are final")?;
        let (store, entries) = home.open_store()?;
        let owned = entries.iter().filter(|entry| entry.journal.may_own()).count();
        let bar = progress::things(owned as u64, "{bar:30} {pos}/{len} objects {eta}");
        let children = Children::new(CHILDREN, Limits::default());
        let mut dry = DryRunner {
            schemas: &schemas,
            runner: &children,
            through: if self.expand_only {
                Through::Expand
            } else {
                Through::All
            },
            finals,
            // Whoever asks for it sees all.
            listed_max: usize::MAX,
            report: DryRun::default(),
        };
        dry_run::all(&mut dry, &store, &entries, || bar.inc(1))?;
        bar.finish_and_clear();
        Ok(dry.report)
    }
}
