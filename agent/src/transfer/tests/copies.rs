//! Objects with copies on several servers.

use zones::Keep;

use super::*;

fn server(name: &str) -> ServerName {
    name.parse().unwrap()
}

/// Two copies, which may be on these.
fn two(spread: &[&str]) -> Keep {
    Keep {
        copies: 2,
        spread: spread.iter().map(|name| (server(name), 100)).collect(),
        ..Keep::default()
    }
}

async fn three(pool: &Pool, stub: &Stub) -> [Agent; 3] {
    let agents = [
        Agent::start(pool, stub, "s1", OCTETS).await,
        Agent::start(pool, stub, "s2", OCTETS).await,
        Agent::start(pool, stub, "s3", OCTETS).await,
    ];
    for agent in &agents {
        agent.want_kept(Role::Serving, &[], two(&["s1", "s2", "s3"]));
    }
    agents
}

fn holders(stub: &Stub, at: &Address) -> Vec<String> {
    let register = stub.register(at).unwrap();
    register.holders.iter().map(ToString::to_string).collect()
}

fn held<'a>(agents: &'a [Agent; 3], stub: &Stub, at: &Address) -> &'a Agent {
    let holders = holders(stub, at);
    let holder = agents.iter().find(|agent| agent.name == holders[1]);
    holder.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_object_is_whole_on_two_servers_and_a_deleted_one_on_none() {
    let (pool, stub) = (pool(), Stub::start().await);
    let agents = three(&pool, &stub).await;
    for n in 0..40 {
        agents[0].put(&address(n), n, body(n).as_deref()).await.unwrap();
        let holder = held(&agents, &stub, &address(n));
        let row = holder.objects.entry(&address(n)).unwrap();
        let own = agents[0].objects.entry(&address(n)).unwrap();
        assert!(row.journal.is_held(), "{row:?}");
        assert_eq!(
            (row.epoch, row.revision, row.digests()),
            (own.epoch, own.revision, own.digests())
        );
    }
    // Written again, at once on both; and read on both.
    for n in 0..40 {
        agents[0].put(&address(n), n + 100, None).await.unwrap();
        let holder = held(&agents, &stub, &address(n));
        let row = holder.objects.entry(&address(n)).unwrap();
        assert_eq!(row.revision, 2);
        for agent in [&agents[0], holder] {
            let (properties, found) = agent.read(&address(n)).await.unwrap();
            assert_eq!(properties, json!({"n": n + 100}), "{} at {}", address(n), agent.name);
            assert!(found == body(n).unwrap_or_default());
        }
    }
    assert_eq!(agents[0].objects.figures().kept.held, 0);
    for n in 0..40 {
        agents[0].objects.delete(&address(n), delete()).await.unwrap();
    }
    for agent in &agents {
        until("copies of what was deleted are gone", || {
            agent.objects.totals().held == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_that_is_silent_holds_up_no_write_for_long_and_another_takes_its_place() {
    let (pool, stub) = (pool(), Stub::start().await);
    let [s1, s2, s3] = three(&pool, &stub).await;
    s3.want(Role::Draining, &[]);
    s1.want_kept(Role::Serving, &[], two(&["s2"]));
    for n in 0..20 {
        s1.put(&address(n), n, None).await.unwrap();
        assert_eq!(holders(&stub, &address(n)), ["s1", "s2"]);
    }
    s2.transfer.stop().await;
    s1.want_kept(Role::Serving, &[], two(&["s2", "s3"]));
    for n in 0..20 {
        s1.put(&address(n), n + 1, None).await.unwrap();
    }
    let on_s3 = || (0..20).all(|n| holders(&stub, &address(n)) == ["s1", "s3"]);
    until("s3 holds all of it", on_s3).await;
    for n in 0..20 {
        assert_eq!(s1.read(&address(n)).await.unwrap().0, json!({"n": n + 1}));
        let row = s3.objects.entry(&address(n)).unwrap();
        assert_eq!(row.revision, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_server_owned_is_taken_over_with_every_acknowledged_write() {
    let (pool, stub) = (pool(), Stub::start().await);
    let [s1, s2, s3] = three(&pool, &stub).await;
    for n in 0..30 {
        s1.put(&address(n), n, body(n).as_deref()).await.unwrap();
        s1.put(&address(n), n + 1, None).await.unwrap();
    }
    let Agent { transfer, objects, .. } = s1;
    transfer.stop().await;
    drop(objects);
    stub.pool.lock().lost.push(server("s1"));
    let keep = Keep {
        lost: vec![server("s1")],
        ..two(&["s2", "s3"])
    };
    s2.want_kept(Role::Serving, &[], keep.clone());
    s3.want_kept(Role::Serving, &[], keep);
    until("all is owned", || s2.owned() + s3.owned() == 30).await;
    let twice = || {
        (0..30).all(|n| {
            let holders = holders(&stub, &address(n));
            holders.len() == 2 && !holders.contains(&"s1".to_owned())
        })
    };
    until("all has two copies again", twice).await;
    for n in 0..30 {
        let owner = if holders(&stub, &address(n))[0] == "s2" {
            &s2
        } else {
            &s3
        };
        assert_eq!(stub.register(&address(n)).unwrap().epoch, Epoch(2));
        let (properties, found) = owner.read(&address(n)).await.unwrap();
        assert_eq!(properties, json!({"n": n + 1}));
        assert!(found == body(n).unwrap_or_default(), "{}", address(n));
        owner.put(&address(n), n + 2, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn object_moves_while_another_server_holds_it_and_stays_on_two() {
    let (pool, stub) = (pool(), Stub::start().await);
    let [s1, s2, s3] = three(&pool, &stub).await;
    s1.want_kept(Role::Serving, &[], two(&["s2"]));
    for n in 0..30 {
        s1.put(&address(n), n, body(n).as_deref()).await.unwrap();
    }
    let leaves = Keep {
        leave: vec![server("s1"), server("s3")],
        ..two(&["s2"])
    };
    s3.want_kept(
        Role::Serving,
        &[],
        Keep {
            leave: vec![server("s1")],
            ..two(&["s2", "s3"])
        },
    );
    s1.want_kept(Role::Draining, &["s3"], leaves);
    s1.until_owned(0).await;
    s3.until_owned(30).await;
    for n in 0..30 {
        assert_eq!(holders(&stub, &address(n)), ["s3", "s2"]);
        let (properties, found) = s3.read(&address(n)).await.unwrap();
        assert_eq!(properties, json!({"n": n}));
        assert!(found == body(n).unwrap_or_default(), "{}", address(n));
        s3.put(&address(n), n + 1, None).await.unwrap();
        let row = s2.objects.entry(&address(n)).unwrap();
        assert_eq!((row.epoch, row.revision), (Epoch(2), 2));
        assert_eq!(s2.read(&address(n)).await.unwrap().0, json!({"n": n + 1}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_owners_and_holders_go_on() {
    let (pool, stub) = (pool(), Stub::start().await);
    let [s1, s2, s3] = three(&pool, &stub).await;
    let keep = || two(&["s2"]);
    s1.want_kept(Role::Serving, &[], keep());
    for n in 0..20 {
        s1.put(&address(n), n, body(n).as_deref()).await.unwrap();
    }
    let s1 = s1.restart(&pool, &stub).await;
    s1.want_kept(Role::Serving, &[], keep());
    for n in 0..20 {
        assert_eq!(s1.read(&address(n)).await.unwrap().0, json!({"n": n}));
        s1.put(&address(n), n + 1, None).await.unwrap();
    }
    let s2 = s2.restart(&pool, &stub).await;
    s2.want_kept(Role::Serving, &[], keep());
    for n in 0..20 {
        s1.put(&address(n), n + 2, None).await.unwrap();
        let row = s2.objects.entry(&address(n));
        let on_s2 = row.is_some_and(|row| row.revision == 3);
        assert!(on_s2 || holders(&stub, &address(n)) == ["s1"], "{}", address(n));
    }
    drop(s3);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_leave_a_server_and_surplus_ones_go() {
    let (pool, stub) = (pool(), Stub::start().await);
    let [s1, s2, s3] = three(&pool, &stub).await;
    s1.want_kept(Role::Serving, &[], two(&["s2"]));
    for n in 0..20 {
        s1.put(&address(n), n, body(n).as_deref()).await.unwrap();
    }
    s1.want_kept(
        Role::Serving,
        &[],
        Keep {
            leave: vec![server("s2")],
            ..two(&["s2", "s3"])
        },
    );
    until("s2 holds nothing", || s2.objects.totals().held == 0).await;
    assert_eq!(s3.objects.totals().held, 20);
    for n in 0..20 {
        assert_eq!(holders(&stub, &address(n)), ["s1", "s3"]);
        assert_eq!(s3.read(&address(n)).await.unwrap().0, json!({"n": n}));
    }
    let one = Keep {
        copies: 1,
        ..two(&["s2", "s3"])
    };
    s1.want_kept(Role::Serving, &[], one);
    until("s3 holds nothing", || s3.objects.totals().held == 0).await;
    for n in 0..20 {
        assert_eq!(holders(&stub, &address(n)), ["s1"]);
        assert_eq!(s1.read(&address(n)).await.unwrap().0, json!({"n": n}));
    }
}

/// Both would make it the owner of the next epoch.
#[tokio::test(flavor = "multi_thread")]
async fn object_that_moves_to_the_holder_that_takes_it_over_ends_whole_with_one_owner() {
    let (pool, stub) = (pool(), Stub::start().await);
    let [s1, s2, _s3] = three(&pool, &stub).await;
    s1.want_kept(Role::Serving, &[], two(&["s2"]));
    for n in 0..20 {
        s1.put(&address(n), n, body(n).as_deref()).await.unwrap();
    }
    stub.pool.lock().lost.push(server("s1"));
    let lost = Keep {
        lost: vec![server("s1")],
        copies: 1,
        ..Keep::default()
    };
    s1.want(Role::Draining, &["s2"]);
    s2.want_kept(Role::Serving, &[], lost);
    s2.until_owned(20).await;
    s1.until_owned(0).await;
    for n in 0..20 {
        let register = stub.register(&address(n)).unwrap();
        assert_eq!((register.owner.as_str(), register.epoch), ("s2", Epoch(2)));
        let (properties, found) = s2.read(&address(n)).await.unwrap();
        assert_eq!(properties, json!({"n": n}));
        assert!(found == body(n).unwrap_or_default(), "{}", address(n));
    }
}
