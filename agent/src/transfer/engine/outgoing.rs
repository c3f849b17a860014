//! The objects on their way out: the driver of [`Source`].

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tracing::{debug, error, info, warn};
use zones::{Address, Role, ServerName};

use super::{Asked, Engine, Id, Outside, Side};
use crate::clock::BootInstant;
use crate::migration::guard::{Guard, stands};
use crate::migration::source::{self, Action, Input, Offer, Outcome, Recovered, Source, SourceJournal, Why};
use crate::migration::wire::{Either, Reply, Request};
use crate::migration::{Digests, Settings};
use crate::objects::{Busy, MoveGuard, NotOwned};
use crate::store::{Entry, Journal, Leaving};
use crate::transfer::copying::{Back, ShipFault, Shipment, Shipped};
use crate::vault::StreamId;

/// Longest seal budget of an object whose seals were broken before.
const SEAL_BUDGET_MAX: Duration = Duration::from_secs(2);
/// How long a move that is about to seal waits until holders confirm what is here. Then it is given up: while it is open, holders
/// that are gone cannot be dropped.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// Machines that remove copies at a time.
const RECLAIMING_MAX: usize = 256;

/// One object on its way out.
pub(super) struct Outgoing {
    pub(super) machine: Source,
    pub(super) timer: Option<BootInstant>,
    octets: u64,
    /// The copy that is kept after the object was let go.
    pub(super) moved: Option<Arc<Entry>>,
    shipped: Option<Shipped>,
    /// The newest version of the object's type that the destination reads, if it has versions of it.
    newest: Option<u32>,
    /// What became of the properties of one stream that the destination does not read.
    back: Option<(StreamId, Option<Back>)>,
    /// What asked for the move.
    pub(super) order: Order,
    /// The number of the closing that is wanted.
    closing: Option<u32>,
    /// Since when it takes a place among the sealed.
    sealed_since: Option<BootInstant>,
    /// Since when it could be sealed, if all holders had what is here.
    unconfirmed_since: Option<BootInstant>,
    /// Whether it takes a place in the window.
    counted: bool,
    /// Whether all it does is to remove a copy that was given away.
    reclaims: bool,
    _guard: Option<MoveGuard>,
}

/// A gate that is being closed, or is closed over what holders have not confirmed.
pub(super) struct Closing {
    id: Id,
    number: u32,
    /// The row at which it is closed; none while a writer is still at work.
    closed: Option<Arc<Entry>>,
}

/// What asked for a move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Order {
    /// How it asked.
    pub(super) how: &'static str,
    /// The plan.
    pub(super) plan: u64,
    /// Whether this server is being emptied into the other one: then the copy that is left behind stays until a gate has let it go.
    pub(super) gated: bool,
}

impl Order {
    /// As the log of moves names it. The plan is named where its gate counts the move: of one that a server makes while it serves the
    /// copy that is left behind goes before the gate, so the other side must not count it either.
    fn actor(self) -> String {
        match self.gated {
            true => format!("{}, plan {}", self.how, self.plan),
            false => self.how.to_owned(),
        }
    }

    /// What the row keeps of it.
    pub(super) fn leaving(self) -> Leaving {
        Leaving {
            plan: self.plan,
            gated: self.gated,
            given: None,
        }
    }
}

/// What becomes of copies that were given away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Retirement {
    /// Each stays for the grace period.
    ByGrace,
    /// Those that left because the server is being emptied stay until the gate is through, the others for the grace period.
    Held,
    /// The gate is through: none is kept.
    AtOnce,
}

impl Retirement {
    /// In a role; `None` before the controller has said something.
    fn in_role(role: Option<Role>) -> Retirement {
        match role {
            _ if !stands(Guard::RetiredUntilGate) => Retirement::ByGrace,
            Some(Role::Cordoned | Role::Draining) | None => Retirement::Held,
            Some(Role::Empty | Role::Free | Role::Upgrading | Role::Validating) => Retirement::AtOnce,
            Some(Role::Serving | Role::Reserve | Role::Refilling | Role::Failed | Role::Quarantined) => {
                Retirement::ByGrace
            }
        }
    }
}

/// What waits for properties that are being stepped back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    /// The copy is sent.
    Ship {
        /// What the destination has.
        staged: Option<u64>,
    },
    /// The gate is closed, and the object sealed.
    Seal {
        /// The closing's number.
        number: u32,
    },
}

