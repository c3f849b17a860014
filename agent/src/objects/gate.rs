//! The gates of one object: who may write now, who may read, who is moving it.
//!
//! An object has at most one *turn*: whoever holds it is the only one that may change the object. Writes take it in the
//! order in which they came; a create or delete keeps it until the register has settled; a move *holds* the turns from its
//! seal on, so that writes queue. All of an idle object's gates are no memory at all.
//!
//! ```text
//!          take                    drop / next in line
//!  free ---------> turn taken --------------------------> free
//!    `---hold---> held (after the open turn has ended) --release--> next in line
//! ```
//!
//! Knows nothing of entries, disks or registers; the caller keeps it inside the lock of the object's slot.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, oneshot};

use crate::clock::BootInstant;
use crate::objects::words::ReadGate;

/// The gates of one object. `T` is what a waiting write is handed when its turn comes.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    /// Somebody holds the turn.
    taken: bool,
    /// Whoever holds it waits for other servers, and lets the row change meanwhile.
    resting: bool,
    /// Who holds copies is being noted in the row.
    visited: bool,
    /// A move or an open wait keeps turns back.
    held: bool,
    /// Whether reads pass.
    reads: ReadGate,
    /// A move of the object is open.
    moving: bool,
    /// The open move is no longer wanted.
    cancelled: bool,
    /// Writes in line, first come first.
    line: VecDeque<Waiting<T>>,
    /// Wakes whoever waits for a change of the object: reads, the move, a hold waiting for the open turn.
    changed: Arc<Notify>,
}

/// One write in line.
#[derive(Debug)]
struct Waiting<T> {
    since: BootInstant,
    turn: oneshot::Sender<T>,
}

/// What asking for a turn gave.
#[derive(Debug)]
pub(crate) enum Asked<T> {
    /// The turn is the asker's now.
    Taken,
    /// It comes through here.
    InLine(oneshot::Receiver<T>),
    /// The line is at its bound.
    Full,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Gate {
            taken: false,
            resting: false,
            visited: false,
            held: false,
            reads: ReadGate::Open,
            moving: false,
            cancelled: false,
            line: VecDeque::new(),
            changed: Arc::new(Notify::new()),
        }
    }
}

impl<T> Gate<T> {
    /// Whether nothing would be lost if the gates were forgotten.
    pub(crate) fn is_idle(&self) -> bool {
        !self.taken
            && !self.visited
            && !self.held
            && self.reads == ReadGate::Open
            && !self.moving
            && self.line.is_empty()
            && Arc::strong_count(&self.changed) == 1
    }

    /// Asks for the turn; behind everyone who asked before.
    pub(crate) fn ask(&mut self, now: BootInstant, line_max: usize) -> Asked<T> {
        if !self.taken && !self.visited && !self.held && self.line.is_empty() {
            self.taken = true;
            return Asked::Taken;
        }
        if self.line.len() >= line_max {
            // Those who gave up waiting still stand in line: make room before refusing.
            self.line.retain(|waiting| !waiting.turn.is_closed());
        }
        if self.line.len() >= line_max {
            return Asked::Full;
        }
        let (sender, receiver) = oneshot::channel();
        self.line.push_back(Waiting {
            since: now,
            turn: sender,
        });
        Asked::InLine(receiver)
    }

    /// Takes the turn past the line, if nobody has it: for the journal of an open move. Works also while held.
    pub(crate) fn take_now(&mut self) -> bool {
        let free = !self.taken && !self.visited;
        self.taken |= free;
        free
    }

    /// The holder of the turn waits for other servers: the row may change until [`Gate::resume`].
    pub(crate) fn rest(&mut self) {
        assert!(self.taken, "only the holder of the turn rests");
        self.resting = true;
    }

    /// Whether somebody has the turn and waits for other servers.
    pub(crate) fn is_resting(&self) -> bool {
        self.resting
    }

    /// The holder of the turn goes on; false as long as the row is being changed.
    pub(crate) fn resume(&mut self) -> bool {
        self.resting = self.visited;
        !self.visited
    }

    /// Begins to note in the row who holds copies; false if somebody else may change it now. Works also while held: what is noted
    /// is no part of the object.
    pub(crate) fn visit(&mut self) -> bool {
        let free = !self.visited && (!self.taken || self.resting);
        self.visited |= free;
        free
    }

    /// Ends that, and finds who is next.
    pub(crate) fn end_visit(&mut self) -> Option<Next<T>> {
        self.visited = false;
        self.changed.notify_waiters();
        self.next()
    }

    /// Ends the turn and finds who is next. The caller hands the turn over with [`Next::hand_over`].
    pub(crate) fn end_turn(&mut self) -> Option<Next<T>> {
        assert!(self.taken, "only the holder of the turn ends it");
        self.taken = false;
        self.resting = false;
        self.changed.notify_waiters();
        self.next()
    }

    /// Keeps turns back from now on. The open turn still runs: wait until [`Gate::is_taken`] is false.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// Lets turns go on, and finds who is next.
    pub(crate) fn release(&mut self) -> Option<Next<T>> {
        self.held = false;
        self.changed.notify_waiters();
        self.next()
    }

