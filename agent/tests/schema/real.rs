//! The schemas of this project over objects as the Hypernet has them.
//!
//! `HYPERNET_OBJECTS` names the directory of `objects.jsonl`, `history.jsonl` and `objects-gen2.jsonl`; without it they are looked
//! for beside the project, and where they are not, the tests over real objects say that they were skipped.

use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::schema::dry_run::{DryRun, DryRunner};
use agent::schema::finals::Finals;
use agent::schema::{Children, Class, Limits, Schemas, Through, check};
use agent::vault::properties;
use serde_json::{Map, Value, json};
use zones::ObjectType;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn children() -> Children {
    Children::of_program(env!("CARGO_BIN_EXE_agent").into(), 1, Limits::default())
}

fn kind(name: &str) -> ObjectType {
    name.parse().unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn octets(properties: &Map<String, Value>) -> Vec<u8> {
    properties::canonical(properties).unwrap()
}

fn record() -> Value {
    json!({
        "type": "file", "type_address": null, "created_at": "2026-01-02T03:04:05+00:00", "updated_at": "2026-01-03T03:04:05+00:00",
        "deleted_at": null, "source_type": "import", "source_id": "file:a:b.md", "shelf": 7,
        "data": {"name": "b.md", "type": "file", "extension": ".md", "path": "C:\\Sea\\b.md", "size": 999, "content": "Ärmel", "tide": 1},
    })
}

#[test]
fn check_finds_no_fault_in_our_schemas() {
    let report = check(&dir(), &children()).unwrap();
    let faults: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.class == Class::Fault)
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
    let untried = report.findings.iter().filter(|finding| finding.about == "step").count();
    assert_eq!(untried, 0, "every step is tried over examples");
    assert_eq!(report.types.len(), 3);
}

#[test]
fn record_of_the_first_store_becomes_a_newer_object_and_keeps_what_nobody_knows() {
    let schemas = Schemas::load(&dir()).unwrap();
    let upgraded = schemas
        .upgrade(&children(), &kind("file"), 1, 4, &object(record()))
        .unwrap();
    assert_eq!((upgraded.schema, upgraded.migrated_from), (4, Some(1)));
    let expected = json!({
        "name": "b.md", "path": "C:/Sea/b.md", "extension": "md", "content": "Ärmel", "octets": 6,
        "created": "2026-01-02T03:04:05+00:00", "updated": "2026-01-03T03:04:05+00:00",
        "source": {"kind": "import", "scheme": "file", "id": "a:b.md"},
        "object_type": "file", "creator": "unknown", "status": "active", "visibility": "private", "flags": [],
        "shelf": 7, "data": {"tide": 1},
    });
    assert_eq!(Value::Object(upgraded.properties), expected);
}

#[test]
fn way_back_to_the_first_version_gives_the_record_but_for_its_wrong_size() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let upgraded = schemas
        .upgrade(&children, &kind("file"), 1, 3, &object(record()))
        .unwrap();
    let back = schemas
        .downgrade(&children, &kind("file"), 3, 1, &upgraded.properties)
        .unwrap();
    let mut expected = record();
    expected["data"]["size"] = json!(6);
    assert_eq!(Value::Object(back.properties), expected);
}

/// An abort does not undo what clients wrote under the new release.
#[test]
fn what_was_written_in_the_newer_version_is_there_after_the_way_back() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let mut written = schemas
        .upgrade(&children, &kind("file"), 1, 2, &object(record()))
        .unwrap()
        .properties;
    written["path"] = json!("C:/Lake/c.txt");
    written["content"] = json!("new");
    written["extension"] = json!("txt");
    written["source"] = json!({"kind": "client", "id": "c"});
    let back = schemas.downgrade(&children, &kind("file"), 2, 1, &written).unwrap();
    let data = &back.properties["data"];
    assert_eq!(data["path"], "C:\\Lake\\c.txt");
    assert_eq!((&data["content"], &data["extension"]), (&json!("new"), &json!(".txt")));
    assert_eq!(back.properties["source_type"], "client");
    assert_eq!(back.properties["source_id"], "c");
}

#[test]
fn expand_steps_alone_stop_before_the_first_contract_step() {
    let schemas = Schemas::load(&dir()).unwrap();
    assert_eq!(schemas.target(&kind("file"), 1, Through::Expand), 2);
    assert_eq!(schemas.target(&kind("file"), 3, Through::Expand), 4);
    assert_eq!(schemas.target(&kind("file"), 1, Through::All), 4);
    assert_eq!(
        schemas.target(&kind("picture"), 9, Through::All),
        9,
        "a type without schemas stays"
    );
    let older = schemas.up_to(&kind("file"), 1);
    assert_eq!(older.target(&kind("file"), 1, Through::All), 1);
}

