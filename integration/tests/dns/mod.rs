//! What the DNS tests share: pools, and a plain client over blocking sockets that signs and verifies.
//!
//! Each test file uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use integration::harness::Pool;
use zones::query::{UDP_PAYLOAD_OCTETS, build_question, read_answer};
use zones::tsig::{sign_request, verify_response};
use zones::update::build_register_update;
use zones::{Answer, Domain, Epoch, Level, Mac, Register, RegisterChange, ServerName, State, TsigKey, Tx};

/// How long one answer may take.
const WAIT: Duration = Duration::from_secs(20);

/// A pool that lists loopback as a network, as the harness does, so that programs which cannot sign are answered. It is
/// shared by the tests that run at the same time and ends with the last of them.
pub fn open_pool() -> Arc<Pool> {
    static SHARED: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = shared.upgrade() {
        return pool;
    }
    let builder = Pool::builder(env!("CARGO_BIN_EXE_demo")).servers(3);
    let pool = builder.start().expect("start a pool");
    let pool = Arc::new(pool);
    *shared = Arc::downgrade(&pool);
    pool
}

/// A pool in which only keys count.
pub fn closed_pool() -> Pool {
    let builder = Pool::builder(env!("CARGO_BIN_EXE_demo")).servers(3);
    let builder = builder.librarian_setting("networks", Vec::<String>::new());
    builder.start().expect("start a pool")
}

pub fn domain(pool: &Pool) -> Domain {
    pool.domain().parse().expect("the pool's domain")
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub fn server(name: &str) -> ServerName {
    name.parse().expect("a server's name")
}

pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is after 1970").as_secs()
}

pub fn fresh_tx() -> Tx {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets).expect("random bits");
    Tx(octets)
}

pub fn fresh_id() -> u16 {
    let mut octets = [0; 2];
    getrandom::fill(&mut octets).expect("random bits");
    u16::from_be_bytes(octets)
}

/// A new object's register.
pub fn new_register(address: &str, owner: &str) -> Register {
    Register {
        address: address.parse().expect("an address"),
        epoch: Epoch::FIRST,
        owner: server(owner),
        state: State::Stable,
        tx: fresh_tx(),
        holders: vec![server(owner)],
        kind: "photo".parse().expect("a type"),
        schema: 1,
        level: Level(1),
    }
}

pub fn creation(address: &str, owner: &str) -> RegisterChange {
    RegisterChange {
        old: None,
        new: new_register(address, owner),
    }
}

/// The same register with a fresh tx, which the table allows its owner.
pub fn touched(old: &Register) -> RegisterChange {
    RegisterChange {
        old: Some(old.clone()),
        new: Register {
            tx: fresh_tx(),
            ..old.clone()
        },
    }
}

/// A register's TXT record as dig and nsupdate spell it.
pub fn quoted(register: &Register) -> String {
    let strings: Vec<String> = register.strings().iter().map(|string| format!("{string:?}")).collect();
    strings.join(" ")
}

pub fn read_key(pool: &Pool, name: &str) -> TsigKey {
    let text = std::fs::read_to_string(pool.key(name)).expect("a key file");
    TsigKey::from_bind_file(&text).expect("a key")
}

/// One key's holder, who asks and updates one librarian.
pub struct Client {
    pub server: SocketAddr,
    pub domain: Domain,
    pub key: Option<TsigKey>,
}

impl Client {
    pub fn new(pool: &Pool, key: &str) -> Client {
        Client {
            server: pool.dns(),
            domain: domain(pool),
            key: Some(read_key(pool, key)),
        }
    }

    pub fn stranger(pool: &Pool) -> Client {
        Client {
            server: pool.dns(),
            domain: domain(pool),
            key: None,
        }
    }

    /// Signs a message, if there is a key.
    pub fn sign(&self, message: &mut Vec<u8>) -> Option<Mac> {
        self.key.as_ref().map(|key| sign_request(message, key, now_s()))
    }

    /// Reads an answer; one to a signed message must be signed.
    pub fn verified(&self, octets: &[u8], mac: Option<&Mac>) -> Result<Answer> {
        if let (Some(key), Some(mac)) = (&self.key, mac) {
            verify_response(octets, key, mac, now_s()).context("verify the answer")?;
        }
        read_answer(octets).context("read the answer")
    }

    pub fn connect(&self) -> Result<Connection> {
        Connection::new(self.server)
    }

    /// Sends one message over UDP.
    pub fn exchange_udp(&self, mut message: Vec<u8>) -> Result<Answer> {
        let mac = self.sign(&mut message);
        let socket = udp(self.server)?;
        socket.send(&message)?;
        let mut octets = [0; 65_535];
        let length = socket.recv(&mut octets).context("receive a datagram")?;
        self.verified(&octets[..length], mac.as_ref())
    }

    /// Sends one message over TCP.
    pub fn exchange_tcp(&self, mut message: Vec<u8>) -> Result<Answer> {
        let mac = self.sign(&mut message);
        let mut connection = self.connect()?;
        connection.send(&message)?;
        self.verified(&connection.receive()?, mac.as_ref())
    }

    pub fn ask(&self, name: &Name, kind: RecordType) -> Result<Answer> {
        let id = fresh_id();
        let answer = self.exchange_udp(build_question(id, name, kind, Some(UDP_PAYLOAD_OCTETS)))?;
        if answer.truncated {
            return self.exchange_tcp(build_question(id, name, kind, Some(UDP_PAYLOAD_OCTETS)));
        }
        Ok(answer)
    }

    /// The register of an address as it is now.
    pub fn register(&self, address: &str) -> Result<Option<Register>> {
        let name = self.domain.obj_name(&address.parse()?)?;
        register_in(&self.ask(&name, RecordType::TXT)?)
    }

    pub fn update(&self, changes: &[RegisterChange]) -> Result<Answer> {
        self.exchange_tcp(build_register_update(&self.domain, fresh_id(), changes)?)
    }

    /// Creates an object that nobody has.
    pub fn create(&self, address: &str, owner: &str) -> Result<Register> {
        let change = creation(address, owner);
        let answer = self.update(std::slice::from_ref(&change))?;
        ensure!(
            answer.code == ResponseCode::NoError,
            "create {address}: {} {:?}",
            answer.code,
            answer.why()
        );
        Ok(change.new)
    }
}

/// The register in an answer to a TXT question, if there is one.
pub fn register_in(answer: &Answer) -> Result<Option<Register>> {
    match answer.code {
        ResponseCode::NoError => answer
            .txt()
            .next()
            .map(|txt| Register::from_strings(&txt.txt_data).context("read the register"))
            .transpose(),
        ResponseCode::NXDomain => Ok(None),
        code => bail!("{code} {:?}", answer.why()),
    }
}

pub fn udp(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.connect(server)?;
    Ok(socket)
}

/// One TCP connection.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub fn new(server: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&server, WAIT).context("connect")?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream })
    }

    pub fn wait_at_most(&self, wait: Duration) -> Result<()> {
        Ok(self.stream.set_read_timeout(Some(wait))?)
    }

    pub fn try_clone(&self) -> Result<Connection> {
        let stream = self.stream.try_clone()?;
        Ok(Connection { stream })
    }

    /// Sends octets as they are, without a length.
    pub fn send_raw(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(octets)?)
    }

    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut framed = u16::try_from(message.len())?.to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        self.send_raw(&framed)
    }

    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).context("read a length")?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut message).context("read a message")?;
        Ok(message)
    }
}

/// The id of a message.
pub fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}
