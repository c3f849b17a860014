//! What a change of one object makes of its row: pure decisions, taken in the object's turn.

use zones::{Address, Epoch, Level, Register, ServerName, State, Tx};

use super::create::Created;
use super::delete::Deleted;
use super::ids::{self, WriteId};
use super::words::{Delete, Miss, WriteError, Written};
use super::writing::{Prepared, holds, writable, written};
use crate::migration::guard::{Guard, stands};
use crate::store::{Change, Content, Entry, Journal, NewEntry, WriteRecord};

/// Type of a new object that came without one.
pub(super) const KIND: &str = "file";

/// What a write or a deletion does.
#[derive(Debug)]
pub enum Step {
    /// Nothing: it was done before, under the same write id.
    Known(Written),
    /// The row becomes this.
    Row(Box<NewEntry>),
}

/// What a register says of an address that has no copy here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked {
    /// It is this agent's.
    Here,
    /// There is no object.
    Free,
    /// An address that differs by case is registered.
    Clash(Address),
}

/// What the register says of an object that is not in the table of agent `me`.
///
/// # Errors
///
/// [`Miss`] where another agent owns it, or nobody any more.
pub fn judge(me: &ServerName, address: &Address, register: Option<Register>) -> Result<Asked, Miss> {
    let Some(register) = register else {
        return Ok(Asked::Free);
    };
    let Register {
        address: registered,
        epoch,
        owner,
        state,
        ..
    } = register;
    match state {
        _ if registered != *address => Ok(Asked::Clash(registered)),
        State::Deleted => Err(Miss::Deleted),
        State::Stable | State::Moving { .. } if owner == *me => Ok(Asked::Here),
        State::Stable | State::Moving { .. } => Err(Miss::Elsewhere { owner, epoch }),
    }
}

/// The server to ask about an object instead of `me`, as the register says, and its epoch: its owner, or who deleted it and so
/// knows under which write id. Servers that are `lost` for good know it no more.
#[must_use]
pub fn elsewhere(
    me: &ServerName,
    lost: &[ServerName],
    address: &Address,
    register: Option<Register>,
) -> Option<(ServerName, Epoch)> {
    let answers = |register: &Register| {
        let is_forgotten = register.state == State::Deleted && lost.contains(&register.owner);
        register.address == *address && register.owner != *me && !is_forgotten
    };
    register
        .filter(answers)
        .map(|register| (register.owner, register.epoch))
}

/// A write of an object that is, or was, here.
///
/// # Errors
///
/// [`WriteError`]; nothing is to be changed then.
pub fn write(entry: &Entry, put: Prepared, now_ms: u64) -> Result<Step, WriteError> {
    // A row that takes no writes any more is looked at for its write ids first: a repeated write is answered as it was.
    let seen = look_up(entry, put.id(), now_ms);
    if let Ok(Some(revision)) = seen {
        return Ok(Step::Known(written(entry, revision)));
    }
    writable(entry)?;
    seen?;
    holds(put.condition, Some(entry.revision))?;
    let revision = entry.revision + 1;
    let record = put.record(revision, now_ms);
    let keep = entry.keep();
    let rewritten = put.properties.is_some();
    Ok(Step::Row(Box::new(NewEntry {
        revision,
        kind: put.kind.unwrap_or(keep.kind),
        schema: put.schema.unwrap_or(keep.schema),
        properties: put.properties.map_or(keep.properties, Content::Staged),
        body: put.body.map_or(keep.body, Content::Staged),
        quarantined: keep.quarantined.filter(|_| !rewritten),
        migrated_from: keep.migrated_from.filter(|_| !rewritten),
        writes: ids::remember(&entry.writes, record, now_ms),
        ..keep
    })))
}

/// The revision that a write under this id made, as the row knows. A copy that is held for another server may know of writes
/// that not every holder has yet: only their owner acknowledges them, again too.
fn look_up(entry: &Entry, id: Option<WriteId<'_>>, now_ms: u64) -> Result<Option<u64>, WriteError> {
    match id {
        Some(id) if !entry.journal.is_held() => ids::look_up(&entry.writes, &id, now_ms),
        Some(_) | None => Ok(None),
    }
}

/// Whether an object may be made by this write: its condition and its write id.
///
/// # Errors
///
/// [`WriteError`].
pub fn may_make(put: &Prepared, now_ms: u64) -> Result<(), WriteError> {
    holds(put.condition, None)?;
    match put.id() {
        Some(id) => ids::look_up(&[], &id, now_ms).map(|_| ()),
        None => Ok(()),
    }
}

