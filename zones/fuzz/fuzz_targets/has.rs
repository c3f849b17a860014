//! What servers say of themselves, one character-string a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::Has;

fuzz_target!(|octets: &[u8]| {
    let strings: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').collect();
    if let Ok(has) = Has::from_strings(&strings) {
        assert!(has.strings().iter().map(String::as_bytes).eq(strings));
    }
});