#[test]
fn object_of_an_unknown_version_is_quarantined_and_not_taken_for_new() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let mut dry = dry(&schemas, &children);
    dry.object(&"1.2".parse().unwrap(), &kind("file"), 9, b"{}").unwrap();
    dry.object(&"1.3".parse().unwrap(), &kind("file"), 1, b"{\"name\":\"no record\"}")
        .unwrap();
    dry.object(&"1.4".parse().unwrap(), &kind("picture"), 1, b"{}").unwrap();
    dry.object(&"1.5".parse().unwrap(), &kind("file"), 4, b"{}").unwrap();
    let DryRun {
        objects,
        unchanged,
        quarantined,
        misfits,
        ..
    } = &dry.report;
    assert_eq!((*objects, *unchanged, quarantined.len(), misfits.len()), (4, 2, 2, 1));
    assert!(
        quarantined[0].reason.contains("no version 9"),
        "{}",
        quarantined[0].reason
    );
    assert_eq!(misfits[0].address, "1.5");
}

#[test]
fn object_that_would_not_come_back_as_promised_is_reported_and_stands_in_the_way() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let mut dry = dry(&schemas, &children);
    // A property of the first version with a name that the second one gives a meaning.
    let mut taken = record();
    taken["octets"] = json!("eight");
    let octets = octets(&object(taken));
    dry.object(&"1.2".parse().unwrap(), &kind("file"), 1, &octets).unwrap();
    assert_eq!((dry.report.upgraded, dry.report.no_way_back.len()), (1, 1));
    assert_eq!(
        dry.report.no_way_back[0].reason,
        "file 2 to 1: at /octets, it does not come back as it was"
    );
    assert!(!dry.report.is_clear());
}

fn dry<'a>(schemas: &'a Schemas, children: &'a Children) -> DryRunner<'a, Children> {
    DryRunner {
        schemas,
        runner: children,
        through: Through::All,
        finals: Finals::new(),
        listed_max: usize::MAX,
        report: DryRun::default(),
    }
}

/// Every object of a file: its address, its own type, and its properties; none without the file.
fn objects(file: &str) -> Vec<(String, ObjectType, Map<String, Value>)> {
    let dir = std::env::var_os("HYPERNET_OBJECTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/hypernet")),
        PathBuf::from,
    );
    let Ok(text) = std::fs::read_to_string(dir.join(file)) else {
        println!("skipped: no {file}, name its directory by HYPERNET_OBJECTS");
        return Vec::new();
    };
    let read = |line: &str| {
        let mut one = object(serde_json::from_str(line).unwrap());
        let address = one.remove("address").unwrap().as_str().unwrap().to_owned();
        let own = kind(one["type"].as_str().unwrap());
        // A record is all properties; of a newer object it is what its header has.
        if file == "objects-gen2.jsonl" {
            one = object(one.remove("data").unwrap());
        }
        (address, own, one)
    };
    text.lines().map(read).collect()
}

/// The two generations, and earlier versions of the first, with the type whose schemas they are written in.
fn generations() -> impl Iterator<Item = (String, ObjectType, Map<String, Value>)> {
    let first = ["objects.jsonl", "history.jsonl"].into_iter().flat_map(objects);
    let newer = objects("objects-gen2.jsonl").into_iter();
    first.chain(newer.map(|(address, _, properties)| (address, kind("document"), properties)))
}

/// Every step over every object, and its way back right after it: as promised, octet for octet.
#[test]
fn real_objects_come_back_from_every_step_as_it_promises() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let (mut steps, mut whole) = (0_u32, std::collections::BTreeMap::<String, (u32, u32)>::new());
    let began = Instant::now();
    for (address, kind, mut before) in generations() {
        before.insert("unknown to all".to_owned(), json!([1, {"a": null, "b": 1.5e300}]));
        let one = schemas.get(&kind).unwrap();
        for (from, to) in (1..one.newest().unwrap()).map(|from| (from, from + 1)) {
            let run = |upgrade: bool, properties: &_| match upgrade {
                true => schemas.upgrade(&children, &kind, from, to, properties),
                false => schemas.downgrade(&children, &kind, to, from, properties),
            };
            let at = format!("{address}: {kind} {from} to {to}");
            let after = run(true, &before).unwrap_or_else(|error| panic!("{at}: {}", error.reason()));
            let returned = run(false, &after.properties).unwrap_or_else(|error| panic!("{at}: {}", error.reason()));
            let exact = one
                .step(to, from)
                .unwrap()
                .exact
                .as_ref()
                .expect("every way back here promises");
            assert_eq!(exact.broken(&before, &returned.properties), [""; 0], "{at}");
            let all_the_same = octets(&returned.properties) == octets(&before);
            assert!(all_the_same || !exact.but.is_empty(), "{at}");
            // The imported size is what the length of the content takes the place of: the same only where it was right.
            let right = |data: &Value| data["size"] == json!(data["content"].as_str().unwrap_or_default().len());
            if kind.to_string() == "file" && from == 2 && before.contains_key("type_address") {
                assert_eq!(all_the_same, right(&before["data"]), "{at}");
            }
            let forth = run(true, &returned.properties).unwrap();
            assert_eq!(octets(&forth.properties), octets(&after.properties), "{at}, and again");
            for stage in [&after, &returned] {
                assert_eq!(stage.properties["unknown to all"], before["unknown to all"], "{at}");
            }
            let (all, same) = whole.entry(format!("{kind} {from} to {to}")).or_default();
            (*all, *same) = (*all + 1, *same + u32::from(all_the_same));
            before = after.properties;
            steps += 3;
        }
    }
    if steps > 0 {
        println!("{steps} steps, {:?} each with its validation", began.elapsed() / steps);
        for (way, (all, same)) in whole {
            println!("{way} and back: {same} of {all} the same in every octet");
        }
    }
}

