//! Moves on the wire and on disk: the shell around the machines of [`crate::migration`].
//!
//! | file | holds |
//! | --- | --- |
//! | `quic` | the endpoint: certificates of both sides, names, MTU, windows |
//! | `link` | one connection to one agent: lanes for messages and small objects |
//! | `large` | a stream for each large object, from disk to disk piece by piece |
//! | `copying` | copies between disk and frames |
//! | `librarian` | register reads and changes of many moves |
//! | `engine` | the driver of all machines, and of drains: pure, but for what its outside does |
//! | `shell`, `ways` | that outside in a running agent: tasks, connections, clocks |
//!
//! Specification: DESIGN.md section 11, PROTOCOL.md section "Moving an object".

mod copying;
pub mod engine;
mod large;
mod librarian;
mod link;
pub mod quic;
mod shell;
#[cfg(test)]
mod tests;
mod ways;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use certs::Anchor;
use certs::tls::Current;
use quinn::Endpoint;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::Wanted;
use crate::membership::Revoked;
use crate::migration::Settings;
use crate::migration::pace::PaceSettings;
use crate::migration::window::WindowSettings;
use crate::objects::Objects;
use crate::register::Registers;
use crate::store::{Entry, Store};
pub use copying::{Leave, ShipFault, Shipment, Shipped};
use engine::{Engine, Parts};
pub(crate) use link::Close;
use quic::QuicError;
use shell::{EVENTS_MAX, Event, Shell};
use ways::Ways;

/// How moves are done.
#[derive(Clone, Debug)]
pub struct TransferSettings {
    /// Where other agents are listened for.
    pub listen: SocketAddr,
    /// Octets of a UDP packet's payload.
    pub mtu: u16,
    /// How much is on its way at a time.
    pub window: WindowSettings,
    /// How it becomes less while clients wait.
    pub pace: PaceSettings,
    /// Times and bounds of one move.
    pub machine: Settings,
    /// How long it is told at least where an object went; at most twice as long.
    pub forward_for: Duration,
}

/// Most objects that are sealed at a time, whatever the seals' length.
const SEALED_MAX: usize = 4096;

impl TransferSettings {
    /// From the settings file.
    #[must_use]
    pub fn of(config: &Config) -> TransferSettings {
        let moves = &config.moves;
        TransferSettings {
            listen: config.listen.peer,
            mtu: moves.mtu,
            window: WindowSettings {
                objects_max: moves.window_objects,
                octets_max: moves.window_octets.0,
                sealed_max: moves.window_objects.min(SEALED_MAX),
                seal_target: moves.seal_budget / 2,
            },
            pace: PaceSettings {
                target: moves.foreground_p99,
                floor: moves.slowest_permille,
            },
            machine: Settings {
                seal_budget: moves.seal_budget,
                grace: moves.retire_after,
                reservation: moves.reserve_for,
                ..Settings::default()
            },
            forward_for: moves.forward_for,
        }
    }
}

/// What an agent has moved since it started, and what is open.
#[derive(Debug, Default)]
pub struct Counters {
    open_out: AtomicU64,
    open_in: AtomicU64,
    moved_out: AtomicU64,
    moved_out_octets: AtomicU64,
    moved_in: AtomicU64,
    moved_in_octets: AtomicU64,
    stayed: AtomicU64,
    /// Share of the window, in thousandths.
    pace: AtomicU64,
    slowed: AtomicU64,
    held: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moves {
    /// Moves out of this server that are open.
    pub open_out: u64,
    /// Moves into this server that are open.
    pub open_in: u64,
    /// Objects given away.
    pub moved_out: u64,
    /// Their octets.
    pub moved_out_octets: u64,
    /// Objects taken.
    pub moved_in: u64,
    /// Their octets.
    pub moved_in_octets: u64,
    /// Moves that ended with the object where it was.
    pub stayed: u64,
}

impl Counters {
    fn open(&self, out: usize, incoming: usize) {
        self.open_out.store(out as u64, Ordering::Relaxed);
        self.open_in.store(incoming as u64, Ordering::Relaxed);
    }

    fn paced(&self, share: u32, slowed: u64) {
        self.pace.store(share.into(), Ordering::Relaxed);
        self.slowed.store(slowed, Ordering::Relaxed);
    }

