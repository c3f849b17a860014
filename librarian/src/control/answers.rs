//! What commands are answered, from one view of the registry.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use zones::{Address, Policy, Role, ServerName, State};

use super::words::{Asked, Heat, HotObject, Place, Pool, Server, Where};
use crate::listen::Questions;
use crate::pool::status::{self, Explained};
use crate::pool::{PlanError, Progress, Sight, look};
use crate::reconcile::Desk;
use crate::registry::{self, View};

/// Who holds an object; `None` if the address was never registered.
pub(super) fn find(view: &View<'_>, address: &Address) -> Option<Where> {
    let register = view.register(address)?;
    let (state, to) = match &register.state {
        State::Stable => ("stable", None),
        State::Moving { to } => ("moving", Some(to.to_string())),
        State::Deleted => ("deleted", None),
    };
    let servers = register
        .holders
        .iter()
        .filter_map(|name| view.server(name))
        .map(|server| Place {
            name: server.name.to_string(),
            alive: view.is_alive(server),
            https: server.host.iter().flat_map(places).collect(),
        })
        .collect();
    Some(Where {
        address: register.address.to_string(),
        state: state.to_owned(),
        to,
        epoch: register.epoch.0,
        owner: register.owner.to_string(),
        holders: register.holders.iter().map(ToString::to_string).collect(),
        kind: register.kind.to_string(),
        schema: register.schema,
        level: register.level.0,
        servers,
        name: view
            .domain()
            .obj_name(&register.address)
            .map(|name| name.to_string())
            .unwrap_or_default(),
    })
}

/// Why a server or an object is as it is; `None` for what is neither.
pub(super) fn explain(view: &View<'_>, sight: &Sight, what: &str) -> Option<Explained> {
    if let Ok(server) = what.parse::<ServerName>()
        && let Some(explained) = status::explain(sight, &server)
    {
        return Some(explained);
    }
    let address: Address = what.parse().ok()?;
    let register = view.register(&address)?;
    let owner = &register.owner;
    let mut because = Vec::new();
    let is = match &register.state {
        State::Deleted => format!("{address} was deleted at epoch {}", register.epoch.0),
        State::Stable => format!("{address} is on {owner}, at rest (epoch {})", register.epoch.0),
        State::Moving { to } => {
            let target = status::explain(sight, to);
            because.extend(target.map(|target| format!("it is on its way to {to}: {}", target.is)));
            format!("{address} is on {owner}, moving to {to} (epoch {})", register.epoch.0)
        }
    };
    match &register.state {
        State::Deleted => {}
        State::Stable | State::Moving { .. } => {
            let held = status::explain(sight, owner)?;
            because.push(held.is);
            because.extend(held.because);
            because.push(format!(
                "schema {}, level {} at its last change of owner; `agent stat {address}` shows what it is now",
                register.schema, register.level.0
            ));
        }
    }
    Some(Explained {
        what: address.to_string(),
        is,
        because,
    })
}

fn places(host: &registry::Host) -> impl Iterator<Item = SocketAddr> + '_ {
    host.addresses
        .iter()
        .map(|address| SocketAddr::new(*address, host.https_port))
}

/// What is asked of objects.
pub(super) fn policy(view: &View<'_>) -> Result<Asked, PlanError> {
    let Policy { level, floor, steps } = look(view)?.policy();
    Ok(Asked {
        level: level.0,
        floor: floor.0,
        steps: steps.to_string(),
        objects_by_level: view
            .objects_by_level()
            .into_iter()
            .map(|(level, objects)| (level.0, objects))
            .collect(),
    })
}

/// Objects that are looked up most, among those that are told.
const LOOKED_UP_MAX: usize = 16;

