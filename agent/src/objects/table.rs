//! The table of objects: address to slot, in the order of addresses.
//!
//! A slot holds the entries that the index has of one address, and its gates. Only one of the entries is the copy that
//! requests see, a copy that is held for another server included; beside it a copy may be arriving, and older ones may wait
//! for their retirement, or one that was held for its removal by whoever holds it. The table's lock is held
//! for look-ups and for the insertion of slots, a slot's lock for a few comparisons: never across an await or disk work.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use zones::{Address, ServerName};

use super::gate::Gate;
use super::resting::{Stand, Standing};
use super::sharing::Share;
use super::turn::Turn;
use crate::store::{Entry, Journal};

/// Slots that are looked at under one hold of the table's lock.
const SCAN: usize = 512;

/// The slots of this agent.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: RwLock<BTreeMap<Address, Arc<Slot>>>,
    counts: Counts,
}

/// What this agent owns, and what else is in its rows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Objects.
    pub objects: u64,
    /// Octets of their plaintext.
    pub octets: u64,
    /// Octets of disk that their copies take.
    pub used: u64,
    /// Those of them that a schema step failed on.
    pub quarantined: u64,
    /// Rows in which something is under way.
    pub open: u64,
    /// Copies of objects that were given away.
    pub retired: u64,
    /// Copies of any kind: rows with a stream.
    pub copies: u64,
    /// Copies of objects that other servers own.
    pub held: u64,
    /// Octets of disk that these take.
    pub held_octets: u64,
}

#[derive(Debug, Default)]
struct Counts {
    objects: AtomicU64,
    octets: AtomicU64,
    used: AtomicU64,
    quarantined: AtomicU64,
    open: AtomicU64,
    retired: AtomicU64,
    copies: AtomicU64,
    held: AtomicU64,
    held_octets: AtomicU64,
    newer: AtomicU64,
    resting: AtomicU64,
}

/// Counts that a number has changed. Wrapping: a fall is the addition of a number close to 2^64.
fn change(count: &AtomicU64, before: u64, after: u64) {
    count.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
}

impl Counts {
    fn change(&self, before: Totals, after: Totals) {
        change(&self.objects, before.objects, after.objects);
        change(&self.octets, before.octets, after.octets);
        change(&self.used, before.used, after.used);
        change(&self.quarantined, before.quarantined, after.quarantined);
        change(&self.open, before.open, after.open);
        change(&self.retired, before.retired, after.retired);
        change(&self.copies, before.copies, after.copies);
        change(&self.held, before.held, after.held);
        change(&self.held_octets, before.held_octets, after.held_octets);
    }

    fn stand(&self, before: Stand, after: Stand) {
        change(&self.newer, before.newer.into(), after.newer.into());
        change(&self.resting, before.resting.into(), after.resting.into());
    }
}

/// How far a recount has come.
#[derive(Debug)]
pub(crate) enum Recounted {
    /// To this address.
    UpTo(Address),
    /// To the end.
    All,
}

/// One address.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
}

/// What is known of one address.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The copy that requests see.
    current: Option<Arc<Entry>>,
    /// A copy on its way in.
    incoming: Option<Arc<Entry>>,
    /// Copies of lower epochs that are not reclaimed, or not dropped, yet.
    retired: Vec<Arc<Entry>>,
    /// As what the current copy is counted.
    stand: Stand,
    /// Present while anybody waits, writes or moves.
    gate: Option<Box<Gate<Turn>>>,
    /// What is known of copies on other servers.
    share: Option<Box<Share>>,
}

/// Which place of a slot an entry belongs in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Current,
    Incoming,
}

/// Whether this agent owns the object of an entry: what it counts and lists.
#[must_use]
pub fn owned(entry: &Entry) -> bool {
    match &entry.journal {
        Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } | Journal::DeleteSent { .. } => true,
        Journal::CreateSent { .. }
        | Journal::Moved { .. }
        | Journal::Forward { .. }
        | Journal::Tombstone { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. }
        | Journal::Held { .. } => false,
    }
}

fn place(entry: &Entry) -> Place {
    match entry.journal.is_arriving() {
        true => Place::Incoming,
        false => Place::Current,
    }
}

impl Table {
    /// The slot of an address, if there is one.
    pub(crate) fn get(&self, address: &Address) -> Option<Arc<Slot>> {
        self.slots.read().get(address).cloned()
    }

    /// The slot of an address, made if there is none. Call [`Table::forget`] when done with a slot that may be empty.
    pub(crate) fn get_or_make(&self, address: &Address) -> Arc<Slot> {
        if let Some(slot) = self.get(address) {
            return slot;
        }
        Arc::clone(self.slots.write().entry(address.clone()).or_default())
    }

