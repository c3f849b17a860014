//! `agent run`: an agent from its directory to its last request.
//!
//! ```text
//!  directory --> store --> objects (open entries closed) --> moves --> HTTPS --> control (has, wants) --> ready
//!  SIGTERM, another release asked for --> no new moves, requests end --> store closed
//! ```
//!
//! Everything that was acknowledged is durable at every moment: a kill loses nothing, a clean stop only spares others the
//! wait.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sd_notify::NotifyState;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::access::Access;
use crate::access::metrics::{self, Source};
use crate::age;
use crate::arrivals::{Checker, Pauses};
use crate::control::{Control, Figures, Told, Wanted};
use crate::dry_run::{self, Trier};
use crate::home::Home;
use crate::install::selftest::{self, Prober};
use crate::install::{Asker, Clear};
use crate::keys::Keeper;
use crate::membership::Membership;
use crate::objects::{Objects, Settings};
use crate::reconcile::Reconciler;
use crate::register::{Phase, Registers, Trust};
use crate::schema::{Children, Limits, Stepper, finals};
use crate::scrub::Scrubber;
use crate::sweep::Sweeper;
use crate::transfer::{Room, Transfer, TransferSettings};
use crate::upkeep::Board;
use crate::vault::{harden, suite};

/// Heaps of the C library.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: i32 = 1;
/// Most threads that run tasks: they wait for disk and network, and bulk work has threads of its own.
const WORKERS_MAX: usize = 4;
/// Most threads for disk work: as many commits wait for one sync at a time.
const BLOCKING_MAX: usize = 256;
/// How long blocking work may go on after everything has stopped.
const BLOCKING_END: Duration = Duration::from_secs(5);
/// Rounds of control that the window of heat has: a minute.
const HEAT_ROUNDS: usize = 60;
/// Processes that run schema steps, at most: they take processor time and little else.
const STEPPING_CHILDREN_MAX: usize = 2;
/// The same for a dry run, which has time.
const TRYING_CHILDREN_MAX: usize = 1;

/// Why an agent that was written off does not serve.
const WRITTEN_OFF: &str = "this server was written off when the registry was reconciled, and others own what it had: keep its \
                           directory if anything in it is missed, empty it otherwise, and join anew with a token of `librarian \
                           invite NAME --again`";

/// Why an agent whose index is old does not serve.
const OLD_INDEX: &str = "the index of this server is older than what it reported: it is an old copy; restore the newest one, or \
                         join anew with an empty directory";

/// What the ready line says.
#[derive(Debug, Serialize)]
struct Ready {
    name: String,
    https: SocketAddr,
    peer: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
}

/// Runs the agent of a directory until SIGTERM or SIGINT.
///
/// # Errors
///
/// Whatever keeps it from starting, with what to do.
pub fn run(dir: &Path) -> Result<()> {
    harden::forbid_core_dumps().context("forbid core dumps")?;
    keep_memory_together();
    if suite::is_control_run() {
        tracing::warn!("CONTROL RUN: nothing that this agent writes is encrypted, and no other agent opens it");
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.min(WORKERS_MAX))
        .max_blocking_threads(BLOCKING_MAX)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let home = Home::open(dir)?;
    let ended = runtime.block_on(serve(home));
    runtime.shutdown_timeout(BLOCKING_END);
    ended
}

/// Has all threads share one heap.
///
/// The C library gives each thread that meets another one a heap of its own, and buffers that pass from thread to thread leave
/// holes in all of them: memory grew with the number of threads that had ever touched a large object. Small allocations are
/// kept by each thread itself and need no heap.
fn keep_memory_together() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; no thread of this process allocates yet beside this one.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX);
    }
}

