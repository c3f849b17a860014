//! What clients ask for: which objects, and when; and servers that are not alike.
//!
//! Requests are deeds of a script, drawn when it is made, so that a run that breaks can be made shorter by leaving some out.

use std::collections::BTreeSet;

use librarian::place::{Placement, ServerTerms, Terms};

use super::clock::{S, Time};
use super::dice;
use super::faults::Source;
use super::script::{Deed, Script};
use crate::objects::Zipf;

/// One of so many seeds is a run with a load for long enough that objects move for it.
const LOADS_OF: u64 = 40;
/// In one of so many of these the load is steady, and nothing goes wrong.
const STEADY_OF: u64 = 4;
/// In two of so many other random runs requests do not fall on all objects alike: those that give 1 and 2, so that the seeds of
/// old finds are the runs that they were.
const UNEVEN_OF: u64 = 4;
/// In one of so many servers differ in size and price.
const UNEQUAL_OF: u64 = 4;

/// Exponents of Zipf's law, in hundredths.
const EXPONENTS: [u32; 4] = [60, 80, 100, 120];
/// Of so many requests in a crowd, all but one are for the same object.
const IN_CROWD: u64 = 5;
/// Moments that are drawn at most before one is taken whatever the rate there is.
const DRAWS_MAX: u64 = 16;

/// How requests fall on objects, and how their rate changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Workload {
    /// On all objects alike.
    #[default]
    Uniform,
    /// On few objects often and on most seldom, by Zipf's law with this exponent in hundredths.
    Zipf(u32),
    /// From one moment until another there are many more, most of them for one object.
    Crowd {
        /// The object.
        object: usize,
        /// When it begins.
        from: Time,
        /// When it ends.
        until: Time,
    },
    /// Their rate rises and falls once in so long, and each time other objects are the popular ones.
    Waves(Time),
}

impl Workload {
    /// That of a seed, within this time.
    fn of(seed: u64, objects: usize, ends: Time) -> Workload {
        let roll = |purpose: u64, below: u64| dice(seed, purpose, 370) % below;
        match roll(0, 4) {
            0 => {
                let from = ends / 6 + roll(1, ends / 2);
                Workload::Crowd {
                    object: pick(seed, 2, objects),
                    from,
                    until: from + ends / 6 + roll(3, ends / 6),
                }
            }
            1 => Workload::Waves(ends / (2 + roll(4, 3))),
            _ => Workload::Zipf(EXPONENTS[pick(seed, 5, EXPONENTS.len())]),
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Uniform => "uniform",
            Workload::Zipf(_) => "zipf",
            Workload::Crowd { .. } => "flash crowd",
            Workload::Waves(_) => "waves",
        }
    }

    /// The rate at a moment, in percent of the highest.
    fn rate(self, at: Time) -> u64 {
        match self {
            Workload::Uniform | Workload::Zipf(_) => 100,
            Workload::Crowd { from, until, .. } if (from..until).contains(&at) => 100,
            Workload::Crowd { .. } => 20,
            Workload::Waves(turn) => {
                let into = at % turn * 180 / turn;
                10 + into.min(180 - into)
            }
        }
    }
}

fn pick(seed: u64, purpose: u64, below: usize) -> usize {
    usize::try_from(dice(seed, purpose, 371) % below as u64).expect("below a number of objects")
}

/// Draws the requests of a workload.
pub(super) struct Requests {
    seed: u64,
    workload: Workload,
    objects: usize,
    zipf: Zipf,
    /// The most popular object at the beginning.
    first: usize,
}

impl Requests {
    pub(super) fn new(seed: u64, workload: Workload, objects: usize) -> Requests {
        let exponent = match workload {
            Workload::Uniform | Workload::Crowd { .. } => 0,
            Workload::Zipf(exponent) => exponent,
            Workload::Waves(_) => 100,
        };
        Requests {
            seed,
            workload,
            objects,
            zipf: Zipf::new(objects, f64::from(exponent) / 100.0),
            first: pick(seed, 6, objects),
        }
    }

    /// Those of a random run: in some alike on all objects.
    pub(super) fn random(seed: u64, objects: usize, ends: Time) -> Requests {
        let workload = match dice(seed, 7, 370) % UNEVEN_OF {
            1 | 2 => Workload::of(seed, objects, ends),
            _ => Workload::Uniform,
        };
        Requests::new(seed, workload, objects)
    }

