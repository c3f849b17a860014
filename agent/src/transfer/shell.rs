//! The engine's outside in a running agent: tasks for disk and librarian, QUIC for peers, the system's clocks.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use quinn::{Connection, Endpoint};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zones::{Address, Domain, ServerName};

use super::copying::{Leave, ShipFault, Shipment, Shipped};
use super::engine::{Answer, Done, Engine, Frame, Id, Job, LOOK_EVERY, Outside, Side, Wish};
use super::large;
use super::quic::Identified;
use super::ways::Ways;
use crate::clock::{self, BootInstant};
use crate::control::Wanted;
use crate::membership::Revoked;
use crate::migration::UnexpectedInput;
use crate::migration::wire::{Copy, Either};
use crate::objects::{NotOwned, Objects};
use crate::register::Registers;
use crate::store::Entry;

/// Events that wait for the engine; whoever brings more waits.
pub(crate) const EVENTS_MAX: usize = 1024;
/// Events taken before what they led to goes out.
const EVENTS_A_TURN: usize = 64;

/// What happened outside.
pub(crate) enum Event {
    /// Messages of a peer.
    Frames {
        peer: ServerName,
        link: u64,
        frames: Vec<Frame>,
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
    /// Work is done.
    Done(Done),
    /// A gate is closed, or the object is no longer the move's.
    Closed(Id, u32, Result<Arc<Entry>, NotOwned>),
    /// A large copy was handed over; `None`: it broke off.
    Shipped(Id, Result<Shipped, ShipFault>),
    /// A peer sends a large copy.
    LargeOffer {
        peer: ServerName,
        link: u64,
        address: Address,
        copy: Box<Copy>,
        /// Whether it is to be held beside its owner's.
        kept: bool,
        leave: oneshot::Sender<Leave>,
    },
    /// Tell when every step that was begun before is durable.
    Barrier(oneshot::Sender<()>),
}

/// The outside of a running agent.
pub(crate) struct Shell {
    pub(crate) me: ServerName,
    pub(crate) domain: Domain,
    pub(crate) objects: Arc<Objects>,
    pub(crate) registers: Arc<Registers>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) endpoint: Endpoint,
    pub(crate) revoked: Revoked,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) wishes: mpsc::Sender<Wish>,
    pub(crate) stop: CancellationToken,
    pub(crate) ways: Ways,
    /// Who waits until every step is durable.
    pub(crate) barriers: Vec<oneshot::Sender<()>>,
}

impl Outside for Shell {
    fn now(&self) -> BootInstant {
        BootInstant::now()
    }

    fn unix_ms(&self) -> u64 {
        clock::unix_ms()
    }

    fn seed(&mut self) -> [u8; 32] {
        rand::random()
    }

    fn clients_wait(&self) -> Option<Duration> {
        self.objects.clients_wait()
    }

    fn wanted(&self) -> Wanted {
        self.wanted.borrow().clone()
    }

    fn generation(&self) -> u64 {
        self.registers.trust().generation()
    }

    fn is_trusted(&self) -> bool {
        self.registers.trust().is_trusted()
    }

    fn send(&mut self, peer: &ServerName, address: &Address, message: &Either) {
        match self.ways.link(peer) {
            Some(link) => link.send(address, message, &[]),
            None => self.dial(peer),
        }
    }

    fn send_frames(&mut self, peer: &ServerName, address: &Address, frames: BytesMut) -> bool {
        match self.ways.link(peer) {
            Some(link) => {
                link.send_frames(address, &frames);
                true
            }
            None => false,
        }
    }

    fn send_large(&mut self, id: Id, peer: &ServerName, shipment: Shipment) -> bool {
        let Some(link) = self.ways.link(peer) else {
            self.dial(peer);
            return false;
        };
        large::ship(
            id,
            link.connection.clone(),
            Arc::clone(self.objects.store()),
            shipment,
            self.events.clone(),
        );
        true
    }