/// The first row of an object: the copy, and that its register is about to be sent under `tx`. Its level is that of its parts,
/// which may have been taken before `level` was asked for.
#[must_use]
pub fn make(address: &Address, put: Prepared, level: Level, tx: Tx, now_ms: u64) -> NewEntry {
    let writes = ids::remember(&[], put.record(1, now_ms), now_ms);
    let level = put.level().unwrap_or(level);
    NewEntry {
        address: address.clone(),
        epoch: Epoch::FIRST,
        revision: 1,
        kind: put.kind.unwrap_or_else(|| KIND.parse().expect("a legal type")),
        schema: put.schema.unwrap_or(1),
        level,
        journal: match stands(Guard::CreateSent) {
            true => Journal::CreateSent { tx },
            false => Journal::Active { wait: None },
        },
        properties: put.properties.map_or(Content::Absent, Content::Staged),
        body: put.body.map_or(Content::Absent, Content::Staged),
        writes,
        tx: Some(tx),
        from: None,
        received: None,
        quarantined: None,
        migrated_from: None,
        leaving: None,
        keeping: None,
        audit: None,
    }
}

/// The register that an object is made known by.
#[must_use]
pub fn register_of(me: &ServerName, entry: &Entry, tx: Tx) -> Register {
    Register {
        address: entry.address.clone(),
        epoch: entry.epoch,
        owner: me.clone(),
        state: State::Stable,
        tx,
        holders: vec![me.clone()],
        kind: entry.kind.clone(),
        schema: entry.schema,
        level: entry.level,
    }
}

/// What a settled creation does to the row, and what its writer hears.
pub fn created(entry: &Entry, created: Created) -> (Change, Result<Written, WriteError>) {
    let gone = Change::Remove { seq: entry.seq };
    match created {
        Created::Made => {
            let active = NewEntry {
                journal: Journal::Active { wait: None },
                ..entry.keep()
            };
            let change = Change::Replace {
                seq: entry.seq,
                entry: active,
            };
            (change, Ok(written(entry, 1)))
        }
        Created::Lost(register) => {
            let why = match register.state {
                _ if register.address != entry.address => WriteError::CaseClash {
                    registered: register.address,
                },
                State::Deleted => WriteError::Deleted,
                State::Stable | State::Moving { .. } => WriteError::Elsewhere {
                    owner: register.owner,
                    epoch: register.epoch,
                },
            };
            (gone, Err(why))
        }
        Created::Refused(why) => (gone, Err(WriteError::NotServing { why })),
    }
}

/// A deletion of an object that is, or was, here; it is noted under `tx` before anything is sent.
///
/// # Errors
///
/// [`WriteError`]; nothing is to be changed then.
pub fn delete(entry: &Entry, delete: &Delete, request_hash: [u8; 32], tx: Tx, now_ms: u64) -> Result<Step, WriteError> {
    let id = delete.write_id.map(|id| WriteId {
        client: &delete.client,
        id,
        request_hash,
    });
    // A tombstone is looked at for its write ids first: a repeated deletion succeeds.
    let seen = look_up(entry, id, now_ms);
    if let Ok(Some(revision)) = seen {
        return Ok(Step::Known(written(entry, revision)));
    }
    writable(entry)?;
    seen?;
    holds(delete.condition, Some(entry.revision))?;
    let revision = entry.revision + 1;
    let record = delete.write_id.map(|id| WriteRecord {
        client: delete.client.clone(),
        id,
        request_hash,
        unix_ms: now_ms,
        revision,
    });
    Ok(Step::Row(Box::new(NewEntry {
        journal: match stands(Guard::DeleteSent) {
            true => Journal::DeleteSent { tx },
            false => entry.journal.clone(),
        },
        revision,
        writes: ids::remember(&entry.writes, record, now_ms),
        ..entry.keep()
    })))
}

/// What a settled deletion does to the row, and what its writer hears. In every case the copy is nothing any more: the
/// register that was just read, or changed, is above its epoch.
pub fn deleted(entry: &Entry, tx: Tx, deleted: Deleted) -> (Change, Result<Written, WriteError>) {
    let (journal, epoch, tx, told) = match deleted {
        Deleted::Deleted(epoch) => (
            Journal::Tombstone { epoch, tx },
            epoch,
            tx,
            Ok(Written {
                epoch,
                ..written(entry, entry.revision)
            }),
        ),
        Deleted::Superseded(register) => {
            let (epoch, tx) = (register.epoch, register.tx);
            match register.state {
                State::Deleted => (Journal::Tombstone { epoch, tx }, epoch, tx, Err(WriteError::Deleted)),
                State::Stable | State::Moving { .. } => {
                    let to = register.owner;
                    let journal = Journal::Forward { to: to.clone(), epoch };
                    (journal, entry.epoch, tx, Err(WriteError::Party { to }))
                }
            }
        }
    };
    let mut new = NewEntry {
        journal,
        epoch,
        properties: Content::Absent,
        body: Content::Absent,
        tx: Some(tx),
        leaving: None,
        keeping: None,
        ..entry.keep()
    };
    if told.is_err() {
        // It was not deleted here: repeated, the deletion is asked of whoever has the object now.
        new.writes.retain(|write| write.revision < entry.revision);
    }
    let change = Change::Replace {
        seq: entry.seq,
        entry: new,
    };
    (change, told)
}
