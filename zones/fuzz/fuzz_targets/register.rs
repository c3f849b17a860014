//! Registers as character-strings, one a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::Register;

fuzz_target!(|octets: &[u8]| {
    let strings: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').collect();
    let Ok(register) = Register::from_strings(&strings) else {
        return;
    };
    let again = register.strings();
    assert!(again.iter().map(String::as_bytes).eq(strings));
    assert_eq!(register.check(), Ok(()));
});
