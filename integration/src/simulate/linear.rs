//! Is a history of one object linearizable? The search of Wing and Gong with Lowe's memory of visited states.
//!
//! The object is a register that can be made, written, read and deleted; revisions count its writes, so that a lost or
//! repeated write shows in the next number. An operation without an end may have happened at any time after its
//! beginning, or not at all.

use std::collections::{HashMap, HashSet};

/// What an object is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Object {
    /// It was never made.
    #[default]
    Absent,
    /// The last write and the number of writes.
    Is {
        /// Which write.
        write: u64,
        /// How many there were.
        revision: u64,
    },
    /// It was deleted.
    Deleted,
}

/// What was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// A write, making the object if it is not there.
    Put(u64),
    /// A read.
    Read,
    /// A deletion.
    Delete,
}

/// What was heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Nothing.
    Unknown,
    /// It was written, at this revision.
    Written(u64),
    /// It is this.
    Seen(Object),
    /// It was deleted by this.
    Done,
    /// There is nothing to delete.
    Nothing,
    /// It is deleted, and this write or deletion was not applied.
    Gone,
}

/// One operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operation {
    /// What.
    pub action: Action,
    /// When it began.
    pub began: u64,
    /// When its outcome was heard.
    pub ended: Option<u64>,
    /// The outcome.
    pub outcome: Outcome,
}

/// Most operations of one object that a run of the simulator notes.
pub const OPERATIONS_MAX: usize = 128;

/// Whether the operations can be put in an order that each outcome and each interval allows, beginning with `object`.
/// Every write has a value of its own.
#[must_use]
pub fn is_linearizable(object: Object, operations: &[Operation]) -> bool {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.began);
    let known = Known::of(&operations);
    let needed = operations.iter().filter(|operation| operation.ended.is_some()).count();
    let mut visited = HashSet::new();
    let mut stack = vec![(Done::none(operations.len()), needed, object)];
    while let Some((done, needed, object)) = stack.pop() {
        if needed == 0 {
            return true;
        }
        // What has ended must come before whatever began later.
        let mut first_end = u64::MAX;
        let mut open = Vec::new();
        let mut unseen = false;
        for at in done.others(operations.len()) {
            let operation = &operations[at];
            if operation.began > first_end {
                break;
            }
            first_end = first_end.min(operation.ended.unwrap_or(u64::MAX));
            // Writes without an end that nobody saw differ in their beginning alone: the first one stands for all.
            if operation.ended.is_none() && known.nobody_saw(operation) && std::mem::replace(&mut unseen, true) {
                continue;
            }
            open.push(at);
        }
        for at in open {
            let operation = &operations[at];
            if operation.began > first_end {
                continue;
            }
            let Some(next) = apply(object, operation).filter(|next| known.allows(operation, object, *next)) else {
                continue;
            };
            // Without an end and without an effect it may as well not have happened.
            if operation.ended.is_none() && next == object {
                continue;
            }
            let done = done.with(at);
            if visited.insert((done.clone(), next)) {
                stack.push((done, needed - usize::from(operation.ended.is_some()), next));
            }
        }
    }
    false
}

/// Which operations have been put in order; the places are those by beginning.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Done(Box<[u64]>);

impl Done {
    fn none(operations: usize) -> Done {
        Done(vec![0; operations.div_ceil(64)].into())
    }

    fn with(&self, at: usize) -> Done {
        let mut done = self.clone();
        done.0[at / 64] |= 1 << (at % 64);
        done
    }

    /// Places of the others, in order.
    fn others(&self, operations: usize) -> impl Iterator<Item = usize> {
        let words = self.0.iter().enumerate().filter(|(_, word)| **word != u64::MAX);
        words
            .flat_map(|(at, word)| {
                (0..64)
                    .filter(move |bit| word & (1 << bit) == 0)
                    .map(move |bit| at * 64 + bit)
            })
            .take_while(move |at| *at < operations)
    }
}

/// What outcomes say of revisions. Each is made by one write: so the search need not try what another outcome contradicts.
struct Known {
    /// The write of each revision that an outcome names.
    writes: HashMap<u64, u64>,
    /// The revision of each write that an outcome names.
    revisions: HashMap<u64, u64>,
}

impl Known {
    fn of(operations: &[Operation]) -> Known {
        let named = operations
            .iter()
            .filter_map(|operation| match (operation.action, operation.outcome) {
                (_, Outcome::Seen(Object::Is { write, revision }))
                | (Action::Put(write), Outcome::Written(revision)) => Some((write, revision)),
                _ => None,
            });
        Known {
            writes: named.clone().map(|(write, revision)| (revision, write)).collect(),
            revisions: named.collect(),
        }
    }

    fn nobody_saw(&self, operation: &Operation) -> bool {
        matches!(operation.action, Action::Put(write) if !self.revisions.contains_key(&write))
    }

    /// Whether no outcome contradicts what an operation makes of the object.
    fn allows(&self, operation: &Operation, before: Object, after: Object) -> bool {
        match (operation.action, after) {
            (Action::Put(_), Object::Is { write, revision }) if before != after => {
                self.writes.get(&revision).is_none_or(|known| *known == write)
                    && self.revisions.get(&write).is_none_or(|known| *known == revision)
            }
            _ => true,
        }
    }
}

