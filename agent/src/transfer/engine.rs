//! The driver of all moves of an agent: feeds machines with what happened, carries out what they ask for, groups it.
//!
//! One task owns every machine. What takes time (disk, librarian, network) runs elsewhere and comes back as [`Done`] or
//! [`Answer`]; all that gathers meanwhile goes out together, so that many small objects share commits, update messages and
//! packets without anybody planning a batch. Jobs of each kind are few at a time: what gathers while they run is the next batch.

mod drain;
mod forwards;
mod held;
mod incoming;
mod notes;
mod outgoing;
mod outside;
mod sharing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tracing::info;
use zones::{Address, ServerName};

use super::copying::{Arrival, Shipment};
use super::{Counters, TransferSettings};
use crate::clock::BootInstant;
use crate::migration::pace::Pace;
use crate::migration::window::Window;
use crate::migration::wire::{Either, Reply, Request};
use crate::migration::{destination, source};
use crate::objects::Local;
use crate::store::Entry;
use drain::Drain;
use forwards::Forwards;
use held::Door;
use incoming::Incoming;
use outgoing::Outgoing;
pub use outside::{Answer, Asked, Done, Frame, Job, Outside, Said, Wish};
use outside::{Ended, ToStepBack, Work};
use sharing::Sharing;

/// Names a machine; never used again.
pub type Id = u64;

/// Which side of a move a machine is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// This agent gives the object away.
    Source,
    /// This agent takes it.
    Destination,
    /// This agent owns it, and others hold copies of it.
    Owner,
    /// This agent holds a copy of another one's.
    Holder,
}

/// Commits of steps at a time: one in the index, the next in preparation.
const NOTES_RUNNING_MAX: usize = 2;
/// Steps in one commit.
const NOTES_MAX: usize = 512;
/// Jobs that open small copies at a time.
const SHIPPING_MAX: usize = 2;
/// Jobs that step properties back at a time.
const STEPPING_MAX: usize = 2;
/// Jobs that write small copies at a time.
const WRITING_MAX: usize = 2;
/// Small copies in one job.
const COPIES_MAX: usize = 512;
/// How often the engine looks around without an event.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the engine works with.
#[derive(Debug)]
pub struct Parts {
    /// This server.
    pub me: ServerName,
    /// Bounds and times.
    pub settings: TransferSettings,
    /// The objects.
    pub objects: Arc<Local>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// The driver of all moves of one agent. Feed it what happened, then let it take its turn; sleep until [`Engine::wake`].
pub struct Engine<O> {
    parts: Parts,
    outside: O,
    next_id: Id,
    outgoing: HashMap<Id, Outgoing>,
    outgoing_by_address: HashMap<Address, Id>,
    incoming: HashMap<Id, Incoming>,
    incoming_by_address: HashMap<Address, Id>,
    /// Earliest first; those that no machine has any more are passed over.
    timers: BinaryHeap<Reverse<(BootInstant, Side, Id)>>,
    window: Window,
    pace: Pace,
    door: Door,
    drain: Drain,
    /// Closings that wait for their place in the window.
    to_close: VecDeque<(Id, u32)>,
    /// Small copies to open.
    to_ship: VecDeque<(Id, Shipment)>,
    /// Properties to step back.
    to_step_back: VecDeque<ToStepBack>,
    stepping: usize,
    shipping: usize,
    /// Small copies to write.
    to_write: VecDeque<Arrival>,
    writing: usize,
    /// Octets of small copies that were reserved for, or are held for others, and are not over.
    small_octets: u64,
    to_note: notes::Waiting,
    noting: usize,
    /// Steps that are being made durable, and machines whose step the disk refused.
    noting_steps: usize,
    refused_steps: HashSet<(Side, Id)>,
    /// Copies that were given away, and when they may be removed; the earliest first.
    retired: VecDeque<(BootInstant, Arc<Entry>)>,
    /// Those of them that stay until a gate has let them go; none while this server is not being emptied.
    held: Vec<Arc<Entry>>,
    /// Machines that remove such copies now.
    reclaiming: usize,
    forwards: Forwards,
    /// Copies that stay beside their owner's.
    sharing: Sharing,
    /// Gates that wait for holders, or for a writer.
    closing: Vec<outgoing::Closing>,
    /// Number of the last copy that was received.
    copies: u64,
    /// When the last question about a register was sent that the librarian answered.
    heard: Option<BootInstant>,
}

impl<O: Outside> Engine<O> {
    /// An engine without a move.
    #[must_use]
    pub fn new(parts: Parts, outside: O) -> Engine<O> {
        let window = Window::new(parts.settings.window);
        let pace = Pace::new(parts.settings.pace);
        let door = Door::new(&parts.settings.window);
        Engine {
            parts,
            outside,
            next_id: 0,
            outgoing: HashMap::new(),
            outgoing_by_address: HashMap::new(),
            incoming: HashMap::new(),
            incoming_by_address: HashMap::new(),
            timers: BinaryHeap::new(),
            window,
            pace,
            door,
            drain: Drain::default(),
            to_close: VecDeque::new(),
            to_ship: VecDeque::new(),
            to_step_back: VecDeque::new(),
            stepping: 0,
            shipping: 0,
            to_write: VecDeque::new(),
            writing: 0,
            small_octets: 0,
            to_note: notes::Waiting::default(),
            noting: 0,
            noting_steps: 0,
            refused_steps: HashSet::new(),
            retired: VecDeque::new(),
            held: Vec::new(),
            reclaiming: 0,
            forwards: Forwards::default(),
            sharing: Sharing::default(),
            closing: Vec::new(),
            copies: 0,
            heard: None,
        }
    }

