//! Bodies on their way in and out: never whole in memory.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use zones::Address;

use crate::access::condition::Tag;
use crate::access::range::{ByteRange, RangeRequest};
use crate::client::counts::Counters;
use crate::client::error::ClientError;
use crate::client::request::{Call, Content, Reply};
use crate::client::{Client, request};

/// Octets read from a file at once.
const PIECE_OCTETS: usize = 128 * 1024;

/// A body to be sent.
#[derive(Clone)]
pub struct Upload {
    source: Source,
    /// What is sent before and after it: the frame of a multipart body.
    around: Option<(Bytes, Bytes)>,
    progress: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    File(PathBuf),
    /// Can be read once; gone when taken.
    Once {
        octets: Option<u64>,
        stream: Arc<Mutex<Option<BoxStream<'static, std::io::Result<Bytes>>>>>,
    },
}

impl Upload {
    /// The content of a file, read anew at every repetition. It must not change meanwhile.
    #[must_use]
    pub fn file(path: &Path) -> Upload {
        Upload::of(Source::File(path.to_owned()))
    }

    /// A stream, which can be sent once only: when the connection breaks after its first octets, the write fails.
    /// `octets` is its length, if that is known.
    #[must_use]
    pub fn stream(octets: Option<u64>, stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Upload {
        Upload::of(Source::Once {
            octets,
            stream: Arc::new(Mutex::new(Some(stream.boxed()))),
        })
    }

    /// Calls `progress` with the octets sent so far in this attempt.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Upload {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// The same with octets before and after it.
    pub(super) fn between(mut self, around: (Bytes, Bytes)) -> Upload {
        self.around = Some(around);
        self
    }

    /// Whether it can be sent once only.
    pub(super) fn is_once(&self) -> bool {
        matches!(self.source, Source::Once { .. })
    }

    /// Whether it was sent, at least in part, and cannot be sent again.
    pub(super) fn is_spent(&self) -> bool {
        match &self.source {
            Source::Bytes(_) | Source::File(_) => false,
            Source::Once { stream, .. } => stream.lock().is_none(),
        }
    }

    fn of(source: Source) -> Upload {
        Upload {
            source,
            around: None,
            progress: None,
        }
    }

    /// The body of one attempt. `pulse` learns of every piece that leaves.
    pub(super) async fn open(&self, pulse: &Arc<Pulse>) -> std::io::Result<reqwest::Body> {
        let (octets, stream) = match &self.source {
            Source::Bytes(bytes) => {
                let once = stream::once(std::future::ready(Ok(bytes.clone())));
                (Some(bytes.len() as u64), once.boxed())
            }
            Source::File(path) => {
                let file = tokio::fs::File::open(path).await?;
                let octets = file.metadata().await?.len();
                // A file that grows meanwhile is sent as it was long; one that shrinks breaks the request.
                (Some(octets), pieces(file.take(octets)).boxed())
            }
            Source::Once { octets, stream } => (*octets, Taken::new(Arc::clone(stream)).boxed()),
        };
        let sent = Arc::new(AtomicU64::new(0));
        let (pulse, progress) = (Arc::clone(pulse), self.progress.clone());
        let stream = stream.map(move |piece| {
            if let Ok(piece) = &piece {
                pulse.beat();
                let sent = sent.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
                if let Some(progress) = &progress {
                    progress(sent);
                }
            }
            piece
        });
        let one = |bytes: &Bytes| stream::once(std::future::ready(Ok(bytes.clone())));
        let (octets, stream) = match &self.around {
            None => (octets, stream.boxed()),
            Some((head, tail)) => (
                octets.map(|octets| octets + (head.len() + tail.len()) as u64),
                one(head).chain(stream).chain(one(tail)).boxed(),
            ),
        };
        Ok(reqwest::Body::wrap(Sized {
            stream: Mutex::new(stream),
            left: octets,
        }))
    }
}

impl From<Bytes> for Upload {
    fn from(bytes: Bytes) -> Upload {
        Upload::of(Source::Bytes(bytes))
    }
}

impl From<&'static str> for Upload {
    fn from(text: &'static str) -> Upload {
        Upload::from(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Upload {
    fn from(octets: Vec<u8>) -> Upload {
        Upload::from(Bytes::from(octets))
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Bytes(bytes) => write!(f, "Upload({} octets)", bytes.len()),
            Source::File(path) => write!(f, "Upload({})", path.display()),
            Source::Once { octets, .. } => write!(f, "Upload(stream of {octets:?} octets)"),
        }
    }
}

fn pieces(file: tokio::io::Take<tokio::fs::File>) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_OCTETS);
        match file.read_buf(&mut piece).await? {
            0 => Ok(None),
            _ => Ok(Some((piece.freeze(), file))),
        }
    })
}

