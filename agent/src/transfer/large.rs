//! Large objects: a stream each, from the reader of the source's disk to the writer of the destination's, piece by piece.
//!
//! Memory does not grow with the object: a few pieces wait between disk and network on either side.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};
use zones::Address;

use super::copying::{CopyFault, Fresh, Leave, Pieces, ShipFault, Shipment};
use super::engine::{Done, Id};
use super::link::{StreamError, read_head};
use super::quic::Identified;
use super::shell::Event;
use crate::copies::wire::Word;
use crate::migration::wire::{Copy, Either, LARGE, Part as WirePart, Request, write_frame};
use crate::schema::Form;
use crate::schema::stepper::STEPPED_OCTETS_MAX;
use crate::store::{Entry, ReadError, Store, StreamError as StoreError, StreamSpec};
use crate::vault::Part;

/// Octets between disk and network at once.
const PIECE_OCTETS: usize = 256 << 10;
/// Pieces that wait between disk and network.
const PIECES_WAITING: usize = 4;
/// What a stream is reset with when its object cannot be read on.
const BROKEN: VarInt = VarInt::from_u32(1);

/// Sends a large copy in the background; the engine hears how it ended.
pub(crate) fn ship(id: Id, connection: Connection, store: Arc<Store>, shipment: Shipment, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let ended = send(&connection, store, &shipment).await;
        if let Err(error) = &ended {
            let error: &(dyn std::error::Error + 'static) = error;
            tracing::debug!(address = %shipment.entry.address, error, "a large copy broke off");
        }
        let shipped = match ended {
            Ok(()) => Ok(shipment.shipped),
            Err(ShipError::Read(error)) => Err(ShipFault::from(&error)),
            Err(ShipError::Connection(_) | ShipError::Write(_) | ShipError::Stopped) => Err(ShipFault::Broken),
        };
        drop(events.send(Event::Shipped(id, shipped)).await);
    });
}