    fn held(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    fn moved_out(&self, octets: u64) {
        self.moved_out.fetch_add(1, Ordering::Relaxed);
        self.moved_out_octets.fetch_add(octets, Ordering::Relaxed);
    }

    fn moved_in(&self, octets: u64) {
        self.moved_in.fetch_add(1, Ordering::Relaxed);
        self.moved_in_octets.fetch_add(octets, Ordering::Relaxed);
    }

    fn stayed(&self) {
        self.stayed.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    #[must_use]
    pub fn moves(&self) -> Moves {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Moves {
            open_out: load(&self.open_out),
            open_in: load(&self.open_in),
            moved_out: load(&self.moved_out),
            moved_out_octets: load(&self.moved_out_octets),
            moved_in: load(&self.moved_in),
            moved_in_octets: load(&self.moved_in_octets),
            stayed: load(&self.stayed),
        }
    }

    /// The counts as Prometheus text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let moves = self.moves();
        let rows = [
            ("agent_moves_open{side=\"source\"}", "gauge", moves.open_out),
            ("agent_moves_open{side=\"destination\"}", "gauge", moves.open_in),
            (
                "agent_moves_finished_total{outcome=\"moved\"}",
                "counter",
                moves.moved_out,
            ),
            (
                "agent_moves_finished_total{outcome=\"stayed\"}",
                "counter",
                moves.stayed,
            ),
            ("agent_moves_taken_total", "counter", moves.moved_in),
            (
                "agent_moves_octets_total{side=\"source\"}",
                "counter",
                moves.moved_out_octets,
            ),
            (
                "agent_moves_octets_total{side=\"destination\"}",
                "counter",
                moves.moved_in_octets,
            ),
            (
                "agent_moves_slowed_total",
                "counter",
                self.slowed.load(Ordering::Relaxed),
            ),
            ("agent_moves_held_total", "counter", self.held.load(Ordering::Relaxed)),
        ];
        let share = self.pace.load(Ordering::Relaxed) as f64 / 1000.0;
        let mut text = format!(
            "# HELP agent_moves_pace_ratio Share of the window that moves may use now: less while clients wait.\n\
             # TYPE agent_moves_pace_ratio gauge\nagent_moves_pace_ratio {share}\n"
        );
        let mut described = "";
        for (series, kind, value) in rows {
            let name = series.split('{').next().unwrap_or(series);
            if name != described {
                text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", help(name)));
                described = name;
            }
            text.push_str(&format!("{series} {value}\n"));
        }
        text
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "agent_moves_open" => "Moves of objects that are open.",
        "agent_moves_finished_total" => "Moves out of this server that ended.",
        "agent_moves_slowed_total" => "How often moves were slowed down for clients.",
        "agent_moves_held_total" => "Offers of other servers that were answered later for clients.",
        "agent_moves_taken_total" => "Objects that this server took over.",
        _ => "Octets of objects that moved.",
    }
}

/// The moves of one agent: listens for others, moves what the controller wants moved.
#[derive(Debug)]
pub struct Transfer {
    endpoint: Endpoint,
    counters: Arc<Counters>,
    stop: CancellationToken,
    engine: JoinHandle<()>,
    events: mpsc::Sender<Event>,
}

/// Waits for the steps of moves that were begun.
#[derive(Clone, Debug)]
pub struct Barrier {
    events: mpsc::Sender<Event>,
}

impl Barrier {
    /// Resolves when every step that was begun before is durable; false if the moves have stopped.
    pub async fn pass(&self) -> bool {
        let (passed, barrier) = oneshot::channel();
        self.events.send(Event::Barrier(passed)).await.is_ok() && barrier.await.is_ok()
    }
}

/// What moves work with.
#[derive(Debug)]
pub struct Room {
    /// This server's certificate.
    pub current: Arc<Current>,
    /// Who was revoked.
    pub revoked: Revoked,
    /// The pool's authority.
    pub anchor: Anchor,
    /// The objects.
    pub objects: Arc<Objects>,
    /// Their store.
    pub store: Arc<Store>,
    /// The librarian.
    pub registers: Arc<Registers>,
    /// What the controller wants.
    pub wanted: watch::Receiver<Wanted>,
    /// The entries of moves that a restart found open: what [`Objects::recover`] returned.
    pub open: Vec<Arc<Entry>>,
}

impl Transfer {
    /// Opens the peer port and starts. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`QuicError`] when the port cannot be opened or the settings do not serve.
    pub fn start(settings: TransferSettings, room: Room) -> Result<Transfer, QuicError> {
        let endpoint = quic::open(settings.listen, settings.mtu, &room.current, &room.anchor)?;
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (wishes, to_fulfil) = mpsc::channel(librarian::WAITING_MAX);
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        tokio::spawn(link::accept(
            endpoint.clone(),
            Arc::clone(&room.revoked),
            events.clone(),
        ));
        tokio::spawn(librarian::run(Arc::clone(&room.registers), to_fulfil, events.clone()));
        let parts = Parts {
            me: room.registers.me().clone(),
            settings,
            objects: Arc::clone(room.objects.local()),
            counters: Arc::clone(&counters),
        };
        let shell = Shell {
            me: room.registers.me().clone(),
            domain: room.registers.domain().clone(),
            objects: room.objects,
            registers: room.registers,
            wanted: room.wanted,
            endpoint: endpoint.clone(),
            revoked: room.revoked,
            events: events.clone(),
            wishes,
            stop: stop.clone(),
            ways: Ways::default(),
            barriers: Vec::new(),
        };
        let engine = tokio::spawn(Engine::new(parts, shell).run(room.open, inbox));
        Ok(Transfer {
            endpoint,
            counters,
            stop,
            engine,
            events,
        })
    }

    /// Where other agents reach this one.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Where to wait for the steps of moves that were begun.
    #[must_use]
    pub fn barrier(&self) -> Barrier {
        Barrier {
            events: self.events.clone(),
        }
    }

    /// What was moved, and what is open.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Stops. Moves that are open stay open in the journal, and the next start takes them up.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.engine.await {
            tracing::error!(%error, "the task of all moves failed");
        }
        link::close_all(&self.endpoint, Close::Stopping);
        // Peers hear that this agent is gone, or find out.
        drop(tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await);
    }
}
