//! Asks a DNS server at a fixed rate, whether it keeps up or not, and takes the time of every answer.
//!
//! An answer's time counts from when its question was due, not from when it was sent: a server that stalls is not
//! spared the questions that would have come meanwhile.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use super::batch::{BATCH, Batch};
use super::flood::{ANSWER_OCTETS_MAX, Expected, QUESTION_OCTETS_MAX, Questions, asking_socket};

const SOCKETS: usize = 4;
/// What has no answer so long after the last question is lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// When each of many evenly spaced events is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_second: f64,
}

impl Pace {
    /// So many events a second, one at least in a quarter of an hour.
    #[must_use]
    pub(super) fn new(per_second: f64) -> Pace {
        Pace {
            per_second: per_second.max(0.001),
        }
    }

    /// How many are due when `elapsed` has passed; the first is due at once.
    #[must_use]
    pub(super) fn due(self, elapsed: Duration) -> u64 {
        (elapsed.as_secs_f64() * self.per_second) as u64 + 1
    }

    /// When event `number`, counted from 0, is due.
    #[must_use]
    pub(super) fn at(self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

/// Times, in nanoseconds, with three digits kept.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds in order and at most five digits")
}

/// A percentile of a [`histogram`], in microseconds.
#[must_use]
pub(super) fn percentile_us(times_ns: &Histogram<u64>, percentile: f64) -> f64 {
    times_ns.value_at_quantile(percentile / 100.0) as f64 / 1000.0
}

/// What came of asking at a rate.
#[derive(Clone, Debug)]
pub(super) struct PacedReport {
    /// Answers as they should be.
    pub(super) answered: u64,
    /// Answers with another code, or none where records belong.
    pub(super) wrong: u64,
    /// Questions without an answer.
    pub(super) lost: u64,
    /// From due to answered, in nanoseconds; [`LOST_AFTER`] for what is lost.
    pub(super) latency_ns: Histogram<u64>,
    /// From due to sent: what this side added, in nanoseconds.
    pub(super) late_ns: Histogram<u64>,
}

struct Lane {
    socket: UdpSocket,
    /// What is expected under each id, and when its question was due, in nanoseconds from the start.
    expected: Box<[(Expected, u64)]>,
    next_id: u16,
}

/// Asks `questions` over and over, `per_second` of them, for `time`. Lets others on this processor run whenever nothing
/// is due.
///
/// # Errors
///
/// When sockets cannot be made or the server's port is closed.
pub(super) fn paced(server: SocketAddr, questions: &Questions, per_second: f64, time: Duration) -> Result<PacedReport> {
    let mut lanes = (0..SOCKETS)
        .map(|_| {
            Ok(Lane {
                socket: asking_socket(server)?,
                expected: vec![(Expected::Nothing, 0); 1 << 16].into_boxed_slice(),
                next_id: rand::random(),
            })
        })
        .collect::<Result<Vec<Lane>>>()?;
    let mut outgoing = Batch::<QUESTION_OCTETS_MAX>::new();
    let mut incoming = Batch::<ANSWER_OCTETS_MAX>::new();
    let mut report = PacedReport {
        answered: 0,
        wrong: 0,
        lost: 0,
        latency_ns: histogram(),
        late_ns: histogram(),
    };
    let pace = Pace::new(per_second);
    let total = pace.due(time);
    let mut order = questions.cycle()?;
    let (mut sent, mut turn) = (0_u64, 0_usize);
    let start = Instant::now();
    let end = time + LOST_AFTER;
    while report.answered + report.wrong < total && start.elapsed() < end {
        let mut idle = true;
        let due = pace.due(start.elapsed()).min(total);
        while sent < due {
            idle = false;
            turn = (turn + 1) % SOCKETS;
            let lane = &mut lanes[turn];
            let count = (due - sent).min(BATCH as u64) as usize;
            for (place, (question, expected)) in order.by_ref().take(count).enumerate() {
                let id = lane.next_id.wrapping_add(place as u16);
                outgoing.put(place, question)[..2].copy_from_slice(&id.to_be_bytes());
                lane.expected[usize::from(id)] = (expected, pace.at(sent + place as u64).as_nanos() as u64);
            }
            let now_ns = start.elapsed().as_nanos() as u64;
            // What the socket does not take is lost, as it would be on a network.
            outgoing.send(&lane.socket, count).context("send questions")?;
            for number in sent..sent + count as u64 {
                let due_ns = pace.at(number).as_nanos() as u64;
                report.late_ns.saturating_record(now_ns.saturating_sub(due_ns));
            }
            lane.next_id = lane.next_id.wrapping_add(count as u16);
            sent += count as u64;
        }
        for lane in &mut lanes {
            let received = incoming.receive(&lane.socket, false).context("receive answers")?;
            let now_ns = start.elapsed().as_nanos() as u64;
            idle &= received == 0;
            for place in 0..received {
                take(lane, incoming.received(place), now_ns, &mut report);
            }
        }
        if idle {
            std::thread::yield_now();
        }
    }
    report.lost = total - (report.answered + report.wrong).min(total);
    // A server that drops what it cannot answer soon is not the faster one: what is lost is waited for, and asked again.
    let waited = u64::try_from(LOST_AFTER.as_nanos()).unwrap_or(u64::MAX);
    report.latency_ns.saturating_record_n(waited, report.lost);
    Ok(report)
}

fn take(lane: &mut Lane, answer: &[u8], now_ns: u64, report: &mut PacedReport) {
    if answer.len() < 12 {
        report.wrong += 1;
        return;
    }
    let id = u16::from_be_bytes([answer[0], answer[1]]);
    let (expected, due_ns) = std::mem::replace(&mut lane.expected[usize::from(id)], (Expected::Nothing, 0));
    if expected == Expected::Nothing {
        return;
    }
    if expected.fits(answer) {
        report.answered += 1;
        report.latency_ns.saturating_record(now_ns.saturating_sub(due_ns));
    } else {
        report.wrong += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_due_from_its_time_on_and_not_before() {
        let pace = Pace::new(80_000.0);
        assert_eq!((pace.due(Duration::ZERO), pace.at(0)), (1, Duration::ZERO));
        for number in [1, 7, 1_000, 79_999, 800_001] {
            let at = pace.at(number);
            assert_eq!(pace.due(at + Duration::from_nanos(2)), number + 1);
            assert_eq!(pace.due(at - Duration::from_nanos(2)), number);
        }
        assert_eq!(pace.due(Duration::from_micros(999_999)), 80_000);
    }

    #[test]
    fn percentile_is_the_time_that_so_many_answers_stay_within() {
        let mut times = histogram();
        for microseconds in 1..=1_000_u64 {
            times.saturating_record(microseconds * 1_000);
        }
        for (percentile, microseconds) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1_000.0)] {
            let told = percentile_us(&times, percentile);
            assert!(
                (told - microseconds).abs() <= microseconds / 500.0,
                "{percentile}: {told}"
            );
        }
    }
}
