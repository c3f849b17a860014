//! What gates of an upgrade are judged by: what one server gave and another took, what stays until then, what a stop waits for.

use std::time::Instant;

use zones::upkeep::{Arrivals, Sum, Taken};
use zones::{Errand, audit};

use super::schema::release;
use super::*;
use crate::arrivals::{Checker, Count, Pauses};
use crate::objects::NotClear;
use crate::upkeep::Board;

/// What a server is to count of what this one gives away.
fn from(agent: &Agent) -> Arrivals {
    Arrivals {
        from: agent.name.parse().unwrap(),
        since: 1,
    }
}

/// What a server took of another, by its log.
fn taken(agent: &Agent, from: Arrivals) -> Sum {
    Count::begin(agent.objects.store(), from).unwrap().sum()
}

/// What lies on a server of objects that it gave away, by its rows.
fn retired(agent: &Agent) -> Vec<Arc<Entry>> {
    let mut entries = agent.objects.entries();
    entries.retain(|entry| entry.journal.is_retired());
    entries
}

/// What is told of its rows, counted anew.
fn assert_counts(agent: &Agent) {
    let (told, rows) = (agent.objects.figures().upkeep, agent.objects.entries());
    let open = rows.iter().filter(|row| row.journal.is_open()).count() as u64;
    let given = rows.iter().filter_map(|row| row.given());
    let vault = agent.objects.store().vault();
    let moved = given.fold(Sum::default(), |sum, given| sum.with(vault.element(&given)));
    assert_eq!((told.open, told.retired, told.moved), (open, moved.count, moved));
}

/// Waits until no move and no wait is open.
async fn settled(agents: [&Agent; 2]) {
    let is_open = |agent: &&Agent| agent.objects.figures().upkeep.open > 0;
    until("open rows end", || !agents.iter().any(is_open)).await;
}

