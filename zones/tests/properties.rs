//! What is written reads back, and nothing else reads; octets from outside never panic.

use std::collections::{BTreeMap, HashSet};

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use zones::copies::{
    COPIES, HOT_MAX, HOT_SERVERS_MAX, NAMES_MAX, PREFIX_OCTETS_MAX, PREFIXES_MAX, SPREAD_MAX, WEIGHTS,
};
use zones::has::Has;
use zones::query::{build_question, read_answer};
use zones::register::STRING_OCTETS_MAX;
use zones::report::{build_report, claims_that_fit, read_report};
use zones::update::{build_has_update, build_register_update, changes_that_fit, read_has_update};
use zones::upkeep::{Arrivals, Install, KeysAre, SchemaSet, Sum, Taken, Tried};
use zones::want::PoolName;
use zones::{
    Address, Change, Claim, Claimed, Domain, Epoch, Errand, Heat, Hot, Incarnation, Keep, Kept, Level, Prerequisite,
    Register, RegisterChange, Report, Role, ServerName, State, Tx, Upkeep, Want, Wish, Zone, read_update,
};

fn domain() -> Domain {
    "hypernet.internal".parse().unwrap()
}

/// Addresses of every kind of part: plain, over 63 octets, and such that look encoded.
fn any_address() -> impl Strategy<Value = Address> {
    let part = prop_oneof![
        8 => "[0-9A-Za-z_-]{1,12}",
        1 => "[0-9A-Za-z_-]{60,70}",
        1 => "[xX][hH]--[0-9a-v]{0,8}",
    ];
    proptest::collection::vec(part, 1..6)
        .prop_map(|parts| parts.join("."))
        .prop_filter_map("an address with names", |text| {
            let address: Address = text.parse().ok()?;
            domain().check(&address).ok().map(|()| address)
        })
}

fn any_server() -> impl Strategy<Value = ServerName> {
    "[a-z][a-z0-9-]{0,14}".prop_filter_map("a server's name", |text| text.parse().ok())
}

fn any_role() -> impl Strategy<Value = Role> {
    proptest::sample::select(Role::ALL.map(|(role, _)| role).to_vec())
}

fn any_register() -> impl Strategy<Value = Register> {
    let holders = proptest::collection::hash_set(any_server(), 0..6);
    let who = (any_server(), any_server(), holders, 0u8..3);
    let what = (
        any_address(),
        1u64..,
        any::<[u8; 16]>(),
        "[!-~]{1,64}",
        any::<u32>(),
        1u8..,
    );
    (who, what)
        .prop_map(
            |((owner, to, holders, state), (address, epoch, tx, kind, schema, level))| {
                let mut holders: Vec<ServerName> = holders.into_iter().collect();
                let state = match state {
                    0 => State::Stable,
                    1 => State::Moving { to: to.clone() },
                    _ => State::Deleted,
                };
                match state {
                    State::Deleted => holders.clear(),
                    State::Stable | State::Moving { .. } => {
                        holders.retain(|holder| *holder != to && *holder != owner);
                        holders.push(owner.clone());
                    }
                }
                Register {
                    address,
                    epoch: Epoch(epoch),
                    owner,
                    state,
                    tx: Tx(tx),
                    holders,
                    kind: kind.parse().unwrap(),
                    schema,
                    level: Level(level),
                }
            },
        )
        .prop_filter("a legal register", |register| register.check().is_ok())
}

