use super::*;

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

fn host(name: &str, part: Part, capacity: u64, used: u64) -> Host {
    Host {
        name: name.parse().expect(name),
        capacity,
        used,
        part,
        price_percent: 100,
        done: false,
    }
}

fn pool(hosts: Vec<Host>) -> Topology {
    Topology {
        hosts,
        room_percent: 130,
        refill: Refill::Rotate,
    }
}

/// Whether every server that waits can be drained, by trying everything. Knows nothing of how the search works.
fn by_trying(hosts: &mut Vec<Host>, percent: u64, refill: Refill) -> bool {
    let waiting: Vec<usize> = (0..hosts.len())
        .filter(|at| hosts[*at].part == Part::Serving && !hosts[*at].done)
        .collect();
    if waiting.is_empty() {
        return true;
    }
    let free: Vec<usize> = (0..hosts.len()).filter(|at| hosts[*at].part == Part::Free).collect();
    for from in waiting {
        for &into in &free {
            if u128::from(hosts[from].used) * u128::from(percent) > u128::from(hosts[into].capacity) * 100 {
                continue;
            }
            let before = hosts.clone();
            hosts[from].done = true;
            if refill == Refill::Rotate {
                (hosts[into].used, hosts[into].part) = (hosts[from].used, Part::Serving);
                hosts[into].done = true;
                (hosts[from].used, hosts[from].part) = (0, Part::Free);
            }
            let works = by_trying(hosts, percent, refill);
            *hosts = before;
            if works {
                return true;
            }
        }
    }
    false
}

fn possible(topology: &Topology) -> bool {
    let mut back: Vec<Host> = topology.hosts.clone();
    back.iter_mut().for_each(|host| host.done = !host.done);
    by_trying(&mut topology.hosts.clone(), topology.room_percent, topology.refill)
        && by_trying(&mut back, 100, topology.refill)
}

/// Plays an order by the rules: room, a free server for each drain, each server once, and a way back from everywhere.
fn play(topology: &Topology, rotation: &Rotation, look_back: bool) -> Result<(), String> {
    let mut hosts = topology.hosts.clone();
    let find = |hosts: &[Host], name: &ServerName| hosts.iter().position(|host| host.name == *name).ok_or("unknown");
    let mut turns: Vec<ServerName> = Vec::new();
    for round in &rotation.rounds {
        let mut busy: Vec<ServerName> = Vec::new();
        for step in round {
            if turns.contains(&step.server) {
                return Err(format!("{} has two turns", step.server));
            }
            turns.push(step.server.clone());
            let from = find(&hosts, &step.server)?;
            let Some(into) = &step.into else {
                if hosts[from].used > 0 {
                    return Err(format!("{} is upgraded with its objects on it", step.server));
                }
                hosts[from].done = true;
                continue;
            };
            if busy.contains(into) {
                return Err(format!("{into} takes two drains at once"));
            }
            busy.push(into.clone());
            busy.push(step.server.clone());
            let to = find(&hosts, into)?;
            if hosts[to].part != Part::Free || !hosts[to].done || hosts[from].part != Part::Serving {
                return Err(format!("{} cannot be drained into {into}", step.server));
            }
            if u128::from(hosts[from].used) * u128::from(topology.room_percent) > u128::from(hosts[to].capacity) * 100 {
                return Err(format!("{} does not fit into {into}", step.server));
            }
            hosts[from].done = true;
            if topology.refill == Refill::Rotate {
                (hosts[to].used, hosts[to].part) = (hosts[from].used, Part::Serving);
                (hosts[from].used, hosts[from].part) = (0, Part::Free);
            }
            if look_back {
                let mut back = hosts.clone();
                back.iter_mut().for_each(|host| host.done = !host.done);
                if !by_trying(&mut back, 100, topology.refill) {
                    return Err(format!("no way back after {}", step.server));
                }
            }
        }
    }
    match hosts.iter().find(|host| host.part != Part::Failed && !host.done) {
        Some(left) => Err(format!("{} never has its turn", left.name)),
        None => Ok(()),
    }
}

/// A pool of random size and skew.
fn random(dice: &mut Dice, servers: u64, free: u64) -> Topology {
    let skew = 1 + dice.roll(4);
    let full = 30 + dice.roll(69);
    let hosts = (0..servers)
        .map(|number| {
            let capacity = 100
                * (1 + dice.roll(10).pow(u32::try_from(skew).unwrap()) / 10_u64.pow(u32::try_from(skew - 1).unwrap()));
            let part = match number {
                _ if number < free => Part::Free,
                _ if dice.roll(12) == 0 => Part::Reserve,
                _ if dice.roll(15) == 0 => Part::Failed,
                _ => Part::Serving,
            };
            let used = match part {
                Part::Serving => capacity * (full / 2 + dice.roll(full / 2 + 1)) / 100,
                Part::Free | Part::Reserve | Part::Failed => 0,
            };
            Host {
                name: format!("s{number}").parse().unwrap(),
                capacity,
                used,
                part,
                price_percent: u32::try_from(80 + 10 * dice.roll(4)).unwrap(),
                done: dice.roll(5) == 0,
            }
        })
        .collect();
    Topology {
        hosts,
        room_percent: [100, 110, 130, 150][usize::try_from(dice.roll(4)).unwrap()],
        refill: if dice.roll(4) == 0 {
            Refill::Home
        } else {
            Refill::Rotate
        },
    }
}

