//! Addresses as DNS names, and the zones of a pool.
//!
//! The mapping is reversible up to case: DNS compares names without case (RFC 4343), so a name gives back the folded
//! address. The register keeps the spelling.
//!
//! Specifications: RFC 1035 section 2.3.4 (63 octets a label, 255 a name), RFC 4343 (case), RFC 4648 section 7
//! (base32hex), PROTOCOL.md section 2.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use hickory_proto::rr::Name;

use crate::address::{Address, AddressError};

/// What a label that carries a piece of an encoded part begins with.
const ENCODED_PREFIX: &str = "xh--";
/// Characters of base32hex one label carries behind the prefix and two digits (RFC 1035: 63 octets a label).
const PIECE_CHARACTERS: usize = 57;
/// Longest label (RFC 1035 section 2.3.4).
const LABEL_OCTETS_MAX: usize = 63;
/// Longest name in wire form (RFC 1035 section 2.3.4).
pub(crate) const NAME_OCTETS_MAX: usize = 255;

/// The pool's domain, such as `hypernet.internal.`, and the zones below it.
///
/// | zone            | holds                             |
/// |-----------------|-----------------------------------|
/// | `obj.<domain>`  | objects, address as written       |
/// | `tree.<domain>` | objects, parts reversed           |
/// | `pool.<domain>` | servers                           |
/// | `<domain>`      | the operator's own records        |
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Domain {
    apex: Name,
    obj: Name,
    tree: Name,
    pool: Name,
}

/// Which of the pool's zones a name lies in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Zone {
    /// `obj.<domain>`
    Obj,
    /// `tree.<domain>`
    Tree,
    /// `pool.<domain>`
    Pool,
    /// `<domain>` itself, the operator's own
    Apex,
}

/// Why a name or an address does not fit the pool's zones.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is no domain name.
    #[error("{text:?} is not a domain name: use letters, digits and '-' joined by dots, such as hypernet.internal")]
    Domain {
        /// What was given.
        text: String,
    },
    /// The address would need a name of more than 255 octets.
    #[error("address {address} needs a DNS name of {octets} octets: at most {NAME_OCTETS_MAX} are allowed")]
    NameTooLong {
        /// The address.
        address: Address,
        /// Octets that its longest name would have.
        octets: usize,
    },
    /// The bare name of the address lies at or below the pool's own domain.
    #[error("address {address} has a bare name inside the served zone {domain}: choose another address")]
    InsideZone {
        /// The address.
        address: Address,
        /// The pool's domain.
        domain: String,
    },
    /// The labels are the name of no address.
    #[error("name {name} is no address: {reason}")]
    NotAnAddress {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The labels spell a text that is not an address.
    #[error("name {name} is no address")]
    Grammar {
        /// The name.
        name: String,
        /// Where the grammar breaks.
        source: AddressError,
    },
}

impl Domain {
    /// The name itself, the apex of the operator's own zone.
    #[must_use]
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// The apex of one zone.
    #[must_use]
    pub fn zone(&self, zone: Zone) -> &Name {
        match zone {
            Zone::Obj => &self.obj,
            Zone::Tree => &self.tree,
            Zone::Pool => &self.pool,
            Zone::Apex => &self.apex,
        }
    }

    /// Which zone a name lies in, the most specific first; `None` outside the domain.
    #[must_use]
    pub fn zone_of(&self, name: &Name) -> Option<Zone> {
        [Zone::Obj, Zone::Tree, Zone::Pool, Zone::Apex]
            .into_iter()
            .find(|zone| self.zone(*zone).zone_of(name))
    }

    /// `<label>.pool.<domain>`, such as `s2.pool.hypernet.internal.`.
    ///
    /// # Panics
    ///
    /// If `label` is no legal label: it is a [`crate::ServerName`] or a constant of ours.
    #[must_use]
    pub fn in_pool(&self, label: &str) -> Name {
        // As octets: text would pass through IDNA, which refuses names such as `xn--a` that DNS takes.
        self.pool
            .prepend_label(label.as_bytes())
            .expect("server names and our own labels are legal and short")
    }

    /// The name of an object in `obj`: its parts as written.
    ///
    /// # Errors
    ///
    /// As [`Domain::check`].
    pub fn obj_name(&self, address: &Address) -> Result<Name, NameError> {
        self.check(address)?;
        Ok(join(labels(address), &self.obj))
    }

    /// The name of an object in `tree`: its labels reversed.
    ///
    /// # Errors
    ///
    /// As [`Domain::check`].
    pub fn tree_name(&self, address: &Address) -> Result<Name, NameError> {
        self.check(address)?;
        let mut reversed = labels(address);
        reversed.reverse();
        Ok(join(reversed, &self.tree))
    }

