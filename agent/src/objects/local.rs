//! The objects of this agent as far as it decides alone: its copies, their gates, its disk.
//!
//! Nothing here asks the librarian, waits or runs a task of its own; the time is an argument. What waits and asks is
//! [`super::Objects`], which is this and the librarian.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::oneshot;
use zones::upkeep::Sum;
use zones::{Address, Level, Policy, ServerName};

use super::forwards::{gone_to, held_for};
use super::gate;
use super::sharing::Sharing;
use super::table::{self, State, Table, Totals};
use super::turn::Turn;
use super::words::{Miss, ReadGate, Summary};
use super::{Settings, writing};
use crate::clock::BootInstant;
use crate::schema::Stepper;
use crate::store::{Change, CommitError, Damage, Entry, Journal, Store};
use crate::vault::Levels;

/// Copies, gates and disk of one agent.
#[derive(Debug)]
pub struct Local {
    pub(super) store: Arc<Store>,
    pub(super) table: Table,
    pub(super) settings: Settings,
    /// What is known of copies on other servers.
    pub(super) sharing: Sharing,
    /// What the pool asks of encryption.
    levels: RwLock<Levels>,
    stepper: Arc<Stepper>,
    /// Objects that no move can take away since their copies here cannot be read.
    unreadable: AtomicU64,
    /// What was given away and has its copy here still.
    moved: Mutex<Sum>,
    /// Whether nothing new begins any more. Held by every commit that adds a copy, until the table has it.
    pub(super) closed: RwLock<bool>,
    /// Present while objects are looked at anew after a new policy: the address behind which that goes on.
    pub(super) recount: Mutex<Option<Option<Address>>>,
}

/// What an address says to a read.
#[derive(Debug)]
pub enum Look {
    /// This copy.
    Shown(Arc<Entry>),
    /// It is not shown here.
    Missed(Miss),
    /// Not now: look again when this resolves.
    Wait(OwnedNotified),
    /// No copy is here that requests see: the register decides.
    Unknown,
}

/// What asking for a turn gave.
#[derive(Debug)]
pub enum AskedTurn {
    /// It is the asker's.
    Taken(Turn),
    /// It comes through here.
    InLine(oneshot::Receiver<Turn>),
    /// Too many wait.
    Full,
}

/// What a restart found open.
#[derive(Debug)]
pub enum Open {
    /// A move: its machine is to be started.
    Move(Arc<Entry>),
    /// A creation that may have been sent, in its turn.
    Create(Arc<Entry>, zones::Tx, Turn),
    /// A deletion that may have been sent, in its turn.
    Delete(Arc<Entry>, zones::Tx, Turn),
}

impl Local {
    /// The objects that the index has; call [`Local::take_up`] before serving.
    #[must_use]
    pub fn new(store: Arc<Store>, entries: Vec<Arc<Entry>>, stepper: Arc<Stepper>, settings: Settings) -> Arc<Local> {
        let local = Arc::new(Local {
            store,
            table: Table::default(),
            levels: RwLock::new(settings.levels),
            stepper,
            settings,
            sharing: Sharing::default(),
            unreadable: AtomicU64::new(0),
            moved: Mutex::default(),
            closed: RwLock::new(false),
            recount: Mutex::new(None),
        });
        for entry in entries {
            let address = entry.address.clone();
            local.swap(&address, None, Some(entry));
        }
        local
    }

    /// What a read finds that looks at `now`.
    #[must_use]
    pub fn look(&self, address: &Address, now: impl FnOnce() -> BootInstant) -> Look {
        match self.table.get(address) {
            Some(slot) => slot.with(|state| {
                let told_by_its_owner = |entry: &Entry| {
                    // Of a later release: who asks for an earlier version cannot be answered here.
                    let newest = self.stepper.newest(&entry.kind);
                    newest.is_some_and(|newest| entry.schema > newest)
                };
                look(state, &self.sharing, told_by_its_owner, now)
            }),
            None => Look::Unknown,
        }
    }

    /// Asks for the turn of an object, behind everyone who asked before.
    #[must_use]
    pub fn ask_turn(&self, address: &Address, now: BootInstant) -> AskedTurn {
        let slot = self.table.get_or_make(address);
        match slot.with(|state| state.gate().ask(now, self.settings.queued_writes_max)) {
            gate::Asked::Taken => AskedTurn::Taken(Turn::new(slot)),
            gate::Asked::InLine(receiver) => AskedTurn::InLine(receiver),
            gate::Asked::Full => AskedTurn::Full,
        }
    }

