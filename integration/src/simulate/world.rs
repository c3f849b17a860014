//! The world: events in virtual time, and what each of them does.

use std::collections::BTreeMap;

use agent::control::Wanted;
use agent::migration::wire::Copy;
use agent::objects::create::Create;
use agent::objects::delete::Delete;
use agent::objects::{Open, steps};
use agent::register::Wishes;
use agent::store::CommitError;
use agent::transfer::engine::{Answer, Asked, Done, Id, Job, LOOK_EVERY, Said, Side};
use agent::transfer::{ShipFault, Shipped};
use bytes::Bytes;
use librarian::registry::Cut;
use uuid::Uuid;
use zones::{Address, Domain, Role, ServerName, TsigKey, Wish};

use super::agent::{Machine, Out};
use super::check::Check;
use super::check_pool::Pool;
use super::check_upgrade::Watched;
use super::client::Client;
use super::clock::{Clocks, MS, S, Time, micros};
use super::desk::{Call, Reply, ReplyTo, Request, Stage, Verb};
use super::dice;
use super::faults::{Fate, Faults, Site};
use super::librarian::{CLIENTS, Librarian};
use super::line::{Heard, Waits, Wanted as WantedChange, What};
use super::network::{IDLE, Network};
use super::operator::{Operator, Upgraded};
use super::script::{Deed, Script, address};
use super::second::Second;
use super::tricks::{HERE, Tricks};

/// Longest time that a pool may need to settle once nothing goes wrong any more: an update that was sent can land for ten
/// minutes, and a creation that is refused waits for that.
const SETTLES_WITHIN: Time = 1_000 * S;
/// Octets that a server has room for, where the script does not say.
const CAPACITY: u64 = 24 << 20;
/// Objects that may still be wished elsewhere when a pool has come to rest: rates of few requests are rough, and one may seem to
/// fit that did not seem so before.
const LATE_WISHES_MAX: u64 = 1;
/// Longest time that an agent keeps a request waiting.
pub(super) const QUEUE_WAIT: Time = 5 * S;

/// Something that happens.
pub(super) enum Event {
    Deed(usize),
    /// A deed that follows a step.
    After(usize, usize),
    Moment,
    Controller,
    /// A second controller writes what it kept back.
    Second(usize),
    Crash(usize, u32),
    Start(usize, u32),
    StartLibrarian(u32),
    Look(usize, u32),
    Control(usize, u32),
    /// A person says that a server is lost, or that it is not.
    Mark(usize, bool),
    /// An agent looks at its keys.
    Keys(usize, u32),
    /// A guardian of keys answers again.
    Answers(usize),
    /// The installer of a server does what is next.
    Installer(usize),
    /// The person who upgrades the pool looks.
    Operator,
    Frames {
        from: usize,
        to: usize,
        link: u64,
        octets: Bytes,
    },
    Large {
        from: (usize, u32),
        to: usize,
        link: u64,
        id: Id,
        shipped: Shipped,
        address: Address,
        copy: Box<Copy>,
        /// It stays beside its owner's.
        kept: bool,
        payload: Vec<Bytes>,
    },
    LargeEnd(usize, u32, Id, Result<Shipped, ShipFault>),
    LinkUp(usize, usize),
    LinkDown(usize, usize, u64),
    Ask {
        from: usize,
        life: u32,
        token: u64,
        octets: Vec<u8>,
        site: Site,
    },
    Answer {
        to: usize,
        life: u32,
        token: u64,
        octets: Vec<u8>,
    },
    LineLate(usize, u32, u64),
    Disk {
        agent: usize,
        life: u32,
        work: Work,
        fate: Fate,
    },
    /// A large copy was written.
    Written {
        agent: usize,
        life: u32,
        done: Done,
    },
    Call(usize, Box<Call>),
    Replied(ReplyTo, Reply),
    RequestTimer(usize, u32, u64),
    ClientTimer(usize, u64),
    Settled,
}

/// Work for an agent's disk.
pub(super) enum Work {
    Job(Box<Job>),
    Request(u64),
    /// A step of the rotation of keys.
    Keys,
    /// A request to the installer.
    Ask(Box<agent::install::Request>),
    /// A self-test under a plan.
    Probe(u64),
    /// A sweep of a few objects.
    Sweep,
}

/// The pool, its network and its clients.
pub(super) struct World {
    pub(super) script: Script,
    pub(super) domain: Domain,
    pub(super) now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    pushed: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) librarian: Librarian,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) faults: Faults,
    pub(super) check: Check,
    pub(super) pool: Pool,
    pub(super) second: Second,
    pub(super) operator: Operator,
    pub(super) watched: Watched,
    pub(super) upgraded: Upgraded,
    pub(super) trace: Option<Vec<String>>,
    /// Over all events, so that two runs can be compared.
    pub(super) digest: u64,
    pub(super) events: u64,
    pub(super) broken: Option<String>,
    pub(super) steps: BTreeMap<&'static str, u64>,
    pub(super) last_drain: Option<usize>,
    /// Faults have stopped.
    settling: bool,
    /// The last looks at every object are on their way.
    pub(super) closing: bool,
    done: bool,
    pub(super) dials: BTreeMap<(usize, usize), Time>,
    /// How often the step of each deed that follows one was met.
    followed: Vec<u64>,
    /// What the script keeps back.
    pub(super) held: Vec<Event>,
    /// Agents whose rounds' answers are kept back, and until when.
    hears_late: BTreeMap<usize, Time>,
    pub(super) tricks: Tricks,
    /// The script rotates keys.
    rotates: bool,
    /// Objects that had been wished elsewhere when the pool was to have come to rest.
    wished_before_rest: Option<u64>,
}

