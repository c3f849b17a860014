//! Copies that follow heat: which objects are to have more copies than the wanted number, and on which servers.
//!
//! Pure, over what is seen and the time. What it decides is a part of every want (`hot=`, by `super::keep`), and what wants say
//! is what it goes on from: a librarian that was just started takes no copy away and makes none again.
//!
//! ```text
//!  share of a holder:  requests for the object on all holders together / their number
//!
//!  above T for HOT_FOR            --> as many copies as bring it to 4/5 of T     T: part of the mean load of a server
//!  below T/2 with one copy fewer,
//!  for COOL_FOR                   --> as many copies as bring it to 4/5 of T
//! ```
//!
//! **No flapping.** What an object is asked for in all does not depend on where its copies are: clients choose among its holders
//! evenly but for how busy these are (price and capacity decide what a server is given, not how often it is asked for it), and
//! each tells what it answered itself. So a decision does not change what it was made from, and how busy servers are changes none.
//! Between the number of copies at which one is added and the number at which one is taken away lies a factor of two, so that a
//! steady load, with the noise of its counting, settles. A rate that is too high by doubt adds no copy, and one that nobody tells takes none away.
//!
//! **The threshold.** A quarter of the mean load of a server, by default. Agents name 16 objects: one that makes up more than a sixteenth
//! of what its server answers is always among them, so everything above half the threshold is seen on a server that is asked up
//! to twice the mean. What is left below it, up to four objects for a server, balancing moves; a lower threshold makes more copies
//! and gains little (`bench-spread`).
//!
//! **Balancing** moves single hot objects and octets. The two do not fight: balancing for requests waits while copies are being made
//! and until the counters have forgotten how it was before; what it sees of requests is what each server will be
//! asked once all copies are there ([`Spread::expected_milli`]), it leaves alone what is watched or spread here
//! ([`Spread::watched`]), and no move of an object changes what it is asked for in all. Only its schedule moves such an object
//! as it moves all others; copies may be made anew then.
//!
//! **Bounds.** 16 objects of an owner and 1024 of the pool, 14 holders of an object, and 64 copies that are being made at a time. So an object
//! with more than 14 times the part of all requests that a server may have stays above it, whatever is done here.
//!
//! **What it cannot know.** Reports tell neither reads from writes nor large bodies from small ones. Writes all go to the owner, and each
//! waits for every holder: an object that is mostly written gets copies that do not help it. Lookups in DNS are no measure of
//! requests, as answers are cached: they do not count here.

mod choice;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use zones::copies::{HOT_MAX, HOT_SERVERS_MAX};
use zones::register::{HOLDERS_MAX, STRING_OCTETS_MAX};
use zones::{Address, Keep, ServerName, State};

use super::keep;
use super::memory::lasts;
use super::sight::{Named, Seen, Sight};
use crate::registry::View;
use choice::Loads;

/// How long an object must be hot before it gets copies: three windows of the agents' counters.
const HOT_FOR: Duration = Duration::from_secs(15);
/// How long it must be cool before these go: twelve windows, so that a pause of a crowd takes nothing away.
const COOL_FOR: Duration = Duration::from_secs(60);
/// A copy is counted as being made for so long, at most: one that a server cannot make holds up no other.
const MAKING_FOR: Duration = Duration::from_secs(60);
/// Copies that are being made at a time, in the whole pool.
const MAKING_MAX: usize = 64;
/// Objects that are spread at a time, in the whole pool.
const OBJECTS_MAX: usize = 1024;
/// What a holder may carry of one object however little the others are asked, in thousandths of a request a second: no server is
/// busy with so few.
const SHARE_MIN_MILLI: f64 = 10_000.0;
/// Copies are made for so much more than an object is asked for: what wavers a little does not need one more.
const AMPLE: f64 = 1.25;

/// What is to be told of copies for heat, and what follows from it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spread {
    /// Objects that are to have copies for their heat, and where, by name.
    pub told: BTreeMap<Address, Vec<ServerName>>,
    /// What these are asked for, in thousandths of a request a second, as far as it is told.
    pub rates_milli: BTreeMap<Address, u64>,
    /// These, and those that may become so soon: balancing leaves them where they are.
    pub watched: BTreeSet<Address>,
    /// Whether copies are being made, or wait for others to be made.
    pub is_making: bool,
    /// Requests in thousandths a second that each server will be asked once all copies are there, if nothing else changes.
    pub expected_milli: BTreeMap<ServerName, u64>,
}

