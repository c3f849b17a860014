//! The records of one transfer, in their order, a chunk at a time.
//!
//! Nothing is held between chunks but a place, and what servers add to records. A whole zone is sent as it was at one serial while changes go on: a value
//! that has changed since is taken from the journal. Where the journal does not reach back that far any more, the
//! transfer ends early, and whoever asked asks again.
//!
//! ```text
//!  whole:       SOA(s)  every name  SOA(s)
//!  difference:  SOA(n)  [ SOA(a) deletions SOA(b) additions ] ...  SOA(n)
//!  condensed:   SOA(n)  SOA(a) deletions SOA(n) additions  SOA(n)
//!  up to date:  SOA(n)
//! ```
//!
//! Specifications: RFC 5936 section 2.2, RFC 1995 sections 2 and 4, RFC 1982.

use std::ops::Bound;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use zones::Zone;

use super::compose::Composer;
use super::condense::Condensed;
use super::content::{Block, Form, Rec};
use super::message::Packer;
use crate::registry::index::Index;
use crate::registry::journal::{Change, Journal, Key, Places, Step, Value};
use crate::registry::publish::Journals;
use crate::registry::zone::{NameKey, Node};
use crate::registry::{Entry, Registry};
use crate::update::is_later;

/// Rows or names looked at under one hold of the registry's lock: well below a millisecond.
const CHUNK: usize = if cfg!(test) { 4 } else { 256 };
/// Names that differ from a zone's by more than this count before a whole zone is sent instead.
const DIFFERENCE_MIN: usize = 512;

/// The journal does not reach back to where the transfer began.
#[derive(Debug, thiserror::Error)]
#[error("the journal does not reach back to where the transfer began: raise transfers.journal_changes")]
pub(crate) struct Outrun;

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// One SOA record: nothing changed.
    Current,
    /// What changed.
    Difference,
    /// The whole zone.
    Whole,
}

/// The records of one transfer.
pub(super) struct Stream {
    pub(super) zone: Zone,
    pub(super) serial: u32,
    pub(super) kind: Kind,
    apex: Vec<u8>,
    soa: Rec,
    place: Place,
    /// What writes objects that have not changed since; made with the first.
    composer: Option<Composer>,
}

/// What comes next.
enum Place {
    /// The SOA record at the beginning.
    Begin(Box<Next>),
    Rows(At, u32),
    Nodes(At, Option<NameKey>),
    /// Steps from this number up to, not including, that.
    Steps(u64, u64),
    /// Several of them as if they were one.
    Condensed(Box<Condensed>),
    /// The SOA record at the end.
    End,
    Over,
}

/// What comes after the first SOA record.
enum Next {
    Nothing,
    Whole(At),
    Steps(u64, u64),
    Condensed(Box<Condensed>),
}

/// A moment that a whole zone is sent of.
#[derive(Clone)]
struct At {
    /// Number of the first change after it.
    since: u64,
    /// Rows that there were.
    rows: u32,
    places: Arc<Places>,
}

/// Which of two serials of a journal is a zone's.
pub(super) fn slot(zone: Zone) -> usize {
    usize::from(zone == Zone::Tree)
}

/// The journal of a zone.
pub(super) fn journal(journals: &Journals, zone: Zone) -> &Journal {
    match zone {
        Zone::Obj | Zone::Tree | Zone::Pool => &journals.names,
        Zone::Apex => &journals.apex,
    }
}

/// The serial of a zone that is transferred.
pub(super) fn serial(index: &Index, zone: Zone) -> u32 {
    match zone {
        Zone::Obj => index.serials().obj,
        Zone::Tree => index.serials().tree,
        Zone::Pool => index.serials().pool,
        Zone::Apex => index.apex_serial(),
    }
}

/// The SOA record of a zone as it is now.
pub(super) fn current_soa(index: &Index, form: &Form, zone: Zone) -> Rec {
    match zone {
        Zone::Obj | Zone::Tree | Zone::Pool => form.soa(serial(index, zone)),
        Zone::Apex => {
            let node = index.apex.node(index.domain.apex());
            let soa = node.and_then(|node| form.node(node).1);
            soa.unwrap_or_else(|| form.soa(index.apex_serial()))
        }
    }
}

