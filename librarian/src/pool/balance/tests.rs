//! A registry whose objects are moved as they are wished: by agents that do at once what they are told.

use zones::audit::Head;
use zones::{Heat, Hot, Register, Upkeep};

use super::*;
use crate::pool::Spread;
use crate::pool::{self, Memory, decide, look};
use crate::registry::{By, Plan, Proposal, WantsChange};
use crate::testing::{self, address, server};

const SERVING: [&str; 4] = ["s1", "s2", "s3", "s4"];
/// Octets of every object.
const OCTETS: u64 = 4096;

struct Pool {
    inner: testing::Pool,
    balancer: Balancer,
    now: Instant,
    unix_ms: u64,
    /// How often each object is asked for.
    heat: BTreeMap<Address, u64>,
    /// Which of them have copies for it.
    spread: Option<Spread>,
    moves: u64,
}

impl Pool {
    /// So many objects on s1, none on the others.
    async fn new(objects: usize, settings: Settings) -> Pool {
        let inner = testing::Pool::new().await;
        let addresses: Vec<String> = (0..objects).map(|object| format!("3.{object}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        inner.create("s1", &addresses).await;
        Pool {
            inner,
            balancer: Balancer::new(settings),
            now: Instant::now(),
            unix_ms: 1_000_000_000_000,
            heat: BTreeMap::new(),
            spread: None,
            moves: 0,
        }
    }

    fn sight(&self) -> Sight {
        let mut sight = look(&self.inner.registry.view()).unwrap();
        Memory::new(Duration::ZERO).see(self.now, &mut sight);
        sight.spread = self.spread.clone().or(sight.spread);
        sight
    }

    async fn becomes_current(&self, plan: Result<pool::Plan, pool::PlanRefusal>) {
        let plan = plan.unwrap();
        let kept = Plan {
            number: plan.number,
            parent: plan.parent,
            document: plan.document(),
        };
        self.inner.registry.submit(Proposal::Plan(kept)).await.unwrap();
        let sight = self.sight();
        let Decision::Write(wants) = decide(&sight) else {
            panic!("a new plan freezes")
        };
        let change = WantsChange {
            plan: sight.number(),
            wants: wants.into_iter().collect(),
            ..WantsChange::default()
        };
        self.inner.registry.submit(Proposal::Wants(change)).await.unwrap();
        self.report().await;
    }

    /// Every server says what it has.
    async fn report(&self) {
        let sight = self.sight();
        for (at, name) in SERVING.iter().enumerate() {
            let name = server(name);
            let (owned, _) = self
                .inner
                .registry
                .view()
                .owned_by(&name, None, (usize::MAX, usize::MAX), |_| true);
            let mut hottest: Vec<Hot> = owned
                .iter()
                .filter_map(|address| {
                    Some(Hot {
                        rate_milli: *self.heat.get(address)?,
                        address: address.clone(),
                    })
                })
                .collect();
            hottest.sort_by_key(|hot| std::cmp::Reverse(hot.rate_milli));
            let has = zones::Has {
                objects: owned.len() as u64,
                bytes: owned.len() as u64 * OCTETS,
                plan: sight.number(),
                audit: Some(Head::first(&name)),
                upkeep: Some(Upkeep::default()),
                hot: Some(Heat {
                    asked_milli: hottest.iter().map(|hot| hot.rate_milli).sum(),
                    served: 0,
                    doubt_milli: 0,
                    hottest,
                }),
                ..testing::has()
            };
            let number = u8::try_from(at + 1).unwrap();
            self.inner.tell(&name, number, &has).await.unwrap();
        }
    }

    /// A second passes: the controller looks, and agents do what they are told. Gives the most wishes that one server has.
    async fn second(&mut self) -> usize {
        self.now += Duration::from_secs(1);
        self.unix_ms += 1000;
        let sight = self.sight();
        let todos = self
            .balancer
            .turn(self.now, self.unix_ms, &self.inner.registry.view(), &sight);
        if let Some(todos) = todos {
            let change = WantsChange {
                plan: sight.number(),
                todos,
                ..WantsChange::default()
            };
            self.inner.registry.submit(Proposal::Wants(change)).await.unwrap();
        }
        let todos: Vec<Vec<Wish>> = {
            let view = self.inner.registry.view();
            view.servers().map(|server| server.todos.clone()).collect()
        };
        for wish in todos.iter().flatten() {
            let Wish::Move { address, server } = wish else {
                panic!("{wish:?}")
            };
            self.carry_out(address, server).await;
        }
        self.report().await;
        todos.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// What source and destination tell the librarian of a move.
    async fn carry_out(&mut self, address: &Address, to: &ServerName) {
        let old = self.inner.registry.view().register(address).unwrap();
        if old.owner == *to {
            return;
        }
        let moving = Register {
            state: State::Moving { to: to.clone() },
            tx: self.inner.tx(),
            ..old.clone()
        };
        self.inner.change(Some(&old), &moving).await.unwrap();
        let taken = Register {
            epoch: zones::Epoch(old.epoch.0 + 1),
            owner: to.clone(),
            state: State::Stable,
            tx: self.inner.tx(),
            holders: old
                .holders
                .iter()
                .map(|held| if *held == old.owner { to.clone() } else { held.clone() })
                .collect(),
            ..old
        };
        let by = By::Agent(to.clone());
        self.inner.change_by(by, Some(&moving), &taken).await.unwrap();
        self.moves += 1;
    }

    fn owned(&self) -> [u64; 4] {
        SERVING.map(|name| self.inner.registry.view().objects_owned(&server(name)))
    }
}

#[test]
fn object_goes_nowhere_nearer_to_a_copy_of_it_than_it_is() {
    let mut terms = Terms::default();
    for (name, rack) in [("s1", "r1"), ("s2", "r2"), ("s3", "r2"), ("s4", "r3")] {
        let said = crate::place::ServerTerms {
            rack: Some(rack.parse().unwrap()),
            ..crate::place::ServerTerms::default()
        };
        terms.servers.insert(server(name), said);
    }
    let register = |owner: &str, holders: &[&str], state: State| Register {
        address: address("3.1"),
        epoch: zones::Epoch(1),
        owner: server(owner),
        state,
        tx: zones::Tx([1; 16]),
        holders: holders.iter().map(|name| server(name)).collect(),
        kind: "note".parse().unwrap(),
        schema: 1,
        level: zones::Level(1),
    };
    let goes = |register: &Register| SERVING.map(|name| suits(&terms, register, &server(name)));
    let apart = register("s1", &["s1", "s2"], State::Stable);
    assert_eq!(goes(&apart), [false, false, false, true]);
    assert_eq!(goes(&register("s1", &["s1"], State::Stable)), [false, true, true, true]);
    // It is in one rack with its copy already: anywhere is better, or as good.
    let near = register("s3", &["s3", "s2"], State::Stable);
    assert_eq!(goes(&near), [true, false, false, true]);
    let moving = register("s1", &["s1"], State::Moving { to: server("s4") });
    assert_eq!(goes(&moving), [false; 4]);
}

#[test]
fn copies_of_what_others_own_take_their_room() {
    let mut sight = crate::pool::testing::sight(&[("s1", Role::Serving, 10), ("s2", Role::Serving, 0)]);
    crate::pool::testing::knows_copies(&mut sight);
    let has = sight.servers.get_mut(&server("s1")).unwrap().has.as_mut().unwrap();
    has.kept.as_mut().unwrap().octets = 500;
    let shares = shares_of(&sight);
    let told: Vec<_> = shares.iter().map(|share| (share.used, share.each)).collect();
    assert_eq!(told, [(1_500, 100), (0, 100)]);
}

fn only_octets() -> Settings {
    Settings {
        requests: false,
        at_once: 16,
        ..Settings::default()
    }
}

#[tokio::test]
async fn octets_become_even_within_bounds_and_then_nothing_moves_any_more() {
    let mut pool = Pool::new(400, only_octets()).await;
    for _ in 0..10 {
        assert_eq!(pool.second().await, 0, "without a plan that balances nothing is wished");
    }
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    for _ in 0..60 {
        assert!(pool.second().await <= 16);
    }
    let owned = pool.owned();
    assert!(owned.iter().all(|objects| (95..=105).contains(objects)), "{owned:?}");
    let moves = pool.moves;
    assert!(moves <= 305, "{moves} moves for 300 objects");
    for _ in 0..60 {
        assert_eq!(pool.second().await, 0);
    }
    assert_eq!(pool.moves, moves);
    let standing = pool.balancer.standing(&pool.sight());
    assert!(
        standing.on && standing.wished == 0 && standing.moved == moves,
        "{standing:?}"
    );
}

/// The registry refuses a move to a holder, and so does [`Pool::carry_out`].
#[tokio::test]
async fn no_object_goes_where_a_copy_of_it_is() {
    let settings = Settings {
        at_once: 16,
        move_after: Some(Duration::from_secs(100)),
        ..Settings::default()
    };
    let mut pool = Pool::new(100, settings).await;
    for object in 0..100 {
        let old = pool
            .inner
            .registry
            .view()
            .register(&address(&format!("3.{object}")))
            .unwrap();
        let with_copies = Register {
            holders: vec![server("s1"), server("s2"), server("s3")],
            tx: pool.inner.tx(),
            ..old.clone()
        };
        pool.inner.change(Some(&old), &with_copies).await.unwrap();
    }
    pool.heat = [(address("3.7"), 900_000), (address("3.8"), 900_000)].into();
    pool.report().await;
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    for _ in 0..110 {
        pool.second().await;
    }
    let owned = pool.owned();
    assert!(owned[1] + owned[2] == 0 && owned[3] > 20, "{owned:?}");
}

#[tokio::test]
async fn a_new_plan_takes_all_wishes_away() {
    let mut pool = Pool::new(400, only_octets()).await;
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    assert!(pool.second().await > 0);
    let stop = pool::stop_balancing(&pool.sight());
    pool.becomes_current(stop).await;
    let left = |pool: &Pool| {
        pool.inner
            .registry
            .view()
            .servers()
            .any(|server| !server.todos.is_empty())
    };
    assert!(
        !left(&pool),
        "the first want of a plan ends the wishes of the one before"
    );
    for _ in 0..10 {
        assert_eq!(pool.second().await, 0);
    }
}

#[tokio::test]
async fn a_wish_that_does_not_come_true_is_taken_back_and_the_object_rests() {
    let mut pool = Pool::new(400, only_octets()).await;
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    let sight = pool.sight();
    let turn = |pool: &mut Pool, seconds: u64| {
        pool.now += Duration::from_secs(seconds);
        let view = pool.inner.registry.view();
        pool.balancer.turn(pool.now, pool.unix_ms, &view, &sight).unwrap()[&server("s1")].clone()
    };
    let first = turn(&mut pool, 0);
    let again = turn(&mut pool, 61);
    assert_eq!((first.len(), again.len()), (16, 16));
    assert!(again.iter().all(|wish| !first.contains(wish)), "others have their turn");
    let address = first[0].address().clone();
    assert!(
        pool.balancer
            .why(&address, pool.now)
            .unwrap()
            .contains("leaves it alone")
    );
    let address = again[0].address().clone();
    assert!(pool.balancer.why(&address, pool.now).unwrap().contains("is to go to"));
}

#[tokio::test]
async fn requests_become_even_by_few_moves_and_stay_so_under_a_steady_load() {
    let settings = Settings {
        octets: false,
        ..Settings::default()
    };
    let mut pool = Pool::new(100, settings).await;
    // Zipf: all of it on s1.
    pool.heat = (0..16_u64)
        .map(|object| (address(&format!("3.{object}")), 400_000 / (object + 1)))
        .collect();
    pool.report().await;
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    for second in 0..14 {
        assert_eq!(pool.second().await, 0, "a moment's crowd moves nothing: {second}");
    }
    for _ in 0..300 {
        pool.second().await;
    }
    let standing = pool.balancer.standing(&pool.sight());
    // The hottest object alone is 1.18 times the mean.
    assert!(standing.busiest < 1.3, "{standing:?}");
    let moves = pool.moves;
    assert!(moves <= 20, "{moves}");
    for _ in 0..300 {
        pool.second().await;
    }
    assert_eq!(pool.moves, moves, "a steady load moves nothing any more");
}

#[tokio::test]
async fn object_that_is_spread_for_its_heat_stays_where_it_is() {
    for (settings, on_s1) in [
        (
            Settings {
                octets: false,
                ..Settings::default()
            },
            1,
        ),
        (only_octets(), 30),
    ] {
        let mut pool = Pool::new(40, settings).await;
        pool.heat = (0..4_u64)
            .map(|object| (address(&format!("3.{object}")), 300_000))
            .collect();
        let watched = (0..30).map(|object| address(&format!("3.{object}"))).take(on_s1);
        pool.spread = Some(Spread {
            watched: watched.collect(),
            ..Spread::default()
        });
        pool.report().await;
        let plan = pool::balance(&pool.sight());
        pool.becomes_current(plan).await;
        for _ in 0..120 {
            pool.second().await;
        }
        assert!(pool.moves > 0);
        for object in &pool.spread.as_ref().unwrap().watched {
            let register = pool.inner.registry.view().register(object).unwrap();
            assert_eq!(register.owner, server("s1"), "{object}");
        }
    }
}

#[tokio::test]
async fn requests_that_copies_will_take_over_move_nothing() {
    let settings = Settings {
        octets: false,
        ..Settings::default()
    };
    let mut pool = Pool::new(40, settings).await;
    pool.heat = (0..8_u64)
        .map(|object| {
            (
                address(&format!("3.{object}")),
                if object == 0 { 900_000 } else { 10_000 },
            )
        })
        .collect();
    let even = SERVING.map(|name| (server(name), 240_000));
    pool.spread = Some(Spread {
        expected_milli: even.into(),
        ..Spread::default()
    });
    pool.report().await;
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    for _ in 0..60 {
        assert_eq!(pool.second().await, 0);
    }
    let preview = pool.balancer.preview(&pool.inner.registry.view(), &pool.sight());
    assert!(
        preview.hot.is_empty() && preview.now.busiest > 3.0,
        "as it is now: {preview:?}"
    );
    pool.spread = None;
    for _ in 0..60 {
        pool.second().await;
    }
    assert!(pool.moves > 0, "others make room for one that is not spread");
}

#[tokio::test]
async fn nothing_moves_for_its_heat_while_copies_are_made_nor_until_the_counters_have_settled() {
    let settings = Settings {
        octets: false,
        ..Settings::default()
    };
    let mut pool = Pool::new(40, settings).await;
    pool.heat = (0..4_u64)
        .map(|object| (address(&format!("3.{object}")), 300_000))
        .collect();
    let making = |is_making| {
        Some(Spread {
            is_making,
            ..Spread::default()
        })
    };
    pool.spread = making(true);
    pool.report().await;
    let plan = pool::balance(&pool.sight());
    pool.becomes_current(plan).await;
    for _ in 0..60 {
        assert_eq!(pool.second().await, 0);
    }
    pool.spread = making(false);
    for _ in 0..40 {
        assert_eq!(pool.second().await, 0);
    }
    for _ in 0..20 {
        pool.second().await;
    }
    assert!(pool.moves > 0);
}

#[tokio::test]
async fn what_a_server_only_holds_moves_nowhere_for_its_heat() {
    let pool = Pool::new(40, Settings::default()).await;
    pool.inner.create("s2", &["4.1"]).await;
    let hot = |text: &str, rate_milli| Hot {
        address: address(text),
        rate_milli,
    };
    let has = zones::Has {
        audit: Some(Head::first(&server("s2"))),
        upkeep: Some(Upkeep::default()),
        hot: Some(Heat {
            hottest: vec![hot("3.1", 7_000), hot("4.1", 5_000)],
            ..Heat::default()
        }),
        ..testing::has()
    };
    pool.inner.tell(&server("s2"), 2, &has).await.unwrap();
    let shares = shares_of(&pool.sight());
    let share = shares.iter().find(|share| share.name == server("s2")).unwrap();
    assert_eq!(share.hottest, [hot("4.1", 5_000)]);
}

#[tokio::test]
async fn every_object_moves_once_in_the_time_of_the_schedule_and_keeps_disks_even() {
    let settings = Settings {
        move_after: Some(Duration::from_secs(100)),
        ..Settings::default()
    };
    let mut pool = Pool::new(200, settings).await;
    pool.report().await;
    for _ in 0..101 {
        assert!(
            pool.second().await <= 5,
            "two objects a second, whether they came from s1 or not"
        );
    }
    let epochs: Vec<u64> = (0..200)
        .map(|object| {
            let register = pool.inner.registry.view().register(&address(&format!("3.{object}")));
            register.unwrap().epoch.0
        })
        .collect();
    assert!(epochs.iter().all(|epoch| (2..=3).contains(epoch)), "{epochs:?}");
    let owned = pool.owned();
    assert!(
        owned[1..].iter().all(|objects| (60..=75).contains(objects)),
        "{owned:?}"
    );
}

#[tokio::test]
async fn server_that_is_marked_lost_takes_no_part() {
    let pool = Pool::new(10, only_octets()).await;
    pool.report().await;
    let takes_part = |pool: &Pool| {
        let standing = pool.balancer.standing(&pool.sight());
        standing.servers.iter().any(|part| part.server == "s2")
    };
    assert!(takes_part(&pool));
    let lost = crate::registry::ServerChange::Lost {
        name: server("s2"),
        lost: true,
        decided: None,
    };
    pool.inner.registry.submit(Proposal::Server(lost)).await.unwrap();
    // It is heard again, and a person has not said that it is back.
    pool.report().await;
    assert!(!takes_part(&pool));
}

#[tokio::test]
async fn nothing_is_wished_while_a_drain_is_under_way() {
    let settings = Settings {
        move_after: Some(Duration::from_secs(60)),
        ..Settings::default()
    };
    let mut pool = Pool::new(100, settings).await;
    pool.report().await;
    assert!(pool.second().await == 0 && pool.second().await > 0);
    // s5 has told nothing yet, so nobody can drain into it.
    pool.inner.tell(&server("s5"), 5, &testing::has()).await.unwrap();
    let drain = pool::drain(&pool.sight(), &server("s1"), None);
    pool.becomes_current(drain).await;
    for _ in 0..10 {
        assert_eq!(pool.second().await, 0);
    }
}