    /// The bare name of an object: its labels right below the root.
    ///
    /// # Errors
    ///
    /// As [`Domain::check`].
    pub fn bare_name(&self, address: &Address) -> Result<Name, NameError> {
        self.check(address)?;
        Ok(join(labels(address), &Name::root()))
    }

    /// Whether an address can be registered in this pool.
    ///
    /// # Errors
    ///
    /// [`NameError::NameTooLong`] where a name of it would pass 255 octets, [`NameError::InsideZone`] where its bare
    /// name lies at or below the pool's domain.
    pub fn check(&self, address: &Address) -> Result<(), NameError> {
        self.check_labels(address, &wire_labels(address))
    }

    /// Checks an address whose labels these are, as [`wire_labels`] writes them.
    pub(crate) fn check_labels(&self, address: &Address, labels: &[u8]) -> Result<(), NameError> {
        // hickory counts a length octet for each label, and none for the root.
        let octets = labels.len() + self.tree.len().max(self.obj.len()) + 1;
        if octets > NAME_OCTETS_MAX {
            return Err(NameError::NameTooLong {
                address: address.clone(),
                octets,
            });
        }
        if self.is_in_apex(labels) {
            return Err(NameError::InsideZone {
                address: address.clone(),
                domain: self.to_string(),
            });
        }
        Ok(())
    }

    /// Whether a name of such labels lies at or below the pool's domain.
    fn is_in_apex(&self, mut labels: &[u8]) -> bool {
        while let Some((length, after)) = labels.split_first() {
            let mut own = labels;
            let is_apex = self.apex.iter().all(|label| {
                let found = own
                    .split_first()
                    .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
                let Some((found, rest)) = found else { return false };
                own = rest;
                found == label
            });
            if is_apex && own.is_empty() {
                return true;
            }
            labels = after.get(usize::from(*length)..).unwrap_or_default();
        }
        false
    }

    /// The folded address of a name in `obj`, `tree`, or of a bare name.
    ///
    /// `Ok(None)` for the apex of `obj` or `tree`, for the root, and for every name in another zone of the domain.
    ///
    /// # Errors
    ///
    /// [`NameError::NotAnAddress`] or [`NameError::Grammar`] where the labels belong to no address.
    pub fn address_of(&self, name: &Name) -> Result<Option<Address>, NameError> {
        let zone = self.zone_of(name);
        let below = match zone {
            Some(Zone::Obj | Zone::Tree) => label_count(name) - label_count(&self.obj),
            Some(Zone::Pool | Zone::Apex) => return Ok(None),
            None => label_count(name),
        };
        let mut own = Vec::with_capacity(below);
        for label in name.iter().take(below) {
            match std::str::from_utf8(label) {
                Ok(text) => own.push(text.to_ascii_lowercase()),
                Err(_) => return Err(not_an_address(name, "a label is not ASCII text")),
            }
        }
        if own.is_empty() {
            return Ok(None);
        }
        if zone == Some(Zone::Tree) {
            own.reverse();
        }
        let parts = parts(&own).map_err(|reason| not_an_address(name, reason))?;
        Address::from_parts(parts.iter().map(String::as_str))
            .map(Some)
            .map_err(|source| NameError::Grammar {
                name: name.to_string(),
                source,
            })
    }
}

/// A name in wire form, uncompressed and in lower case: its canonical form (RFC 4034 section 6.2).
#[must_use]
pub fn canonical(name: &Name) -> Vec<u8> {
    let mut octets = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        octets.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        octets.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    octets.push(0);
    octets
}

impl FromStr for Domain {
    type Err = NameError;

    /// Reads a domain such as `hypernet.internal`, with or without the final dot.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NameError::Domain { text: text.to_owned() };
        let legal = |label: &[u8]| {
            label
                .iter()
                .all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
                && !label.starts_with(b"-")
                && !label.ends_with(b"-")
        };
        let mut apex = Name::from_ascii(text).map_err(|_| bad())?.to_lowercase();
        apex.set_fqdn(true);
        // 64 octets leave an address room for 180 and more.
        if apex.is_root() || apex.len() > 64 || !apex.iter().all(legal) {
            return Err(bad());
        }
        let below = |label: &str| apex.prepend_label(label).map_err(|_| bad());
        Ok(Domain {
            obj: below("obj")?,
            tree: below("tree")?,
            pool: below("pool")?,
            apex,
        })
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.apex.fmt(f)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.apex.fmt(f)
    }
}

