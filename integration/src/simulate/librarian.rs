//! The librarian of the simulated pool: the production registry, judging, answers and signatures on a log in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::OpCode;
use librarian::answer::{self, reply::Transport};
use librarian::guard::{Guard, stands};
use librarian::keys::{Holder, Key, KeyRing, Keys};
use librarian::listen::{RateLimit, Service};
use librarian::place::Terms;
use librarian::pool::{self, Decision, Wait};
use librarian::reconcile::Opening;
use librarian::registry::{
    Cut, MemoryLog, Plan, Proposal, Registry, ServerChange, Settings, SubmitError, Waiting, WantsChange, Writer,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zones::{Domain, Level, Policy, Role, ServerName, Steps, TsigKey, Tx, Want, Wish};

use super::clock::{Shown, Time};
use super::script::Script;

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
    todos: BTreeMap<ServerName, Vec<Wish>>,
    servers: Vec<(ServerName, Role)>,
    incarnation: u8,
    backup: Option<(u8, MemoryLog)>,
    random: StdRng,
    /// Whether it balances the pool whenever no other plan is under way.
    pub(super) balances: bool,
    /// Objects that were wished elsewhere to balance the pool, or by the schedule.
    pub(super) wished: u64,
    /// Those of them that were to make requests even.
    pub(super) wished_for_requests: u64,
    said: Said,
    /// The process before, the agent whose questions it still answers, and until when.
    old: Option<(Process, usize, Time)>,
}

/// What the operator says in its configuration.
#[derive(Clone)]
struct Said {
    terms: Terms,
    copies: pool::keep::Copies,
    balance: pool::balance::Settings,
}

pub(super) struct Process {
    pub(super) registry: Registry,
    writer: Writer,
    waiting: Waiting,
    service: Service,
    opening: Option<Opening>,
    memory: RefCell<pool::Memory>,
}

/// How long an answer that names a server, and the one with its address, may be cached together.
const LINGER: Duration = Duration::from_secs(11);

/// After so long every object moves to another server: a whole period of the schedule has its place in a run.
const MOVES_AFTER: Duration = Duration::from_secs(10);
/// Objects are few here, so each is a large part of a server.
const TOLERANCE_PERCENT: u32 = 10;
const WISHES_AT_ONCE: usize = 4;
/// After so long under another plan the pool is balanced.
const BALANCES_AFTER: Duration = Duration::from_secs(2);

/// A plan as the registry keeps it.
pub(super) fn kept(plan: &pool::Plan) -> Plan {
    Plan {
        number: plan.number,
        parent: plan.parent,
        document: plan.document(),
    }
}

fn start(
    log: &MemoryLog,
    incarnation: u8,
    domain: &Domain,
    (keys, said): (&Arc<KeyRing>, &Said),
    clock: &Arc<Shown>,
) -> Process {
    let (registry, writer, waiting) =
        Registry::by_hand(log, [incarnation; 16], domain, Settings::default()).expect("a log that was written here");
    let networks = vec!["192.0.2.0/24".parse().expect("a network")];
    let service = Service::new(
        registry.clone(),
        answer::Settings {
            terms: said.terms.clone(),
            ..answer::Settings::default()
        },
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
        opening: None,
        memory: RefCell::new(
            pool::Memory::new(LINGER)
                .with_balance(said.balance)
                .with_copies(pool::keep::Settings {
                    copies: said.copies.clone(),
                    terms: said.terms.clone(),
                })
                .with_prices(said.terms.prices()),
        ),
    }
}

impl Librarian {
    pub(super) fn new(domain: &Domain, servers: &[(ServerName, TsigKey, Role)], script: &Script) -> Librarian {
        let said = Said {
            terms: script.terms.clone(),
            copies: pool::keep::Copies {
                wanted: Some(script.copies.unwrap_or(1)),
                ..pool::keep::Copies::default()
            },
            balance: pool::balance::Settings {
                tolerance_percent: TOLERANCE_PERCENT,
                at_once: WISHES_AT_ONCE,
                move_after: script.renews.then_some(MOVES_AFTER),
                ..script.terms.placement.balance()
            },
        };
        let mut keys = Keys::default();
        for (name, tsig, _) in servers {
            keys.insert(Key {
                tsig: tsig.clone(),
                holder: Holder::Agent(name.clone()),
            });
        }
        let keys = Arc::new(KeyRing::fixed(keys));
        let (log, clock) = (MemoryLog::default(), Shown::new());
        let process = start(&log, 1, domain, (&keys, &said), &clock);
        let mut librarian = Librarian {
            domain: domain.clone(),
            log,
            keys,
            clock,
            life: 0,
            up: true,
            process,
            todos: BTreeMap::new(),
            servers: servers.iter().map(|(name, _, role)| (name.clone(), *role)).collect(),
            incarnation: 1,
            backup: None,
            random: StdRng::seed_from_u64(7),
            balances: script.balances,
            wished: 0,
            wished_for_requests: 0,
            said,
            old: None,
        };
        librarian.add_servers();
        librarian
    }

