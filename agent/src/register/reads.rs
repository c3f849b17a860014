//! Questions about registers: all that wait at one moment go out together, over one TCP connection.
//!
//! A move asks for a register three times, and many objects move at once: a socket for each question cost more than the
//! question. An answer counts only if its signature holds over the question's and it repeats id and question. When one is
//! late, all that is open is asked again, newly signed, over a new connection; each question a bounded number of times.
//!
//! Specification: RFC 7766 (pipelining), RFC 8945 (TSIG), DESIGN.md section 7.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use zones::query;
use zones::tsig::{self, TsigKey};

use super::Unreachable;
use super::ask::{Answered, may_be_forged};
use super::line::{CONNECT_PAUSE, Line, frame, reply};
use crate::clock::{self, BootInstant};

/// Most questions that wait to be sent; whoever brings another one waits to hand it in.
const WAITING_MAX: usize = 4096;
/// Most questions without an answer yet.
const OPEN_MAX: usize = 1024;
/// How long an answer may take: far above what a librarian under load needs.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Most times that a question is sent, or that sending it is tried.
const TRIES_MAX: u32 = 3;

/// Takes questions for the task that sends them.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    librarian: SocketAddr,
    queue: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    name: Name,
    tries: u32,
    reply: oneshot::Sender<Result<Answered, String>>,
}

/// A question without an answer yet.
#[derive(Debug)]
struct Open {
    waiting: Waiting,
    mac: tsig::Mac,
    asked_at: BootInstant,
    until: Instant,
}

struct Worker {
    librarian: SocketAddr,
    key: TsigKey,
    waiting: mpsc::Receiver<Waiting>,
    /// To be asked once more.
    again: Vec<Waiting>,
    open: HashMap<u16, Open>,
    line: Option<Line>,
}

/// What woke the worker.
enum Event {
    Arrived(Option<Box<Waiting>>),
    Reply(Option<Vec<u8>>),
    Late,
}

impl Reader {
    /// Starts the task; it ends when the last handle is dropped.
    pub(crate) fn start(librarian: SocketAddr, key: TsigKey) -> Reader {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let worker = Worker {
            librarian,
            key,
            waiting,
            again: Vec::new(),
            open: HashMap::new(),
            line: None,
        };
        tokio::spawn(worker.run());
        Reader { librarian, queue }
    }

    /// Asks for the TXT records of a name until an answer comes or the bound is reached.
    pub(crate) async fn ask(&self, name: Name) -> Result<Answered, Unreachable> {
        let (reply, end) = oneshot::channel();
        let waiting = Waiting { name, tries: 0, reply };
        let unreachable = |why| Unreachable {
            librarian: self.librarian,
            why,
        };
        let stopped = || unreachable("this agent stops".to_owned());
        self.queue.send(waiting).await.map_err(|_| stopped())?;
        end.await.map_err(|_| stopped())?.map_err(unreachable)
    }
}

impl Worker {
    async fn run(mut self) {
        loop {
            let room = self.open.len() < OPEN_MAX;
            let late = self.open.values().map(|open| open.until).min();
            let event = tokio::select! {
                biased;
                reply = reply(&mut self.line) => Event::Reply(reply),
                waiting = self.waiting.recv(), if room => Event::Arrived(waiting.map(Box::new)),
                () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => Event::Late,
            };
            match event {
                Event::Arrived(Some(waiting)) => {
                    let mut questions = std::mem::take(&mut self.again);
                    questions.push(*waiting);
                    while self.open.len() + questions.len() < OPEN_MAX
                        && let Ok(waiting) = self.waiting.try_recv()
                    {
                        questions.push(waiting);
                    }
                    self.send(questions).await;
                }
                // The last handle is gone: nobody waits for what is still under way.
                Event::Arrived(None) => return,
                Event::Reply(Some(octets)) => {
                    self.answered(&octets);
                    while let Some(octets) = self.line.as_mut().and_then(Line::ready) {
                        self.answered(&octets);
                    }
                }
                // An idle connection is closed by the librarian; the next question opens another.
                Event::Reply(None) => self.hang_up("the librarian closed the connection"),
                Event::Late => self.hang_up("the librarian did not answer in time"),
            }
            while !self.again.is_empty() {
                let questions = std::mem::take(&mut self.again);
                self.send(questions).await;
            }
        }
    }

