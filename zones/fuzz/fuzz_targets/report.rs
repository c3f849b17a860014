//! Messages of reports to a registry that is being reconciled.
#![no_main]

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use zones::report::{build_report, read_report};
use zones::{Domain, read_update};

fuzz_target!(|octets: &[u8]| {
    let domain: Domain = "hypernet.internal".parse().expect("a domain");
    let Ok(message) = Message::from_vec(octets) else { return };
    let Ok(update) = read_update(&message) else { return };
    let Ok(report) = read_report(&domain, &update) else { return };
    assert!(report.claims.len() + 1 == update.changes.len());
    if let Ok(again) = build_report(&domain, 7, &report) {
        let update = read_update(&Message::from_vec(&again).expect("our own message")).expect("our own update");
        assert_eq!(read_report(&domain, &update), Ok(report));
    }
});
