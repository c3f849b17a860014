//! Signed messages. A MAC is out of a fuzzer's reach, so what it makes is also signed, cut and verified again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::TsigKey;
use zones::tsig::{sign_request, sign_response, verify_request, verify_response};

fuzz_target!(|octets: &[u8]| {
    let key = TsigKey::new("s2", &[7; 32]).expect("a key");
    match verify_request(octets, |_| Some(key.clone()), 0) {
        Ok(Some(_)) => panic!("a MAC was guessed"),
        Ok(None) => {
            let mut signed = octets.to_vec();
            let mac = sign_request(&mut signed, &key, 0);
            let verified = verify_request(&signed, |_| Some(key.clone()), 0);
            let verified = verified.expect("it was just signed").expect("it was just signed");
            assert_eq!((verified.mac, verified.message_octets), (mac, octets.len()));
            let mut answer = octets.to_vec();
            sign_response(&mut answer, &key, &mac, 0);
            assert_eq!(verify_response(&answer, &key, &mac, 0), Ok(()));
        }
        Err(failure) => {
            let mut answer = vec![0; 12];
            failure.sign_answer(&mut answer, 0);
        }
    }
});
