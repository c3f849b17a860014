//! Facts about copies that follow heat, with servers that do at once what they are told.

use std::sync::Arc;

use proptest::prelude::*;
use zones::{Heat, Hot, Role};

use super::*;
use crate::place::ServerTerms;
use crate::pool::decide::{Decision, decide};
use crate::pool::testing::{knows_copies, name, sight};
use crate::pool::{Goal, Memory, Phase, Plan, steer};

/// What each server is asked for besides objects of a test, in thousandths of a request a second.
const REST: u64 = 1_000_000;

/// A pool whose clients choose among the holders of an object as the librarian's answers tell them.
struct World {
    sight: Sight,
    memory: Memory,
    now: Instant,
    /// What objects are asked for in all.
    rates: BTreeMap<Address, u64>,
    doubt_milli: u64,
    /// Strings of wants that were written for the sake of copies.
    written: usize,
    /// Whether servers make copies.
    makes: bool,
    /// Whether clients choose by answers of a time when all servers were alike.
    lags: bool,
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn server_names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("s{}", number + 10)).collect()
}

impl World {
    /// Servers s10, s11 and so on, and objects 3.0, 3.1 and so on of s10 with one more copy on s11.
    fn new(servers: usize, objects: usize) -> World {
        let names = server_names(servers);
        let listed: Vec<(&str, Role, u64)> = names.iter().map(|name| (name.as_str(), Role::Serving, 10)).collect();
        let mut sight = sight(&listed);
        knows_copies(&mut sight);
        for object in 0..objects {
            let named = Named {
                owner: name("s10"),
                to: None,
                holders: vec![name("s10"), name("s11")],
            };
            sight.registers.insert(address(&format!("3.{object}")), named);
        }
        let mut world = World {
            sight,
            memory: Memory::new(Duration::ZERO),
            now: Instant::now(),
            rates: BTreeMap::new(),
            doubt_milli: 0,
            written: 0,
            makes: true,
            lags: false,
        };
        world.seconds(1);
        world.written = 0;
        world
    }

    fn asked(mut self, object: &str, rate_milli: u64) -> World {
        self.rates.insert(address(object), rate_milli);
        self
    }

    fn seen(&mut self, server: &str) -> &mut Seen {
        self.sight.servers.get_mut(&name(server)).unwrap()
    }

    fn terms(&mut self, server: &str, terms: ServerTerms) {
        let mut settings = (*self.sight.copies).clone();
        settings.terms.servers.insert(name(server), terms);
        self.memory = Memory::new(Duration::ZERO).with_copies(settings.clone());
        self.sight.copies = Arc::new(settings);
    }

    fn set_percent(&mut self, hot_percent: u32) {
        let mut settings = (*self.sight.copies).clone();
        settings.copies.hot_percent = Some(hot_percent);
        self.memory = Memory::new(Duration::ZERO).with_copies(settings);
    }

    /// How gladly clients choose a server among the holders of an object.
    fn ease(&self, server: &ServerName) -> f64 {
        let terms = &self.sight.copies.terms;
        let has = self.sight.servers[server].has.as_ref().unwrap();
        terms.server(server, has).ease(terms.placement.weights())
    }

    /// What a server says that it is asked for an object.
    fn carries(&self, server: &ServerName, object: &str) -> u64 {
        let heat = self.sight.servers[server].has.as_ref().unwrap().hot.as_ref().unwrap();
        let hot = heat.hottest.iter().find(|hot| hot.address == address(object));
        hot.map_or(0, |hot| hot.rate_milli)
    }

    /// What servers say of what they are asked.
    fn report(&mut self) {
        let alive: BTreeSet<ServerName> = self
            .sight
            .servers
            .iter()
            .filter(|(_, seen)| seen.alive)
            .map(|(name, _)| name.clone())
            .collect();
        let ease: BTreeMap<ServerName, f64> = self
            .sight
            .servers
            .keys()
            .map(|name| (name.clone(), if self.lags { 1.0 } else { self.ease(name) }))
            .collect();
        for (name, seen) in &mut self.sight.servers {
            let Some(has) = seen.has.as_mut().filter(|_| seen.alive) else {
                continue;
            };
            let mut hottest = Vec::new();
            for (address, rate) in &self.rates {
                let holders: Vec<_> = self.sight.registers[address]
                    .holders
                    .iter()
                    .filter(|holder| alive.contains(*holder))
                    .collect();
                if holders.contains(&name) {
                    let all: f64 = holders.iter().map(|holder| ease[*holder]).sum();
                    hottest.push(Hot {
                        address: address.clone(),
                        rate_milli: (*rate as f64 * ease[name] / all) as u64,
                    });
                }
            }
            hottest.sort_by_key(|hot| std::cmp::Reverse(hot.rate_milli));
            let asked_milli = REST + hottest.iter().map(|hot| hot.rate_milli).sum::<u64>();
            hottest.truncate(zones::heat::HOTTEST_MAX);
            has.hot = Some(Heat {
                asked_milli,
                served: 0,
                doubt_milli: self.doubt_milli,
                hottest,
            });
        }
    }

