//! What an upgrade would make of each object, without changing any.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use zones::{Address, ObjectType};

use super::finals::Finals;
use super::step::RunStep;
use super::r#type::Schemas;
use super::upgrade::{MigrateError, Through, step};
use crate::vault::properties::{self, PropertiesError};

/// What became of the objects.
#[derive(Debug, Default, Serialize)]
pub struct DryRun {
    /// Objects tried.
    pub objects: u64,
    /// Those that come to a later version.
    pub upgraded: u64,
    /// Those that are there, or whose type has no schemas.
    pub unchanged: u64,
    /// Upgraded objects by type and versions, as `photo 2 to 3`.
    pub by_versions: BTreeMap<String, u64>,
    /// How many there are of each list below, which may end before.
    pub counts: Counts,
    /// Those that would stay as they are, and have to be mended or waived before finalize.
    pub quarantined: Vec<Refused>,
    /// Those that would come to a later version, and not back as the way back promises: an abort would strand or change them.
    pub no_way_back: Vec<Refused>,
    /// Those that need no step and do not fit the schema that they say: clients wrote them so.
    pub misfits: Vec<Refused>,
    /// Those whose properties cannot be read: `agent check` says more.
    pub unreadable: Vec<Refused>,
}

/// Objects that are listed, by list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Those that would stay as they are.
    pub quarantined: u64,
    /// Those that would not come back as promised.
    pub no_way_back: u64,
    /// Those that do not fit the schema that they say.
    pub misfits: u64,
    /// Those whose properties cannot be read.
    pub unreadable: u64,
}

impl DryRun {
    /// Whether nothing stands in an upgrade's way.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.counts.quarantined == 0 && self.stuck() == 0
    }

    /// Objects that an upgrade could not bring to the next version and back.
    #[must_use]
    pub fn stuck(&self) -> u64 {
        self.counts.no_way_back + self.counts.unreadable
    }
}

/// One object, and why.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// The object.
    pub address: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its version.
    pub schema: u32,
    /// Why; values are left out.
    pub reason: String,
}

/// Tries object after object.
#[derive(Debug)]
pub struct DryRunner<'a, R> {
    /// What to come to.
    pub schemas: &'a Schemas,
    /// Who runs steps.
    pub runner: &'a R,
    /// Which steps.
    pub through: Through,
    /// Versions up to which contract steps run in any case, as in an upgrade.
    pub finals: Finals,
    /// Longest list of objects in the report; more are counted.
    pub listed_max: usize,
    /// What became of the objects so far.
    pub report: DryRun,
}

impl<R: RunStep> DryRunner<'_, R> {
    /// Tries one object; its properties are the octets of the store.
    ///
    /// # Errors
    ///
    /// [`MigrateError`] that is this server's fault: the object was not judged.
    pub fn object(
        &mut self,
        address: &Address,
        kind: &ObjectType,
        schema: u32,
        properties: &[u8],
    ) -> Result<(), MigrateError> {
        self.report.objects += 1;
        let refused = |reason| Refused {
            address: address.to_string(),
            kind: kind.to_string(),
            schema,
            reason,
        };
        let properties = match properties::read(properties) {
            Ok(properties) => properties,
            Err(PropertiesError::Json(error)) => {
                let why = super::step::masked(&error.to_string());
                self.list(
                    |report| (&mut report.counts.unreadable, &mut report.unreadable),
                    refused(why),
                );
                return Ok(());
            }
        };
        let to = self.schemas.target_past(&self.finals, kind, schema, self.through);
        let mut lost = None;
        let back = |between: (u32, u32), before: &Map<String, Value>, after: &Map<String, Value>| {
            if lost.is_none() {
                lost = self.way_back(kind, between, before, after)?;
            }
            Ok(())
        };
        // An object past the last version known here is none that steps lead to.
        let upgraded = match schema <= to {
            true => self.schemas.walk(self.runner, kind, schema, to, &properties, back),
            false => self.schemas.upgrade(self.runner, kind, schema, to, &properties),
        };
        if let Some(why) = lost {
            self.list(
                |report| (&mut report.counts.no_way_back, &mut report.no_way_back),
                refused(why),
            );
        }
        match upgraded {
            Ok(migrated) if migrated.schema == schema => {
                self.report.unchanged += 1;
                let version = self.schemas.get(kind).and_then(|one| one.version(schema));
                if let Some(Err((property, why))) = version.map(|version| version.validate(properties)) {
                    let refused = refused(format!("at {property:?}: {why}"));
                    self.list(|report| (&mut report.counts.misfits, &mut report.misfits), refused);
                }
            }
            Ok(migrated) => {
                self.report.upgraded += 1;
                let way = format!("{kind} {schema} to {}", migrated.schema);
                *self.report.by_versions.entry(way).or_default() += 1;
            }
            Err(error) if error.is_of_server() => return Err(error),
            Err(error) => {
                let refused = refused(error.reason());
                self.list(
                    |report| (&mut report.counts.quarantined, &mut report.quarantined),
                    refused,
                );
            }
        }
        Ok(())
    }

    /// What the way back of one step does not keep of its promise; a step without way back promises nothing.
    fn way_back(
        &self,
        kind: &ObjectType,
        (from, to): (u32, u32),
        before: &Map<String, Value>,
        after: &Map<String, Value>,
    ) -> Result<Option<String>, MigrateError> {
        let one = self.schemas.get(kind);
        let Some((one, back)) = one.and_then(|one| Some((one, one.step(to, from)?))) else {
            return Ok(None);
        };
        match step(one, self.runner, kind, (to, from), after) {
            Ok(returned) => {
                let broken = back
                    .exact
                    .iter()
                    .flat_map(|exact| exact.broken(before, &returned))
                    .next();
                Ok(broken
                    .map(|property| format!("{kind} {to} to {from}: at {property}, it does not come back as it was")))
            }
            Err(error) if error.is_of_server() => Err(error),
            Err(error) => Ok(Some(error.reason())),
        }
    }

    /// Counts an object whose properties could not be read from disk.
    pub fn unreadable(&mut self, address: &Address, kind: &ObjectType, schema: u32, reason: String) {
        self.report.objects += 1;
        let refused = Refused {
            address: address.to_string(),
            kind: kind.to_string(),
            schema,
            reason,
        };
        self.list(
            |report| (&mut report.counts.unreadable, &mut report.unreadable),
            refused,
        );
    }

    /// Counts an object, and lists it if its list is not full.
    fn list(&mut self, of: impl FnOnce(&mut DryRun) -> (&mut u64, &mut Vec<Refused>), refused: Refused) {
        let (count, list) = of(&mut self.report);
        *count += 1;
        if list.len() < self.listed_max {
            list.push(refused);
        }
    }
}
