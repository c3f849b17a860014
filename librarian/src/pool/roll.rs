//! One server's turn in an upgrade.
//!
//! ```text
//! server:  serving --> cordoned --> draining --gate--> empty --stop rule--> upgrading --> validating --> free
//!          free (the canary, and who was emptied before) ------^                 |
//!                                                                 failed <--- does not come back
//! target:  free --> serving, when the first object comes
//! ```
//!
//! Invariants, each for a failure that was thought through (`roll_tests.rs` walks orders of events against them): the target
//! takes nothing before it has the plan on disk; retired copies go only after the gate; nothing is installed while an answer that
//! names the server may still be cached anywhere.

use zones::upkeep::{Arrivals, Install};
use zones::{Errand, Role, ServerName};

use super::decide::Wait;
use super::gate::{self, Gate};
use super::keep;
use super::plan::Plan;
use super::sight::{Seen, Sight};
use super::upgrade::{Roll, Upgrade};
use crate::guard::{Guard, stands};

/// How long requests that run may keep a server from being stopped.
const REQUESTS_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// What a turn asks for next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It is over.
    Over,
    /// Nothing before these.
    Waits(Vec<Wait>),
    /// These roles, with what the servers are to do in them.
    Writes(Vec<Change>),
    /// The upgrade stands still: why.
    Halts(String),
    /// The install failed, and the server is as it was before.
    Failed(String),
    /// The server did not come back, or the one that was to take its objects is lost for good.
    Lost,
}

/// A server's next want, as far as a turn says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Change {
    pub(super) server: ServerName,
    pub(super) role: Role,
    pub(super) targets: Vec<ServerName>,
    pub(super) errand: Errand,
}

/// What is next in one server's turn.
pub(super) fn turn(sight: &Sight, plan: &Plan, upgrade: &Upgrade, roll: &Roll) -> Turn {
    let Some(seen) = sight.servers.get(&roll.server) else {
        return missing(&roll.server);
    };
    if seen.lost {
        return Turn::Lost;
    }
    let one = One {
        sight,
        plan,
        upgrade,
        roll,
        seen,
    };
    match seen.want.role {
        Role::Refilling | Role::Cordoned if roll.into.is_none() => one.serves_again(),
        Role::Serving | Role::Refilling => one.serving(),
        Role::Cordoned => one.cordoned(),
        Role::Draining => one.draining(),
        Role::Free | Role::Reserve => one.free(),
        Role::Empty => one.empty(),
        Role::Upgrading => one.upgrading(),
        Role::Validating => one.validating(),
        Role::Failed => one.failed(),
        Role::Quarantined => Turn::Waits(vec![Wait::Person {
            server: roll.server.clone(),
            role: Role::Quarantined,
        }]),
    }
}

struct One<'a> {
    sight: &'a Sight,
    plan: &'a Plan,
    upgrade: &'a Upgrade,
    roll: &'a Roll,
    seen: &'a Seen,
}

