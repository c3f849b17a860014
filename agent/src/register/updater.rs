//! Register changes on their way to the librarian: all that wait at one moment go in one message.
//!
//! One TCP connection, several messages on it at once. Changes that open moves go when nothing else waits: nobody waits for
//! them, while the commit of a move keeps writers waiting. Of a message that the librarian refuses, the change that it names
//! is sent alone and the others together; if it names none, the message is split in halves until the one at fault is found.
//! A message that gets no reply is sent again, newly signed, on a new connection. All of it has a bound; what happened to a
//! change beyond it is [`Changed::Unknown`], and the register says.
//!
//! Specification: RFC 2136, RFC 7766 (pipelining), DESIGN.md section 7.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use zones::query;
use zones::tsig::{self, TsigKey};
use zones::update::{self, RegisterChange};
use zones::{Address, Domain, State};

use super::ask::may_be_forged;
use super::line::{CONNECT_PAUSE, Line, frame, reply};
use super::{Changed, Trust};
use crate::clock;

/// Most changes that wait for a message; whoever brings another one waits to hand it in.
const WAITING_MAX: usize = 4096;
/// Most messages without a reply yet. Few, so that changes gather while they are under way.
const FLIGHTS_MAX: usize = 4;
/// Most of them that carry nothing but openings of moves.
const OPENING_FLIGHTS_MAX: usize = 2;
/// Most changes in one message, below what 64 KiB hold: a refused message is searched for the one at fault.
const BATCH_MAX: usize = 128;
/// How long a reply may take: far above what a librarian under load needs.
const REPLY_WAIT: Duration = Duration::from_secs(2);
/// Most times that a change is sent, or that sending it is tried.
const TRIES_MAX: u32 = 4;

/// Takes changes for the task that sends them.
#[derive(Clone, Debug)]
pub(crate) struct Updater {
    queue: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    change: RegisterChange,
    asker: Asker,
}

/// Who waits for the end of a change.
#[derive(Debug)]
struct Asker {
    reply: oneshot::Sender<Changed>,
    /// Times it was sent or tried.
    tries: u32,
    /// Sendings without a reply.
    unanswered: u32,
}

impl Updater {
    /// Starts the task; it ends when the last handle is dropped.
    pub(crate) fn start(domain: Domain, librarian: SocketAddr, key: TsigKey, trust: Arc<Trust>) -> Updater {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let worker = Worker {
            domain,
            librarian,
            key,
            trust,
            waiting,
            arrived: Batch::default(),
            openings: Batch::default(),
            again: VecDeque::new(),
            flights: HashMap::new(),
            line: None,
        };
        tokio::spawn(worker.run());
        Updater { queue }
    }

    /// Sends a change until its end is known or the bound is reached.
    pub(crate) async fn change(&self, change: RegisterChange) -> Changed {
        let (reply, end) = oneshot::channel();
        let asker = Asker {
            reply,
            tries: 0,
            unanswered: 0,
        };
        if self.queue.send(Waiting { change, asker }).await.is_err() {
            return Changed::Unknown;
        }
        end.await.unwrap_or(Changed::Unknown)
    }
}

/// Changes of one message and who waits for them, in the same order.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<RegisterChange>,
    askers: Vec<Asker>,
}

impl Batch {
    fn push(&mut self, waiting: Waiting) {
        self.changes.push(waiting.change);
        self.askers.push(waiting.asker);
    }

    fn len(&self) -> usize {
        self.changes.len()
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes one out.
    fn remove(&mut self, at: usize) -> Batch {
        Batch {
            changes: vec![self.changes.remove(at)],
            askers: vec![self.askers.remove(at)],
        }
    }

    /// Whether all of it opens moves.
    fn opens(&self) -> bool {
        self.changes.iter().all(opens)
    }

    /// Takes what goes in one message next off the front.
    fn next(&mut self, domain: &Domain) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let later = self.split_off(self.fit(domain).max(1));
        Some(std::mem::replace(self, later))
    }

    /// Which change a refusal speaks of, if it names one by its address or its name. No more than a hint: that change is
    /// sent alone, and judged as any other.
    fn named(&self, domain: &Domain, why: &str) -> Option<usize> {
        let words: HashSet<&str> = why.split_whitespace().map(|word| word.trim_end_matches(':')).collect();
        self.changes.iter().position(|change| {
            let address = &change.new.address;
            words.contains(address.as_str())
                || domain
                    .obj_name(address)
                    .is_ok_and(|name| words.contains(name.to_string().as_str()))
        })
    }

