//! The end of key generations: data keys are wrapped under a newer one, then the older key is destroyed.
//!
//! ```text
//!  too old, or asked for --> begin --> commits that may wrap under the older one end --> rewrap in batches
//!       --> no row names it --> an empty commit proves that the index works --> destroy
//! ```
//!
//! [`Rotation::step`] does one bounded piece and looks at keyring and index anew each time, so a crash at any place is gone
//! on from: nothing of it is remembered but on disk. Chunks stay where they are, and so do the numbers of rows: the same
//! copy under the same number, its epoch and revision bound as before.
//!
//! Specification: DESIGN.md section 9 (Erase), STORE.md section 7.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use zones::Address;

use super::commit::Prepared;
use super::{CommitError, Entry, Store};
use crate::vault::{Generation, Part, ProviderError, VaultError};

/// Most generations whose keys exist at a time: beyond that none is begun until one could be destroyed.
pub const GENERATIONS_MAX: usize = 16;

/// Most rows whose data keys are wrapped anew in one commit.
pub const BATCH_ROWS: usize = 256;

/// Rows that are looked at under one hold of the lock.
const SCAN_ROWS: usize = 4096;

/// Why a step could not be made. The next one begins anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The guardian of keys.
    #[error("change the generation of keys")]
    Provider(#[from] ProviderError),
    /// The index.
    #[error("write rewrapped data keys to the index")]
    Commit(#[from] CommitError),
}

/// What a step did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing is to be done.
    Idle,
    /// A new generation is the current one.
    Begun(Generation),
    /// Commits that may wrap keys under an older generation are still under way.
    Waiting,
    /// Data keys were wrapped anew.
    Rewrapped {
        /// Rows of this batch.
        rows: u64,
        /// Rows that are still to come, as far as known.
        left: u64,
    },
    /// These are gone for ever.
    Destroyed(Vec<Generation>),
    /// Data keys of these copies do not open, so their generations stay until the copies are gone: repair or delete them.
    Held(Vec<Address>),
}

/// The rotation of one store's keys. One at a time.
#[derive(Debug)]
pub struct Rotation {
    max_age: Duration,
    /// The generation that was the current one when commits were last given a new page.
    turned: Option<Generation>,
    /// Rows that are still to be wrapped anew.
    rows: Vec<u64>,
    /// Rows whose keys did not open, with the object.
    stuck: BTreeMap<u64, Address>,
}

impl Rotation {
    /// A rotation that lets no generation be current for longer than `max_age`.
    #[must_use]
    pub fn new(max_age: Duration) -> Rotation {
        Rotation {
            max_age,
            turned: None,
            rows: Vec::new(),
            stuck: BTreeMap::new(),
        }
    }

    /// Does the next piece of work; `begin` asks for a new generation whatever the age. Blocks for one commit at most, and for
    /// the key provider.
    ///
    /// # Errors
    ///
    /// [`RotationError`]; call again later.
    pub fn step(&mut self, store: &Store, now_unix_s: u64, begin: bool) -> Result<Step, RotationError> {
        let provider = store.vault().provider();
        let known = provider.generations()?;
        let Some((current, older)) = known.split_last() else {
            return Ok(Step::Idle);
        };
        // A clock that was far ahead when the key was made must not keep it for ever.
        let age_s = now_unix_s.abs_diff(current.made_unix_s);
        let due = begin || age_s >= self.max_age.as_secs();
        if due && known.len() < GENERATIONS_MAX {
            self.stuck.clear();
            return Ok(Step::Begun(provider.begin_generation()?));
        }
        if older.is_empty() {
            return Ok(Step::Idle);
        }
        if !self.has_settled(store, current.generation) {
            return Ok(Step::Waiting);
        }
        let older: HashSet<Generation> = older.iter().map(|known| known.generation).collect();
        if self.rows.is_empty() {
            self.rows = store.rows_under(&older);
            self.rows.retain(|seq| !self.stuck.contains_key(seq));
        }
        if self.rows.is_empty() {
            return self.destroy(store, &older);
        }
        let batch = self.rows.split_off(self.rows.len().saturating_sub(BATCH_ROWS));
        let rows = match self.rewrap(store, &batch, &older) {
            Ok(rows) => rows,
            Err(error) => {
                self.rows.clear();
                return Err(error);
            }
        };
        Ok(Step::Rewrapped {
            rows,
            left: self.rows.len() as u64,
        })
    }

