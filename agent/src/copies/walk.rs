//! Three servers, one object, and everything that can go wrong, in random order: messages lost, repeated and late, crashes,
//! partitions, holders added and dropped, owners marked lost that still run.
//!
//! Checked at every moment: nobody is shown less than anybody saw before, and no acknowledged write is lost; at the end, when all
//! is well again, there is an owner that serves, and every holder that the register names has all that was ever shown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zones::{Address, Epoch, Level, Register, ServerName, State, Tx};

use super::holder::{self, Copy, Holder, Offer, Shows, Taken};
use super::owner::{self, Owner, Start};
use super::permits::Permits;
use super::{ASK_EVERY, GOOD_FOR};
use crate::clock::BootInstant;
use crate::migration::{ChangeOutcome, Question};
use crate::store::{Keeping, Refusal};

const SERVERS: usize = 3;
/// Steps of time.
const TICK: Duration = Duration::from_millis(10);
/// How long things go wrong, and how long they may take to be well again.
const TROUBLE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(40);

fn name(server: usize) -> ServerName {
    format!("s{}", server + 1).parse().expect("a name")
}

fn number_of(server: &ServerName) -> usize {
    (0..SERVERS)
        .find(|number| name(*number) == *server)
        .expect("one of them")
}

fn address() -> Address {
    "3.1".parse().expect("an address")
}

/// What is durable.
#[derive(Clone, Debug)]
struct Row {
    epoch: Epoch,
    revision: u64,
    /// The writes in it.
    content: Vec<u32>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Owned(Keeping),
    Held { tx: Tx, refusal: Option<Refusal> },
}

#[derive(Clone, Debug)]
enum Machine {
    Owner(Owner),
    Holder(Holder),
}

#[derive(Debug)]
struct Server {
    row: Option<Row>,
    /// What it has promised each of the others.
    pledges: [u64; SERVERS],
    up: bool,
    life: u64,
    machine: Option<Machine>,
    permits: Permits,
    ask_at: BootInstant,
    restart_at: BootInstant,
    /// How often its client writes, changed now and then: an owner that nobody writes at is one that only reads go wrong at.
    writes_percent: u32,
    /// Cut off from these, the librarian being the last.
    cut: [bool; SERVERS + 1],
}

#[derive(Clone, Debug)]
enum Message {
    Replicate {
        epoch: Epoch,
        revision: u64,
        content: Vec<u32>,
        tx: Option<Tx>,
    },
    Ack {
        copy: holder::Copy,
        pledge: u64,
    },
    /// Nothing of this epoch is taken any more.
    No {
        epoch: Epoch,
    },
    AskGrant {
        number: u64,
    },
    Grant {
        number: u64,
        revision: u64,
        good_for: Duration,
    },
    AskPermit {
        number: u64,
    },
    Permit {
        number: u64,
        pledge: u64,
    },
}

/// What happens later.
#[derive(Clone, Debug)]
enum Event {
    Message {
        from: usize,
        to: usize,
        message: Message,
    },
    /// A copy has been written, and would be noted now.
    Written {
        server: usize,
        life: u64,
        offer: Offer,
        content: Vec<u32>,
    },
    Noted {
        server: usize,
        life: u64,
        noted: Keeping,
    },
    Refused {
        server: usize,
        life: u64,
        refusal: Option<Refusal>,
    },
    Asked {
        server: usize,
        life: u64,
        question: Question,
    },
    Answered {
        server: usize,
        life: u64,
        question: Question,
        register: Register,
    },
    Update {
        server: usize,
        life: u64,
        old: Register,
        new: Register,
        again: bool,
    },
    Outcome {
        server: usize,
        life: u64,
        outcome: ChangeOutcome,
    },
}

struct World {
    random: StdRng,
    now: BootInstant,
    register: Register,
    lost: BTreeSet<ServerName>,
    /// Whether nobody may become a holder now.
    closed: bool,
    servers: Vec<Server>,
    events: BTreeMap<(BootInstant, u64), Event>,
    number: u64,
    /// The longest content that anybody saw or was acknowledged.
    seen: Vec<u32>,
    writes: u32,
    /// The revision that a client of each server waits for.
    waiting: [Option<u64>; SERVERS],
    trouble: bool,
    /// After the loss of a disk, until when no other is lost.
    whole_again: BootInstant,
    facts: Facts,
    trace: VecDeque<String>,
}

