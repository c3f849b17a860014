//! From one version of properties to another, one version at a time.
//!
//! `migrated_from` is no property: properties are the client's, and nothing but the step's program changes what their digest is
//! over. It is part of the outcome, for the row of the index beside the schema version.

use serde_json::{Map, Value};
use zones::ObjectType;

use super::finals::Finals;
use super::step::{RunStep, StepError, masked};
use super::r#type::{Phase, Schemas, Type};
use crate::vault::properties::{self, PropertiesError};

/// Which forward steps run (DESIGN.md section 10).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Through {
    /// Up to the first contract step: before finalize.
    Expand,
    /// All.
    #[default]
    All,
}

/// Properties in another version.
#[derive(Clone, Debug, PartialEq)]
pub struct Migrated {
    /// The properties.
    pub properties: Map<String, Value>,
    /// Their version.
    pub schema: u32,
    /// The version before the steps, if any ran.
    pub migrated_from: Option<u32>,
}

impl Migrated {
    /// What the row of the object says from now on, if it said `before`: the version that a client wrote, and nothing once the
    /// object is back at it.
    #[must_use]
    pub fn recorded(&self, before: Option<u32>) -> Option<u32> {
        let written = before.or(self.migrated_from);
        written.filter(|written| *written != self.schema)
    }
}

/// Why properties cannot come to another version. The object stays as it is, and goes on the quarantine list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// This release has schemas of the type, but not of this version.
    #[error("{kind} has no version {version} in this release's schemas")]
    NoVersion {
        /// The type.
        kind: ObjectType,
        /// The version.
        version: u32,
    },
    /// There is no way from one version to the next.
    #[error("{kind} has no step from version {from} to {to}")]
    NoStep {
        /// The type.
        kind: ObjectType,
        /// The version before.
        from: u32,
        /// The version after.
        to: u32,
    },
    /// The step gave nothing.
    #[error("{kind} {from} to {to}")]
    Step {
        /// The type.
        kind: ObjectType,
        /// The version before.
        from: u32,
        /// The version after.
        to: u32,
        /// Why.
        source: StepError,
    },
    /// The step's result does not fit its schema.
    #[error("{kind} {from} to {to}: the result does not fit schema {to}: {}{why}", place(.property))]
    Invalid {
        /// The type.
        kind: ObjectType,
        /// The version before.
        from: u32,
        /// The version after.
        to: u32,
        /// Where, as a JSON pointer.
        property: String,
        /// Why; values are left out.
        why: String,
    },
}

fn place(property: &str) -> String {
    match property {
        "" => String::new(),
        property => format!("at {property}, "),
    }
}

impl MigrateError {
    /// Whether this server is at fault: then nothing is said of the object, and the same may do on another try.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        match self {
            MigrateError::Step { source, .. } => source.is_of_server(),
            MigrateError::NoVersion { .. } | MigrateError::NoStep { .. } | MigrateError::Invalid { .. } => false,
        }
    }

    /// The reason in one line, causes included.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            MigrateError::Step { source, .. } => format!("{self}: {source}"),
            MigrateError::NoVersion { .. } | MigrateError::NoStep { .. } | MigrateError::Invalid { .. } => {
                self.to_string()
            }
        }
    }
}

impl Schemas {
    /// The version that objects of a type at version `from` come to; `from` itself for a type without schemas. For a version
    /// that is not known here it is the newest, and then [`Schemas::upgrade`] says what is wrong.
    #[must_use]
    pub fn target(&self, kind: &ObjectType, from: u32, through: Through) -> u32 {
        let Some(one) = self.get(kind) else {
            return from;
        };
        if one.version(from).is_none() {
            return one.newest().unwrap_or(from);
        }
        let mut target = from;
        while let Some(step) = one.step(target, target.saturating_add(1)) {
            if through == Through::Expand && step.phase == Some(Phase::Contract) {
                break;
            }
            target += 1;
        }
        target
    }

    /// The same where contract steps up to the versions `finals` run in any case.
    #[must_use]
    pub fn target_past(&self, finals: &Finals, kind: &ObjectType, from: u32, through: Through) -> u32 {
        match (through, finals.get(kind).copied()) {
            // A version that this release does not know is not passed on the way.
            (Through::Expand, Some(last)) if from < last && self.target(kind, from, Through::All) >= last => {
                self.target(kind, last, Through::Expand)
            }
            (Through::Expand | Through::All, _) => self.target(kind, from, through),
        }
    }

