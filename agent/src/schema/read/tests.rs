//! Directories that are read, and faults of those that are not.

use proptest::prelude::*;

use super::*;

/// A directory of one type with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("photo")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join("photo").join(name), text).unwrap();
    }
    dir
}

fn schema(more: &str) -> String {
    format!("{{\"$schema\":{DIALECT:?},\"type\":\"object\"{more}}}")
}

fn faults(files: &[(&str, &str)]) -> Vec<String> {
    let dir = directory(files);
    let (_, faults) = Schemas::read(dir.path()).unwrap();
    assert_eq!(Schemas::load(dir.path()).is_ok(), faults.is_empty());
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn whole_chain_is_read_with_its_phases() {
    let one = schema("");
    let dir = directory(&[
        ("2.schema.json", &one),
        ("3.schema.json", &one),
        ("4.schema.json", &one),
        ("2-to-3.jq", "# expand\n."),
        ("3-to-2.jq", "."),
        ("3-to-4.jq", "# contract\n."),
        ("4.examples.json", "[{}]"),
        ("README.md", "what a photo is"),
    ]);
    let schemas = Schemas::load(dir.path()).unwrap();
    let photo = schemas.get(&"photo".parse().unwrap()).unwrap();
    assert_eq!(
        photo.versions().map(|(number, _)| number).collect::<Vec<_>>(),
        [2, 3, 4]
    );
    assert_eq!(photo.step(2, 3).unwrap().phase, Some(Phase::Expand));
    assert_eq!(photo.step(3, 2).unwrap().phase, None);
    assert_eq!(photo.step(3, 4).unwrap().phase, Some(Phase::Contract));
    assert_eq!(photo.version(4).unwrap().examples.len(), 1);
}

#[test]
fn missing_version_step_or_way_back_is_a_fault_of_a_named_file() {
    let one = schema("");
    let gap = faults(&[("1.schema.json", &one), ("3.schema.json", &one)]);
    assert!(
        gap[0].starts_with("photo/3.schema.json: version 2 is missing"),
        "{gap:?}"
    );
    let step = faults(&[("1.schema.json", &one), ("2.schema.json", &one)]);
    assert!(
        step[0].starts_with("photo/1.schema.json: the step to version 2"),
        "{step:?}"
    );
    let back = faults(&[
        ("1.schema.json", &one),
        ("2.schema.json", &one),
        ("1-to-2.jq", "# expand\n."),
    ]);
    assert!(back[0].contains("2-to-1.jq"), "{back:?}");
    let beyond = faults(&[("1.schema.json", &one), ("1-to-2.jq", "# contract\n.")]);
    assert!(
        beyond[0].starts_with("photo/1-to-2.jq: there is no schema"),
        "{beyond:?}"
    );
    assert!(faults(&[])[0].starts_with("photo: there is no schema"));
}

#[test]
fn fault_of_a_schema_names_file_and_property() {
    let bad = schema(",\"properties\":{\"size\":{\"type\":\"intger\"}}");
    let found = faults(&[("1.schema.json", &bad)]);
    assert!(
        found[0].starts_with("photo/1.schema.json at /properties/size/type"),
        "{found:?}"
    );
    let dialect = faults(&[(
        "1.schema.json",
        "{\"$schema\":\"http://json-schema.org/draft-07/schema#\"}",
    )]);
    assert!(
        dialect[0].starts_with("photo/1.schema.json at /$schema: must be"),
        "{dialect:?}"
    );
    let twice = faults(&[("1.schema.json", "{\"type\":\"object\",\n\"type\":\"object\"}")]);
    assert!(twice[0].contains("line 2"), "{twice:?}");
    let broken = faults(&[("1.schema.json", &schema("")), ("1.examples.json", "[{},3]")]);
    assert!(broken[0].starts_with("photo/1.examples.json at /1"), "{broken:?}");
}

#[test]
fn reference_to_another_document_is_a_fault_and_nothing_is_fetched() {
    for reference in ["http://127.0.0.1:1/a.json", "file:///etc/hostname", "other.json"] {
        let one = schema(&format!(",\"$ref\":{reference:?}"));
        assert_eq!(faults(&[("1.schema.json", &one)]).len(), 2, "{reference}");
    }
    let inner = schema(",\"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},\"$defs\":{\"a\":{\"type\":\"string\"}}");
    assert!(faults(&[("1.schema.json", &inner)]).is_empty());
}

#[test]
fn misspelled_file_is_a_fault() {
    let one = schema("");
    for name in [
        "01.schema.json",
        "0.schema.json",
        "1-to-3.jq",
        "1-to-1.jq",
        "2.jq",
        "1.schema.jsn",
        "x",
    ] {
        let found = faults(&[("1.schema.json", &one), (name, &one)]);
        assert!(found[0].contains("is called neither"), "{name}: {found:?}");
    }
    let phase = faults(&[("1.schema.json", &one), ("1-to-2.jq", ".")]);
    assert!(phase[0].contains("# expand"), "{phase:?}");
}

#[test]
fn promise_of_a_way_back_is_read_and_a_misspelt_one_is_a_fault() {
    let one = schema("");
    let back = |text: &'static str| {
        directory(&[
            ("1.schema.json", &one),
            ("2.schema.json", &one),
            ("1-to-2.jq", "# expand\n."),
            ("2-to-1.jq", text),
        ])
    };
    for (text, but) in [
        ("# exact\n.", &[][..]),
        ("# exact but /data/size /a~1b\n.", &["/data/size", "/a~1b"]),
    ] {
        let dir = back(text);
        let schemas = Schemas::load(dir.path()).unwrap();
        let exact = schemas
            .get(&"photo".parse().unwrap())
            .unwrap()
            .step(2, 1)
            .unwrap()
            .exact
            .clone();
        assert_eq!(exact.unwrap().but, but, "{text}");
    }
    for text in [
        "# exactly\n.",
        "# exact but\n.",
        "# exact but size\n.",
        "# exact but /a  /b\n.",
    ] {
        let (_, faults) = Schemas::read(back(text).path()).unwrap();
        assert!(
            faults[0]
                .to_string()
                .starts_with("photo/2-to-1.jq: a first line with `# exact`"),
            "{text}"
        );
    }
    let dir = back("# no promise\n.");
    let schemas = Schemas::load(dir.path()).unwrap();
    assert!(
        schemas
            .get(&"photo".parse().unwrap())
            .unwrap()
            .step(2, 1)
            .unwrap()
            .exact
            .is_none()
    );
}

