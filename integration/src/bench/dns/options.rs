//! What `bench-dns` can be told.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::peers::PeerKind;

/// A part of the comparison.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Part {
    /// Answers as fast as they come, and their latency.
    Questions,
    /// Whole zones, and differences.
    Transfers,
    /// Signed updates; with questions, answers beside them too.
    Updates,
}

impl Part {
    pub(super) const ALL: [Part; 3] = [Part::Questions, Part::Transfers, Part::Updates];
}

/// Compares the librarian with Knot, NSD and BIND on the same names: answers and their latency, memory, time to load, signed
/// updates, whole transfers.
///
/// Every server runs on processor 0 with one worker, the one who asks on processor 1; ours and a peer take turns in one run. A
/// ratio is ours divided by theirs; what was loaded or asked is generated alike for all. A peer that is not installed is left out.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench-dns",
    after_help = "Example:\n  cargo run --release --bin bench-dns -- --objects 1000000 --json dns.json"
)]
pub struct DnsOptions {
    /// How many objects every server holds.
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) objects: usize,
    /// A file of addresses, one a line, from which those of the objects are drawn; built in, like real ones, unless given.
    #[arg(long, value_name = "FILE")]
    pub(super) addresses: Option<PathBuf>,
    /// How often servers take turns.
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: usize,
    /// Seconds of each turn of questions.
    #[arg(long, default_value_t = 2)]
    pub(super) seconds: u64,
    /// Seconds of each run of updates.
    #[arg(long, default_value_t = 4)]
    pub(super) update_seconds: u64,
    /// What to compare besides loading and memory.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL, value_name = "PART")]
    pub(super) parts: Vec<Part>,
    /// Peers to compare with, of those that are installed.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = PeerKind::ALL, value_name = "PEER")]
    pub(super) peers: Vec<PeerKind>,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

impl DnsOptions {
    /// Whether a part is asked for.
    pub(super) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}
