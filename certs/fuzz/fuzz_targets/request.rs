//! Certificate requests that came with a token.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use certs::{Authority, Serial, UnixTime, Who};
use libfuzzer_sys::fuzz_target;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let domain = "hypernet.internal".parse().expect("legal");
    Authority::create(&domain, Serial::new([1; 16]), NOW).expect("created")
});

fuzz_target!(|pem: &str| {
    let who = Who::Server("s2".parse().expect("legal"));
    let _ = AUTHORITY.sign(&who, pem, Serial::new([2; 16]), NOW);
});
