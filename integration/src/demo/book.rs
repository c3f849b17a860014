//! What every object must be: the demo's own account of what it wrote, to compare the pool with.
//!
//! Each write changes one part of an object to its next version, and every version of a part can be computed. Each
//! object has one writer, so the versions a reader may see are known: none before the last that was acknowledged when
//! the read began, none after the last that was sent when it ended.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use zones::Address;

use crate::objects::Sample;

/// Property that says which version the properties are.
const VERSION: &str = "demo_version";

/// Every object of the demo.
pub(super) struct Book {
    entries: Vec<Entry>,
    extra: Mutex<Extra>,
}

/// Objects made under load.
#[derive(Default)]
struct Extra {
    all: Vec<Arc<Entry>>,
    /// How many of them, the oldest first, were handed out to be deleted.
    taken: usize,
}

/// One object.
pub(super) struct Entry {
    pub(super) sample: Sample,
    versions: Mutex<Versions>,
}

#[derive(Clone, Copy, Default)]
struct Versions {
    properties: Part,
    body: Part,
    deleting: bool,
    deleted: bool,
}

/// Versions of one part: 0 is the sample itself.
#[derive(Clone, Copy, Default)]
struct Part {
    acknowledged: u64,
    sent: u64,
}

/// A part of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    Properties,
    Body,
}

impl Book {
    pub(super) fn new(samples: Vec<Sample>) -> Book {
        Book {
            entries: samples.into_iter().map(Entry::new).collect(),
            extra: Mutex::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn octets(&self) -> Result<u64> {
        self.entries.iter().map(|entry| entry.sample.octets()).sum()
    }

    pub(super) fn first(&self) -> &Address {
        &self.entries[0].sample.address
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Notes an object that was made under load.
    pub(super) fn add(&self, entry: Arc<Entry>) {
        self.extra
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all
            .push(entry);
    }

    /// The oldest object made under load that was not taken yet, if there are more than `spare` of them: to be deleted.
    pub(super) fn take_made(&self, spare: usize) -> Option<Arc<Entry>> {
        let mut extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        if extra.all.len() <= extra.taken + spare {
            return None;
        }
        extra.taken += 1;
        extra.all.get(extra.taken - 1).cloned()
    }

    /// Objects that were made under load.
    pub(super) fn extra(&self) -> Vec<Arc<Entry>> {
        self.extra.lock().unwrap_or_else(PoisonError::into_inner).all.clone()
    }
}

impl Entry {
    pub(super) fn new(sample: Sample) -> Entry {
        Entry {
            sample,
            versions: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.sample.address
    }

    /// Notes that the next version of a part is about to be sent, and says which one.
    pub(super) fn send(&self, which: Which) -> u64 {
        let mut versions = self.lock();
        let part = versions.part(which);
        part.sent += 1;
        part.sent
    }

    /// Notes that a version was acknowledged.
    pub(super) fn acknowledge(&self, which: Which, version: u64) {
        let mut versions = self.lock();
        let part = versions.part(which);
        part.acknowledged = part.acknowledged.max(version);
    }

    /// Notes that a deletion is about to be sent, or was acknowledged.
    pub(super) fn delete(&self, acknowledged: bool) {
        let mut versions = self.lock();
        versions.deleting = true;
        versions.deleted |= acknowledged;
    }

    /// Whether it may be gone, and whether it must be.
    pub(super) fn deletion(&self) -> (bool, bool) {
        let versions = self.lock();
        (versions.deleting, versions.deleted)
    }

    /// The last acknowledged version of a part: what a read that begins now must show at least.
    pub(super) fn acknowledged(&self, which: Which) -> u64 {
        self.lock().part(which).acknowledged
    }

    /// Versions that a read may show which began when `least` was acknowledged and ends now.
    pub(super) fn allowed(&self, which: Which, least: u64) -> RangeInclusive<u64> {
        least..=self.lock().part(which).sent
    }

    /// The properties in one version.
    pub(super) fn properties(&self, version: u64) -> Map<String, Value> {
        let mut properties = self.sample.properties.clone();
        if version > 0 {
            properties.insert(VERSION.to_owned(), version.into());
        }
        properties
    }

    /// The body in one version.
    pub(super) fn body(&self, version: u64) -> Vec<u8> {
        let mut body = self.sample.body.clone();
        if version > 0 {
            body.extend_from_slice(format!("\n<!-- demo version {version:010} -->\n").as_bytes());
        }
        body
    }

    /// Whether properties that were read are one of the allowed versions.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(super) fn check_properties(&self, found: &Map<String, Value>, least: u64) -> Result<()> {
        let allowed = self.allowed(Which::Properties, least);
        let version = match found.get(VERSION) {
            None => 0,
            Some(version) => version.as_u64().context("the version is a number")?,
        };
        anyhow::ensure!(
            allowed.contains(&version),
            "properties are at version {version}, not in {allowed:?}"
        );
        anyhow::ensure!(
            *found == self.properties(version),
            "properties differ from what was written as version {version}"
        );
        Ok(())
    }

    /// Whether a body that was read is one of the allowed versions.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn check_body(&self, found: &[u8], least: u64) -> Result<()> {
        let allowed = self.allowed(Which::Body, least);
        // The newest first: that is what is nearly always found.
        let right = allowed.clone().rev().any(|version| found == self.body(version));
        anyhow::ensure!(
            right,
            "the body of {} octets is none of the versions {allowed:?}",
            found.len()
        );
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Versions {
    fn part(&mut self, which: Which) -> &mut Part {
        match which {
            Which::Properties => &mut self.properties,
            Which::Body => &mut self.body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::generate;

    #[test]
    fn a_lost_update_and_a_foreign_body_are_noticed() {
        let entry = Entry::new(generate(1, 1).remove(0));
        assert!(entry.check_body(&entry.body(0), 0).is_ok());
        let version = entry.send(Which::Body);
        assert!(
            entry.check_body(&entry.body(0), 0).is_ok(),
            "not yet acknowledged: the old one may be seen"
        );
        entry.acknowledge(Which::Body, version);
        let least = entry.acknowledged(Which::Body);
        assert!(
            entry.check_body(&entry.body(0), least).is_err(),
            "acknowledged: the old one may not be seen"
        );
        assert!(entry.check_body(&entry.body(1), least).is_ok());
        assert!(entry.check_body(b"another", least).is_err());
        let mut properties = entry.properties(0);
        assert!(entry.check_properties(&properties, 0).is_ok());
        properties.insert("name".to_owned(), "another".into());
        assert!(entry.check_properties(&properties, 0).is_err());
        assert!(
            entry.check_properties(&entry.properties(7), 0).is_err(),
            "a version that was never sent"
        );
    }
}
