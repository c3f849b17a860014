//! A secondary that is cut off while a server is drained: the server is not stopped while the secondary may name it.
//!
//! The rule itself is walked through in virtual time in `librarian/src/pool/upgrade_tests/secondaries.rs`; here it holds for a BIND that
//! has the zone and processes that run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, Secondary, SecondaryKind, UpgradeStatus};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const OBJECTS: usize = 80;
const OBJ: &str = "obj.hypernet.internal";
/// For how long a secondary tells of what it has, when it hears nothing (`EXPIRE_S` of the zones).
const EXPIRE: Duration = Duration::from_secs(60);
/// What the librarian waits for longer, for answers that were on their way; and a look of its on a busy machine.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a wait is watched before the secondary may go on: longer than any answer is cached (1 s, twice).
const WATCHED: Duration = Duration::from_secs(10);
/// What a thawed secondary needs to follow at most: far less than what is left of its time.
const CATCHES_UP: Duration = Duration::from_secs(30);

/// What happened to a secondary while one server was drained.
struct CutOff {
    /// The server.
    drained: String,
    at: Instant,
    /// Since when it is waited for by name, once no register names the server any more.
    named: Option<Instant>,
    /// When it went on.
    thawed: Option<Instant>,
    /// When nobody waited any more.
    over: Option<Instant>,
}

impl CutOff {
    /// The line in which an upgrade says that it waits for the secondary.
    fn wait<'s>(&self, now: &'s UpgradeStatus) -> Option<&'s String> {
        let begins = format!("secondary bind may still name {}: ", self.drained);
        now.waits.iter().find(|wait| wait.starts_with(&begins))
    }

    /// Looks once; the server must not be stopped while it is waited for.
    fn look(&mut self, now: &UpgradeStatus) -> Result<()> {
        let waits = self.wait(now).is_some();
        let server = now.servers.iter().find(|server| server.name == self.drained);
        let role = &server.context("the drained server")?.role;
        if waits {
            ensure!(self.over.is_none(), "waits once more: {now:#?}");
            self.named.get_or_insert_with(Instant::now);
        } else if self.named.is_some() && self.over.is_none() {
            self.over = Some(Instant::now());
        }
        let stopped = ["upgrading", "validating", "free"].contains(&role.as_str());
        ensure!(
            !stopped || self.over.is_some(),
            "{} is {role}, and nobody waited for the secondary: {now:#?}",
            self.drained
        );
        Ok(())
    }
}

/// A server in the middle of its drain: some of its objects are gone, and some not.
fn in_the_middle(now: &UpgradeStatus, owned: &[(String, u64)]) -> Option<String> {
    let draining = now.in_role("draining").next()?;
    let (_, all) = owned.iter().find(|(name, _)| *name == draining.name)?;
    let is_in_it = draining.objects > 0 && draining.objects < *all;
    is_in_it.then(|| draining.name.clone())
}

fn names(zone: &[String], server: &str) -> bool {
    let target = format!("{server}.pool.hypernet.internal.");
    zone.iter().any(|record| record.ends_with(&target))
}

fn pool() -> Result<Pool> {
    let pool = Pool::builder(DEMO)
        .servers(3)
        .agent_setting("release", "1")
        // One object after the other, so that a drain has a middle.
        .agent_setting("moves.window_objects", 1)
        .releases(&["2"])
        .librarian_setting("ttl", "1s")
        .start()?;
    let dir = pool.add_client("alice", &["read:*", "write:*"])?;
    let alice = dir.to_str().context("a path of text")?;
    for number in 0..OBJECTS {
        pool.agent(&["put", &format!("3.{number}"), "-", "--client", alice], b"content")?;
    }
    Ok(pool)
}

#[test]
fn server_is_not_stopped_while_a_frozen_or_killed_secondary_may_name_it_and_is_when_that_follows_or_expires()
-> Result<()> {
    let mut pool = pool()?;
    let mut secondary = Secondary::start(&pool, SecondaryKind::Bind)?;
    secondary.follows(&pool, &[OBJ])?;
    let start = ["upgrade", "start", "--to", "2", "--soak", "1s", "--detach"];
    pool.librarian(&start)?;
    let begun = pool.upgrade_status()?;
    // An object moves twice, if it was at the server that is drained first: what a server has then counts.
    let mut owned: Vec<(String, u64)> = Vec::new();
    let (mut frozen, mut killed): (Option<CutOff>, Option<CutOff>) = (None, None);
    let soaked = pool.follow_upgrade("soaked", |_, now| {
        for server in now.servers.iter().filter(|server| server.role != "draining") {
            owned.retain(|(name, _)| *name != server.name);
            owned.push((server.name.clone(), server.objects));
        }
        let middle = in_the_middle(now, &owned);
        let cut_off = |drained| CutOff {
            drained,
            at: Instant::now(),
            named: None,
            thawed: None,
            over: None,
        };
        match (&mut frozen, &mut killed) {
            (None, _) => {
                if let Some(drained) = middle {
                    secondary.freeze()?;
                    frozen = Some(cut_off(drained));
                }
            }
            (Some(first), None) => {
                first.look(now)?;
                if let (Some(named), None) = (first.named, first.thawed) {
                    ensure!(first.over.is_none(), "the wait for a frozen secondary ends: {now:#?}");
                    if named.elapsed() >= WATCHED {
                        secondary.thaw()?;
                        first.thawed = Some(Instant::now());
                    }
                }
                if first.over.is_some() {
                    let zone = secondary.zone(OBJ)?;
                    ensure!(!zone.is_empty(), "the secondary has the zone");
                    ensure!(!names(&zone, &first.drained), "{} is named: {zone:#?}", first.drained);
                }
                if let Some(drained) = middle.filter(|drained| *drained != first.drained) {
                    ensure!(first.over.is_some(), "the next drain begins: {now:#?}");
                    ensure!(names(&secondary.zone(OBJ)?, &drained), "the secondary knows {drained}");
                    secondary.kill()?;
                    killed = Some(cut_off(drained));
                }
            }
            (Some(_), Some(second)) => second.look(now)?,
        }
        Ok(())
    })?;
    soaked.all_run(begun.servers.len(), "2")?;

    let frozen = frozen.context("a drain has a middle")?;
    let (named, thawed) = (frozen.named.context("named")?, frozen.thawed.context("thawed")?);
    let over = frozen.over.context("over")?;
    ensure!(thawed >= named + WATCHED && over >= thawed);
    ensure!(over - thawed < CATCHES_UP, "caught up after {:?}", over - thawed);
    let killed = killed.context("a second drain has a middle")?;
    let (named, over) = (killed.named.context("named")?, killed.over.context("over")?);
    // What it had has expired: it may have been refreshed at the very end.
    ensure!(over - killed.at >= EXPIRE, "waited {:?} only", over - killed.at);
    ensure!(over - named <= EXPIRE + MARGIN, "waited {:?}", over - named);
    Ok(())
}
