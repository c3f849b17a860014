//! The librarian of the simulated pool: the production registry, judging, answers and signatures on a log in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use librarian::answer::{self, reply::Transport};
use librarian::keys::{Holder, Key, KeyRing, Keys};
use librarian::listen::{RateLimit, Service};
use librarian::pool::{self, Decision, Wait};
use librarian::registry::{
    Cut, MemoryLog, Plan, Proposal, Registry, ServerChange, Settings, SubmitError, Waiting, WantsChange, Writer,
};
use zones::{Domain, Role, ServerName, TsigKey, Want, Wish};

use super::clock::{Shown, Time};

/// Where clients ask from: a listed network.
pub(super) const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));

/// The one librarian.
pub(super) struct Librarian {
    domain: Domain,
    log: MemoryLog,
    keys: Arc<KeyRing>,
    clock: Arc<Shown>,
    pub(super) life: u32,
    pub(super) up: bool,
    pub(super) process: Process,
    /// What servers were wished, lost with the process.
    pub(super) todos: BTreeMap<ServerName, Vec<Wish>>,
}

pub(super) struct Process {
    pub(super) registry: Registry,
    writer: Writer,
    waiting: Waiting,
    service: Service,
}

fn start(log: &MemoryLog, domain: &Domain, keys: &Arc<KeyRing>, clock: &Arc<Shown>) -> Process {
    let (registry, writer, waiting) =
        Registry::by_hand(log, [7; 16], domain, Settings::default()).expect("a log that was written here");
    let networks = vec!["192.0.2.0/24".parse().expect("a network")];
    let service = Service::new(
        registry.clone(),
        answer::Settings::default(),
        networks,
        Arc::clone(keys),
        RateLimit::default(),
    )
    .with_clock(Arc::clone(clock) as Arc<dyn librarian::listen::Clock>);
    Process {
        registry,
        writer,
        waiting,
        service,
    }
}

impl Librarian {
    pub(super) fn new(domain: &Domain, servers: &[(ServerName, TsigKey, Role)]) -> Librarian {
        let mut keys = Keys::default();
        for (name, tsig, _) in servers {
            keys.insert(Key {
                tsig: tsig.clone(),
                holder: Holder::Agent(name.clone()),
            });
        }
        let keys = Arc::new(KeyRing::fixed(keys));
        let (log, clock) = (MemoryLog::default(), Shown::new());
        let process = start(&log, domain, &keys, &clock);
        let mut librarian = Librarian {
            domain: domain.clone(),
            log,
            keys,
            clock,
            life: 0,
            up: true,
            process,
            todos: BTreeMap::new(),
        };
        for (name, _, role) in servers {
            let add = ServerChange::Add {
                name: name.clone(),
                role: *role,
            };
            librarian.submit(Proposal::Server(add)).expect("a server is added");
        }
        librarian
    }

    pub(super) fn tick(&self, now: Time) {
        self.clock.set(now);
    }

    /// Answers a message, if it answers at all.
    pub(super) fn respond(&mut self, octets: &[u8], from: IpAddr, cut: Option<Cut>) -> Option<Vec<u8>> {
        self.log.cut(cut);
        let process = &mut self.process;
        let reply =
            process
                .service
                .respond_by_hand(octets, from, Transport::Tcp, &mut process.writer, &mut process.waiting);
        self.log.cut(None);
        reply.filter(|_| cut.is_none())
    }

    /// The process ends; what is durable is read at once, and answered after a start.
    pub(super) fn crash(&mut self) {
        self.life += 1;
        self.up = false;
        self.todos.clear();
        self.process = start(&self.log, &self.domain, &self.keys, &self.clock);
    }

    pub(super) fn submit(&mut self, proposal: Proposal) -> Result<(), SubmitError> {
        let process = &mut self.process;
        let registry = process.registry.clone();
        registry.submit_by_hand(proposal, &mut process.writer, &mut process.waiting)
    }

    /// Looks and decides once, as the controller does.
    pub(super) fn control(&mut self) {
        let Ok(sight) = pool::look(&self.view_now()) else {
            return;
        };
        match pool::decide(&sight) {
            Decision::Rest | Decision::Wait(_) => {}
            Decision::Write(wants) => {
                let change = self.wants(&sight, wants.into_iter().collect(), BTreeMap::new());
                // Refused if a plan came between; decided again at the next look.
                drop(self.submit(Proposal::Wants(change)));
            }
        }
    }

    pub(super) fn view_now(&self) -> librarian::registry::View<'_> {
        let now = librarian::listen::Clock::now(&*self.clock).instant;
        self.process.registry.view().at(now)
    }

    pub(super) fn wants(
        &self,
        sight: &pool::Sight,
        wants: BTreeMap<ServerName, Want>,
        todos: BTreeMap<ServerName, Vec<Wish>>,
    ) -> WantsChange {
        WantsChange {
            plan: sight.number(),
            decided_from: sight
                .servers
                .iter()
                .map(|(name, seen)| (name.clone(), seen.want.clone()))
                .collect(),
            wants,
            todos,
        }
    }

    /// Whether the plan has come to its end.
    pub(super) fn rests(&self) -> bool {
        pool::look(&self.view_now()).is_ok_and(|sight| pool::decide(&sight) == Decision::Rest)
    }

    /// The server that the plan waits for since registers name it, and how many do.
    pub(super) fn waits_for_registers(&self) -> Option<(ServerName, u64)> {
        match pool::decide(&pool::look(&self.view_now()).ok()?) {
            Decision::Wait(waits) => waits.into_iter().find_map(|wait| match wait {
                Wait::Named { server, registers } => Some((server, registers)),
                _ => None,
            }),
            Decision::Rest | Decision::Write(_) => None,
        }
    }

    /// Wishes one object moved off a server.
    pub(super) fn wish(&mut self, server: &ServerName, wish: Wish) {
        for list in self.todos.values_mut() {
            list.retain(|known| known.address() != wish.address());
        }
        self.todos.entry(server.clone()).or_default().push(wish);
        self.write_todos();
    }

    /// Takes all wishes back.
    pub(super) fn wish_nothing(&mut self) {
        for list in self.todos.values_mut() {
            list.clear();
        }
        self.write_todos();
        self.todos.clear();
    }

    pub(super) fn write_todos(&mut self) {
        let sight = pool::look(&self.view_now());
        if let Ok(sight) = sight {
            let change = self.wants(&sight, BTreeMap::new(), self.todos.clone());
            drop(self.submit(Proposal::Wants(change)));
        }
    }

    /// Makes a plan current, if the rules let it.
    pub(super) fn plan(&mut self, make: impl FnOnce(&pool::Sight) -> Option<pool::Plan>) -> bool {
        let Ok(sight) = pool::look(&self.view_now()) else {
            return false;
        };
        let Some(plan) = make(&sight) else { return false };
        let proposal = Proposal::Plan(Plan {
            number: plan.number,
            parent: plan.parent,
            document: plan.document(),
        });
        self.submit(proposal).is_ok()
    }
}
