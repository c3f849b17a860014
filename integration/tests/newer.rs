//! The Hypernet's own objects through two generations of schemas and three levels on running servers, and back.
//!
//! They are read from `../shared/data/hypernet` beside the project, or where `HYPERNET_OBJECTS` points; without them there is
//! nothing to test, and the test says so. `HYPERNET_OBJECTS_EACH` bounds how many of each file are taken (default 60, 0 for all).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::client::{Client, PutObject, Settings, WriteOptions};
use agent::schema::{Exact, Schemas};
use anyhow::{Context, Result, ensure};
use integration::harness::Pool;
use serde_json::{Map, Value, json};
use zones::audit::Entry;
use zones::{Address, ObjectType};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Objects that no step takes.
const BROKEN: u64 = 5;
const WAIT: Duration = Duration::from_secs(300);

type Object = (ObjectType, Map<String, Value>);

/// Objects by address: records of the file-backed store, and newer ones from document headers.
fn objects() -> Result<BTreeMap<Address, Object>> {
    let dir = std::env::var_os("HYPERNET_OBJECTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/hypernet")),
        PathBuf::from,
    );
    let each = match std::env::var("HYPERNET_OBJECTS_EACH") {
        Ok(each) => each.parse().context("HYPERNET_OBJECTS_EACH is a number")?,
        Err(_) => 60,
    };
    let each = if each == 0 { usize::MAX } else { each };
    let mut objects = BTreeMap::new();
    for file in ["objects.jsonl", "objects-gen2.jsonl"] {
        let Ok(text) = std::fs::read_to_string(dir.join(file)) else {
            println!("skipped: no {file}, name its directory by HYPERNET_OBJECTS");
            return Ok(BTreeMap::new());
        };
        for line in text.lines().take(each) {
            let Value::Object(mut record) = serde_json::from_str(line)? else {
                continue;
            };
            let address = record.remove("address").context("an address")?;
            let address: Address = address.as_str().context("an address is text")?.parse()?;
            let object = match file {
                "objects.jsonl" => (record["type"].as_str().context("a type")?.parse()?, record),
                _ => match record.remove("data") {
                    Some(Value::Object(header)) => ("document".parse()?, header),
                    _ => continue,
                },
            };
            // Addresses with a part of more than 63 octets and other extremes are for other tests; all of these fit a name.
            objects.entry(address).or_insert(object);
        }
    }
    Ok(objects)
}

/// The first version of every type: what the release before knows.
fn first_versions(from: &Path, to: &Path) -> Result<()> {
    for kind in std::fs::read_dir(from)? {
        let kind = kind?;
        if kind.file_type()?.is_dir() {
            let folder = to.join(kind.file_name());
            std::fs::create_dir_all(&folder)?;
            std::fs::copy(kind.path().join("1.schema.json"), folder.join("1.schema.json"))?;
        }
    }
    Ok(())
}

/// Lets a server work with these schemas from now on.
fn install(pool: &mut Pool, server: &str, schemas: &Path) -> Result<()> {
    pool.stop_server(server)?;
    let file = pool.server(server)?.dir.join("agent.toml");
    let settings = std::fs::read_to_string(&file)?;
    let mut settings: toml::Table = settings.parse()?;
    settings.insert("schemas".to_owned(), schemas.display().to_string().into());
    std::fs::write(&file, toml::to_string(&settings)?)?;
    pool.start_server(server)?;
    pool.wait_for_servers()
}

fn drain(pool: &Pool, from: &str, into: &str) -> Result<()> {
    let done = pool.librarian_within(WAIT, &["drain", from, "--into", into, "--json"])?;
    let done: Value = serde_json::from_str(&done.stdout)?;
    ensure!(done["done"] == true, "{done}");
    Ok(())
}

