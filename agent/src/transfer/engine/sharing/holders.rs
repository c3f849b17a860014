//! Objects of other servers that this one holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{info, warn};
use zones::{Address, Level, Register, ServerName};

use super::super::incoming::SMALL_OCTETS_MAX;
use super::super::notes::{Kind, Note};
use super::super::{Asked, Engine, Id, Outside, Side};
use super::owners::Stood;
use crate::clock::BootInstant;
use crate::copies::holder::{self, Action, Holder, Offer, Taken};
use crate::copies::wire::{NO_TX, Word};
use crate::migration::wire::{Copy, INLINE_OCTETS_MAX, Part};
use crate::migration::{ChangeOutcome, Question};
use crate::objects::{BatchStep, Share};
use crate::store::{Change, Entry, Journal, Keeping, NewEntry, Refusal};
use crate::transfer::copying::{Arrival, CopyFault, InHand, Leave, Parts, Pieces};

/// Most machines of copies here; further copies come when some have ended.
pub(super) const HOLDING_MAX: usize = 32 << 10;
/// How long after an answer that no reads may be served the owner is asked again.
const DENIED_FOR: Duration = Duration::from_millis(500);
/// How long a machine stays that nobody needs: the register that it has read saves the next read a question.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// An object of another server that this one holds, or is to hold.
pub(super) struct Holding {
    pub(super) machine: Holder,
    id: Id,
    /// The head of what came before the register was read.
    parked: Option<(ServerName, Copy)>,
    /// The copy that is being written.
    arriving: Option<Id>,
    /// What is to become of the row, one after the other.
    steps: VecDeque<RowStep>,
    noting: bool,
    used_at: BootInstant,
    /// The owner answers reads itself, until it is asked again.
    denied_until: Option<BootInstant>,
}

/// What is to become of a row that is held.
#[derive(Clone)]
enum RowStep {
    /// It gets this content.
    Content(Box<Content>),
    /// It says what is refused.
    Refuse(Option<Refusal>),
    /// It goes.
    Drop,
    /// It is this server's.
    Own(Box<Register>),
}

#[derive(Clone)]
struct Content {
    from: ServerName,
    in_hand: InHand,
    tx: zones::Tx,
}

/// A copy that is being written.
pub(super) struct Arriving {
    address: Address,
    from: ServerName,
    copy: Copy,
    level_from: Level,
    /// Octets of it that pass through memory.
    octets: u64,
}

fn offer_of(from: &ServerName, copy: &Copy) -> Offer {
    Offer {
        from: from.clone(),
        epoch: copy.epoch,
        revision: copy.revision,
        tx: (copy.tx != NO_TX).then_some(copy.tx),
    }
}

impl<O: Outside> Engine<O> {
    /// The machine of a copy, made if there is none; `None` if too many are under way.
    fn holding(&mut self, now: BootInstant, address: &Address) -> Option<&mut Holding> {
        if !self.sharing.holders.contains_key(address) {
            if self.sharing.holders.len() >= HOLDING_MAX {
                return None;
            }
            let row = self.parts.objects.held_row(address);
            let (copy, refusal) = match row.as_deref().map(|row| (row, &row.journal)) {
                Some((row, Journal::Held { tx, refused, .. })) => {
                    let copy = holder::Copy {
                        epoch: row.epoch,
                        revision: row.revision,
                        tx: *tx,
                    };
                    (Some(copy), *refused)
                }
                Some(_) | None => (None, None),
            };
            let id = self.new_id();
            let machine = Holder::new(&self.parts.me, copy, refusal, now, self.outside.seed());
            self.sharing.by_id.insert(id, address.clone());
            let holding = Holding {
                machine,
                id,
                parked: None,
                arriving: None,
                steps: VecDeque::new(),
                noting: false,
                used_at: now,
                denied_until: None,
            };
            self.sharing.holders.insert(address.clone(), holding);
        }
        let holding = self.sharing.holders.get_mut(address)?;
        holding.used_at = now;
        Some(holding)
    }

    fn forget_holder(&mut self, address: &Address) {
        if let Some(holding) = self.sharing.holders.remove(address) {
            self.sharing.by_id.remove(&holding.id);
        }
    }

    /// A read waits for a copy.
    pub(super) fn holder_asked(&mut self, now: BootInstant, address: &Address) {
        if let Some(holding) = self.holding(now, address) {
            holding.machine.shows(now);
            holding.machine.look(now);
            self.run_holder(address);
        }
    }

