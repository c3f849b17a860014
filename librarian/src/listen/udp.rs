//! DNS over UDP: a thread for each socket, datagrams by the batch.
//!
//! The common question is answered in place, beside the writing of the registry; everything else takes the general path, and updates
//! go to tasks of their own.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::Batch;
use super::counters::Counters;
use super::limit::{ResponseLimit, Verdict, cut_down};
use super::service::{Batched, Handled, Service};
use crate::answer::reply::Transport;

/// What all sockets share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) service: Arc<Service>,
    /// How many answers strangers get.
    pub(super) limit: Arc<ResponseLimit>,
    /// Updates that may wait for the registry.
    pub(super) updates: Arc<Semaphore>,
    /// Where updates are waited for.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Answers what comes to one socket until stopped; ends when nothing more is taken from it.
///
/// # Errors
///
/// When the socket is not answered any more although nobody stopped it: the system would still give it its share of questions.
pub(super) async fn run(socket: UdpSocket, number: usize, shared: Shared) -> io::Result<()> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let stop = shared.stop.clone();
    let (over, ended) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name(format!("dns-udp-{number}"));
    thread.spawn({
        let wake = Arc::clone(&wake);
        move || {
            Loop {
                socket: Arc::new(socket),
                shared,
                runtime,
            }
            .run(&wake);
            // Whoever waits may have gone.
            let _ = over.send(());
        }
    })?;
    watch(ended, &stop, &wake).await
}

/// Waits for a thread to end, which is woken when it is to; an error if it ends before.
async fn watch(mut ended: oneshot::Receiver<()>, stop: &CancellationToken, wake: &OwnedFd) -> io::Result<()> {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        // It panicked.
        _ = &mut ended => return Err(io::Error::other("a thread that answers questions over UDP ended")),
    }
    rustix::io::write(wake, &1_u64.to_ne_bytes())?;
    // An error says that it is gone already.
    let _ = ended.await;
    Ok(())
}

struct Loop {
    socket: Arc<UdpSocket>,
    shared: Shared,
    runtime: Handle,
}

impl Loop {
    fn run(self, wake: &OwnedFd) {
        let service = Arc::clone(&self.shared.service);
        let mut batch = Batch::new();
        let mut batched = Batched::default();
        while !self.shared.stop.is_cancelled() {
            let count = match batch.receive(self.socket.as_fd()) {
                Ok(count) => count,
                Err(error) => {
                    match error.kind() {
                        io::ErrorKind::WouldBlock => self.wait(wake),
                        // What the network said of an earlier answer, such as that nobody listens there.
                        _ => tracing::debug!(%error, "receive over UDP"),
                    }
                    continue;
                }
            };
            service.answer_batch(&mut batched, count, &mut batch);
            for place in 0..count {
                let (octets, answer, from) = batch.datagram(place);
                let mut is_proven = false;
                if answer.is_empty() {
                    match service.handle(octets, from, Transport::Udp) {
                        // Messages of a transfer go over connections alone.
                        Handled::Silent | Handled::Transfer(_) => {}
                        Handled::Reply(reply) => *answer = reply,
                        Handled::Proven(reply) => {
                            *answer = reply;
                            is_proven = true;
                        }
                        Handled::Update(asked) => {
                            let from = batch.from(place);
                            self.update(*asked, from);
                            continue;
                        }
                    }
                }
                if !is_proven && !answer.is_empty() && service.is_stranger(from) {
                    self.bound(answer, from);
                }
            }
            batch.send(self.socket.as_fd());
        }
    }

    /// Cuts an answer to a stranger down, or drops it, if the stranger's network gets too many of its kind.
    fn bound(&self, answer: &mut Vec<u8>, from: IpAddr) {
        let counters = self.shared.service.counters();
        match self.shared.limit.judge(from, answer, Instant::now()) {
            Verdict::Send => {}
            Verdict::Slip => {
                cut_down(answer);
                Counters::count(&counters.limited_cut);
            }
            Verdict::Drop => {
                answer.clear();
                Counters::count(&counters.limited_dropped);
            }
        }
    }

    /// Waits until something comes or the end.
    fn wait(&self, wake: &OwnedFd) {
        let mut what = [
            PollFd::new(&*self.socket, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut what, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => tracing::warn!(%error, "wait for UDP messages"),
        }
    }

    /// Has an update judged and answered in a task of its own.
    fn update(&self, asked: super::service::Asked, from: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.shared.updates).try_acquire_owned() else {
            Counters::count(&self.shared.service.counters().dropped);
            return;
        };
        let (socket, service) = (Arc::clone(&self.socket), Arc::clone(&self.shared.service));
        let task = async move {
            let judging = service.propose(asked).await;
            let reply = service.conclude(judging).await;
            // Where there is no room: whoever asked asks again.
            if let Err(error) = socket.send_to(&reply, from) {
                tracing::debug!(%from, %error, "send over UDP");
            }
            drop(permit);
        };
        self.shared.tasks.spawn_on(task, &self.runtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    #[tokio::test]
    async fn thread_that_panics_is_an_error_and_one_that_is_stopped_is_none() {
        let (over, ended) = oneshot::channel::<()>();
        let panics = std::thread::spawn(move || {
            let _over = over;
            panic!("as asked for");
        });
        let result = watch(ended, &CancellationToken::new(), &event()).await;
        assert!(result.is_err());
        assert!(panics.join().is_err());

        let (stop, wake) = (CancellationToken::new(), Arc::new(event()));
        let (over, ended) = oneshot::channel();
        let waits = std::thread::spawn({
            let wake = Arc::clone(&wake);
            move || {
                poll(&mut [PollFd::new(&*wake, PollFlags::IN)], None).unwrap();
                over.send(()).unwrap();
            }
        });
        stop.cancel();
        watch(ended, &stop, &wake).await.unwrap();
        waits.join().unwrap();
    }
}
