//! The one way from the store to disk.
//!
//! Everything that is durable goes through [`Disk`] and [`DiskFile`], so that a test can lose unsynced writes, tear them
//! or fill the disk. A file's content is durable after [`DiskFile::sync_data`], its name after [`Disk::sync_folder`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FlockOperation, fadvise, fallocate, flock, statvfs};

/// Folder of the volumes.
pub const VOLUMES: &str = "volumes";

/// A directory tree of one agent. Names are relative, parts joined by `/`.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file, making it if it is not there; the name is durable after [`Disk::sync_folder`] of its folder.
    ///
    /// # Errors
    ///
    /// The system's.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names in a folder, sorted; empty when there is no such folder.
    ///
    /// # Errors
    ///
    /// The system's.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Reads a small file whole.
    ///
    /// # Errors
    ///
    /// The system's.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Puts a small file in the place of another, or of none, in one step; durable on return. Only this user may read it.
    ///
    /// # Errors
    ///
    /// The system's; the old file is then still there.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Makes the names of a folder durable.
    ///
    /// # Errors
    ///
    /// The system's.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Octets that files of this folder can still grow by.
    ///
    /// # Errors
    ///
    /// The system's.
    fn available(&self, folder: &str) -> io::Result<u64>;
}

/// One open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Its length in octets.
    ///
    /// # Errors
    ///
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no octets.
    ///
    /// # Errors
    ///
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts it, or lengthens it by zeros.
    ///
    /// # Errors
    ///
    /// The system's.
    fn set_len(&self, octets: u64) -> io::Result<()>;

    /// Reads exactly `out.len()` octets.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` past the end, or the system's.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `octets`.
    ///
    /// # Errors
    ///
    /// The system's; any part may have been written.
    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()>;

    /// Makes all that was written durable, length included.
    ///
    /// # Errors
    ///
    /// The system's. What was written since the last success may then be lost, and a later success says nothing of it.
    fn sync_data(&self) -> io::Result<()>;

    /// Sets disk space aside for a range, so that writing there does not fail for want of it.
    ///
    /// # Errors
    ///
    /// The system's.
    fn allocate(&self, offset: u64, octets: u64) -> io::Result<()>;

    /// Drops the system's cached copy of a range that is durable, so that the next read comes from the disk.
    fn forget_cached(&self, offset: u64, octets: u64);
}

/// The real disk.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    volumes: PathBuf,
    /// Held while this value lives: one process at a time.
    _lock: File,
}

impl RealDisk {
    /// Takes an agent's directory for this process, with its volumes in `dir/volumes`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if another process has it, or the system's.
    pub fn open(dir: &Path) -> io::Result<RealDisk> {
        RealDisk::with_volumes(dir, &dir.join(VOLUMES))
    }

    /// The same with the volumes elsewhere.
    ///
    /// # Errors
    ///
    /// As [`RealDisk::open`].
    pub fn with_volumes(dir: &Path, volumes: &Path) -> io::Result<RealDisk> {
        fs::create_dir_all(dir)?;
        fs::create_dir_all(volumes)?;
        let lock = private().create(true).truncate(false).open(dir.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            if errno == rustix::io::Errno::WOULDBLOCK {
                io::Error::new(
                    io::ErrorKind::WouldBlock,
                    format!("{} is in use by another agent process: stop it first", dir.display()),
                )
            } else {
                errno.into()
            }
        })?;
        Ok(RealDisk {
            dir: dir.to_owned(),
            volumes: volumes.to_owned(),
            _lock: lock,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        match name.strip_prefix(VOLUMES) {
            Some("") => self.volumes.clone(),
            Some(rest) => self.volumes.join(rest.trim_start_matches('/')),
            None => self.dir.join(name),
        }
    }
}

/// Files that only this user may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = private().create(true).truncate(false).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let fresh = path.with_extension("new");
        let written = (|| {
            let file = private().create(true).truncate(true).open(&fresh)?;
            file.write_all_at(content, 0)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        })();
        if written.is_err() {
            // It may hold keys, and a full disk needs its room.
            let _ = fs::remove_file(&fresh);
        }
        written?;
        File::open(path.parent().unwrap_or(&self.dir))?.sync_all()
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.path(folder))?.sync_all()
    }

    fn available(&self, folder: &str) -> io::Result<u64> {
        let stat = statvfs(self.path(folder))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, octets: u64) -> io::Result<()> {
        self.0.set_len(octets)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.0.write_all_at(octets, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, offset: u64, octets: u64) -> io::Result<()> {
        match fallocate(&self.0, rustix::fs::FallocateFlags::empty(), offset, octets) {
            Ok(()) => Ok(()),
            // Not every file system can; writing then tells.
            Err(errno) if errno == rustix::io::Errno::OPNOTSUPP => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn forget_cached(&self, offset: u64, octets: u64) {
        // Advice only: a file system that ignores it costs the read-back its proof, not its answer.
        let _ = fadvise(&self.0, offset, std::num::NonZeroU64::new(octets), Advice::DontNeed);
    }
}