/// Takes the one stream when its first octets are asked for: until then another attempt may still have it.
struct Taken {
    from: Arc<Mutex<Option<BoxStream<'static, std::io::Result<Bytes>>>>>,
    stream: Option<BoxStream<'static, std::io::Result<Bytes>>>,
    asked: AtomicBool,
}

impl Taken {
    fn new(from: Arc<Mutex<Option<BoxStream<'static, std::io::Result<Bytes>>>>>) -> Taken {
        Taken {
            from,
            stream: None,
            asked: AtomicBool::new(false),
        }
    }
}

impl Stream for Taken {
    type Item = std::io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.asked.swap(true, Ordering::Relaxed) {
            this.stream = this.from.lock().take();
        }
        match &mut this.stream {
            Some(stream) => stream.poll_next_unpin(cx),
            None => Poll::Ready(Some(Err(std::io::Error::other("the stream was sent already")))),
        }
    }
}

/// A body whose length is known, where it is: `Content-Length` instead of chunks.
struct Sized {
    /// Never locked: a body must be `Sync`, and a stream is not.
    stream: Mutex<BoxStream<'static, std::io::Result<Bytes>>>,
    left: Option<u64>,
}

impl Body for Sized {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = self.get_mut();
        let piece = futures_util::ready!(this.stream.get_mut().poll_next_unpin(cx));
        let length = piece.as_ref().map_or(0, |piece| piece.as_ref().map_or(0, Bytes::len)) as u64;
        if let Some(left) = &mut this.left {
            match (&piece, left.checked_sub(length)) {
                (None, _) if *left > 0 => {
                    return Poll::Ready(Some(Err(std::io::Error::other("the body is shorter than it was"))));
                }
                (_, Some(rest)) => *left = rest,
                (_, None) => return Poll::Ready(Some(Err(std::io::Error::other("the body is longer than announced")))),
            }
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// When something last moved.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    beat_ms: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        Pulse {
            start: Instant::now(),
            beat_ms: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(since, Ordering::Relaxed);
    }

    pub(super) fn silence(&self) -> Duration {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(beat)
    }
}

/// A body as it comes in. When the stream breaks, it goes on with a request for the rest, at any holder.
pub struct BodyReader {
    client: Client,
    address: Address,
    tag: Tag,
    /// Octets that are to come in all: of the range that was asked for.
    range: Option<ByteRange>,
    total: u64,
    /// Offset of the next octet in the whole body.
    next: u64,
    /// Offset behind the last octet.
    end: u64,
    current: Option<reqwest::Response>,
    /// Ends since the last octet came.
    broken: u32,
}

impl BodyReader {
    pub(super) fn new(client: Client, address: Address, reply: Reply) -> Result<BodyReader, ClientError> {
        let (tag, range, total) = placed(&reply)?;
        let (next, end) = match &range {
            Some(range) => (range.first, range.last + 1),
            None => (0, total),
        };
        Ok(BodyReader {
            client,
            address,
            tag,
            range,
            total,
            next,
            end,
            current: reply.stream(),
            broken: 0,
        })
    }

