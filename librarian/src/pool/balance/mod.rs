//! A pool that balances itself: wishes for single objects, under a plan under which nothing else moves.
//!
//! Level-triggered like all of the controller: each turn looks at what agents say now, at what was wished and has not happened
//! yet, and says which wishes there should be. What it remembers may be lost: then objects that moved a moment ago may move
//! once more, and the schedule goes on from where the clock says.
//!
//! ```text
//!  Goal::Balance:  octets beyond the tolerance  --> any objects of the fullest server to the emptiest
//!                  requests beyond it, for long --> single objects that are asked for most, to the calmest
//!  a schedule:     each object once in so long, to the emptiest other server
//! ```
//!
//! Copies that follow heat (`super::spread`) come first: nothing moves for its requests while they are made, requests are looked at as
//! they will be once all such copies are there, and
//! objects that have them, or may soon, stay where they are but for the schedule. An object moves for its requests only off the
//! server that owns it: what others hold of it goes by copies.
//!
//! Bounds: [`Settings::at_once`] wishes for a server, one wish for an object, none for an object that moved or could not move
//! within [`RESTS_FOR`]. A new plan takes all wishes away, and nothing is wished while a plan moves objects itself or an
//! upgrade is under way (DESIGN.md section 13: rebalancing stays out of the current step).

mod even;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use zones::want::WISHES_MAX;
use zones::{Address, Register, Role, ServerName, State, Wish};

pub(super) use even::requests_parts;
pub use even::{Evenness, Flow, HotMove, Share, even_octets, even_requests, evenness};

use super::decide::{Decision, course};
use super::plan::Goal;
use super::sight::Sight;
use crate::place::{Terms, apart};
use crate::registry::View;
use schedule::Schedule;

/// How long an object stays where it is after it moved for its heat or by the schedule, and after a wish for it came to nothing.
pub const RESTS_FOR: Duration = Duration::from_secs(600);
/// How long requests must be uneven before objects move for it: three windows of the agents' counters.
const UNEVEN_FOR: Duration = Duration::from_secs(15);
/// Time in which the agents' counters forget what was asked for where.
const COUNTERS_SETTLE: Duration = Duration::from_secs(30);
/// A wish that has not come true in this time is taken back.
const WISH_LASTS: Duration = Duration::from_secs(60);
/// Registers that are looked through at once for objects to move.
const SCAN_MAX: usize = 20_000;
/// Objects that rest, at most; the ones that have rested longest go first.
const RESTING_MAX: usize = 16_384;

/// What an operator may change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Within so many percent of its fair part a server is left alone.
    pub tolerance_percent: u32,
    /// Whether octets are spread.
    pub octets: bool,
    /// Whether requests are spread.
    pub requests: bool,
    /// Most wishes for one server at a time, at most 64.
    pub at_once: usize,
    /// After so long every object moves to another server, for a fresh key and place; `None`: never.
    pub move_after: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tolerance_percent: 5,
            octets: true,
            requests: true,
            at_once: WISHES_MAX,
            move_after: None,
        }
    }
}

/// Why an object is to move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Why {
    Octets,
    Requests,
    Age,
}

/// A wish that is not done.
#[derive(Clone, Debug)]
struct Open {
    from: ServerName,
    to: ServerName,
    why: Why,
    octets: u64,
    since: Instant,
}

/// What balancing remembers.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    /// The plan that the wishes are of.
    plan: u64,
    open: BTreeMap<Address, Open>,
    /// Until when objects stay.
    resting: BTreeMap<Address, Instant>,
    /// Whether octets are being spread: it begins beyond the tolerance and goes on until well within it.
    spreading: bool,
    /// Since when requests are uneven.
    uneven_since: Option<Instant>,
    /// When the last object came that moved for its heat, or copies were last made for it.
    heat_moved: Option<Instant>,
    cursors: BTreeMap<ServerName, Address>,
    schedule: Schedule,
    moved: u64,
}

/// How a pool stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Standing {
    /// The fullest server's octets over its fair part; 1 in an even pool.
    pub fullest: f64,
    /// The emptiest server's octets over its fair part.
    pub emptiest: f64,
    /// The busiest server's requests over its fair part.
    pub busiest: f64,
    /// Within so many percent of 1 all is left alone.
    pub tolerance_percent: u32,
    /// Whether the current plan is one that balances.
    pub on: bool,
    /// Wishes that are not done.
    pub wished: u64,
    /// Objects that came where they were wished, since the librarian started.
    pub moved: u64,
    /// Servers that take part.
    pub servers: Vec<Part>,
}

