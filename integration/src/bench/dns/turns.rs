//! Two servers that are measured in turn.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::flood::{FloodReport, Questions, flood};
use super::paced::{PacedReport, paced, percentile_us};
use crate::bench::cpu::family_cpu_seconds;

/// One who answers.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What it is called in the report.
    pub(super) name: String,
    /// Where it answers.
    pub(super) address: SocketAddr,
    /// Its first process.
    pub(super) pid: u32,
}

/// Processor time is looked at so often, to see whether a server rests.
const LOOK: Duration = Duration::from_millis(200);
/// Most of it that a resting server takes meanwhile, in seconds: two ticks of the kernel's count.
const REST_SECONDS: f64 = 0.021;
/// Longest wait for one that goes on working.
const REST_WAIT: Duration = Duration::from_secs(20);

/// Calls `run` for each of two targets in turn, `rounds` times, while the other one rests; what came of each.
///
/// # Errors
///
/// That of the first call that fails, with the target's name.
pub(super) fn in_turn<T>(
    rounds: usize,
    targets: [&Target; 2],
    mut run: impl FnMut(&Target) -> Result<T>,
) -> Result<[Vec<T>; 2]> {
    let mut came = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (at, came) in came.iter_mut().enumerate() {
            let (target, other) = (targets[at], targets[1 - at]);
            rested(other)?;
            came.push(run(target).map_err(|error| error.context(target.name.clone()))?);
        }
    }
    Ok(came)
}

/// Waits for a server to be done with what it was given: both run on one processor, and some work on after their last answer.
fn rested(target: &Target) -> Result<()> {
    let begun = Instant::now();
    let mut before = family_cpu_seconds(target.pid)?;
    while begun.elapsed() < REST_WAIT {
        std::thread::sleep(LOOK);
        let now = family_cpu_seconds(target.pid)?;
        if now - before < REST_SECONDS {
            return Ok(());
        }
        before = now;
    }
    println!("  {:<14} works on, which disturbs what comes now", target.name);
    Ok(())
}

/// Of values measured in turn, those of the round whose ratio is the middle one: what disturbs this machine for longer than a
/// round disturbs both. 0 and 0 of none.
#[must_use]
pub(super) fn middle<T>(came: &[Vec<T>; 2], value: impl Fn(&T) -> f64) -> (f64, f64) {
    let [ours, theirs] = came;
    let mut pairs: Vec<(f64, f64)> = ours.iter().map(&value).zip(theirs.iter().map(&value)).collect();
    pairs.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    pairs.get(pairs.len() / 2).copied().unwrap_or_default()
}

/// Floods a target: what came, and its processor time for each answer in microseconds.
///
/// # Errors
///
/// When it gives wrong answers, or none.
pub(super) fn flooded(target: &Target, questions: &Questions, time: Duration) -> Result<(FloodReport, f64)> {
    let before = family_cpu_seconds(target.pid)?;
    let report = flood(target.address, questions, time)?;
    let cost = (family_cpu_seconds(target.pid)? - before) * 1e6 / report.answered.max(1) as f64;
    ensure!(report.wrong == 0, "{} wrong answers: {report:?}", report.wrong);
    ensure!(report.answered > 0, "no answer: {report:?}");
    println!(
        "  {:<14} {:>8.0}/s, {cost:.2} us of processor each, {} lost, {} octets each",
        target.name,
        report.rate(),
        report.lost,
        report.answer_octets()
    );
    Ok((report, cost))
}

/// Asks a target at a rate; what came.
///
/// # Errors
///
/// When it gives wrong answers.
pub(super) fn offered(target: &Target, questions: &Questions, rate: f64, time: Duration) -> Result<PacedReport> {
    let report = paced(target.address, questions, rate, time)?;
    ensure!(report.wrong == 0, "{} wrong answers", report.wrong);
    println!(
        "  {:<14} offered {rate:.0}/s: p50 {:.0} us, p99 {:.0} us, {} lost; questions left p99 {:.0} us late",
        target.name,
        percentile_us(&report.latency_ns, 50.0),
        percentile_us(&report.latency_ns, 99.0),
        report.lost,
        percentile_us(&report.late_ns, 99.0)
    );
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_round_is_that_of_the_middle_ratio() {
        let came = [vec![10.0, 300.0, 40.0], vec![10.0, 100.0, 20.0]];
        assert_eq!(middle(&came, |value| *value), (40.0, 20.0));
        assert_eq!(middle(&[Vec::<f64>::new(), Vec::new()], |value| *value), (0.0, 0.0));
    }
}
