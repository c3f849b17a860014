//! One group of objects brought to what the plan asks for, in place.
//!
//! ```text
//!  read the copy --> steps --> both streams anew: other keys, other places --> read back
//!       --> its turn, if it is still the present copy --> one commit
//! ```
//!
//! Nothing but the commit changes an object, and that replaces a row whole: a crash anywhere leaves the copy that was, and what
//! was written for the new one are free blocks. Epoch, revision, write ids and transaction stay, so neither the register nor
//! the log of moves hears of it; the row says by `migrated_from` which version it had.
//!
//! Knows no time but the one it is handed, and holds no more of a body than a piece.

use std::sync::Arc;

use bytes::Bytes;
use zones::Level;

use crate::clock::BootInstant;
use crate::objects::Local;
use crate::schema::Form;
use crate::store::scrub::GoOn;
use crate::store::{
    CommitError, Content, Entry, NewEntry, ReadError, StagedStream, Store, Stream, StreamError, StreamSpec, Usage,
};
use crate::vault::{Part, Suite};

/// Most objects that are swept in one commit.
pub const GROUP_OBJECTS: usize = 64;
/// Longest object that is swept together with others; a longer one is alone, and its body goes by in pieces.
const SMALL_OCTETS: u64 = 128 << 10;
/// Octets that are read and written at once of a longer one.
const PIECE_OCTETS: usize = 256 << 10;
/// Octets of a block of the store.
const BLOCK_OCTETS: u64 = 4096;
/// The part of the capacity that a sweep leaves free for clients and moves: one of so many.
const FREE_SHARE: u64 = 32;

/// What became of objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// They are what the plan asks for, as far as they can be: one that was in quarantine before stays there.
    pub rewritten: u64,
    /// A step failed: they are in quarantine, at the level that the plan asks for.
    pub quarantined: u64,
    /// They were written, moved or deleted meanwhile: what they are now is looked at again.
    pub changed: u64,
    /// There is no room for a second copy.
    pub full: u64,
    /// The copy cannot be read: it is repaired or deleted first.
    pub unreadable: u64,
    /// This server cannot run steps, or its disk or keys fail.
    pub failed: u64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Tally) {
        self.rewritten += other.rewritten;
        self.quarantined += other.quarantined;
        self.changed += other.changed;
        self.full += other.full;
        self.unreadable += other.unreadable;
        self.failed += other.failed;
    }

    /// Objects that still rest for want of room, of a good copy, or of what this server cannot do now.
    #[must_use]
    pub fn stuck(&self) -> u64 {
        self.full + self.unreadable + self.failed
    }
}

/// Why an object stays as it is.
enum Left {
    Full,
    Unreadable,
    Failed,
    Stopped,
}

/// What an object becomes, before its streams are on disk.
struct Draft {
    old: Arc<Entry>,
    level: Level,
    form: Form,
    /// Stepped or not, if they are taken whole.
    properties: Option<Bytes>,
    body: Option<Bytes>,
}

/// How many of these, from the first on, are swept together: small ones up to [`GROUP_OBJECTS`], or one that is not.
#[must_use]
pub fn group(resting: &[Arc<Entry>]) -> usize {
    let small = resting.iter().take(GROUP_OBJECTS);
    small
        .take_while(|entry| entry.plain_octets() <= SMALL_OCTETS)
        .count()
        .max(1)
        .min(resting.len())
}

