//! One connection to one other agent: its lanes, and the streams of large objects.
//!
//! Two agents share one connection for everything. Each side opens four lanes, streams of frames that carry all messages and
//! all small objects; the messages about one object use one lane, so they stay in order. A large object has a stream of its
//! own. The first octet of a stream says which kind it is.
//!
//! The engine never waits for a peer: it appends to the buffers of lanes and reads what arrives without pause, so no circle
//! of agents that wait for each other can come about. A peer that does not read is cut off when its buffers are full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};
use zones::{Address, Domain, ServerName};

use super::large;
use super::quic::Identified;
use super::shell::Event;
use crate::membership::Revoked;
use crate::migration::wire::{Either, FRAME_OCTETS_MAX, LANE, LARGE, WireError, read_frame, take_frame, write_frame};
use crate::register::Registers;

/// How often it is looked whether a peer is still to be talked to.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lanes that each side opens.
const LANES: usize = 4;
/// Most octets that wait for a lane; a peer that lets so many gather does not read any more.
const LANE_OCTETS_MAX: usize = 64 << 20;
/// How much is read from a lane at once.
const READ_OCTETS: usize = 64 << 10;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Handshakes of others at once.
const HANDSHAKES_MAX: usize = 64;

/// Why a connection was closed, as its code on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Close {
    /// The other of two connections between the same agents is used.
    Double,
    /// Only agents talk here.
    Stranger,
    /// What came is no message of this protocol.
    Malformed,
    /// The peer does not read.
    Stuck,
    /// The agent stops.
    Stopping,
    /// It is this agent that called: its self-test.
    Oneself,
}

impl Close {
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Close::Double => 1,
            Close::Stranger => 2,
            Close::Malformed => 3,
            Close::Stuck => 4,
            Close::Stopping => 5,
            Close::Oneself => 6,
        })
    }

    fn reason(self) -> &'static [u8] {
        match self {
            Close::Double => b"another connection is used",
            Close::Stranger => b"only agents of this pool talk here",
            Close::Malformed => b"malformed message",
            Close::Stuck => b"nothing is read",
            Close::Stopping => b"stopping",
            Close::Oneself => b"this is the agent that called",
        }
    }
}

/// Closes a connection.
pub(crate) fn close(connection: &Connection, why: Close) {
    connection.close(why.code(), why.reason());
}

/// A live connection to another agent.
#[derive(Debug)]
pub(crate) struct Link {
    /// Counts the connections of this agent.
    pub(crate) id: u64,
    /// Whether this agent dialed it.
    pub(crate) dialed: bool,
    pub(crate) connection: Connection,
    lanes: Vec<Arc<Lane>>,
}

/// What waits for one lane.
#[derive(Debug, Default)]
struct Lane {
    waiting: Mutex<BytesMut>,
    wake: Notify,
    ended: AtomicBool,
}

impl Link {
    /// Starts the tasks of a connection: they end with it.
    pub(crate) fn start(
        id: u64,
        dialed: bool,
        connection: Connection,
        identified: Identified,
        events: mpsc::Sender<Event>,
    ) -> Link {
        let lanes: Vec<Arc<Lane>> = (0..LANES).map(|_| Arc::default()).collect();
        for lane in &lanes {
            tokio::spawn(write_lane(connection.clone(), Arc::clone(lane)));
        }
        let peer = Arc::new(identified);
        tokio::spawn(accept_streams(
            connection.clone(),
            Arc::clone(&peer),
            id,
            events.clone(),
        ));
        let watched = connection.clone();
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            let why = loop {
                tokio::select! {
                    why = watched.closed() => break why,
                    _ = looks.tick() => {}
                }
                if !peer.is_good() {
                    warn!(peer = %peer.name, "a peer's certificate is no longer good");
                    close(&watched, Close::Stranger);
                }
            };
            debug!(peer = %peer.name, %why, "connection closed");
            let lost = Event::LinkLost {
                peer: peer.name.clone(),
                link: id,
            };
            // The engine is gone only when the agent stops.
            drop(events.send(lost).await);
        });
        Link {
            id,
            dialed,
            connection,
            lanes,
        }
    }

    /// Appends a message to its object's lane.
    pub(crate) fn send(&self, address: &Address, message: &Either, payload: &[&[u8]]) {
        let lane = self.lane(address);
        let mut waiting = lane.waiting.lock();
        write_frame(&mut waiting, address, message, payload);
        let octets = waiting.len();
        drop(waiting);
        self.sent(lane, octets);
    }

    /// Appends frames of one object that were made before.
    pub(crate) fn send_frames(&self, address: &Address, frames: &[u8]) {
        let lane = self.lane(address);
        let mut waiting = lane.waiting.lock();
        waiting.extend_from_slice(frames);
        let octets = waiting.len();
        drop(waiting);
        self.sent(lane, octets);
    }

    fn sent(&self, lane: &Lane, octets: usize) {
        if octets > LANE_OCTETS_MAX {
            warn!(octets, "a peer does not read what is sent to it");
            close(&self.connection, Close::Stuck);
        }
        lane.wake.notify_one();
    }

    fn lane(&self, address: &Address) -> &Lane {
        &self.lanes[lane_of(address)]
    }
}

