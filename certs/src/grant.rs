//! What an application may do: grants on address prefixes.
//!
//! Default deny. For one verb, the most specific prefix that has a grant of that verb, or a `none`, decides; at the same
//! prefix a verb beats `none`. So `read:*` with `none:3.1.5` shows everything but `3.1.5` and what lies below it, and
//! `write:3.1 none:3.1.5 read:3.1.5` makes `3.1.5` read-only. `write` does not include `read`.

use std::fmt;
use std::str::FromStr;

use zones::{Address, AddressError};

/// Most grants one client may carry: they all lie in its certificate.
pub const GRANTS_MAX: usize = 64;

/// What is done to an object.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// Look up, read, list.
    Read,
    /// Create, change, delete.
    Write,
}

/// The addresses a grant speaks of.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Prefix {
    /// Every address, `*`.
    Everything,
    /// This address and all below it.
    Under(Address),
}

/// One grant, in text `read:3.1`, `write:*` or `none:3.1.5`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Grant {
    /// The verb that is given, or `None` to take every verb away below the prefix.
    pub verb: Option<Verb>,
    /// Where.
    pub prefix: Prefix,
}

/// All grants of one client, at most [`GRANTS_MAX`], each once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grants {
    list: Vec<Grant>,
}

/// Why a text is no grant, or grants are no list.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// No colon, or another verb.
    #[error("grant {text:?}: write VERB:PREFIX with the verb read, write or none, such as read:3.1 or write:*")]
    Form {
        /// What was given.
        text: String,
    },
    /// What follows the colon is neither an address nor `*`.
    #[error("grant {text:?} names no address prefix")]
    Prefix {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// More grants than a certificate should carry.
    #[error("{count} grants: at most {GRANTS_MAX} are allowed, use shorter prefixes")]
    TooMany {
        /// How many were given.
        count: usize,
    },
}

impl Prefix {
    /// Whether the prefix covers an address.
    #[must_use]
    pub fn covers(&self, address: &Address) -> bool {
        match self {
            Prefix::Everything => true,
            Prefix::Under(prefix) => prefix.covers(address),
        }
    }

    /// How specific the prefix is: its number of parts, 0 for everything.
    fn depth(&self) -> usize {
        match self {
            Prefix::Everything => 0,
            Prefix::Under(prefix) => prefix.depth(),
        }
    }
}

impl Grants {
    /// Sorts the grants and drops those given twice.
    ///
    /// # Errors
    ///
    /// [`GrantError::TooMany`] past [`GRANTS_MAX`].
    pub fn new(list: impl IntoIterator<Item = Grant>) -> Result<Grants, GrantError> {
        let mut list: Vec<Grant> = list.into_iter().collect();
        list.sort();
        list.dedup();
        if list.len() > GRANTS_MAX {
            return Err(GrantError::TooMany { count: list.len() });
        }
        Ok(Grants { list })
    }

    /// The grants, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Grant> {
        self.list.iter()
    }

    /// Whether there is no grant at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the client may do `verb` to the object with this address, as its register spells it.
    #[must_use]
    pub fn allows(&self, verb: Verb, address: &Address) -> bool {
        self.list
            .iter()
            .filter(|grant| grant.verb.is_none_or(|given| given == verb) && grant.prefix.covers(address))
            // At one depth only one prefix covers the address; there a verb beats `none`.
            .max_by_key(|grant| (grant.prefix.depth(), grant.verb.is_some()))
            .is_some_and(|grant| grant.verb.is_some())
    }
}

impl FromStr for Verb {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "read" => Ok(Verb::Read),
            "write" => Ok(Verb::Write),
            _ => Err(GrantError::Form { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verb::Read => "read",
            Verb::Write => "write",
        })
    }
}

