//! A server joins a real librarian over HTTPS, once, with its token only.

mod support;

use std::io::Write;
use std::net::TcpStream;

use certs::{Fingerprint, JoinRequest, Request, Secret};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;
use support::{Librarian, join, post, send};

fn servers(librarian: &Librarian) -> Vec<String> {
    librarian.json(&["pool", "--json"])["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| {
            format!(
                "{} {}",
                server["name"].as_str().unwrap(),
                server["role"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn a_server_joins_once_and_its_key_works_at_once_and_after_a_kill() {
    let mut librarian = Librarian::start();
    let token = librarian.invite(&["s1", "--role", "free"]);
    assert_eq!(token.join, librarian.https);
    let joined = join(&token).unwrap();
    assert_eq!(joined.answer.dns, librarian.dns);
    assert_eq!(servers(&librarian), ["s1 free"]);
    let refused = join(&token).err().unwrap();
    assert!(
        refused.contains("403") && refused.contains("librarian invite s1"),
        "{refused}"
    );

    let key = zones::TsigKey::from_bind_file(&joined.answer.tsig_key).unwrap();
    let (name, domain) = (joined.server, joined.domain);
    let server = support::Server::with_key(name.clone(), domain.clone(), key.clone(), librarian.dns);
    server.report(0, 0);
    assert_eq!(server.want().role, zones::Role::Free);
    assert_eq!(server.ask(&domain.in_pool("s1"), RecordType::SRV).srv().count(), 1);

    librarian.end(Signal::KILL);
    librarian.run();
    let server = support::Server::with_key(name, domain, key, librarian.dns);
    assert_eq!(server.want().role, zones::Role::Free);
    assert_eq!(servers(&librarian), ["s1 free"]);
    assert!(librarian.end(Signal::TERM).success());
    assert!(!librarian.path("control.sock").exists());
}

#[test]
fn wrong_expired_and_forged_tokens_let_nobody_in_and_use_nothing_up() {
    let librarian = Librarian::start();
    let token = librarian.invite(&["s1"]);
    let refused = |change: &dyn Fn(&mut certs::JoinToken)| {
        let mut wrong = token.clone();
        change(&mut wrong);
        join(&wrong).err().expect("nobody is let in")
    };
    assert!(refused(&|token| token.secret = Secret::new([0; 32])).contains("403"));
    assert!(refused(&|token| token.server = "s2".parse().unwrap()).contains("403"));
    // Another authority's fingerprint: the connection itself is refused, before the secret is sent.
    assert!(refused(&|token| token.authority = Fingerprint([0; 32])).contains("certificate"));
    assert!(refused(&|token| token.domain = "other.internal".parse().unwrap()).contains("certificate"));
    let path = librarian.path("invites/s1.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    support::set(&path, "expires_unix_s", "1000");
    assert!(refused(&|_| ()).contains("expired"));
    std::fs::write(&path, text).unwrap();
    assert!(servers(&librarian).is_empty());
    assert!(join(&token).is_ok());
}

#[test]
fn malformed_requests_get_a_sentence_and_use_nothing_up() {
    let librarian = Librarian::start();
    let token = librarian.invite(&["s1"]);
    let good = JoinRequest::new(&token, &Request::new().unwrap());
    let mut bad = good.clone();
    bad.request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_owned();
    let bad = serde_json::to_vec(&bad).unwrap();
    for (what, body) in [("no JSON", &b"{"[..]), ("other JSON", b"{}"), ("a bad request", &bad)] {
        let reply = post(&token, "/join", body).unwrap();
        assert_eq!(reply.status, 400, "{what}");
        assert!(reply.text().contains("\"detail\""), "{what}");
    }
    assert_eq!(post(&token, "/join", &vec![b' '; 100_000]).unwrap().status, 413);
    // Nobody without a certificate of the pool.
    assert_eq!(post(&token, "/renew", b"{}").unwrap().status, 403);
    let revocations = b"GET /revocations HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(send(&token, revocations).unwrap().status, 403);
    assert_eq!(post(&token, "/", b"").unwrap().status, 404);
    assert_eq!(
        send(&token, b"GET /join HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().status,
        405
    );
    assert_eq!(send(&token, b"nonsense\r\n\r\n").unwrap().status, 400);
    let mut plain = TcpStream::connect(librarian.https).unwrap();
    plain.write_all(b"GET /join HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(join(&token).is_ok());
}

#[test]
fn of_two_servers_with_one_token_one_joins() {
    let librarian = Librarian::start();
    for name in ["s1", "s2", "s3"] {
        let token = librarian.invite(&[name]);
        let joined = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..2).map(|_| scope.spawn(|| join(&token).is_ok())).collect();
            tries
                .into_iter()
                .map(|one| one.join().unwrap())
                .filter(|joined| *joined)
                .count()
        });
        assert_eq!(joined, 1);
    }
}

#[test]
fn too_many_requests_are_told_to_wait_and_idle_connections_are_cut() {
    let librarian = Librarian::start_with("joins_per_second = 2\njoin_connections_max = 2\njoin_timeout = \"1s\"");
    let token = librarian.invite(&["s1"]);
    let statuses: Vec<u16> = (0..6).map(|_| post(&token, "/join", b"{}").unwrap().status).collect();
    assert!(statuses.contains(&429) && statuses.contains(&400), "{statuses:?}");
    // As many as there is room for say nothing; whoever comes next is served when they are cut.
    let idle: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(librarian.https).unwrap()).collect();
    support::until("a place is free and the allowance fills", || join(&token).is_ok());
    drop(idle);
}

#[test]
fn a_server_that_lost_its_disk_joins_again_only_when_invited_so() {
    let librarian = Librarian::start();
    let old = librarian.member(&["s1"]);
    old.report(0, 0);
    assert!(librarian.fails(1, &["invite", "s1"]).contains("--again"));
    let new = librarian.member(&["s1", "--again"]);
    new.report(0, 0);
    assert_eq!(servers(&librarian), ["s1 serving"]);
    // The old key has ended: what it signs is answered unsigned.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| old.report(0, 0)));
    assert!(ended.is_err());
}
