//! Any octets as an unsigned question: where it is answered straight from the table, the general path gives the same octets.

#![no_main]

mod world;

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;

use world::WORLD;

fuzz_target!(|octets: &[u8]| {
    let Some((choice, octets)) = octets.split_first() else { return };
    // A listed network, or a stranger.
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (choice & 1)));
    if let Some((straight, general)) = WORLD.service.compare(octets, from) {
        assert_eq!(straight, general);
    }
});
