//! The end of forward entries: where an object went is told as long as somebody may still be sent here for it.
//!
//! Nobody is once every answer that named this server has run out. An entry that was there at one sweep and is still there
//! at the next, as the same row, has been told for that long. Rows have rising numbers, so a sweep remembers one number and
//! not the rows; a restart counts anew, since it may have been long and nobody knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::{Engine, Outside};
use crate::clock::BootInstant;
use crate::store::Entry;

/// Entries that are ended in one commit.
const TOGETHER_MAX: usize = 256;
/// Entries that one sweep finds; if there are more, the next one comes soon.
const SWEEP_MAX: usize = 16 << 10;
/// When it comes then.
const SOON: Duration = Duration::from_secs(1);

/// Where the sweeping stands.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    next_at: Option<BootInstant>,
    /// The highest row of the last sweep; 0 before the first.
    seen: u64,
    /// Rows to remove.
    over: VecDeque<Arc<Entry>>,
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
        // A registry that was lost is told where objects went.
        if !self.outside.is_trusted() {
            return;
        }
        let now = self.outside.now();
        let forwards = &mut self.forwards;
        if forwards.over.is_empty() && forwards.next_at.is_none_or(|at| at <= now) {
            let (over, highest) = self.parts.objects.store().forwards(forwards.seen, SWEEP_MAX);
            if !over.is_empty() {
                info!(entries = over.len(), "forward entries end");
            }
            if over.len() < SWEEP_MAX {
                forwards.seen = highest;
                forwards.next_at = Some(now + self.parts.settings.forward_for);
            } else {
                forwards.next_at = Some(now + SOON);
            }
            forwards.over = over.into();
        }
        while self.forwards.ending < TOGETHER_MAX
            && let Some(entry) = self.forwards.over.pop_front()
        {
            self.forwards.ending += 1;
            self.note_end_of_forward(&entry);
        }
    }
}
