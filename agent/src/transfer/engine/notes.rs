//! Steps of machines on their way into the index, many in one commit.

use std::sync::Arc;

use tracing::{debug, error};
use zones::{Address, Epoch, ServerName, Tx};

use super::outside::Work;
use super::sharing::owners::Stood;
use super::{Engine, Id, Job, NOTES_MAX, NOTES_RUNNING_MAX, Outside, Side};
use crate::migration::guard::{Guard, stands};
use crate::migration::{destination, source};
use crate::objects::{BatchStep, Local, Objects, StepError, WriteGate};
use crate::store::{AuditNote, Change, Content, Digests, Entry, Journal, Keeping, Leaving, NewEntry, OpenWait};
use crate::transfer::copying::InHand;
use crate::transfer::engine::incoming::Incoming;
use crate::vault::Digest;

/// A step that waits for its commit.
pub(crate) struct Note {
    id: Id,
    side: Side,
    kind: Kind,
    name: &'static str,
    step: BatchStep,
}

impl Note {
    /// A step of a machine of copies.
    pub(super) fn new(id: Id, side: Side, kind: Kind, name: &'static str, step: BatchStep) -> Note {
        Note {
            id,
            side,
            kind,
            name,
            step,
        }
    }

    /// The step's name in the journal.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.name, address_of(&self.step))
    }
}

/// What follows from a step beside the machine's own state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// Who holds copies of the object is noted.
    Keeping,
    /// The object is another server's.
    Lost,
    /// The entry is the copy that is kept after the object was let go.
    Moved,
    /// The entry is the row of an arriving copy, and names all that is in hand.
    Row,
    /// The row is gone.
    NoRow,
    /// Only tidies up: an object that was deleted meanwhile needs it no more.
    Tidy,
    /// The end of a forward entry: no machine waits for it.
    ForwardEnd,
}

/// Steps that wait. Those of sealed objects go first: writers wait for them.
#[derive(Default)]
pub(crate) struct Waiting {
    sealed: Vec<Note>,
    others: Vec<Note>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.others.is_empty()
    }

    pub(super) fn push(&mut self, sealed: bool, note: Note) {
        match sealed {
            true => self.sealed.push(note),
            false => self.others.push(note),
        }
    }

    /// The steps of the next commit.
    fn next(&mut self) -> Vec<Note> {
        let mut next = std::mem::take(&mut self.sealed);
        let room = NOTES_MAX.saturating_sub(next.len());
        next.extend(self.others.drain(..self.others.len().min(room)));
        next
    }
}

/// The end of a step.
pub(crate) struct Noted {
    id: Id,
    side: Side,
    kind: Kind,
    outcome: Outcome,
}

enum Outcome {
    Durable(Option<Arc<Entry>>),
    NotOwned,
    Failed,
    /// The row is being changed by somebody else.
    Busy,
}

impl<O: Outside> Engine<O> {
    /// Writes a source's step with the next commit.
    pub(super) fn note_source(&mut self, id: Id, address: Address, step: source::Step) {
        if !stands(Guard::OnwardMove)
            && let (source::Step::Moving { .. }, Some(arrival)) = (&step, self.incoming_by_address.get(&address))
        {
            // The arrival that still waits would note the end of its wait in the row of the onward move.
            self.arrived(*arrival, &address, destination::Outcome::Owner);
        }
        let owned = |change: Box<dyn FnOnce(&Entry) -> NewEntry + Send>| BatchStep::Owned {
            address: address.clone(),
            change,
        };
        let (name, sealed) = match &step {
            source::Step::Moving { .. } => ("moving", false),
            source::Step::Sealed { .. } => ("sealed", true),
            source::Step::Active { .. } => ("active", true),
            source::Step::Moved { .. } => ("moved", true),
            source::Step::Deleted { .. } => ("deleted", true),
            source::Step::Forward { .. } => ("forward", false),
        };
        let (kind, step) = match step {
            source::Step::Moving { to, tx } => {
                let leaving = self.outgoing.get(&id).map(|outgoing| outgoing.order.leaving());
                (
                    Kind::Plain,
                    owned(Box::new(move |entry| NewEntry {
                        journal: Journal::Moving { to, tx },
                        leaving,
                        ..entry.keep()
                    })),
                )
            }
            source::Step::Sealed {
                to,
                tx,
                revision,
                digests,
            } => {
                let digests = Digests {
                    properties: digests.properties.map(Digest),
                    body: digests.body.map(Digest),
                };
                (
                    Kind::Plain,
                    owned(Box::new(move |entry| NewEntry {
                        journal: Journal::Sealed {
                            to,
                            tx,
                            revision,
                            digests,
                        },
                        leaving: Some(Leaving {
                            given: digests
                                .properties
                                .filter(|given| Some(*given) != entry.digests().properties),
                            ..entry.leaving.unwrap_or_default()
                        }),
                        ..entry.keep()
                    })),
                )
            }
            source::Step::Active { tx } => (
                Kind::Plain,
                owned(Box::new(move |entry| NewEntry {
                    journal: Journal::Active { wait: None },
                    tx: Some(tx),
                    leaving: None,
                    ..entry.keep()
                })),
            ),
            source::Step::Moved { owner, epoch } => {
                (Kind::Moved, owned(Box::new(move |entry| moved(entry, owner, epoch))))
            }
            source::Step::Deleted { epoch, tx } => {
                (Kind::Plain, owned(Box::new(move |entry| deleted(entry, epoch, tx))))
            }
            source::Step::Forward { owner, epoch } => {
                let Some(moved) = self.outgoing.get(&id).and_then(|outgoing| outgoing.moved.clone()) else {
                    // Its row is gone already.
                    self.feed_source(id, source::Input::Durable);
                    return;
                };
                // An object that has come back needs no way to it from here.
                let current = self.parts.objects.entry(&address);
                let forwards = current.as_ref().is_some_and(|current| current.seq == moved.seq);
                let seq = match stands(Guard::ReclaimByNumber) {
                    true => moved.seq,
                    false => current.map_or(moved.seq, |current| current.seq),
                };
                let change = forwards.then(|| NewEntry {
                    journal: Journal::Forward { to: owner, epoch },
                    properties: Content::Absent,
                    body: Content::Absent,
                    writes: Vec::new(),
                    leaving: None,
                    keeping: None,
                    ..moved.keep()
                });
                (Kind::Plain, BatchStep::Row { address, seq, change })
            }
        };
        let note = Note {
            id,
            side: Side::Source,
            kind,
            name,
            step,
        };
        self.to_note.push(sealed, note);
    }