    /// What is around it.
    pub fn outside(&mut self) -> &mut O {
        &mut self.outside
    }

    /// Fires what is due, begins what is wanted, and hands out whatever gathered and has room to run.
    pub fn turn(&mut self) {
        self.look_at_clients();
        self.fire();
        self.let_in();
        self.share_out();
        self.seal_confirmed();
        let wanted = self.outside.wanted();
        self.reclaim(wanted.role());
        self.end_forwards();
        self.drain(wanted);
        self.flush();
    }

    /// Moves slower while clients wait.
    fn look_at_clients(&mut self) {
        let now = self.outside.now();
        if !self.pace.is_due(now) {
            return;
        }
        let moves = self.drain.is_on() || !self.outgoing.is_empty() || !self.incoming.is_empty();
        self.pace.look(now, self.outside.clients_wait(), moves);
        self.window.share(self.pace.share());
        self.parts.counters.paced(self.pace.share(), self.pace.slowed());
    }

    /// When the next timer is due. Beside it, take a turn every [`LOOK_EVERY`].
    #[must_use]
    pub fn wake(&self) -> Option<BootInstant> {
        self.timers.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Whether every step that was begun is durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.to_note.is_empty() && self.noting_steps == 0 && self.refused_steps.is_empty()
    }

    /// Takes messages of a peer.
    pub fn frames(&mut self, peer: &ServerName, frames: Vec<Frame>) {
        for (address, message, payload) in frames {
            match message {
                Either::Request(request) => self.requested(peer, address, request, payload),
                Either::Reply(reply) => self.replied(peer, &address, reply),
                Either::Copies(word) => self.said(peer, address, word, payload),
            }
        }
    }

    /// Takes the end of a job.
    pub fn done(&mut self, done: Done) {
        match done.0 {
            Ended::NotedBatch(noted) => {
                self.noting -= 1;
                for noted in noted {
                    self.noted(noted);
                }
            }
            Ended::Noted(noted) => self.noted(noted),
            Ended::WrittenLarge((id, number, outcome)) => self.written(id, number, outcome),
            Ended::Framed(framed) => {
                self.shipping -= 1;
                for (id, frame) in framed {
                    self.framed(id, frame);
                }
            }
            Ended::SteppedBack(stepped) => {
                self.stepping -= 1;
                for stepped in stepped {
                    self.stepped_back(stepped);
                }
            }
            Ended::Pledged(peer, done) => self.pledged(peer, done),
            Ended::Written(written) => {
                self.writing -= 1;
                for (id, number, outcome) in written {
                    self.written(id, number, outcome);
                }
            }
        }
    }

