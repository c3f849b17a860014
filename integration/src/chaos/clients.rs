//! Clients that read, write, create and delete while the pool suffers, and note what they saw.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use agent::client::{Client, ClientError, PutObject, Settings, Upload, WriteOptions};
use anyhow::{Context, Result, anyhow, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use zones::Address;

use super::history::{History, Object, What};

/// How long an operation is repeated before its end counts as unknown.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same for the last look at everything, when nothing is broken any more.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// Of so many objects one is deleted at some time.
const DELETED_ONE_IN: u32 = 8;
/// Body of the first objects, in octets: what the first drain moves does not fit into a store that has not grown.
const FIRST_BODY: usize = 256 << 10;
/// Largest body of most writes, in octets.
const BODY_MAX: usize = 64 << 10;
/// Largest body of a few writes: stores grow for them, so a full disk is felt.
const LARGE_BODY_MAX: usize = 3 << 20;

/// Who works on the pool.
#[derive(Debug)]
pub struct Clients {
    client: Client,
    patient: Client,
    history: History,
    objects: AtomicU32,
}

/// What they do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Decides what is done.
    pub seed: u64,
    /// How many are at work at the same time.
    pub clients: usize,
    /// Objects that were there at the beginning.
    pub objects: usize,
}

fn address(object: Object) -> Result<Address> {
    format!("8.{}.{object}", object % 7).parse().context("spell an address")
}

impl Clients {
    /// Clients with the files of a directory.
    ///
    /// # Errors
    ///
    /// When the files are not those of a client.
    pub fn new(dir: &Path, history: History) -> Result<Clients> {
        let with = |patience| -> Result<Client> {
            let settings = Settings {
                patience,
                ..Settings::read(dir)?
            };
            Client::new(settings).context("make a client")
        };
        Ok(Clients {
            client: with(PATIENCE)?,
            patient: with(LAST_PATIENCE)?,
            history,
            objects: AtomicU32::new(0),
        })
    }

    /// What was done and seen.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Makes the first objects.
    ///
    /// # Errors
    ///
    /// When one cannot be made.
    pub async fn create(&self, objects: usize) -> Result<()> {
        for _ in 0..objects {
            let object = self.objects.fetch_add(1, Ordering::Relaxed);
            self.write(object, FIRST_BODY).await?;
        }
        let (_, unknown) = self.history.counts();
        ensure!(unknown == 0, "an object could not be made in a healthy pool");
        Ok(())
    }

    /// Works until told to stop.
    ///
    /// # Errors
    ///
    /// When an operation ends in a way in which none may.
    pub async fn work(self: Arc<Self>, workload: Workload, stop: Arc<AtomicBool>) -> Result<()> {
        let mut tasks = JoinSet::new();
        for number in 0..workload.clients {
            let (clients, stop) = (Arc::clone(&self), Arc::clone(&stop));
            let mut random = SmallRng::seed_from_u64(workload.seed ^ (number as u64 + 1) << 32);
            tasks.spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    clients.one(&mut random).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a client's task")??;
        }
        Ok(())
    }

    async fn one(&self, random: &mut SmallRng) -> Result<()> {
        let objects = self.objects.load(Ordering::Relaxed);
        // Few are hot, so that operations on one object meet.
        let object = random.random_range(0..objects).min(random.random_range(0..objects));
        match random.random_range(0..100) {
            0..50 => self.read(&self.client, object).await,
            50..72 => self.write(object, 0).await,
            72..94 => self.write(object, random.random_range(0..BODY_MAX)).await,
            94..96 => self.write(object, random.random_range(0..LARGE_BODY_MAX)).await,
            96..98 => {
                let object = self.objects.fetch_add(1, Ordering::Relaxed);
                self.write(object, random.random_range(0..BODY_MAX)).await
            }
            _ if object % DELETED_ONE_IN == DELETED_ONE_IN - 1 => self.delete(object).await,
            _ => self.read(&self.client, object).await,
        }
    }