/// What became of properties that a destination does not read.
pub(crate) struct SteppedBack {
    pub(super) id: Id,
    pub(super) entry: Arc<Entry>,
    pub(super) then: Then,
    pub(super) back: Result<Option<Back>, ShipFault>,
}

impl Outgoing {
    /// The version that the properties of an entry have still to be stepped back to, if they have.
    fn has_to_step_back(&self, entry: &Entry) -> Option<u32> {
        let stream = entry.properties.as_ref()?.id;
        let known = self.back.as_ref().is_some_and(|(of, _)| *of == stream);
        self.newest.filter(|newest| entry.schema > *newest && !known)
    }

    /// The properties of an entry as they are sent, if not as they are.
    fn back_of(&self, entry: &Entry) -> Option<&Back> {
        let stream = entry.properties.as_ref()?.id;
        self.back
            .as_ref()
            .filter(|(of, _)| *of == stream)
            .and_then(|(_, back)| back.as_ref())
    }
}

/// What an entry offers.
pub(super) fn offer(entry: &Entry) -> Offer {
    Offer {
        kind: entry.kind.clone(),
        schema: entry.schema,
        level: entry.level,
        revision: entry.revision,
        octets: entry.plain_octets(),
    }
}

pub(super) fn digests(entry: &Entry) -> Digests {
    let digests = entry.digests();
    Digests {
        properties: digests.properties.map(|digest| digest.0),
        body: digests.body.map(|digest| digest.0),
    }
}

impl<O: Outside> Engine<O> {
    /// Begins to move an object; why not, if it cannot be now.
    pub(super) fn begin(
        &mut self,
        address: &Address,
        to: &ServerName,
        broken_seals: u32,
        order: Order,
    ) -> Result<(), Busy> {
        if self.outgoing_by_address.contains_key(address) {
            return Err(Busy::Moving);
        }
        if let Some(id) = self.incoming_by_address.get(address)
            && (stands(Guard::OnwardMove) || !self.incoming[id].machine.is_waiting())
        {
            return Err(Busy::Moving);
        }
        let entry = self.parts.objects.entry(address).ok_or(Busy::NotOwned)?;
        // Holders change before a move or after it; only a revision that all of them have can be sealed; and no object goes where
        // a copy of it is.
        let is_there = entry.others().contains(to);
        // A write that waits for holders, or a new object for its copies, waits for what may not be while it moves.
        let is_waited_for = self.parts.objects.is_resting(address);
        if is_there || is_waited_for || self.are_holders_changing(address) || !self.may_give_away(&entry) {
            return Err(Busy::Opening);
        }
        let guard = self.parts.objects.begin_move(address)?;
        let in_wait = match &entry.journal {
            Journal::Active { wait } => wait.is_some(),
            Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::CreateSent { .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. }
            | Journal::Held { .. } => return Err(Busy::NotOwned),
        };
        let begin = source::Begin {
            me: self.parts.me.clone(),
            to: to.clone(),
            address: address.clone(),
            epoch: entry.epoch,
            offer: offer(&entry),
            in_wait,
            seed: self.outside.seed(),
        };
        let settings = &self.parts.settings.machine;
        let longer = settings.seal_budget * 2u32.pow(broken_seals.min(5));
        let settings = Settings {
            seal_budget: longer.min(SEAL_BUDGET_MAX).max(settings.seal_budget),
            ..*settings
        };
        let machine = Source::begin(self.outside.now(), begin, settings).map_err(|_| Busy::Opening)?;
        let octets = entry.plain_octets();
        self.window.open(octets);
        self.add_outgoing(machine, octets, None, Some(guard), order);
        Ok(())
    }

    fn add_outgoing(
        &mut self,
        machine: Source,
        octets: u64,
        reclaims: Option<Arc<Entry>>,
        guard: Option<MoveGuard>,
        order: Order,
    ) {
        let id = self.new_id();
        if reclaims.is_none() {
            self.outgoing_by_address.insert(machine.address().clone(), id);
        }
        let outgoing = Outgoing {
            machine,
            timer: None,
            octets,
            counted: reclaims.is_none(),
            reclaims: reclaims.is_some(),
            moved: reclaims,
            shipped: None,
            newest: None,
            back: None,
            order,
            closing: None,
            sealed_since: None,
            unconfirmed_since: None,
            _guard: guard,
        };
        self.outgoing.insert(id, outgoing);
        self.run_source(id);
    }