/// How many labels a name has, the root not counted. (hickory's `num_labels` leaves a leading `*` out, as signatures
/// want it.)
#[must_use]
pub fn label_count(name: &Name) -> usize {
    name.iter().count()
}

/// The labels of an address in written order, each behind the octet of its length; lower case.
pub(crate) fn wire_labels(address: &Address) -> Vec<u8> {
    let mut wire = Vec::with_capacity(address.as_str().len() + 1);
    let is_label = |part: &str| part.len() <= LABEL_OCTETS_MAX && !begins_encoded(part);
    let mut push = |label: &[u8]| {
        wire.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        wire.extend(label.iter().map(u8::to_ascii_lowercase));
    };
    if address.parts().all(is_label) {
        address.parts().for_each(|part| push(part.as_bytes()));
    } else {
        labels(address).iter().for_each(|label| push(label.as_bytes()));
    }
    wire
}

/// Whether a part begins as the labels do that stand for parts which are no labels.
fn begins_encoded(part: &str) -> bool {
    let start = part.as_bytes().get(..ENCODED_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(ENCODED_PREFIX.as_bytes()))
}

/// The labels of an address in written order.
fn labels(address: &Address) -> Vec<String> {
    let mut labels = Vec::with_capacity(address.depth());
    for part in address.parts() {
        let part = part.to_ascii_lowercase();
        if part.len() <= LABEL_OCTETS_MAX && !part.starts_with(ENCODED_PREFIX) {
            labels.push(part);
            continue;
        }
        let encoded = base32hex().encode(part.as_bytes());
        let last = (encoded.len() - 1) / PIECE_CHARACTERS;
        for index in 0..=last {
            let end = encoded.len().min((index + 1) * PIECE_CHARACTERS);
            labels.push(format!(
                "{ENCODED_PREFIX}{index}{last}{}",
                &encoded[index * PIECE_CHARACTERS..end]
            ));
        }
    }
    labels
}

/// The parts that lower-case labels in written order spell: the inverse of [`labels`].
fn parts(labels: &[String]) -> Result<Vec<String>, &'static str> {
    let mut parts = Vec::with_capacity(labels.len());
    let mut rest = labels.iter();
    while let Some(label) = rest.next() {
        let Some(first) = label.strip_prefix(ENCODED_PREFIX) else {
            if label.contains('.') {
                return Err("a label holds a dot");
            }
            parts.push(label.clone());
            continue;
        };
        let (mut encoded, last) = match piece(first) {
            Some((0, last, piece)) => (piece.to_owned(), last),
            Some(_) | None => return Err("an encoded part does not begin with its piece 0"),
        };
        for index in 1..=last {
            let next = rest
                .next()
                .and_then(|label| label.strip_prefix(ENCODED_PREFIX))
                .and_then(piece);
            match next {
                Some((found, of, piece)) if found == index && of == last => encoded.push_str(piece),
                Some(_) | None => return Err("an encoded part lacks a piece or has them out of order"),
            }
        }
        let octets = base32hex()
            .decode(encoded.as_bytes())
            .map_err(|_| "an encoded part is not base32hex")?;
        let part = String::from_utf8(octets).map_err(|_| "an encoded part is not ASCII text")?;
        // Only the one spelling that `labels` gives counts, or two names would mean one address.
        match part.parse::<Address>() {
            Ok(address) if address.depth() == 1 && self_spelled(&address, &encoded, last) => parts.push(part),
            Ok(_) | Err(_) => return Err("an encoded part is not spelled the one way it is made"),
        }
    }
    Ok(parts)
}

/// Whether a decoded part is encoded again into just these pieces.
fn self_spelled(part: &Address, encoded: &str, last: usize) -> bool {
    let again = labels(part);
    again.len() == last + 1
        && again
            .iter()
            .map(|label| label.strip_prefix(ENCODED_PREFIX).and_then(piece))
            .try_fold(0, |at, piece| {
                let (_, _, piece) = piece?;
                encoded[at..].starts_with(piece).then_some(at + piece.len())
            })
            == Some(encoded.len())
}

/// Index, last index and characters of one label behind `xh--`.
fn piece(text: &str) -> Option<(usize, usize, &str)> {
    let digit = |at: usize| {
        text.as_bytes()
            .get(at)
            .filter(|octet| octet.is_ascii_digit())
            .map(|octet| octet - b'0')
    };
    let (index, last) = (digit(0)?, digit(1)?);
    Some((usize::from(index), usize::from(last), text.get(2..)?))
}

