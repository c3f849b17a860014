//! What a schema step costs an object: properties of a median object (1.4 kB) and of a large one, through the process that runs
//! steps, with and without the validation of the result.
//!
//! `cargo run --release -p agent --example schema_steps [rounds]`

use std::process::ExitCode;
use std::time::Instant;

use agent::schema::{Children, Limits, RunStep, Schemas, child};
use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    // The process that runs steps is this program again.
    let args = std::env::args_os().skip(1);
    if std::env::args().nth(1).as_deref() == Some(child::COMMAND) {
        return agent::commands::run(args);
    }
    let rounds: u32 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(2000);
    let schemas =
        Schemas::load(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas").as_ref()).expect("schemas without faults");
    let kind = "file".parse().expect("a legal type");
    let step = schemas
        .get(&kind)
        .and_then(|one| one.step(1, 2))
        .expect("the step is there");
    let children = Children::new(1, Limits::default());
    let began = Instant::now();
    children.compile(step).expect("a program");
    println!("start of the process and compilation: {:?}", began.elapsed());
    for content in [1_000, 24_000] {
        let record = record(content);
        let octets = agent::vault::properties::canonical(&record).expect("JSON");
        let each = time(rounds, || drop(children.run(step, &octets).expect("a result")));
        println!("{} octets, the step alone: {each} us", octets.len());
        let each = time(rounds, || {
            drop(schemas.upgrade(&children, &kind, 1, 2, &record).expect("a result"))
        });
        println!(
            "{} octets, step, canonical form and validation: {each} us",
            octets.len()
        );
    }
    ExitCode::SUCCESS
}

fn time(rounds: u32, mut work: impl FnMut()) -> u128 {
    let began = Instant::now();
    (0..rounds).for_each(|_| work());
    (began.elapsed() / rounds).as_micros()
}

fn record(content: usize) -> Map<String, Value> {
    let record = json!({
        "type": "file", "type_address": null, "created_at": "2026-01-02T03:04:05+00:00", "updated_at": "2026-01-03T03:04:05+00:00",
        "deleted_at": null, "source_type": "import", "source_id": "file:a:b.md",
        "data": {"name": "b.md", "type": "file", "extension": ".md", "path": "C:\\Sea\\b.md", "size": 9, "content": "x".repeat(content)},
    });
    record.as_object().expect("it is one").clone()
}
