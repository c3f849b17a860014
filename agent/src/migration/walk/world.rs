//! The world of the walks: agents with their disks, the librarian, the network, the clock.

use std::time::Duration;

use zones::{Address, Epoch, Level, Register, ServerName, State as RegisterState, Tx};

use super::super::destination::{self, Destination, DestinationJournal};
use super::super::source::{self, Offer, Source, SourceJournal};
use super::super::wire::{Reply, Request};
use super::super::{ChangeOutcome, CopyFacts, Digests, Question, Settings};
use super::table;
use crate::clock::BootInstant;
use crate::objects::ReadGate;

/// The writes that a copy holds, in order.
pub(super) type Log = Vec<u8>;

/// What can happen. Numbers are positions in the lists of the world.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The owner begins a move.
    Begin,
    /// A client writes at this agent.
    Write(usize),
    /// The owner's move is cancelled.
    Cancel(usize),
    /// A message arrives.
    Deliver(usize),
    /// A copy arrives, and what is written of it is not what was sent.
    DeliverDamaged(usize),
    /// A message arrives, and will again.
    Repeat(usize),
    /// A message is lost.
    Lose(usize),
    /// The disk makes this agent's first note durable.
    Note(usize),
    /// The disk fails to.
    NoteFails(usize),
    /// An update reaches the librarian.
    Land(usize),
    /// The sender hears the end of an update.
    Outcome(usize, ChangeOutcome),
    /// The librarian answers a question; the answer is under way.
    Answer(usize),
    /// The answer arrives.
    Answered(usize),
    /// The answer, or the question, is lost.
    NoAnswer(usize),
    /// A closing gate is closed.
    Closed(usize),
    /// The librarian has not answered for long when the gate is closed.
    ClosedUnheard(usize),
    /// The gate is closed, and the form that the destination is to get cannot be made: the copy does not open.
    ClosedUnreadable(usize),
    /// The same, for another reason.
    ClosedUnmade(usize),
    /// The connection breaks.
    Break,
    /// This agent crashes and starts again.
    Crash(usize),
    /// This agent crashes when its first note has just become durable.
    NoteAndCrash(usize),
    /// Time passes.
    Tick(Duration),
}

#[derive(Clone, Debug)]
pub(super) enum Journal {
    Active { wait: bool },
    Moving { tx: Tx },
    Sealed { tx: Tx },
    Moved { owner: ServerName, epoch: Epoch },
    Reserved { tx: Tx },
    Staged { tx: Tx },
    Prepared { tx: Tx },
    CommitSent { tx: Tx, commit_tx: Tx },
}

/// One row of an index.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) epoch: Epoch,
    pub(super) log: Log,
    pub(super) journal: Journal,
}

#[derive(Clone, Debug)]
enum Note {
    Source(source::Step),
    Destination(destination::Step),
}

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) rows: Vec<Row>,
    next_seq: u64,
    // From here on lost in a crash.
    pub(super) source: Option<(Source, u64)>,
    pub(super) destination: Option<(Destination, Option<u64>)>,
    staged: Option<Log>,
    notes: Vec<Note>,
    closing: Option<u32>,
    pub(super) writes_held: bool,
    pub(super) reads: ReadGate,
    /// No machine's answers to an agent's earlier life arrive.
    life: u32,
}

#[derive(Clone, Debug)]
enum Body {
    Request(Request),
    Copy { tx: Tx, log: Log, unchanged: bool },
    Reply(Reply),
}

#[derive(Clone, Debug)]
struct Mail {
    to: usize,
    body: Body,
}

#[derive(Clone, Debug)]
struct Update {
    by: usize,
    life: u32,
    of_source: bool,
    old: Register,
    new: Register,
    /// The sender still waits for its end.
    waited_for: bool,
    landed: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    by: usize,
    life: u32,
    of_source: bool,
    question: Question,
    asked_at: BootInstant,
    answer: Option<Register>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) agents: [Agent; 2],
    pub(super) register: Register,
    pub(super) history: Vec<Register>,
    mail: Vec<Mail>,
    updates: Vec<Update>,
    asked: Vec<Asked>,
    pub(super) now: BootInstant,
    /// What was acknowledged or shown so far.
    pub(super) shown: Log,
    pub(super) broken: Option<String>,
    writes: u8,
    moves: u8,
    seeds: u64,
    journaled: bool,
    crashes: u8,
    story: Vec<String>,
    turn: usize,
}