/// What the steps are there for, over every object: nothing is lost, renamed properties have their values, lengths are right.
#[test]
fn real_objects_have_their_values_in_the_newest_version() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    for (address, kind, properties) in generations() {
        let newest = schemas.target(&kind, 1, Through::All);
        let upgraded = schemas
            .upgrade(&children, &kind, 1, newest, &properties)
            .unwrap()
            .properties;
        let get = |name: &str| upgraded.get(name).cloned().unwrap_or_default();
        if let Some(data) = properties.get("data") {
            let path = data["path"].as_str().unwrap().replace('\\', "/");
            assert_eq!(
                (get("name"), get("path")),
                (data["name"].clone(), json!(path)),
                "{address}"
            );
            assert_eq!(get("content"), data["content"], "{address}");
            let length = data["content"].as_str().map(str::len);
            assert_eq!(get("octets"), json!(length), "{address}");
            assert_eq!(get("created"), properties["created_at"], "{address}");
            assert_eq!(get("updated"), properties["updated_at"], "{address}");
            if let Some(id) = properties.get("source_id").and_then(Value::as_str) {
                let source = get("source");
                let whole = [&source["scheme"], &source["id"]].map(|part| part.as_str().unwrap_or_default());
                assert!(id == whole.join(":") || id == whole[1], "{address}");
                assert_eq!(source["kind"], properties["source_type"], "{address}");
            }
            // What history says of a version is nothing that steps know.
            for name in ["content_hash", "snapshot_at", "version"] {
                assert_eq!(upgraded.get(name), properties.get(name), "{address}");
            }
        } else {
            assert_eq!(get("text"), properties["content"], "{address}");
            assert_eq!(
                get("octets"),
                json!(properties["content"].as_str().unwrap().len()),
                "{address}"
            );
            let creator = properties.get("creator").or(properties.get("addressed_by"));
            assert_eq!(
                get("creator"),
                creator.cloned().unwrap_or(json!("unknown")),
                "{address}"
            );
            let created = properties.get("created").or(properties.get("addressed_at"));
            assert_eq!(get("created"), created.cloned().unwrap_or_default(), "{address}");
        }
    }
}

/// The counts are those of the data: 895 files and 410 folders in the store, 357 newer objects, of which 4 say that they are
/// documents and the others types that have no schemas.
#[test]
fn dry_run_counts_what_is_upgraded_unchanged_and_quarantined() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let mut dry = dry(&schemas, &children);
    let (first, newer) = (objects("objects.jsonl"), objects("objects-gen2.jsonl"));
    if first.is_empty() || newer.is_empty() {
        return;
    }
    for (address, kind, properties) in first.iter().chain(&newer) {
        let octets = octets(properties);
        dry.object(&address.parse().unwrap(), kind, 1, &octets).unwrap();
    }
    let report = &dry.report;
    assert_eq!((report.objects, report.upgraded, report.unchanged), (1662, 1309, 353));
    let ways = json!({"file 1 to 4": 895, "folder 1 to 3": 410, "document 1 to 3": 4});
    assert_eq!(json!(report.by_versions), ways);
    assert!(report.is_clear(), "{report:?}");

    // Damaged in ways that clients manage: no name, no path, a type that is none, a record within a record.
    dry.report = DryRun::default();
    let mut damaged = 0;
    for (at, (address, kind, properties)) in first.iter().enumerate() {
        let mut properties = properties.clone();
        match at % 20 {
            0 => drop(properties["data"].as_object_mut().unwrap().remove("name")),
            5 => properties["data"]["path"] = json!(["C:", "Sea"]),
            10 => properties["created_at"] = json!(1_760_000_000),
            15 => properties["data"] = json!("{\"name\":\"text\"}"),
            _ => {}
        }
        damaged += usize::from(at % 5 == 0);
        let octets = octets(&properties);
        dry.object(&address.parse().unwrap(), kind, 1, &octets).unwrap();
    }
    let report = &dry.report;
    assert_eq!(report.quarantined.len(), damaged);
    assert_eq!(report.upgraded, 1305 - damaged as u64);
    assert!(!report.is_clear());
    for (refused, (address, ..)) in report.quarantined.iter().zip(first.iter().step_by(5)) {
        assert_eq!(&refused.address, address);
        assert!(refused.reason.contains(" 1 to 2"), "{}", refused.reason);
    }
}
