//! Swaps, judged from their octets and as the records that they are.

use hickory_proto::op::Message;
use proptest::prelude::*;
use zones::tsig::TsigKey;
use zones::update::Swaps;
use zones::{Epoch, Register, RegisterChange, State, Tx, read_update};

use crate::registry::draft::{Draft, Overlay};
use crate::registry::{By, Entry, Refused, proposal};
use crate::testing::{Pool, domain, received, server};

/// The octets of an update before its signature.
fn signed(changes: &[RegisterChange]) -> Vec<u8> {
    let mut octets = zones::update::build_register_update(&domain(), 9, changes).unwrap();
    let before = octets.len();
    let key = TsigKey::new("s1.hypernet.internal", &[7; 32]).unwrap();
    zones::tsig::sign_request(&mut octets, &key, 1);
    octets.truncate(before);
    octets
}

/// One change of one of three registers, right or wrong in some way.
fn change(registers: &[Register], (object, kind, tx): (usize, u8, [u8; 16])) -> RegisterChange {
    let old = registers[object].clone();
    let new = Register {
        tx: Tx(tx),
        ..old.clone()
    };
    let fresh = Pool::first_with(&format!("4.{object}"), "s1", Tx(tx));
    let (old, new) = match kind {
        // Made new; then what is there already.
        0 => (None, fresh),
        1 => (None, new),
        // Another copy; handed over; deleted; nothing changed.
        2 => {
            let holders = vec![server("s1"), server("s2")];
            (Some(old), Register { holders, ..new })
        }
        3 => {
            let state = State::Moving { to: server("s2") };
            (Some(old), Register { state, ..new })
        }
        4 => {
            let gone = Register {
                state: State::Deleted,
                holders: Vec::new(),
                epoch: Epoch(2),
                ..new
            };
            (Some(old), gone)
        }
        5 => (Some(old.clone()), old),
        // From what was never there; of another owner.
        6 => (Some(new.clone()), Register { tx: Tx([3; 16]), ..new }),
        _ => {
            let new = Register {
                owner: server("s2"),
                holders: vec![server("s2")],
                ..new
            };
            (Some(old), new)
        }
    };
    RegisterChange { old, new }
}

type Outcome = Result<Vec<Entry>, Refused>;

/// What a proposal comes to on the published state.
fn outcome(pool: &Pool, proposal: &proposal::Proposal) -> Outcome {
    let view = pool.registry.view();
    let group = Overlay::default();
    let mut draft = Draft::new(view.index(), &group);
    proposal::draft(&mut draft, proposal)?;
    Ok(draft.finish().1.entries)
}

fn both(pool: &Pool, by: &By, octets: &[u8]) -> Option<(Outcome, Outcome)> {
    let (swaps, _) = Swaps::read(&domain(), octets)?;
    let update = read_update(&Message::from_vec(swaps.message()).unwrap()).unwrap();
    let received = received();
    let general = proposal::Proposal::Update {
        by: by.clone(),
        update,
        malformed: None,
        received,
    };
    let by = by.clone();
    let straight = proposal::Proposal::Swaps { by, swaps, received };
    Some((outcome(pool, &straight), outcome(pool, &general)))
}

#[tokio::test]
async fn swaps_come_to_what_their_records_come_to() {
    let pool = Pool::new().await;
    let registers = pool.create("s1", &["3.1", "3.2.A", "3.3"]).await;
    let (mut made, mut refused) = (0, 0);
    let changes = proptest::collection::vec((0..3_usize, 0..8_u8, any::<[u8; 16]>()), 1..4);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let ran = runner.run(&(changes, 0..3_u8), |(changes, by)| {
        let by = match by {
            0 => By::Admin,
            number => By::Agent(server(&format!("s{number}"))),
        };
        let changes: Vec<RegisterChange> = changes.into_iter().map(|one| change(&registers, one)).collect();
        let (straight, general) = both(&pool, &by, &signed(&changes)).expect("the usual form");
        prop_assert_eq!(&straight, &general);
        Ok(())
    });
    ran.unwrap();
    for kind in 0..8 {
        let changes = [change(&registers, (0, kind, [9; 16]))];
        let (straight, general) = both(&pool, &By::Agent(server("s1")), &signed(&changes)).unwrap();
        assert_eq!(straight, general, "{kind}");
        *(if straight.is_ok() { &mut made } else { &mut refused }) += 1;
    }
    assert_eq!((made, refused), (4, 4), "what the kinds of changes come to");
}

#[tokio::test]
async fn two_swaps_of_one_object_are_judged_on_the_state_before_the_message() {
    let pool = Pool::new().await;
    let old = pool.create("s1", &["3.1"]).await.remove(0);
    let next = |tx| Register {
        tx: Tx([tx; 16]),
        ..old.clone()
    };
    let holders = vec![server("s1"), server("s2")];
    let grown = |tx| Register {
        holders: holders.clone(),
        ..next(tx)
    };
    let swap = |old: &Register, new: Register| RegisterChange {
        old: Some(old.clone()),
        new,
    };
    // The second rests on the first: its prerequisite does not hold when the message comes.
    let octets = signed(&[swap(&old, grown(1)), swap(&grown(1), grown(2))]);
    let (straight, general) = both(&pool, &By::Admin, &octets).unwrap();
    assert_eq!(straight, general);
    assert!(straight.is_err());
    // Both rest on what is there: the last counts.
    let octets = signed(&[swap(&old, grown(1)), swap(&old, grown(2))]);
    let (straight, general) = both(&pool, &By::Agent(server("s1")), &octets).unwrap();
    assert_eq!(straight, general);
    assert_eq!(straight, Ok(vec![Entry::Register(grown(2))]));
}