/// Since when objects are hot and cool. All of it may be forgotten: then it is counted anew.
#[derive(Debug, Default)]
pub struct Spreader {
    hot: BTreeMap<Address, Instant>,
    cool: BTreeMap<Address, Instant>,
    /// When more copies were last asked for.
    asked: BTreeMap<Address, Instant>,
}

/// What servers tell of one object, in thousandths of a request a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// What all of them name together.
    named: f64,
    /// At least so much, whatever the counters could not tell apart.
    least: f64,
    /// At most so much, with what holders would not name; `None` where one is not heard.
    most: Option<f64>,
}

/// An object that a server names as hot or a want as spread.
struct Object<'a> {
    address: &'a Address,
    register: &'a Named,
    rate: Rate,
    /// Copies that it is to have besides those for its heat.
    base: usize,
    /// Most that it may have for its heat.
    more_max: usize,
}

impl Spreader {
    /// Looks at what is told and asked for, and says in the sight what is to be told. Called at any time, as often as one likes.
    pub(super) fn see(&mut self, now: Instant, sight: &mut Sight) {
        let spread = self.turn(now, sight);
        sight.spread = Some(spread);
    }

    fn turn(&mut self, now: Instant, sight: &Sight) -> Spread {
        let percent = sight.copies.copies.hot_percent();
        if percent == 0 || !keep::has_begun(sight) {
            *self = Spreader::default();
            return Spread::default();
        }
        let before = told(sight);
        if !sight.servers.values().any(Seen::is_heard) {
            // It is this librarian that is cut off, not every server that is gone.
            *self = Spreader::default();
            return Spread {
                watched: before.keys().cloned().collect(),
                told: before,
                ..Spread::default()
            };
        }
        let mut after: BTreeMap<Address, Vec<ServerName>> = before.clone();
        for (address, servers) in &mut after {
            let register = &sight.registers[address];
            servers.retain(|server| may_stay(sight, register, server));
        }
        let mut loads = Loads::new(sight, &before, &after);
        let Some(mean) = loads.mean().filter(|_| !keep::may_go_back(sight)) else {
            // Nobody is heard, or an upgrade is under way: what has been told stands.
            self.hot.clear();
            self.cool.clear();
            return spread(sight, after, BTreeSet::new(), &loads);
        };
        let most_of_one = (f64::from(percent) / 100.0 * mean).max(SHARE_MIN_MILLI);
        let mut objects = objects(sight);
        // The hottest first.
        objects.sort_by(|a, b| {
            b.rate
                .named
                .total_cmp(&a.rate.named)
                .then_with(|| a.address.cmp(b.address))
        });
        let (mut grow, mut shrink) = (Vec::new(), Vec::new());
        for object in &objects {
            let more = after.get(object.address).map_or(0, Vec::len);
            let copies = (object.base + more) as f64;
            let is_hot = object.rate.least > most_of_one * copies && more < object.more_max;
            let is_cool = more > object.more_max
                || more > 0
                    && object
                        .rate
                        .most
                        .is_some_and(|most| most < most_of_one / 2.0 * (copies - 1.0));
            if lasts(&mut self.hot, object.address, is_hot, now) >= Some(HOT_FOR) {
                grow.push((object, object.needs(most_of_one)));
            }
            if lasts(&mut self.cool, object.address, is_cool, now) >= Some(COOL_FOR) {
                shrink.push((object, object.needs(most_of_one).min(more - 1)));
            }
        }
        for (object, more) in shrink {
            loads.take_away(object, more, &mut after);
        }
        let (stay, waits) = self.grow(now, sight, grow, &mut after, &mut loads);
        after.retain(|_, servers| !servers.is_empty());
        let known: BTreeSet<&Address> = objects.iter().map(|object| object.address).collect();
        self.hot.retain(|address, _| known.contains(address));
        self.cool.retain(|address, _| known.contains(address));
        self.asked.retain(|address, _| after.contains_key(address));
        let watched = self.hot.keys().filter(|address| !stay.contains(address));
        let watched = watched.cloned().collect();
        Spread {
            is_making: waits || self.being_made(now, sight, &after) > 0,
            ..spread(sight, after, watched, &loads)
        }
    }

