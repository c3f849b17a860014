//! `librarian where`, `name`, `pool` and `policy`.

use std::path::Path;

use serde_json::json;
use zones::Address;

use super::text::{columns, octets};
use super::{Form, elsewhere};
use crate::config::Config;
use crate::control;
use crate::control::words::{Asked, Copies, Found, Loss, Pool, Request, Server, Where};

pub(super) fn find(dir: &Path, address: &Address, json: bool) -> anyhow::Result<()> {
    let request = Request::Where {
        address: address.to_string(),
    };
    let found: Found = control::ask(dir, &request)?;
    match found {
        Found::Here(found) if json => super::say_json(&found),
        Found::Here(found) => super::say(&describe(&found)),
        Found::Delegated(delegated) => {
            let found = elsewhere::find(dir, address, &delegated)?;
            if json {
                super::say_json(&found)?;
            } else {
                super::say(&elsewhere::describe(&found))?;
            }
            match elsewhere::unverified(&found) {
                0 => Ok(()),
                some => anyhow::bail!(
                    "{some} of its servers could not be verified: they are not reached, or not of the pool whose authority is set"
                ),
            }
        }
    }
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
    lines.extend(pool.copies.iter().flat_map(copies));
    let head = [
        "SERVER", "ROLE", "RELEASE", "OBJECTS", "COPIES", "BYTES", "CAPACITY", "LOAD", "HEAT", "ERRORS", "LEASE",
    ];
    lines.extend(columns(head, pool.servers.iter().map(row)));
    let quarantined = pool.servers.iter().filter(|server| server.quarantined > 0);
    lines.extend(quarantined.map(|server| {
        format!(
            "{} of {} are quarantined: a schema step failed, `agent ls --json` says why",
            server.quarantined, server.name
        )
    }));
    lines.extend(pool.servers.iter().flat_map(lost));
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

fn copies(copies: &Copies) -> Vec<String> {
    let most = copies.under.values().copied().fold(copies.wanted, u8::max);
    if most < 2 && copies.short + copies.leaving + copies.hot == 0 {
        return Vec::new();
    }
    let under: Vec<String> = copies
        .under
        .iter()
        .map(|(prefix, copies)| format!(", {copies} under {prefix}"))
        .collect();
    let stand = match (copies.begun, copies.short) {
        (false, _) => "not begun".to_owned(),
        (true, 0) => "none missing".to_owned(),
        (true, 1) => "1 object has fewer".to_owned(),
        (true, short) => format!("{short} objects have fewer"),
    };
    let stand = match (copies.unheard, copies.short) {
        (0, _) => stand,
        (_, _) if !copies.begun => stand,
        // They may know of some.
        (1, 0) => "1 server is not heard".to_owned(),
        (unheard, 0) => format!("{unheard} servers are not heard"),
        (1, _) => format!("{stand}, and 1 server is not heard"),
        (unheard, _) => format!("{stand}, and {unheard} servers are not heard"),
    };
    let mut lines = vec![format!("copies: {}{}; {stand}", copies.wanted, under.concat())];
    if copies.hot > 0 {
        let objects = if copies.hot == 1 { "object has" } else { "objects have" };
        lines.push(format!(
            "  {} {objects} {} more for their heat: `librarian heat`",
            copies.hot, copies.hot_copies
        ));
    }
    if copies.leaving > 0 {
        lines.push(format!(
            "  {} objects have a copy on its way off a server",
            copies.leaving
        ));
    }
    if !copies.waits_for.is_empty() {
        lines.push(format!(
            "  waits: {} of a release before copies",
            copies.waits_for.join(", ")
        ));
    }
    lines
}

fn lost(server: &Server) -> Vec<String> {
    let Some(lost_objects) = server.lost_objects else {
        return Vec::new();
    };
    let loss = Loss {
        server: server.name.clone(),
        lost: server.lost,
        owned: server.owned,
        lost_objects,
    };
    let mut lines = vec![super::lost::described(&loss)];
    if server.alive {
        lines.push(format!(
            "{} is heard again: `librarian lost {} --undo` lets it take part",
            server.name, server.name
        ));
    }
    lines
}

fn row(server: &Server) -> [String; 11] {
    let role = match server.targets.is_empty() {
        true => server.role.clone(),
        false => format!("{} to {}", server.role, server.targets.join(",")),
    };
    let lease = match (server.alive, server.lease_s) {
        _ if server.lost => "lost".to_owned(),
        (true, Some(left)) => format!("{left:.0} s"),
        (true, None) | (false, None) => "not heard".to_owned(),
        (false, Some(_)) => format!("over, heard {:.0} s ago", server.heard_s.unwrap_or_default()),
    };
    [
        server.name.clone(),
        role,
        server.release.clone().unwrap_or_else(|| "-".to_owned()),
        server.owned.to_string(),
        server.held.to_string(),
        octets(server.bytes.saturating_add(server.held_bytes)),
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
            copies: None,
            servers: Vec::new(),
        };
        assert!(overview(&pool).contains("librarian invite"));
    }

    #[test]
    fn copies_that_are_missing_or_leave_are_told_where_any_are_wanted() {
        let all = Copies {
            wanted: 2,
            begun: true,
            ..Copies::default()
        };
        let told = |copies_are: Copies| copies(&copies_are).join("\n");
        assert_eq!(told(all.clone()), "copies: 2; none missing");
        let one = Copies {
            wanted: 1,
            ..all.clone()
        };
        assert_eq!(told(one.clone()), "");
        let some = Copies {
            under: [("3.1".to_owned(), 3)].into(),
            short: 12,
            leaving: 4,
            hot: 2,
            hot_copies: 17,
            ..one
        };
        assert_eq!(
            told(some),
            "copies: 1, 3 under 3.1; 12 objects have fewer\n  2 objects have 17 more for their heat: `librarian heat`\n  \
             4 objects have a copy on its way off a server"
        );
        for (short, unheard, says) in [
            (0, 1, "copies: 2; 1 server is not heard"),
            (0, 3, "copies: 2; 3 servers are not heard"),
            (12, 1, "copies: 2; 12 objects have fewer, and 1 server is not heard"),
        ] {
            let copies = Copies {
                short,
                unheard,
                ..all.clone()
            };
            assert_eq!(told(copies), says);
        }
        let waits = Copies {
            begun: false,
            waits_for: vec!["s3".to_owned()],
            ..all
        };
        assert_eq!(
            told(waits),
            "copies: 2; not begun\n  waits: s3 of a release before copies"
        );
    }
}
