//! Single rules of DESIGN.md section 11, each on one machine in virtual time.

use std::time::Duration;

use zones::{Epoch, Level, Register, State, Tx};

use super::destination::{self, Destination, DestinationJournal};
use super::source::{self, Offer, Source, SourceJournal, Step};
use super::wire::{Reply, Request};
use super::{ChangeOutcome, CopyFacts, Digests, Question, READ_AFTER_QUESTION, Settings, WRITE_WAIT};
use crate::clock::BootInstant;
use crate::objects::ReadGate;

const MOVE: Tx = Tx([0xAA; 16]);
const COMMIT: Tx = Tx([0xCC; 16]);
const SEED: [u8; 32] = [7; 32];

fn at(ms: u64) -> BootInstant {
    BootInstant::since_boot(Duration::from_secs(100) + Duration::from_millis(ms))
}

fn register(epoch: u64, owner: &str, to: Option<&str>, tx: Tx) -> Register {
    Register {
        address: "1.2".parse().unwrap(),
        epoch: Epoch(epoch),
        owner: owner.parse().unwrap(),
        state: match to {
            Some(to) => State::Moving {
                to: to.parse().unwrap(),
            },
            None => State::Stable,
        },
        tx,
        holders: vec![owner.parse().unwrap()],
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
    }
}

fn offer() -> Offer {
    Offer {
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
        revision: 3,
        octets: 10,
    }
}

fn copy() -> CopyFacts {
    CopyFacts {
        revision: 3,
        digests: Digests {
            properties: Some([1; 32]),
            body: None,
        },
        kind: "photo".parse().unwrap(),
        schema: 1,
        level: Level(1),
    }
}

fn source_actions(source: &mut Source) -> Vec<source::Action> {
    std::iter::from_fn(|| source.poll_action()).collect()
}

fn destination_actions(destination: &mut Destination) -> Vec<destination::Action> {
    std::iter::from_fn(|| destination.poll_action()).collect()
}

fn begin(in_wait: bool) -> Result<Source, source::InWait> {
    let begin = source::Begin {
        me: "s1".parse().unwrap(),
        to: "s2".parse().unwrap(),
        address: "1.2".parse().unwrap(),
        epoch: Epoch(1),
        offer: offer(),
        in_wait,
        seed: SEED,
    };
    Source::begin(at(0), begin, Settings::default())
}

fn feed(source: &mut Source, now: BootInstant, input: source::Input) -> Vec<source::Action> {
    source.handle_input(now, input).unwrap();
    source_actions(source)
}

/// A source whose gate is closing.
fn closing() -> Source {
    let mut source = begin(false).unwrap();
    let tx = source.tx();
    source_actions(&mut source);
    feed(
        &mut source,
        at(0),
        source::Input::Register {
            question: Question(0),
            asked_at: at(0),
            register: Some(register(1, "s1", None, Tx([1; 16]))),
        },
    );
    for input in [
        source::Input::Peer(Reply::Reserved { tx }),
        source::Input::Durable,
        source::Input::Changed(ChangeOutcome::Done),
        source::Input::Peer(Reply::Ready {
            tx,
            staged: None,
            newest: None,
        }),
        source::Input::Shipped { revision: 3 },
        source::Input::Peer(Reply::Staged { tx, revision: 3 }),
        source::Input::Holding { number: 1 },
    ] {
        feed(&mut source, at(0), input);
    }
    source
}

fn closed(librarian_answered: Option<BootInstant>) -> source::Input {
    source::Input::Closed {
        number: 1,
        revision: 3,
        digests: copy().digests,
        difference_octets: 0,
        librarian_answered,
    }
}

fn sealed() -> Source {
    let mut source = closing();
    feed(&mut source, at(0), closed(Some(at(0))));
    let actions = feed(&mut source, at(0), source::Input::Durable);
    assert!(matches!(
        actions[..],
        [
            source::Action::Reads(ReadGate::Until(_)),
            source::Action::Send(Request::Seal { .. })
        ]
    ));
    source
}

fn recovered_destination(journal: DestinationJournal) -> Destination {
    recovered_destination_at(Epoch(1), journal)
}

/// A destination of a move at this epoch.
fn recovered_destination_at(epoch: Epoch, journal: DestinationJournal) -> Destination {
    let recovered = destination::Recovered {
        me: "s2".parse().unwrap(),
        from: "s1".parse().unwrap(),
        address: "1.2".parse().unwrap(),
        epoch,
        tx: MOVE,
        journal,
        seed: SEED,
    };
    let mut destination = Destination::recover(at(0), recovered, Settings::default());
    destination_actions(&mut destination);
    destination
}

