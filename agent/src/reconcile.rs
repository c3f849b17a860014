//! This agent's part in a reconcile: it tells a new registry everything that it durably knows of registers.
//!
//! ```text
//!  another registry answers --> answers stop counting --> what follows from earlier ones is durable
//!     --> noted: reports to this one --> snapshot of the index, told in messages --> waits --> open --> noted: believed
//! ```
//!
//! The order matters: a step that rests on an answer of before and became durable after the snapshot would make two owners.
//! While registers are neither read nor changed no ownership changes here, so the snapshot stays true until the registry opens,
//! and a report that broke off is simply begun anew.
//!
//! Specification: DESIGN.md section 6, PROTOCOL.md section 13.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zones::report::{CLAIMS_MAX, claims_that_fit};
use zones::{Claim, Claimed, Domain, Incarnation, Report, ServerName, Standing, Tx};

use crate::control::Wanted;
use crate::objects::Objects;
use crate::register::{Phase, Registers, ReportLine, Trust, Unreachable};
use crate::store::{Entry, Journal};
use crate::transfer::Barrier;

/// Most times that one message of a report is sent, or that sending it is tried.
const TRIES_MAX: u32 = 4;
/// Pause after a report that broke off.
const RETRY: Duration = Duration::from_secs(1);
/// How long a complete report waits for the librarian's word that it is, before it is told again.
const WORD_WAIT: Duration = Duration::from_secs(5);

/// What a report is made of.
#[derive(Debug)]
pub struct Reconciler {
    /// The librarian.
    pub registers: Arc<Registers>,
    /// What is told.
    pub objects: Arc<Objects>,
    /// The moves.
    pub moves: Barrier,
    /// The highest plan.
    pub wanted: watch::Receiver<Wanted>,
    /// Cancelled when this server was written off.
    pub written_off: CancellationToken,
}

/// Why a report broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("note which registry is reported to")]
    Note(#[source] io::Error),
    #[error("the moves have stopped")]
    Stopped,
}

/// What an agent owes a registry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Duty {
    /// Nothing, until the phase is another.
    Nothing,
    /// To tell what it has, once all that follows from answers of before is durable.
    Report(Incarnation),
    /// To note that it is open, and believe it.
    Believe(Incarnation),
    /// Nothing: it is open, and never asked what this server has.
    Stranger(Incarnation),
    /// To stop: others own what this server had.
    Leave,
}

/// What an agent owes the registry that answers.
#[must_use]
pub fn duty(trust: &Trust) -> Duty {
    match *trust.watch().borrow() {
        Phase::Trusted => Duty::Nothing,
        Phase::WrittenOff => Duty::Leave,
        Phase::Held { incarnation, standing } => match standing {
            Standing::Open if trust.reports_to(incarnation) => Duty::Believe(incarnation),
            Standing::Open => Duty::Stranger(incarnation),
            Standing::Reported if trust.reports_to(incarnation) => Duty::Nothing,
            Standing::Report | Standing::Reported => Duty::Report(incarnation),
            Standing::WrittenOff => unreachable!("a phase of its own"),
        },
    }
}

/// A report as messages that each fit one update, from the first to the one that says that it was all.
#[derive(Debug)]
pub struct Messages<'d> {
    domain: &'d Domain,
    /// What every message says.
    head: Report,
    entries: std::vec::IntoIter<Arc<Entry>>,
    /// The next ones.
    claims: Vec<Claim>,
    ended: bool,
}

