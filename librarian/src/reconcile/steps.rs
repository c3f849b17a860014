//! What a reconcile proposes to the registry's writer, and what each step changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use parking_lot::Mutex;
use zones::{Claim, Claimed, Register, Report, Role, ServerName, State, Tx, Want};

use super::ledger::Conflict;
use super::merge::{Merged, merge};
use crate::guard::{Guard, stands};
use crate::registry::draft::Draft;
use crate::registry::key::key_of;
use crate::registry::{Plan, Reconcile, Refused};

/// One step of a reconcile.
#[derive(Clone, Debug)]
pub enum Step {
    /// Take one message of a report in.
    Merge {
        /// The message.
        report: Box<Report>,
        /// Filled with what each claim meant.
        findings: Findings,
    },
    /// Go on without a server: it is lost for good.
    WriteOff {
        /// Which.
        server: ServerName,
    },
    /// Give objects to whoever has a whole copy that came from a server that has the object no more, and those that nobody
    /// claims to whoever was read to be their owner.
    Rescue {
        /// Who claims what may be.
        claims: Vec<(ServerName, Claim)>,
    },
    /// Give registers a fresh tx, and open moves back to their source: as many as there are numbers, from a key on.
    Freshen {
        /// The first key.
        from: String,
        /// Random numbers.
        txs: Vec<Tx>,
        /// Filled with the key to go on from; `None` after the last.
        next: Arc<Mutex<Option<String>>>,
    },
    /// Let registers change, under a plan that every server takes for new.
    Open {
        /// The plan.
        plan: Plan,
        /// The roles that servers were last told to act in, as far as they know, and the highest plan that they saw.
        roles: BTreeMap<ServerName, (u64, Role)>,
    },
    /// A server joined anew, with nothing: if it was written off, that is over.
    Joined {
        /// Its name.
        server: ServerName,
        /// Its role.
        role: Role,
    },
}

/// What each claim of a message meant.
pub type Findings = Arc<Mutex<Vec<Finding>>>;

/// What one claim meant.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The key of its register.
    pub(crate) key: String,
    /// Whether the register's owner has said that it has the object; `None` if this says nothing of it.
    pub(crate) holds: Option<bool>,
    /// How it contradicts the register.
    pub(crate) conflict: Option<Conflict>,
}

/// Judges a step and drafts its changes.
pub(crate) fn draft(draft: &mut Draft<'_>, step: &Step) -> Result<(), Refused> {
    if let Step::Joined { server, role } = step {
        joined(draft, server, *role);
        return Ok(());
    }
    if draft.reconcile().open {
        return Err(Refused::prohibited(
            "the registry is not being reconciled: nothing is reported, written off or opened",
        ));
    }
    match step {
        Step::Merge { report, findings } => merge_report(draft, report, &mut findings.lock()),
        Step::WriteOff { server } => write_off(draft, server),
        Step::Rescue { claims } => {
            claims.iter().for_each(|(server, claim)| rescue(draft, server, claim));
            Ok(())
        }
        Step::Freshen { from, txs, next } => {
            freshen(draft, from, txs, &mut next.lock());
            Ok(())
        }
        Step::Open { plan, roles } => open(draft, plan, roles),
        Step::Joined { .. } => unreachable!("handled above"),
    }
}

fn merge_report(draft: &mut Draft<'_>, report: &Report, findings: &mut Vec<Finding>) -> Result<(), Refused> {
    let reporter = &report.server;
    if draft.server(reporter).is_none() {
        return Err(Refused::prohibited(format!(
            "server {reporter} is not of this pool: invite it first"
        )));
    }
    findings.clear();
    for claim in &report.claims {
        draft
            .domain()
            .check(&claim.address)
            .map_err(|error| malformed(claim, &error))?;
        let key = key_of(draft.domain(), &claim.address).expect("the address was just checked");
        if let Some(register) = claim.register(reporter) {
            register.check().map_err(|error| malformed(claim, &error))?;
        }
        let current = draft.register(&key);
        let mut finding = Finding {
            key: key.clone(),
            holds: None,
            conflict: None,
        };
        match merge(current.as_ref(), reporter, claim) {
            Merged::Agrees { text, holds } => {
                finding.holds = holds.then_some(true);
                if let Some(text) = text {
                    draft.put_register(key, *text);
                }
            }
            Merged::Replaced { text, holds } => {
                finding.holds = Some(holds);
                draft.put_register(key, *text);
            }
            Merged::Older | Merged::MayBe => {}
            Merged::Conflict => {
                finding.conflict = current.map(|current| Conflict {
                    address: claim.address.clone(),
                    server: reporter.clone(),
                    epoch: claim.epoch,
                    claim: claim_in_words(claim),
                    register: register_in_words(&current),
                });
            }
        }
        findings.push(finding);
    }
    Ok(())
}

