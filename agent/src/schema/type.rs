//! Schema directories: what their files are called, and the reading of them.
//!
//! | file                     | holds                                                                        |
//! |--------------------------|------------------------------------------------------------------------------|
//! | `photo/3.schema.json`    | JSON Schema 2020-12 of the properties of version 3                           |
//! | `photo/3.examples.json`  | an array of properties of version 3, tried by `agent schema check`; optional |
//! | `photo/2-to-3.jq`        | the step from 2 to 3; its first line is `# expand` or `# contract`           |
//! | `photo/3-to-2.jq`        | the way back; without it nothing goes back past version 3                    |
//!
//! Versions have no gaps. The first may be any: old ones are dropped once no object has them. Names that begin with a dot and
//! `README.md` are passed over; any other file is a fault, since a misspelled step must not be a missing one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use zones::ObjectType;

use crate::access::ijson::{self, IJsonError};

/// The dialect that every schema declares.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Longest file of a schema directory: a hundred times what a large schema takes.
const FILE_OCTETS_MAX: u64 = 1 << 20;

/// Every type that a release has schemas for.
#[derive(Debug, Default)]
pub struct Schemas {
    types: BTreeMap<ObjectType, Type>,
}

/// The versions of one type.
#[derive(Debug, Default)]
pub struct Type {
    versions: BTreeMap<u32, Version>,
    steps: BTreeMap<(u32, u32), Step>,
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
    validator: Validator,
}

