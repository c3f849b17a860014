//! What must hold: the invariants of DESIGN.md section 15, as far as what they speak of is built.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use agent::store::{Entry, Extent, Journal};
use agent::vault::{Part, StreamId};
use zones::audit::{self, Head, Verifier};
use zones::{Address, Register, Role, ServerName, State};

use super::agent::Machine;
use super::desk::Reply;
use super::keys::Uses;
use super::linear::{OPERATIONS_MAX, Object, Operation, Outcome, is_linearizable};
use super::releases::{NEWEST, is_unlucky};
use super::script::{Script, address, object_of};
use super::serve::show;
use super::world::World;

/// Operations of one object before its history may be forgotten: shorter ones are kept whole, so that whoever reads a violation
/// sees how it came.
const FORGETS_FROM: usize = 48;

/// What was seen of one object.
#[derive(Debug, Default)]
struct Seen {
    register: Option<Register>,
    texts: BTreeSet<String>,
    /// The highest revision that was acknowledged or shown.
    shown: u64,
    /// An octet of a copy has changed at some time, wherever that was.
    rotted: bool,
    /// It was on lost servers alone.
    beyond: bool,
    /// What it was before the first operation of the history.
    before: Object,
    history: Vec<Operation>,
    /// Operations that were forgotten: what they came to is what it was before.
    forgotten: u64,
}

impl Seen {
    /// Forgets a long history behind a read that overlapped nothing, when nothing is open: every order of what came before ends
    /// with what was read.
    fn forget(&mut self) {
        let Some(last) = self.history.last() else { return };
        let (Outcome::Seen(object), began) = (last.outcome, last.began) else {
            return;
        };
        let others = &self.history[..self.history.len() - 1];
        let all_before = others
            .iter()
            .all(|other| other.ended.is_some_and(|ended| ended < began));
        if self.history.len() >= FORGETS_FROM && all_before {
            self.forgotten += self.history.len() as u64;
            self.history.clear();
            self.before = object;
        }
    }
}

/// The stream of a row's part, and its place on the disk.
type Places = BTreeMap<(u64, Address, bool), (StreamId, Vec<Extent>)>;

/// The judge.
#[derive(Debug)]
pub(super) struct Check {
    objects: BTreeMap<Address, Seen>,
    addresses: Vec<Address>,
    /// Streams of which an octet has changed, by server: who has one elsewhere, or has written it anew, has it whole.
    rotten: BTreeSet<(usize, StreamId)>,
    pub(super) registers_changed: bool,
    /// The registry was lost or restored, and is not open yet.
    reconciles: bool,
    touched: BTreeSet<usize>,
    streams: BTreeMap<StreamId, (usize, Address, bool)>,
    /// Where the streams of every agent's rows were last seen.
    places: BTreeMap<usize, Places>,
    uses: Uses,
    /// Changes of owner, by object and epoch; none once a registry was restored: what it forgot may happen again.
    pub(super) moves: Option<BTreeMap<(Address, u64), ServerName>>,
}

impl Check {
    pub(super) fn new(script: &Script) -> Check {
        let addresses: Vec<Address> = (0..script.objects).map(address).collect();
        Check {
            objects: addresses
                .iter()
                .map(|address| (address.clone(), Seen::default()))
                .collect(),
            addresses,
            rotten: BTreeSet::new(),
            registers_changed: false,
            reconciles: false,
            touched: BTreeSet::new(),
            streams: BTreeMap::new(),
            places: BTreeMap::new(),
            uses: Uses::default(),
            moves: Some(BTreeMap::new()),
        }
    }

    pub(super) fn touched(&mut self, agent: usize) {
        self.touched.insert(agent);
    }

    /// An octet of a copy changes.
    pub(super) fn rots(&mut self, agent: usize, address: &Address, stream: StreamId) {
        self.rotten.insert((agent, stream));
        if let Some(seen) = self.objects.get_mut(address) {
            seen.rotted = true;
        }
    }

