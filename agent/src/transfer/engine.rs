//! The driver of all moves of an agent: feeds machines with what happened, carries out what they ask for, groups it.
//!
//! One task owns every machine. What takes time (disk, librarian, network) runs elsewhere and comes back as an [`Event`]; all
//! that gathers meanwhile goes out together, so that many small objects share commits, update messages and packets without
//! anybody planning a batch. Jobs of each kind are few at a time: what gathers while they run is the next batch.

mod drain;
mod incoming;
mod links;
mod notes;
mod outgoing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use quinn::{Connection, Endpoint};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zones::{Address, Domain, ServerName};

use super::copying::{Arrival, Shipment, Shipped, Written};
use super::large::Leave;
use super::librarian::{Answer, Asked, Said, Wish};
use super::quic::Identified;
use super::{Counters, TransferSettings};
use crate::clock::BootInstant;
use crate::control::Wanted;
use crate::migration::window::Window;
use crate::migration::wire::{Copy, Either, Reply, Request};
use crate::migration::{UnexpectedInput, destination, source};
use crate::objects::{NotOwned, Objects};
use crate::register::Registers;
use crate::store::{Entry, Store};
use drain::Drain;
use incoming::Incoming;
use links::Peers;
use notes::Noted;
use outgoing::Outgoing;

/// Names a machine; never used again.
pub(crate) type Id = u64;

/// Which side of a move a machine is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Side {
    /// This agent gives the object away.
    Source,
    /// This agent takes it.
    Destination,
}

/// Events that wait for the engine; whoever brings more waits.
pub(crate) const EVENTS_MAX: usize = 1024;
/// Events taken before what they led to goes out.
const EVENTS_A_TURN: usize = 64;
/// Commits of steps at a time: one in the index, the next in preparation.
const NOTES_RUNNING_MAX: usize = 2;
/// Steps in one commit.
const NOTES_MAX: usize = 512;
/// Jobs that open small copies at a time.
const SHIPPING_MAX: usize = 2;
/// Jobs that write small copies at a time.
const WRITING_MAX: usize = 2;
/// Small copies in one job.
const COPIES_MAX: usize = 512;
/// How often the engine looks around without an event.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What happened outside.
pub(crate) enum Event {
    /// Messages of a peer.
    Frames {
        peer: ServerName,
        link: u64,
        frames: Vec<(Address, Either, Bytes)>,
    },
    /// A connection is there.
    Linked {
        connection: Connection,
        identified: Identified,
        dialed: bool,
    },
    /// A connection is gone.
    LinkLost { peer: ServerName, link: u64 },
    /// A peer was not reached.
    DialFailed { peer: ServerName },
    /// The librarian answered, or did not.
    Answers(Vec<Answer>),
    /// The steps of one commit are durable, or not.
    NotedBatch(Vec<Noted>),
    /// A step that was taken alone is durable, or not.
    Noted(Noted),
    /// Small copies are ready for their lanes.
    Framed(Vec<(Id, Option<(BytesMut, Shipped)>)>),
    /// Copies were handed over; `None`: they broke off.
    Shipped(Vec<(Id, Option<Shipped>)>),
    /// Small copies were written and read back, or not.
    WrittenSmall(Vec<Written>),
    /// A large copy was written and read back, or not.
    WrittenLarge(Written),
    /// A peer sends a large copy.
    LargeOffer {
        peer: ServerName,
        link: u64,
        address: Address,
        copy: Box<Copy>,
        leave: oneshot::Sender<Leave>,
    },
    /// Tell when every step that was begun before is durable.
    Barrier(oneshot::Sender<()>),
}

type Closing = BoxFuture<'static, (Id, u32, Result<Arc<Entry>, NotOwned>)>;

/// What the engine works with.
pub(crate) struct Parts {
    pub(crate) me: ServerName,
    pub(crate) domain: Domain,
    pub(crate) settings: TransferSettings,
    pub(crate) objects: Arc<Objects>,
    pub(crate) store: Arc<Store>,
    pub(crate) registers: Arc<Registers>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) endpoint: Endpoint,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) wishes: mpsc::Sender<Wish>,
    pub(crate) stop: CancellationToken,
}

