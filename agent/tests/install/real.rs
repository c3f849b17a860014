//! `agent run` itself, under a librarian that wants another release of it. A release here is a line of its settings: the
//! install command writes it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::config::{self, Joined, Octets};
use certs::{Authority, Serial, UnixTime, Who};
use zones::upkeep::Install;
use zones::{Has, Role, TsigKey};

use super::librarian::{Librarian, SECRET};

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(90);

/// Writes the release into the settings; called `install.sh` it fails while there is a file `fail`.
const INSTALL: &str = r#"
cd "$(dirname "$0")"; echo "$1" >> ran
if [ -e fail ] && [ "$(basename "$0")" = install.sh ]; then echo "no such package: $1"; exit 3; fi
sed "s/^release = .*/release = \"$1\"/" agent.toml > new.toml && mv new.toml agent.toml
"#;

/// A server with its agent and its librarian.
struct Server {
    dir: tempfile::TempDir,
    librarian: Librarian,
    process: Child,
}

impl Server {
    /// At release 1.0; `supervised` it may become 2.0.
    fn start(supervised: bool) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let librarian = Librarian::start();
        write_home(&dir, &librarian);
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg(if supervised { "supervise" } else { "run" });
        command.arg("--dir").arg(dir.path());
        if supervised {
            command.arg("--config").arg(dir.path().join("install.toml"));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .env("RUST_LOG", "info");
        let process = command.spawn().unwrap();
        Server {
            dir,
            librarian,
            process,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ran(&self) -> String {
        fs::read_to_string(self.path("ran")).unwrap_or_default()
    }

    /// Waits until the server says something, from a moment on.
    fn says(&self, what: &str, after: usize, look: impl Fn(&Has) -> bool) -> usize {
        let until = Instant::now() + WAIT;
        loop {
            let said = self.librarian.said();
            if let Some(found) = said.iter().skip(after).position(&look) {
                return after + found;
            }
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(
                Instant::now() < until,
                "it never said {what}, but {:?}; the log:\n{}",
                said.last(),
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What `agent join` leaves behind, and the installer's settings.
fn write_home(dir: &tempfile::TempDir, librarian: &Librarian) {
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let domain = "hypernet.internal".parse().unwrap();
    let authority = Authority::create(&domain, Serial::new([1; 16]), UnixTime::now()).unwrap();
    let who = Who::Server("s1".parse().unwrap());
    let identity = authority.issue(&who, Serial::new([2; 16]), UnixTime::now()).unwrap();
    for folder in ["identity", "keys"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    write("identity/server.pem", identity.certificate_pem());
    write("identity/server.key", identity.key_pem());
    write("identity/ca.pem", authority.anchor().pem());
    write("keys/s1.key", &TsigKey::new("s1", &SECRET).unwrap().to_bind_file());
    write("pool.key", &"5a".repeat(32));
    let local = "127.0.0.1:0".parse().unwrap();
    let settings = config::template(&Joined {
        name: "s1".parse().unwrap(),
        domain,
        librarian_dns: librarian.address,
        librarian_https: "127.0.0.1:1".parse().unwrap(),
        listen_https: local,
        listen_peer: local,
        capacity: Octets(32 << 20),
    });
    write("agent.toml", &format!("release = \"1.0\"\n{settings}"));
    for name in ["install.sh", "rollback.sh"] {
        write(name, INSTALL);
    }
    let command = |name: &str| format!("[\"/bin/sh\", {:?}, \"{{release}}\"]", dir.path().join(name));
    write(
        "install.toml",
        &format!(
            "allow = [\"2.0\"]\ninstall = {}\nrollback = {}\nhealth_timeout = \"60s\"\n",
            command("install.sh"),
            command("rollback.sh")
        ),
    );
}

fn install(has: &Has) -> &Install {
    &has.upkeep.as_ref().expect("this release says it").install
}

fn tested(has: &Has) -> u64 {
    has.upkeep.as_ref().map_or(0, |upkeep| upkeep.tested)
}

#[test]
fn server_that_is_to_upgrade_asks_stops_and_comes_back_tested_at_the_wanted_release() {
    let server = Server::start(true);
    let ready = server.says("ready", 0, |has| {
        has.release == "1.0" && *install(has) == Install::Ready
    });
    server.librarian.want(Role::Upgrading, (7, 1), Some("2.0"));
    let asked = server.says("asked", ready, |has| *install(has) == Install::Asked("2.0".to_owned()));
    assert_eq!(
        server.librarian.said()[asked].release,
        "1.0",
        "it says so before it stops"
    );
    let back = server.says("tested", asked, |has| {
        has.release == "2.0" && tested(has) == 7 && *install(has) == Install::Ready
    });
    assert_eq!(server.ran(), "2.0\n");
    assert!(!server.path("upgrade/request.json").exists());
    server.librarian.want(Role::Validating, (9, 1), None);
    server.says("tested again", back, |has| tested(has) == 9);
}

#[test]
fn failed_install_is_told_and_tried_again_only_for_a_later_want() {
    let server = Server::start(true);
    fs::write(server.path("fail"), "").unwrap();
    server.librarian.want(Role::Upgrading, (7, 1), Some("2.0"));
    let failed = server.says("failed", 0, |has| *install(has) == Install::Failed("2.0".to_owned()));
    assert_eq!(server.librarian.said()[failed].release, "1.0");
    assert_eq!(server.ran(), "2.0\n1.0\n", "it was undone");
    fs::remove_file(server.path("fail")).unwrap();
    server.says("it three times more", failed + 3, |has| {
        *install(has) == Install::Failed("2.0".to_owned())
    });
    assert_eq!(server.ran(), "2.0\n1.0\n", "the same want asks for nothing more");
    server.librarian.want(Role::Upgrading, (7, 2), Some("2.0"));
    server.says("installed", failed, |has| has.release == "2.0");
}

#[test]
fn release_that_the_operator_does_not_list_is_told_as_refused() {
    let server = Server::start(true);
    server.librarian.want(Role::Upgrading, (7, 1), Some("2.1"));
    let told = server.says("refused", 0, |has| *install(has) == Install::Refused("2.1".to_owned()));
    assert_eq!(server.librarian.said()[told].release, "1.0");
    assert_eq!(server.ran(), "");
}

#[test]
fn agent_without_an_installer_leaves_it_to_a_person() {
    let server = Server::start(false);
    server.librarian.want(Role::Upgrading, (7, 1), Some("2.0"));
    let told = server.says("by hand", 0, |has| has.role == Role::Upgrading);
    let said = server.says("it three times more", told + 3, |has| *install(has) == Install::ByHand);
    assert_eq!(server.librarian.said()[said].release, "1.0");
    assert!(!server.path("upgrade").exists());
}