    /// Whether a row's copy cannot be read.
    pub(super) fn is_rotten(&self, agent: usize, row: &Entry) -> bool {
        row.streams()
            .any(|(_, stream)| self.rotten.contains(&(agent, stream.id)))
    }

    /// Whether a copy of the object could not be read at some time, or whether it was on lost servers alone.
    pub(super) fn was_damaged(&self, address: &Address) -> bool {
        self.objects.get(address).is_some_and(|seen| seen.rotted || seen.beyond)
    }

    /// Whether an object is on lost servers alone, as the register that was seen last says: the revision that was shown of each of
    /// which that is news.
    pub(super) fn mark_beyond(&mut self, is_beyond: impl Fn(&Register) -> bool) -> Vec<(Address, u64)> {
        let mut news = Vec::new();
        for (address, seen) in &mut self.objects {
            // Of a deleted one nobody promises anything but that it stays deleted.
            let register = seen.register.as_ref();
            let Some(register) = register.filter(|register| register.state != State::Deleted) else {
                continue;
            };
            // Whoever was about to take it may have it yet.
            let before = std::mem::replace(&mut seen.beyond, is_beyond(register));
            if seen.beyond && !before {
                news.push((address.clone(), seen.shown));
            }
        }
        news
    }

    pub(super) fn is_beyond(&self, address: &Address) -> bool {
        self.objects.get(address).is_some_and(|seen| seen.beyond)
    }

    /// The register of an object, as it was seen last.
    pub(super) fn register(&self, address: &Address) -> Option<&Register> {
        self.objects.get(address)?.register.as_ref()
    }

    pub(super) fn owner(&self, address: &Address) -> Option<ServerName> {
        let register = self.register(address)?;
        (register.state != State::Deleted).then(|| register.owner.clone())
    }

    /// An operation begins; `None` if the object has enough of them.
    pub(super) fn began(&mut self, object: usize, operation: Operation) -> Option<usize> {
        let history = &mut self.objects.get_mut(&self.addresses[object])?.history;
        if history.len() >= OPERATIONS_MAX {
            return None;
        }
        history.push(operation);
        Some(history.len() - 1)
    }

    pub(super) fn ended(&mut self, object: usize, operation: usize, now: u64, outcome: Outcome) -> Result<(), String> {
        let address = self.addresses[object].clone();
        let seen = self.objects.get_mut(&address).expect("a known object");
        let known = &mut seen.history[operation];
        (known.ended, known.outcome) = (Some(now), outcome);
        match is_linearizable(seen.before, &seen.history) {
            true => {
                seen.forget();
                Ok(())
            }
            false => Err(format!(
                "I2: the history of {address} is not linearizable:\n{}",
                history(&seen.history)
            )),
        }
    }

    /// An agent gives this answer.
    pub(super) fn answered(&mut self, address: &Address, reply: &Reply) {
        let Some(seen) = self.objects.get_mut(address) else {
            return;
        };
        match reply {
            Reply::Written(revision) | Reply::Seen(Object::Is { revision, .. }) => {
                seen.shown = seen.shown.max(*revision);
            }
            _ => {}
        }
    }

    /// I1: whoever applies a write owns the object in the register, at that epoch.
    pub(super) fn write_applied(&self, me: &ServerName, entry: &Entry) -> Result<(), String> {
        let register = self.objects.get(&entry.address).and_then(|seen| seen.register.as_ref());
        match register {
            Some(register)
                if register.owner == *me && register.epoch == entry.epoch && register.state != State::Deleted =>
            {
                Ok(())
            }
            register => Err(format!(
                "I1: {me} applies a write of {} at epoch {} while the register is {}",
                entry.address,
                entry.epoch,
                register.map_or("absent".to_owned(), |register| register.strings().join(" "))
            )),
        }
    }

