//! How a simulated server comes to another release: what its agent asks for, what the installer beside it makes of that, and
//! what the agent tells of it.
//!
//! The agent's decisions are the production ones (`agent::install::ask`). Request and result are files of the server's disk, so
//! that a cut of the power leaves each whole or not at all; the installer goes on where it was when the power comes back.

use std::collections::BTreeMap;

use agent::arrivals::{Count, Looked, look_at};
use agent::install::ask::{self, Decision};
use agent::install::words::{Failure, Part as FailedPart, RequestId, Version};
use agent::install::{Direction, Outcome, Release, Report, Request};
use agent::objects::Local;
use agent::store::scrub::GoOn;
use agent::store::{Disk, StreamSpec};
use agent::sweep::rewrite;
use agent::vault::Part;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use zones::policy::LEVEL_MAX;
use zones::upkeep::{Arrivals, KeysAre, Taken};
use zones::{Address, Epoch, Level, Role, Steps, Upkeep};

use super::agent::Machine;
use super::clock::{MS, S, Time};
use super::disk::Platter;
use super::faults::{Fate, Site};
use super::world::{Event, Work, World};

/// How long requests that run may keep a server from being stopped.
const REQUESTS_WAIT: Time = 30 * S;
/// Most objects of one group of a sweep.
const SWEPT: usize = 4;
/// The request to the installer.
const REQUEST: &str = "install-request";
/// Its result.
const RESULT: &str = "install-result";

/// The name of a release.
pub(super) fn name_of(release: u8) -> String {
    format!("0.{}.0", u32::from(release) + 1)
}

/// The release of a name.
fn number_of(name: &Release) -> Option<u8> {
    (0..3).find(|number| name_of(*number) == name.as_str())
}

/// How an install ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Installed,
    /// The release before is put back.
    Failed,
    Refused,
    /// Neither works.
    Lost,
}

/// How far the installer is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Idle,
    /// The agent is stopped, and comes to another release.
    Stopped(Way),
    /// The agent is started, and is waited for.
    Starts(Way),
    /// A person is needed.
    Lost,
}

/// The installer of one server, and what its agent knows of it.
#[derive(Debug, Default)]
pub(super) struct Installer {
    stage: Stage,
    /// Since when a request waits for those of clients.
    waits_since: Option<Time>,
    /// Whether a request is on its way to the disk, in which life.
    asks: Option<u32>,
    /// The highest plan under which its self-test passed, in which life.
    tested: (u32, u64),
    /// The plan of a self-test that is on its way, in which life.
    tests: (u32, u64),
    /// Stops for another release so far.
    pub(super) stops: u64,
}

impl Installer {
    /// Whether the agent is not to be started.
    pub(super) fn holds_down(&self) -> bool {
        matches!(self.stage, Stage::Stopped(_) | Stage::Lost)
    }

    /// Whether a person is needed.
    pub(super) fn is_lost(&self) -> bool {
        self.stage == Stage::Lost
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }
}

/// What a server counts of what comes, as `agent::arrivals` does.
#[derive(Debug)]
pub(super) struct Counting {
    arrivals: Arrivals,
    count: Count,
    to: u64,
    verified: u64,
    bad: BTreeMap<u64, (Address, Epoch)>,
}

impl Counting {
    fn begin(local: &Local, arrivals: Arrivals) -> Option<Counting> {
        let count = Count::begin(local.store(), arrivals.clone()).ok()?;
        Some(Counting {
            arrivals,
            count,
            to: 0,
            verified: 0,
            bad: BTreeMap::new(),
        })
    }

