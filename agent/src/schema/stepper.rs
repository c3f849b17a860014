//! What becomes of properties on their way: forward as an object arrives or is written, back as it leaves for an older release
//! or is read in an older version.
//!
//! Specification: DESIGN.md section 10.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use serde_json::{Map, Value};
use tracing::{error, warn};
use zones::upkeep::SchemaSet;
use zones::{Address, ObjectType, Steps};

use super::finals::Finals;
use super::step::{RunStep, StepError};
use super::r#type::{Schemas, Step};
use super::upgrade::{MigrateError, Migrated, Through};
use crate::vault::properties;

/// Longest reason that is kept with an object that could not be stepped.
pub const REASON_OCTETS_MAX: usize = 200;
/// Longest properties that are stepped on their way: longer ones are refused on writing, by default long before.
pub const STEPPED_OCTETS_MAX: u64 = 16 << 20;

/// A runner of steps that many threads share.
pub type Runner = Box<dyn RunStep + Send + Sync>;

impl RunStep for Runner {
    fn run(&self, step: &Step, properties: &[u8]) -> Result<Vec<u8>, StepError> {
        (**self).run(step, properties)
    }

    fn compile(&self, step: &Step) -> Result<(), StepError> {
        (**self).compile(step)
    }
}

/// The schemas of this release, and who runs their steps.
pub struct Stepper {
    schemas: Arc<Schemas>,
    set: SchemaSet,
    runner: Runner,
    /// Whether contract steps run.
    all: AtomicBool,
    /// Versions up to which they run in any case.
    finals: RwLock<Finals>,
    stepped: AtomicU64,
    quarantined: AtomicU64,
}

/// How the properties of an object are kept here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Form {
    /// Their version.
    pub schema: u32,
    /// Why they are not in a later one.
    pub quarantined: Option<String>,
}

impl Form {
    /// As they came.
    #[must_use]
    pub fn as_it_is(schema: u32) -> Form {
        Form {
            schema,
            quarantined: None,
        }
    }
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Objects whose properties were stepped as they arrived.
    pub stepped: u64,
    /// Objects that came as they were since a step failed.
    pub quarantined: u64,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper")
            .field("all", &self.all)
            .finish_non_exhaustive()
    }
}

impl Default for Stepper {
    fn default() -> Self {
        Stepper::new(Schemas::default(), Box::new(super::step::InProcess::default()))
    }
}

impl Stepper {
    /// Steps of these schemas; contract steps wait for [`Stepper::obey`].
    #[must_use]
    pub fn new(schemas: impl Into<Arc<Schemas>>, runner: Runner) -> Stepper {
        let schemas = schemas.into();
        Stepper {
            set: schemas.set(),
            schemas,
            runner,
            all: AtomicBool::new(false),
            finals: RwLock::default(),
            stepped: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
        }
    }

    /// The same where contract steps up to these versions are final.
    #[must_use]
    pub fn with_finals(mut self, finals: Finals) -> Stepper {
        *self.finals.get_mut() = finals;
        self
    }

    /// Takes the versions that this release knows for final, if contract steps run; they are to be written down if they are news.
    pub fn finalize(&self) -> Option<Finals> {
        if !self.runs_all() {
            return None;
        }
        let mut finals = self.finals.write();
        let before = finals.clone();
        for (kind, one) in self.schemas.iter() {
            if let Some(newest) = one.newest() {
                let known = finals.entry(kind.clone()).or_default();
                *known = newest.max(*known);
            }
        }
        (*finals != before).then(|| finals.clone())
    }

    /// Versions up to which contract steps run in any case.
    #[must_use]
    pub fn finals(&self) -> Finals {
        self.finals.read().clone()
    }

    /// The version that objects of a type at version `from` come to.
    fn target(&self, kind: &ObjectType, from: u32, through: Through) -> u32 {
        self.schemas.target_past(&self.finals.read(), kind, from, through)
    }

    /// Takes which steps the pool's plan lets run; whether that is news.
    pub fn obey(&self, steps: Steps) -> bool {
        let all = steps == Steps::All;
        self.all.swap(all, Ordering::Relaxed) != all
    }

