//! The objects on their way in: the driver of [`Destination`].

use std::sync::Arc;

use bytes::Bytes;
use tracing::{debug, info, warn};
use zones::{Address, Epoch, Level, Register, ServerName, Tx};

use super::{Asked, Engine, Id, Outside, Side, answer_without_machine, needs_answer};
use crate::clock::BootInstant;
use crate::migration::destination::{Action, Begin, Destination, DestinationJournal, Input, Outcome, Recovered};
use crate::migration::source::Offer;
use crate::migration::wire::{Copy, Either, INLINE_OCTETS_MAX, Reply, Request, Unwilling};
use crate::objects::ReadGate;
use crate::store::{Entry, Journal, Reservation};
use crate::transfer::copying::{Arrival, CopyFault, InHand, Leave, Pieces};
use crate::vault::Suite;

/// Most octets of small copies that may be on their way in: they pass through memory.
pub(super) const SMALL_OCTETS_MAX: u64 = 64 << 20;
/// Most objects that may be on their way in.
const INCOMING_MAX: usize = 64 << 10;

/// One object on its way in.
pub(super) struct Incoming {
    pub(super) machine: Destination,
    pub(super) timer: Option<BootInstant>,
    pub(super) offer: Offer,
    /// Its row of the index.
    pub(super) row: Option<u64>,
    /// The copy that is whole.
    pub(super) in_hand: Option<InHand>,
    /// The copy that is being received.
    receiving: Option<(u64, Copy, Level)>,
    reservation: Option<Arc<Reservation>>,
    /// Whether it passes through memory.
    small: bool,
    /// Who else holds the object, as the register says, or is to.
    pub(super) others: Vec<ServerName>,
}

impl<O: Outside> Engine<O> {
    /// A source's message.
    pub(super) fn requested(&mut self, peer: &ServerName, address: Address, request: Request, payload: Bytes) {
        if let Request::Reserve { .. } = request {
            self.offered(peer, address, request);
            return;
        }
        let id = self.incoming_by_address.get(&address).copied();
        let of_peer = |id: &Id| {
            self.incoming
                .get(id)
                .is_some_and(|incoming| incoming.machine.source() == peer)
        };
        let Some(id) = id.filter(of_peer) else {
            if let Some(tx) = needs_answer(&request) {
                let reply = answer_without_machine(self.owned(&address), tx);
                self.outside.send(peer, &address, &Either::Reply(reply));
            }
            return;
        };
        if let Some(tx) = needs_answer(&request).filter(|tx| self.incoming[&id].machine.tx() != *tx) {
            let reply = Reply::Dropped { tx };
            self.outside.send(peer, &address, &Either::Reply(reply));
            return;
        }
        match request {
            Request::Copy(copy) => self.copy_arrived(id, address, copy, payload),
            Request::Reserve { .. }
            | Request::Open { .. }
            | Request::Seal { .. }
            | Request::Ask { .. }
            | Request::FenceAnswered { .. }
            | Request::Abort { .. } => self.feed_destination(id, Input::Peer(request)),
        }
    }