    /// Counts and reads on.
    fn catch_up(&mut self, local: &Local) -> Option<Taken> {
        self.count.catch_up(local.store()).ok()?;
        for (number, (address, epoch)) in std::mem::take(&mut self.bad) {
            self.read(local, number, &address, epoch);
        }
        let page = local.store().audit(self.to, usize::MAX).ok()?;
        for (number, line) in page.entries {
            if let (Some(entry), _) = Count::counts(&self.arrivals, &line)
                && entry.given().is_some()
                && !self.read(local, number, &entry.address, Epoch(entry.epoch))
            {
                break;
            }
            self.to = number;
        }
        Some(Taken {
            arrivals: self.arrivals.clone(),
            sum: self.count.sum(),
            verified: self.verified,
            bad: self.bad.len() as u64,
        })
    }

    /// Reads one copy; whether something is known of it now.
    fn read(&mut self, local: &Local, number: u64, address: &Address, epoch: Epoch) -> bool {
        match look_at(local, address, epoch, |_| GoOn::Yes) {
            Looked::Verified => self.verified += 1,
            Looked::Bad => drop(self.bad.insert(number, (address.clone(), epoch))),
            Looked::NotYet | Looked::Stopped => return false,
        }
        true
    }
}

fn read<T: DeserializeOwned>(disk: &Platter, name: &str) -> Option<T> {
    let octets = Disk::read(disk, name).ok()?;
    Some(serde_json::from_slice(&octets).expect("a file is replaced whole or not at all"))
}

impl Machine {
    /// The release of its software, as it is written.
    pub(super) fn release_name(&self) -> Release {
        name_of(self.release).parse().expect("a release's name")
    }

    fn request(&self) -> Option<Request> {
        read(&self.disk, REQUEST)
    }

    fn report(&self) -> Option<Report> {
        read(&self.disk, RESULT)
    }

    /// What it says that a pool can upgrade: what the production agent tells, of the same store and the same files.
    pub(super) fn upkeep(&mut self) -> Upkeep {
        let (request, report) = (self.request(), self.report());
        let own = self.release_name();
        let local = std::sync::Arc::clone(&self.process.local);
        let wanted = self.process.engine.outside().wanted.clone();
        let asked = wanted.want.and_then(|want| want.errand.arrivals);
        if self.process.counting.as_ref().map(|counting| &counting.arrivals) != asked.as_ref() {
            self.process.counting = asked.and_then(|arrivals| Counting::begin(&local, arrivals));
        }
        let (totals, standing) = (local.totals(), local.standing());
        Upkeep {
            suite: LEVEL_MAX.0,
            schemas: local.stepper().set(),
            open: totals.open,
            retired: totals.retired,
            used: totals.used,
            newer: standing.newer,
            resting: standing.resting,
            keys: match local.store().vault().provider().is_up() {
                true => KeysAre::Up,
                false => KeysAre::Down,
            },
            running: self.process.requests.len() as u64,
            tested: match self.installer.tested {
                (life, plan) if life == self.life => plan,
                _ => 0,
            },
            install: ask::told(&own, request.as_ref(), report.as_ref(), wanted.plan),
            moved: local.moved(),
            taken: (self.process.counting.as_mut()).and_then(|counting| counting.catch_up(&local)),
            ..Upkeep::default()
        }
    }
}

