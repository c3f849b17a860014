//! Schema directories: what their files are called, and the reading of them.
//!
//! | file                     | holds                                                                        |
//! |--------------------------|------------------------------------------------------------------------------|
//! | `photo/3.schema.json`    | JSON Schema 2020-12 of the properties of version 3                           |
//! | `photo/3.examples.json`  | an array of properties of version 3, tried by `agent schema check`; optional |
//! | `photo/2-to-3.jq`        | the step from 2 to 3; its first line is `# expand` or `# contract`           |
//! | `photo/3-to-2.jq`        | the way back; without it nothing goes back past version 3                    |
//!
//! The first line of a way back may promise what it gives back: `# exact`, all of it, or `# exact but /data/size /title`, all but
//! what these JSON pointers name. The check holds it to that.
//!
//! Versions have no gaps. The first may be any: old ones are dropped once no object has them. Names that begin with a dot and
//! `README.md` are passed over; any other file is a fault, since a misspelled step must not be a missing one.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use zones::ObjectType;

use super::r#type::{DIALECT, Exact, Phase, Schemas, Step, Type, Version, validator};
use crate::access::ijson::{self, IJsonError};

/// Longest file of a schema directory: a hundred times what a large schema takes.
const FILE_OCTETS_MAX: u64 = 1 << 20;

/// What is wrong with one file.
#[derive(Debug, Serialize)]
pub struct Fault {
    /// Below the directory of all types.
    pub file: PathBuf,
    /// Where in it, as a JSON pointer; empty for the whole file.
    pub property: String,
    /// What.
    #[serde(serialize_with = "as_text")]
    pub what: FaultKind,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if !self.property.is_empty() {
            write!(f, " at {}", self.property)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Kinds of faults.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Longer than any file here.
    #[error("is over {FILE_OCTETS_MAX} octets: cut it down")]
    Long,
    /// The directory's name is no type.
    #[error("is no name of a type: name it as objects of the type say it")]
    TypeName,
    /// Only directories are types.
    #[error("is no directory: each type has one, such as photo/")]
    NoDirectory,
    /// A file whose name says nothing.
    #[error(
        "is called neither N.schema.json, N.examples.json nor N-to-M.jq with neighbouring versions from 1 on: rename or remove it"
    )]
    FileName,
    /// Not UTF-8.
    #[error("is no UTF-8 text")]
    NoText,
    /// Not I-JSON.
    #[error(transparent)]
    Json(#[from] IJsonError),
    /// Another dialect, or none.
    #[error("must be {DIALECT:?}: other dialects read the same words differently")]
    Dialect,
    /// Not a schema.
    #[error("is no valid JSON Schema: {0}")]
    Schema(String),
    /// Examples are an array of objects.
    #[error("examples are an array of objects")]
    Examples,
    /// Files of a version without schema.
    #[error("there is no schema of this version")]
    NoSchema,
    /// The first line of a forward step.
    #[error("the first line must be `# expand` (the release before can read the result) or `# contract`")]
    NoPhase,
    /// The first line of a way back.
    #[error("a first line with `# exact` is just that, or `# exact but` and JSON pointers such as /data/size")]
    Exact,
    /// A version is missing between two others.
    #[error("version {0} is missing: write its schema, or remove all versions before it")]
    Gap(u32),
    /// No step to the next version.
    #[error("the step to version {0} is missing: write it, `.` if nothing changes")]
    NoStep(u32),
    /// An expand step without way back.
    #[error("an expand step needs a way back, {0}: an abort would strand its objects")]
    NoReverse(String),
}

fn as_text<S: Serializer>(kind: &FaultKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

/// Why schemas cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The directory.
    #[error("read the schema directory {path}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Files are wrong.
    #[error("the schema directory has {} faults (`agent schema check` lists them), first: {}", .0.len(), .0[0])]
    Faults(Vec<Fault>),
}