fn read(destination: &mut Destination, now: BootInstant, register: Register) -> Vec<destination::Action> {
    let input = destination::Input::Register {
        question: Question(0),
        register: Some(register),
    };
    destination.handle_input(now, input).unwrap();
    destination_actions(destination)
}

/// A destination that has committed and waits; it learned of the commit at 0.
fn waiting() -> Destination {
    let mut destination = recovered_destination(DestinationJournal::CommitSent {
        copy: copy(),
        commit_tx: COMMIT,
    });
    read(&mut destination, at(0), register(2, "s2", None, COMMIT));
    destination.handle_input(at(5), destination::Input::Durable).unwrap();
    let actions = destination_actions(&mut destination);
    assert!(matches!(
        actions[..],
        [
            destination::Action::Own { .. },
            destination::Action::Send(Reply::Fenced { epoch: Epoch(2) })
        ]
    ));
    destination
}

fn fence_answered(destination: &mut Destination, epoch: u64) -> Vec<destination::Action> {
    let answer = Request::FenceAnswered { epoch: Epoch(epoch) };
    destination
        .handle_input(at(10), destination::Input::Peer(answer))
        .unwrap();
    destination_actions(destination)
}

#[test]
fn only_the_answer_to_the_fence_of_this_epoch_opens_writes() {
    let mut destination = waiting();
    for other in [1, 3] {
        assert_eq!(fence_answered(&mut destination, other), []);
    }
    let actions = fence_answered(&mut destination, 2);
    assert!(actions.contains(&destination::Action::OpenWrites));
}

#[test]
fn writes_open_no_earlier_than_2200_ms_after_the_commit_was_learned_of() {
    let mut destination = waiting();
    let end = at(0) + WRITE_WAIT;
    destination.handle_timeout(at(2199));
    assert!(!destination_actions(&mut destination).contains(&destination::Action::OpenWrites));
    destination.handle_timeout(end);
    assert!(destination_actions(&mut destination).contains(&destination::Action::OpenWrites));
}

#[test]
fn reads_are_allowed_from_the_sending_of_the_question_not_from_its_answer() {
    let mut source = sealed();
    source.handle_timeout(at(99));
    source_actions(&mut source);
    source.handle_timeout(at(500));
    let asked = source_actions(&mut source);
    let ask = asked.iter().find_map(|action| match action {
        source::Action::Send(Request::Ask { ask, .. }) => Some(*ask),
        _ => None,
    });
    let answer = Reply::NotCommitted {
        tx: source.tx(),
        ask: ask.expect("a sealed source asks every 500 ms"),
        staged: Some(3),
        busy: false,
    };
    // The answer takes 1.7 s; what it allows ends 2 s after its question.
    let actions = feed(&mut source, at(2200), source::Input::Peer(answer));
    let until = at(500) + READ_AFTER_QUESTION;
    assert_eq!(actions, [source::Action::Reads(ReadGate::Until(until))]);
}

/// The destination has taken the object and deleted it, and its fence was lost: whoever waits here must hear of it, and the
/// copy here counts as given away.
#[test]
fn sealed_source_that_reads_of_a_deletion_has_given_its_object_away_and_opens_its_gate() {
    let mut source = sealed();
    source.handle_timeout(at(500));
    let question = source_actions(&mut source)
        .iter()
        .find_map(|action| match action {
            source::Action::Read { question } => Some(*question),
            _ => None,
        })
        .expect("a sealed source asks the librarian every 500 ms");
    let deleted = Register {
        state: State::Deleted,
        holders: Vec::new(),
        ..register(3, "s2", None, COMMIT)
    };
    let input = source::Input::Register {
        question,
        asked_at: at(500),
        register: Some(deleted),
    };
    let (owner, epoch) = ("s2".parse::<zones::ServerName>().unwrap(), Epoch(2));
    let step = Step::Moved {
        owner: owner.clone(),
        epoch,
    };
    assert_eq!(
        feed(&mut source, at(510), input),
        [source::Action::Reads(ReadGate::Held), source::Action::Persist(step)]
    );
    assert_eq!(
        feed(&mut source, at(520), source::Input::Durable),
        [source::Action::LetGo { owner, epoch }]
    );
}

#[test]
fn answer_to_a_question_that_was_not_asked_allows_nothing() {
    let mut source = sealed();
    for ask in [0, 1, 8, 77] {
        let answer = Reply::NotCommitted {
            tx: source.tx(),
            ask,
            staged: Some(3),
            busy: false,
        };
        assert_eq!(feed(&mut source, at(50), source::Input::Peer(answer)), []);
    }
}

