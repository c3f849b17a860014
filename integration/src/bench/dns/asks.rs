//! Asks servers: as fast as they answer, at a fixed rate, and for the whole zone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::axfr::{Transfer, transfer};
use super::echo::Echo;
use super::paced::{PacedReport, histogram, percentile_us};
use super::turns::{Target, flooded, in_turn, offered};
use super::{Bench, SERVER_CPU};
use crate::bench::figure::median;

/// Share of the first peer's saturated rate that latency is measured at.
const OFFERED: f64 = 0.5;
/// Transfers of each server.
const TRANSFERS: usize = 2;

impl Bench<'_> {
    /// As many answers as a server gives.
    pub(super) fn saturate(&mut self, theirs: &Target) -> Result<()> {
        println!("  asks as fast as answers come: SRV and TXT, one name in twenty is not there");
        let ours = self.our_target()?;
        let time = self.time();
        // The first round warms caches.
        let came = in_turn(self.options.rounds + 1, [&ours, theirs], |target| {
            let (report, cost) = flooded(target, &self.questions, time)?;
            Ok((report.rate(), cost))
        })?;
        let rates = came
            .each_ref()
            .map(|each| each[1..].iter().map(|(rate, _)| *rate).collect::<Vec<f64>>());
        let costs = came
            .each_ref()
            .map(|each| each[1..].iter().map(|(_, cost)| *cost).collect::<Vec<f64>>());
        let name = &theirs.name;
        self.report.figure(
            "answers per second, saturated",
            name,
            median(&rates[0]),
            median(&rates[1]),
        );
        self.report.figure(
            "processor time per answer, us",
            name,
            median(&costs[0]),
            median(&costs[1]),
        );
        if self.offered.is_none() {
            let rate = median(&rates[1]) * OFFERED;
            self.report.note(format!(
                "latency is measured at {rate:.0} questions a second: {:.0} % of what {name} answers at most",
                OFFERED * 100.0
            ));
            self.offered = Some(rate);
        }
        if let Some(dnsperf) = &self.dnsperf {
            let rates = in_turn(self.options.rounds, [&ours, theirs], |target| {
                dnsperf.rate(target.address, self.options.seconds)
            })?;
            self.report.figure(
                "answers per second by dnsperf",
                name,
                median(&rates[0]),
                median(&rates[1]),
            );
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
        let ours = self.our_target()?;
        let mut key = None;
        // Whoever may: anyone, the joined server, the admin.
        let mut offered = transfer(ours.address, &self.set.domain, None)?.is_some();
        for candidate in [self.ours.key.clone(), self.ours.admin_key()?] {
            if !offered {
                offered = transfer(ours.address, &self.set.domain, Some(&candidate))?.is_some();
                key = Some(candidate);
            }
        }
        let take = |target: &Target| -> Result<Option<Transfer>> {
            let key = key.as_ref().filter(|_| target.name == ours.name);
            let came = transfer(target.address, &self.set.domain, key)?;
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
        };
        if !offered {
            let came = take(theirs)?;
            let rate = came.map_or(0.0, |came| came.rate());
            self.report.note(format!(
                "transfer of the whole zone: not offered by ours; {} gives {rate:.0} records a second",
                theirs.name
            ));
            return Ok(());
        }
        let came = in_turn(TRANSFERS, [&ours, theirs], take)?;
        let [ours, theirs_all] = came.each_ref().map(|each| {
            let rates: Vec<f64> = each.iter().flatten().map(Transfer::rate).collect();
            let seconds: Vec<f64> = each.iter().flatten().map(|came| came.elapsed.as_secs_f64()).collect();
            (median(&rates), median(&seconds))
        });
        let name = &theirs.name;
        self.report.figure(
            "records per second in a transfer of the whole zone",
            name,
            ours.0,
            theirs_all.0,
        );
        self.report
            .figure("time of a transfer of the whole zone, s", name, ours.1, theirs_all.1);
        Ok(())
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
            let (report, cost) = flooded(target, questions, time)?;
            Ok((report.rate(), cost))
        })?;
        let rates = came
            .each_ref()
            .map(|each| each.iter().map(|(rate, _)| *rate).collect::<Vec<f64>>());
        let costs = came
            .each_ref()
            .map(|each| each.iter().map(|(_, cost)| *cost).collect::<Vec<f64>>());
        self.report.figure(
            "answers per second, saturated",
            &bare.name,
            median(&rates[0]),
            median(&rates[1]),
        );
        self.report.figure(
            "processor time per answer, us",
            &bare.name,
            median(&costs[0]),
            median(&costs[1]),
        );
        Ok(())
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
