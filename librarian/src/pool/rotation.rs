//! The order in which a pool is upgraded (a stand-in until the search is merged).

use zones::ServerName;

/// One server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: ServerName,
    /// Octets that it can hold.
    pub capacity: u64,
    /// Octets of its objects.
    pub used: u64,
    /// Its part.
    pub part: Part,
    /// The operator's factor for it, in percent.
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
    /// Kept back.
    Reserve,
    /// Out.
    Failed,
}

/// Where objects go in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refill {
    /// They stay where they were moved.
    Rotate,
    /// Back home.
    Home,
}

/// A pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topology {
    /// Its servers.
    pub hosts: Vec<Host>,
    /// Room that a server must have for what comes, in percent of it.
    pub room_percent: u64,
    /// Where objects go in the end.
    pub refill: Refill,
}

/// One server's turn.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Which.
    pub server: ServerName,
    /// Where its objects go.
    pub into: Option<ServerName>,
}

/// An order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// Turns that go on at once, one round after the other.
    pub rounds: Vec<Vec<Step>>,
}

/// There is no order.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no order of the servers works: give the free server more room")]
pub struct Refusal;

/// Finds an order.
///
/// # Errors
///
/// [`Refusal`].
pub fn search(topology: &Topology) -> Result<Rotation, Refusal> {
    let mut hosts = topology.hosts.clone();
    let mut rounds = Vec::new();
    while hosts.iter().any(|host| host.part == Part::Serving && !host.done) {
        let fits = |from: &Host, into: &Host| from.used * topology.room_percent / 100 <= into.capacity - into.used;
        let pair = hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.part == Part::Free && host.done)
            .find_map(|(f, free)| {
                let next = hosts
                    .iter()
                    .enumerate()
                    .filter(|(_, host)| host.part == Part::Serving && !host.done && fits(host, free));
                next.max_by_key(|(_, host)| host.capacity).map(|(s, _)| (s, f))
            });
        let (s, f) = pair.ok_or(Refusal)?;
        rounds.push(vec![Step {
            server: hosts[s].name.clone(),
            into: Some(hosts[f].name.clone()),
        }]);
        hosts[f].used += hosts[s].used;
        hosts[f].part = Part::Serving;
        hosts[s].used = 0;
        hosts[s].part = Part::Free;
        hosts[s].done = true;
    }
    Ok(Rotation { rounds })
}
