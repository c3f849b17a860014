//! Which objects the release before could not read, and which are not yet what the plan asks for.
//!
//! What an agent can know of the release before is in its own schemas, whose steps say what that release reads: an `expand`
//! step leads to a version that it still reads, a `contract` step to one that it does not. So of each type it reads the
//! versions up to the last one that `expand` steps alone lead to, from the first version on. A type without schemas here is
//! kept as it is by every release. Levels are the plan's: until finalize it asks for none that the release before does not
//! know.
//!
//! | an object here counts as | when                                                                                       |
//! |--------------------------|--------------------------------------------------------------------------------------------|
//! | newer                    | contract steps are not asked for, and its level is above the plan's, or its version beyond |
//! |                          | those that the release before reads, or not known here                                     |
//! | resting                  | its level is below the plan's, or its properties have steps to go that the plan lets run   |
//! |                          | and that have not failed                                                                   |
//!
//! Both are counted as rows change. A new policy has every object looked at anew, a bounded number at a time: until that is
//! over, every object counts as resting, and those that counted as newer still do.
//!
//! Specification: DESIGN.md sections 10 and 13.

use std::sync::Arc;

use zones::{Address, Level};

use super::local::Local;
use super::table::{Recounted, owned};
use super::turn::Turn;
use super::{MoveGuard, gate};
use crate::clock::BootInstant;
use crate::schema::stepper::STEPPED_OCTETS_MAX;
use crate::store::{Change, CommitError, Entry, Journal, NewEntry};

/// Objects that are looked at anew in one step.
pub const RECOUNT_OBJECTS: usize = 4096;

/// How one object stands to what the plan asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stand {
    /// The release before could not read it.
    pub(crate) newer: bool,
    /// A sweep would change it.
    pub(crate) resting: bool,
}

/// How the objects of this server stand to what the plan asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// Objects that the release before could not read; 0 once contract steps are asked for.
    pub newer: u64,
    /// Objects that a sweep would bring to what the plan asks for.
    pub resting: u64,
}

/// An object that is about to be replaced by its swept copy: no write and no move of it begins while this lives.
#[derive(Debug)]
struct Caught {
    _turn: Turn,
    _guard: MoveGuard,
}

impl Local {
    /// How the objects here stand to what the plan asks for.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let counted = self.table.standing();
        Standing {
            newer: match self.stepper().runs_all() {
                true => 0,
                false => counted.newer,
            },
            resting: match self.recount.lock().is_some() {
                true => self.table.totals().objects,
                false => counted.resting,
            },
        }
    }

    /// Looks at some objects anew after a new policy; whether more are to be looked at.
    pub fn recount(&self) -> bool {
        let mut recount = self.recount.lock();
        let Some(after) = recount.take() else {
            return false;
        };
        match self
            .table
            .recount(after.as_ref(), RECOUNT_OBJECTS, &|entry| self.stand(entry))
        {
            Recounted::UpTo(last) => {
                *recount = Some(Some(last));
                true
            }
            Recounted::All => false,
        }
    }

    /// How an entry stands.
    pub(super) fn stand(&self, entry: &Entry) -> Stand {
        if !owned(entry) {
            return Stand::default();
        }
        let wanted = self.levels().wanted();
        Stand {
            newer: !self.stepper().runs_all()
                && (entry.level > wanted || self.stepper().is_beyond_expand(&entry.kind, entry.schema)),
            resting: entry.level < wanted || self.has_steps_to_go(entry),
        }
    }

    /// Whether the properties of an entry would be stepped, or looked at, by a sweep.
    #[must_use]
    pub fn has_steps_to_go(&self, entry: &Entry) -> bool {
        let stepped = |octets: u64| octets <= STEPPED_OCTETS_MAX;
        entry.quarantined.is_none()
            && (entry.properties.as_ref()).is_some_and(|stream| stepped(stream.plain_octets))
            && self.stepper().touches(&entry.kind, entry.schema)
    }

    /// Copies that a sweep can bring to what the plan asks for now, in the order of addresses, behind `after`: owned, stable,
    /// and not set aside.
    #[must_use]
    pub fn resting(&self, after: Option<&Address>, limit: usize) -> Vec<Arc<Entry>> {
        self.table.scan(None, after, limit, |_, entry| {
            (is_stable(entry) && self.stand(entry).resting && self.store.set_aside(entry).is_none())
                .then(|| Arc::clone(entry))
        })
    }

    /// The level that a sweep brings an entry to.
    #[must_use]
    pub fn swept_level(&self, entry: &Entry) -> Level {
        entry.level.max(self.levels().wanted())
    }

    /// Puts swept copies in the place of those that they were made of, in one commit; says of each whether it was. A copy that
    /// is not the present one any more, or that somebody is about to change or move, stays as it is. Blocks.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing has changed then.
    pub fn replace_swept(
        self: &Arc<Self>,
        swept: Vec<(Arc<Entry>, NewEntry)>,
        now: BootInstant,
    ) -> Result<Vec<bool>, CommitError> {
        let mut caught = Vec::with_capacity(swept.len());
        let mut changes = Vec::with_capacity(swept.len());
        let mut replaced = Vec::with_capacity(swept.len());
        for (old, entry) in swept {
            let held = self.catch(&old, now);
            replaced.push(held.is_some());
            if let Some(held) = held {
                caught.push(held);
                changes.push((old.address.clone(), Change::Replace { seq: old.seq, entry }));
            }
        }
        if !changes.is_empty() {
            self.commit_now(changes)?;
        }
        Ok(replaced)
    }

    /// Takes the turn of an object that nobody writes, moves or waits for, if this is its present copy.
    fn catch(self: &Arc<Self>, old: &Entry, now: BootInstant) -> Option<Caught> {
        let guard = self.begin_move(&old.address).ok()?;
        let slot = self.table.get(&old.address)?;
        // In a line of no places nobody waits: the turn is free, or it is somebody else's.
        let turn = match slot.with(|state| state.gate().ask(now, 0)) {
            gate::Asked::Taken => Turn::new(slot),
            gate::Asked::InLine(_) | gate::Asked::Full => return None,
        };
        let present = turn
            .current()
            .is_some_and(|entry| entry.seq == old.seq && is_stable(&entry));
        present.then_some(Caught {
            _turn: turn,
            _guard: guard,
        })
    }
}

/// Whether an object is this server's, and no move of it is open.
fn is_stable(entry: &Entry) -> bool {
    match &entry.journal {
        Journal::Active { wait: None } => true,
        Journal::Active { wait: Some(_) }
        | Journal::CreateSent { .. }
        | Journal::Moving { .. }
        | Journal::Sealed { .. }
        | Journal::Moved { .. }
        | Journal::Forward { .. }
        | Journal::DeleteSent { .. }
        | Journal::Tombstone { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. }
        // Its owner sweeps its own copy.
        | Journal::Held { .. } => false,
    }
}
