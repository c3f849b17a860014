//! Lines and heads of logs of moves. A line is read, written and read again as the same entry; a head has one spelling.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::audit::{Entry, Head};

fuzz_target!(|octets: &[u8]| {
    if let Ok(entry) = Entry::read(octets) {
        let line = entry.line();
        // Digits of exponents and the like are written shorter, escapes may be longer: only what fits is read again.
        if let Ok(again) = Entry::read(line.as_bytes()) {
            assert_eq!(again, entry);
        }
    }
    if let Ok(text) = std::str::from_utf8(octets)
        && let Ok(head) = text.parse::<Head>()
    {
        assert_eq!(head.to_string(), text);
        if head.count < u64::MAX {
            assert_eq!(head.next(octets).count, head.count + 1);
        }
    }
});
