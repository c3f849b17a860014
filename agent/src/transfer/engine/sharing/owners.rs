//! Objects of this server that others hold, or are to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tracing::{info, warn};
use zones::{Address, Epoch, Register, ServerName, State, Tx};

use super::super::notes::{Kind, Note, deleted, moved};
use super::super::{Asked, Engine, Id, Outside, Side};
use crate::clock::BootInstant;
use crate::copies::WAIT;
use crate::copies::holder::Copy;
use crate::copies::owner::{Action, Owner, Start};
use crate::copies::permits::Pledge;
use crate::copies::wire::Word;
use crate::migration::{ChangeOutcome, Question};
use crate::objects::{BatchStep, Share};
use crate::store::{Entry, HolderChange, Journal, Keeping, NewEntry};
use crate::transfer::copying::{Parts, ShipFault, Shipment, Shipped};

/// A holder that has not confirmed for so long, though it answers, is of no use.
const USELESS_AFTER: Duration = Duration::from_secs(10);

/// An object of this server that others hold, or are to hold.
pub(super) struct Owned {
    pub(super) machine: Owner,
    id: Id,
    /// What holders are known, or taken, to have.
    had: BTreeMap<ServerName, Shipped>,
    /// Whether others are taken to have what is here, as long as they do not say otherwise.
    assumes: bool,
    /// Copies on their way, by who gets them, and those that have left.
    sending: BTreeSet<ServerName>,
    left: BTreeMap<ServerName, Shipped>,
    /// Who has said what it lacks.
    asked: BTreeSet<ServerName>,
    /// Questions for grants that could not be given yet.
    asks: BTreeMap<ServerName, u64>,
    /// The change of holders that was noted, until it is settled.
    noted: Option<HolderChange>,
    /// What is to be durable of who holds copies.
    note: Option<Keeping>,
    noting: bool,
    /// The register that says that it is another server's.
    lost: Option<Box<Register>>,
    /// Since when holders lack what is here.
    pub(super) lacking_since: Option<BootInstant>,
    /// Since when holders change.
    pub(super) changing_since: Option<BootInstant>,
}

/// A copy on its way to a holder.
pub(super) struct Sending {
    address: Address,
    pub(super) to: ServerName,
    pub(super) large: bool,
}

impl Owned {
    /// Whether a copy is on its way to a holder.
    pub(super) fn sends_to(&self, holder: &ServerName) -> bool {
        self.sending.contains(holder)
    }

    /// Holders that have lacked for long what is here, although nothing is on its way to them.
    pub(super) fn useless(&self, now: BootInstant) -> Option<&ServerName> {
        let since = self.lacking_since?;
        let long = now.saturating_since(since) > USELESS_AFTER;
        self.machine.lacking().find(|holder| long && !self.sends_to(holder))
    }
}

impl<O: Outside> Engine<O> {
    /// A row of this server has changed, or is waited for.
    pub(super) fn owner_changed(&mut self, now: BootInstant, entry: &Arc<Entry>) {
        let address = &entry.address;
        if self
            .sharing
            .owners
            .get(address)
            .is_some_and(|owned| owned.machine.epoch() != entry.epoch)
        {
            self.forget_owner(address);
        }
        if !self.sharing.owners.contains_key(address) {
            if !entry.is_shared() {
                return;
            }
            self.make_owner(now, entry);
        }
        self.look_at_owner(now, address);
    }

    /// The machine of an object, as far as it is known what others have.
    pub(super) fn make_owner(&mut self, now: BootInstant, entry: &Arc<Entry>) {
        let address = entry.address.clone();
        let known = self.parts.objects.share(&address);
        let (revision, confirmed, under) = match known {
            Some(Share::Confirmed {
                epoch, revision, under, ..
            }) if epoch == entry.epoch => (revision, true, under),
            // Nobody holds it beside this server, so nobody has shown anything else.
            _ if !entry.is_shared() => (entry.revision, true, Vec::new()),
            _ => (entry.revision, false, Vec::new()),
        };
        let start = Start {
            epoch: entry.epoch,
            revision,
            noted: entry.keeping.clone().unwrap_or_default(),
            confirmed,
            under,
        };
        self.add_owner(now, address, start, !confirmed);
    }