    pub(super) fn workload(&self) -> Workload {
        self.workload
    }

    /// When a request comes, before `ends`.
    pub(super) fn moment(&self, number: u64, ends: Time) -> Time {
        let draw = |draw: u64| dice(self.seed, number + (draw << 32), 60) % ends;
        let is_taken = |at: u64, draw: u64| dice(self.seed, number + (draw << 32), 372) % 100 < self.workload.rate(at);
        let drawn = (0..DRAWS_MAX).map(|number| (draw(number), number));
        let taken = drawn.clone().find(|(at, draw)| is_taken(*at, *draw));
        taken.map_or_else(|| draw(0), |(at, _)| at)
    }

    /// What a request at a moment is for.
    pub(super) fn object(&self, number: u64, at: Time) -> usize {
        let drawn = dice(self.seed, number, 62);
        let ranked = || {
            // The highest 53 bits: as many as a float keeps.
            let rank = self.zipf.sample((drawn >> 11) as f64 / (1_u64 << 53) as f64);
            self.first + rank
        };
        let object = match self.workload {
            Workload::Uniform => usize::try_from(drawn).unwrap_or(0),
            Workload::Zipf(_) => ranked(),
            Workload::Crowd { object, from, until } => {
                let joins = (from..until).contains(&at) && !dice(self.seed, number, 373).is_multiple_of(IN_CROWD);
                if joins {
                    object
                } else {
                    usize::try_from(drawn).unwrap_or(0)
                }
            }
            Workload::Waves(turn) => {
                let turns = usize::try_from(at / turn).unwrap_or(0);
                ranked() + turns * (1 + self.objects / 3)
            }
        };
        object % self.objects
    }

    /// So many requests a second until `ends`, each object's as evenly spaced as can be.
    fn evenly(&self, per_second: u64, clients: usize, begins: Time, ends: Time) -> Vec<(Time, Deed)> {
        let mut deeds = Vec::new();
        for rank in 0..self.objects {
            let object = (self.first + rank) % self.objects;
            let period = (S as f64 / (per_second as f64 * self.zipf.part(rank))) as Time;
            let mut at = begins + dice(self.seed, rank as u64, 374) % period;
            for number in 0_usize.. {
                if at >= ends {
                    break;
                }
                let client = (object + number) % clients;
                deeds.push((
                    at,
                    match number % 4 {
                        0 => Deed::Put(client, object),
                        _ => Deed::Read(client, object),
                    },
                ));
                at += period;
            }
        }
        deeds
    }
}

/// What an operator says of servers, in some runs: prices, failure domains, what networks carry, and who gets no new objects.
pub(super) fn unequal(seed: u64, agents: usize) -> (Vec<u64>, Terms) {
    match dice(seed, 8, 370) % UNEQUAL_OF {
        1 => (capacities(seed, agents), terms(seed, agents)),
        _ => (Vec::new(), Terms::default()),
    }
}

fn capacities(seed: u64, agents: usize) -> Vec<u64> {
    let capacity = |agent: usize| (4 + dice(seed, agent as u64, 375) % 21) << 20;
    (0..agents).map(capacity).collect()
}

fn terms(seed: u64, agents: usize) -> Terms {
    let said = |agent: usize| {
        let roll = |purpose: u64, below: u64| dice(seed, agent as u64 + (purpose << 32), 376) % below;
        let label = |name: &str, purpose, of| {
            let label = format!("{name}{}", roll(purpose, of));
            (roll(purpose + 10, 4) > 0).then(|| label.parse().expect("a legal label"))
        };
        ServerTerms {
            price_percent: [50, 100, 100, 150, 300][pick(seed, 20 + agent as u64, 5)],
            // The first one takes them, so that there is one.
            new_objects: agent == 0 || roll(0, 6) > 0,
            bandwidth_mbit: (roll(1, 2) == 0).then(|| 1 + u32::try_from(roll(2, 8)).expect("below 8")),
            rack: label("rack", 3, 3),
            region: label("region", 4, 2),
        }
    };
    let name = |agent: usize| format!("s{}", agent + 1).parse().expect("a legal name");
    Terms {
        servers: (0..agents).map(|agent| (name(agent), said(agent))).collect(),
        ..Terms::default()
    }
}

