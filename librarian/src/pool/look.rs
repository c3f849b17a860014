//! From the registry to what the controller sees.

use std::collections::BTreeMap;

use zones::{Address, Register, ServerName, State};

use super::plan::{Plan, PlanError};
use super::sight::{Named, Seen, Sight};
use crate::registry::{Server, View};

/// Looks at the pool.
///
/// # Errors
///
/// [`PlanError`] when the current plan is of a later release: then nothing is decided.
pub fn look(view: &View<'_>) -> Result<Sight, PlanError> {
    let plan = view
        .plan()
        .map(|plan| Plan::read(plan.number, &plan.document))
        .transpose()?;
    let servers = view
        .servers()
        .map(|server| (server.name.clone(), seen(view, server)))
        .collect::<BTreeMap<ServerName, Seen>>();
    Ok(Sight {
        plan,
        registers: registers(view, &servers),
        serials: (view.serials().obj, view.serials().tree),
        servers,
        ..Sight::default()
    })
}

/// The registers of the objects whose heat is spoken of.
#[must_use]
pub fn registers(view: &View<'_>, servers: &BTreeMap<ServerName, Seen>) -> BTreeMap<Address, Named> {
    let mut registers = BTreeMap::new();
    for seen in servers.values() {
        let heat = seen.has.as_ref().and_then(|has| has.hot.as_ref());
        let asked_for = heat.into_iter().flat_map(|heat| &heat.hottest).map(|hot| &hot.address);
        let told = seen.want.errand.keep.hot.iter().map(|(address, _)| address);
        for address in asked_for.chain(told) {
            if !registers.contains_key(address)
                && let Some(named) = view.register(address).and_then(named)
            {
                registers.insert(address.clone(), named);
            }
        }
    }
    registers
}

fn named(register: Register) -> Option<Named> {
    let to = match register.state {
        State::Stable => None,
        State::Moving { to } => Some(to),
        State::Deleted => return None,
    };
    Some(Named {
        owner: register.owner,
        to,
        holders: register.holders,
    })
}

fn seen(view: &View<'_>, server: &Server) -> Seen {
    Seen {
        want: server.want.clone(),
        has: server.has().cloned(),
        alive: view.is_alive(server),
        lost: server.lost,
        clock_ahead_s: server.clock_ahead_s,
        named: view.objects_naming(&server.name),
        owned: view.objects_owned(&server.name),
        held: view.objects_held(&server.name),
        price_percent: 100,
        quiet_for: None,
        lagging: Vec::new(),
        told_for: None,
        emptied_for: None,
        step_for: std::time::Duration::ZERO,
        keep_for: std::time::Duration::ZERO,
        silent_for: None,
    }
}

#[cfg(test)]
mod tests {
    use zones::{Heat, Hot};

    use super::*;
    use crate::testing::{Pool, address, has, server};

    #[tokio::test]
    async fn registers_of_objects_that_are_named_as_hot_are_seen_and_no_others() {
        let pool = Pool::new().await;
        let made = pool.create("s1", &["3.1", "3.2", "3.3", "3.4"]).await;
        let gone = Register {
            epoch: zones::Epoch(2),
            state: State::Deleted,
            holders: Vec::new(),
            tx: pool.tx(),
            ..made[1].clone()
        };
        pool.change(Some(&made[1]), &gone).await.unwrap();
        let named = ["3.1", "3.2", "9.9"].map(|text| Hot {
            address: address(text),
            rate_milli: 7,
        });
        let told = zones::Has {
            audit: Some(zones::audit::Head::first(&server("s2"))),
            upkeep: Some(zones::Upkeep::default()),
            hot: Some(Heat {
                hottest: named.into(),
                ..Heat::default()
            }),
            ..has()
        };
        pool.tell(&server("s2"), 2, &told).await.unwrap();
        let mut want = look(&pool.registry.view()).unwrap().servers[&server("s3")].want.clone();
        want.step += 1;
        want.errand.keep.hot = vec![(address("3.3"), vec![server("s4")])];
        let change = crate::registry::WantsChange {
            wants: [(server("s3"), want)].into(),
            ..crate::registry::WantsChange::default()
        };
        pool.registry
            .submit(crate::registry::Proposal::Wants(change))
            .await
            .unwrap();
        let sight = look(&pool.registry.view()).unwrap();
        let seen: Vec<&str> = sight.registers.keys().map(Address::as_str).collect();
        assert_eq!(seen, ["3.1", "3.3"]);
        assert_eq!(
            sight.registers[&address("3.1")],
            Named {
                owner: server("s1"),
                to: None,
                holders: vec![server("s1")]
            }
        );
        // Its owner is not told yet, so nobody makes copies of it.
        assert!(crate::pool::spread::told_to_owners(&pool.registry.view()).is_empty());
    }
}
