//! Reads everything back and compares.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinSet;

use super::book::{Book, Entry, Which};
use super::progress::Progress;
use super::store::Store;
use crate::harness::{Pool, curl};

/// Objects that are read at once.
const WINDOW: usize = 32;
/// Differences that are told in full.
const TOLD_MAX: u64 = 10;

/// What reading everything back showed.
#[derive(Clone, Copy, Default)]
pub(super) struct Verified {
    pub(super) objects: u64,
    pub(super) mismatched: u64,
    pub(super) failed: u64,
}

enum Seen {
    Same,
    Differs(anyhow::Error),
    Failed(anyhow::Error),
}

/// Reads every object, those made under load too, and compares each with what was last acknowledged.
pub(super) async fn read_everything(stores: &[Store], book: &Arc<Book>) -> Verified {
    let extra = book.extra();
    let total = book.len() + extra.len();
    println!("\nReads every object back and compares");
    let progress = Progress::new("read back", total as u64);
    let mut running: JoinSet<Seen> = JoinSet::new();
    let mut verified = Verified::default();
    for index in 0..total {
        if running.len() >= WINDOW {
            note(&mut verified, running.join_next().await, &progress);
        }
        let (store, book) = (stores[index % stores.len()].clone(), Arc::clone(book));
        let made = index.checked_sub(book.len()).map(|place| Arc::clone(&extra[place]));
        running.spawn(async move {
            match made {
                Some(entry) => compare(&store, &entry).await,
                None => compare(&store, &book.entries()[index]).await,
            }
        });
    }
    while let Some(seen) = running.join_next().await {
        note(&mut verified, Some(seen), &progress);
    }
    progress.finish(&format!(
        "{} objects, {} differ, {} could not be read",
        verified.objects, verified.mismatched, verified.failed
    ));
    verified
}

fn note(verified: &mut Verified, seen: Option<Result<Seen, tokio::task::JoinError>>, progress: &Progress) {
    let seen = match seen {
        Some(Ok(seen)) => seen,
        Some(Err(error)) => Seen::Failed(anyhow!(error)),
        None => return,
    };
    verified.objects += 1;
    progress.set(verified.objects);
    let error = match seen {
        Seen::Same => return,
        Seen::Differs(error) => {
            verified.mismatched += 1;
            error
        }
        Seen::Failed(error) => {
            verified.failed += 1;
            error
        }
    };
    if verified.mismatched + verified.failed <= TOLD_MAX {
        eprintln!("{error:#}");
    }
}

async fn compare(store: &Store, entry: &Entry) -> Seen {
    let address = entry.address();
    let (may_be_gone, must_be_gone) = entry.deletion();
    if may_be_gone {
        match store.is_gone(address).await {
            Ok(true) => return Seen::Same,
            Ok(false) if must_be_gone => return Seen::Differs(anyhow!("object {address} was deleted and is there")),
            Ok(false) => {}
            Err(error) => return Seen::Failed(error),
        }
    }
    let read = async {
        let properties = store.properties(address).await?;
        let body = store.body(address).await?;
        anyhow::Ok((properties, body))
    };
    match read.await.with_context(|| format!("read {address} back")) {
        Err(error) => Seen::Failed(error),
        Ok((properties, body)) => {
            let checked = entry
                .check_properties(&properties, entry.acknowledged(Which::Properties))
                .and_then(|()| entry.check_body(&body, entry.acknowledged(Which::Body)));
            match checked.with_context(|| format!("object {address}")) {
                Ok(()) => Seen::Same,
                Err(error) => Seen::Differs(error),
            }
        }
    }
}

/// How many objects a server lists as its own: it is asked itself, by HTTPS, with the client's certificate.
pub(super) async fn left_on(pool: &Pool, client_dir: &Path, server: &str) -> Result<u64> {
    let https = pool.server(server)?.ready.https;
    let host = format!("{server}.pool.{}", pool.domain().trim_end_matches('.'));
    let file = |name: &str| client_dir.join(name).display().to_string();
    let listed = curl(&[
        "--cacert",
        &file("ca.pem"),
        "--cert",
        &file("client.pem"),
        "--key",
        &file("client.key"),
        "--resolve",
        &format!("{host}:{}:{}", https.port(), https.ip()),
        "--fail-with-body",
        &format!("https://{host}:{}/objects?limit=1000", https.port()),
    ])?
    .success()
    .with_context(|| format!("list the objects of {server}"))?;
    let page: serde_json::Value = serde_json::from_str(&listed.stdout).context("read a listing")?;
    let objects = page
        .get("objects")
        .and_then(serde_json::Value::as_array)
        .context("read a listing")?;
    Ok(objects.len() as u64)
}
