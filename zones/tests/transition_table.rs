//! The transition table, judged against a second telling of it: for every old text, actor and pool of a small world
//! the test constructs all new texts that the table allows, and `judge` must let through these and no others.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use zones::{
    Actor, Address, Epoch, Level, ObjectType, PoolView, Refusal, Register, Role, ServerName, State, Tx, judge,
};

const OLD_EPOCH: u64 = 5;
const OLD_LEVEL: u8 = 2;

fn server(name: &str) -> ServerName {
    name.parse().unwrap()
}

fn servers() -> [ServerName; 3] {
    ["s1", "s2", "s3"].map(server)
}

fn tx(octet: u8) -> Tx {
    Tx([octet; 16])
}

#[derive(Clone, Debug)]
struct Pool {
    roles: HashMap<ServerName, Role>,
    may_move: bool,
    lost: Vec<ServerName>,
    floor: Level,
}

impl Pool {
    fn serving() -> Pool {
        Pool {
            roles: servers().into_iter().map(|server| (server, Role::Serving)).collect(),
            may_move: true,
            lost: Vec::new(),
            floor: Level(1),
        }
    }
}

impl PoolView for Pool {
    fn role(&self, server: &ServerName) -> Option<Role> {
        self.roles.get(server).copied()
    }

    fn may_move(&self, _: &Address, _: &ServerName, _: &ServerName) -> bool {
        self.may_move
    }

    fn floor(&self, _: &ServerName) -> Level {
        self.floor
    }

    fn is_lost(&self, server: &ServerName) -> bool {
        self.lost.contains(server)
    }
}

/// Pools that differ from a serving one in one server's role, and in what wants and people say.
fn pools() -> Vec<Pool> {
    let mut pools = Vec::new();
    let [s1, s2, s3] = servers();
    for lost in [vec![], vec![s1.clone()], vec![s2.clone()], vec![s3], vec![s1, s2]] {
        for may_move in [false, true] {
            pools.push(Pool {
                may_move,
                lost: lost.clone(),
                ..Pool::serving()
            });
        }
    }
    pools.push(Pool {
        floor: Level(OLD_LEVEL),
        ..Pool::serving()
    });
    for server in servers() {
        let mut unknown = Pool::serving();
        unknown.roles.remove(&server);
        pools.push(unknown);
        for role in [Role::Free, Role::Reserve, Role::Refilling, Role::Cordoned] {
            for lost in [vec![], vec![servers()[0].clone()]] {
                let mut other = Pool {
                    lost,
                    ..Pool::serving()
                };
                other.roles.insert(server.clone(), role);
                pools.push(other);
            }
        }
    }
    pools
}

/// Every legal combination of owner, state and holders of three servers.
fn shapes() -> Vec<(ServerName, State, Vec<ServerName>)> {
    let mut shapes = Vec::new();
    for owner in servers() {
        shapes.push((owner.clone(), State::Deleted, Vec::new()));
        for mask in 0..8 {
            let holders: Vec<ServerName> = (0..3)
                .filter(|bit| mask & (1 << bit) != 0)
                .map(|bit| servers()[bit].clone())
                .collect();
            if !holders.contains(&owner) {
                continue;
            }
            shapes.push((owner.clone(), State::Stable, holders.clone()));
            for to in servers().into_iter().filter(|to| !holders.contains(to)) {
                shapes.push((owner.clone(), State::Moving { to }, holders.clone()));
            }
        }
    }
    shapes
}

fn register((owner, state, holders): (ServerName, State, Vec<ServerName>), epoch: u64, tx: Tx) -> Register {
    let register = Register {
        address: "3.1.Photo".parse().unwrap(),
        epoch: Epoch(epoch),
        owner,
        state,
        tx,
        holders,
        kind: "photo".parse().unwrap(),
        schema: 3,
        level: Level(OLD_LEVEL),
    };
    register.check().expect("shapes are legal");
    register
}

