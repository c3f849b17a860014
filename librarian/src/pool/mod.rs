//! The pool's controller: what servers should do, decided from what is seen.
//!
//! The core is pure: [`decide::decide`] is handed a [`sight::Sight`] and answers with the wants to write next or with what is
//! waited for. It keeps no state of its own, so a controller that was killed anywhere goes on where the plan and the wants
//! say. Each decision carries the plan and the wants it was decided from; the registry refuses it if either has changed, so
//! that two controllers cannot both act (DESIGN.md section 13).
//!
//! What is absent on purpose: where objects are (the registers say), and how they move (agents do that by themselves).

mod advance;
pub mod balance;
pub mod controller;
pub mod decide;
mod gate;
pub mod keep;
pub mod look;
pub mod memory;
pub mod plan;
pub mod preflight;
pub mod progress;
pub mod propose;
mod roll;
pub mod rotation;
pub mod secondaries;
pub mod sight;
pub mod spread;
pub mod status;
pub mod steer;
#[cfg(test)]
mod testing;
pub mod upgrade;
#[cfg(test)]
mod upgrade_tests;

pub use balance::{Balancer, Standing};
pub use decide::{Decision, Wait, decide};
pub use keep::Copies;
pub use look::look;
pub use memory::Memory;
pub use plan::{Goal, Plan, PlanError};
pub use progress::Progress;
pub use propose::{PlanRefusal, ask_more, balance, drain, refill, stop_balancing};
pub use sight::{Named, Seen, Sight};
pub use spread::{Spread, Spreader};
pub use upgrade::{Ask, Halt, Phase, Upgrade};
