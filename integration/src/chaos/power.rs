//! Power cuts: a file system that forgets in one moment all that was not synced, under a whole pool of real processes.
//!
//! The disk is a loop-mounted ext4 that writes its journal back every ten minutes and is shut down without flushing
//! (`EXT4_IOC_SHUTDOWN`): what was fsynced before is there after the next mount, and little else. Needs root.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::clients::{Clients, Workload};
use super::history::History;
use super::rest;
use crate::harness::{Pool, run};

/// Size of the disk, in octets. Sparse: only what is written takes room.
const DISK_OCTETS: u64 = 1 << 30;
/// `_IOR('X', 125, u32)` of the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written.
const NO_LOG_FLUSH: u32 = 2;
/// Shortest and longest time under load before a cut.
const UNDER_LOAD_MS: std::ops::Range<u64> = 700..3_000;

/// A disk whose power can be cut.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    path: PathBuf,
}

impl LoopDisk {
    /// Makes and mounts one in a directory; `None`, with the reason printed, where that is not allowed.
    ///
    /// # Errors
    ///
    /// When the image cannot be made.
    pub fn mount(dir: &Path) -> Result<Option<LoopDisk>> {
        let disk = LoopDisk {
            image: dir.join("disk.ext4"),
            path: dir.join("disk"),
        };
        std::fs::create_dir_all(&disk.path)?;
        let image = File::create(&disk.image).context("make the disk's image")?;
        image.set_len(DISK_OCTETS).context("make the disk's image")?;
        run("mkfs.ext4", &["-q", "-F", &disk.image.display().to_string()])?.success()?;
        match disk.attach() {
            Ok(()) => Ok(Some(disk)),
            Err(error) => {
                println!("skipped: a loop device cannot be mounted here ({error:#})");
                // Nothing is mounted: dropping it would say so.
                std::mem::forget(disk);
                Ok(None)
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn attach(&self) -> Result<()> {
        let (image, path) = (self.image.display().to_string(), self.path.display().to_string());
        run("mount", &["-t", "ext4", "-o", "loop,commit=600", &image, &path])?.success()?;
        Ok(())
    }

    /// Cuts the power: from here on every access fails, and what was not synced is gone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn cut(&self) -> Result<()> {
        let root = File::open(&self.path).context("open the disk")?;
        let flags: u32 = NO_LOG_FLUSH;
        // SAFETY: the request reads one u32 through the pointer, which lives until the call returns; the descriptor is open.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        ensure!(done == 0, "cut the power: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Gives it power again. No process may use it.
    ///
    /// # Errors
    ///
    /// When it cannot be mounted.
    pub fn restore(&self) -> Result<()> {
        run("umount", &[&self.path.display().to_string()])?.success()?;
        self.attach()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: a killed process may still be on its way out.
        let _ = run("umount", &["-l", &self.path.display().to_string()]);
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Cuts {
    /// Decides the moments.
    pub seed: u64,
    /// How often the power is cut.
    pub cuts: u32,
    /// Variables in the environment of all processes, such as one that makes fsync do nothing.
    pub environment: Vec<(String, String)>,
    /// Whether the whole disk is synced once the pool is made: a control that lost the pool itself would show nothing of what
    /// happens to acknowledged writes.
    pub pool_is_synced: bool,
}

/// Cuts the power of a whole pool under load and in the midst of drains; everything acknowledged must be there afterwards.
/// Returns the operations with a known end.
///
/// # Errors
///
/// A violation, or a pool that does not come back.
pub fn cut_power(cuts: &Cuts, disk: &LoopDisk, program: &Path) -> Result<usize> {
    let mut builder = Pool::builder(program)
        .servers(3)
        .log("info")
        .dir(&disk.path().join("pool"))
        .agent_setting("store.capacity", "128MiB")
        .agent_setting("store.volume_step", "4MiB");
    for (name, value) in &cuts.environment {
        builder = builder.environment(name, value);
    }
    let mut pool = builder.start()?;
    let dir = pool.add_client("cut", &["read:*", "write:*"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime")?;
    let objects = 40;
    let clients = Arc::new(Clients::new(&dir, History::new())?);
    runtime.block_on(clients.create(objects))?;
    if cuts.pool_is_synced {
        run("sync", &["--file-system", &disk.path().display().to_string()])?.success()?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let workload = Workload {
        seed: cuts.seed,
        clients: 6,
        objects,
    };
    let working = runtime.spawn(Arc::clone(&clients).work(workload, Arc::clone(&stop)));
    let mut random = SmallRng::seed_from_u64(cuts.seed);
    let names: Vec<String> = pool.servers().iter().map(|server| server.name.clone()).collect();
    for cut in 0..cuts.cuts {
        let draining = &names[cut as usize % 2];
        let mut drain = pool.librarian_command(&["drain", draining]);
        let mut drain = drain
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .context("start a drain")?;
        std::thread::sleep(Duration::from_millis(random.random_range(UNDER_LOAD_MS)));
        disk.cut()?;
        // Whoever still runs sees a dead disk; after a real cut nobody would run.
        pool.kill_librarian()?;
        for name in &names {
            pool.kill_server(name)?;
        }
        drain.kill().context("end the drain's command")?;
        drain.wait().context("end the drain's command")?;
        disk.restore()?;
        pool.start_librarian()?;
        for name in &names {
            pool.start_server(name)?;
        }
    }
    stop.store(true, Ordering::Release);
    runtime.block_on(working).context("the clients' task")??;
    rest(&pool).context("come to rest after the cuts")?;
    runtime
        .block_on(clients.read_all())
        .context("read every object at the end")?;
    clients.history().judge()?;
    Ok(clients.history().counts().0)
}
