//! A lost or old registry: how it becomes the one truth again.
//!
//! ```text
//!  restore, rebuild --> reconciling --every server has reported or was written off--> fresh tx everywhere --> open
//! ```
//!
//! A restored registry may be older than what servers know, so it answers questions and refuses changes of registers until
//! every server has told what it durably knows. Reports are merged into the registry as they come, the highest epoch wins, so
//! that any number of objects is reconciled in little memory, and everything can be killed and told again.
//!
//! | file | what |
//! |---|---|
//! | `merge` | one claim against one register: pure |
//! | `ledger` | who has reported what, and what does not fit together: pure |
//! | `steps` | what a reconcile proposes to the registry's writer |
//! | `desk` | takes reports, writes servers off, opens |
//! | `backup` | the file that a registry is saved in |
//! | `restore` | a registry made from a backup, or from nothing |
//!
//! Specification: DESIGN.md section 6, PROTOCOL.md section 13.

pub mod backup;
mod desk;
mod ledger;
mod merge;
pub mod restore;
mod steps;
pub mod words;

pub use desk::{Desk, OUTCOME_FILE, Opening};
pub(crate) use steps::draft;
pub use steps::{Finding, Findings, Step};
