//! What each server is told of copies: how many there are to be, who may hold them, who is not to, and who is lost.
//!
//! Pure, over what is seen and what the operator says. Which objects have more copies for their heat, `super::spread` decides. Owners
//! make copies and take them away by themselves (DESIGN.md section 14); this says towards what, as a part of every want. So copies
//! are nobody's plan: they are made anew when a server dies, and leave one that drains, under whatever plan it happens.
//!
//! **Stable.** A want is written anew only when what it says has changed. Who leaves, who is lost, and who may hold copies counts at
//! once; a server that is not heard stays named for `UNHEARD_MAX` more, so that a restart, of an agent or of the librarian, changes
//! no want. Weights are coarse, and stay until one of them is a third off and all have stood for `WEIGHTS_STAND`.
//!
//! **Moves.** No object goes where a copy of it is (PROTOCOL.md section 3). So a server that drains is told to leave the servers that take
//! its objects, besides those that everybody leaves.
//!
//! **Two releases.** An agent of a release before copies would take an object over and leave its other copies behind, unseen. So
//! copies begin only when every server that takes part has said that it knows of them, and never in an upgrade that can still go
//! back: the release before may be one that does not (UPGRADE.md section 10). Once they have begun, they go on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};
use zones::copies::{COPIES, HOT_MAX, NAMES_MAX, PREFIX_OCTETS_MAX, PREFIXES_MAX, SPREAD_MAX, WEIGHTS};
use zones::{Address, Errand, Keep, Role, ServerName, Want};

use super::sight::{Named, Seen, Sight, is_given_up};
use super::upgrade::Phase;
use crate::place::{Apart, FULL_PERCENT, Share, Terms, Work, apart};

/// Fewer servers keep one copy of an object, unless the operator says more.
const SERVERS_FOR_TWO: usize = 3;
/// Weight of the best server.
const WEIGHT_MAX: f64 = *WEIGHTS.end() as f64;
/// From one weight to the next.
const WEIGHT_STEP: f64 = 1.25;
/// How long weights stand before others may take their place.
const WEIGHTS_STAND: Duration = Duration::from_secs(60);
/// How long a server that is not heard stays named, after the end of its lease.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// What one object may make of the mean load of a server, in percent, unless the operator says otherwise.
const HOT_PERCENT: u32 = 25;

/// `[copies]`: how many copies of each object there are to be.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Copies {
    /// Copies of each object, the owner's among them; `None`: by the number of servers.
    pub wanted: Option<u8>,
    /// Other numbers for what a prefix covers; the longest prefix decides.
    #[serde(deserialize_with = "by_prefix")]
    pub under: BTreeMap<Address, u8>,
    /// An object has more copies while a holder would be asked for it more than so many percent of what a server is asked in the
    /// mean; 0: never; `None`: the usual.
    pub hot_percent: Option<u32>,
}

/// What the operator says that copies depend on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// How many there are to be.
    pub copies: Copies,
    /// What servers cost, and where they stand.
    pub terms: Terms,
}

fn by_prefix<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Address, u8>, D::Error> {
    let texts = BTreeMap::<String, u8>::deserialize(from)?;
    let numbers = texts.into_iter();
    numbers
        .map(|(prefix, copies)| Ok((prefix.parse().map_err(de::Error::custom)?, copies)))
        .collect()
}

impl Copies {
    /// What one object may make of the mean load of a server, in percent; 0: anything.
    #[must_use]
    pub fn hot_percent(&self) -> u32 {
        self.hot_percent.unwrap_or(HOT_PERCENT)
    }

    /// The first setting with a value that does not work, and what it may be.
    pub(crate) fn out_of_range(&self) -> Option<(String, &'static str)> {
        const RANGE: &str = "1 to 13: at most 12 servers are named to hold copies of what one owns";
        if self.wanted.is_some_and(|wanted| !COPIES.contains(&wanted)) {
            return Some(("wanted".to_owned(), RANGE));
        }
        if self
            .hot_percent
            .is_some_and(|percent| percent != 0 && !(5..=1000).contains(&percent))
        {
            return Some(("hot_percent".to_owned(), "0, or 5 to 1000"));
        }
        if self.under.len() > PREFIXES_MAX {
            return Some(("under".to_owned(), "at most 16 prefixes"));
        }
        self.under.iter().find_map(|(prefix, copies)| {
            let range = match (COPIES.contains(copies), prefix.as_str().len() <= PREFIX_OCTETS_MAX) {
                (true, true) => return None,
                (false, _) => RANGE,
                (true, false) => "for a prefix that is shorter: a want has room for 246 octets of it",
            };
            Some((format!("under.\"{prefix}\""), range))
        })
    }
}