    /// A new process on what is durable.
    fn start(&self) -> Process {
        start(
            &self.log,
            self.incarnation,
            &self.domain,
            (&self.keys, &self.said),
            &self.clock,
        )
    }

    /// Those of the librarian's list that the registry does not know.
    fn add_servers(&mut self) {
        for (name, role) in self.servers.clone() {
            let add = ServerChange::Add { name, role };
            self.submit(Proposal::Server(add)).expect("a server is added");
        }
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
        self.old = None;
        self.todos.clear();
        self.process = self.start();
    }

    /// A new process takes over, with no question lost; the old one goes on answering one agent until this moment.
    pub(super) fn hand_over(&mut self, agent: usize, until: Time) {
        let new = self.start();
        let old = std::mem::replace(&mut self.process, new);
        self.old = (!stands(Guard::OneProcess)).then_some((old, agent, until));
        self.life += 1;
        self.todos.clear();
    }

    /// What the old process answers, where it is asked.
    pub(super) fn old_answers(
        &mut self,
        agent: usize,
        now: Time,
        octets: &[u8],
        from: IpAddr,
    ) -> Option<Option<Vec<u8>>> {
        let (process, of, until) = self.old.as_mut()?;
        // The file is not its own any more, so it can change nothing.
        let is_update = octets
            .get(2)
            .is_some_and(|octet| octet >> 3 & 0x0f == u8::from(OpCode::Update));
        let asked = !is_update && *of == agent && now < *until;
        asked.then(|| {
            let (writer, waiting) = (&mut process.writer, &mut process.waiting);
            let service = &process.service;
            service.respond_by_hand(octets, from, Transport::Tcp, writer, waiting)
        })
    }

    /// Saves the registry as it is.
    pub(super) fn back_up(&mut self) {
        if self.is_open() {
            self.backup = Some((self.incarnation, self.log.copy()));
        }
    }

    /// The process ends, and the next one has a registry that was made from a backup or from nothing.
    pub(super) fn restore(&mut self, from_nothing: bool) {
        // A backup of a registry that was replaced is refused.
        let (present, is_open) = (self.incarnation, self.is_open());
        let fits = |(of, _): &&(u8, MemoryLog)| !from_nothing && (*of == present || !is_open);
        let backup = self.backup.as_ref().filter(fits);
        let backup = backup.map(|(_, log)| log.clone()).unwrap_or_default();
        self.log = backup.restored().expect("a log that was written here");
        self.incarnation += 1;
        self.crash();
        self.add_servers();
    }

    /// Whether registers may change.
    pub(super) fn is_open(&self) -> bool {
        self.process.registry.view().reconcile().open
    }

    /// Whether every server has reported.
    pub(super) fn may_open(&self) -> bool {
        let waits = self
            .process
            .service
            .reconcile()
            .waits_for(&self.process.registry.view());
        waits.is_some_and(|waits| waits.is_empty())
    }

    /// Takes one step towards an open registry.
    pub(super) fn open_step(&mut self, cut: Option<Cut>) -> Result<(), String> {
        let desk = Arc::clone(self.process.service.reconcile());
        let opening = self.process.opening.get_or_insert_with(|| Opening::begin(&desk));
        let random = &mut self.random;
        let step = opening
            .step(&desk, || Tx(random.random()))
            .map_err(|error| error.to_string())?;
        let Some(step) = step else { return Ok(()) };
        self.log.cut(cut);
        let done = self.submit(Proposal::Reconcile(step));
        self.log.cut(None);
        match (done, cut) {
            (Ok(()), _) | (Err(_), Some(_)) => Ok(()),
            (Err(error), None) => Err(format!("a step of the opening is refused: {error}")),
        }
    }

    pub(super) fn submit(&mut self, proposal: Proposal) -> Result<(), SubmitError> {
        let process = &mut self.process;
        let registry = process.registry.clone();
        registry.submit_by_hand(proposal, &mut process.writer, &mut process.waiting)
    }

    /// Looks and decides once, as the controller does.
    pub(super) fn control(&mut self) {
        let Ok(sight) = self.sight() else {
            return;
        };
        match pool::decide(&sight) {
            Decision::Rest if self.balances => self.balance(&sight),
            Decision::Rest | Decision::Wait(_) => {}
            Decision::Write(wants) => {
                let change = self.wants(&sight, wants.into_iter().collect(), BTreeMap::new());
                // Refused if a plan came between; decided again at the next look.
                drop(self.submit(Proposal::Wants(change)));
            }
            Decision::Next(plan) => drop(self.submit(Proposal::Plan(kept(&plan)))),
        }
    }

