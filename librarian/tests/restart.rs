//! A librarian is restarted while others ask it, and no question is lost.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use rustix::io::FdFlags;
use rustix::process::Signal;
use support::{Librarian, Server, until};
use zones::query::{build_question, read_answer};
use zones::{Domain, Epoch, Level, Register, RegisterChange, State, Tx};

/// Listed networks may ask unsigned.
const OPEN: &str = "networks = [\"127.0.0.0/8\"]";
/// How long a question waits for its answer; it is never asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers to each asker before and after every restart: so many that some are asked in its midst.
const ANSWERS: u64 = 200;

fn register(address: &str, tx: u8) -> Register {
    Register {
        address: address.parse().unwrap(),
        epoch: Epoch::FIRST,
        owner: "s1".parse().unwrap(),
        state: State::Stable,
        tx: Tx([tx; 16]),
        holders: vec!["s1".parse().unwrap()],
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
    }
}

fn create(server: &Server, address: &str, tx: u8) -> u8 {
    server.change(&[RegisterChange {
        old: None,
        new: register(address, tx),
    }])
}

/// Name of an object that the test registers.
fn object(domain: &Domain) -> Name {
    domain.obj_name(&"3.1".parse().unwrap()).unwrap()
}

/// Says what it has, and registers an object.
fn settle(librarian: &Librarian) -> Server {
    let server = librarian.member(&["s1"]);
    server.report(1, 0);
    assert_eq!(create(&server, "3.1", 1), 0);
    server
}

/// Clients that ask one after the other, unsigned, and never again.
struct Askers {
    librarian: SocketAddr,
    question: Vec<u8>,
    stop: AtomicBool,
    answered: [AtomicU64; 3],
    lost: AtomicU64,
}

