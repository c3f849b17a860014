//! What goes over the wire of a pool: nothing secret in the open.
//!
//! Alone in its file: the processes of a pool are started by one thread, which must be in the network namespace that is listened
//! to. The search has its control on the same wire. Needs root.

#[allow(dead_code, reason = "files are searched by other tests")]
mod disk;
mod secrets;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use secrets::{OBJECTS, body, canary, fill, keys_of_objects, keys_with_a_file, there};
use socket2::{Domain, Protocol, Socket, Type};

/// All protocols (linux/if_ether.h), in network order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();

/// Everything that is sent within the network namespace of the calling thread, until told to stop.
struct Wire {
    stop: Arc<AtomicBool>,
    reader: thread::JoinHandle<Result<Vec<u8>>>,
}

impl Wire {
    fn listen() -> Result<Wire> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL))))
            .context("listen to everything: this needs root")?;
        let octets: libc::c_int = 256 << 20;
        // SAFETY: the option takes an int, which lives until the call has returned.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const octets).cast(),
                libc::socklen_t::try_from(size_of_val(&octets))?,
            )
        };
        ensure!(
            set == 0,
            "set the size of a buffer: {}",
            std::io::Error::last_os_error()
        );
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = thread::spawn(move || {
            let (mut all, mut packet) = (Vec::new(), vec![0; 1 << 17]);
            loop {
                match (&socket).read(&mut packet) {
                    Ok(count) => all.extend_from_slice(&packet[..count]),
                    // Nothing more was waiting when it was told to stop.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && stopped.load(Ordering::Acquire) => {
                        break;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let mut told = [0_u32; 2];
            let mut length = libc::socklen_t::try_from(size_of_val(&told))?;
            // SAFETY: struct tpacket_stats is two unsigned ints (packet(7)): packets and drops; its length is given.
            let got = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_STATISTICS,
                    told.as_mut_ptr().cast(),
                    &raw mut length,
                )
            };
            ensure!(got == 0, "count packets: {}", std::io::Error::last_os_error());
            ensure!(
                told[1] == 0,
                "{} of {} packets were lost to the search",
                told[1],
                told[0]
            );
            Ok(all)
        });
        Ok(Wire { stop, reader })
    }

    fn all(self) -> Result<Vec<u8>> {
        self.stop.store(true, Ordering::Release);
        self.reader.join().map_err(|_| anyhow!("the listener panicked"))?
    }
}

/// Sends octets over TCP, as they are.
fn send_openly(octets: &[u8]) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut from = TcpStream::connect(listener.local_addr()?)?;
    let (mut to, _) = listener.accept()?;
    from.write_all(octets)?;
    drop(from);
    let mut heard = Vec::new();
    to.read_to_end(&mut heard)?;
    ensure!(heard == octets, "loopback");
    Ok(())
}

/// Joining, writing, reading, a move of everything and the pool's control, all of it on one loopback.
fn wire_of_a_pool() -> Result<()> {
    // SAFETY: this thread alone gets a network namespace; descriptors, memory and paths stay shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .context("make a network namespace: this needs root")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "ip link set lo up");

    let wire = Wire::listen()?;
    let mut pool = secrets::pool()?;
    fill(&mut pool)?;
    pool.librarian(&["drain", "s1"])?;
    let client = pool.client_dir("canary");
    let read = pool.agent(
        &["get", "7.3", "--client", client.to_str().context("client's directory")?],
        b"",
    )?;
    ensure!(read.stdout == body(), "the body differs after the move");
    for server in ["s1", "s2"] {
        pool.stop_server(server)?;
    }
    pool.stop_librarian()?;
    let sent = wire.all()?;
    let mut secrets = vec![canary()];
    secrets.extend(keys_with_a_file(&pool)?);
    for server in ["s1", "s2"] {
        secrets.extend(keys_of_objects(&pool, server)?);
    }
    // Each object went over the wire four times at least, twice seen each.
    ensure!(
        sent.len() > OBJECTS * body().len() * 4,
        "{} octets are not all of it",
        sent.len()
    );
    let found = there(&sent, &secrets);
    let places: Vec<_> = (secrets.iter().filter(|secret| found.contains(&secret.what)))
        .map(|secret| (&secret.what, &secret.lies_in))
        .collect();
    ensure!(places.is_empty(), "{places:?} went over the wire in the open");
    println!("{} secrets sought in {} octets", secrets.len(), sent.len());

    let wire = Wire::listen()?;
    send_openly(body().as_bytes())?;
    let found = there(&wire.all()?, &secrets);
    ensure!(found == [canary().what], "the control was not found: {found:?}");
    Ok(())
}

#[test]
fn nothing_secret_goes_over_the_wire_in_the_open() -> Result<()> {
    // A thread of its own: its namespace ends with it.
    thread::spawn(wire_of_a_pool)
        .join()
        .map_err(|_| anyhow!("it panicked"))?
}
