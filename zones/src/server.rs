//! Servers of the pool: their names and roles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Name of a server: `[a-z][a-z0-9-]{0,14}`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServerName {
    /// The name, then zeros: shorter names come first, as texts are ordered.
    octets: [u8; NAME_OCTETS_MAX],
    length: u8,
}

/// Longest name of a server, in octets.
const NAME_OCTETS_MAX: usize = 15;

/// A text is not a server name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a server name: use 1 to 15 of a-z, 0-9 and '-', a letter first, such as s2")]
pub struct ServerNameError {
    /// What was given.
    pub text: String,
}

/// Names below `pool.<domain>` that no server may take.
const RESERVED: [&str; 2] = ["any", "ns"];

impl ServerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = &self.octets[..usize::from(self.length)];
        std::str::from_utf8(name).expect("a name is made of ASCII")
    }
}

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = text.len() <= NAME_OCTETS_MAX
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !text.ends_with('-')
            && !RESERVED.contains(&text);
        if legal {
            let mut octets = [0; NAME_OCTETS_MAX];
            octets[..text.len()].copy_from_slice(text.as_bytes());
            let length = u8::try_from(text.len()).expect("15 octets at most");
            Ok(ServerName { octets, length })
        } else {
            Err(ServerNameError { text: text.to_owned() })
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for ServerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ServerName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a server is for at this moment (DESIGN.md section 13).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Keeps objects and takes new ones.
    Serving,
    /// Holds no object and takes the next drain.
    Free,
    /// Free, kept back until the end of an upgrade.
    Reserve,
    /// Takes no new object; nothing may newly name it.
    Cordoned,
    /// Moves its objects away.
    Draining,
    /// Holds nothing any more.
    Empty,
    /// Is being given another release.
    Upgrading,
    /// Is being tested after an upgrade.
    Validating,
    /// Takes its objects back.
    Refilling,
    /// Did not come back from an upgrade.
    Failed,
    /// Set aside by a person.
    Quarantined,
}

impl Role {
    /// Every role with its text in records.
    pub const ALL: [(Role, &'static str); 11] = [
        (Role::Serving, "serving"),
        (Role::Free, "free"),
        (Role::Reserve, "reserve"),
        (Role::Cordoned, "cordoned"),
        (Role::Draining, "draining"),
        (Role::Empty, "empty"),
        (Role::Upgrading, "upgrading"),
        (Role::Validating, "validating"),
        (Role::Refilling, "refilling"),
        (Role::Failed, "failed"),
        (Role::Quarantined, "quarantined"),
    ];

    /// The text in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Role::ALL
            .iter()
            .find(|(role, _)| *role == self)
            .expect("ALL names every role")
            .1
    }

    /// Whether a client may create an object there, and an owner add a copy.
    #[must_use]
    pub fn takes_new_objects(self) -> bool {
        match self {
            Role::Serving | Role::Refilling => true,
            Role::Free
            | Role::Reserve
            | Role::Cordoned
            | Role::Draining
            | Role::Empty
            | Role::Upgrading
            | Role::Validating
            | Role::Failed
            | Role::Quarantined => false,
        }
    }

    /// Whether a register may newly name the server: not from `cordoned` on (DESIGN.md section 7).
    #[must_use]
    pub fn may_be_newly_named(self) -> bool {
        match self {
            Role::Serving | Role::Free | Role::Reserve | Role::Refilling => true,
            Role::Cordoned
            | Role::Draining
            | Role::Empty
            | Role::Upgrading
            | Role::Validating
            | Role::Failed
            | Role::Quarantined => false,
        }
    }
}

/// A text is not a role.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a role of a server")]
pub struct RoleError {
    /// What was given.
    pub text: String,
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .iter()
            .find(|(_, known)| *known == text)
            .map(|(role, _)| *role)
            .ok_or_else(|| RoleError { text: text.to_owned() })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
