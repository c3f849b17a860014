//! Copies of one object on several servers, as machines: its owner, its other holders, and what pairs of servers permit each other.
//!
//! Pure, like [`crate::migration`]: no socket, clock, task, disk or randomness. A revision is shown or acknowledged anywhere
//! only when every in-sync holder has it durably, so that the loss of any of them loses nothing that anybody saw.
//!
//! | file | holds |
//! | --- | --- |
//! | `owner` | what the owner does: replicates, confirms, grants reads, adds holders and drops them |
//! | `holder` | what another holder does: takes what the owner sends, shows it under a grant, becomes the owner when that one is lost |
//! | `permits` | whether a peer lets this server go on with what it owns, asked for all of its objects at once |
//! | `wire` | what they say to each other |
//!
//! Three promises end by time, each counted by whoever relies on it from the moment at which it *sent* its question, on a clock
//! that counts suspension ([`crate::clock::BootInstant`]): a permission, a grant (which never outlasts the permission that it was
//! given under), and the wait of a holder that has refused its owner.
//!
//! Specification: DESIGN.md section 14, PROTOCOL.md section "Copies".

pub mod holder;
pub mod owner;
pub mod permits;
pub mod wire;

#[cfg(test)]
mod walk;

use std::time::Duration;

/// For so long after it *sent* a question that was answered "your epoch is not refused" may an owner with other holders take
/// writes, acknowledge, read and grant; and for so long after it *sent* its own may a holder read.
///
/// Not a setting: together with [`WAIT`] it carries correctness, and all agents must agree.
pub const GOOD_FOR: Duration = Duration::from_secs(2);
/// How long a dropped holder may still read after its last grant, and how long a holder waits after it has refused its owner:
/// longer than [`GOOD_FOR`] by more than two clocks drift apart within it (DESIGN.md section 15).
pub const WAIT: Duration = Duration::from_millis(2200);
/// How often an owner asks a peer.
pub const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long what was sent to a peer may stay unanswered before it is sent again.
pub const RESEND_AFTER: Duration = Duration::from_millis(500);
/// Pause before a register is read, or changed, again.
pub const RETRY_AFTER: Duration = Duration::from_millis(200);
