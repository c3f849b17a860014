//! Whole upgrades against agents that obey and report when they like, in virtual time: orders of events, faults, and what a
//! person says in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use zones::upkeep::{Install, Sum, Taken, Upkeep};
use zones::{Kept, Role, ServerName, Want};

use super::decide::{Decision, Wait, decide};
use super::memory::Memory;
use super::sight::Sight;
use super::steer::{self, SteerRefusal};
use super::testing::{has, name, sight};
use super::upgrade::{Ask, Halt, Phase, Upgrade};

mod secondaries;

const LINGER: Duration = Duration::from_secs(11);

/// A small deterministic generator: a failure prints the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One server's agent.
struct Agent {
    want: Want,
    release: String,
    up: bool,
    /// What it installs, while it is down for that.
    installs: Option<String>,
    install: Install,
    /// The (plan, step) under which an install failed.
    failed_at: (u64, u64),
    tested: u64,
    /// It never comes back by itself.
    broken: bool,
}

/// A pool with its objects.
struct Model {
    sight: Sight,
    memory: Memory,
    now: Instant,
    agents: BTreeMap<ServerName, Agent>,
    /// Owner by object.
    owners: Vec<ServerName>,
    copies: BTreeSet<(ServerName, usize)>,
    /// Every move: object, whence, whither, under which plan.
    moves: Vec<(usize, ServerName, ServerName, u64)>,
    /// When a register last named a server, or its role let answers name it.
    named_at: BTreeMap<ServerName, Instant>,
    frees: usize,
    /// Whether servers know copies; none is made here, but wants say so all the while.
    knows_copies: bool,
}

/// What may go wrong.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Installs that fail, of a hundred.
    fails: u64,
    /// Servers that do not come back.
    lost: usize,
}

impl Model {
    fn new(servers: &[(&str, Role, u64)]) -> Model {
        let mut sight = sight(servers);
        let mut owners = Vec::new();
        let mut copies = BTreeSet::new();
        for (server, _, objects) in servers {
            for _ in 0..*objects {
                copies.insert((name(server), owners.len()));
                owners.push(name(server));
            }
        }
        for seen in sight.servers.values_mut() {
            seen.has.as_mut().unwrap().release = "1".to_owned();
        }
        let agents = sight
            .servers
            .iter()
            .map(|(name, seen)| {
                let agent = Agent {
                    want: seen.want.clone(),
                    release: "1".to_owned(),
                    up: true,
                    installs: None,
                    install: Install::Ready,
                    failed_at: (0, 0),
                    tested: 0,
                    broken: false,
                };
                (name.clone(), agent)
            })
            .collect();
        let now = Instant::now();
        let mut model = Model {
            named_at: sight.servers.keys().map(|name| (name.clone(), now)).collect(),
            frees: servers.iter().filter(|(_, role, _)| *role != Role::Serving).count(),
            sight,
            memory: Memory::new(LINGER),
            now,
            agents,
            owners,
            copies,
            moves: Vec::new(),
            knows_copies: false,
        };
        for name in model.names() {
            model.report(&name);
        }
        model
    }

    /// The same with servers that are told of copies from before an upgrade on.
    fn with_copies(mut self) -> Model {
        self.knows_copies = true;
        for server in self.names() {
            self.report(&server);
        }
        while self.control() {}
        assert!(super::keep::has_begun(&self.sight));
        self
    }

    /// A server is gone for good, and a person says so.
    fn lose(&mut self, server: &ServerName) {
        let agent = self.agents.get_mut(server).unwrap();
        (agent.up, agent.broken) = (false, true);
        let seen = self.sight.servers.get_mut(server).unwrap();
        (seen.alive, seen.lost) = (false, true);
    }

    fn names(&self) -> Vec<ServerName> {
        self.agents.keys().cloned().collect()
    }

    fn upgrade(&self) -> &Upgrade {
        self.sight.plan.as_ref().unwrap().upgrade.as_ref().unwrap()
    }

    fn see(&mut self) {
        for (server, seen) in &mut self.sight.servers {
            let owned = self.owners.iter().filter(|owner| *owner == server).count() as u64;
            (seen.named, seen.owned) = (owned, owned);
            if owned > 0 || seen.want.role.takes_new_objects() {
                self.named_at.insert(server.clone(), self.now);
            }
        }
        self.memory.see(self.now, &mut self.sight);
    }

