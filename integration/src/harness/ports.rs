//! Ports that nobody listens on.
//!
//! Taken below the range from which the kernel gives ports to connections, so that no client takes one between our
//! looking and the server's binding.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};

const FIRST: u16 = 12_000;
const LAST: u16 = 32_000;

/// Ports this process has handed out; none is handed out twice.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port of 127.0.0.1 that is free for UDP and TCP alike and was not handed out before by this process.
///
/// # Errors
///
/// When a hundred random ports in a row are taken.
pub fn free_port() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..100 {
        let port = rand::random_range(FIRST..LAST);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && given.insert(port) {
            return Ok(port);
        }
    }
    bail!("found no free port between {FIRST} and {LAST} on 127.0.0.1 in a hundred tries")
}
