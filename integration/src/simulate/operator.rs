//! The person who upgrades the simulated pool: begins upgrades, pauses and resumes them, takes them back, repairs what does not
//! come back, and finalizes.
//!
//! What is said is judged by the production rules (`librarian::pool::steer`). A script says when an upgrade is begun and what is
//! said in its midst; what must be said so that it ends, the person says by themself after a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use librarian::pool::steer::{self, SteerRefusal};
use librarian::pool::{self, Ask, Decision, Halt, Phase, Plan, Sight, Upgrade, Wait, decide, status};
use zones::{Role, State};

use super::clock::{S, Time, true_unix_ms};
use super::desk::Verb;
use super::install;
use super::script::address;
use super::world::{Event, World};

/// How often a person resumes before the upgrade is taken back.
const RESUMES_MAX: u32 = 4;

/// What a person says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Steer {
    /// The pool is to have this release; objects go back home, and are asked to be of this level afterwards.
    Start(u8, bool, Option<u8>),
    /// Nothing moves any more.
    Pause,
    /// It goes on.
    Resume,
    /// It is taken back.
    Abort,
}

/// What the person knows.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// Upgrades that are to be begun, the first one now.
    wishes: VecDeque<(u8, bool, Option<u8>)>,
    /// Whether the first one was begun, at least once.
    begun: bool,
    /// Since when a person could say something, and in answer to which plan.
    since: Option<(u64, Time)>,
    resumes: u32,
    /// Since when each server is out of order.
    lost: BTreeMap<usize, Time>,
    /// Faults by kind when the present upgrade began.
    faults: Option<BTreeMap<&'static str, u64>>,
    /// Why the first wish is not begun.
    refused: Option<String>,
}

/// How upgrades went, for a summary.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Upgraded {
    /// How they ended.
    pub ends: Vec<&'static str>,
    /// States of pool and servers that were seen.
    pub states: BTreeSet<String>,
    /// States of the pool in which the controller was killed.
    pub killed: BTreeSet<String>,
    /// Kinds of faults in the midst of an upgrade.
    pub faults: BTreeSet<&'static str>,
    /// Halts by a gate.
    pub halts: u64,
    /// Times that a person resumed.
    pub resumes: u64,
    /// Servers that did not come back.
    pub lost: u64,
}

impl Upgraded {
    /// Adds what another run saw.
    pub(super) fn take(&mut self, other: &Upgraded) {
        self.states.extend(other.states.iter().cloned());
        self.killed.extend(other.killed.iter().cloned());
        self.faults.extend(other.faults.iter().copied());
        self.halts += other.halts;
        self.resumes += other.resumes;
        self.lost += other.lost;
    }
}

impl World {
    /// Whether an upgrade is wished that has not ended.
    pub(super) fn upgrade_waits(&self) -> Option<String> {
        let operator = &self.operator;
        let (to, ..) = operator.wishes.front()?;
        let waits = self.librarian.sight().ok().map(|sight| match decide(&sight) {
            Decision::Wait(waits) => waits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            other => format!("{other:?}"),
        });
        Some(format!(
            "the upgrade to {} has not ended: {}; {waits:?}",
            install::name_of(*to),
            operator.refused.as_deref().unwrap_or("it is under way")
        ))
    }

    /// A person says something.
    pub(super) fn steers(&mut self, what: Steer) {
        if let Steer::Start(to, home, level) = what {
            return self.operator.wishes.push_back((to, home, level));
        }
        if !self.librarian.up || !self.librarian.is_open() {
            return;
        }
        let said = match what {
            Steer::Pause => self.librarian.steer(steer::pause),
            Steer::Resume => self.librarian.steer(steer::resume),
            Steer::Abort => self.librarian.steer(steer::abort),
            Steer::Start(..) => unreachable!("taken above"),
        };
        self.note(|| format!("a person says {what:?}: {said:?}"));
    }

    /// The state of the pool, where an upgrade is under way.
    pub(super) fn pool_state(&self) -> Option<String> {
        let sight = self.librarian.sight().ok()?;
        let upgrade = sight.plan.as_ref()?.upgrade.as_ref()?;
        (!upgrade.is_over()).then(|| status::Status::of(&sight).state)
    }

