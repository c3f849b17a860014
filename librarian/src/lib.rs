//! Answers DNS for the pool, keeps the registry and decides what servers should do.

pub mod answer;
pub mod config;
pub mod files;
pub mod keys;
pub mod listen;
pub mod place;
pub mod pool;
pub mod registry;
mod transfer;
pub(crate) mod update;

#[cfg(test)]
mod testing;
