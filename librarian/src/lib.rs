//! Answers DNS for the pool, keeps the registry and decides what servers should do.

pub mod registry;
pub(crate) mod update;
