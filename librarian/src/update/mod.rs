//! RFC 2136 updates: what a message asks for, whether it may, and what it changes.
//!
//! | zone | who | what |
//! |---|---|---|
//! | `obj` | agents, admin | registers, by the transition table of [`zones::transition`] |
//! | `pool` | an agent | what its server has, at the server's own name |
//! | `tree` | admin | delegations of prefixes to other pools: NS and glue |
//! | the domain | admin | any records, as RFC 2136 says |
//!
//! The order is the RFC's: zone (section 3.1), prerequisites (3.2), permission (3.3), form of the changes and the changes
//! (3.4). Departures: while the registry is reconciled, and to a server that was written off, refusals come before the
//! prerequisites; whoever is neither agent nor admin is refused before any of it, since prerequisites would tell a
//! stranger what exists.

mod apex;
mod delegation;
mod objects;
mod prerequisite;
pub(crate) mod swaps;

pub(crate) use apex::{is_later, set_apex_serial};
use hickory_proto::op::ResponseCode;
use zones::update::read_has_update;
use zones::{Domain, Update, UpdateFormatError, Zone};

use crate::registry::draft::Draft;
use crate::registry::{ADDRESSES_MAX, By, Host, Received, Refused};

/// Judges an update on a draft and makes its changes there. After a refusal the draft is to be thrown away.
pub(crate) fn apply(
    draft: &mut Draft<'_>,
    by: &By,
    update: &Update,
    malformed: Option<&UpdateFormatError>,
    received: Received,
) -> Result<(), Refused> {
    let zone = served_zone(draft.domain(), update)?;
    stand(draft, by, zone)?;
    for prerequisite in &update.prerequisites {
        prerequisite::check(draft, zone, prerequisite)?;
    }
    permit(by, zone)?;
    if let Some(malformed) = malformed {
        return Err(Refused::with(malformed.response_code(), malformed.to_string()));
    }
    match zone {
        Zone::Obj => objects::apply(draft, by, update),
        Zone::Pool => speak(draft, by, update, received),
        Zone::Tree => delegation::apply(draft, update),
        Zone::Apex => apex::apply(draft, update),
    }
}

/// The zone that the message names.
fn served_zone(domain: &Domain, update: &Update) -> Result<Zone, Refused> {
    let zones = [Zone::Obj, Zone::Tree, Zone::Pool, Zone::Apex];
    let found = zones.into_iter().find(|zone| *domain.zone(*zone) == update.zone);
    found.ok_or_else(|| {
        let why = format!("{} is no zone of this server", update.zone);
        Refused::with(ResponseCode::NotAuth, why)
    })
}

/// While the registry is reconciled no register changes; a server that was written off changes nothing at all. Before the
/// prerequisites: what they would tell may be old.
fn stand(draft: &Draft<'_>, by: &By, zone: Zone) -> Result<(), Refused> {
    let reconcile = draft.reconcile();
    match by {
        By::Agent(server) if reconcile.written_off.contains(server) => {
            return Err(Refused::prohibited(format!(
                "server {server} was written off: empty its directory and join anew (`librarian invite {server} --again`)"
            )));
        }
        By::Agent(_) | By::Admin => {}
    }
    match zone {
        Zone::Obj | Zone::Tree if !reconcile.open => Err(Refused::reconciling()),
        Zone::Obj | Zone::Tree | Zone::Pool | Zone::Apex => Ok(()),
    }
}

fn permit(by: &By, zone: Zone) -> Result<(), Refused> {
    match (by, zone) {
        (By::Admin, Zone::Obj | Zone::Tree | Zone::Apex) | (By::Agent(_), Zone::Obj | Zone::Pool) => Ok(()),
        (By::Admin, Zone::Pool) => Err(Refused::prohibited(
            "only a server itself says what it has; what it should do is written by the controller",
        )),
        (By::Agent(_), Zone::Tree | Zone::Apex) => Err(Refused::prohibited("only the admin key may change this zone")),
    }
}

/// A server says what it has; its lease begins anew.
fn speak(draft: &mut Draft<'_>, by: &By, update: &Update, received: Received) -> Result<(), Refused> {
    if update.changes.is_empty() {
        return Ok(());
    }
    let said = read_has_update(draft.domain(), update).map_err(|error| match error {
        zones::update::HasUpdateError::Has { .. } => Refused::with(ResponseCode::FormErr, chain(&error)),
        error => Refused::prohibited(error.to_string()),
    })?;
    if *by != By::Agent(said.server.clone()) {
        return Err(Refused::prohibited(format!(
            "only server {} may say what it has",
            said.server
        )));
    }
    if said.addresses.len() > ADDRESSES_MAX {
        return Err(Refused::prohibited(format!(
            "a server has at most {ADDRESSES_MAX} addresses"
        )));
    }
    if let Some(bad) = said
        .addresses
        .iter()
        .find(|at| at.is_unspecified() || at.is_multicast())
    {
        return Err(Refused::prohibited(format!(
            "{bad} is no address of a server: set the advertised addresses"
        )));
    }
    let Some(server) = draft.server(&said.server) else {
        return Err(Refused::prohibited(format!(
            "server {} is not of this pool: invite it first",
            said.server
        )));
    };
    let mut server = server.clone();
    server.told_of_log(said.has.audit);
    server.host = Some(Host {
        https_port: said.https_port,
        addresses: said.addresses,
        has: said.has,
    });
    server.seen = Some(received.at);
    server.clock_ahead_s = received.ahead_s;
    draft.put_server(server);
    Ok(())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod swaps_tests;
#[cfg(test)]
mod tests;