    /// Whether contract steps run.
    #[must_use]
    pub fn runs_all(&self) -> bool {
        self.through() == Through::All
    }

    /// Whether a version of a type is beyond the newest one that expand steps alone lead to, so that the release before may not
    /// read it. That release keeps a type without schemas here as it is.
    #[must_use]
    pub fn is_beyond_expand(&self, kind: &ObjectType, schema: u32) -> bool {
        let first = self.schemas.get(kind).and_then(|one| one.versions().next());
        first.is_some_and(|(first, _)| schema > self.target(kind, first, Through::Expand))
    }

    /// The schemas.
    #[must_use]
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// Has one step taken by who runs them, to learn whether they can be run here; none is no error. Blocks.
    ///
    /// # Errors
    ///
    /// [`StepError`].
    pub fn try_one(&self) -> Result<(), StepError> {
        let mut steps = self.schemas.iter().flat_map(|(_, one)| one.steps());
        match steps.next() {
            Some((_, step)) => self.runner.compile(step),
            None => Ok(()),
        }
    }

    /// What names them.
    #[must_use]
    pub fn set(&self) -> SchemaSet {
        self.set
    }

    /// What was done since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            stepped: self.stepped.load(Ordering::Relaxed),
            quarantined: self.quarantined.load(Ordering::Relaxed),
        }
    }

    /// The newest version of a type that may be written now; `None` for a type that this release knows nothing of and keeps as
    /// it is.
    #[must_use]
    pub fn newest(&self, kind: &ObjectType) -> Option<u32> {
        let one = self.schemas.get(kind)?;
        let (first, _) = one.versions().next()?;
        Some(self.target(kind, first, self.through()))
    }

    /// Whether properties of this type and version would be changed on arrival, or looked at.
    #[must_use]
    pub fn touches(&self, kind: &ObjectType, schema: u32) -> bool {
        let target = self.target(kind, schema, self.through());
        self.schemas.get(kind).is_some_and(|one| one.version(schema).is_none()) || target != schema
    }

    /// Brings properties that arrive to the newest version that may be written; where that fails they stay as they are, with
    /// the reason. Blocks.
    #[must_use]
    pub fn arrive(&self, address: &Address, kind: &ObjectType, schema: u32, octets: &Bytes) -> (Bytes, Form) {
        let target = self.target(kind, schema, self.through());
        match self.step(kind, schema, target, octets) {
            Ok(Some(stepped)) => {
                self.stepped.fetch_add(1, Ordering::Relaxed);
                (stepped, Form::as_it_is(target))
            }
            Ok(None) => (octets.clone(), Form::as_it_is(schema)),
            Err(failed) if failed.is_of_server() => {
                // Nothing is said of the object: its next move tries again.
                error!(object = %address, reason = failed.reason(), "steps cannot be run on this server: an object comes as it is");
                (octets.clone(), Form::as_it_is(schema))
            }
            Err(failed) => {
                self.quarantined.fetch_add(1, Ordering::Relaxed);
                let mut reason = failed.reason();
                warn!(object = %address, reason, "an object comes as it is: a schema step failed");
                truncate(&mut reason);
                let quarantined = Some(reason);
                (octets.clone(), Form { schema, quarantined })
            }
        }
    }

    /// Brings properties back, for an older release or a reader that wants an older version; or forward to `to`. Blocks.
    ///
    /// # Errors
    ///
    /// [`MigrateError`].
    pub fn bring(&self, kind: &ObjectType, schema: u32, to: u32, octets: &Bytes) -> Result<Bytes, MigrateError> {
        let stepped = self.step(kind, schema, to, octets)?;
        Ok(stepped.unwrap_or_else(|| octets.clone()))
    }

    /// The same of properties that were read.
    ///
    /// # Errors
    ///
    /// [`MigrateError`].
    pub fn bring_read(
        &self,
        kind: &ObjectType,
        schema: u32,
        to: u32,
        properties: &Map<String, Value>,
    ) -> Result<Migrated, MigrateError> {
        if schema <= to {
            self.schemas.upgrade(&self.runner, kind, schema, to, properties)
        } else {
            self.schemas.downgrade(&self.runner, kind, schema, to, properties)
        }
    }

    fn through(&self) -> Through {
        match self.all.load(Ordering::Relaxed) {
            true => Through::All,
            false => Through::Expand,
        }
    }

    /// The stepped properties; `None` if no step is between the versions.
    fn step(&self, kind: &ObjectType, from: u32, to: u32, octets: &Bytes) -> Result<Option<Bytes>, MigrateError> {
        let no_version = |version| MigrateError::NoVersion {
            kind: kind.clone(),
            version,
        };
        match self.schemas.get(kind) {
            Some(one) if one.version(from).is_none() => return Err(no_version(from)),
            None if from != to => return Err(no_version(to)),
            Some(_) | None if from == to => return Ok(None),
            Some(_) | None => {}
        }
        let unreadable = |why: String| MigrateError::Step {
            kind: kind.clone(),
            from,
            to,
            source: StepError::NoObject { why },
        };
        let before =
            properties::read(octets).map_err(|_| unreadable("the properties before it are none".to_owned()))?;
        let after = self.bring_read(kind, from, to, &before)?;
        let octets = properties::canonical(&after.properties).map_err(|error| unreadable(error.to_string()))?;
        Ok(Some(Bytes::from(octets)))
    }
}

