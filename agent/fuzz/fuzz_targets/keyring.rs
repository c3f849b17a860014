//! No file but the one that this key sealed opens; none makes the reader panic or take the machine's memory.
#![no_main]

use agent::vault::{Secret, keyring};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

fuzz_target!(|octets: &[u8]| {
    let secret = Secret::Key(Zeroizing::new([7; 32]));
    assert!(keyring::check_octets(octets, &secret).is_err());
});