    /// Forgets an address of which nothing is here and that nobody waits for.
    pub fn tidy(&self, address: &Address) {
        self.table.forget(address);
    }

    /// Objects that this agent owns and serves, in the order of addresses, behind `after`, at or below `under`.
    #[must_use]
    pub fn list(&self, under: Option<&Address>, after: Option<&Address>, limit: usize) -> Vec<Summary> {
        self.table.scan(under, after, limit, |address, entry| {
            let shown = match &entry.journal {
                Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } => true,
                Journal::CreateSent { .. }
                | Journal::Moved { .. }
                | Journal::Forward { .. }
                | Journal::DeleteSent { .. }
                | Journal::Tombstone { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. }
                // Its owner lists it.
                | Journal::Held { .. } => false,
            };
            shown.then(|| Summary {
                address: address.clone(),
                kind: entry.kind.clone(),
                schema: entry.schema,
                level: entry.level,
                epoch: entry.epoch,
                revision: entry.revision,
                size: entry.body.as_ref().map_or(0, |body| body.plain_octets),
                quarantined: entry.quarantined.clone(),
            })
        })
    }

    /// What is owned, and what is in the rows.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.table.totals()
    }

    /// What was given away and has its copy here still.
    #[must_use]
    pub fn moved(&self) -> Sum {
        *self.moved.lock()
    }

    /// Objects that no move could take away at the last try, since their copies here cannot be read.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unreadable(&self, objects: usize) {
        self.unreadable.store(objects as u64, Ordering::Relaxed);
    }

    /// Parts of copies that are set aside and that a move would have to take: not those of copies of others' objects.
    pub(super) fn damaged(&self) -> u64 {
        let damaged = self.store.damaged();
        damaged.iter().filter(|damage| !self.is_of_held(damage)).count() as u64
    }

    fn is_of_held(&self, damage: &Damage) -> bool {
        let slot = (damage.address.parse().ok()).and_then(|address: Address| self.table.get(&address));
        let is_of = |row: &Arc<Entry>| {
            row.journal.is_held() && row.streams().any(|(_, stream)| stream.id.to_string() == damage.stream)
        };
        slot.is_some_and(|slot| slot.with(|state| state.rows().any(is_of)))
    }

    /// Copies here of objects that `owner` owns, in the order of addresses, behind `after`, at most `most`.
    #[must_use]
    pub fn held_by(&self, owner: &ServerName, after: Option<&Address>, most: usize) -> Vec<Arc<Entry>> {
        let held = |state: &State| state.held_for(owner);
        self.table
            .scan_rows(None, after, most, held, |_, entry| Some(Arc::clone(entry)))
    }

    /// Objects of this server that others hold too, or whose holders may be about to change, in the order of addresses,
    /// behind `after`, at most `most`.
    #[must_use]
    pub fn shared(&self, after: Option<&Address>, most: usize) -> Vec<Arc<Entry>> {
        let is_shared = |entry: &Entry| table::owned(entry) && entry.is_shared();
        self.table.scan(None, after, most, |_, entry| {
            is_shared(entry).then(|| Arc::clone(entry))
        })
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The copy of an object whose row answers a request; `None` where the register decides.
    pub(super) fn answering(&self, address: &Address) -> Option<Arc<Entry>> {
        let slot = self.table.get(address)?;
        slot.with(|state| state.answering().cloned())
    }

    /// Whether this agent owns the object, or may own it.
    #[must_use]
    pub fn is_here(&self, address: &Address) -> bool {
        let is = |journal: &Journal| journal.may_own() || journal.is_held();
        self.current(address).is_some_and(|entry| is(&entry.journal))
    }

    /// The copy of an object that requests see.
    pub(super) fn current(&self, address: &Address) -> Option<Arc<Entry>> {
        self.table
            .get(address)
            .and_then(|slot| slot.with(|state| state.current().cloned()))
    }

    /// Level of an object's streams: its own, which rises only when the object moves or is swept; what the pool wants for one
    /// that is not here.
    #[must_use]
    pub fn level_of(&self, address: &Address) -> Level {
        self.current(address)
            .map_or_else(|| self.levels().wanted(), |entry| entry.level)
    }

    /// What the pool asks of encryption.
    #[must_use]
    pub fn levels(&self) -> Levels {
        *self.levels.read()
    }

    /// Takes what the pool's plan asks, if this release knows it. Objects that are here stay as they are until they move or are
    /// swept; call [`Local::recount`] until it has looked at all of them.
    pub fn obey(&self, policy: &Policy) {
        let mut recount = self.recount.lock();
        let mut news = self.stepper.obey(policy.steps);
        match Levels::new(policy.floor, policy.level) {
            Ok(levels) => news |= self.change_levels(levels),
            Err(error) => {
                tracing::error!(%error, "the plan asks for what this release cannot do: objects stay as they are")
            }
        }
        if news {
            *recount = Some(None);
        }
    }

    /// The schemas that objects are brought to.
    #[must_use]
    pub fn stepper(&self) -> &Stepper {
        &self.stepper
    }

    /// Sets what is asked of encryption.
    pub fn set_levels(&self, levels: Levels) {
        let mut recount = self.recount.lock();
        if self.change_levels(levels) {
            *recount = Some(None);
        }
    }

    fn change_levels(&self, levels: Levels) -> bool {
        std::mem::replace(&mut *self.levels.write(), levels) != levels
    }

    /// Resolves at the next change of an object that the register says is here, while no copy here says so; `None` if
    /// one does.
    pub(super) fn arriving(&self, address: &Address) -> Option<OwnedNotified> {
        let slot = self.table.get_or_make(address);
        slot.with(|state| match state.answering() {
            Some(_) => None,
            None => Some(state.gate().changed()),
        })
    }

    /// Commits changes of the index and takes them into the table: all or nothing. Entries come back in the order of
    /// the insertions and replacements. Blocks.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing has changed then.
    pub fn commit_now(&self, changes: Vec<(Address, Change)>) -> Result<Vec<Arc<Entry>>, CommitError> {
        let begins = changes.iter().any(|(_, change)| matches!(change, Change::Insert(_)));
        // Held until the table has what begins.
        let closed = begins.then(|| self.closed.read());
        if closed.as_deref() == Some(&true) {
            return Err(CommitError::Closed);
        }
        let mut swaps = Vec::with_capacity(changes.len());
        let mut plain = Vec::with_capacity(changes.len());
        for (address, change) in changes {
            swaps.push(match &change {
                Change::Insert(_) => (address, None, true),
                Change::Replace { seq, .. } => (address, Some(*seq), true),
                Change::Remove { seq } => (address, Some(*seq), false),
            });
            plain.push(change);
        }
        let mut entries = self.store.commit(plain)?.into_iter();
        let mut new = Vec::with_capacity(swaps.len());
        for (address, removed, comes) in swaps {
            let entry = comes.then(|| entries.next().expect("one entry for each that was to come"));
            new.extend(entry.clone());
            self.swap(&address, removed, entry);
        }
        Ok(new)
    }

    /// Takes one change of the index into the table, and into the sum of what was given away.
    fn swap(&self, address: &Address, removed: Option<u64>, new: Option<Arc<Entry>>) {
        let element = |entry: Option<&Entry>| {
            let given = entry.and_then(Entry::given)?;
            Some(self.store.vault().element(&given))
        };
        let comes = element(new.as_deref());
        self.sharing.count(new.as_deref(), true);
        let gone = self.table.swap(address, removed, new, |entry| self.stand(entry));
        self.sharing.count(gone.as_deref(), false);
        let goes = element(gone.as_deref());
        if comes.is_none() && goes.is_none() {
            return;
        }
        let mut moved = self.moved.lock();
        *moved = comes.into_iter().fold(*moved, Sum::with);
        *moved = goes.into_iter().fold(*moved, Sum::without);
    }

    /// Hash of verb and content, keyed like every digest that stays: it confirms no guesses.
    #[must_use]
    pub fn request_hash(&self, verb: &str, fields: &[Option<&[u8]>]) -> [u8; 32] {
        let mut hasher = self.store.vault().hasher();
        hasher.update(verb.as_bytes());
        for field in fields {
            let length = field.map_or(u64::MAX, |field| field.len() as u64);
            hasher.update(&length.to_be_bytes());
            hasher.update(field.unwrap_or_default());
        }
        hasher.finish().0
    }

    /// Closes what a restart found open and says what it is. Until their machines say so, writes of open moves are held,
    /// and reads of copies whose owner the register has to tell, too; creations and deletions keep their turns.
    #[must_use]
    pub fn take_up(&self) -> Vec<Open> {
        let mut open = Vec::new();
        for entry in self.table.entries() {
            let slot = self.table.get(&entry.address).expect("the entry is in the table");
            match &entry.journal {
                Journal::Active { wait: None } | Journal::Forward { .. } | Journal::Tombstone { .. } => {}
                // Nothing of it is shown or taken; what is to be settled is found by `held_by`.
                Journal::Held { .. } => {}
                // Before serving, the register is read for each of these.
                Journal::Active { wait: Some(_) } | Journal::Moving { .. } | Journal::Sealed { .. } => {
                    slot.with(|state| {
                        state.gate().hold();
                        state.gate().set_reads(ReadGate::Held);
                    });
                    open.push(Open::Move(entry));
                }
                Journal::Moved { .. }
                | Journal::Reserved { .. }
                | Journal::Staged { .. }
                | Journal::Prepared { .. }
                | Journal::CommitSent { .. } => open.push(Open::Move(entry)),
                Journal::CreateSent { tx } => {
                    let (tx, turn) = (*tx, slot.turn_at_start());
                    open.push(Open::Create(entry, tx, turn));
                }
                Journal::DeleteSent { tx } => {
                    let (tx, turn) = (*tx, slot.turn_at_start());
                    open.push(Open::Delete(entry, tx, turn));
                }
            }
        }
        open
    }
}