    /// The register is to be read: it may name this server no more.
    pub(super) fn recheck(&mut self, now: BootInstant, address: &Address) {
        if self.parts.objects.held_row(address).is_none() {
            return;
        }
        if let Some(holding) = self.holding(now, address) {
            holding.machine.recheck();
            holding.machine.look(now);
            self.run_holder(address);
        }
    }

    /// The owner of a copy is lost for good. It is said again as long as it is so.
    pub(super) fn owner_is_lost(&mut self, now: BootInstant, address: &Address) {
        if let Some(holding) = self.holding(now, address) {
            holding.machine.owner_is_lost();
            holding.machine.look(now);
            self.run_holder(address);
        }
    }

    /// An owner sends a copy, or asks what of it is lacking here.
    pub(super) fn keep_arrived(
        &mut self,
        now: BootInstant,
        peer: &ServerName,
        address: Address,
        copy: Copy,
        payload: Bytes,
    ) {
        if self.incoming_by_address.contains_key(&address) {
            // It is about to be this server's.
            return;
        }
        let above = self
            .parts
            .objects
            .entry(&address)
            .and_then(|entry| match &entry.journal {
                Journal::Active { .. }
                | Journal::Moving { .. }
                | Journal::Sealed { .. }
                | Journal::DeleteSent { .. }
                | Journal::CreateSent { .. } => Some(entry.epoch),
                Journal::Moved { epoch, .. } | Journal::Forward { epoch, .. } | Journal::Tombstone { epoch, .. } => {
                    (*epoch > copy.epoch).then_some(*epoch)
                }
                Journal::Held { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. } => None,
            });
        match above {
            Some(epoch) if epoch > copy.epoch => {
                self.say(peer, &address, Word::NotKept { epoch: copy.epoch });
                return;
            }
            // This server owns it, as far as it knows.
            Some(_) => return,
            None => {}
        }
        if self.parts.objects.is_closed() {
            return;
        }
        let Some(holding) = self.holding(now, &address).filter(|holding| holding.arriving.is_none()) else {
            return;
        };
        let writes = holding.steps.iter().any(|step| matches!(step, RowStep::Content(_)));
        if writes {
            return;
        }
        match holding.machine.offered(&offer_of(peer, &copy)) {
            Taken::Known => {}
            Taken::Yes => self.take_copy(&address, peer, copy, payload),
            Taken::Later => {
                // Its octets are not kept: what is lacking is asked for when the register has been read.
                let part = |part: Option<Part>| part.map(|part| Part { follows: false, ..part });
                let head = Copy {
                    properties: part(copy.properties),
                    body: part(copy.body),
                    ..copy
                };
                holding.parked = Some((peer.clone(), head));
            }
            Taken::No => self.say(peer, &address, Word::NotKept { epoch: copy.epoch }),
        }
        self.look_at_holder(now, &address);
    }

    /// Writes a copy whose parts are all here, or says what is lacking.
    fn take_copy(&mut self, address: &Address, peer: &ServerName, copy: Copy, payload: Bytes) {
        let row = self.parts.objects.held_row(address);
        let Some((copy, level_from)) = self.as_it_is_to_be(address, peer, row.as_deref(), copy) else {
            return;
        };
        let follows = [copy.properties, copy.body]
            .into_iter()
            .flatten()
            .any(|part| part.follows);
        if !follows {
            let pieces = Pieces::kept(&copy);
            self.written_copy(address, peer, copy, level_from, pieces);
            return;
        }
        let octets = payload.len() as u64;
        if octets > INLINE_OCTETS_MAX || self.small_octets + octets > SMALL_OCTETS_MAX {
            // It is sent again.
            return;
        }
        let (id, number) = self.copy_begins(address, peer, &copy, level_from, octets);
        self.small_octets += octets;
        self.to_write.push_back(Arrival {
            id,
            number,
            address: address.clone(),
            copy,
            payload,
            as_it_is: true,
        });
    }

