//! The demo's command line.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::TypedValueParser;

/// Starts a librarian and its agents as separate processes on this machine, fills the pool, and drains one server into
/// the free one, upgrades the whole pool, or has it spread what is asked for most, while clients read and write.
///
/// Exit status: 0 when no operation failed and every object was identical afterwards, 1 otherwise, 2 for a wrong command
/// line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "demo",
    version,
    after_help = "Examples:\n  demo --upgrade\n  demo\n  demo --hot\n  demo --objects objects.jsonl --json summary.json\n  demo --keep --dns-port 5300"
)]
pub struct Options {
    /// JSON lines with the objects: `address`, `type`, `data` as properties, `data.content` as body. Without it, made up
    /// ones.
    #[arg(long, value_name = "FILE")]
    pub objects: Option<PathBuf>,
    /// How many objects to make up.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(usize))]
    pub count: usize,
    /// Made-up objects are the same for the same seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Writes the summary as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Leaves the pool running afterwards, until SIGTERM or Ctrl-C, and says how to talk to it.
    #[arg(long)]
    pub keep: bool,
    /// How many servers, the free one among them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=100).map(usize::from))]
    pub servers: usize,
    /// The librarian's directory, which must be empty and stays afterwards; the agents' are in it, under agents/. Without
    /// it, a temporary one.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The pool's domain.
    #[arg(long, default_value = "hypernet.internal.")]
    pub domain: String,
    /// Port of the librarian's DNS; a free one if absent.
    #[arg(long, value_name = "PORT")]
    pub dns_port: Option<u16>,
    /// Port of the librarian's HTTPS; a free one if absent.
    #[arg(long, value_name = "PORT")]
    pub https_port: Option<u16>,
    /// First port of the agents, which take two in a row each; free ones if absent.
    #[arg(long, value_name = "PORT")]
    pub agent_port: Option<u16>,
    /// Upgrades the whole pool to another release instead of draining one server: newer schemas, a higher level, one install that
    /// fails at first.
    #[arg(long)]
    pub upgrade: bool,
    /// Seconds that the upgraded pool is watched before it is made final.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", requires = "upgrade")]
    pub soak: u64,
    /// Asks for some objects far more often than for others instead, and shows how the pool finds them and makes copies of them for
    /// readers. The hottest server is to be asked less than 1.3 times the mean of the servers that serve.
    #[arg(long, conflicts_with_all = ["upgrade", "drain"])]
    pub hot: bool,
    /// How unlike objects are asked for: the exponent of Zipf's law. 0.99 with --hot; else all alike, unless said.
    #[arg(long, value_name = "EXPONENT", value_parser = exponent)]
    pub zipf: Option<f64>,
    /// How many servers hold each object; unless said, as the librarian does. With --hot one, and more only for heat.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=13), conflicts_with = "hot")]
    pub copies: Option<u8>,
    /// Longest wait, in seconds, for copies of hot objects.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", requires = "hot")]
    pub hot_seconds: u64,
    /// Which server is drained; if absent, the one with the most objects.
    #[arg(long, value_name = "SERVER")]
    pub drain: Option<String>,
    /// How many clients, each with its own connections and its own look at DNS.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64).map(usize::from))]
    pub clients: usize,
    /// Operations a second of all clients together: eight reads to two writes, with --zipf or --hot nineteen to one.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Seconds of load before the drain, the upgrade or the spreading begins, to compare with.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub before: u64,
}

fn exponent(text: &str) -> Result<f64, String> {
    let exponent: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    match (0.0..=4.0).contains(&exponent) {
        true => Ok(exponent),
        false => Err("it is 0 to 4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
