//! Is a history of one object linearizable? The search of Wing and Gong with Lowe's memory of visited states.
//!
//! The object is a register that can be made, written, read and deleted; revisions count its writes, so that a lost or
//! repeated write shows in the next number. An operation without an end may have happened at any time after its
//! beginning, or not at all.

use std::collections::HashSet;

/// What an object is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Object {
    /// It was never made.
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

/// Most operations of one object.
pub const OPERATIONS_MAX: usize = 128;

/// Whether the operations can be put in an order that each outcome and each interval allows, beginning with `object`.
///
/// # Panics
///
/// With more than [`OPERATIONS_MAX`] operations.
#[must_use]
pub fn is_linearizable(object: Object, operations: &[Operation]) -> bool {
    assert!(operations.len() <= OPERATIONS_MAX, "one bit for each");
    let needed = operations
        .iter()
        .enumerate()
        .filter(|(_, operation)| operation.ended.is_some())
        .fold(0_u128, |set, (at, _)| set | 1 << at);
    let mut visited = HashSet::new();
    let mut stack = vec![(0_u128, object)];
    while let Some((done, object)) = stack.pop() {
        if done & needed == needed {
            return true;
        }
        // What has ended must come before whatever began later.
        let first_end = operations
            .iter()
            .enumerate()
            .filter(|(at, _)| done & (1 << at) == 0)
            .filter_map(|(_, operation)| operation.ended)
            .min()
            .unwrap_or(u64::MAX);
        for (at, operation) in operations.iter().enumerate() {
            if done & (1 << at) != 0 || operation.began > first_end {
                continue;
            }
            if let Some(next) = apply(object, operation) {
                let state = (done | 1 << at, next);
                if visited.insert(state) {
                    stack.push(state);
                }
            }
        }
    }
    false
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