impl Stream {
    /// Begins a transfer of a zone as it is now. `from` is the serial that whoever asks has, if it wants differences.
    ///
    /// # Errors
    ///
    /// [`Outrun`] where no journal is kept.
    pub(super) fn open(registry: &Registry, form: &Form, zone: Zone, from: Option<u32>) -> Result<Stream, Outrun> {
        let view = registry.view();
        let index = view.index();
        let journal = journal(index.journals().ok_or(Outrun)?, zone);
        let now = serial(index, zone);
        let at = At {
            since: journal.end(),
            rows: u32::try_from(index.registers.len()).expect("rows are numbered by u32"),
            places: Arc::clone(index.places()),
        };
        let names = match zone {
            Zone::Obj => index.registers.live(),
            Zone::Tree => index.registers.live() + index.tree.len(),
            Zone::Pool | Zone::Apex => index.apex.len(),
        };
        // A change is sent as it was and as it is.
        let pays = |step: &u64| 2 * journal.changes_from(*step) <= names + DIFFERENCE_MIN;
        let (kind, next) = match from {
            Some(has) if !is_later(now, has) => (Kind::Current, Next::Nothing),
            Some(has) => match journal.step_from(slot(zone), has).filter(pays) {
                Some(step) => {
                    let next = match Condensed::of(journal, form, zone, step) {
                        Some(condensed) => Next::Condensed(Box::new(condensed)),
                        None => Next::Steps(step, journal.steps_end()),
                    };
                    (Kind::Difference, next)
                }
                None => (Kind::Whole, Next::Whole(at)),
            },
            None => (Kind::Whole, Next::Whole(at)),
        };
        Ok(Stream {
            zone,
            serial: now,
            kind,
            apex: form.zone(zone),
            soa: current_soa(index, form, zone),
            place: Place::Begin(Box::new(next)),
            composer: None,
        })
    }

    /// Writes the next records; `false`: there was none left.
    ///
    /// # Errors
    ///
    /// [`Outrun`]: what was sent so far is void.
    pub(super) fn next(&mut self, registry: &Registry, form: &Form, packer: &mut Packer) -> Result<bool, Outrun> {
        self.place = match std::mem::replace(&mut self.place, Place::Over) {
            Place::Begin(next) => {
                packer.push(&self.apex, &self.soa);
                match *next {
                    Next::Nothing => Place::Over,
                    Next::Steps(from, to) => Place::Steps(from, to),
                    Next::Condensed(condensed) => {
                        packer.push(&self.apex, condensed.before());
                        Place::Condensed(condensed)
                    }
                    Next::Whole(at) => {
                        push_all(packer, &form.fixed(self.zone));
                        match self.zone {
                            Zone::Obj | Zone::Tree => Place::Rows(at, 0),
                            Zone::Pool | Zone::Apex => Place::Nodes(at, None),
                        }
                    }
                }
            }
            Place::Rows(at, row) if row < at.rows => {
                let end = at.rows.min(row.saturating_add(CHUNK as u32));
                self.rows(registry, form, &at, row..end, packer)?;
                Place::Rows(at, end)
            }
            Place::Rows(at, _) if self.zone == Zone::Tree => Place::Nodes(at, None),
            Place::Rows(..) => Place::End,
            Place::Nodes(at, key) => {
                let (next, blocks) = self.nodes(registry, form, &at, key)?;
                push_all(packer, &blocks);
                next.map_or(Place::End, |key| Place::Nodes(at, Some(key)))
            }
            Place::Steps(from, to) if from < to => {
                let (place, blocks) = self.steps(registry, form, from, to)?;
                push_all(packer, &blocks);
                place
            }
            Place::Steps(..) => Place::End,
            Place::Condensed(mut condensed) => match condensed.next(registry, form, CHUNK)? {
                Some(blocks) => {
                    push_all(packer, &blocks);
                    Place::Condensed(condensed)
                }
                None if condensed.turn() => {
                    packer.push(&self.apex, &self.soa);
                    Place::Condensed(condensed)
                }
                None => Place::End,
            },
            Place::End => {
                packer.push(&self.apex, &self.soa);
                Place::Over
            }
            Place::Over => return Ok(false),
        };
        Ok(true)
    }

    /// The zone's SOA record.
    pub(super) fn soa_alone(&self) -> Block {
        self.only(self.soa.clone())
    }

    /// A record at the zone's own name.
    fn only(&self, rec: Rec) -> Block {
        Block {
            owner: self.apex.clone(),
            records: vec![rec],
        }
    }

    fn rows(
        &mut self,
        registry: &Registry,
        form: &Form,
        at: &At,
        rows: std::ops::Range<u32>,
        packer: &mut Packer,
    ) -> Result<(), Outrun> {
        let zone = self.zone;
        let composer = self
            .composer
            .get_or_insert_with(|| Composer::new(zone, form, Arc::clone(&at.places)));
        let mut old = Vec::new();
        {
            let view = registry.view();
            let index = view.index();
            let journal = reaching(index, zone, at.since)?;
            for row in rows {
                match journal.value_at(&Key::Row(row), at.since) {
                    Some(value) => old.push(value),
                    None if index.registers.is_live(row) => composer.row(&index.registers, row, packer),
                    None => {}
                }
            }
        }
        for value in &old {
            if let Some(Entry::Register(register)) = entry(value) {
                push_all(packer, form.register(zone, &at.places, &register).as_slice());
            }
        }
        Ok(())
    }

