//! `demo --upgrade`: the whole pool goes from release 1 to release 2 while clients read and write.
//!
//! The program is the same; what makes a release here is its name and its schemas, which the installer of each agent puts in
//! place. Release 2 brings two versions of every type: the second by an expand step, the third by a contract step, which comes only
//! after finalize. Clients know the first version alone, and go on with it. The first install on one server fails and is rolled back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use librarian::control::{self, words::Request};
use serde::Serialize;
use serde_json::json;

use super::book::Book;
use super::drain::Until;
use super::load::{self, Measured};
use super::options::Options;
use super::store::Store;
use crate::harness::{Pool, PoolBuilder, UpgradeStatus, children, resident_memory};
use crate::objects::Sample;

/// The releases.
const OLD: &str = "1";
const NEW: &str = "2";
/// Level of objects after finalize.
const LEVEL: u8 = 2;
/// The version that clients know.
pub(super) const CLIENTS_SCHEMA: u32 = 1;
/// Longest upgrade.
const UPGRADE_WAIT: Duration = Duration::from_secs(3600);
/// Time between two looks at the upgrade.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Load goes on for so long afterwards, so that what comes late shows.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Roles of a server whose turn it is not.
const RESTS: [&str; 3] = ["serving", "free", "reserve"];
/// The server whose first install fails.
const UNLUCKY: &str = "s2";

/// What happened.
pub(super) struct Upgraded {
    pub(super) before: Measured,
    pub(super) during: Measured,
    pub(super) after: Measured,
    pub(super) facts: Facts,
}

/// The upgrade in figures; the names are those of the summary.
#[derive(Debug, Default, Serialize)]
pub(super) struct Facts {
    /// Server to release.
    releases: BTreeMap<String, String>,
    /// Objects by version of their type.
    schema_counts: BTreeMap<u32, u64>,
    /// Objects by level.
    level_counts: BTreeMap<u8, u64>,
    /// Highest count before finalize.
    unreadable_by_old_release: u64,
    quarantined: u64,
    rolled_back_installs: u64,
    longest_write_stall_ms: f64,
    upgrade_seconds: f64,
    /// Seconds by state of the upgrade.
    state_seconds: BTreeMap<String, f64>,
    /// Seconds by what the server whose turn it is does.
    stage_seconds: BTreeMap<String, f64>,
    /// 99th percentiles of what clients waited, by state of the upgrade and what the server does whose turn it is.
    read_p99_ms_by_stage: BTreeMap<String, f64>,
    write_p99_ms_by_stage: BTreeMap<String, f64>,
    /// Most memory that a process held at any look, in MiB: the librarian, and the largest agent.
    memory_mib: Memory,
}

/// Memory of the pool's processes, in MiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Memory {
    librarian: f64,
    agent: f64,
}

impl Memory {
    /// What the processes hold now. One that ends while it is looked at holds nothing.
    fn now(pool: &Pool) -> Result<Memory> {
        let mib = |pid: u32| resident_memory(pid).map_or(0.0, |octets| octets as f64 / f64::from(1 << 20));
        // The agent is its supervisor's child.
        let agents = pool.servers().iter().filter_map(|server| server.process().ok());
        let agents = agents.flat_map(|supervisor| children(supervisor.pid())).map(mib);
        Ok(Memory {
            librarian: mib(pool.librarian_process()?.pid()),
            agent: agents.fold(0.0, f64::max),
        })
    }

    fn at_least(self, other: Memory) -> Memory {
        Memory {
            librarian: self.librarian.max(other.librarian),
            agent: self.agent.max(other.agent),
        }
    }
}

impl Facts {
    /// Whether everything came to where it should.
    pub(super) fn is_good(&self) -> bool {
        self.releases.values().all(|release| release == NEW)
            && self.schema_counts.keys().eq([&3])
            && self.level_counts.keys().eq([&LEVEL])
            && self.unreadable_by_old_release == 0
            && self.quarantined == 0
            && self.rolled_back_installs == 1
    }

