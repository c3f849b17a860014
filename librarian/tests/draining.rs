//! `librarian drain` and `refill` against the real librarian, with servers that obey its wants over DNS.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use support::{Librarian, Server, until};
use zones::{Epoch, Level, Register, RegisterChange, Role, ServerName, State, Tx};

/// Servers and the registers they know, moved the way agents move objects.
struct Agents {
    servers: BTreeMap<ServerName, Server>,
    registers: Vec<Register>,
    changes: u128,
}

impl Agents {
    fn change(&mut self, at: usize, by: &ServerName, make: impl FnOnce(&mut Register)) -> bool {
        let old = self.registers[at].clone();
        let mut new = old.clone();
        make(&mut new);
        self.changes += 1;
        new.tx = Tx(self.changes.to_be_bytes());
        let change = RegisterChange {
            old: Some(old),
            new: new.clone(),
        };
        let done = self.servers[by].change(&[change]) == 0;
        if done {
            self.registers[at] = new;
        }
        done
    }

    fn owned(&self, server: &ServerName) -> u64 {
        self.registers
            .iter()
            .filter(|register| register.owner == *server)
            .count() as u64
    }

    /// One turn of every agent: reads its want, moves one object if it drains, reports.
    fn turn(&mut self) {
        for name in self.servers.keys().cloned().collect::<Vec<_>>() {
            let want = self.servers[&name].want();
            if want.role == Role::Draining
                && let Some(target) = want.targets.first().cloned()
                && let Some(at) = self.registers.iter().position(|register| register.owner == name)
            {
                let to = target.clone();
                // A new plan may have frozen the wants since this one was read: then the move is refused, and nothing is lost.
                if !self.change(at, &name, |new| new.state = State::Moving { to }) {
                    continue;
                }
                assert!(self.change(at, &target, |new| {
                    new.state = State::Stable;
                    new.epoch = new.epoch.next();
                    new.owner = target.clone();
                    new.holders = vec![target.clone()];
                }));
            }
            self.servers[&name].report(self.owned(&name), want.plan);
        }
    }
}

fn pool(objects: u32) -> (Librarian, Agents) {
    let librarian = Librarian::start_with("controller_interval = \"10ms\"");
    let servers = [["s1", "serving"], ["s2", "serving"], ["s4", "free"]]
        .map(|[name, role]| librarian.member(&[name, "--role", role]))
        .into_iter()
        .map(|server| (server.name.clone(), server))
        .collect();
    let mut agents = Agents {
        servers,
        registers: Vec::new(),
        changes: 0,
    };
    agents.turn();
    let s2: ServerName = "s2".parse().unwrap();
    for number in 1..=objects {
        agents.changes += 1;
        let register = Register {
            address: format!("3.{number}").parse().unwrap(),
            epoch: Epoch::FIRST,
            owner: s2.clone(),
            state: State::Stable,
            tx: Tx(agents.changes.to_be_bytes()),
            holders: vec![s2.clone()],
            kind: "note".parse().unwrap(),
            schema: 1,
            level: Level(1),
        };
        let change = RegisterChange {
            old: None,
            new: register.clone(),
        };
        assert_eq!(agents.servers[&s2].change(&[change]), 0);
        agents.registers.push(register);
    }
    agents.turn();
    (librarian, agents)
}

/// Runs a command while the agents work.
fn while_agents_work(agents: &mut Agents, command: impl FnOnce() -> String + Send) -> String {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            // Also when the command fails, or the agents would work for ever.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(command));
            ended.store(true, Ordering::Relaxed);
            result
        });
        while !ended.load(Ordering::Relaxed) {
            agents.turn();
        }
        running.join().unwrap().expect("the command succeeds")
    })
}

fn role(librarian: &Librarian, server: &str) -> String {
    let pool = librarian.json(&["pool", "--json"]);
    let servers = pool["servers"].as_array().unwrap();
    let one = servers.iter().find(|one| one["name"] == server).unwrap();
    one["role"].as_str().unwrap().to_owned()
}