#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("the connection broke")]
    Connection(#[from] quinn::ConnectionError),
    #[error("the stream broke")]
    Write(#[from] quinn::WriteError),
    #[error("the destination stopped reading")]
    Stopped,
    #[error("read the object")]
    Read(#[from] ReadError),
}

async fn send(connection: &Connection, store: Arc<Store>, shipment: &Shipment) -> Result<(), ShipError> {
    let mut stream = connection.open_uni().await?;
    let mut head = BytesMut::new();
    head.extend_from_slice(&[LARGE]);
    write_frame(&mut head, &shipment.entry.address, &shipment.message(), &[]);
    stream.write_all(&head).await?;
    for (part, head) in parts(&shipment.copy) {
        if !head.follows {
            continue;
        }
        let sent = match (part, shipment.stepped_back()) {
            (Part::Properties, Some(octets)) => stream.write_chunk(octets).await.map_err(ShipError::from),
            (Part::Properties, None) | (Part::Body, _) => {
                send_part(&mut stream, Arc::clone(&store), &shipment.entry, part, head.octets).await
            }
        };
        if let Err(error) = sent {
            // A stream that ended early would look whole up to there.
            drop(stream.reset(BROKEN));
            return Err(error);
        }
    }
    // It is whole: nothing more is written.
    drop(stream.finish());
    match stream.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(ShipError::Stopped),
    }
}

fn parts(copy: &Copy) -> impl Iterator<Item = (Part, WirePart)> {
    [(Part::Properties, copy.properties), (Part::Body, copy.body)]
        .into_iter()
        .filter_map(|(part, head)| head.map(|head| (part, head)))
}

async fn send_part(
    stream: &mut SendStream,
    store: Arc<Store>,
    entry: &Arc<Entry>,
    part: Part,
    octets: u64,
) -> Result<(), ShipError> {
    let (pieces, mut read) = mpsc::channel::<Bytes>(PIECES_WAITING);
    let entry = Arc::clone(entry);
    let reading = tokio::task::spawn_blocking(move || {
        let reader = store.reader(&entry, part)?;
        let mut offset = 0;
        while offset < octets {
            let piece = reader.read_at(offset, PIECE_OCTETS)?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            if pieces.blocking_send(piece).is_err() {
                break;
            }
        }
        Ok::<(), ReadError>(())
    });
    while let Some(piece) = read.recv().await {
        stream.write_chunk(piece).await?;
    }
    reading.await.expect("reading a copy does not panic")?;
    Ok(())
}

/// Receives a large copy, if its move may have one.
pub(crate) async fn receive(
    mut stream: RecvStream,
    peer: &Identified,
    link: u64,
    events: &mpsc::Sender<Event>,
) -> Result<(), StreamError> {
    let mut received = BytesMut::new();
    let (address, message) = read_head(&mut stream, &mut received).await?;
    let (copy, kept) = match message {
        Either::Request(Request::Copy(copy)) => (copy, false),
        Either::Copies(Word::Keep(copy)) => (copy, true),
        Either::Request(_) | Either::Reply(_) | Either::Copies(_) => {
            return Err(crate::migration::wire::WireError::Value("head of a large object").into());
        }
    };
    if !peer.is_good() {
        return Err(StreamError::Certificate);
    }
    let (leave, granted) = oneshot::channel();
    let offer = Event::LargeOffer {
        peer: peer.name.clone(),
        link,
        address: address.clone(),
        copy: Box::new(copy.clone()),
        kept,
        leave,
    };
    if events.send(offer).await.is_err() {
        return Ok(());
    }
    // No leave: the move is not open, or not this peer's. The stream is dropped, which tells the source to stop.
    let Ok(leave) = granted.await else { return Ok(()) };
    let (id, number) = (leave.id, leave.number);
    let outcome = write(&mut stream, received, &address, &copy, leave).await;
    if let Err(fault) = &outcome {
        tracing::warn!(%address, peer = %peer.name, %fault, "a large copy was not received");
    }
    drop(
        events
            .send(Event::Done(Done::written_large((id, number, outcome))))
            .await,
    );
    Ok(())
}

/// Seals the parts that follow as they come, and reads them back.
async fn write(
    stream: &mut RecvStream,
    mut received: BytesMut,
    address: &Address,
    copy: &Copy,
    leave: Leave,
) -> Result<Pieces, CopyFault> {
    let mut pieces = Pieces::kept(copy);
    let leave = Arc::new(leave);
    for (part, head) in parts(copy) {
        if !head.follows {
            continue;
        }
        if part == Part::Properties && head.octets <= STEPPED_OCTETS_MAX {
            let octets = take(stream, &mut received, head.octets).await?;
            let (leave, address, copy) = (Arc::clone(&leave), address.clone(), copy.clone());
            pieces = tokio::task::spawn_blocking(move || {
                leave.write_properties(&address, &copy, octets, &mut pieces)?;
                Ok::<_, CopyFault>(pieces)
            })
            .await
            .expect("writing properties does not panic")?;
            continue;
        }
        let spec = StreamSpec {
            address: address.clone(),
            part,
            level: leave.level,
            octets_hint: Some(head.octets),
            reservation: leave.reservation.clone(),
        };
        let (chunks, to_write) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let store = Arc::clone(leave.objects.store());
        let writing = tokio::task::spawn_blocking(move || seal(&store, spec, to_write));
        let fed = feed(stream, &mut received, head.octets, chunks).await;
        let sealed = writing.await.expect("writing a copy does not panic")?;
        fed?;
        let Some(staged) = sealed else {
            return Err(CopyFault::Broken);
        };
        if staged.digest().0 != head.digest {
            return Err(CopyFault::Damaged);
        }
        match part {
            Part::Properties => pieces.set_properties(Fresh(staged), Form::as_it_is(copy.schema)),
            Part::Body => pieces.set_body(Fresh(staged)),
        }
    }
    if !received.is_empty() || stream.read_buf(&mut received).await.map_err(|_| CopyFault::Broken)? != 0 {
        return Err(CopyFault::Damaged);
    }
    let store = Arc::clone(leave.objects.store());
    let back = pieces.clone();
    tokio::task::spawn_blocking(move || store.verify(&back.fresh()))
        .await
        .expect("reading a copy back does not panic")?;
    Ok(pieces)
}

fn seal(
    store: &Store,
    spec: StreamSpec,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<Option<crate::store::StagedStream>, StoreError> {
    let octets = spec.octets_hint;
    let mut writer = store.writer(spec)?;
    let mut written = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        written += chunk.len() as u64;
        writer.write(&chunk)?;
    }
    if octets != Some(written) {
        // It broke off: what was written is free again.
        return Ok(None);
    }
    writer.finish().map(Some)
}

/// Takes exactly so many octets into memory.
async fn take(stream: &mut RecvStream, received: &mut BytesMut, octets: u64) -> Result<Bytes, CopyFault> {
    let octets = usize::try_from(octets).map_err(|_| CopyFault::Damaged)?;
    while received.len() < octets {
        received.reserve(PIECE_OCTETS);
        if stream.read_buf(received).await.map_err(|_| CopyFault::Broken)? == 0 {
            return Err(CopyFault::Broken);
        }
    }
    Ok(received.split_to(octets).freeze())
}

/// Hands exactly `octets` on to the writer.
async fn feed(
    stream: &mut RecvStream,
    received: &mut BytesMut,
    octets: u64,
    chunks: mpsc::Sender<Bytes>,
) -> Result<(), CopyFault> {
    let mut left = octets;
    while left > 0 {
        if received.is_empty() {
            received.reserve(PIECE_OCTETS);
            if stream.read_buf(received).await.map_err(|_| CopyFault::Broken)? == 0 {
                return Err(CopyFault::Broken);
            }
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(received.len());
        left -= count as u64;
        if chunks.send(received.split_to(count).freeze()).await.is_err() {
            // The writer has failed, and says why.
            return Err(CopyFault::Broken);
        }
    }
    Ok(())
}
