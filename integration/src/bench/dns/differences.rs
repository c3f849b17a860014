//! How many octets a secondary is sent for what changed (IXFR, RFC 1995).

use std::net::UdpSocket;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::rr::RecordType;
use zones::{TsigKey, Zone};

use super::Bench;
use super::axfr::{serials, transfer};
use super::batches::change;
use super::set::{LOCAL, question};
use super::turns::{Target, middle};
use super::updates::Versions;

/// Objects changed a second: fewer than a difference may have before a whole zone is cheaper.
const PER_SECOND: f64 = 10_000.0;
/// Time of one run of changes, in which no object is changed twice.
const RUN: Duration = Duration::from_secs(1);
/// Objects that are changed over and over, and how many changes that are at least.
const AGAIN: (usize, usize) = (1_000, 10_000);

/// What a difference took.
#[derive(Clone, Copy, Debug)]
struct Difference {
    changes: usize,
    octets: u64,
}

impl Difference {
    fn each(&self) -> f64 {
        self.octets as f64 / self.changes.max(1) as f64
    }
}

impl Bench<'_> {
    /// Octets of a difference for each change: of objects that changed once, and of such that changed ten times.
    pub(super) fn differences(&mut self, theirs: &Target, versions: &mut Versions) -> Result<()> {
        let Some(key) = self.ours.add_secondary()? else {
            return Ok(());
        };
        let found = self.both(theirs, versions, &key);
        self.ours.remove_secondary()?;
        found
    }

    fn both(&mut self, theirs: &Target, versions: &mut Versions, key: &TsigKey) -> Result<()> {
        let name = &theirs.name;
        let once = self.in_turn(theirs, versions, 1, |bench, target, versions| {
            bench.difference(theirs, target, versions, key, false)
        })?;
        let (ours, each) = middle(&once, Difference::each);
        self.report
            .figure("octets of a difference per object changed", name, ours, each);
        if let (Some(whole), Some(ours)) = (self.whole_octets, once[0].last()) {
            let figure = "octets of a difference, 10,000 changes a second for a second";
            let (ours, whole) = (ours.octets as f64, whole as f64);
            self.report.figure(figure, "the whole zone", ours, whole);
        }
        if self.set.count >= 2 * AGAIN.0 {
            let again = self.in_turn(theirs, versions, 1, |bench, target, versions| {
                bench.difference(theirs, target, versions, key, true)
            })?;
            let (ours, each) = middle(&again, Difference::each);
            let figure = "octets of a difference per change, objects changed ten times";
            self.report.figure(figure, &theirs.name, ours, each);
        }
        Ok(())
    }

    /// Changes objects of a target and takes the difference.
    fn difference(
        &self,
        theirs: &Target,
        target: &Target,
        versions: &mut Versions,
        key: &TsigKey,
        again: bool,
    ) -> Result<Difference> {
        let never = AtomicBool::new(false);
        let before = self.serial(target)?;
        let (set, least) = match again {
            true => (self.set.first(AGAIN.0), AGAIN.1),
            false => (self.set.clone(), 1),
        };
        let mut changes = 0;
        while changes < least {
            let rate = Some(PER_SECOND);
            let came = change(target.address, &set, &self.ours.key, versions, rate, RUN, &never)?;
            changes += came.done;
        }
        let key = (target.name != theirs.name).then_some(key);
        let came = transfer(target.address, &self.set.domain, key, Some(before))?;
        let came = came.context("the difference is refused")?;
        ensure!(came.soas > 2, "the whole zone comes instead of a difference");
        println!(
            "  {:<14} difference of {changes} changes: {} records, {} octets",
            target.name, came.records, came.octets
        );
        Ok(Difference {
            changes,
            octets: came.octets,
        })
    }

    /// The serial of a target's zone.
    fn serial(&self, target: &Target) -> Result<u32> {
        let question = question(self.set.domain.zone(Zone::Obj).clone(), RecordType::SOA)?;
        let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
        socket.connect(target.address).context("connect a socket")?;
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .context("set a socket")?;
        socket.send(&question).context("ask for a serial")?;
        let mut answer = [0; 1232];
        let octets = socket.recv(&mut answer).context("hear of a serial")?;
        let serials = serials(&answer[..octets]).context("read an answer")?;
        serials.into_iter().flatten().next().context("there is a SOA record")
    }
}
