//! What clients did and saw, and whether one order of events explains it all.
//!
//! The judge is the simulator's search (`simulate/linear.rs`). Every write of an object gets a number from the pool, its
//! revision, and every read tells the revision that it saw; so most of what can be wrong has a name, and is looked for first:
//! the search says no, and not why.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::simulate::linear::{self, Action, Outcome, is_linearizable};

/// Names an object of a run.
pub type Object = u32;

/// One operation of one client on one object.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The object.
    pub object: Object,
    /// When it was asked for, in nanoseconds since the run began.
    pub began: u64,
    /// When its end was known; `None`: never.
    pub ended: Option<u64>,
    /// What it was.
    pub what: What,
}

/// What an operation was and gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// A write of a value that no other write has.
    Write {
        /// The value.
        value: u64,
        /// The number that it got; `None` if its end is not known.
        revision: Option<u64>,
    },
    /// A read.
    Read {
        /// The value that was there.
        value: u64,
        /// Its number.
        revision: u64,
    },
    /// A deletion; whether it is known to be done.
    Delete {
        /// Whether the pool said that it is done.
        done: bool,
    },
    /// An operation that was told that the object was deleted.
    Gone {
        /// The value, if it was a write, which was not applied then.
        value: Option<u64>,
    },
    /// An operation that was told that the object was never made.
    Absent,
}

