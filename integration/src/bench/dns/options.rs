//! What `bench-dns` can be told.

use std::path::PathBuf;

use clap::Parser;

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
    /// Seconds of each run of updates; 0 leaves updates out.
    #[arg(long, default_value_t = 4)]
    pub(super) update_seconds: u64,
    /// Writes the figures as a JSON list.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}
