//! When a server that was started answers for the first time, and how cold its files are.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};

use super::set::LOCAL;

/// How long a server needs from its start to its first answer from the zone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// Time since the start of the process.
    pub(super) after: Duration,
    /// Processor time that it has used by then, in seconds.
    pub(super) cpu_s: f64,
}

/// How long one try waits for an answer, and after an error before the next.
const TRY: Duration = Duration::from_millis(5);

/// Whether a server answers `question` with authority and records, within some milliseconds.
///
/// # Errors
///
/// When there is no socket to be had.
pub(super) fn ask_once(server: SocketAddr, question: &[u8]) -> Result<bool> {
    let socket = UdpSocket::bind((LOCAL, 0)).context("make a socket")?;
    socket.connect(server).context("connect a socket")?;
    socket.set_read_timeout(Some(TRY)).context("set a socket")?;
    let mut answer = [0; 1500];
    let heard = socket.send(question).and_then(|_| socket.recv(&mut answer));
    match heard {
        // The flag AA, NOERROR, an answer.
        Ok(12..) if answer[2] & 0x04 != 0 && answer[3] & 0x0f == 0 && answer[6..8] != [0, 0] => Ok(true),
        // A wait in the system is a few milliseconds long whatever was asked for.
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
        // Not yet listening, or not yet loaded.
        Ok(_) | Err(_) => {
            std::thread::sleep(TRY);
            Ok(false)
        }
    }
}

/// Writes all files below `dir` to the disk and drops them from the page cache, as if the machine had just started.
///
/// # Errors
///
/// When one cannot be opened or written.
pub(super) fn evict(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            evict(&entry.path())?;
        } else if kind.is_file() {
            let file = File::open(entry.path()).with_context(|| format!("open {}", entry.path().display()))?;
            file.sync_all().context("write a file to the disk")?;
            fadvise(&file, 0, None, Advice::DontNeed).context("drop a file from the page cache")?;
        }
    }
    Ok(())
}