    /// Splits off everything behind the first `at`.
    fn split_off(&mut self, at: usize) -> Batch {
        Batch {
            changes: self.changes.split_off(at),
            askers: self.askers.split_off(at),
        }
    }

    /// How many of the first changes go in one message: no object twice, and no more than fit.
    fn fit(&self, domain: &Domain) -> usize {
        let bound = self.len().min(BATCH_MAX);
        let mut seen: HashSet<Address> = HashSet::with_capacity(bound);
        let distinct = self.changes[..bound]
            .iter()
            .take_while(|change| seen.insert(change.new.address.folded()))
            .count();
        update::changes_that_fit(domain, &self.changes[..distinct])
    }

    fn end(self, changed: impl Fn(&Asker) -> Changed) {
        for asker in self.askers {
            let changed = changed(&asker);
            // Who stopped waiting reads the register.
            drop(asker.reply.send(changed));
        }
    }
}

/// A message without a reply yet.
#[derive(Debug)]
struct Flight {
    batch: Batch,
    /// Whether it carries openings of moves alone.
    opens: bool,
    mac: tsig::Mac,
    until: Instant,
}

struct Worker {
    domain: Domain,
    librarian: SocketAddr,
    key: TsigKey,
    trust: Arc<Trust>,
    waiting: mpsc::Receiver<Waiting>,
    /// Not sent yet, and somebody waits for it.
    arrived: Batch,
    /// Openings of moves that were not sent yet.
    openings: Batch,
    /// To be sent once more: halves of refused messages, and what got no reply.
    again: VecDeque<Batch>,
    flights: HashMap<u16, Flight>,
    line: Option<Line>,
}

/// What woke the worker.
enum Event {
    Arrived(Option<Box<Waiting>>),
    Reply(Option<Vec<u8>>),
    Late,
}

impl Worker {
    async fn run(mut self) {
        loop {
            while self.flights.len() < FLIGHTS_MAX {
                match self.next_batch() {
                    Some(batch) => self.send(batch).await,
                    None => break,
                }
            }
            let room = self.flights.len() < FLIGHTS_MAX && self.arrived.len() + self.openings.len() < WAITING_MAX;
            let late = self.flights.values().map(|flight| flight.until).min();
            let event = tokio::select! {
                waiting = self.waiting.recv(), if room => Event::Arrived(waiting.map(Box::new)),
                reply = reply(&mut self.line) => Event::Reply(reply),
                () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => Event::Late,
            };
            match event {
                Event::Arrived(Some(waiting)) => self.arrived(*waiting),
                // The last handle is gone: nobody waits for what is still under way.
                Event::Arrived(None) => return,
                Event::Reply(Some(octets)) => self.replied(&octets),
                Event::Reply(None) => self.hang_up("the librarian closed the connection"),
                Event::Late => self.hang_up("the librarian did not answer in time"),
            }
        }
    }

    fn arrived(&mut self, waiting: Waiting) {
        match opens(&waiting.change) {
            true => self.openings.push(waiting),
            false => self.arrived.push(waiting),
        }
    }

    /// What goes next: first what is to be sent again, then what is waited for, then what opens moves.
    fn next_batch(&mut self) -> Option<Batch> {
        if let Some(batch) = self.again.pop_front() {
            return Some(batch);
        }
        while self.arrived.len() + self.openings.len() < WAITING_MAX
            && let Ok(waiting) = self.waiting.try_recv()
        {
            self.arrived(waiting);
        }
        if let Some(batch) = self.arrived.next(&self.domain) {
            return Some(batch);
        }
        let opening = self.flights.values().filter(|flight| flight.opens).count();
        if opening >= OPENING_FLIGHTS_MAX {
            return None;
        }
        self.openings.next(&self.domain)
    }

    async fn send(&mut self, mut batch: Batch) {
        let id = self.free_id();
        let mut message = match update::build_register_update(&self.domain, id, &batch.changes) {
            Ok(message) => message,
            Err(error) if batch.len() == 1 => {
                // It was never sent, unless an earlier sending is still open.
                let why = error.to_string();
                return batch.end(|asker| Changed::Refused {
                    rcode: ResponseCode::FormErr,
                    why: why.clone(),
                    unanswered: asker.unanswered,
                });
            }
            Err(_) => return self.divide(batch, None),
        };
        for asker in &mut batch.askers {
            asker.tries += 1;
        }
        if self.line.is_none() {
            match Line::connect(self.librarian, FLIGHTS_MAX).await {
                Ok(line) => self.line = Some(line),
                Err(error) => {
                    tracing::debug!(librarian = %self.librarian, %error, "cannot connect for updates");
                    tokio::time::sleep(CONNECT_PAUSE).await;
                    return self.try_again(batch);
                }
            }
        }
        let mac = tsig::sign_request(&mut message, &self.key, clock::unix_s());
        let line = self.line.as_mut().expect("just made");
        let mut framed = Vec::with_capacity(message.len() + 2);
        frame(&message, &mut framed).expect("an update is bounded, and so is its signature");
        let written = timeout(REPLY_WAIT, line.write(&framed)).await;
        let until = Instant::now() + REPLY_WAIT;
        let opens = batch.opens();
        self.flights.insert(
            id,
            Flight {
                batch,
                opens,
                mac,
                until,
            },
        );
        match written {
            Ok(Ok(())) => {}
            // A part of it or all may be on its way.
            Ok(Err(_)) | Err(_) => self.hang_up("the connection broke while sending"),
        }
    }

