//! The dry run of a running agent: a thread that tries the schemas of the next release on every object, and changes none.
//!
//! ```text
//!  look at the directory --another set--> nothing is told --> a pass over every object, paced --> told, dry-run.json
//!        |                                                        `-- another set, stop: the pass is dropped
//!        `-- the same set: a pass again after some hours, since objects change
//! ```
//!
//! What is told is of a whole pass over one set, and holds until there is another. It is lost at a restart, which begins with a
//! pass. Steps run as in an upgrade before its finalize: contract steps only up to the versions that are final here.
//!
//! Specification: DESIGN.md sections 10 and 13, STORE.md section 10.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use zones::Address;
use zones::upkeep::{SchemaSet, Tried};

use crate::background::{Background, Stopped, stopped};
use crate::commands::files;
use crate::objects::Local;
use crate::schema::dry_run::{DryRun, DryRunner};
use crate::schema::stepper::Runner;
use crate::schema::{MigrateError, RunStep, Schemas, Through};
use crate::scrub::Pace;
use crate::store::scrub::GoOn;
use crate::store::{Entry, ReadError, Store};
use crate::upkeep::Board;
use crate::vault::{Part, ProviderError, VaultError};

/// Name of the report inside an agent's directory.
pub const FILE: &str = "dry-run.json";
/// Objects that the report lists, of each kind: the first few show what is wrong with a step.
const LISTED_MAX: usize = 1000;
/// Octets a second that objects are tried at. With [`OBJECT_OCTETS`] a million of them takes at least half an hour, and one
/// processor has little to do.
const RATE: u64 = 4 << 20;
/// Octets that an object counts at least, for its steps.
const OBJECT_OCTETS: u64 = 8 << 10;
/// Octets that are tried between two pauses.
const PIECE_OCTETS: u64 = 512 << 10;
/// Addresses that are listed at once.
const PAGE: usize = 512;
/// Looks at one copy that is replaced while it is read.
const LOOKS_MAX: usize = 8;

/// How often is looked.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Time between two looks at the directory.
    pub look: Duration,
    /// Time from the end of a pass to the next one over the same set.
    pub again: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses {
            look: Duration::from_secs(60),
            again: Duration::from_secs(6 * 3600),
        }
    }
}

/// Why an object was not judged: this server is at fault, and another try may do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryError {
    /// Steps cannot be run.
    #[error("try {address}")]
    Step {
        /// The object.
        address: Address,
        /// Why not.
        source: MigrateError,
    },
    /// The key provider does not answer.
    #[error("read the properties of {address}")]
    Keys {
        /// The object.
        address: Address,
        /// Why not.
        source: ReadError,
    },
}

/// Tries every entry that this server owns or may own. `done` is called after each.
///
/// # Errors
///
/// [`TryError`] at the first object that was not judged.
pub fn all<R: RunStep>(
    dry: &mut DryRunner<'_, R>,
    store: &Store,
    entries: &[Arc<Entry>],
    mut done: impl FnMut(),
) -> Result<(), TryError> {
    for entry in entries.iter().filter(|entry| entry.journal.may_own()) {
        judge(dry, entry, properties(store, entry))?;
        done();
    }
    Ok(())
}

/// The properties of an entry as its store has them.
fn properties(store: &Store, entry: &Entry) -> Result<Bytes, ReadError> {
    match &entry.properties {
        None => Ok("{}".into()),
        Some(_) => store.read_all(entry, Part::Properties),
    }
}

/// Tries one entry.
fn judge<R: RunStep>(
    dry: &mut DryRunner<'_, R>,
    entry: &Entry,
    properties: Result<Bytes, ReadError>,
) -> Result<(), TryError> {
    let Entry {
        address, kind, schema, ..
    } = entry;
    match properties {
        Ok(properties) => {
            (dry.object(address, kind, *schema, &properties)).map_err(|source| TryError::Step {
                address: address.clone(),
                source,
            })?;
        }
        Err(source @ ReadError::Vault(VaultError::Provider(ProviderError::Unavailable { .. }))) => {
            return Err(TryError::Keys {
                address: address.clone(),
                source,
            });
        }
        Err(error) => dry.unreadable(address, kind, *schema, error.to_string()),
    }
    Ok(())
}

/// What the report holds.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// What was tried, as told.
    set: String,
    /// When the pass ended, in Unix seconds.
    finished: u64,
    #[serde(flatten)]
    found: &'a DryRun,
}

/// The dry run of a running agent. It ends when this is dropped.
#[derive(Debug)]
pub struct Trier {
    _thread: Background,
}

