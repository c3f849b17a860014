//! Versions of an object type's properties, and the steps between them.
//!
//! ```text
//!  schema directory --type--> Schemas --upgrade, downgrade--> step by step, each result validated
//!                                |                               |
//!                         check, dry_run                    child: a process with limits runs the jq program
//! ```
//!
//! This module reads files and starts children of its own program; it knows nothing of stores, sockets or moves.
//!
//! Specification: DESIGN.md section 10, STORE.md section 10.

pub mod check;
pub mod child;
pub mod compare;
pub mod dry_run;
pub mod finals;
pub mod read;
pub mod skeleton;
pub mod step;
pub mod stepper;
pub mod r#type;
pub mod upgrade;

pub use check::{Class, Finding, Report, check};
pub use child::Children;
pub use read::{Fault, LoadError};
pub use step::{InProcess, Limits, RunStep, StepError};
pub use stepper::{Form, Stepper};
pub use r#type::{Exact, Phase, Schemas, Step, Type, Version};
pub use upgrade::{MigrateError, Migrated, Through};
