//! The smallest changes that would let a pool be upgraded, each tried.

use std::fmt;

use zones::ServerName;

use super::{Host, Part, Refusal, Topology, judge, need, waits};

/// A change that would help.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A server with more room.
    Enlarge {
        /// Which.
        server: ServerName,
        /// To so many octets.
        capacity: u64,
    },
    /// More free servers.
    Invite {
        /// How many.
        servers: usize,
        /// Each of so many octets.
        capacity: u64,
    },
    /// Fewer objects on a server.
    Lighten {
        /// Which.
        server: ServerName,
        /// By so many octets.
        octets: u64,
    },
    /// Less reserve.
    Percent {
        /// So much room, in percent of what comes.
        percent: u64,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Enlarge { server, capacity } => {
                write!(
                    f,
                    "give {server} {capacity} octets (`store.capacity` in its agent.toml)"
                )
            }
            Change::Invite { servers: 1, capacity } => write!(
                f,
                "invite one more free server of {capacity} octets (`librarian invite s9 --role free`)"
            ),
            Change::Invite { servers, capacity } => write!(
                f,
                "invite {servers} more free servers of {capacity} octets each (`librarian invite s9 --role free`)"
            ),
            Change::Lighten { server, octets } => write!(f, "take {octets} octets off {server}"),
            Change::Percent { percent } => write!(f, "ask for less reserve (`--room-percent {percent}`)"),
        }
    }
}

/// The changes as the end of a sentence.
pub(super) fn sentence(help: &[Change]) -> String {
    match help {
        [] => String::new(),
        [..] => {
            let changes: Vec<String> = help.iter().map(ToString::to_string).collect();
            format!("; what would help: {}", changes.join(", or "))
        }
    }
}

/// The refusal with what would help.
pub(super) fn add(topology: &Topology, refusal: Refusal) -> Refusal {
    let found = || changes(topology);
    match refusal {
        Refusal::NoFree => Refusal::NoFree,
        Refusal::CannotFinish { server, needed, .. } => Refusal::CannotFinish {
            server,
            needed,
            help: found(),
        },
        Refusal::CannotUndo { server, needed, .. } => Refusal::CannotUndo {
            server,
            needed,
            help: found(),
        },
    }
}

/// The smallest change of each kind.
fn changes(topology: &Topology) -> Vec<Change> {
    let works = |topology: &Topology| judge(topology).is_ok();
    let mut found = Vec::new();
    // More room changes nothing between two needs, so only needs are tried, there and back.
    let mut needs: Vec<u64> = topology
        .hosts
        .iter()
        .flat_map(|host| [need(host, topology.room_percent), host.used])
        .collect();
    needs.sort_unstable();
    needs.dedup();
    let enlarged = topology
        .hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| host.part != Part::Failed)
        .filter_map(|(at, host)| {
            let larger: Vec<u64> = needs.iter().copied().filter(|need| *need > host.capacity).collect();
            let with = |capacity: u64| changed(topology, at, |host| host.capacity = capacity);
            let least = least(&larger, |capacity| works(&with(*capacity)))?;
            Some((least - host.capacity, host.name.clone(), least))
        });
    found.extend(
        enlarged
            .min()
            .map(|(_, server, capacity)| Change::Enlarge { server, capacity }),
    );
    let invited = |servers: usize, capacity: u64| {
        let mut with = topology.clone();
        with.hosts.extend((0..servers).map(|number| Host {
            name: format!("zz-{number}").parse().expect("a legal name"),
            capacity,
            used: 0,
            part: Part::Free,
            price_percent: 100,
            done: true,
        }));
        with
    };
    // As many as there are servers always help, if they are large enough.
    let largest = needs.last().copied().unwrap_or(0);
    let counts: Vec<usize> = (1..=topology.hosts.len()).collect();
    if let Some(servers) = least(&counts, |servers| works(&invited(*servers, largest))) {
        let capacity = least(&needs, |capacity| works(&invited(servers, *capacity)));
        found.extend(capacity.map(|capacity| Change::Invite { servers, capacity }));
    }
    let lightened = topology
        .hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| waits(host) || host.done && host.part == Part::Serving)
        .filter_map(|(at, host)| {
            let with = |octets: &u64| changed(topology, at, |host| host.used -= octets);
            let mut all: Vec<u64> = topology
                .hosts
                .iter()
                .flat_map(|other| [other.capacity, percent_of(other.capacity, topology.room_percent)])
                .filter(|used| *used < host.used)
                .map(|used| host.used - used)
                .chain([host.used])
                .collect();
            all.sort_unstable();
            all.dedup();
            Some((least(&all, |octets| works(&with(octets)))?, host.name.clone()))
        });
    found.extend(
        lightened
            .min()
            .map(|(octets, server)| Change::Lighten { server, octets }),
    );
    let lower: Vec<u64> = (100..topology.room_percent).rev().collect();
    let with = |percent: u64| Topology {
        room_percent: percent,
        ..topology.clone()
    };
    found.extend(least(&lower, |percent| works(&with(*percent))).map(|percent| Change::Percent { percent }));
    found
}

/// What a server may hold at most to fit into so much room.
fn percent_of(room: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(room) * 100 / u128::from(percent)).unwrap_or(u64::MAX)
}

fn changed(topology: &Topology, at: usize, change: impl FnOnce(&mut Host)) -> Topology {
    let mut with = topology.clone();
    change(&mut with.hosts[at]);
    with
}

/// The first value from which on it works: what works goes on working with more.
fn least<T: Copy>(values: &[T], works: impl Fn(&T) -> bool) -> Option<T> {
    let at = values.partition_point(|value| !works(value));
    values.get(at).copied()
}