    /// A copy with the level that it is sealed at here, and its level at the owner; `None` if something of it is lacking, or it is
    /// not taken.
    fn as_it_is_to_be(
        &mut self,
        address: &Address,
        peer: &ServerName,
        row: Option<&Entry>,
        mut copy: Copy,
    ) -> Option<(Copy, Level)> {
        let level_from = copy.level;
        let admitted = match self.parts.objects.levels().admit(copy.level) {
            Ok(level) => level,
            Err(error) => {
                warn!(object = %address, owner = %peer, %error, "a copy is refused");
                return None;
            }
        };
        copy.level = match row {
            Some(row) if copy.keeps_parts() && row.level >= copy.level => row.level,
            Some(_) | None => admitted,
        };
        let same_level = row.is_some_and(|row| row.level == copy.level);
        let digests = row.map(Entry::digests).unwrap_or_default();
        let lacks = |part: Option<Part>, has: Option<crate::vault::Digest>| {
            part.is_some_and(|part| !(part.follows || same_level && has.map(|has| has.0) == Some(part.digest)))
        };
        let mut lacking = Parts {
            properties: lacks(copy.properties, digests.properties),
            body: lacks(copy.body, digests.body),
        };
        if lacking.any() {
            if !same_level && row.is_some() {
                // All of it is sealed at one level.
                lacking = Parts::ALL;
            } else {
                lacking.properties |= copy.properties.is_some_and(|part| part.follows);
                lacking.body |= copy.body.is_some_and(|part| part.follows);
            }
            let lacks = Word::Lacks {
                epoch: copy.epoch,
                properties: lacking.properties,
                body: lacking.body,
            };
            self.say(peer, address, lacks);
            return None;
        }
        Some((copy, level_from))
    }

    fn copy_begins(
        &mut self,
        address: &Address,
        peer: &ServerName,
        copy: &Copy,
        level_from: Level,
        octets: u64,
    ) -> (Id, u64) {
        let id = self.new_id();
        self.copies += 1;
        let number = self.copies;
        let arriving = Arriving {
            address: address.clone(),
            from: peer.clone(),
            copy: copy.clone(),
            level_from,
            octets,
        };
        self.sharing.arriving.insert(id, arriving);
        if let Some(holding) = self.sharing.holders.get_mut(address) {
            holding.arriving = Some(id);
        }
        (id, number)
    }

    /// A large copy is to come on a stream of its own: the leave to write it.
    pub(in super::super) fn large_kept(&mut self, peer: &ServerName, address: &Address, copy: &Copy) -> Option<Leave> {
        let now = self.outside.now();
        if self.incoming_by_address.contains_key(address) || self.parts.objects.is_closed() {
            return None;
        }
        let holding = self
            .holding(now, address)
            .filter(|holding| holding.arriving.is_none())?;
        if holding.machine.offered(&offer_of(peer, copy)) != Taken::Yes {
            self.look_at_holder(now, address);
            return None;
        }
        let row = self.parts.objects.held_row(address);
        let (copy, level_from) = self.as_it_is_to_be(address, peer, row.as_deref(), copy.clone())?;
        let (id, number) = self.copy_begins(address, peer, &copy, level_from, 0);
        Some(Leave {
            id,
            number,
            level: copy.level,
            objects: Arc::clone(&self.parts.objects),
            reservation: None,
            as_it_is: true,
        })
    }

    /// Whether this is a copy of another server's object.
    pub(in super::super) fn is_of_holder(&self, id: Id) -> bool {
        self.sharing.arriving.contains_key(&id)
    }

    /// A copy of another server's object was written and read back, or not.
    pub(in super::super) fn copy_written(&mut self, id: Id, outcome: Result<Pieces, CopyFault>) {
        let Some(arriving) = self.sharing.arriving.remove(&id) else {
            return;
        };
        let Arriving {
            address,
            from,
            copy,
            level_from,
            octets,
        } = arriving;
        self.small_octets = self.small_octets.saturating_sub(octets);
        if let Some(holding) = self.sharing.holders.get_mut(&address) {
            holding.arriving.take_if(|arriving| *arriving == id);
        }
        match outcome {
            Ok(pieces) => self.written_copy(&address, &from, copy, level_from, pieces),
            Err(fault) => warn!(object = %address, owner = %from, %fault, "a copy was not received"),
        }
    }

    /// The parts of a copy are here: its row comes next.
    fn written_copy(&mut self, address: &Address, from: &ServerName, copy: Copy, level_from: Level, pieces: Pieces) {
        let row = self.parts.objects.held_row(address);
        let offer = offer_of(from, &copy);
        let Some(holding) = self.sharing.holders.get_mut(address) else {
            return;
        };
        let before = row.map(|row| InHand::of_row(&row, NO_TX));
        let in_hand = InHand::new(copy, level_from, pieces, before.as_ref());
        // What this server has read meanwhile may say that it is not the owner's any more.
        let (Some(in_hand), Some(tx)) = (in_hand, holding.machine.notes(&offer)) else {
            return;
        };
        let content = Content {
            from: from.clone(),
            in_hand,
            tx,
        };
        holding.steps.push_back(RowStep::Content(Box::new(content)));
        self.note_holder(address);
    }

