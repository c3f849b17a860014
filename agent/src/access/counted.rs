//! Bodies that are watched on their way: counted, and ended when nothing comes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::access::metrics::Metrics;

/// Octets that must come within each time span: a client that sends less is not slow, it holds places.
const OCTETS_MIN: u64 = 4096;

/// A body on its way out. What it keeps lives until its last octet has left.
pub(super) struct Counted<K> {
    body: Body,
    metrics: Arc<Metrics>,
    _keeps: K,
}

impl<K> Counted<K> {
    pub(super) fn new(body: Body, metrics: Arc<Metrics>, keeps: K) -> Counted<K> {
        Counted {
            body,
            metrics,
            _keeps: keeps,
        }
    }
}

impl<K: Unpin> hyper::body::Body for Counted<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = futures_util::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.metrics.octets_out.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a body broke off on its way in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum IncomingError {
    /// Too little came for too long.
    #[error("the client sent less than {OCTETS_MIN} octets in {0:?}")]
    Slow(Duration),
    /// The connection broke, or the framing.
    #[error("the connection broke off")]
    Broken(#[from] axum::Error),
}

/// A body on its way in.
pub(super) struct Incoming {
    stream: BodyDataStream,
    metrics: Arc<Metrics>,
    span: Duration,
    /// When too little will have come.
    deadline: Pin<Box<Sleep>>,
    octets: u64,
}

impl Incoming {
    /// `span`: how long the client may take for [`OCTETS_MIN`].
    pub(super) fn new(body: Body, metrics: Arc<Metrics>, span: Duration) -> Incoming {
        Incoming {
            stream: body.into_data_stream(),
            metrics,
            span,
            deadline: Box::pin(tokio::time::sleep(span)),
            octets: 0,
        }
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, IncomingError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.stream.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(piece))) => {
                this.metrics.octets_in.fetch_add(piece.len() as u64, Ordering::Relaxed);
                this.octets += piece.len() as u64;
                if this.octets >= OCTETS_MIN {
                    this.octets = 0;
                    this.deadline.as_mut().reset(Instant::now() + this.span);
                }
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(IncomingError::Slow(this.span)))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trickling_client_is_ended_and_a_slow_one_is_not() {
        let trickle = |octets: usize| {
            let body = Body::from_stream(stream::unfold(0, move |sent| async move {
                tokio::time::sleep(Duration::from_secs(9)).await;
                (sent < 20).then(|| (Ok::<_, std::io::Error>(Bytes::from(vec![0; octets])), sent + 1))
            }));
            Incoming::new(body, Arc::default(), Duration::from_secs(10))
        };
        let slow: Vec<_> = trickle(4096).collect().await;
        assert!(slow.iter().all(Result::is_ok) && slow.len() == 20);
        let trickling: Vec<_> = trickle(1).take(5).collect().await;
        assert!(matches!(trickling[1], Err(IncomingError::Slow(_))), "{trickling:?}");
    }
}