    /// Whether every commit has ended that may have wrapped a key before `current` was the current generation.
    fn has_settled(&mut self, store: &Store, current: Generation) -> bool {
        let mut pages = store.shared.pages.lock();
        if self.turned != Some(current) {
            pages.push(Arc::default());
            self.turned = Some(current);
            self.rows.clear();
        }
        let last = pages.len() - 1;
        let mut number = 0;
        pages.retain(|page| {
            number += 1;
            number > last || Arc::strong_count(page) > 1
        });
        pages.len() == 1
    }

    fn rewrap(&mut self, store: &Store, batch: &[u64], older: &HashSet<Generation>) -> Result<u64, RotationError> {
        let mut changes = Vec::with_capacity(batch.len());
        for seq in batch {
            let Some(entry) = store.shared.live.read().get(seq).cloned() else {
                continue;
            };
            match rewrapped(store, &entry, older) {
                Ok(entry) => changes.push(Prepared::rewrapped(entry)),
                Err(VaultError::Provider(error @ ProviderError::Unavailable { .. })) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(
                        object = %entry.address,
                        error = &error as &dyn std::error::Error,
                        "a data key cannot be wrapped anew: its generation stays"
                    );
                    self.stuck.insert(*seq, entry.address.clone());
                }
            }
        }
        let rows = changes.len() as u64;
        if !changes.is_empty() {
            store.apply(changes)?;
        }
        Ok(rows)
    }

    fn destroy(&mut self, store: &Store, older: &HashSet<Generation>) -> Result<Step, RotationError> {
        let unnamed = || -> Vec<Generation> {
            let named = store.generations();
            let mut unnamed: Vec<_> = older.iter().copied().filter(|old| !named.contains_key(old)).collect();
            unnamed.sort_unstable();
            unnamed
        };
        if unnamed().is_empty() {
            let known = store.shared.live.read();
            self.stuck.retain(|seq, _| known.contains_key(seq));
            return Ok(Step::Held(self.stuck.values().cloned().collect()));
        }
        // A store that has failed may have a durable row that it does not know of. This commit succeeds only in one that has
        // not, and after it every row that was ever durable is either known or gone.
        store.apply(Vec::new())?;
        let gone = unnamed();
        for generation in &gone {
            match store.vault().provider().destroy(*generation) {
                Ok(()) | Err(ProviderError::NoGeneration { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Step::Destroyed(gone))
    }
}

/// The same entry with its data keys under the current generation, where they are under one of `older`.
fn rewrapped(store: &Store, entry: &Entry, older: &HashSet<Generation>) -> Result<Entry, VaultError> {
    let mut fresh = entry.clone();
    for part in [Part::Properties, Part::Body] {
        let Some(stream) = entry
            .stream(part)
            .filter(|stream| older.contains(&stream.kek_generation))
        else {
            continue;
        };
        let binding = entry.binding(part, stream.suite)?;
        let key = (store.vault()).unwrap(stream.kek_generation, &stream.wrapped_dek, &binding)?;
        let wrapped = store.vault().wrap(&key, &binding)?;
        let stream = match part {
            Part::Properties => &mut fresh.properties,
            Part::Body => &mut fresh.body,
        };
        let stream = stream.as_mut().expect("it was there above");
        (stream.kek_generation, stream.wrapped_dek) = wrapped;
    }
    Ok(fresh)
}

impl Store {
    /// How many rows name each generation.
    #[must_use]
    pub fn generations(&self) -> BTreeMap<Generation, u64> {
        let mut named = BTreeMap::new();
        self.scan(|entry| {
            let own: BTreeSet<Generation> = entry.streams().map(|(_, stream)| stream.kek_generation).collect();
            for generation in own {
                *named.entry(generation).or_insert(0) += 1;
            }
        });
        named
    }

    fn rows_under(&self, generations: &HashSet<Generation>) -> Vec<u64> {
        let mut rows = Vec::new();
        self.scan(|entry| {
            let mut streams = entry.streams();
            if streams.any(|(_, stream)| generations.contains(&stream.kek_generation)) {
                rows.push(entry.seq);
            }
        });
        rows
    }

    /// Looks at every row that is there from the beginning to the end of the scan. Commits and reads go on in between: rows
    /// that come meanwhile are wrapped under the current generation anyway.
    fn scan(&self, mut look: impl FnMut(&Entry)) {
        let rows: Vec<u64> = self.shared.live.read().keys().copied().collect();
        for some in rows.chunks(SCAN_ROWS) {
            let live = self.shared.live.read();
            some.iter()
                .filter_map(|seq| live.get(seq))
                .for_each(|entry| look(entry));
        }
    }
}
