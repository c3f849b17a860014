//! Lines of JSON and sockets over a Unix connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::PATIENCE;

/// Most sockets that are handed on.
pub(super) const SOCKETS_MAX: usize = 64;
/// Longest line.
const LINE_OCTETS_MAX: usize = 4096;

/// A connection between two librarians.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// What came after the last line.
    waiting: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Wire {
        Wire {
            stream,
            waiting: Vec::new(),
        }
    }

    /// Says one thing.
    pub(super) async fn say(&mut self, word: &impl Serialize) -> io::Result<()> {
        let line = line(word);
        tokio::time::timeout(PATIENCE, self.stream.write_all(&line)).await?
    }

    /// Says one thing and sends sockets with it.
    pub(super) async fn say_with(&mut self, word: &impl Serialize, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let line = line(word);
        let sending = async {
            let sent = self.stream.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
                    return Err(io::Error::other(format!("more than {SOCKETS_MAX} sockets")));
                }
                Ok(sendmsg(
                    &self.stream,
                    &[IoSlice::new(&line)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?)
            });
            let sent = sent.await?;
            self.stream.write_all(&line[sent..]).await
        };
        tokio::time::timeout(PATIENCE, sending).await?
    }

    /// Hears one thing.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the other side has gone, `TimedOut` when it says nothing for too long.
    pub(super) async fn hear<T: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<T> {
        let mut sockets = Vec::new();
        self.hear_with(patience, &mut sockets).await
    }

    /// Hears one thing and takes the sockets that come with it.
    pub(super) async fn hear_with<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
        sockets: &mut Vec<OwnedFd>,
    ) -> io::Result<T> {
        tokio::time::timeout(patience, self.hear_line(sockets)).await?
    }

    async fn hear_line<T: DeserializeOwned>(&mut self, sockets: &mut Vec<OwnedFd>) -> io::Result<T> {
        loop {
            if let Some(end) = self.waiting.iter().position(|octet| *octet == b'\n') {
                let rest = self.waiting.split_off(end + 1);
                let line = std::mem::replace(&mut self.waiting, rest);
                return serde_json::from_slice(&line)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if self.waiting.len() > LINE_OCTETS_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
            }
            let mut octets = [0; LINE_OCTETS_MAX];
            let count = self.stream.async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut slices = [IoSliceMut::new(&mut octets)];
                let received = recvmsg(&self.stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        sockets.extend(received);
                    }
                }
                Ok(received.bytes)
            });
            match count.await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.waiting.extend(&octets[..count]),
            }
        }
    }

    /// Waits until the other side has gone.
    pub(super) async fn gone(&mut self) {
        let mut rest = Vec::new();
        // Whatever it may still say, its end comes as an error.
        while self.hear_line::<serde_json::Value>(&mut rest).await.is_ok() {}
    }
}

fn line(word: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(word).expect("our own words are JSON");
    line.push(b'\n');
    line
}