/// New texts: every shape at every epoch that could matter, each as it should be and with one thing else changed.
fn candidates() -> Vec<Register> {
    let mut candidates = Vec::new();
    for shape in shapes() {
        for epoch in [1, OLD_EPOCH - 1, OLD_EPOCH, OLD_EPOCH + 1, OLD_EPOCH + 2] {
            let fresh = register(shape.clone(), epoch, tx(2));
            let change = |change: fn(&mut Register)| {
                let mut register = fresh.clone();
                change(&mut register);
                register
            };
            candidates.extend([
                change(|r| r.tx = tx(1)),
                change(|r| r.address = "3.1.photo".parse().unwrap()),
                change(|r| r.level = Level(OLD_LEVEL - 1)),
                change(|r| r.level = Level(OLD_LEVEL + 1)),
                change(|r| r.schema += 1),
                change(|r| r.kind = "note".parse().unwrap()),
            ]);
            candidates.push(fresh);
        }
    }
    candidates
}

/// The table, told by construction: every text that `actor` may put in place of `old`.
fn allowed(old: Option<&Register>, actor: Actor<'_>, pool: &Pool) -> HashSet<Register> {
    let mut allowed = HashSet::new();
    if matches!(actor, Actor::Agent(name) if pool.lost.contains(name)) {
        return allowed;
    }
    let acts_as = |server: &ServerName| actor == Actor::Admin || actor == Actor::Agent(server);
    let lives_as = |server: &ServerName, roles: &[Role]| {
        !pool.lost.contains(server) && pool.roles.get(server).is_some_and(|role| roles.contains(role))
    };
    let takes_new = |server: &ServerName| lives_as(server, &[Role::Serving, Role::Refilling]);
    let nameable = |server: &ServerName| takes_new(server) || lives_as(server, &[Role::Free, Role::Reserve]);
    let Some(old) = old else {
        for owner in servers() {
            if acts_as(&owner) && takes_new(&owner) {
                let base = register((owner.clone(), State::Stable, vec![owner]), 1, tx(2));
                // A creation is bound to no older text: any spelling, type, schema and tx will do, and any level
                // from the floor on.
                allowed.extend(hints(&base));
                allowed.insert(Register {
                    address: "3.1.photo".parse().unwrap(),
                    ..base.clone()
                });
                if pool.floor < Level(OLD_LEVEL) {
                    allowed.insert(Register {
                        level: Level(OLD_LEVEL - 1),
                        ..base.clone()
                    });
                }
                allowed.insert(Register { tx: tx(1), ..base });
            }
        }
        return allowed;
    };
    if old.state == State::Deleted {
        return allowed;
    }
    let with = |state: State, holders: Vec<ServerName>| Register {
        state,
        holders,
        tx: tx(2),
        ..old.clone()
    };
    let next = |owner: &ServerName, state: State, holders: Vec<ServerName>| Register {
        epoch: Epoch(OLD_EPOCH + 1),
        owner: owner.clone(),
        ..with(state, holders)
    };
    let in_order = |mut holders: Vec<ServerName>| {
        holders.sort();
        holders
    };
    if acts_as(&old.owner) {
        // A fresh tx; holders one by one or more, either way.
        for mask in 0..8 {
            let holders: Vec<ServerName> = (0..3)
                .filter(|bit| mask & (1 << bit) != 0)
                .map(|bit| servers()[bit].clone())
                .collect();
            let added: Vec<_> = holders.iter().filter(|h| !old.holders.contains(h)).collect();
            let removed = old.holders.iter().any(|h| !holders.contains(h));
            let legal = with(old.state.clone(), holders.clone());
            if legal.check().is_ok() && (!removed || added.is_empty()) && added.into_iter().all(takes_new) {
                allowed.insert(legal);
            }
        }
        if let State::Stable = old.state {
            for to in servers().into_iter().filter(|to| !old.holders.contains(to)) {
                if nameable(&to) && (pool.may_move || actor == Actor::Admin) {
                    allowed.insert(with(State::Moving { to }, old.holders.clone()));
                }
            }
        } else {
            allowed.insert(with(State::Stable, old.holders.clone()));
        }
        allowed.extend(hints(&next(&old.owner, State::Deleted, Vec::new())));
    }
    if let State::Moving { to } = &old.state
        && acts_as(to)
    {
        let holders = old.holders.iter().filter(|h| **h != old.owner).chain([to]).cloned();
        allowed.extend(hints(&next(to, State::Stable, in_order(holders.collect()))));
    }
    for holder in old.holders.iter().filter(|h| **h != old.owner) {
        if acts_as(holder) && pool.lost.contains(&old.owner) {
            let holders = old.holders.iter().filter(|h| **h != old.owner).cloned();
            allowed.extend(hints(&next(holder, State::Stable, in_order(holders.collect()))));
        }
    }
    allowed
}