/// Base32hex in lower case without padding (RFC 4648 section 7). Made once: making it costs more than using it.
fn base32hex() -> &'static Encoding {
    static BASE32HEX: LazyLock<Encoding> = LazyLock::new(|| {
        let mut specification = Specification::new();
        specification.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
        specification
            .encoding()
            .expect("the alphabet is that of RFC 4648 section 7")
    });
    &BASE32HEX
}

fn join(labels: Vec<String>, zone: &Name) -> Name {
    let own = Name::from_labels(labels.iter().map(String::as_bytes)).expect("labels were made legal and checked");
    let mut name = own.append_name(zone).expect("length was checked");
    name.set_fqdn(true);
    name
}

fn not_an_address(name: &Name, reason: &'static str) -> NameError {
    NameError::NotAnAddress {
        name: name.to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        "hypernet.internal".parse().unwrap()
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn object_has_the_names_of_the_design() {
        let address = address("3.1.2.1.023");
        let domain = domain();
        assert_eq!(
            domain.obj_name(&address).unwrap().to_string(),
            "3.1.2.1.023.obj.hypernet.internal."
        );
        assert_eq!(
            domain.tree_name(&address).unwrap().to_string(),
            "023.1.2.1.3.tree.hypernet.internal."
        );
        assert_eq!(domain.bare_name(&address).unwrap().to_string(), "3.1.2.1.023.");
    }

    #[test]
    fn every_name_gives_back_the_folded_address() {
        let domain = domain();
        for text in [
            "1",
            "1.A-b_c",
            &format!("9.{}.x", "Long-".repeat(20)),
            "1.xh--00.2",
            "a.b.c.d",
        ] {
            let address = address(text);
            for name in [
                domain.obj_name(&address),
                domain.tree_name(&address),
                domain.bare_name(&address),
            ] {
                assert_eq!(domain.address_of(&name.unwrap()).unwrap(), Some(address.folded()));
            }
        }
    }

    #[test]
    fn server_named_like_broken_punycode_has_a_name() {
        let name = domain().in_pool("xn--a");
        assert_eq!(name.to_ascii(), "xn--a.pool.hypernet.internal.");
    }

    #[test]
    fn encoded_part_with_a_second_spelling_is_no_address() {
        let domain = domain();
        // "abc" needs no encoding, so no name may encode it.
        let name: Name = "xh--00c5h66.obj.hypernet.internal.".parse().unwrap();
        assert!(matches!(domain.address_of(&name), Err(NameError::NotAnAddress { .. })));
        let name: Name = "xh--11c5h66.obj.hypernet.internal.".parse().unwrap();
        assert!(matches!(domain.address_of(&name), Err(NameError::NotAnAddress { .. })));
    }

    #[test]
    fn address_at_or_below_the_domain_is_refused() {
        let refused = domain().check(&address("x.Hypernet.internal"));
        assert!(matches!(refused, Err(NameError::InsideZone { .. })));
        assert!(domain().check(&address("hypernet.internal.x")).is_ok());
    }

    #[test]
    fn address_whose_name_passes_255_octets_is_refused() {
        let long = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join(".");
        assert!(matches!(
            domain().check(&address(&long)),
            Err(NameError::NameTooLong { .. })
        ));
        // To the octet: the longest name there can be, and one more.
        let domain = domain();
        let room = 255 - (domain.zone(Zone::Tree).len() + 1);
        for octets in [room - 1, room, room + 1] {
            // Three parts of 60 octets, the fourth takes what is left; a length octet each.
            let three = ["a".repeat(60), "b".repeat(60), "c".repeat(60)].join(".");
            let address = address(&format!("{three}.{}", "d".repeat(octets - 3 * 61 - 1)));
            let names = [
                domain.obj_name(&address),
                domain.tree_name(&address),
                domain.bare_name(&address),
            ];
            assert_eq!(domain.check(&address).is_ok(), octets <= room, "{octets}");
            assert!(names.iter().all(|name| name.is_ok() == (octets <= room)));
        }
    }

    #[test]
    fn asterisk_is_a_label_like_others_and_in_no_address() {
        let domain = domain();
        for text in ["*.obj.hypernet.internal.", "*.1.tree.hypernet.internal.", "*.", "*.1."] {
            let name: Name = text.parse().unwrap();
            assert!(domain.address_of(&name).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_other_zones_are_no_object_names() {
        let name = domain().in_pool("s2");
        assert_eq!(domain().zone_of(&name), Some(Zone::Pool));
        assert_eq!(domain().address_of(&name).unwrap(), None);
    }
}
