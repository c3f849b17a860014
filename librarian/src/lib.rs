//! Answers DNS for the pool, keeps the registry and decides what servers should do.

pub mod files;
pub mod keys;
pub mod place;
pub mod pool;
pub mod registry;
pub(crate) mod update;
