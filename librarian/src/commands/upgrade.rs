//! `librarian upgrade` and `explain`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use zones::Address;

use super::text::{columns, octets};
use crate::control::words::{Made, Request};
use crate::control::{self, AskError};
use crate::pool::Ask;
use crate::pool::preflight::Finding;
use crate::pool::status::{Explained, ServerStatus, Status};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a librarian that went away is waited for: a restart is shorter.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// What is done with an upgrade.
#[derive(Debug, Subcommand)]
pub(super) enum UpgradeCommand {
    /// Whether the pool is ready for a release; changes nothing.
    #[command(after_help = "Example:
  librarian upgrade check --to 2.0

Exit status 1 if something is wrong.")]
    Check {
        #[command(flatten)]
        what: What,
        /// Print JSON: an array of findings.
        #[arg(long)]
        json: bool,
    },
    /// Bring server after server to a release; reads and writes go on.
    #[command(after_help = "Example:
  librarian upgrade start --to 2.0 --level 2
  librarian upgrade start --to 2.0 --dry-run

Follows the upgrade until a person has to decide: `finalize` makes it final, `abort` goes back. Interrupting the command does not
stop the upgrade.")]
    Start {
        #[command(flatten)]
        what: What,
        /// Print what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Return at once; `librarian upgrade status` shows how far it is.
        #[arg(long)]
        detach: bool,
        /// Print one JSON object at the end.
        #[arg(long)]
        json: bool,
    },
    /// How the upgrade stands.
    #[command(after_help = "Example:
  librarian upgrade status --watch
  librarian upgrade status --json | jq -r .state")]
    Status {
        /// Show it until a person has to decide, or it is over.
        #[arg(long)]
        watch: bool,
        /// Print one JSON object; with --watch, one line each second.
        #[arg(long)]
        json: bool,
    },
    /// Move nothing and install nothing until `resume`; what is on its way arrives.
    #[command(after_help = "Example:
  librarian upgrade pause")]
    Pause(Json),
    /// Go on after `pause`, or after what halted the upgrade was put right.
    #[command(after_help = "Example:
  librarian upgrade resume")]
    Resume(Json),
    /// Run the rotation backwards: every server at the old release, every object intact. Until finalize.
    #[command(after_help = "Example:
  librarian upgrade abort
  librarian upgrade status --watch")]
    Abort(Json),
    /// Make it final: the old release does not come back, contract steps and the new level begin.
    #[command(after_help = "Example:
  librarian upgrade finalize
  librarian upgrade finalize --waive 3.1.2.1.023 --waive 3.1.4

One way. Refused while objects are on the quarantine list that are not waived.")]
    Finalize {
        /// An object of the quarantine list that may stay as it is; may be given several times.
        #[arg(long, value_name = "ADDRESS")]
        waive: Vec<Address>,
        #[command(flatten)]
        json: Json,
    },
    /// The objects that a schema step failed on, and why.
    #[command(after_help = "Example:
  librarian upgrade quarantine")]
    Quarantine(Json),
}

/// Form of the answer.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Json {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which release, and how.
#[derive(Args, Clone, Debug)]
pub(super) struct What {
    /// The release that every server is to run.
    #[arg(long, value_name = "RELEASE")]
    to: String,
    /// Level of objects after finalize; as now unless said.
    #[arg(long)]
    level: Option<u8>,
    /// Move objects back to the server that they came from: twice the moves, and every object at home.
    #[arg(long, value_name = "HOME", value_parser = ["home"])]
    refill: Option<String>,
    /// Room that a server must have for what comes, in percent of it.
    #[arg(long, default_value_t = Ask::default().room_percent, value_parser = clap::value_parser!(u64).range(100..=1000))]
    room_percent: u64,
    /// How long the upgraded pool is watched before it may be finalized, such as 10m.
    #[arg(long, default_value = "10m", value_parser = seconds)]
    soak: u64,
    /// How often the install on one server may fail before the pool halts.
    #[arg(long, default_value_t = Ask::default().attempts, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// How long a server may take to install and come back before it counts as failed.
    #[arg(long, default_value = "15m", value_parser = seconds)]
    install_wait: u64,
    /// How long a gate waits for what should be there at once before it halts the pool.
    #[arg(long, default_value = "5m", value_parser = seconds)]
    gate_wait: u64,
    /// Failed requests, of all servers together, that a step may add.
    #[arg(long, default_value_t = Ask::default().errors_max)]
    errors_max: u64,
    /// How slow clients may be served, in percent of the 99th percentile before.
    #[arg(long, default_value_t = Ask::default().slow_percent, value_parser = clap::value_parser!(u64).range(100..))]
    slow_percent: u64,
    /// Octets a second that each server writes anew after finalize, so that objects that rest come to what is asked for.
    #[arg(long, value_name = "OCTETS", default_value_t = 20 << 20)]
    sweep: u64,
    /// Sweep nothing: objects come to what is asked for as they move.
    #[arg(long, conflicts_with = "sweep")]
    no_sweep: bool,
}

