//! Which servers hold the copies that heat asks for, by what each would be asked then.
//!
//! A server is chosen by what one more request costs there when it is asked what it will be asked: `price * pressure * requests`
//! (`crate::place`). Those that are asked more than their fair part without it come last; among the others, those that stand farthest
//! from the nearest holder come first, so that no rack serves an object alone.
//!
//! The fair part of the requests is the same for every server that serves, divided by its price. Capacity does not count: a larger disk answers
//! no faster. A larger server is asked more for what it holds, so it gets fewer of these copies.

use std::collections::BTreeMap;

use zones::{Address, ServerName};

use super::super::balance::requests_parts;
use super::super::keep;
use super::super::sight::{Seen, Sight};
use super::{Object, fit, heat};
use crate::place::{Labels, Site, Work, choose};

/// What every server will be asked once the copies are where they are told to be.
pub(super) struct Loads<'a> {
    sight: &'a Sight,
    servers: BTreeMap<&'a ServerName, Load<'a>>,
    /// Mean requests of a server that serves; `None` if none is heard.
    mean: Option<f64>,
}

struct Load<'a> {
    seen: &'a Seen,
    /// Requests, in thousandths a second.
    asked: f64,
    /// What would be its fair part of them.
    part: f64,
    /// How gladly clients choose it among the holders of an object.
    ease: f64,
    /// What a request costs there, in percent of the usual price.
    cost: f64,
    labels: Labels<'a>,
    takes: bool,
}

