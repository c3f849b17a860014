//! Other name servers, started with the same names and the same key on a port of loopback.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use zones::Zone;

use super::peer_files::{ZONE_FILE, configuration};
use super::ready::{Ready, ask_once, evict};
use super::set::{DnsSet, LOCAL};
use crate::bench::cpu::{family, family_cpu_seconds, listens_alone};
use crate::harness::{free_port, spawn};

/// Longest time to load a zone: ten million names.
const READY_WAIT: Duration = Duration::from_secs(600);
/// Longest time to end in order, before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Which server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum PeerKind {
    /// Knot DNS, `knotd`.
    Knot,
    /// NSD, `nsd`.
    Nsd,
    /// BIND, `named`.
    Bind,
}

impl PeerKind {
    /// All that are known.
    pub(super) const ALL: [PeerKind; 3] = [PeerKind::Knot, PeerKind::Nsd, PeerKind::Bind];

    /// Whether it takes dynamic updates.
    #[must_use]
    pub(super) fn takes_updates(self) -> bool {
        match self {
            PeerKind::Knot | PeerKind::Bind => true,
            PeerKind::Nsd => false,
        }
    }

    /// Name and version.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub(super) fn version(self) -> Result<String> {
        let (name, program, argument) = match self {
            PeerKind::Knot => ("Knot", "knotd", "--version"),
            PeerKind::Nsd => ("NSD", "nsd", "-v"),
            PeerKind::Bind => ("BIND", "named", "-v"),
        };
        let said = crate::harness::run(program, &[argument])?;
        let text = said.stdout + "\n" + &said.stderr;
        let number = text
            .split([' ', '-', ',', '\n'])
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .unwrap_or_default();
        Ok(format!("{name} {number}"))
    }
}

/// A running server with the `obj` zone of a [`DnsSet`]. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Peer {
    kind: PeerKind,
    dir: PathBuf,
    cpu: usize,
    port: u16,
    child: Child,
    /// Of its last start.
    pub(super) ready: Ready,
}

impl Peer {
    /// Makes `dir` with a configuration and a link to `zone_file`, which holds `set`; starts the server pinned to one
    /// processor with one worker, and waits until it answers. `key` is the name and base64 secret of a TSIG key that may
    /// update the zone.
    ///
    /// # Errors
    ///
    /// When it does not start, does not answer in ten minutes, or shares its port.
    pub(super) fn start(
        kind: PeerKind,
        dir: &Path,
        zone_file: &Path,
        set: &DnsSet,
        key: (&str, &str),
        cpu: usize,
    ) -> Result<Peer> {
        std::fs::create_dir_all(dir.join("db")).with_context(|| format!("make {}", dir.display()))?;
        // A server that writes its zone anew puts another file in its place; the link's other end stays as it is.
        std::fs::hard_link(zone_file, dir.join(ZONE_FILE)).context("link the zone file")?;
        let port = free_port()?;
        let zone = set.domain.zone(Zone::Obj).to_string();
        let text = configuration(kind, dir, port, zone.trim_end_matches('.'), key);
        std::fs::write(dir.join("configuration"), text).context("write a peer's configuration")?;
        let (child, ready) = run(kind, dir, set, cpu, port)?;
        Ok(Peer {
            kind,
            dir: dir.to_owned(),
            cpu,
            port,
            child,
            ready,
        })
    }

    /// Ends it and starts it again with its files dropped from the page cache, if `cold`.
    ///
    /// # Errors
    ///
    /// As [`Peer::start`].
    pub(super) fn restart(&mut self, set: &DnsSet, cold: bool) -> Result<()> {
        end(self.kind, &mut self.child);
        if cold {
            evict(&self.dir)?;
        }
        (self.child, self.ready) = run(self.kind, &self.dir, set, self.cpu, self.port)?;
        Ok(())
    }

    /// Where it answers.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((LOCAL, self.port))
    }

    /// Its first process.
    #[must_use]
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        end(self.kind, &mut self.child);
    }
}

fn run(kind: PeerKind, dir: &Path, set: &DnsSet, cpu: usize, port: u16) -> Result<(Child, Ready)> {
    let log = dir.join("log");
    let output = File::create(&log).context("create a peer's log")?;
    let arguments: &[&str] = match kind {
        PeerKind::Knot => &["knotd", "-c"],
        PeerKind::Nsd => &["nsd", "-d", "-c"],
        PeerKind::Bind => &["named", "-g", "-n", "1", "-c"],
    };
    let mut command = Command::new("taskset");
    command
        .args(["-c", &cpu.to_string()])
        .args(arguments)
        .arg(dir.join("configuration"));
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let start = Instant::now();
    let mut child = spawn(command)?;
    let ready = wait(&mut child, set, port, start).and_then(|ready| {
        ensure!(
            listens_alone(port, child.id())?,
            "another process listens on port {port} too"
        );
        Ok(ready)
    });
    match ready {
        Ok(ready) => Ok((child, ready)),
        Err(error) => {
            end(kind, &mut child);
            let log = std::fs::read(&log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log[log.len().saturating_sub(2_000)..]).into_owned();
            Err(error.context(format!("{kind:?} does not serve; the end of its log:\n{log}")))
        }
    }
}

fn wait(child: &mut Child, set: &DnsSet, port: u16, start: Instant) -> Result<Ready> {
    let question = set.ready_question()?;
    while start.elapsed() < READY_WAIT {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        if ask_once(SocketAddr::from((LOCAL, port)), &question)? {
            let after = start.elapsed();
            let cpu_s = family_cpu_seconds(child.id())?;
            return Ok(Ready { after, cpu_s });
        }
    }
    bail!("it did not answer in {} s", READY_WAIT.as_secs())
}

/// In order where that matters: NSD's workers end with it then. What is left of the family is killed.
fn end(kind: PeerKind, child: &mut Child) {
    let all = family(child.id());
    if kind == PeerKind::Nsd
        && let Some(pid) = pid_of(child.id())
    {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let until = Instant::now() + STOP_WAIT;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if matches!(child.try_wait(), Ok(None)) {
        for pid in all.into_iter().filter_map(pid_of) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = child.wait();
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
