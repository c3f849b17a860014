//! The schemas of this project over objects as the Hypernet has them.
//!
//! `HYPERNET_OBJECTS` names the directory of `objects.jsonl`, `objects-gen2.jsonl` and `history.jsonl`; without it the tests over
//! real objects say that they were skipped.

use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::schema::dry_run::{DryRun, DryRunner};
use agent::schema::{Children, Class, Limits, Schemas, Through, check};
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

fn dry<'a>(schemas: &'a Schemas, children: &'a Children) -> DryRunner<'a, Children> {
    DryRunner {
        schemas,
        runner: children,
        through: Through::All,
        report: DryRun::default(),
    }
}

/// Every object of a file: its address, its type here, and its properties.
fn objects(file: &str) -> Option<Vec<(String, ObjectType, Map<String, Value>)>> {
    let Some(dir) = std::env::var_os("HYPERNET_OBJECTS") else {
        eprintln!("skipped: HYPERNET_OBJECTS names no directory of real objects");
        return None;
    };
    let text = std::fs::read_to_string(Path::new(&dir).join(file)).expect("the file is there");
    let read = |line: &str| {
        let mut one = object(serde_json::from_str(line).unwrap());
        let address = one.remove("address").unwrap().as_str().unwrap().to_owned();
        if file == "objects-gen2.jsonl" {
            let data = one.remove("data").unwrap();
            return (address, kind("document"), object(data));
        }
        let name = one["type"].as_str().unwrap().to_owned();
        (address, kind(&name), one)
    };
    Some(text.lines().map(read).collect())
}

/// Forth to the newest version, back to the first, and forth again: the same; and nothing that a step does not know is lost.
#[test]
fn real_objects_come_to_the_newest_version_and_back() {
    let schemas = Schemas::load(&dir()).unwrap();
    let children = children();
    let (mut count, mut steps, mut octets) = (0_u32, 0_u32, 0_usize);
    let began = Instant::now();
    for file in ["objects.jsonl", "history.jsonl", "objects-gen2.jsonl"] {
        let Some(objects) = objects(file) else { return };
        assert!(!objects.is_empty(), "{file}");
        for (address, kind, mut properties) in objects {
            octets += properties.values().map(|value| value.to_string().len()).sum::<usize>();
            properties.insert("unknown to all".to_owned(), json!([1, {"a": null}]));
            let newest = schemas.target(&kind, 1, Through::All);
            let upgraded = schemas
                .upgrade(&children, &kind, 1, newest, &properties)
                .unwrap_or_else(|error| {
                    panic!("{address}: {}", error.reason());
                });
            let back = schemas
                .downgrade(&children, &kind, newest, 1, &upgraded.properties)
                .unwrap();
            let again = schemas.upgrade(&children, &kind, 1, newest, &back.properties).unwrap();
            assert_eq!(again.properties, upgraded.properties, "{address}");
            assert_eq!(
                upgraded.properties["unknown to all"], properties["unknown to all"],
                "{address}"
            );
            assert_eq!(
                back.properties["unknown to all"], properties["unknown to all"],
                "{address}"
            );
            if let Some(data) = properties.get("data") {
                let text = data.get("content").and_then(Value::as_str);
                assert_eq!(
                    upgraded.properties.get("content").and_then(Value::as_str),
                    text,
                    "{address}"
                );
                let length = text.map(|text| json!(text.len()));
                assert_eq!(upgraded.properties.get("octets"), length.as_ref(), "{address}");
                assert_eq!(back.properties["created_at"], properties["created_at"], "{address}");
                assert_eq!(back.properties["data"]["name"], data["name"], "{address}");
                assert_eq!(back.properties["data"]["path"], data["path"], "{address}");
                assert_eq!(
                    back.properties["source_id"],
                    properties.get("source_id").cloned().unwrap_or_default(),
                    "{address}"
                );
            } else {
                assert_eq!(upgraded.properties["text"], properties["content"], "{address}");
            }
            count += 1;
            steps += 3 * (newest - 1);
        }
    }
    let each = began.elapsed() / steps;
    println!("{count} objects of {octets} octets, {steps} steps, {each:?} a step with its validation");
}
