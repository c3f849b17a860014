//! What can be proposed to the registry besides DNS updates, and when it is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use zones::{ExtendedError, Role, ServerName, UpdateFormatError, Want, Wish};

use super::draft::Draft;
use super::entry::{Plan, Serials};
use super::server::Server;
use crate::guard::{Guard, stands};
use crate::{reconcile, update};

/// Longest document of a plan, in octets.
pub const PLAN_OCTETS_MAX: usize = 1 << 20;

/// In whose name an update is made: that of the key that signed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// A server's key.
    Agent(ServerName),
    /// The admin key.
    Admin,
}

/// A change to the registry, judged and made as a whole or not at all.
#[derive(Clone, Debug)]
pub enum Proposal {
    /// An RFC 2136 message.
    Update {
        /// Who signed it.
        by: By,
        /// What it says.
        update: zones::Update,
        /// What is malformed in its changes: told only where its prerequisites hold (RFC 2136 section 3.4).
        malformed: Option<UpdateFormatError>,
        /// When it came; begins the lease of a server that speaks of itself.
        received: Received,
    },
    /// An RFC 2136 message that swaps registers and does nothing else.
    Swaps {
        /// Who signed it.
        by: By,
        /// What it says.
        swaps: zones::update::Swaps,
        /// When it came.
        received: Received,
    },
    /// What servers should do, decided by the controller.
    Wants(WantsChange),
    /// A server, added or marked.
    Server(ServerChange),
    /// A new current plan; its parent must be the current one (0 if there is none).
    Plan(Plan),
    /// A step of a reconcile.
    Reconcile(reconcile::Step),
    /// Other serials, later than any that a secondary may have.
    Renumber(Renumber),
}

/// Serials of the zones that are transferred.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Renumber {
    /// Of `obj.<domain>`.
    pub obj: u32,
    /// Of `tree.<domain>`.
    pub tree: u32,
    /// Of the operator's zone.
    pub apex: u32,
}

/// When a signed message came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// By the clock of leases.
    pub at: Instant,
    /// How far the signer's clock was ahead of ours, in seconds; below 0 it was behind. The way of the message counts as behind.
    pub ahead_s: i64,
}

/// What servers should do, decided under a plan from the wants as they were read.
#[derive(Clone, Debug, Default)]
pub struct WantsChange {
    /// The plan it was decided under; must be current, 0 if there is none.
    pub plan: u64,
    /// Every want that the decision rests on, as it was read; each must be unchanged.
    pub decided_from: BTreeMap<ServerName, Want>,
    /// New wants.
    pub wants: BTreeMap<ServerName, Want>,
    /// New lists of wishes, replacing the old ones. Soft: gone at a restart, and with the first want of a new plan.
    pub todos: BTreeMap<ServerName, Vec<Wish>>,
}

/// What was seen of a server when it was decided that it is lost for good, or is not.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    /// When its agent had last been heard; it must not have been heard since.
    pub seen: Option<Instant>,
    /// The plan that was current, 0 for none; it must still be.
    pub plan: u64,
    /// The role in which it comes back; `None`: the one that it has.
    pub role: Option<Role>,
}

/// A change to the list of servers.
#[derive(Clone, Debug)]
pub enum ServerChange {
    /// A server joined. Joining again under the same name changes nothing.
    Add {
        /// Its name.
        name: ServerName,
        /// Its first role.
        role: Role,
    },
    /// A person, or the controller after a long lease, says that a server is lost for good, or takes that back.
    Lost {
        /// Its name.
        name: ServerName,
        /// Whether it is lost.
        lost: bool,
        /// What it was decided from; `None`: whatever is the case.
        decided: Option<Decided>,
    },
}

/// A proposal is not allowed; nothing was changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// The rcode of the answer.
    pub rcode: ResponseCode,
    /// INFO-CODE of the Extended DNS Error.
    pub info_code: u16,
    /// Why, in a sentence that says what to do.
    pub why: String,
}

impl Refused {
    /// A refusal with rcode REFUSED.
    pub(crate) fn prohibited(why: impl Into<String>) -> Refused {
        Refused::with(ResponseCode::Refused, why)
    }

    /// A refusal with rcode REFUSED of what will be allowed later.
    pub(crate) fn not_ready(why: impl Into<String>) -> Refused {
        Refused {
            rcode: ResponseCode::Refused,
            info_code: ExtendedError::NOT_READY,
            why: why.into(),
        }
    }

    /// What changes of registers, wants and plans get until the registry is reconciled.
    pub(crate) fn reconciling() -> Refused {
        Refused::not_ready(
            "the registry is being reconciled: nothing changes until every server has reported, see `librarian reconcile`",
        )
    }

    /// A refusal with another rcode.
    pub(crate) fn with(rcode: ResponseCode, why: impl Into<String>) -> Refused {
        let info_code = match rcode {
            ResponseCode::Refused => ExtendedError::PROHIBITED,
            ResponseCode::NotAuth | ResponseCode::NotZone => ExtendedError::NOT_AUTHORITATIVE,
            ResponseCode::ServFail => ExtendedError::NOT_READY,
            ResponseCode::NotImp => ExtendedError::NOT_SUPPORTED,
            _ => ExtendedError::OTHER,
        };
        Refused {
            rcode,
            info_code,
            why: why.into(),
        }
    }
}

