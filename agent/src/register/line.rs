//! One TCP connection to the librarian that carries many messages at once.
//!
//! Specification: RFC 1035 section 4.2.2 (framing), RFC 7766 (pipelining).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// Pause after a failed connection.
pub(crate) const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Octets read by one system call, if as many are there.
const READ_OCTETS: usize = 64 * 1024;

/// The connection.
#[derive(Debug)]
pub(crate) struct Line {
    writer: OwnedWriteHalf,
    replies: mpsc::Receiver<Vec<u8>>,
    _reader: AbortOnDropHandle<()>,
}

impl Line {
    /// Connects. At most `replies_max` replies wait to be taken.
    pub(crate) async fn connect(librarian: SocketAddr, replies_max: usize) -> io::Result<Line> {
        let stream = timeout(CONNECT_WAIT, TcpStream::connect(librarian)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(READ_OCTETS, reader);
        let (sender, replies) = mpsc::channel(replies_max);
        let task = tokio::spawn(async move {
            while let Ok(octets) = read_message(&mut reader).await {
                if sender.send(octets).await.is_err() {
                    return;
                }
            }
        });
        Ok(Line {
            writer,
            replies,
            _reader: AbortOnDropHandle::new(task),
        })
    }

    /// Sends messages that [`frame`] put one behind the other.
    pub(crate) async fn write(&mut self, framed: &[u8]) -> io::Result<()> {
        self.writer.write_all(framed).await
    }

    /// The next reply, if one is there already.
    pub(crate) fn ready(&mut self) -> Option<Vec<u8>> {
        self.replies.try_recv().ok()
    }
}

/// The next reply on a connection, `None` at its end; never, if there is no connection.
pub(crate) async fn reply(line: &mut Option<Line>) -> Option<Vec<u8>> {
    match line {
        Some(line) => line.replies.recv().await,
        None => std::future::pending().await,
    }
}

/// Appends a message as it goes over TCP (RFC 1035 section 4.2.2).
pub(crate) fn frame(message: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    let length = u16::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a DNS message has at most 65,535 octets"))?;
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(message);
    Ok(())
}

/// Sends one message over TCP.
pub(crate) async fn write_message(stream: &mut (impl AsyncWriteExt + Unpin), message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(2 + message.len());
    frame(message, &mut framed)?;
    stream.write_all(&framed).await
}

/// Receives one message over TCP.
pub(crate) async fn read_message(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
