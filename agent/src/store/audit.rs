//! The audit log of this server's moves, in the index: an entry is durable in the commit that makes the object its own.
//!
//! | table        | key    | value                                                                        |
//! |--------------|--------|------------------------------------------------------------------------------|
//! | `audit`      | number | line of an entry (`zones::audit`)                                            |
//! | `audit_head` | `head` | JSON of [`SignedHead`]: where the log begins and ends, and the signature     |
//!
//! An arriving copy cannot become the object without an entry: the committer makes it, from the row that goes and the one that
//! comes. Nothing else writes the log.

use std::time::Duration;

use arc_swap::ArcSwapOption;
use certs::Signer;
use data_encoding::HEXLOWER;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use zones::ServerName;
use zones::audit::{self, Head};

use super::entry::{Entry, Journal};
use super::index::IndexError;
use crate::vault::Digest;

pub(super) const LINES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
pub(super) const HEADS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("audit_head");
pub(super) const HEAD: &str = "head";

/// Old entries that one commit cuts off, at most: more than it adds in the long run, and no commit becomes a long one.
const CUT_MAX: usize = 64;

/// Whose log it is, who signs it, and how long entries stay.
#[derive(Debug)]
pub struct Auditor {
    me: ServerName,
    signer: ArcSwapOption<Signer>,
    keep: Duration,
}

impl Auditor {
    /// The log of a server. Without a signer heads are not signed, which every check of the log reports.
    #[must_use]
    pub fn new(me: ServerName, signer: Option<Signer>, keep: Duration) -> Auditor {
        Auditor {
            me,
            signer: ArcSwapOption::from_pointee(signer),
            keep,
        }
    }

    pub(super) fn me(&self) -> &ServerName {
        &self.me
    }

    /// Signs with a renewed identity from now on.
    pub fn sign_with(&self, signer: Signer) {
        self.signer.store(Some(std::sync::Arc::new(signer)));
    }
}

/// The head of a log as it is kept and told: which entries there are, and the server's word for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignedHead {
    /// Whose log.
    pub server: String,
    /// The last entry that was cut off by age; the entries that are there follow it.
    pub anchor: String,
    /// The last entry.
    pub head: String,
    /// Over server, anchor and head, hexadecimal; empty without a signer.
    pub signature: String,
    /// The certificate whose key signed, PEM.
    pub certificate: String,
}

/// What a move leaves beside the rows that go and come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AuditNote {
    /// When it became this server's, milliseconds since 1970.
    pub unix_ms: u64,
}

/// The log's ends, in memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ends {
    pub(super) anchor: Head,
    pub(super) head: Head,
}

/// A page of the log.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    /// The head, of the same moment as the entries; none for a log without entries.
    pub head: Option<SignedHead>,
    /// Entries by number.
    pub entries: Vec<(u64, Vec<u8>)>,
}

/// The line for a copy that arrived and becomes the object; `None` for any other change of a row.
pub(super) fn line(
    me: &ServerName,
    old: &Entry,
    new: &Entry,
    note: Option<AuditNote>,
) -> Result<Option<String>, &'static str> {
    let owned = match &new.journal {
        Journal::Active { wait: Some(wait) } => Some(&wait.from),
        Journal::Active { wait: None } => new.from.as_ref(),
        Journal::CreateSent { .. }
        | Journal::Moving { .. }
        | Journal::Sealed { .. }
        | Journal::Moved { .. }
        | Journal::Forward { .. }
        | Journal::DeleteSent { .. }
        | Journal::Tombstone { .. }
        | Journal::Reserved { .. }
        | Journal::Staged { .. }
        | Journal::Prepared { .. }
        | Journal::CommitSent { .. }
        | Journal::Held { .. } => None,
    };
    let Some(from) = owned.filter(|_| old.journal.is_arriving()) else {
        return Ok(None);
    };
    let note = note.ok_or("a copy that arrived becomes the object only with an entry of the audit log")?;
    let received = old.received.as_ref();
    let hex = |digest: Digest| HEXLOWER.encode(&digest.0);
    let after = new.digests();
    let key_of = |entry: &Entry| {
        entry
            .streams()
            .map(|(_, stream)| u64::from(stream.kek_generation.0))
            .min()
    };
    let entry = audit::Entry {
        time_ms: note.unix_ms,
        address: new.address.clone(),
        from: from.clone(),
        to: me.clone(),
        epoch: new.epoch.0,
        revision: new.revision,
        kind: new.kind.to_string(),
        schema_from: received.map_or(new.schema, |received| received.schema_before),
        schema_to: new.schema,
        level_from: received.map_or(new.level.0, |received| received.level),
        level_to: new.level.0,
        key_from: received.and_then(|received| received.key),
        key_to: key_of(new),
        properties_from: received
            .map_or(after.properties, |received| received.properties)
            .map(hex),
        properties_to: after.properties.map(hex),
        body: after.body.map(hex),
        actor: received.map_or_else(String::new, |received| received.actor.clone()),
        result: match &new.quarantined {
            None => "moved".to_owned(),
            Some(reason) => format!("moved as it was: {reason}"),
        },
    };
    Ok(Some(entry.line()))
}