    /// Writes a destination's step with the next commit.
    pub(super) fn note_destination(&mut self, id: Id, address: Address, step: destination::Step) {
        let Some(incoming) = self.incoming.get(&id) else { return };
        let reserve_for = self.parts.settings.machine.reservation;
        let (from, tx) = (incoming.machine.source().clone(), incoming.machine.tx());
        let arriving = |journal| BatchStep::Arriving {
            address: address.clone(),
            change: arriving(incoming, journal),
        };
        let (name, sealed) = match &step {
            destination::Step::Reserved => ("reserved", false),
            destination::Step::Staged => ("staged", false),
            destination::Step::Prepared => ("prepared", true),
            destination::Step::CommitSent { .. } => ("commit sent", true),
            destination::Step::Active { wait: true, .. } => ("taken", true),
            destination::Step::Active { wait: false, .. } => ("open", false),
            destination::Step::Moved { .. } => ("gone", false),
            destination::Step::Removed => ("dropped", false),
        };
        let (kind, step) = match step {
            destination::Step::Reserved => {
                let reserve_ms = u64::try_from(reserve_for.as_millis()).unwrap_or(u64::MAX);
                let journal = Journal::Reserved {
                    from,
                    tx,
                    octets: incoming.offer.octets,
                    expires_unix_ms: self.outside.unix_ms().saturating_add(reserve_ms),
                };
                (Kind::Row, arriving(journal))
            }
            destination::Step::Staged => (Kind::Row, arriving(Journal::Staged { from, tx })),
            destination::Step::Prepared => (Kind::Row, arriving(Journal::Prepared { from, tx })),
            destination::Step::CommitSent { commit_tx } => {
                (Kind::Row, arriving(Journal::CommitSent { from, tx, commit_tx }))
            }
            destination::Step::Active { tx, wait: true, .. } => {
                let unix_ms = self.outside.unix_ms();
                let others = incoming.others.clone();
                let change = Box::new(move |entry: &Entry| NewEntry {
                    keeping: (!others.is_empty()).then_some(Keeping { others, change: None }),
                    journal: Journal::Active {
                        wait: Some(OpenWait { from: from.clone() }),
                    },
                    tx: Some(tx),
                    from: Some(from),
                    received: None,
                    audit: Some(AuditNote { unix_ms }),
                    ..entry.keep()
                });
                let step = BatchStep::Arrived {
                    address,
                    writes: WriteGate::Held,
                    change,
                };
                (Kind::Row, step)
            }
            destination::Step::Active { wait: false, .. } => {
                let change = Box::new(|entry: &Entry| NewEntry {
                    journal: Journal::Active { wait: None },
                    ..entry.keep()
                });
                (Kind::Tidy, BatchStep::Owned { address, change })
            }
            destination::Step::Moved { owner, epoch } => {
                let change = Box::new(move |entry: &Entry| moved(entry, owner, epoch));
                (Kind::Tidy, BatchStep::Owned { address, change })
            }
            destination::Step::Removed => match incoming.row {
                Some(seq) => (
                    Kind::NoRow,
                    BatchStep::Row {
                        address,
                        seq,
                        change: None,
                    },
                ),
                None => {
                    self.feed_destination(id, destination::Input::Durable);
                    return;
                }
            },
        };
        let note = Note {
            id,
            side: Side::Destination,
            kind,
            name,
            step,
        };
        self.to_note.push(sealed, note);
    }

