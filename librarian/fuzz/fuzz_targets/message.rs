//! Any octets as a DNS message: unsigned, or signed by an agent's or the admin's key, so that what lies behind a
//! signature that holds is reached as well. Whatever comes, an answer has the id of its request and fits its transport.

#![no_main]

mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use librarian::answer::reply::Transport;
use zones::tsig::sign_request;

use world::{WORLD, keys};

fuzz_target!(|octets: &[u8]| {
    let Some((choice, octets)) = octets.split_first() else { return };
    let mut message = octets.to_vec();
    let signer = keys().into_iter().nth(usize::from(choice >> 1 & 3));
    // Of a message that counts as many records as there can be no signed one can be made.
    let has_room = (12..65_000).contains(&message.len()) && message[10..12] != [0xff; 2];
    if let Some(signer) = signer.filter(|_| has_room) {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        sign_request(&mut message, &signer, now_s);
    }
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let world = &*WORLD;
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (choice >> 3 & 1)));
    if let Some(reply) = world.runtime.block_on(world.service.respond(&message, from, transport)) {
        assert!(reply.len() >= 12 && reply[..2] == message[..2] && reply[2] & 0x80 != 0);
        assert!(transport == Transport::Tcp || reply.len() <= 1232);
    }
});
