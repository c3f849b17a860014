//! Updates servers: how many signed updates they take, what those who ask meanwhile feel, and when they see them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use zones::TsigKey;

use super::Bench;
use super::asks::merged;
use super::batches::{Batched, change};
use super::options::Part;
use super::paced::percentile_us;
use super::set::DnsSet;
use super::turns::{Target, flooded, in_turn, middle, offered};
use super::updates::{UpdateReport, Versions, update_flood};
use super::visible::visibility;
use crate::bench::cpu::family_cpu_seconds;

/// Single updates outstanding.
const OUTSTANDING: [usize; 3] = [1, 16, 256];
/// Single updates outstanding while questions are asked.
const MEANWHILE: usize = 16;
/// Most questions a second while single updates run: few, since both come from one processor.
const MEANWHILE_RATE: f64 = 10_000.0;
/// Objects changed a second in ours while it is asked.
const CHANGED_PER_SECOND: f64 = 10_000.0;
/// What a peer is given of the rate that it took at most.
const PEER_SHARE: f64 = 0.8;
/// From the first update to the first question.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// Bound of a run beside which questions are asked; it ends with them.
const BESIDE: Duration = Duration::from_secs(120);
/// Updates whose visibility is measured.
const SEEN: usize = 1_000;

/// For each number of outstanding updates: the peer that did best, our rate in the same run, its rate.
#[derive(Debug, Default)]
pub(super) struct BestPeer([Option<(String, f64, f64)>; OUTSTANDING.len()]);

