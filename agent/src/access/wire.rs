//! The octets of one connection, guarded: a client that takes nothing for too long is cut, and one that is still sending
//! when the answer is complete gets to read that answer.
//!
//! Closing a TCP socket with unread octets resets the connection, and the reset can overtake the answer (RFC 9112 section
//! 9.6). An early 307 or 403 to an upload would then be lost, so the rest is read for a moment after the close.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use crate::access::listen::Place;

/// How long a closed connection is read on. A bound in octets would be reached before a fast sender looks at the answer.
const LINGER: Duration = Duration::from_secs(2);

/// A TLS connection with its guards.
pub(super) struct Wire {
    /// `None` only once dropped.
    stream: Option<TlsStream<TcpStream>>,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
    place: Option<Place>,
}

impl Wire {
    pub(super) fn new(stream: TlsStream<TcpStream>, stall_max: Duration) -> Wire {
        Wire {
            stream: Some(stream),
            stall: None,
            stall_max,
            place: None,
        }
    }

    /// Keeps its place among the connections until the last octet.
    pub(super) fn keeping(mut self, place: Place) -> Wire {
        self.place = Some(place);
        self
    }

    /// Whether the handshake settled on HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        let protocol = self
            .stream
            .as_ref()
            .and_then(|stream| stream.get_ref().1.alpn_protocol());
        protocol == Some(b"h2")
    }

    fn stream(&mut self) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(self.stream.as_mut().expect("there until dropped"))
    }

    /// Passes a write's outcome on, and ends a standstill.
    fn guard<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stall = None;
            return outcome;
        }
        let stall_max = self.stall_max;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.stream().poll_write(cx, octets);
        this.guard(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.stream().poll_write_vectored(cx, slices);
        this.guard(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = this.stream().poll_flush(cx);
        this.guard(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = this.stream().poll_shutdown(cx);
        this.guard(cx, outcome)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let (Some(stream), Ok(runtime)) = (self.stream.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (tcp, _) = stream.into_inner();
        let place = self.place.take();
        runtime.spawn(async move {
            linger(tcp).await;
            drop(place);
        });
    }
}

/// Reads what the client still sends, until it closes too or has had its time.
async fn linger(mut tcp: TcpStream) {
    let end = Instant::now() + LINGER;
    if tokio::io::AsyncWriteExt::shutdown(&mut tcp).await.is_err() {
        return;
    }
    let mut waste = vec![0; 64 * 1024];
    while let Ok(Ok(octets)) = tokio::time::timeout_at(end, tcp.read(&mut waste)).await {
        if octets == 0 {
            return;
        }
    }
}
