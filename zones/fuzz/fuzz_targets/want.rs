//! Wants and wishes, one character-string a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::{Want, Wish};

fuzz_target!(|octets: &[u8]| {
    let strings: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').collect();
    if let Ok(want) = Want::from_strings(&strings) {
        // Strings of a later release may follow, and are passed over.
        let written = want.strings();
        assert!(written.len() <= strings.len());
        assert!(written.iter().zip(&strings).all(|(written, read)| written.as_bytes() == *read));
        assert_eq!(Want::from_strings(&written), Ok(want));
    }
    if let Ok(wish) = Wish::from_strings(&strings) {
        assert!(wish.strings().iter().map(String::as_bytes).eq(strings));
    }
});
