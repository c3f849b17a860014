//! Fills servers: how fast, how soon they answer after a start, and what they weigh.

use std::time::Duration;

use anyhow::{Context, Result};

use super::batches::{Batched, load};
use super::options::Part;
use super::peers::{Peer, PeerKind};
use super::ready::Ready;
use super::{Bench, SERVER_CPU};
use crate::bench::cpu::{family_cpu_seconds, family_memory};

/// What came of loading ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    batched: Batched,
    /// Processor time for each object loaded, in microseconds.
    cost_us: f64,
    ready: Ready,
    ready_cold: Ready,
    /// Memory in octets: without objects, after the load by updates, after a restart.
    empty: u64,
    full: u64,
    restarted: u64,
}

impl Bench<'_> {
    /// Loads ours by signed updates, weighs it as it grows, and restarts it.
    pub(super) fn load_ours(&mut self) -> Result<Loaded> {
        let count = self.set.count;
        let pid = self.ours.pid()?;
        let empty = family_memory(pid)?;
        println!("\nOurs: loads {count} objects by signed updates, as many in a message as fit");
        let quarter = (count / 4).max(1);
        let mut next = quarter;
        let mut weights = Vec::new();
        let before = family_cpu_seconds(pid)?;
        let batched = load(self.ours.address(), &self.set, &self.ours.key, None, |done| {
            if done >= next {
                let each = family_memory(pid)?.saturating_sub(empty) as f64 / done as f64;
                println!("  {done} objects, {each:.0} octets of memory each");
                weights.push(format!("{each:.0} at {done}"));
                next += quarter;
            }
            Ok(())
        })
        .context("load ours")?;
        let cost_us = cost_us(family_cpu_seconds(pid)? - before, batched);
        let full = family_memory(pid)?;
        println!(
            "  in {:.1} s: {:.0} objects a second",
            batched.elapsed.as_secs_f64(),
            batched.rate()
        );
        let ready_cold = self.ours.restart(&self.set, true)?;
        let ready = self.ours.restart(&self.set, false)?;
        let restarted = family_memory(self.ours.pid()?)?;
        let each = |full: u64| full.saturating_sub(empty) as f64 / count as f64;
        self.report.note(format!(
            "ours: {:.1} MB of memory empty; octets an object while it grew: {}; {:.0} loaded, {:.0} after a restart",
            empty as f64 / 1e6,
            weights.join(", "),
            each(full),
            each(restarted)
        ));
        self.report.note(format!(
            "ours answers {:.3} s after a start, {:.3} s when its files are not in the page cache",
            ready.after.as_secs_f64(),
            ready_cold.after.as_secs_f64()
        ));
        Ok(Loaded {
            batched,
            cost_us,
            ready,
            ready_cold,
            empty,
            full,
            restarted,
        })
    }

    /// A peer without objects is weighed and, if it takes updates, loaded by the same messages as ours for some seconds; then
    /// one with all objects is started from the zone file, weighed too. That one is what comes back.
    pub(super) fn load_peer(&mut self, kind: PeerKind, name: &str, loaded: &Loaded) -> Result<Peer> {
        let secret = self.ours.secret.clone();
        let key = ("s1", secret.as_str());
        let none = self.set.first(0);
        let empty_zone = self.dir.join("empty-zone");
        none.write_zone(&empty_zone)?;
        let empty = {
            let dir = self.dir.join(format!("{kind:?}-empty"));
            let peer = Peer::start(kind, &dir, &empty_zone, &none, key, SERVER_CPU)?;
            let empty = family_memory(peer.pid())?;
            if kind.takes_updates() && self.options.has(Part::Updates) {
                let limit = Some(Duration::from_secs(self.options.update_seconds));
                let before = family_cpu_seconds(peer.pid())?;
                let theirs = load(peer.address(), &self.set, &self.ours.key, limit, |_| Ok(()))
                    .with_context(|| format!("load {name} by updates"))?;
                println!(
                    "  loads {} objects by the same updates in {:.1} s",
                    theirs.done,
                    theirs.elapsed.as_secs_f64()
                );
                self.report.figure(
                    "objects loaded per second by signed updates, batched",
                    name,
                    loaded.batched.rate(),
                    theirs.rate(),
                );
                self.report.figure(
                    "processor time per object loaded by signed updates, us",
                    name,
                    loaded.cost_us,
                    cost_us(family_cpu_seconds(peer.pid())? - before, theirs),
                );
            }
            empty
        };
        let dir = self.dir.join(format!("{kind:?}"));
        let mut peer = Peer::start(kind, &dir, &self.zone_file, &self.set, key, SERVER_CPU)?;
        self.ready(name, "", loaded.ready, peer.ready);
        if kind == PeerKind::Knot {
            peer.restart(&self.set, true)?;
            self.ready(name, " with cold files", loaded.ready_cold, peer.ready);
        }
        let full = family_memory(peer.pid())?;
        let each = |full: u64, empty: u64| full.saturating_sub(empty) as f64 / self.set.count as f64;
        let (ours, theirs) = (each(loaded.restarted, loaded.empty), each(full, empty));
        self.report
            .figure("memory per object after a start, octets", name, ours, theirs);
        let ours = each(loaded.full, loaded.empty);
        self.report.figure(
            "memory per object loaded by updates (theirs started), octets",
            name,
            ours,
            theirs,
        );
        self.report.note(format!(
            "{name}: {:.1} MB of memory empty, {:.1} MB with all objects; processes that share memory counted once",
            empty as f64 / 1e6,
            full as f64 / 1e6
        ));
        Ok(peer)
    }

    fn ready(&mut self, name: &str, how: &str, ours: Ready, theirs: Ready) {
        let figure = format!("time to answer after a start{how}, s");
        let seconds = |ready: Ready| ready.after.as_secs_f64();
        self.report.figure(&figure, name, seconds(ours), seconds(theirs));
        let figure = format!("processor time to answer after a start{how}, s");
        self.report.figure(&figure, name, ours.cpu_s, theirs.cpu_s);
    }
}

/// Processor time for each object, in microseconds.
fn cost_us(cpu_s: f64, batched: Batched) -> f64 {
    cpu_s * 1e6 / batched.done.max(1) as f64
}
