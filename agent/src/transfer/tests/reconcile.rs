//! Real agents whose registry is replaced by another one in the midst of a drain.

use std::collections::BTreeMap;

use tokio_util::task::AbortOnDropHandle;
use zones::{Claim, Claimed, Incarnation, Register, Standing, Told};

use super::*;
use crate::reconcile::{self, Reconciler};

const OBJECTS: usize = 48;

fn told(number: u8, standing: Standing) -> Option<Told> {
    Some(Told {
        incarnation: Incarnation([number; 16]),
        standing,
    })
}

/// The part of an agent that reports.
fn reconciler(agent: &Agent) -> AbortOnDropHandle<()> {
    let reconciler = Reconciler {
        registers: Arc::clone(agent.objects.registers()),
        objects: Arc::clone(&agent.objects),
        moves: agent.transfer.barrier(),
        wanted: agent.wanted.subscribe(),
        written_off: CancellationToken::new(),
    };
    AbortOnDropHandle::new(tokio::spawn(reconciler.run()))
}

/// What an agent's index claims now.
fn claims(agent: &Agent) -> BTreeMap<(Address, Epoch), Claimed> {
    let entries = agent.objects.entries();
    let claims = entries.iter().filter_map(|entry| reconcile::claim(entry));
    by_epoch(claims)
}

fn by_epoch(claims: impl Iterator<Item = Claim>) -> BTreeMap<(Address, Epoch), Claimed> {
    claims
        .map(|claim| ((claim.address, claim.epoch), claim.what))
        .filter(|(_, what)| !matches!(what, Claimed::Arriving { .. } | Claimed::Made))
        .collect()
}

/// Every register as the last complete reports make it: the highest epoch, stable, under a fresh tx.
fn merged(claims: &[(ServerName, Claim)]) -> Vec<Register> {
    let mut merged: BTreeMap<Address, Register> = BTreeMap::new();
    for (server, claim) in claims {
        let Some(register) = claim.register(server) else {
            continue;
        };
        let known = merged.get(&register.address);
        if let Some(known) = known.filter(|known| known.epoch == register.epoch) {
            assert_eq!(known.owner, register.owner, "{} has two owners", register.address);
        }
        if known.is_none_or(|known| known.epoch < register.epoch) {
            let fresh = Register {
                tx: Tx(rand::random()),
                ..register
            };
            merged.insert(fresh.address.clone(), fresh);
        }
    }
    merged.into_values().collect()
}

/// The registry is replaced when `moved` objects have moved.
async fn replaced_after(moved: u64) {
    let (pool, stub) = (pool(), Stub::start().await);
    let s1 = Agent::start(&pool, &stub, "s1", OCTETS).await;
    let s2 = Agent::start(&pool, &stub, "s2", OCTETS).await;
    let _reconcilers = [reconciler(&s1), reconciler(&s2)];
    for n in 0..OBJECTS {
        s1.put(&address(n), n, body(n).as_deref()).await.unwrap();
    }
    s1.want(Role::Draining, &["s2"]);
    until("some objects move", || s2.owned() >= moved).await;

    stub.pool.lock().registry = told(2, Standing::Report);
    // Both have asked for a register since, or will not.
    for agent in [&s1, &s2] {
        let _ = agent.objects.registers().read(&address(0)).await;
    }
    let complete = |name: &str| {
        let pool = stub.pool.lock();
        pool.reports
            .iter()
            .any(|report| report.server.as_str() == name && report.end)
    };
    until("both report", || complete("s1") && complete("s2")).await;
    stub.pool.lock().registry = told(2, Standing::Reported);
    let reports = std::mem::take(&mut stub.pool.lock().reports);
    let mut told_by: BTreeMap<&str, Vec<Claim>> = BTreeMap::new();
    for report in &reports {
        let told = told_by.entry(report.server.as_str()).or_default();
        if report.from == 0 {
            told.clear();
        }
        told.extend(report.claims.iter().cloned());
    }
    // Whatever was under way has come or gone by now; that no ownership changes behind the reports shows only in time.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for agent in [&s1, &s2] {
            let reported = by_epoch(told_by[agent.name].iter().cloned());
            assert_eq!(
                claims(agent),
                reported,
                "{} knows something that it did not tell",
                agent.name
            );
        }
    }
    // Objects are served meanwhile, and written where they are.
    let here = (0..OBJECTS).find(|n| {
        s1.objects
            .entry(&address(*n))
            .is_some_and(|entry| entry.epoch == Epoch(1))
    });
    if let Some(n) = here {
        let _ = s1.read(&address(n)).await;
    }
    let all: Vec<(ServerName, Claim)> = told_by
        .iter()
        .flat_map(|(name, claims)| claims.iter().map(|claim| (name.parse().unwrap(), claim.clone())))
        .collect();
    let registers = merged(&all);
    assert_eq!(registers.len(), OBJECTS);
    {
        let mut pool = stub.pool.lock();
        pool.registers = registers
            .into_iter()
            .map(|register| (register.address.folded(), register))
            .collect();
        pool.registry = told(2, Standing::Open);
    }
    for agent in [&s1, &s2] {
        // What the control loop does each second.
        let registers = Arc::clone(agent.objects.registers());
        drop(registers.wishes().await);
        until("the new registry is believed", || registers.trust().is_trusted()).await;
    }
    s2.until_owned(OBJECTS as u64).await;
    s1.until_owned(0).await;
    assert_all(&s2, &stub, OBJECTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_holds_everything_that_becomes_durable_and_the_drain_goes_on_afterwards() {
    for moved in [0, 1, 7, 20, 40] {
        replaced_after(moved).await;
    }
}
