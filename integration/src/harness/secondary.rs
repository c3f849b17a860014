//! Other people's name servers as secondaries of a pool, set up the way an operator does it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::pool::Pool;
use super::ports::free_port;
use super::process::spawn;
use super::tools::dig;
use super::until::until;

/// How long it may take to take what it was told of.
const FOLLOW_WAIT: Duration = Duration::from_secs(90);

/// The key that the librarian's own zones are taken with, to compare: it counts as nobody else's question.
const COMPARE: &str = "compare";

/// Which server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SecondaryKind {
    /// Knot DNS, `knotd`.
    Knot,
    /// NSD, `nsd`.
    Nsd,
    /// BIND, `named`.
    Bind,
}

impl SecondaryKind {
    /// All of them.
    pub const ALL: [SecondaryKind; 3] = [SecondaryKind::Knot, SecondaryKind::Nsd, SecondaryKind::Bind];

    /// What it is called here, and in `librarian secondary config`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SecondaryKind::Knot => "knot",
            SecondaryKind::Nsd => "nsd",
            SecondaryKind::Bind => "bind",
        }
    }
}

/// A running secondary. Dropping it ends it.
#[derive(Debug)]
pub struct Secondary {
    kind: SecondaryKind,
    dir: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
}

/// How it stands with one zone, as `librarian secondary list --json` says.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ZoneStanding {
    /// `obj`, `tree` or `domain`.
    pub zone: String,
    /// The librarian's serial.
    pub ours: u32,
    /// The serial that it is known to have.
    pub has: Option<u32>,
    /// `current`, `behind`, `expired` or `unknown`.
    pub state: String,
    /// How often what happened.
    pub counts: TransferCounts,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct TransferCounts {
    /// Whole zones.
    pub whole: u64,
    /// Differences.
    pub difference: u64,
    /// Transfers that ended early.
    pub failed: u64,
}

#[derive(Deserialize)]
struct Standing {
    name: String,
    zones: Vec<ZoneStanding>,
}

impl Secondary {
    /// Adds it to the pool and starts it; it takes its zones by itself. It is called after its kind.
    ///
    /// # Errors
    ///
    /// When it is not installed, or a command fails.
    pub fn start(pool: &Pool, kind: SecondaryKind) -> Result<Secondary> {
        let port = free_port()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let dir = pool.dir().join("secondary").join(kind.name());
        std::fs::create_dir_all(dir.join("db")).with_context(|| format!("make {}", dir.display()))?;
        let at = address.to_string();
        pool.librarian(&["secondary", "add", kind.name(), "--address", &at])?;
        if !pool.key(COMPARE).exists() {
            pool.librarian(&["secondary", "add", COMPARE])?;
        }
        let lines = pool.librarian(&["secondary", "config", kind.name(), kind.name()])?;
        let text = configuration(kind, &dir.display().to_string(), port, &lines.stdout);
        std::fs::write(dir.join("configuration"), text).context("write a secondary's configuration")?;
        let mut secondary = Secondary {
            kind,
            dir,
            address,
            child: None,
        };
        secondary.run()?;
        Ok(secondary)
    }