fn seconds(text: &str) -> Result<u64, String> {
    humantime_serde::re::humantime::parse_duration(text)
        .map(|duration| duration.as_secs())
        .map_err(|error| error.to_string())
}

impl What {
    fn ask(&self) -> Ask {
        Ask {
            level: self.level,
            refill_home: self.refill.is_some(),
            room_percent: self.room_percent,
            soak_s: self.soak,
            attempts: self.attempts,
            install_s: self.install_wait,
            gate_s: self.gate_wait,
            errors_max: self.errors_max,
            slow_percent: self.slow_percent,
            sweep: (!self.no_sweep).then_some(self.sweep),
        }
    }
}

pub(super) fn run(dir: &Path, command: UpgradeCommand) -> anyhow::Result<()> {
    match command {
        UpgradeCommand::Check { what, json } => check(dir, &what, json),
        UpgradeCommand::Start {
            what,
            dry_run: true,
            json,
            ..
        } => check(dir, &what, json),
        UpgradeCommand::Start { what, detach, json, .. } => start(dir, &what, detach, json),
        UpgradeCommand::Status { watch, json } => status(dir, watch, json),
        UpgradeCommand::Pause(json) => say(dir, &Request::UpgradePause, json),
        UpgradeCommand::Resume(json) => say(dir, &Request::UpgradeResume, json),
        UpgradeCommand::Abort(json) => say(dir, &Request::UpgradeAbort, json),
        UpgradeCommand::Finalize { waive, json } => finalize(dir, &waive, json),
        UpgradeCommand::Quarantine(json) => super::quarantine::list(dir, json.json),
    }
}

pub(super) fn explain(dir: &Path, what: &str, json: bool) -> anyhow::Result<()> {
    let request = Request::Explain { what: what.to_owned() };
    let explained: Explained = control::ask(dir, &request)?;
    match json {
        true => super::say_json(&explained),
        false => super::say(&explained.to_string()),
    }
}

fn check(dir: &Path, what: &What, json: bool) -> anyhow::Result<()> {
    let request = Request::UpgradeCheck {
        to: what.to.clone(),
        ask: what.ask(),
    };
    let findings: Vec<Finding> = control::ask_patiently(dir, &request)?;
    match json {
        true => super::say_json(&findings)?,
        false => findings
            .iter()
            .try_for_each(|finding| super::say(&finding.to_string()))?,
    }
    let faults = findings.iter().filter(|finding| finding.is_fault).count();
    ensure!(faults == 0, "the pool is not ready for {}: {faults} faults", what.to);
    Ok(())
}

fn start(dir: &Path, what: &What, detach: bool, json: bool) -> anyhow::Result<()> {
    let request = Request::UpgradeStart {
        to: what.to.clone(),
        ask: what.ask(),
    };
    let made: Made = control::ask_patiently(dir, &request)?;
    if detach {
        return match json {
            true => super::say_json(&made),
            false => super::say(&format!(
                "the upgrade to {} begins with plan {} ({}); `librarian upgrade status` shows how far it is",
                what.to, made.plan, made.goal
            )),
        };
    }
    let began = Instant::now();
    let last = watch(dir, false)?;
    let seconds = began.elapsed().as_secs_f64();
    match json {
        true => super::say_json(&json!({ "seconds": seconds, "status": last }))?,
        false => super::say(&format!("{} after {seconds:.1} s", describe(&last)))?,
    }
    fails_where_a_person_is_needed(&last)
}

