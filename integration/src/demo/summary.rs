//! What the demo found, as text and as JSON.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use agent::client::Counts;
use anyhow::{Context, Result};
use serde::Serialize;

use super::book::Book;
use super::drain::Moved;
use super::hot;
use super::load::{Filled, Measured, milliseconds};
use super::registers::Changes;
use super::upgrade::Facts;
use super::verify::Verified;
use crate::harness::Pool;

/// What every phase brought.
pub(super) struct Phases {
    pub(super) filled: Filled,
    pub(super) moved: Moved,
    pub(super) job: Job,
    pub(super) changes: Changes,
    pub(super) verified: Verified,
    pub(super) counts: Counts,
}

/// What was done under load.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Job {
    Drain(Drained),
    Upgrade(Facts),
    Hot(hot::Facts),
}

#[derive(Debug, Serialize)]
pub(super) struct Drained {
    /// The server.
    pub(super) drained: String,
    /// Objects that it lists itself.
    pub(super) drained_left: u64,
}

/// A figure before the drain and during it.
#[derive(Debug, Serialize)]
struct Pair {
    before: f64,
    during: f64,
}

#[derive(Debug, Serialize)]
struct ServerLine {
    name: String,
    https: SocketAddr,
    role: String,
    objects: u64,
}

/// The summary; its field names are what `--json` writes.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    domain: String,
    dns: SocketAddr,
    dir: PathBuf,
    servers: Vec<ServerLine>,
    objects: u64,
    put_seconds: f64,
    put_bytes: u64,
    objects_moved: u64,
    bytes_moved: u64,
    move_seconds: f64,
    objects_per_second: f64,
    bytes_per_second: f64,
    unsettled_registers: u64,
    operations: u64,
    operations_per_second: Pair,
    failed_operations: u64,
    mismatched_objects: u64,
    read_p50_ms: Pair,
    read_p99_ms: Pair,
    write_p50_ms: Pair,
    write_p99_ms: f64,
    write_p99_before_ms: f64,
    client_requests: u64,
    client_retries: u64,
    client_redirects: u64,
    dns_questions: u64,
    #[serde(flatten)]
    job: Job,
}

impl Summary {
    pub(super) fn new(pool: &Pool, book: &Book, phases: Phases) -> Result<Summary> {
        let Phases {
            filled,
            moved,
            job,
            changes,
            verified,
            counts,
        } = phases;
        let Moved {
            before,
            during,
            after,
            elapsed,
        } = moved;
        let status = pool.pool_status()?;
        let servers = pool
            .servers()
            .iter()
            .map(|server| {
                let known = status.servers.iter().find(|known| known.name == server.name);
                ServerLine {
                    name: server.name.clone(),
                    https: server.ready.https,
                    role: known.map_or_else(String::new, |known| known.role.clone()),
                    objects: known.and_then(|known| known.objects).unwrap_or_default(),
                }
            })
            .collect();
        let seconds = elapsed.as_secs_f64();
        let all = [&before, &during, &after];
        let sum = |of: fn(&Measured) -> u64| all.iter().map(|measured| of(measured)).sum::<u64>();
        let rate = |measured: &Measured| measured.operations as f64 / measured.elapsed.as_secs_f64();
        Ok(Summary {
            domain: pool.domain().to_owned(),
            dns: pool.dns(),
            dir: pool.dir().to_owned(),
            servers,
            objects: (book.len() + book.extra().iter().filter(|entry| !entry.deletion().1).count()) as u64,
            put_seconds: filled.elapsed.as_secs_f64(),
            put_bytes: filled.octets,
            objects_moved: changes.objects,
            bytes_moved: changes.octets,
            move_seconds: seconds,
            objects_per_second: changes.objects as f64 / seconds,
            bytes_per_second: changes.octets as f64 / seconds,
            unsettled_registers: changes.unsettled,
            operations: sum(|measured| measured.operations) + filled.objects + verified.objects,
            operations_per_second: Pair {
                before: rate(&before),
                during: rate(&during),
            },
            failed_operations: sum(|measured| measured.failed) + verified.failed,
            mismatched_objects: sum(|measured| measured.mismatched) + verified.mismatched,
            read_p50_ms: Pair {
                before: milliseconds(&before.reads_us, 0.5),
                during: milliseconds(&during.reads_us, 0.5),
            },
            read_p99_ms: Pair {
                before: milliseconds(&before.reads_us, 0.99),
                during: milliseconds(&during.reads_us, 0.99),
            },
            write_p50_ms: Pair {
                before: milliseconds(&before.writes_us, 0.5),
                during: milliseconds(&during.writes_us, 0.5),
            },
            write_p99_ms: milliseconds(&during.writes_us, 0.99),
            write_p99_before_ms: milliseconds(&before.writes_us, 0.99),
            client_requests: counts.requests,
            client_retries: counts.retries,
            client_redirects: counts.redirects,
            dns_questions: counts.questions,
            job,
        })
    }

