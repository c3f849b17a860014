//! The order in which the servers of a pool are upgraded.
//!
//! Pure. A server is drained into a free one, is upgraded, and is the next free one; so an order is a path from the free server
//! through all that are to be upgraded, each of which must fit into the one before. Whether there is one is decided exactly
//! (`path`), for any number of servers and of free ones.
//!
//! | file | what |
//! |---|---|
//! | `path` | whether servers can follow each other, and why not |
//! | `help` | the smallest changes that would let them |
//!
//! **Back.** Going back, each server's objects return to it in the reverse order, so a plan made now can be undone from each of its
//! steps as far as the state that it begins with. That this state itself can be undone, with what was moved before and has grown
//! since, is searched like an order, with the releases exchanged; objects that go back need their own room and no reserve beyond it.
//!
//! Searched anew before every step (UPGRADE.md section 3), so the first round is what counts; the others show that there is an end.

mod help;
mod path;
#[cfg(test)]
mod tests;

use zones::ServerName;

pub use help::Change;
use path::{Item, Stop};

/// One server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: ServerName,
    /// Octets that it can hold.
    pub capacity: u64,
    /// Octets that its objects take.
    pub used: u64,
    /// Its part.
    pub part: Part,
    /// The operator's price for it, in percent of the usual: of servers that can be drained next, the dearest comes last, so that it is
    /// the one that holds nothing in the end.
    pub price_percent: u32,
    /// Whether it runs the goal's release.
    pub done: bool,
}

/// A server's part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// Holds objects.
    Serving,
    /// Holds none, and takes the next drain.
    Free,
    /// Kept back: upgraded last, and no target.
    Reserve,
    /// Out.
    Failed,
}

/// Where objects go in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refill {
    /// They stay where they were moved to.
    Rotate,
    /// Back to the server that they came from.
    Home,
}

/// A pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topology {
    /// Its servers.
    pub hosts: Vec<Host>,
    /// Room that a server must have for what comes, in percent of it; at least 100.
    pub room_percent: u64,
    /// Where objects go in the end.
    pub refill: Refill,
}

/// One server's turn.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Which.
    pub server: ServerName,
    /// Where its objects go; `None` for one that holds none.
    pub into: Option<ServerName>,
}

/// An order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rotation {
    /// Turns that go on at once, one round after the other.
    pub rounds: Vec<Vec<Step>>,
}

/// There is no order.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing to drain into.
    #[error("no server is free to take the first drain: invite one with `librarian invite s9 --role free`")]
    NoFree,
    /// A server fits nowhere.
    #[error(
        "{server} needs room for {needed} octets and no order leaves that much free for it{}",
        help::sentence(help)
    )]
    CannotFinish {
        /// Which.
        server: ServerName,
        /// Room that it needs, the reserve included.
        needed: u64,
        /// What would help, the smallest change of each kind.
        help: Vec<Change>,
    },
    /// Servers that have been upgraded could not go back.
    #[error(
        "the way back is closed: the objects on {server} ({needed} octets) fit into no server of the old release any more{}",
        help::sentence(help)
    )]
    CannotUndo {
        /// Which.
        server: ServerName,
        /// Octets on it.
        needed: u64,
        /// What would help, the smallest change of each kind.
        help: Vec<Change>,
    },
}

/// Finds an order, the same for the same pool.
///
/// # Errors
///
/// [`Refusal`] says which server fits nowhere, and the smallest changes that would help.
pub fn search(topology: &Topology) -> Result<Rotation, Refusal> {
    match judge(topology) {
        Ok(()) => Ok(order(topology)),
        Err(refusal) => Err(help::add(topology, refusal)),
    }
}

/// Whether there is an order, and a way back.
fn judge(topology: &Topology) -> Result<(), Refusal> {
    let back = Topology {
        hosts: topology
            .hosts
            .iter()
            .map(|host| Host {
                done: !host.done,
                ..host.clone()
            })
            .collect(),
        room_percent: 100,
        refill: topology.refill,
    };
    let stopped = |stop: Stop| match stop {
        Stop::NoFree => (None, 0),
        Stop::Item { at, needed } => (Some(topology.hosts[at].name.clone()), needed),
    };
    if let Err(stop) = fits(topology) {
        return Err(match stopped(stop) {
            (Some(server), needed) => Refusal::CannotFinish {
                server,
                needed,
                help: Vec::new(),
            },
            (None, _) => Refusal::NoFree,
        });
    }
    match fits(&back).map_err(stopped) {
        Ok(()) => Ok(()),
        Err((Some(server), needed)) => Err(Refusal::CannotUndo {
            server,
            needed,
            help: Vec::new(),
        }),
        Err((None, _)) => Err(Refusal::NoFree),
    }
}

