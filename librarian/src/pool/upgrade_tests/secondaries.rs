//! Secondaries in the stop rule.

use super::*;
use crate::transfer::book::EXPIRE;
use crate::transfer::book::testing::{BookOf, book};
use crate::transfer::secondary::TransferredZone;

/// Runs until the upgrade asks a person, and tells for how long each server waited for the secondary; `each` happens at
/// every look.
fn waits(model: &mut Model, mut each: impl FnMut(&mut Model)) -> BTreeMap<ServerName, Duration> {
    let mut waits = BTreeMap::new();
    for _ in 0..4000 {
        model.now += Duration::from_millis(700);
        each(model);
        while model.control() {}
        match decide(&model.sight) {
            Decision::Wait(found) if found == [Wait::Finalize] => return waits,
            Decision::Wait(found) => {
                for wait in &found {
                    if let Wait::Secondary { server, secondary, .. } = wait {
                        assert_eq!(secondary, "ns2");
                        assert!(wait.to_string().contains("secondary ns2 may still name"));
                        *waits.entry(server.clone()).or_default() += Duration::from_millis(700);
                    }
                }
            }
            Decision::Rest | Decision::Write(_) | Decision::Next(_) => {}
        }
        for server in model.names() {
            let want = model.sight.servers[&server].want.clone();
            let agent = model.agents.get_mut(&server).unwrap();
            if agent.up && want.supersedes(&agent.want) {
                agent.want = want;
            }
            model.act(&server, &mut Dice(1), &mut Faults::default());
            model.sight.servers.get_mut(&server).unwrap().alive = false;
            model.report(&server);
        }
    }
    panic!("the upgrade does not end: {:?}", decide(&model.sight));
}

fn model(book: &std::sync::Arc<crate::transfer::book::Book>) -> Model {
    let mut model = four();
    model.memory = Memory::new(LINGER).with_secondaries(std::sync::Arc::clone(book));
    start(&mut model, &ask());
    model
}

#[test]
fn stopped_secondary_is_waited_for_by_name_and_no_longer_than_its_records_live() {
    let BookOf { book, name, .. } = book(true);
    let mut model = model(&book);
    let mut serial = 0;
    let waited = waits(&mut model, |model| {
        serial += 1;
        model.sight.serials = (serial, serial);
        // It is answered up to the moment that a server is empty, and takes nothing.
        book.asked_soa(&name, TransferredZone::Obj, serial, model.now);
        book.asked(&name, TransferredZone::Obj, Some(0));
    });
    // The free one was named by nothing from the first serial on.
    assert_eq!(waited.len(), 3, "{waited:?}");
    for (server, waited) in waited {
        assert!(
            waited > EXPIRE / 2 && waited <= EXPIRE + Duration::from_secs(4),
            "{server}: {waited:?}"
        );
    }
}

#[test]
fn secondary_that_follows_holds_nothing_up_for_long_and_the_ttls_run_from_what_it_took() {
    let BookOf { book, name, .. } = book(true);
    let mut model = model(&book);
    let mut serial = 0;
    let waited = waits(&mut model, |model| {
        serial += 1;
        model.sight.serials = (serial, serial);
        // It is a few seconds behind.
        book.asked(&name, TransferredZone::Obj, Some(u32::saturating_sub(serial, 5)));
    });
    for (server, waited) in &waited {
        assert!(*waited <= Duration::from_secs(5), "{server}: {waited:?}");
    }
    assert_eq!(
        waited.len(),
        3,
        "each that had objects is waited for until it has taken the zone"
    );
}
