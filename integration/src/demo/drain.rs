//! Drains one server while clients read and write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::book::Book;
use super::load::{self, Measured};
use super::options::Options;
use super::progress::Progress;
use super::store::Store;
use crate::harness::Pool;

/// Longest drain.
const DRAIN_WAIT: Duration = Duration::from_secs(3600);
/// Load goes on for so long after the drain, so that what comes late shows.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What happened under load.
pub(super) struct Moved {
    pub(super) before: Measured,
    pub(super) during: Measured,
    pub(super) after: Measured,
    /// How long the drain took, from the command to its end.
    pub(super) elapsed: Duration,
}

/// Which server is drained: the one asked for, or the one with the most objects.
pub(super) fn choose(asked: Option<&str>, pool: &Pool) -> Result<String> {
    if let Some(name) = asked {
        return Ok(pool.server(name)?.name.clone());
    }
    // What a server has is reported every second: wait for the first report after the objects came.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let status = pool.pool_status()?;
        let serving = status.servers.into_iter().filter(|server| server.role == "serving");
        let fullest = serving.max_by_key(|server| (server.objects, std::cmp::Reverse(server.name.clone())));
        let fullest = fullest.context("no server of the pool serves")?;
        if fullest.objects.unwrap_or(0) > 0 || Instant::now() > until {
            return Ok(fullest.name);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Load before, during and shortly after the drain.
pub(super) fn under_load(
    options: &Options,
    pool: &Pool,
    book: &Arc<Book>,
    stores: &[Store],
    server: &str,
    runtime: &tokio::runtime::Runtime,
) -> Result<Moved> {
    println!(
        "\n{} clients read and write, {} operations a second, every one located by DNS",
        stores.len(),
        options.rate
    );
    let mix = load::Mix::new(options, book);
    let mut load = load::Load::new(stores.to_vec(), Arc::clone(book), options.rate, mix);
    let before = runtime.block_on(load.run(Until::Time(Duration::from_secs(options.before))))?;
    println!("  for {} s, nothing moves: {}", options.before, before.words());

    println!("Drains {server} into the free server (librarian drain {server}), clients go on");
    let over = Arc::new(AtomicBool::new(false));
    let (during, drained) = std::thread::scope(|scope| {
        let drain = {
            let over = Arc::clone(&over);
            scope.spawn(move || {
                let start = Instant::now();
                let done = pool.librarian_within(DRAIN_WAIT, &["drain", server]);
                let elapsed = start.elapsed();
                over.store(true, Ordering::Release);
                done.map(|_| elapsed)
            })
        };
        let watched = {
            let over = Arc::clone(&over);
            scope.spawn(move || watch(pool, server, &over))
        };
        let during = runtime.block_on(load.run(Until::Flag(Arc::clone(&over))));
        over.store(true, Ordering::Release);
        let _ = watched.join();
        (during, drain.join())
    });
    let elapsed = drained
        .map_err(|_| anyhow::anyhow!("the drain panicked"))?
        .context("drain the server")?;
    let during = during?;
    println!("  drained in {:.1} s: {}", elapsed.as_secs_f64(), during.words());
    let after = runtime.block_on(load.run(Until::Time(AFTERWARDS)))?;
    Ok(Moved {
        before,
        during,
        after,
        elapsed,
    })
}

/// How long load goes on.
pub(super) enum Until {
    Time(Duration),
    Flag(Arc<AtomicBool>),
}

impl Until {
    pub(super) fn is_over(&self, start: Instant) -> bool {
        match self {
            Until::Time(time) => start.elapsed() >= *time,
            Until::Flag(over) => over.load(Ordering::Acquire),
        }
    }
}

/// Shows how many objects the server still has.
fn watch(pool: &Pool, server: &str, over: &AtomicBool) {
    let left = || {
        let status = pool.pool_status().ok()?;
        status.servers.into_iter().find(|status| status.name == server)?.objects
    };
    let Some(total) = left() else {
        return;
    };
    let progress = Progress::new("moved", total);
    while !over.load(Ordering::Acquire) {
        if let Some(left) = left() {
            progress.set(total.saturating_sub(left));
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    progress.finish("the drain has ended");
}
