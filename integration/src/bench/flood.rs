//! Asks a DNS server over UDP as fast as it answers.
//!
//! Tools at hand stop before a good server does, so this one sends and receives in batches (sendmmsg(2), recvmmsg(2))
//! over a few sockets with a bounded number of questions in flight, on one thread. Every answer is checked: its id must
//! be one in flight, its code and its answer count what the question expects.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const SOCKETS: usize = 8;
const BATCH: usize = 32;
/// Questions in flight on one socket; 512 on all.
const WINDOW: usize = 64;
/// Longest question and answer.
const QUESTION_OCTETS_MAX: usize = 512;
const ANSWER_OCTETS_MAX: usize = 2048;
/// After so long without an answer, what is in flight counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(250);

/// Questions ready to be sent, and what their answers must be.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    octets: Vec<u8>,
    /// Start, length and whether the name is there.
    each: Vec<(usize, usize, bool)>,
}

impl Questions {
    /// Adds a question in wire form. `there`: the answer is NOERROR with records, else NXDOMAIN.
    pub(super) fn push(&mut self, question: &[u8], there: bool) {
        assert!(question.len() <= QUESTION_OCTETS_MAX, "a question fits its buffer");
        self.each.push((self.octets.len(), question.len(), there));
        self.octets.extend_from_slice(question);
    }

    /// The first question in wire form.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub(super) fn first(&self) -> &[u8] {
        let (start, octets, _) = self.each[0];
        &self.octets[start..start + octets]
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
}

/// What is expected under one id.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Expected {
    Nothing,
    Records,
    NoName,
}

struct Lane {
    socket: UdpSocket,
    expected: Box<[Expected]>,
    next_id: u16,
    in_flight: usize,
    last_answer: Instant,
}

/// Buffers of one batch and the structures that point into them.
struct Batch<const OCTETS: usize> {
    buffers: Box<[[u8; OCTETS]]>,
    // Points into `buffers`, whose heap storage never moves.
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl<const OCTETS: usize> Batch<OCTETS> {
    fn new() -> Self {
        let mut buffers = vec![[0_u8; OCTETS]; BATCH].into_boxed_slice();
        let mut pieces: Box<[libc::iovec]> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: OCTETS,
            })
            .collect();
        let headers = pieces
            .iter_mut()
            .map(|piece| {
                // SAFETY: mmsghdr is plain data; all zeros means no name, no control data and no flags.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = piece;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Batch {
            buffers,
            pieces,
            headers,
        }
    }
}

/// Asks `questions` over and over for `time`.
///
/// # Errors
///
/// When sockets cannot be made or the server's port is closed.
pub(super) fn flood(server: SocketAddr, questions: &Questions, time: Duration) -> Result<FloodReport> {
    anyhow::ensure!(!questions.each.is_empty(), "there is nothing to ask");
    let mut lanes = (0..SOCKETS)
        .map(|_| {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).context("make a socket")?;
            socket.connect(server).context("connect a socket")?;
            socket.set_nonblocking(true).context("set a socket")?;
            Ok(Lane {
                socket,
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
    let mut order = questions.each.iter().cycle();
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
                send(lane, &mut outgoing, questions, &mut order)?;
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
    questions: &Questions,
    order: &mut impl Iterator<Item = &'a (usize, usize, bool)>,
) -> Result<()> {
    let first_id = lane.next_id;
    for (buffer, piece) in batch.buffers.iter_mut().zip(&mut batch.pieces) {
        let Some(&(start, octets, there)) = order.next() else {
            break;
        };
        buffer[..octets].copy_from_slice(&questions.octets[start..start + octets]);
        buffer[..2].copy_from_slice(&lane.next_id.to_be_bytes());
        piece.iov_len = octets;
        lane.expected[usize::from(lane.next_id)] = if there { Expected::Records } else { Expected::NoName };
        lane.next_id = lane.next_id.wrapping_add(1);
    }
    // SAFETY: every header points to its own piece, every piece into its own buffer of at least `iov_len` octets; all
    // of them outlive the call.
    let sent = unsafe {
        libc::sendmmsg(
            lane.socket.as_raw_fd(),
            batch.headers.as_mut_ptr(),
            BATCH as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    let sent = match usize::try_from(sent) {
        Ok(sent) => sent,
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => 0,
            error => return Err(error).context("send questions"),
        },
    };
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
    // SAFETY: as for sending; each buffer is ANSWER_OCTETS_MAX octets long and so says its piece. No timeout is given.
    let received = unsafe {
        libc::recvmmsg(
            lane.socket.as_raw_fd(),
            batch.headers.as_mut_ptr(),
            BATCH as libc::c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let received = match usize::try_from(received) {
        Ok(received) => received,
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            error => return Err(error).context("receive answers"),
        },
    };
    for (header, buffer) in batch.headers.iter().zip(&batch.buffers).take(received) {
        let octets = header.msg_len as usize;
        if octets < 12 {
            report.wrong += 1;
            continue;
        }
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        let expected = std::mem::replace(&mut lane.expected[usize::from(id)], Expected::Nothing);
        let (truncated, code) = (buffer[2] & 0x02 != 0, buffer[3] & 0x0f);
        let records = u16::from_be_bytes([buffer[6], buffer[7]]);
        let right = match expected {
            Expected::Nothing => continue,
            Expected::Records => code == 0 && records > 0 && !truncated,
            Expected::NoName => code == 3,
        };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.last_answer = now;
        if right {
            report.answered += 1;
            report.octets += octets as u64;
        } else {
            report.wrong += 1;
        }
    }
    Ok(())
}