    /// Looks and decides once; whether something was written.
    fn control(&mut self) -> bool {
        self.see();
        match decide(&self.sight) {
            Decision::Write(wants) => {
                assert!(!wants.is_empty(), "a decision to write writes something");
                for (server, want) in wants {
                    self.sight.write(&server, want);
                }
                self.check_roles();
                true
            }
            Decision::Next(plan) => {
                self.sight.apply_plan(*plan);
                true
            }
            Decision::Rest | Decision::Wait(_) => false,
        }
    }

    fn check_roles(&self) {
        let out = self
            .sight
            .servers
            .values()
            .filter(|seen| {
                matches!(
                    seen.want.role,
                    Role::Cordoned | Role::Draining | Role::Empty | Role::Upgrading | Role::Validating
                )
            })
            .count();
        assert!(out <= self.frees, "I13: {out} servers are out of serving");
    }

    fn says(&mut self, make: impl FnOnce(&Sight) -> Result<super::Plan, SteerRefusal>) -> Result<(), SteerRefusal> {
        self.see();
        let plan = make(&self.sight)?;
        self.sight.apply_plan(plan);
        Ok(())
    }

    fn kept(&self, server: &ServerName) -> Vec<usize> {
        self.copies
            .iter()
            .filter(|(holder, object)| holder == server && self.owners[*object] != *server)
            .map(|(_, object)| *object)
            .collect()
    }

    fn report(&mut self, server: &ServerName) {
        let agent = &self.agents[server];
        if !agent.up {
            return;
        }
        let digest = |object: &usize| u128::from(zones_hash(*object as u64));
        let sum = |objects: &[usize]| {
            objects
                .iter()
                .fold(Sum::default(), |sum, object| sum.with(digest(object)))
        };
        let taken = agent.want.errand.arrivals.clone().map(|arrivals| {
            let came: Vec<usize> = self
                .moves
                .iter()
                .filter(|(_, from, to, plan)| *from == arrivals.from && to == server && *plan >= arrivals.since)
                .map(|(object, ..)| *object)
                .collect();
            Taken {
                arrivals,
                sum: sum(&came),
                verified: came.len() as u64,
                bad: 0,
            }
        });
        let owned = self.owners.iter().filter(|owner| *owner == server).count() as u64;
        let kept = self.kept(server);
        let mut has = has(agent.want.plan, owned);
        has.release = agent.release.clone();
        has.kept = self.knows_copies.then(Kept::default);
        has.upkeep = Some(Upkeep {
            suite: 3,
            retired: kept.len() as u64,
            tested: agent.tested,
            // A failure is of the plan under which it happened; under a later one the server is ready for another try.
            install: match &agent.install {
                Install::Failed(_) if agent.want.plan > agent.failed_at.0 => Install::Ready,
                install => install.clone(),
            },
            moved: sum(&kept),
            taken,
            ..Upkeep::default()
        });
        let seen = self.sight.servers.get_mut(server).unwrap();
        seen.has = Some(has);
        seen.alive = true;
    }

    /// An agent does one thing that it may do as far as it knows.
    fn act(&mut self, server: &ServerName, dice: &mut Dice, faults: &mut Faults) {
        let current = self.sight.servers[server].want.clone();
        let agent = self.agents.get_mut(server).unwrap();
        if let Some(release) = agent.installs.take() {
            if agent.broken {
                agent.installs = Some(release);
                return;
            }
            if dice.roll(100) < faults.fails {
                agent.install = Install::Failed(release);
                agent.failed_at = (agent.want.plan, agent.want.step);
            } else {
                agent.release = release;
                agent.install = Install::Ready;
            }
            agent.up = true;
            agent.tested = 0;
            return;
        }
        match agent.want.role {
            Role::Draining => {
                let Some(target) = agent.want.targets.first().cloned() else {
                    return;
                };
                let number = agent.want.plan;
                // The registry judges by the wants in force, and the target must be there.
                let allowed = current.role == Role::Draining
                    && current.targets.contains(&target)
                    && self.sight.servers[&target].want.role.may_be_newly_named()
                    && self.agents[&target].up;
                if let Some(object) = self.owners.iter().position(|owner| owner == server).filter(|_| allowed) {
                    self.owners[object] = target.clone();
                    self.copies.insert((target.clone(), object));
                    self.moves.push((object, server.clone(), target, number));
                }
            }
            Role::Cordoned => {}
            Role::Validating => agent.tested = agent.want.plan,
            Role::Upgrading => {
                let Some(release) = agent.want.errand.release.clone() else {
                    return;
                };
                let again = (agent.want.plan, agent.want.step) > agent.failed_at;
                let clear = !self.copies.iter().any(|(holder, _)| holder == server);
                let agent = self.agents.get_mut(server).unwrap();
                if release != agent.release && clear && again {
                    assert!(
                        !self.owners.contains(server),
                        "{server} is stopped while a register names it"
                    );
                    let quiet = self.now - self.named_at[server];
                    assert!(
                        quiet >= LINGER,
                        "{server} is stopped {quiet:?} after an answer named it"
                    );
                    agent.installs = Some(release);
                    agent.up = false;
                    if faults.lost > 0 && dice.roll(4) == 0 {
                        faults.lost -= 1;
                        agent.broken = true;
                    }
                }
            }
            Role::Empty | Role::Free | Role::Reserve | Role::Serving | Role::Refilling => {
                let kept = self.kept(server);
                for object in kept {
                    self.copies.remove(&(server.clone(), object));
                }
            }
            Role::Failed | Role::Quarantined => {}
        }
    }

