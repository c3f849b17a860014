//! The system as a whole: real processes on loopback, objects that look like real ones, the demo, whole-system tests
//! and measurements against peers.
//!
//! Nothing here is used by the agent or the librarian.

pub mod harness;
