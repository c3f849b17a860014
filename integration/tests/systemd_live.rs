//! The units that are shipped, run by a real systemd on a machine of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agent::install::words::{RequestId, Version};
use agent::install::{Direction, Request};
use anyhow::{Context, Result, ensure};
use hickory_proto::rr::RecordType;
use integration::harness::Machine;
use librarian::config::LISTEN_DNS;
use serde_json::Value;
use zones::query::{build_question, read_answer};

const LIBRARIAN: &str = "librarian.service";
const AGENT: &str = "agent.service";
const INSTALL: &str = "agent-install.service";
const PATH: &str = "agent-install.path";
const SOCKETS: [&str; 2] = ["librarian-dns.socket", "librarian-join.socket"];
const LIBRARIAN_DIR: &str = "/var/lib/librarian";
const AGENT_DIR: &str = "/var/lib/agent";
/// A client's files, as the librarian leaves them.
const CLIENT: &str = "/var/lib/librarian/clients/shop";
/// How long a question may wait for its answer; it is never asked again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Answers to each asker before and after every restart: so many that some are asked in its midst.
const ANSWERS: u64 = 50;

/// What the operator's command is here: it replaces the program and names the release. That of release 3 never serves.
const INSTALLER: &str = r#"#!/bin/sh
set -eu
cd /usr/local/bin
echo "$1 by $(id -u)" >> installs.log
case $1 in
3) printf '#!/bin/sh\nexec sleep 1000\n' > agent.new ;;
*) printf '#!/bin/sh\nexec /usr/local/bin/pool agent "$@"\n' > agent.new ;;
esac
chmod 755 agent.new
sed "s/^release = .*/release = \"$1\"/" /var/lib/agent/agent.toml > /tmp/agent.toml
cat /tmp/agent.toml > /var/lib/agent/agent.toml
mv agent.new agent
"#;

/// Where the unit looks for the installer's settings.
const SETTINGS: &str = "/etc/hypernet/agent-install.toml";
const INSTALLER_SETTINGS: &str = r#"
allow = ["2", "3"]
install = ["/usr/local/bin/hypernet-install", "{release}"]
rollback = ["/usr/local/bin/hypernet-install", "{release}"]
health_timeout = "20s"
"#;

/// Schemas of the agent's, so that a self-test runs a step in a process of its own.
const SCHEMAS: [(&str, &str); 4] = [
    ("1.schema.json", SCHEMA),
    ("2.schema.json", SCHEMA),
    ("1-to-2.jq", "# expand\n.size = 1\n"),
    ("2-to-1.jq", "# exact\ndel(.size)\n"),
];
const SCHEMA: &str = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}"#;
/// More than the failures that the installing unit takes in an hour.
const REQUESTS: u64 = 7;

/// A machine, or `None` and the reason on standard output where none can be made.
fn machine() -> Result<Option<Machine>> {
    if let Some(why) = Machine::refusal() {
        println!("skipped: this machine lets nobody make namespaces and control groups: {why}");
        return Ok(None);
    }
    Machine::start(Path::new(env!("CARGO_BIN_EXE_demo"))).map(Some)
}

fn librarian(machine: &Machine, words: &[&str]) -> Result<String> {
    let told = machine.run(&[&["librarian"], words, &["--dir", LIBRARIAN_DIR]].concat())?;
    Ok(told.stdout)
}

/// Makes a pool and its only server as the units' first lines say; it may be asked unsigned.
fn start_pool(machine: &Machine, role: &str, agent_settings: &[(&str, &str)]) -> Result<()> {
    librarian(machine, &["init"])?;
    let networks = "[\"127.0.0.0/8\"]";
    // A server is stopped for an install when answers that name it are cached nowhere any more.
    set(
        machine,
        "/var/lib/librarian/librarian.toml",
        &[("networks", networks), ("ttl", "\"1s\"")],
    )?;
    let units = [SOCKETS[0], SOCKETS[1], LIBRARIAN];
    machine.run(&[&["systemctl", "enable", "--now"], &units[..]].concat())?;
    let token = librarian(machine, &["invite", "s1", "--role", role])?;
    machine.write("/run/s1.token", "0600", token.as_bytes())?;
    machine.run(&["agent", "join", "--token-file", "/run/s1.token", "--dir", AGENT_DIR])?;
    set(machine, "/var/lib/agent/agent.toml", agent_settings)?;
    machine.run(&["systemctl", "enable", "--now", AGENT, PATH])?;
    // `systemctl` has waited for the word of each that it is ready.
    for unit in [SOCKETS[0], SOCKETS[1], LIBRARIAN, AGENT, PATH] {
        let state = machine.property(unit, "ActiveState")?;
        ensure!(state == "active", "{unit} is {state}:\n{}", machine.journal());
    }
    machine.until(
        "the librarian hears the agent",
        || Ok(server(machine)?["alive"] == true),
    )
}