    /// Seconds pass: servers report, the controller looks and writes, owners obey.
    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.report();
            self.memory.see(self.now, &mut self.sight);
            match decide(&self.sight) {
                Decision::Write(wants) => {
                    self.written += wants.len();
                    for (server, want) in wants {
                        assert!(want.errand.keep.hot.len() <= HOT_MAX);
                        assert_eq!(zones::Want::from_strings(&want.strings()).unwrap(), want);
                        self.sight.write(&server, want);
                    }
                }
                Decision::Rest | Decision::Wait(_) | Decision::Next(_) => {}
            }
            if self.makes {
                self.make();
            }
        }
    }

    fn make(&mut self) {
        for (address, register) in &mut self.sight.registers {
            let keep = &self.sight.servers[&register.owner].want.errand.keep;
            let hot = keep.hot.iter().find(|(hot, _)| hot == address);
            let hot = hot.map(|(_, servers)| servers.clone()).unwrap_or_default();
            let others = register
                .holders
                .iter()
                .filter(|holder| !hot.contains(holder) && **holder != register.owner);
            let base = [&register.owner].into_iter().chain(others);
            let base: Vec<ServerName> = base.take(keep.wanted(address)).cloned().collect();
            register.holders = base.into_iter().chain(hot).collect();
        }
    }

    /// Where an object is told to have copies for its heat.
    fn told(&self, object: &str) -> Vec<String> {
        let told = told(&self.sight);
        let servers = told.get(&address(object)).cloned().unwrap_or_default();
        servers.iter().map(ToString::to_string).collect()
    }

    fn on(&self, server: &str) -> Vec<String> {
        let hot = &self.sight.servers[&name(server)].want.errand.keep.hot;
        hot.iter().map(|(address, _)| address.to_string()).collect()
    }

    /// A librarian that was just started has heard nobody.
    fn restart(&mut self) {
        self.memory = Memory::new(Duration::ZERO);
        for seen in self.sight.servers.values_mut() {
            seen.alive = false;
            // What it kept of them is of any time before.
            seen.has.as_mut().unwrap().hot = Some(Heat::default());
        }
    }
}

/// Twenty servers of which each is asked about 1000 times a second, and one object as often as four of them.
fn crowd() -> World {
    World::new(20, 1).asked("3.0", 4_000_000)
}

#[test]
fn crowd_that_stays_gets_copies_after_three_windows_and_one_that_goes_gets_none() {
    let mut world = crowd();
    world.seconds(15);
    assert_eq!(world.told("3.0").len(), 0);
    let mut gone = crowd();
    gone.seconds(15);
    gone.rates.clear();
    gone.seconds(100);
    assert_eq!(gone.written, 0);
    world.seconds(2);
    // The mean is 1200, a quarter of it 300: 4000 by 300, and a quarter more for what wavers, are 17, and 14 is the most.
    let servers = world.told("3.0");
    assert_eq!(servers.len(), 12);
    assert!(!servers.contains(&"s10".to_owned()) && !servers.contains(&"s11".to_owned()));
    let mut world = World::new(20, 1).asked("3.0", 1_000_000);
    world.seconds(17);
    // A quarter of 1050 is 262.5: five holders.
    assert_eq!(world.told("3.0").len(), 3);
}

#[test]
fn server_that_clients_ask_as_before_is_not_taken_for_a_calm_one() {
    let mut world = World::new(30, 2).asked("3.0", 4_000_000).asked("3.1", 2_000_000);
    let other = Named {
        owner: name("s12"),
        to: None,
        holders: vec![name("s12"), name("s13")],
    };
    world.sight.registers.insert(address("3.1"), other);
    // By its load s10 would be asked a tenth of what s11 is; clients ask both alike, as they learnt before it was so busy.
    world.lags = true;
    world.seen("s10").has.as_mut().unwrap().load = 950;
    world.seconds(17);
    let servers = world.told("3.1");
    assert!(servers.len() > 3, "{servers:?}");
    assert!(!servers.contains(&"s11".to_owned()), "{servers:?}");
}

