//! What is looked at before an upgrade begins (DESIGN.md section 13). Every finding is shown, also those that are well.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zones::upkeep::{Install, KeysAre};
use zones::{Role, ServerName};

use super::advance::{comes_back, runs_one_of, topology};
use super::rotation::{self, Part};
use super::sight::{Seen, Sight};
use super::upgrade::Upgrade;

/// Oldest scrub with which an upgrade begins, in seconds: three months, as the scrub's own default pace allows for the largest
/// disks.
const SCRUB_AGE_MAX_S: u64 = 90 * 86_400;

/// How far a server's clock may be off, in seconds: a fifth of what a signature may be (TSIG's fudge of 300 s, beyond which the
/// server is not heard at all), so that clocks may go on drifting while the upgrade runs.
const CLOCK_MARGIN_S: u64 = 60;

/// One thing that was looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at, such as `release`.
    pub what: String,
    /// Whether the upgrade cannot begin with it.
    pub is_fault: bool,
    /// How it is, and what to do.
    pub says: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_fault { "FAULT" } else { "ok" };
        write!(f, "{mark:5} {}: {}", self.what, self.says)
    }
}

/// The release that most servers run that do not run the new one yet.
pub(super) fn old_release(sight: &Sight, to: &str) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for release in sight.servers.values().filter_map(Seen::release) {
        if release != to {
            *counts.entry(release).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(release, _)| release.to_owned())
}

