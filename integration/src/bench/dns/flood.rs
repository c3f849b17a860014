//! Asks a DNS server over UDP as fast as it answers.
//!
//! Tools at hand stop before a good server does, so this one sends and receives in batches over a few sockets with a
//! bounded number of questions in flight, on one thread. Every answer is checked: its id must be one in flight, its code
//! and its answer count what the question expects.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::batch::{BATCH, Batch};
use super::set::LOCAL;

const SOCKETS: usize = 8;
/// Questions in flight on one socket; 512 on all.
const WINDOW: usize = 64;
/// Longest question and answer.
pub(super) const QUESTION_OCTETS_MAX: usize = 512;
pub(super) const ANSWER_OCTETS_MAX: usize = 2048;
/// After so long without an answer, what is in flight counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(250);

/// What an answer must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expected {
    /// Nothing was asked under its id.
    Nothing,
    /// NOERROR with records, not truncated.
    Records,
    /// NXDOMAIN.
    NoName,
    /// Whatever it is: an echo.
    Anything,
}

impl Expected {
    /// Whether `answer`, of 12 octets or more, is what was expected.
    #[must_use]
    pub(super) fn fits(self, answer: &[u8]) -> bool {
        let (truncated, code) = (answer[2] & 0x02 != 0, answer[3] & 0x0f);
        let records = u16::from_be_bytes([answer[6], answer[7]]);
        match self {
            Expected::Nothing => false,
            Expected::Records => code == 0 && records > 0 && !truncated,
            Expected::NoName => code == 3,
            Expected::Anything => true,
        }
    }
}

/// Questions ready to be sent, and what their answers must be.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    octets: Vec<u8>,
    /// Start, length and what the answer must be.
    each: Vec<(usize, usize, Expected)>,
}

impl Questions {
    /// Adds a question in wire form.
    pub(super) fn push(&mut self, question: &[u8], expected: Expected) {
        assert!(question.len() <= QUESTION_OCTETS_MAX, "a question fits its buffer");
        self.each.push((self.octets.len(), question.len(), expected));
        self.octets.extend_from_slice(question);
    }

    /// The same, for a server that knows nothing and sends back what it gets.
    #[must_use]
    pub(super) fn for_echo(&self) -> Questions {
        let mut echo = self.clone();
        for (_, _, expected) in &mut echo.each {
            *expected = Expected::Anything;
        }
        echo
    }

    /// All of them, over and over.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn cycle(&self) -> Result<impl Iterator<Item = (&[u8], Expected)>> {
        anyhow::ensure!(!self.each.is_empty(), "there is nothing to ask");
        let each = self.each.iter().cycle();
        Ok(each.map(|&(start, octets, expected)| (&self.octets[start..start + octets], expected)))
    }

    /// Each of them once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let each = self.each.iter();
        each.map(|&(start, octets, _)| &self.octets[start..start + octets])
    }
}

/// What came of a flood.
#[derive(Clone, Debug, Default)]
pub(super) struct FloodReport {
    /// Answers as they should be.
    pub(super) answered: u64,
    /// Answers with another code, or none where records belong, or truncated.
    pub(super) wrong: u64,
    /// Questions without an answer.
    pub(super) lost: u64,
    /// How long it took.
    pub(super) elapsed: Duration,
    /// Octets of all right answers.
    pub(super) octets: u64,
}

impl FloodReport {
    /// Right answers a second.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    /// Octets of an answer, on average.
    #[must_use]
    pub(super) fn answer_octets(&self) -> u64 {
        self.octets / self.answered.max(1)
    }
}

/// A socket that questions are sent from.
pub(super) fn asking_socket(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
    socket.connect(server).context("connect a socket")?;
    socket.set_nonblocking(true).context("set a socket")?;
    Ok(socket)
}

struct Lane {
    socket: UdpSocket,
    expected: Box<[Expected]>,
    next_id: u16,
    in_flight: usize,
    last_answer: Instant,
}

/// Asks `questions` over and over for `time`.
///
/// # Errors
///
/// When sockets cannot be made or the server's port is closed.
pub(super) fn flood(server: SocketAddr, questions: &Questions, time: Duration) -> Result<FloodReport> {
    let mut lanes = (0..SOCKETS)
        .map(|_| {
            Ok(Lane {
                socket: asking_socket(server)?,
                expected: vec![Expected::Nothing; 1 << 16].into_boxed_slice(),
                next_id: rand::random(),
                in_flight: 0,
                last_answer: Instant::now(),
            })
        })
        .collect::<Result<Vec<Lane>>>()?;
    let mut outgoing = Batch::<QUESTION_OCTETS_MAX>::new();
    let mut incoming = Batch::<ANSWER_OCTETS_MAX>::new();
    let mut report = FloodReport::default();
    let mut order = questions.cycle()?;
    let start = Instant::now();
    loop {
        let now = Instant::now();
        if now - start >= time {
            report.elapsed = now - start;
            return Ok(report);
        }
        for lane in &mut lanes {
            receive(lane, &mut incoming, &mut report, now)?;
            if lane.in_flight + BATCH <= WINDOW {
                send(lane, &mut outgoing, &mut order)?;
            } else if now - lane.last_answer > LOST_AFTER {
                report.lost += lane.in_flight as u64;
                lane.expected.fill(Expected::Nothing);
                lane.in_flight = 0;
                lane.last_answer = now;
            }
        }
    }
}

fn send<'a>(
    lane: &mut Lane,
    batch: &mut Batch<QUESTION_OCTETS_MAX>,
    order: &mut impl Iterator<Item = (&'a [u8], Expected)>,
) -> Result<()> {
    let first_id = lane.next_id;
    for (place, (question, expected)) in order.take(BATCH).enumerate() {
        let buffer = batch.put(place, question);
        buffer[..2].copy_from_slice(&lane.next_id.to_be_bytes());
        lane.expected[usize::from(lane.next_id)] = expected;
        lane.next_id = lane.next_id.wrapping_add(1);
    }
    let sent = batch.send(&lane.socket, BATCH)?;
    // What was not sent is asked under the same ids next time.
    for id in sent..BATCH {
        lane.expected[usize::from(first_id.wrapping_add(id as u16))] = Expected::Nothing;
    }
    lane.next_id = first_id.wrapping_add(sent as u16);
    lane.in_flight += sent;
    Ok(())
}

fn receive(
    lane: &mut Lane,
    batch: &mut Batch<ANSWER_OCTETS_MAX>,
    report: &mut FloodReport,
    now: Instant,
) -> Result<()> {
    for place in 0..batch.receive(&lane.socket, false)? {
        let answer = batch.received(place);
        if answer.len() < 12 {
            report.wrong += 1;
            continue;
        }
        let id = u16::from_be_bytes([answer[0], answer[1]]);
        let expected = std::mem::replace(&mut lane.expected[usize::from(id)], Expected::Nothing);
        if expected == Expected::Nothing {
            continue;
        }
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.last_answer = now;
        if expected.fits(answer) {
            report.answered += 1;
            report.octets += answer.len() as u64;
        } else {
            report.wrong += 1;
        }
    }
    Ok(())
}
