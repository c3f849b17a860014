//! Answers DNS for the pool, keeps the registry and decides what servers should do.

pub mod answer;
pub mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod delegation;
pub mod files;
pub mod guard;
pub mod handover;
pub(crate) mod huge_pages;
pub mod invite;
pub mod join;
pub mod keys;
pub mod listen;
pub mod logging;
pub mod losses;
pub mod metrics;
pub mod place;
pub mod pool;
pub mod random;
pub mod reconcile;
pub mod registry;
pub mod revoke;
pub mod transfer;
pub mod trust;
pub(crate) mod update;

#[cfg(test)]
mod testing;

/// An error and its causes in one line, for people.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
