//! The keeper of this server's key generations: begins, ends and reports them while the agent runs.
//!
//! It looks every second. A generation is begun when the current one is too old (`keys.max_age`), when `agent keys rotate`
//! asks (a file in the agent's directory), and when this server has been emptied and holds no copy. The older ones end as
//! [`crate::store::rotation`] says. How it stands is in the file [`STATUS`] and in the metrics.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zones::Role;

use crate::access::metrics;
use crate::control::Wanted;
use crate::store::Store;
use crate::store::rotation::{Rotation, RotationError, Step};
use crate::vault::{Generation, ProviderError};

/// File that asks a running agent for a new generation.
pub const REQUEST: &str = "keys.rotate";
/// File that says how the generations stand.
pub const STATUS: &str = "keys.status";

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two batches, so that others' commits come through.
const BATCH_PAUSE: Duration = Duration::from_millis(5);
/// The same while a key that does not open holds a generation: each look reads every row.
const HELD_EVERY: Duration = Duration::from_secs(10);
/// Looks between two reports when nothing happens.
const REPORT_LOOKS: u32 = 30;
/// Least time between two generations that are begun because the server is empty.
const FREE_EVERY_S: u64 = 60;

/// How the generations of one server stand.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeysStatus {
    /// Name of the key provider.
    pub provider: String,
    /// Whether it answers.
    pub up: bool,
    /// When this was so.
    pub unix_s: u64,
    /// Age at which a generation stops being the current one, in seconds.
    pub max_age_s: u64,
    /// Those whose keys exist, rising; the last is the current one.
    pub generations: Vec<GenerationStatus>,
    /// What was done last.
    pub step: String,
    /// Rows of the index whose keys are still to be wrapped anew.
    pub rows_left: u64,
}

/// One generation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GenerationStatus {
    /// Its number.
    pub generation: u32,
    /// When its key was made.
    pub made_unix_s: u64,
    /// Its age in seconds.
    pub age_s: u64,
    /// Rows of the index that name it.
    pub rows: u64,
}

/// Looks at provider and index.
///
/// # Errors
///
/// [`ProviderError`] where the provider does not answer.
pub fn status(store: &Store, max_age: Duration, step: &str) -> Result<KeysStatus, ProviderError> {
    let provider = store.vault().provider();
    let known = provider.generations()?;
    let rows = store.generations();
    let now = unix_s();
    let current = known.last().map(|known| known.generation);
    let older = |generation: &Generation| Some(*generation) != current;
    Ok(KeysStatus {
        provider: provider.name().to_owned(),
        up: provider.is_up(),
        unix_s: now,
        max_age_s: max_age.as_secs(),
        rows_left: rows
            .iter()
            .filter(|(generation, _)| older(generation))
            .map(|(_, rows)| rows)
            .sum(),
        generations: known
            .iter()
            .map(|known| GenerationStatus {
                generation: known.generation.0,
                made_unix_s: known.made_unix_s,
                age_s: now.saturating_sub(known.made_unix_s),
                rows: rows.get(&known.generation).copied().unwrap_or(0),
            })
            .collect(),
        step: step.to_owned(),
    })
}

/// Ends the current generation of a store that nobody else uses, and all older ones; `progress` is told the rows left.
///
/// # Errors
///
/// [`RotationError`]; what was done stays done, and the next rotation goes on.
pub fn rotate_now(store: &Store, max_age: Duration, mut progress: impl FnMut(u64)) -> Result<Step, RotationError> {
    let mut rotation = Rotation::new(max_age);
    let mut begin = true;
    loop {
        let step = rotation.step(store, unix_s(), begin)?;
        begin = false;
        match step {
            Step::Idle | Step::Held(_) => return Ok(step),
            Step::Rewrapped { left, .. } => progress(left),
            Step::Begun(_) | Step::Waiting | Step::Destroyed(_) => {}
        }
    }
}

/// Numbers for the metrics.
#[derive(Debug, Default)]
pub struct Figures {
    generations: AtomicU64,
    oldest_age_s: AtomicU64,
    rows_left: AtomicU64,
    rewrapped: AtomicU64,
    destroyed: AtomicU64,
}

/// Keeps the generations of a running agent.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    store: Arc<Store>,
    wanted: watch::Receiver<Wanted>,
    max_age: Duration,
    rotation: Rotation,
    figures: Arc<Figures>,
    /// Commits of the index when a generation was last ended for an empty server, and when that was.
    freed: Option<(u64, u64)>,
    /// Commits of the index when it was last found to hold copies.
    holds: Option<u64>,
}

impl Keeper {
    /// A keeper of the keys of `store`, whose agent lives in `dir`.
    #[must_use]
    pub fn new(dir: &Path, store: Arc<Store>, wanted: watch::Receiver<Wanted>, max_age: Duration) -> Keeper {
        Keeper {
            dir: dir.to_owned(),
            store,
            wanted,
            max_age,
            rotation: Rotation::new(max_age),
            figures: Arc::default(),
            freed: None,
            holds: None,
        }
    }

