//! One agent of the simulated pool: the production store, objects and engine on a simulated disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::Arc;

use agent::clock::BootInstant;
use agent::control::Wanted;
use agent::heat::Meter;
use agent::migration::window::WindowSettings;
use agent::migration::wire::{Either, write_frame};
use agent::migration::{Settings as Times, UnexpectedInput};
use agent::objects::{Local, NotOwned, Open, Settings};
use agent::register::Trust;
use agent::store::rotation::Rotation;
use agent::store::{self, AuditPage, Auditor, Entry, Store, Work};
use agent::transfer::engine::{Engine, Id, Job, Outside, Parts, Side, Wish};
use agent::transfer::{Counters, Shipment, TransferSettings};
use agent::vault::{Entropy, PoolKey, Vault};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zones::{Address, Epoch, Heat, Policy, ServerName, TsigKey};

use super::clock::{Clocks, Time};
use super::desk::Request;
use super::disk::Platter;
use super::install::{Counting, Installer};
use super::keys::Guardian;
use super::line::Line;
use super::releases;

/// One of so many machines tells fewer objects apart than it may have.
const FEW_COUNTERS_OF: u64 = 8;

/// A transition that was seen: side, state, input.
pub type Pair = (Side, &'static str, String);

/// One machine with its agent.
pub(super) struct Machine {
    pub(super) name: ServerName,
    pub(super) key: TsigKey,
    pub(super) disk: Platter,
    pub(super) guardian: Guardian,
    /// Its guardian of keys does not answer until then.
    pub(super) silent_until: Time,
    /// Somebody asked for a new generation of keys, which is not begun yet.
    pub(super) wants_generation: bool,
    pub(super) clocks: Clocks,
    /// Counts the lives of its process: what was meant for an earlier one says nothing.
    pub(super) life: u32,
    /// The process; its store is open also while it is not started yet.
    pub(super) process: Process,
    pub(super) started: bool,
    pub(super) suspended_until: Time,
    /// It is lost for good, with its disk.
    pub(super) gone: bool,
    /// What it had when it was lost: the epoch and the revision of every whole copy.
    pub(super) had: BTreeMap<Address, (Epoch, u64)>,
    /// The release of its software.
    pub(super) release: u8,
    /// What brings it to another one.
    pub(super) installer: Installer,
    /// Octets of copies that it has room for.
    capacity: u64,
    /// Objects whose requests are told apart.
    counters: usize,
    seed: u64,
}

/// What a crash ends.
pub(super) struct Process {
    pub(super) local: Arc<Local>,
    pub(super) trust: Arc<Trust>,
    pub(super) engine: Engine<Around>,
    /// What a start has to take up.
    pub(super) open: Vec<Open>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) closings: Vec<(Id, u32, Address)>,
    pub(super) line: Line,
    pub(super) look_at: Option<Time>,
    pub(super) rotation: Rotation,
    /// What is counted of what comes.
    pub(super) counting: Option<Counting>,
    /// Requests that were answered, by object.
    pub(super) meter: Meter,
    /// Octets of bodies that clients were sent and sent.
    pub(super) carried: u64,
}

/// What the engine wants done.
pub(super) enum Out {
    /// Frames, and whether they carry a copy.
    Frames(ServerName, Bytes, bool),
    Large(Id, ServerName, Box<Shipment>),
    Dial(ServerName),
    Job(Job),
    Wish(Wish),
    Closing(Id, u32, Address),
}

/// The outside of a simulated engine: it notes what is wanted, the world does it.
pub(super) struct Around {
    pub(super) now: BootInstant,
    pub(super) unix_ms: u64,
    pub(super) wanted: Wanted,
    pub(super) linked: BTreeSet<ServerName>,
    pub(super) out: VecDeque<Out>,
    pub(super) wrong: Option<String>,
    pub(super) seen: BTreeSet<Pair>,
    trust: Arc<Trust>,
    random: StdRng,
    local: Arc<Local>,
}

impl Outside for Around {
    fn now(&self) -> BootInstant {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        seed
    }

    fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    fn generation(&self) -> u64 {
        self.trust.generation()
    }

    fn is_trusted(&self) -> bool {
        self.trust.is_trusted()
    }

    fn send(&mut self, peer: &ServerName, address: &Address, message: &Either) {
        if !self.linked.contains(peer) {
            self.out.push_back(Out::Dial(peer.clone()));
            return;
        }
        let mut frame = BytesMut::new();
        write_frame(&mut frame, address, message, &[]);
        self.out.push_back(Out::Frames(peer.clone(), frame.freeze(), false));
    }

    fn send_frames(&mut self, peer: &ServerName, _address: &Address, frames: BytesMut) -> bool {
        let linked = self.linked.contains(peer);
        if linked {
            self.out.push_back(Out::Frames(peer.clone(), frames.freeze(), true));
        }
        linked
    }

