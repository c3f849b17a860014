//! One process that we started: its readiness, its logs, its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};

/// How long a process may take from its start to its `ready` line.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How long a process may take from SIGTERM to its end, before SIGKILL.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// What has been started and not yet ended: process id to what it is.
static RUNNING: LazyLock<Mutex<BTreeMap<u32, String>>> = LazyLock::new(Mutex::default);

/// A child is told of its parent's death when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG). So one
/// thread, which lives as long as this process, starts all children.
static STARTER: LazyLock<SyncSender<Start>> = LazyLock::new(|| {
    let (sender, receiver) = sync_channel::<Start>(16);
    thread::Builder::new()
        .name("starter".to_owned())
        .spawn(move || {
            for Start { mut command, reply } in receiver {
                let _ = reply.send(command.spawn());
            }
        })
        .expect("a thread can be started");
    sender
});

struct Start {
    command: Command,
    reply: SyncSender<std::io::Result<Child>>,
}

/// Starts a child that dies with this process.
pub(crate) fn spawn(mut command: Command) -> Result<Child> {
    let text = format!("{command:?}");
    let parent = std::process::id();
    // SAFETY: the closure runs in the child between fork and exec and makes two system calls, both async-signal-safe;
    // it touches no memory but its own copy of `parent`.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()) != Some(parent) {
                return Err(std::io::Error::other("the parent died first"));
            }
            Ok(())
        });
    }
    let (reply, answer) = sync_channel(1);
    STARTER.send(Start { command, reply }).context("reach the starter")?;
    let child = answer.recv().context("hear from the starter")?;
    child.with_context(|| format!("start {text}"))
}

/// Ends everything that this process started, for a signal handler's thread: SIGTERM to all, a short wait, SIGKILL to
/// what remains.
pub fn stop_all() {
    let running = |signal: Option<Signal>| {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let pids: Vec<Pid> = running.keys().filter_map(|&pid| pid_of(pid)).collect();
        for &pid in &pids {
            if let Some(signal) = signal {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
        pids.into_iter().any(|pid| !is_over(pid))
    };
    running(Some(Signal::TERM));
    let until = Instant::now() + Duration::from_secs(5);
    while running(None) && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    running(Some(Signal::KILL));
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Gone, or a zombie that its owner has not yet waited for.
fn is_over(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
        Ok(stat) => stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')),
        Err(_) => true,
    }
}

/// A running daemon. Dropping it ends it: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// The JSON text after `ready`.
    ready: String,
}

impl Process {
    /// Starts a daemon and waits for its line `ready {json}` on standard output. Its standard error goes to `log`,
    /// after what is there.
    ///
    /// # Errors
    ///
    /// When it cannot be started, ends before it is ready, or is not ready in a minute; the end of its log is in the
    /// message.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open log {}", log.display()))?;
        // A group of its own: Ctrl-C on the terminal reaches us alone, and we stop the rest in order.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0);
        let mut child = spawn(command)?;
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(child.id(), name.to_owned());
        let stdout = child.stdout.take().context("take standard output")?;
        let (line, lines) = sync_channel(1);
        let reader = thread::Builder::new().name(format!("stdout of {name}")).spawn(move || {
            // Reads on after the ready line, so that the daemon never blocks on a full pipe.
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(json) = text.strip_prefix("ready ") {
                    let _ = line.try_send(json.to_owned());
                }
            }
        });
        let mut process = Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ready: String::new(),
        };
        reader.context("start a reader")?;
        match lines.recv_timeout(READY_WAIT) {
            Ok(json) => process.ready = json,
            Err(_) => {
                let ended = process.child.try_wait().ok().flatten();
                let log = process.log_end();
                bail!(
                    "{name} {}; the end of its log {}:\n{log}",
                    ended.map_or("did not become ready in a minute".to_owned(), |status| format!(
                        "ended with {status}"
                    )),
                    process.log.display(),
                );
            }
        }
        Ok(process)
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The JSON text of its ready line.
    #[must_use]
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its standard error goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = pid_of(self.child.id()).context("process id")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGKILL and wait: what a power cut is to a process.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM and wait.
    ///
    /// # Errors
    ///
    /// When it does not end in time (it is killed then), or ends with an error.
    pub fn stop(mut self) -> Result<()> {
        let status = self.end()?;
        self.in_order(status)
    }

    /// Waits for its end, which comes by itself.
    ///
    /// # Errors
    ///
    /// As [`Process::stop`].
    pub fn ended(mut self) -> Result<()> {
        let status = self.wait()?;
        self.in_order(status)
    }

    fn in_order(&self, status: ExitStatus) -> Result<()> {
        if status.success() || status.signal() == Some(libc::SIGTERM) {
            return Ok(());
        }
        Err(anyhow!(
            "{} ended with {status}; the end of its log:\n{}",
            self.name,
            self.log_end()
        ))
    }

    fn end(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let _ = self.signal(Signal::TERM);
        self.wait()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + STOP_WAIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end in {} s and was killed", self.name, STOP_WAIT.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4000)..]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.child.id());
    }
}

/// The processes that `pid` started and that have not ended.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    // Each is listed by the thread that started it.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let listed = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let listed: Vec<String> = listed.collect();
    let each = listed.iter().flat_map(|children| children.split_whitespace());
    each.filter_map(|child| child.parse().ok()).collect()
}

/// Memory that process `pid` holds now, in bytes (VmRSS).
///
/// # Errors
///
/// When it has ended.
pub fn resident_memory(pid: u32) -> Result<u64> {
    status_field(pid, "VmRSS:")
}

/// Most memory that process `pid` ever held, in bytes (VmHWM).
///
/// # Errors
///
/// When it has ended.
pub fn peak_memory(pid: u32) -> Result<u64> {
    status_field(pid, "VmHWM:")
}

fn status_field(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read status of process {pid}"))?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .context("find the field")?;
    let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse().context("read the field")?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn dropped_process_is_gone_even_if_it_ignores_sigterm_for_a_while() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let script = "trap 'sleep 0.2; exit 0' TERM; echo 'ready {\"a\":1}'; while :; do sleep 0.05; done";
        let process = Process::start("sleeper", shell(script), &log)?;
        assert_eq!(process.ready(), "{\"a\":1}");
        let pid = pid_of(process.pid()).context("process id")?;
        assert!(!is_over(pid));
        drop(process);
        assert!(is_over(pid));
        Ok(())
    }

    #[test]
    fn process_that_ends_before_it_is_ready_shows_the_end_of_its_log() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let script = "echo 'no such setting' >&2; exit 3";
        let error = Process::start("broken", shell(script), &dir.path().join("log"))
            .err()
            .context("it started")?;
        let text = format!("{error:#}");
        assert!(text.contains("no such setting"), "{text}");
        Ok(())
    }

    #[test]
    fn children_are_told_whatever_thread_started_them() {
        let start = || shell("read line").stdin(Stdio::piped()).spawn().unwrap();
        let mut started = vec![start(), std::thread::spawn(start).join().unwrap()];
        let told = children(std::process::id());
        for child in &mut started {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(started.iter().all(|child| told.contains(&child.id())), "{told:?}");
    }
}
