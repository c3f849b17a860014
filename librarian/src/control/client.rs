//! The command's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::socket_path;
use super::words::{LINE_OCTETS_MAX, Line, Request};
use crate::pool::Progress;

/// How long the librarian may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may say nothing while it does what takes long, such as saving a large registry to a slow disk.
const LONG_PATIENCE: Duration = Duration::from_secs(3600);

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens.
    #[error("the librarian of {dir} is not running: start it with `librarian run --dir {dir}`")]
    NotRunning {
        /// The directory.
        dir: PathBuf,
    },
    /// The connection broke.
    #[error("the librarian of {dir} stopped answering: see its log, then repeat the command")]
    Broken {
        /// The directory.
        dir: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The librarian says no.
    #[error("{0}")]
    Refused(String),
}

/// Asks for one answer.
///
/// # Errors
///
/// [`AskError`] says what to do.
pub fn ask<T: DeserializeOwned>(dir: &Path, request: &Request) -> Result<T, AskError> {
    follow(dir, request, |_| ())
}

/// Asks for one answer that may take long.
///
/// # Errors
///
/// [`AskError`] says what to do.
pub fn ask_patiently<T: DeserializeOwned>(dir: &Path, request: &Request) -> Result<T, AskError> {
    exchange(dir, request, LONG_PATIENCE, |_| ())
}

/// Asks, and is told progress until the answer comes.
///
/// # Errors
///
/// [`AskError`] says what to do.
pub fn follow<T: DeserializeOwned>(
    dir: &Path,
    request: &Request,
    progress: impl FnMut(&Progress),
) -> Result<T, AskError> {
    exchange(dir, request, PATIENCE, progress)
}

fn exchange<T: DeserializeOwned>(
    dir: &Path,
    request: &Request,
    patience: Duration,
    mut progress: impl FnMut(&Progress),
) -> Result<T, AskError> {
    let broken = |source| AskError::Broken {
        dir: dir.to_owned(),
        source,
    };
    let mut stream = match UnixStream::connect(socket_path(dir)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(AskError::NotRunning { dir: dir.to_owned() });
        }
        Err(error) => return Err(broken(error)),
    };
    let limits = stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    limits.map_err(broken)?;
    let mut line = serde_json::to_vec(request).expect("our own words are JSON");
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = lines.by_ref().take(LINE_OCTETS_MAX as u64).read_until(b'\n', &mut line);
        if read.map_err(broken)? == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let unknown = |error| broken(io::Error::new(io::ErrorKind::InvalidData, error));
        match serde_json::from_slice(&line).map_err(unknown)? {
            Line::Progress(news) => progress(&news),
            Line::Done(value) => return serde_json::from_value(value).map_err(unknown),
            Line::Refused(why) => return Err(AskError::Refused(why)),
        }
    }
}
