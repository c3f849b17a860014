//! The new librarian's side.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::passed::{Passed, PassedError};
use super::wire::Wire;
use super::{Ask, PATIENCE, STOPPING_MAX, Told};
use crate::control::socket_path;
use crate::control::words::{Line, Request, Sockets};

/// The librarian that runs now.
#[derive(Debug)]
pub struct Predecessor {
    wire: Wire,
}

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// The librarian that runs now says no.
    #[error("the librarian of {dir} does not hand over ({why}): stop it, then run without --take-over")]
    Refused {
        /// Its directory.
        dir: PathBuf,
        /// Why not.
        why: String,
    },
    /// The connection broke.
    #[error("the librarian of {dir} stopped answering: see its log, then repeat the command")]
    Broken {
        /// Its directory.
        dir: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The sockets cannot be used; the librarian that runs now goes on.
    #[error(transparent)]
    Sockets(#[from] PassedError),
}

impl Predecessor {
    /// Asks the librarian of a directory for its sockets; `None` if none runs.
    ///
    /// # Errors
    ///
    /// [`TakeError`]; the other librarian goes on as if it had not been asked.
    pub async fn ask(dir: &Path) -> Result<Option<(Predecessor, Passed)>, TakeError> {
        let broken = |source| TakeError::Broken {
            dir: dir.to_owned(),
            source,
        };
        let stream = match UnixStream::connect(socket_path(dir)).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(broken(error)),
        };
        let mut wire = Wire::new(stream);
        wire.say(&Request::HandOver).await.map_err(broken)?;
        let mut sockets = Vec::new();
        let names: Sockets = match wire.hear_with(PATIENCE, &mut sockets).await.map_err(broken)? {
            Line::Done(value) => serde_json::from_value(value)
                .map_err(|error| broken(io::Error::new(io::ErrorKind::InvalidData, error)))?,
            Line::Refused(why) => {
                return Err(TakeError::Refused {
                    dir: dir.to_owned(),
                    why,
                });
            }
            Line::Progress(_) => return Err(broken(io::Error::new(io::ErrorKind::InvalidData, "progress"))),
        };
        if names.sockets.len() != sockets.len() {
            return Err(broken(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} names for {} sockets", names.sockets.len(), sockets.len()),
            )));
        }
        let passed = Passed::sort(names.sockets.into_iter().zip(sockets))?;
        Ok(Some((Predecessor { wire }, passed)))
    }

    /// Has it let go of the registry. If it ends instead, the registry is free as well.
    ///
    /// # Errors
    ///
    /// [`TakeError::Broken`] when it does neither.
    pub async fn let_go(&mut self, dir: &Path) -> Result<(), TakeError> {
        let broken = |source| TakeError::Broken {
            dir: dir.to_owned(),
            source,
        };
        let heard = async {
            self.wire.say(&Ask::LetGo).await?;
            self.wire.hear(PATIENCE).await
        };
        match heard.await {
            Ok(Told::Free) => Ok(()),
            Ok(Told::Stopped) => Err(broken(io::Error::new(
                io::ErrorKind::InvalidData,
                "stopped before free",
            ))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ) =>
            {
                tracing::warn!("the librarian that was asked to hand over ended: starts in its place");
                Ok(())
            }
            Err(error) => Err(broken(error)),
        }
    }

    /// Has it read no more questions, so that never two answer.
    pub async fn stop(&mut self) {
        let heard = async {
            self.wire.say(&Ask::Stop).await?;
            self.wire.hear(STOPPING_MAX).await
        };
        match heard.await {
            Ok(Told::Stopped) => {}
            // It has no registry: whatever it answers, it answers from memory.
            Ok(Told::Free) | Err(_) => tracing::warn!("the librarian that handed over did not say that it stopped"),
        }
    }

    /// Waits until its process has ended.
    pub async fn ended(mut self) {
        self.wire.gone().await;
    }
}
