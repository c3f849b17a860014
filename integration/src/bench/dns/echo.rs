//! The least that an answer over UDP costs: a process that sends every datagram back at the size of an answer.
//!
//! What it reaches on the same processor, with the same batches, is the ceiling of every server written this way.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::batch::Batch;
use super::flood::ANSWER_OCTETS_MAX;
use super::set::LOCAL;
use crate::bench::cpu::pin_this_thread;
use crate::harness::Process;

/// The word that makes `bench-dns` an echo.
pub(super) const COMMAND: &str = "echo";

/// A child process that echoes, on one processor. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Echo {
    process: Process,
    address: SocketAddr,
}

impl Echo {
    /// Starts `program` as an echo on `cpu` that answers with `octets`.
    ///
    /// # Errors
    ///
    /// When it does not become ready.
    pub(super) fn start(program: &Path, dir: &Path, cpu: usize, octets: u64) -> Result<Echo> {
        let mut command = Command::new(program);
        command.args([COMMAND, &cpu.to_string(), &octets.to_string()]);
        let process = Process::start("echo", command, &dir.join("echo.log"))?;
        let port: u16 = process.ready().trim().parse().context("read the echo's port")?;
        Ok(Echo {
            process,
            address: SocketAddr::from((LOCAL, port)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    #[must_use]
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// What the child does, given a processor and a number of octets, until it is ended; its parent's end is its own.
///
/// # Errors
///
/// When the words are no numbers, or the socket fails.
pub(super) fn serve(words: &[String]) -> Result<()> {
    let [cpu, octets] = words else {
        anyhow::bail!("an echo takes a processor and a number of octets");
    };
    let octets: usize = octets.parse().context("read the number of octets")?;
    ensure!(
        octets <= ANSWER_OCTETS_MAX,
        "an answer has at most {ANSWER_OCTETS_MAX} octets"
    );
    pin_this_thread(cpu.parse().context("read the processor")?)?;
    let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
    let wait = Some(Duration::from_secs(1));
    socket.set_read_timeout(wait).context("set a socket")?;
    println!("ready {}", socket.local_addr().context("name a socket")?.port());
    let mut batch = Batch::<ANSWER_OCTETS_MAX>::with_names();
    loop {
        let received = batch.receive(&socket, true)?;
        for place in 0..received {
            batch.resize(place, octets);
        }
        // What the socket does not take now is lost.
        let _ = batch.send(&socket, received);
    }
}