    /// The person looks, and says what must be said.
    pub(super) fn operator_looks(&mut self) {
        self.push(self.now + S, Event::Operator);
        self.repairs();
        if !self.librarian.up || !self.librarian.is_open() {
            return;
        }
        let Ok(sight) = self.librarian.sight() else { return };
        let upgrade = sight.plan.as_ref().and_then(|plan| plan.upgrade.clone());
        if upgrade.as_ref().is_some_and(|upgrade| !upgrade.is_over()) {
            let counts = &self.faults.counts;
            let before = self.operator.faults.get_or_insert_with(|| counts.clone());
            let more = counts.iter().filter(|(kind, count)| before.get(*kind) != Some(count));
            self.upgraded.faults.extend(more.map(|(kind, _)| *kind));
        } else {
            self.operator.faults = None;
        }
        if upgrade.is_some() {
            self.upgraded.states.insert(status::Status::of(&sight).state);
            let roles = sight.servers.values().map(|seen| seen.want.role.to_string());
            self.upgraded.states.extend(roles);
        }
        match upgrade.filter(|upgrade| !upgrade.is_over() || self.operator.begun && self.is_of_wish(upgrade)) {
            Some(upgrade) if upgrade.is_over() => self.upgrade_ends(&upgrade),
            Some(upgrade) => self.goes_on(&sight, &upgrade),
            None => self.begins(&sight),
        }
    }

    fn is_of_wish(&self, upgrade: &Upgrade) -> bool {
        let wish = self.operator.wishes.front();
        wish.is_some_and(|(to, ..)| upgrade.to == install::name_of(*to))
    }

    fn upgrade_ends(&mut self, upgrade: &Upgrade) {
        let end = upgrade.phase.as_str();
        self.note(|| format!("the upgrade to {} is {end}", upgrade.to));
        if let Err(why) = self.check_upgraded(upgrade) {
            return self.fail(why);
        }
        self.upgraded.ends.push(end);
        self.operator.wishes.pop_front();
        self.operator.begun = false;
        self.operator.resumes = 0;
    }

    fn begins(&mut self, sight: &Sight) {
        let Some((to, home, level)) = self.operator.wishes.front().copied() else {
            return;
        };
        if let Some(present) = left_behind(sight, &install::name_of(to)) {
            let present = (0..to).find(|release| install::name_of(*release) == present);
            if let Some(release) = present {
                return self.operator.wishes.push_front((release, false, None));
            }
        }
        let ask = Ask {
            level: level.filter(|level| *level >= sight.policy().level.0),
            refill_home: home,
            soak_s: 3,
            install_s: 25,
            gate_s: 30,
            ..Ask::default()
        };
        let moving = self.librarian.moving(self.script.objects);
        let unix_s = true_unix_ms(self.now) / 1000;
        let name = install::name_of(to);
        let said = self
            .librarian
            .steer(|sight| steer::start(sight, &name, &ask, moving, unix_s));
        match said {
            Ok(()) => {
                self.note(|| format!("the upgrade to {name} begins"));
                self.operator.begun = true;
                self.operator.refused = None;
            }
            Err(why) => {
                if self.operator.refused.as_ref() != Some(&why) {
                    self.note(|| format!("the upgrade to {name} does not begin: {why}"));
                }
                self.operator.refused = Some(why);
                if self.librarian.rests() || sight.plan.is_none() {
                    self.prepares(sight);
                    self.brings_along(sight, to);
                }
            }
        }
    }

    /// After a reconcile in the midst of a drain both its servers serve, and none may be free: then one is emptied by hand.
    fn prepares(&mut self, sight: &Sight) {
        let of = |role| (sight.servers.iter()).filter(move |(_, seen)| seen.want.role == role);
        if of(Role::Free).next().is_some() {
            return;
        }
        let mut serving: Vec<_> = of(Role::Serving)
            .map(|(name, seen)| (seen.bytes(), name.clone()))
            .collect();
        serving.sort();
        let reserve = of(Role::Reserve).next().map(|(name, _)| name.clone());
        let Some((_, server)) = serving.first().cloned() else {
            return;
        };
        let into = reserve.or_else(|| serving.get(1).map(|(_, name)| name.clone()));
        let drained = self
            .librarian
            .plan(|sight| pool::drain(sight, &server, into.as_ref()).ok());
        self.note(|| format!("a person drains {server} into {into:?}: {drained}"));
    }