/// Where the epoch changes, so may type, schema and a rising level.
fn hints(base: &Register) -> [Register; 4] {
    let mut hints = [base.clone(), base.clone(), base.clone(), base.clone()];
    hints[1].level = Level(OLD_LEVEL + 1);
    hints[2].schema += 1;
    hints[3].kind = "note".parse().unwrap();
    hints
}

#[test]
fn table_lets_through_what_it_says_and_nothing_else() {
    let servers = servers();
    let mut actors: Vec<Actor<'_>> = servers.iter().map(Actor::Agent).collect();
    let stranger = server("s9");
    actors.extend([Actor::Agent(&stranger), Actor::Admin]);
    let olds: Vec<Option<Register>> = shapes()
        .into_iter()
        .map(|shape| Some(register(shape, OLD_EPOCH, tx(1))))
        .chain([None])
        .collect();
    let candidates = candidates();
    let (mut passed, mut judged) = (0, 0);
    for pool in pools() {
        for old in &olds {
            for actor in &actors {
                let allowed = allowed(old.as_ref(), *actor, &pool);
                for new in &candidates {
                    let verdict = judge(old.as_ref(), new, *actor, &pool);
                    judged += 1;
                    passed += usize::from(verdict.is_ok());
                    assert_eq!(
                        verdict.is_ok(),
                        allowed.contains(new),
                        "{actor:?} changes {old:?} to {new:?} in {pool:?}: {verdict:?}"
                    );
                }
            }
        }
    }
    println!("{judged} changes judged, {passed} let through");
    assert!(passed > 1000);
}

/// A register of the small world by its text.
fn text(text: &str) -> Register {
    Register::from_strings(&text.split(' ').collect::<Vec<_>>()).unwrap()
}

fn stable(owner: &str, epoch: u64, holders: &str, tx: u8) -> Register {
    text(&format!(
        "v=hn1 address=3.1 epoch={epoch} owner={owner} state=stable tx={} holders={holders} type=photo schema=3 level=2",
        self::tx(tx)
    ))
}

fn moving(owner: &str, to: &str, epoch: u64, tx: u8) -> Register {
    text(&format!(
        "v=hn1 address=3.1 epoch={epoch} owner={owner} state=moving to={to} tx={} holders={owner} type=photo schema=3 \
         level=2",
        self::tx(tx)
    ))
}

fn deleted(owner: &str, epoch: u64, tx: u8) -> Register {
    text(&format!(
        "v=hn1 address=3.1 epoch={epoch} owner={owner} state=deleted tx={} holders= type=photo schema=3 level=2",
        self::tx(tx)
    ))
}

fn refusal(old: Option<&Register>, new: &Register, actor: &str, pool: &Pool) -> Refusal {
    judge(old, new, Actor::Agent(&server(actor)), pool).expect_err("the table has no such row")
}

#[test]
fn deleted_address_is_never_used_again() {
    let pool = Pool::serving();
    let old = deleted("s1", 6, 1);
    for new in [stable("s1", 1, "s1", 2), stable("s1", 7, "s1", 2), deleted("s1", 7, 2)] {
        assert_eq!(refusal(Some(&old), &new, "s1", &pool), Refusal::AddressUsed);
        assert_eq!(judge(Some(&old), &new, Actor::Admin, &pool), Err(Refusal::AddressUsed));
    }
}