    pub(super) fn print(&self) {
        let counts = |counts: Vec<String>| counts.join(", ");
        println!(
            "  releases    {}",
            counts(
                self.releases
                    .iter()
                    .map(|(server, release)| format!("{server} {release}"))
                    .collect()
            )
        );
        println!(
            "  objects     {}; {}",
            counts(
                self.schema_counts
                    .iter()
                    .map(|(schema, count)| format!("{count} in version {schema}"))
                    .collect()
            ),
            counts(
                self.level_counts
                    .iter()
                    .map(|(level, count)| format!("{count} at level {level}"))
                    .collect()
            )
        );
        println!(
            "  upgrade     {:.1} s ({}); at most {} objects that release {OLD} could not read before finalize, {} quarantined, {} installs rolled back",
            self.upgrade_seconds,
            counts(
                self.state_seconds
                    .iter()
                    .map(|(state, seconds)| format!("{state} {seconds:.1}"))
                    .collect()
            ),
            self.unreadable_by_old_release,
            self.quarantined,
            self.rolled_back_installs
        );
        println!(
            "  stages      {}",
            counts(
                self.stage_seconds
                    .iter()
                    .map(|(stage, seconds)| format!("{stage} {seconds:.1} s"))
                    .collect()
            )
        );
        println!(
            "  memory      librarian {:.0} MiB, largest agent {:.0} MiB",
            self.memory_mib.librarian, self.memory_mib.agent
        );
        println!(
            "  reads p99   {}",
            counts(
                self.read_p99_ms_by_stage
                    .iter()
                    .map(|(stage, ms)| format!("{stage} {ms:.1} ms"))
                    .collect()
            )
        );
        println!("  stall       longest write {:.1} ms", self.longest_write_stall_ms);
    }
}

/// A pool that can be upgraded.
pub(super) fn builder(builder: PoolBuilder, dir: &Path, samples: &[Sample]) -> Result<PoolBuilder> {
    let schemas = dir.join("schemas").join(OLD);
    write_schemas(&schemas, &kinds(samples), 1)?;
    Ok(builder
        .releases(&[OLD, NEW])
        .agent_setting("release", OLD)
        .agent_setting("schemas", schemas.display().to_string())
        // A server is stopped when answers that name it are cached nowhere any more: twice this.
        .librarian_setting("ttl", "1s"))
}

/// Types of the objects, those that are made under load included.
fn kinds(samples: &[Sample]) -> BTreeSet<String> {
    let own = samples.iter().map(|sample| sample.kind.to_string());
    own.chain([load::MADE_KIND.to_owned()]).collect()
}

/// Puts what the installers need beside each agent.
pub(super) fn prepare(pool: &Pool, samples: &[Sample]) -> Result<()> {
    for server in pool.servers() {
        for (release, newest) in [(OLD, 1), (NEW, 3)] {
            write_schemas(
                &server.dir.join("releases").join(release).join("schemas"),
                &kinds(samples),
                newest,
            )?;
        }
    }
    let unlucky = pool.server(UNLUCKY)?;
    std::fs::write(unlucky.dir.join("fail.install"), "1").context("let an install fail")
}

/// The schemas of a release: every type in these versions, with the steps between them.
fn write_schemas(dir: &Path, kinds: &BTreeSet<String>, newest: u32) -> Result<()> {
    let schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}).to_string();
    let files = [
        (1, "1.schema.json", schema.as_str()),
        (2, "2.schema.json", &schema),
        (3, "3.schema.json", &schema),
        (2, "1-to-2.jq", "# expand\n.demo_kept = true\n"),
        (2, "2-to-1.jq", "# exact\ndel(.demo_kept)\n"),
        (
            3,
            "2-to-3.jq",
            "# contract\n.demo_held = .demo_kept | del(.demo_kept)\n",
        ),
        (3, "3-to-2.jq", "# exact\n.demo_kept = .demo_held | del(.demo_held)\n"),
    ];
    for kind in kinds {
        let folder = dir.join(kind);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        for (_, name, text) in files.iter().filter(|(version, ..)| *version <= newest) {
            std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))?;
        }
    }
    Ok(())
}

/// Load before, during and shortly after the upgrade.
pub(super) fn under_load(
    options: &Options,
    pool: &Pool,
    book: &Arc<Book>,
    stores: &[Store],
    runtime: &tokio::runtime::Runtime,
) -> Result<Upgraded> {
    println!(
        "\n{} clients read and write, {} operations a second, every one located by DNS; they know version {CLIENTS_SCHEMA} of every type",
        stores.len(),
        options.rate
    );
    let mix = load::Mix::new(options, book);
    let mut load = load::Load::new(stores.to_vec(), Arc::clone(book), options.rate, mix);
    let before = runtime.block_on(load.run(Until::Time(Duration::from_secs(options.before))))?;
    println!("  for {} s, nothing moves: {}", options.before, before.words());
    println!("Upgrades the pool from release {OLD} to {NEW} (librarian upgrade start --to {NEW}), clients go on");
    let over = Arc::new(AtomicBool::new(false));
    let (during, upgraded) = std::thread::scope(|scope| {
        let upgrade = {
            let (over, stage) = (Arc::clone(&over), load.stage());
            scope.spawn(move || {
                let done = upgrade(options, pool, &stage);
                over.store(true, Ordering::Release);
                done
            })
        };
        let during = runtime.block_on(load.run(Until::Flag(Arc::clone(&over))));
        (during, upgrade.join())
    });
    let mut facts = upgraded.map_err(|_| anyhow::anyhow!("the upgrade panicked"))??;
    let during = during?;
    println!("  upgraded in {:.1} s: {}", facts.upgrade_seconds, during.words());
    facts.longest_write_stall_ms = during.writes_us.max() as f64 / 1000.0;
    for (stage, [reads_us, writes_us]) in &during.by_stage {
        let p99_ms = |histogram| load::milliseconds(histogram, 0.99);
        facts.read_p99_ms_by_stage.insert(stage.clone(), p99_ms(reads_us));
        facts.write_p99_ms_by_stage.insert(stage.clone(), p99_ms(writes_us));
    }
    let after = runtime.block_on(load.run(Until::Time(AFTERWARDS)))?;
    for object in runtime.block_on(stores[0].list())? {
        *facts.schema_counts.entry(object.schema).or_default() += 1;
        *facts.level_counts.entry(object.level).or_default() += 1;
    }
    Ok(Upgraded {
        before,
        during,
        after,
        facts,
    })
}