impl Trier {
    /// Starts it over the directory `schemas`. What it finds is on the board, and in a file in `dir`. `runner` makes who runs the steps of
    /// one pass; `used` rises whenever somebody else uses the store: the dry run then makes way.
    ///
    /// # Errors
    ///
    /// The system's, when it gives no thread.
    pub fn start(
        dir: &Path,
        schemas: PathBuf,
        local: Arc<Local>,
        board: Arc<Board>,
        pauses: Pauses,
        runner: impl Fn() -> Runner + Send + 'static,
        used: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Trier> {
        let (stop, stopped) = stopped();
        let work = Work {
            dir: dir.to_owned(),
            schemas,
            local,
            board,
            pauses,
            runner,
            pace: Pace::new(RATE, used),
            stopped,
            done: None,
            fault: None,
        };
        let thread = Background::start("dry-run", stop, move || work.run())?;
        Ok(Trier { _thread: thread })
    }
}

/// The thread's.
struct Work<M, U> {
    dir: PathBuf,
    schemas: PathBuf,
    local: Arc<Local>,
    board: Arc<Board>,
    pauses: Pauses,
    runner: M,
    pace: Pace<U>,
    stopped: Stopped,
    /// The set that is told, and when its last pass ended.
    done: Option<(SchemaSet, Instant)>,
    /// Why the directory did not load at the last look.
    fault: Option<String>,
}

/// How a pass ended.
enum Ended {
    Whole(DryRun),
    Stopped,
    /// The directory holds another set.
    Another,
    /// An object was not judged.
    Failed(TryError),
}

impl<M: Fn() -> Runner, U: Fn() -> u64> Work<M, U> {
    fn run(mut self) {
        loop {
            let wait = match self.look() {
                Some(schemas) => match self.pass(&schemas) {
                    Ended::Whole(found) => {
                        self.tell(schemas.set(), &found);
                        self.pauses.look
                    }
                    Ended::Stopped => return,
                    Ended::Another => Duration::ZERO,
                    Ended::Failed(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the schemas of the next release cannot be tried now: a pass begins anew"
                        );
                        self.pauses.look
                    }
                },
                None => self.pauses.look,
            };
            if self.stopped.sleep(wait) == GoOn::Stop {
                return;
            }
        }
    }

    /// The schemas, if a pass over them is due.
    fn look(&mut self) -> Option<Schemas> {
        let schemas = self.load();
        let set = schemas.as_ref().map(Schemas::set);
        let done = self.done.filter(|(done, _)| set == Some(*done));
        if done.is_none() {
            self.done = None;
            self.board.set_dry(None);
        }
        schemas.filter(|_| done.is_none_or(|(_, ended_at)| ended_at.elapsed() >= self.pauses.again))
    }

    /// Reads the directory; a fault is told to the log when it is news.
    fn load(&mut self) -> Option<Schemas> {
        match Schemas::load(&self.schemas) {
            Ok(schemas) => {
                self.fault = None;
                Some(schemas)
            }
            Err(error) => {
                let fault = error.to_string();
                if self.fault.as_ref() != Some(&fault) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the schemas of the next release (`next_schemas` in agent.toml) are not tried"
                    );
                }
                self.fault = Some(fault);
                None
            }
        }
    }

    fn pass(&mut self, schemas: &Schemas) -> Ended {
        let (set, runner) = (schemas.set(), (self.runner)());
        let mut dry = DryRunner {
            schemas,
            runner: &runner,
            through: Through::Expand,
            finals: self.local.stepper().finals(),
            listed_max: LISTED_MAX,
            report: DryRun::default(),
        };
        let (mut looked_at, mut octets) = (Instant::now(), 0);
        let mut after: Option<Address> = None;
        loop {
            // Addresses only: to hold entries would hold their blocks.
            let page = self.local.owned_addresses(after.as_ref(), PAGE);
            for address in &page {
                octets += match self.try_one(&mut dry, address) {
                    Ok(octets) => octets.max(OBJECT_OCTETS),
                    Err(error) => return Ended::Failed(error),
                };
                let wait = match octets >= PIECE_OCTETS {
                    true => self.pace.wait(Instant::now(), std::mem::take(&mut octets)),
                    false => Duration::ZERO,
                };
                if self.stopped.sleep(wait) == GoOn::Stop {
                    return Ended::Stopped;
                }
                if looked_at.elapsed() >= self.pauses.look {
                    if self.load().is_none_or(|now| now.set() != set) {
                        return Ended::Another;
                    }
                    looked_at = Instant::now();
                }
            }
            after = match page.into_iter().next_back() {
                Some(last) => Some(last),
                None => return Ended::Whole(dry.report),
            };
        }
    }

    /// Tries what is at an address; the octets of its properties.
    fn try_one(&self, dry: &mut DryRunner<'_, Runner>, address: &Address) -> Result<u64, TryError> {
        for look in 1..=LOOKS_MAX {
            // It was moved or deleted meanwhile.
            let Some(entry) = self.local.owned_row(address) else {
                break;
            };
            let properties = properties(self.local.store(), &entry);
            // A row that is replaced while it is read may have lost its keys: then the one in its place is read.
            let is_present = || self.local.owned_row(address).is_some_and(|now| now.seq == entry.seq);
            if properties.is_ok() || look == LOOKS_MAX || is_present() {
                let octets = properties.as_ref().map_or(0, |octets| octets.len() as u64);
                return judge(dry, &entry, properties).map(|()| octets);
            }
        }
        Ok(0)
    }

    /// Tells what a pass found.
    fn tell(&mut self, set: SchemaSet, found: &DryRun) {
        let report = Report {
            set: set.to_string(),
            finished: (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs()),
            found,
        };
        let text = serde_json::to_string_pretty(&report).expect("a report of texts and numbers");
        // Before it is told: who hears of objects finds them there.
        if let Err(error) = files::write(&self.dir.join(FILE), &text) {
            tracing::warn!(error = format!("{error:#}"), "{FILE} cannot be written");
        }
        let (objects, counts) = (found.objects, found.counts);
        tracing::info!(
            %set,
            objects,
            quarantined = counts.quarantined,
            no_way_back = counts.no_way_back,
            unreadable = counts.unreadable,
            misfits = counts.misfits,
            "the schemas of the next release were tried"
        );
        self.done = Some((set, Instant::now()));
        self.board.set_dry(Some(Tried {
            set,
            objects,
            quarantined: counts.quarantined,
            stuck: found.stuck(),
        }));
    }
}

#[cfg(test)]
mod tests;