/// Sets keys whose lines are there, as comments or not.
fn set(machine: &Machine, file: &str, settings: &[(&str, &str)]) -> Result<()> {
    for (key, value) in settings {
        let line = format!("s|^#* *{key} = .*|{key} = {value}|");
        machine.run(&["sed", "-i", &line, file])?;
    }
    Ok(())
}

/// What the librarian says of the only server.
fn server(machine: &Machine) -> Result<Value> {
    let pool: Value = serde_json::from_str(&librarian(machine, &["pool", "--json"])?).context("read the pool")?;
    Ok(pool["servers"][0].clone())
}

fn put_object(machine: &Machine) -> Result<()> {
    librarian(
        machine,
        &["client", "add", "shop", "--grant", "read:3", "--grant", "write:3"],
    )?;
    machine.write("/run/body", "0600", b"body")?;
    machine
        .run(&["agent", "put", "3.1", "/run/body", "--client", CLIENT])
        .map(drop)
}

fn read_object(machine: &Machine) -> Result<()> {
    let read = machine.run(&["agent", "get", "3.1", "--client", CLIENT])?;
    ensure!(read.stdout == "body", "{read:?}");
    Ok(())
}

fn process(machine: &Machine, unit: &str) -> Result<String> {
    machine.property(unit, "MainPID")
}

/// Sends the main process of a unit a signal.
fn signal(machine: &Machine, unit: &str, signal: &str) -> Result<()> {
    let signal = format!("--signal={signal}");
    machine
        .run(&["systemctl", "kill", "--kill-whom=main", &signal, unit])
        .map(drop)
}