    /// The registry is another one: holders are to be as it names them.
    pub(super) fn compare_owned(&mut self, now: BootInstant, entry: &Arc<Entry>) {
        let address = &entry.address;
        if !self.sharing.owners.contains_key(address) {
            self.make_owner(now, entry);
        }
        if let Some(owned) = self.sharing.owners.get_mut(address) {
            owned.machine.compare();
        }
        self.look_at_owner(now, address);
    }

    /// This server has taken an object over, sealed: its other holders have what it has.
    pub(in super::super) fn owner_taken_over(&mut self, entry: &Arc<Entry>) {
        self.forget_owner(&entry.address);
        if !entry.is_shared() {
            return;
        }
        let start = Start {
            epoch: entry.epoch,
            revision: entry.revision,
            noted: entry.keeping.clone().unwrap_or_default(),
            confirmed: true,
            under: Vec::new(),
        };
        let (now, address) = (self.outside.now(), entry.address.clone());
        self.add_owner(now, address.clone(), start, true);
        self.look_at_owner(now, &address);
    }

    fn add_owner(&mut self, now: BootInstant, address: Address, start: Start, assumes: bool) {
        let id = self.new_id();
        let machine = Owner::new(&self.parts.me, start, now, self.outside.seed());
        self.sharing.by_id.insert(id, address.clone());
        let owned = Owned {
            machine,
            id,
            had: BTreeMap::new(),
            assumes,
            sending: BTreeSet::new(),
            left: BTreeMap::new(),
            asked: BTreeSet::new(),
            asks: BTreeMap::new(),
            noted: None,
            note: None,
            noting: false,
            lost: None,
            lacking_since: None,
            changing_since: None,
        };
        self.sharing.owners.insert(address, owned);
    }

    /// Nothing is to be done for the copies of an object any more.
    pub(in super::super) fn forget_owner(&mut self, address: &Address) {
        if let Some(owned) = self.sharing.owners.remove(address) {
            self.sharing.by_id.remove(&owned.id);
            self.sharing.changing -= usize::from(owned.changing_since.is_some());
        }
    }

    /// Looks at every machine, and lets go of those that have nothing to do.
    pub(super) fn look_at_owners(&mut self, now: BootInstant) {
        let addresses: Vec<Address> = self.sharing.owners.keys().cloned().collect();
        for address in addresses {
            self.look_at_owner(now, &address);
            let Some(owned) = self.sharing.owners.get(&address) else {
                continue;
            };
            let idle = owned.note.is_none() && owned.sending.is_empty() && owned.lost.is_none();
            if idle && owned.machine.rests(now) {
                if owned.machine.is_alone() {
                    self.parts.objects.set_share(&address, None);
                }
                self.forget_owner(&address);
            }
        }
    }

    /// Tells a machine what was written meanwhile: while nobody else counts, writes tell nobody of themselves. A deletion is in the
    /// row before it has happened, and nobody else is to know it as done.
    fn follow_row(&mut self, now: BootInstant, address: &Address) {
        let objects = Arc::clone(&self.parts.objects);
        let Some(owned) = self.sharing.owners.get_mut(address) else {
            return;
        };
        let entry = objects.entry(address).filter(|entry| {
            let ends = matches!(entry.journal, Journal::DeleteSent { .. });
            crate::objects::owns(entry) && !ends && entry.epoch == owned.machine.epoch()
        });
        if let Some(entry) = entry.filter(|entry| owned.machine.revision() < entry.revision) {
            objects.permits(|permits| owned.machine.wrote(now, entry.revision, permits));
        }
    }

    pub(super) fn look_at_owner(&mut self, now: BootInstant, address: &Address) {
        self.follow_row(now, address);
        let objects = Arc::clone(&self.parts.objects);
        let Some(owned) = self.sharing.owners.get_mut(address) else {
            return;
        };
        objects.permits(|permits| owned.machine.look(now, permits));
        let lacks = owned.machine.lacking().next().is_some();
        owned.lacking_since = lacks.then(|| owned.lacking_since.unwrap_or(now));
        self.run_owner(address);
        self.grant_waiting(now, address);
    }

