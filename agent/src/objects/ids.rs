//! Write ids: a repeated write is applied once (DESIGN.md section 11, writes).
//!
//! An id is a UUIDv7, so it tells when it was made. Records are kept for an hour and at most 64 an object, the oldest ids
//! leave first; an id older than what is kept may have been applied and forgotten, so it is refused.

use uuid::Uuid;

use super::words::WriteError;
use crate::store::WriteRecord;

/// How long a write id is remembered, counted from when it was made.
pub(crate) const KEPT_MS: u64 = 3_600_000;
/// Most write ids remembered for one object.
pub(crate) const KEPT_MAX: usize = 64;
/// How far a client's clock may run ahead of ours.
const AHEAD_MS: u64 = 300_000;

/// One write's own number, of whom, and what it asked for.
#[derive(Clone, Debug)]
pub(crate) struct WriteId<'a> {
    pub(crate) client: &'a str,
    pub(crate) id: Uuid,
    /// Keyed hash of verb and content.
    pub(crate) request_hash: [u8; 32],
}

/// Finds the write that had this id before: its revision; `None` for a new id.
pub(crate) fn look_up(records: &[WriteRecord], asked: &WriteId<'_>, now_ms: u64) -> Result<Option<u64>, WriteError> {
    let known = records
        .iter()
        .find(|record| record.id == asked.id && record.client == asked.client);
    match known {
        Some(record) if record.request_hash == asked.request_hash => return Ok(Some(record.revision)),
        Some(_) => return Err(WriteError::WriteIdReused),
        None => {}
    }
    let refused = |why| Err(WriteError::WriteIdRefused { why });
    let Some(made_ms) = made_ms(asked.id) else {
        return refused("it is no UUIDv7 (RFC 9562 section 5.7)");
    };
    if made_ms > now_ms + AHEAD_MS {
        return refused("it was made in the future: set the clock");
    }
    if made_ms + KEPT_MS <= now_ms {
        return refused("it is over an hour old, so its write may have been applied and forgotten");
    }
    let oldest = records.iter().map(|record| record.id).min();
    match oldest {
        Some(oldest) if records.len() >= KEPT_MAX && asked.id < oldest => {
            refused("it is older than the last 64 writes, so its write may have been applied and forgotten")
        }
        Some(_) | None => Ok(None),
    }
}

/// The records with one more, without those that are over.
pub(crate) fn remember(records: &[WriteRecord], record: Option<WriteRecord>, now_ms: u64) -> Vec<WriteRecord> {
    let fresh = |record: &&WriteRecord| made_ms(record.id).is_some_and(|made_ms| made_ms + KEPT_MS > now_ms);
    let mut kept: Vec<WriteRecord> = records.iter().filter(fresh).cloned().collect();
    kept.extend(record);
    if kept.len() > KEPT_MAX {
        // By id, not by arrival: whoever was dropped is older than all that stay.
        kept.sort_by_key(|record| record.id);
        kept.drain(..kept.len() - KEPT_MAX);
    }
    kept
}

/// When a UUIDv7 was made.
fn made_ms(id: Uuid) -> Option<u64> {
    if id.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanoseconds) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use uuid::{NoContext, Timestamp};

    use super::*;

    const NOW_MS: u64 = 1_900_000_000_000;

    fn id(made_ms: u64) -> Uuid {
        let nanoseconds = u32::try_from(made_ms % 1000 * 1_000_000).unwrap();
        Uuid::new_v7(Timestamp::from_unix(NoContext, made_ms / 1000, nanoseconds))
    }

    fn record(made_ms: u64, revision: u64) -> WriteRecord {
        WriteRecord {
            client: "app".to_owned(),
            id: id(made_ms),
            request_hash: [1; 32],
            unix_ms: made_ms,
            revision,
        }
    }

    fn asked(id: Uuid, hash: u8) -> WriteId<'static> {
        WriteId {
            client: "app",
            id,
            request_hash: [hash; 32],
        }
    }

    #[test]
    fn repeated_write_is_found_and_other_content_refused() {
        let records = [record(NOW_MS - 5, 3), record(NOW_MS - 4, 4)];
        let id = records[0].id;
        assert_eq!(look_up(&records, &asked(id, 1), NOW_MS), Ok(Some(3)));
        assert_eq!(look_up(&records, &asked(id, 2), NOW_MS), Err(WriteError::WriteIdReused));
        let other = WriteId {
            client: "other",
            ..asked(id, 2)
        };
        assert_eq!(
            look_up(&records, &other, NOW_MS),
            Ok(None),
            "ids of two clients are two ids"
        );
    }

    #[test]
    fn id_that_may_have_been_forgotten_is_refused() {
        let refused = |records: &[WriteRecord], id| {
            matches!(
                look_up(records, &asked(id, 1), NOW_MS),
                Err(WriteError::WriteIdRefused { .. })
            )
        };
        assert!(refused(&[], id(NOW_MS - KEPT_MS)));
        assert!(!refused(&[], id(NOW_MS - KEPT_MS + 1)));
        assert!(refused(&[], id(NOW_MS + AHEAD_MS + 1)));
        assert!(refused(&[], Uuid::from_u128(4)));
        let mut records = Vec::new();
        for n in 0..65 {
            records = remember(&records, Some(record(NOW_MS - 1000 + n, n)), NOW_MS);
        }
        assert_eq!(records.len(), KEPT_MAX);
        assert!(refused(&records, id(NOW_MS - 1000)), "the one that was dropped");
        assert!(!refused(&records, id(NOW_MS)));
    }

    /// Writes arrive with ids in a shuffled order; whatever was dropped is never taken for new.
    #[test]
    fn dropped_id_is_never_applied_again_whatever_the_order_of_ids() {
        let mut applied = Vec::new();
        let mut records = Vec::new();
        for n in 0..300_u64 {
            let fresh = record(NOW_MS - (n * 7919) % 1000, n);
            let seen = asked(fresh.id, 1);
            if look_up(&records, &seen, NOW_MS) == Ok(None) {
                applied.push(fresh.id);
                records = remember(&records, Some(fresh), NOW_MS);
            }
        }
        assert!(applied.len() > KEPT_MAX);
        for id in applied {
            assert_ne!(look_up(&records, &asked(id, 1), NOW_MS), Ok(None));
        }
    }

    #[test]
    fn records_leave_after_an_hour() {
        let records = remember(&[record(NOW_MS - KEPT_MS, 1)], Some(record(NOW_MS, 2)), NOW_MS);
        assert_eq!(records.len(), 1);
    }
}
