//! Which processor does what: pins threads, reads processor time.

use anyhow::{Context, Result};
use rustix::thread::CpuSet;

/// Pins the calling thread, and what it starts from now on, to one processor.
///
/// # Errors
///
/// When there is no such processor.
pub(super) fn pin_this_thread(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("pin to processor {cpu}"))
}

/// Threads of `pid` that may run elsewhere than on `cpu`: a server that moved its own workers.
///
/// # Errors
///
/// When the process has ended.
pub(super) fn odd_threads(pid: u32, cpu: usize) -> Result<usize> {
    let mut odd = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).context("list threads")? {
        let status = std::fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        if allowed.is_some_and(|allowed| allowed.trim() != cpu.to_string()) {
            odd += 1;
        }
    }
    Ok(odd)
}

/// Processor time a process has used, user and system, in seconds.
///
/// # Errors
///
/// When the process has ended.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("read stat of {pid}"))?;
    let (_, fields) = stat.rsplit_once(") ").context("read stat")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().context("read stat"))
        .sum::<Result<u64>>()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
