//! Backups of a keyring: the live generations, sealed under the keyring's own secret, for one server and a bounded time.
//!
//! A backup undoes the end of generations for as long as it exists, so it says when it ends, and a restore brings back only
//! what the index still names. The end is a rule that this program keeps: whoever has the file and the secret can read the
//! keys for ever. Octets: STORE.md section 7.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::{
    Content, FILE, Key, KeyringError, Protector, Secret, open_octets, read_spelled, seal_key, seal_octets, unix_s,
    unseal,
};
use crate::store::io::Disk;
use crate::vault::entropy::{Entropy, array};
use crate::vault::provider::Generation;
use crate::vault::suite::TAG_OCTETS;

const FORMAT: &str = "hn-keys-backup-1";

#[derive(Encode, Decode)]
#[cbor(map)]
struct Backup {
    #[n(0)]
    format: String,
    #[n(1)]
    protector: Protector,
    #[cbor(n(2), with = "minicbor::bytes")]
    nonce: [u8; 24],
    #[cbor(n(3), with = "minicbor::bytes")]
    sealed: Vec<u8>,
    #[n(4)]
    server: String,
    #[n(5)]
    expires_unix_s: u64,
}

impl Backup {
    fn associated(&self) -> Vec<u8> {
        minicbor::to_vec((&self.format, &self.protector, &self.server, self.expires_unix_s)).expect("memory takes all")
    }
}

/// Why a backup cannot be made or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The keyring, or the secret.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The octets are no backup.
    #[error("the file is no backup of a keyring: {what}")]
    Format {
        /// What is wrong.
        what: &'static str,
    },
    /// The secret is not the one, or the file was changed.
    #[error("the backup does not open: the keyring's secret is another one, or the file was changed")]
    Wrong,
    /// It is of another server.
    #[error("the backup is of {found}, this server is {expected}: its keys open nothing here")]
    AnotherServer {
        /// Whose it is.
        found: String,
        /// Who this is.
        expected: String,
    },
    /// Its time is over.
    #[error(
        "the backup ended {ago_s} s ago: generations that it holds were to be destroyed by then. Use a younger one, or let the \
         objects of this server be repaired from their other holders"
    )]
    Expired {
        /// Since when.
        ago_s: u64,
    },
}

/// What a restore brought back.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Restored {
    /// Generations whose keys are here again.
    pub generations: Vec<u32>,
    /// Generations of the backup that no row names: ended since, and not brought back.
    pub left_out: Vec<u32>,
    /// Generations that rows name and the backup does not have, with their rows: these copies do not open.
    pub missing: BTreeMap<u32, u64>,
    /// The new current generation.
    pub current: u32,
}