    /// Whether somebody may be changing the row.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken || self.visited
    }

    /// Whether anybody waits in line.
    #[cfg(test)]
    pub(crate) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// Since when the first write that still waits has waited.
    pub(crate) fn waits_since(&self) -> Option<BootInstant> {
        let mut waiting = self.line.iter().filter(|waiting| !waiting.turn.is_closed());
        waiting.next().map(|waiting| waiting.since)
    }

    /// Whether turns are kept back.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// Opens or closes reads.
    pub(crate) fn set_reads(&mut self, reads: ReadGate) {
        self.reads = reads;
        self.changed.notify_waiters();
    }

    /// Whether a read that looks at `now` may be answered.
    pub(crate) fn reads_pass(&self, now: BootInstant) -> bool {
        match self.reads {
            ReadGate::Open => true,
            ReadGate::Until(end) => now < end,
            ReadGate::Held => false,
        }
    }

    /// Notes that a move is open; false if one was already.
    pub(crate) fn begin_move(&mut self) -> bool {
        !std::mem::replace(&mut self.moving, true)
    }

    /// Notes that no move is open.
    pub(crate) fn end_move(&mut self) {
        self.moving = false;
        self.cancelled = false;
    }

    /// Tells the open move, if there is one, that it is no longer wanted.
    pub(crate) fn cancel_move(&mut self) {
        self.cancelled = self.moving;
        self.changed.notify_waiters();
    }

    /// Whether the open move is no longer wanted.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Resolves at the next change of the object or its gates, counted from this call.
    pub(crate) fn changed(&self) -> OwnedNotified {
        Arc::clone(&self.changed).notified_owned()
    }

    /// Tells everyone who waits that the object changed.
    pub(crate) fn notify(&self) {
        self.changed.notify_waiters();
    }

    fn next(&mut self) -> Option<Next<T>> {
        if self.taken || self.visited || self.held {
            return None;
        }
        let waiting = self.line.pop_front()?.turn;
        self.taken = true;
        Some(Next { waiting })
    }
}

/// Who is next in line; the turn is already marked as taken for them.
#[must_use = "the turn is taken until it is handed over"]
#[derive(Debug)]
pub(crate) struct Next<T> {
    waiting: oneshot::Sender<T>,
}

impl<T> Next<T> {
    /// Hands the turn over. Who has stopped waiting drops it, and dropping a turn ends it.
    pub(crate) fn hand_over(self, turn: T) {
        drop(self.waiting.send(turn));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type TestGate = Gate<u32>;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_millis(ms))
    }

    fn in_line(gate: &mut TestGate) -> oneshot::Receiver<u32> {
        match gate.ask(at(0), 8) {
            Asked::InLine(receiver) => receiver,
            other @ (Asked::Taken | Asked::Full) => panic!("{other:?}"),
        }
    }

    #[test]
    fn turns_come_in_the_order_of_asking() {
        let mut gate = TestGate::default();
        assert!(matches!(gate.ask(at(0), 8), Asked::Taken));
        let mut first = in_line(&mut gate);
        let mut second = in_line(&mut gate);
        gate.end_turn().unwrap().hand_over(1);
        assert_eq!(first.try_recv(), Ok(1));
        assert!(second.try_recv().is_err());
        gate.end_turn().unwrap().hand_over(2);
        assert_eq!(second.try_recv(), Ok(2));
        assert!(gate.end_turn().is_none());
        assert!(gate.is_idle());
    }

    #[test]
    fn held_gate_gives_no_turn_until_released() {
        let mut gate = TestGate::default();
        assert!(matches!(gate.ask(at(0), 8), Asked::Taken));
        gate.hold();
        let mut waiting = in_line(&mut gate);
        assert!(gate.end_turn().is_none());
        assert!(!gate.is_taken());
        assert!(waiting.try_recv().is_err());
        gate.release().unwrap().hand_over(7);
        assert_eq!(waiting.try_recv(), Ok(7));
    }

    #[test]
    fn write_that_gave_up_waits_no_more() {
        let mut gate = TestGate::default();
        gate.hold();
        let Asked::InLine(first) = gate.ask(at(10), 8) else {
            panic!()
        };
        let Asked::InLine(_second) = gate.ask(at(20), 8) else {
            panic!()
        };
        assert_eq!(gate.waits_since(), Some(at(10)));
        drop(first);
        assert_eq!(gate.waits_since(), Some(at(20)));
    }

    #[test]
    fn full_line_refuses_but_not_for_those_who_left() {
        let mut gate = TestGate::default();
        assert!(matches!(gate.ask(at(0), 1), Asked::Taken));
        let waiting = match gate.ask(at(0), 1) {
            Asked::InLine(receiver) => receiver,
            other @ (Asked::Taken | Asked::Full) => panic!("{other:?}"),
        };
        assert!(matches!(gate.ask(at(0), 1), Asked::Full));
        drop(waiting);
        assert!(matches!(gate.ask(at(0), 1), Asked::InLine(_)));
    }

    #[test]
    fn row_is_visited_only_while_nobody_changes_it_and_the_next_turn_waits_for_that() {
        let mut gate = TestGate::default();
        assert!(matches!(gate.ask(at(0), 8), Asked::Taken));
        let mut next = in_line(&mut gate);
        assert!(!gate.visit(), "whoever has the turn changes the row");
        gate.rest();
        assert!(gate.visit() && !gate.visit());
        assert!(!gate.resume(), "the row is being changed");
        assert!(gate.end_turn().is_none());
        assert!(next.try_recv().is_err() && gate.is_taken());
        assert!(!gate.take_now(), "nor does a move take it");
        gate.end_visit().unwrap().hand_over(3);
        assert_eq!(next.try_recv(), Ok(3));
        gate.rest();
        assert!(gate.resume() && !gate.visit());
    }

    #[test]
    fn read_passes_only_before_its_end() {
        let mut gate = TestGate::default();
        gate.set_reads(ReadGate::Until(at(2000)));
        assert!(gate.reads_pass(at(1999)));
        assert!(!gate.reads_pass(at(2000)));
        gate.set_reads(ReadGate::Held);
        assert!(!gate.reads_pass(at(0)));
    }

    #[tokio::test]
    async fn change_between_asking_and_waiting_is_not_missed() {
        let gate = TestGate::default();
        let changed = gate.changed();
        gate.notify();
        changed.await;
    }
}