#[test]
fn stolen_agent_key_cannot_take_an_object_of_another_server() {
    let pool = Pool::serving();
    let old = stable("s1", 5, "s1,s3", 1);
    // s2 is nobody to this object; s3 holds a copy, and its owner lives.
    for (thief, taken) in [("s2", stable("s2", 6, "s2,s3", 2)), ("s3", stable("s3", 6, "s3", 2))] {
        let refused = refusal(Some(&old), &taken, thief, &pool);
        assert!(
            matches!(refused, Refusal::NoSuchChange(_) | Refusal::NotLost { .. }),
            "{refused}"
        );
    }
    for new in [
        deleted("s1", 6, 2),
        moving_with_holders(&old),
        stable("s1", 5, "s1", 2),
        stable("s1", 5, "s1,s2,s3", 2),
        stable("s1", 5, "s1,s3", 2),
    ] {
        for thief in ["s2", "s3"] {
            assert_eq!(
                refusal(Some(&old), &new, thief, &pool),
                Refusal::NotYours { by: server("s1") },
                "{new:?}"
            );
        }
    }
}

fn moving_with_holders(old: &Register) -> Register {
    Register {
        state: State::Moving { to: server("s2") },
        tx: tx(2),
        ..old.clone()
    }
}

#[test]
fn stolen_agent_key_cannot_move_where_no_want_and_no_wish_points() {
    let pool = Pool {
        may_move: false,
        ..Pool::serving()
    };
    let refused = refusal(Some(&stable("s1", 5, "s1", 1)), &moving("s1", "s2", 5, 2), "s1", &pool);
    assert_eq!(refused, Refusal::NoSuchMove { to: server("s2") });
}

#[test]
fn stolen_agent_key_cannot_create_for_another_server_or_on_one_that_is_not_serving() {
    let mut pool = Pool::serving();
    assert_eq!(
        refusal(None, &stable("s1", 1, "s1", 1), "s2", &pool),
        Refusal::NotYours { by: server("s1") }
    );
    for role in Role::ALL.map(|(role, _)| role) {
        pool.roles.insert(server("s1"), role);
        let verdict = judge(None, &stable("s1", 1, "s1", 1), Actor::Agent(&server("s1")), &pool);
        let takes = matches!(role, Role::Serving | Role::Refilling);
        assert_eq!(verdict.is_ok(), takes, "{role}");
        assert_eq!(
            judge(None, &stable("s1", 1, "s1", 1), Actor::Admin, &pool).is_ok(),
            takes
        );
    }
    assert_eq!(
        refusal(None, &stable("s1", 2, "s1", 1), "s1", &Pool::serving()),
        Refusal::Creation
    );
    assert_eq!(
        refusal(None, &stable("s1", 1, "s1,s2", 1), "s1", &Pool::serving()),
        Refusal::Creation
    );
}

#[test]
fn stolen_agent_key_cannot_commit_a_move_to_another_server() {
    let pool = Pool::serving();
    let old = moving("s1", "s2", 5, 1);
    let committed = stable("s2", 6, "s2", 2);
    assert_eq!(
        judge(Some(&old), &committed, Actor::Agent(&server("s2")), &pool),
        Ok(())
    );
    for thief in ["s1", "s3"] {
        assert_eq!(
            refusal(Some(&old), &committed, thief, &pool),
            Refusal::NotYours { by: server("s2") }
        );
    }
    assert!(matches!(
        refusal(Some(&old), &stable("s3", 6, "s3", 2), "s3", &pool),
        Refusal::NoSuchChange(_)
    ));
}

#[test]
fn admin_key_cannot_break_the_table() {
    let pool = Pool::serving();
    let old = stable("s1", 5, "s1,s2", 1);
    for (new, what) in [
        (stable("s2", 6, "s2", 2), "takes from an owner that is not lost"),
        (stable("s3", 6, "s3", 2), "gives to a server without a copy"),
        (stable("s1", 7, "s1,s2", 2), "skips an epoch"),
        (stable("s1", 4, "s1,s2", 2), "goes back"),
        (stable("s1", 5, "s1,s2", 1), "uses a tx twice"),
        (stable("s2", 5, "s1,s2", 2), "changes the owner within an epoch"),
    ] {
        assert!(judge(Some(&old), &new, Actor::Admin, &pool).is_err(), "{what}");
    }
}

