//! What requests may see of objects that several servers hold a copy of.
//!
//! The machines of [`crate::copies`] run in the engine of moves ([`crate::transfer::engine`]). What follows from them for requests
//! stands in each object's slot as a [`Share`]: a request that finds one that allows it goes on at once, another one says that it
//! waits, and the engine makes the machine that will allow it, or say why not. So objects that nobody writes have no machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use zones::{Address, Epoch, Keep, ServerName};

use super::Local;
use super::table::{State, owned};
use crate::clock::BootInstant;
use crate::copies::permits::{Permits, Pledge};
use crate::migration::guard::{Guard, stands};
use crate::store::{Entry, Journal};

/// What is known of an object's copies, in memory only: a restart knows nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Share {
    /// Every in-sync holder has this revision, and may permit that it is shown.
    Confirmed {
        /// The epoch at which it is owned here.
        epoch: Epoch,
        /// The revision.
        revision: u64,
        /// The other holders, and the pledge under which each has confirmed it.
        under: Vec<(ServerName, Pledge)>,
        /// From when on nobody reads under a grant of this server any more.
        quiet_at: BootInstant,
    },
    /// A revision is here that not every holder is known to have.
    Unconfirmed {
        /// From when on nobody reads under a grant of this server any more.
        quiet_at: BootInstant,
    },
    /// The register says that another server owns it.
    Lost,
    /// The owner lets this holder serve reads.
    Granted {
        /// The owner's epoch.
        epoch: Epoch,
        /// The revision.
        revision: u64,
        /// Until then.
        until: BootInstant,
    },
    /// The owner does not let this holder serve reads now: it answers them itself.
    Denied {
        /// Until it is asked again.
        until: BootInstant,
    },
}

/// What the engine and requests share of it.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    permits: RwLock<Permits>,
    /// Objects that a request waits for, or that have changed: the engine looks at them.
    asked: Mutex<BTreeSet<Address>>,
    news: Notify,
    /// Objects that are no more, and who held copies of them.
    released: Mutex<Vec<(Address, Vec<ServerName>)>>,
    /// How many objects of this server each other one holds.
    peers: Mutex<BTreeMap<ServerName, u64>>,
    kept: Mutex<KeptFigures>,
}

/// What the last round through all objects of this server found of their copies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KeptFigures {
    /// Objects with fewer copies than they are to have.
    pub short: u64,
    /// Objects with a copy where none is to be.
    pub leaving: u64,
}

/// Whether a write that is durable here may be acknowledged.
#[derive(Debug)]
pub enum Confirmation {
    /// Every in-sync holder has it.
    Given,
    /// Look again when this resolves.
    Wait(OwnedNotified),
    /// The object is another server's: whether the write counts, the other one knows.
    Lost,
}

impl Sharing {
    fn ask(&self, address: &Address) {
        if self.asked.lock().insert(address.clone()) {
            self.news.notify_one();
        }
    }

    fn allows(&self, entry: &Entry, share: Option<&Share>, now: BootInstant) -> bool {
        match (&entry.journal, share) {
            (Journal::Held { .. }, Some(Share::Granted { epoch, revision, until })) => {
                (*epoch, *revision) == (entry.epoch, entry.revision) && now < *until
            }
            (Journal::Held { .. }, _) => !stands(Guard::ReadGrants),
            (
                _,
                Some(Share::Confirmed {
                    epoch, revision, under, ..
                }),
            ) if entry.is_shared() => {
                let permits = self.permits.read();
                let permitted = |(name, pledge): &(ServerName, Pledge)| {
                    permits.until(name, *pledge).is_some_and(|until| now < until)
                };
                (*epoch, *revision) == (entry.epoch, entry.revision)
                    && (under.iter().all(permitted) || !stands(Guard::Permission))
            }
            (_, Some(Share::Lost)) => false,
            (_, _) => !entry.is_shared(),
        }
    }

    /// Counts a row that came, or one that is gone.
    pub(super) fn count(&self, row: Option<&Entry>, comes: bool) {
        let Some(keeping) = row.filter(|row| owned(row)).and_then(|row| row.keeping.as_ref()) else {
            return;
        };
        let changing = keeping
            .change
            .as_ref()
            .filter(|change| change.adds)
            .map(|change| &change.server);
        let mut peers = self.peers.lock();
        for name in keeping.others.iter().chain(changing) {
            let count = peers.entry(name.clone()).or_default();
            *count = if comes { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                peers.remove(name);
            }
        }
    }
}

