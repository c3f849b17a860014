//! Changes that are judged but not yet durable.
//!
//! A message is judged on what is published plus the earlier members of its group; its own changes join the group only
//! when all of it is allowed. Nothing of a draft is seen by any answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};
use zones::name::label_count;
use zones::{Address, Level, PoolView, Register, Role, ServerName, State, Wish};

use super::entry::{Entry, Plan, Reconcile, RecordZone, Serials};
use super::index::Index;
use super::registers::Registers;
use super::server::Server;
use super::zone::{NameKey, Node};
use crate::guard::{Guard, stands};

/// Changes over the published state.
#[derive(Default)]
pub(crate) struct Overlay {
    registers: HashMap<String, Register>,
    nodes: HashMap<(RecordZone, NameKey), Arc<Node>>,
    servers: BTreeMap<ServerName, Server>,
    plan: Option<Arc<Plan>>,
    serials: Option<Serials>,
    reconcile: Option<Arc<Reconcile>>,
}

impl Overlay {
    /// Takes the changes of a later message in.
    pub(crate) fn absorb(&mut self, later: Overlay) {
        self.registers.extend(later.registers);
        self.nodes.extend(later.nodes);
        self.servers.extend(later.servers);
        self.plan = later.plan.or(self.plan.take());
        self.serials = later.serials.or(self.serials);
        self.reconcile = later.reconcile.or(self.reconcile.take());
    }
}

/// What an allowed message does, in the form in which it is written and published.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// To be durable.
    pub(crate) entries: Vec<Entry>,
    /// Servers of which only soft state changed.
    pub(crate) soft: Vec<Server>,
    /// Serials after this message, if it raised any.
    pub(crate) serials: Option<Serials>,
    /// Serials went elsewhere: no difference leads there.
    pub(crate) renumbered: bool,
}

