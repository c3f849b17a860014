//! One message becomes visible, and what it changed in transferred zones is written down.

use std::sync::Arc;

use hickory_proto::rr::{RData, RecordType};

use super::draft::Changes;
use super::entry::{Entry, RecordZone};
use super::index::Index;
use super::journal::{Journal, JournalBounds, Key, Place, Places, Step, Value};
use super::key::key_of;
use super::server::Server;
use super::zone::{NameKey, Node};

/// What changed lately.
pub(crate) struct Journals {
    /// In `obj` and `tree`.
    pub(crate) names: Journal,
    /// In the operator's zone.
    pub(crate) apex: Journal,
}

impl Journals {
    pub(crate) fn new(bounds: JournalBounds) -> Journals {
        Journals {
            names: Journal::new(bounds),
            apex: Journal::new(bounds),
        }
    }
}

/// What a message changed so far.
#[derive(Default)]
struct Found {
    names: Vec<(Key, Value, Value)>,
    apex: Vec<(Key, Value, Value)>,
    cut: bool,
}

impl Index {
    /// Makes one message visible, with the serials that it raised.
    pub(crate) fn publish(&mut self, entries: Vec<(u64, Entry)>, changes: Changes) {
        let before = self.serials();
        let apex_before = self.apex_serial();
        let places_before = Arc::clone(self.places());
        let mut found = Found::default();
        for (seq, entry) in entries {
            if let Entry::Server(server) = &entry {
                found.cut |= self.place(server);
            }
            if self.journals().is_some() {
                self.note(&entry, &mut found);
            }
            self.apply(entry, seq);
        }
        for server in changes.soft {
            self.apply_soft(server);
        }
        if let Some(serials) = changes.serials {
            self.set_serials(serials);
        }
        let (after, apex_after) = (self.serials(), self.apex_serial());
        let places = Arc::clone(self.places());
        let Some(journals) = self.journals_mut() else { return };
        if after != before && (after.obj, after.tree) != (before.obj, before.tree) {
            let step = Step {
                before: [before.obj, before.tree],
                after: [after.obj, after.tree],
                places_before,
                places,
                cut: found.cut || changes.renumbered,
            };
            journals.names.append(step, found.names);
        }
        if apex_before != apex_after {
            let step = Step {
                before: [apex_before; 2],
                after: [apex_after; 2],
                places_before: Arc::default(),
                places: Arc::default(),
                cut: changes.renumbered,
            };
            journals.apex.append(step, found.apex);
        }
    }

    /// Notes the old and new value of what an entry changes, before it does.
    fn note(&self, entry: &Entry, found: &mut Found) {
        let new: Value = Some(entry.to_bytes().into());
        match entry {
            Entry::Register(register) => {
                let key = key_of(&self.domain, &register.address);
                let row = key.and_then(|key| self.registers.find(&key));
                let old = row.map(|id| Entry::Register(self.registers.register(id)).to_bytes().into());
                // A new one gets the next row.
                let row = row.unwrap_or_else(|| u32::try_from(self.registers.len()).expect("rows are numbered by u32"));
                found.names.push((Key::Row(row), old, new));
            }
            Entry::Node(zone, node) => {
                let value = |node: &Arc<Node>| -> Value {
                    let is_there = !node.sets.is_empty();
                    is_there.then(|| Entry::Node(*zone, Arc::clone(node)).to_bytes().into())
                };
                let old = self.records(*zone).node(&node.name).and_then(value);
                let new = value(node);
                if old == new {
                    return;
                }
                let change = (Key::Node(NameKey::new(&node.name)), old, new);
                match zone {
                    RecordZone::Apex => found.apex.push(change),
                    RecordZone::Tree => found.names.push(change),
                }
            }
            Entry::Server(_) | Entry::Plan(_) | Entry::Serials(_) | Entry::Reconcile(_) => {}
        }
    }

    /// Takes note of where a server is now. Whether that changes records of objects.
    fn place(&mut self, server: &Server) -> bool {
        let place = place_of(server);
        if self.places().get(&server.name) == place.as_ref() {
            return false;
        }
        let mut places = Places::clone(self.places());
        match place {
            Some(place) => places.insert(server.name.clone(), place),
            None => places.remove(&server.name),
        };
        self.set_places(Arc::new(places));
        self.registers.naming(&server.name) > 0
    }

    /// The serial of the operator's zone.
    pub(crate) fn apex_serial(&self) -> u32 {
        let node = self.apex.node(self.domain.apex());
        let set = node.and_then(|node| node.set(RecordType::SOA));
        match set.and_then(|set| set.records.first()) {
            Some(RData::SOA(soa)) => soa.serial,
            Some(_) | None => 0,
        }
    }
}

/// What transferred records say of a server.
pub(crate) fn place_of(server: &Server) -> Option<Place> {
    server.host.as_ref().map(|host| Place {
        port: host.https_port,
        addresses: host.addresses.clone(),
        capacity: host.has.capacity,
    })
}
