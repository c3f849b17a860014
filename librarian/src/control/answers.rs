//! What commands are answered, from one view of the registry.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hickory_proto::rr::{Name, RData, RecordType};
use zones::{Address, Policy, Register, Role, ServerName, State, Zone};

use super::words::{Asked, Copies, Delegated, Found, Heat, HotObject, Loss, Place, Pool, Server, Where};
use crate::listen::Questions;
use crate::pool::spread::told_to_owners;
use crate::pool::status::{self, Explained};
use crate::pool::{PlanError, Progress, Seen, Sight, keep, look};
use crate::reconcile::Desk;
use crate::registry::{self, View};

/// Where an address leads; `None` if it was never registered, and lies in no part of the tree that is delegated.
pub(super) fn find(view: &View<'_>, address: &Address) -> Option<Found> {
    if let Some(delegated) = delegated(view, address) {
        return Some(Found::Delegated(delegated));
    }
    here(view, address).map(Found::Here)
}

/// The part of the tree that an address lies in, if it is delegated.
fn delegated(view: &View<'_>, address: &Address) -> Option<Delegated> {
    let (domain, tree) = (view.domain(), &view.index().tree);
    let name = domain.tree_name(address).ok()?;
    let cut = tree.highest_above(domain.zone(Zone::Tree), &name, RecordType::NS)?;
    let servers = cut.set(RecordType::NS)?.records.iter().filter_map(|data| match data {
        RData::NS(target) => Some(&target.0),
        _ => None,
    });
    let addresses = |name: &Name| {
        let glue = tree.node(name).into_iter().flat_map(|node| &node.sets);
        let records = glue.flat_map(|set| &set.records);
        records.filter_map(RData::ip_addr).collect()
    };
    Some(Delegated {
        address: address.to_string(),
        zone: cut.name.to_string(),
        servers: servers.map(|name| (name.to_string(), addresses(name))).collect(),
    })
}

/// Who holds an object; `None` if the address was never registered.
fn here(view: &View<'_>, address: &Address) -> Option<Where> {
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
    if let Some(delegated) = delegated(view, &address) {
        let servers: Vec<String> = delegated.servers.into_iter().map(|(name, _)| name).collect();
        return Some(Explained {
            what: address.to_string(),
            is: format!(
                "{address} lies in {}, which is delegated to another pool",
                delegated.zone
            ),
            because: vec![
                format!("its name servers are {}", servers.join(", ")),
                format!("`librarian where {address}` asks there"),
            ],
        });
    }
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
            because.extend(its_copies(sight, &register));
            because.extend(for_its_heat(sight, &address));
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

/// Who has an object, how many are to have it, and why these are fewer.
fn its_copies(sight: &Sight, register: &Register) -> Option<String> {
    let address = &register.address;
    let wanted = keep::base(sight).wanted(address);
    if !keep::has_begun(sight) || wanted < 2 && register.holders.len() < 2 {
        return None;
    }
    let owner = sight.servers.get(&register.owner)?;
    let holders: Vec<&str> = register.holders.iter().map(ServerName::as_str).collect();
    let places = owner.want.errand.keep.spread.len() + 1;
    let why = match register.holders.len() < wanted {
        false => String::new(),
        true if owner.lost => format!(
            "; {} is marked lost: a holder takes it, and then makes the others",
            register.owner
        ),
        true if !owner.alive => format!("; {} makes the others, and is not heard", register.owner),
        true if matches!(register.state, State::Moving { .. }) => {
            "; the others are made when it has arrived".to_owned()
        }
        true if places < wanted => format!("; only {places} servers may have what {} owns", register.owner),
        true => format!("; {} makes the others one by one, where there is room", register.owner),
    };
    Some(format!(
        "it is to have {wanted} copies, and has them on {}{why}",
        holders.join(", ")
    ))
}

/// What is told of an object for the sake of its heat.
fn for_its_heat(sight: &Sight, address: &Address) -> Option<String> {
    let spread = sight.spread.as_ref()?;
    let Some(servers) = spread.told.get(address) else {
        let is_watched = spread.watched.contains(address);
        return is_watched.then(|| "it is asked for often: if it stays so, it gets copies for its heat".to_owned());
    };
    let holders = sight.registers.get(address).map(|register| &register.holders);
    let missing = servers
        .iter()
        .filter(|server| holders.is_some_and(|holders| !holders.contains(server)));
    let missing: Vec<&str> = missing.map(ServerName::as_str).collect();
    let all: Vec<&str> = servers.iter().map(ServerName::as_str).collect();
    let made = match missing.is_empty() {
        true => String::new(),
        false => format!("; not made yet: {}", missing.join(", ")),
    };
    Some(format!(
        "it is asked for so often that it is to have copies on {} besides the wanted number{made}",
        all.join(", ")
    ))
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
    // Agents' numbers: whatever they say, nothing overflows.
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0u64, u64::saturating_add);
    let asked_milli = sum(&mut told.iter().map(|(_, heat)| heat.asked_milli));
    let busiest = told.iter().map(|(_, heat)| heat.asked_milli).max().unwrap_or(0);
    let mut objects: BTreeMap<Address, HotObject> = BTreeMap::new();
    let unknown = |address: &Address| HotObject {
        address: address.to_string(),
        rate_milli: 0,
        doubt_milli: 0,
        questions_milli: 0,
        servers: Vec::new(),
        copies: Vec::new(),
    };
    for (server, heat) in &told {
        for hot in &heat.hottest {
            // Nobody but who has an object can say how often it is asked for.
            let is_there = view.register(&hot.address).is_some_and(|register| {
                let comes = matches!(&register.state, State::Moving { to } if to == *server);
                comes || register.holders.contains(server)
            });
            if !is_there {
                continue;
            }
            let object = objects
                .entry(hot.address.clone())
                .or_insert_with(|| unknown(&hot.address));
            object.rate_milli = object.rate_milli.saturating_add(hot.rate_milli);
            object.doubt_milli = object.doubt_milli.saturating_add(heat.doubt_milli);
            object.servers.push(server.to_string());
        }
    }
    for (address, questions_milli) in questions.hottest(LOOKED_UP_MAX, view.now()) {
        let object = objects.entry(address.clone()).or_insert_with(|| unknown(&address));
        object.questions_milli = questions_milli;
    }
    for (address, copies) in told_to_owners(view) {
        let object = objects.entry(address.clone()).or_insert_with(|| unknown(&address));
        object.copies = copies.iter().map(ToString::to_string).collect();
    }
    let mut objects: Vec<(Address, HotObject)> = objects.into_iter().collect();
    // Requests first: answers to questions are cached, so these are no measure of them.
    let asked = |object: &HotObject| (object.rate_milli, object.questions_milli);
    objects.sort_by(|(a, one), (b, other)| asked(other).cmp(&asked(one)).then_with(|| a.cmp(b)));
    Heat {
        hottest_over_mean: match asked_milli {
            0 => 1.0,
            asked_milli => busiest as f64 * told.len() as f64 / asked_milli as f64,
        },
        asked_milli,
        served: sum(&mut told.iter().map(|(_, heat)| heat.served)),
        objects: objects.into_iter().map(|(_, object)| object).collect(),
    }
}

