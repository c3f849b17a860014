//! The objects of this agent: who may read and write which of them, now.

mod body;
mod create;
mod delete;
mod gate;
mod words;

pub use body::StagedBody;
pub use words::{Busy, Condition, Delete, Miss, Put, ReadGate, Summary, WriteError, WriteGate, Written};