/// One question over UDP, asked once.
fn over_udp(machine: &Machine, question: &[u8]) -> Result<Vec<u8>> {
    let socket = machine.in_network(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(question, LISTEN_DNS)?;
    let mut octets = vec![0; 1500];
    let count = socket.recv(&mut octets)?;
    octets.truncate(count);
    Ok(octets)
}

/// One question over a TCP connection of its own.
fn over_tcp(machine: &Machine, question: &[u8]) -> Result<Vec<u8>> {
    let librarian: SocketAddr = LISTEN_DNS;
    let mut stream = machine.in_network(|| Ok(TcpStream::connect_timeout(&librarian, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len())?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

/// Where object 3.1 is.
fn question() -> Result<Vec<u8>> {
    let name = "3.1.obj.hypernet.internal.".parse()?;
    Ok(build_question(7, &name, RecordType::SRV, Some(1232)))
}

fn names_a_server(octets: &[u8]) -> Result<()> {
    ensure!(read_answer(octets)?.srv().count() == 1, "another answer");
    Ok(())
}

/// Asks without a pause, over UDP and TCP, while something is done; none of the questions may be lost.
fn ask_during(machine: &Machine, during: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>) -> Result<()> {
    let question = question()?;
    let (stop, answered) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    let ask = |number: usize, once: fn(&Machine, &[u8]) -> Result<Vec<u8>>| -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let answer = once(machine, &question).and_then(|octets| names_a_server(&octets));
            answer.with_context(|| format!("question {:?} of asker {number}", answered[number]))?;
            answered[number].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let count = || answered.each_ref().map(|count| count.load(Ordering::Relaxed));
    std::thread::scope(|scope| {
        let askers = [scope.spawn(|| ask(0, over_udp)), scope.spawn(|| ask(1, over_tcp))];
        let more = || {
            let before = count();
            machine.until("all askers are answered", || {
                let gone = askers.iter().any(|asker| asker.is_finished());
                Ok(gone || count().iter().zip(before).all(|(now, before)| now - before >= ANSWERS))
            })
        };
        let done = during(&more);
        stop.store(true, Ordering::Relaxed);
        for asker in askers {
            asker.join().expect("an asker does not panic")?;
        }
        done
    })
}

#[test]
fn pool_is_started_by_its_units_and_a_restart_of_the_librarian_loses_no_question() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    machine.write("/etc/credstore/agent.keyring", "0600", &[7; 32])?;
    start_pool(&machine, "serving", &[("secret", "\"credential:agent.keyring\"")])?;
    let kept = machine.run(&["ls", "/var/lib/agent/keys"])?.stdout;
    ensure!(!kept.contains("keyring.key"), "the credential was not used: {kept}");
    // The directories that root made went to the services' own users, who are nobody else.
    for (unit, dir) in [(LIBRARIAN, LIBRARIAN_DIR), (AGENT, AGENT_DIR)] {
        let user = |path: &str| Ok::<_, anyhow::Error>(machine.run(&["stat", "-L", "-c", "%u", path])?.stdout);
        let process = user(&format!("/proc/{}", process(&machine, unit)?))?;
        assert_ne!(process, user("/")?, "{unit}");
        assert_eq!(process, user(dir)?, "{unit}");
    }
    put_object(&machine)?;
    read_object(&machine)?;
    ask_during(&machine, |more| {
        more()?;
        for _ in 0..2 {
            let old = process(&machine, LIBRARIAN)?;
            machine.run(&["systemctl", "restart", LIBRARIAN])?;
            assert_ne!(old, process(&machine, LIBRARIAN)?);
            more()?;
        }
        Ok(())
    })?;
    // One that was stopped is started by the next question, and answers that, too.
    machine.run(&["systemctl", "stop", LIBRARIAN])?;
    assert_eq!(machine.property(LIBRARIAN, "ActiveState")?, "inactive");
    names_a_server(&over_udp(&machine, &question()?)?)?;
    machine.until_property(LIBRARIAN, "ActiveState", "active")?;
    read_object(&machine)?;
    assert_eq!(
        machine.run(&["systemctl", "list-units", "--failed", "--quiet"])?.stdout,
        ""
    );
    Ok(())
}

#[test]
fn agent_that_is_killed_and_librarian_that_hangs_or_cannot_start_come_back() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    start_pool(&machine, "serving", &[])?;
    put_object(&machine)?;
    let old = process(&machine, AGENT)?;
    signal(&machine, AGENT, "KILL")?;
    machine.until_property(AGENT, "NRestarts", "1")?;
    machine.until_property(AGENT, "ActiveState", "active")?;
    assert_ne!(old, process(&machine, AGENT)?);
    machine.until("the object is served again", || Ok(read_object(&machine).is_ok()))?;

    // As shipped it is 30 s.
    machine.write(
        "/etc/systemd/system/librarian.service.d/watchdog.conf",
        "0644",
        b"[Service]\nWatchdogSec=5s\n",
    )?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "restart", LIBRARIAN])?;
    let old = process(&machine, LIBRARIAN)?;
    signal(&machine, LIBRARIAN, "STOP")?;
    names_a_server(&over_udp(&machine, &question()?)?)?;
    machine.until_property(LIBRARIAN, "ActiveState", "active")?;
    assert_ne!(old, process(&machine, LIBRARIAN)?);
    let told = machine.run(&["journalctl", "--no-pager", "--unit", LIBRARIAN])?.stdout;
    ensure!(told.contains("Watchdog timeout"), "{told}");

    // A release that ends at once is started again and again, and the questions wait in the sockets until one works.
    machine.write(
        "/usr/local/bin/librarian.old",
        "0755",
        b"#!/bin/sh\nexec /usr/local/bin/pool librarian \"$@\"\n",
    )?;
    machine.write("/usr/local/bin/librarian.new", "0755", b"#!/bin/sh\nexit 1\n")?;
    machine.run(&["mv", "/usr/local/bin/librarian.new", "/usr/local/bin/librarian"])?;
    let restarts = || {
        machine
            .property(LIBRARIAN, "NRestarts")?
            .parse::<u32>()
            .context("a number")
    };
    ensure!(!machine.run_any(&["systemctl", "restart", LIBRARIAN])?.status.success());
    let socket = machine.in_network(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    machine.until("it was tried often", || {
        socket.send_to(&question()?, LISTEN_DNS)?;
        Ok(restarts()? >= 4)
    })?;
    for unit in SOCKETS {
        assert_eq!(machine.property(unit, "ActiveState")?, "active", "{unit}");
    }
    machine.run(&["mv", "/usr/local/bin/librarian.old", "/usr/local/bin/librarian"])?;
    names_a_server(&over_udp(&machine, &question()?)?)
}

#[test]
fn release_that_is_asked_for_is_installed_as_root_and_one_that_does_not_serve_is_taken_back() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    machine.write(
        "/etc/hypernet/agent-install.toml",
        "0644",
        INSTALLER_SETTINGS.as_bytes(),
    )?;
    machine.write("/usr/local/bin/hypernet-install", "0755", INSTALLER.as_bytes())?;
    for (name, text) in SCHEMAS {
        machine.write(&format!("/etc/hypernet/schemas/photo/{name}"), "0644", text.as_bytes())?;
    }
    let settings = [
        ("how", "\"request\""),
        ("release", "\"1\""),
        ("schemas", "\"/etc/hypernet/schemas\""),
    ];
    start_pool(&machine, "free", &settings)?;
    let old = process(&machine, AGENT)?;
    librarian(&machine, &["upgrade", "start", "--to", "2", "--soak", "1s", "--detach"])?;
    until_upgrade(&machine, "soaked")?;
    assert_eq!(server(&machine)?["release"], "2");
    assert_ne!(old, process(&machine, AGENT)?);
    is_settled(&machine)?;
    librarian(&machine, &["upgrade", "finalize"])?;
    until_upgrade(&machine, "done")?;

    machine.until("the next upgrade can begin", || {
        let words = [
            "librarian",
            "upgrade",
            "start",
            "--to",
            "3",
            "--attempts",
            "1",
            "--detach",
            "--dir",
            LIBRARIAN_DIR,
        ];
        Ok(machine.run_any(&words)?.status.success())
    })?;
    until_upgrade(&machine, "halted")?;
    machine.until_property(AGENT, "ActiveState", "active")?;
    machine.until("the agent is heard at the release before", || {
        let server = server(&machine)?;
        Ok(server["alive"] == true && server["release"] == "2")
    })?;
    is_settled(&machine)?;
    let ran = machine.run(&["cat", "/usr/local/bin/installs.log"])?.stdout;
    assert_eq!(ran, "2 by 0\n3 by 0\n2 by 0\n");

    // What has an answer is no failure, however often it is asked: the next request is seen.
    let plans = 1000..1000 + REQUESTS;
    for plan in plans.clone() {
        ask_for_what_is_refused(&machine, plan)?;
        until_answered(&machine, plan)?;
        is_settled(&machine)?;
    }
    // What is tried in vain stays, until a person has looked and does as the unit says.
    machine.run(&["mv", SETTINGS, "/run/aside.toml"])?;
    ask_for_what_is_refused(&machine, plans.end)?;
    machine.until_property(PATH, "ActiveState", "failed")?;
    machine.run(&["mv", "/run/aside.toml", SETTINGS])?;
    machine.run(&["systemctl", "reset-failed", INSTALL, PATH])?;
    machine.run(&["systemctl", "start", PATH])?;
    until_answered(&machine, plans.end)?;
    is_settled(&machine)?;
    machine.until_property(AGENT, "ActiveState", "active")
}