    /// Names more servers for objects that are hot, within the bounds. Gives those for which there is no server: they are left to
    /// balancing; and whether others wait until copies that are being made are there.
    fn grow<'o>(
        &mut self,
        now: Instant,
        sight: &Sight,
        hot: Vec<(&Object<'o>, usize)>,
        after: &mut BTreeMap<Address, Vec<ServerName>>,
        loads: &mut Loads<'_>,
    ) -> (BTreeSet<&'o Address>, bool) {
        let (mut stay, mut waits) = (BTreeSet::new(), false);
        let mut left = MAKING_MAX.saturating_sub(self.being_made(now, sight, after));
        for (object, more) in hot {
            let owner = &object.register.owner;
            let of_owner = after.keys().filter(|address| sight.registers[*address].owner == *owner);
            let is_new = !after.contains_key(object.address);
            if is_new && (of_owner.count() >= HOT_MAX || after.len() >= OBJECTS_MAX)
                || !may_grow(sight, object.register)
            {
                stay.insert(object.address);
                continue;
            }
            let had = after.get(object.address).map_or(0, Vec::len);
            let added = loads.add(object, more.min(had + left), after);
            if added > 0 {
                left -= added;
                // Whoever looks may not be who writes: it stays hot until wants say so.
                self.asked.insert(object.address.clone(), now);
            } else if left > 0 {
                stay.insert(object.address);
            }
            waits |= had + added < more && left == 0;
        }
        (stay, waits)
    }

    /// Copies that were asked for a moment ago and that no register names yet.
    fn being_made(&self, now: Instant, sight: &Sight, told: &BTreeMap<Address, Vec<ServerName>>) -> usize {
        let recent = self
            .asked
            .iter()
            .filter(|(_, asked)| now.saturating_duration_since(**asked) < MAKING_FOR);
        let missing = recent.filter_map(|(address, _)| {
            let register = sight.registers.get(address)?;
            let servers = told.get(address)?.iter();
            Some(servers.filter(|server| !register.holders.contains(server)).count())
        });
        missing.sum()
    }
}

impl Object<'_> {
    /// Copies for its heat that bring what one holder carries to 4/5 of `most_of_one`, as far as may be.
    fn needs(&self, most_of_one: f64) -> usize {
        // `as` ends at the borders of the type.
        let copies = (AMPLE * self.rate.named / most_of_one).ceil() as usize;
        copies.saturating_sub(self.base).min(self.more_max)
    }
}

fn spread(
    sight: &Sight,
    told: BTreeMap<Address, Vec<ServerName>>,
    watched: BTreeSet<Address>,
    loads: &Loads<'_>,
) -> Spread {
    let told: BTreeMap<_, _> = told.into_iter().filter(|(_, servers)| !servers.is_empty()).collect();
    let rates = rates(sight)
        .into_iter()
        .filter(|(address, _)| told.contains_key(*address));
    Spread {
        watched: watched.into_iter().chain(told.keys().cloned()).collect(),
        expected_milli: loads.expected_milli(),
        is_making: false,
        // `as` ends at the borders of the type.
        rates_milli: rates
            .map(|(address, rate)| (address.clone(), rate.named.round() as u64))
            .collect(),
        told,
    }
}

/// What wants say now of objects that there still are; where two wants do, the owner's counts.
pub(super) fn told(sight: &Sight) -> BTreeMap<Address, Vec<ServerName>> {
    let mut told: BTreeMap<Address, Vec<ServerName>> = BTreeMap::new();
    for (name, seen) in &sight.servers {
        for (address, servers) in &seen.want.errand.keep.hot {
            let Some(register) = sight.registers.get(address) else {
                continue;
            };
            if register.owner == *name || !told.contains_key(address) {
                told.insert(address.clone(), servers.clone());
            }
        }
    }
    told
}

