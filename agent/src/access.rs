//! Client access: HTTPS on this agent.
//!
//! What a request may say is in small modules that know nothing of connections; each has its properties tested.

pub mod condition;
pub mod ijson;
pub mod problem;
pub mod range;
pub mod target;
