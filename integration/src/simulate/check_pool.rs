//! What must hold of the pool: of plans, wants and roles, and of the servers that registers name.
//!
//! The judge keeps its own history of plans, wants and registers and never asks the rules of the registry or of the
//! controller whether something was allowed: it compares what is with what was.
//!
//! Specification: DESIGN.md sections 5, 7, 13 and 15 (I9, I13).

use std::collections::{BTreeMap, BTreeSet};

use librarian::pool;
use librarian::registry::{View, WantsChange};
use zones::{Address, Level, Register, Role, ServerName, State, Want};

use super::agent::Machine;
use super::check_gate;
use super::script::address;
use super::world::World;

/// What was seen of the pool.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// The registry that all of this was seen of, once it was open; another one has another history.
    incarnation: Option<[u8; 16]>,
    /// The most servers that were free while none was out of serving: one that failed may come back as a free one.
    free: usize,
    /// The number of the current plan, and what it says.
    plan: (u64, String),
    wants: BTreeMap<ServerName, Want>,
    registers: BTreeMap<Address, Register>,
    /// Servers from draining, or the beginning of their refill, until they are free or serve.
    between: BTreeSet<ServerName>,
    /// Servers that are being emptied, and since which plan.
    emptied: BTreeMap<ServerName, u64>,
    /// Wants that a controller has written since the last look.
    written: Vec<WantsChange>,
    /// What each agent obeyed last, and in which of its lives.
    obeyed: BTreeMap<ServerName, (u32, Want)>,
    /// What agents have begun to obey since the last look.
    heard: Vec<(usize, Want)>,
}

impl Pool {
    /// A controller has written wants.
    pub(super) fn written(&mut self, change: WantsChange) {
        self.written.push(change);
    }

    /// An agent has heard what it should do, and obeys.
    pub(super) fn heard(&mut self, agent: usize, want: Want) {
        self.heard.push((agent, want));
    }

    fn role(&self, server: &ServerName) -> Option<Role> {
        self.wants.get(server).map(|want| want.role)
    }

    /// How many servers have one of these roles.
    fn count(&self, roles: &[Role]) -> usize {
        self.wants.values().filter(|want| roles.contains(&want.role)).count()
    }

    fn naming(&self, server: &ServerName) -> Option<&Register> {
        self.registers.values().find(|register| register.names(server))
    }

    /// Begins the history of a registry with what it says now.
    fn begin(&mut self, incarnation: [u8; 16], view: &View<'_>, objects: usize) {
        *self = Pool {
            incarnation: Some(incarnation).filter(|_| view.reconcile().open),
            plan: plan_of(view),
            wants: wants_of(view),
            registers: (0..objects)
                .filter_map(|object| Some((address(object), view.register(&address(object))?)))
                .collect(),
            ..Pool::default()
        };
        self.free = self.count(&[Role::Free]);
        self.between = (self.wants.iter())
            .filter(|(_, want)| {
                matches!(
                    want.role,
                    Role::Draining | Role::Empty | Role::Upgrading | Role::Validating | Role::Refilling
                )
            })
            .map(|(server, _)| server.clone())
            .collect();
    }

    /// The current plan only gives way to its child.
    fn plan_changes(&mut self, view: &View<'_>) -> Result<bool, String> {
        let new = plan_of(view);
        if new == self.plan {
            return Ok(false);
        }
        let old = std::mem::replace(&mut self.plan, new).0;
        let number = self.plan.0;
        let parent = view
            .plan()
            .and_then(|plan| pool::Plan::read(number, &plan.document).ok())
            .map(|plan| plan.parent);
        match number > old && parent == Some(old) {
            true => Ok(true),
            false => Err(format!(
                "a plan's parent: plan {number} of parent {parent:?} takes the place of plan {old}"
            )),
        }
    }

    /// Takes the wants in and returns those before them.
    fn wants_change(&mut self, view: &View<'_>) -> BTreeMap<ServerName, Want> {
        let old = std::mem::replace(&mut self.wants, wants_of(view));
        let mut turned = false;
        for (server, want) in self.wants.iter().filter(|(server, want)| old.get(server) != Some(want)) {
            match want.role {
                // A free server that is given another release is on the same way.
                Role::Draining | Role::Refilling | Role::Empty => drop(self.between.insert(server.clone())),
                Role::Free => drop(self.between.remove(server)),
                Role::Serving => turned |= self.between.remove(server),
                Role::Reserve
                | Role::Cordoned
                | Role::Upgrading
                | Role::Validating
                | Role::Failed
                | Role::Quarantined => {}
            }
            match want.role {
                Role::Cordoned | Role::Draining => drop(self.emptied.entry(server.clone()).or_insert(want.plan)),
                Role::Serving | Role::Refilling | Role::Free | Role::Reserve => drop(self.emptied.remove(server)),
                Role::Empty | Role::Upgrading | Role::Validating | Role::Failed | Role::Quarantined => {}
            }
        }
        if turned {
            // Of a drain that is turned round one server serves again before the other one drains.
            let cordoned = self.wants.iter().filter(|(_, want)| want.role == Role::Cordoned);
            self.between.extend(cordoned.map(|(server, _)| server.clone()));
        }
        old
    }

