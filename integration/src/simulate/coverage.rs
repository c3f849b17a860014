//! Which pairs of state and event the machines of a move can meet, and which were met.

use std::collections::BTreeSet;

use agent::transfer::engine::Side;

use super::agent::Pair;
use super::cli::side;

const SOURCE_STATES: [&str; 15] = [
    "reserving",
    "noting the move",
    "opening",
    "copying",
    "closing",
    "noting the seal",
    "sealed",
    "aborting",
    "noting the return",
    "noting the loss",
    "noting the deletion",
    "moved",
    "reclaiming",
    "recovering",
    "ended",
];
const SOURCE_EVENTS: [&str; 20] = [
    "Register",
    "NoAnswer",
    "Changed(Done",
    "Changed(Refused",
    "Changed(Unknown",
    "Durable",
    "NotDurable",
    "Peer(Reserved",
    "Peer(Refused",
    "Peer(Ready",
    "Peer(Staged",
    "Peer(Damaged",
    "Peer(NotCommitted",
    "Peer(Fenced",
    "Peer(Dropped",
    "PeerLost",
    "Shipped",
    "ShipFailed",
    "Closed",
    "TakenOver",
];
const DESTINATION_STATES: [&str; 15] = [
    "reserving",
    "noting the reservation",
    "reserved",
    "checking",
    "staging",
    "noting the preparation",
    "noting the commit",
    "commit sent",
    "noting the taking",
    "returning",
    "waiting",
    "opening",
    "noting the loss",
    "dropping",
    "ended",
];
const DESTINATION_EVENTS: [&str; 21] = [
    "Space(true",
    "Space(false",
    "Register",
    "NoAnswer",
    "Changed(Done",
    "Changed(Refused",
    "Changed(Unknown",
    "Durable",
    "NotDurable",
    "Peer(Reserve",
    "Peer(Open",
    "Peer(Seal",
    "Peer(Ask",
    "Peer(FenceAnswered",
    "Peer(Abort",
    "CopyBegan",
    "Copied(CopyFacts",
    "CopyFailed",
    "CopyDamaged",
    "Superseded",
    "PeerLost",
];

/// The pairs that were not met, as `side/state/event`.
#[must_use]
pub(super) fn unreached(met: &BTreeSet<Pair>) -> Vec<String> {
    let all = |of: Side, states: &[&'static str], events: &[&str]| -> Vec<String> {
        states
            .iter()
            .flat_map(|state| events.iter().map(move |event| (of, *state, (*event).to_owned())))
            .filter(|pair| !met.contains(pair))
            .map(|(of, state, event)| format!("{}/{state}/{event}", side(of)))
            .collect()
    };
    let mut unreached = all(Side::Source, &SOURCE_STATES, &SOURCE_EVENTS);
    unreached.extend(all(Side::Destination, &DESTINATION_STATES, &DESTINATION_EVENTS));
    unreached
}