impl<'d> Messages<'d> {
    /// What a server tells a registry, from a snapshot of its index.
    #[must_use]
    pub fn new(
        domain: &'d Domain,
        server: ServerName,
        incarnation: Incarnation,
        wanted: &Wanted,
        entries: Vec<Arc<Entry>>,
    ) -> Messages<'d> {
        let head = Report {
            server,
            incarnation,
            from: 0,
            plan: wanted.plan,
            role: wanted.role(),
            end: false,
            claims: Vec::new(),
        };
        Messages {
            domain,
            head,
            entries: entries.into_iter(),
            claims: Vec::new(),
            ended: false,
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Report;

    fn next(&mut self) -> Option<Report> {
        if self.ended {
            return None;
        }
        if self.claims.len() < CLAIMS_MAX {
            let more = self.entries.by_ref().filter_map(|entry| claim(&entry));
            self.claims.extend(more.take(CLAIMS_MAX));
        }
        let fitting = claims_that_fit(self.domain, &self.claims);
        self.ended = fitting == 0;
        let message = Report {
            end: self.ended,
            claims: self.claims.drain(..fitting).collect(),
            ..self.head.clone()
        };
        self.head.from += fitting as u64;
        Some(message)
    }
}

impl Reconciler {
    /// Reports whenever a new registry asks for it; returns when this server was written off.
    pub async fn run(self) {
        let trust = Arc::clone(self.registers.trust());
        let mut phases = trust.watch();
        loop {
            let asked = match *phases.borrow_and_update() {
                Phase::Held { standing, .. } => standing == Standing::Report,
                Phase::Trusted | Phase::WrittenOff => false,
            };
            let done = match duty(&trust) {
                Duty::Nothing => Ok(()),
                Duty::Leave => {
                    self.written_off.cancel();
                    return;
                }
                Duty::Believe(incarnation) => believe(&self.registers, incarnation).await,
                Duty::Report(incarnation) => self.report(incarnation).await,
                Duty::Stranger(incarnation) => {
                    tracing::error!(
                        %incarnation,
                        "a registry answers that never asked what this server has: reconcile it (`librarian rebuild`), or \
                         stop it if it is a second one"
                    );
                    Ok(())
                }
            };
            let wait = match done {
                Ok(()) if asked => Some(WORD_WAIT),
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the report broke off: begins anew"
                    );
                    Some(RETRY)
                }
            };
            match wait {
                // Whether it changed or not, the phase says what to do.
                Some(wait) => drop(tokio::time::timeout(wait, phases.changed()).await),
                None => {
                    if phases.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Tells everything, from the beginning.
    async fn report(&self, incarnation: Incarnation) -> Result<(), Broken> {
        let trust = self.registers.trust();
        trust.settled().await;
        if !self.moves.pass().await {
            return Err(Broken::Stopped);
        }
        let noting = Arc::clone(trust);
        let noted = tokio::task::spawn_blocking(move || noting.report_to(incarnation)).await;
        noted
            .expect("writing a short file does not panic")
            .map_err(Broken::Note)?;
        let entries = self.objects.entries();
        let (domain, me) = (self.registers.domain(), self.registers.me());
        let messages = Messages::new(domain, me.clone(), incarnation, &self.wanted.borrow().clone(), entries);
        let (mut line, mut claims) = (None, 0);
        for message in messages {
            claims += message.claims.len();
            self.tell(&mut line, &message).await?;
        }
        tracing::info!(claims, %incarnation, "told the registry what is here");
        Ok(())
    }

    /// Sends one message. After a broken connection it is sent again on a new one: repeated, it says the same.
    async fn tell(&self, line: &mut Option<ReportLine>, report: &Report) -> Result<(), Unreachable> {
        let mut tries = 1;
        loop {
            match self.tell_once(line, report).await {
                Ok(()) => return Ok(()),
                Err(error) if tries == TRIES_MAX => return Err(error),
                Err(error) => tracing::debug!(%error, tries, "a part of the report was not taken"),
            }
            *line = None;
            tries += 1;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn tell_once(&self, line: &mut Option<ReportLine>, report: &Report) -> Result<(), Unreachable> {
        let open = match line.take() {
            Some(open) => open,
            None => self.registers.report_line().await?,
        };
        self.registers.report(line.insert(open), report).await
    }
}

async fn believe(registers: &Registers, incarnation: Incarnation) -> Result<(), Broken> {
    let trust = Arc::clone(registers.trust());
    let noted = tokio::task::spawn_blocking(move || trust.believe(incarnation)).await;
    noted
        .expect("writing a short file does not panic")
        .map_err(Broken::Note)?;
    tracing::info!(%incarnation, "the registry is reconciled: registers change again");
    Ok(())
}

/// What an entry of the index says of its register; nothing, where this agent only prepares to take the object.
pub(crate) fn claim(entry: &Entry) -> Option<Claim> {
    let unknown = entry.tx.unwrap_or(Tx([0; 16]));
    // Named is who counts whatever becomes of an open change of holders: another one may lack what is shown meanwhile, and is not
    // to take over.
    let owned = || Claimed::Owned {
        others: entry.remaining().cloned().collect(),
    };
    let (what, epoch, tx) = match &entry.journal {
        Journal::Active { .. } => (owned(), entry.epoch, unknown),
        // The move goes back to this server, unless another knows that it was committed.
        Journal::Moving { tx, .. } | Journal::Sealed { tx, .. } => (owned(), entry.epoch, *tx),
        // Whether the deletion landed, the register says afterwards.
        Journal::DeleteSent { .. } => (owned(), entry.epoch, unknown),
        Journal::CreateSent { tx } => (Claimed::Made, entry.epoch, *tx),
        Journal::Moved { to, epoch } | Journal::Forward { to, epoch } => {
            let to = to.clone();
            let what = match *epoch == entry.epoch.next() {
                true => Claimed::Gone { to },
                // What a registry that was replaced since may have said of others.
                false => Claimed::Heard { to },
            };
            (what, *epoch, Tx([0; 16]))
        }
        Journal::Tombstone { epoch, tx } => (Claimed::Deleted, *epoch, *tx),
        // The row has the epoch that the copy is to have.
        Journal::CommitSent { from, commit_tx, .. } => {
            (Claimed::Arriving { from: from.clone() }, entry.epoch, *commit_tx)
        }
        Journal::Reserved { .. } | Journal::Staged { .. } | Journal::Prepared { .. } => return None,
        // Its owner claims the object; a holder says nothing of it.
        Journal::Held { .. } => return None,
    };
    Some(Claim {
        address: entry.address.clone(),
        epoch,
        what,
        tx,
        kind: entry.kind.clone(),
        schema: entry.schema,
        level: entry.level,
    })
}

#[cfg(test)]
mod tests {
    use zones::{Epoch, Level};

    use super::*;
    use crate::store::{HolderChange, Keeping};

    fn entry(journal: Journal) -> Entry {
        Entry {
            seq: 1,
            address: "3.1".parse().unwrap(),
            epoch: Epoch(4),
            revision: 1,
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
            journal,
            properties: None,
            body: None,
            writes: Vec::new(),
            tx: None,
            from: None,
            received: None,
            quarantined: None,
            migrated_from: None,
            leaving: None,
            keeping: None,
        }
    }

    #[test]
    fn every_state_of_an_entry_claims_what_is_durable_and_no_more() {
        let (tx, s2) = (Tx([3; 16]), || "s2".parse().unwrap());
        let digests = crate::store::Digests::default();
        let held = |refused: Option<Epoch>| Journal::Held {
            owner: s2(),
            tx,
            refused: refused.map(|epoch| crate::store::Refusal { epoch, tx }),
        };
        let owned = Some((Claimed::Owned { others: Vec::new() }, 4));
        for (journal, expected) in [
            (Journal::Active { wait: None }, owned.clone()),
            (Journal::Moving { to: s2(), tx }, owned.clone()),
            (
                Journal::Sealed {
                    to: s2(),
                    tx,
                    revision: 1,
                    digests,
                },
                owned.clone(),
            ),
            (Journal::DeleteSent { tx }, owned),
            (Journal::CreateSent { tx }, Some((Claimed::Made, 4))),
            (
                Journal::Moved {
                    to: s2(),
                    epoch: Epoch(5),
                },
                Some((Claimed::Gone { to: s2() }, 5)),
            ),
            (
                Journal::Forward {
                    to: s2(),
                    epoch: Epoch(9),
                },
                Some((Claimed::Heard { to: s2() }, 9)),
            ),
            (Journal::Tombstone { epoch: Epoch(5), tx }, Some((Claimed::Deleted, 5))),
            (
                Journal::CommitSent {
                    from: s2(),
                    tx,
                    commit_tx: tx,
                },
                Some((Claimed::Arriving { from: s2() }, 4)),
            ),
            (Journal::Staged { from: s2(), tx }, None),
            (Journal::Prepared { from: s2(), tx }, None),
            (held(None), None),
            (held(Some(Epoch(4))), None),
        ] {
            let told = claim(&entry(journal.clone())).map(|claim| (claim.what, claim.epoch.0));
            assert_eq!(told, expected, "{journal:?}");
        }
    }

    #[test]
    fn owner_claims_the_holders_that_count_whatever_becomes_of_an_open_change() {
        let server = |name: &str| name.parse::<ServerName>().unwrap();
        let change = |name, adds| HolderChange {
            server: server(name),
            adds,
            tx: Tx([3; 16]),
            old: Tx([4; 16]),
        };
        for (change, expected) in [
            (None, vec!["s2", "s3"]),
            (Some(change("s4", true)), vec!["s2", "s3"]),
            (Some(change("s2", false)), vec!["s3"]),
        ] {
            let keeping = Keeping {
                others: vec![server("s2"), server("s3")],
                change,
            };
            let entry = Entry {
                keeping: Some(keeping),
                ..entry(Journal::Active { wait: None })
            };
            let others = expected.into_iter().map(server).collect();
            assert_eq!(claim(&entry).unwrap().what, Claimed::Owned { others });
        }
    }
}