#[test]
fn steady_load_changes_nothing_any_more() {
    let mut world = crowd();
    world.seconds(60);
    let (written, servers) = (world.written, world.told("3.0"));
    world.seconds(3_600);
    assert_eq!((world.written, world.told("3.0")), (written, servers));
}

#[test]
fn copies_go_when_it_was_cool_for_a_minute_and_a_pause_takes_none_away() {
    let mut world = crowd();
    world.seconds(30);
    let written = world.written;
    world.rates = [(address("3.0"), 10)].into();
    world.seconds(55);
    world.rates = [(address("3.0"), 4_000_000)].into();
    world.seconds(20);
    world.rates = [(address("3.0"), 10)].into();
    world.seconds(60);
    assert_eq!(world.written, written);
    world.seconds(2);
    assert_eq!(world.told("3.0").len(), 0);
    assert_eq!(world.sight.registers[&address("3.0")].holders.len(), 2);
    world.seconds(300);
    assert_eq!(world.written, written + 1);
}

#[test]
fn between_hot_and_cool_lies_a_factor_of_two() {
    let mut world = World::new(20, 1).asked("3.0", 1_000_000);
    world.seconds(30);
    assert_eq!(world.told("3.0").len(), 3);
    let written = world.written;
    // One copy fewer would carry 150 of 262; twice as much carries 257 on each.
    for rate in [600_000, 1_280_000] {
        world.rates = [(address("3.0"), rate)].into();
        world.seconds(300);
        assert_eq!(world.written, written, "{rate}");
    }
    world.rates = [(address("3.0"), 450_000)].into();
    world.seconds(70);
    assert_eq!(world.told("3.0").len(), 1, "three holders are ample for 450 by 255");
    world.rates = [(address("3.0"), 1_000_000)].into();
    world.seconds(20);
    assert_eq!(world.told("3.0").len(), 3);
}

#[test]
fn restart_of_the_librarian_takes_no_copy_away_and_makes_none_again() {
    let mut world = crowd();
    world.seconds(30);
    let (written, servers) = (world.written, world.told("3.0"));
    world.restart();
    world.seconds(9);
    assert_eq!(world.written, written, "nobody is heard yet");
    for (number, server) in server_names(20).into_iter().enumerate() {
        world.seen(&server).alive = true;
        // Half of them are heard a moment later.
        if number == 10 {
            world.seconds(1);
        }
    }
    world.seconds(300);
    assert_eq!((world.written, world.told("3.0")), (written, servers));
}

#[test]
fn without_a_word_of_a_holder_nothing_is_taken_away() {
    let mut world = crowd();
    world.seconds(30);
    let written = world.written;
    // Its agent is of a release that does not count.
    world.rates = [(address("3.0"), 10)].into();
    world.seconds(1);
    let silent = world.told("3.0")[0].clone();
    let mut without = |heat: bool| {
        for _ in 0..120 {
            world.report();
            if !heat {
                world.seen(&silent).has.as_mut().unwrap().hot = None;
            }
            world.now += Duration::from_secs(1);
            world.memory.see(world.now, &mut world.sight);
            if let Decision::Write(wants) = decide(&world.sight) {
                world.written += wants.len();
                return true;
            }
        }
        false
    };
    assert!(!without(false));
    assert!(without(true));
    assert_eq!(world.written, written + 1);
}

#[test]
fn rate_that_a_full_report_does_not_name_counts_as_its_least() {
    let mut world = World::new(20, 17).asked("3.0", 600_000);
    world.seconds(30);
    assert_eq!(world.told("3.0").len(), 1);
    let written = world.written;
    // Sixteen others of its owner are asked for nearly as often as the threshold: 3.0 is not named any more.
    for object in 1..17 {
        world.rates.insert(address(&format!("3.{object}")), 600_000);
    }
    world.rates.insert(address("3.0"), 0);
    world.seconds(2);
    let named = |world: &World| {
        let has = world.sight.servers[&name("s10")].has.as_ref().unwrap();
        let heat = has.hot.as_ref().unwrap();
        heat.hottest.iter().any(|hot| hot.address == address("3.0"))
    };
    assert!(!named(&world));
    world.seconds(120);
    assert!(
        world.written == written,
        "it might be asked for 2 times 300, and is cool below 370"
    );
}

#[test]
fn what_the_counters_cannot_tell_apart_makes_no_copy() {
    let mut world = World::new(20, 1).asked("3.0", 700_000);
    world.doubt_milli = 100_000;
    world.seconds(100);
    assert_eq!(world.written, 0, "2 times 250 of 260 for certain");
    world.doubt_milli = 0;
    world.seconds(20);
    assert!(!world.told("3.0").is_empty());
}

