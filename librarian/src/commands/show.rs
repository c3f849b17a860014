//! `librarian where`, `name`, `pool` and `policy`.

use std::path::Path;

use serde_json::json;
use zones::Address;

use super::Form;
use super::text::{columns, octets};
use crate::config::Config;
use crate::control;
use crate::control::words::{Asked, Pool, Request, Server, Where};

pub(super) fn find(dir: &Path, address: &Address, json: bool) -> anyhow::Result<()> {
    let request = Request::Where {
        address: address.to_string(),
    };
    let found: Where = control::ask(dir, &request)?;
    if json {
        return super::say_json(&found);
    }
    super::say(&describe(&found))
}

fn describe(found: &Where) -> String {
    let mut lines = vec![match (found.state.as_str(), &found.to) {
        ("deleted", _) => format!("{} was deleted at epoch {}", found.address, found.epoch),
        (_, Some(to)) => format!(
            "{} is on {}, moving to {to} (epoch {})",
            found.address, found.owner, found.epoch
        ),
        (_, None) => format!("{} is on {} (epoch {})", found.address, found.owner, found.epoch),
    }];
    lines.push(format!(
        "  type     {}, schema {}, level {}",
        found.kind, found.schema, found.level
    ));
    lines.push(format!("  name     {}", found.name));
    for server in &found.servers {
        let places: Vec<String> = server.https.iter().map(|place| format!("https://{place}")).collect();
        let alive = if server.alive { "" } else { ", not heard" };
        lines.push(format!("  holder   {} at {}{alive}", server.name, places.join(", ")));
    }
    lines.join("\n")
}

pub(super) fn name(dir: &Path, address: &Address, form: Option<Form>, json: bool) -> anyhow::Result<()> {
    let domain = Config::read(dir)?.domain;
    let (obj, tree, bare) = (
        domain.obj_name(address)?.to_string(),
        domain.tree_name(address)?.to_string(),
        domain.bare_name(address)?.to_string(),
    );
    if json {
        return super::say_json(&json!({ "address": address.to_string(), "obj": obj, "tree": tree, "bare": bare }));
    }
    super::say(&match form {
        Some(Form::Obj) => obj,
        Some(Form::Tree) => tree,
        Some(Form::Bare) => bare,
        None => format!("obj   {obj}\ntree  {tree}\nbare  {bare}"),
    })
}

pub(super) fn pool(dir: &Path, json: bool) -> anyhow::Result<()> {
    let pool: Pool = control::ask(dir, &Request::Pool)?;
    if json {
        return super::say_json(&pool);
    }
    super::say(&overview(&pool))
}

pub(super) fn policy(dir: &Path, json: bool) -> anyhow::Result<()> {
    let asked: Asked = control::ask(dir, &Request::Policy)?;
    if json {
        return super::say_json(&asked);
    }
    let Asked {
        level,
        floor,
        steps,
        objects_by_level,
    } = &asked;
    let counts: Vec<String> = objects_by_level
        .iter()
        .map(|(level, objects)| format!("{objects} at level {level}"))
        .collect();
    let counts = if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    };
    super::say(&format!(
        "level {level}, floor {floor}, schema steps: {steps}\nobjects at their last change of owner: {counts}"
    ))
}

fn overview(pool: &Pool) -> String {
    let mut lines = vec![format!("pool {}, {} objects", pool.domain, pool.objects)];
    if let Some(waits_for) = &pool.reconcile {
        lines.push(format!(
            "the registry is being reconciled, no register changes; waits for {} (`librarian reconcile`)",
            waits_for.join(", ")
        ));
    }
    if let Some(plan) = &pool.plan {
        let state = if plan.done {
            "done".to_owned()
        } else {
            format!("{} objects left", plan.objects_left)
        };
        lines.push(format!("plan {}: {}, {state}", plan.plan, plan.goal));
        lines.extend(plan.waits.iter().map(|wait| format!("  waits: {wait}")));
    }
    let head = [
        "SERVER", "ROLE", "RELEASE", "OBJECTS", "BYTES", "CAPACITY", "LOAD", "HEAT", "ERRORS", "LEASE",
    ];
    lines.extend(columns(head, pool.servers.iter().map(row)));
    let quarantined = pool.servers.iter().filter(|server| server.quarantined > 0);
    lines.extend(quarantined.map(|server| {
        format!(
            "{} of {} are quarantined: a schema step failed, `agent ls --json` says why",
            server.quarantined, server.name
        )
    }));
    let doubtful = pool.servers.iter().filter(|server| server.log_is_doubtful);
    lines.extend(doubtful.map(|server| {
        format!(
            "the log of moves of {} was cut back or rewritten: `librarian audit verify`",
            server.name
        )
    }));
    if pool.servers.is_empty() {
        lines.push("no server has joined yet: librarian invite s1".to_owned());
    }
    lines.join("\n")
}

fn row(server: &Server) -> [String; 10] {
    let role = match server.targets.is_empty() {
        true => server.role.clone(),
        false => format!("{} to {}", server.role, server.targets.join(",")),
    };
    let lease = match (server.alive, server.lease_s) {
        (true, Some(left)) => format!("{left:.0} s"),
        (true, None) | (false, None) => "not heard".to_owned(),
        (false, Some(_)) => format!("over, heard {:.0} s ago", server.heard_s.unwrap_or_default()),
    };
    [
        server.name.clone(),
        role,
        server.release.clone().unwrap_or_else(|| "-".to_owned()),
        server.owned.to_string(),
        octets(server.bytes),
        octets(server.capacity),
        format!("{:.1} %", f64::from(server.load) / 10.0),
        server.heat.to_string(),
        server.errors.to_string(),
        lease,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_says_what_to_do() {
        let pool = Pool {
            domain: "hypernet.internal.".to_owned(),
            objects: 0,
            reconcile: None,
            plan: None,
            servers: Vec::new(),
        };
        assert!(overview(&pool).contains("librarian invite"));
    }
}