/// Which lane carries the messages about an object.
fn lane_of(address: &Address) -> usize {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for octet in address.as_str().bytes() {
        hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01B3);
    }
    // The last octets, in which neighbours differ, have reached the low bits only: this takes them up.
    let hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    usize::try_from(hash).unwrap_or(0) % LANES
}

impl Drop for Link {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.ended.store(true, Ordering::Release);
            lane.wake.notify_one();
        }
    }
}

/// Sends what gathers in a lane, all of it at once.
async fn write_lane(connection: Connection, lane: Arc<Lane>) {
    let ended = async {
        let mut stream = connection.open_uni().await?;
        stream.write_all(&[LANE]).await?;
        loop {
            let gathered = lane.waiting.lock().split().freeze();
            if gathered.is_empty() {
                if lane.ended.load(Ordering::Acquire) {
                    return Ok::<(), quinn::WriteError>(());
                }
                lane.wake.notified().await;
            } else {
                write_chunk(&mut stream, gathered).await?;
            }
        }
    };
    if let Err(error) = ended.await {
        debug!(%error, "lane broke");
    }
}

async fn write_chunk(stream: &mut SendStream, chunk: Bytes) -> Result<(), quinn::WriteError> {
    stream.write_chunk(chunk).await
}

async fn accept_streams(connection: Connection, peer: Arc<Identified>, link: u64, events: mpsc::Sender<Event>) {
    // QUIC itself bounds how many streams a peer has open.
    while let Ok(stream) = connection.accept_uni().await {
        let (connection, peer, events) = (connection.clone(), Arc::clone(&peer), events.clone());
        tokio::spawn(async move {
            if let Err(error) = read_stream(stream, &peer, link, &events).await {
                match error {
                    StreamError::Read(error) => debug!(peer = %peer.name, %error, "stream broke"),
                    StreamError::Wire(error) => {
                        warn!(peer = %peer.name, %error, "a peer sent what is no message");
                        close(&connection, Close::Malformed);
                    }
                    StreamError::Kind(kind) => {
                        warn!(peer = %peer.name, kind, "a peer opened a stream of no known kind");
                        close(&connection, Close::Malformed);
                    }
                    StreamError::Certificate => {
                        warn!(peer = %peer.name, "a peer's certificate is no longer good");
                        close(&connection, Close::Stranger);
                    }
                }
            }
        });
    }
}

