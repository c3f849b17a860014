//! Files that hold keys: for this user only, durable, whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

/// Makes a directory for this user only; one that is there stays as it is.
pub(super) fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make the directory {}", path.display()))
}

/// Writes a file for this user only, durable on return; takes the place of one that is there.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let parent = path.parent().unwrap_or(Path::new("."));
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = parent.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(parent)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Standard input or output, without buffers between.
pub(super) fn standard(stream: impl AsFd) -> anyhow::Result<tokio::fs::File> {
    let descriptor = stream
        .as_fd()
        .try_clone_to_owned()
        .context("use standard input and output")?;
    Ok(tokio::fs::File::from_std(File::from(descriptor)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn key_file_is_for_its_owner_only_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("a/b");
        make_directory(&keys).unwrap();
        let path = keys.join("s2.key");
        write(&path, "long first text").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
    }
}
