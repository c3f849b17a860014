//! A folder of small files that two processes of different rights share.
//!
//! The installer may be root, and the folder the agent's: so no link is ever followed, neither as the folder nor in it, nothing
//! but a plain file is read, no more than a bound of it, and a file is written as a new one that then takes the old one's place,
//! durable on return.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdir, open, openat, renameat, unlinkat,
};

/// Longest file, in octets: all of them are short.
pub const FILE_OCTETS_MAX: u64 = 32 << 10;

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    dir: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder that is there.
    ///
    /// # Errors
    ///
    /// The system's; a link is `NotADirectory`.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Folder {
            dir: open(path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// Opens a folder, and makes it for this user only if it is not there. The folder above must be there.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn make(path: &Path) -> io::Result<Folder> {
        match mkdir(path, Mode::RWXU) {
            Ok(()) => {
                if let Some(above) = path.parent() {
                    File::open(above)?.sync_all()?;
                }
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Folder::open(path)
    }

    /// Keeps other processes from locking it, as long as this value lives. Locking again is no error.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where another process has it.
    pub fn lock(&self) -> io::Result<()> {
        Ok(flock(&self.dir, FlockOperation::NonBlockingLockExclusive)?)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a file holds; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The system's, and `InvalidData` for what is no plain file, or longer than [`FILE_OCTETS_MAX`].
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // A pipe without writer would be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is {what}: remove it"));
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(invalid("no plain file"));
        }
        let mut octets = Vec::new();
        File::from(file).take(FILE_OCTETS_MAX + 1).read_to_end(&mut octets)?;
        if octets.len() as u64 > FILE_OCTETS_MAX {
            return Err(invalid("too long"));
        }
        Ok(Some(octets))
    }

    /// Writes a file, whole or not at all, durable on return. Everybody who gets into the folder may read it: the agent reads
    /// what root wrote.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn write(&self, name: &str, octets: &[u8]) -> io::Result<()> {
        let new = format!(".{name}.new");
        self.unlink(&new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = openat(&self.dir, &new, flags, mode)?;
        fchmod(&file, mode)?;
        let mut file = File::from(file);
        file.write_all(octets)?;
        file.sync_all()?;
        renameat(&self.dir, &new, &self.dir, name)?;
        self.sync()
    }

    /// Removes a file, durable on return; none is no error.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.unlink(name)?;
        self.sync()
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn file_reads_back_and_is_gone_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::make(&dir.path().join("upgrade")).unwrap();
        assert_eq!(folder.read("a").unwrap(), None);
        folder.write("a", b"one").unwrap();
        folder.write("a", b"two").unwrap();
        assert_eq!(folder.read("a").unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        folder.remove("a").unwrap();
        folder.remove("a").unwrap();
        assert_eq!(folder.read("a").unwrap(), None);
    }

    #[test]
    fn link_is_not_followed_by_reading_or_writing() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "root's").unwrap();
        let folder = Folder::make(&dir.path().join("upgrade")).unwrap();
        for name in ["a", ".a.new"] {
            symlink(&secret, folder.path().join(name)).unwrap();
        }
        assert!(folder.read("a").is_err());
        folder.write("a", b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "root's");
        assert_eq!(folder.read("a").unwrap().as_deref(), Some(&b"new"[..]));
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(Folder::make(&link).is_err());
    }

    #[test]
    fn what_is_no_short_plain_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::make(&dir.path().join("upgrade")).unwrap();
        let octets = usize::try_from(FILE_OCTETS_MAX).unwrap() + 1;
        std::fs::write(folder.path().join("long"), vec![b' '; octets]).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.path().join("pipe"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        for name in ["long", "pipe"] {
            let refused = folder.read(name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{name}");
        }
    }
}
