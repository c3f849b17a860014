//! Objects to fill a pool with: generated ones that look like real ones, or real ones from a file.

mod generate;
mod load;
mod zipf;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use zones::{Address, ObjectType};

pub use generate::generate;
pub use load::{LoadError, Loaded, Skipped, load};
pub use zipf::Zipf;

/// One object before it is in a pool: what a client puts.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its permanent address.
    pub address: Address,
    /// Its type.
    pub kind: ObjectType,
    /// Its properties.
    pub properties: Map<String, Value>,
    /// Its body; may be empty.
    pub body: Vec<u8>,
}

impl Sample {
    /// Properties and body in octets: what it roughly weighs in a pool.
    ///
    /// # Errors
    ///
    /// Never in practice: a JSON object can always be written.
    pub fn octets(&self) -> Result<u64> {
        let properties = serde_json::to_vec(&self.properties).context("write properties")?;
        Ok((properties.len() + self.body.len()) as u64)
    }
}
