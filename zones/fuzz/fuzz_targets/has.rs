//! What servers say of themselves, one character-string a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::Has;

fuzz_target!(|octets: &[u8]| {
    let strings: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').collect();
    if let Ok(has) = Has::from_strings(&strings) {
        let written = has.strings();
        let mut written = written.iter().map(String::as_bytes);
        // Releases before schemas leave the last strings out; they are read as none of it.
        assert!(strings.iter().all(|string| written.next() == Some(*string)));
        assert!(written.next().is_none_or(|rest| rest == b"quarantined=0" && written.next().is_none()));
    }
});