impl Schemas {
    /// Reads the directory of all types; any fault refuses it whole.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn load(dir: &Path) -> Result<Schemas, LoadError> {
        let (schemas, faults) = Schemas::read(dir)?;
        if !faults.is_empty() {
            return Err(LoadError::Faults(faults));
        }
        Ok(schemas)
    }

    /// Reads what can be read, and lists what is wrong.
    ///
    /// # Errors
    ///
    /// [`LoadError::Directory`].
    pub fn read(dir: &Path) -> Result<(Schemas, Vec<Fault>), LoadError> {
        let failed = |source| LoadError::Directory {
            path: dir.to_owned(),
            source,
        };
        let mut schemas = Schemas::default();
        let mut faults = Vec::new();
        for name in names(dir).map_err(failed)? {
            if passed_over(&name) {
                continue;
            }
            let fault = |what| fault(PathBuf::from(&name), what);
            let path = dir.join(&name);
            if !path.is_dir() {
                faults.push(fault(FaultKind::NoDirectory));
                continue;
            }
            match name.parse::<ObjectType>() {
                Err(_) => faults.push(fault(FaultKind::TypeName)),
                Ok(kind) => match read_type(&path, Path::new(&name), &mut faults) {
                    Err(error) => faults.push(fault(error.into())),
                    Ok(one) => {
                        schemas.types.insert(kind, one);
                    }
                },
            }
        }
        Ok((schemas, faults))
    }
}

fn passed_over(name: &str) -> bool {
    name.starts_with('.') || name == "README.md"
}