fn any_has() -> impl Strategy<Value = Has> {
    let numbers = proptest::array::uniform9(any::<u64>());
    let audit = any::<(u64, [u8; 32])>();
    (
        "[0-9A-Za-z.+-]{1,32}",
        any_role(),
        numbers,
        any::<u32>(),
        any::<u16>(),
        proptest::option::of((
            audit,
            proptest::option::of((
                any_upkeep(),
                proptest::option::of((any_heat(), proptest::option::of(any_kept()))),
            )),
        )),
    )
        .prop_map(
            |(
                release,
                role,
                [
                    objects,
                    bytes,
                    capacity,
                    heat,
                    errors,
                    unreadable,
                    plan,
                    commits,
                    quarantined,
                ],
                load,
                peer_port,
                last,
            )| {
                // Each of these comes only after the one before it.
                let (audit, more) = last.unzip();
                let (upkeep, more) = more.flatten().unzip();
                let (hot, kept) = more.flatten().unzip();
                Has {
                    release,
                    role,
                    objects,
                    bytes,
                    capacity,
                    load,
                    heat,
                    errors,
                    unreadable,
                    plan,
                    commits,
                    peer_port,
                    quarantined,
                    audit: audit.map(|(count, hash)| zones::audit::Head { count, hash }),
                    upkeep,
                    hot,
                    kept: kept.flatten(),
                }
            },
        )
}

fn any_heat() -> impl Strategy<Value = Heat> {
    let hot = (any_address(), any::<u64>()).prop_map(|(address, rate_milli)| Hot { address, rate_milli });
    let hottest = proptest::collection::vec(hot, 0..4).prop_map(|mut hottest| {
        hottest.sort_by_key(|hot| std::cmp::Reverse(hot.rate_milli));
        hottest
    });
    (any::<[u64; 3]>(), hottest).prop_map(|([asked_milli, served, doubt_milli], hottest)| Heat {
        asked_milli,
        served,
        doubt_milli,
        hottest,
    })
}

fn any_kept() -> impl Strategy<Value = Kept> {
    any::<[u64; 4]>().prop_map(|[held, octets, short, leaving]| Kept {
        held,
        octets,
        short,
        leaving,
    })
}

/// As many of everything as the bounds allow, and fewer.
fn any_keep() -> impl Strategy<Value = Keep> {
    let prefix = any_address().prop_filter("a prefix", |prefix| prefix.as_str().len() <= PREFIX_OCTETS_MAX);
    let names = || proptest::collection::hash_set(any_server(), 0..=NAMES_MAX);
    let servers = proptest::collection::hash_set(any_server(), 1..=HOT_SERVERS_MAX);
    let hot = (any_address(), servers).prop_filter_map("a string", |(address, servers)| {
        let servers: Vec<ServerName> = servers.into_iter().collect();
        (Keep::hot_octets(&address, &servers) <= STRING_OCTETS_MAX).then_some((address, servers))
    });
    (
        0..=*COPIES.end(),
        proptest::collection::btree_map(prefix, COPIES, 0..=PREFIXES_MAX),
        proptest::collection::hash_map(any_server(), WEIGHTS, 0..=SPREAD_MAX),
        names(),
        names(),
        proptest::collection::vec(hot, 0..=HOT_MAX),
    )
        .prop_map(|(copies, under, spread, leave, lost, hot)| Keep {
            copies,
            under: under.into_iter().collect(),
            spread: spread.into_iter().collect(),
            leave: leave.into_iter().collect(),
            lost: lost.into_iter().collect(),
            hot: hot.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect(),
        })
}

fn any_arrivals() -> impl Strategy<Value = Arrivals> {
    (any_server(), any::<u64>()).prop_map(|(from, since)| Arrivals { from, since })
}