    /// Revision and schema of the object that the body belongs to.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// Octets of the whole body, whatever range was asked for.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The range that is read; `None` for the whole body.
    #[must_use]
    pub fn range(&self) -> Option<ByteRange> {
        self.range
    }

    /// Octets still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.end - self.next
    }

    /// The next octets; `None` at the end, after exactly as many as were announced.
    ///
    /// # Errors
    ///
    /// [`ClientError::Changed`] when a broken stream cannot go on because the object changed, and all errors of a read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.next == self.end {
                self.current = None;
                return Ok(None);
            }
            let why = match &mut self.current {
                None => "not connected".to_owned(),
                Some(response) => match tokio::time::timeout(request::STALL, response.chunk()).await {
                    Ok(Ok(Some(piece))) if piece.len() as u64 <= self.left() => {
                        self.next += piece.len() as u64;
                        self.broken = 0;
                        return Ok(Some(piece));
                    }
                    Ok(Ok(Some(_))) => "more octets than announced".to_owned(),
                    Ok(Ok(None)) => "the stream ended early".to_owned(),
                    Ok(Err(error)) => crate::access::chain(&error),
                    Err(_) => "the stream stands still".to_owned(),
                },
            };
            self.resume(&why).await?;
        }
    }

    /// The rest as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, ClientError>> + Send {
        stream::try_unfold(self, |mut reader| async move {
            let piece = reader.next().await?;
            Ok(piece.map(|piece| (piece, reader)))
        })
    }

    /// Everything, in memory: for small bodies.
    ///
    /// # Errors
    ///
    /// As [`BodyReader::next`].
    pub async fn read_all(mut self) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Asks for the octets that have not come yet.
    async fn resume(&mut self, why: &str) -> Result<(), ClientError> {
        tracing::debug!(address = %self.address, at = self.next, why, "body broke off; reading on");
        self.current = None;
        self.broken += 1;
        if self.broken > request::RESUMES_MAX {
            return Err(ClientError::Exhausted {
                address: self.address.clone(),
                patience: self.client.inner.settings.patience,
                last: why.to_owned(),
            });
        }
        Counters::add(&self.client.inner.counts.resumes);
        let rest = RangeRequest::From {
            first: self.next,
            last: Some(self.end - 1),
        };
        let reply = self.client.call(&Call::read_body(&self.address, Some(rest))).await?;
        let (tag, range, total) = placed(&reply)?;
        // The tag's schema may differ: a step on the way changes properties, never the body.
        if tag.revision != self.tag.revision || total != self.total {
            return Err(ClientError::Changed {
                address: self.address.clone(),
                was: self.tag.revision,
                is: tag.revision,
            });
        }
        if range.is_none_or(|range| (range.first, range.last + 1) != (self.next, self.end)) {
            return Err(reply.strange("another range than was asked for"));
        }
        self.current = reply.stream();
        Ok(())
    }
}

impl std::fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BodyReader({} at {} of {})", self.address, self.next, self.end)
    }
}

/// What the headers of a body say: tag, range, octets of the whole.
fn placed(reply: &Reply) -> Result<(Tag, Option<ByteRange>, u64), ClientError> {
    let tag = reply.tag()?;
    match reply.status {
        http::StatusCode::PARTIAL_CONTENT => {
            let range = reply
                .headers
                .get(http::header::CONTENT_RANGE)
                .and_then(|value| ByteRange::read(value.as_bytes()))
                .ok_or_else(|| reply.strange("a 206 without Content-Range"))?;
            Ok((tag, Some(range), range.total))
        }
        _ => {
            let total = reply
                .headers
                .get(http::header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .ok_or_else(|| reply.strange("a body without Content-Length"))?;
            Ok((tag, None, total))
        }
    }
}

impl Reply {
    fn stream(self) -> Option<reqwest::Response> {
        match self.content {
            Content::Stream(response) => Some(response),
            Content::Whole(_) => None,
        }
    }
}
