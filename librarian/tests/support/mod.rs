//! A real librarian process on loopback, and what a server speaks to it.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use certs::{JoinAnswer, JoinRequest, JoinToken, Joined, Request, UnixTime};
use hickory_proto::rr::{Name, RecordType};
use zones::query::{Answer, build_question, read_answer};
use zones::tsig::{sign_request, verify_response};
use zones::update::{build_has_update, build_register_update};
use zones::{Domain, Has, RegisterChange, Role, ServerName, TsigKey, Want};

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(20);

/// A pool's directory, and the librarian that runs in it.
pub(crate) struct Librarian {
    pub(crate) dir: tempfile::TempDir,
    process: Option<Child>,
    pub(crate) dns: SocketAddr,
    pub(crate) https: SocketAddr,
}

/// The answer of the join port: status and body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Librarian {
    /// Makes a pool and runs its librarian.
    pub(crate) fn start() -> Librarian {
        Librarian::start_with("")
    }

    /// The same with further lines of settings.
    pub(crate) fn start_with(settings: &str) -> Librarian {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut librarian = Librarian {
            dir,
            process: None,
            dns: nowhere,
            https: nowhere,
        };
        librarian.done(&["init", "--dns", "127.0.0.1:0", "--https", "127.0.0.1:0"]);
        let path = librarian.path("librarian.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}\n{settings}\n")).unwrap();
        librarian.run();
        librarian
    }

    /// Runs the librarian and waits for its ready line.
    pub(crate) fn run(&mut self) {
        self.run_with(&["run"]);
    }

    /// The same with other arguments.
    pub(crate) fn run_with(&mut self, args: &[&str]) {
        let process = self.command(args).stdout(Stdio::piped()).spawn().unwrap();
        self.started(process);
    }

    /// Waits for the ready line of a librarian that was started.
    pub(crate) fn started(&mut self, mut process: Child) {
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: serde_json::Value = serde_json::from_str(line.strip_prefix("ready ").expect(&line)).unwrap();
        self.dns = ready["dns"].as_str().unwrap().parse().unwrap();
        self.https = ready["https"].as_str().unwrap().parse().unwrap();
        self.process = Some(process);
    }

    /// Has another process take over and waits for its ready line; the old process is given back.
    pub(crate) fn take_over(&mut self) -> Child {
        let old = self.process.take().expect("it runs");
        self.run_with(&["run", "--take-over"]);
        old
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_librarian"));
        command
            .args(args)
            .arg("--dir")
            .arg(self.dir.path())
            .env("RUST_LOG", "warn");
        command
    }

    /// Runs a command to its end, which must come within a minute.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        let command = self.command(args);
        let mut bounded = Command::new("timeout");
        bounded.arg("60").arg(command.get_program()).args(command.get_args());
        bounded.envs(
            command
                .get_envs()
                .filter_map(|(key, value)| value.map(|value| (key, value))),
        );
        bounded.output().unwrap()
    }

    /// Runs a command that must succeed; answers with its standard output.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with a status; answers with its standard error.
    pub(crate) fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.done(args)).unwrap()
    }

    pub(crate) fn invite(&self, args: &[&str]) -> JoinToken {
        self.done(&[&["invite"], args].concat()).parse().unwrap()
    }

    /// Ends the librarian by a signal and tells how it ended.
    pub(crate) fn end(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let id = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(id, signal).unwrap();
        process.wait().unwrap()
    }

    /// Invites a server and joins it.
    pub(crate) fn member(&self, args: &[&str]) -> Server {
        let token = self.invite(args);
        Server::new(join(&token).expect("joins"), self.dns)
    }
}

impl Drop for Librarian {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Joins as `agent join` does.
pub(crate) fn join(token: &JoinToken) -> Result<Joined, String> {
    let request = Request::new().unwrap();
    let body = serde_json::to_vec(&JoinRequest::new(token, &request)).unwrap();
    let reply = post(token, "/join", &body).map_err(|error| error.to_string())?;
    if reply.status != 200 {
        return Err(format!("{}: {}", reply.status, reply.text()));
    }
    let answer = JoinAnswer::from_json(&reply.body).unwrap();
    answer
        .accept(token, request, UnixTime::now())
        .map_err(|error| error.to_string())
}

/// Sends a request over TLS that knows the authority by the token's fingerprint.
pub(crate) fn post(token: &JoinToken, path: &str, body: &[u8]) -> std::io::Result<Reply> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: ns.pool\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    send(token, &[head.as_bytes(), body].concat())
}