impl Askers {
    fn new(librarian: SocketAddr, domain: &Domain) -> Askers {
        Askers {
            librarian,
            question: build_question(7, &object(domain), RecordType::SRV, Some(1232)),
            stop: AtomicBool::new(false),
            answered: Default::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Asks for as long as `during` takes; two clients over UDP, one over TCP with a connection for every question.
    fn ask_during(&self, during: impl FnOnce()) {
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&self.stop);
            scope.spawn(|| self.ask(0, || self.over_udp()));
            scope.spawn(|| self.ask(1, || self.over_udp()));
            scope.spawn(|| self.ask(2, || self.over_tcp()));
            during();
        });
    }

    fn ask(&self, number: usize, once: impl Fn() -> std::io::Result<Vec<u8>>) {
        while !self.stop.load(Ordering::Relaxed) {
            let answer = once().and_then(|octets| read_answer(&octets).map_err(std::io::Error::other));
            match answer {
                Ok(answer) if answer.srv().count() == 1 => {
                    self.answered[number].fetch_add(1, Ordering::Relaxed);
                }
                other => {
                    eprintln!("asker {number}: {other:?}");
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn over_udp(&self) -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(self.librarian)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(&self.question)?;
        let mut octets = vec![0; 1500];
        let count = socket.recv(&mut octets)?;
        octets.truncate(count);
        Ok(octets)
    }

    fn over_tcp(&self) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.librarian, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = u16::try_from(self.question.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes(), &self.question[..]].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut octets)?;
        Ok(octets)
    }

    /// Waits until every client has got some answers more.
    fn wait(&self) {
        let before = self.answered.each_ref().map(|count| count.load(Ordering::Relaxed));
        until("all clients are answered", || {
            let now = self.answered.each_ref().map(|count| count.load(Ordering::Relaxed));
            now.iter().zip(before).all(|(now, before)| now - before >= ANSWERS)
        });
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Ends the clients also when the test fails meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn librarian_is_taken_over_three_times_under_questions_and_none_is_lost() {
    let mut librarian = Librarian::start_with(OPEN);
    let server = settle(&librarian);
    let (dns, https) = (librarian.dns, librarian.https);
    let askers = Askers::new(dns, &server.domain);
    askers.ask_during(|| {
        askers.wait();
        for round in 0..3 {
            let old = librarian.take_over();
            assert_eq!((librarian.dns, librarian.https), (dns, https));
            assert!(support::wait(old).success(), "the old one ends by itself");
            // The new one has what was registered, and changes it.
            assert_eq!(create(&server, &format!("3.2.{round}"), 2 + round), 0);
            askers.wait();
        }
    });
    assert_eq!(askers.lost(), 0);
    // Joining and commands go on at the same places.
    librarian.member(&["s2"]);
    assert_eq!(librarian.json(&["pool", "--json"])["objects"], 4);
    assert!(librarian.end(Signal::TERM).success());
}

#[test]
fn taking_over_where_nobody_runs_is_a_start() {
    let mut librarian = Librarian::start_with(OPEN);
    librarian.end(Signal::KILL);
    librarian.run_with(&["run", "--take-over"]);
    settle(&librarian);
}

#[test]
fn librarian_whose_successor_dies_goes_on_and_gives_agents_no_answer_meanwhile() {
    let librarian = Librarian::start_with(OPEN);
    let server = settle(&librarian);
    let askers = Askers::new(librarian.dns, &server.domain);
    askers.ask_during(|| {
        askers.wait();
        let mut successor = Successor::ask(&librarian.path("control.sock"));
        assert_eq!(successor.hears(), "{\"done\":{\"sockets\":[\"dns\"");
        // The sockets went by with the line and are closed; nothing has changed yet.
        assert_eq!(create(&server, "3.3", 3), 0);
        successor.says("\"let-go\"\n");
        assert_eq!(successor.hears(), "\"free\"");
        // Everybody but agents is answered; the registry is anybody's.
        askers.wait();
        assert!(!server.is_answered(Duration::from_millis(500)));
        let registry = redb::Database::open(librarian.path("registry.redb")).expect("nobody holds it");
        drop((registry, successor));
        until("agents are answered again", || {
            server.is_answered(Duration::from_millis(500))
        });
        assert_eq!(create(&server, "3.4", 4), 0);
        askers.wait();
    });
    assert_eq!(askers.lost(), 0);
    assert_eq!(librarian.json(&["pool", "--json"])["objects"], 3);
}

#[test]
fn librarian_with_other_addresses_in_its_settings_takes_nothing_over() {
    let librarian = Librarian::start_with(OPEN);
    let server = settle(&librarian);
    support::set(&librarian.path("librarian.toml"), "listen_dns", "\"127.0.0.1:1\"");
    let refused = librarian.fails(1, &["run", "--take-over"]);
    assert!(
        refused.contains("listen_dns") && refused.contains("without --take-over"),
        "{refused}"
    );
    assert_eq!(create(&server, "3.2", 2), 0, "the one that ran goes on");
}

#[test]
fn restart_with_sockets_of_the_service_manager_loses_no_question() {
    let mut librarian = Librarian::start_with(OPEN);
    librarian.end(Signal::TERM);
    let sockets = Held::at(librarian.dns, librarian.https);
    for (key, address) in [("listen_dns", librarian.dns), ("listen_https", librarian.https)] {
        support::set(&librarian.path("librarian.toml"), key, &format!("\"{address}\""));
    }
    librarian.started(sockets.start(&librarian, ["dns", "dns", "join"]));
    let server = settle(&librarian);
    let askers = Askers::new(librarian.dns, &server.domain);
    askers.ask_during(|| {
        askers.wait();
        for round in 0..3 {
            assert!(librarian.end(Signal::TERM).success());
            // Nobody runs now: a connection is made all the same, and waits.
            let waiting = TcpStream::connect(librarian.dns).unwrap();
            librarian.started(sockets.start(&librarian, ["dns", "dns", "join"]));
            drop(waiting);
            assert_eq!(create(&server, &format!("3.2.{round}"), 2 + round), 0);
            askers.wait();
        }
    });
    assert_eq!(askers.lost(), 0);
}

#[test]
fn sockets_of_the_service_manager_must_be_named_and_where_the_settings_say() {
    let mut librarian = Librarian::start_with(OPEN);
    librarian.end(Signal::TERM);
    let sockets = Held::at(librarian.dns, librarian.https);
    let refused = |names| {
        let mut process = sockets.start(&librarian, names);
        let mut text = String::new();
        process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(!process.wait().unwrap().success());
        text
    };
    assert!(refused(["dns", "dns", "unknown"]).contains("FileDescriptorName="));
    assert!(refused(["join", "dns", "join"]).contains("ListenDatagram="));
    support::set(&librarian.path("librarian.toml"), "listen_dns", "\"127.0.0.1:1\"");
    assert!(refused(["dns", "dns", "join"]).contains("listen_dns"));
}

#[test]
fn service_manager_is_told_of_readiness_of_life_and_of_the_end() {
    let mut librarian = Librarian::start_with(OPEN);
    librarian.end(Signal::TERM);
    let manager = UnixDatagram::bind(librarian.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hears = |word: &str| {
        let mut octets = [0; 256];
        loop {
            let count = manager.recv(&mut octets).expect(word);
            if octets[..count].trim_ascii() == word.as_bytes() {
                return;
            }
        }
    };
    let mut command = librarian.command(&["run"]);
    command.env("NOTIFY_SOCKET", librarian.path("notify"));
    command.env("WATCHDOG_USEC", "300000");
    librarian.started(command.stdout(Stdio::piped()).spawn().unwrap());
    hears("READY=1");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    assert!(librarian.end(Signal::TERM).success());
    hears("STOPPING=1");
}

/// Sockets that outlive the librarian, as in a service manager.
struct Held {
    sockets: [OwnedFd; 3],
}

impl Held {
    fn at(dns: SocketAddr, join: SocketAddr) -> Held {
        let datagrams = UdpSocket::bind(dns).unwrap();
        let sockets: [OwnedFd; 3] = [
            datagrams.into(),
            TcpListener::bind(dns).unwrap().into(),
            TcpListener::bind(join).unwrap().into(),
        ];
        for socket in &sockets {
            rustix::io::fcntl_setfd(socket.as_fd(), FdFlags::empty()).unwrap();
        }
        Held { sockets }
    }

    /// Starts a librarian with these sockets as descriptors 3 to 5: by a shell, since the name of the process is known only in it.
    fn start(&self, librarian: &Librarian, names: [&str; 3]) -> Child {
        let [datagrams, dns, join] = self.sockets.each_ref().map(AsRawFd::as_raw_fd);
        // From the highest to itself and down: none is overwritten before it has been copied.
        let script = format!(
            "exec 103<&{datagrams} 104<&{dns} 105<&{join}; exec 3<&103 4<&104 5<&105 103<&- 104<&- 105<&-; \
             export LISTEN_PID=$$; exec \"$@\""
        );
        let run = librarian.command(&["run"]);
        let mut command = Command::new("bash");
        command.args(["-c", &script, "librarian"]);
        command.arg(run.get_program()).args(run.get_args());
        command.env("LISTEN_FDS", "3").env("LISTEN_FDNAMES", names.join(":"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// A process that takes over, step by step.
struct Successor {
    stream: UnixStream,
    heard: BufReader<UnixStream>,
}

impl Successor {
    fn ask(path: &Path) -> Successor {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let heard = BufReader::new(stream.try_clone().unwrap());
        let mut successor = Successor { stream, heard };
        successor.says("{\"command\":\"hand-over\"}\n");
        successor
    }

    fn says(&mut self, line: &str) {
        self.stream.write_all(line.as_bytes()).unwrap();
    }

    /// One line, up to its first comma.
    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.heard.read_line(&mut line).unwrap();
        line.trim_end().split(',').next().unwrap_or_default().to_owned()
    }
}