impl World {
    pub(super) fn new(script: Script, traced: bool) -> World {
        let domain: Domain = "hypernet.internal".parse().expect("a domain");
        let seed = script.seed;
        let mut machines = Vec::new();
        let mut servers = Vec::new();
        for number in 1..=script.agents {
            let name: ServerName = format!("s{number}").parse().expect("a name");
            let key = TsigKey::new(name.as_str(), &[number as u8; 32]).expect("a key");
            let role = match script.roles.get(number - 1) {
                Some(role) => *role,
                None if script.one_is_free && number == script.agents => Role::Free,
                None => Role::Serving,
            };
            servers.push((name, key.clone(), role));
            let clocks = Clocks {
                drift_ppm: i64::try_from(dice(seed, number as u64, 5) % 40_000).unwrap_or(0) - 20_000,
                calendar_ms: 0,
            };
            let release = script.releases.get(number - 1).copied().unwrap_or_default();
            machines.push(Machine::new(
                number as u8,
                key,
                clocks,
                release,
                script.capacities.get(number - 1).copied().unwrap_or(CAPACITY),
                dice(seed, number as u64, 6),
            ));
        }
        let librarian = Librarian::new(&domain, &servers, &script);
        let clients = (0..script.clients).map(|number| Client::new(&script, number)).collect();
        let faults = Faults::new(seed, script.faults.clone(), script.agents);
        let mut world = World {
            check: Check::new(&script),
            pool: Pool::default(),
            second: Second::default(),
            operator: Operator::default(),
            watched: Watched::default(),
            upgraded: Upgraded::default(),
            domain,
            now: 0,
            queue: BTreeMap::new(),
            pushed: 0,
            machines,
            librarian,
            network: Network::default(),
            clients,
            faults,
            trace: traced.then(Vec::new),
            digest: 0,
            events: 0,
            broken: None,
            steps: BTreeMap::new(),
            last_drain: None,
            settling: false,
            closing: false,
            done: false,
            dials: BTreeMap::new(),
            followed: vec![0; script.after.len()],
            held: Vec::new(),
            hears_late: BTreeMap::new(),
            tricks: Tricks::of(&script),
            rotates: (script.deeds.iter()).any(|(_, deed)| matches!(deed, Deed::Rotate(_))),
            wished_before_rest: None,
            script,
        };
        for agent in 0..world.machines.len() {
            world.push(0, Event::Start(agent, 0));
        }
        for number in 0..world.script.deeds.len() {
            let at = world.script.deeds[number].0;
            world.push(at, Event::Deed(number));
        }
        world.push(S / 2, Event::Moment);
        world.push(S / 4, Event::Controller);
        if world.script.steers() {
            world.push(S, Event::Operator);
        }
        let ends = world.script.ends;
        world.push(ends, Event::Settled);
        world
    }

    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.pushed += 1;
        self.queue.insert((at.max(self.now), self.pushed), event);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {}", self.now as f64 / 1000.0, text()));
        }
    }

    pub(super) fn fail(&mut self, why: String) {
        self.note(|| format!("VIOLATION {why}"));
        self.broken.get_or_insert(why);
    }

    /// Runs to the end, or to the first violation.
    pub(super) fn run(&mut self) {
        while self.broken.is_none() && !self.done {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                self.fail("the world stands still".to_owned());
                return;
            };
            self.now = at;
            if at > self.script.ends + SETTLES_WITHIN {
                let why = self.unsettled().unwrap_or_default();
                self.fail(format!("I12: the pool does not settle: {why}"));
                return;
            }
            if let Some(agent) = event.agent()
                && self.machines[agent].suspended_until > at
            {
                let until = self.machines[agent].suspended_until;
                self.push(until, event);
                continue;
            }
            self.events += 1;
            self.digest = dice(self.digest, at, event.number());
            self.librarian.tick(at);
            self.handle(event);
            self.verify_pool();
            self.verify();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deed(number) => self.deed(self.script.deeds[number].1, HERE),
            Event::After(number, agent) => {
                if !self.settling {
                    self.deed(self.script.after[number].deed, agent);
                }
            }
            Event::Moment => self.moment(),
            Event::Controller => {
                if self.librarian.up && self.librarian.is_open() {
                    self.second_looks();
                    self.librarian.control();
                    self.verify_rest();
                } else if self.librarian.up {
                    self.open_registry();
                }
                self.push(self.now + S, Event::Controller);
            }
            Event::Second(number) => self.second_writes(number),
            Event::Crash(agent, life) => {
                if self.machines[agent].life == life {
                    self.crash(agent);
                }
            }
            Event::Start(agent, life) => self.start(agent, life),
            Event::StartLibrarian(life) => {
                if self.librarian.life == life {
                    self.librarian.up = true;
                    self.note(|| "the librarian answers again".to_owned());
                }
            }
            Event::Look(agent, life) => {
                if self.is_alive(agent, life) {
                    let process = &mut self.machines[agent].process;
                    if process.look_at.is_some_and(|at| at <= self.now) {
                        process.look_at = None;
                    }
                    self.settle(agent);
                }
            }
            Event::Control(agent, life) => {
                if self.is_alive(agent, life) {
                    self.tell(agent);
                    if self.script.tells {
                        self.look_at_install(agent);
                    }
                    self.push(self.now + S, Event::Control(agent, life));
                }
            }
            Event::Mark(agent, lost) => self.mark(agent, lost),
            Event::Keys(agent, life) => {
                if self.is_alive(agent, life) {
                    self.look_at_keys(agent, life);
                }
            }
            Event::Answers(agent) => self.answers(agent),
            Event::Installer(agent) => self.installs(agent),
            Event::Operator => self.operator_looks(),
            Event::Frames { from, to, link, octets } => self.frames(from, to, link, octets),
            Event::Large { .. } => self.large(event),
            Event::LargeEnd(agent, life, id, shipped) => {
                if self.is_alive(agent, life) {
                    self.machines[agent].tick(self.now);
                    self.machines[agent].process.engine.shipped(id, shipped);
                    self.settle(agent);
                }
            }
            Event::LinkUp(one, other) => self.link_up(one, other),
            Event::LinkDown(one, other, number) => self.link_down(one, other, number),
            Event::Ask {
                from,
                life,
                token,
                octets,
                site,
            } => self.asked(from, life, token, &octets, site),
            Event::Answer {
                to,
                life,
                token,
                octets,
            } => {
                if self.is_alive(to, life) && self.network.passes(0, to + 1, self.now) {
                    self.answered(to, token, &octets);
                    self.settle(to);
                }
            }
            Event::LineLate(agent, life, token) => {
                if self.is_alive(agent, life) {
                    self.line_late(agent, token);
                    self.settle(agent);
                }
            }
            Event::Disk {
                agent,
                life,
                work,
                fate,
            } => {
                if self.is_alive(agent, life) {
                    self.disk(agent, work, fate);
                }
            }
            Event::Written { agent, life, done } => {
                if self.is_alive(agent, life) {
                    self.machines[agent].tick(self.now);
                    self.machines[agent].process.engine.done(done);
                    self.settle(agent);
                }
            }
            Event::Call(to, call) => self.call(to, *call),
            Event::Replied(reply_to, reply) => match reply_to {
                ReplyTo::Client { client, attempt } => self.client_replied(client, attempt, reply),
                ReplyTo::Agent { agent, life, request } => {
                    if self.is_alive(agent, life) {
                        self.reply(agent, request, reply);
                        self.settle(agent);
                    }
                }
            },
            Event::RequestTimer(agent, life, request) => {
                if self.is_alive(agent, life) {
                    self.request_timer(agent, request);
                    self.settle(agent);
                }
            }
            Event::ClientTimer(client, attempt) => self.client_timer(client, attempt),
            Event::Settled => self.look_whether_settled(),
        }
    }

    fn is_alive(&self, agent: usize, life: u32) -> bool {
        self.machines[agent].life == life && self.machines[agent].started
    }

    // Deeds and moments.

    /// Does it; `agent` is the one whose step it follows.
    fn deed(&mut self, deed: Deed, agent: usize) {
        self.note(|| format!("deed {deed:?}"));
        if let Some((client, object, verb)) = deed.of_client() {
            self.client_wants(client, object, verb);
            return;
        }
        match deed {
            Deed::Move(object, to) => {
                let address = address(object);
                let Some(owner) = self.check.owner(&address) else {
                    return;
                };
                let server = self.machines[to].name.clone();
                if self.librarian.up {
                    self.librarian.wish(&owner, Wish::Move { address, server });
                }
            }
            Deed::Drain(server) => {
                let name = self.machines[server].name.clone();
                let upgraded = self.pool_state();
                if self.librarian.up
                    && self
                        .librarian
                        .plan(|sight| librarian::pool::drain(sight, &name, None).ok())
                {
                    if upgraded.is_some() {
                        self.fail(format!("s{} is drained by hand in the midst of an upgrade", server + 1));
                    }
                    self.last_drain = Some(server);
                }
            }
            Deed::Refill => {
                if let Some(server) = self.last_drain
                    && self.librarian.up
                {
                    let name = self.machines[server].name.clone();
                    self.librarian.plan(|sight| librarian::pool::refill(sight, &name).ok());
                }
            }
            Deed::Policy(level, steps) => {
                if self.librarian.up {
                    self.librarian.ask_more(level, steps);
                }
            }
            Deed::Late(late) => {
                if self.librarian.up {
                    self.late(late);
                }
            }
            Deed::HearLate(agent, pause) => {
                self.hears_late.insert(agent, self.now + pause);
            }
            Deed::Befall(fate) => self.befall(fate),
            Deed::Arm(site, fate) => self.faults.arm(site, fate),
            Deed::Release => {
                for event in std::mem::take(&mut self.held) {
                    self.push(self.now, event);
                }
            }
            Deed::Backup | Deed::Restore | Deed::Rebuild | Deed::Handover(_) => self.registry_deed(deed),
            Deed::Trick(trick) => self.trick(trick, agent),
            Deed::Rotate(agent) => self.rotate(agent),
            Deed::Steer(what) => self.steers(what),
            Deed::Lose(agent) => self.lose(agent),
            Deed::Mark(agent, lost) => self.mark(agent, lost),
            Deed::CutOff(agent, pause) => self.cut_off(agent, pause),
            Deed::Put(..) | Deed::Read(..) | Deed::Delete(..) => unreachable!("clients' deeds were taken above"),
        }
    }

    /// An agent is about to make a step durable: does what the script lets follow.
    fn follow(&mut self, agent: usize, step: &'static str) {
        *self.steps.entry(step).or_default() += 1;
        self.comes_to(agent, step);
    }

    /// The same for work that is no step of a journal.
    pub(super) fn comes_to(&mut self, agent: usize, step: &'static str) {
        for number in 0..self.followed.len() {
            let after = &self.script.after[number];
            if after.step != step || self.now < after.from || self.settling {
                continue;
            }
            self.followed[number] += 1;
            if after.nth != 0 && self.followed[number] != after.nth {
                continue;
            }
            match after.pause {
                0 => self.deed(after.deed, agent),
                pause => self.push(self.now + pause, Event::After(number, agent)),
            }
        }
    }

    fn moment(&mut self) {
        if self.settling {
            return;
        }
        self.push(self.now + S / 4, Event::Moment);
        let fate = self.decide(Site::Moment);
        if fate != Fate::Pass {
            self.note(|| format!("fault {fate:?}"));
        }
        self.befall(fate);
    }

    /// What a fate does that befalls no message or step.
    fn befall(&mut self, fate: Fate) {
        match fate {
            Fate::Crash(agent) => {
                let life = self.machines[agent].life;
                self.push(self.now, Event::Crash(agent, life));
            }
            Fate::Suspend(agent, pause) => {
                self.machines[agent].suspended_until = self.now + micros(pause);
            }
            Fate::Jump(agent, seconds) => self.machines[agent].clocks.calendar_ms = seconds * 1000,
            Fate::Librarian(pause) => self.crash_librarian(micros(pause)),
            Fate::Partition(one, other, pause) => {
                let until = self.now + micros(pause);
                if one != other {
                    self.network.cut(one, other, until);
                    if pause.as_millis() % 2 == 0 {
                        self.network.cut(other, one, until);
                    }
                    let agents = 1..=self.machines.len();
                    if agents.contains(&one) && agents.contains(&other) && micros(pause) > IDLE {
                        let number = self.network.link(one - 1, other - 1).number;
                        self.push(self.now + IDLE, Event::LinkDown(one - 1, other - 1, number));
                    }
                }
            }
            Fate::Isolate(agent, pause) => self.isolate(agent, micros(pause)),
            Fate::Rot(agent) => self.rot(agent),
            Fate::Silent(agent, pause) => self.silence(agent, micros(pause)),
            Fate::Pass
            | Fate::Lost
            | Fate::Twice
            | Fate::Late(_)
            | Fate::Damaged
            | Fate::SenderCrashes
            | Fate::ReceiverCrashes
            | Fate::CrashBefore
            | Fate::CrashWithin(_)
            | Fate::CrashAfter
            | Fate::Miswritten
            | Fate::Held
            | Fate::Kept
            | Fate::InstallFails
            | Fate::InstallRefused
            | Fate::NeverBack
            | Fate::Full => {}
        }
    }

    /// Cuts an agent off from everybody but clients.
    pub(super) fn isolate(&mut self, agent: usize, pause: Time) {
        let until = self.now + pause;
        for other in (0..=self.machines.len()).filter(|other| *other != agent + 1) {
            self.network.cut(agent + 1, other, until);
            self.network.cut(other, agent + 1, until);
            if other > 0 && pause > IDLE {
                let number = self.network.link(agent, other - 1).number;
                self.push(self.now + IDLE, Event::LinkDown(agent, other - 1, number));
            }
        }
    }

    /// What a fate does beside what it does to the message or step that met it.
    pub(super) fn decide(&mut self, site: Site) -> Fate {
        let fate = self.faults.decide(site);
        match fate {
            Fate::Isolate(agent, pause) if site != Site::Moment => {
                self.note(|| format!("s{} is cut off", agent + 1));
                self.isolate(agent, micros(pause));
                Fate::Pass
            }
            fate => fate,
        }
    }

    /// One octet of one copy changes.
    fn rot(&mut self, agent: usize) {
        let entries = self.machines[agent].process.local.store().entries();
        let streams: Vec<_> = entries
            .iter()
            .flat_map(|entry| entry.streams().map(move |(_, stream)| (entry, stream)))
            .filter(|(_, stream)| stream.plain_octets > 0)
            .collect();
        if streams.is_empty() {
            return;
        }
        let (entry, stream) = streams[self.faults.roll(120) as usize % streams.len()];
        let Some(extent) = stream.extents.first() else { return };
        let offset = extent.offset() + self.faults.roll(121) % stream.plain_octets.min(extent.octets());
        self.machines[agent]
            .disk
            .rot(&format!("volumes/{:04}", extent.volume), offset);
        self.note(|| format!("the copy of {} on s{} rots", entry.address, agent + 1));
        self.check.rots(agent, &entry.address, stream.id);
    }

    // Lives.

    pub(super) fn crash(&mut self, agent: usize) {
        if self.machines[agent].gone {
            return;
        }
        self.note(|| format!("s{} crashes", agent + 1));
        self.faults.crashes += 1;
        let seed = self.faults.roll(110);
        // The next life opens its store here and starts later, not before its guardian answers (`start`).
        let machine = &mut self.machines[agent];
        machine.guardian.set_answers(true);
        let opened = machine.crash(seed);
        machine.guardian.set_answers(machine.silent_until <= self.now);
        if let Err(error) = opened {
            let error: &dyn std::error::Error = &error;
            let causes: Vec<String> = std::iter::successors(Some(error), |error| error.source())
                .map(ToString::to_string)
                .collect();
            self.fail(format!("s{} does not open its store: {}", agent + 1, causes.join(": ")));
            return;
        }
        self.check.touched(agent);
        for other in 0..self.machines.len() {
            if other != agent {
                let link = self.network.link(agent, other);
                let number = link.number;
                if link.up {
                    link.up = false;
                    self.push(self.now + IDLE, Event::LinkDown(agent, other, number));
                }
            }
        }
        let pause = 100 * MS + self.faults.roll(111) % (2 * S);
        let life = self.machines[agent].life;
        self.push(self.now + pause, Event::Start(agent, life));
    }

    pub(super) fn crash_librarian(&mut self, pause: Time) {
        self.note(|| "the librarian crashes".to_owned());
        self.upgraded.killed.extend(self.pool_state());
        self.librarian.crash();
        self.check.registers_changed = true;
        let life = self.librarian.life;
        self.push(self.now + pause, Event::StartLibrarian(life));
    }

    fn start(&mut self, agent: usize, life: u32) {
        let machine = &mut self.machines[agent];
        if machine.life != life || machine.started || machine.gone || machine.installer.holds_down() {
            return;
        }
        if machine.silent_until > self.now {
            // An agent does not start without its guardian of keys.
            let until = machine.silent_until;
            return self.push(until, Event::Start(agent, life));
        }
        machine.started = true;
        machine.counts_anew(self.now);
        machine.tick(self.now);
        let (plan, policy) = machine.disk.read_plan().unwrap_or_default();
        machine.process.engine.outside().wanted = Wanted {
            plan,
            policy,
            ..Wanted::default()
        };
        machine.obey(&policy);
        let boot = machine.clocks.boot(self.now);
        let mut moves = Vec::new();
        let me = machine.name.clone();
        let mut open = Vec::new();
        for found in std::mem::take(&mut machine.process.open) {
            match found {
                Open::Move(entry) => moves.push(entry),
                Open::Create(entry, tx, turn) => {
                    let machine = Create::recover(boot, steps::register_of(&me, &entry, tx));
                    let stage = Stage::Creating {
                        turn,
                        machine: Box::new(machine),
                        entry: entry.clone(),
                        waits: false,
                    };
                    open.push((entry.address.clone(), Verb::Put(0), stage));
                }
                Open::Delete(entry, tx, turn) => {
                    let machine = Delete::new(boot, me.clone(), entry.epoch, tx);
                    let stage = Stage::Deleting {
                        turn,
                        machine: Box::new(machine),
                        entry: entry.clone(),
                        tx,
                        waits: false,
                    };
                    open.push((entry.address.clone(), Verb::Delete, stage));
                }
            }
        }
        let count = moves.len() + open.len();
        machine.process.engine.recover(moves);
        for (address, verb, stage) in open {
            let id = self.new_request(agent);
            let call = Call {
                address,
                verb,
                client: 0,
                write_id: Uuid::nil(),
                hops: 0,
                via: None,
                reply_to: ReplyTo::Client {
                    client: usize::MAX,
                    attempt: 0,
                },
            };
            let request = Request {
                call,
                waited_for: false,
                until: Time::MAX,
                prepared: None,
                stage,
            };
            self.machines[agent].process.requests.insert(id, request);
        }
        self.note(|| format!("s{} starts with {count} open rows", agent + 1));
        self.line_send(agent, What::Remembered);
        let offset = dice(self.script.seed, agent as u64, 7) % (S / 2);
        self.push(self.now + offset, Event::Control(agent, life));
        if self.rotates {
            self.push(self.now, Event::Keys(agent, life));
        }
        self.settle(agent);
    }

    // The engine of one agent.

    /// Lets an agent do all that it can do now.
    pub(super) fn settle(&mut self, agent: usize) {
        if !self.machines[agent].started {
            return;
        }
        let life = self.machines[agent].life;
        for round in 0.. {
            assert!(round < 1000, "s{} goes round in circles", agent + 1);
            let now = self.now;
            let machine = &mut self.machines[agent];
            machine.tick(now);
            machine.process.engine.turn();
            let mut busy = false;
            while let Some(out) = self.machines[agent].process.engine.outside().out.pop_front() {
                busy = true;
                self.out(agent, out);
            }
            busy |= self.poll_closings(agent);
            busy |= self.poll_requests(agent);
            busy |= self.machines[agent].process.local.has_news();
            self.flush_changes(agent);
            if let Some(wrong) = self.machines[agent].process.engine.outside().wrong.take() {
                self.fail(format!("s{}: {wrong}", agent + 1));
            }
            if !busy || self.machines[agent].life != life || self.broken.is_some() {
                break;
            }
        }
        let machine = &mut self.machines[agent];
        let wake = machine
            .process
            .engine
            .wake()
            .map_or(Time::MAX, |at| machine.clocks.when(at));
        let at = wake.max(self.now + 1).min(self.now + micros(LOOK_EVERY));
        if machine.process.look_at.is_none_or(|known| at < known) {
            machine.process.look_at = Some(at);
            self.push(at, Event::Look(agent, life));
        }
    }

    fn poll_closings(&mut self, agent: usize) -> bool {
        let mut busy = false;
        for (id, number, address) in std::mem::take(&mut self.machines[agent].process.closings) {
            let process = &mut self.machines[agent].process;
            match process.local.held(&address) {
                Some(closed) => {
                    busy = true;
                    process.engine.closed(id, number, closed);
                }
                None => process.closings.push((id, number, address)),
            }
        }
        busy
    }

    fn out(&mut self, agent: usize, out: Out) {
        let life = self.machines[agent].life;
        match out {
            Out::Frames(peer, octets, copy) => {
                let to = self.number_of(&peer);
                self.send_frames(agent, to, octets, copy);
            }
            Out::Large(id, peer, shipment) => {
                let to = self.number_of(&peer);
                let store = self.machines[agent].process.local.store();
                match shipment.payload(store) {
                    Ok(payload) => {
                        let link = self.network.link(agent, to).number;
                        let event = Event::Large {
                            from: (agent, life),
                            to,
                            link,
                            id,
                            shipped: shipment.shipped(),
                            address: shipment.address().clone(),
                            copy: Box::new(shipment.copy().clone()),
                            kept: shipment.is_kept(),
                            payload,
                        };
                        self.send_large(agent, to, event);
                    }
                    Err(error) => {
                        let fault = ShipFault::from(&error);
                        self.push(self.now, Event::LargeEnd(agent, life, id, Err(fault)));
                    }
                }
            }
            Out::Dial(peer) => {
                let to = self.number_of(&peer);
                self.dial(agent, to);
            }
            Out::Job(job) => self.submit(agent, Work::Job(Box::new(job))),
            Out::Wish(wish) => {
                let (id, side) = (wish.id, wish.side);
                let generation = self.machines[agent].process.trust.generation();
                let waits = |question| Waits::Engine {
                    id,
                    side,
                    question,
                    generation,
                };
                match wish.what {
                    Asked::Read { address, question } => {
                        let waits = waits(question);
                        self.line_send(
                            agent,
                            What::Read {
                                address,
                                waits,
                                tries: 0,
                            },
                        );
                    }
                    Asked::Change { old, new } => {
                        let change = zones::RegisterChange {
                            old: Some(*old),
                            new: *new,
                        };
                        self.want_change(agent, change, waits(agent::migration::Question(0)));
                    }
                }
            }
            Out::Closing(id, number, address) => self.machines[agent].process.closings.push((id, number, address)),
        }
    }

    pub(super) fn want_change(&mut self, agent: usize, change: zones::RegisterChange, waits: Waits) {
        self.machines[agent].process.line.changes.push(WantedChange {
            change,
            waits,
            tries: 0,
            unanswered: 0,
        });
    }

    fn number_of(&self, name: &ServerName) -> usize {
        let number: usize = name.as_str()[1..].parse().expect("a name of this pool");
        number - 1
    }

    // Disk.

    pub(super) fn submit(&mut self, agent: usize, work: Work) {
        let durable = match &work {
            Work::Job(job) => {
                let steps = job.steps();
                if steps.is_empty() {
                    self.comes_to(agent, job.kind());
                }
                for step in steps {
                    self.follow(agent, step);
                }
                true
            }
            Work::Request(_) => {
                self.comes_to(agent, "commit");
                true
            }
            Work::Keys => {
                self.comes_to(agent, "keys");
                true
            }
            Work::Ask(_) => {
                self.comes_to(agent, "ask installer");
                true
            }
            Work::Probe(_) => {
                self.comes_to(agent, "self-test");
                true
            }
            Work::Sweep => {
                self.comes_to(agent, "sweep");
                true
            }
        };
        let mut fate = if durable { self.decide(Site::Disk) } else { Fate::Pass };
        let life = self.machines[agent].life;
        let mut at = self.now + MS / 5 + self.faults.roll(130) % (3 * MS);
        if let Fate::Late(pause) = fate {
            at = self.now + micros(pause);
            fate = Fate::Pass;
        }
        let event = Event::Disk {
            agent,
            life,
            work,
            fate,
        };
        match fate {
            Fate::Held => self.held.push(event),
            _ => self.push(at, event),
        }
    }

    fn disk(&mut self, agent: usize, work: Work, mut fate: Fate) {
        if fate == Fate::Held {
            // It meets its fate when it goes on.
            fate = self.decide(Site::Disk);
        }
        if let Work::Job(job) = &work {
            let steps = job.steps();
            if !steps.is_empty() || fate != Fate::Pass {
                self.note(|| format!("s{} {} {steps:?} {fate:?}", agent + 1, work_kind(&work)));
            }
        } else {
            self.note(|| format!("s{} {} {fate:?}", agent + 1, work_kind(&work)));
        }
        let disk = self.machines[agent].disk.clone();
        match fate {
            Fate::CrashBefore => return self.crash(agent),
            Fate::CrashWithin(syncs) => disk.cut_after(syncs),
            Fate::Full => disk.set_full(true),
            Fate::Pass
            | Fate::Lost
            | Fate::Twice
            | Fate::Late(_)
            | Fate::Damaged
            | Fate::SenderCrashes
            | Fate::ReceiverCrashes
            | Fate::CrashAfter
            | Fate::Crash(_)
            | Fate::Suspend(..)
            | Fate::Jump(..)
            | Fate::Librarian(_)
            | Fate::Partition(..)
            | Fate::Isolate(..)
            | Fate::Miswritten
            | Fate::Held
            | Fate::Kept
            | Fate::Silent(..)
            | Fate::InstallFails
            | Fate::InstallRefused
            | Fate::NeverBack
            | Fate::Rot(_) => {}
        }
        self.machines[agent].tick(self.now);
        let life = self.machines[agent].life;
        match work {
            Work::Job(job) => {
                let staging = match job.kind() {
                    "write copies" => self.decide(Site::Staging),
                    _ => Fate::Pass,
                };
                disk.miswrite(staging == Fate::Miswritten);
                let process = &mut self.machines[agent].process;
                let (done, later) = job.run(&process.local);
                disk.miswrite(false);
                if let Some(done) = done {
                    process.engine.done(done);
                }
                for job in later {
                    let event = Event::Disk {
                        agent,
                        life,
                        work: Work::Job(Box::new(job)),
                        fate: Fate::Pass,
                    };
                    self.push(self.now + 5 * MS, event);
                }
            }
            Work::Request(request) => self.commit_of_request(agent, request, disk.is_lost()),
            Work::Keys => self.rotation_step(agent),
            Work::Ask(request) => self.ask_installer(agent, &request),
            Work::Probe(plan) => self.probe(agent, plan),
            Work::Sweep => self.sweep(agent),
        }
        self.check.touched(agent);
        match fate {
            Fate::CrashWithin(_) | Fate::CrashAfter => return self.crash(agent),
            Fate::Full => {
                disk.set_full(false);
                let store = self.machines[agent].process.local.store();
                if let Err(CommitError::Failed(_)) = store.commit(Vec::new()) {
                    // It says itself that it wants a restart.
                    self.push(self.now + S, Event::Crash(agent, life));
                }
            }
            Fate::Pass
            | Fate::Lost
            | Fate::Twice
            | Fate::Late(_)
            | Fate::Damaged
            | Fate::SenderCrashes
            | Fate::ReceiverCrashes
            | Fate::CrashBefore
            | Fate::Crash(_)
            | Fate::Suspend(..)
            | Fate::Jump(..)
            | Fate::Librarian(_)
            | Fate::Partition(..)
            | Fate::Isolate(..)
            | Fate::Miswritten
            | Fate::Held
            | Fate::Kept
            | Fate::Silent(..)
            | Fate::InstallFails
            | Fate::InstallRefused
            | Fate::NeverBack
            | Fate::Rot(_) => {}
        }
        self.settle(agent);
    }

    // The librarian.

    fn asked(&mut self, from: usize, life: u32, token: u64, octets: &[u8], site: Site) {
        let update = site == Site::Update;
        if !self.librarian.up || !self.network.passes(from + 1, 0, self.now) {
            return;
        }
        let fate = if update { self.decide(Site::Commit) } else { Fate::Pass };
        let cut = match fate {
            Fate::CrashBefore => Some(Cut::Before),
            Fate::CrashAfter => Some(Cut::After),
            _ => None,
        };
        let address = std::net::IpAddr::from([192, 0, 2, from as u8 + 1]);
        let reply = match self.librarian.old_answers(from, self.now, octets, address) {
            Some(reply) => reply,
            None => self.librarian.respond(octets, address, cut),
        };
        if update {
            self.check.registers_changed = true;
        }
        if cut.is_some() {
            self.crash_librarian(300 * MS);
        }
        let Some(octets) = reply else { return };
        let fate = self
            .faults
            .decide(if site == Site::Control { site } else { Site::Answer });
        let at = self.now + Network::latency(self.faults.roll(150));
        let answer = |octets| Event::Answer {
            to: from,
            life,
            token,
            octets,
        };
        match fate {
            Fate::Lost => {}
            Fate::Late(pause) => self.push(self.now + micros(pause), answer(octets)),
            Fate::Twice => {
                self.push(at, answer(octets.clone()));
                self.push(at + 50 * MS, answer(octets));
            }
            Fate::Held => self.held.push(answer(octets)),
            Fate::Kept => {
                self.push(at, answer(octets.clone()));
                self.held.push(answer(octets));
            }
            _ if site == Site::Control && self.hears_late.get(&from).is_some_and(|until| *until > self.now) => {
                self.held.push(answer(octets));
            }
            _ => self.push(at, answer(octets)),
        }
    }

    /// Answers a question of a client at once; `None` if the librarian is not reached.
    pub(super) fn resolve(&mut self, octets: &[u8]) -> Option<Vec<u8>> {
        let clients = self.machines.len() + 1;
        let reached =
            self.librarian.up && self.network.passes(clients, 0, self.now) && self.network.passes(0, clients, self.now);
        if !reached || self.decide(Site::Question) == Fate::Lost {
            return None;
        }
        self.librarian.respond(octets, CLIENTS, None)
    }

    /// Tells a machine or a request what was heard for it.
    pub(super) fn hear(&mut self, agent: usize, waits: Waits, heard: Heard) {
        match waits {
            Waits::Request(request) => self.request_heard(agent, request, heard),
            Waits::Engine {
                id,
                side,
                question,
                generation,
            } => {
                let said = match heard {
                    Heard::Register { asked_at, register } => Said::Register {
                        question,
                        asked_at,
                        register,
                    },
                    Heard::Nothing => Said::Nothing { question },
                    Heard::Changed(changed) => Said::Changed(match changed {
                        agent::register::Changed::Done => agent::migration::ChangeOutcome::Done,
                        agent::register::Changed::Refused { .. } => agent::migration::ChangeOutcome::Refused,
                        agent::register::Changed::Unknown => agent::migration::ChangeOutcome::Unknown,
                    }),
                };
                self.machines[agent].tick(self.now);
                self.machines[agent].process.engine.answered(Answer {
                    id,
                    side,
                    generation,
                    said,
                });
            }
        }
    }

    pub(super) fn obey(&mut self, agent: usize, wishes: Wishes) {
        let machine = &mut self.machines[agent];
        let disk = machine.disk.clone();
        let wanted = &mut machine.process.engine.outside().wanted;
        let before = wanted.clone();
        if wanted.take(wishes) && disk.write_plan(wanted.plan, &wanted.policy).is_err() {
            // Not durable, so not obeyed; the next answer says it again.
            *wanted = before.clone();
        }
        let (policy, want) = (wanted.policy, wanted.want.clone());
        let keep = |wanted: &Wanted| wanted.want.as_ref().map(|want| want.errand.keep.clone());
        let of_copies = keep(wanted) != keep(&before);
        machine.obey(&policy);
        if of_copies {
            self.look_at_copies_again(agent);
        }
        if let Some(want) = want {
            self.pool.heard(agent, want);
        }
    }

    /// I12: under a load that stays the same the pool comes to rest.
    fn verify_rest(&mut self) {
        if self.settling || self.script.rests_from.is_none_or(|from| self.now < from) {
            return;
        }
        let wished = self.librarian.wished;
        let before = *self.wished_before_rest.get_or_insert(wished);
        if wished > before + LATE_WISHES_MAX {
            self.fail(format!(
                "I12: a pool under a steady load does not come to rest: {} objects are wished elsewhere after {before}",
                wished - before
            ));
        }
    }

    // The end.

    fn look_whether_settled(&mut self) {
        if !self.settling {
            self.settling = true;
            self.note(|| "faults stop".to_owned());
            self.deed(Deed::Release, HERE);
            self.faults.stop();
            self.tricks.stop();
            self.end_silences();
            self.find_again();
            self.network.heal();
            for machine in &mut self.machines {
                machine.suspended_until = 0;
                machine.clocks.calendar_ms = 0;
            }
        }
        if self.librarian.up {
            self.librarian.wish_nothing();
        }
        self.push(self.now + S / 2, Event::Settled);
        // What a server gave away stays on it until all of it has gone and can be read where it went: a person decides.
        if self.librarian.waits_for_a_person() && self.clients.iter().all(Client::is_idle) {
            self.mends();
        }
        if self.unsettled().is_some() {
            return;
        }
        if !self.closing {
            self.closing = true;
            self.note(|| "all is quiet: last looks".to_owned());
            self.last_looks();
            return;
        }
        if let Err(why) = self.check_end() {
            self.fail(why);
        }
        self.done = true;
    }

    pub(super) fn is_settling(&self) -> bool {
        self.settling
    }

    /// What still has to end.
    pub(super) fn unsettled(&self) -> Option<String> {
        if !self.librarian.up {
            return Some("the librarian is down".to_owned());
        }
        if !self.librarian.is_open() {
            return Some("the registry is reconciled".to_owned());
        }
        // A drain waits for a person where copies cannot be read.
        let rotten = |(server, registers): (ServerName, u64)| self.rotten_of(&server) >= registers;
        let holds_last = (0..self.machines.len()).any(|agent| self.holds_last(agent));
        if !self.librarian.rests() && !self.librarian.waits_for_registers().is_some_and(rotten) && !holds_last {
            return Some("a plan is open".to_owned());
        }
        for (number, machine) in self.machines.iter().enumerate() {
            let server = number + 1;
            if machine.gone {
                continue;
            }
            if !machine.started || !machine.installer.is_idle() {
                return Some(format!("s{server} is down, or is given another release"));
            }
            if !machine.process.trust.is_trusted() {
                return Some(format!("s{server} does not believe the registry"));
            }
            let engine = &machine.process.engine;
            let states = (engine.states(Side::Source), engine.states(Side::Destination));
            if !states.0.is_empty() || !states.1.is_empty() {
                return Some(format!("s{server} has moves {states:?}"));
            }
            // An object whose owner cannot read it gets no holder, so who made it or wrote it is never answered.
            let waits = |request: &&Request| {
                let is_vain = matches!(request.stage, Stage::Confirming { .. } | Stage::InLine(_));
                !(is_vain && self.is_stuck(&request.call.address))
            };
            if let Some(request) = machine.process.requests.values().find(waits) {
                let call = &request.call;
                return Some(format!("s{server} has a request: {:?} {}", call.verb, call.address));
            }
            if self.keys_wait(number) {
                return Some(format!("s{server} rotates its keys"));
            }
            // What a server gave stays there until it is empty.
            let keeps = self.rotten_of(&machine.name) > 0 || self.holds_last(number);
            let open = self.check.open_row(machine, self.closing, keeps);
            if let Some(open) = open {
                return Some(format!("s{server} has an open row {open}"));
            }
        }
        let upgrade = self.upgrade_waits().filter(|_| !holds_last);
        if let Some(why) = upgrade.or_else(|| self.copies_wait()) {
            return Some(why);
        }
        // As above, so its client waits, and what it would do next.
        let is_stuck = |object: usize| self.is_stuck(&address(object));
        let is_busy = |client: &Client| !client.is_idle() && !client.asks_for().is_some_and(is_stuck);
        let busy = self.clients.iter().position(is_busy);
        busy.map(|client| format!("client {client} is busy"))
    }

    /// The states of all parties, for a person.
    pub(super) fn states(&self) -> String {
        let mut text = String::new();
        for (number, machine) in self.machines.iter().enumerate() {
            let engine = &machine.process.engine;
            text.push_str(&format!(
                "s{} {} source {:?} destination {:?}\n",
                number + 1,
                if machine.started { "up" } else { "down" },
                engine.states(Side::Source),
                engine.states(Side::Destination),
            ));
            for entry in machine.process.local.store().entries() {
                text.push_str(&format!(
                    "   row {} {} epoch {} revision {} {:?}\n",
                    entry.seq, entry.address, entry.epoch, entry.revision, entry.journal
                ));
            }
        }
        text.push_str(&format!(
            "librarian {}\n",
            if self.librarian.up { "up" } else { "down" }
        ));
        for object in 0..self.script.objects {
            if let Some(register) = self.librarian.process.registry.view().register(&address(object)) {
                text.push_str(&format!("   {}\n", register.strings().join(" ")));
            }
        }
        text
    }
}

