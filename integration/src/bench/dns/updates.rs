//! Signed dynamic updates (RFC 2136, RFC 8945) of one object each over UDP, the same messages to every server.
//!
//! Each update is one register's compare-and-swap: the prerequisite that its TXT RRset is the old text, the deletion of
//! that text, the addition of the new one. A server answers when it is durable.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use zones::update::build_register_update;
use zones::{Mac, RegisterChange, TsigKey, tsig};

use super::set::{DnsSet, LOCAL};

/// An update without an answer is sent again after this time, newly signed; an answer to either counts.
const RESEND_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the first answer, beyond the time of the run.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// Code of a failed value prerequisite.
const NXRRSET: u8 = 8;

/// How often each object's register has changed on one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions(Vec<u32>);

impl Versions {
    /// All as they were loaded.
    #[must_use]
    pub(super) fn new(set: &DnsSet) -> Versions {
        Versions(vec![0; set.count])
    }

    /// How often object `index` has changed.
    #[must_use]
    pub(super) fn of(&self, index: usize) -> u32 {
        self.0[index]
    }

    /// Object `index` has changed once more.
    pub(super) fn raise(&mut self, index: usize) {
        self.0[index] += 1;
    }
}

/// What came of a run of updates.
#[derive(Clone, Debug)]
pub(super) struct UpdateReport {
    /// Updates that the server acknowledged.
    pub(super) done: u64,
    /// Updates sent again because no answer came.
    pub(super) resent: u64,
    /// From the first sending to the last answer.
    pub(super) elapsed: Duration,
    /// Time from sending to answer, in microseconds.
    pub(super) latency_us: Histogram<u64>,
}

impl UpdateReport {
    /// Acknowledged updates a second.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    /// A percentile of the latency in milliseconds.
    #[must_use]
    pub(super) fn latency_ms(&self, percentile: f64) -> f64 {
        self.latency_us.value_at_quantile(percentile / 100.0) as f64 / 1000.0
    }
}

/// One of the updates that are outstanding at a time.
struct Lane {
    /// The object it changes now.
    index: usize,
    /// Of every sending of this update.
    macs: Vec<Mac>,
    sent: Instant,
    first_sent: Instant,
}

impl Lane {
    fn is_answered_by(&self, answer: &[u8], key: &TsigKey) -> bool {
        let answers = |mac: &Mac| tsig::verify_response(answer, key, mac, now_s()).is_ok();
        self.macs.iter().any(answers)
    }
}

/// Keeps `outstanding` updates of distinct objects on their way over UDP for `time` or until `over`.
///
/// # Errors
///
/// When the server refuses one, or its signature is wrong.
pub(super) fn update_flood(
    server: SocketAddr,
    set: &DnsSet,
    key: &TsigKey,
    versions: &mut Versions,
    outstanding: usize,
    time: Duration,
    over: &AtomicBool,
) -> Result<UpdateReport> {
    ensure!(
        outstanding <= set.count,
        "there are fewer objects than outstanding updates"
    );
    let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
    socket.connect(server).context("connect a socket")?;
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .context("set a socket")?;
    let mut report = UpdateReport {
        done: 0,
        resent: 0,
        elapsed: Duration::ZERO,
        latency_us: Histogram::new_with_bounds(1, 600_000_000, 3).context("make a histogram")?,
    };
    // Objects far apart, so that neighbours in the zone do not share a page of anything.
    let stride = set.count / outstanding;
    let start = Instant::now();
    let mut lanes = (0..outstanding)
        .map(|lane| {
            let index = lane * stride;
            let mac = send(&socket, set, key, lane, index, versions.0[index])?;
            let now = Instant::now();
            Ok(Lane {
                index,
                macs: vec![mac],
                sent: now,
                first_sent: now,
            })
        })
        .collect::<Result<Vec<Lane>>>()?;
    let mut answer = [0_u8; 4096];
    let mut checked = Instant::now();
    let goes_on = |done: u64| {
        let first = done == 0 && start.elapsed() < time + FIRST_WAIT;
        (start.elapsed() < time || first) && !over.load(Ordering::Acquire)
    };
    while goes_on(report.done) {
        if checked.elapsed() > Duration::from_millis(100) {
            checked = Instant::now();
            for (number, lane) in lanes.iter_mut().enumerate() {
                if lane.sent.elapsed() > RESEND_AFTER {
                    let mac = send(&socket, set, key, number, lane.index, versions.0[lane.index])?;
                    lane.macs.push(mac);
                    lane.sent = Instant::now();
                    report.resent += 1;
                }
            }
        }
        let Ok(octets) = socket.recv(&mut answer) else {
            continue;
        };
        let number = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
        let Some(lane) = lanes.get_mut(number) else {
            bail!("an answer has an id that was not sent");
        };
        // What answers an update before this one has another MAC.
        if !lane.is_answered_by(&answer[..octets], key) {
            continue;
        }
        let code = answer[3] & 0x0f;
        let resent = lane.sent != lane.first_sent;
        if code != 0 && !(resent && code == NXRRSET) {
            bail!("{} was refused with code {code}", set.address(lane.index));
        }
        versions.0[lane.index] += 1;
        report.done += 1;
        report
            .latency_us
            .saturating_record(lane.first_sent.elapsed().as_micros() as u64);
        report.elapsed = start.elapsed();
        // On to the next object of this lane's share, round and round.
        let within = (lane.index - number * stride + 1) % stride;
        lane.index = number * stride + within;
        let mac = send(&socket, set, key, number, lane.index, versions.0[lane.index])?;
        lane.macs = vec![mac];
        lane.sent = Instant::now();
        lane.first_sent = lane.sent;
    }
    // What is on its way counts too: some servers answer all of it at once, after a while.
    report.done += settle(&socket, set, key, versions, &mut lanes)?;
    report.elapsed = start.elapsed();
    Ok(report)
}

/// Waits for what is still on its way, so that the next run knows every text; how many that was.
fn settle(socket: &UdpSocket, set: &DnsSet, key: &TsigKey, versions: &mut Versions, lanes: &mut [Lane]) -> Result<u64> {
    let mut open = vec![true; lanes.len()];
    let mut answer = [0_u8; 4096];
    let until = Instant::now() + Duration::from_secs(120);
    while open.contains(&true) {
        ensure!(
            Instant::now() < until,
            "a server left updates unanswered for two minutes"
        );
        for (number, lane) in lanes.iter_mut().enumerate() {
            if open[number] && lane.sent.elapsed() > RESEND_AFTER {
                let mac = send(socket, set, key, number, lane.index, versions.0[lane.index])?;
                lane.macs.push(mac);
                lane.sent = Instant::now();
            }
        }
        let Ok(octets) = socket.recv(&mut answer) else {
            continue;
        };
        let number = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
        if let Some(lane) = lanes.get(number)
            && open[number]
            && lane.is_answered_by(&answer[..octets], key)
        {
            open[number] = false;
            versions.0[lane.index] += 1;
        }
    }
    Ok(lanes.len() as u64)
}

fn send(socket: &UdpSocket, set: &DnsSet, key: &TsigKey, lane: usize, index: usize, version: u32) -> Result<Mac> {
    let change = RegisterChange {
        old: Some(set.register(index, version)),
        new: set.register(index, version + 1),
    };
    let id = u16::try_from(lane).context("number a lane")?;
    let mut message = build_register_update(&set.domain, id, &[change]).context("build an update")?;
    let mac = tsig::sign_request(&mut message, key, now_s());
    socket.send(&message).context("send an update")?;
    Ok(mac)
}

/// The time that signatures carry.
pub(super) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
