//! Many differences as one, so that what changed ten times is sent once.
//!
//! Between two serials a name had a value before and has one after; what was between them concerns nobody who was not
//! there. A condensed difference is sent in two passes over the changes: what goes, and what comes. Both need the oldest of
//! them to the end, so that where the journal is about to drop it, step follows step as it happened.
//!
//! Specification: RFC 1995 section 5.

use std::ops::Range;
use std::sync::Arc;

use zones::Zone;

use super::content::{Block, Form, Rec};
use super::stream::{Outrun, entry, journal, slot, without};
use crate::registry::journal::{Journal, Key, Places, Value};
use crate::registry::zone::NameKey;
use crate::registry::{Entry, Registry};

/// A condensed difference, and how far it is sent.
pub(super) struct Condensed {
    zone: Zone,
    /// Numbers of the changes.
    changes: Range<u64>,
    next: u64,
    side: Side,
    /// The SOA record before them.
    before: Rec,
    places_before: Arc<Places>,
    places: Arc<Places>,
}

/// Which pass it is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Side {
    /// What is no more.
    Gone,
    /// What is new.
    Come,
}

impl Condensed {
    /// All steps from a number on, if they are several, stay for long enough, and if half of what they change is changed again.
    ///
    /// A secondary that has taken some of the steps meanwhile can go on from there only where they are told one by one.
    pub(super) fn of(journal: &Journal, form: &Form, zone: Zone, from: u64) -> Option<Condensed> {
        let last = journal.steps_end().checked_sub(1).filter(|last| *last > from)?;
        let (first, _) = journal.step(from)?;
        let (last, _) = journal.step(last)?;
        let start = journal.end() - journal.changes_from(from) as u64;
        let changes = journal.end() - start;
        if !journal.stays(start) || 2 * journal.things(start) as u64 > changes {
            return None;
        }
        let stored = match zone {
            Zone::Obj | Zone::Tree | Zone::Pool => None,
            Zone::Apex => {
                let apex = NameKey::new(form.domain.apex());
                let value = journal.value_at(&Key::Node(apex), start);
                value.and_then(|value| match entry(&value)? {
                    Entry::Node(_, node) => form.node(&node).1,
                    _ => None,
                })
            }
        };
        Some(Condensed {
            zone,
            changes: start..journal.end(),
            next: start,
            side: Side::Gone,
            before: stored.unwrap_or_else(|| form.soa(first.before[slot(zone)])),
            places_before: Arc::clone(&first.places_before),
            places: Arc::clone(&last.places),
        })
    }

    /// The SOA record of the serial that it leads away from.
    pub(super) fn before(&self) -> &Rec {
        &self.before
    }

    /// The next records of this pass, of at most so many changes; `None` at its end, and then the next pass begins.
    ///
    /// # Errors
    ///
    /// [`Outrun`]: what was sent so far is void.
    pub(super) fn next(&mut self, registry: &Registry, form: &Form, most: usize) -> Result<Option<Vec<Block>>, Outrun> {
        if self.next == self.changes.end {
            return Ok(None);
        }
        let end = self.changes.end.min(self.next + most as u64);
        let mut values: Vec<(Value, Value)> = Vec::new();
        {
            let view = registry.view();
            let journal = journal(view.index().journals().ok_or(Outrun)?, self.zone);
            if !journal.reaches(self.changes.start) {
                return Err(Outrun);
            }
            let net = (self.next..end).filter_map(|number| journal.net(number, &self.changes));
            values.extend(net.map(|(old, new)| (old.clone(), new.clone())));
        }
        self.next = end;
        let blocks = values.iter().filter_map(|(old, new)| {
            let old = self.block(form, old, &self.places_before);
            let new = self.block(form, new, &self.places);
            match self.side {
                Side::Gone => without(old.as_ref(), new.as_ref()),
                Side::Come => without(new.as_ref(), old.as_ref()),
            }
        });
        Ok(Some(blocks.collect()))
    }

    /// Goes on to what comes; `false`: that was it.
    pub(super) fn turn(&mut self) -> bool {
        self.next = self.changes.start;
        std::mem::replace(&mut self.side, Side::Come) == Side::Gone
    }

    fn block(&self, form: &Form, value: &Value, places: &Places) -> Option<Block> {
        match entry(value)? {
            Entry::Register(register) => form.register(self.zone, places, &register),
            Entry::Node(_, node) if self.zone != Zone::Obj => Some(form.node(&node).0),
            _ => None,
        }
    }
}