    /// A registry that came back may take a server for free that was left at a third release: a person brings it along, by hand.
    fn brings_along(&mut self, sight: &Sight, to: u8) {
        let serving = sight.servers.values().find(|seen| seen.want.role == Role::Serving);
        let known = [
            serving.and_then(|seen| seen.release()).map(str::to_owned),
            Some(install::name_of(to)),
        ];
        let strange = sight.servers.iter().find(|(_, seen)| {
            let release = seen.release().map(str::to_owned);
            seen.want.role == Role::Free && seen.alive && release.is_some() && !known.contains(&release)
        });
        let Some(agent) = strange.and_then(|(name, _)| self.machines.iter().position(|machine| machine.name == *name))
        else {
            return;
        };
        self.note(|| format!("a person installs {} on s{} by hand", install::name_of(to), agent + 1));
        self.machines[agent].release = to;
        self.crash(agent);
    }

    /// The person deletes what is damaged: nothing else brings a server to be empty.
    pub(super) fn mends(&mut self) {
        for object in 0..self.script.objects {
            let address = address(object);
            if self.check.was_damaged(&address) && self.check.owner(&address).is_some() {
                self.client_wants(0, object, Verb::Delete);
            }
        }
    }

    fn goes_on(&mut self, sight: &Sight, upgrade: &Upgrade) {
        let number = sight.number();
        let decision = decide(sight);
        let finalizes = decision == Decision::Wait(vec![Wait::Finalize]);
        let is_stuck = |wait: &Wait| matches!(wait, Wait::Unreadable { .. } | Wait::Resting { .. });
        let stuck = matches!(&decision, Decision::Wait(waits) if waits.iter().any(is_stuck));
        if (stuck || upgrade.halt.is_some()) && sight.plan_for.as_secs().is_multiple_of(10) {
            self.mends();
        }
        if upgrade.halt.is_none() && !finalizes {
            return;
        }
        // A person takes a while.
        let since = match self.operator.since {
            Some((of, since)) if of == number => since,
            _ => {
                self.operator.since = Some((number, self.now));
                self.upgraded.halts += u64::from(matches!(upgrade.halt, Some(Halt::Gate(_))));
                self.now
            }
        };
        let patience = 2 * S + super::dice(self.script.seed, number, 310) % (8 * S);
        if self.now < since + patience {
            return;
        }
        self.operator.since = Some((number, self.now));
        let said = if finalizes {
            self.librarian.steer(|sight| steer::finalize(sight, u64::MAX))
        } else {
            self.operator.resumes += 1;
            self.upgraded.resumes += 1;
            let back = self.operator.resumes > RESUMES_MAX && upgrade.phase == Phase::Rolling;
            match back {
                true => self.librarian.steer(steer::abort),
                false => self.librarian.steer(steer::resume),
            }
        };
        self.note(|| format!("a person looked at {:?} and goes on: {said:?}", upgrade.halt));
        if let Err(why) = said {
            self.operator.refused = Some(why);
        }
    }

    /// Repairs servers that did not come back.
    fn repairs(&mut self) {
        for agent in 0..self.machines.len() {
            if !self.machines[agent].installer.is_lost() {
                self.operator.lost.remove(&agent);
                continue;
            }
            let since = *self.operator.lost.entry(agent).or_insert(self.now);
            let patience = super::dice(self.script.seed, agent as u64, 311) % (90 * S);
            if self.now >= since + patience {
                self.repair(agent);
            }
        }
    }
}

impl super::librarian::Librarian {
    /// Makes a plan of an upgrade current, if the rules let it.
    pub(super) fn steer(&mut self, make: impl FnOnce(&Sight) -> Result<Plan, SteerRefusal>) -> Result<(), String> {
        let sight = self.sight().map_err(|error| error.to_string())?;
        let plan = make(&sight).map_err(|refusal| refusal.to_string())?;
        let proposal = librarian::registry::Proposal::Plan(super::librarian::kept(&plan));
        self.submit(proposal).map_err(|error| format!("{error:?}"))
    }

    /// Objects that are on their way.
    fn moving(&self, objects: usize) -> u64 {
        let view = self.process.registry.view();
        let moves = |object: &usize| {
            let register = view.register(&super::script::address(*object));
            register.is_some_and(|register| matches!(register.state, State::Moving { .. }))
        };
        (0..objects).filter(moves).count() as u64
    }
}

/// The release that the pool runs, if a server is heard again that an upgrade left behind it: it is brought along first.
fn left_behind(sight: &Sight, to: &str) -> Option<String> {
    let present = sight
        .servers
        .values()
        .find(|seen| seen.want.role == Role::Serving)?
        .release()?;
    let strange = |release| release != present && release != to;
    let left = (sight.servers.values())
        .any(|seen| seen.want.role == Role::Failed && seen.alive && seen.release().is_some_and(strange));
    left.then(|| present.to_owned())
}
