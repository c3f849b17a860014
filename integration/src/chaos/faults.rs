//! Faults of real processes at random moments: SIGKILL and SIGSTOP of agents and librarian, and drains all the while.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::SmallRng;
use rustix::process::Signal;

use crate::harness::Pool;

/// Shortest and longest pause between two faults.
const BETWEEN_MS: std::ops::Range<u64> = 50..700;
/// Shortest and longest pause of a process: some are longer than the times that carry correctness (2 s and 2.2 s).
const PAUSED_MS: std::ops::Range<u64> = 20..3_200;
/// A drain that takes longer is given up: the next one will do.
const DRAIN_WAIT: Duration = Duration::from_secs(20);

/// Faults by kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Injected {
    /// Agents that were killed and started again.
    pub agents_killed: u32,
    /// The same for the librarian.
    pub librarians_killed: u32,
    /// Processes that were paused.
    pub paused: u32,
    /// Drains that began.
    pub drains: u32,
    /// Drains whose command said that the server is empty.
    pub drained: u32,
}

/// Who injects them.
pub struct Faults {
    random: SmallRng,
    injected: Injected,
    drain: Option<(Instant, Child)>,
}

impl Faults {
    /// Decides by `random`.
    #[must_use]
    pub fn new(random: SmallRng) -> Faults {
        Faults {
            random,
            injected: Injected::default(),
            drain: None,
        }
    }

    /// What was injected so far.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.injected
    }

    /// Injects faults for a while.
    ///
    /// # Errors
    ///
    /// When a process does not come back.
    pub fn inject(&mut self, pool: &mut Pool, lasts: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < lasts {
            self.drain(pool)?;
            std::thread::sleep(Duration::from_millis(self.random.random_range(BETWEEN_MS)));
            let server = self.random.random_range(0..pool.servers().len());
            let server = pool.servers()[server].name.clone();
            match self.random.random_range(0..10) {
                0..4 => {
                    pool.kill_server(&server)?;
                    // Now and then it stays away for longer than its lease takes to be noticed.
                    if self.random.random_bool(0.2) {
                        std::thread::sleep(Duration::from_millis(self.random.random_range(PAUSED_MS)));
                    }
                    pool.start_server(&server)?;
                    self.injected.agents_killed += 1;
                }
                4..6 => {
                    pool.kill_librarian()?;
                    if self.random.random_bool(0.2) {
                        std::thread::sleep(Duration::from_millis(self.random.random_range(PAUSED_MS)));
                    }
                    pool.start_librarian()?;
                    self.injected.librarians_killed += 1;
                }
                6..9 => {
                    let process = pool.server(&server)?.process()?;
                    self.pause(process)?;
                }
                _ => self.pause(pool.librarian_process()?)?,
            }
        }
        Ok(())
    }

    fn pause(&mut self, process: &crate::harness::Process) -> Result<()> {
        process.signal(Signal::STOP)?;
        std::thread::sleep(Duration::from_millis(self.random.random_range(PAUSED_MS)));
        process.signal(Signal::CONT)?;
        self.injected.paused += 1;
        Ok(())
    }

    /// Keeps one server draining: a new drain when the last one has ended, or takes too long.
    fn drain(&mut self, pool: &Pool) -> Result<()> {
        if let Some((since, child)) = &mut self.drain {
            match child.try_wait().context("look at the drain")? {
                Some(status) => {
                    self.injected.drained += u32::from(status.success());
                    self.drain = None;
                }
                None if since.elapsed() > DRAIN_WAIT => self.end_drain()?,
                None => return Ok(()),
            }
        }
        let server = self.random.random_range(0..pool.servers().len());
        let mut command: Command = pool.librarian_command(&["drain", &pool.servers()[server].name]);
        // A drain of a server that is free, or beside another one, is refused: the next one may do.
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.drain = Some((Instant::now(), child.context("start a drain")?));
        self.injected.drains += 1;
        Ok(())
    }

    fn end_drain(&mut self) -> Result<()> {
        if let Some((_, mut child)) = self.drain.take() {
            child.kill().context("give a drain up")?;
            child.wait().context("wait for a drain")?;
        }
        Ok(())
    }

    /// No more faults: what was begun is waited for.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub fn heal(&mut self, pool: &mut Pool) -> Result<()> {
        // A fault that failed halfway may have left a process paused or away.
        for name in pool
            .servers()
            .iter()
            .map(|server| server.name.clone())
            .collect::<Vec<_>>()
        {
            if let Ok(process) = pool.server(&name)?.process() {
                process.signal(Signal::CONT)?;
            } else {
                pool.start_server(&name)?;
            }
        }
        if let Ok(process) = pool.librarian_process() {
            process.signal(Signal::CONT)?;
        } else {
            pool.start_librarian()?;
        }
        if let Some((_, mut child)) = self.drain.take() {
            let status = child.wait().context("wait for the last drain")?;
            self.injected.drained += u32::from(status.success());
        }
        Ok(())
    }
}