    fn check(&self) {
        for (object, owner) in self.owners.iter().enumerate() {
            assert!(
                self.copies.contains(&(owner.clone(), object)),
                "object {object} is lost: {owner} has no copy"
            );
        }
    }

    /// One event of those that happen at any time.
    fn event(&mut self, dice: &mut Dice, faults: &mut Faults, calm: bool) {
        self.now += Duration::from_millis(200 + dice.roll(1500));
        let names = self.names();
        let server = names[dice.roll(names.len() as u64) as usize].clone();
        match dice.roll(if calm { 8 } else { 10 }) {
            0..=2 => drop(self.control()),
            3 => {
                let want = self.sight.servers[&server].want.clone();
                let agent = self.agents.get_mut(&server).unwrap();
                if agent.up && want.supersedes(&agent.want) {
                    agent.want = want;
                }
            }
            4 | 5 => self.report(&server),
            6 | 7 => self.act(&server, dice, faults),
            8 => self.sight.servers.get_mut(&server).unwrap().alive = false,
            // The controller is killed: it knows nothing of before.
            _ => self.memory = Memory::new(LINGER),
        }
        self.check();
    }

    /// No more faults: until the upgrade asks a person, or is over.
    fn settle(&mut self) -> Phase {
        for _ in 0..4000 {
            self.now += Duration::from_millis(700);
            while self.control() {}
            for server in self.names() {
                let want = self.sight.servers[&server].want.clone();
                let agent = self.agents.get_mut(&server).unwrap();
                if agent.up && want.supersedes(&agent.want) {
                    agent.want = want;
                }
                self.act(&server, &mut Dice(1), &mut Faults::default());
                // Its lease ends while it is away.
                self.sight.servers.get_mut(&server).unwrap().alive = false;
                self.report(&server);
                self.check();
            }
            let upgrade = self.upgrade();
            if upgrade.is_over() || upgrade.halt.is_some() {
                return upgrade.phase;
            }
            if let Decision::Wait(waits) = decide(&self.sight)
                && waits == [Wait::Finalize]
            {
                return Phase::Soak;
            }
        }
        panic!(
            "the upgrade does not settle: {:?}, {:?}",
            decide(&self.sight),
            self.sight
        );
    }

    fn releases(&self) -> BTreeSet<&str> {
        let in_pool = self.agents.values().filter(|agent| !agent.broken);
        in_pool.map(|agent| agent.release.as_str()).collect()
    }
}

fn zones_hash(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn ask() -> Ask {
    Ask {
        soak_s: 5,
        gate_s: 600,
        install_s: 600,
        ..Ask::default()
    }
}

fn four() -> Model {
    Model::new(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s3", Role::Serving, 3),
        ("s4", Role::Free, 0),
    ])
}

fn start(model: &mut Model, ask: &Ask) {
    model.says(|sight| steer::start(sight, "2", ask, 0, 0)).unwrap();
}

