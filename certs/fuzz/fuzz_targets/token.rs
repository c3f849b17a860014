//! Join tokens as people carry them.
#![no_main]

use certs::JoinToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        let again: JoinToken = token.expose().parse().expect("what is written can be read");
        assert_eq!(again, token);
    }
});