/// Appends lines in the transaction that adds what they speak of, and cuts off what is old.
pub(super) fn append(
    transaction: &WriteTransaction,
    auditor: &Auditor,
    ends: Ends,
    lines: &[String],
) -> Result<Ends, IndexError> {
    let Ends { mut anchor, mut head } = ends;
    let mut table = transaction.open_table(LINES)?;
    for line in lines {
        head = head.next(line.as_bytes());
        table.insert(head.count, line.as_bytes())?;
    }
    let now_ms = lines
        .last()
        .and_then(|line| audit::Entry::read(line.as_bytes()).ok())
        .map_or(0, |entry| entry.time_ms);
    let oldest = now_ms.saturating_sub(u64::try_from(auditor.keep.as_millis()).unwrap_or(u64::MAX));
    for _ in 0..CUT_MAX {
        let first = table
            .first()?
            .map(|(number, line)| (number.value(), line.value().to_vec()));
        let Some((number, line)) = first.filter(|(number, _)| *number < head.count) else {
            break;
        };
        // A line that cannot be read is damage, which a check is to find: it is not cut off.
        let is_old = audit::Entry::read(&line).is_ok_and(|entry| entry.time_ms < oldest);
        if !is_old {
            break;
        }
        anchor = anchor.next(&line);
        table.remove(number)?;
    }
    let ends = Ends { anchor, head };
    let signed = serde_json::to_vec(&sign(auditor, ends)).expect("texts are JSON");
    transaction.open_table(HEADS)?.insert(HEAD, signed.as_slice())?;
    Ok(ends)
}

fn sign(auditor: &Auditor, ends: Ends) -> SignedHead {
    let octets = ends.head.signed_octets(&auditor.me, &ends.anchor);
    let signed = auditor.signer.load().as_ref().and_then(|signer| {
        let signature = signer.sign(&octets);
        if let Err(error) = &signature {
            tracing::error!(%error, "the head of the audit log is not signed");
        }
        Some((HEXLOWER.encode(&signature.ok()?), signer.certificate_pem().to_owned()))
    });
    let (signature, certificate) = signed.unwrap_or_default();
    SignedHead {
        server: auditor.me.to_string(),
        anchor: ends.anchor.to_string(),
        head: ends.head.to_string(),
        signature,
        certificate,
    }
}

/// The ends of the log as they are kept.
pub(super) fn ends(database: &redb::Database, me: &ServerName) -> Result<Ends, IndexError> {
    let first = Head::first(me);
    let fresh = Ends {
        anchor: first,
        head: first,
    };
    let Some(signed) = signed_head(&redb::ReadableDatabase::begin_read(database)?)? else {
        return Ok(fresh);
    };
    Ok(Ends {
        anchor: signed.anchor.parse().map_err(|_| damaged())?,
        head: signed.head.parse().map_err(|_| damaged())?,
    })
}

fn damaged() -> IndexError {
    IndexError::Io(std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        "the head of the audit log cannot be read: restore the index",
    ))
}

fn signed_head(transaction: &redb::ReadTransaction) -> Result<Option<SignedHead>, IndexError> {
    let table = match transaction.open_table(HEADS) {
        Ok(table) => table,
        // An index of the release before the log.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // A head that cannot be read is not a log that has not begun: the next entry would be written over the first.
    table
        .get(HEAD)?
        .map(|row| serde_json::from_slice(row.value()).map_err(|_| damaged()))
        .transpose()
}

/// Entries before a number, the last ones, at most so many, the newest first.
pub(super) fn page_before(
    database: &redb::Database,
    before: u64,
    limit: usize,
) -> Result<Vec<(u64, Vec<u8>)>, IndexError> {
    let transaction = redb::ReadableDatabase::begin_read(database)?;
    let table = match transaction.open_table(LINES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut entries = Vec::new();
    for row in table.range(..before)?.rev().take(limit) {
        let (number, line) = row?;
        entries.push((number.value(), line.value().to_vec()));
    }
    Ok(entries)
}

/// Entries behind a number, at most so many, and the head of the same moment.
pub(super) fn page(database: &redb::Database, after: u64, limit: usize) -> Result<AuditPage, IndexError> {
    let transaction = redb::ReadableDatabase::begin_read(database)?;
    let Some(head) = signed_head(&transaction)? else {
        return Ok(AuditPage::default());
    };
    let table = transaction.open_table(LINES)?;
    let mut entries = Vec::new();
    for row in table.range(after.saturating_add(1)..)?.take(limit) {
        let (number, line) = row?;
        entries.push((number.value(), line.value().to_vec()));
    }
    Ok(AuditPage {
        head: Some(head),
        entries,
    })
}
