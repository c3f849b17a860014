//! Update messages.
#![no_main]

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use zones::update::read_has_update;
use zones::{Domain, read_update};

fuzz_target!(|octets: &[u8]| {
    let domain: Domain = "hypernet.internal".parse().expect("a domain");
    let Ok(message) = Message::from_vec(octets) else { return };
    let Ok(update) = read_update(&message) else { return };
    assert!(update.names().all(|name| update.zone.zone_of(name)));
    assert_eq!(update.changes.len(), message.authorities.len());
    let _ = read_has_update(&domain, &update);
});
