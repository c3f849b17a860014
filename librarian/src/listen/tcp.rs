//! DNS over TCP (RFC 7766): requests are read as they come, answered out of order, and bounded in number, size and time.
//!
//! An update keeps its place in the queue of the registry: the next message is read only when it has one. Its answer is
//! waited for in a task of its own, so that neither a slow commit holds questions up nor a closing connection undoes
//! what was asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;
use super::counters::Counters;
use super::service::{Handled, Service};
use crate::answer::reply::Transport;
use crate::transfer::Transfer;

/// Octets of answers written by one system call, if as many wait.
const WRITE_OCTETS: usize = 64 * 1024;
/// Answers that wait to be written; then the connection is not read any further.
const ANSWERS_MAX: usize = 64;
/// Pause after the system refused to accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A connection may be cut for a new one after this long without a message: more than an answer takes, less than
/// whoever needs one waits.
const SILENT: Duration = Duration::from_secs(1);
/// How long a connection that was just accepted may still say what it is for when the librarian stops. Who was answered before
/// knows that an idle connection may be closed (RFC 7766 section 6.2.3); who was not would take it for a refusal.
const FIRST_QUESTION: Duration = Duration::from_millis(500);

/// What all connections share.
#[derive(Clone)]
pub(super) struct Connections {
    service: Arc<Service>,
    settings: Arc<Settings>,
    tasks: TaskTracker,
    stop: CancellationToken,
    open: Arc<Mutex<Open>>,
}

/// The connections that have a place.
#[derive(Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Holder>,
}

/// Who has a place.
struct Holder {
    from: IpAddr,
    /// When its last whole message came; at first, when it was accepted.
    heard: Instant,
    /// Ends it.
    cut: CancellationToken,
}

/// One connection's place among those allowed; given back when dropped.
struct Place {
    number: u64,
    from: IpAddr,
    cut: CancellationToken,
    open: Arc<Mutex<Open>>,
}

