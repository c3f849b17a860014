//! Schema steps in real processes: of a running server, and of dry runs over one that was stopped and one that runs.

mod web;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, run, until};
use serde_json::{Value, json};
use web::{Asker, DEMO, ask};

/// How long a running server has for a dry run over three objects.
const DRY_RUN_WAIT: Duration = Duration::from_secs(60);

#[test]
fn dry_run_over_a_stopped_or_running_server_tells_what_would_become_of_each_object_and_changes_none() -> Result<()> {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/schemas");
    let schemas = schemas.canonicalize()?;
    let builder = Pool::builder(DEMO).servers(1).free(0);
    let mut pool = builder
        .agent_setting("next_schemas", schemas.display().to_string())
        .start()?;
    let client = pool.add_client("alice", &["read:*", "write:*"])?.display().to_string();
    let record = |path: &Value| {
        json!({
            "type": "file", "created_at": "2026-01-02", "updated_at": "2026-01-02",
            "data": {"name": "b.md", "type": "file", "extension": ".md", "path": path, "content": "Sea"},
        })
    };
    for (address, kind, properties) in [
        ("1.1", "file", record(&json!("C:\\Sea\\b.md"))),
        ("1.2", "file", record(&json!(["C:", "Sea"]))),
        ("1.3", "photo", json!({"title": "Sea"})),
    ] {
        let properties = properties.to_string();
        let args = [
            "put",
            address,
            "--client",
            &client,
            "--type",
            kind,
            "--properties",
            &properties,
        ];
        pool.agent(&args, b"")?;
    }
    pool.stop_server("s1")?;
    let dir = pool.server("s1")?.dir.display().to_string();
    let schemas = schemas.display().to_string();
    let dry_run = |more: &[&str]| {
        let mut args = vec!["agent", "schema", "dry-run", "--dir", &dir];
        args.extend(more);
        run(DEMO, &args)
    };

    let without = dry_run(&[])?;
    ensure!(
        !without.status.success() && without.stderr.contains("--schemas"),
        "{without:?}"
    );
    for _ in 0..2 {
        let tried = dry_run(&["--schemas", &schemas, "--json"])?;
        ensure!(tried.status.code() == Some(1), "{tried:?}");
        let report: Value = serde_json::from_str(&tried.stdout).with_context(|| format!("{tried:?}"))?;
        let counts = [&report["objects"], &report["upgraded"], &report["unchanged"]];
        ensure!(counts == [&json!(3), &json!(1), &json!(1)], "{report}");
        ensure!(report["by_versions"] == json!({"file 1 to 4": 1}), "{report}");
        ensure!(report["quarantined"][0]["address"] == "1.2", "{report}");
        ensure!(report["quarantined"][0]["schema"] == 1, "{report}");
    }
    let text = dry_run(&["--schemas", &schemas, "--expand-only"])?.stdout;
    ensure!(text.contains("quarantined: 1.2 (file 1): file 1 to 2"), "{text}");
    ensure!(text.contains("file 1 to 2: 1\n"), "{text}");
    let expand = dry_run(&["--schemas", &schemas, "--expand-only", "--json"])?;
    let Value::Object(expand) = serde_json::from_str(&expand.stdout)? else {
        anyhow::bail!("{expand:?}");
    };
    pool.start_server("s1")?;
    // The running server finds the same, and the librarian hears of it.
    let mut findings = String::new();
    let heard = until("the librarian hears of the dry run", DRY_RUN_WAIT, || {
        findings = pool.librarian_any(&["upgrade", "check", "--to", "2.0"])?.stdout;
        Ok(findings.contains("were tried on 3 objects; steps fail for 1 objects on s1"))
    });
    heard.with_context(|| findings)?;
    let live = std::fs::read(Path::new(&dir).join("dry-run.json"))?;
    let live: Value = serde_json::from_slice(&live)?;
    for (name, found) in &expand {
        ensure!(&live[name] == found, "{name}: {live}");
    }
    let stat = pool.agent(&["stat", "1.1", "--client", &client, "--json"], b"")?.stdout;
    let stat: Value = serde_json::from_str(&stat)?;
    ensure!((&stat["schema"], &stat["revision"]) == (&json!(1), &json!(1)), "{stat}");
    Ok(())
}

/// The steps run in a process that the server starts of its own program, whatever program that is.
#[test]
fn running_server_steps_a_new_object_as_far_as_the_plan_lets_it_and_a_reader_asks_for_another_version() -> Result<()> {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/schemas");
    let schemas = schemas.canonicalize()?.display().to_string();
    let builder = Pool::builder(DEMO).servers(1).free(0).agent_setting("schemas", schemas);
    let pool = builder.start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let client = dir.display().to_string();
    let record = json!({
        "type": "file", "created_at": "2026-01-02", "updated_at": "2026-01-02",
        "data": {"name": "b.md", "type": "file", "extension": ".md", "path": "C:\\Sea\\b.md", "content": "Sea"},
    });
    let properties = record.to_string();
    pool.agent(&["put", "1.1", "--client", &client, "--properties", &properties], b"")?;
    let alice = Asker::client(&dir);
    let read = |path: &str| ask(&pool, &alice, "s1", path, &[])?.expect(200)?.json();
    let now = read("/objects/1.1")?;
    // Version 3 takes a contract step, and no plan has asked for these.
    ensure!(now["schema"] == 2 && now["revision"] == 1, "{now}");
    ensure!(now["properties"]["octets"] == 3, "{now}");
    let before = read("/objects/1.1?schema=1")?;
    ensure!(before["schema"] == 1 && before["properties"] == record, "{before}");
    Ok(())
}
