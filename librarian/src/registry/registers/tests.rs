use super::*;

fn domain() -> Domain {
    "hypernet.internal".parse().unwrap()
}

fn register(address: &str, state: State, holders: &[&str]) -> Register {
    Register {
        address: address.parse().unwrap(),
        epoch: Epoch(3),
        owner: "s2".parse().unwrap(),
        state,
        tx: Tx([7; 16]),
        holders: holders.iter().map(|name| name.parse().unwrap()).collect(),
        kind: "photo".parse().unwrap(),
        schema: 4,
        level: Level(1),
    }
}

fn table(addresses: &[&str]) -> Registers {
    let mut table = Registers::loading(domain(), 0, Arc::default());
    table.finish_loading();
    for address in addresses {
        table.put(&register(address, State::Stable, &["s2"]));
    }
    table
}

fn keys(table: &Registers, rows: impl Iterator<Item = u32>) -> Vec<&str> {
    rows.map(|id| table.key(id)).collect()
}

#[test]
fn only_the_register_that_is_kept_counts() {
    let moving = |to: &str| State::Moving {
        to: to.parse().unwrap(),
    };
    let long = format!("7.{}.Q", "Long-".repeat(20));
    let kept = [
        register("1.A-b", State::Stable, &["s2", "s1"]),
        register(&long, moving("s4"), &["s2", "s1", "s3", "s5"]),
        register("1.3", State::Deleted, &[]),
    ];
    let mut table = table(&[]);
    kept.iter().for_each(|register| table.put(register));
    let counts = |register: &Register| {
        let octets = super::super::Entry::Register(register.clone()).to_bytes();
        let fields = RegisterFields::of_entry(&octets).unwrap().unwrap();
        table.has(&fields, table.approach(std::iter::once(fields.address))[0])
    };
    let differing: [fn(&mut Register); 9] = [
        |register| register.address = register.address.as_str().replace(['1', '7'], "2").parse().unwrap(),
        |register| register.address = format!("{}.9", register.address).parse().unwrap(),
        |register| register.epoch = Epoch(4),
        |register| register.owner = "s1".parse().unwrap(),
        |register| {
            register.state = State::Moving {
                to: "s9".parse().unwrap(),
            }
        },
        |register| register.tx = Tx([8; 16]),
        |register| register.holders.push("s7".parse().unwrap()),
        |register| register.kind = "text".parse().unwrap(),
        |register| (register.schema, register.level) = (5, Level(2)),
    ];
    for register in &kept {
        assert!(counts(register), "{register:?}");
        for (place, change) in differing.iter().enumerate() {
            let mut other = register.clone();
            change(&mut other);
            assert!(!counts(&other), "{place}: {other:?}");
        }
    }
    let other_spelling = Register {
        address: "1.a-B".parse().unwrap(),
        ..kept[0].clone()
    };
    assert!(!counts(&other_spelling));
}

#[test]
fn register_comes_back_as_it_was_put() {
    let mut table = table(&["1.2"]);
    let long = format!("7.{}.Q", "Long-".repeat(20));
    for register in [
        register("1.A-b", State::Stable, &["s2", "s1"]),
        register(
            &long,
            State::Moving {
                to: "s9".parse().unwrap(),
            },
            &["s2"],
        ),
        register("xh--00.1", State::Deleted, &[]),
        register("5", State::Stable, &["s5", "s4", "s3", "s2", "s1"]),
    ] {
        table.put(&register);
        let key = key_of(&domain(), &register.address).unwrap();
        assert_eq!(table.register(table.find(&key).unwrap()), register);
    }
}

#[test]
fn below_a_name_in_tree_lie_longer_addresses_and_in_obj_those_that_end_alike() {
    let table = table(&["1", "1.1", "1.1.5", "1.10", "1.1-a", "2.1", "2.1.5"]);
    assert_eq!(keys(&table, table.below("1")), ["1.1", "1.1-a", "1.1.5", "1.10"]);
    assert_eq!(keys(&table, table.below("1.1")), ["1.1.5"]);
    assert_eq!(keys(&table, table.ending("1.5")), ["1.1.5", "2.1.5"]);
    assert_eq!(keys(&table, table.ending("1")), ["1.1", "2.1"]);
    assert!(table.below("1.1.5").next().is_none());
    assert!(table.ending("1.1.5").next().is_none());
    assert_eq!(table.below("").count(), 7);
    assert_eq!(table.ending("").count(), 7);
}

