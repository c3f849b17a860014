//! Which servers hold the copies that heat asks for, by what each would be asked then.
//!
//! A server is chosen by what one more request costs there when it is asked what it will be asked: `price * pressure * requests`
//! (`crate::place`). Those that are asked more than their fair part without it come last; among the others, those that stand farthest
//! from the nearest holder come first, so that no rack serves an object alone.

use std::collections::BTreeMap;

use zones::{Address, ServerName};

use super::super::balance::requests_parts;
use super::super::keep;
use super::super::sight::{Seen, Sight};
use super::{Object, fit, heat};
use crate::place::{Labels, Site, Work, choose, pressure};

/// Part of its octets, in percent, that a server must have free to be given copies.
const FREE_PERCENT: u64 = 5;

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
    /// How gladly clients choose it.
    worth: f64,
    /// What a request costs there, in percent of the usual.
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
        let asked: Vec<u64> = heard().map(|(.., heat)| heat.asked_milli).collect();
        let prices: Vec<u32> = heard().map(|(_, seen, _)| seen.price_percent).collect();
        let parts = requests_parts(&asked, &prices);
        let serving = || heard().filter(|(_, seen, _)| seen.want.role.takes_new_objects());
        let all: u64 = serving().map(|(.., heat)| heat.asked_milli).sum();
        let mean = (serving().count() > 1).then(|| all as f64 / serving().count() as f64);
        let servers = heard().zip(parts).map(|((name, seen, heat), part)| {
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
        for load in self.servers.values_mut() {
            let Some(heat) = heat(load.seen) else { continue };
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
        let named = self.sight.registers[address].holders.iter();
        let others = named.filter(|holder| !before.contains(holder) && !after.contains(holder));
        others.chain(after).cloned().collect()
    }

    /// Adds so many requests to holders, by their weights.
    fn shift(&mut self, holders: &[ServerName], requests: f64) {
        let worth = self.worth(holders);
        for holder in holders {
            if let Some(load) = self.servers.get_mut(holder) {
                load.asked = (load.asked + requests * load.worth / worth).max(0.0);
            }
        }
    }

    fn worth(&self, holders: &[ServerName]) -> f64 {
        let worths = holders.iter().filter_map(|holder| self.servers.get(holder));
        worths.map(|load| load.worth).sum::<f64>().max(f64::MIN_POSITIVE)
    }

    /// Names servers for an object until it has `more` copies for its heat; how many were added.
    pub(super) fn add(
        &mut self,
        object: &Object<'_>,
        more: usize,
        told: &mut BTreeMap<Address, Vec<ServerName>>,
    ) -> usize {
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
        let worth = self.worth(holders);
        let candidates = self.servers.iter().filter(|(name, load)| load.takes && may(name));
        let sites = candidates.map(|(name, load)| {
            let asked = load.asked + object.rate.named * load.worth / (worth + load.worth);
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
    let free = server.storage.whole.saturating_sub(server.storage.used);
    let has_room = free > server.storage.whole / 100 * FREE_PERCENT;
    Load {
        seen,
        asked,
        part,
        worth: server.worth(weights, Work::Serve),
        cost: f64::from(server.price_percent.max(1)) * pressure(&server, weights, Work::Serve),
        labels: said.labels(),
        takes: keep::may_hold(seen) && said.new_objects && has_room,
    }
}
