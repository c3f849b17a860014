//! Any files of a type's directory are read or are faults, and what is read without a fault is a whole chain.
#![no_main]

use std::path::Path;

use agent::schema::read::of_files;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 8] = [
    "1.schema.json",
    "2.schema.json",
    "3.schema.json",
    "1.examples.json",
    "1-to-2.jq",
    "2-to-1.jq",
    "2-to-3.jq",
    "3-to-2.jq",
];

// The input is a list of files with a zero octet between them; the first octet of each says which it is.
fuzz_target!(|octets: &[u8]| {
    let files = octets.split(|octet| *octet == 0).filter_map(|file| {
        let (which, text) = file.split_first()?;
        let name = NAMES[usize::from(*which) % NAMES.len()];
        Some((name.to_owned(), Ok(text.to_vec())))
    });
    let mut faults = Vec::new();
    let one = of_files(Path::new("photo"), files, &mut faults);
    if faults.is_empty() {
        let numbers: Vec<u32> = one.versions().map(|(number, _)| number).collect();
        assert!(!numbers.is_empty());
        for pair in numbers.windows(2) {
            assert_eq!(pair[0] + 1, pair[1]);
            assert!(one.step(pair[0], pair[1]).is_some());
        }
    }
});
