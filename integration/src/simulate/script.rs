//! What is done to a pool in one run: who writes, reads, moves and drains what, and when.

use std::collections::BTreeSet;

use librarian::place::Terms;
use zones::{Address, Level, Role, Steps};

use super::clock::{MS, S, Time};
use super::desk::Verb;
use super::dice;
use super::directed;
use super::directed_pool;
use super::faults::{Fate, KINDS, OFTEN, Site, Source};
use super::keys;
use super::late::late;
use super::operator::Steer;
use super::second::Late;
use super::tricks::Trick;
use super::upgrades::{self, UPGRADES_OF};
use super::workload::{self, Requests, Workload};

/// One of so many seeds is a directed run.
const DIRECTED_OF: u64 = 6;
/// In one of so many random runs the registry is restored.
const RESTORED_OF: u64 = 5;
/// In one of so many the librarian hands over to a new process.
const HANDED_OVER_OF: u64 = 4;
/// One of so many of these is about the pool.
const DIRECTED_POOL_OF: u64 = 4;
/// One of so many seeds with a free server has nothing but what its plans make.
const PLAIN_OF: u64 = 3;
/// One of so many of the others is a run in which something comes late: those that give 1, so that the seeds of old finds are
/// the runs that they were.
const LATE_OF: u64 = 6;

/// What happens at a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deed {
    /// A client writes an object, or makes it.
    Put(usize, usize),
    /// A client reads an object.
    Read(usize, usize),
    /// A client deletes an object.
    Delete(usize, usize),
    /// The operator wishes an object moved; to stay, where it is there already.
    Move(usize, usize),
    /// The operator drains a server into the free one.
    Drain(usize),
    /// The operator brings the objects of the last drain back.
    Refill,
    /// The operator asks more of objects: a level, and which schema steps run.
    Policy(Level, Steps),
    /// A second controller decides, and writes it late.
    Late(Late),
    /// For so long an agent's rounds are not answered; the answers wait for [`Deed::Release`].
    HearLate(usize, Time),
    /// Something goes wrong that is no message's and no step's.
    Befall(Fate),
    /// The next site of a kind meets this.
    Arm(Site, Fate),
    /// What was held goes on.
    Release,
    /// The operator makes a backup of the registry.
    Backup,
    /// The operator restores the registry from the last backup, or from nothing if there is none.
    Restore,
    /// The operator makes the registry anew, from nothing.
    Rebuild,
    /// A new process of the librarian takes over from the old one, which had this agent's questions.
    Handover(usize),
    /// Something rare.
    Trick(Trick),
    /// An operator asks an agent for a new generation of keys.
    Rotate(usize),
    /// A person says something of an upgrade.
    Steer(Steer),
    /// A server is lost for good, with its disk; a person says so a little later.
    Lose(usize),
    /// A person says that a server is lost, or that it is not.
    Mark(usize, bool),
    /// For so long a server reaches nobody but clients. A person takes it for lost, until it is back.
    CutOff(usize, Time),
}

/// A deed that follows a step of a journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct After {
    /// Steps before this moment do not count.
    pub from: Time,
    /// The step's name.
    pub step: &'static str,
    /// Which of them, counted from 1; 0 for every one.
    pub nth: u64,
    /// How long after the beginning of the step, in microseconds; at once for 0, so that it may arm what the step meets.
    pub pause: Time,
    /// What is done.
    pub deed: Deed,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Script {
    /// Decides everything that is not written here.
    pub seed: u64,
    /// Servers.
    pub agents: usize,
    /// The release of each server's software; the first for those that are not listed.
    pub releases: Vec<u8>,
    /// Whether the last one is free at the beginning.
    pub one_is_free: bool,
    /// How many copies of each object there are to be; `None`: servers know nothing of copies.
    pub copies: Option<u8>,
    /// What each server is at the beginning; empty: all serve, but for the free one.
    pub roles: Vec<Role>,
    /// Octets that each server has room for; empty: all alike.
    pub capacities: Vec<u64>,
    /// Whether servers tell what upgrades are judged by, and what is asked for.
    pub tells: bool,
    /// What the operator says of servers: prices, failure domains, who gets new objects.
    pub terms: Terms,
    /// Whether the pool is balanced when nothing else is under way.
    pub balances: bool,
    /// Whether every object also moves once in a while, where the pool is balanced.
    pub renews: bool,
    /// From when on a pool that is balanced is at rest, since its load stays the same.
    pub rests_from: Option<Time>,
    /// Whether no operation of a client may fail: nothing goes wrong in this run.
    pub is_calm: bool,
    /// Clients.
    pub clients: usize,
    /// Objects; those with an odd number have a body that travels on a stream of its own.
    pub objects: usize,
    /// What the requests among the deeds were drawn by.
    pub workload: Workload,
    /// What is done, and when in microseconds.
    pub deeds: Vec<(Time, Deed)>,
    /// When faults and deeds end.
    pub ends: Time,
    /// What is done when an agent comes to a step.
    pub after: Vec<After>,
    /// Clients whose resolvers know one server, for ever.
    pub knows: Vec<(usize, usize)>,
    /// What goes wrong.
    pub faults: Source,
}

