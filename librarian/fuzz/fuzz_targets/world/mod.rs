//! A librarian without sockets, with two servers, objects in every state, an admin's and an agent's key, and a listed network.
#![allow(dead_code, reason = "no target needs all of it")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use hickory_proto::op::Message;
use librarian::answer;
use librarian::keys::{Holder, Key, KeyRing, Keys};
use librarian::listen::{RateLimit, Service};
use librarian::registry::{By, Proposal, Received, Registry, ServerChange, Settings};
use tokio::runtime::Runtime;
use zones::update::{build_has_update, build_register_update};
use zones::{
    Domain, Epoch, Has, Level, Register, RegisterChange, Role, ServerName, State, TsigKey, Tx, read_update,
};

/// The librarian.
pub struct World {
    /// Runs what waits.
    pub runtime: Runtime,
    /// Answers messages.
    pub service: Service,
    /// Its registers as a checkpoint has them.
    pub saved: Vec<u8>,
    _dir: tempfile::TempDir,
}

/// The admin's key and the one of server `s1`.
pub fn keys() -> [TsigKey; 2] {
    [("admin", 1), ("s1", 2)].map(|(name, octet)| TsigKey::new(name, &[octet; 32]).expect("a legal key"))
}

/// Made at its first use.
pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    // In memory where there is such a place: every allowed update is one durable commit.
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() {
        tempfile::tempdir_in(shared)
    } else {
        tempfile::tempdir()
    }
    .expect("a directory");
    let domain: Domain = "hypernet.internal".parse().expect("a domain");
    let registry = Registry::open(&dir.path().join("registry.redb"), &domain, Settings::default()).expect("a registry");
    runtime.block_on(fill(&registry, &domain));
    let mut ring = Keys::default();
    for (tsig, holder) in keys().into_iter().zip([Holder::Admin, Holder::Agent(server("s1"))]) {
        ring.insert(Key { tsig, holder });
    }
    let networks = vec!["127.0.0.1".parse().expect("a network")];
    let saved = registry.saved();
    let service = Service::new(
        registry,
        answer::Settings {
            public: vec!["3.1".parse().expect("a prefix")],
            ..answer::Settings::default()
        },
        networks,
        Arc::new(KeyRing::fixed(ring)),
        RateLimit::default(),
    );
    World {
        runtime,
        service,
        saved,
        _dir: dir,
    }
});

fn server(name: &str) -> ServerName {
    name.parse().expect("a server")
}

/// Servers say where they are, and make objects.
async fn fill(registry: &Registry, domain: &Domain) {
    for (number, name) in [(1, "s1"), (2, "s2")] {
        let add = ServerChange::Add {
            name: server(name),
            role: Role::Serving,
        };
        registry.submit(Proposal::Server(add)).await.expect("a server is added");
        let has = Has {
            release: "0.1.0".to_owned(),
            role: Role::Serving,
            objects: 3,
            bytes: 1000,
            capacity: 100_000,
            load: 100,
            heat: 0,
            errors: 0,
            unreadable: 0,
            plan: 0,
            commits: 12,
            peer_port: 9101,
            quarantined: 0,
            audit: None,
            upkeep: None,
            hot: None,
            kept: None,
        };
        let addresses = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)])];
        let says = build_has_update(domain, 1, &server(name), &has, 8443, &addresses).expect("an update");
        change(registry, name, &says).await;
    }
    let mut tx = 0_u128;
    for (address, holders) in [("3.1.2", &["s1"][..]), ("3.1.2.1.023", &["s1", "s2"]), ("A.b", &["s1"]), ("7", &["s1"])] {
        let mut register = Register {
            address: address.parse().expect("an address"),
            epoch: Epoch::FIRST,
            owner: server("s1"),
            state: State::Stable,
            tx: Tx([0; 16]),
            holders: vec![server("s1")],
            kind: "photo".parse().expect("a type"),
            schema: 3,
            level: Level(1),
        };
        let mut old = None;
        for holders in [&["s1"][..], holders] {
            tx += 1;
            register.tx = Tx(tx.to_be_bytes());
            register.holders = holders.iter().copied().map(server).collect();
            let step = RegisterChange {
                old: old.replace(register.clone()),
                new: register.clone(),
            };
            let message = build_register_update(domain, 1, &[step]).expect("an update");
            change(registry, "s1", &message).await;
        }
    }
}

async fn change(registry: &Registry, by: &str, message: &[u8]) {
    let message = Message::from_vec(message).expect("a message");
    let proposal = Proposal::Update {
        by: By::Agent(server(by)),
        update: read_update(&message).expect("an update"),
        malformed: None,
        received: Received {
            at: Instant::now(),
            ahead_s: 0,
        },
    };
    registry.submit(proposal).await.expect("the update is allowed");
}