    /// What has changed, for a person.
    fn says(&self, planned: bool, old: &BTreeMap<ServerName, Want>) -> Vec<String> {
        let mut said = Vec::new();
        if planned && let Ok(plan) = pool::Plan::read(self.plan.0, &self.plan.1) {
            let upgrade = plan.upgrade.map(|upgrade| (upgrade.phase, upgrade.halt));
            said.push(format!("plan {}: {} {upgrade:?}", plan.number, plan.goal));
        }
        let news = self
            .wants
            .iter()
            .filter(|(server, want)| old.get(server).map(|old| old.role) != Some(want.role));
        said.extend(news.map(|(server, want)| format!("{server} is to be {}", want.role)));
        said
    }

    /// What a server gave that has just been found empty is what others took.
    fn gates(&self, old: &BTreeMap<ServerName, Want>, machines: &[Machine]) -> Result<(), String> {
        let role = |wants: &BTreeMap<ServerName, Want>, server| wants.get(server).map(|want| want.role);
        for (server, since) in &self.emptied {
            if role(old, server) == Some(Role::Draining) && role(&self.wants, server) == Some(Role::Empty) {
                if let Some(register) = self.naming(server) {
                    return Err(format!(
                        "empty: {server} is to be empty and {} names it",
                        register.address
                    ));
                }
                check_gate::gate(machines, server, *since)?;
            }
        }
        Ok(())
    }

    /// Wants rise by (plan, step), and are decided from those before them.
    fn follow(&mut self, old: &BTreeMap<ServerName, Want>) -> Result<(), String> {
        for change in self.written.drain(..) {
            // Who writes what is so already decides nothing.
            if change.wants.iter().all(|(server, want)| old.get(server) == Some(want)) {
                continue;
            }
            let stale = change
                .decided_from
                .iter()
                .find(|(server, want)| old.get(server) != Some(want));
            if let Some((server, want)) = stale {
                return Err(format!(
                    "wants compared: decided from {want:?} of {server}, which was {:?}",
                    old.get(server)
                ));
            }
        }
        for (server, want) in &self.wants {
            let Some(before) = old.get(server).filter(|before| *before != want) else {
                continue;
            };
            if (want.plan, want.step) <= (before.plan, before.step) || want.plan != self.plan.0 {
                return Err(format!(
                    "wants compared: the want of {server} goes from {before:?} to {want:?} under plan {}",
                    self.plan.0
                ));
            }
        }
        Ok(())
    }

    /// Beyond its first step a plan relies on the servers that it speaks of: each has its number on disk.
    fn relied_on(&self, old: &BTreeMap<ServerName, Want>, machines: &[Machine]) -> Result<(), String> {
        let number = self.plan.0;
        // What is said of copies is no step of a plan, and relies on nobody.
        let only_copies = |old: &Want, new: &Want| {
            let mut before = old.clone();
            (before.step, before.errand.keep) = (new.step, new.errand.keep.clone());
            before == *new
        };
        let relies = |(server, want): (&ServerName, &Want)| {
            want.step > 0 && !old.get(server).is_some_and(|old| only_copies(old, want))
        };
        if !self.wants.iter().any(relies) {
            return Ok(());
        }
        let Ok(plan) = pool::Plan::read(number, &self.plan.1) else {
            return Ok(());
        };
        let rolls = match &plan.goal {
            pool::Goal::Roll(rolls) => &rolls[..],
            _ => &[],
        };
        // One that is given up is waited for no more.
        let is_out = |server: &&ServerName| self.role(server) == Some(Role::Failed);
        let parties = plan
            .goal
            .parties()
            .into_iter()
            .flat_map(|(source, target)| [source, target])
            .chain(
                rolls
                    .iter()
                    .flat_map(|roll| std::iter::once(&roll.server).chain(&roll.into)),
            )
            .filter(|server| !is_out(server));
        for party in parties {
            let machine = machines.iter().find(|machine| machine.name == *party);
            let seen = machine
                .and_then(|machine| machine.disk.read_plan())
                .map_or(0, |(plan, _)| plan);
            if seen < number {
                return Err(format!(
                    "plan seen: plan {number} relies on {party}, which has seen plan {seen}"
                ));
            }
        }
        Ok(())
    }