pub(super) fn address(object: usize) -> Address {
    format!("1.{}.{object}", object % 2).parse().expect("a legal address")
}

/// Which object has this address.
pub(super) fn object_of(address: &Address) -> usize {
    let last = address.as_str().rsplit('.').next();
    last.and_then(|part| part.parse().ok())
        .expect("an address of this file")
}

/// Octets of an object's body.
pub(super) fn body_octets(object: usize) -> usize {
    match object % 4 {
        1 => 70_000,
        3 => 6_000,
        2 => 300,
        _ => 0,
    }
}

/// What a random run is drawn by.
#[derive(Clone, Copy)]
struct Draw {
    seed: u64,
}

impl Draw {
    fn roll(self, purpose: u64, below: u64) -> u64 {
        dice(self.seed, purpose, 50) % below
    }

    fn pick(self, purpose: u64, below: usize) -> usize {
        usize::try_from(dice(self.seed, purpose, 51)).unwrap_or(0) % below
    }

    /// Faults of these kinds, at one of these rates.
    fn faults(self, rates: [u64; 4], kinds: &BTreeSet<&'static str>, often: Option<(Site, Fate)>) -> Source {
        Source::Random {
            rate: rates[self.pick(10, 4)],
            kinds: kinds.clone(),
            often,
        }
    }
}

impl Script {
    /// The run of a seed: mostly random deeds, and now and then a directed run; random faults in any case.
    #[must_use]
    pub fn random(seed: u64, kinds: &BTreeSet<&'static str>) -> Script {
        let draw = Draw { seed };
        let faults = |rates| draw.faults(rates, kinds, None);
        // A directed run has faults of its own, of many kinds; with many more it would not get to where it is led.
        if kinds.len() == KINDS.len() && draw.roll(11, DIRECTED_OF) == 0 {
            let pool = dice(seed, 1, 71).is_multiple_of(DIRECTED_POOL_OF);
            let mut runs = if pool {
                directed_pool::runs(seed)
            } else {
                directed::of_moves(seed)
            };
            let run = draw.pick(12, runs.len());
            return Script {
                faults: faults([2, 5, 20, 60]),
                ..runs.swap_remove(run).1
            };
        }
        if kinds.len() == KINDS.len() && draw.roll(13, LATE_OF) == 1 {
            let mut runs = late(seed);
            let run = draw.pick(14, runs.len());
            return Script {
                faults: faults([0, 2, 5, 20]),
                ..runs.swap_remove(run).1
            };
        }
        if dice(seed, 0, 300) % UPGRADES_OF == 3 {
            return upgrades::upgrade(seed, kinds);
        }
        if let Some(script) = workload::of_seed(seed, kinds) {
            return script;
        }
        Script::drawn(seed, kinds, 2 + draw.pick(1, 3), copies(seed))
    }

    /// A pool with two copies of each object; in four of nine of these runs a server is lost, or taken for lost.
    #[must_use]
    pub fn with_copies(seed: u64, kinds: &BTreeSet<&'static str>) -> Script {
        Script::drawn(seed, kinds, 3 + Draw { seed }.pick(1, 3), Some(2))
    }