    /// Whether everything is as it must be.
    pub(super) fn is_good(&self) -> bool {
        self.failed_operations == 0
            && self.mismatched_objects == 0
            && self.unsettled_registers == 0
            && match &self.job {
                Job::Drain(Drained { drained_left, .. }) => *drained_left == 0 && self.objects_moved > 0,
                Job::Upgrade(facts) => facts.is_good() && self.objects_moved > 0,
                // How well heat is spread is a figure, not a fault: it depends on what is asked for.
                Job::Hot(_) => true,
            }
    }

    pub(super) fn print(&self) {
        println!("\nSummary");
        if !matches!(self.job, Job::Hot(_)) {
            self.print_moved();
        }
        match &self.job {
            Job::Drain(Drained { drained, drained_left }) => println!(
                "  {drained:<11} lists {drained_left} objects itself; {} registers are not settled",
                self.unsettled_registers
            ),
            Job::Upgrade(facts) => {
                facts.print();
                println!("  registers   {} are not settled", self.unsettled_registers);
            }
            Job::Hot(facts) => {
                facts.print();
                println!("  registers   {} are not settled", self.unsettled_registers);
            }
        }
        println!(
            "  operations  {}, failed {} ({} DNS questions, {} requests, {} redirects, {} repetitions)",
            self.operations,
            self.failed_operations,
            self.dns_questions,
            self.client_requests,
            self.client_redirects,
            self.client_retries
        );
        println!(
            "  read p50    {:.1} ms before, {:.1} ms during",
            self.read_p50_ms.before, self.read_p50_ms.during
        );
        println!(
            "  read p99    {:.1} ms before, {:.1} ms during",
            self.read_p99_ms.before, self.read_p99_ms.during
        );
        println!(
            "  write p50   {:.1} ms before, {:.1} ms during",
            self.write_p50_ms.before, self.write_p50_ms.during
        );
        println!(
            "  write p99   {:.1} ms before, {:.1} ms during",
            self.write_p99_before_ms, self.write_p99_ms
        );
        println!(
            "  objects     {} in the pool, {} differ from what was written",
            self.objects, self.mismatched_objects
        );
        for server in &self.servers {
            println!(
                "    {:<4} {:<9} {} objects, https://{}",
                server.name, server.role, server.objects, server.https
            );
        }
        println!(
            "{}",
            if self.is_good() {
                "All is as it must be."
            } else {
                "Something is not as it must be: see above."
            }
        );
    }

    fn print_moved(&self) {
        println!(
            "  moved       {} objects, {} octets in {:.1} s: {:.0} objects/s, {:.1} MB/s",
            self.objects_moved,
            self.bytes_moved,
            self.move_seconds,
            self.objects_per_second,
            self.bytes_per_second / 1e6
        );
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("write the summary as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}