    /// The epoch at which this agent owns an object.
    fn owned(&self, address: &Address) -> Option<Epoch> {
        let entry = self.parts.objects.entry(address)?;
        match &entry.journal {
            Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } | Journal::DeleteSent { .. } => {
                Some(entry.epoch)
            }
            Journal::CreateSent { .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. }
            | Journal::Held { .. } => None,
        }
    }

    /// Whether an arriving object would find its address free: copies that were given away do not count, nor does one that is
    /// held for its owner, unless this server is about to take the object from that one by itself.
    fn has_place(&self, address: &Address) -> bool {
        self.parts
            .objects
            .entry(address)
            .is_none_or(|entry| match &entry.journal {
                Journal::Moved { .. } | Journal::Forward { .. } | Journal::Held { refused: None, .. } => true,
                Journal::Active { .. }
                | Journal::Moving { .. }
                | Journal::Sealed { .. }
                | Journal::CreateSent { .. }
                | Journal::DeleteSent { .. }
                | Journal::Tombstone { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. }
                | Journal::Held { refused: Some(_), .. } => false,
            })
    }

    /// A peer wants to bring an object.
    fn offered(&mut self, peer: &ServerName, address: Address, request: Request) {
        let Request::Reserve {
            epoch,
            tx,
            ref kind,
            schema,
            level,
            revision,
            octets,
        } = request
        else {
            return;
        };
        let offer = Offer {
            kind: kind.clone(),
            schema,
            level,
            revision,
            octets,
        };
        let refused = |why| Either::Reply(Reply::Refused { tx, why });
        let busy = refused(Unwilling::Busy);
        if let Some(id) = self.incoming_by_address.get(&address).copied() {
            let known = &self.incoming[&id].machine;
            if known.tx() == tx && known.source() == peer {
                self.feed_destination(id, Input::Peer(request));
                return;
            }
            // At most one copy of an address arrives at a time: the old one must be gone first. Only who was to bring it is
            // believed to have given that up; what another peer left behind is found by the machine's own look at the register.
            let same_peer = known.source() == peer;
            self.outside.send(peer, &address, &busy);
            if same_peer {
                self.feed_destination(id, Input::Superseded);
            }
            return;
        }
        if let Err(error) = self.parts.objects.levels().admit(level) {
            warn!(object = %address, source = %peer, %error, "an object is refused");
            self.outside.send(peer, &address, &refused(Unwilling::Level));
            return;
        }
        let small = octets <= INLINE_OCTETS_MAX;
        let full = self.parts.objects.is_closed()
            || self.incoming.len() >= INCOMING_MAX
            || (small && self.small_octets + octets > SMALL_OCTETS_MAX);
        if full || !self.has_place(&address) {
            self.outside.send(peer, &address, &busy);
            return;
        }
        let begin = Begin {
            me: self.parts.me.clone(),
            from: peer.clone(),
            address,
            epoch,
            tx,
            octets,
            journaled_staging: !small,
            seed: self.outside.seed(),
        };
        let machine = Destination::begin(begin, self.parts.settings.machine);
        if small {
            self.small_octets += octets;
        }
        self.add_incoming(Incoming {
            machine,
            timer: None,
            offer,
            row: None,
            in_hand: None,
            receiving: None,
            reservation: None,
            small,
            others: Vec::new(),
        });
    }

    fn add_incoming(&mut self, incoming: Incoming) {
        let id = self.new_id();
        self.incoming_by_address.insert(incoming.machine.address().clone(), id);
        self.incoming.insert(id, incoming);
        self.run_destination(id);
    }

    /// Takes up a move that a restart found open.
    pub(super) fn recover_destination(&mut self, entry: &Arc<Entry>) {
        let nothing = Tx([0; 16]);
        let (from, tx) = match &entry.journal {
            Journal::Reserved { from, tx, .. }
            | Journal::Staged { from, tx }
            | Journal::Prepared { from, tx }
            | Journal::CommitSent { from, tx, .. } => (from, *tx),
            Journal::Active { wait: Some(wait) } => (&wait.from, nothing),
            Journal::Active { wait: None }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::Moved { .. }
            | Journal::CreateSent { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            | Journal::Held { .. } => return,
        };
        let in_hand = InHand::of_row(entry, tx);
        let journal = match &entry.journal {
            Journal::Reserved { .. } => DestinationJournal::Reserved,
            Journal::Staged { .. } => DestinationJournal::Staged(in_hand.facts()),
            Journal::Prepared { .. } => DestinationJournal::Prepared(in_hand.facts()),
            Journal::CommitSent { commit_tx, .. } => DestinationJournal::CommitSent {
                copy: in_hand.facts(),
                commit_tx: *commit_tx,
            },
            Journal::Active { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::Moved { .. }
            | Journal::CreateSent { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            | Journal::Held { .. } => DestinationJournal::Waiting {
                tx: entry.tx.unwrap_or(nothing),
            },
        };
        let recovered = Recovered {
            me: self.parts.me.clone(),
            from: from.clone(),
            address: entry.address.clone(),
            // The row of an arriving copy has the epoch that it is to have.
            epoch: Epoch(entry.epoch.0.saturating_sub(1)),
            tx,
            journal,
            seed: self.outside.seed(),
        };
        let machine = Destination::recover(self.outside.now(), recovered, self.parts.settings.machine);
        self.add_incoming(Incoming {
            machine,
            timer: None,
            offer: super::outgoing::offer(entry),
            row: Some(entry.seq),
            in_hand: Some(in_hand),
            receiving: None,
            reservation: None,
            small: false,
            others: Vec::new(),
        });
    }

    pub(super) fn feed_destination(&mut self, id: Id, input: Input) {
        let Some(incoming) = self.incoming.get_mut(&id) else {
            return;
        };
        let machine = &mut incoming.machine;
        self.outside.saw(Side::Destination, machine.state_name(), &input);
        if let Err(unexpected) = machine.handle_input(self.outside.now(), input) {
            self.outside.wrong(&unexpected, machine.address());
        }
        self.run_destination(id);
    }

    pub(super) fn run_destination(&mut self, id: Id) {
        while let Some(incoming) = self.incoming.get_mut(&id) {
            let Some(action) = incoming.machine.poll_action() else {
                break;
            };
            let address = incoming.machine.address().clone();
            match action {
                Action::Reserve { octets } => {
                    let now = self.outside.now();
                    if self.door.lets_in(now, self.pace.share(), id, octets) {
                        self.reserve(id, octets);
                    } else {
                        self.parts.counters.held();
                    }
                }
                Action::Read { question } => self.wish(id, Side::Destination, Asked::Read { address, question }),
                Action::Change { old, new } => {
                    self.incoming_holders(id, Some(&*new));
                    self.wish(id, Side::Destination, Asked::Change { old, new });
                }
                Action::Send(mut reply) => {
                    let peer = incoming.machine.source().clone();
                    if let Reply::Ready { newest, .. } = &mut reply {
                        *newest = self.parts.objects.stepper().newest(&incoming.offer.kind);
                    }
                    self.outside.send(&peer, &address, &Either::Reply(reply));
                }
                Action::Persist(step) => self.note_destination(id, address, step),
                Action::Own { epoch, tx: _ } => {
                    debug!(object = %address, %epoch, "object taken");
                    // What was written under the reservation is the object's now.
                    incoming.reservation = None;
                    incoming.in_hand = None;
                    self.parts.objects.set_reads(&address, ReadGate::Open);
                    let octets = self.incoming.get(&id).map_or(0, |incoming| incoming.offer.octets);
                    self.parts.counters.moved_in(octets);
                    if let Some(entry) = self.parts.objects.entry(&address) {
                        self.owner_taken_over(&entry);
                        self.consider_soon(&address);
                    }
                }
                Action::OpenWrites => self.parts.objects.release_writes(&address),
                Action::Ended(outcome) => {
                    self.arrived(id, &address, outcome);
                    return;
                }
            }
        }
        let due = self
            .incoming
            .get(&id)
            .and_then(|incoming| incoming.machine.poll_timeout());
        self.set_timer(Side::Destination, id, due);
    }

    /// Notes who else holds an object once it is this server's.
    pub(super) fn incoming_holders(&mut self, id: Id, register: Option<&Register>) {
        let (Some(incoming), Some(register)) = (self.incoming.get_mut(&id), register) else {
            return;
        };
        if register.owner == self.parts.me {
            let me = &self.parts.me;
            incoming.others = register
                .holders
                .iter()
                .filter(|holder| *holder != me)
                .cloned()
                .collect();
        }
    }

    /// Keeps space for an object that is to come, if there is enough.
    pub(super) fn reserve(&mut self, id: Id, octets: u64) {
        let Some(incoming) = self.incoming.get(&id) else {
            return;
        };
        let address = incoming.machine.address().clone();
        let offered = incoming.offer.level;
        // A level that is not taken was refused with the offer; after a restart the row has the higher one.
        let level = self.parts.objects.levels().admit(offered).unwrap_or(offered);
        let suite = Suite::of_level(level).unwrap_or(Suite::Cascade);
        let space = self.parts.objects.store().reserve(octets, suite);
        if let Err(full) = &space {
            warn!(object = %address, octets, %full, "no room for an object that was to come");
        }
        let enough = space.is_ok();
        if let Some(incoming) = self.incoming.get_mut(&id) {
            incoming.reservation = space.ok().map(Arc::new);
        }
        self.feed_destination(id, Input::Space(enough));
    }

    pub(super) fn arrived(&mut self, id: Id, address: &Address, outcome: Outcome) {
        self.incoming_by_address.remove(address);
        self.refused_steps.remove(&(Side::Destination, id));
        if let Some(incoming) = self.incoming.remove(&id) {
            if incoming.small {
                self.small_octets = self.small_octets.saturating_sub(incoming.offer.octets);
            }
            match outcome {
                Outcome::Owner => {}
                Outcome::Dropped => {
                    debug!(object = %address, source = %incoming.machine.source(), "object did not come")
                }
            }
        }
    }

    /// A small copy came in one frame.
    fn copy_arrived(&mut self, id: Id, address: Address, mut copy: Copy, payload: Bytes) {
        let Some((number, level)) = self.receive(id, &copy) else {
            return;
        };
        copy.level = level;
        self.to_write.push_back(Arrival {
            id,
            number,
            address,
            copy,
            payload,
            as_it_is: false,
        });
    }

    /// A large copy is to come on a stream of its own: the leave to write it, if its move is open.
    /// With `kept` it is to be held beside its owner's.
    pub fn large_offered(&mut self, peer: &ServerName, address: &Address, copy: &Copy, kept: bool) -> Option<Leave> {
        if kept {
            return self.large_kept(peer, address, copy);
        }
        let id = self.incoming_by_address.get(address).copied();
        let of_move = |id: &Id| {
            self.incoming
                .get(id)
                .is_some_and(|incoming| incoming.machine.source() == peer && incoming.machine.tx() == copy.tx)
        };
        let id = id.filter(of_move)?;
        let (number, level) = self.receive(id, copy)?;
        Some(Leave {
            id,
            number,
            level,
            objects: Arc::clone(&self.parts.objects),
            reservation: self.incoming[&id].reservation.clone(),
            as_it_is: false,
        })
    }

    /// Begins to receive a copy, if the move is open: the register that this agent read itself names both. A copy that is
    /// being received already is given up for it. Says the copy's number, and the level that it is sealed at here.
    fn receive(&mut self, id: Id, copy: &Copy) -> Option<(u64, Level)> {
        let incoming = self.incoming.get_mut(&id)?;
        if !incoming.machine.takes_copy() {
            return None;
        }
        let level = match self.parts.objects.levels().admit(copy.level) {
            Ok(level) => level,
            Err(error) => {
                let (address, source) = (incoming.machine.address().clone(), incoming.machine.source().clone());
                warn!(object = %address, %source, %error, "a copy is refused");
                let (tx, why) = (copy.tx, Unwilling::Level);
                self.outside
                    .send(&source, &address, &Either::Reply(Reply::Refused { tx, why }));
                return None;
            }
        };
        let level = match &incoming.in_hand {
            // What is kept is sealed already; a level that has risen since is for the next move.
            Some(before) if copy.keeps_parts() && before.copy.level >= copy.level => before.copy.level,
            Some(_) | None => level,
        };
        self.copies += 1;
        let number = self.copies;
        incoming.receiving = Some((number, Copy { level, ..copy.clone() }, copy.level));
        self.feed_destination(id, Input::CopyBegan);
        Some((number, level))
    }

    /// A copy was written and read back, or not.
    pub(super) fn written(&mut self, id: Id, number: u64, outcome: Result<Pieces, CopyFault>) {
        if self.is_of_holder(id) {
            return self.copy_written(id, outcome);
        }
        let Some(incoming) = self.incoming.get_mut(&id) else {
            return;
        };
        let Some((_, copy, level_from)) = incoming.receiving.take_if(|(receiving, ..)| *receiving == number) else {
            // Given up for a later one.
            return;
        };
        let input = match outcome {
            Ok(pieces) if incoming.machine.takes_copy() => {
                match InHand::new(copy, level_from, pieces, incoming.in_hand.as_ref()) {
                    Some(in_hand) => {
                        let facts = in_hand.facts();
                        incoming.in_hand = Some(in_hand);
                        Input::Copied(facts)
                    }
                    None => Input::CopyDamaged,
                }
            }
            Ok(_) => Input::CopyFailed,
            Err(CopyFault::Damaged | CopyFault::ReadBack(_)) => {
                info!(object = %incoming.machine.address(), "a copy arrived damaged");
                Input::CopyDamaged
            }
            Err(CopyFault::Broken) => Input::CopyFailed,
            Err(CopyFault::Write(error)) => {
                warn!(object = %incoming.machine.address(), %error, "a copy cannot be written");
                Input::NoRoom
            }
        };
        self.feed_destination(id, input);
    }
}
