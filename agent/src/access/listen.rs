//! The HTTPS port: accepts connections, learns who is there, hands requests to the router.
//!
//! Whoever has no certificate of this pool gets as far as the handshake, which has a bound in number and time. Connections
//! have a bound in all and for each identity, so that one client cannot lock out the others.
//!
//! Specifications: RFC 8446 (TLS 1.3), RFC 9112 (HTTP/1.1), RFC 9113 (HTTP/2), RFC 9112 section 9.6 (closing).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use certs::{Peer, Who};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::access::caller::{ConnectionPeer, now};
use crate::access::metrics::Metrics;
use crate::access::wire::Wire;
use crate::membership::Revoked;

/// Longest TLS handshake.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// Most handshakes at once: the only place where strangers hold anything.
const HANDSHAKES_MAX: usize = 256;
/// Most octets of headers: 64 grants of the longest addresses fit a forwarded certificate.
const HEADERS_OCTETS_MAX: usize = 48 * 1024;
/// Most headers of one request.
const HEADERS_MAX: usize = 64;
/// How often a silent HTTP/2 connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Requests at once in one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Octets that may wait unread in one HTTP/2 stream.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Octets that may wait unread in one HTTP/2 connection. Many uploads share it, so one that waits for its turn must not
/// stop the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long running requests may go on after a stop.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether who is connected is still to be served.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Wait after a failed accept: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the port is served with.
pub(super) struct Port {
    pub(super) tls: TlsAcceptor,
    pub(super) router: Router,
    pub(super) metrics: Arc<Metrics>,
    pub(super) connections_max: usize,
    /// Longest time for the headers of a request, longest idle time of an HTTP/1.1 connection, and longest standstill of a
    /// client that is to take octets.
    pub(super) idle_timeout: Duration,
    /// Who was revoked.
    pub(super) revoked: Revoked,
}

/// Serves until `stop`; then running requests end, within a bound.
pub(super) async fn serve(listener: TcpListener, port: Port, stop: CancellationToken) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let connections = Arc::new(Connections::new(port.connections_max));
    let port = Arc::new(port);
    let tasks = TaskTracker::new();
    loop {
        // The bound comes before the accept: past it, newcomers wait in the kernel's queue.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        let (stream, handshake) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (port, connections, stop) = (Arc::clone(&port), Arc::clone(&connections), stop.clone());
        tasks.spawn(async move {
            if let Some((wire, peer)) = greet(&port, stream).await {
                drop(handshake);
                if let Some(place) = connections.enter(&peer.peer.who) {
                    converse(&port, wire.keeping(place), peer, stop).await;
                } else {
                    port.metrics.refused_busy.fetch_add(1, Ordering::Relaxed);
                    debug!(who = ?peer.peer.who, "too many connections");
                }
            } else {
                port.metrics.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(STOP_WAIT, tasks.wait()).await.is_err() {
        warn!(open = tasks.len(), "connections were cut at the stop");
    }
}

async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.expect("never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// The handshake, and who is there. `None` for whoever is not of this pool, or too slow.
async fn greet(port: &Port, stream: TcpStream) -> Option<(Wire, ConnectionPeer)> {
    drop(stream.set_nodelay(true));
    let stream = match tokio::time::timeout(HANDSHAKE_WAIT, port.tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%error, "handshake failed");
            return None;
        }
        Err(_) => {
            debug!("handshake too slow");
            return None;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned();
    match Peer::read(&certificate, now(), &port.revoked.load()) {
        Ok(peer) => Some((
            Wire::new(stream, port.idle_timeout),
            ConnectionPeer { certificate, peer },
        )),
        Err(error) => {
            warn!(%error, "a certificate of this pool's authority is not good");
            None
        }
    }
}

async fn converse(port: &Port, wire: Wire, peer: ConnectionPeer, stop: CancellationToken) {
    let _held = port.metrics.hold(|metrics| &metrics.connections);
    let peer = Arc::new(peer);
    let asked = Arc::new(Asked::default());
    let service = {
        let (router, peer, asked) = (port.router.clone(), Arc::clone(&peer), Arc::clone(&asked));
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Arc::clone(&peer));
            let answer =
                hyper::service::Service::call(&hyper_util::service::TowerToHyperService::new(router.clone()), request);
            let asked = Arc::clone(&asked);
            async move {
                let _running = asked.begin();
                answer.await
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(port.idle_timeout)
        .max_buf_size(HEADERS_OCTETS_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADERS_OCTETS_MAX).expect("small"))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    // The handshake has settled the protocol; to guess it from the first octets has no bound in time.
    let builder = match wire.is_http2() {
        true => builder.http2_only(),
        false => builder.http1_only(),
    };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(wire), service));
    let mut ending = false;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            // What runs on it ends with it: a download may take hours.
            _ = looks.tick() => match peer.peer.check(now(), &port.revoked.load()) {
                Ok(()) => continue,
                Err(error) => {
                    warn!(%error, who = ?peer.peer.who, "connection is cut");
                    return;
                }
            },
            () = stop.cancelled(), if !ending => ending = true,
            // Answers that still run go on; a connection without any ends.
            () = asked.idle(port.idle_timeout), if !ending => ending = true,
        }
        connection.as_mut().graceful_shutdown();
    };
    if let Err(error) = ended {
        debug!(%error, who = ?peer.peer.who, "connection ended");
    }
}