#[test]
fn upgrade_without_faults_brings_every_server_to_the_new_release_and_moves_each_object_once() {
    let mut model = four();
    start(&mut model, &ask());
    assert_eq!(model.sight.plan.as_ref().unwrap().goal.to_string(), "upgrade s4");
    assert_eq!(model.settle(), Phase::Soak);
    assert_eq!(model.releases(), BTreeSet::from(["2"]));
    assert_eq!(model.moves.len(), 15);
    assert!(model.sight.servers.values().any(|seen| seen.want.role == Role::Free));
    // A person makes it final; objects that rest are swept.
    model.says(|sight| steer::finalize(sight, 0)).unwrap();
    assert_eq!(model.upgrade().phase, Phase::Finalizing);
    assert!(matches!(model.says(steer::abort), Err(SteerRefusal::TooLate { .. })));
    assert_eq!(model.settle(), Phase::Done);
    assert_eq!(model.sight.policy().steps, zones::Steps::All);
}

#[test]
fn contract_steps_of_the_next_release_wait_for_its_own_finalize_and_come_back_after_an_abort() {
    let mut model = four();
    let steps = |model: &Model| model.sight.policy().steps;
    start(&mut model, &ask());
    model.settle();
    model.says(|sight| steer::finalize(sight, 0)).unwrap();
    assert_eq!((model.settle(), steps(&model)), (Phase::Done, zones::Steps::All));
    let again = |model: &mut Model| model.says(|sight| steer::start(sight, "3", &ask(), 0, 0)).unwrap();
    again(&mut model);
    assert_eq!(steps(&model), zones::Steps::Expand);
    assert_eq!((model.settle(), steps(&model)), (Phase::Soak, zones::Steps::Expand));
    model.says(steer::abort).unwrap();
    assert_eq!((model.settle(), steps(&model)), (Phase::RolledBack, zones::Steps::All));
    assert_eq!(model.releases(), BTreeSet::from(["2"]));
}

#[test]
fn upgrade_home_brings_objects_back_to_their_servers() {
    let mut model = four();
    let before = model.owners.clone();
    let ask = Ask {
        refill_home: true,
        ..ask()
    };
    start(&mut model, &ask);
    assert_eq!(model.settle(), Phase::Soak);
    assert_eq!(model.releases(), BTreeSet::from(["2"]));
    assert_eq!(model.owners, before);
    assert_eq!(model.moves.len(), 30);
}

#[test]
fn server_whose_refill_is_broken_off_when_its_source_is_empty_goes_back_with_the_others() {
    let ask = Ask {
        refill_home: true,
        ..ask()
    };
    let mut model = four();
    start(&mut model, &ask);
    let (mut dice, mut faults) = (Dice(7), Faults::default());
    let is_now = |model: &Model, role: Role| model.sight.servers.values().any(|seen| seen.want.role == role);
    for _ in 0..20_000 {
        if is_now(&model, Role::Refilling) && is_now(&model, Role::Empty) {
            break;
        }
        model.event(&mut dice, &mut faults, true);
    }
    assert!(is_now(&model, Role::Refilling) && is_now(&model, Role::Empty));
    model.says(steer::abort).unwrap();
    assert_eq!(model.settle(), Phase::RolledBack);
    assert_eq!(model.releases(), BTreeSet::from(["1"]));
    assert!(!is_now(&model, Role::Refilling));
}

#[test]
fn failed_install_is_tried_again_and_then_halts_with_the_reason() {
    let mut model = four();
    start(&mut model, &ask());
    let mut faults = Faults { fails: 100, lost: 0 };
    let mut dice = Dice(77);
    for _ in 0..2000 {
        model.event(&mut dice, &mut faults, true);
    }
    let Some(Halt::Gate(why)) = model.upgrade().halt.clone() else {
        panic!("{:?}", model.upgrade());
    };
    assert!(
        why.contains("the install of 2 on s4 failed") && why.contains("2 times"),
        "{why}"
    );
    assert_eq!(model.releases(), BTreeSet::from(["1"]));
    // A person has put it right.
    model.says(steer::resume).unwrap();
    assert_eq!(model.settle(), Phase::Soak);
    assert_eq!(model.releases(), BTreeSet::from(["2"]));
}

