//! Signed questions to the librarian: over UDP, again over TCP where the answer was cut short.
//!
//! Each sending has its own random id and its own socket, so its own random port; an answer counts only if its
//! signature holds over the question's, and if it repeats id and question. Anything else that comes is passed over, and the
//! wait goes on (RFC 8945 section 5.4, RFC 5452).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use zones::query::{self, Answer};
use zones::tsig::{self, AnswerSignatureError, TsigKey};

use super::Unreachable;
use super::line::{read_message, write_message};
use crate::clock::{self, BootInstant};

/// How long each sending waits for its answer. A lost packet costs the first of these.
const WAITS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(1500),
];
/// Most questions that are open at once; further ones wait. Each has a socket.
const OPEN_MAX: usize = 256;
/// Largest answer over UDP; a larger buffer than asked for, so that a longer packet is noticed as such.
const UDP_BUFFER_OCTETS: usize = 4096;

/// Asks the librarian.
#[derive(Debug)]
pub(crate) struct Asker {
    librarian: SocketAddr,
    key: TsigKey,
    open: Semaphore,
}

/// An answer whose signature holds.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// When the question left: the answer is at least as fresh as this.
    pub(crate) asked_at: BootInstant,
    pub(crate) answer: Answer,
}

impl Asker {
    pub(crate) fn new(librarian: SocketAddr, key: TsigKey) -> Asker {
        Asker {
            librarian,
            key,
            open: Semaphore::new(OPEN_MAX),
        }
    }

    /// The librarian's address.
    pub(crate) fn librarian(&self) -> SocketAddr {
        self.librarian
    }

    /// Asks, until an answer comes or the last wait is over.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Answered, Unreachable> {
        self.exchange(&Asked::Question(name, kind)).await
    }

    /// Sends an update that may be applied twice without harm, until an answer comes or the last wait is over.
    pub(crate) async fn tell(&self, build: &(dyn Fn(u16) -> Vec<u8> + Sync)) -> Result<Answered, Unreachable> {
        self.exchange(&Asked::Update(build)).await
    }

    /// The error for an answer that is neither yes nor no.
    pub(crate) fn refused(&self, code: hickory_proto::op::ResponseCode, answer: &Answer) -> Unreachable {
        let why = match answer.why() {
            Some(why) => format!("{code}: {why}"),
            None => code.to_string(),
        };
        Unreachable {
            librarian: self.librarian,
            why,
        }
    }
    async fn exchange(&self, asked: &Asked<'_>) -> Result<Answered, Unreachable> {
        let _open = self.open.acquire().await.expect("the semaphore is never closed");
        let mut why = "no answer".to_owned();
        for wait in WAITS {
            let until = Instant::now() + wait;
            match self.once(asked, until).await {
                Ok(answered) => return Ok(answered),
                Err(AskError::Final(what)) => {
                    why = what;
                    break;
                }
                Err(AskError::Again(what)) => {
                    why = what;
                    // A refusal by the host comes at once; the librarian may be starting.
                    tokio::time::sleep_until(until).await;
                }
            }
        }
        Err(Unreachable {
            librarian: self.librarian,
            why,
        })
    }

    async fn once(&self, asked: &Asked<'_>, until: Instant) -> Result<Answered, AskError> {
        let answered = timeout_at(until, self.udp(asked)).await??;
        if !answered.answer.truncated {
            return Ok(answered);
        }
        timeout_at(until + WAITS[1], self.tcp(asked)).await?
    }

    async fn udp(&self, asked: &Asked<'_>) -> Result<Answered, AskError> {
        let question = Question::new(&self.key, asked);
        let local: SocketAddr = match self.librarian {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(self.librarian).await?;
        let asked_at = BootInstant::now();
        socket.send(&question.octets).await?;
        let mut buffer = vec![0; UDP_BUFFER_OCTETS];
        loop {
            let octets = socket.recv(&mut buffer).await?;
            if let Some(answer) = question.accept(&self.key, &buffer[..octets])? {
                return Ok(Answered { asked_at, answer });
            }
        }
    }

    async fn tcp(&self, asked: &Asked<'_>) -> Result<Answered, AskError> {
        let question = Question::new(&self.key, asked);
        let mut stream = TcpStream::connect(self.librarian).await?;
        stream.set_nodelay(true)?;
        let asked_at = BootInstant::now();
        write_message(&mut stream, &question.octets).await?;
        loop {
            let octets = read_message(&mut stream).await?;
            if let Some(answer) = question.accept(&self.key, &octets)? {
                return Ok(Answered { asked_at, answer });
            }
        }
    }
}

/// What is asked.
enum Asked<'a> {
    Question(&'a Name, RecordType),
    /// An update, built under an id.
    Update(&'a (dyn Fn(u16) -> Vec<u8> + Sync)),
}

/// A question as it was sent.
struct Question<'a> {
    id: u16,
    asked: &'a Asked<'a>,
    octets: Vec<u8>,
    mac: tsig::Mac,
}

impl<'a> Question<'a> {
    fn new(key: &TsigKey, asked: &'a Asked<'a>) -> Question<'a> {
        let id = rand::random();
        let mut octets = match asked {
            Asked::Question(name, kind) => query::build_question(id, name, *kind, Some(query::UDP_PAYLOAD_OCTETS)),
            Asked::Update(build) => build(id),
        };
        let mac = tsig::sign_request(&mut octets, key, clock::unix_s());
        Question { id, asked, octets, mac }
    }

    /// The answer, if these octets are it; `None` to go on waiting.
    fn accept(&self, key: &TsigKey, octets: &[u8]) -> Result<Option<Answer>, AskError> {
        match tsig::verify_response(octets, key, &self.mac, clock::unix_s()) {
            Ok(()) => {}
            Err(error) if may_be_forged(&error) => {
                tracing::debug!(%error, "passed over an answer");
                return Ok(None);
            }
            Err(error) => return Err(AskError::Final(error.to_string())),
        }
        let Ok(answer) = query::read_answer(octets) else {
            return Ok(None);
        };
        let ours = match self.asked {
            Asked::Question(name, kind) => answer.answers_to(self.id, name, *kind),
            Asked::Update(_) => answer.id == self.id,
        };
        Ok(ours.then_some(answer))
    }
}

/// Whether anybody could have written an answer that fails like this, so that the real one may still come.
pub(crate) fn may_be_forged(error: &AnswerSignatureError) -> bool {
    match error {
        AnswerSignatureError::BadTime { .. }
        | AnswerSignatureError::ClockRefused { .. }
        | AnswerSignatureError::Refused { .. } => false,
        // Unsigned, Malformed, BadSignature, Rejected, and whatever comes later.
        _ => true,
    }
}

enum AskError {
    /// Ask again.
    Again(String),
    /// Asking again does not help.
    Final(String),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> AskError {
        AskError::Again(error.to_string())
    }
}

impl From<tokio::time::error::Elapsed> for AskError {
    fn from(_: tokio::time::error::Elapsed) -> AskError {
        AskError::Again("no answer came in time".to_owned())
    }
}
