//! Asks servers: as fast as they answer, at a fixed rate, and for the whole zone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use zones::TsigKey;

use super::axfr::{Transfer, transfer};
use super::echo::Echo;
use super::flood::FloodReport;
use super::paced::{PacedReport, histogram, percentile_us};
use super::turns::{Target, flooded, in_turn, middle, offered};
use super::{Bench, SERVER_CPU};

/// Share of the first peer's saturated rate that latency is measured at.
const OFFERED: f64 = 0.5;
/// Transfers of each server.
const TRANSFERS: usize = 3;

impl Bench<'_> {
    /// As many answers as a server gives.
    pub(super) fn saturate(&mut self, theirs: &Target) -> Result<()> {
        println!("  asks as fast as answers come: SRV and TXT, one name in twenty is not there");
        let ours = self.our_target()?;
        let time = self.time();
        let came = in_turn(self.options.rounds + 1, [&ours, theirs], |target| {
            flooded(target, &self.questions, time)
        })?;
        // The first round warms caches.
        let came = came.map(|each| each.into_iter().skip(1).collect::<Vec<_>>());
        let their_rate = self.saturated(&came, &theirs.name);
        if self.offered.is_none() {
            let rate = their_rate * OFFERED;
            self.report.note(format!(
                "latency is measured at {rate:.0} questions a second: {:.0} % of what {} answers at most",
                OFFERED * 100.0,
                theirs.name
            ));
            self.offered = Some(rate);
        }
        if let Some(dnsperf) = &self.dnsperf {
            let rates = in_turn(self.options.rounds, [&ours, theirs], |target| {
                dnsperf.rate(target.address, self.options.seconds)
            })?;
            let (ours, theirs_rate) = middle(&rates, |rate| *rate);
            self.report
                .figure("answers per second by dnsperf", &theirs.name, ours, theirs_rate);
        }
        Ok(())
    }

    /// The time of answers at a rate that every server can bear.
    pub(super) fn latency(&mut self, theirs: &Target) -> Result<()> {
        let ours = self.our_target()?;
        let (rate, time) = (self.rate()?, self.time());
        let came = in_turn(self.options.rounds, [&ours, theirs], |target| {
            offered(target, &self.questions, rate, time)
        })?;
        let times = came.each_ref().map(|each| merged(each));
        for (percentile, figure) in [(50.0, "p50"), (99.0, "p99")] {
            self.report.figure(
                &format!("{figure} of answers at a fixed rate, us"),
                &theirs.name,
                percentile_us(&times[0], percentile),
                percentile_us(&times[1], percentile),
            );
        }
        Ok(())
    }

    /// The whole zone, from each that gives it.
    pub(super) fn transfer_zone(&mut self, theirs: &Target) -> Result<()> {
        let Some(key) = self.ours.add_secondary()? else {
            let rate = self.transferred(theirs, None)?.map_or(0.0, |came| came.rate());
            self.report.note(format!(
                "transfer of the whole zone: not offered by ours; {} gives {rate:.0} records a second",
                theirs.name
            ));
            return Ok(());
        };
        let ours = self.our_target()?;
        let came = in_turn(TRANSFERS, [&ours, theirs], |target| {
            let key = (target.name == ours.name).then_some(&key);
            let came = self.transferred(target, key)?;
            came.context("the transfer is refused")
        });
        self.ours.remove_secondary()?;
        let came = came?;
        self.whole_octets = came[0].last().map(|came| came.octets);
        for (figure, (ours, theirs_value)) in [
            (
                "records per second in a transfer of the whole zone",
                middle(&came, Transfer::rate),
            ),
            (
                "time of a transfer of the whole zone, s",
                middle(&came, |came| came.elapsed.as_secs_f64()),
            ),
        ] {
            self.report.figure(figure, &theirs.name, ours, theirs_value);
        }
        Ok(())
    }

    fn transferred(&self, target: &Target, key: Option<&TsigKey>) -> Result<Option<Transfer>> {
        let came = transfer(target.address, &self.set.domain, key, None)?;
        match came {
            Some(came) => println!(
                "  {:<14} whole zone in {:.2} s: {} records, {} messages, {} octets",
                target.name,
                came.elapsed.as_secs_f64(),
                came.records,
                came.messages,
                came.octets
            ),
            None => println!("  {:<14} whole zone: refused", target.name),
        }
        Ok(came)
    }

    /// How near ours comes to a process that only sends back what it gets.
    pub(super) fn echo(&mut self) -> Result<()> {
        let ours = self.our_target()?;
        let time = self.time();
        let octets = flooded(&ours, &self.questions, time)?.0.answer_octets();
        println!("Echo: sends each question back with {octets} octets");
        let echo = Echo::start(self.program, &self.dir, SERVER_CPU, octets)?;
        let bare = Target {
            name: "bare echo".to_owned(),
            address: echo.address(),
            pid: echo.pid(),
        };
        let questions = self.questions.for_echo();
        let came = in_turn(self.options.rounds, [&ours, &bare], |target| {
            let questions = if target.name == bare.name {
                &questions
            } else {
                &self.questions
            };
            flooded(target, questions, time)
        })?;
        self.saturated(&came, &bare.name);
        Ok(())
    }

    /// The figures of floods in turn; the peer's rate.
    fn saturated(&mut self, came: &[Vec<(FloodReport, f64)>; 2], name: &str) -> f64 {
        let (ours, theirs) = middle(came, |(report, _)| report.rate());
        self.report.figure("answers per second, saturated", name, ours, theirs);
        let (our_cost, their_cost) = middle(came, |(_, cost)| *cost);
        self.report
            .figure("processor time per answer, us", name, our_cost, their_cost);
        theirs
    }

    /// Time of a turn of questions.
    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.options.seconds)
    }

    /// Questions a second that latency is measured at.
    pub(super) fn rate(&self) -> Result<f64> {
        let rate = self.offered.context("no server was saturated yet")?;
        ensure!(rate >= 1.0, "a server answered next to nothing");
        Ok(rate)
    }
}

/// The times of several runs as one.
pub(super) fn merged(reports: &[PacedReport]) -> Histogram<u64> {
    let mut all = histogram();
    for report in reports {
        all.add(&report.latency_ns).expect("all have the same bounds");
    }
    all
}