/// Objects whose owners are told to have more copies for their heat, and where.
#[must_use]
pub fn told_to_owners(view: &View<'_>) -> BTreeMap<Address, Vec<ServerName>> {
    let mut told = BTreeMap::new();
    for server in view.servers() {
        // A server is told of what is on its way to it as well.
        let owned = server.want.errand.keep.hot.iter().filter(|(address, _)| {
            let register = view.register(address);
            register.is_some_and(|register| register.owner == server.name && register.state != State::Deleted)
        });
        told.extend(owned.cloned());
    }
    told
}

/// Whether a copy for heat may stay on a server where it is told to be. Wants name no server to which its owner drains, either:
/// `super::keep` sees to it, which knows of drains that are about to begin.
fn may_stay(sight: &Sight, register: &Named, server: &ServerName) -> bool {
    let is_party = register.owner == *server || register.to.as_ref() == Some(server);
    let seen = sight.servers.get(server);
    !is_party && seen.is_some_and(|seen| keep::may_hold(seen) && keep::is_heard_or_lingers(seen))
}

/// Whether an object may have more copies now.
fn may_grow(sight: &Sight, register: &Named) -> bool {
    let owner = sight.servers.get(&register.owner);
    // What a server has that is emptied goes elsewhere.
    let serves = |seen: &Seen| seen.want.role.takes_new_objects() && !seen.lost;
    register.to.is_none() && owner.is_some_and(serves)
}

/// The objects that servers name, or wants.
fn objects(sight: &Sight) -> Vec<Object<'_>> {
    let rates = rates(sight);
    let base = keep::base(sight);
    let all = sight.registers.iter();
    all.map(|(address, register)| {
        let base = base.wanted(address);
        Object {
            address,
            register,
            rate: rates.get(address).copied().unwrap_or_default(),
            base,
            more_max: HOT_SERVERS_MAX.min(HOLDERS_MAX - base),
        }
    })
    .collect()
}

/// What servers tell of the objects that one of them names, or a want.
fn rates(sight: &Sight) -> BTreeMap<&Address, Rate> {
    let mut rates: BTreeMap<&Address, Rate> = sight
        .registers
        .keys()
        .map(|address| (address, Rate::default()))
        .collect();
    for (name, seen) in &sight.servers {
        let Some(heat) = heat(seen) else { continue };
        for hot in &heat.hottest {
            // Nobody but who has an object can say how often it is asked for.
            let is_at = |address| sight.registers.get(address).is_some_and(|named| named.is_at(name));
            let Some(rate) = rates.get_mut(&hot.address).filter(|_| is_at(&hot.address)) else {
                continue;
            };
            rate.named += hot.rate_milli as f64;
            rate.least += hot.rate_milli.saturating_sub(heat.doubt_milli) as f64;
        }
    }
    for (address, rate) in &mut rates {
        let unnamed = sight.registers[*address].holders.iter().map(|holder| {
            let seen = sight.servers.get(holder)?;
            if seen.lost {
                return Some(0.0);
            }
            let heat = heat(seen)?;
            let is_named = heat.hottest.iter().any(|hot| hot.address == **address);
            let is_full = heat.hottest.len() >= zones::heat::HOTTEST_MAX;
            let least = heat.hottest.last().map_or(0, |hot| hot.rate_milli);
            Some(if is_named || !is_full { 0.0 } else { least as f64 })
        });
        let unnamed: Option<f64> = unnamed.sum();
        rate.most = unnamed.map(|unnamed| rate.named + unnamed);
    }
    rates
}

/// What a server that is heard says of its heat.
fn heat(seen: &Seen) -> Option<&zones::Heat> {
    let has = seen.has.as_ref().filter(|_| seen.is_heard())?;
    has.hot.as_ref()
}

/// Servers that an object can be told to have copies on: as many as one string of a want holds with its address.
fn fit(address: &Address, servers: &mut Vec<ServerName>) {
    while Keep::hot_octets(address, servers) > STRING_OCTETS_MAX {
        servers.pop();
    }
}

#[cfg(test)]
mod tests;
