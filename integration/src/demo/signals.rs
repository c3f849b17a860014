//! Ctrl-C and SIGTERM: everything that was started stops.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::harness::stop_all;

/// Exit status of a program that a signal ended, by the shell's custom (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// What a signal does now.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Mode {
    /// Work is under way: stop everything and exit.
    Working,
    /// Somebody waits for the signal.
    Waited,
    /// It came.
    Stopped,
}

/// Set once a signal ends this program: its main thread then only waits for that.
static ENDING: AtomicBool = AtomicBool::new(false);
static MODE: Mutex<Mode> = Mutex::new(Mode::Working);
static CAME: Condvar = Condvar::new();

/// From now on the first SIGINT or SIGTERM ends this program and all it started, and removes `temporary`; during
/// [`wait_for_stop`] it ends the wait instead.
pub(crate) fn install(temporary: Option<PathBuf>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                let mut mode = MODE.lock().unwrap_or_else(PoisonError::into_inner);
                match *mode {
                    Mode::Working | Mode::Stopped => {
                        ENDING.store(true, Ordering::Release);
                        eprintln!("interrupted: stops everything that was started");
                        stop_all();
                        if let Some(path) = &temporary {
                            let _ = std::fs::remove_dir_all(path);
                        }
                        std::process::exit(INTERRUPTED);
                    }
                    Mode::Waited => {
                        *mode = Mode::Stopped;
                        CAME.notify_all();
                    }
                }
            }
        });
    })?;
    Ok(())
}

/// If a signal is ending this program, waits for the end: what fails meanwhile fails because the pool is being stopped,
/// and the exit status is the signal's.
pub(super) fn yield_to_the_end() {
    while ENDING.load(Ordering::Acquire) {
        thread::park();
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) fn wait_for_stop() {
    let mut mode = MODE.lock().unwrap_or_else(PoisonError::into_inner);
    *mode = Mode::Waited;
    while *mode == Mode::Waited {
        mode = CAME.wait(mode).unwrap_or_else(PoisonError::into_inner);
    }
}
