//! Signed updates that carry many objects each, over TCP with a few on their way: the protocol that agents use.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use zones::update::{build_register_update, changes_that_fit};
use zones::{Mac, RegisterChange, TsigKey, tsig};

use super::paced::Pace;
use super::set::DnsSet;
use super::updates::{Versions, now_s};

/// Messages on their way.
const WINDOW: usize = 8;
/// Longest wait for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Objects of a message, where not as many as fit.
const OBJECTS: usize = 100;

/// How many objects were done, and in what time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batched {
    /// Objects whose change was acknowledged.
    pub(super) done: usize,
    /// From the first message to the last answer.
    pub(super) elapsed: Duration,
}

impl Batched {
    /// Objects a second.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }
}

/// A connection with messages on their way: each with the range of objects that it carries.
struct Line<'a> {
    stream: TcpStream,
    set: &'a DnsSet,
    key: &'a TsigKey,
    open: HashMap<u16, (Mac, Range<usize>)>,
    next_id: u16,
}

impl<'a> Line<'a> {
    fn new(server: SocketAddr, set: &'a DnsSet, key: &'a TsigKey) -> Result<Line<'a>> {
        let stream = TcpStream::connect_timeout(&server, ANSWER_WAIT).context("connect")?;
        stream.set_nodelay(true).context("set a socket")?;
        stream.set_read_timeout(Some(ANSWER_WAIT)).context("set a socket")?;
        stream.set_write_timeout(Some(ANSWER_WAIT)).context("set a socket")?;
        Ok(Line {
            stream,
            set,
            key,
            open: HashMap::new(),
            next_id: 0,
        })
    }

    /// Sends one message, whose changes are `range` of whatever the caller counts.
    fn send(&mut self, changes: &[RegisterChange], range: Range<usize>) -> Result<()> {
        let message = build_register_update(&self.set.domain, self.next_id, changes);
        let mut message = message.context("build an update")?;
        let mac = tsig::sign_request(&mut message, self.key, now_s());
        let octets = u16::try_from(message.len()).context("measure an update")?;
        let mut framed = octets.to_be_bytes().to_vec();
        framed.append(&mut message);
        self.stream.write_all(&framed).context("send an update")?;
        self.open.insert(self.next_id, (mac, range));
        self.next_id = self.next_id.wrapping_add(1);
        Ok(())
    }

    /// Waits for one answer; the range of its message.
    fn receive(&mut self) -> Result<Range<usize>> {
        let mut octets = [0; 2];
        self.stream.read_exact(&mut octets).context("read an answer")?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(octets))];
        self.stream.read_exact(&mut answer).context("read an answer")?;
        ensure!(answer.len() >= 12, "an answer is shorter than a header");
        let id = u16::from_be_bytes([answer[0], answer[1]]);
        let (mac, range) = self.open.remove(&id).context("match an answer to its update")?;
        tsig::verify_response(&answer, self.key, &mac, now_s()).context("verify an answer")?;
        let code = answer[3] & 0x0f;
        ensure!(
            code == 0,
            "an update was refused with code {code}: {}",
            readable(&answer)
        );
        Ok(range)
    }
}

/// Creates the objects of a set, as many in a message as fit, until all are there or `limit` is over; calls `progress` with
/// how many are.
///
/// # Errors
///
/// When the server refuses one.
pub(super) fn load(
    server: SocketAddr,
    set: &DnsSet,
    key: &TsigKey,
    limit: Option<Duration>,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Batched> {
    let mut line = Line::new(server, set, key)?;
    let start = Instant::now();
    let (mut next, mut done) = (0, 0);
    loop {
        let more = next < set.count && limit.is_none_or(|limit| start.elapsed() < limit);
        if more && line.open.len() < WINDOW {
            let changes: Vec<RegisterChange> = (next..set.count.min(next + 400))
                .map(|index| RegisterChange {
                    old: None,
                    new: set.register(index, 0),
                })
                .collect();
            let changes = &changes[..changes_that_fit(&set.domain, &changes)];
            line.send(changes, next..next + changes.len())?;
            next += changes.len();
        } else if line.open.is_empty() {
            let elapsed = start.elapsed();
            return Ok(Batched { done, elapsed });
        } else {
            done += line.receive()?.len();
            progress(done)?;
        }
    }
}

/// Changes objects all over the set, a hundred in a message, `per_second` of them or as fast as they are acknowledged, for
/// `time` or until `over`.
///
/// # Errors
///
/// When the server refuses one.
pub(super) fn change(
    server: SocketAddr,
    set: &DnsSet,
    key: &TsigKey,
    versions: &mut Versions,
    per_second: Option<f64>,
    time: Duration,
    over: &AtomicBool,
) -> Result<Batched> {
    let mut line = Line::new(server, set, key)?;
    let objects = OBJECTS.min(set.count / (2 * WINDOW)).max(1);
    ensure!(
        set.count > 2 * WINDOW * objects,
        "there are too few objects to change in batches"
    );
    let step = step(set.count);
    let pace = per_second.map(|rate| Pace::new(rate / objects as f64));
    let start = Instant::now();
    let (mut sent, mut done) = (0, 0);
    let place = |number: usize| (number as u64 * step % set.count as u64) as usize;
    while start.elapsed() < time && !over.load(Ordering::Acquire) {
        if line.open.len() >= WINDOW {
            done += settle(line.receive()?, versions, place);
            continue;
        }
        if let Some(pace) = pace {
            let due = pace.at((sent / objects) as u64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let changes: Vec<RegisterChange> = (sent..sent + objects)
            .map(|number| {
                let index = place(number);
                RegisterChange {
                    old: Some(set.register(index, versions.of(index))),
                    new: set.register(index, versions.of(index) + 1),
                }
            })
            .collect();
        line.send(&changes, sent..sent + objects)?;
        sent += objects;
    }
    while !line.open.is_empty() {
        done += settle(line.receive()?, versions, place);
    }
    let elapsed = start.elapsed();
    Ok(Batched { done, elapsed })
}

fn settle(range: Range<usize>, versions: &mut Versions, place: impl Fn(usize) -> usize) -> usize {
    let count = range.len();
    range.for_each(|number| versions.raise(place(number)));
    count
}

/// A step that comes to each of `count` places before it comes to one again, far from one to the next.
fn step(count: usize) -> u64 {
    let count = count as u64;
    let common = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let from = (count * 618 / 1000).max(1);
    let steps = from..from + count;
    steps.into_iter().find(|&step| common(step, count) == 1).unwrap_or(1)
}

/// An answer for a person: its Extended DNS Error stands in it as text.
fn readable(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer)
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '.' })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn steps_come_to_every_object_once_before_they_come_to_one_again() {
        for count in [1, 2, 10, 997, 1_000, 4_096] {
            let step = step(count);
            let places: HashSet<u64> = (0..count as u64).map(|number| number * step % count as u64).collect();
            assert_eq!(places.len(), count);
        }
    }
}