impl State {
    /// Whether the owner answers reads of the copy that is held here itself.
    pub(super) fn is_denied(&self, now: BootInstant) -> bool {
        matches!(self.share(), Some(Share::Denied { until }) if now < *until)
    }

    /// Whether a request may see this copy now, as far as other holders are concerned; if not, it is asked for.
    pub(super) fn is_allowed(&self, sharing: &Sharing, entry: &Entry, now: BootInstant) -> bool {
        let allowed = sharing.allows(entry, self.share(), now);
        if !allowed {
            sharing.ask(&entry.address);
        }
        allowed
    }
}

impl Local {
    /// Whether an object may be shown, written or given away at this moment, as far as its other holders are concerned.
    #[must_use]
    pub fn is_permitted(&self, entry: &Entry, now: BootInstant) -> bool {
        let Some(slot) = self.table.get(&entry.address) else {
            return false;
        };
        slot.with(|state| state.is_allowed(&self.sharing, entry, now))
    }

    /// The same, without telling the engine that somebody waits for it.
    pub(crate) fn permits_now(&self, entry: &Entry, now: BootInstant) -> bool {
        let Some(slot) = self.table.get(&entry.address) else {
            return false;
        };
        slot.with(|state| self.sharing.allows(entry, state.share(), now))
    }

    /// Whether a write of an object may be applied; if not, look again when that resolves.
    ///
    /// # Errors
    ///
    /// What to wait for.
    pub fn may_write(&self, entry: &Entry, now: BootInstant) -> Result<(), OwnedNotified> {
        let slot = self.table.get_or_make(&entry.address);
        slot.with(|state| match state.is_allowed(&self.sharing, entry, now) {
            true => Ok(()),
            false => Err(state.gate().changed()),
        })
    }

    /// Whether a write that made `revision` at `epoch` may be acknowledged.
    #[must_use]
    pub fn confirmation(&self, address: &Address, epoch: Epoch, revision: u64, now: BootInstant) -> Confirmation {
        let slot = self.table.get_or_make(address);
        slot.with(|state| {
            let Some(entry) = state.current().filter(|entry| entry.epoch == epoch).cloned() else {
                return Confirmation::Lost;
            };
            if !owned(&entry) {
                // Given away or deleted with its holders' knowledge; or taken over without.
                return match !entry.is_shared() && entry.revision >= revision {
                    true => Confirmation::Given,
                    false => Confirmation::Lost,
                };
            }
            if state.share() == Some(&Share::Lost) {
                return Confirmation::Lost;
            }
            match entry.revision >= revision && state.is_allowed(&self.sharing, &entry, now) {
                true => Confirmation::Given,
                false => Confirmation::Wait(state.gate().changed()),
            }
        })
    }

    /// Whether an object that was made at `epoch` has as many copies as it is to have, or as there are servers for: so what is
    /// acknowledged survives the loss of one.
    ///
    /// # Errors
    ///
    /// What to wait for; a change of `keep` is none of it.
    pub fn has_copies(
        &self,
        address: &Address,
        epoch: Epoch,
        keep: &Keep,
        me: &ServerName,
    ) -> Result<(), OwnedNotified> {
        let needed = keep.others_needed(address, me);
        let slot = self.table.get_or_make(address);
        slot.with(|state| {
            let entry = state.current().filter(|entry| entry.epoch == epoch && owned(entry));
            let lacks = entry.is_some_and(|entry| {
                // While a change is given up, one may count that the register does not name, and never will.
                let change = entry.keeping.as_ref().and_then(|keeping| keeping.change.as_ref());
                entry.remaining().count() < needed || needed > 0 && change.is_some_and(|change| change.server == *me)
            });
            match lacks {
                true => Err(state.gate().changed()),
                false => Ok(()),
            }
        })
    }

    /// Whether whoever changes the object waits for other servers at this moment.
    pub(crate) fn is_resting(&self, address: &Address) -> bool {
        let slot = self.table.get(address);
        slot.is_some_and(|slot| slot.with(|state| state.gate().is_resting()))
    }

    /// Tells the engine that an object has changed, or that somebody waits for it.
    pub fn ask_for(&self, address: &Address) {
        self.sharing.ask(address);
    }

    /// Objects that are no more, and who held copies of them: they look at the register.
    pub(crate) fn take_released(&self) -> Vec<(Address, Vec<ServerName>)> {
        std::mem::take(&mut *self.sharing.released.lock())
    }

    /// An object is no more, as its register says.
    pub fn released(&self, entry: &Entry) {
        if entry.is_shared() {
            let released = (entry.address.clone(), entry.others().to_vec());
            self.sharing.released.lock().push(released);
            self.sharing.news.notify_one();
        }
    }