/// The jq program between two neighbouring versions.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it was read, below the directory of all types.
    pub file: PathBuf,
    /// When it runs; a way back has none, it runs when it is needed.
    pub phase: Option<Phase>,
    /// The program. Equal texts are the same program.
    pub text: Arc<str>,
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

    /// The versions of a type, if there are any here.
    #[must_use]
    pub fn get(&self, kind: &ObjectType) -> Option<&Type> {
        self.types.get(kind)
    }

    /// Every type, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectType, &Type)> {
        self.types.iter()
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
    let mut one = Type::default();
    let mut examples = Vec::new();
    for file_name in names(dir)? {
        if passed_over(&file_name) {
            continue;
        }
        let (path, file) = (dir.join(&file_name), name.join(&file_name));
        let read = match role(&file_name) {
            None => Err(whole(FaultKind::FileName)),
            Some(Role::Schema(number)) => read_version(&path, &file).map(|version| {
                one.versions.insert(number, version);
            }),
            Some(Role::Examples(number)) => read_examples(&path).map(|properties| {
                examples.push((number, properties, file.clone()));
            }),
            Some(Role::Step(from, to)) => read_step(&path, &file, from < to).map(|step| {
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
    Ok(one)
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

fn read_file(path: &Path) -> Result<Vec<u8>, Wrong> {
    let mut octets = Vec::new();
    let file = fs::File::open(path).map_err(whole)?;
    file.take(FILE_OCTETS_MAX + 1).read_to_end(&mut octets).map_err(whole)?;
    if octets.len() as u64 > FILE_OCTETS_MAX {
        return Err(whole(FaultKind::Long));
    }
    Ok(octets)
}

fn read_version(path: &Path, file: &Path) -> Result<Version, Wrong> {
    let schema = ijson::read(&read_file(path)?).map_err(whole)?;
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

fn read_examples(path: &Path) -> Result<Vec<Map<String, Value>>, Wrong> {
    let Value::Array(all) = ijson::read(&read_file(path)?).map_err(whole)? else {
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

fn read_step(path: &Path, file: &Path, forward: bool) -> Result<Step, Wrong> {
    let text = String::from_utf8(read_file(path)?).map_err(|_| whole(FaultKind::NoText))?;
    let phase = match text.lines().next().map(str::trim_end) {
        _ if !forward => None,
        Some("# expand") => Some(Phase::Expand),
        Some("# contract") => Some(Phase::Contract),
        Some(_) | None => return Err(whole(FaultKind::NoPhase)),
    };
    Ok(Step {
        file: file.to_owned(),
        phase,
        text: text.into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A directory of one type with these files.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("photo")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join("photo").join(name), text).unwrap();
        }
        dir
    }

    fn schema(more: &str) -> String {
        format!("{{\"$schema\":{DIALECT:?},\"type\":\"object\"{more}}}")
    }

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let dir = directory(files);
        let (_, faults) = Schemas::read(dir.path()).unwrap();
        assert_eq!(Schemas::load(dir.path()).is_ok(), faults.is_empty());
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn whole_chain_is_read_with_its_phases() {
        let one = schema("");
        let dir = directory(&[
            ("2.schema.json", &one),
            ("3.schema.json", &one),
            ("4.schema.json", &one),
            ("2-to-3.jq", "# expand\n."),
            ("3-to-2.jq", "."),
            ("3-to-4.jq", "# contract\n."),
            ("4.examples.json", "[{}]"),
            ("README.md", "what a photo is"),
        ]);
        let schemas = Schemas::load(dir.path()).unwrap();
        let photo = schemas.get(&"photo".parse().unwrap()).unwrap();
        assert_eq!(
            photo.versions().map(|(number, _)| number).collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert_eq!(photo.step(2, 3).unwrap().phase, Some(Phase::Expand));
        assert_eq!(photo.step(3, 2).unwrap().phase, None);
        assert_eq!(photo.step(3, 4).unwrap().phase, Some(Phase::Contract));
        assert_eq!(photo.version(4).unwrap().examples.len(), 1);
    }

    #[test]
    fn missing_version_step_or_way_back_is_a_fault_of_a_named_file() {
        let one = schema("");
        let gap = faults(&[("1.schema.json", &one), ("3.schema.json", &one)]);
        assert!(
            gap[0].starts_with("photo/3.schema.json: version 2 is missing"),
            "{gap:?}"
        );
        let step = faults(&[("1.schema.json", &one), ("2.schema.json", &one)]);
        assert!(
            step[0].starts_with("photo/1.schema.json: the step to version 2"),
            "{step:?}"
        );
        let back = faults(&[
            ("1.schema.json", &one),
            ("2.schema.json", &one),
            ("1-to-2.jq", "# expand\n."),
        ]);
        assert!(back[0].contains("2-to-1.jq"), "{back:?}");
        let beyond = faults(&[("1.schema.json", &one), ("1-to-2.jq", "# contract\n.")]);
        assert!(
            beyond[0].starts_with("photo/1-to-2.jq: there is no schema"),
            "{beyond:?}"
        );
        assert!(faults(&[])[0].starts_with("photo: there is no schema"));
    }

    #[test]
    fn fault_of_a_schema_names_file_and_property() {
        let bad = schema(",\"properties\":{\"size\":{\"type\":\"intger\"}}");
        let found = faults(&[("1.schema.json", &bad)]);
        assert!(
            found[0].starts_with("photo/1.schema.json at /properties/size/type"),
            "{found:?}"
        );
        let dialect = faults(&[(
            "1.schema.json",
            "{\"$schema\":\"http://json-schema.org/draft-07/schema#\"}",
        )]);
        assert!(
            dialect[0].starts_with("photo/1.schema.json at /$schema: must be"),
            "{dialect:?}"
        );
        let twice = faults(&[("1.schema.json", "{\"type\":\"object\",\n\"type\":\"object\"}")]);
        assert!(twice[0].contains("line 2"), "{twice:?}");
        let broken = faults(&[("1.schema.json", &schema("")), ("1.examples.json", "[{},3]")]);
        assert!(broken[0].starts_with("photo/1.examples.json at /1"), "{broken:?}");
    }

    #[test]
    fn reference_to_another_document_is_a_fault_and_nothing_is_fetched() {
        for reference in ["http://127.0.0.1:1/a.json", "file:///etc/hostname", "other.json"] {
            let one = schema(&format!(",\"$ref\":{reference:?}"));
            assert_eq!(faults(&[("1.schema.json", &one)]).len(), 2, "{reference}");
        }
        let inner = schema(",\"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},\"$defs\":{\"a\":{\"type\":\"string\"}}");
        assert!(faults(&[("1.schema.json", &inner)]).is_empty());
    }

    #[test]
    fn misspelled_file_is_a_fault() {
        let one = schema("");
        for name in [
            "01.schema.json",
            "0.schema.json",
            "1-to-3.jq",
            "1-to-1.jq",
            "2.jq",
            "1.schema.jsn",
            "x",
        ] {
            let found = faults(&[("1.schema.json", &one), (name, &one)]);
            assert!(found[0].contains("is called neither"), "{name}: {found:?}");
        }
        let phase = faults(&[("1.schema.json", &one), ("1-to-2.jq", ".")]);
        assert!(phase[0].contains("# expand"), "{phase:?}");
    }

    #[test]
    fn refusal_names_the_property_and_no_value() {
        let dir = directory(&[(
            "1.schema.json",
            &schema(",\"properties\":{\"size\":{\"type\":\"integer\"}}"),
        )]);
        let schemas = Schemas::load(dir.path()).unwrap();
        let photo = schemas.get(&"photo".parse().unwrap()).unwrap();
        let properties = Map::from_iter([("size".to_owned(), Value::from("secret"))]);
        let (property, why) = photo.version(1).unwrap().validate(properties).unwrap_err();
        assert_eq!(property, "/size");
        assert!(!why.contains("secret"), "{why}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_files_are_read_or_faults(
            names in proptest::collection::vec("[0-3](-to-[0-3])?\\.(schema\\.json|jq|examples\\.json|x)", 0..5),
            texts in proptest::collection::vec("(# expand\n)?[\\[\\]{}\":,$a1. ]{0,20}", 5),
        ) {
            let dir = directory(&[]);
            for (name, text) in names.iter().zip(&texts) {
                fs::write(dir.path().join("photo").join(name), text).unwrap();
            }
            let (_, faults) = Schemas::read(dir.path()).unwrap();
            prop_assert!(faults.iter().all(|fault| fault.file.starts_with("photo")));
        }

        #[test]
        fn name_of_a_step_reads_back(from in 1_u32..u32::MAX, forward: bool) {
            let to = if forward { from + 1 } else { from.saturating_sub(1) };
            let expected = (to > 0).then_some(Role::Step(from, to));
            prop_assert_eq!(role(&format!("{from}-to-{to}.jq")), expected);
        }
    }
}