impl Bench<'_> {
    /// All about updates that is compared with one peer.
    pub(super) fn update_peer(&mut self, theirs: &Target, versions: &mut Versions) -> Result<()> {
        let most = self.batched(theirs, versions)?;
        self.singles(theirs, versions)?;
        if self.options.has(Part::Questions) {
            self.busy_peer(theirs, versions, most)?;
            self.meanwhile(theirs, versions)?;
        }
        self.visible(theirs, versions)
    }

    /// Calls `run` for ours and a peer in turn, each with its own versions.
    pub(super) fn in_turn<T>(
        &mut self,
        theirs: &Target,
        their_versions: &mut Versions,
        rounds: usize,
        mut run: impl FnMut(&Bench<'_>, &Target, &mut Versions) -> Result<T>,
    ) -> Result<[Vec<T>; 2]> {
        let ours = self.our_target()?;
        let mut our_versions = std::mem::take(&mut self.versions);
        let came = in_turn(rounds, [&ours, theirs], |target| {
            let versions = if target.name == ours.name {
                &mut our_versions
            } else {
                &mut *their_versions
            };
            run(self, target, versions)
        });
        self.versions = our_versions;
        came
    }

    /// Batched changes as fast as they are acknowledged; the peer's rate.
    fn batched(&mut self, theirs: &Target, versions: &mut Versions) -> Result<f64> {
        let time = self.update_time();
        let came = self.in_turn(theirs, versions, 2, |bench, target, versions| {
            let never = AtomicBool::new(false);
            let (set, key, before) = (&bench.set, &bench.ours.key, family_cpu_seconds(target.pid)?);
            let came = change(target.address, set, key, versions, None, time, &never)?;
            let cost = (family_cpu_seconds(target.pid)? - before) * 1e6 / came.done.max(1) as f64;
            println!(
                "  {:<14} changes {:.0} objects a second, a hundred in a message, {cost:.0} us of processor each",
                target.name,
                came.rate()
            );
            Ok((came.rate(), cost))
        })?;
        let (ours, most) = middle(&came, |(rate, _)| *rate);
        let figure = "objects changed per second by signed updates, batched";
        self.report.figure(figure, &theirs.name, ours, most);
        let (ours, cost) = middle(&came, |(_, cost)| *cost);
        let figure = "processor time per object changed by signed updates, us";
        self.report.figure(figure, &theirs.name, ours, cost);
        Ok(most)
    }

    /// Answers while many objects change, of both; a peer is given the rate that it takes.
    fn busy_peer(&mut self, theirs: &Target, versions: &mut Versions, most: f64) -> Result<()> {
        let their_rate = (most * PEER_SHARE).min(CHANGED_PER_SECOND);
        let (time, asked) = (self.time(), self.rate()?);
        let came = self.in_turn(theirs, versions, self.options.rounds, |bench, target, versions| {
            let changed = if target.name == theirs.name {
                their_rate
            } else {
                CHANGED_PER_SECOND
            };
            bench.busy(target, versions, changed, asked, time)
        })?;
        let changed = middle(&came, |busy| busy.changed);
        self.report.note(format!(
            "while objects changed, batched: {:.0} a second in ours, {:.0} in {}",
            changed.0, changed.1, theirs.name
        ));
        for (figure, (ours, theirs_value)) in [
            (
                "answers per second while objects change",
                middle(&came, |busy| busy.rate),
            ),
            (
                "p99 of answers while objects change, us",
                middle(&came, |busy| busy.p99_us),
            ),
        ] {
            self.report.figure(figure, &theirs.name, ours, theirs_value);
        }
        // What somebody gives up who has changes: theirs without any.
        let came = self.in_turn(theirs, versions, self.options.rounds, |bench, target, versions| {
            let flood = || flooded(target, &bench.questions, time);
            let (flood, _) = if target.name == theirs.name {
                flood()?
            } else {
                bench.beside(target, versions, CHANGED_PER_SECOND, flood)?.0
            };
            Ok(flood.rate())
        })?;
        let (ours, at_rest) = middle(&came, |rate| *rate);
        let figure = "answers per second while 10,000 objects a second change in ours, theirs at rest";
        self.report.figure(figure, &theirs.name, ours, at_rest);
        Ok(())
    }

    /// Ours at rest and while objects change, in turn.
    pub(super) fn busy_ours(&mut self) -> Result<()> {
        println!("Ours at rest and while {CHANGED_PER_SECOND:.0} objects change a second");
        let ours = self.our_target()?;
        let (time, asked) = (self.time(), self.rate()?);
        let mut versions = std::mem::take(&mut self.versions);
        let mut came = [Vec::new(), Vec::new()];
        for _ in 0..self.options.rounds {
            came[0].push(self.busy(&ours, &mut versions, CHANGED_PER_SECOND, asked, time)?);
            let (flood, _) = flooded(&ours, &self.questions, time)?;
            let paced = offered(&ours, &self.questions, asked, time)?;
            came[1].push(Busy {
                rate: flood.rate(),
                p99_us: percentile_us(&paced.latency_ns, 99.0),
                changed: CHANGED_PER_SECOND,
            });
        }
        self.versions = versions;
        for (figure, peer, (ours, theirs)) in [
            (
                "answers per second while 10,000 objects a second change",
                "ours at rest",
                middle(&came, |busy| busy.rate),
            ),
            (
                "p99 of answers while 10,000 objects a second change, us",
                "ours at rest",
                middle(&came, |busy| busy.p99_us),
            ),
            (
                "objects changed per second while answers are saturated",
                "what was sent",
                middle(&came, |busy| busy.changed),
            ),
        ] {
            self.report.figure(figure, peer, ours, theirs);
        }
        Ok(())
    }

    /// A flood and a fixed rate of questions, each beside batched changes.
    fn busy(&self, target: &Target, versions: &mut Versions, changed: f64, asked: f64, time: Duration) -> Result<Busy> {
        let (flood, under_flood) = self.beside(target, versions, changed, || flooded(target, &self.questions, time))?;
        let (paced, under_pace) = self.beside(target, versions, changed, || {
            offered(target, &self.questions, asked, time)
        })?;
        println!(
            "  {:<14} meanwhile changed {:.0} and {:.0} objects a second",
            target.name,
            under_flood.rate(),
            under_pace.rate()
        );
        Ok(Busy {
            rate: flood.0.rate(),
            p99_us: percentile_us(&paced.latency_ns, 99.0),
            changed: under_flood.rate(),
        })
    }

    /// Calls `run` while another thread changes objects of `target` at a rate.
    fn beside<T>(
        &self,
        target: &Target,
        versions: &mut Versions,
        changed: f64,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Batched)> {
        let (set, key, address) = (&self.set, &self.ours.key, target.address);
        beside(
            move |over| change(address, set, key, versions, Some(changed), BESIDE, over),
            run,
        )
    }

    /// Single updates, some outstanding at a time.
    fn singles(&mut self, theirs: &Target, versions: &mut Versions) -> Result<()> {
        println!("  signed updates of one object: a prerequisite, a deletion, an addition, durable before the answer");
        let time = self.update_time();
        for (place, outstanding) in OUTSTANDING.into_iter().enumerate() {
            let outstanding = outstanding.min(self.set.count);
            let came = self.in_turn(theirs, versions, 1, |bench, target, versions| {
                let never = AtomicBool::new(false);
                let came = update_flood(
                    target.address,
                    &bench.set,
                    &bench.ours.key,
                    versions,
                    outstanding,
                    time,
                    &never,
                )?;
                print_updates(target, outstanding, &came);
                Ok(came.rate())
            })?;
            let (ours, peer) = middle(&came, |rate| *rate);
            let best = &mut self.best.0[place];
            if best.as_ref().is_none_or(|(_, _, best)| peer > *best) {
                *best = Some((theirs.name.clone(), ours, peer));
            }
        }
        Ok(())
    }

    /// What is known of single updates, against the better peer for each number outstanding.
    pub(super) fn best_of_updates(&mut self) {
        for (outstanding, best) in OUTSTANDING.into_iter().zip(&self.best.0) {
            if let Some((name, ours, theirs)) = best {
                let figure = format!("signed updates per second, {outstanding} outstanding, best peer");
                self.report.figure(&figure, name, *ours, *theirs);
            }
        }
    }

    /// The time of answers while single updates run.
    fn meanwhile(&mut self, theirs: &Target, versions: &mut Versions) -> Result<()> {
        let (time, asked) = (self.time(), self.rate()?.min(MEANWHILE_RATE));
        let outstanding = MEANWHILE.min(self.set.count);
        let came = self.in_turn(theirs, versions, self.options.rounds, |bench, target, versions| {
            let (set, key, address): (&DnsSet, &TsigKey, _) = (&bench.set, &bench.ours.key, target.address);
            let (report, updates) = beside(
                move |over| update_flood(address, set, key, versions, outstanding, BESIDE, over),
                || offered(target, &bench.questions, asked, time),
            )?;
            print_updates(target, outstanding, &updates);
            Ok(report)
        })?;
        let times = came.each_ref().map(|each| merged(each));
        self.report.figure(
            &format!(
                "p99 of answers while signed updates run as fast as each takes them, {outstanding} outstanding, us"
            ),
            &theirs.name,
            percentile_us(&times[0], 99.0),
            percentile_us(&times[1], 99.0),
        );
        Ok(())
    }

    /// From an acknowledged update to the answer that shows it.
    fn visible(&mut self, theirs: &Target, versions: &mut Versions) -> Result<()> {
        let time = self.update_time();
        let came = self.in_turn(theirs, versions, 1, |bench, target, versions| {
            let times = visibility(target.address, &bench.set, &bench.ours.key, versions, SEEN, time)?;
            println!(
                "  {:<14} {} updates seen after p50 {:.0} us, p99 {:.0} us",
                target.name,
                times.len(),
                percentile_us(&times, 50.0),
                percentile_us(&times, 99.0)
            );
            Ok(times)
        })?;
        let at =
            |each: &[Histogram<u64>], percentile| each.first().map_or(0.0, |times| percentile_us(times, percentile));
        for (percentile, figure) in [(50.0, "p50"), (99.0, "p99")] {
            self.report.figure(
                &format!("{figure} from an update's acknowledgement to its answer, us"),
                &theirs.name,
                at(&came[0], percentile),
                at(&came[1], percentile),
            );
        }
        Ok(())
    }

    fn update_time(&self) -> Duration {
        Duration::from_secs(self.options.update_seconds)
    }
}

/// What a server did while its objects changed.
#[derive(Clone, Copy, Debug)]
struct Busy {
    /// Answers a second.
    rate: f64,
    /// Of answers at the fixed rate.
    p99_us: f64,
    /// Objects changed a second during the flood.
    changed: f64,
}

/// Calls `run` while another thread is in `updates`, which is told when it is over.
fn beside<T, U: Send>(
    updates: impl FnOnce(&AtomicBool) -> Result<U> + Send,
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, U)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let updates = scope.spawn(|| updates(&over));
        std::thread::sleep(UNDER_WAY);
        let came = run();
        over.store(true, Ordering::Release);
        let updates = updates.join().map_err(|_| anyhow!("the thread of updates panicked"))?;
        Ok((came?, updates.context("update beside questions")?))
    })
}

fn print_updates(target: &Target, outstanding: usize, came: &UpdateReport) {
    println!(
        "  {:<14} {outstanding:>3} outstanding: {:>8.1}/s, p50 {:.2} ms, p99 {:.2} ms, {} sent again",
        target.name,
        came.rate(),
        came.latency_ms(50.0),
        came.latency_ms(99.0),
        came.resent
    );
}