    /// Random deeds and random faults.
    fn drawn(seed: u64, kinds: &BTreeSet<&'static str>, agents: usize, copies: Option<u8>) -> Script {
        let draw = Draw { seed };
        let roll = |purpose, below| draw.roll(purpose, below);
        let pick = |purpose, below| draw.pick(purpose, below);
        let one_is_free = roll(2, 3) == 0;
        let clients = 1 + pick(3, 3);
        let objects = match roll(4, 4) {
            0 => 1,
            1 => 2 + pick(5, 2),
            2 => 3 + pick(5, 4),
            _ => 6 + pick(5, 14),
        };
        let ends = (8 + roll(6, 22)) * S;
        let requests = Requests::random(seed, objects, ends);
        let (capacities, terms) = workload::unequal(seed, agents);
        let balances = dice(seed, 0, 349).is_multiple_of(4);
        let mut deeds = Vec::new();
        let count = 8 + roll(7, 40);
        for number in 0..count {
            let at = requests.moment(number, ends);
            let client = usize::try_from(dice(seed, number, 61)).unwrap_or(0) % clients;
            let object = requests.object(number, at);
            let deed = match dice(seed, number, 63) % 100 {
                0..=44 => Deed::Put(client, object),
                45..=94 => Deed::Read(client, object),
                _ => Deed::Delete(client, object),
            };
            deeds.push((at, deed));
        }
        // Most objects are made early, so that there is something to move.
        for object in 0..objects {
            deeds.push((
                dice(seed, object as u64, 64) % (ends / 4),
                Deed::Put(object % clients, object),
            ));
        }
        if one_is_free {
            for number in 0..1 + roll(8, 3) {
                let at = ends / 6 + dice(seed, number, 65) % ends;
                let server = usize::try_from(dice(seed, number, 66)).unwrap_or(0) % agents;
                deeds.push((
                    at.min(ends),
                    if dice(seed, number, 67).is_multiple_of(3) {
                        Deed::Refill
                    } else {
                        Deed::Drain(server)
                    },
                ));
            }
        } else {
            // In every third run they follow each other closely: an object is sent on before it has settled.
            let (count, from, within) = match roll(12, 3) {
                0 => (8 + roll(9, 24), ends / 3, ends / 3),
                _ => (1 + roll(9, 20), ends / 8, ends * 7 / 8),
            };
            for number in 0..count {
                let at = from + dice(seed, number, 68) % within;
                let object = usize::try_from(dice(seed, number, 69)).unwrap_or(0) % objects;
                let to = usize::try_from(dice(seed, number, 70)).unwrap_or(0) % agents;
                deeds.push((at, Deed::Move(object, to)));
            }
        }
        if one_is_free {
            deeds.extend(in_the_midst(seed, agents, objects, &deeds));
        }
        deeds.extend(registry_deeds(seed, ends, agents));
        deeds.extend(policy_deeds(seed, ends));
        deeds.extend(keys::deeds(seed, ends, agents, kinds));
        if copies == Some(2) {
            deeds.extend(losses(seed, ends, agents));
        }
        deeds.sort_by_key(|(at, _)| *at);
        let mut script = Script {
            seed,
            agents,
            releases: releases(seed, agents),
            one_is_free,
            copies,
            roles: Vec::new(),
            capacities,
            terms,
            // Heat is told with the rest, and copies are.
            tells: balances || copies.is_some() || one_is_free && dice(seed, 0, 301).is_multiple_of(2),
            balances,
            renews: true,
            rests_from: None,
            is_calm: false,
            clients,
            objects,
            workload: requests.workload(),
            deeds,
            ends,
            after: Vec::new(),
            knows: Vec::new(),
            faults: draw.faults([20, 60, 150, 300], kinds, OFTEN.get(pick(11, 2 * OFTEN.len())).copied()),
        };
        if copies.is_some() {
            script.leaves_out();
        }
        script
    }

    /// What no random run with copies has.
    fn leaves_out(&mut self) {
        // A holder of an older release would take over what it does not read.
        self.releases.clear();
        let is_lost = |deed: &Deed| matches!(deed, Deed::Lose(_) | Deed::CutOff(..));
        if self.one_is_free {
            // A drain waits for a server that is lost until a person gives it up, and no person here does.
            self.deeds.retain(|(_, deed)| !is_lost(deed));
        }
        // What is on two servers survives the loss of one of them, not that of the registry besides.
        if self.deeds.iter().any(|(_, deed)| is_lost(deed)) {
            (self.deeds).retain(|(_, deed)| !matches!(deed, Deed::Restore | Deed::Rebuild));
        }
    }