impl<'a> Loads<'a> {
    /// What servers are asked now, with the copies for heat that were told `before` replaced by those `after`.
    pub(super) fn new(
        sight: &'a Sight,
        before: &BTreeMap<Address, Vec<ServerName>>,
        after: &BTreeMap<Address, Vec<ServerName>>,
    ) -> Loads<'a> {
        let heard = || {
            sight
                .servers
                .iter()
                .filter_map(|(name, seen)| Some((name, seen, heat(seen)?)))
        };
        let serving = || heard().filter(|(_, seen, _)| seen.want.role.takes_new_objects());
        // Agents' numbers: whatever they say, nothing overflows.
        let all: f64 = serving().map(|(.., heat)| heat.asked_milli as f64).sum();
        let mean = (serving().count() > 1).then(|| all / serving().count() as f64);
        let prices: Vec<u32> = serving().map(|(_, seen, _)| seen.price_percent).collect();
        let parts = requests_parts(all, &prices);
        let parts: BTreeMap<&ServerName, f64> = serving().map(|(name, ..)| name).zip(parts).collect();
        let servers = heard().map(|(name, seen, heat)| {
            // Who is leaving or not yet at work has no part of its own.
            let part = parts.get(name).copied().unwrap_or(0.0);
            let load = load(sight, name, seen, heat.asked_milli as f64, part);
            (name, load)
        });
        let mut loads = Loads {
            sight,
            servers: servers.collect(),
            mean,
        };
        for (address, servers) in after {
            loads.settle(address, &before[address], servers);
        }
        loads
    }

    pub(super) fn mean(&self) -> Option<f64> {
        self.mean
    }

    pub(super) fn expected_milli(&self) -> BTreeMap<ServerName, u64> {
        let all = self.servers.iter();
        // `as` ends at the borders of the type.
        all.map(|(name, load)| ((*name).clone(), load.asked.round() as u64))
            .collect()
    }

    /// Counts what servers say of an object as what its holders to be will be asked.
    fn settle(&mut self, address: &Address, before: &[ServerName], after: &[ServerName]) {
        let mut all = 0.0;
        let register = &self.sight.registers[address];
        for (name, load) in &mut self.servers {
            let Some(heat) = heat(load.seen).filter(|_| register.is_at(name)) else {
                continue;
            };
            let named = heat.hottest.iter().find(|hot| hot.address == *address);
            let rate = named.map_or(0.0, |hot| hot.rate_milli as f64);
            load.asked = (load.asked - rate).max(0.0);
            all += rate;
        }
        let holders = self.holders(address, before, after);
        self.shift(&holders, all);
    }

    /// The holders to be: those that the register names besides the copies for heat, and these.
    fn holders(&self, address: &Address, before: &[ServerName], after: &[ServerName]) -> Vec<ServerName> {
        let register = &self.sight.registers[address];
        // The owner may be one that held such a copy before it took the object.
        let is_for_heat = |holder: &ServerName| before.contains(holder) && *holder != register.owner;
        let named = register.holders.iter();
        let others = named.filter(|holder| !is_for_heat(holder) && !after.contains(holder));
        others.chain(after).cloned().collect()
    }

    /// Adds so many requests to holders, by their weights.
    fn shift(&mut self, holders: &[ServerName], requests: f64) {
        let ease = self.ease(holders);
        for holder in holders {
            if let Some(load) = self.servers.get_mut(holder) {
                load.asked = (load.asked + requests * load.ease / ease).max(0.0);
            }
        }
    }

    fn ease(&self, holders: &[ServerName]) -> f64 {
        let loads = holders.iter().filter_map(|holder| self.servers.get(holder));
        loads.map(|load| load.ease).sum::<f64>().max(f64::MIN_POSITIVE)
    }

    /// Names servers for an object until it has `more` copies for its heat; how many were added.
    pub(super) fn add(
        &mut self,
        object: &Object<'_>,
        more: usize,
        told: &mut BTreeMap<Address, Vec<ServerName>>,
    ) -> usize {
        if !told.contains_key(object.address) {
            // From here on each holder counts as asked what clients will ask of it, not what they asked while it was another's turn.
            self.settle(object.address, &[], &[]);
        }
        let before = told.get(object.address).cloned().unwrap_or_default();
        let mut servers = before.clone();
        let mut holders = self.holders(object.address, &before, &servers);
        while servers.len() < more {
            let Some(next) = self.next(object, &holders) else {
                break;
            };
            let mut tried = servers.clone();
            tried.push(next.clone());
            fit(object.address, &mut tried);
            if tried.len() == servers.len() {
                break;
            }
            servers = tried;
            self.shift(&holders, -object.rate.named);
            holders.push(next);
            self.shift(&holders, object.rate.named);
        }
        let added = servers.len() - before.len();
        if added > 0 {
            servers.sort();
            told.insert(object.address.clone(), servers);
        }
        added
    }

    /// Where one more copy costs least.
    fn next(&self, object: &Object<'_>, holders: &[ServerName]) -> Option<ServerName> {
        let register = object.register;
        let named = || {
            [&register.owner]
                .into_iter()
                .chain(&register.to)
                .chain(&register.holders)
        };
        let may = |name: &ServerName| !holders.contains(name) && named().all(|named| named != name);
        let ease = self.ease(holders);
        let candidates = self.servers.iter().filter(|(name, load)| load.takes && may(name));
        let sites = candidates.map(|(name, load)| {
            let asked = load.asked + object.rate.named * load.ease / (ease + load.ease);
            let site = Site {
                name,
                labels: load.labels,
                cost: load.cost * asked,
            };
            (load.asked <= load.part, site)
        });
        let (with_room, without): (Vec<_>, Vec<_>) = sites.partition(|(has_room, _)| *has_room);
        let sites = if with_room.is_empty() { without } else { with_room };
        let away_from: Vec<Labels<'_>> = holders
            .iter()
            .map(|holder| self.sight.copies.terms.of(holder).labels())
            .collect();
        let chosen = choose(sites.into_iter().map(|(_, site)| site).collect(), &away_from);
        chosen.first().map(|site| site.name.clone())
    }

    /// Takes copies of an object away, where a request costs most, until it has `more` for its heat.
    pub(super) fn take_away(
        &mut self,
        object: &Object<'_>,
        more: usize,
        told: &mut BTreeMap<Address, Vec<ServerName>>,
    ) {
        let Some(servers) = told.get_mut(object.address) else {
            return;
        };
        let before = servers.clone();
        let costs = |server: &ServerName| self.servers.get(server).map_or(f64::MAX, |load| load.cost * load.asked);
        servers.sort_by(|a, b| costs(a).total_cmp(&costs(b)).then_with(|| a.cmp(b)));
        servers.truncate(more);
        servers.sort();
        let after = servers.clone();
        let holders = |told| self.holders(object.address, &before, told);
        let (old, new) = (holders(&before), holders(&after));
        self.shift(&old, -object.rate.named);
        self.shift(&new, object.rate.named);
    }
}

fn load<'a>(sight: &'a Sight, name: &ServerName, seen: &'a Seen, asked: f64, part: f64) -> Load<'a> {
    let terms = &sight.copies.terms;
    let weights = terms.placement.weights();
    let has = seen.has.as_ref().expect("it is heard");
    let server = terms.server(name, has);
    let said = terms.of(name);
    Load {
        seen,
        asked,
        part,
        ease: server.ease(weights),
        cost: server.cost(weights, Work::Serve),
        labels: said.labels(),
        takes: keep::may_hold(seen) && said.new_objects && !server.is_nearly_full(),
    }
}