impl World {
    /// An agent looks whether it is to ask for another release, or to test itself.
    pub(super) fn look_at_install(&mut self, agent: usize) {
        let now = self.now;
        let machine = &mut self.machines[agent];
        let (own, life) = (machine.release_name(), machine.life);
        let wanted = machine.process.engine.outside().wanted.clone();
        while machine.process.local.recount() {}
        let boot = machine.clocks.boot(now);
        let Some(want) = wanted.want.as_ref().filter(|_| wanted.may_start(boot)) else {
            return;
        };
        if want.errand.sweep.is_some() && !machine.process.local.resting(None, 1).is_empty() {
            self.submit(agent, Work::Sweep);
            return;
        }
        let named = want.errand.release.as_deref() == Some(own.as_str());
        let validated = want.role == Role::Validating || want.role == Role::Upgrading && named;
        let known = |(of, plan): (u32, u64)| if of == life { plan } else { 0 };
        if validated && want.plan > known(machine.installer.tested).max(known(machine.installer.tests)) {
            machine.installer.tests = (life, want.plan);
            let plan = want.plan;
            return self.submit(agent, Work::Probe(plan));
        }
        if machine.installer.asks == Some(life) {
            return;
        }
        let (request, report) = (machine.request(), machine.report());
        let (direction, release) = match ask::decide(&own, want, request.as_ref(), report.as_ref()) {
            Decision::Nothing => {
                machine.installer.waits_since = None;
                return;
            }
            Decision::Close => (Direction::Close, own.clone()),
            Decision::Ask(direction, release) => {
                let since = *machine.installer.waits_since.get_or_insert(now);
                let local = &machine.process.local;
                let runs = !machine.process.requests.is_empty() && now < since + REQUESTS_WAIT;
                if local.is_clear(0).is_err() || runs || local.close_for_install(|| 0).is_err() {
                    return;
                }
                (direction, release)
            }
        };
        let request = Request {
            v: Version,
            id: RequestId::from_u128(u128::from(want.plan) << 64 | u128::from(want.step)),
            direction,
            release,
            present: own,
            plan: want.plan,
            step: want.step,
            contract: want.policy.steps == Steps::All,
            unix_ms: machine.clocks.unix_ms(now),
        };
        machine.installer.asks = Some(life);
        self.submit(agent, Work::Ask(Box::new(request)));
    }

    /// A request for the installer comes to the disk.
    pub(super) fn ask_installer(&mut self, agent: usize, request: &Request) {
        let text = serde_json::to_vec(request).expect("a request is JSON");
        let machine = &mut self.machines[agent];
        machine.installer.asks = None;
        if machine.disk.replace(REQUEST, &text).is_err() {
            machine.process.local.reopen();
            return;
        }
        self.note(|| {
            format!(
                "s{} asks for {} under plan {}",
                agent + 1,
                request.release,
                request.plan
            )
        });
        // Once the librarian has heard of it.
        let pause = 200 * MS + self.faults.roll(210) % (2 * S);
        self.push(self.now + pause, Event::Installer(agent));
    }

    /// A self-test: a probe copy is written, read back and erased.
    pub(super) fn probe(&mut self, agent: usize, plan: u64) {
        let machine = &mut self.machines[agent];
        machine.installer.tests = (0, 0);
        let local = &machine.process.local;
        let spec = StreamSpec {
            address: "9.9".parse().expect("a legal address"),
            part: Part::Properties,
            level: Level(1),
            octets_hint: Some(5),
            reservation: None,
        };
        let written = local.store().write_small(vec![(spec, Bytes::from_static(b"probe"))]);
        if written.is_ok() {
            machine.installer.tested = (machine.life, plan);
            self.note(|| format!("s{} has tested itself under plan {plan}", agent + 1));
        }
    }

    /// One group of objects that rest is brought to what the plan asks for.
    pub(super) fn sweep(&mut self, agent: usize) {
        let machine = &mut self.machines[agent];
        let boot = machine.clocks.boot(self.now);
        let local = std::sync::Arc::clone(&machine.process.local);
        let resting = local.resting(None, SWEPT);
        let resting = &resting[..rewrite::group(&resting).min(resting.len())];
        let swept = rewrite::rewrite(&local, resting, boot, |_| GoOn::Yes);
        self.note(|| format!("s{} sweeps {} objects: {swept:?}", agent + 1, resting.len()));
    }

    /// The installer of a server does what is next.
    pub(super) fn installs(&mut self, agent: usize) {
        let Some(request) = self.machines[agent].request() else {
            return;
        };
        // The machine may lose its power at each of these, before or after.
        let fate = self.decide(Site::Disk);
        let cut = match fate {
            Fate::CrashBefore | Fate::CrashWithin(_) => Some(false),
            Fate::CrashAfter => Some(true),
            _ => None,
        };
        if cut != Some(false) {
            self.install_step(agent, &request);
        }
        if cut.is_some() {
            self.crash(agent);
            self.push(self.now + S, Event::Installer(agent));
        }
    }