#[test]
fn reserve_takes_the_place_of_an_emptied_server_that_never_comes_back() {
    let mut model = Model::new(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 7),
        ("s3", Role::Reserve, 0),
        ("s4", Role::Free, 0),
    ]);
    start(&mut model, &ask());
    // The canary works; the first server that is emptied does not come back.
    let mut dice = Dice(5);
    while model.agents[&name("s4")].release == "1" {
        model.event(&mut dice, &mut Faults::default(), true);
    }
    let mut faults = Faults { fails: 0, lost: 1 };
    while faults.lost > 0 {
        model.event(&mut dice, &mut faults, true);
    }
    assert_eq!(model.settle(), Phase::Soak);
    let lost: Vec<&ServerName> = (model.agents.iter())
        .filter(|(_, agent)| agent.broken)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(model.sight.servers[lost[0]].want.role, Role::Failed);
    assert_eq!(model.releases(), BTreeSet::from(["2"]));
}

#[test]
fn lost_server_without_a_reserve_halts_the_pool_by_name_and_a_repaired_one_goes_on() {
    let mut model = four();
    start(&mut model, &ask());
    let (mut dice, mut faults) = (Dice(9), Faults { fails: 0, lost: 1 });
    while faults.lost > 0 {
        model.event(&mut dice, &mut faults, true);
    }
    model.settle();
    let Some(Halt::Gate(why)) = model.upgrade().halt.clone() else {
        panic!("{:?}", model.upgrade());
    };
    let (lost, _) = model.agents.iter().find(|(_, agent)| agent.broken).unwrap();
    let lost = lost.clone();
    assert!(why.starts_with(&format!("{lost} did not come back")), "{why}");
    model.agents.get_mut(&lost).unwrap().broken = false;
    for _ in 0..3 {
        model.act(&lost, &mut Dice(1), &mut Faults::default());
        model.report(&lost);
    }
    model.says(steer::resume).unwrap();
    assert_eq!(model.settle(), Phase::Soak);
    assert_eq!(model.releases(), BTreeSet::from(["2"]));
}

#[test]
fn server_that_an_upgrade_left_behind_is_brought_along_before_the_next_one() {
    // One of the installs never ends; in most of these runs it is one of the first.
    let lost_one = |seed| {
        let mut model = Model::new(&[
            ("s1", Role::Serving, 5),
            ("s3", Role::Reserve, 0),
            ("s4", Role::Free, 0),
        ]);
        start(&mut model, &ask());
        let (mut dice, mut faults) = (Dice(seed), Faults { fails: 0, lost: 1 });
        for _ in 0..2000 {
            model.event(&mut dice, &mut faults, true);
            if faults.lost == 0 {
                return Some(model);
            }
        }
        None
    };
    let mut model = (1..20)
        .find_map(lost_one)
        .expect("a server is lost in one of these runs");
    model.settle();
    model.says(|sight| steer::finalize(sight, 0)).unwrap();
    assert_eq!(model.settle(), Phase::Done);
    let failed = |model: &Model| {
        let seen = model
            .sight
            .servers
            .iter()
            .find(|(_, seen)| seen.want.role == Role::Failed);
        seen.map(|(name, _)| name.clone())
    };
    // While it is away the pool goes on without it. Once it is heard again it comes to the others' release first: never are
    // three releases in one upgrade.
    let lost = failed(&model).expect("a server did not come back");
    let back = model.agents.get_mut(&lost).unwrap();
    (back.broken, back.installs, back.up) = (false, None, true);
    model.report(&lost);
    let refused = model.says(|sight| steer::start(sight, "3", &ask(), 0, 0)).unwrap_err();
    assert!(
        refused.to_string().contains("librarian upgrade start --to 2"),
        "{refused}"
    );
    model.says(|sight| steer::start(sight, "2", &ask(), 0, 0)).unwrap();
    assert_eq!(model.settle(), Phase::Soak);
    assert_eq!((failed(&model), model.releases()), (None, BTreeSet::from(["2"])));
}

#[test]
fn only_free_server_that_failed_is_brought_back_to_the_release_of_the_others() {
    let lost_canary = |seed| {
        let mut model = Model::new(&[("s1", Role::Serving, 5), ("s2", Role::Free, 0)]);
        start(&mut model, &ask());
        let (mut dice, mut faults) = (Dice(seed), Faults { fails: 0, lost: 1 });
        for _ in 0..2000 {
            model.event(&mut dice, &mut faults, true);
            if faults.lost == 0 {
                return Some(model).filter(|model| model.agents[&name("s2")].broken);
            }
        }
        None
    };
    let mut model = (1..20)
        .find_map(lost_canary)
        .expect("the canary is lost in one of these runs");
    model.settle();
    model.says(steer::abort).unwrap();
    assert_eq!(model.settle(), Phase::RolledBack);
    // A person mends it, at the release that it was to have.
    let back = model.agents.get_mut(&name("s2")).unwrap();
    (back.broken, back.installs, back.up, back.release) = (false, None, true, "2".to_owned());
    model.report(&name("s2"));
    model.says(|sight| steer::start(sight, "1", &ask(), 0, 0)).unwrap();
    assert_eq!(model.settle(), Phase::Soak);
    assert_eq!(model.releases(), BTreeSet::from(["1"]));
    assert_eq!(model.sight.servers[&name("s2")].want.role, Role::Free);
}