    /// Takes up a move that a restart found open; false if the entry is none of a source.
    pub(super) fn recover_source(&mut self, entry: &Arc<Entry>) -> bool {
        let (to, tx, journal) = match &entry.journal {
            Journal::Moving { to, tx } => (to, *tx, SourceJournal::Moving),
            Journal::Sealed { to, tx, .. } => (to, *tx, SourceJournal::Sealed),
            Journal::Moved { .. } => {
                self.retire(Arc::clone(entry));
                return true;
            }
            Journal::Active { .. }
            | Journal::CreateSent { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. }
            | Journal::Held { .. } => return false,
        };
        let recovered = Recovered {
            me: self.parts.me.clone(),
            to: to.clone(),
            address: entry.address.clone(),
            epoch: entry.epoch,
            tx,
            offer: offer(entry),
            journal,
            seed: self.outside.seed(),
        };
        let machine = Source::recover(self.outside.now(), recovered, self.parts.settings.machine);
        let octets = entry.plain_octets();
        self.window.open(octets);
        let guard = self.parts.objects.begin_move(&entry.address).ok();
        let known = entry.leaving.unwrap_or_else(|| Leaving {
            // Of a release that did not keep it; no older plan can have asked.
            plan: self.outside.wanted().plan,
            ..Leaving::default()
        });
        let order = Order {
            how: "taken up after a restart",
            plan: known.plan,
            gated: known.gated,
        };
        self.add_outgoing(machine, octets, None, guard, order);
        true
    }

    /// Keeps a copy that was given away for the grace period. It needs no machine meanwhile: the journal answers.
    pub(super) fn retire(&mut self, entry: Arc<Entry>) {
        let due = self.outside.now() + self.parts.settings.machine.grace;
        self.retired.push_back((due, entry));
    }

    /// Removes copies whose time is over, few at a time.
    pub(super) fn reclaim(&mut self, role: Option<Role>) {
        let now = self.outside.now();
        let retirement = Retirement::in_role(role);
        while self.reclaiming < RECLAIMING_MAX {
            let held = match retirement {
                Retirement::Held => None,
                Retirement::ByGrace | Retirement::AtOnce => self.held.pop(),
            };
            let over = |due: BootInstant| retirement == Retirement::AtOnce || due <= now;
            let next = held.or_else(|| self.retired.pop_front_if(|(due, _)| over(*due)).map(|(_, entry)| entry));
            let Some(entry) = next else { break };
            if retirement == Retirement::Held && entry.leaving.is_some_and(|leaving| leaving.gated) {
                self.held.push(entry);
                continue;
            }
            let (to, epoch) = match &entry.journal {
                Journal::Moved { to, epoch } => (to.clone(), *epoch),
                Journal::Active { .. }
                | Journal::Moving { .. }
                | Journal::Sealed { .. }
                | Journal::CreateSent { .. }
                | Journal::Forward { .. }
                | Journal::DeleteSent { .. }
                | Journal::Tombstone { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. }
                | Journal::Held { .. } => continue,
            };
            let recovered = Recovered {
                me: self.parts.me.clone(),
                to: to.clone(),
                address: entry.address.clone(),
                epoch: entry.epoch,
                tx: zones::Tx([0; 16]),
                offer: offer(&entry),
                journal: SourceJournal::Moved { owner: to, epoch },
                seed: self.outside.seed(),
            };
            // The grace period is over.
            let settings = Settings {
                grace: Duration::ZERO,
                ..self.parts.settings.machine
            };
            let machine = Source::recover(now, recovered, settings);
            self.reclaiming += 1;
            let order = Order {
                how: "",
                plan: 0,
                gated: false,
            };
            self.add_outgoing(machine, 0, Some(entry), None, order);
        }
    }

    pub(super) fn feed_source(&mut self, id: Id, input: Input) {
        let Some(outgoing) = self.outgoing.get_mut(&id) else {
            return;
        };
        let machine = &mut outgoing.machine;
        self.outside.saw(Side::Source, machine.state_name(), &input);
        if let Err(unexpected) = machine.handle_input(self.outside.now(), input) {
            self.outside.wrong(&unexpected, machine.address());
        }
        self.run_source(id);
    }

