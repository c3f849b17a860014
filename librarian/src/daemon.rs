//! The running librarian: registry, DNS, joining, controller and control socket, from one directory.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::answer;
use crate::config::{Config, ConfigError};
use crate::control::words::Addresses;
use crate::control::{self, Control, ControlError};
use crate::invite::{InviteError, Member};
use crate::join::{Bounds, Desk, ListenError, Listener};
use crate::keys::{KeyRing, KeysError};
use crate::listen::{self, RateLimit, Service, Sockets};
use crate::metrics::{self, Metrics};
use crate::pool::{self, controller};
use crate::registry::{self, Proposal, Registry, ServerChange, StorageError, SubmitError};
use crate::trust::{self, TrustError};

/// Name of the registry's file.
pub const REGISTRY_FILE: &str = "registry.redb";

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

/// Runs the librarian of a directory until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`RunError`] when it cannot begin, or a part of it fails.
pub async fn run(dir: &Path) -> Result<(), RunError> {
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
            stop.cancel();
        }
    };
    // Aborted when the librarian ends by itself.
    let signals = tokio::spawn(on_signal);
    let result = serve(dir, stop, |ready| {
        println!("ready {ready}");
        std::io::stdout().flush()?;
        sd_notify::notify(&[sd_notify::NotifyState::Ready])
    })
    .await;
    signals.abort();
    result
}

/// Runs the librarian of a directory until stopped. `ready` is called once, with what the ready line says.
///
/// # Errors
///
/// As [`run`].
pub async fn serve(
    dir: &Path,
    stop: CancellationToken,
    ready: impl FnOnce(serde_json::Value) -> std::io::Result<()>,
) -> Result<(), RunError> {
    let config = Config::read(dir)?;
    let path = dir.join(REGISTRY_FILE);
    let settings = registry::Settings {
        lease: config.lease,
        ttl_s: seconds(config.ttl),
        ..registry::Settings::default()
    };
    // First of all: whoever holds this file is the only librarian of the directory.
    let registry =
        Registry::open(&path, &config.domain, settings).map_err(|source| RunError::Storage { path, source })?;
    let result = parts(dir, &config, &registry, stop, ready).await;
    registry.close().await;
    result
}

/// Starts all parts and waits for them. Dropping the guard stops those that still run.
async fn parts(
    dir: &Path,
    config: &Config,
    registry: &Registry,
    stop: CancellationToken,
    ready: impl FnOnce(serde_json::Value) -> std::io::Result<()>,
) -> Result<(), RunError> {
    let _guard = stop.clone().drop_guard();
    let authority = Arc::new(trust::authority(dir, &config.domain)?);
    trust::pool_key(dir)?;
    let keys = Arc::new(KeyRing::open(dir)?);
    for member in Member::all(dir)? {
        // Written down before the registry learned of it; a crash between the two is made good here.
        let add = ServerChange::Add {
            name: member.server,
            role: member.role,
        };
        registry.submit(Proposal::Server(add)).await?;
    }
    let listen_settings = listen::Settings {
        tcp_connections_max: config.tcp_connections_max,
        tcp_idle: config.tcp_idle,
        ..listen::Settings::default()
    };
    let sockets = Sockets::bind(config.listen_dns, &listen_settings).map_err(|source| RunError::Dns {
        address: config.listen_dns,
        source,
    })?;
    let listener = Listener::bind(config.listen_https).await?;
    let metrics_listener = match config.listen_metrics {
        Some(address) => {
            let failed = |source| RunError::Metrics { address, source };
            let listener = metrics::Listener::bind(address).await.map_err(failed)?;
            tracing::info!(address = %listener.local().map_err(failed)?, "metrics are served");
            Some(listener)
        }
        None => None,
    };
    let (dns, https) = (sockets.address(), listener.local());
    let addresses = Addresses {
        dns: config.advertise_dns.unwrap_or(dns),
        https: config.advertise_https.unwrap_or(https),
    };
    let service = Arc::new(Service::new(
        registry.clone(),
        answers(config, addresses.dns.ip()),
        config.networks.clone(),
        Arc::clone(&keys),
        RateLimit {
            changes_per_second: config.changes_per_second,
            burst: config.changes_per_second.saturating_mul(4),
        },
    ));
    let reconcile = Arc::clone(service.reconcile());
    let metrics = Metrics {
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
    let linger = config.ttl * 2 + std::time::Duration::from_secs(1);
    let memory = Arc::new(parking_lot::Mutex::new(pool::Memory::new(linger)));
    let control = Control {
        dir: dir.to_owned(),
        reconcile: Arc::clone(&reconcile),
        registry: registry.clone(),
        keys,
        addresses,
        memory: Arc::clone(&memory),
    };
    let control = control::Listener::bind(dir, control)?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn({
        let stop = stop.clone();
        async move {
            listen::serve(sockets, service, listen_settings, stop).await;
            Ok(())
        }
    });
    tasks.spawn({
        let stop = stop.clone();
        async move { Ok(listener.serve(desk, bounds, stop).await?) }
    });
    tasks.spawn({
        let stop = stop.clone();
        async move {
            control.serve(stop).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (registry, interval, stop) = (registry.clone(), config.controller_interval, stop.clone());
        async move {
            controller::run(registry, interval, memory, stop).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (dir, stop) = (dir.to_owned(), stop.clone());
        async move {
            reconcile.run(&dir, stop.clone()).await;
            // Nothing more to do; but the end of a part is the end of all.
            stop.cancelled().await;
            Ok(())
        }
    });
    if let Some(listener) = metrics_listener {
        let stop = stop.clone();
        tasks.spawn(async move { Ok(listener.serve(metrics, stop).await?) });
    }
    tracing::info!(domain = %config.domain, %dns, %https, "librarian serves");
    ready(json!({ "dns": dns, "https": https, "dir": dir }))?;
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a part of the librarian ended unexpectedly");
            Err(RunError::System(std::io::Error::other(error)))
        });
        if ended.is_err() && result.is_ok() {
            result = ended;
        }
        // One part without the others is no librarian.
        stop.cancel();
    }
    result
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
        factors_percent: config.weights.clone(),
    }
}

fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
