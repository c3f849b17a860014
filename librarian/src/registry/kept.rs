//! The journals over a restart: a file that is written when the registry is let go of in order.
//!
//! The log alone cannot tell them: it drops old values as it is cleaned. So a librarian that stops, or hands over, writes
//! what it has in memory beside the registry, and the next one takes it if the registry has not changed since: the same
//! incarnation, and not one entry more in the log. After a crash there is no such file, or an old one that does not fit,
//! and secondaries take whole zones.
//!
//! | field | |
//! |---|---|
//! | format u8, incarnation 16 octets, number of the next log entry u64 | whether it fits |
//! | tables of places | count u32; each: count u32 of name, port u16, capacity u64, addresses as text |
//! | journal of `obj` and `tree`, then of the operator's zone | count of steps u32; each: serials before and after, 4 times u32; places before and after, numbers of tables, u32; count of changes u32; each: old and new entry of the log, behind a length u32, 0 for none |
//!
//! Lists and texts are as in [`super::entry`]. Rows are found again by their addresses: their numbers are of one process.

use std::path::Path;
use std::sync::Arc;

use super::bytes::{Damaged, Reader, Writer};
use super::entry::Entry;
use super::index::Index;
use super::journal::{Journal, JournalBounds, Key, Place, Places, Step, Value};
use super::key::key_of;
use super::publish::Journals;
use super::zone::NameKey;
use crate::files::{self, FileError, Readable};

const FORMAT: u8 = 1;
/// Longest file that is read: more than a journal's bounds allow unless they were set far higher.
const FILE_OCTETS_MAX: u64 = 4 << 30;

/// What a file must be of to fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Of {
    pub(super) incarnation: [u8; 16],
    /// Number of the next log entry.
    pub(super) next_seq: u64,
}

/// Writes the journals.
pub(super) fn write(path: &Path, of: Of, journals: &Journals) -> Result<(), FileError> {
    let mut tables: Vec<Arc<Places>> = Vec::new();
    let mut body = Writer::default();
    for journal in [&journals.names, &journals.apex] {
        write_journal(&mut body, journal, &mut tables);
    }
    let mut out = Writer::default();
    out.u8(FORMAT);
    out.0.extend(of.incarnation);
    out.u64(of.next_seq);
    count(&mut out, tables.len());
    for table in &tables {
        count(&mut out, table.len());
        for (name, place) in &**table {
            out.octets(name.as_str().as_bytes());
            out.u16(place.port);
            out.u64(place.capacity);
            out.list(place.addresses.iter(), |out, address| {
                out.octets(address.to_string().as_bytes());
            });
        }
    }
    out.0.extend(body.0);
    files::write(path, &out.0, Readable::Owner)
}

fn count(out: &mut Writer, count: usize) {
    out.u32(u32::try_from(count).expect("fewer than 2^32 fit in memory"));
}

fn write_journal(out: &mut Writer, journal: &Journal, tables: &mut Vec<Arc<Places>>) {
    let steps: Vec<u64> = journal.whole_steps().collect();
    count(out, steps.len());
    for number in steps {
        let (step, changes) = journal.step(number).expect("it was counted");
        for serial in step.before.into_iter().chain(step.after) {
            out.u32(serial);
        }
        for places in [&step.places_before, &step.places] {
            // Nearly always the last one, or the one before it.
            let at = tables.iter().rposition(|table| Arc::ptr_eq(table, places));
            let at = at.unwrap_or_else(|| {
                tables.push(Arc::clone(places));
                tables.len() - 1
            });
            count(out, at);
        }
        count(out, changes.len());
        for change in changes {
            for value in [&change.old, &change.new] {
                out.long(value.as_deref().unwrap_or_default());
            }
        }
    }
}

/// Reads the journals, if the file is there and fits.
pub(super) fn read(path: &Path, of: Of, bounds: JournalBounds, index: &Index) -> Option<Journals> {
    let octets = match std::fs::metadata(path) {
        Ok(found) if found.len() <= FILE_OCTETS_MAX => std::fs::read(path).ok()?,
        Ok(_) | Err(_) => return None,
    };
    match read_octets(&octets, of, bounds, index) {
        Ok(journals) => journals,
        Err(error) => {
            tracing::warn!(path = %path.display(), error = error.0, "changes from before the restart are not read: secondaries take whole zones");
            None
        }
    }
}

fn read_octets(octets: &[u8], of: Of, bounds: JournalBounds, index: &Index) -> Result<Option<Journals>, Damaged> {
    let mut from = Reader(octets);
    let found = (from.u8()?, from.octets16()?, from.u64()?);
    if found != (FORMAT, of.incarnation, of.next_seq) {
        return Ok(None);
    }
    let mut tables = Vec::new();
    for _ in 0..from.u32()? {
        let mut table = Places::new();
        for _ in 0..from.u32()? {
            let name = from.parsed()?;
            let (port, capacity) = (from.u16()?, from.u64()?);
            let addresses = from.list(Reader::parsed)?;
            let place = Place {
                port,
                addresses,
                capacity,
            };
            table.insert(name, place);
        }
        tables.push(Arc::new(table));
    }
    // What has not changed is kept once, as while it ran.
    if let Some(last) = tables.last_mut().filter(|last| ***last == **index.places()) {
        *last = Arc::clone(index.places());
    }
    let mut journals = Journals::new(bounds);
    for journal in [&mut journals.names, &mut journals.apex] {
        read_journal(&mut from, &tables, index, journal)?;
    }
    from.end()?;
    // A commit that failed may be on disk all the same: then the log is ahead of what was seen to change.
    let serials = index.serials();
    let ends = [
        (&journals.names, [serials.obj, serials.tree]),
        (&journals.apex, [index.apex_serial(); 2]),
    ];
    let is_whole = ends
        .iter()
        .all(|(journal, now)| journal.last_serials().is_none_or(|last| last == *now));
    Ok(is_whole.then_some(journals))
}

fn read_journal(
    from: &mut Reader<'_>,
    tables: &[Arc<Places>],
    index: &Index,
    journal: &mut Journal,
) -> Result<(), Damaged> {
    for _ in 0..from.u32()? {
        let mut serial = || from.u32();
        let (before, after) = ([serial()?, serial()?], [serial()?, serial()?]);
        let mut table = || {
            let at = usize::try_from(from.u32()?).map_err(|_| Damaged("a table's number"))?;
            tables.get(at).map(Arc::clone).ok_or(Damaged("a table's number"))
        };
        let (places_before, places) = (table()?, table()?);
        let mut changes = Vec::new();
        for _ in 0..from.u32()? {
            let mut value = || -> Result<Value, Damaged> {
                let octets = from.long()?;
                Ok((!octets.is_empty()).then(|| Arc::from(octets)))
            };
            let (old, new) = (value()?, value()?);
            let either = new.as_ref().or(old.as_ref()).ok_or(Damaged("a change of nothing"))?;
            let key = match Entry::from_bytes(either)? {
                Entry::Register(register) => {
                    let row = key_of(&index.domain, &register.address).and_then(|key| index.registers.find(&key));
                    Key::Row(row.ok_or(Damaged("an object that is not registered"))?)
                }
                Entry::Node(_, node) => Key::Node(NameKey::new(&node.name)),
                Entry::Server(_) | Entry::Plan(_) | Entry::Serials(_) | Entry::Reconcile(_) => {
                    return Err(Damaged("a change of something else"));
                }
            };
            changes.push((key, old, new));
        }
        let step = Step {
            before,
            after,
            places_before,
            places,
            cut: false,
        };
        journal.append(step, changes);
    }
    Ok(())
}
