//! The two messages of joining.
#![no_main]

use certs::{JoinAnswer, JoinRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok(request) = JoinRequest::from_json(octets) {
        let _ = request.fields();
    }
    if let Ok(answer) = JoinAnswer::from_json(octets) {
        let _ = answer.pool_key();
    }
});