/// Sweeps a [`group`]. `go_on` is asked after each piece, with the octets that were written; a commit is never waited for
/// while it is asked. Blocks.
///
/// # Errors
///
/// [`CommitError`]: the objects are as they were.
pub fn rewrite(
    local: &Arc<Local>,
    group: &[Arc<Entry>],
    now: BootInstant,
    mut go_on: impl FnMut(u64) -> GoOn,
) -> Result<(Tally, GoOn), CommitError> {
    let mut tally = Tally::default();
    let mut drafts = Vec::with_capacity(group.len());
    let mut more = GoOn::Yes;
    let small = group.iter().all(|entry| entry.plain_octets() <= SMALL_OCTETS);
    // Others that sweep, move or write share the room: it is looked at for all of the group.
    let mut room = room(&local.store().usage());
    for old in group {
        let drafted = take_room(&mut room, local, old).and_then(|()| draft(local, old, small));
        match drafted {
            Ok(draft) => drafts.push(draft),
            Err(left) => leave(&mut tally, &left),
        }
    }
    let mut swept = Vec::with_capacity(drafts.len());
    let mut octets = 0;
    let written = match small {
        true => write_small(local.store(), &drafts),
        false => (drafts.iter().map(|draft| write_large(local.store(), draft, &mut go_on))).collect(),
    };
    match written {
        Ok(written) => {
            for (draft, staged) in drafts.into_iter().zip(written) {
                octets += staged.iter().flatten().map(StagedStream::plain_octets).sum::<u64>();
                let quarantined = draft.form.quarantined.is_some() && draft.old.quarantined.is_none();
                swept.push((quarantined, (Arc::clone(&draft.old), entry(&draft, staged))));
            }
        }
        Err(left) => {
            drafts.iter().for_each(|_| leave(&mut tally, &left));
            if matches!(left, Left::Stopped) {
                more = GoOn::Stop;
            }
        }
    }
    let (quarantined, swept): (Vec<bool>, Vec<_>) = swept.into_iter().unzip();
    for (quarantined, replaced) in quarantined.into_iter().zip(local.replace_swept(swept, now)?) {
        match (replaced, quarantined) {
            (true, true) => tally.quarantined += 1,
            (true, false) => tally.rewritten += 1,
            (false, _) => tally.changed += 1,
        }
    }
    // Pieces of a large one were told one by one.
    if small && octets > 0 && go_on(octets) == GoOn::Stop {
        more = GoOn::Stop;
    }
    Ok((tally, more))
}

/// Octets that may be written before the part of the capacity is reached that stays free.
fn room(usage: &Usage) -> u64 {
    let bound = usage.capacity - usage.capacity / FREE_SHARE;
    bound.saturating_sub(usage.used + usage.reserved)
}

fn take_room(room: &mut u64, local: &Local, old: &Entry) -> Result<(), Left> {
    let suite = Suite::of_level(local.swept_level(old)).map_err(|_| Left::Failed)?;
    let streams = old.streams().map(|(_, stream)| {
        let sealed = suite.sealed_octets(suite.padded_octets(stream.plain_octets));
        sealed.next_multiple_of(BLOCK_OCTETS) + BLOCK_OCTETS
    });
    let needed: u64 = streams.sum();
    *room = room.checked_sub(needed).ok_or(Left::Full)?;
    Ok(())
}

fn leave(tally: &mut Tally, left: &Left) {
    match left {
        Left::Full => tally.full += 1,
        Left::Unreadable => tally.unreadable += 1,
        Left::Failed => tally.failed += 1,
        Left::Stopped => tally.changed += 1,
    }
}

/// Reads what is taken whole, and steps the properties.
fn draft(local: &Local, old: &Arc<Entry>, small: bool) -> Result<Draft, Left> {
    let read = |part| match old.stream(part) {
        Some(_) => local
            .store()
            .read_all(old, part)
            .map(Some)
            .map_err(|error| unread(old, &error)),
        None => Ok(None),
    };
    let steps = local.has_steps_to_go(old);
    let mut properties = match small || steps {
        true => read(Part::Properties)?,
        false => None,
    };
    let mut form = Form {
        schema: old.schema,
        quarantined: old.quarantined.clone(),
    };
    if let Some(octets) = properties.as_mut().filter(|_| steps) {
        (*octets, form) = local.stepper().arrive(&old.address, &old.kind, old.schema, octets);
        if form == Form::as_it_is(old.schema) {
            // Steps cannot be run on this server now.
            return Err(Left::Failed);
        }
    }
    let body = match small {
        true => read(Part::Body)?,
        false => None,
    };
    Ok(Draft {
        old: Arc::clone(old),
        level: local.swept_level(old),
        form,
        properties,
        body,
    })
}

impl Draft {
    /// Whether its streams are written anew. An object whose step failed and whose level is the plan's keeps them.
    fn writes(&self) -> bool {
        self.level != self.old.level || self.form.schema != self.old.schema
    }

    fn spec(&self, part: Part, octets: u64) -> StreamSpec {
        StreamSpec {
            address: self.old.address.clone(),
            part,
            level: self.level,
            octets_hint: Some(octets),
            reservation: None,
        }
    }
}

/// The streams of one object, as they were written anew: properties and body.
type Written = [Option<StagedStream>; 2];

