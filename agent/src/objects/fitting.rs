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
//! came where that fails. Specification: DESIGN.md section 10.

use std::sync::Arc;

use bytes::Bytes;
use zones::{Address, ObjectType};

use super::Objects;
use super::body::blocking;
use super::steps::KIND;
use super::words::WriteError;
use super::writing::{Prepared, writable};
use crate::store::Entry;
use crate::vault::{Part, properties};

/// What is to be done with the properties of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fit {
    Keep,
    Step { from: u32, to: u32 },
    Merge,
}

impl Objects {
    /// Brings the properties of a write to the version of the object that is here; in the object's turn.
    pub(super) async fn fit(&self, entry: &Arc<Entry>, put: Prepared) -> Result<Prepared, WriteError> {
        let known = put.write_id.is_some_and(|id| {
            let mut records = entry.writes.iter();
            records.any(|record| record.id == id && record.client == put.client)
        });
        if put.octets.is_none() || known || writable(entry).is_err() {
            // Nothing to bring, or nothing will be written.
            return Ok(put);
        }
        match &put.kind {
            Some(kind) if *kind != entry.kind => return self.fit_new(&entry.address, put).await,
            Some(_) | None => {}
        }
        let from = put.schema.unwrap_or(entry.schema);
        match self.judge(&entry.kind, from, entry.schema)? {
            Fit::Keep => Ok(put),
            Fit::Step { from, to } => {
                let octets = put.octets.clone().unwrap_or_default();
                let stepped = self.bring(&entry.kind, from, to, octets).await;
                let octets = stepped.map_err(|why| WriteError::Schema {
                    why: format!(
                        "the properties are in schema {from}, the object in {to}, and they cannot be stepped forward: {why}"
                    ),
                })?;
                self.replace_properties(&entry.address, put, octets, to).await
            }
            Fit::Merge => {
                let octets = put.octets.clone().unwrap_or_default();
                let octets = self.merge(entry, octets).await?;
                self.replace_properties(&entry.address, put, octets, entry.schema).await
            }
        }
    }

    /// Brings the properties of a new object to the newest version that may be written.
    pub(super) async fn fit_new(&self, address: &Address, put: Prepared) -> Result<Prepared, WriteError> {
        let Some(octets) = put.octets.clone() else {
            return Ok(put);
        };
        let kind = put.kind.clone().unwrap_or_else(|| KIND.parse().expect("a legal type"));
        let from = put.schema.unwrap_or(1);
        let Some(newest) = self.stepper().newest(&kind) else {
            return Ok(put);
        };
        match self.judge(&kind, from, newest)? {
            Fit::Step { from, to } => match self.bring(&kind, from, to, octets).await {
                Ok(octets) => self.replace_properties(address, put, octets, to).await,
                Err(why) => {
                    tracing::info!(%address, why, "a new object is kept in the version that it came in");
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
                why: format!(
                    "schema {from} of {kind} may not be written now: the pool writes up to {newest}, later ones when an upgrade \
                     is finalized"
                ),
            }),
            Some(_) if from > kept => Ok(Fit::Keep),
            Some(_) => Ok(Fit::Step { from, to: kept }),
        }
    }

    async fn bring(&self, kind: &ObjectType, from: u32, to: u32, octets: Bytes) -> Result<Bytes, String> {
        let (local, kind) = (Arc::clone(&self.local), kind.clone());
        let brought = blocking(move || local.stepper().bring(&kind, from, to, &octets)).await;
        brought.map_err(|error| error.reason())
    }

    /// The properties that are here, with those of a write over them.
    async fn merge(&self, entry: &Arc<Entry>, octets: Bytes) -> Result<Bytes, WriteError> {
        let (local, entry) = (Arc::clone(&self.local), Arc::clone(entry));
        let failed = |what: String| WriteError::Failed { what };
        blocking(move || {
            let mut merged = match &entry.properties {
                Some(_) => {
                    let here = local.store().read_all(&entry, Part::Properties);
                    let here = here.map_err(|error| failed(error.to_string()))?;
                    properties::read(&here).map_err(|error| failed(error.to_string()))?
                }
                None => serde_json::Map::new(),
            };
            merged.extend(properties::read(&octets).map_err(|error| failed(error.to_string()))?);
            let merged = properties::canonical(&merged).map_err(|error| failed(error.to_string()))?;
            Ok(Bytes::from(merged))
        })
        .await
    }

    async fn replace_properties(
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
        let staged = self.stage_small(address, Part::Properties, octets).await?;
        Ok(Prepared {
            properties: Some(staged),
            schema: Some(schema),
            ..put
        })
    }
}
