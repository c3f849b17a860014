//! Measurements against peers: other name servers, and ceilings measured in the same run.
//!
//! Machines differ and are noisy, so a figure is only ever a ratio of two things measured alternately in one run.

mod ceilings;
mod copies;
mod cpu;
mod dns;
mod figure;
mod heat;
mod moves;
mod spread;

pub use copies::{CopiesOptions, run_copies};
pub use dns::{DnsOptions, helper as dns_helper, run_dns};
pub use heat::{HeatOptions, run_heat};
pub use moves::{MoveOptions, run_moves};
pub use spread::{SpreadOptions, run_spread};