/// One server's part.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub server: String,
    /// Objects that it owns.
    pub objects: u64,
    /// Octets of disk that they take, and copies of others' objects.
    pub used: u64,
    /// Octets that it has room for.
    pub capacity: u64,
    /// Requests, in thousandths a second.
    pub asked_milli: u64,
}

/// What balancing would do from now on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Preview {
    /// How the pool stands.
    pub now: Standing,
    /// Objects that would go for the sake of octets.
    pub flows: Vec<PreviewFlow>,
    /// Objects that would go for the sake of requests, if these stay as they are.
    pub hot: Vec<PreviewHot>,
    /// The fullest server's octets over its fair part afterwards.
    pub fullest_after: f64,
    /// The busiest server's requests over its fair part afterwards.
    pub busiest_after: f64,
}

/// So many objects of one server to another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PreviewFlow {
    /// Off this server.
    pub from: String,
    /// To this one.
    pub to: String,
    /// Objects.
    pub objects: u64,
}

/// One object of one server to another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PreviewHot {
    /// The object.
    pub address: String,
    /// How often it is asked for, in thousandths a second.
    pub rate_milli: u64,
    /// Off this server.
    pub from: String,
    /// To this one.
    pub to: String,
}

impl Default for Balancer {
    fn default() -> Self {
        Balancer::new(Settings::default())
    }
}

impl Balancer {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Balancer {
        Balancer {
            settings,
            plan: 0,
            open: BTreeMap::new(),
            resting: BTreeMap::new(),
            spreading: false,
            uneven_since: None,
            heat_moved: None,
            cursors: BTreeMap::new(),
            schedule: Schedule::default(),
            moved: 0,
        }
    }

    /// The wishes that there should be now, for every server whose list is another; `None` if all is as it should be, and
    /// while wishes are not for this to write. `unix_ms` is calendar time.
    pub fn turn(
        &mut self,
        now: Instant,
        unix_ms: u64,
        view: &View<'_>,
        sight: &Sight,
    ) -> Option<BTreeMap<ServerName, Vec<Wish>>> {
        let number = sight.number();
        if number != self.plan {
            // Its wants have taken the wishes of the plan before away.
            self.plan = number;
            self.open.clear();
            self.uneven_since = None;
        }
        let balances = self.balances(sight)?;
        self.settle(now, view);
        let mut shares = self.shares(sight);
        if shares.len() > 1 {
            if balances && self.settings.octets {
                self.spread_octets(now, view, sight, &mut shares);
            }
            if balances && self.settings.requests {
                self.spread_requests(now, view, sight, &mut shares);
            }
            if let Some(after) = self.settings.move_after {
                self.renew(now, unix_ms, after, view, &sight.copies.terms, &shares);
            }
        }
        self.news(view)
    }

    /// Whether the current plan balances; `None` while nothing may be wished at all.
    fn balances(&self, sight: &Sight) -> Option<bool> {
        let plan = sight.plan.as_ref();
        let upgrade = plan.and_then(|plan| plan.upgrade.as_ref());
        if upgrade.is_some_and(|upgrade| !upgrade.is_over()) || course(sight) != Decision::Rest {
            return None;
        }
        let balances = plan.is_some_and(|plan| plan.goal == Goal::Balance);
        (balances || self.settings.move_after.is_some()).then_some(balances)
    }

    /// Takes note of what was done, and gives up what does not happen.
    fn settle(&mut self, now: Instant, view: &View<'_>) {
        let (heat_moved, resting, moved) = (&mut self.heat_moved, &mut self.resting, &mut self.moved);
        self.open.retain(|address, open| {
            let register = view
                .register(address)
                .filter(|register| register.state != State::Deleted);
            let is_there = register.as_ref().is_some_and(|register| register.owner == open.to);
            let is_here = register.is_some_and(|register| register.owner == open.from);
            if is_there {
                *moved += 1;
                if open.why == Why::Requests {
                    *heat_moved = Some(now);
                }
            }
            let gives_up = is_here && now.saturating_duration_since(open.since) > WISH_LASTS;
            if gives_up || is_there && open.why != Why::Octets {
                resting.insert(address.clone(), now + RESTS_FOR);
            }
            is_here && !gives_up
        });
        resting.retain(|_, until| *until > now);
        while resting.len() > RESTING_MAX {
            let first = resting.iter().min_by_key(|(_, until)| **until);
            let Some(first) = first.map(|(address, _)| address.clone()) else {
                break;
            };
            resting.remove(&first);
        }
    }