/// Whether it gives objects or takes them: the upgrade goes on with a reserve in its place.
#[test]
fn upgrade_goes_on_without_a_server_that_is_marked_lost_in_a_drain() {
    for is_source in [true, false] {
        let mut model = Model::new(&[
            ("s1", Role::Serving, 5),
            ("s2", Role::Serving, 7),
            ("s3", Role::Reserve, 0),
            ("s4", Role::Free, 0),
        ])
        .with_copies();
        start(&mut model, &ask());
        let mut dice = Dice(11);
        let drains = |model: &Model| {
            let mut servers = model.sight.servers.iter();
            servers.find_map(|(name, seen)| {
                let target = seen.want.targets.first()?;
                Some((name.clone(), target.clone()))
            })
        };
        while model.moves.is_empty() {
            model.event(&mut dice, &mut Faults::default(), true);
        }
        let (source, target) = drains(&model).expect("something moves");
        let (lost, left) = if is_source { (source, target) } else { (target, source) };
        model.lose(&lost);
        assert_eq!(model.settle(), Phase::Soak, "{lost} is lost: {:?}", model.upgrade());
        assert_eq!(model.releases(), BTreeSet::from(["2"]), "{lost} is lost");
        assert_ne!(model.sight.role(left.as_str()), Role::Draining);
        // All that is left is upgraded: it can be made final.
        model.says(|sight| steer::finalize(sight, 0)).unwrap();
        assert_eq!(model.settle(), Phase::Done);
    }
}

#[test]
fn upgrade_halts_for_what_it_is_to_move_and_not_for_copies_that_go_elsewhere() {
    let mut model = four().with_copies();
    start(&mut model, &ask());
    let mut dice = Dice(3);
    while model.moves.is_empty() {
        model.event(&mut dice, &mut Faults::default(), true);
    }
    let halts = |of: fn(&mut zones::Has)| {
        let mut sight = model.sight.clone();
        for seen in sight
            .servers
            .values_mut()
            .filter(|seen| seen.want.role == Role::Draining)
        {
            of(seen.has.as_mut().unwrap());
            seen.has.as_mut().unwrap().plan = seen.want.plan;
        }
        let halt = |plan: &super::Plan| plan.upgrade.as_ref().and_then(|upgrade| upgrade.halt.clone());
        match decide(&sight) {
            Decision::Next(plan) => halt(&plan).is_some(),
            Decision::Rest | Decision::Wait(_) | Decision::Write(_) => false,
        }
    };
    assert!(halts(|has| has.bytes = 20_000));
    assert!(!halts(|has| has.kept.as_mut().unwrap().octets = 2_000));
    // Nobody has room for so many copies.
    assert!(halts(|has| has.kept.as_mut().unwrap().octets = 2_000_000));
}