    /// Starts it again.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub fn run(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .context("open a secondary's log")?;
        let (program, arguments): (&str, &[&str]) = match self.kind {
            SecondaryKind::Knot => ("knotd", &["-c"]),
            SecondaryKind::Nsd => ("nsd", &["-d", "-c"]),
            SecondaryKind::Bind => ("named", &["-g", "-n", "1", "-c"]),
        };
        let mut command = Command::new(program);
        command.args(arguments).arg(self.dir.join("configuration"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(spawn(command)?);
        Ok(())
    }

    /// Ends it in order, so that it keeps what it has.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let mut child = self.child.take().context("the secondary is stopped")?;
        let ended = until("the end of a secondary", Duration::from_secs(20), || {
            Ok(child.try_wait()?.is_some())
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended
    }

    /// Takes it off the processor (SIGSTOP): it neither hears nor says anything, and has what it has.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Secondary::freeze`].
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILLs it.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the secondary is stopped")?;
        child.kill().context("kill a secondary")?;
        child.wait().context("wait for a secondary")?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the secondary is stopped")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("process id")?, signal).context("signal a secondary")
    }

    /// What it says of a zone, a record a line; none if it does not answer.
    ///
    /// # Errors
    ///
    /// When dig cannot be run.
    pub fn zone(&self, zone: &str) -> Result<Vec<String>> {
        dump(self.address, &[zone, "AXFR"])
    }

    /// Which server it is.
    #[must_use]
    pub fn kind(&self) -> SecondaryKind {
        self.kind
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it holds the very records of the librarian in each of these zones.
    ///
    /// # Errors
    ///
    /// When it does not in time; how they differ, and the end of its log, are in the message.
    pub fn follows(&self, pool: &Pool, zones: &[&str]) -> Result<()> {
        for zone in zones {
            let key = pool.key(COMPARE);
            let key = key.to_str().context("a path in UTF-8")?;
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            let followed = until("a secondary to follow", FOLLOW_WAIT, || {
                theirs = self.zone(zone)?;
                if theirs.is_empty() {
                    return Ok(false);
                }
                ours = dump(pool.dns(), &["-k", key, zone, "AXFR"])?;
                Ok(theirs == ours)
            });
            followed.with_context(|| {
                let lacks: Vec<&String> = ours.iter().filter(|line| !theirs.contains(line)).take(5).collect();
                let more: Vec<&String> = theirs.iter().filter(|line| !ours.contains(line)).take(5).collect();
                format!(
                    "{} has {} records of {zone}, the librarian {}; lacks {lacks:#?}, has besides {more:#?}\n{}",
                    self.kind.name(),
                    theirs.len(),
                    ours.len(),
                    self.log_end()
                )
            })?;
        }
        Ok(())
    }

    /// How it stands with each zone, as the librarian says.
    ///
    /// # Errors
    ///
    /// When the librarian does not know it.
    pub fn standing(&self, pool: &Pool) -> Result<Vec<ZoneStanding>> {
        let said = pool.librarian(&["secondary", "list", "--json"])?.stdout;
        let all: Vec<Standing> = serde_json::from_str(&said).context("read the list of secondaries")?;
        let found = all.into_iter().find(|one| one.name == self.kind.name());
        Ok(found.context("the librarian does not know this secondary")?.zones)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Secondary {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What an operator has besides the lines that the librarian prints; and who is here may take zones, to compare them.
fn configuration(kind: SecondaryKind, here: &str, port: u16, lines: &str) -> String {
    match kind {
        SecondaryKind::Knot => format!(
            "server:\n  rundir: \"{here}\"\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 2\n  \
             background-workers: 1\ndatabase:\n  storage: \"{here}/db\"\nlog:\n  - target: stderr\n    any: info\n{}\
             template:\n  - id: default\n    storage: \"{here}\"\n",
            lines
                .replace("    acl: librarian\n", "    acl: [librarian, compare]\n")
                .replace(
                    "acl:\n  - id: librarian",
                    "acl:\n  - id: compare\n    address: 127.0.0.1\n    action: transfer\n  - id: librarian"
                )
        ),
        SecondaryKind::Nsd => format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  server-count: 1\n  database: \"\"\n  username: \"\"\n  zonesdir: \"{here}\"\n  \
             pidfile: \"{here}/nsd.pid\"\n  xfrdfile: \"{here}/xfrd.state\"\n  xfrdir: \"{here}/db\"\n  \
             zonelistfile: \"{here}/zone.list\"\n  rrl-ratelimit: 0\n  verbosity: 2\nremote-control:\n  control-enable: no\n{}",
            lines.replace(
                "    allow-notify",
                "    provide-xfr: 127.0.0.1 NOKEY\n    zonefile: \"%s.zone\"\n    allow-notify"
            )
        ),
        SecondaryKind::Bind => format!(
            "options {{ directory \"{here}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
             pid-file \"{here}/named.pid\"; session-keyfile \"{here}/session.key\"; recursion no; dnssec-validation no; \
             allow-query {{ any; }}; allow-transfer {{ 127.0.0.1; }}; notify no; }};\ncontrols {{ }};\n{lines}"
        ),
    }
}

/// The records of an answer, sorted, in one spelling; none if there is no answer.
fn dump(server: SocketAddr, args: &[&str]) -> Result<Vec<String>> {
    let said = dig(
        server,
        &[args, &["+noall", "+answer", "+onesoa", "+time=5", "+tries=1"]].concat(),
    )?;
    if said.stdout.contains("Transfer failed") || said.stdout.contains("failed:") {
        return Ok(Vec::new());
    }
    let mut lines: Vec<String> = said
        .stdout
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(';'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    Ok(lines)
}

/// Whether all of them are current, as far as the librarian knows.
///
/// # Errors
///
/// As [`Secondary::standing`].
pub fn all_current(pool: &Pool, secondaries: &[Secondary]) -> Result<bool> {
    ensure!(!secondaries.is_empty(), "there is no secondary");
    for secondary in secondaries {
        if secondary.standing(pool)?.iter().any(|zone| zone.state != "current") {
            return Ok(false);
        }
    }
    Ok(true)
}
