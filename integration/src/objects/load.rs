//! Reads objects from JSON lines.
//!
//! One JSON object a line: `address` and `type` (strings) and `data` (an object). `data` becomes the properties;
//! `data.content`, where it is a string, becomes the body and leaves the properties. Other fields are ignored.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use zones::{Address, Domain};

use super::Sample;

/// Longest line; a longer one is no object of this format.
const LINE_OCTETS_MAX: usize = 64 << 20;

/// Why a file of objects cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not an object of this format; correct it or take it out.
    #[error(
        "{path} line {line}: expected one JSON object with \"address\", \"type\" (strings) and \"data\" (an object)"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line is longer than 64 MiB.
    #[error("{path} line {line} is longer than 64 MiB: put large bodies with `agent put` instead")]
    Long {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
    },
    /// Not one line holds an object that can be stored.
    #[error("{path} holds no object that can be stored")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// A line that was left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Skipped {
    /// Which line, counted from 1.
    pub line: usize,
    /// The address as written.
    pub address: String,
    /// Why no object can be made of it.
    pub why: String,
}

/// What a file held.
#[derive(Debug)]
pub struct Loaded {
    /// Objects that can be stored, in the file's order.
    pub samples: Vec<Sample>,
    /// Lines that cannot, each with the reason.
    pub skipped: Vec<Skipped>,
}

#[derive(Deserialize)]
struct Line {
    address: String,
    #[serde(rename = "type")]
    kind: String,
    data: Map<String, Value>,
    #[serde(default)]
    deleted_at: Option<Value>,
}

/// Reads the objects of a file, for a pool of `domain`.
///
/// A line whose object has no place in a pool (an illegal address or type, a name too long for DNS, an address that is
/// there already or differs only by case) is skipped and reported.
///
/// # Errors
///
/// [`LoadError`] names the file and the line.
pub fn load(path: &Path, domain: &Domain) -> Result<Loaded, LoadError> {
    let read_error = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(read_error)?);
    let mut samples: Vec<Sample> = Vec::new();
    let mut skipped = Vec::new();
    let mut first_lines: HashMap<Address, (usize, Address)> = HashMap::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let taken = io::Read::take(&mut reader, LINE_OCTETS_MAX as u64 + 1)
            .read_until(b'\n', &mut text)
            .map_err(read_error)?;
        if taken == 0 {
            break;
        }
        if taken > LINE_OCTETS_MAX {
            return Err(LoadError::Long {
                path: path.to_owned(),
                line,
            });
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let object: Line = serde_json::from_slice(&text).map_err(|source| LoadError::Line {
            path: path.to_owned(),
            line,
            source,
        })?;
        let written = object.address.clone();
        let made = sample(object, domain).and_then(|sample| {
            match first_lines.insert(sample.address.folded(), (line, sample.address.clone())) {
                None => Ok(sample),
                Some((first, same)) => {
                    first_lines.insert(sample.address.folded(), (first, same.clone()));
                    Err(if same == sample.address {
                        format!("line {first} has the same address")
                    } else {
                        format!("differs only by case from {same} in line {first}; DNS names have no case")
                    })
                }
            }
        });
        match made {
            Ok(sample) => samples.push(sample),
            Err(why) => skipped.push(Skipped {
                line,
                address: written,
                why,
            }),
        }
    }
    if samples.is_empty() {
        return Err(LoadError::Empty { path: path.to_owned() });
    }
    Ok(Loaded { samples, skipped })
}

fn sample(line: Line, domain: &Domain) -> Result<Sample, String> {
    if line.deleted_at.is_some_and(|when| !when.is_null()) {
        return Err("is marked as deleted".to_owned());
    }
    let address: Address = line.address.parse().map_err(|error| format!("{error}"))?;
    domain.check(&address).map_err(|error| error.to_string())?;
    let kind = line.kind.parse().map_err(|error| format!("{error}"))?;
    let mut properties = line.data;
    let body = match properties.remove("content") {
        Some(Value::String(text)) => text.into_bytes(),
        Some(other) => {
            properties.insert("content".to_owned(), other);
            Vec::new()
        }
        None => Vec::new(),
    };
    Ok(Sample {
        address,
        kind,
        properties,
        body,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn loaded(text: &str) -> Result<Loaded, LoadError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load(file.path(), &"hypernet.internal.".parse().unwrap())
    }

    #[test]
    fn content_becomes_the_body_and_the_rest_the_properties() {
        let lines = concat!(
            "{\"address\":\"1.2\",\"type\":\"file\",\"data\":{\"name\":\"a\",\"content\":\"gr\\u00fcn\"},\"more\":1}\n\n",
            "{\"address\":\"1.3\",\"type\":\"folder\",\"data\":{\"content\":null}}",
        );
        let loaded = loaded(lines).unwrap();
        assert_eq!(loaded.samples[0].body, "grün".as_bytes());
        assert_eq!(
            Value::from(loaded.samples[0].properties.clone()),
            json!({ "name": "a" })
        );
        assert_eq!(loaded.samples[1].body, b"");
        assert_eq!(
            Value::from(loaded.samples[1].properties.clone()),
            json!({ "content": null })
        );
    }

    #[test]
    fn objects_without_a_place_are_reported_by_line_and_the_rest_is_loaded() {
        let lines = concat!(
            "{\"address\":\"1.a\",\"type\":\"file\",\"data\":{}}\n",
            "{\"address\":\"1..2\",\"type\":\"file\",\"data\":{}}\n",
            "{\"address\":\"1.A\",\"type\":\"file\",\"data\":{}}\n",
            "{\"address\":\"1.a\",\"type\":\"file\",\"data\":{}}\n",
            "{\"address\":\"1.5\",\"type\":\"two words\",\"data\":{}}\n",
        );
        let loaded = loaded(lines).unwrap();
        assert_eq!(loaded.samples.len(), 1);
        let told: Vec<(usize, bool)> = loaded
            .skipped
            .iter()
            .map(|skipped| (skipped.line, skipped.why.contains("line 1")))
            .collect();
        assert_eq!(told, [(2, false), (3, true), (4, true), (5, false)]);
    }

    #[test]
    fn a_broken_line_is_an_error_that_names_it() {
        let error = loaded("{\"address\":\"1\",\"type\":\"file\",\"data\":{}}\n{\"address\":\"2\"\n").unwrap_err();
        assert!(matches!(error, LoadError::Line { line: 2, .. }), "{error}");
        assert!(matches!(loaded("\n").unwrap_err(), LoadError::Empty { .. }));
    }
}
