//! What the librarian was told and what it answered: registers read and changed by real DNS.
//!
//! Specification: RFC 2136 (updates), RFC 8945 (TSIG), DESIGN.md sections 5 and 7.

use hickory_proto::op::ResponseCode;
use zones::Register;

use crate::clock::BootInstant;

/// A register as the librarian showed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegisterRead {
    /// When the question was sent: the answer is at least as fresh as this.
    pub asked_at: BootInstant,
    /// The register; `None` if there is none under this name. Its address may differ by case from the one asked for.
    pub register: Option<Register>,
}

/// What became of a change of a register, as far as this agent knows. Only `Done` settles anything (DESIGN.md section 7).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Changed {
    /// A signed reply says that it is durable.
    Done,
    /// A signed reply says no. An earlier sending may have landed all the same: read the register.
    Refused {
        /// The reply's code.
        rcode: ResponseCode,
        /// The librarian's words, or the code's meaning.
        why: String,
        /// Earlier sendings of this change that got no reply, and may still land.
        unanswered: u32,
    },
    /// No reply came within all sendings: read the register.
    Unknown,
}

/// The librarian did not answer in time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the librarian at {librarian} does not answer: {why}")]
pub struct Unreachable {
    /// Its DNS address.
    pub librarian: std::net::SocketAddr,
    /// What went wrong last.
    pub why: String,
}
