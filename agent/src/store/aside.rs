//! Streams that are set aside: they did not read back as they were written, so they are neither served nor moved.
//!
//! A mark belongs to a stream's places, which the stream keeps while it lives: whatever renumbers the entry keeps the mark, and a
//! content that takes the stream's place is free of it. (Its id is no key: rows that somebody forged may share one.) A mark ends with its stream: when the object is written anew, deleted or
//! repaired. A later pass of the scrub that reads the stream well ends it too.
//!
//! For a repairer (another holder's copy, once there are several): [`Damage`] names the object, revision, part, length and digest
//! that the content must have. A commit that replaces the entry by one with a stream of that content ends the mark by itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Stream};
use super::space::Extents;
use crate::vault::Part;

/// One damaged stream of an object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Damage {
    /// The object.
    pub address: String,
    /// Number of its entry when it was found.
    pub seq: u64,
    /// Revision of the object.
    pub revision: u64,
    /// Which part.
    pub part: String,
    /// The stream's random name, in hexadecimal.
    pub stream: String,
    /// Octets of its plaintext, as the index says.
    pub octets: u64,
    /// Digest of its plaintext as the index says, in hexadecimal: what a good copy has.
    pub digest: String,
    /// What is wrong, for people.
    pub what: String,
}

impl Damage {
    pub(super) fn of(entry: &Entry, part: Part, stream: &Stream, what: String) -> Damage {
        Damage {
            address: entry.address.to_string(),
            seq: entry.seq,
            revision: entry.revision,
            part: part.to_string(),
            stream: stream.id.to_string(),
            octets: stream.plain_octets,
            digest: data_encoding::HEXLOWER.encode(&stream.digest.0),
            what,
        }
    }
}

/// The marks. There are at most as many as streams in the index.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// By the address in memory of their places, which is used for nothing else while the mark is there.
    marks: Mutex<HashMap<usize, Mark>>,
}

fn key(places: &Arc<Extents>) -> usize {
    Arc::as_ptr(places).addr()
}

#[derive(Debug)]
struct Mark {
    damage: Damage,
    /// Gone when no entry and no reader has the stream any more.
    places: Weak<Extents>,
}

impl Mark {
    fn stands(&self) -> bool {
        self.places.strong_count() > 0
    }
}

impl Aside {
    /// Sets a stream aside; says whether it was not yet.
    pub(super) fn set(&self, places: &Arc<Extents>, damage: Damage) -> bool {
        let key = key(places);
        let places = Arc::downgrade(places);
        self.marks.lock().insert(key, Mark { damage, places }).is_none()
    }

    /// Takes a mark away; says whether there was one.
    pub(super) fn clear(&self, places: &Arc<Extents>) -> bool {
        self.marks.lock().remove(&key(places)).is_some()
    }

    /// What is wrong with an entry, if one of its streams is set aside.
    pub(super) fn of(&self, entry: &Entry) -> Option<Damage> {
        let marks = self.marks.lock();
        if marks.is_empty() {
            return None;
        }
        (entry.streams()).find_map(|(_, stream)| marks.get(&key(&stream.extents)).map(|mark| mark.damage.clone()))
    }

    /// Every stream that is set aside, by address.
    pub(super) fn all(&self) -> Vec<Damage> {
        let mut marks = self.marks.lock();
        marks.retain(|_, mark| mark.stands());
        let mut all: Vec<_> = marks.values().map(|mark| mark.damage.clone()).collect();
        all.sort_by(|one, other| (&one.address, one.seq, &one.part).cmp(&(&other.address, other.seq, &other.part)));
        all
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        let mut marks = self.marks.lock();
        marks.retain(|_, mark| mark.stands());
        marks.len() as u64
    }
}