    /// Wishes what makes the pool even, under a plan of its own.
    fn balance(&mut self, sight: &pool::Sight) {
        if sight.plan_for >= BALANCES_AFTER
            && let Ok(plan) = pool::balance(sight)
        {
            return drop(self.submit(Proposal::Plan(kept(&plan))));
        }
        let now = librarian::listen::Clock::now(&*self.clock);
        let todos = {
            let mut memory = self.process.memory.borrow_mut();
            memory
                .balancer
                .turn(now.instant, now.unix_s * 1000, &self.view_now(), sight)
        };
        if let Some(todos) = todos {
            let (news, for_requests) = {
                let view = self.view_now();
                let memory = self.process.memory.borrow();
                let known = |(name, wish): &(&ServerName, &Wish)| {
                    view.server(name).is_some_and(|server| server.todos.contains(wish))
                };
                let all = todos
                    .iter()
                    .flat_map(|(name, wishes)| wishes.iter().map(move |wish| (name, wish)));
                let news: Vec<_> = all.filter(|wish| !known(wish)).collect();
                let for_requests =
                    |(_, wish): &&(&ServerName, &Wish)| memory.balancer.moves_for_requests(wish.address());
                (news.len(), news.iter().filter(for_requests).count())
            };
            self.wished += news as u64;
            self.wished_for_requests += for_requests as u64;
            let change = self.wants(sight, BTreeMap::new(), todos);
            drop(self.submit(Proposal::Wants(change)));
        }
    }

    /// What the controller sees, and since when.
    pub(super) fn sight(&self) -> Result<pool::Sight, pool::PlanError> {
        let mut sight = pool::look(&self.view_now())?;
        let now = librarian::listen::Clock::now(&*self.clock).instant;
        self.process.memory.borrow_mut().see(now, &mut sight);
        Ok(sight)
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
        self.sight().is_ok_and(|sight| pool::decide(&sight) == Decision::Rest)
    }

    /// The server that the plan waits for since registers name it, and how many do.
    pub(super) fn waits_for_registers(&self) -> Option<(ServerName, u64)> {
        match pool::decide(&self.sight().ok()?) {
            Decision::Wait(waits) => waits.into_iter().find_map(|wait| match wait {
                Wait::Named { server, registers, .. } => Some((server, registers)),
                _ => None,
            }),
            Decision::Rest | Decision::Write(_) | Decision::Next(_) => None,
        }
    }

    /// Whether a drain stands still until a person decides: copies cannot be read, where they were or where they went.
    pub(super) fn waits_for_a_person(&self) -> bool {
        let is_such = |wait: &Wait| matches!(wait, Wait::Halted { .. } | Wait::Unreadable { .. });
        self.sight().is_ok_and(|sight| match pool::decide(&sight) {
            Decision::Wait(waits) => waits.iter().any(is_such),
            Decision::Rest | Decision::Write(_) | Decision::Next(_) => false,
        })
    }

    /// A person says that a server is lost for good, or that it is not.
    pub(super) fn mark(&mut self, name: &ServerName, lost: bool) -> bool {
        let name = name.clone();
        self.submit(Proposal::Server(ServerChange::Lost {
            name,
            lost,
            decided: None,
        }))
        .is_ok()
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
        if std::mem::take(&mut self.balances) {
            let every = self.servers.iter().map(|(name, _)| (name.clone(), Vec::new()));
            self.todos.extend(every);
        }
        for list in self.todos.values_mut() {
            list.clear();
        }
        self.write_todos();
        self.todos.clear();
    }

    fn write_todos(&mut self) {
        let sight = pool::look(&self.view_now());
        if let Ok(sight) = sight {
            let change = self.wants(&sight, BTreeMap::new(), self.todos.clone());
            drop(self.submit(Proposal::Wants(change)));
        }
    }

    /// Asks more of objects, if the rules let it.
    pub(super) fn ask_more(&mut self, level: Level, steps: Steps) {
        let lowest = self.view_now().objects_by_level().into_keys().next();
        self.plan(|sight| {
            let now = sight.policy();
            let policy = Policy {
                level: level.max(now.level),
                // As high as it may be.
                floor: lowest.unwrap_or(now.floor).min(now.level).max(now.floor),
                steps: if steps == Steps::All { steps } else { now.steps },
            };
            pool::ask_more(sight, policy, lowest).ok()
        });
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
