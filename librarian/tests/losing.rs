//! `librarian lost` against the real librarian, and what `librarian pool` says of copies.

mod support;

use support::{Librarian, Server, until};
use zones::audit::Head;
use zones::{Epoch, Has, Heat, Kept, Level, Register, RegisterChange, State, Tx, Upkeep};

/// A server that knows copies says what it has.
fn report(server: &Server, short: u64) {
    let kept = Kept {
        short,
        ..Kept::default()
    };
    server.tell(&Has {
        audit: Some(Head::first(&server.name)),
        upkeep: Some(Upkeep::default()),
        hot: Some(Heat::default()),
        kept: Some(kept),
        ..server.has(0, server.want().plan)
    });
}

/// A pool with a lease of two seconds, its servers s1 to s3, and objects of s1: one with a copy on s2, one without.
fn pool() -> (Librarian, [Server; 3]) {
    let librarian = Librarian::start_with("lease = \"2s\"\ncontroller_interval = \"10ms\"\n[copies]\nwanted = 2");
    let servers = ["s1", "s2", "s3"].map(|name| librarian.member(&[name]));
    for server in &servers {
        report(server, 0);
    }
    let [s1, s2, _] = &servers;
    let first = |address: &str, tx| Register {
        address: address.parse().unwrap(),
        epoch: Epoch::FIRST,
        owner: s1.name.clone(),
        state: State::Stable,
        tx: Tx([tx; 16]),
        holders: vec![s1.name.clone()],
        kind: "note".parse().unwrap(),
        schema: 1,
        level: Level(1),
    };
    let (alone, kept) = (first("3.1", 1), first("3.2", 2));
    let with_copy = Register {
        tx: Tx([3; 16]),
        holders: vec![s1.name.clone(), s2.name.clone()],
        ..kept.clone()
    };
    for (old, new) in [(None, alone), (None, kept.clone()), (Some(kept), with_copy)] {
        assert_eq!(s1.change(&[RegisterChange { old, new }]), 0);
    }
    (librarian, servers)
}

fn of(librarian: &Librarian, server: &str) -> serde_json::Value {
    let pool = librarian.json(&["pool", "--json"]);
    let servers = pool["servers"].as_array().unwrap();
    servers.iter().find(|one| one["name"] == server).unwrap().clone()
}

#[test]
fn server_is_marked_lost_when_its_lease_is_over_and_holders_are_told_so() {
    let (librarian, [s1, s2, s3]) = pool();
    let refused = librarian.fails(1, &["lost", "s1", "--yes"]);
    assert!(refused.contains("s1 is heard, its lease runs"), "{refused}");
    assert!(
        librarian
            .fails(1, &["lost", "s9", "--yes"])
            .contains("there is no server s9")
    );
    let others = || [&s2, &s3].map(|server| report(server, 3 * u64::from(server.name == s2.name)));
    until("the lease of s1 is over", || {
        others();
        of(&librarian, "s1")["alive"] == false
    });
    // Without a terminal nobody can be asked.
    assert!(librarian.fails(1, &["lost", "s1"]).contains("--yes"));
    assert_eq!(of(&librarian, "s1")["lost"], false);
    // Nobody may lose objects without having read how many.
    for args in [&["lost", "s1", "--yes"][..], &["lost", "s1", "--yes", "--lose", "2"]] {
        let refused = librarian.fails(1, args);
        assert!(refused.contains("--lose 1"), "{refused}");
    }
    assert_eq!(of(&librarian, "s1")["lost"], false);
    let loss = librarian.json(&["lost", "s1", "--yes", "--lose", "1", "--json"]);
    assert_eq!(
        (&loss["lost"], &loss["owned"], &loss["lost_objects"]),
        (&true.into(), &2.into(), &1.into())
    );
    until("s2 is told that s1 is lost", || {
        others();
        s2.want().errand.keep.lost == [s1.name.clone()]
    });
    let told = librarian.done(&["pool"]);
    assert!(
        told.contains("s1 is marked lost and still owns 2 objects; 1 of which it has a copy have no other one"),
        "{told}"
    );
    assert!(told.contains("copies: 2; 3 objects have fewer"), "{told}");
    let object = librarian.done(&["explain", "3.1"]);
    assert!(
        object.contains("it is to have 2 copies, and has them on s1; s1 is marked lost"),
        "{object}"
    );
    let server = librarian.done(&["explain", "s1"]);
    assert!(
        server.contains("it takes no copies of what others own: it is marked lost"),
        "{server}"
    );
    // It comes back; a person decides.
    report(&s1, 0);
    assert!(
        librarian
            .done(&["pool"])
            .contains("s1 is heard again: `librarian lost s1 --undo`")
    );
    assert_eq!(librarian.json(&["lost", "s1", "--undo", "--json"])["lost"], false);
    until("s2 is told that s1 is back", || {
        others();
        s2.want().errand.keep.lost.is_empty()
    });
    assert_eq!(of(&librarian, "s1")["lost_objects"], serde_json::Value::Null);
}

#[test]
fn server_that_a_librarian_has_not_yet_had_time_to_hear_is_not_marked() {
    let (mut librarian, _) = pool();
    librarian.end(rustix::process::Signal::TERM);
    librarian.run();
    let refused = librarian.fails(1, &["lost", "s1", "--yes"]);
    assert!(refused.contains("s1 may yet be heard: ask again in"), "{refused}");
    until("the librarian has listened for a lease", || {
        librarian
            .output(&["lost", "s1", "--yes", "--lose", "1"])
            .status
            .success()
    });
}

#[test]
fn server_that_a_reconcile_writes_off_is_marked_by_it_alone() {
    let (mut librarian, _) = pool();
    librarian.end(rustix::process::Signal::TERM);
    librarian.done(&["rebuild", "--yes"]);
    librarian.run();
    let refused = librarian.fails(1, &["lost", "s1", "--yes"]);
    assert!(refused.contains("librarian reconcile --write-off"), "{refused}");
    for server in ["s1", "s2", "s3"] {
        librarian.done(&["reconcile", "--write-off", server, "--yes"]);
    }
    librarian.done(&["reconcile", "--watch"]);
    let refused = librarian.fails(1, &["lost", "s1", "--undo"]);
    assert!(refused.contains("s1 was written off"), "{refused}");
}
