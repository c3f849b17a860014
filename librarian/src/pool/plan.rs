//! Plans: numbered immutable documents that say what the pool is doing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zones::{Level, Policy, ServerName, Steps};

use super::upgrade::{Open, Roll, Upgrade};

/// Longest document that is read: a pool of thousands of servers stays far below.
const DOCUMENT_OCTETS_MAX: usize = 1 << 20;

/// What the pool is doing. Its number is one above its parent's; 0 stands for no plan at all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Its number.
    pub number: u64,
    /// The plan before.
    pub parent: u64,
    /// What is to be done.
    pub goal: Goal,
    /// Where the objects of a drained server went, so that a refill knows whence they come back.
    pub homes: BTreeMap<ServerName, ServerName>,
    /// Drains that plans before it began and that are not over, by the server that gives: what that one gave since then is what
    /// its gate compares.
    pub open: BTreeMap<ServerName, Open>,
    /// What it asks of objects.
    pub policy: Policy,
    /// The upgrade that it is a part of.
    pub upgrade: Option<Upgrade>,
}

/// What a plan wants done. A drain and a refill move every object off one server onto another; they differ in whose idea of
/// home that is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Goal {
    /// Every object off `server`, into a free one; `server` is free afterwards.
    Drain {
        /// The server to be emptied.
        server: ServerName,
        /// The free server that takes its objects.
        into: ServerName,
    },
    /// Every object off `from`, back onto `server`; `from` is free afterwards.
    Refill {
        /// The server that gets its objects back.
        server: ServerName,
        /// The one that took them.
        from: ServerName,
    },
    /// Nothing moves: the first plan after a reconcile, which every server takes for new.
    Settle,
    /// Nothing moves: what the plan asks of objects is new.
    Policy,
    /// Each of these servers is emptied and given the release of the upgrade.
    Roll(Vec<Roll>),
    /// Nothing moves: an upgrade stands still or is watched.
    Hold,
    /// Single objects move by wishes, until octets and requests are even ([`super::balance`]).
    Balance,
}

/// A document is not a plan that this release can read.
#[derive(Debug, thiserror::Error)]
#[error("plan {number} cannot be read: it is damaged or of a later release")]
pub struct PlanError {
    /// Its number.
    pub number: u64,
    /// What the reader saw.
    pub source: serde_json::Error,
}

/// The document as JSON.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    parent: u64,
    goal: GoalText,
    homes: BTreeMap<String, String>,
    /// Absent where none is: so plain drains are read by a release that did not know it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    open: BTreeMap<ServerName, Open>,
    /// Absent for the first policy: so plans of a release without policies are read, and read by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyText>,
    /// Absent outside an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upgrade: Option<Upgrade>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    level: u8,
    floor: u8,
    contract_steps: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum GoalText {
    Drain { server: String, into: String },
    Refill { server: String, from: String },
    Settle,
    Policy,
    Roll(Vec<Roll>),
    Hold,
    Balance,
}

impl Goal {
    /// The server that is emptied and the one that takes the objects, if any move.
    #[must_use]
    pub fn parties(&self) -> Option<(&ServerName, &ServerName)> {
        match self {
            Goal::Drain { server, into } => Some((server, into)),
            Goal::Refill { server, from } => Some((from, server)),
            Goal::Settle | Goal::Policy | Goal::Roll(_) | Goal::Hold | Goal::Balance => None,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::Drain { server, into } => write!(f, "drain {server} into {into}"),
            Goal::Refill { server, from } => write!(f, "refill {server} from {from}"),
            Goal::Settle => write!(f, "settle after a reconcile"),
            Goal::Policy => write!(f, "ask more of objects"),
            Goal::Roll(rolls) => {
                write!(f, "upgrade")?;
                for (at, roll) in rolls.iter().enumerate() {
                    write!(f, "{} {roll}", if at > 0 { "," } else { "" })?;
                }
                Ok(())
            }
            Goal::Hold => write!(f, "move nothing"),
            Goal::Balance => write!(f, "balance the pool"),
        }
    }
}

impl Plan {
    /// The document, JSON.
    #[must_use]
    pub fn document(&self) -> String {
        let document = Document {
            parent: self.parent,
            goal: match &self.goal {
                Goal::Drain { server, into } => GoalText::Drain {
                    server: server.to_string(),
                    into: into.to_string(),
                },
                Goal::Refill { server, from } => GoalText::Refill {
                    server: server.to_string(),
                    from: from.to_string(),
                },
                Goal::Settle => GoalText::Settle,
                Goal::Policy => GoalText::Policy,
                Goal::Roll(rolls) => GoalText::Roll(rolls.clone()),
                Goal::Hold => GoalText::Hold,
                Goal::Balance => GoalText::Balance,
            },
            homes: self
                .homes
                .iter()
                .map(|(home, now)| (home.to_string(), now.to_string()))
                .collect(),
            open: self.open.clone(),
            policy: (self.policy != Policy::default()).then(|| PolicyText {
                level: self.policy.level.0,
                floor: self.policy.floor.0,
                contract_steps: self.policy.steps == Steps::All,
            }),
            upgrade: self.upgrade.clone(),
        };
        serde_json::to_string(&document).expect("texts and a number are JSON")
    }

