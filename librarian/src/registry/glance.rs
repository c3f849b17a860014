//! What common questions are answered from without waiting for anybody.
//!
//! A change is written under the lock ([`super::Registry::view`]); this is what of it may be read beside the writing. It is complete
//! for an object that is found, whose register is read whole. That there is none is told from several registers, which one message
//! may change together: it counts if no object came or went while they were read. Whoever is not told, or does not find what a
//! register names, looks under the lock. Servers are not here:
//! who keeps what answers say of them asks whether they are still the same *after* the register was read, since a server is known
//! before a register names it, and no message changes both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};

use super::entry::Serials;
use super::table::{Table, Version};

/// How often it is read again which objects there are before the reader is sent away: the writer may be amid a long message.
const READINGS_MAX: usize = 20;

/// What is read without the lock.
#[derive(Default)]
pub(crate) struct Glance {
    /// `None` while the registry loads.
    table: ArcSwapOption<Table>,
    servers_version: AtomicU64,
    is_delegated: AtomicBool,
    /// Of `obj`, in the high half, and `tree`.
    serials: AtomicU64,
    /// Of which objects there are: it changes from the first that a message makes or deletes until its end.
    objects: Version,
}

impl Glance {
    /// Where registers lie now.
    pub(crate) fn table(&self) -> Guard<Option<Arc<Table>>> {
        self.table.load()
    }

    /// What a reading comes to during which no object came or went; `None` while they do, and where `read` cannot tell.
    ///
    /// `read` may be called several times.
    pub(crate) fn read<T>(&self, read: impl Fn(&Table) -> Option<T>) -> Option<T> {
        let found = self.objects.read(READINGS_MAX, || {
            // Taken within: what came before is found in it.
            read(self.table.load().as_deref()?)
        });
        found.flatten()
    }

    /// Called before the first object of a message comes or goes.
    pub(crate) fn objects_change(&self) {
        self.objects.begin();
    }

    /// Called when a message is published as a whole.
    pub(crate) fn message_ends(&self) {
        self.objects.end();
    }

    /// Another number after each change of a server, in what lasts or not.
    pub(crate) fn servers_version(&self) -> u64 {
        self.servers_version.load(Ordering::Acquire)
    }

    /// Whether some part of `tree` is delegated, so that any object may be hidden.
    pub(crate) fn is_delegated(&self) -> bool {
        self.is_delegated.load(Ordering::Acquire)
    }

    /// The serials of `obj` and `tree`.
    pub(crate) fn serials(&self) -> [u32; 2] {
        let both = self.serials.load(Ordering::Acquire);
        [(both >> 32) as u32, both as u32]
    }

    pub(super) fn set_serials(&self, serials: Serials) {
        let both = u64::from(serials.obj) << 32 | u64::from(serials.tree);
        self.serials.store(both, Ordering::Release);
    }

    pub(super) fn tell(&self, table: Arc<Table>) {
        self.table.store(Some(table));
    }

    /// Called before any register can name what changed.
    pub(super) fn servers_changed(&self) {
        self.servers_version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn set_delegated(&self, is_delegated: bool) {
        self.is_delegated.store(is_delegated, Ordering::Release);
    }
}