    /// Does what a machine asks for, and tells requests what follows from it.
    pub(super) fn run_owner(&mut self, address: &Address) {
        while let Some(owned) = self.sharing.owners.get_mut(address) {
            let id = owned.id;
            let Some(action) = owned.machine.poll() else { break };
            match action {
                Action::Replicate { to, revision: _, tx } => self.replicate(address, &to, tx),
                Action::Grant {
                    to,
                    number,
                    revision,
                    good_for,
                } => {
                    let good_for_ms = u32::try_from(good_for.as_millis()).unwrap_or(0);
                    let grant = Word::Grant {
                        number,
                        revision,
                        good_for_ms,
                    };
                    self.say(&to, address, grant);
                }
                Action::Ask(question) => {
                    let address = address.clone();
                    self.wish(id, Side::Owner, Asked::Read { address, question });
                }
                Action::Change { old, new } => self.wish(id, Side::Owner, Asked::Change { old, new }),
                Action::Note(keeping) => {
                    owned.note = Some(keeping);
                }
                Action::Confirmed(_) => {}
                Action::Lost(register) => {
                    info!(object = %address, owner = %register.owner, "an object is another server's");
                    owned.lost = Some(register);
                }
            }
        }
        let now = self.outside.now();
        if let Some(owned) = self.sharing.owners.get_mut(address) {
            let (changed, changes) = (owned.changing_since.is_some(), owned.machine.is_changing());
            owned.changing_since = changes.then(|| owned.changing_since.unwrap_or(now));
            self.sharing.changing = self.sharing.changing + usize::from(changes) - usize::from(changed);
        }
        self.publish(address);
        self.note_owner(address);
    }

    fn publish(&mut self, address: &Address) {
        let Some(owned) = self.sharing.owners.get(address) else {
            return;
        };
        let machine = &owned.machine;
        let quiet_at = machine.quiet_at();
        let share = match machine.standing() {
            _ if machine.is_lost() => Share::Lost,
            Some(under) => Share::Confirmed {
                epoch: machine.epoch(),
                revision: machine.revision(),
                under,
                quiet_at,
            },
            None => Share::Unconfirmed { quiet_at },
        };
        if self.parts.objects.share(address).as_ref() != Some(&share) {
            self.parts.objects.set_share(address, Some(share));
        }
    }

    /// Notes who holds copies, or that the object is another server's, unless that is under way.
    fn note_owner(&mut self, address: &Address) {
        let Some(owned) = self.sharing.owners.get_mut(address).filter(|owned| !owned.noting) else {
            return;
        };
        let (id, epoch) = (owned.id, owned.machine.epoch());
        if let Some(register) = &owned.lost {
            if self.outgoing_by_address.contains_key(address) {
                // Its move finds out.
                return;
            }
            owned.noting = true;
            let register = Register::clone(register);
            let change = Box::new(move |entry: &Entry| taken_over(entry, &register));
            let step = BatchStep::Owned {
                address: address.clone(),
                change,
            };
            self.to_note
                .push(false, Note::new(id, Side::Owner, Kind::Lost, "lost", step));
            return;
        }
        let Some(keeping) = owned.note.clone() else { return };
        owned.noting = true;
        let is_nothing = keeping.others.is_empty() && keeping.change.is_none();
        let step = BatchStep::Keeping {
            address: address.clone(),
            epoch,
            keeping: (!is_nothing).then_some(keeping),
        };
        self.to_note
            .push(true, Note::new(id, Side::Owner, Kind::Keeping, "holders", step));
    }

