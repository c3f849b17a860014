//! Certificates that came from somebody, read without and with the check of their signature.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use certs::{Anchor, Authority, Peer, Revocations, Serial, UnixTime};
use libfuzzer_sys::fuzz_target;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));

static ANCHOR: LazyLock<Anchor> = LazyLock::new(|| {
    let domain = "hypernet.internal".parse().expect("legal");
    let authority = Authority::create(&domain, Serial::new([1; 16]), NOW).expect("created");
    authority.anchor().clone()
});

fuzz_target!(|der: &[u8]| {
    let _ = Peer::read(der, NOW, &Revocations::default());
    assert!(ANCHOR.verify(der, NOW, &Revocations::default()).is_err(), "nobody has this key");
});
