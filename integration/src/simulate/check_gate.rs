//! What the gate of an emptied server must find: what it gave is what others took.
//!
//! The controller is told two sums; the judge looks at the moves themselves, so that it can say which one is missing.
//!
//! Specification: DESIGN.md section 13 (gate after every step), PROTOCOL.md section 4.

use std::collections::BTreeMap;

use zones::upkeep::Sum;
use zones::{ServerName, audit};

use super::agent::Machine;

/// Of a server that has just been found empty, drained since this plan: every copy that it keeps is one that another took, in
/// the form in which it was given, and the other way round.
pub(super) fn gate(machines: &[Machine], source: &ServerName, since: u64) -> Result<(), String> {
    let Some(machine) = machines.iter().find(|machine| machine.name == *source) else {
        return Ok(());
    };
    let local = &machine.process.local;
    let vault = local.store().vault();
    let mut gave = BTreeMap::new();
    let mut all = Sum::default();
    for row in local.store().entries() {
        let Some(given) = row.given() else { continue };
        all = all.with(vault.element(&given));
        // What left by a wish before is no part of the drain.
        if row
            .leaving
            .is_some_and(|leaving| leaving.gated && leaving.plan >= since)
        {
            gave.insert(vault.element(&given), given);
        }
    }
    if all != local.moved() {
        return Err(format!("gate: {source} tells {} and its rows say {all}", local.moved()));
    }
    for taker in machines.iter().filter(|taker| taker.name != *source) {
        for (_, line) in &taker.log()?.entries {
            let entry = audit::Entry::read(line).map_err(|error| error.to_string())?;
            let counts = entry.from == *source && entry.plan().is_some_and(|plan| plan >= since);
            let given = entry.given().ok_or("gate: a digest of the log is none")?;
            if counts && gave.remove(&vault.element(&given)).is_none() && !entry.actor.starts_with("wish") {
                return Err(format!(
                    "gate: {} took what {source} does not say it gave: {given:?}, {}",
                    taker.name, entry.actor
                ));
            }
        }
    }
    // Whoever has committed and not yet noted it has the copy in its journal: the gate waits for that.
    let is_coming = |address: &zones::Address| {
        let mut rows = machines
            .iter()
            .flat_map(|machine| machine.process.local.store().entries());
        rows.any(|row| row.address == *address && row.journal.is_arriving())
    };
    match gave.into_values().find(|given| !is_coming(&given.address)) {
        Some(given) => Err(format!("gate: nobody took what {source} says it gave: {given:?}")),
        None => Ok(()),
    }
}
