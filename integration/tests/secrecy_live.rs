//! What of a pool can be seen beside its disks: in core files, in the memory of a stopped agent, and on the wire.
//!
//! Each search has its control: something that it must find, in the same place and by the same means. Needs root: it reads another
//! process's memory and listens to a network namespace of its own.

mod disk;
mod secrets;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use disk::{Secret, search, search_octets};
use integration::harness::{Pool, Process};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use secrets::{CANARY, canary, keys_of_objects, keys_with_a_file};
use socket2::{Domain, Protocol, Socket, Type};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const OBJECTS: usize = 8;
/// All protocols (linux/if_ether.h), in network order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();

fn body() -> String {
    format!("{CANARY} ").repeat(4_000)
}

/// One server that has objects, and a free one.
fn pool() -> Result<Pool> {
    Pool::builder(DEMO)
        .servers(2)
        .agent_setting("store.capacity", "16MiB")
        .agent_setting("store.volume_step", "1MiB")
        .start()
}

/// Puts objects with the canary, and reads each.
fn fill(pool: &mut Pool) -> Result<()> {
    let client = pool.add_client("canary", &["read:*", "write:*"])?;
    let client = client.to_str().context("client's directory")?;
    let properties = format!("{{\"note\":\"{CANARY}\"}}");
    for number in 0..OBJECTS {
        let address = format!("7.{number}");
        let put = ["put", &address, "--client", client, "--type", "note", "--properties"];
        pool.agent(&[&put[..], &[&properties, "-"]].concat(), body().as_bytes())?;
        let read = pool.agent(&["get", &address, "--client", client], b"")?;
        ensure!(read.stdout == body(), "the body read back differs");
    }
    Ok(())
}

/// Files of a directory that are not there in `before`.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for item in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        names.push(item?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn agent_that_crashes_leaves_no_core() -> Result<()> {
    // What is started from here may write cores of any size, as the system is set.
    let limits = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Core, limits).context("allow cores: this needs root")?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let dir = tempfile::tempdir()?;
    let control = Command::new("sh")
        .args(["-c", "kill -SEGV $$"])
        .current_dir(dir.path())
        .status()?;
    ensure!(
        control.core_dumped(),
        "the control left no core ({control}, core_pattern {}): this machine writes none, so nothing can be told",
        pattern.trim()
    );
    if pattern.trim() == "core" {
        ensure!(
            names(dir.path())?.iter().any(|name| name.starts_with("core")),
            "the control's core is not where it was sought"
        );
    }

    let mut pool = pool()?;
    fill(&mut pool)?;
    for signal in [Signal::ABORT, Signal::SEGV] {
        let process = pool.server("s1")?.process()?;
        let (pid, folder) = (process.pid(), fs::read_link(format!("/proc/{}/cwd", process.pid()))?);
        let before = names(&folder)?;
        process.signal(signal)?;
        let ended = pool.stop_server("s1").err().context("it ended well")?.to_string();
        let name = if signal == Signal::ABORT { "SIGABRT" } else { "SIGSEGV" };
        ensure!(ended.contains(name) && !ended.contains("core dumped"), "{ended}");
        let new: Vec<_> = names(&folder)?
            .into_iter()
            .filter(|name| !before.contains(name))
            .collect();
        let cores: Vec<_> = new
            .iter()
            .filter(|name| name.contains("core") || name.contains(&pid.to_string()))
            .collect();
        ensure!(cores.is_empty(), "{cores:?} in {}", folder.display());
        pool.start_server("s1")?;
    }
    pool.stop_server("s1")?;
    let mut secrets = keys_of_objects(&pool, "s1")?;
    secrets.push(canary());
    let (found, _) = search(pool.dir(), &secrets)?;
    let found: Vec<_> = (found.iter())
        .map(|found| (&secrets[found.secret].what, &found.file, found.form))
        .collect();
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// All memory of a process that is stopped.
fn memory(process: &Process) -> Result<Vec<u8>> {
    let pid = process.pid();
    process.signal(Signal::STOP)?;
    let dump = || -> Result<Vec<u8>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem")).context("open an agent's memory: this needs root")?;
        let mut all = Vec::new();
        for map in maps.lines() {
            let mut words = map.split_whitespace();
            let (range, rights) = (words.next().context("a range")?, words.next().context("rights")?);
            // What cannot be written is the program and its libraries.
            if !rights.starts_with("rw") {
                continue;
            }
            let (from, to) = range.split_once('-').context("two ends")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            let at = all.len();
            all.resize(at + usize::try_from(to - from)?, 0);
            memory
                .read_exact_at(&mut all[at..], from)
                .with_context(|| format!("read {map}"))?;
        }
        Ok(all)
    };
    let dumped = dump();
    process.signal(Signal::CONT)?;
    dumped
}

/// Which of these secrets are there, by name.
fn there(octets: &[u8], secrets: &[Secret]) -> Vec<String> {
    let mut found: Vec<_> = (search_octets(octets, secrets).into_iter())
        .map(|(secret, _)| secrets[secret].what.clone())
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn memory_of_an_idle_agent_has_no_key_of_an_object_and_no_content_that_it_did_not_serve() -> Result<()> {
    let mut pool = pool()?;
    fill(&mut pool)?;
    let served = memory(pool.server("s1")?.process()?)?;
    pool.stop_server("s1")?;
    let keys = keys_of_objects(&pool, "s1")?;
    ensure!(
        keys.len() == 1 + 2 * OBJECTS,
        "a KEK, and two streams of each object: {}",
        keys.len()
    );
    pool.start_server("s1")?;
    let fresh = memory(pool.server("s1")?.process()?)?;

    let (kek, data_keys) = keys.split_first().context("a KEK")?;
    for (when, octets) in [("after it served", &served), ("after a start", &fresh)] {
        // The control: what is in use is there, and the search sees it.
        let kek = there(octets, std::slice::from_ref(kek));
        ensure!(
            kek.len() == 1,
            "{when} the KEK was not found in {} octets",
            octets.len()
        );
        let data_keys = there(octets, data_keys);
        ensure!(data_keys.is_empty(), "{when} memory has {data_keys:?}");
    }
    let content = there(&fresh, &[canary()]);
    ensure!(
        content.is_empty(),
        "content that was not read since the start: {content:?}"
    );
    let times = |octets: &[u8]| {
        octets
            .windows(CANARY.len())
            .filter(|window| *window == CANARY.as_bytes())
            .count()
    };
    println!(
        "content that was served: {} of {} canaries left",
        times(&served),
        4_000 * OBJECTS * 2
    );
    Ok(())
}

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
    let mut pool = pool()?;
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