/// When a connection was last asked something.
#[derive(Debug)]
struct Asked {
    /// Requests whose answer has not begun, and when the last one began or ended.
    state: Mutex<(usize, Instant)>,
}

struct Running(Arc<Asked>);

impl Default for Asked {
    fn default() -> Self {
        Asked {
            state: Mutex::new((0, Instant::now())),
        }
    }
}

impl Asked {
    fn begin(self: &Arc<Self>) -> Running {
        let mut state = self.state.lock();
        *state = (state.0 + 1, Instant::now());
        Running(Arc::clone(self))
    }

    /// Resolves when nothing has been asked for so long.
    async fn idle(&self, max: Duration) {
        loop {
            let (running, last) = *self.state.lock();
            let from = if running > 0 { Instant::now() } else { last };
            if from.elapsed() >= max {
                return;
            }
            tokio::time::sleep_until(from + max).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        *state = (state.0 - 1, Instant::now());
    }
}

/// How many connections there are, in all and of each identity.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    open: Mutex<HashMap<String, usize>>,
}

/// A place among the connections.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    who: String,
}

impl Connections {
    fn new(max: usize) -> Connections {
        Connections {
            max,
            open: Mutex::new(HashMap::new()),
        }
    }

    /// `None` when there are too many: in all, or of this identity (half of all, and at least one).
    fn enter(self: &Arc<Self>, who: &Who) -> Option<Place> {
        let who = match who {
            Who::Librarian => "librarian".to_owned(),
            Who::Server(name) => format!("server:{name}"),
            Who::Client { name, .. } => format!("client:{name}"),
        };
        let mut open = self.open.lock();
        let all: usize = open.values().sum();
        let mine = open.get(&who).copied().unwrap_or(0);
        if all >= self.max || mine >= self.max.div_ceil(2) {
            return None;
        }
        open.insert(who.clone(), mine + 1);
        Some(Place {
            connections: Arc::clone(self),
            who,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        match open.get_mut(&self.who) {
            Some(1) | None => drop(open.remove(&self.who)),
            Some(count) => *count -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Who {
        Who::Client {
            name: name.parse().unwrap(),
            grants: certs::Grants::default(),
        }
    }

    #[test]
    fn one_client_cannot_take_every_connection() {
        let connections = Arc::new(Connections::new(4));
        let mut places: Vec<Place> = (0..2).map(|_| connections.enter(&client("greedy")).unwrap()).collect();
        assert!(connections.enter(&client("greedy")).is_none());
        let other = connections.enter(&client("other")).unwrap();
        let _server = connections.enter(&Who::Server("s2".parse().unwrap())).unwrap();
        assert!(connections.enter(&client("third")).is_none(), "four are open");
        drop(other);
        assert!(connections.enter(&client("third")).is_some());
        places.clear();
        assert!(connections.enter(&client("greedy")).is_some());
    }
}
