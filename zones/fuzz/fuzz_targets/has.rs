//! What servers say of themselves, one character-string a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::Has;

fuzz_target!(|octets: &[u8]| {
    let strings: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').collect();
    if let Ok(has) = Has::from_strings(&strings) {
        // A release before this one leaves its last strings out, and one after it adds some, which are passed over.
        let written = has.strings();
        assert!(written.iter().zip(&strings).all(|(written, read)| written.as_bytes() == *read));
        assert_eq!(Has::from_strings(&written), Ok(has));
    }
});