/// The state that one message is judged on, and its changes so far.
pub(crate) struct Draft<'a> {
    index: &'a Index,
    group: &'a Overlay,
    own: Overlay,
    /// Objects changed by this message: a delegation or register.
    names_changed: bool,
    renumbered: bool,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(index: &'a Index, group: &'a Overlay) -> Draft<'a> {
        Draft {
            index,
            group,
            own: Overlay::default(),
            names_changed: false,
            renumbered: false,
        }
    }

    pub(crate) fn domain(&self) -> &'a zones::Domain {
        &self.index.domain
    }

    /// The register under a key, deleted ones included.
    pub(crate) fn register(&self, key: &str) -> Option<Register> {
        let drafted = self.own.registers.get(key).or_else(|| self.group.registers.get(key));
        match drafted {
            Some(register) => Some(register.clone()),
            None => self
                .index
                .registers
                .find(key)
                .map(|id| self.index.registers.register(id)),
        }
    }

    /// Goes near to where registers are that will be asked for, see [`Registers::approach`].
    pub(crate) fn approach<'k>(&self, keys: impl Iterator<Item = &'k str>) {
        // Only the way counts: hashes are made again where they are needed.
        let _ = self.index.registers.approach(keys);
    }

    /// Sets a register; returns the one that this message had set before.
    pub(crate) fn put_register(&mut self, key: String, register: Register) -> Option<Register> {
        self.names_changed = true;
        self.own.registers.insert(key, register)
    }

    /// Forgets the changes of this message.
    pub(crate) fn begin_anew(&mut self) {
        *self = Draft::new(self.index, self.group);
    }

    /// The ordinary records of a name; an empty node if there are none.
    pub(crate) fn node(&self, zone: RecordZone, name: &Name) -> Arc<Node> {
        let key = (zone, NameKey::new(name));
        let drafted = self.own.nodes.get(&key).or_else(|| self.group.nodes.get(&key));
        drafted
            .or_else(|| self.index.records(zone).node(name))
            .map_or_else(|| Arc::new(Node::empty(name)), Arc::clone)
    }

    /// The names below this one that have ordinary records.
    pub(crate) fn names_below(&self, zone: RecordZone, name: &Name) -> BTreeSet<Name> {
        let key = NameKey::new(name);
        let published = self.index.records(zone).names_below(name).cloned();
        let drafted = self.group.nodes.iter().chain(&self.own.nodes);
        let drafted = drafted.filter(|((of, at), _)| *of == zone && at.is_below(&key));
        let mut names: BTreeSet<Name> = published.chain(drafted.map(|(_, node)| node.name.clone())).collect();
        names.retain(|name| !self.node(zone, name).sets.is_empty());
        names
    }

    /// Replaces the ordinary records of a name.
    pub(crate) fn put_node(&mut self, zone: RecordZone, node: Node) {
        self.names_changed |= zone == RecordZone::Tree;
        self.own.nodes.insert((zone, NameKey::new(&node.name)), Arc::new(node));
    }

    /// Whether a name, or one between it and the apex of `tree`, is delegated to another pool.
    pub(crate) fn is_delegated(&self, tree_name: &Name) -> bool {
        // The usual case: there is no delegation at all.
        if self.index.tree.len() == 0 && self.own.nodes.is_empty() && self.group.nodes.is_empty() {
            return false;
        }
        let low = label_count(self.domain().zone(zones::Zone::Tree)) + 1;
        let high = label_count(tree_name);
        (low..=high).any(|labels| {
            self.node(RecordZone::Tree, &tree_name.trim_to(labels))
                .set(RecordType::NS)
                .is_some()
        })
    }

    pub(crate) fn server(&self, name: &ServerName) -> Option<&Server> {
        let drafted = self.own.servers.get(name).or_else(|| self.group.servers.get(name));
        drafted.or_else(|| self.index.server(name))
    }

    pub(crate) fn put_server(&mut self, server: Server) {
        self.own.servers.insert(server.name.clone(), server);
    }

    pub(crate) fn plan(&self) -> Option<&Arc<Plan>> {
        let drafted = self.own.plan.as_ref().or(self.group.plan.as_ref());
        drafted.or_else(|| self.index.plan())
    }

    pub(crate) fn put_plan(&mut self, plan: Plan) {
        self.own.plan = Some(Arc::new(plan));
    }

    /// Whether registers may change, and who was written off.
    pub(crate) fn reconcile(&self) -> &Arc<Reconcile> {
        let drafted = self.own.reconcile.as_ref().or(self.group.reconcile.as_ref());
        drafted.unwrap_or_else(|| self.index.reconcile())
    }

    pub(crate) fn put_reconcile(&mut self, reconcile: Reconcile) {
        self.own.reconcile = Some(Arc::new(reconcile));
    }

    /// Servers that are published or drafted, by name.
    pub(crate) fn server_names(&self) -> BTreeSet<ServerName> {
        let published = self.index.servers().map(|server| &server.name);
        let drafted = self.group.servers.keys().chain(self.own.servers.keys());
        published.chain(drafted).cloned().collect()
    }

    /// The published registers, without what this group changes.
    pub(crate) fn published(&self) -> &'a Registers {
        &self.index.registers
    }

    /// Serials before this message.
    pub(crate) fn serials(&self) -> Serials {
        self.group.serials.unwrap_or_else(|| self.index.serials())
    }

    /// Sets the serials of composed zones, whatever else the message changes.
    pub(crate) fn renumber(&mut self, serials: Serials) {
        self.own.serials = Some(serials);
        self.renumbered = true;
    }

    /// Whether an object that is not deleted lies at or below a key in `tree`.
    pub(crate) fn any_object_under(&self, key: &str) -> bool {
        let registers = &self.index.registers;
        let published = registers.find(key).into_iter().filter(|id| registers.is_live(*id));
        let mut published = published.chain(registers.below(key));
        let below = format!("{key}.");
        let mut drafted = self.own.registers.iter().chain(&self.group.registers);
        published.next().is_some()
            || drafted.any(|(found, register)| {
                register.state != State::Deleted && (found == key || found.starts_with(&below))
            })
    }

    /// Ends the message: serials rise where answers change, and changes are written down.
    pub(crate) fn finish(mut self) -> (Overlay, Changes) {
        let mut changes = Changes::default();
        let mut answers_changed = false;
        // In a fixed order, so that the same proposals make the same log.
        let mut registers: Vec<_> = self.own.registers.iter().collect();
        registers.sort_by_key(|(key, _)| *key);
        changes.entries.extend(
            registers
                .into_iter()
                .map(|(_, register)| Entry::Register(register.clone())),
        );
        let mut nodes: Vec<_> = self.own.nodes.iter().collect();
        nodes.sort_by_key(|(key, _)| *key);
        changes.entries.extend(
            nodes
                .into_iter()
                .map(|((zone, _), node)| Entry::Node(*zone, Arc::clone(node))),
        );
        for server in self.own.servers.values() {
            let old = self
                .group
                .servers
                .get(&server.name)
                .or_else(|| self.index.server(&server.name));
            answers_changed |= old.is_none_or(|old| old.differs_in_answers(server));
            if old.is_none_or(|old| old.differs_durably(server)) {
                changes.entries.push(Entry::Server(Box::new(server.clone())));
            } else {
                changes.soft.push(server.clone());
            }
        }
        changes.entries.extend(self.own.plan.iter().cloned().map(Entry::Plan));
        changes
            .entries
            .extend(self.own.reconcile.iter().cloned().map(Entry::Reconcile));
        changes.renumbered = self.renumbered;
        if self.renumbered {
            changes.serials = self.own.serials;
        } else if self.names_changed || answers_changed {
            let mut serials = self.serials();
            serials.obj = next_serial(serials.obj);
            serials.tree = next_serial(serials.tree);
            if answers_changed {
                serials.pool = next_serial(serials.pool);
            }
            self.own.serials = Some(serials);
            changes.serials = Some(serials);
        }
        (self.own, changes)
    }
}

