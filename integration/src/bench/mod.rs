//! Measurements against peers: other name servers, and ceilings measured in the same run.
//!
//! Machines differ and are noisy, so a figure is only ever a ratio of two things measured alternately in one run.

mod ceilings;
mod copies;
mod cpu;
mod dns;
mod dns_set;
mod figure;
mod flood;
mod heat;
mod moves;
mod peers;
mod spread;
mod updates;

pub use copies::{CopiesOptions, run_copies};
pub use dns::{DnsOptions, run_dns};
pub use heat::{HeatOptions, run_heat};
pub use moves::{MoveOptions, run_moves};
pub use spread::{SpreadOptions, run_spread};