async fn serve(home: Home) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let agent = tokio::select! {
        agent = Agent::start(home) => agent?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    {
        let mut out = std::io::stdout().lock();
        let line = serde_json::to_string(&agent.ready).context("write the ready line")?;
        // Nobody may be there to read it.
        drop(writeln!(out, "ready {line}").and_then(|()| out.flush()));
    }
    notify(&[NotifyState::Ready]);
    tracing::info!(name = %agent.ready.name, https = %agent.ready.https, peer = %agent.ready.peer, "serving");
    let watchdog = tokio::spawn(watch());
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = agent.written_off.cancelled() => "written off",
        () = agent.old_index.cancelled() => "the index is old",
        () = agent.install.cancelled() => "another release is to be installed",
    };
    let written_off = agent.written_off.is_cancelled();
    let old_index = agent.old_index.is_cancelled();
    watchdog.abort();
    notify(&[NotifyState::Stopping]);
    tracing::info!(why, "stopping");
    agent.stop().await;
    tracing::info!("stopped");
    if written_off {
        bail!(WRITTEN_OFF);
    }
    if old_index {
        bail!(OLD_INDEX);
    }
    Ok(())
}

/// A running agent.
#[derive(Debug)]
struct Agent {
    ready: Ready,
    stop: CancellationToken,
    access: tokio::task::JoinHandle<()>,
    metrics: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    transfer: Transfer,
    /// Cancelled when this server was written off.
    written_off: CancellationToken,
    /// Cancelled when the librarian tells, late, that this index is older than what was reported.
    old_index: CancellationToken,
    /// Cancelled when another release was asked for, which needs this process to end.
    install: CancellationToken,
    _asker: AbortOnDropHandle<()>,
    _control: AbortOnDropHandle<()>,
    _reconciler: AbortOnDropHandle<()>,
    _keeper: AbortOnDropHandle<()>,
    _scrubber: Scrubber,
    _checker: Checker,
    _sweeper: Sweeper,
    _trier: Option<Trier>,
    _policy: AbortOnDropHandle<()>,
    _membership: AbortOnDropHandle<()>,
}