/// Writes a request as the agent does.
fn ask_for_what_is_refused(machine: &Machine, plan: u64) -> Result<()> {
    let request = Request {
        v: Version,
        id: RequestId::fresh(),
        direction: Direction::Install,
        release: "9".parse()?,
        present: "2".parse()?,
        plan,
        step: 1,
        contract: false,
        unix_ms: 1,
    };
    let new = "/var/lib/agent/upgrade/request.new";
    machine.write(new, "0644", &serde_json::to_vec(&request)?)?;
    machine.run(&["mv", new, "/var/lib/agent/upgrade/request.json"])?;
    Ok(())
}

fn until_answered(machine: &Machine, plan: u64) -> Result<()> {
    machine.until("the request has an answer", || {
        let answer = machine.run(&["cat", "/var/lib/agent/upgrade/result.json"])?.stdout;
        let answer: Value = serde_json::from_str(&answer).context("read the answer")?;
        Ok(answer["request"]["plan"] == plan)
    })
}

fn until_upgrade(machine: &Machine, state: &str) -> Result<()> {
    machine.until(&format!("the upgrade is {state}"), || {
        let status: Value = serde_json::from_str(&librarian(machine, &["upgrade", "status", "--json"])?)?;
        ensure!(
            state == "halted" || status["state"] != "halted",
            "{status:#}\n{}",
            machine.journal()
        );
        Ok(status["state"] == state)
    })
}

/// Nothing is asked for, and the next request would be seen.
fn is_settled(machine: &Machine) -> Result<()> {
    machine.until_property(INSTALL, "ActiveState", "inactive")?;
    assert_eq!(machine.property(INSTALL, "Result")?, "success");
    machine.until_property(PATH, "SubState", "waiting")
}
