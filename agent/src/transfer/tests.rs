//! Real agents on loopback: certificates, QUIC, disk, and a librarian that keeps registers.

use certs::{Anchor, Authority, Identity, Serial, UnixTime, Who};

/// A pool's authority.
pub(super) struct Pool {
    authority: Authority,
}

pub(super) fn pool() -> Pool {
    let domain = "hypernet.internal".parse().unwrap();
    Pool {
        authority: Authority::create(&domain, Serial::new(rand::random()), UnixTime::now()).unwrap(),
    }
}

impl Pool {
    pub(super) fn identity(&self, server: &str) -> Identity {
        let who = Who::Server(server.parse().unwrap());
        self.authority
            .issue(&who, Serial::new(rand::random()), UnixTime::now())
            .unwrap()
    }

    pub(super) fn anchor(&self) -> Anchor {
        self.authority.anchor().clone()
    }
}
