//! The end of forward entries: where an object went is told as long as somebody may still be sent here for it.
//!
//! Nobody is once every answer that named this server has run out. An entry that was there at one sweep and is still there
//! at the next, as the same row, has been told for that long. Rows have rising numbers, so a sweep remembers one number and
//! not the rows; a restart counts anew, since it may have been long and nobody knows.

use std::collections::VecDeque;

use tracing::info;
use zones::Address;

use super::{Engine, Outside};
use crate::clock::BootInstant;
use crate::store::Journal;

/// Entries that are ended in one commit.
const TOGETHER_MAX: usize = 256;

/// Where the sweeping stands.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    next_at: Option<BootInstant>,
    /// The highest row of the last sweep.
    seen: u64,
    /// Rows to remove.
    over: VecDeque<(Address, u64)>,
    /// Removals that are being committed.
    ending: usize,
}

impl Forwards {
    /// A removal came to an end. One that the disk refused is found again by the next sweep.
    pub(super) fn ended(&mut self) {
        self.ending -= 1;
    }
}

impl<O: Outside> Engine<O> {
    /// Ends the forward entries that were there at the sweep before, few at a time.
    pub(super) fn end_forwards(&mut self) {
        let now = self.outside.now();
        if self.forwards.next_at.is_none_or(|at| at <= now) {
            let first = self.forwards.next_at.is_none();
            self.forwards.next_at = Some(now + self.parts.settings.forward_for);
            let entries = self.parts.objects.store().entries();
            if !first {
                let over = entries
                    .iter()
                    .filter(|entry| entry.seq <= self.forwards.seen && matches!(entry.journal, Journal::Forward { .. }))
                    .map(|entry| (entry.address.clone(), entry.seq));
                self.forwards.over = over.collect();
                if !self.forwards.over.is_empty() {
                    info!(entries = self.forwards.over.len(), "forward entries end");
                }
            }
            self.forwards.seen = entries.last().map_or(0, |entry| entry.seq);
        }
        while self.forwards.ending < TOGETHER_MAX
            && let Some((address, seq)) = self.forwards.over.pop_front()
        {
            self.forwards.ending += 1;
            self.note_end_of_forward(address, seq);
        }
    }
}
