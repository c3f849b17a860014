//! A parent for the agent where there is no systemd: starts it, installs what it asks for, ends with it.
//!
//! | the agent                          | the supervisor                                                              |
//! |------------------------------------|-----------------------------------------------------------------------------|
//! | ends, a request is there           | installs; goes on with the agent at the release that came of it             |
//! | ends, no request is there          | ends with its status: a crash is the service manager's affair               |
//! | works at neither release           | fails, and says so                                                          |
//!
//! SIGTERM and SIGINT go on to the agent, and its end is waited for. A supervisor that is killed takes the agent along
//! (`PR_SET_PDEATHSIG`); started again it goes on with an install that was under way.
//!
//! It stays at the release that it was started at. A restart of the supervisor brings it to the present one.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};

use super::command::{Trouble, die_with_parent, told};
use super::installer::{Ended, Host, Installer};
use super::release::Release;
use super::settings::Settings;
use super::words::{Failure, Outcome};
use super::{FOLDER, Folder, SUPERVISED};

/// How long the agent may take from SIGTERM to its end: its running requests and moves end within 10 s each.
const STOP_WAIT: Duration = Duration::from_secs(40);
/// Time between two looks at a running agent; signals, and its end, are heard at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is supervised.
#[derive(Debug)]
pub struct Supervised {
    /// The agent's directory.
    pub dir: PathBuf,
    /// What may be installed, and how; without it nothing is.
    pub settings: Option<Settings>,
    /// The program and its first words, unless the settings say another.
    pub program: Vec<OsString>,
    /// Words that follow `run --dir DIR`.
    pub rest: Vec<OsString>,
}

/// Runs the agent until it ends, or a signal asks for its end.
///
/// # Errors
///
/// Where the agent cannot be started, an install cannot be carried out, or works at neither release.
pub fn supervise(supervised: Supervised) -> Result<ExitCode> {
    let folder = || Folder::make(&supervised.dir.join(FOLDER)).context("make the folder of requests");
    let installer = match &supervised.settings {
        None => None,
        Some(settings) => {
            let own = match &settings.state {
                Some(path) => Folder::make(path).with_context(|| format!("make {} (state)", path.display()))?,
                None => folder()?,
            };
            Some(Installer::new(folder()?, own, settings.clone()))
        }
    };
    let mut program = supervised.program;
    if let Some(words) = supervised.settings.and_then(|settings| settings.program) {
        program = words.into_iter().map(OsString::from).collect();
    }
    program.extend(["run".into(), "--dir".into(), supervised.dir.into_os_string()]);
    program.extend(supervised.rest);
    let mut parent = Parent {
        words: program,
        installs: installer.is_some(),
        child: None,
        signals: Signals::listen().context("listen for signals")?,
    };
    let ended = run(&mut parent, installer.as_ref());
    // Whatever went wrong: no agent is left behind.
    drop(parent.stop());
    ended
}

fn run(parent: &mut Parent, installer: Option<&Installer>) -> Result<ExitCode> {
    loop {
        // Also what a supervisor before this one left.
        if let Some(installer) = installer
            && installer.is_asked().context("read what is asked for")?
        {
            match installer.run(parent).context("install what is asked for")? {
                Ended::Idle | Ended::Done(_) => {}
                Ended::Interrupted => return Ok(parent.stop()?.map_or(ExitCode::SUCCESS, status_of)),
                Ended::Broken(report) => {
                    let Outcome::Broken { failure, back } = report.outcome else {
                        unreachable!("only this is broken")
                    };
                    bail!(broken(
                        &report.request.release,
                        &report.request.present,
                        &failure,
                        &back
                    ));
                }
            }
        }
        if parent.child.is_none() {
            parent.start()?;
        }
        let status = loop {
            if parent.must_stop() {
                return Ok(parent.stop()?.map_or(ExitCode::SUCCESS, status_of));
            }
            if let Some(status) = parent.look()? {
                break Some(status);
            }
            if installer.is_some_and(Installer::is_asked_to_close) {
                break None;
            }
            parent.signals.wait(LOOK_EVERY);
        };
        match (status, installer) {
            // The agent runs on.
            (None, _) => {}
            (Some(_), Some(installer)) if installer.is_asked().context("read what is asked for")? => {}
            (Some(status), _) => return Ok(status_of(status)),
        }
    }
}

/// What is said of a server that works at neither release.
fn broken(release: &Release, present: &Release, failure: &Failure, back: &Failure) -> String {
    format!(
        "this server works neither at {release} nor, again, at {present}: {failure}; then {back}. It is out of the pool until \
         a person has repaired it: make one of both work, then start the supervisor again"
    )
}

/// The status of the agent as our own; an end by a signal as shells tell it.
fn status_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The agent's parent.
struct Parent {
    words: Vec<OsString>,
    installs: bool,
    child: Option<Child>,
    signals: Signals,
}

impl Parent {
    fn start(&mut self) -> Result<()> {
        let (program, rest) = self.words.split_first().context("name the agent's program")?;
        let mut command = Command::new(program);
        command.args(rest).env_remove(SUPERVISED);
        if self.installs {
            command.env(SUPERVISED, "1");
        }
        die_with_parent(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", program.to_string_lossy()))?;
        tracing::info!(pid = child.id(), "the agent is started");
        self.child = Some(child);
        Ok(())
    }

    /// How the agent ended, if it has.
    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if let Some(status) = status {
            tracing::info!(%status, "the agent ended");
            self.child = None;
        }
        Ok(status)
    }

    /// Ends the agent; within a bound, or by force.
    fn stop(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else {
            return Ok(None);
        };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + STOP_WAIT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                tracing::error!(pid = child.id(), "the agent does not end: it is killed");
                child.kill()?;
                return Ok(Some(child.wait()?));
            }
            self.signals.wait(Duration::from_millis(100));
        }
    }
}

impl Host for Parent {
    fn restart(&mut self, _: &Release) -> Result<(), Trouble> {
        let failed = |why: String| Trouble::Failed { why, said: Vec::new() };
        self.stop().map_err(|error| failed(error.to_string()))?;
        self.start().map_err(|error| failed(format!("{error:#}")))
    }

    fn ended(&mut self) -> Option<String> {
        match self.look() {
            Ok(status) => status.map(told),
            Err(error) => Some(error.to_string()),
        }
    }

    fn may_be_running(&mut self) -> bool {
        self.child.is_some()
    }

    fn must_stop(&self) -> bool {
        self.signals.stop.load(Ordering::Acquire)
    }
}

/// Hears signals on a thread of its own.
struct Signals {
    stop: Arc<AtomicBool>,
    heard: Receiver<()>,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, heard) = sync_channel(1);
        let (ready, is_ready) = sync_channel(1);
        let told = Arc::clone(&stop);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = runtime.and_then(|runtime| runtime.block_on(hear(&told, &tell, &ready)));
            if let Err(error) = ended {
                drop(ready.send(Err(error)));
            }
        })?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Signals { stop, heard })
    }

    /// Sleeps until a signal comes, at most so long.
    fn wait(&self, most: Duration) {
        let _ = self.heard.recv_timeout(most);
    }
}

async fn hear(stop: &AtomicBool, tell: &SyncSender<()>, ready: &SyncSender<io::Result<()>>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = signal(SignalKind::child())?;
    drop(ready.send(Ok(())));
    loop {
        tokio::select! {
            _ = terminate.recv() => stop.store(true, Ordering::Release),
            _ = interrupt.recv() => stop.store(true, Ordering::Release),
            _ = child.recv() => {}
        }
        // A full channel means that it is told already.
        let _ = tell.try_send(());
    }
}
