//! An agent's line to the librarian: signed DNS messages that are sent again until they are answered or given up.
//!
//! The messages are real ones, read by the librarian's own reader. How often and how soon they are sent again is that of
//! `agent::register`: questions three times, updates four times.

use std::collections::{BTreeMap, VecDeque};

use agent::clock::BootInstant;
use agent::migration::Question;
use agent::register::Changed;
use agent::transfer::engine::{Id, Side};
use hickory_proto::rr::{Name, RecordType};
use zones::tsig::Mac;
use zones::{Register, RegisterChange, Report};

use super::clock::{S, Time};

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub(super) enum Waits {
    /// A machine.
    Engine {
        id: Id,
        side: Side,
        question: Question,
        /// Of the registry that was believed when it was asked.
        generation: u64,
    },
    /// A client's request.
    Request(u64),
}

/// One change and who waits for it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) change: RegisterChange,
    pub(super) waits: Waits,
    pub(super) tries: u32,
    pub(super) unanswered: u32,
}

/// What a message is for.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A register.
    Read {
        address: zones::Address,
        waits: Waits,
        tries: u32,
    },
    /// Changes of registers, in one message.
    Changes(Vec<Wanted>),
    /// What this server has.
    Tell,
    /// What it should do.
    Want,
    /// Wishes for single objects.
    Todo,
    /// What the librarian remembers of this server: asked at a start.
    Remembered,
    /// A part of what this server tells a registry that is reconciled.
    Report { message: Box<Report>, tries: u32 },
}

/// A message without an answer yet.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) what: What,
    pub(super) id: u16,
    pub(super) mac: Mac,
    pub(super) asked_at: BootInstant,
    pub(super) question: Option<(Name, RecordType)>,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) next: u64,
    /// Changes that wait for the next message.
    pub(super) changes: Vec<Wanted>,
    /// The want of a round whose wishes have not come yet.
    pub(super) want: Option<(BootInstant, Option<zones::Want>)>,
    /// What is left of a report that is under way.
    pub(super) report: Option<VecDeque<Report>>,
    /// Until when a complete report waits for the librarian's word that it is.
    pub(super) reported: Time,
}

/// What was heard.
#[derive(Debug)]
pub(super) enum Heard {
    Register {
        asked_at: BootInstant,
        register: Option<Register>,
    },
    Nothing,
    Changed(Changed),
}

impl What {
    /// How long an answer is waited for.
    pub(super) fn patience(&self) -> Time {
        match self {
            What::Read { .. } | What::Tell | What::Want | What::Todo | What::Remembered => S,
            What::Changes(_) | What::Report { .. } => 2 * S,
        }
    }
}

/// Most times that a question is sent.
pub(super) const READS_MAX: u32 = 3;
/// Most times that a change is sent.
pub(super) const CHANGES_MAX: u32 = 4;
/// Most times that a part of a report is sent.
pub(super) const REPORTS_MAX: u32 = 4;
