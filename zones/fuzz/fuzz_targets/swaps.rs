//! Updates that are read as swaps of registers: the general reading says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::Domain;
use zones::update::Swaps;

#[path = "../../tests/swaps/means.rs"]
mod means;

fuzz_target!(|octets: &[u8]| {
    let domain: Domain = "hypernet.internal".parse().expect("a domain");
    if let Some((swaps, frame)) = Swaps::read(&domain, octets) {
        means::the_same(&domain, &swaps, &frame);
    }
});