    /// Removes the slot of an address if nothing is in it and nobody uses it.
    pub(crate) fn forget(&self, address: &Address) {
        let mut slots = self.slots.write();
        // Handles are only made under the table's lock, so a count of one cannot rise now.
        let empty = slots
            .get(address)
            .is_some_and(|slot| Arc::strong_count(slot) == 1 && slot.state.lock().is_empty());
        if empty {
            slots.remove(address);
        }
    }

    /// Takes in what a commit of the index changed at one address: the entry `removed` is gone, `new` is there. `stand` says as
    /// what a copy counts. Returns the one that is gone.
    pub(crate) fn swap(
        &self,
        address: &Address,
        removed: Option<u64>,
        new: Option<Arc<Entry>>,
        stand: impl Fn(&Entry) -> Stand,
    ) -> Option<Arc<Entry>> {
        let slot = self.get_or_make(address);
        let gone = {
            let mut state = slot.state.lock();
            let before = state.totals();
            let gone = state.swap(removed, new);
            self.counts.change(before, state.totals());
            // Under the slot's lock: whoever asks for a recount later finds this object done, or as it was counted.
            state.count(&self.counts, &stand);
            state.tidy();
            if !state.is_empty() {
                return gone;
            }
            gone
        };
        drop(slot);
        self.forget(address);
        gone
    }

    /// What is owned, and what is in the rows.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            objects: self.counts.objects.load(Ordering::Relaxed),
            octets: self.counts.octets.load(Ordering::Relaxed),
            used: self.counts.used.load(Ordering::Relaxed),
            quarantined: self.counts.quarantined.load(Ordering::Relaxed),
            open: self.counts.open.load(Ordering::Relaxed),
            retired: self.counts.retired.load(Ordering::Relaxed),
            copies: self.counts.copies.load(Ordering::Relaxed),
            held: self.counts.held.load(Ordering::Relaxed),
            held_octets: self.counts.held_octets.load(Ordering::Relaxed),
        }
    }

    /// How what is owned stands, as counted.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            newer: self.counts.newer.load(Ordering::Relaxed),
            resting: self.counts.resting.load(Ordering::Relaxed),
        }
    }

    /// Counts anew how objects stand, those behind `after`, at most `limit`.
    pub(crate) fn recount(&self, after: Option<&Address>, limit: usize, stand: &impl Fn(&Entry) -> Stand) -> Recounted {
        let mut from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let mut left = limit;
        loop {
            let slots = self.slots.read();
            let mut last = None;
            for (address, slot) in slots.range((from, Bound::Unbounded)).take(SCAN.min(left)) {
                slot.state.lock().count(&self.counts, stand);
                last = Some(address.clone());
                left -= 1;
            }
            match last {
                None => return Recounted::All,
                Some(last) if left == 0 => return Recounted::UpTo(last),
                Some(last) => from = Bound::Excluded(last),
            }
        }
    }

    /// Copies that requests see, in the order of addresses, behind `after`, at or below `under`; those that `select`
    /// makes something of, at most `limit`.
    pub(crate) fn scan<T>(
        &self,
        under: Option<&Address>,
        after: Option<&Address>,
        limit: usize,
        select: impl Fn(&Address, &Arc<Entry>) -> Option<T>,
    ) -> Vec<T> {
        self.scan_rows(under, after, limit, |state| state.current().cloned(), select)
    }

    /// The same of the row that `row` picks at each address.
    pub(crate) fn scan_rows<R, T>(
        &self,
        under: Option<&Address>,
        after: Option<&Address>,
        limit: usize,
        row: impl Fn(&State) -> Option<R>,
        select: impl Fn(&Address, &R) -> Option<T>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        let mut from = match (under, after) {
            (Some(under), Some(after)) if after >= under => Bound::Excluded(after.clone()),
            (None, Some(after)) => Bound::Excluded(after.clone()),
            (Some(under), Some(_) | None) => Bound::Included(under.clone()),
            (None, None) => Bound::Unbounded,
        };
        loop {
            let slots = self.slots.read();
            let mut last = None;
            for (address, slot) in slots.range((from, Bound::Unbounded)).take(SCAN) {
                if found.len() >= limit || under.is_some_and(|under| !under.covers(address)) {
                    return found;
                }
                let picked = row(&slot.state.lock());
                found.extend(picked.and_then(|entry| select(address, &entry)));
                last = Some(address.clone());
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => return found,
            }
        }
    }

    /// Every entry of every slot.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        let slots = self.slots.read();
        let mut entries = Vec::new();
        for slot in slots.values() {
            entries.extend(slot.state.lock().rows().cloned());
        }
        entries
    }
}

impl Slot {
    /// Looks at the slot or changes it; forgets gates that say nothing afterwards.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let found = look(&mut state);
        state.tidy();
        found
    }
}

impl State {
    /// The copy that requests see.
    pub(crate) fn current(&self) -> Option<&Arc<Entry>> {
        self.current.as_ref()
    }