    fn job(&mut self, job: Job) {
        let (objects, events) = (Arc::clone(&self.objects), self.events.clone());
        tokio::spawn(async move {
            let local = Arc::clone(objects.local());
            let ran = tokio::task::spawn_blocking(move || job.run(&local));
            let (done, later) = ran.await.expect("work on the store does not panic");
            for job in later {
                let (objects, events) = (Arc::clone(&objects), events.clone());
                tokio::spawn(async move {
                    if let Some(done) = job.run_in_turn(&objects).await {
                        drop(events.send(Event::Done(done)).await);
                    }
                });
            }
            if let Some(done) = done {
                drop(events.send(Event::Done(done)).await);
            }
        });
    }

    fn wish(&mut self, wish: Wish) -> Result<(), Wish> {
        self.wishes
            .try_send(wish)
            .map_err(mpsc::error::TrySendError::into_inner)
    }

    fn close(&mut self, id: Id, number: u32, address: &Address) -> Option<Result<Arc<Entry>, NotOwned>> {
        let (objects, address) = (Arc::clone(&self.objects), address.clone());
        let mut closing = async move { objects.seal(&address).await }.boxed();
        let closed = (&mut closing).now_or_never();
        if closed.is_none() {
            let events = self.events.clone();
            tokio::spawn(async move {
                let closed = closing.await;
                drop(events.send(Event::Closed(id, number, closed)).await);
            });
        }
        closed
    }

    /// That is this crate's fault, and the machine stands still.
    fn wrong(&mut self, unexpected: &UnexpectedInput, address: &Address) {
        debug_assert!(false, "{address}: {unexpected}");
        error!(%address, %unexpected, "a move was told something that it did not ask for");
    }
}

impl Engine<Shell> {
    /// Takes up what a restart found open, then runs until told to stop.
    pub(crate) async fn run(mut self, open: Vec<Arc<Entry>>, mut inbox: mpsc::Receiver<Event>) {
        self.recover(open);
        let stop = self.outside().stop.clone();
        let objects = Arc::clone(self.outside().objects.local());
        loop {
            self.turn();
            if self.is_durable() {
                for barrier in self.outside().barriers.drain(..) {
                    // Who waited may have gone.
                    let _ = barrier.send(());
                }
            }
            let now = BootInstant::now();
            let wake = self
                .wake()
                .map_or(LOOK_EVERY, |at| at.saturating_since(now).min(LOOK_EVERY));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
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
                () = objects.news() => {}
                () = tokio::time::sleep(wake) => {}
            }
        }
        self.outside().ways.close();
        info!(
            outgoing = ?self.states(Side::Source),
            incoming = ?self.states(Side::Destination),
            "moves stop; the next start takes up what is open"
        );
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Frames { peer, link, frames } => {
                if self.outside().ways.is_current(&peer, link) {
                    self.frames(&peer, frames);
                }
            }
            Event::Linked {
                connection,
                identified,
                dialed,
            } => {
                if let Some(peer) = self.outside().linked(connection, identified, dialed) {
                    // What was sent before, or could not be, is sent again.
                    self.renew(&peer);
                }
            }
            Event::LinkLost { peer, link } => {
                if self.outside().ways.lost(&peer, link) {
                    self.renew(&peer);
                }
            }
            Event::DialFailed { peer } => self.outside().ways.dial_failed(&peer),
            Event::Answers(answers) => {
                for answer in answers {
                    self.answered(answer);
                }
            }
            Event::Done(done) => self.done(done),
            Event::Barrier(barrier) => self.outside().barriers.push(barrier),
            Event::Closed(id, number, closed) => self.closed(id, number, closed),
            Event::Shipped(id, shipped) => self.shipped(id, shipped),
            Event::LargeOffer {
                peer,
                link,
                address,
                copy,
                kept,
                leave,
            } => {
                if self.outside().ways.is_current(&peer, link)
                    && let Some(granted) = self.large_offered(&peer, &address, &copy, kept)
                    && let Err(refused) = leave.send(granted)
                {
                    self.done(refused.broken());
                }
            }
        }
    }
}