impl Settings {
    /// Copies of an object for which no prefix says another number, in a pool of so many servers.
    fn wanted(&self, servers: usize) -> u8 {
        let by_servers = if servers < SERVERS_FOR_TWO { 1 } else { 2 };
        self.copies.wanted.unwrap_or(by_servers)
    }
}

/// Servers of a release before copies: while there is one, copies do not begin.
#[must_use]
pub fn knows_no_copies(sight: &Sight) -> Vec<&ServerName> {
    let of_before = |seen: &Seen| !seen.is_out() && seen.has.as_ref().is_some_and(|has| has.kept.is_none());
    let servers = sight.servers.iter().filter(|(_, seen)| of_before(seen));
    servers.map(|(name, _)| name).collect()
}

/// Whether servers are told of copies.
#[must_use]
pub fn has_begun(sight: &Sight) -> bool {
    sight.servers.values().any(|seen| seen.want.errand.keep.copies > 0)
}

/// The wants of a decision with what each says of copies, and those of other servers to which something else is to be said now.
pub(super) fn add_to(sight: &Sight, mut wants: Vec<(ServerName, Want)>) -> Vec<(ServerName, Want)> {
    let next = wants
        .iter()
        .map(|(name, want)| (name.clone(), (want.role, want.targets.clone())));
    let pool = Pool::new(sight, next.collect());
    for (name, seen) in &sight.servers {
        let keep = pool.keep(name, seen);
        match wants.iter_mut().find(|(changed, _)| changed == name) {
            Some((_, want)) => want.errand.keep = keep,
            None if keep == seen.want.errand.keep => {}
            None => {
                let now = seen.want.clone();
                let want = Want {
                    step: now.step + 1,
                    errand: Errand { keep, ..now.errand },
                    ..now
                };
                wants.push((name.clone(), want));
            }
        }
    }
    wants
}

/// A pool as it is once wants are written.
struct Pool<'a> {
    sight: &'a Sight,
    /// Roles and targets that are about to be written.
    next: BTreeMap<ServerName, (Role, Vec<ServerName>)>,
    /// Whether servers are told of copies.
    is_on: bool,
    wanted: u8,
    under: Vec<(Address, u8)>,
    /// Servers that hold copies beside the owner, at most.
    others: usize,
    /// Servers that may hold copies, with what each is worth.
    takers: Vec<Taker<'a>>,
    leave: Vec<&'a ServerName>,
    lost: Vec<&'a ServerName>,
}

/// A server that may hold copies.
#[derive(Clone, Copy)]
struct Taker<'a> {
    name: &'a ServerName,
    /// Where it stands on the ring.
    place: u64,
    /// How gladly it is chosen.
    worth: f64,
    storage: Share,
    is_alive: bool,
    /// It is not heard any more, and stays where it is named for a moment.
    lingers: bool,
}

/// A server with the weight that it has for another one.
#[derive(Clone, Copy)]
struct Weighed<'a> {
    name: &'a ServerName,
    place: u64,
    weight: f64,
}

impl Weighed<'_> {
    /// Whether it is more than a way out for want of others.
    fn has_room(&self) -> bool {
        self.weight > 1.0
    }
}

/// Where a server stands on the ring by which a large pool shares out copies. Operators name servers of a kind alike, so their names
/// say nothing here.
fn place(name: &ServerName) -> u64 {
    let hash = Sha256::digest(name.as_str());
    hash.iter()
        .take(8)
        .fold(0, |place, octet| place << 8 | u64::from(*octet))
}