    /// A quiet run for an enumeration: these deeds, one after the other, by two servers and one client.
    #[must_use]
    pub fn quiet(seed: u64, objects: usize, deeds: &[Deed]) -> Script {
        let mut timed: Vec<(Time, Deed)> = Vec::new();
        let mut at = S;
        for deed in deeds {
            at += match (timed.last(), deed) {
                // Moves that are wished one after the other go together.
                (Some((_, Deed::Move(..))), Deed::Move(..)) => 0,
                (Some((_, Deed::Move(..))), _) => 1_300 * MS,
                _ => 400 * MS,
            };
            timed.push((at, *deed));
        }
        let last = at;
        Script {
            seed,
            agents: 2,
            releases: Vec::new(),
            one_is_free: false,
            copies: None,
            roles: Vec::new(),
            capacities: Vec::new(),
            terms: Terms::default(),
            tells: false,
            balances: false,
            renews: true,
            rests_from: None,
            is_calm: false,
            clients: 1,
            objects,
            workload: Workload::default(),
            deeds: timed,
            ends: last + 2 * S,
            after: Vec::new(),
            knows: Vec::new(),
            faults: Source::Script(std::collections::BTreeMap::new()),
        }
    }
}

impl Script {
    /// Whether a person upgrades the pool in it.
    pub(super) fn steers(&self) -> bool {
        (self.deeds.iter()).any(|(_, deed)| matches!(deed, Deed::Steer(_)))
    }

    /// A move while one client writes and another, which knows only the source, reads all the time.
    #[must_use]
    pub fn contended(seed: u64, source: usize) -> Script {
        let mut deeds = vec![(S, Deed::Put(0, 0)), (1_400 * MS, Deed::Move(0, source))];
        deeds.push((4 * S, Deed::Put(0, 0)));
        deeds.push((4_400 * MS, Deed::Move(0, 1 - source)));
        for number in 0..32 {
            let at = 4_500 * MS + number * 250 * MS;
            deeds.push((at, Deed::Put(0, 0)));
            deeds.push((at + 120 * MS, Deed::Read(1, 0)));
        }
        Script {
            clients: 2,
            knows: vec![(1, source)],
            ends: 17 * S,
            deeds,
            ..Script::quiet(seed, 1, &[])
        }
    }
}

impl Deed {
    pub(super) fn of_client(self) -> Option<(usize, usize, Verb)> {
        match self {
            Deed::Put(client, object) => Some((client, object, Verb::Put(0))),
            Deed::Read(client, object) => Some((client, object, Verb::Read)),
            Deed::Delete(client, object) => Some((client, object, Verb::Delete)),
            Deed::Move(..)
            | Deed::Drain(_)
            | Deed::Refill
            | Deed::Policy(..)
            | Deed::Late(_)
            | Deed::HearLate(..)
            | Deed::Befall(_)
            | Deed::Arm(..)
            | Deed::Release
            | Deed::Backup
            | Deed::Restore
            | Deed::Rebuild
            | Deed::Handover(_)
            | Deed::Trick(_)
            | Deed::Rotate(_)
            | Deed::Steer(_)
            | Deed::Lose(_)
            | Deed::Mark(..)
            | Deed::CutOff(..) => None,
        }
    }
}

/// In one of so many runs releases differ.
const RELEASES_OF: u64 = 3;
/// In one of so many the operator asks more of objects.
const POLICY_OF: u64 = 3;

/// The releases of the servers: in most runs the first everywhere, in others each server's own.
fn releases(seed: u64, agents: usize) -> Vec<u8> {
    if dice(seed, 0, 110) % RELEASES_OF != 1 {
        return Vec::new();
    }
    let release = |agent: usize| u8::try_from(dice(seed, agent as u64 + 1, 110) % 3).expect("below 3");
    (0..agents).map(release).collect()
}

/// In three of so many runs objects are to have two copies, in one servers are told that one is enough.
const COPIES_OF: u64 = 8;

fn copies(seed: u64) -> Option<u8> {
    match dice(seed, 0, 400) % COPIES_OF {
        0..=2 => Some(2),
        3 => Some(1),
        _ => None,
    }
}