pub(crate) struct Engine {
    parts: Parts,
    next_id: Id,
    outgoing: HashMap<Id, Outgoing>,
    outgoing_by_address: HashMap<Address, Id>,
    incoming: HashMap<Id, Incoming>,
    incoming_by_address: HashMap<Address, Id>,
    /// Earliest first; those that no machine has any more are passed over.
    timers: BinaryHeap<Reverse<(BootInstant, Side, Id)>>,
    peers: Peers,
    window: Window,
    drain: Drain,
    /// Closings that wait for their place in the window.
    to_close: VecDeque<(Id, u32)>,
    closings: FuturesUnordered<Closing>,
    /// Small copies to open.
    to_ship: VecDeque<(Id, Shipment)>,
    shipping: usize,
    /// Small copies to write.
    to_write: VecDeque<Arrival>,
    writing: usize,
    /// Octets of small copies that were reserved for and are not over.
    small_octets: u64,
    to_note: notes::Waiting,
    noting: usize,
    /// Steps that are being made durable, and machines whose step the disk refused.
    noting_steps: usize,
    refused_steps: HashSet<(Side, Id)>,
    /// Who waits until there are none.
    barriers: Vec<oneshot::Sender<()>>,
    /// Copies that were given away, and when they may be removed; the earliest first.
    retired: VecDeque<(BootInstant, Arc<Entry>)>,
    /// Machines that remove such copies now.
    reclaiming: usize,
    /// Number of the last copy that was received.
    copies: u64,
    /// When the last question about a register was sent that the librarian answered.
    heard: Option<BootInstant>,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Engine {
        let window = Window::new(parts.settings.window);
        Engine {
            parts,
            next_id: 0,
            outgoing: HashMap::new(),
            outgoing_by_address: HashMap::new(),
            incoming: HashMap::new(),
            incoming_by_address: HashMap::new(),
            timers: BinaryHeap::new(),
            peers: Peers::default(),
            window,
            drain: Drain::default(),
            to_close: VecDeque::new(),
            closings: FuturesUnordered::new(),
            to_ship: VecDeque::new(),
            shipping: 0,
            to_write: VecDeque::new(),
            writing: 0,
            small_octets: 0,
            to_note: notes::Waiting::default(),
            noting: 0,
            noting_steps: 0,
            refused_steps: HashSet::new(),
            barriers: Vec::new(),
            retired: VecDeque::new(),
            reclaiming: 0,
            copies: 0,
            heard: None,
        }
    }

