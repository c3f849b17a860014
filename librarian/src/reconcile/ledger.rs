//! Who has reported what: the state of one reconcile.
//!
//! Holds no registry, clock, socket or task: it is handed reports, what became of their claims, and the time. It lives as
//! long as the process; after a restart servers report again, which changes nothing that is known.
//!
//! ```text
//!  server:  silent --part 0--> reporting --further parts--> reporting --last part--> complete
//!             ^------------------ part 0 again begins anew ------------------'
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use zones::{Address, Claim, Claimed, Epoch, Report, Role, ServerName, Standing};

/// Most contradictions that are kept with their names; more are counted.
pub(crate) const CONFLICTS_MAX: usize = 1_000;
/// Most claims of what may be that are kept: several times what all servers of a pool have open.
pub(crate) const MAYBE_MAX: usize = 1 << 20;

/// The reports of one reconcile.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    reports: BTreeMap<ServerName, Progress>,
    /// Rows of the registry whose owner has said itself that it has the object; a bit each.
    held: Vec<u64>,
    /// Open creations and arrivals, and what was read of others.
    maybe: BTreeMap<(ServerName, Address), Claim>,
    conflicts: BTreeSet<Conflict>,
    conflicts_more: u64,
    /// All have reported, and every register gets its fresh tx: nothing is merged any more.
    opening: bool,
}

/// How far one server's report is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Progress {
    /// Claims that were taken.
    pub(crate) claims: u64,
    /// Whether that was all.
    pub(crate) complete: bool,
    /// The highest plan that the server has seen.
    pub(crate) plan: u64,
    /// The role that it was last told to act in, if it knows.
    pub(crate) role: Option<Role>,
    /// When its last message was taken.
    pub(crate) heard: Instant,
}

/// A claim that contradicts the register it is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Conflict {
    pub(crate) address: Address,
    pub(crate) server: ServerName,
    pub(crate) epoch: Epoch,
    /// What it claims, in a few words.
    pub(crate) claim: String,
    /// What the register says, and goes on saying.
    pub(crate) register: String,
}

/// Why a message of a report is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Untaken {
    /// Messages before it are missing here: begin the report anew.
    #[error("claims {expected} to {from} of {server} are missing here: begin the report anew")]
    Gap {
        server: ServerName,
        expected: u64,
        from: u64,
    },
    /// All reports are complete.
    #[error("all reports are complete, the registry is about to open")]
    Opening,
    /// More claims of what may be than this librarian keeps.
    #[error("more than {MAYBE_MAX} open creations, arrivals and later owners are reported")]
    TooMany,
}

impl Ledger {
    /// Whether a message can be taken now.
    pub(crate) fn check(&self, report: &Report) -> Result<(), Untaken> {
        if self.opening {
            return Err(Untaken::Opening);
        }
        let expected = self.reports.get(&report.server).map_or(0, |progress| progress.claims);
        // A message that was taken before is taken again: its answer was lost.
        if report.from > expected {
            return Err(Untaken::Gap {
                server: report.server.clone(),
                expected,
                from: report.from,
            });
        }
        let new = report.claims.iter().filter(|claim| is_maybe(claim)).count();
        if self.maybe.len() + new > MAYBE_MAX {
            return Err(Untaken::TooMany);
        }
        Ok(())
    }

    /// A message was merged durably. `held` and `unheld` are rows that its claims prove to be at their owner, or put in doubt.
    pub(crate) fn took(
        &mut self,
        now: Instant,
        report: &Report,
        rows: impl IntoIterator<Item = (u32, bool)>,
        conflicts: impl IntoIterator<Item = Conflict>,
    ) {
        if report.from == 0 {
            self.maybe.retain(|(server, _), _| *server != report.server);
            self.conflicts.retain(|conflict| conflict.server != report.server);
        }
        for (row, holds) in rows {
            self.mark(row, holds);
        }
        for claim in &report.claims {
            if is_maybe(claim) {
                let key = (report.server.clone(), claim.address.clone());
                self.maybe.insert(key, claim.clone());
            }
        }
        for conflict in conflicts {
            if self.conflicts.len() < CONFLICTS_MAX {
                self.conflicts.insert(conflict);
            } else {
                self.conflicts_more += 1;
            }
        }
        let progress = Progress {
            claims: report.from + report.claims.len() as u64,
            complete: report.end,
            plan: report.plan,
            role: report.role,
            heard: now,
        };
        self.reports.insert(report.server.clone(), progress);
    }

