//! Which input takes which machine from which state to which, as walks see it: PROTOCOL.md holds the same table.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::super::UnexpectedInput;
use super::super::destination::{self, Destination};
use super::super::source::{self, Source};
use super::{disturbed, seeded};
use crate::clock::BootInstant;

/// From, to, on what.
type Changes = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

/// What walks of this thread have seen, while somebody wants to know.
#[derive(Default)]
struct Seen {
    source: Changes,
    destination: Changes,
}

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Feeds a source.
pub(super) fn source(machine: &mut Source, now: BootInstant, input: source::Input) -> Result<(), UnexpectedInput> {
    let (from, on) = (machine.state_name(), name(&input));
    let done = machine.handle_input(now, input);
    note(|seen| &mut seen.source, from, machine.state_name(), on);
    done
}

/// Lets time pass at a source.
pub(super) fn source_time(machine: &mut Source, now: BootInstant) {
    let from = machine.state_name();
    machine.handle_timeout(now);
    note(|seen| &mut seen.source, from, machine.state_name(), "time".to_owned());
}

/// Feeds a destination.
pub(super) fn destination(
    machine: &mut Destination,
    now: BootInstant,
    input: destination::Input,
) -> Result<(), UnexpectedInput> {
    let (from, on) = (machine.state_name(), name(&input));
    let done = machine.handle_input(now, input);
    note(|seen| &mut seen.destination, from, machine.state_name(), on);
    done
}

/// Lets time pass at a destination.
pub(super) fn destination_time(machine: &mut Destination, now: BootInstant) {
    let from = machine.state_name();
    machine.handle_timeout(now);
    note(
        |seen| &mut seen.destination,
        from,
        machine.state_name(),
        "time".to_owned(),
    );
}

fn note(side: impl FnOnce(&mut Seen) -> &mut Changes, from: &'static str, to: &'static str, on: String) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen
            && from != to
        {
            side(seen).entry((from, to)).or_default().insert(on);
        }
    });
}

/// An input's name, and that of the message or outcome in it.
fn name(input: &impl Debug) -> String {
    let text = format!("{input:?}");
    let mut words = text.split(|letter: char| !letter.is_alphanumeric());
    let first = words.next().unwrap_or_default().to_owned();
    match (first.as_str(), words.next()) {
        ("Peer" | "Changed", Some(inner)) => format!("{first} {inner}"),
        _ => first,
    }
}

fn rows(changes: &Changes) -> String {
    let mut text = String::from("| from | to | on |\n|---|---|---|\n");
    for ((from, to), on) in changes {
        let on: Vec<&str> = on.iter().map(String::as_str).collect();
        text.push_str(&format!("| {from} | {to} | {} |\n", on.join(", ")));
    }
    text
}

/// With `HYPERNET_WRITE_TABLES=1` the document is written instead: read what changed, then commit it.
#[test]
fn document_has_the_transitions_that_walks_see() {
    SEEN.set(Some(Seen::default()));
    for journaled in [true, false] {
        disturbed(journaled, false);
        for seed in 0..1_500 {
            seeded(seed, journaled);
        }
    }
    let seen = SEEN.take().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../zones/PROTOCOL.md");
    let document = std::fs::read_to_string(path).unwrap();
    let mut right = document.clone();
    for (side, changes) in [("source", &seen.source), ("destination", &seen.destination)] {
        let (begin, end) = (
            format!("<!-- transitions of the {side} -->\n"),
            format!("<!-- end of the {side} -->"),
        );
        let from = right.find(&begin).expect("the document has the table's begin") + begin.len();
        let to = from + right[from..].find(&end).expect("the document has the table's end");
        right.replace_range(from..to, &rows(changes));
    }
    if std::env::var_os("HYPERNET_WRITE_TABLES").is_some() {
        std::fs::write(path, &right).unwrap();
    } else {
        assert!(
            right == document,
            "PROTOCOL.md has other transitions than walks see:\n{right}"
        );
    }
}