#[test]
fn set_of_an_older_release_ends_at_the_version_that_it_knew() {
    let one = schema("");
    let dir = directory(&[
        ("1.schema.json", &one),
        ("2.schema.json", &one),
        ("1-to-2.jq", "# expand\n."),
        ("2-to-1.jq", "# exact\n."),
    ]);
    let photo = "photo".parse().unwrap();
    let schemas = Schemas::load(dir.path()).unwrap().up_to(&photo, 1);
    assert_eq!(schemas.get(&photo).unwrap().newest(), Some(1));
    assert_eq!(schemas.get(&photo).unwrap().steps().count(), 0);
    assert!(schemas.up_to(&photo, 0).get(&photo).is_none());
}

#[test]
fn refusal_names_the_property_and_no_value() {
    let dir = directory(&[(
        "1.schema.json",
        &schema(",\"properties\":{\"size\":{\"type\":\"integer\"}}"),
    )]);
    let schemas = Schemas::load(dir.path()).unwrap();
    let photo = schemas.get(&"photo".parse().unwrap()).unwrap();
    let properties = Map::from_iter([("size".to_owned(), Value::from("secret"))]);
    let (property, why) = photo.version(1).unwrap().validate(properties).unwrap_err();
    assert_eq!(property, "/size");
    assert!(!why.contains("secret"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_files_are_read_or_faults(
        names in proptest::collection::vec("[0-3](-to-[0-3])?\\.(schema\\.json|jq|examples\\.json|x)", 0..5),
        texts in proptest::collection::vec("(# expand\n)?[\\[\\]{}\":,$a1. ]{0,20}", 5),
    ) {
        let dir = directory(&[]);
        for (name, text) in names.iter().zip(&texts) {
            fs::write(dir.path().join("photo").join(name), text).unwrap();
        }
        let (_, faults) = Schemas::read(dir.path()).unwrap();
        prop_assert!(faults.iter().all(|fault| fault.file.starts_with("photo")));
    }

    #[test]
    fn name_of_a_step_reads_back(from in 1_u32..u32::MAX, forward: bool) {
        let to = if forward { from + 1 } else { from.saturating_sub(1) };
        let expected = (to > 0).then_some(Role::Step(from, to));
        prop_assert_eq!(role(&format!("{from}-to-{to}.jq")), expected);
    }
}

#[test]
fn set_is_named_by_what_its_schemas_and_steps_say() {
    let (one, other) = (schema(""), schema(",\"title\":\"a photo\""));
    let set = |files: &[(&str, &str)]| Schemas::load(directory(files).path()).unwrap().set();
    let known = set(&[("1.schema.json", &one)]);
    assert_ne!(known, zones::upkeep::SchemaSet::default());
    assert_eq!(
        known,
        set(&[
            ("1.schema.json", &one),
            ("README.md", "a photo"),
            ("1.examples.json", "[{}]")
        ])
    );
    assert_ne!(known, set(&[("1.schema.json", &other)]));
    assert_ne!(known, set(&[("2.schema.json", &one)]));
    let steps = |forth: &str| {
        set(&[
            ("1.schema.json", &one),
            ("2.schema.json", &one),
            ("1-to-2.jq", forth),
            ("2-to-1.jq", "."),
        ])
    };
    assert_ne!(
        steps("# expand\n."),
        steps("# contract\n."),
        "when a step runs is of it"
    );
    assert_ne!(steps("# expand\n."), steps("# expand\n.n = 1"));
    assert_eq!(Schemas::default().set(), zones::upkeep::SchemaSet::default());
}