impl Agent {
    async fn start(home: Home) -> Result<Agent> {
        let home = Arc::new(home);
        let opening = Arc::clone(&home);
        let (store, entries) = tokio::task::spawn_blocking(move || {
            let (store, entries) = opening.open_store()?;
            let entries = selftest::sweep(&store, &opening.config.name, entries).context("end a self-test")?;
            anyhow::Ok((store, entries))
        })
        .await
        .context("open the store")??;
        let config = &home.config;
        tracing::info!(copies = entries.len(), commits = store.commits(), "store open");
        let trust = Trust::open(&home.dir).context("read which registry is believed")?;
        let registers = Arc::new(Registers::new(
            config.domain.clone(),
            config.name.clone(),
            config.librarian.dns,
            home.key.clone(),
            Arc::new(trust),
        ));
        let commits = store.commits();
        let confirmed = match age::ask(&registers, commits).await {
            Ok(answer) => answer.map(|()| true)?,
            Err(error) => {
                // What is here can be served without the librarian; open entries wait for it one by one.
                tracing::warn!(%error, "starting without the librarian");
                false
            }
        };
        if *registers.trust().watch().borrow() == Phase::WrittenOff {
            bail!(WRITTEN_OFF);
        }
        let (control, wanted) = Control::open(&home.dir, Arc::clone(&registers)).context("read the plan number")?;
        let settings = Settings {
            queued_writes_max: config.access.queued_writes_max,
            queue_wait: config.access.queue_wait,
            properties_max: config.access.properties_max.0,
            heat_counters: config.access.heat_counters,
            ..Settings::default()
        };
        let schemas = home.schemas()?;
        let steps = Children::new(STEPPING_CHILDREN_MAX, Limits::default());
        let finals = finals::read(&home.dir).context("read which versions are final")?;
        let stepper = Stepper::new(schemas, Box::new(steps)).with_finals(finals);
        let objects = Objects::new(
            Arc::new(store),
            entries,
            Arc::clone(&registers),
            wanted.clone(),
            Arc::new(stepper),
            settings,
        );
        objects.obey(&wanted.borrow().policy);
        let policy = AbortOnDropHandle::new(tokio::spawn(obey(
            Arc::clone(&objects),
            wanted.clone(),
            home.dir.clone(),
        )));
        let open = objects.recover();
        let stop = CancellationToken::new();

        let membership = Membership::new(&home)?;
        let room = Room {
            current: membership.current(),
            revoked: membership.revoked(),
            anchor: home.anchor.clone(),
            objects: Arc::clone(&objects),
            store: Arc::clone(objects.store()),
            registers: Arc::clone(&registers),
            wanted: wanted.clone(),
            open,
        };
        let transfer = Transfer::start(TransferSettings::of(config), room)
            .with_context(|| format!("listen on {} (listen.peer)", config.listen.peer))?;
        let peer = transfer.local_addr().context("read the port of listen.peer")?;
        let written_off = CancellationToken::new();
        let keys_wanted = wanted.clone();
        let install_wanted = wanted.clone();
        let arrivals_wanted = wanted.clone();
        let sweep_wanted = wanted.clone();
        let reconciler = Reconciler {
            registers: Arc::clone(&registers),
            objects: Arc::clone(&objects),
            moves: transfer.barrier(),
            wanted,
            written_off: written_off.clone(),
        };
        let reconciler = AbortOnDropHandle::new(tokio::spawn(reconciler.run()));
        let listener = bind(config.listen.https, "listen.https").await?;
        let https = listener.local_addr().context("read the port of listen.https")?;
        let access = Access::new(
            Arc::clone(&objects),
            &membership.current(),
            &home.anchor,
            membership.revoked(),
            config.access.clone(),
        )?;
        let access = Arc::new(access);
        let (requests, board) = (access.metrics(), Arc::new(Board::default()));
        let mut sources: Vec<Source> = Vec::new();
        let counted = access.metrics();
        let clear = Arc::new(Emptied {
            objects: Arc::clone(&objects),
            requests: access.metrics(),
        });
        sources.push(Box::new(move |out| counted.write(out)));
        let moves = Arc::clone(transfer.counters());
        sources.push(Box::new(move |out| out.push_str(&moves.metrics())));
        let shown = Arc::clone(&objects);
        sources.push(Box::new(move |out| show(&shown, out)));
        sources.push(Box::new(membership.metrics()));
        let prober = Prober::new(
            Arc::clone(&objects),
            (https, peer),
            (membership.current(), home.anchor.clone()),
            config.moves.mtu,
        );
        let membership = AbortOnDropHandle::new(tokio::spawn(membership.run()));
        let keeper = Keeper::new(&home.dir, Arc::clone(objects.store()), keys_wanted, config.keys.max_age);
        sources.push(Box::new(keeper.metrics()));
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let others = Arc::clone(&objects);
        let used = move || others.figures().heat + others.store().commits();
        let scrubber =
            Scrubber::start(&home.dir, Arc::clone(objects.store()), &config.scrub, used).context("start the scrub")?;
        sources.push(Box::new(scrubber.metrics()));
        let others = Arc::clone(&objects);
        let used = move || others.figures().heat + others.store().commits();
        let checker = Checker::start(
            &home.dir,
            Arc::clone(objects.local()),
            arrivals_wanted,
            Arc::clone(&board),
            config.scrub.arrivals_rate.0,
            Pauses::default(),
            used,
        )
        .context("start the reading back of what arrives")?;
        let others = Arc::clone(&objects);
        let used = move || others.figures().heat;
        let sweeper = Sweeper::start(Arc::clone(objects.local()), sweep_wanted, used).context("start the sweep")?;
        sources.push(Box::new(sweeper.metrics()));
        let others = Arc::clone(&objects);
        let used = move || others.figures().heat + others.store().commits();
        let trier = home.next_schemas().map(|schemas| {
            Trier::start(
                &home.dir,
                schemas,
                Arc::clone(objects.local()),
                Arc::clone(&board),
                dry_run::Pauses::default(),
                || Box::new(Children::new(TRYING_CHILDREN_MAX, Limits::default())),
                used,
            )
        });
        let trier = trier.transpose().context("start the dry run of the next schemas")?;
        let metrics = match config.listen.metrics {
            Some(address) => Some(bind(address, "listen.metrics").await?),
            None => None,
        };
        let metrics_address = match &metrics {
            Some(listener) => Some(listener.local_addr().context("read the port of listen.metrics")?),
            None => None,
        };
        let metrics = metrics.map(|listener| tokio::spawn(metrics::serve(listener, sources, stop.clone())));
        let access = tokio::spawn(access.serve(listener, stop.clone()));

        let install = CancellationToken::new();
        let asker = Asker::new(&home.dir, config, install_wanted, clear, install.clone())
            .context("make the folder of requests for another release")?;
        let told = Told {
            install: asker.view(),
            release: config.release.clone(),
            https_port: https.port(),
            peer_port: peer.port(),
            addresses: addresses(&config.listen.advertise, https)?,
        };
        let asker = AbortOnDropHandle::new(tokio::spawn(asker.run(prober)));
        let old_index = CancellationToken::new();
        let control = {
            let old_index = old_index.clone();
            let mut figures = figures(Arc::clone(&objects), board, requests);
            let scrubbed = scrubber.finished();
            let figures = move || {
                let mut told = figures();
                told.upkeep.scrubbed_unix_s = scrubbed();
                told
            };
            tokio::spawn(async move {
                if !confirmed && let Err(error) = age::ask_until_answered(&registers, commits).await {
                    tracing::error!(%error, "this server does not serve");
                    old_index.cancel();
                    return;
                }
                control.run(told, figures).await;
            })
        };
        Ok(Agent {
            ready: Ready {
                name: config.name.to_string(),
                https,
                peer,
                metrics: metrics_address,
            },
            stop,
            access,
            metrics,
            transfer,
            written_off,
            old_index,
            install,
            _asker: asker,
            _control: AbortOnDropHandle::new(control),
            _reconciler: reconciler,
            _keeper: keeper,
            _scrubber: scrubber,
            _checker: checker,
            _sweeper: sweeper,
            _trier: trier,
            _policy: policy,
            _membership: membership,
        })
    }

