//! Clients that put, read and write.
//!
//! The load is steady: operations begin at fixed times whether or not earlier ones are done, and an operation's latency
//! counts from the time it should have begun. A pause therefore shows in full, and never hides by holding back the
//! operations that would have met it.

use std::collections::{BTreeMap, btree_map};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::book::{Book, Entry, Which};
use super::drain::Until;
use super::options::Options;
use super::progress::Progress;
use super::store::Store;
use crate::objects::{Sample, Zipf};

/// Objects that are put at once while the pool is filled.
const FILL_WINDOW: usize = 32;
/// Operations on their way at once; more wait, and their waiting counts.
const OPEN_MAX: usize = 256;
/// Zipf's exponent where hot objects are asked for and nothing else is said: that of many real loads.
const ZIPF: f64 = 0.99;
/// Failures that are told in full.
const TOLD_MAX: usize = 10;

/// How the pool was filled.
pub(super) struct Filled {
    pub(super) objects: u64,
    pub(super) octets: u64,
    pub(super) elapsed: Duration,
}

/// Puts every object of the book.
///
/// # Errors
///
/// When one cannot be put: nothing later would mean much.
pub(super) async fn fill(stores: &[Store], book: &Arc<Book>) -> Result<Filled> {
    let start = Instant::now();
    let progress = Progress::new("put", book.len() as u64);
    let mut running = JoinSet::new();
    let mut done = 0;
    for index in 0..book.len() {
        if running.len() >= FILL_WINDOW {
            let joined: Option<Result<Result<()>, _>> = running.join_next().await;
            joined.context("wait for a put")?.context("run a put")??;
            done += 1;
            progress.set(done);
        }
        let (store, book) = (stores[index % stores.len()].clone(), Arc::clone(book));
        running.spawn(async move {
            let sample = &book.entries()[index].sample;
            store
                .create(sample)
                .await
                .with_context(|| format!("put object {}", sample.address))
        });
    }
    while let Some(joined) = running.join_next().await {
        joined.context("run a put")??;
        done += 1;
        progress.set(done);
    }
    let elapsed = start.elapsed();
    progress.finish(&format!(
        "{done} objects in {:.1} s, {:.0} a second",
        elapsed.as_secs_f64(),
        done as f64 / elapsed.as_secs_f64()
    ));
    Ok(Filled {
        objects: done,
        octets: book.octets()?,
        elapsed,
    })
}

/// What clients saw over some time.
#[derive(Clone)]
pub(super) struct Measured {
    pub(super) reads_us: Histogram<u64>,
    pub(super) writes_us: Histogram<u64>,
    pub(super) operations: u64,
    /// Operations that failed, and reads that showed what they must not.
    pub(super) failed: u64,
    pub(super) mismatched: u64,
    pub(super) elapsed: Duration,
    /// Reads and writes by what went on in the pool when they ended, where somebody says so.
    pub(super) by_stage: BTreeMap<String, [Histogram<u64>; 2]>,
}

/// What goes on in the pool, as its operator sees it.
pub(super) type Stage = Arc<Mutex<String>>;

fn new_histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 600_000_000, 3).context("make a histogram")
}

impl Measured {
    fn new() -> Result<Measured> {
        Ok(Measured {
            reads_us: new_histogram()?,
            writes_us: new_histogram()?,
            by_stage: BTreeMap::new(),
            operations: 0,
            failed: 0,
            mismatched: 0,
            elapsed: Duration::ZERO,
        })
    }

    /// One line for a person.
    pub(super) fn words(&self) -> String {
        format!(
            "{} operations, {} failed, read p50 {:.1} ms p99 {:.1} ms, write p50 {:.1} ms p99 {:.1} ms",
            self.operations,
            self.failed,
            milliseconds(&self.reads_us, 0.5),
            milliseconds(&self.reads_us, 0.99),
            milliseconds(&self.writes_us, 0.5),
            milliseconds(&self.writes_us, 0.99),
        )
    }
}

/// A quantile of a histogram of microseconds, in milliseconds.
pub(super) fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

/// One operation of a client.
#[derive(Clone)]
enum Operation {
    Read { index: usize, which: Which },
    Write { index: usize, which: Which },
    Create { number: u64 },
    Delete { entry: Arc<Entry> },
}