    /// The servers that give and take, as they will be when all wishes are done and all copies for heat are there.
    fn shares(&self, sight: &Sight) -> Vec<Share> {
        let mut shares = expected_shares(sight);
        for open in self.open.values() {
            for share in &mut shares {
                if share.name == open.from {
                    share.used = share.used.saturating_sub(open.octets);
                    share.objects = share.objects.saturating_sub(1);
                } else if share.name == open.to {
                    share.used = share.used.saturating_add(open.octets);
                    share.objects += 1;
                }
            }
        }
        shares
    }

    fn tolerance(&self) -> f64 {
        f64::from(self.settings.tolerance_percent) / 100.0
    }

    /// How many more wishes a server may have.
    fn room(&self, from: &ServerName) -> usize {
        let open = self.open.values().filter(|open| open.from == *from).count();
        self.settings.at_once.min(WISHES_MAX).saturating_sub(open)
    }

    fn spread_octets(&mut self, now: Instant, view: &View<'_>, sight: &Sight, shares: &mut [Share]) {
        let even = evenness(shares);
        let off = (even.fullest - 1.0).max(1.0 - even.emptiest);
        // Beyond the tolerance it begins; it ends in the middle of it, so that the next write does not begin it anew.
        self.spreading = off > self.tolerance() || self.spreading && off > self.tolerance() / 2.0;
        if !self.spreading {
            return;
        }
        let each: BTreeMap<ServerName, u64> = shares.iter().map(|share| (share.name.clone(), share.each)).collect();
        let flows = even_octets(shares, self.tolerance() / 2.0, self.settings.at_once as u64);
        self.spreading = !flows.is_empty();
        for flow in flows {
            let objects = usize::try_from(flow.objects)
                .unwrap_or(WISHES_MAX)
                .min(self.room(&flow.from));
            for address in self.some_of(view, sight, &flow, objects) {
                self.wish(now, address, &flow.from, &flow.to, Why::Octets, each[&flow.from]);
            }
        }
    }

    fn spread_requests(&mut self, now: Instant, view: &View<'_>, sight: &Sight, shares: &mut [Share]) {
        let (spread, terms) = (sight.spread.as_ref(), &sight.copies.terms);
        let over_for = |since: Option<Instant>, time| since.is_none_or(|at| now.saturating_duration_since(at) >= time);
        if spread.is_some_and(|spread| spread.is_making) {
            self.heat_moved = Some(now);
        }
        let pending = self.open.values().any(|open| open.why == Why::Requests);
        if pending || !over_for(self.heat_moved, COUNTERS_SETTLE) {
            self.uneven_since = None;
            return;
        }
        let watched = spread.iter().flat_map(|spread| &spread.watched);
        let stays = self.resting.keys().chain(self.open.keys()).chain(watched);
        let stays: BTreeSet<Address> = stays.cloned().collect();
        let may = |address: &Address, to: &ServerName| may_go(view, terms, address, to);
        let moves = even_requests(shares, self.tolerance(), &stays, may);
        if moves.is_empty() {
            self.uneven_since = None;
            return;
        }
        let since = *self.uneven_since.get_or_insert(now);
        if !over_for(Some(since), UNEVEN_FOR) {
            return;
        }
        for HotMove { hot, from, to } in moves {
            let is_there = view
                .register(&hot.address)
                .is_some_and(|register| register.owner == from && register.state == State::Stable);
            if is_there && self.room(&from) > 0 {
                self.wish(now, hot.address, &from, &to, Why::Requests, 0);
            }
        }
    }