#[test]
fn pool_that_is_asked_for_next_to_nothing_makes_no_copies() {
    let mut world = World::new(20, 1).asked("3.0", 19_000);
    for _ in 0..100 {
        world.report();
        for seen in world.sight.servers.values_mut() {
            let heat = seen.has.as_mut().unwrap().hot.as_mut().unwrap();
            heat.asked_milli -= REST;
        }
        world.now += Duration::from_secs(1);
        world.memory.see(world.now, &mut world.sight);
        assert_eq!(decide(&world.sight), Decision::Rest);
    }
}

#[test]
fn copies_are_made_only_where_new_copies_may_be() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 8] = [
        ("drains", |world| world.seen("s12").want.role = Role::Draining),
        ("cordoned", |world| world.seen("s12").want.role = Role::Cordoned),
        ("free", |world| world.seen("s12").want.role = Role::Free),
        ("lost", |world| world.seen("s12").lost = true),
        ("silent", |world| {
            (world.seen("s12").alive, world.seen("s12").silent_for) = (false, None)
        }),
        ("nearly full", |world| {
            world.seen("s12").has.as_mut().unwrap().bytes = 9_500
        }),
        ("of a release before copies", |world| {
            world.seen("s12").has.as_mut().unwrap().kept = None
        }),
        ("takes none", |world| {
            let no = ServerTerms {
                new_objects: false,
                ..ServerTerms::default()
            };
            world.terms("s12", no);
        }),
    ];
    for (what, change) in changes {
        let mut world = World::new(5, 1).asked("3.0", 8_000_000);
        change(&mut world);
        world.seconds(40);
        assert_eq!(world.told("3.0"), ["s13", "s14"], "{what}");
    }
    let mut world = World::new(5, 1).asked("3.0", 8_000_000);
    world.seconds(40);
    assert_eq!(world.told("3.0"), ["s12", "s13", "s14"]);
}

#[test]
fn copy_goes_from_a_server_that_leaves_and_comes_elsewhere() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 5] = [
        ("drains", |world| world.seen("s12").want.role = Role::Draining),
        ("lost", |world| world.seen("s12").lost = true),
        ("has a release before copies", |world| {
            world.seen("s12").has.as_mut().unwrap().kept = None
        }),
        ("silent for long", |world| {
            (world.seen("s12").alive, world.seen("s12").silent_for) = (false, None)
        }),
        ("becomes the owner", |world| {
            let register = world.sight.registers.get_mut(&address("3.0")).unwrap();
            register.owner = name("s12");
        }),
    ];
    for (what, change) in changes {
        let mut world = World::new(20, 1).asked("3.0", 4_000_000);
        world.seconds(30);
        assert!(world.told("3.0").contains(&"s12".to_owned()));
        let before = world.told("3.0").len();
        change(&mut world);
        world.seconds(12);
        assert!(!world.told("3.0").contains(&"s12".to_owned()), "{what}");
        world.seconds(30);
        let told = world.told("3.0");
        assert!(
            told.len() == before && !told.contains(&"s12".to_owned()),
            "{what}: {told:?}"
        );
    }
    // One that takes no new copies keeps what it has.
    let mut world = World::new(20, 1).asked("3.0", 4_000_000);
    world.seconds(30);
    let no = ServerTerms {
        new_objects: false,
        ..ServerTerms::default()
    };
    world.terms("s12", no);
    world.seconds(100);
    assert!(world.told("3.0").contains(&"s12".to_owned()));
}

#[test]
fn silence_of_a_moment_takes_no_copy_away() {
    let mut world = crowd();
    world.seconds(30);
    let written = world.written;
    world.seen("s12").alive = false;
    world.seconds(9);
    world.seen("s12").alive = true;
    world.seconds(60);
    assert_eq!(world.written, written);
}

#[test]
fn copies_that_have_not_begun_follow_no_heat() {
    let mut world = World::new(20, 1).asked("3.0", 4_000_000);
    for seen in world.sight.servers.values_mut() {
        seen.want.errand.keep = Keep::default();
    }
    // An agent of a release before copies came back by hand: nothing begins.
    world.seen("s29").has.as_mut().unwrap().kept = None;
    world.seconds(100);
    assert_eq!((world.written, world.told("3.0").len()), (0, 0));
    assert_eq!(world.sight.spread, Some(Spread::default()));
}

