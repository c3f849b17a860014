//! A thread of the agent's that works beside everything else until it is dropped.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::store::scrub::GoOn;

/// The thread. Dropping this tells it to stop, and waits until it has.
#[derive(Debug)]
pub(crate) struct Background {
    name: &'static str,
    stop: Option<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// Tells a thread to stop, when it is dropped.
#[derive(Debug)]
pub(crate) struct Stop(#[expect(dead_code, reason = "kept for its end")] SyncSender<()>);

/// What a thread sleeps on: it wakes when it is told to stop.
#[derive(Debug)]
pub(crate) struct Stopped(Receiver<()>);

/// Both ends.
pub(crate) fn stopped() -> (Stop, Stopped) {
    let (stop, stopped) = sync_channel(0);
    (Stop(stop), Stopped(stopped))
}

impl Background {
    /// Starts it; `work` sleeps on what belongs to `stop`.
    ///
    /// # Errors
    ///
    /// The system's, when it gives no thread.
    pub(crate) fn start(
        name: &'static str,
        stop: Stop,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<Background> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Background {
            name,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(name = self.name, "a thread in the background panicked");
        }
    }
}

impl Stopped {
    /// Waits, unless told to stop.
    pub(crate) fn sleep(&self, wait: Duration) -> GoOn {
        match self.0.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => GoOn::Yes,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => GoOn::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_sleeps_ends_when_it_is_dropped() {
        let (tell, told) = sync_channel(1);
        let (stop, stopped) = stopped();
        let background = Background::start("test", stop, move || {
            tell.send(stopped.sleep(Duration::from_secs(3600))).unwrap();
        });
        drop(background.unwrap());
        assert_eq!(told.try_recv(), Ok(GoOn::Stop));
    }
}