/// All operations of a run.
#[derive(Debug)]
pub struct History {
    start: Instant,
    values: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

/// One order of events does not explain what the clients of an object saw.
#[derive(Debug)]
pub struct Violation {
    /// The object.
    pub object: Object,
    /// What contradicts what.
    pub what: String,
    /// All that was done to it, by begin.
    pub history: Vec<Operation>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "object {}: {}", self.object, self.what)?;
        for operation in &self.history {
            let ended = operation
                .ended
                .map_or("never".to_owned(), |at| format!("{:.6}", at as f64 / 1e9));
            writeln!(
                f,
                "  {:.6} .. {ended}: {:?}",
                operation.began as f64 / 1e9,
                operation.what
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

impl History {
    /// An empty history that begins now.
    #[must_use]
    pub fn new() -> History {
        History {
            start: Instant::now(),
            values: AtomicU64::new(1),
            operations: Mutex::default(),
        }
    }

    /// A value that was never given before.
    pub fn fresh_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes an operation that began at `began` and whose end, if it is `known`, is now.
    pub fn note(&self, object: Object, began: u64, known: bool, what: What) {
        let ended = known.then(|| self.now());
        self.operations.lock().push(Operation {
            object,
            began,
            ended,
            what,
        });
    }

    /// Operations with a known end, and without.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let operations = self.operations.lock();
        let known = operations.iter().filter(|operation| operation.ended.is_some()).count();
        (known, operations.len() - known)
    }

    /// The longest time that an operation took whose end is known, with all that its client did again.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let operations = self.operations.lock();
        let took = operations
            .iter()
            .filter_map(|operation| Some(operation.ended? - operation.began));
        Duration::from_nanos(took.max().unwrap_or(0))
    }

    /// Whether a write of this object was acknowledged.
    #[must_use]
    pub fn was_acknowledged(&self, object: Object) -> bool {
        let acknowledged = |operation: &Operation| matches!(operation.what, What::Write { revision: Some(_), .. });
        let operations = self.operations.lock();
        operations
            .iter()
            .any(|operation| operation.object == object && acknowledged(operation))
    }

    /// Judges every object's history.
    ///
    /// # Errors
    ///
    /// The first [`Violation`].
    pub fn judge(&self) -> Result<(), Violation> {
        let mut objects: BTreeMap<Object, Vec<Operation>> = BTreeMap::new();
        for operation in self.operations.lock().iter() {
            objects.entry(operation.object).or_default().push(operation.clone());
        }
        for (object, mut history) in objects {
            history.sort_by_key(|operation| operation.began);
            judge(&history).map_err(|what| Violation { object, what, history })?;
        }
        Ok(())
    }
}

impl Default for History {
    fn default() -> Self {
        History::new()
    }
}

/// A write, with the number that the pool gave it or that a read saw it under.
#[derive(Clone, Copy, Debug)]
struct Write {
    value: u64,
    began: u64,
    ended: Option<u64>,
}

/// Judges the history of one object, sorted by begin.
///
/// # Errors
///
/// What contradicts what.
pub fn judge(history: &[Operation]) -> Result<(), String> {
    let mut by_revision: BTreeMap<u64, Write> = BTreeMap::new();
    let mut nameless: BTreeMap<u64, Write> = BTreeMap::new();
    for operation in history {
        if let What::Write { value, revision } = operation.what {
            let write = Write {
                value,
                began: operation.began,
                ended: operation.ended,
            };
            match revision {
                None => drop(nameless.insert(value, write)),
                Some(revision) => {
                    if let Some(other) = by_revision.insert(revision, write) {
                        return Err(format!(
                            "writes of {} and {value} were both told that they are revision {revision}",
                            other.value
                        ));
                    }
                }
            }
        }
    }
    // Writes without a known end have the number under which somebody saw them.
    let unknown = nameless.len();
    for operation in history {
        let What::Read { value, revision } = operation.what else {
            continue;
        };
        match by_revision.get(&revision) {
            Some(write) if write.value == value => {}
            Some(write) => {
                return Err(format!(
                    "revision {revision} is {} and was read as {value}",
                    write.value
                ));
            }
            None => match nameless.remove(&value) {
                Some(write) => drop(by_revision.insert(revision, write)),
                None => {
                    return Err(format!(
                        "revision {revision} was read as {value}, which nobody wrote, or wrote under another number"
                    ));
                }
            },
        }
        if operation
            .ended
            .is_some_and(|ended| ended < by_revision[&revision].began)
        {
            return Err(format!("revision {revision} was read before its write began"));
        }
    }
    fits_time(history, &by_revision)?;
    applied_once(history, &by_revision, unknown)?;
    deleted_for_ever(history)?;
    let operations: Vec<linear::Operation> = history.iter().map(spelled).collect();
    if is_linearizable(linear::Object::Absent, &operations) {
        Ok(())
    } else {
        Err("no order of its operations explains what its clients saw".to_owned())
    }
}

/// An operation in the words of the search.
fn spelled(operation: &Operation) -> linear::Operation {
    use linear::Object;
    let (action, outcome) = match operation.what {
        What::Write { value, revision } => (Action::Put(value), revision.map_or(Outcome::Unknown, Outcome::Written)),
        What::Read { value, revision } => {
            let write = value;
            (Action::Read, Outcome::Seen(Object::Is { write, revision }))
        }
        What::Delete { done: true } => (Action::Delete, Outcome::Done),
        What::Delete { done: false } => (Action::Delete, Outcome::Unknown),
        What::Gone { value: Some(value) } => (Action::Put(value), Outcome::Gone),
        What::Gone { value: None } => (Action::Read, Outcome::Seen(Object::Deleted)),
        What::Absent => (Action::Read, Outcome::Seen(Object::Absent)),
    };
    linear::Operation {
        action,
        began: operation.began,
        ended: operation.ended,
        outcome,
    }
}

/// Whether the order of revisions fits real time: what began after something ended comes behind it.
fn fits_time(history: &[Operation], by_revision: &BTreeMap<u64, Write>) -> Result<(), String> {
    // (begin, end, revision, whether it makes that revision)
    let reads = history.iter().filter_map(|operation| match operation.what {
        What::Read { revision, .. } => Some((operation.began, operation.ended, revision, false)),
        What::Write { .. } | What::Delete { .. } | What::Gone { .. } | What::Absent => None,
    });
    let writes = by_revision
        .iter()
        .map(|(revision, write)| (write.began, write.ended, *revision, true));
    let mut by_begin: Vec<_> = reads.chain(writes).collect();
    by_begin.sort_unstable();
    let mut by_end: Vec<(u64, u64)> = by_begin
        .iter()
        .filter_map(|(_, ended, revision, _)| Some(((*ended)?, *revision)))
        .collect();
    by_end.sort_unstable();
    let (mut over, mut highest) = (0, 0);
    for (began, _, revision, writes) in by_begin {
        while let Some((ended, before)) = by_end.get(over)
            && *ended < began
        {
            highest = highest.max(*before);
            over += 1;
        }
        if revision < highest {
            let what = if writes { "a write got" } else { "a read saw" };
            return Err(format!(
                "{what} revision {revision} after revision {highest} was seen or acknowledged"
            ));
        }
        if writes && revision == highest && highest > 0 {
            return Err(format!("revision {revision} was seen before its write began"));
        }
    }
    Ok(())
}

/// Whether each revision has a write of its own: none was applied twice, none was lost.
fn applied_once(history: &[Operation], by_revision: &BTreeMap<u64, Write>, unknown: usize) -> Result<(), String> {
    let last = by_revision.keys().next_back().copied().unwrap_or(0);
    let acknowledged = history
        .iter()
        .filter(|operation| matches!(operation.what, What::Write { revision: Some(_), .. }))
        .count() as u64;
    // What nobody saw under a number may have got one, once.
    if last > acknowledged + unknown as u64 {
        return Err(format!(
            "revision {last} was reached with {acknowledged} acknowledged and {unknown} other writes: one was applied twice"
        ));
    }
    Ok(())
}

/// Whether a deleted object stays deleted, and none is told to be gone that nobody deleted.
fn deleted_for_ever(history: &[Operation]) -> Result<(), String> {
    let gone_since = history
        .iter()
        .filter(|operation| matches!(operation.what, What::Gone { .. } | What::Delete { done: true }))
        .filter_map(|operation| operation.ended)
        .min();
    let Some(gone_since) = gone_since else { return Ok(()) };
    let deleting = history
        .iter()
        .filter(|operation| matches!(operation.what, What::Delete { .. }))
        .map(|operation| operation.began)
        .min();
    if deleting.is_none_or(|began| gone_since < began) {
        return Err("it was told to be deleted before anybody deleted it".to_owned());
    }
    let alive = history.iter().find(|operation| {
        operation.began > gone_since
            && matches!(
                operation.what,
                What::Read { .. } | What::Write { revision: Some(_), .. }
            )
    });
    match alive {
        Some(alive) => Err(format!("it was deleted and then there again: {:?}", alive.what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(began: u64, ended: u64, what: What) -> Operation {
        Operation {
            object: 1,
            began,
            ended: (ended > 0).then_some(ended),
            what,
        }
    }

    fn write(value: u64, revision: u64) -> What {
        What::Write {
            value,
            revision: (revision > 0).then_some(revision),
        }
    }

    fn read(value: u64, revision: u64) -> What {
        What::Read { value, revision }
    }

    #[test]
    fn overlapping_operations_may_take_effect_in_any_order() {
        let history = [
            at(1, 2, write(10, 1)),
            at(3, 9, write(20, 2)),
            at(4, 5, read(10, 1)),
            at(6, 8, read(20, 2)),
            at(10, 11, read(20, 2)),
        ];
        assert_eq!(judge(&history), Ok(()));
    }

    #[test]
    fn write_without_a_known_end_may_show_or_not_and_stays_once_shown() {
        let shown = [
            at(1, 2, write(10, 1)),
            at(3, 0, write(20, 0)),
            at(4, 5, read(20, 2)),
            at(6, 7, read(20, 2)),
        ];
        assert_eq!(judge(&shown), Ok(()));
        let never = [at(1, 2, write(10, 1)), at(3, 0, write(20, 0)), at(6, 7, read(10, 1))];
        assert_eq!(judge(&never), Ok(()));
        let back = [
            at(1, 2, write(10, 1)),
            at(3, 0, write(20, 0)),
            at(4, 5, read(20, 2)),
            at(6, 7, read(10, 1)),
        ];
        assert!(judge(&back).is_err(), "it was shown and is gone");
    }

    #[test]
    fn each_known_bad_history_is_a_violation() {
        for (what, history) in [
            (
                "a lost write",
                vec![at(1, 2, write(10, 1)), at(3, 4, write(20, 2)), at(5, 6, read(10, 1))],
            ),
            (
                "a stale read",
                vec![
                    at(1, 2, write(10, 1)),
                    at(3, 4, write(20, 2)),
                    at(3, 4, read(20, 2)),
                    at(5, 6, read(10, 1)),
                ],
            ),
            (
                "two writes of one number",
                vec![at(1, 2, write(10, 1)), at(3, 4, write(20, 1))],
            ),
            (
                "a value from nowhere",
                vec![at(1, 2, write(10, 1)), at(3, 4, read(30, 2))],
            ),
            (
                "another value under the number",
                vec![at(1, 2, write(10, 1)), at(3, 4, read(20, 1))],
            ),
            (
                "a read from the future",
                vec![at(1, 2, read(10, 1)), at(3, 4, write(10, 1))],
            ),
            (
                "numbers against time",
                vec![at(1, 2, write(10, 2)), at(3, 4, write(20, 1))],
            ),
            (
                "a write applied twice",
                vec![at(1, 2, write(10, 1)), at(3, 4, write(20, 3))],
            ),
            (
                "one value under two numbers",
                vec![at(1, 0, write(10, 0)), at(2, 3, read(10, 1)), at(4, 5, read(10, 2))],
            ),
            (
                "gone without a deletion",
                vec![at(1, 2, write(10, 1)), at(3, 4, What::Gone { value: None })],
            ),
            (
                "absent after its making",
                vec![at(1, 2, write(10, 1)), at(3, 4, What::Absent)],
            ),
            (
                "a deletion that is done before the last read",
                vec![
                    at(1, 2, write(10, 1)),
                    at(3, 9, What::Delete { done: true }),
                    at(4, 5, What::Gone { value: None }),
                    at(6, 7, read(10, 1)),
                ],
            ),
            (
                "back from the dead",
                vec![
                    at(1, 2, write(10, 1)),
                    at(3, 4, What::Delete { done: true }),
                    at(5, 6, read(10, 1)),
                ],
            ),
        ] {
            assert!(judge(&history).is_err(), "{what} passes");
        }
    }

    #[test]
    fn deletion_of_unknown_end_may_come_later() {
        let history = [
            at(1, 2, write(10, 1)),
            at(3, 0, What::Delete { done: false }),
            at(4, 5, read(10, 1)),
            at(6, 7, What::Gone { value: None }),
            at(8, 9, What::Gone { value: None }),
        ];
        assert_eq!(judge(&history), Ok(()));
    }
}
