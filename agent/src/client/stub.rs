//! A stub resolver of our own: one question, signed if there is a key, over UDP, over TCP if the answer was cut.
//!
//! The system's resolver knows neither SRV nor TSIG. Every UDP question has a socket of its own, so that a forged answer
//! must guess a port besides the id (RFC 5452 section 9.2).
//!
//! Specifications: RFC 1035 section 4.2, RFC 7766 (TCP), RFC 8945 (TSIG), RFC 5452.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use zones::query::{Answer, UDP_PAYLOAD_OCTETS, build_question, read_answer};
use zones::tsig::{Mac, TsigKey, sign_request, verify_response};

/// How long one server may take to answer by UDP; then the next one is asked.
const UDP_WAIT: Duration = Duration::from_millis(800);
/// How long one server may take by TCP.
const TCP_WAIT: Duration = Duration::from_secs(3);
/// How often all servers are asked in turn.
const ROUNDS: usize = 3;
/// Most questions under way at once: each has a socket.
const QUESTIONS_MAX: usize = 128;
/// Most datagrams looked at for one question: more is a flood of forgeries.
const DATAGRAMS_MAX: usize = 32;

/// Asks DNS servers.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    key: Option<TsigKey>,
    open: Semaphore,
    asked: AtomicU64,
}

/// Why there is no answer to a question.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StubError {
    /// No server answered in time.
    #[error("no DNS server answers ({last}): check the address of the librarian, and that it runs")]
    Silent {
        /// What happened the last time.
        last: Arc<str>,
    },
    /// A server refuses the question.
    #[error("DNS answers {code}: {why}")]
    Refused {
        /// Its rcode.
        code: ResponseCode,
        /// Its words, if it has some.
        why: Arc<str>,
    },
}

impl Resolver {
    /// Asks these servers, in this order; signs with `key`.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, key: Option<TsigKey>) -> Resolver {
        Resolver {
            servers,
            key,
            open: Semaphore::new(QUESTIONS_MAX),
            asked: AtomicU64::new(0),
        }
    }

    /// How many questions were sent.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Asks one question. An answer has rcode NOERROR or NXDOMAIN.
    ///
    /// # Errors
    ///
    /// [`StubError::Silent`] when nobody answers, [`StubError::Refused`] for any other rcode.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Result<Answer, StubError> {
        let _open = self.open.acquire().await.expect("the semaphore is never closed");
        let mut last: Arc<str> = "no server is configured".into();
        let mut refused = None;
        for _ in 0..ROUNDS {
            for server in &self.servers {
                self.asked.fetch_add(1, Ordering::Relaxed);
                match self.ask_server(*server, name, kind).await {
                    Ok(answer) => match answer.code {
                        ResponseCode::NoError | ResponseCode::NXDomain => return Ok(answer),
                        code => {
                            let why = answer.why().unwrap_or("it does not say why").into();
                            refused = Some(StubError::Refused { code, why });
                        }
                    },
                    Err(error) => last = format!("{server}: {error}").into(),
                }
            }
            // Another server may know better, but the same ones say the same again.
            if let Some(refused) = refused.take() {
                return Err(refused);
            }
        }
        Err(StubError::Silent { last })
    }

    async fn ask_server(&self, server: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Answer> {
        let answer = self.ask_udp(server, name, kind).await?;
        if answer.truncated {
            return self.ask_tcp(server, name, kind).await;
        }
        Ok(answer)
    }

    async fn ask_udp(&self, server: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Answer> {
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        let question = self.question(name, kind);
        socket.send(&question.octets).await?;
        let mut buffer = vec![0; usize::from(UDP_PAYLOAD_OCTETS)];
        let mut dropped = None;
        let wait = async {
            for _ in 0..DATAGRAMS_MAX {
                let length = socket.recv(&mut buffer).await?;
                // What is not the answer may be a forgery: the real one may still come (RFC 5452 section 9.1).
                match self.accept(&buffer[..length], &question, name, kind) {
                    Ok(answer) => return Ok(Some(answer)),
                    Err(why) => dropped = Some(why),
                }
            }
            Ok(None)
        };
        match tokio::time::timeout(UDP_WAIT, wait).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) | Err(_) => Err(match dropped {
                Some(why) => std::io::Error::other(why),
                None => std::io::ErrorKind::TimedOut.into(),
            }),
        }
    }

    async fn ask_tcp(&self, server: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Answer> {
        let talk = async {
            let mut stream = TcpStream::connect(server).await?;
            let question = self.question(name, kind);
            let length = u16::try_from(question.octets.len()).expect("a question is short");
            let mut octets = length.to_be_bytes().to_vec();
            octets.extend_from_slice(&question.octets);
            stream.write_all(&octets).await?;
            let length = stream.read_u16().await?;
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await?;
            self.accept(&answer, &question, name, kind)
                .map_err(std::io::Error::other)
        };
        tokio::time::timeout(TCP_WAIT, talk).await?
    }

    fn question(&self, name: &Name, kind: RecordType) -> Question {
        let id = rand::random();
        let mut octets = build_question(id, name, kind, Some(UDP_PAYLOAD_OCTETS));
        // A resolver in front recurses only when asked to; the librarian does not care.
        octets[2] |= RECURSION_DESIRED;
        let mac = self.key.as_ref().map(|key| sign_request(&mut octets, key, now_s()));
        Question { id, octets, mac }
    }

    /// The answer in a message, or why the message is none.
    fn accept(&self, octets: &[u8], question: &Question, name: &Name, kind: RecordType) -> Result<Answer, String> {
        let answer = read_answer(octets).map_err(|error| error.to_string())?;
        if answer.id != question.id {
            return Err("an answer to another question came".to_owned());
        }
        if let (Some(key), Some(mac)) = (&self.key, &question.mac) {
            verify_response(octets, key, mac, now_s()).map_err(|error| format!("TSIG key {}: {error}", key.name()))?;
        }
        // An error answer may come without the question.
        let error = answer.question.is_none() && answer.code != ResponseCode::NoError;
        if error || answer.answers_to(question.id, name, kind) {
            Ok(answer)
        } else {
            Err("an answer to another question came".to_owned())
        }
    }
}

struct Question {
    id: u16,
    octets: Vec<u8>,
    mac: Option<Mac>,
}

/// Bit RD in the third octet of a header (RFC 1035 section 4.1.1).
const RECURSION_DESIRED: u8 = 0x01;

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