    /// Steps properties forward. A type without schemas keeps them as they are.
    ///
    /// # Errors
    ///
    /// [`MigrateError`]; an object of a later version than `to` is a version that is not known.
    pub fn upgrade(
        &self,
        runner: &impl RunStep,
        kind: &ObjectType,
        from: u32,
        to: u32,
        properties: &Map<String, Value>,
    ) -> Result<Migrated, MigrateError> {
        if from > to {
            let kind = kind.clone();
            return Err(MigrateError::NoVersion { kind, version: from });
        }
        self.walk(runner, kind, from, to, properties, |_, _, _| Ok(()))
    }

    /// Steps properties back: for an older release, or a reader that asks for an older version.
    ///
    /// # Errors
    ///
    /// [`MigrateError`]; [`MigrateError::NoStep`] past a contract step without way back.
    pub fn downgrade(
        &self,
        runner: &impl RunStep,
        kind: &ObjectType,
        from: u32,
        to: u32,
        properties: &Map<String, Value>,
    ) -> Result<Migrated, MigrateError> {
        if from < to {
            let kind = kind.clone();
            return Err(MigrateError::NoVersion { kind, version: to });
        }
        self.walk(runner, kind, from, to, properties, |_, _, _| Ok(()))
    }

    /// Runs the steps one by one; `seen` is told the versions of each, and the properties before and after it.
    pub(super) fn walk(
        &self,
        runner: &impl RunStep,
        kind: &ObjectType,
        from: u32,
        to: u32,
        properties: &Map<String, Value>,
        mut seen: impl FnMut((u32, u32), &Map<String, Value>, &Map<String, Value>) -> Result<(), MigrateError>,
    ) -> Result<Migrated, MigrateError> {
        let mut migrated = Migrated {
            properties: properties.clone(),
            schema: from,
            migrated_from: None,
        };
        let Some(one) = self.get(kind) else {
            return Ok(migrated);
        };
        for version in [from, to] {
            if one.version(version).is_none() {
                let kind = kind.clone();
                return Err(MigrateError::NoVersion { kind, version });
            }
        }
        while migrated.schema != to {
            let now = migrated.schema;
            let next = if now < to { now + 1 } else { now - 1 };
            let after = step(one, runner, kind, (now, next), &migrated.properties)?;
            seen((now, next), &migrated.properties, &after)?;
            migrated.properties = after;
            migrated.schema = next;
            migrated.migrated_from = Some(from);
        }
        Ok(migrated)
    }
}

/// One step and the validation of its result.
pub(super) fn step(
    one: &Type,
    runner: &impl RunStep,
    kind: &ObjectType,
    (from, to): (u32, u32),
    before: &Map<String, Value>,
) -> Result<Map<String, Value>, MigrateError> {
    let (Some(program), Some(version)) = (one.step(from, to), one.version(to)) else {
        let kind = kind.clone();
        return Err(MigrateError::NoStep { kind, from, to });
    };
    let failed = |source| MigrateError::Step {
        kind: kind.clone(),
        from,
        to,
        source,
    };
    let no_object = |PropertiesError::Json(error)| {
        failed(StepError::NoObject {
            why: masked(&error.to_string()),
        })
    };
    let octets = properties::canonical(before).map_err(no_object)?;
    let result = runner.run(program, &octets).map_err(failed)?;
    let after = properties::read(&result).map_err(no_object)?;
    version
        .validate(after)
        .map_err(|(property, why)| MigrateError::Invalid {
            kind: kind.clone(),
            from,
            to,
            property,
            why,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_names_the_version_that_a_client_wrote_until_the_object_is_back_at_it() {
        let after = |from, schema| Migrated {
            properties: Map::new(),
            schema,
            migrated_from: (from != schema).then_some(from),
        };
        let mut row = None;
        for (from, to, expected) in [
            (1, 1, None),
            (1, 2, Some(1)),
            (2, 2, Some(1)),
            (2, 4, Some(1)),
            (4, 3, Some(1)),
            (3, 1, None),
        ] {
            row = after(from, to).recorded(row);
            assert_eq!(row, expected, "{from} to {to}");
        }
    }
}
