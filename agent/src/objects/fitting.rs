//! In which version the properties of a write are kept.
//!
//! | the object's type       | the properties are in       | kept                                                             |
//! |-------------------------|-----------------------------|------------------------------------------------------------------|
//! | has schemas here        | the object's version        | as they are                                                      |
//! |                         | an older one                | stepped forward to the object's                                  |
//! |                         | a newer one that may be written | as they are                                                  |
//! |                         | one that may not be written | not: 422                                                         |
//! | has none                | the object's or a newer one | as they are                                                      |
//! |                         | an older one                | merged over those that are here, in the object's version        |
//!
//! A new object, and one that gets another type, is stepped forward to the newest version that may be written; it stays as it
//! came where that fails. An object gets another type only with the properties of that type, where either type has schemas
//! here: those that are there are in a version of the former type. Specification: DESIGN.md section 10.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use zones::{Address, ObjectType};

use super::Objects;
use super::body::{STAGED_PIECE_OCTETS, blocking, staging};
use super::local::Local;
use super::steps::KIND;
use super::words::WriteError;
use super::writing::{Prepared, writable};
use crate::schema::MigrateError;
use crate::store::{Entry, StagedStream, StreamSpec};
use crate::vault::{Part, properties};

/// When asking again makes sense while steps cannot be run.
pub(crate) const STEPS_RETRY: Duration = Duration::from_secs(1);

/// What is to be done with the properties of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fit {
    Keep,
    Step { from: u32, to: u32 },
    Merge,
}

impl Local {
    /// Brings the properties of a write to the version of the object that is here, or those of a new one to the newest that may
    /// be written; in the object's turn. Blocks, unless [`Local::fits`].
    ///
    /// # Errors
    ///
    /// [`WriteError::Schema`] and those of the disk.
    pub fn fit(&self, address: &Address, entry: Option<&Entry>, put: Prepared) -> Result<Prepared, WriteError> {
        let put = match entry {
            Some(entry) if writable(entry).is_ok() => self.at_level_of(entry, put)?,
            Some(_) | None => put,
        };
        let Some(octets) = put.octets.clone() else {
            return match entry {
                Some(entry) if self.loses_schema(entry, &put) => retyped(entry, put),
                Some(_) | None => Ok(put),
            };
        };
        match entry {
            Some(entry) if put.kind.as_ref().is_none_or(|kind| *kind == entry.kind) => {
                self.fit_over(entry, put, octets)
            }
            Some(_) | None => {
                // The version that the object was in is one of its former type.
                let schema = put.schema.or(Some(1));
                self.fit_new(address, Prepared { schema, ..put }, octets)
            }
        }
    }

    /// Whether a write needs no fitting.
    #[must_use]
    pub fn fits(&self, entry: Option<&Entry>, put: &Prepared) -> bool {
        let Some(entry) = entry else {
            return put.octets.is_none() || self.stepper().newest(&kind(put)).is_none();
        };
        let same = put.kind.as_ref().is_none_or(|kind| *kind == entry.kind)
            && put.schema.is_none_or(|schema| schema == entry.schema);
        let known = put.write_id.is_some_and(|id| {
            let mut records = entry.writes.iter();
            records.any(|record| record.id == id && record.client == put.client)
        });
        // A repetition, and what is not to be written, are answered as they are.
        let nothing = put.octets.is_none() && !self.loses_schema(entry, put);
        let level = put.level().is_none_or(|level| level == entry.level);
        (nothing || same) && level || known || writable(entry).is_err()
    }

    /// Seals the parts of a write at the object's level, if that has changed since they were taken to disk: the object was
    /// swept, or arrived. The kept part and the new one are of one level.
    fn at_level_of(&self, entry: &Entry, put: Prepared) -> Result<Prepared, WriteError> {
        let sealed = |staged: Option<StagedStream>| match staged {
            Some(staged) if staged.level() != entry.level => self.sealed_anew(entry, &staged).map(Some),
            Some(_) | None => Ok(staged),
        };
        Ok(Prepared {
            properties: sealed(put.properties)?,
            body: sealed(put.body)?,
            ..put
        })
    }

    fn sealed_anew(&self, entry: &Entry, staged: &StagedStream) -> Result<StagedStream, WriteError> {
        let spec = StreamSpec {
            address: entry.address.clone(),
            part: staged.part(),
            level: entry.level,
            octets_hint: Some(staged.plain_octets()),
            reservation: None,
        };
        let reader = self.store().staged_reader(staged);
        let mut writer = self.store().writer(spec).map_err(staging)?;
        let mut offset = 0;
        while offset < staged.plain_octets() {
            let octets = reader.read_at(offset, STAGED_PIECE_OCTETS);
            let octets = octets.map_err(|error| WriteError::Failed {
                what: error.to_string(),
            })?;
            offset += octets.len() as u64;
            writer.write(&octets).map_err(staging)?;
        }
        writer.finish().map_err(staging)
    }

    /// Whether a write gives the object another type, and the version that its properties are in means nothing in that.
    fn loses_schema(&self, entry: &Entry, put: &Prepared) -> bool {
        let has_schemas = |kind: &ObjectType| self.stepper().newest(kind).is_some();
        let other = put.kind.as_ref().filter(|kind| **kind != entry.kind);
        other.is_some_and(|kind| has_schemas(kind) || has_schemas(&entry.kind))
    }

