//! `agent install`: what a path unit of systemd starts when the agent has asked for another release.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::objects::print;
use crate::install::command::{self, Trouble};
use crate::install::words::Outcome;
use crate::install::{Ended, FOLDER, Folder, Host, Installer, Release, Settings};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Started by agent-install.path when the agent has asked for a release; by hand it goes on with what a \
killed one left.

Ends with 0 if the agent runs again, at the wanted release or the one before, 1 if it runs at neither.

Example:
  agent install --dir /var/lib/hypernet/s2 --config /etc/hypernet/agent-install.toml"
)]
pub(super) struct Install {
    /// The agent's directory
    #[arg(long)]
    dir: PathBuf,
    /// What may be installed, and by which commands
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// The agent is somebody else's child.
struct Service<'a> {
    settings: &'a Settings,
    stop: Arc<AtomicBool>,
}

impl Host for Service<'_> {
    fn restart(&mut self, release: &Release) -> Result<(), Trouble> {
        command::run(&self.settings.restart, release, self.settings.health_timeout, &|| {
            self.must_stop()
        })
    }

    fn ended(&mut self) -> Option<String> {
        None
    }

    fn may_be_running(&mut self) -> bool {
        true
    }

    fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Install {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let settings = Settings::read(&self.config)?;
        let path = self.dir.join(FOLDER);
        let folder = Folder::open(&path).with_context(|| format!("open {}: has an agent run here?", path.display()))?;
        let own = match &settings.state {
            Some(state) => Folder::make(state).with_context(|| format!("make {} (state)", state.display()))?,
            None => Folder::open(&path).with_context(|| format!("open {}", path.display()))?,
        };
        let installer = Installer::new(folder, own, settings.clone());
        let mut service = Service {
            settings: &settings,
            stop: Arc::default(),
        };
        let _runtime = listen(Arc::clone(&service.stop))?;
        match installer.run(&mut service)? {
            Ended::Idle => print(format_args!("nothing to install\n"))?,
            Ended::Interrupted => bail!("asked to end: started again it goes on"),
            Ended::Done(report) => match &report.outcome {
                Outcome::Installed {} => print(format_args!("the agent serves at {}\n", report.request.release))?,
                Outcome::Failed { failure } => {
                    let (release, present) = (&report.request.release, &report.request.present);
                    print(format_args!(
                        "{release} does not work, the agent serves at {present}: {failure}\n"
                    ))?;
                }
                Outcome::Refused { why } => print(format_args!("refused: {why}\n"))?,
                Outcome::Closed {} | Outcome::Broken { .. } => print(format_args!("done\n"))?,
            },
            Ended::Broken(report) => {
                let Outcome::Broken { failure, back } = &report.outcome else {
                    unreachable!("only this is broken")
                };
                bail!(
                    "this server works neither at {} nor, again, at {}: {failure}; then {back}",
                    report.request.release,
                    report.request.present
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Hears SIGTERM, as long as the runtime lives.
fn listen(stop: Arc<AtomicBool>) -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.store(true, Ordering::Release);
    });
    Ok(runtime)
}
