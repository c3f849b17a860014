//! Questions to another pool's librarian, one after another: over UDP, over TCP where the answer is cut.
//!
//! Specifications: RFC 1035 section 4.2, RFC 8945 (TSIG), RFC 5452 section 9 (what is no answer is passed over).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use zones::Answer;
use zones::query::{UDP_PAYLOAD_OCTETS, build_question, read_answer};
use zones::tsig::{TsigKey, sign_request, verify_response};

/// How long one server may take over UDP, and for each step over TCP.
const WAIT: Duration = Duration::from_secs(2);
/// How often all servers are asked.
const ROUNDS: usize = 2;

/// Asks servers in their order until one answers with records, or with that there are none.
///
/// # Errors
///
/// Says what the last of them did instead.
pub(super) fn ask(
    servers: &[SocketAddr],
    key: Option<&TsigKey>,
    name: &Name,
    kind: RecordType,
) -> anyhow::Result<Answer> {
    let mut last = None;
    for server in std::iter::repeat_n(servers, ROUNDS).flatten() {
        match ask_one(*server, key, name, kind) {
            Ok(answer) => match answer.code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(answer),
                code => {
                    let why = answer.why().unwrap_or("it does not say why");
                    last = Some(anyhow::anyhow!("{server} answers {code}: {why}"));
                }
            },
            Err(error) => last = Some(error.context(format!("ask {server}"))),
        }
    }
    let last = last.unwrap_or_else(|| anyhow::anyhow!("it has no address"));
    Err(last.context(format!("look up {name} {kind}")))
}

fn ask_one(server: SocketAddr, key: Option<&TsigKey>, name: &Name, kind: RecordType) -> anyhow::Result<Answer> {
    let id = rand::random();
    let mut question = build_question(id, name, kind, Some(UDP_PAYLOAD_OCTETS));
    let mac = key.map(|key| sign_request(&mut question, key, now_s()));
    let accept = |octets: &[u8]| -> anyhow::Result<Answer> {
        let answer = read_answer(octets)?;
        if let (Some(key), Some(mac)) = (key, &mac) {
            verify_response(octets, key, mac, now_s()).with_context(|| format!("TSIG key {}", key.name()))?;
        }
        // An error answer may come without the question.
        let error = answer.question.is_none() && answer.code != ResponseCode::NoError && answer.id == id;
        if !error && !answer.answers_to(id, name, kind) {
            bail!("an answer to another question came");
        }
        Ok(answer)
    };
    let answer = over_udp(server, &question, &accept)?;
    if answer.truncated {
        return over_tcp(server, &question, &accept);
    }
    Ok(answer)
}

fn over_udp(
    server: SocketAddr,
    question: &[u8],
    accept: &impl Fn(&[u8]) -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(server)?;
    socket.send(question)?;
    let until = Instant::now() + WAIT;
    let mut octets = vec![0; usize::from(UDP_PAYLOAD_OCTETS)];
    let mut passed_over = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(passed_over.unwrap_or_else(|| anyhow::anyhow!("no answer came in {WAIT:?}")));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut octets) {
            Ok(length) => match accept(&octets[..length]) {
                Ok(answer) => return Ok(answer),
                Err(error) => passed_over = Some(error),
            },
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn over_tcp(
    server: SocketAddr,
    question: &[u8],
    accept: &impl Fn(&[u8]) -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let mut stream = connect(server)?;
    let length = u16::try_from(question.len()).expect("a question is short");
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets)?;
    accept(&octets)
}

/// A TCP connection of which no step takes longer than the wait.
pub(super) fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(stream)
}

fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