#[test]
fn cordoned_server_is_newly_named_by_nobody_and_keeps_what_names_it() {
    for role in [Role::Cordoned, Role::Draining, Role::Empty, Role::Failed] {
        let mut pool = Pool::serving();
        pool.roles.insert(server("s2"), role);
        let old = stable("s1", 5, "s1", 1);
        let s2 = || server("s2");
        for (new, refused) in [
            (moving("s1", "s2", 5, 2), Refusal::MayNotName { server: s2(), role }),
            (
                stable("s1", 5, "s1,s2", 2),
                Refusal::TakesNoCopies { server: s2(), role },
            ),
        ] {
            for actor in [Actor::Agent(&server("s1")), Actor::Admin] {
                assert_eq!(judge(Some(&old), &new, actor, &pool), Err(refused.clone()));
            }
        }
        // Named already as the destination: the commit goes through.
        let committed = stable("s2", 6, "s2", 2);
        let old = moving("s1", "s2", 5, 1);
        assert_eq!(
            judge(Some(&old), &committed, Actor::Agent(&server("s2")), &pool),
            Ok(())
        );
    }
}

/// A free server and a reserve take a drain, so the destination of a move may be one; a holder may not.
#[test]
fn copies_are_added_only_where_new_objects_go() {
    let old = stable("s1", 5, "s1", 1);
    let grown = stable("s1", 5, "s1,s2", 2);
    for role in Role::ALL.map(|(role, _)| role) {
        let mut pool = Pool::serving();
        pool.roles.insert(server("s2"), role);
        for actor in [Actor::Agent(&server("s1")), Actor::Admin] {
            let verdict = judge(Some(&old), &grown, actor, &pool);
            let refused = Refusal::TakesNoCopies {
                server: server("s2"),
                role,
            };
            let takes = matches!(role, Role::Serving | Role::Refilling);
            assert_eq!(verdict, if takes { Ok(()) } else { Err(refused) });
            // Whoever holds a copy keeps it, and it may be dropped, whatever becomes of the server.
            let more = stable("s1", 5, "s1,s2,s3", 3);
            assert_eq!(judge(Some(&grown), &more, actor, &pool), Ok(()), "{role}");
            assert_eq!(
                judge(Some(&grown), &stable("s1", 5, "s1", 3), actor, &pool),
                Ok(()),
                "{role}"
            );
        }
    }
    let mut pool = Pool::serving();
    pool.roles.remove(&server("s2"));
    assert_eq!(
        refusal(Some(&old), &grown, "s1", &pool),
        Refusal::UnknownServer { server: server("s2") }
    );
}

/// What DESIGN.md section 14 needs of the table, step by step.
#[test]
fn copies_come_and_go_in_a_move_and_outlive_their_owner() {
    let lives = Pool::serving();
    let pool = Pool {
        lost: vec![server("s1")],
        ..lives.clone()
    };
    let alone = moving("s1", "s3", 5, 1);
    let grown = Register {
        holders: vec![server("s1"), server("s2")],
        tx: tx(2),
        ..alone.clone()
    };
    let shrunk = Register {
        tx: tx(3),
        ..alone.clone()
    };
    let committed = stable("s3", 6, "s3,s2", 3);
    let taken = stable("s2", 6, "s2", 3);
    for (old, new, who) in [
        (&alone, &grown, "s1"),
        (&grown, &shrunk, "s1"),
        (&grown, &committed, "s3"),
        (&grown, &taken, "s2"),
        // The same of a stable one.
        (&stable("s1", 5, "s1,s2", 2), &taken, "s2"),
    ] {
        // Who takes over does so for a lost owner; the owner acts as long as it is not.
        let pool = if who == "s2" { &pool } else { &lives };
        assert_eq!(
            judge(Some(old), new, Actor::Agent(&server(who)), pool),
            Ok(()),
            "{new:?}"
        );
    }
    assert_eq!(
        refusal(Some(&alone), &grown, "s1", &pool),
        Refusal::Lost { server: server("s1") }
    );
    assert_eq!(
        refusal(Some(&grown), &taken, "s2", &lives),
        Refusal::NotLost { owner: server("s1") }
    );
}

