//! Our librarian against other name servers with the same names: answers, latency, memory, time to load, signed updates and
//! whole transfers.
//!
//! `loads` fills servers and weighs them, `asks` asks them, `changes` updates them, `differences` takes what changed; each compares
//! ours with one peer, in turn. What they are made of: `names` and `set` (what every server holds), `ours` and `peers` (who is measured), `flood`,
//! `paced`, `updates`, `batches`, `visible` and `axfr` (who asks), `echo` (the ceiling).

mod asks;
mod axfr;
mod batch;
mod batches;
mod changes;
mod differences;
mod dnsperf;
mod echo;
mod flood;
mod loads;
mod names;
mod options;
mod ours;
mod paced;
mod peer_files;
mod peers;
mod ready;
mod report;
mod set;
mod turns;
mod updates;
mod visible;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::cpu::{odd_threads, pin_this_thread};
use changes::BestPeer;
use dnsperf::Dnsperf;
use flood::Questions;
use loads::Loaded;
pub use options::DnsOptions;
use options::Part;
use ours::Ours;
use peers::PeerKind;
use report::Report;
use set::DnsSet;
use turns::Target;
use updates::Versions;

/// Processor of every server, and of the one who asks.
const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// Questions that are made beforehand and asked over and over.
const QUESTIONS: usize = 200_000;
/// Port in every SRV record.
const SRV_PORT: u16 = 8443;

/// One run: ours, what it holds, and what was found.
struct Bench<'a> {
    options: &'a DnsOptions,
    program: &'a Path,
    dir: PathBuf,
    set: DnsSet,
    zone_file: PathBuf,
    questions: Questions,
    dnsperf: Option<Dnsperf>,
    ours: Ours,
    /// How often each object has changed in ours.
    versions: Versions,
    /// Questions a second that latency is measured at; known after the first peer.
    offered: Option<f64>,
    best: BestPeer,
    /// Octets of our whole zone in a transfer, once it was taken.
    whole_octets: Option<u64>,
    report: Report,
}

impl Bench<'_> {
    fn our_target(&self) -> Result<Target> {
        Ok(Target {
            name: "ours".to_owned(),
            address: self.ours.address(),
            pid: self.ours.pid()?,
        })
    }

    /// All that is compared with one peer.
    fn compare(&mut self, kind: PeerKind, name: &str, loaded: &Loaded) -> Result<()> {
        println!("\n{name}");
        let peer = self.load_peer(kind, name, loaded)?;
        let theirs = Target {
            name: name.to_owned(),
            address: peer.address(),
            pid: peer.pid(),
        };
        for target in [&self.our_target()?, &theirs] {
            let odd = odd_threads(target.pid, SERVER_CPU)?;
            if odd > 0 {
                let name = &target.name;
                self.report.note(format!(
                    "{name} has {odd} threads that are not on processor {SERVER_CPU}"
                ));
            }
        }
        if self.options.has(Part::Questions) {
            self.saturate(&theirs)?;
            self.latency(&theirs)?;
        }
        let mut versions = Versions::new(&self.set);
        if self.options.has(Part::Transfers) {
            self.transfer_zone(&theirs)?;
            if kind.takes_updates() {
                self.differences(&theirs, &mut versions)?;
            }
        }
        if kind.takes_updates() && self.options.has(Part::Updates) {
            self.update_peer(&theirs, &mut versions)?;
        }
        Ok(())
    }
}

/// What `words`, the program's arguments, ask for, if it is a part of this benchmark that runs as a process of its own.
#[must_use]
pub fn helper(words: &[String]) -> Option<Result<()>> {
    let (command, words) = words.split_first()?;
    (command == echo::COMMAND).then(|| echo::serve(words))
}

/// Runs the whole comparison.
///
/// # Errors
///
/// When no peer is installed, or a server does not start or answers wrongly.
pub fn run_dns(options: &DnsOptions, program: &Path) -> Result<()> {
    ensure!(
        std::thread::available_parallelism()?.get() > 1,
        "two processors are needed: one to ask, one to answer"
    );
    ensure!(
        options.objects > 0 && options.rounds > 0 && options.seconds > 0 && options.update_seconds > 0,
        "there is nothing to measure"
    );
    let mut report = Report::default();
    let mut peers = Vec::new();
    for kind in options.peers.iter().copied() {
        match kind.version() {
            Ok(name) => peers.push((kind, name)),
            Err(error) => report.note(format!("{kind:?} is left out, it is not installed: {error:#}")),
        }
    }
    ensure!(
        !peers.is_empty(),
        "no peer is installed: there is nothing to compare with"
    );
    pin_this_thread(CLIENT_CPU)?;
    let temporary = tempfile::Builder::new().prefix("bench-dns-").tempdir()?;
    let dir = temporary.path().to_owned();
    crate::demo::install_signals(Some(dir.clone()))?;
    let set = DnsSet::new(options.objects, SRV_PORT, options.addresses.as_deref())?;
    println!("Makes the questions and the zone file of {} objects", set.count);
    let questions = set.questions(QUESTIONS, 1)?;
    let zone_file = dir.join("zone");
    set.write_zone(&zone_file)?;
    let dnsperf = Dnsperf::find(&questions, &dir, CLIENT_CPU)?;
    if dnsperf.is_none() {
        report.note("dnsperf is not installed: questions come from the built-in generator only".to_owned());
    }
    report.note(format!(
        "servers run on processor {SERVER_CPU} with one worker, questions come from processor {CLIENT_CPU}; ours and a peer take turns"
    ));
    let mut bench = Bench {
        options,
        program,
        ours: Ours::start(program, &dir, &set, SERVER_CPU)?,
        dir,
        versions: Versions::new(&set),
        set,
        zone_file,
        questions,
        dnsperf,
        offered: None,
        best: BestPeer::default(),
        whole_octets: None,
        report,
    };
    let loaded = bench.load_ours()?;
    let mut broken = Vec::new();
    for (kind, name) in &peers {
        // What the others show is worth the wait even so.
        if let Err(error) = bench.compare(*kind, name, &loaded) {
            bench
                .report
                .note(format!("{name} is not compared to the end: {error:#}"));
            broken.push(name.as_str());
        }
    }
    println!();
    if options.has(Part::Questions) {
        bench.echo()?;
    }
    if options.has(Part::Updates) {
        if options.has(Part::Questions) {
            bench.busy_ours()?;
        }
        bench.best_of_updates();
    }
    bench.report.finish(options.json.as_deref())?;
    ensure!(broken.is_empty(), "not compared to the end: {}", broken.join(", "));
    Ok(())
}
