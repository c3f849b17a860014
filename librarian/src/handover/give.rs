//! The old librarian's side.

use std::io;
use std::os::fd::BorrowedFd;

use tokio::net::UnixStream;

use super::passed::Passed;
use super::wire::Wire;
use super::{Ask, OPENING_MAX, PATIENCE, Told};
use crate::control::words::{Line, Sockets};

/// A librarian that wants to take over.
#[derive(Debug)]
pub struct Successor {
    wire: Wire,
}

/// What the old librarian does after it has let go of the registry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Stop: the new one is ready to answer.
    Stop,
    /// Go on: the new one has gone.
    GoOn,
    /// End: the new one holds the registry and the sockets, and says nothing.
    End,
}

impl Successor {
    /// A connection on which `hand-over` was asked for.
    #[must_use]
    pub fn new(stream: UnixStream) -> Successor {
        Successor {
            wire: Wire::new(stream),
        }
    }

    /// Says why not.
    pub(crate) async fn refuse(mut self, why: &str) -> io::Result<()> {
        self.wire.say(&Line::Refused(why.to_owned())).await
    }

    /// Sends the sockets and waits until the new librarian wants the registry. Nothing has changed until then.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the new one has gone; then it has not taken over.
    pub async fn hand_on(&mut self, sockets: &Passed) -> io::Result<()> {
        let (names, sockets): (Vec<_>, Vec<BorrowedFd<'_>>) = sockets.named().into_iter().unzip();
        let names = Sockets {
            sockets: names.into_iter().map(str::to_owned).collect(),
        };
        let names = serde_json::to_value(names).expect("our own words are JSON");
        self.wire.say_with(&Line::Done(names), &sockets).await?;
        match self.wire.hear(PATIENCE).await? {
            Ask::LetGo => Ok(()),
            Ask::Stop => Err(io::Error::new(io::ErrorKind::InvalidData, "stop before let-go")),
        }
    }

    /// Says that the registry is let go of, and waits until the new librarian has opened it.
    pub async fn free(&mut self) -> Next {
        let heard = async {
            self.wire.say(&Told::Free).await?;
            self.wire.hear(OPENING_MAX).await
        };
        match heard.await {
            Ok(Ask::Stop) => Next::Stop,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Next::End,
            // Nonsense is as good as nothing.
            Ok(Ask::LetGo) | Err(_) => Next::GoOn,
        }
    }

    /// Says that no more questions are read.
    pub async fn stopped(&mut self) {
        if let Err(error) = self.wire.say(&Told::Stopped).await {
            tracing::warn!(%error, "the librarian that takes over did not hear the last word");
        }
    }
}