fn malformed(claim: &Claim, error: &dyn std::error::Error) -> Refused {
    let why = format!("the claim on {} cannot be registered: {error}", claim.address);
    Refused::with(ResponseCode::FormErr, why)
}

fn claim_in_words(claim: &Claim) -> String {
    match &claim.what {
        Claimed::Owned { .. } => "owned".to_owned(),
        Claimed::Made => "made".to_owned(),
        Claimed::Arriving { from } => format!("arriving from {from}"),
        Claimed::Gone { to } => format!("gone to {to}"),
        Claimed::Heard { to } => format!("heard that it is {to}'s"),
        Claimed::Deleted => "deleted".to_owned(),
    }
}

fn register_in_words(register: &Register) -> String {
    let Register {
        address, epoch, owner, ..
    } = register;
    match &register.state {
        State::Stable | State::Moving { .. } => format!("{address} is {owner}'s at epoch {epoch}"),
        State::Deleted => format!("{address} was deleted by {owner} at epoch {epoch}"),
    }
}

fn write_off(draft: &mut Draft<'_>, name: &ServerName) -> Result<(), Refused> {
    let Some(server) = draft.server(name) else {
        return Err(Refused::prohibited(format!(
            "there is no server {name} in this pool: `librarian pool` lists them"
        )));
    };
    let mut server = server.clone();
    server.lost = true;
    draft.put_server(server);
    let mut reconcile = (**draft.reconcile()).clone();
    reconcile.written_off.insert(name.clone());
    draft.put_reconcile(reconcile);
    Ok(())
}

/// The source is lost for good or has given the object away, so nobody but who has the whole copy can own it. Or nobody claims it, so it is lost
/// with the server that was read to be its owner, and a person is told.
fn rescue(draft: &mut Draft<'_>, server: &ServerName, claim: &Claim) {
    let Some(key) = key_of(draft.domain(), &claim.address) else {
        return;
    };
    let (owner, may) = match (&claim.what, draft.register(&key)) {
        (Claimed::Arriving { .. }, None) => (server, true),
        (Claimed::Arriving { from }, Some(current)) => {
            let follows = current.owner == *from && current.epoch.next() == claim.epoch;
            (server, current.state != State::Deleted && follows)
        }
        (Claimed::Heard { to }, None) => (to, true),
        _ => (server, false),
    };
    let owned = Claim {
        what: Claimed::Owned { others: Vec::new() },
        ..claim.clone()
    };
    if let Some(register) = owned.register(owner).filter(|_| may) {
        draft.put_register(key, register);
    }
}

fn freshen(draft: &mut Draft<'_>, from: &str, txs: &[Tx], next: &mut Option<String>) {
    let registers = draft.published();
    let mut rows = registers.from(from);
    let mut changes = Vec::with_capacity(txs.len());
    for (tx, row) in txs.iter().zip(rows.by_ref()) {
        let known = registers.register(row);
        let register = Register {
            state: State::Stable,
            tx: if stands(Guard::FreshTxOnOpening) { *tx } else { known.tx },
            ..known
        };
        changes.push((registers.key(row).to_owned(), register));
    }
    *next = match rows.next() {
        Some(row) if changes.len() == txs.len() => Some(registers.key(row).to_owned()),
        Some(_) | None => None,
    };
    for (key, register) in changes {
        draft.put_register(key, register);
    }
}