    fn fit_over(&self, entry: &Entry, put: Prepared, octets: Bytes) -> Result<Prepared, WriteError> {
        let (address, kept) = (&entry.address, entry.schema);
        match self.judge(&entry.kind, put.schema.unwrap_or(kept), kept)? {
            Fit::Keep => Ok(put),
            Fit::Step { from, to } => {
                let stepped = self.stepper().bring(&entry.kind, from, to, &octets);
                let octets = stepped.map_err(|error| unstepped(&error, from, to))?;
                self.replace_properties(address, put, octets, to)
            }
            Fit::Merge => {
                let octets = self.merge(entry, &octets)?;
                self.replace_properties(address, put, octets, kept)
            }
        }
    }

    fn fit_new(&self, address: &Address, put: Prepared, octets: Bytes) -> Result<Prepared, WriteError> {
        let kind = kind(&put);
        let Some(newest) = self.stepper().newest(&kind) else {
            return Ok(put);
        };
        match self.judge(&kind, put.schema.unwrap_or(1), newest)? {
            Fit::Step { from, to } => match self.stepper().bring(&kind, from, to, &octets) {
                Ok(octets) => self.replace_properties(address, put, octets, to),
                Err(error) => {
                    tracing::info!(%address, why = error.reason(), "a new object is kept in the version that it came in");
                    Ok(put)
                }
            },
            Fit::Keep | Fit::Merge => Ok(put),
        }
    }

    /// What is done with properties in version `from` of an object in version `kept`.
    fn judge(&self, kind: &ObjectType, from: u32, kept: u32) -> Result<Fit, WriteError> {
        match self.stepper().newest(kind) {
            _ if from == kept => Ok(Fit::Keep),
            None if from > kept => Ok(Fit::Keep),
            None => Ok(Fit::Merge),
            Some(newest) if from > newest => Err(WriteError::Schema {
                why: match self.stepper().runs_all() {
                    true => format!(
                        "schema {from} of {kind} is not known to this server's release, which writes up to {newest}: write that, \
                         or upgrade the pool"
                    ),
                    false => format!(
                        "schema {from} of {kind} may not be written now: the pool writes up to {newest}, which the release before \
                         reads too; a newer version comes with its contract step after finalize, so write schema {newest} until then"
                    ),
                },
            }),
            Some(_) if from > kept => Ok(Fit::Keep),
            Some(_) => Ok(Fit::Step { from, to: kept }),
        }
    }

    /// The properties that are here, with those of a write over them.
    fn merge(&self, entry: &Entry, octets: &[u8]) -> Result<Bytes, WriteError> {
        let failed = |what: String| WriteError::Failed { what };
        let mut merged = match &entry.properties {
            Some(_) => {
                let here = self.store().read_all(entry, Part::Properties);
                let here = here.map_err(|error| failed(error.to_string()))?;
                properties::read(&here).map_err(|error| failed(error.to_string()))?
            }
            None => serde_json::Map::new(),
        };
        merged.extend(properties::read(octets).map_err(|error| failed(error.to_string()))?);
        let merged = properties::canonical(&merged).map_err(|error| failed(error.to_string()))?;
        Ok(Bytes::from(merged))
    }

    fn replace_properties(
        &self,
        address: &Address,
        put: Prepared,
        octets: Bytes,
        schema: u32,
    ) -> Result<Prepared, WriteError> {
        let allowed = self.settings.properties_max;
        if octets.len() as u64 > allowed {
            return Err(WriteError::TooLarge {
                what: "properties, in the object's schema,",
                octets: octets.len() as u64,
                allowed,
            });
        }
        let spec = StreamSpec {
            address: address.clone(),
            part: Part::Properties,
            level: put.level().unwrap_or_else(|| self.level_of(address)),
            octets_hint: Some(octets.len() as u64),
            reservation: None,
        };
        let staged = self.store().write_small(vec![(spec, octets)]).map_err(staging)?;
        Ok(Prepared {
            properties: staged.into_iter().next(),
            schema: Some(schema),
            ..put
        })
    }
}

/// Why properties of a write are not in the object's version.
fn unstepped(error: &MigrateError, from: u32, to: u32) -> WriteError {
    if error.is_of_server() {
        tracing::error!(reason = error.reason(), "steps cannot be run on this server");
        return WriteError::Unavailable {
            why: "schema steps cannot be run on this server at this moment",
            retry_after: STEPS_RETRY,
        };
    }
    WriteError::Schema {
        why: format!(
            "the properties are in schema {from}, the object in {to}, and they cannot be stepped forward: {}",
            error.reason()
        ),
    }
}

/// A write without properties of an object that gets another type.
fn retyped(entry: &Entry, put: Prepared) -> Result<Prepared, WriteError> {
    match (&put.kind, &entry.properties) {
        (Some(kind), Some(_)) => Err(WriteError::Schema {
            why: format!(
                "the object is a {} with properties in schema {}: send the properties of a {kind} when it becomes one",
                entry.kind, entry.schema
            ),
        }),
        (Some(_), None) => Ok(Prepared { schema: Some(1), ..put }),
        (None, _) => Ok(put),
    }
}

fn kind(put: &Prepared) -> ObjectType {
    put.kind.clone().unwrap_or_else(|| KIND.parse().expect("a legal type"))
}

impl Objects {
    /// Brings the properties of a write to the version in which they are kept, in the object's turn.
    pub(super) async fn fit(
        &self,
        address: &Address,
        entry: Option<&Arc<Entry>>,
        put: Prepared,
    ) -> Result<Prepared, WriteError> {
        if self.fits(entry.map(|entry| &**entry), &put) {
            return Ok(put);
        }
        let (local, address, entry) = (Arc::clone(&self.local), address.clone(), entry.cloned());
        blocking(move || local.fit(&address, entry.as_deref(), put)).await
    }
}