/// Sends octets over TLS and reads the answer.
pub(crate) fn send(token: &JoinToken, octets: &[u8]) -> std::io::Result<Reply> {
    let config = certs::tls::client_config_pinned(token.authority).unwrap();
    let name = certs::tls_name(&token.domain, "ns");
    let mut connection =
        rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).map_err(std::io::Error::other)?;
    let mut socket = TcpStream::connect(token.join)?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    // A server that has refused already may have closed its side; its answer counts.
    let _ = stream.write_all(octets);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(_) if !answer.is_empty() => {}
        Err(error) => return Err(error),
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| answer[at + 4..].to_vec());
    match (status, body) {
        (Some(status), Some(body)) => Ok(Reply { status, body }),
        _ => Err(std::io::Error::other(format!("no answer but {text:?}"))),
    }
}

/// A server that joined and speaks as its agent would.
pub(crate) struct Server {
    pub(crate) name: ServerName,
    pub(crate) domain: Domain,
    key: TsigKey,
    dns: SocketAddr,
    socket: UdpSocket,
}

impl Server {
    pub(crate) fn new(joined: Joined, dns: SocketAddr) -> Server {
        let key = TsigKey::from_bind_file(&joined.answer.tsig_key).unwrap();
        Server::with_key(joined.server, joined.domain, key, dns)
    }

    pub(crate) fn with_key(name: ServerName, domain: Domain, key: TsigKey, dns: SocketAddr) -> Server {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        Server {
            name,
            domain,
            key,
            dns,
            socket,
        }
    }

    /// The librarian is at another address now.
    pub(crate) fn moved(&mut self, dns: SocketAddr) {
        self.dns = dns;
    }

    /// Sends a message signed, and verifies the answer's signature.
    pub(crate) fn exchange(&self, mut message: Vec<u8>) -> Answer {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mac = sign_request(&mut message, &self.key, now_s);
        self.socket.send_to(&message, self.dns).unwrap();
        let mut octets = [0; 4096];
        let count = self.socket.recv(&mut octets).unwrap();
        verify_response(&octets[..count], &self.key, &mac, now_s).unwrap();
        read_answer(&octets[..count]).unwrap()
    }

    /// Whether it is told its want in time.
    pub(crate) fn is_answered(&self, patience: Duration) -> bool {
        let name = self.domain.in_pool(self.name.as_str()).prepend_label("_want").unwrap();
        let mut message = build_question(7, &name, RecordType::TXT, Some(1232));
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        sign_request(&mut message, &self.key, now_s);
        // On a socket of its own, so that a late answer is nobody else's.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(&message, self.dns).unwrap();
        socket.recv(&mut [0; 4096]).is_ok()
    }

    pub(crate) fn ask(&self, name: &Name, kind: RecordType) -> Answer {
        self.exchange(build_question(7, name, kind, Some(1232)))
    }

    /// What the librarian wants of it.
    pub(crate) fn want(&self) -> Want {
        let name = self.domain.in_pool(self.name.as_str()).prepend_label("_want").unwrap();
        let answer = self.ask(&name, RecordType::TXT);
        let txt = answer.txt().next().expect("every server has a want");
        Want::from_strings(&txt.txt_data).unwrap()
    }

    /// Says what it has.
    pub(crate) fn report(&self, objects: u64, plan: u64) {
        self.tell(&self.has(objects, plan));
    }

    /// What it has, as a server of the first release says it.
    pub(crate) fn has(&self, objects: u64, plan: u64) -> Has {
        Has {
            release: "0.1.0".to_owned(),
            role: Role::Serving,
            objects,
            bytes: objects * 1000,
            capacity: 1 << 30,
            load: 10,
            heat: 0,
            errors: 0,
            unreadable: 0,
            plan,
            commits: 1,
            peer_port: 9101,
            quarantined: 0,
            audit: None,
            upkeep: None,
            hot: None,
            kept: None,
        }
    }

    /// Says this of itself.
    pub(crate) fn tell(&self, has: &Has) {
        let here = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let update = build_has_update(&self.domain, 8, &self.name, has, 9001, &here).unwrap();
        let answer = self.exchange(update);
        assert_eq!(answer.code.low(), 0, "{:?}", answer.extended_errors);
    }

    /// Changes registers; answers with the rcode's number.
    pub(crate) fn change(&self, changes: &[RegisterChange]) -> u8 {
        let update = build_register_update(&self.domain, 9, changes).unwrap();
        self.exchange(update).code.low()
    }
}

/// Waits for the end of a process, which must come in time.
pub(crate) fn wait(mut process: Child) -> std::process::ExitStatus {
    let mut status = None;
    until("the process ends", || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    status.expect("it has ended")
}

/// Asks again and again until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + WAIT;
    while !holds() {
        assert!(std::time::Instant::now() < end, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Replaces one line of a file, as a person does.
pub(crate) fn set(path: &Path, key: &str, value: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            if line.starts_with(key) {
                format!("{key} = {value}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}
