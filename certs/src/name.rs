//! Names of applications.

use std::fmt;
use std::str::FromStr;

/// Name of an application: `[a-z][a-z0-9-]{0,31}`. It names its certificate, its TSIG key and its directory.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientName(Box<str>);

/// A text is not the name of a client.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a client name: use 1 to 32 of a-z, 0-9 and '-', a letter first, and not admin, any or ns")]
pub struct ClientNameError {
    /// What was given.
    pub text: String,
}

/// Names whose keys or DNS names mean something else.
const RESERVED: [&str; 3] = ["admin", "any", "ns"];
/// Longest name, so that it is a label and fits certificates.
const OCTETS_MAX: usize = 32;

impl ClientName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = text.len() <= OCTETS_MAX
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !text.ends_with('-')
            && !RESERVED.contains(&text);
        if legal {
            Ok(ClientName(text.into()))
        } else {
            Err(ClientNameError { text: text.to_owned() })
        }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_malformed_names_are_refused() {
        for text in ["", "admin", "any", "ns", "A", "1a", "a_b", "a.b", "a-", &"a".repeat(33)] {
            assert!(text.parse::<ClientName>().is_err(), "{text:?}");
        }
        for text in ["a", "shop", "shop-2", &"a".repeat(32)] {
            assert_eq!(text.parse::<ClientName>().expect(text).to_string(), text);
        }
    }
}