/// The pool at a glance.
pub(super) fn pool(view: &View<'_>, sight: &Sight, reconcile: &Desk, lost: &BTreeMap<ServerName, u64>) -> Pool {
    Pool {
        domain: view.domain().to_string(),
        objects: view.objects() as u64,
        reconcile: reconcile
            .waits_for(view)
            .map(|servers| servers.iter().map(ToString::to_string).collect()),
        plan: Progress::of(sight),
        copies: Some(copies(view, sight)),
        servers: view
            .servers()
            .map(|server| one(view, server, lost.get(&server.name).copied()))
            .collect(),
    }
}

/// What is lost with a server of the pool, were it marked lost: also what others that are lost own and it holds.
pub(super) fn loss(view: &View<'_>, server: &registry::Server, lost_objects: u64) -> Loss {
    Loss {
        server: server.name.to_string(),
        lost: server.lost,
        owned: view.objects_owned(&server.name),
        lost_objects,
    }
}

/// How it stands with copies, as the servers say that take part.
fn copies(view: &View<'_>, sight: &Sight) -> Copies {
    // What one that is not heard said last is of any time before.
    let part = || sight.servers.values().filter(|seen| !seen.is_out());
    let told = || part().filter(|seen| seen.alive).filter_map(Seen::kept);
    let sum = |of: fn(&zones::Kept) -> u64| told().map(of).fold(0u64, u64::saturating_add);
    let under = sight.copies.copies.under.iter();
    let begun = keep::has_begun(sight);
    let waits_for = if begun {
        Vec::new()
    } else {
        keep::knows_no_copies(sight)
    };
    let hot = told_to_owners(view);
    Copies {
        hot: hot.len() as u64,
        hot_copies: hot.values().map(Vec::len).sum::<usize>() as u64,
        wanted: keep::wanted(sight),
        under: under.map(|(prefix, copies)| (prefix.to_string(), *copies)).collect(),
        begun,
        waits_for: waits_for.into_iter().map(ToString::to_string).collect(),
        short: sum(|kept| kept.short),
        leaving: sum(|kept| kept.leaving),
        unheard: part().filter(|seen| !seen.alive).count() as u64,
    }
}

fn one(view: &View<'_>, server: &registry::Server, lost_objects: Option<u64>) -> Server {
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
        held: view.objects_held(&server.name),
        lost: server.lost,
        lost_objects: server.lost.then(|| lost_objects.unwrap_or(0)),
        bytes: has.map_or(0, |has| has.bytes),
        held_bytes: has.and_then(|has| has.kept.as_ref()).map_or(0, |kept| kept.octets),
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