impl<'a> Pool<'a> {
    fn new(sight: &'a Sight, next: BTreeMap<ServerName, (Role, Vec<ServerName>)>) -> Pool<'a> {
        let under = &sight.copies.copies.under;
        let mut pool = Pool {
            sight,
            next,
            is_on: has_begun(sight) || may_begin(sight),
            wanted: 1,
            under: under.clone().into_iter().collect(),
            others: 0,
            takers: Vec::new(),
            leave: Vec::new(),
            lost: Vec::new(),
        };
        let all = sight.servers.iter();
        let counts = all.filter(|(name, seen)| !seen.lost && !is_given_up(pool.role(name, seen)));
        pool.wanted = sight.copies.wanted(counts.count());
        let most = under.values().copied().fold(pool.wanted, u8::max);
        pool.others = usize::from(most.saturating_sub(1));
        pool.takers = sight.servers.iter().filter_map(|one| pool.taker(one)).collect();
        pool.leave = pool.listed(|name, seen| seen.lost || is_left(pool.role(name, seen)));
        pool.lost = pool.listed(|_, seen| seen.lost);
        pool
    }

    fn role(&self, name: &ServerName, seen: &Seen) -> Role {
        self.next.get(name).map_or(seen.want.role, |(role, _)| *role)
    }

    fn targets<'t>(&'t self, name: &ServerName, seen: &'t Seen) -> &'t [ServerName] {
        self.next.get(name).map_or(&seen.want.targets, |(_, targets)| targets)
    }

    fn taker(&self, (name, seen): (&'a ServerName, &'a Seen)) -> Option<Taker<'a>> {
        let terms = &self.sight.copies.terms;
        let has = seen.has.as_ref()?;
        let takes = may_hold_as(self.role(name, seen), seen) && terms.of(name).new_objects;
        let server = terms.server(name, has);
        takes.then(|| Taker {
            name,
            place: place(name),
            worth: server.worth(terms.placement.weights(), Work::Store),
            storage: server.storage,
            is_alive: seen.alive,
            lingers: lingers(seen),
        })
    }

