//! What is read as properties has one canonical form.
#![no_main]

use agent::vault::properties::{canonical, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Ok(properties) = read(octets) else { return };
    let first = canonical(&properties).expect("finite numbers only");
    let again = read(&first).expect("what is canonical is read");
    assert_eq!(canonical(&again).expect("finite numbers only"), first);
});