    /// What is waited for, or has changed, since this was asked last.
    pub(crate) fn asked_for(&self) -> BTreeSet<Address> {
        std::mem::take(&mut *self.sharing.asked.lock())
    }

    /// Whether the engine has something to look at.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.sharing.asked.lock().is_empty() || !self.sharing.released.lock().is_empty()
    }

    /// Resolves when the engine has something to look at.
    pub(crate) async fn news(&self) {
        self.sharing.news.notified().await;
    }

    /// What peers permit.
    pub(crate) fn permits<T>(&self, look: impl FnOnce(&mut Permits) -> T) -> T {
        look(&mut self.sharing.permits.write())
    }

    /// Servers that hold copies of this server's objects, and of how many.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<ServerName, u64> {
        self.sharing.peers.lock().clone()
    }

    /// Says what requests of an object may do from now on, and wakes those that wait.
    pub(crate) fn set_share(&self, address: &Address, share: Option<Share>) {
        let Some(slot) = self.table.get(address) else { return };
        slot.with(|state| {
            if state.share() != share.as_ref() {
                state.set_share(share);
            }
            state.wake();
        });
    }

    /// What requests of an object may do.
    pub(crate) fn share(&self, address: &Address) -> Option<Share> {
        let slot = self.table.get(address)?;
        slot.with(|state| state.share().cloned())
    }

    pub(crate) fn set_kept(&self, kept: KeptFigures) {
        *self.sharing.kept.lock() = kept;
    }

    /// What the last round through all objects found of their copies.
    #[must_use]
    pub fn kept(&self) -> KeptFigures {
        *self.sharing.kept.lock()
    }

    /// Wakes those that wait for an object.
    pub(crate) fn wake(&self, address: &Address) {
        if let Some(slot) = self.table.get(address) {
            slot.with(|state| state.wake());
        }
    }

    /// Before a holder is told that it may serve reads until then at the latest: whether it may be, since the object is neither
    /// sealed nor about to be deleted. Whoever ends it from here on waits for that moment.
    pub(crate) fn may_grant(&self, address: &Address, epoch: Epoch, over_at: BootInstant) -> bool {
        let Some(slot) = self.table.get(address) else {
            return false;
        };
        slot.with(|state| {
            let serves = state.current().is_some_and(|entry| {
                let is_open = matches!(&entry.journal, Journal::Active { .. } | Journal::Moving { .. });
                entry.epoch == epoch && is_open
            });
            match state.share_mut() {
                Some(Share::Confirmed { quiet_at, .. }) if serves => {
                    *quiet_at = over_at.max(*quiet_at);
                    true
                }
                Some(_) | None => false,
            }
        })
    }

    /// From when on nobody reads an object under a grant of this server.
    #[must_use]
    pub fn quiet_at(&self, address: &Address) -> Option<BootInstant> {
        match self.share(address)? {
            Share::Confirmed { quiet_at, .. } | Share::Unconfirmed { quiet_at } => Some(quiet_at),
            Share::Lost | Share::Granted { .. } | Share::Denied { .. } => None,
        }
    }

    /// The row, if there is one, that this server holds for another.
    pub(crate) fn held_row(&self, address: &Address) -> Option<Arc<Entry>> {
        let slot = self.table.get(address)?;
        slot.with(|state| state.held().cloned())
    }

    /// Rows that this server holds for others, in the order of addresses, behind `after`, at most `most`.
    pub(crate) fn held_rows(&self, after: Option<&Address>, most: usize) -> Vec<Arc<Entry>> {
        let held = |state: &State| state.held().cloned();
        self.table
            .scan_rows(None, after, most, held, |_, entry| Some(Arc::clone(entry)))
    }

    /// Objects of this server, in the order of addresses, behind `after`, at most `most`; whether something is known of their
    /// copies: what a holder confirmed under another pledge than its last says nothing.
    pub(crate) fn kept_rows(&self, after: Option<&Address>, most: usize) -> Vec<(Arc<Entry>, bool)> {
        let kept = |state: &State| {
            let entry = state.current().filter(|entry| owned(entry))?;
            let known = match state.share() {
                Some(Share::Confirmed { under, .. }) => {
                    let permits = self.sharing.permits.read();
                    let stands = |(name, pledge): &(_, _)| permits.pledge(name).is_none_or(|last| last == *pledge);
                    under.iter().all(stands)
                }
                share => share.is_some(),
            };
            Some((Arc::clone(entry), known))
        };
        self.table
            .scan_rows(None, after, most, kept, |_, kept| Some(kept.clone()))
    }
}
