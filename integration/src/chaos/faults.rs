//! Faults of real processes at random moments: kills, pauses, links cut one way, full disks, lost registries; and drains all
//! the while.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rustix::process::Signal;
use serde::Serialize;

use super::disk::SmallDisk;
use super::{NO_ROOM, logged};
use crate::harness::{Network, Pool, Process};

/// Shortest and longest pause between two faults.
const BETWEEN_MS: std::ops::Range<u64> = 50..700;
/// Shortest and longest pause of a process: some are longer than the times that carry correctness (2 s and 2.2 s).
const PAUSED_MS: std::ops::Range<u64> = 20..3_200;
/// Shortest and longest time that a link is cut.
const CUT_MS: std::ops::Range<u64> = 200..6_000;
/// Shortest and longest time that a disk is full.
const FULL_MS: std::ops::Range<u64> = 200..4_000;
/// Octets that the first drain finds: a plan can be noted, and the store cannot grow.
const FIRST_LEFT: u64 = 1 << 20;
/// Most faults that last while others come: a pool whose links are all cut shows nothing.
const LASTING_MAX: usize = 4;
/// A drain that takes longer is given up: the next one will do.
const DRAIN_WAIT: Duration = Duration::from_secs(20);

/// What a lasting fault of a disk concerns, beside the server.
const DISK: &str = "disk";

/// Faults by kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Injected {
    /// Agents that were killed and started again.
    pub agents_killed: u32,
    /// The same for the librarian.
    pub librarians_killed: u32,
    /// Processes that were paused.
    pub paused: u32,
    /// Links that were cut one way.
    pub cuts: u32,
    /// Disks that were filled.
    pub fills: u32,
    /// Registries that were replaced by an old backup.
    pub restored: u32,
    /// Of these, backups that a whole drain was younger than.
    pub restored_before_a_drain: u32,
    /// Registries that were removed and made again from what the agents have.
    pub rebuilt: u32,
    /// Drains that were asked for.
    pub drains: u32,
    /// Drains whose command saw the server empty.
    pub drained: u32,
}

/// One fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    KillAgent,
    KillLibrarian,
    PauseAgent,
    PauseLibrarian,
    Cut,
    Fill,
    Restore,
    Rebuild,
}

/// How often each fault comes before all come anew, in another order.
const DECK: [(Fault, usize); 6] = [
    (Fault::KillAgent, 3),
    (Fault::KillLibrarian, 1),
    (Fault::PauseAgent, 1),
    (Fault::PauseLibrarian, 1),
    (Fault::Cut, 3),
    (Fault::Fill, 1),
];

/// What an agent may keep: the pool's setting `store.capacity`, in octets.
pub const CAPACITY: u64 = 64 << 20;

/// Comes beside the others in the first deck and in every deck of this number after it. A registry that is reconciled takes no
/// drain, and the reports of all servers through kills and cuts take as long as a deck: were it lost in each, nothing moved.
const REGISTRY_EVERY: u32 = 4;

/// An agent's disk, by the agent's name.
pub type Disks = Vec<(String, Arc<SmallDisk>)>;

/// A fault that lasts while others come, and ends by itself.
struct Lasting {
    /// Who or what it concerns, so that none comes twice at a time.
    what: (String, String),
    thread: JoinHandle<Result<()>>,
}

/// A backup of the registry.
struct Backup {
    path: PathBuf,
    /// How many drains had ended when it was made.
    drained: u32,
}

/// Who injects them.
pub struct Faults {
    random: SmallRng,
    injected: Injected,
    network: Arc<Network>,
    disks: Disks,
    deck: Vec<Fault>,
    decks: u32,
    lasting: Vec<Lasting>,
    drain: Option<(Instant, Child)>,
    backup: Option<Backup>,
}

impl Faults {
    /// Decides by `random`, on the network and the disks of a pool.
    #[must_use]
    pub fn new(random: SmallRng, network: Arc<Network>, disks: Disks) -> Faults {
        Faults {
            random,
            injected: Injected::default(),
            network,
            disks,
            deck: Vec::new(),
            decks: 0,
            lasting: Vec::new(),
            drain: None,
            backup: None,
        }
    }