impl Place {
    /// A whole message came.
    fn heard(&self) {
        if let Some(holder) = self.open.lock().by_number.get_mut(&self.number) {
            holder.heard = Instant::now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().by_number.remove(&self.number);
    }
}

impl Open {
    /// Takes the place of the connection that has been silent for longest, if there is one that was for a while.
    fn cut_most_silent(&mut self, among: impl Fn(&Holder) -> bool) -> bool {
        let silent = self.by_number.iter().filter(|(_, holder)| among(holder));
        let Some((&number, holder)) = silent.min_by_key(|(_, holder)| holder.heard) else {
            return false;
        };
        if holder.heard.elapsed() < SILENT {
            return false;
        }
        holder.cut.cancel();
        self.by_number.remove(&number);
        true
    }
}

impl Connections {
    pub(super) fn new(
        service: Arc<Service>,
        settings: Settings,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Connections {
        Connections {
            service,
            settings: Arc::new(settings),
            tasks,
            stop,
            open: Arc::default(),
        }
    }

    /// A place for a new connection. When all are taken it gets that of the most silent one: whoever opens many and says
    /// nothing keeps nobody out.
    fn place(&self, from: IpAddr) -> Option<Place> {
        let mut open = self.open.lock();
        let same = |holder: &Holder| holder.from == from;
        let own = open.by_number.values().filter(|holder| same(holder)).count();
        if own >= self.settings.tcp_connections_per_address_max {
            if !open.cut_most_silent(same) {
                return None;
            }
        } else if open.by_number.len() >= self.settings.tcp_connections_max && !open.cut_most_silent(|_| true) {
            return None;
        }
        let number = open.next;
        open.next += 1;
        let cut = CancellationToken::new();
        let holder = Holder {
            from,
            heard: Instant::now(),
            cut: cut.clone(),
        };
        open.by_number.insert(number, holder);
        Some(Place {
            number,
            from,
            cut,
            open: Arc::clone(&self.open),
        })
    }
}

/// Accepts connections until stopped.
pub(super) async fn run(listener: TcpListener, connections: Connections, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let counters = connections.service.counters();
        match accepted {
            Ok((stream, from)) => match connections.place(from.ip()) {
                Some(place) => {
                    Counters::count(&counters.connections);
                    connections.tasks.spawn(serve(stream, connections.clone(), place));
                }
                // Dropping the stream closes it.
                None => Counters::count(&counters.connections_refused),
            },
            Err(error) => {
                tracing::warn!(%error, "accept a TCP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, connections: Connections, place: Place) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (answers, waiting) = mpsc::channel(ANSWERS_MAX);
    let writing = write(writer, waiting, connections.settings.tcp_slow);
    let writing = connections.tasks.spawn({
        let (cut, service) = (place.cut.clone(), Arc::clone(&connections.service));
        async move {
            if writing.await.is_err() {
                Counters::count(&service.counters().connections_slow);
            }
            cut.cancel();
        }
    });
    read(reader, &connections, &place, answers).await;
    // The last answers leave, of updates too, before the place is given to another connection.
    let _ = writing.await;
    drop(place);
}

/// What is written.
enum Answer {
    /// A message.
    Message(Vec<u8>),
    /// Nothing; whoever waits learns that all before it is written.
    Mark(oneshot::Sender<()>),
}

/// The connection was too slow, or broke.
struct Broken;

async fn write(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Answer>, slow: Duration) -> Result<(), Broken> {
    let mut octets = Vec::new();
    let mut marks = Vec::new();
    while let Some(answer) = answers.recv().await {
        octets.clear();
        let mut next = Some(answer);
        while let Some(answer) = next.take() {
            match answer {
                Answer::Message(answer) => append(&mut octets, &answer),
                Answer::Mark(written) => marks.push(written),
            }
            if octets.len() < WRITE_OCTETS {
                next = answers.try_recv().ok();
            }
        }
        match timeout(slow, writer.write_all(&octets)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Broken),
        }
        for written in marks.drain(..) {
            // Who waited may have gone.
            let _ = written.send(());
        }
    }
    let _ = writer.shutdown().await;
    Ok(())
}

fn append(octets: &mut Vec<u8>, answer: &[u8]) {
    let length = u16::try_from(answer.len()).expect("answers are encoded in at most 65535 octets");
    octets.extend(length.to_be_bytes());
    octets.extend(answer);
}

async fn read(reader: OwnedReadHalf, connections: &Connections, place: &Place, answers: mpsc::Sender<Answer>) {
    let cut = &place.cut;
    let Connections {
        service,
        settings,
        tasks,
        stop,
        ..
    } = connections;
    let mut reader = BufReader::with_capacity(16 * 1024, reader);
    let in_flight = Arc::new(Semaphore::new(settings.tcp_in_flight_max));
    let mut message = Vec::new();
    let mut grace = FIRST_QUESTION;
    loop {
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let length = tokio::select! {
            length = timeout(settings.tcp_idle, reader.read_u16()) => length,
            () = stopped => return,
            () = cut.cancelled() => return,
        };
        // Idle too long, closed, or broken.
        let Ok(Ok(length)) = length else { return };
        message.resize(usize::from(length), 0);
        let body = tokio::select! {
            body = timeout(settings.tcp_slow, reader.read_exact(&mut message)) => body,
            () = cut.cancelled() => return,
        };
        match body {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                Counters::count(&service.counters().connections_slow);
                return;
            }
        }
        place.heard();
        grace = Duration::ZERO;
        let reply = match service.handle(&message, place.from, Transport::Tcp) {
            // Whoever sends what is no request over TCP is no DNS client.
            Handled::Silent => return,
            Handled::Reply(reply) | Handled::Proven(reply) => reply,
            Handled::Transfer(transfer) => {
                let sending = send_zone(transfer, service, place, &answers);
                let sent = tokio::select! {
                    sent = sending => sent.is_ok(),
                    () = stop.cancelled() => false,
                    () = cut.cancelled() => false,
                };
                if !sent {
                    return;
                }
                continue;
            }
            Handled::Update(asked) => {
                let permit = Arc::clone(&in_flight).acquire_owned().await;
                let judging = service.propose(*asked).await;
                let (service, answers) = (Arc::clone(service), answers.clone());
                tasks.spawn(async move {
                    let reply = service.conclude(judging).await;
                    // The connection may be gone; the change stands.
                    let _ = answers.send(Answer::Message(reply)).await;
                    drop(permit);
                });
                continue;
            }
        };
        let sent = tokio::select! {
            sent = answers.send(Answer::Message(reply)) => sent.is_ok(),
            () = cut.cancelled() => false,
        };
        if !sent {
            return;
        }
    }
}

/// Sends a zone, a message whenever there is room for one. Until it is over nothing else is read from the connection.
async fn send_zone(
    mut transfer: Box<Transfer>,
    service: &Service,
    place: &Place,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Broken> {
    loop {
        match transfer.next(service.unix_s()) {
            Ok(Some(message)) => {
                answers.send(Answer::Message(message)).await.map_err(|_| Broken)?;
                // Whoever takes a zone is not silent.
                place.heard();
                tokio::task::yield_now().await;
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(from = %place.from, %error, "transfer ends early");
                return Err(Broken);
            }
        }
    }
    let (mark, written) = oneshot::channel();
    answers.send(Answer::Mark(mark)).await.map_err(|_| Broken)?;
    written.await.map_err(|_| Broken)?;
    transfer.finish(Instant::now());
    Ok(())
}
