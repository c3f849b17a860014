//! A row that is read writes back to a row that reads the same.
#![no_main]

use agent::store::Entry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok(entry) = Entry::decode_row(1, octets) {
        assert_eq!(Entry::decode_row(1, &entry.encode_row()).expect("its own row"), entry);
    }
});