/// Seals the live generations of the keyring file's `octets` as a backup that ends at `expires_unix_s`.
///
/// # Errors
///
/// [`BackupError::Keyring`] where the keyring does not open.
pub fn make(
    octets: &[u8],
    secret: &Secret,
    server: &str,
    expires_unix_s: u64,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, BackupError> {
    let (protector, seal_key, content) = open_octets(octets, secret)?;
    let mut text = Zeroizing::new(Vec::with_capacity(64 + content.keys.len() * 64));
    minicbor::encode(&content, &mut *text).expect("memory takes all");
    let mut backup = Backup {
        format: FORMAT.to_owned(),
        protector,
        nonce: array(entropy),
        sealed: Vec::new(),
        server: server.to_owned(),
        expires_unix_s,
    };
    let tag = XChaCha20Poly1305::new((&*seal_key).into())
        .encrypt_inout_detached(
            &XNonce::from(backup.nonce),
            &backup.associated(),
            text.as_mut_slice().into(),
        )
        .expect("a keyring is far below the limit of 256 GiB");
    backup.sealed = text.to_vec();
    backup.sealed.extend_from_slice(&tag);
    Ok(minicbor::to_vec(&backup).expect("memory takes all"))
}

fn open(octets: &[u8], secret: &Secret) -> Result<(Backup, Zeroizing<[u8; 32]>, Content), BackupError> {
    let format = |what| BackupError::Format { what };
    let backup: Backup = read_spelled(octets, |backup: &Backup| backup.format == FORMAT).map_err(format)?;
    if backup.sealed.len() < TAG_OCTETS {
        return Err(format("it was cut"));
    }
    let key = seal_key(&backup.protector, secret)?;
    let text = unseal(&key, backup.nonce, &backup.associated(), &backup.sealed).ok_or(BackupError::Wrong)?;
    let content = minicbor::decode(&text).map_err(|_| format("its content is not CBOR of the right shape"))?;
    Ok((backup, key, content))
}

/// Opens the octets of a backup; the fuzz target's way in.
#[doc(hidden)]
pub fn check_octets(octets: &[u8], secret: &Secret) -> Result<(), BackupError> {
    open(octets, secret).map(drop)
}

/// Writes the keyring of `server` anew from a backup, on a disk that has none. `named` says how many rows of the index name
/// each generation: only these come back. A new generation begins, so that no number is given twice.
///
/// # Errors
///
/// [`BackupError`]; nothing is written then.
pub fn restore(
    disk: &dyn Disk,
    octets: &[u8],
    secret: &Secret,
    server: &str,
    named: &BTreeMap<Generation, u64>,
    entropy: &dyn Entropy,
) -> Result<Restored, BackupError> {
    if disk
        .list("")
        .map_err(KeyringError::File)?
        .iter()
        .any(|name| name == FILE)
    {
        return Err(KeyringError::Exists.into());
    }
    let (backup, key, mut content) = open(octets, secret)?;
    if backup.server != server {
        return Err(BackupError::AnotherServer {
            found: backup.server,
            expected: server.to_owned(),
        });
    }
    let now = unix_s();
    if now >= backup.expires_unix_s {
        return Err(BackupError::Expired {
            ago_s: now - backup.expires_unix_s,
        });
    }
    let (back, left_out): (Vec<Key>, Vec<Key>) = std::mem::take(&mut content.keys)
        .into_iter()
        .partition(|key| named.contains_key(&key.generation));
    let has = |generation: &Generation| back.iter().any(|key| key.generation == *generation);
    let missing = named.iter().filter(|(generation, _)| !has(generation));
    let highest = named
        .keys()
        .copied()
        .chain([content.current])
        .max()
        .expect("there is one");
    let current = Generation(highest.0 + 1);
    let restored = Restored {
        generations: back.iter().map(|key| key.generation.0).collect(),
        left_out: left_out.iter().map(|key| key.generation.0).collect(),
        missing: missing.map(|(generation, rows)| (generation.0, *rows)).collect(),
        current: current.0,
    };
    content.keys = back;
    content.keys.push(Key {
        generation: current,
        created_unix_s: now,
        octets: array(entropy),
    });
    content.current = current;
    let file = seal_octets(entropy, &backup.protector, &key, &content);
    disk.replace(FILE, &file).map_err(KeyringError::File)?;
    Ok(restored)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::store::simulated::SimulatedDisk;
    use crate::vault::entropy::tests::SeededEntropy;
    use crate::vault::{KeyProvider, Keyring};

    const LATER: u64 = u64::MAX;

    fn secret() -> Secret {
        Secret::Key(Zeroizing::new([4; 32]))
    }

    /// A keyring with generations 1 and 2, their keys, and a backup.
    fn backed_up(expires: u64) -> (SimulatedDisk, Keyring, [[u8; 32]; 2], Vec<u8>) {
        let disk = SimulatedDisk::default();
        let entropy = Arc::new(SeededEntropy::new(1));
        let keyring = Keyring::create(Arc::new(disk.clone()), &secret(), entropy).unwrap();
        keyring.begin_generation().unwrap();
        let kek = |generation| *keyring.kek(Generation(generation)).unwrap().octets();
        let keks = [kek(1), kek(2)];
        let octets = disk.read(FILE).unwrap();
        let backup = make(&octets, &secret(), "s1", expires, &SeededEntropy::new(2)).unwrap();
        (disk, keyring, keks, backup)
    }

    fn named(rows: &[(u32, u64)]) -> BTreeMap<Generation, u64> {
        rows.iter()
            .map(|&(generation, rows)| (Generation(generation), rows))
            .collect()
    }

    fn bring_back(
        disk: &SimulatedDisk,
        backup: &[u8],
        server: &str,
        rows: &[(u32, u64)],
    ) -> Result<Restored, BackupError> {
        restore(disk, backup, &secret(), server, &named(rows), &SeededEntropy::new(3))
    }

    #[test]
    fn lost_keyring_comes_back_with_what_the_index_names_and_no_more() {
        let (_, _, keks, backup) = backed_up(LATER);
        let disk = SimulatedDisk::default();
        // Generation 1 has ended since; generation 3 began after the backup.
        let restored = bring_back(&disk, &backup, "s1", &[(2, 9), (3, 4)]).unwrap();
        assert_eq!(restored.generations, [2]);
        assert_eq!(restored.left_out, [1]);
        assert_eq!(restored.missing, BTreeMap::from([(3, 4)]));
        let keyring = Keyring::open(Arc::new(disk), &secret(), Arc::new(SeededEntropy::new(4))).unwrap();
        assert_eq!(*keyring.kek(Generation(2)).unwrap().octets(), keks[1]);
        assert!(keyring.kek(Generation(1)).is_err());
        assert_eq!(
            keyring.current().unwrap().0,
            Generation(4),
            "the number 3 was given already"
        );
    }

    #[test]
    fn backup_that_ended_or_is_of_another_server_is_refused() {
        let (_, _, _, backup) = backed_up(unix_s());
        let disk = SimulatedDisk::default();
        assert!(matches!(
            bring_back(&disk, &backup, "s1", &[]),
            Err(BackupError::Expired { .. })
        ));
        assert!(matches!(
            bring_back(&disk, &backup, "s2", &[]),
            Err(BackupError::AnotherServer { .. })
        ));
        assert!(disk.list("").unwrap().is_empty());
    }

    #[test]
    fn keyring_that_is_here_is_never_replaced() {
        let (disk, _, _, backup) = backed_up(LATER);
        assert!(matches!(
            bring_back(&disk, &backup, "s1", &[]),
            Err(BackupError::Keyring(KeyringError::Exists))
        ));
    }

    #[test]
    fn backup_holds_no_generation_that_was_destroyed_before() {
        let (disk, keyring, _, _) = backed_up(LATER);
        keyring.destroy(Generation(1)).unwrap();
        let backup = make(
            &disk.read(FILE).unwrap(),
            &secret(),
            "s1",
            LATER,
            &SeededEntropy::new(2),
        )
        .unwrap();
        let restored = bring_back(&SimulatedDisk::default(), &backup, "s1", &[(1, 1), (2, 1)]).unwrap();
        assert_eq!(
            (restored.generations, restored.missing),
            (vec![2], BTreeMap::from([(1, 1)]))
        );
    }

    /// Its end and its server among the rest.
    #[test]
    fn changed_backup_never_opens() {
        let (_, _, _, backup) = backed_up(LATER);
        assert!(check_octets(&backup, &secret()).is_ok());
        for place in 0..backup.len() {
            for bit in 0..8 {
                let mut changed = backup.clone();
                changed[place] ^= 1 << bit;
                assert!(check_octets(&changed, &secret()).is_err(), "octet {place} bit {bit}");
            }
            assert!(check_octets(&backup[..place], &secret()).is_err(), "cut to {place}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_refused_without_a_panic(octets: Vec<u8>) {
            prop_assert!(check_octets(&octets, &secret()).is_err());
        }
    }
}
