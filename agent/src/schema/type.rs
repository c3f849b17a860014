//! Versions of the properties of object types, and the programs between them, as a release has them.
//!
//! How they lie in a directory, and what is wrong with one that does not load: `read.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde::Serialize;
use serde_json::{Map, Value};
use zones::ObjectType;
use zones::upkeep::SchemaSet;

/// The dialect that every schema declares.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Every type that a release has schemas for.
#[derive(Debug, Default)]
pub struct Schemas {
    pub(super) types: BTreeMap<ObjectType, Type>,
}

impl Schemas {
    /// Names what objects are brought to by these schemas: over every schema and step with its file's name, in the order of
    /// names. Examples change nothing, so they do not count. 0 without any.
    #[must_use]
    pub fn set(&self) -> SchemaSet {
        let mut hasher = blake3::Hasher::new();
        let mut add = |file: &Path, content: &[u8]| {
            for field in [file.as_os_str().as_encoded_bytes(), content] {
                hasher.update(&(field.len() as u64).to_be_bytes());
                hasher.update(field);
            }
        };
        for one in self.types.values() {
            for version in one.versions.values() {
                add(&version.file, version.schema.to_string().as_bytes());
            }
            for step in one.steps.values() {
                add(&step.file, step.text.as_bytes());
            }
        }
        if self.types.is_empty() {
            return SchemaSet::default();
        }
        let digest = hasher.finalize();
        let first = digest.as_bytes()[..8].try_into().expect("8 of 32");
        SchemaSet(u64::from_be_bytes(first))
    }
}

/// The versions of one type.
#[derive(Debug, Default)]
pub struct Type {
    pub(super) versions: BTreeMap<u32, Version>,
    pub(super) steps: BTreeMap<(u32, u32), Step>,
}

/// One version of a type's properties.
#[derive(Debug)]
pub struct Version {
    /// Where it was read, below the directory of all types.
    pub file: PathBuf,
    /// The schema as written.
    pub schema: Value,
    /// Properties that `agent schema check` tries.
    pub examples: Vec<Map<String, Value>>,
    pub(super) validator: Validator,
}

/// The jq program between two neighbouring versions.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it was read, below the directory of all types.
    pub file: PathBuf,
    /// When it runs; a way back has none, it runs when it is needed.
    pub phase: Option<Phase>,
    /// Of a way back: what it promises to give back; none for no promise.
    pub exact: Option<Exact>,
    /// The program. Equal texts are the same program.
    pub text: Arc<str>,
}

/// A way back promises that properties which go forth and back are the same, octet for octet of their canonical form.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Exact {
    /// All but these, as JSON pointers: what the step forth lost, corrected or added.
    pub but: Vec<String>,
}

/// When a step runs (DESIGN.md section 10).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before finalize: the release before can still read the result, and there is a way back.
    Expand,
    /// At the first move or sweep after finalize.
    Contract,
}

impl Schemas {
    /// These types.
    #[must_use]
    pub fn of_types(types: impl IntoIterator<Item = (ObjectType, Type)>) -> Schemas {
        Schemas {
            types: types.into_iter().collect(),
        }
    }

    /// The versions of a type, if there are any here.
    #[must_use]
    pub fn get(&self, kind: &ObjectType) -> Option<&Type> {
        self.types.get(kind)
    }

    /// Every type, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectType, &Type)> {
        self.types.iter()
    }

    /// These schemas as they were when `version` was a type's newest: the set of an older release. With 0 the type has none.
    #[must_use]
    pub fn up_to(mut self, kind: &ObjectType, version: u32) -> Schemas {
        if let Some(one) = self.types.get_mut(kind) {
            one.versions.retain(|number, _| *number <= version);
            one.steps.retain(|(from, to), _| *from.max(to) <= version);
            if one.versions.is_empty() {
                self.types.remove(kind);
            }
        }
        self
    }
}

impl Type {
    /// Versions, rising.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = (u32, &Version)> + Clone {
        self.versions.iter().map(|(number, version)| (*number, version))
    }

    /// One version.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions.get(&number)
    }

    /// The program between two neighbouring versions.
    #[must_use]
    pub fn step(&self, from: u32, to: u32) -> Option<&Step> {
        self.steps.get(&(from, to))
    }

    /// Every program, by versions.
    pub fn steps(&self) -> impl Iterator<Item = ((u32, u32), &Step)> {
        self.steps.iter().map(|(between, step)| (*between, step))
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Option<u32> {
        self.versions.keys().next_back().copied()
    }
}

impl Exact {
    /// The properties of the first level in which `returned` is another than `before`, against the promise; as JSON pointers.
    #[must_use]
    pub fn broken(&self, before: &Map<String, Value>, returned: &Map<String, Value>) -> Vec<String> {
        let rest = |all: &Map<String, Value>| {
            let mut all = Value::Object(all.clone());
            for pointer in &self.but {
                let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
                if let Some(Value::Object(parent)) = all.pointer_mut(parent) {
                    parent.remove(&name.replace("~1", "/").replace("~0", "~"));
                }
            }
            match all {
                Value::Object(rest) => rest,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    unreachable!("it was made of a map")
                }
            }
        };
        unequal(&rest(before), &rest(returned))
    }
}

/// Pointers to the properties of the first level in which two objects differ.
pub(super) fn unequal(one: &Map<String, Value>, other: &Map<String, Value>) -> Vec<String> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")))
        .collect()
}

impl Version {
    /// Whether the schema takes these properties.
    ///
    /// # Errors
    ///
    /// The first property that it refuses, as a JSON pointer, and why. Values are left out: reasons go to reports.
    pub fn validate(&self, properties: Map<String, Value>) -> Result<Map<String, Value>, (String, String)> {
        let value = Value::Object(properties);
        if let Err(error) = self.validator.validate(&value) {
            return Err((
                error.instance_path().to_string(),
                error.masked_with("the value").to_string(),
            ));
        }
        match value {
            Value::Object(properties) => Ok(properties),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                unreachable!("it was made of a map")
            }
        }
    }
}

/// A validator that fetches nothing and whose patterns take linear time.
pub(super) fn validator(schema: &Value) -> Result<Validator, (String, String)> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| (error.instance_path().to_string(), error.to_string()))
}
