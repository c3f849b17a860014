//! How commands speak to the running librarian: a Unix socket in its directory, open to its owner only.
//!
//! One request a connection, one line of JSON; one line of JSON back, or several while a plan is followed. The last line is
//! `done` or `refused`.
//!
//! | file | what |
//! |---|---|
//! | `words` | requests and answers |
//! | `server` | the running librarian's side |
//! | `client` | the command's side |
//! | `answers` | what is answered, from the registry |

mod answers;
mod client;
mod server;
pub mod words;

use std::path::{Path, PathBuf};

pub use client::{AskError, ask, ask_patiently, follow};
pub use server::{Control, ControlError, Listener};

/// Where the socket lies.
#[must_use]
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}