    /// Ends running requests and open steps of moves, within their bounds.
    async fn stop(self) {
        self.stop.cancel();
        let access = self.access.await;
        if let Err(error) = access {
            tracing::error!(%error, "client access ended badly");
        }
        // After the requests: some of them wait for a move.
        self.transfer.stop().await;
        if let Some(metrics) = self.metrics
            && let Ok(Err(error)) = metrics.await
        {
            tracing::warn!(%error, "metrics ended badly");
        }
    }
}

/// What is left here, as the agent sees it itself.
struct Emptied {
    objects: Arc<Objects>,
    requests: Arc<metrics::Metrics>,
}

impl Clear for Emptied {
    fn is_clear(&self) -> Result<(), String> {
        self.objects.is_clear(0).map_err(|left| left.to_string())
    }

    fn running(&self) -> u64 {
        self.requests.requests_running()
    }

    fn close(&self) -> Result<(), String> {
        // Requests that still run have had their time, and begin nothing any more.
        self.objects.close_for_install(|| 0).map_err(|left| left.to_string())
    }

    fn reopen(&self) {
        self.objects.reopen();
    }
}

async fn bind(address: SocketAddr, setting: &'static str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} ({setting}): is another program there?"))
}

/// Takes what each plan asks of objects.
async fn obey(objects: Arc<Objects>, mut wanted: watch::Receiver<Wanted>, dir: PathBuf) {
    write_finals(&objects, &dir).await;
    while wanted.changed().await.is_ok() {
        let policy = wanted.borrow_and_update().policy;
        objects.obey(&policy);
        write_finals(&objects, &dir).await;
    }
}

/// Writes down which versions are final, if that is news.
async fn write_finals(objects: &Objects, dir: &Path) {
    let Some(finals) = objects.stepper().finalize() else {
        return;
    };
    let dir = dir.to_owned();
    let written = tokio::task::spawn_blocking(move || finals::write(&dir, &finals)).await;
    match written.expect("writing versions does not panic") {
        Ok(()) => tracing::info!("the versions of all types that are known here are final"),
        // Taken up at the next start, since the plan is durable.
        Err(error) => tracing::error!(%error, "the versions that are final cannot be written down"),
    }
}