fn any_upkeep() -> impl Strategy<Value = Upkeep> {
    let release = "[0-9A-Za-z.+-]{1,32}";
    let install = prop_oneof![
        Just(Install::ByHand),
        Just(Install::Ready),
        release.prop_map(Install::Asked),
        release.prop_map(Install::Failed),
        release.prop_map(Install::Refused),
    ];
    let sum = || any::<(u64, u128)>().prop_map(|(count, digest)| Sum { count, digest });
    let taken = (any_arrivals(), sum(), any::<(u64, u64)>()).prop_map(|(arrivals, sum, (verified, bad))| Taken {
        arrivals,
        sum,
        verified,
        bad,
    });
    let dry = any::<[u64; 4]>().prop_map(|[set, objects, quarantined, stuck]| Tried {
        set: SchemaSet(set),
        objects,
        quarantined,
        stuck,
    });
    let (taken, dry) = (proptest::option::of(taken), proptest::option::of(dry));
    let numbers = any::<(u8, u64, [u64; 9], bool)>();
    (numbers, install, sum(), taken, dry).prop_map(|((suite, schemas, numbers, up), install, moved, taken, dry)| {
        let [
            open,
            retired,
            running,
            p99_us,
            newer,
            resting,
            used,
            scrubbed_unix_s,
            tested,
        ] = numbers;
        Upkeep {
            suite,
            schemas: SchemaSet(schemas),
            open,
            retired,
            running,
            p99_us,
            newer,
            resting,
            used,
            scrubbed_unix_s,
            keys: if up { KeysAre::Up } else { KeysAre::Down },
            tested,
            install,
            moved,
            taken,
            dry,
        }
    })
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let what = (0u8..7, any_server()).prop_map(|(what, server)| match what {
        0 => Claimed::Owned { others: Vec::new() },
        6 => Claimed::Owned { others: vec![server] },
        1 => Claimed::Made,
        2 => Claimed::Arriving { from: server },
        3 => Claimed::Gone { to: server },
        4 => Claimed::Heard { to: server },
        _ => Claimed::Deleted,
    });
    let rest = (any::<[u8; 16]>(), "[!-~]{1,64}", any::<u32>(), 1u8..);
    (any_address(), 1u64.., what, rest).prop_map(|(address, epoch, what, (tx, kind, schema, level))| Claim {
        address,
        epoch: Epoch(epoch),
        what,
        tx: Tx(tx),
        kind: kind.parse().unwrap(),
        schema,
        level: Level(level),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn report_of_any_length_goes_in_whole_messages_and_reads_back(
        claims in proptest::collection::vec(any_claim(), 0..900),
        server in any_server(),
        (plan, incarnation) in any::<(u64, [u8; 16])>(),
        role in proptest::option::of(any_role()),
    ) {
        let mut rest = &claims[..];
        let mut read_back = Vec::new();
        while read_back.len() < claims.len() || read_back.is_empty() {
            let (now, later) = rest.split_at(claims_that_fit(&domain(), rest));
            let report = Report {
                server: server.clone(),
                incarnation: Incarnation(incarnation),
                from: read_back.len() as u64,
                plan,
                role,
                end: later.is_empty(),
                claims: now.to_vec(),
            };
            let octets = build_report(&domain(), 7, &report).unwrap();
            let update = read_update(&Message::from_vec(&octets).unwrap()).unwrap();
            prop_assert_eq!(read_report(&domain(), &update).unwrap(), report);
            read_back.extend_from_slice(now);
            rest = later;
            if claims.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read_back, claims);
    }

    #[test]
    fn report_with_any_octet_changed_is_read_or_refused(
        claims in proptest::collection::vec(any_claim(), 1..4),
        (at, octet) in any::<(prop::sample::Index, u8)>(),
    ) {
        let report = Report {
            server: "s2".parse().unwrap(),
            incarnation: Incarnation([7; 16]),
            from: 0,
            plan: 3,
            role: None,
            end: true,
            claims,
        };
        let mut octets = build_report(&domain(), 7, &report).unwrap();
        let at = at.index(octets.len());
        octets[at] = octet;
        if let Ok(message) = Message::from_vec(&octets)
            && let Ok(update) = read_update(&message)
            && let Ok(read) = read_report(&domain(), &update)
        {
            // What is read has one spelling: written again it reads the same.
            let again = build_report(&domain(), 7, &read).unwrap();
            let update = read_update(&Message::from_vec(&again).unwrap()).unwrap();
            prop_assert_eq!(read_report(&domain(), &update).unwrap(), read);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn address_comes_back_from_each_of_its_names(address in any_address()) {
        let domain = domain();
        for name in [domain.obj_name(&address), domain.tree_name(&address), domain.bare_name(&address)] {
            let name = name.unwrap();
            prop_assert_eq!(domain.address_of(&name), Ok(Some(address.folded())));
            prop_assert!(name.len() <= 255);
        }
    }

    #[test]
    fn addresses_share_a_name_only_if_they_differ_by_case_alone(one in any_address(), other in any_address()) {
        let domain = domain();
        let same = domain.tree_name(&one) == domain.tree_name(&other);
        prop_assert_eq!(same, one.folded() == other.folded());
        prop_assert_eq!(same, domain.obj_name(&one) == domain.obj_name(&other));
    }

    /// One name for an address: what reads as an address is spelled as that address is.
    #[test]
    fn name_that_reads_as_an_address_is_the_name_of_that_address(
        labels in proptest::collection::vec("(xh--)?[0-9a-v_-]{1,12}", 1..4),
    ) {
        let domain = domain();
        let labels = labels.iter().map(String::as_bytes);
        let mut name = Name::from_labels(labels).unwrap().append_domain(domain.zone(Zone::Obj)).unwrap();
        name.set_fqdn(true);
        if let Ok(Some(address)) = domain.address_of(&name) {
            prop_assert_eq!(domain.obj_name(&address).unwrap(), name);
        }
    }

    #[test]
    fn parent_sorts_before_its_descendants_with_nothing_between(one in any_address(), other in any_address()) {
        if one.covers(&other) && one != other {
            prop_assert!(one < other);
        } else if one < other {
            // Whatever lies under `one` comes before a later address that does not.
            let below: Address = format!("{one}.zzz").parse().unwrap();
            prop_assert!(below < other);
        }
    }

    #[test]
    fn addresses_are_ordered_by_their_parts(one in any_address(), other in any_address(), from in any::<usize>()) {
        prop_assert_eq!(one.cmp(&other), one.parts().cmp(other.parts()));
        // Two that differ late.
        let kept: Vec<&str> = one.parts().take(1 + from % one.depth()).collect();
        let near: Address = format!("{}{}{other}", kept.join("."), ["-", "_", ".", "0"][from % 4]).parse().unwrap_or(other);
        prop_assert_eq!(one.cmp(&near), one.parts().cmp(near.parts()));
    }

    #[test]
    fn octets_of_a_register_are_those_of_its_strings(register in any_register()) {
        let octets: usize = register.strings().iter().map(|string| string.len() + 1).sum();
        prop_assert_eq!(register.text_octets(), octets);
    }

    #[test]
    fn register_reads_back_as_it_was_written(register in any_register()) {
        prop_assert_eq!(Register::from_strings(&register.strings()), Ok(register));
    }

    /// Reading accepts what writing makes and nothing else, so that equal texts are equal registers.
    #[test]
    fn register_has_one_spelling(register in any_register(), at in any::<usize>(), with in "[ -~]?") {
        let text = register.strings().join("\n");
        let at = at % text.len();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &with);
        let strings: Vec<&str> = changed.split('\n').collect();
        if let Ok(read) = Register::from_strings(&strings) {
            prop_assert_eq!(read.strings(), strings);
        }
    }

    #[test]
    fn has_reads_back_as_it_was_written(has in any_has()) {
        prop_assert_eq!(Has::from_strings(&has.strings()), Ok(has));
    }

    #[test]
    fn want_reads_back_as_it_was_written(
        role in any_role(),
        targets in proptest::collection::hash_set(any_server(), 0..14),
        plan in any::<u64>(),
        step in any::<u64>(),
        floor in 1_u8..,
        above in any::<u8>(),
        all in any::<bool>(),
        release in proptest::option::of("[0-9A-Za-z.+-]{1,32}"),
        arrivals in proptest::option::of(any_arrivals()),
        sweep in any::<Option<u64>>(),
        keep in proptest::option::of(any_keep()),
    ) {
        let policy = zones::Policy {
            level: zones::Level(floor.saturating_add(above)),
            floor: zones::Level(floor),
            steps: if all { zones::Steps::All } else { zones::Steps::Expand },
        };
        let keep = keep.unwrap_or_default();
        let targets = targets.into_iter().collect();
        let want = Want { role, targets, plan, step, policy, errand: Errand { release, arrivals, sweep, keep } };
        prop_assert!(want.strings().iter().all(|string| string.len() <= 255));
        prop_assert_eq!(Want::from_strings(&want.strings()), Ok(want));
    }

    /// The longest prefix that covers an address decides, in whatever order they stand.
    #[test]
    fn copies_are_those_of_the_nearest_ancestor(
        copies in 0..=*COPIES.end(),
        under in proptest::collection::hash_map("[ab]{1,2}(\\.[ab]){0,3}", COPIES, 0..=PREFIXES_MAX),
        address in "[ab]{1,2}(\\.[ab]){0,4}",
    ) {
        let address: Address = address.parse().unwrap();
        let under = under.into_iter().map(|(prefix, copies)| (prefix.parse().unwrap(), copies)).collect();
        let keep = Keep { copies, under, ..Keep::default() };
        let ancestors = std::iter::successors(Some(address.clone()), Address::parent);
        let mut said = ancestors.filter_map(|one| keep.under.iter().find(|(prefix, _)| *prefix == one));
        let nearest = said.next().map_or(copies.max(1), |(_, copies)| *copies);
        prop_assert_eq!(keep.wanted(&address), usize::from(nearest));
    }

    #[test]
    fn wish_reads_back_as_it_was_written(address in any_address(), server in any_server(), verb in 0..3) {
        let wish = match verb {
            0 => Wish::Copy { address, server },
            1 => Wish::Drop { address, server },
            _ => Wish::Move { address, server },
        };
        prop_assert_eq!(Wish::from_strings(&wish.strings()), Ok(wish));
    }

    #[test]
    fn texts_from_outside_never_panic(strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..16)) {
        let _ = Register::from_strings(&strings);
        let _ = Has::from_strings(&strings);
        let _ = Want::from_strings(&strings);
        let _ = Wish::from_strings(&strings);
    }

    #[test]
    fn pool_names_read_back(server in any_server()) {
        let domain = domain();
        for means in [PoolName::Server(server.clone()), PoolName::Want(server.clone()), PoolName::Todo(server)] {
            prop_assert_eq!(PoolName::of(&domain, &means.name(&domain)), Some(means));
        }
    }

    /// One update of many objects says just what was asked: a prerequisite, a deletion and an addition each.
    #[test]
    fn register_update_reads_back(
        changes in proptest::collection::vec((any::<bool>(), any_register(), any::<[u8; 16]>()), 1..20),
        id in any::<u16>(),
    ) {
        let domain = domain();
        let mut seen = HashSet::new();
        let changes: Vec<RegisterChange> = changes
            .into_iter()
            .filter(|(_, new, _)| seen.insert(new.address.folded()))
            .map(|(create, new, tx)| RegisterChange {
                old: (!create).then(|| Register { tx: Tx(tx), ..new.clone() }),
                new,
            })
            .collect();
        prop_assert_eq!(changes_that_fit(&domain, &changes), changes.len());
        let octets = build_register_update(&domain, id, &changes).unwrap();
        let message = Message::from_vec(&octets).unwrap();
        prop_assert_eq!((message.metadata.id, message.metadata.op_code), (id, OpCode::Update));
        prop_assert!(message.edns.is_some(), "else nobody says why it was refused");
        let update = read_update(&message).unwrap();
        prop_assert_eq!(update.prerequisites.len(), changes.len());
        let mut rest = update.changes.iter();
        for (prerequisite, change) in update.prerequisites.iter().zip(&changes) {
            prop_assert_eq!(domain.address_of(prerequisite.name()).unwrap(), Some(change.new.address.folded()));
            match (prerequisite, &change.old) {
                (Prerequisite::RrsetAbsent { kind: RecordType::TXT, .. }, None) => {}
                (Prerequisite::RrsetEquals { kind: RecordType::TXT, data, .. }, Some(old)) => {
                    prop_assert_eq!(data.len(), 1);
                    prop_assert_eq!(text(&data[0]), old.clone());
                    match rest.next() {
                        Some(Change::DeleteRrset { kind: RecordType::TXT, name }) => {
                            prop_assert_eq!(name, prerequisite.name());
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                other => prop_assert!(false, "{:?}", other),
            }
            match rest.next() {
                Some(Change::Add(record)) => prop_assert_eq!(text(&record.data), change.new.clone()),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert!(rest.next().is_none());
    }

    #[test]
    fn has_update_reads_back(
        server in any_server(),
        has in any_has(),
        https_port in 1u16..,
        addresses in proptest::collection::hash_set(any::<std::net::IpAddr>(), 1..4),
    ) {
        let domain = domain();
        let addresses: Vec<_> = addresses.into_iter().collect();
        let octets = build_has_update(&domain, 9, &server, &has, https_port, &addresses).unwrap();
        let update = read_update(&Message::from_vec(&octets).unwrap()).unwrap();
        let read = read_has_update(&domain, &update).unwrap();
        prop_assert_eq!((read.server, read.has, read.https_port, read.addresses), (server, has, https_port, addresses));
    }

    #[test]
    fn messages_from_outside_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read_answer(&octets);
        let _ = zones::tsig::verify_request(&octets, |_| None, 0);
        if let Ok(message) = Message::from_vec(&octets) {
            let _ = read_update(&message);
        }
    }

    /// Valid messages with a few octets changed go deeper than noise does.
    #[test]
    fn damaged_updates_never_panic(
        registers in proptest::collection::vec(any_register(), 1..4),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let domain = domain();
        let changes: Vec<_> = registers.into_iter().map(|new| RegisterChange { old: Some(new.clone()), new }).collect();
        let mut octets = build_register_update(&domain, 1, &changes).unwrap();
        for (at, with) in damage {
            let at = at % octets.len();
            octets[at] = with;
        }
        let _ = zones::tsig::verify_request(&octets, |_| None, 0);
        if let Ok(message) = Message::from_vec(&octets)
            && let Ok(update) = read_update(&message)
        {
            let _ = read_has_update(&domain, &update);
            for name in update.names() {
                let _ = domain.address_of(name);
            }
        }
    }
}

fn text(data: &hickory_proto::rr::RData) -> Register {
    match data {
        hickory_proto::rr::RData::TXT(txt) => Register::from_strings(&txt.txt_data).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn update_of_too_many_registers_is_refused_and_what_fits_is_told() {
    let domain = domain();
    let changes: Vec<RegisterChange> = (0..1000)
        .map(|n| {
            let new = Register::from_strings(&[
                "v=hn1".to_owned(),
                format!("address=3.1.2.{n}"),
                "epoch=1".to_owned(),
                "owner=s1".to_owned(),
                "state=stable".to_owned(),
                format!("tx={:032x}", n),
                "holders=s1".to_owned(),
                "type=photo".to_owned(),
                "schema=1".to_owned(),
                "level=1".to_owned(),
            ])
            .unwrap();
            RegisterChange {
                old: Some(new.clone()),
                new,
            }
        })
        .collect();
    let refused = build_register_update(&domain, 1, &changes);
    assert!(matches!(
        refused,
        Err(zones::update::BuildError::TooLarge { changes: 1000 })
    ));
    let fits = changes_that_fit(&domain, &changes);
    println!("{fits} changes fit a message");
    assert!(fits > 120);
    let octets = build_register_update(&domain, 1, &changes[..fits]).unwrap();
    assert!(
        octets.len() > 40_000,
        "what is said to fit fills most of a message: {}",
        octets.len()
    );
}

#[test]
fn question_carries_edns_only_when_asked_to() {
    let name: Name = "3.1.obj.hypernet.internal.".parse().unwrap();
    let plain = Message::from_vec(&build_question(1, &name, RecordType::SRV, None)).unwrap();
    assert!(plain.edns.is_none() && !plain.metadata.recursion_desired);
    let edns = Message::from_vec(&build_question(1, &name, RecordType::SRV, Some(1232))).unwrap();
    assert_eq!(edns.max_payload(), 1232);
}
