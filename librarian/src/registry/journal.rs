//! What changed lately in the zones that are transferred, so that a secondary is sent differences, and a whole zone as
//! it was at one serial while changes go on.
//!
//! A step is one message of the log: it raises serials once and holds the old and new value of everything that it
//! changed. Steps are kept in memory, bounded in number and octets, and go from the oldest on. There are two journals:
//! of `obj` and `tree`, whose serials rise together, and of the operator's zone.
//!
//! Specification: RFC 1995 (what differences are for), RFC 1982 (serials).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::{Bound, Range};
use std::sync::Arc;

use zones::ServerName;

use super::zone::NameKey;

/// Octets that a change costs besides its values: places in two lists and a map.
const CHANGE_OCTETS: usize = 160;

/// Most that a journal keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JournalBounds {
    /// Changes and steps together.
    pub changes: usize,
    /// Octets of memory, about.
    pub octets: usize,
}

impl Default for JournalBounds {
    fn default() -> Self {
        JournalBounds {
            changes: 100_000,
            octets: 64 << 20,
        }
    }
}

/// What transferred records say of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) port: u16,
    pub(crate) addresses: Vec<IpAddr>,
    /// Octets that its operator gave it.
    pub(crate) capacity: u64,
}

/// All servers that said where they are.
pub(crate) type Places = BTreeMap<ServerName, Place>;

/// Of what a change is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Key {
    /// A register, by the number of its row.
    Row(u32),
    /// The ordinary records of a name.
    Node(NameKey),
}

/// The bytes of a log entry; `None`: there was none.
pub(crate) type Value = Option<Arc<[u8]>>;

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) old: Value,
    pub(crate) new: Value,
    /// The change of the same key before this one, if it is still here.
    before: Option<u64>,
}

/// What one message did to the zones of a journal.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Serials before it: of `obj` and `tree`, or twice that of the operator's zone.
    pub(crate) before: [u32; 2],
    /// Serials after it.
    pub(crate) after: [u32; 2],
    /// Where servers were before it.
    pub(crate) places_before: Arc<Places>,
    /// Where servers are after it.
    pub(crate) places: Arc<Places>,
    /// It changed more than its changes tell, such as where a server with objects is: no difference leads across it.
    pub(crate) cut: bool,
}

/// A step in its place.
#[derive(Debug)]
struct Kept {
    step: Step,
    /// Number of its first change.
    first: u64,
}

/// The latest steps, and where the latest change of each key is.
#[derive(Debug)]
pub(crate) struct Journal {
    bounds: JournalBounds,
    steps: VecDeque<Kept>,
    /// Number of the first step that is here.
    steps_base: u64,
    changes: VecDeque<Change>,
    /// Number of the first change that is here.
    changes_base: u64,
    /// Differences begin at this step or later.
    floor: u64,
    latest: BTreeMap<Key, u64>,
    octets: usize,
}

impl Journal {
    pub(crate) fn new(bounds: JournalBounds) -> Journal {
        Journal {
            bounds,
            steps: VecDeque::new(),
            steps_base: 0,
            changes: VecDeque::new(),
            changes_base: 0,
            floor: 0,
            latest: BTreeMap::new(),
            octets: 0,
        }
    }

    /// Number that the next change gets.
    pub(crate) fn end(&self) -> u64 {
        self.changes_base + self.changes.len() as u64
    }

    /// Number that the next step gets.
    pub(crate) fn steps_end(&self) -> u64 {
        self.steps_base + self.steps.len() as u64
    }