enum Came {
    Right,
    Wrong(anyhow::Error),
    Failed(anyhow::Error),
}

/// What clients do, and to which objects.
pub(super) enum Mix {
    /// All objects alike: eight reads to two writes, and a few objects are made and deleted.
    Even,
    /// Some objects far more often than others: nineteen reads to one write.
    Hot {
        /// How often each rank.
        zipf: Zipf,
        /// The objects by rank, the most wanted first.
        ranks: Vec<usize>,
    },
}

impl Mix {
    /// As it is asked for. The objects are ranked by lot, so that how often one is asked for has nothing to do with where it is.
    pub(super) fn new(options: &Options, book: &Book) -> Mix {
        let Some(exponent) = options.zipf.or(options.hot.then_some(ZIPF)) else {
            return Mix::Even;
        };
        let mut ranks: Vec<usize> = (0..book.len()).collect();
        ranks.shuffle(&mut StdRng::seed_from_u64(options.seed));
        let zipf = Zipf::new(book.len(), exponent);
        println!(
            "{:.0} % of what is asked is for one object of {} (Zipf, exponent {exponent})",
            zipf.part(0) * 100.0,
            book.len(),
        );
        Mix::Hot { zipf, ranks }
    }
}

/// A steady load on a pool.
pub(super) struct Load {
    stores: Vec<Store>,
    book: Arc<Book>,
    period: Duration,
    mix: Mix,
    rng: StdRng,
    /// Each object has one writer at a time: those with a write on its way.
    writing: Arc<Writing>,
    made: u64,
    told: Arc<AtomicU64>,
    stage: Stage,
}

/// Objects with a write on its way.
#[derive(Default)]
struct Writing(Mutex<std::collections::HashSet<usize>>);

impl Writing {
    fn begin(&self, index: usize) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(index)
    }

    fn end(&self, index: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }
}

impl Load {
    /// `rate` operations a second of all clients together.
    pub(super) fn new(stores: Vec<Store>, book: Arc<Book>, rate: u32, mix: Mix) -> Load {
        Load {
            stores,
            book,
            period: Duration::from_secs(1) / rate,
            mix,
            rng: StdRng::seed_from_u64(1),
            writing: Arc::default(),
            made: 0,
            told: Arc::default(),
            stage: Stage::default(),
        }
    }

    /// Where to say what goes on in the pool.
    pub(super) fn stage(&self) -> Stage {
        Arc::clone(&self.stage)
    }

    /// Keeps the load on until it is over, and waits for the last operation.
    pub(super) async fn run(&mut self, until: Until) -> Result<Measured> {
        let mut measured = Measured::new()?;
        let mut open: JoinSet<(bool, Duration, Came)> = JoinSet::new();
        let start = Instant::now();
        let mut next = start;
        while !until.is_over(start) {
            tokio::time::sleep_until(next.into()).await;
            while open.len() >= OPEN_MAX {
                self.note(&mut measured, open.join_next().await)?;
            }
            while let Some(joined) = open.try_join_next() {
                self.note(&mut measured, Some(joined))?;
            }
            let operation = self.choose();
            let store = self.stores[self.rng.random_range(0..self.stores.len())].clone();
            let (book, writing, due) = (Arc::clone(&self.book), Arc::clone(&self.writing), next);
            open.spawn(async move {
                let came = perform(&store, &book, &operation).await;
                if let Operation::Write { index, .. } = operation {
                    writing.end(index);
                }
                (matches!(operation, Operation::Read { .. }), due.elapsed(), came)
            });
            next += self.period;
        }
        while let Some(joined) = open.join_next().await {
            self.note(&mut measured, Some(joined))?;
        }
        measured.elapsed = start.elapsed();
        Ok(measured)
    }

    fn choose(&mut self) -> Operation {
        let (index, reads) = match &self.mix {
            Mix::Even => (self.rng.random_range(0..self.book.len()), 80),
            Mix::Hot { zipf, ranks } => (ranks[zipf.sample(self.rng.random())], 95),
        };
        let which = if self.rng.random() {
            Which::Body
        } else {
            Which::Properties
        };
        let (hot, dice) = (matches!(self.mix, Mix::Hot { .. }), self.rng.random_range(0..100));
        if dice < reads {
            return Operation::Read { index, which };
        }
        if hot || dice < 97 {
            return match self.writing.begin(index) {
                true => Operation::Write { index, which },
                // Somebody writes it already: read it instead.
                false => Operation::Read { index, which },
            };
        }
        if dice < 99 {
            self.made += 1;
            return Operation::Create { number: self.made };
        }
        // Deletes what was made a while ago, if there is something.
        match self.book.take_made(8) {
            Some(entry) => Operation::Delete { entry },
            None => Operation::Read { index, which },
        }
    }

