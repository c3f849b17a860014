//! The loop around the controller's core: look, decide, write.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use zones::{ServerName, Want};

use super::decide::{Decision, Wait, decide};
use super::look::look;
use super::memory::Memory;
use super::plan::{Plan, PlanError};
use super::propose::PlanRefusal;
use super::sight::Sight;
use super::steer::SteerRefusal;
use super::upgrade::Halt;
use crate::registry::{self, Proposal, Registry, SubmitError, WantsChange};

/// Runs until stopped. Everything it knows is in the registry, so it may end anywhere.
pub async fn run(registry: Registry, interval: Duration, memory: Arc<Mutex<Memory>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waited_for: Vec<Wait> = Vec::new();
    let mut unreadable = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !registry.view().reconcile().open {
            continue;
        }
        let sight = match sees(&registry, &memory) {
            Ok(sight) => sight,
            Err(error) => {
                if !std::mem::replace(&mut unreadable, true) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "plan cannot be read: nothing is decided"
                    );
                }
                continue;
            }
        };
        unreadable = false;
        match decide(&sight) {
            Decision::Rest => {
                waited_for.clear();
                balance(&registry, &memory, &sight).await;
            }
            Decision::Wait(waits) => {
                // Counts change all the time; what is waited for, seldom.
                if waits
                    .iter()
                    .map(std::mem::discriminant)
                    .ne(waited_for.iter().map(std::mem::discriminant))
                {
                    let waits: Vec<String> = waits.iter().map(ToString::to_string).collect();
                    tracing::info!(plan = sight.number(), ?waits, "plan waits");
                }
                waited_for = waits;
            }
            Decision::Write(wants) => {
                waited_for.clear();
                write(&registry, &sight, wants).await;
            }
            Decision::Next(plan) => {
                waited_for.clear();
                follow(&registry, &plan).await;
            }
        }
    }
}

/// Looks, and remembers since when things are so.
///
/// # Errors
///
/// As [`look`].
pub fn sees(registry: &Registry, memory: &Mutex<Memory>) -> Result<Sight, PlanError> {
    let mut sight = look(&registry.view())?;
    memory.lock().see(Instant::now(), &mut sight);
    Ok(sight)
}

/// Writes the wishes of a pool that balances itself, where they have changed.
async fn balance(registry: &Registry, memory: &Mutex<Memory>, sight: &Sight) {
    let todos = memory
        .lock()
        .balancer
        .turn(Instant::now(), unix_ms(), &registry.view(), sight);
    let Some(todos) = todos else { return };
    let wished: usize = todos.values().map(Vec::len).sum();
    let change = WantsChange {
        todos,
        ..decided_from(sight)
    };
    match registry.submit(Proposal::Wants(change)).await {
        Ok(()) => tracing::debug!(wished, "wishes written"),
        Err(SubmitError::Refused(refused)) => {
            tracing::info!(why = refused.why, "wants have changed meanwhile: decides again");
        }
        Err(error @ (SubmitError::Storage | SubmitError::Closed)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "wishes could not be written");
        }
    }
}

/// Calendar time in milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A change of nothing yet, that rests on all that a sight saw.
fn decided_from(sight: &Sight) -> WantsChange {
    let wants = sight.servers.iter();
    WantsChange {
        plan: sight.number(),
        decided_from: wants.map(|(name, seen)| (name.clone(), seen.want.clone())).collect(),
        ..WantsChange::default()
    }
}

/// Makes the next plan of an upgrade current.
async fn follow(registry: &Registry, plan: &Plan) {
    let halt = plan.upgrade.as_ref().and_then(|upgrade| upgrade.halt.clone());
    match registry.submit(Proposal::Plan(kept(plan))).await {
        Ok(()) => match halt {
            Some(Halt::Gate(why)) => tracing::warn!(plan = plan.number, why, "the upgrade is halted"),
            Some(Halt::Paused) | None => tracing::info!(plan = plan.number, goal = %plan.goal, "plan follows"),
        },
        Err(SubmitError::Refused(refused)) => {
            tracing::info!(why = refused.why, "another plan came first: decides again");
        }
        Err(error @ (SubmitError::Storage | SubmitError::Closed)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the next plan could not be written"
            );
        }
    }
}

