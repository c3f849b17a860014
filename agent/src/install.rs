//! Another release on this server: asked for by the agent, installed by somebody who may.
//!
//! The agent's hardened unit cannot replace its own program. It says in a file what the controller wants, and stops. An
//! installer of the operator's choosing takes it from there: `agent install`, started as root by a path unit of systemd, or
//! `agent supervise`, the parent of the agent where there is no systemd. Both run the same [`Installer`].
//!
//! ```text
//!   agent run ---------> upgrade/request.json -----> installer --argv--> install or rollback
//!     |  reads            the wanted release            |  --restart--> agent run, at the other release
//!     |<-- upgrade/result.json <------------------------|
//!     `--> upgrade/health.json ------------------------>'  "I serve at 2.0, and my self-test passed"
//! ```
//!
//! | file in `upgrade/` | written by | says                                                                  |
//! |--------------------|------------|-----------------------------------------------------------------------|
//! | `request.json`     | agent      | what is wanted; the installer removes it when its result is durable   |
//! | `health.json`      | agent      | that it serves, at which release, for which request                   |
//! | `result.json`      | installer  | what became of the last request                                       |
//! | `journal.json`     | installer  | the step that it is in, so that a killed one goes on                  |
//! | `open.json`        | installer  | the one release that may be put back, until the upgrade is finalized  |
//!
//! The last two are the installer's own. Where it has other rights than the agent, the setting `state` puts them where the
//! agent cannot write: then a stolen agent gets no release but those on the operator's list.
//!
//! **Nothing is left half done.** Each step is in the journal before it begins, and may be run again: the operator's commands
//! are to end well when they find their work done. A step that was begun three times and never ended counts as failed.
//!
//! ```text
//!  Installing --ok--> Starting --healthy--> installed
//!      |                  |
//!      `---- failed ------+--> Undoing --ok--> Returning --healthy--> failed, the release before is back
//!                                 `--- failed ----+-----------------> broken: a person is needed
//! ```
//!
//! The agent asks once for each (plan, step) of its want: to try again is the controller's decision.
//!
//! Specification: DESIGN.md section 13 (Installing).

pub mod ask;
pub mod command;
pub mod folder;
pub mod installer;
pub mod release;
pub mod selftest;
pub mod settings;
pub mod supervise;
pub mod words;

pub use ask::{Asker, Clear, InstallView};
pub use folder::Folder;
pub use installer::{Ended, Host, InstallError, Installer};
pub use release::Release;
pub use settings::Settings;
pub use words::{Direction, Health, Journal, Outcome, Record, Report, Request};

/// Folder of these files in the agent's directory.
pub const FOLDER: &str = "upgrade";
/// What the agent asks for.
pub const REQUEST: &str = "request.json";
/// What became of it.
pub const RESULT: &str = "result.json";
/// That the agent serves.
pub const HEALTH: &str = "health.json";
/// The step that the installer is in.
pub const JOURNAL: &str = "journal.json";
/// The release that may be put back.
pub const OPEN: &str = "open.json";
/// Set for an agent whose supervisor installs releases.
pub const SUPERVISED: &str = "HYPERNET_SUPERVISED";