pub(super) fn name(agent: usize) -> ServerName {
    ["s1", "s2"][agent].parse().unwrap()
}

fn address() -> Address {
    "1.2".parse().unwrap()
}

pub(super) fn facts(log: &Log) -> CopyFacts {
    let digest = *blake3::hash(log).as_bytes();
    CopyFacts {
        revision: log.len() as u64,
        digests: Digests {
            properties: Some(digest),
            body: None,
        },
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
    }
}

fn offer(log: &Log) -> Offer {
    Offer {
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
        revision: log.len() as u64,
        octets: 100,
    }
}

fn settings() -> Settings {
    Settings {
        reservation: Duration::from_secs(5),
        ..Settings::default()
    }
}

const WRITES_MAX: u8 = 5;
const MOVES_MAX: u8 = 3;
const CRASHES_MAX: u8 = 4;

impl World {
    pub(super) fn new(journaled: bool, seed: u64) -> World {
        let register = Register {
            address: address(),
            epoch: Epoch::FIRST,
            owner: name(0),
            state: RegisterState::Stable,
            tx: Tx([0; 16]),
            holders: vec![name(0)],
            kind: "photo".parse().unwrap(),
            schema: 1,
            level: Level(1),
        };
        let agent = || Agent {
            rows: Vec::new(),
            next_seq: 1,
            source: None,
            destination: None,
            staged: None,
            notes: Vec::new(),
            closing: None,
            writes_held: false,
            reads: ReadGate::Open,
            life: 0,
        };
        let mut agents = [agent(), agent()];
        agents[0].rows.push(Row {
            seq: 0,
            epoch: Epoch::FIRST,
            log: Vec::new(),
            journal: Journal::Active { wait: false },
        });
        World {
            agents,
            history: vec![register.clone()],
            register,
            mail: Vec::new(),
            updates: Vec::new(),
            asked: Vec::new(),
            now: BootInstant::since_boot(Duration::from_secs(1000)),
            shown: Vec::new(),
            broken: None,
            writes: 0,
            moves: 0,
            seeds: seed << 16,
            journaled,
            crashes: 0,
            story: Vec::new(),
            turn: 0,
        }
    }

    fn seed(&mut self) -> [u8; 32] {
        self.seeds += 1;
        *blake3::hash(&self.seeds.to_be_bytes()).as_bytes()
    }

    pub(super) fn story(&self) -> String {
        format!("{}\nat the end: {self:#?}", self.story.join("\n"))
    }