fn say(dir: &Path, request: &Request, json: Json) -> anyhow::Result<()> {
    let made: Made = control::ask_patiently(dir, request)?;
    match json.json {
        true => super::say_json(&made),
        false => super::say(&format!("plan {}: {}", made.plan, made.goal)),
    }
}

fn finalize(dir: &Path, waive: &[Address], json: Json) -> anyhow::Result<()> {
    let mut waived = 0;
    if !waive.is_empty() {
        let listed = super::quarantine::read(dir)?;
        for address in waive {
            ensure!(
                listed.iter().any(|object| object.address == address.to_string()),
                "{address} is not on the quarantine list: `librarian upgrade quarantine` shows it"
            );
        }
        let mut waive = waive.to_vec();
        waive.sort();
        waive.dedup();
        waived = waive.len() as u64;
    }
    say(dir, &Request::UpgradeFinalize { waived }, json)
}

fn status(dir: &Path, watched: bool, json: bool) -> anyhow::Result<()> {
    if watched {
        let last = watch(dir, json)?;
        if !json {
            super::say(&table(&last))?;
        }
        return fails_where_a_person_is_needed(&last);
    }
    let status: Status = control::ask(dir, &Request::UpgradeStatus)?;
    match json {
        true => super::say_json(&status),
        false => super::say(&table(&status)),
    }
}

/// A gate that failed is a failure of the command that followed it.
fn fails_where_a_person_is_needed(status: &Status) -> anyhow::Result<()> {
    match &status.halted {
        Some(why) => bail!("the upgrade is halted: {why}"),
        None => Ok(()),
    }
}

