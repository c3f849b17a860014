//! The list of revocations: a document that is read is written and read again as the same list, and takes changes.
#![no_main]

use std::time::Duration;

use certs::{Revocations, UnixTime, Who};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Ok(mut list) = Revocations::read(octets) else { return };
    assert_eq!(Revocations::read(list.to_json().as_bytes()).expect("own document"), list);
    let number = list.number;
    let who = Who::Server("s1".parse().expect("a legal name"));
    let before = list.free_from(&who);
    list.change(&who, None, UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000)));
    assert!(list.number > number || number == u64::MAX);
    assert!(list.free_from(&who) > before || before.as_secs() == u64::MAX);
});
