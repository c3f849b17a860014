//! What plans ask of objects, one character-string a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::Policy;

fuzz_target!(|octets: &[u8]| {
    let strings: Vec<&[u8]> = match octets {
        [] => Vec::new(),
        octets => octets.split(|octet| *octet == b'\n').collect(),
    };
    if let Ok(policy) = Policy::from_strings(&strings) {
        assert!(policy.is_sound() && policy.follows(&policy));
        assert!(policy.strings().iter().map(String::as_bytes).eq(strings));
    }
});