#[test]
fn restarted_destination_says_not_committed_only_after_it_read_the_register() {
    let mut destination = recovered_destination(DestinationJournal::CommitSent {
        copy: copy(),
        commit_tx: COMMIT,
    });
    let ask = destination::Input::Peer(Request::Ask { tx: MOVE, ask: 4 });
    destination.handle_input(at(1), ask.clone()).unwrap();
    assert_eq!(destination_actions(&mut destination), []);
    read(&mut destination, at(2), register(1, "s1", Some("s2"), MOVE));
    destination.handle_input(at(3), ask).unwrap();
    assert!(matches!(
        destination_actions(&mut destination)[..],
        [destination::Action::Send(Reply::NotCommitted { ask: 4, .. })]
    ));
}

#[test]
fn commit_is_known_by_epoch_and_owner_whichever_sending_landed() {
    let mut destination = recovered_destination(DestinationJournal::CommitSent {
        copy: copy(),
        commit_tx: COMMIT,
    });
    let other = Tx([0x11; 16]);
    let actions = read(&mut destination, at(0), register(2, "s2", None, other));
    let active = destination::Step::Active {
        epoch: Epoch(2),
        tx: other,
        wait: true,
    };
    assert_eq!(actions, [destination::Action::Persist(active)]);
}

#[test]
fn moved_copy_is_kept_until_the_register_is_above_its_epoch() {
    let recovered = source::Recovered {
        me: "s1".parse().unwrap(),
        to: "s2".parse().unwrap(),
        address: "1.2".parse().unwrap(),
        epoch: Epoch(1),
        tx: MOVE,
        offer: offer(),
        journal: SourceJournal::Moved {
            owner: "s2".parse().unwrap(),
            epoch: Epoch(2),
        },
        seed: SEED,
    };
    let mut source = Source::recover(at(0), recovered, Settings::default());
    assert_eq!(source_actions(&mut source), []);
    let mut now = at(0);
    // Nothing, and an old registry's text: the copy may be the only one.
    for old in [None, Some(register(1, "s1", Some("s2"), MOVE))] {
        now = source.poll_timeout().expect("it is to be read again").max(now);
        source.handle_timeout(now);
        assert!(matches!(source_actions(&mut source)[..], [source::Action::Read { .. }]));
        let input = source::Input::Register {
            question: Question(0),
            asked_at: now,
            register: old,
        };
        assert_eq!(feed(&mut source, now, input), []);
    }
    now = source.poll_timeout().expect("it is to be read again");
    source.handle_timeout(now);
    source_actions(&mut source);
    let input = source::Input::Register {
        question: Question(0),
        asked_at: now,
        register: Some(register(4, "s3", None, COMMIT)),
    };
    let forward = Step::Forward {
        owner: "s3".parse().unwrap(),
        epoch: Epoch(4),
    };
    assert_eq!(feed(&mut source, now, input), [source::Action::Persist(forward)]);
}

#[test]
fn commit_sent_copy_is_kept_while_the_register_is_older_than_the_move() {
    // An old registry: the object is not there, or in the epoch before the move, or of another owner then.
    for old in [None, Some(("s1", None)), Some(("s1", Some("s3"))), Some(("s3", None))] {
        let mut destination = recovered_destination_at(
            Epoch(3),
            DestinationJournal::CommitSent {
                copy: copy(),
                commit_tx: COMMIT,
            },
        );
        let input = destination::Input::Register {
            question: Question(0),
            register: old.map(|(owner, to)| register(2, owner, to, MOVE)),
        };
        destination.handle_input(at(0), input).unwrap();
        let actions = destination_actions(&mut destination);
        assert!(
            actions
                .iter()
                .all(|action| matches!(action, destination::Action::Read { .. })),
            "{old:?}: {actions:?}"
        );
        assert!(destination.poll_timeout().is_some(), "it asks again");
    }
}

#[test]
fn no_seal_begins_unless_the_librarian_answered_within_the_last_second() {
    for heard in [None, Some(at(0))] {
        let mut source = closing();
        let actions = feed(&mut source, at(1001), closed(heard));
        assert_eq!(actions, [source::Action::Unseal], "heard {heard:?}");
    }
    let mut source = closing();
    let actions = feed(&mut source, at(1000), closed(Some(at(0))));
    assert!(matches!(actions[..], [source::Action::Persist(Step::Sealed { .. })]));
}

#[test]
fn object_within_its_own_wait_is_not_moved_on() {
    assert!(begin(true).is_err());
}

#[test]
fn seal_is_answered_by_damaged_when_a_digest_differs() {
    let mut destination = recovered_destination(DestinationJournal::Staged(copy()));
    read(&mut destination, at(0), register(1, "s1", Some("s2"), MOVE));
    let seal = Request::Seal {
        tx: MOVE,
        revision: 3,
        digests: Digests {
            properties: Some([2; 32]),
            body: None,
        },
    };
    destination.handle_input(at(1), destination::Input::Peer(seal)).unwrap();
    let damaged = destination::Action::Send(Reply::Damaged { tx: MOVE });
    assert_eq!(destination_actions(&mut destination), [damaged]);
}