    /// A row is to say what is refused; called when the peer was promised anew, or nothing is refused any more.
    pub(super) fn refuse(&mut self, address: &Address, refusal: Option<Refusal>) {
        if let Some(holding) = self.sharing.holders.get_mut(address) {
            holding.steps.push_back(RowStep::Refuse(refusal));
            self.note_holder(address);
        }
    }

    /// The owner answers a question for a grant.
    pub(super) fn granted(
        &mut self,
        peer: &ServerName,
        address: &Address,
        number: u64,
        revision: u64,
        good_for: Duration,
    ) {
        if let Some(holding) = self.sharing.holders.get_mut(address) {
            holding.machine.grants(peer, number, revision, good_for);
            holding.denied_until = None;
            self.run_holder(address);
        }
    }

    /// The owner lets no reads be served.
    pub(super) fn denied(&mut self, now: BootInstant, peer: &ServerName, address: &Address, number: u64) {
        if let Some(holding) = self.sharing.holders.get_mut(address)
            && holding.machine.denied(peer, number)
        {
            holding.denied_until = Some(now + DENIED_FOR);
            self.look_at_holder(now, address);
        }
    }

    /// The librarian's answer.
    pub(super) fn holder_read(
        &mut self,
        now: BootInstant,
        address: &Address,
        question: Question,
        register: Option<Register>,
    ) {
        let lost = self.sharing.keeper.lost().to_vec();
        let Some(holding) = self.sharing.holders.get_mut(address) else {
            return;
        };
        holding
            .machine
            .register(now, question, register, |server| lost.contains(server));
        let parked = holding.parked.take();
        self.run_holder(address);
        if let Some((peer, head)) = parked {
            self.keep_arrived(now, &peer, address.clone(), head, Bytes::new());
        }
        // Reads that waited for the register ask for a grant now.
        self.parts.objects.wake(address);
    }

    /// What became of a change.
    pub(super) fn holder_settled(&mut self, address: &Address, outcome: ChangeOutcome) {
        if let Some(holding) = self.sharing.holders.get_mut(address) {
            holding.machine.changed(outcome);
            self.look_at_holder(self.outside.now(), address);
        }
    }

    /// Looks at every machine, and lets go of those that nobody needs.
    pub(super) fn look_at_holders(&mut self, now: BootInstant) {
        let addresses: Vec<Address> = self.sharing.holders.keys().cloned().collect();
        for address in addresses {
            self.look_at_holder(now, &address);
            let Some(holding) = self.sharing.holders.get(&address) else {
                continue;
            };
            let idle = holding.steps.is_empty() && holding.arriving.is_none() && holding.machine.rests(now);
            if idle && now.saturating_since(holding.used_at) > IDLE_MAX {
                self.parts.objects.set_share(&address, None);
                self.forget_holder(&address);
            }
        }
    }

    fn look_at_holder(&mut self, now: BootInstant, address: &Address) {
        if let Some(holding) = self.sharing.holders.get_mut(address) {
            holding.machine.look(now);
            self.run_holder(address);
        }
    }

    /// Does what a machine asks for, and tells reads what follows from it.
    fn run_holder(&mut self, address: &Address) {
        while let Some(holding) = self.sharing.holders.get_mut(address) {
            let id = holding.id;
            let Some(action) = holding.machine.poll() else { break };
            match action {
                Action::Ack { to, copy } => self.say_kept(&to, address, copy),
                Action::AskGrant { to, number } => self.say(&to, address, Word::AskGrant { number }),
                Action::Ask(question) => {
                    let address = address.clone();
                    self.wish(id, Side::Holder, Asked::Read { address, question });
                }
                Action::Change { old, new } => self.wish(id, Side::Holder, Asked::Change { old, new }),
                Action::Refuse(Some(refusal)) => {
                    let owner = holding.machine.owner().cloned();
                    if let Some(owner) = owner {
                        let refusing = self.sharing.refusing.entry(owner).or_default();
                        refusing.push((address.clone(), refusal));
                    }
                }
                Action::Refuse(None) => holding.steps.push_back(RowStep::Refuse(None)),
                Action::Drop => holding.steps.push_back(RowStep::Drop),
                Action::Own(register) => {
                    info!(object = %address, epoch = %register.epoch, "a lost server's object is taken over");
                    holding.steps.push_back(RowStep::Own(register));
                }
            }
        }
        if let Some(holding) = self.sharing.holders.get(address) {
            let granted = holding.machine.granted();
            let granted = granted.map(|(epoch, revision, until)| Share::Granted { epoch, revision, until });
            let share = granted.or(holding.denied_until.map(|until| Share::Denied { until }));
            let is_held = self
                .parts
                .objects
                .entry(address)
                .is_some_and(|entry| entry.journal.is_held());
            if is_held && self.parts.objects.share(address) != share {
                self.parts.objects.set_share(address, share);
            }
        }
        self.note_holder(address);
    }

