//! No keyring, backup or key file but the one that this key sealed opens; none makes the reader panic or take the machine's memory.
#![no_main]

use agent::vault::{Secret, keyring, pkcs11};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

fuzz_target!(|octets: &[u8]| {
    let secret = Secret::Key(Zeroizing::new([7; 32]));
    assert!(keyring::check_octets(octets, &secret).is_err());
    assert!(keyring::backup::check_octets(octets, &secret).is_err());
    // A key file says nothing secret: whatever reads as one, the token judges.
    let _ = pkcs11::check_octets(octets);
});