    /// Servers that are named to everybody; where there are too many, those that a register names come first.
    fn listed(&self, is_listed: impl Fn(&ServerName, &Seen) -> bool) -> Vec<&'a ServerName> {
        let all = self.sight.servers.iter();
        let mut listed: Vec<(&ServerName, &Seen)> = all.filter(|(name, seen)| is_listed(name, seen)).collect();
        // Stable, so by name otherwise.
        listed.sort_by_key(|(_, seen)| seen.named == 0);
        listed.into_iter().map(|(name, _)| name).collect()
    }

    /// What a server is told.
    fn keep(&self, name: &ServerName, seen: &Seen) -> Keep {
        let knows = seen.has.as_ref().is_some_and(|has| has.kept.is_some());
        let owns = match self.role(name, seen) {
            Role::Serving | Role::Refilling | Role::Cordoned | Role::Draining => true,
            Role::Free
            | Role::Reserve
            | Role::Empty
            | Role::Upgrading
            | Role::Validating
            | Role::Failed
            | Role::Quarantined => false,
        };
        if !self.sight.servers.values().any(Seen::is_heard) {
            // It is this librarian that is cut off, not every server that is gone: nothing is taken back for that.
            return seen.want.errand.keep.clone();
        }
        if !(self.is_on && knows && owns) {
            return Keep::default();
        }
        let targets = self.targets(name, seen);
        Keep {
            copies: self.wanted,
            under: self.under.clone(),
            spread: self.spread(name, seen, targets),
            leave: others(targets.iter().chain(self.leave.iter().copied()), name),
            lost: others(self.lost.iter().copied(), name),
            hot: self.hot(name, seen, targets),
        }
    }

    /// Objects that are to have copies for their heat: those that a server owns, then those that are on their way to it, so that
    /// it takes none of their copies away when they come.
    fn hot(&self, name: &ServerName, seen: &Seen, targets: &[ServerName]) -> Vec<(Address, Vec<ServerName>)> {
        let Some(spread) = &self.sight.spread else {
            return seen.want.errand.keep.hot.clone();
        };
        // Those that it owns first, the hottest of them first.
        let mut hot: Vec<(bool, Reverse<u64>, &Address, Vec<ServerName>)> = Vec::new();
        for (address, servers) in &spread.told {
            let Some(register) = self.sight.registers.get(address) else {
                continue;
            };
            let owns = register.owner == *name;
            if !owns && !self.comes(name, register) {
                continue;
            }
            let others = servers.iter().filter(|server| {
                let leaves = targets.contains(server) || self.leave.contains(server);
                *server != name && !leaves
            });
            let others: Vec<ServerName> = others.cloned().collect();
            if !others.is_empty() {
                let rate = spread.rates_milli.get(address).copied().unwrap_or(0);
                hot.push((!owns, Reverse(rate), address, others));
            }
        }
        hot.sort();
        hot.truncate(HOT_MAX);
        let mut hot: Vec<_> = hot
            .into_iter()
            .map(|(_, _, address, on)| (address.clone(), on))
            .collect();
        hot.sort();
        hot
    }

    /// Whether an object is on its way to a server, or may be soon.
    fn comes(&self, name: &ServerName, register: &Named) -> bool {
        let owner = self.sight.servers.get(&register.owner);
        let is_target = owner.is_some_and(|owner| self.targets(&register.owner, owner).contains(name));
        is_target || register.to.as_ref() == Some(name)
    }

    /// Who may hold copies of what a server owns: as it is told now, while that still fits.
    fn spread(&self, name: &ServerName, seen: &Seen, targets: &[ServerName]) -> Vec<(ServerName, u16)> {
        let told = &seen.want.errand.keep.spread;
        let weighed = self.weighed(name, told, targets);
        let mut named = weighed.clone();
        if named.len() > SPREAD_MAX {
            // Those with room first, and of these the ones that follow on the ring, whatever their weights: if each server named the best,
            // all would name the same.
            let here = place(name);
            let key = |one: &Weighed<'_>| (!one.has_room(), one.place < here, one.place);
            named.select_nth_unstable_by_key(SPREAD_MAX, key);
            named.truncate(SPREAD_MAX);
        }
        if stands(told, &weighed, &named, seen.keep_for) {
            return told.clone();
        }
        let named = named.into_iter();
        let mut spread: Vec<(ServerName, u16)> = named.map(|one| (one.name.clone(), coarse(one.weight))).collect();
        spread.sort_by(|(a, weight_a), (b, weight_b)| weight_b.cmp(weight_a).then_with(|| a.cmp(b)));
        spread
    }

    /// The servers that stand farthest away from one, by weight. Where these are too few for all copies, nearer ones come along with
    /// the least weight. One that is nearly full has the least weight wherever it stands, and does not count: alone in the farthest
    /// rack it would be given every copy until it takes none.
    fn weighed(&self, name: &ServerName, told: &[(ServerName, u16)], targets: &[ServerName]) -> Vec<Weighed<'a>> {
        if self.others == 0 {
            return Vec::new();
        }
        let is_named = |taker: &Taker<'_>| told.iter().any(|(named, _)| named == taker.name);
        let terms = &self.sight.copies.terms;
        let labels = terms.of(name).labels();
        let mut classes: BTreeMap<Reverse<Apart>, Vec<Taker<'a>>> = BTreeMap::new();
        let is_other = |taker: &&Taker<'_>| taker.name != name && !targets.contains(taker.name);
        let takers = self.takers.iter().filter(is_other);
        for taker in takers.filter(|taker| taker.is_alive || taker.lingers && is_named(taker)) {
            let class = apart(labels, terms.of(taker.name).labels());
            classes.entry(Reverse(class)).or_default().push(*taker);
        }
        let mut weighed: Vec<Weighed<'a>> = Vec::new();
        let (mut with_room, mut none_had_room) = (0, true);
        let mut classes = classes.into_values().peekable();
        while let Some(takers) = classes.next() {
            // Once nearer servers are named they stay until the far ones have room again by a margin.
            let nearer_is_named = classes.peek().is_some_and(|nearer| nearer.iter().any(is_named));
            let most_free = if nearer_is_named {
                2 * FULL_PERCENT
            } else {
                FULL_PERCENT
            };
            let has_room = |taker: &&Taker<'_>| !taker.storage.has_at_most_free(most_free);
            let best = takers.iter().map(|taker| taker.worth).fold(f64::MIN_POSITIVE, f64::max);
            weighed.extend(takers.iter().map(|taker| Weighed {
                name: taker.name,
                place: taker.place,
                weight: match none_had_room && !taker.storage.is_nearly_full() {
                    true => (WEIGHT_MAX * taker.worth / best).clamp(1.0, WEIGHT_MAX),
                    false => 1.0,
                },
            }));
            none_had_room &= takers.iter().all(|taker| taker.storage.is_nearly_full());
            with_room += takers.iter().filter(has_room).count();
            if with_room >= self.others || weighed.len() >= SPREAD_MAX {
                break;
            }
        }
        weighed
    }
}

/// Whether copies may begin where nobody was told of any.
fn may_begin(sight: &Sight) -> bool {
    !may_go_back(sight) && knows_no_copies(sight).is_empty()
}

