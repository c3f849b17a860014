//! From the registry to what the controller sees.

use zones::ServerName;

use super::plan::{Plan, PlanError};
use super::sight::{Seen, Sight};
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
        .collect::<std::collections::BTreeMap<ServerName, Seen>>();
    Ok(Sight {
        plan,
        servers,
        ..Sight::default()
    })
}

fn seen(view: &View<'_>, server: &Server) -> Seen {
    Seen {
        want: server.want.clone(),
        has: server.has().cloned(),
        alive: view.is_alive(server),
        clock_ahead_s: server.clock_ahead_s,
        named: view.objects_naming(&server.name),
        owned: view.objects_owned(&server.name),
        price_percent: 100,
        quiet_for: None,
        emptied_for: None,
        step_for: std::time::Duration::ZERO,
    }
}
