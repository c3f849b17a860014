//! Any text is a step's program or is refused with words; none is run here, since only the process with limits ends what loops.
#![no_main]

use agent::schema::step::Program;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Program::compile(text) {
        assert!(!error.to_string().is_empty());
    }
});