fn truncate(reason: &mut String) {
    if reason.len() > REASON_OCTETS_MAX {
        let end = (0..=REASON_OCTETS_MAX)
            .rev()
            .find(|at| reason.is_char_boundary(*at))
            .unwrap_or(0);
        reason.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::read::of_files;
    use super::*;

    /// A type of four versions, to the last two of which contract steps lead.
    fn schemas() -> Schemas {
        let schema = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}"#;
        let mut files: Vec<(String, String)> = (1..=4)
            .map(|version| (format!("{version}.schema.json"), schema.to_owned()))
            .collect();
        for (name, mark) in [
            ("1-to-2.jq", "# expand\n"),
            ("2-to-3.jq", "# contract\n"),
            ("3-to-4.jq", "# contract\n"),
        ] {
            files.push((name.to_owned(), format!("{mark}.")));
        }
        files.push(("2-to-1.jq".to_owned(), ".".to_owned()));
        let mut faults = Vec::new();
        let files = files.into_iter().map(|(name, text)| (name, Ok(text.into_bytes())));
        let one = of_files(Path::new("file"), files, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        Schemas::of_types([("file".parse().unwrap(), one)])
    }

    fn stepper() -> Stepper {
        Stepper::new(schemas(), Box::new(super::super::step::InProcess::default()))
    }

    #[test]
    fn contract_steps_that_were_final_before_go_on_and_later_ones_wait() {
        let kind: ObjectType = "file".parse().unwrap();
        assert_eq!(stepper().newest(&kind), Some(2));
        let next = stepper().with_finals(Finals::from([(kind.clone(), 3)]));
        assert_eq!(next.newest(&kind), Some(3));
        assert!(next.touches(&kind, 1) && next.touches(&kind, 2) && !next.touches(&kind, 3));
        assert!(!next.is_beyond_expand(&kind, 3) && next.is_beyond_expand(&kind, 4));
        next.obey(Steps::All);
        assert_eq!(next.newest(&kind), Some(4));
    }

    #[test]
    fn versions_are_final_only_where_contract_steps_run_and_are_told_once() {
        let kind: ObjectType = "file".parse().unwrap();
        let stepper = stepper();
        assert_eq!(stepper.finalize(), None);
        stepper.obey(Steps::All);
        assert_eq!(stepper.finalize(), Some(Finals::from([(kind.clone(), 4)])));
        assert_eq!(stepper.finalize(), None);
        stepper.obey(Steps::Expand);
        assert_eq!(stepper.newest(&kind), Some(4), "what was final stays so");
    }
}