    /// Nothing newly names a server that takes nothing, and nothing is made on one that does not serve.
    fn registers_change(&mut self, view: &View<'_>, objects: usize) -> Result<(), String> {
        for address in (0..objects).map(address) {
            let Some(new) = view.register(&address) else { continue };
            let old = self.registers.insert(address.clone(), new.clone());
            if old.as_ref() == Some(&new) || new.state == State::Deleted {
                continue;
            }
            let newly = (self.wants.keys())
                .filter(|server| new.names(server) && old.as_ref().is_none_or(|old| !old.names(server)));
            for server in newly {
                match (self.role(server), &old) {
                    (Some(Role::Serving | Role::Refilling), _) => {}
                    (role, None) => return Err(format!("{address} is made on {server}, which is {role:?}")),
                    (role, Some(_)) => {
                        return Err(format!(
                            "the register of {address} newly names {server}, which is {role:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// I9 and I13.
    fn roles_fit(&mut self) -> Result<(), String> {
        let idle = |role: &Role| matches!(role, Role::Free | Role::Reserve);
        for (server, want) in self.wants.iter().filter(|(_, want)| idle(&want.role)) {
            if let Some(register) = self.naming(server) {
                return Err(format!(
                    "I9: {server} is {} and {} names it",
                    want.role, register.address
                ));
            }
        }
        let draining = self.count(&[Role::Draining]);
        let out = self.count(&[
            Role::Cordoned,
            Role::Draining,
            Role::Empty,
            Role::Upgrading,
            Role::Validating,
        ]);
        if out == 0 {
            self.free = self.free.max(self.count(&[Role::Free]));
        }
        if self.free == 0 {
            return Ok(());
        }
        if draining > self.free || out > self.free {
            return Err(format!(
                "I13: {draining} servers drain and {out} are out of serving, with {} free before",
                self.free
            ));
        }
        let failed = self.count(&[Role::Failed, Role::Quarantined]);
        if self.count(&[Role::Free]) == 0 && self.between.is_empty() && failed == 0 {
            return Err("I9: no server is free, and none is between draining and the end of its refill".to_owned());
        }
        Ok(())
    }

    /// No agent obeys a plan below one that it has made durable, nor in one life a want below one that it obeyed.
    fn obeys(&mut self, machine: &Machine, want: Want) -> Result<(), String> {
        let seen = machine.disk.read_plan().map_or(0, |(plan, _)| plan);
        let me = &machine.name;
        if want.plan < seen {
            return Err(format!(
                "plan seen: {me} obeys plan {} and has seen plan {seen}",
                want.plan
            ));
        }
        let before = self.obeyed.insert(me.clone(), (machine.life, want.clone()));
        match before {
            Some((life, before)) if life == machine.life && (want.plan, want.step) < (before.plan, before.step) => {
                Err(format!("plan seen: {me} obeys {want:?} after {before:?}"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn plan_of(view: &View<'_>) -> (u64, String) {
    view.plan()
        .map_or_else(Default::default, |plan| (plan.number, plan.document.clone()))
}

fn wants_of(view: &View<'_>) -> BTreeMap<ServerName, Want> {
    view.servers()
        .map(|server| (server.name.clone(), server.want.clone()))
        .collect()
}

impl World {
    /// Looks at what this event changed of plans, wants and registers, and at what agents obey.
    pub(super) fn verify_pool(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let registry = &self.librarian.process.registry;
        let (incarnation, objects) = (registry.incarnation(), self.script.objects);
        let registers = self.check.registers_changed;
        let restored_never = self.check.moves.is_some();
        let (view, machines, pool) = (registry.view(), &self.machines, &mut self.pool);
        let watched = &mut self.watched;
        // What a registry says until it is reconciled is not its own history.
        if pool.incarnation != Some(incarnation) || !view.reconcile().open {
            pool.begin(incarnation, &view, objects);
            return watched.plan(None, Level(1));
        }
        let mut said = Vec::new();
        let traced = self.trace.is_some();
        let found = (|| {
            let planned = pool.plan_changes(&view)?;
            if planned {
                let plan = view
                    .plan()
                    .and_then(|plan| pool::Plan::read(plan.number, &plan.document).ok());
                let level = plan.as_ref().map_or(Level(1), |plan| plan.policy.level);
                watched.plan(plan.and_then(|plan| plan.upgrade), level);
            }
            let old = pool.wants_change(&view);
            watched.releases(machines, |server| pool.role(server) == Some(Role::Failed))?;
            if traced {
                said = pool.says(planned, &old);
            }
            if registers {
                pool.registers_change(&view, objects)?;
            }
            if registers || planned || old != pool.wants {
                pool.roles_fit()?;
                pool.relied_on(&old, machines)?;
                pool.follow(&old)?;
                // What a restored registry forgot moved twice, or not at all.
                if restored_never {
                    pool.gates(&old, machines)?;
                }
            }
            for (agent, want) in std::mem::take(&mut pool.heard) {
                pool.obeys(&machines[agent], want)?;
            }
            Ok(())
        })();
        drop(view);
        for line in said {
            self.note(|| line);
        }
        if let Err(why) = found {
            self.fail(why);
        }
    }
}