impl FromStr for Prefix {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "*" => Ok(Prefix::Everything),
            _ => text.parse().map(Prefix::Under),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::Everything => f.pad("*"),
            Prefix::Under(address) => f.pad(address.as_str()),
        }
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    /// Reads `VERB:PREFIX`.
    ///
    /// # Errors
    ///
    /// [`GrantError::Form`] without a colon or with another verb, [`GrantError::Prefix`] for what is no address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || GrantError::Form { text: text.to_owned() };
        let (verb, prefix) = text.split_once(':').ok_or_else(form)?;
        let verb = match verb {
            "none" => None,
            verb => Some(verb.parse().map_err(|_| form())?),
        };
        let prefix = prefix.parse().map_err(|source| GrantError::Prefix {
            text: text.to_owned(),
            source,
        })?;
        Ok(Grant { verb, prefix })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verb {
            Some(verb) => write!(f, "{verb}:{}", self.prefix),
            None => write!(f, "none:{}", self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grants(texts: &[&str]) -> Grants {
        Grants::new(texts.iter().map(|text| text.parse().expect(text))).expect("few")
    }

    fn allows(texts: &[&str], verb: Verb, address: &str) -> bool {
        grants(texts).allows(verb, &address.parse().expect(address))
    }

    #[test]
    fn nothing_is_allowed_without_a_grant() {
        assert!(!allows(&[], Verb::Read, "1"));
        assert!(!allows(&["read:2"], Verb::Read, "1"));
        assert!(!allows(&["read:1.1"], Verb::Read, "1.10"));
        assert!(!allows(&["read:1.1"], Verb::Read, "1"));
    }

    #[test]
    fn writing_is_not_reading() {
        assert!(allows(&["write:1"], Verb::Write, "1.2"));
        assert!(!allows(&["write:1"], Verb::Read, "1.2"));
        assert!(!allows(&["read:1"], Verb::Write, "1.2"));
    }

    #[test]
    fn most_specific_prefix_decides_whatever_the_order() {
        let list = ["read:*", "none:3.1.5", "read:3.1.5.7"];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let list: Vec<&str> = order.iter().map(|index| list[*index]).collect();
            assert!(allows(&list, Verb::Read, "3.1"));
            assert!(allows(&list, Verb::Read, "9"));
            assert!(!allows(&list, Verb::Read, "3.1.5"));
            assert!(!allows(&list, Verb::Read, "3.1.5.6"));
            assert!(allows(&list, Verb::Read, "3.1.5.7.1"));
        }
    }

    #[test]
    fn a_more_specific_write_does_not_hide_a_wider_read() {
        assert!(allows(&["read:*", "write:3.1"], Verb::Read, "3.1.4"));
    }

    #[test]
    fn a_verb_beside_none_makes_read_only() {
        let list = ["write:3.1", "read:3.1", "none:3.1.5", "read:3.1.5"];
        assert!(allows(&list, Verb::Write, "3.1.4"));
        assert!(!allows(&list, Verb::Write, "3.1.5.1"));
        assert!(allows(&list, Verb::Read, "3.1.5.1"));
    }

    #[test]
    fn case_counts() {
        assert!(!allows(&["read:a"], Verb::Read, "A"));
    }

    #[test]
    fn malformed_grants_are_refused() {
        for text in [
            "", "read", "read:", "read:.", ":3", "erase:3", "READ:3", "read:3 ", "read:**", "read:3.*",
        ] {
            assert!(text.parse::<Grant>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn too_many_grants_are_refused() {
        let many = (0..=GRANTS_MAX).map(|n| format!("read:{n}").parse::<Grant>().expect("legal"));
        assert_eq!(Grants::new(many), Err(GrantError::TooMany { count: 65 }));
    }

    proptest! {
        #[test]
        fn grant_text_comes_back(verb in "(read|write|none)", prefix in "([0-9A-Za-z_-]{1,8}(\\.[0-9A-Za-z_-]{1,8}){0,4}|\\*)") {
            let text = format!("{verb}:{prefix}");
            let grant: Grant = text.parse().expect("legal");
            prop_assert_eq!(grant.to_string(), text);
        }

        #[test]
        fn any_text_parses_or_is_refused(text in ".{0,40}") {
            if let Ok(grant) = text.parse::<Grant>() {
                prop_assert_eq!(grant.to_string(), text);
            }
        }
    }
}
