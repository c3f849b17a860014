//! Object addresses: their grammar, order and parts.
//!
//! An address is permanent and says nothing about where the object is. How it is spelled as a DNS name is in
//! [`crate::name`]; this module knows nothing of zones, sockets or storage.
//!
//! Specification: DESIGN.md section 4, PROTOCOL.md section 1.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest part of an address, in octets.
pub const PART_OCTETS_MAX: usize = 128;

/// Longest text of an address, in octets: `address=` and the text must fit one DNS character-string of 255 octets.
pub const ADDRESS_OCTETS_MAX: usize = 247;

/// Permanent address of one object: one or more parts, most general first.
///
/// Equality is exact (`001` is not `1`, `A` is not `a`). Order is by parts, so a parent comes right before its
/// descendants.
///
/// # Examples
///
/// ```
/// use zones::Address;
///
/// let address: Address = "3.1.2.1.023".parse()?;
/// assert_eq!(address.parts().collect::<Vec<_>>(), ["3", "1", "2", "1", "023"]);
/// # Ok::<(), zones::AddressError>(())
/// ```
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Address {
    /// The text form, already checked. Shared: every part of a request and of a move has the address in hand.
    text: Arc<str>,
}

/// Why a text is not an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// A leading, trailing or double dot, or nothing at all.
    #[error("address has an empty part at octet {octet}: write parts joined by single dots, such as 3.1.2")]
    EmptyPart {
        /// Where the empty part begins, counted from 0.
        octet: usize,
    },
    /// An octet outside `[0-9A-Za-z_-]`.
    #[error("address has {found:?} at octet {octet}: parts hold digits, letters, '_' and '-' only")]
    Symbol {
        /// The character that was found.
        found: char,
        /// Where, counted from 0.
        octet: usize,
    },
    /// A part over 128 octets.
    #[error("address has a part of {octets} octets: at most {PART_OCTETS_MAX} are allowed")]
    PartTooLong {
        /// Length of that part.
        octets: usize,
    },
    /// A text over 247 octets.
    #[error("address has {octets} octets: at most {ADDRESS_OCTETS_MAX} are allowed")]
    TooLong {
        /// Length of the text.
        octets: usize,
    },
}

impl Address {
    /// The text form, as it was spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parts, most general first. There is always at least one.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.text.split('.')
    }

    /// Number of parts, 1 or more.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.parts().count()
    }

    /// The address one part shorter, or `None` for an address of one part.
    #[must_use]
    pub fn parent(&self) -> Option<Address> {
        self.text
            .rsplit_once('.')
            .map(|(parent, _)| Address { text: parent.into() })
    }

    /// Whether `self` is `other` or an ancestor of it: `1.1` covers `1.1` and `1.1.5`, never `1.10`.
    #[must_use]
    pub fn covers(&self, other: &Address) -> bool {
        match other.text.strip_prefix(&*self.text) {
            Some(rest) => rest.is_empty() || rest.starts_with('.'),
            None => false,
        }
    }

    /// The address in lower case. Two addresses with equal folded forms share their DNS names (RFC 4343), so at most
    /// one of them can be registered.
    #[must_use]
    pub fn folded(&self) -> Address {
        if !self.text.bytes().any(|octet| octet.is_ascii_uppercase()) {
            return self.clone();
        }
        Address {
            text: self.text.to_ascii_lowercase().into(),
        }
    }

    /// Joins parts that were checked one by one.
    pub(crate) fn from_parts<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Self, AddressError> {
        parts.collect::<Vec<_>>().join(".").parse()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`AddressError::EmptyPart`] for a leading, trailing or double dot, [`AddressError::Symbol`] at the first octet
    /// outside the alphabet, [`AddressError::PartTooLong`] past 128 octets, [`AddressError::TooLong`] past 247.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut part_octets = 0;
        for (octet, found) in text.char_indices() {
            match found {
                '.' if part_octets == 0 => return Err(AddressError::EmptyPart { octet }),
                '.' => part_octets = 0,
                '0'..='9' | 'A'..='Z' | 'a'..='z' | '_' | '-' => part_octets += 1,
                _ => return Err(AddressError::Symbol { found, octet }),
            }
        }
        if part_octets == 0 {
            return Err(AddressError::EmptyPart { octet: text.len() });
        }
        if let Some(part) = text.split('.').find(|part| part.len() > PART_OCTETS_MAX) {
            return Err(AddressError::PartTooLong { octets: part.len() });
        }
        if text.len() > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong { octets: text.len() });
        }
        Ok(Address { text: text.into() })
    }
}

impl Ord for Address {
    /// By parts. Octet by octet that is the order of the texts in which a dot comes before everything else: a part that
    /// ends is less than one that goes on.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let rank = |octet: u8| if octet == b'.' { 0 } else { octet };
        let (ours, theirs) = (self.text.as_bytes(), other.text.as_bytes());
        match ours.iter().zip(theirs).find(|(our, their)| our != their) {
            Some((our, their)) => rank(*our).cmp(&rank(*their)),
            None => ours.len().cmp(&theirs.len()),
        }
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn leading_zeros_and_case_count() {
        assert_ne!(address("1.001"), address("1.1"));
        assert_ne!(address("1.A"), address("1.a"));
        assert_eq!(address("1.A").folded(), address("1.a"));
    }

    #[test]
    fn parent_sorts_right_before_its_descendants() {
        let mut sorted = ["1.10", "1.1.5", "1.1-a", "1.1", "1", "1.1.5.0", "1.1.10"].map(address);
        sorted.sort();
        assert_eq!(
            sorted.map(|a| a.to_string()),
            ["1", "1.1", "1.1.10", "1.1.5", "1.1.5.0", "1.1-a", "1.10"]
        );
    }

    #[test]
    fn ancestor_covers_by_parts_and_never_by_text() {
        assert!(address("1.1").covers(&address("1.1.5")));
        assert!(address("1.1").covers(&address("1.1")));
        assert!(!address("1.1").covers(&address("1.10")));
        assert!(!address("1.1.5").covers(&address("1.1")));
    }

    #[test]
    fn text_outside_the_grammar_is_refused_with_its_place() {
        assert_eq!("".parse::<Address>(), Err(AddressError::EmptyPart { octet: 0 }));
        assert_eq!("1.".parse::<Address>(), Err(AddressError::EmptyPart { octet: 2 }));
        assert_eq!("1..2".parse::<Address>(), Err(AddressError::EmptyPart { octet: 2 }));
        assert_eq!(
            "1.ä".parse::<Address>(),
            Err(AddressError::Symbol { found: 'ä', octet: 2 })
        );
        assert_eq!(
            "1@v2".parse::<Address>(),
            Err(AddressError::Symbol { found: '@', octet: 1 })
        );
        assert_eq!(
            "a".repeat(129).parse::<Address>(),
            Err(AddressError::PartTooLong { octets: 129 })
        );
        assert!("a".repeat(128).parse::<Address>().is_ok());
    }
}
