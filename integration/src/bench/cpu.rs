//! Which processor and which process does what: pins threads; reads processor time, memory and who listens on a port.

use std::collections::HashSet;

use anyhow::{Context, Result};
use rustix::thread::CpuSet;

use crate::harness::children;

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

/// `pid` and all that it started, directly or not: some servers are several processes.
#[must_use]
pub(super) fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&pid) = family.get(next) {
        family.extend(children(pid));
        next += 1;
    }
    family
}

/// Processor time of a whole [`family`], in seconds.
///
/// # Errors
///
/// When one of them ends meanwhile.
pub(super) fn family_cpu_seconds(pid: u32) -> Result<f64> {
    family(pid).into_iter().map(cpu_seconds).sum()
}

/// Memory of a whole [`family`] in octets, what several of them share counted once (Pss).
///
/// # Errors
///
/// When one of them ends meanwhile.
pub(super) fn family_memory(pid: u32) -> Result<u64> {
    let each = family(pid).into_iter().map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("read the memory of process {pid}"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let value = value.context("find the field")?.trim().trim_end_matches(" kB");
        Ok(value.parse::<u64>().context("read the field")? * 1024)
    });
    each.sum()
}

/// Whether every UDP socket bound to `port` belongs to the family of `pid`: with SO_REUSEPORT two servers can share one
/// port unnoticed, each with a part of the questions.
///
/// # Errors
///
/// When the system does not say.
pub(super) fn listens_alone(port: u16, pid: u32) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/net/udp").context("list sockets")?;
    let bound = sockets_at(&table, port);
    let mut own = HashSet::new();
    for pid in family(pid) {
        for file in std::fs::read_dir(format!("/proc/{pid}/fd")).context("list open files")? {
            let target = std::fs::read_link(file?.path()).unwrap_or_default();
            own.insert(target.to_string_lossy().into_owned());
        }
    }
    let mine = |inode: &&str| own.contains(&format!("socket:[{inode}]"));
    Ok(!bound.is_empty() && bound.iter().all(mine))
}

/// Inodes of the sockets at `port` in the text of /proc/net/udp.
fn sockets_at(table: &str, port: u16) -> Vec<&str> {
    let port = format!(":{port:04X}");
    let lines = table.lines().skip(1).map(str::split_whitespace);
    let at_port = lines.filter(|fields| fields.clone().nth(1).is_some_and(|local| local.ends_with(&port)));
    at_port.filter_map(|mut fields| fields.nth(9)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_a_port_are_found_by_their_inodes() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            1: 0100007F:3039 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 501 2 0 0\n\
            2: 0100007F:303A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 502 2 0 0\n\
            3: 0100007F:3039 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 503 2 0 0\n";
        assert_eq!(sockets_at(table, 12_345), ["501", "503"]);
    }

    #[test]
    fn one_that_listens_is_told_from_one_that_shares() -> Result<()> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let port = socket.local_addr()?.port();
        assert!(listens_alone(port, std::process::id())?);
        drop(socket);
        assert!(!listens_alone(port, std::process::id())?);
        Ok(())
    }
}