/// Follows the upgrade until nothing more happens by itself, over restarts of the librarian too.
fn watch(dir: &Path, lines_of_json: bool) -> anyhow::Result<Status> {
    let mut display = if lines_of_json {
        Display::Json
    } else if std::io::stderr().is_terminal() {
        Display::Bars(Bars::default())
    } else {
        Display::Lines(String::new())
    };
    let mut most: BTreeMap<String, u64> = BTreeMap::new();
    let mut away: Option<Instant> = None;
    let mut before: Option<(Instant, Status)> = None;
    loop {
        match control::ask::<Status>(dir, &Request::UpgradeStatus) {
            Ok(status) => {
                away = None;
                for server in &status.servers {
                    let known = most.entry(server.name.clone()).or_default();
                    *known = match server.role.as_str() {
                        "cordoned" | "draining" => server.objects.max(*known),
                        _ => server.objects,
                    };
                }
                let rate = before.as_ref().and_then(|(at, old)| rate(old, &status, at.elapsed()));
                display.show(&status, &most, rate)?;
                if status.is_still() {
                    display.end();
                    return Ok(status);
                }
                before = Some((Instant::now(), status));
            }
            Err(error @ (AskError::NotRunning { .. } | AskError::Broken { .. })) => {
                if away.get_or_insert_with(Instant::now).elapsed() > RESTART_MAX {
                    return Err(error.into());
                }
            }
            Err(error @ AskError::Refused(_)) => return Err(error.into()),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Objects a second that leave draining servers.
fn rate(old: &Status, new: &Status, time: Duration) -> Option<f64> {
    let gone: u64 = new
        .servers
        .iter()
        .filter(|server| server.role == "draining")
        .filter_map(|server| {
            let before = old.servers.iter().find(|old| old.name == server.name)?;
            Some(before.objects.saturating_sub(server.objects))
        })
        .sum();
    let seconds = time.as_secs_f64();
    (seconds > 0.0).then(|| gone as f64 / seconds)
}

/// Shows an upgrade on standard error: bars on a terminal, plain lines in a pipe; or JSON on standard output.
enum Display {
    Bars(Bars),
    Lines(String),
    Json,
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    head: Option<ProgressBar>,
    servers: BTreeMap<String, ProgressBar>,
}

impl Display {
    fn show(&mut self, status: &Status, most: &BTreeMap<String, u64>, rate: Option<f64>) -> anyhow::Result<()> {
        match self {
            Display::Json => super::say(&serde_json::to_string(status)?),
            Display::Lines(last) => {
                let line = line(status);
                if *last != line {
                    eprintln!("{line}");
                    *last = line;
                }
                Ok(())
            }
            Display::Bars(bars) => {
                bars.show(status, most, rate);
                Ok(())
            }
        }
    }

    fn end(&self) {
        match self {
            Display::Bars(bars) => drop(bars.all.clear()),
            Display::Lines(_) | Display::Json => {}
        }
    }
}

impl Bars {
    fn show(&mut self, status: &Status, most: &BTreeMap<String, u64>, rate: Option<f64>) {
        let head = self.head.get_or_insert_with(|| {
            let head = self.all.add(ProgressBar::new_spinner());
            head.set_style(ProgressStyle::with_template("{msg}").expect("the template is well formed"));
            head
        });
        head.set_message(describe(status));
        for server in &status.servers {
            let bar = self.servers.entry(server.name.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(0));
                let style = ProgressStyle::with_template("  {prefix:34} [{bar:24}] {pos:>8} left  {wide_msg}");
                bar.set_style(style.expect("the template is well formed"));
                bar
            });
            let length = most.get(&server.name).copied().unwrap_or(0).max(1);
            bar.set_prefix(format!(
                "{:8} {:12} {}",
                server.name,
                server.role,
                server.release.as_deref().unwrap_or("-")
            ));
            bar.set_length(length);
            bar.set_position(server.objects);
            bar.set_message(state(server, rate));
        }
    }
}

/// What one server does, for the end of its line.
fn state(server: &ServerStatus, rate: Option<f64>) -> String {
    let mut parts = Vec::new();
    if server.role == "draining"
        && let Some(rate) = rate.filter(|rate| *rate >= 1.0)
    {
        let left = Duration::from_secs((server.objects as f64 / rate) as u64);
        parts.push(format!(
            "{rate:.0} objects/s, {} left, {} to go",
            octets(server.bytes),
            humantime_serde::re::humantime::format_duration(left)
        ));
    }
    if let Some((read, all)) = server.read_back {
        parts.push(format!("{read} of {all} read back"));
    }
    parts.extend(server.waits.first().cloned());
    if parts.is_empty() && server.at_goal {
        parts.push("upgraded".to_owned());
    }
    parts.join("; ")
}

fn describe(status: &Status) -> String {
    match status.state.as_str() {
        "idle" => "no upgrade has been made".to_owned(),
        state => format!(
            "upgrade from {} to {}: {state}, plan {} ({})",
            status.from, status.to, status.plan, status.goal
        ),
    }
}

/// One line that changes only when something happens.
fn line(status: &Status) -> String {
    let servers: Vec<String> = status
        .servers
        .iter()
        .map(|server| {
            let release = server.release.as_deref().unwrap_or("-");
            match server.role.as_str() {
                "draining" => format!("{} {release} draining, {} left", server.name, server.objects),
                role => format!("{} {release} {role}", server.name),
            }
        })
        .collect();
    let wait = status.waits.first().map(|wait| format!("; {wait}")).unwrap_or_default();
    format!("{}: {}{wait}", status.state, servers.join(", "))
}

fn table(status: &Status) -> String {
    let mut lines = vec![describe(status)];
    lines.extend(status.halted.iter().map(|why| format!("halted: {why}")));
    let head = [
        "SERVER",
        "ROLE",
        "RELEASE",
        "OBJECTS",
        "BYTES",
        "KEPT",
        "READ BACK",
        "INSTALL",
        "P99",
    ];
    lines.extend(columns(head, status.servers.iter().map(row)));
    lines.push(format!(
        "objects that the old release could not read: {}; still to be brought to what is asked for: {}; quarantined: {}",
        status.unreadable_by_old_release, status.resting, status.quarantined
    ));
    lines.extend(status.waits.iter().map(|wait| format!("waits: {wait}")));
    lines.join("\n")
}

fn row(server: &ServerStatus) -> [String; 9] {
    let role = match &server.into {
        Some(into) if server.role == "draining" => format!("draining to {into}"),
        Some(_) | None => server.role.clone(),
    };
    [
        server.name.clone(),
        role,
        server.release.clone().unwrap_or_else(|| "-".to_owned()),
        server.objects.to_string(),
        octets(server.bytes),
        server.retired.to_string(),
        server
            .read_back
            .map_or_else(|| "-".to_owned(), |(read, all)| format!("{read}/{all}")),
        server.install.clone().unwrap_or_else(|| "-".to_owned()),
        match server.p99_us {
            0 => "-".to_owned(),
            us => format!("{:.1} ms", us as f64 / 1000.0),
        },
    ]
}
