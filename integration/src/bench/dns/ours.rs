//! Our librarian with one server that has joined, whose reports are sent here: no agent runs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zones::{Has, Role, TsigKey, tsig};

use super::ready::{Ready, ask_once, evict};
use super::set::{DnsSet, LOCAL};
use super::updates::now_s;
use crate::bench::cpu::family_cpu_seconds;
use crate::harness::Pool;

/// Longest time from a restart to the first answer.
const READY_WAIT: Duration = Duration::from_secs(120);

/// Name of the one who takes the whole zone.
const SECONDARY: &str = "bench";

/// A running pool of a librarian alone. Dropping it ends it.
pub(super) struct Ours {
    pool: Pool,
    /// The joined server's key.
    pub(super) key: TsigKey,
    /// The secret of that key in base64, for peers.
    pub(super) secret: String,
    over: Arc<AtomicBool>,
    reporter: Option<JoinHandle<()>>,
}

impl Ours {
    /// Makes a pool below `dir` with the librarian on `cpu`, without objects.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(super) fn start(program: &Path, dir: &Path, set: &DnsSet, cpu: usize) -> Result<Ours> {
        let mut pool = Pool::builder(program)
            .servers(0)
            .free(0)
            .log("warn")
            .temporary_in(dir)
            .librarian_cpu(cpu)
            .librarian_setting("changes_per_second", 100_000_000_i64)
            .start()?;
        pool.join("s1", "serving")?;
        let text = std::fs::read_to_string(pool.key("s1")).context("read the server's key")?;
        let key = TsigKey::from_bind_file(&text).context("read the server's key")?;
        let secret = text.split("secret \"").nth(1).and_then(|rest| rest.split('"').next());
        let secret = secret.context("find the secret")?.to_owned();
        let mut ours = Ours {
            pool,
            key,
            secret,
            over: Arc::new(AtomicBool::new(false)),
            reporter: None,
        };
        let accepted = report(ours.address(), set, &ours.key)?;
        ensure!(accepted, "the librarian does not take the server's report");
        ours.keep_reporting(set)?;
        Ok(ours)
    }

    /// Where it answers.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.pool.dns()
    }

    /// Its process id.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub(super) fn pid(&self) -> Result<u32> {
        Ok(self.pool.librarian_process()?.pid())
    }

    /// Makes a key that may take the `obj` zone; `None` when zones are not given to anyone.
    ///
    /// # Errors
    ///
    /// When the command does not run or its key cannot be read.
    pub(super) fn add_secondary(&self) -> Result<Option<TsigKey>> {
        let said = self
            .pool
            .librarian_any(&["secondary", "add", SECONDARY, "--zone", "obj"])?;
        if !said.status.success() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(self.pool.key(SECONDARY)).context("read the secondary's key")?;
        let key = TsigKey::from_bind_file(&text).context("read the secondary's key")?;
        Ok(Some(key))
    }

    /// Takes that key away, and what is kept for its sake.
    ///
    /// # Errors
    ///
    /// When the command fails.
    pub(super) fn remove_secondary(&self) -> Result<()> {
        self.pool.librarian(&["secondary", "remove", SECONDARY])?;
        Ok(())
    }

    /// Ends it in order and starts it again, with its files dropped from the page cache if `cold`; what it needed.
    ///
    /// # Errors
    ///
    /// When it does not come back.
    pub(super) fn restart(&mut self, set: &DnsSet, cold: bool) -> Result<Ready> {
        self.pool.stop_librarian()?;
        if cold {
            evict(self.pool.dir())?;
        }
        let (address, question, failed) = (self.address(), set.ready_question()?, AtomicBool::new(false));
        let start = Instant::now();
        let took = std::thread::scope(|scope| {
            let asks = scope.spawn(|| -> Result<Duration> {
                while start.elapsed() < READY_WAIT && !failed.load(Ordering::Acquire) {
                    if ask_once(address, &question)? {
                        return Ok(start.elapsed());
                    }
                }
                bail!("the librarian did not answer after a restart");
            });
            let started = self.pool.start_librarian();
            failed.store(started.is_err(), Ordering::Release);
            let took = asks.join().expect("who asks does not panic");
            started.and(took)
        })?;
        let cpu_s = family_cpu_seconds(self.pid()?)?;
        // Its server's report comes again within two seconds; then all is as before.
        std::thread::sleep(Duration::from_secs(3));
        Ok(Ready { after: took, cpu_s })
    }

    /// Renews the server's lease until this is dropped.
    fn keep_reporting(&mut self, set: &DnsSet) -> Result<()> {
        let (address, set, key, over) = (self.address(), set.clone(), self.key.clone(), Arc::clone(&self.over));
        let reporter = std::thread::Builder::new().name("reporter".to_owned()).spawn(move || {
            while !over.load(Ordering::Acquire) {
                // The librarian may be restarting; the next one comes soon.
                let _ = report(address, &set, &key);
                std::thread::park_timeout(Duration::from_secs(2));
            }
        });
        self.reporter = Some(reporter.context("start a thread")?);
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(reporter) = self.reporter.take() {
            reporter.thread().unpark();
            let _ = reporter.join();
        }
    }
}

/// Sends a report of what the server has, as its agent would; whether it was accepted.
fn report(librarian: SocketAddr, set: &DnsSet, key: &TsigKey) -> Result<bool> {
    let has = Has {
        release: "0.1.0".to_owned(),
        role: Role::Serving,
        objects: 0,
        bytes: 0,
        capacity: 1 << 40,
        load: 0,
        heat: 0,
        errors: 0,
        unreadable: 0,
        plan: 0,
        commits: 0,
        peer_port: 9101,
        quarantined: 0,
        audit: None,
        upkeep: None,
        hot: None,
        kept: None,
    };
    let host = IpAddr::V4(LOCAL);
    let mut message = zones::update::build_has_update(&set.domain, 1, &set.owner, &has, set.port, &[host])?;
    let mac = tsig::sign_request(&mut message, key, now_s());
    let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
    socket.connect(librarian).context("connect a socket")?;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .context("set a socket")?;
    socket.send(&message).context("send a report")?;
    let mut answer = [0; 1500];
    let octets = socket.recv(&mut answer).context("hear of a report")?;
    tsig::verify_response(&answer[..octets], key, &mac, now_s()).context("verify an answer")?;
    Ok(octets >= 4 && answer[3] & 0x0f == 0)
}
