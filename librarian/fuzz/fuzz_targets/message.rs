//! Any octets as a DNS message: unsigned, or signed by an agent's or the admin's key, so that what lies behind a
//! signature that holds is reached as well. Whatever comes, an answer has the id of its request and fits its transport.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use librarian::answer::{self, reply::Transport};
use librarian::keys::{Holder, Key, KeyRing, Keys};
use librarian::listen::{RateLimit, Service};
use librarian::registry::{Proposal, Registry, ServerChange, Settings};
use tokio::runtime::Runtime;
use zones::tsig::sign_request;
use zones::{Role, TsigKey};

struct World {
    runtime: Runtime,
    service: Service,
    _dir: tempfile::TempDir,
}

fn keys() -> [TsigKey; 2] {
    [("admin", 1), ("s1", 2)].map(|(name, octet)| TsigKey::new(name, &[octet; 32]).expect("a legal key"))
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // In memory where there is such a place: every allowed update is one durable commit.
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.expect("a directory");
    let domain = "hypernet.internal".parse().expect("a domain");
    let registry = Registry::open(&dir.path().join("registry.redb"), &domain, Settings::default()).expect("a registry");
    let server: zones::ServerName = "s1".parse().expect("a server");
    let add = ServerChange::Add {
        name: server.clone(),
        role: Role::Serving,
    };
    runtime.block_on(registry.submit(Proposal::Server(add))).expect("a server is added");
    let mut ring = Keys::default();
    for (tsig, holder) in keys().into_iter().zip([Holder::Admin, Holder::Agent(server)]) {
        ring.insert(Key { tsig, holder });
    }
    let networks = vec!["127.0.0.1".parse().expect("a network")];
    let service = Service::new(
        registry,
        answer::Settings::default(),
        networks,
        Arc::new(KeyRing::fixed(ring)),
        RateLimit::default(),
    );
    World {
        runtime,
        service,
        _dir: dir,
    }
});

fuzz_target!(|octets: &[u8]| {
    let Some((choice, octets)) = octets.split_first() else { return };
    let mut message = octets.to_vec();
    let signer = keys().into_iter().nth(usize::from(choice >> 1 & 3));
    if let Some(signer) = signer.filter(|_| (12..65_000).contains(&message.len())) {
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
