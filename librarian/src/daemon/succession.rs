//! Who served before, and who serves after.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::RunError;
use crate::handover::{Next, Passed, Predecessor, Successor};
use crate::listen::Service;
use crate::registry::Registry;

/// How long joins, commands and the controller may take to end when another librarian takes over; less than it waits.
const CHANGES_END: Duration = Duration::from_secs(20);
/// How long a librarian that handed over may take to end; what it had read is answered sooner.
const OLD_END: Duration = Duration::from_secs(30);

/// Parts of a librarian.
pub(super) type Parts = JoinSet<Result<(), RunError>>;

/// Who served before.
pub(super) enum Before {
    /// Nobody.
    Nobody,
    /// Another process.
    Another(Predecessor),
    /// This process: it handed over, and the other one went away.
    Itself(Remains),
}

/// What goes on without the registry: it answers plain questions from memory.
pub(super) struct Remains {
    answering: Parts,
    life: DropGuard,
}

impl Before {
    /// Has it read no more questions.
    pub(super) async fn stop(self) -> Stopped {
        match self {
            Before::Nobody => Stopped(None),
            Before::Another(mut predecessor) => {
                predecessor.stop().await;
                Stopped(Some(predecessor))
            }
            Before::Itself(Remains { mut answering, life }) => {
                drop(life);
                while answering.join_next().await.is_some() {}
                Stopped(None)
            }
        }
    }
}

/// Who served before and reads no more questions, but may still answer some.
pub(super) struct Stopped(Option<Predecessor>);

impl Stopped {
    /// Waits until it answers nothing any more: its process has ended, or was given time enough.
    pub(super) async fn ended(self, stop: &CancellationToken) {
        let Some(predecessor) = self.0 else { return };
        tokio::select! {
            ended = tokio::time::timeout(OLD_END, predecessor.ended()) => match ended {
                Ok(()) => tracing::info!("the librarian before has ended"),
                Err(_) => tracing::warn!("the librarian before has stopped, but does not end: end its process"),
            },
            () = stop.cancelled() => {}
        }
    }
}

/// How one life of a librarian ended.
pub(super) enum End {
    /// It was told to stop, or another librarian serves.
    Stopped,
    /// Another librarian has taken the registry and gone away: begin again, with these sockets.
    LeftAlone(Remains, Passed),
}

/// A librarian that serves.
pub(super) struct Life<'a> {
    pub(super) registry: &'a Registry,
    pub(super) service: &'a Service,
    /// All sockets once more.
    pub(super) handles: Passed,
    /// DNS and metrics; ended by `answers`.
    pub(super) answering: Parts,
    pub(super) answers: CancellationToken,
    /// Cancelled when no more questions are read.
    pub(super) quiet: CancellationToken,
    /// What needs the registry besides DNS; ended by `changes`.
    pub(super) changing: Parts,
    pub(super) changes: CancellationToken,
    /// Ends all of them.
    pub(super) all: CancellationToken,
    pub(super) guard: DropGuard,
}

impl Life<'_> {
    /// Hands over to a librarian that has asked for it; `Err` if that one goes away before anything has changed.
    pub(super) async fn hand_over(mut self, mut successor: Successor) -> Result<End, Self> {
        let handed = tokio::select! {
            handed = successor.hand_on(&self.handles) => handed,
            () = self.all.cancelled() => return Err(self),
        };
        if let Err(error) = handed {
            tracing::warn!(%error, "a librarian that wanted to take over went away: nothing has changed");
            return Err(self);
        }
        tracing::info!("another librarian takes over: lets go of the registry");
        // In this order: agents are answered until the last moment.
        self.changes.cancel();
        let ending = async { while self.changing.join_next().await.is_some() {} };
        if tokio::time::timeout(CHANGES_END, ending).await.is_err() {
            self.changing.shutdown().await;
        }
        self.service.retire();
        self.registry.close().await;
        let next = tokio::select! {
            next = successor.free() => next,
            () = self.all.cancelled() => Next::End,
        };
        match next {
            Next::Stop => {
                self.answers.cancel();
                self.quiet.cancelled().await;
                successor.stopped().await;
                tracing::info!("another librarian serves: ends");
            }
            Next::End if !self.all.is_cancelled() => {
                tracing::error!(
                    "the librarian that takes over has the registry and the sockets, but is not ready: ends"
                );
                self.answers.cancel();
            }
            Next::End => {}
            Next::GoOn => {
                tracing::error!("the librarian that was taking over has gone: see its log; this one goes on");
                let remains = Remains {
                    answering: self.answering,
                    life: self.guard,
                };
                return Ok(End::LeftAlone(remains, self.handles));
            }
        }
        while self.answering.join_next().await.is_some() {}
        Ok(End::Stopped)
    }
}
