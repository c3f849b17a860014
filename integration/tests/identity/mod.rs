//! Identities that a librarian would not issue: made with the pool's own authority, or with another.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use certs::{Authority, Grants, Identity, Serial, UnixTime, Who};
use integration::harness::Pool;

/// A week: how long a certificate is good.
pub(crate) const WEEK_S: u64 = 7 * 24 * 3600;

pub(crate) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn random_serial() -> Result<Serial> {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets).context("random octets")?;
    Ok(Serial::new(octets))
}

/// The pool's authority, from the librarian's directory.
pub(crate) fn authority(pool: &Pool) -> Result<Authority> {
    let ca = pool.dir().join("ca");
    let (certificate, key) = (
        std::fs::read_to_string(ca.join("ca.pem"))?,
        std::fs::read_to_string(ca.join("ca.key"))?,
    );
    Ok(Authority::load(&pool.domain().parse()?, &certificate, &key)?)
}

/// An authority that claims the same domain.
pub(crate) fn foreign_authority(pool: &Pool) -> Result<Authority> {
    Ok(Authority::create(
        &pool.domain().parse()?,
        random_serial()?,
        at(now_s()),
    )?)
}

/// A certificate whose week begins at `from_s`.
pub(crate) fn issue(authority: &Authority, who: &Who, from_s: u64) -> Result<Identity> {
    Ok(authority.issue(who, random_serial()?, at(from_s))?)
}

pub(crate) fn client(name: &str, grants: &[&str]) -> Result<Who> {
    let grants: Result<Vec<_>, _> = grants.iter().map(|grant| grant.parse()).collect();
    Ok(Who::Client {
        name: name.parse()?,
        grants: Grants::new(grants?)?,
    })
}

pub(crate) fn server(name: &str) -> Result<Who> {
    Ok(Who::Server(name.parse()?))
}