/// A plan as the registry keeps it.
fn kept(plan: &Plan) -> registry::Plan {
    registry::Plan {
        number: plan.number,
        parent: plan.parent,
        document: plan.document(),
    }
}

/// Why a plan did not become current.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The controller's own rules refuse it.
    #[error(transparent)]
    Refused(#[from] PlanRefusal),
    /// The rules of upgrades refuse it.
    #[error(transparent)]
    Steer(#[from] SteerRefusal),
    /// The current plan cannot be read.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The registry refuses it: mostly another plan came first.
    #[error("the plan did not become current")]
    Submit(#[from] SubmitError),
}

/// Makes a plan from what is seen now, and makes it current.
///
/// # Errors
///
/// [`ProposeError`] says why not.
pub async fn propose<E>(
    registry: &Registry,
    memory: &Mutex<Memory>,
    make: impl FnOnce(&Sight) -> Result<Plan, E>,
) -> Result<Plan, ProposeError>
where
    ProposeError: From<E>,
{
    let sight = sees(registry, memory)?;
    let plan = make(&sight)?;
    registry.submit(Proposal::Plan(kept(&plan))).await?;
    tracing::info!(plan = plan.number, goal = %plan.goal, "plan became current");
    Ok(plan)
}

/// Writes wants, if the plan and all wants are still those of the sight.
async fn write(registry: &Registry, sight: &Sight, wants: Vec<(ServerName, Want)>) {
    let change = WantsChange {
        wants: wants.iter().cloned().collect(),
        ..decided_from(sight)
    };
    match registry.submit(Proposal::Wants(change)).await {
        Ok(()) => {
            for (server, want) in wants {
                tracing::info!(%server, role = %want.role, targets = ?want.targets, plan = want.plan, step = want.step, "want written");
            }
        }
        Err(SubmitError::Refused(refused)) => {
            tracing::info!(why = refused.why, "wants have changed meanwhile: decides again");
        }
        Err(error @ (SubmitError::Storage | SubmitError::Closed)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "wants could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{self, Goal};
    use crate::registry::{ServerChange, Settings};
    use zones::Role;

    async fn pool(dir: &std::path::Path) -> Registry {
        let domain = "hypernet.internal".parse().unwrap();
        let registry = Registry::open(&dir.join("registry.redb"), &domain, Settings::default()).unwrap();
        for (name, role) in [("s1", Role::Serving), ("s2", Role::Free)] {
            let add = ServerChange::Add {
                name: name.parse().unwrap(),
                role,
            };
            registry.submit(Proposal::Server(add)).await.unwrap();
        }
        registry
    }

    fn goal() -> Goal {
        Goal::Drain {
            server: "s1".parse().unwrap(),
            into: "s2".parse().unwrap(),
        }
    }

    fn plan_after(sight: &Sight) -> Plan {
        Plan {
            number: sight.number() + 1,
            parent: sight.number(),
            goal: goal(),
            homes: std::collections::BTreeMap::new(),
            open: std::collections::BTreeMap::new(),
            policy: zones::Policy::default(),
            upgrade: None,
        }
    }

    fn memory() -> Arc<Mutex<Memory>> {
        Arc::new(Mutex::new(Memory::new(Duration::ZERO)))
    }

    fn agreed(plan: Plan) -> Result<Plan, PlanRefusal> {
        Ok(plan)
    }

    #[tokio::test]
    async fn a_plan_is_frozen_into_durable_wants_and_waits_for_the_servers() {
        let dir = tempfile::tempdir().unwrap();
        let registry = pool(dir.path()).await;
        propose(&registry, &memory(), |sight| agreed(plan_after(sight)))
            .await
            .unwrap();
        let sight = look(&registry.view()).unwrap();
        let Decision::Write(wants) = decide(&sight) else {
            panic!("a new plan freezes")
        };
        write(&registry, &sight, wants).await;
        registry.close().await;
        let domain = "hypernet.internal".parse().unwrap();
        let registry = Registry::open(&dir.path().join("registry.redb"), &domain, Settings::default()).unwrap();
        let sight = look(&registry.view()).unwrap();
        assert_eq!(sight.plan.as_ref().map(|plan| &plan.goal), Some(&goal()));
        assert!(sight.servers.values().all(|seen| seen.want.plan == 1));
        assert!(matches!(decide(&sight), Decision::Wait(waits) if waits.len() == 2));
    }

    #[tokio::test]
    async fn of_two_plans_with_one_parent_the_second_is_refused_and_so_are_wants_of_an_older_sight() {
        let dir = tempfile::tempdir().unwrap();
        let registry = pool(dir.path()).await;
        let old = look(&registry.view()).unwrap();
        propose(&registry, &memory(), |sight| agreed(plan_after(sight)))
            .await
            .unwrap();
        let second = propose(&registry, &memory(), |_| agreed(plan_after(&old))).await;
        assert!(matches!(second, Err(ProposeError::Submit(SubmitError::Refused(_)))));
        let before = look(&registry.view()).unwrap();
        let want = Want {
            role: Role::Draining,
            targets: vec!["s2".parse().unwrap()],
            plan: 0,
            step: 7,
            policy: zones::Policy::default(),
            errand: zones::Errand::default(),
        };
        write(&registry, &old, vec![("s1".parse().unwrap(), want)]).await;
        assert_eq!(look(&registry.view()).unwrap(), before);
    }

    #[tokio::test]
    async fn what_two_controllers_say_of_copies_is_written_once() {
        let pool = crate::testing::Pool::new().await;
        for number in 1..=5_u8 {
            let has = zones::Has {
                audit: Some(zones::audit::Head::first(&crate::testing::server("s1"))),
                upkeep: Some(zones::Upkeep::default()),
                hot: Some(zones::Heat::default()),
                kept: Some(zones::Kept::default()),
                ..crate::testing::has()
            };
            let name = crate::testing::server(&format!("s{number}"));
            pool.tell(&name, number, &has).await.unwrap();
        }
        let sight = look(&pool.registry.view()).unwrap();
        let Decision::Write(wants) = decide(&sight) else {
            panic!("servers are told of copies")
        };
        assert_eq!(wants.len(), 4, "the free one is told nothing");
        // One of them says something else for a single server.
        let other: Vec<_> = wants
            .iter()
            .take(1)
            .cloned()
            .map(|(name, mut want)| {
                want.errand.keep.copies = 9;
                (name, want)
            })
            .collect();
        write(&pool.registry, &sight, other).await;
        let after = look(&pool.registry.view()).unwrap();
        // The second one decided for the others from a want that is no more.
        write(&pool.registry, &sight, wants.into_iter().skip(1).collect()).await;
        assert_eq!(look(&pool.registry.view()).unwrap(), after, "of the two, the first");
        let Decision::Write(wants) = decide(&after) else {
            panic!("the first one was wrong")
        };
        write(&pool.registry, &after, wants).await;
        assert_eq!(decide(&look(&pool.registry.view()).unwrap()), Decision::Rest);
    }

    #[tokio::test]
    async fn the_loop_freezes_a_new_plan_and_stops_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let registry = pool(dir.path()).await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(registry.clone(), Duration::from_millis(1), memory(), stop.clone()));
        propose(&registry, &memory(), |sight| agreed(plan_after(sight)))
            .await
            .unwrap();
        let frozen = async {
            while !look(&registry.view())
                .unwrap()
                .servers
                .values()
                .all(|seen| seen.want.plan == 1)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), frozen).await.unwrap();
        stop.cancel();
        running.await.unwrap();
        let refused = propose(&registry, &memory(), |sight| {
            pool::drain(sight, &"s1".parse().unwrap(), None)
        })
        .await;
        assert!(matches!(refused, Err(ProposeError::Refused(PlanRefusal::Busy { .. }))));
    }
}