/// What is told of where this server is.
fn addresses(advertise: &[IpAddr], https: SocketAddr) -> Result<Vec<IpAddr>> {
    match advertise {
        [] if https.ip().is_unspecified() => {
            bail!(
                "listen.https is {https}, which nobody can connect to: set listen.advertise to this server's addresses"
            )
        }
        [] => Ok(vec![https.ip()]),
        some => Ok(some.to_vec()),
    }
}

/// The numbers told each round; heat is what was asked for in the last minute.
fn figures(objects: Arc<Objects>, board: Arc<Board>, access: Arc<metrics::Metrics>) -> impl FnMut() -> Figures + Send {
    let mut before: VecDeque<u64> = VecDeque::with_capacity(HEAT_ROUNDS);
    move || {
        let mut figures = objects.figures();
        let requests = figures.heat;
        let oldest = before.front().copied().unwrap_or(requests);
        if before.len() == HEAT_ROUNDS {
            before.pop_front();
        }
        before.push_back(requests);
        figures.heat = requests - oldest;
        figures.upkeep = board.over(figures.upkeep, access.requests_running());
        figures.hot = objects.heat(access.octets_carried());
        figures
    }
}

/// Prometheus text of what is kept here.
fn show(objects: &Objects, out: &mut String) {
    let figures = objects.figures();
    let usage = objects.store().usage();
    if let Some(p99) = objects.clients_wait() {
        let name = "agent_request_p99_seconds";
        metrics::head(
            out,
            name,
            "gauge",
            "99th percentile of what clients waited in the last seconds; absent with too few of them.",
        );
        metrics::line(out, name, p99.as_secs_f64());
    }
    let mut gauge = |name: &str, help: &str, value: u64| {
        metrics::head(out, name, "gauge", help);
        metrics::line(out, name, value);
    };
    gauge("agent_objects", "Objects that this agent owns.", figures.objects);
    gauge("agent_object_octets", "Plaintext octets of these.", figures.bytes);
    gauge(
        "agent_objects_unreadable",
        "Objects that no move can take away since their copies here cannot be read.",
        figures.unreadable,
    );
    gauge(
        "agent_objects_quarantined",
        "Objects that are not in the newest version of their type since a schema step failed; `agent ls --json` says why.",
        figures.quarantined,
    );
    gauge(
        "agent_store_capacity_octets",
        "Octets that the store may take.",
        usage.capacity,
    );
    gauge("agent_store_used_octets", "Octets that copies take.", usage.used);
    gauge(
        "agent_store_reserved_octets",
        "Octets set aside for copies to come.",
        usage.reserved,
    );
    gauge(
        "agent_registry_held",
        "1 while no register is read or changed because the registry is not reconciled with this server.",
        u64::from(!objects.registers().trust().is_trusted()),
    );
    let mut counter = |name: &str, help: &str, value: u64| {
        metrics::head(out, name, "counter", help);
        metrics::line(out, name, value);
    };
    counter(
        "agent_index_commits_total",
        "Transactions of the index.",
        figures.commits,
    );
    counter(
        "agent_audit_entries_total",
        "Entries that the log of moves has ever had.",
        objects.store().audit_head().count,
    );
    let steps = objects.stepper().counts();
    counter(
        "agent_schema_stepped_total",
        "Objects whose properties were brought to another version as they arrived, or in a sweep.",
        steps.stepped,
    );
    counter(
        "agent_schema_failed_total",
        "Objects that came, or stayed, as they were since a schema step failed.",
        steps.quarantined,
    );
    counter(
        "agent_requests_total",
        "Reads and writes of objects asked for.",
        figures.heat,
    );
    counter(
        "agent_request_errors_total",
        "Reads and writes that failed by this server's fault.",
        figures.errors,
    );
}

/// Tells the service manager that this process is alive, if it wants to know.
async fn watch() {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beat = tokio::time::interval(every / 3);
    loop {
        beat.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
