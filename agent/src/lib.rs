//! Keeps objects on one server, serves them to applications and moves them to other agents.

pub mod access;
pub mod age;
pub mod arrivals;
mod background;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod copies;
pub mod daemon;
pub mod dry_run;
pub mod heat;
pub mod home;
pub mod install;
pub mod keys;
pub mod membership;
pub mod migration;
pub mod objects;
pub mod reconcile;
pub mod register;
pub mod schema;
pub mod scrub;
pub mod store;
pub mod sweep;
#[cfg(test)]
mod testing;
pub mod transfer;
pub mod upkeep;
pub mod vault;
