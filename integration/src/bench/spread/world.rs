//! A pool in virtual time: the librarian's own registry and decisions, the agents' own counters, and between them a model of
//! what carries the decisions out.
//!
//! | real | modelled |
//! |---|---|
//! | registry with all registers, its rules for every change of one | DNS: clients keep an answer for up to its TTL of 5 s |
//! | wants, copies, heat, balancing (`librarian::pool`) | a copy or a move takes a fixed time, and never fails |
//! | counters and reports of agents (`agent::heat::Meter`) | processors: in use in proportion to requests by size |
//! | SRV weights (`librarian::place`) | a client draws one holder by weight for each request |

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use agent::clock::BootInstant;
use agent::heat::Meter;
use anyhow::{Context, Result, ensure};
use hickory_proto::op::Message;
use librarian::place::{Candidate, ServerTerms, Terms, rank};
use librarian::pool::{self, Decision, Memory, Sight, Standing};
use librarian::registry::{
    By, MemoryLog, Plan, Proposal, Received, Registry, ServerChange, Settings, View, Waiting, WantsChange, Writer,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zones::audit::Head;
use zones::update::{build_has_update, build_register_update, changes_that_fit};
use zones::{
    Address, Domain, Epoch, Has, Kept, Level, Register, RegisterChange, Role, ServerName, State, Tx, Upkeep, Want, Wish,
};

use super::SpreadOptions;

/// Seconds that a client keeps an answer, at most.
const TTL_S: usize = 5;
/// Octets of every object on disk.
const OCTETS: u64 = 65_536;
/// Part of its processors that a server uses which is asked as the mean, in thousandths.
const USED_PERMILLE: f64 = 400.0;
/// Counters of an agent, as in its setting access.heat_counters.
const COUNTERS: usize = 4096;

/// What a server is, and what it counts.
struct Server {
    name: ServerName,
    /// Its store and its processors, 1 for the usual ones.
    size: f64,
    meter: Meter,
    /// Requests since the last report.
    asked: u64,
    has: Has,
}

/// What a server does that takes time.
struct Job {
    object: u32,
    does: Does,
    done_s: u64,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Does {
    Copy(u8),
    Drop(u8),
    Move(u8),
}

/// What was done for the sake of heat or evenness.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) moves: u64,
    pub(super) copies: u64,
    pub(super) drops: u64,
}

/// A loaded registry, to begin from more than once.
pub(super) struct Loaded {
    log: MemoryLog,
    addresses: Vec<Address>,
    owners: Vec<u8>,
    seconds: Vec<u8>,
    plan: u64,
}

pub(super) struct World {
    options: SpreadOptions,
    domain: Domain,
    registry: Registry,
    writer: Writer,
    waiting: Waiting,
    memory: Memory,
    servers: Vec<Server>,
    numbers: HashMap<ServerName, u8>,
    addresses: Vec<Address>,
    objects: HashMap<Address, u32>,
    /// Who owns each object, and who holds its second copy (`NONE`: nobody).
    owners: Vec<u8>,
    seconds: Vec<u8>,
    /// Copies for heat.
    more: HashMap<u32, Vec<u8>>,
    /// Who held an object until when, for clients with an older answer.
    before: HashMap<u32, (u64, Vec<u8>)>,
    jobs: Vec<Job>,
    /// What each server was worth to clients in the last seconds.
    worths: [Vec<f64>; TTL_S],
    begin: Instant,
    pub(super) now_s: u64,
    next_tx: u128,
    plan: u64,
    pub(super) done: Done,
}

const NONE: u8 = u8::MAX;

fn has(number: usize, capacity: u64) -> Has {
    Has {
        release: "0.1.0".to_owned(),
        role: Role::Serving,
        objects: 0,
        bytes: 0,
        capacity,
        load: 0,
        heat: 0,
        errors: 0,
        unreadable: 0,
        plan: 0,
        commits: number as u64,
        peer_port: 1,
        quarantined: 0,
        audit: Some(Head::first(&name(number))),
        upkeep: Some(Upkeep::default()),
        hot: Some(zones::Heat::default()),
        kept: Some(Kept::default()),
    }
}

fn name(number: usize) -> ServerName {
    format!("s{number}").parse().expect("a legal name")
}

/// Sizes: every tenth server is half as large again, every tenth has two thirds. Prices: every tenth costs half as much again.
fn size(options: &SpreadOptions, number: usize) -> f64 {
    match number % 10 {
        3 if options.unequal => 1.5,
        6 if options.unequal => 2.0 / 3.0,
        _ => 1.0,
    }
}

fn terms(options: &SpreadOptions) -> Terms {
    let dear = (0..usize::from(options.servers)).filter(|number| options.unequal && number % 10 == 8);
    let dear = dear.map(|number| {
        let terms = ServerTerms {
            price_percent: 150,
            ..ServerTerms::default()
        };
        (name(number), terms)
    });
    Terms {
        servers: dear.collect(),
        ..Terms::default()
    }
}

impl World {
    /// An empty pool whose servers are told of copies and, if asked for, balance themselves.
    fn empty(options: &SpreadOptions, log: &MemoryLog, domain: &Domain) -> Result<World> {
        let (registry, writer, waiting) =
            Registry::by_hand(log, [1; 16], domain, Settings::default()).context("open a registry")?;
        let capacity = 5 * options.objects as u64 * OCTETS / u64::from(options.servers);
        let servers: Vec<Server> = (0..usize::from(options.servers))
            .map(|number| Server {
                name: name(number),
                size: size(options, number),
                meter: Meter::new(COUNTERS, BootInstant::ZERO),
                asked: 0,
                has: has(number, (capacity as f64 * size(options, number)) as u64),
            })
            .collect();
        let copies = pool::Copies {
            wanted: Some(options.copies),
            hot_percent: Some(if options.no_spread { 0 } else { options.hot_percent }),
            ..pool::Copies::default()
        };
        let terms = terms(options);
        let memory = Memory::new(Duration::from_secs(11))
            .with_prices(terms.prices())
            .with_balance(terms.placement.balance())
            .with_copies(pool::keep::Settings { copies, terms });
        let numbers = servers.iter().enumerate();
        Ok(World {
            options: options.clone(),
            domain: domain.clone(),
            registry,
            writer,
            waiting,
            memory,
            numbers: numbers
                .map(|(number, server)| (server.name.clone(), u8::try_from(number).expect("few servers")))
                .collect(),
            servers,
            addresses: Vec::new(),
            objects: HashMap::new(),
            owners: Vec::new(),
            seconds: Vec::new(),
            more: HashMap::new(),
            before: HashMap::new(),
            jobs: Vec::new(),
            worths: std::array::from_fn(|_| vec![1.0; usize::from(options.servers)]),
            begin: Instant::now(),
            now_s: 0,
            next_tx: 1,
            plan: 0,
            done: Done::default(),
        })
    }

    /// Makes a pool and all its objects, placed as clients and owners place them.
    pub(super) fn load(options: &SpreadOptions) -> Result<Loaded> {
        let domain: Domain = "hypernet.internal".parse().context("a domain")?;
        let log = MemoryLog::default();
        let mut world = World::empty(options, &log, &domain)?;
        for number in 0..usize::from(options.servers) {
            let server = &world.servers[number];
            let add = ServerChange::Add {
                name: server.name.clone(),
                role: Role::Serving,
            };
            let address = [IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(number)? + 1))];
            let told = build_has_update(&domain, 1, &server.name, &server.has, 9000, &address)?;
            let by = By::Agent(server.name.clone());
            world.submit(Proposal::Server(add))?;
            world.update(by, &told)?;
        }
        // Copies begin; then the pool balances itself.
        for _ in 0..4 {
            world.control()?;
        }
        if !options.no_balance {
            let sight = world.sight()?;
            let plan = pool::balance(&sight)?;
            world.plan = plan.number;
            let plan = Plan {
                number: plan.number,
                parent: plan.parent,
                document: plan.document(),
            };
            world.submit(Proposal::Plan(plan))?;
            for _ in 0..4 {
                world.control()?;
            }
        }
        world.create()?;
        let World {
            addresses,
            owners,
            seconds,
            plan,
            ..
        } = world;
        Ok(Loaded {
            log,
            addresses,
            owners,
            seconds,
            plan,
        })
    }

    /// The same pool once more, as it was loaded.
    pub(super) fn from(options: &SpreadOptions, loaded: &Loaded) -> Result<World> {
        let domain: Domain = "hypernet.internal".parse().context("a domain")?;
        let mut world = World::empty(options, &loaded.log.copy(), &domain)?;
        world.addresses.clone_from(&loaded.addresses);
        world.owners.clone_from(&loaded.owners);
        world.seconds.clone_from(&loaded.seconds);
        world.plan = loaded.plan;
        world.next_tx = 1 << 64;
        let numbered = loaded.addresses.iter().zip(0..);
        world.objects = numbered.map(|(address, number)| (address.clone(), number)).collect();
        world.report();
        Ok(world)
    }

    /// Creates every object where `_place` sends it, with its second copy where its owner's want says.
    fn create(&mut self) -> Result<()> {
        let mut random = StdRng::seed_from_u64(3);
        let terms = terms(&self.options);
        let candidates: Vec<Candidate<'_>> = self
            .servers
            .iter()
            .map(|server| Candidate {
                name: &server.name,
                role: Role::Serving,
                alive: true,
                new_objects: true,
                server: terms.server(&server.name, &server.has),
            })
            .collect();
        let placed = rank(&candidates, terms.placement.weights());
        let owners: Vec<(u8, u32)> = placed
            .iter()
            .map(|one| (self.numbers[&one.name], u32::from(one.weight)))
            .collect();
        let spread: Vec<Vec<(u8, u32)>> = {
            let view = self.registry.view();
            let told = self.servers.iter().map(|server| {
                let want = view.server(&server.name).map(|server| &server.want);
                let spread = want.iter().flat_map(|want| &want.errand.keep.spread);
                spread
                    .map(|(name, weight)| (self.numbers[name], u32::from(*weight)))
                    .collect()
            });
            told.collect()
        };
        ensure!(
            self.options.copies < 2 || spread.iter().all(|told| !told.is_empty()),
            "copies have not begun"
        );
        let mut made: Vec<Vec<Register>> = vec![Vec::new(); self.servers.len()];
        for object in 0..self.options.objects {
            let address: Address = format!("3.1.{}.{}", object % 1000, object / 1000).parse()?;
            let owner = drawn(&owners, &mut random);
            let second = match self.options.copies {
                1 => NONE,
                _ => drawn(&spread[usize::from(owner)], &mut random),
            };
            let owner_name = self.servers[usize::from(owner)].name.clone();
            made[usize::from(owner)].push(Register {
                address: address.clone(),
                epoch: Epoch::FIRST,
                state: State::Stable,
                tx: Tx([0; 16]),
                holders: vec![owner_name.clone()],
                owner: owner_name,
                kind: "file".parse()?,
                schema: 1,
                level: Level(1),
            });
            self.addresses.push(address);
            self.owners.push(owner);
            self.seconds.push(second);
        }
        let objects: HashMap<Address, usize> = self.addresses.iter().cloned().zip(0..).collect();
        for (owner, registers) in made.into_iter().enumerate() {
            let first: Vec<RegisterChange> = registers
                .into_iter()
                .map(|new| RegisterChange {
                    old: None,
                    new: Register { tx: self.tx(), ..new },
                })
                .collect();
            let grown: Vec<RegisterChange> = first
                .iter()
                .filter_map(|change| {
                    let second = self.seconds[objects[&change.new.address]];
                    let second = self.servers.get(usize::from(second))?.name.clone();
                    let mut new = change.new.clone();
                    new.holders.push(second);
                    let old = Some(change.new.clone());
                    Some((old, new))
                })
                .collect::<Vec<_>>()
                .into_iter()
                .map(|(old, new)| RegisterChange {
                    old,
                    new: Register { tx: self.tx(), ..new },
                })
                .collect();
            for changes in [first, grown] {
                self.change_all(owner, &changes)?;
            }
        }
        Ok(())
    }

    fn change_all(&mut self, owner: usize, mut changes: &[RegisterChange]) -> Result<()> {
        while !changes.is_empty() {
            let most = changes_that_fit(&self.domain, changes);
            let message = build_register_update(&self.domain, 1, &changes[..most])?;
            self.update(By::Agent(self.servers[owner].name.clone()), &message)?;
            changes = &changes[most..];
        }
        Ok(())
    }

    fn tx(&mut self) -> Tx {
        self.next_tx += 1;
        Tx(self.next_tx.to_be_bytes())
    }

    fn submit(&mut self, proposal: Proposal) -> Result<()> {
        let registry = self.registry.clone();
        registry
            .submit_by_hand(proposal, &mut self.writer, &mut self.waiting)
            .context("change the registry")
    }

    fn update(&mut self, by: By, message: &[u8]) -> Result<()> {
        let update = zones::read_update(&Message::from_vec(message)?)?;
        self.submit(Proposal::Update {
            by,
            update,
            malformed: None,
            received: Received {
                at: self.now(),
                ahead_s: 0,
            },
        })
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_secs(self.now_s)
    }

    fn clock(&self) -> BootInstant {
        BootInstant::since_boot(Duration::from_secs(self.now_s))
    }

    /// A second passes. `draw` says which object each request is for.
    pub(super) fn second(&mut self, requests: usize, random: &mut StdRng, draw: impl Fn(f64) -> usize) -> Result<()> {
        self.now_s += 1;
        let now = self.clock();
        let mut holders = Vec::new();
        for _ in 0..requests {
            let object = draw(random.random());
            let age = random.random_range(0..TTL_S);
            self.holders_seen(object, age, &mut holders);
            let chosen = self.chosen(&holders, age, random.random());
            let server = &mut self.servers[usize::from(chosen)];
            server.asked += 1;
            server.meter.note(&self.addresses[object], now);
        }
        self.obey()?;
        self.report();
        self.control()
    }

    /// Who holds an object, as a client knows whose answer is so many seconds old.
    fn holders_seen(&self, object: usize, age: usize, into: &mut Vec<u8>) {
        into.clear();
        let number = object as u32;
        if let Some((until, before)) = self.before.get(&number)
            && self.now_s < until + age as u64
        {
            into.extend(before);
            return;
        }
        self.holders(object, into);
    }

    fn holders(&self, object: usize, into: &mut Vec<u8>) {
        into.push(self.owners[object]);
        into.extend(Some(self.seconds[object]).filter(|second| *second != NONE));
        if !self.more.is_empty() {
            into.extend(self.more.get(&(object as u32)).into_iter().flatten());
        }
    }

    fn chosen(&self, holders: &[u8], age: usize, uniform: f64) -> u8 {
        let worth = |holder: &u8| self.worths[age][usize::from(*holder)];
        let mut left = uniform * holders.iter().map(worth).sum::<f64>();
        for holder in holders {
            left -= worth(holder);
            if left < 0.0 {
                return *holder;
            }
        }
        holders[holders.len() - 1]
    }

    /// What each server is asked, as a part of all requests, by where objects are now and how clients choose. `part` is that
    /// of an object.
    pub(super) fn loads(&self, part: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut loads = vec![0.0; self.servers.len()];
        let worths: Vec<f64> = (0..self.servers.len())
            .map(|server| self.worths.iter().map(|worths| worths[server]).sum())
            .collect();
        let mut holders = Vec::new();
        for object in 0..self.addresses.len() {
            holders.clear();
            self.holders(object, &mut holders);
            let all: f64 = holders.iter().map(|holder| worths[usize::from(*holder)]).sum();
            for holder in &holders {
                loads[usize::from(*holder)] += part(object) * worths[usize::from(*holder)] / all;
            }
        }
        loads
    }

    /// What a server could be asked compared to others, by its processors.
    pub(super) fn sizes(&self) -> Vec<f64> {
        self.servers.iter().map(|server| server.size).collect()
    }

    /// Objects with copies for their heat, and these copies.
    pub(super) fn spread(&self) -> (usize, usize) {
        (self.more.len(), self.more.values().map(Vec::len).sum())
    }

    /// Copies for the heat of one object: told, and made.
    pub(super) fn spread_of(&self, object: usize) -> (usize, usize) {
        let view = self.registry.view();
        let owner = view.server(&self.servers[usize::from(self.owners[object])].name);
        let hot = owner.iter().flat_map(|owner| &owner.want.errand.keep.hot);
        let told = hot.filter(|(address, _)| *address == self.addresses[object]);
        let made = self.more.get(&(object as u32)).map_or(0, Vec::len);
        (told.map(|(_, servers)| servers.len()).sum(), made)
    }

    /// Servers carry out what they were told a second ago, and what they began is done.
    fn obey(&mut self) -> Result<()> {
        let due: Vec<Job> = self.jobs.extract_if(.., |job| job.done_s <= self.now_s).collect();
        for job in due {
            self.finish(&job)?;
        }
        let mut begun: Vec<(u32, Does)> = Vec::new();
        {
            let view = self.registry.view();
            for server in view.servers() {
                for wish in &server.todos {
                    let Wish::Move { address, server: to } = wish else {
                        continue;
                    };
                    let object = self.objects[address];
                    if self.servers[usize::from(self.owners[object as usize])].name == server.name {
                        begun.push((object, Does::Move(self.numbers[to])));
                    }
                }
                for (address, servers) in &server.want.errand.keep.hot {
                    let object = self.objects[address];
                    if self.servers[usize::from(self.owners[object as usize])].name != server.name {
                        continue;
                    }
                    let here = self.more.get(&object);
                    let missing = servers
                        .iter()
                        .map(|name| self.numbers[name])
                        .filter(|number| here.is_none_or(|here| !here.contains(number)));
                    begun.extend(missing.map(|number| (object, Does::Copy(number))));
                }
            }
            for (object, here) in &self.more {
                let owner = view.server(&self.servers[usize::from(self.owners[*object as usize])].name);
                let hot = owner.iter().flat_map(|owner| &owner.want.errand.keep.hot);
                let told: Vec<u8> = hot
                    .filter(|(address, _)| *address == self.addresses[*object as usize])
                    .flat_map(|(_, servers)| servers.iter().map(|name| self.numbers[name]))
                    .collect();
                let over = here.iter().filter(|number| !told.contains(number));
                begun.extend(over.map(|number| (*object, Does::Drop(*number))));
            }
        }
        begun.sort_by_key(|(object, does)| {
            (
                *object,
                match does {
                    Does::Copy(number) | Does::Drop(number) | Does::Move(number) => *number,
                },
            )
        });
        for (object, does) in begun {
            if !self.jobs.iter().any(|job| job.object == object && job.does == does) {
                let takes_s = if matches!(does, Does::Drop(_)) {
                    1
                } else {
                    self.options.takes_s
                };
                self.jobs.push(Job {
                    object,
                    does,
                    done_s: self.now_s + takes_s,
                });
            }
        }
        Ok(())
    }

    /// What a server did becomes the register's.
    fn finish(&mut self, job: &Job) -> Result<()> {
        let object = job.object as usize;
        let address = self.addresses[object].clone();
        let old = self.registry.view().register(&address).context("a register")?;
        let mut before = Vec::new();
        self.holders(object, &mut before);
        let by = By::Agent(old.owner.clone());
        let name_of = |number: u8| self.servers[usize::from(number)].name.clone();
        match job.does {
            Does::Copy(number) => {
                let mut new = old.clone();
                new.holders.push(name_of(number));
                self.change(by, old, new)?;
                self.more.entry(job.object).or_default().push(number);
                self.done.copies += 1;
            }
            Does::Drop(number) => {
                let mut new = old.clone();
                let name = name_of(number);
                new.holders.retain(|holder| *holder != name);
                self.change(by, old, new)?;
                if let Some(more) = self.more.get_mut(&job.object) {
                    more.retain(|one| *one != number);
                }
                self.more.retain(|_, more| !more.is_empty());
                self.done.drops += 1;
            }
            Does::Move(number) => {
                let to = name_of(number);
                if old.holders.contains(&to) {
                    return Ok(());
                }
                let moving = Register {
                    state: State::Moving { to: to.clone() },
                    ..old.clone()
                };
                let moving = self.change(by, old.clone(), moving)?;
                let taken = Register {
                    epoch: Epoch(old.epoch.0 + 1),
                    owner: to.clone(),
                    state: State::Stable,
                    holders: old
                        .holders
                        .iter()
                        .map(|held| if *held == old.owner { to.clone() } else { held.clone() })
                        .collect(),
                    ..old
                };
                self.change(By::Agent(to), moving, taken)?;
                self.owners[object] = number;
                self.done.moves += 1;
            }
        }
        self.before.insert(job.object, (self.now_s, before));
        self.before.retain(|_, (until, _)| *until + TTL_S as u64 > self.now_s);
        Ok(())
    }

    fn change(&mut self, by: By, old: Register, new: Register) -> Result<Register> {
        let new = Register { tx: self.tx(), ..new };
        let change = RegisterChange {
            old: Some(old),
            new: new.clone(),
        };
        let message = build_register_update(&self.domain, 1, &[change])?;
        self.update(by, &message)?;
        Ok(new)
    }

    /// What servers say of themselves, and what they are worth to clients by it.
    fn report(&mut self) {
        let now = self.clock();
        let usual = self.options.requests as f64 / self.servers.len() as f64;
        let terms = terms(&self.options);
        self.worths.rotate_right(1);
        let view = self.registry.view();
        for (number, server) in self.servers.iter_mut().enumerate() {
            let (owned, held) = (view.objects_owned(&server.name), view.objects_held(&server.name));
            let load = USED_PERMILLE * server.asked as f64 / usual / server.size;
            server.has = Has {
                objects: owned,
                bytes: owned * OCTETS,
                load: load.min(1000.0) as u32,
                plan: self.plan,
                hot: Some(server.meter.report(now, 0, |_| true)),
                kept: Some(Kept {
                    held,
                    octets: held * OCTETS,
                    ..Kept::default()
                }),
                ..server.has.clone()
            };
            server.asked = 0;
            let cost = terms.server(&server.name, &server.has);
            self.worths[0][number] = cost.ease(terms.placement.weights());
        }
    }

    fn sight(&mut self) -> Result<Sight> {
        let now = self.now();
        let view: View<'_> = self.registry.view().at(now);
        let mut sight = pool::look(&view)?;
        for server in &self.servers {
            let seen = sight.servers.get_mut(&server.name).context("a server of the pool")?;
            (seen.alive, seen.has) = (true, Some(server.has.clone()));
        }
        sight.registers = pool::look::registers(&view, &sight.servers);
        self.memory.see(now, &mut sight);
        Ok(sight)
    }

    /// How even the pool is, as balancing sees it.
    pub(super) fn standing(&mut self) -> Result<Standing> {
        let sight = self.sight()?;
        Ok(self.memory.balancer.standing(&sight))
    }

    /// Looks and decides once, as the controller does.
    fn control(&mut self) -> Result<()> {
        let sight = self.sight()?;
        match pool::decide(&sight) {
            Decision::Write(wants) => self.write(&sight, wants.into_iter().collect(), BTreeMap::new()),
            Decision::Rest => {
                let now = self.now();
                let view = self.registry.view();
                let todos = self.memory.balancer.turn(now, self.now_s * 1000, &view, &sight);
                drop(view);
                todos.map_or(Ok(()), |todos| self.write(&sight, BTreeMap::new(), todos))
            }
            Decision::Wait(_) | Decision::Next(_) => Ok(()),
        }
    }

    fn write(
        &mut self,
        sight: &Sight,
        wants: BTreeMap<ServerName, Want>,
        todos: BTreeMap<ServerName, Vec<Wish>>,
    ) -> Result<()> {
        let seen = sight.servers.iter();
        self.submit(Proposal::Wants(WantsChange {
            plan: sight.number(),
            decided_from: seen.map(|(name, seen)| (name.clone(), seen.want.clone())).collect(),
            wants,
            todos,
        }))
    }
}

fn drawn(weights: &[(u8, u32)], random: &mut StdRng) -> u8 {
    let all: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let mut left = random.random_range(0..all);
    for (number, weight) in weights {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return *number,
        }
    }
    weights[0].0
}
