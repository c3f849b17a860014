//! Bodies on their way in.
//!
//! A body goes to disk, sealed, as it arrives; nobody's turn is held meanwhile, and memory holds one piece of it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use zones::{Address, Level};

use super::Objects;
use super::words::WriteError;
use crate::store::{ReadError, StagedStream, StreamError, StreamSpec, StreamWriter};
use crate::vault::Part;

/// Octets that are sealed and written at once.
const PIECE_OCTETS: usize = 1 << 20;
/// Octets that are read at once of a body that is handed on.
pub(super) const STAGED_PIECE_OCTETS: usize = 256 << 10;
/// Parts up to this length are written together with others.
const SMALL_OCTETS: usize = 64 << 10;

/// A body that is on disk and part of no object yet. Dropped without a write, its blocks are free again.
#[derive(Clone, Debug)]
pub struct StagedBody {
    pub(super) staged: StagedStream,
}

impl StagedBody {
    /// Octets of the body.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.staged.plain_octets()
    }
}

impl Objects {
    /// Takes a body to disk. `content_length` lets room be set aside before the first octet.
    ///
    /// # Errors
    ///
    /// [`WriteError::Full`], [`WriteError::Body`] when the stream breaks off, [`WriteError::Failed`].
    pub async fn stage_body<S, E>(
        &self,
        address: &Address,
        content_length: Option<u64>,
        body: S,
    ) -> Result<StagedBody, WriteError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let mut body = std::pin::pin!(body);
        let mut piece = BytesMut::new();
        let mut writer = None;
        while let Some(more) = body.next().await {
            let more = more.map_err(|error| WriteError::Body { why: error.to_string() })?;
            piece.extend_from_slice(&more);
            if piece.len() >= PIECE_OCTETS {
                let spec = self.spec(address, Part::Body, content_length);
                writer = Some(self.write_piece(writer, spec, piece.split().freeze()).await?);
            }
        }
        let staged = match writer {
            None if piece.len() <= SMALL_OCTETS => self.stage_small(address, Part::Body, None, piece.freeze()).await?,
            writer => {
                let spec = self.spec(address, Part::Body, content_length);
                let writer = self.write_piece(writer, spec, piece.freeze()).await?;
                blocking(move || writer.finish()).await.map_err(staging)?
            }
        };
        Ok(StagedBody { staged })
    }

    /// The octets of a body that is on disk and part of no object yet: it is handed on elsewhere.
    pub fn staged_octets(&self, body: &StagedBody) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + use<> {
        let reader = Arc::new(self.store.staged_reader(&body.staged));
        // The staged stream keeps its blocks until the last octet was read.
        let kept = body.clone();
        futures_util::stream::try_unfold((reader, kept, 0), |(reader, kept, offset)| async move {
            if offset == kept.octets() {
                return Ok(None);
            }
            let from = Arc::clone(&reader);
            let octets = blocking(move || from.read_at(offset, STAGED_PIECE_OCTETS)).await?;
            let next = offset + octets.len() as u64;
            Ok(Some((octets, (reader, kept, next))))
        })
    }

    /// Takes a small part to disk, together with others that come at this moment.
    pub(super) async fn stage_small(
        &self,
        address: &Address,
        part: Part,
        level: Option<Level>,
        octets: Bytes,
    ) -> Result<StagedStream, WriteError> {
        let store = Arc::clone(&self.store);
        let spec = self.spec(address, part, Some(octets.len() as u64));
        let spec = StreamSpec {
            level: level.unwrap_or(spec.level),
            ..spec
        };
        let mut staged = blocking(move || store.write_small(vec![(spec, octets)]))
            .await
            .map_err(staging)?;
        Ok(staged.pop().expect("one stream was asked for"))
    }

    async fn write_piece(
        &self,
        writer: Option<StreamWriter>,
        spec: StreamSpec,
        octets: Bytes,
    ) -> Result<StreamWriter, WriteError> {
        let store = Arc::clone(&self.store);
        let written = move || {
            let mut writer = match writer {
                Some(writer) => writer,
                None => store.writer(spec)?,
            };
            writer.write(&octets)?;
            Ok(writer)
        };
        blocking(written).await.map_err(staging)
    }

    fn spec(&self, address: &Address, part: Part, octets_hint: Option<u64>) -> StreamSpec {
        StreamSpec {
            address: address.clone(),
            part,
            level: self.level_of(address),
            octets_hint,
            reservation: None,
        }
    }
}

/// Runs disk work where it may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels blocking work, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What a client is told when the store does not take a stream.
pub(super) fn staging(error: StreamError) -> WriteError {
    match error {
        StreamError::Full(full) => {
            tracing::warn!(error = &full as &dyn std::error::Error, "no room for a write");
            WriteError::Full { why: full.to_string() }
        }
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "a stream cannot be written");
            WriteError::Failed {
                what: error.to_string(),
            }
        }
    }
}