    /// What was injected so far.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.injected
    }

    /// Injects faults for a while, and each kind at least once.
    ///
    /// # Errors
    ///
    /// When a process does not come back.
    pub fn inject(&mut self, pool: &mut Pool, lasts: Duration) -> Result<()> {
        self.back_up(pool)?;
        self.drain_into_a_full_disk(pool)?;
        let start = Instant::now();
        self.shuffle();
        loop {
            let Some(fault) = self.deck.pop() else {
                if start.elapsed() >= lasts {
                    return Ok(());
                }
                self.shuffle();
                continue;
            };
            self.drain(pool)?;
            if self.backup.is_none() {
                self.back_up(pool)?;
            }
            thread::sleep(Duration::from_millis(self.random.random_range(BETWEEN_MS)));
            self.one(fault, pool).with_context(|| format!("{fault:?}"))?;
            if start.elapsed() >= lasts && self.every_kind_came() {
                return Ok(());
            }
        }
    }

    /// A whole drain that the first backup knows nothing of, into a disk that is full until the agent has said so: later
    /// drains may find that the store has grown to all the room that they need.
    fn drain_into_a_full_disk(&mut self, pool: &Pool) -> Result<()> {
        let [first, .., free] = pool.servers() else {
            return Ok(());
        };
        let disk = self.disk(&free.name)?;
        disk.fill(FIRST_LEFT)?;
        let mut command = pool.librarian_command(&["drain", &first.name]);
        let mut drain = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start a drain")?;
        let start = Instant::now();
        while logged(free.process()?, NO_ROOM)? == 0 && start.elapsed() < DRAIN_WAIT {
            thread::yield_now();
        }
        disk.free()?;
        self.injected.fills += 1;
        let status = drain.wait().context("wait for the first drain")?;
        ensure!(status.success(), "the first drain ended with {status}");
        self.injected.drains += 1;
        self.injected.drained += 1;
        Ok(())
    }

    fn disk(&self, server: &str) -> Result<Arc<SmallDisk>> {
        let disk = self.disks.iter().find(|(name, _)| name == server);
        Ok(Arc::clone(
            &disk.with_context(|| format!("{server} has no disk of its own"))?.1,
        ))
    }

    fn shuffle(&mut self) {
        let all = DECK
            .iter()
            .flat_map(|(fault, times)| std::iter::repeat_n(*fault, *times));
        self.deck = all.collect();
        if self.decks.is_multiple_of(REGISTRY_EVERY) {
            self.deck.extend([Fault::Restore, Fault::Rebuild]);
        }
        self.decks += 1;
        self.deck.shuffle(&mut self.random);
        // A backup of a registry that was rebuilt since is refused, so what restores one comes first: nearer to the end.
        let at = |wanted| self.deck.iter().position(|fault| *fault == wanted);
        if let (Some(restore), Some(rebuild)) = (at(Fault::Restore), at(Fault::Rebuild))
            && restore < rebuild
        {
            self.deck.swap(restore, rebuild);
        }
    }

    fn every_kind_came(&self) -> bool {
        let Injected {
            agents_killed,
            librarians_killed,
            paused,
            cuts,
            fills,
            restored,
            rebuilt,
            ..
        } = self.injected;
        [agents_killed, librarians_killed, paused, cuts, fills, restored, rebuilt]
            .iter()
            .all(|times| *times > 0)
    }

    fn one(&mut self, fault: Fault, pool: &mut Pool) -> Result<()> {
        let server = self.random.random_range(0..pool.servers().len());
        let server = pool.servers()[server].name.clone();
        match fault {
            Fault::KillAgent => {
                pool.kill_server(&server)?;
                self.stay_away();
                self.start_server(pool, &server)?;
                self.injected.agents_killed += 1;
            }
            Fault::KillLibrarian => {
                pool.kill_librarian()?;
                self.stay_away();
                pool.start_librarian()?;
                self.injected.librarians_killed += 1;
            }
            Fault::PauseAgent => self.pause(pool.server(&server)?.process()?)?,
            Fault::PauseLibrarian => self.pause(pool.librarian_process()?)?,
            Fault::Cut => self.cut(pool)?,
            Fault::Fill => {
                let lasts = self.random.random_range(FULL_MS);
                self.fill(&server, lasts)?;
            }
            Fault::Restore => self.restore(pool)?,
            Fault::Rebuild => {
                pool.kill_librarian()?;
                std::fs::remove_file(pool.dir().join("registry.redb")).context("lose the registry")?;
                pool.librarian(&["rebuild"])?;
                pool.start_librarian()?;
                // A backup of the one before is refused from now on.
                self.backup = None;
                self.injected.rebuilt += 1;
            }
        }
        Ok(())
    }

    /// Now and then a process stays away for longer than its lease takes to be noticed.
    fn stay_away(&mut self) {
        if self.random.random_bool(0.2) {
            thread::sleep(Duration::from_millis(self.random.random_range(PAUSED_MS)));
        }
    }

    /// Starts an agent. On a full disk it may refuse; then it is started again when there is room, as an operator would.
    fn start_server(&mut self, pool: &mut Pool, server: &str) -> Result<()> {
        if pool.start_server(server).is_ok() {
            return Ok(());
        }
        self.end_lasting(|what| what.0 == server && what.1 == DISK)?;
        pool.start_server(server)
    }

    fn pause(&mut self, process: &Process) -> Result<()> {
        process.signal(Signal::STOP)?;
        thread::sleep(Duration::from_millis(self.random.random_range(PAUSED_MS)));
        process.signal(Signal::CONT)?;
        self.injected.paused += 1;
        Ok(())
    }

    /// Cuts what one host sends to another: agents, librarian and clients alike.
    fn cut(&mut self, pool: &Pool) -> Result<()> {
        let mut hosts: Vec<String> = pool.servers().iter().map(|server| server.name.clone()).collect();
        hosts.extend(["librarian", "client"].map(str::to_owned));
        hosts.shuffle(&mut self.random);
        let (from, to) = (hosts[0].clone(), hosts[1].clone());
        let lasts = self.random.random_range(CUT_MS);
        let network = Arc::clone(&self.network);
        let (begin, end) = ((from.clone(), to.clone()), (from.clone(), to.clone()));
        let began = self.last(
            (from, to),
            lasts,
            {
                let network = Arc::clone(&network);
                move || network.cut(&begin.0, &begin.1)
            },
            move || network.mend(&end.0, &end.1),
        )?;
        self.injected.cuts += u32::from(began);
        Ok(())
    }

    fn fill(&mut self, server: &str, lasts_ms: u64) -> Result<()> {
        let disk = self.disk(server)?;
        let full = Arc::clone(&disk);
        let began = self.last(
            (server.to_owned(), DISK.to_owned()),
            lasts_ms,
            move || full.fill(0),
            move || disk.free(),
        )?;
        self.injected.fills += u32::from(began);
        Ok(())
    }

    /// Begins what ends by itself after a while, unless it or too much lasts already.
    fn last(
        &mut self,
        what: (String, String),
        lasts_ms: u64,
        begin: impl FnOnce() -> Result<()>,
        end: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<bool> {
        self.end_lasting_that(|lasting| lasting.thread.is_finished())?;
        if self.lasting.len() >= LASTING_MAX || self.lasting.iter().any(|lasting| lasting.what == what) {
            return Ok(false);
        }
        begin()?;
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(lasts_ms));
            end()
        });
        self.lasting.push(Lasting { what, thread });
        Ok(true)
    }

    fn end_lasting(&mut self, which: impl Fn(&(String, String)) -> bool) -> Result<()> {
        self.end_lasting_that(|lasting| which(&lasting.what))
    }

    fn end_lasting_that(&mut self, which: impl Fn(&Lasting) -> bool) -> Result<()> {
        let (ended, lasting) = std::mem::take(&mut self.lasting)
            .into_iter()
            .partition(|one| which(one));
        self.lasting = lasting;
        let ended: Vec<Lasting> = ended;
        for one in ended {
            let end = one.thread.join().map_err(|_| anyhow!("the end of a fault panicked"))?;
            end.with_context(|| format!("end the fault of {:?}", one.what))?;
        }
        Ok(())
    }

    fn back_up(&mut self, pool: &Pool) -> Result<()> {
        let path = pool.dir().join(format!("chaos-{}.backup", self.injected.restored));
        let name = path.to_str().context("name the backup")?;
        // Refused while the registry is being reconciled: the next time will do.
        if pool.librarian_any(&["backup", name])?.status.success() {
            let drained = self.injected.drained;
            self.backup = Some(Backup { path, drained });
        }
        Ok(())
    }

    /// Puts an old registry in the place of the present one.
    fn restore(&mut self, pool: &mut Pool) -> Result<()> {
        let Some(backup) = self.backup.take() else {
            return Ok(());
        };
        pool.kill_librarian()?;
        let path = backup.path.to_str().context("name the backup")?;
        pool.librarian(&["restore", path, "--yes"])?;
        pool.start_librarian()?;
        self.injected.restored += 1;
        self.injected.restored_before_a_drain += u32::from(self.injected.drained > backup.drained);
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
        let mut names: Vec<&str> = pool.servers().iter().map(|server| server.name.as_str()).collect();
        names.shuffle(&mut self.random);
        let mut words = vec!["drain", names[0]];
        // A drain that a lost registry broke off leaves no server free: the next one says where the objects go.
        let status = pool.pool_status()?;
        if status.servers.iter().all(|server| server.role != "free") {
            let octets = |name: &str| {
                let server = status.servers.iter().find(|server| server.name == name);
                server.and_then(|server| server.bytes).unwrap_or(0)
            };
            let Some(into) = names[1..].iter().min_by_key(|name| octets(name)) else {
                return Ok(());
            };
            // Two servers that do not fit one would leave the drain waiting for ever.
            if octets(names[0]) + octets(into) > CAPACITY / 4 * 3 {
                return Ok(());
            }
            words.extend(["--into", into]);
        }
        let mut command: Command = pool.librarian_command(&words);
        // A drain of a server that is free, or beside another one, is refused: the next one may do.
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(refusals(pool)?)
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

    /// No more faults: every process is back, every link and disk whole.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub fn heal(&mut self, pool: &mut Pool) -> Result<()> {
        self.end_lasting(|_| true)?;
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
        // The command only watches: the drain itself goes on, and the pool comes to rest when it has ended.
        self.end_drain()
    }
}

/// Why drains are refused, beside the logs of the processes.
fn refusals(pool: &Pool) -> Result<File> {
    let path = pool.dir().join("logs/drains.log");
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .context("open the log of drains")
}