    /// Removes a forward entry with the next commit.
    pub(super) fn note_end_of_forward(&mut self, entry: &Entry) {
        let note = Note {
            id: self.new_id(),
            side: Side::Source,
            kind: Kind::ForwardEnd,
            name: "forward ended",
            step: BatchStep::Row {
                address: entry.address.clone(),
                seq: entry.seq,
                change: None,
            },
        };
        self.to_note.push(false, note);
    }

    /// Starts a commit of all steps that wait, unless enough are running.
    pub(super) fn note(&mut self) {
        while self.noting < NOTES_RUNNING_MAX && !self.to_note.is_empty() {
            let notes = self.to_note.next();
            self.noting += 1;
            self.noting_steps += notes.len();
            self.outside.job(Job(Work::Note(notes)));
        }
    }

    /// Tells the machine how its step ended.
    pub(super) fn noted(&mut self, noted: Noted) {
        let id = noted.id;
        self.noting_steps -= 1;
        if noted.kind == Kind::ForwardEnd {
            self.forwards.ended();
            return;
        }
        let stood = match &noted.outcome {
            Outcome::Durable(_) => Stood::Durable,
            Outcome::NotOwned => Stood::NotOwned,
            Outcome::Failed | Outcome::Busy => Stood::NotNow,
        };
        let entry = match &noted.outcome {
            Outcome::Durable(entry) => entry.clone(),
            Outcome::NotOwned | Outcome::Failed | Outcome::Busy => None,
        };
        match noted.side {
            Side::Owner => return self.owner_noted(id, noted.kind, entry, stood),
            Side::Holder => return self.holder_noted(id, entry, stood),
            Side::Source | Side::Destination => {}
        }
        let runs = match noted.side {
            Side::Source => self.outgoing.contains_key(&id),
            Side::Destination => self.incoming.contains_key(&id),
            Side::Owner | Side::Holder => false,
        };
        // A machine that ends takes its refused step with it: nobody tries that again.
        match &noted.outcome {
            Outcome::Failed if runs => self.refused_steps.insert((noted.side, id)),
            Outcome::Failed | Outcome::Durable(_) | Outcome::NotOwned | Outcome::Busy => {
                self.refused_steps.remove(&(noted.side, id))
            }
        };
        match (noted.side, noted.outcome) {
            (Side::Source, Outcome::Durable(entry)) => {
                match noted.kind {
                    Kind::Moved => self.kept(id, entry),
                    Kind::Plain
                    | Kind::Row
                    | Kind::NoRow
                    | Kind::Tidy
                    | Kind::ForwardEnd
                    | Kind::Keeping
                    | Kind::Lost => {}
                }
                self.feed_source(id, source::Input::Durable);
            }
            (Side::Source, Outcome::NotOwned) => self.taken_over(id),
            (Side::Source, Outcome::Failed | Outcome::Busy) => self.feed_source(id, source::Input::NotDurable),
            (Side::Destination, Outcome::Durable(entry)) => {
                if let Some(incoming) = self.incoming.get_mut(&id) {
                    match noted.kind {
                        Kind::Row => {
                            incoming.row = entry.map(|entry| entry.seq);
                            if let Some(in_hand) = &mut incoming.in_hand {
                                in_hand.noted();
                            }
                        }
                        Kind::NoRow => incoming.row = None,
                        Kind::Plain | Kind::Moved | Kind::Tidy | Kind::ForwardEnd | Kind::Keeping | Kind::Lost => {}
                    }
                }
                self.feed_destination(id, destination::Input::Durable);
            }
            (Side::Destination, Outcome::NotOwned) if noted.kind == Kind::Tidy => {
                self.feed_destination(id, destination::Input::Durable);
            }
            (Side::Destination, Outcome::NotOwned | Outcome::Failed | Outcome::Busy) => {
                self.feed_destination(id, destination::Input::NotDurable);
            }
            // They were told above.
            (Side::Owner | Side::Holder, _) => {}
        }
    }
}

/// The row of an object that another server owns now.
pub(super) fn moved(entry: &Entry, to: ServerName, epoch: Epoch) -> NewEntry {
    NewEntry {
        journal: Journal::Moved { to, epoch },
        keeping: None,
        ..entry.keep()
    }
}