    /// Tells every machine of a peer that what was under way may be lost, and that there is a way again.
    pub fn renew(&mut self, peer: &ServerName) {
        let of_source = self
            .outgoing
            .iter()
            .filter(|(_, outgoing)| outgoing.machine.destination() == peer);
        let sources = of_source.map(|(id, _)| (Side::Source, *id));
        let of_destination = self
            .incoming
            .iter()
            .filter(|(_, incoming)| incoming.machine.source() == peer);
        let mut machines: Vec<_> = of_destination.map(|(id, _)| (Side::Destination, *id)).collect();
        machines.extend(sources);
        // In the order in which they began.
        machines.sort_unstable();
        for (side, id) in machines {
            match side {
                Side::Source => self.feed_source(id, source::Input::PeerLost),
                // A large copy that breaks off is told by its own stream, a small one never began.
                Side::Destination => self.feed_destination(id, destination::Input::PeerLost),
                Side::Owner | Side::Holder => {}
            }
        }
        self.share_renewed(peer);
    }

    /// Takes an answer of the librarian.
    pub fn answered(&mut self, mut answer: Answer) {
        let id = answer.id;
        if answer.generation != self.outside.generation() || !self.outside.is_trusted() {
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
            ) => {
                self.incoming_holders(id, register.as_ref());
                self.feed_destination(id, destination::Input::Register { question, register });
            }
            (Side::Destination, Said::Nothing { question }) => {
                self.feed_destination(id, destination::Input::NoAnswer { question });
            }
            (Side::Destination, Said::Changed(outcome)) => {
                self.feed_destination(id, destination::Input::Changed(outcome));
            }
            (side @ (Side::Owner | Side::Holder), said) => self.share_answered(side, id, said),
        }
    }

    /// Hands a wish to the librarian's task. If too many wait, it is as if no answer came.
    fn wish(&mut self, id: Id, side: Side, what: Asked) {
        let Err(wish) = self.outside.wish(Wish { id, side, what }) else {
            return;
        };
        let said = match wish.what {
            Asked::Read { question, .. } => Said::Nothing { question },
            Asked::Change { .. } => Said::Changed(crate::migration::ChangeOutcome::Unknown),
        };
        let generation = self.outside.generation();
        self.answered(Answer {
            id,
            side,
            generation,
            said,
        });
    }

    /// How many machines are in which state.
    #[must_use]
    pub fn states(&self, side: Side) -> BTreeMap<&'static str, usize> {
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
            Side::Owner | Side::Holder => Vec::new(),
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
            Side::Owner | Side::Holder => None,
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
        let now = self.outside.now();
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
                Side::Owner | Side::Holder => {}
            }
        }
    }

    /// Starts whatever gathered and has room to run.
    fn flush(&mut self) {
        self.close_gates();
        self.step_back();
        self.ship_small();
        self.write_small();
        self.note();
        self.parts.counters.open(self.window.objects(), self.incoming.len());
    }

    fn step_back(&mut self) {
        while self.stepping < STEPPING_MAX && !self.to_step_back.is_empty() {
            let count = self.to_step_back.len().min(COPIES_MAX);
            let entries: Vec<_> = self.to_step_back.drain(..count).collect();
            self.stepping += 1;
            self.outside.job(Job(Work::StepBack(entries)));
        }
    }

    fn ship_small(&mut self) {
        while self.shipping < SHIPPING_MAX && !self.to_ship.is_empty() {
            let count = self.to_ship.len().min(COPIES_MAX);
            let shipments: Vec<_> = self.to_ship.drain(..count).collect();
            self.shipping += 1;
            self.outside.job(Job(Work::Frame(shipments)));
        }
    }

    fn write_small(&mut self) {
        while self.writing < WRITING_MAX && !self.to_write.is_empty() {
            let count = self.to_write.len().min(COPIES_MAX);
            let arrivals: Vec<_> = self.to_write.drain(..count).collect();
            self.writing += 1;
            self.outside.job(Job(Work::Write(arrivals)));
        }
    }

    /// Takes up what a restart found open.
    pub fn recover(&mut self, open: Vec<Arc<Entry>>) {
        if !open.is_empty() {
            info!(moves = open.len(), "moves are taken up again");
        }
        self.recover_copies();
        for entry in open {
            if !self.recover_source(&entry) {
                self.recover_destination(&entry);
            }
        }
    }
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