    fn install_step(&mut self, agent: usize, request: &Request) {
        let roll = self.faults.roll(211);
        let later = |low: Time, high: Time| low + roll % (high - low);
        match self.machines[agent].installer.stage {
            Stage::Idle if request.direction == Direction::Close => self.report(agent, request, Outcome::Closed {}),
            Stage::Idle => {
                let way = match self.decide(Site::Install) {
                    Fate::InstallFails => Way::Failed,
                    Fate::InstallRefused => Way::Refused,
                    Fate::NeverBack => Way::Lost,
                    _ => Way::Installed,
                };
                if let Err(why) = self.check_stop(agent) {
                    return self.fail(why);
                }
                self.note(|| format!("s{} stops for {} ({way:?})", agent + 1, request.release));
                self.machines[agent].installer.stops += 1;
                self.machines[agent].installer.stage = Stage::Stopped(way);
                self.crash(agent);
                self.push(self.now + later(200 * MS, 2 * S), Event::Installer(agent));
            }
            Stage::Stopped(Way::Lost) => {
                self.note(|| format!("s{} does not come back", agent + 1));
                self.machines[agent].installer.stage = Stage::Lost;
                self.upgraded.lost += 1;
            }
            Stage::Stopped(way) => {
                if way == Way::Installed {
                    match number_of(&request.release) {
                        Some(release) => self.machines[agent].release = release,
                        None => return self.fail(format!("{} is no release of this pool", request.release)),
                    }
                }
                self.machines[agent].installer.stage = Stage::Starts(way);
                // Its store is opened by the new program.
                self.crash(agent);
                self.push(self.now + later(500 * MS, 4 * S), Event::Installer(agent));
            }
            Stage::Starts(way) => {
                if !self.machines[agent].started {
                    return self.push(self.now + S / 2, Event::Installer(agent));
                }
                let failure = || Failure {
                    part: FailedPart::Start,
                    why: "it is made to fail".to_owned(),
                    said: Vec::new(),
                };
                let outcome = match way {
                    Way::Installed => Outcome::Installed {},
                    Way::Failed => Outcome::Failed { failure: failure() },
                    Way::Refused => Outcome::Refused {
                        why: "it is not on the list".to_owned(),
                    },
                    Way::Lost => Outcome::Broken {
                        failure: failure(),
                        back: failure(),
                    },
                };
                self.report(agent, request, outcome);
            }
            Stage::Lost => {}
        }
    }

    /// The result of a request: written first, then the request is gone.
    fn report(&mut self, agent: usize, request: &Request, outcome: Outcome) {
        self.note(|| format!("s{}: {} ends as {outcome:?}", agent + 1, request.release));
        let report = Report {
            request: request.clone(),
            outcome,
            unix_ms: 0,
        };
        let text = serde_json::to_vec(&report).expect("a result is JSON");
        let machine = &mut self.machines[agent];
        let written = machine
            .disk
            .replace(RESULT, &text)
            .and_then(|()| machine.disk.remove(REQUEST));
        match written {
            Ok(()) => machine.installer.stage = Stage::Idle,
            Err(_) => self.push(self.now + S, Event::Installer(agent)),
        }
    }

    /// A person repairs a server that did not come back: it serves again, at either release.
    pub(super) fn repair(&mut self, agent: usize) {
        if !self.machines[agent].installer.is_lost() {
            return;
        }
        let new = self.faults.roll(212).is_multiple_of(2);
        self.note(|| format!("a person repairs s{}, at the new release: {new}", agent + 1));
        self.machines[agent].installer.stage = Stage::Stopped(if new { Way::Installed } else { Way::Failed });
        self.push(self.now, Event::Installer(agent));
    }
}