    /// Writes Prometheus text.
    pub fn metrics(&self) -> impl Fn(&mut String) + Send + Sync + use<> {
        let (figures, store) = (Arc::clone(&self.figures), Arc::clone(&self.store));
        move |out| show(&figures, store.vault().provider().is_up(), out)
    }

    /// Keeps looking until dropped.
    pub async fn run(mut self) {
        let mut looks = 0;
        let mut failed = false;
        let mut step = String::new();
        loop {
            let look = tokio::task::spawn_blocking(move || {
                let outcome = self.look();
                (self, outcome)
            });
            let Ok((this, outcome)) = look.await else {
                tracing::error!("the keeper of keys has ended badly: restart the agent");
                return;
            };
            self = this;
            let answered = outcome.is_ok();
            let (pause, news) = match outcome {
                Ok(Step::Idle) => (LOOK_EVERY, false),
                Ok(done @ (Step::Waiting | Step::Held(_))) => {
                    let told = told(&done);
                    let news = step != told;
                    step = told;
                    let held = matches!(done, Step::Held(_));
                    (if held { HELD_EVERY } else { LOOK_EVERY }, news)
                }
                Ok(done @ (Step::Begun(_) | Step::Rewrapped { .. } | Step::Destroyed(_))) => {
                    step = told(&done);
                    tracing::info!(step, "key generations");
                    (BATCH_PAUSE, true)
                }
                Err(error) => {
                    if !failed {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "key generations stay as they are"
                        );
                    }
                    failed = true;
                    (LOOK_EVERY, false)
                }
            };
            failed &= !answered;
            looks += 1;
            if news || looks >= REPORT_LOOKS || looks == 1 {
                looks = 1;
                let (store, max_age, dir) = (Arc::clone(&self.store), self.max_age, self.dir.clone());
                let (figures, step) = (Arc::clone(&self.figures), step.clone());
                drop(tokio::task::spawn_blocking(move || report(&store, max_age, &dir, &figures, &step)).await);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One look and one step.
    fn look(&mut self) -> Result<Step, RotationError> {
        let asked = self.dir.join(REQUEST).exists();
        let now = unix_s();
        let free = self.is_freed(now);
        let step = self.rotation.step(&self.store, now, asked || free)?;
        match &step {
            Step::Begun(_) => {
                // Only now: a request that a crash forgot would be one that was never obeyed.
                if asked && let Err(error) = std::fs::remove_file(self.dir.join(REQUEST)) {
                    tracing::warn!(%error, "the request for a new generation cannot be removed");
                }
                if free {
                    self.freed = Some((self.store.commits(), now));
                }
            }
            Step::Rewrapped { rows, .. } => {
                self.figures.rewrapped.fetch_add(*rows, Ordering::Relaxed);
            }
            Step::Destroyed(gone) => {
                self.figures.destroyed.fetch_add(gone.len() as u64, Ordering::Relaxed);
                if let Some((commits, _)) = &mut self.freed {
                    // Its own.
                    *commits += 1;
                }
            }
            Step::Idle | Step::Waiting | Step::Held(_) => {}
        }
        Ok(step)
    }

    /// Whether this server has been emptied, holds no copy, and its current generation may have wrapped something. Before the
    /// role is empty a gate may still need what was given away.
    fn is_freed(&mut self, now: u64) -> bool {
        let free = match self.wanted.borrow().role() {
            Some(Role::Empty | Role::Free | Role::Upgrading | Role::Validating) => true,
            Some(
                Role::Serving
                | Role::Reserve
                | Role::Cordoned
                | Role::Draining
                | Role::Refilling
                | Role::Failed
                | Role::Quarantined,
            )
            | None => false,
        };
        let commits = self.store.commits();
        let unused = self
            .freed
            .is_some_and(|(ended, at)| ended == commits || now < at + FREE_EVERY_S);
        if !free || unused || self.holds == Some(commits) {
            return false;
        }
        let empty = self.store.generations().is_empty();
        self.holds = (!empty).then_some(commits);
        empty
    }
}

fn told(step: &Step) -> String {
    match step {
        Step::Idle => "nothing to do".to_owned(),
        Step::Begun(generation) => format!("generation {generation} begun"),
        Step::Waiting => "waiting for commits that began under the generation before".to_owned(),
        Step::Rewrapped { rows, left } => format!("{rows} rows wrapped anew, {left} left"),
        Step::Destroyed(gone) => {
            let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
            format!("generations destroyed: {}", gone.join(", "))
        }
        Step::Held(by) => format!(
            "{} copies hold an older generation because their data keys do not open, first {}: repair or delete them",
            by.len(),
            by.first().map_or_else(|| "none known".to_owned(), ToString::to_string)
        ),
    }
}

/// Counts, and writes the status file. It is only looked at by people: a crash may lose it.
fn report(store: &Store, max_age: Duration, dir: &Path, figures: &Figures, step: &str) {
    match status(store, max_age, step) {
        Ok(status) => {
            let oldest = status.generations.first().map_or(0, |oldest| oldest.age_s);
            figures
                .generations
                .store(status.generations.len() as u64, Ordering::Relaxed);
            figures.oldest_age_s.store(oldest, Ordering::Relaxed);
            figures.rows_left.store(status.rows_left, Ordering::Relaxed);
            if let Err(error) = write_status(dir, &status) {
                tracing::debug!(%error, "the status of keys cannot be written");
            }
        }
        Err(error) => tracing::debug!(%error, "the status of keys cannot be told"),
    }
}

fn write_status(dir: &Path, status: &KeysStatus) -> io::Result<()> {
    let fresh = dir.join("keys.status.new");
    std::fs::write(&fresh, serde_json::to_vec(status)?)?;
    std::fs::rename(&fresh, dir.join(STATUS))
}

fn show(figures: &Figures, up: bool, out: &mut String) {
    let mut sample = |name: &str, kind: &str, help: &str, value: u64| {
        metrics::head(out, name, kind, help);
        metrics::line(out, name, value);
    };
    sample(
        "agent_key_provider_up",
        "gauge",
        "1 while the key provider answers; writes are refused while it does not.",
        u64::from(up),
    );
    let gauges = [
        (
            "agent_key_generations",
            "Key generations whose keys exist.",
            &figures.generations,
        ),
        (
            "agent_key_oldest_age_seconds",
            "Age of the oldest of these; above keys.max_age while data keys are wrapped anew, or held.",
            &figures.oldest_age_s,
        ),
        (
            "agent_key_rows_left",
            "Rows of the index whose data keys are wrapped under an older generation.",
            &figures.rows_left,
        ),
    ];
    for (name, help, value) in gauges {
        sample(name, "gauge", help, value.load(Ordering::Relaxed));
    }
    let counters = [
        (
            "agent_key_rows_rewrapped_total",
            "Rows of the index whose data keys were wrapped anew.",
            &figures.rewrapped,
        ),
        (
            "agent_key_generations_destroyed_total",
            "Key generations that were destroyed.",
            &figures.destroyed,
        ),
    ];
    for (name, help, value) in counters {
        sample(name, "counter", help, value.load(Ordering::Relaxed));
    }
}

fn unix_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use zones::Want;

    use super::*;
    use crate::store::simulated::SimulatedDisk;
    use crate::store::tests::{address, put, settings, vault};
    use crate::store::{Change, Disk};

    fn keeper(role: Role) -> (Keeper, tempfile::TempDir) {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        let (store, _) = Store::open(disk.clone(), vault(&disk, 1), &settings(64)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let want = Want {
            role,
            targets: Vec::new(),
            plan: 1,
            step: 1,
            policy: zones::Policy::default(),
            errand: zones::Errand::default(),
        };
        let (_, wanted) = watch::channel(Wanted {
            want: Some(want),
            ..Wanted::default()
        });
        let keeper = Keeper::new(dir.path(), Arc::new(store), wanted, Duration::from_secs(86_400));
        (keeper, dir)
    }

    fn settle(keeper: &mut Keeper) {
        for _ in 0..20 {
            if keeper.look().unwrap() == Step::Idle {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn current(keeper: &Keeper) -> Vec<u32> {
        let known = keeper.store.vault().provider().generations().unwrap();
        known.iter().map(|known| known.generation.0).collect()
    }

    #[test]
    fn emptied_server_ends_the_generation_of_what_it_held() {
        let (mut keeper, _dir) = keeper(Role::Empty);
        let copy = put(&keeper.store, &address("1.1"), 1, b"held until the drain");
        settle(&mut keeper);
        assert_eq!(current(&keeper), [1], "it is not empty");
        keeper.store.commit(vec![Change::Remove { seq: copy.seq }]).unwrap();
        settle(&mut keeper);
        assert_eq!(current(&keeper), [2]);
        settle(&mut keeper);
        assert_eq!(current(&keeper), [2], "once is enough");
    }

    #[test]
    fn server_whose_gate_is_not_through_keeps_its_generation() {
        for role in [Role::Serving, Role::Cordoned, Role::Draining] {
            let (mut keeper, _dir) = keeper(role);
            settle(&mut keeper);
            assert_eq!(current(&keeper), [1], "{role}");
        }
    }

    #[test]
    fn request_file_asks_once() {
        let (mut keeper, dir) = keeper(Role::Serving);
        put(&keeper.store, &address("1.1"), 1, b"kept");
        std::fs::write(dir.path().join(REQUEST), "").unwrap();
        settle(&mut keeper);
        assert_eq!(current(&keeper), [2]);
        assert!(!dir.path().join(REQUEST).exists());
        let figures = Arc::clone(&keeper.figures);
        report(&keeper.store, keeper.max_age, dir.path(), &figures, "rested");
        let read: KeysStatus = serde_json::from_slice(&std::fs::read(dir.path().join(STATUS)).unwrap()).unwrap();
        assert_eq!(
            (read.rows_left, read.generations[0].rows, read.step.as_str()),
            (0, 1, "rested")
        );
        let mut text = String::new();
        keeper.metrics()(&mut text);
        assert!(text.contains("agent_key_provider_up 1\n"), "{text}");
        assert!(text.contains("agent_key_rows_rewrapped_total 1\n"), "{text}");
    }
}