    /// A step of an owner is durable, or is not.
    pub(in super::super) fn owner_noted(&mut self, id: Id, kind: Kind, entry: Option<Arc<Entry>>, outcome: Stood) {
        let Some(address) = self.sharing.by_id.get(&id).cloned() else {
            return;
        };
        let (now, objects) = (self.outside.now(), Arc::clone(&self.parts.objects));
        let Some(owned) = self.sharing.owners.get_mut(&address) else {
            return;
        };
        owned.noting = false;
        match (outcome, kind) {
            (Stood::Durable, Kind::Lost) => {
                self.forget_owner(&address);
                if let Some(entry) = entry.filter(|entry| matches!(entry.journal, Journal::Moved { .. })) {
                    self.retire(entry);
                }
            }
            (Stood::Durable, _) => {
                let noted = owned.note.take().unwrap_or_default();
                self.follow_row(now, &address);
                let Some(owned) = self.sharing.owners.get_mut(&address) else {
                    return;
                };
                objects.permits(|permits| owned.machine.durable(now, permits));
                let settled = match noted.change {
                    // A fresh tx alone gives up what was noted before: that is settled with it.
                    Some(change) if change.server == self.parts.me => None,
                    Some(change) => {
                        owned.noted = Some(change);
                        None
                    }
                    None => owned.noted.take(),
                };
                if let Some(HolderChange { server, adds, .. }) = settled
                    && !noted.others.contains(&server)
                {
                    owned.had.remove(&server);
                    // It is no holder: what it has of the object may go.
                    self.say(&server, &address, Word::Look);
                    if adds {
                        self.pass_over(now, server);
                    }
                }
                self.consider_soon(&address);
                self.run_owner(&address);
            }
            // Its deletion is under way, and ends it: a machine made anew would only read the same again.
            (Stood::NotOwned, Kind::Lost) if self.is_being_deleted(&address) => {}
            (Stood::NotOwned, _) => self.forget_owner(&address),
            // Tried again at the next look.
            (Stood::NotNow, _) => {}
        }
    }

    fn is_being_deleted(&self, address: &Address) -> bool {
        let entry = self.parts.objects.entry(address);
        entry.is_some_and(|entry| matches!(entry.journal, Journal::DeleteSent { .. }))
    }

    /// Sends an object to a holder: what it lacks, as far as that is known; else asks first what it lacks.
    fn replicate(&mut self, address: &Address, to: &ServerName, tx: Option<Tx>) {
        let Some(entry) = self.parts.objects.entry(address) else {
            return;
        };
        let Some(owned) = self.sharing.owners.get(address) else {
            return;
        };
        let lacks = match owned.had.get(to) {
            Some(had) => Parts::changed(&entry, had),
            None if tx.is_some() || owned.assumes => Parts::default(),
            // It was written since it had something.
            None => Parts::ALL,
        };
        self.send_copy(address, to, tx, lacks);
    }

    fn send_copy(&mut self, address: &Address, to: &ServerName, tx: Option<Tx>, lacks: Parts) {
        let Some(entry) = self.parts.objects.entry(address) else {
            return;
        };
        let Some(owned) = self.sharing.owners.get_mut(address) else {
            return;
        };
        let is_ours = crate::objects::owns(&entry) && entry.epoch == owned.machine.epoch();
        let ends = matches!(entry.journal, Journal::DeleteSent { .. });
        if !is_ours || ends || owned.sending.contains(to) {
            return;
        }
        let mut shipment = Shipment::kept(Arc::clone(&entry), tx, lacks);
        if !shipment.is_small() && lacks == Parts::ALL && !owned.had.contains_key(to) && !owned.asked.contains(to) {
            // Too much to send in vain: it says what it lacks.
            shipment = Shipment::kept(entry, tx, Parts::default());
        }
        if shipment.is_head() {
            let keep = Word::Keep(shipment.copy().clone());
            self.say(to, address, keep);
            return;
        }
        owned.sending.insert(to.clone());
        let (id, large) = (self.new_id(), !shipment.is_small());
        let sending = Sending {
            address: address.clone(),
            to: to.clone(),
            large,
        };
        self.sharing.sending.insert(id, sending);
        if !large {
            self.to_ship.push_back((id, shipment));
        } else if !self.outside.send_large(id, to, shipment) {
            self.sent(id, None);
        }
    }

    /// Whether this is a copy on its way to a holder.
    pub(in super::super) fn is_for_holder(&self, id: Id) -> bool {
        self.sharing.sending.contains_key(&id)
    }