/// In some runs a server is lost for good, or cut off and taken for lost. It is one at most, and the registry is not: what is on
/// two servers survives the loss of one.
fn losses(seed: u64, ends: Time, agents: usize) -> Vec<(Time, Deed)> {
    let agent = usize::try_from(dice(seed, 1, 401)).unwrap_or(0) % agents;
    let at = ends / 4 + dice(seed, 2, 401) % (ends / 2);
    match dice(seed, 3, 401) % 3 {
        0 => vec![(at, Deed::Lose(agent))],
        1 => vec![(at, Deed::CutOff(agent, 2 * S + dice(seed, 4, 401) % (10 * S)))],
        _ => Vec::new(),
    }
}

/// What the operator asks of objects, now and then.
fn policy_deeds(seed: u64, ends: Time) -> Vec<(Time, Deed)> {
    if dice(seed, 0, 111) % POLICY_OF != 1 {
        return Vec::new();
    }
    let deed = |number: u64| {
        let roll = |purpose: u64, below: u64| dice(seed, number, purpose) % below;
        let level = Level(u8::try_from(1 + roll(112, 3)).expect("at most 3"));
        let steps = if roll(113, 2) == 0 { Steps::All } else { Steps::Expand };
        (roll(114, ends), Deed::Policy(level, steps))
    };
    (1..=1 + dice(seed, 1, 111) % 3).map(deed).collect()
}

/// In some runs the registry is lost, or restored from a backup, in some of these twice; in some the librarian hands over.
fn registry_deeds(seed: u64, ends: Time, agents: usize) -> Vec<(Time, Deed)> {
    let roll = |purpose: u64, below: u64| dice(seed, purpose, 50) % below;
    let mut added = Vec::new();
    if roll(18, RESTORED_OF) == 0 {
        for number in 0..1 + roll(14, 2) {
            let at = |purpose| dice(seed, number, purpose) % ends;
            let (one, other) = (at(94), at(95));
            added.push((one.min(other), Deed::Backup));
            let restored = match dice(seed, number, 96) % 3 {
                0 => Deed::Rebuild,
                _ => Deed::Restore,
            };
            added.push((one.max(other), restored));
        }
    }
    if roll(15, HANDED_OVER_OF) == 0 {
        let agent = usize::try_from(dice(seed, 17, 51)).unwrap_or(0) % agents;
        added.push((roll(16, ends), Deed::Handover(agent)));
    }
    added
}

/// What happens in the midst of a seed's plans: a second controller, a plan that is changed, wishes, answers that come late.
///
/// Drawn apart from everything else, so that the other deeds of a seed stay what they are.
fn in_the_midst(seed: u64, agents: usize, objects: usize, deeds: &[(Time, Deed)]) -> Vec<(Time, Deed)> {
    let roll = |number: u64, purpose: u64, below: u64| dice(seed, number, purpose) % below;
    let pick = |number, purpose, below: usize| usize::try_from(dice(seed, number, purpose)).unwrap_or(0) % below;
    let plans: Vec<Time> = deeds
        .iter()
        .filter(|(_, deed)| matches!(deed, Deed::Drain(_) | Deed::Refill))
        .map(|(at, _)| *at)
        .collect();
    let mut added = Vec::new();
    if plans.is_empty() || roll(6, 72, PLAIN_OF) == 0 {
        return added;
    }
    for number in 0..1 + roll(0, 73, 5) {
        let plan = plans[pick(number, 74, plans.len())];
        // From a little before a plan to its usual end.
        let at = (plan + roll(number, 75, 7 * S)).saturating_sub(S);
        let pause = 200 * MS + roll(number, 76, 5 * S);
        let server = pick(number, 77, agents);
        match roll(number, 78, 9) {
            0 | 1 => added.push((at, Deed::Late(Late::Wants(pause)))),
            2 | 3 => added.push((plan.saturating_sub(pause / 2), Deed::Late(Late::Drain(server, pause)))),
            4 => added.push((at, Deed::Late(Late::Refill(pause)))),
            5 => added.push((at, Deed::Refill)),
            6 => added.push((at, Deed::Drain(server))),
            7 => added.push((at, Deed::Move(pick(number, 79, objects), server))),
            _ => added.extend([(at, Deed::HearLate(server, pause)), (at + 2 * pause, Deed::Release)]),
        }
    }
    added
}

/// All kinds of faults.
#[must_use]
pub fn all_kinds() -> BTreeSet<&'static str> {
    KINDS.into_iter().collect()
}