    /// Objects whose time has come by the schedule.
    fn renew(&mut self, now: Instant, unix_ms: u64, after: Duration, view: &View<'_>, terms: &Terms, shares: &[Share]) {
        let mut fill: Vec<(f64, &Share)> = shares
            .iter()
            .map(|share| (share.used as f64 / share.capacity.max(1) as f64, share))
            .collect();
        for id in self.schedule.due(unix_ms, after, view.rows()) {
            let register = view.row(id).filter(|register| register.state == State::Stable);
            let Some(register) = register else { continue };
            let takes_part = shares.iter().any(|share| share.name == register.owner);
            let busy = self.open.contains_key(&register.address) || self.resting.contains_key(&register.address);
            if !takes_part || busy || self.room(&register.owner) == 0 {
                continue;
            }
            fill.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            let taker = fill.iter_mut().find(|(_, share)| suits(terms, &register, &share.name));
            let Some((filled, taker)) = taker else { continue };
            let each = taker.each;
            *filled += each as f64 / taker.capacity.max(1) as f64;
            let to = taker.name.clone();
            self.wish(now, register.address, &register.owner, &to, Why::Age, each);
        }
    }

    fn wish(&mut self, since: Instant, address: Address, from: &ServerName, to: &ServerName, why: Why, octets: u64) {
        let open = Open {
            from: from.clone(),
            to: to.clone(),
            why,
            octets,
            since,
        };
        self.open.insert(address, open);
    }

    /// Objects that a server owns and that may move where they are to go, from where the last ones were found on.
    fn some_of(&mut self, view: &View<'_>, sight: &Sight, flow: &Flow, most: usize) -> Vec<Address> {
        if most == 0 {
            return Vec::new();
        }
        let server = &flow.from;
        let (found, next) = view.owned_by(server, self.cursors.get(server), (SCAN_MAX, most), |address| {
            let spread = sight.spread.as_ref();
            let is_watched = spread.is_some_and(|spread| spread.watched.contains(address));
            let is_free = !is_watched && !self.open.contains_key(address) && !self.resting.contains_key(address);
            is_free && may_go(view, &sight.copies.terms, address, &flow.to)
        });
        match next {
            Some(next) => self.cursors.insert(server.clone(), next),
            None => self.cursors.remove(server),
        };
        found
    }

    /// The lists that differ from those that agents are told.
    fn news(&self, view: &View<'_>) -> Option<BTreeMap<ServerName, Vec<Wish>>> {
        let mut lists: BTreeMap<ServerName, Vec<Wish>> =
            view.servers().map(|server| (server.name.clone(), Vec::new())).collect();
        for (address, open) in &self.open {
            if let Some(list) = lists.get_mut(&open.from) {
                list.push(Wish::Move {
                    address: address.clone(),
                    server: open.to.clone(),
                });
            }
        }
        lists.retain(|name, list| view.server(name).is_some_and(|server| server.todos != *list));
        (!lists.is_empty()).then_some(lists)
    }

    /// Why an object stays or goes, where balancing has to do with it.
    #[must_use]
    pub fn why(&self, address: &Address, now: Instant) -> Option<String> {
        if let Some(open) = self.open.get(address) {
            let sake = match open.why {
                Why::Octets => "so that disks fill evenly",
                Why::Requests => "so that servers are asked evenly",
                Why::Age => "by the schedule, for a fresh key and place",
            };
            let waits = now.saturating_duration_since(open.since).as_secs();
            return Some(format!("it is to go to {}, {sake} (for {waits} s now)", open.to));
        }
        let until = self.resting.get(address)?;
        let left = until.saturating_duration_since(now).as_secs();
        Some(format!(
            "it moved a while ago, or could not: balancing leaves it alone for {left} s more"
        ))
    }

    /// Whether an object is to move so that servers are asked evenly.
    #[must_use]
    pub fn moves_for_requests(&self, address: &Address) -> bool {
        self.open.get(address).is_some_and(|open| open.why == Why::Requests)
    }

    /// How the pool stands.
    #[must_use]
    pub fn standing(&self, sight: &Sight) -> Standing {
        let shares = shares_of(sight);
        let Evenness {
            fullest,
            emptiest,
            busiest,
        } = evenness(&shares);
        Standing {
            fullest,
            emptiest,
            busiest,
            tolerance_percent: self.settings.tolerance_percent,
            on: sight.plan.as_ref().is_some_and(|plan| plan.goal == Goal::Balance),
            wished: self.open.len() as u64,
            moved: self.moved,
            servers: shares
                .iter()
                .map(|share| Part {
                    server: share.name.to_string(),
                    objects: share.objects,
                    used: share.used,
                    capacity: share.capacity,
                    asked_milli: share.asked_milli,
                })
                .collect(),
        }
    }

