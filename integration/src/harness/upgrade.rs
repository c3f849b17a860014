//! A rolling upgrade, as an operator's script follows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Pool;

/// Longest time for an upgrade to come to where it is followed to, on a busy machine.
const UPGRADE_WAIT: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What `librarian upgrade status --json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct UpgradeStatus {
    /// `rolling`, `soaked`, `done`, ...
    pub state: String,
    /// What the current plan does.
    pub goal: String,
    /// Why a person has to decide.
    pub halted: Option<String>,
    /// What is waited for.
    pub waits: Vec<String>,
    /// Every server by name.
    pub servers: Vec<UpgradeServer>,
    /// Objects that the old release could not read, were it put back now; 0 until finalize.
    pub unreadable_by_old_release: u64,
    /// Objects that rest and are not yet what is asked for.
    pub resting: u64,
    /// Objects that a schema step failed on.
    pub quarantined: u64,
    /// Installs that failed, by server.
    pub failed_installs: BTreeMap<String, u64>,
    /// The rest, for whoever reads why a test failed.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// One server there.
#[derive(Clone, Debug, Deserialize)]
pub struct UpgradeServer {
    /// Its name.
    pub name: String,
    /// What it is in.
    pub role: String,
    /// The release that it runs.
    pub release: Option<String>,
    /// Where its objects go.
    pub into: Option<String>,
    /// Objects that registers say it owns.
    pub objects: u64,
    /// The rest, for whoever reads why a test failed.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl UpgradeStatus {
    /// Servers that the upgrade has in a role.
    pub fn in_role(&self, role: &str) -> impl Iterator<Item = &UpgradeServer> {
        self.servers.iter().filter(move |server| server.role == role)
    }

    /// Checks that there are so many servers, and that every one runs this release.
    ///
    /// # Errors
    ///
    /// When it is not so.
    pub fn all_run(&self, servers: usize, release: &str) -> Result<()> {
        let run = self.servers.iter().map(|server| server.release.as_deref());
        ensure!(
            run.eq(std::iter::repeat_n(Some(release), servers)),
            "not each of {servers} servers runs {release}: {self:#?}"
        );
        Ok(())
    }
}

impl Pool {
    /// `librarian upgrade status --json`.
    ///
    /// # Errors
    ///
    /// When the command fails or prints something else.
    pub fn upgrade_status(&self) -> Result<UpgradeStatus> {
        let told = self.librarian(&["upgrade", "status", "--json"])?;
        serde_json::from_str(&told.stdout)
            .with_context(|| format!("read the output of {}: {}", told.command, told.stdout))
    }

    /// Looks until the upgrade is in a state; `look` may do something at each look before. Whoever kills the librarian there starts it
    /// again.
    ///
    /// # Errors
    ///
    /// When it halts elsewhere, does not come there, or `look` fails.
    pub fn follow_upgrade(
        &mut self,
        end: &str,
        mut look: impl FnMut(&mut Pool, &UpgradeStatus) -> Result<()>,
    ) -> Result<UpgradeStatus> {
        let until = Instant::now() + UPGRADE_WAIT;
        loop {
            let now = self.upgrade_status()?;
            if now.state == end {
                return Ok(now);
            }
            ensure!(now.state != "halted", "the upgrade is halted: {now:#?}");
            ensure!(Instant::now() < until, "the upgrade does not end: {now:#?}");
            look(self, &now)?;
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
