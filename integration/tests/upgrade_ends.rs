//! How upgrades end: one pool for each thing that can go wrong, and a row of what it came to. The rows are the table of
//! `librarian/UPGRADE.md` section 9.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::harness::{INSTALLER, Pool, UpgradeStatus};

const SERVERS: usize = 3;
const OBJECTS: usize = 20;
/// The object that the step of release 2 fails on, where a case wants one.
const MISFIT: &str = "3.7";
const SCHEMA: &str = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}"#;

/// A pool of two servers and a free one at release 1, with objects; release 2 brings an expand step.
struct Case {
    pool: Pool,
    client: String,
}

impl Case {
    fn new() -> Result<Case> {
        let pool = Pool::builder(env!("CARGO_BIN_EXE_demo"))
            .servers(SERVERS)
            .agent_setting("release", "1")
            .releases(&["1", "2"])
            // A server is stopped when answers that name it are cached nowhere any more.
            .librarian_setting("ttl", "1s")
            .start()?;
        for server in pool.servers() {
            write_schemas(
                &server.dir.join("releases/1/schemas/note"),
                &[("1.schema.json", SCHEMA)],
            )?;
            let two = [
                ("1.schema.json", SCHEMA),
                ("2.schema.json", SCHEMA),
                (
                    "1-to-2.jq",
                    "# expand\nif .misfit then error(\"misfit\") else .kept = true end\n",
                ),
                ("2-to-1.jq", "# exact\ndel(.kept)\n"),
            ];
            write_schemas(&server.dir.join("releases/2/schemas/note"), &two)?;
        }
        let dir = pool.add_client("alice", &["read:*", "write:*"])?;
        let client = dir.to_str().context("a path of text")?.to_owned();
        let case = Case { pool, client };
        for number in 0..OBJECTS {
            case.put(&format!("3.{number}"), "{}")?;
        }
        Ok(case)
    }

    fn put(&self, address: &str, properties: &str) -> Result<()> {
        let args = [
            "put",
            address,
            "-",
            "--type",
            "note",
            "--properties",
            properties,
            "--client",
            &self.client,
        ];
        self.pool.agent(&args, address.as_bytes())?;
        Ok(())
    }

    fn start(&self) -> Result<()> {
        self.pool
            .librarian(&["upgrade", "start", "--to", "2", "--soak", "1s", "--detach"])?;
        Ok(())
    }

    /// Tells how it ended, after every object was read.
    fn ends(&self, what: &str, status: &UpgradeStatus, release: &str) -> Result<()> {
        for number in 0..OBJECTS {
            let address = format!("3.{number}");
            let read = self.pool.agent(&["get", &address, "--client", &self.client], b"")?;
            ensure!(read.stdout == address, "{address} is {:?}", read.stdout);
        }
        status.all_run(SERVERS, release).context(what.to_owned())?;
        let owned: u64 = status.servers.iter().map(|server| server.objects).sum();
        ensure!(owned == OBJECTS as u64, "{what}: {owned} objects: {status:#?}");
        println!(
            "| {what} | {} | {} | {owned} of {OBJECTS} | {} |",
            status.state,
            [release; SERVERS].join(", "),
            status.quarantined,
        );
        Ok(())
    }
}