    /// What is expected of a server.
    pub(crate) fn standing(&self, server: &ServerName) -> Standing {
        match self.reports.get(server) {
            Some(progress) if progress.complete => Standing::Reported,
            Some(_) | None => Standing::Report,
        }
    }

    /// How far a server is.
    pub(crate) fn progress(&self, server: &ServerName) -> Option<Progress> {
        self.reports.get(server).copied()
    }

    /// Which of these servers are waited for.
    pub(crate) fn waits_for<'s>(&self, servers: impl IntoIterator<Item = &'s ServerName>) -> Vec<&'s ServerName> {
        let silent = |server: &&ServerName| self.standing(server) != Standing::Reported;
        servers.into_iter().filter(silent).collect()
    }

    /// From now on nothing is taken.
    pub(crate) fn open(&mut self) {
        self.opening = true;
    }

    /// The opening failed: reports are taken again.
    pub(crate) fn reopen(&mut self) {
        self.opening = false;
    }

    /// The highest plan that any server has seen.
    pub(crate) fn plan(&self) -> u64 {
        self.reports.values().map(|progress| progress.plan).max().unwrap_or(0)
    }

    /// The roles that servers know of, and the highest plan that each has seen.
    pub(crate) fn roles(&self) -> BTreeMap<ServerName, (u64, Role)> {
        let known = self.reports.iter();
        known
            .filter_map(|(server, progress)| Some((server.clone(), (progress.plan, progress.role?))))
            .collect()
    }

    /// Contradictions, and how many more there are.
    pub(crate) fn conflicts(&self) -> (&BTreeSet<Conflict>, u64) {
        (&self.conflicts, self.conflicts_more)
    }

    /// Whether the owner of a register has said that it has the object, or may have it.
    pub(crate) fn holds(&self, row: u32, address: &Address, epoch: Epoch, owner: &ServerName) -> bool {
        self.is_held(row)
            || self
                .maybe
                .get(&(owner.clone(), address.clone()))
                .is_some_and(|claim| match &claim.what {
                    Claimed::Made | Claimed::Arriving { .. } => claim.epoch == epoch,
                    Claimed::Owned { .. } | Claimed::Gone { .. } | Claimed::Heard { .. } | Claimed::Deleted => false,
                })
    }

    /// Whole copies that are on their way, and who has them.
    pub(crate) fn arrivals(&self) -> Vec<(ServerName, Claim)> {
        let arrivals = self.maybe.iter().filter(|(_, claim)| match &claim.what {
            Claimed::Arriving { .. } => true,
            Claimed::Owned { .. } | Claimed::Made | Claimed::Gone { .. } | Claimed::Heard { .. } | Claimed::Deleted => {
                false
            }
        });
        arrivals
            .map(|((server, _), claim)| (server.clone(), claim.clone()))
            .collect()
    }

    /// Whether the owner of a register has said itself that it has the object.
    pub(crate) fn is_held(&self, row: u32) -> bool {
        let (word, bit) = (row as usize / 64, row % 64);
        self.held.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// What servers read of owners elsewhere, the latest first.
    pub(crate) fn heard(&self) -> Vec<(ServerName, Claim)> {
        let heard = self.maybe.iter().filter(|(_, claim)| match &claim.what {
            Claimed::Heard { .. } => true,
            Claimed::Owned { .. }
            | Claimed::Made
            | Claimed::Gone { .. }
            | Claimed::Arriving { .. }
            | Claimed::Deleted => false,
        });
        let mut heard: Vec<_> = heard
            .map(|((server, _), claim)| (server.clone(), claim.clone()))
            .collect();
        heard.sort_by_key(|(_, claim)| std::cmp::Reverse(claim.epoch));
        heard
    }

    fn mark(&mut self, row: u32, holds: bool) {
        let (word, bit) = (row as usize / 64, row % 64);
        if self.held.len() <= word {
            self.held.resize(word + 1, 0);
        }
        if holds {
            self.held[word] |= 1 << bit;
        } else {
            self.held[word] &= !(1 << bit);
        }
    }
}

/// Whether a claim says what may be.
fn is_maybe(claim: &Claim) -> bool {
    match &claim.what {
        Claimed::Made | Claimed::Arriving { .. } | Claimed::Heard { .. } => true,
        Claimed::Owned { .. } | Claimed::Gone { .. } | Claimed::Deleted => false,
    }
}