#[test]
fn a_drain_empties_a_server_into_the_free_one_and_a_refill_brings_all_back() {
    let (librarian, mut agents) = pool(20);
    let told = while_agents_work(&mut agents, || librarian.done(&["drain", "s2", "--json"]));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["goal"], &told["objects_moved"]),
        (&"drain s2 into s4".into(), &20.into())
    );
    assert_eq!(
        (role(&librarian, "s2"), role(&librarian, "s4")),
        ("free".to_owned(), "serving".to_owned())
    );
    let place = librarian.json(&["where", "3.7", "--json"]);
    assert_eq!((&place["owner"], &place["epoch"]), (&"s4".into(), &2.into()));
    assert!(librarian.done(&["where", "3.7"]).contains("3.7 is on s4"));
    while_agents_work(&mut agents, || librarian.done(&["refill", "s2"]));
    assert_eq!(
        (role(&librarian, "s2"), role(&librarian, "s4")),
        ("serving".to_owned(), "free".to_owned())
    );
    assert_eq!(librarian.json(&["where", "3.7", "--json"])["owner"], "s2");
    assert!(librarian.fails(1, &["refill", "s2"]).contains("nothing to refill"));
}

#[test]
fn drains_that_cannot_work_say_why() {
    let (librarian, _agents) = pool(1);
    for (args, why) in [
        (&["drain", "s9"][..], "librarian pool"),
        (&["drain", "s4"], "nothing to drain"),
        (&["drain", "s2", "--into", "s1"], "free server"),
        (&["refill", "s4"], "not drained"),
    ] {
        let error = librarian.fails(1, args);
        assert!(error.contains(why), "{args:?}: {error}");
    }
}

#[test]
fn a_drain_survives_a_killed_librarian_and_is_turned_round_by_a_refill() {
    let (mut librarian, mut agents) = pool(10);
    let detached = librarian.json(&["drain", "s2", "--detach", "--json"]);
    assert_eq!(detached["plan"], 1);
    assert!(librarian.fails(1, &["drain", "s1"]).contains("librarian refill s2"));
    let s4: ServerName = "s4".parse().unwrap();
    until("three objects have moved", || {
        agents.turn();
        agents.owned(&s4) >= 3
    });
    librarian.end(Signal::KILL);
    librarian.run();
    for server in agents.servers.values_mut() {
        server.moved(librarian.dns);
    }
    agents.turn();
    assert_eq!(role(&librarian, "s2"), "draining");
    assert!(librarian.fails(1, &["drain", "s1"]).contains("plan 1"));
    while_agents_work(&mut agents, || librarian.done(&["refill", "s2"]));
    assert_eq!(
        (role(&librarian, "s2"), role(&librarian, "s4")),
        ("serving".to_owned(), "free".to_owned())
    );
    assert_eq!(agents.owned(&"s2".parse().unwrap()), 10);
}

#[test]
fn nothing_is_created_on_a_server_that_is_being_drained() {
    let (librarian, mut agents) = pool(3);
    librarian.done(&["drain", "s2", "--detach"]);
    // Everybody learns of the plan, but nothing moves.
    until("the server is cordoned or drains", || {
        for (name, server) in &agents.servers {
            server.report(agents.owned(name), server.want().plan);
        }
        matches!(role(&librarian, "s2").as_str(), "cordoned" | "draining")
    });
    let mut register = agents.registers[0].clone();
    register.address = "9.9".parse().unwrap();
    register.tx = Tx([0xee; 16]);
    let change = RegisterChange {
        old: None,
        new: register,
    };
    // REFUSED is 5 (RFC 1035 section 4.1.1).
    assert_eq!(agents.servers[&"s2".parse().unwrap()].change(&[change]), 5);
    while_agents_work(&mut agents, || {
        until("the server is free", || role(&librarian, "s2") == "free");
        String::new()
    });
}