    pub(super) fn run_source(&mut self, id: Id) {
        while let Some(outgoing) = self.outgoing.get_mut(&id) {
            let Some(action) = outgoing.machine.poll_action() else {
                break;
            };
            let address = outgoing.machine.address().clone();
            match action {
                Action::Read { question } => self.wish(id, Side::Source, Asked::Read { address, question }),
                Action::Change { old, new } => self.wish(id, Side::Source, Asked::Change { old, new }),
                Action::Send(request) => {
                    let peer = outgoing.machine.destination().clone();
                    self.outside.send(&peer, &address, &Either::Request(request));
                }
                Action::Ship { staged } => self.ship(id, &address, staged),
                Action::Close { number, staged: _ } => {
                    outgoing.closing = Some(number);
                    self.to_close.push_back((id, number));
                }
                Action::AskWriters => {
                    let since = self.parts.objects.writes_wait_since(&address);
                    self.feed_source(id, Input::Writers { since });
                }
                Action::Unseal => {
                    outgoing.closing = None;
                    self.parts.objects.unseal(&address);
                    self.unsealed(id, false);
                }
                Action::Reads(reads) => self.parts.objects.set_reads(&address, reads),
                Action::Persist(step) => self.note_source(id, address, step),
                Action::LetGo { owner, epoch } => {
                    debug!(object = %address, %owner, %epoch, "object let go");
                    self.parts.objects.unseal(&address);
                    self.forget_owner(&address);
                    self.let_go(id, &address);
                    return;
                }
                Action::Ended(outcome) => {
                    self.ended(id, &address, outcome);
                    return;
                }
            }
        }
        let due = self
            .outgoing
            .get(&id)
            .and_then(|outgoing| outgoing.machine.poll_timeout());
        self.set_timer(Side::Source, id, due);
    }

    /// The object is another's, durably: what is left is a copy to remove later.
    fn let_go(&mut self, id: Id, address: &Address) {
        self.unsealed(id, false);
        self.uncount(id);
        self.refused_steps.remove(&(Side::Source, id));
        if let Some(outgoing) = self.outgoing.remove(&id) {
            self.outgoing_by_address.remove(address);
            self.parts.counters.moved_out(outgoing.octets);
            self.drain.settled(address);
            if let Some(moved) = outgoing.moved {
                self.retire(moved);
            }
        }
    }

    fn ended(&mut self, id: Id, address: &Address, outcome: Outcome) {
        let broken = outcome == Outcome::Stayed(Why::SealBudget);
        self.unsealed(id, broken);
        self.uncount(id);
        self.refused_steps.remove(&(Side::Source, id));
        if let Some(outgoing) = self.outgoing.remove(&id) {
            if outgoing.reclaims {
                self.reclaiming -= 1;
                return;
            }
            self.outgoing_by_address.remove(address);
            let peer = outgoing.machine.destination();
            match outcome {
                Outcome::Moved => self.drain.settled(address),
                Outcome::Stayed(why) => {
                    debug!(object = %address, target = %peer, ?why, "object stays for now");
                    self.parts.counters.stayed();
                    self.drain.failed(address, peer, why, self.outside.now());
                    if why == Why::Unreadable {
                        error!(
                            object = %address,
                            "an object stays on this server since its copy cannot be read: `agent check` lists all that is \
                             damaged; write it anew or delete it, or repair the disk. It is tried again every minute"
                        );
                    }
                }
                Outcome::Superseded => self.drain.settled(address),
            }
        }
    }

    /// It no longer takes a place in the window.
    fn uncount(&mut self, id: Id) {
        if let Some(outgoing) = self.outgoing.get_mut(&id)
            && std::mem::take(&mut outgoing.counted)
        {
            self.window.close(outgoing.octets);
        }
    }

    /// It no longer takes a place among the sealed.
    fn unsealed(&mut self, id: Id, broken: bool) {
        if let Some(outgoing) = self.outgoing.get_mut(&id)
            && let Some(since) = outgoing.sealed_since.take()
        {
            self.window.unseal(self.outside.now() - since, broken);
        }
    }

    fn ship(&mut self, id: Id, address: &Address, staged: Option<u64>) {
        let entry = self.parts.objects.entry(address);
        let Some(outgoing) = self.outgoing.get_mut(&id) else {
            return;
        };
        let Some(entry) = entry.filter(|entry| entry.epoch == outgoing_epoch(outgoing)) else {
            self.feed_source(id, Input::TakenOver);
            return;
        };
        if let Some(newest) = outgoing.has_to_step_back(&entry) {
            self.to_step_back.push_back((id, entry, newest, Then::Ship { staged }));
            return;
        }
        let back = outgoing.back_of(&entry).cloned();
        let shipment = Shipment::new(entry, outgoing.machine.tx(), staged, outgoing.shipped, back)
            .asked_by(&outgoing.order.actor());
        if shipment.is_small() {
            self.to_ship.push_back((id, shipment));
            return;
        }
        let peer = outgoing.machine.destination().clone();
        if !self.outside.send_large(id, &peer, shipment) {
            self.feed_source(id, Input::PeerLost);
        }
    }

