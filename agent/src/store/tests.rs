//! Facts about the whole store, on a real and on a simulated disk.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;
use zones::{Address, Epoch, Level, Tx};

use super::*;
use crate::vault::entropy::Noise;
use crate::vault::entropy::tests::SeededEntropy;
use crate::vault::{Entropy, Keyring, PoolKey, Secret};

pub(crate) mod audit;
mod basic;
pub(crate) mod chance;
mod copies;
mod damage;
mod full;
mod levels;
mod places;
mod power;
mod rotation;
mod tampering;

/// The key that opens every test's keyring.
pub(crate) fn secret() -> Secret {
    Secret::Key(Zeroizing::new([7; 32]))
}

/// Opens or makes the keyring of a disk.
pub(crate) fn vault(disk: &Arc<dyn Disk>, seed: u64) -> Arc<Vault> {
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let keyring = Keyring::open(disk.clone(), &secret(), entropy.clone())
        .or_else(|_| Keyring::create(disk.clone(), &secret(), entropy.clone()))
        .unwrap();
    Arc::new(Vault::with_entropy(Box::new(keyring), PoolKey::new([9; 32]), entropy))
}

pub(crate) fn settings(capacity_mib: u64) -> Settings {
    Settings {
        capacity: capacity_mib << 20,
        step: 1 << 20,
        volume: 4 << 20,
        cache: 1 << 20,
        ..Settings::default()
    }
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().unwrap()
}

pub(crate) fn spec(address: &Address, part: Part) -> StreamSpec {
    StreamSpec {
        address: address.clone(),
        part,
        level: Level(1),
        octets_hint: None,
        reservation: None,
    }
}

/// Octets that differ everywhere.
pub(crate) fn octets(seed: u64, count: usize) -> Vec<u8> {
    let mut octets = vec![0; count];
    Noise::new(&SeededEntropy::new(seed)).fill(&mut octets);
    octets
}

pub(crate) fn write(store: &Store, address: &Address, part: Part, content: &[u8]) -> Result<StagedStream, StreamError> {
    let mut writer = store.writer(spec(address, part))?;
    for piece in content.chunks(10_000) {
        writer.write(piece)?;
    }
    writer.finish()
}

pub(crate) fn new_entry(address: &Address, revision: u64, body: Content) -> NewEntry {
    NewEntry {
        address: address.clone(),
        epoch: Epoch(1),
        revision,
        kind: "file".parse().unwrap(),
        schema: 1,
        level: Level(1),
        journal: Journal::Active { wait: None },
        properties: Content::Absent,
        body,
        writes: Vec::new(),
        tx: Some(Tx([3; 16])),
        from: None,
        received: None,
        quarantined: None,
        migrated_from: None,
        leaving: None,
        keeping: None,
        audit: None,
    }
}

pub(crate) fn put(store: &Store, address: &Address, revision: u64, content: &[u8]) -> Arc<Entry> {
    let staged = write(store, address, Part::Body, content).unwrap();
    store
        .commit(vec![Change::Insert(new_entry(
            address,
            revision,
            Content::Staged(staged),
        ))])
        .unwrap()
        .pop()
        .unwrap()
}

pub(crate) fn body(store: &Store, entry: &Entry) -> Bytes {
    store.read_all(entry, Part::Body).unwrap()
}