/// The row of an object that is no more.
pub(super) fn deleted(entry: &Entry, epoch: Epoch, tx: Tx) -> NewEntry {
    NewEntry {
        journal: Journal::Tombstone { epoch, tx },
        epoch,
        tx: Some(tx),
        properties: Content::Absent,
        body: Content::Absent,
        leaving: None,
        keeping: None,
        ..entry.keep()
    }
}

/// The row of an arriving copy as it is to be. It has the epoch that the copy is to have, so that its keys are wrapped once.
fn arriving(incoming: &Incoming, journal: Journal) -> Change {
    let machine = &incoming.machine;
    let in_hand = incoming.in_hand.as_ref();
    let offer = &incoming.offer;
    let entry = NewEntry {
        address: machine.address().clone(),
        epoch: machine.epoch().next(),
        revision: in_hand.map_or(offer.revision, |in_hand| in_hand.copy.revision),
        kind: in_hand.map_or_else(|| offer.kind.clone(), |in_hand| in_hand.copy.kind.clone()),
        schema: in_hand.map_or(offer.schema, |in_hand| in_hand.form.schema),
        level: in_hand.map_or(offer.level, |in_hand| in_hand.copy.level),
        journal,
        properties: in_hand.map_or(Content::Absent, |in_hand| in_hand.properties()),
        body: in_hand.map_or(Content::Absent, |in_hand| in_hand.body()),
        writes: in_hand.map(|in_hand| in_hand.writes()).unwrap_or_default(),
        tx: None,
        from: Some(machine.source().clone()),
        received: in_hand.map(InHand::received),
        audit: None,
        quarantined: in_hand.and_then(|in_hand| in_hand.form.quarantined.clone()),
        migrated_from: in_hand.and_then(InHand::migrated_from),
        leaving: None,
        keeping: None,
    };
    match incoming.row {
        Some(seq) => Change::Replace { seq, entry },
        None => Change::Insert(entry),
    }
}

fn address_of(step: &BatchStep) -> Address {
    match step {
        BatchStep::Owned { address, .. }
        | BatchStep::Row { address, .. }
        | BatchStep::Arriving { address, .. }
        | BatchStep::Arrived { address, .. }
        | BatchStep::Keeping { address, .. }
        | BatchStep::Held { address, .. } => address.clone(),
    }
}

/// Makes steps durable in one commit; blocks. Those whose object is being written are given back, to be taken alone.
pub(super) fn commit(objects: &Local, notes: Vec<Note>) -> (Vec<Noted>, Vec<Note>) {
    let (whose, steps): (Vec<_>, Vec<_>) = notes
        .into_iter()
        .map(|note| {
            (
                (note.id, note.side, note.kind, note.name, address_of(&note.step)),
                note.step,
            )
        })
        .unzip();
    let outcomes = objects.batch_now(steps);
    let mut noted = Vec::with_capacity(outcomes.len());
    let mut taken = Vec::new();
    for ((id, side, kind, name, address), outcome) in whose.into_iter().zip(outcomes) {
        let outcome = match outcome {
            Ok(entry) => Outcome::Durable(entry),
            Err(StepError::Taken { change }) => {
                let step = BatchStep::Owned { address, change };
                taken.push(Note {
                    id,
                    side,
                    kind,
                    name,
                    step,
                });
                continue;
            }
            Err(error) => failed(&address, &error),
        };
        noted.push(Noted {
            id,
            side,
            kind,
            outcome,
        });
    }
    (noted, taken)
}

/// Makes one step durable in its object's turn.
pub(super) async fn alone(objects: &Arc<Objects>, note: Note) -> Noted {
    let Note {
        id, side, kind, step, ..
    } = note;
    let outcome = match step {
        BatchStep::Owned { address, change } => match objects.step(&address, change).await {
            Ok(entry) => Outcome::Durable(Some(entry)),
            Err(error) => failed(&address, &error),
        },
        BatchStep::Row { .. }
        | BatchStep::Arriving { .. }
        | BatchStep::Arrived { .. }
        | BatchStep::Keeping { .. }
        | BatchStep::Held { .. } => {
            unreachable!("only a step in its object's turn finds it taken")
        }
    };
    Noted {
        id,
        side,
        kind,
        outcome,
    }
}

fn failed(address: &Address, error: &StepError) -> Outcome {
    match error {
        StepError::NotOwned(_) => {
            debug!(object = %address, "a step of a move found its object taken over");
            Outcome::NotOwned
        }
        StepError::Visited => Outcome::Busy,
        StepError::Commit(_) | StepError::Together { .. } | StepError::Taken { .. } => {
            let error: &(dyn std::error::Error + 'static) = error;
            error!(object = %address, error, "a step of a move is not durable");
            Outcome::Failed
        }
    }
}
