//! Small disks that can be filled: a tmpfs of its own for each agent, and a ballast file. Needs root.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::harness::run;

/// Room on one disk, in mebibytes: several times what a pool's objects need. What is not written takes no memory.
const ROOM_MIB: u32 = 96;
/// What the ballast is written in.
static BLOCK: [u8; 1 << 16] = [0; 1 << 16];

/// A small disk.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a path, which is made.
    ///
    /// # Errors
    ///
    /// Where nothing may be mounted.
    pub fn mount(path: &Path) -> Result<SmallDisk> {
        std::fs::create_dir_all(path).context("make a mount point")?;
        let (options, target) = (format!("size={ROOM_MIB}m"), path.display().to_string());
        run("mount", &["-t", "tmpfs", "-o", &options, "hypernet-chaos", &target])?
            .success()
            .context("mount a small tmpfs: this needs root (or CAP_SYS_ADMIN)")?;
        Ok(SmallDisk { path: path.to_owned() })
    }

    /// The directory of the agent.
    #[must_use]
    pub fn agent_dir(&self) -> PathBuf {
        self.path.join("agent")
    }

    /// Takes all room that is left, but for so many octets.
    ///
    /// # Errors
    ///
    /// When it is not the room that ends.
    pub fn fill(&self, but: u64) -> Result<()> {
        let mut ballast = File::create(self.ballast()).context("make the ballast")?;
        // Blocks first, then what is left of one: the last page is taken too.
        for size in [BLOCK.len(), 4096] {
            loop {
                match ballast.write(&BLOCK[..size]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("write the ballast"),
                }
            }
        }
        let octets = ballast.metadata().context("look at the ballast")?.len();
        ballast
            .set_len(octets.saturating_sub(but))
            .context("shorten the ballast")
    }

    /// Gives the room back.
    ///
    /// # Errors
    ///
    /// When the ballast cannot be removed.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("remove the ballast")
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a killed agent may still be on its way out.
        let _ = run("umount", &["-l", &self.path.display().to_string()]);
    }
}