/// Looks at everything.
pub(super) fn check(sight: &Sight, upgrade: &Upgrade, moving: u64, now_unix_s: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |what: &str, faults: Vec<String>, well: String| {
        if faults.is_empty() {
            findings.push(Finding {
                what: what.to_owned(),
                is_fault: false,
                says: well,
            });
        }
        findings.extend(faults.into_iter().map(|says| Finding {
            what: what.to_owned(),
            is_fault: true,
            says,
        }));
    };
    // One that failed has its turn first if it is heard again, and is left out otherwise.
    let servers = || sight.servers.iter().filter(|(_, seen)| !seen.is_out());
    let each = |fault: &dyn Fn(&ServerName, &Seen) -> Option<String>| -> Vec<String> {
        servers().filter_map(|(server, seen)| fault(server, seen)).collect()
    };
    let count = servers().count();

    say(
        "servers",
        each(&|server, seen| {
            let heard = seen.alive && seen.has.is_some();
            (!heard).then(|| format!("{server} is not heard: start its agent with `agent run`"))
        }),
        format!("all {count} are heard"),
    );
    say(
        "roles",
        each(&|server, seen| match seen.want.role {
            Role::Serving | Role::Free | Role::Reserve => None,
            role @ (Role::Cordoned
            | Role::Draining
            | Role::Empty
            | Role::Upgrading
            | Role::Validating
            | Role::Refilling
            | Role::Failed
            | Role::Quarantined) => Some(format!("{server} is {role}: end what it is in first")),
        }),
        "every server serves or is free".to_owned(),
    );
    say(
        "release",
        each(&|server, seen| {
            let release = seen.release()?;
            (!runs_one_of(seen, upgrade)).then(|| {
                format!(
                    "{server} runs {release}, the others {} or {}: bring it there first",
                    upgrade.from, upgrade.to
                )
            })
        }),
        format!("all run {} or {}", upgrade.from, upgrade.to),
    );
    let left_behind = sight.servers.iter().filter(|(_, seen)| {
        let is_heard = seen.alive && seen.has.is_some();
        seen.want.role == Role::Failed && !seen.lost && is_heard && !runs_one_of(seen, upgrade)
    });
    say(
        "left behind",
        left_behind
            .map(|(server, _)| {
                format!(
                    "{server} failed in an upgrade before and is still at another release: bring it along first with `librarian \
                     upgrade start --to {}`, or stop its agent",
                    upgrade.from
                )
            })
            .collect(),
        "no server failed in an upgrade before, or it has its turn first".to_owned(),
    );
    say(
        "clocks",
        each(&|server, seen| {
            let (off, way) = match seen.clock_ahead_s {
                ahead @ 0.. => (ahead.unsigned_abs(), "ahead"),
                behind => (behind.unsigned_abs(), "behind"),
            };
            (off > CLOCK_MARGIN_S).then(|| {
                format!(
                    "the clock of {server} is {off} s {way} of the librarian's, and at 300 s it is not heard any more: set it \
                     (`timedatectl set-ntp true` there)"
                )
            })
        }),
        format!("no clock is off by more than {CLOCK_MARGIN_S} s"),
    );
    say(
        "moves",
        if moving == 0 {
            Vec::new()
        } else {
            vec![format!(
                "{moving} objects are on their way: wait until they have arrived"
            )]
        },
        "no object is on its way".to_owned(),
    );
    let level = upgrade.ask.level.unwrap_or(sight.policy().level.0);
    say(
        "suites",
        each(&|server, seen| {
            let suite = seen.upkeep()?.suite;
            (seen.release() == Some(&upgrade.to) && suite < level)
                .then(|| format!("{server} knows levels up to {suite} only, and {level} is asked for"))
        }),
        format!("level {level} can be read everywhere after the upgrade"),
    );
    let sets: std::collections::BTreeSet<_> = servers()
        .filter(|(_, seen)| seen.release() == Some(&upgrade.from))
        .filter_map(|(_, seen)| Some(seen.upkeep()?.schemas))
        .collect();
    say(
        "schemas",
        if sets.len() > 1 {
            vec![format!(
                "servers of release {} have {} different sets of schemas: put the same on all (`schemas` in agent.toml)",
                upgrade.from,
                sets.len()
            )]
        } else {
            Vec::new()
        },
        "all servers of one release have the same".to_owned(),
    );
    let (faults, notes) = dry_runs(servers().filter(|(_, seen)| seen.release() == Some(&upgrade.from)));
    // A fault does not hide the rest.
    if faults.is_empty() || !notes.is_empty() {
        say("dry run", Vec::new(), notes.join("; "));
    }
    if !faults.is_empty() {
        say("dry run", faults, String::new());
    }
    say(
        "objects",
        each(&|server, seen| {
            let has = seen.has.as_ref()?;
            (has.unreadable > 0).then(|| {
                format!(
                    "{} objects on {server} cannot be read and would stay: `agent check` there says which",
                    has.unreadable
                )
            })
        }),
        "all can be read".to_owned(),
    );
    say(
        "keys",
        each(&|server, seen| {
            (seen.upkeep()?.keys == KeysAre::Down)
                .then(|| format!("the key provider of {server} does not answer: `agent keys status` there"))
        }),
        "every key provider answers".to_owned(),
    );
    say(
        "scrub",
        each(&|server, seen| {
            let scrubbed = seen.upkeep()?.scrubbed_unix_s;
            // One that has never been scrubbed is new: what it holds was read back when it came.
            let old = scrubbed > 0 && now_unix_s.saturating_sub(scrubbed) > SCRUB_AGE_MAX_S && seen.objects() > 0;
            old.then(|| {
                format!(
                    "the last whole scrub of {server} ended {} days ago: wait for the next, or `agent check` there",
                    (now_unix_s - scrubbed) / 86_400
                )
            })
        }),
        "every copy was read lately".to_owned(),
    );
    let quarantined: u64 = servers()
        .filter_map(|(_, seen)| Some(seen.has.as_ref()?.quarantined))
        .sum();
    say(
        "quarantine",
        Vec::new(),
        match quarantined {
            0 => "no object is on the list".to_owned(),
            some => format!(
                "schema steps failed for {some} objects; finalize will ask that they are mended or waived: `librarian upgrade \
                 quarantine` says which and why"
            ),
        },
    );
    let by_hand: Vec<&str> = servers()
        .filter(|(_, seen)| seen.upkeep().is_none_or(|upkeep| upkeep.install == Install::ByHand))
        .map(|(server, _)| server.as_str())
        .collect();
    say(
        "install",
        Vec::new(),
        match by_hand[..] {
            [] => "every server installs by itself".to_owned(),
            [..] => format!(
                "on {} a person installs when the status says so (no `install` is configured there)",
                by_hand.join(", ")
            ),
        },
    );
    let mut pool = topology(sight, &upgrade.to, upgrade, None);
    for host in &mut pool.hosts {
        // They have their turns first, and are free then.
        if comes_back(&sight.servers[&host.name], upgrade) {
            host.part = Part::Free;
        }
    }
    match rotation::search(&pool) {
        Ok(rotation) => {
            let turns: Vec<String> = rotation
                .rounds
                .iter()
                .map(|round| {
                    let steps = round.iter().map(|step| match &step.into {
                        Some(into) => format!("{} into {into}", step.server),
                        None => step.server.to_string(),
                    });
                    steps.collect::<Vec<_>>().join(" and ")
                })
                .collect();
            say(
                "capacity",
                Vec::new(),
                match turns[..] {
                    [] => "nothing is to be moved".to_owned(),
                    [..] => format!("the order works, and back: {}", turns.join(", then ")),
                },
            );
        }
        Err(refusal) => say("capacity", vec![refusal.to_string()], String::new()),
    }
    findings
}