/// Judges a proposal and drafts its changes. After a refusal the draft is to be thrown away.
pub(crate) fn draft(draft: &mut Draft<'_>, proposal: &Proposal) -> Result<(), Refused> {
    match proposal {
        Proposal::Update {
            by,
            update,
            malformed,
            received,
        } => update::apply(draft, by, update, malformed.as_ref(), *received),
        Proposal::Swaps { by, swaps, received } => update::swaps::apply(draft, by, swaps, *received),
        Proposal::Wants(_) | Proposal::Plan(_) if !draft.reconcile().open => Err(Refused::reconciling()),
        Proposal::Wants(change) => draft_wants(draft, change),
        Proposal::Server(change) => draft_server(draft, change),
        Proposal::Plan(plan) => draft_plan(draft, plan),
        Proposal::Reconcile(step) => reconcile::draft(draft, step),
        Proposal::Renumber(serials) => {
            draft.renumber(Serials {
                obj: serials.obj,
                tree: serials.tree,
                ..draft.serials()
            });
            update::set_apex_serial(draft, serials.apex);
            Ok(())
        }
    }
}

fn current_plan(draft: &Draft<'_>) -> u64 {
    draft.plan().map_or(0, |plan| plan.number)
}

fn known<'d>(draft: &'d Draft<'_>, name: &ServerName) -> Result<&'d Server, Refused> {
    draft
        .server(name)
        .ok_or_else(|| Refused::prohibited(format!("server {name} is not of this pool: invite it first")))
}

fn draft_wants(draft: &mut Draft<'_>, change: &WantsChange) -> Result<(), Refused> {
    let current = current_plan(draft);
    if change.plan != current {
        return Err(Refused::prohibited(format!(
            "decided under plan {}, current is {current}: decide again",
            change.plan
        )));
    }
    for (name, want) in &change.decided_from {
        if stands(Guard::WantsCompared) && known(draft, name)?.want != *want {
            return Err(Refused::prohibited(format!(
                "the want of {name} has changed: decide again"
            )));
        }
    }
    let servers: BTreeSet<&ServerName> = change.wants.keys().chain(change.todos.keys()).collect();
    for name in servers {
        let mut server = known(draft, name)?.clone();
        if let Some(want) = change.wants.get(name) {
            if let Some(stranger) = want.targets.iter().find(|target| draft.server(target).is_none()) {
                return Err(Refused::prohibited(format!(
                    "target {stranger} of {name} is not of this pool"
                )));
            }
            if stands(Guard::WantsCompared) && server.want != *want && !want.supersedes(&server.want) {
                return Err(Refused::prohibited(format!(
                    "the want of {name} is of plan {} step {}: a new one needs a higher step",
                    server.want.plan, server.want.step
                )));
            }
            if want.plan > server.want.plan {
                // Wishes are of a plan, and a new one begins with none.
                server.todos.clear();
            }
            server.want = want.clone();
        }
        if let Some(todos) = change.todos.get(name) {
            if todos.len() > zones::want::WISHES_MAX {
                return Err(Refused::prohibited(format!(
                    "{} wishes for {name}: at most 64",
                    todos.len()
                )));
            }
            server.todos = todos.clone();
        }
        draft.put_server(server);
    }
    Ok(())
}

fn draft_server(draft: &mut Draft<'_>, change: &ServerChange) -> Result<(), Refused> {
    match change {
        ServerChange::Add { name, role } => {
            if draft.server(name).is_none() {
                let policy = crate::pool::Plan::policy_of(draft.plan().map(|plan| &**plan));
                let want = Want {
                    role: *role,
                    targets: Vec::new(),
                    plan: current_plan(draft),
                    step: 0,
                    policy,
                    errand: zones::Errand::default(),
                };
                draft.put_server(Server::new(name.clone(), want));
            }
            Ok(())
        }
        ServerChange::Lost { name, lost, decided } => {
            let mut server = known(draft, name)?.clone();
            if let Some(decided) = decided {
                if *lost && server.seen != decided.seen {
                    return Err(Refused::prohibited(format!("{name} has just been heard")));
                }
                let current = current_plan(draft);
                if decided.plan != current {
                    return Err(Refused::prohibited(format!(
                        "decided under plan {}, current is {current}: decide again",
                        decided.plan
                    )));
                }
                if let Some(role) = decided.role {
                    server.want = Want {
                        role,
                        targets: Vec::new(),
                        step: server.want.step + 1,
                        errand: zones::Errand::default(),
                        ..server.want
                    };
                }
            }
            server.lost = *lost;
            draft.put_server(server);
            Ok(())
        }
    }
}

fn draft_plan(draft: &mut Draft<'_>, plan: &Plan) -> Result<(), Refused> {
    let current = current_plan(draft);
    if stands(Guard::PlanParent) && plan.parent != current {
        return Err(Refused::prohibited(format!(
            "plan {} follows plan {}, current is {current}: plan again",
            plan.number, plan.parent
        )));
    }
    if stands(Guard::PlanParent) && plan.number <= current {
        return Err(Refused::prohibited(format!(
            "plan {} must have a number above {current}",
            plan.number
        )));
    }
    if plan.document.len() > PLAN_OCTETS_MAX {
        return Err(Refused::prohibited("the plan's document is over 1 MiB"));
    }
    draft.put_plan(plan.clone());
    Ok(())
}
