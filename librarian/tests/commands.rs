//! The librarian's commands against the real program.

mod support;

use std::io::{Read, Write};

use rustix::process::Signal;
use support::Librarian;
use zones::TsigKey;

#[test]
fn a_directory_has_one_pool_and_one_librarian() {
    let librarian = Librarian::start();
    assert!(librarian.fails(1, &["init"]).contains("already"));
    let second = librarian.fails(1, &["run"]);
    assert!(
        second.contains("registry") && !librarian.done(&["pool"]).is_empty(),
        "{second}"
    );
}

#[test]
fn commands_say_when_the_librarian_does_not_run() {
    let mut librarian = Librarian::start();
    librarian.end(Signal::TERM);
    for args in [&["pool"][..], &["where", "3.1"], &["drain", "s1"], &["refill", "s1"]] {
        assert!(librarian.fails(1, args).contains("librarian run --dir"), "{args:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    let mut elsewhere = std::process::Command::new(env!("CARGO_BIN_EXE_librarian"));
    let output = elsewhere.args(["run", "--dir"]).arg(empty.path()).output().unwrap();
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("librarian init --dir")
    );
}

#[test]
fn names_are_printed_in_every_form_and_bad_addresses_are_wrong_usage() {
    let librarian = Librarian::start();
    let names = librarian.json(&["name", "3.1.2.1.023", "--json"]);
    assert_eq!(names["obj"], "3.1.2.1.023.obj.hypernet.internal.");
    assert_eq!(names["tree"], "023.1.2.1.3.tree.hypernet.internal.");
    assert_eq!(
        librarian.done(&["name", "3.1.2.1.023", "--form", "bare"]),
        "3.1.2.1.023.\n"
    );
    assert!(librarian.fails(2, &["name", "3..1"]).contains("3..1"));
    assert!(librarian.fails(2, &["where", "3.1", "--jsn"]).contains("--json"));
}

#[test]
fn a_client_has_its_files_and_its_key_is_known_at_once() {
    let librarian = Librarian::start();
    let out = librarian.path("shop");
    let added = librarian.json(&[
        "client",
        "add",
        "shop",
        "--grant",
        "read:3.1",
        "--grant",
        "write:3.1.2",
        "--out",
        out.to_str().unwrap(),
        "--json",
    ]);
    assert_eq!(added["grants"].as_array().unwrap().len(), 2);
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let anchor = certs::Anchor::from_pem(&text("ca.pem")).unwrap();
    let identity = certs::Identity::from_pem(&text("client.pem"), &text("client.key")).unwrap();
    let peer = anchor
        .verify(
            identity.certificate(),
            certs::UnixTime::now(),
            &certs::Revocations::default(),
        )
        .unwrap();
    let certs::Who::Client { grants, .. } = peer.who else {
        panic!("a client's certificate")
    };
    assert!(grants.allows(certs::Verb::Write, &"3.1.2.9".parse().unwrap()));
    assert!(text("client.toml").contains(&librarian.dns.to_string()));
    assert!(text("resolver/unbound.conf").contains(&librarian.dns.port().to_string()));
    let key = TsigKey::from_bind_file(&text("tsig.key")).unwrap();
    let domain: zones::Domain = "hypernet.internal".parse().unwrap();
    let client = support::Server::with_key("shop".parse().unwrap(), domain.clone(), key, librarian.dns);
    // Signed and verified: the running librarian knows the key. There is no such object.
    let answer = client.ask(
        &domain.obj_name(&"3.1.5".parse().unwrap()).unwrap(),
        hickory_proto::rr::RecordType::SRV,
    );
    assert_eq!(answer.code, hickory_proto::op::ResponseCode::NXDomain);

    assert!(
        librarian
            .fails(1, &["client", "add", "shop", "--grant", "read:*"])
            .contains("--replace")
    );
    librarian.done(&["client", "add", "shop", "--grant", "read:*", "--replace"]);
    assert!(
        librarian
            .fails(2, &["client", "add", "bad", "--grant", "erase:3"])
            .contains("erase:3")
    );
    assert!(
        librarian
            .fails(2, &["client", "add", "admin", "--grant", "read:3"])
            .contains("admin")
    );
}

#[test]
fn servers_and_clients_do_not_take_each_others_names() {
    let librarian = Librarian::start();
    librarian.member(&["s1"]);
    assert!(
        librarian
            .fails(1, &["client", "add", "s1", "--grant", "read:*"])
            .contains("a server is named")
    );
    librarian.done(&["client", "add", "shop", "--grant", "read:*"]);
    assert!(librarian.fails(1, &["invite", "shop"]).contains("a client is named"));
}

#[test]
fn metrics_are_served_where_the_settings_say_and_name_no_object() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let librarian = Librarian::start_with(&format!("listen_metrics = \"127.0.0.1:{port}\""));
    librarian.member(&["s1"]).report(0, 0);
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    for line in [
        "librarian_servers{role=\"serving\"} 1",
        "librarian_servers_alive 1",
        "librarian_hot_objects 0",
        "librarian_hot_copies 0",
        "librarian_copies_short 0",
        "librarian_copies_leaving 0",
        "librarian_servers_lost 0",
        "librarian_objects_lost 0",
        "librarian_updates_total{rcode=\"NOERROR\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn resolver_lines_name_the_port_that_is_served() {
    let librarian = Librarian::start();
    for kind in ["unbound", "bind", "resolved", "dnsmasq"] {
        let lines = librarian.done(&["resolver-config", kind]);
        assert!(lines.contains(&librarian.dns.port().to_string()), "{lines}");
    }
}
