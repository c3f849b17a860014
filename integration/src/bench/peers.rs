//! Other name servers, started with the same names and the same key on a port of loopback.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::dns_set::{DnsSet, LOCAL};
use crate::harness::{free_port, spawn};

/// Longest time to load a million names.
const READY_WAIT: Duration = Duration::from_secs(180);

/// Which server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PeerKind {
    /// Knot DNS, `knotd`.
    Knot,
    /// BIND, `named`.
    Bind,
}

impl PeerKind {
    /// Name and version.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub(super) fn version(self) -> Result<String> {
        let (program, argument) = match self {
            PeerKind::Knot => ("knotd", "--version"),
            PeerKind::Bind => ("named", "-v"),
        };
        let said = crate::harness::run(program, &[argument])?;
        let text = if said.stdout.trim().is_empty() {
            said.stderr
        } else {
            said.stdout
        };
        let number = text
            .split([' ', '-', ',', '\n'])
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .unwrap_or_default();
        let name = match self {
            PeerKind::Knot => "Knot",
            PeerKind::Bind => "BIND",
        };
        Ok(format!("{name} {number}"))
    }
}

/// A running server with the `obj` zone of a [`DnsSet`]. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Peer {
    /// Writes configuration and zone below `dir`, starts the server pinned to one processor with one worker, and waits
    /// until it answers. `key` is the name and base64 secret of a TSIG key that may update the zone.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not answer in three minutes.
    pub(super) fn start(kind: PeerKind, dir: &Path, set: &DnsSet, key: (&str, &str), cpu: usize) -> Result<Peer> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let port = free_port()?;
        set.write_zone(&dir.join("obj.zone"))?;
        let zone = set.domain.zone(zones::Zone::Obj).to_string();
        let zone = zone.trim_end_matches('.');
        let here = dir.display();
        let (name, secret) = key;
        let (text, program, arguments): (String, &str, &[&str]) = match kind {
            PeerKind::Knot => (
                format!(
                    "server:\n  rundir: \"{here}\"\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                     background-workers: 1\ndatabase:\n  storage: \"{here}/db\"\n  journal-db-max-size: 4G\n\
                     log:\n  - target: stderr\n    any: warning\nkey:\n  - id: {name}\n    algorithm: hmac-sha256\n    \
                     secret: {secret}\nacl:\n  - id: change\n    key: {name}\n    action: update\nzone:\n  \
                     - domain: {zone}\n    storage: \"{here}\"\n    file: obj.zone\n    zonefile-sync: -1\n    \
                     journal-content: changes\n    journal-max-usage: 1G\n    journal-max-depth: 1000000\n    acl: change\n"
                ),
                "knotd",
                &["-c"],
            ),
            PeerKind::Bind => (
                format!(
                    "options {{ directory \"{here}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
                     pid-file \"{here}/named.pid\"; session-keyfile \"{here}/session.key\"; recursion no; \
                     dnssec-validation no; allow-query {{ any; }}; notify no; update-quota 1000; }};\ncontrols {{ }};\n\
                     key \"{name}\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n\
                     zone \"{zone}\" {{ type primary; file \"obj.zone\"; allow-update {{ key \"{name}\"; }}; \
                     max-journal-size 1g; }};\n"
                ),
                "named",
                &["-g", "-n", "1", "-c"],
            ),
        };
        let configuration = dir.join("configuration");
        std::fs::write(&configuration, text).context("write a peer's configuration")?;
        std::fs::create_dir_all(dir.join("db")).context("make a peer's database directory")?;
        let log = dir.join("log");
        let output = std::fs::File::create(&log).context("create a peer's log")?;
        let mut command = Command::new("taskset");
        command
            .args(["-c", &cpu.to_string(), program])
            .args(arguments)
            .arg(&configuration);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut peer = Peer {
            child: spawn(command)?,
            address: SocketAddr::from((LOCAL, port)),
            log,
        };
        peer.wait(set)?;
        Ok(peer)
    }

    /// Where it answers.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    #[must_use]
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self, set: &DnsSet) -> Result<()> {
        let questions = set.questions(1, 0)?;
        let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
        socket.connect(self.address).context("connect a socket")?;
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .context("set a socket")?;
        let until = Instant::now() + READY_WAIT;
        let mut answer = [0; 512];
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "a peer ended with {status}: {}",
                    std::fs::read_to_string(&self.log).unwrap_or_default()
                );
            }
            let _ = socket.send(questions.first());
            // NOERROR or NXDOMAIN with authority: the zone is loaded.
            if let Ok(octets @ 12..) = socket.recv(&mut answer)
                && octets > 3
                && matches!(answer[3] & 0x0f, 0 | 3)
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "a peer did not answer in time: {}",
            std::fs::read_to_string(&self.log).unwrap_or_default()
        )
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
