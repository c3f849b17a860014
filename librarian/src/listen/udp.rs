//! DNS over UDP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counters::Counters;
use super::service::{Handled, Service};
use crate::answer::reply::Transport;

/// Datagrams answered before other tasks get their turn.
const TURN: usize = 64;

/// Answers what comes to one socket until stopped. Questions are answered in place, updates in tasks of their own.
pub(super) async fn run(
    socket: Arc<UdpSocket>,
    service: Arc<Service>,
    updates: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let ready = tokio::select! {
            ready = socket.readable() => ready,
            () = stop.cancelled() => return,
        };
        if let Err(error) = ready {
            tracing::warn!(%error, "wait for UDP messages");
        }
        for _ in 0..TURN {
            let (octets, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What the network said of an earlier answer, such as that nobody listens there.
                Err(error) => {
                    tracing::debug!(%error, "receive over UDP");
                    continue;
                }
            };
            match service.handle(&buffer[..octets], from.ip(), Transport::Udp) {
                // Messages of a transfer go over connections alone.
                Handled::Silent | Handled::Transfer(_) => {}
                Handled::Reply(reply) => send(&socket, &reply, from).await,
                Handled::Update(asked) => {
                    let Ok(permit) = Arc::clone(&updates).try_acquire_owned() else {
                        Counters::count(&service.counters().dropped);
                        continue;
                    };
                    let (socket, service) = (Arc::clone(&socket), Arc::clone(&service));
                    tasks.spawn(async move {
                        let judging = service.propose(*asked).await;
                        let reply = service.conclude(judging).await;
                        send(&socket, &reply, from).await;
                        drop(permit);
                    });
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    let sent = match socket.try_send_to(reply, to) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.send_to(reply, to).await,
        sent => sent,
    };
    if let Err(error) = sent {
        // Whoever asked asks again.
        tracing::debug!(%to, %error, "send over UDP");
    }
}