fn any_register() -> impl Strategy<Value = Register> {
    let names: Vec<ServerName> = (1..=5).map(|n| server(&format!("s{n}"))).collect();
    let holders = proptest::sample::subsequence(names.clone(), 0..=4);
    let state = prop_oneof![
        3 => Just(0u8), // stable
        3 => Just(1), // moving
        1 => Just(2), // deleted
    ];
    (
        proptest::sample::select(names.clone()),
        proptest::sample::select(names),
        holders,
        state,
        3u64..6,
        0u8..3,
        1u8..3,
        0u32..2,
    )
        .prop_map(|(owner, to, mut holders, state, epoch, tx_octet, level, schema)| {
            let state = match state {
                0 => State::Stable,
                1 => State::Moving { to },
                _ => State::Deleted,
            };
            match state {
                State::Deleted => holders.clear(),
                State::Stable | State::Moving { .. } if !holders.contains(&owner) => holders.push(owner.clone()),
                State::Stable | State::Moving { .. } => {}
            }
            Register {
                address: "3.1".parse().unwrap(),
                epoch: Epoch(epoch),
                owner,
                state,
                tx: tx(tx_octet),
                holders,
                kind: "photo".parse::<ObjectType>().unwrap(),
                schema,
                level: Level(level),
            }
        })
}

fn any_pool() -> impl Strategy<Value = Pool> {
    let role = proptest::sample::select(Role::ALL.map(|(role, _)| role).to_vec());
    let names: Vec<ServerName> = (1..=5).map(|n| server(&format!("s{n}"))).collect();
    let lost = proptest::sample::subsequence(names, 0..=2);
    (proptest::collection::vec(role, 5), any::<bool>(), lost).prop_map(|(roles, may_move, lost)| Pool {
        roles: (1..=5).map(|n| server(&format!("s{n}"))).zip(roles).collect(),
        may_move,
        lost,
        floor: Level(1),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What holds after every change, whoever made it.
    #[test]
    fn change_that_passes_keeps_the_invariants(
        old in any_register().prop_filter("the registry holds legal texts", |old| old.check().is_ok()),
        new in any_register(),
        agent in 1..=6,
        pool in any_pool(),
    ) {
        let agent = server(&format!("s{agent}"));
        for actor in [Actor::Agent(&agent), Actor::Admin] {
            if judge(Some(&old), &new, actor, &pool).is_err() {
                continue;
            }
            prop_assert!(new.check().is_ok());
            prop_assert!(old.state != State::Deleted);
            prop_assert_eq!(&old.address, &new.address);
            prop_assert!(old.tx != new.tx);
            prop_assert!(new.level >= old.level);
            let rises = new.epoch == old.epoch.next();
            prop_assert!(rises || new.epoch == old.epoch);
            prop_assert_eq!(rises, new.owner != old.owner || new.state == State::Deleted);
            if new.owner != old.owner {
                prop_assert!(old.names(&new.owner) && !new.holders.contains(&old.owner));
            }
            for (name, role) in &pool.roles {
                prop_assert!(old.names(name) || !new.names(name) || role.may_be_newly_named());
                if !old.names(name) && new.holders.contains(name) {
                    prop_assert!(matches!(role, Role::Serving | Role::Refilling), "{name} is {role} and holds a copy");
                }
            }
            if let Actor::Agent(name) = actor {
                prop_assert!(old.names(name), "a stranger to the object changed it");
                prop_assert!(!pool.lost.contains(name), "a lost server changed it");
            }
        }
    }
}