impl One<'_> {
    fn name(&self) -> ServerName {
        self.roll.server.clone()
    }

    fn wait(wait: Wait) -> Turn {
        Turn::Waits(vec![wait])
    }

    fn write(&self, role: Role, errand: Errand) -> Turn {
        Turn::Writes(vec![self.change(role, errand)])
    }

    fn change(&self, role: Role, errand: Errand) -> Change {
        Change {
            server: self.name(),
            role,
            targets: Vec::new(),
            errand,
        }
    }

    fn runs_goal(&self) -> bool {
        self.seen.release() == Some(self.upgrade.goal())
    }

    fn unseen(&self, server: &ServerName, seen: &Seen) -> Option<Turn> {
        (!seen.knows(self.plan.number)).then(|| One::wait(Wait::unseen(server, seen, self.plan)))
    }

    fn target(&self) -> Result<(&ServerName, &Seen), Turn> {
        let Some(into) = &self.roll.into else {
            return Err(Turn::Halts(format!(
                "{} holds objects and has no server to give them to: abort, or take them off it with `librarian drain`",
                self.roll.server
            )));
        };
        let seen = self.sight.servers.get(into).ok_or_else(|| missing(into))?;
        if seen.lost {
            return Err(Turn::Lost);
        }
        Ok((into, seen))
    }

    fn serving(&self) -> Turn {
        if self.roll.into.is_none() {
            return Turn::Over;
        }
        let (into, target) = match self.target() {
            Ok(target) => target,
            Err(turn) => return turn,
        };
        for (server, seen) in [(&self.roll.server, self.seen), (into, target)] {
            if let Some(turn) = self.unseen(server, seen) {
                return turn;
            }
        }
        match gate::left(&self.roll.server, self.seen.upkeep()) {
            // What it gave away before is not to be counted with what it gives now.
            Some(wait @ Wait::Retired { .. }) => One::wait(wait),
            Some(_) | None => {
                let mut changes = vec![self.change(Role::Cordoned, Errand::default())];
                if matches!(target.want.role, Role::Cordoned | Role::Empty) {
                    // Left by a drain that is turned round: it takes objects again before the other one stops.
                    changes.push(Change {
                        server: into.clone(),
                        role: Role::Serving,
                        targets: Vec::new(),
                        errand: Errand::default(),
                    });
                }
                Turn::Writes(changes)
            }
        }
    }

    fn serves_again(&self) -> Turn {
        match self.unseen(&self.roll.server, self.seen) {
            Some(turn) => turn,
            None => self.write(Role::Serving, Errand::default()),
        }
    }

    fn cordoned(&self) -> Turn {
        let (into, target) = match self.target() {
            Ok(target) => target,
            Err(turn) => return turn,
        };
        for (server, seen) in [(&self.roll.server, self.seen), (into, target)] {
            if let Some(turn) = self.unseen(server, seen) {
                return turn;
            }
        }
        match target.want.role {
            Role::Free | Role::Reserve | Role::Serving | Role::Refilling => {}
            role @ (Role::Cordoned
            | Role::Draining
            | Role::Empty
            | Role::Upgrading
            | Role::Validating
            | Role::Failed
            | Role::Quarantined) => {
                return One::wait(Wait::Person {
                    server: into.clone(),
                    role,
                });
            }
        }
        let counts = Errand {
            arrivals: target.upkeep().map(|_| self.arrivals()),
            ..Errand::default()
        };
        Turn::Writes(vec![
            Change {
                server: into.clone(),
                role: Role::Serving,
                targets: Vec::new(),
                errand: counts,
            },
            Change {
                targets: vec![into.clone()],
                ..self.change(Role::Draining, Errand::default())
            },
        ])
    }

    fn arrivals(&self) -> Arrivals {
        Arrivals {
            from: self.name(),
            since: self.roll.since,
        }
    }

    fn draining(&self) -> Turn {
        let (into, target) = match self.target() {
            Ok(target) => target,
            Err(turn) => return turn,
        };
        for (server, seen) in [(&self.roll.server, self.seen), (into, target)] {
            if let Some(turn) = self.unseen(server, seen) {
                return turn;
            }
        }
        let waits = drains(&self.roll.server, self.seen);
        if !waits.is_empty() {
            let (left, room) = (
                self.seen.owned_bytes().saturating_add(self.copies_for(into)),
                target.room(),
            );
            if self.seen.owned > 0 && left > room {
                return Turn::Halts(format!(
                    "objects have grown: {} has {left} octets left to give, and {into} has room for {room}: give {into} more \
                     room (store.capacity) and resume, or abort",
                    self.roll.server
                ));
            }
            return Turn::Waits(waits);
        }
        let patience = std::time::Duration::from_secs(self.upgrade.ask.gate_s);
        let source = (&self.roll.server, self.seen);
        match gate::evidence(source, (into, target), &self.arrivals(), patience) {
            Gate::Passed => self.write(Role::Empty, Errand::default()),
            Gate::Waits(wait) => One::wait(wait),
            Gate::Failed(why) => Turn::Halts(why),
        }
    }

    /// Octets of copies of others' objects that have nowhere to go but to where this server drains.
    fn copies_for(&self, into: &ServerName) -> u64 {
        let octets = self.seen.kept().map_or(0, |kept| kept.octets);
        let has_room = |(name, seen): (&ServerName, &Seen)| {
            let is_other = *name != self.roll.server && name != into;
            is_other && seen.is_heard() && keep::may_hold(seen) && seen.room() > 0
        };
        let others = self.sight.servers.iter();
        let room = others.filter(|one| has_room(*one)).map(|(_, seen)| seen.room());
        octets.saturating_sub(room.fold(0, u64::saturating_add))
    }

    fn free(&self) -> Turn {
        if self.runs_goal() {
            return Turn::Over;
        }
        match self.unseen(&self.roll.server, self.seen) {
            Some(turn) => turn,
            None => self.write(Role::Empty, Errand::default()),
        }
    }

    fn empty(&self) -> Turn {
        if let Some(turn) = self.unseen(&self.roll.server, self.seen) {
            return turn;
        }
        let mut waits = drains(&self.roll.server, self.seen);
        waits.extend(gate::left(&self.roll.server, self.seen.upkeep()));
        if !waits.is_empty() {
            return Turn::Waits(waits);
        }
        if self.runs_goal() {
            return self.write(Role::Validating, Errand::default());
        }
        let quiet = self.seen.quiet_for.unwrap_or_default();
        if stands(Guard::StopRule)
            && let Some(turn) = self.told_of(quiet)
        {
            return turn;
        }
        let running = self.seen.upkeep().map_or(0, |upkeep| upkeep.running);
        if running > 0 && quiet < REQUESTS_MAX {
            return One::wait(Wait::Requests {
                server: self.name(),
                running,
            });
        }
        self.write(Role::Upgrading, self.install())
    }

    /// Waits while an answer that names the server may be given by a secondary, or cached.
    fn told_of(&self, quiet: std::time::Duration) -> Option<Turn> {
        let lagging = self.seen.lagging.iter();
        let waits: Vec<Wait> = lagging
            .map(|lagging| Wait::Secondary {
                server: self.name(),
                secondary: lagging.secondary.clone(),
                left_s: lagging.left.as_secs() + 1,
            })
            .collect();
        if !waits.is_empty() {
            return Some(Turn::Waits(waits));
        }
        let quiet = self.seen.told_for.unwrap_or(quiet).min(quiet);
        (quiet < self.sight.linger).then(|| {
            One::wait(Wait::Cached {
                server: self.name(),
                left_s: (self.sight.linger - quiet).as_secs() + 1,
            })
        })
    }

    /// What an upgrading server is told; nothing where its release could not read it.
    fn install(&self) -> Errand {
        Errand {
            release: self.seen.upkeep().map(|_| self.upgrade.goal().to_owned()),
            ..Errand::default()
        }
    }

    fn upgrading(&self) -> Turn {
        let goal = self.upgrade.goal();
        if self.runs_goal() && self.seen.alive {
            return match self.unseen(&self.roll.server, self.seen) {
                Some(turn) => turn,
                None => self.write(Role::Validating, Errand::default()),
            };
        }
        let told = self.seen.want.errand.release.as_deref() == Some(goal);
        // Left by another plan; what it was told before may still be under way.
        if !told && self.seen.upkeep().is_some() {
            return match self.unseen(&self.roll.server, self.seen) {
                Some(turn) => turn,
                None => self.write(Role::Upgrading, self.install()),
            };
        }
        let install = self.seen.upkeep().map_or(&Install::ByHand, |upkeep| &upkeep.install);
        if self.seen.alive && self.seen.knows(self.plan.number) {
            match install {
                Install::Failed(release) if release == goal => {
                    return Turn::Failed(format!(
                        "the install of {goal} on {} failed, and the release before is back: its log says why",
                        self.roll.server
                    ));
                }
                Install::Refused(release) if release == goal => {
                    return Turn::Halts(format!(
                        "{} does not install {goal}: it is not on its list of allowed releases; add it there, then resume",
                        self.roll.server
                    ));
                }
                Install::ByHand => {
                    return One::wait(Wait::ByHand {
                        server: self.name(),
                        release: goal.to_owned(),
                    });
                }
                Install::Ready | Install::Asked(_) | Install::Failed(_) | Install::Refused(_) => {}
            }
        }
        let by_hand = *install == Install::ByHand;
        if !by_hand && self.seen.step_for.as_secs() >= self.upgrade.ask.install_s {
            return self.write(Role::Failed, Errand::default());
        }
        One::wait(Wait::Installs {
            server: self.name(),
            release: goal.to_owned(),
            alive: self.seen.alive,
        })
    }

    fn validating(&self) -> Turn {
        if !self.runs_goal() {
            // It went back by itself, or another plan wants another release of it.
            return match self.unseen(&self.roll.server, self.seen) {
                Some(turn) => turn,
                None => self.write(Role::Empty, Errand::default()),
            };
        }
        if let Some(turn) = self.unseen(&self.roll.server, self.seen) {
            return match self.seen.step_for.as_secs() >= self.upgrade.ask.install_s {
                true => self.write(Role::Failed, Errand::default()),
                false => turn,
            };
        }
        match self.seen.upkeep() {
            Some(upkeep) if upkeep.tested < self.plan.number => {
                match self.seen.step_for.as_secs() >= self.upgrade.ask.install_s {
                    true => self.write(Role::Failed, Errand::default()),
                    false => One::wait(Wait::Tests { server: self.name() }),
                }
            }
            Some(_) | None => {
                let role = if self.roll.reserve { Role::Reserve } else { Role::Free };
                self.write(role, Errand::default())
            }
        }
    }

    fn failed(&self) -> Turn {
        // Under this very plan it was given up; a later one that speaks of it was made by a person who looked after it.
        if self.seen.want.step > 0 {
            return Turn::Lost;
        }
        match self.unseen(&self.roll.server, self.seen) {
            Some(turn) => turn,
            None => self.write(Role::Empty, Errand::default()),
        }
    }
}