#[cfg(test)]
mod tests {
    use zones::{Incarnation, Level, Tx};

    use super::*;

    fn server(name: &str) -> ServerName {
        name.parse().unwrap()
    }

    fn claim(address: &str, epoch: u64, what: Claimed) -> Claim {
        Claim {
            address: address.parse().unwrap(),
            epoch: Epoch(epoch),
            what,
            tx: Tx([0; 16]),
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    fn part(name: &str, from: u64, claims: usize, end: bool) -> Report {
        Report {
            server: server(name),
            incarnation: Incarnation([1; 16]),
            from,
            plan: from,
            role: None,
            end,
            claims: (0..claims)
                .map(|number| claim(&format!("1.{number}"), 1, Claimed::Owned { others: Vec::new() }))
                .collect(),
        }
    }

    fn take(ledger: &mut Ledger, report: &Report) -> Result<(), Untaken> {
        ledger.check(report)?;
        ledger.took(Instant::now(), report, [], []);
        Ok(())
    }

    /// Every order of four messages, lost, repeated or of a server that began anew: complete only with all of them.
    #[test]
    fn report_is_complete_only_when_every_part_of_it_was_taken() {
        let parts = [
            part("s1", 0, 2, false),
            part("s1", 2, 2, false),
            part("s1", 4, 1, false),
            part("s1", 5, 0, true),
        ];
        let mut complete = 0;
        for walk in 0..4_usize.pow(6) {
            let mut ledger = Ledger::default();
            // What a correct librarian has taken in a row since the last beginning.
            let mut taken: u64 = 0;
            let (mut rest, mut is_complete) = (walk, false);
            for _ in 0..6 {
                let report = &parts[rest % 4];
                rest /= 4;
                let gap = report.from > taken;
                assert_eq!(take(&mut ledger, report).is_err(), gap, "walk {walk}");
                if !gap {
                    taken = report.from + report.claims.len() as u64;
                    is_complete = report.end;
                }
                assert_eq!(ledger.standing(&server("s1")) == Standing::Reported, is_complete);
                assert!(!is_complete || taken == 5, "walk {walk}");
            }
            complete += u32::from(is_complete);
        }
        assert!(complete > 0);
    }

    #[test]
    fn silent_server_is_waited_for_by_name() {
        let mut ledger = Ledger::default();
        let servers = [server("s1"), server("s2"), server("s3")];
        take(&mut ledger, &part("s1", 0, 3, true)).unwrap();
        take(&mut ledger, &part("s2", 0, 3, false)).unwrap();
        assert_eq!(ledger.waits_for(&servers), [&servers[1], &servers[2]]);
        // A server that starts anew is waited for again.
        take(&mut ledger, &part("s1", 0, 1, false)).unwrap();
        assert_eq!(ledger.waits_for(&servers), [&servers[0], &servers[1], &servers[2]]);
    }

    #[test]
    fn nothing_is_taken_while_it_opens() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &part("s1", 0, 3, true)).unwrap();
        ledger.open();
        assert_eq!(take(&mut ledger, &part("s1", 0, 3, true)), Err(Untaken::Opening));
        ledger.reopen();
        take(&mut ledger, &part("s1", 0, 3, true)).unwrap();
    }

    #[test]
    fn owner_that_may_have_the_object_counts_at_that_epoch_alone() {
        let mut ledger = Ledger::default();
        let from = server("s2");
        let mut report = part("s1", 0, 0, true);
        report.claims = vec![claim("3.1", 4, Claimed::Arriving { from: from.clone() })];
        ledger.took(Instant::now(), &report, [(70, true), (71, true), (71, false)], []);
        let address = "3.1".parse().unwrap();
        let holds = |row, epoch, owner: &str| ledger.holds(row, &address, Epoch(epoch), &server(owner));
        assert!(holds(0, 4, "s1") && !holds(0, 3, "s1") && !holds(0, 4, "s2"));
        assert!(holds(70, 9, "s9") && !holds(71, 9, "s9") && !holds(500, 9, "s9"));
        assert_eq!(ledger.arrivals().len(), 1);
        assert!(ledger.is_held(70) && !ledger.is_held(71));
        // Begun anew, what may be is what the server says now.
        ledger.took(Instant::now(), &part("s1", 0, 1, true), [], []);
        assert!(!ledger.holds(0, &address, Epoch(4), &server("s1")));
    }
}
