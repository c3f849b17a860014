//! Each finding of a check, by files that have it.

use super::super::step::InProcess;
use super::super::r#type::DIALECT;
use super::*;

fn report(files: &[(&str, &str)]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("photo")).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join("photo").join(name), text).unwrap();
    }
    check(dir.path(), &InProcess::default()).unwrap()
}

fn schema(properties: &str) -> String {
    format!("{{\"$schema\":{DIALECT:?},\"type\":\"object\",\"properties\":{properties}}}")
}

/// A chain of two versions with this step, this way back and one example.
fn chain(step: &str, back: &str) -> Vec<(&'static str, &'static str)> {
    let one = Box::leak(schema("{\"name\":{\"type\":\"string\"}}").into_boxed_str());
    let two = schema("{\"name\":{\"type\":\"string\"},\"title\":{\"type\":\"string\"}}");
    vec![
        ("1.schema.json", one),
        ("2.schema.json", Box::leak(two.into_boxed_str())),
        ("1.examples.json", "[{\"name\":\"Sea\"}]"),
        ("2.examples.json", "[{\"name\":\"Sea\",\"title\":\"Sea\"}]"),
        ("1-to-2.jq", Box::leak(step.to_owned().into_boxed_str())),
        ("2-to-1.jq", Box::leak(back.to_owned().into_boxed_str())),
    ]
}

fn faults(report: &Report) -> Vec<(&str, String, &str)> {
    let faults = report.findings.iter().filter(|finding| finding.class == Class::Fault);
    faults
        .map(|finding| {
            (
                finding.about,
                finding.file.display().to_string(),
                finding.property.as_str(),
            )
        })
        .collect()
}

#[test]
fn sound_chain_has_no_fault_and_tells_what_cannot_be_judged() {
    let report = report(&chain("# expand\n.title //= .name", "del(.title)"));
    assert!(report.is_sound(), "{:?}", report.findings);
    let open = report
        .findings
        .iter()
        .find(|finding| finding.class == Class::Unjudged)
        .unwrap();
    assert_eq!((open.about, open.property.as_str()), ("backward", "/title"));
    assert_eq!(report.types[0].pairs[0].forward, Verdict::Yes);
    assert_eq!(report.types[0].full_transitive, Verdict::Unjudged);
}

#[test]
fn step_that_loses_what_it_does_not_know_is_a_fault() {
    let report = report(&chain("# expand\n{name, title: .name}", "del(.title)"));
    assert_eq!(faults(&report), [("unknown", "photo/1-to-2.jq".to_owned(), "")]);
}

#[test]
fn step_that_changes_its_own_result_is_a_fault() {
    let report = report(&chain("# expand\n.title = (.title // \"\") + .name", "del(.title)"));
    assert_eq!(
        faults(&report),
        [("idempotent", "photo/1-to-2.jq".to_owned(), "/title")]
    );
}

#[test]
fn expand_step_whose_result_the_old_release_cannot_read_is_a_fault() {
    let mut files = chain("# expand\n.name = 3", ".name |= tostring");
    files[1].1 = Box::leak(schema("{\"name\":{\"type\":\"integer\"}}").into_boxed_str());
    files.remove(3);
    let report = report(&files);
    assert!(faults(&report).contains(&("forward", "photo/2.schema.json".to_owned(), "/name")));
    assert!(faults(&report).contains(&("forward", "photo/1-to-2.jq".to_owned(), "/name")));
    let contract = Box::leak("# contract\n.name = 3".to_owned().into_boxed_str());
    files[3].1 = contract;
    let report = self::report(&files);
    assert_eq!(faults(&report), []);
}

#[test]
fn step_that_fails_or_gives_what_its_schema_refuses_is_a_fault() {
    let refused = report(&chain("# expand\n.title = 3", "del(.title)"));
    assert_eq!(faults(&refused), [("step", "photo/1-to-2.jq".to_owned(), "/title")]);
    let raised = report(&chain("# expand\nerror(\"no\")", "del(.title)"));
    assert_eq!(faults(&raised), [("step", "photo/1-to-2.jq".to_owned(), "")]);
    let syntax = report(&chain("# expand\n.title = (", "del(.title)"));
    assert_eq!(faults(&syntax), [("step", "photo/1-to-2.jq".to_owned(), "")]);
}

#[test]
fn closed_schema_and_wrong_example_are_faults_and_missing_examples_are_unjudged() {
    let closed = format!("{{\"$schema\":{DIALECT:?},\"additionalProperties\":false}}");
    let closed = report(&[("1.schema.json", &closed)]);
    assert_eq!(
        faults(&closed),
        [("unknown", "photo/1.schema.json".to_owned(), "/additionalProperties")]
    );
    let mut files = chain("# expand\n.title //= .name", "del(.title)");
    files[2].1 = "[{\"name\":\"Sea\"},{\"name\":7}]";
    assert_eq!(
        faults(&report(&files)),
        [("example", "photo/1.examples.json".to_owned(), "/1/name")]
    );
    files.remove(2);
    let untried = report(&files);
    assert!(untried.is_sound());
    let untried = untried.findings.iter().find(|finding| finding.about == "step").unwrap();
    assert_eq!(
        (untried.class, untried.file.to_str()),
        (Class::Unjudged, Some("photo/1-to-2.jq"))
    );
}

#[test]
fn way_back_that_breaks_its_promise_is_a_fault_and_its_exceptions_are_none() {
    for (back, found) in [
        ("# exact\n.name = \"lost\" | del(.title)", &["/name"][..]),
        ("# exact\n.", &["/title"]),
        ("# exact but /title\n.", &[]),
        ("# exact but /name\n.name = \"lost\" | del(.title)", &[]),
        ("# exact\ndel(.title)", &[]),
    ] {
        let report = report(&chain("# expand\n.title //= .name", back));
        let expected: Vec<_> = found
            .iter()
            .map(|at| ("reverse", "photo/2-to-1.jq".to_owned(), *at))
            .collect();
        assert_eq!(faults(&report), expected, "{back}");
    }
}

#[test]
fn what_does_not_come_back_is_a_note_with_its_property() {
    let report = report(&chain("# expand\n.title //= .name", ".name = \"lost\" | del(.title)"));
    assert!(report.is_sound(), "{:?}", report.findings);
    let note = report
        .findings
        .iter()
        .find(|finding| finding.about == "reverse")
        .unwrap();
    assert_eq!((note.class, note.property.as_str()), (Class::Note, "/name"));
}
