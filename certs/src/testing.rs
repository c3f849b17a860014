//! A pool for tests.

use std::sync::LazyLock;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use zones::Domain;

use crate::{Authority, Grants, Identity, Serial, Who};

/// The moment at which tests issue: some day in 2026.
pub(crate) const NOW_S: u64 = 1_780_000_000;

pub(crate) struct Pool {
    pub(crate) domain: Domain,
    pub(crate) authority: Authority,
}

pub(crate) struct Shared {
    pub(crate) shop: Identity,
}

impl Pool {
    pub(crate) fn new(seed: u8) -> Pool {
        Pool::at(seed, at(NOW_S))
    }

    pub(crate) fn at(seed: u8, now: UnixTime) -> Pool {
        let domain: Domain = "hypernet.internal".parse().expect("legal");
        let authority = Authority::create(&domain, Serial::new([seed; 16]), now).expect("created");
        Pool { domain, authority }
    }

    pub(crate) fn issue(&self, who: &Who) -> Identity {
        self.issue_at(who, at(NOW_S))
    }

    pub(crate) fn issue_at(&self, who: &Who, now: UnixTime) -> Identity {
        self.authority.issue(who, Serial::new([5; 16]), now).expect("issued")
    }

    /// One certificate for tests that change it a thousand times.
    pub(crate) fn shared() -> &'static Shared {
        static SHARED: LazyLock<Shared> = LazyLock::new(|| Shared {
            shop: Pool::new(1).issue(&client("shop", &["read:3.1", "write:3.1.2"])),
        });
        &SHARED
    }
}

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn server(name: &str) -> Who {
    Who::Server(name.parse().expect(name))
}

pub(crate) fn client(name: &str, grants: &[&str]) -> Who {
    Who::Client {
        name: name.parse().expect(name),
        grants: Grants::new(grants.iter().map(|text| text.parse().expect(text))).expect("few"),
    }
}