/// Why a stream of a peer is not read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the stream broke")]
    Read(#[from] std::io::Error),
    #[error("malformed message")]
    Wire(#[from] WireError),
    #[error("stream of kind {0}")]
    Kind(u8),
    #[error("the certificate is no longer good")]
    Certificate,
}

async fn read_stream(
    mut stream: RecvStream,
    peer: &Identified,
    link: u64,
    events: &mpsc::Sender<Event>,
) -> Result<(), StreamError> {
    let mut kind = [0];
    stream.read_exact(&mut kind).await.map_err(std::io::Error::other)?;
    match kind[0] {
        LANE => read_lane(stream, peer, link, events).await,
        LARGE => large::receive(stream, peer, link, events).await,
        kind => Err(StreamError::Kind(kind)),
    }
}

/// Hands on what arrives, all frames of one reading together.
async fn read_lane(
    mut stream: RecvStream,
    peer: &Identified,
    link: u64,
    events: &mpsc::Sender<Event>,
) -> Result<(), StreamError> {
    let mut received = BytesMut::with_capacity(READ_OCTETS);
    loop {
        received.reserve(READ_OCTETS);
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        let mut frames = Vec::new();
        while let Some(frame) = take_frame(&mut received)? {
            frames.push(read_frame::<Either>(&frame)?);
        }
        if frames.is_empty() {
            continue;
        }
        if !peer.is_good() {
            return Err(StreamError::Certificate);
        }
        let event = Event::Frames {
            peer: peer.name.clone(),
            link,
            frames,
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads the one frame at the head of a large object's stream; what follows it stays in `received`.
pub(crate) async fn read_head(
    stream: &mut RecvStream,
    received: &mut BytesMut,
) -> Result<(Address, Either), StreamError> {
    loop {
        if let Some(frame) = take_frame(received)? {
            let (address, message, payload) = read_frame::<Either>(&frame)?;
            if payload.has_remaining() {
                return Err(WireError::Value("payload in the head of a large object").into());
            }
            return Ok((address, message));
        }
        assert!(received.len() <= 4 + FRAME_OCTETS_MAX, "take_frame bounds it");
        received.reserve(READ_OCTETS);
        if stream.read_buf(received).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Dials another agent in the background; the engine hears how it ended.
pub(crate) fn dial(
    endpoint: Endpoint,
    registers: Arc<Registers>,
    domain: Domain,
    peer: ServerName,
    revoked: Revoked,
    events: mpsc::Sender<Event>,
) {
    tokio::spawn(async move {
        let event = match Box::pin(connect(&endpoint, &registers, &domain, &peer, &revoked)).await {
            Ok((connection, identified)) => Event::Linked {
                connection,
                identified,
                dialed: true,
            },
            Err(why) => {
                debug!(%peer, %why, "cannot reach a peer");
                registers.forget_peer(&peer);
                Event::DialFailed { peer }
            }
        };
        drop(events.send(event).await);
    });
}

async fn connect(
    endpoint: &Endpoint,
    registers: &Registers,
    domain: &Domain,
    peer: &ServerName,
    revoked: &Revoked,
) -> Result<(Connection, Identified), String> {
    let place = Box::pin(registers.peer(peer))
        .await
        .map_err(|error| error.to_string())?;
    let name = certs::tls_name(domain, peer.as_str());
    let mut why = "it has no address".to_owned();
    for address in place.quic() {
        let connecting = match endpoint.connect(address, &name) {
            Ok(connecting) => connecting,
            Err(error) => {
                why = error.to_string();
                continue;
            }
        };
        match timeout(HANDSHAKE, connecting).await {
            Ok(Ok(connection)) => match Identified::of(&connection, revoked) {
                Some(identified) if identified.name == *peer => return Ok((connection, identified)),
                Some(_) | None => {
                    close(&connection, Close::Stranger);
                    why = "another server answers there".to_owned();
                }
            },
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = "no answer".to_owned(),
        }
    }
    Err(why)
}

/// Takes connections of other agents until the endpoint closes.
pub(crate) async fn accept(endpoint: Endpoint, revoked: Revoked, events: mpsc::Sender<Event>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        // Who calls must first show that it hears what is said to its address (RFC 9000 section 8.1.2). That keeps nothing
        // here, so first packets in the name of any address take no place of an agent; it costs two agents one round trip
        // for the connection that they keep.
        if !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            continue;
        }
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (events, revoked) = (events.clone(), Arc::clone(&revoked));
        tokio::spawn(async move {
            let taken = timeout(HANDSHAKE, take(incoming, &revoked)).await;
            drop(permit);
            if let Ok(Some((connection, identified))) = taken {
                let event = Event::Linked {
                    connection,
                    identified,
                    dialed: false,
                };
                drop(events.send(event).await);
            }
        });
    }
}

async fn take(incoming: Incoming, revoked: &Revoked) -> Option<(Connection, Identified)> {
    let from = incoming.remote_address();
    let connection = match incoming.accept() {
        Ok(connecting) => match connecting.await {
            Ok(connection) => connection,
            Err(error) => {
                debug!(%from, %error, "handshake failed");
                return None;
            }
        },
        Err(error) => {
            debug!(%from, %error, "handshake failed");
            return None;
        }
    };
    let identified = Identified::of(&connection, revoked);
    if identified.is_none() {
        warn!(%from, "somebody who is no agent of this pool asked for the peer port");
        close(&connection, Close::Stranger);
    }
    Some((connection, identified?))
}

/// Closes the endpoint and all its connections.
pub(crate) fn close_all(endpoint: &Endpoint, why: Close) {
    endpoint.close(why.code(), why.reason());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_use_all_lanes_alike() {
        for name in ["3.1.2.1.", "photo.", "a"] {
            let mut used = [0; LANES];
            for number in 0..1000 {
                used[lane_of(&format!("{name}{number:03}").parse().unwrap())] += 1;
            }
            assert!(
                used.iter().all(|&count| (200..300).contains(&count)),
                "{name}: {used:?}"
            );
        }
    }
}