/// Writes the streams of small objects, many in one system call, and reads them back.
fn write_small(store: &Store, drafts: &[Draft]) -> Result<Vec<Written>, Left> {
    let mut specs = Vec::with_capacity(2 * drafts.len());
    for draft in drafts.iter().filter(|draft| draft.writes()) {
        for (part, octets) in [(Part::Properties, &draft.properties), (Part::Body, &draft.body)] {
            specs.extend(
                octets
                    .iter()
                    .map(|octets| (draft.spec(part, octets.len() as u64), octets.clone())),
            );
        }
    }
    let staged = store.write_small(specs).map_err(|error| unwritten(&error))?;
    verify(store, &staged)?;
    let mut staged = staged.into_iter();
    let mut next = |octets: &Option<Bytes>| octets.as_ref().and_then(|_| staged.next());
    let written = drafts.iter().map(|draft| match draft.writes() {
        true => [next(&draft.properties), next(&draft.body)],
        false => [None, None],
    });
    Ok(written.collect())
}

/// Writes the streams of one object, piece by piece, and reads them back.
fn write_large(store: &Store, draft: &Draft, go_on: &mut impl FnMut(u64) -> GoOn) -> Result<Written, Left> {
    if !draft.writes() {
        return Ok([None, None]);
    }
    let mut written = [None, None];
    for (part, stream) in draft.old.streams() {
        let staged = match (part, &draft.properties) {
            (Part::Properties, Some(octets)) => {
                let spec = draft.spec(part, octets.len() as u64);
                let staged = store.write_small(vec![(spec, octets.clone())]);
                let staged = staged.map_err(|error| unwritten(&error))?.pop();
                if go_on(octets.len() as u64) == GoOn::Stop {
                    return Err(Left::Stopped);
                }
                staged.expect("one stream for each wish")
            }
            (Part::Properties | Part::Body, _) => copy(store, draft, part, stream, go_on)?,
        };
        written[usize::from(part == Part::Body)] = Some(staged);
    }
    let staged: Vec<StagedStream> = written.iter().flatten().cloned().collect();
    verify(store, &staged)?;
    Ok(written)
}

/// Writes one stream anew as it is.
fn copy(
    store: &Store,
    draft: &Draft,
    part: Part,
    stream: &Stream,
    go_on: &mut impl FnMut(u64) -> GoOn,
) -> Result<StagedStream, Left> {
    let old = &draft.old;
    let reader = store.reader(old, part).map_err(|error| unread(old, &error))?;
    let mut writer = (store.writer(draft.spec(part, stream.plain_octets))).map_err(|error| unwritten(&error))?;
    let mut offset = 0;
    while offset < stream.plain_octets {
        let piece = reader
            .read_at(offset, PIECE_OCTETS)
            .map_err(|error| unread(old, &error))?;
        writer.write(&piece).map_err(|error| unwritten(&error))?;
        offset += piece.len() as u64;
        if go_on(piece.len() as u64) == GoOn::Stop {
            return Err(Left::Stopped);
        }
    }
    let staged = writer.finish().map_err(|error| unwritten(&error))?;
    match staged.digest() == stream.digest {
        true => Ok(staged),
        // Every chunk has opened, and yet it is not what was written: the scrub says so too.
        false => Err(Left::Unreadable),
    }
}

fn verify(store: &Store, staged: &[StagedStream]) -> Result<(), Left> {
    store.verify(staged).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "what a sweep wrote does not read back"
        );
        Left::Failed
    })
}

/// The row that an object gets.
fn entry(draft: &Draft, [properties, body]: Written) -> NewEntry {
    let keep = draft.old.keep();
    // The version that was last written, while steps have brought the properties elsewhere.
    let written = keep.migrated_from.unwrap_or(draft.old.schema);
    NewEntry {
        level: draft.level,
        schema: draft.form.schema,
        properties: properties.map_or(keep.properties, Content::Staged),
        body: body.map_or(keep.body, Content::Staged),
        quarantined: draft.form.quarantined.clone(),
        migrated_from: (written != draft.form.schema).then_some(written),
        ..keep
    }
}

fn unread(old: &Entry, error: &ReadError) -> Left {
    tracing::warn!(object = %old.address, error = error as &dyn std::error::Error, "an object cannot be swept");
    match error {
        ReadError::Damaged { .. } | ReadError::SetAside { .. } => Left::Unreadable,
        ReadError::NoPart { .. } | ReadError::Io { .. } | ReadError::Vault(_) => Left::Failed,
    }
}

fn unwritten(error: &StreamError) -> Left {
    match error {
        StreamError::Full(_) => Left::Full,
        StreamError::Io(_) | StreamError::Vault(_) | StreamError::TooLong => {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "a swept object cannot be written"
            );
            Left::Failed
        }
    }
}
