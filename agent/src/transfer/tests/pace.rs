//! Moves while clients of one of both servers wait.

use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Objects that are moved.
const COUNT: usize = 60;

/// Clients of an agent that wait 200 ms for every answer; returns when its moves are as slow as they get.
async fn suffering(agent: &Agent) -> AbortOnDropHandle<()> {
    let objects = Arc::clone(&agent.objects);
    let clients = tokio::spawn(async move {
        loop {
            for _ in 0..100 {
                objects.client_waited(Duration::from_millis(200));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    until("moves slow down", || shows(agent, "agent_moves_pace_ratio 0.25")).await;
    AbortOnDropHandle::new(clients)
}

fn shows(agent: &Agent, sample: &str) -> bool {
    agent.transfer.counters().metrics().lines().any(|line| line == sample)
}

#[tokio::test(flavor = "multi_thread")]
async fn source_whose_clients_wait_begins_fewer_moves_and_its_drain_ends() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, COUNT).await;
    let _clients = suffering(&s1).await;
    s1.want(Role::Draining, &["s2"]);
    let mut most = 0;
    let drained = comes(|| {
        most = most.max(s1.transfer.counters().moves().open_out);
        s1.owned() == 0
    });
    assert!(drained.await, "{} objects are left", s1.owned());
    assert!(
        (1..=16).contains(&most),
        "a quarter of 64 objects is on its way, not {most}"
    );
    assert_all(&s2, &stub, COUNT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destination_whose_clients_wait_answers_offers_later_and_refuses_none() {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    fill(&s1, COUNT).await;
    assert!(shows(&s2, "agent_moves_held_total 0"));
    let _clients = suffering(&s2).await;
    s1.want(Role::Draining, &["s2"]);
    s2.until_owned(COUNT as u64).await;
    s1.until_owned(0).await;
    assert!(
        !shows(&s2, "agent_moves_held_total 0"),
        "60 offers at once are more than 32"
    );
    assert_eq!(
        s1.transfer.counters().moves().stayed,
        0,
        "an offer that waits is not refused"
    );
    assert_all(&s2, &stub, COUNT).await;
}