    /// A small copy is ready for its lane.
    pub(super) fn framed(&mut self, id: Id, frame: Result<(BytesMut, Shipped), ShipFault>) {
        if self.is_for_holder(id) {
            return self.copy_framed(id, frame);
        }
        let Some(outgoing) = self.outgoing.get_mut(&id) else {
            return;
        };
        let (frame, shipped) = match frame {
            Ok(frame) => frame,
            Err(fault) => {
                self.shipped(id, Err(fault));
                return;
            }
        };
        let (peer, address) = (outgoing.machine.destination(), outgoing.machine.address());
        if self.outside.send_frames(peer, address, frame) {
            self.shipped(id, Ok(shipped));
        } else {
            self.feed_source(id, Input::PeerLost);
        }
    }

    /// A copy was handed over whole, or not.
    pub fn shipped(&mut self, id: Id, shipped: Result<Shipped, ShipFault>) {
        if self.is_for_holder(id) {
            return self.sent(id, shipped.ok());
        }
        let Some(outgoing) = self.outgoing.get_mut(&id) else {
            return;
        };
        match shipped {
            Ok(shipped) => {
                outgoing.shipped = Some(shipped);
                let revision = shipped.revision;
                self.feed_source(id, Input::Shipped { revision });
            }
            Err(ShipFault::Broken) => self.feed_source(id, Input::ShipFailed),
            Err(ShipFault::Unreadable) => self.feed_source(id, Input::Unreadable),
        }
    }

    /// Closes gates as far as the window lets: writers wait as little as possible.
    pub(super) fn close_gates(&mut self) {
        while let Some((id, number)) = self.to_close.front().copied() {
            let wanted = self
                .outgoing
                .get(&id)
                .is_some_and(|outgoing| outgoing.closing == Some(number));
            if !wanted {
                self.to_close.pop_front();
                continue;
            }
            if !self.window.seal() {
                return;
            }
            self.to_close.pop_front();
            let outgoing = self.outgoing.get_mut(&id).expect("it was wanted");
            outgoing.closing = None;
            outgoing.sealed_since = Some(self.outside.now());
            let address = outgoing.machine.address().clone();
            self.feed_source(id, Input::Holding { number });
            match self.outside.close(id, number, &address) {
                Some(closed) => self.closed(id, number, closed),
                None => self.closing.push(Closing {
                    id,
                    number,
                    closed: None,
                }),
            }
        }
    }

    /// A gate is closed, or the object is no longer the move's.
    pub fn closed(&mut self, id: Id, number: u32, closed: Result<Arc<Entry>, NotOwned>) {
        self.closing.retain(|closing| closing.id != id);
        if !self.outgoing.contains_key(&id) {
            return;
        }
        match closed {
            // Sealed is only what every holder has.
            Ok(entry) if !self.may_give_away(&entry) => {
                let closed = Some(entry);
                self.closing.push(Closing { id, number, closed });
            }
            Ok(entry) => {
                let Some(outgoing) = self.outgoing.get_mut(&id) else {
                    return;
                };
                if let Some(newest) = outgoing.has_to_step_back(&entry) {
                    self.to_step_back.push_back((id, entry, newest, Then::Seal { number }));
                    return;
                }
                let digests = match outgoing.back_of(&entry) {
                    Some(back) => back.over(digests(&entry)),
                    None => digests(&entry),
                };
                let difference_octets = match &outgoing.shipped {
                    Some(shipped) => shipped.difference_octets(&entry),
                    None => entry.plain_octets(),
                };
                // Any of its answers will do: a seal must not begin while it is away.
                let librarian_answered = self.outside.wanted().answered_at.max(self.heard);
                self.feed_source(
                    id,
                    Input::Closed {
                        number,
                        revision: entry.revision,
                        digests,
                        difference_octets,
                        librarian_answered,
                    },
                );
            }
            Err(NotOwned) => self.feed_source(id, Input::TakenOver),
        }
    }