/// Which objects are asked for most, as the servers that serve say, and of the librarian.
pub(super) fn heat(view: &View<'_>, questions: &Questions) -> Heat {
    let serving = view
        .servers()
        .filter(|server| server.role() == Role::Serving && view.is_alive(server));
    let told: Vec<(&ServerName, &zones::Heat)> = serving
        .filter_map(|server| Some((&server.name, server.has()?.hot.as_ref()?)))
        .collect();
    let asked_milli = told.iter().map(|(_, heat)| heat.asked_milli).sum();
    let busiest = told.iter().map(|(_, heat)| heat.asked_milli).max().unwrap_or(0);
    let mut objects: BTreeMap<Address, HotObject> = BTreeMap::new();
    let unknown = |address: &Address| HotObject {
        address: address.to_string(),
        rate_milli: 0,
        doubt_milli: 0,
        questions_milli: 0,
        servers: Vec::new(),
    };
    for (server, heat) in &told {
        for hot in &heat.hottest {
            let object = objects
                .entry(hot.address.clone())
                .or_insert_with(|| unknown(&hot.address));
            object.rate_milli += hot.rate_milli;
            object.doubt_milli += heat.doubt_milli;
            object.servers.push(server.to_string());
        }
    }
    for (address, questions_milli) in questions.hottest(LOOKED_UP_MAX, view.now()) {
        let object = objects.entry(address.clone()).or_insert_with(|| unknown(&address));
        object.questions_milli = questions_milli;
    }
    let mut objects: Vec<(Address, HotObject)> = objects.into_iter().collect();
    let asked = |object: &HotObject| object.rate_milli + object.questions_milli;
    objects.sort_by(|(a, one), (b, other)| asked(other).cmp(&asked(one)).then_with(|| a.cmp(b)));
    Heat {
        hottest_over_mean: match asked_milli {
            0 => 1.0,
            asked_milli => busiest as f64 * told.len() as f64 / asked_milli as f64,
        },
        asked_milli,
        served: told.iter().map(|(_, heat)| heat.served).sum(),
        objects: objects.into_iter().map(|(_, object)| object).collect(),
    }
}

/// The pool at a glance.
pub(super) fn pool(view: &View<'_>, reconcile: &Desk) -> Result<Pool, PlanError> {
    Ok(Pool {
        domain: view.domain().to_string(),
        objects: view.objects() as u64,
        reconcile: reconcile
            .waits_for(view)
            .map(|servers| servers.iter().map(ToString::to_string).collect()),
        plan: Progress::of(&look(view)?),
        servers: view.servers().map(|server| one(view, server)).collect(),
    })
}

fn one(view: &View<'_>, server: &registry::Server) -> Server {
    let has = server.has();
    let heard = server.seen.map(|seen| view.now().saturating_duration_since(seen));
    Server {
        name: server.name.to_string(),
        role: server.role().to_string(),
        targets: server.want.targets.iter().map(ToString::to_string).collect(),
        alive: view.is_alive(server),
        heard_s: heard.map(|heard| heard.as_secs_f64()),
        lease_s: heard.map(|heard| view.lease().saturating_sub(heard).as_secs_f64()),
        clock_ahead_s: server.seen.map(|_| server.clock_ahead_s),
        release: has.map(|has| has.release.clone()),
        objects: has.map_or(0, |has| has.objects),
        owned: view.objects_owned(&server.name),
        named: view.objects_naming(&server.name),
        bytes: has.map_or(0, |has| has.bytes),
        capacity: has.map_or(0, |has| has.capacity),
        load: has.map_or(0, |has| has.load),
        heat: has.map_or(0, |has| has.heat),
        errors: has.map_or(0, |has| has.errors),
        unreadable: has.map_or(0, |has| has.unreadable),
        quarantined: has.map_or(0, |has| has.quarantined),
        audit: server.audit.map(|audit| audit.to_string()),
        log_is_doubtful: server.log_is_doubtful(),
        plan: has.map_or(0, |has| has.plan),
        addresses: server
            .host
            .iter()
            .flat_map(|host| host.addresses.iter().copied())
            .collect(),
        https_port: server.host.as_ref().map(|host| host.https_port),
    }
}