    /// A row that waits for something. `closing` once every object was asked for when all was quiet; `keeps` where a server cannot
    /// become empty, so that what it gave stays there.
    pub(super) fn open_row(&self, machine: &Machine, closing: bool, keeps: bool) -> Option<String> {
        let entries = machine.process.local.store().entries();
        let known = entries.iter().filter(|entry| !self.is_beyond(&entry.address));
        let open = known.clone().find(|entry| match &entry.journal {
            Journal::Active { wait: None } | Journal::Forward { .. } | Journal::Tombstone { .. } => false,
            Journal::Active { wait: Some(_) }
            | Journal::CreateSent { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::DeleteSent { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. } => true,
            Journal::Moved { .. } => !keeps,
            // An owner that was taken for lost, and whose object nobody asks for, does not hear that it is refused.
            Journal::Held { refused, .. } => refused.is_some() && closing,
        })?;
        Some(format!("{} {:?}", open.address, open.journal))
    }
}

fn history(operations: &[Operation]) -> String {
    operations
        .iter()
        .map(|operation| {
            format!(
                "  {:>10} .. {:>10}  {:?} {:?}",
                operation.began,
                operation.ended.map_or("-".to_owned(), |at| at.to_string()),
                operation.action,
                operation.outcome
            )
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether a holder has taken an object over from its lost owner; otherwise a change of owner ends a move.
fn is_takeover(old: &Register, new: &Register) -> bool {
    let moves = matches!(&old.state, State::Moving { to } if *to == new.owner);
    old.owner != new.owner && !moves
}

/// I4: who takes over holds the object, at the next epoch, and from a server that is marked lost.
fn verify_takeover(address: &Address, old: &Register, new: &Register, is_lost: bool) -> Result<(), String> {
    let wrong = if new.epoch != old.epoch.next() {
        "at another epoch than the next"
    } else if !old.holders.contains(&new.owner) {
        "and is none of its holders"
    } else if !is_lost {
        "and nobody has said that it is lost"
    } else {
        return Ok(());
    };
    Err(format!(
        "I4: {} takes {address} over from {} {wrong}: {} after {}",
        new.owner,
        old.owner,
        text(new),
        text(old)
    ))
}

/// What became of an object's holders, of the names of steps.
fn changed(old: &Register, new: &Register) -> Vec<&'static str> {
    let mut said = Vec::new();
    if is_takeover(old, new) {
        said.push("taken over from a lost server");
    }
    if old.owner == new.owner && new.state != State::Deleted {
        let more = |a: &Register, b: &Register| a.holders.iter().any(|holder| !b.holders.contains(holder));
        if more(new, old) {
            said.push("holder added");
        }
        if more(old, new) {
            said.push("holder dropped");
        }
    }
    said
}

/// The newest version that a server reads.
fn newest(machines: &[Machine], server: &ServerName) -> u32 {
    let machine = machines.iter().find(|machine| machine.name == *server);
    machine.map_or(0, |machine| NEWEST[usize::from(machine.release)])
}

fn text(register: &Register) -> String {
    register.strings().join(" ")
}

/// What a reconcile may make of an object: it forgets nothing but what nobody was told.
fn follows(machines: &[Machine], address: &Address, seen: &Seen, new: Option<&Register>) -> Result<(), String> {
    let Some(old) = &seen.register else { return Ok(()) };
    let Some(new) = new else {
        // Its making was not told to whoever asked for it, or it would have a copy and a claim.
        return match seen.shown {
            0 => Ok(()),
            revision => Err(format!(
                "I2: {address} was shown at revision {revision}, and is forgotten"
            )),
        };
    };
    if old.state == State::Deleted && new.state != State::Deleted {
        let rows = machines
            .iter()
            .flat_map(|machine| machine.process.local.store().entries());
        let mut rows = rows.filter(|entry| entry.address == *address);
        // Who deleted it goes on deleting it, and shows it to nobody.
        if !rows.any(|entry| matches!(entry.journal, Journal::DeleteSent { .. })) {
            return Err(format!("I3: {address} comes back: {new:?}"));
        }
    }
    Ok(())
}

impl World {
    fn has_rotten(&self, agent: usize, address: &Address) -> bool {
        // In most runs, and this is asked of every object after every event.
        if self.check.rotten.is_empty() {
            return false;
        }
        let rows = self.machines[agent].process.local.store().entries();
        let mut rows = rows.iter().filter(|row| row.address == *address);
        rows.any(|row| self.check.is_rotten(agent, row))
    }

    /// Whether nobody promises the object any more: it was on lost servers alone, or no server that its register names has a copy
    /// that can be read.
    pub(super) fn is_spoilt(&self, address: &Address) -> bool {
        let Some(seen) = self.check.objects.get(address) else {
            return false;
        };
        let is_named = |machine: &Machine| match &seen.register {
            Some(register) => register.owner == machine.name || register.holders.contains(&machine.name),
            // It is being made, and one server knows of it.
            None => machine.process.local.entry(address).is_some(),
        };
        let named = self.machines.iter().enumerate();
        let mut named = named
            .filter(|(_, machine)| !machine.gone && is_named(machine))
            .peekable();
        seen.beyond || named.peek().is_some() && named.all(|(agent, _)| self.has_rotten(agent, address))
    }

    /// Whether the owner's copy of an object cannot be read, or nobody's: it goes nowhere until it is written anew, or deleted.
    pub(super) fn is_stuck(&self, address: &Address) -> bool {
        let seen = self.check.objects.get(address);
        let register = seen.and_then(|seen| seen.register.as_ref());
        let owner = register.and_then(|register| {
            let mut machines = self.machines.iter();
            machines.position(|machine| machine.name == register.owner)
        });
        owner.is_some_and(|owner| self.has_rotten(owner, address)) || self.is_spoilt(address)
    }

    /// Whether a server that is to be emptied holds a copy of an object whose owner's cannot be read: it goes nowhere else, and the
    /// server stays as it is.
    pub(super) fn holds_last(&self, agent: usize) -> bool {
        let view = self.librarian.process.registry.view();
        let server = view.server(&self.machines[agent].name);
        if !server.is_some_and(|server| matches!(server.want.role, Role::Cordoned | Role::Draining)) {
            return false;
        }
        let rows = self.machines[agent].process.local.store().entries();
        rows.iter()
            .any(|row| row.journal.is_held() && self.is_stuck(&row.address))
    }

    /// Objects that a server owns and cannot read.
    pub(super) fn rotten_of(&self, server: &ServerName) -> u64 {
        let owns = |seen: &Seen| seen.register.as_ref().is_some_and(|register| register.owner == *server);
        let owned = self.check.objects.iter().filter(|(_, seen)| owns(seen));
        owned.filter(|(address, _)| self.is_stuck(address)).count() as u64
    }

    /// Looks at whatever this event changed.
    pub(super) fn verify(&mut self) {
        if self.broken.is_some() || (!self.check.registers_changed && self.check.touched.is_empty()) {
            return;
        }
        let registers = std::mem::take(&mut self.check.registers_changed);
        let touched = std::mem::take(&mut self.check.touched);
        let found = (|| {
            if registers {
                self.verify_registers()?;
            }
            self.excuse()?;
            for agent in &touched {
                self.verify_rows(*agent)?;
            }
            self.verify_copies()
        })();
        if let Err(why) = found {
            self.fail(why);
        }
    }

    /// I3, I4, I17. While the registry is reconciled nothing follows from it: who owned an object before goes on owning it.
    fn verify_registers(&mut self) -> Result<(), String> {
        let view = self.librarian.process.registry.view();
        if !view.reconcile().open {
            self.check.reconciles = true;
            self.check.moves = None;
            return Ok(());
        }
        let opens = std::mem::take(&mut self.check.reconciles);
        let mut changes = Vec::new();
        for (address, seen) in &mut self.check.objects {
            let new = view.register(address);
            if new == seen.register && !(opens && new.is_some()) {
                continue;
            }
            if opens {
                follows(&self.machines, address, seen, new.as_ref())?;
            }
            let before = seen.register.take();
            let Some(register) = &new else {
                // It may be sent again as it was.
                match before.filter(|_| opens) {
                    Some(forgotten) => seen.texts.remove(&text(&forgotten)),
                    None => return Err(format!("I4: the register of {address} is gone")),
                };
                continue;
            };
            if let Some(old) = before.as_ref().filter(|_| !opens) {
                if register.epoch < old.epoch {
                    return Err(format!(
                        "I4: the epoch of {address} falls from {} to {}",
                        old.epoch, register.epoch
                    ));
                }
                if old.state == State::Deleted {
                    return Err(format!("I3: {address} comes back: {register:?}"));
                }
                if register.level < old.level {
                    return Err(format!("I7: the level of {address} falls"));
                }
                let newest = newest(&self.machines, &register.owner);
                if register.schema < old.schema && (register.owner == old.owner || register.schema != newest) {
                    return Err(format!(
                        "I7: the schema of {address} falls from {} to {} at {}, which reads up to {newest}",
                        old.schema, register.schema, register.owner
                    ));
                }
            }
            if let Some(old) = &before {
                changes.extend(changed(old, register));
            }
            if let Some(old) = before.as_ref().filter(|old| !opens && is_takeover(old, register)) {
                let is_lost = view.server(&old.owner).is_some_and(|server| server.lost);
                verify_takeover(address, old, register, is_lost)?;
            }
            if let (Some(moves), Some(old)) = (&mut self.check.moves, &before)
                && old.owner != register.owner
                && !is_takeover(old, register)
                && let Some(twice) = moves.insert((address.clone(), register.epoch.0), register.owner.clone())
            {
                return Err(format!(
                    "I4: {address} moves to {twice} and {} at one epoch",
                    register.owner
                ));
            }
            let is_new = seen.texts.insert(text(register));
            // No change rests on the text of a deleted one, so a reconcile may find it again.
            let may_be_old = opens && register.state == State::Deleted;
            if !is_new && !may_be_old {
                return Err(format!("I17: a register text of {address} occurs twice"));
            }
            if let Some(before) = before.filter(|before| opens && before != register) {
                // It may be undone, and sent again by who has not heard that it had landed: so nothing rested on it.
                seen.texts.remove(&text(&before));
            }
            seen.register = new;
        }
        drop(view);
        for change in changes {
            *self.steps.entry(change).or_default() += 1;
        }
        Ok(())
    }

    /// I5 and I6 as far as keys go, I8, I9.
    fn verify_rows(&mut self, agent: usize) -> Result<(), String> {
        let role = self.machines[agent].process.role();
        let store = self.machines[agent].process.local.store();
        let usage = store.usage();
        if usage.used + usage.reserved > usage.capacity {
            return Err(format!("I9: s{} uses {usage:?}", agent + 1));
        }
        let former = self.check.places.remove(&agent).unwrap_or_default();
        let mut places = Places::new();
        for entry in store.entries() {
            self.verify_form(agent, &entry)?;
            self.watched.readable(&self.machines[agent], &entry)?;
            self.check.uses.row(agent, &self.machines[agent].guardian, &entry)?;
            for (part, stream) in entry.streams() {
                if stream.suite != entry.level.0 {
                    return Err(format!(
                        "I7: a stream of {} is of suite {} at level {}",
                        entry.address, stream.suite, entry.level
                    ));
                }
                let place = (agent, entry.address.clone(), part == Part::Body);
                let known = self.check.streams.entry(stream.id).or_insert_with(|| place.clone());
                if *known != place {
                    return Err(format!("I6: stream {:?} is at {known:?} and {place:?}", stream.id));
                }
                let key = (entry.seq, entry.address.clone(), part == Part::Body);
                let extents = stream.extents.to_vec();
                if let Some((id, old)) = former.get(&key)
                    && *id != stream.id
                    && let Some(both) = extents.iter().find(|new| old.iter().any(|old| overlap(old, new)))
                {
                    return Err(format!(
                        "I8: {} is written at s{} where it was, at {both:?}",
                        entry.address,
                        agent + 1
                    ));
                }
                places.insert(key, (stream.id, extents));
            }
        }
        self.check.places.insert(agent, places);
        let rows = store.entries();
        let life = self.machines[agent].life;
        self.watched.retired((agent, life), role, &rows)
    }

    /// I7: what arrives is in the version that the server writes, or in quarantine; nothing is in a version that it cannot read
    /// without being in quarantine.
    fn verify_form(&self, agent: usize, entry: &Entry) -> Result<(), String> {
        if entry.journal.is_held() {
            // It is in its owner's form.
            return Ok(());
        }
        let arrives = entry.journal.is_arriving();
        let newest = NEWEST[usize::from(self.machines[agent].release)];
        let unlucky = newest > 1 && entry.schema == 1 && is_unlucky(object_of(&entry.address) as u64);
        // Before contract steps run, the second version is the newest.
        let due = newest.min(2);
        let wrong = entry.properties.is_some()
            && (entry.schema > newest
                || entry.quarantined.is_some() && !unlucky
                || arrives && entry.schema < due && !unlucky
                || arrives && unlucky != entry.quarantined.is_some());
        match wrong {
            false => Ok(()),
            true => Err(format!(
                "I7: {} is at s{} in schema {} of {newest}, quarantined for {:?}: {:?}",
                entry.address,
                agent + 1,
                entry.schema,
                entry.quarantined,
                entry.journal
            )),
        }
    }

    /// I7 (end): every log is whole, and its entries are the moves that were committed.
    pub(super) fn verify_logs(&self) -> Result<(), String> {
        let mut left = self.check.moves.clone();
        for machine in &self.machines {
            if machine.gone {
                // Its log is lost with it.
                if let Some(left) = &mut left {
                    left.retain(|_, owner| *owner != machine.name);
                }
                continue;
            }
            let store = machine.process.local.store();
            let page = store.audit(0, usize::MAX).map_err(|error| error.to_string())?;
            let head = store.audit_head();
            let mut verifier = Verifier::new(Head::first(&machine.name), None);
            for (number, line) in &page.entries {
                verifier.line(*number, line);
                let entry = audit::Entry::read(line).map_err(|error| format!("I7: {error}"))?;
                let Some(left) = &mut left else { continue };
                let owner = left.remove(&(entry.address.clone(), entry.epoch));
                if owner.as_ref() != Some(&machine.name) || entry.to != machine.name {
                    return Err(format!(
                        "I7: the log of {} has a move that was not: {entry:?}",
                        machine.name
                    ));
                }
            }
            verifier
                .end(head)
                .map_err(|fault| format!("I7: the log of {}: {fault}", machine.name))?;
            if page.head.is_some_and(|signed| signed.head != head.to_string()) {
                return Err(format!("I7: the log of {} has another head than is kept", machine.name));
            }
        }
        match left.and_then(|left| left.into_iter().next()) {
            Some(((address, epoch), owner)) => Err(format!(
                "I7: {owner} took {address} at epoch {epoch}, and its log does not say so"
            )),
            None => Ok(()),
        }
    }

    /// I4, I5: whoever the register names has what was shown.
    fn verify_copies(&self) -> Result<(), String> {
        let rows: Vec<Vec<std::sync::Arc<Entry>>> = self
            .machines
            .iter()
            .map(|machine| machine.process.local.store().entries())
            .collect();
        for (address, seen) in &self.check.objects {
            let Some(register) = &seen.register else { continue };
            if register.state == State::Deleted || self.is_spoilt(address) {
                continue;
            }
            let complete = |entry: &&std::sync::Arc<Entry>| {
                entry.address == *address && entry.properties.is_some() && entry.revision >= seen.shown
            };
            let owner = self.machines.iter().position(|machine| machine.name == register.owner);
            // What a lost server owned is taken over by who holds it.
            let is_gone = owner.is_some_and(|owner| self.machines[owner].gone);
            if register.state == State::Stable && !is_gone {
                let holds = owner.is_some_and(|owner| {
                    rows[owner].iter().filter(complete).any(|entry| {
                        // One that takes over for a lost owner may not know yet that it has.
                        matches!(&entry.journal, Journal::Held { refused: Some(refused), .. }
                            if refused.epoch.next() == register.epoch)
                            || entry.epoch == register.epoch
                                && match &entry.journal {
                                    Journal::Active { .. }
                                    | Journal::CreateSent { .. }
                                    | Journal::Moving { .. }
                                    | Journal::Sealed { .. }
                                    | Journal::DeleteSent { .. }
                                    | Journal::CommitSent { .. } => true,
                                    Journal::Moved { .. }
                                    | Journal::Forward { .. }
                                    | Journal::Tombstone { .. }
                                    | Journal::Reserved { .. }
                                    | Journal::Staged { .. }
                                    | Journal::Prepared { .. }
                                    | Journal::Held { .. } => false,
                                }
                    })
                });
                if !holds {
                    return Err(format!(
                        "I4: {} owns {address} at epoch {} and has no complete copy of it at revision {}",
                        register.owner, register.epoch, seen.shown
                    ));
                }
            }
            // Its deletion was in the register once, and holders let go of it; one that was put back does not know of that.
            let ends = |entry: &std::sync::Arc<Entry>| {
                entry.address == *address && matches!(entry.journal, Journal::DeleteSent { .. })
            };
            let ends = owner.is_some_and(|owner| rows[owner].iter().any(ends));
            for (machine, rows) in self.machines.iter().zip(&rows) {
                // A registry that was put back names holders of its day until it is reconciled, and none of them may take over.
                let is_named = register.holders.contains(&machine.name)
                    && machine.name != register.owner
                    && self.librarian.is_open();
                // Its epoch may be behind: a move or a takeover comes first, and nothing is shown before it has followed.
                if is_named && !ends && !machine.gone && !rows.iter().any(|entry| complete(&entry)) {
                    return Err(format!(
                        "I5: {} is named for {address}, and does not have revision {}",
                        machine.name, seen.shown
                    ));
                }
            }
            let readable = |(agent, rows): (usize, &Vec<std::sync::Arc<Entry>>)| {
                rows.iter()
                    .any(|entry| complete(&entry) && !self.check.is_rotten(agent, entry))
            };
            if !rows.iter().enumerate().any(readable) {
                return Err(format!("I5: no complete copy of {address} at revision {}", seen.shown));
            }
        }
        Ok(())
    }

    /// What must hold when faults have stopped and everything is quiet.
    pub(super) fn check_end(&self) -> Result<(), String> {
        self.verify_logs()?;
        for (agent, machine) in self.machines.iter().enumerate() {
            let usage = machine.process.local.store().usage();
            if usage.reserved != 0 {
                return Err(format!(
                    "I12: {} keeps {} octets reserved",
                    machine.name, usage.reserved
                ));
            }
            for entry in machine.process.local.store().entries() {
                if entry.properties.is_some()
                    && !self.check.is_rotten(agent, &entry)
                    && show(&machine.process.local, &entry) == Reply::Damaged
                {
                    return Err(format!(
                        "I16: the copy of {} on {} does not open",
                        entry.address, machine.name
                    ));
                }
            }
        }
        for (address, seen) in &self.check.objects {
            self.check_ends_at_owner(address, seen)?;
        }
        Ok(())
    }

    /// I10: from every server, forward entries lead to the owner with rising epochs, so that nothing goes round.
    fn check_ends_at_owner(&self, address: &Address, seen: &Seen) -> Result<(), String> {
        let Some(register) = seen.register.as_ref().filter(|_| !seen.beyond) else {
            return Ok(());
        };
        match &register.state {
            State::Moving { .. } => return Err(format!("I12: the register of {address} is left moving")),
            State::Deleted => return Ok(()),
            State::Stable => {}
        }
        for machine in &self.machines {
            let mut at = machine;
            let mut known = 0;
            let mut passed = HashSet::new();
            loop {
                let entries = at.process.local.store().entries();
                let forward = entries.iter().find_map(|entry| match &entry.journal {
                    Journal::Forward { to, epoch } if entry.address == *address => Some((to.clone(), epoch.0)),
                    _ => None,
                });
                let owns = entries
                    .iter()
                    .any(|entry| entry.address == *address && matches!(entry.journal, Journal::Active { .. }));
                if owns {
                    if at.name != register.owner {
                        return Err(format!(
                            "I1: {} still serves {address}, which is {}'s",
                            at.name, register.owner
                        ));
                    }
                    break;
                }
                let Some((to, epoch)) = forward else { break };
                if epoch < known || !passed.insert(at.name.clone()) {
                    return Err(format!("I10: forward entries of {address} go round at {}", at.name));
                }
                known = epoch;
                at = self
                    .machines
                    .iter()
                    .find(|machine| machine.name == to)
                    .expect("a server of this pool");
            }
        }
        Ok(())
    }

    /// Which objects' histories are how long: for a summary.
    pub(super) fn operations(&self) -> u64 {
        let of = |seen: &Seen| seen.history.len() as u64 + seen.forgotten;
        self.check.objects.values().map(of).sum()
    }
}

fn overlap(one: &Extent, other: &Extent) -> bool {
    one.volume == other.volume && one.block < other.block + other.blocks && other.block < one.block + one.blocks
}

#[cfg(test)]
mod tests {
    use super::super::linear::Action;
    use super::*;

    fn is(write: u64) -> Object {
        Object::Is { write, revision: write }
    }

    /// A writer and a reader, one after the other, so many times; each pair takes two moments.
    fn told(check: &mut Check, rounds: std::ops::Range<u64>) -> Result<(), String> {
        for round in rounds {
            let write = round + 1;
            tell(check, 4 * round, Action::Put(write), Outcome::Written(write))?;
            tell(check, 4 * round + 2, Action::Read, Outcome::Seen(is(write)))?;
        }
        Ok(())
    }

    fn tell(check: &mut Check, began: u64, action: Action, outcome: Outcome) -> Result<(), String> {
        let operation = check.began(0, open(action, began)).expect("there is room");
        check.ended(0, operation, began + 1, outcome)
    }

    fn open(action: Action, began: u64) -> Operation {
        Operation {
            action,
            began,
            ended: None,
            outcome: Outcome::Unknown,
        }
    }

    #[test]
    fn long_history_is_judged_to_its_end() {
        let mut check = Check::new(&Script::quiet(1, 1, &[]));
        told(&mut check, 0..1_000).expect("it is linearizable");
        // The last write but one is shown once more.
        assert!(tell(&mut check, 4_000, Action::Read, Outcome::Seen(is(999))).is_err());
        let mut check = Check::new(&Script::quiet(1, 1, &[]));
        told(&mut check, 0..1_000).expect("it is linearizable");
        // A write is lost: the next one has its revision.
        assert!(tell(&mut check, 4_000, Action::Put(2_000), Outcome::Written(1_000)).is_err());
    }

    #[test]
    fn history_is_kept_while_a_write_is_open() {
        let mut check = Check::new(&Script::quiet(1, 1, &[]));
        told(&mut check, 0..10).expect("it is linearizable");
        check.began(0, open(Action::Put(5_000), 41)).expect("there is room");
        told(&mut check, 10..60).expect("it may not have happened yet");
        // It happens at last.
        let seen = Object::Is {
            write: 5_000,
            revision: 61,
        };
        tell(&mut check, 300, Action::Read, Outcome::Seen(seen)).expect("it was open all the time");
    }
}
