//! Ordinary records: the operator's own zone, and the delegations in `tree`.
//!
//! Names lie in an ordered map by their labels from the root on, so that what lies below a name is one range and a
//! name's closest encloser is a few look-ups (RFC 4034 section 6.1 calls this the canonical order).

use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_proto::rr::{Name, RData, RecordType};
use zones::name::label_count;

/// Labels from the root on, lower case, each ended by a zero octet; sorts as names do.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct NameKey(Vec<u8>);

impl NameKey {
    /// The key of a name.
    pub(crate) fn new(name: &Name) -> NameKey {
        let mut octets = Vec::with_capacity(name.len() + 1);
        for label in name.iter().rev() {
            for octet in label {
                match octet.to_ascii_lowercase() {
                    // A label may hold any octet: those that would be taken for its end are spelled with two.
                    low @ (0 | 1) => octets.extend([1, low + 1]),
                    octet => octets.push(octet),
                }
            }
            octets.push(0);
        }
        NameKey(octets)
    }

    pub(crate) fn is_below(&self, other: &NameKey) -> bool {
        self.0.len() > other.0.len() && self.0.starts_with(&other.0)
    }
}

/// The records of one name and type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RrSet {
    pub(crate) kind: RecordType,
    pub(crate) ttl: u32,
    pub(crate) records: Vec<RData>,
}

/// All records of one name; a name without records is no node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: Name,
    pub(crate) sets: Vec<RrSet>,
}

impl Node {
    /// A node without records.
    pub(crate) fn empty(name: &Name) -> Node {
        Node {
            name: name.to_lowercase(),
            sets: Vec::new(),
        }
    }

    /// The records of one type.
    pub(crate) fn set(&self, kind: RecordType) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.kind == kind)
    }

    /// The records of one type, to be changed.
    pub(crate) fn set_mut(&mut self, kind: RecordType) -> Option<&mut RrSet> {
        self.sets.iter_mut().find(|set| set.kind == kind)
    }
}

/// A node and where the log holds it.
#[derive(Clone, Debug)]
struct Kept {
    node: Arc<Node>,
    seq: u64,
}

/// The names of one zone that have records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    nodes: BTreeMap<NameKey, Kept>,
}

impl Records {
    /// The records of a name.
    pub(crate) fn node(&self, name: &Name) -> Option<&Arc<Node>> {
        self.nodes.get(&NameKey::new(name)).map(|kept| &kept.node)
    }

    /// Where the log holds a name's records.
    pub(crate) fn seq(&self, name: &Name) -> Option<u64> {
        self.nodes.get(&NameKey::new(name)).map(|kept| kept.seq)
    }

    /// Where the log holds all of it.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.nodes.values().map(|kept| kept.seq)
    }

    /// Whether a name below this one has records.
    pub(crate) fn any_below(&self, name: &Name) -> bool {
        let key = NameKey::new(name);
        let after = (std::ops::Bound::Excluded(&key), std::ops::Bound::Unbounded);
        self.nodes
            .range::<NameKey, _>(after)
            .next()
            .is_some_and(|(next, _)| next.is_below(&key))
    }

    /// The names below this one that have records.
    pub(crate) fn names_below(&self, name: &Name) -> impl Iterator<Item = &Name> {
        let key = NameKey::new(name);
        let after = (std::ops::Bound::Excluded(key.clone()), std::ops::Bound::Unbounded);
        let later = self.nodes.range::<NameKey, _>(after);
        later
            .take_while(move |(next, _)| next.is_below(&key))
            .map(|(_, kept)| &kept.node.name)
    }

    /// Replaces all records of a name; an empty node takes the name out.
    pub(crate) fn put(&mut self, node: Arc<Node>, seq: u64) {
        let key = NameKey::new(&node.name);
        if node.sets.is_empty() {
            self.nodes.remove(&key);
        } else {
            self.nodes.insert(key, Kept { node, seq });
        }
    }

    /// Every name with records, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values().map(|kept| &kept.node)
    }

    /// Names with records from a key on (it not included), or from the first, in order.
    pub(crate) fn after(&self, key: Option<&NameKey>) -> impl Iterator<Item = (&NameKey, &Arc<Node>)> {
        let from = key.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.nodes.range::<NameKey, _>((from, std::ops::Bound::Unbounded));
        range.map(|(key, kept)| (key, &kept.node))
    }

    /// How many names have records.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The highest name from `name` up to but without `apex` whose records have this type: the cut (NS) or rewriting
    /// (DNAME) that hides what lies below.
    pub(crate) fn highest_above(&self, apex: &Name, name: &Name, kind: RecordType) -> Option<&Arc<Node>> {
        let (low, high) = (label_count(apex) + 1, label_count(name));
        (low..=high)
            .filter_map(|labels| self.node(&name.trim_to(labels)))
            .find(|node| node.set(kind).is_some())
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn node(text: &str) -> Arc<Node> {
        let set = RrSet {
            kind: RecordType::A,
            ttl: 5,
            records: vec![RData::A(A::new(192, 0, 2, 1))],
        };
        Arc::new(Node {
            name: name(text),
            sets: vec![set],
        })
    }

    #[test]
    fn empty_non_terminal_is_seen_and_a_like_spelled_sibling_is_not() {
        let mut records = Records::default();
        records.put(node("a.b.example."), 0);
        records.put(node("bb.example."), 1);
        assert!(records.any_below(&name("B.example.")));
        assert!(!records.any_below(&name("bb.example.")));
        assert!(!records.any_below(&name("a.b.example.")));
        assert!(records.node(&name("A.b.EXAMPLE.")).is_some());
        records.put(Arc::new(Node::empty(&name("a.b.example."))), 2);
        assert!(!records.any_below(&name("b.example.")));
        assert_eq!(records.len(), 1);
    }

    #[test]
    fn labels_with_any_octet_keep_the_order_of_names() {
        let zero = Name::from_labels([&b"a\x00b"[..], b"example"]).unwrap();
        let plain = Name::from_labels([&b"b"[..], b"a", b"example"]).unwrap();
        assert_ne!(NameKey::new(&zero), NameKey::new(&plain));
        assert!(!NameKey::new(&zero).is_below(&NameKey::new(&name("a.example."))));
    }
}