    /// Sends questions in one piece.
    async fn send(&mut self, mut questions: Vec<Waiting>) {
        for waiting in &mut questions {
            waiting.tries += 1;
        }
        if self.line.is_none() {
            match Line::connect(self.librarian, OPEN_MAX).await {
                Ok(line) => self.line = Some(line),
                Err(error) => {
                    tracing::debug!(librarian = %self.librarian, %error, "cannot connect for questions");
                    tokio::time::sleep(CONNECT_PAUSE).await;
                    return self.try_again(questions, &error.to_string());
                }
            }
        }
        let mut framed = Vec::new();
        let now_s = clock::unix_s();
        // Before it leaves: an answer is at least as fresh as this.
        let asked_at = BootInstant::now();
        let until = Instant::now() + ANSWER_WAIT;
        for waiting in questions {
            if waiting.reply.is_closed() {
                continue;
            }
            let id = self.free_id();
            let mut octets = query::build_question(id, &waiting.name, RecordType::TXT, Some(query::UDP_PAYLOAD_OCTETS));
            let mac = tsig::sign_request(&mut octets, &self.key, now_s);
            frame(&octets, &mut framed).expect("a question is short");
            let open = Open {
                waiting,
                mac,
                asked_at,
                until,
            };
            self.open.insert(id, open);
        }
        let line = self.line.as_mut().expect("just made");
        match timeout(ANSWER_WAIT, line.write(&framed)).await {
            Ok(Ok(())) => {}
            // A part of it or all may be on its way.
            Ok(Err(_)) | Err(_) => self.hang_up("the connection broke while asking"),
        }
    }

    /// A random id that no open question has.
    fn free_id(&self) -> u16 {
        loop {
            let id = rand::random();
            if !self.open.contains_key(&id) {
                return id;
            }
        }
    }

    fn answered(&mut self, octets: &[u8]) {
        let answer = match query::read_answer(octets) {
            Ok(answer) => answer,
            Err(error) => return tracing::warn!(%error, "passed over an answer"),
        };
        let Some(open) = self.open.get(&answer.id) else {
            return tracing::debug!(id = answer.id, "passed over an answer to no open question");
        };
        let verdict = match tsig::verify_response(octets, &self.key, &open.mac, clock::unix_s()) {
            Ok(()) if answer.answers_to(answer.id, &open.waiting.name, RecordType::TXT) => Ok(()),
            Ok(()) => return tracing::warn!("passed over an answer to another question"),
            Err(error) if may_be_forged(&error) => return tracing::warn!(%error, "passed over an answer"),
            Err(error) => Err(error.to_string()),
        };
        let open = self.open.remove(&answer.id).expect("just found");
        let asked_at = open.asked_at;
        // Who stopped waiting does not need it.
        drop(open.waiting.reply.send(verdict.map(|()| Answered { asked_at, answer })));
    }

    /// Gives up the connection: what was open on it is asked again.
    fn hang_up(&mut self, why: &'static str) {
        self.line = None;
        if self.open.is_empty() {
            return;
        }
        tracing::warn!(librarian = %self.librarian, questions = self.open.len(), why, "questions got no answer");
        let questions = std::mem::take(&mut self.open).into_values();
        self.try_again(questions.map(|open| open.waiting).collect(), why);
    }

    fn try_again(&mut self, questions: Vec<Waiting>, why: &str) {
        for waiting in questions {
            if waiting.tries >= TRIES_MAX {
                drop(waiting.reply.send(Err(why.to_owned())));
            } else {
                self.again.push(waiting);
            }
        }
    }
}
