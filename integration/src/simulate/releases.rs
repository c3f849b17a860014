//! Releases of the simulated servers: what schemas they know, and what the properties of a write are in each version.
//!
//! | version | properties                                | step to it                                     |
//! |---------|-------------------------------------------|------------------------------------------------|
//! | 1       | `{"object":3,"write":17}`                 | -                                              |
//! | 2       | `{"copy":17,"object":3,"write":17}`       | expand; fails for every third object           |
//! | 3       | `{"copy":17,"object":3}`                  | contract                                       |
//!
//! The steps are the production ones with a runner of our own: what jq makes of them is tested elsewhere, and a simulation has
//! thousands of them a second.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use agent::schema::read::of_files;
use agent::schema::r#type::DIALECT;
use agent::schema::{RunStep, Schemas, Step, StepError, Stepper};
use serde_json::{Map, Value, json};

/// Newest version of each release.
pub(super) const NEWEST: [u32; 3] = [1, 2, 3];
/// Type of every object.
const KIND: &str = "file";

/// The stepper of a release.
pub(super) fn stepper(release: u8) -> Stepper {
    static SCHEMAS: LazyLock<[Arc<Schemas>; 3]> = LazyLock::new(|| NEWEST.map(|newest| Arc::new(schemas(newest))));
    Stepper::new(Arc::clone(&SCHEMAS[usize::from(release)]), Box::new(Native))
}

fn schemas(newest: u32) -> Schemas {
    let files = [
        (1, "1.schema.json", schema(&["object", "write"])),
        (2, "2.schema.json", schema(&["copy", "object", "write"])),
        (3, "3.schema.json", schema(&["copy", "object"])),
        (2, "1-to-2.jq", "# expand\nforth 2".to_owned()),
        (2, "2-to-1.jq", "back 1".to_owned()),
        (3, "2-to-3.jq", "# contract\nforth 3".to_owned()),
        (3, "3-to-2.jq", "back 2".to_owned()),
    ];
    let mut faults = Vec::new();
    let known = files.into_iter().filter(|(version, ..)| *version <= newest);
    let known = known.map(|(_, name, text)| (name.to_owned(), Ok(text.into_bytes())));
    let one = of_files(Path::new(KIND), known, &mut faults);
    assert!(faults.is_empty(), "our own schemas are sound: {faults:?}");
    Schemas::of_types([(KIND.parse().expect("a legal type"), one)])
}

fn schema(names: &[&str]) -> String {
    let properties: Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({"type": "integer"})))
        .collect();
    json!({
        "$schema": DIALECT,
        "type": "object",
        "required": names,
        "additionalProperties": false,
        "properties": properties,
    })
    .to_string()
}

/// Whether the step to version 2 fails for an object.
pub(super) fn is_unlucky(object: u64) -> bool {
    object % 3 == 1
}

/// The properties of a write as clients send them.
pub(super) fn properties(object: usize, write: u64) -> String {
    format!(r#"{{"object":{object},"write":{write}}}"#)
}

/// The write that properties in a version are of.
pub(super) fn write_of(schema: u32, properties: &[u8]) -> Option<u64> {
    let properties: Map<String, Value> = serde_json::from_slice(properties).ok()?;
    let number = |name: &str| properties.get(name).and_then(Value::as_u64);
    number("object")?;
    match (schema, properties.len(), number("write"), number("copy")) {
        (1, 2, Some(write), None) | (3, 2, None, Some(write)) => Some(write),
        (2, 3, Some(write), Some(copy)) if write == copy => Some(write),
        _ => None,
    }
}

/// Runs the steps above.
struct Native;

impl RunStep for Native {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        let mut map: Map<String, Value> =
            serde_json::from_slice(properties).map_err(|error| StepError::NoObject { why: error.to_string() })?;
        let last = step.text.lines().last().unwrap_or_default();
        match last {
            "forth 2" if map.get("object").and_then(Value::as_u64).is_some_and(is_unlucky) => {
                return Err(StepError::Raised {
                    why: "unlucky".to_owned(),
                });
            }
            "forth 2" => copy(&mut map, "write", "copy"),
            "forth 3" => drop(map.remove("write")),
            "back 2" => copy(&mut map, "copy", "write"),
            "back 1" => drop(map.remove("copy")),
            other => unreachable!("{other} is no step of ours"),
        }
        Ok(serde_json::to_vec(&map).expect("a map is JSON"))
    }

    fn compile(&self, _: &Step) -> Result<(), StepError> {
        Ok(())
    }
}

fn copy(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.get(from).cloned() {
        map.insert(to.to_owned(), value);
    }
}
