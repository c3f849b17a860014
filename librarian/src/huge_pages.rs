//! Memory in pages of 2 MiB where the system has them.
//!
//! Each question looks at a few places among all registers. With pages of 4 KiB a processor has to find out first where each of
//! these lies, which takes longer than to read it, above all in a virtual machine. The GNU C library's allocator asks for huge pages
//! (Linux: `transparent_hugepage/enabled` is `madvise`, the usual, or `always`) if it is told to when the program begins, and only
//! its environment can tell it: `glibc.malloc.hugetlb` since glibc 2.35, "Memory Allocation Tunables" in its manual.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE_PAGES: &str = "glibc.malloc.hugetlb";
/// Set for the program that was begun anew. A program that has more rights than who starts it (by file capabilities, say) never sees
/// tunables, and would be begun anew for ever.
const ANEW: &str = "HYPERNET_LIBRARIAN_ANEW";

/// Begins this program anew, as the same process, with memory in huge pages; returns where that is so, is of no use, or is set
/// otherwise by whoever started it (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0`).
///
/// To be called before anything else is done.
///
/// # Errors
///
/// When the system does not begin it anew; nothing is lost but speed.
pub(crate) fn prefer() -> io::Result<()> {
    let is_of_use = cfg!(target_env = "gnu") && env::var_os(ANEW).is_none();
    let tunables = env::var_os(TUNABLES).unwrap_or_default();
    let Some(tunables) = with_huge_pages(&tunables).filter(|_| is_of_use) else {
        return Ok(());
    };
    let mut words = env::args_os();
    // By its own path: what lists processes shows the last part of it.
    let mut again = Command::new(env::current_exe()?);
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    let error = again.args(words).env(TUNABLES, tunables).env(ANEW, "1").exec();
    // Before it begins a program the standard library lets writing to whoever is gone end the process, as other programs expect;
    // this one goes on.
    // SAFETY: no handler is installed, and no other thread is there yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    Err(error)
}

/// Tunables with huge pages, unless they say something of these.
fn with_huge_pages(tunables: &OsStr) -> Option<OsString> {
    let mut settings = tunables.as_bytes().split(|octet| *octet == b':');
    if settings.any(|setting| {
        setting
            .strip_prefix(HUGE_PAGES.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"="))
    }) {
        return None;
    }
    let mut with = tunables.to_owned();
    if !with.is_empty() {
        with.push(":");
    }
    with.push(HUGE_PAGES);
    with.push("=1");
    Some(with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_added_to_what_the_operator_set_and_never_set_against_it() {
        let with = |tunables: &str| with_huge_pages(OsStr::new(tunables));
        assert_eq!(with(""), Some("glibc.malloc.hugetlb=1".into()));
        assert_eq!(
            with("glibc.malloc.arena_max=2"),
            Some("glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1".into())
        );
        assert_eq!(with("glibc.malloc.hugetlb=0"), None);
        assert_eq!(with("glibc.malloc.arena_max=2:glibc.malloc.hugetlb=2"), None);
        assert_eq!(
            with("glibc.malloc.hugetlb_x=0"),
            Some("glibc.malloc.hugetlb_x=0:glibc.malloc.hugetlb=1".into())
        );
    }
}
