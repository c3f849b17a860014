//! What the engine has others do, and what it hears of it.
//!
//! The engine itself holds no socket, disk, task, clock or randomness. The shell ([`super::super::shell`]) is one outside,
//! of tasks and QUIC; a simulator is another.

use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tracing::error;
use zones::{Address, Register, ServerName};

use super::notes::{self, Note, Noted};
use super::outgoing::{SteppedBack, Then};
use super::{Id, Side};
use crate::clock::BootInstant;
use crate::control::Wanted;
use crate::migration::wire::Either;
use crate::migration::{ChangeOutcome, Question, UnexpectedInput};
use crate::objects::{Local, NotOwned, Objects};
use crate::store::Entry;
use crate::transfer::copying::{self, Arrival, Back, ShipFault, Shipment, Shipped, Written};

/// Everything around an engine.
pub trait Outside {
    /// The present moment.
    fn now(&self) -> BootInstant;

    /// Calendar time in milliseconds since 1970.
    fn unix_ms(&self) -> u64;

    /// 256 fresh random bits.
    fn seed(&mut self) -> [u8; 32];

    /// The 99th percentile of the time that clients of this server waited lately; `None` for too few of them.
    fn clients_wait(&self) -> Option<Duration> {
        None
    }

    /// What the controller wants of this server.
    fn wanted(&self) -> Wanted;

    /// Counts the registries that were believed so far; an answer asked for under another one counts for nothing.
    fn generation(&self) -> u64;

    /// Whether the registry that answers now is believed.
    fn is_trusted(&self) -> bool;

    /// Sends a message if there is a way to the peer; else it is lost, as on a network, and a way is sought.
    fn send(&mut self, peer: &ServerName, address: &Address, message: &Either);

    /// Sends frames of one object that were made before; false if there is no way to the peer.
    fn send_frames(&mut self, peer: &ServerName, address: &Address, frames: BytesMut) -> bool;

    /// Begins to send a large copy, whose end is told by [`super::Engine::shipped`]; false if there is no way to the peer.
    fn send_large(&mut self, id: Id, peer: &ServerName, shipment: Shipment) -> bool;

    /// Has work done; its end is told by [`super::Engine::done`].
    fn job(&mut self, job: Job);

    /// Asks or changes a register; the answer is told by [`super::Engine::answered`]. Given back if too many wait.
    ///
    /// # Errors
    ///
    /// The wish.
    fn wish(&mut self, wish: Wish) -> Result<(), Wish>;

    /// Queues new writes of an object and waits for the open one. What is found at once is returned, else it is told by
    /// [`super::Engine::closed`].
    fn close(&mut self, id: Id, number: u32, address: &Address) -> Option<Result<Arc<Entry>, NotOwned>>;

    /// A machine was told what it cannot have been told: the engine or its outside is at fault.
    fn wrong(&mut self, unexpected: &UnexpectedInput, address: &Address);

    /// A machine in this state is about to be told this.
    fn saw(&mut self, _side: Side, _state: &'static str, _input: &dyn std::fmt::Debug) {}
}

/// What a machine wants of the librarian.
#[derive(Debug)]
pub struct Wish {
    /// The machine.
    pub id: Id,
    /// Its side.
    pub side: Side,
    /// What it wants.
    pub what: Asked,
}

/// A question or a change.
#[derive(Debug)]
pub enum Asked {
    /// The register of an object, asked for now.
    Read {
        /// The object.
        address: Address,
        /// To be given back.
        question: Question,
    },
    /// A change by compare-and-swap.
    Change {
        /// The text that it must have.
        old: Box<Register>,
        /// The text that it gets.
        new: Box<Register>,
    },
}

/// What the librarian said.
#[derive(Debug)]
pub struct Answer {
    /// The machine.
    pub id: Id,
    /// Its side.
    pub side: Side,
    /// Of the trust in the registry, when it was asked.
    pub generation: u64,
    /// What was said.
    pub said: Said,
}

/// The words of the librarian, or its silence.
#[derive(Debug)]
pub enum Said {
    /// A register.
    Register {
        /// The question's number.
        question: Question,
        /// When it left.
        asked_at: BootInstant,
        /// The register; `None` if there is none of that very spelling.
        register: Option<Register>,
    },
    /// Nothing.
    Nothing {
        /// The question's number.
        question: Question,
    },
    /// How a change ended.
    Changed(ChangeOutcome),
}

/// Properties to be stepped back to a version, and what waits for it.
pub(super) type ToStepBack = (Id, Arc<Entry>, u32, Then);

/// Work that takes time: on a thread that may block, or at a moment of virtual time.
#[derive(Debug)]
pub struct Job(pub(super) Work);

#[derive(Debug)]
pub(super) enum Work {
    /// Opens small copies for their lanes.
    Frame(Vec<(Id, Shipment)>),
    /// Steps properties back for destinations of an older release.
    StepBack(Vec<ToStepBack>),
    /// Writes small copies and reads them back.
    Write(Vec<Arrival>),
    /// Promises a peer anew.
    Pledge(ServerName),
    /// Makes steps durable, in one commit.
    Note(Vec<Note>),
    /// Makes one step durable whose object was being written when its commit began.
    Alone(Box<Note>),
}

/// The end of a job.
#[derive(Debug)]
pub struct Done(pub(super) Ended);

/// A small copy in its frame.
type Framed = Result<(BytesMut, Shipped), ShipFault>;

pub(super) enum Ended {
    Framed(Vec<(Id, Framed)>),
    SteppedBack(Vec<SteppedBack>),
    Written(Vec<Written>),
    NotedBatch(Vec<Noted>),
    Noted(Noted),
    WrittenLarge(Written),
    Pledged(ServerName, bool),
}

impl Done {
    pub(crate) fn written_large(written: Written) -> Done {
        Done(Ended::WrittenLarge(written))
    }
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Ended::Framed(_) => "framed",
            Ended::SteppedBack(_) => "stepped back",
            Ended::Written(_) => "written",
            Ended::NotedBatch(_) => "noted together",
            Ended::Noted(_) => "noted",
            Ended::WrittenLarge(_) => "written large",
            Ended::Pledged(..) => "promised",
        })
    }
}