/// The object after an operation with this outcome; `None` if it could not have it here.
fn apply(object: Object, operation: &Operation) -> Option<Object> {
    let unknown = operation.outcome == Outcome::Unknown;
    match (operation.action, object) {
        (Action::Put(_), Object::Deleted) => (unknown || operation.outcome == Outcome::Gone).then_some(object),
        (Action::Put(write), Object::Absent | Object::Is { .. }) => {
            let before = match object {
                Object::Is { revision, .. } => revision,
                Object::Absent | Object::Deleted => 0,
            };
            let revision = before + 1;
            (unknown || operation.outcome == Outcome::Written(revision)).then_some(Object::Is { write, revision })
        }
        (Action::Read, _) => (unknown || operation.outcome == Outcome::Seen(object)).then_some(object),
        (Action::Delete, Object::Is { .. }) => {
            (unknown || operation.outcome == Outcome::Done).then_some(Object::Deleted)
        }
        (Action::Delete, Object::Absent) => (unknown || operation.outcome == Outcome::Nothing).then_some(object),
        (Action::Delete, Object::Deleted) => (unknown || operation.outcome == Outcome::Gone).then_some(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, began: u64, ended: u64, outcome: Outcome) -> Operation {
        Operation {
            action,
            began,
            ended: Some(ended),
            outcome,
        }
    }

    fn open(action: Action, began: u64) -> Operation {
        Operation {
            action,
            began,
            ended: None,
            outcome: Outcome::Unknown,
        }
    }

    fn seen(write: u64, revision: u64) -> Outcome {
        Outcome::Seen(Object::Is { write, revision })
    }

    #[test]
    fn reads_between_writes_see_the_last_one() {
        let history = [
            operation(Action::Put(1), 0, 1, Outcome::Written(1)),
            operation(Action::Read, 2, 3, seen(1, 1)),
            operation(Action::Put(2), 4, 9, Outcome::Written(2)),
            operation(Action::Read, 5, 6, seen(1, 1)),
            operation(Action::Read, 7, 8, seen(2, 2)),
        ];
        assert!(is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn stale_read_is_found() {
        let history = [
            operation(Action::Put(1), 0, 1, Outcome::Written(1)),
            operation(Action::Put(2), 2, 3, Outcome::Written(2)),
            operation(Action::Read, 4, 5, seen(1, 1)),
        ];
        assert!(!is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn read_that_goes_back_is_found() {
        let history = [
            operation(Action::Put(1), 0, 1, Outcome::Written(1)),
            operation(Action::Put(2), 2, 20, Outcome::Written(2)),
            operation(Action::Read, 3, 4, seen(2, 2)),
            operation(Action::Read, 5, 6, seen(1, 1)),
        ];
        assert!(!is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn lost_write_is_found() {
        let history = [
            operation(Action::Put(1), 0, 1, Outcome::Written(1)),
            operation(Action::Put(2), 2, 3, Outcome::Written(2)),
            operation(Action::Put(3), 4, 5, Outcome::Written(2)),
        ];
        assert!(!is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn write_that_was_applied_twice_is_found() {
        let history = [
            operation(Action::Put(1), 0, 1, Outcome::Written(1)),
            operation(Action::Put(2), 2, 3, Outcome::Written(3)),
        ];
        assert!(!is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn deleted_object_that_comes_back_is_found() {
        let history = [
            operation(Action::Put(1), 0, 1, Outcome::Written(1)),
            operation(Action::Delete, 2, 3, Outcome::Done),
            operation(Action::Read, 4, 5, seen(1, 1)),
        ];
        assert!(!is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn long_history_with_many_writes_without_an_end_is_judged() {
        // Every third write has no end; of these every second one took effect and was seen.
        let mut history = Vec::new();
        let (mut at, mut revision) = (0, 0);
        for write in 1..=1_500 {
            at += 4;
            if write % 3 > 0 {
                revision += 1;
                history.push(operation(Action::Put(write), at, at + 6, Outcome::Written(revision)));
            } else {
                history.push(open(Action::Put(write), at));
                if write % 6 == 0 {
                    revision += 1;
                    history.push(operation(Action::Read, at + 1, at + 2, seen(write, revision)));
                }
            }
            history.push(operation(Action::Read, at + 8, at + 9, Outcome::Unknown));
        }
        let last = history.len();
        assert!(is_linearizable(Object::Absent, &history));
        history.push(operation(Action::Read, at + 20, at + 21, seen(1, 1)));
        assert!(!is_linearizable(Object::Absent, &history));
        // One that nobody saw explains one more revision, and no more than were begun.
        history[last] = operation(Action::Put(9_999), at + 20, at + 21, Outcome::Written(revision + 200));
        assert!(is_linearizable(Object::Absent, &history));
        history[last] = operation(Action::Put(9_999), at + 20, at + 21, Outcome::Written(revision + 300));
        assert!(!is_linearizable(Object::Absent, &history));
    }

    #[test]
    fn write_without_an_end_may_have_happened_or_not_but_only_once() {
        let before = operation(Action::Put(1), 0, 1, Outcome::Written(1));
        let lost = open(Action::Put(2), 2);
        for outcome in [seen(1, 1), seen(2, 2)] {
            assert!(is_linearizable(
                Object::Absent,
                &[before, lost, operation(Action::Read, 5, 6, outcome)]
            ));
        }
        let there_and_gone = [
            before,
            lost,
            operation(Action::Read, 5, 6, seen(2, 2)),
            operation(Action::Read, 7, 8, seen(1, 1)),
        ];
        assert!(!is_linearizable(Object::Absent, &there_and_gone));
    }
}