    /// Takes the next step of a row, unless one is under way.
    fn note_holder(&mut self, address: &Address) {
        let Some(holding) = self.sharing.holders.get_mut(address).filter(|holding| !holding.noting) else {
            return;
        };
        let Some(step) = holding.steps.front().cloned() else {
            return;
        };
        holding.noting = true;
        let me = self.parts.me.clone();
        let at = address.clone();
        let change = Box::new(move |row: Option<&Entry>| becomes(&me, &at, row, step));
        let step = BatchStep::Held {
            address: address.clone(),
            change,
        };
        let note = Note::new(holding.id, Side::Holder, Kind::Plain, "held", step);
        self.to_note.push(true, note);
    }

    /// A step of a row is durable, or is not.
    pub(in super::super) fn holder_noted(&mut self, id: Id, entry: Option<Arc<Entry>>, outcome: Stood) {
        let Some(address) = self.sharing.by_id.get(&id).cloned() else {
            return;
        };
        let now = self.outside.now();
        let Some(holding) = self.sharing.holders.get_mut(&address) else {
            return;
        };
        holding.noting = false;
        if outcome == Stood::NotNow {
            // Tried again at the next look.
            return;
        }
        match holding.steps.pop_front() {
            Some(RowStep::Content(content)) => {
                if let Some(entry) = entry {
                    let copy = holder::Copy {
                        epoch: entry.epoch,
                        revision: entry.revision,
                        tx: content.tx,
                    };
                    holding.machine.written(&content.from, copy);
                }
            }
            Some(RowStep::Refuse(refusal)) if entry.is_some() => holding.machine.durable(now, refusal),
            Some(RowStep::Refuse(_)) => {}
            Some(RowStep::Drop) => {
                self.parts.objects.wake(&address);
                self.forget_holder(&address);
                return;
            }
            Some(RowStep::Own(_)) => {
                self.forget_holder(&address);
                if let Some(entry) = entry {
                    self.parts.objects.set_share(&address, None);
                    self.make_owner(now, &entry);
                    self.look_at_owner(now, &address);
                }
                return;
            }
            None => {}
        }
        self.look_at_holder(now, &address);
    }
}

/// What becomes of a row that is held.
fn becomes(me: &ServerName, address: &Address, row: Option<&Entry>, step: RowStep) -> Option<Change> {
    match step {
        RowStep::Content(content) => {
            let Content { from, in_hand, tx } = *content;
            let refused = row.and_then(|row| match &row.journal {
                Journal::Held { refused, .. } => *refused,
                _ => None,
            });
            let entry = NewEntry {
                address: address.clone(),
                epoch: in_hand.copy.epoch,
                revision: in_hand.copy.revision,
                kind: in_hand.copy.kind.clone(),
                schema: in_hand.copy.schema,
                level: in_hand.copy.level,
                journal: Journal::Held {
                    owner: from,
                    tx,
                    refused,
                },
                properties: in_hand.properties(),
                body: in_hand.body(),
                writes: in_hand.writes(),
                tx: None,
                from: None,
                received: None,
                audit: None,
                quarantined: None,
                migrated_from: None,
                leaving: None,
                keeping: None,
            };
            let keeps = in_hand.keeps_parts();
            match row {
                Some(row) => Some(Change::Replace { seq: row.seq, entry }),
                None => (!keeps).then_some(Change::Insert(entry)),
            }
        }
        RowStep::Refuse(refused) => {
            let row = row?;
            let (owner, tx) = match &row.journal {
                Journal::Held { owner, tx, .. } => (owner.clone(), *tx),
                _ => return None,
            };
            Some(Change::Replace {
                seq: row.seq,
                entry: NewEntry {
                    journal: Journal::Held { owner, tx, refused },
                    ..row.keep()
                },
            })
        }
        RowStep::Drop => row.map(|row| Change::Remove { seq: row.seq }),
        RowStep::Own(register) => {
            let row = row?;
            let others: Vec<ServerName> = register
                .holders
                .iter()
                .filter(|holder| *holder != me)
                .cloned()
                .collect();
            let keeping = Keeping { others, change: None };
            Some(Change::Replace {
                seq: row.seq,
                entry: NewEntry {
                    epoch: register.epoch,
                    journal: Journal::Active { wait: None },
                    tx: Some(register.tx),
                    keeping: (!keeping.others.is_empty()).then_some(keeping),
                    ..row.keep()
                },
            })
        }
    }
}