/// What keeps a draining server from being empty.
pub(super) fn drains(server: &ServerName, seen: &Seen) -> Vec<Wait> {
    let mut waits = Vec::new();
    if !stands(Guard::EmptyOrder) {
        return match seen.objects() {
            0 => waits,
            objects => vec![Wait::Holds {
                server: server.clone(),
                objects,
            }],
        };
    }
    if seen.named > 0 {
        waits.push(Wait::Named {
            server: server.clone(),
            registers: seen.named,
            held: seen.held,
        });
    }
    let copies = seen.kept().map_or(0, |kept| kept.held);
    if copies > 0 {
        waits.push(Wait::Copies {
            server: server.clone(),
            copies,
        });
    }
    let (objects, unreadable) = seen.has.as_ref().map_or((0, 0), |has| (has.objects, has.unreadable));
    if objects > 0 {
        waits.push(Wait::Holds {
            server: server.clone(),
            objects,
        });
        if unreadable > 0 {
            waits.push(Wait::Unreadable {
                server: server.clone(),
                objects: unreadable,
            });
        }
    }
    if let Some(wait @ Wait::Open { .. }) = gate::left(server, seen.upkeep())
        && waits.is_empty()
    {
        waits.push(wait);
    }
    waits
}

fn missing(server: &ServerName) -> Turn {
    One::wait(Wait::Missing { server: server.clone() })
}
