//! What is sent and received: the JSON of DESIGN.md section 12 as types.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;
use zones::{Address, ObjectType, ServerName};

use crate::access::condition::Tag;

/// One object without its body.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Object {
    /// Its address.
    #[serde(with = "text")]
    pub address: Address,
    /// Its type.
    #[serde(rename = "type", with = "text")]
    pub kind: ObjectType,
    /// Version of the schema that the properties are in.
    pub schema: u32,
    /// Number of the ownership.
    pub epoch: u64,
    /// Number of client writes.
    pub revision: u64,
    /// Its properties.
    pub properties: Map<String, Value>,
    /// Octets of its body.
    pub size: u64,
}

/// An object without properties and body, and who answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stat {
    /// Its address.
    #[serde(with = "text")]
    pub address: Address,
    /// Its type.
    #[serde(rename = "type", with = "text")]
    pub kind: ObjectType,
    /// Version of the schema that the properties are in.
    pub schema: u32,
    /// Number of the ownership.
    pub epoch: u64,
    /// Number of client writes.
    pub revision: u64,
    /// Octets of its body.
    pub size: u64,
    /// The server that answered.
    pub server: String,
}

/// One line of a listing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Summary {
    /// Its address.
    #[serde(with = "text")]
    pub address: Address,
    /// Its type.
    #[serde(rename = "type", with = "text")]
    pub kind: ObjectType,
    /// Version of the schema that the properties are in.
    pub schema: u32,
    /// Level of its encryption; 0 from a release that does not say it.
    #[serde(default)]
    pub level: u8,
    /// Number of the ownership.
    pub epoch: u64,
    /// Number of client writes.
    pub revision: u64,
    /// Octets of its body.
    pub size: u64,
    /// Why its properties are not in a later version: a schema step failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
}

/// What a write led to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Written {
    /// The object.
    #[serde(with = "text")]
    pub address: Address,
    /// Number of the ownership.
    pub epoch: u64,
    /// Number of client writes, this one included.
    pub revision: u64,
    /// Version of the schema after the write.
    pub schema: u32,
    /// Whether this write made the object.
    pub created: bool,
    /// The server that has it; told by the connection, not by the JSON.
    #[serde(skip_deserializing, default)]
    pub server: String,
}

/// What is written of an object: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PutObject {
    /// Its type; a new object without one is a `file`.
    #[serde(rename = "type", with = "optional_text", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ObjectType>,
    /// Version of the schema that the properties are in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<u32>,
    /// All its properties, a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties: Option<Value>,
}

/// How a write is to be done.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// When it may happen.
    pub expect: Expect,
    /// The write id (a UUIDv7); a fresh one if absent. Give the same one to repeat a write whose outcome is unknown.
    pub write_id: Option<Uuid>,
    /// Type of the object, should a body create it.
    pub kind: Option<ObjectType>,
}

/// When a write may happen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Expect {
    /// Always.
    #[default]
    Anything,
    /// Only if the object is at this revision.
    Revision(u64),
    /// Only if the object exists.
    Existing,
    /// Only if it does not exist yet.
    Absent,
}

impl Expect {
    /// The header that says it.
    pub(super) fn header(self) -> Option<(http::HeaderName, String)> {
        match self {
            Expect::Anything => None,
            // A write compares the revision alone; the schema in the tag is not looked at.
            Expect::Revision(revision) => Some((http::header::IF_MATCH, Tag { revision, schema: 0 }.to_string())),
            Expect::Existing => Some((http::header::IF_MATCH, "*".to_owned())),
            Expect::Absent => Some((http::header::IF_NONE_MATCH, "*".to_owned())),
        }
    }
}

/// A page of a listing as an agent sends it.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) objects: Vec<Summary>,
    pub(super) next: Option<String>,
}

/// What of a problem a client looks at (RFC 9457): every member may be absent, and others may be there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProblemText {
    pub(super) detail: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) revision: Option<u64>,
}

impl ProblemText {
    pub(super) fn owner(&self) -> Option<ServerName> {
        self.owner.as_deref().and_then(|owner| owner.parse().ok())
    }
}

mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod optional_text {
    use std::fmt::Display;

    use serde::Serializer;

    #[expect(clippy::ref_option, reason = "the form that serde calls")]
    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }
}