impl Event {
    /// The agent that it happens at.
    fn agent(&self) -> Option<usize> {
        match self {
            Event::Look(agent, _)
            | Event::Control(agent, _)
            | Event::Keys(agent, _)
            | Event::LargeEnd(agent, ..)
            | Event::LineLate(agent, ..)
            | Event::RequestTimer(agent, ..)
            | Event::Call(agent, _)
            | Event::Disk { agent, .. }
            | Event::Written { agent, .. }
            | Event::Answer { to: agent, .. }
            | Event::Frames { to: agent, .. }
            | Event::Large { to: agent, .. } => Some(*agent),
            Event::Replied(ReplyTo::Agent { agent, .. }, _) => Some(*agent),
            Event::Deed(_)
            | Event::After(..)
            | Event::Moment
            | Event::Controller
            | Event::Second(_)
            | Event::Mark(..)
            | Event::Crash(..)
            | Event::Start(..)
            | Event::StartLibrarian(_)
            | Event::Answers(_)
            | Event::Installer(_)
            | Event::Operator
            | Event::LinkUp(..)
            | Event::LinkDown(..)
            | Event::Ask { .. }
            | Event::Replied(ReplyTo::Client { .. }, _)
            | Event::ClientTimer(..)
            | Event::Settled => None,
        }
    }