fn write_schemas(dir: &Path, files: &[(&str, &str)]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for (name, text) in files {
        std::fs::write(dir.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

/// Waits until the upgrade stands still; answers why.
fn halted(pool: &mut Pool) -> Result<String> {
    let status = pool.follow_upgrade("halted", |_, _| Ok(()))?;
    status.halted.context("a reason")
}

fn ran(pool: &Pool, server: &str) -> Result<String> {
    let log = pool.server(server)?.dir.join("installs.log");
    std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))
}

#[test]
fn install_that_keeps_failing_halts_the_pool_which_goes_back() -> Result<()> {
    let mut case = Case::new()?;
    std::fs::write(case.pool.server("s1")?.dir.join("fail.install"), "99")?;
    case.start()?;
    let halted = halted(&mut case.pool)?;
    ensure!(halted.contains("the install of 2 on s1 failed"), "{halted}");
    ensure!(ran(&case.pool, "s1")? == "install 2\nrollback 1\ninstall 2\nrollback 1\n");
    case.pool.librarian(&["upgrade", "abort"])?;
    let back = case.pool.follow_upgrade("rolled-back", |_, _| Ok(()))?;
    case.ends("install fails at every try, aborted", &back, "1")
}

#[test]
fn release_that_does_not_come_up_is_taken_back_and_the_pool_goes_on_when_it_is_mended() -> Result<()> {
    let mut case = Case::new()?;
    // It is heard by nobody: a schema set that cannot be read ends it at its start.
    let dir = case.pool.server("s1")?.dir.clone();
    let broken = dir.join("releases/2/schemas/note/2.schema.json");
    std::fs::write(&broken, "no schema")?;
    case.pool.stop_server("s1")?;
    let installer = dir.join(INSTALLER);
    let settings = std::fs::read_to_string(&installer)?;
    std::fs::write(&installer, settings.replace("\"60s\"", "\"5s\""))?;
    case.pool.start_server("s1")?;
    case.pool.wait_for_servers()?;
    case.start()?;
    let halted = halted(&mut case.pool)?;
    ensure!(halted.contains("the install of 2 on s1 failed"), "{halted}");
    ensure!(ran(&case.pool, "s1")? == "install 2\nrollback 1\ninstall 2\nrollback 1\n");
    std::fs::write(&broken, SCHEMA)?;
    case.pool.librarian(&["upgrade", "resume"])?;
    let soaked = case.pool.follow_upgrade("soaked", |_, _| Ok(()))?;
    case.ends("new release does not come up, mended, resumed", &soaked, "2")
}

#[test]
fn object_that_a_step_fails_on_goes_along_as_it_is_and_is_waived_by_name() -> Result<()> {
    let mut case = Case::new()?;
    case.put(MISFIT, r#"{"misfit": true}"#)?;
    case.start()?;
    let soaked = case.pool.follow_upgrade("soaked", |_, _| Ok(()))?;
    ensure!(soaked.quarantined == 1, "{soaked:#?}");
    let refused = case.pool.librarian_any(&["upgrade", "finalize"])?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("1 objects are on the quarantine list"),
        "{refused:?}"
    );
    let list = case.pool.librarian(&["upgrade", "quarantine"])?.stdout;
    ensure!(list.contains(MISFIT) && list.contains("misfit"), "{list}");
    case.pool.librarian(&["upgrade", "finalize", "--waive", MISFIT])?;
    let done = case.pool.follow_upgrade("done", |_, _| Ok(()))?;
    case.ends("a step fails on one object, waived", &done, "2")
}

#[test]
fn upgrade_that_is_aborted_while_a_server_is_drained_ends_where_it_began() -> Result<()> {
    let mut case = Case::new()?;
    case.start()?;
    let mut aborted = false;
    let back = case.pool.follow_upgrade("rolled-back", |pool, now| {
        if !aborted && now.in_role("draining").next().is_some() {
            pool.librarian(&["upgrade", "abort"])?;
            aborted = true;
        }
        Ok(())
    })?;
    case.ends("aborted while the first server is drained", &back, "1")
}

#[test]
fn librarian_killed_in_every_state_costs_time_alone() -> Result<()> {
    let mut case = Case::new()?;
    case.start()?;
    let mut killed: BTreeSet<String> = BTreeSet::new();
    let mut kill = |pool: &mut Pool, now: &UpgradeStatus| -> Result<()> {
        // A state, and what the server whose turn it is does in it.
        let turns = now.servers.iter().map(|server| server.role.as_str());
        let turn = turns.filter(|role| !["serving", "free"].contains(role)).max();
        let met = format!("{} {}", now.state, turn.unwrap_or("between turns"));
        if killed.insert(met) {
            pool.kill_librarian()?;
            pool.start_librarian()?;
        }
        Ok(())
    };
    let soaked = case.pool.follow_upgrade("soaked", &mut kill)?;
    kill(&mut case.pool, &soaked)?;
    // It is watched anew, by the process that finalizes it.
    case.pool.follow_upgrade("soaked", &mut kill)?;
    case.pool.librarian(&["upgrade", "finalize"])?;
    let done = case.pool.follow_upgrade("done", &mut kill)?;
    let turns = ["cordoned", "draining", "empty", "upgrading", "validating"];
    for turn in turns {
        ensure!(
            killed.iter().any(|met| met.ends_with(turn)),
            "not killed {turn}: {killed:?}"
        );
    }
    println!("killed in {}", killed.iter().cloned().collect::<Vec<_>>().join(", "));
    case.ends("librarian killed in every state", &done, "2")
}
