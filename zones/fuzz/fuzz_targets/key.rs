//! Key files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::TsigKey;

fuzz_target!(|text: &str| {
    if let Ok(key) = TsigKey::from_bind_file(text) {
        assert_eq!(TsigKey::from_bind_file(&key.to_bind_file()).as_ref(), Ok(&key));
    }
});
