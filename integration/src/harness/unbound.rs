//! A caching, validating resolver between clients and the librarian.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pool::Pool;
use super::tools::run;

/// How long it may take to answer.
const START_WAIT: Duration = Duration::from_secs(30);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// unbound as an operator runs it, in front of a pool.
#[derive(Debug)]
pub struct Unbound {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Unbound {
    /// Starts it with the lines that `librarian resolver-config unbound` prints.
    ///
    /// # Errors
    ///
    /// Where unbound is not installed, does not take the lines, or does not answer.
    pub fn start(pool: &Pool, address: SocketAddr) -> Result<Unbound> {
        let lines = pool.librarian(&["resolver-config", "unbound"])?.stdout;
        let dir = tempfile::tempdir()?;
        let key = Path::new("/usr/share/dns/root.key");
        let mut config = format!(
            "server:\n  interface: {}\n  port: {}\n  access-control: 0.0.0.0/0 allow\n  chroot: \"\"\n  username: \"\"\n  \
             directory: \"{dir}\"\n  pidfile: \"{dir}/unbound.pid\"\n  use-syslog: no\n  logfile: \"\"\n  do-daemonize: no\n  \
             module-config: \"validator iterator\"\n  val-permissive-mode: no\n",
            address.ip(),
            address.port(),
            dir = dir.path().display(),
        );
        if key.exists() {
            writeln!(config, "  trust-anchor-file: \"{}\"", key.display())?;
        } else {
            // The root's key-signing keys of 2017 and 2024, so that validation is on without a file.
            config.push_str(
                "  trust-anchor: \". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\"\n  \
                 trust-anchor: \". DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16\"\n",
            );
        }
        config.push_str("remote-control:\n  control-enable: no\n");
        config.push_str(&lines);
        let path = dir.path().join("unbound.conf");
        std::fs::write(&path, config)?;
        run("unbound-checkconf", &[&path])?.success()?;
        let child = Command::new("unbound")
            .args(["-d", "-c"])
            .arg(&path)
            .stderr(Stdio::null())
            .spawn()
            .context("start unbound")?;
        let mut unbound = Unbound {
            child,
            address,
            _dir: dir,
        };
        // It answers once it is up; a name of its own needs no other server. Asked from this thread, whose network it is on.
        let until = Instant::now() + START_WAIT;
        while Instant::now() < until {
            if answers(address) {
                return Ok(unbound);
            }
            if let Some(status) = unbound.child.try_wait()? {
                anyhow::bail!("unbound ended with {status}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        anyhow::bail!("unbound did not start")
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Whether somebody answers `version.bind. CH TXT` there.
fn answers(address: SocketAddr) -> bool {
    let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07version\x04bind\0\0\x10\0\x03";
    let asked = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(address)?;
        socket.send(question)?;
        socket.recv(&mut [0; 512])
    };
    asked().is_ok()
}