    fn number(&self) -> u64 {
        match self {
            Event::Deed(number) => 1000 + *number as u64,
            Event::After(number, _) => 2000 + *number as u64,
            Event::Moment => 1,
            Event::Controller => 2,
            Event::Second(number) => 500 + *number as u64,
            Event::Crash(agent, _) => 100 + *agent as u64,
            Event::Start(agent, _) => 110 + *agent as u64,
            Event::StartLibrarian(_) => 3,
            Event::Look(agent, _) => 120 + *agent as u64,
            Event::Control(agent, _) => 130 + *agent as u64,
            Event::Keys(agent, _) => 600 + *agent as u64,
            Event::Mark(agent, lost) => 630 + 2 * *agent as u64 + u64::from(*lost),
            Event::Answers(agent) => 610 + *agent as u64,
            Event::Installer(agent) => 620 + *agent as u64,
            Event::Operator => 6,
            Event::Frames { from, to, octets, .. } => 10_000 + (*from * 10 + *to) as u64 + 100 * octets.len() as u64,
            Event::Large { to, .. } => 140 + *to as u64,
            Event::LargeEnd(agent, ..) => 150 + *agent as u64,
            Event::LinkUp(one, other) => 200 + (*one * 10 + *other) as u64,
            Event::LinkDown(one, other, _) => 300 + (*one * 10 + *other) as u64,
            Event::Ask { from, octets, .. } => 20_000 + *from as u64 + 10 * octets.len() as u64,
            Event::Answer { to, octets, .. } => 30_000 + *to as u64 + 10 * octets.len() as u64,
            Event::LineLate(agent, ..) => 160 + *agent as u64,
            Event::Disk { agent, .. } => 170 + *agent as u64,
            Event::Written { agent, .. } => 500 + *agent as u64,
            Event::Call(agent, _) => 180 + *agent as u64,
            Event::Replied(..) => 4,
            Event::RequestTimer(agent, ..) => 190 + *agent as u64,
            Event::ClientTimer(client, _) => 400 + *client as u64,
            Event::Settled => 5,
        }
    }
}

fn work_kind(work: &Work) -> &'static str {
    match work {
        Work::Job(job) => job.kind(),
        Work::Request(_) => "commit for a request",
        Work::Keys => "keys",
        Work::Ask(_) => "request to the installer",
        Work::Probe(_) => "self-test",
        Work::Sweep => "sweep",
    }
}