fn fault(file: PathBuf, what: FaultKind) -> Fault {
    Fault {
        file,
        property: String::new(),
        what,
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// What a file of a type is, by its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Schema(u32),
    Examples(u32),
    Step(u32, u32),
}

fn role(name: &str) -> Option<Role> {
    let version = |text: &str| {
        let number: u32 = text.parse().ok()?;
        // `03` and `+3` read as 3 too, and then two files were one version.
        (number > 0 && number.to_string() == text).then_some(number)
    };
    if let Some(text) = name.strip_suffix(".schema.json") {
        return version(text).map(Role::Schema);
    }
    if let Some(text) = name.strip_suffix(".examples.json") {
        return version(text).map(Role::Examples);
    }
    let (from, to) = name.strip_suffix(".jq")?.split_once("-to-")?;
    let (from, to) = (version(from)?, version(to)?);
    (from.abs_diff(to) == 1).then_some(Role::Step(from, to))
}

fn read_type(dir: &Path, name: &Path, faults: &mut Vec<Fault>) -> io::Result<Type> {
    let names = names(dir)?.into_iter().filter(|file| !passed_over(file));
    let files = names.map(|file| {
        let octets = role(&file).map_or(Ok(Vec::new()), |_| read_file(&dir.join(&file)));
        (file, octets)
    });
    Ok(of_files(name, files, faults))
}

/// Reads the files of one type, whose directory is called `name`.
pub fn of_files(
    name: &Path,
    files: impl IntoIterator<Item = (String, Result<Vec<u8>, FaultKind>)>,
    faults: &mut Vec<Fault>,
) -> Type {
    let mut one = Type::default();
    let mut examples = Vec::new();
    for (file_name, octets) in files {
        let file = name.join(&file_name);
        let read = match (role(&file_name), octets) {
            (None, _) => Err(whole(FaultKind::FileName)),
            (Some(_), Err(error)) => Err(whole(error)),
            (Some(Role::Schema(number)), Ok(octets)) => read_version(&octets, &file).map(|version| {
                one.versions.insert(number, version);
            }),
            (Some(Role::Examples(number)), Ok(octets)) => read_examples(&octets).map(|properties| {
                examples.push((number, properties, file.clone()));
            }),
            (Some(Role::Step(from, to)), Ok(octets)) => read_step(octets, &file, from < to).map(|step| {
                one.steps.insert((from, to), step);
            }),
        };
        if let Err((property, what)) = read {
            faults.push(Fault { file, property, what });
        }
    }
    for (number, properties, file) in examples {
        match one.versions.get_mut(&number) {
            Some(version) => version.examples = properties,
            None => faults.push(fault(file, FaultKind::NoSchema)),
        }
    }
    chain(&one, name, faults);
    one
}

/// No version, step or needed way back is missing.
fn chain(one: &Type, name: &Path, faults: &mut Vec<Fault>) {
    let (Some(first), Some(last)) = (one.versions.keys().next(), one.versions.keys().next_back()) else {
        faults.push(fault(name.to_owned(), FaultKind::NoSchema));
        return;
    };
    let mut before = (*first, &one.versions[first]);
    for (number, version) in one.versions().skip(1) {
        if number != before.0 + 1 {
            faults.push(fault(version.file.clone(), FaultKind::Gap(before.0 + 1)));
        } else if !one.steps.contains_key(&(before.0, number)) {
            faults.push(fault(before.1.file.clone(), FaultKind::NoStep(number)));
        }
        before = (number, version);
    }
    for ((from, to), step) in &one.steps {
        if [from, to].into_iter().any(|number| number < first || number > last) {
            faults.push(fault(step.file.clone(), FaultKind::NoSchema));
        }
        if step.phase == Some(Phase::Expand) && !one.steps.contains_key(&(*to, *from)) {
            faults.push(fault(
                step.file.clone(),
                FaultKind::NoReverse(format!("{to}-to-{from}.jq")),
            ));
        }
    }
}

/// Where in a file, and what.
type Wrong = (String, FaultKind);

fn whole(what: impl Into<FaultKind>) -> Wrong {
    (String::new(), what.into())
}

fn read_file(path: &Path) -> Result<Vec<u8>, FaultKind> {
    let mut octets = Vec::new();
    let file = fs::File::open(path)?;
    file.take(FILE_OCTETS_MAX + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > FILE_OCTETS_MAX {
        return Err(FaultKind::Long);
    }
    Ok(octets)
}

fn read_version(octets: &[u8], file: &Path) -> Result<Version, Wrong> {
    let schema = ijson::read(octets).map_err(whole)?;
    if schema.get("$schema").and_then(Value::as_str) != Some(DIALECT) {
        return Err(("/$schema".to_owned(), FaultKind::Dialect));
    }
    let validator = validator(&schema).map_err(|(property, what)| (property, FaultKind::Schema(what)))?;
    Ok(Version {
        file: file.to_owned(),
        schema,
        examples: Vec::new(),
        validator,
    })
}

fn read_examples(octets: &[u8]) -> Result<Vec<Map<String, Value>>, Wrong> {
    let Value::Array(all) = ijson::read(octets).map_err(whole)? else {
        return Err(whole(FaultKind::Examples));
    };
    all.into_iter()
        .enumerate()
        .map(|(at, one)| match one {
            Value::Object(map) => Ok(map),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err((format!("/{at}"), FaultKind::Examples))
            }
        })
        .collect()
}

fn read_step(octets: Vec<u8>, file: &Path, forward: bool) -> Result<Step, Wrong> {
    let text = String::from_utf8(octets).map_err(|_| whole(FaultKind::NoText))?;
    let first = text.lines().next().unwrap_or_default().trim_end();
    let (phase, exact) = match (forward, first) {
        (true, "# expand") => (Some(Phase::Expand), None),
        (true, "# contract") => (Some(Phase::Contract), None),
        (true, _) => return Err(whole(FaultKind::NoPhase)),
        (false, first) => (None, exact(first)?),
    };
    Ok(Step {
        file: file.to_owned(),
        phase,
        exact,
        text: text.into(),
    })
}

/// The promise in the first line of a way back, if there is one.
fn exact(first: &str) -> Result<Option<Exact>, Wrong> {
    let Some(rest) = first.strip_prefix("# exact") else {
        return Ok(None);
    };
    if rest.is_empty() {
        return Ok(Some(Exact::default()));
    }
    let but: Vec<String> = match rest.strip_prefix(" but ") {
        Some(pointers) => pointers.split(' ').map(str::to_owned).collect(),
        None => return Err(whole(FaultKind::Exact)),
    };
    match but.iter().all(|pointer| pointer.len() > 1 && pointer.starts_with('/')) {
        true => Ok(Some(Exact { but })),
        false => Err(whole(FaultKind::Exact)),
    }
}

#[cfg(test)]
mod tests;