    /// The copy whose row answers a request; `None` where the register decides. It does so, too, where a copy is held for a
    /// server that may have lost the object to this one already: a commit of its move was sent.
    pub(crate) fn answering(&self) -> Option<&Arc<Entry>> {
        let may_be_here = self.incoming.as_ref().is_some_and(|entry| entry.journal.may_own());
        (self.current.as_ref()).filter(|entry| !(entry.journal.is_held() && may_be_here))
    }

    /// The copy on its way in.
    pub(crate) fn incoming(&self) -> Option<&Arc<Entry>> {
        self.incoming.as_ref()
    }

    /// Whether one of the copies has this number.
    pub(crate) fn has(&self, seq: u64) -> bool {
        let is = |entry: &Arc<Entry>| entry.seq == seq;
        self.current.as_ref().is_some_and(is) || self.incoming.as_ref().is_some_and(is) || self.retired.iter().any(is)
    }

    /// Older copies that are not reclaimed, or not dropped, yet.
    pub(crate) fn retired(&self) -> &[Arc<Entry>] {
        &self.retired
    }

    /// What is known of copies on other servers.
    pub(super) fn share(&self) -> Option<&Share> {
        self.share.as_deref()
    }

    pub(super) fn share_mut(&mut self) -> Option<&mut Share> {
        self.share.as_deref_mut()
    }

    pub(super) fn set_share(&mut self, share: Option<Share>) {
        self.share = share.map(Box::new);
    }

    /// Wakes whoever waits for a change of the object.
    pub(super) fn wake(&self) {
        if let Some(gate) = &self.gate {
            gate.notify();
        }
    }

    /// The gates.
    pub(crate) fn gate(&mut self) -> &mut Gate<Turn> {
        self.gate.get_or_insert_default()
    }

    /// The row, if there is one, whose copy counts or may count.
    pub(crate) fn owned_row(&self) -> Option<Arc<Entry>> {
        self.rows().find(|row| row.journal.may_own()).cloned()
    }

    /// The row, if there is one, that is held for another server.
    pub(crate) fn held(&self) -> Option<&Arc<Entry>> {
        self.rows().find(|row| row.journal.is_held())
    }

    /// The row, if there is one, that is held for this server.
    pub(crate) fn held_for(&self, server: &ServerName) -> Option<Arc<Entry>> {
        self.rows().find(|row| row.journal.held_for() == Some(server)).cloned()
    }

    fn is_empty(&self) -> bool {
        self.current.is_none() && self.incoming.is_none() && self.retired.is_empty() && self.gate.is_none()
    }

    fn tidy(&mut self) {
        if self.gate.as_ref().is_some_and(|gate| gate.is_idle()) {
            self.gate = None;
        }
    }

    /// Every row of the address.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.current.iter().chain(&self.incoming).chain(&self.retired)
    }

    fn totals(&self) -> Totals {
        let mut totals = match &self.current {
            Some(entry) if owned(entry) => Totals {
                objects: 1,
                octets: entry.plain_octets(),
                used: entry.disk_octets(),
                quarantined: u64::from(entry.quarantined.is_some()),
                ..Totals::default()
            },
            Some(_) | None => Totals::default(),
        };
        for row in self.rows() {
            totals.open += u64::from(row.journal.is_open());
            totals.retired += u64::from(row.journal.is_retired());
            totals.copies += u64::from(row.streams().next().is_some());
            if row.journal.is_held() {
                totals.held += 1;
                totals.held_octets = totals.held_octets.saturating_add(row.disk_octets());
            }
        }
        totals
    }

    /// Counts the current copy as what it is now instead of as what it was.
    fn count(&mut self, counts: &Counts, stand: &impl Fn(&Entry) -> Stand) {
        let now = self.current.as_deref().map_or_else(Stand::default, stand);
        counts.stand(std::mem::replace(&mut self.stand, now), now);
    }

    fn swap(&mut self, removed: Option<u64>, new: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let gone = removed.and_then(|seq| {
            let gone = |entry: &mut Arc<Entry>| entry.seq == seq;
            let retired = |retired: &mut Vec<Arc<Entry>>| {
                let at = retired.iter().position(|entry| entry.seq == seq)?;
                Some(retired.remove(at))
            };
            (self.current.take_if(gone))
                .or_else(|| self.incoming.take_if(gone))
                .or_else(|| retired(&mut self.retired))
        });
        if let Some(entry) = new {
            match place(&entry) {
                Place::Incoming => {
                    assert!(self.incoming.is_none(), "one copy of an address arrives at a time");
                    self.incoming = Some(entry);
                }
                // The higher epoch is the one that requests see; of equal ones the later entry.
                Place::Current => match &self.current {
                    Some(current) if current.epoch > entry.epoch => self.retired.push(entry),
                    Some(_) | None => self.retired.extend(self.current.replace(entry)),
                },
            }
        }
        if self
            .current
            .as_ref()
            .is_none_or(|entry| !owned(entry) && !entry.journal.is_held())
        {
            self.share = None;
        }
        self.wake();
        gone
    }
}
