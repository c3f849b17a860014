//! The running librarian: registry, DNS, joining, controller and control socket, from one directory.

mod ports;
mod succession;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use certs::Authority;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::answer;
use crate::config::{Config, ConfigError};
use crate::control::words::Addresses;
use crate::control::{self, Control, ControlError};
use crate::handover::{Passed, PassedError, Predecessor, TakeError};
use crate::invite::{InviteError, Member};
use crate::join::{Bounds, Desk, ListenError};
use crate::keys::{KeyRing, KeysError};
use crate::listen::{self, RateLimit, Service};
use crate::losses::Losses;
use crate::metrics::Metrics;
use crate::pool::{self, controller};
use crate::registry::{self, Proposal, Registry, ServerChange, StorageError, SubmitError};
use crate::transfer::Transfers;
use crate::trust::{self, TrustError};
use ports::Ports;
use succession::{Before, End, Life, Parts};

/// Name of the registry's file.
pub const REGISTRY_FILE: &str = "registry.redb";
/// How long the registry's file may be held after another librarian has let go of it.
const HELD_MAX: Duration = Duration::from_secs(30);
/// Pause before it is tried again.
const HELD_PAUSE: Duration = Duration::from_millis(50);

/// Why the librarian does not run, or not any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The pool's authority cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The list of servers that joined cannot be read.
    #[error(transparent)]
    Members(#[from] InviteError),
    /// The registry cannot be opened.
    #[error("cannot open the registry {path}")]
    Storage {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: StorageError,
    },
    /// The registry refuses what the directory says.
    #[error("the registry does not take a server that joined")]
    Registry(#[from] SubmitError),
    /// DNS cannot be served.
    #[error("cannot listen on {address} (listen_dns): choose another address, or stop what listens there")]
    Dns {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Metrics cannot be served.
    #[error("cannot listen on {address} (listen_metrics): choose another address, or stop what listens there")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Sockets that were handed on cannot be used.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// The librarian that runs now does not hand over.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// Joining cannot be served.
    #[error(transparent)]
    Join(#[from] ListenError),
    /// The control socket cannot be served.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Signals or standard output fail.
    #[error("cannot speak to the system")]
    System(#[from] std::io::Error),
}

/// How a librarian begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beginning {
    /// No other librarian runs in the directory.
    Alone,
    /// In the place of the one that runs in the directory, if one does, and with its sockets.
    TakeOver,
}

/// Runs the librarian of a directory until SIGTERM or SIGINT, or until another one has taken over.
///
/// # Errors
///
/// [`RunError`] when it cannot begin, or a part of it fails.
pub async fn run(dir: &Path, beginning: Beginning) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let on_signal = {
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stops");
            notify(NotifyState::Stopping);
            stop.cancel();
        }
    };
    // Aborted when the librarian ends by itself.
    let signals = tokio::spawn(on_signal);
    let watchdog = tokio::spawn(watch());
    let result = serve(dir, beginning, stop, |ready| {
        println!("ready {ready}");
        std::io::stdout().flush()?;
        notify(NotifyState::Ready);
        Ok(())
    })
    .await;
    watchdog.abort();
    signals.abort();
    result
}

/// Tells the service manager that this process is alive, if it wants to know.
async fn watch() {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beat = tokio::time::interval(every / 3);
    loop {
        beat.tick().await;
        notify(NotifyState::Watchdog);
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Runs the librarian of a directory until stopped. `ready` is called once, with what the ready line says.
///
/// # Errors
///
/// As [`run`].
pub async fn serve(
    dir: &Path,
    beginning: Beginning,
    stop: CancellationToken,
    ready: impl FnOnce(serde_json::Value) -> std::io::Result<()>,
) -> Result<(), RunError> {
    let config = Config::read(dir)?;
    let listen_settings = listen::Settings {
        responses_per_second: config.responses_per_second,
        tcp_connections_max: config.tcp_connections_max,
        tcp_idle: config.tcp_idle,
        ..listen::Settings::default()
    };
    let mut passed = Passed::from_systemd()?;
    let mut before = Before::Nobody;
    let mut ports = None;
    if beginning == Beginning::TakeOver {
        match Predecessor::ask(dir).await? {
            Some((mut predecessor, sockets)) => {
                // Whatever can go wrong goes wrong before anything is taken away.
                Ground::read(dir, &config)?;
                ports = Some(Ports::open(&config, &listen_settings, sockets).await?);
                tokio::select! {
                    let_go = predecessor.let_go(dir) => let_go?,
                    () = stop.cancelled() => return Ok(()),
                }
                before = Before::Another(predecessor);
            }
            None => tracing::info!("no librarian runs here: there is nothing to take over"),
        }
    }
    let mut ready = Some(ready);
    loop {
        // First of all: whoever holds this file is the only librarian of the directory.
        let registry = open(dir, &config, &before).await?;
        let lived = async {
            let ports = match ports.take() {
                Some(ports) => ports,
                None => Ports::open(&config, &listen_settings, std::mem::take(&mut passed)).await?,
            };
            let settings = listen_settings.clone();
            parts(dir, &config, settings, &registry, ports, before, &stop, &mut ready).await
        };
        let lived = lived.await;
        registry.close().await;
        match lived? {
            End::Stopped => return Ok(()),
            End::LeftAlone(remains, sockets) => {
                before = Before::Itself(remains);
                passed = sockets;
            }
        }
    }
}

/// Opens the registry; after another librarian its file may be held a little longer, by a backup that is being written.
async fn open(dir: &Path, config: &Config, before: &Before) -> Result<Registry, RunError> {
    let path = dir.join(REGISTRY_FILE);
    let settings = registry::Settings {
        lease: config.lease,
        ttl_s: seconds(config.ttl),
        journal: config.transfers.journal(),
        ..registry::Settings::default()
    };
    let began = tokio::time::Instant::now();
    loop {
        match Registry::open(&path, &config.domain, settings.clone()) {
            Err(StorageError::InUse { .. }) if !matches!(before, Before::Nobody) && began.elapsed() < HELD_MAX => {
                tokio::time::sleep(HELD_PAUSE).await;
            }
            opened => return opened.map_err(|source| RunError::Storage { path, source }),
        }
    }
}

/// What a librarian needs from its directory besides settings and registry.
struct Ground {
    authority: Authority,
    keys: KeyRing,
    members: Vec<Member>,
}

impl Ground {
    fn read(dir: &Path, config: &Config) -> Result<Ground, RunError> {
        let authority = trust::authority(dir, &config.domain)?;
        trust::pool_key(dir)?;
        Ok(Ground {
            authority,
            keys: KeyRing::open(dir)?,
            members: Member::all(dir)?,
        })
    }
}

/// Starts all parts and waits for them. Dropping the guard stops those that still run.
#[expect(clippy::too_many_arguments, reason = "called once, with all that a life needs")]
async fn parts(
    dir: &Path,
    config: &Config,
    listen_settings: listen::Settings,
    registry: &Registry,
    ports: Ports,
    before: Before,
    stop: &CancellationToken,
    ready: &mut Option<impl FnOnce(serde_json::Value) -> std::io::Result<()>>,
) -> Result<End, RunError> {
    let all = stop.child_token();
    let (answers_stop, changes_stop) = (all.child_token(), all.child_token());
    let guard = all.clone().drop_guard();
    let ground = Ground::read(dir, config)?;
    let (authority, keys) = (Arc::new(ground.authority), Arc::new(ground.keys));
    for member in ground.members {
        // Written down before the registry learned of it; a crash between the two is made good here.
        let add = ServerChange::Add {
            name: member.server,
            role: member.role,
        };
        registry.submit(Proposal::Server(add)).await?;
    }
    let handles = ports.handles()?;
    if let (Some(listener), Some(address)) = (&ports.metrics, config.listen_metrics) {
        let address = listener
            .local()
            .map_err(|source| RunError::Metrics { address, source })?;
        tracing::info!(%address, "metrics are served");
    }
    let Ports {
        dns: sockets,
        join: listener,
        metrics: metrics_listener,
    } = ports;
    let (dns, https) = (sockets.address(), listener.local());
    let addresses = Addresses {
        dns: config.advertise_dns.unwrap_or(dns),
        https: config.advertise_https.unwrap_or(https),
    };
    let answers = answers(config, addresses.dns.ip());
    let transfers = Transfers::new(
        Some(dir),
        registry.clone(),
        Arc::clone(&keys),
        &answers,
        config.transfers,
    );
    let transfers = Arc::new(transfers);
    transfers.begin().await;
    let rate = RateLimit {
        changes_per_second: config.changes_per_second,
        burst: config.changes_per_second.saturating_mul(4),
    };
    let service = Service::new(
        registry.clone(),
        answers,
        config.networks.clone(),
        Arc::clone(&keys),
        rate,
    );
    let service = Arc::new(service.with_transfers(Arc::clone(&transfers)));
    let (reconcile, questions) = (Arc::clone(service.reconcile()), Arc::clone(service.questions()));
    let losses = Arc::new(Losses::default());
    let metrics = Metrics {
        losses: Arc::clone(&losses),
        transfers: Arc::clone(&transfers),
        reconcile: Arc::clone(&reconcile),
        registry: registry.clone(),
        counters: Arc::clone(service.counters()),
    };
    let desk = Desk {
        dir: dir.to_owned(),
        domain: config.domain.clone(),
        authority,
        registry: registry.clone(),
        keys: Arc::clone(&keys),
        dns: addresses.dns,
        https: addresses.https,
        turn: tokio::sync::Mutex::default(),
    };
    let bounds = Bounds {
        connections_max: config.join_connections_max,
        per_second: config.joins_per_second,
        timeout: config.join_timeout,
    };
    // An answer that names a server, then one with that server's address, each cached for its TTL; and a second, because
    // neither clock nor answer is exact.
    let linger = config.ttl * 2 + Duration::from_secs(1);
    let memory_of_nothing = {
        let (prices, balance, copies) = (config.terms().prices(), config.placement.balance(), config.keep());
        let book = Arc::clone(transfers.book());
        move || {
            pool::Memory::new(linger)
                .with_prices(prices)
                .with_balance(balance)
                .with_copies(copies)
                .with_secondaries(book)
        }
    };
    let memory = Arc::new(parking_lot::Mutex::new(memory_of_nothing.clone()()));
    // One at a time; a second one is told so.
    let (successors, mut asked) = mpsc::channel(1);
    let control = Control {
        dir: dir.to_owned(),
        losses,
        reconcile: Arc::clone(&reconcile),
        registry: registry.clone(),
        keys,
        transfers: Arc::clone(&transfers),
        addresses,
        questions,
        memory: Arc::clone(&memory),
        began: Instant::now(),
        successors,
    };
    let control = control::Listener::bind(dir, control)?;
    let before = before.stop().await;
    let quiet = CancellationToken::new();
    let mut answering = Parts::new();
    answering.spawn({
        let (service, stop, quiet) = (Arc::clone(&service), answers_stop.clone(), quiet.clone());
        async move { Ok(listen::serve(sockets, service, listen_settings, stop, quiet).await?) }
    });
    let mut changing = Parts::new();
    changing.spawn({
        let stop = changes_stop.clone();
        async move { Ok(listener.serve(desk, bounds, stop).await?) }
    });
    changing.spawn({
        let stop = changes_stop.clone();
        async move {
            control.serve(stop).await;
            Ok(())
        }
    });
    changing.spawn({
        let (transfers, stop) = (Arc::clone(&transfers), changes_stop.clone());
        async move {
            transfers.run(dns.ip(), stop).await;
            Ok(())
        }
    });
    changing.spawn({
        let (registry, interval, stop) = (registry.clone(), config.controller_interval, changes_stop.clone());
        async move {
            // How long things have been so is counted from the last answer of the process before.
            before.ended(&stop).await;
            transfers.book().begin_anew(Instant::now());
            *memory.lock() = memory_of_nothing();
            controller::run(registry, interval, memory, stop).await;
            Ok(())
        }
    });
    changing.spawn({
        let (dir, stop) = (dir.to_owned(), changes_stop.clone());
        async move {
            reconcile.run(&dir, stop.clone()).await;
            // Nothing more to do; but the end of a part is the end of all.
            stop.cancelled().await;
            Ok(())
        }
    });
    if let Some(listener) = metrics_listener {
        let stop = answers_stop.clone();
        answering.spawn(async move { Ok(listener.serve(metrics, stop).await?) });
    }
    tracing::info!(domain = %config.domain, %dns, %https, "librarian serves");
    if let Some(ready) = ready.take() {
        ready(json!({ "dns": dns, "https": https, "dir": dir }))?;
    }
    let mut life = Life {
        registry,
        service: &service,
        handles,
        answering,
        answers: answers_stop,
        quiet,
        changing,
        changes: changes_stop,
        all,
        guard,
    };
    let mut result = Ok(());
    loop {
        let ended = tokio::select! {
            Some(ended) = life.answering.join_next() => ended,
            Some(ended) = life.changing.join_next() => ended,
            Some(successor) = asked.recv(), if !life.all.is_cancelled() => match life.hand_over(successor).await {
                Ok(end) => return Ok(end),
                Err(goes_on) => {
                    life = goes_on;
                    continue;
                }
            },
            else => break,
        };
        let ended = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a part of the librarian ended unexpectedly");
            Err(RunError::System(std::io::Error::other(error)))
        });
        if ended.is_err() && result.is_ok() {
            result = ended;
        }
        // One part without the others is no librarian.
        life.all.cancel();
    }
    result.map(|()| End::Stopped)
}

fn answers(config: &Config, ns: IpAddr) -> answer::Settings {
    answer::Settings {
        ttl_s: seconds(config.ttl),
        // An unspecified address is one that nobody can ask.
        ns_addresses: Some(ns)
            .filter(|address| !address.is_unspecified())
            .into_iter()
            .collect(),
        public: config.public.clone(),
        serves: config.serves.iter().filter_map(|part| part.served().ok()).collect(),
        terms: config.terms(),
        udp_octets_max: config.udp_octets_max,
    }
}

fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