    fn note(
        &self,
        measured: &mut Measured,
        joined: Option<Result<(bool, Duration, Came), tokio::task::JoinError>>,
    ) -> Result<()> {
        let (read, took, came) = joined.context("wait for an operation")?.context("run an operation")?;
        let histogram = if read {
            &mut measured.reads_us
        } else {
            &mut measured.writes_us
        };
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        histogram.saturating_record(took_us);
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !stage.is_empty() {
            let both = match measured.by_stage.entry(stage) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(new) => new.insert([new_histogram()?, new_histogram()?]),
            };
            both[usize::from(!read)].saturating_record(took_us);
        }
        measured.operations += 1;
        let (what, error) = match came {
            Came::Right => return Ok(()),
            Came::Wrong(error) => {
                measured.mismatched += 1;
                ("an object is not what it must be", error)
            }
            Came::Failed(error) => {
                measured.failed += 1;
                ("an operation failed", error)
            }
        };
        if self.told.fetch_add(1, Ordering::Relaxed) < TOLD_MAX as u64 {
            eprintln!("{what}: {error:#}");
        }
        Ok(())
    }
}

/// Type of the objects that are made under load.
pub(super) const MADE_KIND: &str = "note";

/// The object that is made under load under a number.
fn made(number: u64) -> Result<Sample> {
    let text = format!("8.demo.{number:05}");
    Ok(Sample {
        address: text.parse().context("spell an address")?,
        kind: MADE_KIND.parse().context("spell a type")?,
        properties: serde_json::Map::from_iter([("number".to_owned(), number.into())]),
        body: format!("# {text}\n\nmade while a server was drained\n").into_bytes(),
    })
}

async fn perform(store: &Store, book: &Book, operation: &Operation) -> Came {
    let done = match operation {
        Operation::Read { index, which } => return read(store, &book.entries()[*index], *which).await,
        Operation::Write { index, which } => write(store, &book.entries()[*index], *which).await,
        Operation::Create { number } => create(store, book, *number).await,
        Operation::Delete { entry } => delete(store, entry).await,
    };
    done.map_or_else(Came::Failed, |()| Came::Right)
}

async fn read(store: &Store, entry: &Entry, which: Which) -> Came {
    let least = entry.acknowledged(which);
    let checked = match which {
        Which::Properties => match store.properties(entry.address()).await {
            Ok(found) => entry.check_properties(&found, least),
            Err(error) => return Came::Failed(error.context(format!("read {}", entry.address()))),
        },
        Which::Body => match store.body(entry.address()).await {
            Ok(found) => entry.check_body(&found, least),
            Err(error) => return Came::Failed(error.context(format!("read the body of {}", entry.address()))),
        },
    };
    checked.map_or_else(
        |error| Came::Wrong(error.context(format!("object {}", entry.address()))),
        |()| Came::Right,
    )
}

async fn write(store: &Store, entry: &Entry, which: Which) -> Result<()> {
    let version = entry.send(which);
    let written = match which {
        Which::Properties => store.put_properties(entry.address(), entry.properties(version)).await,
        Which::Body => store.put_body(entry.address(), entry.body(version)).await,
    };
    written.with_context(|| format!("write {}", entry.address()))?;
    entry.acknowledge(which, version);
    Ok(())
}

async fn create(store: &Store, book: &Book, number: u64) -> Result<()> {
    let entry = Arc::new(Entry::new(made(number)?));
    store
        .create(&entry.sample)
        .await
        .with_context(|| format!("make {}", entry.address()))?;
    book.add(entry);
    Ok(())
}

async fn delete(store: &Store, entry: &Entry) -> Result<()> {
    entry.delete(false);
    store
        .delete(entry.address())
        .await
        .with_context(|| format!("delete {}", entry.address()))?;
    entry.delete(true);
    Ok(())
}