/// That a walk went somewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    acknowledged: u64,
    shown_by_holders: u64,
    added: u64,
    dropped: u64,
    promoted: u64,
    crashes: u64,
    disks: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let start = BootInstant::since_boot(Duration::from_secs(1000));
        let register = Register {
            address: address(),
            epoch: Epoch::FIRST,
            owner: name(0),
            state: State::Stable,
            tx: Tx([1; 16]),
            holders: vec![name(0)],
            kind: "file".parse().expect("a type"),
            schema: 1,
            level: Level(1),
        };
        let server = |number: usize| Server {
            row: (number == 0).then(|| Row {
                epoch: Epoch::FIRST,
                revision: 1,
                content: vec![0],
                kind: Kind::Owned(Keeping::default()),
            }),
            pledges: [number as u64 + 1; SERVERS],
            up: true,
            life: 0,
            machine: None,
            permits: Permits::default(),
            ask_at: start,
            restart_at: start,
            writes_percent: 1,
            cut: [false; SERVERS + 1],
        };
        let mut world = World {
            random: StdRng::seed_from_u64(seed),
            now: start,
            register,
            lost: BTreeSet::new(),
            closed: false,
            servers: (0..SERVERS).map(server).collect(),
            events: BTreeMap::new(),
            number: 0,
            seen: vec![0],
            writes: 0,
            waiting: [None; SERVERS],
            trouble: true,
            whole_again: start,
            facts: Facts::default(),
            trace: VecDeque::new(),
        };
        world.begin(0, true);
        world
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        let line = format!("{:?} {}", self.now, what());
        self.trace.push_back(line);
    }

    fn broken(&self, what: &str) -> ! {
        for line in &self.trace {
            eprintln!("{line}");
        }
        panic!("{what}: register {:?}", self.register);
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.trouble && self.random.random_range(0..1000) < percent * 10
    }

    fn later(&mut self, ms: u64, event: Event) {
        self.number += 1;
        self.events
            .insert((self.now + Duration::from_millis(ms), self.number), event);
    }

    /// The machine of a server's row, as after a restart.
    fn begin(&mut self, server: usize, fresh: bool) {
        let seed = self.random.random();
        let now = self.now;
        let me = name(server);
        let at = &mut self.servers[server];
        at.machine = at.row.as_ref().map(|row| match &row.kind {
            Kind::Owned(noted) => {
                let start = Start {
                    epoch: row.epoch,
                    revision: row.revision,
                    noted: noted.clone(),
                    confirmed: fresh,
                    under: Vec::new(),
                };
                Machine::Owner(Owner::new(&me, start, now, seed))
            }
            Kind::Held { tx, refusal } => {
                let copy = Copy {
                    epoch: row.epoch,
                    revision: row.revision,
                    tx: *tx,
                };
                Machine::Holder(Holder::new(&me, Some(copy), *refusal, now, seed))
            }
        });
    }

    fn crash(&mut self, server: usize) {
        let pause = self.random.random_range(0..3000);
        let now = self.now;
        let at = &mut self.servers[server];
        at.up = false;
        at.life += 1;
        at.machine = None;
        at.permits = Permits::default();
        at.restart_at = now + Duration::from_millis(pause);
        self.facts.crashes += 1;
        self.waiting[server] = None;
        self.tell(|| format!("s{} crashes", server + 1));
        // The loss of a disk costs nothing that another in-sync holder has; of two, everything.
        let others = self.register.holders.iter().filter(|holder| **holder != name(server));
        let whole = others.map(|holder| &self.servers[self.number_of(holder)]).all(|other| {
            let row = other.row.as_ref();
            row.is_some_and(|row| row.content.starts_with(&self.seen))
        });
        if whole && self.register.holders.len() > 1 && self.chance(3) && now >= self.whole_again {
            self.facts.disks += 1;
            self.tell(|| format!("s{} loses its disk", server + 1));
            self.whole_again = now + Duration::from_secs(20);
            self.servers[server].row = None;
            self.servers[server].pledges = self.random.random();
            self.servers[server].restart_at = now + Duration::from_secs(5);
            if self.register.owner == name(server) {
                self.lost.insert(name(server));
            }
        }
    }

    fn cut(&self, a: usize, b: usize) -> bool {
        let one = |from: usize, to: usize| from < SERVERS && self.servers[from].cut[to];
        one(a, b) || one(b, a)
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.cut(from, to) || self.chance(5) {
            return;
        }
        let slow = self.chance(5);
        let delay = self.random.random_range(1..if slow { 6000 } else { 30 });
        if self.chance(5) {
            let again = delay + self.random.random_range(1..4000);
            let message = message.clone();
            self.later(again, Event::Message { from, to, message });
        }
        self.later(delay, Event::Message { from, to, message });
    }

    /// Somebody saw this, or was told that it is safe.
    fn show(&mut self, who: usize, content: &[u32], how: &str) {
        // What was confirmed a moment ago may have been shown already, with what came after it.
        if how == "confirms" && self.seen.starts_with(content) {
            return;
        }
        if !content.starts_with(&self.seen) {
            let seen = self.seen.len();
            self.broken(&format!(
                "s{} {how} {} writes, {seen} were seen",
                who + 1,
                content.len()
            ));
        }
        self.seen = content.to_vec();
    }

    fn number_of(&self, server: &ServerName) -> usize {
        number_of(server)
    }

    /// Does what machines ask for.
    fn run(&mut self, server: usize) {
        loop {
            let life = self.servers[server].life;
            match &mut self.servers[server].machine {
                Some(Machine::Owner(owner)) => {
                    let Some(action) = owner.poll() else { return };
                    self.owner_does(server, life, action);
                }
                Some(Machine::Holder(holder)) => {
                    let Some(action) = holder.poll() else { return };
                    self.holder_does(server, life, action);
                }
                None => return,
            }
        }
    }

    fn ask(&mut self, server: usize, life: u64, question: Question) {
        if !self.cut(server, SERVERS) {
            let delay = self.random.random_range(1..20);
            self.later(delay, Event::Asked { server, life, question });
        }
    }

    fn change(&mut self, server: usize, life: u64, old: Register, new: Register) {
        self.tell(|| {
            format!(
                "s{} sends {:?} e{} {:?}",
                server + 1,
                new.holders,
                new.epoch.0,
                new.owner
            )
        });
        if self.cut(server, SERVERS) {
            return;
        }
        let slow = self.chance(10);
        let delay = self.random.random_range(1..if slow { 20_000 } else { 20 });
        let again = self.chance(5);
        self.later(
            delay,
            Event::Update {
                server,
                life,
                old,
                new,
                again,
            },
        );
    }

    fn owner_does(&mut self, server: usize, life: u64, action: owner::Action) {
        match action {
            owner::Action::Replicate { to, revision, tx } => {
                let Some(row) = self.servers[server].row.clone() else {
                    return;
                };
                // What is here now is sent.
                assert!(row.revision >= revision);
                let to = self.number_of(&to);
                let message = Message::Replicate {
                    epoch: row.epoch,
                    revision: row.revision,
                    content: row.content,
                    tx,
                };
                self.send(server, to, message);
            }
            owner::Action::Grant {
                to,
                number,
                revision,
                good_for,
            } => {
                let to = self.number_of(&to);
                self.send(
                    server,
                    to,
                    Message::Grant {
                        number,
                        revision,
                        good_for,
                    },
                );
            }
            owner::Action::Ask(question) => self.ask(server, life, question),
            owner::Action::Change { old, new } => self.change(server, life, *old, *new),
            owner::Action::Note(noted) => {
                let delay = self.random.random_range(1..20);
                self.later(delay, Event::Noted { server, life, noted });
            }
            owner::Action::Confirmed(revision) => {
                let row = self.servers[server].row.as_ref().expect("an owner has a row");
                let row_epoch = row.epoch;
                // Revision 1 has one write.
                let content = row.content[..usize::try_from(revision).expect("few writes")].to_vec();
                self.tell(|| format!("s{} confirms {revision}", server + 1));
                self.show(server, &content, "confirms");
                if self.register.epoch != row_epoch {
                    self.broken(&format!("s{} acknowledges as an owner that was", server + 1));
                }
                if self.waiting[server].take_if(|at| *at == revision).is_some() {
                    self.facts.acknowledged += 1;
                }
            }
            owner::Action::Lost(register) => {
                self.tell(|| {
                    format!(
                        "s{} is owner no more: e{} {:?}",
                        server + 1,
                        register.epoch.0,
                        register.owner
                    )
                });
                self.servers[server].row = None;
                self.servers[server].machine = None;
                self.waiting[server] = None;
            }
        }
    }

    fn holder_does(&mut self, server: usize, life: u64, action: holder::Action) {
        match action {
            holder::Action::Ack { to, copy } => {
                let to = self.number_of(&to);
                let pledge = self.servers[server].pledges[to];
                self.tell(|| format!("s{} has e{} {}", server + 1, copy.epoch.0, copy.revision));
                self.send(server, to, Message::Ack { copy, pledge });
            }
            holder::Action::AskGrant { to, number } => {
                let to = self.number_of(&to);
                self.send(server, to, Message::AskGrant { number });
            }
            holder::Action::Ask(question) => self.ask(server, life, question),
            holder::Action::Change { old, new } => self.change(server, life, *old, *new),
            holder::Action::Refuse(refusal) => {
                let delay = self.random.random_range(1..20);
                self.later(delay, Event::Refused { server, life, refusal });
            }
            holder::Action::Drop => {
                self.tell(|| format!("s{} drops its copy", server + 1));
                self.servers[server].row = None;
                self.servers[server].machine = None;
            }
            holder::Action::Own(register) => {
                self.tell(|| format!("s{} owns e{} {:?}", server + 1, register.epoch.0, register.holders));
                let me = name(server);
                let others = register
                    .holders
                    .iter()
                    .filter(|holder| **holder != me)
                    .cloned()
                    .collect();
                let row = self.servers[server]
                    .row
                    .as_mut()
                    .expect("a holder that takes over has a copy");
                row.epoch = register.epoch;
                row.kind = Kind::Owned(Keeping { others, change: None });
                self.facts.promoted += 1;
                self.begin(server, false);
            }
        }
    }

    fn happens(&mut self, event: Event) {
        let now = self.now;
        let runs =
            |world: &World, server: usize, life: u64| world.servers[server].up && world.servers[server].life == life;
        match event {
            Event::Message { from, to, message } => {
                if self.servers[to].up && !self.cut(from, to) {
                    self.message(from, to, message);
                    self.run(to);
                }
            }
            Event::Written {
                server,
                life,
                offer,
                content,
            } if runs(self, server, life) => {
                if let Some(Machine::Holder(holder)) = &mut self.servers[server].machine
                    && let Some(tx) = holder.notes(&offer)
                {
                    let copy = Copy {
                        epoch: offer.epoch,
                        revision: offer.revision,
                        tx,
                    };
                    holder.written(&offer.from, copy);
                    let refusal = match &self.servers[server].row {
                        Some(Row {
                            kind: Kind::Held { refusal, .. },
                            ..
                        }) => *refusal,
                        Some(_) | None => None,
                    };
                    self.servers[server].row = Some(Row {
                        epoch: offer.epoch,
                        revision: offer.revision,
                        content,
                        kind: Kind::Held { tx, refusal },
                    });
                }
                self.run(server);
            }
            Event::Noted { server, life, noted } if runs(self, server, life) => {
                let at = &mut self.servers[server];
                if let (Some(row), Some(Machine::Owner(owner))) = (&mut at.row, &mut at.machine) {
                    row.kind = Kind::Owned(noted);
                    owner.durable(now, &at.permits);
                }
                self.run(server);
            }
            Event::Refused { server, life, refusal } if runs(self, server, life) => {
                let at = &mut self.servers[server];
                if let (Some(row), Some(Machine::Holder(holder))) = (&mut at.row, &mut at.machine)
                    && let Kind::Held { refusal: kept, .. } = &mut row.kind
                {
                    if refusal.is_some()
                        && let Some(owner) = holder.owner()
                    {
                        at.pledges[number_of(owner)] += 1;
                    }
                    *kept = refusal;
                    holder.durable(now, refusal);
                }
                self.tell(|| format!("s{} refuses {refusal:?}", server + 1));
                self.run(server);
            }
            Event::Asked { server, life, question } => {
                let register = self.register.clone();
                let delay = if self.chance(5) {
                    3000
                } else {
                    self.random.random_range(1..20)
                };
                if !self.chance(5) {
                    self.later(
                        delay,
                        Event::Answered {
                            server,
                            life,
                            question,
                            register,
                        },
                    );
                }
            }
            Event::Answered {
                server,
                life,
                question,
                register,
            } if runs(self, server, life) && !self.cut(server, SERVERS) => {
                let lost = self.lost.clone();
                let at = &mut self.servers[server];
                match &mut at.machine {
                    Some(Machine::Owner(owner)) => owner.register(now, question, Some(register), &at.permits),
                    Some(Machine::Holder(holder)) => {
                        holder.register(now, question, Some(register), |server| lost.contains(server));
                    }
                    None => {}
                }
                self.run(server);
            }
            Event::Update {
                server,
                life,
                old,
                new,
                again,
            } => {
                let by = name(server);
                // Who is marked lost changes nothing any more: else it could keep the one that takes over from doing so for ever.
                let may = new.owner == old.owner && old.owner == by && !self.lost.contains(&by)
                    || new.owner == by
                        && old.owner != by
                        && old.holders.contains(&by)
                        && self.lost.contains(&old.owner);
                let done = self.register == old && may && !(self.closed && new.holders.len() > old.holders.len());
                if done {
                    self.facts.added += u64::from(new.holders.len() > old.holders.len());
                    self.facts.dropped += u64::from(new.holders.len() < old.holders.len() && new.epoch == old.epoch);
                    self.register = new.clone();
                    self.tell(|| format!("register: e{} {:?} {:?}", new.epoch.0, new.owner, new.holders));
                }
                if again {
                    let delay = self.random.random_range(1..5000);
                    self.later(
                        delay,
                        Event::Update {
                            server,
                            life,
                            old,
                            new,
                            again: false,
                        },
                    );
                }
                let outcome = match done {
                    true => ChangeOutcome::Done,
                    false => ChangeOutcome::Refused,
                };
                if !self.chance(10) {
                    let delay = self.random.random_range(1..20);
                    self.later(delay, Event::Outcome { server, life, outcome });
                }
            }
            Event::Outcome { server, life, outcome } if runs(self, server, life) && !self.cut(server, SERVERS) => {
                match &mut self.servers[server].machine {
                    Some(Machine::Owner(owner)) => owner.changed(now, outcome),
                    Some(Machine::Holder(holder)) => holder.changed(outcome),
                    None => {}
                }
                self.run(server);
            }
            // Of a process that has ended.
            Event::Written { .. }
            | Event::Noted { .. }
            | Event::Refused { .. }
            | Event::Answered { .. }
            | Event::Outcome { .. } => {}
        }
    }

    fn message(&mut self, from: usize, to: usize, message: Message) {
        let (now, sender) = (self.now, name(from));
        match message {
            Message::Replicate {
                epoch,
                revision,
                content,
                tx,
            } => {
                let offer = Offer {
                    from: sender,
                    epoch,
                    revision,
                    tx,
                };
                if self.servers[to].machine.is_none() && self.servers[to].row.is_none() {
                    let seed = self.random.random();
                    let holder = Holder::new(&name(to), None, None, now, seed);
                    self.servers[to].machine = Some(Machine::Holder(holder));
                }
                let life = self.servers[to].life;
                let above = self.servers[to].row.as_ref().is_some_and(|row| row.epoch > epoch);
                let taken = match &mut self.servers[to].machine {
                    Some(Machine::Holder(holder)) => holder.offered(&offer),
                    Some(Machine::Owner(_)) if above => Taken::No,
                    Some(Machine::Owner(_)) | None => Taken::Later,
                };
                match taken {
                    Taken::Yes => {
                        let delay = self.random.random_range(1..20);
                        let written = Event::Written {
                            server: to,
                            life,
                            offer,
                            content,
                        };
                        self.later(delay, written);
                    }
                    Taken::No => self.send(to, from, Message::No { epoch }),
                    Taken::Known | Taken::Later => {}
                }
            }
            Message::No { epoch } => {
                if let Some(Machine::Owner(owner)) = &mut self.servers[to].machine {
                    owner.refused(&sender, epoch);
                }
            }
            Message::Ack { copy, pledge } => {
                let at = &mut self.servers[to];
                if let Some(Machine::Owner(owner)) = &mut at.machine {
                    owner.acked(now, &sender, copy, pledge, &at.permits);
                }
            }
            Message::AskGrant { number } => {
                let at = &mut self.servers[to];
                if let Some(Machine::Owner(owner)) = &mut at.machine {
                    owner.asked_grant(now, &sender, number, &at.permits);
                }
            }
            Message::Grant {
                number,
                revision,
                good_for,
            } => {
                if let Some(Machine::Holder(holder)) = &mut self.servers[to].machine {
                    holder.grants(&sender, number, revision, good_for);
                }
            }
            Message::AskPermit { number } => {
                let pledge = self.servers[to].pledges[from];
                self.send(to, from, Message::Permit { number, pledge });
            }
            Message::Permit { number, pledge } => {
                self.servers[to].permits.answered(&sender, number, pledge);
            }
        }
    }

    /// Whatever people, clients and chance do in one step of time.
    fn step(&mut self) {
        for server in 0..SERVERS {
            if !self.servers[server].up {
                if self.now >= self.servers[server].restart_at {
                    self.servers[server].up = true;
                    self.begin(server, false);
                    self.tell(|| format!("s{} restarts", server + 1));
                }
                continue;
            }
            if self.random.random_range(0..10_000) < 8 && self.trouble {
                self.crash(server);
                continue;
            }
            if self.random.random_range(0..10_000) < 10 && self.trouble {
                let other = self.random.random_range(0..=SERVERS);
                let cut = &mut self.servers[server].cut[other];
                *cut = !*cut;
                let cut = *cut;
                self.tell(|| format!("s{} cut off from {}: {cut}", server + 1, other + 1));
            }
            if self.random.random_range(0..300) == 0 {
                self.servers[server].writes_percent = [0, 0, 1, 5][self.random.random_range(0..4)];
            }
            self.keeps(server);
            self.client(server);
            self.run(server);
        }
        if self.random.random_range(0..10_000) < 10 && self.trouble {
            let owner = self.register.owner.clone();
            // Nobody takes back that a server without its disk is lost.
            let is_whole = self.servers[self.number_of(&owner)].row.is_some();
            if !(is_whole && self.lost.remove(&owner)) {
                self.tell(|| format!("{owner} is marked lost"));
                self.lost.insert(owner);
            }
        }
        if self.random.random_range(0..1000) < 2 {
            self.closed = self.trouble && !self.closed;
        }
        self.now = self.now + TICK;
        while let Some(((at, _), _)) = self.events.first_key_value() {
            if *at > self.now {
                break;
            }
            let (_, event) = self.events.pop_first().expect("there is one");
            self.happens(event);
        }
    }

    fn keeps(&mut self, server: usize) {
        let now = self.now;
        if now >= self.servers[server].ask_at {
            self.servers[server].ask_at = now + ASK_EVERY;
            let others: Vec<ServerName> = match &self.servers[server].machine {
                Some(Machine::Owner(owner)) => owner.others().cloned().collect(),
                Some(Machine::Holder(_)) | None => Vec::new(),
            };
            for other in others {
                let number = self.servers[server].permits.ask(&other, now);
                let to = self.number_of(&other);
                self.send(server, to, Message::AskPermit { number });
            }
        }
        let lost = !self.servers[server].cut[SERVERS] && self.lost.contains(&self.register.owner);
        let wish = self.random.random_range(0..1000);
        let other = name(self.random.random_range(0..SERVERS));
        let silent = {
            let at = &self.servers[server];
            let heard = at.permits.heard(&other);
            heard.is_none_or(|heard| now - heard > GOOD_FOR)
        };
        let at = &mut self.servers[server];
        match &mut at.machine {
            Some(Machine::Owner(owner)) => {
                owner.look(now, &at.permits);
                if wish < 5 {
                    owner.wants(&other, true);
                } else if wish == 6 || silent && wish < 50 {
                    // Whoever is silent is not waited for.
                    owner.gives_up(&other);
                    owner.wants(&other, false);
                }
            }
            Some(Machine::Holder(holder)) => {
                if lost {
                    holder.owner_is_lost();
                }
                holder.look(now);
            }
            None => {}
        }
    }

    fn client(&mut self, server: usize) {
        let now = self.now;
        let (writes, reads) = (
            self.random.random_range(0..100) < self.servers[server].writes_percent,
            self.random.random_range(0..100) < 20,
        );
        let at = &mut self.servers[server];
        let Some(row) = &mut at.row else { return };
        match &mut at.machine {
            Some(Machine::Owner(owner)) => {
                if reads && owner.shows(now, &at.permits).is_some() {
                    let content = row.content.clone();
                    self.show(server, &content, "shows");
                } else if writes && self.waiting[server].is_none() && owner.may_write(now, &at.permits) {
                    self.writes += 1;
                    row.revision += 1;
                    row.content.push(self.writes);
                    self.waiting[server] = Some(row.revision);
                    owner.wrote(now, row.revision, &at.permits);
                }
            }
            Some(Machine::Holder(holder)) => {
                let shown = if reads { holder.shows(now) } else { Shows::Wait };
                if shown == Shows::This {
                    let content = row.content.clone();
                    self.facts.shown_by_holders += 1;
                    self.show(server, &content, "shows as a holder");
                }
            }
            None => {}
        }
    }

    /// Whether the owner that the register names shows the object.
    fn serves(&self) -> bool {
        let owner = &self.servers[self.number_of(&self.register.owner)];
        match &owner.machine {
            Some(Machine::Owner(machine)) => machine.shows(self.now, &owner.permits).is_some(),
            Some(Machine::Holder(_)) | None => false,
        }
    }

    fn walk(mut self) -> Facts {
        let end = self.now + TROUBLE;
        while self.now < end {
            self.step();
        }
        self.trouble = false;
        for server in &mut self.servers {
            server.cut = [false; SERVERS + 1];
            server.restart_at = self.now;
        }
        self.tell(|| "all is well again".to_owned());
        // What is lost for good does not come back, and what still runs finds itself refused. But where no other holder has a copy,
        // a person takes the mark back.
        let owner = self.register.owner.clone();
        let takes_over = self
            .register
            .holders
            .iter()
            .filter(|holder| **holder != owner)
            .any(|holder| {
                let row = self.servers[self.number_of(holder)].row.as_ref();
                row.is_some_and(|row| row.epoch == self.register.epoch)
            });
        if !takes_over {
            self.lost.clear();
        }
        let end = self.now + QUIET;
        while self.now < end {
            self.step();
        }
        // A write may be under way just now.
        let end = self.now + Duration::from_secs(10);
        while self.now < end && !self.serves() {
            self.step();
        }
        let owner = self.number_of(&self.register.owner.clone());
        if !self.serves() {
            let state = format!("{:#?}", self.servers[owner]);
            self.tell(|| state);
            self.broken("the owner does not serve");
        }
        for holder in self.register.holders.clone() {
            let row = self.servers[self.number_of(&holder)].row.clone();
            if !row.is_some_and(|row| row.content.starts_with(&self.seen)) {
                self.broken(&format!("{holder} lacks what was shown"));
            }
        }
        self.facts
    }
}

fn walks(seeds: std::ops::Range<u64>) -> Facts {
    let mut all = Facts::default();
    for seed in seeds {
        let facts = std::panic::catch_unwind(|| World::new(seed).walk());
        let Ok(facts) = facts else { panic!("seed {seed}") };
        all.acknowledged += facts.acknowledged;
        all.shown_by_holders += facts.shown_by_holders;
        all.added += facts.added;
        all.dropped += facts.dropped;
        all.promoted += facts.promoted;
        all.crashes += facts.crashes;
        all.disks += facts.disks;
    }
    all
}

#[test]
fn no_walk_shows_less_than_was_seen_and_every_one_ends_with_an_owner_that_serves() {
    let many = std::env::var("HYPERNET_WALKS").map_or(150, |text| text.parse().expect("HYPERNET_WALKS is a number"));
    let facts = walks(0..many);
    eprintln!("{facts:?}");
    assert!(
        facts.acknowledged > 10 * many && facts.shown_by_holders > 10 * many,
        "{facts:?}"
    );
    assert!(
        facts.added > many && facts.dropped > many / 2 && facts.promoted > many / 10,
        "{facts:?}"
    );
}