    /// Writes the properties, and a body of so many octets if that is not none.
    async fn write(&self, object: Object, body: usize) -> Result<()> {
        let value = self.history.fresh_value();
        let put = PutObject {
            properties: Some(serde_json::json!({ "value": value })),
            ..PutObject::default()
        };
        let began = self.history.now();
        let (address, options) = (address(object)?, WriteOptions::default());
        let written = match body {
            0 => self.client.put(&address, &put, &options).await,
            _ => {
                let body = Upload::from(vec![0; body]);
                self.client.put_both(&address, &put, body, &options).await
            }
        };
        match written {
            Ok(written) => {
                let revision = Some(written.revision);
                self.history.note(object, began, true, What::Write { value, revision });
            }
            Err(ClientError::Deleted { .. }) => {
                let value = Some(value);
                self.history.note(object, began, true, What::Gone { value });
            }
            Err(error) if is_unknown(&error) => {
                self.history
                    .note(object, began, false, What::Write { value, revision: None });
            }
            Err(error) => return Err(anyhow!(error).context(format!("write object {object}"))),
        }
        Ok(())
    }

    async fn read(&self, client: &Client, object: Object) -> Result<()> {
        let began = self.history.now();
        match client.get(&address(object)?).await {
            Ok(found) => {
                let value = found.properties.get("value").and_then(serde_json::Value::as_u64);
                let what = What::Read {
                    value: value.with_context(|| format!("object {object} has lost its properties"))?,
                    revision: found.revision,
                };
                self.history.note(object, began, true, what);
            }
            Err(ClientError::Deleted { .. }) => self.history.note(object, began, true, What::Gone { value: None }),
            // Somebody has begun to make it, no more.
            Err(ClientError::Absent { .. }) => self.history.note(object, began, true, What::Absent),
            Err(error) if is_unknown(&error) => {}
            Err(error) => return Err(anyhow!(error).context(format!("read object {object}"))),
        }
        Ok(())
    }

    async fn delete(&self, object: Object) -> Result<()> {
        let began = self.history.now();
        let done = match self.client.delete(&address(object)?, &WriteOptions::default()).await {
            Ok(()) => true,
            Err(ClientError::Deleted { .. }) => {
                self.history.note(object, began, true, What::Gone { value: None });
                return Ok(());
            }
            Err(ClientError::Absent { .. }) => {
                self.history.note(object, began, true, What::Absent);
                return Ok(());
            }
            Err(error) if is_unknown(&error) => false,
            Err(error) => return Err(anyhow!(error).context(format!("delete object {object}"))),
        };
        self.history.note(object, began, done, What::Delete { done });
        Ok(())
    }

    /// Reads every object when nothing is broken any more: each must be there, or be gone.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub async fn read_all(&self) -> Result<()> {
        for object in 0..self.objects.load(Ordering::Relaxed) {
            let began = self.history.now();
            let what = match self.patient.get(&address(object)?).await {
                Ok(found) => {
                    let value = found.properties.get("value").and_then(serde_json::Value::as_u64);
                    What::Read {
                        value: value.with_context(|| format!("object {object} has lost its properties"))?,
                        revision: found.revision,
                    }
                }
                Err(ClientError::Deleted { .. }) => What::Gone { value: None },
                // A creation of unknown end may not have been: the history knows whether it was acknowledged.
                Err(ClientError::Absent { .. }) if !self.history.was_acknowledged(object) => What::Absent,
                Err(error) => return Err(anyhow!(error).context(format!("read object {object} at the end"))),
            };
            self.history.note(object, began, true, what);
        }
        Ok(())
    }
}

/// Whether an operation that ended so may or may not have been done.
fn is_unknown(error: &ClientError) -> bool {
    match error {
        ClientError::Exhausted { .. } | ClientError::Locate { .. } | ClientError::NoServer => true,
        // A crash in the middle of a request can end in nothing else.
        ClientError::Refused { status, .. } => *status >= 500,
        _ => false,
    }
}