    /// The row that this agent serves from.
    pub(super) fn owned(&self, agent: usize) -> Option<&Row> {
        self.agents[agent].rows.iter().find(|row| {
            matches!(
                row.journal,
                Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. }
            )
        })
    }

    pub(super) fn owner(&self) -> usize {
        usize::from(self.register.owner == name(1))
    }

    /// Everything that can happen now.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = self.faults();
        for (position, mail) in self.mail.iter().enumerate() {
            let _ = mail;
            events.push(Event::Deliver(position));
        }
        for agent in 0..2 {
            let state = &self.agents[agent];
            if !state.notes.is_empty() {
                events.push(Event::Note(agent));
            }
            if state.closing.is_some() {
                events.push(Event::Closed(agent));
            }
            if self.writes < WRITES_MAX && self.may_write(agent) {
                events.push(Event::Write(agent));
            }
            if state.source.is_some() {
                events.push(Event::Cancel(agent));
            }
        }
        for (position, update) in self.updates.iter().enumerate() {
            if !update.landed {
                events.push(Event::Land(position));
            }
            if update.waited_for {
                if update.landed {
                    events.push(Event::Outcome(position, ChangeOutcome::Done));
                } else if self.register != update.old {
                    events.push(Event::Outcome(position, ChangeOutcome::Refused));
                }
            }
        }
        for (position, asked) in self.asked.iter().enumerate() {
            events.push(match asked.answer {
                None => Event::Answer(position),
                Some(_) => Event::Answered(position),
            });
        }
        if self.may_begin().is_some() && self.moves < MOVES_MAX {
            events.push(Event::Begin);
        }
        for ms in [40, 200, 700, 1500, 2300] {
            events.push(Event::Tick(Duration::from_millis(ms)));
        }
        events
    }

    /// What goes wrong.
    pub(super) fn faults(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (position, mail) in self.mail.iter().enumerate() {
            events.push(Event::Lose(position));
            events.push(Event::Repeat(position));
            if let Body::Copy { .. } = mail.body {
                events.push(Event::DeliverDamaged(position));
            }
        }
        for agent in 0..2 {
            let state = &self.agents[agent];
            if !state.notes.is_empty() {
                events.push(Event::NoteFails(agent));
            }
            if state.closing.is_some() {
                events.push(Event::ClosedUnheard(agent));
                events.push(Event::ClosedUnreadable(agent));
                events.push(Event::ClosedUnmade(agent));
            }
            let busy = state.source.is_some() || state.destination.is_some();
            if busy && self.crashes < CRASHES_MAX {
                events.push(Event::Crash(agent));
                if !state.notes.is_empty() {
                    events.push(Event::NoteAndCrash(agent));
                }
            }
        }
        for (position, update) in self.updates.iter().enumerate() {
            if update.waited_for {
                // A resending may be refused although the first sending landed; no reply may come at all.
                events.push(Event::Outcome(position, ChangeOutcome::Unknown));
                if update.landed {
                    events.push(Event::Outcome(position, ChangeOutcome::Refused));
                }
            }
        }
        for position in 0..self.asked.len() {
            events.push(Event::NoAnswer(position));
        }
        events.push(Event::Break);
        events
    }

    /// What happens next if nothing goes wrong: the oldest of everything under way, else time.
    pub(super) fn next_fair(&mut self) -> Event {
        self.turn += 1;
        for shift in 0..6 {
            match (self.turn + shift) % 6 {
                0 if !self.mail.is_empty() => return Event::Deliver(0),
                1 | 4 => {
                    for agent in 0..2 {
                        if !self.agents[agent].notes.is_empty() {
                            return Event::Note(agent);
                        }
                        if self.agents[agent].closing.is_some() {
                            return Event::Closed(agent);
                        }
                    }
                }
                2 => {
                    // Updates that were given up are lost in a fair world, unless the sender waits.
                    if let Some(position) = self.updates.iter().position(|update| update.waited_for) {
                        let update = &self.updates[position];
                        return match (update.landed, self.register == update.old) {
                            (true, _) => Event::Outcome(position, ChangeOutcome::Done),
                            (false, true) => Event::Land(position),
                            (false, false) => Event::Outcome(position, ChangeOutcome::Refused),
                        };
                    }
                }
                3 if !self.asked.is_empty() => {
                    return match self.asked[0].answer {
                        None => Event::Answer(0),
                        Some(_) => Event::Answered(0),
                    };
                }
                0 | 3 | 5.. => {}
            }
        }
        let next = self
            .agents
            .iter()
            .flat_map(|agent| {
                let source = agent.source.as_ref().and_then(|(source, _)| source.poll_timeout());
                let destination = agent
                    .destination
                    .as_ref()
                    .and_then(|(machine, _)| machine.poll_timeout());
                [source, destination]
            })
            .flatten()
            .min();
        let pause = next.map_or(Duration::from_secs(1), |at| at.saturating_since(self.now));
        Event::Tick(pause.max(Duration::from_millis(1)))
    }

    pub(super) fn is_settled(&self) -> bool {
        let waited = self.updates.iter().any(|update| update.waited_for);
        let machines = self
            .agents
            .iter()
            .any(|agent| agent.source.is_some() || agent.destination.is_some() || !agent.notes.is_empty());
        !waited && !machines
    }

    fn may_write(&self, agent: usize) -> bool {
        let serves = matches!(
            self.owned(agent).map(|row| &row.journal),
            Some(Journal::Active { .. } | Journal::Moving { .. })
        );
        serves && !self.agents[agent].writes_held
    }

    fn may_begin(&self) -> Option<usize> {
        (0..2).find(|agent| {
            let state = &self.agents[*agent];
            let active = matches!(
                self.owned(*agent).map(|row| &row.journal),
                Some(Journal::Active { wait: false })
            );
            active && state.source.is_none() && state.destination.is_none() && !state.writes_held
        })
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.story.push(format!("{:?} {event:?}", self.now));
        match event {
            Event::Begin => self.begin(),
            Event::Write(agent) => self.write(agent),
            Event::Cancel(agent) => self.feed_source(agent, source::Input::Cancel),
            Event::Deliver(position) => {
                let mail = self.mail.remove(position);
                self.deliver(mail);
            }
            Event::DeliverDamaged(position) => {
                let mut mail = self.mail.remove(position);
                if let Body::Copy { log, .. } = &mut mail.body {
                    // As many writes, and others.
                    log.iter_mut().for_each(|write| *write += 100);
                }
                self.deliver(mail);
            }
            Event::Repeat(position) => {
                let mail = self.mail[position].clone();
                self.deliver(mail);
            }
            Event::Lose(position) => {
                let lost = self.mail.remove(position);
                // A copy travels on a stream: its loss is seen.
                if let Body::Copy { .. } = lost.body {
                    self.feed_source(1 - lost.to, source::Input::ShipFailed);
                    self.feed_destination(lost.to, destination::Input::CopyFailed);
                }
            }
            Event::Note(agent) => {
                let was_source = self.note(agent);
                if was_source {
                    self.feed_source(agent, source::Input::Durable);
                } else {
                    self.feed_destination(agent, destination::Input::Durable);
                }
            }
            Event::NoteFails(agent) => match self.agents[agent].notes.remove(0) {
                Note::Source(_) => self.feed_source(agent, source::Input::NotDurable),
                Note::Destination(_) => self.feed_destination(agent, destination::Input::NotDurable),
            },
            Event::Land(position) => {
                let update = &mut self.updates[position];
                if self.register == update.old {
                    update.landed = true;
                    self.register = update.new.clone();
                    self.history.push(self.register.clone());
                }
            }
            Event::Outcome(position, outcome) => self.outcome(position, outcome),
            Event::Answer(position) => self.asked[position].answer = Some(self.register.clone()),
            Event::Answered(position) => {
                let asked = self.asked.remove(position);
                if asked.life != self.agents[asked.by].life {
                    return;
                }
                if asked.of_source {
                    let input = source::Input::Register {
                        question: asked.question,
                        asked_at: asked.asked_at,
                        register: asked.answer,
                    };
                    self.feed_source(asked.by, input);
                } else {
                    let input = destination::Input::Register {
                        question: asked.question,
                        register: asked.answer,
                    };
                    self.feed_destination(asked.by, input);
                }
            }
            Event::NoAnswer(position) => {
                let asked = self.asked.remove(position);
                if asked.life != self.agents[asked.by].life {
                    return;
                }
                let question = asked.question;
                if asked.of_source {
                    self.feed_source(asked.by, source::Input::NoAnswer { question });
                } else {
                    self.feed_destination(asked.by, destination::Input::NoAnswer { question });
                }
            }
            Event::Closed(agent) => self.closed(agent, Some(self.now)),
            Event::ClosedUnheard(agent) => self.closed(agent, None),
            Event::ClosedUnreadable(agent) => {
                self.agents[agent].closing = None;
                self.feed_source(agent, source::Input::Unreadable);
            }
            Event::ClosedUnmade(agent) => {
                self.agents[agent].closing = None;
                self.feed_source(agent, source::Input::ShipFailed);
            }
            Event::Break => {
                self.mail.clear();
                for agent in 0..2 {
                    self.feed_source(agent, source::Input::PeerLost);
                    self.feed_destination(agent, destination::Input::CopyFailed);
                }
            }
            Event::Crash(agent) => self.crash(agent),
            Event::NoteAndCrash(agent) => {
                self.note(agent);
                self.crash(agent);
            }
            Event::Tick(pause) => {
                self.now = self.now + pause;
                for agent in 0..2 {
                    let now = self.now;
                    if let Some((machine, _)) = &mut self.agents[agent].source {
                        table::source_time(machine, now);
                    }
                    self.run_source(agent);
                    if let Some((machine, _)) = &mut self.agents[agent].destination {
                        table::destination_time(machine, now);
                    }
                    self.run_destination(agent);
                }
            }
        }
        self.show();
    }

    /// A client reads at both agents, whatever happens.
    fn show(&mut self) {
        for agent in 0..2 {
            let passes = match self.agents[agent].reads {
                ReadGate::Open => true,
                ReadGate::Until(end) => self.now < end,
                ReadGate::Held => false,
            };
            let Some(row) = self.owned(agent).filter(|_| passes) else {
                continue;
            };
            let log = row.log.clone();
            if log.starts_with(&self.shown) {
                self.shown = log;
            } else {
                self.broken = Some(format!("I2: agent {agent} shows {log:?} after {:?}", self.shown));
            }
        }
    }

    fn write(&mut self, agent: usize) {
        self.writes += 1;
        let write = self.writes;
        let Some(position) = self.position_of_owned(agent) else {
            return;
        };
        let row = &mut self.agents[agent].rows[position];
        row.log.push(write);
        let (log, epoch) = (row.log.clone(), row.epoch);
        let owns = self.register.owner == name(agent) && self.register.epoch == epoch;
        if !owns {
            self.broken = Some(format!(
                "I1: agent {agent} acknowledges a write that is not its to take"
            ));
        } else if !log.starts_with(&self.shown) {
            self.broken = Some(format!("I2: agent {agent} acknowledges {log:?} after {:?}", self.shown));
        } else {
            self.shown = log;
        }
    }

    fn position_of_owned(&self, agent: usize) -> Option<usize> {
        let seq = self.owned(agent)?.seq;
        self.agents[agent].rows.iter().position(|row| row.seq == seq)
    }

    fn begin(&mut self) {
        let Some(agent) = self.may_begin() else { return };
        self.moves += 1;
        let seed = self.seed();
        let row = self.owned(agent).expect("may_begin looked");
        let (seq, begin) = (
            row.seq,
            source::Begin {
                me: name(agent),
                to: name(1 - agent),
                address: address(),
                epoch: row.epoch,
                offer: offer(&row.log),
                in_wait: false,
                seed,
            },
        );
        let machine = Source::begin(self.now, begin, settings()).unwrap();
        self.agents[agent].source = Some((machine, seq));
        self.run_source(agent);
    }

    fn closed(&mut self, agent: usize, librarian_answered: Option<BootInstant>) {
        let Some(number) = self.agents[agent].closing.take() else {
            return;
        };
        let Some(row) = self.owned(agent) else { return };
        let facts = facts(&row.log);
        let input = source::Input::Closed {
            number,
            revision: facts.revision,
            digests: facts.digests,
            difference_octets: 1,
            librarian_answered,
        };
        self.feed_source(agent, input);
    }

    fn outcome(&mut self, position: usize, outcome: ChangeOutcome) {
        let update = &mut self.updates[position];
        update.waited_for = false;
        let (by, life, of_source) = (update.by, update.life, update.of_source);
        if life != self.agents[by].life {
            return;
        }
        if of_source {
            self.feed_source(by, source::Input::Changed(outcome));
        } else {
            self.feed_destination(by, destination::Input::Changed(outcome));
        }
    }

    fn feed_source(&mut self, agent: usize, input: source::Input) {
        let now = self.now;
        if let Some((machine, _)) = &mut self.agents[agent].source
            && let Err(unexpected) = table::source(machine, now, input)
        {
            self.broken = Some(unexpected.to_string());
        }
        self.run_source(agent);
    }

    fn feed_destination(&mut self, agent: usize, input: destination::Input) {
        let now = self.now;
        if let Some((machine, _)) = &mut self.agents[agent].destination
            && let Err(unexpected) = table::destination(machine, now, input)
        {
            self.broken = Some(unexpected.to_string());
        }
        self.run_destination(agent);
    }

    fn ask(&mut self, by: usize, of_source: bool, question: Question) {
        self.asked.push(Asked {
            by,
            life: self.agents[by].life,
            of_source,
            question,
            asked_at: self.now,
            answer: None,
        });
    }

    fn send_update(&mut self, by: usize, of_source: bool, old: Register, new: Register) {
        self.updates.push(Update {
            by,
            life: self.agents[by].life,
            of_source,
            old,
            new,
            waited_for: true,
            landed: false,
        });
    }

    fn run_source(&mut self, agent: usize) {
        while let Some(action) = self.agents[agent]
            .source
            .as_mut()
            .and_then(|(machine, _)| machine.poll_action())
        {
            let tx = self.agents[agent].source.as_ref().expect("just polled").0.tx();
            match action {
                source::Action::Read { question } => self.ask(agent, true, question),
                source::Action::Change { old, new } => self.send_update(agent, true, *old, *new),
                source::Action::Send(request) => self.mail.push(Mail {
                    to: 1 - agent,
                    body: Body::Request(request),
                }),
                source::Action::Ship { staged } => {
                    let Some(row) = self.owned(agent) else { continue };
                    let log = row.log.clone();
                    let revision = log.len() as u64;
                    let unchanged = staged == Some(revision);
                    self.mail.push(Mail {
                        to: 1 - agent,
                        body: Body::Copy { tx, log, unchanged },
                    });
                    let now = self.now;
                    if let Some((machine, _)) = &mut self.agents[agent].source {
                        table::source(machine, now, source::Input::Shipped { revision })
                            .expect("a copy may end at any time");
                    }
                }
                source::Action::Close { number, .. } => {
                    self.agents[agent].writes_held = true;
                    self.agents[agent].closing = Some(number);
                    let now = self.now;
                    if let Some((machine, _)) = &mut self.agents[agent].source {
                        table::source(machine, now, source::Input::Holding { number }).expect("it asked for it");
                    }
                }
                source::Action::AskWriters => {
                    // Some objects are written all the time, some never.
                    let (now, since) = (self.now, self.seeds.is_multiple_of(2).then_some(BootInstant::ZERO));
                    if let Some((machine, _)) = &mut self.agents[agent].source {
                        table::source(machine, now, source::Input::Writers { since }).expect("it asked for it");
                    }
                }
                source::Action::Unseal => {
                    self.agents[agent].writes_held = false;
                    self.agents[agent].closing = None;
                    self.agents[agent].reads = ReadGate::Open;
                }
                source::Action::Reads(reads) => self.agents[agent].reads = reads,
                source::Action::Persist(step) => self.agents[agent].notes.push(Note::Source(step)),
                source::Action::LetGo { .. } => {
                    self.agents[agent].writes_held = false;
                    self.agents[agent].reads = ReadGate::Open;
                }
                source::Action::Ended(_) => self.agents[agent].source = None,
            }
        }
    }

    fn run_destination(&mut self, agent: usize) {
        while let Some(action) = self.agents[agent]
            .destination
            .as_mut()
            .and_then(|(machine, _)| machine.poll_action())
        {
            match action {
                destination::Action::Reserve { .. } => {
                    let now = self.now;
                    if let Some((machine, _)) = &mut self.agents[agent].destination {
                        table::destination(machine, now, destination::Input::Space(true)).expect("asked for");
                    }
                }
                destination::Action::Read { question } => self.ask(agent, false, question),
                destination::Action::Change { old, new } => self.send_update(agent, false, *old, *new),
                destination::Action::Send(reply) => self.mail.push(Mail {
                    to: 1 - agent,
                    body: Body::Reply(reply),
                }),
                destination::Action::Persist(step) => self.agents[agent].notes.push(Note::Destination(step)),
                destination::Action::Own { .. } => {
                    self.agents[agent].writes_held = true;
                    self.agents[agent].reads = ReadGate::Open;
                }
                destination::Action::OpenWrites => self.agents[agent].writes_held = false,
                destination::Action::Ended(_) => {
                    self.agents[agent].destination = None;
                    self.agents[agent].staged = None;
                }
            }
        }
    }

    fn deliver(&mut self, mail: Mail) {
        let agent = mail.to;
        match mail.body {
            Body::Request(request) => {
                if let Request::Reserve { tx, epoch, octets, .. } = &request {
                    let known = self.agents[agent].destination.as_ref().map(|(machine, _)| machine.tx());
                    match known {
                        Some(known) if known != *tx => {
                            self.feed_destination(agent, destination::Input::Superseded);
                        }
                        Some(_) => self.feed_destination(agent, destination::Input::Peer(request)),
                        // An owner takes no move of its own object.
                        None if self.owned(agent).is_some() => {}
                        None => {
                            let seed = self.seed();
                            let begin = destination::Begin {
                                me: name(agent),
                                from: name(1 - agent),
                                address: address(),
                                epoch: *epoch,
                                tx: *tx,
                                octets: *octets,
                                journaled_staging: self.journaled,
                                seed,
                            };
                            self.agents[agent].destination = Some((Destination::begin(begin, settings()), None));
                            self.run_destination(agent);
                        }
                    }
                    return;
                }
                let tx = match &request {
                    Request::Open { tx, .. } | Request::Ask { tx, .. } | Request::Seal { tx, .. } => Some(*tx),
                    Request::Reserve { .. }
                    | Request::Copy(_)
                    | Request::FenceAnswered { .. }
                    | Request::Abort { .. } => None,
                };
                let known = self.agents[agent].destination.as_ref().map(|(machine, _)| machine.tx());
                if let Some(tx) = tx.filter(|tx| known != Some(*tx)) {
                    // Nothing of this move is here.
                    let owned = self.owned(agent).map(|row| row.epoch);
                    let reply = owned.map_or(Reply::Dropped { tx }, |epoch| Reply::Fenced { epoch });
                    self.mail.push(Mail {
                        to: 1 - agent,
                        body: Body::Reply(reply),
                    });
                    return;
                }
                self.feed_destination(agent, destination::Input::Peer(request));
            }
            Body::Copy { tx, log, unchanged } => {
                let takes = self.agents[agent]
                    .destination
                    .as_ref()
                    .is_some_and(|(machine, _)| machine.tx() == tx && machine.takes_copy());
                if !takes {
                    return;
                }
                self.feed_destination(agent, destination::Input::CopyBegan);
                let _ = unchanged;
                let facts = facts(&log);
                self.agents[agent].staged = Some(log);
                self.feed_destination(agent, destination::Input::Copied(facts));
            }
            Body::Reply(reply) => {
                if let (Reply::Fenced { epoch }, None) = (&reply, &self.agents[agent].source) {
                    // The machine is gone: the journal answers.
                    let moved = self.agents[agent]
                        .rows
                        .iter()
                        .any(|row| matches!(&row.journal, Journal::Moved { epoch: moved, .. } if moved >= epoch));
                    if moved || self.agents[agent].rows.is_empty() {
                        self.mail.push(Mail {
                            to: 1 - agent,
                            body: Body::Request(Request::FenceAnswered { epoch: *epoch }),
                        });
                    }
                    return;
                }
                self.feed_source(agent, source::Input::Peer(reply));
            }
        }
    }

    /// Makes the first note durable; whether it was the source's.
    fn note(&mut self, agent: usize) -> bool {
        let me = agent;
        match self.agents[me].notes.remove(0) {
            Note::Source(step) => {
                let seq = self.agents[me].source.as_ref().map(|(_, seq)| *seq);
                let rows = &mut self.agents[me].rows;
                let Some(position) = rows.iter().position(|row| Some(row.seq) == seq) else {
                    return true;
                };
                let row = &mut rows[position];
                match step {
                    source::Step::Moving { tx, .. } => row.journal = Journal::Moving { tx },
                    source::Step::Sealed { tx, revision, .. } => {
                        assert_eq!(revision, row.log.len() as u64, "sealed at the last write");
                        row.journal = Journal::Sealed { tx };
                    }
                    source::Step::Active { .. } => row.journal = Journal::Active { wait: false },
                    source::Step::Moved { owner, epoch } => row.journal = Journal::Moved { owner, epoch },
                    source::Step::Deleted { .. } | source::Step::Forward { .. } => {
                        rows.remove(position);
                    }
                }
                true
            }
            Note::Destination(step) => {
                let seq = self.agents[me].destination.as_ref().and_then(|(_, seq)| *seq);
                let (epoch, tx) = match &self.agents[me].destination {
                    Some((machine, _)) => (machine.epoch(), machine.tx()),
                    None => return false,
                };
                let staged = self.agents[me].staged.clone();
                let state = &mut self.agents[me];
                let position = seq.and_then(|seq| state.rows.iter().position(|row| row.seq == seq));
                let journal = match step {
                    destination::Step::Removed => {
                        if let Some(position) = position {
                            state.rows.remove(position);
                        }
                        return false;
                    }
                    destination::Step::Reserved => Journal::Reserved { tx },
                    destination::Step::Staged => Journal::Staged { tx },
                    destination::Step::Prepared => Journal::Prepared { tx },
                    destination::Step::CommitSent { commit_tx } => Journal::CommitSent { tx, commit_tx },
                    destination::Step::Active { wait, .. } => Journal::Active { wait },
                    destination::Step::Moved { owner, epoch } => Journal::Moved { owner, epoch },
                };
                let owns = matches!(journal, Journal::Active { .. } | Journal::Moved { .. });
                match position {
                    Some(position) => {
                        let row = &mut state.rows[position];
                        let becomes = owns && !matches!(row.journal, Journal::Active { .. });
                        row.journal = journal;
                        if becomes {
                            row.epoch = epoch.next();
                        }
                        if let Some(log) = staged.filter(|_| !owns) {
                            row.log = log;
                        }
                    }
                    None => {
                        let seq = state.next_seq;
                        state.next_seq += 1;
                        state.rows.push(Row {
                            seq,
                            epoch,
                            log: staged.unwrap_or_default(),
                            journal,
                        });
                        state.destination.as_mut().expect("it made the note").1 = Some(seq);
                    }
                }
                false
            }
        }
    }

    /// Everything in memory is gone; the journal is replayed.
    fn crash(&mut self, agent: usize) {
        self.crashes += 1;
        let now = self.now;
        let state = &mut self.agents[agent];
        state.life += 1;
        state.source = None;
        state.destination = None;
        state.staged = None;
        state.notes.clear();
        state.closing = None;
        state.writes_held = false;
        state.reads = ReadGate::Open;
        for update in &mut self.updates {
            if update.by == agent {
                update.waited_for = false;
            }
        }
        for row in self.agents[agent].rows.clone() {
            let seed = self.seed();
            self.recover(agent, &row, now, seed);
        }
        self.run_source(agent);
        self.run_destination(agent);
    }

    fn recover(&mut self, agent: usize, row: &Row, now: BootInstant, seed: [u8; 32]) {
        let source = |journal, tx| source::Recovered {
            me: name(agent),
            to: name(1 - agent),
            address: address(),
            epoch: row.epoch,
            tx,
            offer: offer(&row.log),
            journal,
            seed,
        };
        let destination = |journal, tx, epoch| destination::Recovered {
            me: name(agent),
            from: name(1 - agent),
            address: address(),
            epoch,
            tx,
            journal,
            seed,
        };
        let state = &mut self.agents[agent];
        let mut hold = false;
        match &row.journal {
            Journal::Active { wait: false } => {}
            Journal::Active { wait: true } => {
                hold = true;
                let tx = Tx([0xEE; 16]);
                let before = Epoch(row.epoch.0 - 1);
                let recovered = destination(DestinationJournal::Waiting { tx }, tx, before);
                state.destination = Some((Destination::recover(now, recovered, settings()), Some(row.seq)));
            }
            Journal::Moving { tx } => {
                hold = true;
                let recovered = source(SourceJournal::Moving, *tx);
                state.source = Some((Source::recover(now, recovered, settings()), row.seq));
            }
            Journal::Sealed { tx } => {
                hold = true;
                let recovered = source(SourceJournal::Sealed, *tx);
                state.source = Some((Source::recover(now, recovered, settings()), row.seq));
            }
            Journal::Moved { owner, epoch } => {
                let journal = SourceJournal::Moved {
                    owner: owner.clone(),
                    epoch: *epoch,
                };
                let recovered = source(journal, Tx([0xEF; 16]));
                // The world has one source machine an agent; a copy that comes back is reclaimed in a later life.
                state.source = Some((Source::recover(now, recovered, settings()), row.seq));
            }
            Journal::Reserved { tx } => {
                let recovered = destination(DestinationJournal::Reserved, *tx, row.epoch);
                state.destination = Some((Destination::recover(now, recovered, settings()), Some(row.seq)));
            }
            Journal::Staged { tx } => {
                state.staged = Some(row.log.clone());
                let recovered = destination(DestinationJournal::Staged(facts(&row.log)), *tx, row.epoch);
                state.destination = Some((Destination::recover(now, recovered, settings()), Some(row.seq)));
            }
            Journal::Prepared { tx } => {
                state.staged = Some(row.log.clone());
                let recovered = destination(DestinationJournal::Prepared(facts(&row.log)), *tx, row.epoch);
                state.destination = Some((Destination::recover(now, recovered, settings()), Some(row.seq)));
            }
            Journal::CommitSent { tx, commit_tx } => {
                state.staged = Some(row.log.clone());
                let journal = DestinationJournal::CommitSent {
                    copy: facts(&row.log),
                    commit_tx: *commit_tx,
                };
                let recovered = destination(journal, *tx, row.epoch);
                state.destination = Some((Destination::recover(now, recovered, settings()), Some(row.seq)));
            }
        }
        if hold {
            state.writes_held = true;
            state.reads = ReadGate::Held;
        }
    }
}