impl Job {
    /// What it is, for logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Work::Frame(_) => "open copies",
            Work::StepBack(_) => "step back",
            Work::Write(_) => "write copies",
            Work::Pledge(_) => "promise",
            Work::Note(_) | Work::Alone(_) => "note steps",
        }
    }

    /// The steps that it makes durable, by their names in the journal; none for other work.
    #[must_use]
    pub fn steps(&self) -> Vec<&'static str> {
        match &self.0 {
            Work::Frame(_) | Work::StepBack(_) | Work::Write(_) | Work::Pledge(_) => Vec::new(),
            Work::Note(notes) => notes.iter().map(Note::name).collect(),
            Work::Alone(note) => vec![note.name()],
        }
    }

    /// Does it; blocks. Beside its end it may give what has still to be done: steps whose object is being written.
    #[must_use]
    pub fn run(self, objects: &Local) -> (Option<Done>, Vec<Job>) {
        match self.0 {
            Work::Frame(shipments) => {
                let store = objects.store();
                let frame = |(id, shipment): (Id, Shipment)| match shipment.frame(store) {
                    Ok(frame) => (id, Ok((frame, shipment.shipped))),
                    Err(error) => {
                        let fault: &(dyn std::error::Error + 'static) = &error;
                        error!(object = %shipment.entry.address, fault, "a copy cannot be read");
                        (id, Err(ShipFault::from(&error)))
                    }
                };
                let framed = shipments.into_iter().map(frame).collect();
                (Some(Done(Ended::Framed(framed))), Vec::new())
            }
            Work::StepBack(entries) => {
                let back = |(id, entry, newest, then): ToStepBack| SteppedBack {
                    id,
                    then,
                    back: Back::make(&entry, newest, objects).map_err(|error| {
                        let fault: &(dyn std::error::Error + 'static) = &error;
                        error!(object = %entry.address, fault, "a copy cannot be read");
                        ShipFault::from(&error)
                    }),
                    entry,
                };
                let stepped = entries.into_iter().map(back).collect();
                (Some(Done(Ended::SteppedBack(stepped))), Vec::new())
            }
            Work::Write(arrivals) => {
                let written = copying::write_small(objects, arrivals);
                (Some(Done(Ended::Written(written))), Vec::new())
            }
            Work::Pledge(peer) => {
                let pledged = objects.store().pledge_anew(&peer);
                if let Err(error) = &pledged {
                    let error: &(dyn std::error::Error + 'static) = error;
                    error!(%peer, error, "a promise to another server is not durable");
                }
                (Some(Done(Ended::Pledged(peer, pledged.is_ok()))), Vec::new())
            }
            Work::Note(steps) => {
                let (noted, taken) = notes::commit(objects, steps);
                let later = taken.into_iter().map(|note| Job(Work::Alone(Box::new(note)))).collect();
                (Some(Done(Ended::NotedBatch(noted))), later)
            }
            Work::Alone(note) => {
                let (noted, taken) = notes::commit(objects, vec![*note]);
                let later = taken.into_iter().map(|note| Job(Work::Alone(Box::new(note)))).collect();
                (noted.into_iter().next().map(|noted| Done(Ended::Noted(noted))), later)
            }
        }
    }

    /// Does it, waiting for the object to be free; work of other kinds is done at once.
    pub(crate) async fn run_in_turn(self, objects: &Arc<Objects>) -> Option<Done> {
        match self.0 {
            Work::Alone(note) => Some(Done(Ended::Noted(notes::alone(objects, *note).await))),
            Work::Frame(_) | Work::StepBack(_) | Work::Write(_) | Work::Pledge(_) | Work::Note(_) => {
                self.run(objects.local()).0
            }
        }
    }
}

/// A message of a peer, with the octets that follow it.
pub type Frame = (Address, Either, Bytes);
