//! `librarian upgrade quarantine`: the objects that a schema step failed on.
//!
//! The list lies on the servers. This command reads it over HTTPS, as `librarian audit` reads the logs.

use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::servers::{Servers, each};
use crate::control::words::Server;

/// One object of the list.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Quarantined {
    /// Its address.
    pub(super) address: String,
    /// Its type.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The version that it is in.
    pub(super) schema: u32,
    /// Why it is not in the newest one.
    pub(super) reason: String,
    /// The server that owns it; filled in here.
    #[serde(default)]
    pub(super) server: String,
}

/// Prints the list.
pub(super) fn list(dir: &Path, json: bool) -> anyhow::Result<()> {
    let all = read(dir)?;
    if json {
        return super::say_json(&all);
    }
    if all.is_empty() {
        return super::say("no object is on the quarantine list");
    }
    all.iter().try_for_each(|object| {
        super::say(&format!(
            "{}  {} version {} on {}: {}",
            object.address, object.kind, object.schema, object.server, object.reason
        ))
    })
}

/// Reads the lists of all servers, by address.
pub(super) fn read(dir: &Path) -> anyhow::Result<Vec<Quarantined>> {
    let mut all: Vec<Quarantined> = Vec::new();
    let mut unreached = Vec::new();
    each(dir, |servers, server, _| match of(servers, server) {
        Ok(list) => all.extend(list),
        Err(error) => unreached.push(format!("{}: {error:#}", server.name)),
    })?;
    if !unreached.is_empty() {
        bail!("lists that were not read: {}", unreached.join("; "));
    }
    all.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(all)
}

/// A server's list, page by page.
fn of(servers: &Servers, server: &Server) -> anyhow::Result<Vec<Quarantined>> {
    let mut all = Vec::new();
    let mut path = "/quarantine".to_owned();
    loop {
        let page: Page = servers.get(server, &path)?;
        all.extend(page.objects.into_iter().map(|object| Quarantined {
            server: server.name.clone(),
            ..object
        }));
        match page.next {
            Some(next) => path = format!("/quarantine?after={next}"),
            None => return Ok(all),
        }
    }
}

/// A page of a server's list, as it tells it.
#[derive(Deserialize)]
struct Page {
    objects: Vec<Quarantined>,
    next: Option<String>,
}
