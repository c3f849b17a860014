//! The pool as an application sees it: the Rust client, with its whole objects.

use std::path::Path;

use agent::client::{Client, ClientError, Counts, PutObject, Settings, Summary, Upload, WriteOptions};
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use zones::Address;

use crate::objects::Sample;

/// One client: its own connections, its own look at DNS.
#[derive(Clone)]
pub(super) struct Store {
    client: Client,
    /// The version of every type that this application knows; absent: whatever there is.
    schema: Option<u32>,
}

impl Store {
    /// Several clients with the same identity.
    pub(super) fn several(client_dir: &Path, count: usize, schema: Option<u32>) -> Result<Vec<Store>> {
        (0..count)
            .map(|_| {
                let settings = Settings::read(client_dir).context("read the client's files")?;
                let client = Client::new(settings).context("make a client")?;
                Ok(Store { client, schema })
            })
            .collect()
    }

    /// Makes an object: type, properties and body.
    pub(super) async fn create(&self, sample: &Sample) -> Result<()> {
        let object = PutObject {
            kind: Some(sample.kind.clone()),
            schema: self.schema,
            properties: Some(Value::Object(sample.properties.clone())),
        };
        let body = Upload::from(sample.body.clone());
        self.client
            .put_both(&sample.address, &object, body, &WriteOptions::default())
            .await?;
        Ok(())
    }

    /// Replaces the properties.
    pub(super) async fn put_properties(&self, address: &Address, properties: Map<String, Value>) -> Result<()> {
        let object = PutObject {
            properties: Some(Value::Object(properties)),
            schema: self.schema,
            ..PutObject::default()
        };
        self.client.put(address, &object, &WriteOptions::default()).await?;
        Ok(())
    }

    /// Replaces the body.
    pub(super) async fn put_body(&self, address: &Address, body: Vec<u8>) -> Result<()> {
        self.client
            .put_body(address, Upload::from(body), &WriteOptions::default())
            .await?;
        Ok(())
    }

    /// Reads the properties.
    pub(super) async fn properties(&self, address: &Address) -> Result<Map<String, Value>> {
        let object = match self.schema {
            Some(version) => self.client.get_in_schema(address, version).await?,
            None => self.client.get(address).await?,
        };
        Ok(object.properties)
    }

    /// Reads the whole body.
    pub(super) async fn body(&self, address: &Address) -> Result<Vec<u8>> {
        let mut body = self.client.get_body(address, None).await?;
        let mut whole = Vec::new();
        while let Some(octets) = body.next().await? {
            whole.extend_from_slice(&octets);
        }
        Ok(whole)
    }

    /// Lists every object of the pool.
    pub(super) async fn list(&self) -> Result<Vec<Summary>> {
        Ok(self.client.list(None).await?)
    }

    /// Deletes an object.
    pub(super) async fn delete(&self, address: &Address) -> Result<()> {
        self.client.delete(address, &WriteOptions::default()).await?;
        Ok(())
    }

    /// Whether the object is gone; an error if that cannot be told.
    pub(super) async fn is_gone(&self, address: &Address) -> Result<bool> {
        match self.client.get(address).await {
            Ok(_) => Ok(false),
            Err(ClientError::Absent { .. } | ClientError::Deleted { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// What all clients counted together.
pub(super) fn counts(stores: &[Store]) -> Counts {
    let mut sum = Counts::default();
    for store in stores {
        let counts = store.client.counts();
        sum.requests += counts.requests;
        sum.retries += counts.retries;
        sum.redirects += counts.redirects;
        sum.resumes += counts.resumes;
        sum.questions += counts.questions;
    }
    sum
}
