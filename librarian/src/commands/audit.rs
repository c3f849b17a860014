//! `librarian audit`: the moves of an object, and whether every server's log is whole.
//!
//! Logs lie on the servers. This command reads them over HTTPS, with a certificate that it makes for itself, and compares them
//! with the heads that the running librarian keeps.

use std::path::Path;

use anyhow::bail;
use certs::Anchor;
use serde::{Deserialize, Serialize};
use zones::audit::{ChainFault, Entry, Head, Verifier};
use zones::{Address, ServerName};

use super::servers::{Servers, each};
use crate::control::words::Server;

/// Entries of one page.
const PAGE: usize = 1000;

/// A page of a server's log, as it tells it.
#[derive(Deserialize)]
struct Page {
    head: Option<Signed>,
    entries: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    number: u64,
    line: String,
}

/// What a server says of its log, and signs.
#[derive(Clone, Deserialize)]
struct Signed {
    server: String,
    anchor: String,
    head: String,
    signature: String,
    certificate: String,
}

/// What was found of one server's log.
#[derive(Debug, Serialize)]
struct Found {
    server: String,
    /// Entries that the log has ever had.
    entries: u64,
    /// Entries that were cut off by age.
    cut: u64,
    /// What is wrong; empty for a whole log.
    faults: Vec<String>,
}

/// The moves of one object, or all of them.
pub(super) fn list(dir: &Path, address: Option<&Address>, json: bool) -> anyhow::Result<()> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut unreached = Vec::new();
    each(dir, |servers, server, _| {
        let read = read(servers, server, |_, line| {
            // A line that cannot be read is for `audit verify` to tell.
            if let Ok(entry) = Entry::read(line)
                && address.is_none_or(|address| entry.address == *address)
            {
                entries.push(entry);
            }
        });
        if let Err(error) = read {
            unreached.push(format!("{}: {error:#}", server.name));
        }
    })?;
    entries.sort_by_key(|entry| (entry.time_ms, entry.epoch));
    for entry in &entries {
        match json {
            true => super::say(&entry.line())?,
            false => super::say(&describe(entry))?,
        }
    }
    if !unreached.is_empty() {
        bail!("logs that were not read: {}", unreached.join("; "));
    }
    Ok(())
}

/// Whether every log is whole, and the one that was told of.
pub(super) fn verify(dir: &Path, json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    each(dir, |servers, server, anchor| {
        let found = check(servers, server, anchor);
        if !json {
            let state = match found.faults.is_empty() {
                true => "whole".to_owned(),
                false => found.faults.join("; "),
            };
            drop(super::say(&format!(
                "{}: {} entries, {state}",
                found.server, found.entries
            )));
        }
        all.push(found);
    })?;
    if json {
        super::say_json(&all)?;
    }
    let bad: Vec<&str> = all
        .iter()
        .filter(|found| !found.faults.is_empty())
        .map(|found| found.server.as_str())
        .collect();
    match bad.as_slice() {
        [] => Ok(()),
        bad => bail!(
            "the logs of {} are not whole: keep their disks as they are, and find out who could write to them",
            bad.join(", ")
        ),
    }
}

fn describe(entry: &Entry) -> String {
    let arrow = |from: String, to: String| match from == to {
        true => to,
        false => format!("{from} to {to}"),
    };
    format!(
        "{}  {}  {} to {}, epoch {}, schema {}, level {}, {} ({})",
        time(entry.time_ms),
        entry.address,
        entry.from,
        entry.to,
        entry.epoch,
        arrow(entry.schema_from.to_string(), entry.schema_to.to_string()),
        arrow(entry.level_from.to_string(), entry.level_to.to_string()),
        entry.result,
        entry.actor
    )
}

/// RFC 3339, to the second.
fn time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{unix_ms} ms"))
}

