//! One message becomes visible, and what it changed in transferred zones is written down.

use std::sync::Arc;

use hickory_proto::rr::{RData, RecordType};
use zones::Register;

use super::draft::Changes;
use super::entry::{Entry, RecordZone};
use super::index::Index;
use super::journal::{Journal, JournalBounds, Key, Place, Places, Step, Value};
use super::registers::TOGETHER;
use super::server::Server;
use super::table::KeyHash;
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
        let mut entries = entries.into_iter();
        loop {
            let some: Vec<(u64, Entry)> = entries.by_ref().take(TOGETHER).collect();
            if some.is_empty() {
                break;
            }
            let mut keys = self.keys_of(&some);
            for (seq, entry) in some {
                if let Entry::Server(server) = &entry {
                    found.cut |= self.place(server);
                }
                match entry {
                    Entry::Register(register) => {
                        let (key, hash) = keys.next().expect("each register has a key");
                        if self.journals().is_some() {
                            self.note_register(&register, &key, hash, &mut found);
                        }
                        self.registers.put_at(&register, &key, hash);
                    }
                    entry => {
                        if self.journals().is_some() {
                            self.note(&entry, &mut found);
                        }
                        self.apply(entry, seq);
                    }
                }
            }
        }
        for server in changes.soft {
            self.apply_soft(server);
        }
        if let Some(serials) = changes.serials {
            self.set_serials(serials);
        }
        self.glance().message_ends();
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

    /// Keys of registers among some entries, in their order, with their hashes; and goes near to where these are.
    fn keys_of(&self, entries: &[(u64, Entry)]) -> impl Iterator<Item = (String, KeyHash)> + use<> {
        let registers = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Register(register) => Some(self.registers.key_of(register)),
            Entry::Node(..) | Entry::Server(_) | Entry::Plan(_) | Entry::Serials(_) | Entry::Reconcile(_) => None,
        });
        let keys: Vec<String> = registers.collect();
        let hashes = self.registers.approach(keys.iter().map(String::as_str));
        keys.into_iter().zip(hashes)
    }

    /// Notes the old and new value of a register that is about to change.
    fn note_register(&self, register: &Register, key: &str, hash: KeyHash, found: &mut Found) {
        let row = self.registers.find_hashed(key, hash);
        let old = row.map(|id| Entry::Register(self.registers.register(id)).to_bytes().into());
        // A new one gets the next row.
        let row = row.unwrap_or_else(|| u32::try_from(self.registers.len()).expect("rows are numbered by u32"));
        let new = Entry::Register(register.clone()).to_bytes().into();
        found.names.push((Key::Row(row), old, Some(new)));
    }

    /// Notes the old and new value of what another entry changes, before it does.
    fn note(&self, entry: &Entry, found: &mut Found) {
        match entry {
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
            Entry::Register(_) | Entry::Server(_) | Entry::Plan(_) | Entry::Serials(_) | Entry::Reconcile(_) => {}
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