impl Turn {
    /// Whether writes may go on in this turn. An object may become a held one between the turn and the look at it, when
    /// it has just arrived: then the turn is to be given back, and asked for anew.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let (current, held) = self
            .slot()
            .with(|state| (state.current().cloned(), state.gate().is_held()));
        !current.is_some_and(|entry| writing::waits(&entry, held))
    }
}

fn look(
    state: &mut State,
    sharing: &Sharing,
    told_by_its_owner: impl FnOnce(&Entry) -> bool,
    now: impl FnOnce() -> BootInstant,
) -> Look {
    let Some(entry) = state.answering().cloned() else {
        return Look::Unknown;
    };
    match &entry.journal {
        Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } => {
            // The clock is looked at after the copy was found, so that the copy was the present one before the gate's end.
            let now = now();
            match state.gate().reads_pass(now) && state.is_allowed(sharing, &entry, now) {
                true => Look::Shown(entry),
                false => Look::Wait(state.gate().changed()),
            }
        }
        Journal::CreateSent { .. } | Journal::DeleteSent { .. } => Look::Wait(state.gate().changed()),
        Journal::Moved { to, epoch } | Journal::Forward { to, epoch } => Look::Missed(gone_to(&entry, to, *epoch)),
        Journal::Tombstone { .. } => Look::Missed(Miss::Deleted),
        Journal::Held { owner, .. } => {
            let now = now();
            match state.is_denied(now) || told_by_its_owner(&entry) {
                true => Look::Missed(held_for(&entry, owner)),
                false if state.is_allowed(sharing, &entry, now) => Look::Shown(entry),
                false => Look::Wait(state.gate().changed()),
            }
        }
        Journal::Reserved { .. } | Journal::Staged { .. } | Journal::Prepared { .. } | Journal::CommitSent { .. } => {
            Look::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zones::{Epoch, Tx};

    use super::*;
    use crate::store::entry::tests::{journal, stream};
    use crate::store::simulated::SimulatedDisk;
    use crate::store::tests::{new_entry, settings, vault, write};
    use crate::store::{Content, Disk, NewEntry, Stream};
    use crate::vault::Part;

    fn local() -> Arc<Local> {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        let (store, entries) = Store::open(disk.clone(), vault(&disk, 1), &settings(64)).unwrap();
        Local::new(Arc::new(store), entries, Arc::default(), Settings::default())
    }

    /// What the figures are by a look at every row.
    fn counted(local: &Local) -> (u64, u64, u64, u64, (u64, u64), Sum) {
        let rows = local.entries();
        let count = |is: fn(&Entry) -> bool| rows.iter().filter(|row| is(row)).count() as u64;
        let moved = rows
            .iter()
            .filter_map(|row| row.given())
            .fold(Sum::default(), |sum, given| {
                sum.with(local.store.vault().element(&given))
            });
        // Of rows of one address the highest epoch is the object.
        let used = (0..4)
            .filter_map(|at| local.entry(&format!("3.{at}").parse().unwrap()))
            .filter(|entry| table::owned(entry))
            .map(|entry| entry.disk_octets())
            .fold(0, u64::wrapping_add);
        let held = rows.iter().filter(|row| row.journal.is_held());
        let held = held.fold((0, 0), |(count, octets): (u64, u64), row| {
            (count + 1, octets.wrapping_add(row.disk_octets()))
        });
        (
            used,
            count(|row| row.journal.is_open()),
            count(|row| row.journal.is_retired()),
            count(|row| row.streams().next().is_some()),
            held,
            moved,
        )
    }

    fn row(seq: u64, at: u8, journal: Journal, epoch: u64, properties: Option<Stream>) -> Arc<Entry> {
        Arc::new(Entry {
            seq,
            address: format!("3.{at}").parse().unwrap(),
            epoch: Epoch(epoch),
            revision: seq,
            kind: "file".parse().unwrap(),
            schema: 1,
            level: Level(1),
            journal,
            properties,
            body: None,
            writes: Vec::new(),
            tx: None,
            from: None,
            received: None,
            quarantined: None,
            migrated_from: None,
            leaving: None,
            keeping: None,
        })
    }

    /// An address, which of its rows goes, and what comes.
    type Swap = (u8, Option<prop::sample::Index>, Option<(Journal, u64, Option<Stream>)>);

    fn swap() -> impl Strategy<Value = Swap> {
        let comes = (journal(), 1_u64..4, prop::option::of(stream()));
        (0_u8..4, any::<Option<prop::sample::Index>>(), prop::option::of(comes))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn figures_are_those_of_a_look_at_every_row(swaps in prop::collection::vec(swap(), 0..60)) {
            let local = local();
            for (seq, (at, goes, comes)) in (1..).zip(swaps) {
                let address: Address = format!("3.{at}").parse().unwrap();
                let mut rows = local.entries();
                rows.retain(|row| row.address == address);
                let goes = goes.filter(|_| !rows.is_empty()).map(|index| Arc::clone(index.get(&rows)));
                let arrives = rows.iter().find(|row| row.journal.is_arriving());
                let new = comes.map(|(journal, epoch, stream)| row(seq, at, journal, epoch, stream));
                // One copy of an address arrives at a time.
                let is_second = new.as_ref().is_some_and(|new| new.journal.is_arriving())
                    && arrives.is_some_and(|arrives| goes.as_ref().is_none_or(|goes| goes.seq != arrives.seq));
                local.swap(&address, goes.map(|row| row.seq), new.filter(|_| !is_second));
                let totals = local.totals();
                let held = (totals.held, totals.held_octets);
                let told = (totals.used, totals.open, totals.retired, totals.copies, held, local.moved());
                prop_assert_eq!(told, counted(&local));
            }
        }
    }

    #[test]
    fn nothing_begins_after_the_store_was_found_clear_however_close_the_race() {
        for _ in 0..20 {
            let local = local();
            let staged = write(&local.store, &address(), Part::Body, b"new").unwrap();
            let begin = std::sync::Barrier::new(2);
            let (made, closed) = std::thread::scope(|scope| {
                let make = scope.spawn(|| {
                    begin.wait();
                    let new = NewEntry {
                        journal: Journal::CreateSent { tx: Tx([1; 16]) },
                        ..new_entry(&address(), 1, Content::Staged(staged))
                    };
                    local.commit_now(vec![(address(), Change::Insert(new))])
                });
                begin.wait();
                let closed = local.close_for_install(|| 0);
                (make.join().unwrap(), closed)
            });
            match closed {
                Ok(()) => assert!(matches!(made, Err(CommitError::Closed)), "{made:?}"),
                Err(_) => assert!(made.is_ok(), "{made:?}"),
            }
        }
    }

    fn address() -> Address {
        "3.1".parse().unwrap()
    }
}
