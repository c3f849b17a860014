//! Starts a real pool on loopback, for tests, the demo and measurements: separate processes, real certificates and
//! keys, a directory of its own.
//!
//! Everything here blocks; call it from a test's own thread or before an async runtime is entered. Every process that
//! was started ends when its value is dropped, when [`stop_all`] is called, and when this process dies, however it
//! dies.
//!
//! # A test that uses it
//!
//! ```no_run
//! use integration::harness::{Pool, dig};
//!
//! // In integration/tests/*.rs: env!("CARGO_BIN_EXE_demo") is the program that can be a librarian and an agent.
//! # let demo = "demo";
//! let pool = Pool::builder(demo).servers(3).start()?; // s1, s2 serving, s3 free
//! let alice = pool.add_client("alice", &["read:1", "write:1"])?; // directory of its certificate and key
//! let answer = dig(pool.dns(), &["1.2.3.obj.hypernet.internal.", "SRV", "+short"])?;
//! assert!(answer.stdout.contains("s1.pool.hypernet.internal."));
//! # Ok::<(), anyhow::Error>(())
//! ```

mod machine;
mod metrics;
mod network;
mod old;
mod pool;
mod ports;
mod process;
mod releases;
mod secondary;
mod settings;
mod tools;
mod unbound;
mod until;
mod upgrade;

pub use machine::Machine;
pub use metrics::metrics;
pub use network::{NETWORK, Network};
pub use old::{OLD_RELEASE, old_program};
pub use pool::{AgentReady, LibrarianReady, Pool, PoolBuilder, PoolStatus, Server, ServerStatus};
pub use ports::free_port;
pub(crate) use process::spawn;
pub use process::{Process, children, peak_memory, resident_memory, stop_all};
pub use releases::{INSTALLER, release_installer};
pub use secondary::{Secondary, SecondaryKind, TransferCounts, ZoneStanding, all_current};
pub use tools::{Captured, curl, delv, dig, getent, kdig, nsupdate, run, run_with_input};
pub use unbound::Unbound;
pub use until::until;
pub use upgrade::{UpgradeServer, UpgradeStatus};
