//! Measurements against peers: other name servers, and ceilings measured in the same run.
//!
//! Machines differ and are noisy, so a figure is only ever a ratio of two things measured alternately in one run.

mod cpu;
mod dns_set;
mod figure;
mod flood;
mod peers;
mod updates;

pub use cpu::{cpu_seconds, odd_threads, pin_this_thread};
pub use dns_set::DnsSet;
pub use figure::{Figure, median, write_figures};
pub use flood::{FloodReport, Questions, flood};
pub use peers::{Peer, PeerKind};
pub use updates::{UpdateReport, Versions, load_registers, update_flood};