#[test]
fn deleted_object_lies_below_nothing_and_stays_found() {
    let mut table = table(&["1.1", "1.2"]);
    table.put(&register("1.2", State::Deleted, &[]));
    assert_eq!(keys(&table, table.below("1")), ["1.1"]);
    assert!(table.ending("2").next().is_none());
    assert!(!table.is_live(table.find("1.2").unwrap()));
    assert_eq!((table.len(), table.live()), (2, 1));
}

#[test]
fn servers_are_counted_in_every_field_that_names_them() {
    let mut table = table(&["1", "2"]);
    let count = |table: &Registers, name: &str| {
        let name = name.parse().unwrap();
        (table.owned(&name), table.naming(&name), table.held(&name))
    };
    table.put(&register(
        "1",
        State::Moving {
            to: "s4".parse().unwrap(),
        },
        &["s2", "s3"],
    ));
    assert_eq!(
        ["s2", "s3", "s4", "s5"].map(|name| count(&table, name)),
        [(2, 2, 0), (0, 1, 1), (0, 1, 0), (0, 0, 0)]
    );
    table.put(&register("1", State::Deleted, &[]));
    assert_eq!(
        ["s2", "s3", "s4"].map(|name| count(&table, name)),
        [(1, 1, 0), (0, 0, 0), (0, 0, 0)]
    );
}

#[test]
fn object_is_lost_with_a_server_that_alone_has_it_beside_lost_ones() {
    let mut table = table(&[]);
    for (address, holders) in [("1", &["s2"][..]), ("2", &["s2", "s3"]), ("3", &["s4", "s2"])] {
        table.put(&register(address, State::Stable, holders));
    }
    let with = |lost: &[&str], server: &str| {
        table.held_only_with(0..table.len(), &server.parse().unwrap(), |server| {
            lost.contains(&server.as_str())
        })
    };
    assert_eq!([with(&[], "s2"), with(&[], "s3"), with(&[], "s9")], [1, 0, 0]);
    // What s2 owns is lost with whoever holds the last copy of it.
    assert_eq!([with(&["s2"], "s3"), with(&["s2"], "s4")], [1, 1]);
    assert_eq!([with(&["s2"], "s2"), with(&["s2", "s3", "s4"], "s2")], [1, 3]);
}

#[test]
fn object_is_lost_when_each_of_its_holders_is() {
    let mut table = table(&["1"]);
    for (address, holders) in [
        ("2", &["s2", "s3"][..]),
        ("3", &["s4", "s2"]),
        ("4", &["s2", "s3", "s4", "s5"]),
    ] {
        table.put(&register(address, State::Stable, holders));
    }
    table.put(&register("5", State::Stable, &["s2"]));
    table.put(&register("5", State::Deleted, &[]));
    let lost = |servers: &[&str]| {
        let is_lost = |server: &ServerName| servers.contains(&server.as_str());
        table
            .held_only_by(0..table.len(), is_lost)
            .get(&"s2".parse().unwrap())
            .copied()
            .unwrap_or(0)
    };
    assert_eq!(
        [
            lost(&[]),
            lost(&["s3"]),
            lost(&["s2"]),
            lost(&["s2", "s3"]),
            lost(&["s2", "s3", "s4", "s5"])
        ],
        [0, 0, 1, 2, 4]
    );
}

#[test]
fn loaded_table_equals_one_filled_while_running() {
    let addresses = ["3.1", "1.A", "2.023", "1.a.5", "9", "1"];
    let running = table(&addresses);
    let mut loaded = Registers::loading(domain(), 0, Arc::default());
    for address in addresses {
        loaded.put(&register(address, State::Stable, &["s2"]));
    }
    loaded.finish_loading();
    assert_eq!(keys(&loaded, loaded.below("")), keys(&running, running.below("")));
    assert_eq!(keys(&loaded, loaded.ending("")), keys(&running, running.ending("")));
}