/// The serial after this one (RFC 1982 section 3.1). Zero is passed over: some secondaries take it for "unknown".
pub(crate) fn next_serial(serial: u32) -> u32 {
    match serial.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

/// The role that a change is judged by: the server's own, unless a test has taken a guard away.
fn judged_as(role: Role) -> Role {
    match role {
        Role::Free | Role::Reserve if !stands(Guard::CreationServing) => Role::Serving,
        Role::Cordoned
        | Role::Draining
        | Role::Empty
        | Role::Upgrading
        | Role::Validating
        | Role::Failed
        | Role::Quarantined
            if !stands(Guard::CordonRefusal) =>
        {
            Role::Free
        }
        Role::Serving
        | Role::Free
        | Role::Reserve
        | Role::Cordoned
        | Role::Draining
        | Role::Empty
        | Role::Upgrading
        | Role::Validating
        | Role::Refilling
        | Role::Failed
        | Role::Quarantined => role,
    }
}

impl PoolView for Draft<'_> {
    fn role(&self, server: &ServerName) -> Option<Role> {
        self.server(server).map(Server::role).map(judged_as)
    }

    fn may_move(&self, address: &Address, from: &ServerName, to: &ServerName) -> bool {
        self.server(from).is_some_and(|server| {
            let drains = server.role() == Role::Draining && server.want.targets.contains(to);
            let wished = |wish: &Wish| match wish {
                Wish::Move {
                    address: object,
                    server,
                } => object == address && server == to,
                Wish::Copy { .. } | Wish::Drop { .. } => false,
            };
            // A drain makes a free server serve; a wish would leave it free with an object on it.
            let takes_wishes = self.server(to).is_some_and(|server| match server.role() {
                Role::Free | Role::Reserve => false,
                Role::Serving
                | Role::Cordoned
                | Role::Draining
                | Role::Empty
                | Role::Upgrading
                | Role::Validating
                | Role::Refilling
                | Role::Failed
                | Role::Quarantined => true,
            });
            drains || takes_wishes && server.todos.iter().any(wished)
        })
    }

    fn floor(&self, server: &ServerName) -> Level {
        let policy = self.server(server).map(|server| server.want.policy);
        policy.unwrap_or_default().floor
    }

    fn is_lost(&self, server: &ServerName) -> bool {
        self.server(server).is_some_and(|server| server.lost)
    }
}