/// What servers of the old release found when they tried the schemas of the next one: faults, and what else there is to say.
fn dry_runs<'a>(servers: impl Iterator<Item = (&'a ServerName, &'a Seen)>) -> (Vec<String>, Vec<String>) {
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let (mut untried, mut sets) = (Vec::new(), BTreeMap::<_, Vec<&str>>::new());
    let (mut tried_objects, mut is_present) = (0, false);
    for (server, seen) in servers {
        let upkeep = seen.upkeep();
        let Some((tried, present)) = upkeep.and_then(|upkeep| Some((upkeep.dry?, upkeep.schemas))) else {
            // One that holds nothing has nothing to try.
            untried.extend((seen.objects() > 0).then_some(server.as_str()));
            continue;
        };
        sets.entry(tried.set).or_default().push(server.as_str());
        tried_objects += tried.objects;
        is_present |= tried.set == present;
        if tried.stuck > 0 {
            faults.push(format!(
                "{} objects on {server} could not be brought to the next schemas and back: `dry-run.json` there says which and \
                 why; mend the steps, or the objects",
                tried.stuck
            ));
        }
        if tried.quarantined > 0 {
            notes.push(format!(
                "steps fail for {} objects on {server}: they would move as they are, and finalize will ask that they are mended \
                 or waived (`dry-run.json` there says which and why)",
                tried.quarantined
            ));
        }
    }
    if sets.len() > 1 {
        let each = sets
            .iter()
            .map(|(set, servers)| format!("{set} on {}", servers.join(", ")));
        faults.push(format!(
            "different schemas were tried, {}: put the same on all (`next_schemas` in agent.toml)",
            each.collect::<Vec<_>>().join("; ")
        ));
    }
    if let (true, Some(set)) = (faults.is_empty(), sets.keys().next()) {
        notes.insert(
            0,
            format!("the next schemas, {set}, were tried on {tried_objects} objects"),
        );
    }
    if is_present {
        // `next_schemas` may have been left as it was in the upgrade before.
        notes.push("these are the schemas of the old release: right only if the new one has no others".to_owned());
    }
    if !untried.is_empty() {
        notes.push(format!(
            "no dry run was made on {}: set `next_schemas` in agent.toml there, or wait until it has ended",
            untried.join(", ")
        ));
    }
    if notes.is_empty() && faults.is_empty() {
        notes.push("no server of the old release holds objects".to_owned());
    }
    (faults, notes)
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