/// Whoever asks beside the writing is told what is true throughout, or is sent to the lock, and is told whenever nothing comes or
/// goes: while objects come, pieces of all that they need are added.
#[test]
fn what_lies_below_a_name_is_told_beside_the_writing_or_not_at_all() {
    const OBJECTS: usize = 40_000;
    const QUESTIONS: u64 = 6;
    let rounds = std::sync::atomic::AtomicU64::new(0);
    let glance = Arc::<Glance>::default();
    let mut table = Registers::loading(domain(), 0, Arc::clone(&glance));
    for address in ["5000.m.5000", "away.gone"] {
        table.put(&register(address, State::Stable, &["s2"]));
    }
    table.put(&register("away.gone", State::Deleted, &[]));
    table.finish_loading();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut told = 0;
            while !over.load(std::sync::atomic::Ordering::Acquire) {
                for (found, is_there) in [
                    (glance.read(|now| now.any_below(b"5000")), true),
                    (glance.read(|now| now.any_below(b"5000.m")), true),
                    (glance.read(|now| now.any_ending(b"m.5000")), true),
                    (glance.read(|now| now.any_below(b"5000.n")), false),
                    (glance.read(|now| now.any_ending(b"gone")), false),
                    (glance.read(|now| now.any_below(b"away")), false),
                ] {
                    told += u64::from(found.is_some());
                    assert!(found.is_none_or(|found| found == is_there));
                }
                rounds.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            }
            told
        });
        let mut rests = 0;
        // All of them come, then all but what is asked for go: blocks of both orders are cut in two, and emptied.
        for (state, holders) in [(State::Stable, &["s2"][..]), (State::Deleted, &[])] {
            for number in 0..OBJECTS {
                // Neighbours of what is asked for in both orders.
                let address = format!("{}.m.{}", number * 7919 % 10_000, number % 9_973);
                if address != "5000.m.5000" {
                    table.put(&register(&address, state.clone(), holders));
                    glance.message_ends();
                }
                if number % 100 == 0 {
                    // One round that began after the message, from its first question to its last.
                    let begun = rounds.load(std::sync::atomic::Ordering::Acquire);
                    while rounds.load(std::sync::atomic::Ordering::Acquire) < begun + 2 && !asking.is_finished() {
                        std::thread::yield_now();
                    }
                    rests += 1;
                }
            }
        }
        over.store(true, std::sync::atomic::Ordering::Release);
        let told = asking.join().expect("nothing untrue is told");
        assert!(told >= QUESTIONS * rests, "{told} told in {rests} rests");
    });
}

/// An address goes and another comes in one message: the name that both lie below is there throughout.
#[test]
fn what_is_told_beside_the_writing_holds_before_or_after_a_message() {
    let glance = Arc::<Glance>::default();
    let mut table = Registers::loading(domain(), 0, Arc::clone(&glance));
    table.put(&register("0.a", State::Stable, &["s2"]));
    table.finish_loading();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut told = 0_u64;
            while !over.load(std::sync::atomic::Ordering::Acquire) || told == 0 {
                let found = glance.read(|now| now.any_ending(b"a"));
                assert!(found.is_none_or(|found| found));
                told += u64::from(found.is_some());
            }
        });
        for number in 0..20_000 {
            let [gone, comes] = [number, number + 1].map(|number| format!("{number}.a"));
            table.put(&register(&gone, State::Deleted, &[]));
            table.put(&register(&comes, State::Stable, &["s2"]));
            glance.message_ends();
        }
        over.store(true, std::sync::atomic::Ordering::Release);
        asking.join().expect("nothing untrue is told");
    });
}

#[test]
fn who_asks_in_a_table_that_a_row_came_too_late_for_is_sent_to_the_lock() {
    let mut table = table(&[]);
    for number in 0.. {
        let before = Arc::clone(&table.table);
        table.put(&register(&format!("{number}.x"), State::Stable, &["s2"]));
        if number > 0 && !before.rows.is(&table.table.rows) {
            let key = number.to_string();
            assert!(before.forward.is(&table.table.forward), "the order alone would tell");
            assert_eq!(before.any_below(key.as_bytes()), None);
            assert_eq!(table.table.any_below(key.as_bytes()), Some(true));
            for number in 0..number {
                let found = before.any_below(number.to_string().as_bytes());
                assert!(found != Some(false), "{number}");
            }
            return;
        }
    }
}
