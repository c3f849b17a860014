//! What another agent sends is a message or an error; a message is written again to octets that are read as the same one.
#![no_main]

use agent::migration::wire::{Either, read_frame, take_frame, write_frame};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut received = BytesMut::from(octets);
    while let Ok(Some(frame)) = take_frame(&mut received) {
        check(&frame);
    }
    check(&Bytes::copy_from_slice(octets));
});

fn check(frame: &Bytes) {
    let Ok((address, message, payload)) = read_frame::<Either>(frame) else { return };
    // Numbers may have been spelled longer than they are written, so the octets need not be the same.
    let mut again = BytesMut::new();
    write_frame(&mut again, &address, &message, &[]);
    let again = take_frame(&mut again).expect("it was just written").expect("it is whole");
    assert_eq!(read_frame::<Either>(&again).expect("it was just written"), (address, message, Bytes::new()));
    assert!(payload.len() <= frame.len());
}
