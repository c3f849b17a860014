//! Connections to the join port: their bounds, and TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certs::{AuthorityError, Peer, Revocations, TlsError, UnixTime};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::admit::Desk;
use super::service::{Allowance, Shared, Shown, router};
use crate::trust;

/// Pause after a failed accept, so that a shortage of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest head of a request.
const HEAD_OCTETS_MAX: usize = 16 * 1024;

/// What strangers may use up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; who comes later waits in the kernel's queue.
    pub connections_max: usize,
    /// Requests in a second.
    pub per_second: u32,
    /// Longest life of a connection, handshake and request together.
    pub timeout: Duration,
}

/// Why the join port is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address cannot be used.
    #[error("cannot listen on {address} (listen_https): choose another address, or stop what listens there")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The librarian's own certificate cannot be made.
    #[error("make the librarian's certificate")]
    Identity(#[from] AuthorityError),
    /// The librarian's own certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A socket that is bound but not served yet, so that its port is known first.
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// [`ListenError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Listener, ListenError> {
        let bind = |source| ListenError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(bind)?;
        let local = socket.local_addr().map_err(bind)?;
        Ok(Listener { socket, local })
    }

    /// Takes a socket that somebody else bound.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn adopt(socket: std::net::TcpListener) -> io::Result<Listener> {
        let socket = TcpListener::from_std(socket)?;
        let local = socket.local_addr()?;
        Ok(Listener { socket, local })
    }

    /// The same socket once more, to be handed on.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the process may open no more.
    pub fn handle(&self) -> io::Result<std::net::TcpListener> {
        Ok(self.socket.as_fd().try_clone_to_owned()?.into())
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Serves until stopped; then lets what runs end within the timeout.
    ///
    /// # Errors
    ///
    /// [`ListenError`] when the librarian's certificate cannot be made at first.
    pub async fn serve(self, desk: Desk, bounds: Bounds, stop: CancellationToken) -> Result<(), ListenError> {
        let shared = Arc::new(Shared {
            desk: Arc::new(desk),
            allowance: Mutex::new(Allowance::new(bounds.per_second, Instant::now())),
        });
        let mut acceptor = acceptor(&shared.desk)?;
        let mut made = Instant::now();
        let router = router(Arc::clone(&shared));
        let places = Arc::new(Semaphore::new(bounds.connections_max));
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection to the join port was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if made.elapsed() > trust::RENEW_AFTER {
                match self::acceptor(&shared.desk) {
                    Ok(fresh) => (acceptor, made) = (fresh, Instant::now()),
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "librarian's certificate is not renewed"
                        );
                    }
                }
            }
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                // Who is slow is cut off; nothing is owed to it.
                let _ = tokio::time::timeout(bounds.timeout, connection(stream, acceptor, router)).await;
                drop(place);
            });
        }
        let all = u32::try_from(bounds.connections_max).unwrap_or(u32::MAX);
        // What runs ends by its own timeout.
        let _ = tokio::time::timeout(bounds.timeout, places.acquire_many(all)).await;
        Ok(())
    }
}

fn acceptor(desk: &Desk) -> Result<TlsAcceptor, ListenError> {
    let identity = trust::librarian_identity(&desk.authority, UnixTime::now())?;
    let mut config = certs::tls::join_server_config(&identity, desk.authority.anchor())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// One connection, one request.
async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: axum::Router) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "handshake on the join port failed");
            return;
        }
    };
    let shown = shown(&stream);
    let router = router.layer(axum::Extension(shown));
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_OCTETS_MAX)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection to the join port ended early");
    }
}

/// Who has shown a certificate; the handshake has checked its signature.
fn shown(stream: &tokio_rustls::server::TlsStream<TcpStream>) -> Shown {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    // Whether it was revoked is asked when it matters.
    Peer::read(certificate, UnixTime::now(), &Revocations::default())
        .ok()
        .map(Arc::new)
}