    /// A copy for a holder is in its frame, or cannot be read.
    pub(in super::super) fn copy_framed(&mut self, id: Id, frame: Result<(BytesMut, Shipped), ShipFault>) {
        let Some(Sending { address, to, .. }) = self.sharing.sending.get(&id) else {
            return;
        };
        let sent = match frame {
            Ok((frame, shipped)) => self.outside.send_frames(to, address, frame).then_some(shipped),
            Err(_) => {
                warn!(object = %address, holder = %to, "a copy for a holder cannot be read");
                None
            }
        };
        self.sent(id, sent);
    }

    /// A copy left, or did not: then it is sent again when that is due.
    pub(in super::super) fn sent(&mut self, id: Id, shipped: Option<Shipped>) {
        let Some(Sending { address, to, .. }) = self.sharing.sending.remove(&id) else {
            return;
        };
        let Some(owned) = self.sharing.owners.get_mut(&address) else {
            return;
        };
        owned.sending.remove(&to);
        if let Some(shipped) = shipped {
            owned.left.insert(to, shipped);
        }
    }

    /// A holder has something durably.
    pub(super) fn confirmed(
        &mut self,
        now: BootInstant,
        peer: &ServerName,
        address: &Address,
        copy: Copy,
        pledge: Pledge,
    ) {
        self.follow_row(now, address);
        let objects = Arc::clone(&self.parts.objects);
        let entry = objects.entry(address);
        if let Some(entry) = entry.as_ref().filter(|entry| !entry.names(peer))
            && matches!(entry.journal, Journal::Active { .. })
            && !self.sharing.owners.contains_key(address)
        {
            self.make_owner(now, entry);
        }
        let Some(owned) = self.sharing.owners.get_mut(address) else {
            return;
        };
        if let Some(entry) = entry.filter(|entry| (entry.epoch, entry.revision) == (copy.epoch, copy.revision)) {
            owned.had.insert(peer.clone(), Shipped::of(&entry));
        } else if let Some(left) = owned.left.get(peer).filter(|left| left.revision == copy.revision) {
            owned.had.insert(peer.clone(), *left);
        }
        owned.asked.remove(peer);
        objects.permits(|permits| owned.machine.acked(now, peer, copy, pledge, permits));
        self.run_owner(address);
        self.grant_waiting(now, address);
    }

    /// A holder says what it lacks.
    pub(super) fn lacks(&mut self, peer: &ServerName, address: &Address, epoch: Epoch, lacks: Parts) {
        let Some(owned) = self.sharing.owners.get_mut(address) else {
            return;
        };
        let counts = owned.machine.others().any(|other| other == peer);
        let staging = owned.machine.staging() == Some(peer);
        if owned.machine.epoch() != epoch || !(counts || staging) || !lacks.any() {
            return;
        }
        owned.had.remove(peer);
        owned.asked.insert(peer.clone());
        let tx = if staging { owned.machine.staging_tx() } else { None };
        self.send_copy(address, peer, tx, lacks);
    }

    /// A holder takes nothing of an epoch any more.
    pub(super) fn not_kept(&mut self, now: BootInstant, peer: &ServerName, address: &Address, epoch: Epoch) {
        if let Some(owned) = self.sharing.owners.get_mut(address) {
            owned.machine.refused(peer, epoch);
            self.look_at_owner(now, address);
        }
    }

    /// A holder asks whether it may serve reads.
    pub(super) fn asked_grant(&mut self, now: BootInstant, peer: &ServerName, address: &Address, number: u64) {
        let objects = Arc::clone(&self.parts.objects);
        let entry = objects.entry(address).filter(|entry| {
            let is_open = matches!(&entry.journal, Journal::Active { .. } | Journal::Moving { .. });
            is_open && entry.is_shared()
        });
        let changes = |owned: &Owned| owned.machine.is_changing_by(peer);
        let changes = self.sharing.owners.get(address).is_some_and(changes);
        let Some(entry) = entry.filter(|_| !changes) else {
            // It is dropped, or about to be; or the object is sealed, or gone.
            self.say(peer, address, Word::NoGrant { number });
            return;
        };
        if !self.sharing.owners.contains_key(address) {
            self.owner_changed(now, &entry);
        }
        if let Some(owned) = self.sharing.owners.get_mut(address) {
            owned.asks.insert(peer.clone(), number);
        }
        self.grant_waiting(now, address);
    }