    /// Takes up what a restart found open, then runs until told to stop.
    pub(crate) async fn run(mut self, open: Vec<Arc<Entry>>, mut inbox: mpsc::Receiver<Event>) {
        self.recover(open);
        let stop = self.parts.stop.clone();
        loop {
            self.flush();
            let now = BootInstant::now();
            let wake = self.timers.peek().map_or(LOOK_EVERY, |Reverse((at, _, _))| {
                at.saturating_since(now).min(LOOK_EVERY)
            });
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((id, number, closed)) = self.closings.next(), if !self.closings.is_empty() => {
                    self.closed(id, number, closed);
                }
                event = inbox.recv() => match event {
                    Some(event) => {
                        self.take(event);
                        for _ in 1..EVENTS_A_TURN {
                            match inbox.try_recv() {
                                Ok(event) => self.take(event),
                                Err(_) => break,
                            }
                        }
                    }
                    None => break,
                },
                () = tokio::time::sleep(wake) => {}
            }
            self.fire();
            self.reclaim();
            self.drain();
            if self.to_note.is_empty() && self.noting_steps == 0 && self.refused_steps.is_empty() {
                for barrier in self.barriers.drain(..) {
                    // Who waited may have gone.
                    let _ = barrier.send(());
                }
            }
        }
        self.peers.close();
        info!(
            outgoing = ?self.states(Side::Source),
            incoming = ?self.states(Side::Destination),
            "moves stop; the next start takes up what is open"
        );
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Frames { peer, link, frames } => {
                if !self.peers.is_current(&peer, link) {
                    return;
                }
                for (address, message, payload) in frames {
                    match message {
                        Either::Request(request) => self.requested(&peer, address, request, payload),
                        Either::Reply(reply) => self.replied(&peer, &address, reply),
                    }
                }
            }
            Event::Linked {
                connection,
                identified,
                dialed,
            } => self.linked(connection, identified, dialed),
            Event::LinkLost { peer, link } => self.link_lost(&peer, link),
            Event::DialFailed { peer } => self.peers.dial_failed(&peer),
            Event::Answers(answers) => {
                for answer in answers {
                    self.answered(answer);
                }
            }
            Event::NotedBatch(noted) => {
                self.noting -= 1;
                for noted in noted {
                    self.noted(noted);
                }
            }
            Event::Noted(noted) => self.noted(noted),
            Event::Framed(framed) => {
                self.shipping -= 1;
                for (id, frame) in framed {
                    self.framed(id, frame);
                }
            }
            Event::Shipped(shipped) => {
                for (id, shipped) in shipped {
                    self.shipped(id, shipped);
                }
            }
            Event::WrittenSmall(written) => {
                self.writing -= 1;
                for (id, number, outcome) in written {
                    self.written(id, number, outcome);
                }
            }
            Event::WrittenLarge((id, number, outcome)) => self.written(id, number, outcome),
            Event::Barrier(barrier) => self.barriers.push(barrier),
            Event::LargeOffer {
                peer,
                link,
                address,
                copy,
                leave,
            } => {
                if self.peers.is_current(&peer, link) {
                    self.large_offered(&peer, &address, *copy, leave);
                }
            }
        }
    }

    fn answered(&mut self, mut answer: Answer) {
        let id = answer.id;
        let trust = self.parts.registers.trust();
        if answer.generation != trust.generation() || !trust.is_trusted() {
            // Of a registry that is not believed, or was before another one came: it counts for nothing.
            answer.said = match answer.said {
                Said::Register { question, .. } | Said::Nothing { question } => Said::Nothing { question },
                Said::Changed(_) => Said::Changed(crate::migration::ChangeOutcome::Unknown),
            };
        }
        match &answer.said {
            Said::Register { asked_at, .. } => self.heard = self.heard.max(Some(*asked_at)),
            Said::Nothing { .. } | Said::Changed(_) => {}
        }
        match (answer.side, answer.said) {
            (
                Side::Source,
                Said::Register {
                    question,
                    asked_at,
                    register,
                },
            ) => self.feed_source(
                id,
                source::Input::Register {
                    question,
                    asked_at,
                    register,
                },
            ),
            (Side::Source, Said::Nothing { question }) => self.feed_source(id, source::Input::NoAnswer { question }),
            (Side::Source, Said::Changed(outcome)) => self.feed_source(id, source::Input::Changed(outcome)),
            (
                Side::Destination,
                Said::Register {
                    question,
                    asked_at: _,
                    register,
                },
            ) => self.feed_destination(id, destination::Input::Register { question, register }),
            (Side::Destination, Said::Nothing { question }) => {
                self.feed_destination(id, destination::Input::NoAnswer { question });
            }
            (Side::Destination, Said::Changed(outcome)) => {
                self.feed_destination(id, destination::Input::Changed(outcome));
            }
        }
    }

    /// Hands a wish to the librarian's task. If too many wait, it is as if no answer came.
    fn wish(&mut self, id: Id, side: Side, what: Asked) {
        let Err(refused) = self.parts.wishes.try_send(Wish { id, side, what }) else {
            return;
        };
        let wish = refused.into_inner();
        let said = match wish.what {
            Asked::Read { question, .. } => Said::Nothing { question },
            Asked::Change { .. } => Said::Changed(crate::migration::ChangeOutcome::Unknown),
        };
        let generation = self.parts.registers.trust().generation();
        self.answered(Answer {
            id,
            side,
            generation,
            said,
        });
    }

    /// How many machines are in which state.
    fn states(&self, side: Side) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        let names: Vec<_> = match side {
            Side::Source => self
                .outgoing
                .values()
                .map(|outgoing| outgoing.machine.state_name())
                .collect(),
            Side::Destination => self
                .incoming
                .values()
                .map(|incoming| incoming.machine.state_name())
                .collect(),
        };
        for name in names {
            *states.entry(name).or_default() += 1;
        }
        states
    }

    fn new_id(&mut self) -> Id {
        self.next_id += 1;
        self.next_id
    }

    /// Sets the timer of a machine, if it is due earlier than known.
    fn set_timer(&mut self, side: Side, id: Id, due: Option<BootInstant>) {
        let known = match side {
            Side::Source => self.outgoing.get_mut(&id).map(|outgoing| &mut outgoing.timer),
            Side::Destination => self.incoming.get_mut(&id).map(|incoming| &mut incoming.timer),
        };
        if let (Some(known), Some(due)) = (known, due)
            && known.is_none_or(|known| due < known)
        {
            *known = Some(due);
            self.timers.push(Reverse((due, side, id)));
        }
    }

    /// Fires what is due.
    fn fire(&mut self) {
        let now = BootInstant::now();
        while let Some(Reverse((at, side, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match side {
                Side::Source => {
                    let Some(outgoing) = self.outgoing.get_mut(&id).filter(|outgoing| outgoing.timer == Some(at))
                    else {
                        continue;
                    };
                    outgoing.timer = None;
                    outgoing.machine.handle_timeout(now);
                    self.run_source(id);
                }
                Side::Destination => {
                    let Some(incoming) = self.incoming.get_mut(&id).filter(|incoming| incoming.timer == Some(at))
                    else {
                        continue;
                    };
                    incoming.timer = None;
                    incoming.machine.handle_timeout(now);
                    self.run_destination(id);
                }
            }
        }
    }

    /// Starts whatever gathered and has room to run.
    fn flush(&mut self) {
        self.close_gates();
        self.ship_small();
        self.write_small();
        self.note();
        self.parts.counters.open(self.window.objects(), self.incoming.len());
    }

    fn ship_small(&mut self) {
        while self.shipping < SHIPPING_MAX && !self.to_ship.is_empty() {
            let count = self.to_ship.len().min(COPIES_MAX);
            let shipments: Vec<_> = self.to_ship.drain(..count).collect();
            let (store, events) = (Arc::clone(&self.parts.store), self.parts.events.clone());
            self.shipping += 1;
            tokio::spawn(async move {
                let framed = tokio::task::spawn_blocking(move || {
                    let frame = |(id, shipment): (Id, Shipment)| match shipment.frame(&store) {
                        Ok(frame) => (id, Some((frame, shipment.shipped))),
                        Err(fault) => {
                            let fault: &(dyn std::error::Error + 'static) = &fault;
                            error!(address = %shipment.entry.address, fault, "a copy cannot be read");
                            (id, None)
                        }
                    };
                    shipments.into_iter().map(frame).collect()
                });
                let framed = framed.await.expect("opening copies does not panic");
                drop(events.send(Event::Framed(framed)).await);
            });
        }
    }

    fn write_small(&mut self) {
        while self.writing < WRITING_MAX && !self.to_write.is_empty() {
            let count = self.to_write.len().min(COPIES_MAX);
            let arrivals: Vec<_> = self.to_write.drain(..count).collect();
            let (store, events) = (Arc::clone(&self.parts.store), self.parts.events.clone());
            self.writing += 1;
            tokio::spawn(async move {
                let written = tokio::task::spawn_blocking(move || super::copying::write_small(&store, arrivals));
                let written = written.await.expect("writing copies does not panic");
                drop(events.send(Event::WrittenSmall(written)).await);
            });
        }
    }

    fn recover(&mut self, open: Vec<Arc<Entry>>) {
        if !open.is_empty() {
            info!(moves = open.len(), "moves are taken up again");
        }
        for entry in open {
            if !self.recover_source(&entry) {
                self.recover_destination(&entry);
            }
        }
    }
}

/// A machine was told what it cannot have been told: that is this file's fault, and the machine stands still.
fn wrong(unexpected: &UnexpectedInput, address: &Address) {
    debug_assert!(false, "{address}: {unexpected}");
    error!(%address, %unexpected, "a move was told something that it did not ask for");
}

/// Fresh random bits for one machine.
fn seed() -> [u8; 32] {
    rand::random()
}

/// Whether a request opens nothing and changes nothing when no machine takes it.
fn needs_answer(request: &Request) -> Option<zones::Tx> {
    match request {
        Request::Open { tx, .. } | Request::Seal { tx, .. } | Request::Ask { tx, .. } => Some(*tx),
        Request::Copy(copy) => Some(copy.tx),
        Request::Reserve { .. } | Request::FenceAnswered { .. } | Request::Abort { .. } => None,
    }
}

/// What this agent says to a request for a move that is not open here.
fn answer_without_machine(owned: Option<zones::Epoch>, tx: zones::Tx) -> Reply {
    match owned {
        Some(epoch) => Reply::Fenced { epoch },
        None => Reply::Dropped { tx },
    }
}