async fn until_nothing_is_retired(agent: &Agent) {
    until("retired copies go", || agent.objects.figures().upkeep.retired == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_gave_is_what_the_other_took_whatever_was_written_meanwhile() {
    const OBJECTS: usize = 40;
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Arc::new(Agent::start(&pool, &stub, "s1", OCTETS).await);
    let s2 = Arc::new(Agent::start(&pool, &stub, "s2", OCTETS).await);
    fill(&s1, OBJECTS).await;
    let writers: Vec<_> = (0..OBJECTS)
        .step_by(3)
        .map(|n| {
            let agents = [Arc::clone(&s1), Arc::clone(&s2)];
            tokio::spawn(async move {
                let mut at = 0;
                for write in 0..20 {
                    loop {
                        match agents[at].put(&address(n), write, None).await {
                            Ok(_) => break,
                            Err(WriteError::Party { .. }) => at = 1,
                            Err(WriteError::Unavailable { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    s1.want(Role::Draining, &["s2"]);
    for writer in writers {
        timeout(PATIENCE, writer).await.unwrap().unwrap();
    }
    s2.until_owned(OBJECTS as u64).await;
    settled([&s1, &s2]).await;
    let given = s1.objects.moved();
    assert_eq!(given.count, OBJECTS as u64);
    assert_eq!(taken(&s2, from(&s1)), given);
    assert_counts(&s1);
    assert_counts(&s2);

    // One entry less in the log, and it is another sum.
    let lines = s2.objects.store().audit(0, 1000).unwrap().entries;
    let vault = s2.objects.store().vault();
    let elements: Vec<u128> = (lines.iter())
        .map(|(_, line)| vault.element(&audit::Entry::read(line).unwrap().given().unwrap()))
        .collect();
    let without = |missing: usize| {
        let rest = elements.iter().enumerate().filter(|(at, _)| *at != missing);
        rest.fold(Sum::default(), |sum, (_, element)| sum.with(*element))
    };
    for missing in 0..OBJECTS {
        assert_ne!(without(missing), given);
        assert_ne!(without(missing).digest, given.digest);
    }
    assert_eq!(without(OBJECTS), given);
}

/// Then the source's row has the properties in its own form, and the destination never saw that form.
#[tokio::test(flavor = "multi_thread")]
async fn sums_agree_where_properties_were_stepped_forth_and_back_on_their_way() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::of_release(&pool, &stub, "s1", release(1)).await;
    let s2 = Agent::of_release(&pool, &stub, "s2", release(2)).await;
    fill(&s1, 30).await;
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(30).await;
    settled([&s1, &s2]).await;
    assert_eq!(s1.objects.moved().count, 30);
    assert_eq!(taken(&s2, from(&s1)), s1.objects.moved());
    s1.want(Role::Empty, &[]);
    until_nothing_is_retired(&s1).await;
    assert_eq!(s1.objects.moved(), Sum::default());

    s1.want(Role::Serving, &[]);
    s2.want(Role::Draining, &["s1"]);
    s1.until_owned(30).await;
    settled([&s1, &s2]).await;
    let stepped = retired(&s2)
        .iter()
        .filter(|row| row.given().unwrap().properties != row.digests().properties.map(|digest| digest.0))
        .count();
    assert_eq!(stepped, 29, "all but the one that no step changes");
    assert_eq!(s2.objects.moved().count, 30);
    assert_eq!(taken(&s1, from(&s2)), s2.objects.moved());
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_the_same_after_restarts_in_the_midst_of_a_drain() {
    let (pool, stub) = (pool(), Stub::start().await);
    let mut s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let mut s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 60).await;
    s1.want(Role::Draining, &["s2"]);
    for round in 0..4 {
        until("objects arrive", || s2.owned() >= 8 * (round + 1)).await;
        if round % 2 == 0 {
            s2 = s2.restart(&pool, &stub).await;
        } else {
            s1 = s1.restart_as(&pool, &stub, Role::Draining, &["s2"]).await;
        }
    }
    s2.until_owned(60).await;
    settled([&s1, &s2]).await;
    let given = s1.objects.moved();
    assert_eq!(given.count, 60, "no copy went before the gate");
    assert_eq!(taken(&s2, from(&s1)), given);
    let s2 = s2.restart(&pool, &stub).await;
    assert_eq!(taken(&s2, from(&s1)), given);
    let s1 = s1.restart_as(&pool, &stub, Role::Draining, &["s2"]).await;
    assert_eq!(s1.objects.moved(), given);
    assert_counts(&s1);
}

#[tokio::test(flavor = "multi_thread")]
async fn retired_copies_stay_while_a_server_is_emptied_and_go_when_it_is_empty() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    for n in 0..10 {
        s1.put(&address(n), n, None).await.unwrap();
    }
    // One object moves by a wish while its server serves: its copy goes by the grace period, gate or no gate.
    let wish = |n: usize| zones::Wish::Move {
        address: address(n),
        server: "s2".parse().unwrap(),
    };
    s1.wanted.send_modify(|wanted| wanted.todos = vec![wish(0)]);
    s2.until_owned(1).await;
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(10).await;
    settled([&s1, &s2]).await;
    let is_wished = |row: &Arc<Entry>| row.address == address(0);
    until("its grace period ends", || !retired(&s1).iter().any(is_wished)).await;
    // That a copy does not go shows only in time; in either role the grace period of each ends twice over.
    for role in [Role::Draining, Role::Cordoned] {
        s1.want(role, &["s2"]);
        let end = Instant::now() + 2 * GRACE;
        while Instant::now() < end {
            assert_eq!(retired(&s1).len(), 9, "{role}");
            assert_eq!(s1.objects.is_clear(0), Err(NotClear::Copies { copies: 9 }));
            tokio::time::sleep(GRACE / 10).await;
        }
    }
    s1.want(Role::Empty, &[]);
    until_nothing_is_retired(&s1).await;
    assert!(matches!(s1.objects.entries()[0].journal, Journal::Forward { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_emptied_no_more_lets_its_retired_copies_go() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    s1.put(&address(1), 1, None).await.unwrap();
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(1).await;
    s1.want(Role::Serving, &[]);
    until_nothing_is_retired(&s1).await;
}

/// A counter of arrivals, its board, and its want.
fn checker(agent: &Agent, arrivals: Option<Arrivals>) -> (Checker, Arc<Board>, watch::Sender<Wanted>) {
    let (sender, wanted) = watch::channel(counting(arrivals));
    let board = Arc::new(Board::default());
    let often = Pauses {
        look: Duration::from_millis(5),
        again: Duration::from_millis(20),
    };
    let local = Arc::clone(agent.objects.local());
    let checker = Checker::start(agent.dir.path(), local, wanted, Arc::clone(&board), 0, often, || 0).unwrap();
    (checker, board, sender)
}

fn counting(arrivals: Option<Arrivals>) -> Wanted {
    Wanted {
        want: Some(Want {
            role: Role::Serving,
            targets: Vec::new(),
            plan: 1,
            step: 1,
            policy: zones::Policy::default(),
            errand: Errand {
                arrivals,
                ..Errand::default()
            },
        }),
        ..Wanted::default()
    }
}

/// Waits until something is told.
async fn until_told(board: &Board, what: impl Fn(&Option<Taken>) -> bool) -> Option<Taken> {
    let mut told = None;
    let reached = comes(|| {
        told = board.over(zones::Upkeep::default(), 0).taken;
        what(&told)
    });
    assert!(reached.await, "{told:?}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn every_copy_that_came_is_read_back_and_one_that_changed_on_the_disk_is_bad_until_it_is_written_anew() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, 20).await;
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(20).await;
    settled([&s1, &s2]).await;
    damage(&s2, &address(6));
    s2.objects.delete(&address(3), delete()).await.unwrap();
    let (counted, board, wanted) = checker(&s2, Some(from(&s1)));
    let told = until_told(&board, |told| told.as_ref().is_some_and(|told| told.verified == 19)).await;
    let told = told.unwrap();
    assert_eq!((told.sum, told.bad), (s1.objects.moved(), 1));
    assert_eq!(told.arrivals, from(&s1));

    // Over a restart the sum is found anew, and what was read is not read again.
    drop((counted, wanted));
    let (_counted, board, wanted) = checker(&s2, Some(from(&s1)));
    let told = until_told(&board, Option::is_some).await.unwrap();
    assert_eq!((told.sum, told.verified, told.bad), (s1.objects.moved(), 19, 1));
    s2.put(&address(6), 6, Some(b"written anew")).await.unwrap();
    let told = until_told(&board, |told| told.as_ref().is_some_and(|told| told.bad == 0)).await;
    assert_eq!(told.unwrap().verified, 20);

    // What comes later is counted, too.
    s1.want(Role::Serving, &[]);
    s1.put(&address(21), 21, None).await.unwrap();
    s1.want(Role::Draining, &["s2"]);
    let told = until_told(&board, |told| told.as_ref().is_some_and(|told| told.verified == 21)).await;
    assert_eq!(told.unwrap().sum, taken(&s2, from(&s1)));
    // Of another server nothing came; and nothing is told when nothing is asked.
    let other = Arrivals {
        from: "s3".parse().unwrap(),
        since: 1,
    };
    wanted.send_replace(counting(Some(other.clone())));
    let none = Taken {
        arrivals: other,
        sum: Sum::default(),
        verified: 0,
        bad: 0,
    };
    until_told(&board, |told| told.as_ref() == Some(&none)).await;
    wanted.send_replace(counting(None));
    until_told(&board, Option::is_none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_to_be_stopped_takes_nothing_new_until_the_install_is_refused() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    s1.put(&address(1), 1, None).await.unwrap();
    let objects = 1;
    assert_eq!(s1.objects.close_for_install(|| 0), Err(NotClear::Owned { objects }));
    s1.put(&address(2), 2, None).await.expect("it goes on as before");
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(2).await;
    settled([&s1, &s2]).await;
    let copies = 2;
    assert_eq!(s1.objects.close_for_install(|| 0), Err(NotClear::Copies { copies }));
    s1.want(Role::Empty, &[]);
    until_nothing_is_retired(&s1).await;
    let requests = 3;
    assert_eq!(
        s1.objects.close_for_install(|| requests),
        Err(NotClear::Requests { requests })
    );
    assert_eq!(s1.objects.close_for_install(|| 0), Ok(()));

    // Its role lets it, and so does the librarian: it does not.
    s1.want(Role::Serving, &[]);
    let refused = s1.put(&address(3), 3, None).await;
    assert!(matches!(refused, Err(WriteError::NotServing { .. })), "{refused:?}");
    s2.want(Role::Draining, &["s1"]);
    until("it takes no object", || s2.transfer.counters().moves().stayed > 0).await;
    assert_eq!(s1.objects.is_clear(0), Ok(()));
    s1.objects.reopen();
    s1.until_owned(2).await;
    s1.put(&address(3), 3, None).await.unwrap();
}