/// The run of a seed, if it is one of those with a load for long enough that objects move for it.
pub(super) fn of_seed(seed: u64, kinds: &BTreeSet<&'static str>) -> Option<Script> {
    (dice(seed, 9, 370) % LOADS_OF == 1).then(|| load(seed, kinds))
}

/// A pool that balances itself under a load: in some runs one that stays the same.
#[must_use]
pub fn load(seed: u64, kinds: &BTreeSet<&'static str>) -> Script {
    match dice(seed, 10, 370) % STEADY_OF {
        0 => steady(seed),
        _ => changing(seed, kinds),
    }
}

/// A pool that balances itself under the load of many clients, while things go wrong.
fn changing(seed: u64, kinds: &BTreeSet<&'static str>) -> Script {
    let roll = |number: u64, purpose: u64, below: u64| dice(seed, number, purpose) % below;
    let agents = 2 + pick(seed, 30, 4);
    let one_is_free = agents > 2 && roll(0, 377, 4) == 0;
    let (clients, objects) = (2 + pick(seed, 31, 3), 4 + pick(seed, 32, 14));
    let ends = (30 + roll(1, 377, 30)) * S;
    let workload = match roll(2, 377, 5) {
        0 => Workload::Uniform,
        _ => Workload::of(seed, objects, ends),
    };
    let requests = Requests::new(seed, workload, objects);
    let mut deeds = made_early(seed, clients, objects, 3 * S);
    let per_second = 2 + roll(3, 377, 4);
    for number in 0..per_second * ends / S {
        let at = requests.moment(number, ends);
        let (client, object) = (pick(seed, number + 1000, clients), requests.object(number, at));
        let deed = match roll(number, 63, 100) {
            0..=24 => Deed::Put(client, object),
            25..=98 => Deed::Read(client, object),
            _ => Deed::Delete(client, object),
        };
        deeds.push((at, deed));
    }
    if one_is_free {
        deeds.push((ends / 2, Deed::Drain(pick(seed, 33, agents))));
    }
    deeds.sort_by_key(|(at, _)| *at);
    Script {
        agents,
        one_is_free,
        capacities: capacities(seed, agents),
        terms: terms(seed, agents),
        tells: true,
        balances: true,
        renews: roll(4, 377, 4) == 0,
        clients,
        workload,
        deeds,
        ends,
        faults: Source::Random {
            rate: [0, 2, 5, 20][pick(seed, 34, 4)],
            kinds: kinds.clone(),
            often: None,
        },
        ..Script::quiet(seed, objects, &[])
    }
}

/// When a steady pool has come to rest: objects may have moved for their heat three times by then, with what is waited between.
const RESTS_FROM: Time = 160 * S;

/// A pool that balances itself under a load that stays the same, with nothing that goes wrong: in the end it is at rest.
///
/// It evens out either octets or requests. With both, each undoes some of the other's work where objects are few, and objects
/// go on moving, each once in the time that it rests.
#[must_use]
pub fn steady(seed: u64) -> Script {
    let agents = 2 + pick(seed, 35, 3);
    let (clients, objects) = (2, 6 + pick(seed, 36, 10));
    let workload = match dice(seed, 11, 370) % 3 {
        0 => Workload::Uniform,
        _ => Workload::Zipf(EXPONENTS[pick(seed, 37, EXPONENTS.len())]),
    };
    let placement = match dice(seed, 12, 370) % 3 {
        0 => Placement {
            cpu: 0,
            bandwidth: 0,
            ..Placement::default()
        },
        _ => Placement {
            storage: 0,
            ..Placement::default()
        },
    };
    let ends = RESTS_FROM + 40 * S;
    let mut deeds = made_early(seed, clients, objects, S);
    deeds.extend(Requests::new(seed, workload, objects).evenly(STEADY_RATE, clients, 2 * S, ends));
    deeds.sort_by_key(|(at, _)| *at);
    Script {
        agents,
        capacities: capacities(seed, agents),
        terms: Terms {
            placement,
            ..terms(seed, agents)
        },
        tells: true,
        balances: true,
        renews: false,
        rests_from: Some(RESTS_FROM),
        is_calm: true,
        clients,
        workload,
        deeds,
        ends,
        ..Script::quiet(seed, objects, &[])
    }
}