/// Whether an upgrade is under way that can still go back.
pub(super) fn may_go_back(sight: &Sight) -> bool {
    let upgrade = sight.plan.as_ref().and_then(|plan| plan.upgrade.as_ref());
    upgrade.is_some_and(|upgrade| match upgrade.phase {
        Phase::Rolling | Phase::Soak | Phase::Aborting => true,
        Phase::Finalizing | Phase::Sweeping | Phase::Done | Phase::RolledBack => false,
    })
}

/// Whether a server may hold copies of what others own.
pub(super) fn may_hold(seen: &Seen) -> bool {
    may_hold_as(seen.want.role, seen)
}

fn may_hold_as(role: Role, seen: &Seen) -> bool {
    role.takes_new_objects() && !seen.lost && seen.kept().is_some()
}

/// Why a server is given no copies of what others own; `None`: it may be given some.
#[must_use]
pub fn takes_none(sight: &Sight, name: &ServerName) -> Option<&'static str> {
    let seen = sight.servers.get(name)?;
    let terms = &sight.copies.terms;
    let is_full = |has| terms.server(name, has).is_nearly_full();
    if seen.lost {
        Some("it is marked lost")
    } else if !seen.want.role.takes_new_objects() {
        Some("its role takes none")
    } else if seen.has.is_some() && seen.kept().is_none() {
        Some("its release does not know of copies")
    } else if !terms.of(name).new_objects {
        Some("`new_objects = false` in librarian.toml")
    } else if !seen.alive {
        Some("it is not heard")
    } else if seen.has.as_ref().is_some_and(is_full) {
        Some("its disk is nearly full: it is given some only where there is nobody else")
    } else {
        None
    }
}

/// Whether a server is heard, or was a moment ago.
pub(super) fn is_heard_or_lingers(seen: &Seen) -> bool {
    seen.alive || lingers(seen)
}

fn lingers(seen: &Seen) -> bool {
    seen.silent_for.unwrap_or_default() < UNHEARD_MAX
}

/// How many copies objects are to have whatever they are asked for; it says nothing else.
#[must_use]
pub fn base(sight: &Sight) -> Keep {
    let pool = Pool::new(sight, BTreeMap::new());
    Keep {
        copies: pool.wanted,
        under: pool.under,
        ..Keep::default()
    }
}

/// What an operator is to have of copies in a pool.
#[must_use]
pub fn wanted(sight: &Sight) -> u8 {
    Pool::new(sight, BTreeMap::new()).wanted
}

/// Whether copies leave a server in this role.
fn is_left(role: Role) -> bool {
    match role {
        Role::Cordoned
        | Role::Draining
        | Role::Empty
        | Role::Upgrading
        | Role::Validating
        | Role::Failed
        | Role::Quarantined => true,
        Role::Serving | Role::Refilling | Role::Free | Role::Reserve => false,
    }
}

/// As many of these as a want names, without the server that is told, by name.
fn others<'a>(all: impl Iterator<Item = &'a ServerName>, name: &ServerName) -> Vec<ServerName> {
    let others = all.filter(|other| *other != name);
    let named: BTreeSet<&ServerName> = others.take(NAMES_MAX).collect();
    named.into_iter().cloned().collect()
}

/// Whether what a server was told still fits. Of all that it could be told, it would be told `named` now.
fn stands(told: &[(ServerName, u16)], all: &[Weighed<'_>], named: &[Weighed<'_>], stood_for: Duration) -> bool {
    let weight = |of: &[Weighed<'_>], name: &ServerName| of.iter().find(|one| one.name == name).map(|one| one.weight);
    if told.len() != named.len() || told.iter().any(|(name, _)| weight(all, name).is_none()) {
        return false;
    }
    if stood_for < WEIGHTS_STAND {
        return true;
    }
    let is_close = |told: f64, now: f64| (told - now).abs() <= 1.0 || 3.0 * now.max(told) <= 4.0 * now.min(told);
    let stays =
        |(name, told): &(ServerName, u16)| weight(named, name).is_some_and(|now| is_close(f64::from(*told), now));
    told.iter().all(stays)
}

/// The nearest of the weights 999, 799, 639, 512, ... 1.
fn coarse(weight: f64) -> u16 {
    let steps = ((WEIGHT_MAX / weight).ln() / WEIGHT_STEP.ln()).round();
    // `as` ends at the borders of the type.
    (WEIGHT_MAX / WEIGHT_STEP.powf(steps)).round().clamp(1.0, WEIGHT_MAX) as u16
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