    fn send_large(&mut self, id: Id, peer: &ServerName, shipment: Shipment) -> bool {
        let linked = self.linked.contains(peer);
        self.out.push_back(match linked {
            true => Out::Large(id, peer.clone(), Box::new(shipment)),
            false => Out::Dial(peer.clone()),
        });
        linked
    }

    fn job(&mut self, job: Job) {
        self.out.push_back(Out::Job(job));
    }

    fn wish(&mut self, wish: Wish) -> Result<(), Wish> {
        self.out.push_back(Out::Wish(wish));
        Ok(())
    }

    fn close(&mut self, id: Id, number: u32, address: &Address) -> Option<Result<Arc<Entry>, NotOwned>> {
        if let Err(error) = self.local.hold(address) {
            return Some(Err(error));
        }
        let closed = self.local.held(address);
        if closed.is_none() {
            self.out.push_back(Out::Closing(id, number, address.clone()));
        }
        closed
    }

    fn wrong(&mut self, unexpected: &UnexpectedInput, address: &Address) {
        self.wrong.get_or_insert_with(|| format!("{address}: {unexpected}"));
    }

    fn saw(&mut self, side: Side, state: &'static str, input: &dyn fmt::Debug) {
        let mut head = Head(String::new());
        // It ends early on purpose.
        let _ = write!(head, "{input:?}");
        self.seen.insert((side, state, head.0));
    }
}

/// The first words of a debug text: the names of an input and of what is in it.
struct Head(String);

impl fmt::Write for Head {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for symbol in text.chars() {
            match symbol {
                ' ' | '{' | ')' => return Err(fmt::Error),
                '(' if self.0.contains('(') => return Err(fmt::Error),
                symbol => self.0.push(symbol),
            }
        }
        Ok(())
    }
}

/// Randomness of one life.
#[derive(Debug)]
struct Seeded(Mutex<StdRng>);

impl Entropy for Seeded {
    fn fill(&self, octets: &mut [u8]) {
        self.0.lock().fill_bytes(octets);
    }
}

/// Times of a move, short enough for a run and in the proportions of a pool.
pub(super) fn times() -> Times {
    Times {
        grace: std::time::Duration::from_secs(2),
        reservation: std::time::Duration::from_secs(10),
        ..Times::default()
    }
}

fn open(
    disk: &Platter,
    name: &ServerName,
    seed: u64,
    guardian: &Guardian,
    capacity: u64,
) -> Result<(Store, Vec<Arc<Entry>>), store::OpenError> {
    let entropy: Arc<dyn Entropy> = Arc::new(Seeded(Mutex::new(StdRng::seed_from_u64(seed))));
    let vault = Vault::with_entropy(Box::new(guardian.clone()), PoolKey::new([9; 32]), entropy);
    let settings = store::Settings {
        capacity,
        step: 1 << 20,
        volume: 8 << 20,
        cache: 1 << 20,
        work: Work::Caller,
        // Nobody signs: a signature takes longer than all the rest of an event.
        auditor: Arc::new(Auditor::new(name.clone(), None, std::time::Duration::MAX)),
    };
    Store::open(Arc::new(disk.clone()), Arc::new(vault), &settings)
}

impl Machine {
    pub(super) fn new(number: u8, key: TsigKey, clocks: Clocks, release: u8, capacity: u64, seed: u64) -> Machine {
        let name: ServerName = format!("s{number}").parse().expect("a legal name");
        let disk = Platter::default();
        let guardian = Guardian::new(number);
        let process =
            Process::on(&disk, &name, seed, &guardian, (release, capacity)).expect("an empty disk makes a store");
        Machine {
            name,
            key,
            disk,
            guardian,
            silent_until: 0,
            wants_generation: false,
            clocks,
            life: 0,
            process,
            started: false,
            suspended_until: 0,
            gone: false,
            had: BTreeMap::new(),
            release,
            installer: Installer::default(),
            capacity,
            counters: if seed.is_multiple_of(FEW_COUNTERS_OF) { 4 } else { 4096 },
            seed,
        }
    }

    /// The process ends as by a cut of the power; what the disk keeps is looked at at once, and served after a start.
    pub(super) fn crash(&mut self, seed: u64) -> Result<(), store::OpenError> {
        self.life += 1;
        self.started = false;
        self.disk = self.disk.cut(seed);
        let mut process = Process::on(
            &self.disk,
            &self.name,
            super::dice(self.seed, u64::from(self.life), 4),
            &self.guardian,
            (self.release, self.capacity),
        )?;
        process.engine.outside().seen = std::mem::take(&mut self.process.engine.outside().seen);
        self.process = process;
        Ok(())
    }