/// What way back a type's steps promise, all of them together.
fn promised(schemas: &Schemas, kind: &ObjectType) -> Exact {
    let steps = schemas.get(kind).into_iter().flat_map(agent::schema::Type::steps);
    let mut but: BTreeSet<String> = BTreeSet::new();
    for ((from, to), step) in steps {
        if from > to {
            but.extend(step.exact.iter().flat_map(|exact| exact.but.clone()));
        }
    }
    Exact {
        but: but.into_iter().collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_objects_come_through_two_generations_and_three_levels_and_back() -> Result<()> {
    let objects = objects()?;
    if objects.is_empty() {
        return Ok(());
    }
    let newest = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../agent/schemas")
        .canonicalize()?;
    let schemas = Schemas::load(&newest)?;
    let before = tempfile::tempdir()?;
    first_versions(&newest, before.path())?;
    let mut pool = Pool::builder(DEMO)
        .servers(2)
        .free(1)
        .agent_setting("schemas", before.path().display().to_string())
        .start()?;
    let (old, new) = ("s1", "s2");
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let client = Client::new(Settings::read(&dir)?)?;
    for (address, (kind, properties)) in &objects {
        let object = PutObject {
            kind: Some(kind.clone()),
            schema: Some(1),
            properties: Some(Value::Object(properties.clone())),
        };
        client.put(address, &object, &WriteOptions::default()).await?;
    }
    let count = objects.len();
    // What no step knows what to do with: a path that is no text.
    let broken: Vec<Address> = (0..BROKEN)
        .map(|number| format!("broken.{number}").parse())
        .collect::<Result<_, _>>()?;
    for address in &broken {
        let object = PutObject {
            kind: Some("file".parse()?),
            schema: Some(1),
            properties: Some(json!({"type": "file", "data": {"name": "b", "path": ["C:", "Sea"]}})),
        };
        client.put(address, &object, &WriteOptions::default()).await?;
    }

    // The first generation: what the release before can still read, at level 2.
    install(&mut pool, new, &newest)?;
    pool.librarian_within(WAIT, &["policy", "--level", "2"])?;
    drain(&pool, old, new)?;
    // The second: everything, at level 3.
    install(&mut pool, old, &newest)?;
    pool.librarian_within(WAIT, &["policy", "--level", "3", "--contract-steps"])?;
    drain(&pool, new, old)?;
    for (address, (kind, _)) in &objects {
        let read = client.get(address).await?;
        let expected = schemas.get(kind).and_then(agent::schema::Type::newest).unwrap_or(1);
        ensure!(
            read.schema == expected,
            "{address} is a {kind} in schema {}",
            read.schema
        );
    }
    let status: Value = serde_json::from_str(&pool.librarian(&["pool", "--json"])?.stdout)?;
    let servers = status["servers"].as_array().context("servers")?;
    let quarantined: u64 = servers.iter().filter_map(|server| server["quarantined"].as_u64()).sum();
    ensure!(quarantined == BROKEN, "{quarantined} objects are quarantined");
    for address in &broken {
        ensure!(client.get(address).await?.schema == 1, "{address}");
    }
    // And back to the release before.
    install(&mut pool, new, before.path())?;
    drain(&pool, old, new)?;
    let (mut equal, mut as_promised) = (0, 0);
    for (address, (kind, properties)) in &objects {
        let read = client.get(address).await?;
        ensure!((read.schema, read.revision) == (1, 1), "{address}: {read:?}");
        if read.properties == *properties {
            equal += 1;
        }
        let broken = promised(&schemas, kind).broken(properties, &read.properties);
        ensure!(broken.is_empty(), "{address} did not come back as promised: {broken:?}");
        as_promised += 1;
    }

    let verified = pool.librarian(&["audit", "verify", "--json"])?;
    let verified: Value = serde_json::from_str(&verified.stdout)?;
    ensure!(verified[0]["faults"] == Value::Array(Vec::new()), "{verified}");
    let one = objects.keys().next().context("an object")?.to_string();
    let of_one = pool.librarian(&["audit", &one])?.stdout;
    ensure!(
        of_one.lines().count() == 3 && of_one.contains("s1 to s2, epoch 2"),
        "{of_one}"
    );
    let log = pool.librarian(&["audit", "export"])?.stdout;
    let entries = log.lines().map(|line| Entry::read(line.as_bytes()));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    ensure!(
        entries.len() == 3 * (count + broken.len()),
        "{} entries of {count} objects",
        entries.len()
    );
    let mut kept: BTreeMap<Address, (u64, Option<String>)> = BTreeMap::new();
    let mut moves: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for entry in entries {
        let generation = entry.epoch - 1;
        let levels = [(1, 2), (2, 3), (3, 3)][usize::try_from(generation)? - 1];
        ensure!((entry.level_from, entry.level_to) == levels, "{entry:?}");
        // What one server kept is what the next one got.
        let (at, digest) = (entry.epoch, entry.properties_to.clone());
        if let Some((epoch, last)) = kept.insert(entry.address.clone(), (at, digest)) {
            // Steps back are done before it is sent: then the digest is of what was sent.
            let whole = entry.schema_to < entry.schema_from || last == entry.properties_from;
            ensure!(epoch + 1 == entry.epoch && whole, "{entry:?} follows {last:?}");
        }
        let what = match (entry.result.as_str(), entry.schema_from == entry.schema_to) {
            ("moved", true) => "unchanged".to_owned(),
            ("moved", false) => "stepped".to_owned(),
            (reason, _) => reason.to_owned(),
        };
        *moves.entry((generation, what)).or_default() += 1;
    }
    println!("{count} objects; by generation: {moves:?}; back bit for bit {equal}, as promised {as_promised}");
    ensure!(
        moves.iter().all(|((generation, what), moved)| match what.as_str() {
            "stepped" => *moved == count as u64,
            // The release before reads them as they are.
            "unchanged" => (*generation, *moved) == (3, BROKEN),
            reason => *moved == BROKEN && reason.starts_with("moved as it was: file 1 to 2: "),
        }),
        "{moves:?}"
    );
    Ok(())
}
