//! Answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::query::read_answer;

fuzz_target!(|octets: &[u8]| {
    let Ok(answer) = read_answer(octets) else { return };
    let _ = (
        answer.txt().count(),
        answer.srv().count(),
        answer.addresses().count(),
        answer.why(),
    );
});