    /// It is lost for good, and all that was on its disk.
    pub(super) fn lose(&mut self) {
        for row in self.process.local.store().entries() {
            if row.properties.is_some() {
                let last = self.had.entry(row.address.clone()).or_insert((row.epoch, 0));
                *last = (row.epoch, row.revision).max(*last);
            }
        }
        self.gone = true;
        self.life += 1;
        self.started = false;
        self.disk = Platter::default();
        let form = (self.release, self.capacity);
        self.process =
            Process::on(&self.disk, &self.name, self.seed, &self.guardian, form).expect("an empty disk makes a store");
    }

    /// Its whole log of moves. An index that failed is closed until the next start: then, from a copy of the disk.
    pub(super) fn log(&self) -> Result<AuditPage, String> {
        if let Ok(page) = self.process.local.store().audit(0, usize::MAX) {
            return Ok(page);
        }
        let (copied, _) = open(&self.disk.copy(), &self.name, self.seed, &self.guardian, self.capacity)
            .map_err(|error| format!("a copy of the disk of {}: {error}", self.name))?;
        let page = copied.audit(0, usize::MAX);
        page.map_err(|error| format!("the log of {}: {error}", self.name))
    }

    /// Takes what the plan asks of objects, and writes down which versions are final, if that is news.
    pub(super) fn obey(&self, policy: &Policy) {
        self.process.local.obey(policy);
        if let Some(finals) = self.process.local.stepper().finalize() {
            // One that is not written is taken up at the next start, since the plan is durable.
            drop(self.disk.write_finals(&finals));
        }
    }

    /// Nothing was asked for yet in this life.
    pub(super) fn counts_anew(&mut self, now: Time) {
        self.process.meter = Meter::new(self.counters, self.clocks.boot(now));
    }

    /// What was asked for lately of what is here.
    pub(super) fn heat(&self, now: Time) -> Heat {
        let Process {
            meter, local, carried, ..
        } = &self.process;
        meter.report(self.clocks.boot(now), *carried, |address| local.is_here(address))
    }

    /// Tells the engine what time it is.
    pub(super) fn tick(&mut self, now: Time) {
        let (boot, unix_ms) = (self.clocks.boot(now), self.clocks.unix_ms(now));
        let around = self.process.engine.outside();
        (around.now, around.unix_ms) = (boot, unix_ms);
    }
}

impl Process {
    /// The role that it acts in.
    pub(super) fn role(&mut self) -> Option<zones::Role> {
        self.engine.outside().wanted.role()
    }

    /// What it was told of copies.
    pub(super) fn keep(&mut self) -> zones::Keep {
        let want = self.engine.outside().wanted.want.as_ref();
        want.map(|want| want.errand.keep.clone()).unwrap_or_default()
    }

    fn on(
        disk: &Platter,
        name: &ServerName,
        seed: u64,
        guardian: &Guardian,
        (release, capacity): (u8, u64),
    ) -> Result<Process, store::OpenError> {
        let (store, entries) = open(disk, name, seed, guardian, capacity)?;
        let local = Local::new(
            Arc::new(store),
            entries,
            Arc::new(releases::stepper(release).with_finals(disk.read_finals())),
            Settings::default(),
        );
        let trust = Arc::new(disk.trust());
        let around = Around {
            now: BootInstant::ZERO,
            unix_ms: 0,
            wanted: Wanted::default(),
            linked: BTreeSet::new(),
            out: VecDeque::new(),
            wrong: None,
            seen: BTreeSet::new(),
            trust: Arc::clone(&trust),
            random: StdRng::seed_from_u64(seed ^ 0x5EED),
            local: Arc::clone(&local),
        };
        let parts = Parts {
            me: name.clone(),
            settings: TransferSettings {
                listen: "127.0.0.1:0".parse().expect("an address"),
                mtu: 1452,
                window: WindowSettings {
                    objects_max: 64,
                    octets_max: 16 << 20,
                    sealed_max: 64,
                    seal_target: std::time::Duration::from_millis(50),
                },
                pace: agent::migration::pace::PaceSettings {
                    target: std::time::Duration::from_millis(50),
                    floor: 20,
                },
                machine: times(),
                forward_for: std::time::Duration::from_secs(4),
            },
            objects: Arc::clone(&local),
            counters: Arc::new(Counters::default()),
        };
        Ok(Process {
            open: local.take_up(),
            engine: Engine::new(parts, around),
            local,
            trust,
            requests: BTreeMap::new(),
            closings: Vec::new(),
            line: Line::default(),
            look_at: None,
            rotation: Rotation::new(std::time::Duration::MAX),
            counting: None,
            meter: Meter::new(1, BootInstant::ZERO),
            carried: 0,
        })
    }
}