/// Whether every server that is not done can be drained.
fn fits(topology: &Topology) -> Result<(), Stop> {
    let (items, free) = parts(topology);
    match topology.refill {
        Refill::Rotate => path::exists(&items, &free),
        Refill::Home => path::each_fits(&items, &free),
    }
}

/// Servers to be drained, by their place among the hosts, and the room of those that are free.
fn parts(topology: &Topology) -> (Vec<Item>, Vec<u64>) {
    let items = topology.hosts.iter().enumerate().filter(|(_, host)| waits(host));
    let items = items.map(|(at, host)| Item {
        at,
        need: need(host, topology.room_percent),
        room: host.capacity,
    });
    let free = topology.hosts.iter().filter(|host| host.part == Part::Free);
    (items.collect(), free.map(|host| host.capacity).collect())
}

fn waits(host: &Host) -> bool {
    host.part == Part::Serving && !host.done
}

/// Octets that must be free for what a server holds.
fn need(host: &Host, percent: u64) -> u64 {
    let needed = (u128::from(host.used) * u128::from(percent)).div_ceil(100);
    u64::try_from(needed).unwrap_or(u64::MAX)
}

/// The order, where there is one: the canary alone, the other free servers, then drains, then reserves.
fn order(topology: &Topology) -> Rotation {
    let mut hosts = topology.hosts.clone();
    let alone = |host: &Host| Step {
        server: host.name.clone(),
        into: None,
    };
    let of = |part: Part| {
        let mut found: Vec<&Host> = topology
            .hosts
            .iter()
            .filter(|host| host.part == part && !host.done)
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.into_iter().map(alone).collect::<Vec<Step>>()
    };
    let mut rounds = Vec::new();
    let mut free = of(Part::Free);
    let tried = topology.hosts.iter().any(|host| host.done && host.part != Part::Failed);
    if !tried && free.len() > 1 {
        rounds.push(free.drain(..1).collect());
    }
    rounds.push(free);
    loop {
        let round = next_round(&mut hosts, topology);
        if round.is_empty() {
            break;
        }
        rounds.push(round);
    }
    rounds.extend(of(Part::Reserve).into_iter().map(|step| vec![step]));
    rounds.retain(|round| !round.is_empty());
    Rotation { rounds }
}

/// As many drains as can go on at once, so that what is left can still be done afterwards.
fn next_round(hosts: &mut [Host], topology: &Topology) -> Vec<Step> {
    let percent = topology.room_percent;
    let mut targets: Vec<usize> = (0..hosts.len()).filter(|at| hosts[*at].part == Part::Free).collect();
    // The smallest first: what fits into it need not take a larger one's place.
    targets.sort_by(|a, b| (hosts[*a].capacity, &hosts[*a].name).cmp(&(hosts[*b].capacity, &hosts[*b].name)));
    let mut waiting: Vec<usize> = (0..hosts.len()).filter(|at| waits(&hosts[*at])).collect();
    waiting.sort_by(|a, b| {
        let key = |at: &usize| {
            (
                hosts[*at].price_percent,
                std::cmp::Reverse(hosts[*at].used),
                hosts[*at].name.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let mut round = Vec::new();
    for into in targets {
        let found = waiting.iter().copied().find(|server| {
            if need(&hosts[*server], percent) > hosts[into].capacity {
                return false;
            }
            let mut after = hosts.to_vec();
            drained(&mut after, *server, into, topology.refill);
            let rest = Topology {
                hosts: after,
                ..topology.clone()
            };
            fits(&rest).is_ok()
        });
        let Some(server) = found else { continue };
        waiting.retain(|other| *other != server);
        round.push(Step {
            server: hosts[server].name.clone(),
            into: Some(hosts[into].name.clone()),
        });
        drained(hosts, server, into, topology.refill);
    }
    round
}

/// What a server's turn leaves behind.
fn drained(hosts: &mut [Host], server: usize, into: usize, refill: Refill) {
    hosts[server].done = true;
    // A free server has had its turn before it takes anything.
    hosts[into].done = true;
    match refill {
        Refill::Home => {}
        Refill::Rotate => {
            hosts[into].used = hosts[server].used;
            hosts[into].part = Part::Serving;
            hosts[server].used = 0;
            hosts[server].part = Part::Free;
        }
    }
}