    /// What balancing would do from now on, if nothing else changed.
    #[must_use]
    pub fn preview(&self, view: &View<'_>, sight: &Sight) -> Preview {
        let mut shares = expected_shares(sight);
        let flows = match self.settings.octets {
            true => even_octets(&mut shares, self.tolerance(), u64::MAX),
            false => Vec::new(),
        };
        let hot = match self.settings.requests {
            true => {
                let watched = sight.spread.as_ref().map(|spread| spread.watched.clone());
                let may = |address: &Address, to: &ServerName| may_go(view, &sight.copies.terms, address, to);
                even_requests(&mut shares, self.tolerance(), &watched.unwrap_or_default(), may)
            }
            false => Vec::new(),
        };
        let after = evenness(&shares);
        Preview {
            now: self.standing(sight),
            flows: flows
                .into_iter()
                .map(|flow| PreviewFlow {
                    from: flow.from.to_string(),
                    to: flow.to.to_string(),
                    objects: flow.objects,
                })
                .collect(),
            hot: hot
                .into_iter()
                .map(|one| PreviewHot {
                    address: one.hot.address.to_string(),
                    rate_milli: one.hot.rate_milli,
                    from: one.from.to_string(),
                    to: one.to.to_string(),
                })
                .collect(),
            fullest_after: after.fullest,
            busiest_after: after.busiest,
        }
    }
}

/// Whether a registered object may go to a server.
fn may_go(view: &View<'_>, terms: &Terms, address: &Address, to: &ServerName) -> bool {
    view.register(address)
        .is_some_and(|register| suits(terms, &register, to))
}

/// Whether an object that rests may go to a server: none goes where a copy of it is, and none nearer to one than it is now, or balancing
/// would bring into one rack what copies keep apart.
fn suits(terms: &Terms, register: &Register, to: &ServerName) -> bool {
    let between = |one: &ServerName, other: &ServerName| apart(terms.of(one).labels(), terms.of(other).labels());
    let owner = &register.owner;
    let mut others = register.holders.iter().filter(|holder| *holder != owner);
    let is_as_far = others.all(|other| other != to && between(to, other) >= between(owner, other));
    register.state == State::Stable && owner != to && is_as_far
}

/// The servers that give and take, asked as they will be once all copies for heat are there.
fn expected_shares(sight: &Sight) -> Vec<Share> {
    let mut shares = shares_of(sight);
    for share in &mut shares {
        let expected = sight
            .spread
            .as_ref()
            .and_then(|spread| spread.expected_milli.get(&share.name));
        share.asked_milli = expected.copied().unwrap_or(share.asked_milli);
    }
    shares
}

/// The servers that give and take. How many objects each has the registers say, so that no move is counted twice or not at all;
/// how large one is, on the average, its server says.
fn shares_of(sight: &Sight) -> Vec<Share> {
    let takes_part = sight.servers.iter().filter(|(_, seen)| {
        seen.want.role == Role::Serving && seen.alive && !seen.lost && seen.has_taken(sight.number())
    });
    let all = sight.servers.values().filter(|seen| seen.objects() > 0);
    let (octets, objects) = all.fold((0u64, 0u64), |(octets, objects), seen| {
        (
            octets.saturating_add(seen.owned_bytes()),
            objects.saturating_add(seen.objects()),
        )
    });
    let usual = octets / objects.max(1);
    takes_part
        .filter_map(|(name, seen)| {
            let has = seen.has.as_ref()?;
            let mut hot = has.hot.clone().unwrap_or_default();
            let owns = |address: &Address| sight.registers.get(address).is_some_and(|named| named.owner == *name);
            hot.hottest.retain(|hot| owns(&hot.address));
            let copies = seen.kept().map_or(0, |kept| kept.octets);
            let each = seen.owned_bytes().checked_div(seen.objects()).unwrap_or(usual);
            Some(Share {
                name: name.clone(),
                objects: seen.owned,
                each,
                used: seen.owned.saturating_mul(each).saturating_add(copies),
                capacity: has.capacity,
                price_percent: seen.price_percent,
                asked_milli: hot.asked_milli,
                doubt_milli: hot.doubt_milli,
                hottest: hot.hottest,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
