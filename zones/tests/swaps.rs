//! Updates read as swaps of registers, against the general reading.

use std::collections::HashSet;

use proptest::prelude::*;
use zones::tsig::{TsigKey, sign_request, verify_request};
use zones::update::{RegisterChange, Swaps, build_register_update};
use zones::{Address, Domain, Epoch, Level, Register, State, Tx};

#[path = "swaps/means.rs"]
mod means;

fn domain() -> Domain {
    "hypernet.internal".parse().unwrap()
}

fn register(address: &str, tx: [u8; 16]) -> Register {
    Register {
        address: address.parse().unwrap(),
        epoch: Epoch(7),
        owner: "s1".parse().unwrap(),
        state: State::Moving {
            to: "s3".parse().unwrap(),
        },
        tx: Tx(tx),
        holders: vec!["s1".parse().unwrap(), "s2".parse().unwrap()],
        kind: "photo".parse().unwrap(),
        schema: 3,
        level: Level(1),
    }
}

/// Changes of different objects, each part of whose address is its own label: some are made new.
fn changes() -> impl Strategy<Value = Vec<RegisterChange>> {
    let address = "[0-9a-zA-C_-]{1,6}(\\.[0-9a-z_-]{1,6}){0,4}";
    let change = (address, any::<bool>(), any::<[u8; 16]>(), any::<[u8; 16]>());
    proptest::collection::vec(change, 1..120).prop_map(|changes| {
        let mut seen = HashSet::new();
        let changes = changes.into_iter().filter(|(address, ..)| {
            let folded = address.to_lowercase();
            let are_labels = folded.split('.').all(|part| !part.starts_with("xh--"));
            are_labels && seen.insert(folded)
        });
        let changes = changes.map(|(address, is_new, before, after)| RegisterChange {
            old: (!is_new).then(|| register(&address, before)),
            new: register(&address, after),
        });
        changes.collect()
    })
}

/// The octets of an update before its signature.
fn signed(domain: &Domain, changes: &[RegisterChange]) -> Vec<u8> {
    let mut octets = build_register_update(domain, 9, changes).unwrap();
    let key = TsigKey::new("s1.hypernet.internal", &[7; 32]).unwrap();
    sign_request(&mut octets, &key, 1);
    let signed = verify_request(&octets, |_| Some(key), 1).unwrap().unwrap();
    octets.truncate(signed.message_octets);
    octets
}

proptest! {
    #[test]
    fn updates_that_agents_build_are_read_as_swaps(changes in changes()) {
        let domain = domain();
        let (swaps, frame) = Swaps::read(&domain, &signed(&domain, &changes)).expect("the usual form");
        prop_assert_eq!(swaps.iter().len(), changes.len());
        for ((old, new), change) in swaps.iter().zip(&changes) {
            prop_assert_eq!(new, &change.new);
            prop_assert_eq!(old.map(<[u8]>::to_vec), change.old.as_ref().map(Register::rdata));
        }
        means::the_same(&domain, &swaps, &frame);
    }

    /// Octets changed, or moved, in what agents build.
    #[test]
    fn what_is_read_as_swaps_is_read_in_general_to_the_same_effect(
        changes in changes(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let domain = domain();
        let mut octets = signed(&domain, &changes);
        for (at, with) in damage {
            let at = at.index(octets.len());
            octets[at] = with;
        }
        if let Some((swaps, frame)) = Swaps::read(&domain, &octets) {
            means::the_same(&domain, &swaps, &frame);
        }
    }
}

/// What differs from the usual form in one thing is not read as swaps.
#[test]
fn other_forms_are_left_to_the_general_reading() {
    let domain = domain();
    let change = |address: &str| RegisterChange {
        old: Some(register(address, [1; 16])),
        new: register(address, [2; 16]),
    };
    let usual = signed(&domain, &[change("3.1.2")]);
    assert!(Swaps::read(&domain, &usual).is_some());
    let with = |at: usize, octet: u8| {
        let mut octets = usual.clone();
        octets[at] = octet;
        octets
    };
    let text = |needle: &[u8], last: bool| {
        let mut found = (0..usual.len()).filter(|at| usual[*at..].starts_with(needle));
        let at = if last { found.next_back() } else { found.next() };
        at.expect("it is in the message")
    };
    let long = format!("1.{}", "a".repeat(64));
    let others: Vec<(&str, Vec<u8>)> = vec![
        ("a question", with(2, 0)),
        ("an answer", with(2, 0xa8)),
        ("another zone", with(13, b'p')),
        ("no prerequisite", with(7, 0)),
        ("more changes than there are", with(9, 9)),
        (
            "another register's address",
            with(text(b"address=3.1.2", true) + 8, b'4'),
        ),
        ("what is no register", with(text(b"hn1", true), b'x')),
        (
            "a string that ends behind its record",
            with(text(b"level=1", true) - 1, 9),
        ),
        ("cut short", usual[..usual.len() - 1].to_vec()),
        ("an octet too many", [&usual[..], &[0]].concat()),
        ("a part that is no label", signed(&domain, &[change(&long)])),
        (
            "a part that begins as encoded ones do",
            signed(&domain, &[change("1.xh--a.2")]),
        ),
    ];
    for (what, octets) in others {
        assert!(Swaps::read(&domain, &octets).is_none(), "{what}");
    }
    let old_address: Address = "3.1.2".parse().unwrap();
    let (swaps, _) = Swaps::read(&domain, &usual).unwrap();
    assert!(swaps.iter().all(|(_, new)| new.address == old_address));
}