    /// Adds a step with its changes; no key is among these twice.
    pub(crate) fn append(&mut self, step: Step, changes: Vec<(Key, Value, Value)>) {
        if step.cut {
            self.floor = self.steps_end() + 1;
        }
        let first = self.end();
        for (key, old, new) in changes {
            let number = self.end();
            let before = self.latest.insert(key.clone(), number);
            let before = before.filter(|before| *before >= self.changes_base);
            // The old value of a change is the new one of that before it: kept once.
            let old = match before.and_then(|before| self.change(before)) {
                Some(change) => change.new.clone(),
                None => old,
            };
            let change = Change { key, old, new, before };
            self.octets += change.octets();
            self.changes.push_back(change);
        }
        self.steps.push_back(Kept { step, first });
        while self.changes.len() + self.steps.len() > self.bounds.changes || self.octets > self.bounds.octets {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if self.steps.pop_front().is_none() {
            return;
        }
        self.steps_base += 1;
        let next = self.steps.front().map_or_else(|| self.end(), |kept| kept.first);
        while self.changes_base < next {
            let Some(change) = self.changes.pop_front() else { break };
            self.octets -= change.octets();
            if self.latest.get(&change.key) == Some(&self.changes_base) {
                self.latest.remove(&change.key);
            }
            self.changes_base += 1;
        }
    }

    fn change(&self, number: u64) -> Option<&Change> {
        let at = number.checked_sub(self.changes_base)?;
        self.changes.get(usize::try_from(at).ok()?)
    }

    /// Whether every change from a number on is still here.
    pub(crate) fn reaches(&self, since: u64) -> bool {
        since >= self.changes_base
    }

    /// The value that a key had before the first of its changes from a number on; `None`: it has not changed since.
    pub(crate) fn value_at(&self, key: &Key, since: u64) -> Option<Value> {
        if since == self.end() {
            return None;
        }
        let mut at = *self.latest.get(key)?;
        let mut found = None;
        while at >= since {
            let change = self.change(at)?;
            found = Some(change.old.clone());
            match change.before {
                Some(before) => at = before,
                None => break,
            }
        }
        found
    }

    /// How many things changed from a number on.
    pub(crate) fn things(&self, since: u64) -> usize {
        let changes = (since..self.end()).filter_map(|number| self.change(number));
        changes
            .filter(|change| change.before.is_none_or(|before| before < since))
            .count()
    }

    /// The values that a thing had before and after the changes of a range, if this one is the first of it among these.
    pub(crate) fn net(&self, number: u64, range: &Range<u64>) -> Option<(&Value, &Value)> {
        let first = self.change(number)?;
        if first.before.is_some_and(|before| before >= range.start) {
            return None;
        }
        let mut at = *self.latest.get(&first.key)?;
        let mut last = self.change(at)?;
        while at >= range.end {
            at = last.before?;
            last = self.change(at)?;
        }
        Some((&first.old, &last.new))
    }

    /// Whether a change is here for some time yet: a quarter of what may be kept goes before it, or comes first.
    pub(crate) fn stays(&self, number: u64) -> bool {
        let older = number.saturating_sub(self.changes_base) as usize >= self.changes.len() / 4;
        let kept = self.changes.len() + self.steps.len();
        let room = kept < self.bounds.changes / 4 * 3 && self.octets < self.bounds.octets / 4 * 3;
        self.reaches(number) && (older || room)
    }

    /// Keys in a range that changed from a number on, in order.
    pub(crate) fn changed(&self, range: (Bound<Key>, Bound<Key>), since: u64) -> impl Iterator<Item = &Key> {
        let range = self.latest.range(range);
        range.filter(move |(_, latest)| **latest >= since).map(|(key, _)| key)
    }

    /// The step that a difference from a serial begins with; `None` where none leads on from there.
    pub(crate) fn step_from(&self, slot: usize, serial: u32) -> Option<u64> {
        // Serials rise by less than half their range over all that is kept, so that they are ordered from the first on.
        let first = self.steps.front()?.step.before[slot];
        let ahead = serial.wrapping_sub(first);
        let at = self
            .steps
            .partition_point(|kept| kept.step.before[slot].wrapping_sub(first) < ahead);
        let found = self.steps.get(at).filter(|kept| kept.step.before[slot] == serial)?;
        debug_assert!(found.first >= self.changes_base, "steps go with their changes");
        let number = self.steps_base + at as u64;
        (number >= self.floor).then_some(number)
    }

    /// A step with its changes; `None` if it is not here any more, or not yet.
    pub(crate) fn step(&self, number: u64) -> Option<(&Step, impl ExactSizeIterator<Item = &Change>)> {
        let range = self.range(number)?;
        let at = usize::try_from(number - self.steps_base).ok()?;
        Some((&self.steps.get(at)?.step, self.changes.range(range)))
    }

    /// Serials after the last step.
    pub(crate) fn last_serials(&self) -> Option<[u32; 2]> {
        self.steps.back().map(|kept| kept.step.after)
    }

    /// The steps that differences may begin with.
    pub(crate) fn whole_steps(&self) -> Range<u64> {
        self.floor.clamp(self.steps_base, self.steps_end())..self.steps_end()
    }

    fn range(&self, number: u64) -> Option<Range<usize>> {
        let at = usize::try_from(number.checked_sub(self.steps_base)?).ok()?;
        let place = |number: u64| usize::try_from(number - self.changes_base).ok();
        let first = place(self.steps.get(at)?.first)?;
        let end = match self.steps.get(at + 1) {
            Some(next) => place(next.first)?,
            None => self.changes.len(),
        };
        Some(first..end)
    }

    /// Changes from a step on.
    pub(crate) fn changes_from(&self, number: u64) -> usize {
        let first = self.range(number).map_or(self.changes.len(), |range| range.start);
        self.changes.len() - first
    }
}

impl Change {
    fn octets(&self) -> usize {
        // What came before has the old value, and is counted with it, unless this is the first change of its key.
        let old = self.old.as_ref().filter(|_| self.before.is_none());
        let length = |value: Option<&Arc<[u8]>>| value.map_or(0, |octets| octets.len());
        CHANGE_OCTETS + length(old) + length(self.new.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Some(Arc::from(text.as_bytes()))
    }

    fn step(before: u32) -> Step {
        Step {
            before: [before; 2],
            after: [before.wrapping_add(1); 2],
            places_before: Arc::default(),
            places: Arc::default(),
            cut: false,
        }
    }

    fn bounds(changes: usize) -> JournalBounds {
        JournalBounds {
            changes,
            octets: 1 << 20,
        }
    }

    fn put(journal: &mut Journal, before: u32, row: u32, old: &str, new: &str) {
        let old = if old.is_empty() { None } else { value(old) };
        journal.append(step(before), vec![(Key::Row(row), old, value(new))]);
    }

    #[test]
    fn value_at_a_number_is_the_one_before_the_first_later_change() {
        let mut journal = Journal::new(bounds(100));
        put(&mut journal, 1, 7, "a", "b");
        let since = journal.end();
        assert_eq!(journal.value_at(&Key::Row(7), since), None);
        put(&mut journal, 2, 7, "b", "c");
        put(&mut journal, 3, 8, "", "x");
        put(&mut journal, 4, 7, "c", "d");
        assert_eq!(journal.value_at(&Key::Row(7), since), Some(value("b")));
        assert_eq!(journal.value_at(&Key::Row(7), 0), Some(value("a")));
        assert_eq!(journal.value_at(&Key::Row(8), since), Some(None));
        let all = (Bound::Unbounded, Bound::Unbounded);
        assert_eq!(journal.changed(all, journal.end() - 2).count(), 2);
    }

    #[test]
    fn net_of_a_range_is_told_once_for_each_thing_whatever_comes_later() {
        let mut journal = Journal::new(bounds(100));
        put(&mut journal, 1, 7, "", "a");
        let start = journal.end();
        put(&mut journal, 2, 7, "a", "b");
        put(&mut journal, 3, 8, "", "x");
        put(&mut journal, 4, 7, "b", "c");
        let range = start..journal.end();
        put(&mut journal, 5, 8, "x", "y");
        put(&mut journal, 6, 7, "c", "d");
        assert_eq!((journal.things(start), journal.things(start + 2)), (2, 2));
        let net: Vec<_> = range.clone().map(|number| journal.net(number, &range)).collect();
        let (none, a, c, x) = (None, value("a"), value("c"), value("x"));
        assert_eq!(net, [Some((&a, &c)), Some((&none, &x)), None]);
    }

    #[test]
    fn change_stays_while_there_is_room_or_much_that_is_older() {
        let mut journal = Journal::new(bounds(40));
        for serial in 1..=14 {
            put(&mut journal, serial, serial, "", "value");
        }
        assert!(journal.stays(0));
        for serial in 15..=30 {
            put(&mut journal, serial, serial, "", "value");
        }
        assert_eq!((journal.changes_base, journal.end()), (10, 30));
        assert_eq!(
            [9, 14, 15, 29].map(|number| journal.stays(number)),
            [false, false, true, true]
        );
    }

    #[test]
    fn bound_in_number_and_octets_drops_whole_steps_from_the_oldest_on() {
        let mut journal = Journal::new(bounds(6));
        for serial in 1..=5 {
            put(&mut journal, serial, serial, "", "value");
        }
        assert_eq!(journal.step_from(0, 2), None);
        assert_eq!(journal.step_from(0, 3), Some(2));
        assert!(!journal.reaches(1) && journal.reaches(2));
        assert_eq!(journal.latest.len(), 3);
        let mut small = Journal::new(JournalBounds {
            changes: 100,
            octets: CHANGE_OCTETS + 10,
        });
        put(&mut small, 1, 1, "", "1234567890");
        assert_eq!(small.step_from(0, 1), Some(0));
        put(&mut small, 2, 2, "", "12345678901");
        assert_eq!((small.octets, small.steps.len(), small.changes.len()), (0, 0, 0));
        assert_eq!(small.step_from(0, 2), None);
        put(&mut small, 3, 2, "12345", "12345");
        assert_eq!(small.step_from(0, 3), Some(2));
    }

    #[test]
    fn difference_leads_across_no_cut_and_from_no_serial_that_was_passed_over() {
        let mut journal = Journal::new(bounds(100));
        put(&mut journal, u32::MAX, 1, "", "a");
        let cut = Step { cut: true, ..step(1) };
        journal.append(cut, Vec::new());
        put(&mut journal, 2, 1, "a", "b");
        journal.append(
            Step {
                after: [40; 2],
                ..step(3)
            },
            Vec::new(),
        );
        assert_eq!(journal.step_from(0, u32::MAX), None);
        assert_eq!(journal.step_from(0, 1), None);
        assert_eq!(journal.step_from(0, 2), Some(2));
        assert_eq!(journal.step_from(1, 3), Some(3));
        assert_eq!(journal.step_from(1, 4), None);
        assert_eq!(journal.step_from(1, 40), None, "nothing leads on from the last one");
        assert_eq!(journal.changes_from(2), 1);
        let (_, changes) = journal.step(2).unwrap();
        assert_eq!(changes.len(), 1);
        assert!(journal.step(4).is_none());
    }
}