    /// Names from after a key on, and the last one looked at; `None` at the end.
    fn nodes(
        &self,
        registry: &Registry,
        form: &Form,
        at: &At,
        key: Option<NameKey>,
    ) -> Result<(Option<NameKey>, Vec<Block>), Outrun> {
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut old = Vec::new();
        let last;
        {
            let view = registry.view();
            let index = view.index();
            let journal = reaching(index, self.zone, at.since)?;
            let records = match self.zone {
                Zone::Apex => &index.apex,
                Zone::Obj | Zone::Tree | Zone::Pool => &index.tree,
            };
            let mut looked_at = None;
            for (count, (found, node)) in records.after(key.as_ref()).enumerate() {
                if journal.value_at(&Key::Node(found.clone()), at.since).is_none() {
                    nodes.push(Arc::clone(node));
                }
                if count + 1 == CHUNK {
                    looked_at = Some(found.clone());
                    break;
                }
            }
            last = looked_at;
            // What has changed since, be it here still or not.
            let from = match key {
                Some(key) => Bound::Excluded(Key::Node(key)),
                // Rows sort before all names.
                None => Bound::Excluded(Key::Row(u32::MAX)),
            };
            let to = last
                .clone()
                .map_or(Bound::Unbounded, |last| Bound::Included(Key::Node(last)));
            for changed in journal.changed((from, to), at.since) {
                old.extend(journal.value_at(changed, at.since));
            }
        }
        nodes.extend(old.iter().filter_map(|value| match entry(value)? {
            Entry::Node(_, node) => Some(node),
            _ => None,
        }));
        Ok((last, nodes.iter().map(|node| form.node(node).0).collect()))
    }

    fn steps(&self, registry: &Registry, form: &Form, from: u64, to: u64) -> Result<(Place, Vec<Block>), Outrun> {
        let mut steps: Vec<(Step, Vec<Change>)> = Vec::new();
        let mut next = from;
        {
            let view = registry.view();
            let journal = journal(view.index().journals().ok_or(Outrun)?, self.zone);
            let mut changes = 0;
            while next < to && changes < CHUNK && steps.len() < CHUNK {
                let (step, found) = journal.step(next).ok_or(Outrun)?;
                changes += found.len();
                steps.push((step.clone(), found.cloned().collect()));
                next += 1;
            }
        }
        let mut blocks = Vec::new();
        for (step, changes) in &steps {
            self.step(form, step, changes, &mut blocks);
        }
        Ok((Place::Steps(next, to), blocks))
    }

    /// One difference: what goes, behind the old SOA record, and what comes, behind the new one.
    fn step(&self, form: &Form, step: &Step, changes: &[Change], blocks: &mut Vec<Block>) {
        let zone = self.zone;
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let mut soas = [step.before, step.after].map(|serials| form.soa(serials[slot(zone)]));
        for change in changes {
            let sides = [(&change.old, &step.places_before), (&change.new, &step.places)];
            let [old, new] = sides.map(|(value, places)| match entry(value) {
                Some(Entry::Register(register)) => (form.register(zone, places, &register), None),
                Some(Entry::Node(_, node)) if zone != Zone::Obj => {
                    let (block, soa) = form.node(&node);
                    (Some(block), soa)
                }
                Some(_) | None => (None, None),
            });
            for (soa, side) in soas.iter_mut().zip([old.1, new.1]) {
                if let Some(found) = side {
                    *soa = found;
                }
            }
            gone.extend(without(old.0.as_ref(), new.0.as_ref()));
            come.extend(without(new.0.as_ref(), old.0.as_ref()));
        }
        let [before, after] = soas;
        blocks.push(self.only(before));
        blocks.extend(gone);
        blocks.push(self.only(after));
        blocks.extend(come);
    }
}

fn push_all(packer: &mut Packer, blocks: &[Block]) {
    for block in blocks {
        for rec in &block.records {
            packer.push(&block.owner, rec);
        }
    }
}

/// The records of a block that another one of the same name has not.
pub(super) fn without(block: Option<&Block>, other: Option<&Block>) -> Option<Block> {
    let block = block?;
    let others = other.map_or(&[][..], |other| &other.records);
    let records: Vec<Rec> = block
        .records
        .iter()
        .filter(|rec| !others.contains(rec))
        .cloned()
        .collect();
    (!records.is_empty()).then(|| Block {
        owner: block.owner.clone(),
        records,
    })
}

fn reaching(index: &Index, zone: Zone, since: u64) -> Result<&Journal, Outrun> {
    let journal = journal(index.journals().ok_or(Outrun)?, zone);
    if journal.reaches(since) {
        Ok(journal)
    } else {
        Err(Outrun)
    }
}

pub(super) fn entry(value: &Value) -> Option<Entry> {
    let octets = value.as_ref()?;
    Some(Entry::from_bytes(octets).expect("the journal holds what we wrote"))
}

/// The serial that whoever asks for differences has: in the SOA record of its authority section (RFC 1995 section 3).
pub(super) fn serial_asked(request: &hickory_proto::op::Message) -> Option<u32> {
    let soa = request
        .authorities
        .iter()
        .find(|record| record.record_type() == RecordType::SOA)?;
    match &soa.data {
        hickory_proto::rr::RData::SOA(soa) => Some(soa.serial),
        _ => None,
    }
}