#[test]
fn search_finds_an_order_exactly_where_trying_everything_does() {
    let (mut found, mut refused) = (0, 0);
    for seed in 1..4000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let servers = 2 + dice.roll(6);
        let free = dice.roll(3.min(servers));
        let topology = random(&mut dice, servers, free);
        match search(&topology) {
            Ok(rotation) => {
                found += 1;
                assert!(possible(&topology), "seed {seed}: {topology:?} gives {rotation:?}");
                if let Err(why) = play(&topology, &rotation, true) {
                    panic!("seed {seed}: {why}: {rotation:?} of {topology:?}");
                }
            }
            Err(refusal) => {
                refused += 1;
                assert!(!possible(&topology), "seed {seed}: {refusal:?} of {topology:?}");
            }
        }
    }
    assert!(found > 800 && refused > 800, "{found} found, {refused} refused");
}

#[test]
fn a_thousand_pools_of_up_to_two_hundred_servers_have_an_order_that_works_or_a_reason() {
    let (mut found, mut refused) = (0, 0);
    for seed in 1..=1000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let servers = 3 + dice.roll(if seed % 10 == 0 { 198 } else { 40 });
        let free = 1 + dice.roll(4.min(servers - 1));
        let topology = random(&mut dice, servers, free);
        match search(&topology) {
            Ok(rotation) => {
                found += 1;
                if let Err(why) = play(&topology, &rotation, false) {
                    panic!("seed {seed}: {why}: {rotation:?}");
                }
            }
            Err(Refusal::CannotFinish { help, .. } | Refusal::CannotUndo { help, .. }) => {
                refused += 1;
                assert!(!help.is_empty(), "seed {seed}: no change would help");
            }
            Err(Refusal::NoFree) => panic!("seed {seed}"),
        }
    }
    assert!(found > 300 && refused > 100, "{found} found, {refused} refused");
}

#[test]
fn every_change_that_is_offered_works_and_a_smaller_one_does_not() {
    let mut offered = [0; 4];
    for seed in 1..2000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let servers = 3 + dice.roll(5);
        let topology = random(&mut dice, servers, 1);
        let Err(Refusal::CannotFinish { help, .. } | Refusal::CannotUndo { help, .. }) = search(&topology) else {
            continue;
        };
        for change in help {
            let with = |less: u64| {
                let mut with = topology.clone();
                let at = |name: &ServerName| with.hosts.iter().position(|host| host.name == *name).unwrap();
                match &change {
                    Change::Enlarge { server, capacity } => {
                        let at = at(server);
                        with.hosts[at].capacity = capacity - less;
                    }
                    Change::Invite { servers, capacity } => {
                        for number in 0..*servers {
                            let mut free = host(&format!("zz{number}"), Part::Free, capacity.saturating_sub(less), 0);
                            free.done = true;
                            with.hosts.push(free);
                        }
                    }
                    Change::Lighten { server, octets } => {
                        let at = at(server);
                        with.hosts[at].used -= octets - less;
                    }
                    Change::Percent { percent } => with.room_percent = percent + less,
                }
                possible(&with)
            };
            let kind = match &change {
                Change::Enlarge { .. } => 0,
                Change::Invite { .. } => 1,
                Change::Lighten { .. } => 2,
                Change::Percent { .. } => 3,
            };
            offered[kind] += 1;
            assert!(with(0), "seed {seed}: {change} does not help {topology:?}");
            assert!(!with(1), "seed {seed}: less than {change} helps {topology:?}");
        }
    }
    assert!(offered.iter().all(|count| *count > 20), "{offered:?}");
}

#[test]
fn canary_goes_alone_and_the_dearest_server_ends_free() {
    let mut hosts = vec![
        host("s1", Part::Serving, 100, 50),
        host("s2", Part::Serving, 100, 50),
        host("s3", Part::Serving, 100, 50),
        host("s4", Part::Free, 100, 0),
        host("s5", Part::Free, 100, 0),
        host("s6", Part::Reserve, 100, 0),
    ];
    hosts[0].price_percent = 200;
    let rotation = search(&pool(hosts)).unwrap();
    let words: Vec<String> = rotation
        .rounds
        .iter()
        .map(|round| {
            let steps = round.iter().map(|step| match &step.into {
                Some(into) => format!("{}>{into}", step.server),
                None => step.server.to_string(),
            });
            steps.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(words, ["s4", "s5", "s2>s4 s3>s5", "s1>s2", "s6"]);
}

#[test]
fn refusal_names_the_server_and_what_would_help() {
    let refused = search(&pool(vec![
        host("s1", Part::Serving, 1000, 900),
        host("s2", Part::Serving, 1000, 100),
        host("s3", Part::Free, 500, 0),
    ]));
    let said = refused.unwrap_err().to_string();
    for part in [
        "s1 needs room for 1170 octets",
        "give s2 1170 octets",
        "invite one more free server of 1170 octets",
        "take 131 octets off s1",
        "--room-percent 111",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(
        search(&pool(vec![host("s1", Part::Serving, 10, 1)])),
        Err(Refusal::NoFree)
    );
}

#[test]
fn what_has_grown_beyond_every_way_back_is_refused() {
    let mut hosts = vec![
        host("s1", Part::Serving, 1000, 700),
        host("s2", Part::Serving, 500, 100),
        host("s3", Part::Free, 500, 0),
    ];
    hosts[0].done = true;
    let refused = search(&pool(hosts));
    assert!(
        matches!(&refused, Err(Refusal::CannotUndo { server, needed: 700, .. }) if server.as_str() == "s1"),
        "{refused:?}"
    );
}