/// Requests a second of a steady load: what is uneven by chance is told from what is uneven by more.
const STEADY_RATE: u64 = 16;

/// Every object is made within a time.
fn made_early(seed: u64, clients: usize, objects: usize, within: Time) -> Vec<(Time, Deed)> {
    let put = |object: usize| {
        let at = dice(seed, object as u64, 64) % within;
        (at, Deed::Put(object % clients, object))
    };
    (0..objects).map(put).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Time = 60 * S;
    const OBJECTS: usize = 10;

    /// Moments and objects of some requests, in order.
    fn drawn(workload: Workload) -> Vec<(Time, usize)> {
        let requests = Requests::new(7, workload, OBJECTS);
        let mut drawn: Vec<_> = (0..4_000)
            .map(|number| {
                let at = requests.moment(number, ENDS);
                (at, requests.object(number, at))
            })
            .collect();
        drawn.sort_unstable();
        drawn
    }

    /// How many of them are for each object, the most first.
    fn ranked(requests: &[(Time, usize)]) -> Vec<(usize, usize)> {
        let count = |object| requests.iter().filter(|(_, other)| *other == object).count();
        let mut counts: Vec<_> = (0..OBJECTS).map(|object| (count(object), object)).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn uniform_requests_are_for_all_objects_alike() {
        let counts = ranked(&drawn(Workload::Uniform));
        assert!(counts[0].0 < 480 && counts[9].0 > 320, "{counts:?}");
    }

    #[test]
    fn few_objects_get_most_requests_by_zipfs_law() {
        let counts = ranked(&drawn(Workload::Zipf(120)));
        let parts = Zipf::new(OBJECTS, 1.2);
        for (rank, (count, _)) in counts.iter().enumerate() {
            let expected = parts.part(rank) * 4_000.0;
            assert!((*count as f64 - expected).abs() < 100.0, "{counts:?}");
        }
    }

    #[test]
    fn crowd_asks_for_one_object_while_it_lasts() {
        let (from, until) = (20 * S, 30 * S);
        let crowd = Workload::Crowd { object: 3, from, until };
        let (within, others): (Vec<_>, Vec<_>) =
            drawn(crowd).into_iter().partition(|(at, _)| (from..until).contains(at));
        let counts = ranked(&within);
        assert_eq!(counts[0].1, 3);
        assert!(counts[0].0 * 10 > within.len() * 7, "{counts:?}");
        assert!(within.len() > others.len() / 2, "{} and {}", within.len(), others.len());
        let counts = ranked(&others);
        assert!(counts[0].0 < 2 * counts[9].0, "{counts:?}");
    }

    #[test]
    fn waves_rise_and_fall_and_bring_other_objects_each_time() {
        let turn = 20 * S;
        let drawn = drawn(Workload::Waves(turn));
        let of = |from: Time, until: Time| -> Vec<_> {
            drawn
                .iter()
                .copied()
                .filter(|(at, _)| (from..until).contains(at))
                .collect()
        };
        let first: Vec<usize> = (0..3)
            .map(|wave| ranked(&of(wave * turn, (wave + 1) * turn))[0].1)
            .collect();
        assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
        let (calm, busy) = (of(0, 2 * S).len(), of(9 * S, 11 * S).len());
        assert!(busy > 3 * calm, "{calm} and {busy}");
    }

    #[test]
    fn steady_load_is_the_same_in_every_window() {
        let requests = Requests::new(7, Workload::Zipf(100), OBJECTS).evenly(4, 2, 0, ENDS);
        for window in 0..12 {
            let within = |(at, _): &&(Time, Deed)| at / (5 * S) == window;
            let count = requests.iter().filter(within).count();
            assert!((16..=24).contains(&count), "{window}: {count}");
        }
    }

    #[test]
    fn some_server_always_takes_new_objects() {
        for seed in 0..50 {
            assert!(terms(seed, 4).servers.values().any(|said| said.new_objects), "{seed}");
        }
    }
}
