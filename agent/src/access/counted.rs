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
use tokio::sync::oneshot;
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

/// Longest silence while the rest of an unwanted body is read.
const UNWANTED_SILENCE: Duration = Duration::from_secs(2);
/// Most octets read of an unwanted body whose length is unknown, or whose client needs no more than a moment.
const UNWANTED_OCTETS_MAX: u64 = 1 << 20;

/// The body of an HTTP/2 request, which may turn out to be unwanted: answered before it was read to its end.
///
/// The end of such a request is a reset of its stream, which must not overtake the answer: the rest is read for a moment
/// longer, until the client has the answer and stops. curl before 8 never stops: it takes no answer, not even a redirect,
/// before its upload is through, so for it the rest is read to its end first.
pub(super) struct Unwanted {
    /// `None` only once dropped.
    body: Option<Body>,
    ended: bool,
    rest: Option<oneshot::Sender<Body>>,
}

impl Unwanted {
    /// The body, and where its rest goes when it is dropped before its end.
    pub(super) fn new(body: Body) -> (Unwanted, oneshot::Receiver<Body>) {
        let (sender, receiver) = oneshot::channel();
        let unwanted = Unwanted {
            ended: hyper::body::Body::is_end_stream(&body),
            body: Some(body),
            rest: Some(sender),
        };
        (unwanted, receiver)
    }
}

impl hyper::body::Body for Unwanted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let body = this.body.as_mut().expect("there until dropped");
        let frame = futures_util::ready!(Pin::new(body).poll_frame(cx));
        this.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, hyper::body::Body::size_hint)
    }
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        if let (Some(body), Some(rest)) = (self.body.take(), self.rest.take())
            && !self.ended
        {
            // Nobody waits for it once the answer has begun.
            drop(rest.send(body));
        }
    }
}

/// Takes the rest of an unwanted body; returns when the answer may begin.
pub(super) async fn throw_away(rest: Body, stops_early: bool) {
    if stops_early {
        tokio::spawn(read_for_nothing(rest, UNWANTED_OCTETS_MAX));
    } else {
        let octets = hyper::body::Body::size_hint(&rest).exact();
        read_for_nothing(rest, octets.unwrap_or(UNWANTED_OCTETS_MAX)).await;
    }
}

async fn read_for_nothing(body: Body, mut left: u64) {
    let mut stream = body.into_data_stream();
    while left > 0
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(UNWANTED_SILENCE, stream.next()).await
    {
        left = left.saturating_sub(piece.len() as u64);
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

/// A stream whose end comes apart from its last piece: with a pause between, in which the reader looks at what it has.
///
/// `multer` 3.1 asks its stream twice before it looks for the first boundary. If nothing has come at the first time, and all
/// of a small body together with its end at the second, it takes the whole form for a broken one.
pub(super) struct EndApart<S> {
    stream: S,
    /// Whether the last answer was a piece.
    after_piece: bool,
}

impl<S> EndApart<S> {
    pub(super) fn new(stream: S) -> EndApart<S> {
        EndApart {
            stream,
            after_piece: false,
        }
    }
}

impl<S: Stream + Unpin> Stream for EndApart<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.get_mut();
        let next = futures_util::ready!(this.stream.poll_next_unpin(cx));
        let after_piece = std::mem::replace(&mut this.after_piece, next.is_some());
        if next.is_none() && after_piece {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(next)
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

    /// Nothing has come when the form is asked for; then all of it comes at once.
    #[tokio::test]
    async fn form_that_comes_all_at_once_is_read() {
        let mut pieces = vec![
            None,
            Some(Bytes::from_static(
                b"--x\r\nContent-Disposition: form-data; name=\"object\"\r\n\r\n{}\r\n--x--\r\n",
            )),
        ]
        .into_iter();
        let stream = stream::poll_fn(move |cx| match pieces.next() {
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(piece) => Poll::Ready(piece.map(Ok::<_, std::io::Error>)),
            None => Poll::Ready(None),
        });
        let mut form = multer::Multipart::new(EndApart::new(stream), "x");
        let field = form.next_field().await.unwrap().unwrap();
        assert_eq!(field.bytes().await.unwrap(), "{}");
        assert!(form.next_field().await.unwrap().is_none());
    }
}