#[test]
fn server_that_comes_back_from_being_lost_serves_only_at_a_release_that_has_a_place() {
    let mut sight = super::testing::sight(&[
        ("s1", Role::Serving, 5),
        ("s2", Role::Serving, 0),
        ("s4", Role::Free, 0),
    ]);
    let as_of = |sight: &Sight| steer::returns_as(sight, &name("s2"));
    assert_eq!(as_of(&sight), None);
    // No upgrade is spoken of any more: what the others run counts.
    sight
        .servers
        .get_mut(&name("s2"))
        .unwrap()
        .has
        .as_mut()
        .unwrap()
        .release = "0".to_owned();
    assert_eq!(as_of(&sight), Some(Role::Failed));
    sight
        .servers
        .get_mut(&name("s2"))
        .unwrap()
        .has
        .as_mut()
        .unwrap()
        .release = "0.1.0".to_owned();
    let plan = steer::start(&sight, "2", &ask(), 0, 0).unwrap();
    sight.apply_plan(plan);
    let in_phase = |sight: &mut Sight, phase: Phase, release: &str, owned: u64| {
        sight.plan.as_mut().unwrap().upgrade.as_mut().unwrap().phase = phase;
        let seen = sight.servers.get_mut(&name("s2")).unwrap();
        seen.has.as_mut().unwrap().release = release.to_owned();
        seen.owned = owned;
        as_of(sight)
    };
    for phase in [Phase::Rolling, Phase::Aborting] {
        for (release, role) in [("0.1.0", None), ("2", None), ("0", Some(Role::Failed))] {
            assert_eq!(in_phase(&mut sight, phase, release, 0), role, "{phase} {release}");
        }
    }
    for phase in [Phase::Soak, Phase::Finalizing, Phase::Sweeping, Phase::Done] {
        assert_eq!(in_phase(&mut sight, phase, "2", 0), None, "{phase}");
        assert_eq!(in_phase(&mut sight, phase, "0.1.0", 0), Some(Role::Failed), "{phase}");
        assert_eq!(
            in_phase(&mut sight, phase, "0.1.0", 3),
            None,
            "{phase}: nobody else has these"
        );
    }
    assert_eq!(in_phase(&mut sight, Phase::RolledBack, "0.1.0", 0), None);
    assert_eq!(in_phase(&mut sight, Phase::RolledBack, "2", 0), Some(Role::Failed));
    sight.servers.get_mut(&name("s2")).unwrap().has = None;
    assert_eq!(as_of(&sight), None, "it has never spoken");
}

/// Random orders of events with faults, and a person who pauses, resumes and aborts; then faults stop.
#[test]
fn whatever_the_order_nothing_is_lost_and_the_pool_ends_at_one_release() {
    for seed in 1..600_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut model = match seed % 3 {
            0 => four(),
            1 => Model::new(&[
                ("s1", Role::Serving, 5),
                ("s2", Role::Serving, 7),
                ("s3", Role::Free, 0),
                ("s4", Role::Free, 0),
                ("s5", Role::Serving, 2),
            ]),
            _ => Model::new(&[
                ("s1", Role::Serving, 5),
                ("s2", Role::Serving, 7),
                ("s3", Role::Reserve, 0),
                ("s4", Role::Free, 0),
            ]),
        };
        if seed % 2 == 0 {
            model = model.with_copies();
        }
        let ask = Ask {
            refill_home: seed % 5 == 0,
            ..ask()
        };
        start(&mut model, &ask);
        let mut faults = Faults {
            fails: 20,
            lost: usize::from(seed % 7 == 0),
        };
        let turns = 200 + dice.roll(1500);
        for _ in 0..turns {
            model.event(&mut dice, &mut faults, false);
            if model.sight.plan.is_none() {
                continue;
            }
            match dice.roll(120) {
                0 => drop(model.says(steer::pause)),
                1..=4 => drop(model.says(steer::resume)),
                5 if dice.roll(4) == 0 => drop(model.says(steer::abort)),
                _ => {}
            }
        }
        // Faults stop; a person repairs what is broken and goes on.
        for agent in model.agents.values_mut() {
            agent.broken = false;
        }
        let mut ended = None;
        for _ in 0..20 {
            let phase = model.settle();
            if model.upgrade().halt.is_none() {
                ended = Some(phase);
                break;
            }
            let told = model.says(steer::resume);
            assert!(
                told.is_ok() || matches!(told, Err(SteerRefusal::Stuck { .. })),
                "seed {seed}: {told:?}"
            );
        }
        let goal = match ended {
            Some(Phase::Soak) => "2",
            Some(Phase::RolledBack) => "1",
            other => panic!("seed {seed}: ends as {other:?}, {:?}", model.upgrade()),
        };
        let failed = |server: &ServerName| model.sight.servers[server].want.role == Role::Failed;
        for (server, agent) in &model.agents {
            assert!(
                agent.release == goal || failed(server),
                "seed {seed}: {server} runs {} and not {goal}",
                agent.release
            );
        }
        let ways = [Role::Serving, Role::Free, Role::Reserve, Role::Failed];
        assert!(
            model.sight.servers.values().all(|seen| ways.contains(&seen.want.role)),
            "seed {seed}: {:?}",
            model.sight
        );
    }
}