fn open(draft: &mut Draft<'_>, plan: &Plan, roles: &BTreeMap<ServerName, (u64, Role)>) -> Result<(), Refused> {
    let current = draft.plan().map_or(0, |plan| plan.number);
    if plan.parent != current || plan.number <= current {
        return Err(Refused::prohibited(format!(
            "plan {} follows plan {}, current is {current}: plan again",
            plan.number, plan.parent
        )));
    }
    let mut reconcile: Reconcile = (**draft.reconcile()).clone();
    let counting = |name: &ServerName| !reconcile.written_off.contains(name);
    let last = |name: &ServerName| {
        let want = &draft.server(name).expect("it was just named").want;
        match roles.get(name) {
            Some((seen, role)) if *seen >= want.plan => *role,
            // It has not heard yet what a backup knows.
            Some(_) | None => want.role,
        }
    };
    let policy = crate::pool::Plan::policy_of(Some(plan));
    let names = draft.server_names();
    let mut after: BTreeMap<ServerName, Role> = BTreeMap::new();
    for name in names.iter().filter(|name| counting(name)) {
        let has_objects = draft.published().naming(name) > 0;
        after.insert(name.clone(), role_after(last(name), has_objects));
    }
    if !after.values().any(|role| *role == Role::Serving) {
        // Nothing is left that would show who served; somebody has to, and the others stay free.
        let free = |name: &&ServerName| after.get(*name) == Some(&Role::Free);
        let was_drained = |name: &&ServerName| last(name) != Role::Free;
        let someone = names.iter().filter(free).find(was_drained);
        if let Some(name) = someone.or_else(|| names.iter().find(free)).cloned() {
            after.insert(name, Role::Serving);
        }
    }
    for name in names {
        let mut server = draft.server(&name).expect("it was just named").clone();
        let role = after.get(&name).copied().unwrap_or(Role::Failed);
        server.want = Want {
            role,
            targets: Vec::new(),
            plan: plan.number,
            step: 0,
            policy,
            errand: zones::Errand::default(),
        };
        server.todos = Vec::new();
        draft.put_server(server);
    }
    reconcile.open = true;
    draft.put_reconcile(reconcile);
    draft.put_plan(plan.clone());
    Ok(())
}

/// The role of a server after a reconcile: no move goes on, and what has objects serves. The plan that cordoned a server is
/// over with the rest, and nothing but a plan takes a cordon away.
fn role_after(role: Role, has_objects: bool) -> Role {
    match role {
        Role::Cordoned
        | Role::Draining
        | Role::Refilling
        | Role::Empty
        | Role::Upgrading
        | Role::Validating
        | Role::Free
        | Role::Reserve
            if has_objects =>
        {
            Role::Serving
        }
        // Whichever release it comes back with: the next upgrade begins with free servers that do not run its own.
        Role::Cordoned | Role::Draining | Role::Empty | Role::Upgrading | Role::Validating => Role::Free,
        Role::Refilling => Role::Serving,
        Role::Serving | Role::Free | Role::Reserve | Role::Failed | Role::Quarantined => role,
    }
}

fn joined(draft: &mut Draft<'_>, name: &ServerName, role: Role) {
    let policy = crate::pool::Plan::policy_of(draft.plan().map(|plan| &**plan));
    let plan = draft.plan().map_or(0, |plan| plan.number);
    let first = |role, step| Want {
        role,
        targets: Vec::new(),
        plan,
        step,
        policy,
        errand: zones::Errand::default(),
    };
    let mut reconcile: Reconcile = (**draft.reconcile()).clone();
    match draft.server(name).cloned() {
        None => draft.put_server(crate::registry::Server::new(name.clone(), first(role, 0))),
        Some(mut server) if reconcile.written_off.remove(name) => {
            server.lost = false;
            server.host = None;
            server.audit = None;
            server.want = first(role, server.want.step + 1);
            draft.put_server(server);
            draft.put_reconcile(reconcile);
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A role in which no plan could take up the server again would keep it out of use for ever.
    #[test]
    fn after_a_reconcile_every_server_of_the_plan_serves_or_is_free() {
        for role in [
            Role::Cordoned,
            Role::Draining,
            Role::Empty,
            Role::Upgrading,
            Role::Validating,
        ] {
            assert_eq!(role_after(role, true), Role::Serving, "{role}");
            assert_eq!(role_after(role, false), Role::Free, "{role}");
        }
        assert_eq!(role_after(Role::Free, true), Role::Serving);
        assert_eq!(role_after(Role::Refilling, false), Role::Serving);
        assert_eq!(
            role_after(Role::Quarantined, true),
            Role::Quarantined,
            "a person decides"
        );
    }
}