/// From the command to the end of the sweep; what happens is told.
fn upgrade(options: &Options, pool: &Pool, stage: &load::Stage) -> Result<Facts> {
    let start = Instant::now();
    let soak = format!("{}s", options.soak);
    let level = LEVEL.to_string();
    let check = pool.librarian_within(
        Duration::from_secs(60),
        &["upgrade", "check", "--to", NEW, "--level", &level],
    )?;
    check.stdout.lines().for_each(|line| println!("    {line}"));
    pool.librarian(&[
        "upgrade", "start", "--to", NEW, "--level", &level, "--soak", &soak, "--detach",
    ])?;
    let mut facts = Facts::default();
    let mut told = String::new();
    let mut looked = Instant::now();
    let mut finalized = false;
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        // As `librarian upgrade status` asks, without a process for each look, which would take time that clients have before.
        let asked = control::ask(pool.dir(), &Request::UpgradeStatus);
        let status: UpgradeStatus = asked.context("ask for the status of the upgrade")?;
        let passed = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        *facts.state_seconds.entry(status.state.clone()).or_default() += passed;
        let stages: BTreeSet<&str> = status.servers.iter().map(|server| server.role.as_str()).collect();
        let turns: Vec<&str> = stages.difference(&BTreeSet::from(RESTS)).copied().collect();
        for turn in &turns {
            *facts.stage_seconds.entry((*turn).to_owned()).or_default() += passed;
        }
        let now = format!("{} {}", status.state, turns.join(" "));
        now.trim_end()
            .clone_into(&mut stage.lock().unwrap_or_else(PoisonError::into_inner));
        facts.memory_mib = facts.memory_mib.at_least(Memory::now(pool)?);
        if !finalized {
            facts.unreadable_by_old_release = facts.unreadable_by_old_release.max(status.unreadable_by_old_release);
        }
        for (server, times) in &status.failed_installs {
            let known = failed.entry(server.clone()).or_default();
            *known = (*known).max(*times);
        }
        let line = line(&status);
        if told != line {
            println!("  {:6.1} s  {line}", start.elapsed().as_secs_f64());
            told = line;
        }
        match status.state.as_str() {
            "soaked" if !finalized => {
                println!("  every server runs release {NEW}: makes it final (librarian upgrade finalize)");
                pool.librarian(&["upgrade", "finalize"])?;
                finalized = true;
            }
            "done" => {
                facts.upgrade_seconds = start.elapsed().as_secs_f64();
                facts.quarantined = status.quarantined;
                facts.rolled_back_installs = failed.values().sum();
                facts.releases = status
                    .servers
                    .into_iter()
                    .map(|server| (server.name, server.release.unwrap_or_default()))
                    .collect();
                return Ok(facts);
            }
            "halted" => bail!("the upgrade is halted: {}", status.halted.unwrap_or_default()),
            _ if start.elapsed() > UPGRADE_WAIT => bail!("the upgrade does not end: {status:?}"),
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// What goes on, in words that change when something happens.
fn line(status: &UpgradeStatus) -> String {
    let servers: Vec<String> = status
        .servers
        .iter()
        .map(|server| {
            let release = server.release.as_deref().unwrap_or("-");
            let what = match server.role.as_str() {
                "serving" | "free" => server.role.clone(),
                role if server.objects > 0 => format!("{role}, {} objects left", server.objects / 500 * 500),
                role => role.to_owned(),
            };
            format!("{} {release} {what}", server.name)
        })
        .collect();
    // Counts change all the time.
    let wait = status
        .waits
        .first()
        .filter(|wait| !wait.chars().any(|c| c.is_ascii_digit()));
    let wait = wait.map(|wait| format!(" ({wait})")).unwrap_or_default();
    format!("{}: {}{wait}; {}", status.state, status.goal, servers.join(", "))
}