    /// A random id that no open message has.
    fn free_id(&self) -> u16 {
        loop {
            let id = rand::random();
            if !self.flights.contains_key(&id) {
                return id;
            }
        }
    }

    fn replied(&mut self, octets: &[u8]) {
        let answer = match query::read_answer(octets) {
            Ok(answer) => answer,
            Err(error) => return tracing::warn!(%error, "passed over a reply to an update"),
        };
        let Some(flight) = self.flights.get(&answer.id) else {
            return tracing::debug!(id = answer.id, "passed over a reply to no open update");
        };
        match tsig::verify_response(octets, &self.key, &flight.mac, clock::unix_s()) {
            Ok(()) => {}
            Err(error) if may_be_forged(&error) => return tracing::warn!(%error, "passed over a reply to an update"),
            Err(error) => {
                let why = error.to_string();
                let flight = self.flights.remove(&answer.id).expect("just found");
                return flight.batch.end(|asker| Changed::Refused {
                    rcode: answer.code,
                    why: why.clone(),
                    unanswered: asker.unanswered,
                });
            }
        }
        let flight = self.flights.remove(&answer.id).expect("just found");
        // Of a registry that is not believed no word counts, neither yes nor no.
        if !self.trust.hear(answer.told) && (answer.told.is_some() || answer.code == ResponseCode::NoError) {
            return self.unanswered(flight.batch);
        }
        match answer.code {
            ResponseCode::NoError => flight.batch.end(|_| Changed::Done),
            // The librarian does not know how it ended; the same as no reply.
            ResponseCode::ServFail => self.unanswered(flight.batch),
            _ if flight.batch.len() > 1 => {
                let named = answer.why().and_then(|why| flight.batch.named(&self.domain, why));
                self.divide(flight.batch, named);
            }
            code => {
                let why = answer.why().map_or_else(|| code.to_string(), str::to_owned);
                flight.batch.end(|asker| Changed::Refused {
                    rcode: code,
                    why: why.clone(),
                    unanswered: asker.unanswered,
                });
            }
        }
    }

    /// Sends a refused message in two parts: the change that the refusal names and the others, or its halves.
    fn divide(&mut self, mut batch: Batch, named: Option<usize>) {
        let second = match named {
            Some(at) => batch.remove(at),
            None => batch.split_off(batch.len() / 2),
        };
        self.again.push_front(second);
        self.again.push_front(batch);
    }

    /// Gives up the connection; what was under way on it may have landed or not.
    fn hang_up(&mut self, why: &'static str) {
        self.line = None;
        if !self.flights.is_empty() {
            tracing::warn!(librarian = %self.librarian, messages = self.flights.len(), why, "updates got no reply");
        }
        for (_, flight) in std::mem::take(&mut self.flights) {
            self.unanswered(flight.batch);
        }
    }

    fn unanswered(&mut self, mut batch: Batch) {
        for asker in &mut batch.askers {
            asker.unanswered += 1;
        }
        self.try_again(batch);
    }

    fn try_again(&mut self, batch: Batch) {
        let mut once_more = Batch::default();
        for (change, asker) in batch.changes.into_iter().zip(batch.askers) {
            if asker.tries >= TRIES_MAX {
                drop(asker.reply.send(Changed::Unknown));
            } else if !asker.reply.is_closed() {
                once_more.push(Waiting { change, asker });
            }
        }
        if !once_more.is_empty() {
            self.again.push_back(once_more);
        }
    }
}

/// Whether a change opens a move.
fn opens(change: &RegisterChange) -> bool {
    match (change.old.as_ref().map(|old| &old.state), &change.new.state) {
        (Some(State::Stable), State::Moving { .. }) => true,
        (None | Some(State::Stable | State::Moving { .. } | State::Deleted), _) => false,
    }
}
