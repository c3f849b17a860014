//! A whole pool in one deterministic world: virtual time, one thread, one seed.
//!
//! The cores are the production ones: the agents' engine, machines, objects, store and recovery; the librarian's registry,
//! judging, answers, signatures and controller; the wire formats between them. What is made here is what surrounds them:
//! network, disks, clocks, resolvers, clients and everything that goes wrong.
//!
//! | file | what |
//! |---|---|
//! | `world`, `peers` | events and what each of them does; messages between agents |
//! | `network`, `clock`, `disk` | what is around the cores |
//! | `agent`, `desk`, `serve`, `line`, `ask`, `keys` | one agent: its process, requests, messages to the librarian, keys |
//! | `librarian`, `reconcile` | the librarian's process; a registry that is lost or restored |
//! | `client` | clients and their resolvers |
//! | `install`, `operator` | how a server comes to another release; the person who upgrades the pool |
//! | `faults`, `script`, `lost`, `tricks`, `second` | what goes wrong and what is done; servers that are lost; a second controller |
//! | `directed`, `directed_copies`, `directed_pool`, `late`, `found` | runs led to where a guard matters, or where something comes when it is rare; runs that found a bug |
//! | `upgrades` | runs of whole upgrades |
//! | `workload` | what clients ask for, and servers that are not alike; runs of a load for long |
//! | `check`, `check_copies`, `check_pool`, `check_gate`, `check_upgrade`, `linear` | invariants, those of copies and of plans and roles apart, what gates find, what upgrades keep, and linearizability |
//! | `campaign`, `coverage`, `cli` | many seeds, crash enumeration, shrinking; what was reached; the command |
//!
//! Absent on purpose: QUIC and HTTP, which carry what is carried here; their tests are elsewhere.

mod agent;
mod ask;
mod campaign;
mod check;
mod check_copies;
mod check_gate;
mod check_pool;
mod check_upgrade;
pub mod cli;
mod client;
mod clock;
mod coverage;
mod desk;
mod directed;
mod directed_copies;
mod directed_pool;
mod disk;
mod faults;
mod found;
mod install;
mod keys;
mod late;
mod librarian;
mod line;
pub mod linear;
mod lost;
mod network;
mod operator;
mod peers;
mod reconcile;
mod releases;
mod script;
mod second;
mod serve;
mod tricks;
mod upgrades;
mod workload;
mod world;

pub use agent::Pair;
pub use campaign::{Outcome, Violation, enumerate, enumerate_until, run, run_scripts, run_seed, run_seeds, shrink};
pub use coverage::{Coverage, LOADS, Loads, coverage};
pub use directed::directed;
pub use faults::{Fate, KINDS, Site, Source};
pub use found::found;
pub use late::late;
pub use operator::{Steer, Upgraded};
pub use script::{After, Deed, Script, all_kinds};
pub use second::Late;
pub use tricks::{Trick, Which};
pub use upgrades::{empties, upgrade, upgrades};
pub use workload::{Workload, load, steady};

/// Random octets of a seed for a number and a purpose (splitmix64).
pub(crate) fn dice(seed: u64, number: u64, purpose: u64) -> u64 {
    let mut z =
        seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ purpose.wrapping_mul(0xD1B5_4A32_D192_ED03).rotate_left(17);
    for _ in 0..2 {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
    }
    z
}
