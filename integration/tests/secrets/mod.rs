//! The secrets of a pool, to be sought where they must not be.

use agent::home::Home;
use agent::vault::Secret as KeyringSecret;
use anyhow::{Context, Result, ensure};
use data_encoding::{BASE64, HEXLOWER};
use integration::harness::Pool;

use crate::disk::{Secret, search_octets};

/// Seen nowhere but in what the client puts.
pub(crate) const CANARY: &str = "canary-7f3a-sings-in-the-dark";

/// Octets at the end of the private number in a P-256 key of PKCS #8: the number is octets 36 to 68 of 138, and a line of PEM
/// has 48, so that these stand together in one line.
const IDENTITY_OCTETS: std::ops::Range<usize> = 48..68;

pub(crate) fn canary() -> Secret {
    Secret::new("plaintext of the objects", CANARY.as_bytes(), &[])
}

/// Every KEK of an agent that is stopped, and every data key that its index has; both lie nowhere.
pub(crate) fn keys_of_objects(pool: &Pool, server: &str) -> Result<Vec<Secret>> {
    let home = Home::open(&pool.server(server)?.dir)?;
    let (store, entries) = home.open_store()?;
    let mut secrets = Vec::new();
    for known in store.vault().provider().generations()? {
        let generation = known.generation;
        let kek = store.vault().provider().kek(generation)?;
        secrets.push(Secret::new(&format!("KEK {generation} of {server}"), kek.octets(), &[]));
    }
    ensure!(!secrets.is_empty(), "{server} has no KEK");
    for entry in &entries {
        for (part, _) in entry.streams() {
            let dek = store.data_key(entry, part)?;
            let what = format!("data key of {part} of {} on {server}", entry.address);
            secrets.push(Secret::new(&what, dek.octets(), &[]));
        }
    }
    Ok(secrets)
}

/// The secrets of the pool that have a file, and no second one.
pub(crate) fn keys_with_a_file(pool: &Pool) -> Result<Vec<Secret>> {
    let read = |path: &str| std::fs::read_to_string(pool.dir().join(path)).with_context(|| format!("read {path}"));
    let mut secrets = Vec::new();
    let pool_key = HEXLOWER.decode(read("pool.key")?.trim().as_bytes())?;
    // Every server makes the same digests.
    let places = ["pool.key", "agents/s1/pool.key", "agents/s2/pool.key"];
    secrets.push(Secret::new("pool key", &pool_key, &places));
    for (name, places) in [
        ("admin", &["keys/admin.key"][..]),
        ("s1", &["keys/s1.key", "agents/s1/keys/s1.key"]),
        ("s2", &["keys/s2.key", "agents/s2/keys/s2.key"]),
        ("canary", &["keys/canary.key", "clients/canary/tsig.key"]),
    ] {
        let file = read(places[0])?;
        let (_, rest) = file.split_once("secret \"").context("a secret in a key file")?;
        let secret = BASE64.decode(rest.split('"').next().unwrap_or_default().as_bytes())?;
        secrets.push(Secret::new(&format!("TSIG key of {name}"), &secret, places));
    }
    for place in [
        "ca/ca.key",
        "agents/s1/identity/server.key",
        "agents/s2/identity/server.key",
        "clients/canary/client.key",
    ] {
        let pem = read(place)?;
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let pkcs8 = BASE64.decode(base64.as_bytes())?;
        ensure!(pkcs8.len() == 138, "{place} has {} octets", pkcs8.len());
        secrets.push(Secret::new(
            &format!("private key {place}"),
            &pkcs8[IDENTITY_OCTETS],
            &[place],
        ));
    }
    for server in ["s1", "s2"] {
        let home = Home::open(&pool.server(server)?.dir)?;
        let KeyringSecret::Key(key) = home.keyring_secret()? else {
            anyhow::bail!("the keyring of {server} opens by a passphrase");
        };
        let place = format!("agents/{server}/keys/keyring.key");
        secrets.push(Secret::new(
            &format!("what opens the keyring of {server}"),
            key.as_slice(),
            &[place.as_str()],
        ));
    }
    Ok(secrets)
}

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
pub(crate) const OBJECTS: usize = 8;
pub(crate) fn body() -> String {
    format!("{CANARY} ").repeat(4_000)
}

/// One server that has objects, and a free one.
pub(crate) fn pool() -> Result<Pool> {
    Pool::builder(DEMO)
        .servers(2)
        .agent_setting("store.capacity", "16MiB")
        .agent_setting("store.volume_step", "1MiB")
        .start()
}

/// Puts objects with the canary, and reads each.
pub(crate) fn fill(pool: &mut Pool) -> Result<()> {
    let client = pool.add_client("canary", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?;
    let properties = format!("{{\"note\":\"{CANARY}\"}}");
    for number in 0..OBJECTS {
        let address = format!("7.{number}");
        let put = ["put", &address, "--client", client, "--type", "note", "--properties"];
        pool.agent(&[&put[..], &[&properties, "-"]].concat(), body().as_bytes())?;
        let read = pool.agent(&["get", &address, "--client", client], b"")?;
        ensure!(read.stdout == body(), "the body read back differs");
    }
    Ok(())
}

/// Which of these secrets are there, by name.
pub(crate) fn there(octets: &[u8], secrets: &[Secret]) -> Vec<String> {
    let mut found: Vec<_> = (search_octets(octets, secrets).into_iter())
        .map(|(secret, _)| secrets[secret].what.clone())
        .collect();
    found.sort();
    found.dedup();
    found
}