/// The source claims an epoch; what the librarian says of the address is the first that this agent hears of it.
#[test]
fn move_that_the_register_does_not_bear_out_is_dropped_at_the_first_look() {
    for (claimed, shown) in [
        (1, None),
        (u64::MAX, Some(register(1, "s1", Some("s2"), MOVE))),
        (2, Some(register(1, "s1", Some("s2"), MOVE))),
        (1, Some(register(1, "s1", None, MOVE))),
        (1, Some(register(1, "s1", Some("s3"), MOVE))),
    ] {
        let begin = destination::Begin {
            me: "s2".parse().unwrap(),
            from: "s1".parse().unwrap(),
            address: "1.2".parse().unwrap(),
            epoch: Epoch(claimed),
            tx: MOVE,
            octets: 10,
            journaled_staging: false,
            seed: SEED,
        };
        let mut destination = Destination::begin(begin, Settings::default());
        let mut feed = |input| {
            destination.handle_input(at(0), input).unwrap();
            destination_actions(&mut destination)
        };
        feed(destination::Input::Space(true));
        let open = Request::Open {
            epoch: Epoch(claimed),
            tx: MOVE,
        };
        let asked = feed(destination::Input::Peer(open));
        let [destination::Action::Read { question }] = asked[..] else {
            panic!("{asked:?}");
        };
        // Without an answer nothing is known yet.
        assert_eq!(feed(destination::Input::NoAnswer { question }), []);
        let mut destination = destination.clone();
        destination.handle_timeout(destination.poll_timeout().unwrap());
        let asked = destination_actions(&mut destination);
        let [destination::Action::Read { question }] = asked[..] else {
            panic!("{asked:?}");
        };
        let answer = destination::Input::Register {
            question,
            register: shown,
        };
        destination.handle_input(at(1), answer).unwrap();
        assert_eq!(
            destination_actions(&mut destination),
            [
                destination::Action::Send(Reply::Dropped { tx: MOVE }),
                destination::Action::Ended(destination::Outcome::Dropped),
            ],
            "{claimed}"
        );
    }
}

#[test]
fn early_timeout_changes_nothing() {
    for mut source in [begin(false).unwrap(), closing(), sealed()] {
        source_actions(&mut source);
        let due = source.poll_timeout().unwrap();
        let before = format!("{source:?}");
        source.handle_timeout(at(1));
        assert!(due > at(1));
        assert_eq!(format!("{source:?}"), before);
    }
    for mut destination in [
        waiting(),
        recovered_destination(DestinationJournal::Staged(copy())),
        recovered_destination(DestinationJournal::Waiting { tx: COMMIT }),
    ] {
        let before = format!("{destination:?}");
        destination.handle_timeout(at(1));
        assert_eq!(format!("{destination:?}"), before);
    }
}

/// Lets time pass until the machine asks who waits.
fn asks_writers(source: &mut Source, now: BootInstant) -> bool {
    source.handle_timeout(now);
    source_actions(source).contains(&source::Action::AskWriters)
}

fn gives_up(actions: &[source::Action]) -> bool {
    actions.iter().any(|action| match action {
        source::Action::Change { new, .. } => new.state == State::Stable && new.epoch == Epoch(1),
        _ => false,
    })
}

#[test]
fn seal_is_given_up_once_a_write_has_waited_for_the_budget() {
    let mut source = sealed();
    assert!(!asks_writers(&mut source, at(99)), "the budget is 100 ms");
    assert!(asks_writers(&mut source, at(100)));
    let since = Some(at(60));
    assert!(!gives_up(&feed(&mut source, at(100), source::Input::Writers { since })));
    assert!(!asks_writers(&mut source, at(159)));
    assert!(asks_writers(&mut source, at(160)));
    assert!(gives_up(&feed(&mut source, at(160), source::Input::Writers { since })));
}

#[test]
fn write_that_waited_before_the_seal_counts_from_the_seal() {
    let mut source = sealed();
    assert!(asks_writers(&mut source, at(100)));
    let since = Some(BootInstant::ZERO);
    assert!(gives_up(&feed(&mut source, at(100), source::Input::Writers { since })));
}

#[test]
fn seal_that_nobody_waits_for_goes_on_for_the_patience_and_no_longer() {
    let mut source = sealed();
    let patience = u64::try_from(Settings::default().peer_patience.as_millis()).unwrap();
    for ms in (100..patience).step_by(100) {
        assert!(asks_writers(&mut source, at(ms)), "at {ms} ms");
        assert!(!gives_up(&feed(
            &mut source,
            at(ms),
            source::Input::Writers { since: None }
        )));
    }
    source.handle_timeout(at(patience));
    assert!(gives_up(&source_actions(&mut source)));
}
