//! Takes reports, writes servers off, and opens the registry when all have reported.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use zones::{Claim, Claimed, Incarnation, Policy, Report, ServerName, Standing, State, Told, Tx};

use super::ledger::{Ledger, Untaken};
use super::steps::{Findings, Step};
use super::words::{Claimless, Conflict, LISTED_MAX, Rescued, Server, Status};
use crate::files::{self, FileError, Readable};
use crate::pool::{self, Goal};
use crate::registry::key::key_of;
use crate::registry::{self, Proposal, Refused, Registry, SubmitError, View};

/// Where the last reconcile's lists are kept, in the librarian's directory.
pub const OUTCOME_FILE: &str = "reconcile.json";
/// Where all registers are listed that no server claimed, one a line: address, owner, epoch.
const CLAIMLESS_FILE: &str = "reconcile-claimless.txt";
/// Longest file of lists that is read.
const OUTCOME_OCTETS_MAX: u64 = 4 << 20;
/// Registers that get a fresh tx in one commit: small enough that answers and reports go on between two.
const FRESHEN_STEP: usize = 4096;
/// How often it is looked whether all have reported, besides whenever a report is complete.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after an opening that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Where servers report.
pub struct Desk {
    registry: Registry,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

/// Why the registry could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the registry cannot be written")]
    Submit(#[from] SubmitError),
    #[error("the lists of the reconcile cannot be written")]
    File(#[from] FileError),
    #[error("the last plan cannot be read")]
    Plan(#[from] pool::PlanError),
}

impl Desk {
    /// The desk of a registry.
    pub(crate) fn new(registry: Registry) -> Desk {
        Desk {
            registry,
            ledger: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// What a signed answer tells whoever asked. To be taken before the answer is made: an answer of a registry that is not
    /// open must not say that it is.
    pub(crate) fn told(&self, server: Option<&ServerName>) -> Told {
        let standing = self.standing(&self.registry.view(), server);
        Told {
            incarnation: Incarnation(self.registry.incarnation()),
            standing,
        }
    }

    fn standing(&self, view: &View<'_>, server: Option<&ServerName>) -> Standing {
        let reconcile = view.reconcile();
        match server {
            Some(server) if reconcile.written_off.contains(server) => Standing::WrittenOff,
            Some(_) | None if reconcile.open => Standing::Open,
            Some(server) => self.ledger.lock().standing(server),
            // Nothing is expected of applications and the admin.
            None => Standing::Reported,
        }
    }

    /// Whether a message of a report can be taken now.
    pub(crate) fn admit(&self, report: &Report) -> Result<(), Refused> {
        let own = Incarnation(self.registry.incarnation());
        if report.incarnation != own {
            return Err(Refused::prohibited(format!(
                "the report is to registry {}, this is {own}: begin the report anew",
                report.incarnation
            )));
        }
        self.ledger.lock().check(report).map_err(|untaken| match untaken {
            Untaken::Gap { .. } | Untaken::Opening | Untaken::TooMany => Refused::not_ready(untaken.to_string()),
        })
    }

    /// A message of a report is in the registry.
    pub(crate) fn took(&self, report: &Report, findings: &Findings) {
        let findings = std::mem::take(&mut *findings.lock());
        let view = self.registry.view();
        let rows: Vec<(u32, bool)> = findings
            .iter()
            .filter_map(|finding| Some((view.index().registers.find(&finding.key)?, finding.holds?)))
            .collect();
        let conflicts = findings.into_iter().filter_map(|finding| finding.conflict);
        self.ledger.lock().took(Instant::now(), report, rows, conflicts);
        drop(view);
        if report.end {
            tracing::info!(server = %report.server, claims = report.from + report.claims.len() as u64, "server has reported");
            self.changed.notify_one();
        }
    }

    /// Goes on without a server.
    ///
    /// # Errors
    ///
    /// [`SubmitError`].
    pub async fn write_off(&self, server: &ServerName) -> Result<(), SubmitError> {
        let step = Step::WriteOff { server: server.clone() };
        self.registry.submit(Proposal::Reconcile(step)).await?;
        tracing::warn!(%server, "server is written off");
        self.changed.notify_one();
        Ok(())
    }

    /// Servers that are waited for; `None` if the registry is open.
    #[must_use]
    pub fn waits_for(&self, view: &View<'_>) -> Option<Vec<ServerName>> {
        let reconcile = view.reconcile();
        if reconcile.open {
            return None;
        }
        let counting = view.servers().map(|server| &server.name);
        let counting = counting.filter(|name| !reconcile.written_off.contains(*name));
        let ledger = self.ledger.lock();
        Some(ledger.waits_for(counting).into_iter().cloned().collect())
    }

    /// How far the reconcile is; of one that has ended, its lists.
    #[must_use]
    pub fn status(&self, view: &View<'_>, dir: &Path) -> Status {
        let Some(waits_for) = self.waits_for(view) else {
            let ended = files::read(&dir.join(OUTCOME_FILE), OUTCOME_OCTETS_MAX).ok();
            let ended: Option<Status> = ended.and_then(|text| serde_json::from_str(&text).ok());
            return Status {
                reconciling: false,
                incarnation: Incarnation(self.registry.incarnation()).to_string(),
                objects: view.objects() as u64,
                waits_for: Vec::new(),
                ..ended.unwrap_or_default()
            };
        };
        let ledger = self.ledger.lock();
        let (conflicts, more) = ledger.conflicts();
        Status {
            reconciling: true,
            incarnation: Incarnation(self.registry.incarnation()).to_string(),
            objects: view.objects() as u64,
            servers: view.servers().map(|server| line(view, &ledger, server)).collect(),
            waits_for: waits_for.iter().map(ToString::to_string).collect(),
            conflicts_count: conflicts.len() as u64 + more,
            conflicts: conflicts
                .iter()
                .map(|conflict| Conflict {
                    address: conflict.address.to_string(),
                    server: conflict.server.to_string(),
                    claim: conflict.claim.clone(),
                    epoch: conflict.epoch.0,
                    register: conflict.register.clone(),
                })
                .collect(),
            ..Status::default()
        }
    }

    /// Opens the registry when all have reported; returns when it is open, or when told to stop.
    pub async fn run(&self, dir: &Path, stop: CancellationToken) {
        let mut told: Option<Vec<ServerName>> = None;
        loop {
            let waits = self.waits_for(&self.registry.view());
            match waits {
                None => return,
                Some(waits) if waits.is_empty() => match self.open(dir).await {
                    Ok(()) => return,
                    Err(error) => {
                        self.ledger.lock().reopen();
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the registry could not be opened: tries again"
                        );
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(RETRY) => {}
                        }
                    }
                },
                Some(waits) => {
                    if told.as_ref() != Some(&waits) {
                        let names: Vec<String> = waits.iter().map(ToString::to_string).collect();
                        tracing::warn!(waits_for = ?names, "the registry is being reconciled: no register changes");
                        told = Some(waits);
                    }
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
            }
        }
    }

    /// Opens the registry. Killed anywhere, the reconcile goes on from its beginning.
    async fn open(&self, dir: &Path) -> Result<(), OpenError> {
        let mut opening = Opening::begin(self);
        let mut status = Status::default();
        while let Some(step) = opening.step(self, || Tx(crate::random::octets()))? {
            if let Step::Open { .. } = &step {
                status = self.outcome(dir, self.rescued(&opening.claims))?;
            }
            self.registry.submit(Proposal::Reconcile(step)).await?;
        }
        tracing::info!(
            objects = status.objects,
            conflicts = status.conflicts_count,
            claimless = status.claimless_count,
            plan = self.registry.view().plan().map_or(0, |plan| plan.number),
            "the registry is reconciled and open"
        );
        Ok(())
    }

    /// A plan above every one that a server has seen, so that all of them obey the wants that come with it.
    fn plan(&self) -> Result<registry::Plan, pool::PlanError> {
        let view = self.registry.view();
        let last = view
            .plan()
            .map(|plan| pool::Plan::read(plan.number, &plan.document))
            .transpose()?;
        let current = last.as_ref().map_or(0, |plan| plan.number);
        let said = view.servers().filter_map(|server| server.has()).map(|has| has.plan);
        let seen = said.chain([self.ledger.lock().plan()]).max().unwrap_or(0);
        let plan = pool::Plan {
            number: current.max(seen) + 1,
            parent: current,
            goal: Goal::Settle,
            // An upgrade that was under way is begun anew by its operator, who sees what was lost.
            upgrade: None,
            policy: policy(last.as_ref().map(|plan| plan.policy), &view),
            homes: last.map(|plan| plan.homes).unwrap_or_default(),
            open: std::collections::BTreeMap::new(),
        };
        Ok(registry::Plan {
            number: plan.number,
            parent: plan.parent,
            document: plan.document(),
        })
    }

    /// Those of the arrivals that became their holder's.
    fn rescued(&self, arrivals: &[(ServerName, Claim)]) -> Vec<Rescued> {
        let view = self.registry.view();
        let rescued = arrivals.iter().filter_map(|(server, claim)| {
            let register = view.register(&claim.address)?;
            let Claimed::Arriving { from } = &claim.what else {
                return None;
            };
            let now = register.owner == *server && register.epoch == claim.epoch && register.state != State::Deleted;
            now.then(|| Rescued {
                address: claim.address.to_string(),
                owner: server.to_string(),
                from: from.to_string(),
                epoch: claim.epoch.0,
            })
        });
        rescued.collect()
    }

    /// Writes down what a person should look at, and tells it.
    fn outcome(&self, dir: &Path, rescued: Vec<Rescued>) -> Result<Status, FileError> {
        let mut status = self.status(&self.registry.view(), dir);
        let (mut from, mut all) = (String::new(), Vec::new());
        loop {
            let view = self.registry.view();
            let ledger = self.ledger.lock();
            let registers = &view.index().registers;
            let mut rows = registers.from(&from);
            for row in rows.by_ref().take(FRESHEN_STEP) {
                let register = registers.register(row);
                // One that reported and was lost only then has nothing any more.
                let written_off = view.reconcile().written_off.contains(&register.owner);
                if !written_off && ledger.holds(row, &register.address, register.epoch, &register.owner) {
                    continue;
                }
                let _ = writeln!(all, "{} {} {}", register.address, register.owner, register.epoch);
                status.claimless_count += 1;
                if status.claimless.len() < LISTED_MAX {
                    status.claimless.push(Claimless {
                        address: register.address.to_string(),
                        owner: register.owner.to_string(),
                        epoch: register.epoch.0,
                        written_off,
                    });
                }
            }
            match rows.next() {
                Some(row) => from = registers.key(row).to_owned(),
                None => break,
            }
        }
        status.rescued_count = rescued.len() as u64;
        status.rescued = rescued;
        status.rescued.truncate(LISTED_MAX);
        status.reconciling = false;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        status.ended_unix_s = since.ok().map(|since| since.as_secs());
        files::write(&dir.join(CLAIMLESS_FILE), &all, Readable::Owner)?;
        let text = serde_json::to_vec_pretty(&status).expect("our own words are JSON");
        files::write(&dir.join(OUTCOME_FILE), &text, Readable::Owner)?;
        Ok(status)
    }
}

/// The steps that open a registry once all have reported. Each is to be proposed when the one before it is durable.
///
/// ```text
///  arrivals from who has the object no more become their holders', and what nobody claims who was read to own it --> every register gets a fresh tx, so that no update from before can
///  land, and open moves go back to their source --> registers may change
/// ```
#[derive(Debug)]
pub struct Opening {
    /// Arrivals from who has the object no more, then what was read of owners.
    claims: Vec<(ServerName, Claim)>,
    rescued: usize,
    /// Filled by the last step with the key to go on from; empty when all registers are fresh.
    fresh: Arc<Mutex<Option<String>>>,
    opened: bool,
}

impl Opening {
    /// From now on no report is taken.
    #[must_use]
    pub fn begin(desk: &Desk) -> Opening {
        let view = desk.registry.view();
        let mut ledger = desk.ledger.lock();
        ledger.open();
        let registers = &view.index().registers;
        // Whoever gave a copy away has not got it any more, or is lost: the copy that was on its way is the only one.
        let is_only = |(_, claim): &(ServerName, Claim)| {
            let key = key_of(view.domain(), &claim.address);
            let row = key.and_then(|key| registers.find(&key));
            let lost = matches!(&claim.what, Claimed::Arriving { from } if view.reconcile().written_off.contains(from));
            lost || !row.is_some_and(|row| ledger.is_held(row))
        };
        let mut claims: Vec<_> = ledger.arrivals().into_iter().filter(is_only).collect();
        claims.extend(ledger.heard());
        Opening {
            claims,
            rescued: 0,
            fresh: Arc::new(Mutex::new(Some(String::new()))),
            opened: false,
        }
    }

    /// The next step, with random numbers; `None` after the last.
    ///
    /// # Errors
    ///
    /// If the last plan cannot be read.
    pub fn step(&mut self, desk: &Desk, mut random: impl FnMut() -> Tx) -> Result<Option<Step>, pool::PlanError> {
        let rest = &self.claims[self.rescued..];
        if !rest.is_empty() {
            let claims = rest[..rest.len().min(FRESHEN_STEP)].to_vec();
            self.rescued += claims.len();
            return Ok(Some(Step::Rescue { claims }));
        }
        if let Some(from) = self.fresh.lock().take() {
            return Ok(Some(Step::Freshen {
                from,
                txs: (0..FRESHEN_STEP).map(|_| random()).collect(),
                next: Arc::clone(&self.fresh),
            }));
        }
        if std::mem::replace(&mut self.opened, true) {
            return Ok(None);
        }
        let (plan, roles) = (desk.plan()?, desk.ledger.lock().roles());
        Ok(Some(Step::Open { plan, roles }))
    }
}

fn line(view: &View<'_>, ledger: &Ledger, server: &registry::Server) -> Server {
    let progress = ledger.progress(&server.name);
    let state = match progress {
        _ if view.reconcile().written_off.contains(&server.name) => "written-off",
        Some(progress) if progress.complete => "reported",
        Some(_) => "reporting",
        None => "silent",
    };
    Server {
        name: server.name.to_string(),
        state: state.to_owned(),
        claims: progress.map_or(0, |progress| progress.claims),
        alive: view.is_alive(server),
    }
}

/// What is asked of objects: as the last plan said, and not less than what an object already has. A registry made from nothing
/// knows no more than that.
fn policy(last: Option<Policy>, view: &View<'_>) -> Policy {
    let last = last.unwrap_or_default();
    let highest = view.objects_by_level().into_keys().next_back();
    Policy {
        level: highest.map_or(last.level, |highest| highest.max(last.level)),
        ..last
    }
}

#[cfg(test)]
mod tests;