    /// Seals what holders have confirmed meanwhile. What they do not confirm in time is not sealed: neither where the gate is closed,
    /// nor where it waits for a writer that waits for them.
    pub(super) fn seal_confirmed(&mut self) {
        let now = self.outside.now();
        for closing in std::mem::take(&mut self.closing) {
            let Closing { id, number, closed } = &closing;
            let Some(outgoing) = self.outgoing.get_mut(id) else {
                continue;
            };
            if !outgoing.machine.is_closing(*number) {
                continue;
            }
            let unconfirmed = closed.is_some() || self.parts.objects.is_resting(outgoing.machine.address());
            // Counted over all closings: it is opened for other writers again and again meanwhile.
            let since = unconfirmed.then(|| *outgoing.unconfirmed_since.get_or_insert(now));
            if since.is_some_and(|since| now.saturating_since(since) >= CONFIRMED_WITHIN) {
                self.feed_source(*id, Input::Cancel);
            } else if let Some(entry) = closed {
                self.closed(*id, *number, Ok(Arc::clone(entry)));
            } else {
                self.closing.push(closing);
            }
        }
    }

    /// Properties were stepped back, or cannot be.
    pub(super) fn stepped_back(&mut self, stepped: SteppedBack) {
        let SteppedBack { id, entry, then, back } = stepped;
        let Some(outgoing) = self.outgoing.get_mut(&id) else {
            return;
        };
        match (back, &entry.properties) {
            (Ok(back), Some(stream)) => outgoing.back = Some((stream.id, back)),
            (Ok(_), None) => {}
            (Err(fault), _) => {
                self.shipped(id, Err(fault));
                return;
            }
        }
        match then {
            Then::Ship { staged } => self.ship(id, &entry.address, staged),
            Then::Seal { number } => self.closed(id, number, Ok(entry)),
        }
    }

    /// A destination's message.
    pub(super) fn replied(&mut self, peer: &ServerName, address: &Address, reply: Reply) {
        let id = self.outgoing_by_address.get(address).copied();
        let of_peer = |id: &Id| {
            self.outgoing
                .get(id)
                .is_some_and(|outgoing| outgoing.machine.destination() == peer)
        };
        match (id.filter(of_peer), reply) {
            // While another registry is told what is here, no ownership changes; the destination says it again.
            (Some(_), Reply::Fenced { .. }) if !self.outside.is_trusted() => {}
            (Some(id), reply) => {
                if let (Reply::Ready { newest, .. }, Some(outgoing)) = (&reply, self.outgoing.get_mut(&id)) {
                    outgoing.newest = *newest;
                }
                self.feed_source(id, Input::Peer(reply));
            }
            (None, Reply::Fenced { epoch }) => {
                // The machine is gone; the journal says whether this agent has stopped.
                let stopped = self
                    .parts
                    .objects
                    .entry(address)
                    .is_some_and(|entry| match &entry.journal {
                        Journal::Moved { epoch: known, .. } | Journal::Forward { epoch: known, .. } => *known >= epoch,
                        Journal::Tombstone { epoch: known, .. } => *known > epoch,
                        Journal::Active { .. }
                        | Journal::Moving { .. }
                        | Journal::Sealed { .. }
                        | Journal::DeleteSent { .. } => entry.epoch > epoch,
                        // The new owner, or one after it, has this server hold a copy.
                        Journal::Held { .. } => entry.epoch >= epoch,
                        Journal::CreateSent { .. }
                        | Journal::Reserved { .. }
                        | Journal::Staged { .. }
                        | Journal::Prepared { .. }
                        | Journal::CommitSent { .. } => false,
                    });
                if stopped {
                    let answer = Request::FenceAnswered { epoch };
                    self.outside.send(peer, address, &Either::Request(answer));
                }
            }
            (
                None,
                Reply::Reserved { .. }
                | Reply::Refused { .. }
                | Reply::Ready { .. }
                | Reply::Staged { .. }
                | Reply::Damaged { .. }
                | Reply::NotCommitted { .. }
                | Reply::Dropped { .. },
            ) => {}
        }
    }

    /// A step of a source could not be taken since the object is no longer the move's.
    pub(super) fn taken_over(&mut self, id: Id) {
        if let Some(outgoing) = self.outgoing.get(&id) {
            info!(object = %outgoing.machine.address(), "a deletion ends a move");
        }
        self.feed_source(id, Input::TakenOver);
    }

    /// The copy here is no longer the object: it is kept for a while, named by its number.
    pub(super) fn kept(&mut self, id: Id, entry: Option<Arc<Entry>>) {
        match (self.outgoing.get_mut(&id), entry) {
            (Some(outgoing), Some(entry)) => outgoing.moved = Some(entry),
            (Some(outgoing), None) => warn!(object = %outgoing.machine.address(), "a moved copy has no row"),
            (None, _) => {}
        }
    }
}

fn outgoing_epoch(outgoing: &Outgoing) -> zones::Epoch {
    outgoing.machine.epoch()
}