/// Reads a log page by page; the head is that of the last page.
fn read(servers: &Servers, server: &Server, mut line: impl FnMut(u64, &[u8])) -> anyhow::Result<Option<Signed>> {
    let mut after = 0;
    loop {
        let page: Page = servers.get(server, &format!("/audit?after={after}&limit={PAGE}"))?;
        for entry in &page.entries {
            line(entry.number, entry.line.as_bytes());
            after = after.max(entry.number);
        }
        // Moves may go on meanwhile: the head that counts is the one behind which nothing follows.
        let whole = page.head.as_ref().is_none_or(|head| {
            let end = head.head.parse::<Head>().map_or(0, |head| head.count);
            page.entries.is_empty() || end <= after
        });
        if whole {
            return Ok(page.head);
        }
    }
}

fn check(servers: &Servers, server: &Server, anchor: &Anchor) -> Found {
    let mut found = Found {
        server: server.name.clone(),
        entries: 0,
        cut: 0,
        faults: Vec::new(),
    };
    match examine(servers, server, anchor, &mut found) {
        Ok(()) => {}
        Err(error) => found.faults.push(format!("it cannot be read: {error:#}")),
    }
    found
}

fn examine(servers: &Servers, server: &Server, anchor: &Anchor, found: &mut Found) -> anyhow::Result<()> {
    let kept = server.audit.as_deref().map(str::parse::<Head>).transpose()?;
    let mut lines: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut unreadable = 0_u64;
    let signed = read(servers, server, |number, line| {
        unreadable += u64::from(Entry::read(line).is_err());
        lines.push((number, line.to_vec()));
    })?;
    if unreadable > 0 {
        found.faults.push(format!("{unreadable} entries cannot be read"));
    }
    let name: ServerName = server.name.parse()?;
    let Some(signed) = signed else {
        if let Some(kept) = kept.filter(|kept| kept.count > 0) {
            let (kept, found_now) = (kept.count, 0);
            let fault = ChainFault::CutBack { kept, found: found_now };
            found.faults.push(fault.to_string());
        }
        return Ok(());
    };
    let (begin, head): (Head, Head) = (signed.anchor.parse()?, signed.head.parse()?);
    (found.entries, found.cut) = (head.count, begin.count);
    if signed.server != server.name {
        found.faults.push(format!("it is the log of {}", signed.server));
    }
    if begin.count == 0 && begin != Head::first(&name) {
        found.faults.push("its first entry follows another log's".to_owned());
    }
    let signature = data_encoding::HEXLOWER
        .decode(signed.signature.as_bytes())
        .unwrap_or_default();
    let octets = head.signed_octets(&name, &begin);
    if let Err(error) = certs::sign::verify_of_server(anchor, &signed.certificate, &name, &octets, &signature) {
        found.faults.push(format!("its head is not signed by {name}: {error}"));
    }
    if let Err(fault) = follow(begin, head, kept, &lines) {
        found.faults.push(fault.to_string());
    }
    Ok(())
}

/// Follows the chain from where the log begins to its head.
fn follow(begin: Head, head: Head, kept: Option<Head>, lines: &[(u64, Vec<u8>)]) -> Result<(), ChainFault> {
    // What the librarian kept may be older than the read, and newer than what was cut off.
    let mut verifier = Verifier::new(begin, kept);
    // While the pages were read, moves may have gone on and cut entries off that an earlier page had.
    for (number, line) in lines.iter().filter(|(number, _)| *number > begin.count) {
        verifier.line(*number, line);
    }
    verifier.end(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_that_ages_while_its_pages_are_read_is_whole() {
        let lines: Vec<(u64, Vec<u8>)> = (1..=4).map(|number| (number, vec![b'x'; 3])).collect();
        let first = Head::first(&"s2".parse().unwrap());
        let after = |count: usize| lines[..count].iter().fold(first, |head, (_, line)| head.next(line));
        for cut in 0..4 {
            assert_eq!(
                follow(after(cut), after(4), Some(after(3)), &lines),
                Ok(()),
                "{cut} cut off"
            );
        }
        assert!(
            follow(after(2), after(4), None, &lines[..3]).is_err(),
            "the last is missing"
        );
        assert!(
            follow(after(2), after(4), None, &lines[3..]).is_err(),
            "the third is missing"
        );
    }
}
