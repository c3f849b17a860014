//! The objects of this agent: who may read and write which of them, now.
//!
//! ```text
//!  read ---> slot ---> read gate ---> copy, held in place
//!  write --> body on disk --> turn --> conditions, write id --> commit --> next turn
//!  create -> turn --> commit (create-sent) --> register --> commit (active)
//!  delete -> turn --> commit (delete-sent) --> register --> commit (tombstone)
//!  move ---> its own steps under the turn; holds turns from its seal on
//! ```
//!
//! An address that is not in the table is decided by a register read at the librarian: only that allows "there is no such
//! object". A change that has begun goes on when its client is gone.
//!
//! Specification: DESIGN.md sections 7, 11 and 12.

mod batch;
mod body;
mod closing;
pub mod create;
pub mod delete;
mod ending;
mod fitting;
mod forwards;
mod gate;
mod ids;
mod local;
mod making;
mod moving;
mod reading;
mod resting;
mod sharing;
pub mod steps;
mod table;
mod turn;
mod words;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use zones::policy::LEVEL_MAX;
use zones::upkeep::KeysAre;
use zones::{Address, Heat, Kept, Upkeep};

pub use batch::{BatchOutcome, BatchStep, StepChange};
pub use body::StagedBody;
pub use closing::NotClear;
pub(crate) use fitting::STEPS_RETRY;
pub use local::{AskedTurn, Local, Look, Open};
pub use moving::{MoveGuard, NotOwned, StepError};
pub use reading::Reading;
pub use resting::{RECOUNT_OBJECTS, Standing};
pub use sharing::{Confirmation, KeptFigures, Share};
pub use table::owned as owns;
pub use turn::Turn;
pub use words::{Busy, Condition, Delete, Miss, Put, ReadGate, Summary, WriteError, WriteGate, Written};
pub(crate) use writing::KEYS_RETRY;
pub use writing::Prepared;

use crate::access::latency::Latency;
use crate::clock::BootInstant;
use crate::control::{Figures, Wanted};
use crate::heat::Meter;
use crate::register::Registers;
use crate::schema::Stepper;
use crate::store::{Change, CommitError, Entry, Journal, Store};
use crate::vault::Levels;
use steps::Asked;

/// Most creations and deletions that wait for the librarian at once; each keeps a copy on disk.
const OPENINGS_MAX: usize = 4096;
/// How long a read of a copy waits here until its owner lets it be shown; then it is sent to the owner itself.
const GRANT_WAIT: Duration = Duration::from_millis(500);
/// Most forward entries that are being replaced at a time.
const SHORTENINGS_MAX: usize = 16;

/// Bounds of what is asked of objects.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most writes that wait for one object.
    pub queued_writes_max: usize,
    /// Longest wait of a read or a write for one object.
    pub queue_wait: Duration,
    /// Most octets of one object's properties.
    pub properties_max: u64,
    /// What the pool asks of encryption when the agent starts; [`Local::set_levels`] changes it later.
    pub levels: Levels,
    /// Objects whose requests are counted at once.
    pub heat_counters: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let access = crate::config::Access::default();
        Settings {
            queued_writes_max: access.queued_writes_max,
            queue_wait: access.queue_wait,
            properties_max: access.properties_max.0,
            levels: Levels::default(),
            heat_counters: access.heat_counters,
        }
    }
}

/// The objects of this agent: what it has, and the librarian that says what of it counts.
#[derive(Debug)]
pub struct Objects {
    local: Arc<Local>,
    registers: Arc<Registers>,
    wanted: watch::Receiver<Wanted>,
    /// Bounds what waits for the librarian.
    openings: Arc<Semaphore>,
    /// Bounds how many forward entries are being replaced.
    shortenings: Arc<Semaphore>,
    requests: AtomicU64,
    errors: AtomicU64,
    clients: Latency,
    meter: Meter,
}

/// Milliseconds of a clock that does not go back.
fn now_ms() -> u64 {
    u64::try_from((BootInstant::now() - BootInstant::ZERO).as_millis()).unwrap_or(u64::MAX)
}

impl std::ops::Deref for Objects {
    type Target = Local;