    /// Answers questions for grants as soon as it may be.
    fn grant_waiting(&mut self, now: BootInstant, address: &Address) {
        let objects = Arc::clone(&self.parts.objects);
        let Some(owned) = self
            .sharing
            .owners
            .get_mut(address)
            .filter(|owned| !owned.asks.is_empty())
        else {
            return;
        };
        let Some(entry) = objects.entry(address) else { return };
        let shown = objects.permits(|permits| owned.machine.shows(now, permits)) == Some(entry.revision);
        if shown && objects.may_grant(address, entry.epoch, now + WAIT) {
            for (peer, number) in std::mem::take(&mut owned.asks) {
                objects.permits(|permits| owned.machine.asked_grant(now, &peer, number, permits));
            }
            self.run_owner(address);
        }
    }

    /// The librarian's answer.
    pub(super) fn owner_read(
        &mut self,
        now: BootInstant,
        address: &Address,
        question: Question,
        register: Option<Register>,
    ) {
        let objects = Arc::clone(&self.parts.objects);
        if let Some(owned) = self.sharing.owners.get_mut(address) {
            objects.permits(|permits| owned.machine.register(now, question, register, permits));
            self.look_at_owner(now, address);
        }
    }

    /// What became of a change.
    pub(super) fn owner_settled(&mut self, now: BootInstant, address: &Address, outcome: ChangeOutcome) {
        if let Some(owned) = self.sharing.owners.get_mut(address) {
            owned.machine.changed(now, outcome);
            self.look_at_owner(now, address);
        }
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Stood {
    /// It is durable.
    Durable,
    /// The object is not this server's, or not to be changed any more.
    NotOwned,
    /// It is tried again.
    NotNow,
}

/// The row of an object that the register says is another server's. What was written here last may be unknown there: so no write
/// is answered from here any more, neither one that waits, for which the row still names holders that did not confirm it, nor a
/// repeated one.
fn taken_over(entry: &Entry, register: &Register) -> NewEntry {
    let row = match register.state {
        State::Deleted => deleted(entry, register.epoch, register.tx),
        State::Stable | State::Moving { .. } => moved(entry, register.owner.clone(), register.epoch),
    };
    NewEntry {
        keeping: entry.keeping.clone(),
        writes: Vec::new(),
        ..row
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use zones::Level;

    use super::*;
    use crate::store::{Content, WriteRecord};

    #[test]
    fn no_write_is_answered_from_a_row_that_was_taken_over() {
        let server = |name: &str| name.parse::<ServerName>().unwrap();
        let write = WriteRecord {
            client: "demo".to_owned(),
            id: Uuid::from_u128(1),
            unix_ms: 7,
            request_hash: [1; 32],
            revision: 3,
        };
        let entry = Entry {
            seq: 1,
            address: "3.1".parse().unwrap(),
            epoch: Epoch(4),
            revision: 3,
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
            journal: Journal::Active { wait: None },
            properties: None,
            body: None,
            writes: vec![write],
            tx: None,
            from: None,
            received: None,
            quarantined: None,
            migrated_from: None,
            leaving: None,
            keeping: Some(Keeping {
                others: vec![server("s2")],
                change: None,
            }),
        };
        let register = |epoch, state| Register {
            address: entry.address.clone(),
            epoch: Epoch(epoch),
            owner: server("s2"),
            state,
            tx: Tx([5; 16]),
            holders: Vec::new(),
            kind: entry.kind.clone(),
            schema: 1,
            level: Level(1),
        };
        let moved = taken_over(&entry, &register(5, State::Stable));
        assert!(matches!(moved.journal, Journal::Moved { epoch: Epoch(5), .. }));
        let ended = taken_over(&entry, &register(6, State::Deleted));
        assert!(matches!(ended.journal, Journal::Tombstone { epoch: Epoch(6), .. }));
        assert!(matches!(ended.properties, Content::Absent));
        for row in [moved, ended] {
            // A write that waits here was not confirmed, and one that is repeated is asked of the other server.
            assert_eq!((&row.keeping, &row.writes[..]), (&entry.keeping, &[][..]));
        }
    }
}