#[test]
fn heat_stays_out_of_an_upgrade_that_can_still_go_back() {
    let in_phase = |phase: Phase, hot_before: bool| {
        let mut world = crowd();
        if hot_before {
            world.seconds(30);
        }
        let before = world.told("3.0");
        world
            .sight
            .servers
            .insert(name("s99"), crate::pool::testing::seen(Role::Free, 0));
        knows_copies(&mut world.sight);
        let mut plan = steer::start(&world.sight, "2", &crate::pool::Ask::default(), 0, 0).unwrap();
        plan.upgrade.as_mut().unwrap().phase = phase;
        world.sight.apply_plan(Plan {
            goal: Goal::Hold,
            ..plan
        });
        if hot_before {
            world.rates.clear();
        }
        world.seconds(200);
        let told = &world.sight.spread.as_ref().unwrap().told;
        let told = told.get(&address("3.0")).cloned().unwrap_or_default();
        (before, told.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    for phase in [Phase::Rolling, Phase::Soak, Phase::Aborting] {
        let (_, told) = in_phase(phase, false);
        assert!(told.is_empty(), "{phase}");
        let (before, told) = in_phase(phase, true);
        assert_eq!(before, told, "{phase}: what there was stays");
    }
    let (_, told) = in_phase(Phase::Finalizing, false);
    assert_eq!(told.len(), 12);
}

#[test]
fn heat_is_followed_under_a_plan_that_balances_and_under_none() {
    for goal in [Goal::Balance, Goal::Hold] {
        let mut world = crowd();
        world.sight.apply_plan(Plan {
            number: 1,
            parent: 0,
            goal,
            homes: BTreeMap::new(),
            open: BTreeMap::new(),
            policy: zones::Policy::default(),
            upgrade: None,
        });
        world.seconds(30);
        assert_eq!(world.told("3.0").len(), 12);
    }
}

#[test]
fn owner_has_at_most_sixteen_such_objects_and_so_many_copies_are_made_at_a_time() {
    let mut world = World::new(100, 20);
    for object in 0..16 {
        world.rates.insert(address(&format!("3.{object}")), 9_000_000);
    }
    world.makes = false;
    let is_making = |world: &World| world.sight.spread.as_ref().unwrap().is_making;
    world.seconds(10);
    assert!(!is_making(&world));
    world.seconds(7);
    let copies = |world: &World| told(&world.sight).values().map(Vec::len).sum::<usize>();
    assert_eq!((copies(&world), is_making(&world)), (64, true));
    world.seconds(30);
    assert_eq!(copies(&world), 64, "none of them is there yet");
    world.makes = true;
    world.seconds(60);
    assert_eq!((copies(&world), is_making(&world)), (16 * 12, false));
    // The others are named now, since those are spread: there is no room for more of this owner.
    let before = world.on("s10");
    for object in 16..20 {
        world.rates.insert(address(&format!("3.{object}")), 20_000_000);
    }
    world.seconds(60);
    assert_eq!((world.on("s10"), copies(&world)), (before, 16 * 12));
}

#[test]
fn copies_that_nobody_makes_hold_up_others_for_a_minute_only() {
    let mut world = World::new(100, 8);
    for object in 0..8 {
        world.rates.insert(address(&format!("3.{object}")), 9_000_000);
    }
    world.makes = false;
    world.seconds(75);
    let copies = |world: &World| told(&world.sight).values().map(Vec::len).sum::<usize>();
    assert_eq!(copies(&world), 64);
    world.seconds(10);
    assert_eq!(copies(&world), 8 * 12);
}

#[test]
fn long_address_has_as_many_copies_as_a_string_names() {
    let long = format!("{}.{}", "a".repeat(120), "b".repeat(120));
    let mut world = World::new(20, 1);
    let register = world.sight.registers[&address("3.0")].clone();
    world.sight.registers = [(address(&long), register)].into();
    let mut world = world.asked(&long, 4_000_000);
    world.seconds(30);
    // 5 and 241 octets of 255: two names and a comma are 7.
    assert_eq!(world.told(&long).len(), 2);
    let written = world.written;
    world.seconds(300);
    assert_eq!(world.written, written);
}

#[test]
fn object_on_its_way_is_told_to_the_server_that_it_comes_to() {
    let mut world = crowd();
    world.seconds(30);
    let servers = world.told("3.0");
    world.sight.registers.get_mut(&address("3.0")).unwrap().to = Some(name("s12"));
    world.makes = false;
    world.seconds(2);
    assert!(!world.told("3.0").contains(&"s12".to_owned()), "no copy where it goes");
    world.sight.registers.get_mut(&address("3.0")).unwrap().to = Some(name("s29"));
    world.seconds(2);
    assert_eq!(world.on("s29"), ["3.0"]);
    // It came: nobody else is told any more, and no copy was missed.
    let register = world.sight.registers.get_mut(&address("3.0")).unwrap();
    (register.owner, register.to) = (name("s29"), None);
    world.seconds(2);
    assert_eq!((world.on("s10").len(), world.on("s29").len()), (0, 1));
    let kept: Vec<String> = servers.into_iter().filter(|server| server != "s12").collect();
    let told = world.told("3.0");
    assert!(kept.iter().all(|server| told.contains(server)), "{told:?}");
}

#[test]
fn what_a_server_owns_is_told_to_it_before_what_comes_and_no_more_than_a_want_holds() {
    let mut world = World::new(20, 20);
    for object in 0..4 {
        let register = world.sight.registers.get_mut(&address(&format!("3.{object}"))).unwrap();
        (register.owner, register.to) = (name("s29"), Some(name("s10")));
    }
    world.sight.spread = Some(Spread {
        told: world
            .sight
            .registers
            .keys()
            .map(|address| (address.clone(), vec![name("s12")]))
            .collect(),
        ..Spread::default()
    });
    let wants = keep::add_to(&world.sight, Vec::new());
    let told = |server: &str| {
        let (_, want) = wants.iter().find(|(told, _)| *told == name(server)).unwrap();
        want.errand.keep.hot.clone()
    };
    let owned = |(address, _): &(Address, Vec<ServerName>)| world.sight.registers[address].owner == name("s10");
    assert_eq!((told("s10").len(), told("s29").len()), (16, 4));
    assert!(told("s10").iter().all(owned));
}

#[test]
fn of_more_objects_than_a_want_holds_the_hottest_are_told() {
    let mut world = World::new(20, 20);
    let all = world.sight.registers.keys();
    let rate = |address: &Address| address.as_str()[2..].parse::<u64>().unwrap();
    world.sight.spread = Some(Spread {
        told: all
            .clone()
            .map(|address| (address.clone(), vec![name("s12")]))
            .collect(),
        rates_milli: all.map(|address| (address.clone(), rate(address))).collect(),
        ..Spread::default()
    });
    for (server, want) in keep::add_to(&world.sight, Vec::new()) {
        world.sight.write(&server, want);
    }
    let told = world.on("s10");
    assert!(
        told.len() == 16 && (4..20).all(|object| told.contains(&format!("3.{object}"))),
        "{told:?}"
    );
}

#[test]
fn where_nobody_has_thought_of_heat_wants_stay_as_they_are() {
    let mut world = crowd();
    world.seconds(30);
    world.sight.spread = None;
    assert_eq!(decide(&world.sight), Decision::Rest);
}

#[test]
fn drain_leaves_its_target_and_tells_it_what_comes() {
    let mut world = crowd();
    world.seconds(30);
    let target = world.told("3.0")[0].clone();
    let owner = world.seen("s10");
    (owner.want.role, owner.want.targets) = (Role::Draining, vec![name(&target)]);
    world.seconds(2);
    assert!(!world.told("3.0").contains(&target));
    assert_eq!(world.on(&target), ["3.0"]);
    world.seconds(100);
    assert_eq!(
        world.told("3.0").len(),
        11,
        "its objects go elsewhere: they get no more copies here"
    );
}

#[test]
fn copies_stand_in_other_racks_while_these_have_room() {
    let racks = |count: fn(usize) -> &'static str, busy: bool| {
        let mut world = World::new(20, 1).asked("3.0", 1_000_000);
        for (number, server) in server_names(20).into_iter().enumerate() {
            let terms = ServerTerms {
                rack: Some(count(number).parse().unwrap()),
                ..ServerTerms::default()
            };
            world.terms(&server, terms);
        }
        for _ in 0..20 {
            world.report();
            if busy {
                // One that leaves has no part of the requests: what it is asked makes no room on others.
                let leaves = world.seen("s29");
                leaves.want.role = Role::Draining;
                leaves.has.as_mut().unwrap().hot.as_mut().unwrap().asked_milli = 1_000 * REST;
                for server in ["s12", "s13"] {
                    world
                        .seen(server)
                        .has
                        .as_mut()
                        .unwrap()
                        .hot
                        .as_mut()
                        .unwrap()
                        .asked_milli += REST;
                }
            }
            world.now += Duration::from_secs(1);
            world.memory.see(world.now, &mut world.sight);
        }
        world.sight.spread.unwrap().told[&address("3.0")].clone()
    };
    // s10 and s11 are in r1, two others in r2, all others in r1.
    let few = |number: usize| if number == 2 || number == 3 { "r2" } else { "r1" };
    let servers = racks(few, false);
    assert!(
        servers.contains(&name("s12")) || servers.contains(&name("s13")),
        "{servers:?}"
    );
    let servers = racks(few, true);
    assert!(
        !servers.contains(&name("s12")) && !servers.contains(&name("s13")),
        "a small rack is not asked for everything: {servers:?}"
    );
}

#[test]
fn copies_go_where_least_is_asked_for_and_prices_count() {
    let mut world = World::new(20, 1).asked("3.0", 1_000_000);
    world.terms(
        "s12",
        ServerTerms {
            price_percent: 400,
            ..ServerTerms::default()
        },
    );
    for _ in 0..20 {
        world.report();
        for (at, seen) in world.sight.servers.values_mut().enumerate() {
            let calm = 2 * (at as u64);
            seen.has.as_mut().unwrap().hot.as_mut().unwrap().asked_milli -= calm * 1000;
        }
        world.now += Duration::from_secs(1);
        world.memory.see(world.now, &mut world.sight);
    }
    let servers = world.sight.spread.unwrap().told[&address("3.0")].clone();
    assert_eq!(servers, [name("s27"), name("s28"), name("s29")]);
    let mut dear = World::new(6, 1).asked("3.0", 1_000_000);
    for server in ["s12", "s13"] {
        let terms = ServerTerms {
            price_percent: 400,
            ..ServerTerms::default()
        };
        dear.terms(server, terms);
    }
    dear.seconds(30);
    // Three copies, and two servers of the usual price.
    let told = dear.told("3.0");
    assert!(
        told.len() == 3 && told.ends_with(&["s14".to_owned(), "s15".to_owned()]),
        "{told:?}"
    );
}

#[test]
fn holders_of_unequal_size_and_price_carry_the_same_of_a_hot_object() {
    let mut world = World::new(12, 1).asked("3.0", 2_000_000);
    for (number, server) in server_names(12).iter().enumerate() {
        world.seen(server).has.as_mut().unwrap().capacity = [10_000, 15_000, 6_667][number % 3];
        let terms = ServerTerms {
            price_percent: [100, 100, 100, 400][number % 4],
            ..ServerTerms::default()
        };
        world.terms(server, terms);
    }
    world.seconds(60);
    world.report();
    let holders = world.sight.registers[&address("3.0")].holders.clone();
    assert!(holders.len() > 6, "{holders:?}");
    let carried: Vec<u64> = holders.iter().map(|holder| world.carries(holder, "3.0")).collect();
    let (least, most) = (carried.iter().min().unwrap(), carried.iter().max().unwrap());
    assert!(*most as f64 <= 1.1 * *least as f64, "{carried:?}");
    // A quarter of what a server is asked in the mean.
    let mean = (12 * REST + 2_000_000) / 12;
    assert!(*most <= mean / 4, "{most} of {mean}");
}

#[test]
fn stolen_agent_key_makes_no_copies_of_what_its_server_does_not_have() {
    let mut world = World::new(20, 1);
    let lie = |world: &mut World| {
        world.report();
        let heat = world.seen("s25").has.as_mut().unwrap().hot.as_mut().unwrap();
        heat.hottest.push(Hot {
            address: address("3.0"),
            rate_milli: 9_000_000,
        });
        world.now += Duration::from_secs(1);
        world.memory.see(world.now, &mut world.sight);
    };
    for _ in 0..60 {
        lie(&mut world);
        assert_eq!(decide(&world.sight), Decision::Rest);
    }
    let spread = world.sight.spread.clone().unwrap();
    assert!(spread.watched.is_empty());
    // One that it comes to may know more of it than its owner.
    world.sight.registers.get_mut(&address("3.0")).unwrap().to = Some(name("s25"));
    lie(&mut world);
    assert!(world.sight.spread.unwrap().watched.contains(&address("3.0")));
}

#[test]
fn librarian_that_hears_nobody_takes_nothing_back() {
    let mut world = crowd();
    world.seconds(30);
    let (written, servers) = (world.written, world.told("3.0"));
    for seen in world.sight.servers.values_mut() {
        seen.alive = false;
    }
    world.seconds(60);
    assert_eq!((world.written, world.told("3.0")), (written, servers));
    // Of those that it hears it knows that the others are not there.
    world.seen("s10").alive = true;
    world.seconds(2);
    assert!(world.written > written);
}

#[test]
fn owner_that_held_a_copy_for_heat_counts_as_a_holder() {
    let mut world = crowd();
    world.seconds(30);
    assert!(world.told("3.0").contains(&"s12".to_owned()));
    world.sight.registers.get_mut(&address("3.0")).unwrap().owner = name("s12");
    world.report();
    world.memory.see(world.now, &mut world.sight);
    let spread = world.sight.spread.unwrap();
    assert_eq!(spread.expected_milli[&name("s12")], REST + 285_714);
}

#[test]
fn operator_who_wants_none_has_none() {
    let mut world = crowd();
    world.seconds(30);
    world.set_percent(0);
    world.seconds(2);
    assert!(world.told("3.0").is_empty());
    world.seconds(100);
    assert!(world.told("3.0").is_empty());
}

#[test]
fn requests_are_expected_where_copies_will_be() {
    let mut world = crowd();
    world.makes = false;
    world.seconds(10);
    let spread = world.sight.spread.clone().unwrap();
    assert!(spread.watched.contains(&address("3.0")), "it may be spread soon");
    assert_eq!(spread.expected_milli[&name("s10")], REST + 2_000_000);
    world.seconds(10);
    let spread = world.sight.spread.clone().unwrap();
    assert!(spread.watched.contains(&address("3.0")));
    // 4000 requests by 14 holders, though two answer all of them yet.
    for server in world.told("3.0").iter().map(String::as_str).chain(["s10", "s11"]) {
        assert_eq!(spread.expected_milli[&name(server)], REST + 285_714, "{server}");
    }
    assert_eq!(
        spread.expected_milli.values().sum::<u64>() / 1000,
        (20 * REST + 4_000_000) / 1000 - 1
    );
    // There is nowhere to go: balancing may see to it.
    let mut small = World::new(3, 1).asked("3.0", 4_000_000);
    small.seen("s12").has.as_mut().unwrap().bytes = 9_900;
    small.seconds(40);
    assert!(small.sight.spread.unwrap().watched.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// What agents say is only as true as they are.
    #[test]
    fn no_number_of_an_agent_stops_the_librarian(
        numbers in proptest::collection::vec(any::<(u64, u64, u64, u64)>(), 4),
    ) {
        let mut world = World::new(4, 1);
        for second in 0..40 {
            for (seen, (asked_milli, served, doubt_milli, rate_milli)) in world.sight.servers.values_mut().zip(&numbers) {
                let hot = Hot { address: address("3.0"), rate_milli: *rate_milli };
                seen.has.as_mut().unwrap().hot = Some(Heat {
                    asked_milli: *asked_milli,
                    served: *served,
                    doubt_milli: if second < 20 { 0 } else { *doubt_milli },
                    hottest: vec![hot; zones::heat::HOTTEST_MAX],
                });
            }
            world.now += Duration::from_secs(1);
            world.memory.see(world.now, &mut world.sight);
            if let Decision::Write(wants) = decide(&world.sight) {
                for (server, want) in wants {
                    world.sight.write(&server, want);
                }
            }
        }
    }

    /// Whatever the objects are asked for: within a minute or two all copies are there, and an hour of the same load, which
    /// wavers by a tenth, changes nothing.
    #[test]
    fn load_that_wavers_settles(
        rates in proptest::collection::vec(0..3_000_000_u64, 1..12),
        servers in 3..30_usize,
        noise in proptest::collection::vec(90..=110_u64, 64),
    ) {
        let mut world = World::new(servers, rates.len());
        let waver = |world: &mut World, seconds: std::ops::Range<usize>| {
            for second in seconds {
                world.rates = rates.iter().enumerate().map(|(at, rate)| {
                    (address(&format!("3.{at}")), rate * noise[(second * 7 + at * 13) % 64] / 100)
                }).collect();
                world.seconds(1);
            }
        };
        // The noise comes again every 64 s; a seam in it would be a load that changes.
        waver(&mut world, 0..300);
        let (written, mean) = (world.written, 0.25 * REST as f64);
        waver(&mut world, 300..1_300);
        prop_assert_eq!(world.written, written);
        for (at, rate) in rates.iter().enumerate() {
            let holders = world.sight.registers[&address(&format!("3.{at}"))].holders.len();
            let all = holders == servers.min(14);
            let share = *rate as f64 / holders as f64;
            let most = mean + rates.iter().sum::<u64>() as f64 / servers as f64 * 0.25;
            prop_assert!(all || share < 1.25 * most, "{share} {most}");
            prop_assert!(holders <= 2 || *rate as f64 / (holders - 1) as f64 >= 0.4 * mean, "{share} {holders}");
        }
    }
}
