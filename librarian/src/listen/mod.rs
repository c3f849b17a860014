//! DNS over UDP and TCP.
//!
//! | file | what |
//! |---|---|
//! | `service` | one message in, one answer out: signature, question or update, answer |
//! | `udp`, `batch`, `tcp` | the loops; everything a stranger can send or leave open is bounded here |
//! | `rate`, `limit` | how much one key may change, and how many answers one network of strangers gets |
//! | `counters` | what metrics tell |
//!
//! The loops are our own: hickory-server cannot sign the answer to a signed question, answers the requests of one
//! connection one after the other, and ends what is running when it stops (NUMBERS.md).

mod batch;
mod counters;
mod limit;
mod questions;
mod rate;
mod service;
mod tcp;
mod udp;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use counters::Counters;
pub use questions::Questions;
pub use rate::RateLimit;
pub use service::{Clock, Moment, Service};

/// Ports tried before giving up, where any free one will do.
const PORT_TRIES: usize = 16;
/// Most UDP sockets for one address.
const UDP_SOCKETS_MAX: usize = 16;

/// Bounds of the listeners.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// UDP sockets that share the address, each with a loop of its own; 0 for one for each processor. More than
    /// processors only cost memory.
    pub udp_sockets: usize,
    /// Most answers of one kind over UDP in a second to one network of strangers, 24 bits of IPv4 or 56 of IPv6; 0 for any
    /// number. Too high makes an amplifier of the librarian, too low cuts resolvers off that are not listed.
    pub responses_per_second: u32,
    /// Updates that came over UDP and wait for the registry; what comes beyond is dropped and sent again by its sender.
    pub udp_updates_max: usize,
    /// Connections open at a time; a further one takes the place of the most silent one. Each may cost 200 KiB.
    pub tcp_connections_max: usize,
    /// Connections open at a time from one address, likewise. Too low cuts agents off that share an address.
    pub tcp_connections_per_address_max: usize,
    /// Messages of one connection that wait for their answers; the next is read when one is answered.
    pub tcp_in_flight_max: usize,
    /// How long a connection may be idle, such as `"30s"`.
    #[serde(with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// How long a message may take to arrive, or its answer to leave; slower connections are cut.
    #[serde(with = "humantime_serde")]
    pub tcp_slow: Duration,
    /// How long running updates may take when the librarian stops.
    #[serde(with = "humantime_serde")]
    pub stop_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            udp_sockets: 0,
            responses_per_second: 200,
            udp_updates_max: 1024,
            tcp_connections_max: 1024,
            tcp_connections_per_address_max: 512,
            tcp_in_flight_max: 128,
            tcp_idle: Duration::from_secs(30),
            tcp_slow: Duration::from_secs(10),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Sockets bound to one address, UDP and TCP at the same port.
pub struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Binds an address; port 0 takes any port that is free for both.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the address is in use.
    pub fn bind(address: SocketAddr, settings: &Settings) -> io::Result<Sockets> {
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Sockets::try_bind(address, settings) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                result => return result,
            }
        }
    }

    fn try_bind(address: SocketAddr, settings: &Settings) -> io::Result<Sockets> {
        let tcp = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the old process to time out.
        tcp.set_reuse_address(true)?;
        tcp.set_nonblocking(true)?;
        if address.is_ipv6() {
            tcp.set_only_v6(true)?;
        }
        tcp.bind(&address.into())?;
        tcp.listen(1024)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let address = tcp.local_addr()?;
        // Sockets that share a port also share it with those of strangers, unnoticed: a socket that does not share
        // finds out whether somebody has it.
        drop(UdpSocket::bind(address)?);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if settings.udp_sockets == 0 {
            processors
        } else {
            settings.udp_sockets
        };
        let udp = (0..count.min(UDP_SOCKETS_MAX))
            .map(|_| bind_udp(address))
            .collect::<io::Result<_>>()?;
        Ok(Sockets { udp, tcp, address })
    }

    /// Takes sockets that somebody else bound to one address.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn adopt(udp: Vec<UdpSocket>, tcp: std::net::TcpListener) -> io::Result<Sockets> {
        let tcp = TcpListener::from_std(tcp)?;
        Ok(Sockets {
            udp,
            address: tcp.local_addr()?,
            tcp,
        })
    }

    /// The same sockets once more, to be handed on.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the process may open no more.
    pub fn handles(&self) -> io::Result<(Vec<UdpSocket>, std::net::TcpListener)> {
        let again = |socket: BorrowedFd<'_>| socket.try_clone_to_owned();
        let udp = self.udp.iter().map(UdpSocket::try_clone);
        Ok((udp.collect::<io::Result<_>>()?, again(self.tcp.as_fd())?.into()))
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much as the system allows, for bursts.
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves until `stop` is cancelled, then lets running updates finish and be answered.
///
/// `quiet` is cancelled when nothing more is taken from the sockets: what comes then waits for their next holder, if there is
/// one.
///
/// # Errors
///
/// When a socket is not served, or not any more, although nobody stopped it.
pub async fn serve(
    sockets: Sockets,
    service: Arc<Service>,
    settings: Settings,
    stop: CancellationToken,
    quiet: CancellationToken,
) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let mut loops = JoinSet::new();
    let updates = Arc::new(tokio::sync::Semaphore::new(settings.udp_updates_max));
    let shared = udp::Shared {
        service: Arc::clone(&service),
        limit: Arc::new(limit::ResponseLimit::new(settings.responses_per_second, Instant::now())),
        updates,
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    for (number, socket) in sockets.udp.into_iter().enumerate() {
        loops.spawn(udp::run(socket, number, shared.clone()));
    }
    let connections = tcp::Connections::new(Arc::clone(&service), settings.clone(), tasks.clone(), stop.clone());
    loops.spawn({
        let stop = stop.clone();
        async move {
            tcp::run(sockets.tcp, connections, stop).await;
            Ok(())
        }
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        Some(ended) = loops.join_next() => ended.map_err(io::Error::other)??,
    }
    let ending = async {
        while loops.join_next().await.is_some() {}
        quiet.cancel();
        tasks.close();
        tasks.wait().await;
    };
    if tokio::time::timeout(settings.stop_grace, ending).await.is_err() {
        tracing::warn!(left = tasks.len(), "some requests were not answered before the end");
        quiet.cancel();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