    /// Reads a document.
    ///
    /// # Errors
    ///
    /// [`PlanError`] for anything that [`Plan::document`] of this release does not make.
    pub fn read(number: u64, document: &str) -> Result<Plan, PlanError> {
        let refuse = |source| PlanError { number, source };
        let wrong = |what: &str| refuse(serde::de::Error::custom(what));
        if document.len() > DOCUMENT_OCTETS_MAX {
            return Err(wrong("it is too long"));
        }
        let document: Document = serde_json::from_str(document).map_err(refuse)?;
        let server = |text: &str| {
            text.parse::<ServerName>()
                .map_err(|_| wrong("a server's name is malformed"))
        };
        let goal = match &document.goal {
            GoalText::Drain { server: drained, into } => Goal::Drain {
                server: server(drained)?,
                into: server(into)?,
            },
            GoalText::Refill { server: filled, from } => Goal::Refill {
                server: server(filled)?,
                from: server(from)?,
            },
            GoalText::Settle => Goal::Settle,
            GoalText::Policy => Goal::Policy,
            GoalText::Roll(rolls) => Goal::Roll(rolls.clone()),
            GoalText::Hold => Goal::Hold,
            GoalText::Balance => Goal::Balance,
        };
        let policy = document.policy.map_or_else(Policy::default, |policy| Policy {
            level: Level(policy.level),
            floor: Level(policy.floor),
            steps: if policy.contract_steps {
                Steps::All
            } else {
                Steps::Expand
            },
        });
        if !policy.is_sound() {
            return Err(wrong("its floor is not between 1 and its level"));
        }
        let homes = document
            .homes
            .iter()
            .map(|(home, now)| Ok((server(home)?, server(now)?)))
            .collect::<Result<_, PlanError>>()?;
        Ok(Plan {
            number,
            parent: document.parent,
            goal,
            homes,
            open: document.open,
            policy,
            upgrade: document.upgrade,
        })
    }

    /// What a plan as the registry has it asks of objects; the first policy if there is none that can be read.
    pub(crate) fn policy_of(plan: Option<&crate::registry::Plan>) -> Policy {
        plan.and_then(|plan| Plan::read(plan.number, &plan.document).ok())
            .map_or_else(Policy::default, |plan| plan.policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::upgrade::{Ask, Baseline, Halt, Open, Phase};
    use proptest::prelude::*;

    fn name(text: &str) -> ServerName {
        text.parse().expect(text)
    }

    proptest! {
        #[test]
        fn plan_document_comes_back(what in 0..7, level in 1u8..9, all in any::<bool>(), number in 1u64.., a in "s[a-z0-9]{1,13}", b in "t[a-z0-9]{1,13}") {
            let goal = match what {
                0 => Goal::Drain { server: name(&a), into: name(&b) },
                1 => Goal::Refill { server: name(&a), from: name(&b) },
                2 => Goal::Settle,
                3 => Goal::Policy,
                4 => Goal::Hold,
                5 => Goal::Balance,
                _ => Goal::Roll(vec![
                    Roll { server: name(&a), into: Some(name(&b)), since: number, reserve: false },
                    Roll { server: name(&b), into: None, since: 1, reserve: true },
                ]),
            };
            let steps = if all { Steps::All } else { Steps::Expand };
            let policy = Policy { level: Level(level), floor: Level(1), steps };
            let homes = [(name(&a), name(&b))].into();
            let upgrade = (what > 3).then(|| Upgrade {
                from: "1".to_owned(),
                to: "2".to_owned(),
                phase: if all { Phase::Rolling } else { Phase::RolledBack },
                halt: all.then(|| Halt::Gate("why".to_owned())),
                ask: Ask::default(),
                began_unix_s: number,
                failed: [(name(&b), 2)].into(),
                baseline: Baseline { p99_us: 7, errors: [(name(&a), 1)].into() },
                contracted: all,
            });
            let open = [(name(&a), Open { into: name(&b), since: number, home: all })];
            let open = open.into_iter().filter(|_| what % 2 == 0).collect();
            let plan = Plan { number, parent: number - 1, goal, homes, open, policy, upgrade };
            prop_assert_eq!(Plan::read(number, &plan.document()).expect("own document"), plan);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _ = Plan::read(1, &text);
        }
    }
}
