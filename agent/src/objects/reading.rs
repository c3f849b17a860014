//! One object as it is read.
//!
//! A reading keeps its copy in place on disk, whatever is written, moved or deleted by then: all of it is of one revision.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::body::blocking;
use crate::store::{Entry, ReadError, Store, StreamReader};
use crate::vault::Part;

/// Octets that are read and opened at once.
const PIECE_OCTETS: usize = 256 << 10;

/// One revision of an object, held in place while this lives.
#[derive(Clone, Debug)]
pub struct Reading {
    pub(super) store: Arc<Store>,
    pub(super) entry: Arc<Entry>,
}

impl Reading {
    /// What the index says of it.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Octets of its body.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entry.body.as_ref().map_or(0, |body| body.plain_octets)
    }

    /// Its properties: canonical JSON, an object.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where the copy is damaged or the disk fails.
    pub async fn properties(&self) -> Result<Bytes, ReadError> {
        if self.entry.properties.is_none() {
            return Ok(Bytes::from_static(b"{}"));
        }
        let reading = self.clone();
        blocking(move || {
            let reader = reading.store.reader(&reading.entry, Part::Properties)?;
            reader.read_all(reading.store.vault())
        })
        .await
    }

    /// Octets of its body in `range`, which must lie within it; read piece by piece, as they are taken.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where the data key does not open, or the first piece is damaged. A damaged chunk behind it ends the stream
    /// with an error.
    pub async fn body(
        &self,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, ReadError>> + use<>, ReadError> {
        assert!(
            range.start <= range.end && range.end <= self.size(),
            "the range was checked"
        );
        let reader = match range.is_empty() {
            true => None,
            false => {
                let reading = self.clone();
                let reader = blocking(move || reading.store.reader(&reading.entry, Part::Body)).await?;
                Some(Arc::new(reader))
            }
        };
        // Read before the answer begins, so that a copy without an intact begin is an error and no broken answer.
        let first = next((reader, range)).await?;
        let (first, rest) = first.map_or((None, None), |(first, place)| (Some(Ok(first)), Some(place)));
        let rest = rest.unwrap_or((None, 0..0));
        Ok(futures_util::stream::iter(first).chain(futures_util::stream::try_unfold(rest, next)))
    }
}

type Place = (Option<Arc<StreamReader>>, Range<u64>);

async fn next((reader, range): Place) -> Result<Option<(Bytes, Place)>, ReadError> {
    let Some(reader) = reader.filter(|_| !range.is_empty()) else {
        return Ok(None);
    };
    // Pieces end at multiples of their length, which lie between chunks: no chunk is opened twice.
    let piece = PIECE_OCTETS as u64;
    let end = range.end.min((range.start / piece + 1) * piece);
    let octets_max = usize::try_from(end - range.start).expect("at most one piece");
    let from = Arc::clone(&reader);
    let octets = blocking(move || from.read_at(range.start, octets_max)).await?;
    let rest = range.start + octets.len() as u64..range.end;
    Ok(Some((octets, (Some(reader), rest))))
}
