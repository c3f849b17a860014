//! The pool's controller: what servers should do, decided from what is seen.
//!
//! The core is pure: [`decide::decide`] is handed a [`sight::Sight`] and answers with the wants to write next or with what is
//! waited for. It keeps no state of its own, so a controller that was killed anywhere goes on where the plan and the wants
//! say. Each decision carries the plan and the wants it was decided from; the registry refuses it if either has changed, so
//! that two controllers cannot both act (DESIGN.md section 13).
//!
//! What is absent on purpose: where objects are (the registers say), and how they move (agents do that by themselves).

pub mod controller;
pub mod decide;
pub mod look;
pub mod plan;
pub mod progress;
pub mod propose;
pub mod sight;
#[cfg(test)]
mod testing;

pub use decide::{Decision, Wait, decide};
pub use look::look;
pub use plan::{Goal, Plan, PlanError};
pub use progress::Progress;
pub use propose::{PlanRefusal, ask_more, drain, refill};
pub use sight::{Seen, Sight};
