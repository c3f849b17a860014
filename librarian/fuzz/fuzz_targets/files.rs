//! What lies beside the registry, behind digests that fit: any octets as commits that the database lacks and as a checkpoint, or a
//! checkpoint of which some octets are others.

#![no_main]

mod world;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use librarian::registry::read_files;
use zones::Domain;

use world::WORLD;

static DOMAIN: LazyLock<Domain> = LazyLock::new(|| "hypernet.internal".parse().expect("a domain"));

fuzz_target!(|octets: &[u8]| {
    let Some((choice, octets)) = octets.split_first() else { return };
    if choice & 1 == 0 {
        return read_files(octets, &DOMAIN);
    }
    let mut saved = WORLD.saved.clone();
    for &[high, low, octet] in octets.as_chunks().0 {
        let at = usize::from(u16::from_be_bytes([high, low])) % saved.len();
        saved[at] = octet;
    }
    read_files(&saved, &DOMAIN);
});