    fn deref(&self) -> &Local {
        &self.local
    }
}

impl Objects {
    /// The objects that the index has. Those with an open wait or seal are closed until their move opens them; call
    /// [`Objects::recover`] before serving.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        entries: Vec<Arc<Entry>>,
        registers: Arc<Registers>,
        wanted: watch::Receiver<Wanted>,
        stepper: Arc<Stepper>,
        settings: Settings,
    ) -> Arc<Objects> {
        Arc::new(Objects {
            local: Local::new(store, entries, stepper, settings),
            registers,
            wanted,
            openings: Arc::new(Semaphore::new(OPENINGS_MAX)),
            shortenings: Arc::new(Semaphore::new(SHORTENINGS_MAX)),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            clients: Latency::default(),
            meter: Meter::new(settings.heat_counters, BootInstant::now()),
        })
    }

    /// Shows an object.
    ///
    /// # Errors
    ///
    /// [`Miss`]: where it is instead, or what is waited for.
    pub async fn read(&self, address: &Address) -> Result<Reading, Miss> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + self.settings.queue_wait;
        let shown = self.read_until(address, until).await;
        match &shown {
            Ok(_) => self.meter.note(address, BootInstant::now()),
            Err(Miss::Unavailable { .. } | Miss::Damaged { .. }) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        shown
    }

    async fn read_until(&self, address: &Address, until: Instant) -> Result<Reading, Miss> {
        let granted_by = until.min(Instant::now() + GRANT_WAIT);
        loop {
            let changed = match self.look(address, BootInstant::now) {
                Look::Shown(entry) => {
                    if let Some(damage) = self.store.set_aside(&entry) {
                        return Err(Miss::Damaged { what: damage.what });
                    }
                    return Ok(Reading {
                        store: Arc::clone(&self.store),
                        entry,
                    });
                }
                Look::Missed(miss) => return Err(miss),
                Look::Wait(changed) => changed,
                Look::Unknown => match self.ask(address).await? {
                    // The register says that this agent owns it: its copy is about to be taken over.
                    Asked::Here => match self.arriving(address) {
                        Some(changed) => changed,
                        None => continue,
                    },
                    Asked::Free => return Err(Miss::Absent),
                    Asked::Clash(_) => return Err(Miss::Absent),
                },
            };
            let held = self.current(address).filter(|entry| entry.journal.is_held());
            let until = if held.is_some() { granted_by } else { until };
            if timeout_at(until, changed).await.is_err() {
                if let Some((entry, owner)) = held.as_ref().and_then(|entry| Some((entry, entry.journal.held_for()?))) {
                    return Err(forwards::held_for(entry, owner));
                }
                return Err(Miss::Unavailable {
                    why: "its owner is being settled",
                    retry_after: Duration::from_secs(1),
                });
            }
        }
    }

    /// Whether this write belongs here: asked before a body is taken, so that it is not taken in vain.
    ///
    /// # Errors
    ///
    /// [`WriteError::Elsewhere`], [`WriteError::Party`], [`WriteError::Deleted`], [`WriteError::NotServing`] and the like.
    pub async fn admit(&self, address: &Address, put: &Put) -> Result<(), WriteError> {
        let current = self.answering(address);
        match current.as_deref().map(|entry| &entry.journal) {
            Some(Journal::Moved { to, epoch } | Journal::Forward { to, epoch }) => {
                Err(forwards::gone_to(current.as_deref().expect("it is of this row"), to, *epoch).into())
            }
            Some(Journal::Held { owner, .. }) => {
                Err(forwards::held_for(current.as_deref().expect("it is of this row"), owner).into())
            }
            // It may have been applied before the deletion: then it is answered as it was, which its content decides.
            Some(Journal::Tombstone { .. }) if current.as_deref().is_some_and(|entry| put.is_known_to(entry)) => Ok(()),
            Some(Journal::Tombstone { .. }) if put.write_id.is_some() => Err(self.deleted_by(address).await?),
            Some(Journal::Tombstone { .. }) => Err(WriteError::Deleted),
            Some(_) => Ok(()),
            None => match self.ask(address).await {
                Ok(Asked::Here) => Ok(()),
                Ok(Asked::Free) => self.takes_new(address),
                Ok(Asked::Clash(registered)) => Err(WriteError::CaseClash { registered }),
                Err(Miss::Deleted) if put.write_id.is_some() => Err(self.deleted_by(address).await?),
                Err(miss) => Err(miss.into()),
            },
        }
    }

    /// The numbers that the librarian is told.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let totals = self.table.totals();
        let standing = self.standing();
        Figures {
            objects: totals.objects,
            bytes: totals.octets,
            quarantined: totals.quarantined,
            capacity: self.store.usage().capacity,
            heat: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            unreadable: self.local.unreadable().max(self.local.damaged()),
            commits: self.store.commits(),
            audit: Some(self.store.audit_head()),
            upkeep: Upkeep {
                suite: LEVEL_MAX.0,
                schemas: self.stepper().set(),
                open: totals.open,
                retired: totals.retired,
                moved: self.moved(),
                newer: standing.newer,
                resting: standing.resting,
                used: totals.used,
                keys: match self.store.vault().provider().is_up() {
                    true => KeysAre::Up,
                    false => KeysAre::Down,
                },
                p99_us: self
                    .clients_wait()
                    .map_or(0, |wait| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)),
                ..Upkeep::default()
            },
            hot: Heat::default(),
            kept: Kept {
                held: totals.held,
                octets: totals.held_octets,
                short: self.kept().short,
                leaving: self.kept().leaving,
            },
        }
    }

    /// Which objects that are here are asked for most. `carried` counts the octets of bodies that clients were sent and sent.
    #[must_use]
    pub fn heat(&self, carried: u64) -> Heat {
        self.meter
            .report(BootInstant::now(), carried, |address| self.local.is_here(address))
    }

    /// A client waited so long for the head of an answer.
    pub fn client_waited(&self, took: Duration) {
        self.clients.note(now_ms(), took);
    }

    /// The 99th percentile of that in the last seconds; `None` for too few clients to say.
    #[must_use]
    pub fn clients_wait(&self) -> Option<Duration> {
        self.clients.p99(now_ms())
    }

    /// What this agent decides alone.
    #[must_use]
    pub fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// The librarian as this agent sees it.
    #[must_use]
    pub fn registers(&self) -> &Arc<Registers> {
        &self.registers
    }

    /// Whether this server takes new objects, as the controller last said; and whether the address may be one.
    fn takes_new(&self, address: &Address) -> Result<(), WriteError> {
        self.registers
            .domain()
            .check(address)
            .map_err(|error| WriteError::Address { why: error.to_string() })?;
        if self.is_closed() {
            return Err(WriteError::NotServing {
                why: crate::store::CommitError::Closed.to_string(),
            });
        }
        match self.wanted.borrow().role() {
            Some(role) if !role.takes_new_objects() => Err(WriteError::NotServing {
                why: format!("its role is {role}"),
            }),
            // Without a word of the controller the librarian decides.
            Some(_) | None => Ok(()),
        }
    }

    /// What the register says of an object that is not in the table.
    async fn ask(&self, address: &Address) -> Result<Asked, Miss> {
        let read = self.registers.read(address).await.map_err(|error| {
            tracing::warn!(%error, "a register cannot be read");
            Miss::unreachable()
        })?;
        steps::judge(self.registers.me(), address, read.register)
    }

    /// Commits changes of the index and takes them into the table: all or nothing. Entries come back in the order of
    /// the insertions and replacements. Goes on when its caller is gone.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing has changed then.
    pub async fn commit(self: &Arc<Self>, changes: Vec<(Address, Change)>) -> Result<Vec<Arc<Entry>>, CommitError> {
        let local = Arc::clone(&self.local);
        body::blocking(move || local.commit_now(changes)).await
    }

    async fn replace(self: &Arc<Self>, old: &Entry, entry: crate::store::NewEntry) -> Result<Arc<Entry>, CommitError> {
        let change = Change::Replace { seq: old.seq, entry };
        let mut new = self.commit(vec![(old.address.clone(), change)]).await?;
        Ok(new.pop().expect("a replacement gives one entry"))
    }
}

#[cfg(test)]
mod tests;
