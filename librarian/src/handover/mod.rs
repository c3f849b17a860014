//! Sockets that are handed on, so that a restart loses no question.
//!
//! A datagram waits in its socket until somebody reads it, and a connection in its listener. Both are lost only when the last
//! holder closes the socket. So a new librarian binds nothing that it can be handed:
//!
//! - by systemd, which holds the sockets of its socket units while no librarian runs: `LISTEN_FDS`, names in `LISTEN_FDNAMES`;
//! - by the librarian that runs now, over its control socket: `librarian run --take-over`.
//!
//! ```text
//!  new                                 old
//!   | {"command":"hand-over"} -------> |
//!   | <-------------- names, sockets   |   both hold them; the new one compares them with its settings
//!   | "let-go" ----------------------> |   ends joins, commands and the controller; gives agents and updates no answer any
//!   | <------------------------ "free" |   more; lets go of the registry; answers everybody else from memory
//!   |  opens the registry              |
//!   | "stop" ------------------------> |   reads no more questions: they wait in the sockets
//!   | <--------------------- "stopped" |
//!   |  answers                         |   answers what it had read, and ends
//! ```
//!
//! If the new one goes away before it says `stop`, the old one opens the registry again and goes on. No agent begins a seal
//! between `let-go` and `stopped`: it needs an answer of the last second.
//!
//! | file | what |
//! |---|---|
//! | `passed` | sockets by name, from systemd too |
//! | `wire` | lines and sockets over a Unix connection |
//! | `give`, `take` | the old librarian's side, the new one's |
//!
//! Specification: DESIGN.md section 6; sd_listen_fds(3); unix(7), `SCM_RIGHTS`.

mod give;
mod passed;
mod take;
mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use give::{Next, Successor};
pub use passed::{Passed, PassedError, Wanted};
pub use take::{Predecessor, TakeError};

/// How long either side waits for what the other one does at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the old librarian waits until the new one has opened the registry; millions of registers take seconds.
const OPENING_MAX: Duration = Duration::from_secs(60);
/// How long the new librarian waits until the old one reads no more questions: nobody is answered meanwhile.
const STOPPING_MAX: Duration = Duration::from_secs(10);

/// What the new librarian says once it has the sockets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Ask {
    /// Let go of the registry.
    LetGo,
    /// Read no more questions.
    Stop,
}

/// What the old librarian says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Told {
    /// The registry is let go of.
    Free,
    /// No more questions are read.
    Stopped,
}
